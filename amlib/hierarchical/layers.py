r"""Layers: a Lagrangian, a shape and a time constant."""

from collections.abc import Callable, Hashable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import (
    AxisLike,
    IntLike,
    LagrangianFn,
    Scalar,
    ScalarLike,
    Shape,
    ShapeLike,
)
from amlib.hierarchical import lagrangians as lagr
from amlib.hierarchical.lagrangians import widen

CHECK_BELOW = 4096
"""Layers of more units than this are not probed for convexity."""


def _parameter(value: Shaped[ArrayLike, "..."], where: str) -> Array:
    """A trainable array: with a dtype of its own, which a Python number would not give it."""
    value = checks.as_float(value, where)
    return value.astype(value.dtype)


def _fixed(options: Mapping[str, Hashable | list[int]]) -> tuple[tuple[str, Hashable], ...]:
    """Options as a part of the structure, which JAX hashes: a list of axes becomes a tuple."""
    return tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in sorted(options.items()))


class Lagrangian(eqx.Module):
    r"""A Lagrangian with its parameters: the ones given as numbers or arrays can be trained.

    `Lagrangian(lagr_softmax, {"beta": 0.1}, {"axis": 0})` maps `x` to
    `lagr_softmax(x, beta=0.1, axis=0)`. The function and the options are part of the structure,
    not of the data, so a layer passes through `jax.jit`, `jax.grad` and `jax.vmap` as it is.

    **Arguments:**

    - `function`: maps a state, and these keyword arguments, to a scalar.
    - `parameters`: keyword arguments that become arrays.
    - `options`: keyword arguments that stay as they are: axes, integer powers.

    **Raises:** `TypeError` if `function` cannot be called.
    """

    function: Callable[..., Array] = eqx.field(static=True)
    parameters: dict[str, Array] = eqx.field(
        converter=lambda p: {k: _parameter(v, k) for k, v in dict(p).items()},
        default_factory=dict,
    )
    options: tuple[tuple[str, Hashable], ...] = eqx.field(
        static=True, converter=lambda o: _fixed(dict(o)), default=()
    )

    __repr__ = show.text

    def __check_init__(self):
        if not callable(self.function):
            raise TypeError(f"Lagrangian: must be callable; {type(self.function).__name__} came.")

    def __call__(self, x: Shaped[ArrayLike, "..."]) -> Scalar:
        """The Lagrangian of a state: a scalar."""
        return self.function(x, **self.parameters, **dict(self.options))

    @property
    def name(self) -> str:
        """A short text: `tanh(beta=1)`."""
        name = getattr(self.function, "__name__", type(self.function).__name__)
        values = {k: show.line(v) for k, v in self.parameters.items()}
        values |= {k: show.line(v) for k, v in self.options}
        listed = ", ".join(f"{k}={v}" for k, v in values.items())
        return name.removeprefix("lagr_") + (f"({listed})" if listed else "")


def lagrangian_field(value: LagrangianFn) -> LagrangianFn:
    """The converter of a Lagrangian: a plain function becomes part of the structure."""
    if not callable(value):
        raise TypeError(
            f"lagrangian: must be a function of a state, such as lagr_tanh; "
            f"{type(value).__name__} came."
        )
    is_leaf = len(jax.tree.leaves(value)) == 1 and jax.tree.leaves(value)[0] is value
    return Lagrangian(value) if is_leaf else value


def lagrangian_name(value: LagrangianFn) -> str:
    """A short text for any Lagrangian."""
    if isinstance(value, Lagrangian):
        return value.name
    function = getattr(value, "func", value)  # jax.tree_util.Partial and eqx.Partial
    return getattr(function, "__name__", type(value).__name__).removeprefix("lagr_")


def check_lagrangian(lagrangian: LagrangianFn, shape: Shape, where: str) -> None:
    """Raise unless it maps a state of this shape to one real scalar and, if cheap, is convex."""
    dtype = jnp.result_type(float)
    checks.scalar_output(
        lagrangian,
        jax.ShapeDtypeStruct(shape, dtype),
        f"{where}: the Lagrangian must map a state of shape {shape} to one real scalar",
        "Sum over the units (jnp.sum).",
    )
    known = isinstance(lagrangian, Lagrangian) and lagrangian.function in lagr.CONVEX
    concrete = all(checks.is_concrete(a) for a in jax.tree.leaves(lagrangian))
    size = int(np.prod(shape))
    if not known and concrete and size <= CHECK_BELOW:
        _check_convex(lagrangian, shape, where)


def _check_convex(lagrangian: LagrangianFn, shape: Shape, where: str) -> None:
    """The gradient of a convex function never turns back along a segment: look at a few."""
    rng = np.random.default_rng(0)
    dtype = np.dtype(jnp.result_type(float))
    with jax.ensure_compile_time_eval():
        gradient = jax.jit(jax.grad(lambda x: lagrangian(x)))
        for centre, spread in ((0.0, 1.0), (-2.0, 0.5), (2.0, 0.5), (0.0, 4.0)):
            middle = centre + spread * rng.standard_normal(shape)
            step = 0.3 * rng.standard_normal(shape)
            a, b = ((middle + s * step).astype(dtype) for s in (1, -1))
            ga, gb = (gradient(jnp.asarray(v)) for v in (a, b))
            if not all(checks.is_concrete(g) for g in (ga, gb)):
                return
            ga, gb = np.asarray(ga, float), np.asarray(gb, float)
            turn = float(np.sum((ga - gb) * (a.astype(float) - b.astype(float))))
            scale = float(np.sqrt(np.sum(ga**2 + gb**2) * np.sum(step**2)))
            if turn < -1e-4 * scale:
                raise ValueError(
                    f"{where}: the Lagrangian must be convex, or the energy need not fall; "
                    f"between two states the product of the differences of gradient and state is "
                    f"{turn:.3g}, and must not be negative. Is its sign right?"
                )


def shape_field(value: ShapeLike) -> Shape:
    """The converter of the shape of a layer: an int is one axis."""
    return checks.shape(value, "shape")


class NeuronLayer(eqx.Module):
    r"""A layer of neurons: a Lagrangian, whose gradient is the activation, and a shape.

    $$\hat x = \nabla L(x), \qquad E(\hat x, x) = \hat x \cdot x - L(x), \qquad
    \tau \frac{dx}{dt} = -\frac{\partial E_\text{total}}{\partial \hat x}$$

    The layer holds no state. Its methods take one example of exactly its shape; a batch goes
    through `jax.vmap`. Ready-made layers: `TanhLayer`, `SoftmaxLayer` and the others here.

    **Arguments:**

    - `lagrangian`: maps a state to a scalar, and is convex; the energy falls only then. Its array
      leaves are trainable: see `Lagrangian`.
    - `shape`: the shape of the state, an int or a tuple of ints, each at least 1.
    - `tau`: time constant, > 0, in units of the flow's time; trainable.

    **Raises:** `TypeError` if the Lagrangian cannot be called; `ValueError` if it does not give a
    scalar, if a few probes show that it is not convex (layers of up to `CHECK_BELOW` units, and
    functions that amlib does not know), or if `shape` or `tau` is out of range.

    **Reference:** Krotov and Hopfield 2021 (arXiv 2008.06996), eq. 1 to 4; Hoover et al. 2022.
    """

    lagrangian: LagrangianFn = eqx.field(converter=lagrangian_field)
    shape: Shape = eqx.field(static=True, converter=shape_field)
    tau: Scalar = eqx.field(
        converter=lambda t: _parameter(checks.positive_field("tau")(t), "tau"), default=1.0
    )

    def __check_init__(self):
        check_lagrangian(self.lagrangian, self.shape, "NeuronLayer")

    def activations(self, x: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
        r"""What the layer sends: $\hat x = \nabla L(x)$.

        **Arguments:**

        - `x`: a state of the layer's shape.

        **Returns:** the activations, of the same shape and dtype.

        **Raises:** `ValueError` for a wrong shape.
        """
        x = checks.as_float(x, "activations")
        checks.state_shape(x, self.shape, "activations")
        return jax.grad(self.lagrangian)(x)

    def energy(self, xhat: Shaped[ArrayLike, "..."], x: Shaped[ArrayLike, "..."]) -> Scalar:
        r"""The layer's part of the energy: the Legendre transform of its Lagrangian.

        $$E(\hat x, x) = \hat x \cdot x - L(x)$$

        The two arguments are independent. The derivative in $\hat x$ is the state $x$ itself,
        and never differentiates an activation. The one in $x$ is $\hat x - \nabla L(x)$: zero at
        $\hat x = \nabla L(x)$. It is written without a special rule, so derivatives of every
        order, in both arguments and in the Lagrangian's parameters, are the true ones.

        **Arguments:**

        - `xhat`: activations of the layer's shape.
        - `x`: a state of the layer's shape.

        **Returns:** a scalar, in single precision at least.

        **Raises:** `ValueError` for a wrong shape.

        **Reference:** the package `hamux` drops the derivatives in $x$ and in the parameters.
        """
        xhat, x = widen(xhat, "energy: xhat"), widen(x, "energy: x")
        checks.state_shape(xhat, self.shape, "energy: xhat")
        checks.state_shape(x, self.shape, "energy: x")
        return jnp.sum(xhat.astype(x.dtype) * x) - self.lagrangian(x)

    def sigma(self, x: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
        """Another name for `activations`."""
        return self.activations(x)

    def E(self, xhat: Shaped[ArrayLike, "..."], x: Shaped[ArrayLike, "..."]) -> Scalar:
        """Another name for `energy`."""
        return self.energy(xhat, x)

    def init(self, bs: IntLike | None = None) -> Float[Array, "..."]:
        """The zero state.

        **Arguments:**

        - `bs`: the size of a batch; `None` or 0 for a single state without a batch axis.

        **Returns:** zeros of shape `shape` or `(bs, *shape)`.

        **Raises:** `ValueError` for a negative size, `TypeError` if it is no integer.
        """
        if bs is None:
            return jnp.zeros(self.shape)
        batch = checks.integer(bs, 0, "init: bs")
        return jnp.zeros((batch, *self.shape) if batch else self.shape)

    @property
    def size(self) -> int:
        """The number of units."""
        return int(np.prod(self.shape))

    @property
    def name(self) -> str:
        """The Lagrangian in short: `tanh(beta=1)`."""
        return lagrangian_name(self.lagrangian)

    def __repr__(self) -> str:
        return f"NeuronLayer({self.name}, shape={self.shape}, tau={show.line(self.tau)})"


def IdentityLayer(shape: ShapeLike, tau: ScalarLike = 1.0) -> NeuronLayer:
    """A layer with the identity for activation: see `lagr_identity` and `NeuronLayer`."""
    return NeuronLayer(Lagrangian(lagr.lagr_identity), shape, tau)


def ReluLayer(shape: ShapeLike, tau: ScalarLike = 1.0) -> NeuronLayer:
    """A layer of rectifiers: see `lagr_relu` and `NeuronLayer`."""
    return NeuronLayer(Lagrangian(lagr.lagr_relu), shape, tau)


def RepuLayer(shape: ShapeLike, n: ScalarLike = 2, tau: ScalarLike = 1.0) -> NeuronLayer:
    """A layer of rectified powers; `n` is the power of the Lagrangian: see `lagr_repu`."""
    return NeuronLayer(Lagrangian(lagr.lagr_repu, {}, {"n": n}), shape, tau)


def ExpLayer(shape: ShapeLike, beta: ScalarLike = 1.0, tau: ScalarLike = 1.0) -> NeuronLayer:
    """A layer of exponentials: see `lagr_exp`."""
    return NeuronLayer(Lagrangian(lagr.lagr_exp, {"beta": beta}), shape, tau)


def RexpLayer(shape: ShapeLike, beta: ScalarLike = 1.0, tau: ScalarLike = 1.0) -> NeuronLayer:
    """A layer of rectified exponentials: see `lagr_rexp`."""
    return NeuronLayer(Lagrangian(lagr.lagr_rexp, {"beta": beta}), shape, tau)


def TanhLayer(shape: ShapeLike, beta: ScalarLike = 1.0, tau: ScalarLike = 1.0) -> NeuronLayer:
    """A layer of hyperbolic tangents: see `lagr_tanh`."""
    return NeuronLayer(Lagrangian(lagr.lagr_tanh, {"beta": beta}), shape, tau)


def SigmoidLayer(shape: ShapeLike, beta: ScalarLike = 1.0, tau: ScalarLike = 1.0) -> NeuronLayer:
    """A layer of logistic sigmoids: see `lagr_sigmoid`."""
    return NeuronLayer(Lagrangian(lagr.lagr_sigmoid, {"beta": beta}), shape, tau)


def SoftmaxLayer(
    shape: ShapeLike, beta: ScalarLike = 1.0, axis: AxisLike = -1, tau: ScalarLike = 1.0
) -> NeuronLayer:
    """A layer of probabilities: see `lagr_softmax`."""
    return NeuronLayer(Lagrangian(lagr.lagr_softmax, {"beta": beta}, {"axis": axis}), shape, tau)


def LayerNormLayer(
    shape: ShapeLike,
    gamma: ScalarLike = 1.0,
    delta: Shaped[ArrayLike, "..."] = 0.0,
    axis: AxisLike = -1,
    eps: float = 1e-5,
    tau: ScalarLike = 1.0,
) -> NeuronLayer:
    """A layer with layer normalisation for activation: see `lagr_layernorm`."""
    trained, fixed = {"gamma": gamma, "delta": delta}, {"axis": axis, "eps": eps}
    return NeuronLayer(Lagrangian(lagr.lagr_layernorm, trained, fixed), shape, tau)


def SphericalNormLayer(
    shape: ShapeLike,
    gamma: ScalarLike = 1.0,
    delta: Shaped[ArrayLike, "..."] = 0.0,
    axis: AxisLike = -1,
    eps: float = 1e-5,
    tau: ScalarLike = 1.0,
) -> NeuronLayer:
    """A layer whose activations lie on a sphere: see `lagr_spherical_norm`."""
    trained, fixed = {"gamma": gamma, "delta": delta}, {"axis": axis, "eps": eps}
    return NeuronLayer(Lagrangian(lagr.lagr_spherical_norm, trained, fixed), shape, tau)


def GhostmaxLayer(
    shape: ShapeLike, beta: ScalarLike = 1.0, axis: AxisLike = None, tau: ScalarLike = 1.0
) -> NeuronLayer:
    """A layer of probabilities that may all be small: see `lagr_ghostmax`."""
    return NeuronLayer(Lagrangian(lagr.lagr_ghostmax, {"beta": beta}, {"axis": axis}), shape, tau)
