"""Pictures, sequences and graphs before an Energy Transformer; the published parameters."""

from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from test_energy_transformer import layer_norm, published

import amlib as am
from amlib.hierarchical import patches
from amlib.learning._epochs import partition

NAMES = (
    "Wk", "Wq", "Xi", "LNORM_gamma", "LNORM_bias", "Wenc", "Benc", "Wdec", "Bdec", "CLS_token",
    "MASK_token", "POS_embed",
)  # fmt: skip
WEIGHTS = Path(__file__).parents[2] / "nbs" / "tutorials" / "weights"
SIZES: dict[str, Any] = {"features": 10, "heads": 2, "head_width": 4, "memories": 15}


def model(shape=(6, 8, 3), patch=2, seed=0, **words):
    """A small model with parameters of trained sizes."""
    made = am.ImageEnergyTransformer(shape, patch, **SIZES, key=jr.key(seed), **words)
    rng = np.random.default_rng(seed)
    new = {k: jnp.asarray(0.4 * rng.normal(size=v.shape)) for k, v in made.published().items()}
    return made.with_published(new | {"LNORM_gamma": jnp.asarray(1.2)})


def picture(shape=(6, 8, 3), seed=1):
    return jr.normal(jr.key(seed), shape)


HIDDEN = np.random.default_rng(3).random((3, 4)) < 0.5


def test_the_whole_model_is_the_published_one():
    """Patches channels first, MASK before the position, CLS first, one normalisation, NumPy."""
    m, image = model(), picture()
    p = {name: np.asarray(a, np.float64) for name, a in m.published().items()}
    rows = []
    for i in range(3):
        for j in range(4):
            cut = np.asarray(image)[2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
            rows.append(np.transpose(cut, (2, 0, 1)).reshape(-1) @ p["Wenc"] + p["Benc"])
            if HIDDEN[i, j]:
                rows[-1] = p["MASK_token"]
    x = np.stack([p["CLS_token"], *rows]) + p["POS_embed"]
    assert_allclose(m.embed(image, HIDDEN), x, atol=1e-5)
    end = published(p, x, 12, np.ones((13, 13)))
    decoded = layer_norm(p, end)[1:] @ p["Wdec"] + p["Bdec"]
    expected = np.zeros((6, 8, 3))
    for k, row in enumerate(decoded):
        i, j = divmod(k, 4)
        cut = np.transpose(row.reshape(3, 2, 2), (1, 2, 0))
        expected[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = cut
    scale = np.abs(expected).max()
    assert_allclose(m(image, HIDDEN), expected, atol=1e-5 * scale)
    assert_allclose(m(image, HIDDEN.reshape(-1)), expected, atol=1e-5 * scale)
    filled = m.complete(image, HIDDEN)
    where = np.asarray(m.pixels(HIDDEN))
    assert_allclose(filled[where], expected[where], atol=1e-5 * scale)
    assert_array_equal(filled[~where], image[~where])
    assert where.sum() == HIDDEN.sum() * 12
    assert_allclose(m(image), m(image, np.zeros((3, 4), bool)), atol=1e-6)


def test_the_published_size_has_the_published_number_of_parameters():
    make = lambda key: am.ImageEnergyTransformer((224, 224, 3), 16, 768, 12, 64, 3072, key=key)
    m = eqx.filter_eval_shape(make, jr.key(0))
    parameters = {n: getattr(m.block if hasattr(m.block, n) else m, n) for n in NAMES}
    shapes = {name: a.shape for name, a in parameters.items()}
    assert shapes == {
        "Wk": (12, 64, 768), "Wq": (12, 64, 768), "Xi": (768, 3072), "LNORM_gamma": (),
        "LNORM_bias": (768,), "Wenc": (768, 768), "Benc": (768,), "Wdec": (768, 768),
        "Bdec": (768,), "CLS_token": (768,), "MASK_token": (768,), "POS_embed": (197, 768),
    }  # fmt: skip
    assert sum(a.size for a in parameters.values()) == 4_873_729
    assert m.block.tokens == 197
    assert m.block.steps == 12


def test_training_moves_all_that_is_published():
    m = model(classes=3)
    parts, _ = partition(m, None)
    trained = sum(a.size for a in jax.tree.leaves(parts))
    assert trained == sum(a.size for a in m.published().values()) + 10 * 3 + 3
    assert tuple(m.published()) == NAMES


def test_initial_spreads_are_the_published_ones():
    m = am.ImageEnergyTransformer((32, 32, 3), 4, 768, 2, 64, 200, key=jr.key(0))
    p = m.published()
    for names, std in (
        (("Wk", "Wq", "POS_embed", "MASK_token", "CLS_token"), 0.002),
        (["Xi"], 0.02),
    ):
        for name in names:
            assert_allclose(np.std(p[name]), std, rtol=0.1)
    assert_allclose(m.block.beta, 1 / 8)
    assert_array_equal(p["LNORM_gamma"], 1)


# -- files -----------------------------------------------------------------------------------------


def test_published_weights_are_read(tmp_path):
    """A plain dictionary by the published names, in any order; others do not count."""
    m, image = model(), picture()
    values: dict[str, Any] = {"epoch": np.asarray(7)} | dict(reversed(m.published().items()))
    np.savez(tmp_path / "weights.npz", **values)
    read = am.hierarchical.load_energy_transformer(tmp_path / "weights.npz", (6, 8, 3), 2)
    assert not read.block.mask_self
    assert read.block.Wk.shape == (2, 4, 10)
    assert_array_equal(read(image, HIDDEN), m(image, HIDDEN))
    short = am.hierarchical.load_energy_transformer(
        str(tmp_path / "weights.npz"), (6, 8, 3), 2, alpha=0.2, steps=3
    )
    assert_allclose(short(image), m(image, steps=3, method=am.CoreEuler(0.2)), atol=1e-5)


def test_files_that_hold_something_else(tmp_path):
    load = am.hierarchical.load_energy_transformer
    values = {name: np.asarray(a) for name, a in model().published().items()}

    def saved(**changed):
        new: dict[str, Any] = {k: v for k, v in (values | changed).items() if v is not None}
        np.savez(tmp_path / "w.npz", **new)
        return tmp_path / "w.npz"

    with pytest.raises(ValueError, match=r"'POS_embed' is missing"):
        load(saved(POS_embed=None), (6, 8, 3), 2)
    with pytest.raises(ValueError, match=r"must hold Wk of shape \(heads, head_width, features\)"):
        load(saved(Wk=None), (6, 8, 3), 2)
    with pytest.raises(ValueError, match=r"POS_embed must have shape \(26, 10\); \(13, 10\) came"):
        load(saved(), (10, 10, 3), 2)
    with pytest.raises(ValueError, match=r"Wdec must have shape \(10, 12\); \(12, 10\) came"):
        load(saved(Wdec=values["Wdec"].T), (6, 8, 3), 2)
    (tmp_path / "text.npz").write_text("no archive")
    np.save(tmp_path / "one.npy", np.ones(3))
    np.savez(tmp_path / "objects.npz", Wk=np.array([None]))
    for name in ("text.npz", "one.npy", "objects.npz"):
        with pytest.raises(ValueError, match=r"must be an \.npz of plain arrays"):
            load(tmp_path / name, (6, 8, 3), 2)
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        load(tmp_path / "nothing.npz")


# -- pictures, sequences, graphs -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "patch", "cut", "grid"),
    [
        ((6, 8), 2, (2, 2), (3, 4)),
        ((6, 8, 3), (3, 4), (3, 4), (2, 2)),
        (12, 3, (3,), (4,)),
        ((12, 5), (3,), (3,), (4,)),
        ((7, 5), (1,), (1,), (7,)),
        ((4, 6, 2), (2, 3, 1), (2, 3, 1), (2, 2, 2)),
    ],
)
def test_any_number_of_axes(shape, patch, cut, grid):
    m = am.ImageEnergyTransformer(shape, patch, **SIZES, key=jr.key(0))
    assert (m.patch, m.grid) == (cut, grid)
    image = picture(m.image_shape)
    rows = patches.rows_of(image, cut)
    assert rows.shape == (np.prod(grid), m.Wenc.shape[0])
    assert_array_equal(patches.picture_of(rows, m.image_shape, cut), image)
    hidden = np.zeros(grid, bool)
    hidden.flat[1] = True
    other = jnp.where(m.pixels(hidden), image + 3.0, image)
    changed = patches.rows_of(other, cut) != rows
    assert_array_equal(np.asarray(changed).all(axis=1), hidden.reshape(-1))
    assert_array_equal(np.asarray(changed).any(axis=1), hidden.reshape(-1))
    assert m(image, hidden).shape == m.image_shape
    # what is hidden is not seen
    assert_array_equal(m(image, hidden), m(other, hidden))
    assert np.abs(m(image) - m(other)).max() > 1e-4


def test_a_graph_for_each_example():
    nodes, edges = jr.normal(jr.key(0), (2, 5, 3)), jr.bernoulli(jr.key(1), 0.4, (2, 5, 5))
    edges = edges | edges.transpose(0, 2, 1)
    m = am.ImageEnergyTransformer((5, 3), (1,), **SIZES, key=jr.key(2))
    both = jax.vmap(lambda n, e: m.masked(e)(n))(nodes, edges)
    for k in range(2):
        one = eqx.tree_at(lambda m: m.block, m, m.masked(np.asarray(edges[k])).block)
        assert_allclose(both[k], one(nodes[k]), atol=1e-5)
    tokens = np.asarray(m.masked(np.asarray(edges[0])).block.mask)
    assert tokens[0].all()
    assert tokens[:, 0].all()
    assert_array_equal(tokens[1:, 1:], edges[0])
    assert_allclose(m.masked(edges[0]).masked(None)(nodes[0]), m(nodes[0]), atol=1e-6)
    with pytest.raises(ValueError, match=r"mask must be boolean of shape .* = \(5, 5\)"):
        m.masked(np.ones((6, 6), bool))


def test_other_ways_to_relax_and_derivatives_in_a_batch():
    m, image = model(), picture()
    for method in (am.FixedPoint(step_size=0.2), am.Euler(0.1)):
        assert np.isfinite(m.complete(image, HIDDEN, method=method, steps=50)).all()
    parts, rest = partition(m, None)
    batch = jnp.stack([picture(seed=k) for k in range(3)])

    def loss(parts, image):
        return jnp.sum((eqx.combine(parts, rest)(image, HIDDEN) - image) ** 2)

    slopes = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(parts, batch)
    one = jax.grad(loss)(parts, batch[1])
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(one), strict=True):
        assert_allclose(a[1], b, rtol=1e-3, atol=1e-3 * float(np.abs(b).max()))
        assert np.abs(b).max() > 0


def test_classes():
    m, image = model(classes=4), picture()
    state = m.block(m.embed(image))
    assert m.Wclass is not None
    assert m.Bclass is not None
    expected = m.block.activations(state)[0] @ m.Wclass + m.Bclass
    assert_allclose(m.classify(image), expected, rtol=1e-6)
    assert m.with_classes(7, key=jr.key(0)).classify(image).shape == (7,)
    assert model().with_classes(2, key=jr.key(0)).classify(image, steps=2).shape == (2,)
    with pytest.raises(ValueError, match=r"classify: needs a head for classes"):
        model().classify(image)
    with pytest.raises(ValueError, match=r"classes: must be at least 2; 1 came"):
        model(classes=1)


# -- what is wrong ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "patch"), [((28, 28), 5), ((28, 30), 4), (12, 5), ((4, 4), (2, 2, 2)), ((4, 4), ())]
)
def test_patches_that_do_not_divide_the_picture(shape, patch):
    with pytest.raises(ValueError, match=r"patch must divide the axes of the picture, \("):
        am.ImageEnergyTransformer(shape, patch, **SIZES, key=jr.key(0))


def test_pictures_and_masks_that_do_not_fit(unchecked):
    m, image = model(), picture()
    for wrong, hint in ((jnp.ones((2, 6, 8, 3)), "A batch goes"), (jnp.ones((8, 6, 3)), "Reshape")):
        with pytest.raises(
            ValueError, match=rf"image: the state must have shape \(6, 8, 3\).*{hint}"
        ):
            m(wrong)
    wholes: list[Any] = [np.ones((6, 8, 3), kind) for kind in (np.uint8, bool)]
    for whole in [*wholes, [[[1] * 3] * 8] * 6]:
        with pytest.raises(TypeError, match=r"a picture must be of floats.*image / 255"):
            m(whole)
    with pytest.raises(ValueError, match=r"one entry for each patch, shape \(3, 4\) or \(12,\)"):
        m(image, np.ones((4, 3), bool))
    with pytest.raises(ValueError, match=r"A mask of pixels came; whole patches are hidden"):
        m(image, np.ones((6, 8, 3), bool))
    with pytest.raises(TypeError, match=r"hidden must be boolean"):
        m(image, HIDDEN.astype(int))
    with pytest.raises(ValueError, match=r"must have shape \(13, 10\)"):
        m.decode(jnp.ones((12, 10)))
    with pytest.raises(ValueError, match=r"mask must be boolean of shape .* = \(12, 12\)"):
        model(mask=np.ones((13, 13), bool))
    with pytest.raises(ValueError, match=r"max_steps: must be at least 1; 0 came"):
        m(image, steps=0)
    assert m(image.astype(jnp.float16)).dtype == jnp.float32


# -- training --------------------------------------------------------------------------------------


def test_training_completes_what_a_mean_cannot():
    """Pictures of one of two textures: what is shown tells what is hidden."""
    import optax

    y, x = np.mgrid[:8, :8]
    kinds = np.stack([np.where((a * y + b * x) % 4 < 2, 1.0, -1.0) for a, b in ((1, 0), (0, 1))])
    data = jnp.asarray(np.repeat(kinds, 32, axis=0), jnp.float32)
    m = am.ImageEnergyTransformer((8, 8), 4, 16, 2, 8, 32, key=jr.key(0))
    loss = am.learning.MaskedPatches(4, hidden=2)
    fitted = am.fit(m, data, loss, optax.adam(1e-2), 40, 16, jr.key(1), progress=False)
    hidden = np.array([[True, False], [False, True]])
    made = jax.vmap(lambda image: fitted.model.complete(image, hidden))(data[::32])
    assert np.abs(made - data[::32]).max() < 0.5  # the mean of both is off by 1
    assert float(jnp.mean((made - data[::32]) ** 2)) < 0.02


def test_the_weights_of_the_tutorial_complete_digits_that_no_training_saw():
    """Far better than the mean picture, better from step to step, and downhill."""
    file = WEIGHTS / "energy_transformer_mnist.npz"
    m = am.hierarchical.load_energy_transformer(file, (28, 28), 4)
    with np.load(file) as stored:
        mean, std = float(stored["mean"]), float(stored["std"])
    digits = (am.data.mnist("test", "bundled").images[:60] - mean) / std
    hidden = jax.vmap(lambda key: jr.permutation(key, 49) < 25)(jr.split(jr.key(0), 60))
    pixels = np.asarray(jax.vmap(m.pixels)(hidden))

    def path(image, hidden):
        end = m.block.recall(m.embed(image, hidden), save_every=6)
        assert end.trajectory is not None
        return jax.vmap(m.decode)(end.trajectory.x), end.trajectory.energy

    made, energy = jax.jit(jax.vmap(path))(digits, hidden)
    errors = [np.mean((made[:, n] - digits)[pixels] ** 2) for n in range(3)]  # after 0, 6, 12
    middle = am.data.mnist("train", "bundled").images.mean(0)
    of_the_mean = np.mean((((middle - mean) / std)[None] - digits)[pixels] ** 2)
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.6 * of_the_mean
    assert (np.diff(energy, axis=1) < 0).all()
