"""Your own pictures as patterns: any grey, colour or transparent images to -1/+1 squares."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from PIL import Image

from amlib import _checks
from amlib.data._icons import Icons

Background: TypeAlias = Literal["auto", "white", "black"]
Picture: TypeAlias = np.ndarray | jax.Array | Image.Image

# Brightness of red, green and blue as the eye weighs them (ITU-R BT.601, as in Pillow).
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def binarize(
    images: Picture | Sequence[Picture],
    *,
    size: int = 48,
    threshold: float | int = 0.5,
    background: Background | str = "auto",
) -> Float[Array, "*K S S"]:
    r"""Turn images of any kind into -1/+1 patterns on a square canvas.

    A pixel is drawn (+1) where it differs enough from the background, whichever of the two is
    the darker: with grey value $g$ and background $b$ in [0, 1],
    $$x = +1 \text{ where } |g - b| \ge \text{threshold}, \text{ else } -1$$

    Transparent pixels show the background. The picture is padded with background to a square,
    its proportions kept, and resized by area averages before the threshold.

    **Arguments:**

    - `images`: one image, a list of images of any sizes, or a stack `(K, H, W)` or
        `(K, H, W, C)`. An image is `(H, W)`, or `(H, W, C)` with C = 1 grey, 3 RGB or 4 RGBA
        (an array `(n, m, 3)` is therefore one colour image), or a Pillow image. Integers run
        from 0 to 255, floats from 0 to 1, bools are black and white.
    - `size`: side of the result, in pixels.
    - `threshold`: least difference from the background, in (0, 1].
    - `background`: `"white"` for dark on light, `"black"` for light on dark. `"auto"` decides
        for each image: where there is transparency, the opposite of the mean opaque colour, so
        that neither black nor white sprites vanish; else the median of the border pixels.

    **Returns:** float32 spins: `(size, size)` for one image, `(K, size, size)` for several.

    **Raises:** `ValueError` for a wrong shape, values out of range, an empty list, or a bad
    `size`, `threshold` or `background`; `TypeError` for anything that is no image.
    """
    _check_options(size, threshold, background)
    images, single = _split(images)
    if not images:
        raise ValueError("binarize: images must hold at least one image; an empty list came.")
    spins = [
        _square_spins(image, size, threshold, background, f"binarize: image {k}")
        for k, image in enumerate(images)
    ]
    return jnp.asarray(spins[0] if single else np.stack(spins))


def sprites(
    folder: str | Path,
    *,
    size: int = 48,
    threshold: float | int = 0.5,
    background: Background | str = "auto",
) -> Icons:
    """Read every PNG of a folder as a -1/+1 pattern, sorted by file name.

    ```python
    images, names = am.data.sprites("my-sprites")
    Xi = images.reshape(len(images), -1)
    ```

    **Arguments:**

    - `folder`: where the `.png` files lie; folders inside it and hidden files are not read.
    - `size`, `threshold`, `background`: as in `binarize`.

    **Returns:** `Icons(images, names)`; names are file names without `.png`.

    **Raises:** `FileNotFoundError` when the folder is missing or holds no PNG; `ValueError` for
    a file that cannot be read as an image (named), or an option that `binarize` refuses.
    """
    _check_options(size, threshold, background)
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"sprites: {folder} must be a folder of PNG files; there is none. "
            f"Paths start from {Path.cwd()}."
        )
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == ".png" and not path.name.startswith(".")
    )
    if not paths:
        raise FileNotFoundError(
            f"sprites: {folder} must hold at least one .png file; none was found. "
            "Other formats: open them with Pillow and pass them to am.data.binarize."
        )
    spins = [
        _square_spins(_read(path), size, threshold, background, f"sprites: {path}")
        for path in paths
    ]
    return Icons(jnp.asarray(np.stack(spins)), tuple(path.stem for path in paths))


def _check_options(size: int, threshold: float | int, background: str) -> None:
    """Raise unless the three options of `binarize` make sense."""
    if isinstance(size, bool) or not isinstance(size, int | np.integer):
        raise TypeError(f"binarize: size must be an integer; {type(size).__name__} came.")
    _checks.at_least(int(size), 1, "binarize: size")
    if not 0 < threshold <= 1:
        raise ValueError(
            f"binarize: threshold must be above 0 and at most 1; {threshold} came. "
            "It is a fraction of full contrast: divide a grey value 0..255 by 255."
        )
    _checks.choice(background, get_args(Background), "binarize: background")


def _split(images: Picture | Sequence[Picture]) -> tuple[list[Picture], bool]:
    """Return the images of a list, of a stack, or of one image, and whether it was one image."""
    if isinstance(images, Image.Image):
        return [images], True
    if isinstance(images, np.ndarray | jax.Array):
        images = np.asarray(images)
        stack = images.ndim == 4 or (images.ndim == 3 and images.shape[-1] not in (1, 3, 4))
        return (list(images), False) if stack else ([images], True)
    if isinstance(images, Sequence) and not isinstance(images, str | bytes):
        return list(images), False
    raise TypeError(
        f"binarize: images must be arrays or Pillow images; {type(images).__name__} came. "
        "Files in a folder are read by am.data.sprites."
    )


def _read(path: Path) -> Image.Image:
    """Load a picture file whole, or say which file cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            return image
    # Pillow reports a broken file by any of these, depending on which byte is wrong.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as err:
        raise ValueError(
            f"sprites: {path} must be a readable PNG; {err}. Remove it or save it again."
        ) from err


def _square_spins(
    image: Picture, size: int, threshold: float | int, background: str, where: str
) -> np.ndarray:
    """Return one image as `(size, size)` spins."""
    grey, alpha = _grey_and_alpha(image, where)
    if background == "auto":
        background = _guess_background(grey, alpha)
    # Contrast with the background; transparency fades it to nothing.
    ink = alpha * (1 - grey if background == "white" else grey)
    height, width = ink.shape
    side = max(height, width)
    canvas = np.zeros((side, side), np.float32)
    top, left = (side - height) // 2, (side - width) // 2
    canvas[top : top + height, left : left + width] = ink
    if side != size:
        # BOX averages areas going down and repeats pixels going up: it never rings, so a
        # pixel-art sprite enlarged by a whole factor keeps its edges.
        resized = Image.fromarray(canvas).resize((size, size), Image.Resampling.BOX)
        canvas = np.asarray(resized)
    # The slack keeps what lies on the threshold (a half-covered pixel) drawn after rounding.
    return np.where(canvas >= threshold - 1e-6, 1.0, -1.0).astype(np.float32)


def _guess_background(grey: np.ndarray, alpha: np.ndarray) -> str:
    """Choose white or black behind an image, by the rule in `binarize`."""
    if alpha.min() < 1:
        # The mean brightness of what is drawn, each pixel as much as it is opaque.
        drawn = alpha.sum()
        return "black" if drawn == 0 or (alpha * grey).sum() >= 0.5 * drawn else "white"
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    return "white" if np.median(border) >= 0.5 else "black"


def _grey_and_alpha(image: Picture, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return brightness and opacity, both float32 `(H, W)` in [0, 1]."""
    array = _as_array(image, where)
    channels = array.shape[-1] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ValueError(
            f"{where} must have shape (H, W), (H, W, 1), (H, W, 3) or (H, W, 4); "
            f"{array.shape} came. Channels come last: move them with jnp.moveaxis."
        )
    if array.size == 0:
        raise ValueError(f"{where} must hold at least one pixel; shape {array.shape} came.")
    array = _unit_floats(array, where).reshape(*array.shape[:2], channels)
    grey = array[..., 0] if channels == 1 else array[..., :3] @ LUMA
    alpha = array[..., 3] if channels == 4 else np.ones_like(grey)
    return grey, alpha


def _as_array(image: Picture, where: str) -> np.ndarray:
    """Return the pixels of an array or a Pillow image."""
    if isinstance(image, np.ndarray | jax.Array):
        return np.asarray(image)
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"{where} must be an array or a Pillow image; {type(image).__name__} came. "
            "Nested lists become arrays by np.array."
        )
    if image.mode.startswith("I"):  # 16-bit grey, which Pillow cannot convert to 8 bits itself
        return np.asarray(image, np.float32) / 65535
    if image.mode == "F":
        return np.asarray(image)
    return np.asarray(image.convert("RGBA"))  # palettes, 1-bit, grey + alpha, CMYK, ...


def _unit_floats(array: np.ndarray, where: str) -> np.ndarray:
    """Scale bools, 0..255 integers and 0..1 floats to float32 in [0, 1]."""
    kind = array.dtype.kind
    # JAX's bfloat16 has kind "V" in NumPy, but converts.
    if kind == "V" and jnp.issubdtype(array.dtype, jnp.floating):
        kind = "f"
    if kind not in "buif":
        raise TypeError(f"{where} must hold real numbers; dtype {array.dtype} came.")
    top = 255 if kind in "ui" else 1
    values = array.astype(np.float32)
    if not np.all((values >= 0) & (values <= top)):
        raise ValueError(
            f"{where}: {array.dtype} values must lie in 0..{top}; "
            f"{values.min():g}..{values.max():g} came. Scale grey values to 0..1; "
            "spins -1/+1 are patterns already."
        )
    return values / np.float32(top)
