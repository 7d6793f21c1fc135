"""The Lagrangians: closed forms, large states, parameters, the published package."""

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def ghost(z):
    return softmax(np.append(z, 0.0))[:-1]


def logsumexp(z):
    return z.max() + np.log(np.exp(z - z.max()).sum())


class Case(NamedTuple):
    """A Lagrangian of one axis, its value and activation in NumPy, and a large state."""

    function: Callable
    value: Callable
    activation: Callable
    parameters: Mapping = MappingProxyType({})
    options: Mapping = MappingProxyType({})
    large: tuple = (1e4, -1e4, 0.5, 9999.5)

    def bound(self):
        return functools.partial(self.function, **self.parameters, **self.options)


EXP = (-1e4, 40.0, 0.5, -3.0)  # the true value at 1e4 has 4343 digits
relu = lambda x: np.maximum(x, 0)
CASES = {
    "identity": Case(am.lagr_identity, lambda x: x @ x / 2, lambda x: x),
    "relu": Case(am.lagr_relu, lambda x: relu(x) @ relu(x) / 2, relu),
    "repu": Case(
        am.lagr_repu, lambda x: (relu(x) ** 5).sum() / 5, lambda x: relu(x) ** 4, {}, {"n": 5}
    ),
    "repu-float": Case(
        am.lagr_repu,
        lambda x, n: (relu(x) ** n).sum() / n,
        lambda x, n: relu(x) ** (n - 1),
        {"n": 2.5},
    ),
    "exp": Case(
        am.lagr_exp,
        lambda x, beta: np.exp(beta * x).sum() / beta,
        lambda x, beta: np.exp(beta * x),
        {"beta": 0.8},
        large=EXP,
    ),
    "rexp": Case(
        am.lagr_rexp,
        lambda x, beta: (np.exp(beta * relu(x)) / beta - relu(x)).sum(),
        lambda x, beta: np.expm1(beta * relu(x)),
        {"beta": 0.8},
        large=EXP,
    ),
    "tanh": Case(
        am.lagr_tanh,
        lambda x, beta: (np.logaddexp(beta * x, -beta * x) - np.log(2)).sum() / beta,
        lambda x, beta: np.tanh(beta * x),
        {"beta": 0.8},
    ),
    "sigmoid": Case(
        am.lagr_sigmoid,
        lambda x, beta: np.logaddexp(beta * x, 0).sum() / beta,
        lambda x, beta: 0.5 + 0.5 * np.tanh(beta * x / 2),
        {"beta": 0.8},
    ),
    "softmax": Case(
        am.lagr_softmax,
        lambda x, beta: logsumexp(beta * x) / beta,
        lambda x, beta: softmax(beta * x),
        {"beta": 0.8},
    ),
    "layernorm": Case(
        am.lagr_layernorm,
        lambda x, gamma, delta: x.size * gamma * np.sqrt(x.var() + 1e-5) + (delta * x).sum(),
        lambda x, gamma, delta: gamma * (x - x.mean()) / np.sqrt(x.var() + 1e-5) + delta,
        {"gamma": 1.4, "delta": 0.3},
    ),
    "spherical": Case(
        am.lagr_spherical_norm,
        lambda x, gamma, delta: gamma * np.sqrt(x @ x + 1e-5) + (delta * x).sum(),
        lambda x, gamma, delta: gamma * x / np.sqrt(x @ x + 1e-5) + delta,
        {"gamma": 1.4, "delta": 0.3},
    ),
    "ghostmax": Case(
        am.lagr_ghostmax,
        lambda x, beta: logsumexp(np.append(beta * x, 0)) / beta,
        lambda x, beta: ghost(beta * x),
        {"beta": 0.8},
    ),
}


@functools.cache
def derivatives(name):
    """Value, activation and second derivative: one program for each Lagrangian."""
    f = CASES[name].bound()
    return jax.jit(lambda x: (f(x), jax.grad(f)(x), jax.hessian(f)(x)))


def close(got, expected, tol):
    """Equal up to rounding, which is relative to the largest entry."""
    expected = np.asarray(expected, float)
    assert_allclose(got, expected, rtol=0, atol=tol * np.abs(expected).max() + 1e-30)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", ["small", "large"])
def test_value_activation_and_curvature_are_the_closed_forms(name, size):
    case = CASES[name]
    x = np.array([0.3, -1.2, 2.0, 0.7] if size == "small" else case.large)
    value, activation, curvature = derivatives(name)(jnp.asarray(x, jnp.float32))
    close(value, case.value(x, **case.parameters), 1e-5)
    close(activation, case.activation(x, **case.parameters), 1e-5)
    h = 1e-3
    columns = [
        (
            case.activation(x + h * e, **case.parameters)
            - case.activation(x - h * e, **case.parameters)
        )
        / (2 * h)
        for e in np.eye(4)
    ]
    close(curvature, np.stack(columns, 1), 3e-5)
    least = np.linalg.eigvalsh(np.asarray(curvature, float)).min()
    assert least >= -1e-5 * np.abs(curvature).max()  # convex


@pytest.mark.parametrize("name", CASES)
def test_derivatives_at_zero_are_finite(name):
    value, activation, curvature = derivatives(name)(jnp.zeros(4))
    for a in (value, activation, curvature):
        assert np.isfinite(a).all()
    expected = CASES[name].activation(np.zeros(4), **CASES[name].parameters)
    assert_allclose(activation, expected, atol=1e-6)


def test_the_slope_at_zero_is_beta():
    # A logcosh made of absolute values would have none there.
    assert_allclose(derivatives("tanh")(jnp.zeros(4))[2], 0.8 * np.eye(4), rtol=1e-6)
    assert_allclose(derivatives("sigmoid")(jnp.zeros(4))[2], 0.2 * np.eye(4), rtol=1e-6)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.parameters])
def test_every_parameter_has_its_first_and_mixed_derivatives(name, x64):
    case = CASES[name]
    x, direction = jnp.array([0.3, -1.2, 2.0, 0.7]), jnp.array([1.0, 0.4, -0.3, 0.2])

    @jax.jit
    def pair(parameters):
        f = lambda x: case.function(x, **parameters, **case.options)
        return f(x), jax.grad(f)(x) @ direction

    slopes = jax.jit(jax.jacrev(pair))
    parameters = {k: jnp.asarray(v) for k, v in case.parameters.items()}
    got = slopes(parameters)
    for k, value in parameters.items():
        up, down = (pair(parameters | {k: value + h}) for h in (1e-5, -1e-5))
        for j in (0, 1):
            expected = (up[j] - down[j]) / 2e-5
            assert_allclose(got[j][k], expected, rtol=1e-7, atol=1e-9)
        assert min(abs(got[0][k]), abs(got[1][k])) > 1e-3  # none is forgotten


def test_a_shift_for_each_unit_is_trained(x64):
    x, delta = jr.normal(jr.key(0), (2, 3)), jr.normal(jr.key(1), (3,))
    for f in (am.lagr_layernorm, am.lagr_spherical_norm):
        slopes = jax.jit(jax.grad(f, argnums=(0, 2)))
        by_x, by_delta = slopes(x, 1.0, delta)
        assert_allclose(by_delta, x.sum(0), rtol=1e-12)
        # Once for each unit, not once for each row and unit.
        moved = by_x - slopes(x, 1.0, jnp.zeros(3))[0]
        assert_allclose(moved, np.broadcast_to(delta, (2, 3)), rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_half_precision_is_computed_in_single(name):
    case = CASES[name]
    powers = name.startswith("repu") or case.large is EXP
    x = jnp.asarray([5.0, -1e4, 0.5, -3.0] if powers else case.large, jnp.float16)
    value, slope = jax.jit(jax.value_and_grad(case.bound()))(x)
    assert value.dtype == jnp.float32
    assert slope.dtype == jnp.float16
    assert jnp.isfinite(value)
    wide = np.asarray(x, float)
    expected = np.asarray(case.activation(wide, **case.parameters), np.float16)
    assert_allclose(slope, expected, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_one_unit_is_a_layer_and_nan_stays_nan(name):
    value, slope = jax.jit(jax.value_and_grad(CASES[name].bound()))(jnp.ones(1))
    assert np.isfinite(value)
    assert np.isfinite(slope).all()
    assert np.isnan(derivatives(name)(jnp.array([1.0, np.nan, 0.0, 2.0]))[0])


def test_other_kinds_of_numbers_become_floats():
    assert am.lagr_relu(np.array([1, 0, -2, 3])) == 5.0
    assert am.lagr_relu(np.array([True, False])) == 0.5  # spins


def test_a_constant_state_of_large_values_has_no_activation():
    # The rounding of the mean of 1e4 alone exceeds the root of eps.
    x = jnp.full(1000, 1e4 + 1 / 3)
    assert_allclose(jax.jit(jax.grad(am.lagr_layernorm))(x), np.zeros(1000), atol=1e-6)


AXES = [-1, 0, (0, 2), (1,), None, [0, -1]]


@pytest.mark.parametrize("axis", AXES, ids=str)
@pytest.mark.parametrize("name", ["softmax", "layernorm", "spherical", "ghostmax"])
def test_axes_are_normalised_and_the_rest_is_summed(name, axis):
    case = CASES[name]
    x = jr.normal(jr.key(0), (2, 3, 4))
    value = jax.jit(lambda x: case.function(x, **case.parameters, axis=axis))(x)
    assert value.shape == ()
    axes = sorted(a % 3 for a in np.atleast_1d((0, 1, 2) if axis is None else axis))
    moved = np.moveaxis(np.asarray(x, float), axes, range(-len(axes), 0))
    rows = moved.reshape(-1, math.prod(x.shape[a] for a in axes))
    assert_allclose(value, sum(case.value(r, **case.parameters) for r in rows), rtol=1e-5)


def test_repu_of_one_sums_the_positive_part():
    x = jnp.array([1.0, -2.0, 3.0])
    assert am.lagr_repu(x, 1) == 4.0
    assert_allclose(jax.grad(am.lagr_repu)(x, 1), [1, 0, 1])
    assert_allclose(am.lagr_repu(x, 2), am.lagr_relu(x))


@pytest.mark.parametrize("name", CASES)
def test_values_are_those_of_the_published_package(name):
    lagrangians = pytest.importorskip("hamux.lagrangians")
    case = CASES[name]
    theirs = getattr(lagrangians, case.function.__name__)
    x = 2 * jr.normal(jr.key(3), (7,))
    options = {k: float(v) if k == "n" else v for k, v in case.options.items()}
    if name == "ghostmax":  # theirs has no beta
        ours, theirs = am.lagr_ghostmax, theirs
    else:
        ours = case.bound()
        theirs = functools.partial(theirs, **case.parameters, **options)
    with jax.numpy_dtype_promotion("standard"):
        expected = jax.jit(jax.value_and_grad(theirs))(x)
    value, slope = jax.jit(jax.value_and_grad(ours))(x)
    assert_allclose(value, expected[0], rtol=1e-5)
    assert_allclose(slope, expected[1], rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x: am.lagr_tanh(x, 0.0), ValueError, "lagr_tanh: beta: must be finite and greater"),
        (lambda x: am.lagr_exp(x, -1), ValueError, "lagr_exp: beta: must be finite and greater"),
        (lambda x: am.lagr_softmax(x, np.nan), ValueError, "lagr_softmax: beta: must be finite"),
        (lambda x: am.lagr_sigmoid(x, np.ones(3)), ValueError, r"must be a scalar; shape \(3,\)"),
        (lambda x: am.lagr_rexp(x, 1j), TypeError, "lagr_rexp: beta: must hold real numbers"),
        (lambda x: am.lagr_repu(x, 0), ValueError, "lagr_repu: n: must be at least 1; 0 came"),
        (lambda x: am.lagr_repu(x, 0.5), ValueError, "lagr_repu: n: must be at least 1; 0.5 came"),
        (lambda x: am.lagr_softmax(x, axis=2), ValueError, r"state of shape \(2, 3\); 2 came"),
        (lambda x: am.lagr_softmax(x, axis=(0, -2)), ValueError, "axis must name different axes"),
        (lambda x: am.lagr_softmax(x, axis=()), ValueError, "axis must name different axes"),
        (lambda x: am.lagr_softmax(x, axis="a"), TypeError, "axis must be an int, a tuple"),  # pyright: ignore[reportArgumentType]
        (lambda x: am.lagr_softmax(x[0, 0]), ValueError, r"shape \(\); -1 came"),
        (lambda x: am.lagr_layernorm(x, gamma=-1), ValueError, "lagr_layernorm: gamma: must be"),
        (
            lambda x: am.lagr_layernorm(x, gamma=np.ones(3)),
            ValueError,
            "lagr_layernorm: gamma: must be a scalar",
        ),
        (
            lambda x: am.lagr_layernorm(x, delta=np.ones(2)),
            ValueError,
            r"delta: must be a scalar or broadcast to the state's shape \(2, 3\); \(2,\) came",
        ),
        (
            lambda x: am.lagr_spherical_norm(x, delta=np.ones((4, 2, 3))),
            ValueError,
            "delta: must be a scalar or broadcast",
        ),
        (lambda x: am.lagr_identity(1j * x), TypeError, "lagr_identity: must hold real numbers"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call(np.ones((2, 3)))
