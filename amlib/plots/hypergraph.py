"""The hypergraph of a hierarchical memory as a picture."""

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, PathPatch
from matplotlib.path import Path

from amlib.hierarchical.drawing import HIGH, WIDE, Box, fit, layout
from amlib.hierarchical.ham import HAM
from amlib.hierarchical.vectorized import VectorizedHAM
from amlib.plots.pictures import BLUE, FAINT, ORANGE, TEXT, new_figure

WIDTH, HEIGHT, STEP = 300, 190, 110
"""Pixels from layer to layer, of the row of layers, and from one row of synapses to the next."""


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
    plan = layout(ham)
    (left, bottom), (right, top) = plan.low, plan.high
    if ax is None:
        width, height = round(WIDTH * (right - left)), HEIGHT + round(STEP * (top - bottom - 0.8))
        ax = new_figure(width, height).add_axes((0.0, 0.0, 1.0, 1.0))
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.axis("off")
    for points, dashed in plan.curves:
        path = Path(points, [Path.MOVETO, Path.CURVE3, Path.CURVE3])
        style = "--" if dashed else "-"
        ax.add_patch(PathPatch(path, fc="none", ec=FAINT, lw=1.6, ls=style, zorder=1))
    for box in plan.boxes:
        _box(ax, box)
    return ax


def _box(ax: Axes, box: Box) -> None:
    """A box with a name in bold and two lines below."""
    patch = FancyBboxPatch(
        (box.x - WIDE, box.y - HIGH),
        2 * WIDE,
        2 * HIGH,
        boxstyle="round,pad=0.02,rounding_size=0.06",
        fc="white",
        ec=BLUE if box.is_layer else ORANGE,
        lw=2,
        zorder=2,
    )
    ax.add_patch(patch)
    name, text = fit(box.name), "\n".join(map(fit, box.lines))
    ax.text(box.x, box.y + 0.12, name, ha="center", va="center", weight="bold", color=TEXT, size=8)
    ax.text(
        box.x, box.y - 0.08, text, ha="center", va="center", color=FAINT, size=6.5, linespacing=1.3
    )
