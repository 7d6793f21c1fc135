"""The methods that lower an energy by flips: sweeps, the steepest flip, all at once.

| method | a visited bit flips | ends |
|---|---|---|
| `Sweeps(order)` | if that lowers the energy | where no flip lowers it |
| `Greedy()` | if it is the one that lowers it most | the same |
| `Synchronous()` | together with all whose own flip would lower it | the same, or on a 2-cycle |

What draws at a temperature is in `samplers`.
"""

from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from amlib._types import Key
from amlib.descent.flip_problem import FlipProblem, OfChange, Sweep, Visits
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

    def step(
        self, problem: FlipProblem, at: Sweep, state: PyTree, key: Key
    ) -> tuple[Sweep, PyTree]:
        """See `AbstractFlipMethod`."""
        falls = OfChange(lambda before, after, _: after < before)
        return problem.sweep(at, self.order, key, falls), state

    def terminate(self, problem: FlipProblem, at: Sweep, state: PyTree) -> RESULTS:
        """See `AbstractFlipMethod`."""
        assert at.visits is not None
        if at.visits.bits.ndim == 1:
            return problem.fixed(at)
        quiet = ~at.visits.accepted.any() & self.order.complete
        return RESULTS.where(quiet, RESULTS.converged, RESULTS.step_limit)


class _Lowest(NamedTuple):
    energy: Array
    bit: Array
    after: Array


class Greedy(AbstractFlipMethod):
    """Flip the bit that lowers the energy most, until no flip lowers it.

    Each flip compares all free bits. A sweep is as many flips as there are free bits.

    **Arguments:**

    - `record`: see `Sweeps`.
    """

    def per_sweep(self, problem: FlipProblem) -> int:
        """A sweep is as many flips as there are free bits."""
        return problem.bits.shape[0]

    def init(self, problem: FlipProblem, at: Sweep) -> _Lowest:
        """The best flip from here."""
        e, energies = problem.all_flips(at.x)
        lowest = jnp.argmin(jnp.where(jnp.isnan(energies), jnp.inf, energies))
        return _Lowest(e, problem.bits[lowest], energies[lowest])

    def step(
        self, problem: FlipProblem, at: Sweep, state: _Lowest, key: Key
    ) -> tuple[Sweep, _Lowest]:
        """See `AbstractFlipMethod`."""
        del key
        falls = state.after < state.energy
        flat = at.x.reshape(-1)
        spin = flat[state.bit]
        x = flat.at[state.bit].set(jnp.where(falls, -spin, spin)).reshape(at.x.shape)
        energy = jnp.where(falls, state.after, state.energy)
        at = at.moved(x, Visits(state.bit[None], falls[None], energy[None]))
        return at, self.init(problem, at)

    def terminate(self, problem: FlipProblem, at: Sweep, state: _Lowest) -> RESULTS:
        """Converged where the best flip does not lower the energy."""
        result = RESULTS.where(state.after < state.energy, RESULTS.step_limit, RESULTS.converged)
        return RESULTS.where(jnp.isnan(state.energy), RESULTS.nonfinite, result)


class _Falls(NamedTuple):
    energy: Array
    flip: Array


class Synchronous(AbstractFlipMethod):
    """Flip at once every bit whose own flip would lower the energy, until nothing changes.

    The energy may rise, and the dynamics may end on a 2-cycle (Goles-Chacc et al. 1985), which
    is detected and reported. The energies recorded within a sweep are those before it; the last
    entry of each sweep holds the energy after it, and its frame the state after it.

    **Arguments:**

    - `record`: see `Sweeps`.
    """

    def init(self, problem: FlipProblem, at: Sweep) -> _Falls:
        """The bits whose own flip would lower the energy."""
        e, energies = problem.all_flips(at.x)
        return _Falls(e, energies < e)

    def step(
        self, problem: FlipProblem, at: Sweep, state: _Falls, key: Key
    ) -> tuple[Sweep, _Falls]:
        """See `AbstractFlipMethod`."""
        del key
        flat, bits = at.x.reshape(-1), problem.bits
        x = flat.at[bits].set(jnp.where(state.flip, -flat[bits], flat[bits])).reshape(at.x.shape)
        following = self.init(problem, at._replace(x=x))
        energies = jnp.broadcast_to(state.energy, bits.shape).at[-1].set(following.energy)
        return at.moved(x, Visits(bits, state.flip, energies)), following

    def terminate(self, problem: FlipProblem, at: Sweep, state: _Falls) -> RESULTS:
        """Converged where nothing flipped, a cycle where the next sweep would undo this one."""
        del problem
        assert at.visits is not None
        flip = at.visits.accepted
        undo = flip.any() & (state.flip == flip).all()
        result = RESULTS.where(flip.any(), RESULTS.step_limit, RESULTS.converged)
        return RESULTS.where(undo, RESULTS.cycle, result)
