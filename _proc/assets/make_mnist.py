"""Make `amlib/data/mnist.npz` again, byte for byte, from the full MNIST.

    python assets/make_mnist.py           # needs the full set: AMLIB_DATA, the cache or a network
    python assets/make_mnist.py --check   # writes nothing; fails if the arrays differ

Of each digit, 150 training and 50 test pictures: of the n pictures of a digit in the file, number
floor((k + 1/2) n / 150) for k = 0, 1, ...; the digits take turns. No random numbers, so the subset
hangs on no generator. The bytes were made with zlib 1.2.13; another may pack them differently.
"""

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import numpy as np

from amlib.data._mnist import SPLITS, _full

TARGET = Path(__file__).parents[1] / "amlib" / "data" / "mnist.npz"
PER_DIGIT = {"train": 150, "test": 50}


def rows(labels: np.ndarray, per_digit: int) -> np.ndarray:
    """Return which pictures the subset takes, digits in turn."""
    chosen = []
    for digit in range(10):
        at = np.flatnonzero(labels == digit)
        chosen.append(at[(2 * np.arange(per_digit) + 1) * len(at) // (2 * per_digit)])
    return np.stack(chosen, axis=1).reshape(-1)


def pack(arrays: dict[str, np.ndarray]) -> bytes:
    """Return the bytes of an .npz, the same on every run: `numpy.savez` stamps the time into it."""
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


def main() -> None:
    """Run the command line described at the top of this file."""
    parser = argparse.ArgumentParser(description="Draw amlib/data/mnist.npz again.")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    options = parser.parse_args()

    arrays = {}
    for split in SPLITS:
        images, labels = _full(split)
        chosen = rows(labels, PER_DIGIT[split])
        arrays |= {f"{split}_images": images[chosen], f"{split}_labels": labels[chosen]}
    if options.check:
        with np.load(TARGET) as kept:
            if any(not np.array_equal(kept[key], array) for key, array in arrays.items()):
                raise SystemExit(f"{TARGET.name}: the arrays differ from what MNIST gives")
        print(f"{TARGET.name}: the same arrays")
        return
    made = pack(arrays)
    TARGET.write_bytes(made)
    print(f"{TARGET.name}: {len(made)} bytes, SHA-256 {hashlib.sha256(made).hexdigest()}")


if __name__ == "__main__":
    sys.exit(main())
