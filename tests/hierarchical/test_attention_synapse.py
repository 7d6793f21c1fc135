"""Energy attention: softmax readout with the keys as values, masks, shapes and bad input."""

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am

KEY = jr.key(0)


@eqx.filter_jit
def received(syn, *gs):
    """The energy, and minus its gradient in each layer."""
    energy, slopes = jax.value_and_grad(syn.__call__, range(len(gs)))(*gs)
    return energy, [-s for s in slopes]


def oracle(syn, q, k, visible=None):
    """The energy, and what queries and keys receive, in NumPy."""
    Wq, Wk, beta = (np.asarray(a, float) for a in (syn.Wq, syn.Wk, syn.beta))
    Q, K = np.einsum("td,hzd->htz", q, Wq), np.einsum("td,hzd->htz", k, Wk)
    weights = np.exp(beta * np.einsum("hqz,hkz->hqk", Q, K))
    weights = weights if visible is None else weights * visible
    total = weights.sum(-1, keepdims=True)
    energy = -np.log(np.where(total > 0, total, 1)).sum() / beta
    p = weights / np.where(total > 0, total, 1)
    to_q = np.einsum("hqk,hkz,hzd->qd", p, K, Wq)
    to_k = np.einsum("hqk,hqz,hzd->kd", p, Q, Wk)
    return energy, to_q, to_k


def check(syn, q, k, visible=None, self_=False):
    energy, got = received(syn, q) if self_ else received(syn, q, k)
    expected = oracle(syn, np.asarray(q, float), np.asarray(k, float), visible)
    assert_allclose(energy, expected[0], rtol=1e-4)
    if self_:
        assert_allclose(got[0], expected[1] + expected[2], rtol=1e-4, atol=1e-5)
    else:
        assert_allclose(got[0], expected[1], rtol=1e-4, atol=1e-5)
        assert_allclose(got[1], expected[2], rtol=1e-4, atol=1e-5)


def test_cross_attention_reads_out_the_keys():
    q, k = jr.normal(jr.key(1), (4, 3)), jr.normal(jr.key(2), (5, 6))
    syn = am.AttentionSynapse(2, 7).init(KEY, (4, 3), (5, 6))
    assert_allclose(syn.beta, 7**-0.5, rtol=1e-6)
    check(syn, q, k)


@pytest.mark.parametrize("attend_self", [True, False])
def test_self_attention_adds_both_directions(attend_self):
    x = jr.normal(jr.key(1), (4, 3))
    syn = am.AttentionSynapse(2, 7, 0.8, attend_self=attend_self).init(KEY, (4, 3))
    check(syn, x, x, None if attend_self else 1 - np.eye(4), self_=True)
    # One layer connected to itself.
    assert_allclose(syn(x, x), syn(x), rtol=1e-6)


def test_a_query_that_sees_no_key_takes_no_part():
    mask = np.array([[True, False, True], [False] * 3, [True, True, False]])
    q, k = jr.normal(jr.key(1), (3, 4)), jr.normal(jr.key(2), (3, 4))
    syn = am.AttentionSynapse(2, 5, mask=mask).init(KEY, (3, 4), (3, 4))
    check(syn, q, k, mask)
    assert not np.any(received(syn, q, k)[1][0][1])
    single = am.AttentionSynapse(1, 5, attend_self=False).init(KEY, (1, 4))
    energy, (got,) = received(single, q[:1])  # one token, which may not see itself
    assert energy == 0
    assert not np.any(got)


def test_tokens_may_lie_on_a_grid_or_be_one():
    q, k = jr.normal(jr.key(1), (2, 2, 3)), jr.normal(jr.key(2), (6,))
    syn = am.AttentionSynapse(2, 7).init(KEY, (2, 2, 3), (6,))
    flat = received(syn, q.reshape(4, 3), k[None])
    energy, got = received(syn, q, k)
    assert_allclose(energy, flat[0], rtol=1e-6)
    assert_allclose(got[0].reshape(4, 3), flat[1][0], rtol=1e-5)
    assert got[1].shape == (6,)


def test_large_scores_do_not_overflow():
    q = 1e4 * jr.normal(jr.key(1), (3, 4))
    syn = am.AttentionSynapse(2, 5).init(KEY, (3, 4))
    energy, (got,) = received(syn, q)
    assert np.isfinite(energy)
    assert np.isfinite(got).all()


def test_queries_and_keys_start_with_unit_variance():
    syn = am.AttentionSynapse(4, 50).init(KEY, (10, 60))
    x = np.random.default_rng(0).standard_normal((10, 60))
    for W in (syn.Wq, syn.Wk):
        assert_allclose(np.std(np.einsum("td,hzd->htz", x, np.asarray(W))), 1, atol=0.1)


def test_given_weights_tell_heads_and_width():
    syn = am.AttentionSynapse(Wq=np.ones((3, 5, 4)), Wk=np.ones((3, 5, 2)))
    assert (syn.heads, syn.zdim, syn.is_init) == (3, 5, True)
    assert_allclose(syn.beta, 5**-0.5, rtol=1e-6)


W = np.ones((2, 5, 4))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: am.AttentionSynapse(0), ValueError, "heads: must be at least 1; 0 came"),
        (lambda: am.AttentionSynapse(1, 2.5), TypeError, "zdim: must be an integer; 2.5 came"),  # pyright: ignore[reportArgumentType]
        (lambda: am.AttentionSynapse(beta=-1), ValueError, "beta: must be finite and greater"),
        (lambda: am.AttentionSynapse(Wq=W), ValueError, "needs both Wq and Wk, or none; one came"),
        (lambda: am.AttentionSynapse(Wq=W, Wk=W[:1]), ValueError, "the same heads and zdim"),
        (lambda: am.AttentionSynapse(mask=np.ones((2, 2))), ValueError, "must be a boolean array"),
        (lambda: am.AttentionSynapse().init(KEY), ValueError, "connect 1 to 2 layer.s.; 0 came"),
        (
            lambda: am.AttentionSynapse(mask=np.ones((2, 2), bool)).init(KEY, (3, 4)),
            ValueError,
            r"the mask must have shape \(queries, keys\) = \(3, 3\); \(2, 2\) came",
        ),
        (
            lambda: am.AttentionSynapse(attend_self=False).init(KEY, (3, 4), (2, 4)),
            ValueError,
            "attend_self=False needs as many keys as queries; 2 and 3 came",
        ),
        (lambda: am.AttentionSynapse()(np.ones((3, 4))), ValueError, "needs the weights 'Wq'"),
        (
            lambda: am.AttentionSynapse(Wq=W, Wk=W)(np.ones((3, 5))),
            ValueError,
            r"Wq of shape \(2, 5, 4\) takes tokens of 4 features; .*\(3, 5\) came",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
