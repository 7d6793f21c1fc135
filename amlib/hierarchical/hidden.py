r"""Synapses with hidden units inside: the dense associative memories, and the mixer.

A hidden layer without dynamics of its own takes the state that lowers the energy most, and leaves
minus its Lagrangian, $-L(h)$, behind. With a steep Lagrangian the rows of the weights become
memories, far more of them than a matrix between two layers could hold.
"""

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._types import IntLike, Key, LagrangianFn, Scalar, Shape, ShapeLike
from amlib.hierarchical.lagrangians import lagr_relu
from amlib.hierarchical.layers import check_lagrangian, lagrangian_field
from amlib.hierarchical.synapses import (
    AbstractSynapse,
    activations_of,
    count,
    multilinear,
    normal,
    shapes_of,
    std_field,
    weights,
    weights_field,
)

AXES = ("all", "last")


def hidden_field(value: ShapeLike | None) -> Shape | None:
    """The converter of the shape of the hidden units, which given weights can tell."""
    return None if value is None else checks.shape(value, "hidden")


def matrices_field(
    value: Shaped[ArrayLike, "..."] | Sequence[Shaped[ArrayLike, "..."]] | None,
) -> tuple[Array, ...] | None:
    """The converter of one matrix, or one for each layer."""
    if value is None:
        return None
    several = value if isinstance(value, Sequence) else (value,)
    return tuple(checks.as_float(W, "W") for W in several)


def _number_field(where: str) -> Callable[[IntLike], int]:
    """The converter of a number of hidden units."""
    return lambda n: checks.integer(n, 1, where)


def hidden_shape(hidden: Shape | None, matrices: tuple[Array, ...], where: str) -> Shape | None:
    """The shape of the hidden units; raise where the weights that are there deny it."""
    rows = {W.shape[0] if W.ndim > 1 else 0 for W in matrices}
    if hidden is None and not matrices:
        raise ValueError(
            f"{where}: needs the number of hidden units, or the weights; neither came. "
            f"For a hundred memories: {where}(100)."
        )
    if len(rows) > 1 or rows == {0} or (hidden and rows and rows != {math.prod(hidden)}):
        raise ValueError(
            f"{where}: every weight must have one row for each hidden unit"
            f"{f' of {hidden}' if hidden else ''}; weights of shapes "
            f"{[W.shape for W in matrices]} came."
        )
    return hidden or (rows.pop(),)


def unit_rows(W: Array) -> Array:
    """Each hidden unit's weights divided by their norm; rows of zeros stay."""
    squares = jnp.sum(W * W, axis=tuple(range(1, W.ndim)), keepdims=True)
    found = squares > 0
    return W / jnp.where(found, jnp.sqrt(jnp.where(found, squares, 1.0)), 1.0)


def rows_of(gs: list[Array], axes: str, where: str) -> list[Array]:
    """Activations as `(*patches, size)`: no patches for `axes="all"`."""
    if axes == "all":
        return [g.reshape(-1) for g in gs]
    if any(g.ndim == 0 for g in gs) or len({g.shape[:-1] for g in gs}) > 1:
        raise ValueError(
            f"{where}: with axes='last' all layers must have the same axes but for the last; "
            f"activations of shapes {[g.shape for g in gs]} came."
        )
    return gs


def sizes_of(shapes: list[Shape], axes: str) -> list[int]:
    """How many units of each layer meet the weights."""
    return [math.prod(s) if axes == "all" else s[-1] for s in shapes]


def hidden_energy(lagrangian: LagrangianFn, h: Array, hidden: Shape) -> Array:
    """Minus the Lagrangian of hidden units, which come as one last axis."""
    h = h.reshape(*h.shape[:-1], *hidden)
    return -jnp.asarray(lagrangian(h)).astype(h.dtype)


class DenseMatrixSynapse(AbstractSynapse):
    r"""A dense associative memory over one layer, or over several side by side.

    $$E = -L(h), \qquad h_\mu = \sum_l \sum_i W^l_{\mu i}\, \hat x^l_i$$

    Minus its gradient is $\sum_\mu \nabla L(h)_\mu W^l_\mu$: the rows of the weights are the
    memories, and the activation of the hidden Lagrangian weighs them. With `axes="last"` every
    position of the other axes (every patch) has hidden units of its own and shares the weights.

    **Arguments:**

    - `hidden`: the number of hidden units, or their shape; `None` asks the weights.
    - `lagrangian`: convex function of the hidden state: see `NeuronLayer`. Softmax makes the
      last axis of `hidden` compete, so `(heads, n)` gives several competitions.
    - `W`: weights, `(hidden, size)` for one layer or a tuple with one for each; `None` waits for
      `init`.
    - `normalize`: whether each row, of each layer, counts with unit length.
    - `axes`: `"all"` contracts all the axes of a layer, `"last"` its last one only.
    - `std`: spread of the initial weights; `None` takes one over the root of the number of inputs,
      so that inputs of unit variance give $h$ of unit variance.

    **Raises:** `ValueError` for weights, layers or a Lagrangian that do not fit.

    **Reference:** Krotov and Hopfield 2021 (arXiv 2008.06996), section 3; with rectifiers and
    `axes="last"` the memory of the Energy Transformer (arXiv 2302.07253).
    """

    hidden: Shape | None = eqx.field(static=True, converter=hidden_field, default=None)
    lagrangian: LagrangianFn = eqx.field(converter=lagrangian_field, default=lagr_relu)
    W: tuple[Float[Array, "hidden size"], ...] | None = eqx.field(
        converter=matrices_field, default=None
    )
    normalize: bool = eqx.field(static=True, default=False, kw_only=True)
    axes: str = eqx.field(static=True, default="all", kw_only=True)
    std: float | None = eqx.field(static=True, converter=std_field, default=None, kw_only=True)

    def __check_init__(self):
        checks.choice(self.axes, AXES, "DenseMatrixSynapse: axes")
        hidden = hidden_shape(self.hidden, self.W or (), "DenseMatrixSynapse")
        check_lagrangian(self.lagrangian, hidden or (1,), "DenseMatrixSynapse")

    def init(self, key: Key, *shapes: ShapeLike) -> "DenseMatrixSynapse":
        """Draw the weights: see `AbstractSynapse.init`. One layer or more."""
        known = shapes_of(shapes, "DenseMatrixSynapse")
        rows_of([jnp.zeros(s) for s in known], self.axes, "DenseMatrixSynapse")
        sizes = sizes_of(known, self.axes)
        std = sum(sizes) ** -0.5 if self.std is None else self.std
        hidden = hidden_shape(self.hidden, self.W or (), "DenseMatrixSynapse")
        n, keys = math.prod(hidden or ()), jr.split(key, len(sizes))
        W = tuple(normal(k, (n, size), std) for k, size in zip(keys, sizes, strict=True))
        return eqx.tree_at(lambda s: s.W, self, W, is_leaf=lambda x: x is None)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the connected layers: a scalar."""
        gs = rows_of(activations_of(self, xhats), self.axes, "DenseMatrixSynapse")
        Ws = self.W or ()
        if [W.shape[1:] for W in Ws] != [g.shape[-1:] for g in gs]:
            raise ValueError(
                f"DenseMatrixSynapse: weights of shapes {[W.shape for W in Ws]} must have a "
                f"column for each unit of each layer; activations of shapes "
                f"{[jnp.shape(x) for x in xhats]} came. Batches go through jax.vmap."
            )
        Ws = [W.astype(gs[0].dtype) for W in Ws]
        Ws = [unit_rows(W) for W in Ws] if self.normalize else Ws
        h = sum((g @ W.T for g, W in zip(gs[1:], Ws[1:], strict=True)), gs[0] @ Ws[0].T)
        return hidden_energy(self.lagrangian, h, self.hidden or Ws[0].shape[:1])


class DenseTensorSynapse(AbstractSynapse):
    r"""A dense associative memory of combinations of units, one of each layer.

    $$E = -L(h), \qquad h_\mu = \sum_{ij \dots k} W_{\mu ij \dots k}\,
    \hat x^1_i \hat x^2_j \cdots \hat x^n_k$$

    With one hidden unit and a linear $L$ it is a `DenseSynapse`; over one layer, a
    `DenseMatrixSynapse`.

    **Arguments:** as for `DenseMatrixSynapse`, but

    - `W`: weights, `(hidden, size_1, ..., size_n)`.
    - `normalize`: whether the weights of each hidden unit count with unit norm.
    - `std`: `None` takes one over the root of the product of the sizes.

    **Raises:** `ValueError` for weights, layers or a Lagrangian that do not fit.

    **Reference:** Hoover et al. 2022, `DenseTensorSynapseWithHiddenLayer`.
    """

    hidden: Shape | None = eqx.field(static=True, converter=hidden_field, default=None)
    lagrangian: LagrangianFn = eqx.field(converter=lagrangian_field, default=lagr_relu)
    W: Float[Array, "hidden *sizes"] | None = eqx.field(converter=weights_field("W"), default=None)
    normalize: bool = eqx.field(static=True, default=False, kw_only=True)
    axes: str = eqx.field(static=True, default="all", kw_only=True)
    std: float | None = eqx.field(static=True, converter=std_field, default=None, kw_only=True)

    def __check_init__(self):
        checks.choice(self.axes, AXES, "DenseTensorSynapse: axes")
        given = () if self.W is None else (self.W,)
        hidden = hidden_shape(self.hidden, given, "DenseTensorSynapse")
        check_lagrangian(self.lagrangian, hidden or (1,), "DenseTensorSynapse")

    def init(self, key: Key, *shapes: ShapeLike) -> "DenseTensorSynapse":
        """Draw the weights: see `AbstractSynapse.init`. One layer or more."""
        known = shapes_of(shapes, "DenseTensorSynapse")
        rows_of([jnp.zeros(s) for s in known], self.axes, "DenseTensorSynapse")
        sizes = sizes_of(known, self.axes)
        std = math.prod(sizes) ** -0.5 if self.std is None else self.std
        given = () if self.W is None else (self.W,)
        hidden = hidden_shape(self.hidden, given, "DenseTensorSynapse")
        W = normal(key, (math.prod(hidden or ()), *sizes), std)
        return eqx.tree_at(lambda s: s.W, self, W, is_leaf=lambda x: x is None)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the connected layers: a scalar."""
        gs = rows_of(activations_of(self, xhats), self.axes, "DenseTensorSynapse")
        W = weights(self.W).astype(gs[0].dtype)
        if W.shape[1:] != tuple(g.shape[-1] for g in gs):
            raise ValueError(
                f"DenseTensorSynapse: weights of shape {W.shape} must have, after the hidden "
                f"units, an axis for each layer; activations of shapes "
                f"{[jnp.shape(x) for x in xhats]} came. Batches go through jax.vmap."
            )
        W = unit_rows(W) if self.normalize else W
        h = multilinear(W, gs) if self.axes == "all" else _patchwise(W, gs)
        return hidden_energy(self.lagrangian, h, self.hidden or W.shape[:1])


def _patchwise(W: Array, gs: list[Array]) -> Array:
    """Contract the last axes of `W` with the last axes of activations, patch by patch."""
    patches = gs[0].shape[:-1]
    h = jnp.tensordot(gs[-1], W, axes=([-1], [-1]))  # (*patches, hidden, sizes but the last)
    for g in reversed(gs[:-1]):
        between = (1,) * (h.ndim - len(patches) - 1)
        h = jnp.sum(h * g.reshape(*patches, *between, g.shape[-1]), axis=-1)
    return h


class MixerSynapse(AbstractSynapse):
    r"""Mix the tokens of each channel, and the channels of each token: the MLP-Mixer.

    $$E = -\sum_c L(W^t \hat x_{\cdot c}) - \sum_t L(W^c \hat x_{t \cdot})$$

    Minus its gradient is $W^{t\top} \nabla L(W^t \hat x) + \nabla L(\hat x W^{c\top}) W^c$: two
    perceptrons with one hidden layer, whose second weights are the first ones transposed, side by
    side. The layer has any number of axes; the last is the channels, the others are the tokens.

    **Arguments:**

    - `tokens`: the number of hidden units that mix tokens, at least 1.
    - `channels`: the number of hidden units that mix channels, at least 1.
    - `lagrangian`: convex function of a hidden state: see `NeuronLayer`.
    - `Wt`, `Wc`: weights, `(tokens, positions)` and `(channels, features)`; `None` waits for
      `init`.
    - `std`: spread of the initial weights; `None` takes one over the root of the number of inputs.

    **Raises:** `ValueError` for weights, layers or a Lagrangian that do not fit.

    **Reference:** Tang and Kopp 2021 (arXiv 2105.15034), who find the MLP-Mixer of Tolstikhin et
    al. 2021 (arXiv 2105.01601) among hierarchical memories. The Mixer's two steps, one after the
    other and with free second weights, are here one step with tied weights.
    """

    lazy: ClassVar[tuple[str, ...]] = ("Wt", "Wc")

    tokens: int = eqx.field(static=True, converter=_number_field("MixerSynapse: tokens"))
    channels: int = eqx.field(static=True, converter=_number_field("MixerSynapse: channels"))
    lagrangian: LagrangianFn = eqx.field(converter=lagrangian_field, default=lagr_relu)
    Wt: Float[Array, "tokens positions"] | None = eqx.field(
        converter=weights_field("Wt"), default=None
    )
    Wc: Float[Array, "channels features"] | None = eqx.field(
        converter=weights_field("Wc"), default=None
    )
    std: float | None = eqx.field(static=True, converter=std_field, default=None, kw_only=True)

    def __check_init__(self):
        check_lagrangian(self.lagrangian, (self.tokens,), "MixerSynapse")

    def init(self, key: Key, *shapes: ShapeLike) -> "MixerSynapse":
        """Draw the weights: see `AbstractSynapse.init`. One layer."""
        ((*grid, features),) = shapes_of(shapes, "MixerSynapse", 1, 1)
        positions = math.prod(grid)
        stds = [n**-0.5 if self.std is None else self.std for n in (positions, features)]
        a, b = jr.split(key)
        Wt = normal(a, (self.tokens, positions), stds[0])
        Wc = normal(b, (self.channels, features), stds[1])
        return MixerSynapse(self.tokens, self.channels, self.lagrangian, Wt, Wc, std=self.std)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the layer: a scalar."""
        gs = activations_of(self, xhats)
        count(gs, "MixerSynapse", 1, 1)
        g = gs[0].reshape(-1, *gs[0].shape[-1:])
        Wt, Wc = weights(self.Wt).astype(g.dtype), weights(self.Wc).astype(g.dtype)
        expected = (self.tokens, g.shape[0]), (self.channels, g.shape[-1])
        if (Wt.shape, Wc.shape) != expected:
            raise ValueError(
                f"MixerSynapse: activations of shape {gs[0].shape} need weights of shapes "
                f"{expected[0]} and {expected[1]}; {Wt.shape} and {Wc.shape} came."
            )
        mixed = (g.T @ Wt.T, g @ Wc.T)
        return sum(
            (hidden_energy(self.lagrangian, h, h.shape[-1:]) for h in mixed),
            jnp.zeros((), g.dtype),
        )
