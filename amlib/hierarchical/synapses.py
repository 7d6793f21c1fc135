r"""Synapses: energies of the activations of the layers they connect. The base and the dense ones.

A synapse maps activations to a scalar, and minus its gradient in one of them is what that layer
receives. Weights are drawn by `init` from the shapes of the layers, or given at construction.
Everything is computed in the dtype of the activations, in single precision at least.
"""

import abc
import math
from collections.abc import Callable, Sized
from typing import ClassVar

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import Key, RealLike, Scalar, Shape, ShapeLike
from amlib.hierarchical.lagrangians import widen


class AbstractSynapse(eqx.Module):
    """The base of the synapses that come with amlib: weights that wait for shapes.

    A subclass names its lazy weights in `lazy`, and defines `init` and `__call__`. A synapse
    need not derive from this: any callable from activations to a scalar will do.
    """

    lazy: ClassVar[tuple[str, ...]] = ("W",)

    __repr__ = show.text

    @property
    def is_init(self) -> bool:
        """Whether all weights are there."""
        return all(getattr(self, name) is not None for name in self.lazy)

    @abc.abstractmethod
    def init(self, key: Key, *shapes: ShapeLike) -> "AbstractSynapse":
        """Draw the weights.

        **Arguments:**

        - `key`: a JAX random key.
        - `shapes`: the shape of each connected layer, in the order of the connection.

        **Returns:** a copy of the synapse with new weights.

        **Raises:** `ValueError` for shapes that the synapse cannot connect.
        """

    @abc.abstractmethod
    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the connected layers: a scalar."""


def activations_of(
    synapse: AbstractSynapse, xhats: tuple[Shaped[ArrayLike, "..."], ...]
) -> list[Array]:
    """Activations as floats of one dtype; raise if the synapse has no weights yet."""
    where = type(synapse).__name__
    if not synapse.is_init:
        missing = next(name for name in synapse.lazy if getattr(synapse, name) is None)
        raise ValueError(
            f"{where}: a call needs the weights {missing!r}; none came. Draw them by "
            "synapse.init(key, *shapes), or for a whole HAM by ham.init_states_and_params(key)."
        )
    if not xhats:
        raise ValueError(f"{where}: must connect at least one layer; none came.")
    wide = [widen(x, f"{where}: activations") for x in xhats]
    double = any(x.dtype == jnp.float64 for x in wide)
    return [x.astype(jnp.float64 if double else jnp.float32) for x in wide]


def weights(W: Array | None) -> Array:
    """Weights that are known to be there, see `activations_of`."""
    if W is None:
        raise ValueError("synapse: a call needs weights; none came. Draw them by synapse.init.")
    return W


def count(items: Sized, where: str, low: int, high: int | float = math.inf) -> None:
    """Raise unless the number of connected layers is in range."""
    if low <= len(items) <= high:
        return
    many = f"{low} to {high}" if low < high < math.inf else f"{low}"
    least = "at least " if high == math.inf else ""
    raise ValueError(f"{where}: must connect {least}{many} layer(s); {len(items)} came.")


def shapes_of(
    shapes: tuple[ShapeLike, ...], where: str, low: int = 1, high: int | float = math.inf
) -> list[Shape]:
    """The shapes of the connected layers; raise unless their number is in range."""
    count(shapes, where, low, high)
    return [checks.shape(s, f"{where}: shape") for s in shapes]


def weights_field(name: str) -> Callable[[Shaped[ArrayLike, "..."] | None], Array | None]:
    """The converter of weights that may be missing."""
    return lambda W: None if W is None else checks.as_float(W, name)


def std_field(value: RealLike | None) -> float | None:
    """The converter of an optional spread of initial weights."""
    if value is None:
        return None
    checks.at_least(value, 0.0, "std")
    return float(value)


def normal(key: Key, shape: tuple[int, ...], std: float) -> Array:
    """Initial weights: normal, centred."""
    return std * jr.normal(key, shape)


class DenseSynapse(AbstractSynapse):
    r"""Connect any number of layers by one tensor with an axis for each.

    $$E = -\sum_{ij \dots k} W_{ij \dots k}\, \hat x^1_i \hat x^2_j \cdots \hat x^n_k
    - \sum_k b_k \hat x^n_k$$

    Layers of any shape: their units are counted in row-major order. Between two layers this is
    the dense layer of neural networks: the second layer receives $W^\top \hat x^1 + b$, the first
    $W \hat x^2$.

    **Arguments:**

    - `W`: weights, with one axis for each layer (or the axes of all layers in order); `None`
      waits for `init`.
    - `b`: bias on the last layer, of its size; `None` for none, or for `init` to make.
    - `bias`: whether `init` makes a bias, at 0.
    - `std`: spread of the initial weights. `None` takes one over the root of the largest fan-in:
      inputs of unit variance then reach that layer with unit variance, and the others with less.

    **Raises:** `ValueError` in a call if the weights do not fit the layers.

    **Reference:** Hoover et al. 2022. With `W` given it is the `LinearSynapse` of the package
    `hamux`.
    """

    W: Float[Array, "..."] | None = eqx.field(converter=weights_field("W"), default=None)
    b: Float[Array, "..."] | None = eqx.field(converter=weights_field("b"), default=None)
    bias: bool = eqx.field(static=True, default=False, kw_only=True)
    std: float | None = eqx.field(static=True, converter=std_field, default=None, kw_only=True)

    def __check_init__(self):
        if self.W is not None and self.W.ndim < 2:
            raise ValueError(
                f"DenseSynapse: W must have an axis for each of at least two layers; shape "
                f"{self.W.shape} came. An energy of one layer is a BiasSynapse."
            )

    @classmethod
    def rand_init(cls, key: Key, x1_dim: int, x2_dim: int) -> "DenseSynapse":
        """A matrix between two layers, normal with spread 0.02, as in the package `hamux`."""
        return cls(normal(key, checks.shape((x1_dim, x2_dim), "rand_init"), 0.02))

    def init(self, key: Key, *shapes: ShapeLike) -> "DenseSynapse":
        """Draw the weights: see `AbstractSynapse.init`. At least two layers."""
        sizes = tuple(math.prod(s) for s in shapes_of(shapes, "DenseSynapse", 2))
        std = (min(sizes) / math.prod(sizes)) ** 0.5 if self.std is None else self.std
        b = jnp.zeros(sizes[-1]) if self.bias else None
        return DenseSynapse(normal(key, sizes, std), b, bias=self.bias, std=self.std)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the connected layers: a scalar."""
        gs, W = activations_of(self, xhats), weights(self.W)
        sizes = tuple(g.size for g in gs)
        full = sum((g.shape for g in gs), ())
        count(gs, "DenseSynapse", 2)
        if W.shape not in (sizes, full):
            raise ValueError(
                f"DenseSynapse: weights of shape {W.shape} must have an axis for each layer; "
                f"activations of shapes {[g.shape for g in gs]} came. "
                "Batches go through jax.vmap."
            )
        return -multilinear(W.reshape(sizes).astype(gs[0].dtype), gs) - bias_term(self.b, gs[-1])


def multilinear(W: Array, gs: list[Array]) -> Array:
    """Contract the last axes of `W` with flat activations, the last layer first."""
    for g in reversed(gs):
        W = W @ g.reshape(-1)
    return W


def bias_term(b: Array | None, g: Array) -> Array:
    """`sum(b * g)`, 0 without a bias; raise unless the bias has the size of the layer."""
    if b is None:
        return jnp.zeros((), g.dtype)
    if b.size != g.size:
        raise ValueError(
            f"bias: must have one entry for each unit of the layer; {b.shape} came for "
            f"activations of shape {g.shape}."
        )
    return jnp.sum(b.reshape(-1).astype(g.dtype) * g.reshape(-1))


class LinearSynapseWithBias(AbstractSynapse):
    r"""Connect two layers by a matrix and a bias on the second: see `DenseSynapse`.

    $$E = -\hat x^{1 \top} W \hat x^2 - b \cdot \hat x^2$$

    The name of the package `hamux` for `DenseSynapse(W, b)`.

    **Arguments:**

    - `W`: weights of shape `(d1, d2)`; `None` waits for `init`.
    - `b`: bias of shape `(d2,)`.

    **Raises:** `ValueError` in a call if the weights do not fit the layers.
    """

    lazy: ClassVar[tuple[str, ...]] = ("W", "b")

    W: Float[Array, "..."] | None = eqx.field(converter=weights_field("W"), default=None)
    b: Float[Array, "..."] | None = eqx.field(converter=weights_field("b"), default=None)

    @classmethod
    def rand_init(cls, key: Key, x1_dim: int, x2_dim: int) -> "LinearSynapseWithBias":
        """Normal weights and biases with spread 0.02, the bias from a key of its own."""
        rows, columns = checks.shape((x1_dim, x2_dim), "rand_init")
        bias = normal(jr.fold_in(key, 1), (columns,), 0.02)
        return cls(normal(key, (rows, columns), 0.02), bias)

    def init(self, key: Key, *shapes: ShapeLike) -> "LinearSynapseWithBias":
        """Draw the weights as `DenseSynapse` does, with a bias of 0. Two layers."""
        dense = DenseSynapse(bias=True).init(key, *shapes_of(shapes, "LinearSynapseWithBias", 2, 2))
        return LinearSynapseWithBias(dense.W, dense.b)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the two layers: a scalar."""
        return DenseSynapse(self.W, self.b)(*activations_of(self, xhats))


class BiasSynapse(AbstractSynapse):
    r"""A constant input to one layer.

    $$E = -\sum_i b_i \hat x_i$$

    **Arguments:**

    - `b`: the input, of the layer's shape or size; `None` waits for `init`.
    - `std`: spread of the initial values; 0 by default.

    **Raises:** `ValueError` in a call if `b` does not fit the layer.
    """

    lazy: ClassVar[tuple[str, ...]] = ("b",)

    b: Float[Array, "..."] | None = eqx.field(converter=weights_field("b"), default=None)
    std: float | None = eqx.field(static=True, converter=std_field, default=None, kw_only=True)

    def init(self, key: Key, *shapes: ShapeLike) -> "BiasSynapse":
        """Draw the bias: see `AbstractSynapse.init`. One layer."""
        (shape,) = shapes_of(shapes, "BiasSynapse", 1, 1)
        return BiasSynapse(normal(key, shape, self.std or 0.0), std=self.std)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the layer: a scalar."""
        gs = activations_of(self, xhats)
        count(gs, "BiasSynapse", 1, 1)
        return -bias_term(self.b, gs[0])


LinearSynapse = DenseSynapse
