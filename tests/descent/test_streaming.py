"""Log-sum-exp in blocks: the same values and derivatives as the dense form, in less memory."""

import functools

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.test_util import check_grads
from numpy.testing import assert_allclose

import amlib as am
from amlib.descent import streaming
from amlib.descent.streaming import logsumexp
from tests.engine import equations


def score(Xi, theta):
    """Not linear in the state: nothing may rest on that."""
    x, beta = theta
    return beta * jnp.tanh(Xi @ x)


def dense(Xi, x, beta):
    return jax.nn.logsumexp(score(Xi, (x, beta)))


def blocked(block):
    return lambda Xi, x, beta: logsumexp(score, Xi, (x, beta), block=block)


def example(K, D=5, scale=1.0, seed=0):
    a, b = jr.split(jr.key(seed))
    return jr.normal(a, (K, D)), scale * jr.normal(b, (D,)), jnp.asarray(1.5, jnp.zeros(()).dtype)


@functools.cache
def with_gradients(block):
    f = dense if block is None else blocked(block)
    return jax.jit(jax.value_and_grad(f, (0, 1, 2)))


# One memory, blocks of one, whole blocks, a rest, a block beyond all: each compiles.
@settings(max_examples=10, deadline=None)
@given(
    sizes=st.sampled_from([(1, 1), (7, 1), (39, 13), (39, 16), (7, 50)]),
    scale=st.sampled_from([1e-3, 1.0, 300.0]),
    seed=st.integers(0, 2**31 - 1),
)
def test_value_and_gradient_equal_the_dense_ones(sizes, scale, seed):
    args = example(sizes[0], scale=scale, seed=seed)
    value, grads = with_gradients(sizes[1])(*args)
    want, wants = with_gradients(None)(*args)
    assert_allclose(value, want, rtol=1e-5, atol=1e-6)
    for a, b in zip(grads, wants, strict=True):
        assert_allclose(a, b, rtol=2e-4, atol=1e-6 * max(scale, 1))


def test_every_derivative_by_finite_differences(x64):
    args = example(11)
    f = jax.jit(blocked(4))  # two blocks and a rest
    check_grads(f, args, order=1, modes=["fwd", "rev"], rtol=1e-5, atol=1e-6)
    # each argument alone takes another branch of the rules
    for i in range(3):
        alone = jax.jit(lambda a, i=i: f(*args[:i], a, *args[i + 1 :]))
        check_grads(alone, (args[i],), order=1, modes=["rev"], rtol=1e-5, atol=1e-6)


def test_second_derivatives_equal_the_dense_ones(x64):
    Xi, x, beta = example(23)
    mine, theirs = (jax.jit(jax.hessian(f, (0, 1, 2)))(Xi, x, beta) for f in (blocked(5), dense))
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        assert_allclose(a, b, rtol=1e-9, atol=1e-11)


@pytest.fixture
def soon(monkeypatch):
    """Stream beyond 16 memories, in blocks of about 8."""
    monkeypatch.setattr(streaming, "STREAM_ABOVE", 16)
    monkeypatch.setattr(streaming, "BLOCK", 8)


@pytest.mark.parametrize("kind", [am.ModernHopfield, am.GaussianMemory])
def test_models_stream_past_the_stated_size(kind, monkeypatch):
    Xi = jr.normal(jr.key(0), (50, 6))
    x = Xi[0] + 0.2

    def run():
        model = kind(Xi, 2.0)
        sharp = lambda m: jnp.sum((x - jax.grad(m.energy)(x)) ** 2)  # of one unit step
        value, grads = jax.jit(jax.value_and_grad(sharp))(model)
        return value, model.energy(x), grads, str(jax.make_jaxpr(model.energy)(x))

    whole = run()
    monkeypatch.setattr(streaming, "STREAM_ABOVE", 16)
    monkeypatch.setattr(streaming, "BLOCK", 8)
    parts = run()
    assert "scan" in parts[3]
    assert "scan" not in whole[3]
    assert_allclose(parts[0], whole[0], rtol=1e-4)
    assert_allclose(parts[1], whole[1], rtol=1e-5)
    for a, b in zip(jax.tree.leaves(parts[2]), jax.tree.leaves(whole[2]), strict=True):
        assert_allclose(a, b, rtol=1e-3, atol=1e-5)


def test_streamed_readout(soon):
    Xi, values = jr.normal(jr.key(0), (50, 6)), jr.normal(jr.key(1), (50, 3))
    expected = jax.nn.softmax(Xi @ Xi[3]) @ values
    assert_allclose(am.attention(Xi[3], Xi, values, 1.0), expected, rtol=1e-5, atol=1e-6)


def products(f, *args):
    """Shapes of the operands of all matrix products, with the number of batch axes of each."""
    dots = (e for e in equations(f, *args) if e.primitive.name == "dot_general")
    return [
        (*(v.aval.shape for v in e.invars), len(e.params["dimension_numbers"][1][0])) for e in dots
    ]


@pytest.mark.parametrize("K", [64, streaming.STREAM_ABOVE + streaming.BLOCK])
def test_queries_become_matrix_products(K):
    Xi, queries = jnp.ones((K, 4)), jnp.ones((32, 4))
    model = am.ModernHopfield(Xi)
    found = products(jax.vmap(model.recall), queries)
    assert len(found) >= 4  # two before the loop, two in it
    for left, right, batch in found:
        assert batch == 0, "one product for each query"
        assert 32 in (*left, *right), "queries stay apart"
        assert {left[0], left[-1], right[0], right[-1]} & {min(K, streaming.BLOCK), K}


def test_memory_beyond_the_patterns_is_that_of_a_block():
    queries, D = 16, 8
    once, back = [], []
    step = lambda model, x: jax.vmap(lambda q: x_after(model, q))(x)
    x_after = lambda model, q: q - jax.grad(model.energy)(q)
    for K in (2**15, 2**17):
        args = am.ModernHopfield(jnp.zeros((K, D))), jnp.zeros((queries, D))
        loss = jax.grad(lambda model, x: jnp.sum(step(model, x)))
        for f, sizes in ((step, once), (loss, back)):
            plan = jax.jit(f).lower(*args).compile().memory_analysis()
            assert plan is not None
            sizes.append(plan.temp_size_in_bytes)
    block = 4 * queries * streaming.BLOCK
    assert abs(once[1] - once[0]) < 4096  # a step: some blocks of scores, whatever K is
    assert once[1] < 4 * block
    per_pattern = (back[1] - back[0]) / (2**17 - 2**15)
    assert per_pattern < 4 * D * 4  # derivatives in Xi: a few arrays of its size,
    assert per_pattern < 4 * queries * 4  # but none of one number per query and pattern


def test_accelerators_take_blocks_that_are_worth_a_launch(monkeypatch):
    """What is traced, as no accelerator is at hand: numbers of memories in one product."""
    at_once = lambda K: max(
        size
        for left, right, _ in products(am.ModernHopfield(jnp.ones((K, 4))).energy, jnp.ones(4))
        for size in (*left, *right)
    )
    K = 2 * streaming.LAUNCHED
    assert at_once(K) == streaming.BLOCK
    jax.clear_caches()  # traced for a CPU
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert at_once(K) == streaming.LAUNCHED
    assert at_once(streaming.LAUNCHED) == streaming.LAUNCHED
    jax.clear_caches()


def test_infinite_scores():
    Xi = jnp.array([[1.0], [2.0], [3.0]])
    cut = lambda rows, x: jnp.where(rows[:, 0] > x, -jnp.inf, rows[:, 0])
    for x, want in ((1.5, 1.0), (2.5, np.log(np.exp(1) + np.exp(2))), (0.5, -np.inf)):
        assert_allclose(logsumexp(cut, Xi, jnp.asarray(x), block=1), want, rtol=1e-6)
