"""Corruptions: exact counts, exact regions, keys, dtypes, jit and vmap."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import amlib as am

corrupt = am.data.corrupt
KEY = jr.key(0)


# Few shapes and NumPy outside the code under test: a new shape costs a compilation.
def spins(shape, dtype=jnp.float32, seed=1):
    bits = np.random.default_rng(seed).random(shape) < 0.5
    return jnp.asarray(np.where(bits, 1, -1).astype(dtype))


def hamming(a, b):
    return int((np.asarray(a) != np.asarray(b)).sum())


# ----------------------------------------------------------------- flips


def test_flip_edges():
    x = spins((6, 6))
    assert np.array_equal(corrupt.flip(KEY, x, 0.0), x)
    assert np.array_equal(corrupt.flip(KEY, x, 1), -x)


@pytest.mark.parametrize("p", [0.05, 0.3, 0.5])
def test_flip_rate_and_independence(p):
    size = 36_000
    x = spins((size,))
    flipped = np.asarray(corrupt.flip(KEY, x, p) != x)
    assert abs(flipped.mean() - p) < 5 * np.sqrt(p * (1 - p) / size)
    neighbours = (flipped[1:] & flipped[:-1]).mean()
    assert abs(neighbours - p * p) < 5 * np.sqrt(p * p / size)


def test_flip_depends_on_the_key_alone():
    x = spins((6, 6))
    assert jnp.array_equal(corrupt.flip(KEY, x, 0.2), corrupt.flip(KEY, x, 0.2))
    assert hamming(corrupt.flip(KEY, x, 0.2), corrupt.flip(jr.key(1), x, 0.2)) > 0
    old = jr.PRNGKey(0)
    assert jnp.array_equal(corrupt.flip(old, x, 0.2), corrupt.flip(KEY, x, 0.2))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 36), st.integers(0, 2**31 - 1))
def test_flip_exactly_flips_exactly_k(k, seed):
    x = spins((6, 6), seed=seed)
    noisy = corrupt.flip_exactly(jr.key(seed), x, k)
    assert hamming(noisy, x) == k
    assert set(np.unique(noisy)) <= {-1, 1}


def test_flip_exactly_reaches_every_bit_equally():
    x = jnp.ones(8)
    keys = jr.split(KEY, 4000)
    noisy = jax.vmap(lambda key: corrupt.flip_exactly(key, x, 3))(keys)
    rate = np.asarray(noisy < 0).mean(0)
    assert np.allclose(rate, 3 / 8, atol=5 * np.sqrt(3 / 8 * 5 / 8 / 4000))


def test_flip_exactly_takes_numpy_and_traced_counts():
    x = spins((6, 6))
    assert hamming(corrupt.flip_exactly(KEY, x, np.int64(9)), x) == 9
    noisy = jax.jit(lambda k: corrupt.flip_exactly(KEY, x, k))(9)
    assert jnp.array_equal(noisy, corrupt.flip_exactly(KEY, x, 9))
    counts = np.arange(37)
    batch = jax.vmap(lambda k: corrupt.flip_exactly(KEY, x, k))(jnp.asarray(counts))
    assert [hamming(noisy, x) for noisy in batch] == counts.tolist()


@pytest.mark.parametrize("p", [-0.1, 1.5, float("nan"), 30])
def test_flip_bad_probability(p):
    with pytest.raises(ValueError, match=r"flip: p must be from 0 to 1; .* came"):
        corrupt.flip(KEY, jnp.ones(4), p)


def test_flip_bad_probability_when_traced():
    with pytest.raises(RuntimeError, match="flip: p must be from 0 to 1"):
        jax.block_until_ready(jax.jit(corrupt.flip)(KEY, jnp.ones(4), 1.5))


@pytest.mark.parametrize("k", [-1, 5, 10**12, np.int32(5)])
def test_flip_exactly_bad_count(k):
    with pytest.raises(ValueError, match=r"k must be from 0 to the number of bits, 4; .* came"):
        corrupt.flip_exactly(KEY, jnp.ones(4), k)


@pytest.mark.parametrize("k", [0.5, True])
def test_flip_exactly_wants_an_integer(k):
    with pytest.raises(TypeError, match="k must be an integer"):
        corrupt.flip_exactly(KEY, jnp.ones(4), k)


# ----------------------------------------------------------------- masks


@pytest.mark.parametrize(
    ("side", "hidden"),
    [
        ("bottom", np.s_[3:, :]),
        ("top", np.s_[:3, :]),
        ("left", np.s_[:, :2]),
        ("right", np.s_[:, 2:]),
    ],
)
def test_mask_sides(side, hidden):
    x = jnp.arange(24.0).reshape(6, 4)
    expected = np.asarray(x).copy()
    expected[hidden] = -1
    assert jnp.array_equal(corrupt.mask(x, 0.5, side), expected)
    # The same picture flat, with its shape; and with a colour axis.
    flat = corrupt.mask(x.reshape(-1), 0.5, side, shape=(6, 4))
    assert jnp.array_equal(flat, expected.reshape(-1))
    colour = corrupt.mask(jnp.stack([x, x, x], -1), 0.5, side)
    assert jnp.array_equal(colour, np.stack([expected] * 3, -1))


def test_mask_takes_a_flat_square_number_as_a_square():
    x = spins((6, 6))
    flat = corrupt.mask(x.reshape(-1), 0.25, "left")
    assert jnp.array_equal(flat.reshape(6, 6), corrupt.mask(x, 0.25, "left"))


@pytest.mark.parametrize(
    ("fraction", "rows"), [(0, 0), (0.04, 0), (0.05, 1), (0.3, 3), (0.55, 6), (1, 10)]
)
def test_mask_rounds_to_whole_rows(fraction, rows):
    hidden = corrupt.region((10, 3), fraction, "bottom")
    assert int(hidden.sum()) == rows * 3
    assert bool(hidden[10 - rows :].all())


@settings(max_examples=25, deadline=None)
@given(st.floats(0, 1, width=32), st.sampled_from([1, 7, 36]))
def test_random_mask_hides_exactly_its_share(fraction, size):
    hidden = corrupt.region((size,), fraction, "random", key=KEY)
    assert int(hidden.sum()) == int(np.floor(np.float32(fraction) * np.float32(size) + 0.5))


def test_mask_value_and_region_agree():
    x = spins((6, 6))
    hidden = corrupt.region((6, 6), 0.3, "random", key=KEY)
    masked = corrupt.mask(x, 0.3, "random", value=0.0, key=KEY)
    assert jnp.array_equal(masked == 0, hidden)
    assert jnp.array_equal(masked, jnp.where(hidden, 0.0, x))


def test_mask_fraction_may_be_traced():
    x = spins((6, 6))
    masked = jax.jit(lambda f: corrupt.mask(x, f, "top"))(0.5)
    assert jnp.array_equal(masked, corrupt.mask(x, 0.5, "top"))


def test_mask_errors():
    x = jnp.ones((4, 4))
    with pytest.raises(ValueError, match=r"fraction must be from 0 to 1; 50"):
        corrupt.mask(x, 50)
    with pytest.raises(ValueError, match=r"side: must be one of .* Did you mean 'bottom'"):
        corrupt.mask(x, 0.5, "botom")
    with pytest.raises(ValueError, match=r"needs a key; none came. Pass key=jr.key\(0\)"):
        corrupt.mask(x, 0.5, "random")
    with pytest.raises(ValueError, match=r"12 bits is no square picture. Pass its shape="):
        corrupt.mask(jnp.ones(12))
    with pytest.raises(ValueError, match=r"as many pixels as x; \(3, 4\) for 16 pixels came"):
        corrupt.mask(x, shape=(3, 4))
    with pytest.raises(ValueError, match=r"needs a picture \(height, width\); shape \(9,\) came"):
        corrupt.region((9,))


# ----------------------------------------------------------------- noise


def test_gaussian_moments():
    x = spins((36_000,))
    noise = np.asarray(corrupt.add_gaussian(KEY, x, 0.5) - x)
    assert abs(noise.mean()) < 5 * 0.5 / np.sqrt(36_000)
    assert abs(noise.std() - 0.5) < 0.01
    assert jnp.array_equal(corrupt.add_gaussian(KEY, x, 0), x)


@pytest.mark.parametrize("sigma", [-0.1, float("inf"), float("nan")])
def test_gaussian_bad_sigma(sigma):
    with pytest.raises(ValueError, match=r"sigma must be finite and at least 0; .* came"):
        corrupt.add_gaussian(KEY, jnp.ones(3), sigma)


# ----------------------------------------------------------------- alphabets

BITS = np.asarray(spins((3, 6, 6)) > 0, np.float32)
OF_BITS = {
    "flip": lambda key, x: corrupt.flip(key, x, 0.3),
    "flip_exactly": lambda key, x: corrupt.flip_exactly(key, x, 5),
    "mask": lambda key, x: corrupt.mask(x, 0.3, "random", key=key),
}
of_bits = pytest.mark.parametrize("corrupt", OF_BITS.values(), ids=OF_BITS)


@of_bits
@pytest.mark.parametrize("dtype", [np.int8, np.float32, jnp.bfloat16])
def test_bits_are_refused_with_the_cure(corrupt, dtype):
    """Once they gave -0 and mixtures of 0/1 and -1/+1."""
    with pytest.raises(ValueError, match=r"0 and 1.* came.*2\*x - 1"):
        corrupt(KEY, BITS[0].astype(dtype))
    with pytest.raises(ValueError, match=r"2\*x - 1"):
        jax.vmap(corrupt)(jr.split(KEY, 3), jnp.asarray(BITS, dtype))
    assert set(np.unique(corrupt(KEY, 2 * BITS[0] - 1))) == {-1, 1}
    jax.jit(corrupt)(KEY, BITS[0])  # what is traced cannot be known


def test_grey_states_and_masked_bits_are_no_mistake():
    grey = jnp.array([0.0, 0.5, 1.0, 0.0])
    assert sorted(np.abs(corrupt.flip(KEY, grey, 0.5)).tolist()) == [0, 0, 0.5, 1]
    masked = corrupt.mask(BITS[0], value=0)
    assert set(np.unique(masked)) == {0, 1}
    assert jnp.array_equal(corrupt.flip(KEY, jnp.ones(4), 1), -jnp.ones(4))


# ----------------------------------------------------------------- laws over all four

EVERY = {
    "flip": lambda key, x: corrupt.flip(key, x, 0.3),
    "flip_exactly": lambda key, x: corrupt.flip_exactly(key, x, 5),
    "mask": lambda key, x: corrupt.mask(x, 0.3, "random", key=key),
    "mask_side": lambda key, x: corrupt.mask(x, 0.3, "left"),
    "add_gaussian": lambda key, x: corrupt.add_gaussian(key, x, 0.3),
}
every = pytest.mark.parametrize("corrupt", EVERY.values(), ids=EVERY)


@every
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.float32])
@pytest.mark.parametrize("shape", [(6, 6), (4, 5, 3)])
def test_shape_and_dtype_are_kept(corrupt, dtype, shape):
    x = spins(shape, dtype)
    out = corrupt(KEY, x)
    assert out.shape == shape
    assert out.dtype == dtype
    assert np.isfinite(np.asarray(out, np.float32)).all()
    assert hamming(out, x) > 0


@every
def test_double_precision(corrupt, x64):
    x = spins((6, 6), jnp.float64)
    assert corrupt(KEY, x).dtype == jnp.float64


def test_the_same_bits_with_and_without_x64():
    x = np.ones((6, 6), np.float32)
    short = [np.asarray(EVERY[name](KEY, x)) for name in ["flip", "flip_exactly", "mask"]]
    with jax.enable_x64(True):
        for name, kept in zip(["flip", "flip_exactly", "mask"], short, strict=True):
            assert np.array_equal(EVERY[name](KEY, x.astype(np.float64)), kept), name


@every
def test_jit_and_vmap_change_nothing(corrupt):
    x = jnp.stack([spins((6, 6), seed=s) for s in range(3)])
    keys = jr.split(KEY, 3)
    loop = jnp.stack([corrupt(key, one) for key, one in zip(keys, x, strict=True)])
    # XLA may fuse the noise's multiply and add: bits apart by one rounding at most.
    assert jnp.allclose(jax.vmap(corrupt)(keys, x), loop, rtol=1e-6, atol=1e-6)
    assert jnp.allclose(jax.jit(corrupt)(keys[0], x[0]), loop[0], rtol=1e-6, atol=1e-6)


@every
def test_bools_become_spins_and_integers_floats(corrupt):
    bits = np.asarray(spins((6, 6))) > 0
    from_bits = corrupt(KEY, bits)
    from_ints = corrupt(KEY, np.where(bits, 1, -1))
    assert from_bits.dtype == jnp.float32
    assert jnp.array_equal(from_bits, from_ints)


@every
def test_complex_states_are_refused(corrupt):
    with pytest.raises(TypeError, match="must hold real numbers; dtype complex64 came"):
        corrupt(KEY, jnp.ones((6, 6), jnp.complex64))


@pytest.mark.parametrize("corruption", ["flip", "flip_exactly"])
def test_the_space_says_what_a_flipped_unit_is(corruption):
    """The same units flip in every space; bits and bools of a space stay in it."""
    spins = jnp.where(jr.bernoulli(jr.key(0), 0.5, (4, 5)), 1.0, -1.0)
    bits = (spins + 1) / 2
    level = {"flip": 0.4, "flip_exactly": 7}[corruption]
    damage = {"flip": corrupt.flip, "flip_exactly": corrupt.flip_exactly}[corruption]
    expected = (damage(jr.key(1), spins, level) + 1) / 2
    for x in (bits, bits.astype(int), bits.astype(bool)):
        np.testing.assert_array_equal(damage(jr.key(1), x, level, space=am.Bits()), expected)
    with pytest.raises(ValueError, match="must hold only 0 and 1; other values came"):
        damage(jr.key(1), spins, level, space=am.Bits())


def test_hidden_pixels_are_of_the_space():
    bits = jnp.ones((4, 4))
    assert set(np.unique(corrupt.mask(bits, space=am.Bits()))) == {0.0, 1.0}
    assert set(np.unique(corrupt.mask(bits, space=am.Reals()))) == {-1.0, 1.0}
