"""Hopfield-Fenchel-Young networks on icons and MNIST: single patterns, and several at once.

```
AMLIB_DATA=../shared/data python benchmarks/bench_structured.py
```

Writes `results/structured.md` and `.json`. Both sets are bundled: no network.

Single patterns by the protocol of Santos et al. 2024 (arXiv 2411.08590), whose rates are published
as figures: patterns in [-1, 1], the lower half of a query set to 0, five unit steps, success where
the cosine with the pattern exceeds 0.9; five seeds draw which patterns are stored. Beside it, the
share of exact associations: a weight of 1 on the pattern within 1e-3, and 0 on all others.

Associations of k patterns: the query is the sum of k stored patterns with noise; it succeeds where
after five unit steps the weights of those k are 1 within 1e-3, and all others 0. Free: any k
patterns. Sequential: k neighbours in the store; of 4 and 8 the query shows all but one (a middle
one), so that the bonus of neighbours must bring it.
"""

import itertools
import json
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from machine import describe

import amlib as am
from amlib import continuous as cont

OUT = Path(__file__).parent / "results"
SEEDS, STORED, STEPS, QUERIES = 5, 32, 5, 20
BETAS = (0.001, 0.01, 0.1, 1.0)
REGULARIZERS = {
    "softmax": cont.Softmax(),
    "1.5-entmax": cont.Entmax(1.5),
    "sparsemax": cont.Sparsemax(),
    "2-normmax": cont.Normmax(2.0),
}
POSTS = {"identity": cont.Identity(), "sphere": cont.UnitSphere(), "LayerNorm": cont.LayerNorm()}
SINGLE = [*((name, "identity") for name in REGULARIZERS), ("1.5-entmax", "sphere"),
          ("1.5-entmax", "LayerNorm")]  # fmt: skip
NUMBERS = (1, 2, 4, 8)
BONUS = 0.5  # of neighbours, in units of beta times the median squared norm of patterns


def pictures() -> dict[str, np.ndarray]:
    """All bundled icons, and the bundled MNIST pictures at their size, in [-1, 1]."""
    icons = np.asarray(am.data.icons().images, np.float32)
    digits = am.data.mnist("train", subset="bundled", size=icons.shape[1]).images
    digits = np.asarray(digits, np.float32)
    return {"icons": icons.reshape(len(icons), -1), "MNIST": digits.reshape(len(digits), -1)}


@eqx.filter_jit
def ends(model, queries):
    """States after the unit steps, and the weights there."""
    end = jax.vmap(lambda x: model.recall(x, method=am.CCCP(), max_steps=STEPS, tol=0.0).x)(queries)
    return end, jax.vmap(model.weights)(end)


def stored(data: np.ndarray, seed: int) -> jnp.ndarray:
    """Some of the pictures, in an order of their own."""
    order = np.random.default_rng(seed).permutation(len(data))[:STORED]
    return jnp.asarray(data[order])


def cosine(a, b):
    """Row by row."""
    return jnp.sum(a * b, 1) / jnp.linalg.norm(a, axis=1) / jnp.linalg.norm(b, axis=1)


def single(data: np.ndarray, regularizer, post, beta: float) -> tuple[list[float], list[float]]:
    """The share of successes of each seed, and that of exact associations."""
    near, exact = [], []
    for seed in range(SEEDS):
        Xi = stored(data, seed)
        queries = Xi.at[:, Xi.shape[1] // 2 :].set(0.0)
        if not isinstance(post, cont.Identity):  # patterns and queries go through it, as published
            Xi, queries = jax.vmap(post)(Xi), jax.vmap(post)(queries)
            scale = jnp.mean(jnp.sum(stored(data, seed) ** 2, 1)) / jnp.mean(jnp.sum(Xi**2, 1))
            model = am.HopfieldFenchelYoung(Xi, beta * scale, regularizer, post)
        else:
            model = am.HopfieldFenchelYoung(Xi, beta, regularizer, post)
        end, weights = ends(model, queries)
        near.append(float(jnp.mean(cosine(end, Xi) > 0.9)))
        exact.append(found(weights, np.arange(STORED)[:, None]))
    return near, exact


def groups(seed: int, k: int, neighbours: bool) -> np.ndarray:
    """Which k patterns each query associates."""
    rng = np.random.default_rng(100 + seed)
    if neighbours:
        return rng.integers(0, STORED - k + 1, QUERIES)[:, None] + np.arange(k)
    return np.array([rng.permutation(STORED)[:k] for _ in range(QUERIES)])


def found(weights, chosen) -> float:
    """The share of queries whose weights are 1 on the chosen patterns, and 0 elsewhere."""
    wanted = np.zeros(weights.shape)
    np.put_along_axis(wanted, chosen, 1.0, 1)
    return float((np.abs(np.asarray(weights) - wanted).max(1) < 1e-3).mean())


def several(data: np.ndarray, k: int, beta: float, neighbours: bool, bonus: bool) -> list[float]:
    """The share of exact associations of each seed."""
    out = []
    for seed in range(SEEDS):
        Xi = stored(data, seed)
        chosen = groups(seed, k, neighbours)
        shown = np.delete(chosen, k // 2, 1) if neighbours and k > 2 else chosen
        queries = Xi[shown].sum(1)
        queries = queries + 0.5 * jr.normal(jr.key(seed), queries.shape)
        transition = beta * BONUS * float(jnp.median(jnp.sum(Xi**2, 1)))
        kind = cont.SequentialKSubsets(k, transition) if bonus else cont.KSubsets(k)
        _, weights = ends(am.HopfieldFenchelYoung(Xi, beta, kind), queries)
        out.append(found(weights, chosen))
    return out


def main() -> None:
    """Measure, and write both files."""
    began, rows = time.perf_counter(), []
    for name, data in pictures().items():
        for (r, p), beta in itertools.product(SINGLE, BETAS):
            near, exact = single(data, REGULARIZERS[r], POSTS[p], beta)
            for task, rates in (("single", near), ("exact", exact)):
                rows.append({"data": name, "task": task, "regularizer": r, "post": p, "beta": beta,
                             "rates": rates})  # fmt: skip
        print(name, "single", round(time.perf_counter() - began), "s", flush=True)
        for task, bonus, k, beta in itertools.product(
            ("free", "sequential"), (False, True), NUMBERS, BETAS
        ):
            if task == "free" and bonus:
                continue
            rates = several(data, k, beta, task == "sequential", bonus)
            kind = "sequential k-subsets" if bonus else "k-subsets"
            rows.append({"data": name, "task": task, "regularizer": kind, "k": k, "beta": beta,
                         "rates": rates})  # fmt: skip
        print(name, "several", round(time.perf_counter() - began), "s", flush=True)
    write(rows, time.perf_counter() - began)


def write(rows: list[dict], seconds: float) -> None:
    """The rates of all seeds as JSON, means and standard deviations as tables."""
    (OUT / "structured.json").write_text(
        json.dumps({"machine": describe(), "seconds": round(seconds), "rows": rows}, indent=1)
    )
    tasks = {
        "free": "any k patterns, from their noisy sum",
        "sequential": "k neighbours, of 4 and 8 from all but a middle one",
    }
    cell = lambda row: f"{np.mean(row['rates']):.2f} ± {np.std(row['rates']):.2f}"
    lines = ["# Hopfield-Fenchel-Young networks: single patterns, and several at once", ""]
    lines += [*describe().splitlines(), f"- {seconds:.0f} seconds in all", ""]
    lines += [
        f"{STORED} stored pictures, {SEEDS} seeds (mean and standard deviation of the rates),",
        f"{STEPS} unit steps. What succeeds: see `bench_structured.py`. `beta` is in units of one",
        "over a dot product of pictures in [-1, 1]; where patterns go through a",
        "post-transformation, as in the published code, by their mean squared norm.",
        "MNIST is resized to the 48x48 pixels of the icons; the published one is 28x28.",
        "",
    ]
    alone = {"single": "a cosine above 0.9", "exact": "a weight of 1 on it alone, within 1e-3"}
    for data in dict.fromkeys(row["data"] for row in rows):
        for task, said in alone.items():
            lines += [f"## {data}, a single pattern from its upper half: {said}", ""]
            lines += ["| weights | post | " + " | ".join(f"beta {b:g}" for b in BETAS) + " |",
                      "|---" * (2 + len(BETAS)) + "|"]  # fmt: skip
            for r, p in SINGLE:
                cells = [cell(row) for row in rows if row["data"] == data and row["task"] == task
                         and row["regularizer"] == r and row["post"] == p]  # fmt: skip
                lines.append(f"| {r} | {p} | " + " | ".join(cells) + " |")
            lines.append("")
        lines.pop()
        for task, said in tasks.items():
            lines += ["", f"## {data}, {said}", ""]
            lines += ["| weights | k | " + " | ".join(f"beta {b:g}" for b in BETAS) + " |",
                      "|---" * (2 + len(BETAS)) + "|"]  # fmt: skip
            mine = [row for row in rows if row["data"] == data and row["task"] == task]
            for r, k in itertools.product(dict.fromkeys(x["regularizer"] for x in mine), NUMBERS):
                cells = [cell(x) for x in mine if x["regularizer"] == r and x["k"] == k]
                lines.append(f"| {r} | {k} | " + " | ".join(cells) + " |")
        lines.append("")
    (OUT / "structured.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
