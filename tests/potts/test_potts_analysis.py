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
from tests.potts.zoo import Ring, codes, values

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


@pytest.mark.parametrize("what", ["barrier", "passes"])
def test_what_is_not_of_values_says_what_is(what):
    call = getattr(am.analysis, what)
    states = (XI[0], XI[1]) if what == "barrier" else (XI,)
    with pytest.raises(TypeError, match=rf"{what}: memory must .* 3 values. am.analysis.fixed_"):
        call(am.PottsHopfield(XI, Q), *states)
