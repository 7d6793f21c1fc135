"""Samplers of bits against the law over all states: energies, exact laws, chi-squares."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.scipy.special import logsumexp
from scipy.stats import chi2

import amlib as am
from amlib.descent import descend
from tests.zoo import reals, spins

SURE = 1e-3
"""The least p-value of draws from the law. (Keys are fixed.)"""

N = 8
XI = jnp.asarray(spins(0, 3, N), jnp.float32)
PULL = jnp.asarray(reals(1, N), jnp.float32)
PAIRS = jnp.asarray(reals(2, N, N), jnp.float32)


def ring(x):
    """Local, and all of it terms of two bits."""
    return -jnp.sum(x * jnp.roll(x, 1))


def dense(x):
    return -logsumexp(0.7 * (XI[:, : x.size] @ x))


def weird(x):
    """A wall, a kink without a derivative, cubes whose derivative is not what a flip changes."""
    m = jnp.sum(x)
    e = jnp.where(m * x[0] > 0, 0.5, -0.2) + 0.4 * jnp.sqrt(m**2) + 0.1 * jnp.sum((x - 0.5) ** 3)
    return jnp.where(m >= 0.5 * x.size, jnp.inf, e + PULL[: x.size] @ x)


def gas(x):
    """Of bits that are 0 and 1; its squares are as good as bits."""
    return 0.6 * x @ PAIRS[: x.size, : x.size] @ x - jnp.sum(x)


def steps(x):
    """Flat but for its steps: a gradient knows nothing."""
    return jnp.floor(jnp.sum(x * PULL[: x.size]))


ENERGIES = {
    "ring": (ring, am.Spins()),
    "dense": (dense, am.Spins()),
    "weird": (weird, am.Spins()),
    "steps": (steps, am.Spins()),
    "gas": (gas, am.Bits()),
}
BETAS = (0.0, 0.3, 1.0, 3.0)


def all_states(n, space):
    states = jnp.asarray(list(itertools.product([-1, 1], repeat=n)), jnp.float32)
    return jax.vmap(space.from_spins)(states)


def law(energy, states, beta):
    E = np.asarray(jax.vmap(energy)(states), np.float64)
    weights = np.where(np.isinf(E), 0, np.exp(-beta * np.where(np.isinf(E), 0, E - E.min())))
    return weights / weights.sum(), np.where(np.isinf(E), 0, E)


def counted(x, space):
    """How often each state came, in the order of `all_states`."""
    x = np.asarray(x)
    bits = (x == space.high) @ 2 ** np.arange(x.shape[-1])[::-1]
    return np.bincount(bits, minlength=2 ** x.shape[-1])


def p_value(counts, p):
    """Of the counts, were they drawn from `p`; rare states are taken together."""
    expected = counts.sum() * p
    rare = expected < 5
    if counts[expected == 0].any():
        return 0.0
    merged = [(a, b) for a, b in zip(counts[~rare], expected[~rare], strict=True)]
    if expected[rare].sum() > 5:
        merged.append((counts[rare].sum(), expected[rare].sum()))
    a, b = np.array(merged).T
    return chi2.sf(((a - b) ** 2 / b).sum(), len(a) - 1)


@eqx.filter_jit
def drawn(energy, space, method, starts, sweeps, key):
    """Where chains are after so many sweeps, a chain for each start."""
    one = lambda x, k: descend(energy, x, method, space=space, key=k, max_steps=sweeps)
    end = jax.vmap(one)(starts, jr.split(key, len(starts)))
    return end.x, end.energy
