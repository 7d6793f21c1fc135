"""Loops that XLA compiles into one kernel on a CPU."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import numpy as np
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.extend import core as jcore
import os

Out = TypeVar("Out")
_MODE = os.environ.get("KMODE", "auto")
_CALL = {"xla_cpu_small_call": "true", "inlineable": "false"}


def in_one_kernel(loop: Callable[..., Out], *args: Any) -> Out:
    flat, tree = jax.tree.flatten(args)
    closed, shape = jax.make_jaxpr(lambda *a: loop(*tree.unflatten(a)), return_shape=True)(*flat)
    detach = getattr(closed.jaxpr, "with_consts", None)
    jaxpr = closed.jaxpr if detach is None else detach(())
    n = len(closed.consts)

    def plain(*operands):
        return tuple(jcore.jaxpr_as_fun(jcore.ClosedJaxpr(jaxpr, operands[:n]))(*operands[n:]))

    if _MODE == "plain":
        outs = plain(*closed.consts, *flat)
        return jax.tree.unflatten(jax.tree.structure(shape), outs)

    def inside(*operands):
        with set_xla_metadata(**dict.fromkeys(_CALL)):
            return plain(*operands)

    def alone(*operands):
        with set_xla_metadata(**_CALL):
            return jax.jit(inside)(*operands)

    @jax.custom_batching.custom_vmap
    def run(*operands):
        return lax.platform_dependent(*operands, cpu=alone, default=plain)

    @run.def_vmap
    def _(axis_size, in_batched, *operands):
        del axis_size
        axes = [0 if b else None for b in in_batched]
        def in_turn(*operands):
            moving = [o for o, b in zip(operands, in_batched) if b]
            def one(moving):
                it = iter(moving)
                return run(*[next(it) if b else o for o, b in zip(operands, in_batched)])
            return lax.map(one, moving)
        out = lax.platform_dependent(*operands, cpu=in_turn if _MODE != "batch" else jax.vmap(plain, axes), default=jax.vmap(plain, axes))
        return out, tuple(True for _ in out)

    outs = run(*closed.consts, *flat)
    return jax.tree.unflatten(jax.tree.structure(shape), outs)
