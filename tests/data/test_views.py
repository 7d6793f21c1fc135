"""Views of pictures: many, distinct, and of the pictures that they say."""

import jax.numpy as jnp
import numpy as np
import pytest

import amlib as am
from amlib.data._views import ROOM, views

IMAGES = am.data.icons().images[:20]
SIDE = 12


def test_views_are_distinct_spins_of_their_pictures():
    Xi, picture = views(IMAGES, 3000, SIDE)
    assert Xi.shape == (3000, SIDE**2)
    assert Xi.dtype == np.int8
    assert set(np.unique(Xi)) == {-1, 1}
    assert len(np.unique(Xi, axis=0)) == 3000
    for k in range(20):
        own, _ = views(IMAGES[k : k + 1], 40, SIDE)
        here = Xi[picture == k]
        assert (here[:, None] == own[None]).all(-1).any()


def test_the_seed_chooses():
    one, other, again = (views(IMAGES, 100, SIDE, seed)[0] for seed in (1, 2, 1))
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_no_more_than_there_are():
    blank = jnp.full((1, 20, 20), -1.0)
    assert len(views(blank, 1, SIDE)[0]) == 1
    with pytest.raises(ValueError, match="count must be at most 1, the distinct views of 1"):
        views(blank, 2, SIDE)
    bar = blank.at[0, :, 9:11].set(1)
    one = views(bar, ROOM, SIDE)[0].reshape(-1, SIDE, SIDE)
    assert all((v == v[:1]).all() or (v == v[:, :1]).all() for v in one)
