"""Flatten the jaxpr of an energy: no calls, no constants left to compute, nothing twice.

The flat form is what `affine` classifies. It is rebuilt inside every trace (tens of
milliseconds), so the constants of an energy may be tracers of a user's `jit`, `vmap` or `grad`.
"""

import math
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import ShapedArray
from jax.extend import core as jcore
from jaxtyping import Array

from amlib._checks import is_concrete
from amlib._numbers import Numbers
from amlib.descent.products import blocked_product, matrix_of

# Where each call primitive keeps the jaxpr that it calls. Custom derivative rules are dropped
# with the call: a flip evaluator is never differentiated in x.
CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
    "custom_lin": "jaxpr",
}

# Relative cost of one element, for the estimate only (an add is 1).
_SLOW = frozenset(
    "exp exp2 expm1 log log1p tanh logistic pow sin cos tan erf erfc lgamma digamma sqrt rsqrt "
    "cbrt div asin acos atan atan2 sinh cosh asinh acosh atanh".split()
)
_LOOPS = frozenset({"scan", "while", "cond"})

HALF = (jnp.bfloat16, jnp.float16)
"""Dtypes in which a carried sum would drift: sums are taken in float32 and rounded once."""

_VIEWS = frozenset("reshape transpose broadcast_in_dim squeeze expand_dims slice rev neg".split())
_PRODUCTS = frozenset({"dot_general", "conv_general_dilated"})
_SUMS = frozenset({"reduce_sum", "cumsum", "reduce_window_sum"})

# A map becomes a `vmap` only where that holds no value larger than this many elements (16 MB of
# floats), or than four times all that goes in and comes out: who wrote `lax.map` may have meant it.
_UNROLL_LIMIT = 2**22


NARROW_FROM = 2**16
"""Elements from which int8 patterns are not copied to floats."""

Value: TypeAlias = Array | np.ndarray
"""A value of an equation. Known ones may stay NumPy's."""
Params: TypeAlias = dict[str, Any]
"""The parameters of a primitive: of any kind, each primitive has its own."""


class Unsupported(Exception):
    """An energy that the analysis cannot take; its text says why."""


class Equation(NamedTuple):
    """One primitive applied to values named by integers."""

    primitive: jcore.Primitive
    params: Params
    ins: tuple[int, ...]
    outs: tuple[int, ...]

    @property
    def name(self) -> str:
        return self.primitive.name

    def bind(self, *values: Value) -> list[Value]:
        """Apply the primitive; always a list of outputs."""
        out = self.primitive.bind(*values, **self.params)
        return list(out) if self.primitive.multiple_results else [out]


def fold(primitive: jcore.Primitive, params: Params, values: Sequence[Value]) -> list[Value]:
    """Apply a primitive to known values: now if all are concrete, else in the current trace."""
    eqn = Equation(primitive, params, (), ())
    if all(is_concrete(v) for v in values):
        with jax.ensure_compile_time_eval():
            return eqn.bind(*values)
    return eqn.bind(*values)


class Constants(Mapping[int, Value]):
    """Constants by number. One that is a wider copy of small integers is made where it is used.

    Made once, outside the branches and loops that use it, it would take four times the memory of
    the patterns, and stay. `narrow` holds those: what is stored, and the conversion of it.
    """

    def __init__(self):
        self._values: dict[int, Value] = {}
        self.narrow: dict[int, tuple[Value, Equation]] = {}

    def __getitem__(self, v: int) -> Value:
        if v in self.narrow:
            small, conversion = self.narrow[v]
            return fold(conversion.primitive, conversion.params, [small])[0]
        return self._values[v]

    def __setitem__(self, v: int, value: Value) -> None:
        self._values[v] = value

    def __contains__(self, v: object) -> bool:
        return v in self._values

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class Program:
    """The flat form of the jaxpr of a function from `x` to a scalar.

    Values are integers: `aval[v]` is the shape and dtype, `const[v]` the value if it does not
    depend on `x`. `equations` are in order, each depends on `x`, and no two are equal. `given` are
    the constants of the jaxpr of which `numbers` says something, as they are or moved.
    """

    def __init__(self, closed: jcore.ClosedJaxpr, numbers: Sequence[Numbers | None] = ()):
        if closed.effects:
            raise Unsupported(f"the energy has side effects ({closed.effects})")
        self.aval: list[ShapedArray] = []
        self.const = Constants()
        self.equations: list[Equation] = []
        self._numbers: dict[Hashable, int] = {}
        self._seen: dict[Hashable, tuple[int, ...]] = {}
        known = zip(closed.consts, numbers, strict=False)
        self.given = {self._constant(c): n for c, n in known if n is not None}
        self.x = self._new(_array(closed.in_avals[0]))
        (self.out,) = self._inline(closed.jaxpr, closed.consts, [self.x])

    def evaluate(
        self, equations: Sequence[Equation], known: Mapping[int, Value], outs: Sequence[int]
    ) -> list[Array]:
        """Run `equations` from the `known` values; return the values `outs`."""
        env = dict(known)
        read = lambda i: env[i] if i in env else self.const[i]
        for e in equations:
            if self.is_narrow(e):
                env[e.outs[0]] = self._narrow_product(e, *[read(i) for i in self.depends(e)])
            else:
                env.update(zip(e.outs, e.bind(*[read(i) for i in e.ins]), strict=True))
        return [jnp.asarray(read(o)) for o in outs]

    def evaluate_to(self, known: Mapping[int, Value], outs: Sequence[int]) -> list[Array]:
        """Run only the equations that the values `outs` need."""
        return self.evaluate(self.leading_to(self.equations, outs, known.keys()), known, outs)

    def stored(self, v: int) -> Value:
        """A constant in the dtype that it is stored in: int8 where floats are a copy of it."""
        return self.const.narrow[v][0] if v in self.const.narrow else self.const[v]

    def leading_to(
        self, equations: Sequence[Equation], outs: Iterable[int], known: Collection[int] = ()
    ) -> list[Equation]:
        """The equations that `outs` need, in order, where the values `known` are given."""
        needed, used = set(outs) - set(known), []
        for e in reversed(equations):
            if needed & set(e.outs):
                used.append(e)
                needed |= set(self.depends(e)) - set(known)
        return used[::-1]

    def size(self, v: int) -> int:
        return math.prod(self.aval[v].shape)

    def depends(self, e: Equation) -> list[int]:
        """The inputs of `e` that depend on `x`."""
        return [i for i in e.ins if i not in self.const]

    def cost(self, e: Equation) -> int:
        """Estimate the work of one equation, in additions."""
        n = sum(map(self.size, e.outs))
        if e.name == "dot_general":
            (contracted, _), _ = e.params["dimension_numbers"]
            return 2 * n * math.prod(self.aval[e.ins[0]].shape[d] for d in contracted)
        if e.name == "conv_general_dilated":
            kernel = self.aval[e.ins[1]].shape
            return 2 * n * math.prod(kernel) // kernel[e.params["dimension_numbers"].rhs_spec[0]]
        reads = max(map(self.size, e.ins), default=0)
        if e.name in _LOOPS:
            return 50 * max(n, reads)
        return max(n, reads) * (8 if e.name in _SLOW else 1)

    def is_narrow(self, e: Equation) -> bool:
        """Whether an equation is a product of all of a float with patterns stored as int8."""
        if e.name != "dot_general" or not jnp.issubdtype(self.aval[e.outs[0]].dtype, jnp.floating):
            return False
        constant = [i for i in e.ins if i in self.const]
        if len(constant) != 1 or self.stored(constant[0]).dtype != np.int8:
            return False
        side = int(e.ins[0] in self.const)
        contract, batch = e.params["dimension_numbers"]
        return not batch[0] and len(contract[side]) == len(self.aval[e.ins[side]].shape)

    def _narrow_product(self, e: Equation, x: Value) -> Array:
        side, out = int(e.ins[0] in self.const), self.aval[e.outs[0]]
        contract, _ = e.params["dimension_numbers"]
        weights = matrix_of(
            jnp.asarray(self.stored(e.ins[1 - side])), tuple(map(int, contract[1 - side]))
        )
        x = jnp.transpose(jnp.asarray(x), contract[side]).reshape(-1).astype(out.dtype)
        return blocked_product(weights, x).reshape(out.shape)

    # -- building -----------------------------------------------------------------------------

    def _new(self, aval: ShapedArray) -> int:
        self.aval.append(aval)
        return len(self.aval) - 1

    def _constant(self, value: Value) -> int:
        key: Hashable = id(value)
        aval = jax.typeof(value)
        if aval.shape == () and is_concrete(value) and isinstance(aval.dtype, np.dtype):
            key = (np.asarray(value).tobytes(), aval.dtype, getattr(aval, "weak_type", False))
        if key not in self._numbers:
            self._numbers[key] = v = self._new(aval)
            self.const[v] = value  # also keeps `value` alive, so that its id stays its own
        return self._numbers[key]

    def _inline(
        self, jaxpr: jcore.Jaxpr, consts: Sequence[Value], args: Sequence[int]
    ) -> list[int]:
        env = dict(zip(jaxpr.constvars, map(self._constant, consts), strict=True))
        env.update(zip(jaxpr.invars, args, strict=True))

        def read(atom: jcore.Var | jcore.Literal) -> int:
            if isinstance(atom, jcore.Literal):
                return self._constant(np.asarray(atom.val, _array(atom.aval).dtype))
            return env[atom]

        for e in jaxpr.eqns:
            outs = self._emit(
                e.primitive,
                e.params,
                [read(a) for a in e.invars],
                [_array(v.aval) for v in e.outvars],
            )
            env.update(zip(e.outvars, outs, strict=True))
        return [read(a) for a in jaxpr.outvars]

    def _emit(
        self, primitive: jcore.Primitive, params: Params, ins: list[int], avals: list[ShapedArray]
    ) -> Sequence[int]:
        name = primitive.name
        if name in CALLS:
            sub = params[CALLS[name]]
            if isinstance(sub, jcore.ClosedJaxpr):
                return self._inline(sub.jaxpr, sub.consts, ins)
            return self._inline(sub, [], ins)
        if all(i in self.const for i in ins):
            outs = self._widened(primitive, params, ins, avals)
            if outs is not None:
                return outs
            values = fold(primitive, params, [self.const[i] for i in ins])
            outs = [self._constant(v) for v in values]
            if name in _VIEWS and ins[0] in self.given:
                self.given.update(dict.fromkeys(outs, self.given[ins[0]]))
            return outs
        if name == "scan":
            outs = self._unroll_map(params, ins, avals)
            if outs is not None:
                return outs
        if name in _PRODUCTS | _SUMS and avals[0].dtype in HALF:
            return self._accumulate_in_float32(primitive, params, ins, avals[0])
        key = self._key(primitive, params, ins)
        if key not in self._seen:
            outs = tuple(self._new(a) for a in avals)
            self.equations.append(Equation(primitive, params, tuple(ins), outs))
            self._seen[key] = outs
        return self._seen[key]

    def _widened(
        self, primitive: jcore.Primitive, params: Params, ins: list[int], avals: list[ShapedArray]
    ) -> Sequence[int] | None:
        """A conversion of many int8 to floats, or another view of one: a number, no value yet."""
        name, first = primitive.name, ins[0] if ins else -1
        if name == "convert_element_type" and self.aval[first].dtype == np.int8:
            if not jnp.issubdtype(avals[0].dtype, jnp.floating) or self.size(first) < NARROW_FROM:
                return None
            small, conversion = self.const[first], Equation(primitive, params, (), ())
        elif name in _VIEWS - {"neg"} and first in self.const.narrow:
            small, conversion = self.const.narrow[first]
            (small,) = fold(primitive, params, [small])
        else:
            return None
        key = (id(small), name, avals[0].dtype)
        if key not in self._numbers:
            self._numbers[key] = v = self._new(avals[0])
            self.const[v] = small  # that it is a constant, and that it stays alive
            self.const.narrow[v] = small, conversion
        return [self._numbers[key]]

    @staticmethod
    def _key(primitive: jcore.Primitive, params: Params, ins: list[int]) -> Hashable:
        """Equal keys are common subexpressions; parameters that do not hash are never shared."""
        key = (primitive, tuple(sorted(params.items(), key=lambda kv: kv[0])), tuple(ins))
        try:
            hash(key)
        except TypeError:
            return object()
        return key

    def _unroll_map(
        self, params: Params, ins: list[int], avals: list[ShapedArray]
    ) -> Sequence[int] | None:
        """A scan without carry is a `lax.map`: the same values come from `vmap`, visibly.

        What is carried and what is mapped over is read off the shapes: the names of a scan's
        parameters differ between versions of JAX.

        **Returns:** `None` for a scan with a carry, and for a map that saves too much memory.
        """
        body, length = params["jaxpr"], params["length"]
        if any(o.shape == b.shape for o, b in zip(avals, body.out_avals, strict=True)):
            return None  # a result without the axis of the steps is a carry
        arguments = zip(ins, body.in_avals, strict=True)
        mapped = [len(self.aval[i].shape) > len(a.shape) for i, a in arguments]
        fn = jcore.jaxpr_as_fun(body)
        if not any(mapped):  # every step computes the same
            once = self._inline(body.jaxpr, body.consts, ins)
            spread = jax.make_jaxpr(lambda *a: [jnp.broadcast_to(v, (length, *v.shape)) for v in a])
            sub = spread(*[self.aval[v] for v in once])
            return self._inline(sub.jaxpr, sub.consts, once)
        axes = [0 if m else None for m in mapped]
        sub = jax.make_jaxpr(jax.vmap(fn, in_axes=axes))(*[self.aval[i] for i in ins])
        at_hand = sum(map(self.size, ins)) + sum(math.prod(a.shape) for a in avals)
        if _largest(sub.jaxpr) > max(_UNROLL_LIMIT, 4 * at_hand):
            return None
        return self._inline(sub.jaxpr, sub.consts, ins)

    def _accumulate_in_float32(
        self, primitive: jcore.Primitive, params: Params, ins: list[int], aval: ShapedArray
    ) -> Sequence[int]:
        """Keep half-precision sums in float32, so that thousands of flips add up exactly."""
        float32 = np.dtype("float32")
        if primitive.name in _PRODUCTS:
            params = params | {"preferred_element_type": float32}
        else:
            ins = [self._cast(i, float32) for i in ins]
        (wide,) = self._emit(primitive, params, ins, [aval.update(dtype=float32)])
        return [self._cast(wide, aval.dtype)]

    def _cast(self, v: int, dtype: np.dtype) -> int:
        params = {"new_dtype": dtype, "weak_type": False, "sharding": None}
        aval = self.aval[v].update(dtype=dtype)
        return self._emit(lax.convert_element_type_p, params, [v], [aval])[0]


def _array(aval: object) -> ShapedArray:
    """Shape and dtype of a value; raise for one that is no array."""
    if not isinstance(aval, ShapedArray):
        raise Unsupported(f"the energy has a value that is no array ({aval})")
    return aval


def _largest(jaxpr: jcore.Jaxpr) -> int:
    """Elements of the largest value that a jaxpr makes, those of the jaxprs inside it included."""
    largest = 0
    for e in jaxpr.eqns:
        largest = max([largest, *(math.prod(getattr(v.aval, "shape", ())) for v in e.outvars)])
        for inner in e.params.values():
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                largest = max(largest, _largest(inner))
    return largest
