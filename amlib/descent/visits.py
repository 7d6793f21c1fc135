"""The loops under `flips`: visit bits in order, compare all flips, repeat until done."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from amlib._checks import is_concrete
from amlib._types import EnergyFn
from amlib.descent.evaluators import AbstractFlips
from amlib.descent.lanes import any_lane
from amlib.descent.plan import FlipPlan
from amlib.descent.trajectory import RESULTS, Recall, Trajectory

_BLOCK = 2**18  # elements evaluated at once where all flips are compared


class Free(NamedTuple):
    """The bits that may move.

    - `bits`: their indices into the flattened state.
    - `open`: which of these may move after all, or `None` for all of them. Where a mask is traced,
      how many bits are free is not known: then `bits` are all bits. Where it holds all of them,
      there is one, which may not move.
    """

    bits: Integer[Array, " F"]
    open: Bool[Array, " F"] | None = None

    def hold(self, energies: Array) -> Array:
        """Energies after flips, infinite where a bit is held."""
        return energies if self.open is None else jnp.where(self.open, energies, jnp.inf)


def free_bits(D: int, clamp: Any = None) -> Free:
    """The bits that a mask of shape `(D,)` does not hold; all without one."""
    if clamp is None:
        return Free(jnp.arange(D))
    if is_concrete(clamp):
        bits = np.flatnonzero(~np.asarray(clamp))
        return Free(jnp.asarray(bits)) if bits.size else Free(jnp.arange(1), jnp.zeros(1, bool))
    return Free(jnp.arange(D), ~clamp)


def try_bits(
    flips: AbstractFlips,
    x: Array,
    bits: Array,
    accept: Callable[[Array, Array, Any], Array],
    extra: Array | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Visit `bits` in order, from carried values evaluated afresh.

    A form that is not exact and meets an energy that is not finite accepts nothing from there on,
    and records NaN.

    **Returns:** the state, and per visit whether the flip was kept and the energy.
    """
    e, carry = flips.start(x)
    flat = x.reshape(-1)

    def step(loop, visit):
        # `s = flat[i]` was fetched by the step before: if the state were read and updated in one
        # step, XLA would copy all of it in every step.
        flat, carry, e, s = loop
        i, following, extra = visit
        flipped = x
        if flips.uses_state:
            flipped = lax.dynamic_update_index_in_dim(flat, -s, i, 0).reshape(x.shape)
        e_new, moved = flips.flip(flipped, carry, flips.row(i), s)
        kept = accept(e, e_new, extra)
        flat = lax.dynamic_update_index_in_dim(flat, jnp.where(kept, -s, s), i, 0)
        carry = jax.tree.map(lambda new, old: jnp.where(kept, new, old), moved, carry)
        e = jnp.where(kept, e_new, e)
        if not flips.exact:
            e = jnp.where(jnp.isfinite(e_new), e, jnp.nan)
        s = lax.dynamic_index_in_dim(flat, following, keepdims=False)
        return (flat, carry, e, s), (kept, e)

    start = (flat, carry, e, flat[bits[0]])
    (flat, *_), record = lax.scan(step, start, (bits, jnp.roll(bits, -1), extra))
    return flat.reshape(x.shape), record


def all_flips(
    flips: AbstractFlips, x: Array, free: Free | None = None
) -> tuple[Array, Float[Array, " F"]]:
    """The energy of `x`, and that after each single flip that is free, in blocks of flips.

    A flip that is held has the energy +infinity. The energy of `x` is NaN where a form that is not
    exact met one that is not finite.
    """
    flat = x.reshape(-1)
    e, carry = flips.start(x)
    shared = jax.tree.map(lambda a: a[0] if a.shape[0] == 1 else None, flips.rows)
    own = jax.tree.map(lambda a: None if a.shape[0] == 1 else a, flips.rows)
    bits = jnp.arange(flips.D)
    if free is not None and free.bits.shape[0] < flips.D:
        bits, own = free.bits, jax.tree.map(lambda a: a[free.bits], own)

    def one(i_and_row: tuple[Array, Any]) -> Array:
        i, row = i_and_row
        row = jax.tree.map(lambda a, b: b if a is None else a, row, shared, is_leaf=_is_none)
        s = flat[i]
        flipped = flat.at[i].set(-s).reshape(x.shape) if flips.uses_state else x
        return flips.flip(flipped, carry, row, s)[0]

    per_flip = max(flips.D if flips.uses_state else 1, *(a.size for a in carry.values), 1)
    block = max(1, min(flips.D, _BLOCK // per_flip))
    energies = lax.map(one, (bits, own), batch_size=min(block, bits.shape[0]))
    e = e if flips.exact else jnp.where(jnp.isfinite(energies).all(), e, jnp.nan)
    return e, energies if free is None else free.hold(energies)


def fixed_or_not(flips: AbstractFlips, x: Array, done: Array, free: Free) -> RESULTS:
    """Converged if no free flip lowers the energy: by proof, else by comparing all of them."""

    def compare() -> tuple[Array, Array]:
        e, energies = all_flips(flips, x, free)
        return ~(energies < e).any(), jnp.isnan(e)

    proved = flips.proves_fixed(x, free.bits) if free.open is None else None
    if proved is None:
        fixed, lost = compare()
    else:
        fixed, lost = lax.cond(
            any_lane(~(proved | done)), compare, lambda: (proved, jnp.zeros_like(proved))
        )
        fixed, lost = proved | fixed, lost & ~proved
    result = RESULTS.where(fixed, RESULTS.converged, RESULTS.step_limit)
    return RESULTS.where(lost, RESULTS.nonfinite, result)


class _Loop(NamedTuple):
    x: Array
    k: Array  # counts for all lanes of a vmap together
    steps: Array
    result: RESULTS
    done: Array
    record: tuple[Array, ...]


def iterate(
    plan: FlipPlan,
    energy: EnergyFn,
    x0: Array,
    step: Callable[..., tuple[Array, tuple[Array, Array, Array], RESULTS]],
    width: int,
    max_steps: int,
    record: int,
) -> Recall:
    """Repeat `step(flips, x, k, done)` until its result is final; record `width` visits each.

    An energy of +infinity is a wall that a flip may leave; one that is left at the end, NaN and
    -infinity are not finite.

    Under `vmap` the lanes stop together, when the last one is done. A lane that is done must not
    change: `step` sees to it. In exchange no lane's record is copied through a select.
    """
    rows_kept = min(record, max_steps)

    def loop(flips: AbstractFlips) -> tuple[_Loop, Array]:
        def body(c: _Loop) -> _Loop:
            x, rows, result = step(flips, c.x, c.k, c.done)
            last = rows[2][-1]
            stuck = (last == jnp.inf) & (result != RESULTS.step_limit)
            result = RESULTS.where(_lost(last) | stuck, RESULTS.nonfinite, result)
            result = RESULTS.where(c.done, c.result, result)
            record = c.record
            if rows_kept:
                at = jnp.minimum(c.k, rows_kept - 1)
                keep = c.k < rows_kept
                record = tuple(
                    lax.dynamic_update_index_in_dim(
                        a, jnp.where(keep, row.astype(a.dtype), a[at]), at, 0
                    )
                    for a, row in zip(c.record, rows, strict=True)
                )
            steps = c.steps + (~c.done).astype(c.steps.dtype)
            return _Loop(x, c.k + 1, steps, result, result != RESULTS.step_limit, record)

        lost = _lost(flips.start(x0)[0])
        result = RESULTS.where(lost, RESULTS.nonfinite, RESULTS.step_limit)
        zero = jnp.zeros((), jnp.int32)
        blank = tuple(
            jnp.zeros((rows_kept, width), dtype)
            for dtype in (compact_dtype(plan.D), bool, plan.out.dtype)
        )
        start = _Loop(lax.stop_gradient(x0), zero, zero, result, lost, blank)
        end = lax.while_loop(lambda c: any_lane(~c.done) & (c.k < max_steps), body, start)
        return end, end.result != RESULTS.nonfinite

    end = plan.run(loop)
    e = energy(end.x)  # not frozen: the final energy has its derivative in the parameters
    visited, accepted, energies = end.record
    ran = jnp.arange(rows_kept, dtype=end.k.dtype)[:, None] < end.k
    energies = jnp.where(ran, energies, lax.stop_gradient(e).astype(energies.dtype))
    flat = (a.reshape(-1) for a in (visited, accepted, energies))
    result = RESULTS.where(e == jnp.inf, RESULTS.nonfinite, end.result)
    return Recall(end.x, e, end.steps, result, Trajectory(x0, *flat))


def _lost(e: Array) -> Array:
    return jnp.isnan(e) | (e == -jnp.inf)


def compact_dtype(D: int) -> Any:
    """The smallest dtype in which a trajectory keeps an index of a bit."""
    return jnp.uint16 if D <= 2**16 else jnp.int32


def _is_none(a: Any) -> bool:
    return a is None
