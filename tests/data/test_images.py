"""binarize and sprites: polarity, transparency, shapes, folders, and what is refused."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

import amlib as am

# A shape with no symmetry, so that a flip or a transposition shows.
GLYPH = np.zeros((8, 8), bool)
GLYPH[1:7, 2] = GLYPH[1, 2:6] = GLYPH[4, 2:5] = True
EXPECTED = np.where(GLYPH, 1.0, -1.0).astype(np.float32)


def rgba(glyph, colour, behind=(9, 200, 77)):
    """The glyph in one colour; transparent elsewhere, over a colour that must not matter."""
    image = np.empty((*glyph.shape, 4), np.uint8)
    image[...] = (*behind, 0)
    image[glyph] = (*colour, 255)
    return image


def opaque(glyph, on, off):
    return np.where(glyph, on, off).astype(np.uint8)


# ----------------------------------------------------------------- polarity


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (120, 120, 120), (200, 30, 30)])
def test_sprites_on_transparency_never_vanish(colour):
    assert np.array_equal(am.data.binarize(rgba(GLYPH, colour), size=8), EXPECTED)


def test_transparency_over_a_stated_background():
    black, white = rgba(GLYPH, (0, 0, 0)), rgba(GLYPH, (255, 255, 255))
    assert np.array_equal(am.data.binarize(black, size=8, background="white"), EXPECTED)
    assert np.array_equal(am.data.binarize(white, size=8, background="black"), EXPECTED)
    blank = np.full((8, 8), -1.0)
    assert np.array_equal(am.data.binarize(black, size=8, background="black"), blank)
    assert np.array_equal(am.data.binarize(white, size=8, background="white"), blank)


def test_opaque_images_take_the_border_as_background():
    for on, off in [(255, 0), (0, 255), (30, 200), (230, 90)]:
        out = am.data.binarize(opaque(GLYPH, on, off), size=8)
        assert np.array_equal(out, EXPECTED), (on, off)


def test_fully_transparent_is_background():
    image = np.zeros((5, 5, 4), np.uint8)
    assert bool((am.data.binarize(image, size=5) == -1).all())


def test_half_transparent_pixels_fade():
    image = rgba(GLYPH, (0, 0, 0))
    image[GLYPH, 3] = 100
    drawn = am.data.binarize(image, size=8, threshold=0.3)
    assert np.array_equal(drawn, EXPECTED)
    assert bool((am.data.binarize(image, size=8, threshold=0.5) == -1).all())


def test_threshold_is_contrast():
    image = opaque(GLYPH, 100, 0)
    assert bool((am.data.binarize(image, size=8, threshold=0.5) == -1).all())
    assert np.array_equal(am.data.binarize(image, size=8, threshold=0.3), EXPECTED)


def test_white_stays_drawn_at_the_highest_threshold():
    image = np.repeat(opaque(GLYPH, 255, 0)[..., None], 3, -1)
    assert np.array_equal(am.data.binarize(image, size=8, threshold=1.0), EXPECTED)


# ----------------------------------------------------------------- forms


FORMS = {
    "uint8": opaque(GLYPH, 255, 0),
    "int64": opaque(GLYPH, 255, 0).astype(np.int64),
    "float": GLYPH.astype(np.float64),
    "float16": GLYPH.astype(np.float16),
    "bool": GLYPH,
    "jax": jnp.asarray(GLYPH),
    "bfloat16": jnp.asarray(GLYPH, jnp.bfloat16),
    "one channel": opaque(GLYPH, 255, 0)[..., None],
    "rgb": np.repeat(opaque(GLYPH, 255, 0)[..., None], 3, -1),
    "rgba": rgba(GLYPH, (255, 255, 255)),
    "pillow L": Image.fromarray(opaque(GLYPH, 255, 0)),
    "pillow 1": Image.fromarray(opaque(GLYPH, 255, 0)).convert("1"),
    "pillow P": Image.fromarray(rgba(GLYPH, (0, 0, 0))).quantize(4),
    "pillow LA": Image.fromarray(rgba(GLYPH, (0, 0, 0))).convert("LA"),
    "pillow RGBA": Image.fromarray(rgba(GLYPH, (0, 0, 0))),
    "pillow I;16": Image.fromarray(opaque(GLYPH, 1, 0).astype(np.uint16) * 65535),
    "pillow F": Image.fromarray(GLYPH.astype(np.float32)),
}


@pytest.mark.parametrize("image", FORMS.values(), ids=FORMS)
def test_every_form_gives_the_same_pattern(image):
    out = am.data.binarize(image, size=8)
    assert out.dtype == jnp.float32
    assert np.array_equal(out, EXPECTED)


def test_one_image_a_list_and_a_stack():
    grey = opaque(GLYPH, 255, 0)
    assert am.data.binarize(grey, size=8).shape == (8, 8)
    assert am.data.binarize([grey], size=8).shape == (1, 8, 8)
    mixed = am.data.binarize([np.ones((3, 5)), rgba(GLYPH, (0, 0, 0)), GLYPH], size=16)
    assert mixed.shape == (3, 16, 16)
    stack = np.stack([grey, 255 - grey])
    assert np.array_equal(am.data.binarize(stack, size=8), np.stack([EXPECTED] * 2))
    colours = np.stack([rgba(GLYPH, (0, 0, 0))] * 2)
    assert np.array_equal(am.data.binarize(colours, size=8), np.stack([EXPECTED] * 2))


def test_the_pattern_feeds_a_model_under_x64(x64):
    assert am.data.binarize(GLYPH, size=8).dtype == jnp.float32


# ----------------------------------------------------------------- geometry


def test_wide_and_tall_images_are_centred_on_a_square():
    wide = np.ones((2, 6))
    wide[:, :] = 1.0
    out = np.asarray(am.data.binarize(wide, size=6, background="black"))
    assert (out[2:4] == 1).all()
    assert (np.delete(out, [2, 3], 0) == -1).all()
    tall = np.asarray(am.data.binarize(wide.T, size=6, background="black"))
    assert np.array_equal(tall, out.T)


def test_padding_is_background_on_white_too():
    out = am.data.binarize(np.zeros((2, 6)), size=6, background="white")
    assert int((out > 0).sum()) == 12


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**31 - 1))
def test_whole_enlargements_repeat_pixels(factor, side, seed):
    bits = np.random.default_rng(seed).random((side, side)) < 0.5
    out = am.data.binarize(bits, size=factor * side, background="black")
    assert np.array_equal(out > 0, np.kron(bits, np.ones((factor, factor), bool)))


def test_shrinking_averages_areas():
    image = np.zeros((4, 4))
    image[:2, :2] = 1  # the whole of one output pixel
    image[0, 2:] = 1  # half of the next
    image[2, 0] = 1  # a quarter of the one below
    out = am.data.binarize(image, size=2, background="black")
    assert np.array_equal(out, [[1, 1], [-1, -1]])


def test_icons_survive_a_round_trip():
    images, _ = am.data.icons(n=50)
    again = am.data.binarize(np.asarray(images > 0), background="black")
    assert jnp.array_equal(again, images)


# ----------------------------------------------------------------- what is refused


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (2, 4, 4, 5), (1, 1, 4, 4, 3), ()])
def test_bad_shapes(shape):
    with pytest.raises(ValueError, match=r"must have shape \(H, W\).* came"):
        am.data.binarize([np.zeros(shape)])


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0, 3)])
def test_no_pixels(shape):
    with pytest.raises(ValueError, match="at least one pixel"):
        am.data.binarize(np.zeros(shape))


def test_no_images():
    with pytest.raises(ValueError, match="at least one image; an empty list came"):
        am.data.binarize([])
    with pytest.raises(ValueError, match="at least one image"):
        am.data.binarize(np.zeros((0, 8, 8)))


@pytest.mark.parametrize(
    "image",
    [
        np.full((3, 3), 255.0),
        np.full((3, 3), -1.0),
        np.full((3, 3), np.nan),
        np.full((3, 3), 256),
        np.full((3, 3), -1),
    ],
)
def test_values_out_of_range(image):
    with pytest.raises(ValueError, match=r"image 0: .* values must lie in 0\.\.(1|255); .* came"):
        am.data.binarize(image)


def test_not_an_image():
    with pytest.raises(TypeError, match="images"):
        am.data.binarize("my-sprites")  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="images"):
        am.data.binarize([[0, 1], [1, 0]])  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="must hold real numbers; dtype complex128 came"):
        am.data.binarize(np.zeros((3, 3), complex))


@pytest.mark.parametrize("threshold", [0, -0.5, 1.5, 128, float("nan")])
def test_bad_threshold(threshold):
    with pytest.raises(ValueError, match=r"threshold must be above 0 and at most 1; .* came"):
        am.data.binarize(GLYPH, threshold=threshold)


def test_bad_size_and_background():
    with pytest.raises(ValueError, match="size: must be at least 1; 0 came"):
        am.data.binarize(GLYPH, size=0)
    with pytest.raises(TypeError, match="size must be an integer; bool came"):
        am.data.binarize(GLYPH, size=True)
    with pytest.raises(ValueError, match=r"background: must be one of .* Did you mean 'white'"):
        am.data.binarize(GLYPH, background="whit")


# ----------------------------------------------------------------- folders


def test_sprites_are_read_by_name(tmp_path):
    Image.fromarray(rgba(GLYPH, (255, 255, 255))).save(tmp_path / "b.png")
    Image.fromarray(rgba(GLYPH[::-1], (0, 0, 0))).save(tmp_path / "a.PNG")
    Image.fromarray(rgba(GLYPH.T, (0, 0, 0))).quantize(2).save(tmp_path / "c.png")
    sixteen = Image.fromarray(opaque(GLYPH, 1, 0).astype(np.uint16) * 60000)
    sixteen.save(tmp_path / "d.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "._b.png").write_bytes(b"what some systems leave behind")
    (tmp_path / "more").mkdir()
    images, names = am.data.sprites(tmp_path, size=8)
    assert names == ("a", "b", "c", "d")
    assert images.dtype == jnp.float32
    assert np.array_equal(images[0], EXPECTED[::-1])
    assert np.array_equal(images[1], EXPECTED)
    assert np.array_equal(images[2], EXPECTED.T)
    assert np.array_equal(images[3], EXPECTED)


def test_sprites_take_a_string_and_default_to_the_size_of_icons(tmp_path):
    Image.fromarray(rgba(GLYPH, (0, 0, 0))).save(tmp_path / "one.png")
    assert am.data.sprites(str(tmp_path)).images.shape == (1, 48, 48)


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere must be a folder of PNG files"):
        am.data.sprites(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"at least one \.png file; none was found") as err:
        am.data.sprites(tmp_path)
    assert str(tmp_path) in str(err.value)


def test_a_file_is_no_folder(tmp_path):
    Image.fromarray(rgba(GLYPH, (0, 0, 0))).save(tmp_path / "one.png")
    with pytest.raises(FileNotFoundError, match=r"one\.png must be a folder"):
        am.data.sprites(tmp_path / "one.png")


@pytest.mark.parametrize("damage", ["text", "truncated", "empty"])
def test_an_unreadable_png_is_named(tmp_path, damage):
    Image.fromarray(rgba(GLYPH, (0, 0, 0))).save(tmp_path / "fine.png")
    raw = (tmp_path / "fine.png").read_bytes()
    broken = {"text": b"not a PNG", "truncated": raw[: len(raw) // 2], "empty": b""}[damage]
    (tmp_path / "bad.png").write_bytes(broken)
    with pytest.raises(ValueError, match=r"bad\.png must be a readable PNG"):
        am.data.sprites(tmp_path)
