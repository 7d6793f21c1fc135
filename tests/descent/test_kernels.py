"""Loops in one kernel: the same values as the loops as they are, under every transform of JAX."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from jax import lax
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.descent import flips, kernels
from amlib.descent.flip_problem import FlipProblem
from tests.descent.test_incremental import spins

D = 40
XI = spins(0, 30, D)
WIDE = spins(1, 300, D)

ENERGIES = {
    "quadratic": lambda x: -0.5 * jnp.sum((XI @ x) ** 2),
    "rectified": lambda x: -jnp.sum(jax.nn.relu(XI @ x) ** 6),
    "log-sum-exp": lambda x: -jax.nn.logsumexp(0.3 * (WIDE @ x)),
    "cold log-sum-exp": lambda x: -jax.nn.logsumexp(50.0 * (WIDE @ x)),
    "top three": lambda x: -jnp.sum(jnp.sort(XI @ x)[-3:]),
    "cumulative": lambda x: -jnp.max(jnp.cumsum(XI @ x)),
    "rolled": lambda x: -jnp.sum(x * jnp.roll(x, 1)),
}
FAST = ("quadratic", "rectified", "log-sum-exp", "cold log-sum-exp", "cumulative", "rolled")


def starts(n):
    return jax.vmap(lambda k: jr.rademacher(k, (D,), jnp.float32))(jr.split(jr.key(2), n))


def recall(energy, x, key=None):
    key = jr.key(4) if key is None else key
    x, record = flips.visit(FlipProblem(energy), x, jr.randint(key, (90,), 0, D))
    return x, record.accepted, record.energy


def as_it_is(monkeypatch, fn, *args):
    """What comes where no loop is ever put into a kernel."""
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "_largest", lambda jaxpr: -1)
        return fn(*args)


def same(a, b):
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert_array_equal(left, right)


def calls(fn, *args, platform="cpu"):
    """How many calls ask to be one kernel."""
    lowered = jax.jit(fn).trace(*args).lower(lowering_platforms=(platform,))
    return sum("call @" in n and "xla_cpu_small_call" in n for n in lowered.as_text().split("\n"))


# -- which loops ---------------------------------------------------------------------------------


@pytest.mark.skipif(not kernels.ASKS, reason="XLA makes one kernel of them by itself")
def test_loops_of_known_primitives_are_one_kernel_on_a_cpu_only():
    for name in FAST:
        run = lambda x, e=ENERGIES[name]: recall(e, x)
        assert calls(run, starts(1)[0]) > 0, name
        assert calls(run, starts(1)[0], platform="cuda") == 0, name
    assert calls(lambda x: recall(ENERGIES["top three"], x), starts(1)[0]) == 0


@pytest.mark.skipif(not kernels.ASKS, reason="XLA makes one kernel of them by itself")
@pytest.mark.parametrize(
    "body",
    [
        lambda c: jnp.sort(c),
        lambda c: c.at[jnp.asarray([1, 2])].set(0.0),
        lambda c: jnp.fft.fft(c).real,
        lambda c: lax.top_k(c, 3)[0].sum() * c,
        lambda c: (c.reshape(8, 8) @ c.reshape(8, 8)).reshape(-1),
        lambda c: jnp.outer(c, c) @ c,
        lambda c: (c[:, None] * jnp.ones((1, 64))).sum(1),  # 4,096 elements
        lambda c: lax.cond(c[0] > 0, jnp.sort, jnp.sin, c),
        lambda c: jax.pure_callback(lambda a: a, jax.ShapeDtypeStruct((64,), c.dtype), c),
        lambda c: jnp.linalg.solve(jnp.eye(8) * (2 + c[0]), c[:8]).sum() * c,
    ],
)
def test_what_no_kernel_can_hold_runs_as_it_is(body):
    loop = lambda c: lax.scan(lambda c, _: (body(c), c[0]), c, None, length=3)
    fn = lambda c: kernels.in_one_kernel(loop, c)
    c = jnp.linspace(-1, 1, 64)
    assert calls(fn, c) == 0
    same(jax.jit(fn)(c), jax.jit(loop)(c))


# -- the same values -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENERGIES)
def test_flips_are_the_same_bit_for_bit(name, monkeypatch):
    energy, xs = ENERGIES[name], starts(3)
    keys = jr.split(jr.key(5), 3)

    def chained(x):
        return lax.scan(lambda x, k: (recall(energy, x, k)[0], recall(energy, x, k)[2]), x, keys)

    ways = {
        "eager": lambda: recall(energy, xs[0]),
        "jit": lambda: jax.jit(lambda x: recall(energy, x))(xs[0]),
        "vmap": lambda: jax.jit(jax.vmap(lambda x, k: recall(energy, x, k)))(xs, keys),
        "same bits": lambda: jax.jit(jax.vmap(lambda x: recall(energy, x)))(xs),
        "vmap of vmap": lambda: jax.vmap(lambda k: jax.vmap(lambda x: recall(energy, x, k))(xs))(
            keys
        ),
        "scan": lambda: jax.jit(chained)(xs[0]),
    }
    for way in ways.values():
        made = way()
        for got, expected in zip(made, as_it_is(monkeypatch, way), strict=True):
            if jnp.issubdtype(got.dtype, jnp.floating) and "log-sum" in name:
                assert_allclose(got, expected, rtol=1e-6)  # sums in another order
            else:
                assert_array_equal(got, expected)


@pytest.mark.parametrize("order", ["permutation", "sequential", "random"])
def test_whole_recalls_are_the_same(order, monkeypatch):
    model, xs = am.ClassicalHopfield(XI), starts(4)
    ways = (
        lambda: model.recall(xs[0], order=order),
        lambda: jax.vmap(lambda x: model.recall(x, order=order))(xs),
        lambda: jax.vmap(lambda x, k: model.recall(x, order=order, beta=0.1, key=k, max_sweeps=3))(
            xs, jr.split(jr.key(1), 4)
        ),
    )
    for way in ways:
        same(way(), as_it_is(monkeypatch, way))


def test_models_may_be_mapped_over(monkeypatch):
    def run(patterns, x):
        return recall(lambda x: -jnp.sum(jax.nn.relu(patterns @ x) ** 3), x)

    many = jnp.stack([XI, -XI, jnp.flip(XI, 0)])
    for axes in ((0, 0), (0, None), (None, 0)):
        args = [a if axis == 0 else a[0] for a, axis in zip((many, starts(3)), axes, strict=True)]
        way = lambda args=args, axes=axes: jax.jit(jax.vmap(run, axes))(*args)
        same(way(), as_it_is(monkeypatch, way))


def test_gradients_go_through_recalls_in_any_nesting(monkeypatch):
    def loss(patterns, x):
        model = am.ClassicalHopfield(patterns)
        return jnp.sum(model.energy(model.recall(x, max_sweeps=2).x))

    xs = starts(3)
    ways = (
        lambda: jax.grad(loss)(XI, xs[0]),
        lambda: jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(XI, xs),
        lambda: jax.grad(lambda p: jax.jit(jax.vmap(loss, (None, 0)))(p, xs).sum())(XI),
        lambda: jax.jvp(lambda p: loss(p, xs[0]), (XI,), (jnp.ones_like(XI),)),
    )
    for way in ways:
        same(way(), as_it_is(monkeypatch, way))


def test_exported_programs_hold_the_form_of_their_platform():
    exported = jax.export.export(
        jax.jit(lambda x: recall(ENERGIES["rectified"], x)), platforms=["cpu", "cuda"]
    )(starts(1)[0])
    same(exported.call(starts(1)[0]), recall(ENERGIES["rectified"], starts(1)[0]))
