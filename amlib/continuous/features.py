r"""Random features of the Gaussian kernel, and the random directions that they are made of.

$$e^{-\frac12 \|a - b\|^2} = \mathbb{E}_w\, \phi_w(a) \cdot \phi_w(b), \qquad w \sim N(0, 1)^D$$

A direction is a function of its number and of a seed alone, so a matrix of them is never stored:
any block of its rows can be remade, on any device.
"""

import abc
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from amlib import _show as show
from amlib._types import Scalar, hook


class AbstractFeatures(eqx.Module):
    r"""How a state is seen along random directions. Subclass it and define three things.

    $$\phi_w(a) = e^{c(a)} f(w \cdot a, b), \qquad
    k(a, a') = \mathbb{E}_{w, b}\, \phi_w(a) \cdot \phi_w(a')$$

    A map of your own: normal directions, scaled by a random length of their own, make other kernels
    than the Gaussian, here one that falls as slowly as $1 / (1 + \frac12 \|a - b\|^2)$.

    ```python
    class RationalQuadratic(am.continuous.AbstractFeatures):
        width: ClassVar[int] = 2
        positive: ClassVar[bool] = False

        def __call__(self, h, phase):
            length = jnp.sqrt(-2 * jnp.log(1 - phase / (2 * jnp.pi)))
            return jnp.cos(length * h / jnp.sqrt(2)), jnp.sin(length * h / jnp.sqrt(2))
    ```
    """

    width: ClassVar[int]
    """How many numbers each direction keeps."""

    positive: ClassVar[bool]
    """Whether every number is positive, so that every sum has a logarithm."""

    __repr__ = show.text

    @abc.abstractmethod
    def __call__(
        self, h: Float[Array, " Y"], phase: Float[Array, " Y"]
    ) -> tuple[Float[Array, " Y"], ...]:
        r"""The features of one state.

        **Arguments:**

        - `h`: $w_y \cdot a$, how far the state lies along each direction.
        - `phase`: $b_y$, uniform in $(0, 2\pi)$, one for each direction.

        **Returns:** `width` arrays, whose products, summed over them and averaged over directions,
        are the kernel.
        """

    @hook
    def log_factor(self, square: Scalar) -> Scalar:
        r"""$c(a)$: the logarithm of what all features of a state have in common.

        **Arguments:**

        - `square`: $\|a\|^2$.

        **Returns:** a number; 0 unless a map says otherwise.
        """
        return jnp.zeros_like(square)


class SinCos(AbstractFeatures):
    r"""Cosine and sine: the features of the least variance, of two numbers a direction.

    $$f = (\cos h, \sin h)$$

    The kernel of `Y` directions has the standard deviation $(1 - \kappa^2) / \sqrt{2Y}$, none where
    two states are the same.

    **Reference:** Rahimi and Recht 2007; Hoover et al. 2024 (arXiv 2410.24153), `SinCosL2DAM`,
    whose random phase, which changes no kernel, is left out.
    """

    width: ClassVar[int] = 2
    positive: ClassVar[bool] = False

    def __call__(
        self, h: Float[Array, " Y"], phase: Float[Array, " Y"]
    ) -> tuple[Float[Array, " Y"], ...]:
        """Cosine and sine; see the class."""
        del phase
        return cos_sin(h)


class Cos(AbstractFeatures):
    r"""Cosines of random phases: one number a direction.

    $$f = \sqrt2 \cos(h + b)$$

    The kernel of `Y` directions has the standard deviation
    $\sqrt{(1 + \frac12\kappa^4 - \kappa^2) / Y}$, also where two states are the same.

    **Reference:** Rahimi and Recht 2007; Hoover et al. 2024, `CosL2DAM`.
    """

    width: ClassVar[int] = 1
    positive: ClassVar[bool] = False

    def __call__(
        self, h: Float[Array, " Y"], phase: Float[Array, " Y"]
    ) -> tuple[Float[Array, " Y"], ...]:
        """The cosine; see the class."""
        return (math.sqrt(2) * cos_sin(h + phase)[0],)


class Exp(AbstractFeatures):
    r"""Exponentials: positive, one number a direction.

    $$f = e^h, \qquad c(a) = -\|a\|^2$$

    The variance of the kernel is $\kappa^2 (e^{\|a + b\|^2} - 1) / Y$: small for far states, and
    beyond use once states are a few units long. Where they can be, subtract their mean.

    **Reference:** Choromanski et al. 2021; Hoover et al. 2024, `ExpL2DAM`.
    """

    width: ClassVar[int] = 1
    positive: ClassVar[bool] = True

    def __call__(
        self, h: Float[Array, " Y"], phase: Float[Array, " Y"]
    ) -> tuple[Float[Array, " Y"], ...]:
        """The exponential; see the class."""
        del phase
        return (jnp.exp(h),)

    def log_factor(self, square: Scalar) -> Scalar:
        """Minus the squared norm; see the class."""
        return -square


class ExpExp(AbstractFeatures):
    r"""Exponentials both ways: positive, two numbers a direction.

    $$f = \frac{1}{\sqrt2} (e^h, e^{-h}), \qquad c(a) = -\|a\|^2$$

    The variance of the kernel is $\frac12 \kappa^2 (1 - e^{-\|a + b\|^2})^2 e^{\|a+b\|^2} / Y$,
    less than half that of `Exp`.

    **Reference:** Choromanski et al. 2021; Hoover et al. 2024, `ExpExpL2DAM`.
    """

    width: ClassVar[int] = 2
    positive: ClassVar[bool] = True

    def __call__(
        self, h: Float[Array, " Y"], phase: Float[Array, " Y"]
    ) -> tuple[Float[Array, " Y"], ...]:
        """Both exponentials; see the class."""
        del phase
        return math.sqrt(0.5) * jnp.exp(h), math.sqrt(0.5) * jnp.exp(-h)

    def log_factor(self, square: Scalar) -> Scalar:
        """Minus the squared norm; see the class."""
        return -square


# -- random directions -----------------------------------------------------------------------------

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PHASE = 2**32 - 1  # a counter that no unit has


def directions(
    seed: UInt32[Array, "2"], y: UInt32[Array, " Y"], D: int
) -> tuple[Float[Array, "Y D"], Float[Array, " Y"]]:
    r"""Directions of given numbers, and their phases: the same for ever, whatever the blocks.

    Each pair of units of each direction has a counter of its own. They are drawn in float32, so
    that a memory of another precision has the same ones.

    **Arguments:**

    - `seed`: two integers.
    - `y`: the numbers of the directions.
    - `D`: how many units a direction has.

    **Returns:** normal directions, and phases uniform in $(0, 2\pi)$.
    """
    pairs = jnp.arange((D + 1) // 2, dtype=jnp.uint32)
    one, two = _threefry(seed, y[:, None], pairs[None])
    radius = jnp.sqrt(-2 * jnp.log(_uniform(one)))  # Box and Muller 1958
    cos, sin = cos_sin(2 * math.pi * _uniform(two))
    w = jnp.concatenate([radius * cos, radius * sin], axis=1)[:, :D]
    phase, _ = _threefry(seed, y, jnp.full_like(y, _PHASE))
    return w, 2 * math.pi * _uniform(phase)


def _uniform(bits: Array) -> Array:
    """Uniform in (0, 1), neither of which comes."""
    return ((bits >> 9).astype(jnp.float32) + 0.5) * 2**-23


def _threefry(seed: Array, x0: Array, x1: Array) -> tuple[Array, Array]:
    """Threefry-2x32 of 20 rounds (Salmon et al. 2011), the bits of `jax.random`.

    Written out, XLA joins it with what is made of the bits: on a CPU its own takes ten times as
    long. And what a memory has stored does not depend on how `jax.random` counts.
    """
    keys = (seed[0], seed[1], seed[0] ^ seed[1] ^ 0x1BD11BDA)
    x0, x1 = x0 + keys[0], x1 + keys[1]
    shape = jnp.broadcast_shapes(x0.shape, x1.shape)
    x0, x1 = jnp.broadcast_to(x0, shape), jnp.broadcast_to(x1, shape)
    for i in range(5):
        for turn in _ROTATIONS[i % 2]:
            x0 = x0 + x1
            x1 = x0 ^ ((x1 << turn) | (x1 >> (32 - turn)))
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + (i + 1)
    return x0, x1


@jax.custom_jvp
def cos_sin(h: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Cosine and sine of an array, for one reduction of the angle.

    In float32 by the polynomials of Cephes (Moshier 1992), within 1e-7 up to angles of 8,192. On a
    CPU JAX 0.10 calls its own for each number, which takes twenty times as long.
    """
    if h.dtype != jnp.float32:
        return jnp.cos(h), jnp.sin(h)
    q = jnp.round(h * (2 / math.pi))
    r = ((h - q * 1.5703125) - q * 4.8375129699707031e-4) - q * 7.54978995489188216e-8
    s = r * r
    sin = r + r * s * (-1.6666654611e-1 + s * (8.3321608736e-3 - s * 1.9515295891e-4))
    tail = 4.166664568298827e-2 + s * (-1.388731625493765e-3 + s * 2.443315711809948e-5)
    cos = 1 - 0.5 * s + s * s * tail
    n = q.astype(jnp.int32)
    odd = (n & 1) == 1
    cos, sin = jnp.where(odd, sin, cos), jnp.where(odd, cos, sin)
    return jnp.where(((n + 1) & 2) != 0, -cos, cos), jnp.where((n & 2) != 0, -sin, sin)


@cos_sin.defjvp
def _(primals, tangents):
    cos, sin = cos_sin(*primals)
    (t,) = tangents
    return (cos, sin), (-sin * t, cos * t)
