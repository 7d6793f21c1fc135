"""MALA: the law of real states, with steps so long that Langevin's own draws are visibly wrong."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import chi2

import amlib as am
from amlib.descent import descend
from tests.zoo import spins

R, SURE = am.RESULTS, 1e-3
CHAINS = 20_000
XI = jnp.asarray(spins(0, 3, 8), jnp.float32)


@eqx.filter_jit
def moved(energy, method, starts, steps, key, space=None):
    one = lambda x, k: descend(energy, x, method, space=space, key=k, max_steps=steps)
    return jax.vmap(one)(starts, jr.split(key, len(starts))).x


STIFF = jnp.asarray([[1.0, 0.6], [0.6, 2.0]])


def gaussian(x):
    return 0.5 * x @ STIFF @ x - x[0]


@pytest.mark.parametrize("dt", [0.2, 0.7])
def test_mala_draws_a_gaussian_where_langevin_is_visibly_wrong(dt):
    beta = 2.0
    mean, cov = np.linalg.solve(STIFF, [1.0, 0.0]), np.linalg.inv(beta * np.asarray(STIFF))
    error = 5 * np.sqrt(2 / CHAINS)  # of a variance, in units of it
    start = jnp.zeros((CHAINS, 2))
    x = np.asarray(moved(gaussian, am.MALA(beta, dt), start, 60, jr.key(0)), np.float64)
    assert (np.abs(x.mean(0) - mean) < 5 * np.sqrt(np.diag(cov) / CHAINS)).all()
    scale = np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    assert (np.abs(np.cov(x.T) - cov) < error * scale).all()
    x = np.asarray(moved(gaussian, am.Langevin(beta, dt), start, 60, jr.key(0)), np.float64)
    assert (np.abs(np.cov(x.T) - cov) > error * scale).any()


def well(x):
    return jnp.sum((x**2 - 1) ** 2)


GRID = np.linspace(-3.2, 3.2, 4001)


def quadrature(energy, beta, low=-3.2, high=3.2):
    weights = np.exp(-beta * energy(GRID)) * (low <= GRID) * (high >= GRID)
    return weights / weights.sum()


@pytest.mark.parametrize(("beta", "dt"), [(1.5, 0.1), (3.0, 0.15), (0.3, 0.3)])
def test_mala_draws_a_double_well_with_a_long_step(beta, dt):
    p = quadrature(lambda x: (x**2 - 1) ** 2, beta)
    first = np.random.default_rng(0).choice(GRID, CHAINS, p=p)
    starts = jnp.asarray(first, jnp.float32)[:, None]
    x = np.asarray(moved(well, am.MALA(beta, dt), starts, 20, jr.key(1)), np.float64)[:, 0]
    assert (x != first.astype(np.float32)).mean() > 0.5
    for f in (lambda x: x, lambda x: x**2, lambda x: x**4, lambda x: np.abs(x) < 0.5):
        exact, spread = p @ f(GRID), np.sqrt(p @ f(GRID) ** 2 - (p @ f(GRID)) ** 2)
        assert abs(f(x).mean() - exact) < 5 * spread / np.sqrt(CHAINS)
    free = np.asarray(moved(well, am.Langevin(beta, dt), starts, 20, jr.key(1)), np.float64)[:, 0]
    wrong = abs((free**2).mean() - p @ GRID**2)  # NaN where it ran away
    assert not wrong < 5 * (GRID**2).std() / np.sqrt(CHAINS)


def test_mala_finds_both_wells_from_one():
    p = quadrature(lambda x: (x**2 - 1) ** 2, 1.5)
    x = np.asarray(moved(well, am.MALA(1.5, 0.1), jnp.ones((5000, 1)), 400, jr.key(2)))[:, 0]
    assert abs((x > 0).mean() - 0.5) < 5 * 0.5 / np.sqrt(5000)
    assert abs((x**2).mean() - p @ GRID**2) < 5 * 0.6 / np.sqrt(5000)


def test_mala_is_in_detailed_balance():
    """From the law, a step from A to B is as frequent as one from B to A."""
    beta, dt = 1.0, 0.25
    tilted = lambda x: jnp.sum((x**2 - 1) ** 2 + 0.5 * x)
    p = quadrature(lambda x: (x**2 - 1) ** 2 + 0.5 * x, beta)
    first = np.random.default_rng(1).choice(GRID, 100_000, p=p)
    starts = jnp.asarray(first, jnp.float32)[:, None]
    x = np.asarray(moved(tilted, am.MALA(beta, dt), starts, 1, jr.key(3)))[:, 0]
    edges = np.array([-1.2, -0.7, 0.0, 0.7])
    pairs = np.zeros((5, 5))
    np.add.at(pairs, (np.digitize(first, edges), np.digitize(x, edges)), 1)
    off = np.triu_indices(5, 1)
    forth, back = pairs[off], pairs.T[off]
    both = forth + back
    seen = both > 20
    statistic = ((forth - back) ** 2 / both)[seen].sum()
    assert seen.sum() >= 6
    assert chi2.sf(statistic, seen.sum()) > SURE


class HalfLine(am.spaces.AbstractReals):
    def project(self, x):
        return jnp.maximum(x, -0.3)


@pytest.mark.parametrize(
    ("space", "low", "high"), [(am.Box(-0.5, 0.4), -0.5, 0.4), (HalfLine(), -0.3, 3.2)],
    ids=["box", "half line"],
)  # fmt: skip
def test_mala_draws_the_law_on_a_set(space, low, high):
    tilted = lambda x: jnp.sum((x**2 - 1) ** 2 + x)
    p = quadrature(lambda x: (x**2 - 1) ** 2 + x, 1.5, low, high)
    method = am.MALA(1.5, 0.05)
    x = np.asarray(moved(tilted, method, jnp.zeros((CHAINS, 1)), 80, jr.key(4), space))[:, 0]
    assert x.min() >= low
    assert x.max() <= high
    assert ((x == np.float32(low)) | (x == np.float32(high))).mean() < 1e-3  # no weight of its own
    for f in (lambda x: x, lambda x: x**2, lambda x: x < low + 0.1):
        exact, spread = p @ f(GRID), np.sqrt(p @ f(GRID) ** 2 - (p @ f(GRID)) ** 2)
        assert abs(f(x).mean() - exact) < 5 * spread / np.sqrt(CHAINS) + 2e-3  # of the grid


def test_mala_holds_what_is_clamped_and_draws_the_rest():
    """Given one unit the other is a Gaussian of its own."""
    memory = type("Quadratic", (am.ContinuousAM,), {"energy": lambda self, x: gaussian(x)})(
        jnp.zeros((1, 2))
    )
    beta, held, x0 = 2.0, np.array([True, False]), jnp.array([0.8, 0.0])
    run = lambda k: memory.recall(
        x0, method=am.MALA(beta, 0.3), key=k, clamp=held, max_steps=40
    ).x  # fmt: skip
    x = np.asarray(jax.jit(jax.vmap(run))(jr.split(jr.key(5), CHAINS)))
    assert (x[:, 0] == np.float32(0.8)).all()
    variance = 1 / (beta * 2.0)
    assert abs(x[:, 1].mean() + 0.6 * 0.8 / 2) < 5 * np.sqrt(variance / CHAINS)
    assert abs(x[:, 1].var() / variance - 1) < 5 * np.sqrt(2 / CHAINS)


def test_mala_draws_the_states_of_layers_that_move_at_paces_of_their_own():
    """The direction is the force over `tau`, and no gradient: the law is that of the energy."""
    layers = {
        "a": am.NeuronLayer(am.Lagrangian(am.lagr_identity), 1, tau=0.5),
        "b": am.NeuronLayer(am.Lagrangian(am.lagr_identity), 1, tau=2.0),
    }
    ham = am.HAM(layers, {"s": am.DenseSynapse(std=0.5)}, [(("a", "b"), "s")])
    _, ham = ham.init_states_and_params(jr.key(0))
    ham = eqx.tree_at(lambda h: h.synapses["s"].W, ham, jnp.full((1, 1), 0.6))
    x0, beta = {"a": jnp.zeros(1), "b": jnp.zeros(1)}, 1.5
    flat = lambda v: ham.energy({"a": v[:1], "b": v[1:]})
    cov = np.linalg.inv(beta * np.asarray(jax.hessian(flat)(jnp.zeros(2))))
    assert abs(cov[0, 1]) > 0.2
    run = lambda k: ham.recall(x0, method=am.MALA(beta, 0.3), key=k, max_steps=60).x
    xs = jax.jit(jax.vmap(run))(jr.split(jr.key(6), CHAINS))
    x = np.concatenate([xs["a"], xs["b"]], 1).astype(np.float64)
    assert (np.abs(np.cov(x.T) - cov) < 5 * np.sqrt(2 / CHAINS) * cov[0, 0]).all()


def test_mala_repeats_what_it_rejects_and_has_the_derivative_of_its_steps():
    end = descend(
        gaussian, jnp.zeros(2), am.MALA(1.0, 0.7), key=jr.key(0), max_steps=200, save_every=1
    )
    states, energies = np.asarray(end.trajectory.x), np.asarray(end.trajectory.energy)
    made = (np.diff(states, axis=0) != 0).any(1)
    assert 0.2 < made.mean() < 0.95
    assert_array_equal(made, np.diff(energies) != 0)
    assert_allclose(energies, jax.vmap(gaussian)(states), rtol=1e-4, atol=1e-5)
    none = descend(gaussian, jnp.zeros(2), am.MALA(1.0, 60.0), key=jr.key(0), max_steps=50)
    assert_array_equal(none.x, jnp.zeros(2))  # where Langevin's steps run away
    last = lambda x: jnp.sum(
        descend(gaussian, x, am.MALA(1.0, 0.3), key=jr.key(1), max_steps=6).x ** 2
    )
    x, h = jnp.array([0.3, -0.2]), 1e-2
    move = jnp.array([1.0, 0.5])
    numeric = (last(x + h * move) - last(x - h * move)) / (2 * h)
    assert_allclose(jax.grad(last)(x) @ move, numeric, rtol=1e-2)


def test_mala_ends_where_the_start_is_not_finite_and_walks_around_holes():
    hole = lambda x: jnp.where(jnp.abs(x[0]) < 0.3, jnp.nan, 0.5 * x @ x)
    assert descend(hole, jnp.zeros(2), am.MALA(1.0), key=jr.key(0)).result == R.nonfinite
    x = moved(hole, am.MALA(1.0, 0.3), jnp.ones((200, 2)), 50, jr.key(0))
    assert (jnp.abs(x[:, 0]) >= 0.3).all()
    assert (x[:, 0] < 0).any()


# -- bad input -------------------------------------------------------------------------------------


def test_what_cannot_be_is_refused():
    for bad in (0.0, -1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="beta: must be finite and greater than 0"):
            am.MALA(bad)
        with pytest.raises(ValueError, match="dt: must be finite and greater than 0"):
            am.MALA(1.0, bad)
    spin, real, x = am.ClassicalHopfield(XI), am.ModernHopfield(XI), jnp.ones(8)
    with pytest.raises(TypeError, match=r"for units of two values, .*; MALA came.* or DMALA\(\.\."):
        spin.recall(x, method=am.MALA(1.0), key=jr.key(0))
    with pytest.raises(ValueError, match="MALA draws at random and needs key="):
        real.recall(x, method=am.MALA(1.0))
    with pytest.raises(ValueError, match=r"schedule of max_steps=9 values, .*\(7,\) came"):
        real.recall(x, method=am.MALA(np.ones(7)), key=jr.key(0), max_steps=9)
    with pytest.raises(
        TypeError, match=r"MALA needs a space with an interior.*Sphere came.*Langev"
    ):
        real.recall(x, method=am.MALA(1.0), key=jr.key(0), project=am.Sphere(1.0))
