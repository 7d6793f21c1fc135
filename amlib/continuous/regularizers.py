"""Regularisers: which convex function of the weights is added to their scores."""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amlib import _checks as checks, _show as show
from amlib._types import IntLike, Scalar, ScalarLike, hook
from amlib.continuous.simplex import (
    conjugate,
    entmax,
    largest_score,
    normmax,
    normmax_conjugate,
    subset,
    subset_conjugate,
)


class AbstractRegularizer(eqx.Module):
    r"""A convex function $\Omega$ of weights on a polytope: subclass it and define `conjugate`.

    $$\Omega^*(z) = \max_p\; p \cdot z - \Omega(p), \qquad
    \nabla \Omega^*(z) = \mathrm{argmax}_p\; p \cdot z - \Omega(p)$$

    Everything that a memory needs follows from $\Omega^*$: its energy by value, its weights and
    its unit step by gradient. A memory of your own, whose weights are at most `top` each
    ($\Omega$ is half a square, on the box $0 \le p \le$ `top`):

    ```python
    class Capped(am.continuous.AbstractRegularizer):
        top: float = eqx.field(static=True, default=0.5)

        def conjugate(self, z):
            p = jnp.clip(z, 0.0, self.top)
            return jnp.sum(p * (z - 0.5 * p))

    memory = am.HopfieldFenchelYoung(Xi, beta=2.0, regularizer=Capped())
    ```

    It is convex in the scores, or energies may rise; and of finite scores it is finite.
    """

    __repr__ = show.text

    @abc.abstractmethod
    def conjugate(self, z: Float[Array, " K"]) -> Scalar:
        r"""The largest value $\Omega^*$ of a regularised sum of scores, convex in them.

        **Arguments:**

        - `z`: a score for each pattern.

        **Returns:** a scalar, differentiable.
        """

    @hook
    def argmax(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """The weights at which it is reached: the gradient of `conjugate`.

        **Arguments:**

        - `z`: a score for each pattern.

        **Returns:** a weight for each pattern.
        """
        return jax.grad(self.conjugate)(z)

    @hook
    def conjugate_at_zero(self, z: Float[Array, " K"]) -> Scalar:
        """`conjugate` at scores of 0, as many as in `z`: the constant of an energy."""
        return self.conjugate(jnp.zeros_like(z))

    @hook
    def margin(self) -> Scalar:
        r"""The gap of scores from which on the best choice takes all: then weights are 0 and 1.

        Of those that choose one pattern, the gap to the next score; of those that choose several,
        for every pattern that another choice exchanges. Infinite where weights are never 0.
        """
        return jnp.asarray(jnp.inf)

    @hook
    def check(self, K: int) -> None:
        """Raise `ValueError` if it does not fit `K` patterns."""
        del K


class Softmax(AbstractRegularizer):
    r"""The negative entropy, whose weights are the softmax: those of `ModernHopfield`.

    $$\Omega(p) = \sum_\mu p_\mu \log p_\mu, \qquad \Omega^*(z) = \log \sum_\mu e^{z_\mu}$$

    On the simplex. Every pattern has a weight, so that none is retrieved exactly.
    """

    def conjugate(self, z: Float[Array, " K"]) -> Scalar:
        """The log-sum-exp."""
        return jax.nn.logsumexp(z)

    def argmax(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """The softmax."""
        return jax.nn.softmax(z)


def _alpha_field(
    inside: Callable[[Array], Array], must: str, cure: str = ""
) -> Callable[[ScalarLike], Array]:
    """A converter of a field to a scalar in some range."""

    def convert(alpha: ScalarLike) -> Array:
        alpha = checks.as_float(alpha, "alpha")
        if alpha.ndim:
            raise ValueError(f"alpha: must be a scalar; shape {alpha.shape} came.")
        if checks.is_concrete(alpha):
            checks.require(
                alpha, ~inside(alpha), f"alpha: must {must}; {float(alpha):.4g} came.{cure}"
            )
        return alpha

    return convert


entmax_alpha = _alpha_field(
    lambda alpha: (alpha >= 1) & (alpha <= 2), "lie in [1, 2], from softmax to sparsemax"
)
normmax_alpha = _alpha_field(
    lambda alpha: (alpha > 1) & jnp.isfinite(alpha),
    "be finite and above 1, the power of a norm",
    " Near 1 the weights are those of the largest score alone: 1.01 will do.",
)


class Entmax(AbstractRegularizer):
    r"""The negative Tsallis entropy, from softmax to sparsemax.

    $$\Omega(p) = \frac{1}{\alpha(\alpha-1)} \Big(\sum_\mu p_\mu^\alpha - 1\Big)$$

    On the simplex. `argmax` is `entmax`.

    **Arguments:**

    - `alpha`: sparsity, 1 to 2; trainable.

    **Raises:** `ValueError` for an `alpha` out of range.

    **Reference:** Peters, Niculae and Martins 2019; Santos et al. 2024 (arXiv 2402.13725).
    """

    alpha: Scalar = eqx.field(converter=entmax_alpha, default=1.5)

    def conjugate(self, z: Float[Array, " K"]) -> Scalar:
        """See `AbstractRegularizer`; it has a derivative in `alpha`, too."""
        return conjugate(z, self.alpha.astype(z.dtype))

    def argmax(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """The weights: many are exactly 0 where `alpha` is above 1."""
        return entmax(z, self.alpha)

    def conjugate_at_zero(self, z: Float[Array, " K"]) -> Scalar:
        """In closed form."""
        alpha = self.alpha.astype(z.dtype)
        return largest_score(z.size, alpha) / alpha

    def margin(self) -> Scalar:
        r"""$1 / (\alpha - 1)$."""
        return 1 / (self.alpha - 1)


class Sparsemax(AbstractRegularizer):
    r"""Half the square: weights are the nearest point of the simplex, without a parameter.

    $$\Omega(p) = \frac12 (\|p\|^2 - 1)$$

    **Reference:** Martins and Astudillo 2016.
    """

    def conjugate(self, z: Float[Array, " K"]) -> Scalar:
        """See `AbstractRegularizer`."""
        return subset_conjugate(z, 1)

    def argmax(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """The nearest point of the simplex."""
        return subset(z, 1)

    def conjugate_at_zero(self, z: Float[Array, " K"]) -> Scalar:
        """In closed form."""
        return subset_at_zero(z, 1)

    def margin(self) -> Scalar:
        """A gap of 1, in units of one over beta."""
        return jnp.ones(())


class Normmax(AbstractRegularizer):
    r"""A norm: few patterns, and of nearly equal weights.

    $$\Omega(p) = \Big(\sum_\mu p_\mu^\alpha\Big)^{1/\alpha} - 1$$

    On the simplex. `argmax` is `normmax`. Its margin is 1 whatever `alpha` is.

    **Arguments:**

    - `alpha`: the power, above 1; trainable. The larger, the nearer to uniform are weights that
      are not 0.

    **Raises:** `ValueError` for an `alpha` out of range.

    **Reference:** Blondel, Martins and Niculae 2020; Santos et al. 2024 (arXiv 2411.08590).
    """

    alpha: Scalar = eqx.field(converter=normmax_alpha, default=2.0)

    def conjugate(self, z: Float[Array, " K"]) -> Scalar:
        """See `AbstractRegularizer`; it has a derivative in `alpha`, too."""
        return normmax_conjugate(z, self.alpha.astype(z.dtype))

    def argmax(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """The weights: many are exactly 0."""
        return normmax(z, self.alpha)

    def conjugate_at_zero(self, z: Float[Array, " K"]) -> Scalar:
        """In closed form."""
        alpha = self.alpha.astype(z.dtype)
        return -jnp.expm1((1 / alpha - 1) * jnp.log(z.size).astype(z.dtype))

    def margin(self) -> Scalar:
        """A gap of 1, in units of one over beta."""
        return jnp.ones((), self.alpha.dtype)


def count_field(k: IntLike) -> int:
    """The converter of a number of patterns that are retrieved together."""
    return checks.integer(k, 1, "k")


def check_count(k: int, K: int) -> None:
    """Raise unless there are as many patterns as are to be retrieved together."""
    if k > K:
        raise ValueError(
            f"k: must be at most the number of stored patterns, {K}; {k} came. Take a smaller k, "
            "or store more patterns in Xi."
        )


def subset_at_zero(z: Array, k: int) -> Array:
    """The conjugate of half the square at scores of 0, where all weights are `k / K`."""
    return jnp.asarray(0.5 * k * (1 - k / z.size), z.dtype)


class KSubsets(AbstractRegularizer):
    r"""Half the square on all ways to take `k` patterns: an association of them is one state.

    $$\Omega(p) = \frac12 (\|p\|^2 - k), \qquad 0 \le p_\mu \le 1, \quad \sum_\mu p_\mu = k$$

    The weights are the point of this polytope, whose vertices are the subsets of `k` patterns,
    that is nearest to the scores; the state that a memory retrieves is the *sum* of `k` patterns.
    Where the `k`-th score is 1 or more above the next, it is exactly that of the best `k`.

    **Arguments:**

    - `k`: how many patterns; 1 is `Sparsemax`.

    **Raises:** `TypeError` if `k` is no integer, `ValueError` if it is below 1; by the memory
    where there are fewer patterns.

    **Reference:** Santos et al. 2024 (arXiv 2402.13725), section 4, where SparseMAP is computed by
    an active set; the projection is exact by its threshold.
    """

    k: int = eqx.field(converter=count_field, static=True, default=2)

    def conjugate(self, z: Float[Array, " K"]) -> Scalar:
        """See `AbstractRegularizer`."""
        return subset_conjugate(z, self.k)

    def argmax(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """The weights, 0 to 1: they sum to `k`."""
        return subset(z, self.k)

    def conjugate_at_zero(self, z: Float[Array, " K"]) -> Scalar:
        """In closed form."""
        return subset_at_zero(z, self.k)

    def margin(self) -> Scalar:
        """A gap of 1, in units of one over beta."""
        return jnp.ones(())

    def check(self, K: int) -> None:
        """Raise `ValueError` where there are fewer than `k` patterns."""
        check_count(self.k, K)
