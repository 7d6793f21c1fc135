"""The Hopfield network of sets: its formula, its cost, recall, errors."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import amlib as am
from tests.zoo import spins

D = 12
XI = spins(0, 3, D)
PAIRS = np.asarray(list(itertools.combinations(range(D), 2)))
TRIPLES = np.asarray(list(itertools.combinations(range(D), 3)))[::5]


def test_the_energy_is_its_formula():
    """Over loops in plain NumPy; of all pairs it is the classical one but for a constant."""
    memory, x = am.SimplicialHopfield(jnp.asarray(XI, jnp.float32), [PAIRS, TRIPLES]), spins(1, D)
    expected = 0.0
    for s in (*PAIRS.tolist(), *TRIPLES.tolist()):
        expected -= sum(np.prod(xi[s]) for xi in XI) * np.prod(x[s])
    np.testing.assert_allclose(memory.energy(jnp.asarray(x, jnp.float32)), expected, rtol=1e-6)
    pairs = am.SimplicialHopfield(jnp.asarray(XI, jnp.float32), [PAIRS])
    classical = am.ClassicalHopfield(jnp.asarray(XI, jnp.float32))
    gaps = [
        float(pairs.energy(s) - classical.energy(s))
        for s in jnp.asarray(spins(2, 4, D), jnp.float32)
    ]
    np.testing.assert_allclose(gaps, len(XI) * D / 2, rtol=1e-6)


def test_a_flip_costs_its_sets_and_triples_tell_a_pattern_from_its_inverse(capsys):
    memory = am.SimplicialHopfield(jnp.asarray(XI[:1], jnp.float32), [PAIRS, TRIPLES])
    memory.explain()
    assert "local: a flip costs the terms that it touches" in capsys.readouterr().out
    start = XI[0] * np.where(np.arange(D) < 2, -1, 1)
    np.testing.assert_array_equal(memory.recall(start).x, XI[0])
    assert memory.energy(-memory.Xi[0]) > memory.energy(memory.Xi[0])


WRONG = {
    "none": ([], ValueError, r"simplices: must hold sets"),
    "flat": ([np.arange(3)], ValueError, r"simplices\[0\]: must have shape \(S, m\)"),
    "floats": ([PAIRS * 1.0], TypeError, r"simplices\[0\]: must hold integers"),
    "out of range": (
        [PAIRS, TRIPLES + 1],
        ValueError,
        r"simplices\[1\]: units must lie",
    ),
    "twice": ([np.array([[1, 2, 1]])], ValueError, r"simplices\[0\]: units of a set must differ"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_sets_are_refused(what):
    sets, kind, says = WRONG[what]
    with pytest.raises(kind, match=says):
        am.SimplicialHopfield(jnp.asarray(XI, jnp.float32), sets)
