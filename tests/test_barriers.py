"""Passes and bifurcations: against brute force, and energies that are solved by hand."""

import heapq
from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib import analysis, theory
from tests.test_landscape import HAM, Occupied, Torn, Wells, gap
from tests.zoo import reals, spins


class Form(am.AbstractContinuousAM):
    """Normal forms of bifurcations of one unit."""

    beta: jax.Array
    kind: str

    def energy(self, x):
        b = self.beta
        terms = {
            "pitchfork": x**4 / 4 - b * x**2 / 2,
            "transcritical": x**3 / 3 - b * x**2 / 2,
            "fold": x**3 / 3 + b * x,
            "subcritical": x**6 / 6 - x**4 / 4 - b * x**2 / 2,
        }
        return jnp.sum(terms[self.kind])


class Camel(am.AbstractContinuousAM):
    """Two wells, a hill between them, and a pass on either side of the hill, one of them lower."""

    def energy(self, x):
        hill = 3 * jnp.exp(-4 * jnp.sum(x * x))
        return (x[0] ** 2 - 1) ** 2 + 0.5 * x[1] ** 2 + 0.05 * x[1] + hill


class Flat(am.AbstractContinuousAM):
    """An energy that is not finite between two wells."""

    def energy(self, x):
        return jnp.sum(jnp.where(jnp.abs(x) < 0.5, jnp.inf, (jnp.abs(x) - 1) ** 2))


def ising(N, key=0):
    J = jr.normal(jr.key(key), (N, N))
    return am.BipolarIsing(J + J.T)


def barrier(memory: Any, a: Any, b: Any, **options: Any):
    return analysis.barrier(memory, a, b, progress=False, **options)


def lowest_pass(energy, a, b):
    """The height of the lowest path: Dijkstra's algorithm with the maximum for the sum."""
    a, b = (tuple(np.asarray(x).tolist()) for x in (a, b))
    open_, best = [(energy(a), a)], {}
    while open_:
        height, state = heapq.heappop(open_)
        if state in best:
            continue
        best[state] = height
        for i in range(len(state)):
            near = (*state[:i], -state[i], *state[i + 1 :])
            if near not in best:
                heapq.heappush(open_, (max(height, energy(near)), near))
    return best[b]


def ends(memory, count=300):
    x = analysis.fixed_points(memory, count, jr.key(1), progress=False).x
    return x[0], x[min(3, len(x) - 1)]


# -- bits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_the_exact_pass_is_dijkstras_and_the_search_is_not_below(seed):
    memory = ising(9, seed)
    J = np.asarray(memory.J, float)
    energy = lambda s: -0.5 * np.asarray(s) @ J @ np.asarray(s)
    a, b = ends(memory)
    exact = barrier(memory, a, b)
    height = lowest_pass(energy, a, b)
    assert exact.exact
    assert_allclose(exact.energy.max(), height, atol=1e-4)
    assert_allclose(exact.forward, height - energy(a), atol=1e-4)
    assert_allclose(exact.backward, height - energy(b), atol=1e-4)
    found = barrier(memory, a, b, exact=False, tries=8)
    assert not found.exact
    assert found.energy.max() >= exact.energy.max() - 1e-5
    alone = barrier(memory, a, b, exact=False, tries=0)
    assert found.energy.max() <= alone.energy.max()
    for path in (exact, found):
        assert_array_equal(path.path[0], a)
        assert_array_equal(path.path[-1], b)
        assert (np.abs(np.diff(path.path, axis=0)).sum(1) == 2).all()  # one flip at a time
        assert_allclose(path.energy, [energy(s) for s in path.path], atol=1e-4)
        assert_array_equal(path.saddle, path.path[path.energy.argmax()])
        assert path.index == -1


def test_a_detour_is_found():
    """Of eleven spins the search finds the lowest pass but for one in eight, direct paths less."""
    above, direct = [], []
    for seed in range(8):
        memory = ising(11, seed)
        a, b = ends(memory)
        lowest = barrier(memory, a, b).forward
        direct.append(barrier(memory, a, b, exact=False, tries=0).forward - lowest)
        above.append(barrier(memory, a, b, exact=False, tries=32).forward - lowest)
    assert min(above) > -1e-4
    assert np.sum(np.array(above) > 1e-4) <= 1
    assert sum(above) < sum(direct)


def test_passes_of_bits_and_pictures():
    memory = Occupied((spins(0, 2, 12) + 1) / 2)
    found = barrier(memory, memory.Xi[0], memory.Xi[1])
    twin = am.ClassicalHopfield(2 * memory.Xi - 1)
    same = barrier(twin, twin.Xi[0], twin.Xi[1])
    assert set(np.unique(found.path)) == {0.0, 1.0}
    assert found.forward == same.forward
    pictures = am.ClassicalHopfield(spins(0, 2, 3, 4))
    for exact in (True, False):
        found = barrier(pictures, pictures.Xi[0], pictures.Xi[1], exact=exact)
        assert found.path.shape[1:] == (3, 4)
        assert found.forward == same.forward
    one = barrier(am.BipolarIsing(jnp.zeros((1, 1)), jnp.ones(1)), jnp.ones(1), -jnp.ones(1))
    assert (one.forward, one.backward) == (2, 0)
    assert_array_equal(
        barrier(memory, memory.Xi[0].astype(int), memory.Xi[1]).path[0], memory.Xi[0]
    )


def test_a_large_pass_is_a_path():
    memory = am.ClassicalHopfield(spins(3, 4, 90))
    found = barrier(memory, memory.Xi[0], memory.Xi[1], tries=2)
    assert not found.exact
    assert (np.abs(np.diff(found.path, axis=0)).sum(1) == 2).all()
    assert found.forward > 0
    e = np.asarray(jax.vmap(memory.energy)(jnp.asarray(found.path)))
    assert_allclose(found.energy, e)


def test_what_is_not_finite_is_not_passed():
    """The first unit up is NaN: paths go round it, or there are none."""
    a, b = jnp.array([-1.0, 1, 1]), jnp.array([-1.0, -1, -1])
    found = barrier(Torn(), a, b)
    assert np.isfinite(found.energy).all()
    assert (found.path[:, 0] == -1).all()
    for exact in (True, False):
        with pytest.raises(ValueError, match="barrier: the energies on a path must be finite"):
            barrier(Torn(), a, -a, exact=exact)


def test_passes_between_all():
    memory = am.ClassicalHopfield(spins(2, 3, 10))
    x = analysis.fixed_points(memory, 200, jr.key(0), progress=False).x[:6]
    found = analysis.passes(memory, x)
    assert found.exact
    assert_allclose(np.diag(found.height), found.energy)
    energy = lambda s: -0.5 * np.sum((np.asarray(memory.Xi) @ np.asarray(s)) ** 2)
    for i in range(6):
        for j in range(i):
            assert found.height[i, j] == found.height[j, i] == lowest_pass(energy, x[i], x[j])
    searched = analysis.passes(memory, x, exact=False, tries=4, progress=False)
    assert not searched.exact
    assert (searched.height >= found.height - 1e-4).all()
    round_ = np.maximum(searched.height[:, :, None], searched.height[None]).min(1)
    assert (searched.height <= round_ + 1e-9).all()


# -- reals ------------------------------------------------------------------------------------


def test_the_double_well():
    found = barrier(Wells(), jnp.array([-1.1]), jnp.array([0.9]))
    assert_allclose([found.forward, found.backward], 1, atol=1e-6)
    assert_allclose(found.saddle, 0, atol=1e-6)
    assert_allclose(found.energy.max(), 0, atol=1e-6)
    assert found.index == 1
    assert found.gradient < 1e-5
    assert not found.exact
    assert_allclose(found.path[[0, -1]], [[-1], [1]], atol=1e-3)


def test_between_two_patterns_lies_their_midpoint():
    Xi = reals(0, 2, 8)
    memory = am.GaussianMemory(Xi, 1.0)
    found = barrier(memory, Xi[0], Xi[1])
    assert_allclose(found.saddle, Xi.mean(0), atol=1e-5)
    assert found.index == 1
    height = float(memory.energy(jnp.asarray(Xi.mean(0), jnp.float32))) - found.energy[0]
    assert_allclose(found.forward, height, rtol=1e-5)
    assert_allclose(found.forward, found.backward, rtol=1e-4)


def test_a_string_bends_round_a_hill():
    """The straight path leads over a maximum; the lower one of the two passes is taken."""
    found = barrier(Camel(), jnp.array([-1.0, 0.0]), jnp.array([1.0, 0.0]))
    assert found.index == 1
    assert found.saddle[1] < -0.3
    assert found.energy.max() < Camel().energy(jnp.zeros(2)) - 1
    assert_allclose(jax.grad(Camel().energy)(jnp.asarray(found.saddle)), 0, atol=1e-3)
    x = np.linspace(-2, -0.1, 2000)  # on the axis of symmetry
    lowest = (1 + 0.5 * x**2 + 0.05 * x + 3 * np.exp(-4 * x**2)).min()
    assert_allclose(found.energy.max(), lowest, atol=1e-4)


def test_passes_by_way_of_a_third():
    """Three patterns on a line: the pass between the outer two is that of the wider gap."""
    Xi = np.array([[-3.0, 0.0], [0.0, 0.1], [4.0, 0.0]])
    memory = am.GaussianMemory(Xi, 4.0)
    found = analysis.passes(memory, Xi, tries=2, progress=False)
    assert_allclose(found.height[0, 2], max(found.height[0, 1], found.height[1, 2]), rtol=1e-3)
    assert found.height[0, 1] < found.height[1, 2] - 0.1
    assert not found.exact


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("memory", "a", "b", "options", "error", "message"),
    [
        (HAM, np.ones(4), np.zeros(4), {}, TypeError, "a HAM came"),
        (ising(4), np.ones(4), np.ones(4), {}, ValueError, "must be two states; they are equal"),
        (ising(4), np.ones(4), np.ones(3), {}, ValueError, r"b: the state must have shape \(4,\)"),
        (ising(4), np.ones(4), np.zeros(4), {}, ValueError, r"only -1 and \+1"),
        (ising(21), np.ones(21), -np.ones(21), {"exact": True}, ValueError,
         "exact takes at most 1,048,576 states, 20 units of two values; 21 units of 2 came"),
        (ising(4), np.ones(4), -np.ones(4), {"exact": False, "tries": -1}, ValueError, "tries: "),
        (Wells(), np.ones(2), np.ones(3), {}, ValueError, r"one shape; \(2,\) and \(3,\) came"),
        (Wells(), np.array([1.0]), np.array([0.8]), {}, ValueError, "recalls from both end in one"),
        (Wells(), np.array([1.0]), np.array([-1.0]), {"exact": True}, ValueError, "exact must be"),
        (Wells(), np.array([1.0]), np.array([-1.0]), {"images": 4}, ValueError, "images: must"),
        (Wells(), np.ones(5000), -np.ones(5000), {}, ValueError, "at most 4096 units"),
        (Flat(), np.array([1.0]), np.array([-1.0]), {}, ValueError, "on a path must be finite"),
    ],
)  # fmt: skip
def test_barriers_refuse(memory, a, b, options, error, message):
    with pytest.raises(error, match=f"^barrier: .*{message}|{message}"):
        barrier(memory, a, b, **options)


@pytest.mark.usefixtures("unchecked")
def test_bounded_states_have_no_pass_of_this_kind():
    class Boxed(am.ContinuousAM):
        space = am.Box()

        def energy(self, x):
            return -jnp.sum((self.Xi @ x) ** 2)

    with pytest.raises(TypeError, match="barrier: states must be free; those of Boxed stay in Box"):
        barrier(Boxed(np.eye(2)), np.ones(2), -np.ones(2))
    with pytest.raises(ValueError, match="passes: states must be at least two; 1 came"):
        analysis.passes(ising(4), np.ones((1, 4)))


# -- bifurcations -----------------------------------------------------------------------------


def follow(kind, x0, values, **options):
    form = Form(jnp.asarray(0.0), kind)
    return analysis.bifurcations(form, "beta", values, jnp.array([x0]), **options)


def branch(found, k):
    on = found.branches.branch == k
    return found.branches.value[on], found.branches.x[on][:, 0], found.branches.index[on]


def test_a_pitchfork():
    found = follow("pitchfork", 0.0, np.linspace(-1, 1, 12))
    assert_allclose(found.value, [0], atol=1e-6)
    assert found.kind.tolist() == ["crossing"]
    assert_array_equal(np.unique(found.branches.branch), [0, 1, 2])
    value, x, index = branch(found, 0)
    assert_allclose(x, 0, atol=1e-6)
    assert_array_equal(index, value > 1e-6)
    for k in (1, 2):
        value, x, index = branch(found, k)
        assert_allclose(np.abs(x), np.sqrt(np.maximum(value, 0)), atol=1e-3)
        assert value[-1] == 1
        assert (index == 0).all()
        assert set(found.branches.origin[found.branches.branch == k]) == {0}
    assert branch(found, 1)[1][-1] == pytest.approx(-branch(found, 2)[1][-1], abs=1e-4)


def test_branches_cross_and_end():
    found = follow("transcritical", 0.0, np.linspace(-1, 1, 12))
    assert_allclose(found.value, [0], atol=1e-6)
    for k in (1, 2):
        value, x, index = branch(found, k)
        assert_allclose(x, value, atol=1e-3)
        assert (index[1:] == (value[1:] < 0)).all()
    found = follow("fold", 1.0, np.linspace(-1, 1, 12))
    assert_allclose(found.value, [0], atol=1e-3)
    assert found.kind.tolist() == ["end"]
    value, x, index = branch(found, 1)
    assert_allclose(x, -np.sqrt(np.abs(value)), atol=2e-2)
    assert value[-1] == -1
    assert index[-1] == 1


def test_generations():
    """A subcritical pitchfork: the branches that leave turn round at folds, at -1/4."""
    values = np.linspace(-1, 1, 16)
    found = follow("subcritical", 0.0, values, generations=2)
    assert_allclose(np.sort(found.value), [-0.25, -0.25, 0], atol=1e-4)
    ends = found.branches.x[found.branches.value == 1][:, 0]
    assert_allclose(np.sort(ends), [-1.27202, 0, 1.27202], atol=1e-4)
    none = follow("subcritical", 0.0, values, generations=0)
    assert (none.branches.branch == 0).all()
    assert_allclose(none.value, [0], atol=1e-6)


def test_two_patterns_merge_where_theory_says():
    Xi = reals(0, 2, 6)
    beta = theory.merging_beta(gap(Xi))
    values = beta * np.linspace(0.4, 2.2, 11)
    found = analysis.bifurcations(am.GaussianMemory(Xi), "beta", values, Xi.mean(0))
    assert_allclose(found.value, [beta], rtol=1e-4)
    assert found.number.tolist() == [0]
    axis = (Xi[0] - Xi[1]) / gap(Xi)
    assert_allclose(np.abs(found.direction[0] @ axis), 1, atol=1e-4)
    assert_allclose(found.x[0], Xi.mean(0), atol=1e-4)
    last = found.branches.x[found.branches.value == values[-1]]
    assert len(last) == 3
    # The minima solve m = tanh(beta d^2 m / 4) between the two patterns.
    m = np.sort((last - Xi.mean(0)) @ axis / (gap(Xi) / 2))
    assert_allclose(m, np.tanh(2.2 * m), atol=1e-3)
    assert_allclose(m[1], 0, atol=1e-4)
    assert m[2] > 0.9
    # The other way, from a pattern, the branch ends there.
    back = analysis.bifurcations(
        lambda beta: am.GaussianMemory(Xi, beta), "beta", values[::-1], Xi[0], generations=0
    )
    assert back.kind.tolist() == ["end"]
    assert_allclose(back.value, [beta], rtol=1e-3)


def test_three_patterns_merge_in_two_eigenvalues():
    """On a triangle of radius 1 the variance is 1/2 in every direction: the centre goes at 2."""
    angles = np.arange(3) * 2 * np.pi / 3
    Xi = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = analysis.bifurcations(am.GaussianMemory(Xi), "beta", np.linspace(1, 3, 14), np.zeros(2))
    crossings = found.value[found.kind == "crossing"]
    assert_allclose(crossings, [2, 2], rtol=1e-3)
    assert_array_equal(found.number[:2], [0, 1])
    # Three branches lead down in beta to folds, three up: the saddles.
    assert_array_equal(np.unique(found.branches.branch), range(7))
    assert (found.kind == "end").sum() == 3


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("model", "parameter", "values", "x0", "error", "message"),
    [
        (am.GaussianMemory(np.eye(2)), "betta", [1, 2], np.ones(2), ValueError,
         "Did you mean 'beta'"),
        (am.GaussianMemory(np.eye(2)), "beta", [1, 3, 2], np.ones(2), ValueError,
         "that rise, or fall"),
        (am.GaussianMemory(np.eye(2)), "beta", [1], np.ones(2), ValueError, "two or more"),
        (am.GaussianMemory(np.eye(2)), "beta", [1, 2], np.ones(3), ValueError, r"\(3,\) came"),
        (Form(jnp.asarray(0.0), "fold"), "beta", [1, 2], np.ones(1), ValueError, "found none"),
        (3, "beta", [1, 2], np.ones(3), TypeError, "a memory, or a function .* int came"),
        (am.ExponentialDenseAM(np.ones((1, 3))), "beta", [1, 2], np.ones(3), TypeError,
         "must have real"),
    ],
)  # fmt: skip
def test_bifurcations_refuse(model, parameter, values, x0, error, message):
    with pytest.raises(error, match=f"^bifurcations: .*{message}|{message}"):
        analysis.bifurcations(model, parameter, values, x0)
