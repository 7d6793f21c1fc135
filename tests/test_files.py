"""Saving and loading: whole files, the same structure, nothing silently used."""

import contextlib
import functools
import hashlib
import os
import re
import stat
import tempfile
import time
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

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


def test_any_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / "m"
    model = am.ClassicalHopfield(jnp.ones((2, 3)))
    am.save(path, model)
    raw = path.read_bytes()
    head = raw.index(b"\n") + 1
    for bit in (*range(8 * head), *range(8 * head, 8 * len(raw), 7)):
        spoilt = bytearray(raw)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            am.load(path, model)
    rng = np.random.default_rng(0)
    for length in {0, 1, len(raw) - 1, *rng.integers(0, len(raw), 20).tolist()}:
        path.write_bytes(raw[:length])
        with pytest.raises(ValueError, match="damaged"):
            am.load(path, model)
    path.write_bytes(raw)
    assert same(am.load(path, model), model)


def forge(path, rest):
    """A file whose checksum is right, whatever it holds."""
    path.write_bytes(f"amlib-file 1 {hashlib.sha256(rest).hexdigest()}\n".encode() + rest)


def parts(path):
    """The header and the arrays of a file."""
    _, header, body = path.read_bytes().split(b"\n", 2)
    return header, body


def claim(shape, descr="'<f4'"):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


FORGED = {
    "no JSON": lambda header, body: b"{\n" + body,
    "deep JSON": lambda header, body: b"[" * 10**5 + b"]" * 10**5 + b"\n" + body,
    "a long number": lambda header, body: b"9" * 10**5 + b"\n" + body,
    "no object": lambda header, body: b"[1]\n" + body,
    "no kind": lambda header, body: header.replace(b'"kind"', b'"kin"') + b"\n" + body,
    "structure": lambda header, body: b'{"kind": "model", "structure": [], "notes": {}}\n' + body,
    "notes": lambda header, body: header.replace(b"{}", b"[]") + b"\n" + body,
    "nothing": lambda header, body: header + b"\n",
    "a petabyte": lambda header, body: header + b"\n" + claim((2**48,)),
    "more than an address": lambda header, body: header + b"\n" + claim((2**80,)),
    "a negative size": lambda header, body: header + b"\n" + claim((-1, 3)) + bytes(24),
    "a wide dtype": lambda header, body: header + b"\n" + claim((2, 3), "'|V999999999999'"),
    "a deep header": lambda header, body: header + b"\n" + claim((2, 3), "-" * 9000 + "1"),
    "Python objects": lambda header, body: header + b"\n" + claim((2, 3), "'|O'") + bytes(48),
    "another shape": lambda header, body: header + b"\n" + claim((3, 2)) + bytes(24),
    "another dtype": lambda header, body: header + b"\n" + claim((2, 3), "'<i4'") + bytes(24),
    "cut short": lambda header, body: header + b"\n" + body[:-1],
    "too long": lambda header, body: header + b"\n" + body + b"1",
}


@pytest.mark.parametrize("what", FORGED)
def test_forged_files_are_refused(what, tmp_path):
    path = tmp_path / "m"
    model = am.ClassicalHopfield(jnp.ones((2, 3)))
    am.save(path, model)
    header, body = parts(path)
    forge(path, header + b"\n" + body)
    assert same(am.load(path, model), model)  # the forgery as such works
    forge(path, FORGED[what](header, body))
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*(damaged or forged|differ)"):
        am.load(path, model)


@functools.cache
def saved_once():
    model = {"a": jnp.arange(3.0), "b": (np.arange(2), 0.5, True, jr.key(1))}
    with tempfile.TemporaryDirectory() as folder:
        am.save(Path(folder) / "m", model)
        return model, (Path(folder) / "m").read_bytes()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_bytes_raise_anything_else(data):
    """Bytes written over, cut out and put in, with a checksum that is right or not."""
    model, whole = saved_once()
    checked = data.draw(st.booleans(), "with a right checksum")
    rest = whole.split(b"\n", 1)[1] if checked else whole
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m"
        for _ in range(data.draw(st.integers(1, 4), "changes")):
            start = data.draw(st.integers(0, len(rest)))
            end = data.draw(st.integers(start, min(start + 40, len(rest))))
            rest = rest[:start] + data.draw(st.binary(max_size=40)) + rest[end:]
        forge(path, rest) if checked else path.write_bytes(rest)
        with contextlib.suppress(ValueError):
            assert jax.tree.structure(am.load(path, model)) == jax.tree.structure(model)


@pytest.mark.parametrize("number", [2**62, 2**63, -(2**63), 0.1, 1 + 2j, True])
def test_numbers_come_back(tmp_path, number):
    am.save(tmp_path / "m", [number])
    (loaded,) = am.load(tmp_path / "m", [type(number)(1)])
    assert loaded == number
    assert type(loaded) is type(number)


@pytest.mark.parametrize("leaf", [10**30, np.array([1, "a"], object)])
def test_what_would_have_to_be_pickled_is_refused(tmp_path, leaf):
    with pytest.raises(TypeError, match="came, a Python object"):
        am.save(tmp_path / "m", {"a": leaf})
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes")
def test_special_files_are_refused_and_stay(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(ValueError, match=r"save: path must be an ordinary file; .* named pipe"):
            am.save(tmp_path / name, jnp.ones(2))
        with pytest.raises(ValueError, match="load: path must be an ordinary file"):
            am.load(tmp_path / name, jnp.ones(2))
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(ValueError, match="save: path must be an ordinary file; /dev/null is a"):
        am.save("/dev/null", jnp.ones(2))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.skipif(os.name != "posix", reason="symbolic links")
def test_links_are_followed_and_stay(tmp_path):
    for link, target in (("a", "deep/er/m"), ("b", "a")):
        (tmp_path / link).symlink_to(target)
    am.save(tmp_path / "b", jnp.arange(2))  # where they lead to is not there yet
    am.save(tmp_path / "b", jnp.arange(3))
    assert os.readlink(tmp_path / "a") == "deep/er/m"
    assert os.readlink(tmp_path / "b") == "a"
    assert os.listdir(tmp_path / "deep" / "er") == ["m"]
    np.testing.assert_array_equal(am.load(tmp_path / "a", jnp.zeros(3, int)), jnp.arange(3))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(ValueError, match=r"the link .*loop leads back to itself"):
        am.save(tmp_path / "loop", jnp.ones(2))
    assert (tmp_path / "loop").is_symlink()


@pytest.mark.usefixtures("unchecked")
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
        am.save(3, jnp.ones(2))  # pyright: ignore[reportArgumentType]


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
    long_ago = time.time() - 7200
    for part in (old, other):
        os.utime(part, (long_ago, long_ago))
    files.write_atomic(tmp_path / "m", lambda file: file.write(b"new"))
    assert sorted(os.listdir(tmp_path)) == [".m.0b.part", ".x.0a.part", "m"]
