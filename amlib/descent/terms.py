"""Values that are sums of functions of few bits each, kept as tables.

A function of `m` bits has `2**m` values, so a table of them is the function: the kind of value that
`Terms` holds is closed under every elementwise operation, as long as few bits come together. What
an element reads (`bits`) is NumPy and known when an energy is traced; what it is worth (`table`)
may be traced.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from amlib._types import Shape
from amlib.descent.jaxprs import Value

NONE = np.iinfo(np.int32).max
"""No bit, where a term reads fewer than its block has room for. It sorts last."""

MAX_BITS = 10
"""Most bits that one term may read: its table has 2**MAX_BITS values."""

MAX_TABLE = 2**24
"""Most numbers in the tables of one value."""

MAX_SUMMANDS = 16
"""Most terms of one element that are joined into one, or multiplied out."""


class TooLarge(Exception):
    """A value would need tables beyond the limits."""


class Block(NamedTuple):
    """Terms that read equally many bits.

    - `element`: which element of the value each adds to, as a flat index.
    - `bits`: `(N, m)`, the bits that each reads, increasing, padded by `NONE`.
    - `table`: `(N, 2**m)`; in column `c` bit `j` of the term is +1 where bit `j` of `c` is set.
    - `product`: whether each is known to be a number times the product of its `m` spins.
    - `balanced`: whether each is known to have one size for all values of its bits.
    """

    element: np.ndarray
    bits: np.ndarray
    table: Value
    product: bool
    balanced: bool

    @property
    def m(self) -> int:
        return self.bits.shape[1]

    def rows(self, at: np.ndarray, element: np.ndarray) -> "Block":
        """The terms `at`, for other elements."""
        return self._replace(element=element, bits=self.bits[at], table=rows(self.table, at))

    def mapped(self, f: Callable[[Value], Value], **flags: bool) -> "Block":
        """A function of the tables."""
        return self._replace(table=f(self.table), **flags)

    def wider(self, m: int) -> "Block":
        """The same terms with room for `m` bits."""
        if m == self.m:
            return self
        spare = np.full((len(self.bits), m - self.m), NONE, np.int32)
        xp = _numpy(self.table)
        table = xp.tile(self.table, (1, 2 ** (m - self.m)))
        return self._replace(bits=np.concatenate([self.bits, spare], 1), table=table, product=False)


@dataclasses.dataclass(frozen=True)
class Terms:
    """A value whose elements are sums of terms.

    **Arguments:**

    - `shape`, `dtype`: of the value.
    - `blocks`: its terms.
    - `single`: whether there is one block, with one term for each element, in order.
    """

    shape: Shape
    dtype: np.dtype
    blocks: tuple[Block, ...]
    single: bool

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def count(self) -> int:
        """How many terms there are."""
        return sum(len(b.element) for b in self.blocks)

    def is_infinite(self) -> bool:
        """Whether it is known now that a term is infinite or no number: sums are not rid of it."""
        known = [b.table for b in self.blocks if is_known(b.table)]
        return any(not np.isfinite(t).all() for t in known if t.dtype != bool)

    def with_blocks(self, blocks: Sequence[Block], shape: Shape | None = None) -> "Terms":
        """Other terms; no longer one for each element."""
        shape = self.shape if shape is None else shape
        return Terms(shape, self.dtype, tuple(b for b in blocks if len(b.element)), False)

    def spread(self, shape: Shape) -> "Terms":
        """A scalar operand of an elementwise operation, as large as the others."""
        if self.shape == tuple(shape):
            return self
        return self.taken(np.broadcast_to(np.arange(self.size).reshape(self.shape), shape))

    def joined(self) -> Block:
        """One term for each element, that reads all the bits which the element does."""
        if self.single:
            return self.blocks[0]
        slots: list[Block] = []
        for b in self.blocks:
            slots += _slots(b, self.size)
        if not slots:
            none = np.zeros((self.size, 1), self.dtype)
            bits = np.zeros((self.size, 0), np.int32)
            return Block(np.arange(self.size), bits, none, False, True)
        if len(slots) > MAX_SUMMANDS:
            raise TooLarge
        bits, tables = together(slots)
        total = tables[0]
        with np.errstate(all="ignore"):
            for t in tables[1:]:
                total = total + t
        return Block(np.arange(self.size), bits, total, False, _same_size(total))

    def taken(self, src: np.ndarray) -> "Terms":
        """Another value, whose elements are elements of this one: `src`, of the new shape."""
        flat = src.reshape(-1).astype(np.int64)
        if self.single:
            (b,) = self.blocks
            check_room(flat.size, b.m)
            blocks = (b.rows(flat, np.arange(flat.size)),)
            return Terms(src.shape, self.dtype, blocks, True)
        blocks = []
        for b in self.blocks:
            new, at = _spread(b.element, flat, self.size)
            check_room(len(at), b.m)
            blocks.append(b.rows(at, new))
        return self.with_blocks(blocks, src.shape)


def constant_terms(value: Value, dtype: np.dtype) -> Terms:
    """A value that depends on no bit."""
    shape = tuple(np.shape(value))
    n = math.prod(shape)
    table = _numpy(value).reshape(value, (-1, 1))
    block = Block(np.arange(n), np.zeros((n, 0), np.int32), table, True, True)
    return Terms(shape, dtype, (block,), True)


def pooled(values: Sequence[Terms]) -> Terms:
    """All elements of some values, one after the other, as one flat value."""
    size, dtype = sum(v.size for v in values), values[0].dtype
    starts = np.cumsum([0, *(v.size for v in values)])
    if all(v.single for v in values):
        m = max(v.blocks[0].m for v in values)
        blocks = [v.blocks[0].wider(m) for v in values]
        bits = np.concatenate([b.bits for b in blocks])
        check_room(size, m)
        table = concatenate([b.table for b in blocks])
        flags = (all(b.product for b in blocks), all(b.balanced for b in blocks))
        return Terms((size,), dtype, (Block(np.arange(size), bits, table, *flags),), True)
    moved = [
        b._replace(element=b.element + start)
        for v, start in zip(values, starts, strict=False)
        for b in v.blocks
    ]
    return Terms((size,), dtype, tuple(moved), False)


def together(blocks: Sequence[Block]) -> tuple[np.ndarray, list[Value]]:
    """The bits that terms of several blocks read, row by row, and their tables over these.

    **Raises:** `TooLarge` for too many bits.
    """
    bits = np.concatenate([b.bits for b in blocks], 1)
    bits.sort(axis=1)
    again = bits[:, 1:] == bits[:, :-1]
    bits[:, 1:][again] = NONE
    bits.sort(axis=1)
    m = int((bits != NONE).sum(1).max(initial=0))
    check_room(len(bits), m)
    bits = bits[:, :m]
    return bits, [_over(b, bits) for b in blocks]


def check_room(n: int, m: int) -> None:
    """Raise `TooLarge` unless `n` terms of `m` bits are within the limits."""
    if m > MAX_BITS or n * 2**m > MAX_TABLE:
        raise TooLarge


def products(a: Terms, b: Terms, times: Callable[[Block, Block], Block]) -> list[Block]:
    """The products of the terms of two values, element by element.

    **Raises:** `TooLarge` where that is no longer few terms.
    """
    made = []
    for first in a.blocks:
        for second in b.blocks:
            which, at = _spread(second.element, first.element, a.size)
            if len(which) > MAX_SUMMANDS * max(a.size, len(first.element), len(second.element)):
                raise TooLarge
            element = first.element[which]
            made.append(times(first.rows(which, element), second.rows(at, element)))
    return made


def summed(o: Terms, axes: Sequence[int], shape: tuple[int, ...]) -> Terms:
    """The sums of a value over some axes."""
    places = places_of(o.shape, axes, ())[0]
    target = np.zeros(o.size, np.int64)
    target[places.reshape(-1)] = np.repeat(np.arange(len(places)), places.shape[1])
    moved = [b._replace(element=target[b.element]) for b in o.blocks]
    return o.with_blocks(moved, tuple(shape))


def places_of(shape: tuple[int, ...], last: Sequence[int], first: Sequence[int]) -> np.ndarray:
    """Flat indices with the axes `first` in front, `last` at the end: three axes in all."""
    free = [a for a in range(len(shape)) if a not in (*last, *first)]
    order = [int(a) for a in (*first, *free, *last)]
    index = np.arange(math.prod(shape)).reshape(shape).transpose(order)
    size = lambda axes: math.prod(shape[a] for a in axes)
    return index.reshape(size(first), size(free), size(last))


def split(b: Block, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The terms that read a bit at place `j`: which they are, that bit, and the others."""
    which = np.flatnonzero(b.bits[:, j] != NONE)
    return which, b.bits[which, j], np.delete(b.bits[which], j, axis=1)


def columns(m: int, j: int) -> tuple[np.ndarray, np.ndarray]:
    """The columns of a table where bit `j` of its `m` is -1, and those where it is +1."""
    low = np.arange(2 ** (m - 1))
    minus = ((low >> j) << (j + 1)) | (low & ((1 << j) - 1))
    return minus, minus | (1 << j)


# -- tables ----------------------------------------------------------------------------------------


def is_known(table: Value) -> bool:
    """Whether the numbers are known when the energy is traced."""
    return isinstance(table, np.ndarray)


def rows(table: Value, at: np.ndarray) -> Value:
    """Some rows of a table."""
    if isinstance(table, np.ndarray):
        return table[at]
    return table.at[at].get(mode="promise_in_bounds")


def concatenate(tables: Sequence[Value]) -> Value:
    """Tables one below the other."""
    return np.concatenate(tables) if all(map(is_known, tables)) else jnp.concatenate(tables)


def is_product(bits: np.ndarray, table: Value) -> bool:
    """Whether it can be seen now that each term is a number times the product of its bits."""
    if not isinstance(table, np.ndarray) or (bits == NONE).any():
        return False
    if table.dtype == bool:
        return False
    m = bits.shape[1]
    minus = m - np.array([c.bit_count() for c in range(2**m)])
    with np.errstate(all="ignore"):
        last = table[:, -1:]
        return bool((np.where(minus % 2, -last, last) == table).all())


def _numpy(table: Value):
    return np if isinstance(table, np.ndarray) else jnp


def _same_size(table: Value) -> bool:
    if not isinstance(table, np.ndarray) or table.dtype == bool:
        return False
    return bool((np.abs(table) == np.abs(table[:, :1])).all())


def _over(b: Block, bits: np.ndarray) -> Value:
    """The table of a block over more bits than it reads, of which column is which."""
    m = bits.shape[1]
    if b.m == m and (b.bits is bits or np.array_equal(b.bits, bits)):
        return b.table
    codes = np.arange(2**m)[None]
    column = np.zeros((1, 2**m), np.int64)
    for j in range(b.m):
        own = b.bits[:, j : j + 1]
        read = own != NONE
        if not read.any():
            continue
        place = np.argmax(bits == own, axis=1)[:, None]
        if (place == place[:1]).all() and read.all():
            place, read = place[:1], read[:1]
        column = column | (((codes >> place) & read) << j)
    xp = _numpy(b.table)
    if len(column) == 1:
        return b.table[:, column[0]]
    return xp.take_along_axis(b.table, column, axis=1)


def _spread(element: np.ndarray, wanted: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """For each of the elements `wanted` the terms that add to it.

    **Returns:** pairs of a place in `wanted` and a place in `element`.
    """
    if len(element) == size and (element == np.arange(size)).all():
        return np.arange(len(wanted)), wanted
    order = np.argsort(element, kind="stable")
    counts = np.bincount(element, minlength=size)
    starts = np.cumsum(counts) - counts
    many = counts[wanted]
    which = np.repeat(np.arange(len(wanted)), many)
    within = np.arange(len(which)) - np.repeat(np.cumsum(many) - many, many)
    return which, order[starts[wanted][which] + within]


def _slots(b: Block, size: int) -> list[Block]:
    """The terms of a block as blocks with one term for each element, zero where there is none."""
    counts = np.bincount(b.element, minlength=size)
    if counts.max(initial=0) > MAX_SUMMANDS:
        raise TooLarge
    order = np.argsort(b.element, kind="stable")
    starts = np.cumsum(counts) - counts
    spare = len(b.element)  # a term that is nothing
    bits = np.concatenate([b.bits, np.full((1, b.m), NONE, np.int32)])
    zero = np.zeros((1, 2**b.m), b.table.dtype)
    table = concatenate([b.table, zero])
    order = np.append(order, spare)
    slots = []
    for k in range(int(counts.max(initial=0))):
        at = order[np.where(k < counts, starts + k, spare)]
        slots.append(Block(np.arange(size), bits[at], rows(table, at), False, False))
    return slots
