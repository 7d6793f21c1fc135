"""All continuous memories side by side, on icons and MNIST, under three kinds of noise.

```
AMLIB_DATA=../shared/data python benchmarks/compare_memories.py                  # all
AMLIB_DATA=../shared/data python benchmarks/compare_memories.py 500 40 Gaussian  # one again
AMLIB_DATA=../shared/data python benchmarks/compare_memories.py counts           # against K
```

Writes `results/compare_memories.md`, `.csv` and `.png`; against the number of stored patterns
`results/compare_counts.md`, `.csv` and `.png`. A recall succeeds if the cosine of its end
and the pattern, background removed (both centred at the patterns' mean), exceeds 0.9.
"""

import csv
import gzip
import os
import sys
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from machine import describe

import amlib as am
from amlib.analysis import cosine, retrieval_curve, separation

OUT = Path(__file__).parent / "results"
SIDE = 28


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
    squares = ((rows[:, None] - rows[None]) ** 2).sum(-1) if len(rows) <= 200 else None
    if squares is None:
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
    "3.1 on 60 icons (mean overlap 0.20), 224 on 500 MNIST pictures (0.67; own 0.86). All 20 icons",
    "tried end in one common state. Three icons it recalls, and random patterns (20 of 200 units,",
    "0.2 flipped: tested in `tests/continuous`).",
]
COUNTS = [10, 30, 100, 300, 1000, 3000]
COUNTED = {"flips": 0.2, "masked": 0.5}
HANDFUL = [
    "modern Hopfield", "Gaussian", "1.5-entmax", "cosine kernel", "euclidean kernel",
    "polynomial n=3", "binary, n=30", "binary, exponential",
]  # fmt: skip


def main(K_mnist: int, queries: int, only: list[str]) -> None:
    """Measure all memories, or `only` some and keep the rest; write the table and its figure."""
    rows, began = kept(only), time.perf_counter()
    order = {}
    sets = {"icons": icons(60), f"MNIST, K={K_mnist}": mnist(K_mnist)}
    for data, patterns in sets.items():
        Xi = jnp.asarray(patterns)
        mean = jnp.mean(Xi, axis=0)
        success = lambda x, xi, mean=mean: cosine(x - mean, xi - mean) > 0.9
        for name, make in models(Xi).items():
            order[data, name] = len(order)
            if only and name not in only:
                continue
            n = min(queries, len(Xi))
            n = min(n, 20) if "binary" in name or "manhattan" in name else n
            for noise, (corrupt, levels) in NOISES.items():
                curve = retrieval_curve(
                    make, Xi, corrupt, levels, jr.key(0),
                    queries=n, recall=start, success=success, progress=False,
                )  # fmt: skip
                for i, level in enumerate(levels):
                    steps, done = float(curve.steps[i]), float(curve.converged[i])
                    rows.append((data, len(Xi), name, noise, level, float(curve.success[i]),
                                 done, steps, n))  # fmt: skip
            print(data, name, round(time.perf_counter() - began), "s", file=sys.stderr, flush=True)
    rows.sort(key=lambda row: order[row[0], row[2]])
    write(rows, time.perf_counter() - began)


def against_counts(queries: int = 20) -> None:
    """Success on MNIST against the number of stored patterns, parameters set anew for each."""
    Xi, began, rows = jnp.asarray(mnist(COUNTS[-1])), time.perf_counter(), []
    mean = jnp.mean(Xi, axis=0)
    success = lambda x, xi: cosine(x - mean, xi - mean) > 0.9
    for name in HANDFUL:
        for noise, level in COUNTED.items():
            curve = retrieval_curve(
                lambda Xi, name=name: models(Xi)[name](Xi), Xi, NOISES[noise][0], [level],
                jr.key(0), counts=COUNTS, queries=queries, recall=start, success=success,
                progress=False,
            )  # fmt: skip
            columns = curve.K, curve.success, curve.converged, curve.steps
            rows += [(name, noise, level, *map(float, row)) for row in zip(*columns, strict=True)]
        print(name, round(time.perf_counter() - began), "s", file=sys.stderr, flush=True)
    with open(OUT / "compare_counts.csv", "w", newline="") as f:
        csv.writer(f).writerows(["model noise level K success converged steps".split(), *rows])
    lines = ["# Success of recall on MNIST against the number of stored patterns", "", describe()]
    lines += [
        f"Share of {queries} queries that end with a centred cosine above 0.9 to their pattern;",
        "queries go over the first pictures in turn. Parameters are set anew for every K, by the",
        "rule of `compare_memories.py`. Binary memories start from the signs of the query and hold",
        "grey pictures, which they can only approach.",
        "Why polynomial n=3 recalls none: see `compare_memories.md`.",
        "",
    ]
    tables = {}
    for noise, level in COUNTED.items():
        title = f"{noise} {level:g}"
        tables[title] = table = np.array(
            [[r[4] for r in rows if r[:2] == (name, noise)] for name in HANDFUL]
        )
        lines += [f"## {title}", "", "| model | " + " | ".join(f"K={k}" for k in COUNTS) + " |",
                  "|---" * (1 + len(COUNTS)) + "|"]  # fmt: skip
        for name, line in zip(HANDFUL, table, strict=True):
            lines.append(f"| {name} | " + " | ".join(f"{v:.2f}" for v in line) + " |")
        lines.append("")
    (OUT / "compare_counts.md").write_text("\n".join(lines))
    draw_counts(tables)


def draw_counts(tables: dict) -> None:
    """One heat map per noise: lines would hide one another."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(tables), figsize=(9, 3.6), sharey=True)
    for ax, (title, table) in zip(axes, tables.items(), strict=True):
        ax.imshow(table, cmap="viridis", vmin=0, vmax=1, aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            ink = "black" if value > 0.6 else "white"
            ax.text(j, i, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
        ax.set_xticks(range(len(COUNTS)), [f"{k:,}" for k in COUNTS], fontsize=9)
        ax.set_yticks(range(len(HANDFUL)), HANDFUL, fontsize=9)
        ax.set_xlabel("stored patterns")
        ax.set_title(f"MNIST, {title}: success", fontsize=10)
    figure.tight_layout()
    figure.savefig(OUT / "compare_counts.png", dpi=130)


def kept(only: list[str]) -> list:
    """The rows of an earlier run for all memories but `only` these."""
    if not only:
        return []
    with open(OUT / "compare_memories.csv") as f:
        old = [row for row in csv.reader(f) if row[2] not in only][1:]
    return [(a, int(k), m, n, *map(float, rest), int(q)) for a, k, m, n, *rest, q in old]


def write(rows: list, seconds: float) -> None:
    """The long table as CSV, the wide one as Markdown, and the figure."""
    head = "data K model noise level success converged steps queries".split()
    with open(OUT / "compare_memories.csv", "w", newline="") as f:
        csv.writer(f).writerows([head, *rows])
    lines = ["# Success of recall: all memories, two data sets, three kinds of noise", ""]
    lines += [*describe().splitlines(), f"- seconds of the last run: {seconds:.0f}", ""]
    lines += [
        "Share of queries that end with a centred cosine above 0.9 to their pattern. Binary",
        "memories start from the signs of the query. Parameters: see the script.",
        "",
        *POLYNOMIAL,
        "",
    ]
    columns = [(noise, level) for noise, (_, levels) in NOISES.items() for level in levels]
    for data in dict.fromkeys(r[0] for r in rows):
        lines += [f"## {data}", "", "| model | queries | " +
                  " | ".join(f"{a} {b:g}" for a, b in columns) + " |",
                  "|---" * (2 + len(columns)) + "|"]  # fmt: skip
        for name in dict.fromkeys(r[2] for r in rows):
            found = {(r[3], r[4]): r for r in rows if r[0] == data and r[2] == name}
            cells = [f"{found[c][5]:.2f}" for c in columns]
            lines.append(f"| {name} | {found[columns[0]][8]} | " + " | ".join(cells) + " |")
        lines.append("")
    (OUT / "compare_memories.md").write_text("\n".join(lines))
    draw(rows)


def draw(rows: list) -> None:
    """One panel per data set and noise, one line per memory."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    data = list(dict.fromkeys(r[0] for r in rows))
    names = list(dict.fromkeys(r[2] for r in rows))
    figure, axes = plt.subplots(len(data), 3, figsize=(11, 3.1 * len(data)), sharey=True)
    colors = plt.get_cmap("tab20").colors
    for i, d in enumerate(data):
        for j, noise in enumerate(NOISES):
            for k, name in enumerate(names):
                line = [(r[4], r[5]) for r in rows if r[:1] == (d,) and r[2:4] == (name, noise)]
                style = "osv^D*"[k % 6] + ("-" if k < 10 else "--")
                axes[i, j].plot(
                    *zip(*line, strict=True), style, color=colors[k], ms=4, lw=1.4, label=name
                )
            axes[i, j].set_title(f"{d}: {noise}", fontsize=10)
            axes[i, j].grid(alpha=0.25)
            axes[i, j].set_ylim(-0.04, 1.04)
    labels = {"flips": "probability of a flip", "masked": "hidden share, from below",
              "gaussian": "standard deviation"}  # fmt: skip
    for j, noise in enumerate(NOISES):
        axes[-1, j].set_xlabel(labels[noise])
    for row in axes:
        row[0].set_ylabel("success")
    handles, texts = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, texts, loc="center right", fontsize=8, frameon=False)
    figure.tight_layout(rect=(0, 0, 0.84, 1))
    figure.savefig(OUT / "compare_memories.png", dpi=130)


if __name__ == "__main__":
    OUT.mkdir(exist_ok=True)
    if sys.argv[1:] == ["counts"]:
        against_counts()
        sys.exit()
    K, number = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (500, 40)
    main(K, number, sys.argv[3:])
