"""The layers against the published forward pass in NumPy, and its derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from tests.nn.reference import as_numpy, association

K, S = 5, 3
PADDING = np.array([False, False, True, False, True])
FORBIDDEN = np.array([[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
BETAS = np.array([0.3, 2.0, 5.0])

CASES = {
    "defaults": ({}, {}),
    "attention": ({"add_zero_association": False, "normalize": False, "num_heads": 1}, {}),
    "updates": ({"update_steps_max": 3, "beta": BETAS, "num_heads": 3}, {"padding": PADDING}),
    "sizes": (
        {
            "hidden_size": 5, "output_size": 2, "pattern_size": 3, "num_heads": 2,
            "stored_pattern_size": 4, "pattern_projection_size": 7, "update_steps_max": 1,
        },
        {"forbidden": FORBIDDEN},
    ),
    "masks": ({"add_zero_association": False}, {"padding": PADDING, "forbidden": FORBIDDEN}),
    "rest": ({"update_steps_max": None, "num_heads": 2, "beta": 0.4}, {"padding": PADDING}),
    "published": ({"std": 0.02, "num_heads": 1, "add_zero_association": False}, {}),
}  # fmt: skip


def example(layer, key=1):
    """Stored patterns, states and projections of the layer's widths."""
    source = layer.project_pattern.in_features
    widths = (K, layer.project_stored_pattern.in_features), (S, layer.input_size), (K, source)
    return [jr.normal(jr.key(key + n), shape) for n, shape in enumerate(widths)]


def moved(layer):
    """The layer with weights and biases that are none of their first values."""
    arrays, rest = eqx.partition(layer, lambda a: eqx.is_inexact_array(a) and a.ndim > 0)
    leaves, structure = jax.tree.flatten(arrays)
    keys = jr.split(jr.key(9), len(leaves))
    leaves = [a + 0.1 * jr.uniform(k, a.shape, a.dtype) for a, k in zip(leaves, keys, strict=True)]
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


@pytest.mark.parametrize("name", CASES)
def test_numbers_and_derivatives_are_those_of_the_published_forward_pass(name, x64):
    options, masks = CASES[name]
    layer = moved(am.nn.Hopfield(6, key=jr.key(0), **options))
    given = example(layer)
    steps = 80 if layer.update_steps_max is None else layer.update_steps_max
    words = {
        "stored_pattern_padding_mask": masks.get("padding"),
        "association_mask": masks.get("forbidden"),
    }
    shares = jr.normal(jr.key(7), (S, layer.output_size))

    def ours(both):
        layer, given = both
        out = layer(*given, **words)
        return jnp.sum(out * shares), out

    def theirs(both):
        layer, given = both
        out, _ = association(layer, *given, steps=steps, **masks, xp=jnp)
        return jnp.sum(out * shares), out

    grad, out = eqx.filter_jit(eqx.filter_grad(ours, has_aux=True))((layer, given))
    wanted, _ = eqx.filter_jit(eqx.filter_grad(theirs, has_aux=True))((layer, given))
    plain, weights = association(as_numpy(layer), *as_numpy(given), steps=steps, **masks)
    np.testing.assert_allclose(out, plain, rtol=1e-5, atol=1e-7)
    found = layer.association_matrix(*given[:2], **words)
    np.testing.assert_allclose(found, weights, rtol=1e-5, atol=1e-7)
    assert eqx.tree_equal(jax.tree.structure(grad), jax.tree.structure(wanted))
    largest = max(float(jnp.max(jnp.abs(a))) for a in jax.tree.leaves(wanted))
    assert largest > 1e-3
    for a, b in zip(jax.tree.leaves(grad), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6 * largest)


def test_float32_is_as_near_as_it_can_be():
    layer = moved(am.nn.Hopfield(6, key=jr.key(0), update_steps_max=2))
    given = example(layer)
    plain, _ = association(as_numpy(layer), *as_numpy(given), steps=2)
    np.testing.assert_allclose(layer(*given), plain, rtol=1e-5, atol=1e-5)


def test_pooling_and_lookup_are_associations_with_weights_for_states_or_patterns():
    bag = jr.normal(jr.key(1), (K, 6))
    pool = am.nn.HopfieldPooling(6, quantity=2, num_heads=3, output_size=4, key=jr.key(0))
    inner, asked = as_numpy((pool.hopfield, pool.pooling_weights))
    plain, weights = association(inner, *as_numpy((bag, asked, bag)), steps=0, padding=PADDING)
    out = pool(bag, stored_pattern_padding_mask=PADDING)
    np.testing.assert_allclose(out, plain.reshape(-1), rtol=1e-5, atol=1e-5)
    found = pool.association_matrix(bag, stored_pattern_padding_mask=PADDING)
    np.testing.assert_allclose(found, weights, rtol=1e-5, atol=1e-6)
    for apart in (False, True):
        look = am.nn.HopfieldLayer(
            6, 7, num_heads=3, lookup_weights_as_separated=apart, key=jr.key(0)
        )
        inner, stored = as_numpy((look.hopfield, look.lookup_weights))
        targets = as_numpy(look.target_weights) if apart else stored
        plain, weights = association(inner, stored, as_numpy(bag), targets, steps=0)
        np.testing.assert_allclose(look(bag), plain, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(look.association_matrix(bag), weights, rtol=1e-5, atol=1e-6)
