"""Samplers of units of several values against the law over all states."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from tests.laws import SURE, p_value
from tests.potts.zoo import POTTS, N, all_states, codes

Q, CHAINS = 3, 1200
X = all_states(Q)


@functools.cache
def energies(name):
    return np.asarray(jax.vmap(POTTS[name](Q).energy)(X), np.float64)


def law(name, beta, allowed=True):
    E = energies(name)
    weights = np.where(np.isfinite(E) & allowed, np.exp(-beta * (E - E.min())), 0)
    return weights / weights.sum()


def drawn(name, sampler, key, clamp=None, start=None):
    """The last states of many chains that began anywhere; a step of DMALA is one proposal."""
    warmup = 150 if isinstance(sampler, am.DMALA) else 20
    starts = np.flatnonzero(np.isfinite(energies(name))) if start is None else start
    end = am.sampling.sample(
        POTTS[name](Q), sampler, X[np.resize(starts, CHAINS)], key, steps=1, warmup=warmup,
        clamp=clamp, keep_states=True, progress=False,
    )  # fmt: skip
    states = np.asarray(end.states)[:, 0]
    return states if states.ndim == 2 else states[:, -1]


def counted(states):
    return np.bincount(codes(states, Q), minlength=Q**N)


@pytest.mark.parametrize(
    ("name", "beta", "make"),
    [
        ("user-ring", 0.8, lambda b: am.Glauber(b, "colours")),
        ("exponential", 0.4, lambda b: am.Metropolis(b, "random")),
        ("user-walls", 1.0, lambda b: am.Glauber(b)),
        ("hopfield", 0.03, lambda b: am.sampling.Tempering([b / 2, b])),
        (
            "hopfield",
            0.05,
            lambda b: am.sampling.Annealed(np.linspace(0, b, 5), am.Metropolis(1.0)),
        ),
        ("user-ring", 0.8, am.GibbsWithGradients),
        ("user-walls", 1.0, am.GibbsWithGradients),
        ("exponential", 0.4, lambda b: am.DMALA(b, 0.6)),
        ("hopfield", 0.03, lambda b: am.DMALA(b, 2.0)),
    ],
    ids=[
        "heat bath",
        "metropolis",
        "walls",
        "tempering",
        "annealed",
        "gibbs",
        "gibbs and walls",
        "dmala",
        "large steps",
    ],
)
def test_states_come_as_often_as_the_boltzmann_law_says(name, beta, make):
    counts = counted(drawn(name, make(beta), jr.key(1)))
    assert p_value(counts, law(name, beta)) > SURE
    assert p_value(counts, law(name, 2 * beta)) < SURE  # the test can fail


def test_what_is_held_is_conditioned_on():
    """Half of the units known: the others follow the law given these."""
    held = np.array([True, False, False, True])
    known = (X[:, 0] == 2) & (X[:, 3] == 1)
    for method in (am.Glauber(0.8), am.GibbsWithGradients(0.8), am.DMALA(0.8, 0.5)):
        states = drawn("user-ring", method, jr.key(2), held, np.flatnonzero(known))
        assert p_value(counted(states), law("user-ring", 0.8, known)) > SURE


def test_observables_know_what_values_are():
    """Overlaps are those of Potts patterns; a mean of names is refused."""
    model = POTTS["hopfield"](Q)
    draw = functools.partial(
        am.sampling.sample, model, am.Glauber(5.0), X[:2], jr.key(0), steps=2, keep_states=True,
        progress=False,
    )  # fmt: skip
    end = draw(observables=("overlaps",))
    expected = jax.vmap(jax.vmap(model.overlaps))(jnp.asarray(end.states))
    np.testing.assert_allclose(end["overlaps"], expected, rtol=1e-6)
    with pytest.raises(TypeError, match="'magnetisation' is the mean of units; those of 3 values"):
        draw(observables=("magnetisation",))
