"""Every sampler keeps its law: chains of small memories against all their states."""

import inspect

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from scipy import stats

import amlib as am
from tests.sampling.registry import BITS, REALS, SMALL

CHAINS, SIGNIFICANCE = 2000, 1e-4


def last(sampler, small, key, steps=25):
    """The last states of many chains that started anywhere, with an axis of temperatures."""
    allowed = np.flatnonzero(small.law(1.0))
    x0 = jnp.asarray(small.states[np.resize(allowed, CHAINS)])
    end = am.sampling.sample(
        small.memory, sampler, x0, key, steps=1, warmup=steps, keep_states=True, progress=False
    )
    states = end.states[:, 0]
    return states if states.ndim == 3 else states[:, None]


def p_value(counts, law):
    """Of the chi-square test; states that are hardly to be expected are taken together."""
    expected = law * counts.sum()
    rare = expected < 5
    seen = np.append(counts[~rare], counts[rare].sum())
    should = np.append(expected[~rare], expected[rare].sum())
    some = should > 0
    assert seen[~some].sum() == 0, "a state of probability zero came"
    return stats.chisquare(seen[some], should[some]).pvalue


def test_every_sampler_is_registered():
    registered = {type(make(1.0)) for make in (*BITS.values(), *REALS.values())}
    public = {v for v in vars(am.sampling).values() if inspect.isclass(v)}
    samplers = {c for c in public if issubclass(c, am.sampling.AbstractChainSampler)}
    methods = {v for v in vars(am).values() if inspect.isclass(v) and getattr(v, "draws", False)}
    ready = {c for c in samplers | methods if not inspect.isabstract(c)}
    # What the methods become; and what draws of the law of another time.
    assert ready - registered == {am.sampling.Recalls, am.ReverseSDE}


# Methods of recall keep their laws on all kinds of energies in `tests/descent/test_samplers.py`.
CASES = [
    (kind, name)
    for kind in SMALL
    for name in BITS
    if hasattr(am.sampling, name) or kind == ("walls" if name == "Metropolis" else "local")
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_bits_come_as_often_as_the_boltzmann_law_says(kind, name):
    small = SMALL[kind]
    for k, beta in enumerate((0.3, 1.0)):
        sampler = BITS[name](beta)
        betas = getattr(sampler, "betas", None)
        betas = [beta] if name != "Tempering" or betas is None else np.asarray(betas)
        # A step of DMALA is one proposal, and leaves a valley the later.
        states = last(sampler, small, jr.key(17 + k), 400 if name == "DMALA" else 25)
        energies = np.asarray(jax.vmap(small.memory.energy)(jnp.asarray(small.states)))
        for r, at in enumerate(betas):
            counts, law = small.counts(states[:, r]), small.law(float(at))
            assert p_value(counts, law) > SIGNIFICANCE
            possible = law > 0
            e, p = energies[possible], law[possible]
            mean, sd = p @ e, np.sqrt(p @ e**2 - (p @ e) ** 2)
            measured = counts[possible] @ e / counts.sum()
            assert abs(measured - mean) < 4.5 * sd / np.sqrt(CHAINS)


def test_the_chi_square_test_tells_a_wrong_temperature():
    """The test of the laws can fail: draws at another beta do not pass."""
    small = SMALL["local"]
    counts = small.counts(last(am.Glauber(0.3), small, jr.key(0)))
    assert p_value(counts, small.law(0.4)) < SIGNIFICANCE


@pytest.mark.parametrize("name", REALS)
def test_real_states_have_the_moments_of_a_gaussian(name):
    """One stored pattern: the energy is a quadratic around it."""
    centre, beta = jnp.asarray([[1.0, -2.0, 0.5]]), 2.0
    memory = am.ModernHopfield(centre, beta=1.0)
    end = am.sampling.sample(
        memory,
        REALS[name](beta),
        jnp.zeros((400, 3)),
        jr.key(1),
        steps=3,
        warmup=400 if "Langevin" in name else 150,
        thin=40,
        keep_states=True,
        progress=False,
    )
    states = end.states[:, :, -1] if end.betas is not None else end.states
    x, n = states.reshape(-1, 3), states.shape[0] * states.shape[1]
    bias = 0.02 / 4 if "Langevin" in name else 0.0  # of the step, on the variance 1 / beta
    np.testing.assert_allclose(x.mean(0), centre[0], atol=4.5 * np.sqrt(0.5 / n))
    np.testing.assert_allclose(x.var(0), 0.5, atol=4.5 * 0.5 * np.sqrt(2 / n) + bias)
    e = end.energy[..., -1] if end.betas is not None else end.energy
    least = float(memory.energy(centre[0]))
    np.testing.assert_allclose(e.mean() - least, 0.75, atol=4.5 * np.sqrt(1.5) / 2 / np.sqrt(n))
    assert (end.result == am.RESULTS.sampled).all()
