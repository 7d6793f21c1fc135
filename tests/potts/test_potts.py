"""Potts memories as users meet them: formulas, recall, records, and errors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.descent import Exchange, descend
from tests.potts.zoo import Ring, values

Q = 4
PATTERNS = values(0, Q, 5, 6, 7)


def damaged(seed, x, share):
    rng = np.random.default_rng(seed)
    return np.where(rng.random(x.shape) < share, rng.integers(0, Q, x.shape), x).astype(np.int32)


def test_the_classical_energy_is_the_sum_over_pairs():
    """Kanter 1988, over pairs of different units, in plain NumPy; but for a constant."""
    Xi, q = values(1, 3, 4, 5), 3
    model, D = am.PottsHopfield(Xi, q), 5
    for x in values(2, q, 6, D):
        u = q * (Xi == x) - 1.0
        pairs = sum(u[:, i] @ u[:, j] for i in range(D) for j in range(D) if i != j)
        expected = -0.5 * pairs - 0.5 * len(Xi) * D * (q - 1)
        np.testing.assert_allclose(model.energy(jnp.asarray(x)), expected, rtol=1e-6)
    m = model.overlaps(Xi[2])
    assert m[2] == 1
    np.testing.assert_allclose(m[0], (q * (Xi[0] == Xi[2]).mean() - 1) / (q - 1), rtol=1e-6)


def test_the_dense_energies_are_their_formulas():
    q = 3
    Xi, x = values(1, q, 4, 6), values(2, q, 6)
    h = (q * (Xi == x) - 1.0).sum(1)
    x = jnp.asarray(x)
    np.testing.assert_allclose(
        am.PolynomialPottsAM(Xi, q, 3, rectified=False).energy(x), -(h**3).sum(), rtol=1e-6
    )
    E = am.PolynomialPottsAM(Xi, q, 4).energy(x)
    np.testing.assert_allclose(E, -(np.maximum(h, 0) ** 4).sum(), rtol=1e-6)
    E = am.ExponentialPottsAM(Xi, q, 0.3).energy(x)
    np.testing.assert_allclose(E, -np.log(np.exp(0.3 * h).sum()) / 0.3, rtol=1e-6)


def test_pictures_are_recalled_alone_and_in_batches(capsys):
    """States of images; a batch is as many recalls; frames and states on the way; what is held."""
    model = am.ExponentialPottsAM(PATTERNS, Q, 0.2)
    assert model.Xi.dtype == jnp.int8
    starts = np.stack([damaged(k, PATTERNS[k], 0.4) for k in range(3)])
    keys = jr.split(jr.key(0), 3)
    known = np.zeros((6, 7), bool)
    known[:3] = True
    run = lambda x, k: model.recall(x, key=k, clamp=known, save_every=1, max_steps=5)
    batch = jax.jit(jax.vmap(run))(starts, keys)
    one = run(starts[1], keys[1])
    assert one.x.dtype == jnp.int32
    assert one.converged
    np.testing.assert_array_equal(batch.x[1], one.x)
    np.testing.assert_array_equal(batch.x[:, :3], starts[:, :3])
    np.testing.assert_array_equal(one.trajectory.frames[0], starts[1])
    np.testing.assert_array_equal(one.trajectory.frames[-1], one.x)
    np.testing.assert_array_equal(model.recall(starts[0].astype(float)).x, PATTERNS[0])
    assert model.is_fixed_point(PATTERNS[0])
    assert not model.is_fixed_point(starts[0])
    assert model.is_fixed_point(starts[0], np.ones((6, 7), bool))
    frames = model.recall(starts[0]).trajectory.frames
    assert frames.shape == (16 * 42, 6, 7)
    np.testing.assert_array_equal(frames[::7][3], np.asarray(frames)[21])
    model.explain()
    assert "incremental" in capsys.readouterr().out


def test_a_mask_may_be_traced():
    """Then it is not known how much is held; it is held all the same."""
    model, start = am.PottsHopfield(PATTERNS, Q), damaged(1, PATTERNS[0], 0.3)
    mask = np.arange(42).reshape(6, 7) % 2 == 0
    for method in (am.Sweeps(), am.Greedy()):
        end = jax.jit(lambda m, f=method: model.recall(start, clamp=m, method=f))(mask)
        np.testing.assert_array_equal(end.x[mask], start[mask])
        assert (end.x != start).any()
        assert model.is_fixed_point(end.x, mask)


@pytest.mark.parametrize("q", [4, 200])
def test_patterns_may_be_traced(q):
    """Also as int8, which does not hold all numbers that they are compared with."""
    Xi = jnp.asarray(PATTERNS.reshape(5, 42), jnp.int8)
    start = jnp.asarray(damaged(3, PATTERNS[0], 0.4).reshape(42))
    run = lambda Xi: am.PottsHopfield(Xi, q).recall(start.astype(jnp.int8))
    plain, traced = run(Xi), jax.jit(run)(Xi)
    np.testing.assert_array_equal(plain.x, traced.x)
    assert plain.trajectory.accepted.any()
    assert plain.energy == traced.energy


def test_many_values_are_stored_as_wider_integers():
    Xi = values(3, 300, 3, 8)
    model = am.PottsHopfield(Xi, 300)
    assert model.Xi.dtype == jnp.int16
    start = Xi[1].copy()
    start[:2] = 299 - start[:2]
    np.testing.assert_array_equal(model.recall(start).x, Xi[1])


def test_a_plain_energy_has_units_of_values_too():
    """`descend` without a memory; derivatives of the energy of a recall in its parameters."""
    energy = lambda x: -jnp.sum(x == jnp.roll(x, 1), dtype=jnp.float32)
    end = descend(energy, jnp.asarray([0, 1, 1, 2]), am.Sweeps("sequential"), space=am.Values(3))
    assert end.energy == -4
    xi = values(4, 3, 4, 9)
    loss = lambda beta: am.ExponentialPottsAM(xi, 3, beta).recall(xi[0]).energy
    plain = lambda beta: am.ExponentialPottsAM(xi, 3, beta).energy(jnp.asarray(xi[0]))
    beta = jnp.asarray(0.4)
    np.testing.assert_allclose(jax.grad(loss)(beta), jax.grad(plain)(beta), rtol=1e-4)


@pytest.mark.usefixtures("x64")
def test_in_double_precision_energies_are_double_and_states_are_not():
    model, start = am.ExponentialPottsAM(PATTERNS, Q, 0.2), damaged(4, PATTERNS[2], 0.3)
    for method in (am.Sweeps(), am.Greedy(), am.Synchronous(), am.Glauber(9.0)):
        end = model.recall(start, method=method, key=jr.key(0), max_steps=9)
        assert (end.x.dtype, end.energy.dtype) == (jnp.int32, jnp.float64)
        np.testing.assert_array_equal(end.x, PATTERNS[2])
        np.testing.assert_allclose(end.energy, model.energy(end.x), rtol=1e-14)


def test_damage_moves_a_unit_to_another_value():
    x = am.data.corrupt.flip_exactly(jr.key(0), PATTERNS[0], 5, space=am.Values(Q))
    assert (x != PATTERNS[0]).sum() == 5
    assert ((x >= 0) & (x < Q)).all()


WRONG = {
    "one value": (lambda: am.PottsHopfield(PATTERNS, 1), ValueError, r"q: must be at least 2; 1"),
    "half a value": (lambda: am.PottsHopfield(PATTERNS, 2.5), TypeError, r"q: must be an integer"),
    "too few": (lambda: am.PottsHopfield(PATTERNS, 3), ValueError, r"Xi: .* from 0 to 2; others"),
    "negative": (lambda: am.PottsHopfield(PATTERNS - 1, Q), ValueError, r"Xi: .* from 0 to 3; oth"),
    "fractions": (lambda: am.PottsHopfield(PATTERNS / 2, Q), ValueError, r"Xi: .*fractions, NaN o"),
    "NaN": (
        lambda: am.PottsHopfield(np.array([[0, np.nan]]), Q),
        ValueError,
        r"Xi: .*NaN or infinity",
    ),
    "flat": (lambda: am.PottsHopfield(np.array([0, 1]), Q), ValueError, r"Xi\[None\]"),
    "empty": (
        lambda: am.PottsHopfield(np.zeros((0, 3), int), Q),
        ValueError,
        r"K and D at least 1",
    ),
    "words": (
        lambda: am.PottsHopfield(np.array([["a"]]), Q),
        TypeError,
        r"Xi: must hold whole numbers",
    ),
    "no energy": (
        lambda: am.PottsAM(PATTERNS, Q),  # pyright: ignore[reportAbstractUsage]
        TypeError,
        r"energy",
    ),
    "power": (lambda: am.PolynomialPottsAM(PATTERNS, Q, 0), ValueError, r"n: must be at least 1"),
    "beta": (lambda: am.ExponentialPottsAM(PATTERNS, Q, -1.0), ValueError, r"beta"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_models_are_refused(what):
    make, kind, says = WRONG[what]
    with pytest.raises(kind, match=says):
        make()


START = PATTERNS[0]
STATES = {
    "a batch": (PATTERNS, {}, ValueError, r"shape \(6, 7\); \(5, 6, 7\) came.*jax.vmap"),
    "another shape": (START[0], {}, ValueError, r"shape \(6, 7\); \(7,\) came"),
    "out of range": (START + 1, {}, ValueError, r"from 0 to 3; others came"),
    "beyond int32": (START.astype(np.int64) + 2**32, {}, ValueError, r"from 0 to 3; others came"),
    "fractions": (START + 0.5, {}, ValueError, r"fractions, NaN or infinity"),
    "NaN": (START * np.nan, {}, ValueError, r"fractions, NaN or infinity"),
    "infinity": (START + np.inf, {}, ValueError, r"fractions, NaN or infinity"),
    "complex": (START * 1j, {}, TypeError, r"must hold whole numbers; dtype complex"),
    "a gradient": (
        START,
        {"method": am.DMALA(1.0, changes="gradient")},
        TypeError,
        r"DMALA: changes='gradient' must be of bits; units of 4 values came.*Use changes='exact'",
    ),
    "reals": (START, {"method": am.Euler(0.1)}, TypeError, r"units of 4 values; Euler came"),
    "pairs": (
        START,
        {"method": am.Sweeps(Exchange())},
        TypeError,
        r"Exchange must return",
    ),
    "no key": (START, {"method": am.Glauber(1.0)}, ValueError, r"needs key="),
    "tol": (START, {"tol": 0.1}, TypeError, r"tol= is of real states"),
    "a mask of numbers": (START, {"clamp": START}, TypeError, r"must be a boolean mask"),
}


@pytest.mark.parametrize("what", STATES)
def test_wrong_recalls_are_refused(what):
    x, words, kind, says = STATES[what]
    words = {"key": jr.key(0)} | words if what == "a gradient" else words
    with pytest.raises(kind, match=says):
        am.PottsHopfield(PATTERNS, Q).recall(x, **words)


def test_a_rule_of_two_energies_is_no_rule_of_several():
    """A user's method of flips says so, rather than leave the states of units."""

    class Own(am.AbstractFlipMethod):
        def step(self, problem, at, state, key):
            return problem.try_moves(at, problem.bits, lambda e, new, _: new < e), state

    with pytest.raises(TypeError, match=r"units of 3 values; Own came"):
        Ring(3).recall(np.zeros(4, int), method=Own())


class Sums(am.AbstractPottsAM):
    """Sums of whole numbers over pairs, of which some are the same pair twice."""

    q: int = eqx.field(static=True, default=3)

    def energy(self, x):
        first, second = np.random.default_rng(0).integers(0, 4, (2, 9))
        sums = jax.ops.segment_sum(jnp.minimum(x[first], x[second]), np.arange(9) % 2, 2)
        return jnp.sum(jnp.sin(sums.astype(jnp.float64)))


def test_joined_terms_of_whole_numbers_keep_their_dtype(x64):
    """NumPy adds up int32 as int64, which JAX does not put among int32."""
    model, x = Sums(), jnp.asarray([0, 2, 1, 2])
    found = model.change_energies(x)
    for unit in range(4):
        for value in range(3):
            exact = model.energy(x.at[unit].set(value))
            np.testing.assert_allclose(found[unit, value], exact, rtol=1e-12)
    end = model.recall(x)
    assert end.converged
    assert model.is_fixed_point(end.x)
