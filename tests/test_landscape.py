"""Minima, basins and spectra: against enumerations, and energies that are solved by hand."""

from itertools import product
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib import analysis
from tests import users
from tests.zoo import ConvolutionalEnergy, reals, spins


class Wells(am.AbstractContinuousAM):
    """Minima at -1 and 1 in each unit, and no patterns."""

    def energy(self, x):
        return jnp.sum(x**4 - 2 * x**2)


class Bowl(am.AbstractContinuousAM):
    """A quadratic."""

    A: jax.Array

    def energy(self, x):
        return 0.5 * jnp.dot(x.reshape(-1), self.A @ x.reshape(-1))


class Occupied(am.BinaryAM):
    """A Hopfield network over 0 and 1."""

    space = am.Bits()

    def energy(self, x):
        return -0.5 * jnp.sum(((2 * self.Xi - 1) @ (2 * x - 1)) ** 2)


class Torn(am.AbstractBinaryAM):
    """An energy that is not finite where the first unit is up."""

    def energy(self, x):
        return jnp.where(x[0] > 0, jnp.nan, jnp.sum(x))


def census(memory: Any, starts: Any = 400, **options: Any):
    return analysis.fixed_points(memory, starts, jr.key(0), progress=False, **options)


def minima(energy, D):
    """Every state that no flip lowers, by brute force in NumPy."""
    states = np.array(list(product([-1.0, 1.0], repeat=D)), np.float32)
    e = np.array([energy(s) for s in states])
    best = [
        k for k, s in enumerate(states)
        if all(energy(np.where(np.arange(D) == i, -s, s)) >= e[k] for i in range(D))
    ]  # fmt: skip
    return {tuple(states[k]) for k in best}


# -- the census -------------------------------------------------------------------------------


def test_the_census_of_spins_is_the_enumeration():
    Xi = spins(0, 3, 9)
    table = census(am.ClassicalHopfield(Xi), 2000)
    expected = minima(lambda s: -0.5 * np.sum((Xi @ s) ** 2), 9)
    assert {tuple(x) for x in table.x.tolist()} == expected
    assert table.count.sum() + table.unsettled == table.starts == 2000
    assert table.unsettled == 0
    assert (np.diff(table.energy) >= 0).all()
    assert_allclose(table.energy, [-0.5 * np.sum((Xi @ x) ** 2) for x in table.x])


def test_kinds_of_a_hopfield_network():
    """Three patterns, their inverses, and the eight mixtures of all three (Amit et al. 1985)."""
    Xi = spins(5, 3, 201)
    table = census(am.ClassicalHopfield(Xi), 1000)
    for x, kind, members, near, overlap in zip(
        table.x, table.kind, table.members, table.nearest, table.overlap, strict=True
    ):
        assert_allclose(overlap, Xi[near] @ x / 201, rtol=1e-6)
        if kind == "mixture":
            assert (members != 0).all()
            assert np.mean(x == np.sign(members @ Xi)) > 0.95
        else:
            assert kind == ("stored" if overlap > 0 else "inverse")
            assert_array_equal(members, np.eye(3)[near] * np.sign(overlap))
    kinds, counts = np.unique(table.kind, return_counts=True)
    assert dict(zip(kinds.tolist(), counts.tolist(), strict=True)) == {
        "inverse": 3, "mixture": 8, "stored": 3,
    }  # fmt: skip


def test_a_mixture_of_some_patterns_names_them():
    Xi = spins(1, 8, 400)
    x = np.sign(Xi[1] - Xi[4] + Xi[6])
    still = lambda m, x, key: am.Recall(x, m.energy(x), jnp.asarray(1), am.RESULTS.converged)
    noise = spins(2, 400)
    table = census(am.ClassicalHopfield(Xi), np.stack([x, noise, Xi[0]]), recall=still)
    found = {k: m.tolist() for k, m in zip(table.kind.tolist(), table.members, strict=True)}
    assert found == {
        "mixture": [0, 1, 0, 0, -1, 0, 1, 0], "spurious": [0] * 8, "stored": [1, *[0] * 7],
    }  # fmt: skip


def test_the_census_of_bits():
    Xi = (spins(0, 2, 40) + 1) / 2
    table = census(Occupied(Xi))
    assert set(np.unique(table.x)) == {0.0, 1.0}
    assert sorted(table.kind.tolist()) == ["inverse", "inverse", "stored", "stored"]
    assert_allclose(np.abs(table.overlap), 1)


def test_the_census_of_a_mixture_of_gaussians():
    Xi = reals(0, 5, 12)
    table = census(am.GaussianMemory(Xi, 8.0))
    assert (table.kind == "stored").all()
    assert sorted(table.nearest.tolist()) == list(range(5))
    assert_allclose(table.x, Xi[table.nearest], atol=1e-2)
    assert (table.index == 0).all()
    merged = census(am.GaussianMemory(Xi[:2], 0.5 * am.theory.merging_beta(gap(Xi))))
    assert merged.kind.tolist() == ["mixture"]
    assert merged.count.tolist() == [400]
    assert_array_equal(merged.members, [[1, 1]])
    assert_allclose(merged.x[0], Xi[:2].mean(0), atol=1e-2)


def gap(Xi):
    return float(np.linalg.norm(Xi[0] - Xi[1]))


def test_an_energy_alone():
    table = census(Wells(), jr.normal(jr.key(1), (300, 2)))
    assert_allclose(sorted(map(tuple, table.x.round(2).tolist())), list(product([-1, 1], repeat=2)))
    assert (table.kind == "unlabelled").all()
    assert (table.nearest == -1).all()
    assert np.isnan(table.overlap).all()
    patterns = jnp.array([[1.0, 1.0], [-1.0, 1.0]])
    table = census(Wells(), jr.normal(jr.key(1), (300, 2)), patterns=patterns)
    assert sorted(table.kind.tolist()) == ["inverse", "inverse", "stored", "stored"]
    assert census(Wells(), 50, patterns=patterns).count.sum() == 50  # their shape is a state's
    images = ConvolutionalEnergy(jnp.asarray(reals(14, 2, 1, 3, 3), jnp.float32))
    table = census(images, spins(3, 60, 3, 3))
    assert table.x.shape[1:] == (3, 3)
    assert all(images.is_fixed_point(x) for x in table.x)


def test_what_is_no_minimum_is_said():
    """Starts on the ridge between two wells; recalls that are cut short; energies of NaN."""
    table = census(Wells(), np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]))
    assert sorted(zip(table.kind.tolist(), table.index.tolist(), strict=True)) == [
        ("saddle", 1), ("saddle", 2), ("unlabelled", 0),
    ]  # fmt: skip
    short = lambda m, x, key: m.recall(x, max_steps=1)
    table = census(am.ClassicalHopfield(spins(0, 40, 100)), 50, recall=short)
    assert table.unsettled > 0
    assert table.count.sum() + table.unsettled == 50
    assert all(am.ClassicalHopfield(spins(0, 40, 100)).is_fixed_point(x) for x in table.x)
    table = census(Torn(), np.array([[1.0, 1, 1], [-1, 1, 1]]))
    assert (table.count.tolist(), table.unsettled) == ([1], 1)
    assert_array_equal(table.x, [[-1, -1, -1]])
    none = census(Torn(), np.array([[1.0, 1, 1]]))
    assert none.x.shape == (0, 3)
    assert none.unsettled == 1


def test_tolerance_joins_reals():
    still = lambda m, x, key: am.Recall(x, m.energy(x), jnp.asarray(1), am.RESULTS.converged)
    starts = jnp.array([[1.0, 1.0], [1.0, 1.004], [1.0, 1.3]])
    assert sorted(census(Wells(), starts, recall=still).count.tolist()) == [1, 2]
    assert len(census(Wells(), starts, recall=still, tol=1e-3).count) == 3
    assert len(census(Wells(), starts, recall=still, tol=0.5).count) == 1


@pytest.mark.parametrize(
    "memory",
    [
        am.ClassicalHopfield(np.array([[1, -1, 1, 1]])),
        am.ClassicalHopfield(np.array([[1]])),
        am.GaussianMemory(np.array([[1, 2, 3]])),
        am.GaussianMemory(np.array([[0, 0]])),
        am.ModernHopfield(np.array([[3], [3]]), 1.0),
        am.ClassicalHopfield(np.ones((2, 3), np.int8)),
    ],
    ids=["K=1", "D=1", "integers", "zeros", "copies", "int8"],
)
def test_small_memories(memory):
    table = census(memory, 20)
    assert table.count.sum() == 20
    assert set(table.kind.tolist()) <= {"stored", "inverse"}


HAM = am.HAM({"a": am.TanhLayer(4)}, {}, [])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("memory", "starts", "options", "error", "message"),
    [
        (HAM, 5, {}, TypeError, "memory must have states of one array; a HAM came"),
        (lambda x: x, 5, {}, TypeError, "memory must be one that recalls states.* function came"),
        (Wells(), 5, {}, ValueError, r"shape of a state must be known; Wells .* instead of 5"),
        (Wells(), 0, {}, ValueError, "starts: must be at least 1; 0 came"),
        (Wells(), np.ones((0, 3)), {}, ValueError, r"starts: must be one state or more.*\(0, 3\)"),
        (am.GaussianMemory(np.eye(3)), np.ones(3), {}, ValueError, r"shape \(n, 3\); \(3,\) came"),
        (am.ClassicalHopfield(np.ones((1, 3))), np.ones((2, 4)), {}, ValueError, r"\(2, 4\) came"),
        (am.ClassicalHopfield(np.ones((1, 3))), np.zeros((2, 3)), {}, ValueError, "only -1 and"),
        (Wells(), np.full((2, 3), np.nan), {}, ValueError, "NaN or infinity came"),
        (Wells(), np.ones((2, 3)), {"patterns": np.ones((2, 4))}, ValueError, r"\(2, 4\) came"),
        (Wells(), np.ones((2, 3)), {"overlap": 0}, ValueError, r"overlap must lie in \(0, 1\]; 0"),
        (Wells(), np.ones((2, 3)), {"tol": -1}, ValueError, "tol: must be at least 0"),
        (Wells(), np.ones((2, 3)), {"recall": lambda m, x, k: x}, TypeError, "must return a Rec"),
    ],
)  # fmt: skip
def test_the_census_refuses(memory, starts, options, error, message):
    with pytest.raises(error, match=f"^fixed_points: {message}|{message}"):
        census(memory, starts, **options)
    with pytest.raises(TypeError, match="fixed_points: key: must be one random key; int came"):
        users.am.analysis.fixed_points(users.am.ModernHopfield(np.eye(3)), 5, 0)


# -- basins -----------------------------------------------------------------------------------


def basin(memory: Any, pattern: Any = 0, **options: Any):
    return analysis.basin(memory, pattern, jr.key(0), progress=False, **options)


def test_the_basin_of_one_pattern_is_half_of_all_states():
    """One pattern: all states with a positive overlap fall to it, those with a negative do not."""
    Xi = spins(0, 1, 31)
    found = basin(am.ClassicalHopfield(Xi), levels=np.arange(0, 32, 3) / 31, seeds=20)
    assert_allclose(found.level, np.arange(0, 32, 3) / 31)
    assert_array_equal(found.success, np.arange(0, 32, 3) < 16)
    assert_allclose(found.radius, 15 / 31)
    assert found.size == found.size_low == found.size_high == pytest.approx(15 / 31)
    assert (found.low <= found.success).all()
    assert (found.success <= found.high).all()
    assert found.rests
    assert_array_equal(found.x, Xi[0])


def test_basins_shrink_with_the_load():
    few, many = (basin(am.ClassicalHopfield(spins(0, K, 80)), seeds=50) for K in (3, 8))
    assert many.size_high < few.size_low
    assert few.size_low < few.size < few.size_high
    assert (few.converged == 1).all()
    assert few.success[0] == 1
    assert set(few.radius) <= set(few.level)


def test_the_basin_of_a_well():
    slow = lambda m, x, key: m.recall(x, method=am.GradientDescent(0.02))  # crosses no ridge
    found = basin(Wells(), jnp.array([1.0]), levels=[0.0, 0.5, 0.9, 1.2], seeds=64, recall=slow)
    # Half of the seeds go outwards, and all of those return.
    assert found.success[:3].tolist() == [1, 1, 1]
    assert 0.3 < found.success[3] < 0.7
    assert set(found.radius) == {0.9, 1.2}
    assert_allclose(found.size, 0.9 + 0.3 * found.success[3], rtol=1e-6)


def test_basins_of_bits_and_of_other_damage():
    found = basin(Occupied((spins(0, 2, 40) + 1) / 2), seeds=10)
    assert found.success[0] == 1
    assert set(np.unique(found.x)) == {0.0, 1.0}
    counted = basin(
        am.ClassicalHopfield(spins(0, 2, 40)), spins(0, 2, 40)[1].astype(int), seeds=10,
        levels=[0, 4, 30], corruption=am.data.corrupt.flip_exactly,
    )  # fmt: skip
    assert counted.success.tolist() == [1, 1, 0]
    never = basin(Wells(), jnp.array([1.0]), seeds=3, success=lambda x, target: jnp.asarray(False))
    assert np.isnan(never.radius).all()
    assert never.size == 0


def test_without_rest_there_is_no_basin():
    short = lambda m, x, key: m.recall(x, max_steps=1, tol=0.0)
    found = basin(Wells(), jnp.array([0.9]), seeds=5, recall=short, levels=[0.0, 0.1])
    assert not found.rests
    assert not found.success.any()
    assert not found.converged.any()


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("memory", "pattern", "options", "error", "message"),
    [
        (HAM, 0, {}, TypeError, "a HAM came"),
        (Wells(), 0, {}, TypeError, "pattern must be a state; the number 0 came, and Wells has no"),
        (am.GaussianMemory(np.eye(3)), 3, {}, ValueError, r"pattern must lie in \[0, 3\); 3 came"),
        (am.GaussianMemory(np.eye(3)), np.ones(4), {}, ValueError, r"\(4,\) came"),
        (Wells(), np.ones(2), {"levels": [0.2, 0.1]}, ValueError, "levels must rise"),
        (Wells(), np.ones(2), {"levels": []}, ValueError, "levels must be a sequence of numbers"),
        (Wells(), np.ones(2), {"seeds": 0}, ValueError, "seeds: must be at least 1; 0 came"),
        (Wells(), np.ones(2), {"success": lambda x, t: x > 0}, ValueError, "one truth value"),
        (Wells(), np.ones(2), {"corruption": lambda k, x, p: x[:1]}, ValueError, r"\(1,\) came"),
    ],
)  # fmt: skip
def test_basins_refuse(memory, pattern, options, error, message):
    with pytest.raises(error, match=f"^basin: .*{message}|{message}"):
        basin(memory, pattern, **options)


# -- spectra ----------------------------------------------------------------------------------


def test_the_spectrum_of_a_quadratic_is_that_of_its_matrix():
    A = reals(0, 6, 6)
    A = (A + A.T).astype(np.float32)
    values, vectors = np.linalg.eigh(A.astype(float))
    x = jnp.asarray(reals(1, 2, 3), jnp.float32)
    found = analysis.hessian_spectrum(Bowl(jnp.asarray(A)), x)
    assert_allclose(found.eigenvalues, values, atol=1e-5)
    assert found.eigenvectors.shape == (6, 2, 3)
    cosines = np.sum(np.asarray(found.eigenvectors).reshape(6, 6) * vectors.T, axis=1)
    assert_allclose(np.abs(cosines), 1, atol=1e-4)
    assert found.index == (values < 0).sum()
    assert_allclose(found.gradient, np.abs(A @ np.asarray(x).reshape(-1)).max(), rtol=1e-5)


def test_spectra_go_through_vmap():
    xs = jnp.array([[0.0, 0.0], [1.0, 0.0], [1.0, -1.0]])
    found = jax.vmap(lambda x: analysis.hessian_spectrum(Wells(), x))(xs)
    assert_allclose(found.eigenvalues, [[-4, -4], [-4, 8], [8, 8]], atol=1e-5)
    assert found.index.tolist() == [2, 1, 0]
    assert_allclose(found.gradient, 0, atol=1e-6)


def test_the_spectrum_of_log_sum_exp_between_two_patterns():
    """One minus beta times the variance of the patterns along the line, one across it."""
    Xi = reals(0, 2, 5)
    found = analysis.hessian_spectrum(am.GaussianMemory(Xi, 2.0), Xi.mean(0))
    assert_allclose(found.eigenvalues[1:], 1, atol=1e-4)
    assert_allclose(found.eigenvalues[0], 1 - 2 * gap(Xi) ** 2 / 4, rtol=1e-4)


@pytest.mark.usefixtures("unchecked")
def test_spectra_refuse():
    with pytest.raises(TypeError, match="hessian_spectrum: memory must have real states; Classic"):
        analysis.hessian_spectrum(am.ClassicalHopfield(np.ones((1, 3))), np.ones(3))
    with pytest.raises(TypeError, match=r"hessian_spectrum: .* a HAM came"):
        analysis.hessian_spectrum(HAM, np.ones(3))
    with pytest.raises(ValueError, match=r"hessian_spectrum: the state must have shape \(3,\)"):
        analysis.hessian_spectrum(am.GaussianMemory(np.eye(3)), np.ones(2))


# -- curves over seeds ------------------------------------------------------------------------


def curve(patterns: Any, **options: Any):
    return analysis.retrieval_curve(
        am.ClassicalHopfield, patterns, am.data.corrupt.flip, [0.1, 0.3], jr.key(0),
        **({"queries": 12, "progress": False} | options),
    )  # fmt: skip


def test_intervals_over_seeds_hold_what_single_measurements_give():
    draw = lambda key: jr.rademacher(key, (9, 64), jnp.float32)
    table = curve(draw, seeds=6)
    assert (table.seeds == 6).all()
    assert (table.queries == 12).all()
    own = [jr.fold_in(jr.key(0), s) for s in range(6)]
    single = [
        analysis.retrieval_curve(
            am.ClassicalHopfield, draw(jr.fold_in(key, 2**31 - 1)), am.data.corrupt.flip,
            [0.1, 0.3], key, queries=12, progress=False,
        )
        for key in own
    ]  # fmt: skip
    cosines = np.stack([one.cosine for one in single])
    assert_allclose(table.cosine, cosines.mean(0), rtol=1e-6)
    assert_allclose(table.success, np.mean([one.success for one in single], axis=0), rtol=1e-6)
    half = 2.5706 * cosines.std(0, ddof=1) / np.sqrt(6)  # Student's t of 5 degrees of freedom
    assert_allclose(table.cosine_high, np.minimum(cosines.mean(0) + half, 1), rtol=1e-4)
    assert_allclose(table.cosine_low, cosines.mean(0) - half, rtol=1e-4)
    assert (table.success_low < table.success).all()


def test_one_seed_has_wilsons_interval():
    table = curve(spins(0, 9, 64))
    assert (table.seeds == 1).all()
    again = curve(lambda key: spins(0, 9, 64))
    assert_array_equal(table.success, again.success)
    z, p = 1.96, table.success
    middle = (p + z**2 / 24) / (1 + z**2 / 12)
    assert_allclose((table.success_low + table.success_high) / 2, middle, atol=1e-6)
    assert (table.cosine_low <= table.cosine).all()


def test_curves_over_seeds_refuse():
    with pytest.raises(ValueError, match="retrieval_curve: seeds: must be at least 2; 1 came"):
        curve(spins(0, 9, 64), seeds=1)
    sizes = iter([4, 5])
    with pytest.raises(ValueError, match="one shape for every key"):
        curve(lambda key: spins(0, next(sizes), 64), seeds=2)


def test_a_census_compiles_once_for_other_numbers():
    """Other patterns of the same shape run the same program."""
    count = [0]

    class Counted(am.ContinuousAM):
        beta: float = eqx.field(default=1.0)

        def energy(self, x):
            count[0] += 1
            return am.GaussianMemory(self.Xi, self.beta).energy(x)

    census(Counted(reals(0, 3, 5), 4.0), 30)
    before = count[0]
    census(Counted(reals(1, 3, 5), 5.0), 30)
    assert count[0] == before
