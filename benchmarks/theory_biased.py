"""How polynomial memories lose their capacity to biased patterns, over theory.

python benchmarks/theory_biased.py
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from captions import captioned
from theory_figures import exponent, main, plus_minus, powers, table
from theory_polynomial import BITS, DRAWS, ERROR, TESTED, capacity, polynomial

import amlib as am
from amlib import theory
from amlib.plots.pictures import BLUE, FAINT, GREEN, ORANGE, new_figure, place, style

BIAS = 0.6
FACTORS = (0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 1.0, 1.25)  # of the number that theory names
SIZES = {
    (3, 0.0, "by deviations"): (40, 80, 160, 320),
    (4, 0.0, "by deviations"): (20, 40, 80),
    (3, BIAS, "by deviations"): (40, 80, 160, 320),
    (4, BIAS, "by deviations"): (20, 40, 80, 160, 320),
    (3, BIAS, "as they stand"): (40, 80, 160, 320),
    (4, BIAS, "as they stand"): (40, 80, 160, 320),
}


class Deviations(am.BinaryAM):
    """What differs from the mean of patterns that are biased."""

    n: int = eqx.field(static=True)
    bias: float = eqx.field(static=True)

    def energy(self, x):
        """The energy of a state."""
        return -jnp.sum(((self.Xi - self.bias) @ (x - self.bias)) ** self.n)


def run(quick):
    rows = []
    for (n, bias, kind), sizes in SIZES.items():
        if quick and (n, bias) != (3, BIAS):
            continue
        for N in (40, 60) if quick else sizes:
            more = {"draws": 3, "bits": 3000} if quick else {}
            if kind == "by deviations":
                make, guess = (lambda Xi, n: Deviations(Xi, n, bias)), expected(n, N, bias)  # noqa: B023
            else:
                make, guess = polynomial, overwhelmed(n, N, bias)
            row = capacity(
                make, n, N, guess, bias, factors=FACTORS[::3] if quick else FACTORS, **more
            )
            rows.append(row | {"bias": bias, "kind": kind})
            print(n, bias, kind, N, row["K"], row["K_error"], guess, flush=True)
    return {"rows": rows}


def expected(n, N, bias):
    """The capacity by theory."""
    return theory.polynomial_capacity(N, n, ERROR, bias)


def overwhelmed(n, N, bias):
    """Where what the others have in common turns the rarer bits over, however large N is."""
    del N
    return bias ** (1 - 2 * n)


def groups(data):
    """Rows by power, bias and kind."""
    keys = dict.fromkeys((r["n"], r["bias"], r["kind"]) for r in data["rows"])
    return {k: [r for r in data["rows"] if (r["n"], r["bias"], r["kind"]) == k] for k in keys}


def fitted(rows):
    """The exponent through all sizes, and its standard error."""
    return exponent(*([r[k] for r in rows] for k in ("N", "K", "K_error")))


def draw(data):
    figure = new_figure(1500, 680)
    axes = {3: place(figure, 130, 70, 590, 490), 4: place(figure, 860, 70, 590, 490)}
    for (n, bias, kind), rows in groups(data).items():
        color = BLUE if not bias else ORANGE if kind == "by deviations" else GREEN
        N = [round(v) for v in np.geomspace(rows[0]["N"] / 1.3, 1500, 40)]
        curve = [(expected if kind == "by deviations" else overwhelmed)(n, v, bias) for v in N]
        axes[n].plot(N, curve, color=color, linewidth=1.2)
        name = f"bias {bias}, {kind}" if bias else "no bias"
        axes[n].errorbar(
            *([r[k] for r in rows] for k in ("N", "K", "K_error")), fmt="o", markersize=4,
            color=color, capsize=3, label=name,
        )  # fmt: skip
        if n == 4 and bias and kind == "by deviations":
            last = np.asarray([N[-1], 300.0])
            guide = 0.3 * curve[-1] * (last / N[-1]) ** theory.biased_exponent(n)
            axes[n].plot(last, guide, "--", color=FAINT)
            axes[n].text(800, 0.12 * guide.mean(), "N²", fontsize=9, color=FAINT)
    for n, ax in axes.items():
        ax.set(xlabel="units N", xscale="log", yscale="log", xlim=(15, 1600))
        style(ax)
        ax.set_title(f"n = {n}", fontsize=10, loc="left")
        ax.set_xticks([20, 50, 100, 200, 500, 1000])
        ax.minorticks_off()
        powers(ax.yaxis)
        if ax.get_legend_handles_labels()[0]:
            ax.legend(frameon=False, fontsize=8, loc="upper left")
    axes[3].set_ylabel("patterns K at 0.5 % of unstable bits")
    return captioned(
        figure,
        f"Random patterns of N bits with mean 0 or {BIAS}; {DRAWS} draws (seeds). Points: the K at "
        f"which {100 * ERROR:g} % of stored bits flip; bars: standard errors over draws; lines: "
        "theory.",
    )


def page(data):
    """Biased patterns."""
    lines, exponents = [], []
    for (n, bias, kind), rows in groups(data).items():
        by = expected if kind == "by deviations" else overwhelmed
        for row in rows:
            K = by(n, row["N"], bias)
            lines.append(
                (n, bias, kind, row["N"], plus_minus(row["K"], row["K_error"], 1), f"{K:,.1f}",
                 plus_minus(row["K"] / K, row["K_error"] / K, 3))
            )  # fmt: skip
        N = [r["N"] for r in rows]
        of_theory = exponent(N, [by(n, v, bias) for v in N], [1e-3 * by(n, v, bias) for v in N])[0]
        limit = 0 if kind != "by deviations" else theory.biased_exponent(n) if bias else n - 1
        exponents.append(
            (n, bias, kind, f"{N[0]} to {N[-1]}", plus_minus(*fitted(rows), 2),
             f"{of_theory:.2f}", f"{limit:g}")
        )  # fmt: skip
    return f"""Biased patterns and the capacity of polynomial memories
Patterns whose bits have a mean of b = {BIAS} (four bits in five are +1), or none. Two energies,
both written for this benchmark or taken from the library: of the deviations, $-\\sum_\\mu
((\\xi_\\mu - b) \\cdot (x - b))^n$, and as they stand, $-\\sum_\\mu (\\xi_\\mu \\cdot x)^n$. The
capacity is where {ERROR:.1%} of the bits of stored patterns flip at once; {TESTED} patterns of
each memory or all, at least {BITS:,} bits a point in {DRAWS} draws; error bars are standard
errors over draws. Lines: `am.theory.polynomial_capacity(N, n, {ERROR}, bias)`, and $b^{{1 - 2n}}$
as they stand.

Exponents of N through all sizes of the table below, of theory at the same sizes, and of theory at
N without limit (`am.theory.biased_exponent`):

{table(("n", "bias", "stored", "N", "measured", "theory, same N", "limit"), exponents)}

What is seen, and why:

- As they stand, biased patterns share their mean: each adds the same field to the rarer bits, and
  a number of patterns that hardly grows with N turns them over, about {BIAS**-5:.0f} at n = 3 and
  {BIAS**-7:.0f} at n = 4. That is where half of the rarer bits of a typical pattern go;
  {ERROR:.1%} of all bits are reached sooner, as overlaps vary by $1/\\sqrt{{N}}$, and the points
  creep up to the line.
- By their deviations, n = 3 keeps its exponent of 2 and loses a factor of 4. At n = 4 the squares
  of deviations add up with one sign: $(\\xi_i - b)^2 R^2$, with R the sum over the other bits,
  has a mean of order N, and a flip takes $x_i - b$ to another size, so that its even powers do
  not cancel. The pattern's own part grows as $N^3$: no more than about $N^2$ patterns are held.
- At these sizes the width of the noise counts as much as its mean, and patterns with few bits of
  the rarer sign as much as typical ones: both exponents fitted at a bias are above their limits,
  in theory as in the simulation. At n = 4 theory falls to 2 from N of some thousands on (0.110
  $N^2$ patterns at N = 320, 0.197 $N^2$ at 10,000): the limit itself is out of reach here.
- Small systems hold less than theory. It has patterns of different activity (those with few bits
  of the rarer sign hold less), but takes what the others add for Gaussian, and with a bias that
  sum is skewed and its tails heavy: deviations are {1 + BIAS:.1f} or {1 - BIAS:.1f}. The ratio of
  measured to theory rises towards 1 from N = 40 on in every group.

{table(("n", "bias", "stored", "N", "measured K", "theory", "ratio"), lines)}
"""


if __name__ == "__main__":
    main("theory_biased", run, draw, page)
