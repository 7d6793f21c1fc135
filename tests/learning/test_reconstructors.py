"""Reconstructors: what their maps may see, their energies, relaxation and learning."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import amlib as am
from amlib.learning import HebbianLoss, ReconstructionLoss, count_parameters, relaxation
from amlib.learning.reconstructors import AbstractEnergyReconstructor, AbstractReconstructor, cut
from tests.users import am as plain

D, K = 12, 5


def spins(seed, *shape):
    return np.random.default_rng(seed).choice(np.array([-1, 1], np.float32), shape)


def random_weights(model, seed=0, dtype=None):
    """The model with normal random numbers for all its weights; the temperature stays."""
    leaves, tree = jax.tree.flatten(model)
    rng = np.random.default_rng(seed)
    new = [
        jnp.asarray(a if a.ndim == 0 else rng.normal(size=a.shape), dtype or a.dtype)
        for a in leaves
    ]
    return jax.tree.unflatten(tree, new)


def make(name, states="spins", seed=0, dtype=None):
    key = jr.key(seed)
    model = {
        "dense": lambda: am.DenseReconstructor(D, states=states),
        "no-bias": lambda: am.DenseReconstructor(D, states=states, bias=False),
        "modern": lambda: am.ModernDenseReconstructor(
            K=K, size=D, temperature=2.0, states=states, key=key
        ),
        "rbm": lambda: am.RBMReconstructor(D, K, states=states, key=key),
        "hebbian": lambda: am.HebbianRBMReconstructor(D, K, states=states, key=key),
        "conv": lambda: am.Conv2dReconstructor(
            (3, 4), filters=3, kernel_size=3, states=states, key=key
        ),
    }[name]()
    return random_weights(model, seed, dtype)


NAMES = ("dense", "no-bias", "modern", "rbm", "hebbian", "conv")
ENERGIES = NAMES[:-1]


def cases(names, fast):
    """All names with both kinds of units; only those in `fast` outside of the slow tests."""
    return pytest.mark.parametrize(
        ("name", "states"),
        [
            pytest.param(n, s, marks=() if f"{n} {s}" in fast else pytest.mark.slow)
            for n in names
            for s in ("spins", "bits")
        ],
    )


def settle(model, x, update="synchronous", key=None):
    """Relax 24 states: one compiled program per kind of model and update, for all tests."""
    key = jr.key(1) if key is None else key
    return relax_all(am.DiscreteTimeHopfield(model, 40, update=update), x, key)


def states_of(model, seed, n):
    x = jnp.asarray(spins(seed, n, *model.shape), jax.tree.leaves(model)[0].dtype)
    return x if model.states == "spins" else (x + 1) / 2


@eqx.filter_jit
def relax_all(model, x, key=None):
    return jax.vmap(lambda x: model(x, key))(x)


def test_every_public_reconstructor_is_shown():
    public = {v for v in vars(am).values() if isinstance(v, type)}
    public = {c for c in public if issubclass(c, AbstractReconstructor)}
    assert public == {type(make(name)) for name in NAMES}


# -- no unit sees itself -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "kernel_size", "depth"), [((5, 6), 3, 1), ((2, 4, 5), 5, 3), ((1, 1), 3, 2)]
)
def test_a_pixel_does_not_see_itself_but_all_its_neighbours(shape, kernel_size, depth):
    model = random_weights(
        am.Conv2dReconstructor(
            shape, filters=7, kernel_size=kernel_size, depth=depth, key=jr.key(0)
        )
    )
    H, W = shape[-2:]
    x = jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)
    seen = jax.jacobian(model.field)(x).reshape(-1, H, W, x.size // (H * W), H, W)
    reach = kernel_size // 2
    for i in range(H):
        for j in range(W):
            at = np.abs(np.asarray(seen[:, i, j])).sum((0, 1))
            assert at[i, j] == 0.0
            near = at[max(0, i - reach) : i + reach + 1, max(0, j - reach) : j + reach + 1]
            assert (near > 0).sum() == near.size - 1
            assert np.abs(at).sum() == pytest.approx(near.sum(), rel=1e-5)


def test_the_convolution_is_the_one_of_jax_with_the_centre_zero():
    shape = (2, 6, 5)
    model = random_weights(am.Conv2dReconstructor(shape, filters=3, kernel_size=3, key=jr.key(0)))
    x = jnp.asarray(spins(2, *shape))
    kernel = jnp.insert(model.kernel, 4, 0.0, axis=1).reshape(2, 3, 3, 3).transpose(3, 0, 1, 2)
    y = jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME")[0]
    y = jax.nn.relu(y + model.biases[0][:, None, None])
    h = jnp.einsum("cf,fhw->chw", model.out, y) + model.out_bias[:, None, None]
    np.testing.assert_allclose(model.field(x), h, rtol=1e-4, atol=1e-4)


def test_dense_couplings_are_symmetric_without_self_coupling_whatever_is_learned():
    model = make("dense", seed=3)
    J = np.asarray(model.J)
    np.testing.assert_array_equal(J, J.T)
    np.testing.assert_array_equal(np.diag(J), 0)
    assert np.abs(J).max() > 0.5
    np.testing.assert_allclose(jax.jacobian(model.field)(jnp.ones(D)), J, rtol=1e-6)
    # A gradient step along any direction keeps both: nothing is projected.
    steps = jax.grad(lambda m: jnp.sum(jnp.sin(m.field(jnp.arange(12.0)))))(model)
    moved = jax.tree.map(lambda a, g: a - 0.1 * g, model, steps)
    np.testing.assert_array_equal(moved.J, moved.J.T)
    np.testing.assert_array_equal(np.diag(moved.J), 0)


# -- energies ----------------------------------------------------------------------------------


def test_energies_are_those_of_the_formulas():
    x = spins(4, D).astype(np.float64)
    dense, modern, rbm, bits = (
        jax.tree.map(lambda a: np.asarray(a, np.float64), make(name, states))
        for name, states in (
            ("dense", "spins"),
            ("modern", "spins"),
            ("rbm", "spins"),
            ("rbm", "bits"),
        )
    )
    want = {
        "dense": -0.5 * x @ np.asarray(make("dense").J) @ x - dense.bias @ x,
        "modern": -2 * np.log(np.exp(modern.Xi @ x / 2).sum()),
        "rbm": -rbm.bias @ x - np.abs(rbm.W @ x + rbm.hidden_bias).sum(),
    }
    for name, energy in want.items():
        got = make(name).energy(jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(got, energy, rtol=1e-5)
    # The best of all hidden states, by counting them out.
    b = (x + 1) / 2
    hidden = np.stack(np.meshgrid(*[[0, 1]] * K), -1).reshape(-1, K)
    joint = -(hidden * (bits.W @ b + bits.hidden_bias)).sum(1) - bits.bias @ b
    got = make("rbm", "bits").energy(jnp.asarray(b, jnp.float32))
    np.testing.assert_allclose(got, joint.min(), rtol=1e-5)


@cases(ENERGIES, ["dense spins", "modern spins", "modern bits", "rbm bits"])
def test_the_field_is_minus_the_gradient_of_the_energy_and_read_gives_its_entries(name, states):
    model = make(name, states, seed=5)
    x = states_of(model, 6, 1)[0]

    @eqx.filter_jit
    def all_ways(model, x):
        read = jax.vmap(lambda i: model.read(model.weights() @ x, i))(jnp.arange(D))
        return model.field(x), jax.grad(model.energy)(x), read, model(x)

    h, slope, read, hard = all_ways(model, x)
    np.testing.assert_allclose(h, -slope, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(read, h, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(hard, cut(h, x, model.space))


@cases(ENERGIES, ["dense spins", "dense bits", "modern bits", "rbm spins"])
def test_no_asynchronous_visit_raises_the_energy(name, states, x64):
    @eqx.filter_jit
    def follow(model, x, order):
        def visit(x, i):
            x = model.sweep(x, i[None])
            return x, x

        _, seen = jax.lax.scan(visit, x, order)
        # One code for all: the same state has the same energy only in the same compiled code.
        return seen, jax.lax.map(model.energy, jnp.concatenate([x[None], seen]))

    changes = 0
    for seed in range(8):
        model = make(name, states, seed, jnp.float64)
        x = states_of(model, seed + 50, 1)[0]
        order = np.random.default_rng(seed).permutation(np.tile(np.arange(D), 3))
        seen, energies = follow(model, x, jnp.asarray(order))
        before = np.concatenate([x[None], seen[:-1]])
        moved = (before != seen).any(1)
        changes += moved.sum()
        assert (np.diff(energies)[moved] < 0).all()
        assert (np.diff(energies)[~moved] == 0).all()
        # Only the unit that is visited may change.
        kept = np.arange(D)[None] != order[:, None]
        np.testing.assert_array_equal(before[kept], seen[kept])
    assert changes > 10


@cases(["modern", "rbm"], ["modern spins", "rbm bits"])
def test_concave_energies_fall_also_when_all_units_step_at_once(name, states, x64):
    @eqx.filter_jit
    def step(model, x):
        new = jax.vmap(model)(x)
        return new, jax.vmap(model.energy)(x), jax.vmap(model.energy)(new)

    for seed in range(5):
        model = make(name, states, seed, jnp.float64)
        x = states_of(model, seed, 20)
        for _ in range(6):
            new, energy, fell = step(model, x)
            moved = np.asarray((new != x).any(1))
            assert (np.asarray(fell - energy)[moved] < 0).all()
            x = new


# -- relaxation --------------------------------------------------------------------------------


@cases(NAMES, ["dense spins", "modern bits", "conv spins"])
@pytest.mark.parametrize("update", relaxation.UPDATES)
def test_relaxation_ends_on_a_fixed_point_or_says_that_it_does_not(name, states, update):
    model = make(name, states, seed=7)
    x = states_of(model, 8, 24)
    end = settle(model, x, update)
    assert isinstance(end, am.Recall)
    fixed = np.asarray((jax.vmap(model)(end.x) == end.x).reshape(24, -1).all(1))
    np.testing.assert_array_equal(fixed, end.converged)
    low = -1.0 if states == "spins" else 0.0
    assert set(np.unique(end.x)) <= {low, 1.0}
    assert end.converged.any()
    if update == "asynchronous" and isinstance(model, AbstractEnergyReconstructor):
        assert end.converged.all()
    # Once more, from the end: nothing to do.
    again = settle(model, end.x, update, jr.key(2))
    np.testing.assert_array_equal(again.x[fixed], end.x[fixed])
    np.testing.assert_array_equal(np.asarray(again.steps)[fixed], 0)
    assert again.converged[fixed].all()


@pytest.mark.parametrize("name", ["dense", "rbm", "modern"])
def test_the_fast_sweep_visits_the_same_states_as_the_plain_one(name, x64):
    model = make(name, "bits", 9, jnp.float64)
    order = jnp.asarray(np.random.default_rng(0).permutation(D))
    for x in states_of(model, 3, 6):
        fast = model.sweep(x, order)
        np.testing.assert_array_equal(fast, AbstractReconstructor.sweep(model, x, order))


def test_units_that_are_not_visited_keep_their_values():
    model = make("conv", seed=2)
    x = states_of(model, 1, 1)[0]
    order = jnp.asarray([0, 7, 5])
    new = model.sweep(x, order).reshape(-1)
    unvisited = np.setdiff1d(np.arange(D), order)
    np.testing.assert_array_equal(new[unvisited], x.reshape(-1)[unvisited])
    assert (new != x.reshape(-1)).any()


def test_steps_are_counted_and_limited():
    # A chain in which the truth spreads by one unit per step.
    J = np.zeros((6, 6), np.float32)
    for i in range(5):
        J[i, i + 1] = J[i + 1, i] = 5 - i
    model = am.DenseReconstructor(6)
    model = eqx.tree_at(lambda m: (m.kernel, m.bias), model, (jnp.asarray(J), model.bias))
    model = eqx.tree_at(lambda m: m.bias, model, model.bias.at[0].set(9.0))
    x0 = -jnp.ones(6)
    states, x = [], x0
    for _ in range(8):
        states.append(x)
        x = model(x)
    end = am.DiscreteTimeHopfield(model, 20)(x0)
    assert bool(end.converged)
    assert 2 <= int(end.steps) == next(k for k in range(7) if (states[k] == states[k + 1]).all())
    exact = am.DiscreteTimeHopfield(model, int(end.steps))(x0)
    assert bool(exact.converged)
    short = am.DiscreteTimeHopfield(model, 1)(x0)
    assert short.result == am.RESULTS.step_limit
    assert int(short.steps) == 1
    np.testing.assert_array_equal(short.x, states[1])


def test_two_units_that_step_at_once_cycle_and_one_at_a_time_agree():
    model = am.DenseReconstructor(2, bias=False)
    model = eqx.tree_at(lambda m: m.kernel, model, jnp.asarray([[0.0, 1.0], [1.0, 0.0]]))
    x = jnp.asarray([1.0, -1.0])
    together = am.DiscreteTimeHopfield(model)(x)
    assert together.result == am.RESULTS.cycle
    assert not bool(together.converged)
    one = am.DiscreteTimeHopfield(model, update="asynchronous")(x, jr.PRNGKey(3))
    assert bool(one.converged)
    assert float(one.x[0]) == float(one.x[1])


@cases(NAMES, ["dense spins", "conv spins"])
def test_a_field_of_zero_keeps_every_unit(name, states):
    model = make(name, states)
    model = jax.tree.map(lambda a: a if a.ndim == 0 else jnp.zeros_like(a), model)
    x = states_of(model, 3, 24)
    for update in relaxation.UPDATES:
        end = settle(model, x, update)
        if (name, states) != ("modern", "bits"):  # there a memory of zeros is a pattern
            np.testing.assert_array_equal(end.x, x)
            np.testing.assert_array_equal(end.steps, 0)
        assert end.converged.all()


def test_weights_that_are_not_finite_are_reported():
    model = make("dense")
    model = eqx.tree_at(lambda m: m.bias, model, model.bias.at[1].set(jnp.nan))
    for update in relaxation.UPDATES:
        end = settle(model, states_of(model, 0, 24), update)
        assert (end.result == am.RESULTS.nonfinite).all()


def test_soft_states_relax_to_a_soft_fixed_point():
    model = jax.tree.map(lambda a: 0.3 * a, make("dense", seed=4))
    end = am.DiscreteTimeHopfield(model, 500, tol=1e-6, hard=False)(0.3 * jnp.ones(D))
    assert bool(end.converged)
    np.testing.assert_allclose(model.soft(end.x), end.x, atol=2e-6)
    loose = am.DiscreteTimeHopfield(model, 500, tol=1e-2, hard=False)(0.3 * jnp.ones(D))
    assert int(loose.steps) < int(end.steps)


@cases(NAMES, ["dense bits", "rbm spins"])
def test_hard_states_have_the_gradient_of_soft_ones(name, states):
    model = make(name, states, seed=11)
    probe = jnp.asarray(np.random.default_rng(0).normal(size=model.shape), jnp.float32)

    @eqx.filter_jit
    def grads(model, x):
        ways = (
            lambda m: m(x),
            lambda m: m.soft(x),
            lambda m: am.DiscreteTimeHopfield(m, max_steps=2)(x).x,
            lambda m: m(m(x)),
        )
        return [jax.grad(lambda m, f=f: jnp.sum(probe * f(m)))(model) for f in ways]

    # A state that two steps change twice: the relaxation is those two steps.
    for x in states_of(model, 12, 50):
        once = model(x)
        if (once != x).any() and (model(once) != once).any() and (model(once) != x).any():
            break
    else:
        raise AssertionError("no state moves twice")
    hard, soft, relaxed, by_hand = grads(model, x)
    for a, b in ((hard, soft), (relaxed, by_hand)):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), a, b)
        assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(a)) > 1e-3


# -- bits and spins are the same memory --------------------------------------------------------


def test_bits_and_spins_are_one_memory_in_two_units():
    x = jnp.asarray(spins(1, 24, D))
    dense = make("dense", seed=1)
    bits = am.DenseReconstructor(D, states="bits")
    new = (2 * dense.J, dense.bias - dense.J @ jnp.ones(D))
    bits = eqx.tree_at(lambda m: (m.kernel, m.bias), bits, new)
    patterns = jnp.asarray(spins(2, K, D))
    modern = am.ModernDenseReconstructor(patterns, temperature=4.0)
    modern_bits = am.ModernDenseReconstructor((patterns + 1) / 2, temperature=1.0, states="bits")
    for a, b in ((dense, bits), (modern, modern_bits)):
        end, same = settle(a, x), settle(b, (x + 1) / 2)
        np.testing.assert_array_equal(end.x, 2 * same.x - 1)
        np.testing.assert_array_equal(end.steps, same.steps)


# -- continuous time ---------------------------------------------------------------------------


@cases(["dense", "modern", "conv"], ["modern bits"])
def test_continuous_time_ends_where_the_map_rests(name, states):
    model = jax.tree.map(lambda a: a if a.ndim == 0 else 0.4 * a, make(name, states, seed=6))
    x = states_of(model, 4, 3)
    end = jax.vmap(am.ContinuousTimeHopfield(model, tol=1e-4))(x)
    assert end.converged.all()
    assert end.time is not None
    assert (end.time > 1).all()
    assert (end.steps > 3).all()
    np.testing.assert_allclose(jax.vmap(model.soft)(end.x), end.x, atol=2e-4)
    short = jax.vmap(am.ContinuousTimeHopfield(model, 2, tol=1e-4))(x)
    assert (short.result == am.RESULTS.step_limit).all()


def test_the_flow_lowers_its_energy():
    x = jnp.asarray(np.random.default_rng(0).uniform(-0.99, 0.99, (50, D)), jnp.float32)
    inverse = {"dense": jnp.arctanh, "modern": lambda x: x}

    @eqx.filter_jit
    def slopes(model, f):
        uphill = lambda x: jax.grad(model.energy)(x) + f(x)
        return jax.vmap(lambda x: jnp.dot(uphill(x), model.soft(x) - x))(x)

    for name, f in inverse.items():
        assert (slopes(make(name, "spins", 3), f) < 0).all()


def test_the_derivative_of_a_steady_state(x64):
    model = jax.tree.map(lambda a: 0.3 * a, make("dense", "spins", 2, jnp.float64))
    x = jnp.asarray(spins(0, D), jnp.float64)

    @jax.jit
    def end(bias):
        moved = eqx.tree_at(lambda m: m.bias, model, bias)
        return am.ContinuousTimeHopfield(moved, tol=1e-9)(x).x.sum()

    slope = jax.grad(end)(model.bias)
    for i in (0, 7):
        step = jnp.zeros(D).at[i].set(1e-4)
        difference = (end(model.bias + step) - end(model.bias - step)) / 2e-4
        np.testing.assert_allclose(slope[i], difference, rtol=1e-4)
    step = jnp.zeros(D).at[3].set(1e-3)  # a small move of the start ends in the same state
    moved = am.ContinuousTimeHopfield(model, tol=1e-9)(x + step).x.sum()
    np.testing.assert_allclose(moved, end(model.bias), atol=1e-7)


# -- losses ------------------------------------------------------------------------------------


def test_the_reconstruction_loss_is_the_mean_error_of_the_soft_map():
    model = jax.tree.map(lambda a: 0.2 * a, make("dense"))
    x = spins(1, 7, D)
    loss = ReconstructionLoss()(model, jnp.asarray(x), jr.key(0))
    want = np.abs(x - np.tanh(x @ np.asarray(model.J) + np.asarray(model.bias))).mean()
    np.testing.assert_allclose(loss, want, rtol=1e-5)
    # All units flipped: what a noise of 1 does.
    flipped = ReconstructionLoss(noise=1.0)(model, jnp.asarray(x), jr.key(0))
    want = np.abs(x - np.tanh(-x @ np.asarray(model.J) + np.asarray(model.bias))).mean()
    np.testing.assert_allclose(flipped, want, rtol=1e-5)
    bits = ReconstructionLoss(noise=1.0)
    model = make("dense", "bits")
    b = (jnp.asarray(x) + 1) / 2
    want = jnp.mean(jnp.abs(b - jax.vmap(model.soft)(1 - b)))
    np.testing.assert_allclose(bits(model, b, jr.key(0)), want, rtol=1e-5)


def test_the_unrolled_loss_is_that_of_the_relaxation():
    model, x = make("rbm", seed=3), jnp.asarray(spins(2, 6, D))
    got, grads = eqx.filter_value_and_grad(ReconstructionLoss(steps=3))(model, x, jr.key(0))
    twice = jax.vmap(model)(jax.vmap(model)(x))
    want = jnp.mean(jnp.abs(x - jax.vmap(model.soft)(twice)))
    np.testing.assert_allclose(got, want, rtol=1e-6)
    once = eqx.filter_grad(ReconstructionLoss())(model, x, jr.key(0))
    assert float(jnp.abs(grads.W - once.W).max()) > 1e-4


@pytest.mark.parametrize("states", ["spins", "bits"])
def test_the_hebbian_update_needs_no_gradient(states):
    model = make("hebbian", states, seed=4)
    x = np.asarray(states_of(model, 5, 9), np.float64)
    W, c, b = (np.asarray(a, np.float64) for a in (model.W, model.hidden_bias, model.bias))
    low = {"spins": -1.0, "bits": 0.0}[states]
    act = lambda h: low + (1 - low) * (1 + np.tanh(h)) / 2
    z = act((x @ W.T + c) / model.width)
    y = act(z @ W + b)
    zy = act((y @ W.T + c) / model.width)
    loss = HebbianLoss(noise=0.0)
    value, grads = loss.value_and_grad(model, jnp.asarray(x, jnp.float32), jr.key(0))
    np.testing.assert_allclose(value, np.abs(x - y).mean(), rtol=1e-4)
    np.testing.assert_allclose(grads.W, (zy.T @ y - z.T @ x) / 9, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(grads.hidden_bias, (zy - z).mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(grads.bias, (y - x).mean(0), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(loss(model, jnp.asarray(x, jnp.float32), jr.key(0)), value)


# -- learning ----------------------------------------------------------------------------------


def learned(model, loss, X, rate, epochs=6):
    data = jnp.tile(X.reshape(-1, *model.shape), (200, *[1] * len(model.shape)))
    fit = am.fit(model, data, loss, optax.adam(rate), epochs, 32, jr.key(0), progress=False)
    return fit.model


LEARNERS = {
    "dense": (lambda s: am.DenseReconstructor(64, states=s), ReconstructionLoss(), 1e-2),
    "modern": (
        lambda s: am.ModernDenseReconstructor(
            K=32, size=64, temperature=8.0, states=s, key=jr.key(0)
        ),
        ReconstructionLoss(noise=0.1),
        3e-2,
    ),
    "rbm": (
        lambda s: am.RBMReconstructor(64, 48, states=s, key=jr.key(0)),
        ReconstructionLoss(noise=0.1),
        1e-2,
    ),
    "hebbian": (
        lambda s: am.HebbianRBMReconstructor(64, 48, states=s, key=jr.key(0)),
        HebbianLoss(noise=0.1),
        1e-2,
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learned_memories_repair_noise_that_they_have_not_seen(name):
    build, loss, rate = LEARNERS[name]
    X = jnp.asarray(spins(0, 8, 64))
    model = learned(build("spins"), loss, X, rate)
    truth = jnp.tile(X, (12, 1))
    noisy = jnp.where(jr.uniform(jr.key(99), truth.shape) < 0.15, -truth, truth)
    end = relax_all(am.DiscreteTimeHopfield(model), noisy)
    exact = float((end.x == truth).all(1).mean())
    untrained = relax_all(am.DiscreteTimeHopfield(build("spins")), noisy)
    assert float((untrained.x == truth).all(1).mean()) == 0
    assert exact >= 0.8, exact


def test_a_cellular_automaton_learns_to_repair_stripes():
    rows = jnp.where((jnp.arange(10)[:, None] // 2 + jnp.arange(2)[None]) % 2 == 0, 1.0, -1.0)
    X = jnp.broadcast_to(rows.T[:, :, None], (2, 10, 10))  # stripes two pixels high, and inverse
    model = am.Conv2dReconstructor((10, 10), filters=16, kernel_size=5, key=jr.key(0))
    model = learned(model, ReconstructionLoss(noise=0.1), X, 1e-2, epochs=6)
    truth = jnp.tile(X, (20, 1, 1))
    noisy = jnp.where(jr.uniform(jr.key(9), truth.shape) < 0.1, -truth, truth)
    end = relax_all(am.DiscreteTimeHopfield(model), noisy)
    assert float((noisy != truth).mean()) > 0.08
    assert float((end.x != truth).mean()) < 0.01


def test_given_memories_are_recalled_without_training():
    X = jnp.asarray(spins(3, 40, 64))
    noisy = jnp.where(jr.uniform(jr.key(1), X.shape) < 0.15, -X, X)
    end = relax_all(am.DiscreteTimeHopfield(am.ModernDenseReconstructor(X)), noisy)
    assert float((end.x == X).all(1).mean()) >= 0.95
    np.testing.assert_array_equal(end.steps, 1)


# -- sizes, dtypes, transformations ------------------------------------------------------------


def test_one_unit_one_memory_one_pixel():
    models = (
        am.DenseReconstructor(1),
        am.ModernDenseReconstructor(jnp.ones((1, 1))),
        am.RBMReconstructor(1, 1, key=jr.key(0)),
        am.Conv2dReconstructor((1, 1), filters=1, kernel_size=3, key=jr.key(0)),
    )

    @eqx.filter_jit
    def ends(models):
        together = [am.DiscreteTimeHopfield(m)(jnp.ones(m.shape)) for m in models]
        one = [am.DiscreteTimeHopfield(m, update="asynchronous")(jnp.ones(m.shape)) for m in models]
        return together + one

    assert all(bool(end.converged) for end in ends(models))
    assert bool(am.ContinuousTimeHopfield(models[0])(jnp.ones(1)).converged)


@pytest.mark.parametrize(
    ("name", "update", "dtype"),
    [
        ("dense", "synchronous", jnp.float16),
        pytest.param("rbm", "asynchronous", jnp.bfloat16, marks=pytest.mark.slow),
    ],
)
def test_half_precision_is_a_storage_format(name, update, dtype):
    model = make(name, seed=1)
    half = jax.tree.map(lambda a: a.astype(dtype), model)
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), half)
    x = states_of(model, 2, 24)
    end = settle(half, x, update)
    assert end.x.dtype == dtype
    np.testing.assert_array_equal(end.x.astype(jnp.float32), settle(wide, x, update).x)


def test_integers_bools_and_lists_are_states():
    x = spins(0, D)
    model = am.DiscreteTimeHopfield(make("dense"))
    want = model(jnp.asarray(x)).x
    for state in (x, x.astype(int), x > 0):
        np.testing.assert_array_equal(model(state).x, want)
    bits = am.DiscreteTimeHopfield(make("dense", "bits"))
    np.testing.assert_array_equal(bits(x > 0).x, bits((x > 0).astype(float)).x)


def test_double_precision_is_kept(x64):
    assert am.DenseReconstructor(3).kernel.dtype == jnp.float64
    model = make("rbm", dtype=jnp.float64)
    assert am.DiscreteTimeHopfield(model)(spins(0, D)).x.dtype == jnp.float64


def test_the_number_of_parameters():
    assert count_parameters(am.DenseReconstructor(1024)) == 1024 * 1023 // 2 + 1024
    assert count_parameters(am.DenseReconstructor(5, bias=False)) == 10
    assert count_parameters(am.RBMReconstructor(9, 4, key=jr.key(0))) == 9 * 4 + 9 + 4
    # The published 5x5 automaton without its 64 centres.
    conv = am.Conv2dReconstructor((28, 28), key=jr.key(0))
    assert count_parameters(conv) == 64 * 24 + 64 + 64 + 1
    assert count_parameters(am.ModernDenseReconstructor(spins(0, 3, 7))) == 3 * 7


def test_the_temperature_is_not_trained_nor_decayed():
    model = am.ModernDenseReconstructor(K=3, size=7, temperature=0.5, key=jr.key(0))
    optimizer = optax.adamw(0.05, weight_decay=0.5)
    loss = ReconstructionLoss()
    end = am.fit(model, spins(0, 9, 7), loss, optimizer, 20, 3, jr.key(1), progress=False).model
    assert end.temperature == 0.5
    assert (end.Xi != model.Xi).all()


def test_a_saved_model_comes_back(tmp_path):
    for name in ("dense", "modern", "rbm", "conv"):
        am.save(tmp_path / name, make(name, seed=5))
        back = am.load(tmp_path / name, make(name))
        jax.tree.map(np.testing.assert_array_equal, back, make(name, seed=5))


def bits(seed, *shape):
    return (spins(seed, *shape) + 1) / 2


def test_a_memory_of_bits_for_spins_is_told():
    with pytest.warns(UserWarning, match=r"Xi: patterns of -1 and \+1.*2 \* Xi - 1") as caught:
        am.ModernDenseReconstructor(bits(0, 3, 7))
    assert len(caught) == 1
    assert caught[0].filename == __file__
    am.ModernDenseReconstructor(bits(0, 3, 7), states="bits")
    am.ModernDenseReconstructor(spins(0, 3, 7))


@pytest.mark.parametrize("states", ["spins", "bits"])
def test_states_of_the_other_alphabet_are_refused(states):
    right, wrong = (spins, bits) if states == "spins" else (bits, spins)
    model = am.DenseReconstructor(7, states=states)
    cure = r"2\*x - 1" if states == "spins" else r"\(x \+ 1\) / 2"
    model(right(0, 7))
    with pytest.raises(ValueError, match=f"reconstruct: x: .*{cure}"):
        model(wrong(0, 7))
    with pytest.raises(ValueError, match=f"reconstruct: x: .*{cure}"):
        jax.vmap(model)(wrong(0, 3, 7))
    rbm = am.HebbianRBMReconstructor(7, 2, states=states, key=jr.key(0))
    for learner, loss in ((model, ReconstructionLoss()), (rbm, HebbianLoss())):
        with pytest.raises(ValueError, match=f"{type(loss).__name__}: data: .*{cure}"):
            am.fit(learner, wrong(0, 6, 7), loss, optax.sgd(0.1), 1, 2, jr.key(0), progress=False)


# -- bad input ---------------------------------------------------------------------------------


DENSE, KEY = plain.DenseReconstructor(6), jr.key(0)
BITS = plain.DenseReconstructor(6, states="bits")
CONV = plain.Conv2dReconstructor((4, 5), filters=2, kernel_size=3, key=KEY)
X6 = jnp.asarray(spins(0, 6))
relax = lambda model=DENSE, x=X6, **how: plain.DiscreteTimeHopfield(model, **how)(x)
loss = lambda **how: plain.learning.ReconstructionLoss(**how)


@pytest.mark.parametrize(
    ("kind", "message", "call"),
    [
        (ValueError, "recall: the state must have shape (6,); (2, 6) came. A batch goes through "
         "jax.vmap", lambda: relax(x=jnp.ones((2, 6)))),
        (ValueError, "recall: the state must have shape (6,); (5,) came.",
         lambda: relax(x=jnp.ones(5))),
        (ValueError, "recall: the state must have shape (4, 5); (20,) came. Reshape it",
         lambda: relax(CONV, jnp.ones(20))),
        (ValueError, "recall: the state must have shape (4, 5); (3, 4, 5) came. A batch",
         lambda: relax(CONV, jnp.ones((3, 4, 5)))),
        (ValueError, "a state must hold only -1 and +1", lambda: relax(x=X6.at[1].set(jnp.nan))),
        (ValueError, "a state must hold only -1 and +1", lambda: relax(x=(X6 + 1) / 2)),
        (ValueError, "a state of bits must hold only 0 and 1; other values came. Spins become "
         "bits by (x + 1) / 2", lambda: relax(BITS)),
        (ValueError, "must be finite; NaN or infinity came",
         lambda: relax(x=X6.at[1].set(jnp.inf), hard=False)),
        (ValueError, "must be finite; NaN or infinity came",
         lambda: plain.ContinuousTimeHopfield(DENSE)(X6.at[1].set(jnp.nan))),
        (TypeError, "recall: x: must hold real numbers",
         lambda: relax(x=jnp.ones(6, jnp.complex64))),
        (ValueError, "max_steps: must be at least 1; 0 came", lambda: relax(max_steps=0)),
        (TypeError, "max_steps: must be an integer; 1.5 came", lambda: relax(max_steps=1.5)),
        (ValueError, "DiscreteTimeHopfield: tol: must be at least 0; -1 came",
         lambda: relax(tol=-1)),
        (ValueError, "tol: must be at least 0; nan came", lambda: relax(tol=float("nan"))),
        (ValueError, "update: must be one of 'synchronous', 'asynchronous'; 'asynchron' came. Did "
         "you mean 'asynchronous'?", lambda: relax(update="asynchron")),
        (ValueError, "soft states step at once; update='asynchronous' came",
         lambda: relax(update="asynchronous", hard=False)),
        (TypeError, "reconstructor must be such as DenseReconstructor(784); ClassicalHopfield came",
         lambda: relax(plain.ClassicalHopfield(X6[None]))),
        (ValueError, "ContinuousTimeHopfield: tol must be greater than 0",
         lambda: plain.ContinuousTimeHopfield(DENSE, tol=0)),
        (TypeError, "solver must be such as diffrax.Tsit5(); 'Tsit5' came",
         lambda: plain.ContinuousTimeHopfield(DENSE, solver="Tsit5")),
        (ValueError, "DenseReconstructor: size: must be at least 1; 0 came",
         lambda: plain.DenseReconstructor(0)),
        (TypeError, "DenseReconstructor: size: must be an integer; True came",
         lambda: plain.DenseReconstructor(True)),
        (ValueError, "DenseReconstructor: states: must be one of 'spins', 'bits'; 'spin' came. Did "
         "you mean 'spins'?", lambda: plain.DenseReconstructor(3, states="spin")),
        (ValueError, "needs patterns Xi, or K, size and key",
         lambda: plain.ModernDenseReconstructor(K=3, size=4)),
        (ValueError, "patterns Xi came with K or size",
         lambda: plain.ModernDenseReconstructor(X6[None], K=3)),
        (ValueError, "Xi: must have shape (K, D); (6,) came",
         lambda: plain.ModernDenseReconstructor(X6)),
        (ValueError, "every value must be finite",
         lambda: plain.ModernDenseReconstructor([[1.0, float("nan")]])),
        (ValueError, "temperature: must be finite and greater than 0",
         lambda: plain.ModernDenseReconstructor(X6[None], temperature=0)),
        (ValueError, "temperature: must be a scalar; shape (2,) came",
         lambda: plain.ModernDenseReconstructor(X6[None], temperature=[1.0, 2.0])),
        (ValueError, "RBMReconstructor: hidden: must be at least 1; 0 came",
         lambda: plain.RBMReconstructor(6, 0, key=KEY)),
        (ValueError, "HebbianRBMReconstructor: width must be greater than 0; 0 came",
         lambda: plain.HebbianRBMReconstructor(6, 2, width=0, key=KEY)),
        (ValueError, "kernel_size must be odd and at least 3, to have a centre and neighbours; 4",
         lambda: plain.Conv2dReconstructor((4, 4), kernel_size=4, key=KEY)),
        (ValueError, "kernel_size must be odd and at least 3",
         lambda: plain.Conv2dReconstructor((4, 4), kernel_size=1, key=KEY)),
        (ValueError, "shape must be (height, width) or (channels, height, width); (16,) came. A "
         "flat picture is reshaped first", lambda: plain.Conv2dReconstructor(16, key=KEY)),
        (ValueError, "depth: must be at least 1; 0 came",
         lambda: plain.Conv2dReconstructor((4, 4), depth=0, key=KEY)),
        (ValueError, "ReconstructionLoss: noise: must be at most 1; 15 came. A percentage is",
         lambda: loss(noise=15)),
        (ValueError, "HebbianLoss: noise: must be at least 0; -0.1 came",
         lambda: plain.learning.HebbianLoss(-0.1)),
        (ValueError, "ReconstructionLoss: steps: must be at least 1; 0 came",
         lambda: loss(steps=0)),
        (ValueError, "ReconstructionLoss: a batch must have shape (B, 6); (6,) came. A single "
         "state is x[None]", lambda: loss()(DENSE, X6, KEY)),
        (TypeError, "the model must be a reconstructor; DiscreteTimeHopfield came. Of a "
         "DiscreteTimeHopfield, train its reconstructor",
         lambda: loss()(plain.DiscreteTimeHopfield(DENSE), X6[None], KEY)),
        (TypeError, "HebbianLoss: the model must be a HebbianRBMReconstructor; DenseReconstructor "
         "came", lambda: plain.learning.HebbianLoss()(DENSE, X6[None], KEY)),
        (ValueError, "reconstruct: the state must have shape (6,)", lambda: DENSE(jnp.ones(4))),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_fix(kind, message, call):
    with pytest.raises(kind, match=re.escape(message)):
        call()


def test_bad_values_in_a_batch_are_refused_at_run_time():
    with pytest.raises(RuntimeError, match="a state must hold only -1 and"):
        jax.block_until_ready(jax.vmap(plain.DiscreteTimeHopfield(DENSE))(jnp.zeros((2, 6))).x)
