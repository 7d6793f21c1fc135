"""A Sphinx extension: the live page, `nbs/demo/`, with the pictures that amlib bundles."""

import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
ICONS = HERE.parents[1] / "amlib" / "data" / "icons.npz"


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def pictures() -> bytes:
    """The icons as the page reads them: a zlib stream of a length, the names, one bit per pixel."""
    with np.load(ICONS, allow_pickle=False) as bundle:
        names = b"\n".join(bundle["names"].tolist())
        bits = bundle["images"].tobytes()
    return zlib.compress(struct.pack("<I", len(names)) + names + bits, 9)


def _write(app: Any, exception: Exception | None) -> None:
    page = Path(app.srcdir, "demo")
    if exception is None and page.is_dir():
        made = Path(app.outdir, "demo")
        shutil.copytree(page, made, dirs_exist_ok=True)
        (made / "icons.bin").write_bytes(pictures())
