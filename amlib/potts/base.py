"""Associative memories of units of several values: write `energy`, get recall."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int32, Integer, Shaped

from amlib import _checks as checks
from amlib._compiled import compiled_lanes
from amlib._numbers import Numbers, known_numbers
from amlib._types import Scalar
from amlib.descent.flip_problem import AbstractFlipProblem
from amlib.descent.methods import AbstractMethod
from amlib.descent.sites import SiteProblem, changes_of
from amlib.descent.sweeps import Sweeps
from amlib.descent.visits import Free
from amlib.memory import AbstractMemory
from amlib.spaces import Values

_SWEEPS = Sweeps()
_MOST = 2**15
"""Values of a unit, so that patterns are stored as int16."""


class AbstractPottsAM(AbstractMemory):
    """A memory over units of q values: everything but the energy, and no patterns.

    Subclass it for an energy with no pattern matrix, and define `energy` and a field `q`; with
    stored patterns, subclass `PottsAM`.

    ```python
    class Ring(am.AbstractPottsAM):
        q: int = eqx.field(static=True, default=3)

        def energy(self, x):
            return -jnp.sum(1.0 * (x == jnp.roll(x, 1)))
    ```

    States are arrays of whole numbers from 0 to q - 1, in any shape that the energy takes, and
    recall gives int32. One state per call: batches go through `jax.vmap`.

    Every method of units of two values works on them. A visited unit may take any of its values:
    `Sweeps` gives it that of the lowest energy, and `Glauber(beta)` draws one (a heat bath). The
    order `"colours"` is `"sequential"` here. A visit costs q - 1 evaluations of the energy, or,
    where the energy is a function of sums over units such as `jnp.sum(x == Xi)`, of what follows
    these sums: see `explain`. Sums of terms of two units, as in a lattice, are found as well.
    """

    q: eqx.AbstractVar[int]

    _half_is_storage: ClassVar[bool] = False  # recall follows the energy as it is written

    @property
    def space(self) -> Values:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The values of a unit."""
        return Values(self.q)

    @abc.abstractmethod
    def energy(self, x: Int32[Array, "*shape"]) -> Scalar:
        """The energy of a state: the only method to write.

        **Arguments:**

        - `x`: a state of whole numbers, from 0 to q - 1.

        **Returns:** a real scalar. Recall lowers it.
        """

    def default_method(self) -> AbstractMethod:
        """`Sweeps()`: descent in a fresh random order per sweep."""
        return _SWEEPS

    def change_energies(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape q"]:
        """The energy after each change of a single unit, all computed together.

        **Arguments:**

        - `x`: a state.

        **Returns:** for each unit and each of its values the energy of the state in which the unit
        has that value; for its own value the energy of `x`.
        """
        return _change_energies(_Known(self), type(self)._state(self, x, "change_energies"))

    def is_fixed_point(
        self,
        x: Shaped[ArrayLike, "*shape"],
        clamp: Shaped[ArrayLike, "*shape"] | None = None,
    ) -> Bool[Array, ""]:
        """Whether no change of a single unit, of those `clamp` does not hold, lowers the energy."""
        x, free = type(self)._state(self, x, "is_fixed_point"), True
        if clamp is not None:
            free = ~jnp.asarray(checks.mask(clamp, x.shape, "is_fixed_point: clamp"))[..., None]
        energies = _change_energies(_Known(self), x)
        own = jnp.take_along_axis(energies, x[..., None], -1)
        return ~((energies < own) & free).any()

    def explain(self, x0: Shaped[ArrayLike, "*shape"] | None = None) -> None:
        """Print how a change of a unit is evaluated, what is carried, and what it costs.

        A change is two flips: one of the q bits that a unit is coded as goes off, and one on.

        **Arguments:**

        - `x0`: any state; only its shape counts. Not needed where the model has a `state_struct`.
        """
        if x0 is None:
            struct = self.state_struct
            if struct is None:
                raise ValueError("explain: this model does not know its state; pass a state x0.")
            x0 = jnp.zeros(struct.shape, struct.dtype)
        known, x0 = _Known(self), type(self)._state(self, x0, "explain")
        print(known.problem().plan(self.space.to_spins(x0)).describe())


class PottsAM(AbstractPottsAM):
    """A memory of units of q values with stored patterns. Subclass it and define `energy`.

    ```python
    class Matches(am.PottsAM):
        def energy(self, x):
            return -jnp.sum(jnp.sum(x == self.Xi, axis=1) ** 2.0)
    ```

    **Arguments:**

    - `Xi`: stored patterns, one per row, of whole numbers from 0 to q - 1 and of shape `(K, D)`;
      image-shaped patterns `(K, H, W)` make image-shaped states. They are kept as int8, or as int16
      from q = 129 on, and have no gradient.
    - `q`: how many values a unit has, 2 to 32,768.

    **Raises:** `TypeError` if `energy` is missing, for a `q` that is no integer and for patterns
    that are no numbers; `ValueError` if `Xi` has no pattern, has fewer than two axes, or holds
    fractions, NaN, or values out of range.
    """

    Xi: Integer[Array, "K *shape"] = eqx.field(converter=lambda Xi: _stored(Xi))
    q: int = eqx.field(static=True, converter=lambda q: _count(q))

    def __check_init__(self):
        checks.pattern_matrix(self.Xi)
        if checks.is_concrete(self.Xi):
            self.space.check(self.Xi, "Xi")

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: those of a pattern, as int32."""
        return jax.ShapeDtypeStruct(self.Xi.shape[1:], jnp.int32)

    def local_overlaps(self, x: Integer[Array, "*shape"]) -> Float[Array, " K"]:
        r"""The overlaps that the energies of this library are made of.

        $$h_\mu = \sum_i \big(q\, \delta(x_i, \xi_{\mu i}) - 1\big)$$

        It is $(q - 1) D$ at the pattern itself, and 0 on average for a random state; for q = 2 it
        is the dot product $\xi_\mu \cdot x$ of spins.
        """
        same = self.Xi.astype(x.dtype) == x[None]
        count = jnp.sum(same, axis=tuple(range(1, same.ndim)), dtype=jnp.int32)
        return self.q * count.astype(jnp.result_type(float)) - x.size

    def overlaps(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, " K"]:
        r"""How much of each pattern a state is: 1 at the pattern, about 0 for a random state.

        $$m_\mu = \frac{1}{(q - 1) D} \sum_i \big(q\, \delta(x_i, \xi_{\mu i}) - 1\big)$$

        **Arguments:**

        - `x`: a state.

        **Returns:** one overlap for each pattern, between $-1/(q - 1)$ and 1.
        """
        x = type(self)._state(self, x, "overlaps")
        return self.local_overlaps(x) / ((self.q - 1) * x.size)


def _count(q: Any) -> int:
    q = checks.integer(q, 2, "PottsAM: q")
    checks.at_most(q, _MOST, "PottsAM: q")
    return q


def _stored(Xi: Any) -> Array:
    """Patterns in the smallest integers that hold them; wider ones are known to a program."""
    whole = Values(_MOST).asarray(Xi, "Xi")
    if not checks.is_concrete(whole) or not whole.size:
        return whole
    low, high = int(whole.min()), int(whole.max())
    for dtype in (jnp.int8, jnp.int16):
        if jnp.iinfo(dtype).min <= low and high <= jnp.iinfo(dtype).max:
            return whole.astype(dtype)
    return whole


class _Known(eqx.Module):
    """A model as the compiled functions take it, with what is known of its numbers before."""

    model: AbstractPottsAM
    bounded: tuple[Numbers, ...] = eqx.field(static=True)

    def __init__(self, model: AbstractPottsAM):
        self.model, self.bounded = model, known_numbers(model)

    def problem(self, free: Free | None = None) -> SiteProblem:
        """Its changes."""
        problem: AbstractFlipProblem = self.model._flips(self.model.space, free, self.bounded)
        assert isinstance(problem, SiteProblem)
        return problem


@compiled_lanes
def _change_energies(known: _Known, x: Array) -> Array:
    return changes_of(known.problem(), x)
