"""The published circle: networks that learn its points, beside the exact energy of the points.

python benchmarks/diffusion_circle.py

Trainings go on from the folder `cache/` where they were interrupted; `--train` does nothing else.
"""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from captions import captioned
from theory_figures import main, mean_and_error, table

import amlib as am
from amlib._intervals import wilson
from amlib.plots.pictures import FAINT, GREEN, ORANGE, PURPLE, new_figure, place, style

SIZES = (2, 4, 9, 20, 50, 200, 1000)
PUBLISHED = (2, 9, 1000)
STEPS, RATE = 50_000, 1e-4
BATCH, EPOCH, DECAY = 128, 500, 0.9999
CACHE = Path(__file__).parents[1] / "cache"

TIMES = (0.15, 0.02, 0.002)
MEMORISED, SPURIOUS = 0.03, 0.02  # published distances: of a training point, of another sample
VALLEY = 0.1  # of the two curvatures at a minimum, the smaller over the larger
GROUP, GROUPS = 16, 20
KINDS = ("memorised", "spurious", "generalised")
COLORS = dict(zip(KINDS, (ORANGE, PURPLE, GREEN), strict=True))


def circle(K):
    """K points, uniform on the unit circle; by this key the first two lie apart."""
    angles = jr.uniform(jr.key(5), (max(SIZES),), maxval=2 * jnp.pi)[:K]
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)


def train(K, quick=False, progress=False):
    """The network that learned K points, averaged, and the history of its loss."""
    Xi = circle(K)
    steps, epoch = (20, 10) if quick else (STEPS, EPOCH)
    rows = BATCH * epoch
    data = jnp.tile(Xi, (-(-rows // K), 1))[:rows]
    network = am.learning.DiffusionNetwork(jr.key(K), (2,), spread=0.5**0.5)
    optimizer = optax.chain(optax.adam(RATE), am.learning.moving_average(DECAY))
    loss = am.learning.DenoisingScoreMatching()
    CACHE.mkdir(exist_ok=True)
    checkpoint = None if quick else CACHE / f"diffusion_circle_{K}"
    result = am.fit(
        network, data, loss, optimizer, steps // epoch, BATCH, jr.key(K),
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return am.learning.averaged(result), result.history


def run(quick):
    sizes = (2, 9) if quick else SIZES
    rows = []
    for K in sizes:
        row = {"K": K, "exact": measured(am.DiffusionMemory(circle(K)), K, quick)}
        if K in PUBLISHED:
            network, history = train(K, quick)
            row["network"] = measured(network, K, quick)
            row["train_seconds"] = float(history["seconds"].sum())
        rows.append(row)
        print(K, {n: row[n]["samples"] for n in ("exact", "network") if n in row}, flush=True)
    return {"rows": rows, "uniform": {str(K): uniform(K) for K in sizes}}


def measured(model, K, quick):
    """Loss, minima at three times, kinds of samples, and for the published sizes the energy."""
    Xi = circle(K)
    count, steps = (2 * GROUP, 20) if quick else (GROUP * GROUPS, 400)
    keys = jr.split(jr.key(1), count)
    samples = np.asarray(generated(model, keys, steps))
    out = {"samples": kinds_of(samples, np.asarray(Xi)), "loss": loss_of(model, Xi, quick)}
    out["minima"] = [minima(model, t, np.asarray(Xi), quick) for t in TIMES]
    if K in PUBLISHED:
        line = jnp.linspace(-1.5, 1.5, 15 if quick else 49)
        grid = jnp.stack(jnp.meshgrid(line, line), -1)
        energy = np.asarray(energies(model, grid, TIMES[0]), float)
        out["energy"] = np.round(energy - energy.min(), 3).tolist()
        out["drawn"] = np.round(samples[:100], 3).tolist()
    return out


@eqx.filter_jit
def generated(model, keys, steps):
    def one(key):
        end = model.generate(key, start=1.0, stop=1e-5, method=am.ReverseSDE(steps))
        return model.denoise(end.x, end.time)

    return jax.vmap(one)(keys)


@eqx.filter_jit
def energies(model, grid, t):
    """Minus the log density at a time, but for a constant."""
    return jax.vmap(jax.vmap(lambda x: model.energy(x, jnp.float32(t)) / t))(grid)


def loss_of(model, Xi, quick):
    """The loss that trainings lower, over times from 0.001 on, and its standard error."""
    loss = am.learning.DenoisingScoreMatching(1e-3, draws=4)
    data = jnp.tile(Xi, (-(-2048 // len(Xi)), 1))[:2048]
    once = eqx.filter_jit(lambda model, key: loss(model, data, key))
    return mean_and_error([once(model, jr.key(k)) for k in range(2 if quick else 5)])


def kinds_of(samples, Xi):
    """The published kinds of samples in groups of 16: shares of each."""
    near = np.sqrt(((samples[:, None] - Xi) ** 2).sum(-1).min(1)) <= MEMORISED
    groups = samples.reshape(-1, GROUP, 2)
    apart = np.sqrt(((groups[:, :, None] - groups[:, None]) ** 2).sum(-1))
    apart = apart + 9 * np.eye(GROUP)
    together = (apart.min(-1) <= SPURIOUS).reshape(-1)
    shares = (near, ~near & together, ~near & ~together)
    return {kind: float(share.mean()) for kind, share in zip(KINDS, shares, strict=True)}


def uniform(K):
    """What the kinds would be of samples of the whole circle."""
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, 200 * GROUP)
    samples = np.stack([np.cos(angles), np.sin(angles)], 1)
    return kinds_of(samples, np.asarray(circle(K)))


def minima(model, t, Xi, quick):
    """Different minima of the energy at a time and their kinds, and shares of starts by kinds."""
    line = jnp.linspace(-1.3, 1.3, 4 if quick else 9)
    starts = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    x, curved = (np.asarray(a) for a in ends(model, starts, t))
    rests = curved[:, 0] > -0.01 * np.abs(curved).max(1)
    x, curved = x[rests], curved[rests]
    flat = curved[:, 0] < VALLEY * curved[:, 1]
    near = np.sqrt(((x[:, None] - Xi) ** 2).sum(-1).min(1)) <= MEMORISED
    kind = np.where(flat, 2, np.where(near, 0, 1))
    left, number = np.ones(len(x), bool), np.zeros(3, int)
    while left.any():  # those within the published distance are one
        first = np.flatnonzero(left)[0]
        number[kind[first]] += 1
        left &= np.sqrt(((x - x[first]) ** 2).sum(1)) > SPURIOUS
    shares = np.bincount(kind, minlength=3) / max(len(x), 1)
    return {
        "number": number.tolist(), "share": shares.tolist(), "starts": len(starts),
        "at_rest": int(rests.sum()),
    }  # fmt: skip


@eqx.filter_jit
def ends(model, starts, t):
    memory = model.at(jnp.float32(t))
    method = am.GradientDescent(1.0, True)
    end = jax.vmap(lambda x: memory.recall(x, method=method, max_steps=300, tol=1e-4).x)(starts)
    return end, jax.vmap(lambda x: jnp.linalg.eigvalsh(jax.hessian(memory.energy)(x)))(end)


def draw(data):
    figure = new_figure(1500, 1150)
    rows = {r["K"]: r for r in data["rows"]}
    shown = [K for K in PUBLISHED if K in rows]
    angle = np.linspace(0, 2 * np.pi, 200)
    for i, name in enumerate(("exact", "network")):
        for j, K in enumerate(shown):
            ax = place(figure, 90 + 340 * j, 50 + 350 * i, 310, 310)
            energy = np.asarray(rows[K][name]["energy"])
            ax.imshow(
                np.minimum(energy, 12),
                origin="lower",
                extent=(-1.5, 1.5, -1.5, 1.5),
                cmap="Blues_r",
            )
            ax.plot(np.cos(angle), np.sin(angle), color="white", linewidth=0.7, linestyle="--")
            points, drawn = np.asarray(circle(K)), np.asarray(rows[K][name]["drawn"])
            ax.plot(*drawn.T, ".", color=ORANGE, markersize=4, alpha=0.7)
            if K <= 9:
                ax.plot(*points.T, "*", color="white", markeredgecolor="black", markersize=9)
            ax.set(xticks=[], yticks=[], xlim=(-1.5, 1.5), ylim=(-1.5, 1.5))
            if i == 0:
                ax.set_title(f"K = {K}", fontsize=10)
            if j == 0:
                ax.set_ylabel(f"{name}, t = {TIMES[0]}", fontsize=10)
    for i, name in enumerate(("exact", "network", "uniform")):
        ax = place(figure, 1160, 60 + 245 * i, 310, 145)
        there = [r for r in data["rows"] if name in r] if i < 2 else data["rows"]
        kinds = [r[name]["samples"] if i < 2 else data["uniform"][str(r["K"])] for r in there]
        bars(ax, [r["K"] for r in there], kinds)
        ax.set_title(f"samples, {name}", fontsize=9, pad=12 if i == 0 else 5)
        if i == 0:
            ax.legend(frameon=False, fontsize=6.5, ncols=3, loc=(-0.06, 0.97), columnspacing=0.8)
    for k, t in enumerate(TIMES):
        ax = place(figure, 90 + 480 * k, 820, 410, 250)
        for name, mark, width in (("exact", "o-", 1.2), ("network", "s", 0)):
            there = [r for r in data["rows"] if name in r]
            for n, kind in enumerate(KINDS):
                number = np.asarray([r[name]["minima"][k]["number"][n] for r in there], float)
                ax.plot(
                    [r["K"] for r in there], np.maximum(number, 0.1), mark, linewidth=width,
                    markersize=4 if width else 8, fillstyle="full" if width else "none",
                    color=COLORS[kind], label=f"{kind}, {name}",
                )  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="K", ylabel="minima" if k == 0 else "")
        ax.plot([2, 50], [2, 50], color=FAINT, linewidth=0.8, linestyle=":")
        style(ax)
        ax.set_ylim(0.07, 400)
        ax.set_yticks([0.1, 1, 10, 100], ["0", "1", "10", "100"])
        ax.minorticks_off()
        ax.set_title(f"minima at t = {t}", fontsize=10)
        if k == 0:
            ax.legend(frameon=False, fontsize=6.5, ncols=2, loc="upper left")
    return captioned(
        figure,
        "K training points on a circle in D = 2, one draw and one training (seed); orange: 320 "
        "samples; minima are counted, without intervals.",
    )


def bars(ax, sizes, rows):
    """Shares of kinds, one bar for each size."""
    base = np.zeros(len(sizes))
    for kind in KINDS:
        height = np.asarray([row[kind] for row in rows])
        ax.bar(range(len(sizes)), height, bottom=base, color=COLORS[kind], label=kind, width=0.7)
        base = base + height
    style(ax)
    ax.set_xticks(range(len(sizes)), [f"{K}" for K in sizes], fontsize=7)
    ax.set_xlabel("K", labelpad=0, fontsize=8)
    ax.set(ylim=(0, 1))
    ax.grid(visible=False)


def page(data):
    """The circle of the published toy: memorised, spurious, generalised."""
    share = lambda row: " / ".join(f"{100 * row[kind]:.0f}" for kind in KINDS)
    losses, samples, counts = [], [], []
    for r in data["rows"]:
        exact, network = r["exact"], r.get("network")
        if network:
            excess = network["loss"][0] - exact["loss"][0]
            losses.append((
                r["K"], f"{exact['loss'][0]:.4f}", f"{network['loss'][0]:.4f}", f"{excess:.4f}",
                f"{r['train_seconds']:.0f}",
            ))  # fmt: skip
        low, high = wilson(exact["samples"]["memorised"], GROUP * GROUPS)
        samples.append((
            r["K"], share(exact["samples"]), share(network["samples"]) if network else "-",
            share(data["uniform"][str(r["K"])]), f"{100 * low:.0f} to {100 * high:.0f}",
        ))  # fmt: skip
        for k, t in enumerate(TIMES):
            cell = lambda m: " / ".join(map(str, m["number"]))
            other = cell(network["minima"][k]) if network else "-"
            counts.append((r["K"], t, cell(exact["minima"][k]), other))
    return f"""Diffusion on a circle: the exact energy of K points, and networks that learned them
Networks of 2, 9 and 1,000 points: {STEPS:,} steps of Adam {RATE:g}, batches of {BATCH}, averaged
with a decay of {DECAY:g}; sigma = 1, times uniform in (1e-5, 1), a `learning.DiffusionNetwork`
of 4 layers of 128 (trained on an NVIDIA H200 beside other work, commit 8ca568d, JAX 0.11.2; all
else was measured on the machine above). Published (arXiv 2505.21777) are as many steps, that rate
and that decay, on batches of K. Besides, the network here is one of the energy and not of the
score, so that its minima can be looked for, and it sees the logarithm of the noise. Energies are
minus log densities at t = {TIMES[0]}, as published, up to constants;
orange are samples, {GROUP * GROUPS} by 400 steps of `ReverseSDE` from t = 1 to 1e-5, denoised.

**Kinds of samples**, published: *memorised* within {MEMORISED} of a training point; else *spurious*
if another sample is within {SPURIOUS}; else *generalised*. Samples are compared in groups of
{GROUP}, as of more on a line of length 2 pi some are always near. "Uniform" is what the rule says
of points drawn from the whole circle: where K is large, training points are so dense that it calls
these memorised, too, and cannot tell.

**Kinds of minima**: recalls of `model.at(t)` from a grid of 9 x 9 starts; ends at rest within
{SPURIOUS} are one. *Generalised* are those in a valley (of the two curvatures one is below
{VALLEY:g} of the other), *memorised* others within {MEMORISED} of a training point, *spurious* the
rest.

What is seen, and why:

- The exact memory generates stored points alone, whatever K is: at the end of the way back each has
  a minimum of its own. (A count by recalls from a grid misses most of them where they are many.)
- On the way (t = {TIMES[0]}) the kinds change with K as published: 2 points are 2 minima; of 9
  and 20
  most share spurious ones; 1,000 make a valley.
- The networks of 2 and 9 points have the minima of the exact memory at t = {TIMES[0]}; early,
  that of 9
  keeps the shared ones and cannot tell points that lie close.
- The network of 1,000 points comes as near to the least loss, and does *not* know them: where the
  exact memory falls apart into single points (t = {TIMES[2]}), it has a valley all around, and no
  minimum that is memorised. That is generalisation. Its samples cannot say so, since points are
  so dense that near the circle is near a point: see "uniform".

{table(("K", "least loss (exact)", "network", "more", "seconds"), losses)}

Samples: memorised / spurious / generalised, in %.

{table(("K", "exact", "network", "uniform on the circle", "95 % of exact, memorised"), samples)}

Minima: numbers of memorised / spurious / generalised.

{table(("K", "t", "exact", "network"), counts)}
"""


if __name__ == "__main__":
    if "--train" in sys.argv:
        for K in PUBLISHED:
            history = train(K)[1]
            print(K, history["loss"][-5:], history["seconds"].sum(), flush=True)
    else:
        main("diffusion_circle", run, draw, page)
