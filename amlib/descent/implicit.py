"""The derivative of a stationary state: that of the implicit function theorem."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
from jax import lax
from jaxtyping import Array

from amlib.descent.problems import AbstractProblem


def implicit(
    problem: AbstractProblem,
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
    dtypes: list[Any] = []

    def solve_in_floats(_: Callable[[Array], Array], x: Array) -> tuple[Array, Any]:
        x, rest = solve(x)
        dtypes.append(jax.tree.map(lambda a: a.dtype, rest))
        return x, jax.tree.map(lambda a: a.astype(x0.dtype), rest)

    residual = lambda x: problem.residual(
        x
    )  # JAX asks for a hash, which a module of arrays has not
    x, rest = lax.custom_root(residual, x0, solve_in_floats, tangent_solve, has_aux=True)
    return x, jax.tree.map(lambda a, dtype: a.astype(dtype), lax.stop_gradient(rest), dtypes[-1])
