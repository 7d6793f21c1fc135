"""Training curves: what is drawn, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest

import amlib as am
from amlib.learning import OUTCOMES

ROWS = {
    "loss": np.array([3.0, 2.0, 1.0, np.inf]),
    "validation_loss": np.array([3.0, 1.5, 2.0, 2.0]),
    "error": np.array([0.5, 0.25, 0.3, 0.2]),
    "seconds": np.ones(4),
}


@pytest.fixture
def result():
    return am.learning.FitResult(None, ROWS, None, OUTCOMES.nonfinite, 4, 2)


def test_losses_share_a_panel_and_metrics_have_their_own(result):
    losses, error = am.plots.history(result)
    curves = {line.get_label(): line for line in losses.lines if np.size(line.get_xdata()) == 4}
    assert set(curves) == {"training", "validation"}
    np.testing.assert_array_equal(curves["training"].get_xdata(), [1, 2, 3, 4])
    np.testing.assert_array_equal(curves["training"].get_ydata(), [3, 2, 1, np.nan])
    np.testing.assert_array_equal(error.lines[0].get_ydata(), ROWS["error"])
    # told apart without colours too
    assert curves["training"].get_linestyle() != curves["validation"].get_linestyle()
    best = [line for line in losses.lines if np.size(line.get_xdata()) == 2]
    assert [np.asarray(line.get_xdata())[0] for line in best] == [2]
    assert error.get_xlabel() == "epoch"
    losses.figure.canvas.draw()
    ticks = [t.get_text() for t in error.get_xticklabels()]
    assert all("." not in text for text in ticks)


def test_given_axes_get_the_losses_only(result):
    (first, _) = am.plots.history(result)
    (same,) = am.plots.history({"loss": [0.5, 0.1]}, ax=first, log=True)
    assert same is first
    assert first.get_yscale() == "log"


def test_one_epoch_is_a_dot():
    (ax,) = am.plots.history({"loss": jnp.array([1.0])})
    assert ax.lines[0].get_marker() == "o"


@pytest.mark.parametrize(
    ("rows", "options", "match"),
    [
        ({}, {}, "history: must hold a loss per epoch"),
        ({"loss": []}, {}, "history: must hold a loss per epoch"),
        ({"loss": [[1.0]]}, {}, r"loss must be one value per epoch; shape \(1, 1\) came"),
        ({"loss": [1.0, 0.0]}, {"log": True}, "log needs positive losses"),
    ],
)
def test_what_is_no_history_is_refused(rows, options, match):
    with pytest.raises(ValueError, match=match):
        am.plots.history(rows, **options)
