"""Recall under JAX's transforms that change what values are: `shard_map`, and leak checks."""

import dataclasses

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am

D = 16
XI = jr.rademacher(jr.key(0), (5, D), jnp.float32)
STARTS = XI[:4] * jnp.where(jr.uniform(jr.key(1), (4, D)) < 0.2, -1.0, 1.0)


class Quadratic(am.BinaryAM):
    def energy(self, x):
        return -0.5 * jnp.sum((self.Xi @ x) ** 2)


class User(am.ContinuousAM):
    def energy(self, x):
        return 0.5 * jnp.sum(x**2) - jax.nn.logsumexp(self.Xi @ x)


def on_two_devices(fn, check_vma=True, shared=()):
    """A function of one example, over a batch that two devices share."""
    devices = jax.devices("cpu")
    if len(devices) < 2:
        pytest.skip("needs two devices: tests/conftest.py asks for them")
    mesh = Mesh(np.asarray(devices[:2]), ("batch",))
    specs = (*[P()] * len(shared), P("batch"))
    many = lambda *args: jax.vmap(lambda x: fn(*args[:-1], x))(args[-1])
    sharded = jax.shard_map(
        many, mesh=mesh, in_specs=specs, out_specs=P("batch"), check_vma=check_vma
    )
    return jax.jit(lambda *args: sharded(*shared, *args))


def binary(x):
    model = Quadratic(XI)
    end, (_, energies) = model.async_recall(x, 40, jr.PRNGKey(3))
    glauber = model.recall(x, beta=0.1, key=jr.key(3), max_sweeps=3)
    found = {
        "async": (end, energies),
        "glauber": (glauber.x, glauber.sweeps),
        "flips": model.flip_energies(x),
        "fixed": model.is_fixed_point(x),
    }
    for order in ("permutation", "greedy", "synchronous"):
        end = model.recall(x, order=order)  # records fill up with visits as a batch goes on
        found[order] = (end.x, end.energy, end.sweeps, end.result, end.trajectory.energy)
    return found


def continuous(x):
    ends = {
        "cccp": am.ModernHopfield(XI, 0.3).recall(x, save_every=3, max_steps=30),
        "backtracking": User(XI).recall(x, project=am.Box(-0.5, 0.5)),
    }
    for name, method in {"flow": am.Flow(), "fixed point": am.FixedPoint()}.items():
        ends[name] = User(XI).recall(x, method=method)
    return ends


def solved(x):
    return User(XI).recall(x, method=am.FixedPoint())


def hierarchical(x):
    synapse = am.DenseSynapse(0.2 * jr.normal(jr.key(2), (D, 3)))
    ham = am.HAM([am.TanhLayer(D), am.SoftmaxLayer(3)], [synapse], [((0, 1), 0)])
    return ham.recall([x, jnp.zeros(3)], 12, 0.1)


@pytest.mark.parametrize(
    ("recall", "check_vma"),
    [(binary, True), (continuous, True), (solved, False), (hierarchical, True)],
)
def test_two_devices_recall_what_one_does(recall, check_vma):
    expected = jax.jit(jax.vmap(recall))(STARTS)
    shared = on_two_devices(recall, check_vma)(STARTS)
    # Of a flow, rounding decides which of its last steps ends it, and so its time.
    is_recall = lambda r: isinstance(r, am.Recall)
    untimed = lambda r: dataclasses.replace(r, time=None) if is_recall(r) else r
    shared, expected = (jax.tree.map(untimed, r, is_leaf=is_recall) for r in (shared, expected))
    for a, b in zip(jax.tree.leaves(shared), jax.tree.leaves(expected), strict=True):
        if jnp.issubdtype(b.dtype, jnp.floating) and recall is not binary:
            assert_allclose(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert_array_equal(a, b)


def test_keys_may_differ_from_device_to_device():
    draw = lambda key: Quadratic(XI).recall(XI[0], beta=0.05, key=key, max_sweeps=2).x
    keys = jr.split(jr.key(0), 4)
    assert_array_equal(on_two_devices(draw)(keys), jax.vmap(draw)(keys))


@pytest.mark.parametrize("method", [am.CCCP(), am.FixedPoint()], ids=["steps", "implicit"])
def test_the_gradient_in_what_devices_share_is_the_sum_over_them(method):
    def loss(Xi, x):
        return jnp.sum(am.ModernHopfield(Xi, 0.3).recall(x, method=method, max_steps=30).x[:3] ** 2)

    whole = jax.grad(lambda Xi, x: jnp.sum(jax.vmap(loss, (None, 0))(Xi, x)), (0, 1))
    over_two = lambda Xi, x: jnp.sum(on_two_devices(loss, shared=(Xi,))(x))
    for a, b in zip(jax.grad(over_two, (0, 1))(XI, STARTS), whole(XI, STARTS), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    assert jnp.abs(whole(XI, STARTS)[0]).max() > 0.1


def test_bad_states_are_checked_on_every_device():
    # Raised for good, the error would be told once more when the process ends.
    recall = on_two_devices(lambda x: Quadratic(XI).recall(x).x)
    assert "pure_callback" in str(jax.make_jaxpr(recall)(STARTS))


def test_recall_leaks_no_tracer():
    model = Quadratic(XI)
    slope = jax.grad(lambda Xi: Quadratic(Xi).async_recall(STARTS[0], 20)[1][1].sum())
    with jax.checking_leaks():
        model.async_recall(STARTS[0], 20)
        model.flip_energies(STARTS[0])
        assert jnp.abs(slope(XI)).max() > 0
