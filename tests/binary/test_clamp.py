"""What is known stays: recall with a mask of bits that never move."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from tests import engine as flips, users
from tests.zoo import BINARY, spins

D, K = 12, 3
Xi = jnp.asarray(spins(0, K, D), jnp.float32)
MASK = np.arange(D) % 3 == 0
ORDERS = ("permutation", "sequential", "random", "greedy", "synchronous")


class Free(am.AbstractBinaryAM):
    """A memory over the free bits alone: the others are constants of its energy."""

    whole: am.AbstractBinaryAM
    x: jax.Array
    bits: np.ndarray

    def energy(self, x):
        return self.whole.energy(self.x.reshape(-1).at[self.bits].set(x).reshape(self.x.shape))


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize("order", ORDERS)
def test_the_free_bits_move_as_in_a_memory_of_their_own(name, order):
    case = BINARY[name]
    model, shape = case(), case.shape
    x0 = jnp.asarray(spins(5, *shape), jnp.float32)
    mask = (np.arange(x0.size) % 3 == 1).reshape(shape)
    bits = np.flatnonzero(~mask)
    end = model.recall(x0, order=order, key=jr.key(3), clamp=mask)
    own = Free(model, x0, bits).recall(x0.reshape(-1)[bits], order=order, key=jr.key(3))
    np.testing.assert_array_equal(end.x.reshape(-1)[bits], own.x)
    np.testing.assert_array_equal(end.x[mask], x0[mask])
    assert end.result == own.result
    assert end.steps == own.steps
    np.testing.assert_array_equal(end.trajectory.accepted, own.trajectory.accepted)
    np.testing.assert_array_equal(end.trajectory.visited, bits[np.asarray(own.trajectory.visited)])
    np.testing.assert_allclose(end.trajectory.energy, own.trajectory.energy, rtol=1e-5, atol=1e-5)


def test_converged_means_that_no_free_flip_lowers_the_energy():
    model = am.ClassicalHopfield(Xi)
    moved = 0
    for seed in range(20):
        x0 = jnp.asarray(spins(seed, D), jnp.float32)
        end = model.recall(x0, clamp=MASK, key=jr.key(seed))
        after = np.asarray(model.flip_energies(end.x))
        assert end.converged
        assert (after[~MASK] >= float(end.energy)).all()
        assert model.is_fixed_point(end.x, clamp=MASK)
        moved += bool((after < float(end.energy)).any())
    assert moved  # else nothing was held that wanted to move


def test_a_picture_of_which_half_is_known_takes_half_the_visits():
    model = am.ExponentialDenseAM(jnp.asarray(spins(1, 300, 40), jnp.float32))
    known = np.arange(40) < 20
    damaged = jnp.where(known, model.Xi[7], jnp.asarray(spins(2, 40), jnp.float32))
    end = model.recall(damaged, clamp=known, record=1)
    np.testing.assert_array_equal(end.x, model.Xi[7])
    assert end.trajectory.visited.shape == (20,)
    assert set(np.asarray(end.trajectory.visited).tolist()) == set(range(20, 40))


@pytest.mark.parametrize("order", ["permutation", "sequential", "random"])
def test_glauber_dynamics_keeps_the_law_of_the_free_bits(order):
    """Exact moments by enumeration, and the held bits where they were."""
    n = 4
    J = jnp.asarray([[0, 1, -1, 2], [1, 0, 1, 0], [-1, 1, 0, 1], [2, 0, 1, 0]], jnp.float32)
    model, mask = am.BipolarIsing(J, jnp.asarray([0.5, -0.2, 0.1, 0.0])), np.array([1, 0, 0, 0]) > 0
    x0 = jnp.ones(n).at[0].set(-1.0)
    keys = jr.split(jr.key(0), 4000)
    draw = lambda k: model.recall(x0, beta=0.6, key=k, order=order, max_sweeps=30, clamp=mask)
    ends = np.asarray(jax.vmap(draw)(keys).x)
    assert (ends[:, 0] == -1).all()
    states = np.array([[-1, a, b, c] for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)], float)
    weights = np.exp(
        -0.6 * np.array([float(model.energy(jnp.asarray(s, jnp.float32))) for s in states])
    )
    weights /= weights.sum()
    expected, sd = weights @ states, np.sqrt(1 / len(keys))
    np.testing.assert_allclose(ends.mean(0), expected, atol=5 * sd)


def test_masks_may_be_traced():
    """How many bits are held is then unknown: they are visited, and refused."""
    model = am.ClassicalHopfield(Xi)
    x0 = jnp.asarray(spins(4, D), jnp.float32)
    masks = jnp.stack(
        [jnp.asarray(MASK), jnp.asarray(~MASK), jnp.ones(D, bool), jnp.zeros(D, bool)]
    )
    recall = lambda mask: model.recall(x0, order="sequential", clamp=mask)
    ends = jax.vmap(recall)(masks)
    for k, mask in enumerate(masks):
        one = model.recall(x0, order="sequential", clamp=np.asarray(mask))
        np.testing.assert_array_equal(ends[k].x, one.x)
        assert ends[k].result == one.result
        assert model.is_fixed_point(ends[k].x, clamp=mask)
    for order in ORDERS:
        end = jax.jit(lambda m, o=order: model.recall(x0, order=o, clamp=m, key=jr.key(1)).x)(
            masks[0]
        )
        np.testing.assert_array_equal(end[MASK], x0[MASK])
    drawn = jax.jit(lambda m: model.recall(x0, beta=0.01, key=jr.key(1), clamp=m).x)(masks[1])
    np.testing.assert_array_equal(drawn[~MASK], x0[~MASK])


def test_a_state_of_which_all_is_known_is_fixed():
    model, x0 = am.ClassicalHopfield(Xi), jnp.asarray(spins(4, D), jnp.float32)
    for order in ORDERS:
        end = model.recall(x0, order=order, clamp=np.ones(D, bool))
        assert end.converged
        np.testing.assert_array_equal(end.x, x0)
    end = model.recall(x0, beta=0.1, key=jr.key(0), clamp=np.ones(D, bool))
    np.testing.assert_array_equal(end.x, x0)


def test_without_a_mask_nothing_changes():
    model, x0 = am.ClassicalHopfield(Xi), jnp.asarray(spins(4, D), jnp.float32)
    for order in ORDERS:
        a, b = (model.recall(x0, order=order, clamp=c) for c in (None, np.zeros(D, bool)))
        for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_array_equal(u, v)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (np.zeros(D + 1, bool), ValueError, r"recall: clamp: must have the shape \(12,\)"),
        (np.zeros((1, D), bool), ValueError, r"clamp: must have the shape \(12,\).*\(1, 12\) came"),
        (np.zeros(D), TypeError, r"clamp: must be a boolean mask.*float64 came"),
        ([0, 3], TypeError, r"clamp: must be a boolean mask.*int64 came"),
        ("all", TypeError, r"clamp: must be a boolean mask"),
        (True, ValueError, r"clamp: must have the shape \(12,\)"),
    ],
)
def test_masks_that_are_none(mask, error, message):
    model = users.am.ClassicalHopfield(Xi)
    with pytest.raises(error, match=message):
        model.recall(Xi[0], clamp=mask)
    with pytest.raises(error, match=message.replace("recall: ", "")):
        model.is_fixed_point(Xi[0], clamp=mask)


def test_the_engine_takes_free_bits_in_any_order():
    energy = lambda x: -jnp.sum((Xi @ x) ** 2)
    x0 = jnp.asarray(spins(9, D), jnp.float32)
    free = flips.Free(jnp.asarray([7, 2, 5]))
    end = flips.sweep(energy, x0, jr.key(0), order="sequential", free=free)
    np.testing.assert_array_equal(end.trajectory.visited[:3], [7, 2, 5])
    assert flips.is_fixed_point(energy, end.x, free=free)
