"""How fixed points move, lose their stability and divide as a parameter moves."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Shaped

from amlib import _checks as checks, _show as show
from amlib.analysis import _runs as runs
from amlib.analysis._chart import Chart, Family
from amlib.memory import AbstractMemory


class Branches(NamedTuple):
    """A tidy table: one row per branch and value of the parameter, as arrays of one length.

    The number of the `branch`; the `value` of the parameter; the fixed point `x`, its `energy`, the
    lowest `eigenvalue` of the Hessian there, and its `index`, how many eigenvalues are negative;
    and the `origin`, the number of the bifurcation that the branch begins at (-1 of the first one).
    """

    branch: np.ndarray
    value: np.ndarray
    x: np.ndarray
    energy: np.ndarray
    eigenvalue: np.ndarray
    index: np.ndarray  # pyright: ignore[reportIncompatibleMethodOverride]
    origin: np.ndarray

    __repr__ = show.text


class Bifurcations(NamedTuple):
    """A tidy table: one row per eigenvalue that crosses zero, as arrays of one length.

    The `value` of the parameter where it crosses; the fixed point `x` there; the eigenvector, or
    `direction`; on which `branch`; the `number` of the eigenvalue, 0 for the lowest; and the
    `kind`: "crossing" where the branch goes on, "end" where it does not, as two fixed points meet
    and vanish (a fold), or as it runs into another branch. The `branches` are those followed.
    """

    value: np.ndarray
    x: np.ndarray
    direction: np.ndarray
    branch: np.ndarray
    number: np.ndarray
    kind: np.ndarray
    branches: Branches

    __repr__ = show.text


def bifurcations(
    model: AbstractMemory | Callable[[Any], Any],
    parameter: str,
    values: Sequence[float | int] | np.ndarray | Array,
    x0: Shaped[ArrayLike, "*shape"],
    *,
    generations: int = 1,
) -> Bifurcations:
    r"""Follow a fixed point as a parameter moves; say where eigenvalues of its Hessian cross zero.

    ```python
    found = am.analysis.bifurcations(am.GaussianMemory(Xi), "beta", betas, Xi.mean(0))
    found.value  # the inverse temperatures where minima divide
    am.plots.bifurcations(found)
    ```

    From value to value the fixed point is found by Newton's method from the one before, in smaller
    steps where it moves otherwise than its derivative by the parameter says. Where an eigenvalue
    has changed its sign, the value is located by false position. There the fixed point is left
    along the eigenvectors, on both sides and in both directions, and the branches found by
    Newton's method are followed in turn.

    **Arguments:**

    - `model`: a memory of free real states; or a function from the value of the parameter, which
      JAX traces, to one.
    - `parameter`: the name of the memory's field that moves, a scalar; with a function a label.
    - `values`: of the parameter, rising or falling, at least two. Bifurcations closer than two
      values may be missed.
    - `x0`: a state near a fixed point at the first value, stable or not.
    - `generations`: how often branches that leave others are followed: 0 follows the first one
      alone.

    **Returns:** a `Bifurcations`.

    **Raises:** `TypeError` for a memory of bits, of bounded states, or of a state per layer;
    `ValueError` for an unknown field, values that neither rise nor fall, and no fixed point near
    `x0`.

    **Reference:** Keller 1977, for the method; of log-sum-exp energies `am.theory.merging_beta`.
    """
    where = "bifurcations"
    grid = np.asarray(values, float)
    steps = np.diff(grid)
    if grid.ndim != 1 or len(grid) < 2 or not ((steps > 0).all() or (steps < 0).all()):
        raise ValueError(
            f"{where}: values must be two or more that rise, or fall; {values!r} came. Sort them."
        )
    checks.integer(generations, 0, f"{where}: generations")
    family = _family(model, parameter)
    memory = runs.check_reals(
        family(jnp.asarray(grid[0], jnp.result_type(float))), where, free=True
    )
    start = checks.widen(runs.state_of(memory, x0, f"{where}: x0"))
    chart = Chart(family, start.shape, start.dtype, grid)
    first = chart.solve(start.reshape(-1), grid[0])
    if first is None:
        raise ValueError(
            f"{where}: x0 must lie near a fixed point at {parameter} = {grid[0]:g}; Newton's "
            "method found none. Recall it there first: memory.recall(x0).x."
        )
    chart.follow(first, grid[1:], -1, generations)
    return _table(chart)


def _family(model: Any, parameter: str) -> Family:
    if isinstance(model, AbstractMemory):
        numbers = [
            field.name
            for field in dataclasses.fields(model)
            if not field.metadata.get("static", False)
            and np.shape(getattr(model, field.name)) == ()
            and isinstance(getattr(model, field.name), float | jax.Array | np.ndarray)
        ]
        checks.choice(parameter, numbers, "bifurcations: parameter")
    elif not callable(model):
        raise TypeError(
            "bifurcations: model must be a memory, or a function from a number to one; "
            f"{type(model).__name__} came."
        )
    return Family(model, parameter)


def _table(chart: Chart) -> Bifurcations:
    """All that was found."""
    rows = sorted(chart.rows, key=lambda row: row[0])
    points = [point for _, point, _ in rows]
    lowest = np.stack([p.eigenvalues for p in points])
    negative = (lowest < -chart.small * np.abs(lowest).max()).sum(1)
    branches = Branches(
        np.asarray([number for number, _, _ in rows]),
        np.asarray([p.value for p in points]),
        np.stack([p.x for p in points]).reshape(-1, *chart.shape),
        np.asarray([p.energy for p in points]),
        np.asarray([p.eigenvalues[0] for p in points]),
        negative,
        np.asarray([origin for _, _, origin in rows]),
    )
    size, found = int(np.prod(chart.shape)), chart.found
    x = np.asarray([p.x for p, *_ in found]).reshape(-1, size)
    ways = np.asarray([p.eigenvectors[k] for p, _, k, _ in found]).reshape(-1, size)
    return Bifurcations(
        np.asarray([p.value for p, *_ in found], float),
        x.reshape(-1, *chart.shape),
        ways.reshape(-1, *chart.shape),
        np.asarray([branch for _, branch, _, _ in found], int),
        np.asarray([k for _, _, k, _ in found], int),
        np.asarray([kind for *_, kind in found], dtype="<U8"),
        branches,
    )
