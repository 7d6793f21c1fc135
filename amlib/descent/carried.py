"""What a recall carries for each value that is not evaluated anew, and how a flip changes it."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from amlib._types import hook
from amlib.descent.jaxprs import Value

Carried = Any
"""What is carried for one value: the value, or a pair of arrays that is more precise."""


class AbstractRows(eqx.Module):
    """How each bit changes one carried value; a *row* is the part of one bit.

    All arrays have a leading axis of `D`, or of 1 for what all bits share; a row has none.
    """

    @abc.abstractmethod
    def reads(self) -> tuple[Value, ...]:
        """Of a row: which other bits the change depends on."""

    @abc.abstractmethod
    def value(self, carried: Carried) -> Array:
        """The value."""

    @abc.abstractmethod
    def flipped(self, carried: Carried, seen: tuple[Value, ...], s: Array) -> Carried:
        """Of a row: what is carried after its bit went from `s` to `-s`.

        **Arguments:**

        - `carried`: what was carried before.
        - `seen`: the values of the bits that the row reads.
        - `s`: the bit.
        """

    @abc.abstractmethod
    def change(self, seen: tuple[Value, ...], s: Array) -> Array:
        """What turning bits from `s` to `-s`, each alone, adds to a value of one element.

        Of a row, or of the rows of as many bits as `s` has.
        """

    @hook
    def idle(self) -> Bool[Array, " D"] | Bool[Array, "1"]:
        """Of all rows: the bits that are known to change nothing."""
        return jnp.zeros(1, bool)

    @abc.abstractmethod
    def moved(self, place: np.ndarray) -> "AbstractRows":
        """The same rows where bit `i` of the state is now at `place[i]`."""


class Dense(AbstractRows):
    """A row of numbers for each bit, `scale * raw`, is taken away or added."""

    raw: Array
    scale: Array

    def reads(self) -> tuple[Value, ...]:
        """Nothing."""
        return ()

    def value(self, carried: Array) -> Array:
        """The value itself."""
        return carried

    def flipped(self, carried: Array, seen: tuple[Value, ...], s: Array) -> Array:
        """`value - s * scale * raw`, in integers modulo 2^n: an unsigned `s` could not be -1."""
        del seen
        raw, scale = self.raw.astype(carried.dtype), self.scale.astype(carried.dtype)
        if jnp.issubdtype(carried.dtype, jnp.integer):
            return jnp.where(s > 0, carried - scale * raw, carried + scale * raw)
        return carried - s.astype(carried.dtype) * scale * raw

    def change(self, seen: tuple[Value, ...], s: Array) -> Array:
        """See `AbstractRows`."""
        del seen
        return -s.astype(self.raw.dtype) * (self.scale * self.raw).reshape(s.shape)

    def idle(self) -> Bool[Array, " D"] | Bool[Array, "1"]:
        """Those whose rows are zeros."""
        return (self.raw == 0).reshape(self.raw.shape[0], -1).all(axis=1) | (self.scale == 0)

    def moved(self, place: np.ndarray) -> "Dense":
        """The same: they read no other bits."""
        del place
        return self
