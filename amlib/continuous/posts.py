r"""Post-transformations: what a memory does with the patterns that it read out.

Each is the gradient of a convex function $L$ (its Lagrangian), and so the answer to a problem, with
the conjugate $\Psi$ of $L$ as its convex part of an energy:

$$\mathrm{post}(z) = \nabla L(z) = \mathrm{argmax}_x\; x \cdot z - \Psi(x), \qquad \Psi = L^*$$
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from amlib import _checks as checks, _show as show
from amlib._types import Scalar, hook
from amlib.descent.problems import half_square
from amlib.spaces import AbstractReals, Reals


class AbstractPost(eqx.Module):
    r"""A post-transformation: subclass it and define the map, its convex part, and its domain.

    ```python
    class Rectified(am.continuous.AbstractPost):
        def __call__(self, z):
            return jnp.maximum(z, 0)

        def convex(self, x):
            return 0.5 * jnp.sum(x * x)

        def project(self, x):
            return jnp.maximum(x, 0)
    ```
    """

    solid: ClassVar[bool] = True
    """Whether the domain has an interior, in which a state can move in all directions."""

    __repr__ = show.text

    @abc.abstractmethod
    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""The map $\nabla L$.

        **Arguments:**

        - `z`: a sum of patterns, in the shape of a state.

        **Returns:** a state of the domain.
        """

    @abc.abstractmethod
    def convex(self, x: Float[Array, "*shape"]) -> Scalar:
        r"""The convex part $\Psi$ of an energy: finite on the domain.

        **Arguments:**

        - `x`: a state.

        **Returns:** a scalar.
        """

    @abc.abstractmethod
    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""The nearest state of the domain, where $\Psi$ is finite: starts are moved there.

        **Arguments:**

        - `x`: a state.

        **Returns:** a state of the domain.
        """

    @hook
    def space(self) -> AbstractReals:
        """The domain as the space of a memory's states."""
        return Domain(self)


class Domain(AbstractReals):
    """The states of which the convex part of a post-transformation is finite.

    **Arguments:**

    - `post`: the post-transformation.
    """

    post: AbstractPost

    @property
    def solid(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether it has an interior."""
        return self.post.solid

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state of the domain."""
        return self.post.project(x)


class Identity(AbstractPost):
    r"""The patterns as they were read: $\Psi(x) = L(x) = \frac12 \|x\|^2$, on all reals."""

    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The same."""
        return z

    def convex(self, x: Float[Array, "*shape"]) -> Scalar:
        """Half the squared norm."""
        return half_square(x)

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state itself."""
        return x

    def space(self) -> AbstractReals:
        """The reals, all of them."""
        return Reals()


class UnitSphere(AbstractPost):
    r"""On the sphere of radius 1.

    $$\mathrm{post}(z) = \frac{z}{\|z\|}, \qquad L(z) = \|z\|, \qquad
    \Psi(x) = 0 \;\text{for}\; \|x\| \le 1, \;\text{else}\; \infty$$

    The domain is the ball; a recall ends on the sphere, unless all scores count the same there.
    Of `z` = 0 it is 0, a subgradient.

    **Reference:** Santos et al. 2024 (arXiv 2411.08590), section 3.
    """

    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The direction."""
        return _unit(z, 0.0)

    def convex(self, x: Float[Array, "*shape"]) -> Scalar:
        """0 in the ball but for rounding, infinite outside."""
        return jnp.where(_outside(x, 1.0), jnp.inf, 0.0).astype(x.dtype)

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state of the ball."""
        return _into_ball(x, 1.0)


class LayerNorm(AbstractPost):
    r"""Layer normalisation over all units of the state.

    $$\mathrm{post}(z) = \gamma \frac{z - \bar z}{\sqrt{\mathrm{var}(z) + \epsilon}} + \delta$$

    $$L(z) = \gamma D \sqrt{\mathrm{var}(z) + \epsilon} + \delta \cdot z, \qquad
    \Psi(x) = -\sqrt{D \epsilon}\, \sqrt{\gamma^2 D - \|x - \delta\|^2}$$

    The domain is a ball of radius $\gamma \sqrt D$ around $\delta$ in the plane of mean 0; the
    convex part is that of the nearest state of the plane, infinite outside the ball.

    **Arguments:**

    - `gamma`: scale, > 0; trainable.
    - `delta`: shift, a scalar or of the shape of a state; trainable.
    - `eps`: $\epsilon$, >= 0; not trained. Of a constant `z` with 0 here it is $\delta$, a
      subgradient.

    **Raises:** `ValueError` for `gamma` not above 0 or `eps` below it.

    **Reference:** Santos et al. 2024 (arXiv 2411.08590), section 3; $L$ is the Lagrangian of the
    layer in Hoover et al. 2023 (arXiv 2302.07253).
    """

    solid: ClassVar[bool] = False

    gamma: Scalar = eqx.field(converter=checks.positive_field("gamma"), default=1.0)
    delta: Float[Array, "..."] = eqx.field(
        converter=lambda d: checks.as_float(d, "delta"), default=0.0
    )
    eps: float = eqx.field(static=True, default=1e-5)

    def __check_init__(self):
        checks.at_least(self.eps, 0.0, "LayerNorm: eps")

    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The normalised, scaled and shifted state."""
        radius, delta = self._sizes(z)
        return radius * _unit(_centred(z), z.size * self.eps) + delta

    def convex(self, x: Float[Array, "*shape"]) -> Scalar:
        """See the class."""
        radius, delta = self._sizes(x)
        u = _centred(x - delta)
        left = radius * radius - jnp.sum(u * u)
        inside = left > 0
        root = jnp.where(inside, jnp.sqrt(jnp.where(inside, left, 1.0)), 0.0)
        part = -jnp.sqrt(jnp.asarray(x.size * self.eps, x.dtype)) * root
        return jnp.where(_outside(u, radius), jnp.inf, part)

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state of the domain."""
        radius, delta = self._sizes(x)
        return _into_ball(_centred(x - delta), radius) + delta

    def _sizes(self, x: Array) -> tuple[Array, Array]:
        """The radius of the domain, and its centre for a state."""
        try:
            delta = jnp.broadcast_to(self.delta.astype(x.dtype), x.shape)
        except ValueError as err:
            raise ValueError(
                f"delta: must be a scalar or of the shape {x.shape} of a state; "
                f"{self.delta.shape} came."
            ) from err
        return self.gamma.astype(x.dtype) * x.size**0.5, delta


class Tanh(AbstractPost):
    r"""The hyperbolic tangent of each unit: states are activations in (-1, 1).

    $$\mathrm{post}(z) = \tanh(\beta z), \qquad L(z) = \frac1\beta \sum_i \log\cosh \beta z_i$$

    $$\Psi(x) = \frac{1}{2\beta} \sum_i (1 + x_i) \log(1 + x_i) + (1 - x_i) \log(1 - x_i)$$

    **Arguments:**

    - `beta`: gain, > 0, in units of one over a pattern; trainable.

    **Raises:** `ValueError` if `beta` is not a positive scalar.

    **Reference:** Santos et al. 2024 (arXiv 2411.08590), section 3; the units of Hopfield 1984.
    """

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)

    def __call__(self, z: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The hyperbolic tangent."""
        return jnp.tanh(self.beta.astype(z.dtype) * z)

    def convex(self, x: Float[Array, "*shape"]) -> Scalar:
        """Minus the entropy of the units but for a constant; infinite where one is beyond 1."""
        parts = _times_log(x) + _times_log(-x)
        parts = jnp.where(jnp.abs(x) > 1, jnp.inf, 0.5 * parts)
        return jnp.sum(parts) / self.beta.astype(x.dtype)

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state with all units in [-1, 1]."""
        return jnp.clip(x, -1.0, 1.0)


def _times_log(x: Array) -> Array:
    """`(1 + x) log(1 + x)`, 0 at -1."""
    inside = x > -1
    safe = jnp.where(inside, x, 0.0)
    return jnp.where(inside, (1 + safe) * jnp.log1p(safe), 0.0)


def _centred(z: Array) -> Array:
    """The state less its mean; twice, since the first mean of large numbers is rounded."""
    z = z - jnp.mean(z)
    return z - jnp.mean(z)


def _unit(z: Array, smooth: float) -> Array:
    """`z` by its norm, at 0 too; the norm is the root of its square and of `smooth`."""
    largest = jnp.max(jnp.abs(z))
    zero = largest == 0
    scale = jnp.where(zero, 1.0, largest)
    y = z / scale  # squares of small numbers would vanish
    norm = jnp.sqrt(jnp.sum(y * y) + smooth / scale / scale + jnp.where(zero, 1.0, 0.0))
    return y / norm


def _outside(u: Array, radius: Array | float) -> Array:
    """Whether a vector is longer than `radius` beyond rounding."""
    slack = 1 + 100 * float(jnp.finfo(u.dtype).eps)
    return jnp.sum(u * u) > radius * radius * slack


def _into_ball(u: Array, radius: Array | float) -> Array:
    """The nearest vector of at most this norm."""
    square = jnp.sum(u * u)
    outside = square > radius * radius
    shrink = radius / jnp.sqrt(jnp.where(outside, square, 1.0))
    return jnp.where(outside, shrink * u, u)
