"""Attention as one update of a memory that stores the keys."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks
from amlib._compiled import in_networks
from amlib._types import ScalarLike
from amlib.continuous.models import ModernHopfield, finite_or_hidden


@in_networks
def attention(
    queries: Shaped[ArrayLike, "..."],
    keys: Shaped[ArrayLike, "..."],
    values: Shaped[ArrayLike, "..."],
    beta: ScalarLike | None = None,
    *,
    mask: Bool[ArrayLike, "..."] | None = None,
    bias: Shaped[ArrayLike, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Attention: one update of a modern Hopfield network that stores the keys.

    $$\mathrm{softmax}(\beta\, Q K^\top + b)\, V$$

    **Arguments:**

    - `queries`: one query or any batch of them along the leading axes.
    - `keys`, `values`: one row per stored pattern.
    - `beta`: inverse temperature, > 0; `None` means $1/\sqrt{D}$, as in transformers.
    - `mask`: `True` where a query sees a key: one for each key, `(K,)`, or for each query and key,
      `(..., K)`. A query that sees none gets zeros.
    - `bias`: $b$, added to the scores, of the same shapes; $-\infty$ hides a key.

    **Returns:** one average of the values per query.

    **Raises:** `ValueError` for widths that do not match, `beta` not above 0, a mask or a bias of
    another shape, and NaN or $+\infty$ in a bias; `TypeError` for a mask that is not boolean.

    **Reference:** Ramsauer et al. 2021, section 2, without projections.
    """
    queries = checks.as_float(queries, "attention: queries")
    keys = checks.as_float(keys, "attention: keys")
    if queries.ndim < 1 or keys.ndim != 2 or queries.shape[-1] != keys.shape[-1]:
        raise ValueError(
            f"attention: queries (..., D) and keys (K, D) must have the same width; "
            f"{queries.shape} and {keys.shape} came."
        )
    beta = keys.shape[1] ** -0.5 if beta is None else beta
    flat = queries.reshape(-1, keys.shape[1])
    weights = log_weights(mask, bias, (*queries.shape[:-1], keys.shape[0]), queries.dtype)
    if weights is None:
        out = jax.vmap(ModernHopfield(keys, beta, values).readout)(flat)
        return out.reshape(*queries.shape[:-1], *out.shape[1:])
    each = weights.ndim > 1
    weights = weights.reshape(-1, keys.shape[0]) if each else weights
    weights, some = with_some(weights)
    read = lambda x, b: ModernHopfield(keys, beta, values, b).readout(x)
    out = jax.vmap(read, in_axes=(0, 0 if each else None))(flat, weights)
    out = jnp.where(some.reshape(-1, *[1] * (out.ndim - 1)), out, 0.0)
    return out.reshape(*queries.shape[:-1], *out.shape[1:])


def log_weights(
    mask: ArrayLike | None, bias: ArrayLike | None, shape: tuple[int, ...], dtype: jnp.dtype
) -> Array | None:
    """The bias of attention, with what a mask hides at minus infinity; `None` if there is none."""
    if bias is not None:
        bias = checks.as_float(bias, "attention: bias").astype(dtype)
        _each_or_all(bias, shape, "attention: bias")
        finite_or_hidden(bias, "attention: bias")
    if mask is None:
        return bias
    mask = jnp.asarray(mask)
    if mask.dtype != bool:
        raise TypeError(
            f"attention: mask: must be boolean, True where a query sees a key; {mask.dtype} came. "
            "What is to be added to the scores is bias=."
        )
    _each_or_all(mask, shape, "attention: mask")
    if bias is not None and bias.ndim != mask.ndim:
        bias, mask = (jnp.broadcast_to(a, shape) for a in (bias, mask))
    return jnp.where(mask, jnp.zeros((), dtype) if bias is None else bias, -jnp.inf)


def _each_or_all(a: Array, shape: tuple[int, ...], where: str) -> None:
    """Raise unless there is one number for each key, or for each query and key."""
    if a.shape not in (shape, shape[-1:]):
        raise ValueError(
            f"{where}: must have one value for each of the {shape[-1]} keys, or shape {shape} for "
            f"each query and key; {a.shape} came."
        )


def with_some(weights: Array) -> tuple[Array, Array]:
    """Biases by which every query sees a key, and which of them did before."""
    some = (weights > -jnp.inf).any(axis=-1)
    return jnp.where(some[..., None], weights, 0.0), some
