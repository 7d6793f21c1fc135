"""Hopfield-Fenchel-Young networks: oracles, margins, derivatives, domains, bad input."""

import inspect
import itertools
import re
from functools import partial
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import linprog

import amlib as am
from amlib import continuous as cont
from amlib.hierarchical import lagr_layernorm, lagr_spherical_norm, lagr_tanh
from tests.continuous.zoo import patterns, query

K = 7
MAKE = {
    "softmax": cont.Softmax,
    "entmax": partial(cont.Entmax, 1.4),
    "sparsemax": cont.Sparsemax,
    "normmax": partial(cont.Normmax, 2.5),
    "normmax near 1": partial(cont.Normmax, 1.01),
    "subsets": partial(cont.KSubsets, 3),
    "all": partial(cont.KSubsets, K),
    "sequential": lambda: cont.SequentialKSubsets(3, jnp.linspace(-0.5, 1.0, K - 1)),
}
POSTS = {
    "sphere": cont.UnitSphere,
    "layernorm": lambda: cont.LayerNorm(1.5, jnp.linspace(-0.2, 0.3, 6), 1e-2),
    "tanh": partial(cont.Tanh, 2.0),
}


@eqx.filter_jit
def solve(regularizer, z):
    """Weights, value, its gradient and its slope at scores."""
    one = lambda z: (regularizer.argmax(z), *jax.value_and_grad(regularizer.conjugate)(z))
    return jax.vmap(one)(z)


# -- oracles in float64 --------------------------------------------------------------------------


def root(above, low, high):
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return (low + high) / 2


def entmax(z, alpha):
    p = lambda t: np.maximum((alpha - 1) * z - t, 0) ** (1 / (alpha - 1))
    top = ((alpha - 1) * z).max()
    out = p(root(lambda t: p(t).sum() > 1, top - 1, top))
    return out, out @ z - ((out**alpha).sum() - 1) / (alpha * (alpha - 1))


def softmax(z):
    p = np.exp(z - z.max())
    p /= p.sum()
    return p, z.max() + np.log(np.exp(z - z.max()).sum())


def normmax(z, alpha):
    u = lambda t: np.maximum(z - t, 0) ** (1 / (alpha - 1))
    t = root(lambda t: (u(t) ** alpha).sum() > 1, z.max() - 1, z.max())
    p = u(t) / u(t).sum()
    return p, p @ z - (p**alpha).sum() ** (1 / alpha) + 1


def subsets(z, k):
    p = lambda t: np.clip(z - t, 0, 1)
    out = p(root(lambda t: p(t).sum() > k, z.min() - 2, z.max()))
    return out, out @ z - 0.5 * (out @ out - k)


def choices(K, k):
    return np.array(
        [[i in c for i in range(K)] for c in itertools.combinations(range(K), k)], float
    )


ORACLES = {
    "softmax": softmax,
    "entmax": partial(entmax, alpha=1.4),
    "sparsemax": partial(entmax, alpha=2.0),
    "normmax": partial(normmax, alpha=2.5),
    "normmax near 1": partial(normmax, alpha=1.01),
    "subsets": partial(subsets, k=3),
    "all": lambda z: (np.ones(K), z.sum()),
}


def scores():
    """Small and large ones, and ties."""
    z = np.random.default_rng(0).normal(size=(12, K))
    z = z * np.array([0.1, 0.5, 2.0, 10.0] * 3)[:, None]
    return np.concatenate([z, np.full((1, K), 3.0), [[1.0, 1, 1, 0, 0, -2, -2]]])


@pytest.mark.parametrize("name", ORACLES)
def test_weights_and_value_are_those_of_numpy(name, x64):
    z = scores()
    p, value, gradient = solve(MAKE[name](), jnp.asarray(z))
    expected = [ORACLES[name](row) for row in z]
    assert_allclose(p, [e[0] for e in expected], atol=1e-9)
    assert_allclose(value, [e[1] for e in expected], atol=1e-9)
    assert_allclose(gradient, p, atol=1e-9)


def test_sequences_are_proved_optimal_over_all_choices(x64):
    """The value is reached by a mixture of choices (a linear program), and is its own bound."""
    k, t = 3, np.linspace(-0.5, 1.0, K - 1)
    Y = choices(K, k)
    bonus = (Y[:, 1:] * Y[:, :-1]) @ t
    z = scores()
    p, value, gradient = map(np.asarray, solve(MAKE["sequential"](), jnp.asarray(z)))
    assert_allclose(gradient, p, atol=1e-9)
    fractions = 0
    for row, mu, v in zip(z, p, value, strict=True):
        mixture = linprog(-bonus, A_eq=np.vstack([Y.T, np.ones(len(Y))]), b_eq=np.append(mu, 1))
        assert mixture.success
        assert_allclose(v, row @ mu - mixture.fun - 0.5 * (mu @ mu - k), atol=1e-7)
        # Of any l: max_y S(y; l) + |z - l|^2 / 2 is above every value; here l = z - mu.
        assert_allclose(v, (Y @ (row - mu) + bonus).max() + 0.5 * (mu @ mu + k), atol=1e-9)
        fractions += ((mu > 1e-6) & (mu < 1 - 1e-6)).any()
    assert fractions > 5


def test_sparsemax_and_one_subset_are_the_projection_of_optax():
    z = np.asarray(3 * jr.normal(jr.key(0), (20, K)))
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.vmap(optax.projections.projection_simplex)(z)
    for regularizer in (cont.Sparsemax(), cont.KSubsets(1)):
        assert_allclose(solve(regularizer, z)[0], expected, atol=1e-6)


# -- margins -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["entmax", "sparsemax", "normmax", "subsets"])
def test_a_gap_of_the_margin_retrieves_exactly_and_a_smaller_one_does_not(name):
    """Over random patterns and states: `beta` is set to the gap, just above and just below."""
    regularizer = MAKE[name]()
    k, D = getattr(regularizer, "k", 1), 12

    @jax.vmap
    def ends(key):
        a, b = jr.split(key)
        Xi, x = jr.normal(a, (K, D)), jr.normal(b, (D,))
        order = jnp.sort(Xi @ x)[::-1]
        beta = regularizer.margin() / (order[k - 1] - order[k])
        best = (Xi @ x >= order[k - 1]).astype(x.dtype)
        at = lambda share: am.HopfieldFenchelYoung(Xi, share * beta, regularizer)
        above, below = at(1.01), at(0.95)
        return above.weights(x), below.weights(x), best, x - jax.grad(above.energy)(x), best @ Xi

    above, below, best, step, sums = jax.jit(ends)(jr.split(jr.key(0), 200))
    assert_array_equal(above > 0, best)
    assert_allclose(above, best, atol=1e-6 if name == "entmax" else 0)
    assert (jnp.sum(below > 0, axis=1) > k).all()
    assert_allclose(step, sums, atol=1e-4)  # a derivative of sums over scores of up to hundreds


def test_sequences_are_exact_beyond_their_margin():
    """Where every other choice scores less by 1 for each pattern that it exchanges."""
    k, D, rng = 2, 12, np.random.default_rng(1)
    Y = choices(K, k)
    exact, mixed = 0, 0
    for _ in range(20):
        Xi, x = rng.normal(size=(K, D)).astype(np.float32), rng.normal(size=D).astype(np.float32)
        bonus = np.float32(0.5)
        score = Y @ (Xi @ x) + bonus * (Y[:, 1:] * Y[:, :-1]).sum(1)
        best = score.argmax()
        others = np.arange(len(Y)) != best
        margin = ((score[best] - score) / np.maximum(k - Y @ Y[best], 1))[others].min()
        for share, exactly in ((1.02, True), (0.9, False)):
            beta = share / margin
            chosen = cont.SequentialKSubsets(k, beta * bonus)
            p = solve(chosen, jnp.asarray(beta * Xi @ x)[None])[0][0]
            assert np.array_equal(p, Y[best]) == exactly
            exact, mixed = exact + exactly, mixed + (not exactly)
    assert exact == mixed == 20


# -- derivatives ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["entmax", "normmax", "subsets", "sequential"])
def test_derivatives_in_everything_equal_finite_differences(name, x64):
    """First and second, in patterns, state, `beta`, `alpha` and transitions."""
    Xi, x = patterns(jnp.float64, K=K), query(jnp.float64)
    model = am.HopfieldFenchelYoung(Xi, 3.0, MAKE[name]())
    leaves, rest = eqx.partition(model, eqx.is_inexact_array)
    energy = jax.jit(lambda leaves, x: eqx.combine(leaves, rest).energy(x))
    weights = jax.jit(lambda leaves, x: eqx.combine(leaves, rest).weights(x))
    check_grads(energy, (leaves, x), 2, modes=["rev"], eps=1e-5, rtol=3e-5, atol=3e-5)
    check_grads(weights, (leaves, x), 1, modes=["rev"], eps=1e-5, rtol=3e-5, atol=3e-5)


def test_the_implicit_derivative_of_recall_with_a_post_transformation(x64):
    Xi, x = patterns(jnp.float64, K=K), query(jnp.float64)

    @jax.jit
    def end(alpha, beta):
        model = am.HopfieldFenchelYoung(Xi, beta, cont.Entmax(alpha), cont.Tanh(2.0))
        return model.recall(x, method=am.FixedPoint(), tol=1e-12).x

    at = jnp.asarray(1.3), jnp.asarray(2.0)
    slopes = jax.jacrev(end, (0, 1))(*at)
    h = 1e-5
    for i, slope in enumerate(slopes):
        move = [h if i == j else 0.0 for j in range(2)]
        a, b = (end(*(v + s * m for v, m in zip(at, move, strict=True))) for s in (1, -1))
        assert_allclose(slope, (a - b) / (2 * h), atol=1e-6)
        assert jnp.abs(slope).max() > 1e-3


# -- post-transformations ------------------------------------------------------------------------


def test_convex_parts_are_the_conjugates_of_the_lagrangians(x64):
    """Equality of Fenchel at the post-transformation, and the inequality elsewhere."""
    delta = jnp.linspace(-0.2, 0.3, 6)
    lagrangians = {
        "sphere": lambda z: lagr_spherical_norm(z, eps=0.0),
        "layernorm": lambda z: lagr_layernorm(z, 1.5, delta, eps=1e-2),
        "tanh": lambda z: lagr_tanh(z, 2.0),
    }
    z = jr.normal(jr.key(0), (50, 6)) * jnp.geomspace(0.1, 3.0, 50)[:, None]
    for name, L in lagrangians.items():
        post = POSTS[name]()
        x = jax.vmap(post)(z)
        assert_allclose(x, jax.vmap(jax.grad(L))(z), atol=1e-9)
        assert_allclose(x, jax.vmap(post.project)(x), atol=1e-9)
        gaps = jax.vmap(post.convex)(x)[:, None] + jax.vmap(L)(z)[None] - x @ z.T
        assert_allclose(jnp.diag(gaps), 0, atol=1e-8)
        assert gaps.min() > -1e-8
        assert gaps.max() > 0.1


@pytest.mark.parametrize("post", POSTS)
def test_energies_fall_to_the_same_state_by_every_method(post):
    model = am.HopfieldFenchelYoung(patterns(K=K), 3.0, cont.Entmax(1.4), POSTS[post]())
    x = query()
    end = model.recall(3 * x, save_every=1, max_steps=100)  # from outside the domain
    energies = np.asarray(end.trajectory.energy)
    assert np.isfinite(energies).all()
    assert (np.diff(energies) <= 1e-5 * (1 + np.abs(energies[1:]))).all()
    assert end.converged
    assert_allclose(model.retrieve(end.x), end.x, atol=1e-3)
    flow = (am.Flow(),) if post == "tanh" else ()
    for method in (am.GradientDescent(0.5, True), am.FixedPoint(), *flow):
        other = model.recall(3 * x, method=method)
        assert other.converged, method
        assert_allclose(other.x, end.x, atol=5e-3)


def test_the_unit_step_is_the_published_update():
    Xi, x = np.asarray(patterns(K=K)), np.asarray(query())
    p, _ = subsets(2.0 * (Xi @ x).astype(float), 2)
    read = p @ Xi
    centred = read - read.mean()
    expected = [
        (cont.UnitSphere(), read / np.linalg.norm(read)),
        (cont.LayerNorm(), centred / np.sqrt(centred.var() + 1e-5)),
        (cont.Tanh(3.0), np.tanh(3 * read)),
        (cont.Identity(), read),
    ]
    for post, step in expected:
        model = am.HopfieldFenchelYoung(Xi, 2.0, cont.KSubsets(2), post)
        assert_allclose(model.retrieve(x), step, rtol=1e-4, atol=1e-5)


# -- numbers at their limits ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["entmax", "sparsemax", "normmax", "subsets", "sequential"])
def test_huge_scores_and_ties_keep_their_sums(name):
    regularizer = MAKE[name]()
    k = getattr(regularizer, "k", 1)
    rows = [[1.0] * K, [1.0] * 4 + [0.0] * 3, [3.0, 1.0, 2.0, 0.0, -1.0, 5.0, -7.0]]
    z = jnp.asarray([[scale * v for v in row] for scale in (1e6, 1e30) for row in rows])
    p, value, gradient = solve(regularizer, z)
    for a in (p, gradient):
        assert_allclose(a.sum(1), k, rtol=1e-5)
        assert (jnp.abs(a - 0.5) <= 0.5 + 1e-6).all()
    assert_allclose(value, jnp.sum(jnp.sort(z, axis=1)[:, K - k :], axis=1), rtol=1e-5)


def test_alpha_near_its_limits():
    z = jnp.asarray([[1.0, 0.9995, 0.2, -3.0]])
    largest = lambda alpha: solve(cont.Normmax(alpha), z)[0][0]
    assert_allclose(largest(1 + 1e-6), [1, 0, 0, 0], atol=1e-6)
    assert_allclose(largest(1e4), [0.5, 0.5, 0, 0], atol=1e-3)
    assert_allclose(largest(2.0), normmax(np.asarray(z[0], float), 2.0)[0], atol=1e-6)
    slopes = jax.grad(lambda a: cont.Normmax(a).conjugate(z[0]))
    for alpha in (1.001, 50.0):
        assert jnp.isfinite(slopes(jnp.asarray(alpha)))


def test_one_pattern_of_one_unit_in_half_precision():
    for regularizer, post, dtype in [
        (cont.Normmax(2.0), cont.Identity(), jnp.float16),
        (cont.KSubsets(1), cont.UnitSphere(), jnp.bfloat16),
        (cont.SequentialKSubsets(1), cont.Identity(), jnp.bfloat16),
    ]:
        model = am.HopfieldFenchelYoung(jnp.ones((1, 1), dtype), 2.0, regularizer, post)
        slope = jax.jit(jax.vmap(jax.grad(model.energy)))(jnp.full((2, 1), 0.5, dtype))
        assert slope.dtype == dtype
        assert jnp.isfinite(slope).all()
        assert_array_equal(model.retrieve(jnp.full((1,), 0.5, dtype)), [1])
        assert_array_equal(model.weights(jnp.ones((1,), dtype)), [1])


# -- a reader's own, and bad input ---------------------------------------------------------------


def test_the_examples_of_the_docstrings_run():
    Xi, x = patterns(K=K), query()
    space = {"am": am, "eqx": eqx, "jnp": jnp, "Xi": Xi}
    for cls in (cont.AbstractRegularizer, cont.AbstractPost):
        (code,) = re.findall(r"```python\n(.*?)```", inspect.getdoc(cls) or "", re.DOTALL)
        assert len(code.splitlines()) < 40
        exec(code, space)
    p = np.clip(2 * np.asarray(Xi @ x), 0, 0.5)
    assert_allclose(space["memory"].retrieve(x), p @ Xi, rtol=1e-5, atol=1e-6)
    model = am.HopfieldFenchelYoung(Xi, 3.0, post=space["Rectified"]())
    assert model.recall(x).converged
    assert_array_equal(model.recall(x).x >= 0, True)


def test_what_does_not_fit_raises():
    Xi = patterns(K=4)
    make = partial(am.HopfieldFenchelYoung, Xi, 1.0)
    for bad, error, words in [
        (lambda: cont.Entmax(2.5), ValueError, r"alpha: must lie in \[1, 2\]"),
        (lambda: cont.Normmax(1.0), ValueError, "alpha: must be finite and above 1"),
        (lambda: cont.KSubsets(0), ValueError, "k: must be at least 1"),
        (lambda: cont.KSubsets(True), TypeError, "k: must be an integer"),
        (lambda: make(cont.KSubsets(5)), ValueError, "k: must be at most .* 4; 5 came"),
        (lambda: make(cont.SequentialKSubsets(5)), ValueError, "k: must be at most"),
        (
            lambda: cont.SequentialKSubsets(2, jnp.ones((4, 4))),
            ValueError,
            r"transition: must be one score, .* shape \(4, 4\) came",
        ),
        (
            lambda: make(cont.SequentialKSubsets(2, jnp.ones(2))),
            ValueError,
            r"transition: must be one score, or 3, .* shape \(2,\) came",
        ),
        (
            lambda: make(cont.SequentialKSubsets(2, jnp.ones(4))),
            ValueError,
            "transition: must be one score, or 3",
        ),
        (lambda: cont.SequentialKSubsets(2, jnp.nan), ValueError, "transition"),
        (lambda: make(cast(Any, "entmax")), TypeError, "regularizer"),
        (lambda: make(post=cast(Any, jnp.tanh)), TypeError, "post"),
        (lambda: cont.LayerNorm(-1.0), ValueError, "gamma: must be finite and greater"),
        (lambda: cont.LayerNorm(eps=-1.0), ValueError, "eps: must be at least"),
        (
            lambda: make(post=cont.LayerNorm(1.0, jnp.ones(3))).retrieve(query()),
            ValueError,
            "delta: must be a scalar or of the shape",
        ),
        (
            lambda: make(post=cont.Tanh()).recall(query(), project=am.Sphere()),
            ValueError,
            "states live in its domain",
        ),
    ]:
        with pytest.raises(error, match=words):
            bad()
