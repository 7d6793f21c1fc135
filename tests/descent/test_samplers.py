"""What samplers of bits with an acceptance draw: the law over all states, at several betas.

Chi-squares are those of independent chains with fixed keys, see `tests/laws.py`.
"""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib.descent import AbstractInformedSampler, Visits
from amlib.descent.informed import Changes
from tests.laws import BETAS, ENERGIES, SURE, N, all_states, counted, dense, drawn, law, p_value


def gibbs(beta, changes):
    return am.GibbsWithGradients(beta, changes=changes, record=0)


def dmala(beta, changes):
    return am.DMALA(beta, 0.6, changes=changes, record=0)


MAKE = {"gibbs": gibbs, "dmala": dmala}
ALL = list(itertools.product(MAKE, ("exact", "gradient")))


# -- the law ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "changes"), ALL)
@pytest.mark.parametrize("energy", ENERGIES)
def test_the_law_is_kept_at_every_temperature(energy, name, changes):
    """Chains that begin with draws from the law go on with it, however slowly they mix."""
    E, space = ENERGIES[energy]
    states, chains = all_states(N, space), 8000
    for beta in BETAS:
        p, energies = law(E, states, beta)
        first = np.random.default_rng(0).choice(len(p), chains, p=p)
        method = MAKE[name](beta, changes)
        x, e = drawn(E, space, method, states[first], 3, jr.key(5))
        counts = counted(x, space)
        assert p_value(counts, p) > SURE, beta
        mean, spread = p @ energies, np.sqrt(p @ energies**2 - (p @ energies) ** 2)
        assert abs(np.mean(e) - mean) < 5 * spread / np.sqrt(chains) + 1e-6
        if beta != 1.0:
            continue
        assert (np.asarray(x) != np.asarray(states[first])).any(1).mean() > 0.3  # they moved
        assert p_value(counts, law(E, states, 1.2)[0]) < SURE  # another temperature is told
        assert p_value(counts, law(E, states, 0.8)[0]) < SURE


@pytest.mark.parametrize(("name", "changes"), ALL)
@pytest.mark.parametrize("energy", ["ring", "weird"])
def test_the_law_is_found_from_one_start(energy, name, changes):
    """Every state is met: also at `beta = 0`, and from a start on a wall."""
    E, space = ENERGIES[energy]
    n, chains = 5, 4000
    states = all_states(n, space)
    for beta in BETAS[:2]:
        start = jnp.broadcast_to(states[-1], (chains, n))
        x, _ = drawn(E, space, MAKE[name](beta, changes), start, 20, jr.key(6))
        assert p_value(counted(x, space), law(E, states, beta)[0]) > SURE, beta


# -- the transitions -------------------------------------------------------------------------------


def changes_of(E, space, states, changes):
    """What each flip adds to the energy, or may add, from each state."""
    n = states.shape[1]
    if changes == "gradient":
        other = jax.vmap(space.other)(states)
        slope = np.asarray(jax.vmap(jax.grad(E))(states), np.float64)
        return np.where(np.isfinite(slope), slope, 0) * np.asarray(other - states)
    flip = lambda i: states.at[:, i].set(space.other(states[:, i]))
    e = np.asarray(jax.vmap(E)(states), np.float64)
    flipped = np.stack([np.asarray(jax.vmap(E)(flip(i))) for i in range(n)], 1)
    return flipped - e[:, None]


def matrix(name, E, space, states, beta, changes):
    """The transitions of a step, from the formulas of the docstrings."""
    n, K = states.shape[1], 2 ** states.shape[1]
    d = beta * changes_of(E, space, states, changes)
    e = np.asarray(jax.vmap(E)(states), np.float64)
    q = np.zeros((K, K))
    for a, b in itertools.product(range(K), repeat=2):
        turned = np.asarray(states[a] != states[b])
        if name == "gibbs" and turned.sum() == 1:
            weights = np.exp(-d[a] / 2)
            q[a, b] = weights[turned][0] / weights.sum()
        elif name == "dmala":
            each = 1 / (1 + np.exp(d[a] / 2 + 1 / (2 * 0.6)))
            q[a, b] = np.prod(np.where(turned, each, 1 - each))
    forth, back = np.exp(-beta * e)[:, None] * q, np.exp(-beta * e)[None] * q.T
    P = np.where(forth > 0, q * np.minimum(1, back / np.where(forth > 0, forth, 1)), 0)
    np.fill_diagonal(P, 0)
    np.fill_diagonal(P, 1 - P.sum(1))
    if name == "gibbs":
        P = 0.5 * (np.eye(K) + P) @ np.linalg.matrix_power(P, n - 1)
    return P


@pytest.mark.parametrize(("name", "changes"), ALL)
@pytest.mark.parametrize("energy", ["ring", "steps", "gas"])
def test_transitions_are_those_that_are_stated_and_in_detailed_balance(energy, name, changes):
    E, space = ENERGIES[energy]
    n, each = 3, 2000
    states = all_states(n, space)
    for beta in (0.3, 1.0):
        P, (p, _) = matrix(name, E, space, states, beta, changes), law(E, states, beta)
        assert_allclose(p[:, None] * P, p[None] * P.T, atol=1e-6)
        method, starts = MAKE[name](beta, changes), jnp.repeat(states, each, 0)
        x, _ = drawn(E, space, method, starts, 1, jr.key(7))
        for k, ends in enumerate(np.asarray(x).reshape(2**n, each, n)):
            assert p_value(counted(ends, space), P[k]) > SURE / 4


def test_one_bit_flips_at_the_stated_rate():
    """Of one bit every move is the same flip; half of the sweeps are left out."""
    field, beta, chains = jnp.array([0.4]), 1.2, 20_000
    starts = jnp.repeat(jnp.array([[1.0], [-1.0]]), chains, 0)
    x, _ = drawn(lambda x: field @ x, am.Spins(), gibbs(beta, "exact"), starts, 1, jr.key(0))
    turned = np.asarray(x != starts).reshape(2, chains).mean(1)
    assert_allclose(turned, [0.5, 0.5 * np.exp(-beta * 0.8)], atol=4 * 0.5 / np.sqrt(chains))
    x, _ = drawn(lambda x: field @ x, am.Spins(), dmala(beta, "exact"), starts, 1, jr.key(1))
    odds = np.exp(np.array([1, -1]) * beta * 0.4 - 1 / 1.2)
    q = odds / (1 + odds)
    ratio = np.exp(np.array([1, -1]) * beta * 0.8) * q[::-1] / q
    turned = np.asarray(x != starts).reshape(2, chains).mean(1)
    assert_allclose(turned, q * np.minimum(1, ratio), atol=4 * 0.5 / np.sqrt(chains))


# -- a sampler of a user's -------------------------------------------------------------------------


class Blind(AbstractInformedSampler):
    """Knows nothing: each bit is as likely to be proposed."""

    beta: jax.Array = eqx.field(converter=jnp.asarray)
    changes: Changes = eqx.field(static=True, default="exact")

    def propose(self, problem, at, rise, key):
        return jr.uniform(key, rise.shape) < 0.3

    def log_probability(self, rise, made):
        return jnp.zeros(())

    def visits(self, problem, moved, before, after):
        return Visits(problem.bits, moved, jnp.broadcast_to(after, moved.shape))


def test_an_informed_sampler_of_a_users_keeps_the_law():
    states = all_states(N, am.Spins())
    start = jnp.broadcast_to(states[0], (6000, N))
    x, _ = drawn(dense, am.Spins(), Blind(0.5), start, 60, jr.key(0))
    assert p_value(counted(x, am.Spins()), law(dense, states, 0.5)[0]) > SURE
