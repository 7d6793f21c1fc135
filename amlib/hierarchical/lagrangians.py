r"""Lagrangians: one convex scalar function of a layer's state; its gradient is the activation.

Each sums over every axis it does not normalise, so the result is always a scalar. Values in
float16 and bfloat16 are computed, and the scalar returned, in float32: an energy soon leaves the
range of half precision. Gradients come back in the dtype of the state. Everything is plain
autograd; the two custom rules below are of functions of one argument, so none can be forgotten.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Shaped

from amlib import _checks as checks
from amlib._types import AxisLike, Scalar, ScalarLike


@jax.custom_jvp
def _log_cosh(z: Array) -> Array:
    """`log(cosh(z))` without overflow, and without the cancellation of logs near 0."""
    return jnp.abs(z) + jnp.log1p(0.5 * jnp.expm1(-2 * jnp.abs(z)))


@_log_cosh.defjvp
def _log_cosh_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # By autograd abs would lose the curvature at 0.
    (z,), (dz,) = primals, tangents
    return _log_cosh(z), jnp.tanh(z) * dz


@jax.custom_jvp
def _softplus(z: Array) -> Array:
    """`log(1 + exp(z))` without overflow."""
    return jnp.maximum(z, 0.0) + jnp.log1p(jnp.exp(-jnp.abs(z)))


@_softplus.defjvp
def _softplus_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (z,), (dz,) = primals, tangents
    return _softplus(z), jax.nn.sigmoid(z) * dz


def widen(x: Shaped[ArrayLike, "..."], where: str) -> Array:
    """The state as floats of at least 32 bits."""
    return checks.widen(checks.as_float(x, where))


def _scale(value: ScalarLike, x: Array, where: str) -> Array:
    """A parameter that must be a positive scalar, in the dtype of the state."""
    value = checks.as_float(value, where)
    if value.ndim:
        raise ValueError(f"{where}: must be a scalar; shape {value.shape} came.")
    if checks.is_concrete(value):
        known = np.asarray(value, float)  # in NumPy: under jit JAX would trace the comparison
        good = bool(np.isfinite(known) and known > 0)
        checks.require(
            value, not good, f"{where}: must be finite and greater than 0; {known:.4g} came."
        )
    return value.astype(x.dtype)


def _axes(axis: AxisLike, x: Array, where: str) -> tuple[int, ...]:
    """The axes to normalise over, from 0; all of them for `None`."""
    if axis is None:
        return tuple(range(x.ndim))
    try:
        axes = tuple(int(a) for a in (axis if isinstance(axis, Sequence) else (axis,)))
    except (TypeError, ValueError) as err:
        raise TypeError(
            f"{where}: axis must be an int, a tuple of ints or None; {axis!r} came."
        ) from err
    found = tuple(sorted({a % x.ndim for a in axes if -x.ndim <= a < x.ndim})) if x.ndim else ()
    if len(found) != len(axes) or not axes:
        raise ValueError(
            f"{where}: axis must name different axes of a state of shape {x.shape}; "
            f"{axis!r} came. axis=None takes them all."
        )
    return found


def _shift(delta: Shaped[ArrayLike, "..."], x: Array, where: str) -> Array:
    r"""$\sum_i \delta_i x_i$ for a shift that is a scalar or broadcasts to the state."""
    delta = checks.as_float(delta, where).astype(x.dtype)
    try:
        np.broadcast_shapes(delta.shape, x.shape)
        fits = delta.ndim <= x.ndim
    except ValueError:
        fits = False
    if not fits or np.broadcast_shapes(delta.shape, x.shape) != x.shape:
        raise ValueError(
            f"{where}: must be a scalar or broadcast to the state's shape {x.shape}; "
            f"{delta.shape} came."
        )
    return jnp.sum(jnp.broadcast_to(delta, x.shape) * x)


def lagr_identity(x: Shaped[ArrayLike, "..."]) -> Scalar:
    r"""Half the squared norm; the activation is the identity.

    $$L(x) = \frac12 \sum_i x_i^2, \qquad \nabla L = x$$

    **Arguments:**

    - `x`: the state of a layer, of any shape.

    **Returns:** a scalar, at least 0.
    """
    x = widen(x, "lagr_identity")
    return 0.5 * jnp.sum(x * x)


def lagr_relu(x: Shaped[ArrayLike, "..."]) -> Scalar:
    r"""Half the squared norm of the positive part; the activation is the rectifier.

    $$L(x) = \frac12 \sum_i \max(0, x_i)^2, \qquad \nabla L = \max(0, x)$$

    **Arguments:**

    - `x`: the state of a layer, of any shape.

    **Returns:** a scalar, at least 0. The second derivative at 0 is taken as 0.
    """
    x = jax.nn.relu(widen(x, "lagr_relu"))
    return 0.5 * jnp.sum(x * x)


def lagr_repu(x: Shaped[ArrayLike, "..."], n: ScalarLike = 2) -> Scalar:
    r"""The rectified power unit.

    $$L(x) = \frac1n \sum_i \max(0, x_i)^n, \qquad \nabla L = \max(0, x)^{n-1}$$

    **Arguments:**

    - `x`: the state of a layer, of any shape.
    - `n`: the power, at least 1; an int or a float.

    **Returns:** a scalar, at least 0; infinite where the true value is beyond the dtype.

    **Raises:** `ValueError` if `n` is below 1: then the function is not convex.

    **Reference:** Krotov and Hopfield 2016 (arXiv 1606.01164).
    """
    x = jax.nn.relu(widen(x, "lagr_repu"))
    if isinstance(n, int | np.integer) and not isinstance(n, bool):
        checks.at_least(n, 1, "lagr_repu: n")
        return jnp.sum(x ** int(n)) / int(n)
    power = _scale(n, x, "lagr_repu: n")
    if checks.is_concrete(n) and not np.asarray(n) >= 1:
        raise ValueError(f"lagr_repu: n: must be at least 1; {n} came.")
    # At 0 the power rule would meet log(0).
    inside = x != 0
    return jnp.sum(jnp.where(inside, jnp.where(inside, x, 1.0) ** power, 0.0)) / power


def lagr_exp(x: Shaped[ArrayLike, "..."], beta: ScalarLike = 1.0) -> Scalar:
    r"""The exponential; so is its activation.

    $$L(x) = \frac1\beta \sum_i e^{\beta x_i}, \qquad \nabla L = e^{\beta x}$$

    **Arguments:**

    - `x`: the state of a layer, of any shape.
    - `beta`: inverse temperature, > 0; trainable.

    **Returns:** a scalar, above 0; infinite where $e^{\beta x_i}$ is beyond the dtype, in float32
    from $\beta x_i \approx 88.7$.

    **Raises:** `ValueError` if `beta` is not a positive scalar.

    **Reference:** Demircigil et al. 2017 (arXiv 1702.01929).
    """
    x = widen(x, "lagr_exp")
    beta = _scale(beta, x, "lagr_exp: beta")
    return jnp.sum(jnp.exp(beta * x)) / beta


def lagr_rexp(x: Shaped[ArrayLike, "..."], beta: ScalarLike = 1.0) -> Scalar:
    r"""The rectified exponential.

    $$L(x) = \sum_i \frac1\beta e^{\beta \max(0, x_i)} - \max(0, x_i), \qquad
    \nabla L = e^{\beta \max(0, x)} - 1$$

    **Arguments:**

    - `x`: the state of a layer, of any shape.
    - `beta`: inverse temperature, > 0; trainable.

    **Returns:** a scalar, above 0; infinite where $e^{\beta x_i}$ is beyond the dtype, as in
    `lagr_exp`.

    **Raises:** `ValueError` if `beta` is not a positive scalar.
    """
    x = jax.nn.relu(widen(x, "lagr_rexp"))
    beta = _scale(beta, x, "lagr_rexp: beta")
    return jnp.sum(jnp.exp(beta * x) / beta - x)


def lagr_tanh(x: Shaped[ArrayLike, "..."], beta: ScalarLike = 1.0) -> Scalar:
    r"""The log of the hyperbolic cosine; the activation is the hyperbolic tangent.

    $$L(x) = \frac1\beta \sum_i \log\cosh \beta x_i, \qquad \nabla L = \tanh \beta x$$

    **Arguments:**

    - `x`: the state of a layer, of any shape.
    - `beta`: inverse temperature, > 0; trainable.

    **Returns:** a scalar, at least 0.

    **Raises:** `ValueError` if `beta` is not a positive scalar.
    """
    x = widen(x, "lagr_tanh")
    beta = _scale(beta, x, "lagr_tanh: beta")
    return jnp.sum(_log_cosh(beta * x)) / beta


def lagr_sigmoid(x: Shaped[ArrayLike, "..."], beta: ScalarLike = 1.0) -> Scalar:
    r"""The softplus; the activation is the logistic sigmoid.

    $$L(x) = \frac1\beta \sum_i \log(1 + e^{\beta x_i}), \qquad
    \nabla L = \frac{1}{1 + e^{-\beta x}}$$

    **Arguments:**

    - `x`: the state of a layer, of any shape.
    - `beta`: inverse temperature, > 0; trainable.

    **Returns:** a scalar, above 0.

    **Raises:** `ValueError` if `beta` is not a positive scalar.
    """
    x = widen(x, "lagr_sigmoid")
    beta = _scale(beta, x, "lagr_sigmoid: beta")
    return jnp.sum(_softplus(beta * x)) / beta


def lagr_softmax(
    x: Shaped[ArrayLike, "..."], beta: ScalarLike = 1.0, axis: AxisLike = -1
) -> Scalar:
    r"""The log-sum-exp; the activation is the softmax.

    $$L(x) = \frac1\beta \sum_r \log \sum_i e^{\beta x_{ri}}, \qquad
    \nabla L = \mathrm{softmax}(\beta x)$$

    **Arguments:**

    - `x`: the state of a layer, of any shape but a single number.
    - `beta`: inverse temperature, > 0; trainable.
    - `axis`: the axis or axes $i$ over which the activation sums to 1; `None` for all.

    **Returns:** a scalar: the sum over the other axes $r$.

    **Raises:** `ValueError` if `beta` is not a positive scalar or `axis` is none of the state's.
    """
    x = widen(x, "lagr_softmax")
    beta = _scale(beta, x, "lagr_softmax: beta")
    axes = _axes(axis, x, "lagr_softmax")
    return jnp.sum(jax.nn.logsumexp(beta * x, axis=axes)) / beta


def lagr_layernorm(
    x: Shaped[ArrayLike, "..."],
    gamma: ScalarLike = 1.0,
    delta: Shaped[ArrayLike, "..."] = 0.0,
    axis: AxisLike = -1,
    eps: float = 1e-5,
) -> Scalar:
    r"""The standard deviation; the activation is layer normalisation.

    $$L(x) = \gamma D \sum_r \sqrt{\mathrm{var}_i(x_{ri}) + \epsilon} + \sum \delta x, \qquad
    \nabla L = \gamma \frac{x - \bar x}{\sqrt{\mathrm{var}(x) + \epsilon}} + \delta$$

    **Arguments:**

    - `x`: the state of a layer, of any shape but a single number.
    - `gamma`: scale, > 0; a scalar, since with one per unit the activation is no gradient;
      trainable.
    - `delta`: shift, a scalar or an array that broadcasts to the state; trainable.
    - `axis`: the axis or axes, of $D$ units in all, to normalise over; `None` for all.
    - `eps`: what keeps the root away from 0; above 0, or the derivative at a constant state is
      not finite.

    **Returns:** a scalar: the sum over the other axes $r$.

    **Raises:** `ValueError` for `gamma`, `delta` or `axis` that do not fit.

    **Reference:** Hoover et al. 2023 (arXiv 2302.07253). The package `hamux` counts `delta` once
    for each row $r$; here it is counted once, so that the activation is the one above.
    """
    x = widen(x, "lagr_layernorm")
    gamma = _scale(gamma, x, "lagr_layernorm: gamma")
    axes = _axes(axis, x, "lagr_layernorm")
    D = int(np.prod([x.shape[a] for a in axes]))
    # Twice: the first mean of large numbers is off by more than sqrt(eps).
    centred = x - jax.lax.stop_gradient(jnp.mean(x, axes, keepdims=True))
    centred = centred - jnp.mean(centred, axes, keepdims=True)
    root = jnp.sqrt(jnp.mean(centred * centred, axes) + eps)
    return D * gamma * jnp.sum(root) + _shift(delta, x, "lagr_layernorm: delta")


def lagr_spherical_norm(
    x: Shaped[ArrayLike, "..."],
    gamma: ScalarLike = 1.0,
    delta: Shaped[ArrayLike, "..."] = 0.0,
    axis: AxisLike = -1,
    eps: float = 1e-5,
) -> Scalar:
    r"""The Euclidean norm; the activation lies on a sphere.

    $$L(x) = \gamma \sum_r \sqrt{\|x_r\|^2 + \epsilon} + \sum \delta x, \qquad
    \nabla L = \gamma \frac{x}{\sqrt{\|x\|^2 + \epsilon}} + \delta$$

    **Arguments:** as for `lagr_layernorm`; $\gamma$ is the radius of the sphere.

    **Returns:** a scalar: the sum over the other axes $r$.

    **Raises:** `ValueError` for `gamma`, `delta` or `axis` that do not fit.

    **Reference:** model C of Krotov and Hopfield 2021 (arXiv 2008.06996); `delta` as in
    `lagr_layernorm`.
    """
    x = widen(x, "lagr_spherical_norm")
    gamma = _scale(gamma, x, "lagr_spherical_norm: gamma")
    axes = _axes(axis, x, "lagr_spherical_norm")
    root = jnp.sqrt(jnp.sum(x * x, axes) + eps)
    return gamma * jnp.sum(root) + _shift(delta, x, "lagr_spherical_norm: delta")


def lagr_ghostmax(
    x: Shaped[ArrayLike, "..."], axis: AxisLike = None, beta: ScalarLike = 1.0
) -> Scalar:
    r"""The log-sum-exp with a zero among the summands: strictly convex.

    $$L(x) = \frac1\beta \sum_r \log\left(1 + \sum_i e^{\beta x_{ri}}\right), \qquad
    \nabla L = \frac{e^{\beta x}}{1 + \sum_i e^{\beta x_i}}$$

    The activation sums to less than 1: units may all be silent.

    **Arguments:**

    - `x`: the state of a layer, of any shape.
    - `axis`: the axis or axes $i$ to sum over; `None` for all.
    - `beta`: inverse temperature, > 0; trainable.

    **Returns:** a scalar, above 0: the sum over the other axes $r$.

    **Raises:** `ValueError` if `beta` is not a positive scalar or `axis` is none of the state's.
    """
    x = widen(x, "lagr_ghostmax")
    beta = _scale(beta, x, "lagr_ghostmax: beta")
    axes = _axes(axis, x, "lagr_ghostmax")
    total = jax.nn.logsumexp(beta * x, axis=axes) if axes else beta * x
    return jnp.sum(_softplus(total)) / beta


CONVEX: tuple[Callable[..., Array], ...] = (
    lagr_identity,
    lagr_relu,
    lagr_repu,
    lagr_exp,
    lagr_rexp,
    lagr_tanh,
    lagr_sigmoid,
    lagr_softmax,
    lagr_layernorm,
    lagr_spherical_norm,
    lagr_ghostmax,
)
"""The Lagrangians of this module: known to be convex, so that a layer need not look."""
