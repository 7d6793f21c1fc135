"""The loops under `flips`: try moves in order, compare all flips."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, PyTree

from amlib._checks import is_concrete
from amlib.descent.evaluators import AbstractFlips
from amlib.descent.kernels import in_one_kernel
from amlib.descent.lanes import any_lane
from amlib.descent.trajectory import RESULTS

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

    def mask(self, D: int) -> Bool[Array, " D"]:
        """Which of `D` bits may move."""
        may = True if self.open is None else self.open
        return jnp.zeros(D, bool).at[self.bits].set(may)

    def hold(self, energies: Array) -> Array:
        """Energies after flips, infinite where a bit is held."""
        return energies if self.open is None else jnp.where(self.open, energies, jnp.inf)


def free_bits(D: int, clamp: Array | np.ndarray | None = None) -> Free:
    """The bits that a mask of shape `(D,)` does not hold; all without one."""
    if clamp is None:
        return Free(jnp.arange(D))
    if is_concrete(clamp):
        bits = np.flatnonzero(~np.asarray(clamp))
        return Free(jnp.asarray(bits)) if bits.size else Free(jnp.arange(1), jnp.zeros(1, bool))
    return Free(jnp.arange(D), ~jnp.asarray(clamp))


def try_moves(
    flips: AbstractFlips,
    x: Array,
    moves: Integer[Array, "T *m"],
    accept: Callable[[Array, Array, Any, tuple[Array, ...]], Array],
    extra: PyTree[Array] = None,
    by_change: bool = False,
) -> tuple[Array, tuple[Array, Array]]:
    """Try moves one after the other, from carried values evaluated afresh.

    A form that is not exact and meets an energy that is not finite accepts nothing from there on,
    and records NaN.

    **Arguments:**

    - `flips`, `x`: the energy, and the state that it starts from.
    - `moves`: a bit each, or `m` bits that flip together.
    - `accept`: from the energy before and after a move, its entry of `extra`, and the spins that
      it flips (as they are before), to whether it is made.
    - `extra`: arrays with an entry per move.
    - `by_change`: whether `accept` reads no more than the difference of the two energies. It is
      then given zero and the change where a form knows that better than two large energies.

    **Returns:** the state, and per move whether it was made and the energy.
    """
    _check_moves(moves)
    e, carry = flips.start(x)
    flat = x.reshape(-1)
    together = range(moves[0].size)
    bits = tuple(moves.reshape(-1, len(together))[:, j] for j in together)

    def fetch(flat: Array, at: tuple[Array, ...]) -> tuple[Any, Any]:
        spins = tuple(lax.dynamic_index_in_dim(flat, i, keepdims=False) for i in at)
        return spins, tuple(_seen(flips, flat, flips.row(i)) for i in at)

    def step(loop: PyTree[Array], move: PyTree[Array]) -> tuple[PyTree[Array], tuple[Array, Array]]:
        # The spins `s` and what their rows read were fetched by the step before: if the state were
        # read and updated in one step, XLA would copy all of it in every step.
        flat, carry, e, (s, seen) = loop
        at, following, extra = move
        after, flipped, moved, e_new, turned = flat, x, carry, e, []
        change: Array | None = None
        for j in together:
            row, spin, others = flips.row(at[j]), s[j], seen[j]
            for i in range(j):  # the bits of a move turn one after the other, also one named twice
                spin = jnp.where(at[i] == at[j], -spin, spin)
                turn = lambda index, value, i=i: jnp.where(index == at[i], -value, value)
                others = jax.tree.map(turn, flips.reads(row), others)
            if flips.uses_state:
                after = lax.dynamic_update_index_in_dim(after, -spin, at[j], 0)
                flipped = after.reshape(x.shape)
            e_new, moved = flips.flip(flipped, moved, row, spin, others)
            adds = flips.change(row, others, spin) if by_change else None
            change = adds if change is None or adds is None else change + adds
            turned.append(-spin)
        if change is None:
            kept = accept(e, e_new, extra, s)
        else:
            kept = accept(jnp.zeros_like(change), change, extra, s)
        for i, new, old in zip(at, turned, s, strict=True):
            flat = lax.dynamic_update_index_in_dim(flat, jnp.where(kept, new, old), i, 0)
        carry = jax.tree.map(lambda new, old: jnp.where(kept, new, old), moved, carry)
        e = jnp.where(kept, e_new, e)
        if not flips.exact:
            e = jnp.where(jnp.isfinite(e_new), e, jnp.nan)
        return (flat, carry, e, fetch(flat, following)), (kept, e)

    start = (flat, carry, e, fetch(flat, tuple(b[0] for b in bits)))
    following = tuple(jnp.roll(b, -1) for b in bits)
    scan = lambda *given: lax.scan(step, *given)
    (flat, *_), record = in_one_kernel(scan, start, (bits, following, extra))
    return flat.reshape(x.shape), record


def _check_moves(moves: Array) -> None:
    """Raise unless these are what an order may return."""
    if not jnp.issubdtype(moves.dtype, jnp.integer):
        raise TypeError(
            f"order: moves must be integers, indices of bits; {moves.dtype} came. Return entries "
            "of `bits`."
        )
    if moves.ndim not in (1, 2) or moves.size == 0:
        raise ValueError(
            "order: moves must have the shape (T,), a bit for each move, or (T, m), m bits that "
            f"flip together, with T and m at least 1; {moves.shape} came."
        )


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
    own = jax.tree.map(lambda a: None if a.shape[0] == 1 else jnp.asarray(a), flips.rows)
    bits = jnp.arange(flips.D)
    if free is not None and free.bits.shape[0] < flips.D:
        bits, own = free.bits, jax.tree.map(lambda a: a[free.bits], own)

    def one(i_and_row: tuple[Array, Any]) -> Array:
        i, row = i_and_row
        row = jax.tree.map(lambda a, b: b if a is None else a, row, shared, is_leaf=_is_none)
        s = flat[i]
        flipped = flat.at[i].set(-s).reshape(x.shape) if flips.uses_state else x
        return flips.flip(flipped, carry, row, s, _seen(flips, flat, row))[0]

    carried = max((a.size for a in jax.tree.leaves(carry.values)), default=1)
    per_flip = max(flips.D if flips.uses_state else 1, carried, 1)
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


def compact_dtype(D: int) -> type[np.generic]:
    """The smallest dtype in which a trajectory keeps an index of a bit."""
    return np.uint16 if D <= 2**16 else np.int32


def _seen(flips: AbstractFlips, flat: Array, row: Any) -> Any:
    """The values of the bits that a row reads."""
    return jax.tree.map(lambda at: flat.at[at].get(mode="promise_in_bounds"), flips.reads(row))


def _is_none(a: object) -> bool:
    return a is None
