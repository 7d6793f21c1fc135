"""Find the values of a flat energy that are affine in the bits of `x`, and their rows.

For `x` on the hypercube {-1,+1}^D every value of a `Program` is one of four kinds.

- *Constant*: does not depend on `x`.
- *Bitwise*: every element depends on at most one bit. It is kept as (which bit, value where that
  bit is +1, value where it is -1). A bit has only two values, so this kind is closed under every
  elementwise operation: `tanh(x)`, `x**2`, `x != Xi`, `where(x > 0, a, b)`.
- *Affine*: a constant-weighted sum of bitwise values (dot products, convolutions, sums, moves).
  Flipping bit `i` from `s` to `-s` changes it by exactly `-s * L[i]`, where row
  `L[i] = value(bit i at +1) - value(bit i at -1)`.
- *Other*: everything else.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amlib._checks import is_concrete
from amlib.descent.jaxprs import Equation, Program, Unsupported, fold

_ELEMENTWISE = frozenset(
    """add add_any sub mul div rem max min neg abs sign floor ceil round exp exp2 log log1p expm1
    tanh logistic sin cos tan asin acos atan sinh cosh asinh acosh atanh atan2 integer_pow pow sqrt
    rsqrt cbrt square eq ne lt le gt ge and or not xor select_n convert_element_type is_finite erf
    erfc erf_inv lgamma digamma stop_gradient copy copy_p clamp nextafter reduce_precision
    shift_left shift_right_logical shift_right_arithmetic population_count clz""".split()
)
MOVES = frozenset(
    """reshape transpose broadcast_in_dim squeeze expand_dims slice rev concatenate pad copy copy_p
    gather dynamic_slice""".split()
)
_INDEXED = frozenset({"gather", "dynamic_slice"})
_LINEAR = MOVES | {"neg", "reduce_sum", "cumsum", "reduce_window_sum", "stop_gradient", "real"}
_LINEAR |= {"imag", "fft"}
_BILINEAR = frozenset({"mul", "dot_general", "conv_general_dilated"})
_SUMS = frozenset({"add", "sub", "add_any"})

_DENSE_LIMIT = 2**27  # elements of a bitwise value written out as rows
_BLOCK = 2**22  # elements pushed at once through an operation that has no closed-form rows


class Bitwise(NamedTuple):
    """A value whose every element depends on at most one bit; `source` is -1 for none."""

    source: np.ndarray
    plus: Any
    minus: Any

    @property
    def delta(self) -> Any:
        """The value at +1 less that at -1. An energy that overflows is a result, no warning."""
        with np.errstate(all="ignore"):
            return self.plus - self.minus


class Rows(NamedTuple):
    """The rows of an affine value: `L[i] = scale[i] * raw[i]`.

    The scale, of shape `(1,)` or `(D,)`, stays apart because a bare transpose is three times
    faster on a CPU than a transpose that also multiplies. `entries` holds the numbers of `raw` in
    the order in which they lie in memory: reductions over a transpose are slow as well.
    """

    raw: Any
    scale: Any
    entries: Any


class Affine:
    """The kinds of all values of a program, and the rows of the affine ones."""

    def __init__(self, program: Program, x: jax.ShapeDtypeStruct):
        self.program = program
        self.D = math.prod(x.shape)
        ones = np.ones(x.shape, x.dtype)
        bits = np.arange(self.D, dtype=np.int32).reshape(x.shape)
        self.bitwise = {program.x: Bitwise(bits, ones, -ones)}
        self.affine: set[int] = set()
        self.producer = {o: e for e in program.equations for o in e.outs}
        self._summands: dict[int, tuple[Bitwise, tuple[int, ...]]] = {}
        self._memo: dict[int, Any] = {}
        for e in program.equations:
            if len(e.outs) == 1:
                self._classify(e)

    # -- kinds --------------------------------------------------------------------------------

    def _classify(self, e: Equation) -> None:
        deps = self.program.depends(e)
        bitwise = all(i in self.bitwise for i in deps)
        if bitwise and e.name in _ELEMENTWISE | MOVES:
            value = self._elementwise(e) if e.name in _ELEMENTWISE else self._move(e)
            if value is not None:
                self.bitwise[e.outs[0]] = value
                return
        if e.name == "dot_general" and bitwise and self._inner_product(e):
            self.affine.add(e.outs[0])
        elif all(i in self.bitwise or i in self.affine for i in deps) and self._is_affine(e, deps):
            self.affine.add(e.outs[0])

    def _is_affine(self, e: Equation, deps: list[int]) -> bool:
        aval, first = self.program.aval, e.ins[0]
        if any(aval[i].dtype == bool for i in (*deps, e.outs[0])):
            return False
        if e.name in _LINEAR:
            return deps == [first] or e.name == "concatenate"
        if e.name in _SUMS:
            return True
        if e.name in _BILINEAR:
            return len(deps) == 1
        if e.name == "div":
            return deps == [first] and jnp.issubdtype(aval[first].dtype, jnp.inexact)
        if e.name == "select_n":
            return first not in deps
        if e.name == "convert_element_type":
            new = e.params["new_dtype"]
            exact = jnp.issubdtype(aval[first].dtype, jnp.integer) and new in (
                np.float32,
                np.float64,
            )
            return exact or np.can_cast(aval[first].dtype, new, "safe")
        return False

    def _operand(self, i: int) -> Bitwise:
        if i in self.bitwise:
            return self.bitwise[i]
        value = self.program.const[i]
        none = np.broadcast_to(np.int32(-1), np.shape(value))
        return Bitwise(none, value, value)

    def _elementwise(self, e: Equation) -> Bitwise | None:
        shape = self.program.aval[e.outs[0]].shape
        operands = [self._operand(i) for i in e.ins]
        sources = [o.source for i, o in zip(e.ins, operands, strict=True) if i in self.bitwise]
        source = merge_sources(sources, shape)
        if source is None:
            return None
        plus, minus = (self._apply(e, [o[k] for o in operands]) for k in (1, 2))
        return Bitwise(source, plus, minus)

    def _move(self, e: Equation) -> Bitwise | None:
        operands = [self._operand(i) for i in e.ins]
        indices = []
        if e.name in _INDEXED:  # which bit lands where must be known now
            indices = [o.plus for o in operands[1:]]
            fixed = all(i in self.program.const for i in e.ins[1:])
            if not fixed or not all(is_concrete(i) for i in indices):
                return None
            operands = operands[:1]
        source, plus, minus = (self._apply(e, [o[k] for o in operands] + indices) for k in range(3))
        # Out-of-bounds fills are negative integers: they depend on no bit.
        return Bitwise(np.asarray(np.maximum(source, -1)), plus, minus)

    @staticmethod
    def _apply(e: Equation, values: list[Any]) -> Any:
        """Apply an operation; views where NumPy has them, and concrete values stay NumPy."""
        v = values[0]
        if isinstance(v, np.ndarray):
            if e.name == "broadcast_in_dim" and len(values) == 1:
                shape, dims = e.params["shape"], e.params["broadcast_dimensions"]
                expanded = [1] * len(shape)
                for d, n in zip(dims, v.shape, strict=True):
                    expanded[d] = n
                return np.broadcast_to(v.reshape(expanded), shape)
            if e.name == "transpose":
                return v.transpose(e.params["permutation"])
            if e.name == "squeeze":
                return v.squeeze(tuple(e.params["dimensions"]))
        (out,) = fold(e.primitive, e.params, values)
        return np.asarray(out) if is_concrete(out) else out

    def _inner_product(self, e: Equation) -> bool:
        """`x @ x` and the like: products of values of the same bits, summed."""
        contract, batch = e.params["dimension_numbers"]
        parts = []
        for side in (0, 1):
            value = self._operand(e.ins[side])
            order = (*batch[side], *contract[side])
            if len(order) != value.source.ndim:
                return False
            source, *values = value
            parts.append(Bitwise(source.transpose(order), *(v.transpose(order) for v in values)))
        a, b = parts
        source = merge_sources([a.source, b.source], a.source.shape)
        if source is None:
            return False
        with np.errstate(all="ignore"):
            product = Bitwise(source, a.plus * b.plus, a.minus * b.minus)
        axes = tuple(range(len(batch[0]), source.ndim))
        self._summands[e.outs[0]] = (product, axes)
        return True

    # -- rows ---------------------------------------------------------------------------------

    def rows(self, v: int) -> Rows:
        """The rows of an affine value."""
        rows = self._rows(v)
        return rows if isinstance(rows, Rows) else Rows(rows, jnp.ones((1,), rows.dtype), rows)

    def forget(self) -> None:
        """Drop rows made in another trace."""
        self._memo.clear()

    def _dense(self, v: int) -> Any:
        if v not in self._memo:
            rows = self._rows(v)
            if isinstance(rows, Rows):
                rows = rows.raw * rows.scale.reshape(-1, *(1,) * (rows.raw.ndim - 1))
            self._memo[v] = rows
        return self._memo[v]

    def _rows(self, v: int) -> Any:
        program, aval = self.program, self.program.aval[v]
        if v in program.const:
            return jnp.zeros((self.D, *aval.shape), aval.dtype)
        if v in self.bitwise:
            b = self.bitwise[v]
            if self.D * b.source.size > _DENSE_LIMIT:
                raise Unsupported(f"a value of shape {aval.shape} is used bit by bit and as a sum")
            bit = np.arange(self.D).reshape((self.D,) + (1,) * b.source.ndim)
            return jnp.where(b.source[None] == bit, jnp.asarray(b.delta), 0)
        if v in self._summands:
            product, axes = self._summands[v]
            return self._sum_rows(None, product, axes, (), aval)
        e = self.producer[v]
        deps = program.depends(e)
        if len(deps) == 1 and deps[0] in self.bitwise:
            return self._first_rows(e, deps[0], aval)
        return self._later_rows(e, deps, aval)

    def _first_rows(self, e: Equation, dep: int, aval: Any) -> Any:
        """Rows of the first affine value after bitwise ones: no work that grows with D * D."""
        b, program = self.bitwise[dep], self.program
        if e.name == "reduce_sum":
            return self._sum_rows(None, b, e.params["axes"], (), aval)
        if e.name == "dot_general":
            side = 0 if e.ins[0] == dep else 1
            contract, batch = e.params["dimension_numbers"]
            if len(contract[side]) + len(batch[side]) == b.source.ndim:
                weights = jnp.asarray(program.const[e.ins[1 - side]])
                c, bt = contract[1 - side], batch[1 - side]
                free = [a for a in range(weights.ndim) if a not in (*c, *bt)]
                rows = self._sum_rows(
                    jnp.transpose(weights, (*c, *bt, *free)), b, contract[side], batch[side], aval
                )
                return rows._replace(entries=weights) if isinstance(rows, Rows) else rows
        # Convolutions and the like: push one-hot differences through, in blocks.
        delta = jnp.asarray(b.delta)

        def row(i):
            hot = jnp.where(b.source == i, delta, 0).astype(delta.dtype)
            return e.bind(*[hot if a == dep else self._linear_constant(e, a) for a in e.ins])[0]

        block = max(1, min(self.D, _BLOCK // max(1, math.prod(aval.shape), b.source.size)))
        return lax.map(row, jnp.arange(self.D), batch_size=block)

    def _later_rows(self, e: Equation, deps: list[int], aval: Any) -> Any:
        """Rows of an affine function of affine values: the same operation on their rows."""
        if e.name in _SUMS | {"select_n", "concatenate"}:
            predicate = e.ins[0] if e.name == "select_n" else None
            axes = [None if a == predicate else 0 for a in e.ins]
            args = [self.program.const[a] if a == predicate else self._dense(a) for a in e.ins]
        else:
            axes = [0 if a in deps else None for a in e.ins]
            args = [self._dense(a) if a in deps else self._linear_constant(e, a) for a in e.ins]
        return jax.vmap(lambda *t: e.bind(*t)[0], in_axes=axes)(*args)

    def _linear_constant(self, e: Equation, a: int) -> Any:
        """A constant operand as the linear part of the operation sees it (padding adds zero)."""
        value = self.program.const[a]
        return jnp.zeros_like(value) if e.name == "pad" else value

    def _sum_rows(self, weights: Any, b: Bitwise, contract: Any, batch: Any, aval: Any) -> Any:
        """Rows of `out[b, f] = sum_c weights[c, b, f] * value[b, c]` for a bitwise value."""
        if weights is None:
            batch = [a for a in range(b.source.ndim) if a not in contract]
        order = (*contract, *batch)
        count = math.prod(b.source.shape[a] for a in contract)
        source = np.transpose(b.source, order).reshape(count, -1)
        delta = b.delta
        delta = jnp.transpose(delta, order) if not is_concrete(delta) else delta.transpose(order)
        delta = delta.reshape(count, -1, 1).astype(aval.dtype)
        in_order = count == self.D and (source[:, :1] == np.arange(count)[:, None]).all()
        if weights is not None and source.shape[1] == 1 and in_order:
            raw = weights.reshape((count, *aval.shape)).astype(aval.dtype)
            if isinstance(delta, np.ndarray) and (delta == delta[0]).all():
                return Rows(raw, jnp.asarray(delta[0, 0]), raw)
            return Rows(raw, jnp.asarray(delta.reshape(count)), raw)
        if weights is not None:
            delta = weights.reshape(count, source.shape[1], -1).astype(aval.dtype) * delta
        delta = jnp.asarray(delta)
        one_bit_each = (source == source[:, :1]).all()
        if one_bit_each and in_order:
            return delta.reshape((self.D, *aval.shape))
        # Elements that depend on no bit (source -1) are sent out of bounds and dropped.
        target = np.where(source < 0, self.D, source)
        rows = jnp.zeros((self.D, *delta.shape[1:]), delta.dtype)
        where = target[:, 0] if one_bit_each else (target, np.arange(source.shape[1])[None])
        return rows.at[where].add(delta, mode="drop").reshape((self.D, *aval.shape))


def merge_sources(sources: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray | None:
    """The bit that each element depends on, or `None` where an element depends on two."""
    first, *rest = sources
    merged = np.broadcast_to(first, shape)
    for s in rest:
        if s is first:
            continue
        s = np.broadcast_to(s, shape)
        if ((merged >= 0) & (s >= 0) & (merged != s)).any():
            return None
        merged = np.where(merged >= 0, merged, s)
    return merged
