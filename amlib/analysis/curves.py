"""Retrieval curves: how often noisy patterns are recalled."""

import os
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Shaped

from amlib import _checks as checks, _progress as bars, _show as show
from amlib._compiled import compiled
from amlib._intervals import student, wilson
from amlib._numbers import known_numbers
from amlib._types import Key
from amlib.analysis import _runs as runs
from amlib.analysis.measures import cosine, rows_of


class RetrievalCurve(NamedTuple):
    """A tidy table: one row per number of patterns and noise level, as arrays of one length.

    `K` patterns stored; the noise `level`; the share of `success`; the mean `cosine` of the end
    and the pattern; the share `converged`; the mean `steps`; 95 % intervals of the success and of
    the cosine; and how many `queries` there were for each of how many `seeds`.

    Intervals of several seeds are Student's over the seeds' means, of the success never narrower
    than Wilson's of all queries; of one seed they are over its queries (Wilson's and Student's).
    """

    K: np.ndarray
    level: np.ndarray
    success: np.ndarray
    cosine: np.ndarray
    converged: np.ndarray
    steps: np.ndarray
    queries: np.ndarray
    success_low: np.ndarray
    success_high: np.ndarray
    cosine_low: np.ndarray
    cosine_high: np.ndarray
    seeds: np.ndarray

    __repr__ = show.text


def retrieval_curve(
    model_factory: Callable[[Any], Any],
    patterns: Shaped[ArrayLike, "K *shape"] | Callable[[Any], Any],
    corruption: Callable[[Any, Any, Any], Any],
    levels: Sequence[float | int] | np.ndarray | Array,
    key: Key,
    *,
    counts: Sequence[int] | None = None,
    queries: int = 100,
    recall: Callable[[Any, Any, Any], Any] | None = None,
    success: Callable[[Any, Any], Any] | None = None,
    seeds: int | None = None,
    progress: bool = True,
) -> RetrievalCurve:
    """Measure how often noisy patterns are recalled, against noise and number of patterns.

    ```python
    curve = retrieval_curve(am.ModernHopfield, Xi, am.data.corrupt.flip, [0, 0.1, 0.2], key)
    ```

    **Arguments:**

    - `model_factory`: from stored patterns to a memory, binary or continuous.
    - `patterns`: the patterns; the first `K` of them are stored. A function from a key to
      patterns draws them anew for every seed, as capacities of random patterns need it.
    - `corruption`: `corruption(key, x, level)` spoils one pattern.
    - `levels`: noise levels, in whatever unit `corruption` takes; integers stay integers, as
      `corrupt.flip_exactly` wants them.
    - `key`: for the queries, their noise, and recalls that need randomness.
    - `counts`: numbers of patterns to store; `None` means all of them.
    - `queries`: sample size per row of the table; queries go over the stored patterns in turn.
    - `recall`: `recall(model, x, key)`; `None` calls `model.recall(x, key=key)`.
    - `success`: `success(x, xi)`, whether the end `x` counts as the pattern `xi`; `None` means a
      cosine above 0.9.
    - `seeds`: how often to measure all of it, at least 2, each time with other noise, and other
      patterns where they are drawn; the intervals are then over the seeds. `None` measures once.
    - `progress`: whether to show a progress bar.

    **Returns:** a `RetrievalCurve`, one row per count and level.

    **Raises:** `ValueError` for a count that is not between 1 and the number of patterns, for
    `queries < 1`, `seeds < 2`, for no levels, and for what `corruption` or `success` return in
    another shape; `TypeError` for a `recall` that returns no `Recall`, and for a key that is none.
    """
    checks.key(key, "retrieval_curve: key")
    values = runs.levels_of(levels, "retrieval_curve")
    checks.at_least(queries, 1, "retrieval_curve: queries")
    if seeds is not None:
        checks.integer(seeds, 2, "retrieval_curve: seeds")
    keys = [key] if seeds is None else [jax.random.fold_in(key, s) for s in range(seeds)]
    sets = _drawn_patterns(patterns, keys)
    counts = _counts(counts, sets[0].shape[0])
    recall = runs.default_recall if recall is None else recall
    success = _close if success is None else success
    found: dict[tuple[int, int], list[np.ndarray]] = defaultdict(list)
    ahead = deque()
    pool = ThreadPoolExecutor(os.cpu_count())

    def measure(k: int, key: Key, chosen: Array, memory: Any, program: Future[object]) -> None:
        program.result()
        for i, level in enumerate(values):
            step = jax.random.fold_in(jax.random.fold_in(key, counts[k]), i)
            starts = _spoiled(corruption, chosen, jnp.asarray(level.item()), step)
            arguments: Any = *memory, *starts
            x, *rest = runs.recalled(*arguments)
            columns = [np.asarray(a, float) for a in (*_judged(success, x, chosen), *rest)]
            found[k, i].append(np.stack(columns))
            bar.update()

    # Programs are compiled by all cores, while the next one is traced and those that are done run.
    total = len(keys) * len(counts) * len(values)
    with bars.bar(total, progress) as bar:
        try:
            for s, own in enumerate(keys):
                for k, count in enumerate(counts):
                    model = model_factory(sets[s][:count])
                    chosen = sets[s][np.arange(queries) % count]
                    memory: Any = "retrieval_curve", recall, model, known_numbers(model)
                    starts = _spoiled(corruption, chosen, jnp.asarray(values[0].item()), own)
                    arguments: Any = *memory, *starts
                    program = runs.recalled.prepare(*arguments) if s == 0 else _no_program
                    ahead.append((k, own, chosen, memory, pool.submit(program)))
                    while ahead and ahead[0][-1].done():
                        measure(*ahead.popleft())
            while ahead:
                measure(*ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return _table(found, counts, values)


def _table(
    found: dict[tuple[int, int], list[np.ndarray]], counts: list[int], values: np.ndarray
) -> RetrievalCurve:
    """A row for each count and level, of what the seeds found."""
    rows = [
        (count, float(level), *_row(np.stack(found[k, i])))
        for k, count in enumerate(counts)
        for i, level in enumerate(values)
    ]
    return RetrievalCurve(*(np.asarray(column) for column in zip(*rows, strict=True)))


def _counts(counts: Sequence[int] | None, K: int) -> list[int]:
    """The numbers of patterns to store; raise where there are not so many."""
    counts = [K] if counts is None else [int(k) for k in counts]
    for count in counts:
        if not 1 <= count <= K:
            raise ValueError(f"retrieval_curve: counts must lie in [1, {K}]; {count} came.")
    return counts


def _no_program() -> None:
    """Of later seeds: the programs of the first one are theirs."""


def _drawn_patterns(
    patterns: ArrayLike | Callable[[Any], ArrayLike], keys: list[Key]
) -> list[Array]:
    """The patterns of each seed, all of one shape."""
    where = "retrieval_curve: patterns"
    if callable(patterns):
        draws = [jax.random.fold_in(key, 2**31 - 1) for key in keys]
        sets = [checks.as_float(patterns(draw), where) for draw in draws]
    else:
        sets = [checks.as_float(patterns, where)] * len(keys)
    for Xi in sets:
        rows_of(Xi, where)
        if Xi.shape != sets[0].shape:
            raise ValueError(
                f"{where}: must have one shape for every key; {sets[0].shape} and {Xi.shape} came."
            )
    return sets


def _row(found: np.ndarray) -> tuple[float | int, ...]:
    """What follows count and level, of measurements `(seeds, 4, queries)`."""
    seeds, _, queries = found.shape
    success, cosines, converged, steps = found.mean((0, 2))
    low, high = wilson(success, np.asarray(seeds * queries))
    if seeds > 1:
        least, most = student(found.mean(2))
        low, high = min(low, least[0]), max(high, most[0])
    else:
        least, most = student(found[0].T)
    low, high = np.clip([low, high], 0, 1)
    lowest, highest = np.clip([least[1], most[1]], -1, 1)
    return success, cosines, converged, steps, queries, low, high, lowest, highest, seeds


# One row of the table, query by query. Only the second of the three programs depends on the memory.


@compiled
def _spoiled(
    corruption: Callable[..., Any], chosen: Array, level: Array, key: Array
) -> tuple[Array, Array]:
    """The starts, and a key for each recall."""

    def one(xi: Array, key: Array) -> tuple[Array, Array]:
        noise, draw = jax.random.split(key)
        return runs.spoiled("retrieval_curve", corruption, noise, xi, level), draw

    with checks.traceable("retrieval_curve: corruption, recall and success"):
        return jax.vmap(one)(chosen, jax.random.split(key, chosen.shape[0]))


@compiled
def _judged(success: Callable[..., Any], x: Array, chosen: Array) -> tuple[Array, Array]:
    """Which ends count as their patterns, and their cosines."""

    def one(x: Array, xi: Array) -> tuple[Array, Array]:
        x = x.astype(xi.dtype)
        return runs.judged("retrieval_curve", success, x, xi), cosine(x, xi)

    with checks.traceable("retrieval_curve: corruption, recall and success"):
        return jax.vmap(one)(x, chosen)


def _close(x: Array, xi: Array) -> Array:
    return cosine(x, xi) > 0.9
