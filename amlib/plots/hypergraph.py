"""The hypergraph of a hierarchical memory as a picture."""

import itertools
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from amlib.hierarchical.describe import counted, kind, n_params
from amlib.hierarchical.graph import Name, items
from amlib.hierarchical.ham import HAM
from amlib.hierarchical.vectorized import VectorizedHAM
from amlib.plots.pictures import BLUE, FAINT, ORANGE, TEXT, new_figure

WIDTH, HEIGHT, STEP = 300, 190, 110
"""Pixels from layer to layer, of the row of layers, and from one row of synapses to the next."""


class Spot(NamedTuple):
    """Where a connection's synapse is drawn, and the layers it reaches."""

    x: float
    level: int
    ends: tuple[Name, ...]


def ham(ham: HAM | VectorizedHAM, *, ax: Axes | None = None) -> Axes:
    """Draw the hypergraph: layers as boxes in a row, each connection as a box above or below.

    A layer shows its name, its activation and its shape; a connection its synapse, with the
    number of parameters. A dashed line is a layer that the connection sends no signal to.

    **Arguments:**

    - `ham`: a hierarchical memory.
    - `ax`: where to draw; by default a new figure, as large as the graph needs.

    **Returns:** the axes.

    **Raises:** `TypeError` for anything else, `ValueError` for a memory without layers.
    """
    if not isinstance(ham, HAM | VectorizedHAM):
        raise TypeError(f"ham: must be a HAM; {type(ham).__name__} came.")
    if not ham.n_neurons:
        raise ValueError("ham: must have at least one layer; none came.")
    column = {name: float(i) for i, name in enumerate(_order(ham))}
    spots = _spots(ham, column)
    levels = max((s.level for s in spots if s.level > 0), default=0)
    depth = -min((s.level for s in spots if s.level < 0), default=0)
    spread = [*column.values(), *(s.x for s in spots)]
    columns = max(2.0, max(spread) - min(spread) + 1.0)
    width, height = round(WIDTH * columns), HEIGHT + STEP * (levels + depth)
    if ax is None:
        ax = new_figure(width, height).add_axes((0.0, 0.0, 1.0, 1.0))
    middle = 0.5 * (max(spread) + min(spread))
    ax.set_xlim(middle - columns / 2, middle + columns / 2)
    ax.set_ylim(-0.4 - depth, 0.4 + levels)
    ax.axis("off")
    for spot, connection in zip(spots, ham.connections, strict=True):
        _lines(ax, spot, connection.no_feedback, column)
    for name, layer in items(ham.neurons):
        _box(ax, column[name], 0.0, BLUE, str(name), f"{layer.name}\n{_shape(layer.shape)}")
    for spot, connection in zip(spots, ham.connections, strict=True):
        synapse = ham.hypersynapses[connection.synapse]
        weights = counted(n_params(synapse), "weight")
        if not getattr(synapse, "is_init", True):
            weights = "no weights yet"
        _box(
            ax,
            spot.x,
            float(spot.level),
            ORANGE,
            str(connection.synapse),
            f"{kind(synapse)}\n{weights}",
        )
    return ax


def _order(ham: HAM | VectorizedHAM) -> list[Name]:
    """Layers in a row, so that connected ones are near: breadth first from the first."""
    names = [name for name, _ in items(ham.neurons)]
    order: list[Name] = []
    for root in names:
        queue = [root]
        while queue:
            name = queue.pop(0)
            if name in order:
                continue
            order.append(name)
            near = {n for c in ham.connections if name in c.layers for n in c.layers}
            queue += [n for n in names if n in near]
    return order


def _spots(ham: HAM | VectorizedHAM, column: dict[Name, float]) -> list[Spot]:
    """A place for every connection: above the middle of its layers, short ones lowest.

    One that has a single layer goes below it, out of the way of the others' lines.
    """
    taken: list[tuple[int, float]] = []
    placed: dict[int, Spot] = {}
    spans = [[column[n] for n in c.layers] for c in ham.connections]
    alone = [s[0] for s in spans if max(s) == min(s)]
    for k in sorted(range(len(spans)), key=lambda k: max(spans[k]) - min(spans[k])):
        x = float(np.mean([min(spans[k]), max(spans[k])]))
        step = 1 if max(spans[k]) > min(spans[k]) else -1
        # Several below one layer stand side by side, so that no line runs behind another's box.
        aside = (-0.5, 0.5, 0.0) if step < 0 and alone.count(x) > 1 else (0.0,)
        places = ((at, d) for at in itertools.count(step, step) for d in aside)
        level, shift = next(
            (at, d) for at, d in places if all(a != at or abs(x + d - o) > 0.9 for a, o in taken)
        )
        taken.append((level, x + shift))
        placed[k] = Spot(x + shift, level, ham.connections[k].layers)
    return [placed[k] for k in range(len(spans))]


def _lines(ax: Axes, spot: Spot, blocked: tuple[Name, ...], column: dict[Name, float]) -> None:
    """A curve from the synapse to each of its layers, two to a layer that comes twice."""
    for k, name in enumerate(spot.ends):
        x, times = column[name], spot.ends.count(name)
        bow = 0.5 * (spot.ends[:k].count(name) - (times - 1) / 2) / max(1, times - 1)
        near = spot.level - np.sign(spot.level) * (0.1 + abs(bow))
        points = [(spot.x, float(spot.level)), (x + bow, near), (x, 0.0)]
        path = Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        style = "--" if name in blocked else "-"
        ax.add_patch(PathPatch(path, fc="none", ec=FAINT, lw=1.6, ls=style, zorder=1))


def _box(ax: Axes, x: float, y: float, colour: str, name: str, text: str) -> None:
    """A box with a name in bold and two lines below."""
    wide, high = 0.4, 0.24
    box = FancyBboxPatch(
        (x - wide, y - high),
        2 * wide,
        2 * high,
        boxstyle="round,pad=0.02,rounding_size=0.06",
        fc="white",
        ec=colour,
        lw=2,
        zorder=2,
    )
    ax.add_patch(box)
    ax.text(x, y + 0.12, _fit(name), ha="center", va="center", weight="bold", color=TEXT, size=8)
    text = "\n".join(map(_fit, text.split("\n")))
    ax.text(x, y - 0.08, text, ha="center", va="center", color=FAINT, size=6.5, linespacing=1.3)


def _fit(text: str, length: int = 27) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "scalar"
