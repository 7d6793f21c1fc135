"""Measurements on memories: separations, metastable sizes, retrieval curves.

Everything here takes plain arrays, finished recalls, or a function that makes a model from
patterns, and serves binary and continuous memories alike.
"""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Integer, PyTree, Shaped
from tqdm.auto import tqdm

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._numbers import Numbers, knowing, known_numbers
from amlib._types import Key, ScalarLike
from amlib.descent.trajectory import Recall
from amlib.memory import AbstractMemory


def _rows(Xi: ArrayLike, where: str = "Xi") -> Array:
    Xi = checks.as_float(Xi, where)
    if Xi.ndim < 2 or Xi.size == 0:
        raise ValueError(f"{where}: must have shape (K, D) with K, D at least 1; {Xi.shape} came.")
    return Xi.reshape(Xi.shape[0], -1)


def separation(Xi: Shaped[ArrayLike, "K *shape"]) -> Float[Array, " K"]:
    r"""How far each pattern's overlap with itself exceeds that with any other.

    $$\Delta_\mu = \xi_\mu \cdot \xi_\mu - \max_{\nu \ne \mu} \xi_\mu \cdot \xi_\nu$$

    **Arguments:**

    - `Xi`: stored patterns, one per row.

    **Returns:** one separation per pattern, in units of a dot product; infinite for a single
    pattern, not positive for one that another pattern hides.

    **Reference:** Ramsauer et al. 2021, Definition 2.
    """
    rows = _rows(Xi)

    def one(k: Array) -> Array:
        overlaps = rows @ rows[k]
        others = jnp.where(jnp.arange(rows.shape[0]) == k, -jnp.inf, overlaps)
        return overlaps[k] - jnp.max(others)

    return lax.map(one, jnp.arange(rows.shape[0]), batch_size=min(256, rows.shape[0]))


def metastable_size(
    Xi: Shaped[ArrayLike, "K *shape"],
    x: Shaped[ArrayLike, "*shape"],
    beta: ScalarLike,
    mass: float | int = 0.9,
) -> Integer[Array, ""]:
    r"""How many patterns a state of a modern Hopfield network averages over.

    The least number of terms of $\mathrm{softmax}(\beta\, \Xi x)$ that sum to `mass`.

    **Arguments:**

    - `Xi`: stored patterns.
    - `x`: one state; batches go through `jax.vmap`.
    - `beta`: inverse temperature.
    - `mass`: the sum to reach, in (0, 1].

    **Returns:** 1 for a single pattern, about `mass * K` for the global average.

    **Reference:** Ramsauer et al. 2021, section 4 (0.90, classes at K/2, K/8, K/32).
    """
    rows, x = _rows(Xi), checks.as_float(x, "metastable_size: x")
    if not 0 < mass <= 1:
        raise ValueError(f"metastable_size: mass must lie in (0, 1]; {mass} came.")
    beta = checks.as_float(beta, "metastable_size: beta").astype(rows.dtype)
    weights = jax.nn.softmax(beta * (rows @ x.reshape(-1).astype(rows.dtype)))
    total = jnp.cumsum(jnp.sort(weights)[::-1])
    size = 1 + jnp.sum(total < mass * total[-1] * (1 - 1e-6))
    return jnp.minimum(size, rows.shape[0])


class RetrievalCurve(NamedTuple):
    """A tidy table: one row per number of patterns and noise level, as arrays of one length.

    `K` patterns stored; the noise `level`; the share of `success`; the mean `cosine` of the end
    and the pattern; the share `converged`; the mean `steps`; and `queries`, the sample size.
    """

    K: np.ndarray
    level: np.ndarray
    success: np.ndarray
    cosine: np.ndarray
    converged: np.ndarray
    steps: np.ndarray
    queries: np.ndarray


def cosine(x: Float[Array, "*shape"], xi: Float[Array, "*shape"]) -> Float[Array, ""]:
    """The cosine of the angle between two states; 0 where one is zero or not finite."""
    x = jnp.where(jnp.isfinite(x).all(), x, 0.0)
    norms = jnp.sqrt(jnp.sum(x * x) * jnp.sum(xi * xi))
    return jnp.sum(x * xi) / jnp.maximum(norms, jnp.finfo(x.dtype).tiny)


def retrieval_curve(
    model_factory: Callable[[Any], Any],
    patterns: Shaped[ArrayLike, "K *shape"],
    corruption: Callable[[Any, Any, Any], Any],
    levels: Sequence[float | int] | np.ndarray | Array,
    key: Key,
    *,
    counts: Sequence[int] | None = None,
    queries: int = 100,
    recall: Callable[[Any, Any, Any], Any] | None = None,
    success: Callable[[Any, Any], Any] | None = None,
    progress: bool = True,
) -> RetrievalCurve:
    """Measure how often noisy patterns are recalled, against noise and number of patterns.

    ```python
    curve = retrieval_curve(am.ModernHopfield, Xi, am.data.corrupt.flip, [0, 0.1, 0.2], key)
    ```

    **Arguments:**

    - `model_factory`: from stored patterns to a memory, binary or continuous.
    - `patterns`: the patterns; the first `K` of them are stored.
    - `corruption`: `corruption(key, x, level)` spoils one pattern.
    - `levels`: noise levels, in whatever unit `corruption` takes; integers stay integers, as
      `corrupt.flip_exactly` wants them.
    - `key`: for the queries, their noise, and recalls that need randomness.
    - `counts`: numbers of patterns to store; `None` means all of them.
    - `queries`: sample size per row of the table; queries go over the stored patterns in turn.
    - `recall`: `recall(model, x, key)`; `None` calls `model.recall(x, key=key)`.
    - `success`: `success(x, xi)`, whether the end `x` counts as the pattern `xi`; `None` means a
      cosine above 0.9.
    - `progress`: whether to show a progress bar.

    **Returns:** a `RetrievalCurve`, one row per count and level.

    **Raises:** `ValueError` for a count that is not between 1 and the number of patterns, for
    `queries < 1`, for no levels, and for what `corruption` or `success` return in another shape;
    `TypeError` for a `recall` that returns no `Recall`, and for a key that is none.
    """
    checks.key(key, "retrieval_curve: key")
    values = _levels(levels)
    patterns = checks.as_float(patterns, "retrieval_curve: patterns")
    _rows(patterns, "retrieval_curve: patterns")
    checks.at_least(queries, 1, "retrieval_curve: queries")
    counts = [patterns.shape[0]] if counts is None else [int(k) for k in counts]
    for count in counts:
        if not 1 <= count <= patterns.shape[0]:
            raise ValueError(
                f"retrieval_curve: counts must lie in [1, {patterns.shape[0]}]; {count} came."
            )
    recall = _default_recall if recall is None else recall
    success = _close if success is None else success
    table, ahead = [], deque()
    pool = ThreadPoolExecutor(os.cpu_count())

    def measure(count: int, chosen: Array, memory: Any, program: Future[object]) -> None:
        program.result()
        for i, level in enumerate(values):
            step = jax.random.fold_in(jax.random.fold_in(key, count), i)
            starts = _spoiled(corruption, chosen, jnp.asarray(level.item()), step)
            arguments: Any = *memory, *starts
            x, *rest = _recalled(*arguments)
            means = [float(np.mean(np.asarray(a))) for a in (*_judged(success, x, chosen), *rest)]
            table.append((count, float(level), *means, queries))
            bar.update()

    # Programs are compiled by all cores, while the next one is traced and those that are done run.
    with tqdm(total=len(counts) * len(values), disable=not progress, leave=False) as bar:
        try:
            for count in counts:
                model = model_factory(patterns[:count])
                chosen = patterns[np.arange(queries) % count]
                memory: Any = recall, model, known_numbers(model)
                starts = _spoiled(corruption, chosen, jnp.asarray(values[0].item()), key)
                arguments: Any = *memory, *starts
                program = pool.submit(_recalled.prepare(*arguments))
                ahead.append((count, chosen, memory, program))
                while ahead and ahead[0][-1].done():
                    measure(*ahead.popleft())
            while ahead:
                measure(*ahead.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return RetrievalCurve(*(np.asarray(column) for column in zip(*table, strict=True)))


# One row of the table, query by query. Only the second of the three programs depends on the memory.


@compiled
def _spoiled(
    corruption: Callable[..., Any], chosen: Array, level: Array, key: Array
) -> tuple[Array, Array]:
    """The starts, and a key for each recall."""

    def one(xi: Array, key: Array) -> tuple[Array, Array]:
        noise, draw = jax.random.split(key)
        spoiled = jnp.asarray(corruption(noise, xi, level))
        if spoiled.shape != xi.shape:
            raise ValueError(
                f"retrieval_curve: corruption must return a pattern of shape {xi.shape}; "
                f"{spoiled.shape} came."
            )
        return spoiled, draw

    with checks.traceable("retrieval_curve: corruption, recall and success"):
        return jax.vmap(one)(chosen, jax.random.split(key, chosen.shape[0]))


@compiled
def _recalled(
    recall: Callable[..., Any],
    model: PyTree,
    known: tuple[Numbers, ...],
    spoiled: Array,
    draws: Array,
) -> tuple[Array, Array, Array]:
    """The ends, which of them rest, and their steps; `known` is what is known of the model."""

    def one(x: Array, key: Array) -> tuple[Array, Array, Array]:
        with knowing(model, known):
            end = recall(model, x, key)
        if not all(hasattr(end, name) for name in ("x", "converged", "steps")):
            came = jax.tree.map(lambda a: f"{a.dtype}{list(a.shape)}", end)
            raise TypeError(
                f"retrieval_curve: recall must return a Recall; {came} came. "
                "Return model.recall(...) itself, not its x."
            )
        return end.x, end.converged, end.steps

    with checks.traceable("retrieval_curve: corruption, recall and success"):
        return jax.vmap(one)(spoiled, draws)


@compiled
def _judged(success: Callable[..., Any], x: Array, chosen: Array) -> tuple[Array, Array]:
    """Which ends count as their patterns, and their cosines."""

    def one(x: Array, xi: Array) -> tuple[Array, Array]:
        x = x.astype(xi.dtype)
        hit = jnp.asarray(success(x, xi))
        if hit.shape:
            raise ValueError(
                f"retrieval_curve: success must return one truth value; shape {hit.shape} came. "
                "Close it with .all()."
            )
        return hit, cosine(x, xi)

    with checks.traceable("retrieval_curve: corruption, recall and success"):
        return jax.vmap(one)(x, chosen)


def _levels(levels: Sequence[float | int] | np.ndarray | Array) -> np.ndarray:
    """The noise levels, integers as integers."""
    a = np.asarray(levels)
    if a.ndim != 1 or a.size == 0 or a.dtype.kind not in "iuf":
        raise ValueError(
            f"retrieval_curve: levels must be a sequence of at least one number; {levels!r} came."
        )
    return a


def _close(x: Array, xi: Array) -> Array:
    return cosine(x, xi) > 0.9


def _default_recall(model: AbstractMemory, x: Array, key: Array) -> Recall:
    return model.recall(x, key=key)
