"""The Ising model on a square lattice: Glauber dynamics by colours against the exact solution."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am


class Lattice(am.AbstractBinaryAM):
    def energy(self, x):
        return -jnp.sum(x * jnp.roll(x, 1, 0)) - jnp.sum(x * jnp.roll(x, 1, 1))


def log_partition(K, n, m):
    """ln Z of an n x m torus (Kaufman 1949, Phys. Rev. 76, 1232, eq. 63)."""
    gammas = np.arccosh(np.cosh(2 * K) / np.tanh(2 * K) - np.cos(np.pi * np.arange(2 * n) / n))
    gammas[0] = 2 * K + np.log(np.tanh(K))
    odd, even = m * gammas[1::2] / 2, m * gammas[0::2] / 2
    total = sum(np.prod(2 * f(g)) for g in (odd, even) for f in (np.cosh, np.sinh))
    return n * m / 2 * np.log(2 * np.sinh(2 * K)) + np.log(total / 2)


def exact(beta, n):
    """Mean energy, and specific heat, both per spin."""
    h = 1e-3
    low, mid, high = (log_partition(b, n, n) for b in (beta - h, beta, beta + h))
    return -(high - low) / (2 * h) / n**2, beta**2 * (high - 2 * mid + low) / h**2 / n**2


@pytest.mark.parametrize("beta", [0.2, 0.44, 0.6])
def test_the_exact_solution_is_that_of_enumeration(beta):
    states = (np.arange(2**16)[:, None] >> np.arange(16)) & 1
    x = (2.0 * states - 1).reshape(-1, 4, 4)
    e = -(x * np.roll(x, 1, 1)).sum((1, 2)) - (x * np.roll(x, 1, 2)).sum((1, 2))
    p = np.exp(-beta * (e - e.min()))
    p /= p.sum()
    mean, heat = (p * e).sum(), beta**2 * ((p * e**2).sum() - (p * e).sum() ** 2)
    np.testing.assert_allclose(exact(beta, 4), (mean / 16, heat / 16), rtol=1e-3)


def test_the_exact_solution_of_a_large_lattice_is_onsagers():
    beta = 0.3
    k = 2 * np.sinh(2 * beta) / np.cosh(2 * beta) ** 2
    theta = (np.arange(100_000) + 0.5) / 100_000 * np.pi / 2
    K1 = (1 / np.sqrt(1 - (k * np.sin(theta)) ** 2)).mean() * np.pi / 2
    e = -1 / np.tanh(2 * beta) * (1 + 2 / np.pi * (2 * np.tanh(2 * beta) ** 2 - 1) * K1)
    np.testing.assert_allclose(exact(beta, 24)[0], e, rtol=1e-4)


@pytest.mark.parametrize("beta", [0.2, 0.38, 0.44])
def test_energy_and_specific_heat_of_samples(beta):
    side, chains, warm = 16, 96, 20
    method = am.Glauber(beta, "colours")
    x0 = jr.rademacher(jr.key(0), (chains, side, side), jnp.float32)
    run = lambda x, k: (
        Lattice()
        .recall(x, method=method, key=k, max_steps=1200, save_every=20)
        .trajectory.energy[warm:]
    )
    e = np.asarray(jax.vmap(run)(x0, jr.split(jr.key(1), chains)), np.float64)
    mean, heat = exact(beta, side)
    error = e.mean(1).std() / np.sqrt(chains) / side**2  # chains do not depend on one another
    assert abs(e.mean() / side**2 - mean) < 4 * error
    got = beta**2 * e.var(1).mean() * (1 + 1 / (e.shape[1] - 1)) / side**2
    spread = beta**2 * e.var(1).std() / np.sqrt(chains) / side**2
    assert abs(got - heat) < 4 * spread + 0.1 * heat  # successive samples are not independent
