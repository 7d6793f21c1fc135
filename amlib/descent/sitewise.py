"""An energy of units of q values, as one of bits: what the analysis of flips is then told.

A state of N units of q values is one of N q bits, of which bit (i, k) is on where unit i has the
value k. Written over whole numbers, as in `jnp.sum(x == Xi)`, an energy is affine in nothing. Here
every value of its program that depends on one unit, or on two, element by element, is kept as a
table of what it is for each value of these units. Such tables are closed under elementwise
operations and moves. Where they end, in a sum or a product with a matrix, they become sums over
bits,

$$f(x_i) = \\sum_k f(k) \\, b_{ik}, \\qquad g(x_i, x_j) = \\sum_{kl} g(k, l) \\, b_{ik} b_{jl}$$

of which the first are affine in the bits, and the second are terms of two bits. On states of
units both energies are the same, but for the order in which floats are summed.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from amlib._checks import is_concrete
from amlib._types import EnergyFn
from amlib.descent.affine import DATA, ELEMENTWISE, MOVES, Bitwise, lands_once
from amlib.descent.jaxprs import Equation, Params, Program, Value, fold

_MOST_UNITS = 2  # that one element may depend on
_LARGEST_TABLE = 2**26  # elements of a table


class Table(NamedTuple):
    """A value whose every element depends on few units.

    - `units`: for each of these an array of the value's shape, the unit or -1 for none.
    - `values`: what the value is, with an axis of q for each of them first.
    """

    units: tuple[np.ndarray, ...]
    values: Value

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the value."""
        return tuple(np.shape(self.values)[len(self.units) :])


def over_bits(energy: EnergyFn, x: Any, q: int) -> EnergyFn:
    """The same energy as a function of the spins of bits, `(*x.shape, q)`, of which one is +1.

    **Arguments:**

    - `energy`: from a state of whole numbers, from 0 to q - 1, to a scalar.
    - `x`: shape and dtype of such a state.
    - `q`: how many values a unit has.

    **Raises:** `Unsupported` where its program cannot be followed.
    """
    closed = jax.make_jaxpr(energy)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    program = Program(closed)

    def lowered(s: Array) -> Array:
        return _Lowering(program, s > 0, q).run()

    return lowered


class _Lowering:
    """One run of a program over bits."""

    def __init__(self, program: Program, on: Array, q: int):
        self._program, self._on, self._q = program, on.reshape(-1), q
        self._tables: dict[int, Table] = {}
        self._values: dict[int, Value] = {}

    def run(self) -> Array:
        """The energy."""
        program = self._program
        aval = program.aval[program.x]
        units = np.arange(math.prod(aval.shape)).reshape(aval.shape)
        each = np.arange(self._q, dtype=aval.dtype).reshape(-1, *(1,) * len(aval.shape))
        self._tables[program.x] = Table((units,), np.broadcast_to(each, (self._q, *aval.shape)))
        for e in program.equations:
            table = self._follow(e) if len(e.outs) == 1 else None
            if table is not None:
                self._tables[e.outs[0]] = table
                continue
            summed = self._summed(e)
            made = e.bind(*map(self._value, e.ins)) if summed is None else summed
            self._values.update(zip(e.outs, made, strict=True))
        return self._value(program.out)

    # -- tables -----------------------------------------------------------------------------------

    def _follow(self, e: Equation) -> Table | None:
        """The table that an equation makes, or `None` if it makes none."""
        if not all(i in self._tables for i in self._program.depends(e)):
            return None
        if e.name in ELEMENTWISE:
            return self._elementwise(e)
        return self._move(e) if e.name in MOVES else None

    def _elementwise(self, e: Equation) -> Table | None:
        shape = self._program.aval[e.outs[0]].shape
        tables = [self._tables.get(i) for i in e.ins]
        units: list[np.ndarray] = []
        places: list[tuple[int, ...]] = []  # of each operand's units among all
        for table in tables:
            own = []
            for unit in () if table is None else table.units:
                own.append(_place(units, np.broadcast_to(unit, shape)))
            places.append(tuple(own))
        if any(len(set(own)) < len(own) for own in places):
            return None  # two units of one operand that are one of another
        return self._made(e, e.params, units, places, shape)

    def _move(self, e: Equation) -> Table | None:
        shape = self._program.aval[e.outs[0]].shape
        params, ins = e.params, list(e.ins)
        known: dict[int, np.ndarray] = {}
        if e.name in DATA:  # which element lands where must be known now
            for k, i in enumerate(ins):
                if k not in DATA[e.name]:
                    value = self._program.const.get(i)
                    if value is None or not is_concrete(value):
                        return None
                    known[k] = np.asarray(value)
            if e.name == "scatter":
                shapes = [_of_shape(self._program.aval[i].shape) for i in ins]
                if not lands_once(e, shapes, known[1]):
                    return None
        if e.name == "gather":  # what is filled in out of bounds depends on no unit
            params = params | {"fill_value": -1}
        count = max(len(t.units) for t in map(self._tables.get, ins) if t is not None)
        units = []
        for j in range(count):
            moved = [known[k] if k in known else self._units(i, j) for k, i in enumerate(ins)]
            units.append(np.asarray(fold(e.primitive, params, moved)[0]))
        places = [tuple(range(len(t.units))) if t else () for t in map(self._tables.get, ins)]
        return self._made(e, e.params, units, places, shape)

    def _units(self, v: int, j: int) -> np.ndarray:
        """The `j`-th units that a value depends on."""
        table = self._tables.get(v)
        if table is None or j >= len(table.units):
            return np.full(self._program.aval[v].shape, -1)
        return table.units[j]

    def _made(
        self,
        e: Equation,
        params: Params,
        units: Sequence[np.ndarray],
        places: Sequence[tuple[int, ...]],
        shape: tuple[int, ...],
    ) -> Table | None:
        """The table of a result, from those of the operands: the operation under `vmap`."""
        if len(units) > _MOST_UNITS or self._q ** len(units) * math.prod(shape) > _LARGEST_TABLE:
            return None

        def apply(*values: Value) -> Array:
            return jnp.asarray(e._replace(params=params).bind(*values)[0])

        for j in reversed(range(len(units))):  # the first units are the outermost axis
            apply = jax.vmap(apply, [0 if j in own else None for own in places])
        values = []
        for i, own in zip(e.ins, places, strict=True):
            table = self._tables.get(i)
            value = self._program.const[i] if table is None else table.values
            rest = range(len(own), np.ndim(value))
            in_order = list(own) == sorted(own)
            values.append(value if in_order else value.transpose((*np.argsort(own), *rest)))
        if all(map(is_concrete, values)):
            with jax.ensure_compile_time_eval():
                return Table(tuple(units), np.asarray(apply(*values)))
        return Table(tuple(units), apply(*values))

    # -- sums over bits ---------------------------------------------------------------------------

    def _value(self, v: int) -> Any:
        """A value as an array: the sum over the bits of its table, if it has one."""
        if v in self._program.const:
            return self._program.const[v]
        if v not in self._values:
            terms = self._terms(self._tables[v])
            whole = jnp.any(terms, -1) if terms.dtype == bool else _sum(terms, -1)
            self._values[v] = whole.astype(self._program.aval[v].dtype)
        return self._values[v]

    def _summed(self, e: Equation) -> Sequence[Value] | None:
        """A sum of a table, or its product with constants, in one sum over elements and bits."""
        tables = [k for k, i in enumerate(e.ins) if i in self._tables]
        if e.name not in ("reduce_sum", "dot_general") or len(tables) != 1:
            return None
        (k,) = tables
        out, terms = self._program.aval[e.outs[0]], self._terms(self._tables[e.ins[k]])
        if e.name == "reduce_sum":
            return [_sum(terms, (*map(int, e.params["axes"]), -1)).astype(out.dtype)]
        if e.ins[1 - k] not in self._program.const:
            return None
        other = jnp.asarray(self._program.const[e.ins[1 - k]])
        many = terms.shape[-1]
        spread = jnp.broadcast_to(other[..., None], (*other.shape, many))
        contract, batch = e.params["dimension_numbers"]
        sides = (terms, spread) if k == 0 else (spread, terms)
        contract = tuple((*map(int, c), a.ndim - 1) for c, a in zip(contract, sides, strict=True))
        return e._replace(params=e.params | {"dimension_numbers": (contract, batch)}).bind(*sides)

    def _terms(self, table: Table) -> Array:
        """The elements of a table, for each combination of values of its units: 0 where it is not
        that of the state."""
        q, values = self._q, table.values
        flat = values.reshape(q ** len(table.units), *table.shape)
        combinations = np.arange(len(flat))
        if len(table.units) > 1 and is_concrete(flat):
            some = np.asarray(flat != 0).any(tuple(range(1, flat.ndim)))
            combinations = np.flatnonzero(some) if some.any() else combinations[:1]
        each = [
            self._is_on(unit, combinations // q ** (len(table.units) - 1 - j) % q)
            for j, unit in enumerate(table.units)
        ]
        last = jnp.moveaxis(jnp.asarray(flat[combinations]), 0, -1)
        chosen = functools.reduce(jnp.logical_and, each)
        return jnp.where(chosen, last, jnp.zeros((), last.dtype))

    def _is_on(self, unit: np.ndarray, value: np.ndarray) -> Array:
        """Whether a unit has a value, for each element of a table and each of some values."""
        shape = unit.shape
        for axis, size in enumerate(shape):  # units that repeat along an axis are looked at once
            if size > 1 and (unit == unit.take([0], axis)).all():
                unit = unit.take([0], axis)
        at = np.maximum(unit, 0)[..., None] * self._q + value
        if at.size == self._on.size and (at.reshape(-1) == np.arange(at.size)).all():
            on = self._on.reshape(at.shape)
        else:
            on = self._on.at[at].get(mode="promise_in_bounds")
        if (unit < 0).any():  # these elements depend on no unit: they are there once
            alone = np.broadcast_to((unit < 0)[..., None], at.shape)
            on = jnp.where(alone, np.broadcast_to(value == 0, at.shape), on)
        return jnp.broadcast_to(on, (*shape, len(value)))


def _of_shape(shape: tuple[int, ...]) -> Bitwise:
    """An operand of which only the shape counts."""
    none = np.zeros(shape, np.int32)
    return Bitwise(none, none, none)


def _sum(terms: Array, axis: int | tuple[int, ...]) -> Array:
    return jnp.sum(terms, axis=axis, dtype=terms.dtype)


def _place(units: list[np.ndarray], unit: np.ndarray) -> int:
    """Where a unit for each element is among those before; entered if it is not."""
    for j, other in enumerate(units):
        if not ((other >= 0) & (unit >= 0) & (other != unit)).any():
            units[j] = np.where(other >= 0, other, unit)
            return j
    units.append(unit)
    return len(units) - 1
