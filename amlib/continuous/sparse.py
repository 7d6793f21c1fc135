"""Sparse Hopfield networks: Fenchel-Young energies, from softmax to sparsemax."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._types import Scalar, ScalarLike
from amlib.continuous.base import ContinuousAM
from amlib.descent.streaming import flat_rows, row_norms


def _alpha_field(alpha: ScalarLike) -> Array:
    alpha = checks.as_float(alpha, "alpha")
    if alpha.ndim:
        raise ValueError(f"alpha: must be a scalar; shape {alpha.shape} came.")
    if checks.is_concrete(alpha):
        checks.require(
            alpha,
            ~((alpha >= 1) & (alpha <= 2)),
            f"alpha: must lie in [1, 2], from softmax to sparsemax; {float(alpha):.4g} came.",
        )
    return alpha


class SparseHopfield(ContinuousAM):
    r"""The Hopfield network of $\alpha$-entmax: exact retrieval by sparse weights.

    $$E(x) = -\frac{1}{\beta} \Omega_\alpha^*(\beta\, \Xi x) + \frac12 \|x\|^2
    + \frac{1}{\beta} \Omega_\alpha^*(0) + \frac12 M^2$$

    $\Omega^*_\alpha$ is the conjugate of the negative Tsallis entropy
    $\Omega_\alpha(p) = \frac{1}{\alpha(\alpha-1)} (\sum_\mu p_\mu^\alpha - 1)$ on the simplex. The
    unit step is $x \leftarrow \Xi^\top \alpha\text{-entmax}(\beta\, \Xi x)$: softmax for
    $\alpha = 1$ (then this is `ModernHopfield`, constants included), sparsemax for $\alpha = 2$.
    $0 \le E \le 2 M^2$ for $\|x\| \le M$. For $\alpha > 1$ a pattern whose separation exceeds
    $1/(\beta(\alpha-1))$ is retrieved exactly, not only exponentially close. Use it for exact
    recall, or to retrieve a small set of patterns together.

    **Arguments:**

    - `Xi`: stored patterns, see `ContinuousAM`.
    - `beta`: inverse temperature, > 0; trainable.
    - `alpha`: sparsity, 1 to 2; trainable. To hold it fixed while training the rest, partition it
      out with `eqx.partition`.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar or `alpha` is out of range.

    **Reference:** Hu et al. 2023 (sparsemax); Santos et al. 2024 (arXiv 2402.13725), with the
    constants chosen as in Ramsauer et al. 2021.
    """

    unit_step: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)
    alpha: Scalar = eqx.field(converter=_alpha_field, default=1.5)

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`, constants included."""
        Xi, beta, alpha = flat_rows(self.Xi), self.beta.astype(x.dtype), self.alpha.astype(x.dtype)
        scores = beta * (Xi @ x.reshape(-1))
        uniform = _largest_score(Xi.shape[0], alpha) / alpha
        gap = (uniform - conjugate(scores, alpha)) / beta
        return gap + 0.5 * (jnp.sum(x * x) + jnp.max(row_norms(Xi)))

    def weights(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, " K"]:
        """The weights of the patterns at `x`: they sum to 1, and many are exactly 0.

        **Arguments:**

        - `x`: a state.

        **Returns:** one weight per pattern.
        """
        x = type(self)._state(self, x, "weights", check=False)
        scores = self.beta.astype(x.dtype) * (flat_rows(self.Xi) @ x.reshape(-1))
        return entmax(scores, self.alpha)


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
    return _powered(z - _threshold(z, alpha), alpha - 1)


def conjugate(z: Float[Array, " K"], alpha: Float[Array, ""]) -> Float[Array, ""]:
    r"""The conjugate of the Tsallis entropy, whose gradient is `entmax`.

    $$\Omega_\alpha^*(z) = \sum_\mu p_\mu \left(z_\mu - \frac{z_\mu - t}{\alpha}\right)$$

    for $p$ and $t$ as in `entmax`: on its support $\ln_\alpha p_\mu = z_\mu - t$.
    """
    t = _threshold(z, alpha)
    p = _powered(z - t, alpha - 1)
    return jnp.sum(p * (z - (z - t) / alpha))


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


def _largest_score(K: int, alpha: Array) -> Array:
    """How far the threshold lies above `K` equal scores: `-ln_alpha(1/K)`, `log(K)` at 1."""
    e, log = alpha - 1, jnp.log(K).astype(alpha.dtype)
    small = jnp.abs(e) * (1 + log) < 1e-3
    safe = jnp.where(small, 1.0, e)
    series = log * (1 - e * log * (0.5 - e * log * (1 / 6 - e * log / 24)))
    return jnp.where(small, series, -jnp.expm1(-safe * log) / safe)


def _threshold(z: Array, alpha: Array) -> Array:
    """The `t` at which the weights sum to 1, with its derivatives in `z` and `alpha`."""
    fixed_z, fixed_e = lax.stop_gradient((z, alpha - 1))
    top = jnp.max(fixed_z)
    width = _largest_score(z.size, fixed_e + 1)
    steps = jnp.finfo(z.dtype).nmant + 2

    def halve(_: Array, low_high: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = low_high
        middle = 0.5 * (low + high)
        above = jnp.sum(_powered(fixed_z - middle, fixed_e)) > 1
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = lax.fori_loop(0, steps, halve, (top, top + width))
    t = lax.stop_gradient(0.5 * (low + high))
    # Newton's error is quadratic, so the first step has the right first derivative, and after
    # the second also the second one is right.
    for _ in range(2):
        total, slope = jax.value_and_grad(lambda t: jnp.sum(_powered(z - t, alpha - 1)))(t)
        t = t - (total - 1) / slope
    return t
