"""From an energy to an evaluator whose cost per flip does not contain D.

1. `jaxprs` flattens the energy; `affine` finds the values that are affine in the bits of `x`.
2. The energy is cut where affine values feed the rest. What crosses the cut is *carried* through
   the recall; what follows is the *head*. For most memories the carried value is `Xi @ x`.
3. Flipping bit `i` from `s` to `-s` adds the precomputed row `-s * L[i]` to the carried value,
   and the head gives the new energy: O(K) work instead of O(K D).
4. Energies without such a cut, with rows too large to keep, or with a head that costs as much as
   the whole, are evaluated in full at each flip: the *generic* path. It is also the oracle: both
   paths visit the same states.

An evaluator is built inside the trace that uses it, so `jit`, `vmap` and `grad` need no care.
Real-valued carried values drift by rounding: after `m` accepted flips by at most about
`m * eps * max|h|`. The loops in `flips` evaluate them afresh every sweep.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from amlib import _checks as checks
from amlib._types import EnergyFn
from amlib.descent.affine import MOVES, Affine
from amlib.descent.jaxprs import Equation, Program, Unsupported
from amlib.descent.stabilizers import Factor, Stabilizer, find_factor, find_stabilizers, scalar_head

Path: TypeAlias = Literal["auto", "incremental", "generic"]

MAX_ROW_BYTES = 2**30
"""Rows larger than this (1 GiB) are not kept: the energy takes the generic path."""

_COMPACT_FROM = 256  # elements per row from which int8 rows are worth a second program
_LARGEST_PRODUCT_STEP = 3.0  # cosh and sinh of more lose too many digits to each other
_MARGIN = 1e-3  # relative: a hundred times the rounding of the product form

_LARGEST_STEP = 40.0  # most that one flip may move an exponent whose centre is carried

_MIN_GAIN = 0.8  # the incremental path must cost less than this share of the full energy

# Cheap operations that the cut is pushed back through, so that what is carried is `Xi @ x`
# (exact for integer patterns) and not `beta * (Xi @ x) + b`.
_LIGHT = (MOVES - {"gather", "dynamic_slice"}) | {
    "neg", "mul", "div", "add", "add_any", "sub", "convert_element_type", "stop_gradient",
}  # fmt: skip


BitRows: TypeAlias = tuple[tuple[Array, Array], ...]


class Carry(NamedTuple):
    """What a recall carries from visit to visit: affine values, and centres of exponentials."""

    values: tuple[Array, ...]
    centres: tuple[Array, ...]


def _next_centres(centres: Sequence[Array], totals: Sequence[Array]) -> tuple[Array, ...]:
    """Centre each exponential sum on its own log-sum-exp; keep the old centre if that fails."""
    moved = (c + jnp.log(total) for c, total in zip(centres, totals, strict=True))
    return tuple(
        jnp.where(jnp.isfinite(new), new, old) for new, old in zip(moved, centres, strict=True)
    )


class FlipEvaluator:
    """Evaluates an energy at single-bit flips of a state in {-1,+1}^D.

    **Arguments:**

    - `energy`: a function from a state of shape `x.shape` to a scalar.
    - `x`: shape and dtype of the state (values are not used).
    - `path`: `"auto"` takes the incremental path where it exists and pays; `"incremental"`
      takes it where it exists at all; `"generic"` evaluates the full energy at each flip.

    **Raises:** `ValueError` if the energy is not a real scalar.
    """

    def __init__(self, energy: EnergyFn, x: Any, path: Path = "auto"):
        self.energy_fn = energy
        self.x = jax.ShapeDtypeStruct(x.shape, x.dtype)
        self.D = math.prod(x.shape)
        self.out = scalar_output(energy, self.x)
        self.path: str = "generic"
        self.reason = "asked for"
        self.uses_state = True
        self.carried: list[int] = []
        self.full_cost = self.flip_cost = self.row_bytes = 0
        self._stabilizers: dict[Stabilizer, Factor] = {}
        self.rows: BitRows = ()  # `(raw, scale)` per carried value, with leading axis `D` or 1
        if path == "generic":
            return
        try:
            self._plan(path)
        except Exception as err:  # whatever the analysis meets, the generic path is right
            self.reason = str(err) if isinstance(err, Unsupported) else f"analysis failed: {err!r}"
            self.path, self.carried, self.uses_state = "generic", [], True

    # -- use ----------------------------------------------------------------------------------

    def run(self, loop: Callable[["FlipEvaluator"], Any]) -> Any:
        """Run `loop(evaluator)` with the fastest form of this evaluator that the values allow.

        Rows that hold small integers, as those of spin patterns do, are kept as int8: a quarter
        of the memory traffic. Then the maxima of log-sum-exps are carried, see `stabilizers`.
        Whether the values allow it may only be known at run time.
        """
        if self.path == "generic" or not self._may_compact():
            return loop(self._ready())
        allowed, stabilizers = self._allows_compact()
        return lax.cond(
            allowed,
            lambda: loop(self._ready(compact=True, stabilizers=stabilizers)),
            lambda: loop(self._ready()),
        )

    def _ready(
        self, compact: bool = False, stabilizers: Mapping[Stabilizer, Factor] | None = None
    ) -> "FlipEvaluator":
        """A copy with its rows made, in the trace that uses them."""
        ready = copy.copy(self)
        ready._stabilizers = dict(stabilizers or {})
        if self.path == "incremental":
            self._analysis.forget()
            tables = (self._analysis.rows(v) for v in self.carried)
            ready.rows = tuple(
                (t.raw.astype(jnp.int8) if compact else t.raw, t.scale) for t in tables
            )
        return ready

    def start(self, x: Array) -> tuple[Array, Carry]:
        """The energy at `x`, and the carried values, evaluated afresh."""
        if self.path == "generic":
            return self._as_out(self.energy_fn(x)), Carry((), ())
        program = self._program
        wanted = [program.out, *self.carried, *(t.total for t in self._stabilizers)]
        wanted += [t.c for t in self._stabilizers]
        e, *rest = program.evaluate(program.equations, {program.x: x}, wanted)
        n, m = len(self.carried), len(self._stabilizers)
        totals, maxima = rest[n : n + m], rest[n + m :]
        return self._as_out(e), Carry(tuple(rest[:n]), _next_centres(maxima, totals))

    def row(self, i: Array) -> BitRows:
        """The rows of bit `i`: contiguous reads."""

        def pick(a: Array) -> Array:
            return lax.dynamic_index_in_dim(a, i, keepdims=False) if a.shape[0] > 1 else a[0]

        return jax.tree.map(pick, self.rows)

    def flip(self, x: Array, carry: Carry, row: BitRows, s: Array) -> tuple[Array, Carry]:
        """The energy and the carried values after the bit of `row` goes from `s` to `-s`.

        `x` is the state after the flip; it is read only if `uses_state`.
        """
        if self.path == "generic":
            return self._as_out(self.energy_fn(x)), carry
        values = tuple(
            value - s.astype(value.dtype) * scale.astype(value.dtype) * raw.astype(value.dtype)
            for value, (raw, scale) in zip(carry.values, row, strict=True)
        )
        program = self._program
        known = {program.x: x} | dict(zip(self.carried, values, strict=True))
        known |= {t.c: c for t, c in zip(self._stabilizers, carry.centres, strict=True)}
        maxima = {t.c for t in self._stabilizers}
        head = [e for e in self._head if e.outs[0] not in maxima]
        wanted = [program.out, *(t.total for t in self._stabilizers)]
        e, *totals = program.evaluate(head, known, wanted)
        return self._as_out(e), Carry(values, _next_centres(carry.centres, totals))

    def proves_fixed(self, x: Array) -> Array | None:
        r"""Whether it is certain, without an exponential per flip, that no flip lowers the energy.

        Where the energy depends on the patterns only through $S = \sum_\mu e^{v_\mu - c}$, and
        bit $i$ moves every exponent by $\pm\ell$, its flip gives

        $$S_i = \cosh(\ell)\, S - s_i \sinh(\ell) \sum_\mu e^{v_\mu - c} \xi_{\mu i}$$

        so one matrix product serves all flips. Rounding is covered by a margin.

        **Returns:** `None` where the energy has no such form.
        """
        if len(self._stabilizers) != 1 or len(self.carried) != 1 or self.uses_state:
            return None
        ((t, factor),) = self._stabilizers.items()
        program, (raw, scale) = self._program, self.rows[0]
        head = scalar_head(program, self._head, {t.total, t.c})
        if head is None or raw.ndim != 2:
            return None
        e, carry = self.start(x)
        (centre,) = carry.centres
        values = dict(zip(self.carried, carry.values, strict=True))
        (v,) = program.evaluate(self._head, values, [t.v])
        weights = jnp.exp(v - centre).astype(jnp.float32)
        total = weights.sum()
        size = jnp.abs(raw[0, 0]).astype(jnp.float32)
        step = factor.signed * scale.astype(jnp.float32) * size
        lean = (raw.astype(jnp.float32) @ weights) / size
        flipped = jnp.cosh(step) * total - x.reshape(-1).astype(jnp.float32) * jnp.sinh(step) * lean

        def energy(s: Array) -> Array:
            known = {t.total: s.astype(v.dtype), t.c: centre}
            return program.evaluate(head, known, [program.out])[0]

        at_least = jnp.minimum(
            jax.vmap(energy)(flipped * (1 - _MARGIN)), jax.vmap(energy)(flipped * (1 + _MARGIN))
        )
        exact = factor.uniform & (jnp.abs(raw) == jnp.abs(raw[0, 0])).all()
        return exact & (jnp.abs(step) <= _LARGEST_PRODUCT_STEP).all() & (at_least > e).all()

    def _as_out(self, e: Array) -> Array:
        return lax.convert_element_type(e, self.out.dtype)

    # -- report -------------------------------------------------------------------------------

    def describe(self) -> str:
        """Say in a few lines which path is taken, what is carried, and what a flip costs."""
        if self.path == "generic":
            return (
                f"path      generic: one full energy per flip\n"
                f"why       {self.reason}\n"
                f"full      about {self.full_cost:,} operations"
            )
        aval = self._program.aval
        carried = ", ".join(f"{aval[v].dtype}{list(aval[v].shape)}" for v in self.carried)
        ratio = self.full_cost / max(1, self.flip_cost)
        return (
            f"path      incremental: a flip adds one row to what is carried\n"
            f"carried   {carried or 'nothing: the energy is affine in single bits'}\n"
            f"per flip  about {self.flip_cost:,} operations"
            f"{', and the state itself is read' if self.uses_state else ''}\n"
            f"full      about {self.full_cost:,} operations ({ratio:.0f} times as many)\n"
            f"rows      {self.row_bytes / 1e6:.1f} MB"
        )

    # -- plan ---------------------------------------------------------------------------------

    def _plan(self, path: Path) -> None:
        program = self._program = Program(self.energy_fn, self.x)
        self.full_cost = sum(map(program.cost, program.equations))
        analysis = Affine(program, self.x)
        self.carried, self._head, self.uses_state = cut(program, analysis)
        sizes = [program.size(v) for v in self.carried]
        itemsizes = [program.aval[v].dtype.itemsize for v in self.carried]
        self.row_bytes = self.D * sum(n * b for n, b in zip(sizes, itemsizes, strict=True))
        self.flip_cost = sum(map(program.cost, self._head)) + 3 * sum(sizes)
        if not self.carried and self.uses_state:
            raise Unsupported("no value between the state and the energy is affine in the bits")
        if self.row_bytes > MAX_ROW_BYTES:
            raise Unsupported(
                f"the rows would take {self.row_bytes / 2**30:.1f} GiB, "
                f"more than the limit of {MAX_ROW_BYTES / 2**30:.1f} GiB"
            )
        if path == "auto" and self.flip_cost > _MIN_GAIN * self.full_cost:
            raise Unsupported(
                f"a flip would cost about {self.flip_cost:,} operations, "
                f"the full energy {self.full_cost:,}: too little to gain"
            )
        self._analysis = analysis
        self.path, self.reason = "incremental", ""

    def _may_compact(self) -> bool:
        """Whether int8 rows could pay: decided by shapes."""
        sizes = [self._program.size(v) for v in self.carried]
        real = all(jnp.issubdtype(self._program.aval[v].dtype, jnp.floating) for v in self.carried)
        return real and max(sizes, default=0) >= _COMPACT_FROM

    def _allows_compact(self) -> tuple[Array, dict[Stabilizer, Factor]]:
        """Whether all rows are small integers, and one flip keeps every exponent in range."""
        self._analysis.forget()
        allowed, largest = jnp.asarray(True), {}
        for v in self.carried:
            _, scale, entries = self._analysis.rows(v)
            size = jnp.max(jnp.abs(entries))
            allowed &= (entries == jnp.round(entries)).all() & (size <= 127)
            largest[v] = (size * jnp.max(jnp.abs(scale))).astype(jnp.float32)
        stabilizers = {}
        for t in find_stabilizers(self._program, self._head):
            factor = find_factor(self._program, self._head, t.v, self.carried)
            if factor is not None:
                allowed &= factor.largest * largest[factor.carried] <= _LARGEST_STEP
                stabilizers[t] = factor
        return allowed, stabilizers


def scalar_output(energy: EnergyFn, x: Any) -> Any:
    """Shape and dtype of `energy(x)`; raise `ValueError` unless it is one real scalar."""
    return checks.scalar_output(
        energy,
        x,
        "energy: must return one real floating-point scalar",
        "Sum over patterns and units (jnp.sum), and return the sum.",
    )


def cut(program: Program, analysis: Affine) -> tuple[list[int], list[Equation], bool]:
    """Split a program into carried affine values and a head.

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
        e = analysis.producer[v]
        deps = set(program.depends(e))
        if v in analysis.affine and not _push_back(program, analysis, v, deps - needed, carried):
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
