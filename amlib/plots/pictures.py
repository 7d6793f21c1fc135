"""Still pictures: grids of patterns, recalls before and after, energy curves."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import ArrayLike, Shaped
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from amlib._types import Nested
from amlib.descent.trajectory import Recall, StateTrajectory, Trajectory
from amlib.plots import _pixels as pixels
from amlib.plots._pixels import PAPER, RULE, Shape

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
TEXT, FAINT = "#181c26", "#5b6270"
DPI, MARGIN = 144, 24

Array = Shaped[ArrayLike, "..."]
AnyTrajectory = Trajectory | StateTrajectory


class Picture(Figure):
    """A figure that a notebook shows by itself, without a backend chosen before."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def grid(
    patterns: Array,
    *,
    ncols: int | None = None,
    titles: Sequence[str] | None = None,
    ax: Axes | None = None,
    shape: Shape | None = None,
) -> Axes:
    """Show patterns side by side, each as a picture.

    Values from -1 to 1 go from white to black. Where no value is negative, white is 0; where
    some are larger than 1, the largest is black.

    **Arguments:**

    - `patterns`: `(K, H, W)`; or flat, `(K, D)` or `(D,)`, where D is a square number or `shape`
        is given.
    - `ncols`: pictures per row, at least 1; by default a square of pictures, at most 12 wide.
    - `titles`: one line under each picture.
    - `ax`: where to draw; by default a new figure, with whole screen pixels for each value.
    - `shape`: height and width of a flat pattern.

    **Returns:** the axes.

    **Raises:** `ValueError` when the patterns are no pictures, or the titles do not fit them.
    """
    pictures = pixels.pictures(patterns, "grid: patterns", shape)
    K = len(pictures)
    ncols = pixels.columns(ncols, K, 1.0, "grid")
    pixels.fit(titles, K, "grid: titles")
    sheet = pixels.sheet(
        pixels.shade(pictures),
        min(ncols, K),
        PAPER,
        RULE,
        below=0 if titles is None else 24,
    )
    if ax is None:
        height, width = sheet.image.shape[:2]
        ax = place(
            new_figure(width + 2 * MARGIN, height + 2 * MARGIN), MARGIN, MARGIN, width, height
        )
    show(ax, sheet, titles)
    return ax


def recall(
    result: Recall | Array,
    *,
    before: Array | None = None,
    truth: Array | None = None,
    energy: Recall | AnyTrajectory | Array | None = None,
    compare: Mapping[str, Nested] | None = None,
    names: Sequence[str] | None = None,
    labels: tuple[str, str, str] = ("before", "recalled", "stored"),
    title: str | None = None,
    limit: int = 10,
    shape: Shape | None = None,
) -> tuple[Axes, ...]:
    """Show recalls as columns of pictures, before, after and truth; below them the energies.

    Pixels of a recalled picture that are wrong by more than a quarter of the truth's range are
    orange.

    **Arguments:**

    - `result`: a finished `Recall`, of one state or a batch; or final states, as for `grid`. Of a
        hierarchical memory the states of one layer, `result.x["image"]`, with `energy=result`.
    - `before`: the starting states; a recall with a trajectory knows them.
    - `truth`: the patterns that should have been recalled.
    - `energy`: energy curves, as for `energies`; a recall with a trajectory knows them.
    - `compare`: more rows by name, for instance what another memory recalled; they come second.
    - `names`: one line under each column.
    - `labels`: names of the rows before, after and truth.
    - `title`: one line above all.
    - `limit`: columns shown at most; the energy curves are those of all.
    - `shape`: height and width of a flat state.

    **Returns:** the axes of the pictures, and those of the curves where energies are known.

    **Raises:** `ValueError` when states or names do not fit each other.
    """
    if isinstance(result, Recall):
        ndim, kept = result.energy.ndim, one_state(result.trajectory, "recall")
        if kept is not None:
            energy = kept if energy is None else energy
            flips = isinstance(kept, Trajectory)
            start = kept.x0 if flips else np.asarray(kept.x).take(0, axis=ndim)
            before = pixels.batch(start, ndim) if before is None else before
        result = pixels.batch(result.x, ndim)
    if before is None:
        raise ValueError("recall: before must hold the starting states; none came. Pass before=x0.")
    given: dict[str, Nested] = {labels[0]: before, **(compare or {}), labels[1]: result}
    given |= {} if truth is None else {labels[2]: truth}
    rows = {name: pixels.pictures(row, f"recall: {name}", shape) for name, row in given.items()}
    after = rows[labels[1]]
    for name, row in rows.items():
        if row.shape != after.shape:
            raise ValueError(
                f"recall: {name} must fit the recalled states, {after.shape}; {row.shape} came."
            )
    pixels.fit(names, len(after), "recall: names")
    shown = pixels.shade(np.concatenate([row[:limit] for row in rows.values()]))
    shades = dict(zip(rows, np.split(shown, len(rows)), strict=True))
    names = None if names is None else names[:limit]
    note = None if truth is None else _mark_wrong(shades[labels[1]], after, rows[labels[2]])
    return _recall_figure(shades, names, energy, title, note)


def _mark_wrong(shades: np.ndarray, after: np.ndarray, stored: np.ndarray) -> str | None:
    """Make the wrong pixels orange, in place, and say so in a note."""
    wrong = (np.abs(after - stored) > np.ptp(stored) / 4)[: len(shades)]
    after = after[: len(shades)]
    shades[wrong & (after > 0)] = pixels.WRONG_INK
    shades[wrong & (after <= 0)] = pixels.WRONG_PAPER
    return "orange: wrong" if wrong.any() else None


def energies(
    source: Recall | AnyTrajectory | Array,
    *,
    ax: Axes | None = None,
    label: str | None = None,
    color: str = BLUE,
) -> Axes:
    """Plot energy curves; more than three become a bundle of thin lines with their median.

    **Arguments:**

    - `source`: a `Recall` or its trajectory, of one state or a batch, over the bits visited, the
        steps or the time; or energies `(..., T)` after 1 to T steps. The end, where no curve
        changes any more, is cut short.
    - `ax`: where to draw; by default a new figure.
    - `label`: names the curves, in a legend.
    - `color`: of the curves.

    **Returns:** the axes.

    **Raises:** `ValueError` when there is no energy to plot.
    """
    curves = curves_of(source, "energies")
    if ax is None:
        ax = place(new_figure(920, 520), 130, 30, 760, 400)
    draw_curves(ax, curves, *clock_of(source, curves), color, label)
    return ax


def draw_curves(
    ax: Axes,
    curves: np.ndarray,
    clock: np.ndarray,
    unit: str,
    color: str,
    label: str | None = None,
) -> None:
    """Draw energies `(B, T)` over when they were, `(B, T)`, in a unit."""
    shown = min(curves.shape[1], int(1.05 * settled(curves)) + 1)
    at = np.unique(np.linspace(0, shown - 1, 800).astype(int))
    curves, clock, many = curves[:, at], clock[:, at], len(curves) > 3
    alpha = max(0.1, min(0.6, 8 / len(curves))) if many else 1.0
    width = 0.8 if many else 1.6
    points = np.stack([clock, curves], axis=-1)
    ax.add_collection(LineCollection(list(points), colors=color, alpha=alpha, linewidths=width))
    middle = np.median(clock, axis=0), np.median(curves, axis=0)
    ax.plot(*middle, color=color, linewidth=2 if many else width, label=label)
    ax.autoscale_view()
    ax.set_xlim(0, ax.dataLim.x1)
    ax.set_xlabel(unit)
    ax.set_ylabel("energy")
    style(ax)
    if label is not None:
        ax.legend(frameon=False, labelcolor=TEXT, fontsize=8)


def new_figure(width: int, height: int) -> Picture:
    """A white figure of so many pixels, with a canvas of its own."""
    figure = Picture(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def painted(figure: Figure) -> np.ndarray:
    """The pixels of a figure, RGB."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def place(figure: Figure, left: int, top: int, width: int, height: int) -> Axes:
    """Axes at a place in pixels, from the upper left corner."""
    W, H = figure.get_size_inches() * DPI
    return figure.add_axes((left / W, 1 - (top + height) / H, width / W, height / H))


def show(ax: Axes, sheet: pixels.Sheet, titles: Sequence[str] | None) -> None:
    """Draw a sheet, and a title under each cell."""
    height, width = sheet.image.shape[:2]
    ax.imshow(
        sheet.image,
        interpolation="antialiased",  # exact where the axes have the sheet's own size
        extent=(0, width, height, 0),
    )
    ax.axis("off")
    for title, (x, y) in zip(titles or (), sheet.cells, strict=False):
        ax.text(x, y + 6, _short(title), ha="center", va="top", fontsize=7, color=FAINT)


def _short(title: str, length: int = 18) -> str:
    title = str(title)
    return title if len(title) <= length else title[: length - 1] + "…"


def style(ax: Axes) -> None:
    """Quiet axes: two spines, faint lines, dark text on white."""
    ax.set_facecolor("white")
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(colors=FAINT, labelsize=8)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.6g}".replace("-", "\N{MINUS SIGN}"))
    ax.xaxis.label.set(color=TEXT, fontsize=9)
    ax.yaxis.label.set(color=TEXT, fontsize=9)
    ax.grid(axis="y", color="#e6e8ec", linewidth=0.8)
    ax.set_axisbelow(True)


def _recall_figure(
    shades: dict[str, np.ndarray],
    names: Sequence[str] | None,
    energy: Recall | AnyTrajectory | Array | None,
    title: str | None,
    note: str | None = None,
) -> tuple[Axes, ...]:
    """Rows of pictures with their names at the left, and curves below them."""
    columns = len(next(iter(shades.values())))
    sheet = pixels.sheet(np.concatenate(list(shades.values())), columns, PAPER, RULE)
    height, width = sheet.image.shape[:2]
    # About 11 pixels per letter at 9 points.
    left = max(130, 44 + 11 * max(len(line) for name in shades for line in name.split("\n")))
    top, caption = MARGIN if title is None else 84, MARGIN if names is None else 76
    panel = 0 if energy is None else 220
    wide = max(width, 480)
    figure = new_figure(left + wide + MARGIN, top + height + caption + (panel and panel + 84))
    ax = place(figure, left, top, width, height)
    show(ax, sheet, None)
    if title is not None:
        ax.text(0, -28, title, ha="left", va="bottom", fontsize=12, color=TEXT)
    for name, (_, y) in zip(shades, sheet.cells[::columns], strict=True):
        middle = y - height / len(shades) / 2
        ax.text(-16, middle, name, ha="right", va="center", fontsize=9, color=TEXT)
    for name, (x, y) in zip(names or (), sheet.cells[-columns:], strict=False):
        ax.text(x, y + 8, _short(name), ha="center", va="top", fontsize=7, color=FAINT)
    if note is not None:
        ax.text(width, -6, note, ha="right", va="bottom", fontsize=8, color=ORANGE)
    if energy is None:
        return (ax,)
    return ax, energies(energy, ax=place(figure, left, top + height + caption, wide, panel))


def trajectory_of(source: Recall | AnyTrajectory, where: str) -> AnyTrajectory:
    """The trajectory of a recall."""
    trajectory = source.trajectory if isinstance(source, Recall) else source
    if trajectory is None:
        raise ValueError(f"{where}: the recall must have a trajectory; it was run without one.")
    return trajectory


def one_state(trajectory: AnyTrajectory | None, where: str) -> AnyTrajectory | None:
    """The trajectory itself, if it is that of one kind of state."""
    if isinstance(trajectory, StateTrajectory) and trajectory.parts is not None:
        raise ValueError(
            f"{where}: must be states of one layer; a recall of several layers came. "
            f"Pass the states of one, as in `plots.{where}(result.{_HOW[where]}, energy=result)`."
        )
    return trajectory


_HOW = {"recall": 'x["image"], before=x0["image"]', "animate": 'trajectory.x["image"]'}


def curves_of(source: Recall | AnyTrajectory | Array, where: str) -> np.ndarray:
    """Energies `(B, T)`, float64."""
    if isinstance(source, Recall | AnyTrajectory):
        source = trajectory_of(source, where).energy
    curves = np.asarray(source).astype(float)
    if curves.ndim == 0 or curves.size == 0:
        raise ValueError(f"{where}: must be energies (T,) or (B, T); {curves.shape} came.")
    curves = curves.reshape(-1, curves.shape[-1])
    return np.where(np.isfinite(curves), curves, np.nan)


def clock_of(source: Recall | AnyTrajectory | Array, curves: np.ndarray) -> tuple[np.ndarray, str]:
    """When the energies of a source were, `(B, T)`, and in which unit."""
    trajectory = source.trajectory if isinstance(source, Recall) else source
    if isinstance(trajectory, StateTrajectory):
        clock = np.asarray(trajectory.time).astype(float).reshape(curves.shape)
        return clock, "step" if (clock == clock.round()).all() else "time"
    counted = np.broadcast_to(np.arange(1.0, curves.shape[1] + 1), curves.shape)
    return counted, "bits visited" if isinstance(trajectory, Trajectory) else "step"


def settled(values: np.ndarray) -> int:
    """How many steps of `(B, T, ...)` there are until nothing changes any more, at least 1."""
    same = (values == values[:, -1:]) | (values != values)
    moving = np.flatnonzero(~same.reshape(*same.shape[:2], -1).all(axis=(0, 2)))
    return int(moving[-1]) + 2 if moving.size else 1
