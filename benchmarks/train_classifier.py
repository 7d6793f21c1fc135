"""Train the classifier on MNIST and look at what its memories have become.

```
python benchmarks/train_classifier.py n3 --validate   # 50,000 to train, 10,000 to choose by
python benchmarks/train_classifier.py n3              # all 60,000; the test set, once
python benchmarks/train_classifier.py --collect       # figure and table of all finished runs
```

The settings of each model are below; they were chosen by runs with `--validate`. A run writes a
checkpoint after every epoch and goes on from it if it was killed.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import jax.random as jr
import numpy as np
import optax
from machine import describe

import amlib as am

RESULTS = Path(__file__).parent / "results"


class Setting(NamedTuple):
    """How one model is made and trained."""

    n: int
    K: int
    temperature: float
    m: int
    rate: float
    decay: float
    epochs: int
    momentum: float = 0.8
    batch: int = 1000
    mean: float = 0.0
    warm: float | None = None
    """The temperature at the start, which falls to the other over the first 200 epochs."""


SETTINGS = {
    "n3": Setting(3, 2000, 40.0, 2, 0.02, 0.94, 46, batch=250),
    # What the power does to the memories: equally many, trained as published.
    "n2-small": Setting(2, 200, 60.0, 2, 0.02, 0.998, 3000, mean=-0.3, warm=300.0),
    "n3-small": Setting(3, 200, 60.0, 2, 0.02, 0.998, 3000, mean=-0.3, warm=300.0),
    "n20-small": Setting(20, 200, 540.0, 30, 0.04, 0.998, 3000, 0.6, mean=-0.3),
    "n30-small": Setting(30, 200, 540.0, 30, 0.04, 0.998, 3000, 0.6, mean=-0.3),
}


def data(validate: bool):
    """Training data, and what the error is measured on."""
    images, labels = am.data.mnist("train")
    if not validate:
        return (images, labels), am.data.mnist("test")
    order = np.random.default_rng(0).permutation(len(labels))
    kept, aside = order[:50_000], order[50_000:]
    return (images[kept], labels[kept]), (images[aside], labels[aside])


def votes(model) -> dict[str, float]:
    """How many classes the memories vote for, and how many memories decide a picture."""
    shares = {}
    for least in (0.5, 0.99):
        count = np.asarray((model.label_weights > least).sum(axis=1))
        shares[f"memories with one label weight > {least}"] = round(float((count == 1).mean()), 4)
        shares[f"memories with no label weight > {least}"] = round(float((count == 0).mean()), 4)
    return shares


def rivals(model, images) -> float:
    """The share of pictures for which no other memory reaches 0.9 of the strongest F."""
    W = np.asarray(model.pixel_weights).reshape(len(model.pixel_weights), -1)
    base = np.asarray(images).reshape(len(images), -1) @ W.T
    base -= np.asarray(model.label_weights).sum(axis=1)
    top = np.sort(np.maximum(base, 0), axis=1)[:, -2:]
    return float(np.mean((top[:, 0] / top[:, 1]) ** model.n < 0.9))


def made(setting: Setting) -> am.learning.DenseAMClassifier:
    """The model before its training."""
    start = setting.temperature if setting.warm is None else setting.warm
    return am.learning.DenseAMClassifier(
        setting.K, n=setting.n, temperature=start, mean=setting.mean, key=jr.key(0)
    )


def run(name: str, validate: bool, folder: Path) -> None:
    """Train one model, measure it, and keep its weights and numbers in the folder."""
    setting = SETTINGS[name]
    training, held = data(validate)
    steps = len(training[1]) // setting.batch
    model = made(setting)
    rate = optax.exponential_decay(setting.rate, steps, setting.decay, staircase=True)
    warmth = None
    if setting.warm is not None:
        warmth = optax.linear_schedule(setting.warm, setting.temperature, 200 * steps)
    file = folder / f"{name}{'-validate' if validate else ''}.ckpt"
    start = time.process_time()
    result = am.fit(
        model,
        training,
        am.learning.PowerLoss(setting.m),
        am.learning.krotov_hopfield(rate, setting.momentum, temperature=warmth),
        setting.epochs,
        setting.batch,
        jr.key(1),
        checkpoint=file,
    )
    cpu = time.process_time() - start
    images, labels = held
    numbers = {
        "setting": setting._asdict(),
        "measured on": "10,000 training pictures set aside" if validate else "the test set, once",
        "error %": round(100 * (1 - result.model.score(images, labels)), 2),
        "training error %": round(100 * (1 - result.model.score(*training)), 2),
        "result": str(result.result),
        "epochs": result.epoch,
        "wall seconds": round(float(result.history["seconds"].sum())),
        "CPU seconds of the last process": round(cpu),
        "loss": [round(float(x), 5) for x in result.history["loss"]],
        "votes": votes(result.model),
        "pictures without a rival memory": round(rivals(result.model, images[:10_000]), 4),
        "machine": describe(),
    }
    am.save(folder / f"{name}{'-validate' if validate else ''}.model", result.model)
    out = folder / f"{name}{'-validate' if validate else ''}.json"
    out.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps({k: v for k, v in numbers.items() if k not in ("loss", "machine")}, indent=1))


def picture(folder: Path, names: list[str]) -> None:
    """The memories that win most test pictures, of each model: pixels above, labels below."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    images = np.asarray(am.data.mnist("test").images).reshape(-1, 784)
    figure, axes = plt.subplots(
        2 * len(names), 12, figsize=(12, 1.35 * len(names) + 0.1),
        height_ratios=[10, 2] * len(names), layout="constrained",
    )  # fmt: skip
    for row, name in enumerate(names):
        setting = SETTINGS[name]
        like = am.learning.DenseAMClassifier(
            setting.K, n=setting.n, temperature=setting.temperature, key=jr.key(0)
        )
        model = am.load(folder / f"{name}.model", like)
        winners = (images @ np.asarray(model.pixel_weights).reshape(-1, 784).T).argmax(axis=1)
        used = np.argsort(-np.bincount(winners, minlength=setting.K))[:12]
        for column, k in enumerate(used):
            top, below = axes[2 * row : 2 * row + 2, column]
            top.imshow(model.pixel_weights[k], cmap="RdBu_r", vmin=-1, vmax=1)
            below.imshow(
                model.label_weights[k][None], cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto"
            )
            for ax in (top, below):
                ax.set(xticks=[], yticks=[])
        axes[2 * row, 0].set_ylabel(f"n = {setting.n}\nK = {setting.K}")
    figure.savefig(RESULTS / "classifier_memories.png", dpi=110)


def table(folder: Path, names: list[str]) -> None:
    """Write the figure, and the numbers of all finished runs as one file."""
    rows = {name: json.loads((folder / f"{name}.json").read_text()) for name in names}
    (RESULTS / "train_classifier.json").write_text(json.dumps(rows, indent=1) + "\n")
    picture(folder, names)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETTINGS, nargs="?")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("classifier-runs"))
    args = parser.parse_args()
    args.folder.mkdir(exist_ok=True)
    if args.collect:
        table(args.folder, [n for n in SETTINGS if (args.folder / f"{n}.json").exists()])
    elif args.name is None:
        parser.error("name a model, or --collect")
    else:
        run(args.name, args.validate, args.folder)
