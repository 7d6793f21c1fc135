r"""The methods that draw states of bits at a temperature, from $p(x) \propto \exp(-\beta E(x))$.

| method | a step is a sweep of |
|---|---|
| `Glauber(beta, order)` | visits; a bit flips with probability $1 / (1 + e^{\beta \Delta E})$ |
| `Metropolis(beta, order)` | visits; with probability $\min(1, e^{-\beta \Delta E})$ |
| `GibbsWithGradients(beta)` | moves, each of one bit of those that promise most |
| `DMALA(beta, step_size)` | all bits at once |

The first two are here, and what all of them share; the others are in `informed`.
"""

import abc
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PyTree

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.descent.flip_problem import FlipProblem, OfChange, Sweep
from amlib.descent.flips import AbstractFlipMethod, count
from amlib.descent.methods import check_schedule
from amlib.descent.orders import AbstractOrder, as_order
from amlib.descent.trajectory import RESULTS


class AbstractSampler(AbstractFlipMethod):
    """A method that draws states of bits at inverse temperature `beta`, for exactly its sweeps.

    Subclass it with the field, and define `step`.
    """

    beta: eqx.AbstractVar[Float[Array, "*sweeps"]]

    draws: ClassVar[bool] = True

    def check(self, max_steps: int | None) -> int:
        """The number of sweeps: that of a schedule where `max_steps` is not given."""
        return check_schedule(self.beta, max_steps, super().check)

    def beta_at(self, problem: FlipProblem, at: Sweep) -> Scalar:
        """The inverse temperature of the sweep that a step belongs to; it has no derivative."""
        beta = lax.stop_gradient(self.beta).astype(at.energy.dtype)
        return beta[at.steps // self.per_sweep(problem)] if beta.ndim else beta

    def terminate(self, problem: FlipProblem, at: Sweep, state: PyTree) -> RESULTS:
        """It goes on to the last sweep."""
        del problem, at, state
        return RESULTS.step_limit

    def postprocess(
        self, problem: FlipProblem, at: Sweep, state: PyTree, result: RESULTS
    ) -> tuple[Sweep, RESULTS]:
        """What was to be drawn is drawn."""
        del problem, state
        return at, RESULTS.where(result == RESULTS.step_limit, RESULTS.sampled, result)


def inverse_temperature(beta: ArrayLike) -> Array:
    """Return `beta` as floats; raise `ValueError` unless all are finite and at least 0."""
    return checks.not_negative(checks.as_float(beta, "beta"), "beta")


class AbstractFlipSampler(AbstractSampler):
    """A sampler that visits bits in an order, and flips each by the change of energy alone.

    Subclass it with the three fields, and define `probability`.
    """

    order: eqx.AbstractVar[AbstractOrder]

    @abc.abstractmethod
    def probability(self, rise: Float[Array, "*moves"]) -> Float[Array, "*moves"]:
        r"""The probability that a move is made.

        **Arguments:**

        - `rise`: $\beta (E_\text{moved} - E)$.
        """

    def step(
        self, problem: FlipProblem, at: Sweep, state: PyTree, key: Key
    ) -> tuple[Sweep, PyTree]:
        """See `AbstractFlipMethod`."""
        visits, draws = jr.split(key)
        beta = self.beta_at(problem, at)
        draw = lambda moves: jr.uniform(draws, (moves,), at.energy.dtype)
        made = lambda before, after, u: u < self.probability(beta * (after - before))
        return problem.sweep(at, self.order, visits, OfChange(made), draw), state


class Glauber(AbstractFlipSampler):
    r"""Draw a fixed number of Glauber sweeps at inverse temperature `beta`, or along a schedule.

    A visited bit is flipped with probability

    $$P = \frac{1}{1 + \exp(\beta (E_\text{flipped} - E))}$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$ for every visiting order here.

    **Arguments:**

    - `beta`: inverse temperature, >= 0, in units of 1/energy: one for all sweeps, or a schedule
      with one for each (annealing). Other values, and other schedules of that length, compile
      nothing anew.
    - `order`: see `Sweeps`.
    - `record`: how many sweeps the trajectory records; `None` records all.

    **Raises:** `ValueError` for `beta < 0`, an unknown order and `record < 0`.

    **Reference:** Glauber 1963, J. Math. Phys. 4, 294.
    """

    beta: Float[Array, "*sweeps"] = eqx.field(converter=inverse_temperature)
    order: AbstractOrder = eqx.field(converter=as_order, default="permutation")
    record: int | None = eqx.field(converter=count, static=True, kw_only=True, default=None)

    def probability(self, rise: Float[Array, "*moves"]) -> Float[Array, "*moves"]:
        """See `AbstractFlipSampler`."""
        return jax.nn.sigmoid(-rise)


class Metropolis(AbstractFlipSampler):
    r"""Draw a fixed number of Metropolis sweeps at inverse temperature `beta`, or along a schedule.

    A visited bit is flipped with probability

    $$P = \min\big(1, \exp(-\beta (E_\text{flipped} - E))\big)$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$. It flips more often than
    `Glauber`, and mixes faster at low `beta`; but a flip that costs nothing is made for certain.
    At `beta = 0` an order that visits every bit once turns the state over in each sweep, so where
    `beta` is near 0 take `order="random"`.

    **Arguments:**

    - `beta`, `order`, `record`: see `Glauber`.

    **Raises:** `ValueError` for `beta < 0`, an unknown order and `record < 0`.

    **Reference:** Metropolis et al. 1953, J. Chem. Phys. 21, 1087.
    """

    beta: Float[Array, "*sweeps"] = eqx.field(converter=inverse_temperature)
    order: AbstractOrder = eqx.field(converter=as_order, default="permutation")
    record: int | None = eqx.field(converter=count, static=True, kw_only=True, default=None)

    def probability(self, rise: Float[Array, "*moves"]) -> Float[Array, "*moves"]:
        """See `AbstractFlipSampler`."""
        return jnp.exp(-jnp.maximum(rise, 0))
