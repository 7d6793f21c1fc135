"""Pictures and their classes, as users give them to the classifier."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int

from amlib import _checks as checks
from amlib._types import Key


def sizes(pixels: int | Sequence[int], where: str) -> tuple[int, ...]:
    """The shape of a picture, from a shape or a number of pixels."""
    shape = tuple(pixels) if isinstance(pixels, tuple | list) else (pixels,)
    if not shape:
        raise ValueError(f"{where}: must be a number or a shape; {pixels!r} came.")
    return tuple(checks.integer(size, 1, where) for size in shape)


def grey(v: Array, where: str) -> Array:
    """Return pictures; raise, where their values are known, unless they lie in [-1, 1]."""
    values = None if checks.is_traced(v) else checks.known(v)
    if values is None:
        return v
    checks.finite(v, where)
    largest = float(abs(values).max())
    if largest > 1 + 1e-3:
        raise ValueError(
            f"{where}: pixels must lie in [-1, 1]; a value of size {largest:.4g} came. "
            "Bytes become grey by v / 127.5 - 1."
        )
    return v


def drawn(
    examples: tuple[ArrayLike, ArrayLike],
    K: int,
    shape: tuple[int, ...],
    classes: int,
    key: Key,
    where: str,
) -> tuple[Float[Array, "K units"], Float[Array, "N D"]]:
    """Memories that are examples with their labels, and pictures to find the temperature on."""
    where = f"{where}: examples"
    if not isinstance(examples, tuple | list) or len(examples) != 2:
        raise TypeError(f"{where}: must be (images, labels); {type(examples).__name__} came.")
    images = checks.as_float(examples[0], where)
    D = math.prod(shape)
    if images.shape[1:] not in (shape, (D,)) or images.shape[0] < K:
        raise ValueError(
            f"{where}: images must have shape (N, *{shape}), with N at least the {K} memories; "
            f"{images.shape} came."
        )
    images = grey(images, where).reshape(-1, D)
    labels = class_numbers(examples[1], len(images), classes, where)
    rows = jr.choice(key, len(images), (K,), replace=False)
    signs = 2 * jax.nn.one_hot(labels[rows], classes, dtype=images.dtype) - 1
    return jnp.concatenate([images[rows], signs], axis=1), images[:100]


def class_numbers(labels: ArrayLike, N: int, classes: int, where: str) -> Int[Array, " N"]:
    """Return labels as an array; raise unless they are `N` classes from 0 on."""
    labels = jnp.asarray(labels)
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise TypeError(f"{where}: must be integers; {labels.dtype} came. Use labels.astype(int).")
    if labels.shape != (N,):
        raise ValueError(
            f"{where}: must have shape ({N},), one class per picture; {labels.shape} came. "
            "One-hot labels become classes by labels.argmax(1)."
        )
    if not checks.is_traced(labels):
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"{where}: must be from 0 to {classes - 1}; {low} to {high} came. "
                "Count classes from 0, or make the model with more classes."
            )
    return labels
