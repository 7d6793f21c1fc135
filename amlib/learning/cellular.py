"""A cellular automaton as a reconstructor."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float

from amlib import _checks as checks
from amlib._types import Key
from amlib.learning.reconstructors import SPACES, AbstractReconstructor, squash


class Conv2dReconstructor(AbstractReconstructor):
    r"""A cellular automaton: a pixel is rebuilt from its neighbours, all by the same rule.

    $$h = V \sigma(\dots \sigma(k * x + a)) + v$$

    with a convolution $k$ that has no centre, rectifiers $\sigma$, and then only layers that mix
    the channels of one pixel: a second wider convolution would let a pixel see itself through its
    neighbours. The centre is not stored and so cannot be learned. Outside of the picture is
    background (0). There is no energy: the rule is not symmetric.

    **Arguments:**

    - `shape`: of a state: `(height, width)` or `(channels, height, width)`.
    - `filters`: number of features of a pixel.
    - `kernel_size`: side of the neighbourhood, odd, at least 3.
    - `depth`: number of layers of rectifiers, at least 1.
    - `states`: `"spins"` (-1/+1) or `"bits"` (0/1).
    - `key`: draws the weights.

    **Raises:** `ValueError` for a shape that is no picture, an even kernel size, a size below 1.

    **Reference:** Gilpin 2019 (arXiv 1809.02942), with the centre left out.
    """

    kernel: Float[Array, "C N F"]
    biases: tuple[Float[Array, " F"], ...]
    mixers: tuple[Float[Array, "F F"], ...]
    out: Float[Array, "C F"]
    out_bias: Float[Array, " C"]
    shape: tuple[int, ...] = eqx.field(static=True)
    kernel_size: int = eqx.field(static=True)
    states: str = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, ...],
        *,
        filters: int = 64,
        kernel_size: int = 5,
        depth: int = 1,
        states: str = "spins",
        key: Key,
    ):
        where = "Conv2dReconstructor"
        checks.choice(states, SPACES, f"{where}: states")
        shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        if len(shape) not in (2, 3):
            raise ValueError(
                f"{where}: shape must be (height, width) or (channels, height, width); {shape} "
                "came. A flat picture is reshaped first: x.reshape(28, 28)."
            )
        self.shape = tuple(checks.integer(n, 1, f"{where}: shape") for n in shape)
        F = checks.integer(filters, 1, f"{where}: filters")
        k = checks.integer(kernel_size, 1, f"{where}: kernel_size")
        depth = checks.integer(depth, 1, f"{where}: depth")
        if k % 2 == 0 or k < 3:
            raise ValueError(
                f"{where}: kernel_size must be odd and at least 3, to have a centre and "
                f"neighbours; {k} came."
            )
        C = 1 if len(shape) == 2 else self.shape[0]
        dtype, N = jnp.result_type(float), k * k - 1
        keys = jr.split(key, depth + 1)
        self.kernel = math.sqrt(2 / (C * N)) * jr.normal(keys[0], (C, N, F), dtype)
        self.mixers = tuple(
            math.sqrt(2 / F) * jr.normal(keys[i], (F, F), dtype) for i in range(1, depth)
        )
        self.biases = tuple(jnp.zeros((F,), dtype) for _ in range(depth))
        self.out = math.sqrt(1 / F) * jr.normal(keys[-1], (C, F), dtype)
        self.out_bias = jnp.zeros((C,), dtype)
        self.kernel_size, self.states = k, states

    def field(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """What its neighbourhood says about each pixel."""
        C, k = self.out.shape[0], self.kernel_size
        height, width = self.shape[-2:]
        image = jnp.moveaxis(x.reshape(C, height, width), 0, -1)
        image = jnp.pad(image, ((k // 2, k // 2), (k // 2, k // 2), (0, 0)))
        around = [(i, j) for i in range(k) for j in range(k) if (i, j) != (k // 2, k // 2)]
        views = jnp.stack([image[i : i + height, j : j + width] for i, j in around], axis=-1)
        # One matrix product: convolutions of few channels are slow on a CPU, above all to train.
        y = views.reshape(height * width, -1) @ self.kernel.reshape(-1, self.kernel.shape[-1])
        y = jax.nn.relu(y + self.biases[0][None])
        for mix, bias in zip(self.mixers, self.biases[1:], strict=True):
            y = jax.nn.relu(y @ mix + bias[None])
        h = jnp.moveaxis((y @ self.out.T + self.out_bias[None]).reshape(height, width, C), -1, 0)
        return h.reshape(self.shape)

    def soft(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$\tanh h(x)$ for spins, $\frac12(1 + \tanh h(x))$ for bits."""
        return squash(self.field(x), self.states)
