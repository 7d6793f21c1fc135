"""Landscapes, retrieval curves, patterns and overlaps: what is drawn where, and what is refused."""

from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import pytest
from jaxtyping import install_import_hook
from PIL import Image

import amlib as am
from amlib._intervals import wilson

with install_import_hook("amlib.plots", "beartype.beartype"):
    from amlib import plots
    from amlib.plots import pictures


def double_well(x):
    """Minima at (-1, 0) and (1, 0)."""
    return jnp.square(jnp.square(x[0]) - 1.0) + jnp.square(x[1])


def painted(ax):
    """The pixels of the figure that axes are in."""
    return pictures.painted(ax.figure)


def marked(ax):
    """The crosses of a landscape."""
    (line,) = [line for line in ax.lines if line.get_marker() == "x"]
    return np.asarray(line.get_xydata())


# -- landscape --------------------------------------------------------------------------------


def test_landscape_finds_the_minima():
    ax = plots.landscape(double_well, (-2, 2), points=81)
    np.testing.assert_allclose(sorted(map(tuple, marked(ax))), [(-1, 0), (1, 0)], atol=1e-6)
    assert ax.get_xlim() == ax.get_ylim() == (-2, 2)
    painted(ax)


def test_landscape_has_heights_where_they_belong():
    """x to the right, y upwards: an energy that is lowest at (2, -1)."""
    ax = plots.landscape(
        lambda x: (x[0] - 2) ** 2 + (x[1] + 1) ** 2, ((0, 4), (-3, 3)), points=61, levels=5
    )
    np.testing.assert_allclose(marked(ax), [[2, -1]], atol=1e-6)
    image = painted(ax).astype(int)
    H = image.shape[0]

    def colour(x, y):
        column, row = ax.transData.transform((x, y))
        return image[H - round(row) - 1, round(column)]

    # cividis goes from dark blue to yellow
    assert colour(2.1, -0.8).sum() < colour(0.1, -2.9).sum() < colour(0.1, 2.9).sum()


class Well:
    """No memory of amlib's, but with an energy."""

    def energy(self, x):
        return double_well(x)


def test_landscape_draws_the_trajectories_of_recalls():
    states = jnp.linspace(jnp.array([[1.5, 1.0], [-0.2, -1.0]]), 0.5, 9, axis=1)
    two = jnp.zeros(2)
    way = am.StateTrajectory(states, jnp.zeros((2, 9)), jnp.zeros((2, 9)))
    end = am.Recall(states[:, -1], two, two.astype(int), am.RESULTS.converged, way)
    ax = plots.landscape(Well(), (-2, 2), trajectories=end, points=21)
    lines = [
        np.asarray(line.get_xydata()) for line in ax.lines if line.get_color() == pictures.ORANGE
    ]
    paths = [line for line in lines if len(line) > 1]
    np.testing.assert_allclose(paths, np.asarray(end.trajectory.x))
    for source in (states, np.asarray(states[0])):
        plots.landscape(Well(), (-2, 2), trajectories=source, points=11)


def test_landscape_marks_what_is_asked_for():
    ax = plots.landscape(double_well, (-2, 2), minima=[[0.5, 0.5]], points=11)
    np.testing.assert_array_equal(marked(ax), [[0.5, 0.5]])
    assert len(marked(plots.landscape(double_well, (-2, 2), minima=[], points=11))) == 0
    assert plots.landscape(double_well, (-2, 2), ax=ax, points=11) is ax


def test_landscape_leaves_blank_what_is_not_finite():
    ax = plots.landscape(lambda x: jnp.log(x[0]) ** 2 + x[1] ** 2, (-1, 2), points=31)
    np.testing.assert_allclose(marked(ax), [[1, 0]], atol=1e-6)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("energy", "lims", "options", "error", "message"),
    [
        (double_well, (2, -2), {}, ValueError, r"lims must be .* low < high; \(2, -2\) came"),
        (double_well, (0, np.nan), {}, ValueError, "lims must be"),
        (double_well, 3, {}, ValueError, "lims must be"),
        (3, (0, 1), {}, TypeError, "must be a function or a memory; int came"),
        (lambda x: x, (0, 1), {}, ValueError, r"must return a scalar.*\(2,\) came"),
        (lambda x: x[0] * jnp.nan, (0, 1), {}, ValueError, "not finite anywhere"),
        (double_well, (0, 1), {"points": 2}, ValueError, "points must be at least 3; 2 came"),
        (double_well, (0, 1), {"levels": 1}, ValueError, "levels must be at least 2; 1 came"),
        (double_well, (0, 1), {"minima": np.ones(3)}, ValueError, r"shape \(M, 2\); \(3,\) came"),
        (
            double_well, (0, 1), {"trajectories": np.ones((4, 3))},
            ValueError, r"shape \(T, 2\) or \(B, T, 2\); \(4, 3\) came",
        ),
    ],
)  # fmt: skip
def test_landscape_refuses(energy, lims, options, error, message):
    with pytest.raises(error, match=message):
        plots.landscape(energy, lims, **{"points": 5, **options})


@pytest.mark.parametrize(
    "memory",
    [
        am.ModernHopfield(np.eye(6), 1.0),
        am.ClassicalHopfield(np.ones((2, 2, 3))),
        am.HAM({"a": am.TanhLayer(4)}, {}, []),
    ],
    ids=["continuous", "pictures", "hierarchical"],
)
def test_landscape_of_more_than_two_units(memory):
    message = r"(?s)^landscape: energy must take a state of shape \(2,\); it raised .* draw a plane"
    with pytest.raises(ValueError, match=message):
        plots.landscape(memory, (-1, 1))


def test_the_plane_that_the_message_speaks_of():
    memory = am.ModernHopfield(np.eye(6), 8.0)
    x, directions = memory.Xi[2], memory.Xi[:2] - memory.Xi[2][None]
    ax = plots.landscape(lambda p: memory.energy(x + p @ directions), (-0.5, 1.5), points=41)
    found = marked(ax)
    assert len(found) == 3  # the three patterns of that plane
    for pattern in ([0, 0], [0, 1], [1, 0]):
        assert np.abs(found - pattern).max(1).min() < 0.06


def test_landscape_of_an_energy_in_numpy():
    message = r"^landscape: energy: must be a function that JAX can trace; NumPy .* Write jnp"
    with pytest.raises(TypeError, match=message):
        plots.landscape(lambda x: np.dot(x, x), (-1, 1))


def test_landscape_says_how_to_keep_states():
    bare = am.Recall(jnp.ones(2), jnp.array(0.0), jnp.array(1), am.RESULTS.converged)
    with pytest.raises(ValueError, match=r"kept its states.*save_every=1"):
        plots.landscape(double_well, (-2, 2), trajectories=bare, points=5)


# -- capacity ---------------------------------------------------------------------------------


class Curve(NamedTuple):
    """A retrieval curve as a reader may have measured it."""

    K: np.ndarray
    level: np.ndarray
    success: np.ndarray
    queries: np.ndarray


def curve(K=(2, 2, 20, 20), level=(0.1, 0.2, 0.1, 0.2), success=(1, 0.9, 0.6, 0.1), queries=50):
    n = np.full(len(K), queries)
    return Curve(np.array(K), np.array(level), np.array(success), n)


def test_capacity_against_the_number_of_patterns():
    ax = plots.capacity(curve(), label="classical")
    found = {line.get_label(): np.asarray(line.get_xydata()).tolist() for line in ax.lines}
    assert found == {
        "classical, noise 0.1": [[2, 1], [20, 0.6]],
        "classical, noise 0.2": [[2, 0.9], [20, 0.1]],
    }
    assert ax.get_xlabel() == "stored patterns K"
    assert ax.get_xscale() == "linear"
    colors = [line.get_color() for line in plots.capacity(curve(), ax=ax).lines]
    assert len(set(colors)) == 4  # a second curve has colours of its own


def test_capacity_against_noise():
    ax = plots.capacity(curve(K=(5, 5, 5, 5), level=(0.4, 0.1, 0.3, 0.2)))
    (line,) = ax.lines
    np.testing.assert_allclose(np.asarray(line.get_xdata()), [0.1, 0.2, 0.3, 0.4])
    np.testing.assert_allclose(np.asarray(line.get_ydata()), [0.9, 0.1, 0.6, 1.0])
    assert line.get_label() == "K = 5"
    assert ax.get_xlabel() == "noise"


def test_capacity_takes_what_analysis_returns():
    columns = (3, 1, 1, 1, 1, 1, 9, 0.7, 1, 0.9, 1, 1)
    table = am.analysis.RetrievalCurve(*(np.array([k, k]) for k in columns))
    assert len(plots.capacity(table).lines) == 1
    wide = plots.capacity(curve(K=(1, 1, 100, 100)))
    assert wide.get_xscale() == "log"
    painted(wide)


def test_the_band_is_wilsons():
    low, high = wilson(np.array([0.0, 0.5, 1.0]), np.array([10.0, 100.0, 10.0]))
    np.testing.assert_allclose(low, [0, 0.4038, 0.7225], atol=2e-4)
    np.testing.assert_allclose(high, [0.2775, 0.5962, 1], atol=2e-4)


@pytest.mark.usefixtures("unchecked")
def test_capacity_refuses():
    with pytest.raises(TypeError, match="must have K, level, success and queries; list came"):
        plots.capacity([1, 2])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="arrays of one length, at least 1"):
        plots.capacity(curve(K=(), level=(), success=()))
    with pytest.raises(ValueError, match="arrays of one length"):
        plots.capacity(curve(K=(1, 2)))


# -- memories ---------------------------------------------------------------------------------


def test_memories_shows_stored_patterns():
    spins = np.where(np.random.default_rng(0).random((5, 64)) < 0.5, -1.0, 1.0)
    model = am.ClassicalHopfield(spins)
    same = painted(plots.grid(spins, ncols=4))
    np.testing.assert_array_equal(painted(plots.memories(model)), same)
    few = painted(plots.memories(model, limit=2, titles=["a", "b"]))
    assert few.shape != same.shape


def test_memories_shows_the_pixels_of_a_classifier():
    model = am.learning.DenseAMClassifier(3, (4, 5), 2, key=jr.key(0))
    weights = np.asarray(model.pixel_weights)
    each = weights / np.abs(weights).max(axis=(1, 2), keepdims=True)
    np.testing.assert_array_equal(
        painted(plots.memories(model)), painted(plots.grid(each, ncols=3))
    )


def test_memories_scales_each_pattern():
    weights = np.random.default_rng(0).normal(size=(3, 64))
    big = weights * np.array([[1e-3], [1.0], [1e4]])
    drawn = [painted(plots.memories(SimpleNamespace(pixel_weights=a))) for a in (weights, big)]
    np.testing.assert_array_equal(drawn[0], drawn[1])


def test_memories_takes_zeros_and_nan():
    patterns = np.stack([np.zeros((4, 4)), np.full((4, 4), np.nan), np.eye(4)])
    painted(plots.memories(SimpleNamespace(Xi=patterns)))


def test_memories_refuses():
    with pytest.raises(TypeError, match=r"in Xi or pixel_weights; ndarray came.*plots.grid"):
        plots.memories(np.ones((2, 4)))
    with pytest.raises(ValueError, match="limit must be at least 1; 0 came"):
        plots.memories(SimpleNamespace(Xi=np.ones((2, 4))), limit=0)
    with pytest.raises(ValueError, match="D = 2 x 2"):
        plots.memories(SimpleNamespace(Xi=np.ones((2, 5))))


# -- overlaps ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def played():
    """A sequence of pictures, and a batch of two plays of it."""
    Xi = jr.rademacher(jr.key(0), (5, 8, 8), jnp.float32)
    memory = am.SequenceMemory(Xi, am.ExponentialInteraction())
    return Xi, jax.vmap(lambda x: memory.play(x, 7))(Xi[1:3])


def test_overlaps_are_drawn_to_the_pixel(played):
    Xi, plays = played
    ax = plots.overlaps(plays[0], Xi, title="a film")
    (image,) = ax.images
    m = np.asarray(image.get_array())
    assert m.shape == (5, 8)
    np.testing.assert_allclose(m, np.einsum("kij,tij->kt", Xi, plays[0].frames) / 64, atol=1e-6)
    np.testing.assert_array_equal(m.argmax(0), np.arange(1, 9) % 5)
    assert image.get_extent() == [-0.5, 7.5, 4.5, -0.5]
    assert (image.norm.vmin, image.norm.vmax) == (-1, 1)
    assert ax.get_title(loc="left") == "a film"
    painted(ax)


def test_overlaps_refuses(played):
    Xi, plays = played
    with pytest.raises(TypeError, match=r"batch of \(2,\) came. Take one of them: played\[0\]"):
        plots.overlaps(plays, Xi)
    with pytest.raises(ValueError, match=r"Xi must have shape \(5, 8, 8\); \(4, 8, 8\) came"):
        plots.overlaps(plays[0], Xi[:4])


def test_a_play_is_a_film(played, tmp_path):
    _, plays = played
    path = plots.animate(plays, path=tmp_path / "plays.png", titles=["one", "two"])
    flat = plots.animate(np.asarray(plays.frames), path=tmp_path / "f.png", titles=["one", "two"])
    assert path.read_bytes() == flat.read_bytes()
    with Image.open(path) as film:
        assert getattr(film, "n_frames", 1) == plays.steps + 1


def test_no_global_state():
    before = dict(matplotlib.rcParams)
    plots.landscape(double_well, (-2, 2), points=5)
    plots.capacity(curve())
    assert dict(matplotlib.rcParams) == before
