"""Find the values of a flat energy that are affine in the bits of `x`.

For `x` on the hypercube {-1,+1}^D every value of a `Program` is one of four kinds.

- *Constant*: does not depend on `x`.
- *Bitwise*: every element depends on at most one bit. It is kept as (which bit, value where that
  bit is +1, value where it is -1). A bit has only two values, so this kind is closed under every
  elementwise operation: `tanh(x)`, `x**2`, `x != Xi`, `where(x > 0, a, b)`.
- *Affine*: a constant-weighted sum of bitwise values (dot products, convolutions, sums, moves).
  Flipping bit `i` from `s` to `-s` changes it by exactly `-s * L[i]`, where row
  `L[i] = value(bit i at +1) - value(bit i at -1)`; `rows` makes the rows.
- *Other*: everything else.

Integers are affine in their own ring: sums, products with constants and conversions to a type that
is not wider hold modulo 2^n, and so do the rows, also where a sum wraps around. A conversion to a
wider type, or to a float, is affine only where `integers` proves that nothing wrapped. Half
precision is never affine, since thousands of flips would add up thousands of roundings.

A carried float keeps the rounding of the largest value that it has had. That is no more than the
full energy has where a term has one size for both values of its bit (*balanced*, as in `Xi @ x`).
Of a penalty, which is huge for one value and nearly nothing for the other, the carried sum would
keep the noise of the huge one: such sums are evaluated from the state, where that costs no more
than reading it.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amlib._checks import is_concrete
from amlib.descent.integers import Ranges
from amlib.descent.jaxprs import HALF, Equation, Params, Program, Value, fold

ELEMENTWISE = frozenset(
    """add add_any sub mul div rem max min neg abs sign floor ceil round exp exp2 log log1p expm1
    tanh logistic sin cos tan asin acos atan sinh cosh asinh acosh atanh atan2 integer_pow pow sqrt
    rsqrt cbrt square eq ne lt le gt ge and or not xor select_n convert_element_type is_finite erf
    erfc erf_inv lgamma digamma stop_gradient copy copy_p clamp nextafter reduce_precision
    shift_left shift_right_logical shift_right_arithmetic population_count clz""".split()
)
MOVES = frozenset(
    """reshape transpose broadcast_in_dim squeeze expand_dims slice rev concatenate stack tile pad
    copy copy_p gather dynamic_slice dynamic_update_slice scatter""".split()
)
DATA = {"gather": (0,), "dynamic_slice": (0,), "dynamic_update_slice": (0, 1)}
DATA |= dict.fromkeys(("scatter", "scatter-add", "scatter_add"), (0, 2))
DATA |= dict.fromkeys(("scatter-mul", "scatter_mul"), (0,))
"""Operands that an operation with indices moves; the others say where to, and are constants."""

KEEP_BALANCE = MOVES | frozenset(
    """mul div neg abs sign integer_pow square tanh sin tan asin atan sinh asinh atanh erf cbrt cos
    cosh stop_gradient reduce_precision convert_element_type select_n""".split()
)  # products, and functions that are odd or even

_KEEP_ODD = frozenset({"mul", "div", "neg", "stop_gradient", "copy", "copy_p"})

SUMS = frozenset({"add", "sub", "add_any"})
BILINEAR = frozenset({"mul", "dot_general", "conv_general_dilated"})
_LINEAR = MOVES | set(DATA) | {"neg", "reduce_sum", "cumsum", "reduce_window_sum", "stop_gradient"}
_LINEAR |= {"real", "imag", "fft"}


class Bitwise(NamedTuple):
    """A value whose every element depends on at most one bit; `source` is -1 for none.

    `balanced` is whether each element is known to have the same size at both values of its bit,
    `odd` whether each that depends on one is known to have the other sign too.
    """

    source: np.ndarray
    plus: Value
    minus: Value
    balanced: bool = True
    odd: bool = False

    def delta(self, dtype: np.dtype) -> Value:
        """The value at +1 less that at -1, taken in `dtype`: a narrower one might not hold it.

        An energy that overflows is a result, no warning.
        """
        with np.errstate(all="ignore"):
            made = self.plus.astype(dtype) - self.minus.astype(dtype)
        return np.asarray(made) if isinstance(made, np.generic) else made  # of one value


class Affine:
    """The kinds of all values of a program: `bitwise`, `affine`, and in `obstacles` why not."""

    def __init__(self, program: Program, x: jax.ShapeDtypeStruct):
        self.program = program
        self.D = math.prod(x.shape)
        ones, minus = (np.full(x.shape, v, x.dtype) for v in (1, -1))  # of a scalar, arrays too
        bits = np.arange(self.D, dtype=np.int32).reshape(x.shape)
        self.bitwise = {program.x: Bitwise(bits, ones, minus, odd=True)}
        self.affine: set[int] = set()
        self.summands: dict[int, tuple[Bitwise, tuple[int, ...]]] = {}
        self.obstacles: dict[int, str] = {}
        self.producer = {o: e for e in program.equations for o in e.outs}
        self._ranges = Ranges(program, self.producer, self.bitwise)
        for e in program.equations:
            self._classify(e)

    def _classify(self, e: Equation) -> None:
        deps = self.program.depends(e)
        bitwise = all(i in self.bitwise for i in deps)
        if len(e.outs) == 1 and bitwise and e.name in ELEMENTWISE | MOVES:
            value = self._elementwise(e) if e.name in ELEMENTWISE else self._move(e)
            if value is not None:
                self.bitwise[e.outs[0]] = value
                return
        if len(e.outs) == 1 and all(i in self.bitwise or i in self.affine for i in deps):
            product = e.name == "dot_general" and bitwise and self._inner_product(e)
            if product or self._is_affine(e, deps):
                self.affine.add(e.outs[0])
                return
        if bitwise:
            self.obstacles |= dict.fromkeys(e.outs, self._obstacle(e))

    def _obstacle(self, e: Equation) -> str:
        """Why an operation on single bits is not affine in them, for people."""
        aval = self.program.aval[e.outs[0]]
        what = f"{e.name} -> {aval.dtype}{list(aval.shape)}"
        if e.name in BILINEAR and len(self.program.depends(e)) == 2:
            return f"products of two bits ({what}): what one flip changes depends on other bits"
        if e.name in ELEMENTWISE:
            return f"{what} combines two bits in one element, which is not affine in either"
        if e.name in _LINEAR | SUMS | BILINEAR and any(map(self._infinite, e.ins)):
            return f"{what} adds up infinite or NaN values, which cannot be subtracted again"
        if self._is_penalty(e):
            return f"{what} sums penalties, which differ in size: they are read from the state"
        return f"{what} is not affine in the bits"

    # -- affine values ------------------------------------------------------------------------

    def _is_affine(self, e: Equation, deps: list[int]) -> bool:
        aval, first = self.program.aval, e.ins[0]
        out = aval[e.outs[0]].dtype
        if not adds_up(out) or any(_is_bool(aval[i].dtype) for i in deps):
            return False
        if any(map(self._infinite, deps)) or self._is_penalty(e):
            return False
        if e.name in _LINEAR:
            data = DATA.get(e.name, range(len(e.ins)))
            fixed = {i for k, i in enumerate(e.ins) if k not in data}
            return not fixed.intersection(deps)
        if e.name in SUMS:
            return True
        if e.name in BILINEAR:
            return len(deps) == 1 and e.ins.count(deps[0]) == 1 and self._keeps(e, deps[0], out)
        if e.name == "div":
            return deps == [first] and jnp.issubdtype(aval[first].dtype, jnp.inexact)
        if e.name == "select_n":
            return first not in deps
        if e.name == "convert_element_type":
            return self.widens(first, out)
        return False

    def _keeps(self, e: Equation, dep: int, out: np.dtype) -> bool:
        """Whether a product may be read as one of operands converted to its own type."""
        if e.name == "mul" or dep in self.bitwise:  # bitwise values are converted one by one
            return True
        return self.widens(dep, out)

    def widens(self, v: int, new: np.dtype) -> bool:
        """Whether converting the affine value `v` to `new` is itself affine."""
        old = self.program.aval[v].dtype
        if not jnp.issubdtype(old, jnp.integer):
            return bool(np.can_cast(old, new, "safe"))
        if jnp.issubdtype(new, jnp.integer) and new.itemsize <= old.itemsize:
            return True  # truncation keeps the ring
        return self._ranges.differences_fit(v)

    def _is_penalty(self, e: Equation) -> bool:
        """Whether a sum of unbalanced terms is better evaluated from the state, and cheap there."""
        terms = [self.bitwise[i] for i in e.ins if i in self.bitwise]
        sums = e.name in SUMS | BILINEAR | {"reduce_sum", "cumsum", "reduce_window_sum"}
        inexact = jnp.issubdtype(self.program.aval[e.outs[0]].dtype, jnp.inexact)
        unbalanced = any(not t.balanced for t in terms)
        return sums and inexact and unbalanced and self.program.cost(e) <= 2 * self.D

    def _infinite(self, v: int) -> bool:
        """Whether it is known now that `v` takes infinite or NaN values: no row undoes those."""
        values = self.bitwise[v][1:3] if v in self.bitwise else ()
        known = [a for a in values if isinstance(a, np.ndarray)]
        return any(not np.isfinite(a).all() for a in known)

    def _inner_product(self, e: Equation) -> bool:
        """`x @ x` and the like: products of values of the same bits, summed."""
        out = self.program.aval[e.outs[0]].dtype
        if not adds_up(out):
            return False
        contract, batch = e.params["dimension_numbers"]
        parts = []
        for side in (0, 1):
            value = self._operand(e.ins[side])
            order = (*batch[side], *contract[side])
            if len(order) != value.source.ndim:
                return False
            plus, minus = (v.transpose(order).astype(out) for v in (value.plus, value.minus))
            parts.append(Bitwise(value.source.transpose(order), plus, minus, value.balanced))
        a, b = parts
        source = merge_sources([a.source, b.source], a.source.shape)
        if source is None or self._is_penalty(e):
            return False
        with np.errstate(all="ignore"):
            product = Bitwise(source, a.plus * b.plus, a.minus * b.minus, a.balanced & b.balanced)
        axes = tuple(range(len(batch[0]), source.ndim))
        self.summands[e.outs[0]] = (product, axes)
        return True

    # -- bitwise values -----------------------------------------------------------------------

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
        plus = _apply(e, e.params, [o.plus for o in operands])
        minus = _apply(e, e.params, [o.minus for o in operands])
        kept = e.name in KEEP_BALANCE and all(o.balanced for o in operands)
        odd = e.name in _KEEP_ODD and len(sources) == 1 and self._is_odd(e)
        return Bitwise(source, plus, minus, kept or _same_size(plus, minus), odd)

    def _is_odd(self, e: Equation) -> bool:
        """Whether the operand that depends on bits is odd, and not divided by."""
        return all(
            self.bitwise[i].odd and not (e.name == "div" and k)
            for k, i in enumerate(e.ins)
            if i in self.bitwise
        )

    def _move(self, e: Equation) -> Bitwise | None:
        operands = [self._operand(i) for i in e.ins]
        params = [e.params] * 3
        if e.name in DATA:  # which bit lands where must be known now
            places = [k for k in range(len(e.ins)) if k not in DATA[e.name]]
            known = [self.program.const.get(e.ins[k]) for k in places]
            at = [i for i in known if i is not None and is_concrete(i)]
            if len(at) < len(places):
                return None
            if e.name == "scatter" and not lands_once(e, operands, at[0]):
                return None
            for k, i in zip(places, at, strict=True):
                operands[k] = Bitwise(np.asarray(i), i, i)
            if e.name == "gather":  # what is filled in out of bounds depends on no bit
                params = [e.params | {"fill_value": -1}, e.params, e.params]
        source = np.asarray(_apply(e, params[0], [o.source for o in operands]))
        plus = _apply(e, params[1], [o.plus for o in operands])
        minus = _apply(e, params[2], [o.minus for o in operands])
        odd = all(self.bitwise[i].odd for i in e.ins if i in self.bitwise)
        return Bitwise(source, plus, minus, all(o.balanced for o in operands), odd)


def _same_size(plus: Value, minus: Value) -> bool:
    if not isinstance(plus, np.ndarray) or not isinstance(minus, np.ndarray):
        return False
    return not _is_bool(plus.dtype) and bool((np.abs(plus) == np.abs(minus)).all())


def _is_bool(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.bool_))


def adds_up(dtype: np.dtype) -> bool:
    """Whether sums of many numbers of this type can be carried: neither bools nor halves."""
    return not _is_bool(dtype) and dtype not in HALF


def lands_once(e: Equation, operands: list[Bitwise], indices: Value) -> bool:
    """Whether no element is written twice: which write stays is undefined on some devices."""
    if e.params["unique_indices"]:
        return True
    with jax.ensure_compile_time_eval():
        hits = lax.scatter_add(
            jnp.zeros(operands[0].source.shape, jnp.int32),
            jnp.asarray(indices),
            jnp.ones(operands[2].source.shape, jnp.int32),
            e.params["dimension_numbers"],
            mode=e.params["mode"],
        )
    return bool(np.asarray(hits).max(initial=0) <= 1)


def _apply(e: Equation, params: Params, values: list[Value]) -> Value:
    """Apply an operation; views where NumPy has them, and concrete values stay NumPy."""
    v = values[0]
    if isinstance(v, np.ndarray):
        if e.name == "broadcast_in_dim" and len(values) == 1:
            shape, dims = params["shape"], params["broadcast_dimensions"]
            expanded = [1] * len(shape)
            for d, n in zip(dims, v.shape, strict=True):
                expanded[d] = n
            return np.broadcast_to(v.reshape(expanded), shape)
        if e.name == "transpose":
            return v.transpose(params["permutation"])
        if e.name == "squeeze":
            return v.squeeze(tuple(params["dimensions"]))
    (out,) = fold(e.primitive, params, values)
    return np.asarray(out) if is_concrete(out) else out


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
