r"""Memories over parts of their patterns, and the whole of them.

The energy of a log-sum-exp memory is a free energy of its patterns: for parts $b$ of them,

$$e^{-\beta F(x)} = \sum_b e^{-\beta F_b(x)}, \qquad
\nabla F(x) = \sum_b w_b \nabla F_b(x), \qquad w = \mathrm{softmax}(-\beta F_b(x))$$

So the memory's own energy, over one part after the other, is all that is computed: no formula is
written twice, and a user's energy need only be of this kind.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._types import Scalar
from amlib.continuous.base import ContinuousAM
from amlib.descent.plan import scalar_output
from amlib.descent.streaming import flat_rows, row_norms

PIECE = 2**11
"""Patterns that are computed with at a time: at 1,024 queries their scores take 8 MB."""

Part: TypeAlias = tuple[Array, ...]
"""Some patterns and, where a memory has them, their values."""

Wanted: TypeAlias = Literal["energy", "gradient", "readout"]


class Sums(NamedTuple):
    """What is known after some parts, of each query: the running maximum, the sum of exponentials
    below it and, weighted by them, of gradients or readouts; of all, the largest squared norm."""

    top: Float[Array, " Q"]
    total: Float[Array, " Q"]
    wanted: PyTree[Array]
    largest: Scalar


def _over(memory: ContinuousAM, part: Part) -> ContinuousAM:
    """The memory over other patterns, and values if there are any."""
    names = ("Xi", "values")[: len(part)]
    fields = lambda m: [getattr(m, name) for name in names]
    given = [checks.widen(checks.as_float(rows, "OnDisk")) for rows in part]
    return eqx.tree_at(fields, checks.widen(memory), given)


def _of_part(memory: ContinuousAM, part: Part, wanted: Wanted, x: Array) -> PyTree:
    """The free energy of one state, and what else is wanted of it, over a part of the patterns."""
    here = _over(memory, part)
    if wanted == "gradient":
        return jax.value_and_grad(here._free_energy)(x)
    return here._free_energy(x), readout_of(here)(x) if wanted == "readout" else ()


def readout_of(memory: ContinuousAM) -> Callable[[Array], Array]:
    """How a memory reads a state out; raise `ValueError` for one that does not."""
    readout = getattr(memory, "readout", None)
    if readout is None:
        raise ValueError(
            f"readout: the memory must have a readout; {type(memory).__name__} has none. Use "
            "retrieve(x)."
        )
    return readout


def own_part(memory: ContinuousAM) -> Part:
    """The patterns of a memory and, where it has them, their values."""
    values = getattr(memory, "values", None)
    return (memory.Xi,) if values is None else (memory.Xi, values)


def zero_sums(memory: ContinuousAM, x: Array, wanted: Wanted) -> Sums:
    """The sums before the first part."""
    part = own_part(memory)
    energy, other = jax.eval_shape(lambda x: _of_part(memory, part, wanted, x), x[0])
    zeros = lambda a: jnp.zeros((len(x), *a.shape), a.dtype)
    top = jnp.full(len(x), -jnp.inf, energy.dtype)
    return Sums(top, zeros(energy), jax.tree.map(zeros, other), jnp.zeros((), x.dtype))


@compiled
def fold(
    memory: ContinuousAM,
    beta: Array,
    sums: Sums,
    part: Part,
    x: Array,
    wanted: Wanted,
) -> tuple[Sums, Array]:
    """The sums with one block more, and whether all its numbers are finite."""

    def step(sums: Sums, piece: Part) -> Sums:
        energy, other = jax.vmap(lambda x: _of_part(memory, piece, wanted, x))(x)
        s = -beta.astype(energy.dtype) * energy
        top = jnp.maximum(sums.top, s)
        shift = jnp.where(jnp.isfinite(top), top, 0.0)
        old, new = jnp.exp(sums.top - shift), jnp.exp(s - shift)

        def add(a: Array, b: Array) -> Array:
            over = lambda w: w.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)
            # What has no weight may be no number.
            return a * over(old) + jnp.where(over(new) > 0, over(new) * b, 0.0)

        norms = row_norms(flat_rows(_over(memory, piece).Xi)).astype(x.dtype)
        largest = jnp.maximum(sums.largest, jnp.max(norms))
        total = sums.total * old + new
        return Sums(top, total, jax.tree.map(add, sums.wanted, other), largest)

    rows = len(part[0])
    whole = rows - rows % PIECE
    pieces = tuple(a[:whole].reshape(-1, PIECE, *a.shape[1:]) for a in part)
    sums, _ = jax.lax.scan(lambda c, piece: (step(c, piece), None), sums, pieces)
    if whole < rows:
        sums = step(sums, tuple(a[whole:] for a in part))
    return sums, jnp.stack([jnp.isfinite(a).all() for a in part]).all()


@compiled
def finish(memory: ContinuousAM, beta: Array, sums: Sums, K: int) -> tuple[Array, PyTree]:
    """The energies, and the averages of what was wanted."""
    shift = jnp.where(jnp.isfinite(sums.top), sums.top, 0.0)
    free = -(jnp.log(sums.total) + shift) / beta.astype(shift.dtype)
    constant = checks.widen(memory)._constant(K, sums.largest)
    over = lambda a: a / sums.total.reshape(-1, *[1] * (a.ndim - 1)).astype(a.dtype)
    return free + constant.astype(free.dtype), jax.tree.map(over, sums.wanted)


def check_free_energy(memory: ContinuousAM, beta: Array) -> None:
    """Raise unless the energies of parts add up to that of two patterns, as free energies do."""
    Xi, *values = checks.widen(own_part(memory))
    spread = float(jnp.sqrt(jnp.mean(Xi * Xi))) or 1.0
    other = 2 * spread * jr.normal(jr.key(0), Xi.shape, Xi.dtype)  # longer, if not much
    name = type(memory).__name__

    def at(part: list[Array], x: Array) -> float:
        here = _over(memory, tuple(part))
        scalar_output(here.energy, x)
        return -float(beta) * float(here._free_energy(x))

    # A pattern twice weighs twice, however large its score; two show what depends on both.
    for two in ([Xi, *values], [other, *values]):
        both = [jnp.concatenate(pair) for pair in zip([Xi, *values], two, strict=True)]
        for x in (jnp.zeros_like(Xi[0]), other[0] / 4):
            s = [at(part, x) for part in ([Xi, *values], two, both)]
            gap = s[2] - float(np.logaddexp(s[0], s[1]))
            if not np.isfinite(s).all() or abs(gap) < 1e-3 * (1 + max(map(abs, s))):
                continue
            raise ValueError(
                "OnDisk: exp(-beta * energy) must add up over patterns; over two patterns that "
                f"of {name} does not, at beta = {float(beta):g}. It must be a log-sum-exp over "
                "patterns, without constants such as log K; if it is one of another temperature, "
                "say inverse_temperature=."
            )
