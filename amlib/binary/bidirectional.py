"""Bidirectional memories: pairs of patterns, each recalled from the other."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int8, Shaped

from amlib import _checks as checks, _heads as heads
from amlib._types import Scalar
from amlib.binary.base import AbstractBinaryAM
from amlib.binary.patterns import overlaps, state_dtype, stored_patterns, wide
from amlib.spaces import Spins


class AbstractBidirectional(AbstractBinaryAM):
    r"""A memory of pairs $(\xi_\mu, \eta_\mu)$. Subclass it and define `energy_of`.

    Its state is both parts in one, $s = (x, y)$. What is known of a pair, `known` makes a start and
    a mask of, and `recall` finds the rest:

    ```python
    memory = am.BidirectionalMemory(icons, names)
    s, clamp = memory.known(x=icons[3])
    x, y = memory.parts(memory.recall(s, clamp=clamp).x)  # y is names[3]
    ```

    **Arguments:**

    - `Xi`, `Eta`: the two patterns of each pair, one pair per row, usually -1/+1; of any shapes
      `(K, ...)`. Conversions as of `BinaryAM`; both in one dtype.

    **Raises:** `ValueError` if one has no pattern, fewer than two axes, or holds NaN or infinity,
    or if they hold unlike numbers of patterns; `TypeError` for two dtypes of floats.
    """

    Xi: Float[Array, "K *first"] | Int8[Array, "K *first"] = eqx.field(converter=stored_patterns)
    Eta: Float[Array, "K *second"] | Int8[Array, "K *second"] = eqx.field(converter=stored_patterns)

    def __check_init__(self):
        for name, patterns in (("Xi", self.Xi), ("Eta", self.Eta)):
            checks.pattern_matrix(patterns, name)
            if isinstance(self.space, Spins):
                checks.warn_of_bits(patterns, name)
        if len(self.Xi) != len(self.Eta):
            raise ValueError(
                f"Eta: must hold one pattern for each of the {len(self.Xi)} in Xi; "
                f"{len(self.Eta)} came."
            )
        if state_dtype(self.Xi) != state_dtype(self.Eta):
            raise TypeError(
                f"Eta: must have the dtype of Xi, {self.Xi.dtype}; {self.Eta.dtype} came. Convert "
                "one of them."
            )

    @abc.abstractmethod
    def energy_of(self, h: Float[Array, " K"], g: Float[Array, " K"]) -> Scalar:
        r"""The energy by the overlaps of both parts: the only method to write.

        **Arguments:**

        - `h`, `g`: $h_\mu = \xi_\mu \cdot x$ and $g_\mu = \eta_\mu \cdot y$.
        """

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: the units of both parts in a row."""
        N, M = self._sizes
        return jax.ShapeDtypeStruct((N + M,), state_dtype(self.Xi))

    @property
    def _sizes(self) -> tuple[int, int]:
        return math.prod(self.Xi.shape[1:]), math.prod(self.Eta.shape[1:])

    def energy(self, x: Float[Array, " units"]) -> Scalar:
        """The energy of a state, both parts in one."""
        N = self._sizes[0]
        of = lambda patterns, part: overlaps(patterns.reshape(len(patterns), -1), part)
        return self.energy_of(of(self.Xi, x[:N]), of(self.Eta, x[N:]))

    def known(
        self,
        x: Shaped[ArrayLike, "*first"] | None = None,
        y: Shaped[ArrayLike, "*second"] | None = None,
    ) -> tuple[Float[Array, " units"], Bool[np.ndarray, " units"]]:
        """A start for `recall` and its `clamp`, from what is known of a pair.

        **Arguments:**

        - `x`, `y`: the parts that are known. The units of one that is not begin at their lower
          value, -1 for spins.

        **Returns:** the state, and a mask of what is known.

        **Raises:** `ValueError` where nothing is known, for a wrong shape and other values.
        """
        if x is None and y is None:
            raise ValueError("known: x or y must be known; neither came.")
        struct, N = self.state_struct, self._sizes[0]
        given = ((x, self.Xi, "known: x"), (y, self.Eta, "known: y"))
        parts = [self._part(part, patterns, where) for part, patterns, where in given]
        first = np.arange(struct.shape[0]) < N
        mask = np.where(first, x is not None, y is not None)
        return jnp.concatenate(parts), mask

    def _part(self, part: ArrayLike | None, patterns: Array, where: str) -> Array:
        shape, dtype = patterns.shape[1:], self.state_struct.dtype
        if part is None:
            return jnp.full(math.prod(shape), self.space.low, dtype)
        part = self.space.asarray(part, where)
        checks.state_shape(part, shape, where)
        return self.space.check(part.astype(dtype), where).reshape(-1)

    def parts(
        self, s: Float[Array, " units"]
    ) -> tuple[Float[Array, "*first"], Float[Array, "*second"]]:
        """The two parts of a state, in the shapes of their patterns."""
        checks.state_shape(s, self.state_struct.shape, "parts")
        N = self._sizes[0]
        return s[:N].reshape(self.Xi.shape[1:]), s[N:].reshape(self.Eta.shape[1:])


class BidirectionalMemory(AbstractBidirectional):
    r"""Kosko's bidirectional associative memory, with Hebbian couplings.

    $$E(x, y) = -\sum_\mu (\xi_\mu \cdot x)(\eta_\mu \cdot y) = -x^\top W y, \qquad
    W = \sum_\mu \xi_\mu \eta_\mu^\top$$

    Units of one part do not see one another, so a sequential sweep is Kosko's update of one part
    and then of the other, $x = \operatorname{sgn}(W y)$ and $y = \operatorname{sgn}(W^\top x)$,
    where a unit that nothing pulls stays. A `HAM` of two layers with a `DenseSynapse` between
    them has the same energy of activations; with steep `TanhLayer`s it rests in the same states.
    It stores about as few pairs as the smaller part allows, and $(-\xi, -\eta)$ with every pair.

    **Arguments:**

    - `Xi`, `Eta`: see `AbstractBidirectional`.

    **Reference:** Kosko 1988, IEEE Trans. Syst. Man Cybern. 18, 49.
    """

    def energy_of(self, h: Float[Array, " K"], g: Float[Array, " K"]) -> Scalar:
        """See `AbstractBidirectional`."""
        return -jnp.sum(h * g)


class PolynomialBidirectional(AbstractBidirectional):
    r"""A dense memory of pairs with a polynomial energy.

    $$E(x, y) = -\sum_\mu F_n(\xi_\mu \cdot x + \eta_\mu \cdot y), \qquad
    F_n(h) = h^n \text{ or } \max(h, 0)^n$$

    which is `PolynomialDenseAM` of both parts in one. Each part also recalls itself, so for n = 2
    it is not Kosko's memory, which lacks the squares of both overlaps.

    **Arguments:**

    - `Xi`, `Eta`: see `AbstractBidirectional`.
    - `n`, `rectified`: see `PolynomialDenseAM`, also for the logarithmic form.

    **Reference:** Krotov and Hopfield 2016, eq. 2, over pairs.
    """

    n: int = eqx.field(static=True, converter=lambda n: heads.power(n, "PolynomialBidirectional"))
    rectified: bool = eqx.field(static=True, default=True)

    @property
    def log_form(self) -> bool:
        """Whether the energy is the logarithm of the published one."""
        largest = wide(self.state_struct.dtype)
        return heads.needs_logs(len(self.Xi), sum(self._sizes), self.n, largest)

    def energy_of(self, h: Float[Array, " K"], g: Float[Array, " K"]) -> Scalar:
        """See `AbstractBidirectional`."""
        return heads.polynomial(h + g, self.n, rectified=self.rectified, in_logs=self.log_form)


class ExponentialBidirectional(AbstractBidirectional):
    r"""A dense memory of pairs with an exponential energy.

    $$E(x, y) = -\frac{1}{\beta} \log \sum_\mu
    \exp\big(\beta\, (\xi_\mu \cdot x + \eta_\mu \cdot y)\big)$$

    which is `ExponentialDenseAM` of both parts in one: it stores a number of pairs that grows
    exponentially with the units of the part that is known.

    **Arguments:**

    - `Xi`, `Eta`: see `AbstractBidirectional`.
    - `beta`: inverse temperature of the sum over pairs, > 0; trainable.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar.

    **Reference:** Demircigil et al. 2017, eq. 5, under a logarithm, over pairs.
    """

    beta: Scalar = eqx.field(converter=lambda b: checks.as_float(b, "beta"), default=1.0)

    def __check_init__(self):
        heads.check_beta(self.beta)

    def energy_of(self, h: Float[Array, " K"], g: Float[Array, " K"]) -> Scalar:
        """See `AbstractBidirectional`."""
        return heads.exponential(h + g, self.beta)
