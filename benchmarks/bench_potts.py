"""Potts memories measured: capacity against q, a visit incremental and in full, icons in greys.

```
python benchmarks/bench_potts.py
python benchmarks/bench_potts.py --draw   # the figure, from the stored pictures
```

Capacity: random patterns of D units, `PottsHopfield`, recall by sequential sweeps from the pattern
itself; it counts as recalled if the overlap of the end with it exceeds 0.9. Loads are shares of
Kanter's 0.138 q (q - 1) / 2. The first so many of the patterns are stored, by weights, so that each
q is one program. Writes `results/potts.md`, `.png`, and the pictures in it as `.json`.
Times are those of the machine as it is: what else runs there counts.
"""

import functools
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from captions import captioned, save
from machine import describe, seconds

import amlib as am
from amlib.descent.methods import flip_problem, solve
from amlib.plots.pictures import TEXT, new_figure, place

OUT = Path(__file__).parent / "results"
D, SEEDS, QUERIES = 150, 3, 16
SHARES = (0.6, 0.8, 1.0, 1.2, 1.5, 1.8, 2.2)
GREYS, REPEATS = 5, 9


class Weighted(am.PottsAM):
    """`PottsHopfield` with a weight for each pattern."""

    w: jax.Array

    def energy(self, x):
        h = self.local_overlaps(x)
        return -0.5 * jnp.sum(self.w * h * (h - (self.q - 2)))


@functools.partial(jax.jit, static_argnames="q")
def overlaps(Xi, w, q):
    """The overlap of each query with where it ends, for weights `(loads, K)`."""

    def one(w, k):
        model = Weighted(Xi, q, w)
        end = model.recall(Xi[k], method=am.Sweeps("sequential", record=0), max_steps=40)
        return (q * (end.x == Xi[k]).mean() - 1) / (q - 1)

    each = jax.vmap(one, (None, 0))
    return jax.vmap(each, (0, None))(w, jnp.arange(QUERIES))


def capacity(q):
    """Loads, the share of patterns recalled at each, and its standard error over seeds."""
    known = 0.138 * q * (q - 1) / 2
    counts = np.array([max(QUERIES, round(share * known * D)) for share in SHARES])
    w = jnp.asarray(np.arange(counts.max())[None] < counts[:, None], jnp.float32)
    found = []
    for seed in range(SEEDS):
        rng = np.random.default_rng([seed, q])
        Xi = jnp.asarray(rng.integers(0, q, (counts.max(), D)), jnp.int8)
        found.append((np.asarray(overlaps(Xi, w, q)) > 0.9).mean(1))
    found = np.array(found)
    return counts / D, found.mean(0), found.std(0, ddof=1) / SEEDS**0.5


def half(loads, shares):
    """The load at which half of the patterns are recalled, between the two around it."""
    for k in range(1, len(loads)):
        if shares[k - 1] >= 0.5 > shares[k]:
            slope = (shares[k - 1] - 0.5) / (shares[k - 1] - shares[k])
            return loads[k - 1] + slope * (loads[k] - loads[k - 1])
    return float("nan")


def speed(K, units, q):
    """Seconds of one sweep of `ExponentialPottsAM`: in full, and incrementally; the same states."""
    rng = np.random.default_rng(0)
    Xi = rng.integers(0, q, (K, units))
    x = jnp.asarray(np.where(rng.random(units) < 0.3, rng.integers(0, q, units), Xi[0]), jnp.int32)
    model = am.ExponentialPottsAM(Xi, q, 0.2)
    times, ends = [], []
    for path in ("generic", "incremental"):

        @jax.jit
        def run(model, x, path=path):
            problem = flip_problem(model.energy, am.Values(q), path=path, memory=model)
            return solve(problem, x, am.Glauber(0.2, "sequential", record=0), jax.random.key(0), 1)

        ends.append(np.asarray(run(model, x).x))
        times.append(min(seconds(lambda run=run: run(model, x), 1) for _ in range(REPEATS)))
    assert (ends[0] == ends[1]).all()
    return *times, times[0] / times[1]


def grey_icons(count):
    """Icons of 48 x 48 pixels as 24 x 24 units: how many of four pixels are on."""
    icons = np.asarray(am.data.icons(n=count).images) > 0
    return icons.reshape(count, 24, 2, 24, 2).sum((2, 4)).astype(np.int32)


def pictures():
    """Stored, damaged and recalled icons, by the classical and the exponential memory."""
    Xi = grey_icons(60)
    rng = np.random.default_rng(1)
    chosen = np.arange(6) * 9
    noise = rng.integers(0, GREYS, (6, 24, 24))
    damaged = np.where(rng.random((6, 24, 24)) < 0.6, noise, Xi[chosen]).astype(np.int32)
    rows = [("stored", Xi[chosen]), ("damaged", damaged)]
    for name, model in (
        ("classical", am.PottsHopfield(Xi, GREYS)),
        ("exponential", am.ExponentialPottsAM(Xi, GREYS, 0.05)),
    ):
        ends = jax.jit(jax.vmap(lambda x, m=model: m.recall(x, method=am.Sweeps(record=0)).x))
        rows.append((name, np.asarray(ends(damaged))))
    return dict(rows)


def draw(rows):
    """The pictures, a row of each kind."""
    canvas = new_figure(700, 470)
    for r, (name, images) in enumerate(rows.items()):
        for k, image in enumerate(images):
            ax = place(canvas, 122 + 95 * k, 12 + 112 * r, 92, 100)
            ax.imshow(image, cmap="gray_r", vmin=0, vmax=GREYS - 1, interpolation="nearest")
            ax.axis("off")
        canvas.text(
            0.16, 1 - (62 + 112 * r) / 470, name, ha="right", va="center", fontsize=9, color=TEXT
        )
    captioned(
        canvas,
        f"K = 60 icons of D = 24 x 24 units in {GREYS} greys, 60 % of them drawn anew (one seed).",
    )
    save(canvas, OUT / "potts.png")


def store(rows):
    """The pictures as digits, a string for each."""
    text = {n: ["".join(map(str, image.ravel())) for image in images] for n, images in rows.items()}
    (OUT / "potts.json").write_text(json.dumps(text, indent=1) + "\n")


def stored():
    """The pictures of the last run."""
    text = json.loads((OUT / "potts.json").read_text())
    image = lambda digits: np.array(list(digits), int).reshape(24, 24)
    return {name: [image(digits) for digits in images] for name, images in text.items()}


def main():
    if sys.argv[1:] == ["--draw"]:
        draw(stored())
        return
    lines = ["# Potts memories", "", describe()]
    lines += [
        f"## Capacity against q: D = {D}, {SEEDS} seeds, {QUERIES} patterns each", "",
        "Share recalled (overlap above 0.9; standard error over seeds), by the load over "
        "0.138 q (q - 1) / 2:", "",
        "| q | " + " | ".join(f"{s:g}" for s in SHARES) + " | half at K / D | over the formula |",
        "|---|" + "---|" * (len(SHARES) + 2),
    ]  # fmt: skip
    for q in (2, 3, 4, 5):
        loads, shares, errors = capacity(q)
        cells = [f"{a:.2f} ({e:.2f})" for a, e in zip(shares, errors, strict=True)]
        at = half(loads, shares)
        ratio = at / (0.138 * q * (q - 1) / 2)
        lines.append(f"| {q} | {' | '.join(cells)} | {at:.3f} | {ratio:.2f} |")
        print(lines[-1], flush=True)
    lines += [
        "", "## A sweep of the heat bath, `ExponentialPottsAM`", "",
        "| K | units | q | in full, us a visit | incremental | ratio |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for K, units, q in ((100, 576, 4), (300, 576, 4), (100, 576, 8)):
        full, fast, ratio = speed(K, units, q)
        cells = f"{1e6 * full / units:.1f} | {1e6 * fast / units:.2f} | {ratio:.0f}"
        lines.append(f"| {K} | {units} | {q} | {cells} |")
        print(lines[-1], flush=True)
    lines += ["", f"The least of {REPEATS} times; both visit the same states.", ""]
    lines += ["## 60 icons of 24 x 24 units in 5 greys, 60 % of the units drawn anew", ""]
    rows = pictures()
    for name, images in list(rows.items())[1:]:
        shares = [(a == b).mean() for a, b in zip(images, rows["stored"], strict=True)]
        lines.append(f"- {name}, share of units as stored: {', '.join(f'{s:.3f}' for s in shares)}")
    store(rows)
    draw(rows)
    (OUT / "potts.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
