"""Train Energy Transformers to complete and to classify pictures, and compare.

    python benchmarks/train_energy_transformer.py baselines mnist
    python benchmarks/train_energy_transformer.py complete mnist --models et block --seeds 0 1
    python benchmarks/train_energy_transformer.py complete icons --models et block --seeds 0 1
    python benchmarks/train_energy_transformer.py classify --epochs 10 --batch 50 --rate 0.004
    python benchmarks/train_energy_transformer.py backward
    python benchmarks/report_energy_transformer.py

The published loss and schedule, scaled down to minutes on two cores: AdamW (0.9, 0.99) with weight
decay 0.05, clipped at norm 1, a cosine from a thousandth of the peak rate and back with 2 % of
warm-up; hidden and shown patches in the published shares (22 and 2 of 49). The block has 64
features, 2 heads of width 16 and 128 memories, 12 steps of 0.1. Positions begin as sines and
cosines of the place: from the published noise, blocks of energy were still at the mean picture
after 16,000 digits.

It is compared, on held-out pictures with 25 of 49 patches hidden (the published 100 of 196), with
the mean picture, with the training picture that is nearest on the patches that are shown, and with
a standard transformer block (pre-normalised, attention with values and output, GELU with 128 hidden
units: more weights) between the same encoder and decoder, trained by the same optimiser on the same
pictures: `block`, applied once, and `looped`, 12 times with the same weights. `et_long` is an
Energy Transformer for three epochs.

Each run goes into `results/energy_transformer.json`, its weights into the folder of `--weights`;
`report_energy_transformer.py` makes the page and its pictures of what is there. The long training,
`classify`, keeps a checkpoint there: the same call goes on from it.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from machine import describe, seconds
from optax.contrib import MuonDimensionNumbers

import amlib as am

RESULTS = Path(__file__).parent / "results"
FILE = RESULTS / "energy_transformer.json"
SIZES = {"features": 64, "heads": 2, "head_width": 16, "memories": 128}
STEPS = (0, 1, 2, 4, 6, 8, 10, 12, 14, 16, 20, 24, 36, 48, 96)


class Pictures(NamedTuple):
    """Training and held-out pictures of mean 0 and variance 1 over all pixels of the training."""

    train: jax.Array
    held_out: jax.Array
    patch: int
    mean: float
    std: float

    def ink(self, x: Any) -> np.ndarray:
        """Pixels as shares of ink, 0 to 1."""
        return (np.asarray(x) * self.std + self.mean + 1) / 2

    def hidden(self) -> jax.Array:
        """Which patches of the held-out pictures are hidden: the published share."""
        n = int(np.prod([s // self.patch for s in self.held_out.shape[1:]]))
        keys = jr.split(jr.key(2026), len(self.held_out))
        return jax.vmap(lambda key: jr.permutation(key, n) < round(n * 100 / 196))(keys)


@functools.cache
def pictures(name: str) -> Pictures:
    """MNIST (every tenth picture of its test file is held out), or the icons (500 are)."""
    if name == "mnist":
        train, held_out, patch = am.data.mnist("train").images, am.data.mnist("test").images, 4
        held_out = held_out[::10]
    else:
        every = jr.permutation(jr.key(0), am.data.icons().images)
        train, held_out, patch = every[500:], every[:500], 6
    mean, std = float(train.mean()), float(train.std())
    return Pictures((train - mean) / std, (held_out - mean) / std, patch, mean, std)


# -- the standard block ---------------------------------------------------------------------------


class StandardBlock(eqx.Module):
    """What transformers are made of, in the place of an energy."""

    Wqkv: jax.Array
    Wout: jax.Array
    W1: jax.Array
    W2: jax.Array
    b1: jax.Array
    b2: jax.Array
    norms: jax.Array  # scale and shift of three normalisations
    heads: int = eqx.field(static=True)
    times: int = eqx.field(static=True)

    @classmethod
    def make(cls, key: Any, features: int, heads: int, hidden: int, times: int) -> "StandardBlock":
        a, b, c, d = jr.split(key, 4)
        D, M = features, hidden
        normal = lambda key, rows, columns: rows**-0.5 * jr.normal(key, (rows, columns))
        norms = jnp.stack([jnp.ones((3, D)), jnp.zeros((3, D))], axis=1)
        maps = normal(a, D, 3 * D), normal(b, D, D), normal(c, D, M), normal(d, M, D)
        return cls(*maps, jnp.zeros(M), jnp.zeros(D), norms, heads, times)

    def norm(self, x: jax.Array, k: int) -> jax.Array:
        return jax.nn.standardize(x, epsilon=1e-5) * self.norms[k, 0] + self.norms[k, 1]

    def activations(self, x: jax.Array) -> jax.Array:
        return self.norm(x, 2)

    def __call__(self, x: jax.Array) -> jax.Array:
        @jax.checkpoint
        def step(x: jax.Array) -> jax.Array:
            q, k, v = jnp.split(self.norm(x, 0) @ self.Wqkv, 3, axis=-1)
            q, k, v = (a.reshape(len(a), self.heads, -1) for a in (q, k, v))
            x = x + jax.nn.dot_product_attention(q, k, v).reshape(x.shape) @ self.Wout
            hidden = jax.nn.gelu(self.norm(x, 1) @ self.W1 + self.b1)
            return x + hidden @ self.W2 + self.b2

        if self.times == 1:
            return step(x)
        return jax.lax.scan(lambda x, _: (step(x), None), x, None, length=self.times)[0]


def sines(grid: tuple[int, ...], features: int) -> jax.Array:
    """Sines and cosines of the row and the column of a patch, from half a turn a patch down."""
    n = features // 4
    waves = np.pi * np.exp(-np.log(2 * max(grid)) * np.arange(n) / (n - 1))
    places = [c.reshape(-1, 1) * waves for c in np.mgrid[: grid[0], : grid[1]]]
    return jnp.asarray(np.hstack([f(p) for p in places for f in (np.sin, np.cos)]), jnp.float32)


def placed(model: am.ImageEnergyTransformer) -> am.ImageEnergyTransformer:
    """The same model with positions that begin as sines and cosines."""
    places = 0.7 * sines(model.grid, model.block.features)
    return eqx.tree_at(lambda m: m.POS_embed, model, model.POS_embed.at[1:].add(places))


def make(kind: str, data: Pictures, key: Any, **words: Any) -> am.ImageEnergyTransformer:
    """An Energy Transformer, or the same with another block."""
    shape = data.train.shape[1:]
    model = am.ImageEnergyTransformer(shape, data.patch, **SIZES, std=0.1, key=key, **words)
    model = placed(model)
    if kind.startswith("et"):
        return model
    times = 1 if kind.startswith("block") else 12
    other = StandardBlock.make(
        jr.fold_in(key, 1), SIZES["features"], SIZES["heads"], SIZES["memories"], times
    )
    return eqx.tree_at(lambda m: m.block, model, other)


def call(model: Any, image: jax.Array, hidden: jax.Array) -> jax.Array:
    """The picture that a model makes, whichever block it has."""
    return model.decode(model.block(model.embed(image, hidden)))


# -- training -------------------------------------------------------------------------------------


def schedule(rate: float, steps: int) -> optax.GradientTransformation:
    """The published optimiser, scaled to a number of steps."""
    adam = optax.adamw(cosine(rate, steps), 0.9, 0.99, weight_decay=0.05)
    return optax.chain(optax.clip_by_global_norm(1.0), adam)


def cosine(rate: float, steps: int) -> optax.Schedule:
    """A cosine from a thousandth of the rate and back, with 2 % of warm-up."""
    return optax.warmup_cosine_decay_schedule(
        rate / 1000, rate, max(1, steps // 50), steps, rate / 1000
    )


def complete(name: str, kind: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train one model to complete pictures, and measure it."""
    data, key = pictures(name), jr.key(seed)
    train = data.train[: args.pictures] if args.pictures else data.train
    epochs = args.epochs or {"mnist": 1, "icons": 6}[name]
    model = make(kind, data, jr.fold_in(key, 0))
    steps = epochs * (len(train) // args.batch)
    loss = am.learning.MaskedPatches(data.patch, apply=call)
    start = time.perf_counter()
    fitted = am.fit(
        model, train, loss, schedule(args.rate, steps), epochs, args.batch, jr.fold_in(key, 1),
        progress=args.progress,
    )  # fmt: skip
    spent = time.perf_counter() - start
    args.weights.mkdir(parents=True, exist_ok=True)
    am.save(args.weights / f"{name}_{kind}_{seed}.am", fitted.model)
    model, hidden = fitted.model, data.hidden()
    made = in_batches(jax.vmap(functools.partial(call, model)), data.held_out, hidden)
    entry = {
        "mse": error(data, made, hidden), "seconds": spent, "epochs": epochs, "rate": args.rate,
        "batch": args.batch, "pictures": len(train), "loss": fitted.history["loss"].tolist(),
        "block_weights": block_weights(model),
    }  # fmt: skip
    if kind.startswith("et"):
        entry |= along(data, model, hidden)
    return entry


def block_weights(model: Any) -> int:
    """The trained numbers of the block alone."""
    block = model.block
    names = am.hierarchical.image_energy_transformer.BLOCK
    if isinstance(block, am.EnergyTransformer):
        return sum(getattr(block, name).size for name in names)
    return sum(a.size for a in jax.tree.leaves(eqx.filter(block, eqx.is_inexact_array)))


def in_batches(fn: Any, *arrays: Any, size: int = 100) -> np.ndarray:
    """A function of batches, over all."""
    fn, n = jax.jit(fn), len(arrays[0])
    parts = [fn(*(a[i : i + size] for a in arrays)) for i in range(0, n, size)]
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)


def error(data: Pictures, made: Any, hidden: jax.Array) -> float:
    """The mean squared error of ink over the pixels that are hidden."""
    model = make("et", data, jr.key(0))
    where = np.asarray(jax.vmap(model.pixels)(hidden))
    return float(np.mean((data.ink(made) - data.ink(data.held_out))[where] ** 2))


def along(data: Pictures, model: am.ImageEnergyTransformer, hidden: jax.Array) -> dict[str, Any]:
    """Error and core energy after so many steps, trained for 12; and for other ways to relax."""

    def path(image: jax.Array, hidden: jax.Array) -> Any:
        end = model.block.recall(model.embed(image, hidden), max_steps=max(STEPS), save_every=1)
        at = jnp.asarray(STEPS)
        return jax.vmap(model.decode)(end.trajectory.x[at]), end.trajectory.energy

    made, energy = in_batches(jax.vmap(path), data.held_out, hidden)
    rises = float(np.max(np.diff(energy, axis=1) / np.abs(energy[:, 1:])))
    decays = lambda image, h: model(image, h, method=am.Euler(0.1), steps=12)
    return {
        "mse_after": {n: error(data, made[:, k], hidden) for k, n in enumerate(STEPS)},
        "core_energy": np.mean(energy, axis=0).tolist(),
        "largest_rise": rises,
        "mse_euler_12": error(data, in_batches(jax.vmap(decays), data.held_out, hidden), hidden),
    }


def baselines(name: str) -> dict[str, float]:
    """The mean picture, and the training picture that is nearest on what is shown."""
    data, hidden = pictures(name), pictures(name).hidden()
    model = make("et", data, jr.key(0))
    shown = ~jax.vmap(model.pixels)(hidden).reshape(len(hidden), -1)
    train = data.train.reshape(len(data.train), -1)

    def nearest(image: jax.Array, shown: jax.Array) -> jax.Array:
        x = image.reshape(len(image), -1) * shown
        near = shown.astype(x.dtype) @ (train**2).T - 2 * x @ train.T
        return train[jnp.argmin(near, axis=1)]

    found = in_batches(nearest, data.held_out, shown).reshape(data.held_out.shape)
    mean = np.broadcast_to(np.asarray(data.train.mean(0)), data.held_out.shape)
    return {"mean": error(data, mean, hidden), "nearest": error(data, found, hidden)}


# -- classes --------------------------------------------------------------------------------------


CLASSIFIER: dict[str, Any] = {
    "features": 128, "heads": 8, "head_width": 16, "memories": 512, "alpha": 0.3, "steps": 4,
}  # fmt: skip


def classifier(data: Pictures, key: Any) -> am.ImageEnergyTransformer:
    """One that names digits: of patches of 7, whose tokens are wider, and 4 steps of 0.3."""
    model = am.ImageEnergyTransformer(
        (28, 28), 7, **CLASSIFIER, std=0.1, classes=10, remat=False, key=key
    )
    return placed(model)


def muon(rate: float, steps: int) -> optax.GradientTransformation:
    """Steps of equal size in all directions of a matrix (`optax.contrib.muon`); Adam at 0.3 of the
    rate for biases, single tokens, positions and the head. The same curve as `schedule`."""
    curve = cosine(rate, steps)

    def matrix(path: Any, weights: Any) -> MuonDimensionNumbers | None:
        """Which axes are reduced, and which are made: a matrix for each head."""
        name = jax.tree_util.keystr(path)
        if name.endswith((".Wq", ".Wk")):
            return MuonDimensionNumbers((2,), (1,))
        return MuonDimensionNumbers((0,), (1,)) if name.endswith((".Xi", ".Wenc")) else None

    return optax.contrib.muon(
        curve,
        muon_weight_dimension_numbers=functools.partial(jax.tree_util.tree_map_with_path, matrix),
        adam_learning_rate=lambda count: 0.3 * curve(count),
        consistent_rms=0.2,
    )


def smoothed(model: am.ImageEnergyTransformer, batch: Any, key: Any) -> jax.Array:
    """Cross-entropy with label smoothing 0.1, of pictures shifted by up to 1 pixel."""
    images, labels = batch
    wide = jnp.pad(images, ((0, 0), (1, 1), (1, 1)), mode="edge")
    corners = jr.randint(key, (len(images), 2), 0, 3)
    moved = jax.vmap(lambda x, c: jax.lax.dynamic_slice(x, c, (28, 28)))(wide, corners)
    logits = jax.vmap(model.classify)(moved)
    targets = 0.9 * jax.nn.one_hot(labels, 10) + 0.01
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits), axis=-1))


def classify(seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train the token CLS to name digits, end to end."""
    data, key = pictures("mnist"), jr.key(seed)
    labels, test = am.data.mnist("train").labels, am.data.mnist("test")
    model = classifier(data, jr.fold_in(key, 0))

    train = (data.train, labels)
    if args.pictures:
        train = jax.tree.map(lambda a: a[: args.pictures], train)
    epochs = args.epochs or 1
    steps = epochs * (len(train[0]) // args.batch)
    args.weights.mkdir(parents=True, exist_ok=True)
    fitted = am.fit(
        model, train, smoothed, muon(args.rate, steps), epochs, args.batch, jr.fold_in(key, 1),
        checkpoint=args.weights / f"classify_{seed}.checkpoint", progress=args.progress,
    )  # fmt: skip
    am.save(args.weights / f"classify_{seed}.am", fitted.model)
    images = (test.images - data.mean) / data.std

    def accuracy(steps: int) -> float:
        logits = in_batches(jax.vmap(lambda x: fitted.model.classify(x, steps=steps)), images)
        return float(np.mean(np.argmax(logits, axis=1) == np.asarray(test.labels)))

    after = {n: accuracy(n) for n in (1, 2, 3, 4, 5, 6, 8, 12)}
    return CLASSIFIER | {
        "accuracy": after[CLASSIFIER["steps"]], "accuracy_after": after,
        "seconds": float(fitted.history["seconds"].sum()), "epochs": epochs, "rate": args.rate,
        "batch": args.batch, "pictures": len(train[0]), "loss": fitted.history["loss"].tolist(),
        "block_weights": block_weights(fitted.model),
    }  # fmt: skip


# -- backward through the depth -------------------------------------------------------------------


def backward(steps: int) -> dict[str, Any]:
    """Time and memory of a gradient through 32 digits: of steps, with all of them kept or the
    states alone, and of rest, where the patches that are shown are held."""
    data = pictures("mnist")
    model = make("et", data, jr.key(0))
    images, hidden = data.held_out[:32], data.hidden()[:32]
    weights, rest = eqx.partition(model, eqx.is_inexact_array)
    ways = {
        "all kept": am.CoreEuler(0.1, remat=False),
        "states alone": am.CoreEuler(0.1),
        "decay, states alone": am.Euler(0.1, remat=True),
        "at rest": am.FixedPoint(step_size=0.5),
    }
    found = {}
    for name, method in ways.items():
        implicit = isinstance(method, am.FixedPoint)
        limit = 1000 if implicit else steps

        def loss(weights: Any, method: Any = method, limit: int = limit) -> jax.Array:
            model = eqx.combine(weights, rest)

            def one(image: jax.Array, hidden: jax.Array) -> Any:
                shown = jnp.concatenate([jnp.ones(1, bool), ~hidden])[:, None]
                x = model.embed(image, hidden)
                held = jnp.broadcast_to(shown, x.shape)
                end = model.block.recall(x, method=method, max_steps=limit, clamp=held, tol=1e-3)
                return jnp.mean((model.decode(end.x) - image) ** 2), end.steps

            error, taken = jax.vmap(one)(images, hidden)
            return jnp.mean(error), taken

        start = time.perf_counter()
        program = jax.jit(jax.grad(loss, has_aux=True)).lower(weights).compile()
        compiling = time.perf_counter() - start
        _, taken = program(weights)
        memory: Any = program.memory_analysis()
        found[name] = {
            "milliseconds": 1000 * seconds(lambda p=program: p(weights)),
            "megabytes": memory.temp_size_in_bytes / 1e6, "steps": int(np.max(taken)),
            "seconds_to_compile": compiling,
        }  # fmt: skip
        print(name, found[name], flush=True)
    return found


def keep(file: Path, group: str, name: str, entry: dict[str, Any]) -> None:
    """Write one result to the file."""
    runs = json.loads(file.read_text()) if file.exists() else {}
    runs.setdefault(group, {})[name] = entry | {"machine": describe()}
    file.write_text(json.dumps(runs, indent=1) + "\n")
    shown = {k: v for k, v in entry.items() if not isinstance(v, list | dict)}
    print(group, name, json.dumps(shown), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("task", choices=["complete", "baselines", "classify", "backward"])
    parser.add_argument("data", nargs="?", default="mnist", choices=["mnist", "icons"])
    parser.add_argument("--models", nargs="*", default=["et"])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--pictures", type=int, help="train on the first so many")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--weights", type=Path, default=Path("et-weights"))
    parser.add_argument("--progress", action="store_true")
    parser.add_argument("--out", type=Path, default=FILE)
    args = parser.parse_args()
    store = functools.partial(keep, args.out)
    if args.task == "baselines":
        store("baselines", args.data, baselines(args.data))
    if args.task == "backward":
        for steps in (12, 96):
            store("backward", f"{steps} steps", backward(steps))
    for seed in args.seeds if args.task in ("complete", "classify") else ():
        if args.task == "classify":
            store("classify", str(seed), classify(seed, args))
        for kind in args.models if args.task == "complete" else ():
            store(args.data, f"{kind} {seed}", complete(args.data, kind, seed, args))


if __name__ == "__main__":
    main()
