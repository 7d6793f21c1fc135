"""When diffusions decide: against their definitions, the published forms, and a condensation."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib import theory


def test_speciation_is_at_the_largest_variance():
    Xi = jr.normal(jr.key(0), (40, 3, 2)) * jnp.asarray([[[3.0, 1.0], [1.0, 1.0], [1.0, 0.5]]])
    values = np.linalg.eigvalsh(np.cov(np.asarray(Xi).reshape(40, -1).T, bias=True))
    assert theory.speciation_variance(Xi) == pytest.approx(values[-1], rel=1e-4)
    # Fewer patterns than units; and two of them, at d / 2 from their mean.
    few = Xi.reshape(12, -1)[:3]
    values = np.linalg.eigvalsh(np.cov(np.asarray(few).T, bias=True))
    assert theory.speciation_variance(few) == pytest.approx(values[-1], rel=1e-4)
    pair = jnp.asarray([[0.0, 0.0], [1.2, 1.6]])
    assert theory.speciation_variance(pair) == pytest.approx(1 / theory.merging_beta(2.0))


def test_the_collapse_is_the_published_one():
    for variance, D, K in ((1.0, 10, 100), (0.3, 784, 60_000), (2.0, 3, 1.5)):
        tau = theory.collapse_variance(np.full(D, variance), K)
        # In the process with a drift, sigma^2 t is exp(2 t) - 1.
        published = 0.5 * math.log(1 + variance / (K ** (2 / D) - 1))
        assert 0.5 * math.log1p(tau) == pytest.approx(published, rel=1e-9)
        assert theory.excess_entropy([variance] * D, tau) == pytest.approx(math.log(K))
    # Of uneven variances, some of them zero, by its definition.
    uneven = [3.0, 1.0, 0.1, 0.0]
    tau = theory.collapse_variance(uneven, 7)
    assert 0.5 * sum(math.log(1 + v / tau) for v in uneven) == pytest.approx(math.log(7))
    assert theory.collapse_variance([1.0], 1e100) > 0
    assert theory.collapse_variance([1.0], 1 + 1e-9) > 1e8


def test_excess_entropy_is_the_mutual_information():
    """Of a state and its noisy version, by their joint covariance."""
    A = np.random.default_rng(0).normal(size=(4, 4))
    C, noise = A @ A.T, 0.7
    both = np.block([[C, C], [C, C + noise * np.eye(4)]])
    logdet = lambda M: np.linalg.slogdet(M)[1]
    information = 0.5 * (logdet(C) + logdet(C + noise * np.eye(4)) - logdet(both))
    found = theory.excess_entropy(np.linalg.eigvalsh(C), noise)
    assert found == pytest.approx(information)


def test_random_patterns_collapse_there():
    """Where one pattern has half of the weight, on the average, is near where theory has it."""
    D, K = 24, 500
    memory = am.DiffusionMemory(jr.normal(jr.key(0), (K, D)))
    tau = theory.collapse_variance(np.ones(D), K)

    @jax.jit
    def concentration(t):
        def one(key):
            x = memory.noise(key, t)
            squares = ((memory.Xi - x[None]) ** 2).sum(1)
            return (jax.nn.softmax(-squares / (2 * t)) ** 2).sum()

        return jax.vmap(one)(jr.split(jr.key(1), 400)).mean()

    times = tau * np.geomspace(0.4, 2.5, 13)
    found = np.asarray([concentration(jnp.float32(t)) for t in times])
    half = np.interp(0.5, found[::-1], np.log(times[::-1]))
    assert abs(half - math.log(tau)) < 0.35
    assert found[0] > 0.9
    assert found[-1] < 0.25
    assert_allclose(found, np.sort(found)[::-1], atol=0.02)


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.speciation_variance(jnp.ones((1, 3))),
        lambda: theory.speciation_variance(jnp.asarray([[1.0, jnp.nan], [0.0, 1.0]])),
        lambda: theory.excess_entropy([1.0], 0.0),
        lambda: theory.excess_entropy([-1.0], 1.0),
        lambda: theory.excess_entropy([], 1.0),
        lambda: theory.collapse_variance([1.0], 1),
        lambda: theory.collapse_variance([1.0], math.inf),
        lambda: theory.collapse_variance([0.0, 0.0], 5),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="must"):
        call()
