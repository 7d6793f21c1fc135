"""The store of data files: folder first, then cache, then download. Loopback only."""

import gzip
import hashlib
import http.server
import socket
import threading

import pytest

from amlib.data._store import cache_folder, fetch, fetch_unpacked

CONTENT = b"patterns"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def lonely(monkeypatch, tmp_path):
    """No folder of the user's, an empty cache, and no proxy between us and the loopback."""
    monkeypatch.delenv("AMLIB_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache" / project)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def server(tmp_path):
    """Serve `tmp_path/www` on the loopback; yield its address and the list of requests."""
    (tmp_path / "www").mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(tmp_path / "www"))

        def log_message(self, format, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


@pytest.fixture
def dead():
    """An address on the loopback where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return f"http://127.0.0.1:{port}/x.npz"


def test_the_users_folder_comes_first(monkeypatch, tmp_path, dead):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.npz").write_bytes(CONTENT)
    monkeypatch.setenv("AMLIB_DATA", str(tmp_path / "mine"))
    assert fetch("x.npz", dead, SHA256) == tmp_path / "mine" / "x.npz"


def test_a_wrong_file_in_the_users_folder_is_never_used(monkeypatch, tmp_path, server):
    base, asked = server
    (tmp_path / "www" / "x.npz").write_bytes(CONTENT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x.npz").write_bytes(b"other")
    monkeypatch.setenv("AMLIB_DATA", str(tmp_path / "mine"))
    with pytest.raises(ValueError, match=r"mine.x\.npz: its SHA-256 must be .* came"):
        fetch("x.npz", f"{base}/x.npz", SHA256)
    assert not asked


def test_download_once_then_cache(server, tmp_path):
    base, asked = server
    (tmp_path / "www" / "x.npz").write_bytes(CONTENT)
    path = fetch("x.npz", f"{base}/x.npz", SHA256)
    assert path == cache_folder() / "x.npz"
    assert path.read_bytes() == CONTENT
    assert fetch("x.npz", f"{base}/x.npz", SHA256) == path
    assert asked == ["/x.npz"]


def test_a_users_folder_without_the_file_does_not_stop_the_download(monkeypatch, server, tmp_path):
    base, _ = server
    (tmp_path / "www" / "x.npz").write_bytes(CONTENT)
    monkeypatch.setenv("AMLIB_DATA", str(tmp_path / "missing"))
    assert fetch("x.npz", f"{base}/x.npz", SHA256).read_bytes() == CONTENT


def test_a_damaged_cache_is_replaced(server, tmp_path):
    base, _ = server
    (tmp_path / "www" / "x.npz").write_bytes(CONTENT)
    cache_folder().mkdir(parents=True)
    (cache_folder() / "x.npz").write_bytes(b"half a downl")
    assert fetch("x.npz", f"{base}/x.npz", SHA256).read_bytes() == CONTENT


def test_the_next_address_is_tried(server, dead, tmp_path):
    base, asked = server
    (tmp_path / "www" / "x.npz").write_bytes(CONTENT)
    (tmp_path / "www" / "forged.npz").write_bytes(b"forged")
    urls = [dead, f"{base}/gone.npz", f"{base}/forged.npz", f"{base}/x.npz"]
    assert fetch("x.npz", urls, SHA256).read_bytes() == CONTENT
    assert asked[-1] == "/x.npz"


def test_a_forged_download_is_refused_and_not_kept(server, tmp_path):
    base, _ = server
    (tmp_path / "www" / "x.npz").write_bytes(b"forged")
    with pytest.raises(ConnectionError, match="does not match the known hash"):
        fetch("x.npz", f"{base}/x.npz", SHA256)
    assert not (cache_folder() / "x.npz").exists()


def test_without_a_network_the_error_says_what_to_do(dead):
    with pytest.raises(ConnectionError, match="AMLIB_DATA to that folder") as err:
        fetch("x.npz", dead, SHA256)
    for part in ["'x.npz'", SHA256, str(cache_folder()), dead]:
        assert part in str(err.value)


def test_packed_files_are_downloaded_verified_by_content_and_kept(server, dead, tmp_path):
    base, asked = server
    (tmp_path / "www" / "y.gz").write_bytes(gzip.compress(CONTENT, mtime=7))
    (tmp_path / "www" / "forged.gz").write_bytes(gzip.compress(b"forged"))
    (tmp_path / "www" / "half.gz").write_bytes(gzip.compress(CONTENT)[:-3])
    urls = [dead, f"{base}/gone.gz", f"{base}/forged.gz", f"{base}/half.gz", f"{base}/y.gz"]
    assert fetch_unpacked("set/y", urls, SHA256) == CONTENT
    assert asked[-1] == "/y.gz"
    before = len(asked)
    assert fetch_unpacked("set/y", urls, SHA256) == CONTENT
    assert len(asked) == before
    (cache_folder() / "set" / "y.gz").write_bytes(b"half a downl")
    assert fetch_unpacked("set/y", urls[-1], SHA256) == CONTENT
    assert [p.name for p in (cache_folder() / "set").iterdir()] == ["y.gz"]


def test_a_forged_packed_download_is_refused_and_not_kept(server, tmp_path):
    base, _ = server
    (tmp_path / "www" / "y.gz").write_bytes(gzip.compress(b"forged"))
    with pytest.raises(ConnectionError, match="SHA-256 of its unpacked content must be"):
        fetch_unpacked("y", f"{base}/y.gz", SHA256)
    assert not list(cache_folder().iterdir())
