"""The formulas of the binary models against plain NumPy in float64, and numbers that overflow."""

import math

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from tests.zoo import reals, same_parity, spins

K, D = 4, 9


def published(h: np.ndarray | jax.Array, n: int, rectified: bool) -> np.ndarray:
    """Krotov and Hopfield 2016, eq. 2 and 3, in float64 or exact integers."""
    return -np.sum(np.where(h > 0, h, 0 if rectified else h) ** n, -1)


def states(dtype=jnp.float32) -> jax.Array:
    return jnp.asarray(spins(0, 40, D), dtype)


# -- formulas ---------------------------------------------------------------------------------


@pytest.mark.parametrize("Xi", [spins(1, K, D), reals(1, K, D)], ids=["spins", "reals"])
def test_energies_are_the_formulas(Xi):
    x = spins(0, 40, D)
    h = x @ Xi.T
    J = Xi.T @ Xi
    pairs = -0.5 * np.einsum("bi,ij,bj->b", x, J, x)
    cases = [
        (am.ClassicalHopfield(jnp.float32(Xi)), -0.5 * (h**2).sum(-1)),
        (am.PolynomialDenseAM(jnp.float32(Xi), 3), published(h, 3, True)),
        (am.PolynomialDenseAM(jnp.float32(Xi), 3, rectified=False), published(h, 3, False)),
        (am.PolynomialDenseAM(jnp.float32(Xi), 4, rectified=False), published(h, 4, False)),
        (am.ExponentialDenseAM(jnp.float32(Xi)), -np.log(np.exp(h).sum(-1))),
        (am.ExponentialDenseAM(jnp.float32(Xi), 0.3), -np.log(np.exp(0.3 * h).sum(-1)) / 0.3),
        (am.BipolarIsing(jnp.float32(J)), pairs),
        (am.BipolarIsing(jnp.float32(J), jnp.float32(Xi[0])), pairs - h[:, 0]),
    ]
    for model, energies in cases:
        assert not getattr(model, "log_form", False)
        came = jax.vmap(model.energy)(states())
        np.testing.assert_allclose(came, energies, rtol=0, atol=1e-5 * np.abs(energies).max())


BEYOND_FLOAT32 = pytest.mark.parametrize(
    ("n", "rectified"), [(42, False), (43, False), (43, True)], ids=["even", "odd", "rectified"]
)


@BEYOND_FLOAT32
def test_the_log_form_is_its_formula(n, rectified):
    """E = -sign(S) log(1 + |S|), with S in Python's integers."""
    Xi, x = same_parity(spins(2, K, D)), spins(0, 40, D)
    model = am.PolynomialDenseAM(jnp.float32(Xi), n, rectified)
    assert model.log_form
    assert not am.PolynomialDenseAM(jnp.float32(Xi), n - 5, rectified).log_form
    overlaps = (x @ Xi.T).astype(int).tolist()
    S = [sum((max(h, 0) if rectified else h) ** n for h in row) for row in overlaps]
    exact = [-math.copysign(math.log1p(abs(s)), s) for s in S]
    assert len(set(exact)) > 4
    np.testing.assert_allclose(jax.vmap(model.energy)(states()), exact, rtol=1e-5)


@BEYOND_FLOAT32
@pytest.mark.usefixtures("x64")
def test_the_log_form_orders_states_as_the_published_energy_does(n, rectified):
    """In float32, against the published energy in float64, which holds it."""
    Xi = reals(4, K, D)
    in_logs = am.PolynomialDenseAM(jnp.asarray(Xi, jnp.float32), n, rectified)
    plain = am.PolynomialDenseAM(jnp.asarray(Xi), n, rectified)
    assert in_logs.log_form
    assert not plain.log_form
    logs = np.asarray(jax.vmap(in_logs.energy)(states(jnp.float32)))
    E = np.asarray(jax.vmap(plain.energy)(states(jnp.float64)))
    np.testing.assert_allclose(E, published(states(jnp.float64) @ Xi.T, n, rectified), rtol=1e-9)
    assert logs.dtype == jnp.float32
    assert_order(logs, np.sign(E) * np.log1p(np.abs(E)))


def assert_order(energies: np.ndarray, exact: np.ndarray) -> None:
    """Two energies are ordered as the exact ones are, unless float32 holds no difference."""
    resolution = 16 * np.finfo(np.float32).eps * np.abs(exact).max()
    lower = exact[:, None] < exact - resolution
    assert lower.sum() > 100  # there is an order to keep
    assert (energies[:, None] < energies)[lower].all()


# -- large powers, large patterns -------------------------------------------------------------


def near_a_memory() -> tuple[np.ndarray, np.ndarray]:
    """All 4,134 icons of 2,304 bits, and one of them with six bits wrong."""
    images = np.asarray(am.data.icons().images)
    Xi = images.reshape(len(images), -1)
    x = Xi[1234].copy()
    x[[7, 300, 1000, 1001, 1500, 2222]] *= -1
    return Xi, x


@pytest.mark.parametrize("kind", ["polynomial", "rectified", "exponential"])
def test_neighbours_of_a_memory_keep_their_order(kind):
    """Neither n = 30 nor beta = 50 overflows float32 at K = 4,134 and D = 2,304, and of any two
    single flips near a memory the lower one stays the lower one."""
    Xi, x = near_a_memory()
    h = Xi.astype(np.float64) @ x
    overlaps = np.vstack([h, h - 2 * x[:, None] * Xi.T])  # of x, and of each of its D flips
    if kind == "exponential":
        model = am.ExponentialDenseAM(jnp.asarray(Xi), beta=50.0)
        top = overlaps.max(1)
        exact = -top - np.log(np.exp(50 * (overlaps - top[:, None])).sum(1)) / 50
    else:
        model = am.PolynomialDenseAM(jnp.asarray(Xi), 30, kind == "rectified")
        assert model.log_form
        exact = -np.log1p(-published(overlaps, 30, kind == "rectified"))  # 1e100 in float64
    E, E_flip = model.energy(jnp.asarray(x)), model.flip_energies(jnp.asarray(x))
    energies = np.asarray([E, *E_flip])
    assert energies.dtype == np.float32
    assert np.isfinite(energies).all()
    np.testing.assert_allclose(energies, exact, rtol=1e-6)
    assert_order(energies, exact)
    wrong = x != Xi[1234]
    np.testing.assert_array_equal(E_flip < E, wrong)  # exactly the wrong bits lower the energy


@pytest.mark.parametrize(
    "model",
    [
        lambda Xi: am.PolynomialDenseAM(Xi, 30),
        lambda Xi: am.PolynomialDenseAM(Xi, 31, rectified=False),
        lambda Xi: am.ExponentialDenseAM(Xi, 50.0),
    ],
    ids=["rectified", "odd", "exponential"],
)
def test_recall_of_an_icon(model):
    """From one bit in ten wrong, with no overflow on the way."""
    Xi = am.data.icons(["dragon-head", "anchor", "axe-in-stump", "spider-web"]).images
    wrong = jr.bernoulli(jr.key(0), 0.1, Xi.shape[1:])
    end = model(Xi).recall(jnp.where(wrong, -Xi[2], Xi[2]), max_sweeps=3)
    np.testing.assert_array_equal(end.x, Xi[2])
    assert bool(end.converged)
    assert np.isfinite(end.trajectory.energy).all()


# -- Ising ------------------------------------------------------------------------------------


def test_ising_with_hebbian_couplings_is_the_classical_network():
    """In energy and in trajectory, and the diagonal of J has no influence on recall."""
    Xi = jnp.asarray(spins(5, 4, 30), jnp.float32)
    x0, key = jnp.asarray(spins(6, 30), jnp.float32), jr.key(1)
    classical, J = am.ClassicalHopfield(Xi), Xi.T @ Xi
    shift = jnp.arange(30.0) * jnp.where(jnp.arange(30) % 2 == 0, 1.0, -1.0)
    end, (frames, E) = classical.async_recall(x0, nsteps=150, key=key)
    assert (end != x0).any()
    for diagonal in (jnp.diag(J), jnp.zeros(30), shift):
        ising = am.BipolarIsing(jnp.fill_diagonal(J, diagonal, inplace=False))
        constant = -0.5 * (diagonal.sum() - jnp.trace(J))
        np.testing.assert_array_equal(ising.energy(x0), classical.energy(x0) + constant)
        same, (frames_, E_) = ising.async_recall(x0, nsteps=150, key=key)
        np.testing.assert_array_equal(same, end)
        np.testing.assert_array_equal(frames_.accepted, frames.accepted)
        np.testing.assert_array_equal(E_, E + constant)
        a, b = (m.recall(x0, order="greedy", max_sweeps=20) for m in (ising, classical))
        np.testing.assert_array_equal(a.trajectory.visited, b.trajectory.visited)
        np.testing.assert_array_equal(a.x, b.x)


# -- explain ----------------------------------------------------------------------------------


def test_explain_says_what_is_carried(capsys):
    am.ClassicalHopfield(jnp.asarray(spins(7, 5, 300), jnp.float32)).explain()
    text = capsys.readouterr().out
    assert "incremental" in text
    assert "float32[5]" in text


def test_explain_says_why_the_whole_energy_is_needed(capsys):
    class Sorted(am.AbstractBinaryAM):
        def energy(self, x):
            return jnp.dot(jnp.sort(x), jnp.arange(x.size, dtype=x.dtype))

    Sorted().explain(jnp.ones(8))
    text = capsys.readouterr().out
    assert "generic" in text
    assert "why" in text
