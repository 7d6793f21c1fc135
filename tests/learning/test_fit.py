"""The training loop: what it computes, how it stops, and that killing it changes nothing."""

import hashlib
import inspect
import json
import os
import signal
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax import lax

import amlib as am
from amlib.learning import (
    OUTCOMES,
    AbstractGradientLoss,
    AbstractLoss,
    AbstractStatefulLoss,
    _checkpoint,
    _examples,
)
from tests.users import am as plain


class Line(eqx.Module):
    """A linear map with something frozen, something of integers, and a static field."""

    w: jax.Array
    b: jax.Array
    table: jax.Array
    name: str = eqx.field(static=True, default="line")

    def __call__(self, x):
        return jnp.dot(self.w, x) + self.b


def loss(model, batch, key):
    del key
    return jnp.mean((jax.vmap(model)(batch["x"]) - batch["y"]) ** 2)


def mean_abs(model, batch):
    return jnp.mean(jnp.abs(jax.vmap(model)(batch["x"]) - batch["y"]))


SGD, ADAM = optax.sgd(0.1), optax.adam(0.05)
KEY = jr.key(3)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 3))
    return {"x": x, "y": x @ [1.0, -2.0, 0.5] + 0.3 + 0.01 * rng.normal(size=50)}


def line():
    return Line(jnp.zeros(3), jnp.asarray(0.0), jnp.arange(4))


def fit(
    data,
    epochs=5,
    *,
    model=None,
    loss=loss,
    optimizer: optax.GradientTransformation = ADAM,
    batch_size=8,
    key=KEY,
    progress=False,
    library=am,
    **options,
):
    model = line() if model is None else model
    return library.fit(
        model, data, loss, optimizer, epochs, batch_size, key, progress=progress, **options
    )


def weights(model):
    return np.concatenate([np.ravel(leaf) for leaf in (model.w, model.b)])


def only(where, model=None):
    """The filter that chooses parts of a model, as Equinox has it."""
    none = jax.tree.map(lambda _: False, line() if model is None else model)
    return eqx.tree_at(where, none, replace_fn=lambda _: True)


class Scaled(eqx.Module):
    """What `Line` computes, over a temperature and after a layer that are never trained."""

    line: Line
    parts: dict
    T: jax.Array = eqx.field(metadata={"trained": False})

    def __call__(self, x):
        return self.line(x) / self.T + self.parts["a"][0].shift


class Shift(eqx.Module):
    shift: jax.Array = eqx.field(metadata={"trained": False})


SCALED = Scaled(line(), {"a": [Shift(jnp.asarray(0.5))]}, jnp.asarray(2.0))


def test_it_learns_and_reports(data):
    result = fit(data, 60, validation=0.2, metrics={"error": mean_abs})
    np.testing.assert_allclose(weights(result.model), [1, -2, 0.5, 0.3], atol=0.02)
    assert result.result == OUTCOMES.completed
    assert set(result.history) == {"loss", "validation_loss", "error", "seconds"}
    assert all(v.shape == (60,) and v.dtype == np.float64 for v in result.history.values())
    assert result.best_epoch == 1 + result.history["validation_loss"].argmin()
    assert (result.model.table == jnp.arange(4)).all()


def test_an_epoch_is_the_loop_that_one_would_write(data):
    """Against a plain loop over batches, with the same shuffling: every example once."""
    result = fit(data, 2, optimizer=SGD, batch_size=16)
    model, epoch_losses = line(), []
    epochs_key = jr.split(KEY, 4)[0]
    x, y = jnp.asarray(data["x"]), jnp.asarray(data["y"])
    for epoch in range(2):
        order = jr.permutation(jr.split(jr.fold_in(epochs_key, epoch))[0], 50)
        losses = []
        for k in range(3):
            rows = order[16 * k : 16 * k + 16]
            r = x[rows] @ model.w + model.b - y[rows]
            losses.append(float(jnp.mean(r**2)))
            gw, gb = 2 * (r @ x[rows]) / 16, 2 * r.mean()
            model = eqx.tree_at(
                lambda m: (m.w, m.b), model, (model.w - 0.1 * gw, model.b - 0.1 * gb)
            )
        epoch_losses.append(np.mean(losses))
    np.testing.assert_allclose(weights(result.model), weights(model), rtol=1e-5)
    np.testing.assert_allclose(result.history["loss"], epoch_losses, rtol=1e-5)
    assert result.best_epoch == 2


def test_validation_counts_every_example_once(data):
    """50 examples in batches of 8: the last two count as two."""
    result = fit(data, 1, validation=data, metrics={"error": mean_abs})
    arrays = jax.tree.map(jnp.asarray, data)
    exact = float(loss(result.model, arrays, None)), float(mean_abs(result.model, arrays))
    found = result.history["validation_loss"][0], result.history["error"][0]
    np.testing.assert_allclose(found, exact, rtol=1e-6)


def test_validation_noise_is_the_same_each_epoch(data):
    def noisy(model, batch, key):
        return loss(model, batch, None) + jr.normal(key)

    result = fit(data, 3, loss=noisy, optimizer=optax.sgd(0.0), validation=data)
    assert len(set(result.history["validation_loss"])) == 1
    assert len(set(result.history["loss"])) == 3


def test_a_fraction_sets_examples_aside():
    data = {"x": jnp.arange(50.0)[:, None], "y": jnp.arange(50.0)}
    training, validation = (part.all() for part in _examples.split(data, 0.2, KEY) if part)
    assert (len(training["y"]), len(validation["y"])) == (40, 10)
    assert sorted([*training["y"].tolist(), *validation["y"].tolist()]) == list(range(50))
    assert (training["x"][:, 0] == training["y"]).all()
    assert validation["y"].tolist() != list(range(10))


def test_early_stopping_returns_the_best_model(data):
    """Validation data with the opposite sign: every epoch makes it worse."""
    against = {"x": np.asarray(data["x"]), "y": -np.asarray(data["y"])}
    result = fit(data, 50, validation=against, patience=3)
    assert result.result == OUTCOMES.early_stopped
    assert (result.epoch, result.best_epoch) == (4, 1)
    assert len(result.history["loss"]) == 4
    one, four = fit(data, 1), fit(data, 4)
    assert (weights(result.model) == weights(one.model)).all()
    assert (weights(result.last) == weights(four.model)).all()


@pytest.mark.parametrize(
    "trainable",
    [
        only(lambda model: model.w),
        only(lambda model: (model.w, model.table)),
        lambda leaf: eqx.is_inexact_array(leaf) and leaf.ndim == 1,
        lambda leaf: np.bool_(leaf.ndim == 1),
        Line(True, False, False),  # pyright: ignore[reportArgumentType]
        Line(lambda leaf: leaf.ndim == 1, False, eqx.is_array),  # pyright: ignore[reportArgumentType]
    ],
    ids=["part", "parts", "function", "numpy", "tree", "functions"],
)
def test_frozen_parts_stay(data, trainable):
    """What `equinox.partition` takes; and the same floats are trained as it chooses."""
    result = fit(data, 2, trainable=trainable)
    assert result.model.b == 0.0
    assert (result.model.w != 0).all()
    assert (result.model.table == jnp.arange(4)).all()


def test_a_filter_chooses_by_the_upper_part_of_a_model(data):
    end = fit(data, 1, model=SCALED, trainable=only(lambda m: m.line, SCALED)).last
    assert (end.line.w != 0).all()
    assert end.line.b != 0
    assert end.T == 2.0


def test_a_filter_is_asked_once_about_each_leaf_and_not_about_the_model(data):
    asked = []
    fit(data, 1, trainable=lambda leaf: not asked.append(leaf))
    assert [leaf.shape for leaf in asked] == [(3,), ()]


@pytest.mark.parametrize(
    ("trainable", "error", "match"),
    [
        (lambda model: model.w, TypeError, r"no attribute 'w'.* chosen by eqx.tree_at\("),
        (lambda leaf: leaf.T, TypeError, r"must return a bool for each leaf .*Array\w* came"),
        (Line(3, True, True), TypeError, "must hold bools, or functions .* int came"),  # pyright: ignore[reportArgumentType]
        ([True, False], ValueError, "must have the structure of the model"),
        (Line(True, (True, True), False), ValueError, "must have the structure"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_what_is_no_filter_is_refused(data, trainable, error, match):
    with pytest.raises(error, match=match):
        fit(data, trainable=trainable, library=plain)


def test_constraint_by_parametrisation(data):
    class Symmetric(eqx.Module):
        A: jax.Array

        @property
        def J(self):
            J = self.A + self.A.T
            return J - jnp.diag(jnp.diag(J))

    def energy(model, batch, key):
        x = batch["x"]
        return -jnp.mean(jnp.einsum("bi,ij,bj->b", x, model.J, x)) + jnp.sum(model.A**2)

    J = fit(data, 3, model=Symmetric(jnp.eye(3)), loss=energy).model.J
    assert (J == J.T).all()
    assert (jnp.diag(J) == 0).all()
    assert jnp.abs(J).max() > 0.1


def documented(cls):
    """The class in the example of a docstring, and its lines."""
    code = inspect.cleandoc(cls.__doc__).split("```python\n")[1].split("```")[0]
    namespace = {"am": am, "jax": jax, "jnp": jnp}
    exec(code, namespace)
    (example,) = (v for k, v in namespace.items() if isinstance(v, type) and f"class {k}(" in code)
    return example, code.splitlines()


Quantile, LINES = documented(AbstractLoss)


def test_a_loss_of_ones_own_is_one_class(data):
    """The example of the docstring: it learns what it says, and checks once before the training."""
    assert len(LINES) < 40
    pair = (data["x"], data["y"])
    for q in (0.9, 0.1):
        end = fit(pair, 60, loss=Quantile(q), validation=0.2).last
        below = data["y"] <= data["x"] @ end.w + end.b
        np.testing.assert_allclose(below.mean(), q, atol=0.1)
    with pytest.raises(ValueError, match=r"q must lie in \(0, 1\); 2 came"):
        fit(pair, loss=Quantile(2))


def test_the_check_of_a_loss_sees_training_and_validation_data(data):
    class Checked(AbstractLoss):
        seen: list = eqx.field(static=True)

        def __call__(self, model, batch, key):
            return loss(model, batch, key)

        def check(self, model, data):
            assert isinstance(model, Line)
            self.seen.append(len(data["y"]))

    seen = []
    fit(data, 1, loss=Checked(seen))
    fit(data, 1, loss=Checked(seen), validation=0.2)
    assert seen == [50, 40, 10]


def test_a_loss_is_asked_nothing_that_its_class_does_not_promise(data):
    """A function with other names on it is a function: nothing is looked up by name."""

    def named(model, batch, key):
        return loss(model, batch, key)

    named.check = named.value_and_grad = named.initial_state = lambda *_: 1 / 0  # pyright: ignore[reportFunctionMemberAccess]
    found, expected = fit(data, 2, loss=named), fit(data, 2)
    assert (weights(found.model) == weights(expected.model)).all()
    with pytest.raises(TypeError, match="abstract"):
        AbstractLoss()  # pyright: ignore[reportAbstractUsage]


def test_parts_that_are_not_trained_are_not_differentiated(data):
    """A loop of unknown length has no derivative; over what is frozen it needs none."""

    class Looped(AbstractLoss):
        def __call__(self, model, batch, key):
            b = lax.while_loop(lambda b: b < 3, lambda b: b + 1, model.b)
            return jnp.mean((batch["x"] @ model.w + b - batch["y"]) ** 2)

    result = fit(data, 2, loss=Looped(), trainable=only(lambda m: m.w))
    assert (result.model.w != 0).all()


def test_a_loss_may_bring_its_own_gradient_and_state(data):
    class Signs(AbstractStatefulLoss):
        """Steps of one size, whatever the loss; its state counts the batches."""

        def __call__(self, model, batch, key):
            return loss(model, batch, key)

        def initial_state(self, model, data, key):
            return jnp.asarray(data["x"].shape[0])

        def value_and_grad(self, model, batch, key, state):
            value, grads = eqx.filter_value_and_grad(loss)(model, batch, key)
            return (jnp.where(state < 52, 7.0, value), jax.tree.map(jnp.sign, grads)), state + 1

    result = fit(data, 1, loss=Signs(), optimizer=SGD, trainable=only(lambda model: model.w))
    steps = weights(result.model) / 0.1
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-5)
    assert steps[3] == 0
    assert (np.abs(steps[:3]) >= 1).all()
    # the first two of six batches saw a state of 50 and 51
    assert 14 / 6 < result.history["loss"][0] < 7


def test_a_pseudo_gradient_of_another_shape_is_refused(data):
    class Wrong(AbstractGradientLoss):
        def __call__(self, model, batch, key):
            return jnp.asarray(0.0)

        def value_and_grad(self, model, batch, key):
            return jnp.asarray(0.0), eqx.filter(model, lambda leaf: False)

    with pytest.raises(ValueError, match=r"value_and_grad must return an array of shape \(3,\)"):
        fit(data, loss=Wrong())


def test_optimisers_that_need_parameters_and_count_steps(data):
    schedule = optax.piecewise_constant_schedule(0.05, {6: 0.0})  # nothing after one epoch
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.adamw)(schedule, weight_decay=0.1),
    )
    one, two = (fit(data, n, optimizer=optimizer) for n in (1, 2))
    assert (weights(one.model) == weights(two.model)).all()
    assert (weights(one.model) != 0).all()


def test_a_second_fit_does_not_compile(data):
    traces = []

    def counted(model, batch, key):
        traces.append(None)
        return loss(model, batch, key)

    fit(data, 2, loss=counted, validation=data)
    before = len(traces)
    fit(data, 3, loss=counted, validation=data, key=jr.key(9))
    assert len(traces) == before


def test_old_keys_do_as_well(data):
    assert fit(data, 1, key=jr.PRNGKey(0)).epoch == 1


def test_the_bar_shows_the_loss(data, capsys):
    fit(data, 2, progress=True)
    shown = capsys.readouterr().err
    assert "fit: 100%" in shown
    assert "loss=" in shown
    fit(data, 2)
    assert capsys.readouterr().err == ""


FLAT = {
    "a sign": lambda m, b, k: jnp.mean(jnp.sign(jax.vmap(m)(b["x"])) * b["y"]),
    "stop_gradient": lambda m, b, k: loss(lax.stop_gradient(m), b, k),
    "another loss": lambda m, b, k: jnp.mean(b["y"] ** 2),
    "saturated": lambda m, b, k: jnp.mean(jnp.tanh(jax.vmap(m)(b["x"]) + 100)),
}


@pytest.mark.parametrize("why", FLAT)
@pytest.mark.parametrize("optimizer", [SGD, ADAM, optax.adamw(0.01, weight_decay=0.1)])
def test_a_loss_without_slope_is_told_once(data, why, optimizer):
    model = Line(jnp.array([1.0, -2.0, 0.1]), jnp.asarray(0.1), jnp.arange(4))
    with pytest.warns(UserWarning, match=r"in epoch 1, the gradient is exactly zero") as caught:
        fit(data, 3, model=model, loss=FLAT[why], optimizer=optimizer)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_gradient_that_dies_later_is_told(data):
    """A relu that the first steps kill, also after a learning rate of zero, which kills nothing."""

    def dying(model, batch, key):
        return jnp.mean(jax.nn.relu(jax.vmap(model)(0 * batch["x"]) + 0.25))

    with pytest.warns(UserWarning, match="in epoch 2, the gradient is exactly zero"):
        fit(data, 3, loss=dying, optimizer=SGD)
    late = optax.sgd(lambda step: 0.1 * jnp.greater_equal(step, 6))  # 6 steps are an epoch
    with pytest.warns(UserWarning, match="in epoch 3, the gradient is exactly zero"):
        fit(data, 3, loss=dying, optimizer=late)
    fit(data, 4, optimizer=optax.sgd(0.0))


@pytest.mark.parametrize(
    "trainable", [None, eqx.is_inexact_array, only(lambda m: [m.line.w, m.T], SCALED)]
)
def test_fields_that_are_not_trained_reach_no_optimiser(data, trainable):
    seen = []

    def spy(updates, state, params=None):
        seen.append(jax.tree.structure(params))
        return jax.tree.map(lambda p: -p - 1, params), state

    optimizer = optax.GradientTransformation(lambda params: (), spy)
    end = fit(data, 1, model=SCALED, optimizer=optimizer, trainable=trainable).last
    assert (end.T, end.parts["a"][0].shift) == (2.0, 0.5)
    assert (end.line.w != 0).all()
    assert {tree.num_leaves for tree in seen} <= {1, 2}  # w, and b where it is trained
    with pytest.raises(ValueError, match="`trainable` chooses none"):
        fit(data, 1, model=SCALED, trainable=only(lambda m: m.T, SCALED))


# -- what goes wrong ---------------------------------------------------------------------------


def test_a_learning_rate_that_diverges_stops_with_the_last_good_model(data):
    result = fit(data, 50, optimizer=optax.sgd(1e5))
    assert result.result == OUTCOMES.nonfinite
    assert "Lower the learning rate" in str(result.result)
    assert 1 <= result.epoch < 50
    assert len(result.history["loss"]) == result.epoch
    assert not np.isfinite(result.history["loss"][-1]) or result.epoch == 1
    assert np.isfinite(weights(result.model)).all()
    assert result.best_epoch == result.epoch - 1


def test_a_nan_in_the_third_epoch_leaves_the_second_model(data):
    """A schedule that turns NaN after 2 epochs of 6 steps."""
    optimizer = optax.sgd(lambda step: jnp.where(jnp.less(step, 12), 0.05, jnp.nan))
    result = fit(data, 9, optimizer=optimizer, validation=data)
    good = fit(data, 2, optimizer=optax.sgd(0.05))
    assert (result.result, result.epoch) == (OUTCOMES.nonfinite, 3)
    np.testing.assert_allclose(weights(result.last), weights(good.last), rtol=1e-6)
    assert result.best_epoch in (1, 2)


def changed(data, **columns):
    return {**data, **columns}


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"data": {}}, ValueError, "fit: data: must hold at least one example; it is empty"),
        ({"data": {"x": np.zeros((0, 3)), "y": np.zeros(0)}}, ValueError, "it is empty"),
        (
            {"data": {"x": np.zeros((5, 3)), "y": np.zeros(4)}},
            ValueError,
            "same length of the first axis; 4, 5 came",
        ),
        ({"data": {"x": 3.0}}, ValueError, r"data\['x'\]: must have one row per example"),
        ({"data": {"x": "abc"}}, TypeError, r"data\['x'\]: must be an array of numbers; str came"),
        (
            {"data": {"x": np.full((5, 3), np.nan), "y": np.zeros(5)}},
            ValueError,
            r"data\['x'\]: every value must be finite",
        ),
        ({"batch_size": 51}, ValueError, "at most the number of training examples, 50; 51 came"),
        ({"batch_size": 41, "validation": 0.2}, ValueError, "training examples, 40; 41 came"),
        ({"batch_size": 0}, ValueError, "fit: batch_size: must be at least 1; 0 came"),
        ({"batch_size": 8.0}, TypeError, "fit: batch_size: must be an integer"),
        ({"epochs": 0}, ValueError, "fit: epochs: must be at least 1; 0 came"),
        ({"epochs": True}, TypeError, "fit: epochs: must be an integer; True came"),
        ({"optimizer": 1e-3}, TypeError, r"must be an Optax optimiser; float came. Write optax"),
        ({"optimizer": optax.adam}, TypeError, "must be an Optax optimiser; function came"),
        ({"loss": 3}, TypeError, r"loss must be a function loss\(model, batch, key\).*int came"),
        ({"loss": Quantile}, TypeError, "an AbstractLoss such as .* the class Quantile came"),
        (
            {"loss": lambda m, b, k: b["y"] * m.b},
            ValueError,
            r"fit: loss must be one number per batch; shape \(8,\) came. Take the mean",
        ),
        ({"loss": lambda m, b, k: lax.complex(m.b, m.b)}, TypeError, "fit: loss must be real"),
        ({"model": Line(jnp.arange(3), jnp.arange(1), 0)}, ValueError, "something to train"),  # pyright: ignore[reportArgumentType]
        ({"trainable": only(lambda m: m.table)}, ValueError, "`trainable` chooses none"),
        ({"patience": 2}, ValueError, "fit: patience needs validation data; none came"),
        ({"metrics": {"a": mean_abs}}, ValueError, "fit: metrics needs validation data"),
        (
            {"metrics": {"loss": mean_abs}, "validation": 0.5},
            ValueError,
            "the name 'loss' is taken",
        ),
        ({"metrics": {"a": 1}, "validation": 0.5}, TypeError, "'a' must be a function"),
        ({"validation": 1}, ValueError, r"a fraction in \(0, 1\) of the 50 examples"),
        ({"validation": 0.999}, ValueError, "leaves some for training; 0.999 came"),
        ({"validation": {"x": np.zeros((5, 3))}}, ValueError, "must be like the training data"),
        (
            {"validation": {"x": np.zeros((5, 2)), "y": np.zeros(5)}},
            ValueError,
            r"must be like the training data.*float32\[2\]",
        ),
    ],
)
def test_bad_input_is_refused_at_once(data, arguments, error, match):
    with pytest.raises(error, match=match):
        fit(**{"data": data, **arguments}, library=plain)


def test_no_key_no_training(data):
    from amlib import _checks

    with pytest.raises(TypeError, match=r"key: must be one random key; int came"):
        _checks.key(3, "fit: key")
    with pytest.raises(TypeError, match=r"key: must be one random key; key<fry>\[2\] came"):
        fit(data, key=jr.split(KEY))


# -- checkpoints -------------------------------------------------------------------------------


def test_a_checkpoint_goes_on_bit_for_bit(data, tmp_path):
    options = {"validation": 0.2, "metrics": {"error": mean_abs}}
    whole = fit(data, 6, **options)
    path = tmp_path / "run"
    fit(data, 2, checkpoint=path, **options)
    result = fit(data, 6, checkpoint=path, **options)
    for name in ("model", "last"):
        assert (weights(getattr(result, name)) == weights(getattr(whole, name))).all()
    assert result.best_epoch == whole.best_epoch
    for name in ("loss", "validation_loss", "error"):
        assert (result.history[name] == whole.history[name]).all()
    # a finished run is returned as it is
    again = fit(data, 6, checkpoint=path, **options)
    assert (weights(again.model) == weights(whole.model)).all()
    assert (again.history["seconds"] == result.history["seconds"]).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            {"model": Line(jnp.zeros(3), jnp.asarray(0.0), jnp.arange(5))},
            r"model:\s+\.table: int32\[4\] in the file, int32\[5\]",
        ),
        (
            {"model": Line(jnp.zeros(3), jnp.asarray(0.0), jnp.arange(4), "x")},
            r"\.name: 'line' in the file, 'x' in this run",
        ),
        ({"model": Line(jnp.ones(3), jnp.asarray(0.0), jnp.arange(4))}, "in initial weights"),
        (
            {"model": Line(jnp.zeros(3), jnp.asarray(0.0), jnp.arange(1, 5))},
            "in weights not trained",
        ),
        ({"trainable": only(lambda model: model.w)}, r"in trained parts:\s+\.b"),
        ({"optimizer": SGD}, r"in optimizer:\s+"),
        ({"optimizer": optax.adam(0.06)}, "in optimizer:\n  it computes something else"),
        ({"optimizer": optax.adam(0.05, b1=0.95)}, "in optimizer:\n  it computes something else"),
        (
            {"optimizer": optax.inject_hyperparams(optax.adam)(0.05)},
            "in optimizer",
        ),
        ({"batch_size": 7}, "in batch_size:\n  8 then, 7 now"),
        ({"key": jr.key(4)}, "in key"),
        ({"loss": mean_abs}, "in loss"),
        ({"validation": 0.2}, "in data"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_kept(data, tmp_path, change, match):
    path = tmp_path / "run"
    fit(data, 1, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=match) as error:
        fit(data, 2, checkpoint=path, **change)
    assert "The file is kept" in str(error.value)
    assert path.read_bytes() == before


def powers(power, weights):
    """Losses that differ in a number or an array that they close over, and in nothing else."""

    def loss(model, batch, key):
        error = jnp.abs(jax.vmap(model)(batch["x"]) - batch["y"]) ** power
        return jnp.mean(error) + jnp.sum(weights * model.w)

    return loss


def test_checkpoints_tell_constants_apart(data, tmp_path):
    path, zeros = tmp_path / "run", np.zeros(3, np.float32)
    options = {"checkpoint": path, "validation": 0.2}

    def metric(scale):
        return lambda model, batch: scale * mean_abs(model, batch)

    def run(epochs, power=1.5, weights=zeros, scale=1.0, optimizer=ADAM):
        loss, metrics = powers(power, weights), {"m": metric(scale)}
        return fit(data, epochs, loss=loss, metrics=metrics, optimizer=optimizer, **options)

    run(1)
    before = path.read_bytes()
    for name, change in {
        "loss": {"power": 1.5001},
        "loss ": {"weights": zeros + np.array([0, 1e-9, 0], np.float32)},
        "metric 'm'": {"scale": 2.0},
        "optimizer": {"optimizer": optax.adam(0.05, eps=1.001e-8)},
    }.items():
        with pytest.raises(ValueError, match=f"it differs in {name.strip()}:\n  it computes"):
            run(2, **change)
        assert path.read_bytes() == before
    assert run(2).epoch == 2  # the same functions, made anew


def test_a_checkpoint_of_another_jax_is_compared_by_what_the_optimiser_does(
    data, tmp_path, monkeypatch
):
    path = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(_checkpoint, "versions", lambda: {"jax": "0.0.1"})
        patch.setattr(_checkpoint, "_computation", lambda *_: {"loss": "another text"})
        fit(data, 1, checkpoint=path)
    for other in (optax.adam(0.06), optax.adam(0.05, b1=0.95), optax.adam(0.05, b2=0.9)):
        with pytest.raises(ValueError, match=r"in optimizer:\n  its first steps on a probe"):
            fit(data, 2, checkpoint=path, optimizer=other)
    assert fit(data, 2, checkpoint=path).epoch == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda notes: notes.pop("epoch"),
        lambda notes: notes.update(epoch="1"),
        lambda notes: notes.update(epoch=7),
        lambda notes: notes["history"].update(loss=["x"]),
        lambda notes: notes.update(run=[]),
        lambda notes: notes.pop("versions"),
        lambda notes: notes.update(steps=[1.0]),
        lambda notes: notes.update(steps=[[], []]),
    ],
)
def test_a_forged_checkpoint_is_refused(data, tmp_path, spoil):
    path = tmp_path / "run"
    fit(data, 1, checkpoint=path)
    _, header, body = path.read_bytes().split(b"\n", 2)
    header = json.loads(header)
    spoil(header["notes"])
    rest = json.dumps(header).encode() + b"\n" + body
    path.write_bytes(f"amlib-file 1 {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)
    with pytest.raises(ValueError, match="damaged or forged"):
        fit(data, 2, checkpoint=path)


def test_checkpoints_of_other_data_are_refused(data, tmp_path):
    path = tmp_path / "run"
    fit(data, 1, checkpoint=path)
    with pytest.raises(ValueError, match="in the data's values:\n  other values"):
        fit(changed(data, y=data["y"] + 1), 2, checkpoint=path)
    with pytest.raises(ValueError, match=r"in data:\s+.*\[50, 3\].*then, .*\[49, 3\]"):
        fit(jax.tree.map(lambda a: a[1:], data), 2, checkpoint=path)


def test_a_damaged_checkpoint_is_refused_and_kept(data, tmp_path):
    path = tmp_path / "run"
    fit(data, 1, checkpoint=path)
    whole = path.read_bytes()
    for spoilt in (whole[:-9], whole[:300], b"", b"something else"):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="damaged"):
            fit(data, 2, checkpoint=path)
        assert path.read_bytes() == spoilt
    am.save(path, line())
    with pytest.raises(ValueError, match="must hold a checkpoint; it holds a model"):
        fit(data, 2, checkpoint=path)


KILLED = """
import os, signal, sys
from amlib import _files

path, die = sys.argv[1:]
if die == "writing":  # killed in the third writing, half of the file on the disk
    write, count = _files.write_atomic, []

    def killed(target, writer):
        class Half:
            def __init__(self, file):
                self.file = file
            def write(self, data):
                count.append(None)
                if len(count) == 6:  # two pieces per writing
                    self.file.write(bytes(data)[: len(data) // 2])
                    self.file.flush()
                    os.kill(os.getpid(), signal.SIGKILL)
                self.file.write(data)
        write(target, lambda file: writer(Half(file)))

    _files.write_atomic = killed
run(path, 100_000)
"""

RUN = """
import equinox as eqx, jax, jax.numpy as jnp, jax.random as jr, optax
import amlib as am

jax.config.update("jax_numpy_dtype_promotion", "strict")

def loss(model, batch, key):
    noisy = batch + 0.1 * jr.normal(key, batch.shape)
    return jnp.mean((jax.vmap(model)(noisy) - batch) ** 2)

optimizer = optax.adam(1e-2)

def run(path, epochs):
    x = jr.normal(jr.key(1), (64, 4))
    model = eqx.nn.MLP(4, 4, 8, 1, key=jr.key(2))
    return am.fit(
        model, x, loss, optimizer, epochs, 16, jr.key(3),
        checkpoint=path, validation=0.25, progress=False,
    )
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_a_killed_run_ends_with_the_same_bits(tmp_path):
    """Killed in the middle of a writing, then at some moment from outside, then finished."""
    path = tmp_path / "run"

    def start(die):
        command = [sys.executable, "-c", RUN + KILLED, str(path), die]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    def epoch():
        return json.loads(path.read_bytes().split(b"\n", 2)[1])["notes"]["epoch"]

    process = start("writing")
    _, err = process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL, err
    assert epoch() == 2
    assert len(list(tmp_path.glob(".run.*.part"))) == 1
    process = start("from outside")
    while epoch() < 5:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    assert process.returncode == -signal.SIGKILL
    epochs = epoch() + 3
    here = {}
    exec(RUN, here)
    resumed, whole = here["run"](path, epochs), here["run"](None, epochs)
    for name in ("model", "last"):
        bits = [
            b"".join(a.tobytes() for a in jax.tree.leaves(getattr(r, name)) if eqx.is_array(a))
            for r in (resumed, whole)
        ]
        assert len(bits[0]) == 4 * (4 * 8 + 8 + 8 * 4 + 4)
        assert bits[0] == bits[1]
    for name in ("loss", "validation_loss"):
        assert (resumed.history[name] == whole.history[name]).all()
