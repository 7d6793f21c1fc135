"""The methods that lower an energy by flips: sweeps, the steepest flip, all at once.

| method | a visited bit flips | ends |
|---|---|---|
| `Sweeps(order)` | if that lowers the energy | where no flip lowers it |
| `Greedy()` | if it is the one that lowers it most | the same |
| `Synchronous()` | together with all whose own flip would lower it | the same, or on a 2-cycle |

Of units of several values, one that is visited takes the value of the lowest energy, where that
is lower than its own. What draws at a temperature is in `samplers`.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from amlib._types import Key
from amlib.descent.flip_problem import AbstractFlipProblem, Best, OfChange, Sweep, Visits
from amlib.descent.flips import AbstractFlipMethod
from amlib.descent.orders import AbstractOrder, as_order
from amlib.descent.trajectory import RESULTS


class Sweeps(AbstractFlipMethod):
    """Sweep over the bits, and keep each flip that lowers the energy, until none does.

    After each sweep all flips are compared at once: cheaper than a sweep that changes nothing, and
    a proof in every order. Moves of several bits end where a sweep made none, if its order is
    `complete`; otherwise at the step limit.

    **Arguments:**

    - `order`: `"permutation"` visits every bit once per sweep, in a fresh random order;
      `"sequential"` in the order of their indices; `"random"` draws bits with replacement;
      `"colours"` tries all bits at once that share no term of the energy; or an `AbstractOrder`.
    - `record`: how many sweeps the trajectory records visit by visit, at 7 bytes a visit; `None`
      records all. Few descents take more than 4.

    **Raises:** `ValueError` for an unknown order and `record < 0`.
    """

    order: AbstractOrder = eqx.field(converter=as_order, default="permutation")

    several: ClassVar[bool] = True

    def init(self, problem: AbstractFlipProblem, at: Sweep) -> Array:
        """The units that change nothing."""
        del at
        return problem.idle()

    def step(
        self, problem: AbstractFlipProblem, at: Sweep, state: Array, key: Key
    ) -> tuple[Sweep, Array]:
        """See `AbstractFlipMethod`."""
        falls = OfChange(lambda before, after, _: after < before, _lowest)
        return problem.sweep(at, self.order, key, falls), state

    def terminate(self, problem: AbstractFlipProblem, at: Sweep, state: Array) -> RESULTS:
        """See `AbstractFlipMethod`."""
        assert at.visits is not None
        bits, moved = at.visits.bits, at.visits.accepted
        if bits.ndim > 1:
            quiet = ~moved.any() & self.order.complete
            return RESULTS.where(quiet, RESULTS.converged, RESULTS.step_limit)
        fixed = problem.fixed(at)
        # Of what changes nothing but by rounding, a flip alone and all together may say otherwise.
        ties = ~(moved & ~state[bits]).any() & self.order.complete & (fixed == RESULTS.step_limit)
        return RESULTS.where(ties, RESULTS.converged, fixed)


def _lowest(before: Array, after: Array, extra: PyTree[Array]) -> Array:
    """The change of a unit that lowers the energy most, or none."""
    del extra
    least = jnp.argmin(jnp.where(jnp.isnan(after), jnp.inf, after))
    return jnp.where(after[least] < before, least, after.shape[0])


class _Steepest(NamedTuple):
    best: Best
    unit: Array
    after: Array


class Greedy(AbstractFlipMethod):
    """Flip the bit that lowers the energy most, until no flip lowers it.

    Each flip compares all free bits. A sweep is as many flips as there are free bits.

    **Arguments:**

    - `record`: see `Sweeps`.
    """

    several: ClassVar[bool] = True

    def per_sweep(self, problem: AbstractFlipProblem) -> int:
        """A sweep is as many flips as there are free bits."""
        return problem.bits.shape[0]

    def init(self, problem: AbstractFlipProblem, at: Sweep) -> _Steepest:
        """The best flip from here."""
        best = problem.best(at.x)
        # Both are the energy of this state: a flip that lowers one alone does so by rounding.
        best = best._replace(energy=jnp.minimum(best.energy, at.energy))
        unit = jnp.argmin(jnp.where(jnp.isnan(best.after), jnp.inf, best.after))
        return _Steepest(best, unit, best.after[unit])

    def step(
        self, problem: AbstractFlipProblem, at: Sweep, state: _Steepest, key: Key
    ) -> tuple[Sweep, _Steepest]:
        """See `AbstractFlipMethod`."""
        del key
        best, unit = state.best, state.unit
        falls = state.after < best.energy
        x = problem.changed(at.x, falls & (jnp.arange(best.after.size) == unit), best)
        energy = jnp.where(falls, state.after, best.energy)
        values = None if best.values is None else best.values[unit][None]
        visits = Visits(problem.bits[unit][None], falls[None], energy[None], values)
        at = at.moved(x, visits)
        return at, self.init(problem, at)

    def terminate(self, problem: AbstractFlipProblem, at: Sweep, state: _Steepest) -> RESULTS:
        """Converged where the best flip does not lower the energy."""
        energy = state.best.energy
        result = RESULTS.where(state.after < energy, RESULTS.step_limit, RESULTS.converged)
        return RESULTS.where(jnp.isnan(energy), RESULTS.nonfinite, result)


class _Falls(NamedTuple):
    best: Best
    units: Array
    undo: Array
    idle: Array


class Synchronous(AbstractFlipMethod):
    """Flip at once every bit whose own flip would lower the energy, until nothing changes.

    The energy may rise, and the dynamics may end on a 2-cycle (Goles-Chacc et al. 1985), which
    is detected and reported. The energies recorded within a sweep are those before it; the last
    entry of each sweep holds the energy after it, and its frame the state after it.

    **Arguments:**

    - `record`: see `Sweeps`.
    """

    several: ClassVar[bool] = True

    def init(self, problem: AbstractFlipProblem, at: Sweep) -> _Falls:
        """The units whose own change would lower the energy."""
        return self._falls(problem, at.x, problem.idle())

    def _falls(self, problem: AbstractFlipProblem, x: Array, idle: Array) -> _Falls:
        best = problem.best(x)
        # Of what changes nothing, rounding has no say: it would turn for ever.
        units = (best.after < best.energy) & ~idle[problem.bits]
        return _Falls(best, units, jnp.zeros((), bool), idle)

    def step(
        self, problem: AbstractFlipProblem, at: Sweep, state: _Falls, key: Key
    ) -> tuple[Sweep, _Falls]:
        """See `AbstractFlipMethod`."""
        del key
        best, units, bits = state.best, state.units, problem.bits
        x = problem.changed(at.x, units, best)
        following = self._falls(problem, x, state.idle)
        back = problem.changed(x, following.units, following.best)
        following = following._replace(undo=units.any() & (back == at.x).all())
        energies = jnp.broadcast_to(best.energy, bits.shape).at[-1].set(following.best.energy)
        return at.moved(x, Visits(bits, units, energies, best.values)), following

    def terminate(self, problem: AbstractFlipProblem, at: Sweep, state: _Falls) -> RESULTS:
        """Converged where nothing changed, a cycle where the next sweep would undo this one."""
        del problem
        assert at.visits is not None
        some = at.visits.accepted.any()
        result = RESULTS.where(some, RESULTS.step_limit, RESULTS.converged)
        return RESULTS.where(state.undo, RESULTS.cycle, result)
