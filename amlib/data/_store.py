"""Files that are too big to bundle: found in a folder of yours, in the cache, or downloaded.

This is the one place that knows about networks, checksums and folders.
"""

import gzip
import hashlib
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

VARIABLE = "AMLIB_DATA"
"""The environment variable that names a folder of files fetched beforehand."""


def fetch(name: str, urls: str | Sequence[str], sha256: str) -> Path:
    """Return the path of a data file whose content is certain.

    Looks in the folder named by the environment variable `AMLIB_DATA`, then in the user's cache
    folder, and downloads into the cache when both lack the file.

    **Arguments:**

    - `name`: file name.
    - `urls`: where it can be downloaded from; several are tried in turn.
    - `sha256`: checksum of the content, 64 hexadecimal digits.

    **Returns:** a path to the file; its checksum has been verified in this call.

    **Raises:** `ValueError` when the copy in `AMLIB_DATA` has another checksum;
    `ConnectionError` when no address yields the file, with where to put it by hand.
    """
    own = os.environ.get(VARIABLE)
    if own:
        path = Path(own).expanduser() / name
        if path.is_file():
            return _verified(path, sha256)
    cached = cache_folder() / name
    if cached.is_file() and _digest(cached) == sha256:
        return cached
    return _download(name, [urls] if isinstance(urls, str) else list(urls), sha256)


def fetch_unpacked(name: str, urls: str | Sequence[str], sha256: str) -> bytes:
    """Return the content of a data file that is passed around packed by gzip.

    Looks for `name` and `name.gz` in the folder named by `AMLIB_DATA`, then in the cache, and
    downloads `name.gz` into the cache. Only the content counts: it may be packed by any gzip.

    **Arguments:**

    - `name`: file name without `.gz`; it may lie in a folder, `"mnist/labels"`.
    - `urls`: where the packed file can be downloaded from; several are tried in turn.
    - `sha256`: checksum of the unpacked content, 64 hexadecimal digits.

    **Returns:** the unpacked content; its checksum has been verified in this call.

    **Raises:** as `fetch`.
    """
    own = os.environ.get(VARIABLE)
    if own:
        for path in (Path(own).expanduser() / name, Path(own).expanduser() / f"{name}.gz"):
            if path.is_file():
                return _unpacked(path, sha256)
    for path in (cache_folder() / name, cache_folder() / f"{name}.gz"):
        if path.is_file():
            try:
                return _unpacked(path, sha256)
            except ValueError:  # half a download: get it again
                continue
    return _download_packed(name, [urls] if isinstance(urls, str) else list(urls), sha256)


def cache_folder() -> Path:
    """Return the user's cache folder for amlib; it need not exist yet."""
    # pooch, and requests behind it, take a tenth of a second to import: only when needed.
    import pooch

    return Path(pooch.os_cache("amlib"))


def _download(name: str, urls: list[str], sha256: str) -> Path:
    """Download into the cache from the first address that yields the right content."""
    import pooch

    folder = cache_folder()
    failures = []
    for url in urls:
        try:
            # Gives up on a server that is silent for 30 s, pooch's default.
            return Path(pooch.retrieve(url, f"sha256:{sha256}", fname=name, path=folder))
        # ValueError is pooch's wrong checksum; requests' errors and a read-only cache folder
        # are OSErrors. Either way another address may do better.
        except (OSError, ValueError) as err:
            failures.append(f"  {url}: {err}")
    raise _nowhere(name, sha256, failures)


def _download_packed(name: str, urls: list[str], sha256: str) -> bytes:
    """Download `name.gz` into the cache from the first address that yields the right content."""
    import pooch

    target = cache_folder() / f"{name}.gz"
    failures = []
    for url in urls:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent) as folder:
                path = Path(folder) / target.name
                pooch.HTTPDownloader(timeout=30)(url, str(path), None)  # type: ignore[arg-type]
                content = _unpacked(path, sha256)
                path.replace(target)  # whole or not at all
                return content
        except (OSError, ValueError) as err:
            failures.append(f"  {url}: {err}")
    raise _nowhere(name, sha256, failures)


def _nowhere(name: str, sha256: str, failures: list[str]) -> ConnectionError:
    """Say that a file is neither here nor to be had, and what to do by hand."""
    own = os.environ.get(VARIABLE)
    return ConnectionError(
        f"data file {name!r}: not found here, and no download succeeded.\n"
        + "\n".join(failures)
        + f"\nWithout a network: get {name} (SHA-256 {sha256}) on another machine, put it in a "
        f"folder, and set the environment variable {VARIABLE} to that folder "
        f"({VARIABLE} is {own!r} now), or put it in {cache_folder()}."
    )


def _unpacked(path: Path, sha256: str) -> bytes:
    """Return the content of a file, unpacked if its name ends in `.gz`; raise if it is another."""
    raw = path.read_bytes()
    if path.suffix == ".gz":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as err:
            raise ValueError(
                f"data file {path}: must be a whole gzip file; {err}. It is truncated or damaged: "
                f"replace it, or remove it from the {VARIABLE} folder."
            ) from err
    digest = hashlib.sha256(raw).hexdigest()
    if digest != sha256:
        raise ValueError(
            f"data file {path}: the SHA-256 of its unpacked content must be {sha256}; {digest} "
            f"came. It is damaged or another version: replace it, or remove it from the "
            f"{VARIABLE} folder."
        )
    return raw


def _verified(path: Path, sha256: str) -> Path:
    """Return `path`, or raise when its content is not what was asked for."""
    digest = _digest(path)
    if digest != sha256:
        raise ValueError(
            f"data file {path}: its SHA-256 must be {sha256}; {digest} came. It is damaged or "
            f"another version: replace it, or remove it from the {VARIABLE} folder."
        )
    return path


def _digest(path: Path) -> str:
    """Return the SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
