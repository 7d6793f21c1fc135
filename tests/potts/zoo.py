"""One tiny instance of every public Potts model, and of what users write themselves.

A new public model must be entered here: a test fails if it is not.
"""

import itertools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import amlib as am
from tests.zoo import reals

N, K = 4, 3


def values(seed: int, q: int, *shape: int) -> np.ndarray:
    """Random whole numbers below q."""
    return np.random.default_rng(seed).integers(0, q, shape).astype(np.int32)


def one_hot(x, q):
    return (x[..., None] == jnp.arange(q).reshape((1,) * x.ndim + (q,))).astype(jnp.float32)


class Ring(am.AbstractPottsAM):
    """Neighbours on a ring that are alike, in a field."""

    q: int = eqx.field(static=True)

    def energy(self, x):
        h = jnp.asarray(reals(3, N, self.q), jnp.float32)
        return -1.3 * jnp.sum(x == jnp.roll(x, 1), dtype=jnp.float32) - jnp.sum(
            h * one_hot(x, self.q)
        )


class Clock(am.AbstractPottsAM):
    """Angles on a path: elementwise functions of two units."""

    q: int = eqx.field(static=True)

    def energy(self, x):
        angle = 2 * jnp.pi / self.q * x.astype(jnp.float32)
        pull = jnp.asarray(reals(4, N), jnp.float32)  # no two energies tie
        return -jnp.sum(jnp.cos(angle[1:] - angle[:-1] + 0.3)) - jnp.sum(jnp.cos(angle + pull))


class Weights(am.PottsAM):
    """A network on what a user's matrix makes of the values: a product of a table and constants."""

    W: jax.Array

    def energy(self, x):
        mine = jnp.sum(x[None] == self.Xi.astype(jnp.int32), axis=1, dtype=jnp.float32)
        return -jnp.sum(jnp.tanh(self.W @ jnp.sqrt(x.astype(jnp.float32)))) - jnp.sum(mine**3)


class Walls(am.AbstractPottsAM):
    """An index, a maximum over units, and states that are forbidden."""

    q: int = eqx.field(static=True)

    def energy(self, x):
        table = jnp.asarray(reals(5, self.q), jnp.float32)
        rough = jnp.sum(table[x]) + 0.5 * jnp.max(x).astype(jnp.float32)
        return jnp.where((x[0] == 0) & (jnp.sum(x == 1) < 2), jnp.inf, rough)


def _weights(q: int) -> Weights:
    return Weights(values(8, q, K, N), q, jnp.asarray(reals(9, 5, N), jnp.float32))


POTTS: dict[str, Callable[[int], Any]] = {
    "hopfield": lambda q: am.PottsHopfield(values(0, q, K, N), q),
    "polynomial": lambda q: am.PolynomialPottsAM(values(1, q, K, N), q, 3, rectified=False),
    "rectified": lambda q: am.PolynomialPottsAM(values(2, q, K, N), q, 4),
    "in logs": lambda q: am.PolynomialPottsAM(values(3, q, K, N), q, 60),
    "exponential": lambda q: am.ExponentialPottsAM(values(4, q, K, N), q, 0.2),
    "user-weights": _weights,
    "user-ring": Ring,
    "user-clock": Clock,
    "user-walls": Walls,
}
"""From how many values a unit has to a memory of `N` units."""


def all_states(q: int) -> np.ndarray:
    """All states, in the order of their codes in base q."""
    return np.asarray(list(itertools.product(range(q), repeat=N)), np.int32)


def codes(x: Any, q: int) -> np.ndarray:
    """The places of states in `all_states`."""
    x = np.asarray(x)
    assert ((x >= 0) & (x < q)).all()
    return x @ q ** np.arange(N)[::-1]
