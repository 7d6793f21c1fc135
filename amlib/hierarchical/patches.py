"""Patches: pictures, sequences and graphs cut into rows of numbers, and put together again."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from amlib import _checks as checks
from amlib._types import Shape, ShapeLike


def size_of(patch: ShapeLike, image_shape: Shape, where: str) -> Shape:
    """The size of a patch along each axis that is cut; raise unless it divides the picture."""
    if isinstance(patch, int | np.integer) and not isinstance(patch, bool):
        patch = (patch,) * min(2, len(image_shape))
    cut = checks.shape(patch, f"{where}: patch")
    axes = image_shape[: len(cut)]
    if not cut or len(cut) > len(image_shape) or any(n % k for n, k in zip(axes, cut, strict=True)):
        raise ValueError(
            f"{where}: patch must divide the axes of the picture, {image_shape}; {cut} came. Pad "
            "the picture, or take another patch."
        )
    return cut


def rows_of(image: Array, patch: Shape) -> Float[Array, "patches size"]:
    """A picture as rows, one for each patch, flattened channels first."""
    n = len(patch)
    split = [m for axis, k in zip(image.shape, patch, strict=False) for m in (axis // k, k)]
    x = image.reshape(*split, -1)
    order = [*range(0, 2 * n, 2), 2 * n, *range(1, 2 * n, 2)]
    return x.transpose(order).reshape(math.prod(split[::2]), -1)


def grid_of(image_shape: Shape, patch: Shape) -> Shape:
    """How many patches there are along each axis that is cut."""
    return tuple(n // k for n, k in zip(image_shape, patch, strict=False))


def picture_of(rows: Array, image_shape: Shape, patch: Shape) -> Array:
    """The picture whose patches these rows are."""
    n = len(patch)
    x = rows.reshape(*grid_of(image_shape, patch), -1, *patch)
    order = [a for k in range(n) for a in (k, n + 1 + k)] + [n]
    return x.transpose(order).reshape(image_shape)


def pixels_of(hidden: Array, image_shape: Shape, patch: Shape) -> Bool[Array, "..."]:
    """The pixels of some patches, which come flat."""
    size = math.prod(image_shape) // hidden.size
    return picture_of(jnp.broadcast_to(hidden[:, None], (hidden.size, size)), image_shape, patch)
