"""Make `amlib/data/icons.npz` again, byte for byte, from the npm package of game-icons.net.

    python assets/make_icons.py                     # fetches the package with `npm pack`
    python assets/make_icons.py --source icons.json # uses a copy that is already here
    python assets/make_icons.py --check             # writes nothing; fails if the file differs
    python assets/make_icons.py --sheet sheet.png   # also draws a contact sheet to look at

Needs `numpy`, `pillow` and `resvg-py==0.5.0` from PyPI, and `npm` unless `--source` is given.
The bytes were made with zlib 1.2.13: another zlib may pack the same arrays differently, and
`--check` then compares the arrays and says so.
"""

import argparse
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

PACKAGE = "@iconify-json/game-icons"
VERSION = "1.2.4"
SOURCE_SHA256 = "b948029964d549d0ae3b17afead9c9d6f019ddcbdc34f52cb915dc460575c4cd"
TARGET = Path(__file__).parents[1] / "amlib" / "data" / "icons.npz"
COUNT = 4134
SIZE = 48
OVERSAMPLE = 4
THRESHOLD = 0.45
"""A pixel is drawn where at least this fraction of it is covered. Below one half on purpose:
lines one pixel wide that fall between two pixels survive, and the closest pictures (a NOR gate
is an OR gate with a small circle) stay at least 12 bits apart instead of 8 to 10."""


def fetch(folder: Path) -> Path:
    """Download the pinned package by its name with `npm pack`, and return its icons.json."""
    command = ["npm", "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")
    target = folder / "icons.json"
    with tarfile.open(archive) as tar:
        member = tar.extractfile("package/icons.json")
        if member is None:
            raise SystemExit(f"{archive.name} holds no package/icons.json")
        target.write_bytes(member.read())
    return target


def read_source(path: Path) -> dict[str, str]:
    """Return name -> SVG body, sorted by name, after checking the file's SHA-256."""
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    if digest != SOURCE_SHA256:
        raise SystemExit(
            f"{path}: SHA-256 must be {SOURCE_SHA256}; {digest} came. "
            f"It is not icons.json of {PACKAGE} {VERSION}: get that version with npm pack."
        )
    source = json.loads(raw)
    if (source["width"], source["height"]) != (512, 512) or len(source["icons"]) != COUNT:
        raise SystemExit(f"{path}: must hold {COUNT} icons of 512x512.")
    # The one icon marked hidden (female-vampire) is a picture like any other; the three aliases
    # are second names of pictures that are here, so they stay out.
    return {name: source["icons"][name]["body"] for name in sorted(source["icons"])}


def render(body: str) -> np.ndarray:
    """Draw one SVG body; return booleans `(48, 48)`, true where the icon is drawn."""
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 512 512">{body}</svg>'
    side = SIZE * OVERSAMPLE
    png = resvg_py.svg_to_bytes(svg_string=svg, width=side, height=side, skip_system_fonts=True)
    alpha = np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGBA"))[..., 3]
    blocks = alpha.reshape(SIZE, OVERSAMPLE, SIZE, OVERSAMPLE).astype(np.int64)
    # In integers, so that the file does not hang on a rounding mode.
    return blocks.sum((1, 3)) * 100 >= round(THRESHOLD * 100) * 255 * OVERSAMPLE**2


def pack(images: np.ndarray, names: list[str]) -> bytes:
    """Return the bytes of an .npz, the same on every run.

    `numpy.savez` stamps the time of day into the archive, so the zip is written here, with one
    fixed date. Names are fixed-width ASCII: reading them never needs `allow_pickle`.
    """
    arrays = {
        "images": np.packbits(images.reshape(len(images), -1), axis=1),
        "names": np.array([name.encode("ascii") for name in names]),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for key, array in arrays.items():
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3  # "unix" on every system
            entry.external_attr = 0o644 << 16
            member = io.BytesIO()
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            archive.writestr(entry, member.getvalue(), compresslevel=9)
    return buffer.getvalue()


def compare(made: bytes, target: Path) -> None:
    """Exit with an error unless `target` holds what was made now."""
    kept = target.read_bytes()
    if kept == made:
        print(f"{target.name}: the same, byte for byte")
        return
    with np.load(io.BytesIO(kept)) as old, np.load(io.BytesIO(made)) as new:
        if any(not np.array_equal(old[key], new[key]) for key in new.files):
            raise SystemExit(f"{target.name}: the arrays differ from what {PACKAGE} renders to")
    print(f"{target.name}: the same arrays, packed into other bytes (another zlib)")


def draw_sheet(images: np.ndarray, path: Path, columns: int = 64) -> None:
    """Write all pictures on one grey page."""
    cell = SIZE + 2
    rows = -(-len(images) // columns)
    page = np.full((rows * cell, columns * cell), 96, np.uint8)
    for k, image in enumerate(images):
        top, left = cell * (k // columns), cell * (k % columns)
        page[top : top + SIZE, left : left + SIZE] = 255 * image
    Image.fromarray(page).save(path)


def main() -> None:
    """Run the command line described at the top of this file."""
    parser = argparse.ArgumentParser(description="Render amlib/data/icons.npz again.")
    parser.add_argument("--source", type=Path, help="icons.json; without it, npm pack fetches it")
    parser.add_argument("--output", type=Path, default=TARGET)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet (PNG) here")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        bodies = read_source(options.source or fetch(Path(folder)))
    images = np.stack([render(body) for body in bodies.values()])
    made = pack(images, list(bodies))
    if options.sheet:
        draw_sheet(images, options.sheet)
    if options.check:
        compare(made, options.output)
        return
    options.output.write_bytes(made)
    digest = hashlib.sha256(made).hexdigest()
    print(f"{options.output.name}: {len(images)} icons, {len(made)} bytes, SHA-256 {digest}")


if __name__ == "__main__":
    sys.exit(main())
