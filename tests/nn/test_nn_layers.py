"""What the layers do: masks, cores, energies that fall, batches, and bad input."""

import functools
import re
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am

KEY = jr.key(0)
BAG = jr.normal(jr.key(1), (5, 6))
PADDING = jnp.array([False, False, False, True, True])


class MyMemory(am.ContinuousAM):
    """What a user writes: the energy alone."""

    unit_step: ClassVar[bool] = True

    def energy(self, x):
        return 0.5 * jnp.sum(x**2) - jnp.log(jnp.sum(jnp.exp(self.Xi @ x)))


class Weighted(am.ContinuousAM):
    """A core that can hide patterns, without values: Gaussian wells of depths."""

    bias: jax.Array | None = None

    def energy(self, x):
        s = -0.5 * jnp.sum((self.Xi - x[None]) ** 2, axis=1)
        return -jax.nn.logsumexp(s if self.bias is None else s + self.bias)


CORES = {
    "modern": am.ModernHopfield,
    "sparse": functools.partial(am.SparseHopfield, alpha=2.0),
    "gaussian": am.GaussianMemory,
    "epanechnikov": lambda Xi: am.EpanechnikovMemory(Xi, 0.05),
    "user": MyMemory,
    "weighted": Weighted,
}


def layer(**options):
    return am.nn.Hopfield(6, **({"num_heads": 3, "key": KEY} | options))


# -- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"update_steps_max": 2}, {"add_zero_association": False}])
def test_padding_is_as_if_it_were_not_there(options):
    hop = layer(**options)
    mangled = jnp.where(PADDING[:, None], 1e3, BAG)
    short = hop(BAG[:3], BAG)
    np.testing.assert_allclose(
        hop(mangled, BAG, stored_pattern_padding_mask=PADDING), short, rtol=1e-5, atol=1e-6
    )
    forbidden = jnp.broadcast_to(PADDING, (5, 5))
    np.testing.assert_allclose(
        hop(mangled, BAG, association_mask=forbidden), short, rtol=1e-5, atol=1e-6
    )


def test_what_hides_all_leaves_the_bias_of_the_output():
    for zero in (True, False):
        hop = layer(add_zero_association=zero)
        out = jax.jit(lambda m, hop=hop: hop(BAG, stored_pattern_padding_mask=m))(jnp.ones(5, bool))
        np.testing.assert_allclose(out, jnp.zeros((5, 6)), atol=1e-6)
    masked = am.nn.retrieve(BAG, BAG, association_mask=jnp.eye(5, dtype=bool).at[0].set(True))
    assert not masked[0].any()
    assert masked[1:].all()


def test_a_bag_in_another_order_is_the_same_bag():
    pool, order = am.nn.HopfieldPooling(6, key=KEY), jnp.array([3, 0, 4, 2, 1])
    np.testing.assert_allclose(pool(BAG[order]), pool(BAG), rtol=1e-4, atol=1e-5)


# -- cores and energies ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", CORES)
def test_any_continuous_memory_is_a_core(name):
    core = CORES[name]
    for steps in (0, 2, None) if name == "modern" else (1, None):
        hop = layer(core=core, update_steps_max=steps, num_heads=2)

        def loss(hop):
            out = jax.vmap(hop)(BAG[None])
            return jnp.sum(out**2), out[0]

        grad, out = eqx.filter_jit(eqx.filter_grad(loss, has_aux=True))(hop)
        assert out.shape == (5, 6)
        assert all(jnp.isfinite(a).all() for a in jax.tree.leaves((grad, out)))
        assert jnp.any(grad.project_stored_pattern.weight != 0)
        # States learn from updates, and not from rest, which does not depend on their start.
        assert jnp.any(grad.project_state_pattern.weight != 0) == (steps is not None)
    plain = am.nn.retrieve(BAG, BAG[0] + 0.1, update_steps_max=None, core=core)
    end = core(BAG).recall(BAG[0] + 0.1).x
    np.testing.assert_allclose(plain, end, rtol=1e-2, atol=2e-3)


@pytest.mark.parametrize("name", ["sparse", "gaussian", "user"])
def test_without_values_a_head_gives_the_state_that_the_unit_steps_end_in(name):
    core = CORES[name]
    x = BAG[0] + 0.1
    wanted = core(BAG).retrieve(core(BAG).retrieve(x))
    found = am.nn.retrieve(BAG, x, core=core, update_steps_max=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_core_with_a_bias_takes_masks():
    x = BAG[:2] + 0.1
    found = am.nn.retrieve(BAG, x, core=Weighted, stored_pattern_padding_mask=PADDING)
    np.testing.assert_allclose(
        found, am.nn.retrieve(BAG[:3], x, core=Weighted), rtol=1e-5, atol=1e-6
    )


def test_updates_lower_the_energy_of_every_head():
    hop = layer(beta=jnp.array([0.5, 2.0, 8.0]))
    queries = hop.queries(BAG)
    for memory, x in zip(hop.memories(BAG), queries, strict=True):
        assert isinstance(memory, am.ModernHopfield)
        assert memory.Xi.shape == (6, 6)  # with the zero association
        energies = [jax.vmap(memory.energy)(x)]
        for _ in range(3):
            x = jax.vmap(memory.retrieve)(x)
            energies.append(jax.vmap(memory.energy)(x))
        assert (np.diff(np.stack(energies), axis=0) <= 1e-5).all()
        assert energies[0].sum() > energies[-1].sum() + 0.1


def test_heads_begin_with_questions_of_their_own_whoever_asks():
    queries = am.nn.Hopfield(6, key=KEY).queries(BAG)
    assert jnp.std(queries, axis=1).mean() < 0.1  # over states
    assert jnp.std(queries, axis=0).mean() > 0.7  # over heads
    looked = am.nn.HopfieldLayer(6, 4, key=KEY).hopfield.queries(BAG)
    assert jnp.std(looked, axis=1).mean() > 0.5  # patterns learn from states that differ


def test_heads_can_have_any_width_and_number():
    hop = layer(num_heads=5, hidden_size=7)  # 5 does not divide 6 or 7
    assert hop(BAG).shape == (5, 6)
    assert hop.queries(BAG).shape == (5, 5, 7)
    assert am.nn.Hopfield(500, num_heads=1, key=KEY).project_stored_pattern.out_features == 32


# -- plain retrieval ------------------------------------------------------------------------------


def test_plain_retrieval_is_one_call():
    x = BAG[1] + 0.05
    memory = am.ModernHopfield(BAG, 8.0)
    same = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6)
    same(am.nn.retrieve(BAG, x, beta=8.0), memory.retrieve(x))
    same(am.nn.retrieve(BAG, x, beta=8.0, update_steps_max=None), memory.recall(x).x)
    values = jr.normal(jr.key(3), (5, 2))
    same(am.nn.retrieve(BAG, BAG, values, beta=8.0), am.attention(BAG, BAG, values, 8.0))
    steps = am.nn.retrieve(BAG, x, values, beta=8.0, update_steps_max=2)
    with_values = am.ModernHopfield(BAG, 8.0, values)
    same(steps, with_values.readout(memory.retrieve(memory.retrieve(x))))


def test_at_rest_the_derivative_is_that_of_the_rest(x64):
    stored = jr.normal(jr.key(1), (5, 6))

    def end(stored, steps):
        return jnp.sum(am.nn.retrieve(stored, stored[0], beta=2.0, update_steps_max=steps) ** 2)

    grads = [jax.jit(jax.grad(functools.partial(end, steps=n)))(stored) for n in (None, 200)]
    np.testing.assert_allclose(*grads, rtol=1e-5, atol=1e-7)


# -- batches, programs, files ---------------------------------------------------------------------


def test_batches_go_through_vmap_and_programs_give_the_same(tmp_path):
    bags = jr.normal(jr.key(2), (3, 5, 6))
    masks = jnp.array([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1], [0, 1, 1, 1, 1]], bool)
    for hop in (am.nn.HopfieldPooling(6, key=KEY), layer(update_steps_max=1)):
        call = lambda bag, mask, hop=hop: hop(bag, stored_pattern_padding_mask=mask)
        out = eqx.filter_jit(jax.vmap(call))(bags, masks)
        for k in range(3):
            np.testing.assert_allclose(call(bags[k], masks[k]), out[k], rtol=1e-4, atol=1e-5)
    am.save(tmp_path / "layer.am", hop)
    again = am.load(tmp_path / "layer.am", layer(update_steps_max=1, key=jr.key(5)))
    np.testing.assert_array_equal(again(BAG), hop(BAG))


def test_it_trains_and_beta_stays():
    import optax

    bags, sums = jr.normal(jr.key(2), (16, 5, 6)), jr.normal(jr.key(3), (16, 6))
    pool = am.nn.HopfieldPooling(6, key=KEY)
    fitted = am.fit(
        pool, (bags, sums), am.learning.Regression(), optax.adamw(1e-2), 20, 16, KEY, progress=False
    )
    assert fitted.history["loss"][-1] < 0.8 * fitted.history["loss"][0]
    np.testing.assert_array_equal(fitted.model.hopfield.beta, pool.hopfield.beta)
    assert jnp.any(fitted.model.pooling_weights != pool.pooling_weights)


# -- bad input ------------------------------------------------------------------------------------

hop, look = layer(), am.nn.HopfieldLayer(6, 4, num_heads=2, key=KEY)
own = layer(core=MyMemory)
NO_KEY: Any = 0
DROPOUT: Any = {"dropout": 0.5}

WRONG = {
    "width": (lambda: hop(BAG[:, :4]), ValueError, r"stored: must have shape (N, 6)"),
    "state": (lambda: hop(BAG, BAG[:, :4]), ValueError, r"state: must have shape (N, 6)"),
    "vector": (lambda: hop(BAG[0]), ValueError, r"one pattern in each row; (6,) came"),
    "batch": (lambda: hop(BAG[None]), ValueError, "A batch goes through jax.vmap(layer)"),
    "rows": (lambda: hop(BAG, BAG, BAG[:3]), ValueError, "one row for each of the 5 stored"),
    "nan": (lambda: hop(BAG.at[0, 0].set(jnp.nan)), ValueError, "stored: every value must be"),
    "nan in a batch": (
        lambda: jax.vmap(hop)(BAG.at[0, 0].set(jnp.nan)[None]), ValueError, "must be finite"
    ),
    "complex": (lambda: hop(BAG.astype(complex)), TypeError, "must hold real numbers"),
    "mask shape": (
        lambda: hop(BAG, stored_pattern_padding_mask=PADDING[:3]), ValueError, "shape (5,); (3,)"
    ),
    "mask of pairs": (
        lambda: hop(BAG, BAG[:2], association_mask=jnp.zeros((5, 2), bool)),
        ValueError, "association_mask: must have shape (2, 5); (5, 2) came. True hides",
    ),
    "mask kind": (
        lambda: hop(BAG, stored_pattern_padding_mask=PADDING.astype(int)), TypeError, "boolean"
    ),
    "all hidden": (
        lambda: hop(BAG, stored_pattern_padding_mask=jnp.ones(5, bool)),
        ValueError, "must leave a pattern visible; all are hidden",
    ),
    "one of a batch hidden": (
        lambda: jax.vmap(lambda m: hop(BAG, stored_pattern_padding_mask=m))(
            jnp.array([[0] * 5, [1] * 5], bool)
        ),
        ValueError, "perhaps ~mask is meant",
    ),
    "mask for a core": (
        lambda: own(BAG, stored_pattern_padding_mask=PADDING), ValueError, "MyMemory does not"
    ),
    "projection for a core": (lambda: own(BAG, BAG, BAG), ValueError, "takes values="),
    "matrix of a core": (lambda: own.association_matrix(BAG), ValueError, "takes values="),
    "beta of a core": (lambda: layer(core=MyMemory, beta=1.0), ValueError, "takes none; 1.0 came"),
    "pattern size": (
        lambda: layer(core=MyMemory, pattern_size=3), ValueError, "for a core without values="
    ),
    "targets of a core": (
        lambda: am.nn.HopfieldLayer(
            6, 3, core=MyMemory, lookup_weights_as_separated=True, key=KEY
        ),
        ValueError, "HopfieldLayer: projection: needs a core",
    ),
    "an instance": (
        lambda: layer(core=am.ModernHopfield(BAG)), TypeError, "Pass the class"
    ),
    "no memory": (lambda: layer(core=lambda Xi: Xi)(BAG), TypeError, "it made a "),
    "beta": (lambda: layer(beta=0.0), ValueError, "beta: must be finite and greater than 0"),
    "betas": (lambda: layer(beta=jnp.ones(2)), ValueError, "for each of the 3 heads; shape (2,)"),
    "heads": (lambda: layer(num_heads=0), ValueError, "num_heads: must be at least 1"),
    "steps": (lambda: layer(update_steps_max=-1), ValueError, "update_steps_max: must be at least"),
    "key": (lambda: am.nn.Hopfield(6, key=NO_KEY), TypeError, "must be one random key"),
    "quantity": (
        lambda: am.nn.HopfieldPooling(6, quantity=0, key=KEY), ValueError, "quantity: must be at"
    ),
    "option": (
        lambda: am.nn.HopfieldPooling(6, key=KEY, **DROPOUT), TypeError, "dropout"
    ),
    "plain beta": (lambda: am.nn.retrieve(BAG, BAG, beta=-1.0), ValueError, "retrieve: beta: must"),
    "plain batch": (lambda: am.nn.retrieve(BAG, BAG[None]), ValueError, "goes through jax.vmap"),
    "plain projection": (
        lambda: am.nn.retrieve(BAG, BAG, BAG, core=MyMemory), ValueError, "takes values="
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name, unchecked):
    call, kind, message = WRONG[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_a_lookup_has_no_batch_either():
    with pytest.raises(ValueError, match=r"goes through jax.vmap\(layer\)"):
        look(BAG[None])
