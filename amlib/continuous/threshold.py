"""A memory of parts: patterns that are there or not, in any combination."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks
from amlib._compiled import in_full
from amlib._types import Scalar
from amlib.continuous.base import ContinuousAM
from amlib.descent.streaming import flat_rows, row_norms


def _theta_field(theta: ArrayLike | None) -> Array | None:
    return None if theta is None else checks.as_float(theta, "theta")


class ThresholdMemory(ContinuousAM):
    r"""The threshold dense memory: every combination of the patterns is a memory.

    $$E(x) = \frac12 \|x\|^2 - \sum_\mu \max(0,\, \xi_\mu \cdot x - \theta_\mu)$$

    Two layers, of which the hidden units fire above a threshold. The unit step is

    $$x \leftarrow \sum_\mu s_\mu \xi_\mu, \qquad s_\mu = \Theta(\xi_\mu \cdot x - \theta_\mu)$$

    so that a state is made of the patterns that it has enough of. The combination
    $x = \Xi^\top s$ of parts $s \in \{0, 1\}^K$ rests where $(\Xi \Xi^\top s)_\mu$ is above
    $\theta_\mu$ for the parts that are there, and not above it for the others. Of orthogonal
    patterns with $\theta_\mu = \frac12 \|\xi_\mu\|^2$, all $2^K$ do, all at the energy 0; of random
    spins over $\sqrt D$, 98 % do from $D \approx 20 K$ on, and all from about $4 K^2$ on (counted
    for $K$ = 8 and 12). A memory of $K$ hidden units thus has $2^K$ memories, where those with one
    winner, as `ModernHopfield`, have $K$. Use it for states that are put together from parts, and
    not for patterns that look alike: it recalls mixtures of these.

    **Arguments:**

    - `Xi`: stored patterns (the parts), see `ContinuousAM`.
    - `theta`: the thresholds, in units of a dot product: one for each pattern, or one for all;
      `None` means half of the squared norm of each. Trainable.

    **Raises:** `ValueError` if `theta` has another shape.

    **Reference:** Kafraj, Krotov and Latham 2026 (arXiv 2601.00984) for the threshold and what
    follows from it; Krotov and Hopfield 2021 for the energy of two such layers, from which this
    one is derived here (the visible units are linear). Scales may differ from the paper's.
    """

    unit_step: ClassVar[bool] = True

    theta: Float[Array, " K"] | Scalar | None = eqx.field(converter=_theta_field, default=None)

    def __check_init__(self):
        K = self.Xi.shape[0]
        if self.theta is not None and self.theta.shape not in ((), (K,)):
            raise ValueError(
                f"theta: must be one threshold, or have shape (K,) with one for each of the {K} "
                f"patterns in Xi; {self.theta.shape} came."
            )

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`."""
        return 0.5 * jnp.sum(x * x) - jnp.sum(jax.nn.relu(self._excess(x)))

    def parts(self, x: Shaped[ArrayLike, "*shape"]) -> Bool[Array, " K"]:
        """Which patterns a state has enough of: the hidden units that fire.

        **Arguments:**

        - `x`: a state: a query, or the end of a recall.

        **Returns:** one entry for each pattern.

        **Raises:** `ValueError` for a wrong shape.
        """
        return self._excess(type(self)._state(self, x, "parts", check=False)) > 0

    def compose(self, parts: Shaped[ArrayLike, " K"]) -> Float[Array, "*shape"]:
        """The state that is made of some patterns: their sum.

        **Arguments:**

        - `parts`: how much there is of each pattern: bools, or numbers.

        **Returns:** the state.

        **Raises:** `ValueError` for a wrong shape.
        """
        amounts = jnp.asarray(parts)
        if amounts.shape != self.Xi.shape[:1]:
            raise ValueError(
                f"compose: parts must have shape ({self.Xi.shape[0]},), one entry for each "
                f"pattern; {amounts.shape} came."
            )
        return jnp.tensordot(amounts.astype(self.Xi.dtype), self.Xi, 1)

    @in_full
    def _excess(self, x: Array) -> Array:
        """By how much each hidden unit is above its threshold."""
        rows = flat_rows(self.Xi)
        theta = 0.5 * row_norms(rows) if self.theta is None else self.theta
        return rows @ x.reshape(-1) - theta.astype(x.dtype)
