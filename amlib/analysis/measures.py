"""Measurements on patterns and states: separations, metastable sizes, cosines."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Integer, Shaped

from amlib import _checks as checks
from amlib._types import ScalarLike


def rows_of(Xi: ArrayLike, where: str = "Xi") -> Array:
    """Patterns as floats, one flat row each."""
    Xi = checks.as_float(Xi, where)
    if Xi.ndim < 2 or Xi.size == 0:
        raise ValueError(f"{where}: must have shape (K, D) with K, D at least 1; {Xi.shape} came.")
    return Xi.reshape(Xi.shape[0], -1)


def separation(Xi: Shaped[ArrayLike, "K *shape"]) -> Float[Array, " K"]:
    r"""How far each pattern's overlap with itself exceeds that with any other.

    $$\Delta_\mu = \xi_\mu \cdot \xi_\mu - \max_{\nu \ne \mu} \xi_\mu \cdot \xi_\nu$$

    **Arguments:**

    - `Xi`: stored patterns, one per row.

    **Returns:** one separation per pattern, in units of a dot product; infinite for a single
    pattern, not positive for one that another pattern hides.

    **Reference:** Ramsauer et al. 2021, Definition 2.
    """
    rows = rows_of(Xi)

    def one(k: Array) -> Array:
        overlaps = rows @ rows[k]
        others = jnp.where(jnp.arange(rows.shape[0]) == k, -jnp.inf, overlaps)
        return overlaps[k] - jnp.max(others)

    return lax.map(one, jnp.arange(rows.shape[0]), batch_size=min(256, rows.shape[0]))


def metastable_size(
    Xi: Shaped[ArrayLike, "K *shape"],
    x: Shaped[ArrayLike, "*shape"],
    beta: ScalarLike,
    mass: float | int = 0.9,
) -> Integer[Array, ""]:
    r"""How many patterns a state of a modern Hopfield network averages over.

    The least number of terms of $\mathrm{softmax}(\beta\, \Xi x)$ that sum to `mass`.

    **Arguments:**

    - `Xi`: stored patterns.
    - `x`: one state; batches go through `jax.vmap`.
    - `beta`: inverse temperature.
    - `mass`: the sum to reach, in (0, 1].

    **Returns:** 1 for a single pattern, about `mass * K` for the global average.

    **Reference:** Ramsauer et al. 2021, section 4 (0.90, classes at K/2, K/8, K/32).
    """
    rows, x = rows_of(Xi), checks.as_float(x, "metastable_size: x")
    if not 0 < mass <= 1:
        raise ValueError(f"metastable_size: mass must lie in (0, 1]; {mass} came.")
    beta = checks.as_float(beta, "metastable_size: beta").astype(rows.dtype)
    weights = jax.nn.softmax(beta * (rows @ x.reshape(-1).astype(rows.dtype)))
    total = jnp.cumsum(jnp.sort(weights)[::-1])
    size = 1 + jnp.sum(total < mass * total[-1] * (1 - 1e-6))
    return jnp.minimum(size, rows.shape[0])


def cosine(x: Float[Array, "*shape"], xi: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The cosine of the angle between two states; 0 where one is zero or not finite."""
    x = jnp.where(jnp.isfinite(x).all(), x, 0.0)
    norms = jnp.sqrt(jnp.sum(x * x) * jnp.sum(xi * xi))
    return jnp.sum(x * xi) / jnp.maximum(norms, jnp.finfo(x.dtype).tiny)
