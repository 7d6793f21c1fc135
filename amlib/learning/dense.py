"""Reconstructors without hidden units: learned couplings, and memories that compete."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int

from amlib import _checks as checks
from amlib._types import Key, Scalar, ScalarLike
from amlib.learning._epochs import parameters
from amlib.learning.reconstructors import SPACES, AbstractOverlapReconstructor, squash


def count_parameters(model: eqx.Module) -> int:
    """How many trainable numbers a model has; of symmetric couplings each counts once.

    **Arguments:**

    - `model`: any Equinox module.

    **Returns:** the number of free parameters.
    """
    if isinstance(model, DenseReconstructor):
        D = model.shape[0]
        return D * (D - 1) // 2 + (0 if model.bias is None else D)
    return sum(a.size for a in jax.tree.leaves(eqx.filter(model, parameters(model))))


class DenseReconstructor(AbstractOverlapReconstructor):
    r"""All units see all others: the couplings of a Hopfield network, learned.

    $$h(x) = J x + b, \quad J = \tfrac12 (A + A^\top) \circ (1 - I), \qquad
    E(x) = -\tfrac12 x^\top J x - b \cdot x$$

    The couplings are symmetric with a zero diagonal for any $A$, so that training needs no
    projection, and no unit can copy itself. Flips one at a time never raise the energy;
    flipping all at once can end on a 2-cycle, which relaxation detects.

    **Arguments:**

    - `size`: number of units.
    - `bias`: whether there is a field $b$ on each unit; bits (0/1) need it.
    - `states`: `"spins"` (-1/+1) or `"bits"` (0/1).
    - `key`: draws small random couplings; without one they begin at 0, which learns as well and
      recalls better: what is random in the couplings is noise to the recall.

    **Raises:** `ValueError` for a size below 1 and unknown states.

    **Reference:** Hopfield 1982, eq. 7; learned by reconstruction as in MacKay 2003, section
    42.9, but on the soft reconstruction and with an L1 loss.
    """

    kernel: Float[Array, "D D"]
    bias: Float[Array, " D"] | None
    shape: tuple[int, ...] = eqx.field(static=True)
    states: str = eqx.field(static=True)

    def __init__(
        self, size: Any, *, bias: bool = True, states: str = "spins", key: Key | None = None
    ):
        D = checks.integer(size, 1, "DenseReconstructor: size")
        checks.choice(states, SPACES, "DenseReconstructor: states")
        dtype = jnp.result_type(float)
        scale = math.sqrt(3 / D)
        self.kernel = (
            jnp.zeros((D, D), dtype)
            if key is None
            else jr.uniform(key, (D, D), dtype, -scale, scale)
        )
        self.bias = jnp.zeros((D,), dtype) if bias else None
        self.shape, self.states = (D,), states

    @property
    def J(self) -> Float[Array, "D D"]:
        """The couplings: symmetric, zero on the diagonal."""
        D = self.kernel.shape[0]
        J = 0.5 * (self.kernel + self.kernel.T)
        return jnp.where(jnp.eye(D, dtype=bool), jnp.zeros((), J.dtype), J)

    def field(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """The field $J x + b$."""
        h = x @ self.J
        return h if self.bias is None else h + self.bias

    def soft(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        r"""$\tanh h(x)$ for spins, $\frac12(1 + \tanh h(x))$ for bits."""
        return squash(self.field(x), self.states)

    def weights(self) -> Float[Array, "D D"]:
        """The couplings."""
        return self.J

    def read(self, overlaps: Float[Array, " D"], i: Int[Array, ""] | int) -> Scalar:
        """The field of one unit."""
        return overlaps[i] if self.bias is None else overlaps[i] + self.bias[i]

    def energy(self, x: Float[Array, " D"]) -> Scalar:
        """The energy of a Hopfield network."""
        pairs = -0.5 * jnp.sum(x * (x @ self.J))
        return pairs if self.bias is None else pairs - jnp.dot(self.bias, x)


class ModernDenseReconstructor(AbstractOverlapReconstructor):
    r"""Memories that compete by a softmax: given, or learned.

    $$h(x) = \Xi^\top \mathrm{softmax}(\Xi x / T), \qquad
    E(x) = -T \log \sum_\mu e^{\xi_\mu \cdot x / T}$$

    for spins. For bits the competition is by distance, and the field is measured from the
    middle, which makes it the same memory:

    $$h(x) = \Xi^\top \mathrm{softmax}\big((\Xi x - \tfrac12 \|\xi\|^2) / T\big) - \tfrac12$$

    The energy is concave, so that any set of units may be set by the sign of their fields at
    once without raising it.

    **Arguments:**

    - `Xi`: the patterns to begin with, one per row, `(K, D)`. Or give `K` and `size`: so many
      random memories, to be learned.
    - `temperature`: $T$, in units of an overlap, > 0. It is not trained. With given patterns a
      small one serves; learning wants one large enough that several memories answer at first.
    - `states`: `"spins"` (-1/+1) or `"bits"` (0/1).
    - `key`: for random memories.

    **Raises:** `ValueError` unless there are either patterns or their numbers, and a key for the
    latter; for a temperature not above 0; for patterns that are no matrix or not finite. Warns of
    patterns of 0 and 1 alone where states are spins.

    **Reference:** Ramsauer et al. 2021, eq. 3, on binary states.
    """

    Xi: Float[Array, "K D"]
    temperature: Scalar = eqx.field(metadata={"trained": False})
    shape: tuple[int, ...] = eqx.field(static=True)
    states: str = eqx.field(static=True)

    def __init__(
        self,
        Xi: ArrayLike | None = None,
        *,
        K: int | None = None,
        size: int | None = None,
        temperature: ScalarLike = 0.1,
        states: str = "spins",
        key: Key | None = None,
    ):
        where = "ModernDenseReconstructor"
        checks.choice(states, SPACES, f"{where}: states")
        if Xi is None:
            if K is None or size is None or key is None:
                raise ValueError(
                    f"{where}: needs patterns Xi, or K, size and key for memories to be learned; "
                    "some are missing. Pass patterns, or K=100, size=784, key=jr.key(0)."
                )
            shape = (
                checks.integer(K, 1, f"{where}: K"),
                checks.integer(size, 1, f"{where}: size"),
            )
            self.Xi = 0.1 * jr.normal(key, shape, jnp.result_type(float))
            if states == "bits":
                self.Xi = self.Xi + 0.5
        else:
            if K is not None or size is not None:
                raise ValueError(f"{where}: patterns Xi came with K or size; drop one of the two.")
            self.Xi = checks.as_float(Xi, f"{where}: Xi")
            if states == "spins":
                checks.warn_of_bits(self.Xi, f"{where}: Xi")
        self.temperature = checks.as_float(temperature, f"{where}: temperature").astype(
            self.Xi.dtype
        )
        self.shape, self.states = self.Xi.shape[1:], states

    def __check_init__(self):
        if self.Xi.ndim != 2:
            raise ValueError(
                f"Xi: must have shape (K, D); {self.Xi.shape} came. "
                "Pictures are flattened by Xi.reshape(K, -1), one pattern is Xi[None]."
            )
        checks.pattern_matrix(self.Xi)
        if self.temperature.ndim:
            raise ValueError(f"temperature: must be a scalar; shape {self.temperature.shape} came.")
        if checks.is_concrete(self.temperature):
            checks.positive(self.temperature, "temperature")

    def _scores(self, overlaps: Array) -> Array:
        """How well each memory fits, over the temperature."""
        if self.states == "bits":
            overlaps = overlaps - 0.5 * jnp.sum(self.Xi**2, axis=1)
        return overlaps / lax.stop_gradient(self.temperature)

    def field(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """The average of the memories, weighted by how well they fit."""
        h = jax.nn.softmax(self._scores(self.Xi @ x)) @ self.Xi
        return h if self.states == "spins" else h - 0.5

    def weights(self) -> Float[Array, "K D"]:
        """The memories."""
        return self.Xi

    def read(self, overlaps: Float[Array, " K"], i: Int[Array, ""] | int) -> Scalar:
        """The field of one unit."""
        h = jnp.dot(jax.nn.softmax(self._scores(overlaps)), self.Xi[:, i])
        return h if self.states == "spins" else h - 0.5

    def soft(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """The average of the memories itself: it lies between the values of a unit already."""
        h = self.field(x)
        return h if self.states == "spins" else h + 0.5

    def energy(self, x: Float[Array, " D"]) -> Scalar:
        """The energy whose gradient is minus the field."""
        E = -lax.stop_gradient(self.temperature) * jax.nn.logsumexp(self._scores(self.Xi @ x))
        return E if self.states == "spins" else E + 0.5 * jnp.sum(x)
