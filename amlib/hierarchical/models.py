"""Reference hierarchies: the classifiers and the denoiser of the published registries.

Each function draws weights from a key and returns a `HAMNetwork`, ready to train. Sizes, depths
and step sizes are the published ones by default.
"""

import math
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import Key
from amlib.hierarchical import graph
from amlib.hierarchical.attention import AttentionSynapse
from amlib.hierarchical.graph import Name
from amlib.hierarchical.ham import HAM
from amlib.hierarchical.hidden import DenseMatrixSynapse
from amlib.hierarchical.lagrangians import lagr_relu, lagr_repu, lagr_softmax
from amlib.hierarchical.layers import (
    Lagrangian,
    SoftmaxLayer,
    SphericalNormLayer,
    TanhLayer,
)
from amlib.hierarchical.spatial import ConvSynapse
from amlib.hierarchical.synapses import BiasSynapse

# Made when they are asked for: an array that an import makes starts JAX, and after that it joins no
# other processes (`jax.distributed.initialize`).
HIDDEN = {
    "relu": lambda: Lagrangian(lagr_relu),
    "repu": lambda: Lagrangian(lagr_repu, options={"n": 5}),
    "softmax": lambda: Lagrangian(lagr_softmax, {"beta": 1.0}),
}


class HAMNetwork(eqx.Module):
    """A hierarchical memory used as a function: set one layer, let time pass, read another.

    All other states start at zero. The function is differentiable through its steps, and trained
    like any network.

    **Arguments:**

    - `ham`: the memory.
    - `source`: the layer that is set.
    - `target`: the layer whose activation is read.
    - `steps`: how many steps of Euler's method, at least 1.
    - `dt`: their size, > 0, in units of `tau`.
    - `clamp`: whether the source is held; otherwise it moves too.

    **Raises:** `ValueError` for unknown layers and values out of range.
    """

    ham: HAM
    source: Name = eqx.field(static=True)
    target: Name = eqx.field(static=True)
    steps: int = eqx.field(static=True, default=10)
    dt: float = eqx.field(static=True, default=0.1)
    clamp: bool = eqx.field(static=True, default=True)

    __repr__ = show.text

    def __check_init__(self):
        for name in (self.source, self.target):
            graph.check_name(name, self.ham.neurons, "HAMNetwork", "layer")
        checks.at_least(self.steps, 1, "HAMNetwork: steps")
        checks.at_least(self.dt, math.ulp(0.0), "HAMNetwork: dt")

    def __call__(self, x: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
        """The activation of the target after all steps.

        **Arguments:**

        - `x`: one state of the source; batches go through `jax.vmap`.

        **Returns:** an activation of the target; of a softmax layer, probabilities.

        **Raises:** `ValueError` for another shape.
        """
        xs = self.ham.init_states()
        xs[self.source] = checks.as_float(x, "HAMNetwork: x")
        clamp = (self.source,) if self.clamp else ()
        end = self.ham.recall(xs, self.steps, self.dt, clamp=clamp)
        layer = dict(graph.items(self.ham.neurons))[self.target]
        return layer.activations(end.x[self.target])


def hopfield_classifier(
    key: Key,
    hidden: str = "relu",
    *,
    image: int | Sequence[int] = 784,
    classes: int = 10,
    n_hidden: int = 1000,
    label_beta: float | None = None,
    steps: int = 4,
    dt: float = 0.4,
) -> HAMNetwork:
    """Make a two-layer classifier: an image and a label joined by one dense memory.

    **Arguments:**

    - `key`: for the weights.
    - `hidden`: what the memory's hidden units do: `"relu"` (classical), `"repu"` (power 5) or
      `"softmax"` (modern; its memories have unit norm).
    - `image`: shape of the image layer.
    - `classes`: number of labels, at least 1.
    - `n_hidden`: number of hidden units (memories).
    - `label_beta`: inverse temperature of the label layer, > 0. By default 1, as published, but
      20 with `"softmax"`: an average of memories of unit norm leaves the label's state below 1,
      and at 1 no label of ten could then be more probable than 0.22.
    - `steps`, `dt`: see `HAMNetwork`.

    **Returns:** a network from an image in [-1, 1] to label probabilities; 794,000 weights for
    MNIST.

    **Raises:** `ValueError` for another `hidden`.

    **Reference:** Hoover et al. 2022, `hn_relu`, `hn_repu5` and `hn_softmax` of its registry; it
    trains `beta` and `label_beta` too, see `synapse_weights`.
    """
    checks.choice(hidden, HIDDEN, "hopfield_classifier: hidden")
    memory = DenseMatrixSynapse(n_hidden, HIDDEN[hidden](), normalize=hidden == "softmax")
    if label_beta is None:
        label_beta = 20.0 if hidden == "softmax" else 1.0
    layers = {"image": TanhLayer(_shape(image)), "label": SoftmaxLayer(classes, beta=label_beta)}
    ham = HAM(layers, {"memory": memory}, [(("image", "label"), "memory")])
    return HAMNetwork(ham.init_states_and_params(key)[1], "image", "label", steps, dt)


def conv_ham(
    key: Key,
    pool: str = "avg",
    *,
    image: Sequence[int] = (28, 28, 1),
    channels: tuple[int, int] = (64, 128),
    classes: int = 10,
    n_hidden: int = 1000,
    steps: int = 7,
    dt: float = 0.3,
) -> HAMNetwork:
    """Make a convolutional classifier: two convolutions with pooling below a dense memory.

    **Arguments:**

    - `key`: for the weights.
    - `pool`: `"avg"` or `"max"`.
    - `image`: shape of the image layer, `(height, width, channels)`.
    - `channels`: of the two layers between.
    - `classes`, `n_hidden`, `steps`, `dt`: see `hopfield_classifier`.

    **Returns:** a network from an image in [-1, 1] to label probabilities; about 597,000 weights
    for MNIST.

    **Raises:** `ValueError` for an image too small, and another `pool`.

    **Reference:** Hoover et al. 2022, `conv_ham_avgpool` and `conv_ham_maxpool` of its registry.
    """
    # The image is set, so that spreads are those of the way up, where pooling takes half of what
    # is independent between places. Smaller ones train slowly: the label hardly hears the image.
    up = (16 * tuple(image)[-1]) ** -0.5, 2 * (9 * channels[0]) ** -0.5
    first = ConvSynapse((4, 4), strides=2, padding=2, pool=pool, bias=True, std=up[0])
    second = ConvSynapse((3, 3), padding=0, pool=pool, bias=True, std=up[1])
    low = _made(first, tuple(image), channels[0])
    high = _made(second, low, channels[1])
    layers = {
        "image": TanhLayer(tuple(image)),
        "low": TanhLayer(low),
        "high": TanhLayer(high),
        "label": SoftmaxLayer(classes),
    }
    synapses = {"first": first, "second": second, "memory": DenseMatrixSynapse(n_hidden)}
    connections = [
        (("image", "low"), "first"),
        (("low", "high"), "second"),
        (("high", "label"), "memory"),
    ]
    ham = HAM(layers, synapses, connections)
    return HAMNetwork(ham.init_states_and_params(key)[1], "image", "label", steps, dt)


def attention_ham(
    key: Key,
    *,
    image: Sequence[int] = (28, 28, 1),
    patch: int = 4,
    features: int = 128,
    classes: int = 10,
    heads: tuple[int, int] = (4, 2),
    zdim: int = 64,
    steps: int = 5,
    dt: float = 0.4,
) -> HAMNetwork:
    """Make an attention classifier: patches that attend to each other, and a label to them.

    **Arguments:**

    - `key`: for the weights.
    - `image`: shape of the image layer, `(height, width, channels)`.
    - `patch`: height and width of a patch; the image is cut into whole ones.
    - `features`: of a patch's layer.
    - `classes`: number of labels.
    - `heads`: of the attention among patches, and of the label's.
    - `zdim`: width of each head.
    - `steps`, `dt`: see `HAMNetwork`.

    **Returns:** a network from an image in [-1, 1] to label probabilities; about 85,000 weights
    for MNIST.

    **Raises:** `ValueError` for an image smaller than a patch.

    **Reference:** Hoover et al. 2022, `energy_attn` of its registry.
    """
    # The label sees an average over all patches. That tells pictures apart only where patches keep
    # what is theirs: the image and the place speak up, the attention among them starts quiet.
    up = 1.5 * (patch * patch * tuple(image)[-1]) ** -0.5
    embed = ConvSynapse((patch, patch), strides=patch, padding=0, std=up)
    patches = _made(embed, tuple(image), features)
    layers = {
        "image": TanhLayer(tuple(image)),
        "patches": TanhLayer(patches),
        "label": SoftmaxLayer(classes),
    }
    synapses = {
        "embed": embed,
        "among": AttentionSynapse(heads[0], zdim, std=0.002),
        "look": AttentionSynapse(heads[1], zdim),
        "bias": BiasSynapse(std=1.5),
    }
    connections = [
        (("image", "patches"), "embed"),
        (("patches", "patches"), "among"),
        (("label", "patches"), "look"),
        (("patches",), "bias"),
    ]
    ham = HAM(layers, synapses, connections)
    return HAMNetwork(ham.init_states_and_params(key)[1], "image", "label", steps, dt)


def mnist_denoiser(
    key: Key, *, image: int = 784, n_hidden: int = 900, beta: float = 10.0, steps: int = 1
) -> HAMNetwork:
    r"""Make a denoiser: one spherical layer and a softmax memory of unit-norm patterns.

    $$E = \|x\| \text{ (layer)} - \frac1\beta \log \sum_\mu e^{\beta\, \xi_\mu \cdot \hat x}$$

    **Arguments:**

    - `key`: for the weights.
    - `image`: number of pixels.
    - `n_hidden`: number of hidden units, each with one pattern (memory).
    - `beta`: inverse temperature, > 0.
    - `steps`: unit steps.

    **Returns:** a network from a noisy image to a clean one of norm 1.

    **Reference:** the denoising demonstration of the package `hamux`, whose setting it is.
    """
    W = 0.2 + 0.02 * jr.normal(key, (n_hidden, image))
    memory = DenseMatrixSynapse(
        n_hidden, Lagrangian(lagr_softmax, {"beta": beta}), W, normalize=True
    )
    ham = HAM({"image": SphericalNormLayer(image)}, {"memory": memory}, [("image", "memory")])
    return HAMNetwork(ham, "image", "image", steps, 1.0, clamp=False)


def synapse_weights(network: HAMNetwork) -> PyTree[bool]:
    """A filter for training: true for the weights of the synapses, false for all else.

    Time constants, and the inverse temperatures of layers and hidden units, then stay as they are.
    """
    chosen = jax.tree.map(lambda _: False, network)
    weights = jax.tree.map(eqx.is_inexact_array, network.ham.hypersynapses)
    chosen = eqx.tree_at(lambda n: n.ham.hypersynapses, chosen, weights)
    for name, synapse in graph.items(network.ham.hypersynapses):
        if hasattr(synapse, "lagrangian"):
            frozen = jax.tree.map(lambda _: False, synapse.lagrangian)
            chosen = eqx.tree_at(
                lambda n, k=name: n.ham.hypersynapses[k].lagrangian, chosen, frozen
            )
    return chosen


def _shape(image: int | Sequence[int]) -> int | tuple[int, ...]:
    return image if isinstance(image, int) else tuple(image)


def _made(synapse: ConvSynapse, shape: tuple[int, ...], channels: int) -> tuple[int, ...]:
    """The shape that a layer of this shape becomes."""
    example = jax.ShapeDtypeStruct(shape, jnp.float32)
    return jax.eval_shape(lambda x: synapse.example_output(x, channels), example).shape
