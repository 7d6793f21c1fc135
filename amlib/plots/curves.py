"""How a training went: losses and metrics by epoch."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from amlib._types import Nested
from amlib.learning.fit import FitResult
from amlib.plots.pictures import (
    BLUE,
    FAINT,
    GREEN,
    ORANGE,
    PURPLE,
    TEXT,
    new_figure,
    place,
    style,
)

_LOSSES = {"loss": ("training", BLUE, "-"), "validation_loss": ("validation", ORANGE, "--")}
_METRICS = [(GREEN, "-"), (PURPLE, "--"), (BLUE, "-."), (ORANGE, ":")]


def history(
    result: FitResult | Mapping[str, Nested], *, ax: Axes | None = None, log: bool = False
) -> tuple[Axes, ...]:
    """Plot the losses of a training by epoch; below them its metrics, one panel each.

    Curves differ in colour and in dashes. A faint line marks the epoch of the best model, where
    there were validation data. An epoch whose value is not finite leaves a gap.

    **Arguments:**

    - `result`: what `fit` returned, or its `history`.
    - `ax`: where to draw the losses, and nothing else; by default a new figure.
    - `log`: whether losses have a logarithmic axis; they must then be positive.

    **Returns:** the axes: that of the losses, then one for each metric.

    **Raises:** `ValueError` when there is no epoch to plot, or a loss is not positive under `log`.
    """
    rows = result.history if isinstance(result, FitResult) else result
    columns = {name: _column(name, rows[name]) for name in rows if name != "seconds"}
    losses = {name: column for name, column in columns.items() if name in _LOSSES}
    if not losses or not all(column.size for column in columns.values()):
        raise ValueError(
            f"history: must hold a loss per epoch; {list(rows)} came, without values. "
            "Pass the result of am.fit."
        )
    if log and any(np.any(column <= 0) for column in losses.values()):
        raise ValueError(
            "history: log needs positive losses; some are 0 or negative. Leave it out."
        )
    metrics = {} if ax is not None else {n: c for n, c in columns.items() if n not in _LOSSES}
    if ax is None:
        figure = new_figure(920, 500 + 260 * len(metrics))
        ax = place(figure, 130, 30, 760, 400)
        below = [place(figure, 130, 460 + 260 * k, 760, 200) for k in range(len(metrics))]
    else:
        below = []
    for name, column in losses.items():
        label, color, dashes = _LOSSES[name]
        _curve(ax, column, label, color, dashes)
    if log:
        ax.set_yscale("log")
    ax.set_ylabel("loss")
    if len(losses) > 1:
        ax.legend(frameon=False, labelcolor=TEXT, fontsize=8)
    for k, (panel, name) in enumerate(zip(below, metrics, strict=True)):
        _curve(panel, metrics[name], name, *_METRICS[k % len(_METRICS)])
        panel.set_ylabel(name)
    panels = (ax, *below)
    for panel in panels:
        style(panel)
        panel.set_xlim(0, 1.02 * max(len(column) for column in columns.values()))
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
        panel.tick_params(labelbottom=panel is panels[-1])
        if isinstance(result, FitResult) and "validation_loss" in losses and result.best_epoch:
            panel.axvline(result.best_epoch, color=FAINT, linewidth=0.8, linestyle=(0, (1, 2)))
    panels[-1].set_xlabel("epoch")
    return panels


def _column(name: str, values: Nested) -> np.ndarray:
    """One value per epoch, NaN where it is not finite."""
    column = np.asarray(values).astype(float)
    if column.ndim != 1:
        raise ValueError(f"history: {name} must be one value per epoch; shape {column.shape} came.")
    return np.where(np.isfinite(column), column, np.nan)


def _curve(ax: Axes, column: np.ndarray, label: str, color: str, dashes: str) -> None:
    # A single epoch makes no line: it gets a dot.
    marker = "o" if np.isfinite(column).sum() < 2 else None
    at = np.arange(1, len(column) + 1)
    ax.plot(at, column, dashes, color=color, linewidth=1.6, label=label, marker=marker)
