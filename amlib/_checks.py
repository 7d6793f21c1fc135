"""Errors at the boundary: what must hold, what came, and the one-line fix.

Shapes and names are checked at trace time. Values are checked where they are known: at once
for concrete arrays, at run time (`equinox.error_if`) for arrays that are being traced by a
user's `jit` or `vmap`. Nothing here runs inside a loop.
"""

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike


def is_concrete(x: object) -> bool:
    """Whether the value of `x` is known now, i.e. `x` is not a tracer."""
    return not isinstance(x, Tracer)


def _lib(x: Array) -> Any:
    """NumPy for known values: one transfer instead of a chain of small device programs."""
    return np if is_concrete(x) else jnp


def as_float(x: ArrayLike, where: str) -> Array:
    """Convert to a JAX float array, once and by one rule.

    Floats keep their dtype (float64 needs x64 mode). Bools become spins: `False` is -1 and
    `True` is +1. Integers keep their values and become JAX's default float.

    **Raises:** `TypeError` for complex numbers and for anything that is no array of numbers.
    """
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError) as err:
        raise TypeError(f"{where}: must be an array of numbers; {type(x).__name__} came.") from err
    if x.dtype == bool:
        return jnp.where(x, 1.0, -1.0).astype(jnp.result_type(float))
    if jnp.issubdtype(x.dtype, jnp.integer):
        return x.astype(jnp.result_type(float))
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"{where}: must hold real numbers; dtype {x.dtype} came.")
    return x


def patterns(Xi: ArrayLike) -> Array:
    """Convert stored patterns, see `as_float`: what every field `Xi` is made by."""
    return as_float(Xi, "Xi")


def require(x: Array, bad: Array | np.ndarray | np.bool_ | bool, message: str) -> Array:
    """Return `x`, or raise `ValueError(message)` where `bad` holds.

    `bad` may be traced; then the check runs with the compiled program, and raises
    `equinox.EquinoxRuntimeError` (a `RuntimeError`) with the same message.
    """
    if is_concrete(bad):
        if np.any(np.asarray(bad)):
            raise ValueError(message)
        return x
    return eqx.error_if(x, bad, message)


def finite(x: Array, where: str) -> Array:
    """Return `x`; raise if it holds NaN or infinity."""
    return require(
        x,
        ~_lib(x).isfinite(x).all(),
        f"{where}: every value must be finite; NaN or infinity came. "
        "Look for a division by zero or an unloaded image, or clean it with jnp.nan_to_num.",
    )


def spins(x: Array, where: str) -> Array:
    """Return `x`; raise unless every value is -1 or +1."""
    return require(
        x,
        ~(_lib(x).abs(x) == 1).all(),
        f"{where}: a state must hold only -1 and +1; other values came. "
        "Bits 0/1 become spins by 2*x - 1, grey images by amlib.data.binarize.",
    )


def pattern_matrix(Xi: Array) -> None:
    """Raise unless `Xi` holds at least one pattern of at least one unit, all of it finite."""
    if Xi.ndim < 2 or Xi.size == 0:
        raise ValueError(
            f"Xi: must have shape (K, D) with K and D at least 1; {Xi.shape} came. "
            "A single pattern is Xi[None]."
        )
    if is_concrete(Xi):
        finite(Xi, "Xi")


def state_shape(x: Array, shape: tuple[int, ...], where: str) -> None:
    """Raise unless `x` has exactly this shape, with a hint at `vmap` for a batch."""
    if x.shape == shape:
        return
    hint = f"Reshape it to {shape}."
    if x.ndim == len(shape) + 1 and x.shape[1:] == shape:
        hint = "A batch goes through jax.vmap, one example per call."
    elif x.ndim == 0:
        hint = "A single number came: pass the whole state."
    elif x.size == 0:
        hint = "The state is empty."
    raise ValueError(f"{where}: the state must have shape {shape}; {x.shape} came. {hint}")


def choice(value: object, options: Iterable[str], where: str) -> None:
    """Raise unless `value` is one of `options`, with the nearest one as a hint."""
    options = list(options)
    if value in options:
        return
    near = difflib.get_close_matches(str(value), options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    names = ", ".join(map(repr, options))
    raise ValueError(f"{where}: must be one of {names}; {value!r} came.{hint}")


def at_least(value: object, low: int | float, where: str) -> None:
    """Raise unless the Python number `value` is at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise TypeError(f"{where}: must be a number; {type(value).__name__} came.")
    if not value >= low:
        raise ValueError(f"{where}: must be at least {low}; {value} came.")


def integer(value: object, low: int, where: str) -> int:
    """Return a Python integer; raise unless `value` is an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{where}: must be an integer; {value!r} came.")
    at_least(int(value), low, where)
    return int(value)


def key(value: object, where: str) -> None:
    """Raise unless `value` is one random key, of the new style or the old."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not new and not (dtype == jnp.uint32 and shape == (2,)):
        came = type(value).__name__ if dtype is None else f"{dtype}{list(shape or ())}"
        raise TypeError(f"{where}: must be one random key; {came} came. Write jax.random.key(0).")


def positive(x: Array, where: str) -> Array:
    """Return `x`; raise unless every value is finite and above zero."""
    return require(
        x,
        ~((x > 0) & _lib(x).isfinite(x)).all(),
        f"{where}: must be finite and greater than 0; another value came.",
    )


BOUND = 1e15
"""Products and sums of numbers of at most this size stay far from the end of float32."""


def bounded(tree: Any) -> bool:
    """Whether all floats in a tree are known now, finite, and at most `BOUND` in size."""

    def within(leaf: Any) -> bool:
        if not is_concrete(leaf) or not getattr(leaf, "is_fully_addressable", True):
            return False
        on_host = all(d.platform == "cpu" for d in getattr(leaf, "devices", set)())
        array = np.asarray(leaf) if on_host else leaf  # on a CPU this is a view
        return leaf.size == 0 or -BOUND <= float(array.min()) <= float(array.max()) <= BOUND

    return all(map(within, filter(eqx.is_inexact_array, jax.tree.leaves(tree))))


def widen(tree: Any) -> Any:
    """Return the same tree with its half-precision arrays in float32."""

    def wide(leaf: Any) -> Any:
        half = eqx.is_inexact_array(leaf) and jnp.finfo(leaf.dtype).bits < 32
        return leaf.astype(jnp.float32) if half else leaf

    return jax.tree.map(wide, tree)


def shape(value: Any, where: str) -> tuple[int, ...]:
    """Return `value`, an int or a sequence of ints, as a shape; raise unless all are positive."""
    if isinstance(value, int | np.integer):
        value = (value,)
    if not isinstance(value, tuple | list):
        raise TypeError(f"{where}: must be an int or a tuple of ints; {value!r} came.")
    return tuple(integer(n, 1, where) for n in value)


def scalar_output(fn: Callable[[Any], Any], x: Any, must: str, cure: str) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of `fn(x)`, which is traced only; raise unless it is a real scalar."""
    leaves = jax.tree.leaves(jax.eval_shape(fn, x))
    if len(leaves) == 1 and not leaves[0].shape and jnp.issubdtype(leaves[0].dtype, jnp.floating):
        return leaves[0]
    came = ", ".join(f"{a.dtype}{list(a.shape)}" for a in leaves) or "nothing"
    raise ValueError(f"{must}; {came} came. {cure}")
