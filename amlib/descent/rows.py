"""The rows of affine values: what flipping one bit changes, for every bit at once.

A row is a difference of two values. It is taken in the dtype of the value that it belongs to, after
the operands were converted: the difference of two int8 or float16 numbers may not fit their type.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jaxtyping import Array

from amlib._checks import is_concrete
from amlib._numbers import Numbers
from amlib._types import IntLike
from amlib.descent.affine import BILINEAR, DATA, SUMS, Affine, Bitwise
from amlib.descent.jaxprs import Equation, Unsupported, Value

_DENSE_LIMIT = 2**27  # elements of a bitwise value written out as rows
_BLOCK = 2**22  # elements pushed at once through an operation that has no closed-form rows


class Rows(NamedTuple):
    """The rows of an affine value: `L[i] = scale[i] * raw[i]`.

    The scale, of shape `(1,)` or `(D,)`, stays apart because a bare transpose is three times
    faster on a CPU than a transpose that also multiplies. `entries` holds the numbers of `raw` in
    the order in which they lie in memory: reductions over a transpose are slow as well. `given` is
    what is known of these numbers, if they and the scale are known to be bounded. Patterns stored
    as int8 stay int8 in `raw` and `entries`.
    """

    raw: Array
    scale: Array
    entries: Array
    given: Numbers | None = None


class RowMaker:
    """Makes the rows of the affine values of one analysis, in the trace that it is made in."""

    def __init__(self, analysis: Affine):
        self._analysis = analysis
        self._program = analysis.program
        self._D = analysis.D
        self._memo: dict[int, Array] = {}

    def __call__(self, v: int) -> Rows:
        """The rows of an affine value."""
        rows = self._rows(v)
        return rows if isinstance(rows, Rows) else Rows(rows, jnp.ones((1,), rows.dtype), rows)

    def _dense(self, v: int) -> Array:
        if v not in self._memo:
            rows = self._rows(v)
            if isinstance(rows, Rows):
                raw = rows.raw.astype(self._program.aval[v].dtype)
                rows = raw * rows.scale.reshape(-1, *(1,) * (raw.ndim - 1))
            self._memo[v] = rows
        return self._memo[v]

    def _rows(self, v: int) -> Rows | Array:
        program, aval = self._program, self._program.aval[v]
        if v in program.const:
            return jnp.zeros((self._D, *aval.shape), aval.dtype)
        if v in self._analysis.bitwise:
            b = self._analysis.bitwise[v]
            if self._D * b.source.size > _DENSE_LIMIT:
                raise Unsupported(f"a value of shape {aval.shape} is used bit by bit and as a sum")
            bit = np.arange(self._D).reshape((self._D,) + (1,) * b.source.ndim)
            delta = jnp.asarray(b.delta(aval.dtype))
            return jnp.where(b.source[None] == bit, delta, jnp.zeros_like(delta))
        if v in self._analysis.summands:
            product, axes = self._analysis.summands[v]
            return self._sum(None, product, axes, (), aval)
        e = self._analysis.producer[v]
        deps = program.depends(e)
        if len(deps) == 1 and deps[0] in self._analysis.bitwise:
            return self._of_bits(e, deps[0], aval)
        return self._of_affine(e, deps, aval)

    def _of_bits(self, e: Equation, dep: int, aval: ShapedArray) -> Rows | Array:
        """Rows of the first affine value after bitwise ones: no work that grows with D * D."""
        b, program = self._analysis.bitwise[dep], self._program
        if e.name == "reduce_sum":
            return self._sum(None, b, e.params["axes"], (), aval)
        if e.name == "dot_general":
            side = 0 if e.ins[0] == dep else 1
            contract, batch = e.params["dimension_numbers"]
            if len(contract[side]) + len(batch[side]) == b.source.ndim:
                weights = jnp.asarray(program.stored(e.ins[1 - side]))
                narrow = program.is_narrow(e)
                weights = weights if narrow else weights.astype(aval.dtype)
                c, bt = contract[1 - side], batch[1 - side]
                free = [a for a in range(weights.ndim) if a not in (*c, *bt)]
                rows = self._sum(
                    jnp.transpose(weights, (*c, *bt, *free)), b, contract[side], batch[side], aval
                )
                if not isinstance(rows, Rows):
                    return rows
                given = Numbers() if narrow else program.given.get(e.ins[1 - side])
                given = given if _is_small(b.delta(aval.dtype)) else None
                return rows._replace(entries=weights, given=given)
        # Convolutions and the like: push one-hot differences through, in blocks.
        wide = aval.dtype if e.name in BILINEAR else program.aval[dep].dtype
        delta = jnp.asarray(b.delta(wide))
        fixed = {a: self._constant(e, a) for a in e.ins if a != dep}

        def row(i: Array) -> Array:
            hot = jnp.where(b.source == i, delta, jnp.zeros_like(delta))
            return _linear_part(e, aval.dtype)(*[hot if a == dep else fixed[a] for a in e.ins])

        block = max(1, min(self._D, _BLOCK // max(1, math.prod(aval.shape), b.source.size)))
        return lax.map(row, jnp.arange(self._D, dtype=jnp.int32), batch_size=block)

    def _of_affine(self, e: Equation, deps: list[int], aval: ShapedArray) -> Array:
        """Rows of an affine function of affine values: the linear part of it, on their rows."""
        if e.name == "convert_element_type":
            return _convert(self._dense(deps[0]), aval.dtype)
        both = e.name in SUMS | {
            "select_n",
            "concatenate",
            "stack",
        }  # constants have rows here: zeros
        fixed = {a for a in e.ins if a not in deps and not (both and a != self._predicate(e))}
        args = [
            self._constant(e, a)
            if a in fixed
            else _convert(self._dense(a), aval.dtype)
            if e.name in BILINEAR
            else self._dense(a)
            for a in e.ins
        ]
        axes = [None if a in fixed else 0 for a in e.ins]
        return jax.vmap(_linear_part(e, aval.dtype), in_axes=axes)(*args)

    @staticmethod
    def _predicate(e: Equation) -> int | None:
        return e.ins[0] if e.name == "select_n" else None

    def _constant(self, e: Equation, a: int) -> Array:
        """A constant operand as the linear part sees it: what is moved or padded in is zero."""
        value = jnp.asarray(self._program.const[a])
        moved = e.name == "pad" or a in [e.ins[k] for k in DATA.get(e.name, ())]
        return jnp.zeros_like(value) if moved else value

    def _sum(
        self,
        weights: Array | None,
        b: Bitwise,
        contract: Sequence[IntLike],
        batch: Sequence[IntLike],
        aval: ShapedArray,
    ) -> Rows | Array:
        """Rows of `out[b, f] = sum_c weights[c, b, f] * value[b, c]` for a bitwise value."""
        if weights is None:
            batch = [a for a in range(b.source.ndim) if a not in contract]
        order = tuple(int(a) for a in (*contract, *batch))  # JAX's own are NumPy's at times
        count, rest = (math.prod(b.source.shape[a] for a in axes) for axes in (contract, batch))
        source = np.transpose(b.source, order).reshape(count, rest)
        delta = b.delta(aval.dtype)
        delta = jnp.transpose(delta, order) if not is_concrete(delta) else delta.transpose(order)
        delta = delta.reshape(count, rest, 1)
        in_order = count == self._D and (source[:, :1] == np.arange(count)[:, None]).all()
        if weights is not None and rest == 1 and in_order:
            raw = weights.reshape((count, *aval.shape))
            if isinstance(delta, np.ndarray) and (delta == delta[0]).all():
                return Rows(raw, jnp.asarray(delta[0, 0]), raw)
            return Rows(raw, jnp.asarray(delta.reshape(count)), raw)
        if weights is not None:
            free = math.prod(weights.shape[len(order) :])
            delta = weights.astype(aval.dtype).reshape(count, rest, free) * delta
        delta = jnp.asarray(delta)
        one_bit_each = (source == source[:, :1]).all()
        if one_bit_each and in_order:
            return delta.reshape((self._D, *aval.shape))
        # Elements that depend on no bit (source -1) are sent out of bounds and dropped.
        target = np.where(source < 0, self._D, source)
        rows = jnp.zeros((self._D, *delta.shape[1:]), delta.dtype)
        where = target[:, 0] if one_bit_each else (target, np.arange(rest)[None])
        return rows.at[where].add(delta, mode="drop").reshape((self._D, *aval.shape))


def _linear_part(e: Equation, out: np.dtype) -> Callable[..., Array]:
    """The linear part of an affine operation, in the type of its result."""
    params = e.params
    if e.name == "gather":  # what is filled in out of bounds does not change
        params = params | {"fill_value": 0}
    widened = e.name in BILINEAR - {"mul"}
    if widened:
        params = params | {"preferred_element_type": out}
    linear = e._replace(params=params)

    def apply(*values: Value) -> Array:
        return jnp.asarray(linear.bind(*[v.astype(out) if widened else v for v in values])[0])

    return apply


def _is_small(delta: Value) -> bool:
    """Whether a difference is known now, and no larger than anyone recodes a bit to."""
    return isinstance(delta, np.ndarray) and bool((np.abs(delta) <= 1e6).all())


def _convert(difference: Array, new: np.dtype) -> Array:
    """A difference in another type. Of unsigned integers it may be negative, and has wrapped."""
    old = difference.dtype
    if jnp.issubdtype(old, jnp.unsignedinteger):
        difference = difference.astype(f"int{8 * old.itemsize}")
    return difference.astype(new)
