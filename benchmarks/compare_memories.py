"""All continuous memories side by side, on icons and MNIST, under three kinds of noise.

```
AMLIB_DATA=../shared/data python benchmarks/compare_memories.py                   # all
AMLIB_DATA=../shared/data python benchmarks/compare_memories.py 500 200 Gaussian  # one again
AMLIB_DATA=../shared/data python benchmarks/compare_memories.py counts            # against K
python benchmarks/compare_memories.py --draw                                      # the figures
```

Writes `results/compare_memories.md`, `.csv` and `.png`; against the number of stored patterns
`results/compare_counts.md`, `.csv` and `.png`. `--draw` measures nothing: it draws both figures
from the stored tables. A recall succeeds if the cosine of its end and the pattern, background
removed (both centred at the patterns' mean), exceeds 0.9. Intervals are Wilson's, of 95 %.
"""

import csv
import gzip
import itertools
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from machine import describe
from matplotlib.figure import Figure

import amlib as am
from amlib.analysis import cosine, retrieval_curve, separation

OUT = Path(__file__).parent / "results"
K_ICONS = 200  # as many as queries: a mask is no chance, and a pattern asked twice counts once


def mnist(K: int) -> np.ndarray:
    """The first K training pictures, pixels in [-1, 1]."""
    folder = Path(os.environ.get("AMLIB_DATA", "../shared/data")) / "mnist"
    raw = gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 784)[:K] / np.float32(127.5) - 1


def icons(K: int) -> np.ndarray:
    """The first K bundled icons, -1/+1."""
    images = np.asarray(am.data.icons().images, np.float32)
    return images.reshape(len(images), -1)[:K]


def half(key, x, level):
    """The lower part of the picture becomes background."""
    side = round(x.size**0.5)
    return am.data.corrupt.mask(x, level, shape=(side, side))


def gaussian(key, x, level):
    """Noise of standard deviation `level` on every pixel."""
    return x + level * jr.normal(key, x.shape, x.dtype)


NOISES = {
    "flips": (am.data.corrupt.flip, [0.1, 0.2, 0.3, 0.4]),
    "masked": (half, [0.25, 0.5, 0.75]),
    "gaussian": (gaussian, [0.5, 1.0, 2.0, 4.0]),
}


def models(Xi) -> dict:
    """Every memory with one parameter set by the patterns, by the same rule on both data sets."""
    rows = np.asarray(Xi, np.float64)
    norms = (rows**2).sum(1)
    squares = norms[:, None] + norms[None] - 2 * rows @ rows.T
    near = float(np.median(np.sort(squares, axis=1)[:, 1]))  # squared distance to the nearest
    gap = float(np.median(np.abs(np.asarray(separation(Xi)))))
    beta = 10.0 / gap
    reach = 2.0 / (0.5 * float(np.median(squares)))  # supports of about 0.7 typical distances
    kernels = {
        f"{s} kernel": partial(am.KernelMemory, similarity=s, beta=200.0)
        for s in ("cosine", "euclidean", "manhattan")
    }
    return {
        "modern Hopfield": partial(am.ModernHopfield, beta=beta),
        "Gaussian": partial(am.GaussianMemory, beta=20.0 / near),
        "Epanechnikov": partial(am.EpanechnikovMemory, beta=reach, eps=1e-6),
        "sparsemax": partial(am.SparseHopfield, beta=beta, alpha=2.0),
        "1.5-entmax": partial(am.SparseHopfield, beta=beta, alpha=1.5),
        "polynomial n=3": partial(am.PolynomialMemory, n=3),
        "dot kernel, n=29": partial(
            am.KernelMemory, similarity="dot", separation="polynomial", n=29
        ),
        **kernels,
        "binary, n=30": partial(am.PolynomialDenseAM, n=30),
        "binary, exponential": am.ExponentialDenseAM,
    }


def start(model, x, key):
    """Recall, with what each kind of memory needs: spins, a sphere, or nothing."""
    if isinstance(model, am.AbstractBinaryAM):
        return model.recall(jnp.where(x < 0, -1.0, 1.0), key=key, max_sweeps=10)
    if isinstance(model, am.KernelMemory) and model.similarity == "dot":
        radius = jnp.sqrt(jnp.asarray(x.size, x.dtype))
        scaled = am.KernelMemory(model.Xi / radius, "dot", "polynomial", n=model.n)
        end = scaled.recall(x / radius, project=am.Sphere(1.0), max_steps=200)
        return eqx.tree_at(lambda r: r.x, end, end.x * radius)
    if isinstance(model, am.PolynomialMemory):  # the picture is what the units send
        end = model.recall(x, max_steps=200)
        return eqx.tree_at(lambda r: r.x, end, model.activation(end.x))
    return model.recall(x, max_steps=200)


POLYNOMIAL = [
    "Polynomial n=3 recalls none of these: with a power this low, patterns that overlap merge. At",
    "a pattern its own pull is m^2 = 1 and that of all others the sum of their squared overlaps:",
    "11.8 on 200 icons (mean overlap 0.21), 224 on 500 MNIST pictures (0.67; own 0.93). Of 60",
    "icons all 20 tried ended in one common state. Three icons it recalls, and random patterns",
    "(20 of 200 units, 0.2 flipped: tested in `tests/continuous`).",
]
COUNTS = [10, 30, 100, 300, 1000, 3000]
COUNTED = {"flips": 0.2, "masked": 0.5}
HANDFUL = [
    "modern Hopfield", "Gaussian", "1.5-entmax", "cosine kernel", "euclidean kernel",
    "polynomial n=3", "binary, n=30", "binary, exponential",
]  # fmt: skip


def compare(K_mnist: int, queries: int, only: list[str]) -> None:
    """Measure all memories, or `only` some and keep the rest; write the table and its figure."""
    rows, began, machine = kept(only), time.perf_counter(), describe()
    order = {}
    sets = {"icons": icons(K_ICONS), f"MNIST, K={K_mnist}": mnist(K_mnist)}
    for data, patterns in sets.items():
        Xi = jnp.asarray(patterns)
        mean = jnp.mean(Xi, axis=0)
        success = lambda x, xi, mean=mean: cosine(x - mean, xi - mean) > 0.9
        for name, make in models(Xi).items():
            order[data, name] = len(order)
            if only and name not in only:
                continue
            n = min(queries, len(Xi))
            for noise, (corrupt, levels) in NOISES.items():
                curve = retrieval_curve(
                    make, Xi, corrupt, levels, jr.key(0),
                    queries=n, recall=start, success=success, progress=False,
                )  # fmt: skip
                columns = (curve.success, curve.success_low, curve.success_high,
                           curve.converged, curve.steps)  # fmt: skip
                for level, *found in zip(levels, *columns, strict=True):
                    rows.append([data, len(Xi), name, noise, level, *map(float, found), n])
            print(data, name, round(time.perf_counter() - began), "s", file=sys.stderr, flush=True)
    rows.sort(key=lambda row: order[row[0], row[2]])
    write(rows, machine, time.perf_counter() - began)


def against_counts(queries: int = 200) -> None:
    """Success on MNIST against the number of stored patterns, parameters set anew for each."""
    machine = describe()
    Xi, began, rows = jnp.asarray(mnist(COUNTS[-1])), time.perf_counter(), []
    mean = jnp.mean(Xi, axis=0)
    success = lambda x, xi: cosine(x - mean, xi - mean) > 0.9
    for name in HANDFUL:
        for (noise, level), K in itertools.product(COUNTED.items(), COUNTS):
            curve = retrieval_curve(
                lambda Xi, name=name: models(Xi)[name](Xi), Xi, NOISES[noise][0], [level],
                jr.key(0), counts=[K], queries=min(queries, K) if noise == "masked" else queries,
                recall=start, success=success, progress=False,
            )  # fmt: skip
            columns = (curve.K, curve.success, curve.success_low, curve.success_high,
                       curve.converged, curve.steps, curve.queries)  # fmt: skip
            rows.append([name, noise, level, *(float(column[0]) for column in columns)])
        print(name, round(time.perf_counter() - began), "s", file=sys.stderr, flush=True)
    head = "model noise level K success low high converged steps queries".split()
    with open(OUT / "compare_counts.csv", "w", newline="") as f:
        csv.writer(f).writerows([head, *rows])
    lines = ["# Success of recall on MNIST against the number of stored patterns", "", machine]
    lines += [
        f"Share of {queries} queries that end with a centred cosine above 0.9 to their pattern,",
        "in percent, with its 95 % interval (Wilson). Queries go over the first pictures in turn,",
        "and ask again with other flips where these are fewer; of half hidden pictures there are",
        "only as many queries as pictures.",
        "Parameters are set anew for every K, by the rule of `compare_memories.py`. Binary",
        "memories start from the signs of the query and hold grey pictures, which they can only",
        "approach. Why polynomial n=3 recalls none: see `compare_memories.md`.",
        "",
        "![Success against the number of stored patterns](compare_counts.png)",
        "",
    ]
    for noise, level in COUNTED.items():
        lines += [f"## {noise} {level:g}", "",
                  "| model | " + " | ".join(f"K={k}" for k in COUNTS) + " |",
                  "|---" * (1 + len(COUNTS)) + "|"]  # fmt: skip
        for name in HANDFUL:
            cells = [interval(*r[4:7]) for r in rows if r[:2] == [name, noise]]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    (OUT / "compare_counts.md").write_text("\n".join(lines))
    draw_counts(rows)


def draw_counts(rows: list) -> None:
    """One heat map for each noise."""
    figure = Figure(figsize=(9, 3.9), layout="constrained")
    names = list(dict.fromkeys(r[0] for r in rows))
    for ax, (noise, level) in zip(figure.subplots(1, 2, sharey=True), COUNTED.items(), strict=True):
        found = {(r[0], int(r[3])): r[4] for r in rows if r[1] == noise}
        heat(ax, np.array([[found[name, K] for K in COUNTS] for name in names]), names)
        ax.set_xticks(range(len(COUNTS)), [f"{K:,}" for K in COUNTS], fontsize=9)
        ax.set_xlabel("stored patterns, K", fontsize=9)
        few, many = (100 * widest([r for r in rows if r[1] == noise and r[3] == K], 4)
                     for K in (COUNTS[0], COUNTS[-1]))  # fmt: skip
        within = (
            f"intervals within {few:.0f} points at K = {COUNTS[0]}, {many:.0f} at {COUNTS[-1]:,}"
        )
        title = f"{noise}: {WORDS[noise]} {level:g}\n{within}"
        ax.set_title(title, loc="left", fontsize=9)
    figure.suptitle(
        "MNIST, D = 784: recalls with a centred cosine above 0.9, in percent of "
        f"{int(max(r[-1] for r in rows))} queries\n(masked: at most K); one seed, 95 % intervals "
        "(Wilson)",
        fontsize=10,
    )
    figure.savefig(OUT / "compare_counts.png", dpi=130)


def stored(name: str) -> list[list]:
    """The rows of a stored table: words as they are, numbers as numbers."""

    def value(text: str) -> str | float:
        try:
            return float(text)
        except ValueError:
            return text

    with open(OUT / f"{name}.csv") as f:
        return [list(map(value, row)) for row in list(csv.reader(f))[1:]]


def kept(only: list[str]) -> list:
    """The rows of an earlier run for all memories but `only` these."""
    if not only:
        return []
    return [[*r[:1], int(r[1]), *r[2:-1], int(r[-1])] for r in stored("compare_memories")
            if r[2] not in only]  # fmt: skip


def write(rows: list, machine: str, seconds: float) -> None:
    """The long table as CSV, the wide one as Markdown, and the figure."""
    head = "data K model noise level success low high converged steps queries".split()
    with open(OUT / "compare_memories.csv", "w", newline="") as f:
        csv.writer(f).writerows([head, *rows])
    lines = ["# Success of recall: all memories, two data sets, three kinds of noise", ""]
    lines += [*machine.splitlines(), f"- seconds of the last run: {seconds:.0f}", ""]
    lines += [
        "Share of queries that end with a centred cosine above 0.9 to their pattern, in percent,",
        f"with its 95 % interval (Wilson): {max(r[-1] for r in rows)} queries, each of another "
        "pattern, one seed.",
        "Binary memories start from the signs of the query. Parameters: see the script.",
        "",
        "![Success of recall](compare_memories.png)",
        "",
        *POLYNOMIAL,
        "",
    ]
    columns = [(noise, level) for noise, (_, levels) in NOISES.items() for level in levels]
    for data in dict.fromkeys(r[0] for r in rows):
        lines += [f"## {data}", "", "| model | " +
                  " | ".join(f"{a} {b:g}" for a, b in columns) + " |",
                  "|---" * (1 + len(columns)) + "|"]  # fmt: skip
        for name in dict.fromkeys(r[2] for r in rows):
            found = {(r[3], r[4]): r for r in rows if r[0] == data and r[2] == name}
            cells = [interval(*found[c][5:8]) for c in columns]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        lines.append("")
    (OUT / "compare_memories.md").write_text("\n".join(lines))
    draw(rows)


def interval(share: float, low: float, high: float) -> str:
    """A share and its interval, in percent."""
    return f"{100 * share:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def widest(rows: list, at: int) -> float:
    """The longest side of an interval; the share is in this column, its limits are in the next."""
    return max(max(r[at] - r[at + 1], r[at + 2] - r[at]) for r in rows)


def heat(ax: Any, table: np.ndarray, names: list[str]) -> None:
    """Shares as colours that also differ in brightness, each with its number in percent."""
    ax.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
    for (i, j), value in np.ndenumerate(table):
        ink = "black" if value > 0.6 else "white"
        ax.text(j, i, f"{100 * value:.0f}", ha="center", va="center", color=ink, fontsize=8)
    ax.set_yticks(range(len(names)), names, fontsize=9)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


WORDS = {
    "flips": "probability of a flip",
    "masked": "hidden share",
    "gaussian": "standard deviation",
}


def draw(rows: list) -> None:
    """A heat map for each data set and noise: lines would hide one another."""
    data, names = (list(dict.fromkeys(r[i] for r in rows)) for i in (0, 2))
    widths = [len(levels) for _, levels in NOISES.values()]
    figure = Figure(figsize=(9.6, 7.2), layout="constrained")
    axes = figure.subplots(len(data), 3, sharey=True, width_ratios=widths)
    share = {(*r[:1], *r[2:5]): r[5] for r in rows}
    for line, d in zip(axes, data, strict=True):
        K, pixels = int(next(r[1] for r in rows if r[0] == d)), 2304 if d == "icons" else 784
        for ax, (noise, (_, levels)) in zip(line, NOISES.items(), strict=True):
            table = np.array([[share[d, name, noise, level] for level in levels] for name in names])
            heat(ax, table, names)
            ax.set_xticks(range(len(levels)), [f"{level:g}" for level in levels], fontsize=9)
            ax.set_xlabel(f"{noise}: {WORDS[noise]}", fontsize=9)
        title = f"{d.split(',')[0]}: K = {K}, D = {pixels:,}"
        line[0].set_title(title, loc="left", fontsize=10, fontweight="bold")
    queries = int(max(r[-1] for r in rows))
    figure.suptitle(
        f"Recalls with a centred cosine above 0.9, in percent of {queries} queries; one seed, "
        f"95 % intervals (Wilson) within {100 * widest(rows, 5):.0f} points",
        fontsize=10,
    )
    figure.colorbar(axes[0, 0].images[0], ax=axes, shrink=0.5, aspect=30, label="share recalled")
    figure.savefig(OUT / "compare_memories.png", dpi=130)


def main() -> None:
    """What the words after the script's name ask for."""
    OUT.mkdir(exist_ok=True)
    if sys.argv[1:] == ["--draw"]:
        draw(stored("compare_memories"))
        draw_counts(stored("compare_counts"))
    elif sys.argv[1:2] == ["counts"]:
        against_counts(*map(int, sys.argv[2:3]))
    else:
        K, number = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (500, 200)
        compare(K, number, sys.argv[3:])


if __name__ == "__main__":
    main()
