"""The memories of units of several values. Each is an energy; recall comes with `PottsAM`."""

import math

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Int32

from amlib import _checks as checks, _heads as heads
from amlib._types import Scalar
from amlib.potts.base import PottsAM


class PottsHopfield(PottsAM):
    r"""The Hopfield network of units of q values, with Hebbian couplings.

    $$E(x) = -\frac{1}{2} \sum_\mu \big(h_\mu^2 - (q - 2)\, h_\mu\big), \qquad
    h_\mu = \sum_i \big(q\, \delta(x_i, \xi_{\mu i}) - 1\big)$$

    which is, but for the constant $-\frac12 K D (q - 1)$, the sum over pairs

    $$-\frac{1}{2} \sum_\mu \sum_{i \ne j} \big(q\, \delta(x_i, \xi_{\mu i}) - 1\big)
    \big(q\, \delta(x_j, \xi_{\mu j}) - 1\big)$$

    No prefactor beyond the 1/2. For q = 2 it is `ClassicalHopfield` of the spins. It stores about
    $0.138\, D\, q (q - 1) / 2$ random patterns of values that are all as frequent. Unlike spins it
    has no inverse to store with a pattern.

    **Arguments:**

    - `Xi`, `q`: see `PottsAM`.

    **Reference:** Kanter 1988, Phys. Rev. A 37, 2739, whose energy has the prefactor 1/D.
    """

    def energy(self, x: Int32[Array, "*shape"]) -> Scalar:
        """The energy of `x`; at a pattern that is alone about $-(q - 1)^2 D^2 / 2$."""
        h = self.local_overlaps(x)
        return -0.5 * jnp.sum(h * (h - (self.q - 2)))


class PolynomialPottsAM(PottsAM):
    r"""Dense associative memory of units of q values with a polynomial energy.

    $$E(x) = -\sum_\mu F_n(h_\mu), \qquad F_n(h) = h^n \text{ or } \max(h, 0)^n, \qquad
    h_\mu = \sum_i \big(q\, \delta(x_i, \xi_{\mu i}) - 1\big)$$

    For q = 2 it is `PolynomialDenseAM` of the spins, and has its logarithmic form where floats
    cannot hold $K ((q - 1) D)^n$ (`log_form` is true).

    **Arguments:**

    - `Xi`, `q`: see `PottsAM`.
    - `n`: the power, an integer of at least 1.
    - `rectified`: whether negative overlaps count nothing.

    **Raises:** `ValueError` for `n < 1`, `TypeError` if `n` is no integer.

    **Reference:** Krotov and Hopfield 2016, eq. 2 and 3, with the overlaps of Kanter 1988.
    """

    n: int = eqx.field(static=True, converter=lambda n: heads.power(n, "PolynomialPottsAM"))
    rectified: bool = eqx.field(static=True, default=True)

    @property
    def log_form(self) -> bool:
        """Whether the energy is the logarithm of the published one, see above."""
        K, D = self.Xi.shape[0], math.prod(self.Xi.shape[1:])
        return heads.needs_logs(K, D * (self.q - 1), self.n, jnp.result_type(float))

    def energy(self, x: Int32[Array, "*shape"]) -> Scalar:
        """The energy of `x`, in the published or the logarithmic form."""
        h = self.local_overlaps(x)
        return heads.polynomial(h, self.n, rectified=self.rectified, in_logs=self.log_form)


class ExponentialPottsAM(PottsAM):
    r"""Dense associative memory of units of q values with an exponential energy.

    $$E(x) = -\frac{1}{\beta} \log \sum_\mu \exp(\beta h_\mu), \qquad
    h_\mu = \sum_i \big(q\, \delta(x_i, \xi_{\mu i}) - 1\big)$$

    For q = 2 it is `ExponentialDenseAM` of the spins.

    **Arguments:**

    - `Xi`, `q`: see `PottsAM`.
    - `beta`: inverse temperature of the sum over patterns, > 0; trainable. Large values make the
      largest overlap win alone.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar.

    **Reference:** Demircigil et al. 2017, eq. 5, under a logarithm, with the overlaps of
    Kanter 1988.
    """

    beta: Scalar = eqx.field(converter=lambda b: checks.as_float(b, "beta"), default=1.0)

    def __check_init__(self):
        heads.check_beta(self.beta)

    def energy(self, x: Int32[Array, "*shape"]) -> Scalar:
        """The energy of `x`; between $-(q - 1) D - \\log(K)/\\beta$ and $D$."""
        return heads.exponential(self.local_overlaps(x), self.beta)
