"""Descent by flipping units of two values, of any scalar function of the state.

Units are coded as spins, -1 and +1; a bit is an index into the flattened state.
`AbstractFlipMethod` is the library's loop around a method. Nothing here knows a model.
"""

import abc
import math
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer, PyTree

from amlib import _checks as checks
from amlib._types import Key, hook
from amlib.descent.derivatives import flipped_state, visited_state, with_derivative
from amlib.descent.evaluators import AbstractFlips
from amlib.descent.flip_problem import AbstractFlipProblem, FlipProblem, Sweep, Visits
from amlib.descent.lanes import any_lane
from amlib.descent.loop import iterate_together, kept_steps
from amlib.descent.methods import AbstractMethod
from amlib.descent.trajectory import RESULTS, Recall, StateTrajectory, Trajectory
from amlib.descent.visits import all_flips, compact_dtype, free_bits, try_moves
from amlib.spaces import AbstractSpace, AbstractTwoValued


def count(value: object) -> int | None:
    """A number of sweeps to record, or `None` for all; raise unless it is one."""
    return None if value is None else checks.integer(value, 0, "recall: record")


class _Loop(NamedTuple):
    at: Sweep
    steps: Array
    state: PyTree
    result: RESULTS
    sound: Array
    known: PyTree


class AbstractFlipMethod(AbstractMethod):
    """A method that flips units of two values. Subclass it and define `step`.

    **Arguments:**

    - `record`: how many sweeps the trajectory records visit by visit, at 7 bytes a visit; `None`
      records all.

    **Raises:** `ValueError` for `record < 0`.
    """

    record: int | None = eqx.field(converter=count, static=True, kw_only=True, default=16)

    space: ClassVar[type[AbstractSpace]] = AbstractTwoValued
    limit: ClassVar[int] = 100

    several: ClassVar[bool] = False
    """Whether it changes units of more than two values, too: it then asks no more of a problem than
    an `AbstractFlipProblem` answers."""

    def _room(self, max_steps: int, save_every: int | None) -> int:
        """The sweeps that are recorded; with a record of states the limit itself."""
        if save_every is not None or self.record is None:
            return max_steps
        return min(self.record, max_steps)

    @hook
    def per_sweep(self, problem: AbstractFlipProblem) -> int:
        """How many steps make a sweep, the unit of `max_steps`: one by default."""
        del problem
        return 1

    @hook
    def _asks(self, problem: AbstractFlipProblem) -> AbstractFlipProblem:
        """The problem as the method asks about it: as it is by default."""
        return problem

    @hook
    def init(self, problem: AbstractFlipProblem, at: Sweep) -> PyTree:
        """What the method carries from step to step, at the start; nothing by default."""
        del problem, at

    @abc.abstractmethod
    def step(
        self, problem: AbstractFlipProblem, at: Sweep, state: PyTree, key: Key
    ) -> tuple[Sweep, PyTree]:
        """Take a step.

        **Arguments:**

        - `problem`: what is lowered. `problem.try_moves` tries moves in order, and
          `problem.all_flips` compares all flips.
        - `at`: where the descent is, as spins.
        - `state`: what `init` and the steps before returned.
        - `key`: one for this step.

        **Returns:** where it is then, by `at.moved(x, visits)`; and what is carried on.
        """

    @hook
    def terminate(self, problem: AbstractFlipProblem, at: Sweep, state: PyTree) -> RESULTS:
        """How the descent ends here; `RESULTS.step_limit` where it goes on.

        By default it ends where no single free flip lowers the energy.
        """
        del state
        return problem.fixed(at)

    @hook
    def postprocess(
        self, problem: AbstractFlipProblem, at: Sweep, state: PyTree, result: RESULTS
    ) -> tuple[Sweep, RESULTS]:
        """What is made of the last sweep, and of how it ended; both as they are by default."""
        del problem, state
        return at, result

    def run(
        self,
        problem: AbstractFlipProblem,
        x0: Array,
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """The library's loop around `step`, see `AbstractMethod`.

        An energy of +infinity is a wall that a flip may leave; one that is left at the end, NaN
        and -infinity are not finite.
        """
        space, start = problem.space, problem.space.to_spins(x0)
        problem = self._asks(problem)
        plan = problem.plan(start)
        free = free_bits(problem.units(plan)) if problem.free is None else problem.free
        problem = problem.replace(free=free)
        key = jr.PRNGKey(0) if key is None else key
        per = self.per_sweep(problem)
        limit = (max_steps if problem.limit is None else problem.limit) * per
        if problem.meter is not None:
            problem = problem.replace(meter=problem.meter._replace(per=per))
        if save_every is None:
            rows = max_steps if self.record is None else min(self.record, max_steps)
            stops = np.arange(1, rows * per + 1)
        else:
            stops = kept_steps(max_steps, save_every, x0.nbytes) * per

        def loop(flips: AbstractFlips) -> tuple[PyTree, Array]:
            bound = problem.replace(flips=flips)
            return self._descend(bound, start, key, limit, stops, save_every is None)

        end, taken, rows = plan.run(loop, start)
        x = space.from_spins(end.at.x)
        e = problem.last_energy(x, end.at.energy)
        result = RESULTS.where(e == jnp.inf, RESULTS.nonfinite, end.result)
        sweeps = (end.steps + per - 1) // per  # the last one begun included
        at = end.at._replace(x=x, energy=e, steps=sweeps)
        at, result = self.postprocess(problem, at, end.state, result)
        ran = jnp.asarray(stops, jnp.int32) <= taken
        last = lax.stop_gradient(e).astype(plan.out.dtype)
        if save_every is None:
            energies = jnp.where(ran[:, None], rows.energy, last).reshape(-1)
            visited = rows.bits.reshape(-1, *rows.bits.shape[2:])
            values = None if rows.values is None else rows.values.reshape(-1)
            record = Trajectory(x0, visited, rows.accepted.reshape(-1), energies, space, values)
        else:
            x, energies, steps = rows
            ran_x = ran.reshape(-1, *[1] * x0.ndim)
            states = jnp.where(ran_x, space.from_spins(x), at.x)
            record = StateTrajectory(
                jnp.concatenate([x0[None], states]),
                jnp.concatenate([problem.energy(x0)[None], jnp.where(ran, energies, last)]),
                jnp.pad(jnp.where(ran, steps, end.steps) / per, (1, 0)).astype(energies.dtype),
            )
        return Recall(at.x, at.energy, at.steps, result, record)

    def _descend(
        self,
        problem: AbstractFlipProblem,
        x0: Array,
        key: Key,
        max_steps: Array | int,
        stops: np.ndarray,
        visits: bool,
    ) -> tuple[tuple[_Loop, Array, Any], Array]:
        """The loop in one form of evaluation, and whether that form was sound."""
        assert problem.flips is not None
        x0, exact = lax.stop_gradient(x0), problem.flips.exact
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        flips = problem.flips
        known = flips.learn(x0)
        near = problem.replace(flips=flips.using(known))
        e = flips.using(known).start(x0)[0]
        at = Sweep(x0, e, zero, no)
        result = RESULTS.where(_lost(e), RESULTS.nonfinite, RESULTS.step_limit)
        start = _Loop(at, zero, self.init(near, at), result, jnp.ones((), bool), known)

        def step(c: _Loop, k: Array) -> tuple[_Loop, Any]:
            done = c.result != RESULTS.step_limit
            known = flips.learn(c.at.x, c.known)
            near = problem.replace(flips=flips.using(known))
            before = c.at._replace(steps=k, done=done)
            at, state = self.step(near, before, c.state, jr.fold_in(key, k))
            x, state, last = jax.tree.map(
                lambda new, old: jnp.where(done, old, new),
                (at.x, state, at.energy),
                (c.at.x, c.state, c.at.energy),
            )
            made = self._tried(at, c.at.energy, done)
            at = Sweep(x, last, k + 1, done, made)
            result = self.terminate(near, at, state)
            stuck = (last == jnp.inf) & (result != RESULTS.step_limit)
            result = RESULTS.where(_lost(last) | stuck, RESULTS.nonfinite, result)
            result = RESULTS.where(done, c.result, result)
            steps = c.steps + (~done).astype(c.steps.dtype)
            sound = c.sound & (result != RESULTS.nonfinite)
            if not exact:
                sound &= jnp.isfinite(made.energy).all()
            at = at._replace(steps=zero, done=no, visits=None)
            next_ = _Loop(at, steps, state, result, sound, known)
            return next_, made if visits else (x, last, steps)

        row = jax.eval_shape(step, start, zero)[1]
        runs = lambda c: c.result == RESULTS.step_limit
        whole = visits and self.record is None
        end, taken, kept = iterate_together(
            step, start, runs, max_steps, stops, row, whole, problem.meter
        )
        sound = end.sound & (end.result != RESULTS.nonfinite)
        return (end._replace(known=None), taken, kept), sound  # all forms return the same

    def _tried(self, at: Sweep, e: Array, done: Array) -> Visits:
        """What a step tried; nothing if the descent was done before, at the energy `e`."""
        made = at.visits
        if made is None:
            raise TypeError(
                f"{type(self).__name__}.step: must say what it tried; a Sweep without visits "
                "came. Return problem.try_moves(at, ...), or at.moved(x, Visits(...))."
            )
        values = made.values
        return Visits(
            made.bits.astype(compact_dtype(at.x.size)),
            made.accepted & ~done,
            jnp.where(done, e, made.energy),
            None if values is None else values.astype(compact_dtype(at.x.shape[-1])),
        )


def _lost(e: Array) -> Array:
    return jnp.isnan(e) | (e == -jnp.inf)


# -- without a method ------------------------------------------------------------------------------


def try_all(problem: FlipProblem, x0: Array, *, near: bool) -> tuple[Array, Array] | None:
    """Try each bit once in one form of evaluation, see `FlipPlan.form`: what a flip costs there.

    **Returns:** which flips were kept, and the energies; `None` without such a form.
    """
    s0 = problem.space.to_spins(x0)
    plan = problem.plan(s0)
    form = plan.form(s0, near=near)
    if form is None:
        return None
    form = form.using(form.learn(s0))
    return try_moves(form, s0, jnp.arange(plan.D), _falls, by_change=True)[1]


def _falls(e: Array, new: Array, may: Array | None, spins: tuple[Array, ...]) -> Array:
    """Whether a flip that may be made lowers the energy: the rule of descents."""
    del spins
    return new < e if may is None else (new < e) & may


def visit(problem: FlipProblem, x0: Array, idx: Integer[Array, " T"]) -> tuple[Array, Trajectory]:
    """Try the bits `idx` one after the other; keep a flip only if the energy falls strictly.

    **Arguments:**

    - `problem`: see `FlipProblem`.
    - `x0`: the starting state.
    - `idx`: the bits to visit, each in [0, D).

    **Returns:** the final state, and a `Trajectory` of `T` visits.
    """
    space, s0 = problem.space, problem.space.to_spins(x0)
    plan = problem.plan(s0)
    T = idx.shape[0]
    if T == 0:
        none = jnp.zeros((0,), plan.out.dtype)
        kept = jnp.zeros((0,), bool)
        return x0, Trajectory(x0, idx.astype(compact_dtype(plan.D)), kept, none, space)
    # Carried values are evaluated afresh once per chunk of about D visits, which bounds drift.
    chunks = math.ceil(T / max(plan.D, 256)) if plan.path != "generic" else 1
    length = math.ceil(T / chunks)
    # The barrier keeps XLA from drawing the bits again inside the loop.
    bits = lax.optimization_barrier(jnp.pad(idx, (0, chunks * length - T)))
    bits = bits.reshape(chunks, length)
    valid = (np.arange(chunks * length) < T).reshape(chunks, length)
    may = None if valid.all() else jnp.asarray(valid)

    def loop(flips: AbstractFlips) -> tuple[PyTree, Array]:
        def chunk(at: tuple[Array, PyTree], given: tuple[Array, Array | None]) -> Any:
            x, known = at
            known = flips.learn(x, known)
            near = flips.using(known)
            x, record = try_moves(near, x, given[0], _falls, given[1], by_change=True)
            return (x, known), record

        x0 = lax.stop_gradient(s0)
        (x, _), record = lax.scan(chunk, (x0, flips.learn(x0)), (bits, may))
        return (x, record), jnp.isfinite(record[1]).all()

    s, record = plan.run(loop, s0)
    accepted, energies = (a.reshape(-1)[:T] for a in record)
    energies = with_derivative(problem.of_spins, energies, s0, (idx, accepted), visited_state)
    visited = idx.astype(compact_dtype(plan.D))
    return space.from_spins(s), Trajectory(x0, visited, accepted, energies, space)


def flip_energies(problem: FlipProblem, x: Array) -> Float[Array, " D"]:
    """The energy after each single flip of `x`, all computed together."""
    s = problem.space.to_spins(x)
    plan = problem.plan(s)

    def loop(flips: AbstractFlips) -> tuple[Array, Array]:
        e, energies = all_flips(flips.using(flips.learn(s)), s)
        return energies, jnp.isfinite(e)

    energies = plan.run(loop, s)
    return with_derivative(problem.of_spins, energies, s, jnp.arange(plan.D), flipped_state)


def is_fixed_point(problem: FlipProblem, x: Array) -> Bool[Array, ""]:
    """Whether no single flip of `x`, of those that are free, lowers the energy strictly."""
    s = problem.space.to_spins(x)
    plan = problem.plan(s)
    free = free_bits(plan.D) if problem.free is None else problem.free
    may = None if free.open is None else free.mask(plan.D)[free.bits]

    def loop(flips: AbstractFlips) -> tuple[Array, Array]:
        near = flips.using(flips.learn(s))
        e, energies = all_flips(near, s, free)
        lower = (energies < e).any()
        # Ties that rounding decides between all flips together and one at a time: as in a recall.

        def alone() -> Array:
            kept = try_moves(near, s, free.bits, _falls, may, by_change=True)[1][0]
            return (kept & ~near.idle()[free.bits]).any()

        lower &= lax.cond(any_lane(lower), alone, lambda: lower)
        return ~lower, jnp.isfinite(e)

    return plan.run(loop, s)
