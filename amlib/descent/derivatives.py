"""What the loops differentiate: nothing while they run, the energy itself where it is asked for."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jcore
from jaxtyping import Array

from amlib._checks import is_concrete
from amlib._types import EnergyFn

_SMALL = 256  # elements, such as those of the kernel of a small convolution


def freeze(energy: EnergyFn, x: Any) -> tuple[Any, list[Any]]:
    """The jaxpr of an energy with no derivative in what it closes over, and what that is.

    Loops of unknown length have no reverse-mode derivative; a frozen energy asks for none. A
    barrier keeps XLA from folding a pattern matrix that a user's `jit` has closed over: it would
    transpose and check it at compile time, for seconds. Indices and small arrays stay known, since
    they say what the energy is made of.
    """
    closed = jax.make_jaxpr(energy)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    constants = [c if _is_structure(c) else _frozen(c) for c in closed.consts]
    return jcore.ClosedJaxpr(closed.jaxpr, constants), closed.consts


def _frozen(c: Any) -> Array:
    return lax.optimization_barrier(lax.stop_gradient(c))


def _is_structure(c: Any) -> bool:
    """Whether a constant is known now, and indices, a mask, or small."""
    if not is_concrete(c) or not isinstance(c.dtype, np.dtype):
        return False
    indices = c.dtype == bool or (c.dtype.kind in "iu" and c.dtype.itemsize >= 4)
    return indices or np.size(c) <= _SMALL


def with_derivative(
    energy: EnergyFn,
    energies: Array,
    x: Array,
    visits: Any,
    state_of: Callable[[Array, Any], tuple[Array, Array]],
) -> Array:
    """Give evaluated energies their derivative in what `energy` closes over.

    The loops have none. Where it is asked for, the energy is evaluated in full, with its own
    derivative rules, at each state: `(flat, state) = state_of(flat, visit)` from `flat = x`.
    """
    closed = jax.make_jaxpr(energy)(jax.ShapeDtypeStruct(x.shape, x.dtype))
    # The rule outlives this trace, so it must not hold the constants; newer jaxprs do.
    detach = getattr(closed.jaxpr, "with_consts", None)
    jaxpr = closed.jaxpr if detach is None else detach(())

    @jax.custom_jvp
    def attach(constants, energies, x, visits):
        del constants, x, visits
        return energies

    @attach.defjvp
    def _(primals, tangents):
        constants, energies, x, visits = primals

        def tangent(flat, visit):
            flat, state = state_of(flat, visit)

            def at(*c):
                fn = jcore.jaxpr_as_fun(jcore.ClosedJaxpr(jaxpr, c))
                return fn(state.reshape(x.shape))[0]

            return flat, jax.jvp(at, constants, tangents[0])[1]

        return energies, lax.scan(tangent, x.reshape(-1), visits)[1]

    return attach(tuple(closed.consts), energies, lax.stop_gradient(x), visits)


def visited_state(flat: Array, visit: tuple[Array, Array]) -> tuple[Array, Array]:
    """`state_of` a descent: the visit is a bit, and whether its flip was kept."""
    i, kept = visit
    flat = flat.at[i].set(jnp.where(kept, -flat[i], flat[i]))
    return flat, flat


def flipped_state(flat: Array, i: Array) -> tuple[Array, Array]:
    """`state_of` single flips: the visit is the bit that differs."""
    return flat, flat.at[i].set(-flat[i])
