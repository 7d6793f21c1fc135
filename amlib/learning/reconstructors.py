"""Trainable non-identity maps that rebuild a binary state: what a learned memory iterates.

A reconstructor computes a local field for every unit, none of which may simply be the unit's own
value. The sign of the field is the hard reconstruction; a squashed field is the soft one, which
training compares with the truth. `recall` repeats the hard one (`amlib.learning.maps`).

Where the field is minus the gradient of an energy, the reconstructor has that energy.
"""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, Shaped

from amlib import _checks as checks
from amlib._numbers import Numbers
from amlib._types import Scalar, hook
from amlib.descent.methods import AbstractMethod, Problems
from amlib.descent.trajectory import Recall, StateTrajectory
from amlib.learning.maps import Relax, cut, soft_problem
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractReals, AbstractSpace, AbstractTwoValued, Bits, Reals, Spins

SPACES: dict[str, AbstractTwoValued] = {"spins": Spins(), "bits": Bits()}
"""What a unit may be: `"spins"` are -1/+1, `"bits"` are 0/1."""


class AbstractReconstructor(AbstractMemory):
    """A map from a binary state to the same state, repaired: everything but the field.

    Subclass it, give the fields `shape` and `states`, and define `field` and `soft`; with an
    energy, subclass `AbstractEnergyReconstructor`. One state per call: batches go through
    `jax.vmap`.

    `recall` repeats the map until the state rests (`Relax`). Methods for real states move along
    $f(x) - x$ with $f$ the soft map, and where there is an energy, methods that flip lower it.
    """

    shape: eqx.AbstractVar[tuple[int, ...]]
    states: eqx.AbstractVar[str]

    _elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("steps", "max_sweeps", "nsteps"), "The step limit is max_steps=."),
        "order": "Units step at once or in turn: method=Relax(update). Sweeps(order) flips.",
        "update": "It is of the method: method=Relax(update).",
        "record": "What the trajectory keeps is save_every=.",
    }

    @property
    def space(self) -> AbstractTwoValued:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Spins or bits, as `states` says."""
        return SPACES[self.states]

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state."""
        floats = [a.dtype for a in jax.tree.leaves(self) if eqx.is_inexact_array(a)]
        return jax.ShapeDtypeStruct(self.shape, floats[0] if floats else jnp.result_type(float))

    def default_method(self) -> AbstractMethod:
        """`Relax()`: the hard map, all units at once."""
        return Relax()

    @hook
    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """NaN: a map alone has no energy, see `AbstractEnergyReconstructor`."""
        return jnp.full((), jnp.nan, x.dtype)

    @abc.abstractmethod
    def field(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The local field of each unit: above 0 it turns on, below 0 off, at 0 it stays.

        **Arguments:**

        - `x`: a state, in the shape and dtype of the model.

        **Returns:** a real number per unit.
        """

    @abc.abstractmethod
    def soft(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The reconstruction before it is cut to a binary state: what training compares.

        Unlike the hard one it tells a unit that is barely right from one that is right by a
        margin, and margins are what repairs noise.

        **Arguments:**

        - `x`: a state, in the shape and dtype of the model.

        **Returns:** one number per unit, between the two values of a unit.
        """

    def __call__(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """Reconstruct a state once: the sign of the field, with the gradient of `soft`.

        **Arguments:**

        - `x`: a state; integers and bools are taken as states too.

        **Returns:** a binary state. A unit whose field is exactly 0 keeps its value.

        **Raises:** `ValueError` for a wrong shape, and for bits where spins are meant or spins
        where bits are.
        """
        x = as_state(self, x, "reconstruct")
        check_states(x, self.states, "reconstruct: x")
        smooth = self.soft(x)
        # The difference is exactly 0 where it is finite: the value is a state, bit for bit.
        hard = lax.stop_gradient(cut(self.field(x), x, self.space))
        return hard + (smooth - lax.stop_gradient(smooth))

    @hook
    def sweep(self, x: Array, order: Array, may: Array | None = None) -> Array:
        """Visit units in turn; each follows its field.

        **Arguments:**

        - `x`: a state.
        - `order`: the units to visit, indices into the flattened state.
        - `may`: which of these visits may change a unit; `None` for all.

        **Returns:** the state after the visits.
        """

        def visit(x: Array, i_and_may: tuple[Array, Array | None]) -> tuple[Array, None]:
            i, may = i_and_may
            flat = x.reshape(-1)
            new = cut(self.field(x), x, self.space).reshape(-1)[i]
            new = new if may is None else jnp.where(may, new, flat[i])
            return flat.at[i].set(new).reshape(x.shape), None

        return lax.scan(visit, x, (order, may))[0]

    # -- recall ------------------------------------------------------------------------------------

    def _space_for(self, method: AbstractMethod) -> AbstractSpace:
        if issubclass(method.space, AbstractReals):
            return Reals()
        if not isinstance(method, Relax) and not isinstance(self, AbstractEnergyReconstructor):
            raise TypeError(
                f"recall: {type(method).__name__} lowers an energy; {type(self).__name__} is a map "
                "without one. Choose Relax(), or for its soft states Flow() or FixedPoint()."
            )
        return self.space

    def _problem(
        self, x: Array, held: PyTree, space: AbstractSpace, bounded: Sequence[Numbers]
    ) -> tuple[Problems, Array]:
        if isinstance(space, AbstractReals):
            return soft_problem(self, None if held is None else (held, x)), x
        return super()._problem(x, held, space, bounded)

    def _end(self, end: Recall, problem: Problems, x0: Array, saved: bool) -> Recall:
        """The result; a relaxation knows no energy on its way."""
        end = dataclasses.replace(end, energy=self.energy(end.x))
        if isinstance(end.trajectory, StateTrajectory):
            energies = lax.map(self.energy, end.trajectory.frames)
            end = eqx.tree_at(lambda r: r.trajectory.energy, end, energies)
        return super()._end(end, problem, x0, saved)


class AbstractEnergyReconstructor(AbstractReconstructor):
    """A reconstructor whose field comes from an energy that relaxation lowers."""

    @abc.abstractmethod
    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of a state. Setting one unit by the sign of its field never raises it.

        **Arguments:**

        - `x`: a state, in the shape and dtype of the model.

        **Returns:** a real scalar.
        """


class AbstractOverlapReconstructor(AbstractEnergyReconstructor):
    """One whose field depends on the state through overlaps alone: a visit to a unit is cheap."""

    @abc.abstractmethod
    def weights(self) -> Float[Array, "N D"]:
        """What the state is compared with: the overlaps are `weights() @ x`."""

    @abc.abstractmethod
    def read(self, overlaps: Float[Array, " N"], i: Int[Array, ""] | int) -> Scalar:
        """The field of unit `i`, from the overlaps.

        **Arguments:**

        - `overlaps`: see `weights`.
        - `i`: the unit, an integer in [0, D).

        **Returns:** `field(x)[i]`.
        """

    def sweep(self, x: Array, order: Array, may: Array | None = None) -> Array:
        """The same, with the overlaps carried along: a visit costs one row."""
        rows = self.weights().T

        def visit(
            carry: tuple[Array, Array], i_and_may: tuple[Array, Array | None]
        ) -> tuple[tuple[Array, Array], None]:
            (x, overlaps), (i, may) = carry, i_and_may
            new = cut(self.read(overlaps, i), x[i], self.space)
            new = new if may is None else jnp.where(may, new, x[i])
            return (x.at[i].set(new), overlaps + (new - x[i]) * rows[i]), None

        return lax.scan(visit, (x, x @ rows), (order, may))[0][0]


def squash(h: Array, states: str) -> Array:
    """The smooth version of the sign: between the two values of a unit."""
    return jnp.tanh(h) if states == "spins" else 0.5 * (1 + jnp.tanh(h))


def as_state(model: AbstractReconstructor, x: ArrayLike, where: str) -> Array:
    """A state in the shape and dtype of the model; raise unless it has that shape."""
    return model._state(x, where, check=False)


def check_states(x: ArrayLike, states: str, where: str) -> None:
    """Raise where states are known to be bits and spins are meant, or spins and bits are meant."""
    if states == "spins":
        checks.not_bits(x, where)
        return
    value = checks.known(x)
    if value is not None and (value == -1).any() and (abs(value) == 1).all():
        raise ValueError(
            f"{where}: this model is of states='bits', 0 and 1; -1 and +1 came. Spins become bits "
            "by (x + 1) / 2; or make the model with states='spins'."
        )
