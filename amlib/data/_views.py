"""Many distinct patterns from few pictures: windows of them, turned and mirrored."""

from collections.abc import Iterator

import jax
import numpy as np
from jaxtyping import Array, Float, Int8

ROOM = 6  # a picture is this many pixels larger than a window: 49 places


def views(
    images: Float[Array, "N S S"], count: int, side: int, seed: int = 0
) -> tuple[Int8[np.ndarray, "K D"], np.ndarray]:
    """Choose distinct views of pictures at random.

    **Arguments:**

    - `images`: pictures of -1 and +1.
    - `count`: how many views; of the bundled icons there are 1.5 million.
    - `side`: of a view, in pixels; pictures are resized to `side + ROOM` first.
    - `seed`: of the choice.

    **Returns:** the views, one per row, int8; and which picture each is of.

    **Raises:** `ValueError` for more views than there are.
    """
    N = len(images)
    whole = jax.image.resize(images, (N, side + ROOM, side + ROOM), "linear")
    drawn = np.where(np.asarray(whole) > 0, 1, -1).astype(np.int8)
    # Pictures that are their own mirror image have equal views: equal views have equal sums.
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 2**63, -(-(side**2) // 8), np.uint64) | np.uint64(1)
    sums = np.stack([np.packbits(w > 0, axis=1) @ factors for w in _windows(drawn, side)])
    order = rng.permutation(sums.size)
    first = np.sort(np.unique(sums.reshape(-1)[order], return_index=True)[1])
    if count > len(first):
        raise ValueError(
            f"views: count must be at most {len(first):,}, the distinct views of {N:,} pictures; "
            f"{count:,} came. Take fewer, or more pictures."
        )
    kind, picture = np.divmod(order[first[:count]], N)
    Xi = np.empty((count, side**2), np.int8)
    for k, window in enumerate(_windows(drawn, side)):
        Xi[kind == k] = window[picture[kind == k]]
    return Xi, picture


def _windows(drawn: np.ndarray, side: int) -> Iterator[np.ndarray]:
    """All pictures in one place and orientation, flat, for each place and orientation."""
    for i in range(ROOM + 1):
        for j in range(ROOM + 1):
            window = drawn[:, i : i + side, j : j + side]
            for turned in (np.rot90(window, k, (1, 2)) for k in range(4)):
                for seen in (turned, turned.transpose(0, 2, 1)):
                    yield seen.reshape(len(drawn), -1)
