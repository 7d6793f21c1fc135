"""Train the classifier on MNIST and look at what its memories have become.

```
python benchmarks/train_classifier.py n3 --validate   # 50,000 to train, 10,000 to choose by
python benchmarks/train_classifier.py n3              # all 60,000; the test set, once
python benchmarks/train_classifier.py --collect       # keep what finished runs found; draw it
python benchmarks/train_classifier.py --draw          # figure and table of what is kept
```

The settings of each model are below; they were chosen by runs with `--validate`. A run writes a
checkpoint after every epoch and goes on from it if it was killed.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax.random as jr
import numpy as np
import optax
from machine import describe
from theory_figures import table

import amlib as am
from amlib._intervals import wilson

RESULTS = Path(__file__).parent / "results"
NUMBERS, MEMORIES = RESULTS / "train_classifier.json", RESULTS / "classifier_memories.npz"
COLUMNS = 12
ONE = "memories with one label weight > 0.5"
READING = """Errors are of the 10,000 test pictures, asked once, with 95 % intervals (Wilson). *One
class*: the share of memories with one label weight above .5 and no other (published for n = 30:
more than 40 %). *Without a rival*: pictures for which no second memory reaches .9 of the strongest
F (published for n = 30: more than 80 %). The memories of low powers are
features that vote for and against many classes; those of high powers are prototypes of one. That
few pictures have a rival is so at all powers here, also for n = 2.

The grain that is left at the borders for n = 2 and 3 is that of the start: those pixels are the
same in all pictures, so that all of them move together, and nothing tells one from another.

As published: weights begin with mean -.3 and deviation .3, batches of 1,000, a rate that falls by
.998 an epoch, for n = 2 and 3 a temperature that falls for 200 epochs, for n = 20 and 30 a loss of
the 60th power; and 3,000 epochs, but K = 200 and not 2,000. Chosen among 5 to 11 (n = 2, 3) and 3
settings by the error on 10,000 training pictures set aside, after 300 to 600 epochs. `n3` (the
first row) is another training, of 2,000 memories from mean 0 at one temperature."""


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
    "n2-small": Setting(2, 200, 30.0, 4, 0.02, 0.998, 3000, mean=-0.3, warm=300.0),
    "n3-small": Setting(3, 200, 100.0, 4, 0.03, 0.998, 3000, mean=-0.3, warm=300.0),
    "n20-small": Setting(20, 200, 540.0, 30, 0.04, 0.998, 3000, 0.6, mean=-0.3),
    "n30-small": Setting(30, 200, 540.0, 30, 0.02, 0.998, 3000, mean=-0.3),
}


def data(validate: bool):
    """Training data, and what the error is measured on."""
    images, labels = am.data.mnist("train")
    if not validate:
        return (images, labels), am.data.mnist("test")
    order = np.random.default_rng(0).permutation(len(labels))
    kept, aside = order[:50_000], order[50_000:]
    return (images[kept], labels[kept]), (images[aside], labels[aside])


def shares(model: am.learning.DenseAMClassifier, images: np.ndarray) -> dict[str, Any]:
    """How the memories share the work, over pictures."""
    W = np.asarray(model.pixel_weights, float).reshape(len(model.pixel_weights), -1)
    L = np.asarray(model.label_weights)
    base = np.maximum(images.reshape(len(images), -1) @ W.T - L.sum(axis=1), 0)
    strength = (base / base.max(axis=1, keepdims=True)) ** model.n
    second = np.sort(strength, axis=1)[:, -2]
    count = (L > 0.5).sum(axis=1), (L > 0.99).sum(axis=1)
    return {
        "votes": {
            ONE: round(float((count[0] == 1).mean()), 4),
            "memories with no label weight > 0.5": round(float((count[0] == 0).mean()), 4),
            "memories with one label weight > 0.99": round(float((count[1] == 1).mean()), 4),
        },
        "pictures without a rival memory": round(float((second < 0.9).mean()), 4),
    }


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
        "machine": describe(),
    } | shares(result.model, np.asarray(images[:10_000]))
    am.save(folder / f"{name}{'-validate' if validate else ''}.model", result.model)
    out = folder / f"{name}{'-validate' if validate else ''}.json"
    out.write_text(json.dumps(numbers, indent=1) + "\n")
    print(json.dumps({k: v for k, v in numbers.items() if k not in ("loss", "machine")}, indent=1))


def collect(folder: Path) -> None:
    """Keep of all finished runs the numbers, and of the small ones the memories that are drawn."""
    rows = json.loads(NUMBERS.read_text())
    kept = dict(np.load(MEMORIES)) if MEMORIES.exists() else {}
    images = np.asarray(am.data.mnist("test").images)
    for name, setting in SETTINGS.items():
        if not (folder / f"{name}.json").exists():
            continue
        rows[name] = json.loads((folder / f"{name}.json").read_text())
        model = am.load(folder / f"{name}.model", made(setting))
        rows[name] |= shares(model, images)
        if not name.endswith("small"):
            continue
        pixels, labels = np.asarray(model.pixel_weights), np.asarray(model.label_weights)
        winners = (images.reshape(-1, 784) @ pixels.reshape(-1, 784).T).argmax(axis=1)
        used = np.argsort(-np.bincount(winners, minlength=len(pixels)))[:COLUMNS]
        for part, weights in (("pixels", pixels), ("labels", labels)):
            kept[f"{name} {part}"] = np.round(127 * weights[used]).astype(np.int8)
    NUMBERS.write_text(json.dumps(rows, indent=1) + "\n")
    np.savez_compressed(MEMORIES, **kept)


def draw() -> None:
    """The memories that win most test pictures, of each small model, and the page of all."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows, kept = json.loads(NUMBERS.read_text()), np.load(MEMORIES)
    names = [n for n in SETTINGS if n.endswith("small")]
    figure, axes = plt.subplots(
        2 * len(names), COLUMNS, figsize=(COLUMNS, 1.3 * len(names) + 0.8), facecolor="white",
        height_ratios=[10, 2] * len(names), layout="constrained",
    )  # fmt: skip
    alike = {"cmap": "RdBu_r", "vmin": -1, "vmax": 1}
    for row, name in enumerate(names):
        for column in range(COLUMNS):
            top, below = axes[2 * row : 2 * row + 2, column]
            shown = top.imshow(kept[f"{name} pixels"][column] / 127, **alike)
            below.imshow(kept[f"{name} labels"][column : column + 1] / 127, aspect="auto", **alike)
            for ax in (top, below):
                ax.set(xticks=[], yticks=[])
        axes[2 * row, 0].set_ylabel(f"n = {rows[name]['setting']['n']}", fontsize=12)
    figure.colorbar(shown, ax=axes[:, -1], label="weight", shrink=0.5, ticks=[-1, 0, 1])
    figure.suptitle(
        "From features to prototypes: the memories that win most MNIST test pictures\n"
        "K = 200, D = 784, published training, 3,000 epochs; below each, its votes for 0 to 9",
        fontsize=11,
    )
    figure.savefig(RESULTS / "classifier_memories.png", dpi=90)
    page(rows, names)


def page(rows: dict[str, Any], names: list[str]) -> None:
    """Write the table."""
    columns = {
        "n": lambda r: r["setting"]["n"], "K": lambda r: r["setting"].get("K", 2000),
        "test error, %": error, "training error, %": lambda r: r["training error %"],
        "one class": lambda r: f"{100 * r['votes'][ONE]:.1f} %",
        "without a rival": lambda r: f"{100 * r['pictures without a rival memory']:.1f} %",
        "epochs": lambda r: r["epochs"],
    }  # fmt: skip
    lines = [[of(rows[name]) for of in columns.values()] for name in ["n3", *names]]
    settings = [f"- `{n}`: " + ", ".join(
        f"{k} {v}" for k, v in rows[n]["setting"].items() if v is not None and k not in ("n", "K")
    ) for n in names]  # fmt: skip
    (RESULTS / "train_classifier.md").write_text(
        "# The classifier of 2016 on MNIST\n\n![Memories](classifier_memories.png)\n\n"
        + table(list(columns), lines) + "\n\n" + READING + "\n\n" + "\n".join(settings) + "\n\n"
        + "\n".join(sorted({rows[n]["machine"] for n in ["n3", *names]}))
    )  # fmt: skip


def error(row: dict[str, Any]) -> str:
    """The error on the 10,000 test pictures and its interval."""
    low, high = wilson(1 - row["error %"] / 100, 10_000)
    return f"{row['error %']} ({100 - 100 * high:.2f} to {100 - 100 * low:.2f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=SETTINGS, nargs="?")
    parser.add_argument("--collect", action="store_true")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--validate", action="store_true")
    parser.add_argument("--folder", type=Path, default=Path("classifier-runs"))
    args = parser.parse_args()
    if args.collect or args.draw:
        if args.collect:
            collect(args.folder)
        draw()
    elif args.name is None:
        parser.error("name a model, --collect or --draw")
    else:
        args.folder.mkdir(exist_ok=True)
        run(args.name, args.validate, args.folder)
