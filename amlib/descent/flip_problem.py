"""What the methods that flip work on: an energy of units of two values, and where a descent is.

`AbstractFlipProblem` is what methods for units of any finite number of values may ask.
"""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, PyTree

from amlib._numbers import Numbers
from amlib._progress import Meter
from amlib._types import EnergyFn, Key, Scalar, hook
from amlib.descent.derivatives import with_derivative
from amlib.descent.evaluators import AbstractFlips
from amlib.descent.integers import refuse_sums_in_int8
from amlib.descent.orders import AbstractOrder
from amlib.descent.plan import FlipPlan, Path
from amlib.descent.trajectory import RESULTS
from amlib.descent.visits import Free, all_flips, fixed_or_not, try_moves
from amlib.spaces import AbstractFinite, AbstractTwoValued, Spins

_SPINS = Spins()
_COPIED = 2**20  # elements of int8 patterns of which a float copy, 4 MiB, costs nothing


class Visits(NamedTuple):
    """What a step did: the bits it tried, whether each move was made, the energy after each.

    A move of several bits has a row of `bits`. Of units of several values, `bits` are the units,
    and `values` what each was to become; a bit has no choice.
    """

    bits: Integer[Array, "T *m"]
    accepted: Bool[Array, " T"]
    energy: Float[Array, " T"]
    values: Integer[Array, " T"] | None = None


class Sweep(NamedTuple):
    """Where a descent by flips is.

    - `x`: the state, as spins: of units of several values a row of them for each unit.
    - `energy`: its energy.
    - `steps`: how many steps were taken.
    - `done`: whether this lane of a `vmap` has ended; what it does then does not count.
    - `visits`: what the last step did.
    """

    x: Float[Array, "*shape"]
    energy: Scalar
    steps: Integer[Array, ""]
    done: Bool[Array, ""]
    visits: Visits | None = None

    def moved(self, x: Array, visits: Visits, energy: Scalar | None = None) -> "Sweep":
        """The next one: another state, the visits that led there, and its energy (of the last)."""
        energy = visits.energy[-1] if energy is None else energy
        return self._replace(x=x, energy=energy, visits=visits)


@dataclasses.dataclass(frozen=True)
class OfChange:
    """A rule of acceptance that reads no more than the difference of the two energies.

    Where the change is known better than the two large energies around it, the rule is given zero
    and the change. Moves that do not see one another are tried at once only under such a rule.

    **Arguments:**

    - `rule`: `rule(before, after, extra)`, whether a move between these energies is made.
    - `choose`: of a unit of q values, `choose(before, after, extra)` is which of its q - 1 changes
      is made, by the energies `after` each, or q - 1 for none. It agrees with `rule` for q = 2.
    """

    rule: Callable[[Array, Array, Any], Array]
    choose: Callable[[Array, Array, Any], Array] | None = None

    def __call__(self, before: Array, after: Array, extra: PyTree[Array]) -> Array:
        """Whether the move is made."""
        return self.rule(before, after, extra)


class Best(NamedTuple):
    """The energy of a state, and of each free unit what the best change of it alone makes of that.

    - `after`: the energy after it, +infinity for a unit that is held.
    - `values`: what the unit becomes; `None` for bits, which turn.
    """

    energy: Scalar
    after: Float[Array, " F"]
    values: Integer[Array, " F"] | None = None


class AbstractFlipProblem(abc.ABC):
    """A scalar function of units of finitely many values, and the units that may move.

    Its subclasses are dataclasses with these fields:

    - `energy`: from a state of the space to a scalar.
    - `space`: the values of a unit.
    - `free`: the units that may move, as `free_bits` makes them; `None` for all of them.
    - `limit`, `meter`: the step limit, and what tells a progress bar, set where the loop begins.
    - `path`, `bounded`: see `FlipPlan`.
    - `memory`: whose energy it is, for methods that ask more of it.
    - `flips`: how flips are evaluated, set where the loop begins.
    """

    energy: EnergyFn
    space: AbstractFinite
    free: Free | None
    path: Path
    bounded: Sequence[tuple[Array, Numbers]]
    memory: object
    limit: Array | None
    meter: Meter | None
    flips: AbstractFlips | None

    @abc.abstractmethod
    def plan(self, s: Array) -> FlipPlan:
        """How flips are evaluated, made in the trace that uses it."""

    @abc.abstractmethod
    def units(self, plan: FlipPlan) -> int:
        """How many units a state has."""

    @abc.abstractmethod
    def sweep(
        self,
        at: Sweep,
        order: AbstractOrder,
        key: Key,
        accept: Callable[[Array, Array, Any], Array],
        draw: Callable[[int], PyTree[Array]] | None = None,
    ) -> Sweep:
        """Try the moves of an order: in turn, or in its groups at once where that is the same.

        **Arguments:**

        - `at`: where the descent is.
        - `order`: whose moves are tried.
        - `key`: for the moves.
        - `accept`: `accept(before, after, extra)`, whether a move between these energies is made;
          an `OfChange` if it reads their difference alone.
        - `draw`: from a number of moves to arrays with an entry for each.

        **Returns:** where it is then.
        """

    @abc.abstractmethod
    def best(self, x: Array) -> Best:
        """The best change of each free unit of spins.

        The energy is NaN where the form of evaluation overflowed: another one then takes over.
        """

    @abc.abstractmethod
    def all_changes(self, x: Array) -> tuple[Scalar, Float[Array, "F m"]]:
        """The energy of spins, and that after each change of each free unit alone.

        A bit has one change, m = 1: it turns. A unit of q values has m = q - 1: to the next value,
        the one after that and so on, from q - 1 on to 0; the way back from the j-th is the one that
        is j-th from the end. The first is NaN where the form of evaluation overflowed.
        """

    @abc.abstractmethod
    def made(self, x: Array, changes: Bool[Array, "F m"]) -> Array:
        """The spins after changes of free units, of each one at most; see `all_changes`."""

    @abc.abstractmethod
    def values(self, x: Array, units: Integer[Array, " T"]) -> Integer[Array, " T"] | None:
        """What units of spins are, as `Visits` says it: `None` of bits."""

    @abc.abstractmethod
    def changed(self, x: Array, units: Bool[Array, " F"], best: Best) -> Array:
        """The spins after the best changes of some of the free units."""

    @abc.abstractmethod
    def fixed(self, at: Sweep) -> RESULTS:
        """Converged if no single free change lowers the energy; else go on."""

    def replace(self, **changes: Any) -> Any:
        """The same with other values of some fields."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]

    @abc.abstractmethod
    def idle(self) -> Bool[Array, " units"]:
        """The units that are known to change nothing that the energy is made of."""

    @hook
    def try_moves(
        self,
        at: Sweep,
        moves: Integer[Array, "T *m"],
        accept: Callable[[Array, Array, Any], Array],
        extra: PyTree[Array] | None = None,
        order: AbstractOrder | None = None,
    ) -> Sweep:
        """Try moves one after the other: of bits alone, see `FlipProblem`."""
        del at, moves, accept, extra, order
        raise TypeError(
            f"try_moves: flips units of two values; {self.space.kind} came. Use problem.sweep."
        )

    def last_energy(self, x: Array, e: Array) -> Scalar:
        """The energy of the state `x` of the space in which a loop ended at the energy `e`.

        It is evaluated in full, not frozen: it has its derivative in the parameters. Where
        that could make a float copy of many int8 patterns, it is `e`, and the full energy is what
        a derivative is taken of.
        """
        if sum(a.size for a in self.stored_as_int8()) <= _COPIED:
            return self.energy(x)
        here = lambda flat, _: (flat, flat)
        return with_derivative(self.energy, e[None], x, jnp.zeros(1, jnp.int32), here)[0]

    def stored_as_int8(self) -> list[Array]:
        """The patterns of the memory that are int8."""
        leaves = jax.tree.leaves(self.memory)
        return [a for a in leaves if getattr(a, "dtype", None) == jnp.int8]

    @property
    def bits(self) -> Integer[Array, " F"]:
        """The units that may move."""
        assert self.free is not None
        return self.free.bits

    def _may_move(self, moves: Array, D: int) -> Array | None:
        """Which moves change free units only, whatever an order returns; `None` where all are."""
        assert self.free is not None
        if self.free.open is None and self.bits.shape[0] == D:
            return None
        may = self.free.mask(D)[moves]
        return may if moves.ndim == 1 else may.all(-1)


@dataclasses.dataclass(frozen=True)
class FlipProblem(AbstractFlipProblem):
    """A scalar function of units of two values, and the bits that may move.

    **Arguments:**

    - `energy`, `free`, `limit`, `meter`, `path`, `bounded`, `memory`, `flips`: see
      `AbstractFlipProblem`.
    - `space`: the two values of a unit.
    """

    energy: EnergyFn
    space: AbstractTwoValued = _SPINS  # pyright: ignore[reportIncompatibleVariableOverride]
    free: Free | None = None
    path: Path = "auto"
    bounded: Sequence[tuple[Array, Numbers]] = ()
    memory: object = None
    limit: Array | None = None
    meter: Meter | None = None
    flips: AbstractFlips | None = None

    def of_spins(self, s: Array) -> Array:
        """The energy of the state that spins stand for."""
        return self.energy(self.space.affine(s))

    def plan(self, s: Array) -> FlipPlan:
        """How flips are evaluated, made in the trace that uses it."""
        if self.stored_as_int8():
            refuse_sums_in_int8(self.of_spins, s)
        return FlipPlan(self.of_spins, s, self.path, self.bounded)

    # -- what methods ask --------------------------------------------------------------------------

    def try_moves(
        self,
        at: Sweep,
        moves: Integer[Array, "T *m"],
        accept: Callable[[Array, Array, Any], Array],
        extra: PyTree[Array] | None = None,
        order: AbstractOrder | None = None,
    ) -> Sweep:
        """Try moves one after the other.

        **Arguments:**

        - `at`: where the descent is.
        - `moves`: a bit each, or several that flip together.
        - `accept`: `accept(before, after, extra)`, whether a move between these energies is made;
          an `OfChange` if it reads their difference alone.
        - `extra`: arrays with an entry per move, such as random numbers.
        - `order`: whose `allows` is asked about the values of the bits.

        **Returns:** where it is then.
        """
        assert self.flips is not None
        assert self.free is not None
        free = self._may_move(moves, at.x.size)
        asks = order is not None and type(order).allows is not AbstractOrder.allows

        def decide(e: Array, new: Array, given: PyTree[Array], spins: tuple[Array, ...]) -> Array:
            extra, free = given
            made = accept(e, new, extra)
            made = made if free is None else made & free
            return made & order.allows(jnp.stack(spins)) if asks and order else made

        by_change = isinstance(accept, OfChange)
        x, record = try_moves(self.flips, at.x, moves, decide, (extra, free), by_change)
        return at.moved(x, Visits(moves, *record))

    def sweep(
        self,
        at: Sweep,
        order: AbstractOrder,
        key: Key,
        accept: Callable[[Array, Array, Any], Array],
        draw: Callable[[int], PyTree[Array]] | None = None,
    ) -> Sweep:
        """See `AbstractFlipProblem`."""
        assert self.flips is not None
        groups = order.groups(self.flips)
        moves = order.moves(key, self.bits) if groups is None else np.concatenate(groups)
        moves = jnp.asarray(moves)
        extra = None if draw is None else draw(moves.shape[0])
        if groups is None or not isinstance(accept, OfChange):
            return self.try_moves(at, moves, accept, extra, order)
        free = self._may_move(moves, at.x.size)

        def decide(e: Array, new: Array, given: PyTree[Array]) -> Array:
            extra, free = given
            made = accept(e, new, extra)
            return made if free is None else made & free

        x, record, energy = self.flips.try_groups(at.x, groups, decide, (extra, free))
        return at.moved(x, Visits(moves, *record), energy)

    def units(self, plan: FlipPlan) -> int:
        """See `AbstractFlipProblem`: the bits."""
        return plan.D

    def idle(self) -> Bool[Array, " units"]:
        """See `AbstractFlipProblem`."""
        assert self.flips is not None
        return self.flips.idle()

    def best(self, x: Array) -> Best:
        """See `AbstractFlipProblem`: a flip each."""
        return Best(*self.all_flips(x))

    def all_changes(self, x: Array) -> tuple[Scalar, Float[Array, "F m"]]:
        """See `AbstractFlipProblem`: a flip each."""
        energy, flipped = self.all_flips(x)
        return energy, flipped[:, None]

    def made(self, x: Array, changes: Bool[Array, "F m"]) -> Array:
        """See `AbstractFlipProblem`: these flip."""
        return self._flipped(x, changes[:, 0])

    def values(self, x: Array, units: Integer[Array, " T"]) -> None:
        """See `AbstractFlipProblem`."""
        del x, units

    def changed(self, x: Array, units: Bool[Array, " F"], best: Best) -> Array:
        """See `AbstractFlipProblem`: they flip."""
        del best
        return self._flipped(x, units)

    def _flipped(self, x: Array, units: Array) -> Array:
        flat, bits = x.reshape(-1), self.bits
        return flat.at[bits].set(jnp.where(units, -flat[bits], flat[bits])).reshape(x.shape)

    def all_flips(self, x: Array) -> tuple[Scalar, Float[Array, " F"]]:
        """The energy of spins, and that after each single flip that is free.

        The first is NaN where the form of evaluation overflowed: another one then takes over.
        """
        assert self.flips is not None
        return all_flips(self.flips, x, self.free)

    def by_gradient(self, x: Array) -> tuple[Scalar, Float[Array, " F"]]:
        r"""The energy of spins, and what its gradient expects each free flip to add.

        $$-2 s_i \frac{\partial E}{\partial s_i}$$

        The gradient is that of the energy as it is written; where it is not finite, the flip is
        expected to add nothing. One that is held adds +infinity.
        """
        assert self.flips is not None
        assert self.free is not None
        flips = self.flips
        e, slope = jax.value_and_grad(lambda s: flips.start(s)[0])(x)
        change = (-2 * x * slope).reshape(-1)[self.bits].astype(e.dtype)
        return e, self.free.hold(jnp.where(jnp.isfinite(change), change, 0))

    def fixed(self, at: Sweep) -> RESULTS:
        """Converged if no single free flip lowers the energy; else go on."""
        assert self.flips is not None
        assert self.free is not None
        return fixed_or_not(self.flips, at.x, at.done, self.free)
