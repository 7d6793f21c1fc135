"""Ready losses for `fit`: cross-entropy, regression, denoising through recall, masked patches, the
power loss.

Each is called as `loss(model, batch, key)` and returns a mean over the batch. Contrastive
divergence and equilibrium propagation, which bring gradients of their own, are in
`amlib.learning.contrastive`.
"""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, Int, PyTree

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.continuous import AbstractContinuousAM
from amlib.descent.methods import AbstractMethod, descend
from amlib.hierarchical import patches
from amlib.learning._examples import length
from amlib.learning._pictures import class_numbers
from amlib.learning.base import AbstractLoss
from amlib.learning.classifier import DenseAMClassifier

Predict = Callable[[PyTree, Array], Array]
"""From a model and one example to what the model makes of it."""


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> Scalar:
    """The share of examples whose largest prediction is at the label.

    **Arguments:**

    - `predictions`: logits or probabilities over C classes; the first of equal ones counts.
    - `labels`: integers in [0, C).

    **Returns:** a scalar in [0, 1]; the error rate is 1 minus it.

    **Raises:** `ValueError` for labels out of range or shapes that do not fit; `TypeError` for
    labels that are no integers.
    """
    p = checks.as_float(predictions, "accuracy: predictions")
    labels = _labels(labels, p, "accuracy")
    return jnp.mean((jnp.argmax(p, axis=-1) == labels).astype(p.dtype))


def _labels(labels: ArrayLike, predictions: Array, where: str) -> Int[Array, "..."]:
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
    if not checks.is_traced(labels):
        _in_range(labels, predictions.shape[-1], f"{where}: labels")
    return labels.astype(jnp.int32)


def _in_range(labels: Array, C: int, where: str) -> None:
    """Raise unless all labels are in [0, C)."""
    values = checks.known(labels)
    if values is None or not values.size:
        return
    low, high = int(values.min()), int(values.max())
    if not 0 <= low <= high < C:
        raise ValueError(
            f"{where} must lie in [0, {C}); {low} to {high} came. "
            "Labels that count from 1 become labels - 1."
        )


class CrossEntropy(AbstractLoss):
    r"""The cross-entropy of predicted classes and labels, in nats.

    $$-\frac{1}{N} \sum_i \log p_i[\text{label}_i], \qquad p = \mathrm{softmax}(\text{logits})$$

    Batches are pairs `(x, labels)`, with integers in [0, C) for labels. `fit` checks them before
    the training; a label out of range that is seen only later makes the loss NaN.

    ```python
    loss = am.learning.CrossEntropy(am.learning.DenseAMClassifier.logits, batched=True)
    ```

    **Arguments:**

    - `predict`: from a model and one example `x` to predictions over C classes; `None` calls the
      model.
    - `probabilities`: whether predictions are probabilities and not logits. Those below the
      smallest normal float count as that.
    - `batched`: whether `predict` takes a batch and returns one row per example.

    **Raises:** by `check`, `ValueError` for labels out of range or predictions that are no vector
    for each example; `TypeError` for labels that are no integers.
    """

    predict: Predict | None = eqx.field(static=True, default=None)
    probabilities: bool = eqx.field(static=True, default=False)
    batched: bool = eqx.field(static=True, default=False)

    def __call__(self, model: PyTree, batch: tuple[PyTree, ArrayLike], key: Key) -> Scalar:
        """The mean over the batch."""
        x, labels = batch
        p = checks.as_float(self._predictions(model, x), "CrossEntropy: predictions")
        labels = _labels(labels, p, "CrossEntropy")
        if self.probabilities:
            log_p = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
        else:
            log_p = jax.nn.log_softmax(p, axis=-1)
        valid = (labels >= 0) & (labels < p.shape[-1])
        at = jnp.where(valid, labels, 0)[..., None]
        found = jnp.take_along_axis(log_p, at, axis=-1)[..., 0]
        return -jnp.mean(jnp.where(valid, found, jnp.nan))

    def _predictions(self, model: PyTree, x: PyTree) -> Array:
        if self.batched:
            return _apply(self.predict, model, x)
        return jax.vmap(lambda x: _apply(self.predict, model, x))(x)

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise unless all labels of the data are in range, and the model takes an example."""
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise ValueError(
                f"CrossEntropy: data must be a pair (x, labels); {type(data).__name__} came."
            )
        x, labels = data
        # Not under `vmap` or `jit`: what the model checks of an example's values is checked too.
        one = jax.tree.map(lambda a: a[:1] if self.batched else a[0], x)
        shape = _apply(self.predict, model, one).shape
        if self.batched and shape[:1] == (1,):
            shape = shape[1:]
        if len(shape) != 1:
            raise ValueError(
                f"CrossEntropy: predictions for one example must have shape (C,); {shape} came."
            )
        if not jnp.issubdtype(labels.dtype, jnp.integer) or labels.ndim != 1:
            raise TypeError(
                f"CrossEntropy: labels must be one integer per example; "
                f"{labels.dtype}{list(labels.shape)} came."
            )
        _in_range(labels, shape[0], "CrossEntropy: labels")


class PowerLoss(AbstractLoss):
    r"""The published loss of the classifier: a high power of what is wrong with each label.

    $$C = \frac{1}{B} \sum_{\text{pictures}} \sum_a |c_a - t_a|^{2m}, \qquad t_a = \pm 1$$

    It trains a `DenseAMClassifier`; data are `(images, labels)`. Krotov and Hopfield 2016
    (appendix A) report that `CrossEntropy` did worse.

    **Arguments:**

    - `m`: half the power, 1 to 60. Larger values look at the worst labels only.

    **Raises:** `ValueError` for `m` out of range; `TypeError` if it is no integer.

    **Reference:** Krotov and Hopfield 2016, eq. 14 (there a sum over the batch, here the mean).
    """

    m: int = eqx.field(static=True, converter=lambda m: checks.integer(m, 1, "PowerLoss: m"))

    def __check_init__(self):
        if self.m > 60:  # 2^120 is still a float32, with room for the sums
            raise ValueError(f"PowerLoss: m must be at most 60; {self.m} came.")

    def __call__(
        self,
        model: DenseAMClassifier,
        batch: tuple[Float[Array, "B ..."], Int[Array, " B"]],
        key: Key | None = None,
    ) -> Scalar:
        """The loss of a batch `(images, labels)`; `key` is not used."""
        del key
        images, labels = batch
        s = model.sums(images)
        t = 2 * jax.nn.one_hot(labels, model.classes, dtype=s.dtype) - 1
        return jnp.mean(jnp.sum((jnp.tanh(s) - t) ** (2 * self.m), axis=1))

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise unless data are pictures for `model` and their classes."""
        if not isinstance(model, DenseAMClassifier):
            raise TypeError(f"PowerLoss: trains a DenseAMClassifier; {type(model).__name__} came.")
        if not isinstance(data, tuple | list) or len(data) != 2:
            raise TypeError(
                f"PowerLoss: data must be (images, labels); {type(data).__name__} came."
            )
        v, single = model._pictures(data[0], "PowerLoss")
        if single:
            raise ValueError("PowerLoss: images must be a batch; one picture came.")
        class_numbers(data[1], len(v), model.classes, "PowerLoss: labels")


class Regression(AbstractLoss):
    r"""How far a model's output is from what it shall be.

    $$\frac{1}{N D} \sum_{i, d} |f(x_i)_d - t_{i, d}|^p$$

    Batches are pairs `(x, t)`, or arrays `x` that stand for `(x, x)`.

    **Arguments:**

    - `apply`: the output $f$, from a model and one `x`; `None` calls the model.
    - `power`: p, at least 1. 2 is the mean squared error, 1 the mean absolute one.
    """

    apply: Predict | None = eqx.field(static=True, default=None)
    power: float | int = eqx.field(static=True, default=2)

    def __check_init__(self):
        checks.at_least(self.power, 1, "Regression: power")

    def __call__(self, model: PyTree, batch: Array | tuple[Array, Array], key: Key) -> Scalar:
        """The mean over the batch."""
        x, target = batch if isinstance(batch, tuple | list) else (batch, batch)
        output = jax.vmap(lambda x: _apply(self.apply, model, x))(x)
        return _distance(output, target, self.power, "Regression")


class Denoising(AbstractLoss):
    r"""How far recall ends from a pattern that it started near.

    $$\frac{1}{N D} \sum_{i, d} |\mathrm{recall}(\text{corrupt}(x_i))_d - x_{i, d}|^p$$

    Batches are arrays of clean examples. Each is corrupted afresh every time. The derivative goes
    through recall: through its steps for `GradientDescent` and `CCCP` (unrolled: memory grows with
    their number), and by the implicit function theorem for `FixedPoint` and `Flow`.

    ```python
    noise = lambda key, x: am.data.corrupt.add_gaussian(key, x, 0.3)
    loss = am.learning.Denoising(noise, method=am.FixedPoint())
    ```

    **Arguments:**

    - `corrupt`: from a key and one clean example to a corrupted one.
    - `method`, `max_steps`, `tol`, `project`: how a `ContinuousAM` recalls, see its `recall`.
    - `apply`: recall for other models: from a model and a corrupted example to a state.
    - `power`: p, at least 1.
    """

    corrupt: Callable[[Key, Array], Array] = eqx.field(static=True)
    method: AbstractMethod | None = None
    max_steps: int = eqx.field(static=True, default=100)
    tol: float | Scalar | None = None
    project: Callable[[Array], Array] | None = None
    apply: Predict | None = eqx.field(static=True, default=None)
    power: float | int = eqx.field(static=True, default=2)

    def __check_init__(self):
        checks.at_least(self.power, 1, "Denoising: power")
        checks.integer(self.max_steps, 1, "Denoising: max_steps")

    def __call__(self, model: PyTree, batch: Float[Array, "B *shape"], key: Key) -> Scalar:
        """The mean over the batch."""
        noisy = jax.vmap(self.corrupt)(jr.split(key, length(batch)), batch)
        output = jax.vmap(lambda x: self._recalled(model, x))(noisy)
        return _distance(output, batch, self.power, "Denoising")

    def _recalled(self, model: PyTree, x: Array) -> Array:
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


class MaskedPatches(AbstractLoss):
    r"""How well hidden patches are completed: the published loss of the Energy Transformer.

    $$\sqrt{\frac{1}{N D} \sum_i \sum_{d \in C_i} (f(x_i, M_i)_d - x_{i, d})^2}$$

    In every picture patches $M_i$ are hidden at random, and count with a few that are shown
    ($C_i$); the rest counts nothing, but is in the $D$ pixels of the mean. Batches are arrays of
    pictures.

    **Arguments:**

    - `patch`: the size of a patch, see `ImageEnergyTransformer`.
    - `hidden`, `shown`: how many patches are hidden, and how many others count, of each picture;
      `None` takes the published shares, 90 and 10 of 196.
    - `apply`: from a model, one picture and which of its patches are hidden (booleans, flat) to a
      picture; `None` calls the model.
    - `root`: whether the root is taken, as published; otherwise it is a mean squared error.

    **Raises:** by `check` and in a call, `ValueError` for patches that do not divide the pictures,
    and for more patches than there are.

    **Reference:** Hoover et al. 2023 (arXiv 2302.07253), `mse_patch_loss` of its code.
    """

    patch: int | tuple[int, ...] = eqx.field(static=True)
    hidden: int | None = eqx.field(static=True, default=None)
    shown: int | None = eqx.field(static=True, default=None)
    apply: Callable[[PyTree, Array, Array], Array] | None = eqx.field(static=True, default=None)
    root: bool = eqx.field(static=True, default=True)

    def __call__(self, model: PyTree, batch: Float[Array, "B *shape"], key: Key) -> Scalar:
        """The loss of a batch."""
        shape = batch.shape[1:]
        patch = patches.size_of(self.patch, shape, "MaskedPatches")

        def one(key: Key, image: Array) -> Array:
            hidden, counted = self.draw(key, shape)
            made = model(image, hidden) if self.apply is None else self.apply(model, image, hidden)
            pixels = patches.pixels_of(counted, shape, patch)
            return jnp.where(pixels, made - image, 0.0)

        error = jnp.mean(jax.vmap(one)(jr.split(key, length(batch)), batch) ** 2)
        if not self.root:
            return error
        some = error > 0  # the root has no derivative at 0
        return jnp.where(some, jnp.sqrt(jnp.where(some, error, 1.0)), 0.0)

    def draw(
        self, key: Key, image_shape: tuple[int, ...]
    ) -> tuple[Bool[Array, " patches"], Bool[Array, " patches"]]:
        """Draw which patches of a picture are hidden, and which of them count.

        **Arguments:**

        - `key`: a JAX random key.
        - `image_shape`: of the picture.

        **Returns:** two masks over the patches; what is hidden counts.
        """
        total = math.prod(
            patches.grid_of(image_shape, patches.size_of(self.patch, image_shape, "MaskedPatches"))
        )
        hidden = round(total * 90 / 196) if self.hidden is None else self.hidden
        shown = round(total * 10 / 196) if self.shown is None else self.shown
        for n, name, low in ((hidden, "hidden", 1), (shown, "shown", 0)):
            checks.integer(n, low, f"MaskedPatches: {name}")
        if hidden + shown > total:
            raise ValueError(
                f"MaskedPatches: hidden and shown must be at most the number of patches, {total}; "
                f"{hidden} and {shown} came."
            )
        rank = jr.permutation(key, total)
        return rank < hidden, rank < hidden + shown

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise unless data are pictures that can be cut."""
        if not eqx.is_array(data) or data.ndim < 2:
            raise ValueError(
                f"MaskedPatches: data must be one array of pictures; {type(data).__name__} came."
            )
        self.draw(jr.key(0), data.shape[1:])


def _apply(function: Predict | None, model: PyTree, x: PyTree[Array]) -> Array:
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
