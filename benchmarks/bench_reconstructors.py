"""Trained reconstructors on noisy MNIST: the published table again, and its author's conclusions.

```
AMLIB_DATA=... python benchmarks/bench_reconstructors.py small     # the table up to 200 pictures
AMLIB_DATA=... python benchmarks/bench_reconstructors.py table     # and up to 1,000
AMLIB_DATA=... python benchmarks/bench_reconstructors.py claims    # the conclusions, one by one
python benchmarks/bench_reconstructors.py report                   # the page and the figure
```

`table` and `claims` add to `results/bench_reconstructors.json` what is not in it yet, so that they
can be interrupted; `report` writes `results/bench_reconstructors.md` and `.png` from it.
"""

import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from machine import describe

import amlib as am
from amlib.learning import (
    AbstractReconstructor,
    HebbianLoss,
    ReconstructionLoss,
    count_parameters,
)

OUT = Path(__file__).parent / "results"
STORE = OUT / "bench_reconstructors.json"
FLIPS = (0.10, 0.15, 0.20, 0.30, 0.40, 0.45)
SEEDS = (1001, 1002)  # of the noise in the tests; training draws from key 0
SIDE = 28  # of the pictures in the tests of the conclusions, with so many hidden units
HIDDEN = 256
QUERIES = 100  # at most so many of the stored patterns are recalled, under each seed
BATCH, STEPS = 128, 7813  # as published


def patterns(K: int, side: int) -> jax.Array:
    """The first K training pictures as spins, or rows of 16 pictures of 8x8 as published."""
    if side == 8:
        images = am.data.mnist("train", size=8, spins=True).images[: 16 * K]
        return images.reshape(K, 1024)
    return am.data.mnist("train", size=side, spins=True).images[:K].reshape(K, -1)


adam = functools.cache(optax.adam)  # one object per rate: `fit` compiles once for each


def train(model: Any, X: Any, loss: Any, rate: float, steps: int = STEPS, batch: int = BATCH):
    """The trained model and the seconds it took."""
    repeats = math.ceil(50 * batch / len(X))
    data = jnp.tile(X.reshape(-1, *model.shape), (repeats, *[1] * len(model.shape)))
    epochs = max(1, round(steps / (len(data) // batch)))
    start = time.perf_counter()
    fit = am.fit(model, data, loss, adam(rate), epochs, batch, jr.key(0), progress=False)
    return fit.model, time.perf_counter() - start


def flipped(X: Any, p: float, seed: int, bits: bool = False) -> jax.Array:
    """The patterns with flipped units."""
    hit = jr.uniform(jr.fold_in(jr.key(seed), round(1000 * p)), X.shape) < p
    return jnp.where(hit, 1 - X if bits else -X, X)


@eqx.filter_jit
def relax_all(model: am.DiscreteTimeHopfield, X: Any) -> am.Recall:
    return jax.vmap(lambda x: model(x, jr.key(5)))(X)


def measure(model: Any, X: Any, p: float, recall: Callable | None = None) -> dict:
    """Errors before and after recall, over all test seeds."""
    X = X[:QUERIES].reshape(-1, *model.shape)
    bits = model.states == "bits"
    before, after, exact, steps, done = [], [], [], [], []
    for seed in SEEDS:
        noisy = flipped(X, p, seed, bits)
        if recall is None:
            end = relax_all(am.DiscreteTimeHopfield(model), noisy)
            x = end.x
            steps.append(np.asarray(end.steps))
            done.append(np.asarray(end.converged))
        else:
            x = recall(noisy, seed)
        before.append(np.abs(np.asarray(noisy - X)).ravel())
        after.append(np.abs(np.asarray(x - X)).ravel())
        exact.append(np.asarray((x == X).reshape(len(X), -1).all(1)))
    scale = 1 if bits else 2
    out = {
        "flips": p,
        "before": float(np.quantile(before, 0.99)),
        "after": float(np.quantile(after, 0.99)),
        "bit_error": float(np.mean(after)) / scale,
        "exact": float(np.mean(exact)),
    }
    if steps:
        out |= {"steps": float(np.mean(steps)), "max_steps": int(np.max(steps))}
        out["converged"] = float(np.mean(done))
    return out


# -- the table --------------------------------------------------------------------------------


def makers(D: int, side: int, X: Any, hidden: int) -> dict[str, tuple]:
    """Each model with its loss, its learning rate, its steps and its batch."""
    key = jr.key(0)
    return {
        "dense": (lambda: am.DenseReconstructor(D), ReconstructionLoss(), 1e-3, STEPS, BATCH),
        "modern, given": (lambda: am.ModernDenseReconstructor(X), None, 0, 0, 0),
        "rbm": (
            lambda: am.RBMReconstructor(D, hidden, key=key),
            ReconstructionLoss(noise=0.3), 3e-3, STEPS, BATCH,
        ),
        "hebbian rbm": (
            lambda: am.HebbianRBMReconstructor(D, hidden, key=key),
            HebbianLoss(noise=0.3), 3e-3, STEPS, BATCH,
        ),
        "conv2d": (
            lambda: am.Conv2dReconstructor((side, side), key=key),
            ReconstructionLoss(noise=0.15), 1e-2, 200, 32,
        ),
    }  # fmt: skip


SETTINGS = [(28, 100, 256), (32, 100, 256), (28, 1000, 256), (32, 1000, 256), (28, 300, 256)]
EXTRA = [(8, 100, "dense", 256), (32, 200, "rbm", 1000)]  # as published


def table(limit: int | None = None) -> None:
    """All models and sizes, or the first of them."""
    jobs = [(s, K, name, h) for s, K, h in SETTINGS for name in makers(4, 4, None, h)]
    for side, K, name, hidden in (jobs[:10] + EXTRA + jobs[10:])[:limit]:
        where = f"table/{side}/{K}/{name}/{hidden}"
        if where in load():
            continue
        X = patterns(K, side)
        make, loss, rate, steps, batch = makers(X.shape[1], side, X, hidden)[name]
        model, seconds = make(), 0.0
        if loss is not None:
            model, seconds = train(model, X, loss, rate, steps, batch)
        keep(where, {
            "side": side, "K": K, "model": name, "parameters": count_parameters(model),
            "seconds": seconds, "steps_trained": steps,
            "rows": [measure(model, X, p) for p in FLIPS],
        })  # fmt: skip


# -- the author's conclusions -----------------------------------------------------------------


class Leaky(AbstractReconstructor):
    """A convolution whose centre is not masked: what the published mask, off by one, leaves."""

    inner: am.Conv2dReconstructor
    centre: jax.Array
    shape: tuple[int, ...] = eqx.field(static=True)
    states: str = eqx.field(static=True, default="spins")

    def field(self, x):
        inner = self.inner
        k, (H, W) = inner.kernel_size, self.shape
        image = jnp.pad(x, k // 2)
        around = [(i, j) for i in range(k) for j in range(k) if (i, j) != (k // 2, k // 2)]
        views = jnp.stack([image[i : i + H, j : j + W] for i, j in around], axis=-1)
        y = views.reshape(H * W, -1) @ inner.kernel[0] + x.reshape(-1, 1) @ self.centre[None]
        y = jax.nn.relu(y + inner.biases[0][None])
        return (y @ inner.out.T + inner.out_bias[None]).reshape(self.shape)

    def soft(self, x):
        return jnp.tanh(self.field(x))


def hard_loss(model, batch, key):
    """L1 of the hard reconstruction with the gradient of the soft one, as published for the RBM."""
    return jnp.mean(jnp.abs(batch - jax.vmap(model)(batch)))


def claims() -> None:
    """Every experiment that is not in the store yet."""
    for name, experiment in EXPERIMENTS.items():
        if f"claims/{name}" not in load():
            start = time.perf_counter()
            keep(f"claims/{name}", {"rows": experiment(), "seconds": time.perf_counter() - start})


def trained(kind: str, states: str = "spins", **how: Any) -> tuple[Any, Any]:
    """A model trained on 100 pictures, and these."""
    X = patterns(100, SIDE)
    X = X if states == "spins" else (X + 1) / 2
    if (kind, states, str(how)) not in _TRAINED:
        if kind == "dense":
            model = am.DenseReconstructor(SIDE**2, states=states, **how)
            model = train(model, X, ReconstructionLoss(), 1e-3)[0]
        elif kind == "modern":
            model = am.ModernDenseReconstructor(X, states=states)
        else:
            model = am.RBMReconstructor(SIDE**2, HIDDEN, states=states, key=jr.key(0), **how)
            model = train(model, X, ReconstructionLoss(0.3), 3e-3)[0]
        _TRAINED[kind, states, str(how)] = model
    return _TRAINED[kind, states, str(how)], X


_TRAINED: dict = {}


def asynchronous() -> list[dict]:
    """Published rule (unvisited bits become 0), the same rule with bits kept, one bit at a time."""
    rows = []
    for kind in ("dense", "modern", "rbm"):
        model, X = trained(kind)

        def half(noisy, seed, model=model, kept=True):
            @jax.jit
            def step(x, k):
                y = jax.vmap(lambda x: jnp.where(model.field(x) > 0, 1.0, -1.0))(x)
                visited = jr.uniform(jr.fold_in(jr.key(seed), k), x.shape[1:]) < 0.5
                return jnp.where(visited[None], y, x if kept else 0.0)

            for k in range(100):
                noisy = step(noisy, k)
            return noisy

        def one(noisy, seed, model=model):
            relax = am.DiscreteTimeHopfield(model, update="asynchronous")
            return relax_all(relax, noisy).x

        def broken(noisy, seed, half=half):
            return half(noisy, seed, kept=False)

        for p in (0.2, 0.3):
            for rule, recall in {
                "all at once": None,
                "half at a time, others set to 0 (published)": broken,
                "half at a time, others kept": half,
                "one at a time": one,
            }.items():
                rows.append({"case": f"{kind}, {rule}", **measure(model, X, p, recall)})
    return rows


def zero_one() -> list[dict]:
    """The same models with units of 0/1."""
    rows = []
    for kind in ("dense", "rbm", "modern"):
        for states in ("spins", "bits"):
            model, X = trained(kind, states)
            rows += [{"case": f"{kind}, {states}", **measure(model, X, p)} for p in (0.2, 0.3)]
    for states in ("spins", "bits"):
        model, X = trained("dense", states, bias=False)
        rows += [{"case": f"dense without bias, {states}", **measure(model, X, 0.2)}]

    def cut_at_signs(noisy, seed):
        """What the published code does with bits: it ends on -1/+1."""
        for _ in range(30):
            noisy = jnp.where(jax.vmap(model.field)(noisy) > 0, 1.0, -1.0)
        return noisy

    rows += [
        {"case": "dense, bits, cut to -1/+1 (published)", **measure(model, X, 0.2, cut_at_signs)}
    ]
    Xb = (patterns(100, SIDE) + 1) / 2
    plain = am.ModernDenseReconstructor(Xb)  # overlaps of bits, which favour much ink

    def by_overlap(noisy, seed):
        for _ in range(10):
            noisy = jnp.where(jax.vmap(plain.field)(noisy) > 0.5, 1.0, 0.0)
        return noisy

    bits = trained("modern", "bits")[0]
    rows += [{"case": "modern, bits, plain overlaps", **measure(bits, Xb, 0.2, by_overlap)}]
    return rows


def pruning() -> list[dict]:
    """Weights set to 0: the smallest, or random ones."""
    rows = []
    for kind in ("dense", "rbm", "modern"):
        model, X = trained(kind)
        pick = {
            "dense": lambda m: m.kernel, "rbm": lambda m: m.W, "modern": lambda m: m.Xi,
        }[kind]  # fmt: skip
        w = model.J if kind == "dense" else pick(model)
        for share in (0.0, 0.3, 0.5, 0.683, 0.9):
            smallest = jnp.abs(w) >= jnp.quantile(jnp.abs(w), share)
            random = jr.uniform(jr.key(3), w.shape) >= share
            random = jnp.triu(random) | jnp.triu(random).T if kind == "dense" else random
            for how, kept in {"smallest": smallest, "random": random}.items():
                if kind == "modern" and how == "smallest":
                    continue  # all its weights are of size 1
                pruned = eqx.tree_at(pick, model, jnp.where(kept, w, 0.0))
                case = f"{kind}, {how} {share:.0%} pruned"
                rows.append({"case": case, **measure(pruned, X, 0.2)})
    return rows


def convolution() -> list[dict]:
    """A centre that is masked or not, training on clean or on noisy pictures."""
    rows, X = [], patterns(100, SIDE)
    make = lambda **how: am.Conv2dReconstructor((SIDE, SIDE), key=jr.key(0), **how)
    for name, model in {
        "centre visible (published)": Leaky(
            make(), 0.3 * jr.normal(jr.key(1), (64,)), (SIDE, SIDE)
        ),
        "centre masked": make(),
        "centre masked, 7x7, depth 2": make(kernel_size=7, depth=2, filters=32),
    }.items():
        for noise in (0.0, 0.15):
            fitted = train(model, X, ReconstructionLoss(noise), 1e-2, 200, 32)[0]
            case = f"{name}, trained on {'noise' if noise else 'clean pictures'}"
            for p in (0.0, 0.1, 0.2):
                rows.append({"case": case, **measure(fitted, X, p)})
    return rows


def random_memory() -> list[dict]:
    """A modern memory learned from random weights: published temperature, and annealing."""
    rows, X = [], patterns(100, SIDE)
    glorot = math.sqrt(6 / (100 + SIDE**2))
    for case, count, T0, T1, noise, rate in (
        ("T=0.1, rate 1e-3 (published)", 100, 0.1, 0.1, 0.0, 1e-3),
        ("T=0.1, rate 1e-2", 100, 0.1, 0.1, 0.0, 1e-2),
        ("T=10", 100, 10.0, 10.0, 0.0, 1e-2),
        ("T from 100 to 4, noise 0.3", 100, 100.0, 4.0, 0.3, 1e-2),
        ("T from 100 to 4, noise 0.3", 200, 100.0, 4.0, 0.3, 1e-2),
        ("T from 100 to 4, noise 0.3", 400, 100.0, 4.0, 0.3, 1e-2),
    ):
        model = am.ModernDenseReconstructor(K=count, size=SIDE**2, temperature=T0, key=jr.key(0))
        start = glorot * jr.uniform(jr.key(0), (count, SIDE**2), minval=-1.0)
        model = eqx.tree_at(lambda m: m.Xi, model, start)
        stages = 1 if T0 == T1 else 20
        for k in range(stages):
            T = jnp.asarray(T0 * (T1 / T0) ** (k / max(1, stages - 1)), jnp.float32)
            model = eqx.tree_at(lambda m: m.temperature, model, T)
            last = rate if stages == 1 else 2 * rate
            model = train(model, X, ReconstructionLoss(noise), last, 1500 // stages)[0]
        winners = len(np.unique(np.asarray(jnp.argmax(X @ model.Xi.T, axis=1))))
        for p in (0.0, 0.2, 0.3):
            case_ = f"{count} memories, {case}"
            rows.append({"case": case_, "winners": winners, **measure(model, X, p)})
    half = am.ModernDenseReconstructor(X[:50])
    for p in (0.0, 0.2):
        rows.append({"case": "given 50 of the 100 pictures", "winners": 50, **measure(half, X, p)})
    return rows


def thresholds() -> list[dict]:
    """The published cut of tanh at 0.5; soft states; continuous time."""
    model, X = trained("dense")

    def cut_at_half(noisy, seed):
        for _ in range(30):
            noisy = jnp.where(jax.vmap(model.soft)(noisy) > 0.5, 1.0, -1.0)
        return noisy

    def soft(noisy, seed):
        return jnp.sign(relax_all(am.DiscreteTimeHopfield(model, hard=False), noisy).x)

    def flow(noisy, seed):
        relax = am.ContinuousTimeHopfield(model)
        return jnp.sign(eqx.filter_jit(jax.vmap(relax))(noisy).x)

    rules = {
        "hard states, sign": None, "cut at 0.5 (published)": cut_at_half,
        "soft states": soft, "continuous time": flow,
    }  # fmt: skip
    return [
        {"case": f"dense, {name}", **measure(model, X, p, recall)}
        for name, recall in rules.items() for p in (0.2, 0.3, 0.4)
    ]  # fmt: skip


def margins() -> list[dict]:
    """What makes an RBM learn: soft outputs in the loss, a wide hidden gradient, noise."""
    rows, X = [], patterns(100, SIDE)
    for case, width, loss in (
        ("hard loss, width 1", 1.0, hard_loss),
        ("hard loss, width 5", 5.0, hard_loss),
        ("soft loss, width 1", 1.0, ReconstructionLoss()),
        ("soft loss, width 5", 5.0, ReconstructionLoss()),
        ("soft loss, width 5, noise 0.3", 5.0, ReconstructionLoss(0.3)),
    ):
        model = am.RBMReconstructor(SIDE**2, HIDDEN, width=width, key=jr.key(0))
        model = train(model, X, loss, 3e-3)[0]
        rows += [{"case": f"rbm, {case}", **measure(model, X, p)} for p in (0.0, 0.2, 0.3)]
    return rows


EXPERIMENTS = {
    "asynchronous": asynchronous,
    "random_memory": random_memory,
    "thresholds": thresholds,
    "pruning": pruning,
    "margins": margins,
    "convolution": convolution,
    "zero_one": zero_one,
}


# -- the store --------------------------------------------------------------------------------


def load() -> dict:
    return json.loads(STORE.read_text()) if STORE.exists() else {}


def keep(name: str, entry: dict) -> None:
    """Add an entry, with the machine and the commit that it was measured on."""
    store = load()
    store[name] = entry | {"machine": describe()}
    STORE.write_text(json.dumps(store, indent=1) + "\n")
    print(name, f"{entry['seconds']:.0f} s", flush=True)


if __name__ == "__main__":
    commands = sys.argv[1:] or ["report"]
    if "claims" in commands:
        claims()
    if "small" in commands:
        table(12)
    if "table" in commands:
        table()
    if "report" in commands:
        from report_reconstructors import report

        report(load(), OUT)
