r"""Regularised maxima over a polytope: weights of patterns, from their scores.

Each is the gradient of a convex function of the scores, and is found by its threshold $t$: a
bisection on scores whose derivative is stopped, and Newton steps that carry the derivatives.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib._types import Scalar


def entmax(z: Float[Array, " K"], alpha: Shaped[ArrayLike, ""]) -> Float[Array, " K"]:
    r"""The distribution that maximises $p \cdot z - \Omega_\alpha(p)$.

    $$p_\mu = [1 + (\alpha - 1)(z_\mu - t)]_+^{1/(\alpha - 1)}, \qquad \sum_\mu p_\mu = 1$$

    Softmax in the limit $\alpha = 1$ and sparsemax at $\alpha = 2$.

    **Arguments:**

    - `z`: scores.
    - `alpha`: 1 to 2.

    **Returns:** weights that sum to 1, differentiable in `z` and `alpha`.

    **Reference:** Peters, Niculae and Martins 2019; the threshold by bisection, polished by
    two Newton steps that also carry the derivative.
    """
    alpha = jnp.asarray(alpha).astype(z.dtype)
    y = _below_top(z)
    return _powered(y - _threshold(y, alpha), alpha - 1)


@jax.custom_jvp
def conjugate(z: Float[Array, " K"], alpha: Float[Array, ""]) -> Float[Array, ""]:
    r"""The conjugate of the Tsallis entropy, whose gradient is `entmax`.

    $$\Omega_\alpha^*(z) = \sum_\mu p_\mu \left(z_\mu - \frac{z_\mu - t}{\alpha}\right)$$

    for $p$ and $t$ as in `entmax`: on its support $\ln_\alpha p_\mu = z_\mu - t$.

    Its derivatives are those of the envelope theorem, and not of the threshold, whose large parts
    would cancel: in the scores the weights themselves, and in $\alpha$

    $$\frac{\partial \Omega_\alpha^*}{\partial \alpha} = -\frac{\partial \Omega_\alpha(p)}{\partial
    \alpha}, \qquad \Omega_\alpha(p) = \frac{1}{\alpha} \sum_\mu p_\mu \ln_\alpha p_\mu$$
    """
    y = _below_top(z)
    t = _threshold(y, alpha)
    p = _powered(y - t, alpha - 1)
    return jnp.sum(p * (y - (y - t) / alpha)) + jnp.max(z)


@conjugate.defjvp
def _conjugate_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (z, alpha), (dz, dalpha) = primals, tangents
    y = _below_top(z)
    p = _powered(y - _threshold(y, alpha), alpha - 1)
    return conjugate(z, alpha), jnp.sum(p * dz) - _entropy_slope(p, alpha) * dalpha


def _entropy_slope(p: Array, alpha: Array) -> Array:
    r"""How the negative Tsallis entropy of weights changes with $\alpha$, also at and near 1.

    With $l = \ln p$ it is $\Omega_\alpha(p) = \frac{1}{\alpha} \sum_\mu p_\mu l_\mu
    \varphi((\alpha - 1) l_\mu)$ for $\varphi(u) = (e^u - 1) / u$.
    """
    log = jnp.log(jnp.where(p > 0, p, 1.0))
    u = (alpha - 1) * log
    small = jnp.abs(u) < 0.5  # where the differences below would be rounding
    near, far = jnp.where(small, u, 0.0), jnp.where(small, 1.0, u)
    over = jnp.expm1(far) / far
    slope = (jnp.exp(far) - over) / far
    over = jnp.where(small, _series(near, lambda n: 1 / math.factorial(n + 1)), over)
    slope = jnp.where(small, _series(near, lambda n: (n + 1) / math.factorial(n + 2)), slope)
    return jnp.sum(p * log * (slope * log - over / alpha)) / alpha


def _series(u: Array, coefficient: Callable[[int], float]) -> Array:
    """A power series up to the 13th order: where |u| < 1/2, to the precision of float64."""
    total = jnp.zeros_like(u)
    for n in reversed(range(14)):
        total = total * u + coefficient(n)
    return total


def _below_top(z: Array) -> Array:
    """Scores below the largest: a threshold of large scores would lose what tells weights apart.

    Far below, where even the exponential is 0, they are cut off: their powers would overflow.
    """
    far = 2 * jnp.log(jnp.finfo(z.dtype).tiny).astype(z.dtype)
    return jnp.maximum(z - jnp.max(lax.stop_gradient(z)), far)


def normmax(z: Float[Array, " K"], alpha: Shaped[ArrayLike, ""]) -> Float[Array, " K"]:
    r"""The distribution that maximises $p \cdot z - \|p\|_\alpha$.

    $$p_\mu \propto (z_\mu - t)_+^{1/(\alpha - 1)}, \qquad
    \sum_\mu (z_\mu - t)_+^{\alpha / (\alpha - 1)} = 1$$

    **Arguments:**

    - `z`: scores.
    - `alpha`: above 1. Towards 1 it is the maximum itself, and towards infinity uniform over its
      support.

    **Returns:** weights that sum to 1, differentiable in `z` and `alpha`.

    **Reference:** Blondel, Martins and Niculae 2020, section 4.3, whose norm entropy this is.
    """
    alpha = jnp.asarray(alpha).astype(z.dtype)
    y = jnp.maximum(z - jnp.max(lax.stop_gradient(z)), -2.0)
    y = y - _above_top(y, alpha)
    u = _powered(y / (alpha - 1), alpha - 1)
    return u / jnp.sum(u)


def normmax_conjugate(z: Float[Array, " K"], alpha: Scalar) -> Scalar:
    r"""The conjugate of $\|p\|_\alpha - 1$ on the simplex, $t + 1$, whose gradient is `normmax`."""
    top = jnp.max(lax.stop_gradient(z))
    return top + _above_top(z - top, alpha)


def _above_top(y: Array, alpha: Array) -> Array:
    r"""What $t + 1$ of `normmax` is above the largest score, with its derivatives.

    Of scores `y` below the largest: the root $s$ of $\sum_\mu (1 + y_\mu - s)_+^q = 1$, which is
    small where $\alpha$ is near 1, and as exact there as elsewhere.
    """
    y = jnp.maximum(y, -2.0)  # below -1 nothing counts, and what is huge would overflow
    q = alpha / (alpha - 1)
    fixed_y, fixed_q = lax.stop_gradient((y, q))
    total = lambda s, y, q: jnp.sum(_powered(q * (y - s), 1 / q))
    widest = -jnp.expm1(-jnp.log(y.size).astype(y.dtype) / fixed_q)
    low, high = _bisected(lambda s: total(s, fixed_y, fixed_q) > 1, 0 * widest, widest)
    return _polished(lambda s: total(s, y, q) - 1, 0.5 * (low + high))


def subset(z: Float[Array, " K"], k: int) -> Float[Array, " K"]:
    r"""The point of $\{0 \le p \le 1, \sum_\mu p_\mu = k\}$ that is nearest to `z`.

    $$p_\mu = \min(1, (z_\mu - t)_+), \qquad \sum_\mu p_\mu = k$$

    **Arguments:**

    - `z`: scores.
    - `k`: how many weights would be 1, up to all of them.

    **Returns:** weights that sum to `k`. With 1 for `k` they are those of `entmax` at 2.
    """
    if k == z.size:
        return jnp.ones_like(z)
    y = z - _order(z, k)[0]
    u = y - _subset_threshold(y, k)
    return jnp.where(u >= 1, 1.0, jnp.where(u <= 0, 0.0, u))


def subset_conjugate(z: Float[Array, " K"], k: int) -> Scalar:
    r"""The conjugate of $\frac12 (\|p\|^2 - k)$ on that polytope, whose gradient is `subset`.

    By its dual, $k t + \sum_\mu \max_{0 \le p \le 1} [p (z_\mu - t) - \frac12 p^2] + \frac12 k$,
    which is least at the threshold.
    """
    if k == z.size:
        return jnp.sum(z)
    top = _order(z, k)[0]
    y = z - top
    t = _subset_threshold(y, k)
    u = y - t
    parts = jnp.where(u >= 1, u - 0.5, jnp.where(u <= 0, 0.0, 0.5 * u * u))
    return k * (t + 0.5 + top) + jnp.sum(parts)


def _order(z: Array, k: int) -> tuple[Array, Array]:
    """The `k`-th largest score and the next one, without derivatives."""
    top, _ = lax.top_k(lax.stop_gradient(z), k + 1)
    return top[k - 1], top[k]


def _subset_threshold(y: Array, k: int) -> Array:
    """The threshold of `subset` for scores of which the `k`-th is 0, with its derivative."""
    fixed = lax.stop_gradient(y)
    _, after = _order(y, k)
    # Up to a gap of 1 it lies between -1 and the next score; beyond, anywhere between the two.
    low, high = jnp.clip(after, -2.0, -1.0), jnp.maximum(after, -1.0)
    above = lambda t: jnp.sum(jnp.clip(fixed - t, 0.0, 1.0)) > k
    low, high = _bisected(above, low, high)
    t = 0.5 * (low + high)
    u = fixed - t
    free, full = (u > 0) & (u < 1), jnp.sum((u >= 1).astype(y.dtype))
    # The sum is linear here, so that one step ends on the root.
    excess = jnp.sum(jnp.where(free, y - t, 0.0)) + full - k
    return t + jnp.where(free.any(), excess / jnp.maximum(jnp.sum(free.astype(y.dtype)), 1.0), 0.0)


def _logq(y: Array, e: Array) -> Array:
    """`log(1 + e*y) / e`, also at and near `e = 0`; minus infinity where there is no logarithm."""
    small = jnp.abs(e) < 1e-3 / (1 + jnp.abs(y))  # e*y is small: a series to 4th order
    series = y * (1 - e * y * (0.5 - e * y * (1 / 3 - e * y / 4)))
    inside = ~small & (1 + e * y > 0)
    safe_e, safe_y = jnp.where(inside, e, 1.0), jnp.where(inside, y, 0.0)
    exact = jnp.log1p(safe_e * safe_y) / safe_e
    return jnp.where(small, series, jnp.where(inside, exact, -jnp.inf))


def _powered(y: Array, e: Array) -> Array:
    """`max(0, 1 + e*y) ** (1/e)`: the exponential at `e = 0`."""
    log = _logq(y, e)
    inside = log > -jnp.inf
    return jnp.where(inside, jnp.exp(jnp.where(inside, log, 0.0)), 0.0)


def largest_score(K: int, alpha: Array) -> Array:
    """How far the threshold lies above `K` equal scores: `-ln_alpha(1/K)`, `log(K)` at 1."""
    e, log = alpha - 1, jnp.log(K).astype(alpha.dtype)
    small = jnp.abs(e) * (1 + log) < 1e-3
    safe = jnp.where(small, 1.0, e)
    series = log * (1 - e * log * (0.5 - e * log * (1 / 6 - e * log / 24)))
    return jnp.where(small, series, -jnp.expm1(-safe * log) / safe)


def _threshold(y: Array, alpha: Array) -> Array:
    """The `t` at which the weights of scores below the largest sum to 1, with its derivatives."""
    fixed_y, fixed_e = lax.stop_gradient((y, alpha - 1))
    width = largest_score(y.size, fixed_e + 1)
    above = lambda t: jnp.sum(_powered(fixed_y - t, fixed_e)) > 1
    low, high = _bisected(above, 0 * width, width)
    return _polished(lambda t: jnp.sum(_powered(y - t, alpha - 1)) - 1, 0.5 * (low + high))


def _bisected(above: Callable[[Array], Array], low: Array, high: Array) -> tuple[Array, Array]:
    """The interval in which a falling function stops being above, to the precision of floats."""

    def halve(_: Array, low_high: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = low_high
        middle = 0.5 * (low + high)
        over = above(middle)
        return jnp.where(over, middle, low), jnp.where(over, high, middle)

    return lax.fori_loop(0, jnp.finfo(low.dtype).nmant + 2, halve, (low, high))


def _polished(excess: Callable[[Array], Array], t: Array) -> Array:
    """The root of a falling function near `t`, with its derivatives up to the second.

    Newton's error is quadratic, so the first step has the right first derivative, and after the
    second also the second one is right.
    """
    t = lax.stop_gradient(t)
    for _ in range(2):
        value, slope = jax.value_and_grad(excess)(t)
        t = t - value / slope
    return t
