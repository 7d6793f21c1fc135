"""Orders of visits: which moves one sweep tries, one after the other.

A move is a bit to flip, or several that flip together. Glauber dynamics keeps the Boltzmann law
under every order whose moves do not depend on the state.
"""

import abc
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from amlib import _checks as checks, _show as show
from amlib._types import Key, hook
from amlib.descent.evaluators import AbstractFlips


class AbstractOrder(eqx.Module):
    """The moves of a sweep. Subclass it and define `moves`.

    ```python
    class EverySecond(am.AbstractOrder):
        def moves(self, key, bits):
            return jnp.concatenate([bits[::2], bits[1::2]])
    ```
    """

    complete: ClassVar[bool] = False
    """Whether one sweep tries every move there is, so that one that makes none is a proof of rest.
    All flips of single bits are also compared at once, so that for them it matters only for ties
    that rounding decides."""

    __repr__ = show.text

    @abc.abstractmethod
    def moves(self, key: Key, bits: Integer[Array, " F"]) -> Integer[Array, "T *m"]:
        """The moves of one sweep.

        **Arguments:**

        - `key`: another one for each sweep.
        - `bits`: the bits that are free to move, indices into the flattened state.

        **Returns:** bits of `bits`, in the order in which they are tried: one per move, or `m`
        per move that flip together.
        """

    @hook
    def groups(self, flips: AbstractFlips) -> Sequence[np.ndarray] | None:
        """Bits that may be tried at once, group after group; `None` to try `moves` in turn.

        **Arguments:**

        - `flips`: how flips are evaluated, which knows the structure of the energy.

        **Returns:** groups of bits that share no term of the energy; each bit is in one of them.
        """
        del flips

    @hook
    def allows(self, spins: Float[Array, " m"]) -> Bool[Array, ""] | bool:
        """Whether a move may be made, by the values of its bits before it; all may by default.

        **Arguments:**

        - `spins`: the bits of the move as -1/+1, whatever the space of the states.

        **Returns:** whether the move may be made. Dynamics keeps the Boltzmann law where the
        answer is the same for the values after the move.
        """
        del spins
        return True


class Permutation(AbstractOrder):
    """Every bit once per sweep, in a fresh random order."""

    complete: ClassVar[bool] = True

    def moves(self, key: Key, bits: Integer[Array, " F"]) -> Integer[Array, " F"]:
        """See `AbstractOrder`."""
        return bits[jr.permutation(key, bits.shape[0])]


class Sequential(AbstractOrder):
    """Every bit once per sweep, in the order of their indices."""

    complete: ClassVar[bool] = True

    def moves(self, key: Key, bits: Integer[Array, " F"]) -> Integer[Array, " F"]:
        """See `AbstractOrder`."""
        del key
        return bits


class Random(AbstractOrder):
    """As many bits per sweep as there are, drawn with replacement."""

    def moves(self, key: Key, bits: Integer[Array, " F"]) -> Integer[Array, " F"]:
        """See `AbstractOrder`."""
        F = bits.shape[0]
        return bits[jr.randint(key, (F,), 0, F)]


class Colours(AbstractOrder):
    """Every bit once per sweep, all bits of a colour at once: bits of a colour share no term.

    The colours are found in the energy (a checkerboard, on a square lattice; `explain` tells how
    many), and a sweep is exactly that of visiting the same bits one after the other. Where every
    bit shares a term with every other, as in dense memories, it is `Sequential`.
    """

    complete: ClassVar[bool] = True

    def moves(self, key: Key, bits: Integer[Array, " F"]) -> Integer[Array, " F"]:
        """Those of an energy without colours: in the order of their indices."""
        del key
        return bits

    def groups(self, flips: AbstractFlips) -> Sequence[np.ndarray] | None:
        """The colours."""
        return flips.colours()


ORDERS: dict[str, type[AbstractOrder]] = {
    "permutation": Permutation,
    "sequential": Sequential,
    "random": Random,
    "colours": Colours,
}
"""The orders by name."""


class Exchange(AbstractOrder):
    """Pairs of bits that differ trade their values: the number of bits that are on stays.

    As many pairs per sweep as there are free bits, drawn with replacement (Kawasaki dynamics,
    over any distance).

    **Reference:** Kawasaki 1966, Phys. Rev. 145, 224.
    """

    def moves(self, key: Key, bits: Integer[Array, " F"]) -> Integer[Array, "F 2"]:
        """See `AbstractOrder`."""
        F = bits.shape[0]
        return bits[jr.randint(key, (F, 2), 0, F)]

    def allows(self, spins: Float[Array, " 2"]) -> Bool[Array, ""]:
        """Only unlike bits trade."""
        return spins[0] != spins[1]


def as_order(value: object) -> AbstractOrder:
    """An order from its name or from itself; raise `ValueError` for another name."""
    if isinstance(value, AbstractOrder):
        return value
    if not isinstance(value, str):
        raise TypeError(
            f"order: must be {', '.join(map(repr, ORDERS))} or an AbstractOrder; {value!r} came."
        )
    checks.choice(value, ORDERS, "order")
    return ORDERS[value]()
