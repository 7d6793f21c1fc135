"""Units of q values, changed one at a time: what the methods work on, and the loops under it.

A state is coded as q spins for each unit, of which one is +1. To change a unit is to turn that one
off and another one on, so each form of evaluation that knows flips knows changes: the row of the
one spin is taken away from what is carried, and the row of another is added.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, PyTree

from amlib._numbers import Numbers
from amlib._progress import Meter
from amlib._types import EnergyFn, Key, Scalar
from amlib.descent.derivatives import with_derivative
from amlib.descent.evaluators import AbstractFlips, BitRows, Carry, Seen
from amlib.descent.flip_problem import AbstractFlipProblem, Best, OfChange, Sweep, Visits
from amlib.descent.integers import refuse_sums_in_int8
from amlib.descent.jaxprs import Unsupported
from amlib.descent.kernels import in_one_kernel
from amlib.descent.orders import AbstractOrder
from amlib.descent.plan import FlipPlan, Path
from amlib.descent.sitewise import over_bits
from amlib.descent.trajectory import RESULTS
from amlib.descent.visits import Free
from amlib.spaces import Values

_BLOCK = 2**18  # elements evaluated at once where all changes are compared


@dataclasses.dataclass(frozen=True)
class SiteProblem(AbstractFlipProblem):
    """A scalar function of units of q values, and the units that may move.

    **Arguments:**

    - `energy`, `free`, `limit`, `meter`, `path`, `bounded`, `memory`, `flips`: see
      `AbstractFlipProblem`.
    - `space`: how many values a unit has.
    """

    energy: EnergyFn
    space: Values  # pyright: ignore[reportIncompatibleVariableOverride]
    free: Free | None = None
    path: Path = "auto"
    bounded: Sequence[tuple[Array, Numbers]] = ()
    memory: object = None
    limit: Array | None = None
    meter: Meter | None = None
    flips: AbstractFlips | None = None

    def as_written(self, s: Array) -> Array:
        """The energy of the state that spins stand for."""
        return self.energy(self.space.from_spins(s))

    def plan(self, s: Array) -> FlipPlan:
        """How flips of the spins are evaluated, made in the trace that uses it."""
        x = jax.ShapeDtypeStruct(s.shape[:-1], jnp.int32)
        if self.stored_as_int8():
            refuse_sums_in_int8(self.energy, x)
        if self.path != "generic":
            try:
                lowered = over_bits(self.energy, x, self.space.q)
            except Unsupported as err:
                plan = FlipPlan(self.as_written, s, "generic")
                plan.reason = str(err)
                return plan
            return FlipPlan(lowered, s, self.path, self.bounded, self.as_written)
        return FlipPlan(self.as_written, s, "generic")

    def units(self, plan: FlipPlan) -> int:
        """See `AbstractFlipProblem`."""
        return plan.D // self.space.q

    def sweep(
        self,
        at: Sweep,
        order: AbstractOrder,
        key: Key,
        accept: Callable[[Array, Array, Any], Array],
        draw: Callable[[int], PyTree[Array]] | None = None,
    ) -> Sweep:
        """See `AbstractFlipProblem`: each visited unit may take any of its values, one after the
        other."""
        assert self.flips is not None
        choose = accept.choose if isinstance(accept, OfChange) else None
        if choose is None:
            raise TypeError(
                f"recall: units of {self.space.q} values ask which change is made; a rule of two "
                "energies came. Give OfChange(rule, choose)."
            )
        sites = jnp.asarray(order.moves(key, self.bits))
        if sites.ndim != 1 or not jnp.issubdtype(sites.dtype, jnp.integer) or not sites.size:
            raise TypeError(
                f"order: {type(order).__name__} must return units of several values one by one, "
                f"as integers of shape (T,); {sites.dtype}{list(sites.shape)} came. Use "
                "'permutation', 'sequential' or 'random'."
            )
        extra = None if draw is None else draw(sites.shape[0])
        may = self._may_move(sites, at.x.size // self.space.q)
        x, visits = try_sites(self.flips, at.x, sites, choose, (extra, may), self.space.q)
        return at.moved(x, visits)

    def idle(self) -> Bool[Array, " units"]:
        """See `AbstractFlipProblem`: those all of whose bits are."""
        assert self.flips is not None
        return self.flips.idle().reshape(-1, self.space.q).all(axis=1)

    def best(self, x: Array) -> Best:
        """See `AbstractFlipProblem`."""
        e, after = self.all_changes(x)
        lowest = jnp.argmin(jnp.where(jnp.isnan(after), jnp.inf, after), axis=1)
        least = jnp.take_along_axis(after, lowest[:, None], axis=1)[:, 0]
        return Best(e, least, self._become(x, lowest))

    def all_changes(self, x: Array) -> tuple[Scalar, Float[Array, "F m"]]:
        """See `AbstractFlipProblem`."""
        assert self.flips is not None
        assert self.free is not None
        e, after = all_changes(self.flips, x, self.bits, self.space.q)
        return e, jax.vmap(self.free.hold, 1, 1)(after)

    def made(self, x: Array, changes: Bool[Array, "F m"]) -> Array:
        """See `AbstractFlipProblem`."""
        return self._put(x, changes.any(1), self._become(x, jnp.argmax(changes, axis=1)))

    def values(self, x: Array, units: Integer[Array, " T"]) -> Integer[Array, " T"]:
        """See `AbstractFlipProblem`."""
        return self.space.from_spins(x).reshape(-1)[units]

    def changed(self, x: Array, units: Array, best: Best) -> Array:
        """See `AbstractFlipProblem`."""
        assert best.values is not None
        return self._put(x, units, best.values)

    def _become(self, x: Array, change: Array) -> Array:
        """What free units are after their changes of these numbers."""
        now = self.values(x, self.bits)
        return (now + 1 + change.astype(now.dtype)) % self.space.q

    def _put(self, x: Array, units: Array, values: Array) -> Array:
        now = self.space.from_spins(x).reshape(-1)
        made = now.at[self.bits].set(jnp.where(units, values, now[self.bits]))
        return self.space.to_spins(made).astype(x.dtype).reshape(x.shape)

    def fixed(self, at: Sweep) -> RESULTS:
        """See `AbstractFlipProblem`."""
        best = self.best(at.x)
        fixed = ~(best.after < best.energy).any()
        result = RESULTS.where(fixed, RESULTS.converged, RESULTS.step_limit)
        return RESULTS.where(jnp.isnan(best.energy), RESULTS.nonfinite, result)


class _Around(NamedTuple):
    """What the changes of one unit, from value a to a + 1, a + 2, ... (modulo q), come to.

    - `energy`: after each, and `change` what each adds, where that is known better.
    - `carry`: what is carried then.
    """

    energy: Float[Array, " changes"]
    change: Float[Array, " changes"] | None
    carry: Carry


def try_sites(
    flips: AbstractFlips,
    x: Array,
    sites: Integer[Array, " T"],
    choose: Callable[[Array, Array, Any], Array],
    extra: tuple[PyTree[Array], Array | None],
    q: int,
) -> tuple[Array, Visits]:
    """Change units one after the other, from carried values evaluated afresh.

    **Arguments:**

    - `flips`, `x`: the energy, and the state that it starts from, as spins.
    - `sites`: the units.
    - `choose`: see `OfChange`.
    - `extra`: arrays with an entry for each visit, and whether the unit may move.
    - `q`: how many values a unit has.

    **Returns:** the state, and the visits.
    """
    e, carry = flips.start(x)
    flat, each = x.reshape(-1), jnp.arange(q, dtype=sites.dtype)

    def fetch(flat: Array, site: Array) -> tuple[Array, Seen]:
        return lax.dynamic_slice_in_dim(flat, site * q, q), _seen(flips, flat, site, q)

    def step(loop: PyTree[Array], visit: PyTree[Array]) -> tuple[PyTree[Array], PyTree[Array]]:
        # As in `visits.try_moves`: what is read of the state was fetched by the step before.
        flat, carry, e, (own, seen) = loop
        site, following, (extra, may) = visit
        now = jnp.argmax(own).astype(sites.dtype)
        near = _changes(flips, x.shape, flat, carry, site, now, seen, q)
        if near.change is None:
            chosen = choose(e, near.energy, extra)
        else:
            chosen = choose(jnp.zeros_like(near.change[0]), near.change, extra)
        kept = chosen < q - 1
        if may is not None:
            kept &= may
        at = jnp.where(kept, chosen, 0)
        pick = lambda a: lax.dynamic_index_in_dim(a, at, keepdims=False)
        value = jnp.where(kept, (now + 1 + at.astype(now.dtype)) % q, now)
        own = jnp.where(each == value, 1, -1).astype(flat.dtype)
        flat = lax.dynamic_update_slice_in_dim(flat, own, site * q, 0)
        carry = jax.tree.map(lambda new, old: jnp.where(kept, pick(new), old), near.carry, carry)
        e = jnp.where(kept, pick(near.energy), e)
        if not flips.exact:
            e = jnp.where(jnp.isfinite(near.energy).all(), e, jnp.nan)
        return (flat, carry, e, fetch(flat, following)), (kept, e, value)

    start = (flat, carry, e, fetch(flat, sites[0]))
    scan = lambda *given: lax.scan(step, *given)
    (flat, *_), record = in_one_kernel(scan, start, (sites, jnp.roll(sites, -1), extra))
    return flat.reshape(x.shape), Visits(sites, *record)


def all_changes(
    flips: AbstractFlips, x: Array, sites: Integer[Array, " F"], q: int
) -> tuple[Scalar, Float[Array, "F changes"]]:
    """The energy of `x`, and that after each change of each of some units, in blocks of units.

    The energy of `x` is NaN where a form that is not exact met one that is not finite.
    """
    flat = x.reshape(-1)
    e, carry = flips.start(x)

    def one(site: Array) -> Array:
        now = jnp.argmax(lax.dynamic_slice_in_dim(flat, site * q, q)).astype(site.dtype)
        seen = _seen(flips, flat, site, q)
        return _changes(flips, x.shape, flat, carry, site, now, seen, q).energy

    carried = max((a.size for a in jax.tree.leaves(carry.values)), default=1)
    per_site = q * max(flips.D if flips.uses_state else 1, carried, 1)
    block = max(1, min(sites.shape[0], _BLOCK // per_site))
    energies = lax.map(one, sites, batch_size=block)
    return e if flips.exact else jnp.where(jnp.isfinite(energies).all(), e, jnp.nan), energies


def _changes(
    flips: AbstractFlips,
    shape: tuple[int, ...],
    flat: Array,
    carry: Carry,
    site: Array,
    now: Array,
    seen: Seen,
    q: int,
) -> _Around:
    """The changes of a unit whose value is `now`, where its rows read the bits `seen`."""
    rows, first = _rows(flips, site, q), site * q
    pick = lambda tree, at: jax.tree.map(lambda a: a.at[at].get(mode="promise_in_bounds"), tree)
    was, on, off = first + now, jnp.ones((), flat.dtype), -jnp.ones((), flat.dtype)
    old, left = pick(rows, now), flat
    if flips.uses_state:
        left = lax.dynamic_update_index_in_dim(flat, off, was, 0)
    _, without = flips.flip(left.reshape(shape), carry, old, on, pick(seen, now))
    leaves = flips.change(old, pick(seen, now), on)

    def turned_on(value: Array, row: BitRows, seen: Seen) -> tuple[Array, Array | None, Carry]:
        # The bit of the value before is off by now.
        is_off = lambda i, s: jnp.where(i == was.astype(i.dtype), off, s)
        seen = jax.tree.map(is_off, flips.reads(row), seen)
        state = left
        if flips.uses_state:
            state = lax.dynamic_update_index_in_dim(left, on, first + value, 0)
        energy, moved = flips.flip(state.reshape(shape), without, row, off, seen)
        adds = None if leaves is None else flips.change(row, seen, off)
        return energy, None if adds is None or leaves is None else leaves + adds, moved

    others = (now + 1 + jnp.arange(q - 1, dtype=now.dtype)) % q
    energy, change, moved = jax.vmap(turned_on)(others, pick(rows, others), pick(seen, others))
    return _Around(energy, change, moved)


def _rows(flips: AbstractFlips, site: Array, q: int) -> BitRows:
    """The rows of the q bits of a unit: contiguous reads."""

    def take(a: Any) -> Array:
        a = jnp.asarray(a)
        if a.shape[0] == 1:
            return jnp.broadcast_to(a, (q, *a.shape[1:]))
        return lax.dynamic_slice_in_dim(a, site * q, q)

    return jax.tree.map(take, flips.rows)


def _seen(flips: AbstractFlips, flat: Array, site: Array, q: int) -> Seen:
    """The values of the bits that the rows of a unit read."""
    rows = _rows(flips, site, q)
    reads = jax.vmap(flips.reads)(rows) if jax.tree.leaves(rows) else flips.reads(rows)
    return jax.tree.map(lambda at: flat.at[at].get(mode="promise_in_bounds"), reads)


def changes_of(problem: SiteProblem, x: Integer[Array, "*shape"]) -> Float[Array, "*shape q"]:
    """The energy of each state that differs from `x` in one unit at most, by unit and value.

    It has the derivative of the energy.
    """
    q, s = problem.space.q, problem.space.to_spins(x)
    plan = problem.plan(s)
    sites = jnp.arange(x.size)

    def loop(flips: AbstractFlips) -> tuple[tuple[Array, Array], Array]:
        e, energies = all_changes(flips.using(flips.learn(s)), s, sites, q)
        return (e, energies), jnp.isfinite(e)

    e, energies = plan.run(loop, s)
    own = jnp.broadcast_to(e, (x.size, 1))
    after = jnp.concatenate([own, energies], axis=1)  # of the values now, now + 1, ...
    steps = (jnp.arange(q, dtype=x.dtype)[None] - x.reshape(-1, 1)) % q
    made = jnp.take_along_axis(after, steps, axis=1).reshape(-1)

    def changed(flat: Array, at: Array) -> tuple[Array, Array]:
        return flat, flat.at[at // q].set((at % q).astype(flat.dtype))

    made = with_derivative(problem.energy, made, x, jnp.arange(x.size * q), changed)
    return made.reshape(*x.shape, q)
