"""States to pixels: shades of ink, and many pictures laid out on one sheet. No Matplotlib."""

import math
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from amlib._types import Nested

Shape = tuple[int, int]
Ink: TypeAlias = tuple[int, int, int] | int
"""A colour, or an index into a palette."""

INK, PAPER, RULE = (24, 28, 38), (255, 255, 255), (208, 212, 220)
WRONG_INK, WRONG_PAPER = (213, 94, 0), (248, 196, 150)
"""What is drawn by mistake, and what is left out by mistake."""
GAP = 10
"""Pixels between two cells of a sheet."""
CELL = 144
"""Pixels to which a picture is enlarged, by a whole factor; twice as many where few are shown."""


def pictures(states: Nested, where: str, shape: Shape | None) -> np.ndarray:
    """States as float pictures `(K, H, W)`."""
    a = np.asarray(states)
    if a.dtype.kind == "b":
        a = 2.0 * a - 1.0
    if a.dtype.kind not in "fiuV" or a.size == 0:  # JAX's bfloat16 has kind V
        raise ValueError(f"{where} must hold real numbers; {a.dtype}{list(a.shape)} came.")
    a = a.astype(np.float32)
    if a.ndim == 1:
        a = a[None]
    if a.ndim == 2:
        D = a.shape[1]
        height, width = (math.isqrt(D),) * 2 if shape is None else shape
        if height * width != D:
            raise ValueError(
                f"{where} must be pictures (K, H, W), or flat (K, D) with D = {height} x "
                f"{width}; {a.shape} came. Name the picture's shape=(height, width); "
                "a single picture is x[None]."
            )
        a = a.reshape(-1, height, width)
    if a.ndim != 3:
        raise ValueError(f"{where} must have shape (K, H, W) or (K, D); {a.shape} came.")
    return a


def batch(x: Nested, ndim: int) -> np.ndarray:
    """States with exactly one batch axis, from `ndim` of them."""
    x = np.asarray(x)
    return x.reshape(-1, *x.shape[ndim:])


def grey(pictures: np.ndarray) -> np.ndarray:
    """Darkness in [0, 1]: from -1 to 1, or wider where the values are."""
    finite = pictures[np.isfinite(pictures)]
    top = max(1.0, float(np.abs(finite).max(initial=0)))
    low = -top if finite.min(initial=0) < 0 else 0.0
    return np.clip(np.nan_to_num((pictures - low) / (top - low), nan=0.5), 0, 1)


def shade(pictures: np.ndarray) -> np.ndarray:
    """Pictures as RGB bytes, ink on paper."""
    dark = grey(pictures)[..., None]
    return (dark * np.array(INK) + (1 - dark) * np.array(PAPER)).round().astype(np.uint8)


class Sheet(NamedTuple):
    image: np.ndarray
    cells: list[tuple[float, float]]  # the middle of each cell's lower edge


def sheet(cells: np.ndarray, ncols: int, paper: Ink, rule: Ink, *, below: int = 0) -> Sheet:
    """Lay cells `(K, H, W, ...)` out on one image: enlarged, framed, with room `below` each."""
    K, H, W, *rest = cells.shape
    scale = max(1, round(CELL * (1 if K > 3 else 2) / max(H, W)))
    cells = cells.repeat(scale, 1).repeat(scale, 2)
    height, width = H * scale + 2, W * scale + 2
    nrows = -(-K // ncols)
    step_y, step_x = height + GAP + below, width + GAP
    sheet = np.empty((nrows * step_y - GAP, ncols * step_x - GAP, *rest), np.uint8)
    sheet[:] = paper
    corners = [(k // ncols * step_y, k % ncols * step_x) for k in range(K)]
    for cell, (y, x) in zip(cells, corners, strict=True):
        sheet[y : y + height, x : x + width] = rule
        sheet[y + 1 : y + height - 1, x + 1 : x + width - 1] = cell
    return Sheet(sheet, [(x + width / 2, y + height) for y, x in corners])


def fit(names: Sequence[str] | None, K: int, where: str) -> None:
    """Raise unless there are no names, or one for each of `K` pictures."""
    if names is not None and len(names) != K:
        raise ValueError(f"{where} must be one per picture, {K}; {len(names)} came.")


def columns(ncols: int | None, K: int, ratio: float, where: str) -> int:
    """Check how many pictures go in a row; by default `ratio` as many as there are rows."""
    if ncols is None:
        ncols = min(12, math.ceil(math.sqrt(ratio * K)))
    if ncols < 1:
        raise ValueError(f"{where}: ncols must be at least 1; {ncols} came.")
    return min(ncols, K)
