"""Capacities of the storage rules, measured: how many random patterns are recalled, against load.

```
python benchmarks/capacity_rules.py
python benchmarks/capacity_rules.py --draw   # the figure, from the stored numbers
```

Random patterns, two draws for each size; recall by `BipolarIsing` from the pattern itself and from
the pattern with 10 % of its bits flipped. A pattern counts as recalled if the overlap of the end
and the pattern exceeds 0.9 (for sparse patterns: if the common ones exceed 0.9 of the larger
number of ones). Writes `results/capacity_rules.json` and `.png`.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from captions import captioned, save
from machine import describe

import amlib as am
from amlib._intervals import wilson
from amlib.learning import rules
from amlib.plots.pictures import BLUE, ORANGE, PURPLE, TEXT, new_figure, place, style

OUT = Path(__file__).parent / "results"
DRAWS, QUERIES, ACTIVITY = 2, 40, 0.05
SIZES = (200, 400)
LOADS = {
    "hebb": [0.05, 0.1, 0.12, 0.14, 0.16, 0.18, 0.2, 0.25],
    "storkey": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    "pseudo_inverse": [0.1, 0.3, 0.5, 0.6, 0.8, 0.95, 0.99, 1.0, 1.02],
    "covariance": [0.1, 0.25, 0.4, 0.55, 0.7, 1.0],
}
KNOWN = {"hebb": 0.138, "pseudo_inverse": 1.0}


@eqx.filter_jit
def ends(J, h, x0, key):
    recall = lambda x, k: am.BipolarIsing(J, h).recall(x, key=k, record=0).x
    return jax.vmap(recall)(x0, jr.split(key, len(x0)))


@eqx.filter_jit
def flipped(key, x, share):
    """Each state with this share of its bits flipped (sparse ones: as many ones as zeros)."""
    if share == 0:
        return x
    exactly = lambda k, x: am.data.corrupt.flip_exactly(k, x, round(share * x.size))
    return jax.vmap(exactly)(jr.split(key, len(x)), x)


@eqx.filter_jit
def moved(key, x, share):
    """Sparse states with this share of their ones moved to other places."""

    def one(key, x):
        off, on = jr.split(key)
        noise = jr.uniform(off, x.shape), jr.uniform(on, x.shape)
        ones = x > 0
        count = jnp.round(share * ones.sum()).astype(int)
        lost = jnp.argsort(jnp.argsort(jnp.where(ones, noise[0], 2.0))) < count
        new = jnp.argsort(jnp.argsort(jnp.where(ones, 2.0, noise[1]))) < count
        return jnp.where(lost, -1.0, jnp.where(new, 1.0, x)).astype(x.dtype)

    return jax.vmap(one)(jr.split(key, len(x)), x)


def measure(rule, D, load, share, seed):
    """The share of patterns that are recalled."""
    K = max(1, round(load * D))
    rng = np.random.default_rng([seed, D, K])
    key = jr.key(seed)
    if rule == "covariance":
        eta = (rng.random((K, D)) < ACTIVITY).astype(np.float32)
        J, h = rules.covariance(eta, activity=ACTIVITY)
        x = jnp.asarray(2 * eta[np.arange(QUERIES) % K] - 1)
        end = ends(J, h, moved(key, x, share) if share else x, key)
        on, ones = end > 0, x > 0
        common = (on & ones).sum(1) / jnp.maximum(jnp.maximum(on.sum(1), ones.sum(1)), 1)
        return float((common > 0.9).mean())
    Xi = rng.choice(np.float32([-1, 1]), (K, D))
    x = jnp.asarray(Xi[np.arange(QUERIES) % K])
    end = ends(getattr(rules, rule)(Xi), None, flipped(key, x, share), key)
    return float(((end * x).mean(1) > 0.9).mean())


def crossing(loads, shares):
    """The load at which half of the patterns are recalled, between two measured ones."""
    for (a, fa), (b, fb) in zip(
        zip(loads, shares, strict=True), zip(loads[1:], shares[1:], strict=True), strict=False
    ):
        if fa >= 0.5 > fb:
            return a + (fa - 0.5) / (fa - fb) * (b - a)
    return None


def run():
    rows = []
    for rule, loads in LOADS.items():
        for D in SIZES:
            for share in (0.0, 0.1):
                start = time.perf_counter()
                curve = [
                    np.mean([measure(rule, D, load, share, seed) for seed in range(DRAWS)])
                    for load in loads
                ]
                half = crossing(loads, curve)
                rows.append(
                    {
                        "rule": rule, "D": D, "flips": share, "loads": loads,
                        "recalled": [round(float(v), 4) for v in curve],
                        "half_recalled_at_load": None if half is None else round(half, 4),
                    }
                )  # fmt: skip
                took = time.perf_counter() - start
                print(rule, D, share, "half at", half, f"{took:.0f} s", flush=True)
    return rows


def draw(rows):
    titles = {
        "hebb": "Hebb: known capacity 0.138 D",
        "storkey": "Storkey",
        "pseudo_inverse": "pseudo-inverse: known capacity D",
        "covariance": f"covariance, {ACTIVITY:.0%} ones",
    }
    figure = new_figure(1400, 1000)
    axes = [
        place(figure, 110 + 680 * (k % 2), 60 + 490 * (k // 2), 560, 340) for k in range(len(LOADS))
    ]
    for ax, rule in zip(axes, LOADS, strict=True):
        for row in (r for r in rows if r["rule"] == rule):
            color = dict(zip(SIZES, (ORANGE, BLUE), strict=True))[row["D"]]
            damaged = row["flips"] > 0
            low, high = wilson(row["recalled"], DRAWS * QUERIES)
            ax.fill_between(row["loads"], low, high, color=color, alpha=0.12, linewidth=0)
            ax.plot(
                row["loads"], row["recalled"], "--" if damaged else "-", color=color,
                linewidth=1.6, marker="o", markersize=3,
                label=f"D = {row['D']:,}" + (", 10 % damaged" if damaged else ""),
            )  # fmt: skip
        if rule in KNOWN:
            ax.axvline(KNOWN[rule], color=PURPLE, linewidth=1.2, linestyle=":")
        ax.set_title(titles[rule], fontsize=10, color=TEXT, loc="left")
        ax.set_xlabel("load, patterns per unit K / D")
        ax.set_ylabel("share of patterns recalled")
        ax.set_ylim(-0.03, 1.03)
        style(ax)
    axes[1].legend(frameon=False, labelcolor=TEXT, fontsize=8)
    captioned(
        figure,
        f"K random patterns of D bits; {DRAWS} draws (seeds), {QUERIES} recalls in each; bands: "
        "95 % intervals (Wilson) of all recalls; dotted: known capacity; dashed: a tenth of the "
        "bits flipped (covariance: of the ones moved).",
    )
    save(figure, OUT / "capacity_rules.png")


def main():
    if sys.argv[1:] == ["--draw"]:
        draw(json.loads((OUT / "capacity_rules.json").read_text())["rows"])
        return
    start = time.perf_counter()
    rows = run()
    note = partial(json.dumps, indent=1)
    text = note(
        {
            "what": __doc__.strip().splitlines()[0],
            "machine": describe().strip().splitlines(),
            "seconds": round(time.perf_counter() - start),
            "draws": DRAWS,
            "queries": QUERIES,
            "activity": ACTIVITY,
            "rows": rows,
        }
    )
    (OUT / "capacity_rules.json").write_text(text + "\n")
    draw(rows)


if __name__ == "__main__":
    main()
