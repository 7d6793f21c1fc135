r"""The spaces that states live in: what a unit may be, and what it becomes when it is corrupted.

| space | a unit is | memories |
|---|---|---|
| `Spins()` | -1 or +1 | `BinaryAM` |
| `Bits()` | 0 or 1 | `BinaryAM` with `space = Bits()` |
| `Values(q)` | 0, 1, ... or q - 1, a whole number | `PottsAM` |
| `Reals()` | any real number | `ContinuousAM`, `HAM` |
| `Box(low, high)` | a real number between two bounds | `ContinuousAM` with `space = Box()` |
| `Sphere(radius)` | one of the coordinates of a point on a sphere | the same |

A memory names its space in the field `space`, as a class attribute or as a property. Whatever
handles states asks the space: checks at the boundary, the methods that flip or move units, the
frames of a trajectory, and `amlib.data.corrupt`.

Units of two values are coded as spins where they are flipped: a space of two values is its two
numbers, and everything that the library finds out about flips holds for it. A unit of `q` values is
coded as `q` such spins, of which one is +1: to change it is to flip two. A space of reals is
a projection. To add one, subclass `AbstractTwoValued` or `AbstractReals`.
"""

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int32, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import hook


class AbstractSpace(eqx.Module):
    """What the units of a state may be. States may have any shape: the memory knows it."""

    kind: ClassVar[str]
    """What the units are, in the words of an error."""

    __repr__ = show.text

    @abc.abstractmethod
    def asarray(self, x: Shaped[ArrayLike, "*shape"], where: str) -> Shaped[Array, "*shape"]:
        """Convert a state as users have it (floats, integers, bools) to the numbers of the space.

        **Raises:** `TypeError` for what is no array of real numbers; `where` begins the message.
        """

    @abc.abstractmethod
    def check(self, x: Shaped[Array, "*shape"], where: str) -> Shaped[Array, "*shape"]:
        """Return `x`; raise `ValueError` unless every unit is one of this space."""

    @abc.abstractmethod
    def other(self, x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        """For each unit the value that it has when it is flipped."""


class AbstractFinite(AbstractSpace):
    """Units of finitely many values: `AbstractTwoValued`, or `Values`."""

    @abc.abstractmethod
    def to_spins(self, x: Shaped[Array, "*shape"]) -> Float[Array, "..."]:
        """The state in the code in which units are flipped or changed."""

    @abc.abstractmethod
    def from_spins(self, s: Float[Array, "..."]) -> Shaped[Array, "*shape"]:
        """The state that spins stand for, exactly."""


class AbstractTwoValued(AbstractFinite):
    """Units of two values. Subclass it and set `low` and `high`.

    ```python
    class Occupied(am.spaces.AbstractTwoValued):
        low, high = 0.0, 2.0
    ```
    """

    @property
    @abc.abstractmethod
    def low(self) -> float:
        """The value of a unit that is off."""

    @property
    @abc.abstractmethod
    def high(self) -> float:
        """The value of a unit that is on."""

    @property
    def kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The two values."""
        return f"units of two values, {self.low:g} and {self.high:g}"

    def asarray(self, x: Shaped[ArrayLike, "*shape"], where: str) -> Float[Array, "*shape"]:
        """Convert to floats, see `AbstractSpace`; of bools `False` becomes `low`."""
        floats = checks.as_float(x, where)  # of bools it makes spins
        array = isinstance(x, jax.Array | np.ndarray | np.generic)
        dtype = x.dtype if array else np.asarray(x).dtype
        if jnp.issubdtype(dtype, jnp.bool_):
            return jnp.where(floats > 0, self.high, self.low).astype(floats.dtype)
        return floats

    @hook
    def check(self, x: Float[Array, "*shape"], where: str) -> Float[Array, "*shape"]:
        """Return `x`; raise `ValueError` unless it holds only the two values."""
        return checks.require(
            x,
            ~((x == self.low) | (x == self.high)).all(),
            f"{where}: a state must hold only {self.low:g} and {self.high:g}; other values came. "
            f"Spins s become such units by {self.low:g} + {self.high - self.low:g} * (s + 1) / 2.",
        )

    @hook
    def other(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The other of the two values."""
        return jnp.where(x == self.high, self.low, self.high).astype(x.dtype)

    # -- the code in which units are flipped ------------------------------------------------------

    @hook
    def to_spins(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state as spins: `low` is -1, `high` is +1."""
        return jnp.where(x == self.high, 1.0, -1.0).astype(x.dtype)

    @hook
    def from_spins(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state that spins stand for, exactly."""
        return jnp.where(s > 0, self.high, self.low).astype(s.dtype)

    @hook
    def affine(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The same but for rounding, as an affine function: what an energy is flipped through."""
        return self.low + (self.high - self.low) * (0.5 * (s + 1))


class Spins(AbstractTwoValued):
    """Units of -1 and +1: the states of Ising models and of Hopfield networks."""

    low: ClassVar[float] = -1.0  # pyright: ignore[reportIncompatibleMethodOverride]
    high: ClassVar[float] = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def check(self, x: Float[Array, "*shape"], where: str) -> Float[Array, "*shape"]:
        """Return `x`; raise `ValueError` unless it holds only -1 and +1."""
        return checks.spins(x, where)

    def other(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state with its signs changed; other real numbers change theirs too."""
        return -x

    def to_spins(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state itself."""
        return x

    def from_spins(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state itself."""
        return s

    def affine(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state itself."""
        return s


class Bits(AbstractTwoValued):
    """Units of 0 and 1: the states of Boltzmann machines and of lattice gases."""

    low: ClassVar[float] = 0.0  # pyright: ignore[reportIncompatibleMethodOverride]
    high: ClassVar[float] = 1.0  # pyright: ignore[reportIncompatibleMethodOverride]

    def check(self, x: Float[Array, "*shape"], where: str) -> Float[Array, "*shape"]:
        """Return `x`; raise `ValueError` unless it holds only 0 and 1."""
        return checks.require(
            x,
            ~((x == 0) | (x == 1)).all(),
            f"{where}: a state of bits must hold only 0 and 1; other values came. "
            "Spins become bits by (x + 1) / 2.",
        )

    def other(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """One minus the state."""
        return 1 - x

    def affine(self, s: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Half of one more: exact."""
        return 0.5 * (s + 1)


class Values(AbstractFinite):
    """Units of `q` values, the whole numbers from 0 to q - 1: the states of Potts models.

    They are names of what a unit may be (a colour, a letter, a grey level) and have no order, but
    where an energy gives them one. States are int32.

    **Arguments:**

    - `q`: how many values, at least 2.

    **Raises:** `ValueError` for `q < 2`, `TypeError` if `q` is no integer.
    """

    q: int = eqx.field(static=True, converter=lambda q: checks.integer(q, 2, "Values: q"))

    @property
    def kind(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How many values."""
        return f"units of {self.q} values"

    def asarray(self, x: Shaped[ArrayLike, "*shape"], where: str) -> Int32[Array, "*shape"]:
        """Convert whole numbers to int32, see `AbstractSpace`; of bools `False` becomes 0."""
        try:
            a = x if isinstance(x, jax.Array) else np.asarray(x)
        except ValueError as err:
            raise TypeError(
                f"{where}: must be an array of numbers; {type(x).__name__} came."
            ) from err
        numbers: Any = jnp if isinstance(a, jax.Array) else np  # before 64 bits become 32
        if jnp.issubdtype(a.dtype, jnp.floating):
            floats = checks.require(
                jnp.asarray(a),
                (a != numbers.round(a)).any() | ~numbers.isfinite(a).all(),
                f"{where}: a state of {self.q} values must hold whole numbers from 0 to "
                f"{self.q - 1}; fractions, NaN or infinity came. Round it, or cut it into levels "
                "by jnp.digitize.",
            )
            a = floats if isinstance(a, jax.Array) else a
        elif not (a.dtype == bool or jnp.issubdtype(a.dtype, jnp.integer)):
            raise TypeError(f"{where}: must hold whole numbers; dtype {a.dtype} came.")
        elif a.dtype.itemsize < 4:
            a = a.astype(np.int32)  # which holds q
        within = (a >= 0) & (a < self.q)
        whole = numbers.where(within, a, numbers.zeros_like(a)).astype(np.int32)
        return jnp.asarray(numbers.where(within, whole, np.int32(-1)))  # what would wrap is wrong

    def check(self, x: Shaped[Array, "*shape"], where: str) -> Shaped[Array, "*shape"]:
        """Return `x`; raise `ValueError` unless it holds whole numbers from 0 to q - 1."""
        wide = x.astype(jnp.int32)  # int8 does not hold q
        return checks.require(
            x,
            ((wide < 0) | (wide >= self.q)).any(),
            f"{where}: a state of {self.q} values must hold whole numbers from 0 to {self.q - 1}; "
            "others came. Values that count from 1 need x - 1; more values need a larger q.",
        )

    def other(self, x: Shaped[Array, "*shape"]) -> Shaped[Array, "*shape"]:
        """The next value, and 0 after the last one."""
        return (x + 1) % self.q

    def to_spins(self, x: Shaped[Array, "*shape"]) -> Float[Array, "*shape q"]:
        """A row of `q` spins for each unit: +1 at its value."""
        here = x[..., None] == jnp.arange(self.q, dtype=x.dtype).reshape((1,) * x.ndim + (-1,))
        return jnp.where(here, 1.0, -1.0).astype(jnp.result_type(float))

    def from_spins(self, s: Float[Array, "*shape q"]) -> Int32[Array, "*shape"]:
        """The place of the +1 of each unit."""
        return jnp.argmax(s, -1).astype(jnp.int32)


class AbstractReals(AbstractSpace):
    """Real units, kept on a set by a projection. Subclass it and define `project`.

    ```python
    class HalfLine(am.spaces.AbstractReals):
        def project(self, x):
            return jnp.maximum(x, 0)
    ```
    """

    kind: ClassVar[str] = "real units"
    free: ClassVar[bool] = False
    """Whether the projection leaves every state alone."""

    solid: ClassVar[bool] = True
    """Whether the set has an interior, in which a state can move in all directions."""

    @abc.abstractmethod
    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state of the set."""

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state of the set: the space as a projection."""
        return self.project(x)

    def asarray(self, x: Shaped[ArrayLike, "*shape"], where: str) -> Float[Array, "*shape"]:
        """Convert to floats, see `AbstractSpace`; bools become spins."""
        return checks.as_float(x, where)

    def check(self, x: Float[Array, "*shape"], where: str) -> Float[Array, "*shape"]:
        """Return `x`; raise `ValueError` if it holds NaN or infinity. Recall projects it."""
        return checks.finite(x, f"{where}: x")

    def other(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state with its signs changed, moved into the set."""
        return self.project(-x)


class Reals(AbstractReals):
    """Real units without bounds."""

    free: ClassVar[bool] = True

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state itself."""
        return x


class Box(AbstractReals):
    r"""Real units between two bounds. Its projection clips every unit.

    $$P(x)_i = \min(\max(x_i, \text{low}), \text{high})$$

    **Arguments:**

    - `low`, `high`: the bounds, scalars or one per unit.

    **Raises:** `ValueError` unless `low < high` everywhere.
    """

    low: Float[Array, "*shape"] = eqx.field(
        converter=lambda a: checks.as_float(a, "Box: low"), default=-1.0
    )
    high: Float[Array, "*shape"] = eqx.field(
        converter=lambda a: checks.as_float(a, "Box: high"), default=1.0
    )

    def __check_init__(self):
        bad = self.low >= self.high
        if checks.is_concrete(bad):
            checks.require(bad, bad, "Box: low must be below high; swap the two.")

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state in the box."""
        return jnp.clip(x, self.low.astype(x.dtype), self.high.astype(x.dtype))


class Sphere(AbstractReals):
    r"""States on a sphere around the origin. Its projection rescales.

    $$P(x) = r \, x / \|x\|$$

    **Arguments:**

    - `radius`: $r$, > 0; trainable. The zero state has no direction and becomes NaN, which ends a
      recall as not finite.

    **Raises:** `ValueError` unless `radius` is a finite positive scalar.
    """

    solid: ClassVar[bool] = False

    radius: Float[Array, ""] = eqx.field(
        converter=lambda r: checks.as_float(r, "Sphere: radius"), default=1.0
    )

    def __check_init__(self):
        if checks.is_concrete(self.radius):
            checks.positive(self.radius, "Sphere: radius")

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state on the sphere."""
        return self.radius.astype(x.dtype) * x / jnp.sqrt(jnp.sum(x * x))


class Projected(AbstractReals):
    """Real units on the set of a given projection.

    **Arguments:**

    - `projection`: a function from a state to the nearest allowed state, of the same shape.
    """

    projection: Callable[[Array], Array]

    def project(self, x: Float[Array, "*shape"]) -> Float[Array, "..."]:
        """The nearest state, by the given function, whose shape the problem checks."""
        return self.projection(x)


def as_reals(
    project: AbstractSpace | Callable[[Array], Array] | None,
) -> AbstractReals:
    """The space of a projection: itself if it is one, all real states for `None`."""
    if project is None:
        return Reals()
    if isinstance(project, AbstractReals):
        return project
    if isinstance(project, AbstractSpace) or not callable(project):
        raise TypeError(f"space: must be one of reals, or a projection; {project!r} came.")
    return Projected(project)
