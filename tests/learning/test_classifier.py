"""The classifier against the paper's energy differences in plain NumPy, and that it learns."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.test_util import check_grads
from numpy.testing import assert_allclose

import amlib as am
from amlib.learning import CrossEntropy, DenseAMClassifier, PowerLoss, krotov_hopfield
from amlib.learning._sums import energy_function, label_sums
from tests.users import am as plain

KEY = jr.key(0)
D, C = 12, 4

FUNCTIONS = {
    "n=2": (2, lambda r: np.maximum(r, 0) ** 2),
    "n=3": (3, lambda r: np.maximum(r, 0) ** 3),
    "n=20": (20, lambda r: np.maximum(r, 0) ** 20),
    "n=30": (30, lambda r: np.maximum(r, 0) ** 30),
    "exponential": (jnp.exp, np.exp),
    "a user's": (lambda r: jax.nn.softplus(r) ** 2, lambda r: np.log1p(np.exp(r)) ** 2),
}


def make(n=3, K=7, T=3.0, shape: int | tuple[int, ...] = D, **kwargs):
    return DenseAMClassifier(K, shape, C, n, temperature=T, key=KEY, **kwargs)


def pictures(N=5, seed=0, d=D):
    return np.random.default_rng(seed).uniform(-1, 1, (N, d)).astype(np.float32)


@eqx.filter_jit
def one_by_one(model, V):
    return jax.vmap(model)(V)


def by_energies(F, model, v, c=None):
    """Eq. 9 as it is written: each label's two energies, over the whole visible vector."""
    Xi, T = np.asarray(model.Xi, np.float64), float(model.temperature)
    c = -np.ones(C) if c is None else np.asarray(c, np.float64)

    def E(c):
        return -F(Xi @ np.concatenate([v, c]) / T).sum()

    sums = []
    for a in range(C):
        on, off = c.copy(), c.copy()
        on[a], off[a] = 1, -1
        sums.append(E(off) - E(on))
    return np.array(sums)


# -- the update ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_labels_are_updated_by_energy_differences(name):
    n, F = FUNCTIONS[name]
    T = 1.0 if n in (20, 30) else 3.0
    model, V = make(n, T=T), pictures()
    expected = np.array([by_energies(F, model, v) for v in V])
    assert np.abs(expected).max() > 1e-3
    tolerance = 2e-6 * max(1, np.abs(expected).max())
    assert_allclose(model.sums(V), expected, rtol=2e-4, atol=tolerance)
    c = one_by_one(model, jnp.asarray(V))
    assert_allclose(c, np.tanh(expected), rtol=2e-4, atol=tolerance)
    assert_allclose(model(V[0]), c[0], rtol=1e-5, atol=1e-6)
    assert (np.asarray(model.predict(V)) == expected.argmax(1)).all()
    E = -F((np.asarray(model.Xi) @ np.concatenate([V[0], c[0]])) / T).sum()
    assert_allclose(model.energy(V[0], c[0]), E, rtol=1e-4)


def test_powers_that_are_not_rectified():
    for n in (2, 3):
        model, V = make(n, rectified=False), pictures()
        expected = np.array([by_energies(lambda r, n=n: r**n, model, v) for v in V])
        assert_allclose(model.sums(V), expected, rtol=1e-4, atol=1e-5)


def test_quadratic_energy_is_a_linear_map():
    """Not rectified, n=2: (b + 2L)^2 - b^2 = 4 L b + 4 L^2, a network without hidden units."""
    model, V = make(2, rectified=False), pictures()
    W, L = np.asarray(model.pixel_weights), np.asarray(model.label_weights)
    base = V @ W.T - L.sum(1)
    assert_allclose(model.sums(V), (base @ (4 * L) + 4 * (L**2).sum(0)) / 9, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_small_label_weights_make_the_dual_network(n):
    """Section 4 of the paper: c_a = g(sum_mu 2 L f(W v)), one hidden layer with f = F'."""
    model = make(n)
    small = model.Xi.at[:, D:].multiply(1e-3)
    model, V = eqx.tree_at(lambda m: m.Xi, model, small), pictures()
    W, L = np.asarray(model.pixel_weights, np.float64), np.asarray(model.label_weights, np.float64)
    hidden = n * np.maximum(V @ W.T / 3, 0) ** (n - 1)
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda a: jnp.asarray(np.asarray(a, np.float64)), model)
        found = wide.sums(V.astype(np.float64))
    assert_allclose(found, hidden @ (2 * L / 3), rtol=2e-2, atol=2e-5)


def test_iterating_further_goes_on_from_the_labels():
    model, v = make(3, T=1.5), pictures()[0]
    F = FUNCTIONS["n=3"][1]
    c = -np.ones(C)
    for steps in (1, 2, 3):
        c = np.tanh(by_energies(F, model, v, c))
        assert_allclose(model(v, steps=steps), c, rtol=1e-4, atol=1e-5)
    spins = np.where(by_energies(F, model, v) > 0, 1, -1)
    assert_allclose(model(v, discrete=True), spins)
    again = np.where(by_energies(F, model, v, spins) > 0, 1, -1)
    assert_allclose(model(v, steps=2, discrete=True), again)


def test_probabilities_are_those_of_states_with_one_label_on():
    model, v = make(3), pictures()[0]
    sums = by_energies(FUNCTIONS["n=3"][1], model, v)
    E = np.array([float(model.energy(v, 2 * np.eye(C)[a] - 1)) for a in range(C)])
    # tanh(s) is the mean of a spin with the energy gap 2s: the inverse temperature is 2.
    boltzmann = np.exp(-2 * (E - E.min()))
    assert_allclose(model.predict_proba(v), boltzmann / boltzmann.sum(), rtol=1e-3)
    assert_allclose(model.predict_proba(v[None])[0], model.predict_proba(v), rtol=1e-5)
    assert sums.argmax() == model.predict(v)


# -- batches, dtypes, derivatives ------------------------------------------------------------------


@pytest.mark.parametrize("N", [1, 49, 51, 120])
def test_blocks_of_pictures_change_nothing(N):
    F, (base, L) = energy_function(3, True), (pictures(N, 1, 6), pictures(6, 2, C))
    low = np.maximum(base, 0) ** 3
    expected = (np.maximum(base[:, :, None] + 2 * L, 0) ** 3 - low[:, :, None]).sum(1)
    found = label_sums(F, jnp.asarray(base), jnp.asarray(L))
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_long_batches_are_predicted_in_parts():
    model, V = make(), pictures(2003)
    classes, p = model.predict(V), model.predict_proba(V)
    assert classes.shape == (2003,)
    assert p.shape == (2003, C)
    assert_allclose(p[-3:], model.predict_proba(V[-3:]), rtol=1e-5)
    assert (classes == p.argmax(1)).all()
    assert model.score(V, classes) == 1.0
    assert_allclose(
        model.score(V, (np.asarray(classes) + (np.arange(2003) < 500)) % C), 1 - 500 / 2003
    )


@pytest.mark.parametrize("name", ["n=2", "n=3", "n=20", "a user's"])
def test_derivatives_are_finite_differences(x64, name):
    n = FUNCTIONS[name][0]
    rng = np.random.default_rng(3)
    # Two blocks, one not full.
    base, L = rng.normal(size=(53, 3)), 0.3 * rng.normal(size=(3, C))
    F = energy_function(n, True)

    @jax.jit
    def sums(b, L):
        return label_sums(F, jnp.asarray(b), jnp.asarray(L))

    check_grads(sums, (base, L), order=1, modes=["rev"], rtol=1e-5)


@pytest.mark.parametrize("name", ["n=2", "n=3", "exponential"])
def test_batch_and_single_pictures_have_the_same_gradient(name):
    model, V = make(FUNCTIONS[name][0]), jnp.asarray(pictures())
    t = jnp.sign(jnp.asarray(pictures(5, 5, C)))
    gradient = lambda f: eqx.filter_jit(eqx.filter_grad(f))(model)
    batch = gradient(lambda m: jnp.sum((jnp.tanh(m.sums(V)) - t) ** 2))
    single = gradient(lambda m: jnp.sum((jax.vmap(m)(V) - t) ** 2))
    assert_allclose(batch.Xi, single.Xi, rtol=1e-3, atol=1e-5)
    assert_allclose(batch.temperature, single.temperature, rtol=1e-3)
    assert jnp.abs(batch.Xi).max() > 1e-3


def test_jit_vmap_and_shapes_of_pictures():
    model = make(shape=(3, 4))
    V = jnp.asarray(pictures())
    square = V.reshape(5, 3, 4)
    expected = one_by_one(model, V)
    assert_allclose(one_by_one(model, square), expected, rtol=1e-5)
    assert_allclose(jnp.tanh(model.sums(square)), expected, rtol=1e-5, atol=1e-6)
    assert (model.predict(square) == model.predict(V)).all()
    assert model.predict(square[0]).shape == ()
    assert model.pixel_weights.shape == (7, 3, 4)
    assert_allclose(model.pixel_weights[2, 1, 3], model.Xi[2, 7])
    assert_allclose(model.label_weights, model.Xi[:, D:])


@pytest.mark.parametrize("dtype", [np.float16, np.int8, bool, np.float64])
def test_pictures_of_any_kind(dtype):
    model, spins = make(), np.sign(pictures())
    V = spins > 0 if dtype is bool else spins.astype(dtype)
    assert model.sums(V).dtype == jnp.float32
    assert_allclose(model.sums(V), model.sums(spins), rtol=1e-6)
    assert_allclose(model(V[0]), model(spins[0]), rtol=1e-6)


@pytest.mark.parametrize("n", [20, 30])
def test_high_powers_at_full_size_stay_finite(n):
    """T^n alone is 1e54 and more: F(h/T) it must be."""
    V = np.sign(pictures(20, 7, 784))
    model = DenseAMClassifier(20, n=n, temperature=760.0, examples=(V, np.arange(20) % 10), key=KEY)
    s = model.sums(V)
    assert jnp.isfinite(s).all()
    assert (model.predict(V) == np.arange(20) % 10).all()
    grads = eqx.filter_jit(eqx.filter_grad(PowerLoss(30)))(
        model, (jnp.asarray(V), jnp.arange(20) % 10)
    )
    assert jnp.isfinite(grads.Xi).all()
    assert jnp.abs(grads.Xi).max() > 0


@pytest.mark.parametrize("n", [2, 3, 20])
def test_the_chosen_temperature_leaves_no_label_saturated(n):
    model = DenseAMClassifier(50, 100, n=n, key=KEY)
    V = jnp.sign(jnp.asarray(pictures(200, 9, 100)))
    cold = eqx.tree_at(lambda m: m.temperature, model, model.temperature / 4)
    assert (jnp.abs(jnp.tanh(model.sums(V))) > 0.999).mean() < 0.2
    if n == 3:  # what goes wrong below: no gradient is left
        assert (jnp.abs(jnp.tanh(cold.sums(V))) > 0.999).mean() > 0.5


def test_hebbian_memories_are_examples():
    V, y = pictures(30), np.arange(30) % C
    model = DenseAMClassifier(20, D, C, examples=(V, y), key=KEY)
    rows = np.array([np.abs(V - w).sum(1).argmin() for w in np.asarray(model.pixel_weights)])
    assert_allclose(model.pixel_weights, V[rows])
    assert len(set(rows)) == 20
    assert_allclose(model.label_weights, 2 * np.eye(C)[y[rows]] - 1)


# -- losses and learning ---------------------------------------------------------------------------


@pytest.mark.parametrize("m", [1, 2, 30])
def test_losses_are_those_of_the_paper(m):
    model, V, y = make(), jnp.asarray(pictures()), jnp.array([0, 3, 1, 1, 2])
    s = np.asarray(model.sums(V), np.float64)
    t = 2 * np.eye(C)[np.asarray(y)] - 1
    expected = (np.abs(np.tanh(s) - t) ** (2 * m)).sum(1).mean()
    assert_allclose(PowerLoss(m)(model, (V, y), KEY), expected, rtol=1e-4)
    p = np.exp(2 * s) / np.exp(2 * s).sum(1, keepdims=True)
    entropy = -np.log(p[np.arange(5), y]).mean()
    assert_allclose(ENTROPY(model, (V, y), KEY), entropy, rtol=1e-4)


@pytest.fixture(scope="module")
def digits():
    images, labels = am.data.mnist("train", subset="bundled")
    return images, labels, *am.data.mnist("test", subset="bundled")


def train(digits, model, loss, optimizer, epochs):
    result = am.fit(model, digits[:2], loss, optimizer, epochs, 100, jr.key(1), progress=False)
    return 1 - result.model.score(*digits[2:])


def test_it_learns_the_bundled_digits(digits):
    """Test error 6 to 8 % of 500 pictures where this was written; chance is 90 %."""
    model = DenseAMClassifier(200, key=KEY)
    rate = optax.exponential_decay(0.03, 15, 0.9, staircase=True)
    assert train(digits, model, PowerLoss(2), krotov_hopfield(rate), 20) < 0.12


def test_a_cold_start_learns_nothing(digits):
    """Why the published loss stalls: labels that start saturated have no gradient."""
    gradient = eqx.filter_jit(eqx.filter_grad(PowerLoss(2)))
    few = (digits[0][:100], digits[1][:100])
    warm = DenseAMClassifier(200, key=KEY)
    cold = DenseAMClassifier(200, temperature=3.0, mean=-0.3, key=KEY)
    assert jnp.abs(gradient(warm, few).Xi).max() > 1e-3
    assert jnp.abs(gradient(cold, few).Xi).max() == 0


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "message", "arguments"),
    [
        (ValueError, "n: must be at least 2; 1 came", {"n": 1}),
        (TypeError, "n: must be an integer; 2.5 came", {"n": 2.5}),
        (ValueError, "K: must be at least 1", {"K": 0}),
        (ValueError, "classes: must be at least 2", {"classes": 1}),
        (ValueError, "pixels: must be at least 1", {"pixels": (0, 3)}),
        (ValueError, "pixels: must be a number or a shape", {"pixels": ()}),
        (ValueError, "temperature: must be finite and greater than 0", {"temperature": 0.0}),
        (ValueError, "temperature: must be finite and greater than 0", {"temperature": -2}),
        (ValueError, "temperature: must be finite and greater than 0", {"temperature": np.nan}),
        (ValueError, "temperature: must be a scalar", {"temperature": np.ones(2)}),
        (ValueError, "temperature: must be at least .* overflow", {"n": 30, "temperature": 0.1}),
        (ValueError, "temperature: must be given where n is a function", {"n": jnp.exp}),
        (ValueError, "std: must be at least 0", {"std": -1.0}),
        (TypeError, r"examples: must be \(images, labels\)", {"examples": 3}),
        (ValueError, "with N at least the 7 memories", {"examples": (pictures(), np.arange(5))}),
        (ValueError, "one class per picture", {"examples": (pictures(9), np.zeros((9, 4), int))}),
    ],
)
def test_bad_models(error, message, arguments):
    arguments = {"K": 7, "pixels": D, "classes": C, "key": KEY, **arguments}
    with pytest.raises(error, match=message):
        plain.learning.DenseAMClassifier(**arguments)


@pytest.mark.parametrize(
    ("message", "v"),
    [
        (r"must have shape \(3, 4\) or \(12,\); \(5, 12\) came. A batch goes", pictures()),
        (r"\(5, 3, 4\) came. A batch goes", pictures().reshape(5, 3, 4)),
        (r"\(11,\) came. Reshape", pictures()[0, 1:]),
        (r"\(\) came", 0.5),
        ("pixels must lie in .*255 came. Bytes become grey", np.full(12, 255, np.uint8)),
        ("every value must be finite", np.full(12, np.nan, np.float32)),
    ],
)
def test_bad_single_pictures(message, v):
    with pytest.raises(ValueError, match=message):
        make(shape=(3, 4))(v)


def test_bad_batches_and_labels():
    model, V, y = make(), pictures(), np.arange(5) % C
    with pytest.raises(ValueError, match=r"images must have shape .*; \(5, 11\) came"):
        model.predict(V[:, 1:])
    with pytest.raises(ValueError, match="at least one picture"):
        model.predict(V[:0])
    with pytest.raises(ValueError, match="must be a batch; one picture came"):
        model.score(V[0], y[:1])
    with pytest.raises(ValueError, match="from 0 to 3; 0 to 4 came"):
        model.score(V, np.arange(5))
    with pytest.raises(ValueError, match="from 0 to 3; -1 to 2 came"):
        model.score(V, y - 1)
    with pytest.raises(TypeError, match="labels: must be integers; float32 came"):
        model.score(V, y.astype(np.float32))
    with pytest.raises(ValueError, match=r"must have shape \(5,\)"):
        model.score(V, y[:4])
    with pytest.raises(ValueError, match="steps: must be at least 1"):
        model(V[0], steps=0)
    with pytest.raises(ValueError, match=r"c must have shape \(4,\)"):
        model.energy(V[0], np.ones(3))


ENTROPY = CrossEntropy(DenseAMClassifier.logits, batched=True)


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        (PowerLoss(2), "labels: must be from 0 to 3; 0 to 4 came"),
        (ENTROPY, r"CrossEntropy: labels must lie in \[0, 4\); 0 to 4 came"),
    ],
    ids=["power", "cross-entropy"],
)
def test_fit_refuses_pictures_and_labels_out_of_range(loss, labels):
    def fit(data):
        am.fit(make(), data, loss, optax.adam(1e-3), 1, 5, KEY)

    bad = (pictures(), np.array([0, 1, 2, 3, 4]))
    with pytest.raises(ValueError, match=labels):
        fit(bad)
    with pytest.raises(ValueError, match=r"pixels must lie in .*1275 came. Bytes become grey"):
        fit((np.full((5, D), 1275.0), bad[1] % C))
    with pytest.raises((TypeError, ValueError), match=r"data must be .*labels\); [Aa]rray\w* came"):
        fit(bad[0])


def test_the_power_loss_trains_a_classifier():
    bad = (pictures(), np.array([0, 1, 2, 3, 3]))
    with pytest.raises(TypeError, match="trains a DenseAMClassifier; ClassicalHopfield came"):
        am.fit(am.ClassicalHopfield(bad[0]), bad, PowerLoss(2), optax.adam(1e-3), 1, 5, KEY)


def test_bad_losses():
    with pytest.raises(ValueError, match="m: must be at least 1"):
        PowerLoss(0)
    with pytest.raises(ValueError, match="m must be at most 60; 61 came"):
        PowerLoss(61)
    with pytest.raises(TypeError, match="m: must be an integer"):
        plain.learning.PowerLoss(1.5)
