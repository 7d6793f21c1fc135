"""What a loss is: a mean over a batch, which `fit` lowers.

A function `loss(model, batch, key)` is one, and so is an `AbstractLoss`. Not every loss is lowered
along its derivative: those that bring something in its place, as contrastive divergence and Hebbian
updates do, subclass `AbstractGradientLoss`; if they also carry something from batch to batch,
`AbstractStatefulLoss`.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, PyTree

from amlib import _show as show
from amlib._types import Key, Scalar, hook


class AbstractLoss(eqx.Module):
    """A loss for `fit`, which differentiates it. Subclass it and define `__call__`.

    ```python
    class Quantile(am.learning.AbstractLoss):
        q: float = 0.5

        def __call__(self, model, batch, key):
            x, target = batch
            error = target - jax.vmap(model)(x)
            return jnp.mean(jnp.maximum(self.q * error, (self.q - 1) * error))

        def check(self, model, data):                    # optional: once, before the training
            if not 0 < self.q < 1:
                raise ValueError(f"Quantile: q must lie in (0, 1); {self.q} came.")
    ```

    A loss that needs no settings and no `check` may be a plain function. Arrays among the fields of
    a loss are not trained; they may change without compiling anew.
    """

    __repr__ = show.text

    @abc.abstractmethod
    def __call__(self, model: PyTree, batch: PyTree[Array], key: Key) -> Scalar:
        """The loss: a mean over the batch.

        **Arguments:**

        - `model`: what is trained.
        - `batch`: some of the data, in their structure.
        - `key`: for noise; another one for each batch.

        **Returns:** a real scalar.
        """

    @hook
    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise on a model or on data that the loss cannot take; by default it takes all.

        `fit` calls it before the training, on all data: what it needs to know of their values
        cannot be asked in `__call__`, which is compiled.

        **Arguments:**

        - `model`: as it is before the training.
        - `data`: the training data, and once more the validation data, if there are any.
        """


class AbstractGradientLoss(AbstractLoss):
    """A loss with something that takes the place of its derivative.

    `__call__` is its value over the validation data.
    """

    @abc.abstractmethod
    def value_and_grad(
        self, model: PyTree, batch: PyTree[Array], key: Key
    ) -> tuple[Scalar, PyTree]:
        """The loss, and what an optimiser is to take for its gradient.

        **Arguments:**

        - `model`, `batch`, `key`: as for a call.

        **Returns:** the loss, and the gradient, in the structure of
        `equinox.filter(model, equinox.is_inexact_array)`.
        """


class AbstractStatefulLoss(AbstractLoss):
    """A loss with a gradient of its own, for which arrays are carried from batch to batch.

    `__call__` is its value over the validation data.
    """

    @abc.abstractmethod
    def initial_state(self, model: PyTree, data: PyTree[Array], key: Key) -> PyTree[Array]:
        """What the first batch gets.

        **Arguments:**

        - `model`: as it is before the training.
        - `data`: the training data.
        - `key`: for what is drawn at random.

        **Returns:** arrays, whose shapes stay.
        """

    @abc.abstractmethod
    def value_and_grad(
        self, model: PyTree, batch: PyTree[Array], key: Key, state: PyTree[Array]
    ) -> tuple[tuple[Scalar, PyTree], PyTree[Array]]:
        """The loss and what an optimiser is to take for its gradient; and what is carried on.

        **Arguments:**

        - `model`, `batch`, `key`: as for a call.
        - `state`: what the batch before left.

        **Returns:** the loss and the gradient, see `AbstractGradientLoss`; and what the next
        batch gets.
        """


class FunctionLoss(AbstractLoss):
    """A function as a loss."""

    function: Callable[..., ArrayLike]

    def __call__(self, model: PyTree, batch: PyTree[Array], key: Key) -> Scalar:
        """What the function returns."""
        return scalar(self.function(model, batch, key), "fit: loss")


def as_loss(loss: AbstractLoss | Callable[..., ArrayLike]) -> AbstractLoss:
    """A loss from what users give to `fit`."""
    if isinstance(loss, AbstractLoss):
        return loss
    if isinstance(loss, type) or not callable(loss):
        came = f"the class {loss.__name__}" if isinstance(loss, type) else type(loss).__name__
        raise TypeError(
            "fit: loss must be a function loss(model, batch, key), or an AbstractLoss such as "
            f"am.learning.CrossEntropy(); {came} came."
        )
    return FunctionLoss(loss)


def scalar(value: ArrayLike, where: str) -> Scalar:
    """Return the value of a loss or a metric as a float; raise unless it is one real number."""
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"{where} must be one number per batch; shape {value.shape} came. "
            "Take the mean over the batch: jnp.mean(...)."
        )
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{where} must be real; {value.dtype} came.")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(jnp.result_type(float))
    return value
