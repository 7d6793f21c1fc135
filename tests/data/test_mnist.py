"""MNIST: the bundled subset, the full set from a folder of files, resizing. Loopback only."""

import gzip
import hashlib
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import amlib as am
from amlib.data import _mnist, _store

FULL = Path(os.environ.get("AMLIB_DATA", _store.cache_folder())) / "mnist"
needs_full = pytest.mark.skipif(
    not (FULL / "t10k-images-idx3-ubyte.gz").exists(), reason="the full MNIST is not here"
)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    """A folder of the user's with a test file of 20 pictures, and nothing else anywhere."""
    images = np.arange(20 * 784).reshape(20, 28, 28) % 256
    labels = np.arange(20) % 10
    contents = {
        "t10k-images-idx3-ubyte": struct.pack(">4i", 2051, 20, 28, 28)
        + images.astype(np.uint8).tobytes(),
        "t10k-labels-idx1-ubyte": struct.pack(">2i", 2049, 20) + labels.astype(np.uint8).tobytes(),
    }
    (tmp_path / "mine" / "mnist").mkdir(parents=True)
    for name, content in contents.items():
        (tmp_path / "mine" / "mnist" / f"{name}.gz").write_bytes(gzip.compress(content))
    known = tuple((name, hashlib.sha256(c).hexdigest()) for name, c in contents.items())
    monkeypatch.setattr(_mnist, "_FILES", {"test": known})
    monkeypatch.setattr(_mnist, "_URLS", (dead_address(),))
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("AMLIB_DATA", str(tmp_path / "mine"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "mine" / "mnist"


def dead_address() -> str:
    """An address on the loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}/"


def test_the_bundled_subset_is_stratified_and_distinct():
    train, test = am.data.mnist("train", "bundled"), am.data.mnist("test", subset="bundled")
    assert train.images.shape == (1500, 28, 28)
    assert test.images.shape == (500, 28, 28)
    for data, each in [(train, 150), (test, 50)]:
        assert data.images.dtype == jnp.float32
        assert data.labels.dtype == jnp.int32
        # Digits take turns, so that every prefix is stratified too.
        assert data.labels.reshape(each, 10).tolist() == [list(range(10))] * each
        assert (float(data.images.min()), float(data.images.max())) == (-1.0, 1.0)
    both = np.concatenate([train.images, test.images]).reshape(2000, -1)
    assert len(np.unique(both, axis=0)) == 2000
    # Ink is positive: the corners are background in nearly all pictures.
    assert (both[:, [0, 27, -28, -1]] == -1).mean() > 0.999


def test_the_bundled_file_is_small():
    size = (Path(am.__file__).parent / "data" / "mnist.npz").stat().st_size
    assert size < 400_000


def test_a_nearest_mean_tells_bundled_digits_apart():
    """Labels belong to their pictures: means of the classes alone get about four of five."""
    train, test = am.data.mnist("train", "bundled"), am.data.mnist("test", "bundled")
    x, y = (np.asarray(d.images).reshape(len(d.labels), -1) for d in (train, test))
    means = np.stack([x[np.asarray(train.labels) == c].mean(0) for c in range(10)])
    guess = ((y[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (guess == np.asarray(test.labels)).mean() > 0.75


def test_an_integer_takes_the_first():
    whole = am.data.mnist("test", "bundled")
    some = am.data.mnist("test", np.int64(30))
    assert (some.images == whole.images[:30]).all()
    assert (some.labels == whole.labels[:30]).all()


@pytest.mark.parametrize("size", [8, 16, 32])
def test_resizing_keeps_the_mean_and_the_range(size):
    images = am.data.mnist("test", 40).images
    resized = am.data.mnist("test", 40, size=size).images
    assert resized.shape == (40, size, size)
    assert resized.dtype == jnp.float32
    assert float(jnp.abs(resized).max()) <= 1.0
    ink = np.asarray(images.mean((1, 2))), np.asarray(resized.mean((1, 2)))
    np.testing.assert_allclose(*ink, atol=0.02)


def test_spins_are_black_or_white():
    grey = am.data.mnist("test", 20)
    spins = am.data.mnist("test", 20, spins=True)
    assert spins.images.dtype == jnp.float32
    assert (spins.images == jnp.where(grey.images > 0, 1.0, -1.0)).all()
    assert set(np.unique(am.data.mnist("test", 20, size=8, spins=True).images)) == {-1.0, 1.0}


def test_the_full_set_is_read_from_the_users_folder(folder):
    data = am.data.mnist("test")
    assert data.images.shape == (20, 28, 28)
    assert data.labels.tolist() == [k % 10 for k in range(20)]
    # byte b is b / 127.5 - 1, row after row
    np.testing.assert_allclose(data.images[0].ravel()[:256], np.arange(256) / 127.5 - 1, atol=1e-6)


def test_unpacked_files_do_as_well(folder):
    for packed in folder.glob("*.gz"):
        packed.with_suffix("").write_bytes(gzip.decompress(packed.read_bytes()))
        packed.unlink()
    assert am.data.mnist("test").labels.shape == (20,)


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda raw: raw[:-30], r"t10k-images-idx3-ubyte\.gz: must be a whole gzip file"),
        (lambda raw: b"", r"t10k-images-idx3-ubyte\.gz"),
        (lambda raw: b"not a gzip file", r"t10k-images-idx3-ubyte\.gz: must be a whole gzip file"),
        (
            lambda raw: raw[:200] + bytes([raw[200] ^ 1]) + raw[201:],
            r"t10k-images-idx3-ubyte\.gz.*damaged",
        ),
        (
            lambda raw: gzip.compress(gzip.decompress(raw)[:-1] + b"\0"),
            r"t10k-images-idx3-ubyte\.gz: the SHA-256 of its unpacked content must be",
        ),
    ],
    ids=["truncated", "empty", "foreign", "flipped-bit", "altered"],
)
def test_a_spoilt_file_is_named_and_never_used(folder, spoil, match):
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ValueError, match=match):
        am.data.mnist("test")


def test_without_files_and_network_the_error_offers_the_bundled_subset(folder):
    for path in folder.glob("t10k-labels*"):
        path.unlink()
    with pytest.raises(ConnectionError, match=r"mnist/t10k-labels-idx1-ubyte.*not found") as error:
        am.data.mnist("test")
    assert "subset='bundled'" in str(error.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"split": "valid"}, ValueError, "mnist: split: must be one of 'train', 'test'"),
        ({"subset": "bundle"}, ValueError, "Did you mean 'bundled'"),
        ({"subset": 0}, ValueError, "mnist: subset must be from 1 to 1,500; 0 came"),
        ({"subset": 1501}, ValueError, "full set: subset=None"),
        ({"subset": True}, TypeError, "mnist: subset must be an integer"),
        ({"subset": 2.5}, TypeError, "mnist: subset must be an integer"),
        ({"subset": 5, "size": 2}, ValueError, "mnist: size must be from 4 to 64; 2 came"),
        ({"subset": 5, "size": 28.0}, TypeError, "mnist: size must be an integer"),
        ({"subset": 5, "spins": np.int64(1)}, TypeError, "mnist: spins must be True or False"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match):
    with pytest.raises(error, match=match):
        am.data.mnist(**arguments)


@needs_full
def test_the_bundled_pictures_are_in_the_full_set():
    """The script that drew the subset draws it again."""
    script = Path(am.__file__).parents[1] / "assets" / "make_mnist.py"
    out = subprocess.run(
        [sys.executable, str(script), "--check"], capture_output=True, text=True, check=False
    )
    assert out.returncode == 0, out.stderr
    assert "the same arrays" in out.stdout


@needs_full
def test_the_full_set_has_its_published_counts():
    data = am.data.mnist("test")
    counts = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(np.asarray(data.labels)).tolist() == counts
    assert jax.device_get(data.labels[:5]).tolist() == [7, 2, 1, 0, 4]
