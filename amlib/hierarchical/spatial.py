r"""Synapses between images: convolution, with or without pooling."""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._types import IntLike, Key, RealLike, Scalar, ShapeLike
from amlib.hierarchical.lagrangians import widen
from amlib.hierarchical.synapses import (
    AbstractSynapse,
    activations_of,
    count,
    normal,
    shapes_of,
    std_field,
    weights,
    weights_field,
)

POOLS = ("avg", "max")
LAYOUTS = {1: ("NWC", "OIW"), 2: ("NHWC", "OIHW"), 3: ("NDHWC", "OIDHW")}

Window: TypeAlias = int | tuple[int, ...]
"""A size or a step: one for all spatial axes, or one for each."""
Padding: TypeAlias = str | int | tuple[tuple[int, int], ...]
Pads: TypeAlias = str | Sequence[tuple[int, int]]
PaddingLike: TypeAlias = str | IntLike | Sequence[IntLike | Sequence[IntLike]]
_Entry = TypeVar("_Entry")


def _window_field(name: str) -> Callable[[ShapeLike], Window]:
    """The converter of a window or a stride: an int for all axes, or one for each."""

    def convert(value: ShapeLike) -> Window:
        found = checks.shape(value, f"ConvSynapse: {name}")
        return found if isinstance(value, tuple | list) else found[0]

    return convert


def _optional_window_field(name: str) -> Callable[[ShapeLike | None], Window | None]:
    """The converter of a window that may be left out."""
    convert = _window_field(name)
    return lambda value: None if value is None else convert(value)


def _padding_field(value: PaddingLike) -> Padding:
    """The converter of padding: a name, an int, or for each axis an int or a pair."""
    if isinstance(value, str):
        checks.choice(value.upper(), ("SAME", "VALID"), "ConvSynapse: padding")
        return value.upper()
    if not isinstance(value, Sequence):
        return checks.integer(value, 0, "ConvSynapse: padding")
    pairs = [p if isinstance(p, Sequence) else (p, p) for p in value]
    if any(len(p) != 2 for p in pairs):
        raise ValueError(
            f"ConvSynapse: padding must be 'SAME', 'VALID', an int, or for each axis an int or "
            f"a pair (before, after); {value!r} came."
        )
    before, after = (
        [checks.integer(pair[k], 0, "ConvSynapse: padding") for pair in pairs] for k in (0, 1)
    )
    return tuple(zip(before, after, strict=True))


def _per_axis(value: Window, axes: int, name: str) -> tuple[int, ...]:
    """One entry for each spatial axis."""
    return _all_axes(value if isinstance(value, tuple) else (value,) * axes, axes, name)


def _all_axes(value: tuple[_Entry, ...], axes: int, name: str) -> tuple[_Entry, ...]:
    """The same; raise unless there is one entry for each spatial axis."""
    if len(value) != axes:
        raise ValueError(
            f"ConvSynapse: {name} must have one entry for each of {axes} spatial axes; {value} "
            "came. The channels are the last axis of a layer, and have none."
        )
    return value


def pool(x: Array, size: tuple[int, ...], strides: tuple[int, ...], kind: str) -> Array:
    """The mean or maximum of every window that fits in an image `(*space, channels)`.

    XLA's window reductions do not have derivatives of every order; strided slices do.
    """
    space = x.shape[:-1]
    out = [(n - k) // s + 1 for n, k, s in zip(space, size, strides, strict=True)]
    if min(out) < 1:
        raise ValueError(f"ConvSynapse: the pool {size} must fit in the image; {space} came.")
    taken = places(x, size, strides, tuple(out))
    if kind == "max":
        return functools.reduce(jnp.maximum, taken)
    return functools.reduce(jnp.add, taken) / math.prod(size)


def convolve(x: Array, W: Array, strides: tuple[int, ...], padding: Pads) -> Array:
    """The convolution of an image `(*space, channels)` with `(channels out, in, *window)`.

    XLA's CPU backend needs thirty times as long for the second derivatives of its convolution,
    which training a HAM takes, as for those of one matrix product with all windows.
    """
    return lax.platform_dependent(
        x,
        W,
        cpu=lambda x, W: _windows_product(x, W, strides, padding),
        default=lambda x, W: _convolution(x, W, strides, padding),
    )


def _convolution(x: Array, W: Array, strides: tuple[int, ...], padding: Pads) -> Array:
    image, kernel = LAYOUTS[W.ndim - 2]
    y = lax.conv_general_dilated(
        x[None], W, strides, padding, dimension_numbers=(image, kernel, image)
    )
    return y[0]


def _windows_product(x: Array, W: Array, strides: tuple[int, ...], padding: Pads) -> Array:
    window = W.shape[2:]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[:-1], window, strides, padding)
    x = jnp.pad(x, [*padding, (0, 0)])
    out = [(n - k) // s + 1 for n, k, s in zip(x.shape[:-1], window, strides, strict=True)]
    if min(out) < 1:
        return jnp.zeros((*(max(0, n) for n in out), W.shape[0]), x.dtype)
    windows = jnp.stack(places(x, window, strides, tuple(out)), axis=-2)
    rows = windows.reshape(-1, windows.shape[-2] * windows.shape[-1])
    columns = jnp.moveaxis(W.reshape(*W.shape[:2], -1), 2, 1).reshape(W.shape[0], -1)
    return (rows @ columns.T).reshape(*out, W.shape[0])


def places(
    x: Array, size: tuple[int, ...], strides: tuple[int, ...], out: tuple[int, ...]
) -> list[Array]:
    """An image for each place in the window: a strided slice, with derivatives of every order."""

    def place(corner: tuple[int, ...]) -> Array:
        ends = [c + (n - 1) * s + 1 for c, n, s in zip(corner, out, strides, strict=True)]
        return lax.slice(x, (*corner, 0), (*ends, x.shape[-1]), (*strides, 1))

    return [place(corner) for corner in itertools.product(*map(range, size))]


class ConvSynapse(AbstractSynapse):
    r"""Connect an image to another by convolution, and perhaps pooling.

    $$E = -\sum \hat x^2 \odot (P(\hat x^1 * W) + b)$$

    Layers are `(*space, channels)`, with one to three spatial axes. The second layer receives the
    convolution of the first, pooled if there is a pool $P$; the first receives the transposed
    convolution of the second.

    **Arguments:**

    - `kernel_size`: size of the window, an int or one for each spatial axis.
    - `strides`: its steps, likewise.
    - `padding`: `"SAME"`, `"VALID"`, or the number of zeros before and after: an int, or for each
      spatial axis an int or a pair.
    - `W`: weights, `(channels out, channels in, *window)`; `None` waits for `init`, which learns
      the channels from the layers. With `W` given, `kernel_size` may be left out.
    - `b`: bias, one for each channel of the second layer; `None` for none, or for `init` to make.
    - `bias`: whether `init` makes a bias, at 0.
    - `pool`: `None`, `"avg"` or `"max"`.
    - `pool_size`, `pool_strides`: window and steps of the pool; steps are the window by default.
    - `std`: spread of the initial weights. `None` takes one over the root of the larger fan-in of
      the two directions, so that inputs of unit variance give at most unit variance.

    **Raises:** `ValueError` for windows and layers that do not fit.

    **Reference:** Hoover et al. 2022. The layout of `W` is that of the package `hamux`; its
    `window_strides` are the `strides` here.
    """

    kernel_size: Window | None = eqx.field(
        static=True, converter=_optional_window_field("kernel_size"), default=None
    )
    strides: Window = eqx.field(static=True, converter=_window_field("strides"), default=1)
    padding: Padding = eqx.field(static=True, converter=_padding_field, default="SAME")
    W: Float[Array, "..."] | None = eqx.field(converter=weights_field("W"), default=None)
    b: Float[Array, "..."] | None = eqx.field(converter=weights_field("b"), default=None)
    bias: bool = eqx.field(static=True, default=False, kw_only=True)
    pool: str | None = eqx.field(static=True, default=None, kw_only=True)
    pool_size: Window = eqx.field(
        static=True, converter=_window_field("pool_size"), default=2, kw_only=True
    )
    pool_strides: Window | None = eqx.field(
        static=True, converter=_optional_window_field("pool_strides"), default=None, kw_only=True
    )
    std: float | None = eqx.field(static=True, converter=std_field, default=None, kw_only=True)

    def __check_init__(self):
        if self.pool is not None:
            checks.choice(self.pool, POOLS, "ConvSynapse: pool")
        if self.W is None and self.kernel_size is None:
            raise ValueError(
                "ConvSynapse: needs kernel_size, or the weights W; neither came. "
                "For windows of 3 by 3: ConvSynapse((3, 3))."
            )
        if self.W is None:
            return
        window = self.W.shape[2:]
        if len(window) not in LAYOUTS or 0 in self.W.shape:
            raise ValueError(
                f"ConvSynapse: W must have shape (channels out, channels in, *window) with one "
                f"to three axes of the window; {self.W.shape} came."
            )
        if (
            self.kernel_size is not None
            and _per_axis(self.kernel_size, len(window), "kernel_size") != window
        ):
            raise ValueError(
                f"ConvSynapse: W of shape {self.W.shape} must end in the kernel_size; "
                f"{self.kernel_size} came. With W given, kernel_size may be left out."
            )

    @classmethod
    def from_conv_params(
        cls,
        key: Key,
        channels_out: int,
        channels_in: int,
        filter_shape: ShapeLike,
        window_strides: ShapeLike,
        padding: PaddingLike = "SAME",
        mu: float = 0.5,
        sigma: float = 0.01,
    ) -> "ConvSynapse":
        """Draw the weights at once, normal around `mu` with spread `sigma`, as `hamux` does."""
        window = checks.shape(filter_shape, "from_conv_params: filter_shape")
        sizes = checks.shape((channels_out, channels_in, *window), "from_conv_params")
        return cls(window, window_strides, padding, jr.normal(key, sizes) * sigma + mu)

    def init(self, key: Key, *shapes: ShapeLike) -> "ConvSynapse":
        """Draw the weights: see `AbstractSynapse.init`. Two layers, the second is the output."""
        first, second = shapes_of(shapes, "ConvSynapse", 2, 2)
        axes = len(first) - 1
        if axes not in LAYOUTS or len(second) != len(first):
            raise ValueError(
                f"ConvSynapse: both layers must have shape (*space, channels) with one to three "
                f"spatial axes; {first} and {second} came."
            )
        window = self._window(axes)
        steps = math.prod(_per_axis(self.strides, axes, "strides"))
        fans = first[-1] * math.prod(window), second[-1] * math.prod(window) / steps
        std = max(fans) ** -0.5 if self.std is None else self.std
        sizes = (second[-1], first[-1], *window)

        def lay(W: Array) -> ConvSynapse:
            b = jnp.zeros(second[-1]) if self.bias else None
            return eqx.tree_at(lambda s: (s.W, s.b), self, (W, b), is_leaf=lambda x: x is None)

        examples = (jax.ShapeDtypeStruct(s, jnp.float32) for s in (sizes, first))
        made = jax.eval_shape(lambda W, x: lay(W).forward(x), *examples).shape
        _same_image(self, first, made, second)
        return lay(normal(key, sizes, std))

    def _window(self, axes: int) -> tuple[int, ...]:
        """The size of the window along each spatial axis."""
        given = self.kernel_size if self.W is None else self.W.shape[2:]
        return _per_axis(() if given is None else given, axes, "kernel_size")

    def forward(self, x: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
        """What the second layer receives, without the bias: the convolution, then the pool.

        **Arguments:**

        - `x`: activations of the first layer, `(*space, channels)`.

        **Returns:** an image with the channels of the second layer.

        **Raises:** `ValueError` for a wrong shape or missing weights.
        """
        (x,) = activations_of(self, (x,))
        W = weights(self.W).astype(x.dtype)
        axes = W.ndim - 2
        if x.ndim != axes + 1 or x.shape[-1] != W.shape[1]:
            raise ValueError(
                f"ConvSynapse: weights of shape {W.shape} take an image of {axes} spatial "
                f"axes and {W.shape[1]} channels; {x.shape} came. Batches go through jax.vmap."
            )
        strides = _per_axis(self.strides, axes, "strides")
        padding = self.padding
        if isinstance(padding, int):
            padding = [(padding, padding)] * axes
        elif isinstance(padding, tuple):
            padding = _all_axes(padding, axes, "padding")
        y = convolve(x, W, strides, padding)
        if 0 in y.shape:
            raise ValueError(
                f"ConvSynapse: the window {W.shape[2:]} must fit in the image; {x.shape} came. "
                "Pad it, or take a smaller kernel_size."
            )
        if self.pool is None:
            return y
        size = _per_axis(self.pool_size, axes, "pool_size")
        steps = size if self.pool_strides is None else self.pool_strides
        return pool(y, size, _per_axis(steps, axes, "pool_strides"), self.pool)

    def example_output(
        self, x: Shaped[ArrayLike, "..."], channels: IntLike = 1
    ) -> Float[Array, "..."]:
        """What the second layer would receive, to learn its shape.

        **Arguments:**

        - `x`: an example of the first layer.
        - `channels`: of the second layer, where there are no weights yet; these are then drawn
          with a fixed key.

        **Returns:** an image with that many channels, or those of the weights.
        """
        if self.is_init:
            return self.forward(x)
        x = widen(x, "example_output")
        channels = checks.integer(channels, 1, "example_output: channels")
        window = self._window(x.ndim - 1)
        sizes = (channels, *x.shape[-1:], *window)
        drawn = normal(jr.key(0), sizes, math.prod(sizes[1:]) ** -0.5)
        return eqx.tree_at(lambda s: s.W, self, drawn, is_leaf=lambda a: a is None).forward(x)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the two images: a scalar."""
        gs = activations_of(self, xhats)
        count(gs, "ConvSynapse", 2, 2)
        made = self.forward(gs[0])
        _same_image(self, gs[0].shape, made.shape, gs[1].shape)
        if self.b is not None:
            if self.b.shape != made.shape[-1:]:
                raise ValueError(
                    f"ConvSynapse: b must have one entry for each of {made.shape[-1]} channels; "
                    f"{self.b.shape} came."
                )
            made = made + jnp.broadcast_to(self.b.astype(made.dtype), made.shape)
        return -jnp.sum(gs[1] * made)


def _same_image(
    synapse: ConvSynapse, first: tuple[int, ...], made: tuple[int, ...], second: tuple[int, ...]
) -> None:
    """Raise unless what the first layer becomes has the shape of the second."""
    if made == second:
        return
    pooled = "" if synapse.pool is None else f", {synapse.pool} pool {synapse.pool_size}"
    raise ValueError(
        f"ConvSynapse: layers of shapes {first} and {second} do not fit: strides "
        f"{synapse.strides}, padding {synapse.padding!r}{pooled} make an image of shape {made} "
        f"of the first. Give the second layer that shape."
    )


def ConvPoolSynapse(
    kernel_size: ShapeLike,
    strides: ShapeLike = 1,
    padding: PaddingLike = "SAME",
    pool: str | None = "avg",
    pool_size: ShapeLike = 2,
    pool_strides: ShapeLike | None = None,
    bias: bool = False,
    std: RealLike | None = None,
) -> ConvSynapse:
    """A `ConvSynapse` whose images are pooled: by the mean, or `pool="max"`."""
    return ConvSynapse(
        kernel_size,
        strides,
        padding,
        pool=pool,
        pool_size=pool_size,
        pool_strides=pool_strides,
        bias=bias,
        std=std,
    )
