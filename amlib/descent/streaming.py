r"""Log-sum-exp over many memories in blocks, with derivatives in blocks.

$$L = \log \sum_{\mu=1}^{K} \exp s(\xi_\mu, \theta)$$

for any scores $s$ of memories (rows of `Xi`) under parameters $\theta$ (a pytree: the state,
`beta`, ...). One pass over the blocks yields $L$ and $\partial L / \partial \theta$ together, by
running maxima, so a gradient step costs two matrix products per block and no array of all `K`
scores ever exists: memory beyond `Xi` is O(block) per query. The rows of `Xi` have blocked
derivatives too, and so have derivatives of derivatives.

Scores are a module-level function `score(rows, theta)`, with no arrays of its own. Under
`jax.vmap` over queries its products `rows @ x` become matrix products.
"""

import functools
import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from amlib import _shards as shards

Score: TypeAlias = Callable[[PyTree, PyTree], Array]
_Online: TypeAlias = tuple[Array, Array, PyTree]
_Carry = TypeVar("_Carry")

STREAM_ABOVE = 2**14
"""Sums over more memories than this are streamed; smaller ones are computed whole."""

BLOCK = 2**11
"""Memories per block: at 1,024 queries in float32 a block of scores takes 8 MB."""

LAUNCHED = 2**16
"""Both of them on a GPU, which starts a program for each step of a block: of a million memories of
64 floats an H200 asked blocks of 2,048 in 10 ms for 256 queries, and these in 3 (2 with no blocks
at all). At 1,024 queries a block takes 256 MB."""


def logsumexp(
    score: Score, rows: PyTree, theta: PyTree, *, block: int | None = None
) -> Float[Array, ""]:
    r"""The logarithm of the sum over memories of $\exp s$, streamed where there are many.

    **Arguments:**

    - `score`: from some memories and `theta` to their scores; a module-level function.
    - `rows`: the stored patterns, or a pytree of arrays that share their first axis `K`.
    - `theta`: everything else that the scores depend on.
    - `block`: memories per block. `None` chooses: all at once up to `STREAM_ABOVE` memories,
      blocks of about `BLOCK` beyond; on a GPU or TPU, `LAUNCHED` for both. Of rows that devices
      share, it is counted on each of them.

    **Returns:** $L$. The same value and derivatives either way, but for rounding.
    """
    K: int = jax.tree.leaves(rows)[0].shape[0]
    # Each device streams its own rows: a block that it shares with others would be sent around.
    parts = math.gcd(K, shards.devices(rows, theta))
    own = K // parts
    if block is None:
        above, size = STREAM_ABOVE, BLOCK
        if jax.default_backend() != "cpu":
            above = size = LAUNCHED
        block = own if own <= above else size
    if block >= own:
        return jax.nn.logsumexp(score(rows, theta))
    block = even(own, int(block))
    if parts == 1:
        return _streamed(rows, theta, score, block)
    apart = jax.tree.map(lambda a: a.reshape(parts, own, *a.shape[1:]), rows)
    return jax.nn.logsumexp(jax.vmap(lambda rows: _streamed(rows, theta, score, block))(apart))


def even(K: int, block: int) -> int:
    """The largest divisor of `K` up to `block`, if it is not too small; else `block`."""
    for size in range(block, block // 4, -1):
        if K % size == 0:
            return size
    return block


# -- the derivative rules ----------------------------------------------------------------------
# Both rules cover every array: `theta` by the gradient that the online pass yields, `rows` by
# `_rows_tangent`. What they compute is written in functions that have derivatives again.


@eqx.filter_custom_jvp
def _streamed(rows: PyTree, theta: PyTree, score: Score, block: int) -> Array:
    return _online(rows, theta, score, block, with_grad=False)[0]


@_streamed.def_jvp
def _(primals, tangents):
    rows, theta, score, block = primals
    t_rows, t_theta, *_ = tangents
    if none(t_theta):
        total = _streamed(rows, theta, score, block)
        return total, _rows_tangent(rows, t_rows, theta, total, score, block)
    total, grad = _with_grad(rows, theta, score, block)
    tangent = inner(grad, t_theta)
    if not none(t_rows):
        tangent = tangent + _rows_tangent(rows, t_rows, theta, total, score, block)
    return total, tangent


@eqx.filter_custom_jvp
def _with_grad(rows: PyTree, theta: PyTree, score: Score, block: int) -> tuple[Array, PyTree]:
    return _online(rows, theta, score, block, with_grad=True)


@_with_grad.def_jvp
def _(primals, tangents):
    rows, theta, score, block = primals
    t_rows, t_theta, *_ = tangents
    total, grad = _with_grad(rows, theta, score, block)
    t_total = jnp.zeros_like(total)
    if not none(t_theta):
        t_total = t_total + inner(grad, t_theta)
    if not none(t_rows):
        t_total = t_total + _rows_tangent(rows, t_rows, theta, total, score, block)
    zeros = jax.tree.map(jnp.zeros_like, theta)
    t_theta = filled(t_theta, theta)
    if none(t_rows):
        t_grad = _grad_tangent(rows, None, theta, t_theta, total, t_total, score, block, zeros)
    else:
        t_rows = filled(t_rows, rows)
        t_grad = _grad_tangent(rows, t_rows, theta, t_theta, total, t_total, score, block, zeros)
    return (total, grad), (t_total, t_grad)


def _online(
    rows: PyTree, theta: PyTree, score: Score, block: int, *, with_grad: bool
) -> tuple[Array, PyTree]:
    """One pass: the log-sum-exp, and its gradient in `theta` where asked for."""

    def step(carry: _Online, part: PyTree) -> _Online:
        top, total, grad = carry
        if with_grad:
            s, pull = jax.vjp(lambda th: score(part, th), theta)
        else:
            s, pull = score(part, theta), None
        new = jnp.maximum(top, jnp.max(s))
        shift = jnp.where(jnp.isfinite(new), new, 0.0)
        weights, old = jnp.exp(s - shift), jnp.exp(top - shift)
        total = total * old + jnp.sum(weights)
        if pull is not None:
            (pulled,) = pull(weights)
            grad = jax.tree.map(lambda a, b: a * old.astype(a.dtype) + b, grad, pulled)
        return new, total, grad

    struct = jax.eval_shape(score, jax.tree.map(lambda a: a[:1], rows), theta)
    zeros = jax.tree.map(jnp.zeros_like, theta) if with_grad else ()
    start = (jnp.full((), -jnp.inf, struct.dtype), jnp.zeros((), struct.dtype), zeros)
    top, total, grad = over_blocks(step, start, rows, block)
    shift = jnp.where(jnp.isfinite(top), top, 0.0)
    grad = jax.tree.map(lambda a: a / total.astype(a.dtype), grad)
    return jnp.log(total) + shift, grad


def _rows_tangent(
    rows: PyTree, t_rows: PyTree, theta: PyTree, total: Array, score: Score, block: int
) -> Array:
    """The part of the tangent of the log-sum-exp that comes from the stored patterns."""
    t_rows = filled(t_rows, rows)

    @jax.checkpoint
    def step(acc: Array, part: PyTree) -> Array:
        here, t_here = part
        s, t_s = jax.jvp(lambda r: score(r, theta), (here,), (t_here,))
        return acc + jnp.sum(jnp.exp(s - total) * t_s)

    return over_pieces(step, jnp.zeros_like(total), (rows, t_rows), block)


def _grad_tangent(
    rows: PyTree,
    t_rows: PyTree | None,
    theta: PyTree,
    t_theta: PyTree,
    total: Array,
    t_total: Array,
    score: Score,
    block: int,
    zeros: PyTree,
) -> PyTree:
    """The tangent of the gradient in `theta`, block by block."""

    def part_of_grad(part: PyTree, th: PyTree, total: Array) -> PyTree:
        s, pull = jax.vjp(lambda th: score(part, th), th)
        return pull(jnp.exp(s - total))[0]

    @jax.checkpoint
    def step(acc: PyTree, piece: PyTree) -> PyTree:
        here, t_here = piece if t_rows is not None else (piece, jax.tree.map(jnp.zeros_like, piece))
        _, tangent = jax.jvp(part_of_grad, (here, theta, total), (t_here, t_theta, t_total))
        return jax.tree.map(jnp.add, acc, tangent)

    if t_rows is None:
        return over_blocks(step, zeros, rows, block)
    return over_pieces(step, zeros, (rows, t_rows), block)


# -- loops over blocks -------------------------------------------------------------------------


def over_blocks(
    step: Callable[[_Carry, PyTree], _Carry], carry: _Carry, rows: PyTree, block: int
) -> _Carry:
    """Fold over blocks read in place: nothing of the size of `rows` is copied."""
    K = jax.tree.leaves(rows)[0].shape[0]

    def body(carry: _Carry, k: Array) -> tuple[_Carry, None]:
        cut = lambda a: lax.dynamic_slice_in_dim(a, k * block, block)
        return step(carry, jax.tree.map(cut, rows)), None

    carry, _ = lax.scan(body, carry, jnp.arange(K // block))
    if K % block:
        carry = step(carry, jax.tree.map(lambda a: a[K - K % block :], rows))
    return carry


def over_pieces(
    step: Callable[[_Carry, PyTree], _Carry], carry: _Carry, rows: PyTree, block: int
) -> _Carry:
    """The same with the blocks as inputs of the scan, so that their cotangents stay blocks."""
    K = jax.tree.leaves(rows)[0].shape[0]
    whole = K - K % block
    pieces = jax.tree.map(lambda a: a[:whole].reshape(-1, block, *a.shape[1:]), rows)
    carry, _ = lax.scan(lambda c, piece: (step(c, piece), None), carry, pieces)
    if whole < K:
        carry = step(carry, jax.tree.map(lambda a: a[whole:], rows))
    return carry


# -- pytrees of tangents -----------------------------------------------------------------------


def none(tangents: PyTree) -> bool:
    return not jax.tree.leaves(tangents)


def filled(tangents: PyTree, primals: PyTree) -> PyTree:
    """Tangents with zeros where there are none."""
    return jax.tree.map(lambda p, t: jnp.zeros_like(p) if t is None else t, primals, tangents)


def inner(grad: PyTree, tangents: PyTree) -> Array:
    """The sum of products over all leaves that have a tangent."""
    products = jax.tree.map(lambda g, t: None if t is None else jnp.sum(g * t), grad, tangents)
    return functools.reduce(jnp.add, jax.tree.leaves(products))


def row_norms(Xi: Float[Array, "K D"]) -> Float[Array, " K"]:
    """The squared norm of each stored pattern."""
    return jnp.sum(Xi * Xi, axis=1)


def flat_rows(Xi: Float[Array, "K *shape"]) -> Float[Array, "K D"]:
    """Patterns of any shape as rows."""
    return Xi.reshape(Xi.shape[0], math.prod(Xi.shape[1:]))
