"""Loops that XLA compiles into one kernel on a CPU, whatever JAX's version.

A loop over flips of a small memory takes about 13 kernels a turn, and each launch costs as much as
ten numbers or a hundred. XLA makes one kernel of a whole loop by itself where it touches little
(1 kB a turn in JAX 0.10, far more from 0.12 on), and of any call that carries the attributes below:
the first asks for it, the second keeps the call from being inlined before.

Inside a kernel not everything is implemented: what is not, such as a sort, a scatter, or a sum that
XLA hands to a library, fails to compile; of some products with matrices the compiler even dies. So
a loop is put into one only if all of its primitives are known to work there, and no array in it is
large. The rest of this file
is about leaving everything else alone: other platforms, and `vmap` over what is large.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core as jcore

from amlib import _shards as shards

_CALL = {"xla_cpu_small_call": "true", "inlineable": "false"}

ASKS = jax.__version_info__ < (0, 12)
"""Whether the attributes are needed: from JAX 0.12 on XLA makes these loops one kernel unasked."""

LARGEST = 4095
"""No array in the loop may have more elements: a sum of 4,096 goes to a library."""

LARGEST_IN_TURN = 512
"""Up to so many elements the lanes of a `vmap` run one after the other, each in one kernel."""

# What was tried, and gave what it gives outside. Of these, what is elementwise or moves:
_WORKS = frozenset(
    """abs acos acosh add add_any and asin asinh atan atan2 atanh bitcast_convert_type
    broadcast_in_dim cbrt ceil clamp concatenate convert_element_type copy copy_p cos cosh div eq
    erf erf_inv erfc exp exp2 expand_dims expm1 floor ge gt integer_pow iota is_finite le lgamma log
    log1p logistic lt max min mul ne neg nextafter not or pad population_count pow real rem reshape
    rev round rsqrt select_n shift_left shift_right_arithmetic shift_right_logical sign sin sinh
    slice sqrt square squeeze stop_gradient sub tan tanh transpose xor optimization_barrier
    reduce_and reduce_max reduce_min reduce_or reduce_prod reduce_sum argmax argmin""".split()
)
# What reads or writes a part of an array that itself may be large:
_PARTS = frozenset("dynamic_slice dynamic_update_slice gather".split())
# What holds programs:
_HOLDS = frozenset(
    """scan while cond jit pjit closed_call core_call custom_jvp_call custom_vjp_call
    custom_vjp_call_jaxpr custom_vmap_call checkpoint remat2""".split()
)

Out = TypeVar("Out")
Arrays: TypeAlias = tuple[Any, ...]


def in_one_kernel(loop: Callable[..., Out], *args: Any) -> Out:
    """`loop(*args)`, on a CPU compiled into one kernel where that is possible and pays.

    It has no derivative: one is given, where it is needed, to the function that calls this. The
    lanes of a `vmap` run one after the other where they are small, else as ever.

    **Arguments:**

    - `loop`: a function such as a `lax.scan`. It may close over arrays.
    - `args`: pytrees of arrays.
    """
    flat, tree = jax.tree.flatten(args)
    trace = jax.make_jaxpr(lambda *a: loop(*tree.unflatten(a)), return_shape=True)
    closed, out = trace(*flat)
    largest = _largest(closed.jaxpr)
    in_turn = 0 <= largest <= LARGEST_IN_TURN
    if largest < 0 or not (ASKS or in_turn) or shards.devices(args) > 1:
        return loop(*args)
    # All that is read must be an argument of the call; newer jaxprs hold their constants.
    detach = getattr(closed.jaxpr, "with_consts", None)
    jaxpr = closed.jaxpr if detach is None else detach(())
    n = len(closed.consts)

    def plain(*given: Any) -> Arrays:
        return tuple(jcore.jaxpr_as_fun(jcore.ClosedJaxpr(jaxpr, list(given[:n])))(*given[n:]))

    # Of constants, XLA would make constants of the kernel, and die of large ones.
    given = lax.optimization_barrier([*closed.consts, *flat])
    outs = _with_vmap(plain, in_turn)(*given)
    return jax.tree.unflatten(jax.tree.structure(out), outs)


def _with_vmap(plain: Callable[..., Arrays], in_turn: bool) -> Callable[..., Arrays]:
    """A function of arrays that on a CPU is one kernel, also under `vmap`."""

    def alone(*given: Any) -> Arrays:
        with set_xla_metadata(**_CALL):
            return jax.jit(plain)(*given)

    @jax.custom_batching.custom_vmap
    def run(*given: Any) -> Arrays:
        return lax.platform_dependent(*given, cpu=alone, default=plain) if ASKS else plain(*given)

    @run.def_vmap
    def _(axis_size: int, in_batched: list[bool], *given: Any) -> tuple[Arrays, tuple[bool, ...]]:
        del axis_size
        together = jax.vmap(plain, [0 if b else None for b in in_batched])

        def one_by_one(*given: Any) -> Arrays:
            def one(lane: list[Any]) -> Arrays:
                own = iter(lane)
                return run(*[next(own) if b else a for a, b in zip(given, in_batched, strict=True)])

            return lax.map(one, [a for a, b in zip(given, in_batched, strict=True) if b])

        if in_turn:
            outs = lax.platform_dependent(*given, cpu=one_by_one, default=together)
        else:
            outs = together(*given)
        return outs, (True,) * len(outs)

    return run


def _largest(jaxpr: jcore.Jaxpr) -> int:
    """Elements of the largest array that a turn works on; -1 where that cannot be one kernel."""
    largest = 0
    for e in jaxpr.eqns:
        name, inner = e.primitive.name, _held(e)
        made, read = (max(map(_size, vs), default=0) for vs in (e.outvars, e.invars))
        if name in _HOLDS and inner and not e.effects:
            sizes = [_largest(j) for j in inner]
            here = max(sizes) if min(sizes) >= 0 else -1
        elif name in _PARTS:
            here = made if name != "dynamic_update_slice" else _size(e.invars[1])
        else:
            here = max(made, read) if name in _WORKS else -1
        if not 0 <= here <= LARGEST:
            return -1
        largest = max(largest, here)
    return largest


def _size(value: Any) -> int:
    return math.prod(getattr(value.aval, "shape", ()))


def _held(e: Any) -> list[jcore.Jaxpr]:
    """The programs that a primitive holds."""
    found = []
    for value in e.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found
