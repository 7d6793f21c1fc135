"""How long a sequence plays without an error: capacities over theory, timing, a film of icons.

python benchmarks/bench_sequences.py
"""

import functools
import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from captions import captioned
from theory_figures import crossing, main, powers, table

import amlib as am
from amlib import theory
from amlib.plots.pictures import BLUE, GREEN, ORANGE, PURPLE, new_figure, place, style

SIZES = {1: (25, 50, 100), 2: (25, 50, 100), 3: (25, 50, 100), "exponential": (8, 10, 12, 14, 16)}
EXPECTED = {"transition": theory.transition_capacity, "sequence": theory.sequence_capacity}
TRIALS, SAMPLED, STEP = 20, 256, 1.6  # STEP: between two numbers of patterns
FILM, DEGREES = 400, (1, 2, 3, 5, 10, 20, 50)
COLORS = {1: BLUE, 2: ORANGE, 3: GREEN, "exponential": PURPLE}


def interaction(d):
    """The power, or the exponential."""
    return am.ExponentialInteraction() if d == "exponential" else am.PolynomialInteraction(d)


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def share(key, N, P, d, sampled):
    """Of each set of patterns: the share of sampled transitions that are right, or if all are."""

    def one(key):
        memory = am.SequenceMemory(jr.rademacher(key, (P, N), jnp.float32), interaction(d))
        if not sampled:
            return jnp.all(memory.transition_errors() == 0).astype(jnp.float32)
        pairs = memory.Xi[: min(P - 1, SAMPLED)], memory.Xi[1 : SAMPLED + 1]
        right = lambda pair: (memory.step(pair[0]) == pair[1]).all()
        return jnp.mean(jax.vmap(right)(pairs))

    return jax.lax.map(one, jr.split(key, TRIALS))


def capacity(N, d, what):
    """The number of patterns at which half of the transitions, or of the sequences, are right."""
    expected = EXPECTED[what](N, d)
    shares, P = {}, max(2, round(expected))
    while len(shares) < 2 or min(shares.values()) > 0.5 or max(shares.values()) <= 0.5:
        each = np.asarray(share(jr.fold_in(jr.key(N), P), N, P, d, what == "transition"))
        shares[P] = float(each.mean())
        new = max(2, round(P * STEP if shares[P] > 0.5 else P / STEP))
        if new in shares:
            break
        P = new
    counts = sorted(shares)
    # log(-log) of a share is nearly straight over log P; of 20 sequences none or all is not.
    level = lambda v: -math.log(-math.log(min(max(v, 0.5 / TRIALS), 1 - 0.5 / TRIALS)))
    levels = [level(shares[P]) for P in counts]
    half = math.exp(crossing([math.log(P) for P in counts], levels, level(0.5)))
    row = {"d": d, "N": N, "what": what, "counts": counts, "half": half}
    row["shares"] = [shares[P] for P in counts]
    print(row, flush=True)
    return row | {"expected": expected}


def finite(N, d, what):
    """The same number at this very N, see `page`."""
    if d == "exponential":
        return math.sqrt(2 * math.log(2) * 2**N / (N / 2 + 1)) if what == "sequence" else math.nan
    wrong = lambda P: N * (1 if what == "transition" else P) * theory.error_probability(P, N, d + 1)
    low, high = 1.0, 100.0 * N**d
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if wrong(middle) < math.log(2) else (low, middle)
    return low


def timing(d, trials):
    """MixedNet at N = 100, tau = 5, P = 40: in how many trials order and timing are right."""
    f = am.PolynomialInteraction(d)

    def one(key):
        Xi = jr.rademacher(key, (40, 100), jnp.float32)
        memory = am.SequenceMemory(Xi, f, symmetric=f, lam=2.5, tau=5)
        played = memory.play(Xi[0], 200, history=jnp.tile(Xi[-1:], (4, 1)))
        return played.transition_accuracy, played.first_error

    order, first = jax.lax.map(one, jr.split(jr.key(d), trials))
    return {
        "d": d, "trials": trials, "order": int((order == 1).sum()),
        "timing": int((first > 200).sum()), "accuracy": float(order.mean()),
    }  # fmt: skip


def every_icon(degrees):
    """Of a film of all icons there are, how many sampled transitions each network gets wrong."""
    icons = jnp.asarray(am.data.icons()[0])
    at = np.linspace(0, len(icons) - 2, SAMPLED).astype(int)
    found = {"icons": len(icons), "sampled": SAMPLED, "wrong": {}}
    for d in (*degrees, "exponential"):
        memory = am.SequenceMemory(icons, interaction(d))
        after = jax.lax.map(memory.step, icons[at], batch_size=64)
        found["wrong"][str(d)] = int((after != icons[at + 1]).any((1, 2)).sum())
    found["all"] = int((memory.transition_errors() > 0).sum())  # of the exponential network
    print(found, flush=True)
    return found


def film(count, degrees):
    """Icons played back as a film by each network."""
    icons = jnp.asarray(am.data.icons(n=count)[0])
    networks = {f"polynomial, d = {d}": {"interaction": interaction(d)} for d in degrees}
    networks["exponential"] = {"interaction": interaction("exponential")}
    networks["SeqNet, pseudo-inverse"] = {"pseudoinverse": True}
    rows = []
    for name, words in networks.items():
        memory = am.SequenceMemory(icons, **words)
        errors = np.asarray(memory.transition_errors())
        played = memory.play(icons[0], count)
        rows.append(
            {
                "name": name, "right": int((errors == 0).sum()), "wrong_bits": float(errors.mean()),
                "first_error": int(played.first_error), "accuracy": float(played.accuracy),
                "order": float(played.transition_accuracy),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def run(quick):
    sizes = {1: (25,), "exponential": (8,)} if quick else SIZES
    rows = [capacity(N, d, what) for what in EXPECTED for d, Ns in sizes.items() for N in Ns]
    return {
        "rows": rows,
        "timing": [timing(d, 2 if quick else TRIALS) for d in (1, 2, 10)],
        "film": film(20 if quick else FILM, (1, 2) if quick else DEGREES),
        "icons": 20 if quick else FILM,
        "every": None if quick else every_icon(DEGREES[3:]),
    }


def draw(data):
    figure = new_figure(1500, 680)
    for k, what in enumerate(EXPECTED):
        ax = place(figure, 120 + 740 * k, 70, 600, 500)
        for d, color in COLORS.items():
            rows = [r for r in data["rows"] if r["d"] == d and r["what"] == what]
            if not rows:
                continue
            N = np.arange(rows[0]["N"], rows[-1]["N"] + 1)
            ax.plot(N, [EXPECTED[what](int(n), d) for n in N], color=color, linewidth=1.2)
            own = [finite(r["N"], d, what) for r in rows]
            ax.plot([r["N"] for r in rows], own, "--", color=color, linewidth=1)
            name = d if d == "exponential" else f"d = {d}"
            ax.plot([r["N"] for r in rows], [r["half"] for r in rows], "o", color=color,
                    markersize=5, label=name)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="units N")
        ax.set_ylabel("patterns P in the sequence")
        style(ax)
        powers(ax.yaxis)
        ax.set_xticks([8, 16, 25, 50, 100])
        ax.minorticks_off()
        ax.set_title(f"half of the {what}s are right", loc="left", fontsize=10)
        ax.legend(frameon=False, fontsize=8)
    return captioned(
        figure,
        f"Random patterns of N bits. Left: {SAMPLED} transitions of each of {TRIALS} sets (seeds); "
        f"right: {TRIALS} sequences (seeds). Points lie between two tried P, a factor of {STEP} "
        "apart; lines: closed forms for large N; dashed: at this N.",
    )


def growth(rows):
    """By how much each unit multiplies the length of sequences of the exponential network."""
    rows = [r for r in rows if r["d"] == "exponential" and r["what"] == "sequence"]
    if len(rows) < 2:
        return "?"
    first, last = rows[0], rows[-1]
    return f"{(last['half'] / first['half']) ** (1 / (last['N'] - first['N'])):.2f}"


def every(found):
    """A sentence about the film of all icons."""
    if found is None:
        return ""
    wrong = [f"{n} at d = {d}" for d, n in found["wrong"].items() if d != "exponential"]
    return (
        f"A film of all {found['icons']:,} bundled icons: of {found['sampled']} transitions powers "
        f"get\n{', '.join(wrong)} wrong;\nof all {found['icons']:,} the exponential network gets "
        f"{found['all']}."
    )


def page(data):
    """Sequences that play without an error."""
    number = lambda v: "" if v is None or not math.isfinite(v) else f"{v:,.1f}"
    lines = [
        (r["what"], r["d"], r["N"], number(r["half"]), number(r["expected"]),
         f"{r['half'] / r['expected']:.2f}", number(finite(r["N"], r["d"], r["what"])))
        for r in data["rows"]
    ]  # fmt: skip
    timed = [
        (t["d"], f"{t['order']} of {t['trials']}", f"{t['timing']} of {t['trials']}",
         f"{t['accuracy']:.3f}")
        for t in data["timing"]
    ]  # fmt: skip
    shown = [
        (f["name"], f"{f['right']:,} of {data['icons']:,}", f"{f['wrong_bits']:.1f}",
         "none" if f["first_error"] > data["icons"] else f["first_error"], f"{f['order']:.3f}")
        for f in data["film"]
    ]  # fmt: skip
    return f"""Sequences that play without an error
`SequenceMemory` of random patterns, all units at once. Points: the number of patterns P at which
half of the transitions are right in every unit (left; {SAMPLED} transitions of each of {TRIALS}
sets of patterns), or half of {TRIALS} sequences play through without an error (right), between two
numbers a factor of {STEP} apart. Lines: `am.theory.transition_capacity` and `sequence_capacity`,
the closed forms of Chaudhry et al. 2023, for large N. Dashed, and the last column: at this very N;
for powers Gaussian crosstalk on independent units, by `am.theory.error_probability(P, N, d + 1)`.

{table(("", "d", "N", "measured P", "closed form", "ratio", "at this N"), lines)}

Where they differ, and why:

- The closed forms keep the leading logarithm, and name where errors become rare, so half of the
  transitions hold up to twice that many patterns. What is left against the last column is crosstalk
  that is not Gaussian (heavy tails for d = 3) and units that err together (d = 1).
- The exponential network plays far shorter random sequences than its closed form, the more so the
  larger N is: their length grows by {growth(data["rows"])} a unit, and not by 1.96. No function can
  help: to unit i two patterns that differ in unit i alone are one and the same, so that unless the
  next ones agree there, one of both transitions is wrong; and among P random patterns there are
  such pairs from about 2^(N/2) on. Dashed: half of the sequences have no pair that matters, which
  are those that agree in all units and half of those that agree in all but one. Gaussian crosstalk
  does not know of pairs. Single transitions, of which few meet one, are where theory has them.

## Timing

MixedNet at N = 100, tau = 5, P = 40, lambda = 2.5, the published setting; the trace begins full of
the last pattern. "Order": every change of the nearest pattern leads to the next. "Timing": each
of 200 states is exactly the pattern that is due.

{table(("d", "order", "timing", "transitions in order"), timed)}

## A film

{data["icons"]} icons of 48 x 48 pixels, in the order of their names, which overlap by far more than
random patterns do. "Right" are transitions from a stored icon that are right in every pixel;
"first error" is the step of a play from the first icon.

{table(("network", "right", "wrong pixels a step", "first error", "changes in order"), shown)}

{every(data["every"])}
"""


if __name__ == "__main__":
    main("sequences", run, draw, page, script="bench_sequences")
