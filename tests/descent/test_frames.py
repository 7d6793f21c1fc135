"""`Frames` is the array of all states that it stands for: indexed alike, and used alike."""

import functools
import re

import einops
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import amlib as am
from tests.zoo import spins

T = 14


@functools.cache
def stored_frames() -> dict[str, tuple[am.Frames, np.ndarray]]:
    """Frames of one recall, of a batch, and of a batch of batches, and the same stored in full."""
    rng = np.random.default_rng(6)
    x0 = spins(7, 3, 2, 3).astype(np.float32)
    visited, accepted = rng.integers(0, 6, (3, T)), rng.random((3, T)) < 0.8
    stored = np.zeros((3, T, 2, 3), np.float32)
    for lane in range(3):
        x = x0[lane].copy()
        for t in range(T):
            if accepted[lane, t]:
                x.reshape(-1)[visited[lane, t]] *= -1
            stored[lane, t] = x
    visits = jnp.asarray(visited.astype(np.uint16)), jnp.asarray(accepted)
    batch = am.Frames(jnp.asarray(x0), *visits)
    return {
        "one": (jax.tree.map(lambda a: a[0], batch), stored[0]),
        "batch": (batch, stored),
        "batches": (jax.tree.map(lambda a: a[None, :2], batch), stored[None, :2]),
    }


KINDS = tuple(stored_frames())
every_kind = pytest.mark.parametrize("which", KINDS)


# -- indices ----------------------------------------------------------------------------------

EVEN = np.arange(T) % 2 == 0
INDICES = {
    "one": [
        0, -1, np.int64(4), slice(None), slice(2, 11, 3), slice(None, None, -1), slice(20, 30), [],
        [3, 1, -2, 1], ..., (..., 2), (3, ...), EVEN, (slice(None, None, 4), 1), (2, 1, -1),
        (slice(1, 4), [1, 0]), np.array([[0, 5], [-1, 2]]), None, (None, 3, None), True, False,
        ([1, 2], [0, 1]), (np.ones((T, 2), bool),), range(2, 5),
        (slice(None), [0, 1], ..., 0), ([3], ..., 1, [0]), (..., 3, [0], [1]), (2, 0, 1, ...),
    ],
    "batch": [
        0, slice(None, None, -2), [2, 0], (1, -1), (1, slice(3, 9, 2)), (slice(None), -1),
        np.array([True, False, True]), (..., 0, 1), (slice(None), EVEN), (0, [1, 3]), (2, 5, 1, 0),
        (True, slice(None, None, -1)), (..., True), (False, 0), ([0, 2], [5, 1]), ([0, 1, 2], -1),
        ([0, 1], slice(None), [1, 0]), (np.ones((3, T), bool), 1), (0, np.True_, slice(None), [1]),
    ],
    "batches": [(0, 1, 3), (0, [0, 1], [3, 4]), (slice(None), [1, 0]), (..., None, -1)],
}  # fmt: skip


@every_kind
def test_frames_index_like_the_stored_states(which):
    frames, stored = stored_frames()[which]
    assert (frames.shape, frames.ndim, frames.size) == (stored.shape, stored.ndim, stored.size)
    assert frames.dtype == stored.dtype
    assert len(frames) == len(stored)
    np.testing.assert_array_equal(np.asarray(frames), stored)
    np.testing.assert_array_equal(np.stack(list(frames)), stored)
    for index in INDICES[which]:
        got = frames[index]
        assert got.shape == stored[index].shape, index
        np.testing.assert_array_equal(got, stored[index], err_msg=str(index))


def integers(size: int):
    """Mostly places of an axis, sometimes outside."""
    return st.integers(-size, size - 1) | st.integers(-size - 1, size)


def places(size: int):
    """Integer arrays of up to two axes, of any integer dtype, and lists."""
    axes = st.sampled_from([(), (0,), (1,), (2,), (3,), (1, 2), (2, 1)])
    dtypes = st.sampled_from([np.int64, np.int32, np.int8])

    def fill(shape, dtype):
        n = int(np.prod(shape))
        values = st.lists(integers(size), min_size=n, max_size=n)
        return values.map(lambda v: np.array(v, dtype).reshape(shape))

    arrays = st.tuples(axes, dtypes).flatmap(lambda how: fill(*how))
    return arrays | arrays.map(lambda a: a.tolist() if a.ndim else a) | arrays.map(jnp.asarray)


def slices(size: int):
    end = st.none() | st.integers(-size - 2, size + 2)
    return st.builds(slice, end, end, st.none() | st.sampled_from([-3, -2, -1, 1, 2, 5]))


@st.composite
def indices(draw, shape):
    """A tuple of entries of all kinds, with too many, too few and misfits among them."""
    entries, axis = [], 0
    while axis < len(shape) and draw(st.integers(0, 4)):
        size = shape[axis]
        kind = draw(st.sampled_from("integer slice slice array array mask flag new".split()))
        taken = 1
        if kind == "integer":
            entries.append(draw(integers(size) | integers(size).map(np.int32)))
        elif kind == "slice":
            entries.append(draw(slices(size)))
        elif kind == "array":
            entries.append(draw(places(size)))
        elif kind == "mask":
            taken = draw(st.integers(1, min(2, len(shape) - axis)))
            seed = draw(st.integers(0, 99))
            mask = np.random.default_rng(seed).random(shape[axis : axis + taken]) < 0.3
            entries.append(draw(st.sampled_from([mask, mask.tolist(), mask[1:]])))
        else:
            taken = 0
            entries.append(
                None if kind == "new" else draw(st.sampled_from([True, False, np.array(True)]))
            )
        axis += taken
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), Ellipsis)
    if len(entries) == 1 and draw(st.booleans()):
        return entries[0]
    return tuple(entries)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data(), which=st.sampled_from(KINDS))
def test_any_index_is_read_as_numpy_reads_it(data, which):
    frames, stored = stored_frames()[which]
    index = data.draw(indices(stored.shape))
    try:
        expected = stored[index]
    except IndexError:
        with pytest.raises(IndexError, match=r"^Frames: .*; .* came|^Frames: .* out of bounds"):
            frames[index]
        return
    try:
        got = frames[index]
    except IndexError:  # NumPy does not look at places and masks where the answer is empty
        assert expected.size == 0
        return
    assert got.shape == expected.shape
    np.testing.assert_array_equal(got, expected)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(data=st.data(), which=st.sampled_from(KINDS))
def test_traced_indices(data, which):
    """Integers that are known only when the program runs; out of bounds they are clamped."""
    frames, stored = stored_frames()[which]
    axis = data.draw(st.integers(0, stored.ndim - 1))
    size = stored.shape[axis]
    shape = data.draw(st.sampled_from([(), (2,), (2, 1)]))
    n = int(np.prod(shape))
    flat = data.draw(st.lists(st.integers(-size, size - 1), min_size=n, max_size=n))
    places = np.array(flat, np.int32).reshape(shape)
    before = tuple(data.draw(slices(m) | st.integers(0, m - 1)) for m in stored.shape[:axis])
    got = jax.jit(lambda f, i: f[(*before, i)])(frames, places)
    np.testing.assert_array_equal(got, stored[(*before, places)])


def test_lists_of_traced_indices():
    frames, stored = stored_frames()["batch"]
    got = jax.jit(lambda i: frames[[i, 0], [2, i]])(1)
    np.testing.assert_array_equal(got, stored[[1, 0], [2, 1]])


@pytest.mark.parametrize(
    ("which", "index", "message"),
    [
        ("one", 14, "index 14 is out of bounds for axis 0 with size 14"),
        ("one", [0, -15], "index -15 is out of bounds for axis 0 with size 14"),
        ("one", (0, 2), "index 2 is out of bounds for axis 1 with size 2"),
        ("one", (0, 0, 0, 0), "too many indices for 3 axes; (0, 0, 0, 0) came"),
        ("one", np.ones(13, bool), "a boolean index from axis 0 on must have shape (14,); (13,)"),
        ("one", (..., ...), "an index can have one ellipsis (...); more came"),
        ("one", 1.0, "only integers, slices, booleans, `...`, None and arrays of integers or"),
        ("one", "x", "only integers, slices, booleans, `...`, None and arrays of integers or"),
        ("one", [[0], [0, 1]], "an index must be an array; [[0], [0, 1]] came"),
        ("one", slice(0.5, None), "the ends of a slice must be known integers; slice(0.5"),
        ("batch", ([0, 1], [0, 1, 2]), "indices must broadcast; shapes [(2,), (3,)] came"),
    ],
    ids=str,
)
def test_indices_that_numpy_refuses(which, index, message):
    frames, stored = stored_frames()[which]
    with pytest.raises((IndexError, ValueError, TypeError), match=r"."):
        stored[index]
    with pytest.raises(IndexError, match="^Frames: " + re.escape(message)):
        frames[index]


def test_traced_masks_and_slices_say_what_to_do():
    frames, _ = stored_frames()["one"]
    with pytest.raises(IndexError, match=r"^Frames: a boolean index must be known.*jnp\.where"):
        jax.jit(lambda m: frames[m])(EVEN)
    with pytest.raises(IndexError, match=r"^Frames: the ends of a slice .* start \+ jnp\.arange"):
        jax.jit(lambda t: frames[t:])(3)


def test_only_what_is_asked_for_is_rebuilt():
    """16,000 visits of a hundred recalls at D = 2,304 are 14.7 GB."""
    rng = np.random.default_rng(0)
    x0 = jnp.asarray(spins(0, 100, 2304), jnp.float32)
    visited = jnp.asarray(rng.integers(0, 2304, (100, 16_000)), jnp.uint16)
    frames = am.Frames(x0, visited, jnp.ones((100, 16_000), bool))
    for index in ((3, 500), (slice(None), -1), ([0, 7], slice(None, None, 4000)), (True, 5, 5, 5)):
        program = jax.jit(lambda f, index=index: f[index]).lower(frames).compile()
        plan = program.memory_analysis()
        assert plan is not None
        assert plan.temp_size_in_bytes < 50e6, index


def test_a_bit_that_flips_hundreds_of_times():
    frames = am.Frames(-jnp.ones(1), jnp.zeros(600, int), jnp.ones(600, bool))
    np.testing.assert_array_equal(np.asarray(frames)[:, 0], np.tile([1, -1], 300))


# -- everything else that arrays do -----------------------------------------------------------

USES = {
    "equal": lambda f, x: f == x,
    "unequal": lambda f, x: f != x,
    "equal, turned": lambda f, x: x == f,
    "less": lambda f, x: f < x,
    "sum": lambda f, x: f + x,
    "difference, turned": lambda f, x: x - f,
    "product with a number": lambda f, x: 2 * f,
    "power": lambda f, x: f**2,
    "minus": lambda f, x: -f,
    "absolute": lambda f, x: abs(f),
    "matrix product": lambda f, x: f @ x[0].T,
    "matrix product, turned": lambda f, x: x[0] @ f.swapaxes(-1, -2),
    "with itself": lambda f, x: f == f,
    "mean": lambda f, x: f.mean(0),
    "sums": lambda f, x: f.sum(axis=(-1, -2)),
    "all": lambda f, x: (f == x).all(),
    "any": lambda f, x: f.any(-1),
    "method": lambda f, x: f.reshape(-1, 6).T,
    "cast": lambda f, x: f.astype(np.int8),
    "einops": lambda f, x: einops.rearrange(f, "... h w -> ... (h w)"),
    "einops reduces": lambda f, x: einops.reduce(f, "... h w -> ...", "max"),
}


@pytest.mark.parametrize("use", USES)
def test_frames_are_used_as_an_array(use):
    frames, stored = stored_frames()["one"]
    x = stored[-1:]
    expected = USES[use](stored, x)
    for got in (
        USES[use](frames, x),
        USES[use](frames, jnp.asarray(x)),
        jax.jit(USES[use])(frames, x),
    ):
        assert isinstance(got, jax.Array)
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_functions_take_frames():
    frames, stored = stored_frames()["one"]
    for got, expected in [
        (np.sum(frames), np.sum(stored)),
        (np.mean(frames, axis=0), np.mean(stored, axis=0)),
        (np.add.reduce(frames), stored.sum(0)),
        (np.concatenate([frames, stored]), np.concatenate([stored, stored])),
        (np.isin(frames, [1.0]), np.isin(stored, [1.0])),
        (np.add(frames, 1, out=np.zeros_like(stored)), stored + 1),
        (jnp.sum(frames), np.sum(stored)),  # pyright: ignore[reportArgumentType]
        (jnp.stack([frames[0], frames[1]]), stored[:2]),
        (jnp.where(frames > 0, frames, 0.0), np.where(stored > 0, stored, 0)),  # pyright: ignore[reportArgumentType]
        (jnp.einsum("thw,hw->t", frames, stored[0]), np.einsum("thw,hw->t", stored, stored[0])),
    ]:
        np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_an_assignment_with_an_operator_rebinds_the_name():
    frames, stored = stored_frames()["one"]
    kept = frames
    frames += 1
    np.testing.assert_array_equal(frames, stored + 1)
    np.testing.assert_array_equal(kept, stored)


def test_frames_have_no_truth_and_no_hash():
    frames, stored = stored_frames()["one"]
    with pytest.raises(ValueError, match=r"only a single value is true or false; .*14"):
        bool(frames)
    with pytest.raises(TypeError, match=r"`in` .* \(np\.asarray\(frames\) == x\)"):
        _ = stored[0] in frames
    with pytest.raises(TypeError, match="unhashable"):
        hash(frames)
    with pytest.raises(AttributeError, match=r"no attribute 'sums'\. np\.asarray\(frames\)"):
        frames.sums  # noqa: B018


def test_maps_over_batches_and_over_states():
    frames, stored = stored_frames()["batch"]
    last = jax.vmap(lambda one: one[-1])(frames)
    np.testing.assert_array_equal(last, stored[:, -1])
    np.testing.assert_array_equal(
        jax.vmap(jax.vmap(jnp.sum))(frames[...]), stored.sum(axis=(-1, -2))
    )
    square = am.Frames(jnp.ones(5), jnp.zeros(5, int), jnp.ones(5, bool))  # T = D: JAX is happy
    for use in (jnp.sum, lambda x: x + 1, lambda x: x.shape, lambda x: x[0]):
        with pytest.raises(TypeError, match=r"axis of time; .* Map np\.asarray\(frames\)"):
            jax.vmap(use)(square)  # pyright: ignore[reportArgumentType]


def test_compiled_functions_take_and_return_frames():
    """`==` has an array for an answer; no cache of compiled programs may ask for its truth."""
    frames, stored = stored_frames()["one"]
    calls = []

    @eqx.filter_jit
    def run(frames, n):
        calls.append(n)
        return frames, n, frames == frames[:1]

    answers = [run(frames, "n") for _ in range(2)]
    for again, n, same in answers:
        assert n == "n"
        np.testing.assert_array_equal(again, stored)
        np.testing.assert_array_equal(same, stored == stored[:1])
    assert len(calls) == 1
    again = answers[-1][0]
    assert eqx.tree_equal(again, frames)
    leaves, tree = jax.tree.flatten(frames)
    assert tree == jax.tree.structure(again)
    np.testing.assert_array_equal(jax.tree.unflatten(tree, leaves), stored)
