"""What is known of the numbers of a model before a program is compiled for it.

Where it is known that they are bounded, and which are small integers, no program is made for the
case that they are not.
"""

import contextlib
import functools
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from amlib import _checks as checks

BOUND = 1e15
"""Products and sums of numbers of at most this size stay far from the end of float32."""


class Numbers(NamedTuple):
    """What is known of an array before a program runs: no number is larger than `BOUND`.

    `whole` is whether they are integers of at most 127, or `None` where that is not known.
    """

    whole: bool | None = None


class _Within(threading.local):
    """What a thread knows: of traced arrays, and of arrays that it has looked at."""

    def __init__(self):
        self.known: list[tuple[Tracer, Numbers]] = []
        self.seen: dict[int, tuple[weakref.ref[Array], Numbers | None]] = {}


_within = _Within()


@contextlib.contextmanager
def knowing(tree: Any, known: Sequence[Numbers]) -> Iterator[None]:
    """Within it, traced arrays of a tree have `known_numbers`, if it was so before the trace."""
    before = _within.known
    pairs = zip(jax.tree.leaves(tree), known, strict=False)
    traced = [(leaf, numbers) for leaf, numbers in pairs if not checks.is_concrete(leaf)]
    _within.known = before + traced
    try:
        yield
    finally:
        _within.known = before


def known_numbers(tree: Any) -> tuple[Numbers, ...]:
    """What is known of each leaf of a tree, if all floats in it are known now and bounded.

    **Returns:** one for each leaf; nothing where a float is not known, not finite, or larger in
    size than `BOUND`.
    """
    known = [_numbers(leaf) for leaf in jax.tree.leaves(tree)]
    return tuple(n for n in known if n is not None) if None not in known else ()


def _numbers(leaf: Any) -> Numbers | None:
    for array, numbers in _within.known:
        if leaf is array:
            return numbers
    if type(leaf) is float:
        return Numbers() if -BOUND <= leaf <= BOUND else None
    if not eqx.is_inexact_array(leaf):
        return Numbers()
    if checks.is_traced(leaf):
        return None
    if not isinstance(leaf, jax.Array):  # NumPy's may change
        return _look(leaf)
    # Arrays do not change, and large ones take long to look through.
    found = _within.seen.get(id(leaf))
    if found is None or found[0]() is not leaf:
        forget = functools.partial(_within.seen.pop, id(leaf), None)
        found = weakref.ref(leaf, lambda _: forget()), _look(leaf)
        _within.seen[id(leaf)] = found
    return found[1]


def _look(leaf: Array | np.ndarray) -> Numbers | None:
    on_host = not isinstance(leaf, jax.Array) or (
        leaf.is_fully_replicated and all(d.platform == "cpu" for d in leaf.devices())
    )
    with jax.ensure_compile_time_eval():  # the numbers are known, also where `jit` traces around
        array: Any = np.asarray(leaf) if on_host else leaf  # on a CPU this is a view
        if array.size == 0:
            return Numbers()
        low, high = float(array.min()), float(array.max())
        if not -BOUND <= low <= high <= BOUND:
            return None
        small = low >= -127 and high <= 127
        return Numbers(small and bool(((np if on_host else jnp).rint(array) == array).all()))
