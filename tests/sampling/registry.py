"""Every sampler there is, and energies small enough to count all states.

A new sampler must be entered here: a test fails if it is not.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import amlib as am
from tests.zoo import spins

N = 6

BITS: dict[str, Callable[[float], Any]] = {
    "Glauber": lambda beta: am.Glauber(beta),
    "Glauber-colours": lambda beta: am.Glauber(beta, "colours"),
    "Metropolis": lambda beta: am.Metropolis(beta, "random"),
    "GibbsWithGradients": lambda beta: am.GibbsWithGradients(beta),
    "DMALA": lambda beta: am.DMALA(beta, step_size=0.2),
    "Annealed": lambda beta: am.sampling.Annealed(np.linspace(0, beta, 8)),
    "Tempering": lambda beta: am.sampling.Tempering([beta / 3, beta / 2, beta]),
}
"""Samplers of bits by their names, from an inverse temperature above 0."""

REALS: dict[str, Callable[[float], Any]] = {
    "Langevin": lambda beta: am.Langevin(beta, 0.02),
    "MALA": lambda beta: am.MALA(beta, 0.3),
    "HMC": lambda beta: am.sampling.HMC(beta),
    "NUTS": lambda beta: am.sampling.NUTS(beta),
    "Tempering-Langevin": lambda beta: am.sampling.Tempering(
        [beta / 2, beta], am.Langevin(1.0, 0.02)
    ),
    "Annealed-MALA": lambda beta: am.sampling.Annealed([beta / 2, beta], am.MALA(1.0, 0.3)),
}
"""Samplers of real states."""


class Ring(am.AbstractBinaryAM):
    """A chain of spins in a field: local terms."""

    def energy(self, x):
        return -jnp.sum(x * jnp.roll(x, 1)) - 0.4 * jnp.sum(x)


class Walls(am.AbstractBinaryAM):
    """An energy that no term describes, and states that are forbidden."""

    def energy(self, x):
        total = jnp.sum(x)
        rough = jnp.abs(total - 1.0) ** 1.5 / 4 + jnp.where(x[0] * x[3] > 0, 0.7, -0.2)
        return jnp.where((total > 3) | (x[1] + x[2] < -1), jnp.inf, rough)


class Occupied(am.AbstractBinaryAM):
    """Bits of 0 and 1, three of a kind together."""

    space = am.Bits()

    def energy(self, x):
        return -1.5 * x[0] * x[1] * x[2] + jnp.sum(x) * 0.5 - x[3] * x[5]


class Small(NamedTuple):
    """A memory, and its states."""

    memory: am.AbstractMemory
    values: tuple[float, float] = (-1.0, 1.0)

    @property
    def states(self) -> np.ndarray:
        """All states."""
        bits = (np.arange(2**N)[:, None] >> np.arange(N)) & 1
        return np.asarray(self.values, np.float32)[bits]

    def law(self, beta: float) -> np.ndarray:
        """The probability of each state."""
        energies = jax.vmap(self.memory.energy)(jnp.asarray(self.states))
        p = np.exp(-beta * np.asarray(energies, np.float64))
        return p / p.sum()

    def counts(self, states: np.ndarray) -> np.ndarray:
        """How often each state came."""
        flat = np.asarray(states).reshape(-1, N) > np.mean(self.values)
        return np.bincount(flat @ (1 << np.arange(N)), minlength=2**N)


SMALL: dict[str, Small] = {
    "local": Small(Ring()),
    "dense": Small(am.ExponentialDenseAM(jnp.asarray(spins(3, 3, N), jnp.float32), 0.4)),
    "walls": Small(Walls()),
    "bits": Small(Occupied(), (0.0, 1.0)),
}
