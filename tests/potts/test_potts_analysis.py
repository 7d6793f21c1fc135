"""Minima and basins of units of several values, against enumeration of all states."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.analysis import _runs as runs
from amlib.analysis.basins import _Damage
from tests.potts.test_potts_laws import world
from tests.potts.zoo import N, Ring, codes, values

Q, D = 3, 40
XI = values(0, Q, 4, D)


def test_from_all_states_the_census_finds_every_minimum():
    w = world("exponential")
    table = am.analysis.fixed_points(w.model, w.X, jr.key(0), progress=False)
    minima = np.flatnonzero(w.fixed(np.arange(len(w.X))))
    np.testing.assert_array_equal(np.sort(codes(table.x, Q)), minima)
    assert 1 < len(minima) < len(w.X)
    assert table.count.sum() == table.starts == len(w.X)
    assert table.unsettled == 0
    assert (table.index == -1).all()
    np.testing.assert_allclose(table.energy, w.E[codes(table.x, Q)], rtol=1e-5)
    assert (np.diff(table.energy) >= 0).all()
    overlaps = np.asarray(jax.vmap(w.model.overlaps)(table.x))
    np.testing.assert_allclose(table.overlap, overlaps.max(1), rtol=1e-6, atol=1e-6)


def stay(memory, x, key):
    """The start itself, where everything is held."""
    return memory.recall(x, key=key, clamp=np.ones(D, bool), max_steps=1)


def test_a_fixed_point_is_stored_or_a_mixture_or_spurious():
    """Of three patterns the value that two have, and where all differ that of the nearest."""
    a, b, c = XI[:3]
    tie = (a != b) & (b != c) & (a != c)
    assert tie.any()
    mixed = np.where(b == c, b, a)
    near = np.where(np.arange(D) < 2, (a + 1) % Q, a)
    other = values(5, Q, D)
    model = am.PottsHopfield(XI, Q)
    table = am.analysis.fixed_points(
        model, np.stack([near, mixed, other]), jr.key(0), recall=stay, progress=False
    )
    kind = dict(zip(map(bytes, table.x.astype(np.int8)), table.kind, strict=True))
    kinds = [kind[x.astype(np.int8).tobytes()] for x in (near, mixed, other)]
    assert kinds == ["stored", "mixture", "spurious"]
    members = table.members[table.kind == "mixture"][0]
    np.testing.assert_array_equal(members, [1, 1, 1, 0])
    assert (table.members[table.kind == "stored"][0] == [1, 0, 0, 0]).all()
    bare = am.analysis.fixed_points(Ring(Q), values(1, Q, 3, 4), jr.key(0), progress=False)
    assert set(bare.kind) == {"unlabelled"}


def test_random_starts_have_all_values_alike_and_find_what_is_stored():
    model = am.PolynomialPottsAM(XI, Q, 3)
    table = am.analysis.fixed_points(model, 100, jr.key(1), progress=False)
    assert set(table.nearest[table.kind == "stored"]) == set(range(len(XI)))
    x0 = runs.drawn(model, 3000, None, jr.key(0), "")
    shares = np.bincount(np.asarray(x0).ravel(), minlength=Q) / x0.size
    np.testing.assert_allclose(shares, 1 / Q, atol=4 * 0.5 / np.sqrt(x0.size))


def test_a_basin_of_values_is_as_wide_as_their_damage():
    model = am.PolynomialPottsAM(XI, Q, 3)
    found = am.analysis.basin(model, 0, jr.key(0), seeds=40, progress=False)
    np.testing.assert_allclose(found.level, np.linspace(0, 1 - 1 / Q, 11))
    assert found.rests
    assert found.success[0] == 1
    assert found.success[-1] < 0.5
    assert 0.2 < found.size < 0.6
    np.testing.assert_array_equal(found.x, XI[0])
    spoil, keys, x = _Damage(am.Values(Q)), jr.split(jr.key(0), 200), jnp.asarray(XI[0])
    less, more = (
        np.asarray(jax.vmap(lambda k, s=s: spoil(k, x, jnp.asarray(s)))(keys)) for s in (0.3, 0.5)
    )
    assert ((less != XI[0]).sum(1) == round(0.3 * D)).all()
    assert ((more != XI[0]).sum(1) == round(0.5 * D)).all()
    damaged = less != XI[0]
    np.testing.assert_array_equal(more[damaged], less[damaged])  # the same, and ever more
    steps = np.bincount(((less - XI[0]) % Q)[damaged], minlength=Q)
    assert steps[0] == 0
    np.testing.assert_allclose(steps[1:] / steps.sum(), 0.5, atol=0.05)


# -- passes -----------------------------------------------------------------------------------


def lowest_passes(w, start):
    """The heights of the passes from one state to all: from the lowest level up, by unions."""
    parent, height = np.arange(len(w.X)), np.full(len(w.X), np.inf)

    def root(k):
        while parent[k] != k:
            k = parent[k]
        return k

    seen = np.zeros(len(w.X), bool)
    for k in np.argsort(w.E):
        seen[k] = True
        for unit in range(N):
            for value in range(Q):
                near = w.X[k].copy()
                near[unit] = value
                if seen[codes(near, Q)]:
                    parent[root(k)] = root(codes(near, Q))
        joined = np.asarray([seen[j] and root(j) == root(start) for j in range(len(w.X))])
        height[joined & np.isinf(height)] = w.E[k]
    return height


@pytest.mark.parametrize("name", ["exponential", "user-ring", "user-walls"])
def test_the_exact_pass_is_the_lowest_and_the_search_is_not_below(name):
    w = world(name)
    finite = np.flatnonzero(np.isfinite(w.E))
    a = finite[w.E[finite].argmin()]
    height = lowest_passes(w, a)
    far = finite[np.argsort(-(w.X[finite] != w.X[a]).sum(1), kind="stable")][:3]
    for b in far:
        exact = am.analysis.barrier(w.model, w.X[a], w.X[b], progress=False)
        found = am.analysis.barrier(w.model, w.X[a], w.X[b], exact=False, tries=12, progress=False)
        assert exact.exact
        assert not found.exact
        np.testing.assert_allclose(exact.energy.max(), height[b], atol=w.tol)
        assert found.energy.max() >= height[b] - w.tol
        for path in (exact, found):
            assert path.path.dtype == np.int32
            np.testing.assert_array_equal(path.path[[0, -1]], w.X[[a, b]])
            assert ((np.diff(path.path, axis=0) != 0).sum(1) == 1).all()
            np.testing.assert_allclose(path.energy, w.E[codes(path.path, Q)], atol=w.tol)


def test_detours_are_found():
    """The search finds the lowest pass of half of these memories, direct paths of fewer."""
    above, direct = [], []
    for seed in range(6):
        memory = am.PottsHopfield(values(seed, Q, 3, 9), Q)
        x = am.analysis.fixed_points(memory, 200, jr.key(seed), progress=False).x
        ends = x[0], x[min(4, len(x) - 1)]
        lowest = am.analysis.barrier(memory, *ends, progress=False).forward
        for found, tries in ((above, 32), (direct, 0)):
            path = am.analysis.barrier(memory, *ends, exact=False, tries=tries, progress=False)
            found.append(path.forward - lowest)
    assert min(above) > -1e-4
    assert np.sum(np.asarray(above) > 1e-4) <= 3
    assert sum(above) < sum(direct)


def test_passes_of_values_and_pictures():
    memory = am.PottsHopfield(values(1, Q, 3, 2, 4), Q)
    for exact in (True, False):
        found = am.analysis.passes(memory, memory.Xi, exact=exact, progress=False)
        one = am.analysis.barrier(memory, *memory.Xi[:2], exact=exact, progress=False)
        assert found.exact == exact
        assert one.path.shape[1:] == (2, 4)
        assert found.height[0, 1] <= one.energy.max() + 1e-5
        np.testing.assert_allclose(np.diag(found.height), found.energy)
    with pytest.raises(ValueError, match=r"exact takes at most .* 40 units of 3 came"):
        am.analysis.barrier(am.PottsHopfield(XI, Q), XI[0], XI[1], exact=True)
