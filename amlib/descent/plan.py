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

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jcore
from jaxtyping import Array

from amlib import _checks as checks
from amlib._compiled import check_powers
from amlib._numbers import Numbers
from amlib._types import EnergyFn
from amlib.descent.active import Active, capacity, find_structure
from amlib.descent.affine import Affine
from amlib.descent.cut import Cut, affine_cut, local_cut, obstacle, small_integers
from amlib.descent.derivatives import freeze
from amlib.descent.evaluators import AbstractFlips, Generic, Loop
from amlib.descent.jaxprs import Program, Unsupported
from amlib.descent.lanes import all_lanes
from amlib.descent.rows import Rows
from amlib.descent.separable import colour

Path: TypeAlias = Literal["auto", "incremental", "generic"]

MAX_ROW_BYTES = 2**30
"""Rows larger than this (1 GiB) are not kept: the energy takes the generic path."""

_LOOKED_AT = (
    2**26
)  # bytes of rows up to which `describe` makes them, to see whether they are finite

_LOCAL_GAIN = 20  # terms of few bits are looked for unless a flip is so much cheaper than the whole

_MIN_GAIN = 0.8  # the incremental path must cost less than this share of the full energy


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
    - `as_written`: the energy that is evaluated in full, where `energy` is another form of it.

    **Raises:** `ValueError` if the energy is not a real scalar.
    """

    def __init__(
        self,
        energy: EnergyFn,
        x: Any,
        path: Path = "auto",
        bounded: Sequence[tuple[Array, Numbers]] = (),
        as_written: EnergyFn | None = None,
    ):
        self.x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        self.D = math.prod(x.shape)
        self.out = scalar_output(energy, self.x)
        self.path: str = "generic"
        self.reason = "asked for"
        self.full_cost = self.flip_cost = self.row_bytes = 0
        frozen, constants = freeze(energy, self.x)
        full = frozen if as_written is None else freeze(as_written, self.x)[0]
        self._energy = lambda y: jcore.jaxpr_as_fun(full)(y)[0]
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

        near = self._near(cut, tables, x0)
        if near is None:
            return compact()
        active, small = near
        return _first_of(small & finite & active.allowed, lambda: loop(active), compact)

    def form(self, x0: Array, *, near: bool = False) -> AbstractFlips | None:
        """The form that `run` takes where all numbers are as they should be.

        **Arguments:**

        - `x0`: where the descent begins.
        - `near`: whether few patterns count there; `None` is returned if that makes no difference.
        """
        cut = self.cut
        if cut is None:
            return None if near else Generic(self._energy, self.D, self.out.dtype)
        tables = cut.tables()
        if near:
            found = self._near(cut, tables, x0)
            return None if found is None else found[0]
        compact = cut.allows_compact(tables) if cut.may_compact() else (False, {})
        return cut.form(tables) if compact[0] is False else cut.form(tables, compact[1])

    def _near(self, cut: Cut, tables: dict[int, Rows], x0: Array) -> tuple[Active, Array] | None:
        """The form for few patterns that count, and whether the numbers allow it."""
        structure = find_structure(cut.analysis, cut.carried, cut.head)
        if structure is None:
            return None
        (rows,) = tables.values()
        small, size = small_integers(rows.entries)
        active = Active(structure, rows, size, lax.stop_gradient(x0), self.D, self.out.dtype)
        return active, small

    # -- report -------------------------------------------------------------------------------

    def describe(self) -> str:
        """Say in a few lines which path is taken, what is carried, and what a flip costs."""
        cut, reason = self.cut, self.reason
        if cut is not None and self.row_bytes <= _LOOKED_AT:
            finite = cut.finite(cut.tables())
            if checks.is_concrete(finite) and not finite:
                cut, reason = (
                    None,
                    "what a flip adds is infinite, NaN, near overflow, or lost in others",
                )
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
        affine = affine_cut(analysis, self.out.dtype)
        found = [] if affine is None else [affine]
        refused: list[Unsupported] = []
        if affine is None or affine.uses_state or _LOCAL_GAIN * affine.cost > self.full_cost:
            try:
                found += local_cut(analysis, self.out.dtype)
            except Unsupported as err:
                refused.append(err)
        for cut in sorted(found, key=lambda cut: cut.cost):
            try:
                self._check(cut, path)
            except Unsupported as err:
                refused.append(err)
            else:
                return cut
        if affine is not None:
            raise refused[-1]
        raise Unsupported("; ".join([obstacle(analysis), *map(str, refused)]))

    def _check(self, cut: Cut, path: Path) -> None:
        """Raise `Unsupported` unless flips can be evaluated by a cut, and it pays."""
        self.flip_cost, rows = cut.cost, cut.row_bytes
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


def _first_of(
    allowed: Array | bool, form: Callable[[], tuple[Any, Array]], other: Callable[[], Any]
) -> Any:
    """What `form()` returns if it is allowed, and says that it was sound; else `other()`."""

    def nothing() -> tuple[Any, Array]:
        return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(form))

    out, sound = _choose(allowed, form, nothing)
    return _choose(sound, lambda: out, other)


def _choose(predicate: Array | bool, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """`yes()` if the predicate holds in every lane of a `vmap`, else `no()`: one of them runs."""
    if checks.is_concrete(predicate):
        return yes() if predicate else no()
    return lax.cond(all_lanes(jnp.asarray(predicate)), yes, no)


def scalar_output(energy: EnergyFn, x: Any) -> Any:
    """Shape and dtype of `energy(x)`; raise `ValueError` unless it is one real scalar."""
    return checks.scalar_output(
        energy,
        x,
        "energy: must return one real floating-point scalar",
        "Sum over patterns and units (jnp.sum), and return the sum.",
        check_powers,
    )
