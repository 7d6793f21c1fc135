"""The optimiser of Krotov and Hopfield, against eq. 12 and 13 in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib.learning import DenseAMClassifier, PowerLoss, krotov_hopfield
from tests.users import am as plain


def published(xi, gradients, rate, p, bound=1.0):
    """Eq. 12 and 13, as loops over steps and memories; `gradients` of one step after another."""
    xi, V = np.array(xi, np.float64), np.zeros(np.shape(xi))
    for step, gradient in enumerate(gradients):
        V = p * V - gradient
        for mu in range(len(xi)):
            largest = np.abs(V[mu]).max()
            if largest > 0:
                xi[mu] += rate(step) * V[mu] / largest
        xi = np.clip(xi, -bound, bound)
    return xi


def run(optimizer, params, gradients):
    @jax.jit
    def step(gradient, state, params):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for gradient in gradients:
        params, state = step(gradient, state, params)
    return params


@pytest.mark.parametrize(("p", "bound"), [(0.0, 1.0), (0.6, 1.0), (0.95, 0.4)])
def test_steps_are_those_of_the_paper(p, bound):
    rng = np.random.default_rng(0)
    xi = rng.uniform(-bound, bound, (4, 6)).astype(np.float32)
    gradients = rng.normal(size=(7, 4, 6)) * 10.0 ** rng.integers(-9, 9, (1, 4, 1))
    gradients[:, 2] = 0  # a memory that never takes part
    gradients = gradients.astype(np.float32)
    rate = optax.exponential_decay(0.2, 2, 0.5, staircase=True)
    found = run(krotov_hopfield(rate, p, bound=bound), jnp.asarray(xi), list(gradients))
    expected = published(xi, gradients, lambda step: 0.2 * 0.5 ** (step // 2), p, bound)
    assert_allclose(found, expected, atol=2e-6)
    assert_allclose(found[2], xi[2])
    assert np.abs(expected).max() == bound  # the box is reached, so clipping is tested
    free = run(krotov_hopfield(rate, p, bound=None), jnp.asarray(xi), list(gradients))
    assert np.abs(free).max() > bound


def test_every_memory_moves_by_the_rate():
    xi = jnp.zeros((3, 5))
    gradient = jnp.asarray(np.random.default_rng(1).normal(size=(3, 5)), jnp.float32)
    moved = run(krotov_hopfield(0.03), xi, [gradient * jnp.array([[1e-20], [1.0], [1e20]])])
    assert_allclose(jnp.abs(moved).max(axis=1), 0.03, rtol=1e-6)


def test_scalars_follow_the_schedule_and_rest_without_one():
    schedule = optax.linear_schedule(300.0, 60.0, 4)
    params = {"Xi": jnp.zeros((2, 3)), "temperature": jnp.array(300.0)}
    gradient = jax.tree.map(jnp.ones_like, params)
    seen = []
    for steps in range(1, 7):
        out = run(krotov_hopfield(0.1, temperature=schedule), params, [gradient] * steps)
        seen.append(float(out["temperature"]))
    assert_allclose(seen, [240, 180, 120, 60, 60, 60], rtol=1e-6)
    assert run(krotov_hopfield(0.1), params, [gradient])["temperature"] == 300


def test_the_schedules_survive_fit_and_its_checkpoint(tmp_path):
    """Stopped and gone on with: the same weights and temperature, bit for bit."""
    rng = np.random.default_rng(2)
    data = (rng.uniform(-1, 1, (24, 9)).astype(np.float32), rng.integers(0, 3, 24))
    model = DenseAMClassifier(5, 9, 3, temperature=9.0, key=jax.random.key(0))
    optimizer = krotov_hopfield(
        optax.exponential_decay(0.05, 3, 0.9),
        0.8,
        temperature=optax.linear_schedule(9.0, 3.0, 6),
    )

    def train(epochs, checkpoint=None):
        key = jax.random.key(1)
        return am.fit(
            model, data, PowerLoss(2), optimizer, epochs, 8, key,
            checkpoint=checkpoint, progress=False,
        ).model  # fmt: skip

    whole = train(3)
    train(1, tmp_path / "run")
    resumed = train(3, tmp_path / "run")
    np.testing.assert_array_equal(whole.Xi, resumed.Xi)
    assert whole.temperature == resumed.temperature
    assert_allclose(whole.temperature, 3.0)
    assert_allclose(train(1).temperature, 6.0)


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "learning_rate: must be at least 0; -0.1 came", {"learning_rate": -0.1}),
        (TypeError, "learning_rate: must be a number; 'fast' came", {"learning_rate": "fast"}),
        (ValueError, "momentum: must be at least 0", {"momentum": -1}),
        (ValueError, "momentum: must be below 1; 1 came", {"momentum": 1}),
        (ValueError, "momentum: must be at least 0; nan came", {"momentum": float("nan")}),
        (ValueError, "bound: must be above 0; 0 came", {"bound": 0}),
        (TypeError, "temperature: must be a schedule", {"temperature": 300.0}),
    ],
)
def test_bad_settings(error, message, arguments):
    with pytest.raises(error, match=message):
        plain.learning.krotov_hopfield(**{"learning_rate": 0.1, **arguments})


def test_bad_parameters():
    optimizer = krotov_hopfield(0.1)
    with pytest.raises(ValueError, match=r"one memory per row.*shape \(3,\) came"):
        optimizer.init({"bias": jnp.zeros(3)})
    state = optimizer.init(jnp.zeros((2, 3)))
    with pytest.raises(ValueError, match="update needs the parameters"):
        optimizer.update(jnp.ones((2, 3)), state)
