"""Trainable non-identity maps that rebuild a binary state: what a learned memory iterates.

A reconstructor computes a local field for every unit, none of which may simply be the unit's own
value. The sign of the field is the hard reconstruction; a squashed field is the soft one, which
training compares with the truth. `recall` repeats the hard one (`amlib.learning.maps`).

Where the field is minus the gradient of an energy, the reconstructor has that energy.
"""

import abc
import dataclasses
import math
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.descent.flip_problem import FlipProblem
from amlib.descent.methods import AbstractMethod
from amlib.descent.problems import Problem
from amlib.descent.trajectory import Recall, StateTrajectory
from amlib.learning._epochs import parameters
from amlib.learning.maps import MapProblem, Relax, cut, soft_problem
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

    @staticmethod
    def _widen(tree: Any) -> Any:
        """Half precision is how numbers are stored, not how they are computed with."""
        return checks.widen(tree)

    def _problem(
        self, x: Any, held: Any, space: AbstractSpace, bounded: bool
    ) -> tuple[Problem | FlipProblem, Any]:
        if isinstance(space, AbstractReals):
            return soft_problem(self, None if held is None else (held, x)), x
        return MapProblem(self.energy, self.space, held, model=self), x

    def _end(self, end: Recall, problem: Any, x0: Any, saved: bool) -> Recall:
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
    def read(self, overlaps: Float[Array, " N"], i: Any) -> Scalar:
        """The field of unit `i`, from the overlaps.

        **Arguments:**

        - `overlaps`: see `weights`.
        - `i`: the unit, an integer in [0, D).

        **Returns:** `field(x)[i]`.
        """

    def sweep(self, x: Array, order: Array, may: Array | None = None) -> Array:
        """The same, with the overlaps carried along: a visit costs one row."""
        rows = self.weights().T

        def visit(carry: tuple[Array, Array], i_and_may: Any) -> tuple[tuple[Array, Array], None]:
            (x, overlaps), (i, may) = carry, i_and_may
            new = cut(self.read(overlaps, i), x[i], self.space)
            new = new if may is None else jnp.where(may, new, x[i])
            return (x.at[i].set(new), overlaps + (new - x[i]) * rows[i]), None

        return lax.scan(visit, (x, x @ rows), (order, may))[0][0]


def squash(h: Array, states: str) -> Array:
    """The smooth version of the sign: between the two values of a unit."""
    return jnp.tanh(h) if states == "spins" else 0.5 * (1 + jnp.tanh(h))


def as_state(model: AbstractReconstructor, x: Any, where: str) -> Array:
    """A state in the shape and dtype of the model; raise unless it has that shape."""
    return model._state(x, where, check=False)


def check_states(x: Any, states: str, where: str) -> None:
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


def count_parameters(model: eqx.Module) -> int:
    """How many trainable numbers a model has; of symmetric couplings each counts once.

    **Arguments:**

    - `model`: any Equinox module.

    **Returns:** the number of free parameters.
    """
    if isinstance(model, DenseReconstructor):
        D = model.shape[0]
        return D * (D - 1) // 2 + (0 if model.bias is None else D)
    return sum(a.size for a in jax.tree.leaves(eqx.filter(model, parameters(model))))


class DenseReconstructor(AbstractOverlapReconstructor):
    r"""All units see all others: the couplings of a Hopfield network, learned.

    $$h(x) = J x + b, \quad J = \tfrac12 (A + A^\top) \circ (1 - I), \qquad
    E(x) = -\tfrac12 x^\top J x - b \cdot x$$

    The couplings are symmetric with a zero diagonal for any $A$, so that training needs no
    projection, and no unit can copy itself. Flips one at a time never raise the energy;
    flipping all at once can end on a 2-cycle, which relaxation detects.

    **Arguments:**

    - `size`: number of units.
    - `bias`: whether there is a field $b$ on each unit; bits (0/1) need it.
    - `states`: `"spins"` (-1/+1) or `"bits"` (0/1).
    - `key`: draws small random couplings; without one they begin at 0, which learns as well and
      recalls better: what is random in the couplings is noise to the recall.

    **Raises:** `ValueError` for a size below 1 and unknown states.

    **Reference:** Hopfield 1982, eq. 7; learned by reconstruction as in MacKay 2003, section
    42.9, but on the soft reconstruction and with an L1 loss.
    """

    kernel: Float[Array, "D D"]
    bias: Float[Array, " D"] | None
    shape: tuple[int, ...] = eqx.field(static=True)
    states: str = eqx.field(static=True)

    def __init__(
        self, size: Any, *, bias: bool = True, states: str = "spins", key: Key | None = None
    ):
        D = checks.integer(size, 1, "DenseReconstructor: size")
        checks.choice(states, SPACES, "DenseReconstructor: states")
        dtype = jnp.result_type(float)
        scale = math.sqrt(3 / D)
        self.kernel = (
            jnp.zeros((D, D), dtype)
            if key is None
            else jr.uniform(key, (D, D), dtype, -scale, scale)
        )
        self.bias = jnp.zeros((D,), dtype) if bias else None
        self.shape, self.states = (D,), states

    @property
    def J(self) -> Float[Array, "D D"]:
        """The couplings: symmetric, zero on the diagonal."""
        D = self.kernel.shape[0]
        J = 0.5 * (self.kernel + self.kernel.T)
        return jnp.where(jnp.eye(D, dtype=bool), jnp.zeros((), J.dtype), J)

    def field(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """The field $J x + b$."""
        h = x @ self.J
        return h if self.bias is None else h + self.bias

    def soft(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        r"""$\tanh h(x)$ for spins, $\frac12(1 + \tanh h(x))$ for bits."""
        return squash(self.field(x), self.states)

    def weights(self) -> Float[Array, "D D"]:
        """The couplings."""
        return self.J

    def read(self, overlaps: Float[Array, " D"], i: Any) -> Scalar:
        """The field of one unit."""
        return overlaps[i] if self.bias is None else overlaps[i] + self.bias[i]

    def energy(self, x: Float[Array, " D"]) -> Scalar:
        """The energy of a Hopfield network."""
        pairs = -0.5 * jnp.sum(x * (x @ self.J))
        return pairs if self.bias is None else pairs - jnp.dot(self.bias, x)


class ModernDenseReconstructor(AbstractOverlapReconstructor):
    r"""Memories that compete by a softmax: given, or learned.

    $$h(x) = \Xi^\top \mathrm{softmax}(\Xi x / T), \qquad
    E(x) = -T \log \sum_\mu e^{\xi_\mu \cdot x / T}$$

    for spins. For bits the competition is by distance, and the field is measured from the
    middle, which makes it the same memory:

    $$h(x) = \Xi^\top \mathrm{softmax}\big((\Xi x - \tfrac12 \|\xi\|^2) / T\big) - \tfrac12$$

    The energy is concave, so that any set of units may be set by the sign of their fields at
    once without raising it.

    **Arguments:**

    - `memory`: the patterns to begin with, one per row, `(K, D)`. Or give `count` and `size`:
      so many random memories, to be learned.
    - `T`: temperature in units of an overlap, > 0. It is not trained. With given patterns a small
      one serves; learning wants one large enough that several memories answer at first.
    - `states`: `"spins"` (-1/+1) or `"bits"` (0/1).
    - `key`: for random memories.

    **Raises:** `ValueError` unless there is either a memory or its size, and a key for the latter;
    for `T` not above 0; for a memory that is no matrix or not finite. Warns of a memory of 0 and
    1 alone where states are spins.

    **Reference:** Ramsauer et al. 2021, eq. 3, on binary states.
    """

    memory: Float[Array, "K D"]
    T: Scalar = eqx.field(metadata={"trained": False})
    shape: tuple[int, ...] = eqx.field(static=True)
    states: str = eqx.field(static=True)

    def __init__(
        self,
        memory: Any = None,
        *,
        count: Any = None,
        size: Any = None,
        T: Any = 0.1,
        states: str = "spins",
        key: Key | None = None,
    ):
        where = "ModernDenseReconstructor"
        checks.choice(states, SPACES, f"{where}: states")
        if memory is None:
            if count is None or size is None or key is None:
                raise ValueError(
                    f"{where}: needs a memory, or count, size and key for one to be learned; "
                    "some are missing. Pass patterns, or count=100, size=784, key=jr.key(0)."
                )
            K, D = (
                checks.integer(count, 1, f"{where}: count"),
                checks.integer(size, 1, f"{where}: size"),
            )
            self.memory = 0.1 * jr.normal(key, (K, D), jnp.result_type(float))
            if states == "bits":
                self.memory = self.memory + 0.5
        else:
            if count is not None or size is not None:
                raise ValueError(f"{where}: a memory came with count or size; drop one of the two.")
            self.memory = checks.as_float(memory, f"{where}: memory")
            if states == "spins":
                checks.warn_of_bits(self.memory, f"{where}: memory")
        self.T = checks.as_float(T, f"{where}: T").astype(self.memory.dtype)
        self.shape, self.states = self.memory.shape[1:], states

    def __check_init__(self):
        if self.memory.ndim != 2:
            raise ValueError(
                f"memory: must have shape (K, D); {self.memory.shape} came. "
                "Pictures are flattened by memory.reshape(K, -1), one pattern is memory[None]."
            )
        checks.pattern_matrix(self.memory)
        if self.T.ndim:
            raise ValueError(f"T: must be a scalar; shape {self.T.shape} came.")
        if checks.is_concrete(self.T):
            checks.positive(self.T, "T")

    def _scores(self, overlaps: Array) -> Array:
        """How well each memory fits, over the temperature."""
        if self.states == "bits":
            overlaps = overlaps - 0.5 * jnp.sum(self.memory**2, axis=1)
        return overlaps / lax.stop_gradient(self.T)

    def field(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """The average of the memories, weighted by how well they fit."""
        h = jax.nn.softmax(self._scores(self.memory @ x)) @ self.memory
        return h if self.states == "spins" else h - 0.5

    def weights(self) -> Float[Array, "K D"]:
        """The memories."""
        return self.memory

    def read(self, overlaps: Float[Array, " K"], i: Any) -> Scalar:
        """The field of one unit."""
        h = jnp.dot(jax.nn.softmax(self._scores(overlaps)), self.memory[:, i])
        return h if self.states == "spins" else h - 0.5

    def soft(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """The average of the memories itself: it lies between the values of a unit already."""
        h = self.field(x)
        return h if self.states == "spins" else h + 0.5

    def energy(self, x: Float[Array, " D"]) -> Scalar:
        """The energy whose gradient is minus the field."""
        E = -lax.stop_gradient(self.T) * jax.nn.logsumexp(self._scores(self.memory @ x))
        return E if self.states == "spins" else E + 0.5 * jnp.sum(x)
