"""What a committed figure says of itself: its data, sizes, seeds and intervals."""

import textwrap
from pathlib import Path

from matplotlib.figure import Figure


def captioned(figure: Figure, text: str) -> Figure:
    """The figure with lines of text below it; `save` makes room for them."""
    width = round(14.5 * figure.get_figwidth())
    lines = "\n".join(textwrap.wrap(text, width, break_long_words=False))
    figure.text(0.02, -0.01, lines, va="top", fontsize=8, color="#3b414d", linespacing=1.35)
    return figure


def save(figure: Figure, path: Path, dpi: float | str = "figure") -> None:
    """Write a figure with its caption, on white, so that it reads on a dark page as well."""
    figure.savefig(path, dpi=dpi, facecolor="white", bbox_inches="tight", pad_inches=0.1)
