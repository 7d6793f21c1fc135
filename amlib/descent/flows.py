r"""Descent of any scalar function of a real state: gradient steps, CCCP, flows, fixed points.

```python
end = descend(energy, x0, CCCP())
end.x, end.energy, end.steps, end.result
```

Which method?

| method | when | derivative through it |
|---|---|---|
| `GradientDescent(..., backtracking=True)` | any energy; never raises it | the steps' (reverse) |
| `CCCP()` | the convex part of the energy is $\frac12\|x\|^2$: few steps, no step size | as above |
| `Flow()` | the path itself matters (continuous time) | implicit: of the end state |
| `FixedPoint()` | the end state matters, and its derivative in parameters | implicit |

Nothing here knows a model.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amlib import _checks as checks
from amlib._types import EnergyFn
from amlib.descent.plan import scalar_output
from amlib.descent.stationary import (
    AbstractMethod,
    Box,
    Field,
    Problem,
    Projection,
    Sphere,
    iterate,
    positive_field,
)
from amlib.descent.steady import FixedPoint, Flow
from amlib.descent.trajectory import RESULTS, Recall

__all__ = [
    "CCCP",
    "AbstractMethod",
    "Box",
    "FixedPoint",
    "Flow",
    "GradientDescent",
    "Sphere",
    "descend",
]


def descend(
    energy: EnergyFn,
    x0: Float[Array, "*shape"],
    method: Any,
    *,
    max_steps: int = 1000,
    tol: Any = None,
    project: Projection | None = None,
    save_every: int | None = None,
    field: Field | None = None,
) -> Recall:
    r"""Lower a scalar function from `x0` until the projected unit step leaves the state alone.

    $$\max_i |P(x - \nabla E(x)) - x|_i \le \text{tol}$$

    **Arguments:**

    - `energy`: from a state to a scalar, differentiable.
    - `x0`: the start, in single precision at least.
    - `method`: one of this module.
    - `max_steps`: the step limit, at least 1.
    - `tol`: see above, in units of the state; `None` means the square root of the precision,
      3.5e-4 in float32 and 1.5e-8 in float64.
    - `project`: a function from a state to the nearest allowed state, such as `Box()` or
      `Sphere()`; `None` leaves the state free.
    - `save_every`: keep the state and the energy every so many steps; `None` keeps nothing.
    - `field`: from a state to its energy and the direction to move against, where that is not
      the gradient (it must vanish in the same states, and going against it must lower the
      energy); it takes the gradient's place everywhere. `GradientDescent` with backtracking then
      asks only that the energy does not rise.

    **Returns:** a `Recall`. Where `save_every` was given its `trajectory` is a
    `ContinuousTrajectory` that begins with the start.

    **Raises:** `TypeError` if `method` is none, `ValueError` for a limit below 1 and an energy
    that is no scalar.
    """
    if not isinstance(method, AbstractMethod):
        raise TypeError(
            f"recall: method must be GradientDescent(...), CCCP(), Flow(...), FixedPoint(...) or "
            f"another AbstractMethod; {method!r} came. Look in amlib.descent.flows."
        )
    checks.at_least(max_steps, 1, "recall: max_steps")
    if save_every is not None:
        checks.at_least(save_every, 1, "recall: save_every")
        save_every = min(int(save_every), int(max_steps))
    if tol is None:
        tol = float(jnp.finfo(x0.dtype).eps) ** 0.5
    tol = checks.as_float(tol, "recall: tol").astype(x0.dtype)
    scalar_output(energy, x0)
    problem = Problem(energy, project, field)
    return method.run(problem, problem.put(x0), int(max_steps), tol, save_every)


class _Carry(NamedTuple):
    x: Array
    energy: Array
    grad: Array
    step_size: Array
    steps: Array
    result: RESULTS


def _start(problem: Problem, x0: Array, tol: Array, step_size: Array) -> _Carry:
    energy, grad = problem.value_and_grad(x0)
    zero = jnp.zeros((), jnp.int32)
    return _Carry(x0, energy, grad, step_size, zero, _judge(problem, x0, energy, grad, tol))


def _judge(problem: Problem, x: Array, energy: Array, grad: Array, tol: Array) -> RESULTS:
    still = problem.still(x, grad, tol)
    finite = jnp.isfinite(energy) & jnp.isfinite(grad).all() & jnp.isfinite(x).all()
    result = RESULTS.where(still, RESULTS.converged, RESULTS.step_limit)
    return RESULTS.where(finite, result, RESULTS.nonfinite)


class GradientDescent(AbstractMethod):
    r"""Follow the negative gradient.

    $$x \leftarrow P(x - \eta \nabla E(x))$$

    With `backtracking` the energy never rises: a step is taken only where
    $E(x') \le E(x) - 10^{-4} \|x' - x\|^2 / \eta$; otherwise $\eta$ is halved, which counts as a
    step, and after a step it doubles again up to `step_size`. It ends as converged also where no
    step that floats can represent lowers the energy.

    **Arguments:**

    - `step_size`: $\eta$, > 0, in units of the state over its gradient; trainable. With
      `backtracking` the largest step tried.
    - `backtracking`: whether to search the step size.

    **Raises:** `ValueError` unless `step_size` is a finite positive scalar.

    **Reference:** Armijo 1966, Pacific J. Math. 16, 1, with the projected step of Bertsekas 1976.
    """

    step_size: Float[Array, ""] = eqx.field(converter=positive_field("step_size"), default=0.1)
    backtracking: bool = eqx.field(static=True, default=False)

    def run(
        self, problem: Problem, x0: Array, max_steps: int, tol: Array, save_every: int | None
    ) -> Recall:
        """Descend from `x0`, see `AbstractMethod`."""
        largest = self.step_size.astype(x0.dtype)

        def step(s: _Carry) -> _Carry:
            x = problem.move(s.x, s.grad, s.step_size)
            energy, grad = problem.value_and_grad(x)
            result = _judge(problem, x, energy, grad, tol)
            if not self.backtracking:
                return _Carry(x, energy, grad, s.step_size, s.steps + 1, result)
            kept = _fell(problem, s, x, energy, grad)
            stuck = (x == s.x).all()
            result = RESULTS.where(kept, result, RESULTS.step_limit)
            result = RESULTS.where(stuck, RESULTS.converged, result)
            size = jnp.where(kept, jnp.minimum(2 * s.step_size, largest), s.step_size / 2)
            x, energy, grad = jax.tree.map(
                lambda new, old: jnp.where(kept, new, old),
                (x, energy, grad),
                (s.x, s.energy, s.grad),
            )
            return _Carry(x, energy, grad, size, s.steps + 1, result)

        start = _start(problem, x0, tol, largest)
        end, kept = iterate(step, start, max_steps, save_every, differentiable=True)
        return Recall(end.x, end.energy, end.steps, end.result, kept)


def _fell(problem: Problem, s: _Carry, x: Array, energy: Array, grad: Array) -> Array:
    """Whether the step from `s` to `x` is kept by the search for a step size."""
    fall = 1e-4 * jnp.sum((x - s.x) ** 2) / s.step_size
    if problem.field is not None:  # its slope is not known: any fall will do
        fall = jnp.zeros_like(fall)
    kept = energy <= s.energy - fall.astype(energy.dtype)
    # A fall within rounding proves nothing: then the step must not pass the minimum.
    rounding = 4 * jnp.finfo(energy.dtype).eps * jnp.abs(s.energy)
    short = jnp.sum(grad * (x - s.x)) <= 0
    return kept & ((s.energy - energy > rounding) | short)


class CCCP(AbstractMethod):
    r"""Take unit steps: the concave-convex procedure for the convex part $\frac12\|x\|^2$.

    $$x \leftarrow P(x - \nabla E(x))$$

    It applies to energies $E(x) = \frac12\|x\|^2 + \text{concave}$: each step then minimises an
    upper bound that touches $E$ at $x$, so the energy falls for any start, without a step size,
    and on any closed constraint set. The energy is watched: a step that raises it beyond rounding
    is undone, and ends the recall with `RESULTS.ascent`.

    **Reference:** Yuille and Rangarajan 2003, Neural Comput. 15, 915; for this form Ramsauer et
    al. 2021, Theorem 1.
    """

    def run(
        self, problem: Problem, x0: Array, max_steps: int, tol: Array, save_every: int | None
    ) -> Recall:
        """Descend from `x0`, see `AbstractMethod`."""

        def step(s: _Carry) -> _Carry:
            x = problem.move(s.x, s.grad)
            energy, grad = problem.value_and_grad(x)
            scale = jnp.abs(energy) + jnp.abs(s.energy) + 0.5 * jnp.sum(x * x).astype(energy.dtype)
            rose = energy - s.energy > 100 * jnp.finfo(x.dtype).eps * scale
            result = _judge(problem, x, energy, grad, tol)
            result = RESULTS.where(rose, RESULTS.ascent, result)
            x, energy, grad = jax.tree.map(
                lambda new, old: jnp.where(rose, old, new),
                (x, energy, grad),
                (s.x, s.energy, s.grad),
            )
            return _Carry(x, energy, grad, s.step_size, s.steps + 1, result)

        start = _start(problem, x0, tol, jnp.ones((), x0.dtype))
        end, kept = iterate(step, start, max_steps, save_every, differentiable=True)
        return Recall(end.x, end.energy, end.steps, end.result, kept)
