"""The binary memories of the literature. Each is an energy; recall comes with `BinaryAM`."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amlib import _checks as checks, _heads as heads
from amlib._compiled import in_full
from amlib._types import Scalar
from amlib.binary.base import AbstractBinaryAM, BinaryAM
from amlib.binary.patterns import overlaps, wide


class ClassicalHopfield(BinaryAM):
    r"""The classical Hopfield network with Hebbian couplings.

    $$E(x) = -\frac{1}{2} \sum_\mu (\xi_\mu \cdot x)^2$$

    No prefactor beyond the 1/2. It stores about $0.138 D$ random patterns, and the inverse
    $-\xi$ of each of them just as well.

    **Arguments:**

    - `Xi`: stored patterns, see `BinaryAM`.

    **Reference:** Hopfield 1982; in this form Krotov and Hopfield 2016, eq. 2 with $F = x^2/2$.
    """

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`; between $-K D^2 / 2$ and 0."""
        return -0.5 * jnp.sum(overlaps(self.Xi, x) ** 2)


class PolynomialDenseAM(BinaryAM):
    r"""Dense associative memory with a polynomial energy.

    $$E(x) = -\sum_\mu F_n(\xi_\mu \cdot x), \qquad F_n(h) = h^n \text{ or } \max(h, 0)^n$$

    It stores about $D^{n-1}$ random patterns. Even powers that are not rectified store $-\xi$
    with every $\xi$; the rectified ones do not.

    Where floats of the overlaps' precision cannot hold $K D^n$ (`log_form` is true: in float32
    from $n = 12$ on for $D = 2304$), the energy is the order-preserving

    $$E(x) = -\operatorname{sign}(S) \log(1 + |S|), \qquad S = \sum_\mu F_n(\xi_\mu \cdot x)$$

    evaluated in logarithms, which neither overflows nor loses the order of two states. (Only where
    two opposite overlaps cancel, under an odd power that is not rectified, rounding swallows what
    the smaller ones leave.) Descent is the same; Glauber dynamics then samples another law.

    **Arguments:**

    - `Xi`: stored patterns, see `BinaryAM`.
    - `n`: the power, an integer of at least 1.
    - `rectified`: whether negative overlaps count nothing.

    **Raises:** `ValueError` for `n < 1`, `TypeError` if `n` is no integer.

    **Reference:** Krotov and Hopfield 2016, eq. 2 and 3 (their polynomial and rectified
    polynomial energies, with no prefactor).
    """

    n: int = eqx.field(static=True, converter=lambda n: heads.power(n, "PolynomialDenseAM"))
    rectified: bool = eqx.field(static=True, default=True)

    @property
    def log_form(self) -> bool:
        """Whether the energy is the logarithm of the published one, see above."""
        K, D = self.Xi.shape[0], math.prod(self.Xi.shape[1:])
        return heads.needs_logs(K, D, self.n, wide(self.state_struct.dtype))

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`, in the published or the logarithmic form."""
        h = overlaps(self.Xi, x)
        return heads.polynomial(h, self.n, rectified=self.rectified, in_logs=self.log_form)


class ExponentialDenseAM(BinaryAM):
    r"""Dense associative memory with an exponential energy.

    $$E(x) = -\frac{1}{\beta} \log \sum_\mu \exp(\beta \, \xi_\mu \cdot x)$$

    The published energy is $-\sum_\mu \exp(\xi_\mu \cdot x)$, which overflows float32 from
    $D = 89$ on. This is its logarithm over $\beta$: it orders states the same way, so descent is
    the same; $\beta = 1$ is the published case. It stores a number of random patterns that grows
    exponentially with $D$.

    **Arguments:**

    - `Xi`: stored patterns, see `BinaryAM`.
    - `beta`: inverse temperature of the sum over patterns, > 0; trainable. Large values make the
      largest overlap win alone.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar.

    **Reference:** Demircigil et al. 2017, eq. 5, under a logarithm.
    """

    beta: Scalar = eqx.field(converter=lambda b: checks.as_float(b, "beta"), default=1.0)

    def __check_init__(self):
        heads.check_beta(self.beta)

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`; between $-D - \\log(K)/\\beta$ and $D$ for spin patterns."""
        return heads.exponential(overlaps(self.Xi, x), self.beta)


def _field(h: Any) -> Array | None:
    return None if h is None else checks.as_float(h, "h")


class BipolarIsing(AbstractBinaryAM):
    r"""An Ising model over spins, for any symmetric couplings.

    $$E(x) = -\frac{1}{2} x^\top J x - h \cdot x$$

    The diagonal of `J` adds a constant, $-\frac{1}{2}\operatorname{tr} J$. Updates compare
    energies and not local fields, as Krotov and Hopfield 2016 (eq. 4) define them, so the
    diagonal has no influence on recall and need not be zero.

    **Arguments:**

    - `J`: couplings, symmetric.
    - `h`: field on each unit; zero if not given.

    **Raises:** `ValueError` if `J` is not square, not symmetric or not finite, or `h` does not
    fit it.

    **Reference:** Hopfield 1982, eq. 7; Amit, Gutfreund and Sompolinsky 1985.
    """

    J: Float[Array, "D D"] = eqx.field(converter=lambda J: checks.as_float(J, "J"))
    h: Float[Array, " D"] | None = eqx.field(converter=_field, default=None)

    def __check_init__(self):
        J, h = self.J, self.h
        if J.ndim != 2 or J.shape[0] != J.shape[1] or J.size == 0:
            raise ValueError(f"J: must have shape (D, D) with D at least 1; {J.shape} came.")
        if h is not None and h.shape != J.shape[:1]:
            raise ValueError(f"h: must have shape {J.shape[:1]} to fit J; {h.shape} came.")
        if checks.is_concrete(J):
            checks.finite(J, "J")
            tolerance = 1e-5 * float(jnp.abs(J).max())
            checks.require(
                J,
                (jnp.abs(J - J.T) > tolerance).any(),
                "J: must be symmetric; J and J.T differ. The energy holds only the symmetric part. "
                "If rounding made the difference, pass (J + J.T) / 2. Couplings that lead from "
                "one pattern to the next have no energy, and that would destroy them: iterate "
                "x = jnp.sign(J @ x).",
            )
        if h is not None and checks.is_concrete(h):
            checks.finite(h, "h")

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: those of a row of `J`."""
        return jax.ShapeDtypeStruct(self.J.shape[:1], self.J.dtype)

    @in_full
    def energy(self, x: Float[Array, " D"]) -> Scalar:
        """The energy of `x`, diagonal included."""
        dtype = wide(x.dtype)
        local = jnp.dot(self.J, x, preferred_element_type=dtype)
        pairs = -0.5 * jnp.dot(local, x.astype(dtype))
        return pairs if self.h is None else pairs - jnp.dot(self.h, x, preferred_element_type=dtype)
