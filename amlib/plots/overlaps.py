"""Overlaps with every pattern over time: what a memory of a sequence plays."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from amlib.binary.playback import Playback
from amlib.plots.pictures import BLUE, ORANGE, TEXT, Array, new_figure, place, style


def overlaps(
    played: Playback, Xi: Array, *, ax: Axes | None = None, title: str | None = None
) -> Axes:
    r"""Show the overlap with each pattern at each time, as a picture.

    $$m^\mu(t) = \frac{1}{N} \sum_i \xi_i^\mu x_i(t)$$

    A sequence that plays is a blue diagonal: dark blue is the pattern itself, orange its inverse.

    **Arguments:**

    - `played`: what `SequenceMemory.play` returned for one state.
    - `Xi`: the patterns, one a row, as the memory has them.
    - `ax`: where to draw; by default a new figure.
    - `title`: one line above.

    **Returns:** the axes.

    **Raises:** `TypeError` for a batch; `ValueError` for patterns of another size.
    """
    if played.pattern.ndim != 1:
        raise TypeError(
            f"overlaps: played must be of one sequence; a batch of {played.pattern.shape[:-1]} "
            "came. Take one of them: played[0]."
        )
    patterns, shape = np.asarray(Xi), tuple(played.x.shape)
    if patterns.shape != (played.K, *shape):
        raise ValueError(
            f"overlaps: Xi must have shape {(played.K, *shape)}; {patterns.shape} came. "
            "Pass the patterns of the memory that played."
        )
    patterns = patterns.reshape(played.K, -1).astype(np.float32)
    states = np.asarray(played.frames, np.float32).reshape(played.steps + 1, -1)
    m = patterns @ states.T / states.shape[1]
    if ax is None:
        ax = place(new_figure(920, 620), 110, 60, 660, 460)
    colors = LinearSegmentedColormap.from_list("overlap", [ORANGE, "white", BLUE])
    extent = (-0.5, played.steps + 0.5, played.K - 0.5, -0.5)
    image = ax.imshow(m, colors, vmin=-1, vmax=1, aspect="auto", extent=extent)
    image.set_interpolation("nearest" if max(m.shape) <= 300 else "antialiased")
    style(ax)
    ax.grid(visible=False)
    ax.set_xlabel("step")
    ax.set_ylabel("pattern")
    bar = ax.figure.colorbar(image, ax=ax, ticks=[-1, 0, 1])
    bar.set_label("overlap", color=TEXT, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8)
    if title is not None:
        ax.set_title(title, color=TEXT, fontsize=10, loc="left")
    return ax
