"""What measurements share: which memories they take, their patterns, and recalls of many starts."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree, Shaped

from amlib import _checks as checks, _progress as bars
from amlib._compiled import compiled
from amlib._numbers import Numbers, knowing, known_numbers
from amlib._types import Key
from amlib.descent.trajectory import Recall
from amlib.hierarchical import HAM
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractFinite, AbstractTwoValued, Values

BATCH = 256
"""Recalls that run at once: one program serves any number of starts."""


# -- which memories ---------------------------------------------------------------------------


def check_memory(memory: object, where: str) -> AbstractMemory:
    """Return a memory; raise unless its states are arrays."""
    if not isinstance(memory, AbstractMemory):
        raise TypeError(
            f"{where}: memory must be one that recalls states, as BinaryAM and ContinuousAM do; "
            f"{type(memory).__name__} came. Of an energy make one: subclass "
            "am.AbstractBinaryAM or am.AbstractContinuousAM."
        )
    if isinstance(memory, HAM):
        raise TypeError(
            f"{where}: memory must have states of one array; a HAM came, with a state per layer. "
            "Subclass am.AbstractContinuousAM with the energy of one layer's state."
        )
    return memory


def check_reals(memory: object, where: str, *, free: bool = False) -> AbstractMemory:
    """Return a memory of real states; raise for any other."""
    memory = check_memory(memory, where)
    if is_finite(memory):
        raise TypeError(
            f"{where}: memory must have real states; {type(memory).__name__} has "
            f"{memory.space.kind}, and those no derivatives."
        )
    if free and not getattr(memory.space, "free", False):
        raise TypeError(
            f"{where}: states must be free; those of {type(memory).__name__} stay in "
            f"{type(memory.space).__name__}, on whose boundary the gradient is not zero."
        )
    return memory


def is_finite(memory: AbstractMemory) -> bool:
    """Whether units have two values, or several."""
    return isinstance(memory.space, AbstractFinite)


# -- states and patterns ----------------------------------------------------------------------


def state_of(memory: AbstractMemory, x: ArrayLike, where: str) -> Array:
    """One state as the memory's floats; raise for what is none."""
    return type(memory)._state(memory, x, where)


def states_of(memory: AbstractMemory, xs: ArrayLike, where: str) -> Array:
    """Several states, along the first axis."""
    xs = memory.space.asarray(xs, where)
    struct = memory.state_struct
    if xs.ndim < 2 or xs.size == 0 or (struct is not None and xs.shape[1:] != struct.shape):
        shape = "*shape" if struct is None else ", ".join(map(str, struct.shape))
        raise ValueError(
            f"{where}: must be one state or more, of shape (n, {shape}); {xs.shape} came. "
            "A single state is x[None]."
        )
    xs = xs if struct is None else xs.astype(struct.dtype)
    return memory.space.check(xs, where)


def stored(
    memory: AbstractMemory, patterns: ArrayLike | None, shape: tuple[int, ...] | None, where: str
) -> Array | None:
    """The patterns that were given, else those in the memory's `Xi`, else `None`."""
    space, read = memory.space, checks.as_float
    if isinstance(space, Values):
        read = lambda Xi, where: space.check(space.asarray(Xi, where), where)
    if patterns is None:
        Xi: Any = getattr(memory, "Xi", None)
        if not eqx.is_array(Xi) or Xi.ndim < 2 or (shape is not None and Xi.shape[1:] != shape):
            return None
        return read(Xi, where)
    Xi = read(patterns, where)
    if Xi.ndim < 2 or Xi.size == 0 or (shape is not None and Xi.shape[1:] != shape):
        raise ValueError(
            f"{where}: must have shape (K, *shape) with states of shape {shape}; {Xi.shape} came. "
            "A single pattern is xi[None]."
        )
    return checks.finite(Xi, where)


def drawn(
    memory: AbstractMemory, count: int, patterns: Array | None, key: Key, where: str
) -> Array:
    """Random states: all values alike, or normal ones with the patterns' mean and spread."""
    struct = memory.state_struct
    if struct is None and patterns is None:
        raise ValueError(
            f"{where}: the shape of a state must be known; {type(memory).__name__} has no "
            f"state_struct and no patterns. Pass starts of shape (n, *shape) instead of {count}."
        )
    like = patterns[0] if patterns is not None else struct
    assert like is not None
    dtype = like.dtype if struct is None else struct.dtype
    shape = (count, *like.shape)
    if isinstance(memory.space, AbstractTwoValued):
        return memory.space.from_spins(jr.rademacher(key, shape, dtype))
    if isinstance(memory.space, Values):
        return jr.randint(key, shape, 0, memory.space.q, dtype)
    noise = jr.normal(key, shape, dtype)
    if patterns is None:
        return noise
    rows = patterns.astype(dtype)
    spread = jnp.std(rows, axis=0, keepdims=True)
    spread = jnp.where(jnp.max(spread) > 0, spread, 1)
    return jnp.mean(rows, axis=0, keepdims=True) + spread * noise


# -- damage and success -----------------------------------------------------------------------


def levels_of(levels: Any, where: str) -> np.ndarray:
    """Levels of damage, integers as integers."""
    a = np.asarray(levels)
    if a.ndim != 1 or a.size == 0 or a.dtype.kind not in "iuf":
        raise ValueError(
            f"{where}: levels must be a sequence of numbers, at least one number; {levels!r} came."
        )
    return a


def spoiled(
    where: str, corruption: Callable[..., Any], key: Array, xi: Array, level: Array
) -> Array:
    """A pattern as `corruption` leaves it, of the same shape."""
    x = jnp.asarray(corruption(key, xi, level))
    if x.shape != xi.shape:
        raise ValueError(
            f"{where}: corruption must return a pattern of shape {xi.shape}; {x.shape} came."
        )
    return x


def judged(where: str, success: Callable[..., Any], x: Array, xi: Array) -> Array:
    """Whether an end counts as the pattern: one truth value."""
    hit = jnp.asarray(success(x, xi))
    if hit.shape:
        raise ValueError(
            f"{where}: success must return one truth value; shape {hit.shape} came. "
            "Close it with .all()."
        )
    return hit


# -- recalls ----------------------------------------------------------------------------------


def default_recall(memory: AbstractMemory, x: Array, key: Array) -> Recall:
    """The memory's own."""
    return memory.recall(x, key=key)


@compiled
def recalled(
    where: str,
    recall: Callable[..., Any],
    model: PyTree,
    known: tuple[Numbers, ...],
    starts: Array,
    draws: Array,
) -> tuple[Array, Array, Array]:
    """The ends, which of them rest, and their steps; `known` is what is known of the model."""

    def one(x: Array, key: Array) -> tuple[Array, Array, Array]:
        with knowing(model, known):
            end = recall(model, x, key)
        if not all(hasattr(end, name) for name in ("x", "converged", "steps")):
            came = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", end)
            raise TypeError(
                f"{where}: recall must return a Recall; {came} came. "
                "Return model.recall(...) itself, not its x."
            )
        return end.x, end.converged, end.steps

    with checks.traceable(f"{where}: corruption, recall and success"):
        return jax.vmap(one)(starts, draws)


def recall_all(
    where: str,
    memory: AbstractMemory,
    starts: Array,
    key: Key,
    recall: Callable[..., Any] | None = None,
    bar: bars.Bar | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The ends of recalls from all starts, and which of them rest; a batch at a time."""
    n, size = len(starts), min(BATCH, len(starts))
    draws = jr.split(key, n)
    known, ends, rest = known_numbers(memory), [], []
    recall = default_recall if recall is None else recall
    for k in range(0, n, size):
        rows = np.arange(k, k + size) % n  # the last batch is filled up
        x, converged, _ = recalled(where, recall, memory, known, starts[rows], draws[rows])
        kept = min(size, n - k)
        ends.append(np.asarray(x)[:kept])
        rest.append(np.asarray(converged)[:kept])
        if bar is not None:
            bar.update(kept)
    return np.concatenate(ends), np.concatenate(rest)


@compiled
def _energies(memory: AbstractMemory, xs: Array) -> Array:
    wide, xs = checks.widen((memory, xs))
    return jax.vmap(wide.energy)(xs)


def energies(memory: AbstractMemory, xs: Shaped[ArrayLike, "n *shape"]) -> np.ndarray:
    """The energies of many states, in double precision; a batch at a time."""
    xs = np.asarray(xs)
    n, size, found = len(xs), min(4096, len(xs)), []
    for k in range(0, n, size):
        rows = np.arange(k, k + size) % n
        found.append(np.asarray(_energies(memory, jnp.asarray(xs[rows])))[: n - k])
    return np.concatenate(found).astype(float)
