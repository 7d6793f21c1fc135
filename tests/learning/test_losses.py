"""Losses against their definitions: exact likelihoods, implicit gradients, formulas."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose

import amlib as am
from amlib.hierarchical import patches
from amlib.learning import (
    AbstractLoss,
    ContrastiveDivergence,
    CrossEntropy,
    Denoising,
    EquilibriumPropagation,
    PersistentContrastiveDivergence,
    Regression,
    accuracy,
)

KEY = jr.key(0)


def vector(tree):
    return np.asarray(ravel_pytree(eqx.filter(tree, eqx.is_inexact_array))[0])


def test_losses_and_their_kin_are_in_the_room_learning():
    """One name for each, and none of them on the first page."""
    room = {k: v for k, v in vars(am.learning).items() if not k.startswith("_")}
    losses = [v for v in room.values() if isinstance(v, type) and issubclass(v, AbstractLoss)]
    names = [cls.__name__ for cls in losses]
    assert {"PowerLoss", "HebbianLoss", "ReconstructionLoss", "CrossEntropy"} <= {*names}
    for word in ("entropy", "reconstruction"):
        assert len([name for name in names if word in name.lower()]) == 1
        assert len([k for k in room if word in k.lower() and "loss" in k.lower()]) <= 1
    for name in (*names, "krotov_hopfield", "DenseAMClassifier", "FitResult", "cross_entropy"):
        assert not hasattr(am, name)


# -- cross-entropy -----------------------------------------------------------------------------


def cross_entropy(predictions, labels, probabilities=False):
    """Of predictions as they are."""
    loss = CrossEntropy(lambda _, x: x, probabilities, batched=True)
    return loss(None, (jnp.asarray(predictions), labels), KEY)


def test_cross_entropy_is_its_formula():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    expected = -np.log(p[np.arange(6), labels]).mean()
    np.testing.assert_allclose(cross_entropy(logits, labels), expected, rtol=1e-5)
    np.testing.assert_allclose(
        cross_entropy(p.astype(np.float32), labels, probabilities=True), expected, rtol=1e-5
    )
    one_by_one = CrossEntropy(lambda _, x: x)(None, (jnp.asarray(logits), labels), KEY)
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-5)
    assert accuracy(logits, labels) == np.mean(logits.argmax(1) == labels)


def test_cross_entropy_of_certainty_is_finite():
    assert cross_entropy([[1.0, 0.0]], np.array([1]), probabilities=True) < 90
    assert cross_entropy([[1e4, 0.0]], np.array([1])) == 1e4


@pytest.mark.parametrize("function", [cross_entropy, accuracy])
@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        ([1, 2, 4], ValueError, r"labels must lie in \[0, 4\); 1 to 4 came. Labels that count"),
        ([-1, 2, 3], ValueError, r"labels must lie in \[0, 4\); -1 to 3 came"),
        ([1, 2], ValueError, r"labels must have shape \(3,\), one per row.*\(2,\) came"),
        ([1.0, 2.0, 3.0], TypeError, "labels must be integers; float32 came"),
        (np.eye(4)[:3], TypeError, "One-hot rows become labels by"),
    ],
)
def test_bad_labels_are_refused(function, labels, error, match):
    with pytest.raises(error, match=match):
        function(jnp.zeros((3, 4)), np.asarray(labels))


def test_bad_labels_that_are_traced_give_nan():
    assert jnp.isnan(jax.jit(cross_entropy)(jnp.zeros((1, 4)), jnp.array([4])))
    assert jnp.isnan(jax.jit(cross_entropy)(jnp.zeros((1, 4)), jnp.array([-1])))


class Linear(eqx.Module):
    W: jax.Array

    def __call__(self, x):
        return self.W @ x


def test_fit_refuses_bad_labels_before_the_first_epoch():
    x, W = jnp.ones((6, 3)), Linear(jnp.zeros((4, 3)))
    data = (x, np.array([0, 1, 2, 3, 4, 0]))

    def fit(data, loss=CrossEntropy(), **options):  # noqa: B008
        return am.fit(W, data, loss, optax.sgd(0.1), 1, 2, KEY, progress=False, **options)

    with pytest.raises(ValueError, match=r"CrossEntropy: labels must lie in \[0, 4\); 0 to 4"):
        fit(data)
    with pytest.raises(ValueError, match=r"CrossEntropy: labels must lie in"):
        fit((x[:2], np.array([0, 1])), validation=data)
    with pytest.raises(TypeError, match="one integer per example; float32"):
        fit((x, x))
    with pytest.raises(ValueError, match=r"must be a pair \(x, labels\)"):
        fit(x)
    with pytest.raises(ValueError, match=r"one example must have shape \(C,\); \(2, 2\) came"):
        fit(data, CrossEntropy(lambda model, x: (model.W @ x).reshape(2, 2)))
    with pytest.raises(ValueError, match=r"one example must have shape \(C,\); \(4, 1\) came"):
        fit(data, CrossEntropy(lambda model, x: model.W @ x.T, batched=True))
    result = fit((x, data[1] % 4))
    np.testing.assert_allclose(result.history["loss"][0], np.log(4), rtol=0.1)


# -- regression and denoising --------------------------------------------------------------


@pytest.mark.parametrize("power", [1, 2, 3])
def test_regression_is_its_formula(power):
    rng = np.random.default_rng(1)
    W, x, t = rng.normal(size=(3, 3)), rng.normal(size=(5, 3)), rng.normal(size=(5, 3))
    model, batch = Linear(jnp.asarray(W)), (jnp.asarray(x), jnp.asarray(t))
    loss = Regression(power=power)
    expected = (np.abs(x @ W.T - t) ** power).mean()
    np.testing.assert_allclose(loss(model, batch, KEY), expected, rtol=1e-5)
    doubled = Regression(lambda m, x: 2 * m(x), power)
    expected = (np.abs(2 * x @ W.T - x) ** power).mean()
    np.testing.assert_allclose(doubled(model, batch[0], KEY), expected, rtol=1e-5)


def test_regression_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"targets' shape \(3,\); \(2,\) came"):
        Regression()(Linear(jnp.ones((2, 3))), jnp.ones((4, 3)), KEY)
    with pytest.raises(ValueError, match="Regression: power: must be at least 1"):
        Regression(power=0.5)


def noise(key, x):
    return am.data.corrupt.add_gaussian(key, x, 0.5)


def test_denoising_derives_through_recall_unrolled_and_implicit():
    """Both derivatives are that of the fixed point; one update alone has another."""
    Xi = jr.normal(jr.key(1), (4, 6))
    x = Xi + 0.1

    @eqx.filter_jit
    def value_and_grad(loss):
        return eqx.filter_value_and_grad(loss)(am.ModernHopfield(Xi, 0.6), x, KEY)

    unrolled = value_and_grad(Denoising(noise, am.CCCP(), 60, 1e-6))
    implicit = value_and_grad(Denoising(noise, am.FixedPoint(), 60, 1e-6))
    once = value_and_grad(Denoising(noise, apply=lambda m, x: m.retrieve(x)))
    np.testing.assert_allclose(unrolled[0], implicit[0], rtol=1e-4)
    np.testing.assert_allclose(vector(unrolled[1]), vector(implicit[1]), rtol=1e-2, atol=1e-4)
    assert np.abs(vector(once[1]) - vector(implicit[1])).max() > 0.01
    # the value: recall from the same noise, by the model's own method
    model = am.ModernHopfield(Xi, 0.6)
    noisy = jax.vmap(noise)(jr.split(KEY, 4), x)
    ends = jax.vmap(lambda x: model.recall(x, tol=1e-6))(noisy).x
    np.testing.assert_allclose(implicit[0], jnp.mean((ends - x) ** 2), rtol=1e-3)


def test_denoising_refuses_models_it_cannot_recall():
    with pytest.raises(TypeError, match="must be a ContinuousAM; Linear came"):
        Denoising(noise)(Linear(jnp.ones((2, 2))), jnp.ones((3, 2)), KEY)
    with pytest.raises(ValueError, match="Denoising: max_steps: must be at least 1"):
        Denoising(noise, max_steps=0)


def test_a_memory_learns_what_it_is_shown_corrupted():
    """From patterns that are corrupted: after training, the update ends at the data."""
    Xi = jr.rademacher(jr.key(2), (3, 16), jnp.float32)
    data = jnp.repeat(Xi, 20, 0)
    model = am.ModernHopfield(0.5 * Xi + 0.25 * jr.normal(jr.key(3), (3, 16)), 1.0)
    loss = Denoising(noise, apply=lambda m, x: m.retrieve(x))
    result = am.fit(
        model, data, loss, optax.adam(0.05), 12, 10, KEY,
        progress=False, trainable=lambda leaf: leaf.ndim == 2,
    )  # fmt: skip
    assert result.history["loss"][0] > 0.2
    assert result.history["loss"][-1] < 0.05


# -- contrastive divergence --------------------------------------------------------------------

D = 5


class Quartic(am.AbstractBinaryAM):
    """An energy with parameters that are no couplings."""

    Xi: jax.Array
    b: jax.Array

    def energy(self, x):
        return -0.05 * jnp.sum((self.Xi @ x) ** 4) - jnp.dot(self.b, x)


def quartic():
    return Quartic(0.9 * jr.normal(jr.key(4), (2, D)), 0.3 * jr.normal(jr.key(5), (D,)))


STATES = 2.0 * ((np.arange(2**D)[:, None] >> np.arange(D)) & 1) - 1.0
DATA = jnp.asarray(STATES[np.random.default_rng(6).integers(0, 2**D, 12)], jnp.float32)
BETA = 0.7


def exact_gradient(model):
    """Of the mean negative log-likelihood, by enumeration of all states."""

    def nll(model):
        E = jax.vmap(model.energy)
        return jnp.mean(BETA * E(DATA)) + jax.nn.logsumexp(-BETA * E(jnp.asarray(STATES, "f4")))

    return vector(eqx.filter_grad(nll)(model))


def test_contrastive_divergence_in_expectation_is_the_likelihoods_gradient():
    """400 chains per example, 25 sweeps: what is left is the sampling error."""
    loss, model = ContrastiveDivergence(25, BETA), quartic()
    many = jnp.tile(DATA, (400, 1))
    found = vector(eqx.filter_jit(eqx.filter_grad(loss))(model, many, KEY))
    exact = exact_gradient(model)
    assert np.linalg.norm(found - exact) < 0.06 * np.linalg.norm(exact)


def test_one_sweep_is_exact_for_one_sweep():
    """CD-1 in expectation, its kernel by enumeration: bits in index order, each Gibbs-sampled."""
    model = quartic()
    E = np.asarray(jax.vmap(model.energy)(jnp.asarray(STATES, "f4")), np.float64)
    kernel = np.eye(2**D)
    for i in range(D):
        step = np.zeros((2**D, 2**D))
        for s in range(2**D):
            p = 1 / (1 + np.exp(BETA * (E[s ^ (1 << i)] - E[s])))
            step[s, s ^ (1 << i)], step[s, s] = p, 1 - p
        kernel = kernel @ step
    at = ((np.asarray(DATA) > 0) << np.arange(D)).sum(1)
    weights = jnp.asarray((np.eye(2**D)[at] @ (np.eye(2**D) - kernel)).mean(0), "f4")
    expected = vector(
        eqx.filter_grad(
            lambda m: BETA * jnp.dot(weights, jax.vmap(m.energy)(jnp.asarray(STATES, "f4")))
        )(model)
    )
    loss, many = ContrastiveDivergence(1, BETA, "sequential"), jnp.tile(DATA, (400, 1))
    found = vector(eqx.filter_jit(eqx.filter_grad(loss))(model, many, KEY))
    assert np.linalg.norm(found - expected) < 0.06 * np.linalg.norm(expected)
    # and that is not the likelihood's gradient: the test above can tell
    exact = exact_gradient(model)
    assert np.linalg.norm(expected - exact) > 0.1 * np.linalg.norm(exact)


def test_persistent_chains_reach_the_models_law():
    loss, model = PersistentContrastiveDivergence(4000, 1, BETA), quartic()
    state = loss.initial_state(model, DATA, KEY)
    assert state.shape == (4000, D)
    assert set(np.unique(state)) == {-1.0, 1.0}
    step, grads = eqx.filter_jit(loss.value_and_grad), None
    for k in range(25):
        (_, grads), state = step(model, DATA, jr.fold_in(KEY, k), state)
    exact = exact_gradient(model)
    assert np.linalg.norm(vector(grads) - exact) < 0.06 * np.linalg.norm(exact)


@pytest.mark.parametrize("kind", ["plain", "persistent"])
def test_fit_learns_a_law_by_contrast(kind):
    """An Ising model learns the correlations of its data; the exact likelihood says so."""
    J = 0.4 * jr.normal(jr.key(7), (D, D))
    truth = am.BipolarIsing(J + J.T)
    p = jax.nn.softmax(-jax.vmap(truth.energy)(jnp.asarray(STATES, "f4")))
    data = jnp.asarray(STATES, "f4")[jr.choice(KEY, 2**D, (400,), p=p)]

    def nll(model):
        E = jax.vmap(model.energy)
        return E(data).mean() + jax.nn.logsumexp(-E(jnp.asarray(STATES, "f4")))

    loss = ContrastiveDivergence(2) if kind == "plain" else PersistentContrastiveDivergence(200, 2)
    start = am.BipolarIsing(jnp.zeros((D, D)))
    result = am.fit(
        start, data, loss, optax.adam(0.02), 25, 40, KEY, progress=False, validation=data
    )
    assert nll(result.last) < nll(truth) + 0.05 < nll(start) - 0.1
    assert (result.last.J == result.last.J.T).all()


def test_contrastive_divergence_refuses_what_is_no_spin_law():
    loss = ContrastiveDivergence()
    with pytest.raises(TypeError, match="must be a binary memory; Linear came"):
        loss.check(Linear(jnp.ones((2, 2))), DATA)
    with pytest.raises(ValueError, match="ContrastiveDivergence: data: a state must hold only -1"):
        loss.check(quartic(), DATA * 0.5)
    with pytest.raises(ValueError, match="order: must be one of"):
        ContrastiveDivergence(order="greedy")
    with pytest.raises(ValueError, match="sweeps: must be at least 1"):
        ContrastiveDivergence(0)
    with pytest.raises(ValueError, match="beta: must be finite and greater than 0"):
        PersistentContrastiveDivergence(beta=-1.0)


# -- equilibrium propagation -------------------------------------------------------------------


class Weights(eqx.Module):
    W: jax.Array

    def __call__(self, a, b):
        return -jnp.dot(a, self.W @ b)


def chain(a, b):
    """Three layers in a row."""
    layers = {"in": am.TanhLayer(3), "mid": am.TanhLayer(4), "out": am.IdentityLayer(2)}
    return am.HAM(layers, {"a": a, "b": b}, [(("in", "mid"), "a"), (("mid", "out"), "b")])


@pytest.mark.parametrize("symmetric", [False, True])
def test_equilibrium_propagation_tends_to_the_implicit_gradient(symmetric):
    """The error falls as the nudge, or as its square if symmetric."""
    a, b = Weights(0.4 * jr.normal(jr.key(1), (3, 4))), Weights(0.15 * jr.normal(KEY, (4, 2)))
    model = chain(a, b)
    batch = jr.normal(jr.key(2), (5, 3)), jr.normal(jr.key(3), (5, 2))

    def loss(nudge):
        return EquilibriumPropagation("in", "out", None, nudge, symmetric, 150, 0.3)

    # At rest the derivative through all steps is the implicit one.
    value, exact = eqx.filter_jit(eqx.filter_value_and_grad(loss(0.1)))(model, batch, KEY)
    exact, errors = vector(exact), []
    for nudge in (0.1, 0.03):
        found, grads = eqx.filter_jit(loss(nudge).value_and_grad)(model, batch, KEY)
        np.testing.assert_allclose(found, value, rtol=1e-5)
        errors.append(np.linalg.norm(vector(grads) - exact) / np.linalg.norm(exact))
    assert errors[1] < (0.005 if symmetric else 0.07)
    expected = (10 / 3) ** (2 if symmetric else 1)
    assert 0.7 * expected < errors[0] / errors[1] < 1.4 * expected


def test_fit_learns_by_equilibrium_propagation():
    a, b = Weights(0.3 * jr.normal(jr.key(1), (3, 4))), Weights(0.3 * jr.normal(KEY, (4, 2)))
    model = chain(a, b)
    x = jr.normal(jr.key(2), (60, 3))
    data = x, jnp.tanh(x[:, :2])
    loss = EquilibriumPropagation("in", "out", steps=30, dt=0.3)
    result = am.fit(model, data, loss, optax.adam(0.02), 30, 20, KEY, progress=False)
    assert result.history["loss"][-1] < 0.1 * result.history["loss"][0]


def test_equilibrium_propagation_refuses_a_nudge_of_nothing():
    with pytest.raises(ValueError, match="nudge must not be 0"):
        EquilibriumPropagation("in", "out", nudge=0.0)


# -- masked patches --------------------------------------------------------------------------------


def shown_in_part(image, hidden, patch=2):
    """A map that knows what it is shown, and says 0 of the rest."""
    return jnp.where(patches.pixels_of(hidden, image.shape, (patch, patch)), 0.0, image)


def test_masked_patches_by_hand():
    """The root of the mean over all pixels, with those that do not count as 0."""
    images = jr.normal(jr.key(0), (5, 4, 6))
    loss = am.learning.MaskedPatches(2, 2, 1, apply=lambda c, image, hidden: c * image + 1.0)
    key, total = jr.key(1), 0.0
    for k, image in zip(jr.split(key, 5), np.asarray(images), strict=True):
        hidden, counted = map(np.asarray, loss.draw(k, (4, 6)))
        assert (hidden.sum(), counted.sum()) == (2, 3)
        assert (counted | ~hidden).all()
        where = np.kron(counted.reshape(2, 3), np.ones((2, 2))) > 0
        total += (((3.0 * image + 1 - image) ** 2) * where).sum()
    assert_allclose(loss(jnp.asarray(3.0), images, key), np.sqrt(total / images.size), rtol=1e-5)
    square = am.learning.MaskedPatches(2, 2, 1, apply=loss.apply, root=False)
    assert_allclose(square(jnp.asarray(3.0), images, key), total / images.size, rtol=1e-5)


def test_masked_patches_show_nothing_of_what_is_hidden():
    images = jr.normal(jr.key(0), (3, 4, 6))
    call = lambda _, image, hidden: shown_in_part(image, hidden)
    only_shown = am.learning.MaskedPatches(2, 1, 5, apply=call)
    masks = [only_shown.draw(k, (4, 6))[0] for k in jr.split(jr.key(1), 3)]
    lost = [(image - shown_in_part(image, m)) ** 2 for image, m in zip(images, masks, strict=True)]
    expected = np.sqrt(np.sum(lost) / images.size)
    assert_allclose(only_shown(None, images, jr.key(1)), expected, rtol=1e-5)


def test_masked_patches_by_default_are_the_published_shares():
    hidden, counted = am.learning.MaskedPatches(16).draw(jr.key(0), (224, 224, 3))
    assert (hidden.sum(), counted.sum(), hidden.size) == (90, 100, 196)
    hidden, counted = am.learning.MaskedPatches(4).draw(jr.key(0), (28, 28))
    assert (hidden.sum(), counted.sum(), hidden.size) == (22, 24, 49)


def test_masked_patches_of_a_perfect_model_have_a_gradient():
    loss = am.learning.MaskedPatches(2, 1, apply=lambda c, image, hidden: c * image)
    value, slope = jax.value_and_grad(loss)(jnp.asarray(1.0), jnp.ones((2, 4, 4)), jr.key(0))
    assert value == slope == 0


def test_masked_patches_that_do_not_fit():
    images = jnp.ones((4, 6, 6))
    cases: list[tuple[dict[str, Any], str]] = [
        ({"patch": 4}, r"MaskedPatches: patch must divide"),
        ({"patch": 3, "hidden": 4, "shown": 1}, r"at most the number of patches, 4; 4 and 1 came"),
        ({"patch": 3, "hidden": 0}, r"MaskedPatches: hidden: must be at least 1"),
        ({"patch": 3, "shown": -1}, r"MaskedPatches: shown: must be at least 0"),
    ]
    for words, message in cases:
        loss = am.learning.MaskedPatches(apply=lambda c, x, h: c * x, **words)
        for call in (lambda loss=loss: loss(jnp.ones(()), images, jr.key(0)),
                     lambda loss=loss: loss.check(None, images)):  # fmt: skip
            with pytest.raises(ValueError, match=message):
                call()
    with pytest.raises(ValueError, match=r"data must be one array of pictures; tuple came"):
        am.learning.MaskedPatches(2).check(None, (images, images))
