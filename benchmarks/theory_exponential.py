"""How many patterns an exponential memory holds: three thresholds, over the random-energy theory.

python benchmarks/theory_exponential.py
"""

import math

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from captions import captioned
from theory_figures import (
    crossing,
    main,
    mean_and_error,
    plus_minus,
    recalled,
    spins,
    table,
    unstable,
)

import amlib as am
from amlib import theory
from amlib.plots.pictures import BLUE, FAINT, ORANGE, new_figure, place, style

# By the scale of the exponential; the largest rate of each size holds about a hundred thousand.
SIZES = {0.25: {16: 0.5, 24: 0.42, 32: 0.34}, 0.5: {12: 0.7, 16: 0.66, 24: 0.45}}
TESTED, DRAWS, DAMAGE, RATES = 32, 5, 1 / 8, 8
KINDS = {
    "outweighs": "the pattern's own term outweighs the others",
    "fixed": "the pattern is a fixed point",
    "mended": "recalled from 1/8 wrong bits",
}
COLORS = {0.25: ORANGE, 0.5: BLUE}


def run(quick):
    rows = []
    for scale, sizes in ({0.5: {8: 0.6}} if quick else SIZES).items():
        for N, top in sizes.items():
            for rate in np.linspace(0.06, top, 3 if quick else RATES):
                K = max(2, round(math.exp(rate * N)))
                shares = [measure(scale, N, K, seed) for seed in range(2 if quick else DRAWS)]
                row = {"scale": scale, "N": N, "K": K, "rate": math.log(K) / N}
                for kind in KINDS:
                    row[kind], row[kind + "_error"] = mean_and_error([s[kind] for s in shares])
                rows.append(row)
            print(scale, N, {kind: half(rows, scale, N, kind) for kind in KINDS}, flush=True)
    return {"rows": rows}


@eqx.filter_jit
def energies(memory, x):
    """Of some states, one after another."""
    return jax.lax.map(memory.energy, x)


def measure(scale, N, K, seed):
    """Shares of patterns, of one draw."""
    draw, damage, order = jr.split(jr.fold_in(jr.key(seed), K), 3)
    Xi = spins(draw, K, N)
    memory, x = am.ExponentialDenseAM(Xi, scale), Xi[np.arange(TESTED) % K]
    own = -scale * energies(memory, x) < scale * N + math.log(2)
    spoil = lambda k, x: am.data.corrupt.flip_exactly(k, x, round(DAMAGE * N))
    x0 = jax.vmap(spoil)(jr.split(damage, TESTED), x)
    end = recalled(memory, x0, order, am.Sweeps(record=0), 100)
    return {
        "outweighs": float(own.mean()),
        "fixed": float((~unstable(memory, x, 4).any(1)).mean()),
        "mended": float((end == x).all(1).mean()),
    }


def half(rows, scale, N, kind):
    """The rate up to which half of the patterns have it."""
    rows = [r for r in rows if (r["scale"], r["N"]) == (scale, N)]
    return crossing([r["rate"] for r in rows], [r[kind] for r in rows], 0.5)


def expected(scale, kind):
    """The threshold of theory, for a typical pattern."""
    if kind == "outweighs":
        return theory.exponential_threshold(scale)
    return theory.exponential_stability(scale, DAMAGE if kind == "mended" else 0.0)


def draw(data):
    figure = new_figure(1650, 560)
    axes = [place(figure, 100 + 530 * k, 70, 450, 370) for k in range(3)]
    for ax, (kind, title) in zip(axes, KINDS.items(), strict=True):
        for scale, color in COLORS.items():
            ax.axvline(expected(scale, kind), color=color, linewidth=1.4)
            sizes = sorted({r["N"] for r in data["rows"] if r["scale"] == scale})
            for N, alpha in zip(sizes, (0.35, 0.6, 1), strict=False):
                rows = [r for r in data["rows"] if (r["scale"], r["N"]) == (scale, N)]
                columns = ([r[k] for r in rows] for k in ("rate", kind, kind + "_error"))
                ax.errorbar(
                    *columns, fmt="o-", markersize=3, linewidth=1, color=color, alpha=alpha,
                    capsize=2, label=f"\N{GREEK SMALL LETTER LAMDA} = {scale}, N = {N}",
                )  # fmt: skip
        if kind == "fixed":
            ax.axvline(theory.exponential_stability(1.0, every=True), color=FAINT, linestyle=":")
        ax.set(xlabel="rate ln K / N", xlim=(0, 0.72), ylim=(-0.03, 1.04))
        style(ax)
        ax.set_title(title, fontsize=10, loc="left")
    axes[0].set_ylabel("share of patterns")
    axes[2].legend(frameon=False, fontsize=8, loc="upper right")
    return captioned(
        figure,
        f"Random patterns of N bits, K = exp(rate N); {TESTED} of them in each of {DRAWS} draws "
        "(seeds); bars: standard errors over draws; vertical lines: theory for N without limit.",
    )


def page(data):
    """Thresholds of exponential memories."""
    halves, lines = [], []
    for scale in dict.fromkeys(r["scale"] for r in data["rows"]):
        for kind, title in KINDS.items():
            sizes = dict.fromkeys(r["N"] for r in data["rows"] if r["scale"] == scale)
            found = [half(data["rows"], scale, N, kind) for N in sizes]
            cells = ", ".join(
                f"{v:.3f} ({N})" if math.isfinite(v) else f"not reached ({N})"
                for v, N in zip(found, sizes, strict=True)
            )
            halves.append((scale, title, cells, f"{expected(scale, kind):.3f}"))
    for r in data["rows"]:
        shares = (plus_minus(r[kind], r[kind + "_error"], 3) for kind in KINDS)
        lines.append((r["scale"], r["N"], f"{r['K']:,}", f"{r['rate']:.3f}", *shares))
    return f"""Thresholds of the exponential memory
`ExponentialDenseAM(Xi, beta=λ)` of $K = e^{{\\alpha N}}$ random patterns; {TESTED} of them in
each of {DRAWS} draws; error bars are standard errors over draws. Three questions of a stored
pattern: does its own term outweigh the sum of all others (`energy`); is it a fixed point
(`flip_energies`); and is it recalled exactly, by `Sweeps()`, from {DAMAGE:.3g} of its bits wrong.
Vertical lines: the thresholds of theory for N without limit, `am.theory.exponential_threshold` at
the left, `exponential_stability` in the middle and at the right; dotted the rate of $2^{{N/2}}$,
up to which *every* pattern is a fixed point. Fainter curves are smaller systems.

{table(("λ", "question", "half of the patterns up to a rate of (N)", "theory"), halves)}

What is seen, and why:

- The three thresholds differ, in the order that theory puts them. A pattern stays a fixed point
  far beyond the rate at which the sum of the others outweighs its own term: the sum is large, but
  a flip changes it little, and only its changes compete with the pattern.
- In the middle and at the right curves begin below their lines and come closer with N: every one
  of N bits has to hold, against the largest of N values of the noise, a shift of the order of ln
  N / N in the rate; and the noise has heavy tails where few patterns carry it.
- At the left the whole sum is compared, which fluctuates little: half of the patterns are near
  the line already in small systems.
- The number of patterns grows exponentially, so sizes much beyond these are out of reach, and the
  last part of the way to the limit cannot be followed: it is the order of the thresholds and the
  approach that the simulation confirms, not their third digit.

{table(("λ", "N", "K", "rate", *KINDS), lines)}
"""


if __name__ == "__main__":
    main("theory_exponential", run, draw, page)
