"""Sums of floats in twice their precision: pairs of a number and its rounding error.

**Reference:** Dekker 1971, Numer. Math. 18, 224; Knuth, TAOCP 2, 4.2.2.
"""

import jax.numpy as jnp
from jaxtyping import Array


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """The sum and its rounding error, exactly (Knuth, TAOCP 2, 4.2.2)."""
    total = a + b
    back = total - a
    return total, (a - (total - back)) + (b - back)


def add_exactly(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
    """The sum of two pairs of a number and its rounding error."""
    high, low = _two_sum(a[0], b[0])
    return _two_sum(high, low + (a[1] + b[1]))


def sum_exactly(values: Array) -> tuple[Array, Array]:
    """The sum over the last axis, and its rounding error."""
    pair = values, jnp.zeros_like(values)
    while pair[0].shape[-1] > 1:
        odd = [(0, 0)] * (values.ndim - 1) + [(0, pair[0].shape[-1] % 2)]
        high, low = (jnp.pad(a, odd) for a in pair)
        pair = add_exactly((high[..., ::2], low[..., ::2]), (high[..., 1::2], low[..., 1::2]))
    return pair[0][..., 0], pair[1][..., 0]
