"""Errors at the boundary: what must hold, what came, and the one-line fix.

Shapes and names are checked at trace time. Values are checked where they are known: at once
for concrete arrays, at run time (`equinox.error_if`) for arrays that are being traced by a
user's `jit` or `vmap`. Nothing here runs inside a loop.
"""

import contextlib
import difflib
import functools
import inspect
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, ArrayLike

from amlib import _hosts as hosts, _shards as shards

_Method = TypeVar("_Method", bound=Callable[..., Any])
_Given = TypeVar("_Given")


def is_traced(x: object) -> bool:
    """Whether `x` stands for values that come only when a program runs."""
    return isinstance(x, Tracer)


def is_concrete(x: object) -> bool:
    """Whether all values of `x` can be read now, here: no tracer, no parts in other processes."""
    return not isinstance(x, Tracer) and hosts.readable(x)


def _values(x: Array) -> Any:
    """Known values as NumPy's, one transfer instead of small programs; not what is in parts."""
    return x if is_traced(x) or _in_parts(x) else np.asarray(x)


def _in_parts(x: object) -> bool:
    """Whether devices, or processes, each hold a part of an array."""
    return isinstance(x, jax.Array) and not x.is_fully_replicated


def as_float(x: ArrayLike, where: str) -> Array:
    """Convert to a JAX float array, once and by one rule.

    Floats keep their dtype (float64 needs x64 mode). Bools become spins: `False` is -1 and
    `True` is +1. Integers keep their values and become JAX's default float.

    **Raises:** `TypeError` for complex numbers and for anything that is no array of numbers.
    """
    try:
        x = jnp.asarray(x)
    except (TypeError, ValueError) as err:
        kind = type(x).__name__
        kind += f" of dtype {x.dtype}" if isinstance(x, np.ndarray) else ""
        raise TypeError(f"{where}: must be an array of numbers; {kind} came.") from err
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
    if not shards.axes(x, bad):
        return eqx.error_if(x, bad, message)
    # Equinox's check returns a value that no device has of its own, so it can't return `x`.
    failed = eqx.error_if(jnp.zeros((), bool), bad, message)
    return jnp.where(failed, jnp.zeros_like(x), x)


def finite(x: Array, where: str) -> Array:
    """Return `x`; raise if it holds NaN or infinity."""
    return require(
        x,
        ~(abs(_values(x)) < np.inf).all(),
        f"{where}: every value must be finite; NaN or infinity came. "
        "Look for a division by zero or an unloaded image, or clean it with jnp.nan_to_num.",
    )


def spins(x: Array, where: str) -> Array:
    """Return `x`; raise unless every value is -1 or +1."""
    return require(
        x,
        ~(abs(_values(x)) == 1).all(),
        f"{where}: a state must hold only -1 and +1; other values came. "
        "Bits 0/1 become spins by 2*x - 1, grey images by amlib.data.binarize.",
    )


def known(x: object) -> Array | np.ndarray | None:
    """The value of `x`, or of the batch that a `vmap` outside `jit` maps over; parts stay parts."""
    while isinstance(x, Tracer) and hasattr(x, "batch_dim"):
        x = getattr(x, "val", None)
    if x is None or is_traced(x):
        return None
    return x if _in_parts(x) else np.asarray(x)  # pyright: ignore[reportReturnType]


def are_bits(x: object) -> bool:
    """Whether `x` is known to hold the numbers 0 and 1 only, and some 0: ones may be spins."""
    value = known(x)
    if value is None or value.dtype == bool or not value.size:
        return False
    if value.min() < 0 or value.max() > 1:  # spins, without an array of comparisons
        return False
    return bool((value == 0).any() and ((value == 0) | (value == 1)).all())


def not_bits(x: _Given, where: str) -> _Given:
    """Return `x`; raise where it is known to be 0/1 and not -1/+1."""
    if are_bits(x):
        raise ValueError(
            f"{where}: a state of spins or signed numbers must come; 0 and 1 alone came. Bits 0/1 "
            "become spins by 2*x - 1, and spins bits by (x + 1) / 2."
        )
    return x


def warn_of_bits(Xi: Array, where: str) -> None:
    """Warn where patterns are known to be 0/1: they may be meant so, but seldom are."""
    if not is_traced(Xi) and are_bits(Xi) and Xi.max() != 0:
        warn(
            f"{where}: patterns of -1 and +1 are usual; 0 and 1 alone came. A 0 takes no part in "
            "the overlap with a state of spins, so that all patterns look alike. Write "
            "2 * Xi - 1, or ignore this if 0 is meant."
        )


def warn(message: str) -> None:
    """Warn at the line that called the library, however deep inside it this is called."""
    frame, level = sys._getframe(1), 2  # as `warnings` counts: 1 is here
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "amlib", "equinox", "jaxtyping", "beartype",
    ):  # fmt: skip
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def pattern_matrix(Xi: Array, where: str = "Xi") -> None:
    """Raise unless `Xi` holds at least one pattern of at least one unit, all of it finite."""
    if Xi.ndim < 2 or Xi.size == 0:
        raise ValueError(
            f"{where}: must have shape (K, D) with K and D at least 1; {Xi.shape} came. "
            f"A single pattern is {where}[None]."
        )
    if not is_traced(Xi) and jnp.issubdtype(Xi.dtype, jnp.inexact):
        finite(Xi, where)


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


def mask(value: Any, shape: tuple[int, ...], where: str) -> Any:
    """Convert a mask; raise unless it is boolean and has exactly this shape."""
    value = value if is_traced(value) else hosts.whole(value)
    dtype = value.dtype
    if dtype != np.dtype(bool):
        raise TypeError(
            f"{where}: must be a boolean mask, True where a value is known; {dtype} came. "
            "Compare first (mask == 1); of indices make jnp.zeros(shape, bool).at[i].set(True)."
        )
    if np.shape(value) != shape:
        raise ValueError(
            f"{where}: must have the shape {shape} of the state; {np.shape(value)} came."
        )
    return value


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
    """Return a Python integer; raise unless `value` is one of at least `low` that JAX can count."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{where}: must be an integer; {value!r} came.")
    at_least(int(value), low, where)
    at_most(int(value), COUNTABLE, where)
    return int(value)


COUNTABLE = 2**31 - 1
"""Indices and counters are 32-bit integers."""


def at_most(value: int, high: int, where: str) -> None:
    """Raise unless `value`, a number of steps or a size, is at most `high`."""
    if value > high:
        raise ValueError(
            f"{where}: must be at most {high}; {value} came. "
            "Of steps take fewer, and go on from where they end."
        )


def key(value: object, where: str) -> None:
    """Raise unless `value` is one random key, of the new style or the old."""
    dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", None)
    new = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ()
    if not new and not (dtype == jnp.uint32 and shape == (2,)):
        came = type(value).__name__ if dtype is None else f"{dtype}{list(shape or ())}"
        cure = (
            "Several keys go through jax.vmap."
            if dtype is not None
            else (f"Write jax.random.key({value if isinstance(value, int) else 0}).")
        )
        raise TypeError(f"{where}: must be one random key; {came} came. {cure}")


def positive(x: Array, where: str) -> Array:
    """Return `x`; raise unless every value is finite and above zero."""
    return require(
        x,
        ~(((v := _values(x)) > 0) & (v < np.inf)).all(),
        f"{where}: must be finite and greater than 0; another value came.",
    )


def positive_field(name: str) -> Callable[[Any], Array]:
    """A converter of a field to a positive scalar; raises where it is known not to be one."""

    def convert(value: Any) -> Array:
        value = as_float(value, name)
        if value.ndim:
            raise ValueError(f"{name}: must be a scalar; shape {value.shape} came.")
        return positive(value, name) if is_concrete(value) else value

    return convert


def not_negative(x: Array, where: str) -> Array:
    """Return `x`; raise unless every value is finite and not below zero."""
    return require(
        x,
        ~(((v := _values(x)) >= 0) & (v < np.inf)).all(),
        f"{where}: must be finite and at least 0; another value came.",
    )


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


def scalar_output(
    fn: Callable[[Any], Any],
    x: Any,
    must: str,
    cure: str,
    look: Callable[[Any], None] = lambda _: None,
) -> jax.ShapeDtypeStruct:
    """Return shape and dtype of `fn(x)`, which is traced only; raise unless it is a real scalar.

    `look` may raise for more: it is shown the jaxpr.
    """
    with traceable(must.split(" must ", maxsplit=1)[0].rstrip(":")):
        traced, out = jax.make_jaxpr(fn, return_shape=True)(x)
    look(traced)
    leaves = jax.tree.leaves(out)
    if len(leaves) == 1 and not leaves[0].shape and jnp.issubdtype(leaves[0].dtype, jnp.floating):
        return leaves[0]
    came = ", ".join(f"{a.dtype}{list(a.shape)}" for a in leaves) or "nothing"
    raise ValueError(f"{must}; {came} came. {cure}")


# What Python and NumPy ask of a value that is not known while JAX traces, and the cure.
_CURES: tuple[tuple[type[Exception], str, str], ...] = (
    (
        jax.errors.TracerArrayConversionError,
        "NumPy asked for the values of a traced array",
        "Write jnp where it says np.",
    ),
    (
        jax.errors.TracerBoolConversionError,
        "`if`, `while`, `and` or `or` asked whether a traced value is true",
        "Write jnp.where(condition, a, b), or jax.lax.cond.",
    ),
    (
        jax.errors.NonConcreteBooleanIndexError,
        "a traced mask was an index",
        "Write jnp.where(mask, x, 0).",
    ),
    (
        jax.errors.TracerIntegerConversionError,
        "Python asked for the value of a traced integer",
        "Index with jnp.take(a, i), and keep shapes free of values.",
    ),
    (
        jax.errors.ConcretizationTypeError,
        "Python asked for the value of a traced number",
        "Leave out float(), int() and .item(), or write x.astype(dtype).",
    ),
)
UNTRACEABLE = tuple(kind for kind, _, _ in _CURES)


@contextlib.contextmanager
def traceable(where: str) -> Iterator[None]:
    """Around the first trace of a user's function: say what to write where JAX can't follow it."""
    try:
        yield
    except UNTRACEABLE as err:
        came, cure = next((came, cure) for kind, came, cure in _CURES if isinstance(err, kind))
        raise TypeError(f"{where}: must be a function that JAX can trace; {came}. {cure}") from err


def unknown_keyword(
    where: str, name: str, known: Iterable[str], elsewhere: dict[str, str]
) -> NoReturn:
    """Raise `TypeError` for a keyword that a method does not know.

    `elsewhere` maps the keywords of the other families to a sentence about this one.
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    cure = elsewhere.get(name, f"Did you mean {near[0]}=?" if near else "")
    raise TypeError(f"{where}: takes {', '.join(known)}; {name}= came. {cure}".rstrip())


def keywords(where: str, elsewhere: dict[str, str]) -> Callable[[_Method], _Method]:
    """Decorate a method: an unknown keyword raises what this family of memories says instead."""

    def decorate(method: _Method) -> _Method:
        known = list(inspect.signature(method).parameters)[1:]

        @functools.wraps(method)
        def checked(*args: Any, **named: Any) -> Any:
            for name in named:
                if name not in known:
                    unknown_keyword(where, name, known, elsewhere)
            return method(*args, **named)

        return checked  # pyright: ignore[reportReturnType]

    return decorate
