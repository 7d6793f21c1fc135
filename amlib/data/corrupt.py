"""Ways to corrupt a pattern: flipped bits, hidden parts, Gaussian noise.

Each works on one example of any shape, keeps its shape and float dtype (bools become spins,
integers floats), and goes under `jax.jit` and `jax.vmap`. All randomness comes from `key`.
"""

import math
from typing import Literal, TypeAlias, get_args

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Shaped

from amlib import _checks
from amlib._types import Key
from amlib.spaces import AbstractSpace, AbstractTwoValued, Spins, Values

_SPINS = Spins()

Side: TypeAlias = Literal["bottom", "top", "left", "right", "random"]


def flip(
    key: Key,
    x: Shaped[ArrayLike, "*shape"],
    p: Shaped[ArrayLike, ""],
    *,
    space: AbstractSpace = _SPINS,
) -> Shaped[Array, "*shape"]:
    r"""Flip each bit independently with probability `p`.

    $$x_i \mapsto -x_i \text{ with probability } p$$

    **Arguments:**

    - `key`: a JAX random key.
    - `x`: one state; spins, or any real numbers, whose signs then change.
    - `p`: probability, 0 to 1; may be traced.
    - `space`: what a unit may be, which says what it is when it is flipped: `amlib.Bits()` for
      states of 0 and 1, or a memory's `space`. Of several values it is the next one.

    **Returns:** the noisy state. The expected overlap with `x` is `1 - 2p`. The same key flips
    the same bits in every float dtype, with and without x64.

    **Raises:** `ValueError` when `p` is not in [0, 1] (at run time where `p` is traced), and for a
    state of 0 and 1 alone, whose zeros have no sign to change (not where `x` is traced by `jit`);
    of another space for values that are not of it.
    """
    _checks.key(key, "flip: key")
    x = _state(x, space, "flip")
    p = _fraction(p, "flip: p")
    return jnp.where(jr.uniform(key, x.shape, jnp.float32) < p, space.other(x), x)


def flip_exactly(
    key: Key,
    x: Shaped[ArrayLike, "*shape"],
    k: Shaped[ArrayLike, ""],
    *,
    space: AbstractSpace = _SPINS,
) -> Shaped[Array, "*shape"]:
    """Flip exactly `k` distinct bits, every set of `k` equally likely.

    **Arguments:**

    - `key`: a JAX random key.
    - `x`: one state; spins, or any real numbers, whose signs then change.
    - `k`: number of bits, 0 to `x.size`; may be traced.
    - `space`: see `flip`.

    **Returns:** the noisy state, at Hamming distance `k` from `x`.

    **Raises:** `ValueError` when `k` is not in [0, `x.size`] (at run time where `k` is traced), and
    for a state of 0 and 1 alone (not where `x` is traced by `jit`); `TypeError` when `k` is not an
    integer.
    """
    _checks.key(key, "flip_exactly: key")
    x = _state(x, space, "flip_exactly")
    k = _count(k, x.size, "flip_exactly: k")
    return jnp.where(_pick(key, x.shape, k), space.other(x), x)


def mask(
    x: Shaped[ArrayLike, "*shape"],
    fraction: Shaped[ArrayLike, ""] = 0.5,
    side: Side | str = "bottom",
    *,
    value: Shaped[ArrayLike, ""] | None = None,
    space: AbstractSpace = _SPINS,
    shape: tuple[int, ...] | None = None,
    key: Key | None = None,
) -> Shaped[Array, "*shape"]:
    """Hide part of a picture: set it to `value`.

    ```python
    query = am.data.corrupt.mask(Xi[0])                             # bottom half to background
    query = am.data.corrupt.mask(x, 0.3, "random", key=key)         # 30 % of the pixels
    query = am.data.corrupt.mask(x, 0.25, "left", shape=(28, 28))   # a flat picture
    ```

    **Arguments:**

    - `x`: one state: a picture (height, width, ...) or a flat state.
    - `fraction`: how much is hidden, 0 to 1, rounded to whole rows, columns or pixels; may be
        traced.
    - `side`: where: `"bottom"`, `"top"`, `"left"`, `"right"`, or `"random"` single pixels.
    - `value`: what hidden pixels become; by default the lower value of a unit of the space, -1 for
        spins and for real units, which is background, and 0 of several. 0 suits continuous states.
    - `space`: what a unit may be: `amlib.Bits()` for states of 0 and 1, or a memory's `space`.
    - `shape`: the picture's shape when `x` is flat; by default a flat state whose size is a
        square number is taken as a square picture.
    - `key`: a JAX random key; needed by, and only read for, `side="random"`.

    **Returns:** the state with its hidden part overwritten.

    **Raises:** `ValueError` when `fraction` is not in [0, 1], for an unknown `side`, for a flat
    state without a picture shape, for `"random"` without a key, and for a `value` below 0 in a
    state of 0 and 1 alone.
    """
    x = space.asarray(x, "mask: x")
    if value is None:
        value = 0 if isinstance(space, Values) else -1.0
        value = space.low if isinstance(space, AbstractTwoValued) else value
    if _checks.is_concrete(value) and np.any(np.asarray(value) < 0) and _checks.are_bits(x):
        raise ValueError(
            f"mask: value must be 0 or 1 in a state of 0 and 1; {value} came. Pass value=0 or "
            "space=amlib.Bits(), or make spins of the bits by 2*x - 1."
        )
    _checks.choice(side, get_args(Side), "mask: side")
    if shape is not None and math.prod(shape) != x.size:
        raise ValueError(
            f"mask: shape must hold as many pixels as x; {shape} for {x.size} pixels came."
        )
    if shape is None:
        shape = x.shape if side == "random" else _picture_shape(x.shape)
    hidden = region(shape, fraction, side, key=key)
    fill = jnp.asarray(value).astype(x.dtype)
    return jnp.where(hidden.reshape(x.shape), fill, x)


def region(
    shape: tuple[int, ...],
    fraction: Shaped[ArrayLike, ""] = 0.5,
    side: Side | str = "bottom",
    *,
    key: Key | None = None,
) -> Bool[Array, "..."]:
    """Return which pixels `mask` hides: true is hidden.

    Use it to fill the hidden part with anything else (`jnp.where(region, other, x)`), to hold
    the visible part fixed, or to measure recall on the hidden part alone.

    **Arguments:**

    - `shape`: shape of the picture: (height, width, ...).
    - `fraction`, `side`, `key`: as in `mask`.

    **Returns:** a boolean picture.

    **Raises:** `ValueError` as `mask` does.
    """
    _checks.choice(side, get_args(Side), "mask: side")
    fraction = _fraction(fraction, "mask: fraction")
    if side == "random":
        if key is None:
            raise ValueError("mask: side='random' needs a key; none came. Pass key=jr.key(0).")
        _checks.key(key, "mask: key")
        return _pick(key, shape, _share(fraction, math.prod(shape)))
    if len(shape) < 2:
        raise ValueError(f"mask: a side needs a picture (height, width); shape {shape} came.")
    axis = 0 if side in ("top", "bottom") else 1
    size = shape[axis]
    count = _share(fraction, size)
    line = jnp.arange(size, dtype=jnp.int32)
    hidden = line < count if side in ("top", "left") else line >= size - count
    # One line of booleans, stretched over all other axes.
    hidden = hidden.reshape([size if a == axis else 1 for a in range(len(shape))])
    return jnp.broadcast_to(hidden, shape)


def add_gaussian(
    key: Key, x: Shaped[ArrayLike, "*shape"], sigma: Shaped[ArrayLike, ""]
) -> Shaped[Array, "*shape"]:
    r"""Add independent Gaussian noise to every value.

    $$x_i \mapsto x_i + \sigma \epsilon_i, \quad \epsilon_i \sim \mathcal{N}(0, 1)$$

    **Arguments:**

    - `key`: a JAX random key.
    - `x`: one state. The result is no longer made of spins; `jnp.sign` brings it back.
    - `sigma`: standard deviation, finite and at least 0, in the unit of `x`; may be traced.

    **Returns:** the noisy state.

    **Raises:** `ValueError` when `sigma` is negative or not finite (at run time where traced).
    """
    x = _checks.as_float(x, "add_gaussian: x")
    sigma = _checks.as_float(sigma, "add_gaussian: sigma")
    sigma = _checks.require(
        sigma,
        ~((sigma >= 0) & jnp.isfinite(sigma)),
        f"add_gaussian: sigma must be finite and at least 0; {_came(sigma)} came.",
    )
    return x + sigma.astype(x.dtype) * jr.normal(key, x.shape, x.dtype)


def _state(x: ArrayLike, space: AbstractSpace, where: str) -> Array:
    """A state as floats; raise unless its units can be flipped."""
    x = space.asarray(x, f"{where}: x")
    return _checks.not_bits(x, f"{where}: x") if isinstance(space, Spins) else space.check(x, where)


def _fraction(value: ArrayLike, where: str) -> Array:
    """Return a number in [0, 1] as float32, whatever the dtype of the state.

    One dtype, so that a key picks the same bits with and without x64.
    """
    number = _checks.as_float(value, where).astype(jnp.float32)
    return _checks.require(
        number,
        ~((number >= 0) & (number <= 1)),
        f"{where} must be from 0 to 1; {_came(value)} came. A percentage is divided by 100.",
    )


def _count(k: ArrayLike, size: int, where: str) -> Array:
    """Return an integer in [0, size] as int32."""
    message = f"{where} must be from 0 to the number of bits, {size}; {_came(k)} came."
    # Before JAX sees it: a huge Python int would raise OverflowError there.
    if isinstance(k, int) and not 0 <= k <= size:
        raise ValueError(message)
    k = jnp.asarray(k)
    if not jnp.issubdtype(k.dtype, jnp.integer):
        raise TypeError(
            f"{where} must be an integer; {k.dtype} came. A fraction of the bits is flip's p."
        )
    return _checks.require(k, (k < 0) | (k > size), message).astype(jnp.int32)


def _came(value: ArrayLike) -> object:
    """Name a value in an error message; a tracer has none to show."""
    return np.asarray(value) if _checks.is_concrete(value) else "another value"


def _share(fraction: Array, size: int) -> Array:
    """Round a fraction of `size` to a whole number, halves upward."""
    return jnp.floor(fraction * size + 0.5).astype(jnp.int32)


def _pick(key: Key, shape: tuple[int, ...], count: Array) -> Array:
    """Return booleans with exactly `count` true, every choice equally likely.

    The ranks of a random permutation, not `jr.choice`, so that `count` may be traced.
    """
    ranks = jr.permutation(key, jnp.arange(math.prod(shape), dtype=jnp.int32))
    return (ranks < count).reshape(shape)


def _picture_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape under which a state is a picture: its own, or a square."""
    if len(shape) >= 2:
        return shape
    size = math.prod(shape)
    side = math.isqrt(size)
    if side * side != size:
        raise ValueError(
            f"mask: a flat state of {size} bits is no square picture. "
            "Pass its shape=(height, width)."
        )
    return (side, side)
