"""Saving and loading: whole files, the same structure, nothing silently used."""

import os
import re
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib import _files as files


class Mixed(eqx.Module):
    """Leaves of all kinds."""

    weights: jax.Array
    half: jax.Array
    counts: np.ndarray
    key: jax.Array
    rate: float
    steps: int
    on: bool
    layers: dict
    act: object
    size: int = eqx.field(static=True)


def mixed(seed, *, size=3, act=jnp.tanh):
    keys = jr.split(jr.key(seed), 2)
    return Mixed(
        jr.normal(keys[0], (2, size)),
        jr.normal(keys[1], (4,), jnp.bfloat16),
        np.arange(seed, seed + 5),
        jr.key(seed, impl="rbg"),
        seed + 0.25,
        seed,
        bool(seed % 2),
        {"a": [jnp.full((1,), seed)], "b": (jr.PRNGKey(seed), None)},
        act,
        size,
    )


def same(a, b):
    def raw(x):
        is_key = eqx.is_array(x) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jr.key_data(x) if is_key else x

    return bool(eqx.tree_equal(jax.tree.map(raw, a), jax.tree.map(raw, b)))


def test_a_model_comes_back_bit_for_bit(tmp_path):
    model = mixed(1)
    am.save(tmp_path / "new" / "model", model)
    loaded = am.load(str(tmp_path / "new" / "model"), mixed(2))
    assert same(loaded, model)
    assert not same(mixed(2), model)
    assert loaded.half.dtype == jnp.bfloat16
    assert jr.bits(loaded.key) == jr.bits(model.key)
    assert os.listdir(tmp_path / "new") == ["model"]


def test_like_need_not_be_filled(tmp_path):
    model = am.PolynomialDenseAM(jnp.ones((3, 5)), n=4)
    am.save(tmp_path / "m", model)
    like = eqx.filter_eval_shape(lambda: am.PolynomialDenseAM(jnp.zeros((3, 5)), n=4))
    assert same(am.load(tmp_path / "m", like), model)


@pytest.mark.parametrize(
    ("saved", "like", "lines"),
    [
        (
            lambda: am.PolynomialDenseAM(jnp.ones((3, 5)), n=4),
            lambda: am.PolynomialDenseAM(jnp.ones((2, 5)), n=3),
            [
                r"\.Xi: float32\[3, 5\] in the file, float32\[2, 5\] in `like`",
                r"\.n: 4 in the file, 3 in",
            ],
        ),
        (
            lambda: am.ClassicalHopfield(jnp.ones((3, 5))),
            lambda: am.ExponentialDenseAM(jnp.ones((3, 5))),
            [
                r"\(class\): ClassicalHopfield in the file, ExponentialDenseAM",
                r"\.beta: not in the file, float32\[\]",
            ],
        ),
        (
            lambda: mixed(1),
            lambda: mixed(1, act=jnp.sin),
            [r"\.act: tanh in the file, sin in `like`"],
        ),
        (
            lambda: {"a": jnp.ones(2, jnp.float32)},
            lambda: {"a": jnp.ones(2, jnp.float16)},
            [r"\['a'\]: float32\[2\] in the file, float16\[2\]"],
        ),
        (
            lambda: [jnp.ones(1)] * 12,
            lambda: [jnp.ones(2)] * 12,
            ["and 4 more"],
        ),
    ],
    ids=["sizes", "class", "function", "dtype", "many"],
)
def test_another_structure_is_refused_by_name(tmp_path, saved, like, lines):
    am.save(tmp_path / "m", saved())
    for line in lines:
        with pytest.raises(ValueError, match=line):
            am.load(tmp_path / "m", like())


def test_any_damage_is_noticed(tmp_path):
    path = tmp_path / "m"
    model = am.ClassicalHopfield(jnp.ones((2, 3)))
    am.save(path, model)
    raw = path.read_bytes()
    rng = np.random.default_rng(0)
    for at in {0, len(raw) - 1, *rng.integers(0, len(raw), 40).tolist()}:
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 4]) + raw[at + 1 :])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            am.load(path, model)
    for length in {0, 1, len(raw) - 1, *rng.integers(0, len(raw), 20).tolist()}:
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match="damaged"):
            am.load(path, model)
    path.write_bytes(raw)
    assert same(am.load(path, model), model)


def test_versions_and_kinds_are_checked(tmp_path):
    path = tmp_path / "m"
    am.save(path, jnp.ones(2))
    raw = path.read_bytes()
    path.write_bytes(raw.replace(b"amlib-file 1 ", b"amlib-file 2 ", 1))
    with pytest.raises(ValueError, match=r"version 2 came.*update amlib"):
        am.load(path, jnp.ones(2))
    files.write(path, jnp.ones(2), "checkpoint", {})
    with pytest.raises(ValueError, match="must hold a model; it holds a checkpoint"):
        am.load(path, jnp.ones(2))
    with pytest.raises(FileNotFoundError, match="absent"):
        am.load(tmp_path / "absent", jnp.ones(2))
    with pytest.raises(IsADirectoryError, match="save: path must be a file"):
        am.save(tmp_path, jnp.ones(2))
    with pytest.raises(TypeError, match="save: path must be a file name; int came"):
        am.save(3, jnp.ones(2))


def test_writing_is_all_or_nothing(tmp_path):
    path = tmp_path / "m"
    files.write_atomic(path, lambda file: file.write(b"old"))

    def fails(file):
        file.write(b"half")
        raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        files.write_atomic(path, fails)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["m"]


def test_what_killed_writers_left_is_swept_but_not_what_is_being_written(tmp_path):
    old, fresh, other = (tmp_path / f".{n}.part" for n in ("m.0a", "m.0b", "x.0a"))
    for part in (old, fresh, other):
        part.write_bytes(b"half")
    for part in (old, other):
        os.utime(part, (time.time() - 7200,) * 2)
    files.write_atomic(tmp_path / "m", lambda file: file.write(b"new"))
    assert sorted(os.listdir(tmp_path)) == [".m.0b.part", ".x.0a.part", "m"]
