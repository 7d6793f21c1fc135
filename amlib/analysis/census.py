"""A census of the minima: where recalls end, how often, and what is found there."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Shaped

from amlib import _checks as checks, _progress as bars, _show as show
from amlib._types import Key
from amlib.analysis import _runs as runs
from amlib.analysis.spectrum import index_of
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractTwoValued, Values

KINDS = ("stored", "inverse", "mixture", "spurious", "saddle", "unlabelled")
"""What a fixed point may be, see `fixed_points`."""

MOST_UNITS = 256
"""Up to how many real units the Hessian of every fixed point is looked at."""


class FixedPoints(NamedTuple):
    """A tidy table: one row per fixed point, by rising energy, as arrays of one length.

    The state `x`; the `count` of recalls that ended there; its `energy`; the `nearest` pattern and
    the `overlap` with it (-1 and NaN without patterns); its `kind`; the `members` of it, for each
    pattern 1 or -1 if it or its inverse is in it, else 0; and of real states the `index`, how many
    eigenvalues of the Hessian are negative (-1 where it was not computed). Of all the `starts`,
    `unsettled` ended elsewhere than in a fixed point: they are in no row.
    """

    x: np.ndarray
    count: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]
    energy: np.ndarray
    nearest: np.ndarray
    overlap: np.ndarray
    kind: np.ndarray
    members: np.ndarray
    index: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]
    starts: int
    unsettled: int

    __repr__ = show.text


def fixed_points(
    memory: AbstractMemory,
    starts: Shaped[ArrayLike, "n *shape"] | int,
    key: Key,
    *,
    patterns: Shaped[ArrayLike, "K *shape"] | None = None,
    recall: Callable[[Any, Any, Any], Any] | None = None,
    tol: float | None = None,
    overlap: float = 0.9,
    progress: bool = True,
) -> FixedPoints:
    r"""Recall from many starts, and say which distinct fixed points they end in.

    ```python
    table = am.analysis.fixed_points(am.ClassicalHopfield(Xi), 1000, jax.random.key(0))
    table.kind, table.count, table.energy
    ```

    A fixed point is *stored* or *inverse* if it is near a pattern $\xi_\mu$ or $-\xi_\mu$; a
    *mixture* of $k > 1$ patterns if it is near the state halfway between those $k$ that are nearest
    to it; else *spurious*. Of real states it is a *saddle* if the Hessian has a negative eigenvalue.

    | | halfway between patterns | $x$ is near $y$ if |
    |---|---|---|
    | two values | $\operatorname{sign} \sum_\mu \pm \xi_\mu$, of 3, 5, 7, ... | their overlap is at least `overlap` |
    | several values | the most frequent value of each unit, of 3, 4, 5, ...; of equally frequent ones that of the nearest pattern | their overlap is, as `PottsAM.overlaps` defines it; there is no inverse |
    | real | their mean, of 2, 3, 4, ... | $1 - \lVert x - y \rVert^2 / d^2$ is, $d$ the distance from $y$ to the pattern next to it; of a mean $d^2$ is twice the mean square of its distances to the patterns |

    **Arguments:**

    - `memory`: a memory whose states are arrays; one with an energy alone, too.
    - `starts`: the states to recall from; or how many to draw: all values of a unit alike, or
      normal ones with the mean and the standard deviation of the patterns.
    - `key`: for the draws, and for recalls that need randomness.
    - `patterns`: what the fixed points are compared with; `None` takes the memory's `Xi`. Without
      either, the kind is "unlabelled".
    - `recall`: `recall(memory, x, key)`; `None` calls `memory.recall(x, key=key)`.
    - `tol`: real states are one fixed point if no unit differs by more; `None` means 1 % of the
      largest unit of all. Bits and values must be equal.
    - `overlap`: what counts as near, in (0, 1].
    - `progress`: whether to show a progress bar.

    **Returns:** a `FixedPoints`. Overlaps are cosines (of bits, as spins: `mean(x * xi)`), and of
    several values those of `PottsAM`. Hessians are computed up to 256 real units.

    **Raises:** `TypeError` for a memory whose states are no arrays; `ValueError` for no starts,
    states or patterns of another shape, `tol` below 0, and for a number of starts where the shape of
    a state is not known.

    **Reference:** mixtures of spins: Amit, Gutfreund and Sompolinsky 1985, section IV.
    """  # noqa: E501
    where = "fixed_points"
    memory = runs.check_memory(memory, where)
    checks.key(key, f"{where}: key")
    if not 0 < overlap <= 1:
        raise ValueError(f"{where}: overlap must lie in (0, 1]; {overlap} came.")
    if tol is not None:
        checks.at_least(tol, 0, f"{where}: tol")
    first, second = jr.split(key)
    x0, rows = _starts(memory, starts, patterns, first)
    with bars.bar(len(x0), progress) as bar:
        ends, rest = runs.recall_all(where, memory, x0, second, recall, bar)
    energy = runs.energies(memory, ends)
    good = rest & np.isfinite(energy)
    x, count, energy = _distinct(ends[good], energy[good], tol, runs.is_finite(memory))
    index = np.full(len(x), -1)
    if not runs.is_finite(memory) and len(x) and x[0].size <= MOST_UNITS:
        index = index_of(memory, x)
    labels = _label(memory, x, rows, overlap)
    kind = np.where(index > 0, "saddle", labels[2])
    return FixedPoints(
        x, count, energy, *labels[:2], kind, labels[3], index, len(x0), int((~good).sum())
    )


def _starts(
    memory: AbstractMemory, starts: ArrayLike | int, patterns: ArrayLike | None, key: Key
) -> tuple[Array, Array | None]:
    """The starts, and the patterns to compare with."""
    where, struct = "fixed_points: starts", memory.state_struct
    shape = None if struct is None else struct.shape
    if isinstance(starts, int | np.integer):
        count = checks.integer(starts, 1, where)
        rows = runs.stored(memory, patterns, shape, "fixed_points: patterns")
        return runs.drawn(memory, count, rows, key, where), rows
    x0 = runs.states_of(memory, starts, where)
    return x0, runs.stored(memory, patterns, x0.shape[1:], "fixed_points: patterns")


def _distinct(
    x: np.ndarray, energy: np.ndarray, tol: float | None, finite: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The different states by rising energy, how many there are of each, and their energies."""
    order = np.argsort(energy, kind="stable")
    x, energy = x[order], energy[order]
    if not len(x):
        return x, np.zeros(0, int), energy
    flat = x.reshape(len(x), -1)
    if finite:
        _, at, count = np.unique(flat, axis=0, return_index=True, return_counts=True)
        order = np.argsort(at)
        at, count = at[order], count[order]
        return x[at], count, energy[at]
    # The lowest of what is left takes all that are near it.
    near = 0.01 * np.abs(flat).max() if tol is None else tol
    left, at, count = np.arange(len(x)), [], []
    while left.size:
        same = np.abs(flat[left] - flat[left[0]]).max(1) <= near
        at.append(left[0])
        count.append(same.sum())
        left = left[~same]
    at = np.asarray(at, int)
    return x[at], np.asarray(count, int), energy[at]


# -- what a fixed point is ----------------------------------------------------------------------


def _label(
    memory: AbstractMemory, x: np.ndarray, patterns: Array | None, least: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The nearest pattern, the overlap with it, the kind, and the members, of each state."""
    n = len(x)
    if patterns is None:
        kind = np.full(n, "unlabelled")
        return np.full(n, -1), np.full(n, np.nan), kind, np.zeros((n, 0), np.int8)
    rows = np.asarray(patterns, float).reshape(len(patterns), -1)
    flat = np.asarray(x, float).reshape(n, rows.shape[1])
    space, one = memory.space, _real_kind
    if isinstance(space, AbstractTwoValued):
        low, high = space.low, space.high
        rows, flat = (2 * (a - low) / (high - low) - 1 for a in (rows, flat))
        one = _spin_kind
    if isinstance(space, Values):
        one = functools.partial(_value_kind, q=space.q)
        same = (flat[:, None] == rows[None]).mean(2)
        cosines, apart = (space.q * same - 1) / (space.q - 1), np.zeros(len(rows))
    else:
        cosines, apart = _unit(flat) @ _unit(rows).T, _apart(rows)
    nearest, kinds = np.zeros(n, int), np.empty(n, "<U10")
    members = np.zeros((n, len(rows)), np.int8)
    for k in range(n):
        nearest[k], kinds[k], members[k] = one(flat[k], rows, cosines[k], apart, least)
    return nearest, cosines[np.arange(n), nearest], kinds, members


def _unit(a: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(a, axis=1, keepdims=True)
    return a / np.where(norms > 0, norms, 1)


def _apart(rows: np.ndarray) -> np.ndarray:
    """The squared distance of each pattern to the next other one; of one alone, to its inverse."""
    norms = (rows**2).sum(1)
    if len(rows) == 1:
        return 2 * np.maximum(norms, np.finfo(float).tiny)
    apart = np.empty(len(rows))
    for k, row in enumerate(rows):
        gaps = norms - 2 * rows @ row + norms[k]
        gaps[gaps <= 1e-9 * norms.max()] = np.inf  # itself, and its copies
        apart[k] = gaps.min()
    return np.where(np.isfinite(apart), apart, 2 * norms.max())


def _spin_kind(
    x: np.ndarray, rows: np.ndarray, cosines: np.ndarray, apart: np.ndarray, least: float
) -> tuple[int, str, np.ndarray]:
    """Nearest pattern, kind and members of a state of spins."""
    del apart
    order = np.argsort(-np.abs(cosines), kind="stable")
    signs = np.where(cosines < 0, -1, 1)
    top, members = order[0], np.zeros(len(rows), np.int8)
    if abs(cosines[top]) >= least:
        members[top] = signs[top]
        return int(top), "stored" if signs[top] > 0 else "inverse", members
    # Of the nearest 3, 5, 7, ... patterns, each with the sign of its overlap.
    majority = np.sign(np.cumsum(signs[order, None] * rows[order], axis=0))[2::2]
    overlaps = majority @ x / len(x)
    if not overlaps.size or overlaps.max() < least:
        return int(top), "spurious", members
    inside = order[: 3 + 2 * int(overlaps.argmax())]
    members[inside] = signs[inside]
    return int(top), "mixture", members


def _value_kind(
    x: np.ndarray,
    rows: np.ndarray,
    overlaps: np.ndarray,
    apart: np.ndarray,
    least: float,
    *,
    q: int,
) -> tuple[int, str, np.ndarray]:
    """Nearest pattern, kind and members of a state of several values."""
    del apart
    order = np.argsort(-overlaps, kind="stable")
    top, members = int(order[0]), np.zeros(len(rows), np.int8)
    if overlaps[top] >= least:
        members[top] = 1
        return top, "stored", members
    # Of the nearest 3, 4, 5, ... patterns: how many have each value, and which of them is nearer.
    one_hot = rows[order, :, None] == np.arange(q)
    nearer = np.where(one_hot.any(0), one_hot.argmax(0), len(rows)) / (len(rows) + 1)
    frequent = (np.cumsum(one_hot, axis=0)[2:] - nearer).argmax(2)
    near = (q * (frequent == x).mean(1) - 1) / (q - 1)
    if not near.size or near.max() < least:
        return top, "spurious", members
    members[order[: 3 + int(near.argmax())]] = 1
    return top, "mixture", members


def _real_kind(
    x: np.ndarray, rows: np.ndarray, cosines: np.ndarray, apart: np.ndarray, least: float
) -> tuple[int, str, np.ndarray]:
    """Nearest pattern, kind and members of a real state."""
    del cosines
    members = np.zeros(len(rows), np.int8)
    gaps, other = ((rows - x) ** 2).sum(1), ((rows + x) ** 2).sum(1)
    top, back = int(gaps.argmin()), int(other.argmin())
    if gaps[top] <= (1 - least) * apart[top]:
        members[top] = 1
        return top, "stored", members
    if other[back] <= (1 - least) * apart[back]:
        members[back] = -1
        return back, "inverse", members
    if len(rows) == 1:
        return top, "spurious", members
    # Of the nearest 2, 3, 4, ... patterns: their means, and how far around those they lie.
    order = np.argsort(gaps, kind="stable")
    size = np.arange(2, len(rows) + 1)
    means = np.cumsum(rows[order], axis=0)[1:] / size[:, None]
    spread = np.cumsum((rows[order] ** 2).sum(1))[1:] / size - (means**2).sum(1)
    inside = ((means - x) ** 2).sum(1) <= (1 - least) * 2 * spread
    if not inside.any():
        return top, "spurious", members
    near = np.where(inside, ((means - x) ** 2).sum(1) / np.where(inside, spread, 1), np.inf)
    members[order[: 2 + int(near.argmin())]] = 1
    return top, "mixture", members
