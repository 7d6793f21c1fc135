"""How patterns of units of two values are stored, and multiplied with a state."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int8

from amlib import _checks as checks
from amlib._compiled import in_full

_WHOLE = 2**21  # elements of int8 patterns up to which a copy in floats, 8 MiB, is made at once


def stored_patterns(Xi: ArrayLike) -> Array:
    """Convert stored patterns: int8 stays, all others become floats, see `checks.as_float`."""
    if getattr(Xi, "dtype", None) != jnp.int8:
        return checks.patterns(Xi)
    if not isinstance(Xi, np.ndarray):
        return jnp.asarray(Xi)
    # These may be as large as they come, and `jnp.asarray` would hold them twice for a moment. An
    # array that begins at a multiple of 64 bytes JAX takes as it is; nobody else has this one.
    room = np.empty(Xi.nbytes + 64, np.int8)
    own = room[-room.ctypes.data % 64 :][: Xi.nbytes].reshape(Xi.shape)
    own[...] = Xi
    return jax.device_put(own)


def state_dtype(Xi: Array) -> Any:
    """The dtype of states: that of the patterns, and JAX's default float of patterns in int8."""
    floating = jnp.issubdtype(Xi.dtype, jnp.floating)
    return Xi.dtype if floating else jnp.result_type(float)


@in_full
def overlaps(
    Xi: Float[Array, "K *shape"] | Int8[Array, "K *shape"], x: Float[Array, "*shape"]
) -> Float[Array, " K"]:
    """The dot product of each pattern with `x`, in full; half precision adds up in float32.

    Of many int8 patterns, a block is in floats at a time.
    """

    def dot(Xi: Array) -> Array:
        return jnp.tensordot(
            Xi.astype(x.dtype), x, axes=x.ndim, preferred_element_type=wide(x.dtype)
        )

    blocks = _blocks(Xi) if Xi.dtype == jnp.int8 else 1
    if blocks == 1:
        return dot(Xi)
    return lax.map(dot, Xi.reshape(blocks, -1, *Xi.shape[1:])).reshape(-1)


def _blocks(Xi: Array) -> int:
    """How many equal blocks to take: the fewest that are small enough, if any number is."""
    K, least = Xi.shape[0], -(-Xi.size // _WHOLE)
    several = range(least, min(K, 64 * least) + 1) if least > 1 else ()
    return next((n for n in several if K % n == 0), 1)


def wide(dtype: Any) -> Any:
    """The dtype that overlaps of half-precision patterns are added up in."""
    return jnp.float32 if jnp.finfo(dtype).bits < 32 else dtype
