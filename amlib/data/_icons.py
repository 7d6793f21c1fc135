"""The bundled pictures: 4,134 icons of game-icons.net as 48x48 spins.

They are the work of many artists under CC BY 3.0 (see ATTRIBUTION.md beside this file), and
`assets/make_icons.py` renders them again from the npm package they come from.
"""

import difflib
import functools
from collections.abc import Iterable
from importlib import resources
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from amlib import _show as show

SIZE = 48


class Icons(NamedTuple):
    """Hold pictures and their names, in the same order: `images, names = am.data.icons()`.

    **Arguments:**

    - `images`: one picture per row, float32 spins: +1 where something is drawn, -1 elsewhere.
    - `names`: one name per picture.
    """

    images: Float[Array, "K S S"]
    names: tuple[str, ...]

    __repr__ = show.text


def icons(names: Iterable[str] | None = None, *, n: int | None = None) -> Icons:
    """Return the bundled icons as -1/+1 pictures of 48x48, sorted by name.

    All 4,134 pictures differ: the closest pair is 12 bits of 2,304 apart, and two icons taken
    at random have a mean overlap of 0.29, because both are mostly background.

    ```python
    images, names = am.data.icons()
    Xi = images.reshape(len(images), -1)   # patterns for a BinaryAM: (4134, 2304)
    ```

    **Arguments:**

    - `names`: only these icons, in this order, e.g. `["dragon-head", "axe-in-stump"]`.
    - `n`: only the first `n` in alphabetical order, 1 to 4,134. The alphabet starts with a run
        of look-alikes (`abstract-001` to `abstract-119`), so draw a varied subset by index
        instead: `images[jax.random.choice(key, 4134, (100,), replace=False)]`.

    **Returns:** `Icons(images, names)`; the images are float32.

    **Raises:** `ValueError` for a name that is not there (with the nearest one that is), for no
    name at all, for `n` out of range, and when both `names` and `n` are given.

    **Reference:** Icons made by the authors listed in ATTRIBUTION.md, game-icons.net, CC BY 3.0;
    rendered to 1 bit per pixel, 4x oversampled, drawn where at least 45 % is covered.
    """
    packed, index = _bundle()
    every = tuple(index)
    if names is not None and n is not None:
        raise ValueError("icons: give names or n, not both; both came. Slice the result instead.")
    if names is not None:
        rows = _rows(names, index)
    else:
        rows = np.arange(len(every) if n is None else _checked_count(n, len(every)))
    bits = np.unpackbits(packed[rows], axis=1).reshape(-1, SIZE, SIZE)
    # 2b - 1 in int8, one conversion at the end: a quarter of the memory traffic of floats.
    images = jnp.asarray((2 * bits.astype(np.int8) - 1).astype(np.float32))
    return Icons(images, tuple(every[k] for k in rows))


@functools.cache
def _bundle() -> tuple[np.ndarray, dict[str, int]]:
    """Read the packed bits `(4134, 288)` and the row of each name, once per process."""
    with (
        resources.files("amlib.data").joinpath("icons.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as bundle,
    ):
        names = [name.decode("ascii") for name in bundle["names"].tolist()]
        return bundle["images"], {name: row for row, name in enumerate(names)}


def _rows(names: Iterable[str], index: dict[str, int]) -> np.ndarray:
    """Look up the row of each name."""
    if isinstance(names, str):
        raise TypeError(
            f"icons: names must be a list of names; the string {names!r} came. "
            f"Write names=[{names!r}]."
        )
    rows = []
    for name in names:
        if name not in index:
            near = difflib.get_close_matches(str(name), index, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"icons: no icon is called {name!r}. Did you mean {near!r}? "
                "All names: am.data.icons().names."
            )
        rows.append(index[name])
    if not rows:
        raise ValueError("icons: names must hold at least one name; an empty list came.")
    return np.array(rows)


def _checked_count(n: int, total: int) -> int:
    """Return `n`, or raise unless it is an integer from 1 to `total`."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"icons: n must be an integer; {type(n).__name__} came.")
    if not 1 <= n <= total:
        raise ValueError(f"icons: n must be from 1 to {total:,}; {n} came.")
    return int(n)
