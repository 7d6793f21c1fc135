"""The continuous memories one by one: bounds, oracles, published behaviour, bad input."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose

import amlib as am
from amlib.continuous import entmax
from amlib.continuous.kernel import SEPARATIONS, SIMILARITIES
from amlib.continuous.simplex import conjugate
from tests.continuous.zoo import K, UserHopfield, patterns, query


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sparsemax(z):
    """By sorting: Martins and Astudillo 2016, Algorithm 1."""
    s = np.sort(z)[::-1]
    size = np.arange(1, len(z) + 1)
    last = np.nonzero(1 + size * s > np.cumsum(s))[0][-1]
    return np.maximum(z - (s[: last + 1].sum() - 1) / (last + 1), 0)


@jax.jit
def modern_energy(Xi, beta, x):
    return am.ModernHopfield(Xi, beta).energy(x)


@eqx.filter_jit
def energies(model, x):
    """Compiled once for each kind of model, not for each of its parameters."""
    return jax.vmap(model.energy)(x)


@eqx.filter_jit
def weights(model, x):
    return jax.vmap(model.weights)(x)


jit_entmax = jax.jit(entmax)


# -- modern Hopfield -----------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(
    K=st.sampled_from([1, 7]),  # few shapes: each compiles
    D=st.sampled_from([1, 9]),
    beta=st.floats(0.01, 50),
    scale=st.floats(0.1, 5),
    seed=st.integers(0, 2**31 - 1),
)
def test_modern_energy_lies_between_its_bounds(K, D, beta, scale, seed):
    # Ramsauer et al. 2021: 0 <= E <= 2 M^2 for ||x|| <= M.
    a, b, c = jr.split(jr.key(seed), 3)
    Xi = scale * jr.normal(a, (K, D))
    M = jnp.sqrt(jnp.max(jnp.sum(Xi**2, axis=1)))
    x = jr.normal(b, (D,))
    x = x / jnp.linalg.norm(x) * M * jr.uniform(c)
    slack = 1e-5 * (1 + M**2 + jnp.log(K).astype(M.dtype) / beta)
    for state in (x, Xi[0]):
        energy = modern_energy(Xi, beta, state)
        assert -slack <= energy <= 2 * M**2 + slack


def test_modern_bounds_are_tight():
    Xi = jnp.ones((1, 9))
    model = am.ModernHopfield(Xi, 2.0)
    assert_allclose(model.energy(Xi[0]), 0.0, atol=1e-5)  # M^2 = 9
    assert_allclose(model.energy(-Xi[0]), 18.0, rtol=1e-6)


@pytest.mark.parametrize("beta", [0.1, 1.0, 30.0])
def test_modern_unit_step_is_the_published_update(beta):
    Xi, x = patterns(K=20), query()
    expected = softmax(beta * np.asarray(Xi) @ np.asarray(x)) @ np.asarray(Xi)
    assert_allclose(am.ModernHopfield(Xi, beta).retrieve(x), expected, rtol=1e-5, atol=1e-6)


def test_values_are_read_out_by_the_softmax_weights():
    Xi, x = patterns(K=20), query()
    values = jr.normal(jr.key(4), (20, 2, 3))
    expected = np.tensordot(softmax(5 * np.asarray(Xi) @ np.asarray(x)), np.asarray(values), 1)
    out = am.ModernHopfield(Xi, 5.0, values).readout(x)
    assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    same = am.ModernHopfield(Xi, 5.0)
    assert_allclose(same.readout(x), same.retrieve(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", [(), (7,), (2, 3)])
def test_attention_is_softmax_attention(batch):
    q = jr.normal(jr.key(0), (*batch, 8))
    k, v = jr.normal(jr.key(1), (11, 8)), jr.normal(jr.key(2), (11, 5))
    expected = softmax(np.asarray(q) @ np.asarray(k).T / np.sqrt(8)) @ np.asarray(v)
    out = am.attention(q, k, v)
    assert out.shape == (*batch, 5)
    assert_allclose(out, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(am.attention(q, k, v, 8**-0.5), out)


def test_small_beta_averages_and_large_beta_recalls():
    Xi = patterns(K=12, D=40)
    starts = Xi + 0.05 * jr.normal(jr.key(3), Xi.shape)
    average = jax.vmap(am.ModernHopfield(Xi, 0.1).recall)(starts)
    assert_allclose(average.x, jnp.broadcast_to(average.x[:1], Xi.shape), atol=2e-3)
    assert_allclose(average.x[0], Xi.mean(0), atol=0.05)
    single = jax.vmap(am.ModernHopfield(Xi, 40.0).recall)(starts)
    assert_allclose(single.x, Xi, atol=1e-3)
    assert (single.steps <= 3).all()


# -- Gaussian, Epanechnikov, polynomial ----------------------------------------------------------


def test_gaussian_unit_step_is_the_mean_shift():
    Xi, x = patterns(K=20), query()
    squares = ((np.asarray(Xi) - np.asarray(x)) ** 2).sum(1)
    model = am.GaussianMemory(Xi, 6.0)
    assert_allclose(model.retrieve(x), softmax(-3 * squares) @ np.asarray(Xi), rtol=1e-4)
    assert_allclose(model.energy(x), -np.log(np.exp(-3 * squares).sum()) / 6, rtol=1e-4)


def test_gaussian_recalls_short_patterns_that_the_dot_product_loses():
    Xi = jnp.array([[1.0, 0.0], [3.0, 0.5]])
    assert_allclose(am.GaussianMemory(Xi, 8.0).recall(jnp.array([1.1, 0.0])).x, Xi[0], atol=1e-2)
    assert_allclose(am.ModernHopfield(Xi, 8.0).recall(jnp.array([1.1, 0.0])).x, Xi[1], atol=1e-2)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_epanechnikov_returns_exactly_in_one_step(share):
    # Hoover et al. 2025, Theorem 1.
    Xi = patterns(K=10, D=12)
    gaps = np.linalg.norm(np.asarray(Xi)[:, None] - np.asarray(Xi)[None], axis=-1)
    least = gaps[gaps > 0].min()
    radius = share * least / 2
    model = am.EpanechnikovMemory.for_radius(Xi, radius)
    assert_allclose(model.beta, 2 / (least - radius) ** 2, rtol=1e-4)
    away = jr.normal(jr.key(5), Xi.shape)
    x = Xi + 0.99 * radius * away / jnp.linalg.norm(away, axis=1, keepdims=True)
    step = jax.vmap(lambda x: x + model.step_size(x) * model.update(x))(x)
    assert_allclose(step, Xi, atol=2e-6)
    end = jax.vmap(model.recall)(x)
    assert end.converged.all()
    assert_allclose(end.x, Xi, atol=2e-3)


def test_epanechnikov_has_emergent_memories_at_centroids():
    # Proposition 2: the centroid of patterns whose supports overlap is a minimum.
    Xi = jnp.array([[-1.0, 0.0], [1.0, 0.0]])
    model = am.EpanechnikovMemory(Xi, 1.5)  # radius 1.155: supports overlap around 0
    end = model.recall(jnp.array([0.05, 0.02]))
    assert end.converged
    assert_allclose(end.x, [0.0, 0.0], atol=1e-3)
    assert model.energy(end.x) < model.energy(jnp.array([0.0, 0.3]))
    assert_allclose(model.recall(jnp.array([0.9, 0.1])).x, Xi[1], atol=1e-3)


def test_epanechnikov_outside_all_supports():
    model = am.EpanechnikovMemory(patterns(), 100.0)
    far = 5 * jnp.ones(6)
    assert model.energy(far) == jnp.inf
    end = model.recall(far)
    assert end.result == am.RESULTS.nonfinite
    assert (model.update(far) == 0).all()
    assert model.step_size(far) == 0
    floored = am.EpanechnikovMemory(patterns(), 100.0, 1e-3).recall(far)
    assert floored.result == am.RESULTS.converged
    with pytest.raises(ValueError, match="for_radius: radius must lie in"):
        am.EpanechnikovMemory.for_radius(patterns(), 50.0)
    with pytest.raises(ValueError, match="eps: must be at least 0"):
        am.EpanechnikovMemory(patterns(), 1.0, -0.1)


# Backtracking ends where the energy no longer falls beyond rounding: how soon is chance, and in
# programs compiled in a hurry some of these recalls are at the step limit first.
@pytest.mark.usefixtures("as_users")
@pytest.mark.parametrize("n", [3, 4, 7])
def test_polynomial_memory_stores_spin_patterns(n):
    Xi = jnp.sign(jr.normal(jr.key(0), (5, 64)))
    model = am.PolynomialMemory(Xi, n)
    flips = jnp.where(jr.uniform(jr.key(1), Xi.shape) < 0.05, -1.0, 1.0)
    end = jax.vmap(model.recall)(3 * Xi * flips)
    assert end.converged.all()
    assert (jnp.sign(end.x) == Xi).all()
    g = model.activation(end.x)
    m = jnp.mean(g * Xi, axis=1)
    if n >= 7:  # crosstalk is negligible: the closed fixed point m = tanh(beta m^(n-1))
        assert_allclose(m, jnp.tanh(3 * m ** (n - 1)), atol=1e-3)


@pytest.mark.usefixtures("as_users")  # as above
def test_polynomial_memory_recalls_noisy_random_patterns_but_merges_correlated_ones():
    # Others pull by the sum of their squared overlaps: 0.1 here, more than 1 of many icons.
    Xi = jnp.sign(jr.normal(jr.key(0), (20, 200)))
    flips = jnp.where(jr.uniform(jr.key(1), Xi.shape) < 0.2, -1.0, 1.0)
    end = jax.vmap(am.PolynomialMemory(Xi).recall)(Xi * flips)
    assert end.converged.all()
    assert (jnp.sign(end.x) == Xi).all()
    alike = jnp.where(jr.uniform(jr.key(2), Xi.shape) < 0.2, -1.0, 1.0)  # overlaps of 0.36
    end = jax.vmap(am.PolynomialMemory(alike).recall)(alike)
    assert (jnp.sign(end.x) == jnp.sign(end.x[:1])).all()


# -- sparse --------------------------------------------------------------------------------------


@settings(max_examples=8, deadline=None)
@given(K=st.sampled_from([1, 2, 30]), scale=st.floats(0.01, 20), seed=st.integers(0, 2**31 - 1))
def test_entmax_limits(K, scale, seed):
    z = np.asarray(jr.normal(jr.key(seed), (K,)) * scale)
    assert_allclose(jit_entmax(z, 1.0), softmax(z), atol=2e-6)
    assert_allclose(jit_entmax(z, 2.0), sparsemax(z), atol=3e-6)
    assert_allclose(jit_entmax(z, 1.5).sum(), 1.0, atol=5e-6)  # 30 numbers
    # Continuous through alpha = 1, where formulas divide by alpha - 1.
    assert_allclose(jit_entmax(z, 1 + 1e-4), softmax(z), atol=2e-3)


def test_conjugate_derivatives_through_alpha_one(x64):
    z = 3 * jr.normal(jr.key(0), (7,))
    value, derivatives = jax.jit(conjugate), jax.jit(jax.grad(conjugate, (0, 1)))
    for alpha in (1.0, 1.0005, 1.5, 2.0):
        a = jnp.asarray(alpha)
        gradient, slope = derivatives(z, a)
        assert_allclose(gradient, jit_entmax(z, a), rtol=1e-6, atol=1e-9)
        h = 1e-4 if alpha < 2 else -1e-4
        sides = [value(z, a + s * h) for s in (0, 1, 2)]
        assert_allclose(
            slope, (-3 * sides[0] + 4 * sides[1] - sides[2]) / (2 * h), rtol=1e-5, atol=1e-9
        )
    assert_allclose(conjugate(z, jnp.asarray(1.0)), jax.nn.logsumexp(z), rtol=1e-12)


def test_the_conjugate_keeps_its_derivatives_in_single_precision(x64):
    """First and second ones, in scores and alpha: of float32 those of float64, and of that finite
    differences; scores are up to hundreds, ties among the largest."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(20, 16)) * np.repeat([1.0, 100.0], 10)[:, None]
    z[:, 1], z[:, 2] = z.max(1) - 0.3, z.max(1)
    singles = jnp.asarray(z, jnp.float32), jnp.asarray([1.0, 1.01, 1.4, 1.999], jnp.float32)

    def every(f):
        return lambda z, a: jax.vmap(jax.vmap(f, (0, None)), (None, 0))(z, a)

    @jax.jit
    def derivatives(z, a):
        first = every(jax.grad(conjugate, (0, 1)))
        return first(z, a), every(jax.hessian(conjugate, (0, 1)))(z, a), every(entmax)(z, a)

    @jax.jit
    def differences(z, a):
        h = 1e-6
        value, first = every(conjugate), every(jax.grad(conjugate, (0, 1)))
        return jax.tree.map(
            lambda p, q: (p - q) / (2 * h),
            (value(z, a + h), *first(z, a + h)), (value(z, a - h), *first(z, a - h)),
        )  # fmt: skip

    doubles = [b.astype(jnp.float64) for b in singles]
    (p, slope), ((zz, za), (az, aa)), weights = derivatives(*doubles)
    assert_allclose(p, weights, atol=1e-15)
    for found, true in zip((slope, za, aa), differences(*doubles), strict=True):
        assert_allclose(found, true, rtol=1e-7, atol=1e-7)
    assert_allclose(az, za, atol=1e-12)
    assert_allclose(zz, jnp.swapaxes(zz, -1, -2), atol=1e-12)
    single = derivatives(*singles)
    assert_allclose(single[0][0], p, atol=2e-7)
    assert_allclose(single[0][1], slope, rtol=2e-6, atol=3e-7)  # 3e-5 if t is differentiated
    for found, true in zip(jax.tree.leaves(single[1]), (zz, za, az, aa), strict=True):
        assert_allclose(found, true, rtol=2e-5, atol=2e-5)


def test_sparse_at_alpha_one_is_the_modern_network():
    Xi, x = patterns(K=9), query()
    sparse, modern = am.SparseHopfield(Xi, 4.0, 1.0), am.ModernHopfield(Xi, 4.0)
    assert_allclose(energies(sparse, x[None]), energies(modern, x[None]), rtol=1e-5)
    assert_allclose(sparse.retrieve(x), modern.retrieve(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.25, 1.5, 2.0])
def test_sparse_retrieves_exactly_beyond_its_margin(alpha):
    Xi = jnp.sign(jr.normal(jr.key(0), (6, 32)))
    gram = np.asarray(Xi @ Xi.T)
    separation = 32 - (gram - 64 * np.eye(6)).max()
    beta = 1.2 / ((alpha - 1) * separation)  # the margin 1/(beta (alpha-1)) is below it
    model = am.SparseHopfield(Xi, beta, alpha)
    np.testing.assert_array_equal(weights(model, Xi), np.eye(6))
    assert_allclose(jax.vmap(model.retrieve)(Xi), Xi, atol=1e-6)
    lowest = (1 - 6 ** (1 - alpha)) / (alpha * (alpha - 1) * beta)  # the conjugate at 0, by beta
    assert_allclose(energies(model, Xi), lowest * jnp.ones(6), rtol=1e-4)
    assert abs(am.ModernHopfield(Xi, beta).retrieve(Xi[0]) - Xi[0]).max() > 1e-3


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_sparse_energy_keeps_the_bounds_of_the_modern_one(alpha):
    Xi = patterns(K=9)
    M2 = jnp.max(jnp.sum(Xi**2, axis=1))
    x = jr.normal(jr.key(2), (200, 6))
    x = x / jnp.linalg.norm(x, axis=1, keepdims=True) * jnp.sqrt(M2)
    energy = energies(am.SparseHopfield(Xi, 4.0, alpha), x)
    assert (energy > -1e-5).all()
    assert (energy < 2 * M2 + 1e-5).all()


def test_alpha_can_be_trained():
    Xi = jnp.sign(jr.normal(jr.key(0), (8, 16)))
    x = Xi[0] + 0.5 * jr.normal(jr.key(1), (16,))

    @jax.jit
    @jax.value_and_grad
    def loss(alpha):
        return jnp.mean((am.SparseHopfield(Xi, 0.3, alpha).retrieve(x) - Xi[0]) ** 2)

    alpha = jnp.asarray(1.1)
    first, _ = loss(alpha)
    for _ in range(30):
        _, slope = loss(alpha)
        alpha = jnp.clip(alpha - 10 * slope, 1.0, 2.0)
    assert alpha > 1.15
    assert loss(alpha)[0] < 0.7 * first


# -- kernels -------------------------------------------------------------------------------------


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("separation", SEPARATIONS)
def test_kernel_readout_is_the_universal_hopfield_network(similarity, separation):
    Xi, x = np.asarray(patterns(K=9)), np.asarray(query())
    values = np.asarray(jr.normal(jr.key(4), (9, 2)))
    s = {
        "dot": Xi @ x,
        "cosine": Xi @ x / np.linalg.norm(Xi, axis=1) / np.linalg.norm(x),
        "euclidean": 1 / (1 + ((Xi - x) ** 2).mean(1)),
        "manhattan": 1 / (1 + (np.sqrt((Xi - x) ** 2 + 0.05**2) - 0.05).mean(1)),
    }[similarity]
    weights = {
        "identity": s,
        "polynomial": np.maximum(s, 0) ** 4,
        "softmax": softmax(7 * s),
        "max": (s == s.max()).astype(float),
    }[separation]
    model = am.KernelMemory(jnp.asarray(Xi), similarity, separation, 7.0, 4, jnp.asarray(values))
    assert_allclose(model.readout(x), weights @ values, rtol=1e-4, atol=1e-6)
    # and it is what the energy descends: E = -c Q(s) + [dot only] ||x||^2 / 2
    c = {"dot": 1, "cosine": 6, "euclidean": 3, "manhattan": 6}[similarity]
    _, pull = jax.vjp(model.similarities, jnp.asarray(x))
    force = c * pull(jnp.asarray(weights, jnp.float32))[0] - (x if similarity == "dot" else 0)
    assert_allclose(model.update(x), force, rtol=1e-4, atol=1e-5)


def test_dot_softmax_kernel_is_the_modern_network():
    Xi, x = patterns(), query()
    kernel, modern = am.KernelMemory(Xi, "dot", "softmax", 4.0), am.ModernHopfield(Xi, 4.0)
    assert_allclose(kernel.update(x), modern.update(x), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "euclidean", "manhattan"])
def test_kernels_recall_noisy_patterns(similarity):
    Xi = jnp.sign(jr.normal(jr.key(0), (20, 64)))
    x = Xi + 0.6 * jr.normal(jr.key(1), Xi.shape)
    end = jax.vmap(am.KernelMemory(Xi, similarity).recall)(x)
    assert (jnp.sign(end.x) == Xi).all()
    assert end.converged.all()


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [am.ModernHopfield, am.GaussianMemory, am.EpanechnikovMemory, am.SparseHopfield],
)
@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_beta_must_be_positive(kind, beta):
    with pytest.raises(ValueError, match="beta: must be finite and greater than 0"):
        kind(patterns(), beta)


def test_parameters_of_the_wrong_kind():
    Xi = patterns()
    with pytest.raises(ValueError, match="beta: must be a scalar"):
        am.ModernHopfield(Xi, jnp.ones(3))
    with pytest.raises(TypeError, match="beta: must hold real numbers"):
        am.ModernHopfield(Xi, jnp.asarray(1j))
    with pytest.raises(ValueError, match=r"alpha: must lie in \[1, 2\]"):
        am.SparseHopfield(Xi, 1.0, 3.0)
    with pytest.raises(ValueError, match=r"n: must be at least 2; 1 came"):
        am.PolynomialMemory(Xi, 1)
    with pytest.raises(TypeError, match="PolynomialMemory: n must be an integer; True came"):
        am.PolynomialMemory(Xi, True)
    with pytest.raises(ValueError, match=r"similarity: must be one of .* Did you mean 'cosine'"):
        am.KernelMemory(Xi, "cosin")
    with pytest.raises(ValueError, match="separation: must be one of"):
        am.KernelMemory(Xi, "dot", "argmax")
    with pytest.raises(ValueError, match=r"values: must have shape \(K, V\)"):
        am.ModernHopfield(Xi, 1.0, jnp.ones((K + 1, 2)))


@pytest.mark.parametrize("bad", [jnp.zeros((0, 3)), jnp.ones(3), jnp.zeros((3, 0))])
def test_patterns_must_have_rows_and_columns(bad):
    with pytest.raises(ValueError, match=r"Xi: must have shape \(K, D\)"):
        am.ModernHopfield(bad)


def test_states_of_the_wrong_shape_or_value():
    model = am.ModernHopfield(patterns())
    with pytest.raises(ValueError, match=r"recall: the state must have shape \(6,\); \(5,\) came"):
        model.recall(jnp.ones(5))
    with pytest.raises(ValueError, match=r"A batch goes through jax.vmap"):
        model.update(jnp.ones((3, 6)))
    with pytest.raises(ValueError, match="recall: x: every value must be finite"):
        model.recall(jnp.full(6, jnp.nan))
    with pytest.raises(ValueError, match="Xi: every value must be finite"):
        am.ModernHopfield(patterns().at[0, 0].set(jnp.inf))
    with pytest.raises(ValueError, match=r"same width; \(3, 5\) and \(4, 6\) came"):
        am.attention(jnp.ones((3, 5)), patterns(), patterns())
    with pytest.raises(TypeError, match="must hold real numbers"):
        model.recall(jnp.ones(6, complex))


def test_closed_form_of_a_model_without_one():
    with pytest.raises(ValueError, match="retrieve: the energy must have the convex part"):
        UserHopfield(patterns()).retrieve(query())


def test_energy_must_be_a_scalar_and_present():
    class Vector(am.ContinuousAM):
        def energy(self, x):
            return self.Xi @ x

    class Nothing(am.ContinuousAM):
        pass

    with pytest.raises(ValueError, match="energy: must return one real floating-point scalar"):
        Vector(patterns()).recall(query())
    with pytest.raises(ValueError, match="energy: must return one real floating-point scalar"):
        Vector(patterns()).update(query())
    with pytest.raises(TypeError, match="abstract"):
        Nothing(patterns())  # pyright: ignore[reportAbstractUsage]


def test_a_model_without_patterns_takes_any_state():
    class Bowl(am.AbstractContinuousAM):
        depth: jax.Array
        unit_step: ClassVar[bool] = True

        def energy(self, x):
            return 0.5 * jnp.sum((x - self.depth) ** 2)

    end = Bowl(jnp.asarray(2.0)).recall(jnp.ones((2, 3, 4)))
    assert_allclose(end.x, 2 * jnp.ones((2, 3, 4)))
    assert end.steps == 1
    with pytest.raises(ValueError, match="at least one unit"):
        Bowl(jnp.asarray(2.0)).recall(jnp.ones(0))
    ints = Bowl(jnp.asarray(2.0)).recall(np.arange(4))
    assert ints.x.dtype == jnp.float32


def test_parameters_are_leaves_and_sizes_are_not():
    model = am.KernelMemory(patterns(), "cosine", "polynomial", n=4)
    assert len(jax.tree.leaves(model)) == 2  # Xi and beta
    assert len(jax.tree.leaves(am.SparseHopfield(patterns()))) == 3
    grads = eqx.filter_jit(eqx.filter_grad(lambda m: m.energy(query())))(
        am.SparseHopfield(patterns())
    )
    assert all(jnp.abs(g).max() > 0 for g in (grads.Xi, grads.beta, grads.alpha))
