"""Trees of minima, and branches of fixed points."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from amlib._types import Nested
from amlib.plots.landscapes import check
from amlib.plots.pictures import BLUE, FAINT, ORANGE, TEXT, new_figure, place, style

_DASHED = {"color": FAINT, "linewidth": 1.2, "linestyle": (0, (3, 2))}


@runtime_checkable
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


@runtime_checkable
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


@runtime_checkable
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

    **Raises:** `TypeError` for another kind of result; `ValueError` for energies and heights
    whose sizes do not fit, or are not finite, a pass below its minima, and other numbers of
    labels or colours than minima.

    **Reference:** Becker and Karplus 1997 (J. Chem. Phys. 106, 1495), with every pass at its own
    height instead of a row of levels.
    """
    check(passes, PassesLike, "disconnectivity", "passes")
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
        if values is not None and len(values) != M:
            raise ValueError(
                f"disconnectivity: {what} must be one per minimum, {M}; {len(values)} came."
            )
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
            long = max(map(len, labels)) > 3
            ax.annotate(
                labels[k], (x, energy[k]), (0, -6), textcoords="offset points", va="top",
                ha="right" if long else "center", rotation=60 if long else 0,
                fontsize=7, color=TEXT,
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

    **Raises:** `TypeError` for another kind of result; `ValueError` for a direction of another
    size than a state.
    """
    check(found, BifurcationsLike, "bifurcations", "bifurcations")
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
        for k in range(len(on) - 1):
            # At a bifurcation, where a piece may begin or end, an eigenvalue is zero.
            minimum = not index[on[k : k + 2]].any()
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
