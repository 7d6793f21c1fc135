"""What all continuous methods share: the projected step and the implicit derivative.

A method looks for a state that the projected unit step leaves alone,

$$x = P(x - \\nabla E(x))$$

with $P$ the projection on the constraint set (the identity without one). This is the condition
for a stationary point of $E$ on the set. The largest entry of $P(x - \\nabla E(x)) - x$ is the
residual: one stop rule for every method.

Where the state moves against another direction than the gradient, which vanishes in the same
states (a layer's state moves against the energy's gradient in its activation), that direction
takes the gradient's place.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array, Bool, Float

from amlib import _checks as checks
from amlib._types import EnergyFn
from amlib.descent.trajectory import Recall

Projection: TypeAlias = Callable[[Array], Array]
Field: TypeAlias = Callable[[Array], tuple[Array, Array]]


class Box(eqx.Module):
    r"""Project a state on a box: clip every unit.

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

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state in the box."""
        return jnp.clip(x, self.low.astype(x.dtype), self.high.astype(x.dtype))


class Sphere(eqx.Module):
    r"""Project a state on a sphere around the origin: rescale it.

    $$P(x) = r \, x / \|x\|$$

    **Arguments:**

    - `radius`: $r$, > 0; trainable. The zero state has no direction and becomes NaN, which ends a
      recall as not finite.

    **Raises:** `ValueError` unless `radius` is a finite positive scalar.
    """

    radius: Float[Array, ""] = eqx.field(
        converter=lambda r: checks.as_float(r, "Sphere: radius"), default=1.0
    )

    def __check_init__(self):
        if checks.is_concrete(self.radius):
            checks.positive(self.radius, "Sphere: radius")

    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest state on the sphere."""
        return self.radius.astype(x.dtype) * x / jnp.sqrt(jnp.sum(x * x))


@dataclasses.dataclass(frozen=True)
class Problem:
    """A scalar function to lower, the set that the state must stay in, and where it moves.

    `field`, from a state to the energy and the direction to move against, is the energy and its
    gradient unless another is given.
    """

    energy: EnergyFn
    project: Projection | None
    field: Field | None = None

    def put(self, x: Array) -> Array:
        """The state, moved onto the constraint set."""
        if self.project is None:
            return x
        y = self.project(x)
        if y.shape != x.shape:
            raise ValueError(f"project: must keep the shape {x.shape}; {y.shape} came.")
        return y.astype(x.dtype)

    def value_and_grad(self, x: Array) -> tuple[Array, Array]:
        """The energy, and its gradient or the direction that takes its place."""
        return (self.field or jax.value_and_grad(self.energy))(x)

    def grad(self, x: Array) -> Array:
        """The gradient, or the direction that takes its place."""
        return jax.grad(self.energy)(x) if self.field is None else self.field(x)[1]

    def move(self, x: Array, g: Array, step: Array | float = 1.0) -> Array:
        """The projected step against `g`."""
        return self.put(x - step * g)

    def residual(self, x: Array) -> Array:
        """What the projected unit step changes: zero at a stationary state."""
        return self.move(x, self.grad(x)) - x

    def still(self, x: Array, g: Array, tol: Array) -> Bool[Array, ""]:
        """Whether the unit step from `x`, whose gradient is `g`, moves no unit beyond `tol`."""
        return jnp.max(jnp.abs(self.move(x, g) - x)) <= tol


class AbstractMethod(eqx.Module):
    """A way to lower a scalar function. Subclass it and define `run` to add your own."""

    @abc.abstractmethod
    def run(
        self, problem: Problem, x0: Array, max_steps: int, tol: Array, save_every: int | None
    ) -> Recall:
        """Descend from `x0`, which lies on the constraint set.

        **Arguments:**

        - `problem`: the energy and the constraint set, with what methods need of them.
        - `x0`: the start, at least single precision.
        - `max_steps`: the limit.
        - `tol`: converged once the unit step moves no unit by more.
        - `save_every`: steps between two states kept, or `None`.

        **Returns:** a `Recall`.
        """


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


def implicit(
    problem: Problem,
    x0: Array,
    solve: Callable[[Array], tuple[Array, Any]],
    linear_solver: lx.AbstractLinearSolver | None,
) -> tuple[Array, Any]:
    r"""Solve for a stationary state, with the derivative of the implicit function theorem.

    With $r(x, \theta)$ the residual and $r(x^*, \theta) = 0$,

    $$\frac{dx^*}{d\theta} = -\left(\frac{\partial r}{\partial x}\right)^{-1}
    \frac{\partial r}{\partial \theta}$$

    for everything that the energy and the projection close over. Its memory does not depend on
    how `solve` got there. The derivative in `x0` is zero: a small move of the start ends in the
    same state.

    **Arguments:**

    - `problem`: what is stationary.
    - `x0`: the start.
    - `solve`: from the start to the state and anything else to return with it.
    - `linear_solver`: for the linear system; `None` takes a dense factorisation for up to 256
      units and GMRES, which never forms the matrix, beyond.

    **Returns:** the state and what else `solve` returned.
    """
    if linear_solver is None:
        precision = float(jnp.finfo(x0.dtype).eps)
        linear_solver = (
            lx.AutoLinearSolver(well_posed=None)
            if x0.size <= 256
            else lx.GMRES(rtol=10 * precision, atol=10 * precision)
        )

    def tangent_solve(linear: Callable[[Array], Array], y: Array) -> Array:
        operator = lx.FunctionLinearOperator(linear, jax.ShapeDtypeStruct(y.shape, y.dtype))
        # No error from within a derivative: a singular system gives NaN, or the least bad answer.
        return lx.linear_solve(operator, y, linear_solver, throw=False).value

    # What comes with the state must be float there: `custom_root` has no tangents of integers.
    aux = jax.eval_shape(solve, x0)[1]

    def solve_in_floats(_: Any, x: Array) -> tuple[Array, Any]:
        x, rest = solve(x)
        return x, jax.tree.map(lambda a: a.astype(x0.dtype), rest)

    x, rest = lax.custom_root(problem.residual, x0, solve_in_floats, tangent_solve, has_aux=True)
    return x, jax.tree.map(lambda a, like: a.astype(like.dtype), lax.stop_gradient(rest), aux)


def positive_field(name: str) -> Callable[[Any], Array]:
    """A converter of a field to a positive scalar; raises where it is known not to be one."""

    def convert(value: Any) -> Array:
        value = checks.as_float(value, name)
        if value.ndim:
            raise ValueError(f"{name}: must be a scalar; shape {value.shape} came.")
        return checks.positive(value, name) if checks.is_concrete(value) else value

    return convert
