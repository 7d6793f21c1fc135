"""Measurements on memories, and what the theory promises, on random patterns and on icons."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib import analysis, theory
from tests import users


def sphere(K=30, D=64, key=0):
    """Random patterns of norm 1."""
    Xi = jr.normal(jr.key(key), (K, D))
    return Xi / jnp.linalg.norm(Xi, axis=1, keepdims=True)


def icons(K=24):
    """Bundled icons, centred and of norm 1, as flat patterns."""
    Xi = jnp.asarray(am.data.icons().images[:K], jnp.float32).reshape(K, -1)
    Xi = Xi - Xi.mean(0, keepdims=True)
    return Xi / jnp.linalg.norm(Xi, axis=1, keepdims=True)


both = pytest.mark.parametrize("patterns", [sphere, icons])


@pytest.mark.parametrize("K", [1, 7, 300])
def test_separation_is_its_definition(K):
    Xi = sphere(K)
    gram = np.asarray(Xi @ Xi.T)
    others = np.where(np.eye(K, dtype=bool), -np.inf, gram).max(1)
    assert_allclose(analysis.separation(Xi), np.diag(gram) - others, atol=1e-6)
    assert_allclose(analysis.separation(Xi.reshape(K, 8, 8)), np.diag(gram) - others, atol=1e-6)


@pytest.mark.parametrize(("K", "d", "c"), [(3, 20, 3.1546), (1, 75, 1.3718)])
def test_constants_of_the_exponential_capacity(K, d, c):
    # Ramsauer et al. 2021, Theorem 3, at the paper's own examples.
    found = theory.capacity_constants(K, d, 1.0, 1e-3)
    assert abs(found.c - c) < 1e-4
    w = found.b / found.c
    assert_allclose(w * np.exp(w), np.exp(found.a) * found.b, rtol=1e-9)
    assert_allclose(found.patterns, {3: 7.4, 1: 11.0}[K], atol=0.05)


def test_constants_of_extreme_sizes_do_not_overflow():
    assert np.isfinite(theory.capacity_constants(100, 1000, 50.0, 1e-3).c)
    assert np.isfinite(theory.capacity_constants(0.1, 1000, 0.1, 1e-3).c)


@both
@pytest.mark.parametrize("beta", [20.0, 60.0])
def test_one_step_error_keeps_its_bound(patterns, beta):
    Xi = patterns()
    model = am.ModernHopfield(Xi, beta)
    rest = jax.vmap(model.recall)(Xi)
    assert rest.converged.all()
    away = jr.normal(jr.key(1), Xi.shape)
    x = Xi + 0.02 * away / jnp.linalg.norm(away, axis=1, keepdims=True)
    distance = jnp.maximum(0.02, jnp.linalg.norm(rest.x - Xi, axis=1))
    error = jnp.linalg.norm(jax.vmap(model.retrieve)(x) - Xi, axis=1)
    bound = theory.retrieval_bound(Xi, beta, distance)
    assert (error <= bound + 1e-6).all()
    if beta == 60.0:
        assert (bound < 2.0).any()  # for some patterns the bound says something


@both
def test_energy_falls_under_cccp_from_any_start(patterns):
    Xi = patterns()
    model = am.ModernHopfield(Xi, 30.0)
    starts = jr.normal(jr.key(2), (16, Xi.shape[1])) * jnp.geomspace(0.01, 3.0, 16)[:, None]
    starts = starts / Xi.shape[1] ** 0.5
    end = jax.vmap(lambda x: model.recall(x, method=am.CCCP(), save_every=1, max_steps=80))(starts)
    energy = np.asarray(end.trajectory.energy)
    assert (np.diff(energy, axis=1) <= 2e-6 * (1 + np.abs(energy[:, 1:]))).all()
    assert (end.result != am.RESULTS.ascent).all()


@both
def test_global_average_at_small_beta_and_single_patterns_at_large(patterns):
    Xi = patterns()
    K = Xi.shape[0]
    low = jax.vmap(am.ModernHopfield(Xi, 0.1).recall)(Xi)
    assert low.converged.all()
    assert_allclose(low.x, jnp.broadcast_to(Xi.mean(0)[None], Xi.shape), atol=2e-3)
    sizes = jax.vmap(lambda x: analysis.metastable_size(Xi, x, 0.1))(low.x)
    assert np.asarray(sizes).min() >= 0.85 * K
    high = jax.vmap(am.ModernHopfield(Xi, 300.0).recall)(Xi)
    clear = analysis.separation(Xi) > 0.05  # others hide or double a pattern
    assert int(clear.sum()) > K / 2
    assert_allclose(high.x[clear], Xi[clear], atol=1e-3)
    sizes = jax.vmap(lambda x: analysis.metastable_size(Xi, x, 300.0))(high.x)
    assert (sizes[clear] == 1).all()


def test_metastable_size_counts_terms():
    Xi = jnp.eye(10)
    assert analysis.metastable_size(Xi, jnp.zeros(10), 1.0) == 9
    assert analysis.metastable_size(Xi, jnp.zeros(10), 1.0, 1.0) == 10
    assert analysis.metastable_size(Xi, Xi[0] + Xi[1], 100.0) == 2
    assert analysis.metastable_size(Xi, Xi[0], 100.0) == 1


def curve(factory, corruption=am.data.corrupt.flip, levels=(0.0, 0.45), **options):
    Xi = jnp.sign(sphere(12, 64))
    defaults = {"queries": 24, "progress": False}
    return analysis.retrieval_curve(
        factory, Xi, corruption, levels, jr.key(0), **(defaults | options)
    )


@pytest.mark.parametrize(
    "factory",
    [lambda Xi: am.ModernHopfield(Xi, 0.5), am.PolynomialMemory, am.ClassicalHopfield],
    ids=["modern", "polynomial", "binary"],
)
def test_curve_serves_binary_and_continuous_memories(factory):
    table = curve(factory, counts=[2, 12])
    assert all(column.shape == (4,) for column in table)
    np.testing.assert_array_equal(table.K, [2, 2, 12, 12])
    np.testing.assert_array_equal(table.level, [0, 0.45, 0, 0.45])
    assert (table.queries == 24).all()
    assert table.success[0] == 1.0  # two clean patterns are recalled
    assert table.success[3] < table.success[0]
    assert (table.converged > 0.9).all()
    assert (np.abs(table.cosine) <= 1 + 1e-6).all()


def test_curve_is_reproducible_and_takes_own_rules():
    first, second = (curve(lambda Xi: am.ModernHopfield(Xi, 0.5)) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    never = curve(am.ModernHopfield, success=lambda x, xi: jnp.asarray(False))
    assert (never.success == 0).all()
    still = curve(
        am.ModernHopfield,
        recall=lambda m, x, key: am.Recall(x, m.energy(x), jnp.asarray(7), am.RESULTS.converged),
    )
    assert (still.steps == 7).all()
    assert_allclose(still.cosine[0], 1.0, rtol=1e-6)


def test_curve_keeps_integer_levels():
    """A number of bits to flip: `flip_exactly` refuses floats."""
    for levels in ([0, 30], np.array([0, 30], np.uint8), range(0, 31, 30)):
        table = curve(am.ExponentialDenseAM, am.data.corrupt.flip_exactly, levels)
        np.testing.assert_array_equal(table.level, [0, 30])
        assert table.success[1] < table.success[0] == 1
    np.testing.assert_array_equal(curve(am.ExponentialDenseAM, levels=[0, 1]).level, [0, 1])


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"recall": lambda m, x, key: m.recall(x).x}, TypeError,
         r"recall must return a Recall; float32\[64\] came\. Return model\.recall\("),
        ({"recall": lambda m, x, key: m.async_recall(x, 5, key)}, TypeError,
         r"recall must return a Recall; \('float32\[64\]', .* came"),
        ({"recall": lambda m, x, key: None}, TypeError, r"recall must return a Recall; None came"),
        ({"success": lambda x, xi: x == xi}, ValueError,
         r"success must return one truth value; shape \(64,\) came\. Close it with \.all"),
        ({"corruption": lambda key, x, level: x[:9]}, ValueError,
         r"corruption must return a pattern of shape \(64,\); \(9,\) came"),
        ({"corruption": lambda key, x, level: np.where(x > 0, x, 0)}, TypeError,
         r"corruption, recall and success: must be .* trace; NumPy .* Write jnp"),
    ],
    ids=["state", "pair", "nothing", "bits", "shape", "numpy"],
)  # fmt: skip
def test_curve_says_what_it_cannot_use(options, error, message):
    with pytest.raises(error, match=f"^retrieval_curve: {message}"):
        curve(am.ClassicalHopfield, **options)


@pytest.mark.parametrize(
    ("levels", "key", "error", "message"),
    [
        ([0.1], 0, TypeError, r"key: must be one random key; int came\. Write jax\.random\.key\("),
        (0.1, jr.key(0), ValueError, r"levels must be a sequence of .*; 0\.1 came"),
        ([], jr.key(0), ValueError, r"levels must be .* at least one number; \[\] came"),
        (["a"], jr.key(0), ValueError, r"levels must be .*; \['a'\] came"),
    ],
    ids=["key", "number", "empty", "text"],
)
def test_curve_says_what_levels_and_keys_are(levels, key, error, message):
    am = users.am
    with pytest.raises(error, match=f"^retrieval_curve: {message}"):
        am.analysis.retrieval_curve(
            am.ClassicalHopfield, sphere(2, 4), am.data.corrupt.flip, levels, key
        )


def test_bad_input():
    with pytest.raises(ValueError, match=r"Xi: must have shape \(K, D\)"):
        analysis.separation(jnp.ones(3))
    with pytest.raises(ValueError, match=r"mass must lie in \(0, 1\]; 2 came"):
        analysis.metastable_size(jnp.eye(2), jnp.ones(2), 1.0, 2)
    with pytest.raises(ValueError, match="K and beta must be above 0"):
        theory.capacity_constants(0, 5)
    with pytest.raises(ValueError, match=r"counts must lie in \[1, 12\]; 13 came"):
        curve(am.ModernHopfield, counts=[13])
    with pytest.raises(ValueError, match="queries: must be at least 1"):
        curve(am.ModernHopfield, queries=0)
