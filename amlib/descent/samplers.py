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
from jaxtyping import Array, ArrayLike, Float, Integer, PyTree

from amlib import _checks as checks
from amlib._types import Key, Scalar, hook
from amlib.descent.flip_problem import AbstractFlipProblem, OfChange, Sweep
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

    def beta_at(self, problem: AbstractFlipProblem, at: Sweep) -> Scalar:
        """The inverse temperature of the sweep that a step belongs to; it has no derivative."""
        beta = lax.stop_gradient(self.beta).astype(at.energy.dtype)
        return beta[at.steps // self.per_sweep(problem)] if beta.ndim else beta

    def terminate(self, problem: AbstractFlipProblem, at: Sweep, state: PyTree) -> RESULTS:
        """It goes on to the last sweep."""
        del problem, at, state
        return RESULTS.step_limit

    def postprocess(
        self, problem: AbstractFlipProblem, at: Sweep, state: PyTree, result: RESULTS
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

    several: ClassVar[bool] = True

    @abc.abstractmethod
    def probability(self, rise: Float[Array, "*moves"]) -> Float[Array, "*moves"]:
        r"""The probability that a move is made.

        **Arguments:**

        - `rise`: $\beta (E_\text{moved} - E)$.
        """

    @hook
    def choose(self, rises: Float[Array, " changes"], u: Scalar) -> Integer[Array, ""]:
        r"""Which change of a unit of several values is made, or how many there are for none.

        By default one is proposed, each as likely, and made with its `probability`.

        **Arguments:**

        - `rises`: $\beta (E_\text{changed} - E)$ of each.
        - `u`: a random number, uniform in [0, 1).
        """
        proposed = u * rises.shape[0]
        change = jnp.minimum(jnp.floor(proposed).astype(jnp.int32), rises.shape[0] - 1)
        made = proposed - change.astype(u.dtype) < self.probability(rises[change])
        return jnp.where(made, change, rises.shape[0])

    def step(
        self, problem: AbstractFlipProblem, at: Sweep, state: PyTree, key: Key
    ) -> tuple[Sweep, PyTree]:
        """See `AbstractFlipMethod`."""
        visits, draws = jr.split(key)
        beta = self.beta_at(problem, at)
        draw = lambda moves: jr.uniform(draws, (moves,), at.energy.dtype)
        made = lambda before, after, u: u < self.probability(beta * (after - before))
        choose = lambda before, after, u: self.choose(beta * (after - before), u)
        return problem.sweep(at, self.order, visits, OfChange(made, choose), draw), state


class Glauber(AbstractFlipSampler):
    r"""Draw a fixed number of Glauber sweeps at inverse temperature `beta`, or along a schedule.

    A visited bit is flipped with probability

    $$P = \frac{1}{1 + \exp(\beta (E_\text{flipped} - E))}$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$ for every visiting order here.
    A unit of several values draws one of them, its own included, with probability
    $\propto \exp(-\beta E)$: a heat bath, or Gibbs sampling.

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

    def choose(self, rises: Float[Array, " changes"], u: Scalar) -> Integer[Array, ""]:
        """A heat bath: each value as often as the Boltzmann law has it, the others given."""
        # Of a rise that is no number nothing is known, as where one wall leads to another.
        rises = jnp.where(jnp.isnan(rises), jnp.inf, rises)
        least = jnp.minimum(rises.min(), 0)
        weights = jnp.where(rises == least, 1, jnp.exp(least - rises))  # also of -infinity
        total = weights.sum() + jnp.exp(least)
        places = jnp.arange(rises.shape[0])
        below = jnp.where(places[:, None] >= places[None], weights[None], 0).sum(1)
        return jnp.sum(u * total >= below).astype(jnp.int32)


class Metropolis(AbstractFlipSampler):
    r"""Draw a fixed number of Metropolis sweeps at inverse temperature `beta`, or along a schedule.

    A visited bit is flipped with probability

    $$P = \min\big(1, \exp(-\beta (E_\text{flipped} - E))\big)$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$. It flips more often than
    `Glauber`, and mixes faster at low `beta`; but a flip that costs nothing is made for certain.
    To a unit of several values one of the others is proposed, each as likely.
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
