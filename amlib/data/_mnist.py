"""Handwritten digits: a bundled subset of MNIST, and the full set on demand.

The database is LeCun, Cortes and Burges's, CC BY-SA 3.0 (see ATTRIBUTION.md beside this file);
`assets/make_mnist.py` draws the subset again.
"""

from importlib import resources
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from amlib import _checks, _show as show
from amlib._types import IntLike
from amlib.data import _store

SIDE = 28
SPLITS = ("train", "test")
_URLS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# SHA-256 of the unpacked files: how a mirror packed them does not count.
_FILES = {
    "train": (
        (
            "train-images-idx3-ubyte",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        (
            "train-labels-idx1-ubyte",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
    ),
    "test": (
        (
            "t10k-images-idx3-ubyte",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        (
            "t10k-labels-idx1-ubyte",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
}


class Mnist(NamedTuple):
    """Hold pictures of digits and which digit each is, in the same order.

    **Arguments:**

    - `images`: one picture per row, float32: -1 is background, +1 is ink.
    - `labels`: the digits, 0 to 9, int32.
    """

    images: Float[Array, "N S S"]
    labels: Int32[Array, " N"]

    __repr__ = show.text


def mnist(
    split: str = "train",
    subset: IntLike | str | None = None,
    *,
    size: IntLike = SIDE,
    spins: bool = False,
) -> Mnist:
    """Return handwritten digits as pictures in [-1, 1], and their labels.

    ```python
    images, labels = am.data.mnist("train", subset="bundled")   # 1,500 digits, no network
    images, labels = am.data.mnist("test", size=16, spins=True)   # 10,000 of 16x16, -1/+1
    ```

    The bundled subset is stratified and needs no network: 150 training and 50 test pictures of
    each digit, taken at even distances from all pictures of that digit in the full file. (The
    first half of MNIST's test file is the easier one, so the head of the file would not do.) Its
    pictures go through the digits in turn, 0 to 9, so that its first `10 k` hold `k` of each.

    The full set, 60,000 training and 10,000 test pictures in MNIST's own order, is looked for in
    the folder that the environment variable `AMLIB_DATA` names (in its folder `mnist`, packed by
    gzip or not), then in the user's cache, and then downloaded into the cache (11.6 MB), with
    checksums. Its training pictures take 188 MB.

    **Arguments:**

    - `split`: `"train"` or `"test"`. Choose hyper-parameters on a part of the training pictures.
    - `subset`: `None` for the full set, `"bundled"` for the bundled subset, or an integer `n` for
        its first `n` pictures, 1 to 1,500 (train) or 500 (test).
    - `size`: side of the pictures in pixels, 4 to 64. Other sizes than 28 are resized by linear
        interpolation, antialiased (a triangle as wide as a new pixel) where pixels get fewer.
    - `spins`: black or white instead of grey: +1 where the (resized) grey is above 0, that is,
        where at least half the ink is, else -1. (At 8 pixels thin strokes vanish so.)

    **Returns:** `Mnist(images, labels)`.

    **Raises:** `ValueError` for an unknown split, a subset or size out of range, and a file that is
    truncated or altered (named); `ConnectionError` when the full set is not here and cannot be
    downloaded.

    **Reference:** LeCun, Bottou, Bengio and Haffner 1998, Proc. IEEE 86, 2278.
    """
    _checks.choice(split, SPLITS, "mnist: split")
    side = _integer(size, 4, 64, "mnist: size")
    if not isinstance(spins, bool | np.bool_):
        raise TypeError(f"mnist: spins must be True or False; {spins!r} came.")
    pixels, labels = _full(split) if subset is None else _bundled(split, subset)
    # In place: the full set as float32 is 188 MB.
    grey = pixels.astype(np.float32)
    grey /= np.float32(127.5)
    grey -= np.float32(1)
    images = jnp.asarray(grey)
    if side != SIDE:
        images = jax.image.resize(images, (len(grey), side, side), "linear", antialias=True)
        images = jnp.clip(images, -1.0, 1.0)  # weights that sum to 1 up to rounding
    if spins:
        images = jnp.where(images > 0, 1.0, -1.0).astype(jnp.float32)
    return Mnist(images, jnp.asarray(labels, jnp.int32))


def _bundled(split: str, subset: IntLike | str) -> tuple[np.ndarray, np.ndarray]:
    """Read the bundled subset, or the beginning of it."""
    with (
        resources.files("amlib.data").joinpath("mnist.npz").open("rb") as file,
        np.load(file, allow_pickle=False) as bundle,
    ):
        pixels, labels = bundle[f"{split}_images"], bundle[f"{split}_labels"]
    if isinstance(subset, str):
        _checks.choice(subset, ["bundled"], "mnist: subset")
        return pixels, labels
    n = _integer(
        subset, 1, len(labels), "mnist: subset", "More come from the full set: subset=None."
    )
    return pixels[:n], labels[:n]


def _full(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the full set from the user's folder, the cache or the network."""
    arrays = []
    for name, sha256 in _FILES[split]:
        try:
            urls = [f"{url}{name}.gz" for url in _URLS]
            content = _store.fetch_unpacked(f"mnist/{name}", urls, sha256)
        except ConnectionError as err:
            raise ConnectionError(
                f"{err}\nA bundled part of MNIST needs no network: mnist(..., subset='bundled')."
            ) from err
        # The checksum has vouched for the header: sizes are what they must be.
        shape = (-1, SIDE, SIDE) if "images" in name else (-1,)
        arrays.append(np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(shape))
    return arrays[0], arrays[1]


def _integer(value: object, low: int, high: int, where: str, hint: str = "") -> int:
    """Return a Python integer, or raise unless it is one from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"{where} must be an integer; {value!r} came. {hint}".rstrip())
    if not low <= value <= high:
        raise ValueError(f"{where} must be from {low} to {high:,}; {value} came. {hint}".rstrip())
    return int(value)
