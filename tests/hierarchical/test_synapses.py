"""Synapses: laws for all of them, and the familiar layer behind each of the dense ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from tests.hierarchical.registry import SYNAPSES, activations, synapse


def energy_and_slopes(syn, *gs):
    return jax.value_and_grad(syn.__call__, range(len(gs)))(*gs)


single = eqx.filter_jit(energy_and_slopes)


@eqx.filter_jit
def batched(syn, gs):
    """Energies and gradients of a batch: one program for each synapse and dtype."""
    return jax.vmap(lambda *gs: energy_and_slopes(syn, *gs))(*gs)


def received(syn, *gs):
    """The energy, and what each layer receives: minus the gradients."""
    energy, slopes = single(syn, *map(jnp.asarray, gs))
    return energy, [-np.asarray(s) for s in slopes]


FEW = ("dense-three", "matrix-patches", "conv-max", "masked-attention")
ALL = [n if n in FEW else pytest.param(n, marks=pytest.mark.slow) for n in SYNAPSES]
"""One of each kind always, the rest by name: each compiles programs of its own."""


# -- laws ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_batches_equal_loops(name):
    syn, gs = synapse(name), activations(name, batch=3)
    energy, slopes = batched(syn, gs)
    assert energy.shape == (3,)
    assert energy.dtype == jnp.float32
    for k in range(3):
        one, slope = received(syn, *(g[k] for g in gs))
        assert_allclose(one, energy[k], rtol=1e-5, atol=1e-5)
        for a, b in zip(slope, slopes, strict=True):
            assert a.shape == b.shape[1:]
            assert_allclose(a, -b[k], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ALL)
def test_weights_and_activations_have_true_derivatives(name, x64):
    syn = jax.tree.map(
        lambda a: a.astype(jnp.float64) if eqx.is_inexact_array(a) else a, synapse(name)
    )
    gs = activations(name)
    trained, fixed = eqx.partition((syn, gs), eqx.is_inexact_array)
    direction = jax.tree.map(lambda a: jr.normal(jr.key(a.size), a.shape), trained)

    def energy(trained):
        syn, gs = eqx.combine(trained, fixed)
        return syn(*gs)

    @jax.jit
    def along(trained):
        # Second derivatives too: training through recall needs them.
        return energy(trained), *jax.jvp(jax.grad(energy), (trained,), (direction,))

    def dot(a):
        return sum(map(jnp.vdot, jax.tree.leaves(a), jax.tree.leaves(direction)))

    step = 1e-5
    ahead, back = (jax.tree.map(lambda d, s=s: s * step * d, direction) for s in (1, -1))
    moved = [jax.tree.map(jnp.add, trained, d) for d in (ahead, back)]
    (up, first, _), (down, last, _) = map(along, moved)
    _, slopes, curvature = along(trained)
    assert_allclose(dot(slopes), (up - down) / (2 * step), rtol=1e-6, atol=1e-8)
    expected = (dot(first) - dot(last)) / (2 * step)
    assert_allclose(dot(curvature), expected, rtol=1e-6, atol=1e-6)
    for leaf in jax.tree.leaves(slopes):
        assert np.abs(leaf).max() > 1e-6  # every weight is trained


@pytest.mark.parametrize("name", FEW)
def test_half_precision_is_computed_in_single(name):
    syn, gs = synapse(name), activations(name, batch=3)
    half = [g.astype(jnp.float16) for g in gs]
    energy, slopes = batched(syn, half)
    expected, _ = batched(syn, [g.astype(jnp.float32) for g in half])
    assert energy.dtype == jnp.float32
    assert all(s.dtype == jnp.float16 for s in slopes)
    assert_allclose(energy, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", FEW)
def test_init_is_a_copy_with_weights_drawn_from_the_key(name):
    a, b, c = synapse(name, 0), synapse(name, 0), synapse(name, 1)
    assert a.is_init
    assert eqx.tree_equal(a, b)
    weights = [getattr(a, w) for w in a.lazy]
    assert not any(eqx.tree_equal(w, getattr(c, n)) for w, n in zip(weights, a.lazy, strict=True))
    lazy = eqx.tree_at(
        lambda s: [getattr(s, n) for n in a.lazy], a, [None] * len(weights), is_leaf=eqx.is_array
    )
    assert not lazy.is_init
    with pytest.raises(ValueError, match=r"a call needs the weights .* synapse.init"):
        lazy(*activations(name))


def test_any_callable_is_a_synapse_but_the_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        am.AbstractSynapse()  # pyright: ignore[reportAbstractUsage]


# -- dense ---------------------------------------------------------------------------------------


def test_dense_is_the_dense_layer_and_its_transpose():
    W, b = jr.normal(jr.key(0), (6, 4)), jr.normal(jr.key(1), (4,))
    a, c = jr.normal(jr.key(2), (2, 3)), jr.normal(jr.key(3), (4,))
    energy, (to_first, to_second) = received(am.DenseSynapse(W, b), a, c)
    flat = np.asarray(a).reshape(-1)
    assert_allclose(to_second, flat @ np.asarray(W) + b, rtol=1e-5)
    assert_allclose(to_first, (np.asarray(W) @ np.asarray(c)).reshape(2, 3), rtol=1e-5)
    assert_allclose(energy, -(flat @ W @ c) - b @ c, rtol=1e-5)
    whole = am.DenseSynapse(W.reshape(2, 3, 4), b)  # the axes of all layers are another way
    assert_allclose(received(whole, a, c)[0], energy, rtol=1e-6)


def test_dense_over_three_layers_is_multilinear():
    W = jr.normal(jr.key(0), (2, 3, 4))
    gs = [jr.normal(jr.key(k), (n,)) for k, n in enumerate((2, 3, 4))]
    energy, got = received(am.DenseSynapse(W), *gs)
    a, b, c = map(np.asarray, gs)
    assert_allclose(energy, -np.einsum("ijk,i,j,k", W, a, b, c), rtol=1e-5)
    assert_allclose(got[1], np.einsum("ijk,i,k->j", W, a, c), rtol=1e-5)


def test_dense_keeps_the_scale_of_its_inputs():
    rng = np.random.default_rng(0)
    for sizes in ((300, 100), (100, 300)):
        W = np.asarray(am.DenseSynapse().init(jr.key(0), *sizes).W)
        a, b = (rng.standard_normal(n) for n in sizes)
        # The larger fan-in has unit variance; the other the root of the ratio of the two.
        low, high = sorted([np.std(a @ W), np.std(W @ b)])
        assert_allclose(high, 1, atol=0.2)
        assert_allclose(low, 3**-0.5, atol=0.2)
    assert np.std(np.asarray(am.DenseSynapse(std=0.02).init(jr.key(0), 300, 100).W)) < 0.021
    assert np.asarray(am.DenseSynapse(bias=True).init(jr.key(0), 3, 4).b).shape == (4,)
    assert am.DenseSynapse().init(jr.key(0), 3, 4).b is None


def test_linear_synapses_are_those_of_the_published_package():
    core = pytest.importorskip("hamux.core")
    assert am.LinearSynapse is am.DenseSynapse
    a, b, key = jr.normal(jr.key(1), (5,)), jr.normal(jr.key(2), (4,)), jr.key(3)
    ours, theirs = (m.LinearSynapse.rand_init(key, 5, 4) for m in (am, core))
    assert_array_equal(ours.W, theirs.W)
    pairs = [(ours, theirs, (a, b))]
    W, c = ours.W, jnp.arange(4.0)
    pairs += [(am.LinearSynapseWithBias(W=W, b=c), core.LinearSynapseWithBias(W=W, b=c), (a, b))]
    pairs += [(am.BiasSynapse(b=c), core.BiasSynapse(b=c), (b,))]
    for mine, its, gs in pairs:
        energy, got = received(mine, *gs)
        assert_allclose(energy, its(*gs), rtol=1e-5)
        expected = jax.grad(its, range(len(gs)))(*gs) if len(gs) > 1 else (jax.grad(its)(*gs),)
        for x, y in zip(got, expected, strict=True):
            assert_allclose(x, -y, rtol=1e-5)


def test_bias_is_a_constant_input():
    b = jr.normal(jr.key(0), (2, 3))
    assert_allclose(received(am.BiasSynapse(b), jnp.ones((2, 3)))[1][0], b)
    assert_array_equal(am.BiasSynapse().init(jr.key(0), (2, 3)).b, np.zeros((2, 3)))


# -- hidden units --------------------------------------------------------------------------------


def test_matrix_weighs_memories_by_the_hidden_activation():
    W = jr.normal(jr.key(0), (7, 5))
    x = jr.normal(jr.key(1), (5,))
    h = np.asarray(W) @ np.asarray(x)
    soft = am.Lagrangian(am.lagr_softmax, {"beta": 2.0})
    for lagrangian, activation in (
        (am.lagr_relu, np.maximum(h, 0)),
        (soft, np.asarray(jax.nn.softmax(2 * h))),
    ):
        syn = am.DenseMatrixSynapse(lagrangian=lagrangian, W=W)
        energy, (got,) = received(syn, x)
        assert_allclose(got, activation @ np.asarray(W), rtol=1e-4, atol=1e-6)
        assert_allclose(energy, -lagrangian(h), rtol=1e-5)
    # -1/2 sum relu(xi x)^2: the memory of the Energy Transformer, for every token.
    X = jr.normal(jr.key(2), (3, 5))
    patches = am.DenseMatrixSynapse(7, W=W, axes="last")
    expected = np.maximum(np.asarray(X) @ np.asarray(W).T, 0)
    energy, (got,) = received(patches, X)
    assert_allclose(energy, -0.5 * (expected**2).sum(), rtol=1e-5)
    assert_allclose(got, expected @ np.asarray(W), rtol=1e-4, atol=1e-5)


def test_matrix_over_two_layers_is_one_over_both_side_by_side():
    A, B = jr.normal(jr.key(0), (7, 6)), jr.normal(jr.key(1), (7, 4))
    a, b = jr.normal(jr.key(2), (2, 3)), jr.normal(jr.key(3), (4,))
    energy, got = received(am.DenseMatrixSynapse(W=(A, B)), a, b)
    joint = am.DenseMatrixSynapse(W=jnp.concatenate([A, B], 1))
    expected, (together,) = received(joint, jnp.concatenate([a.reshape(-1), b]))
    assert_allclose(energy, expected, rtol=1e-5)
    assert_allclose(np.concatenate([got[0].reshape(-1), got[1]]), together, rtol=1e-4, atol=1e-5)


def test_normalised_memories_count_with_unit_length():
    W = jnp.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]])
    x = jnp.array([1.0, -1.0])
    unit = jnp.array([[0.6, 0.8], [0.0, 0.0], [0.0, -1.0]])
    got = received(am.DenseMatrixSynapse(W=W, normalize=True), x)
    expected = received(am.DenseMatrixSynapse(W=unit), x)
    assert_allclose(got[0], expected[0], rtol=1e-6)
    assert_allclose(got[1], expected[1], rtol=1e-6)
    slope = jax.grad(lambda W: am.DenseMatrixSynapse(W=W, normalize=True)(x))(W)
    assert np.isfinite(slope).all()


def test_hidden_units_of_two_axes_compete_along_the_last():
    W, x = jr.normal(jr.key(0), (8, 5)), jr.normal(jr.key(1), (5,))
    energy, (got,) = received(am.DenseMatrixSynapse((2, 4), am.lagr_softmax, W), x)
    heads = [am.DenseMatrixSynapse(4, am.lagr_softmax, w) for w in (W[:4], W[4:])]
    expected = [received(h, x) for h in heads]
    assert_allclose(energy, sum(e for e, _ in expected), rtol=1e-5)
    assert_allclose(got, sum(r[0] for _, r in expected), rtol=1e-4, atol=1e-6)


def test_tensor_weighs_combinations_of_units():
    W = jr.normal(jr.key(0), (5, 6, 4))
    a, b = jr.normal(jr.key(1), (2, 3)), jr.normal(jr.key(2), (4,))
    energy, got = received(am.DenseTensorSynapse(W=W), a, b)
    flat = np.asarray(a).reshape(-1)
    h = np.maximum(np.einsum("mij,i,j->m", W, flat, b), 0)
    assert_allclose(energy, -0.5 * (h**2).sum(), rtol=1e-4)
    assert_allclose(got[1], np.einsum("m,mij,i->j", h, W, flat), rtol=1e-4, atol=1e-4)
    # Patch by patch.
    A, B = jr.normal(jr.key(3), (2, 3, 6)), jr.normal(jr.key(4), (2, 3, 4))
    energy, got = received(am.DenseTensorSynapse(W=W, axes="last"), A, B)
    h = np.maximum(np.einsum("mij,pqi,pqj->pqm", W, A, B), 0)
    assert_allclose(energy, -0.5 * (h**2).sum(), rtol=1e-4)
    assert_allclose(got[0], np.einsum("pqm,mij,pqj->pqi", h, W, B), rtol=1e-3, atol=1e-3)


def test_hidden_states_have_unit_variance():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(30), rng.standard_normal(20)
    weights = am.DenseMatrixSynapse(500).init(jr.key(0), (3, 10), 20).W
    assert weights is not None
    A, B = map(np.asarray, weights)
    norm = (a @ a + b @ b) / 50  # of these inputs, whose variance is not quite 1
    assert_allclose(np.var(A @ a + B @ b), norm, rtol=0.25)
    W = np.asarray(am.DenseTensorSynapse(500).init(jr.key(0), (3, 10), 20).W)
    assert_allclose(np.var(W @ b @ a), (a @ a) * (b @ b) / 600, rtol=0.25)


def test_mixer_is_two_perceptrons_side_by_side():
    syn, (x,) = synapse("mixer"), activations("mixer")
    Wt, Wc, X = (np.asarray(a) for a in (syn.Wt, syn.Wc, x))
    relu = lambda z: np.maximum(z, 0)
    energy, (got,) = received(syn, x)
    assert_allclose(got, Wt.T @ relu(Wt @ X) + relu(X @ Wc.T) @ Wc, rtol=1e-4, atol=1e-5)
    assert_allclose(
        energy, -0.5 * ((relu(Wt @ X) ** 2).sum() + (relu(X @ Wc.T) ** 2).sum()), rtol=1e-5
    )


# -- bad input -----------------------------------------------------------------------------------

KEY = jr.key(0)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: am.DenseSynapse(np.ones(3)), ValueError, "an axis for each of at least two"),
        (lambda: am.DenseSynapse().init(KEY, 3), ValueError, "at least 2 layer.s.; 1 came"),
        (lambda: am.DenseSynapse().init(KEY, 3, 0), ValueError, "shape: must be at least 1; 0"),
        (lambda: am.DenseSynapse().init(KEY, 3, "4"), TypeError, "must be an int or a tuple"),  # pyright: ignore[reportArgumentType]
        (lambda: am.DenseSynapse(std=-1.0), ValueError, "std: must be at least 0"),
        (lambda: am.DenseSynapse(std="a"), TypeError, "std: must be a number"),  # pyright: ignore[reportArgumentType]
        (
            lambda: am.DenseSynapse(np.ones((3, 4)))(np.ones(3), np.ones((2, 4))),
            ValueError,
            r"weights of shape \(3, 4\) must have an axis for each layer; .*jax.vmap",
        ),
        (lambda: am.DenseSynapse(np.ones((3, 4)))(np.ones(12)), ValueError, "at least 2 layer"),
        (lambda: am.DenseSynapse(np.ones((3, 4)))(), ValueError, "at least one layer; none came"),
        (
            lambda: am.DenseSynapse(np.ones((3, 4)), np.ones(3))(np.ones(3), np.ones(4)),
            ValueError,
            r"bias: must have one entry for each unit of the layer; \(3,\)",
        ),
        (lambda: am.BiasSynapse(np.ones(3))(np.ones(4)), ValueError, "one entry for each unit"),
        (lambda: am.BiasSynapse().init(KEY, 3, 4), ValueError, "must connect 1 layer.s.; 2 came"),
        (lambda: am.LinearSynapseWithBias().init(KEY, 3), ValueError, "connect 2 layer.s.; 1"),
        (lambda: am.DenseMatrixSynapse(), ValueError, "number of hidden units, or the weights"),
        (lambda: am.DenseMatrixSynapse(0), ValueError, "hidden: must be at least 1; 0 came"),
        (lambda: am.DenseMatrixSynapse(3.0), TypeError, "hidden: must be an int or a tuple"),  # pyright: ignore[reportArgumentType]
        (lambda: am.DenseMatrixSynapse(5, W=np.ones((4, 3))), ValueError, "one row for each"),
        (
            lambda: am.DenseMatrixSynapse(W=(np.ones((4, 3)), np.ones((5, 3)))),
            ValueError,
            r"one row for each hidden unit; weights of shapes \[\(4, 3\), \(5, 3\)\]",
        ),
        (lambda: am.DenseMatrixSynapse(3, "relu"), TypeError, "lagrangian: must be a function"),  # pyright: ignore[reportArgumentType]
        (lambda: am.DenseMatrixSynapse(3, jnp.tanh), ValueError, "DenseMatrixSynapse: the Lag"),
        (
            lambda: am.DenseMatrixSynapse(3, lambda x: -jnp.sum(x**2)),
            ValueError,
            "DenseMatrixSynapse: the Lagrangian must be convex",
        ),
        (lambda: am.DenseMatrixSynapse(3, axes="lst"), ValueError, "Did you mean 'last'"),
        (
            lambda: am.DenseMatrixSynapse(3, axes="last").init(KEY, (2, 4), (3, 4)),
            ValueError,
            r"must have the same axes but for the last; .*\(2, 4\), \(3, 4\)",
        ),
        (
            lambda: am.DenseMatrixSynapse(W=np.ones((4, 3)))(np.ones((2, 3))),
            ValueError,
            r"weights of shapes \[\(4, 3\)\] must have a column for each unit .*jax.vmap",
        ),
        (
            lambda: am.DenseTensorSynapse(W=np.ones((4, 3)))(np.ones(3), np.ones(3)),
            ValueError,
            r"weights of shape \(4, 3\) must have, after the hidden units, an axis for each",
        ),
        (lambda: am.DenseTensorSynapse(5, W=np.ones((4, 3))), ValueError, "one row for each"),
        (lambda: am.MixerSynapse(0, 3), ValueError, "MixerSynapse: tokens: must be at least 1"),
        (lambda: am.MixerSynapse(3, 1.5), TypeError, "MixerSynapse: channels: must be an integer"),  # pyright: ignore[reportArgumentType]
        (lambda: am.MixerSynapse(3, 3).init(KEY, 3, 4), ValueError, "connect 1 layer.s.; 2"),
        (
            lambda: am.MixerSynapse(3, 3).init(KEY, (2, 4))(np.ones((3, 4))),
            ValueError,
            r"activations of shape \(3, 4\) need weights of shapes \(3, 3\) and \(3, 4\)",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
