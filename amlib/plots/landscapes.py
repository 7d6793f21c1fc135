"""What lies in an energy landscape: minima, basins, passes, trees of minima, bifurcations."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
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


class PassesLike(Protocol):
    """What `disconnectivity` draws, as `am.analysis.Passes`."""

    @property
    def energy(self) -> Nested:
        """The energies of the minima, `(M,)`."""
        ...

    @property
    def height(self) -> Nested:
        """The energies of the passes between them, `(M, M)`."""
        ...


def census(
    table: CensusLike,
    *,
    limit: int = 24,
    labels: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw a census of fixed points: a bar for each, as high as the share of recalls it took.

    Bars stand by rising energy, in the colour of their kind. Under a bar are the numbers of the
    patterns in it, with a minus sign for inverses; under the last one what is not shown, and the
    recalls that did not settle.

    **Arguments:**

    - `table`: what `am.analysis.fixed_points` returns.
    - `limit`: bars shown at most, those with the most recalls.
    - `labels`: names of the patterns; by default their numbers, from 0.
    - `ax`: where to draw; by default a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for a census without recalls, and `limit` below 1.
    """
    count, members = np.asarray(table.count), np.asarray(table.members)
    kind = np.asarray(table.kind).astype(str)
    if table.starts < 1 or limit < 1:
        raise ValueError(
            f"census: starts and limit must be at least 1; {table.starts} and {limit} came."
        )
    order = np.argsort(-count, kind="stable")
    shown = order[:limit][np.argsort(np.asarray(table.energy)[order[:limit]], kind="stable")]
    bars = [(int(count[k]), KINDS.get(kind[k], FAINT), _names(members[k], labels)) for k in shown]
    others = len(count) - len(shown)
    if others:
        bars.append((int(count[order[limit:]].sum()), _REST, f"{others:,} more"))
    if table.unsettled:
        bars.append((int(table.unsettled), _REST, "unsettled"))
    if ax is None:
        ax = place(new_figure(920, 560), 110, 30, 780, 400)
    heights = np.asarray([bar[0] for bar in bars]) / table.starts
    ax.bar(np.arange(len(bars)), heights, 0.8, color=[bar[1] for bar in bars])
    style(ax)
    ax.tick_params(axis="x", length=0)
    crowded = len(bars) > 8 or max(len(bar[2]) for bar in bars) > 6
    turn = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    ax.set_xticks(np.arange(len(bars)), [bar[2] for bar in bars], fontsize=7, **turn)
    ax.set_xlim(-0.7, len(bars) - 0.3)
    ax.set_ylim(0, 1.15 * heights.max())
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
    """The patterns in a fixed point, as `1 + 4 - 6`."""
    inside = np.flatnonzero(members)
    parts = []
    for k in inside[:5]:
        sign = ("+" if parts else "") if members[k] > 0 else _MINUS
        parts.append(f"{sign}{k if labels is None else labels[k]}")
    return "".join(parts) + ("…" if len(inside) > 5 else "")


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

    **Raises:** `ValueError` for a basin without levels.
    """
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

    **Raises:** `ValueError` for a path of fewer than two states, or states that are no pictures of
    that shape.
    """
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
        ax.annotate(
            "", (x, high), (x, float(energy[end])),
            arrowprops={"arrowstyle": "<->", "color": FAINT, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
        )  # fmt: skip
        shift = -0.012 * wide if side == "right" else 0.012 * wide
        text = f"{sign}{gap:.4g}"
        middle = 0.5 * (high + float(energy[end]))
        ax.text(x + shift, middle, text, ha=side, va="center", fontsize=8, color=TEXT, rotation=90)


# -- trees ------------------------------------------------------------------------------------


class _Node(NamedTuple):
    """Some minima, the height up to which they are apart from all others, and what they are of."""

    energy: float
    lowest: float
    leaf: int
    children: tuple["_Node", ...]


def disconnectivity(
    passes: PassesLike,
    *,
    labels: Sequence[str] | None = None,
    colors: Sequence[str] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the disconnectivity tree of minima: which are joined by passes, and how high these are.

    Every branch ends below at a minimum's energy. Two branches join at the energy of the lowest
    pass between their minima: with less energy there is no way from one to the other. Lower minima
    stand to the left of what they are joined with.

    **Arguments:**

    - `passes`: what `am.analysis.passes` returns.
    - `labels`: names under the minima; by default their numbers, where there are at most 40.
    - `colors`: of the minima, for instance by their kind.
    - `ax`: where to draw; by default a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for energies and heights whose sizes do not fit, or are not finite, a
    pass below its minima, and other numbers of labels or colours than minima.

    **Reference:** Becker and Karplus 1997 (J. Chem. Phys. 106, 1495), with every pass at its own
    height instead of a row of levels.
    """
    energy, height = np.asarray(passes.energy, float), np.asarray(passes.height, float)
    M = energy.size
    if energy.ndim != 1 or not M or height.shape != (M, M) or not np.isfinite(energy).all():
        raise ValueError(
            f"disconnectivity: must be M finite energies and M x M heights; {energy.shape} and "
            f"{height.shape} came."
        )
    slack = 1e-5 * max(1.0, float(np.abs(energy).max()))
    if (height < np.maximum(energy[:, None], energy[None]) - slack).any():
        raise ValueError("disconnectivity: a pass must not be below the minima that it joins.")
    for values, what in ((labels, "labels"), (colors, "colors")):
        pixels.fit(values, M, f"disconnectivity: {what}")
    labels = [str(k) for k in range(M)] if labels is None and M <= 40 else labels
    roots = _tree(energy, np.minimum(height, height.T))
    if ax is None:
        ax = place(new_figure(920, 640), 130, 30, 760, 520)
    places: dict[int, float] = {}
    tops = [root.energy for root in roots if root.children]
    top = max([*tops, float(energy.max())])
    above = top + 0.06 * (top - float(energy.min()) or 1.0)
    for root in roots:
        x = _draw(ax, root, places, colors)
        ax.plot([x, x], [root.energy, above], color=FAINT, linewidth=1.2)
    for k, x in places.items():
        color = BLUE if colors is None else colors[k]
        ax.plot(x, energy[k], "o", ms=5 if M <= 40 else 3, color=color, zorder=3)
        if labels is not None:
            turn = (
                {"rotation": 60, "ha": "right"} if max(map(len, labels)) > 3 else {"ha": "center"}
            )
            ax.annotate(
                labels[k], (x, energy[k]), (0, -6), textcoords="offset points", va="top",
                fontsize=7, color=TEXT, **turn,
            )  # fmt: skip
    style(ax)
    ax.spines["bottom"].set_visible(False)
    ax.set_xticks([])
    ax.margins(x=0.04)
    room = 0.12 if labels is not None else 0.04
    ax.set_ylim(float(energy.min()) - room * (above - float(energy.min())), above)
    ax.set_ylabel("energy")
    return ax


def _tree(energy: np.ndarray, height: np.ndarray) -> list[_Node]:
    """The trees: groups of minima joined by ever higher passes, several at once where they tie."""
    groups = {k: _Node(float(e), float(e), k, ()) for k, e in enumerate(energy)}
    of = np.arange(len(energy))  # the group of each minimum
    between = height[np.triu_indices(len(energy), 1)]
    for level in np.unique(between[np.isfinite(between)]):
        rows, columns = np.nonzero(height <= level)
        joined = of.copy()
        for i, j in zip(rows, columns, strict=True):
            if joined[i] != joined[j]:
                joined[joined == max(joined[i], joined[j])] = min(joined[i], joined[j])
        for name in np.unique(joined):
            parts = np.unique(of[joined == name])
            if len(parts) > 1:
                children = sorted((groups.pop(k) for k in parts), key=lambda node: node.lowest)
                groups[name] = _Node(float(level), children[0].lowest, -1, tuple(children))
        of = joined
    return sorted(groups.values(), key=lambda node: node.lowest)


def _draw(ax: Axes, node: _Node, places: dict[int, float], colors: Sequence[str] | None) -> float:
    """Draw what is below a node, and say where it stands."""
    if not node.children:
        places[node.leaf] = float(len(places))
        return places[node.leaf]
    xs = []
    for child in node.children:
        x = _draw(ax, child, places, colors)
        color = FAINT if child.children or colors is None else colors[child.leaf]
        ax.plot([x, x], [child.energy, node.energy], color=color, linewidth=1.2)
        xs.append(x)
    ax.plot([xs[0], xs[-1]], [node.energy] * 2, color=FAINT, linewidth=1.2)
    return float(np.mean([xs[0], xs[-1]]))


# -- bifurcations -----------------------------------------------------------------------------


class BranchesLike(Protocol):
    """Branches of fixed points, as `am.analysis.Branches`: arrays of one length."""

    @property
    def branch(self) -> Nested:
        """Their numbers."""
        ...

    @property
    def value(self) -> Nested:
        """The parameter."""
        ...

    @property
    def x(self) -> Nested:
        """The fixed points."""
        ...

    @property
    def index(self) -> Nested:
        """How many eigenvalues are negative."""
        ...


class BifurcationsLike(Protocol):
    """What `bifurcations` draws, as `am.analysis.Bifurcations`."""

    @property
    def value(self) -> Nested:
        """Where eigenvalues cross zero."""
        ...

    @property
    def x(self) -> Nested:
        """The fixed points there."""
        ...

    @property
    def direction(self) -> Nested:
        """The eigenvectors."""
        ...

    @property
    def branches(self) -> BranchesLike:
        """The branches."""
        ...


def bifurcations(
    found: BifurcationsLike,
    *,
    direction: Nested | None = None,
    parameter: str = "beta",
    ax: Axes | None = None,
) -> Axes:
    """Plot branches of fixed points against the parameter: minima solid, others dashed.

    **Arguments:**

    - `found`: what `am.analysis.bifurcations` returns.
    - `direction`: the direction whose component is plotted; by default the eigenvector of the first
        bifurcation, from the fixed point there.
    - `parameter`: its name, at the axis.
    - `ax`: where to draw; by default a new figure.

    **Returns:** the axes.

    **Raises:** `ValueError` for a direction of another size than a state.
    """
    rows = found.branches
    branch, value, index = (np.asarray(a) for a in (rows.branch, rows.value, rows.index))
    x = np.asarray(rows.x, float).reshape(len(value), -1)
    at, here = np.atleast_1d(np.asarray(found.value, float)), np.asarray(found.x, float)
    here = here.reshape(at.size, x.shape[1])
    if direction is None and at.size:
        way, origin = np.asarray(found.direction, float).reshape(at.size, -1)[0], here[0]
    else:
        given = (
            np.ones(x.shape[1]) if direction is None else np.asarray(direction, float).reshape(-1)
        )
        way, origin = given, np.zeros(x.shape[1])
    if way.size != x.shape[1]:
        raise ValueError(
            f"bifurcations: direction must have the size of a state, {x.shape[1]}; {way.size} came."
        )
    way = way / (np.linalg.norm(way) or 1.0)
    if ax is None:
        ax = place(new_figure(920, 560), 130, 30, 760, 440)
    for number in np.unique(branch):
        on = np.flatnonzero(branch == number)
        y = (x[on] - origin) @ way
        stable = index[on] == 0
        for k in range(len(on) - 1):
            # A piece is that of its inner end: at a bifurcation an eigenvalue is zero.
            minimum = bool(stable[k + 1] if k == 0 else stable[k])
            line = {"color": BLUE, "linewidth": 1.8} if minimum else _DASHED
            ax.plot(value[on[k : k + 2]], y[k : k + 2], **line)
    ax.plot(
        at, (here - origin) @ way, "o", color=ORANGE, ms=6, mec="white", zorder=3, linestyle="none"
    )
    style(ax)
    ax.set(xlabel=parameter, ylabel="component of the fixed point")
    handles = [
        Line2D([], [], color=BLUE, linewidth=1.8, label="minimum"),
        Line2D([], [], **_DASHED, label="not a minimum"),
        Line2D(
            [], [], marker="o", color=ORANGE, linestyle="none", mec="white", label="bifurcation"
        ),
    ]
    ax.legend(handles=handles, frameon=False, labelcolor=TEXT, fontsize=8)
    return ax


_DASHED = {"color": FAINT, "linewidth": 1.2, "linestyle": (0, (3, 2))}
