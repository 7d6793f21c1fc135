"""Interaction functions of memories for sequences: how an overlap becomes a pull."""

import abc
import math
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from amlib import _checks as checks, _show as show
from amlib._types import Scalar, hook


class AbstractInteraction(eqx.Module):
    """How strongly a pattern pulls, by its overlap with the state. Subclass it and call it.

    ```python
    class Rectified(am.AbstractInteraction):
        def __call__(self, m, N):
            return jnp.maximum(m, 0) ** 3
    ```

    Only the sign of the summed pull moves a unit, so a function may be scaled by any positive
    number. Where floats cannot hold it, define `scaled` as well.
    """

    __repr__ = show.text

    @abc.abstractmethod
    def __call__(self, m: Float[Array, "..."], N: int) -> Float[Array, "..."]:
        """The pull of patterns.

        **Arguments:**

        - `m`: overlaps, in [-1, 1].
        - `N`: how many units a state has.

        **Returns:** $f(m)$, one for each overlap.
        """

    @hook
    def scaled(self, h: Float[Array, "..."], N: int) -> tuple[Float[Array, "..."], Scalar]:
        r"""The same in a form that floats can hold, over one factor for all.

        $$f\left(\frac{h}{N-1}\right) = v\, e^{c}$$

        **Arguments:**

        - `h`: $\sum_{j \ne i} \xi_j x_j$, what the other $N - 1$ units agree in: an integer of
          the parity of $N - 1$ for a state of spins.
        - `N`: how many units a state has.

        **Returns:** `v`, which should not exceed the order of one, and `c`.
        """
        return self(h / (N - 1), N), jnp.zeros((), h.dtype)


def _degree(d: Any) -> int:
    return checks.integer(d, 1, "PolynomialInteraction: d")


class PolynomialInteraction(AbstractInteraction):
    r"""The powers of an overlap, $f(m) = m^d$.

    $d = 1$ is SeqNet, the classical temporal association; larger degrees are the polynomial
    DenseNet. Even degrees take a pattern and its inverse for the same.

    **Arguments:**

    - `d`: the degree, at least 1.

    **Raises:** `TypeError` if `d` is no integer, `ValueError` for `d < 1`.

    **Reference:** Chaudhry et al. 2023 (arXiv 2306.04532); $d = 1$: Sompolinsky and Kanter 1986.
    """

    d: int = eqx.field(static=True, converter=_degree, default=1)

    def __call__(self, m: Float[Array, "..."], N: int) -> Float[Array, "..."]:
        """$m^d$; it underflows where `scaled` does not."""
        del N
        return m**self.d

    def scaled(self, h: Float[Array, "..."], N: int) -> tuple[Float[Array, "..."], Scalar]:
        """See `AbstractInteraction`; the largest overlap is the unit, or a power of two above it.

        With a power of two sums of small integers stay exact, and so do ties of their signs.
        """
        top = jnp.max(jnp.abs(h))
        if self.d <= 32:  # (1/2)^32 is far from the end of float32
            unit = jnp.ldexp(jnp.ones((), h.dtype), jnp.frexp(top)[1])
        else:
            unit = jnp.where(top > 0, top, 1)
        return (h / unit) ** self.d, self.d * (jnp.log(unit) - math.log(max(N - 1, 1)))


class ExponentialInteraction(AbstractInteraction):
    r"""The exponential of an overlap, $f(m) = e^{\beta (N - 1)(m - 1)}$.

    The largest overlap outweighs all others together: the exponential DenseNet, whose capacity
    grows exponentially with $N$.

    **Arguments:**

    - `beta`: inverse temperature, > 0; 1 in the paper.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar.

    **Reference:** Chaudhry et al. 2023 (arXiv 2306.04532), with $\beta = 1$.
    """

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)

    def __call__(self, m: Float[Array, "..."], N: int) -> Float[Array, "..."]:
        """The exponential; of most overlaps it underflows, where `scaled` does not."""
        return jnp.exp(self.beta.astype(m.dtype) * (N - 1) * (m - 1))

    def scaled(self, h: Float[Array, "..."], N: int) -> tuple[Float[Array, "..."], Scalar]:
        """See `AbstractInteraction`; the largest value is 1."""
        beta = self.beta.astype(h.dtype)
        top = jnp.max(h)
        return jnp.exp(beta * (h - top)), beta * (top - (N - 1))
