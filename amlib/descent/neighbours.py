"""What a flip changes in a local value: for each bit the terms that read it, as arrays.

The terms of each bit fill *slots*; each slot says which other bits its term reads, and what turning
the bit changes, by the values of those. Terms of a bit that read the same other bits share a slot.

Sums of floats that are carried keep the rounding of the largest value that they have had. That is
no more than the energy itself has where each term has about one size for all values of its bits.
Of other terms, such as penalties, the old value and the new are added apart and in twice the
precision (Dekker 1971, Numer. Math. 18, 224), so that what is carried is the sum of the terms as
they are now.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from amlib.descent.carried import AbstractRows, Carried
from amlib.descent.jaxprs import Unsupported, Value
from amlib.descent.pairs import add_exactly, sum_exactly
from amlib.descent.terms import NONE, Block, Terms, columns, is_known, is_product, rows, split

MAX_SLOT_BYTES = 2**30
"""Tables of slots larger than this (1 GiB) are not kept."""

_UNROLLED = 64  # slots that are added one by one, in an order that every program keeps
_TAME = 16.0  # how much larger than at its least a term may be, and still be carried as one float


class Slots(eqx.Module):
    """Terms of one kind, `T` for each bit.

    - `others`: `(D, T, k)`, the other bits that each term reads.
    - `table`: what turning the bit from -1 to +1 adds: `(D, T)`, times the product of the others,
      where `kind` is "product"; `(D, T, 2**k)`, by the values of the others, where it is "change";
      `(D, T, 2**k, 2)`, the values before and after, where it is "exact".
    - `element`: `(D, T)`, which element of the value it is added to, out of bounds in slots that
      are not used; `None` where the value has one.
    """

    others: Value
    table: Value
    element: Value | None
    kind: str = eqx.field(static=True)

    def change(self, seen: Value, s: Array) -> Array:
        """What each term adds when its bit goes from `s` to `-s`.

        **Arguments:**

        - `seen`: the values of `others`.
        - `s`: the bits, with one axis less than the terms have.
        """
        if self.kind == "exact":
            old, new = self.before_and_after(seen, s)
            return new - old
        if self.kind == "product":
            table = jnp.asarray(self.table)
            up = table * jnp.prod(seen.astype(table.dtype), -1, dtype=table.dtype)
        else:
            up = self._looked_up(seen)
        return jnp.where(s[..., None] > 0, -up, up)

    def before_and_after(self, seen: Value, s: Array) -> tuple[Array, Array]:
        """The values of the terms, of kind "exact", before and after."""
        minus, plus = (self._looked_up(seen, k) for k in range(2))
        up = s[..., None] > 0
        return jnp.where(up, plus, minus), jnp.where(up, minus, plus)

    def _looked_up(self, seen: Value, side: int | None = None) -> Array:
        table = jnp.asarray(self.table if side is None else self.table[..., side])
        k = seen.shape[-1]
        if k == 0:
            return table[..., 0]
        if k == 1:
            return jnp.where(seen[..., 0] > 0, table[..., 1], table[..., 0])
        return jnp.take_along_axis(table, column_of(seen)[..., None], -1)[..., 0]


class Neighbours(AbstractRows):
    """The terms of each bit of one local value.

    `precise` is whether the sum is carried in twice the precision, as a pair.
    """

    slots: tuple[Slots, ...]
    precise: bool = eqx.field(static=True)
    dtype: np.dtype = eqx.field(static=True)

    def reads(self) -> tuple[Value, ...]:
        """The other bits of each term."""
        return tuple(s.others for s in self.slots)

    def value(self, carried: Carried) -> Array:
        """The value, to its own precision."""
        return carried[0] if self.precise else carried

    def change(self, seen: tuple[Value, ...], s: Array) -> Array:
        """What turning bits from `s` to `-s`, each alone, adds to a value of one element."""
        parts = [t.change(o, s) for t, o in zip(self.slots, seen, strict=True)]
        return sum_in_order(parts) if parts else jnp.zeros(s.shape, self.dtype)

    def moved(self, place: np.ndarray) -> "Neighbours":
        """See `AbstractRows`."""
        slots = [dataclasses.replace(t, others=place[t.others]) for t in self.slots]
        return dataclasses.replace(self, slots=tuple(slots))

    def exact_change(self, seen: tuple[Value, ...], s: Array) -> tuple[Array, Array]:
        """The change, and its rounding error."""
        parts = []
        for t, o in zip(self.slots, seen, strict=True):
            if t.kind == "exact":
                old, new = t.before_and_after(o, s)
                parts += [new, -old]
            else:
                parts.append(t.change(o, s))
        return sum_exactly(jnp.concatenate(parts, -1))

    def flipped(self, carried: Carried, seen: tuple[Value, ...], s: Array) -> Carried:
        """See `AbstractRows`."""
        if not self.slots:  # no bit changes it
            return carried
        if self.precise:
            return add_exactly(carried, self.exact_change(seen, s))
        if self.slots[0].element is not None:
            flat = carried.reshape(-1)
            for t, o in zip(self.slots, seen, strict=True):
                flat = flat.at[t.element].add(t.change(o, s), mode="drop")
            return flat.reshape(carried.shape)
        return carried + self.change(seen, s).reshape(carried.shape)


def sum_in_order(parts: Sequence[Array]) -> Array:
    """The sum over the last axis of all parts, one after the other where these are few.

    A reduction may add in another order in another program; flips that are tried together are to
    decide as they do one by one.
    """
    total: Array | None = None
    for p in parts:
        T = p.shape[-1]
        each = [p[..., t] for t in range(T)] if T <= _UNROLLED else [jnp.sum(p, -1, dtype=p.dtype)]
        for a in each:
            total = a if total is None else total + a
    assert total is not None
    return total


# -- all terms ------------------------------------------------------------------------------------


class Summands(eqx.Module):
    """All terms of a value of one element, to be added up at a state."""

    bits: tuple[Value, ...]
    tables: tuple[Value, ...]

    def total(self, x: Array) -> tuple[Array, Array]:
        """The sum, and its rounding error."""
        flat, parts = x.reshape(-1), []
        for bits, table in zip(self.bits, self.tables, strict=True):
            column = column_of(flat[bits])[:, None]
            parts.append(jnp.take_along_axis(jnp.asarray(table), column, 1)[:, 0])
        return sum_exactly(jnp.concatenate(parts))


def column_of(seen: Value) -> Array:
    """The column of a table where these bits, along the last axis, have these values."""
    column = jnp.zeros(seen.shape[:-1], jnp.int32)
    for j in range(seen.shape[-1]):
        column |= (seen[..., j] > 0).astype(jnp.int32) << j
    return column


# -- from terms to slots ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Neighbourhood:
    """The slots of a value, with what is known of them now.

    - `rows`: the slots.
    - `summands`: all terms, where their sum is carried in twice the precision.
    - `degree`: most terms that one bit has.
    - `pairs`: `(P, 2)`, bits that share a term.
    - `terms`: how many terms there are.
    - `nbytes`: of the tables.
    - `largest`: the sum over all terms of the largest size of each, an array.
    - `least`: how small the sum of the sizes of all terms may be, where there are `summands` and it
      is not 0.
    """

    rows: Neighbours
    summands: "Summands | None"
    degree: int
    pairs: np.ndarray
    terms: int
    nbytes: int
    largest: Array | np.floating | np.integer | float
    least: Array | np.floating | np.integer | float


class _Entry(NamedTuple):
    """Terms seen from one of their bits, `k` others each."""

    bit: np.ndarray
    element: np.ndarray
    others: np.ndarray
    table: Value
    kind: str


def neighbourhood(value: Terms, D: int) -> Neighbourhood:
    """Sort the terms of a local value by the bits that read them.

    **Raises:** `Unsupported` for tables beyond `MAX_SLOT_BYTES`.
    """
    kinds = [_kind(b) for b in value.blocks]
    one = value.size == 1
    groups: dict[tuple[int, str], list[_Entry]] = {}
    for b, kind in zip(value.blocks, kinds, strict=True):
        for j in range(b.m):
            entry = _entry(b, j, kind)
            groups.setdefault((entry.others.shape[1], kind), []).append(entry)
    merged = [_merged(entries) for entries in groups.values()]
    slots, degree, nbytes = [], 0, 0
    for entry in merged:
        if len(entry.bit):
            slots.append(_slots(entry, D, value.size, one))
            degree += slots[-1].others.shape[1]
            nbytes += sum(math.prod(a.shape) * a.dtype.itemsize for a in jax.tree.leaves(slots[-1]))
    if nbytes > MAX_SLOT_BYTES:
        raise Unsupported(
            f"the terms of all bits would take {nbytes / 2**30:.1f} GiB, "
            f"more than the limit of {MAX_SLOT_BYTES / 2**30:.1f} GiB"
        )
    summands = None
    if "exact" in kinds:
        bits = tuple(np.where(b.bits == NONE, 0, b.bits) for b in value.blocks)
        summands = Summands(bits, tuple(b.table for b in value.blocks))
    return Neighbourhood(
        Neighbours(tuple(slots), summands is not None, value.dtype),
        summands,
        degree,
        _pairs(merged, D),
        value.count,
        nbytes,
        sum((_largest(b) for b in value.blocks), 0.0),
        0.0 if summands is None else _least(value.blocks),
    )


def is_uneven(value: Terms) -> bool:
    """Whether terms of a value are to be added in twice the precision."""
    return any(_kind(b) == "exact" for b in value.blocks)


def _largest(b: Block) -> Array | np.floating | np.integer:
    with np.errstate(all="ignore"):
        size = np.abs(b.table) if is_known(b.table) else jnp.abs(b.table)
        return size.max(1, initial=0).sum()


def _least(blocks: Sequence[Block]) -> Any:
    total, smallest = 0.0, np.inf
    for b in blocks:
        lib: Any = np if is_known(b.table) else jnp
        with np.errstate(all="ignore"):
            size = lib.abs(b.table)
            total += size.min(1, initial=np.inf).sum() if size.size else 0.0
            some = lib.where(size > 0, size, np.inf).min(initial=np.inf)
            smallest = jnp.minimum(smallest, some) if lib is jnp else min(smallest, some)
    return jnp.maximum(total, smallest) if isinstance(total, Array) else max(total, smallest)


def _kind(b: Block) -> str:
    if b.product or is_product(b.bits, b.table):
        return "product"
    if not jnp.issubdtype(b.table.dtype, jnp.inexact) or b.balanced:
        return "change"
    if isinstance(b.table, np.ndarray):
        size = np.abs(b.table)
        with np.errstate(all="ignore"):
            if (size.max(1) <= _TAME * size.min(1)).all():
                return "change"
    return "exact"


def _entry(b: Block, j: int, kind: str) -> _Entry:
    """The terms of a block, seen from their bit `j`."""
    which, bit, others = split(b, j)
    table = rows(b.table, which) if len(which) < len(b.bits) else b.table
    minus, plus = columns(b.m, j)
    with np.errstate(all="ignore"):
        if kind == "product":
            table = table[:, plus[-1]] - table[:, minus[-1]]
        elif kind == "change":
            table = table[:, plus] - table[:, minus]
        elif is_known(table):
            table = np.stack([table[:, minus], table[:, plus]], -1)
        else:
            table = jnp.stack([table[:, minus], table[:, plus]], -1)
    return _Entry(bit, b.element[which], others, table, kind)


def _merged(entries: Sequence[_Entry]) -> _Entry:
    """Terms of one bit that read the same others become one; what changes nothing is dropped."""
    known = all(is_known(e.table) for e in entries)
    bit, element, others = (
        np.concatenate([getattr(e, name) for e in entries]) for name in ("bit", "element", "others")
    )
    join = np.concatenate if known else jnp.concatenate
    table = join([e.table for e in entries])
    keys = [*others.T[::-1], element, bit]
    order = np.lexsort(keys)
    ordered = np.stack([k[order] for k in keys])
    new = np.ones(len(order), bool)
    new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(0)
    table = rows(table, order)
    first = order[new]
    if not new.all():
        if isinstance(table, np.ndarray):
            with np.errstate(all="ignore"):
                table = np.add.reduceat(table, np.flatnonzero(new), axis=0, dtype=table.dtype)
        else:
            group = np.cumsum(new) - 1
            table = jax.ops.segment_sum(table, group, len(first), indices_are_sorted=True)
    merged = _Entry(bit[first], element[first], others[first], table, entries[0].kind)
    if isinstance(table, np.ndarray):
        low = table[..., 0] if merged.kind == "exact" else np.zeros_like(table)
        high = table[..., 1] if merged.kind == "exact" else table
        used = np.flatnonzero((low != high).any(tuple(range(1, low.ndim))))
        merged = merged._replace(
            bit=merged.bit[used],
            element=merged.element[used],
            others=merged.others[used],
            table=table[used],
        )
    return merged


def _slots(e: _Entry, D: int, size: int, one: bool) -> Slots:
    """Terms sorted by their bit as `T` slots for each bit."""
    counts = np.bincount(e.bit, minlength=D)
    T = int(counts.max())
    if D * T * (e.others.shape[1] * 4 + math.prod(e.table.shape[1:]) * 4) > MAX_SLOT_BYTES:
        raise Unsupported(
            f"one bit has {T:,} terms: room for as many terms of every bit would be too much"
        )
    place = np.arange(len(e.bit)) - np.repeat(np.cumsum(counts) - counts, counts)
    others = np.zeros((D, T, e.others.shape[1]), np.int32)
    others[e.bit, place] = np.where(e.others == NONE, 0, e.others)
    at = np.full((D, T), len(e.bit))
    at[e.bit, place] = np.arange(len(e.bit))
    if isinstance(e.table, np.ndarray):
        table = np.concatenate([e.table, np.zeros((1, *e.table.shape[1:]), e.table.dtype)])[at]
    else:
        table = e.table.at[at].get(mode="fill", fill_value=0)
    element = None
    if not one:
        element = np.full((D, T), size, np.int32)
        element[e.bit, place] = e.element
    return Slots(others, table, element, e.kind)


def _pairs(entries: Sequence[_Entry], D: int) -> np.ndarray:
    """Bits that share a term, each pair once."""
    keys = []
    for e in entries:
        for j in range(e.others.shape[1]):
            other = e.others[:, j].astype(np.int64)
            real = (other != NONE) & (e.bit < other)
            keys.append(e.bit[real] * np.int64(D) + other[real])
    found = np.unique(np.concatenate(keys)) if keys else np.zeros(0, np.int64)
    return np.stack([found // D, found % D], 1)
