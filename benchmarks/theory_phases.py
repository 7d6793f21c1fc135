"""The phase diagram of the classical network: where Glauber dynamics keeps a pattern, over theory.

python benchmarks/theory_phases.py
"""

import jax.random as jr
import numpy as np
from captions import captioned
from theory_figures import crossing, main, mean_and_error, plus_minus, recalled, spins, table

import amlib as am
from amlib import theory
from amlib.plots.pictures import BLUE, FAINT, GREEN, ORANGE, PURPLE, new_figure, place, style

LOADS = (0.01, 0.02, 0.035, 0.05, 0.065, 0.08, 0.1, 0.12, 0.14, 0.16)
COARSE = (0.1, 0.4, 0.7, 1.0, 1.25)
NEAR = (0.85, 0.93, 0.98, 1.03, 1.08, 1.15)  # of the temperature that theory names
N, SWEEPS, CHAINS, DRAWS = 2000, 100, 8, 3


def run(quick):
    units, loads, sweeps, draws = (60, (0.05,), 10, 2) if quick else (N, LOADS, SWEEPS, DRAWS)
    rows, edges = [], []
    for load in loads:
        top = theory.retrieval_temperature(load)
        near = [round(f * top, 4) for f in NEAR] if top else []
        temperatures = sorted({*COARSE, *near})
        ends = np.asarray(
            [
                [overlaps(units, load, T, sweeps, seed) for T in temperatures]
                for seed in range(draws)
            ]
        )
        level = lost_below(load, top)
        for k, T in enumerate(temperatures):
            m, error = mean_and_error(ends[:, k].mean(-1))
            kept, kept_error = mean_and_error((ends[:, k] > level).mean(-1))
            rows.append(
                {"load": load, "T": T, "overlap": m, "overlap_error": error, "kept": kept,
                 "kept_error": kept_error, "near": T in near}
            )  # fmt: skip
        if top:
            each = [crossing(temperatures, (e > level).mean(-1), 0.5) for e in ends]
            T, error = mean_and_error(each)
            edges.append({"load": load, "T": T, "error": error, "theory": top, "level": level})
            print(load, T, error, top, flush=True)
    return {
        "rows": rows, "edges": edges, "lines": lines(2 if quick else 18),
        "N": units, "sweeps": sweeps, "draws": draws,
    }  # fmt: skip


def lost_below(load, top):
    """Half of the overlap that retrieval states have where they end."""
    return theory.retrieval(load, top * (1 - 1e-4)).overlap / 2 if top else 0.5


def overlaps(units, load, T, sweeps, seed):
    """Of chains that start on their patterns, each the mean over two late states."""
    K = max(1, round(load * units))
    draw, first, second = jr.split(jr.key(seed), 3)
    Xi = spins(draw, K, units)
    x0 = Xi[np.arange(CHAINS) % K]
    memory, method = am.ClassicalHopfield(Xi), am.Glauber(1 / (units * T), record=0)
    x = recalled(memory, x0, first, method, sweeps)
    y = recalled(memory, x, second, method, sweeps)
    return np.asarray(((x + y) * x0).mean(1) / 2)


def lines(points):
    """The transitions of theory, loads and temperatures."""
    high, low = np.linspace(0.06, 0.137, points), np.linspace(0.001, 0.0528, points)
    temperatures, root = np.linspace(1e-3, 1, 3 * points), np.linspace(0, 0.42, 3 * points)
    found = {
        "retrieval states end": ([theory.critical_load(T) for T in temperatures], temperatures),
        "retrieval states are lowest": (low, [theory.stability_temperature(a) for a in low]),
        "spin glass begins": (root**2, [theory.spin_glass_temperature(a) for a in root**2]),
        "replicas break up": (high, [theory.replica_temperature(a) for a in high]),
    }
    return {name: [list(map(float, column)) for column in line] for name, line in found.items()}


def draw(data):
    figure = new_figure(1080, 760)
    ax = place(figure, 100, 40, 780, 610)
    for (name, (x, y)), color, shape in zip(
        data["lines"].items(), (BLUE, GREEN, ORANGE, PURPLE), ("-", "--", ":", "-."), strict=True
    ):
        ax.plot(x, y, shape, color=color, linewidth=1.6, label=f"theory: {name}")
    rows = data["rows"]
    points = ax.scatter(
        [r["load"] for r in rows], [r["T"] for r in rows], c=[r["overlap"] for r in rows],
        cmap="Blues", vmin=0, vmax=1, edgecolors=FAINT, linewidths=0.5, s=26, zorder=3,
    )  # fmt: skip
    edges = data["edges"]
    ax.errorbar(
        *([e[k] for e in edges] for k in ("load", "T", "error")), fmt="x", color="black",
        markersize=7, capsize=3, zorder=4, label="measured: half of the chains lose the pattern",
    )  # fmt: skip
    ax.set(xlabel="load K / N", ylabel="temperature T", xlim=(0, 0.17), ylim=(0, 1.9))
    style(ax)
    ax.legend(frameon=False, fontsize=8, ncols=1, loc="upper right")
    bar = figure.colorbar(points, cax=place(figure, 910, 140, 22, 410))
    bar.set_label("overlap with the pattern", fontsize=9)
    bar.ax.tick_params(labelsize=8, colors=FAINT)
    return captioned(
        figure,
        f"K random patterns of N = {N:,} bits; {CHAINS} chains in each of {DRAWS} draws (seeds); "
        "bars: standard errors over draws.",
    )


def page(data):
    """Where Glauber dynamics keeps a pattern."""
    edges = [
        (e["load"], plus_minus(e["T"], e["error"], 3), f"{e['theory']:.3f}",
         f"{100 * (e['T'] / e['theory'] - 1):+.1f} %")
        for e in data["edges"]
    ]  # fmt: skip
    points = [
        (r["load"], f"{r['T']:.3f}", plus_minus(r["overlap"], r["overlap_error"], 3),
         plus_minus(r["kept"], r["kept_error"], 2),
         f"{theory.retrieval(r['load'], r['T']).overlap:.3f}")
        for r in data["rows"]
    ]  # fmt: skip
    return f"""The phase diagram of the classical network
`ClassicalHopfield`, N = {data["N"]:,}, `Glauber` at $\\beta = 1 / (N T)$ from a pattern: {CHAINS}
chains in each of {data["draws"]} draws of patterns, overlaps after {data["sweeps"]:,} and
{2 * data["sweeps"]:,} sweeps. Colour: the mean overlap. Crosses: the temperature at which half of
the chains have less than half of the overlap that retrieval states have where they end; error
bars are standard errors over draws. Lines: `am.theory.retrieval_temperature`,
`stability_temperature`, `spin_glass_temperature` and `replica_temperature`, replica symmetric.

{table(("load", "measured", "theory", "difference"), edges)}

Where they differ, and why:

- Up to a load of 0.1 the pattern is lost within 1 % of the temperature where theory says that
  retrieval states *end*. The line below which they are the lowest in free energy plays no part:
  between the two they are metastable, with a lifetime that grows exponentially with N, and chains
  from the pattern stay.
- At 0.12 the edge lies above the line by 0.016: a finite system keeps patterns beyond the
  critical load (`theory_overlap.md`), and towards it the line falls so steeply that a small shift
  of the load is a large one of the temperature. For the same reason overlaps are not 0 beyond
  0.138 at T = 0.1: some patterns are kept, others end in spin-glass states that
  {2 * data["sweeps"]:,} sweeps do not leave.
- The edge of single chains is smeared: between 0.93 and 1.08 of the temperature some chains keep
  the pattern and others lose it, as patterns differ and lifetimes are finite.
- Replica symmetry breaks below the dash-dotted line only, at temperatures under 0.022: what is
  measured here lies above it, but for states that have lost their pattern.

{table(("load", "T", "overlap", "kept", "theory"), points)}
"""


if __name__ == "__main__":
    main("theory_phases", run, draw, page)
