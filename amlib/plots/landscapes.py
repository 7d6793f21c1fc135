"""What lies in an energy landscape: minima, basins, passes."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from amlib._types import Nested
from amlib.plots import _pixels as pixels
from amlib.plots._pixels import Shape
from amlib.plots.pictures import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    PURPLE,
    TEXT,
    grid,
    new_figure,
    place,
    style,
)

KINDS = {
    "stored": BLUE,
    "inverse": PURPLE,
    "mixture": GREEN,
    "spurious": ORANGE,
    "saddle": "#8a919e",
    "unlabelled": FAINT,
}
"""Colours of what a fixed point may be."""

_REST = "#c9cdd5"
_MINUS = "\N{MINUS SIGN}"


@runtime_checkable
class CensusLike(Protocol):
    """What `census` draws, as `am.analysis.FixedPoints`: arrays of one length, and two counts."""

    @property
    def count(self) -> Nested:
        """How many recalls ended in each fixed point."""
        ...

    @property
    def energy(self) -> Nested:
        """Their energies."""
        ...

    @property
    def kind(self) -> Nested:
        """What each is."""
        ...

    @property
    def members(self) -> Nested:
        """Which patterns are in it, 1, -1 or 0 for each."""
        ...

    @property
    def starts(self) -> int:
        """How many recalls there were."""
        ...

    @property
    def unsettled(self) -> int:
        """How many of them ended in no fixed point."""
        ...


@runtime_checkable
class BasinLike(Protocol):
    """What `basin` draws, as `am.analysis.Basin`."""

    @property
    def level(self) -> Nested:
        """The damage."""
        ...

    @property
    def success(self) -> Nested:
        """The share repaired."""
        ...

    @property
    def low(self) -> Nested:
        """Where its interval begins."""
        ...

    @property
    def high(self) -> Nested:
        """Where it ends."""
        ...

    @property
    def size(self) -> float:
        """The mean radius."""
        ...

    @property
    def size_low(self) -> float:
        """Where its interval begins."""
        ...

    @property
    def size_high(self) -> float:
        """Where it ends."""
        ...


@runtime_checkable
class BarrierLike(Protocol):
    """What `barrier` draws, as `am.analysis.Barrier`."""

    @property
    def path(self) -> Nested:
        """The states."""
        ...

    @property
    def energy(self) -> Nested:
        """Their energies."""
        ...

    @property
    def exact(self) -> bool:
        """Whether no path is lower."""
        ...


def check(found: object, kind: type, where: str, maker: str) -> None:
    """Raise `TypeError` unless a result has what is drawn."""
    if not isinstance(found, kind):
        raise TypeError(
            f"{where}: must be what am.analysis.{maker} returns; {type(found).__name__} came."
        )


def census(
    table: CensusLike,
    *,
    limit: int = 24,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a census of fixed points: a bar for each, as high as the share of recalls it took.

    Bars stand by rising energy, in the colour of their kind. Under a bar are the numbers of the
    patterns in it, with a minus sign for inverses, or how many there are. The last ones are what is
    not shown, and the recalls that did not settle, with their shares.

    **Arguments:**

    - `table`: what `am.analysis.fixed_points` returns.
    - `limit`: bars shown at most, those with the most recalls.
    - `labels`: names of the patterns; by default their numbers, from 0.
    - `ax`: where to draw; by default a new figure.

    **Returns:** the axes.

    **Raises:** `TypeError` for another kind of result; `ValueError` for a census without
    recalls, and `limit` below 1.
    """
    check(table, CensusLike, "census", "fixed_points")
    count, members = np.asarray(table.count), np.asarray(table.members)
    kind = np.asarray(table.kind).astype(str)
    if table.starts < 1 or limit < 1:
        raise ValueError(
            f"census: starts and limit must be at least 1; {table.starts} and {limit} came."
        )
    order = np.argsort(-count, kind="stable")
    shown = order[:limit][np.argsort(np.asarray(table.energy)[order[:limit]], kind="stable")]
    bars = [
        (int(count[k]), KINDS.get(str(kind[k]), FAINT), _names(members[k], labels)) for k in shown
    ]
    others = len(count) - len(shown)
    if others:
        bars.append((int(count[order[limit:]].sum()), _REST, f"{others:,} more"))
    if table.unsettled:
        bars.append((int(table.unsettled), _REST, "unsettled"))
    if ax is None:
        ax = place(new_figure(920, 600), 110, 50, 780, 400)
    heights = np.asarray([bar[0] for bar in bars]) / table.starts
    # What is not shown, or did not settle, may be most: it does not set the scale.
    top = float(heights[: len(shown)].max(initial=0)) or 1.0
    for k in range(len(shown), len(bars)):
        at = min(float(heights[k]), 1.15 * top)
        ax.annotate(
            f"{heights[k]:.2g}", (k, at), (0, -3 if at > top else 3),
            textcoords="offset points", ha="center", va="top" if at > top else "bottom",
            fontsize=7, color=TEXT,
        )  # fmt: skip
    ax.bar(np.arange(len(bars)), heights, 0.8, color=[bar[1] for bar in bars])
    style(ax)
    ax.tick_params(axis="x", length=0)
    crowded = len(bars) > 8
    turn = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    ax.set_xticks(np.arange(len(bars)), [bar[2] for bar in bars], fontsize=7, **turn)
    middle, half = (len(bars) - 1) / 2, max(len(bars), 8) / 2 + 0.2
    ax.set_xlim(middle - half, middle + half)
    ax.set_ylim(0, 1.15 * top)
    ax.set_ylabel("share of recalls")
    ax.set_xlabel("fixed points by rising energy: the patterns in them")
    here = [name for name in KINDS if (kind == name).any()]
    handles = [Patch(color=KINDS[n], label=f"{n} ({(kind == n).sum():,})") for n in here]
    if handles:
        ax.legend(
            handles=handles, frameon=False, labelcolor=TEXT, fontsize=8,
            loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(handles), borderaxespad=0.1,
        )  # fmt: skip
    return ax


def _names(members: np.ndarray, labels: Sequence[str] | None) -> str:
    """The patterns in a fixed point, as `1+4−6`, or how many there are."""
    inside = np.flatnonzero(members)
    if len(inside) > 3:
        return f"{len(inside)} patterns"
    parts = []
    for k in inside:
        sign = ("+" if parts else "") if members[k] > 0 else _MINUS
        parts.append(f"{sign}{k if labels is None else labels[int(k)]}")
    return "".join(parts)


def basin(
    found: BasinLike, *, label: str | None = None, color: str = BLUE, ax: Axes | None = None
) -> Axes:
    """Plot which share of recalls repairs the damage, against the damage; and the basin's size.

    The band is the 95 % interval of each share. The line upright is the size, the mean of the
    seeds' radii, with its interval. Several basins go on the same axes, each in its colour.

    **Arguments:**

    - `found`: what `am.analysis.basin` returns.
    - `label`: its name in a legend.
    - `color`: of the curve.
    - `ax`: where to draw, for instance over another basin; by default a new figure.

    **Returns:** the axes.

    **Raises:** `TypeError` for another kind of result; `ValueError` for a basin without levels.
    """
    check(found, BasinLike, "basin", "basin")
    columns = (found.level, found.success, found.low, found.high)
    level, success, low, high = (np.atleast_1d(np.asarray(a, float)) for a in columns)
    if not level.size:
        raise ValueError("basin: must have at least one level; none came.")
    if ax is None:
        ax = place(new_figure(920, 560), 110, 30, 780, 440)
    ax.fill_between(level, low, high, color=color, alpha=0.15, linewidth=0)
    name = f"size {found.size:.3g} ({found.size_low:.3g} to {found.size_high:.3g})"
    name = name if label is None else f"{label}, {name}"
    ax.plot(level, success, color=color, marker="o", ms=4, label=name)
    ax.axvspan(found.size_low, found.size_high, color=color, alpha=0.1, linewidth=0)
    ax.axvline(found.size, color=color, linewidth=1, linestyle=(0, (4, 2)))
    style(ax)
    ax.set_ylim(-0.03, 1.03)
    ax.set(xlabel="damage", ylabel="share recalled")
    ax.legend(frameon=False, labelcolor=TEXT, fontsize=8)
    return ax


def barrier(
    found: BarrierLike, *, shape: Shape | None = None, ax: Axes | None = None
) -> tuple[Axes, ...]:
    """Plot the energy along a path over a pass; below it, of pictures, states on the way.

    **Arguments:**

    - `found`: what `am.analysis.barrier` returns.
    - `shape`: height and width of a flat state; states of two axes are pictures anyway.
    - `ax`: where to draw the energy, and nothing else; by default a new figure.

    **Returns:** the axes: that of the energy, and that of the pictures where there are some.

    **Raises:** `TypeError` for another kind of result; `ValueError` for a path of fewer than
    two states, or states that are no pictures of that shape.
    """
    check(found, BarrierLike, "barrier", "barrier")
    path, energy = np.asarray(found.path, float), np.asarray(found.energy, float)
    if len(path) < 2 or energy.shape != path.shape[:1]:
        raise ValueError(
            f"barrier: must be a path of two states or more with their energies; {path.shape} and "
            f"{energy.shape} came."
        )
    flat = path.reshape(len(path), -1)
    moved = np.abs(np.diff(flat, axis=0))
    flips = bool(((moved > 0).sum(1) == 1).all()) and flat.shape[1] > 1
    along = (
        np.arange(len(path)) if flips else np.append(0, np.cumsum(np.linalg.norm(moved, axis=1)))
    )
    top = int(energy.argmax())
    axes: tuple[Axes, ...] = ()
    if ax is None and (path.ndim == 3 or shape is not None):
        chosen = [0, top // 2, top, (top + len(path)) // 2, len(path) - 1]
        titles = ["start", "", "pass", "", "end"]
        states = pixels.pictures(path[chosen], "barrier: path", shape)
        sheet = pixels.sheet(pixels.shade(states), 5, pixels.PAPER, pixels.RULE, below=24)
        height, width = sheet.image.shape[:2]
        figure = new_figure(max(920, width + 220), 560 + height + 30)
        ax = place(figure, 130, 30, figure.canvas.get_width_height()[0] - 160, 440)
        left = (figure.canvas.get_width_height()[0] - width) // 2
        axes = (grid(states, ncols=5, titles=titles, ax=place(figure, left, 560, width, height)),)
    elif ax is None:
        ax = place(new_figure(920, 560), 130, 30, 760, 440)
    marker = "o" if flips and len(path) <= 60 else None
    ax.plot(along, energy, color=BLUE, linewidth=1.6, marker=marker, ms=3)
    ends = np.asarray([0, -1])
    ax.plot(along[ends], energy[ends], "o", color=BLUE, ms=7, mec="white", zorder=3)
    ax.plot(along[top], energy[top], "D", color=ORANGE, ms=7, mec="white", zorder=3)
    _heights(ax, along, energy, top, found.exact)
    style(ax)
    if flips:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="flips from the start" if flips else "distance along the path", ylabel="energy")
    return (ax, *axes)


def _heights(ax: Axes, along: np.ndarray, energy: np.ndarray, top: int, exact: bool) -> None:
    """The pass above both ends, as arrows with numbers."""
    low, high = float(energy.min()), float(energy[top])
    span = high - low or 1.0
    wide = float(along[-1])
    ax.set_xlim(-0.14 * wide, 1.14 * wide)
    ax.set_ylim(low - 0.08 * span, high + 0.12 * span)
    # Bits have bounds; of real states the number is that of the saddle.
    sign = "" if exact else "≤ "
    for end, x, side in ((0, -0.05 * wide, "right"), (-1, 1.05 * wide, "left")):
        ax.plot([x, along[top]], [high, high], color=FAINT, linewidth=0.8, linestyle=(0, (2, 2)))
        gap = high - float(energy[end])
        if gap <= 0.02 * span:
            continue
        arrow = {"arrowstyle": "<->", "color": FAINT, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", (x, high), (x, float(energy[end])), arrowprops=arrow)
        shift = -0.012 * wide if side == "right" else 0.012 * wide
        text = f"{sign}{gap:.4g}"
        middle = 0.5 * (high + float(energy[end]))
        ax.text(x + shift, middle, text, ha=side, va="center", fontsize=8, color=TEXT, rotation=90)
