"""Loops that XLA compiles into one kernel on a CPU, whatever JAX's version.

A loop over flips of a small memory takes about 13 kernels a turn, and each launch costs as much as
ten numbers or a hundred. XLA makes one kernel of a whole loop by itself where it touches little
(1 kB a turn in JAX 0.10, far more from 0.12 on), and of any call that carries the attributes below:
the first asks for it, the second keeps the call from being inlined before.

Inside a kernel not everything is implemented: what is not, such as a sort, a scatter, a product of
two matrices, or a sum that XLA hands to a library, fails to compile. So a loop is put into one only
if all of its primitives are known to work there, and no array in it is large. The rest of this file
is about leaving everything else alone: other platforms, and `vmap` over what is large.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core as jcore

from amlib.descent.jaxprs import CALLS

_CALL = {"xla_cpu_small_call": "true", "inlineable": "false"}

ASKS = jax.__version_info__ < (0, 12)
"""Whether the attributes are needed: from JAX 0.12 on XLA makes these loops one kernel unasked."""

LARGEST = 4095
"""No array in the loop may have more elements: a sum of 4,096 goes to a library."""

LARGEST_MATRIX = -1
"""Nor a matrix that is multiplied by a vector. None for now: up to 2**14 elements most such loops
were 2 to 3 times faster, but XLA of JAX 0.10.2 aborted on one (the gradient in the README)."""

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

In = TypeVar("In")
Out = TypeVar("Out")
Arrays: TypeAlias = tuple[Any, ...]


def in_one_kernel(
    loop: Callable[..., Out], *args: Any, steps: tuple[Callable[..., Any], ...] = ()
) -> Out:
    """`loop(*steps, *args)`, on a CPU compiled into one kernel where that is possible and pays.

    It has no derivative: one is given, where it is needed, to the function that calls this. The
    lanes of a `vmap` run one after the other where they are small, else as ever.

    **Arguments:**

    - `loop`: a function such as a `lax.scan`. It may close over arrays.
    - `args`: pytrees of arrays.
    - `steps`: functions of the first of `args` that the loop repeats. What in them does not depend
      on it is computed once, before: within a kernel XLA does not see to that.
    """
    flat, tree = jax.tree.flatten(args)
    early = [hoisted(step, args[0]) for step in steps] if ASKS else steps
    trace = jax.make_jaxpr(lambda *a: loop(*early, *tree.unflatten(a)), return_shape=True)
    closed, out = trace(*flat)
    largest = _largest(closed.jaxpr)
    in_turn = 0 <= largest <= LARGEST_IN_TURN and not _multiplies(closed.jaxpr)
    if largest < 0 or not (ASKS or in_turn):
        return loop(*steps, *args)
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


def hoisted(step: Callable[[In], Out], x: In) -> Callable[[In], Out]:
    """The same function of things like `x`; what does not depend on `x` is computed now, once.

    Rules for derivatives within it are lost.
    """
    flat, tree = jax.tree.flatten(x)
    closed, out = jax.make_jaxpr(lambda *a: step(tree.unflatten(a)), return_shape=True)(*flat)
    equations: list[tuple[Any, dict[str, Any], list[Any], list[Any]]] = []
    known: dict[Any, Any] = {}

    def inline(jaxpr: jcore.Jaxpr, consts: list[Any], names: dict[Any, Any]) -> list[Any]:
        """Note the equations, under names of their own; return the names of the results."""
        for v, c in zip(jaxpr.constvars, consts, strict=True):
            names[v] = object()
            known[names[v]] = c

        def name(atom: Any) -> Any:
            if isinstance(atom, jcore.Literal):
                kind: Any = atom.aval
                known[key := object()] = np.asarray(atom.val, kind.dtype)
                return key
            return names[atom]

        for e in jaxpr.eqns:
            ins = [name(a) for a in e.invars]
            inner = e.params.get(CALLS.get(e.primitive.name, ""))
            if inner is not None:
                inside, held = getattr(inner, "jaxpr", inner), getattr(inner, "consts", [])
                outs = inline(inside, held, dict(zip(inside.invars, ins, strict=True)))
            else:
                outs = [object() for _ in e.outvars]
                if all(i in known for i in ins) and not e.effects:
                    known.update(zip(outs, _bind(e.primitive, e.params, ins, known), strict=True))
                else:
                    equations.append((e.primitive, e.params, ins, outs))
            names.update(zip(e.outvars, outs, strict=True))
        return [name(a) for a in jaxpr.outvars]

    arguments = [object() for _ in flat]
    names = dict(zip(closed.jaxpr.invars, arguments, strict=True))
    results = inline(closed.jaxpr, closed.consts, names)

    def later(x: In) -> Out:
        env = known | dict(zip(arguments, jax.tree.leaves(x), strict=True))
        for primitive, params, ins, outs in equations:
            env.update(zip(outs, _bind(primitive, params, ins, env), strict=True))
        return jax.tree.unflatten(jax.tree.structure(out), [jnp.asarray(env[r]) for r in results])

    return later


def _bind(primitive: Any, params: dict[str, Any], ins: list[Any], env: dict[Any, Any]) -> list[Any]:
    out = primitive.bind(*[env[i] for i in ins], **params)
    return list(out) if primitive.multiple_results else [out]


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
        elif name == "dot_general" and _by_vector(e):
            here = made if read <= LARGEST_MATRIX else -1
        elif name == "transpose" and made <= LARGEST_MATRIX:  # of what is multiplied
            here = 0
        else:
            here = max(made, read) if name in _WORKS else -1
        if not 0 <= here <= LARGEST:
            return -1
        largest = max(largest, here)
    return largest


def _size(value: Any) -> int:
    return math.prod(getattr(value.aval, "shape", ()))


def _multiplies(jaxpr: jcore.Jaxpr) -> bool:
    """Whether there is a product with a matrix, which for many lanes is best taken together."""
    names = {e.primitive.name for e in jaxpr.eqns}
    return "dot_general" in names or any(_multiplies(j) for e in jaxpr.eqns for j in _held(e))


def _held(e: Any) -> list[jcore.Jaxpr]:
    """The programs that a primitive holds."""
    found = []
    for value in e.params.values():
        for part in value if isinstance(value, tuple | list) else (value,):
            inner = getattr(part, "jaxpr", part)
            if hasattr(inner, "eqns"):
                found.append(inner)
    return found


def _by_vector(e: Any) -> bool:
    """Whether a product is that of a matrix and a vector at most, in single precision."""
    (_, _), (batch, _) = e.params["dimension_numbers"]
    a, b = (v.aval for v in e.invars)
    single = a.dtype == b.dtype == e.outvars[0].aval.dtype == np.float32
    return single and not batch and min(a.ndim, b.ndim) <= 1 and max(a.ndim, b.ndim) <= 2
