"""Units of two values flip as spins do, whatever the two values are; reals stay on their set."""

import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from tests import users
from tests.zoo import reals, spins

D = 9


class Occupied(am.spaces.AbstractTwoValued):
    """A space of a user's."""

    low, high = 0.0, 2.0  # pyright: ignore


class Lopsided(am.spaces.AbstractTwoValued):
    """Values whose middle is not 0, and of which neither is."""

    low, high = -1.0, 3.0  # pyright: ignore


# Three kinds of energies of 0/1 units, each with numbers of which no two sums tie.


class Pairs(am.AbstractBinaryAM):
    """A Boltzmann machine: couplings and thresholds."""

    J: jax.Array
    b: jax.Array
    space = am.Bits()

    def energy(self, x):
        return -0.5 * jnp.dot(x, self.J @ x) - jnp.dot(self.b, x)


class Exponential(am.BinaryAM):
    space = am.Bits()

    def energy(self, x):
        return -jax.nn.logsumexp(self.Xi @ x)


class Cubic(am.BinaryAM):
    space = am.Bits()

    def energy(self, x):
        return -jnp.sum(jax.nn.relu(self.Xi @ x) ** 3)


class Elsewhere(am.AbstractBinaryAM):
    """The same energy on units of two other values."""

    whole: am.AbstractBinaryAM
    on: am.spaces.AbstractTwoValued = am.Spins()

    @property
    def space(self):  # pyright: ignore
        return self.on

    def energy(self, x):
        low, high = self.space.low, self.space.high
        return self.whole.energy((x - low) / (high - low))


J = reals(0, D, D)
MODELS = {
    "pairs": Pairs(jnp.asarray(J + J.T, jnp.float32), jnp.asarray(reals(1, D), jnp.float32)),
    "exponential": Exponential(jnp.asarray(reals(2, 5, D), jnp.float32)),
    "cubic": Cubic(jnp.asarray(reals(3, 5, D), jnp.float32)),
}
METHODS = {
    "permutation": am.Sweeps(),
    "sequential": am.Sweeps("sequential"),
    "random": am.Sweeps("random"),
    "greedy": am.Greedy(),
    "synchronous": am.Synchronous(),
    "glauber": am.Glauber(0.4),
    "metropolis": am.Metropolis(0.4, "random"),
    "informed": am.GibbsWithGradients(0.4),
    "informed by the gradient": am.GibbsWithGradients(0.4, changes="gradient"),
    "dmala": am.DMALA(0.4),
    "exchange": am.Sweeps(am.descent.Exchange()),
}
S0 = jnp.asarray(spins(4, 6, D), jnp.float32)
KEYS = jr.split(jr.key(0), 6)


def recalls(model, x, method):
    """Six recalls as one program."""
    return jax.vmap(lambda x, k: model.recall(x, method=method, key=k, max_steps=12))(x, KEYS)


# -- two values ------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_bits_visit_the_states_that_spins_visit(name, method):
    bits = MODELS[name]
    b = recalls(bits, (S0 + 1) / 2, METHODS[method])
    s = recalls(Elsewhere(bits), S0, METHODS[method])
    assert_array_equal(b.x, (s.x + 1) / 2)
    assert_array_equal(b.steps, s.steps)
    assert (b.result == s.result).all()
    assert_allclose(b.energy, s.energy, rtol=2e-5, atol=1e-5)
    assert_array_equal(b.trajectory.visited, s.trajectory.visited)
    assert_array_equal(b.trajectory.accepted, s.trajectory.accepted)
    frames = np.asarray(b.trajectory.frames)
    assert set(np.unique(frames)) == {0.0, 1.0}
    assert_array_equal(frames, (np.asarray(s.trajectory.frames) + 1) / 2)
    assert b.trajectory.accepted.any()  # else nothing was compared


@pytest.mark.parametrize("space", [Occupied(), Lopsided()], ids=["0/2", "-1/3"])
def test_a_space_of_a_users_visits_them_too(space):
    bits = MODELS["exponential"]
    model = Elsewhere(bits, space)
    there = lambda b: space.low + (space.high - space.low) * b
    for method in (
        am.Sweeps(),
        am.Greedy(),
        am.Glauber(0.4),
        am.DMALA(0.4, 0.5, changes="gradient"),
    ):
        b = recalls(bits, (S0 + 1) / 2, method)
        u = recalls(model, there((S0 + 1) / 2), method)
        assert_array_equal(u.x, there(b.x))
        assert_array_equal(u.trajectory.accepted, b.trajectory.accepted)
        assert_array_equal(np.asarray(u.trajectory.frames), there(np.asarray(b.trajectory.frames)))
        assert_allclose(u.energy, b.energy, rtol=1e-5)
    with pytest.raises(ValueError, match=rf"hold only {space.low:g} and {space.high:g}; other val"):
        model.recall(jnp.full(D, 0.5))


def test_visits_without_a_method_know_the_space():
    bits = MODELS["pairs"]
    spun = Elsewhere(bits)
    b0 = (S0[0] + 1) / 2
    x, (frames, energies) = bits.async_recall(b0, 50, jr.key(3))
    s, (spin_frames, spin_energies) = spun.async_recall(S0[0], 50, jr.key(3))
    assert_array_equal(x, (s + 1) / 2)
    assert_array_equal(frames, (np.asarray(spin_frames) + 1) / 2)
    assert_allclose(energies, spin_energies, rtol=1e-5, atol=1e-5)
    assert_allclose(bits.flip_energies(b0), spun.flip_energies(S0[0]), rtol=1e-5, atol=1e-5)
    one, other = bits.async_update(b0, 3), spun.async_update(S0[0], 3)
    assert_array_equal(one[0], (other[0] + 1) / 2)
    rest = bits.recall(b0).x
    assert bits.is_fixed_point(rest)
    held = np.arange(D) % 2 == 0
    clamped = bits.recall(b0, clamp=held).x
    assert_array_equal(clamped[held], b0[held])
    assert bits.is_fixed_point(clamped, clamp=held)


@pytest.mark.parametrize("name", MODELS)
def test_flips_of_bits_stay_incremental(name, capsys):
    MODELS[name].explain(jnp.zeros(D))
    Elsewhere(MODELS[name], Lopsided()).explain(-jnp.ones(D))
    assert "path      generic" not in capsys.readouterr().out


def test_a_memory_that_knows_its_states_explains_itself_without_one(capsys):
    Memory = type("Memory", (am.BinaryAM,), {
        "space": Occupied(), "energy": lambda self, x: -jnp.sum((self.Xi @ x) ** 2),
    })  # fmt: skip
    Memory(jnp.asarray(reals(2, 3, D), jnp.float32)).explain()
    assert "path      generic" not in capsys.readouterr().out


@pytest.mark.parametrize("dtype", [bool, np.int32, np.uint8, np.float64, jnp.bfloat16])
def test_states_of_bits_as_users_have_them(dtype):
    memory = MODELS["exponential"]
    given = (np.asarray(S0[0]) > 0).astype(dtype)
    end = memory.recall(given, method=am.Sweeps("sequential"))
    assert_array_equal(end.x, memory.recall((S0[0] + 1) / 2, method=am.Sweeps("sequential")).x)
    assert end.x.dtype == jnp.float32


def test_other_values_are_refused_with_a_cure():
    Memory = type("Memory", (users.am.BinaryAM,), {
        "space": users.am.Bits(), "energy": lambda self, x: -jnp.sum((self.Xi @ x) ** 2),
    })  # fmt: skip
    memory = Memory(jnp.asarray(reals(2, 3, D), jnp.float32))
    for call in (memory.recall, memory.async_recall, memory.flip_energies, memory.is_fixed_point):
        with pytest.raises(ValueError, match=r"hold only 0 and 1; .*Spins become bits by \(x \+ 1"):
            call(S0[0])
    with pytest.raises(ValueError, match=r"hold only 0 and 2.*become such units by 0 \+ 2 \* \(s"):
        Occupied().check(S0[0], "here")


def test_patterns_of_bits_are_what_bits_are_for():
    patterns = (spins(5, 3, D) + 1) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Cubic(jnp.asarray(patterns, jnp.float32))
    with pytest.warns(UserWarning, match="0 and 1"):
        am.ClassicalHopfield(jnp.asarray(patterns, jnp.float32))


@pytest.mark.parametrize("space", [am.Spins(), am.Bits(), Occupied(), Lopsided()])
def test_the_code_of_a_space_goes_there_and_back(space):
    s = S0[0]
    x = space.from_spins(s)
    assert_array_equal(space.to_spins(x), s)
    assert_array_equal(space.affine(s), x)
    assert_array_equal(space.other(x), space.from_spins(-s))
    assert_array_equal(space.check(x, "here"), x)
    values = space.asarray(np.array([False, True]), "here")
    assert_array_equal(values, [space.low, space.high])


# -- real units ------------------------------------------------------------------------------------


class HalfLine(am.spaces.AbstractReals):
    """A space of a user's."""

    def project(self, x):
        return jnp.maximum(x, 0)


class Bounded(am.ContinuousAM):
    """A memory whose states live on a set."""

    on: am.spaces.AbstractReals

    @property
    def space(self):  # pyright: ignore
        return self.on

    def energy(self, x):
        return 0.5 * jnp.sum(x**2) - jax.nn.logsumexp(self.Xi @ x)


SETS = {"box": am.Box(-0.3, 0.4), "sphere": am.Sphere(1.2), "half line": HalfLine()}


@pytest.mark.parametrize("name", SETS)
def test_a_memory_names_the_set_that_its_states_stay_on(name):
    space = SETS[name]
    memory = Bounded(jnp.asarray(reals(6, 4, D), jnp.float32), space)
    x0 = jnp.asarray(reals(7, D), jnp.float32)
    for method in (am.GradientDescent(0.2, True), am.Euler(0.1), am.FixedPoint(step_size=0.3)):
        end = memory.recall(x0, method=method, max_steps=300, save_every=1)
        states = end.trajectory.frames
        assert_allclose(jax.vmap(space)(states), states, atol=1e-6)
        assert_allclose(space(end.x - jax.grad(memory.energy)(end.x)), end.x, atol=1e-3)
        assert end.converged
    free = am.Reals()
    assert_array_equal(free(x0), x0)
    assert_array_equal(space.other(x0), space(-x0))


def test_the_keyword_of_before_is_another_space_for_one_recall():
    memory = am.ModernHopfield(jnp.asarray(reals(6, 4, D), jnp.float32), 1.0)
    x0 = jnp.asarray(reals(7, D), jnp.float32)
    one = memory.recall(x0, project=am.Box(-0.3, 0.4))
    other = memory.recall(x0, project=lambda x: jnp.clip(x, -0.3, 0.4))
    own = Bounded(memory.Xi, am.Box(-0.3, 0.4)).recall(x0, method=am.CCCP())
    assert_allclose(one.x, other.x, atol=1e-6)
    assert_allclose(one.x, own.x, atol=1e-4)
