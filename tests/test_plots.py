"""Pictures and films: what is drawn where, to the pixel, and what is refused."""

import itertools
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import matplotlib
import numpy as np
import pytest
from jaxtyping import install_import_hook
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

import amlib as am

with install_import_hook("amlib.plots", "beartype.beartype"):
    from amlib import plots
    from amlib.plots import _pixels as pixels, film, pictures

INK, PAPER = np.array(pixels.INK), np.array(pixels.PAPER)


def painted(ax):
    """The pixels of the figure that axes are in."""
    return pictures.painted(ax.figure)


def segments(bundle):
    """The curves of a collection of lines."""
    return bundle.get_segments()


@pytest.fixture(scope="module")
def Xi():
    return jnp.where(jr.bernoulli(jr.key(0), 0.5, (5, 64)), 1.0, -1.0)


@pytest.fixture(scope="module")
def finished(Xi):
    """Five recalls that succeed, from exactly 12 flipped bits each."""
    model = am.ExponentialDenseAM(Xi)
    flip = jax.vmap(am.data.corrupt.flip_exactly, in_axes=(0, 0, None))
    x0 = flip(jr.split(jr.key(1), 5), Xi, 12)
    recall = jax.vmap(lambda x, key: model.recall(x, key=key, max_sweeps=5))
    result = recall(x0, jr.split(jr.key(2), 5))
    assert (result.x == Xi).all()
    return result


@pytest.fixture(scope="module")
def remembered():
    """A memory of real values, and two recalls by steps that are kept."""
    memory = am.ModernHopfield(jr.normal(jr.key(0), (4, 64)), beta=1.0)
    method = am.GradientDescent(0.3)
    recall = jax.vmap(lambda x: memory.recall(x, method=method, save_every=2))
    noise = 0.3 * jr.normal(jr.key(1), (2, 64))
    return memory, recall(memory.Xi[:2] + noise)


@pytest.fixture(scope="module")
def relaxed():
    """The states that a hierarchy began with, and its recall, which keeps each second step."""
    layers = {"seen": am.TanhLayer(16), "hidden": am.SoftmaxLayer(4)}
    ham = am.HAM(layers, {"W": am.DenseSynapse()}, [(("seen", "hidden"), "W")])
    _, ham = ham.init_states_and_params(jr.key(0))
    x0 = ham.init_states(key=jr.key(1))
    return x0, ham.recall(x0, steps=40, dt=0.1, save_every=2)


def one(tree, k=0):
    return jax.tree.map(lambda a: a[k], tree)


def cell(image, corner, shape, scale):
    """A cell's picture, one pixel for each of its values, and whether it was enlarged exactly."""
    y, x = corner[0] + 1, corner[1] + 1
    block = image[y : y + shape[0] * scale, x : x + shape[1] * scale].astype(int)
    small = block[::scale, ::scale]
    return small, (small.repeat(scale, 0).repeat(scale, 1) == block).all()


def as_ink(x):
    return np.where(np.asarray(x)[..., None] > 0, INK, PAPER)


# -- grid -------------------------------------------------------------------------------------


def test_grid_draws_each_value_as_a_whole_number_of_pixels(Xi):
    ax = plots.grid(Xi, ncols=5)
    assert isinstance(ax, Axes)
    image = painted(ax)
    scale = 18  # 144 / 8
    for k in range(5):
        corner = pictures.MARGIN, pictures.MARGIN + k * (8 * scale + 2 + pixels.GAP)
        small, exact = cell(image, corner, (8, 8), scale)
        assert exact
        np.testing.assert_array_equal(small, as_ink(Xi[k].reshape(8, 8)))


@pytest.mark.parametrize(
    "patterns",
    [
        np.ones(64),
        np.ones((3, 8, 8)),
        np.ones((3, 64), bool),
        np.ones((3, 64), np.uint8),
        jnp.ones((3, 64), jnp.bfloat16),
        np.full((2, 64), np.nan),
        np.array([[np.inf, -np.inf, 0.0, 1.0]]),
    ],
)
def test_grid_takes_any_real_patterns(patterns):
    assert isinstance(plots.grid(patterns), Axes)


def test_grid_reshapes_flat_patterns(Xi):
    flat = painted(plots.grid(Xi))
    np.testing.assert_array_equal(flat, painted(plots.grid(Xi.reshape(5, 8, 8))))
    wide = painted(plots.grid(Xi, shape=(4, 16)))
    assert wide.shape != flat.shape


def test_grid_shades():
    grey = pixels.grey(np.array([-1.0, 0.0, 1.0]))
    np.testing.assert_allclose(grey, [0, 0.5, 1])
    np.testing.assert_allclose(pixels.grey(np.array([0.0, 0.5, 1.0])), [0, 0.5, 1])
    np.testing.assert_allclose(pixels.grey(np.array([0.0, 2.0])), [0, 1])
    np.testing.assert_allclose(pixels.grey(np.array([-2.0, 0.0, 2.0, np.nan])), [0, 0.5, 1, 0.5])


def test_grid_draws_on_the_axes_given(Xi):
    ax = Figure().add_subplot()
    assert plots.grid(Xi, ax=ax, titles=list("abcde")) is ax
    assert [text.get_text() for text in ax.texts] == list("abcde")


@pytest.mark.parametrize(
    ("patterns", "options", "message"),
    [
        (np.ones((3, 60)), {}, r"flat \(K, D\) with D = 7 x 7; \(3, 60\) came.*shape="),
        (np.ones((3, 64)), {"shape": (8, 9)}, r"D = 8 x 9; \(3, 64\) came"),
        (np.ones((2, 3, 8, 8)), {}, r"\(K, H, W\) or \(K, D\); \(2, 3, 8, 8\) came"),
        (np.ones((0, 64)), {}, r"real numbers; float64\[0, 64\] came"),
        (np.ones((2, 64), complex), {}, "real numbers; complex128"),
        (np.ones((2, 64)), {"titles": ["a"]}, "titles must be one per picture, 2; 1 came"),
        (np.ones((2, 64)), {"ncols": 0}, "ncols must be at least 1; 0 came"),
    ],
)
def test_grid_refuses(patterns, options, message):
    with pytest.raises(ValueError, match=message):
        plots.grid(patterns, **options)


# -- recall -----------------------------------------------------------------------------------


def test_recall_shows_rows_names_and_curves(finished, Xi):
    names = ["one", "two", "three", "four", "a-name-that-is-too-long"]
    other = {"other\nmemory": -Xi}
    axes = plots.recall(finished, truth=Xi, names=names, compare=other, title="All of them")
    shown = [text.get_text() for text in axes[0].texts]
    assert shown[:5] == ["All of them", "before", "other\nmemory", "recalled", "stored"]
    assert shown[5:] == [*names[:4], "a-name-that-is-to…"]
    assert axes[1].get_ylabel() == "energy"
    image = painted(axes[0])
    box = axes[0].get_window_extent()
    top, left = image.shape[0] - round(box.y1), round(box.x0)
    step = 8 * 18 + 2 + pixels.GAP
    for row, states in enumerate([finished.trajectory.x0, -Xi, Xi, Xi]):
        for k in range(5):
            small, exact = cell(image, (top + row * step, left + k * step), (8, 8), 18)
            assert exact
            np.testing.assert_array_equal(small, as_ink(states[k].reshape(8, 8)))


def test_recall_marks_wrong_pixels(Xi):
    x = np.array(Xi)
    x[0, 0] *= -1
    axes = plots.recall(x, before=Xi, truth=Xi)
    assert len(axes) == 1
    assert axes[0].texts[-1].get_text() == "orange: wrong"
    box = axes[0].get_window_extent()
    colours = painted(axes[0])[-round(box.y1) : -round(box.y0)]
    mark = pixels.WRONG_INK if x[0, 0] > 0 else pixels.WRONG_PAPER
    assert (colours == np.array(mark)).all(-1).sum() == 18 * 18


def test_recall_of_one_state(finished, Xi):
    assert len(plots.recall(one(finished), truth=Xi[0])) == 2


def test_recall_shows_no_more_than_the_limit(finished, Xi):
    axes = plots.recall(finished, truth=Xi, limit=2, names=list("abcde"))
    assert [text.get_text() for text in axes[0].texts][-2:] == ["a", "b"]


def test_recall_refuses(finished, Xi):
    with pytest.raises(ValueError, match="before must hold the starting states"):
        plots.recall(Xi)
    with pytest.raises(ValueError, match=r"stored must fit the recalled states, \(5, 8, 8\); \(4"):
        plots.recall(finished, truth=Xi[:4])
    with pytest.raises(ValueError, match="names must be one per picture, 5; 1 came"):
        plots.recall(finished, names=["a"])


def test_recall_of_real_values(remembered):
    memory, result = remembered
    axes = plots.recall(result, truth=memory.Xi[:2])
    assert len(axes) == 2
    assert "orange: wrong" not in [t.get_text() for t in axes[0].texts]  # near is near enough
    axes = plots.recall(result, truth=memory.Xi[2:])
    assert axes[0].texts[-1].get_text() == "orange: wrong"
    with pytest.raises(ValueError, match="before must hold"):  # kept no way
        plots.recall(memory.recall(memory.Xi[0]))


def test_recall_of_one_layer(relaxed):
    x0, result = relaxed
    axes = plots.recall(result.x["seen"], before=x0["seen"], energy=result)
    assert axes[1].get_xlabel() == "time"
    with pytest.raises(ValueError, match=r'result.x\["image"\], before=x0\["image"\], energy='):
        plots.recall(result)


# -- energies ---------------------------------------------------------------------------------


def test_energies_of_a_bundle_are_readable():
    falls = -np.cumsum(np.random.default_rng(0).random((100, 5000)), axis=1)
    curves = np.concatenate([falls, np.repeat(falls[:, -1:], 20_000, axis=1)], axis=1)
    ax = plots.energies(curves, label="25 % flipped")
    (bundle,) = ax.collections
    assert len(segments(bundle)) == 100
    assert all(len(line) <= 800 for line in segments(bundle))
    assert 5000 <= ax.get_xlim()[1] < 5500  # the flat end is cut short
    (median,) = ax.lines
    assert np.asarray(median.get_ydata())[-1] == np.median(falls[:, -1])
    legend = ax.get_legend()
    assert legend is not None
    assert legend.get_texts()[0].get_text() == "25 % flipped"
    plots.energies(curves[:, :100] - 1, ax=ax, color=plots.ORANGE)
    assert ax.get_xlim()[1] > 5000  # a second bundle does not hide the first


@pytest.mark.parametrize("energy", [[1.0, 0.5], [[3.0, 2.0], [2.0, 1.0]], [np.nan, 1.0], [5.0]])
def test_energies_takes_any_curves(energy):
    ax = plots.energies(np.array(energy))
    assert ax.get_xlabel() == "step"
    painted(ax)


def test_energies_takes_records(finished):
    for source in (finished, finished.trajectory, one(finished)):
        assert plots.energies(source).get_xlabel() == "bits visited"


def test_energies_knows_when_they_were(remembered, relaxed):
    _, result = remembered
    ax = plots.energies(result)
    assert ax.get_xlabel() == "step"
    assert [line[0, 0] for line in segments(ax.collections[0])] == [0, 0]
    ax = plots.energies(relaxed[1])
    assert ax.get_xlabel() == "time"
    (line,) = segments(ax.collections[0])
    np.testing.assert_allclose(line[:, 0], 0.2 * np.arange(21), rtol=1e-5)  # 40 steps of 0.1
    np.testing.assert_array_equal(line[:, 1], relaxed[1].trajectory.energy)


def test_energies_refuses(finished):
    with pytest.raises(ValueError, match=r"energies \(T,\) or \(B, T\); \(\) came"):
        plots.energies(np.array(1.0))
    bare = am.Recall(finished.x, finished.energy, finished.steps, finished.result)
    with pytest.raises(ValueError, match="must have a trajectory"):
        plots.energies(bare)


# -- films ------------------------------------------------------------------------------------


def read_film(path):
    with Image.open(path) as image:
        for frame in ImageSequence.Iterator(image):
            yield np.asarray(frame.convert("RGB"))


def test_film_is_lossless_from_the_first_state_to_the_last(finished, Xi, tmp_path):
    single = one(finished, 3)
    path = plots.animate(single, every=1, path=tmp_path / "film.png")
    frames = list(read_film(path))
    end = int(np.flatnonzero(single.trajectory.accepted)[-1])
    assert len(frames) > 12
    # The first cell lies in the middle above the curve, 16 bits to the side of 18 pixels each.
    scale, wide = 36, 520
    corner = pictures.MARGIN, 120 + (wide - 8 * scale - 2) // 2
    rebuilt = np.asarray(single.trajectory.frames[: end + 1]).reshape(-1, 8, 8)
    wanted = [np.asarray(single.trajectory.x0).reshape(8, 8), *rebuilt]
    different = [
        wanted[0],
        *(b for a, b in itertools.pairwise(wanted) if (a != b).any()),
    ]
    seen = []
    for frame in frames:
        small, exact = cell(frame, corner, (8, 8), scale)
        assert exact
        if not seen or (seen[-1] != small).any():
            seen.append(small)
    np.testing.assert_array_equal(seen, [as_ink(x) for x in different])
    np.testing.assert_array_equal(seen[-1], as_ink(Xi[3].reshape(8, 8)))
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0


def test_film_of_a_batch_uncovers_the_curves(finished, tmp_path):
    path = plots.animate(finished, path=tmp_path / "film.png", titles=list("abcde"))
    frames = list(read_film(path))
    blue = [(f == np.array([0, 114, 178])).all(-1).sum() for f in frames]
    assert blue[0] == 0
    assert (np.diff(blue) >= 0).all()
    assert blue[-1] > 100


@pytest.mark.parametrize("shape", [(6, 9), (6, 3, 3), (2, 6, 3, 3)])
@pytest.mark.parametrize("kind", ["png", "gif"])
def test_film_of_arrays(shape, kind, tmp_path):
    states = np.random.default_rng(0).normal(size=shape)
    path = plots.animate(states, path=tmp_path / f"film.{kind}", progress=True)
    assert len(list(read_film(path))) == 6


def test_film_of_frames_with_their_energy(Xi, tmp_path):
    model = am.ExponentialDenseAM(Xi)
    _, (frames, energy) = model.async_recall(-Xi[0], nsteps=300)
    path = plots.animate(frames, energy=energy, every=50, path=str(tmp_path / "film.png"))
    assert 2 < len(list(read_film(path))) <= 8


def test_film_of_real_values(remembered, tmp_path):
    _, result = remembered
    path = plots.animate(result, every=1, path=tmp_path / "film.png")
    frames = list(read_film(path))
    assert len(frames) == pictures.settled(np.asarray(result.trajectory.x))
    blue = [(f == np.array([0, 114, 178])).all(-1).sum() for f in frames]
    assert blue[0] == 0
    assert blue[-1] > blue[1] > 0
    single = list(read_film(plots.animate(one(result), every=1, path=tmp_path / "one.png")))
    assert len(single) > 3


def test_film_of_one_layer(relaxed, tmp_path):
    _, result = relaxed
    states = result.trajectory.x["seen"]
    path = plots.animate(states, energy=result, every=4, path=tmp_path / "film.png")
    assert len(list(read_film(path))) == 6
    with pytest.raises(ValueError, match=r'trajectory.x\["image"\], energy=result'):
        plots.animate(result, path=path)


def test_film_where_nothing_changes(tmp_path):
    for kind in ("png", "gif"):
        path = plots.animate(np.ones((4, 9)), energy=np.zeros(4), path=tmp_path / f"film.{kind}")
        assert len(list(read_film(path))) == 1


def test_film_as_mp4(finished, tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")
    path = plots.animate(finished, every=4, path=tmp_path / "film.mp4")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24"]
    done = subprocess.run([*command, "-"], capture_output=True, check=True)
    size = re.search(rb"yuv420p.*?, (\d+)x(\d+)", done.stderr)
    assert size is not None
    width, height = map(int, size.groups())
    video = np.frombuffer(done.stdout, np.uint8).reshape(-1, height, width, 3)
    assert len(video) > 30  # the last frame stays
    still = list(read_film(plots.animate(finished, every=4, path=tmp_path / "film.png")))[-1]
    assert np.abs(video[-1].astype(int) - still).mean() < 3


def test_film_as_mp4_reports_what_ffmpeg_says(finished, tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    with pytest.raises(OSError, match=r"ffmpeg could not write .*No such file"):
        plots.animate(one(finished), path=tmp_path / "missing" / "film.mp4")


def test_film_as_mp4_names_the_extra(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'amlib\[video\]'"):
        plots.animate(finished, path=tmp_path / "film.mp4")


@pytest.mark.parametrize(
    ("states", "options", "message"),
    [
        (np.ones((4, 9)), {"path": "film.avi"}, r"must end in .png, .gif or .mp4; 'film.avi' came"),
        (np.ones((4, 9)), {"fps": 0}, "fps must be from 1 to 50; 0 came"),
        (np.ones((4, 9)), {"every": 0}, "every must be at least 1; 0 came"),
        (np.ones((4, 9)), {"ncols": -1}, "ncols must be at least 1; -1 came"),
        (np.ones((4, 10)), {}, r"animate: frames must be pictures.*\(1, 10\) came"),
        (np.ones(9), {}, r"\(T, D\), \(T, H, W\) or \(B, T, H, W\); \(9,\) came"),
        (np.ones((4, 9)), {"titles": ["a", "b"]}, "titles must be one per picture, 1; 2 came"),
        (np.eye(9), {"energy": np.zeros(3)}, "one value per frame, 9 or more; 3 came"),
    ],
)
def test_film_refuses(states, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plots.animate(states, **{"path": tmp_path / "film.png", **options})
    assert not list(tmp_path.iterdir())


def test_film_too_large_for_memory(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(film, "LARGEST", 10**6)
    with pytest.raises(ValueError, match=r"may have \d frames of this size.*write .mp4"):
        plots.animate(finished, path=tmp_path / "film.png", every=1)


# -- manners ----------------------------------------------------------------------------------


def test_no_global_state(finished, Xi):
    code = "import sys, amlib.plots; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    before = dict(matplotlib.rcParams)
    plots.recall(finished, truth=Xi)
    assert dict(matplotlib.rcParams) == before


def test_notebooks_show_figures_by_themselves(Xi):
    figure = plots.grid(Xi).figure
    assert figure._repr_png_().startswith(b"\x89PNG")  # pyright: ignore[reportAttributeAccessIssue]
