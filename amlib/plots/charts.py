"""Energy landscapes, retrieval curves, and what a memory has stored."""

import math
from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from amlib import _checks as checks
from amlib._intervals import wilson
from amlib._types import EnergyFn, Nested
from amlib.descent.trajectory import Recall
from amlib.plots import _pixels as pixels
from amlib.plots._pixels import Shape
from amlib.plots.pictures import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    TEXT,
    grid,
    new_figure,
    place,
    style,
)

MARKS = ("o", "s", "^", "D", "v")
"""Lines differ by colour and by mark, so that they can be told apart in grey as well."""


@runtime_checkable
class HasEnergy(Protocol):
    """A memory, or anything else with an energy."""

    def energy(self, x: Array, /) -> Array:
        """The energy of a state."""
        ...


@runtime_checkable
class CurveLike(Protocol):
    """What `capacity` plots, as `am.analysis.RetrievalCurve`: four arrays of one length."""

    @property
    def K(self) -> Nested:
        """How many patterns were stored."""
        ...

    @property
    def level(self) -> Nested:
        """The noise."""
        ...

    @property
    def success(self) -> Nested:
        """The share of queries that was recalled."""
        ...

    @property
    def queries(self) -> Nested:
        """How many queries there were."""
        ...


Energy: TypeAlias = EnergyFn | HasEnergy


def landscape(
    energy: Energy,
    lims: Nested,
    *,
    trajectories: Recall | Nested | None = None,
    minima: Nested | None = None,
    points: int = 121,
    levels: int = 24,
    ax: Axes | None = None,
) -> Axes:
    """Draw an energy of two variables as contours, with the trajectories of recalls and the minima.

    ```python
    end = jax.vmap(lambda x: memory.recall(x, save_every=1))(starts)
    am.plots.landscape(memory, (-2, 2), trajectories=end)
    ```

    **Arguments:**

    - `energy`: a function from a state `(2,)` to its energy, or a memory with such an `energy`.
    - `lims`: `(low, high)` for both axes, or `((low, high), (low, high))`.
    - `trajectories`: a `Recall` that kept its states (`save_every=1`), of one state or a batch;
        or states `(T, 2)` or `(B, T, 2)`. Each trajectory begins with a ring and ends with a
        dot.
    - `minima`: states `(M, 2)` to mark with crosses; by default the minima of what is drawn.
    - `points`: how many energies are computed along each axis, at least 3.
    - `levels`: how many shades, at least 2.
    - `ax`: where to draw; by default a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for limits out of order, a memory or states that do not have two
    coordinates, energies that are no scalars or all of them not finite; `TypeError` for what is
    no energy, or one that JAX can't trace.
    """
    (x_low, x_high), (y_low, y_high) = sides = _limits(lims)
    for value, low, what in ((points, 3, "points"), (levels, 2, "levels")):
        if value < low:
            raise ValueError(f"landscape: {what} must be at least {low}; {value} came.")
    xs, ys = (np.linspace(low, high, points) for low, high in sides)
    heights = _heights(energy, xs, ys)
    paths = [] if trajectories is None else list(_paths(trajectories))
    marks = _lowest(xs, ys, heights) if minima is None else _planar(minima, "minima")
    if ax is None:
        ax = place(new_figure(760, 720), 90, 30, 600, 600)
    shades = ax.contourf(xs, ys, heights, levels, cmap="cividis")
    lines = {"colors": "white", "linewidths": 0.3, "linestyles": "solid", "alpha": 0.5}
    ax.contour(xs, ys, heights, shades.levels, **lines)
    for path in paths:
        ax.plot(*path.T, color="white", linewidth=2.6, solid_capstyle="round")
        ax.plot(*path.T, color=ORANGE, linewidth=1.4, solid_capstyle="round")
        ax.plot(*path[0], "o", ms=6, mfc="none", mec="white", mew=1.4)
        ax.plot(*path[-1], "o", ms=5, mfc=ORANGE, mec="white", mew=0.8)
    ax.plot(*marks.T, "x", ms=7, mew=1.8, color="white", linestyle="none", zorder=3)
    style(ax)
    ax.grid(visible=False)
    ax.set(xlim=(x_low, x_high), ylim=(y_low, y_high), xlabel="$x_1$", ylabel="$x_2$")
    ax.spines[:].set_visible(False)
    return ax


def _limits(lims: Nested) -> np.ndarray:
    """Lower and upper end of both axes, `(2, 2)`."""
    a = np.asarray(lims, float)
    if a.shape not in ((2,), (2, 2)) or not (
        np.isfinite(a).all() and (a[..., 0] < a[..., 1]).all()
    ):
        raise ValueError(
            f"landscape: lims must be (low, high), or that for each axis, with low < high; "
            f"{lims!r} came."
        )
    return np.broadcast_to(a, (2, 2))


def _heights(energy: Energy, xs: np.ndarray, ys: np.ndarray) -> np.ndarray:
    """The energies over a grid; what is not finite is left blank."""
    energy = energy.energy if isinstance(energy, HasEnergy) else energy
    if not callable(energy):
        raise TypeError(
            f"landscape: energy must be a function or a memory; {type(energy).__name__} came."
        )
    two = jax.ShapeDtypeStruct((2,), jnp.result_type(float))
    try:
        with checks.traceable("landscape: energy"):
            jax.eval_shape(energy, two)
    except Exception as err:
        if isinstance(err.__cause__, checks.UNTRACEABLE):
            raise
        raise ValueError(
            f"landscape: energy must take a state of shape (2,); it raised {type(err).__name__}: "
            f"{err}\nOf a memory with more units draw a plane: landscape(lambda p: "
            "memory.energy(x + p @ directions), ...), with two directions (2, D)."
        ) from err
    states = jnp.asarray(np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2), jnp.result_type(float))
    heights = np.asarray(jax.jit(jax.vmap(energy))(states), float)
    if heights.shape != (len(states),):
        raise ValueError(
            f"landscape: energy must return a scalar for a state (2,); an array of shape "
            f"{heights.shape[1:]} came. Sum over its axes."
        )
    if not np.isfinite(heights).any():
        raise ValueError("landscape: energy is not finite anywhere within lims. Choose other ones.")
    return np.ma.masked_invalid(heights.reshape(len(ys), len(xs)))


def _paths(source: Recall | Nested) -> Iterator[np.ndarray]:
    """The states of each trajectory, `(T, 2)`."""
    if isinstance(source, Recall):
        states = getattr(source.trajectory, "x", None)
        if states is None:
            raise ValueError(
                "landscape: the recall must have kept its states; it did not. "
                "Recall with save_every=1."
            )
        source = states
    a = np.asarray(source, float)
    if a.ndim not in (2, 3) or a.shape[-1] != 2 or a.size == 0:
        raise ValueError(
            f"landscape: trajectories must have shape (T, 2) or (B, T, 2); {a.shape} came."
        )
    yield from a.reshape(-1, *a.shape[-2:])


def _planar(states: Nested, what: str) -> np.ndarray:
    a = np.asarray(states)
    a = a.reshape(-1, 2).astype(float) if a.size == 0 else a
    if a.ndim != 2 or a.shape[-1] != 2:
        raise ValueError(f"landscape: {what} must have shape (M, 2); {a.shape} came.")
    return a


def _lowest(xs: np.ndarray, ys: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """The points inside the grid that lie lower than all eight around them."""
    h = np.ma.filled(heights, np.inf)
    n, m = h.shape
    middle = h[1:-1, 1:-1]
    around = [
        h[i : n - 2 + i, j : m - 2 + j] for i in range(3) for j in range(3) if (i, j) != (1, 1)
    ]
    rows, columns = np.nonzero(np.all([middle < other for other in around], axis=0))
    return np.stack([xs[columns + 1], ys[rows + 1]], -1)


def capacity(
    curve: CurveLike,
    *,
    y: str = "success",
    label: str | None = None,
    colors: Sequence[str] = (BLUE, ORANGE, GREEN, PURPLE),
    ax: Axes | None = None,
) -> Axes:
    """Plot how many recalls succeed, against how many patterns are stored or against noise.

    One line for each noise level against the number of patterns; where only one number was
    measured, one line against the noise. Bands are the curve's own 95 % intervals, as those over
    seeds; of success without such, Wilson's of the sample size.

    **Arguments:**

    - `curve`: what `am.analysis.retrieval_curve` returns; or anything with the arrays `K`,
        `level`, `success` and `queries`, of one length.
    - `y`: what is plotted: `"success"`, the share recalled; or `"overlap"`, the mean cosine of
        the end and the pattern, for which the curve must have an array `cosine`.
    - `label`: begins the names of the lines, in a legend.
    - `colors`: of the lines in turn.
    - `ax`: where to draw, for instance over another curve; by default a new figure.

    **Returns:** the axes.

    **Raises:** `TypeError` for what is no such curve; `ValueError` for an empty one, and for
    another `y`.
    """
    K, level, shown, low, high = _measured(curve, y)
    if ax is None:
        ax = place(new_figure(920, 560), 110, 30, 780, 440)
    by_count = len(np.unique(K)) > 1
    across, lines = (K, level) if by_count else (level, K)
    used = len(ax.lines)
    for k, value in enumerate(np.unique(lines)):
        rows = np.flatnonzero(lines == value)
        rows = rows[np.argsort(across[rows])]
        color, mark = colors[(used + k) % len(colors)], MARKS[(used + k) % len(MARKS)]
        parts = [label, f"noise {value:g}" if by_count else f"K = {value:,.0f}"]
        name = ", ".join(part for part in parts if part is not None)
        band = low[rows], high[rows]
        ax.fill_between(across[rows], *band, color=color, alpha=0.15, linewidth=0)
        ax.plot(across[rows], shown[rows], color=color, marker=mark, ms=4, label=name)
    if by_count and K.max() > 10 * K.min():
        ax.set_xscale("log")
    style(ax)
    if len(np.unique(across)) <= 12:
        ax.set_xticks(np.unique(across))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_ylim(min(0, np.nanmin(low), np.nanmin(shown)) - 0.03, 1.03)
    ax.set_xlabel("stored patterns K" if by_count else "noise")
    ax.set_ylabel(_MEASURES[y])
    ax.legend(frameon=False, labelcolor=TEXT, fontsize=8)
    return ax


_MEASURES = {"success": "share recalled", "overlap": "overlap with the pattern"}


def _measured(curve: CurveLike, y: str) -> tuple[np.ndarray, ...]:
    """`K`, `level`, what is plotted, and its interval; raise unless they have one length."""
    checks.choice(y, _MEASURES, "capacity: y")
    column = {"success": "success", "overlap": "cosine"}[y]
    try:
        K, level, shown, queries = columns = [
            np.atleast_1d(np.asarray(getattr(curve, name), float))
            for name in ("K", "level", column, "queries")
        ]
    except AttributeError as err:
        raise TypeError(
            f"capacity: curve must have K, level, {column} and queries; {type(curve).__name__} "
            "came. am.analysis.retrieval_curve makes one."
        ) from err
    if K.size == 0 or any(a.shape != K.shape for a in columns):
        raise ValueError(
            f"capacity: K, level, {column} and queries must be arrays of one length, at least 1; "
            f"{K.shape}, {level.shape}, {shown.shape} and {queries.shape} came."
        )
    band = [getattr(curve, f"{column}_{side}", None) for side in ("low", "high")]
    if all(side is not None for side in band):
        low, high = (np.atleast_1d(np.asarray(side, float)) for side in band)
    else:
        low, high = wilson(shown, queries) if y == "success" else (shown, shown)
    return K, level, shown, low, high


def memories(
    model: object,
    *,
    limit: int = 100,
    ncols: int | None = None,
    titles: Sequence[str] | None = None,
    shape: Shape | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Show what a memory has stored, or what a trained one has learned.

    Each pattern is scaled by its own largest value, so that learned weights of any size are seen;
    spins stay as they are.

    **Arguments:**

    - `model`: anything with patterns in its field `Xi`, or in `pixel_weights`, as the classifier.
    - `limit`: patterns shown at most, the first ones.
    - `ncols`, `titles`, `shape`, `ax`: as for `grid`; titles are those of the patterns shown.

    **Returns:** the axes.

    **Raises:** `TypeError` for a model without such a field; `ValueError` when the patterns are
    no pictures, or the titles do not fit them.
    """
    stored = getattr(model, "pixel_weights", None)
    stored = getattr(model, "Xi", None) if stored is None else stored
    if stored is None or callable(stored):
        raise TypeError(
            "memories: the model must have patterns in Xi or pixel_weights; "
            f"{type(model).__name__} came. An array of patterns is drawn by am.plots.grid."
        )
    if limit < 1:
        raise ValueError(f"memories: limit must be at least 1; {limit} came.")
    shown = pixels.pictures(stored, "memories: patterns", shape)[:limit]
    top = np.abs(np.where(np.isfinite(shown), shown, 0)).max(axis=(1, 2), keepdims=True)
    ncols = min(12, math.ceil(math.sqrt(2 * len(shown)))) if ncols is None else ncols
    scaled = shown / np.where(top > 0, top, 1)
    return grid(scaled, ncols=ncols, titles=titles, ax=ax)
