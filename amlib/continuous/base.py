"""Continuous associative memories: write `energy`, get update, recall and its derivative."""

import abc
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._types import Scalar
from amlib.descent import flows
from amlib.descent.plan import scalar_output
from amlib.descent.stationary import Projection
from amlib.descent.trajectory import Recall


class AbstractContinuousAM(eqx.Module):
    r"""A memory over real-valued states: everything but the energy, and no fields.

    Subclass it for an energy with no pattern matrix, and define `energy`; with stored patterns,
    subclass `ContinuousAM`. States may have any shape that the energy takes. One state per call:
    batches go through `jax.vmap`, which turns the products with patterns into matrix products.

    A model whose energy is $\frac12\|x\|^2$ plus a concave function says so by
    `unit_step: ClassVar[bool] = True`; its recall is then the CCCP by default.

    Half-precision models and states (float16, bfloat16) are a storage format: recall computes in
    float32 and returns states in the stored dtype.
    """

    unit_step: ClassVar[bool] = False

    @abc.abstractmethod
    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of a state: the only method to write.

        **Arguments:**

        - `x`: a real state.

        **Returns:** a real scalar. Recall lowers it.
        """

    def update(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        r"""The direction in which the energy falls fastest.

        $$-\nabla E(x)$$

        **Arguments:**

        - `x`: a real state.

        **Returns:** minus the gradient, in the shape of `x`.

        **Raises:** `ValueError` for a wrong shape.
        """
        return _update(self, _state(self, x, "update"))

    def retrieve(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        r"""One step of the closed-form update of this memory: the unit step.

        $$x - \nabla E(x)$$

        For `ModernHopfield` that is $\Xi^\top \mathrm{softmax}(\beta \Xi x)$, and so on.

        **Arguments:**

        - `x`: a real state.

        **Returns:** the state after the step.

        **Raises:** `ValueError` for a wrong shape, and for a model that has no such update.
        """
        if not self.unit_step:
            name = type(self).__name__
            raise ValueError(
                f"retrieve: the energy must have the convex part 0.5*||x||^2, so that its unit "
                f"step is an update; {name} does not say so. Use recall(x), or set "
                f"`unit_step: ClassVar[bool] = True` in {name} if it does."
            )
        x = _state(self, x, "retrieve")
        return x + _update(self, x)

    def recall(
        self,
        x0: Shaped[ArrayLike, "*shape"],
        *,
        method: Any = None,
        max_steps: int = 1000,
        tol: Any = None,
        project: Projection | None = None,
        save_every: int | None = None,
    ) -> Recall:
        r"""Lower the energy from `x0` until the state rests.

        $$\max_i |P(x - \nabla E(x)) - x|_i \le \text{tol}$$

        **Arguments:**

        - `x0`: the starting state.
        - `method`: `GradientDescent(...)`, `CCCP()`, `Flow(...)` or `FixedPoint(...)`, see
          `amlib.descent.flows`. `None` takes `CCCP()` for models with unit steps, and
          `GradientDescent(1.0, backtracking=True)` for all others.
        - `max_steps`: the step limit, at least 1.
        - `tol`: see above, in units of the state; `None` means the square root of the precision,
          3.5e-4 in float32 and 1.5e-8 in float64.
        - `project`: keeps the state on a set: `Box(low, high)`, `Sphere(radius)`, or any function
          from a state to the nearest allowed state.
        - `save_every`: keep the state and the energy every so many steps; `None` keeps nothing.

        **Returns:** a `Recall` with `x`, `energy`, `steps`, `result` and, where `save_every` was
        given, `trajectory`. A recall that does not converge says so in `result`.

        **Raises:** `ValueError` for a wrong shape, a state that is not finite, a limit below 1;
        `TypeError` for a method of another kind.
        """
        x0 = _state(self, x0, "recall")
        x0 = checks.finite(x0, "recall: x0")
        if method is None:
            method = flows.CCCP() if self.unit_step else flows.GradientDescent(1.0, True)
        return _recall(self, x0, method, (max_steps, save_every), tol, project)


class ContinuousAM(AbstractContinuousAM):
    """A continuous memory with stored patterns. Subclass it and define `energy`.

    ```python
    class MHN(am.ContinuousAM):
        def energy(self, x):
            return 0.5 * jnp.sum(x**2) - jax.nn.logsumexp(self.Xi @ x)
    ```

    **Arguments:**

    - `Xi`: stored patterns, one per row, of shape `(K, D)`; image-shaped patterns `(K, H, W)`
      make image-shaped states. Bools become spins, integers become floats of the same value.

    **Raises:** `TypeError` if `energy` is missing; `ValueError` if `Xi` has no pattern, has
    fewer than two axes, or holds NaN or infinity.
    """

    Xi: Float[Array, "K *shape"] = eqx.field(converter=checks.patterns)

    def __check_init__(self):
        checks.pattern_matrix(self.Xi)


# -- compiled entry points: compiled once per shape and kind of model --------------------------


@eqx.filter_jit
def _update(model: AbstractContinuousAM, x: Array) -> Array:
    wide, x_wide = checks.widen((model, x))
    scalar_output(wide.energy, x_wide)
    return -jax.grad(wide.energy)(x_wide).astype(x.dtype)


@eqx.filter_jit
def _recall(
    model: AbstractContinuousAM,
    x0: Array,
    method: Any,
    limits: tuple[int, int | None],
    tol: Any,
    project: Projection | None,
) -> Recall:
    wide, x, project = checks.widen((model, x0, project))
    end = flows.descend(
        wide.energy,
        x,
        method,
        max_steps=limits[0],
        tol=tol,
        project=project,
        save_every=limits[1],
    )
    return eqx.tree_at(lambda r: r.x, end, end.x.astype(x0.dtype))


def _state(model: AbstractContinuousAM, x: Any, where: str) -> Array:
    """A state as the model's floats; raise unless it has the right shape."""
    x = checks.as_float(x, f"{where}: x")
    if isinstance(model, ContinuousAM):
        checks.state_shape(x, model.Xi.shape[1:], where)
        return x.astype(model.Xi.dtype)
    if x.size == 0:
        raise ValueError(f"{where}: the state must have at least one unit; {x.shape} came.")
    return x
