"""Sums of energy differences over memories, for all labels of a batch: the classifier's kernel."""

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

ArrayFn: TypeAlias = Callable[[Array], Array]


class Power(NamedTuple):
    """A power, rectified or not, with its slope."""

    n: int
    rectified: bool

    def __call__(self, r: Array) -> Array:
        return (jnp.maximum(r, 0) if self.rectified else r) ** self.n

    def slope(self, r: Array) -> Array:
        """The derivative."""
        return self.n * (jnp.maximum(r, 0) if self.rectified else r) ** (self.n - 1)


class Elementwise(NamedTuple):
    """Any function that acts on each element alone, with its slope."""

    F: ArrayFn

    def __call__(self, r: Array) -> Array:
        return self.F(r)

    def slope(self, r: Array) -> Array:
        """The derivative, by automatic differentiation."""
        return jax.jvp(self.F, (r,), (jnp.ones_like(r),))[1]


Summand: TypeAlias = Power | Elementwise


def energy_function(n: int | ArrayFn, rectified: bool) -> Summand:
    """What is summed over memories: a power if `n` is a number, else `n` itself."""
    return Power(n, rectified) if isinstance(n, int) else Elementwise(n)


def label_sums(
    F: Summand, base: Float[Array, "B K"], L: Float[Array, "K C"]
) -> Float[Array, "B C"]:
    r"""How much the memories favour each label, for a batch of pictures.

    $$s_a = \sum_\mu F(b_\mu + 2 L_{\mu a}) - F(b_\mu)$$

    Neither this nor its gradient holds an array of `B K C` numbers: they go over the pictures in
    blocks that stay in the processor's cache, and over the labels one by one, each in one fused
    pass. (Written as one broadcast, they take four times as long on a CPU.) Reverse-mode
    derivatives only; `jax.jvp` goes through `DenseAMClassifier.__call__`.

    **Arguments:**

    - `F`: the function summed.
    - `base`: the overlaps of each picture with all labels at -1.
    - `L`: the memories' label weights.
    """
    if isinstance(F, Elementwise) and F.F is jnp.exp:
        # exp(b + 2L) - exp(b) factorises: one product, and no cancellation where L is small.
        return jnp.exp(base) @ jnp.expm1(2 * L)
    return _label_sums(F, base, L)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _label_sums(
    F: Summand, base: Float[Array, "B K"], L: Float[Array, "K C"]
) -> Float[Array, "B C"]:
    def block(b: Array) -> Array:
        low = F(b)
        sums = [jnp.sum(F(b + 2 * L[None, :, a]) - low, axis=1) for a in range(L.shape[1])]
        return jnp.stack(sums, axis=1)

    out = lax.map(block, _blocks(base))
    return out.reshape(-1, L.shape[1])[: base.shape[0]]


def _forward(F: Summand, base: Array, L: Array) -> tuple[Array, tuple[Array, Array]]:
    return _label_sums(F, base, L), (base, L)


def _backward(F: Summand, kept: tuple[Array, Array], G: Array) -> tuple[Array, Array]:
    base, L = kept
    B, K = base.shape

    def block(dL: Array, now: tuple[Array, Array]) -> tuple[Array, Array]:
        b, g = now
        db = -F.slope(b) * g.sum(axis=1, keepdims=True)
        columns = []
        for a in range(L.shape[1]):
            share = F.slope(b + 2 * L[None, :, a]) * g[:, a, None]
            db = db + share
            columns.append(2 * share.sum(axis=0))
        return dL + jnp.stack(columns), db

    # Rows that fill up the last block have g = 0: they add nothing.
    start = jnp.zeros((L.shape[1], K), L.dtype)
    dL, db = lax.scan(block, start, (_blocks(base), _blocks(G)))
    return db.reshape(-1, K)[:B], dL.T


_label_sums.defvjp(_forward, _backward)


def _blocks(x: Array) -> Array:
    """Rows in blocks, filled up with zeros: some fifty on a CPU, whose cache they must fit."""
    rows = 50 if jax.default_backend() == "cpu" else 1000
    count = -(-x.shape[0] // rows)
    size = -(-x.shape[0] // count)
    padded = jnp.pad(x, ((0, count * size - x.shape[0]), (0, 0)))
    return padded.reshape(count, size, x.shape[1])


def iterate(
    F: Summand,
    h: Float[Array, " K"],
    L: Float[Array, "K C"],
    steps: int,
    discrete: bool,
) -> Float[Array, " C"]:
    r"""Update all labels at once, from -1, with the pixels clamped.

    $$c_a \leftarrow g\Big[\sum_\mu F(h_\mu + \sum_{b \neq a} L_{\mu b} c_b + L_{\mu a})
    - F(h_\mu + \sum_{b \neq a} L_{\mu b} c_b - L_{\mu a})\Big]$$

    **Arguments:**

    - `h`: the overlaps of the pixels alone.
    - `steps`: how many updates.
    - `discrete`: whether $g$ is the sign (a tie switches a label off) or tanh.
    """

    def update(_: Array | int, c: Array) -> Array:
        rest = (h + L @ c)[:, None] - L * c[None]
        s = jnp.sum(F(rest + L) - F(rest - L), axis=0)
        return jnp.where(s > 0, 1.0, -1.0).astype(s.dtype) if discrete else jnp.tanh(s)

    return lax.fori_loop(0, steps, update, -jnp.ones(L.shape[1], L.dtype))
