"""Bidirectional memories: Kosko's updates, a hierarchy of two layers, recall both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import amlib as am
from tests.zoo import spins

N, M, K = 14, 9, 3
XI, ETA = (jnp.asarray(spins(k, K, n), jnp.float32) for k, n in ((0, N), (1, M)))
W = np.asarray(XI.T @ ETA)


def kosko(x, y, steps=20):
    """His updates in plain NumPy; a unit that nothing pulls stays. The first part goes first."""
    move = lambda pull, s: np.where(pull == 0, s, np.sign(pull))
    for _ in range(steps):
        x = move(W @ y, x)
        y = move(W.T @ x, y)
    return x, y


def test_sequential_sweeps_are_koskos_updates():
    """From random states of both parts, and from one part alone; the energy is -x W y."""
    memory = am.BidirectionalMemory(XI, ETA)
    starts = spins(2, 40, N + M).astype(np.float32)
    ends = jax.vmap(lambda s: memory.recall(s, method=am.Sweeps("sequential")))(starts)
    assert np.asarray(ends.converged).all()
    for s, end, energy in zip(starts, np.asarray(ends.x), ends.energy, strict=True):
        x, y = kosko(s[:N], s[N:])
        np.testing.assert_array_equal(end, np.concatenate([x, y]))
        np.testing.assert_allclose(energy, -x @ W @ y, rtol=1e-6)
    assert len({tuple(end) for end in np.asarray(ends.x).tolist()}) > 2


def test_a_hierarchy_of_two_layers_is_the_same_thing():
    """Its synapse has the energy of the memory; steep layers rest where the memory rests, and flow
    there from the same starts wherever the memory's own way does not depend on its order."""
    ham = am.HAM(
        {"x": am.TanhLayer((N,), beta=20.0), "y": am.TanhLayer((M,), beta=20.0)},
        {"pairs": am.DenseSynapse(jnp.asarray(W, jnp.float32))},
        [am.Connection(("x", "y"), "pairs")],
    )
    memory = am.BidirectionalMemory(XI, ETA)
    starts = spins(3, 30, N + M).astype(np.float32)
    ends = jax.vmap(lambda s: memory.recall(s, method=am.Sweeps("sequential")))(starts)
    for end, energy in zip(np.asarray(ends.x), np.asarray(ends.energy), strict=True):
        acts = {"x": jnp.asarray(end[:N]), "y": jnp.asarray(end[N:])}
        np.testing.assert_allclose(ham.connection_energies(acts)[0], energy, rtol=1e-6)
        pull = W @ end[N:], W.T @ end[:N]  # a layer's state rests at what it receives
        rest = ham.recall({"x": jnp.asarray(pull[0]), "y": jnp.asarray(pull[1])}, max_steps=200)
        sign = np.concatenate([np.sign(rest.x["x"]), np.sign(rest.x["y"])])
        pulled = np.concatenate(pull) != 0
        np.testing.assert_array_equal(sign[pulled], end[pulled])


MODELS = {
    "Kosko": lambda Xi, Eta: am.BidirectionalMemory(Xi, Eta),
    "polynomial": lambda Xi, Eta: am.PolynomialBidirectional(Xi, Eta, 4),
    "exponential": lambda Xi, Eta: am.ExponentialBidirectional(Xi, Eta, 0.5),
}


@pytest.mark.parametrize("name", MODELS)
def test_each_part_is_recalled_from_the_other(name):
    """Pictures and their names, both ways, from a damaged part that may still be mended, too."""
    pictures, names = (
        jnp.asarray(spins(k, 2, *s), jnp.float32) for k, s in ((4, (6, 5)), (5, (16,)))
    )
    memory = MODELS[name](pictures, names)
    for k in range(2):
        s, clamp = memory.known(x=pictures[k])
        x, y = memory.parts(memory.recall(s, clamp=clamp).x)
        np.testing.assert_array_equal(y, names[k])
        assert x.shape == (6, 5)
        s, clamp = memory.known(y=names[k])
        x, y = memory.parts(memory.recall(s, clamp=clamp).x)
        np.testing.assert_array_equal(x, pictures[k])
        s, _ = memory.known(x=pictures[k].at[0, :3].multiply(-1), y=names[k].at[:2].multiply(-1))
        x, y = memory.parts(memory.recall(s).x)
        np.testing.assert_array_equal(x, pictures[k])
        np.testing.assert_array_equal(y, names[k])


def test_the_dense_ones_are_dense_memories_of_both_parts_in_one():
    both, s = jnp.concatenate([XI, ETA], 1), jnp.asarray(spins(6, N + M), jnp.float32)
    a = am.PolynomialBidirectional(XI, ETA, 3, rectified=False).energy(s)
    np.testing.assert_allclose(a, am.PolynomialDenseAM(both, 3, False).energy(s), rtol=1e-6)
    a = am.ExponentialBidirectional(XI, ETA, 0.3).energy(s)
    np.testing.assert_allclose(a, am.ExponentialDenseAM(both, 0.3).energy(s), rtol=1e-6)
    small = am.BidirectionalMemory(XI.astype(jnp.int8), ETA.astype(jnp.int8))
    np.testing.assert_allclose(
        small.energy(s), am.BidirectionalMemory(XI, ETA).energy(s), rtol=1e-6
    )


PAIRS = am.BidirectionalMemory(XI, ETA)
WRONG = {
    "numbers": (lambda: am.BidirectionalMemory(XI, ETA[:2]), ValueError, r"Eta: must hold one"),
    "flat": (lambda: am.BidirectionalMemory(XI, ETA[0]), ValueError, r"Eta: must have shape"),
    "NaN": (lambda: am.BidirectionalMemory(XI, ETA * jnp.nan), ValueError, r"Eta: every value"),
    "dtypes": (
        lambda: am.BidirectionalMemory(XI, ETA.astype(jnp.float16)),
        TypeError,
        r"Eta: must have the dtype of Xi",
    ),
    "nothing known": (lambda: PAIRS.known(), ValueError, r"neither came"),
    "a wrong part": (lambda: PAIRS.known(x=ETA[0]), ValueError, r"known: x: .*\(14,\)"),
    "zeros": (lambda: PAIRS.known(y=0 * ETA[0]), ValueError, r"only -1 and \+1"),
    "half a state": (lambda: PAIRS.parts(XI[0]), ValueError, r"parts: .*\(23,\); \(14,\)"),
    "one part": (lambda: PAIRS.recall(XI[0]), ValueError, r"shape \(23,\); \(14,\)"),
    "beta": (lambda: am.ExponentialBidirectional(XI, ETA, 0.0), ValueError, r"beta"),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_pairs_are_refused(what):
    make, kind, says = WRONG[what]
    with pytest.raises(kind, match=says):
        make()
