"""An energy cut in two: what a recall carries, and how the energy follows from it.

What is carried is affine in the bits, or a sum of terms of few bits; a flip changes it by a row, or
by the terms that read the bit.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from amlib.descent.affine import MOVES, Affine
from amlib.descent.carried import AbstractRows, Dense
from amlib.descent.evaluators import AbstractCarried, Compact, Incremental
from amlib.descent.jaxprs import Equation, Program
from amlib.descent.local import Locals
from amlib.descent.neighbours import Neighbourhood, neighbourhood
from amlib.descent.rows import RowMaker, Rows
from amlib.descent.separable import Separable, find_scaled, is_linear, largest_of_head
from amlib.descent.stabilizers import (
    Factor,
    Stabilizer,
    find_factor,
    find_stabilizers,
    most_above,
)

_COMPACT_FROM = 256  # elements per row from which int8 rows are worth a second program

_LARGEST_EXPONENT = 80.0  # of a power of a sum of exponentials; float32 holds exp(88)

# Cheap operations that the cut is pushed back through, so that what is carried is `Xi @ x`
# (exact for integer patterns) and not `beta * (Xi @ x) + b`.
_LIGHT = (MOVES - {"gather", "dynamic_slice", "dynamic_update_slice", "scatter"}) | {
    "neg", "mul", "div", "add", "add_any", "sub", "convert_element_type", "stop_gradient",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cut:
    """An energy cut in two: what is carried, and the equations from there to the energy.

    Carried values are affine, or sums of terms of few bits: these are in `local`.
    """

    program: Program
    analysis: Affine
    carried: list[int]
    head: list[Equation]
    uses_state: bool
    D: int
    out: Any  # the dtype of the energy
    local: dict[int, Neighbourhood] = dataclasses.field(default_factory=dict)

    @property
    def separable(self) -> bool:
        """Whether the energy is a weighted sum of sums of terms, and nothing else."""
        linear = is_linear(self.program, self.head, self.carried)
        return bool(self.local) and not self.uses_state and linear

    @property
    def pairs(self) -> np.ndarray:
        """Bits that share a term, of a separable energy."""
        return np.concatenate([n.pairs for n in self.local.values()])

    @property
    def cost(self) -> int:
        """The work of one flip, in additions."""
        program = self.program
        dense = sum(program.size(v) for v in self.carried if program.size(v) > 1)
        touched = sum(4 * n.degree for n in self.local.values())
        return sum(map(program.cost, self.head)) + 3 * dense + touched

    @property
    def row_bytes(self) -> int:
        """The size of the rows of affine values."""
        program, dense = self.program, [v for v in self.carried if v not in self.local]
        return self.D * sum(program.size(v) * _itemsize(self.analysis, v) for v in dense)

    def tables(self) -> dict[int, Rows]:
        """The rows of each affine carried value, made in the trace that uses them."""
        maker = RowMaker(self.analysis)
        return {v: maker(v) for v in self.carried if v not in self.local}

    def form(
        self, tables: dict[int, Rows], compact: dict[Stabilizer, Factor] | None = None
    ) -> AbstractCarried:
        """The incremental form, or with the maxima to carry the compact one.

        Rows that are no more than another view of the patterns are made again where they are used:
        as an input of a branch they would be written out, in the dtype of the patterns.
        """
        maker = RowMaker(self.analysis)

        def rows_of(v: int) -> AbstractRows:
            if v in self.local:
                return self.local[v].rows
            t = tables[v] if tables[v].raw is tables[v].entries else maker(v)
            return Dense(t.raw if compact is None else t.raw.astype(jnp.int8), t.scale)

        rows = tuple(map(rows_of, self.carried))
        sums = {v: n.summands for v, n in self.local.items() if n.summands is not None}
        parts = (self.program, self.carried, self.head, rows, self.D, self.out, self.uses_state)
        parts = (*parts, sums)
        if compact:
            return Compact(*parts, stabilizers=compact)
        return Separable(*parts, pairs=self.pairs) if self.separable else Incremental(*parts)

    def finite(self, tables: dict[int, Rows]) -> Array | bool:
        """Whether what is added to sums can be taken away again.

        No sum may overflow; and one whose terms differ in size, and of which another function is
        taken, must be carried to its own precision where it is smallest.
        """
        most: dict[int, Any] = {}
        for v, t in tables.items():
            if jnp.issubdtype(self.program.aval[v].dtype, jnp.inexact) and t.given is None:
                scale = jnp.max(jnp.abs(t.scale))
                most[v] = self.D * _size(t.entries).astype(scale.dtype) * scale
        for v, n in self.local.items():
            if jnp.issubdtype(self.program.aval[v].dtype, jnp.inexact):
                most[v] = n.largest
        if self.separable:  # flips are decided by what they add, and not by the energy
            most |= largest_of_head(self.program, self.head, most)
        finite: Array | bool = True
        for v, size in most.items():
            info = jnp.finfo(self.program.aval[v].dtype)
            fits = size <= float(info.max) * float(info.eps) / 4
            finite &= fits if isinstance(fits, Array) else bool(fits)
        for v, n in self.local.items():
            if n.summands is not None and not self.separable:
                fits = float(jnp.finfo(self.program.aval[v].dtype).eps) * n.largest <= n.least
                finite &= fits if isinstance(fits, Array) else bool(fits)
        return finite

    def may_compact(self) -> bool:
        """Whether int8 rows could pay: decided by shapes."""
        avals = [self.program.aval[v] for v in self.carried if v not in self.local]
        real = all(jnp.issubdtype(a.dtype, jnp.floating) for a in avals)
        return real and max((math.prod(a.shape) for a in avals), default=0) >= _COMPACT_FROM

    def allows_compact(
        self, tables: dict[int, Rows]
    ) -> tuple[Array | bool, dict[Stabilizer, Factor]]:
        """Whether all rows are small integers, and the maxima that need not be computed."""
        allowed: Array | bool = True
        for t in tables.values():
            whole = None if t.given is None else t.given.whole
            if whole is None:
                allowed &= small_integers(t.entries)[0]
            elif not whole:
                return False, {}
        stabilizers = {}
        for t in find_stabilizers(self.program, self.head):
            factor = find_factor(self.program, self.head, t.v, self.carried)
            if factor is not None and t.power * most_above(self.program, t) <= _LARGEST_EXPONENT:
                stabilizers[t] = factor
        return allowed, stabilizers


def affine_cut(analysis: Affine, out: Any) -> Cut | None:
    """The energy cut where it is affine, or `None` if it is so nowhere."""
    program = analysis.program
    push = lambda v, deps, carried: _push_back(program, analysis, v, deps, carried)
    carried, head, uses_state = cut_energy(program, analysis.producer, analysis.affine, push)
    if not carried and uses_state:
        return None
    return Cut(program, analysis, carried, head, uses_state, analysis.D, out)


def local_cut(analysis: Affine, out: Any) -> list[Cut]:
    """The energy cut where it is a sum of terms of few bits too, if it is one anywhere."""
    program = analysis.program
    terms = Locals(program, analysis).carryable()
    scaled = find_scaled(program, terms)

    def push(v: int, deps: set[int], carried: Sequence[int]) -> bool:
        if v in terms and v not in analysis.affine:
            return v in scaled
        return _push_back(program, analysis, v, deps, carried)

    sums = analysis.affine | set(terms)
    carried, head, uses_state = cut_energy(program, analysis.producer, sums, push)
    local = {v: neighbourhood(terms[v], analysis.D) for v in carried if v not in analysis.affine}
    if not local:
        return []
    return [Cut(program, analysis, carried, head, uses_state, analysis.D, out, local)]


def cut_energy(
    program: Program,
    producer: dict[int, Equation],
    sums: set[int],
    push_back: Callable[[int, set[int], Sequence[int]], bool],
) -> tuple[list[int], list[Equation], bool]:
    """Split a program into carried values and a head.

    **Arguments:**

    - `program`, `producer`: the energy, and the equation that makes each value.
    - `sums`: the values that can be carried.
    - `push_back`: whether to carry what goes into one of them instead, from the value, its inputs
      that are not needed anyway, and what is carried so far.

    **Returns:** the values to carry, the equations of the head in order, and whether the head
    reads the state itself.
    """
    order = {o: k for k, e in enumerate(program.equations) for o in e.outs}
    carried: list[int] = []
    head: set[int] = set()
    needed, uses_state = {program.out}, False
    while needed:  # the latest value first, so that its consumers are all known
        v = max(needed, key=lambda v: order.get(v, -1))
        needed.discard(v)
        if v in program.const:
            continue
        if v == program.x:
            uses_state = True
            continue
        e = producer[v]
        deps = set(program.depends(e))
        if v in sums and not push_back(v, deps - needed, carried):
            carried.append(v)
            continue
        head.add(order[v])
        needed |= deps - set(carried)
    return carried, [program.equations[k] for k in sorted(head)], uses_state


def _push_back(
    program: Program, analysis: Affine, v: int, deps: set[int], carried: Sequence[int]
) -> bool:
    """Whether to carry the inputs of a light operation instead of its output."""
    e = analysis.producer[v]
    if e.name not in _LIGHT or not set(program.depends(e)) <= analysis.affine:
        return False
    return sum(program.size(i) for i in deps - set(carried)) <= program.size(v)


def _itemsize(analysis: Affine, v: int) -> int:
    """Bytes of an entry of the rows of `v`: one where they are a view of int8 patterns."""
    e = analysis.producer.get(v)
    narrow = e is not None and analysis.program.is_narrow(e)
    return 1 if narrow else analysis.program.aval[v].dtype.itemsize


def obstacle(analysis: Affine) -> str:
    """Why nothing between the state and the energy is affine in the bits."""
    push = lambda v, deps, carried: False
    _, head, _ = cut_energy(analysis.program, analysis.producer, analysis.affine, push)
    found = [analysis.obstacles[o] for e in head for o in e.outs if o in analysis.obstacles]
    return found[0] if found else "no value between the state and the energy is affine in the bits"


def _size(entries: Array) -> Array:
    """The largest absolute value; that of -128 is no int8."""
    if not jnp.issubdtype(entries.dtype, jnp.integer):
        return jnp.max(jnp.abs(entries), initial=0)
    low, high = jnp.min(entries, initial=0), jnp.max(entries, initial=0)
    return jnp.maximum(-low.astype(jnp.float32), high.astype(jnp.float32))


def small_integers(entries: Array) -> tuple[Array, Array]:
    """Whether all entries are integers that int8 holds with either sign, and the largest size."""
    if not jnp.issubdtype(entries.dtype, jnp.floating):
        size = _size(entries).astype(jnp.float32)
        whole = jnp.issubdtype(entries.dtype, jnp.integer)
        return (size <= 127) & whole, size
    # In one pass: XLA would make two, and they cost more than a product with the matrix.
    broken, size = lax.reduce(
        (entries != jnp.round(entries), jnp.abs(entries)),
        (np.False_, np.zeros((), entries.dtype)),
        lambda a, b: (a[0] | b[0], jnp.maximum(a[1], b[1])),
        tuple(range(entries.ndim)),
    )
    return ~broken & (size <= 127), size.astype(jnp.float32)
