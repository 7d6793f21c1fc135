"""Samplers of finitely many values whose proposals know what each change would do.

They know it of all free units before they propose changes, and accept or reject what is proposed by
the energies in full (Metropolis-Hastings), so that they keep the law whatever it was that they
knew. A bit has one change, its flip; a unit of q values has q - 1, see
`AbstractFlipProblem.all_changes`.
"""

import abc
from typing import ClassVar, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Bool, Float

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.descent.flip_problem import AbstractFlipProblem, FlipProblem, Sweep, Visits
from amlib.descent.flips import count
from amlib.descent.samplers import AbstractSampler, inverse_temperature

_SURE = 1e15  # the logarithm of the odds of a change that is made

Changes: TypeAlias = Literal["exact", "gradient"]


class _Around(NamedTuple):
    """The energy of a state, and what each change of a free unit adds to it, or may add."""

    energy: Array
    changes: Array


class AbstractInformedSampler(AbstractSampler):
    """A sampler whose proposals know what each change would do.

    Subclass it with the two fields, and define `propose`, `log_probability` and `visits`. The
    acceptance of Metropolis and Hastings is this class's, so that the law is kept. Of F free units
    it is told m changes each: m = 1 of bits, and m = q - 1 of units of q values.
    """

    beta: eqx.AbstractVar[Float[Array, "*sweeps"]]
    changes: eqx.AbstractVar[Changes]

    several: ClassVar[bool] = True

    @abc.abstractmethod
    def propose(
        self, problem: AbstractFlipProblem, at: Sweep, rise: Float[Array, "F m"], key: Key
    ) -> Bool[Array, "F m"]:
        r"""Which changes are made together, of each unit one at most.

        **Arguments:**

        - `problem`, `at`: see `AbstractFlipMethod`; not to depend on but for `at.steps`.
        - `rise`: $\beta$ times what each change adds to the energy, or is thought to add. It is
          infinite for one that is not to be made.
        - `key`: for what is drawn.
        """

    @abc.abstractmethod
    def log_probability(self, rise: Float[Array, "F m"], made: Bool[Array, "F m"]) -> Scalar:
        """The logarithm of the probability with which `propose` makes these changes, up to one
        that is the same for the way back."""

    @abc.abstractmethod
    def visits(
        self, problem: AbstractFlipProblem, moved: Bool[Array, " F"], before: Scalar, after: Scalar
    ) -> Visits:
        """What the record says of a step; what its units became is added to it.

        **Arguments:**

        - `moved`: the free units that changed, none after a proposal that was rejected.
        - `before`, `after`: the energy before the step and after it.
        """

    def init(self, problem: AbstractFlipProblem, at: Sweep) -> _Around:
        """What is known around the start."""
        return self._around(problem, at.x)

    def step(
        self, problem: AbstractFlipProblem, at: Sweep, state: _Around, key: Key
    ) -> tuple[Sweep, _Around]:
        """See `AbstractFlipMethod`."""
        assert problem.flips is not None
        choice, draw = jr.split(key)
        wide = checks.widen(at.energy).dtype
        beta = self.beta_at(problem, at).astype(wide)
        rise = _rise(problem, beta, state)
        changes = self.propose(problem, at, rise, choice) & _may_move(problem)
        x = problem.made(at.x, changes)
        new = self._around(problem, x)
        forth = self.log_probability(rise, changes)
        back = self.log_probability(_rise(problem, beta, new), changes[:, ::-1])
        change = (new.energy - state.energy).astype(wide)
        made = jr.uniform(draw, (), wide) < jnp.exp(back - forth - beta * change)
        # Of no number above, from a wall (+infinity): whatever has an energy is as likely or more.
        made |= ((state.energy == jnp.inf) & ~jnp.isnan(new.energy)) | (new.energy == -jnp.inf)
        x = jnp.where(made, x, at.x)
        state, before = jax.tree.map(lambda a, b: jnp.where(made, a, b), new, state), state.energy
        energy = state.energy
        if not problem.flips.exact:  # a form that overflowed is to say so, and not to reject
            energy = jnp.where(jnp.isfinite(new.energy), energy, jnp.nan)
        visits = self.visits(problem, changes.any(1) & made, before, energy)
        return at.moved(x, visits._replace(values=problem.values(x, visits.bits))), state

    def _asks(self, problem: AbstractFlipProblem) -> AbstractFlipProblem:
        """Gradients are of the energy as it is written: flips need no form of their own then."""
        return problem if self.changes == "exact" else problem.replace(path="generic")

    def _around(self, problem: AbstractFlipProblem, x: Array) -> _Around:
        if self.changes == "exact":
            energy, after = problem.all_changes(x)
            return _Around(energy, after - energy)
        if not isinstance(problem, FlipProblem):
            raise TypeError(
                f"{type(self).__name__}: changes='gradient' must be of bits; {problem.space.kind} "
                "came, of which an energy has no gradient. Use changes='exact'."
            )
        energy, change = problem.by_gradient(x)
        return _Around(energy, change[:, None])


def _may_move(problem: AbstractFlipProblem) -> Bool[Array, "..."] | bool:
    assert problem.free is not None
    return True if problem.free.open is None else problem.free.open[:, None]


def _rise(problem: AbstractFlipProblem, beta: Scalar, around: _Around) -> Float[Array, "F m"]:
    """What each change adds to `beta` times the energy, infinite where it is not to be made.

    On a wall, where the energy is +infinity, it is zero for the changes that leave it, and for all
    if none does.
    """
    rise = beta * around.changes.astype(beta.dtype)
    rise = jnp.where(jnp.isnan(rise), jnp.inf, rise)
    leaves = around.changes == -jnp.inf
    leaves = jnp.where(leaves.any(), leaves, _may_move(problem))
    return jnp.where(around.energy == jnp.inf, jnp.where(leaves, 0, jnp.inf), rise)


def _changes(value: Changes) -> Changes:
    checks.choice(value, ("exact", "gradient"), "changes")
    return value


class GibbsWithGradients(AbstractInformedSampler):
    r"""Propose one flip at a time, of a bit that promises to lower the energy; accept or reject it.

    Bit $i$ is proposed with a probability that grows with the change $d_i$ that is expected of
    $-\beta E$, and the flip is made by the rule of Metropolis and Hastings. Of units of q values
    $i$ is a pair of a unit and another value for it, and $q(i \mid x')$ that of the way back:

    $$q(i \mid x) = \frac{e^{d_i(x) / 2}}{\sum_j e^{d_j(x) / 2}}, \qquad
    P = \min\Big(1, e^{-\beta (E(x') - E(x))} \frac{q(i \mid x')}{q(i \mid x)}\Big)$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$, in detailed balance, whatever
    $d$ is. What `changes` says is

    - `"exact"`: $d_i = \beta (E(x) - E(x_{\neg i}))$ from the energies after all flips, which is
      the gradient of the energy's multilinear extension. (These are Zanella's locally balanced
      proposals, with $g(t) = \sqrt t$.) Memories and local energies give all of them for about the
      price of one gradient; an energy that `explain` calls generic is evaluated once for each bit.
    - `"gradient"`: the same to first order, $d_i = \beta (x_i - x_{\neg i}) \, \partial_i E(x)$,
      from the gradient of the energy as it is written, at the price of two or three energies. Two
      energies that agree on all bits may have different gradients, such as with and without
      $x_i^2$: then the law is the same, and the pace is not. Where a gradient is not finite it
      counts as zero. Of bits alone: in whole numbers an energy has none.

    A step is a sweep: as many moves as there are free bits. Every move is a flip or none, so the
    first of each sweep is left out half of the time: at `beta = 0`, where all moves are accepted,
    the number of flips would be even or odd, and half of the states would not be met.

    Each move compares all flips, and so costs about as much as a sweep of `Glauber`. It pays where
    that rejects nearly everything: at high `beta`, where few bits of many would flip. From a start
    whose energy is +infinity it takes any flip that leaves it.

    **Arguments:**

    - `beta`, `record`: see `Glauber`.
    - `changes`: where $d$ comes from.

    **Raises:** `ValueError` for `beta < 0`, another word for `changes`, and `record < 0`.

    **Reference:** Grathwohl, Swersky, Hashemi, Duvenaud and Maddison 2021, ICML (arXiv 2102.04509),
    algorithm 1, with `"gradient"`; Zanella 2020, J. Am. Stat. Assoc. 115, 852, with `"exact"`. The
    move that is left out is ours.
    """

    beta: Float[Array, "*sweeps"] = eqx.field(converter=inverse_temperature)
    changes: Changes = eqx.field(converter=_changes, static=True, kw_only=True, default="exact")
    record: int | None = eqx.field(converter=count, static=True, kw_only=True, default=None)

    def per_sweep(self, problem: AbstractFlipProblem) -> int:
        """A sweep is as many moves as there are free bits."""
        return problem.bits.shape[0]

    def propose(
        self, problem: AbstractFlipProblem, at: Sweep, rise: Float[Array, "F m"], key: Key
    ) -> Bool[Array, "F m"]:
        """See `AbstractInformedSampler`."""
        one, rest = jr.split(key)
        drawn = jr.categorical(one, -rise.reshape(-1) / 2)
        chosen = (jnp.arange(rise.size) == drawn).reshape(rise.shape)
        first = at.steps % self.per_sweep(problem) == 0
        return chosen & ~(first & jr.bernoulli(rest))

    def log_probability(self, rise: Float[Array, "F m"], made: Bool[Array, "F m"]) -> Scalar:
        """See `AbstractInformedSampler`."""
        # Without a change the state is the same, and so is what is left out on the way back.
        return jnp.sum(jnp.where(made, -rise / 2, 0)) - jax.nn.logsumexp(-rise / 2)

    def visits(
        self, problem: AbstractFlipProblem, moved: Bool[Array, " F"], before: Scalar, after: Scalar
    ) -> Visits:
        """The unit that changed, or the first one, which did not."""
        del before
        return Visits(problem.bits[jnp.argmax(moved)][None], moved.any()[None], after[None])


class DMALA(AbstractInformedSampler):
    r"""Propose flips of all bits at once, each by its own odds; accept or reject them together.

    The discrete Metropolis-adjusted Langevin algorithm flips each free bit with the probability

    $$q_i = \frac{1}{1 + \exp\big(\tfrac12 \Delta_i(x) + 1 / (2 \alpha)\big)}$$

    where $\Delta_i$ is the change of $\beta E$ that is expected of its flip and $\alpha$ the
    `step_size`, and makes the flips $F$ by the rule of Metropolis and Hastings, by the energy
    in full:

    $$P = \min\Big(1, e^{-\beta (E(x') - E(x))} \frac{q(F \mid x')}{q(F \mid x)}\Big), \qquad
    q(F \mid x) = \prod_{i \in F} q_i(x) \prod_{i \notin F} (1 - q_i(x))$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$, in detailed balance, whatever
    $\Delta$ is. A unit of q values draws one of these by its own odds against the value that it
    has, $\exp(-\frac12 \Delta_{ik} - 1 / (2 \alpha))$: two values that differ are 1 apart,
    whichever they are. `changes` says where it comes from, as for `GibbsWithGradients`.

    A step is one such proposal, and costs as much as all flips compared, or as a gradient. The
    trajectory records the energy before each, and the one after it at its last bit.

    **Arguments:**

    - `beta`, `record`: see `Glauber`.
    - `step_size`: $\alpha$, > 0, where the two values of a bit are 0 and 1: 0.2 proposes to flip
      one in 13 of the bits whose flip costs nothing, 1 more than a third. The larger it is,
      the more of the proposals are rejected.
    - `changes`: see `GibbsWithGradients`.

    **Raises:** `ValueError` for `beta < 0`, unless `step_size` is a finite positive scalar, for
    another word for `changes`, and `record < 0`.

    **Reference:** Zhang, Liu and Liu 2022, ICML (arXiv 2206.09914), for bits, with `"gradient"`;
    its preconditioner is not here. Its unit vectors of q values are $\sqrt 2$ apart: its
    $\alpha$ is twice ours there.
    """

    beta: Float[Array, "*sweeps"] = eqx.field(converter=inverse_temperature)
    step_size: Float[Array, ""] = eqx.field(
        converter=checks.positive_field("step_size"), default=0.2
    )
    changes: Changes = eqx.field(converter=_changes, static=True, kw_only=True, default="exact")
    record: int | None = eqx.field(converter=count, static=True, kw_only=True, default=None)

    def propose(
        self, problem: AbstractFlipProblem, at: Sweep, rise: Float[Array, "F m"], key: Key
    ) -> Bool[Array, "F m"]:
        """See `AbstractInformedSampler`."""
        del problem, at
        up_to = jnp.cumsum(jax.nn.softmax(self._odds(rise), axis=1)[:, :-1], axis=1)
        under = jr.uniform(key, (rise.shape[0], 1), rise.dtype) < up_to
        return under & ~jnp.pad(under, ((0, 0), (1, 0)))[:, :-1]

    def log_probability(self, rise: Float[Array, "F m"], made: Bool[Array, "F m"]) -> Scalar:
        """See `AbstractInformedSampler`."""
        each = jax.nn.log_softmax(self._odds(rise), axis=1)
        stays = ~made.any(1, keepdims=True)
        return jnp.sum(jnp.where(jnp.concatenate([made, stays], axis=1), each, 0))

    def visits(
        self, problem: AbstractFlipProblem, moved: Bool[Array, " F"], before: Scalar, after: Scalar
    ) -> Visits:
        """All free units."""
        energies = jnp.broadcast_to(before, moved.shape).at[-1].set(after)
        return Visits(problem.bits, moved, energies)

    def _odds(self, rise: Float[Array, "F m"]) -> Float[Array, "F n"]:
        """The logarithm of the odds of each change, and at last that of none, 0."""
        step = lax.stop_gradient(self.step_size).astype(rise.dtype)
        # Not infinite, for a change into minus infinity.
        odds = jnp.minimum(-rise / 2 - 1 / (2 * step), _SURE)
        return jnp.pad(odds, ((0, 0), (0, 1)))
