"""How large an integer value can get, from dtypes and shapes: a proof that nothing wraps around.

Patterns are tracers inside `jit`, so only what holds for every value of its dtype counts: a bool
that became an integer is 0 or 1, an int8 lies in [-128, 127], a sum of n of them in n times that.
"""

import math
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jcore
from jaxtyping import Array

from amlib._checks import is_concrete
from amlib._types import EnergyFn, IntLike, Shape
from amlib.descent.jaxprs import Equation, Program, Value

Range = tuple[int, int]
Bits = Mapping[int, tuple[np.ndarray, Value, Value, bool, bool]]
"""The bitwise values: `affine.Bitwise` by number."""

_KEEP = frozenset(
    """reshape transpose broadcast_in_dim squeeze expand_dims slice rev copy copy_p stop_gradient
    reduce_max reduce_min""".split()
)
_UNION = frozenset({"concatenate", "pad", "max", "min"})


class Ranges:
    """The ranges of the integers of a program; `None` where a value may have wrapped around."""

    def __init__(self, program: Program, producer: dict[int, Equation], bitwise: Bits):
        self._program, self._producer, self._bitwise = program, producer, bitwise
        self._known: dict[int, Range | None] = {}

    def differences_fit(self, v: int) -> bool:
        """Whether `v` never wraps, and the difference of any two of its values fits its bits."""
        found = self.of(v)
        bits = 8 * self._program.aval[v].dtype.itemsize
        return found is not None and found[1] - found[0] < 2 ** (bits - 1)

    def of(self, v: int) -> Range | None:
        """The range of `v`."""
        if v not in self._known:
            self._known[v] = self._find(v)
        return self._known[v]

    def _find(self, v: int) -> Range | None:
        info = jnp.iinfo(self._program.aval[v].dtype)
        low, high = int(info.min), int(info.max)
        values: tuple[Value, ...] = ()
        if v in self._program.const:
            values = (self._program.const[v],)
        elif v in self._bitwise:
            values = self._bitwise[v][1:3]
        if values and all(is_concrete(a) for a in values):
            known = [np.asarray(a) for a in values if np.size(a)]
            ends = [(int(a.min()), int(a.max())) for a in known] or [(0, 0)]
            return (min(a for a, _ in ends), max(b for _, b in ends))
        e = self._producer.get(v)
        found = None if e is None else self._computed(e)
        if found is not None and low <= found[0] <= found[1] <= high:
            return found
        # Each element of these is one number of its dtype, wrapped or not.
        return (low, high) if values else None

    def _operand(self, v: int) -> Range | None:
        dtype = self._program.aval[v].dtype
        if jnp.issubdtype(dtype, jnp.bool_):
            return (0, 1)
        return self.of(v) if jnp.issubdtype(dtype, jnp.integer) else None

    def _computed(self, e: Equation) -> Range | None:
        """The range of what an equation computes, before it is wrapped into its dtype."""
        select = e.name == "select_n"
        ins = [self._operand(i) for i in (e.ins[1:] if select else e.ins)]
        if any(r is None for r in ins):
            return None
        ranges = [r for r in ins if r is not None]
        low, high = ranges[0]
        if e.name in _KEEP or e.name == "convert_element_type":
            return ranges[0]
        if e.name in _UNION or select:
            return (min(r[0] for r in ranges), max(r[1] for r in ranges))
        if e.name == "neg":
            return (-high, -low)
        if e.name in ("add", "add_any"):
            return (low + ranges[1][0], high + ranges[1][1])
        if e.name == "sub":
            return (low - ranges[1][1], high - ranges[1][0])
        if e.name in ("mul", "dot_general"):
            products = [a * b for a in ranges[0] for b in ranges[1]]
            n = self._contracted(e) if e.name == "dot_general" else 1
            return (n * min(products), n * max(products))
        if e.name in ("reduce_sum", "cumsum"):
            axes = e.params["axes"] if e.name == "reduce_sum" else (e.params["axis"],)
            n = _share(self._program.aval[e.ins[0]].shape, axes)
            first = n if e.name == "reduce_sum" else min(n, 1)  # a running sum begins with one term
            return (min(first * low, n * low), max(first * high, n * high))
        return None

    def _contracted(self, e: Equation) -> int:
        (contracted, _), _ = e.params["dimension_numbers"]
        return _share(self._program.aval[e.ins[0]].shape, contracted)


def _share(shape: Shape, axes: Iterable[IntLike]) -> int:
    return math.prod(shape[a] for a in axes)


_ADD_UP = frozenset({"dot_general", "conv_general_dilated", "reduce_sum", "cumsum"})


def refuse_sums_in_int8(fn: EnergyFn, x: Array | jax.ShapeDtypeStruct) -> None:
    """Raise where the energy `fn(x)`, which is traced only, adds up many int8 numbers in int8."""

    def look(jaxpr: jcore.Jaxpr) -> None:
        for e in jaxpr.eqns:
            for out in e.outvars if e.primitive.name in _ADD_UP else ():
                if getattr(out.aval, "dtype", None) == jnp.int8:
                    raise TypeError(
                        "energy: must not add up int8 numbers in int8, which wraps around at 127; "
                        f"{e.primitive.name} -> {out.aval.str_short()} came. Write "
                        "self.Xi.astype(x.dtype) where patterns meet patterns, or store floats."
                    )
            for inner in jax.tree.leaves(tuple(e.params.values()), is_leaf=_is_jaxpr):
                if _is_jaxpr(inner):
                    look(getattr(inner, "jaxpr", inner))

    look(jax.make_jaxpr(fn)(jax.ShapeDtypeStruct(x.shape, x.dtype)).jaxpr)


def _is_jaxpr(a: object) -> bool:
    return hasattr(getattr(a, "jaxpr", a), "eqns")
