"""The bundled icons: what they hold, how they are selected, and how they were made."""

import importlib.util
import io
import os
from importlib import resources
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import amlib as am

SCRIPT = Path(__file__).parents[2] / "assets" / "make_icons.py"


def load_script():
    pytest.importorskip("resvg_py")
    if not SCRIPT.is_file():
        pytest.skip("assets/ is not part of this checkout")
    spec = importlib.util.spec_from_file_location("make_icons", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_icons():
    images, names = am.data.icons()
    assert isinstance(images, jax.Array)
    assert images.shape == (4134, 48, 48)
    assert images.dtype == jnp.float32
    assert bool((jnp.abs(images) == 1).all())
    assert len(names) == 4134
    assert list(names) == sorted(set(names))


def test_float32_under_x64(x64):
    assert am.data.icons(n=2).images.dtype == jnp.float32


def test_no_two_pictures_are_close():
    # The demonstration stores all of them and wants each one back.
    flat = np.asarray(am.data.icons().images).reshape(4134, -1)
    overlaps = flat @ flat.T
    np.fill_diagonal(overlaps, -np.inf)
    assert (2304 - overlaps.max()) / 2 == 12


def test_every_picture_shows_something():
    drawn = np.asarray(am.data.icons().images > 0).mean((1, 2))
    assert drawn.min() > 0.05
    assert drawn.max() < 0.85


def test_pictures_are_upright_and_white_on_black():
    (square, chevron), _ = am.data.icons(["plain-square", "rank-1"])
    assert bool((square[8:40, 8:40] == 1).all())
    assert bool((square[0] == -1).all())
    # The chevron of rank 1 points down: its lowest drawn pixel lies in the middle columns.
    rows, columns = np.nonzero(np.asarray(chevron[12:36, 12:36]) > 0)
    assert abs(columns[rows == rows.max()].mean() - 11.5) < 2
    assert rows.mean() > 8


def test_select_by_name_keeps_the_order_asked_for():
    images, names = am.data.icons(["zigzag-leaf", "abacus", "zigzag-leaf"])
    assert names == ("zigzag-leaf", "abacus", "zigzag-leaf")
    every = am.data.icons()
    assert jnp.array_equal(images[1], every.images[every.names.index("abacus")])
    assert jnp.array_equal(images[0], images[2])
    assert not jnp.array_equal(images[0], images[1])


def test_names_may_come_from_a_generator():
    assert am.data.icons(name for name in ["anvil"]).names == ("anvil",)


@pytest.mark.parametrize("n", [1, 7, 4134])
def test_first_n(n):
    images, names = am.data.icons(n=n)
    assert images.shape == (n, 48, 48)
    assert names == am.data.icons().names[:n]


@pytest.mark.parametrize("n", [0, -1, 4135])
def test_n_out_of_range(n):
    with pytest.raises(ValueError, match=rf"n must be from 1 to 4,134; {n} came"):
        am.data.icons(n=n)


def test_n_must_be_an_integer():
    with pytest.raises(TypeError, match="n must be an integer; bool came"):
        am.data.icons(n=True)


def test_unknown_name_comes_with_the_nearest():
    with pytest.raises(ValueError, match=r"called 'dragon-hed'. Did you mean 'dragon-head'\?"):
        am.data.icons(["anvil", "dragon-hed"])


def test_a_hopeless_name_is_still_a_clear_error():
    with pytest.raises(ValueError, match="no icon is called ''"):
        am.data.icons([""])


def test_one_string_is_not_a_list_of_names():
    with pytest.raises(TypeError, match=r"Write names=\['anvil'\]"):
        am.data.icons("anvil")


def test_no_names():
    with pytest.raises(ValueError, match="at least one name"):
        am.data.icons([])


def test_names_and_n_exclude_each_other():
    with pytest.raises(ValueError, match="not both"):
        am.data.icons(["anvil"], n=3)


def test_the_cache_cannot_be_spoiled():
    names = am.data.icons(n=3).names
    assert isinstance(names, tuple)
    with pytest.raises((TypeError, ValueError), match=r"immutable|read-only"):
        np.asarray(am.data.icons(n=1).images)[0, 0, 0] = 5


def test_the_file_is_small_and_needs_no_pickle():
    file = resources.files("amlib.data").joinpath("icons.npz")
    raw = file.read_bytes()
    assert len(raw) < 550_000
    with np.load(io.BytesIO(raw), allow_pickle=False) as bundle:
        assert bundle["images"].dtype == np.uint8
        assert bundle["names"].dtype.kind == "S"


def test_the_attribution_is_shipped():
    text = resources.files("amlib.data").joinpath("ATTRIBUTION.md").read_text("utf-8")
    for word in ["CC BY 3.0", "game-icons.net", "Lorc", "Delapouite", "Changes made"]:
        assert word in text


def test_render_draws_what_the_path_covers():
    script = load_script()
    left = script.render('<path fill="currentColor" d="M0 0h256v512H0z"/>')
    assert left.shape == (48, 48)
    assert left[:, :24].all()
    assert not left[:, 24:].any()
    # One output pixel is 512/48 units wide: 40 % of a pixel is too little, 50 % is enough.
    unit = 512 / 48
    for share, drawn in [(0.25, False), (0.5, True)]:
        thin = script.render(f'<path fill="currentColor" d="M0 0h{share * unit}v512H0z"/>')
        assert thin[:, 0].all() == drawn
        assert not thin[:, 1:].any()


def test_packing_is_the_same_on_every_run(monkeypatch):
    script = load_script()
    images, names = am.data.icons(n=20)
    drawn = np.asarray(images) > 0
    once = script.pack(drawn, list(names))
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    assert script.pack(drawn, list(names)) == once


def test_a_wrong_source_is_refused(tmp_path):
    script = load_script()
    (tmp_path / "icons.json").write_text("{}")
    with pytest.raises(SystemExit, match="SHA-256 must be b948029964d5"):
        script.read_source(tmp_path / "icons.json")


def test_the_source_renders_to_the_bundled_icons():
    # Set AMLIB_ICONS_JSON to icons.json of @iconify-json/game-icons 1.2.4 to run this.
    source = os.environ.get("AMLIB_ICONS_JSON")
    if not source:
        pytest.skip("AMLIB_ICONS_JSON is not set")
    script = load_script()
    bodies = script.read_source(Path(source))
    images, names = am.data.icons()
    assert tuple(bodies) == names
    for row in range(0, 4134, 200):
        assert np.array_equal(script.render(bodies[names[row]]), images[row] > 0), names[row]
