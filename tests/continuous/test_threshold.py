"""The threshold memory: every combination of its patterns is a memory, where they are apart."""

import itertools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am

K, D = 6, 32
EVERY = jnp.asarray(list(itertools.product([0.0, 1.0], repeat=K)))


def apart(seed: int = 0) -> am.ThresholdMemory:
    """Orthogonal patterns of norms between 1 and 2."""
    Q = np.linalg.qr(np.random.default_rng(seed).normal(size=(D, K)))[0].T
    return am.ThresholdMemory(jnp.asarray(Q * np.linspace(1, 2, K)[:, None], jnp.float32))


def spins(D: int, seed: int) -> am.ThresholdMemory:
    return am.ThresholdMemory(jr.rademacher(jr.key(seed), (K, D), jnp.float32) / D**0.5)


def test_the_energy_is_the_formula():
    Xi = np.random.default_rng(1).normal(size=(K, D))
    x: np.ndarray = np.random.default_rng(2).normal(size=D)
    theta = np.linspace(-1, 2, K)
    for given, t in ((None, 0.5 * (Xi**2).sum(1)), (theta, theta), (0.7, np.full(K, 0.7))):
        memory = am.ThresholdMemory(jnp.float32(Xi), given)
        expected = 0.5 * (x**2).sum() - np.maximum(Xi @ x - t, 0).sum()
        assert_allclose(memory.energy(jnp.float32(x)), expected, rtol=1e-5)


def test_of_orthogonal_patterns_every_combination_rests_at_the_same_energy():
    memory = apart()
    states = jax.vmap(memory.compose)(EVERY)
    end = jax.vmap(memory.recall)(states)
    assert end.converged.all()
    assert_allclose(end.x, states, atol=1e-5)
    assert_allclose(end.energy, 0, atol=1e-5)
    assert_array_equal(jax.vmap(memory.parts)(end.x), EVERY > 0)


def test_each_part_is_recalled_by_itself():
    """Whatever is less than half of a pattern away along it, and anything across all of them."""
    memory, shift = apart(), jr.uniform(jr.key(1), (len(EVERY), K), minval=-0.45, maxval=0.45)
    norms = jnp.sum(memory.Xi**2, axis=1)
    across = jr.normal(jr.key(2), (len(EVERY), D))
    across -= (across @ memory.Xi.T / norms[None]) @ memory.Xi
    end = jax.vmap(memory.recall)(jax.vmap(memory.compose)(EVERY + shift) + across)
    assert_array_equal(jax.vmap(memory.parts)(end.x), EVERY > 0)
    assert_allclose(end.x, jax.vmap(memory.compose)(EVERY), atol=1e-5)


def test_a_combination_rests_where_the_condition_says():
    """Also of patterns that are not apart; and the more units, the more of them rest."""
    shares = []
    for D in (8, 40, 400):
        memory = spins(D, 3)
        Xi = np.asarray(memory.Xi, float)
        h = np.asarray(EVERY) @ (Xi @ Xi.T)
        clear = (np.abs(h - 0.5) > 1e-5).all(axis=1)
        rests = ((h > 0.5) == (np.asarray(EVERY) > 0)).all(axis=1)
        states = jax.vmap(memory.compose)(EVERY)
        stays = jnp.abs(jax.vmap(memory.retrieve)(states) - states).max(axis=1) < 1e-5
        assert clear.sum() > 8
        assert_array_equal(stays[clear], rests[clear])
        shares.append(rests.mean())
    assert shares[0] < shares[1] < shares[2] == 1


def test_it_is_two_layers_with_a_threshold():
    """The same as a hierarchy: linear units below, above those that fire above a threshold."""
    memory = apart()
    theta = 0.5 * jnp.sum(memory.Xi**2, axis=1)
    x = jr.normal(jr.key(4), (D,))
    h = memory.Xi @ x
    s = (h > theta).astype(x.dtype)
    layers = 0.5 * x @ x + (h @ s - jnp.sum(jax.nn.relu(h - theta))) - s @ memory.Xi @ x
    assert_allclose(memory.energy(x), layers, rtol=1e-5)
    assert_allclose(memory.retrieve(x), s @ memory.Xi, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: am.ThresholdMemory(m.Xi, jnp.ones(K + 1)),
            r"theta: .* each of the 6 patterns",
        ),
        (lambda m: m.compose(jnp.ones(K - 1)), r"compose: parts must have shape \(6,\)"),
        (lambda m: m.parts(jnp.ones(D + 1)), "parts"),
    ],
)
def test_what_is_wrong_is_said(call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(apart())
