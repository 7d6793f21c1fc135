r"""Sums over many rows in blocks, with derivatives in blocks.

$$S = \sum_{y=1}^{Y} t(r_y, \theta)$$

for any term of rows $r_y$ under parameters $\theta$ (a pytree: a state, ...). As in
`amlib.descent.streaming`, one pass over the blocks yields $S$ and $\partial S / \partial \theta$
together, and what a block needs, such as a random matrix that is remade from its indices, is gone
with the block: memory is that of one, for derivatives of derivatives and those of the rows too.

A term is a module-level function `term(rows, theta)` from some rows to their sum.
"""

import math
from collections.abc import Callable
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from amlib import _shards as shards
from amlib.descent.streaming import even, filled, inner, none, over_blocks, over_pieces

Term: TypeAlias = Callable[[PyTree, PyTree], Array]
Rows: TypeAlias = tuple[PyTree, PyTree]
"""What has derivatives, and what has none: both of arrays that share their first axis."""


def streamed_sum(term: Term, rows: Rows, theta: PyTree, *, block: int) -> Float[Array, ""]:
    r"""The sum of a term over rows, block by block.

    **Arguments:**

    - `term`: from some rows and `theta` to the sum over these rows; a module-level function.
    - `rows`: a pair of pytrees of arrays that share their first axis: those that have derivatives,
      and those of integers.
    - `theta`: everything else that the term depends on; its arrays of floats have derivatives.
    - `block`: rows per block; of rows that devices share, it is counted on each of them.

    **Returns:** $S$. The same value and derivatives for every block, but for rounding.
    """
    Y: int = jax.tree.leaves(rows)[0].shape[0]
    parts = math.gcd(Y, shards.devices(rows, theta))
    own = Y // parts
    if block >= own and parts == 1:
        return term(rows, theta)
    block = own if block >= own else even(own, block)
    floats, fixed = eqx.partition(theta, eqx.is_inexact_array)
    run = lambda rows: _summed(rows[0], floats, rows[1], fixed, term, block)
    if parts == 1:
        return run(rows)
    apart = jax.tree.map(lambda a: a.reshape(parts, own, *a.shape[1:]), rows)
    return jnp.sum(jax.vmap(run)(apart))


# -- the derivative rules, of `rows` and `theta`; `index` and `fixed` have none -------------------


@eqx.filter_custom_jvp
def _summed(
    rows: PyTree, theta: PyTree, index: PyTree, fixed: PyTree, term: Term, block: int
) -> Array:
    add = lambda total, part: total + term(part, eqx.combine(theta, fixed))
    zero = _zero((rows, index), eqx.combine(theta, fixed), term)
    return over_blocks(add, zero, (rows, index), block)


@_summed.def_jvp
def _(primals, tangents):
    rows, theta, index, fixed, term, block = primals
    t_rows, t_theta, *_ = tangents
    if none(t_theta):
        total = _summed(rows, theta, index, fixed, term, block)
        return total, _rows_tangent(rows, t_rows, theta, index, fixed, term, block)
    total, grad = _with_grad(rows, theta, index, fixed, term, block)
    tangent = inner(grad, t_theta)
    if not none(t_rows):
        tangent = tangent + _rows_tangent(rows, t_rows, theta, index, fixed, term, block)
    return total, tangent


@eqx.filter_custom_jvp
def _with_grad(
    rows: PyTree, theta: PyTree, index: PyTree, fixed: PyTree, term: Term, block: int
) -> tuple[Array, PyTree]:
    """The sum and its gradient in `theta`, in one pass."""

    def add(carry: tuple[Array, PyTree], part: Rows) -> tuple[Array, PyTree]:
        made = jax.value_and_grad(lambda th: term(part, eqx.combine(th, fixed)))(theta)
        return jax.tree.map(jnp.add, carry, made)

    zero = _zero((rows, index), eqx.combine(theta, fixed), term)
    return over_blocks(add, (zero, jax.tree.map(jnp.zeros_like, theta)), (rows, index), block)


@_with_grad.def_jvp
def _(primals, tangents):
    rows, theta, index, fixed, term, block = primals
    t_rows, t_theta, *_ = tangents
    out = _with_grad(rows, theta, index, fixed, term, block)
    t_rows, t_theta = filled(t_rows, rows), filled(t_theta, theta)

    @jax.checkpoint
    def add(carry, part):
        here, t_here, own = part

        def made(here, theta):
            whole = lambda th: term((here, own), eqx.combine(th, fixed))
            return jax.value_and_grad(whole)(theta)

        _, tangent = jax.jvp(made, (here, theta), (t_here, t_theta))
        return jax.tree.map(jnp.add, carry, tangent)

    return out, over_pieces(add, jax.tree.map(jnp.zeros_like, out), (rows, t_rows, index), block)


def _rows_tangent(
    rows: PyTree,
    t_rows: PyTree,
    theta: PyTree,
    index: PyTree,
    fixed: PyTree,
    term: Term,
    block: int,
) -> Array:
    """The part of the tangent that comes from the rows."""
    both = eqx.combine(theta, fixed)

    @jax.checkpoint
    def add(total: Array, part: tuple[PyTree, PyTree, PyTree]) -> Array:
        here, t_here, own = part
        return total + jax.jvp(lambda rows: term((rows, own), both), (here,), (t_here,))[1]

    given = (rows, filled(t_rows, rows), index)
    return over_pieces(add, _zero((rows, index), both, term), given, block)


def _zero(rows: Rows, theta: PyTree, term: Term) -> Array:
    """An empty sum."""
    struct = jax.eval_shape(term, jax.tree.map(lambda a: a[:1], rows), theta)
    return jnp.zeros((), struct.dtype)
