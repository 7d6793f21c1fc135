"""Universal Hopfield networks: name a similarity and a separation, get the memory."""

from typing import Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._compiled import compiled, in_full
from amlib._types import Scalar
from amlib.continuous.base import ContinuousAM
from amlib.continuous.models import check_values, values_field
from amlib.descent.streaming import flat_rows, row_norms

Similarity: TypeAlias = Literal["dot", "cosine", "euclidean", "manhattan"]
Separation: TypeAlias = Literal["identity", "polynomial", "softmax", "max"]
SIMILARITIES: tuple[str, ...] = get_args(Similarity)
SEPARATIONS: tuple[str, ...] = get_args(Separation)

_SMOOTH = 0.05  # the half-width within which Manhattan distances are rounded off


class KernelMemory(ContinuousAM):
    r"""The universal Hopfield network: any similarity, any separation.

    $$E(x) = -c\, Q(s(x)) + \tfrac12 \|x\|^2 \;[\text{dot only}], \qquad
    \frac{\partial Q}{\partial s_\mu} = \mathrm{sep}(s)_\mu$$

    | similarity | $s_\mu$ | prefactor $c$ |
    |---|---|---|
    | `"dot"` | $\xi_\mu \cdot x$ | 1 |
    | `"cosine"` | $\xi_\mu \cdot x / (\|\xi_\mu\| \|x\|)$ | $D$ |
    | `"euclidean"` | $1 / (1 + \|x - \xi_\mu\|^2 / D)$ | $D/2$ |
    | `"manhattan"` | $1 / (1 + \|x - \xi_\mu\|_1 / D)$ | $D$ |

    | separation | $Q(s)$ |
    |---|---|
    | `"identity"` | $\frac12 \sum_\mu s_\mu^2$ |
    | `"polynomial"` | $\frac{1}{n+1} \sum_\mu \max(0, s_\mu)^{n+1}$ |
    | `"softmax"` | $\frac1\beta \log \sum_\mu e^{\beta s_\mu}$ |
    | `"max"` | $\max_\mu s_\mu$ |

    `readout` is the published one-shot retrieval; `recall` descends the energy that belongs to
    it. Manhattan and Euclidean similarity raise the capacity on pictures over the dot product.
    Dot with identity or polynomial separation is unbounded below: recall it under
    `project=Box()` or `Sphere(...)`. The Manhattan similarity has no matrix-product form: a
    batch of queries costs K*D differences each.

    **Arguments:**

    - `Xi`: stored patterns, see `ContinuousAM`.
    - `similarity`: `"dot"`, `"cosine"`, `"euclidean"` or `"manhattan"`.
    - `separation`: `"identity"`, `"polynomial"`, `"softmax"` or `"max"`.
    - `beta`: inverse temperature of the softmax, > 0; trainable. Similarities other than the dot
      product lie in [-1, 1], so 10 to 100 is usual there.
    - `n`: power of the polynomial, an integer of at least 1.
    - `values`: what `readout` returns for each pattern, one row per pattern; `None` means the
      patterns themselves.

    **Raises:** `ValueError` for an unknown name, `beta` not above 0, `n < 1`, or values that do
    not fit.

    **Reference:** Millidge et al. 2022 (arXiv 2202.04557). Distances are
    turned into similarities as $1/(1 + d/D)$, finite at a pattern; similarities are not
    normalised by their sum; the Manhattan distance is smoothed within 0.05 of zero,
    $|d| \to \sqrt{d^2 + 0.05^2} - 0.05$, so that descent can come to rest on a pattern; and
    prefactors make the forces on a unit of order 1 for patterns of order 1.
    """

    similarity: str = eqx.field(static=True, default="euclidean")
    separation: str = eqx.field(static=True, default="softmax")
    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=50.0)
    n: int = eqx.field(static=True, default=10)
    values: Float[Array, "K *value"] | None = eqx.field(converter=values_field, default=None)

    def __check_init__(self):
        checks.choice(self.similarity, SIMILARITIES, "KernelMemory: similarity")
        checks.choice(self.separation, SEPARATIONS, "KernelMemory: separation")
        if isinstance(self.n, bool) or not isinstance(self.n, int):
            raise TypeError(f"KernelMemory: n must be an integer; {self.n!r} came.")
        checks.at_least(self.n, 1, "KernelMemory: n")
        check_values(self.values, self.Xi.shape[0])

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`."""
        potential = self._potential(self.similarities(x))
        if self.similarity == "dot":
            return 0.5 * jnp.sum(x * x) - potential
        return -potential * (x.size / 2 if self.similarity == "euclidean" else x.size)

    @in_full
    def similarities(self, x: Float[Array, "*shape"]) -> Float[Array, " K"]:
        """The similarity of `x` to each pattern; 1 at a pattern, but for the dot product."""
        Xi, flat = flat_rows(self.Xi), x.reshape(-1)
        if self.similarity == "manhattan":
            gaps = jnp.sqrt((Xi - flat[None]) ** 2 + _SMOOTH**2) - _SMOOTH
            return 1 / (1 + jnp.mean(gaps, axis=1))
        overlaps = Xi @ flat
        if self.similarity == "dot":
            return overlaps
        square = jnp.sum(flat * flat)
        if self.similarity == "cosine":
            tiny = jnp.finfo(x.dtype).tiny  # a zero pattern or state is similar to nothing
            return overlaps / jnp.sqrt(jnp.maximum(row_norms(Xi) * square, tiny))
        distances = jnp.maximum(square - 2 * overlaps + row_norms(Xi), 0.0)
        return 1 / (1 + distances / x.size)

    def readout(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*value"]:
        r"""The one-shot retrieval $\sum_\mu \mathrm{sep}(s(x))_\mu v_\mu$.

        **Arguments:**

        - `x`: a state: a query, or the end of a recall.

        **Returns:** the combination of the values, in their shape. For the identity and the
        polynomial separation only its direction has a meaning.

        **Raises:** `ValueError` for a wrong shape.
        """
        return _readout(self, type(self)._state(self, x, "readout", check=False))

    def _potential(self, s: Array) -> Array:
        if self.separation == "max":
            return jnp.max(s)
        if self.separation == "softmax":
            beta = self.beta.astype(s.dtype)
            return jax.nn.logsumexp(beta * s) / beta
        if self.separation == "identity":
            return 0.5 * jnp.sum(s * s)
        return jnp.sum(jnp.maximum(s, 0.0) ** (self.n + 1)) / (self.n + 1)


@compiled
def _readout(model: "KernelMemory", x: Array) -> Array:
    values = model.Xi if model.values is None else model.values
    wide, state, rows = checks.widen((model, x, flat_rows(values)))
    separated = jax.grad(wide._potential)(wide.similarities(state))
    return (separated @ rows.astype(state.dtype)).reshape(values.shape[1:]).astype(values.dtype)
