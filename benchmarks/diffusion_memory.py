"""When a diffusion over digits makes up its mind: for a class, for a picture; and what it makes.

python benchmarks/diffusion_memory.py
"""

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from captions import captioned
from matplotlib.ticker import FixedLocator, NullLocator
from theory_figures import main, table

import amlib as am
from amlib import theory
from amlib._intervals import wilson
from amlib.plots.pictures import BLUE, FAINT, GREEN, ORANGE, new_figure, place, style

NOISES = np.geomspace(0.3, 1000, 30)  # sigma^2 t, as sigma is 1
CLONED = NOISES[2::4]
SIZES = (10, 30, 100, 300, 1000)
DRAWS, PAIRS, STEPS = 256, 64, 50
SIDE = 28
NOISE = "noise $\\sigma^2 t$"


def digits(classes: Sequence[int] = range(10), each=150):
    """Bundled pictures of some classes, as rows, and their labels."""
    images, labels = am.data.mnist("train", subset="bundled")
    x, labels = np.asarray(images).reshape(len(images), -1), np.asarray(labels)
    rows = np.concatenate([np.flatnonzero(labels == c)[:each] for c in classes])
    rows.sort()
    return jnp.asarray(x[rows]), labels[rows]


@eqx.filter_jit
def weights(memory, t, key, draws):
    """How patterns share what noisy states of a time came from, and which one it was."""

    def one(key):
        which, noisy = jr.split(key)
        mu = jr.randint(which, (), 0, len(memory.Xi))
        x = memory.Xi[mu] + jnp.sqrt(t) * jr.normal(noisy, memory.Xi.shape[1:])
        # Distances but for |x|^2, which all share: products of matrices for a batch.
        closer = memory.Xi @ x - 0.5 * jnp.sum(memory.Xi**2, axis=1)
        return jax.nn.softmax(closer / t), mu

    return jax.vmap(one)(jr.split(key, draws))


def curves(memory, labels, key, draws):
    """Chances that two futures of one noisy state share a picture, and a class; and the nats that
    the state tells of the picture."""
    members = jax.nn.one_hot(jnp.asarray(labels), 10)
    rows = []
    for k, t in enumerate(NOISES):
        w, mu = weights(memory, jnp.float32(t), jr.fold_in(key, k), draws)
        told = jnp.log(len(memory.Xi) * jnp.take_along_axis(w, mu[:, None], 1) + 1e-30)
        rows.append([float(v) for v in ((w**2).sum(1).mean(), ((w @ members) ** 2).sum(1).mean(),
                                        told.mean())])  # fmt: skip
    return np.asarray(rows).T


def passes(values, level):
    """The noise at which a falling curve passes a level."""
    return float(np.exp(np.interp(-level, -np.asarray(values), np.log(NOISES))))


@eqx.filter_jit
def futures(memory, key, t, pairs, steps):
    """Pairs of futures of one noisy state each: the pictures that they end at."""

    def one(key):
        first, *two = jr.split(key, 3)
        x = memory.noise(first, t)
        end = lambda key: (
            memory.generate(key, x=x, start=t, stop=0.05, method=am.ReverseSDE(steps)).x
        )
        near = lambda y: jnp.argmin(jnp.sum((memory.Xi - y) ** 2, axis=1))
        return jnp.stack([near(end(key)) for key in two])

    return jax.lax.map(one, jr.split(key, pairs), batch_size=32)


def run(quick):
    draws, each = (16, 3) if quick else (DRAWS, 150)
    everything, labels = digits(each=each)
    variances = spectrum(everything)
    return {
        "rows": decisions(draws, each, quick),
        "speciation": theory.speciation_variance(digits((0, 1), each)[0]),
        "collapse": collapses(everything, labels, variances, draws, quick),
        "pairs": pairs(draws, each, quick),
        "made": made(everything, labels, quick),
    }


def spectrum(Xi):
    """The eigenvalues of the covariance of patterns."""
    return np.maximum(np.linalg.eigvalsh(np.cov(np.asarray(Xi).T, bias=True)), 0)


def decisions(draws, each, quick):
    """Two classes: chances of a shared end, from weights and by pairs of futures."""
    Xi, labels = digits((0, 1), each)
    memory = am.DiffusionMemory(Xi)
    picture, kind, _ = curves(memory, labels, jr.key(0), draws)
    rows = [
        {"noise": t, "picture": a, "class": b}
        for t, a, b in zip(NOISES, picture, kind, strict=True)
    ]
    cloned, n = (CLONED[::4], 4) if quick else (CLONED, PAIRS)
    for k, t in enumerate(cloned):
        key = jr.fold_in(jr.key(1), k)
        found = np.asarray(futures(memory, key, jnp.float32(t), n, 10 if quick else STEPS))
        same = found[:, 0] == found[:, 1], labels[found[:, 0]] == labels[found[:, 1]]
        row = rows[int(np.flatnonzero(t == NOISES)[0])]
        row["cloned"] = [[s.mean(), *map(float, wilson(s.mean(), n))] for s in same]
    return rows


def collapses(everything, labels, variances, draws, quick):
    """The noise at which one of K pictures has half of the weight; and by theory."""
    told = curves(am.DiffusionMemory(everything), labels, jr.key(2), draws)[2]
    rows = []
    for K in (10, 20) if quick else SIZES:
        memory = am.DiffusionMemory(everything[:K])
        picture = curves(memory, labels[:K], jr.key(3), draws)[0]
        known = np.log(K) < 0.8 * np.log(len(everything))
        rows.append({
            "K": K, "measured": passes(picture, 0.5),
            "gaussian": theory.collapse_variance(variances, K),
            "entropy": passes(told, np.log(K)) if known else None,
        })  # fmt: skip
    return rows


def pairs(draws, each, quick):
    """Of each two digits: where classes are decided, and what should say so."""
    rows = []
    for a, b in [(0, 1), (4, 9)] if quick else itertools.combinations(range(10), 2):
        Xi, labels = digits((a, b), each)
        kind = curves(am.DiffusionMemory(Xi), labels, jr.key(4), max(draws // 2, 8))[1]
        means = [np.asarray(Xi)[labels == c].mean(0) for c in (a, b)]
        rows.append({
            "pair": [a, b], "measured": passes(kind, 0.75),
            "largest": theory.speciation_variance(Xi),
            "means": 1 / theory.merging_beta(float(np.linalg.norm(means[0] - means[1]))),
        })  # fmt: skip
    return rows


def made(everything, labels, quick):
    """Digits that were generated, and the nearest training pictures."""
    K, shown, steps = (20, 2, 10) if quick else (1000, 10, 120)
    memory = am.DiffusionMemory(everything[:K])
    out: dict[str, Any] = {"K": K}
    for name, method, n in (
        ("sde", am.ReverseSDE(steps), shown if quick else 32),
        ("flow", am.ProbabilityFlow(), shown),
    ):
        keys = jr.split(jr.key(5), n)
        ends = drawn(memory, keys, method)
        squares = np.asarray(jnp.sum((memory.Xi[None] - ends[:, None]) ** 2, axis=2))
        near = squares.argmin(1)
        out[name] = {
            "pictures": np.round(np.asarray(ends[:shown], float), 2).tolist(),
            "nearest": near[:shown].tolist(),
            "rms": (np.sqrt(squares.min(1) / ends.shape[1])).max(),
            "different": len(set(near.tolist())), "count": n,
        }  # fmt: skip
    # Pictures halfway: what is expected of noisy ones, as the noise falls.
    half = eqx.filter_jit(lambda x, t: memory.denoise(x, t))
    end = memory.generate(jr.key(6), start=1000.0, stop=0.05, save_every=max(1, steps // 10),
                          method=am.ReverseSDE(steps)).trajectory  # fmt: skip
    out["path"] = {
        "noise": np.asarray(end.time, float).tolist(),
        "pictures": [
            np.round(np.asarray(half(x, t), float), 2).tolist()
            for x, t in zip(end.x, end.time, strict=True)
        ],
    }
    return out


@eqx.filter_jit
def drawn(memory, keys, method):
    def one(key):
        end = memory.generate(key, start=1000.0, stop=0.05, method=method)
        return memory.denoise(end.x, end.time)

    return jax.lax.map(one, keys, batch_size=16)


def marks(data):
    """Where theory has the two classes part, and their pictures condense if they were Gaussian."""
    Xi, _ = digits((0, 1))
    return data["speciation"], theory.collapse_variance(spectrum(Xi), len(Xi))


def draw(data):
    figure = new_figure(1500, 1170)
    ax = place(figure, 90, 50, 400, 300)
    noise = [r["noise"] for r in data["rows"]]
    for k, (name, color) in enumerate((("picture", ORANGE), ("class", BLUE))):
        ax.plot(noise, [r[name] for r in data["rows"]], color=color, label=f"same {name}")
        seen = [(r["noise"], *r["cloned"][k]) for r in data["rows"] if "cloned" in r]
        t, share, low, high = np.asarray(seen).T
        errors = np.maximum([share - low, high - share], 0)
        ax.errorbar(t, share, errors, fmt="o", markersize=4, color=color, capsize=3)
    part, condense = marks(data)
    for name, where, color in (("speciation", part, BLUE), ("collapse", condense, ORANGE)):
        ax.axvline(where, color=color, linewidth=1, linestyle="--")
        ax.text(1.06 * where, 1.04, name, fontsize=8, color=color)
    ax.set(xscale="log", xlabel=NOISE, ylabel="two futures agree", ylim=(0, 1.1))
    style(ax)
    ax.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 0.28))
    ax = place(figure, 590, 50, 380, 300)
    rows = data["collapse"]
    K = [r["K"] for r in rows]
    ax.plot(K, [r["gaussian"] for r in rows], color=FAINT, linestyle="--", label="theory, Gaussian")
    known = [r for r in rows if r["entropy"] is not None]
    ax.plot([r["K"] for r in known], [r["entropy"] for r in known], color=GREEN, marker="s",
            markersize=4, label="theory, excess entropy of data")  # fmt: skip
    ax.plot(K, [r["measured"] for r in rows], "o", color=ORANGE, markersize=5, label="measured")
    ax.set(xscale="log", yscale="log", xlabel="K", ylabel=f"collapse at {NOISE}")
    style(ax)
    plain(ax.yaxis, (10, 20, 30, 40, 60))
    ax.legend(frameon=False, fontsize=8)
    ax = place(figure, 1070, 50, 380, 300)
    rows = data["pairs"]
    for name, color, label in (
        ("largest", BLUE, "largest variance"), ("means", GREEN, "class means, d²/4"),
    ):  # fmt: skip
        ax.plot([r[name] for r in rows], [r["measured"] for r in rows], "o", color=color,
                markersize=4, label=label)  # fmt: skip
    ends = [min(r["means"] for r in rows), max(r["largest"] for r in rows)]
    ax.plot(ends, ends, color=FAINT, linestyle="--", linewidth=1)
    ax.set(
        xscale="log",
        yscale="log",
        xlabel=f"predicted {NOISE}",
        ylabel=f"classes decided at {NOISE}",
    )
    style(ax)
    plain(ax.xaxis, (10, 20, 40, 60))
    plain(ax.yaxis, (10, 20, 30, 40, 60))
    ax.legend(frameon=False, fontsize=8)
    pictures(figure, data["made"])
    return captioned(
        figure,
        f"Digits that come with amlib, D = 784, one seed. Left: K = 300 zeros and ones, lines over "
        f"{DRAWS} states, points {PAIRS} pairs of runs with 95 % intervals (Wilson); middle: the "
        "first K of 1,500; right: each pair of digits, 150 of each; below: K = 1,000.",
    )


def plain(axis, ticks):
    """These numbers on a logarithmic axis, and no others."""
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())


def pictures(figure, made):
    """Generated digits over their nearest training pictures, and one on its way."""
    Xi = np.asarray(digits()[0])
    for name, top, title in (
        ("sde", 450, "by the reverse SDE"), ("flow", 700, "by the probability flow"),
    ):  # fmt: skip
        ax = place(figure, 90, top, 1360, 210)
        new = np.asarray(made[name]["pictures"])
        two = [np.concatenate(a.reshape(-1, SIDE, SIDE), axis=1) for a in
               (new, Xi[made[name]["nearest"]])]  # fmt: skip
        ax.imshow(-np.concatenate(two), cmap="gray", vmin=-1, vmax=1)
        ax.axhline(SIDE - 0.5, color=ORANGE, linewidth=1)
        ax.set_xticks([])
        ax.set_yticks(
            [SIDE / 2, 3 * SIDE / 2], [f"generated\n{title}", "nearest stored"], fontsize=8
        )
        ax.tick_params(length=0)
    ax = place(figure, 90, 950, 1360, 130)
    path = np.asarray(made["path"]["pictures"]).reshape(-1, SIDE, SIDE)
    ax.imshow(-np.concatenate(path, axis=1), cmap="gray", vmin=-1, vmax=1, aspect="equal")
    centres = SIDE * (np.arange(len(path)) + 0.5)
    ax.set_xticks(centres, [f"{t:.3g}" for t in made["path"]["noise"]], fontsize=8)
    ax.set(yticks=[], xlabel=f"{NOISE}: what is expected of the state")


def page(data):
    """Diffusion over digits."""
    rows = [
        (r["K"], f"{r['measured']:.2f}", f"{r['gaussian']:.2f}",
         "-" if r["entropy"] is None else f"{r['entropy']:.2f}")
        for r in data["collapse"]
    ]  # fmt: skip
    ratio = {
        name: np.asarray([r["measured"] / r[name] for r in data["pairs"]])
        for name in ("largest", "means")
    }
    spread = {k: f"{np.median(v):.2f} ({v.min():.2f} to {v.max():.2f})" for k, v in ratio.items()}
    agree = [
        (f"{r['noise']:.3g}", *(
            f"{r[name]:.3f}, {share:.3f} ({low:.3f} to {high:.3f})"
            for name, (share, low, high) in zip(("picture", "class"), r["cloned"], strict=True)
        ))
        for r in data["rows"] if "cloned" in r
    ]  # fmt: skip
    made, (part, condense) = data["made"], marks(data)
    first, last = (data["collapse"][k]["measured"] / data["collapse"][k]["gaussian"]
                   for k in (0, -1))  # fmt: skip
    return f"""Diffusion over MNIST: when it decides, and what it makes
`DiffusionMemory` over the bundled digits (1,500 of 28 x 28 in [-1, 1]), sigma = 1, so that times
are variances of the noise.

**Two futures of one state.** A stored picture and noise make a state; the reverse SDE is run twice
from there. That both end at the same picture has the chance $\\sum_\\mu w_\\mu^2$, and at the same
class $\\sum_c (\\sum_{{\\mu \\in c}} w_\\mu)^2$, with the weights $w$ of the patterns at that
state: the exact reverse SDE draws from them. Lines are that, over {DRAWS} states of 300 zeros and
ones; points are {PAIRS} pairs of runs of {STEPS} steps, with 95 % intervals. Dashed: where the
classes part by `theory.speciation_variance`, {part:.0f}, and where the 300 pictures would condense
by `theory.collapse_variance`, {condense:.1f}, if they were Gaussian with their covariance.

{table(("noise", "same picture: from weights, by runs", "same class"), agree)}

**Collapse.** Measured where $\\sum w^2$ passes one half, over the first K of all digits. The closed
form is that of Gaussian data with the digits' covariance. The excess entropy is that of all 1,500
digits with noise, which stand for the data: it can be log 1,500 at most, so it is shown up to 0.8
of that.

{table(("K", "measured", "Gaussian", "excess entropy"), rows)}

Of all data with a covariance Gaussian ones have the largest excess entropy, so the closed form is
an upper bound on the limit of theory, and the excess entropy of as few as 1,500 digits a lower
bound on that of digits. What is measured lies above both, as a half is passed before (on the way
back) the mean of the logarithms is: with few patterns the change is wide. It comes down to the
closed form as K grows, from {first:.2f} to {last:.2f} times it. The noise at which patterns are
decided falls slowly with their number: a hundred times as many, a fifth of it.

**Speciation.** Of every two digits: where two futures share the class with a chance of 3/4. Over
the largest variance it is {spread["largest"]} (median, and range over the 45 pairs); over a quarter
of the squared distance of the class means {spread["means"]}. So the largest variance tells within a
factor of two, without labels; the distance of the means, with them, is too small where digits are
alike: their classes differ by more than their means.

**What is made.** All {made["sde"]["count"]} runs of the reverse SDE over {made["K"]:,} digits ended
at stored pictures, {made["sde"]["different"]} different ones: the root mean square to the nearest
is {made["sde"]["rms"]:.1e} a pixel at most ({made["flow"]["rms"]:.1e} by the flow). That is what
the exact score does for any number of patterns: it cannot make a new one.
"""


if __name__ == "__main__":
    main("diffusion_memory", run, draw, page)
