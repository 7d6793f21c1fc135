"""Files that are too big to bundle: found in a folder of yours, in the cache, or downloaded.

This is the one place that knows about networks, checksums and folders.
"""

import hashlib
import os
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
    own = os.environ.get(VARIABLE)
    raise ConnectionError(
        f"data file {name!r}: not found here, and no download succeeded.\n"
        + "\n".join(failures)
        + f"\nWithout a network: get {name} (SHA-256 {sha256}) on another machine, put it in a "
        f"folder, and set the environment variable {VARIABLE} to that folder "
        f"({VARIABLE} is {own!r} now), or put it in {folder}."
    )


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
