"""Score matching, averages over a training, and a network in the place of the exact energy."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib.learning import DenoisingScoreMatching, DiffusionNetwork, averaged, moving_average
from tests.users import am as users

PAIR = jnp.asarray([[-1.0, 0.0], [1.0, 0.0]])


def network(**options):
    return DiffusionNetwork(jr.key(0), (2,), spread=0.7, width=32, features=16, **options)


@eqx.filter_jit
def loss_of(model, data, loss):
    return loss(model, data, jr.key(0))


# -- the loss ------------------------------------------------------------------------------------


def test_one_pattern_is_told_from_its_noise_exactly():
    exact = am.DiffusionMemory(PAIR[:1], 0.7)
    value = loss_of(exact, jnp.tile(PAIR[:1], (64, 1)), DenoisingScoreMatching(1e-3))
    assert float(value) < 1e-6


def test_the_loss_is_its_definition():
    """Of two patterns on a line, by quadrature over all the noise at nearly one time."""
    t, memory = 0.8, am.DiffusionMemory(jnp.asarray([[-1.0], [1.0]]))
    loss = DenoisingScoreMatching(t, t * 1.0001, draws=512)
    found = loss_of(memory, jnp.tile(memory.Xi, (16, 1)), loss)
    z, w = np.polynomial.hermite_e.hermegauss(60)
    x = 1 + math.sqrt(t) * z
    wrong = z + (np.tanh(x / t) - x) / math.sqrt(t)
    assert float(found) == pytest.approx((w / w.sum()) @ wrong**2, rel=0.05)


def test_the_exact_energy_has_the_least_loss_and_a_training_finds_it():
    data, loss = jnp.tile(PAIR, (256, 1)), DenoisingScoreMatching(0.05, draws=4)
    best = float(loss_of(am.DiffusionMemory(PAIR), data, loss))
    moved = am.DiffusionMemory(PAIR * jnp.asarray([[0.8, 1.0]]))
    assert float(loss_of(moved, data, loss)) > best
    # Patterns that are wrong come back to the data.
    result = am.fit(moved, data, loss, optax.adam(0.02), 8, 64, jr.key(1), progress=False)
    assert_allclose(result.model.Xi, PAIR, atol=0.02)
    assert float(result.model.sigma) == 1  # it says what the noise is, and is not trained


def test_a_network_learns_and_takes_the_place_of_the_exact_energy():
    data, loss = jnp.tile(PAIR, (512, 1)), DenoisingScoreMatching(1e-3)
    optimizer = optax.chain(optax.adam(3e-3), moving_average(0.99))
    result = am.fit(network(), data, loss, optimizer, 60, 64, jr.key(1), progress=False)
    model, exact = averaged(result), am.DiffusionMemory(PAIR)
    best, first = (float(loss_of(m, data, loss)) for m in (exact, network()))
    found = float(loss_of(model, data, loss))
    assert found < best + 0.15 * (first - best)
    generate = lambda key: model.generate(key, stop=1e-3, method=am.ReverseSDE(100))
    ends = jax.vmap(generate)(jr.split(jr.key(2), 128))
    near = jnp.abs(jnp.abs(ends.x[:, 0]) - 1) + jnp.abs(ends.x[:, 1]) < 0.4
    assert float(near.mean()) > 0.85
    right = float((ends.x[:, 0] > 0).mean())
    assert 0.3 < right < 0.7
    # Its memory of one time recalls as any memory does.
    end = model.at(0.05).recall(jnp.asarray([0.6, 0.2]))
    assert end.converged
    assert_allclose(end.x, PAIR[1], atol=0.15)
    found = am.analysis.fixed_points(model.at(0.05), PAIR, jr.key(0), progress=False)
    assert len(found.x) == 2


# -- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1e-8, 1.0, 1e6])
def test_its_energy_and_score_are_finite_at_every_noise(t):
    model, x = network(), jnp.asarray([0.3, -0.2])
    score = model.score(x, t)
    gradient = jax.grad(model.energy)(x, jnp.asarray(t))
    assert_allclose(score, -gradient / t, rtol=1e-5)
    assert jnp.isfinite(score).all()
    curl = jax.jacobian(lambda x: model.score(x, t))(x)
    assert_allclose(curl[0, 1], curl[1, 0], rtol=1e-3)
    # What it has to say is of order one, in units of the noise.
    assert jnp.abs(score * jnp.sqrt(t)).max() < 10


def test_it_begins_with_noise_of_the_data():
    mean = jnp.asarray([3.0, -1.0])
    model = DiffusionNetwork(jr.key(0), 2, 0.5, mean=mean, spread=2.0, width=8, features=4)
    draws = jax.vmap(lambda key: model.noise(key, jnp.asarray(4.0)))(jr.split(jr.key(1), 4000))
    assert_allclose(draws.mean(0), mean, atol=0.2)
    assert_allclose(draws.std(0), np.full(2, math.sqrt(5)), rtol=0.05)
    x = mean + 1
    expected = -1 / 5 - math.log(2 * math.pi * 5)
    assert float(model.noise_density(x, jnp.asarray(4.0))) == pytest.approx(expected, rel=1e-5)
    assert model.state_struct.shape == (2,)


# -- averages ------------------------------------------------------------------------------------


def test_averages_are_of_the_parameters_after_each_step(tmp_path):
    data, d = jnp.tile(PAIR, (8, 1)), 0.8

    def loss(model, batch, key):
        return jnp.sum(model["w"] ** 2) + 0 * jnp.sum(batch)

    model = {"w": jnp.asarray([1.0, -2.0])}
    optimizer = optax.chain(optax.sgd(0.1), moving_average(d))
    run = lambda epochs: am.fit(
        model, data, loss, optimizer, epochs, 16, jr.key(0), progress=False,
        checkpoint=tmp_path / "a",
    )  # fmt: skip
    run(2)
    result = run(5)  # goes on, with the average, where it was
    w = average = np.asarray(model["w"])
    for _ in range(5):
        w = 0.8 * w
        average = d * average + (1 - d) * w
    assert_allclose(result.model["w"], w, rtol=1e-5)
    assert_allclose(averaged(result)["w"], average, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: users.learning.DiffusionNetwork(jr.key(0), ()), ValueError, "at least one unit"),
        (lambda: users.learning.DiffusionNetwork(0, 2), TypeError, "must be one random key"),
        (lambda: users.learning.DiffusionNetwork(jr.key(0), 0), ValueError, "shape: must be at le"),
        (lambda: users.learning.DiffusionNetwork(jr.key(0), 2, 0.0), ValueError, "sigma: must be"),
        (
            lambda: users.learning.DiffusionNetwork(jr.key(0), 2, spread=-1.0),
            ValueError,
            "spread: must be",
        ),
        (
            lambda: users.learning.DiffusionNetwork(jr.key(0), 2, mean=jnp.ones(3)),
            ValueError,
            "mean: must have shape",
        ),
        (
            lambda: users.learning.DiffusionNetwork(jr.key(0), 2, features=3),
            ValueError,
            "features must be an even",
        ),
        (
            lambda: users.learning.DiffusionNetwork(jr.key(0), 2, depth=1),
            ValueError,
            "depth: must be at least 2",
        ),
        (lambda: users.learning.DenoisingScoreMatching(0.0), ValueError, "0 < earliest < latest"),
        (lambda: users.learning.DenoisingScoreMatching(2.0), ValueError, "0 < earliest < latest"),
        (lambda: users.learning.DenoisingScoreMatching(draws=0), ValueError, "draws: must be at"),
        (lambda: users.learning.moving_average(1.0), ValueError, "decay must lie in"),
        (
            lambda: users.learning.moving_average(0.5).update({}, None),
            ValueError,
            "needs the parameters",
        ),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_what_cannot_be_trained_or_averaged_says_so():
    run = lambda model, data: users.fit(
        model, data, users.learning.DenoisingScoreMatching(), optax.sgd(0.1), 1, 2, jr.key(0),
        progress=False,
    )  # fmt: skip
    with pytest.raises(TypeError, match="model must be an AbstractDiffusion"):
        run(users.GaussianMemory(PAIR), PAIR)
    memory = users.DiffusionMemory(PAIR)
    with pytest.raises(ValueError, match=r"examples of shape \(2,\); shape \(2, 3\) came"):
        run(memory, jnp.ones((2, 3)))
    with pytest.raises(ValueError, match="must have kept one average; 0 came"):
        users.learning.averaged(run(memory, PAIR))
