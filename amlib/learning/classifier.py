"""A dense associative memory as a classifier: pixels and labels are units of one memory."""

import math
from collections.abc import Sequence
from types import ModuleType

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import Key, Scalar
from amlib.learning._pictures import class_numbers, drawn, grey, sizes
from amlib.learning._sums import ArrayFn, Summand, energy_function, iterate, label_sums

_HERE = "DenseAMClassifier"
_FEATURES = 5  # powers up to this one learn features that decide together
_BLOCK = 1000  # pictures that `predict` and `score` hold the overlaps of at once


class DenseAMClassifier(eqx.Module):
    r"""Classify pictures by a dense associative memory over pixels and labels.

    Every memory $\xi_\mu = (W_\mu, L_\mu)$ has one weight per pixel and one per label. With the
    picture $v$ in the pixels and $c$ in the labels, the energy is

    $$E(v, c) = -\sum_\mu F\Big(\frac{W_\mu \cdot v + L_\mu \cdot c}{T}\Big), \qquad
    F(r) = \max(r, 0)^n$$

    The labels start at -1 and are updated once, with the pixels clamped, each by the difference
    of the energies of its two values:

    $$c_a = \tanh s_a, \qquad
    s_a = \sum_\mu F\Big(\frac{b_\mu + 2 L_{\mu a}}{T}\Big) - F\Big(\frac{b_\mu}{T}\Big), \qquad
    b_\mu = W_\mu \cdot v - \sum_{a} L_{\mu a}$$

    The overlaps with the pixels, $W v$, are computed once for all labels. $F$ is evaluated at
    $h / T$: the published $\beta = T^{-n}$ and $h^n$ apart do not fit into float32.

    ```python
    images, labels = am.data.mnist("train", subset="bundled")
    model = am.learning.DenseAMClassifier(500, key=jax.random.key(0))
    optimizer = am.learning.krotov_hopfield(0.02)
    loss = am.learning.PowerLoss(2)
    result = am.fit(model, (images, labels), loss, optimizer, 40, 100, jax.random.key(1))
    result.model.score(images, labels)
    ```

    **Arguments:**

    - `K`: how many memories.
    - `pixels`: the number of pixels, or the shape of a picture.
    - `classes`: how many classes, at least 2.
    - `n`: the power of $F$, an integer of at least 2; or any function that acts on each element
      alone, such as `jnp.exp` for the exponential energy. Low powers learn features, high ones
      prototypes.
    - `rectified`: whether negative overlaps count nothing. Without effect on a function `n`.
    - `temperature`: T, > 0; must be given if `n` is a function. `None` takes one at which no label
      starts saturated (a saturated tanh has no gradient, and its class is never learned): where
      the sums $s_a$ of the initial weights have a root mean square of 1, on the examples if given,
      else on random pictures. For `n` above 5, whose memories decide alone, at least the one where
      a single memory with an overlap of D/4 makes $s_a$ about 1, $T^n = 2n (D/4)^{n-1}$. A start:
      full MNIST did better with about twice that at n = 3.
    - `mean`, `std`: of the initial weights. The published mean of -0.3 aligns all memories with
      the dark background, so that they start nearly equal; it wants a T above 250 and many more
      epochs.
    - `examples`: `(images, labels)`: memories start as pictures drawn from these with labels -1/+1
      (Hebbian initialisation) instead of random numbers.
    - `key`: for the initial weights.

    **Raises:** `ValueError` for sizes, powers, temperatures or examples out of range, and a
    temperature at which the sums overflow; `TypeError` for wrong kinds.

    **Reference:** Krotov and Hopfield 2016, eq. 8 and 9 and appendix A. Deviations: the default
    weights have mean 0, and the default temperature is computed.
    """

    Xi: Float[Array, "K units"]
    temperature: Scalar
    n: int | ArrayFn = eqx.field(static=True)
    rectified: bool = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)
    classes: int = eqx.field(static=True)

    __repr__ = show.text

    def __init__(
        self,
        K: int,
        pixels: int | Sequence[int] = (28, 28),
        classes: int = 10,
        n: int | ArrayFn = 3,
        *,
        rectified: bool = True,
        temperature: ArrayLike | None = None,
        mean: float | int = 0.0,
        std: float | int = 0.3,
        examples: tuple[ArrayLike, ArrayLike] | None = None,
        key: Key,
    ):
        K = checks.integer(K, 1, f"{_HERE}: K")
        self.shape = sizes(pixels, f"{_HERE}: pixels")
        self.classes = checks.integer(classes, 2, f"{_HERE}: classes")
        self.n = n if callable(n) else checks.integer(n, 2, f"{_HERE}: n")
        self.rectified = bool(rectified)
        checks.key(key, f"{_HERE}: key")
        weights, testing = jr.split(key)
        D = math.prod(self.shape)
        if examples is None:
            checks.at_least(std, 0, f"{_HERE}: std")
            noise = jr.normal(weights, (K, D + self.classes))
            self.Xi = float(mean) + float(std) * noise
            pictures = jr.rademacher(testing, (100, D), self.Xi.dtype)
        else:
            self.Xi, pictures = drawn(examples, K, self.shape, self.classes, weights, _HERE)
        if temperature is None:
            temperature = _temperature(self, pictures)
        self.temperature = checks.as_float(temperature, f"{_HERE}: temperature")

    def __check_init__(self):
        T = self.temperature
        if T.shape != ():
            raise ValueError(f"{_HERE}: temperature: must be a scalar; shape {T.shape} came.")
        if not (checks.is_concrete(T) and checks.is_concrete(self.Xi)):
            return
        checks.positive(T, f"{_HERE}: temperature")
        checks.finite(self.Xi, f"{_HERE}: weights")
        if callable(self.n):
            return
        # |h| <= sum |xi| for pictures in [-1, 1]; the factor 2 is for the difference.
        largest = float(jnp.abs(self.Xi).sum(axis=1).max())
        room = math.log(float(jnp.finfo(self.Xi.dtype).max)) - math.log(2 * len(self.Xi))
        least = largest * math.exp(-room / self.n)
        if float(T) < least:
            raise ValueError(
                f"{_HERE}: temperature: must be at least {least:.3g}, or sums of {self.n}th powers "
                f"overflow {self.Xi.dtype}; {float(T):.3g} came. temperature=None chooses one."
            )

    @property
    def pixel_weights(self) -> Float[Array, "K *shape"]:
        """The pixel weights of each memory, as pictures."""
        return self._W.reshape(-1, *self.shape)

    @property
    def label_weights(self) -> Float[Array, "K C"]:
        """The label weights of each memory: what it votes for (+) and against (-)."""
        return self.Xi[:, math.prod(self.shape) :]

    def energy(self, v: Shaped[ArrayLike, "*shape"], c: Shaped[ArrayLike, " C"]) -> Scalar:
        r"""The energy of a picture together with labels.

        $$E(v, c) = -\sum_\mu F\Big(\frac{W_\mu \cdot v + L_\mu \cdot c}{T}\Big)$$

        **Arguments:**

        - `v`: one picture, flat or in its shape, in [-1, 1].
        - `c`: the labels, in [-1, 1].

        **Returns:** a scalar; no unit.

        **Raises:** `ValueError` for wrong shapes and pixels out of range.

        **Reference:** Krotov and Hopfield 2016, eq. 8, with $\beta = T^{-n}$ inside.
        """
        v = self._picture(v, "energy")
        c = checks.as_float(c, "energy: c").astype(self.Xi.dtype)
        if c.shape != (self.classes,):
            raise ValueError(f"energy: c must have shape ({self.classes},); {c.shape} came.")
        return _energy(self, v, c)

    def __call__(
        self, v: Shaped[ArrayLike, "*shape"], *, steps: int = 1, discrete: bool = False
    ) -> Float[Array, " C"]:
        r"""Update the labels from -1, with the pixels clamped to a picture.

        $$c_a = g\Big[\sum_\mu F\Big(\frac{b_\mu + 2 L_{\mu a}}{T}\Big)
        - F\Big(\frac{b_\mu}{T}\Big)\Big]$$

        One picture per call; `predict` and the losses take batches, faster than `jax.vmap` of this.

        **Arguments:**

        - `v`: one picture, flat or in its shape, in [-1, 1].
        - `steps`: how many updates of all labels at once, at least 1; more than 1 goes on from the
          labels of the step before.
        - `discrete`: $g$ is the sign, with labels -1/+1, instead of tanh.

        **Returns:** the label units, in [-1, 1]. The largest is the class.

        **Raises:** `ValueError` for a wrong shape and pixels out of range.

        **Reference:** Krotov and Hopfield 2016, eq. 9.
        """
        v = self._picture(v, "DenseAMClassifier")
        steps = checks.integer(steps, 1, "DenseAMClassifier: steps")
        return _labels(self, v, steps, bool(discrete))

    def sums(self, images: Shaped[ArrayLike, "..."]) -> Float[Array, "... C"]:
        r"""The energy differences $s_a$ of a picture or a batch: what tanh is taken of.

        **Arguments:**

        - `images`: one picture or a batch, flat or in their shape, in [-1, 1].

        **Returns:** $s_a$ per picture and class; no unit.

        **Raises:** `ValueError` for a wrong shape and pixels out of range.

        **Reference:** Krotov and Hopfield 2016, the argument of eq. 9.
        """
        v, single = self._pictures(images, "sums")
        s = _sums(self, v)
        return s[0] if single else s

    def logits(self, images: Shaped[ArrayLike, "..."]) -> Float[Array, "... C"]:
        r"""The logarithms of the probabilities up to a constant, $2 s_a$: see `predict_proba`.

        **Arguments:**

        - `images`: one picture or a batch, flat or in their shape, in [-1, 1].

        **Returns:** one number per picture and class; no unit.

        **Raises:** `ValueError` for a wrong shape and pixels out of range.
        """
        return 2 * self.sums(images)

    def predict(self, images: Shaped[ArrayLike, "..."]) -> Int[Array, "..."]:
        """The class of a picture, or of each picture of a batch of any length.

        **Arguments:**

        - `images`: one picture or a batch, flat or in their shape, in [-1, 1].

        **Returns:** the class with the largest label, 0 to `classes - 1`.

        **Raises:** `ValueError` for a wrong shape and pixels out of range.
        """
        v, single = self._pictures(images, "predict")
        found = _in_blocks(self, v, False)
        return found[0] if single else found

    def predict_proba(self, images: Shaped[ArrayLike, "..."]) -> Float[Array, "... C"]:
        r"""How probable each class is, where exactly one label is on.

        $$p_a = \operatorname{softmax}_a(2 s_a)$$

        It is the Boltzmann distribution over the states with one label at +1, at the temperature
        at which a label alone has the mean $\tanh s_a$, as in the published update.

        **Arguments:**

        - `images`: one picture or a batch, flat or in their shape, in [-1, 1].

        **Returns:** probabilities that add up to 1 over the last axis. After training with
        `PowerLoss` they order the classes, and are not calibrated.

        **Raises:** `ValueError` for a wrong shape and pixels out of range.
        """
        v, single = self._pictures(images, "predict_proba")
        found = _in_blocks(self, v, True)
        return found[0] if single else found

    def score(self, images: Shaped[ArrayLike, "..."], labels: Shaped[ArrayLike, " N"]) -> float:
        """The share of pictures whose class is right.

        **Arguments:**

        - `images`: a batch of pictures, flat or in their shape, in [-1, 1].
        - `labels`: the class of each, integers from 0 to `classes - 1`.

        **Returns:** the accuracy, 0 to 1; the error is `1 - score`.

        **Raises:** `ValueError` for wrong shapes, or labels or pixels out of range; `TypeError`
        for labels that are no integers.
        """
        v, single = self._pictures(images, "score")
        if single:
            raise ValueError("score: images must be a batch; one picture came. Pass images[None].")
        labels = class_numbers(labels, len(v), self.classes, "score: labels")
        return float(np.mean(np.asarray(_in_blocks(self, v, False)) == np.asarray(labels)))

    # -- inside --------------------------------------------------------------------------------

    @property
    def _F(self) -> Summand:
        return energy_function(self.n, self.rectified)

    def _T(self) -> Scalar:
        return self.temperature.astype(self.Xi.dtype)

    @property
    def _W(self) -> Float[Array, "K D"]:
        return self.Xi[:, : math.prod(self.shape)]

    def _picture(self, v: ArrayLike, where: str) -> Float[Array, " D"]:
        """One picture, flat and of the model's floats."""
        v = checks.as_float(v, f"{where}: v")
        D = math.prod(self.shape)
        if v.shape not in (self.shape, (D,)):
            hint = f"Reshape it to {self.shape}."
            if v.shape[1:] in (self.shape, (D,)):
                hint = "A batch goes through jax.vmap(model), or predict(images)."
            raise ValueError(
                f"{where}: a picture must have shape {self.shape} or ({D},); {v.shape} came. {hint}"
            )
        return grey(v, where).reshape(D).astype(self.Xi.dtype)

    def _pictures(self, images: ArrayLike, where: str) -> tuple[Float[Array, "N D"], bool]:
        """A batch of pictures, flat, and whether a single one came."""
        v = checks.as_float(images, f"{where}: images")
        D = math.prod(self.shape)
        single = v.shape in (self.shape, (D,))
        if not single and v.shape[1:] not in (self.shape, (D,)):
            raise ValueError(
                f"{where}: images must have shape (N, *{self.shape}) or (N, {D}); {v.shape} came. "
                "Reshape them, or give pixels= their shape when the model is made."
            )
        if v.shape[0] == 0:
            raise ValueError(f"{where}: there must be at least one picture; none came.")
        return grey(v, where).reshape(-1, D).astype(self.Xi.dtype), single


# -- compiled entry points ---------------------------------------------------------------------


@eqx.filter_jit
def _energy(model: DenseAMClassifier, v: Float[Array, " D"], c: Float[Array, " C"]) -> Scalar:
    return -jnp.sum(model._F((model.Xi @ jnp.concatenate([v, c])) / model._T()))


@eqx.filter_jit
def _labels(
    model: DenseAMClassifier, v: Float[Array, " D"], steps: int, discrete: bool
) -> Float[Array, " C"]:
    h, L = (model._W @ v) / model._T(), model.label_weights / model._T()
    return iterate(model._F, h, L, steps, discrete)


@eqx.filter_jit
def _sums(model: DenseAMClassifier, v: Float[Array, "N D"]) -> Float[Array, "N C"]:
    W, L = model._W / model._T(), model.label_weights / model._T()
    base = v @ W.T - L.sum(axis=1)[None]
    return label_sums(model._F, base, L)


@eqx.filter_jit
def _in_blocks(model: DenseAMClassifier, v: Float[Array, "N D"], probable: bool) -> Array:
    """Classes, or their probabilities, without the overlaps of all pictures at once."""

    def block(v: Array) -> Array:
        s = _sums(model, v)
        return jax.nn.softmax(2 * s, axis=1) if probable else jnp.argmax(s, axis=1)

    N = v.shape[0]
    if N <= _BLOCK:
        return block(v)
    full = N - N % _BLOCK
    out = lax.map(block, v[:full].reshape(-1, _BLOCK, v.shape[1]))
    out = out.reshape(full, *out.shape[2:])
    return out if full == N else jnp.concatenate([out, block(v[full:])])


# -- what goes into a model --------------------------------------------------------------------


def _temperature(model: DenseAMClassifier, pictures: Float[Array, "N D"]) -> Scalar:
    """A temperature at which no label starts saturated, see the class."""
    if callable(model.n):
        raise ValueError(f"{_HERE}: temperature: must be given where n is a function; none came.")
    # In NumPy where the values are known: nothing to compile.
    lib: ModuleType = np if checks.is_concrete(model.Xi) else jnp
    Xi, v = lib.asarray(model.Xi), lib.asarray(pictures)
    D, n = v.shape[1], model.n
    W, L = Xi[:, :D], Xi[:, D:]
    base = v @ W.T - L.sum(axis=1)[None]
    scale = lib.abs(base).max() + 2 * lib.abs(L).max()  # so that no power overflows

    def power(r: Array | np.ndarray) -> Array | np.ndarray:
        r = r / scale
        return (lib.maximum(r, 0) if model.rectified else r) ** n

    low = power(base)
    sums = [(power(base + 2 * L[None, :, a]) - low).sum(axis=1) for a in range(model.classes)]
    size = lib.sqrt(lib.mean(lib.stack(sums) ** 2))  # the sums go as 1 / T^n
    together = lib.where(size > 0, scale * size ** (1 / n), 1.0)
    if n > _FEATURES:
        together = lib.maximum(together, (2 * n / (D / 4)) ** (1 / n) * (D / 4))
    return jnp.asarray(together, model.Xi.dtype)
