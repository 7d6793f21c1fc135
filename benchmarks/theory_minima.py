"""How many minima the energies of Gaussian and Epanechnikov kernels have, against beta.

python benchmarks/theory_minima.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from captions import captioned
from theory_figures import main, mean_and_error, plus_minus, table

import amlib as am
from amlib import theory
from amlib.plots.pictures import BLUE, FAINT, ORANGE, new_figure, place, style

D, K, DRAWS, STARTS = 8, 14, 5, 1500
BETAS = np.geomspace(1.5, 150, 20)
CLOSE = 1e-2  # of two ends that are one minimum; patterns are some 0.5 apart or more
KINDS = {"gaussian": am.GaussianMemory, "epanechnikov": am.EpanechnikovMemory}


def run(quick):
    K_, starts, draws, betas = (4, 40, 2, BETAS[::9]) if quick else (K, STARTS, DRAWS, BETAS)
    patterns = [jr.uniform(jr.key(seed), (K_, D)) for seed in range(draws)]
    rows = []
    for beta in betas:
        row = {"beta": beta}
        counts = {
            kind: [found(make, Xi, beta, starts) for Xi in patterns] for kind, make in KINDS.items()
        }
        counts["exact"] = [len(centroids(np.asarray(Xi), beta)) for Xi in patterns]
        for kind, values in counts.items():
            row[kind], row[kind + "_error"] = mean_and_error(values)
        rows.append(row)
        print({k: round(float(v), 2) for k, v in row.items()}, flush=True)
    nearest = [np.sqrt(np.sort(squares(np.asarray(Xi)), 1)[:, 1]) for Xi in patterns]
    return {
        "rows": rows, "K": K_, "starts": starts, "draws": draws,
        "nearest": np.mean(nearest), "least": np.mean([r.min() for r in nearest]),
        "variance": np.mean([np.linalg.eigvalsh(np.cov(Xi.T, bias=True))[-1] for Xi in patterns]),
    }  # fmt: skip


def squares(x, y=None):
    """Squared distances of rows."""
    y = x if y is None else y
    return np.maximum((x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T, 0)


def found(make, Xi, beta, starts):
    """How many minima recalls end in, from patterns, centroids of a few, and anywhere."""
    some, few, where = jr.split(jr.key(7), 3)
    masks = jr.uniform(some, (starts // 2, len(Xi)))
    size = jr.randint(few, (starts // 2, 1), 2, len(Xi) + 1)
    masks = masks <= jnp.take_along_axis(jnp.sort(masks, 1), size - 1, 1)
    masks = masks.astype(Xi.dtype)
    centres = masks @ Xi / masks.sum(1, keepdims=True)
    x0 = jnp.concatenate([Xi, centres, jr.uniform(where, (starts - starts // 2, D))])
    x, ended, least = ends(make(Xi, jnp.float32(beta)), x0)
    x = np.asarray(x)[np.asarray(ended & (least > 0))]
    return len(distinct(x))


@eqx.filter_jit
def ends(memory, x0):
    """Where recalls end, whether they rest there, and the least curvature."""
    end = jax.vmap(lambda x: memory.recall(x, max_steps=3000, tol=1e-5))(x0)
    hessian = lambda x: jnp.linalg.eigvalsh(jax.hessian(memory.energy)(x))[0]
    return end.x, end.result == am.RESULTS.converged, jax.vmap(hessian)(end.x)


def distinct(x):
    """One of each group of states that lie close together."""
    kept = np.empty((0, x.shape[1]), x.dtype)
    for row in x:
        if not len(kept) or squares(row[None], kept).min() > CLOSE**2:
            kept = np.concatenate([kept, row[None]])
    return kept


def centroids(Xi, beta):
    """All minima of the Epanechnikov energy: sets of patterns that alone reach their centroid."""
    sets = (np.arange(1, 2 ** len(Xi))[:, None] >> np.arange(len(Xi))) & 1
    centres = sets @ Xi / sets.sum(1, keepdims=True)
    reached = squares(centres, Xi) < 2 / beta
    return centres[(reached == (sets == 1)).all(1)]


def draw(data):
    figure = new_figure(1150, 720)
    ax = place(figure, 110, 40, 990, 570)
    column = lambda kind: ([r[k] for r in data["rows"]] for k in ("beta", kind, kind + "_error"))
    beta, exact, _ = column("exact")
    ax.plot(beta, exact, color="black", linewidth=1.2, label="Epanechnikov, all (enumerated)")
    for kind, color, name in (
        ("epanechnikov", ORANGE, "Epanechnikov, found by recalls"),
        ("gaussian", BLUE, "log-sum-exp, found by recalls"),
    ):
        ax.errorbar(*column(kind), fmt="o", markersize=4, color=color, capsize=3, label=name)
    ax.axhline(data["K"], color=FAINT, linewidth=1, linestyle=":")
    ax.text(beta[0], 1.1 * data["K"], f"K = {data['K']}", fontsize=8, color=FAINT)
    for where, color, name in (
        (1 / data["variance"], BLUE, "centre splits"),
        (theory.merging_beta(data["nearest"]), BLUE, "neighbours part"),
        (2 * theory.merging_beta(data["least"]), ORANGE, "supports disjoint"),
    ):
        ax.axvline(where, color=color, linewidth=1, linestyle="--")
        ax.text(1.02 * where, 1.03, name, fontsize=8, color=color, rotation=90, va="bottom")
    ax.set(xlabel="β", ylabel="minima", xscale="log", yscale="log")
    style(ax)
    ax.set_xticks([2, 5, 10, 20, 50, 100])
    ax.minorticks_off()
    ax.legend(frameon=False, fontsize=8)
    return captioned(
        figure,
        f"K = {data['K']} patterns, uniform in a cube of D = {D}; {DRAWS} draws (seeds), "
        f"{STARTS:,} recalls in each; bars: standard errors over draws; dashed: theory.",
    )


def page(data):
    """Minima of kernels' energies."""
    lines = [
        (f"{r['beta']:.3g}", *(plus_minus(r[k], r[k + "_error"], 1)
                               for k in ("gaussian", "epanechnikov", "exact")))
        for r in data["rows"]
    ]  # fmt: skip
    most = max(data["rows"], key=lambda r: r["exact"])
    return f"""Minima of log-sum-exp and Epanechnikov energies
{data["K"]} patterns, uniform in the unit cube of {D} dimensions, {data["draws"]} draws; error
bars are standard errors over draws. `GaussianMemory` and `EpanechnikovMemory` recall from the
patterns, from centroids of random sets of them and from random points, {data["starts"]:,} starts
in all; ends that have converged and have a positive curvature are counted, those closer than
{CLOSE} as one. Of the Epanechnikov energy all minima are known: sets of patterns of which just
the members lie within $\\sqrt{{2/\\beta}}$ of their centroid (Hoover et al. 2025, Proposition 2),
counted over all {2 ** data["K"] - 1:,} sets.

Dashed lines, of theory: the centre of all patterns is the only minimum of the log-sum-exp up to
about $\\beta = 1/\\lambda_{{max}}$ = {1 / data["variance"]:.1f}, the inverse of the largest
variance; two patterns at the mean distance of nearest neighbours, {data["nearest"]:.2f}, part at
`am.theory.merging_beta` = {theory.merging_beta(data["nearest"]):.1f}; the supports of the
Epanechnikov energy are disjoint from $8 / r^2$ = {2 * theory.merging_beta(data["least"]):.1f} on,
r = {data["least"]:.2f} the least distance.

What is seen, and why:

- The log-sum-exp has one minimum at small $\\beta$, {data["K"]} at large, and no more than that
  on the way; the Epanechnikov energy has up to {most["exact"]:.0f} (at $\\beta$ =
  {most["beta"]:.1f}).
- The log-sum-exp's minima part within a factor of two above the two lines, which are those of a
  Gaussian cloud and of two patterns alone: here each pattern has others around it that pull, so
  it takes a larger $\\beta$ to part them, and the nearest pairs come last.
- Recalls find all Epanechnikov minima where there are few. Where there are many, half of them
  have basins that none of {data["starts"]:,} starts fell into: a search counts a lower bound.
- From $8 / r^2$ on the supports of all patterns are disjoint and the count is exact, as theory
  has it; a little before, sets of the nearest pairs only are left.
- At small $\\beta$ all patterns reach the centre, and both energies have the one minimum.

{table(("beta", "log-sum-exp, found", "Epanechnikov, found", "Epanechnikov, all"), lines)}
"""


if __name__ == "__main__":
    main("theory_minima", run, draw, page)
