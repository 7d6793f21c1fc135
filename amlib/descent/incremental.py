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

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core as jcore
from jaxtyping import Array

from amlib._types import EnergyFn
from amlib.descent.affine import MOVES, Affine
from amlib.descent.jaxprs import Equation, Program, Unsupported

Path: TypeAlias = Literal["auto", "incremental", "generic"]

MAX_ROW_BYTES = 2**30
"""Rows larger than this (1 GiB) are not kept: the energy takes the generic path."""

_MIN_GAIN = 0.8  # the incremental path must cost less than this share of the full energy

# Cheap operations that the cut is pushed back through, so that what is carried is `Xi @ x`
# (exact for integer patterns) and not `beta * (Xi @ x) + b`.
_LIGHT = (MOVES - {"gather", "dynamic_slice"}) | {
    "neg", "mul", "div", "add", "add_any", "sub", "convert_element_type", "stop_gradient",
}  # fmt: skip


def freeze(energy: EnergyFn, x: Any) -> EnergyFn:
    """The same energy with no derivative in what it closes over.

    Loops of unknown length have no reverse-mode derivative; a frozen energy asks for none.
    """
    closed = jax.make_jaxpr(energy)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    constants = [lax.stop_gradient(c) for c in closed.consts]
    frozen = jcore.jaxpr_as_fun(jcore.ClosedJaxpr(closed.jaxpr, constants))
    return lambda y: frozen(y)[0]


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
        if path == "generic":
            return
        try:
            self._plan(path)
        except Exception as err:  # whatever the analysis meets, the generic path is right
            self.reason = str(err) if isinstance(err, Unsupported) else f"analysis failed: {err!r}"
            self.path, self.carried, self.uses_state = "generic", [], True

    # -- use ----------------------------------------------------------------------------------

    def init(self, x: Array) -> tuple[Array, ...]:
        """The carried values at `x`."""
        if self.path == "generic":
            return ()
        program = self._program
        return tuple(program.evaluate(program.equations, {program.x: x}, self.carried))

    def energy(self, x: Array, carry: tuple[Array, ...]) -> Array:
        """The energy at `x`, from its carried values."""
        if self.path == "generic":
            return self.energy_fn(x)
        program = self._program
        known = {program.x: x} | dict(zip(self.carried, carry, strict=True))
        return program.evaluate(self._head, known, [program.out])[0]

    @property
    def rows(self) -> tuple[tuple[Array, Array], ...]:
        """`(raw, scale)` for each carried value, both with leading axis `D` or 1."""
        return self._rows if self.path == "incremental" else ()

    def row(self, i: Array) -> tuple[tuple[Array, Array], ...]:
        """The rows of bit `i`: contiguous reads."""

        def pick(a: Array) -> Array:
            return lax.dynamic_index_in_dim(a, i, keepdims=False) if a.shape[0] > 1 else a[0]

        return jax.tree.map(pick, self.rows)

    @staticmethod
    def move(carry: tuple[Array, ...], row: Any, s: Array) -> tuple[Array, ...]:
        """The carried values after the bit of `row` goes from `s` to `-s`."""
        return tuple(
            value - s.astype(value.dtype) * scale.astype(value.dtype) * raw.astype(value.dtype)
            for value, (raw, scale) in zip(carry, row, strict=True)
        )

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
        self._rows = tuple(analysis.rows(v) for v in self.carried)
        self.path, self.reason = "incremental", ""


def scalar_output(energy: EnergyFn, x: Any) -> Any:
    """Shape and dtype of `energy(x)`; raise `ValueError` unless it is one real scalar."""
    out = jax.eval_shape(energy, x)
    leaves = jax.tree.leaves(out)
    if (
        len(leaves) != 1
        or leaves[0].shape != ()
        or not jnp.issubdtype(leaves[0].dtype, jnp.floating)
    ):
        came = ", ".join(f"{a.dtype}{list(a.shape)}" for a in leaves) or "nothing"
        raise ValueError(
            f"energy: must return one real floating-point scalar; {came} came. "
            "Sum over patterns and units (jnp.sum), and return the sum."
        )
    return leaves[0]


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
