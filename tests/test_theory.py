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
    # Where both free energies are equal, found a third time by adaptive quadrature and a root of
    # all three equations at once: 0.72162397, 0.59130028 and 0.21638335. (Notes that had 0.220 for
    # the last were wrong: there the spin glass is lower by 2.9e-4.)
    found = [theory.stability_temperature(a) for a in (0.01, 0.02, 0.05)]
    assert_allclose(found, [0.721624, 0.591300, 0.216383], atol=2e-6)
    assert theory.stability_temperature(0.06) == 0
    assert theory.retrieval_temperature(0.2) == 0
    assert theory.spin_glass_temperature(0.25) == 1.5


def test_the_free_energies_meet_at_zero_temperature_where_algebra_says():
    # E = -1/2 with the pattern and -1/pi - sqrt(2 alpha / pi) without (AGS 1987), up to the few
    # wrong bits: they are equal at 0.05186.
    alpha = math.pi / 2 * (0.5 - 1 / math.pi) ** 2
    assert theory.stability_temperature(0.999 * alpha) > 0.16
    # Beyond, retrieval states are lowest in a window of temperatures only, that closes.
    assert 0 < theory.stability_temperature(0.0525) < 0.15


def test_the_critical_load_is_reentrant():
    # Naef and Canning 1992: a little heat adds capacity, in the replica-symmetric equations.
    assert theory.critical_load(0.02) > theory.critical_load() + 2e-4
    # Cold equations end in those of zero temperature.
    assert theory.critical_load(1e-5) == pytest.approx(theory.critical_load(), abs=1e-6)
    cold, zero = theory.retrieval(0.1, 1e-4), theory.retrieval(0.1)
    assert_allclose(cold[::2], zero[::2], rtol=1e-5)


def test_replicas_break_up_below_a_line():
    # For small loads sqrt(8 alpha / 9 pi) exp(-1 / 2 alpha), AGS 1987.
    small = lambda a: math.sqrt(8 * a / (9 * math.pi)) * math.exp(-1 / (2 * a))
    assert theory.replica_temperature(0.06) == pytest.approx(small(0.06), rel=0.02)
    # By another quadrature.
    alpha = 0.13
    T = theory.replica_temperature(alpha)
    state = theory.retrieval(alpha, T)
    z = np.linspace(-9, 9, 400_001)
    weight = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    u = np.clip((state.noise * z + state.overlap) / T, -300, 300)
    left = alpha / T**2 * float(weight @ np.cosh(u) ** -4)
    assert left == pytest.approx((1 - (1 - state.order) / T) ** 2, rel=1e-3)
    assert theory.replica_temperature(0.01) == 0
    assert theory.replica_temperature(0.2) == 0


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


@pytest.mark.parametrize(("n", "N"), [(3, 20_000), (4, 10**7), (5, 10**6)])
def test_biased_capacities_grow_as_named(n, N):
    K = [theory.polynomial_capacity(m, n, 0.005, 0.6) for m in (N, 2 * N)]
    assert math.log2(K[1] / K[0]) == pytest.approx(theory.biased_exponent(n), abs=0.03)
    assert theory.error_probability(K[0], N, n, 0.6) == pytest.approx(0.005)
    assert theory.error_probability(K[0], N, n, -0.6) == pytest.approx(0.005)
    assert theory.polynomial_capacity(N, n, 0.005, 1e-9) == pytest.approx(
        theory.polynomial_capacity(N, n, 0.005)
    )


@pytest.mark.parametrize(("n", "b"), [(3, 0.6), (4, 0.6), (5, -0.4)])
def test_the_field_of_biased_patterns_has_that_mean(n, b):
    from amlib.theory.dense import _moments

    N, rng = 40, np.random.default_rng(n)
    draw = lambda *shape: np.where(rng.random(shape) < (1 + b) / 2, 1.0, -1.0)
    for bit in (1, -1):
        x, minus = np.ones(N), round(N * (1 - b) / 2)
        x[1 : minus + 1 - (bit < 0)] = -1
        x[0] = bit
        xi = draw(150_000, N)
        R, eta = (xi[:, 1:] - b) @ (x[1:] - b), xi[:, 0] - b
        change = (R + eta * (bit - b)) ** n - (R - eta * (bit + b)) ** n
        _, drift, width = _moments(N, np.asarray([minus]), n, b)
        error = change.std() / math.sqrt(len(change))
        assert change.mean() == pytest.approx(-drift[0] * bit, abs=4 * error + 0.06 * abs(drift[0]))
        assert 0.8 < change.std() / width[0] < 1.5


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


def test_what_exponential_memories_hold():
    of = theory.exponential_stability
    # Every pattern, with and without damage: Demircigil et al. 2017, in bits a unit.
    found = [of(1.0, p, every=True) / math.log(2) for p in (0, 0.1, 0.2, 0.3)]
    assert_allclose(found, [0.5, 0.266, 0.139, 0.059], atol=6e-4)
    # Without damage the variance of the field is the sum of squares: twice the scale.
    assert of(0.5) == pytest.approx(theory.exponential_threshold(1.0))
    # The width of the field by its definition: the largest term of sqrt(count) exp(scale m).
    for scale, damage in ((0.25, 0.125), (0.5, 0.125), (0.5, 0.25), (2.0, 0.1)):
        m = np.linspace(-1 + 1e-9, 1 - 1e-9, 200_001)
        rate = ((1 + m) * np.log1p(m) + (1 - m) * np.log1p(-m)) / 2
        width = lambda a, m=m, r=rate, s=scale: np.max(np.where(r <= a, (a - r) / 2 + s * m, -9))
        alpha = of(scale, damage)
        assert width(alpha) == pytest.approx(scale * (1 - 2 * damage), abs=2e-5)
    # Patterns stay fixed beyond the rate at which the sum outweighs them.
    N, scale = 16, 0.25
    K = round(math.exp(0.23 * N))
    assert theory.exponential_threshold(scale) < 0.23 < of(scale)
    Xi = jax.random.rademacher(jax.random.key(0), (K, N), jnp.float32)
    memory = am.ExponentialDenseAM(Xi, scale)
    fixed = jax.vmap(memory.is_fixed_point)(Xi)
    outweighs = jax.vmap(lambda x: -memory.energy(x) * scale < scale * N + math.log(2))(Xi)
    assert fixed.mean() > 0.5 > outweighs.mean() * 0.9


@pytest.mark.parametrize(
    ("N", "d", "transition", "sequence"),
    [
        (100, 1, 10.9, 5.4),
        (100, 2, 362, 121),
        (100, 3, 7238, 1810),
        (20, "exponential", 6.2e4, 2.7e4),
    ],
)
def test_published_capacities_of_sequences(N, d, transition, sequence):
    assert theory.transition_capacity(N, d) == pytest.approx(transition, rel=0.01)
    assert theory.sequence_capacity(N, d) == pytest.approx(sequence, rel=0.01)


def test_capacities_of_sequences_are_where_errors_become_rare():
    """At large N a unit of a transition is wrong with probability below 1 / N, 1 / (N P)."""
    for d in (1, 2, 3):
        N = 10**6
        for factor, most in ((0.9, 1), (1.3, 0)):
            P = factor * theory.transition_capacity(N, d)
            assert (N * theory.error_probability(P, N, d + 1) < 0.1) == bool(most)
            P = factor * theory.sequence_capacity(N, d)
            assert (N * P * theory.error_probability(P, N, d + 1) < 0.1) == bool(most)
        assert theory.transition_capacity(N, d) == theory.polynomial_capacity(N, d + 1)
    assert theory.sequence_capacity(10_000, "exponential") == math.inf


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
        lambda: theory.polynomial_capacity(100, 3, 0.01, 1.0),
        lambda: theory.polynomial_capacity(100, 3, bias=0.5),
        lambda: theory.error_probability(10, 10, 3, -1.0),
        lambda: theory.exponential_stability(1.0, 0.5),
        lambda: theory.exponential_stability(0.0),
        lambda: theory.replica_temperature(0.0),
        lambda: theory.exponential_threshold(0.0),
        lambda: theory.exponential_threshold(1.0, "uniform"),
        lambda: theory.ring_radius(-1.0),
        lambda: theory.merging_beta(0.0),
        lambda: theory.retrieval_temperature(math.nan),
        lambda: theory.transition_capacity(1, 2),
        lambda: theory.transition_capacity(100, 0),
        lambda: theory.sequence_capacity(100, "exponentials"),
    ],
)
def test_bad_input(call):
    with pytest.raises(ValueError, match="must"):
        call()
