"""The hypergraph of a hierarchical memory laid out in a plane, and drawn as SVG.

`amlib.plots.ham` draws the same with matplotlib. Here nothing is needed for it, and words and lines
take the colour of the text around the picture, be that light or dark.
"""

import hashlib
import html
import itertools
from typing import NamedTuple

import numpy as np

from amlib import _show as show
from amlib.hierarchical.describe import kind, weights
from amlib.hierarchical.graph import Hypergraph, Name, items

WIDE, HIGH = 0.4, 0.24
"""Half the width and height of a box; from layer to layer, and from row to row, it is 1."""

_COLOURS = {True: "#3d8fd1", False: "#d9682b"}  # of layers and synapses: seen on white and black
_X, _Y = 190, 110  # pixels


class Box(NamedTuple):
    """A layer or a connection: its place, its name, and two lines of text."""

    x: float
    y: float
    is_layer: bool
    name: str
    lines: tuple[str, str]


class Curve(NamedTuple):
    """From a connection to one of its layers: a parabola by its three points."""

    points: tuple[tuple[float, float], ...]
    dashed: bool


class Layout(NamedTuple):
    """Where everything is, `y` upwards, and the corners of the picture."""

    boxes: list[Box]
    curves: list[Curve]
    low: tuple[float, float]
    high: tuple[float, float]


class Spot(NamedTuple):
    """Where a connection's synapse is drawn, and the layers it reaches."""

    x: float
    level: int
    ends: tuple[Name, ...]


def layout(ham: Hypergraph) -> Layout:
    """Layers as boxes in a row, connections as boxes above or below, and lines between them."""
    column = {name: float(i) for i, name in enumerate(_order(ham))}
    spots = _spots(ham, column)
    boxes = [
        Box(column[name], 0.0, True, str(name), (layer.name, show.dimensions(layer.shape)))
        for name, layer in items(ham.neurons)
    ]
    curves = []
    for spot, connection in zip(spots, ham.connections, strict=True):
        curves += _curves(spot, connection.no_feedback, column)
        synapse = ham.hypersynapses[connection.synapse]
        lines = kind(synapse), weights(synapse, "weight")
        boxes.append(Box(spot.x, float(spot.level), False, str(connection.synapse), lines))
    spread = [box.x for box in boxes]
    half = max(2.0, max(spread) - min(spread) + 1.0) / 2
    middle = 0.5 * (max(spread) + min(spread))
    low = middle - half, min(box.y for box in boxes) - 0.4
    return Layout(boxes, curves, low, (middle + half, max(box.y for box in boxes) + 0.4))


def svg(ham: Hypergraph) -> str:
    """The picture as SVG. Lines end at the boxes, which are empty: what is behind is not known."""
    if not len(ham.neurons):
        return ""
    plan = layout(ham)
    (left, bottom), (right, top) = plan.low, plan.high
    at = lambda x, y: (round(_X * (x - left), 1), round(_Y * (top - y), 1))
    width, height = at(right, bottom)
    lines, holes, boxes = [], [], []
    for points, dashed in plan.curves:
        (a, b), (c, d), (e, f) = (at(*point) for point in points)
        dash = ' stroke-dasharray="6 4"' if dashed else ""
        lines.append(f'<path d="M{a} {b}Q{c} {d} {e} {f}"{dash}/>')
    for box in plan.boxes:
        (x, y), (wide, high) = at(box.x - WIDE, box.y + HIGH), (2 * WIDE * _X, 2 * HIGH * _Y)
        place = f'x="{x}" y="{y}" width="{wide:g}" height="{high:g}" rx="9"'
        holes.append(f"<rect {place}/>")
        words = [(box.name, 'font-size="13" font-weight="bold"', 18)]
        words += [
            (line, 'font-size="10.5" opacity="0.8"', 33 + 13 * k)
            for k, line in enumerate(box.lines)
        ]
        said = "".join(
            f'<text x="{x + wide / 2:g}" y="{y + below:g}" {style}>{html.escape(fit(word))}</text>'
            for word, style, below in words
        )
        boxes.append(f'<rect {place} fill="none" stroke="{_COLOURS[box.is_layer]}"/>{said}')
    whole = f'width="{width:g}" height="{height:g}"'
    # Names are of the whole page: another picture must not take the holes of this one.
    name = "holes-" + hashlib.sha256("".join(holes).encode()).hexdigest()[:8]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" {whole} '
        f'role="img" style="max-width: 100%; height: auto" aria-label="layers and synapses">'
        f'<mask id="{name}" maskUnits="userSpaceOnUse" x="0" y="0" {whole}>'
        f'<rect {whole} fill="white"/>{"".join(holes)}</mask>'
        f'<g fill="none" stroke="currentColor" stroke-opacity="0.55" stroke-width="1.6" '
        f'mask="url(#{name})">{"".join(lines)}</g>'
        f'<g fill="currentColor" stroke-width="2" text-anchor="middle" '
        f'font-family="system-ui, sans-serif">{"".join(boxes)}</g></svg>'
    )


def fit(text: str, length: int = 27) -> str:
    """What a box can hold of a text."""
    return show.shortened(text, length)


def _order(ham: Hypergraph) -> list[Name]:
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


def _spots(ham: Hypergraph, column: dict[Name, float]) -> list[Spot]:
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


def _curves(spot: Spot, blocked: tuple[Name, ...], column: dict[Name, float]) -> list[Curve]:
    """A curve from the synapse to each of its layers, two to a layer that comes twice."""
    made = []
    for k, name in enumerate(spot.ends):
        x, times = column[name], spot.ends.count(name)
        bow = 0.5 * (spot.ends[:k].count(name) - (times - 1) / 2) / max(1, times - 1)
        near = spot.level - float(np.sign(spot.level)) * (0.1 + abs(bow))
        points = (spot.x, float(spot.level)), (x + bow, near), (x, 0.0)
        made.append(Curve(points, name in blocked))
    return made
