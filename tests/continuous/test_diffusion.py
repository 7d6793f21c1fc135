"""Diffusion as memory: densities, scores, what runs backward, and what it must end in."""

import math
import re
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

import amlib as am
from amlib._intervals import wilson
from amlib.descent.streaming import STREAM_ABOVE
from tests.users import am as users

PAIR = jnp.asarray([[-1.0, 0.0], [1.0, 0.0]])
THREE = jnp.asarray([[-1.0, 0.5], [1.0, 0.0], [0.2, -0.7]])
COUNT = 1024


def generated(memory, keys, x=None, **options):
    """A batch, and where each of it ended among the patterns."""
    ends = jax.vmap(lambda key: memory.generate(key, x=x, **options))(keys)
    near = ((np.asarray(ends.x)[:, None] - np.asarray(memory.Xi)) ** 2).sum(-1).argmin(1)
    return ends, np.bincount(near, minlength=len(memory.Xi))


def same_law(a, b) -> float:
    """The p value of the test of Kolmogorov and Smirnov."""
    found: Any = stats.ks_2samp(a, b)
    return float(found.pvalue)


# -- the exact energy ----------------------------------------------------------------------------


def numpy_density(Xi, x, variance):
    Xi, x = np.asarray(Xi, float), np.asarray(x, float)
    squares = ((x[..., None, :] - Xi) ** 2).sum(-1)
    norm = (2 * math.pi * variance) ** (Xi.shape[1] / 2)
    return np.exp(-squares / (2 * variance)).mean(-1) / norm


@pytest.mark.parametrize("t", [0.05, 0.4, 30.0])
def test_energy_density_and_score_are_those_of_the_mixture(t, x64):
    memory = am.DiffusionMemory(THREE.astype(float), 0.7)
    x, variance = jnp.asarray([0.3, 0.1]), 0.49 * t
    assert_allclose(memory.variance(t), variance)
    density = numpy_density(THREE, x, variance)
    assert_allclose(memory.log_density(x, t), math.log(density), rtol=1e-9)
    squares = ((np.asarray(x) - np.asarray(memory.Xi)) ** 2).sum(1)
    expected = -variance * math.log(np.exp(-squares / (2 * variance)).sum())
    assert_allclose(memory.energy(x, jnp.asarray(t)), expected, rtol=1e-9)
    assert_allclose(memory.score(x, t), jax.grad(memory.log_density)(x, t), rtol=1e-9)
    gradient = jax.grad(lambda x: -memory.energy(x, jnp.asarray(t)) / variance)(x)
    assert_allclose(memory.score(x, t), gradient, rtol=1e-9)
    w = np.exp(-squares / (2 * variance))
    assert_allclose(memory.denoise(x, t), w @ np.asarray(memory.Xi) / w.sum(), rtol=1e-9)
    at = memory.at(t)
    assert isinstance(at, am.GaussianMemory)
    assert_allclose(at.beta, 1 / variance)
    assert_allclose(at.retrieve(x), memory.denoise(x, t))


def test_the_density_adds_up_to_one():
    line = jnp.linspace(-5, 5, 101)
    grid = jnp.stack(jnp.meshgrid(line, line), -1).reshape(-1, 2)
    memory = am.DiffusionMemory(THREE, 2.0)
    p = jnp.exp(jax.vmap(lambda x: memory.log_density(x, 0.1))(grid))
    assert float(p.sum() * 0.1**2) == pytest.approx(1, abs=1e-3)


def test_as_time_ends_the_fixed_points_are_the_patterns():
    memory = am.DiffusionMemory(THREE, 0.5)
    found = am.analysis.fixed_points(memory.at(1e-3), 60, jr.key(0), progress=False)
    order = np.argsort(found.x[:, 0])
    assert_allclose(found.x[order], THREE[jnp.argsort(THREE[:, 0])], atol=1e-5)
    assert set(found.kind) == {"stored"}
    # Late, the mean of all is the only one.
    late = am.analysis.fixed_points(memory.at(1e3), 20, jr.key(0), progress=False)
    assert_allclose(late.x, THREE.mean(0)[None], atol=1e-3)


@pytest.mark.parametrize("sigma", [1.0, 0.6])
def test_two_points_merge_where_theory_says(sigma):
    memory, d = am.DiffusionMemory(0.8 * PAIR, sigma), 1.6
    times = np.geomspace(2.0, 0.3, 8) / sigma**2
    found = am.analysis.bifurcations(memory.at, "t", times, jnp.zeros(2), generations=0)
    assert_allclose(found.value * sigma**2, [d**2 / 4], rtol=1e-3)
    assert_allclose(found.value * sigma**2, 1 / am.theory.merging_beta(d), rtol=1e-3)
    assert_allclose(np.abs(found.direction[0]), [1, 0], atol=1e-3)


def test_a_centre_divides_at_the_largest_variance():
    corners = jnp.asarray([[-1.0, -0.4], [-1.0, 0.4], [1.0, -0.4], [1.0, 0.4]])
    memory = am.DiffusionMemory(corners)
    found = am.analysis.bifurcations(
        memory.at, "t", np.geomspace(2.0, 0.12, 10), jnp.zeros(2), generations=0
    )
    # First along the longer axis, where classes part, then along the other.
    assert_allclose(found.value, [1.0, 0.16], rtol=1e-3)
    assert found.value[0] == pytest.approx(am.theory.speciation_variance(corners), rel=1e-3)


def test_a_ring_of_patterns_has_the_published_radius():
    angles = jnp.linspace(0, 2 * jnp.pi, 400, endpoint=False)
    memory = am.DiffusionMemory(jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1))

    def radius(t):
        x = memory.at(t).recall(memory.Xi[0], tol=1e-6, max_steps=10_000).x
        return jnp.linalg.norm(x)

    # Published without the half, so that beta is half as large; R at beta = 1 and below is 0.
    beta = jnp.asarray([1.5, 2.0, 5.0, 20.0, 0.9])
    found = jax.vmap(radius)(1 / (2 * beta))
    assert_allclose(found, [0.724, 0.831, 0.946, 0.987, 0.0], atol=2e-3)


def test_many_patterns_are_streamed():
    K = STREAM_ABOVE + 3_616
    Xi = jr.normal(jr.key(0), (K, 2))
    memory, x = am.DiffusionMemory(Xi), jnp.asarray([0.3, -0.2])
    assert_allclose(memory.log_density(x, 0.1), np.log(numpy_density(Xi, x, 0.1)), rtol=1e-5)
    # No program of one state holds an array with a number for each of them.
    traced = str(jax.make_jaxpr(lambda x, t: memory.score(x, t))(x, jnp.asarray(0.1)))
    assert not re.search(rf"f32\[{K}\]", traced)
    end = memory.generate(jr.key(1), start=1.0, stop=1e-2, method=am.ProbabilityFlow())
    assert end.result == am.RESULTS.sampled


# -- backward ------------------------------------------------------------------------------------

SDE, ODE = am.ReverseSDE(200), am.ProbabilityFlow()


@pytest.mark.parametrize("method", [SDE, ODE])
def test_half_of_what_is_generated_is_each_of_two(method):
    memory = am.DiffusionMemory(PAIR)
    ends, counts = generated(
        memory, jr.split(jr.key(0), COUNT), start=20.0, stop=1e-3, method=method
    )
    low, high = wilson(counts[0] / COUNT, COUNT)
    assert low <= 0.5 <= high
    assert (ends.result == am.RESULTS.sampled).all()
    assert_allclose(np.asarray(ends.time), np.full(COUNT, 1e-3), rtol=1e-5)
    near = PAIR[(ends.x[:, 0] > 0).astype(int)]
    assert_allclose(float((ends.x - near).std()), math.sqrt(1e-3), rtol=0.1)
    clean = jax.vmap(lambda x: memory.denoise(x, 1e-3))(ends.x)
    assert_allclose(clean, near, atol=1e-6)


def test_sde_and_ode_keep_the_density_at_every_time():
    """Of overlapping patterns in the midst: against draws of the mixture itself."""
    memory, stop = am.DiffusionMemory(THREE, 0.9), 0.2
    keys = jr.split(jr.key(1), 2 * COUNT)
    exact = np.asarray(jax.vmap(lambda key: memory.noise(key, jnp.asarray(stop)))(keys))
    ways = jr.normal(jr.key(5), (4, 2))
    for k, method in enumerate((SDE, ODE)):
        ends, _ = generated(
            memory, jr.split(jr.key(2 + k), 2 * COUNT), start=3.0, stop=stop, method=method
        )
        for way in np.asarray(ways):
            p = same_law(np.asarray(ends.x) @ way, exact @ way)
            assert p > 1e-3, method
    # Of patterns a third further apart it would be another one: the test can fail.
    far = [same_law(exact @ way, 1.3 * exact @ way) for way in np.asarray(ways)]
    assert min(far) < 1e-3


def test_from_a_state_patterns_come_as_often_as_it_came_from_them():
    """The reverse SDE draws from the posterior, whose shares are a softmax."""
    memory, x, t = am.DiffusionMemory(THREE), jnp.asarray([0.35, -0.1]), 0.5
    shares = jax.nn.softmax(-((x[None] - THREE) ** 2).sum(1) / (2 * t))
    _, counts = generated(memory, jr.split(jr.key(3), 2 * COUNT), x, start=t, stop=1e-3, method=SDE)
    assert stats.chisquare(counts, np.asarray(shares, float) * counts.sum())[1] > 1e-3
    # The flow goes where it must: to one of them only.
    _, once = generated(memory, jr.split(jr.key(3), 4), x, start=t, stop=1e-3, method=ODE)
    assert sorted(once) == [0, 0, 4]


def test_a_flow_in_two_legs_is_one_flow():
    memory, x = am.DiffusionMemory(THREE), jnp.asarray([2.0, 1.0])
    fine = am.ProbabilityFlow(controller=diffrax.PIDController(rtol=1e-6, atol=1e-6))
    whole = memory.generate(x=x, start=5.0, stop=0.01, method=fine)
    first = memory.generate(x=x, start=5.0, stop=0.3, method=fine)
    assert first.time is not None
    second = memory.generate(x=first.x, start=first.time, stop=0.01, method=fine)
    assert_allclose(second.x, whole.x, atol=1e-4)
    assert_allclose(whole.energy, memory.energy(whole.x, 0.01), rtol=1e-5, atol=1e-6)


def test_the_likelihood_by_the_flow_is_the_density():
    memory = am.DiffusionMemory(THREE, 0.8)
    x = jnp.asarray([[0.0, 0.0], [1.0, 0.2], [-2.0, 1.5]])
    found = jax.vmap(lambda x: memory.log_likelihood(x, 0.15, end=4.0))(x)
    exact = jax.vmap(lambda x: memory.log_density(x, 0.15))(x)
    assert_allclose(found, exact, atol=2e-3)
    short = am.ProbabilityFlow(max_steps=2)
    assert jnp.isnan(memory.log_likelihood(x[0], 0.15, end=4.0, method=short))


@pytest.mark.parametrize("method", [am.ReverseSDE(12), am.ProbabilityFlow(max_steps=48)])
def test_the_record_is_of_states_energies_and_times(method):
    memory = am.DiffusionMemory(THREE.reshape(3, 1, 2))  # shaped as pictures are
    end = memory.generate(jr.key(4), start=2.0, stop=0.02, method=method, save_every=3)
    kept = end.trajectory
    assert kept.x.shape[1:] == (1, 2)
    assert_allclose(kept.time[0], 2.0)
    assert (np.diff(kept.time) <= 0).all()
    assert_allclose(kept.time[-1], 0.02, rtol=1e-5)
    np.testing.assert_array_equal(kept.x[-1], end.x)
    energies = jax.vmap(memory.energy)(kept.x, kept.time)
    assert_allclose(kept.energy, energies, rtol=1e-5, atol=1e-6)
    if method.draws:
        assert kept.x.shape[0] == 6
        assert_allclose(kept.time[:5], 2.0 * 100 ** -(np.arange(5) / 4), rtol=1e-4)
        assert int(end.steps) == 12


def test_steps_too_few_and_numbers_too_large_say_so():
    memory = am.DiffusionMemory(PAIR)
    short = am.ProbabilityFlow(max_steps=1)
    end = memory.generate(jr.key(0), start=50.0, stop=1e-5, method=short)
    assert end.result == am.RESULTS.step_limit
    far = am.DiffusionMemory(1e30 * PAIR).generate(jr.key(0), method=short)
    assert far.result == am.RESULTS.nonfinite


def test_one_pattern_is_all_that_is_generated():
    memory = am.DiffusionMemory(THREE[:1])
    ends, _ = generated(memory, jr.split(jr.key(0), 64), start=10.0, stop=1e-6, method=SDE)
    assert_allclose(ends.x, jnp.broadcast_to(THREE[:1], (64, 2)), atol=6e-3)


def test_half_precision_is_a_storage_format():
    memory = am.DiffusionMemory(THREE.astype(jnp.bfloat16))
    end = memory.generate(jr.key(0), method=am.ReverseSDE(20))
    assert end.x.dtype == jnp.bfloat16
    assert end.energy.dtype == jnp.float32
    assert memory.score(THREE[0], 0.1).dtype == jnp.bfloat16


class Cloud(am.AbstractDiffusion):
    """What a user writes: the energy of Gaussian data of variance `v`, and the noise."""

    v: float = 2.0
    sigma: jax.Array = eqx.field(default_factory=lambda: jnp.asarray(1.0))

    @property
    def state_struct(self):
        return jax.ShapeDtypeStruct((3,), jnp.float32)

    def energy(self, x, t):
        t = jnp.asarray(t, x.dtype)
        return t / (self.v + t) * 0.5 * jnp.sum(x * x)

    def noise(self, key, t):
        return jnp.sqrt(self.v + t) * jr.normal(key, (3,))

    def noise_density(self, x, t):
        return -0.5 * (jnp.sum(x * x) / (self.v + t) + 3 * jnp.log(2 * math.pi * (self.v + t)))


def test_a_diffusion_of_ones_own_is_an_energy_and_a_noise():
    cloud = Cloud()
    ends = jax.vmap(lambda key: cloud.generate(key, start=9.0, stop=1e-4, method=SDE))(
        jr.split(jr.key(0), COUNT)
    )
    error = math.sqrt(2 / (3 * COUNT))  # of a variance, relative
    assert float(ends.x.var()) == pytest.approx(2.0, rel=4 * error + 0.02)
    x = jnp.asarray([1.0, -0.5, 2.0])
    assert_allclose(cloud.score(x, 0.5), -x / 2.5, rtol=1e-5)
    assert_allclose(cloud.log_likelihood(x, 0.5, end=9.0), cloud.noise_density(x, 0.5), rtol=1e-3)
    at = cloud.at(0.5)
    assert_allclose(at.energy(x), cloud.energy(x, 0.5))
    end = at.recall(x)
    assert end.converged
    assert_allclose(end.x, jnp.zeros(3), atol=2e-2)
    assert at.state_struct == cloud.state_struct


# -- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda m, k: users.DiffusionMemory(PAIR, 0.0), ValueError, "sigma: must be finite and gr"),
        (lambda m, k: users.DiffusionMemory(PAIR, -1), ValueError, "sigma: must be finite and gr"),
        (lambda m, k: users.DiffusionMemory(PAIR, [1.0, 2.0]), ValueError, "sigma: must be a sc"),
        (lambda m, k: users.DiffusionMemory(PAIR[0]), ValueError, "A single pattern is Xi"),
        (lambda m, k: users.DiffusionMemory(PAIR * jnp.nan), ValueError, "Xi: every value must be"),
        (lambda m, k: m.at(0.0), ValueError, "at: t: must be finite and greater than 0"),
        (lambda m, k: m.at(jnp.nan), ValueError, "at: t: must be finite and greater than 0"),
        (lambda m, k: m.score(PAIR[0], -1.0), ValueError, "score: t: must be finite and greater"),
        (lambda m, k: m.score(PAIR[0], jnp.ones(3)), ValueError, "score: t: must be a scalar"),
        (lambda m, k: m.score(PAIR, 1.0), ValueError, "A batch goes through jax.vmap"),
        (lambda m, k: m.denoise(PAIR[0] / 0, 1.0), ValueError, "every value must be finite"),
        (lambda m, k: m.log_density(jnp.zeros(3), 1.0), ValueError, "must have shape .2,."),
        (lambda m, k: m.generate(), ValueError, "generate: needs a key, to draw the noise"),
        (lambda m, k: m.generate(x=PAIR[0]), ValueError, "needs a key, to draw at random"),
        (lambda m, k: m.generate(5), TypeError, "generate: key: must be one random key"),
        (lambda m, k: m.generate(k, start=0.1, stop=0.2), ValueError, "start must be later than"),
        (lambda m, k: m.generate(k, stop=0.0), ValueError, "stop: must be finite and greater"),
        (lambda m, k: m.generate(k, x=PAIR), ValueError, "A batch goes through jax.vmap"),
        (lambda m, k: m.generate(k, save_every=0), ValueError, "save_every: must be at least 1"),
        (lambda m, k: m.generate(k, method=users.CCCP()), TypeError, "memory.at.t..recall"),
        (lambda m, k: m.log_likelihood(PAIR[0], 2.0), ValueError, "must be later than the stop"),
        (
            lambda m, k: m.log_likelihood(PAIR[0], 0.1, method=users.ReverseSDE()),
            TypeError,
            "log_likelihood: method must be a ProbabilityFlow",
        ),
        (lambda m, k: users.ReverseSDE(0), ValueError, "ReverseSDE: steps: must be at least 1"),
        (lambda m, k: users.ReverseSDE(5, "euler"), TypeError, "solver must be such as diffrax"),
        (lambda m, k: users.ProbabilityFlow(max_steps=0), ValueError, "max_steps: must be at le"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(users.DiffusionMemory(PAIR), jr.key(0))


def test_bad_values_that_are_traced_are_found_when_they_run():
    memory = am.DiffusionMemory(PAIR)
    run = jax.jit(lambda x: memory.score(x, 1.0))
    with pytest.raises(Exception, match="every value must be finite"):
        jax.block_until_ready(run(jnp.asarray([jnp.nan, 0.0])))  # a GPU runs on by itself
