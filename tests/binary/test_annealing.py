"""Glauber dynamics along a schedule of temperatures."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import amlib as am
from tests.zoo import reals, spins

D, SWEEPS = 10, 6
J = jnp.asarray(reals(0, D, D), jnp.float32)
glass = am.BipolarIsing(J + J.T)
x0 = jnp.asarray(spins(1, D), jnp.float32)


def test_a_schedule_of_one_temperature_is_that_temperature():
    one = glass.recall(x0, beta=0.4, key=jr.key(2), max_sweeps=SWEEPS)
    many = glass.recall(x0, beta=np.full(SWEEPS, 0.4), key=jr.key(2), max_sweeps=SWEEPS)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_sweep_has_its_own_temperature():
    """A schedule that begins as another draws the same states as long as they agree."""
    hot = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    cold = np.array([0.1, 0.2, 0.3, 9.0, 9.0, 9.0])
    a, b = (glass.recall(x0, beta=s, key=jr.key(2), max_sweeps=SWEEPS) for s in (hot, cold))
    same = np.asarray(a.trajectory.accepted) == np.asarray(b.trajectory.accepted)
    assert same[: 3 * D].all()
    assert not same[3 * D :].all()


def test_at_beta_zero_half_of_all_flips_are_kept():
    end = glass.recall(x0, beta=0, key=jr.key(3), max_sweeps=400)
    kept = np.asarray(end.trajectory.accepted)
    assert abs(kept.mean() - 0.5) < 5 * 0.5 / np.sqrt(kept.size)
    assert end.result == am.RESULTS.sampled


def test_annealing_finds_the_ground_state_more_often_than_a_quench():
    states = 2.0 * ((np.arange(2**D)[:, None] >> np.arange(D)) & 1) - 1
    ground = float(jax.vmap(glass.energy)(jnp.asarray(states, jnp.float32)).min())
    keys = jr.split(jr.key(4), 200)
    starts = jax.vmap(lambda k: jr.rademacher(k, (D,), jnp.float32))(keys)
    schedule = jnp.geomspace(0.05, 5.0, 60)
    anneal = lambda x, k: glass.recall(x, beta=schedule, key=k, max_sweeps=60).energy
    quench = lambda x, k: glass.recall(x, key=k).energy
    slow, fast = (np.asarray(jax.vmap(f)(starts, keys)) for f in (anneal, quench))
    found = [(e < ground + 1e-3).mean() for e in (slow, fast)]
    assert found[0] > 0.7  # of 200: .785, and .405 by quenches
    assert found[0] > found[1] + 0.2


def test_another_schedule_compiles_nothing_anew():
    traced = []

    class Counting(am.BinaryAM):
        def energy(self, x):
            traced.append(x)
            return -jnp.sum((self.Xi @ x) ** 2)

    memory = Counting(jnp.asarray(spins(5, 2, D), jnp.float32))
    memory.recall(x0, beta=np.linspace(0.1, 1, SWEEPS), key=jr.key(0), max_sweeps=SWEEPS)
    before = len(traced)
    memory.recall(x0, beta=np.linspace(0.0, 3, SWEEPS), key=jr.key(1), max_sweeps=SWEEPS)
    assert len(traced) == before
