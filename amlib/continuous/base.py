"""Continuous associative memories: write `energy`, get update, recall and its derivative."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._types import Scalar, hook
from amlib.descent.gradients import CCCP, GradientDescent
from amlib.descent.methods import AbstractMethod
from amlib.descent.plan import scalar_output
from amlib.memory import AbstractMemory, Asked
from amlib.spaces import AbstractReals, Reals, as_reals

# Keywords of the other families, and what is said here.
_ELSEWHERE = {
    **dict.fromkeys(("steps", "max_sweeps", "nsteps"), "The step limit is max_steps=."),
    "dt": "A step size is one of method=GradientDescent(step_size), or Euler(dt).",
    "order": "All units of a real state move at once: choose a method=.",
    "record": "What the trajectory keeps is save_every=.",
    "beta": "The inverse temperature is a field of the model; method=Langevin(beta) draws states.",
}


_CCCP = CCCP()


class AbstractContinuousAM(AbstractMemory):
    r"""A memory over real-valued states: everything but the energy, and no fields.

    Subclass it for an energy with no pattern matrix, and define `energy`; with stored patterns,
    subclass `ContinuousAM`. States may have any shape that the energy takes. One state per call:
    batches go through `jax.vmap`, which turns the products with patterns into matrix products.

    A model whose energy is $\frac12\|x\|^2$ plus a concave function says so by
    `unit_step: ClassVar[bool] = True`; its recall is then the CCCP by default.

    Half-precision models and states (float16, bfloat16) are a storage format: recall computes in
    float32 and returns states in the stored dtype.
    """

    space: ClassVar[AbstractReals] = Reals()  # pyright: ignore[reportIncompatibleVariableOverride]
    unit_step: ClassVar[bool] = False

    @abc.abstractmethod
    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of a state: the only method to write.

        **Arguments:**

        - `x`: a real state.

        **Returns:** a real scalar. Recall lowers it.
        """

    def default_method(self) -> AbstractMethod:
        """`CCCP()` for models with unit steps, else `GradientDescent(1.0, backtracking=True)`."""
        return _CCCP if self.unit_step else GradientDescent(1.0, True)

    def update(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        r"""The direction in which the energy falls fastest.

        $$-\nabla E(x)$$

        **Arguments:**

        - `x`: a real state.

        **Returns:** minus the gradient, in the shape of `x`.

        **Raises:** `ValueError` for a wrong shape.
        """
        return _update(self, type(self)._state(self, x, "update", check=False))

    def retrieve(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        r"""One step of the closed-form update of this memory: the unit step.

        $$x - \nabla E(x)$$

        For `ModernHopfield` that is $\Xi^\top \mathrm{softmax}(\beta \Xi x)$, and so on. Where the
        convex part of the energy is another, as in `HopfieldFenchelYoung`, it is its own step.

        **Arguments:**

        - `x`: a real state.

        **Returns:** the state after the step.

        **Raises:** `ValueError` for a wrong shape, and for a model that has no such update.
        """
        check_unit_step(self)
        return type(self)._step(self, type(self)._state(self, x, "retrieve", check=False))

    @hook
    def _step(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The unit step from a state."""
        return x + _update(self, x)

    _words: ClassVar[tuple[str, ...]] = ("project",)
    _elsewhere: ClassVar[dict[str, str]] = _ELSEWHERE

    def _in_the_verb(self, words: dict[str, Any], asked: Asked) -> Asked:
        """`project`, a function or a space of reals, is the space of this recall."""
        project = words["project"]
        if project is None:
            return asked
        return dataclasses.replace(asked, space=as_reals(project))


def check_unit_step(memory: AbstractContinuousAM) -> None:
    """Raise unless a memory says that its unit step is an update."""
    if not memory.unit_step:
        name = type(memory).__name__
        raise ValueError(
            f"retrieve: the energy must have the convex part 0.5*||x||^2, so that its unit "
            f"step is an update; {name} does not say so. Use recall(x), or set "
            f"`unit_step: ClassVar[bool] = True` in {name} if it does."
        )


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

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: those of a pattern."""
        return jax.ShapeDtypeStruct(self.Xi.shape[1:], self.Xi.dtype)

    # -- the energy of parts of the patterns, see `OnDisk` -----------------------------------------

    @hook
    def _free_energy(self, x: Float[Array, "*shape"]) -> Scalar:
        r"""The energy without its constant: of parts of the patterns, $e^{-\beta F}$ adds up."""
        return self.energy(x)

    @hook
    def _constant(self, K: int, largest: Scalar) -> Scalar:
        """The rest of the energy: of the number of patterns and their largest squared norm."""
        del K
        return jnp.zeros_like(largest)


# -- compiled entry points: compiled once per shape and kind of model --------------------------


@compiled
def _update(model: AbstractContinuousAM, x: Array) -> Array:
    wide, x_wide = checks.widen((model, x))
    scalar_output(wide.energy, x_wide)
    return -jax.grad(wide.energy)(x_wide).astype(x.dtype)
