"""Distributed memory: the published figures at the size of bundled data, and what T costs.

python benchmarks/distributed_memory.py                  # the figures: minutes
python benchmarks/distributed_memory.py --large 100000   # so many patterns, in a process alone
"""

import json
import math
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from captions import captioned
from machine import describe, peak_memory
from theory_figures import (
    COLORS,
    RESULTS,
    exponent,
    main,
    mean_and_error,
    plus_minus,
    powers,
    table,
)

import amlib as am
from amlib.plots.pictures import FAINT, new_figure, place, style

# Figures 1 and 2, with the published ratio of numbers kept to numbers given: 2Y / (K D).
SHOWN = {
    "fig1": {"K": 4, "D0": 12288, "Y0": 180_000, "beta": 60.0, "kept": 0.33, "steps": 300},
    "fig2": {"K": 20, "D0": 12288, "Y0": 200_000, "beta": 60.0, "kept": 0.6, "steps": 300},
}
BETAS, WIDTHS, DRAWS, K4 = (10.0, 30.0, 50.0), (30, 100), 5, 50
YS = (500, 4_000, 32_000)
YS_HALF, BETAS_HALF = (2_500, 7_000, 20_000), (40.0, 80.0)
KS5, WIDTHS5, Y5 = (5, 10, 20, 40, 65, 100), (30, 100, 1000), 20_000
KS_SIZE, Y_SIZE, BETA_SIZE = (5, 10, 20, 40, 80, 160), 4_000, 200.0
LARGE = RESULTS / "distributed_memory_large.json"


def pictures(K):
    """Digits with pixels in [0, 1/sqrt(D)], as published."""
    digits = am.data.mnist("train", subset="bundled").images
    chosen = jr.choice(jr.key(42), len(digits), (K,), replace=False)
    return (digits[chosen].reshape(K, -1) + 1) / 2 / math.sqrt(784)


def bits(key, K, D):
    """Random bits in {0, 1/sqrt(D)}, as published."""
    return jr.bernoulli(key, 0.5, (K, D)) / math.sqrt(D)


def large(K, D=784, Y=200_000):
    """So many patterns into one vector: seconds, and the most memory of the whole process."""
    start = time.perf_counter()
    Xi = np.random.default_rng(0).random((K, D), np.float32) / np.float32(math.sqrt(D))
    memory = am.DistributedMemory.store(Xi, 60.0, Y=Y, key=jr.key(0))
    jax.block_until_ready(memory.T)
    stored, peak = time.perf_counter() - start, peak_memory()
    found = {
        "K": K, "D": D, "Y": Y, "seconds": stored, "peak_GB": peak,
        "rate": 2 * K * D * Y / stored / 1e9, "T_MB": memory.T.nbytes / 1e6,
        "patterns_MB": Xi.nbytes / 1e6,
    }  # fmt: skip
    for Q in (1, 100):
        update = jax.jit(jax.vmap(memory.update))
        jax.block_until_ready(update(Xi[:Q]))
        start = time.perf_counter()
        jax.block_until_ready(update(Xi[:Q]))
        found[f"gradient_of_{Q}"] = time.perf_counter() - start
    found["peak_recall_GB"] = peak_memory()
    found["machine"] = describe().strip().splitlines()
    LARGE.write_text(json.dumps(found) + "\n")
    print(json.dumps(found, indent=1))


@eqx.filter_jit
def looked_at(memory, x):
    """Energies and their gradients at some states."""
    return jax.vmap(jax.value_and_grad(memory.energy))(x)


@eqx.filter_jit
def recalled(memory, x0, clamp=None, method=None, max_steps=100):
    """Where recalls end."""
    one = lambda x: memory.recall(x, method=method, clamp=clamp, max_steps=max_steps).x
    return jax.vmap(one)(x0)


def stored(Xi, beta, Y, seed):
    return am.DistributedMemory.store(Xi, beta, Y=Y, key=jr.key(seed))


def shown(K, D0, Y0, beta, kept, steps):
    """Figures 1 and 2: pictures whose lower part is hidden, by the exact memory and by this one."""
    Xi = pictures(K)
    known = jnp.arange(784) < int(784 * kept)
    x0 = jnp.where(known[None], Xi, 0.0)
    Y = round(Y0 * 784 / D0)
    method = am.GradientDescent(0.1)
    ends = [
        recalled(memory, x0, known, method, steps)
        for memory in (am.GaussianMemory(Xi, beta), stored(Xi, beta, Y, 42))
    ]
    pixels = lambda a: np.asarray(a[:6] * 28).round(3).tolist()
    rms = lambda a: float(jnp.sqrt(((a - Xi) ** 2).mean())) * 28
    return {
        "Y": Y, "K": K, "pictures": [pixels(a) for a in (x0, *ends, Xi)],
        "exact": rms(ends[0]), "distributed": rms(ends[1]),
        "between": float(jnp.sqrt(((ends[0] - ends[1]) ** 2).mean())) * 28,
    }  # fmt: skip


def over_directions():
    """Figure 4A: errors of energy, gradient and recall over Y, beta and D."""
    rows = []
    for D in WIDTHS:
        Xi = bits(jr.key(D), K4, D)
        hide = jr.bernoulli(jr.key(1), 0.1, Xi.shape)
        states = {
            "stored": Xi,
            "near": jnp.where(hide, 0.0, Xi),
            "random": bits(jr.key(2), K4, D),
        }
        for beta in BETAS:
            exact = am.GaussianMemory(Xi, beta)
            end = recalled(exact, states["near"])
            at = {kind: looked_at(exact, x) for kind, x in states.items()}
            for Y in YS:
                found = {kind + what: [] for kind in states for what in (" energy", " gradient")}
                found["recalled unit"] = []
                for seed in range(DRAWS):
                    memory = stored(Xi, beta, Y, seed)
                    for kind, x in states.items():
                        E, g = looked_at(memory, x)
                        found[kind + " energy"].append(jnp.abs(E - at[kind][0]).mean())
                        found[kind + " gradient"].append(jnp.abs(g - at[kind][1]).mean())
                    off = recalled(memory, states["near"]) - end
                    found["recalled unit"].append(jnp.sqrt((off**2).mean()))
                values = {kind: mean_and_error(v) for kind, v in found.items()}
                rows.append({"D": D, "beta": beta, "Y": Y} | values)
    return rows


def half_masked():
    """Figure 4B: half of ten pictures hidden; how far the recalled pixels are from the exact."""
    Xi, rows = pictures(10), []
    known = jnp.arange(784) < 392
    x0 = jnp.where(known[None], Xi, 0.0)
    for beta in BETAS_HALF:
        end = recalled(am.GaussianMemory(Xi, beta), x0, known)
        for Y in YS_HALF:
            off = recalled(stored(Xi, beta, Y, 0), x0, known) - end
            rows.append({"beta": beta, "Y": Y, "pixel": float(jnp.sqrt((off**2).mean())) * 28})
    return rows


def over_patterns():
    """Figure 5: the error of the energy over K and D."""
    rows = []
    for D in WIDTHS5:
        Xi = bits(jr.key(D), max(KS5), D)
        hide = jr.bernoulli(jr.key(1), 0.1, (5, D))
        for beta in (10.0, 50.0):
            memory, before = am.DistributedMemory.empty(D, beta, Y=Y5, key=jr.key(0)), 0
            for K in KS5:
                memory, before = memory.add(Xi[before:K]), K
                x = jnp.where(hide, 0.0, Xi[:5])
                error = looked_at(memory, x)[0] - looked_at(am.GaussianMemory(Xi[:K], beta), x)[0]
                rows.append({"D": D, "beta": beta, "K": K, "near": float(jnp.abs(error).mean())})
    return rows


def law(K, D, Y, beta):
    """The error of a recalled unit that the other patterns make, where all are far apart."""
    return math.sqrt((K - 1) / (2 * (Y - D) * beta))


def size():
    """Pixels of recalled pictures, as T becomes smaller than the pictures."""
    rows, Xi = [], pictures(max(KS_SIZE))
    for K in KS_SIZE:
        some = Xi[:K]
        memory, few = stored(some, BETA_SIZE, Y_SIZE, 0), jnp.resize(some, (20, 784))
        end = recalled(memory, few), recalled(am.GaussianMemory(some, BETA_SIZE), few)
        rms = [float(jnp.sqrt(((a - few) ** 2).mean())) * 28 for a in end]
        rows.append({
            "K": K, "share": memory.T.size / some.size, "distributed": rms[0], "exact": rms[1],
        })  # fmt: skip
    return rows


def run(quick):
    global YS, YS_HALF, KS_SIZE, DRAWS
    if quick:
        YS, YS_HALF, KS_SIZE, DRAWS = (200, 800), (500,), (5, 10), 2
    found = {}
    for name, setting in SHOWN.items():
        found[name] = shown(**(setting | {"steps": 5} if quick else setting))
        print(name, {k: v for k, v in found[name].items() if k != "pictures"}, flush=True)
    for name, part in {
        "directions": over_directions, "half": half_masked, "patterns": over_patterns, "size": size,
    }.items():  # fmt: skip
        start = time.perf_counter()
        found[name] = part()
        print(name, round(time.perf_counter() - start), "s", flush=True)
    return found


def pick(rows, **values):
    return [r for r in rows if all(r[k] == v for k, v in values.items())]


def draw(data):
    figure = new_figure(1720, 1000)
    for left, name, title in (
        (60, "fig1", "figure 1: 4 stored, 33 % kept"),
        (900, "fig2", "figure 2: 20 stored, 60 % kept"),
    ):
        ax = place(figure, left, 60, 780, 440)
        lines = [np.clip(np.asarray(a), 0, 1).reshape(-1, 28, 28) for a in data[name]["pictures"]]
        gap = np.zeros((2, 30 * len(lines[0])))
        sheet = np.concatenate(
            [np.concatenate([np.concatenate([np.pad(x, ((0, 0), (1, 1))) for x in line], 1), gap])
             for line in lines]
        )  # fmt: skip
        ax.imshow(sheet, cmap="gray_r", vmin=0, vmax=1, aspect="equal", interpolation="nearest")
        ax.set_yticks([14 + 30 * k for k in range(4)], ["given", "exact", "distributed", "stored"])
        ax.set_xticks([])
        ax.tick_params(length=0)
        ax.set_title(title, fontsize=11, loc="left")
        for side in ax.spines.values():
            side.set_visible(False)
    axes = [place(figure, 80 + 425 * k, 590, 320, 320) for k in range(4)]
    for beta, color in zip(BETAS, COLORS, strict=False):
        for D, line in zip(WIDTHS, ("o--", "o-"), strict=True):
            rows = pick(data["directions"], beta=beta, D=D)
            y, error = zip(*(r["near energy"] for r in rows), strict=True)
            axes[0].errorbar(
                [r["Y"] for r in rows], y, error, fmt=line, color=color, markersize=3, linewidth=1,
                label=f"\N{GREEK SMALL LETTER BETA} = {beta:g}, D = {D}",
            )  # fmt: skip
    for beta, color in zip(BETAS_HALF, COLORS, strict=False):
        rows = pick(data["half"], beta=beta)
        columns = [r["Y"] for r in rows], [r["pixel"] for r in rows]
        label = f"\N{GREEK SMALL LETTER BETA} = {beta:g}"
        axes[1].plot(*columns, "o-", color=color, markersize=3, linewidth=1, label=label)
    for D, color in zip(WIDTHS5, COLORS, strict=False):
        for beta, line in ((10.0, "o-"), (50.0, "o--")):
            rows = pick(data["patterns"], beta=beta, D=D)
            columns = [r["K"] for r in rows], [r["near"] for r in rows]
            label = f"D = {D}, \N{GREEK SMALL LETTER BETA} = {beta:g}"
            axes[2].plot(*columns, line, color=color, markersize=3, linewidth=1, label=label)
    share = [r["share"] for r in data["size"]]
    for kind, color in zip(("distributed", "exact"), COLORS, strict=False):
        axes[3].plot(share, [r[kind] for r in data["size"]], "o-", color=color, label=kind)
    axes[3].plot(share, [pixel_law(r["K"]) for r in data["size"]], ":", color=FAINT, label="law")
    axes[3].axvline(1, color=FAINT, linewidth=1)
    titles = {
        "figure 4A: error of the energy, near": "directions Y",
        "figure 4B: error of a pixel, half hidden": "directions Y",
        "figure 5: error of the energy, near": "patterns K",
        "error of a pixel of stored digits": "numbers of T / numbers of the pictures",
    }
    for ax, (title, label) in zip(axes, titles.items(), strict=True):
        ax.set(xscale="log", xlabel=label)
        if ax is not axes[3]:
            ax.set(yscale="log")
        style(ax)
        powers(ax.xaxis)
        if ax is not axes[3]:
            powers(ax.yaxis)
        ax.set_title(title, fontsize=10, loc="left")
        low, high = ax.get_ylim()
        if ax is axes[0]:
            ax.set_ylim(low / 8, high)
        elif ax is axes[2]:
            ax.set_ylim(low, high * 20)
        ax.legend(frameon=False, fontsize=7)
    return captioned(
        figure,
        "Digits that come with amlib, D = 784 (1, 2, 4B with K = 10, and the last); random bits "
        f"(4A with K = {K4}, and 5); 4A: {DRAWS} random matrices (seeds), bars are standard "
        "errors over them; elsewhere one seed.",
    )


def pixel_law(K):
    """The law, of digits and in units of ink."""
    return 28 * law(K, 784, Y_SIZE, BETA_SIZE)


def slopes(data):
    """The exponents in Y of all errors, with standard errors."""
    lines = []
    for D in WIDTHS:
        for beta in BETAS:
            rows, cells = pick(data["directions"], beta=beta, D=D), []
            for kind in ("stored energy", "near energy", "random energy", "recalled unit"):
                points = ([r[kind][k] for r in rows] for k in (0, 1))
                value, error = exponent([r["Y"] for r in rows], *points)
                cells.append(plus_minus(value, 1.96 * error, 2))
            last = rows[-1]["recalled unit"][0]
            over = last / law(K4, D, rows[-1]["Y"], beta)
            lines.append((D, f"{beta:g}", *cells, f"{over:.2f}"))
    return lines


def page(data):
    """Distributed memory: published figures, and when it is smaller."""
    pictures = [
        (
            name, f"{d['K']}", f"{d['Y']:,}", f"{2 * d['Y'] / d['K'] / 784:.2f}",
            f"{d['exact']:.3f}", f"{d['distributed']:.3f}", f"{d['between']:.3f}",
        )
        for name, d in ((name, data[name]) for name in SHOWN)
    ]  # fmt: skip
    sizes = []
    for r in data["size"]:
        numbers = r["share"], r["distributed"], pixel_law(r["K"]), r["exact"]
        sizes.append((r["K"], *(f"{v:.3f}" for v in numbers)))
    head = ("figure", "K", "Y", "2Y / (K D)", "exact, pixel", "distributed, pixel", "between")
    scaled = [
        (
            1,
            "TinyImageNet, D = 12,288, K = 4, Y = 180,000, 33 % kept, 300 steps of 0.1",
            "digits, D = 784, Y smaller as D is, so that 2Y / (K D) is as published",
        ),
        (2, "K = 20, Y = 200,000, 60 % kept, 1,000 steps", "the same, 300 steps"),
        (
            "4A",
            "K = 500, Y = 5,000 to 500,000, D to 1,000, 1,000 steps of 0.03",
            f"K = {K4}, Y = {YS[0]:,} to {YS[-1]:,}: about a tenth of each; D = 30 and 100; up to "
            f"100 steps with backtracking; {DRAWS} random matrices",
        ),
        (
            "4B",
            "CIFAR-10, D = 3,072, K = 10, half hidden, Y = 10,000 to 360,000, beta 40 to 80",
            "digits, D = 784, Y smaller as D is, up to 80,000 of the published",
        ),
        (5, "K = 50 to 1,000, Y = 200,000, D = 30, 100, 1,000", "a tenth of K and of Y"),
    ]
    return f"""Distributed memory
`DistributedMemory` (features `SinCos`) beside `GaussianMemory`, whose energy it estimates. The
published figures of Hoover et al. 2024 (arXiv 2410.24153), made smaller as follows; errors are
against the exact memory. Digits are those that come with amlib, pixels in [0, 1/sqrt(D)] as
published; errors of pixels are root mean squares, in units where ink is 1.

{table(("figure", "published", "here"), scaled)}

**Figures 1 and 2**

{table(head, pictures)}

**Figure 4A.** Exponents in Y of the mean error, with 95 % intervals over random matrices; -0.5 is
what independent directions give. Last column: the error of a recalled unit at Y = {YS[-1]:,} over
sqrt((K - 1) / (2 (Y - D) beta)), the law of patterns far from each other: near 1 at D = 100 and
beta of 30 and more. At beta = 10 all bits share one valley; at D = 30 some recalls end in another
one. Where the exact sum lies below the noise (random states at a large beta) the error no longer
falls, and where recalls end elsewhere with few directions it falls faster.

{table(("D", "beta", "stored", "near", "random", "recalled unit", "over the law"), slopes(data))}

**When is T smaller than the patterns?** T has 2Y numbers, K patterns have K D. By the law above, a
pixel of ink 1 is off by at least sqrt(K D / (2 Y beta)): so at the break-even, 2Y = K D, by
1 / sqrt(beta), and a T of the share s of the patterns costs 1 / sqrt(s beta). Digits
at beta = {BETA_SIZE:g}, Y = {Y_SIZE:,}; recall starts from stored digits.

{table(("K", "T / patterns", "distributed, pixel", "law", "exact, pixel"), sizes)}
{large_lines()}"""


def large_lines():
    """What was measured of many patterns, if it was."""
    if not LARGE.exists():
        return ""
    d = json.loads(LARGE.read_text())
    return f"""
**Many patterns into one vector.** {d["K"]:,} random patterns of D = {d["D"]}
({d["patterns_MB"]:.0f} MB) into Y = {d["Y"]:,} ({d["T_MB"]:.1f} MB): {d["seconds"]:.0f} seconds,
{d["rate"]:.0f} GFlop/s, in a process of at most {d["peak_GB"]:.2f} GB, the patterns with it. One
gradient then takes
{d["gradient_of_1"]:.1f} s, of 100 states at once {d["gradient_of_100"]:.1f} s. The machine's two
cores were shared with other work meanwhile, so idle it is faster. (The random matrix, had it been
kept, would take {4 * d["D"] * d["Y"] / 1e6:.0f} MB.) `python benchmarks/distributed_memory.py
--large {d["K"]}`:

{chr(10).join(d["machine"])}
"""


if __name__ == "__main__":
    if sys.argv[1:2] == ["--large"]:
        large(int(sys.argv[2]))
    else:
        main("distributed_memory", run, draw, page)
