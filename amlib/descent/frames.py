"""The states of a recall of spins, by the record of its flips: an array that is not stored."""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
from jax import lax
from jaxtyping import Array, Bool, Integer, Shaped
from numpy.lib.mixins import NDArrayOperatorsMixin

from amlib import _show as show
from amlib._checks import is_concrete
from amlib._types import Nested, Shape
from amlib.spaces import AbstractFinite, Spins

OneIndex: TypeAlias = slice | EllipsisType | Nested | None
Index: TypeAlias = OneIndex | tuple[OneIndex, ...]
Places: TypeAlias = Array | np.ndarray
"""Integers along an axis, or a mask."""

# What an array is asked for, beside its operators: rebuilt in full, then asked.
_METHODS = frozenset(
    "T all any argmax argmin argsort astype at clip copy cumprod cumsum diagonal dot flatten item "
    "max mean min nonzero prod ravel repeat reshape round sort squeeze std sum swapaxes take "
    "tolist trace transpose var".split()
)


class Frames(NDArrayOperatorsMixin, eqx.Module):
    """The states of an asynchronous recall after each visit, rebuilt on demand.

    A read-only array of shape `(*batch, T, *state)`. It is indexed as NumPy's arrays are, and
    `frames[::100]`, `frames[-1]` and `frames[3, 500]` rebuild only what they ask for. Everything
    else that arrays do (comparisons, arithmetic, `frames.mean(0)`, `jnp` and `np` functions,
    einops) rebuilds all frames first, as `np.asarray(frames)` does. Five bytes per visit are kept
    instead of a state.

    `jax.vmap` maps a batch of recalls, `jax.vmap(lambda one: one[-1])(frames)`; over single states
    it maps `frames[...]`.

    **Arguments:**

    - `x0`: the starting state(s).
    - `visited`: the bit attempted at each visit, an index into the flattened state.
    - `accepted`: whether the flip was kept.
    - `space`: what the values of a unit are.
    - `values`: of units of several values, what the visited one was to become.
    """

    x0: Shaped[Array, "*batch_state"]
    visited: Integer[Array, "..."]
    accepted: Bool[Array, "*batch T"]
    space: AbstractFinite = eqx.field(static=True, default=Spins())
    values: Integer[Array, "*batch T"] | None = None

    __repr__ = show.text

    @property
    def _batch_ndim(self) -> int:
        if self.accepted.ndim == 0:
            raise TypeError(
                "Frames: must keep their axis of time; a map over single states took it. "
                "Map np.asarray(frames), or frames[...] inside jit."
            )
        return self.accepted.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """`(*batch, T, *state)`."""
        batch = self._batch_ndim
        return (*self.accepted.shape, *self.x0.shape[batch:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of spins in all frames."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype:
        """Dtype of the spins."""
        return self.x0.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Index) -> Array:
        parts = _parts(index, self.shape)
        lead = self._batch_ndim
        recall: tuple[Array, ...] = (self.x0, self.visited, self.accepted)
        recall += () if self.values is None else (self.values,)
        times: Places = np.zeros(0, int)
        rest: list[
            slice | Places | int | None
        ] = []  # what is left to do once the frames asked for are rebuilt
        for part in parts:
            if part.axis is None or part.entry is None or part.axis > lead:
                rest.append(part.entry)
                continue
            taken, left = _split(part.entry)
            rest.append(left)
            if part.axis == lead:
                times = np.arange(self.shape[lead])[taken] if isinstance(taken, slice) else taken
            elif not (isinstance(taken, slice) and taken == slice(None)):
                at = (slice(None),) * part.axis + (taken,)
                recall = tuple(a[at] for a in recall)
        frames = self._rebuilt(lead, recall, jnp.asarray(times))
        flagged = tuple(None if part.flag else slice(None) for part in parts if part.has_axis)
        frames = frames[flagged][tuple(rest)]
        return frames.squeeze(_axes_of_dots(parts))

    def _rebuilt(self, lead: int, recall: tuple[Array, ...], times: Array) -> Array:
        """The states after visits `times`, of recalls with so many batch axes."""
        x0, *record = recall
        space = self.space
        rebuild = _rebuild if self.values is None else _rebuild_values
        for _ in range(lead):
            rebuild = jax.vmap(rebuild, in_axes=(*(0,) * len(recall), None))
        if self.values is not None:
            return rebuild(x0, *record, times)
        return space.from_spins(rebuild(space.to_spins(x0), *record, times))

    def __iter__(self) -> Iterator[Array]:
        block = max(1, 2**22 // max(1, math.prod(self.shape[1:])))
        for start in range(0, len(self), block):
            yield from self[start : start + block]

    # -- as an array ---------------------------------------------------------------------------

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Frames: are rebuilt, so they can't be shared without a copy.")
        return np.asarray(self[...], dtype=dtype)

    def __jax_array__(self) -> Array:
        return self[...]

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: Any) -> Any:
        """All operators come here (`NDArrayOperatorsMixin`), and the functions of NumPy."""
        inputs = tuple(a[...] if isinstance(a, Frames) else a for a in inputs)
        out = options.pop("out", None)
        in_place = out is not None and isinstance(out[0], Frames)  # `frames += 1` rebinds the name
        function = getattr(jnp, ufunc.__name__, None)
        if method == "__call__" and not options and function and (out is None or in_place):
            return function(*inputs)
        options |= {} if out is None else {"out": out}
        return getattr(ufunc, method)(*map(np.asarray, inputs), **options)

    def __getattr__(self, name: str) -> Any:
        if name in _METHODS:
            return getattr(self[...], name)
        raise AttributeError(
            f"Frames: have no attribute {name!r}. np.asarray(frames) is an array of all states."
        )

    def __bool__(self) -> bool:
        if self.size != 1:
            raise ValueError(
                f"Frames: only a single value is true or false; shape {self.shape} came. "
                "Use any() or all(), or len(frames)."
            )
        return bool(self[...])

    def __contains__(self, x: object) -> bool:
        raise TypeError(
            "Frames: `in` would compare single spins, and nearly always be true. Compare states: "
            "(np.asarray(frames) == x).all(-1).any()."
        )


@functools.partial(jax.jit, inline=False)
def _rebuild(x0: Array, visited: Array, accepted: Array, times: Array) -> Array:
    """The states after visits `times`: one scatter and one running sum over the frames."""
    order = jnp.argsort(times)
    frame = jnp.searchsorted(times[order], jnp.arange(visited.shape[0]))
    visited = visited.reshape(
        visited.shape[0], math.prod(visited.shape[1:])
    ).T  # a row per bit of a move
    # Only the parity of the flips counts, and it survives the wrap-around of int8.
    flips = jnp.zeros((times.shape[0] + 1, x0.size), jnp.int8)
    flips = flips.at[frame, visited].add(accepted.astype(jnp.int8))
    odd = jnp.cumsum(flips[:-1], axis=0, dtype=jnp.int8) & 1
    sign = (1 - 2 * odd).astype(x0.dtype).reshape(times.shape[0], *x0.shape)
    return jnp.zeros_like(sign).at[order].set(sign) * x0[None]


@functools.partial(jax.jit, inline=False)
def _rebuild_values(
    x0: Array, visited: Array, accepted: Array, values: Array, times: Array
) -> Array:
    """The same of units of several values: the last change of each unit counts."""
    order = jnp.argsort(times)
    frame = jnp.searchsorted(times[order], jnp.arange(visited.shape[0]))
    number = jnp.arange(1, visited.shape[0] + 1, dtype=jnp.int32)
    last = jnp.zeros((times.shape[0] + 1, x0.size), jnp.int32)
    last = last.at[frame, visited].max(jnp.where(accepted, number, 0))
    last = lax.cummax(last[:-1], axis=0)
    known = jnp.concatenate([jnp.zeros(1, values.dtype), values]).astype(x0.dtype)
    made = jnp.where(last > 0, known[last], x0.reshape(1, -1))
    return jnp.zeros_like(made).at[order].set(made).reshape(times.shape[0], *x0.shape)


# -- indices, as NumPy reads them ----------------------------------------------------------------


class _Part(NamedTuple):
    """One entry of an index: a slice, an int or an array of ints; `None` for a new axis.

    `axis` is the one that it indexes. A boolean scalar (`flag`) indexes an axis of size 1 that
    is put in its place: by `[0]` if it is true, by `[]` if not. An ellipsis that stands for no
    axis (`dots`) parts the arrays on its two sides all the same: it becomes a new axis, which is
    taken away again. That is what NumPy does.
    """

    axis: int | None
    entry: slice | Places | None
    flag: bool = False
    dots: bool = False

    @property
    def has_axis(self) -> bool:
        """Whether it indexes an axis, its own or one that is put in its place."""
        return self.axis is not None or self.flag


def _parts(index: Index, shape: Shape) -> list[_Part]:
    """The index entry by entry, with one for every axis; raise where NumPy would."""
    entries = [_entry(i) for i in (index if isinstance(index, tuple) else (index,))]
    dots = [k for k, entry in enumerate(entries) if entry is Ellipsis]
    if len(dots) > 1:
        raise IndexError("Frames: an index can have one ellipsis (...); more came.")
    missing = len(shape) - sum(map(_axes_taken, entries))
    if missing < 0:
        raise IndexError(f"Frames: too many indices for {len(shape)} axes; {index!r} came.")
    k = dots[0] if dots else len(entries)
    entries[k : k + 1] = [slice(None)] * missing if missing or not dots else [Ellipsis]
    parts: list[_Part] = []
    axis = 0
    for entry in entries:
        taken = _axes_taken(entry)
        if isinstance(entry, EllipsisType):
            parts.append(_Part(None, None, dots=True))
        elif entry is None:
            parts.append(_Part(None, None))
        elif isinstance(entry, slice) or not _is_mask(entry):
            parts.append(_Part(axis, _within(entry, axis, shape[axis])))
        elif taken == 0:
            parts.append(_Part(None, np.zeros(int(entry), int), flag=True))
        else:
            _same_shape(entry, shape[axis : axis + taken], axis)
            places = np.nonzero(np.asarray(entry))
            parts += [_Part(axis + j, place) for j, place in enumerate(places)]
        axis += taken
    _fit_together(parts)
    return parts


def _entry(i: OneIndex) -> slice | EllipsisType | Places | None:
    """A slice, `None`, an ellipsis, or an array of integers or bools."""
    if i is None or isinstance(i, EllipsisType | slice):
        return i
    traced = not all(map(is_concrete, jax.tree.leaves(i)))
    try:
        a = jnp.asarray(i) if traced else np.asarray(i)
    except (TypeError, ValueError) as err:  # a list of lists of several lengths
        raise IndexError(f"Frames: an index must be an array; {i!r} came.") from err
    if a.size == 0 and isinstance(i, Sequence):
        return a.astype(int)
    if a.dtype == bool and traced:
        raise IndexError(
            "Frames: a boolean index must be known, for the shape depends on it; a traced one "
            "came. Use jnp.where(mask, frames[...], 0)."
        )
    if a.dtype != bool and not jnp.issubdtype(a.dtype, jnp.integer):
        raise IndexError(
            "Frames: only integers, slices, booleans, `...`, None and arrays of integers or "
            f"booleans are indices; {i!r} came."
        )
    return a


def _is_mask(entry: Places) -> bool:
    return isinstance(entry, np.ndarray) and entry.dtype == bool


def _axes_taken(entry: slice | EllipsisType | Places | None) -> int:
    if entry is None or isinstance(entry, EllipsisType):
        return 0
    return 1 if isinstance(entry, slice) or not _is_mask(entry) else entry.ndim


def _same_shape(mask: Places, shape: tuple[int, ...], axis: int) -> None:
    if mask.shape != shape:
        raise IndexError(
            f"Frames: a boolean index from axis {axis} on must have shape {shape}; "
            f"{mask.shape} came."
        )


def _within(entry: slice | Places, axis: int, size: int) -> slice | Places:
    """The entry without negative places; raise where it leaves the axis (JAX would clamp)."""
    if isinstance(entry, slice):
        try:
            entry.indices(size)
        except TypeError as err:
            raise IndexError(
                f"Frames: the ends of a slice must be known integers; {entry!r} came. "
                "Inside jit, index by start + jnp.arange(length)."
            ) from err
        return entry
    if not is_concrete(entry):
        return jnp.clip(jnp.where(entry < 0, entry + size, entry), 0, size - 1)
    entry = np.asarray(entry).astype(int)
    outside = entry[(entry < -size) | (entry >= size)]
    if outside.size:
        raise IndexError(
            f"Frames: index {outside[0]} is out of bounds for axis {axis} with size {size}."
        )
    return np.where(entry < 0, entry + size, entry)


def _arrays(parts: list[_Part]) -> list[Places]:
    """The entries that are neither slices nor new axes."""
    entries = [part.entry for part in parts]
    return [e for e in entries if e is not None and not isinstance(e, slice)]


def _fit_together(parts: list[_Part]) -> None:
    shapes = [entry.shape for entry in _arrays(parts)]
    try:
        np.broadcast_shapes(*shapes)
    except ValueError as err:
        raise IndexError(f"Frames: indices must broadcast; shapes {shapes} came.") from err


def _axes_of_dots(parts: list[_Part]) -> tuple[int, ...]:
    """The axes of the result that stand for an ellipsis of no axis."""
    dots = [k for k, part in enumerate(parts) if part.dots]
    plain = [part.entry is None or isinstance(part.entry, slice) for part in parts]
    shapes = [entry.shape for entry in _arrays(parts)]
    if not dots or not any(shapes):
        return tuple(sum(plain[:k]) for k in dots)
    arrays = [k for k, kept in enumerate(plain) if not kept]
    apart = arrays[-1] - arrays[0] >= len(arrays)  # then their axes come first
    (k,) = dots
    first = len(np.broadcast_shapes(*shapes)) if apart or arrays[0] < k else 0
    return (first + sum(plain[:k]),)


def _split(entry: slice | Places) -> tuple[slice | Places, slice | Places | int]:
    """What to take of an axis before the frames are rebuilt, and what is left to do after."""
    if isinstance(entry, slice):
        return entry, slice(None)
    if not is_concrete(entry):
        taken, left = entry.reshape(-1), np.arange(entry.size)
    else:
        taken, left = np.unique(entry.reshape(-1), return_inverse=True)
    return taken, left.reshape(entry.shape) if entry.ndim else 0


# -- einops --------------------------------------------------------------------------------------

with contextlib.suppress(ImportError):  # its registry of backends; without it, einops says no
    from einops._backends import JaxBackend

    class _Einops(JaxBackend):
        """Lets einops take frames: they have the methods that it calls."""

        framework_name = "amlib"

        def is_appropriate_type(self, tensor: object) -> bool:
            return hasattr(type(tensor), "__jax_array__")
