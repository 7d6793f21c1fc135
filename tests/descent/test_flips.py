"""The orders of descent, how they end, and the proof that they may."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.descent.plan import FlipPlan
from amlib.descent.trajectory import RESULTS
from tests import engine as flips

D, WIDE = 30, 300
DESCENTS = {
    "permutation": lambda e, x, **kw: flips.sweep(e, x, jr.key(1), order="permutation", **kw),
    "sequential": lambda e, x, **kw: flips.sweep(e, x, jr.key(1), order="sequential", **kw),
    "random": lambda e, x, **kw: flips.sweep(e, x, jr.key(1), order="random", **kw),
    "greedy": flips.greedy,
    "synchronous": flips.synchronous,
}


def spins(seed, *shape):
    return jr.rademacher(jr.key(seed), shape, jnp.float32)


def lse(patterns, beta):
    return lambda x: -jax.nn.logsumexp(beta * (patterns @ x))


def lowest_flip(energy, x):
    """The lowest energy after one flip, and the energy, by plain evaluation."""
    flipped = jnp.where(jnp.eye(x.size, dtype=bool), -x[None], x[None])
    return float(jax.vmap(energy)(flipped).min()), float(energy(x))


@pytest.mark.parametrize("name", DESCENTS)
@pytest.mark.parametrize("k", [5, WIDE])
def test_converged_means_that_no_flip_lowers_the_energy(name, k):
    energy, x0 = lse(spins(0, k, D), 0.4), spins(2, D)
    out = DESCENTS[name](energy, x0)
    assert out.result == RESULTS.converged
    lowest, e = lowest_flip(energy, out.x)
    assert lowest >= e - 1e-5
    np.testing.assert_allclose(out.energy, e, rtol=1e-6)
    assert float(energy(x0)) > e


@pytest.mark.parametrize("name", DESCENTS)
def test_the_record_replays_the_descent(name):
    energy, x0 = lse(spins(0, 5, D), 0.4), spins(2, D)
    out = DESCENTS[name](energy, x0, max_sweeps=6, record=4)
    states = np.asarray(out.trajectory.frames)
    assert states.shape == (4 * D, D)
    np.testing.assert_array_equal(states[-1], out.x)
    whole = slice(D - 1, None, D) if name == "synchronous" else slice(None)
    energies = jax.vmap(energy)(jnp.asarray(states))
    np.testing.assert_allclose(out.trajectory.energy[whole], energies[whole], rtol=1e-5)
    if name != "synchronous":
        drops = jnp.diff(out.trajectory.energy)
        assert (drops <= 1e-5).all()
        assert out.trajectory.accepted.any()


def test_the_record_may_be_shorter_than_the_descent():
    energy, x0 = lambda x: -jnp.sum(x * jnp.roll(x, 1)) - 1e-3 * jnp.sum(x), spins(5, 200)
    full = flips.sweep(energy, x0, jr.key(0), max_sweeps=50, record=50)
    assert full.steps > 1
    short = flips.sweep(energy, x0, jr.key(0), max_sweeps=50, record=1)
    none = flips.sweep(energy, x0, jr.key(0), max_sweeps=50, record=0)
    np.testing.assert_array_equal(full.x, short.x)
    np.testing.assert_array_equal(full.x, none.x)
    assert none.trajectory.frames.shape == (0, 200)
    np.testing.assert_array_equal(
        np.asarray(short.trajectory.frames), np.asarray(full.trajectory.frames)[:200]
    )


def test_a_fixed_point_takes_one_sweep_and_stays():
    energy = lse(spins(0, 1, D), 1.0)
    out = flips.sweep(energy, spins(0, 1, D)[0], jr.key(0))
    assert int(out.steps) == 1
    assert not out.trajectory.accepted.any()


def test_the_step_limit_is_a_result():
    energy = lambda x: -jnp.sum(x * jnp.roll(x, 1)) - 1e-3 * jnp.sum(x)
    out = flips.sweep(energy, spins(5, 200), jr.key(0), max_sweeps=1)
    assert out.result == RESULTS.step_limit
    out = flips.greedy(energy, spins(5, 200), max_sweeps=1, record=1)
    assert out.result == RESULTS.converged  # a greedy sweep is D flips


def test_synchronous_updates_find_the_two_cycle():
    """Two spins that want to differ, started equal: both flip, for ever."""
    out = flips.synchronous(lambda x: x[0] * x[1], jnp.ones(2))
    assert out.result == RESULTS.cycle
    assert "2-cycle" in str(RESULTS[out.result])
    asynchronous = flips.sweep(lambda x: x[0] * x[1], jnp.ones(2), jr.key(0))
    assert asynchronous.result == RESULTS.converged


@pytest.mark.parametrize("name", DESCENTS)
def test_an_energy_that_is_not_finite_ends_the_recall(name):
    energy = lambda x: -jnp.sum((1e10 * x) ** 10)
    out = DESCENTS[name](energy, spins(0, 4))
    assert out.result == RESULTS.nonfinite
    later = lambda x: jnp.where(jnp.sum(x) < 0, -jnp.inf, jnp.sum(x))
    out = DESCENTS[name](later, jnp.ones(3))
    assert out.result == RESULTS.nonfinite


def compact(plan):
    """Whether the values allow the compact form, and that form."""
    tables = plan.cut.tables()
    allowed, stabilizers = plan.cut.allows_compact(tables)
    return allowed, plan.cut.form(tables, stabilizers)


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 1.4, 5.0])
@pytest.mark.parametrize("seed", range(3))
def test_the_product_proof_is_never_wrong_and_often_succeeds(beta, seed):
    patterns = spins(seed, WIDE, D)
    energy = lse(patterns, beta)
    states = jnp.concatenate([patterns[:20], spins(seed + 9, 20, D)])

    @jax.jit
    def proved(x):
        allowed, form = compact(FlipPlan(energy, x))
        return allowed, form.proves_fixed(x, jnp.arange(D))

    answers = [proved(x) for x in states]
    assert all(bool(a) for a, _ in answers)
    for x, (_, proof) in zip(states, answers, strict=True):
        lowest, e = lowest_flip(energy, x)
        if lowest < e:
            assert not proof
    if beta in (1.0, 1.4):
        assert sum(bool(p) for _, p in answers) >= 10
    if beta == 5.0:  # steps of 10: the form is refused
        assert not any(bool(p) for _, p in answers)


def test_the_product_proof_needs_rows_of_one_size():
    patterns = jnp.where(spins(0, WIDE, D) > 0, 1.0, 0.0)
    _, form = compact(FlipPlan(lse(patterns, 0.5), spins(0, D)))
    assert not form.proves_fixed(2 * patterns[0] - 1, jnp.arange(D))


@pytest.mark.parametrize(
    "energy",
    [
        lambda p: lambda x: -jax.nn.logsumexp(p @ x) - jnp.sum((p @ x) ** 2),
        lambda p: lambda x: -jax.nn.logsumexp(p @ x) - x[0] * x[1],
        lambda p: lambda x: -jnp.sum(jax.nn.relu(p @ x)),
    ],
)
def test_no_product_proof_where_the_energy_is_more_than_the_sum(energy):
    x = spins(1, D)
    _, form = compact(FlipPlan(energy(spins(0, WIDE, D)), x, "incremental"))
    assert form.proves_fixed(x, jnp.arange(D)) is None


def test_lanes_of_a_vmap_do_not_disturb_one_another():
    patterns = spins(0, WIDE, D)
    x0s = jnp.concatenate([patterns[:2], spins(3, 4, D)])
    keys = jr.split(jr.key(7), 6)
    run = lambda x, k: flips.sweep(lse(patterns, 0.3), x, k, record=5)
    together = jax.jit(jax.vmap(run))(x0s, keys)
    for lane in range(6):
        alone = jax.jit(run)(x0s[lane], keys[lane])
        np.testing.assert_array_equal(together.x[lane], alone.x)
        assert int(together.steps[lane]) == int(alone.steps)
        np.testing.assert_array_equal(
            np.asarray(together.trajectory.frames[lane]), np.asarray(alone.trajectory.frames)
        )
    assert len(set(together.steps.tolist())) > 1


def test_glauber_draws_what_it_was_asked_for():
    energy, x0 = lse(spins(0, 5, D), 0.4), spins(2, D)
    out = flips.glauber(energy, x0, jr.key(0), jnp.asarray(0.5), sweeps=7)
    assert out.result == RESULTS.sampled
    assert int(out.steps) == 7
    assert out.trajectory.energy.shape == (7 * D,)
    np.testing.assert_array_equal(np.asarray(out.trajectory.frames[-1]), out.x)
    rises = jnp.diff(out.trajectory.energy) > 1e-4
    assert rises.any()


def test_recall_differentiates_only_its_final_energy():
    patterns, x0 = spins(0, WIDE, D), spins(2, D)
    run = lambda p: flips.sweep(lse(p, 0.4), x0, jr.key(0))
    got = jax.jit(jax.grad(lambda p: run(p).energy))(patterns)
    expected = jax.grad(lambda p: lse(p, 0.4)(run(patterns).x))(patterns)
    np.testing.assert_allclose(got, expected, atol=1e-6)


# -- what changes nothing ------------------------------------------------------------------------


def dead_bits():
    """Energies to which two of the bits are nothing, of weights that round."""
    live = jnp.ones(40).at[jnp.asarray([0, 7])].set(0)
    W, V, Xi = (jr.normal(jr.key(n), (k, 40)) * live[None] for n, k in ((0, 40), (1, 40), (2, 24)))
    U = jr.normal(jr.key(3), (16, 40)) / 16
    return {
        "classical": lambda x: -0.5 * jnp.sum((Xi @ x) ** 2),
        "cubes": lambda x: -jnp.sum(jax.nn.relu(Xi @ x) ** 3),
        "layers": lambda x: -jnp.sum(jax.nn.relu(U @ jnp.tanh(V @ x / 8)) ** 2),
        "pairs": lambda x: -0.5 * x @ ((W + W.T) * live[:, None]) @ x,
        "squares": lambda x: -jnp.sum((V @ x) * jnp.sin(V @ x)),
    }


@pytest.mark.parametrize("name", dead_bits())
@pytest.mark.parametrize("path", ["auto", "generic"])
def test_bits_that_change_nothing_do_not_keep_a_batch_from_rest(name, path):
    """Whose flips lower the energy by rounding, where many are evaluated together and one alone."""
    energy, x0 = dead_bits()[name], jr.rademacher(jr.key(4), (32, 40), jnp.float32)
    for method in (am.Sweeps(), am.Sweeps("sequential"), am.Greedy()):
        run = lambda x, method=method: flips.descend(energy, x, method, jr.key(5), path=path)
        end = jax.jit(jax.vmap(run))(x0)
        assert end.converged.all(), method
        at_rest = jax.vmap(lambda x: flips.is_fixed_point(energy, x, path=path))(end.x)
        assert at_rest.all(), method
