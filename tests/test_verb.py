"""One verb: every family recalls by the same call, with every method for its states.

Families differ in what a state is, and in nothing that is asked or returned.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from tests.zoo import reals, spins

R = am.RESULTS
D = 8


class Wells(am.ContinuousAM):
    """A continuous memory of a user's: no convex part is promised."""

    def energy(self, x):
        return 0.4 * jnp.sum(x**2) - jax.nn.logsumexp(0.8 * (self.Xi @ x))


class BitMemory(am.BinaryAM):
    space = am.Bits()

    def energy(self, x):
        return -jax.nn.logsumexp(self.Xi @ x)


def hierarchy(dtype=jnp.float32):
    """Three layers; the hidden one is fast."""
    layers = {"image": am.IdentityLayer((2, 4)), "label": am.SoftmaxLayer(3), "hidden": fast(5)}
    ham = am.HAM(
        layers,
        {"see": am.DenseSynapse(std=0.5), "name": am.DenseSynapse(std=0.5)},
        [(("image", "hidden"), "see"), (("label", "hidden"), "name")],
    )
    _, ham = ham.init_states_and_params(jr.key(0))
    return jax.tree.map(lambda a: a.astype(dtype), ham)


def block(dtype=jnp.float32):
    """Three tokens that attend to each other and to a memory, with weights of trained sizes."""
    made = am.EnergyTransformer(3, 4, 2, 3, 5, std=0.5, key=jr.key(2))
    return jax.tree.map(lambda a: a.astype(dtype), made)


def fast(size):
    return am.NeuronLayer(am.Lagrangian(am.lagr_tanh), size, tau=0.5)


def dense(states, dtype=jnp.float32):
    """Couplings that want something of every unit, and a bias."""
    model = am.DenseReconstructor(D, states=states)
    A, b = jnp.asarray(0.5 * reals(0, D, D), dtype), jnp.asarray(0.2 * reals(1, D), dtype)
    return jax.tree.unflatten(jax.tree.structure(model), [A, b])


def rule(dtype=jnp.float32):
    """A map that has no energy."""
    model = am.Conv2dReconstructor((2, 4), filters=4, kernel_size=3, key=jr.key(1))
    return jax.tree.map(lambda a: a.astype(dtype), model)


class Family(NamedTuple):
    """How to make a memory, a state of it, a mask, and what its free units rest by.

    - `pull(memory, x)`: what the projected unit step changes.
    """

    make: Callable[..., Any]
    state: Callable[[int, Any], Any]
    mask: Any
    pull: Callable[[Any, Any], Any] | None = None


def real_state(seed, dtype):
    return jnp.asarray(reals(seed, D), dtype)


def spin_state(seed, dtype):
    return jnp.asarray(spins(seed, D), dtype)


def layers_state(seed, dtype):
    make = lambda k, *shape: jnp.asarray(reals(10 * seed + k, *shape), dtype)
    return {"image": make(0, 2, 4), "label": make(1, 3), "hidden": make(2, 5)}


def tokens_state(seed, dtype):
    return jnp.asarray(reals(seed, 3, 4), dtype)


def tokens_pull(model, x):
    return model.ham.updates({"tokens": x})["tokens"]


def soft_pull(model, x):
    return model.soft(x) - x


def layer_pull(ham, xs):
    return {n: u / ham.neurons[n].tau for n, u in ham.updates(xs).items()}


HALF = np.arange(D) % 2 == 0
LAYERS = {"image": HALF.reshape(2, 4), "label": np.ones(3, bool)}
TOKENS = np.arange(12).reshape(3, 4) < 4
Xi = spins(0, 3, D)
FAMILIES = {
    "spins": Family(lambda d: am.ClassicalHopfield(jnp.asarray(Xi, d)), spin_state, HALF),
    "bits": Family(
        lambda d: BitMemory(jnp.asarray(reals(2, 3, D), d)),
        lambda seed, d: (spin_state(seed, d) + 1) / 2, HALF,
    ),
    "reals": Family(
        lambda d: Wells(jnp.asarray(Xi, d)), real_state, HALF, lambda m, x: m.update(x)
    ),
    "unit step": Family(
        lambda d: am.ModernHopfield(jnp.asarray(Xi, d), 1.0), real_state, HALF,
        lambda m, x: m.update(x),
    ),
    "layers": Family(hierarchy, layers_state, LAYERS, layer_pull),
    "tokens": Family(block, tokens_state, TOKENS, tokens_pull),
    "reconstructor": Family(lambda d: dense("spins", d), spin_state, HALF, soft_pull),
    "reconstructor of bits": Family(
        lambda d: dense("bits", d), lambda seed, d: (spin_state(seed, d) + 1) / 2, HALF, soft_pull
    ),
    "map": Family(
        rule, lambda seed, d: spin_state(seed, d).reshape(2, 4), HALF.reshape(2, 4), soft_pull
    ),
}  # fmt: skip

FLIPS = {
    "sweeps": am.Sweeps(),
    "greedy": am.Greedy(),
    "synchronous": am.Synchronous(),
    "glauber": am.Glauber(0.3),
    "metropolis": am.Metropolis(0.3),
    "informed": am.GibbsWithGradients(0.3),
    "informed by the gradient": am.GibbsWithGradients(0.3, changes="gradient"),
    "dmala": am.DMALA(0.3),
    "exchange": am.Sweeps(am.descent.Exchange()),
}
RELAX = {"relax": am.Relax(), "relax in turn": am.Relax("asynchronous")}
DOWN = {
    "descent": am.GradientDescent(0.2),
    "backtracking": am.GradientDescent(1.0, backtracking=True),
    "euler": am.Euler(0.2),
    "flow": am.Flow(),
    "fixed point": am.FixedPoint(step_size=0.5),
}
REALS = DOWN | {"langevin": am.Langevin(5.0, 0.05), "mala": am.MALA(5.0, 0.05)}
DRAWS = {"glauber", "metropolis", "informed", "informed by the gradient", "dmala"}
DRAWS |= {"langevin", "mala"}
FITS = {
    "spins": FLIPS,
    "bits": {"sweeps": am.Sweeps()},  # the others: tests/test_spaces.py
    "reals": REALS,
    "unit step": {"cccp": am.CCCP()},
    "layers": REALS,
    "tokens": REALS,
    "reconstructor": {k: FLIPS[k] for k in ("sweeps", "greedy", "glauber", "dmala")}
    | RELAX
    | {"flow": am.Flow(), "fixed point": am.FixedPoint()},
    "reconstructor of bits": RELAX | {"greedy": am.Greedy(), "fixed point": am.FixedPoint()},
    "map": RELAX | {"flow": am.Flow(), "descent": am.GradientDescent(1.0)},
}
PAIRS = [(family, name) for family, methods in FITS.items() for name in methods]


def held(mask, x):
    """Masks of every array of a state."""
    if not isinstance(x, dict):
        return mask
    return {n: mask.get(n, np.zeros(a.shape, bool)) for n, a in x.items()}


def stacked(states):
    return jax.tree.map(lambda *a: jnp.stack(a), *states)


@pytest.mark.parametrize(("family", "name"), PAIRS, ids=[f"{f}-{n}" for f, n in PAIRS])
def test_the_verb(family, name):
    """One call, the same fields, batches, states on the way; what is held stays, the rest rests."""
    make, state, mask, pull = FAMILIES[family]
    memory, method = make(jnp.float32), FITS[family][name]
    run = lambda x, k, progress=False: memory.recall(
        x, method=method, key=k, clamp=mask, max_steps=300, save_every=2, progress=progress
    )
    starts, keys = [state(seed, jnp.float32) for seed in range(3)], jr.split(jr.key(0), 3)
    batch = jax.jit(jax.vmap(run))(stacked(starts), keys)
    assert batch.steps.shape == batch.energy.shape == (3,)
    one, x0 = run(starts[1], keys[1], progress=True), starts[1]  # a bar changes nothing
    # the same fields, whatever came
    assert isinstance(one, am.Recall)
    assert isinstance(one.trajectory, am.StateTrajectory)
    assert one.steps.dtype == jnp.int32
    assert one.energy.shape == one.steps.shape == ()
    assert jax.tree.structure(one.x) == jax.tree.structure(x0)
    assert jax.tree.map(jnp.shape, one.x) == jax.tree.map(jnp.shape, x0)
    if family != "map":
        assert_allclose(one.energy, memory.energy(one.x), rtol=1e-5, atol=1e-5)
    # a batch is as many recalls
    for a, b in zip(jax.tree.leaves(batch[1].x), jax.tree.leaves(one.x), strict=True):
        assert_allclose(a, b, atol=2e-3 if pull else 0)
    if name != "backtracking":  # falls within rounding are tried again, here or there
        assert abs(int(batch[1].steps) - int(one.steps)) <= (2 if pull else 0)
    # states on the way: from the start to the end, each with its energy and its time
    record = one.trajectory
    T = record.time.shape[0]
    at = lambda k: jax.tree.map(lambda a: a[k], record.frames)
    for a, b in zip(jax.tree.leaves((at(0), at(-1))), jax.tree.leaves((x0, one.x)), strict=True):
        assert_allclose(a, b, atol=1e-6)
    assert all(a.shape[0] == T for a in jax.tree.leaves(record.frames))
    assert record.time[0] == 0
    assert (jnp.diff(record.time) >= 0).all()
    if family != "map":
        middle = at(T // 2)
        assert_allclose(record.energy[T // 2], memory.energy(middle), rtol=1e-4, atol=1e-4)
    # what is held stays
    for m, a, b in zip(*map(jax.tree.leaves, (held(mask, x0), one.x, x0)), strict=True):
        assert_array_equal(a[m], b[m])
        assert_array_equal(np.asarray(a)[~m].size, (~m).sum())
    rests(family, name, memory, one, mask)


def rests(family, name, memory, end, mask):
    """Where it says that it converged, nothing that is free would move."""
    if name in DRAWS:
        assert end.result == R.sampled
        return
    if name in ("synchronous", "relax") and end.result == R.cycle:
        return
    if name == "exchange":  # pairs are drawn: sweeps that make no move prove nothing
        assert end.result == R.step_limit
        return
    assert end.converged, str(R[end.result])
    free = jax.tree.map(lambda m: ~m, held(mask, end.x))
    if name in FLIPS:
        i = np.arange(end.x.size)
        flipped = jnp.broadcast_to(end.x.reshape(-1), (i.size, i.size))
        flipped = flipped.at[i, i].set(memory.space.other(end.x).reshape(-1))
        energies = jax.vmap(memory.energy)(flipped.reshape(-1, *end.x.shape))
        assert (energies[free.reshape(-1)] >= end.energy - 1e-5).all()
    elif name in RELAX:
        wanted = memory(end.x)
        assert_array_equal(wanted[free], end.x[free])
    elif name in REALS or name == "cccp":
        pull = FAMILIES[family].pull
        assert pull is not None
        for p, f in zip(jax.tree.leaves(pull(memory, end.x)), jax.tree.leaves(free), strict=True):
            assert np.abs(np.asarray(p)[f]).max(initial=0) <= 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_held_may_be_traced(family):
    """Then it is not known how much is held, and the end is the same."""
    make, state, mask, _ = FAMILIES[family]
    memory, x0 = make(jnp.float32), state(1, jnp.float32)
    known = memory.recall(x0, clamp=mask).x
    traced = jax.jit(lambda m: memory.recall(x0, clamp=m).x)(jax.tree.map(jnp.asarray, mask))
    for m, a, b, start in zip(
        *map(jax.tree.leaves, (held(mask, x0), traced, known, x0)), strict=True
    ):
        assert_array_equal(a[m], start[m])
        if family not in ("spins", "bits"):  # these draw another order of all bits
            assert_allclose(a, b, atol=1e-6)


class Momentum(am.AbstractRealMethod):
    """A method of a user's."""

    def init(self, problem, at):
        return jnp.zeros_like(at.x)

    def step(self, problem, at, state, key):
        state = 0.7 * state - 0.1 * at.grad
        return problem.at(problem.put(at.x + state)), state


@pytest.mark.parametrize("family", ["reals", "layers", "tokens", "reconstructor"])
def test_a_method_of_a_users_moves_every_family_of_reals(family):
    make, state, mask, _ = FAMILIES[family]
    memory, x0 = make(jnp.float32), state(1, jnp.float32)
    end = memory.recall(x0, method=Momentum(), clamp=mask, save_every=1)
    other = memory.recall(end.x, method=am.GradientDescent(0.1), clamp=mask)
    for m, a, b, start in zip(
        *map(jax.tree.leaves, (held(mask, x0), end.x, other.x, x0)), strict=True
    ):
        assert_array_equal(a[m], start[m])
        assert_allclose(a, b, atol=1e-2)  # it ended where the library's method rests
    assert end.converged
    assert int(end.trajectory.time[-1]) == int(end.steps)


# -- derivatives in what is known ------------------------------------------------------------------

SMOOTH = [
    *(("reals", name) for name in ("descent", "backtracking", "euler", "flow", "fixed point")),
    ("unit step", "cccp"),
    *(("layers", name) for name in ("euler", "descent", "flow", "fixed point")),
    *(("tokens", name) for name in ("euler", "fixed point")),
    ("reconstructor", "fixed point"),
]


@pytest.mark.parametrize(("family", "name"), SMOOTH, ids=[f"{f}-{n}" for f, n in SMOOTH])
def test_the_derivative_goes_into_what_is_held(family, name, x64):
    """By the implicit function theorem or through the steps: that of finite differences."""
    make, state, mask, _ = FAMILIES[family]
    memory, method, x0 = make(jnp.float64), FITS[family][name], state(0, jnp.float64)
    if family == "reconstructor":
        x0 = 0.3 * x0
    implicit = name in ("flow", "fixed point")
    flat, apart = ravel_pytree(x0)
    known = ravel_pytree(held(mask, x0))[0]

    def loss(v):
        steps = 2000 if implicit else 12
        x = apart(v)
        end = memory.recall(x, method=method, clamp=mask, max_steps=steps, tol=1e-10)
        return jnp.sum(jnp.sin(ravel_pytree(end.x)[0]) * jnp.linspace(0.5, 1.5, v.size))

    value = jax.jit(loss)
    slope = jax.jit(jax.grad(loss))(flat)
    h = 1e-4 if implicit else 1e-6
    move = jnp.where(known, jnp.asarray(reals(5, flat.size)), 0)
    numeric = (value(flat + h * move) - value(flat - h * move)) / (2 * h)
    assert_allclose(jnp.sum(slope * move), numeric, rtol=2e-4 if implicit else 1e-6)
    moves = jnp.where(known, jnp.sign(slope), 0)
    assert abs(jnp.sum(slope * moves)) > 1e-2
    if implicit:  # where the free units began does not count
        assert_allclose(slope[~known], 0)


# -- the words of before ---------------------------------------------------------------------------


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert_array_equal(u, v)


def test_the_words_of_before_are_translated():
    key, x = jr.key(1), spin_state(3, jnp.float32)
    memory = FAMILIES["spins"].make(jnp.float32)
    same(memory.recall(x, order="sequential"), memory.recall(x, method=am.Sweeps("sequential")))
    same(
        memory.recall(x, order="random", key=key, record=3, max_sweeps=7),
        memory.recall(x, method=am.Sweeps("random", record=3), key=key, max_steps=7),
    )
    same(memory.recall(x, order="greedy"), memory.recall(x, method=am.Greedy()))
    same(
        memory.recall(x, beta=0.4, key=key, max_sweeps=5),
        memory.recall(x, method=am.Glauber(0.4), key=key, max_steps=5),
    )
    ham, xs = hierarchy(), layers_state(0, jnp.float32)
    same(ham.recall(xs, 12, 0.2), ham.recall(xs, method=am.Euler(0.2), max_steps=12))
    same(ham.recall(xs, steps=12, dt=0.2, clamp="label"), ham.recall(xs, 12, 0.2, clamp=["label"]))
    same(ham.recall(xs, clamp="label"), ham.recall(xs, clamp={"label": np.ones(3, bool)}))


def test_a_batch_of_layers_takes_the_words_of_the_verb():
    ham = hierarchy()
    xs = stacked([layers_state(seed, jnp.float32) for seed in range(3)])
    batch = ham.vectorize()
    for words in (
        {"max_steps": 9},
        {"steps": 9, "dt": 0.2},
        {"method": am.Euler(0.2), "max_steps": 9, "save_every": 3, "clamp": LAYERS},
        {"method": am.FixedPoint(step_size=0.5)},
    ):
        together = batch.recall(xs, **words)
        one = ham.recall(layers_state(1, jnp.float32), **words)
        assert int(together.steps[1]) == int(one.steps)
        for name, x in one.x.items():
            assert_allclose(together.x[name][1], x, atol=1e-4)
    same(batch.recall(xs, 9, 0.2), batch.recall(xs, steps=9, dt=0.2))


def test_what_is_drawn_for_a_batch_of_layers_differs_from_example_to_example():
    ham = hierarchy()
    xs = stacked([layers_state(0, jnp.float32)] * 3)
    ends = ham.vectorize().recall(xs, method=am.Langevin(1.0, 0.1), key=jr.key(0), max_steps=5)
    assert jnp.abs(ends.x["image"][0] - ends.x["image"][1]).max() > 0.05


# -- what a memory has none of ---------------------------------------------------------------------


def test_a_map_without_an_energy_says_what_it_can_do():
    memory, x = rule(), FAMILIES["map"].state(0, jnp.float32)
    with pytest.raises(TypeError, match=r"Sweeps lowers an energy; Conv2dReconstructor is a map w"):
        memory.recall(x, method=am.Sweeps())
    assert jnp.isnan(memory.recall(x).energy)
    with pytest.raises(TypeError, match=r"Relax repeats the map of a reconstructor; this memory h"):
        am.ClassicalHopfield(jnp.asarray(Xi, jnp.float32)).recall(x.reshape(-1), method=am.Relax())


def test_a_hierarchy_takes_methods_for_reals():
    ham, xs = hierarchy(), layers_state(0, jnp.float32)
    with pytest.raises(TypeError, match=r"must be one for real units; Sweeps came"):
        ham.recall(xs, method=am.Sweeps())
    with pytest.raises(ValueError, match=r"clamp must leave a layer free to move"):
        ham.recall(xs, clamp=["image", "label", "hidden"])
    with pytest.raises(ValueError, match=r"clamp: layer 'image': must have the shape \(2, 4\)"):
        ham.recall(xs, clamp={"image": np.ones(8, bool)})
