"""Unstable bits and capacities of polynomial memories of n = 2, 3, 4, over Gaussian theory.

python benchmarks/theory_polynomial.py
"""

import math

import jax.random as jr
import numpy as np
from captions import captioned
from scipy.special import factorial2
from theory_figures import (
    exponent,
    main,
    mean_and_error,
    plus_minus,
    powers,
    spins,
    table,
    unstable,
)

import amlib as am
from amlib import theory
from amlib.plots.pictures import BLUE, GREEN, ORANGE, new_figure, place, style

SIZES = {2: (100, 200, 400, 800), 3: (30, 60, 120, 240), 4: (16, 32, 64, 96)}
FACTORS = (0.25, 0.5, 0.75, 1.0, 1.5)  # of the number of patterns that theory names
ERROR, TESTED, BITS, DRAWS = 0.005, 128, 60_000, 6
COLORS = {2: BLUE, 3: ORANGE, 4: GREEN}


def capacity(make, n, N, guess, bias=0.0, *, factors=FACTORS, draws=DRAWS, bits=BITS):
    """Shares of unstable bits around a guessed capacity, and where they reach `ERROR`.

    **Arguments:**

    - `make`: from patterns and `n` to a memory.
    """
    counts = sorted({max(2, round(f * guess)) for f in factors})
    parts = math.ceil(bits / draws / (N * min(TESTED, counts[0])))  # sets of patterns in each draw
    shares = np.asarray(
        [[share(make, n, N, K, bias, (draw, parts)) for K in counts] for draw in range(draws)]
    )
    each = [reached(counts, row) for row in shares]
    K, K_error = mean_and_error([v for v in each if np.isfinite(v)])
    means = [mean_and_error(column) for column in shares.T]
    return {
        "n": n, "N": N, "counts": counts, "shares": [m for m, _ in means],
        "errors": [e for _, e in means], "K": K, "K_error": K_error,
    }  # fmt: skip


def share(make, n, N, K, bias, draws):
    """The share of bits of stored patterns that flip at once."""
    seed, parts = draws
    keys = jr.split(jr.fold_in(jr.key(seed), K), parts)
    memories = [make(spins(key, K, N, bias), n) for key in keys]
    return np.mean([float(unstable(m, m.Xi[:TESTED]).mean()) for m in memories])


def reached(counts, shares):
    """The number of patterns at which a rising share reaches `ERROR`, between those measured."""
    logs = np.log(np.maximum(shares, 1e-9))
    above = int(np.argmax(logs >= math.log(ERROR)))
    if above == 0:
        return math.nan
    a, b = logs[above - 1], logs[above]
    t = (math.log(ERROR) - a) / (b - a)
    return math.exp((1 - t) * math.log(counts[above - 1]) + t * math.log(counts[above]))


def polynomial(Xi, n):
    """The memory of Krotov and Hopfield, not rectified."""
    return am.PolynomialDenseAM(Xi, n, rectified=False)


def run(quick):
    rows = []
    for n, sizes in ({3: (12, 20)} if quick else SIZES).items():
        for N in sizes:
            more = {"draws": 3, "bits": 3000} if quick else {}
            rows.append(capacity(polynomial, n, N, theory.polynomial_capacity(N, n, ERROR), **more))
            print(n, N, rows[-1]["K"], rows[-1]["K_error"], flush=True)
    return {"rows": rows}


def fitted(rows):
    """The exponent through the three larger sizes, and its standard error."""
    rows = rows[-3:]
    return exponent(*([r[k] for r in rows] for k in ("N", "K", "K_error")))


def draw(data):
    figure = new_figure(1500, 680)
    left, right = place(figure, 130, 60, 590, 500), place(figure, 860, 60, 590, 500)
    x = np.linspace(0.06, 0.34, 100)  # (2n - 3)!! K / N^(n - 1)
    curve = [theory.error_probability(v * 100, 100, 2) for v in x]
    left.plot(x, curve, color="black", label="theory")
    for n in sorted({r["n"] for r in data["rows"]}):
        rows = [r for r in data["rows"] if r["n"] == n]
        for row, alpha in zip(rows, np.linspace(0.35, 1, len(rows)), strict=True):
            unit = row["N"] ** (n - 1) / float(factorial2(2 * n - 3))
            left.errorbar(
                np.asarray(row["counts"]) / unit, row["shares"], row["errors"], fmt="o",
                markersize=3.5, color=COLORS[n], alpha=alpha, capsize=2,
                label=f"n = {n}, N = {row['N']}" if row is rows[-1] else None,
            )  # fmt: skip
        N = [round(v) for v in np.geomspace(rows[0]["N"] / 1.2, rows[-1]["N"] * 1.2, 20)]
        curve = [theory.polynomial_capacity(v, n, ERROR) for v in N]
        right.plot(N, curve, color=COLORS[n], linewidth=1.2)
        right.errorbar(
            *([r[k] for r in rows] for k in ("N", "K", "K_error")), fmt="o", markersize=4,
            color=COLORS[n], capsize=3, label=f"n = {n}: N^{fitted(rows)[0]:.2f}",
        )  # fmt: skip
    left.set(xlabel="(2n \N{MINUS SIGN} 3)!! K / N$^{n-1}$", ylabel="share of unstable bits")
    left.set(yscale="log", ylim=(1e-5, 0.1))
    right.set(xlabel="units N", ylabel="patterns K at 0.5 % of unstable bits")
    right.set(xscale="log", yscale="log")
    for ax in (left, right):
        style(ax)
        ax.legend(frameon=False, fontsize=8)
    powers(left.yaxis)
    powers(right.yaxis)
    right.set_xticks([20, 50, 100, 200, 500])
    right.minorticks_off()
    return captioned(
        figure,
        f"K random patterns of N bits; {DRAWS} draws (seeds), at least {BITS:,} stored bits a "
        "point; bars: standard errors over draws; lines: theory.",
    )


def page(data):
    """Capacities of polynomial memories."""
    lines, exponents = [], []
    for row in data["rows"]:
        expected = theory.polynomial_capacity(row["N"], row["n"], ERROR)
        lines.append(
            (row["n"], row["N"], plus_minus(row["K"], row["K_error"], 1), f"{expected:,.1f}",
             plus_minus(row["K"] / expected, row["K_error"] / expected, 3))
        )  # fmt: skip
    for n in sorted({r["n"] for r in data["rows"]}):
        value = plus_minus(*fitted([r for r in data["rows"] if r["n"] == n]), 3)
        exponents.append(f"{value} for n = {n}")
    return f"""Capacity of polynomial memories
`PolynomialDenseAM(Xi, n, rectified=False)` of random patterns: which bits of stored patterns flip
at once, by `flip_energies`; {TESTED} patterns of each memory or all, at least {BITS:,} bits a
point, in {DRAWS} draws. Error bars are standard errors over draws. Lines:
`am.theory.error_probability` and `polynomial_capacity` at an error of {ERROR:.1%}. Fainter points
at the left are smaller systems.

Exponents through the three larger sizes: {"; ".join(exponents)} (theory: n - 1).

Where they differ, and why:

- Theory takes the sum over the other patterns for a Gaussian number. It is a sum of powers n - 1
  of overlaps: the larger n is, the more a few patterns of large overlaps count. Such heavy tails
  make more errors than a Gaussian where errors are rare (the fainter points at the left, up to
  ten times), and they fade as K grows: so the smallest systems of n = 3 and 4 hold less than
  theory, the larger ones what it says.
- At n = 2 it is the other way round, by 1 to 5 %: few patterns of few bits have an overlap that
  is binomial, with lighter tails. The own pattern is none of the others, and the flipped bit is
  one of N: corrections of order 1 / K and 1 / N.
- The bits are tested one step from the pattern. What recall makes of the first errors is not in
  this theory: at n = 2 an avalanche ends in the overlaps of `theory_overlap.md`.

{table(("n", "N", "measured K", "theory", "ratio"), lines)}
"""


if __name__ == "__main__":
    main("theory_polynomial", run, draw, page)
