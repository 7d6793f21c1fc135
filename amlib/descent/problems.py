"""What the methods for real states lower, and what they share: points, projected steps, rest.

A method looks for a state that the projected unit step leaves alone,

$$x = P(x - \\nabla E(x))$$

with $P$ the projection on the space (the identity without bounds). This is the condition for a
stationary point of $E$ on the set. The largest entry of $P(x - \\nabla E(x)) - x$ is the residual:
one stop rule for every method.

Where the state moves against another direction than the gradient, which vanishes in the same
states (a layer's state moves against the energy's gradient in its activation), that direction
takes the gradient's place. Units that are clamped never move.
"""

import abc
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from amlib._progress import Meter
from amlib._types import Scalar, hook
from amlib.descent.trajectory import RESULTS, StateTrajectory
from amlib.spaces import AbstractReals, Reals

Field: TypeAlias = Callable[[PyTree], tuple[Array, PyTree]]
"""From a state to its energy and the direction to move against, of the shape of the state."""


_REALS = Reals()


class Point(NamedTuple):
    """Where a descent is: a state, its energy, and the gradient there (or what takes its place).

    `steps` is how many steps led there: the loop counts them.
    """

    x: Float[Array, "*shape"]
    energy: Scalar
    grad: Float[Array, "*shape"]
    steps: Array


class AbstractProblem(eqx.Module):
    """A scalar function to lower, the space of its states, and where they move.

    - `energy`: from a state to a scalar.
    - `space`: the set that the state stays in.
    - `field`: from a state to the energy and the direction to move against; its energy and its
      gradient unless another is given.
    - `held`: a mask of the units that do not move, and their values.
    - `tol`: what counts as rest.
    - `limit`, `meter`: the step limit, and what tells a progress bar, set where the loop begins.
    - `falls`: whether the energy must fall along the direction.
    """

    energy: Callable[[PyTree], Array]
    space: AbstractReals = _REALS
    field: Field | None = None
    held: tuple[PyTree[Array], PyTree[Array]] | None = None
    tol: Array | float = 0.0
    limit: Array | None = None
    meter: Meter | None = None
    falls: bool = True

    @property
    def bounded(self) -> bool:
        """Whether there is a projection."""
        return not self.space.free

    # -- points ------------------------------------------------------------------------------------

    def at(self, x: Array) -> Point:
        """The point at `x`."""
        return Point(x, *self.value_and_grad(x), jnp.zeros((), jnp.int32))

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """The energy, and its gradient or the direction that takes its place."""
        energy, grad = (self.field or jax.value_and_grad(self.energy))(x)
        return energy, self.released(grad)

    @hook
    def grad(self, x: PyTree[Array]) -> PyTree[Array]:
        """The gradient, or the direction that takes its place; zero where a unit is clamped."""
        return self.released(jax.grad(self.energy)(x) if self.field is None else self.field(x)[1])

    def released(self, grad: PyTree[Array]) -> PyTree[Array]:
        """A direction, with zeros where a unit is clamped."""
        if self.held is None:
            return grad
        return jax.tree.map(lambda held, g: jnp.where(held, 0, g), self.held[0], grad)

    # -- moves -------------------------------------------------------------------------------------

    def put(self, x: PyTree[Array]) -> PyTree[Array]:
        """The state, moved into the space; clamped units at their values."""
        if self.bounded:
            y = self.space.project(x)
            if y.shape != x.shape:
                raise ValueError(f"project: must keep the shape {x.shape}; {y.shape} came.")
            x = y.astype(x.dtype)
        return x if self.held is None else jax.tree.map(jnp.where, *self.held, x)

    def move(self, x: Array, g: Array, step: Array | float = 1.0) -> Array:
        """The projected step against `g`."""
        return self.put(x - step * g)

    # -- rest --------------------------------------------------------------------------------------

    def residual(self, x: Array) -> Array:
        """What the projected unit step changes: zero at a stationary state."""
        return self.move(x, self.grad(x)) - x

    def still(self, at: Point) -> Bool[Array, ""]:
        """Whether the unit step moves no unit beyond `tol`."""
        return jnp.max(jnp.abs(self.move(at.x, at.grad) - at.x)) <= self.tol

    def judge(self, at: Point) -> RESULTS:
        """Converged if the unit step moves no unit, not finite if something is not; else go on."""
        finite = jnp.isfinite(at.energy) & jnp.isfinite(at.grad).all() & jnp.isfinite(at.x).all()
        result = RESULTS.where(self.still(at), RESULTS.converged, RESULTS.step_limit)
        return RESULTS.where(finite, result, RESULTS.nonfinite)

    # -- energies in parts -------------------------------------------------------------------------

    @abc.abstractmethod
    def measure(self, x: PyTree[Array]) -> tuple[PyTree[Array], Array]:
        """The energy in parts, and the size of what they sum, which its rounding goes by."""

    @abc.abstractmethod
    def total(self, parts: PyTree[Array]) -> Array:
        """The energies whose parts these are."""

    @abc.abstractmethod
    def record(
        self, states: PyTree[Array] | None, energy: Array, time: Array, parts: PyTree[Array]
    ) -> StateTrajectory | None:
        """The record of steps whose energies are known, and their states if they were kept."""

    # -- states of several arrays ------------------------------------------------------------------

    def raveled(
        self, x: PyTree[Array]
    ) -> tuple["AbstractProblem", Array, Callable[[Array], PyTree[Array]]]:
        """The same problem over one array, the state as such, and the way back."""
        if isinstance(x, jax.Array):
            return self, x, lambda v: v
        flat, apart = jax.flatten_util.ravel_pytree(x)
        together = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]
        energy, field, held = self.energy, self.field, self.held
        assert field is not None

        def flat_field(v: Array) -> tuple[Array, Array]:
            e, direction = field(apart(v))
            return e, together(direction)

        if held is not None:
            held = together(held[0]), together(held[1])
        problem = Problem(
            lambda v: energy(apart(v)),
            self.space,
            flat_field,
            held,
            self.tol,
            self.limit,
            self.meter,
        )
        return problem, flat, apart


class Problem(AbstractProblem):
    """The problem of a state that is one array, and of an energy without parts."""

    def measure(self, x: Array) -> tuple[Array, Array]:
        """The energy, and the size of its summands."""
        # Say one a unit, such as the log 2 of log cosh.
        return self.energy(x), half_square(x) + x.size

    def total(self, parts: Array) -> Array:
        """The energies."""
        return parts

    def record(
        self, states: PyTree[Array] | None, energy: Array, time: Array, parts: PyTree[Array]
    ) -> StateTrajectory | None:
        """None unless states were kept."""
        del parts
        return None if states is None else StateTrajectory(states, energy, time)


def rises(before: Array, after: Array, size: Array) -> Bool[Array, "..."]:
    r"""Whether an energy rose by more than its rounding can feign.

    $$E' - E > 100\, \epsilon\, (|E| + |E'| + S)$$

    **Arguments:**

    - `before`, `after`: $E$ and $E'$.
    - `size`: $S$, the size of the summands that cancel in them.

    **Returns:** whether it did; 1.2e-5 is $100\,\epsilon$ in float32, 2.2e-14 in float64.
    """
    scale = jnp.abs(before) + jnp.abs(after) + size.astype(after.dtype)
    return after - before > 100 * jnp.finfo(after.dtype).eps * scale


def half_square(x: Array) -> Array:
    r"""The convex part $\frac12 \|x\|^2$ of an energy with unit steps."""
    return 0.5 * jnp.sum(x * x)
