"""Layers: the Legendre transform and its derivatives, construction, bad input."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.hierarchical import layers
from tests.hierarchical.registry import LAGRANGIANS

SHAPE = (2, 3)


@jax.jit
def parts(layer, x):
    """What a layer says about a batch, as one program."""

    def one(x):
        xhat = layer.activations(x)
        by_xhat, by_x = jax.grad(layer.energy, argnums=(0, 1))(xhat, x)
        total = jax.grad(lambda x: layer.energy(layer.activations(x), x))(x)
        curvature = jax.jvp(layer.activations, (x,), (x,))[1]
        return xhat, layer.energy(xhat, x), by_xhat, by_x, total, curvature

    return jax.vmap(one)(x)


@pytest.mark.parametrize("name", LAGRANGIANS)
def test_the_gradient_in_the_activations_is_the_state(name):
    layer = LAGRANGIANS[name](SHAPE)
    x = jr.normal(jr.key(0), (5, *SHAPE))
    xhat, energy, by_xhat, by_x, total, curvature = parts(layer, x)
    assert energy.shape == (5,)
    assert_array_equal(by_xhat, x)
    assert_allclose(by_x, np.zeros_like(x), atol=2e-6)
    # By the chain rule, dE/dx = H x with H the second derivative of the Lagrangian.
    assert_allclose(total, curvature, rtol=1e-4, atol=5e-6)
    values = jax.vmap(layer.lagrangian)(x)
    assert_allclose(energy, jnp.sum(xhat * x, (1, 2)) - values, rtol=1e-4, atol=1e-5)


def test_the_energy_of_a_tanh_layer_is_its_entropy():
    # The transform of log cosh: minus the entropy of spins of mean xhat, up to log 2.
    m = np.linspace(-0.9, 0.9, 7)
    p, q = (1 + m) / 2, (1 - m) / 2
    expected = (p * np.log(p) + q * np.log(q) + np.log(2)).sum()
    energy = am.TanhLayer(7).energy(m.astype(np.float32), np.arctanh(m).astype(np.float32))
    assert_allclose(energy, expected, rtol=1e-5)


def test_energy_has_the_true_derivatives_of_every_order_and_argument(x64):
    layer = am.TanhLayer(3, beta=0.7)
    xhat, x = jr.normal(jr.key(0), (3,)), jr.normal(jr.key(1), (3,))
    E = lambda beta, xhat, x: eqx.tree_at(
        lambda t: t.lagrangian.parameters["beta"], layer, beta
    ).energy(xhat, x)
    beta = jnp.asarray(0.7)
    got = jax.jit(jax.hessian(E, argnums=(0, 1, 2)))(beta, xhat, x)
    slope = lambda x: np.tanh(0.7 * np.asarray(x))
    assert_allclose(got[1][2], np.eye(3), atol=1e-12)
    assert_allclose(got[2][1], np.eye(3), atol=1e-12)  # also in this order
    assert_allclose(got[2][2], -0.7 * np.diag(1 - slope(x) ** 2), atol=1e-12)
    assert_allclose(got[0][2], -np.asarray(x) * (1 - slope(x) ** 2), atol=1e-12)
    assert_allclose(jax.grad(E, 2)(beta, xhat, x), xhat - slope(x), atol=1e-12)


@pytest.mark.parametrize("name", ["tanh", "softmax", "layernorm"])
def test_parameters_are_trained_through_the_dynamics(name, x64):
    layer = LAGRANGIANS[name](4)
    W = jr.normal(jr.key(0), (4, 4)) / 2
    start, target = jr.normal(jr.key(1), (4,)), jr.normal(jr.key(2), (4,))

    def loss(layer):
        energy = lambda xhat, x: layer.energy(xhat, x) - 0.5 * xhat @ (W + W.T) @ xhat
        x = start
        for _ in range(3):  # unrolled
            x = x - 0.3 / layer.tau * jax.grad(energy)(layer.activations(x), x)
        xhat = layer.activations(x)
        return jnp.sum((xhat - target) ** 2) + energy(xhat, x)

    loss = jax.jit(jax.value_and_grad(loss))
    grads = loss(layer)[1]
    leaves, structure = jax.tree.flatten(layer)
    assert len(leaves) == len(jax.tree.leaves(grads)) >= 2  # tau, and beta or its like
    for k, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(grads), strict=True)):
        moved = [[*leaves[:k], leaf + h, *leaves[k + 1 :]] for h in (1e-6, -1e-6)]
        up, down = (loss(jax.tree.unflatten(structure, m))[0] for m in moved)
        assert_allclose(grad, (up - down) / 2e-6, rtol=1e-6, atol=1e-8)
        assert abs(grad) > 1e-4


def test_half_precision_states_keep_their_dtype():
    layer = am.TanhLayer(3)
    x = jnp.array([1e4, 0.5, -2.0], jnp.float16)
    xhat = layer.activations(x)
    assert xhat.dtype == jnp.float16
    energy = layer.energy(xhat, x)
    assert energy.dtype == jnp.float32
    wide = am.TanhLayer(3).energy(xhat.astype(jnp.float32), x.astype(jnp.float32))
    assert_allclose(energy, wide)


def test_activations_of_what_users_have():
    layer = am.ReluLayer(3)
    assert_array_equal(layer.activations(np.array([1, -2, 3])), [1, 0, 3])
    assert_array_equal(layer.sigma(np.array([True, False, True])), [1, 0, 1])
    assert layer.E(np.ones(3), np.ones(3)) == layer.energy(np.ones(3), np.ones(3)) == 1.5
    assert np.isnan(am.TanhLayer(3).activations(np.array([1.0, np.nan, 0.0]))[1])


@pytest.mark.parametrize("shape", [4, np.int64(4), (4,), [4]], ids=str)
def test_shapes_become_tuples_of_ints(shape):
    layer = am.NeuronLayer(am.lagr_tanh, shape)
    assert layer.shape == (4,)
    assert type(layer.shape[0]) is int
    assert layer.size == 4
    assert_array_equal(layer.init(), np.zeros(4))
    assert_array_equal(layer.init(0), np.zeros(4))
    assert_array_equal(layer.init(bs=2), np.zeros((2, 4)))


def test_layers_say_what_they_are():
    assert repr(am.TanhLayer((2, 3), beta=0.5, tau=2)) == (
        "NeuronLayer(tanh(beta=0.5), shape=(2, 3), tau=2)"
    )
    assert am.NeuronLayer(am.lagr_softmax, 3).name == "softmax"
    assert am.NeuronLayer(jax.tree_util.Partial(am.lagr_exp, beta=1.0), 3).name == "exp"
    assert am.LayerNormLayer(3, delta=np.ones(3)).name == (
        "layernorm(gamma=1, delta=float32[3], axis=-1, eps=1e-05)"
    )
    assert "layer" in repr(jax.eval_shape(lambda: am.TanhLayer(3))).lower()


def test_layers_are_data_with_the_same_structure():
    # Built twice they are one tree: no new compilation, and optimisers can map over two.
    a, b = am.SoftmaxLayer(3, beta=1.0), am.SoftmaxLayer(3, beta=2.0)
    assert jax.tree.structure(a) == jax.tree.structure(b)
    assert all(eqx.is_inexact_array(leaf) for leaf in jax.tree.leaves(a))
    mean = jax.tree.map(lambda u, v: (u + v) / 2, a, b)
    assert mean.lagrangian.parameters["beta"] == 1.5


def test_a_user_lagrangian_may_be_a_module_a_partial_or_a_function():
    class Quartic(eqx.Module):
        scale: jax.Array

        def __call__(self, x):
            return self.scale * jnp.sum(x**4) / 4

    x = jnp.array([1.0, -2.0])
    for lagrangian, leaves in (
        (Quartic(jnp.asarray(2.0)), 2),
        (jax.tree_util.Partial(lambda x, s: s * jnp.sum(x**4) / 4, s=jnp.asarray(2.0)), 2),
        (lambda x: jnp.sum(x**4) / 2, 1),
        (functools.partial(lambda x, s: s * jnp.sum(x**4) / 4, s=2.0), 1),
    ):
        layer = am.NeuronLayer(lagrangian, 2)
        assert len(jax.tree.leaves(layer)) == leaves
        assert_allclose(layer.activations(x), 2 * x**3)


@pytest.mark.parametrize(
    "bad",
    [
        lambda x: -0.5 * jnp.sum(x**2),
        lambda x: jnp.sum(x**3),
        lambda x: jnp.sum(jnp.cos(x)),
        lambda x: jnp.sum(jnp.tanh(x)),
        lambda x: -jax.nn.logsumexp(x),
    ],
)
def test_a_lagrangian_that_is_not_convex_is_found(bad):
    with pytest.raises(ValueError, match=r"the Lagrangian must be convex, .* must not be negative"):
        am.NeuronLayer(bad, 20)


def test_only_layers_of_a_known_and_moderate_size_are_probed(monkeypatch):
    probed = []
    monkeypatch.setattr(layers, "_check_convex", lambda *args: probed.append(args))
    am.SigmoidLayer((11, 11, 1000))
    am.NeuronLayer(am.lagr_tanh, 3)
    am.NeuronLayer(lambda x: jnp.sum(x**2), layers.CHECK_BELOW + 1)
    jax.eval_shape(
        lambda s: am.NeuronLayer(jax.tree_util.Partial(lambda x, s: s * jnp.sum(x**2), s=s), 3),
        jnp.ones(()),
    )
    assert not probed
    am.NeuronLayer(lambda x: jnp.sum(x**2), layers.CHECK_BELOW)
    assert len(probed) == 1


def test_a_layer_with_a_list_of_axes_goes_through_jit():
    """JAX hashes what is not an array; a list it could not."""
    layer, x = am.SoftmaxLayer((2, 3), axis=[0, 1]), jnp.arange(6.0).reshape(2, 3)
    send = jax.jit(lambda layer, x: layer.activations(x))
    assert_allclose(send(layer, x), jax.nn.softmax(x, axis=(0, 1)), rtol=1e-6)


def test_layers_can_be_made_inside_jit():
    made = jax.jit(lambda beta, x: am.TanhLayer(3, beta=beta).activations(x))
    assert_allclose(made(2.0, jnp.ones(3)), np.tanh(2) * np.ones(3), rtol=1e-6)
    made = jax.jit(lambda x: am.NeuronLayer(lambda x: jnp.sum(x**2), 3).activations(x))
    assert_array_equal(made(jnp.ones(3)), 2 * np.ones(3))


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: am.TanhLayer((3, 0)), ValueError, "shape: must be at least 1; 0 came"),
        (lambda: am.TanhLayer(-1), ValueError, "shape: must be at least 1; -1 came"),
        (lambda: am.TanhLayer(2.0), TypeError, "shape: must be an int or a tuple of ints; 2.0"),  # pyright: ignore[reportArgumentType]
        (lambda: am.TanhLayer((2, 1.5)), TypeError, "shape: must be an integer; 1.5 came"),  # pyright: ignore[reportArgumentType]
        (lambda: am.TanhLayer(True), TypeError, "shape: must be an integer; True came"),
        (lambda: am.TanhLayer(3, tau=0), ValueError, "tau: must be finite and greater than 0"),
        (lambda: am.TanhLayer(3, tau=np.nan), ValueError, "tau: must be finite and greater"),
        (lambda: am.TanhLayer(3, tau=np.ones(3)), ValueError, "tau: must be a scalar; shape"),
        (lambda: am.TanhLayer(3, beta=-1.0), ValueError, "lagr_tanh: beta: must be finite"),
        (lambda: am.RepuLayer(3, n=0), ValueError, "lagr_repu: n: must be at least 1; 0 came"),
        (lambda: am.SoftmaxLayer(3, axis=1), ValueError, r"state of shape \(3,\); 1 came"),
        (lambda: am.LayerNormLayer((), gamma=1), ValueError, r"axes of a state of shape \(\)"),
        (lambda: am.NeuronLayer("tanh", 3), TypeError, "lagrangian: must be a function .* str"),  # pyright: ignore[reportArgumentType]
        (lambda: am.Lagrangian(3), TypeError, "Lagrangian: must be callable; int came"),  # pyright: ignore[reportArgumentType]
        (
            lambda: am.NeuronLayer(jnp.tanh, 3),
            ValueError,
            r"state of shape \(3,\) to one real scalar; float32\[3\] came. Sum over the units",
        ),
        (lambda: am.NeuronLayer(lambda x: None, 3), ValueError, "real scalar; nothing came"),  # pyright: ignore[reportArgumentType]
        (lambda: am.NeuronLayer(lambda x: 1, 3), ValueError, "to one real scalar; int32"),  # pyright: ignore[reportArgumentType]
        (
            lambda: am.TanhLayer(3).activations(np.ones((5, 3))),
            ValueError,
            r"activations: the state must have shape \(3,\); \(5, 3\) came. A batch goes through",
        ),
        (
            lambda: am.TanhLayer(3).energy(np.ones(4), np.ones(3)),
            ValueError,
            r"energy: xhat: the state must have shape \(3,\); \(4,\) came",
        ),
        (
            lambda: am.TanhLayer(3).energy(np.ones(3), np.ones((2, 3))),
            ValueError,
            "energy: x: the state must have shape .* A batch goes through jax.vmap",
        ),
        (lambda: am.TanhLayer(3).init(-1), ValueError, "init: bs: must be at least 0; -1 came"),
        (lambda: am.TanhLayer(3).init(True), TypeError, "init: bs: must be an integer; True"),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
