"""Theory against published and independently derived values."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib import theory


def test_the_critical_load_and_its_overlap():
    alpha = theory.critical_load()
    assert alpha == pytest.approx(0.137906, abs=2e-6)
    assert theory.retrieval(alpha * (1 - 1e-9)).overlap == pytest.approx(0.96742, abs=1e-4)
    assert theory.retrieval(0.14).overlap == 0
    assert theory.bit_error(0.14) == 0.5
    assert theory.critical_load(1.0) == 0


@pytest.mark.parametrize(
    ("alpha", "percent"),
    [(0.05, 0.00039), (0.08, 0.0221), (0.1, 0.1), (0.12, 0.339), (0.13, 0.639)],
)
def test_errors_at_zero_temperature(alpha, percent):
    assert 100 * theory.bit_error(alpha) == pytest.approx(percent, rel=0.01)


@pytest.mark.parametrize(
    ("alpha", "T", "m"), [(0.05, 0.2, 0.9989), (0.05, 0.4, 0.9662), (0.1, 0.2, 0.9891)]
)
def test_overlaps_at_temperatures(alpha, T, m):
    state = theory.retrieval(alpha, T)
    assert state.overlap == pytest.approx(m, abs=1e-4)
    # The state solves the equations, by another quadrature.
    z, w = np.polynomial.hermite_e.hermegauss(180)
    w = w / w.sum()
    field = np.tanh((state.noise * z + state.overlap) / T)
    q = w @ field**2
    assert_allclose(w @ field, state.overlap, atol=1e-5)
    assert_allclose(q, state.order, atol=1e-5)
    assert_allclose(state.noise**2, alpha * q / (1 - (1 - q) / T) ** 2, rtol=1e-4)


def test_transitions():
    loads = [0.01, 0.02, 0.05, 0.08, 0.10, 0.12]
    expected = [0.801, 0.717, 0.542, 0.405, 0.315, 0.215]
    assert_allclose([theory.retrieval_temperature(a) for a in loads], expected, atol=1.5e-3)
    found = [theory.stability_temperature(a) for a in (0.01, 0.02, 0.05)]
    assert_allclose(found, [0.722, 0.591, 0.220], atol=4e-3)  # steep at 0.05
    assert theory.stability_temperature(0.06) == 0
    assert theory.retrieval_temperature(0.2) == 0
    assert theory.spin_glass_temperature(0.25) == 1.5


def test_gardner():
    found = [theory.gardner_capacity(k) for k in (0, 0.5, 1, 1.5, 2)]
    assert_allclose(found, [2, 0.9612, 0.5196, 0.3099, 0.2002], atol=5e-5)


def test_polynomial_memories():
    found = [theory.polynomial_capacity(100, n, 0.005) / 100 ** (n - 1) for n in (2, 3, 4, 5)]
    assert_allclose(found, [0.1507, 0.0502, 0.01005, 0.00144], rtol=5e-3)
    K = theory.polynomial_capacity(200, 3, 0.01)
    assert theory.error_probability(K, 200, 3) == pytest.approx(0.01)
    assert theory.polynomial_capacity(100, 2) == theory.error_free_capacity(100)
    assert theory.error_free_capacity(100, every=True) == 100 / (4 * math.log(100))
    assert [theory.biased_exponent(n) for n in range(2, 8)] == [1, 2, 2, 3, 3, 4]


def test_unstable_bits_are_as_many_as_predicted():
    N, n, K = 200, 3, 3000
    expected = theory.error_probability(K, N, n)
    Xi = jax.random.rademacher(jax.random.key(0), (K, N), jnp.float32)
    memory = am.PolynomialDenseAM(Xi, n, rectified=False)
    change = jax.lax.map(lambda x: memory.flip_energies(x) - memory.energy(x), Xi[:60])
    share = float((change < 0).mean())
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected / change.size) + 2e-3)


def test_exponential_memories():
    of = theory.exponential_threshold
    assert_allclose([of(s) for s in (0.5, 1, 2)], [0.380, 0.566, 0.675], atol=5e-4)
    assert of(40.0) == pytest.approx(math.log(2))
    assert_allclose([of(s, "spherical") for s in (0.5, 1, 2)], [0.387, 0.623, 0.909], atol=5e-4)
    assert of(0.5, "gaussian") == 0.375
    assert of(3.0, "gaussian") == 0.5


def test_landscapes_of_gaussian_memories():
    found = [theory.ring_radius(2 * b) for b in (1.5, 2, 5, 20)]
    assert_allclose(found, [0.724, 0.831, 0.946, 0.987], atol=5e-4)
    assert theory.ring_radius(2.0) == 0
    # A circle of many patterns has its minima there.
    angles = jnp.linspace(0, 2 * jnp.pi, 400, endpoint=False)
    circle = jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)
    end = am.GaussianMemory(circle, beta=4.0).recall(circle[0], tol=1e-6, max_steps=10_000)
    assert float(jnp.linalg.norm(end.x)) == pytest.approx(theory.ring_radius(4.0), abs=1e-3)
    # Two patterns merge at that beta.
    beta = theory.merging_beta(1.0)
    pair = jnp.asarray([[-0.5], [0.5]])
    for factor, apart in ((0.9, False), (1.1, True)):
        end = am.GaussianMemory(pair, beta=factor * beta).recall(
            jnp.asarray([0.4]), tol=1e-7, max_steps=20_000
        )
        assert (abs(float(end.x[0])) > 0.05) == apart


@pytest.mark.parametrize(
    "call",
    [
        lambda: theory.retrieval(0.0),
        lambda: theory.retrieval(0.1, -0.1),
        lambda: theory.critical_load(-1.0),
        lambda: theory.polynomial_capacity(100, 3, 0.7),
        lambda: theory.polynomial_capacity(1, 3),
        lambda: theory.error_probability(10, 10, 1),
        lambda: theory.exponential_threshold(0.0),
        lambda: theory.exponential_threshold(1.0, "uniform"),
        lambda: theory.ring_radius(-1.0),
        lambda: theory.merging_beta(0.0),
        lambda: theory.retrieval_temperature(math.nan),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="must"):
        call()
