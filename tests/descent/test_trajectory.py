"""What a recall returns: examples of a batch, and one line that says how it ended."""

from typing import Any

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am

Xi = jr.rademacher(jr.key(0), (3, 40), jnp.float32)
X = jr.rademacher(jr.key(1), (7, 40), jnp.float32)


def overflowing(x):
    return -jnp.sum((1e10 * x) ** 10)


def batch():
    return jax.vmap(am.ClassicalHopfield(Xi).recall)(X)


INDICES = [2, -1, slice(1, 6, 2), np.array([4, 4, 0]), np.arange(7) > 3, [1, 2], jnp.asarray(3)]


@pytest.mark.parametrize("index", INDICES, ids=map(str, INDICES))
def test_an_index_takes_examples_with_all_that_belongs_to_them(index):
    whole = batch()
    part = whole[np.asarray(index) if isinstance(index, list) else index]
    at: Any = np.asarray(index) if not isinstance(index, slice) else index
    for a, b in zip(jax.tree.leaves(part), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(a, np.asarray(b)[at])
    frames = np.asarray(whole.trajectory.frames)
    np.testing.assert_array_equal(part.trajectory.frames, frames[at])


def test_a_batch_of_batches_is_indexed_by_axis():
    recall = am.ClassicalHopfield(Xi).recall
    whole = jax.vmap(jax.vmap(recall))(X[:6].reshape(2, 3, 40))
    np.testing.assert_array_equal(whole[1, 2].x, recall(X[5]).x)
    np.testing.assert_array_equal(whole[1].x, whole.x[1])
    assert "of 2 x 3 states" in repr(whole)


def test_iteration_goes_over_the_first_axis():
    whole = batch()
    assert [int(one.steps) for one in whole] == [int(n) for n in whole.steps]


@pytest.mark.parametrize(
    ("index", "message"),
    [(7, "out of bounds"), ((0, 0), "too many indices"), (..., "leave out"), (None, "leave out")],
)
def test_an_index_that_fits_no_batch(index, message):
    with pytest.raises(IndexError, match=message):
        batch()[index]


def test_the_recall_of_one_state_has_no_examples():
    with pytest.raises(TypeError, match="only a batch"):
        am.ClassicalHopfield(Xi).recall(X[0])[0]
    with pytest.raises(TypeError, match="only a batch"):
        list(am.ClassicalHopfield(Xi).recall(X[0]))


def test_one_line_counts_how_a_batch_ended():
    class Partly(am.BinaryAM):
        def energy(self, x):
            return jnp.where(x[0] > 0, -jnp.sum((self.Xi @ x) ** 2), jnp.nan)

    whole = jax.vmap(Partly(Xi).recall)(X)
    ended = np.asarray(whole.converged)
    assert ended.any()
    assert not ended.all()
    line = repr(whole)
    assert "\n" not in line
    assert len(line) < 200
    assert f"of 7 states, {ended.sum()} converged, {(~ended).sum()} nonfinite, steps" in line
    assert "x: float32[40], Trajectory" in line


def test_one_line_for_one_state_of_any_family():
    one = am.ClassicalHopfield(Xi).recall(X[0])
    assert repr(one).startswith(
        f"Recall(converged, steps {int(one.steps)}, energy {one.energy:.6g},"
    )
    real = am.ModernHopfield(Xi, 1.0).recall(X[0])
    assert repr(real).endswith("x: float32[40])")


def test_one_line_where_nothing_is_known_yet():
    shapes = jax.eval_shape(am.ClassicalHopfield(Xi).recall, X[0])
    assert repr(shapes) == "Recall(x: float32[40], Trajectory)"
    seen = []
    jax.jit(lambda x: seen.append(repr(am.ClassicalHopfield(Xi).recall(x))) or x)(X[0])
    assert seen == ["Recall(x: float32[40], Trajectory)"]
    assert "of 0 states" in repr(batch()[:0])


def test_examples_are_taken_inside_compiled_functions():
    take = jax.jit(lambda recall, k: recall[k].x)
    np.testing.assert_array_equal(take(batch(), 4), batch().x[4])
