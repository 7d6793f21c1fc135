"""What the samplers with an acceptance draw: the law in full, over all states, at several betas.

Chi-squares are those of independent chains with fixed keys; each must have a p-value above 1e-3,
unless a law is to be refused.
"""

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
from scipy.stats import chi2

import amlib as am
from amlib.descent import AbstractInformedSampler, Visits, descend
from tests import engine, users
from tests.zoo import reals, spins

R, SURE = am.RESULTS, 1e-3
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


def gibbs(beta, changes):
    return am.GibbsWithGradients(beta, changes, record=0)


def dmala(beta, changes):
    return am.DMALA(beta, 0.6, changes, record=0)


MAKE = {"gibbs": gibbs, "dmala": dmala}
ALL = list(itertools.product(MAKE, ("exact", "gradient")))


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
@pytest.mark.parametrize("energy", ["ring", "weird", "gas"])
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
@pytest.mark.parametrize("energy", ["ring", "dense", "steps", "gas"])
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


# -- a sampler of a user's -------------------------------------------------------------------------


class Blind(AbstractInformedSampler):
    """Proposes any bit, and more often the first: more often forth than back is not more."""

    beta: jax.Array = eqx.field(converter=jnp.asarray)
    changes: str = eqx.field(static=True, default="exact")

    def propose(self, problem, at, rise, key):
        return jr.uniform(key, rise.shape) < 0.3

    def log_probability(self, rise, flips):
        return jnp.zeros(())

    def visits(self, problem, flips, before, after):
        return Visits(problem.bits, flips, jnp.broadcast_to(after, flips.shape))


def test_an_informed_sampler_of_a_users_keeps_the_law():
    states = all_states(N, am.Spins())
    start = jnp.broadcast_to(states[0], (6000, N))
    x, _ = drawn(dense, am.Spins(), Blind(0.5), start, 60, jr.key(0))
    assert p_value(counted(x, am.Spins()), law(dense, states, 0.5)[0]) > SURE


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
