"""Convolution and pooling: the familiar layers, their transposes, shapes and bad input."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose

import amlib as am

KEY = jr.key(0)
LINE = np.ones((9, 1))


@eqx.filter_jit
def received(syn, a, b):
    """The energy, and minus its gradient in each layer."""
    energy, slopes = jax.value_and_grad(syn.__call__, (0, 1))(a, b)
    return energy, -slopes[0], -slopes[1]


def windows(x, size, stride):
    """All windows of an image as `(rows, columns, size, size, channels)`."""
    n = [(m - size) // stride + 1 for m in x.shape[:2]]
    starts = [[(i * stride, j * stride) for j in range(n[1])] for i in range(n[0])]
    return np.array([[x[i : i + size, j : j + size] for i, j in row] for row in starts])


@pytest.mark.parametrize("stride", [1, 2])
def test_convolution_and_its_transpose(stride):
    x, b = jr.normal(jr.key(1), (6, 7, 2)), jr.normal(jr.key(3), (3,))
    W = jr.normal(jr.key(2), (3, 2, 3, 3))
    seen = windows(np.asarray(x), 3, stride)
    expected = np.einsum("ijxyc,ocxy->ijo", seen, W) + np.asarray(b)
    y = jr.normal(jr.key(4), expected.shape)
    syn = am.ConvSynapse(strides=stride, padding="VALID", W=W, b=b)
    energy, to_first, to_second = received(syn, x, y)
    assert_allclose(to_second, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(energy, -(expected * y).sum(), rtol=1e-4)
    back = np.zeros(x.shape)
    for i, j in np.ndindex(*y.shape[:2]):
        patch = np.einsum("o,ocxy->xyc", y[i, j], W)
        back[i * stride : i * stride + 3, j * stride : j * stride + 3] += patch
    assert_allclose(to_first, back, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["avg", "max"])
def test_pooled_convolution(kind):
    x, y = jr.normal(jr.key(1), (8, 8, 2)), jr.normal(jr.key(3), (2, 2, 3))
    syn = am.ConvPoolSynapse(3, padding="VALID", pool=kind, pool_size=3, pool_strides=2)
    syn = syn.init(KEY, (8, 8, 2), (2, 2, 3))
    conv = np.einsum("ijxyc,ocxy->ijo", windows(np.asarray(x), 3, 1), np.asarray(syn.W))
    seen = windows(conv, 3, 2)
    expected = seen.mean((2, 3)) if kind == "avg" else seen.max((2, 3))
    energy, _, to_second = received(syn, x, y)
    assert_allclose(to_second, expected, rtol=1e-4, atol=1e-5)
    assert_allclose(energy, -(expected * y).sum(), rtol=1e-4, atol=1e-5)


def test_the_example_of_the_published_interface():
    syn = am.ConvSynapse((3, 3), strides=3)
    assert syn.example_output(jnp.ones((32, 32, 3))).shape == (11, 11, 1)
    example = lambda x: syn.example_output(x, channels=5)
    assert jax.eval_shape(example, np.ones((32, 32, 3))).shape == (11, 11, 5)
    ready = syn.init(KEY, (32, 32, 3), (11, 11, 7))
    assert np.asarray(ready.W).shape == (7, 3, 3, 3)
    assert jax.eval_shape(ready.example_output, np.ones((32, 32, 3))).shape == (11, 11, 7)


@pytest.mark.parametrize(
    ("shape", "options", "made"),
    [
        ((9, 2), {"kernel_size": 3}, (9, 4)),
        ((9, 2), {"kernel_size": (4,), "strides": (2,), "padding": "valid"}, (3, 4)),
        ((6, 9, 1), {"kernel_size": (2, 3), "strides": (2, 3)}, (3, 3, 4)),
        ((28, 28, 1), {"kernel_size": 4, "strides": 2, "padding": 2, "pool": "max"}, (7, 7, 4)),
        ((5, 6, 1), {"kernel_size": 3, "padding": [1, 0]}, (5, 4, 4)),
        ((5, 6, 1), {"kernel_size": 3, "padding": ((0, 1), (2, 0))}, (4, 6, 4)),
        ((4, 5, 6, 2), {"kernel_size": (2, 2, 3), "padding": "VALID"}, (3, 4, 4, 4)),
        ((1, 1, 1), {"kernel_size": 1}, (1, 1, 4)),
    ],
    ids=str,
)
def test_any_number_of_axes_strides_and_paddings(shape, options, made):
    lazy = am.ConvSynapse(**options)
    energy = lambda a, b: lazy.init(KEY, shape, made)(a, b)
    assert jax.eval_shape(energy, np.ones(shape), np.ones(made)).shape == ()


def test_initial_weights_keep_the_scale_of_the_image():
    # Away from the border, each entry is the product of weights with as many entries of an image.
    W = np.asarray(am.ConvSynapse(3).init(KEY, (20, 20, 16), (20, 20, 8)).W)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 16, 3, 3)), rng.standard_normal((50, 8, 3, 3))
    assert_allclose(np.std(np.einsum("noxy,cxyo->nc", x, np.moveaxis(W, 1, -1))), 1, atol=0.15)
    assert_allclose(np.std(np.einsum("ncxy,coxy->no", y, W)), 2**-0.5, atol=0.15)
    made = am.ConvSynapse(3, bias=True, std=0.0).init(KEY, (5, 5, 1), (5, 5, 2))
    assert np.asarray(made.b).shape == (2,)
    assert np.asarray(made.W).max() == 0


def test_values_are_those_of_the_published_package():
    core = pytest.importorskip("hamux.core")
    options = (KEY, 4, 2, (3, 3), (2, 2))
    ours, theirs = (m.ConvSynapse.from_conv_params(*options) for m in (am, core))
    assert_allclose(ours.W, theirs.W)
    x, y = jr.normal(jr.key(1), (7, 8, 2)), jr.normal(jr.key(2), (4, 4, 4))
    energy, to_first, to_second = received(ours, x, y)
    value, slopes = jax.value_and_grad(theirs, (0, 1))(x, y)
    assert_allclose(energy, value, rtol=1e-5)
    assert_allclose(to_first, -slopes[0], rtol=1e-4, atol=1e-5)
    assert_allclose(to_second, -slopes[1], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: am.ConvSynapse(), ValueError, "needs kernel_size, or the weights W; neither came"),
        (lambda: am.ConvSynapse(0), ValueError, "kernel_size: must be at least 1; 0 came"),
        (lambda: am.ConvSynapse(3.0), TypeError, "kernel_size: must be an int or a tuple of ints"),  # pyright: ignore[reportArgumentType]
        (lambda: am.ConvSynapse(3, strides=(1, 0)), ValueError, "strides: must be at least 1"),
        (lambda: am.ConvSynapse(3, padding="SAMEE"), ValueError, "Did you mean 'SAME'"),
        (lambda: am.ConvSynapse(3, padding=-1), ValueError, "padding: must be at least 0; -1 came"),
        (lambda: am.ConvSynapse(3, padding=((1, 2, 3),)), ValueError, "an int or a pair"),
        (lambda: am.ConvPoolSynapse(3, pool="mean"), ValueError, "pool: must be one of 'avg', 'm"),
        (lambda: am.ConvSynapse(W=np.ones((3, 3))), ValueError, r"channels in, \*window\)"),
        (lambda: am.ConvSynapse(2, W=np.ones((1, 1, 3, 3))), ValueError, "end in the kernel_size"),
        (
            lambda: am.ConvSynapse((3, 3), strides=3).init(KEY, (32, 32, 3), (10, 10, 4)),
            ValueError,
            r"\(32, 32, 3\) and \(10, 10, 4\) do not fit: .* shape \(11, 11, 4\) of the first",
        ),
        (
            lambda: am.ConvSynapse(3).init(KEY, (9,), (9,)),
            ValueError,
            r"one to three spatial axes; \(9,\) and \(9,\) came",
        ),
        (lambda: am.ConvSynapse(3).init(KEY, (9, 1), (9, 9, 1)), ValueError, "both layers must"),
        (lambda: am.ConvSynapse((3, 3)).init(KEY, (9, 1), (9, 1)), ValueError, "each of 1 spatial"),
        (lambda: am.ConvSynapse(3).init(KEY, (9, 1)), ValueError, "connect 2 layer.s.; 1 came"),
        (
            lambda: am.ConvSynapse(5, padding="VALID").init(KEY, (4, 4, 1), (1, 1, 1)),
            ValueError,
            r"the window \(5, 5\) must fit in the image; \(4, 4, 1\)",
        ),
        (
            lambda: am.ConvPoolSynapse(3, pool_size=5).init(KEY, (4, 4, 1), (1, 1, 1)),
            ValueError,
            r"the pool \(5, 5\) must fit in the image; \(4, 4\)",
        ),
        (
            lambda: am.ConvSynapse(W=np.ones((1, 2, 3, 3))).forward(np.ones((9, 9, 9, 2))),
            ValueError,
            "2 spatial axes and 2 channels; .* Batches go through jax.vmap",
        ),
        (
            lambda: am.ConvSynapse(W=np.ones((1, 1, 3, 3)))(np.ones((9, 9, 1)), np.ones((9, 9, 2))),
            ValueError,
            "do not fit",
        ),
        (
            lambda: am.ConvSynapse(W=np.ones((1, 1, 3)), b=np.ones(2))(
                np.ones((9, 1)), np.ones((9, 1))
            ),
            ValueError,
            "b must have one entry for each of 1 channels",
        ),
        (lambda: am.ConvSynapse(3)(np.ones((9, 1)), np.ones((9, 1))), ValueError, "needs the weig"),
        (
            lambda: am.ConvSynapse(3).example_output(np.ones((9, 1)), channels=0),
            ValueError,
            "channels: must be at least 1",
        ),
    ],
)
def test_bad_input_says_what_is_wrong(call, error, message):
    with pytest.raises(error, match=message):
        call()
