"""Losses for the classifier, with the signature that `fit` wants."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from amlib import _checks as checks
from amlib._types import Scalar
from amlib.learning._pictures import class_numbers
from amlib.learning.classifier import DenseAMClassifier


class PowerLoss(eqx.Module):
    r"""The published loss: a high power of what is wrong with each label.

    $$C = \frac{1}{B} \sum_{\text{pictures}} \sum_a |c_a - t_a|^{2m}, \qquad t_a = \pm 1$$

    A loss for `amlib.fit`, with data `(images, labels)`.

    **Arguments:**

    - `m`: half the power, 1 to 60. Larger values look at the worst labels only.

    **Raises:** `ValueError` for `m` out of range; `TypeError` if it is no integer.

    **Reference:** Krotov and Hopfield 2016, eq. 14 (there a sum over the batch, here the mean).
    """

    m: int = eqx.field(static=True, converter=lambda m: checks.integer(m, 1, "PowerLoss: m"))

    def __check_init__(self):
        if self.m > 60:  # 2^120 is still a float32, with room for the sums
            raise ValueError(f"PowerLoss: m must be at most 60; {self.m} came.")

    def __call__(self, model: DenseAMClassifier, batch: Any, key: Any = None) -> Scalar:
        """The loss of a batch `(images, labels)`; `key` is not used."""
        del key
        images, labels = batch
        s = model.sums(images)
        t = 2 * jax.nn.one_hot(labels, model.classes, dtype=s.dtype) - 1
        return jnp.mean(jnp.sum((jnp.tanh(s) - t) ** (2 * self.m), axis=1))

    def check(self, model: Any, data: Any) -> None:
        """Raise unless data are pictures for `model` and their classes."""
        _check_data(model, data, "PowerLoss")


class LabelCrossEntropy(eqx.Module):
    r"""The cross-entropy of the classes.

    $$C = -\frac{1}{B} \sum_{\text{pictures}} \log \operatorname{softmax}(2 s)_{\text{label}}$$

    A loss for `amlib.fit`, with data `(images, labels)`; see `DenseAMClassifier.predict_proba`.
    Krotov and Hopfield 2016 (appendix A) report that cross-entropy did worse than theirs.
    """

    def __call__(self, model: DenseAMClassifier, batch: Any, key: Any = None) -> Scalar:
        """The loss of a batch `(images, labels)`; `key` is not used."""
        del key
        images, labels = batch
        logs = jax.nn.log_softmax(2 * model.sums(images), axis=1)
        return -jnp.mean(jnp.take_along_axis(logs, labels[:, None].astype(jnp.int32), axis=1))

    def check(self, model: Any, data: Any) -> None:
        """Raise unless data are pictures for `model` and their classes."""
        _check_data(model, data, "LabelCrossEntropy")


def _check_data(model: Any, data: Any, where: str) -> None:
    if not isinstance(model, DenseAMClassifier):
        raise TypeError(f"{where}: trains a DenseAMClassifier; {type(model).__name__} came.")
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise TypeError(f"{where}: data must be (images, labels); {type(data).__name__} came.")
    v, single = model._pictures(data[0], where)
    if single:
        raise ValueError(f"{where}: images must be a batch; one picture came.")
    class_numbers(data[1], len(v), model.classes, f"{where}: labels")
