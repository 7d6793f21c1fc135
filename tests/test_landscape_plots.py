"""Pictures of landscapes: what is drawn where, and what is refused."""

from typing import Any

import numpy as np
import pytest
from jaxtyping import install_import_hook

from amlib import analysis

with install_import_hook("amlib.plots", "beartype.beartype"):
    from amlib import plots
    from amlib.plots import pictures

# -- results as a reader may have them ----------------------------------------------------------


def table(count=(50, 20, 20, 10), energy=(-9.0, -8, -7, -6), unsettled=0, **changes: Any):
    n = len(count)
    members = np.array([[1, 0, 0, 0, 0], [0, -1, 0, 0, 0], [1, 1, -1, 0, 0], [1, 1, 1, 1, 0]])[:n]
    columns = {
        "x": np.ones((n, 5)), "count": np.array(count), "energy": np.array(energy),
        "nearest": np.zeros(n, int), "overlap": np.ones(n),
        "kind": np.array(["stored", "inverse", "mixture", "mixture"])[:n], "members": members,
        "index": np.full(n, -1), "starts": sum(count) + unsettled, "unsettled": unsettled,
    }  # fmt: skip
    return analysis.FixedPoints(**(columns | changes))


def disc(level=(0, 0.2, 0.4), success=(1, 0.8, 0.1)):
    share = np.array(success, float)
    low, high = share - 0.05, share + 0.05
    return analysis.Basin(
        np.array(level), share, low, high, share, share, 0.3, 0.25, 0.35, np.ones(3), True
    )


def way(D=4, shape=(4,), exact=True):
    """From all down to all up, a flip at a time."""
    path = np.where(np.arange(D)[None] < np.arange(D + 1)[:, None], 1.0, -1.0)
    energy = np.array([0.0, 2, 5, 1, -3])[: D + 1]
    return analysis.Barrier(
        path.reshape(-1, *shape), energy, 5.0, 8.0, path[2], -1, float("nan"), exact
    )


def painted(ax: Any):
    """The pixels of the figure that axes are in."""
    return pictures.painted(ax.figure)


def texts(ax):
    return [t.get_text() for t in ax.texts if t.get_text()]


def heights(ax: Any):
    return [bar.get_height() for bar in ax.patches]


def legend(ax: Any):
    return [t.get_text() for t in ax.get_legend().get_texts()]


# -- the census -------------------------------------------------------------------------------


def test_a_bar_for_each_fixed_point():
    ax = plots.census(table())
    assert heights(ax) == pytest.approx([0.5, 0.2, 0.2, 0.1])
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["0", "−1", "0+1−2", "4 patterns"]  # noqa: RUF001
    assert legend(ax) == ["stored (1)", "inverse (1)", "mixture (2)"]
    assert ax.patches[0].get_facecolor() != ax.patches[2].get_facecolor()
    named = plots.census(table(), labels=list("abcde"))
    assert [t.get_text() for t in named.get_xticklabels()][2] == "a+b−c"  # noqa: RUF001
    painted(ax)


def test_bars_that_do_not_fit_are_one():
    ax = plots.census(table(unsettled=300), limit=2)
    assert [t.get_text() for t in ax.get_xticklabels()][-2:] == ["2 more", "unsettled"]
    assert heights(ax)[-2:] == pytest.approx([0.075, 0.75])
    assert ax.get_ylim()[1] < 0.2  # the scale is that of the fixed points
    assert texts(ax) == ["0.075", "0.75"]
    empty = table(
        count=(), energy=(), unsettled=5, members=np.zeros((0, 2)), x=np.zeros((0, 5)),
    )  # fmt: skip
    painted(plots.census(empty))


def test_bars_stand_by_energy():
    ax = plots.census(table(energy=(-6.0, -7, -8, -9)))
    assert heights(ax) == pytest.approx([0.1, 0.2, 0.2, 0.5])


def test_the_census_is_what_analysis_returns():
    with pytest.raises(ValueError, match="census: starts and limit must be at least 1; 100 and 0"):
        plots.census(table(), limit=0)
    with pytest.raises(ValueError, match="starts and limit must be at least 1; 0 and 24 came"):
        plots.census(table(starts=0))


# -- basins and paths -------------------------------------------------------------------------


def test_basins_go_on_the_same_axes():
    ax = plots.basin(disc(), label="few")
    assert plots.basin(disc(), label="many", color=plots.ORANGE, ax=ax) is ax
    curves = [line for line in ax.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(np.asarray(curves[0].get_xydata()), [[0, 1], [0.2, 0.8], [0.4, 0.1]])
    assert legend(ax) == ["few, size 0.3 (0.25 to 0.35)", "many, size 0.3 (0.25 to 0.35)"]
    assert curves[0].get_color() != curves[1].get_color()
    painted(ax)
    with pytest.raises(ValueError, match="basin: must have at least one level; none came"):
        plots.basin(disc((), ()))


def test_a_path_of_flips():
    (ax,) = plots.barrier(way())
    np.testing.assert_array_equal(np.asarray(ax.lines[0].get_ydata()), [0, 2, 5, 1, -3])
    assert ax.get_xlabel() == "flips from the start"
    assert texts(ax) == ["5", "8"]
    assert texts(plots.barrier(way(exact=False))[0]) == ["≤ 5", "≤ 8"]
    assert plots.barrier(way(), ax=ax) == (ax,)


def test_a_path_of_reals_and_pictures():
    line = np.linspace(0, 1, 5)[:, None] * np.array([[3.0, 4.0]])
    (ax,) = plots.barrier(way()._replace(path=line))
    assert ax.get_xlabel() == "distance along the path"
    assert np.asarray(ax.lines[0].get_xdata())[-1] == pytest.approx(5)
    for axes in (plots.barrier(way(shape=(2, 2))), plots.barrier(way(), shape=(2, 2))):
        assert len(axes) == 2
        assert texts(axes[1]) == ["start", "pass", "end"]
        painted(axes[0])
    with pytest.raises(ValueError, match="barrier: path must be pictures"):
        plots.barrier(way(), shape=(3, 2))
    with pytest.raises(ValueError, match=r"barrier: must be a path of two states .* \(1, 4\)"):
        plots.barrier(way()._replace(path=np.ones((1, 4)), energy=np.ones(1)))


# -- trees and branches -----------------------------------------------------------------------


def four():
    """0 and 1 join at -5, 2 and 3 at -4, all at 0."""
    height = np.array([[-10, -5, 0, 0], [-5, -9, 0, 0], [0, 0, -8, -4], [0, 0, -4, -7.0]])
    return analysis.Passes(np.diag(height).copy(), height, True)


def test_branches_join_at_their_pass():
    ax = plots.disconnectivity(four())
    segments = {
        (round(x0, 3), round(x1, 3), y0, y1)
        for line in ax.lines if line.get_marker() != "o"
        for (x0, y0), (x1, y1) in [np.asarray(line.get_xydata(), float)]
    }  # fmt: skip
    upright = {(x0, y0, y1) for x0, x1, y0, y1 in segments if x0 == x1}
    level = {(x0, x1, y0) for x0, x1, y0, y1 in segments if x0 != x1}
    assert level == {(0, 1, -5), (2, 3, -4), (0.5, 2.5, 0)}
    assert {(0, -10, -5), (1, -9, -5), (2, -8, -4), (3, -7, -4)} <= upright
    assert {(0.5, -5, 0), (2.5, -4, 0)} <= upright
    assert texts(ax) == ["0", "1", "2", "3"]
    painted(plots.disconnectivity(four(), labels=["long", "names", "of", "minima"]))


def test_trees_of_ties_and_of_what_is_not_joined():
    same = np.full((3, 3), -1.0)
    np.fill_diagonal(same, [-3, -2, -4])
    ax = plots.disconnectivity(analysis.Passes(np.diag(same).copy(), same, True))
    level = [line for line in ax.lines if len(set(np.asarray(line.get_ydata()))) == 1]
    assert (
        len([line for line in level if len(np.asarray(line.get_xdata())) == 2]) == 1
    )  # one joint of three
    assert texts(ax)[0] == "2"  # the lowest stands to the left
    apart = four()
    height = apart.height.copy()
    height[:2, 2:] = height[2:, :2] = np.inf
    painted(plots.disconnectivity(apart._replace(height=height)))
    one = analysis.Passes(np.array([1.0]), np.array([[1.0]]), True)
    painted(plots.disconnectivity(one))


@pytest.mark.parametrize(
    ("passes", "options", "message"),
    [
        (four()._replace(height=np.zeros((3, 3))), {}, r"M x M heights; \(4,\) and \(3, 3\) came"),
        (four()._replace(energy=np.full(4, np.nan)), {}, "finite energies"),
        (four()._replace(height=np.full((4, 4), -11.0)), {}, "must not be below the minima"),
        (four(), {"labels": ["a"]}, "labels must be one per minimum, 4; 1 came"),
        (four(), {"colors": ["red"] * 5}, "colors must be one per minimum, 4; 5 came"),
    ],
)
def test_trees_refuse(passes, options, message):
    with pytest.raises(ValueError, match=f"^disconnectivity: .*{message}"):
        plots.disconnectivity(passes, **options)


def fork():
    """A pitchfork at 1, of states of two units."""
    values = np.array([0.0, 1, 2, 1, 2, 1, 2])
    x = np.array([[0, 0], [0, 0], [0, 0], [0, 0], [1, 1], [0, 0], [-1, -1.0]])
    index = np.array([0, 0, 1, 0, 0, 0, 0])
    rows = analysis.Branches(
        np.array([0, 0, 0, 1, 1, 2, 2]), values, x, -values, -values, index, np.zeros(7, int)
    )
    return analysis.Bifurcations(
        np.array([1.0]), np.zeros((1, 2)), np.ones((1, 2)) / 2**0.5, np.array([0]), np.array([0]),
        np.array(["crossing"]), rows,
    )  # fmt: skip


def test_branches_are_solid_where_they_are_minima():
    ax = plots.bifurcations(fork())
    pieces = [np.asarray(line.get_xydata(), float) for line in ax.lines]
    dashed = [p for p, line in zip(pieces, ax.lines, strict=True) if line.get_linestyle() == "--"]
    assert len(pieces) == 5  # two of the first branch, one of each other, and the bifurcation
    np.testing.assert_allclose(dashed, [[[1, 0], [2, 0]]])
    np.testing.assert_allclose([p[-1, 1] for p in pieces[2:4]], [2**0.5, -(2**0.5)])
    assert ax.get_xlabel() == "beta"
    painted(plots.bifurcations(fork(), direction=[1, 0], parameter="T"))
    none = fork()._replace(value=np.zeros(0), x=np.zeros((0, 2)), direction=np.zeros((0, 2)))
    painted(plots.bifurcations(none))
    with pytest.raises(ValueError, match="direction must have the size of a state, 2; 3 came"):
        plots.bifurcations(fork(), direction=[1, 0, 0])


@pytest.mark.usefixtures("unchecked")
def test_other_kinds_are_refused():
    for draw, maker in (
        (plots.census, "fixed_points"), (plots.basin, "basin"), (plots.barrier, "barrier"),
        (plots.disconnectivity, "passes"), (plots.bifurcations, "bifurcations"),
    ):  # fmt: skip
        message = f"{draw.__name__}: must be what am.analysis.{maker} returns; int came"
        with pytest.raises(TypeError, match=message):
            draw(3)  # pyright: ignore[reportArgumentType]


# -- curves -----------------------------------------------------------------------------------


def measured():
    K, share = np.array([2, 20]), np.array([1.0, 0.5])
    cosine = np.array([0.9, -0.2])
    n = np.full(2, 10)
    return analysis.RetrievalCurve(
        K, n / 100, share, cosine, share, share, n, share - 0.1, share, cosine - 0.1, cosine, n
    )


def test_capacity_draws_overlaps_and_their_intervals():
    ax = plots.capacity(measured(), y="overlap")
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata()), [0.9, -0.2])
    assert ax.get_ylabel() == "overlap with the pattern"
    assert ax.get_ylim()[0] < -0.3
    band = ax.collections[0].get_paths()[0].vertices
    assert np.asarray(band)[:, 1].min() == pytest.approx(-0.3)
    band = plots.capacity(measured()).collections[0].get_paths()[0].vertices
    assert np.asarray(band)[:, 1].min() == pytest.approx(0.4)
    with pytest.raises(ValueError, match=r"capacity: y: must be one of .*; 'overlpa' came\. Did"):
        plots.capacity(measured(), y="overlpa")
