"""From an energy to the cheapest form of it whose cost per flip does not contain D.

1. `jaxprs` flattens the energy; `affine` finds the values that are affine in the bits of `x`.
2. The energy is cut where affine values feed the rest. What crosses the cut is *carried* through
   the recall; what follows is the *head*. For most memories the carried value is `Xi @ x`.
3. Flipping bit `i` from `s` to `-s` adds the row `-s * L[i]` to the carried value (`rows`), and the
   head gives the new energy: O(K) work instead of O(K D).
4. Sums of terms of few bits (`local`) are carried as well: a flip changes them by the terms that it
   touches (`neighbours`), and where the energy is nothing else, bits that share no term can be
   tried at once (`separable`).
5. Energies without such a cut, with rows too large to keep, or with a head that costs as much as
   the whole, are evaluated in full at each flip: the *generic* path. It is also the oracle: all
   paths visit the same states.

All that can fail is decided when the plan is made. Only `Unsupported`, the analysis's own word that
it cannot take an energy, leads to the generic path; any other exception is an error in amlib.

A plan is made inside the trace that uses it, so `jit`, `vmap` and `grad` need no care. What depends
on values is decided by `FlipPlan.run` when the program runs.

Real-valued carried values drift by rounding: after `m` accepted flips by at most about
`m * eps * max|h|`. The loops in `flips` evaluate them afresh every sweep.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jcore
from jaxtyping import Array

from amlib import _checks as checks
from amlib._compiled import check_powers
from amlib._numbers import Numbers
from amlib._types import EnergyFn
from amlib.descent.active import Active, capacity, find_structure
from amlib.descent.affine import MOVES, Affine
from amlib.descent.carried import AbstractRows, Dense
from amlib.descent.derivatives import freeze
from amlib.descent.evaluators import AbstractCarried, Compact, Generic, Incremental, Loop
from amlib.descent.jaxprs import Equation, Program, Unsupported
from amlib.descent.lanes import all_lanes
from amlib.descent.local import Locals, find_scaled
from amlib.descent.neighbours import Neighbourhood, neighbourhood
from amlib.descent.rows import RowMaker, Rows
from amlib.descent.separable import Separable, colour, is_linear
from amlib.descent.stabilizers import (
    Factor,
    Stabilizer,
    find_factor,
    find_stabilizers,
    most_above,
)

Path: TypeAlias = Literal["auto", "incremental", "generic"]

MAX_ROW_BYTES = 2**30
"""Rows larger than this (1 GiB) are not kept: the energy takes the generic path."""

_COMPACT_FROM = 256  # elements per row from which int8 rows are worth a second program

_LOOKED_AT = (
    2**26
)  # bytes of rows up to which `describe` makes them, to see whether they are finite

_LARGEST_EXPONENT = 80.0  # of a power of a sum of exponentials; float32 holds exp(88)

_LOCAL_GAIN = 20  # terms of few bits are looked for unless a flip is so much cheaper than the whole

_MIN_GAIN = 0.8  # the incremental path must cost less than this share of the full energy

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
        """Whether no sum of rows can overflow, so that what is added can be taken away again."""
        finite: Array | bool = True
        for v, t in tables.items():
            dtype = self.program.aval[v].dtype
            if jnp.issubdtype(dtype, jnp.inexact) and t.given is None:
                scale = jnp.max(jnp.abs(t.scale))
                most = self.D * _size(t.entries).astype(scale.dtype) * scale
                info = jnp.finfo(dtype)
                finite &= most <= float(info.max) * float(info.eps) / 4
        for v, n in self.local.items():
            dtype = self.program.aval[v].dtype
            if jnp.issubdtype(dtype, jnp.inexact):
                info = jnp.finfo(dtype)
                fits = n.largest <= float(info.max) * float(info.eps) / 4
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
                allowed &= _small_integers(t.entries)[0]
            elif not whole:
                return False, {}
        stabilizers = {}
        for t in find_stabilizers(self.program, self.head):
            factor = find_factor(self.program, self.head, t.v, self.carried)
            if factor is not None and t.power * most_above(self.program, t) <= _LARGEST_EXPONENT:
                stabilizers[t] = factor
        return allowed, stabilizers


class FlipPlan:
    """How the flips of an energy over states in {-1,+1}^D are evaluated.

    **Arguments:**

    - `energy`: a function from a state of shape `x.shape` to a scalar.
    - `x`: shape and dtype of the state (values are not used).
    - `path`: `"auto"` takes the incremental path where it exists and pays; `"incremental"`
      takes it where it exists at all; `"generic"` evaluates the full energy at each flip.
    - `bounded`: arrays known to be finite and no larger than `_numbers.BOUND`, with what else is
      known of them. An energy that closes over these alone mostly needs no second program for
      values that are not.

    **Raises:** `ValueError` if the energy is not a real scalar.
    """

    def __init__(
        self,
        energy: EnergyFn,
        x: Any,
        path: Path = "auto",
        bounded: Sequence[tuple[Array, Numbers]] = (),
    ):
        self.x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        self.D = math.prod(x.shape)
        self.out = scalar_output(energy, self.x)
        self.path: str = "generic"
        self.reason = "asked for"
        self.full_cost = self.flip_cost = self.row_bytes = 0
        frozen, constants = freeze(energy, self.x)
        self._energy = lambda y: jcore.jaxpr_as_fun(frozen)(y)[0]
        self.cut: Cut | None = None
        if path == "generic":
            return
        try:
            marks = [next((n for b, n in bounded if b is c), None) for c in constants]
            self.cut = self._plan(Program(frozen, marks), path)
            self.path, self.reason = "incremental", ""
        except Unsupported as err:
            self.reason = str(err)

    # -- use ----------------------------------------------------------------------------------

    def run(self, loop: Loop, x0: Array) -> Any:
        """Run `loop(flips)`, from the state `x0`, with the fastest form that the values allow.

        Which values allow which form may only be known when the program runs:

        - rows that are not finite, or so large that sums of them might not be, take the full
          energy, since infinity minus infinity is not what a flip changes;
        - rows of small integers, as those of spin patterns are, are kept as int8: a quarter of the
          memory traffic. In place of the maxima of log-sum-exps that form follows a leader, see
          `stabilizers`;
        - where few patterns count at `x0`, the flips are tried on these alone, see `active`.

        A run in one of the last two forms that met a value that is not finite is repeated in the
        form before it. A form that is known not to be needed is not compiled.
        """
        generic = lambda: loop(Generic(self._energy, self.D, self.out.dtype))[0]
        cut = self.cut
        if cut is None:
            return generic()
        tables = cut.tables()
        finite = cut.finite(tables)
        exact = lambda: _choose(finite, lambda: loop(cut.form(tables))[0], generic)
        if not cut.may_compact():
            return exact()
        allowed, stabilizers = cut.allows_compact(tables)
        if allowed is False:
            return exact()

        def compact() -> Any:
            form = lambda: loop(cut.form(tables, stabilizers))
            if not stabilizers:
                return _choose(allowed & finite, lambda: form()[0], exact)
            return _first_of(allowed & finite, form, exact)

        structure = find_structure(cut.analysis, cut.carried, cut.head)
        if structure is None:
            return compact()
        (rows,) = tables.values()
        small, size = _small_integers(rows.entries)
        active = Active(structure, rows, size, lax.stop_gradient(x0), self.D, self.out.dtype)
        return _first_of(small & finite & active.allowed, lambda: loop(active), compact)

    # -- report -------------------------------------------------------------------------------

    def describe(self) -> str:
        """Say in a few lines which path is taken, what is carried, and what a flip costs."""
        cut, reason = self.cut, self.reason
        if cut is not None and self.row_bytes <= _LOOKED_AT:
            finite = cut.finite(cut.tables())
            if checks.is_concrete(finite) and not finite:
                cut, reason = None, "what a flip adds is infinite, NaN, or near overflow"
        if cut is None:
            return (
                f"path      generic: one full energy per flip\n"
                f"why       {reason}\n"
                f"full      about {self.full_cost:,} operations"
            )
        aval = cut.program.aval
        carried = ", ".join(f"{aval[v].dtype}{list(aval[v].shape)}" for v in cut.carried)
        ratio = self.full_cost / max(1, self.flip_cost)
        what = "incremental: a flip adds one row to what is carried"
        if cut.local:
            what = "local: a flip costs the terms that it touches"
            what += "" if len(cut.local) == len(cut.carried) else ", and a row of what is carried"
        structure = find_structure(cut.analysis, cut.carried, cut.head)
        K = 0 if structure is None else cut.program.size(structure.overlaps.carried)
        few = f"near      a memory, {capacity(K):,} of {K:,} patterns: the rest is below rounding\n"
        return (
            f"path      {what}\n"
            f"{self._describe_terms(cut)}"
            f"carried   {carried or 'nothing: the energy is affine in single bits'}\n"
            f"per flip  about {self.flip_cost:,} operations"
            f"{', and the state itself is read' if cut.uses_state else ''}\n"
            f"{few if K else ''}"
            f"full      about {self.full_cost:,} operations ({ratio:.0f} times as many)\n"
            f"rows      {self.row_bytes / 1e6:.1f} MB"
        )

    def _describe_terms(self, cut: Cut) -> str:
        if not cut.local:
            return ""
        count = sum(n.terms for n in cut.local.values())
        degree = sum(n.degree for n in cut.local.values())
        colours = "no two bits can be tried at once"
        if cut.separable:
            found = len(colour(cut.pairs, self.D))
            colours = f"{found:,}: bits of one colour share no term and can be tried at once"
        return f"terms     {count:,}; a bit is in {degree:,} at most\ncolours   {colours}\n"

    # -- plan ---------------------------------------------------------------------------------

    def _plan(self, program: Program, path: Path) -> Cut:
        self.full_cost = sum(map(program.cost, program.equations))
        analysis = Affine(program, self.x)
        affine = self._affine_cut(program, analysis)
        found = [] if affine is None else [affine]
        refused: list[Unsupported] = []
        if affine is None or affine.uses_state or _LOCAL_GAIN * self._cost(affine) > self.full_cost:
            try:
                found += self._local_cut(program, analysis)
            except Unsupported as err:
                refused.append(err)
        for cut in sorted(found, key=self._cost):
            try:
                self._check(cut, path)
            except Unsupported as err:
                refused.append(err)
            else:
                return cut
        raise refused[-1] if refused else Unsupported(_obstacle(program, analysis))

    def _check(self, cut: Cut, path: Path) -> None:
        """Raise `Unsupported` unless flips can be evaluated by a cut, and it pays."""
        program = cut.program
        self.flip_cost = self._cost(cut)
        dense = [v for v in cut.carried if v not in cut.local]
        rows = self.D * sum(program.size(v) * _itemsize(cut.analysis, v) for v in dense)
        if rows > MAX_ROW_BYTES:
            raise Unsupported(
                f"the rows would take {rows / 2**30:.1f} GiB, "
                f"more than the limit of {MAX_ROW_BYTES / 2**30:.1f} GiB"
            )
        self.row_bytes = rows + sum(n.nbytes for n in cut.local.values())
        if path == "auto" and self.flip_cost > _MIN_GAIN * self.full_cost:
            raise Unsupported(
                f"a flip would cost about {self.flip_cost:,} operations, "
                f"the full energy {self.full_cost:,}: too little to gain"
            )
        # Rows that cannot be made are found here, and not when they are needed.
        jax.eval_shape(cut.tables)

    def _affine_cut(self, program: Program, analysis: Affine) -> Cut | None:
        """The energy cut where it is affine, or `None` if it is so nowhere."""
        push = lambda v, deps, carried: _push_back(program, analysis, v, deps, carried)
        carried, head, uses_state = cut_energy(program, analysis.producer, analysis.affine, push)
        if not carried and uses_state:
            return None
        return Cut(program, analysis, carried, head, uses_state, self.D, self.out.dtype)

    def _local_cut(self, program: Program, analysis: Affine) -> list[Cut]:
        """The energy cut where it is a sum of terms of few bits too, if it is one anywhere."""
        terms = Locals(program, analysis).carryable()
        scaled = find_scaled(program, terms)

        def push(v: int, deps: set[int], carried: Sequence[int]) -> bool:
            if v in terms and v not in analysis.affine:
                return v in scaled
            return _push_back(program, analysis, v, deps, carried)

        sums = analysis.affine | set(terms)
        carried, head, uses_state = cut_energy(program, analysis.producer, sums, push)
        local = {v: neighbourhood(terms[v], self.D) for v in carried if v not in analysis.affine}
        if not local:
            return []
        return [Cut(program, analysis, carried, head, uses_state, self.D, self.out.dtype, local)]

    @staticmethod
    def _cost(cut: Cut) -> int:
        """The work of one flip, in additions."""
        program = cut.program
        dense = sum(program.size(v) for v in cut.carried if program.size(v) > 1)
        touched = sum(4 * n.degree for n in cut.local.values())
        return sum(map(program.cost, cut.head)) + 3 * dense + touched


def _first_of(
    allowed: Array | bool, form: Callable[[], tuple[Any, Array]], other: Callable[[], Any]
) -> Any:
    """What `form()` returns if it is allowed, and says that it was sound; else `other()`."""

    def nothing() -> tuple[Any, Array]:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(form))

    out, sound = _choose(allowed, form, nothing)
    return _choose(sound, lambda: out, other)


def _size(entries: Array) -> Array:
    """The largest absolute value; that of -128 is no int8."""
    if not jnp.issubdtype(entries.dtype, jnp.integer):
        return jnp.max(jnp.abs(entries), initial=0)
    low, high = jnp.min(entries, initial=0), jnp.max(entries, initial=0)
    return jnp.maximum(-low.astype(jnp.float32), high.astype(jnp.float32))


def _small_integers(entries: Array) -> tuple[Array, Array]:
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


def _choose(predicate: Array | bool, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()` if the predicate holds in every lane of a `vmap`, else `no()`: one of them runs."""
    if checks.is_concrete(predicate):
        return yes() if predicate else no()
    return lax.cond(all_lanes(jnp.asarray(predicate)), yes, no)


def _itemsize(analysis: Affine, v: int) -> int:
    """Bytes of an entry of the rows of `v`: one where they are a view of int8 patterns."""
    e = analysis.producer.get(v)
    narrow = e is not None and analysis.program.is_narrow(e)
    return 1 if narrow else analysis.program.aval[v].dtype.itemsize


def _obstacle(program: Program, analysis: Affine) -> str:
    """Why nothing between the state and the energy is affine in the bits."""
    push = lambda v, deps, carried: False
    _, head, _ = cut_energy(program, analysis.producer, analysis.affine, push)
    found = [analysis.obstacles[o] for e in head for o in e.outs if o in analysis.obstacles]
    return found[0] if found else "no value between the state and the energy is affine in the bits"


def scalar_output(energy: EnergyFn, x: Any) -> Any:
    """Shape and dtype of `energy(x)`; raise `ValueError` unless it is one real scalar."""
    return checks.scalar_output(
        energy,
        x,
        "energy: must return one real floating-point scalar",
        "Sum over patterns and units (jnp.sum), and return the sum.",
        check_powers,
    )


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
