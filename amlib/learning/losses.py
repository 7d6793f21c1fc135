"""Ready losses for `fit`: cross-entropy, reconstruction, denoising through recall.

Each is called as `loss(model, batch, key)` and returns a mean over the batch. Contrastive
divergence and equilibrium propagation, which bring gradients of their own, are in
`amlib.learning.contrastive`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.continuous import AbstractContinuousAM
from amlib.descent.methods import descend
from amlib.learning._epochs import length


def cross_entropy(predictions: Any, labels: Any, *, probabilities: bool = False) -> Scalar:
    r"""The mean cross-entropy of predicted classes and labels, in nats.

    $$-\frac{1}{N} \sum_i \log p_i[\text{label}_i], \qquad p = \mathrm{softmax}(\text{logits})$$

    **Arguments:**

    - `predictions`: logits over C classes, `(..., C)`, or with `probabilities` their probabilities
      in [0, 1], of which those below the smallest normal float count as that.
    - `labels`: integers in [0, C), of shape `(...)`.
    - `probabilities`: what `predictions` are.

    **Returns:** a scalar of at least 0. Inside `jax.jit` a label out of range makes it NaN; outside
    it raises, and so does `fit` with the loss `CrossEntropy`.

    **Raises:** `ValueError` for labels out of range or shapes that do not fit; `TypeError` for
    labels that are no integers.
    """
    p = checks.as_float(predictions, "cross_entropy: predictions")
    labels = _labels(labels, p, "cross_entropy")
    valid = (labels >= 0) & (labels < p.shape[-1])
    if probabilities:
        log_p = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
    else:
        log_p = jax.nn.log_softmax(p, axis=-1)
    at = jnp.where(valid, labels, 0)[..., None]
    found = jnp.take_along_axis(log_p, at, axis=-1)[..., 0]
    return -jnp.mean(jnp.where(valid, found, jnp.nan))


def accuracy(predictions: Any, labels: Any) -> Scalar:
    """The share of examples whose largest prediction is at the label.

    **Arguments:**

    - `predictions`: logits or probabilities over C classes; the first of equal ones counts.
    - `labels`: integers in [0, C).

    **Returns:** a scalar in [0, 1]; the error rate is 1 minus it.

    **Raises:** as `cross_entropy`.
    """
    p = checks.as_float(predictions, "accuracy: predictions")
    labels = _labels(labels, p, "accuracy")
    return jnp.mean((jnp.argmax(p, axis=-1) == labels).astype(p.dtype))


def _labels(labels: Any, predictions: Array, where: str) -> Array:
    """Labels as int32; raise unless they fit the predictions."""
    try:
        labels = jnp.asarray(labels)
    except (TypeError, ValueError) as err:
        raise TypeError(f"{where}: labels must be integers; {type(labels).__name__} came.") from err
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(
            f"{where}: labels must be integers; {labels.dtype} came. "
            "One-hot rows become labels by .argmax(-1)."
        )
    if predictions.ndim == 0 or labels.shape != predictions.shape[:-1]:
        raise ValueError(
            f"{where}: labels must have shape {predictions.shape[:-1]}, one per row of "
            f"predictions; {labels.shape} came."
        )
    if checks.is_concrete(labels):
        in_range(labels, predictions.shape[-1], f"{where}: labels")
    return labels.astype(jnp.int32)


def in_range(labels: Any, C: int, where: str) -> None:
    """Raise unless all labels are in [0, C)."""
    values = np.asarray(labels)
    if values.size and not 0 <= values.min() <= values.max() < C:
        raise ValueError(
            f"{where} must lie in [0, {C}); {values.min()} to {values.max()} came. "
            "Labels that count from 1 become labels - 1."
        )


class CrossEntropy(eqx.Module):
    """Cross-entropy as a loss for `fit`, over batches `(x, labels)`.

    `fit` calls its `check` before the training, so that labels out of range are an error at once.

    **Arguments:**

    - `predict`: from a model and one example `x` to predictions over the classes; `None` calls the
      model.
    - `probabilities`: whether predictions are probabilities and not logits.
    """

    predict: Callable[[Any, Array], Array] | None = eqx.field(static=True, default=None)
    probabilities: bool = eqx.field(static=True, default=False)

    def __call__(self, model: Any, batch: Any, key: Key) -> Scalar:
        """The mean over the batch; see `cross_entropy`."""
        x, labels = batch
        predictions = jax.vmap(lambda x: _apply(self.predict, model, x))(x)
        return cross_entropy(predictions, labels, probabilities=self.probabilities)

    def check(self, model: Any, data: Any) -> None:
        """Raise unless all labels of the data are in range."""
        x, labels = _pair(data, "CrossEntropy")
        one = jax.tree.map(lambda a: a[0], x)
        out = eqx.filter_eval_shape(lambda m, x: _apply(self.predict, m, x), model, one)
        if out.ndim != 1:
            raise ValueError(
                f"CrossEntropy: predictions for one example must have shape (C,); {out.shape} came."
            )
        if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim != 1:
            raise TypeError(
                f"CrossEntropy: labels must be one integer per example; "
                f"{labels.dtype}{list(labels.shape)} came."
            )
        in_range(labels, out.shape[0], "CrossEntropy: labels")


class Reconstruction(eqx.Module):
    r"""How far a model's output is from what it shall be.

    $$\frac{1}{N D} \sum_{i, d} |f(x_i)_d - t_{i, d}|^p$$

    Batches are pairs `(x, t)`, or arrays `x` that stand for `(x, x)`.

    **Arguments:**

    - `apply`: the output $f$, from a model and one `x`; `None` calls the model.
    - `power`: p, at least 1. 2 is the mean squared error, 1 the mean absolute one.
    """

    apply: Callable[[Any, Array], Array] | None = eqx.field(static=True, default=None)
    power: float | int = eqx.field(static=True, default=2)

    def __check_init__(self):
        checks.at_least(self.power, 1, "Reconstruction: power")

    def __call__(self, model: Any, batch: Any, key: Key) -> Scalar:
        """The mean over the batch."""
        x, target = batch if isinstance(batch, tuple | list) else (batch, batch)
        output = jax.vmap(lambda x: _apply(self.apply, model, x))(x)
        return _distance(output, target, self.power, "Reconstruction")


class Denoising(eqx.Module):
    r"""How far recall ends from a pattern that it started near.

    $$\frac{1}{N D} \sum_{i, d} |\mathrm{recall}(\text{corrupt}(x_i))_d - x_{i, d}|^p$$

    Batches are arrays of clean examples. Each is spoilt afresh every time. The derivative goes
    through recall: through its steps for `GradientDescent` and `CCCP` (unrolled: memory grows with
    their number), and by the implicit function theorem for `FixedPoint` and `Flow`.

    ```python
    noise = lambda key, x: am.data.corrupt.add_gaussian(key, x, 0.3)
    loss = am.learning.Denoising(noise, method=am.FixedPoint())
    ```

    **Arguments:**

    - `corrupt`: from a key and one clean example to a spoilt one.
    - `method`, `max_steps`, `tol`, `project`: how a `ContinuousAM` recalls, see its `recall`.
    - `apply`: recall for other models: from a model and a spoilt example to a state.
    - `power`: p, at least 1.
    """

    corrupt: Callable[[Any, Array], Array] = eqx.field(static=True)
    method: Any = None
    max_steps: int = eqx.field(static=True, default=100)
    tol: Any = None
    project: Any = None
    apply: Callable[[Any, Array], Array] | None = eqx.field(static=True, default=None)
    power: float | int = eqx.field(static=True, default=2)

    def __check_init__(self):
        checks.at_least(self.power, 1, "Denoising: power")
        checks.integer(self.max_steps, 1, "Denoising: max_steps")

    def __call__(self, model: Any, batch: Any, key: Key) -> Scalar:
        """The mean over the batch."""
        noisy = jax.vmap(self.corrupt)(jr.split(key, length(batch)), batch)
        output = jax.vmap(lambda x: self._recalled(model, x))(noisy)
        return _distance(output, batch, self.power, "Denoising")

    def _recalled(self, model: Any, x: Array) -> Array:
        if self.apply is not None:
            return self.apply(model, x)
        if not isinstance(model, AbstractContinuousAM):
            raise TypeError(
                f"Denoising: the model must be a ContinuousAM; {type(model).__name__} came. "
                "Say how it recalls: Denoising(corrupt, apply=lambda model, x: ...)."
            )
        # Not model.recall: its check for NaN would run in every step of the training.
        return descend(
            model.energy,
            x,
            model.default_method() if self.method is None else self.method,
            space=model.space if self.project is None else self.project,
            max_steps=self.max_steps,
            tol=self.tol,
        ).x


def _apply(function: Callable[[Any, Array], Array] | None, model: Any, x: Array) -> Array:
    return model(x) if function is None else function(model, x)


def _distance(output: Array, target: Array, power: float | int, where: str) -> Array:
    if output.shape != target.shape:
        raise ValueError(
            f"{where}: outputs must have the targets' shape {target.shape[1:]}; "
            f"{output.shape[1:]} came."
        )
    difference = jnp.abs(output - target)
    if power == 1:
        return difference.mean()
    # x**2 and not abs(x)**2.0: the derivative of abs at 0 is no trouble then.
    return jnp.mean((output - target) ** 2 if power == 2 else difference**power)


def _pair(data: Any, where: str) -> tuple[Any, Any]:
    if not isinstance(data, tuple | list) or len(data) != 2:
        raise ValueError(f"{where}: data must be a pair (x, labels); {type(data).__name__} came.")
    return data[0], data[1]
