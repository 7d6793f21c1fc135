"""Attention with masks and biases, and the bias of the memory behind it."""

import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib.continuous.models import dot_scores
from amlib.descent.streaming import logsumexp
from tests.continuous.zoo import patterns, query

MASK = jnp.array([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], bool)
BIAS = jr.normal(jr.key(5), (3, 4))


def by_hand(q, k, v, mask, bias):
    """In NumPy; a query that sees nothing gets zeros."""
    scores = np.asarray(q, np.float64) @ np.asarray(k, np.float64).T / np.sqrt(k.shape[1])
    weights = np.exp(scores + np.asarray(bias, np.float64)) * np.broadcast_to(mask, scores.shape)
    total = weights.sum(axis=1, keepdims=True)
    return np.where(total > 0, weights / np.where(total > 0, total, 1), 0) @ np.asarray(v)


@pytest.mark.parametrize("mask", [None, MASK[0], MASK])
@pytest.mark.parametrize("bias", [None, BIAS[0], BIAS])
def test_attention_takes_masks_and_biases(mask, bias):
    q, v = jr.normal(jr.key(1), (3, 6)), jr.normal(jr.key(2), (4, 2))
    out = am.attention(q, patterns(), v, mask=mask, bias=bias)
    wanted = by_hand(
        q, patterns(), v, True if mask is None else mask, np.zeros(4) if bias is None else bias
    )
    assert_allclose(out, wanted, rtol=1e-5, atol=1e-6)


def test_attention_with_a_mask_has_finite_derivatives_and_batches():
    q, v = jr.normal(jr.key(1), (2, 3, 6)), jr.normal(jr.key(2), (4, 2))
    masks = jnp.stack([MASK, ~MASK])
    call = lambda q, k, v: am.attention(q, k, v, mask=masks)
    grads = jax.grad(lambda *a: jnp.sum(call(*a) ** 2), argnums=(0, 1, 2))(q, patterns(), v)
    assert all(jnp.isfinite(g).all() for g in grads)
    assert not grads[0][0, 2].any()  # it sees nothing
    one = am.attention(q[1, 0], patterns(), v, mask=~MASK[0])
    assert_allclose(call(q, patterns(), v)[1, 0], one, rtol=1e-5, atol=1e-6)


def test_a_pattern_of_bias_minus_infinity_is_not_there():
    """In energies with their constants, readouts and recalls."""
    Xi, x, values = patterns(), query(), jr.normal(jr.key(3), (4, 2))
    bias = jnp.array([0.0, -jnp.inf, 0.0, 0.0])
    kept = jnp.array([0, 2, 3])
    hidden = am.ModernHopfield(Xi.at[1].multiply(9.0), 4.0, values, bias)
    short = am.ModernHopfield(Xi[kept], 4.0, values[kept])
    assert_allclose(hidden.energy(x), short.energy(x), rtol=1e-6)
    assert_allclose(hidden.readout(x), short.readout(x), rtol=1e-6)
    assert_allclose(hidden.recall(x).x, short.recall(x).x, rtol=1e-5, atol=1e-6)
    grad = jax.grad(lambda Xi: am.ModernHopfield(Xi, 4.0, values, bias).readout(x).sum())(Xi)
    assert jnp.isfinite(grad).all()
    assert not grad[1].any()


def test_a_bias_of_log_2_stores_a_pattern_twice():
    Xi, x = patterns(), query()
    twice = am.ModernHopfield(jnp.concatenate([Xi, Xi[:1]]), 4.0)
    once = am.ModernHopfield(Xi, 4.0, bias=jnp.log(jnp.array([2.0, 1.0, 1.0, 1.0])))
    assert_allclose(once.energy(x), twice.energy(x), rtol=1e-6)
    assert_allclose(once.retrieve(x), twice.retrieve(x), rtol=1e-5, atol=1e-6)
    states = jr.normal(jr.key(4), (50, 6))
    largest = jnp.max(jnp.linalg.norm(Xi, axis=1))
    states *= largest / jnp.linalg.norm(states, axis=1, keepdims=True)
    energies = jax.vmap(once.energy)(states)
    assert (energies >= -1e-5).all()
    assert (energies <= 2 * largest**2).all()


def test_a_bias_streams():
    bias = jnp.array([0.3, -jnp.inf, -1.0, -jnp.inf])

    def total(Xi, bias, block):
        theta = query(), jnp.asarray(4.0), None
        return logsumexp(dot_scores, (Xi, None, bias), theta, block=block)

    for argnum in (0, 1):
        whole, parts = (
            jax.value_and_grad(total, argnum)(patterns(), bias, block) for block in (4, 1)
        )
        for a, b in zip(whole, parts, strict=True):
            assert jnp.isfinite(b).all()
            assert_allclose(a, b, rtol=1e-5, atol=1e-6)


Q, V = jnp.ones((3, 6)), jnp.ones((4, 2))
WRONG = {
    "mask": (lambda: am.attention(Q, patterns(), V, mask=MASK[:2]), ValueError, "(2, 4) came"),
    "kind": (
        lambda: am.attention(Q, patterns(), V, mask=MASK.astype(float)), TypeError, "bias=."
    ),
    "bias": (lambda: am.attention(Q, patterns(), V, bias=BIAS[0, :3]), ValueError, "(3,) came"),
    "nan": (
        lambda: am.attention(Q, patterns(), V, bias=BIAS.at[0, 0].set(jnp.nan)),
        ValueError, "attention: bias: must hold finite numbers or -inf",
    ),
    "of a memory": (
        lambda: am.ModernHopfield(patterns(), bias=jnp.zeros(3)), ValueError, "(3,) came"
    ),
    "inf": (
        lambda: am.ModernHopfield(patterns(), bias=jnp.full(4, jnp.inf)), ValueError, "+inf came"
    ),
    "all": (
        lambda: am.ModernHopfield(patterns(), bias=jnp.full(4, -jnp.inf)),
        ValueError, "must leave a pattern visible",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name, unchecked):
    call, kind, message = WRONG[name]
    with pytest.raises(kind, match=re.escape(message)):
        call()
