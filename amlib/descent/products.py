"""Products of patterns that are stored as int8 with a state in floats, block by block.

XLA makes a float copy of all patterns for such a product: four times their memory, and on a CPU
twenty times the time. A block at a time stays in the cache.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

_BLOCK = 2**21  # elements that are floats at a time: 8 MiB


def blocked_product(weights: Array, x: Array) -> Array:
    """`weights @ x` in the dtype of `x`, without a copy of all weights in that dtype."""
    K, D = weights.shape
    rows = max(1, min(K, _BLOCK // D))

    def block(k: Array) -> Array:
        part = lax.dynamic_slice_in_dim(weights, k * rows, rows).astype(x.dtype)
        return jnp.dot(part, x, precision=lax.Precision.HIGHEST)

    # The last block begins early enough to be whole: a slice out of bounds is moved back.
    whole = K // rows
    h = lax.map(block, jnp.arange(whole)).reshape(-1)
    rest = K - whole * rows
    return h if not rest else jnp.concatenate([h, block(jnp.asarray(whole))[rows - rest :]])


def matrix_of(weights: Array, contracted: tuple[int, ...]) -> Array:
    """The weights of a product as a matrix: what is contracted is the last axis."""
    free = [a for a in range(weights.ndim) if a not in contracted]
    columns = 1
    for a in contracted:
        columns *= weights.shape[a]
    return jnp.transpose(weights, (*free, *contracted)).reshape(-1, columns)
