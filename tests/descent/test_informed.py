"""Informed samplers beyond their law: records, clamps, dtypes, walls, derivatives, bad input."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.scipy.special import logsumexp
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.descent import FlipProblem, descend
from amlib.descent.methods import solve
from amlib.descent.visits import free_bits
from tests import engine, users
from tests.laws import SURE, XI, N, all_states, counted, dense, drawn, law, p_value, ring

R = am.RESULTS


def gibbs(beta, changes):
    return am.GibbsWithGradients(beta, changes=changes, record=0)


def dmala(beta, changes):
    return am.DMALA(beta, 0.6, changes=changes, record=0)


MAKE = {"gibbs": gibbs, "dmala": dmala}
ALL = list(itertools.product(MAKE, ("exact", "gradient")))


# -- what is recorded, and what is shared with other methods ---------------------------------------


def test_at_beta_zero_every_move_is_made_but_half_of_the_first():
    end = descend(dense, jnp.ones(N), am.GibbsWithGradients(0.0), key=jr.key(0), max_steps=400)
    made = np.asarray(end.trajectory.accepted).reshape(400, N)
    assert made[:, 1:].all()
    assert abs(made[:, 0].mean() - 0.5) < 4 * 0.5 / np.sqrt(400)
    assert end.steps == 400


@pytest.mark.parametrize("name", MAKE)
def test_the_record_leads_from_the_start_to_the_end(name):
    make = am.GibbsWithGradients if name == "gibbs" else lambda b: am.DMALA(b, 0.5)
    end = descend(dense, jnp.ones(N), make(0.5), key=jr.key(1), max_steps=9)
    frames = np.asarray(end.trajectory.frames)
    assert frames.shape == (9 * N, N)
    assert_array_equal(frames[-1], end.x)
    energies = np.asarray(end.trajectory.energy)
    ends = slice(None) if name == "gibbs" else slice(N - 1, None, N)
    assert_allclose(energies[ends], jax.vmap(dense)(frames[ends]), rtol=1e-5)
    kept = descend(dense, jnp.ones(N), make(0.5), key=jr.key(1), max_steps=9, save_every=1)
    assert_array_equal(kept.trajectory.frames[1:], frames[N - 1 :: N])


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("traced", [False, True], ids=["known", "traced"])
def test_the_free_bits_have_their_conditional_law(name, traced):
    held, beta, chains = np.arange(N) % 2 == 0, 0.8, 2000
    memory = am.ExponentialDenseAM(0.5 * XI)
    states = all_states(N, am.Spins())
    p, _ = law(memory.energy, states, beta)
    x0 = jnp.ones(N)
    p = np.where((np.asarray(states)[:, held] == 1).all(1), p, 0)

    @jax.jit
    def draw(mask, keys):
        mask = mask if traced else held
        method = MAKE[name](beta, "exact")
        run = lambda k: memory.recall(x0, method=method, key=k, clamp=mask, max_steps=15).x
        return jax.vmap(run)(keys)

    x = draw(jnp.asarray(held), jr.split(jr.key(2), chains))
    assert (np.asarray(x)[:, held] == 1).all()
    assert p_value(counted(x, am.Spins()), p / p.sum()) > SURE
    stays = memory.recall(
        x0, method=MAKE[name](beta, "exact"), key=jr.key(0), clamp=np.ones(N, bool), max_steps=2
    )
    assert_array_equal(stays.x, x0)


@pytest.mark.parametrize(("name", "changes"), ALL)
def test_all_forms_of_an_energy_draw_the_same_states(name, changes):
    for E in (ring, dense):
        draw = lambda path, E=E: engine.descend(
            E, jnp.ones(N), MAKE[name](0.5, changes), jr.key(3), max_sweeps=30, path=path
        )
        fast, full = draw("auto"), draw("generic")
        assert_array_equal(fast.x, full.x)
        assert_allclose(fast.energy, full.energy, rtol=1e-5)


@eqx.filter_jit
def ended(method, x0):
    return descend(ring, x0, method, key=jr.key(0), max_steps=5)


@pytest.mark.parametrize(("name", "changes"), ALL)
def test_temperatures_go_through_vmap_and_states_may_be_halves(name, changes):
    betas = jnp.asarray([0.1, 0.5, 2.0])
    make = lambda b: MAKE[name](b, changes)
    together = jax.jit(jax.vmap(lambda b: ended(make(b), jnp.ones(N))))(betas)
    for k, b in enumerate(betas):
        assert_array_equal(together[k].x, ended(make(b), jnp.ones(N)).x)
    end = ended(make(0.5), jnp.ones(N, jnp.float16))
    assert end.x.dtype == jnp.float16
    assert end.result == R.sampled
    half = am.ExponentialDenseAM(XI.astype(jnp.float16))
    end = half.recall(jnp.ones(N), method=make(0.5), key=jr.key(0), max_steps=5)
    assert end.x.dtype == jnp.float16


@pytest.mark.parametrize(("name", "changes"), ALL)
def test_the_derivative_is_that_of_the_energy_at_the_end(name, changes):
    memory = lambda Xi: lambda x: -logsumexp(Xi @ x)

    @jax.jit
    @functools.partial(jax.grad, argnums=(0, 1), has_aux=True)
    def slopes(Xi, beta):
        method = MAKE[name](beta, changes)
        end = descend(memory(Xi), jnp.ones(N), method, key=jr.key(4), max_steps=4)
        return end.energy, end.x

    (slope, flat), x = slopes(XI, 0.5)
    assert_allclose(slope, jax.grad(lambda Xi: memory(Xi)(x))(XI), rtol=1e-5, atol=1e-6)
    assert flat == 0


def test_in_double_precision(x64):
    x0 = jnp.ones(N, jnp.float64)
    for name, changes in ALL:
        end = descend(ring, x0, MAKE[name](0.5, changes), key=jr.key(0), max_steps=5)
        assert end.x.dtype == end.energy.dtype == jnp.float64


# -- energies that are not finite ------------------------------------------------------------------


def walled(x):
    """Finite only where no more than two bits are up."""
    return jnp.where(jnp.sum(x) > 4 - N, jnp.inf, ring(x))


@pytest.mark.parametrize(("name", "changes"), ALL)
def test_a_start_deep_in_a_wall_comes_out_and_stays_out(name, changes):
    method = MAKE[name](0.3, changes)
    x, e = drawn(walled, am.Spins(), method, jnp.ones((50, N)), 60, jr.key(0))
    assert np.isfinite(e).all()
    x, e = drawn(walled, am.Spins(), method, x, 3, jr.key(1))
    assert np.isfinite(e).all()
    end = descend(lambda x: jnp.sum(x) * 0 + jnp.inf, jnp.ones(N), method, key=jr.key(0))
    assert end.result == R.nonfinite
    held = FlipProblem(walled, free=free_bits(N, np.ones(N, bool)))
    assert_array_equal(solve(held, jnp.ones(N), method, jr.key(0), 3).x, jnp.ones(N))


@pytest.mark.parametrize(("name", "changes"), ALL)
def test_nan_is_never_entered_and_minus_infinity_is_an_end(name, changes):
    up = lambda x: (x > 0).all()
    holes = lambda x: jnp.where(up(x), jnp.nan, -jnp.sum(x))
    starts = jnp.ones((200, N)).at[:, 0].set(-1.0)
    x, e = drawn(holes, am.Spins(), MAKE[name](0.2, changes), starts, 20, jr.key(0))
    assert np.isfinite(e).all()
    assert not (np.asarray(x) > 0).all(1).any()
    pit = lambda x: jnp.where(up(x), -jnp.inf, -jnp.sum(x))
    end = descend(pit, starts[0], MAKE[name](0.5, changes), key=jr.key(0), max_steps=200)
    assert end.result == R.nonfinite


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [am.GibbsWithGradients, am.DMALA], ids=["gibbs", "dmala"])
def test_what_cannot_be_is_refused(make):
    for beta in (-1.0, np.nan, np.inf, np.array([0.1, -0.1])):
        with pytest.raises(ValueError, match="beta: must be finite and at least 0"):
            make(beta)
    with pytest.raises(ValueError, match=r"recall: record: must be at least 0; -1 came"):
        make(1.0, record=-1)
    with pytest.raises(TypeError, match=rf"for real units; {make.__name__} came.* or MALA\(\.\."):
        am.ModernHopfield(XI).recall(jnp.ones(N), method=make(1.0), key=jr.key(0))
    memory = am.ClassicalHopfield(XI)
    with pytest.raises(ValueError, match=f"{make.__name__} draws at random and needs key="):
        memory.recall(jnp.ones(N), method=make(1.0))
    with pytest.raises(ValueError, match=r"schedule of max_steps=9 values, .*\(7,\) came"):
        memory.recall(jnp.ones(N), method=make(np.ones(7)), key=jr.key(0), max_steps=9)
    with pytest.raises(ValueError, match=r"changes: must be one of 'exact', 'gradient'; 'gradie"):
        getattr(users.am, make.__name__)(1.0, changes="gradients")


def test_steps_that_cannot_be_are_refused():
    for size in (0.0, -0.1, np.nan, np.inf):
        with pytest.raises(ValueError, match="step_size: must be finite and greater than 0"):
            am.DMALA(1.0, size)
    with pytest.raises(ValueError, match=r"step_size: must be a scalar; shape \(2,\) came"):
        am.DMALA(1.0, np.array([0.1, 0.2]))
