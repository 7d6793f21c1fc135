"""A memory of 5.1 GB in a process of much less: passes over patterns on disk, and their rates.

Every pass reads the file and computes with it. So it can be no faster than the disk reads, nor than
a block that is in memory is computed with; the result says how near it comes to the lesser of the
two. The disk is measured as the passes find it: the system is told to forget the file before each
(`posix_fadvise`), and again without, when the file is where the system keeps it. Run alone, in a
fresh process: peak resident memory is that of the whole process.

    python benchmarks/bench_disk.py                          # 20,000,000 patterns, 256 queries
    python benchmarks/bench_disk.py --patterns 1000000       # fewer
    python benchmarks/bench_disk.py --folder /mnt/disk       # on another disk
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import machine
import numpy as np

import amlib as am
from amlib.continuous import on_disk, parts

D, BETA, STEPS = 64, 8.0, 3
ROWS = 2**17  # 32 MB


def write(path: Path, K: int) -> None:
    """Random patterns of norms around one, written in parts."""
    rng = np.random.default_rng(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (K, D)}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, K, ROWS):
            part = rng.standard_normal((min(ROWS, K - start), D), np.float32)
            part /= D**0.5
            file.write(part.data)
        file.flush()
        os.fsync(file.fileno())


def forget(path: Path) -> None:
    """Tell the system that nobody needs this file in memory."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(path: Path) -> None:
    """Read the file from end to end, and do nothing with it."""
    room = np.empty(on_disk.BLOCK_BYTES, np.uint8).data
    with open(path, "rb", buffering=0) as file:
        while file.readinto(room):
            pass


def timed(fn: Callable[[], object]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(fn())
    return time.perf_counter() - start


def computed(memory: am.OnDisk, block: np.ndarray, x: jax.Array) -> float:
    """Bytes a second of one block that stays in memory, computed with again and again."""
    own, beta = memory._memory, memory._beta
    sums, there = parts.zero_sums(own, x, "gradient"), (jax.device_put(block),)
    once = lambda: parts.fold(own, beta, sums, there, x, "gradient")
    jax.block_until_ready(once())
    return block.nbytes / machine.seconds(once, 25)


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall from patterns on disk.")
    parser.add_argument("--patterns", type=int, default=20_000_000)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument(
        "--folder", type=Path, help="where the file is made for as long as it takes"
    )
    parser.add_argument("--save", type=Path, help="write the result to this file, as JSON")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        need, free = args.patterns * D * 4, shutil.disk_usage(folder).free
        if free < 1.2 * need:
            raise SystemExit(f"{need / 1e9:.1f} GB are needed; {free / 1e9:.1f} are free")
        result = measured(folder / "Xi.npy", args.patterns, args.queries)
    finally:
        shutil.rmtree(folder)
    text = json.dumps(result, indent=1)
    print(text)
    if args.save:
        args.save.write_text(text + "\n")


def measured(path: Path, K: int, Q: int) -> dict[str, object]:
    load = [round(os.getloadavg()[0], 1)]
    write(path, K)
    Xi = np.load(path, mmap_mode="r")
    with open(path, "rb") as file:
        file.seek(Xi.offset)
        block = np.fromfile(file, np.float32, ROWS * D).reshape(-1, D)
    noise = np.random.default_rng(1).standard_normal((Q, D)).astype(np.float32) / D**0.5
    x = jnp.asarray(block[:Q] + 0.3 * noise)
    memory = am.OnDisk(am.ModernHopfield, Xi, beta=BETA)
    few = 3 * ROWS + K % ROWS  # blocks of the same sizes
    some = am.OnDisk(am.ModernHopfield, Xi[:few], beta=BETA)
    some.recall(x, max_steps=1, progress=False)  # compiles
    nbytes = K * D * 4
    reads, computes, passes = [], [], []  # in turn, so that all share what else the machine does
    for _ in range(STEPS):
        computes.append(computed(memory, block, x))
        forget(path)
        reads.append(nbytes / timed(lambda: read(path)))
        forget(path)
        passes.append(timed(lambda: memory.retrieve(x)))
    kept = nbytes / timed(lambda: read(path))
    computes.append(computed(memory, block, x))
    recall = timed(lambda: memory.recall(x, max_steps=STEPS).x)
    peak = machine.peak_memory()
    disk, computing, rate = *map(np.median, (reads, computes)), nbytes / np.median(passes)
    again = nbytes * (STEPS + 1) / recall

    # Equality on a slice that fits; after the peak was taken.
    y, whole = x, am.ModernHopfield(np.array(Xi[:few]), BETA)
    for _ in range(STEPS):
        y = jax.vmap(whole.retrieve)(y)
    end = some.recall(x, max_steps=STEPS, progress=False)
    inside = jax.vmap(lambda x: whole.recall(x, max_steps=STEPS))(x)
    gaps = [float(jnp.max(jnp.abs(end.x - z))) for z in (y, inside.x)]
    gaps.append(float(jnp.max(jnp.abs(end.energy - inside.energy))))
    load.append(round(os.getloadavg()[0], 1))
    percent = lambda rate, disk: round(float(100 * rate / min(disk, computing)))
    return {
        "machine": machine.describe().replace("- ", "").splitlines(),
        "load, before and after": load,
        "patterns": f"{K:,} x {D}, float32, {nbytes / 1e9:.2f} GB",
        "queries": Q,
        "disk reads, GB/s": round(float(disk) / 1e9, 2),
        "the system's own copy is read, GB/s": round(kept / 1e9, 2),
        "a block in memory is computed with, GB/s": round(float(computing) / 1e9, 2),
        "a pass, from disk, s": [round(s, 2) for s in passes],
        "a pass, from disk, GB/s": round(float(rate) / 1e9, 2),
        "percent of the lesser rate": percent(rate, disk),
        f"recall of {STEPS} steps ({STEPS + 1} passes), not forgotten, s": round(recall, 2),
        "its passes, GB/s": round(again / 1e9, 2),
        "its percent of the lesser rate": percent(again, kept),
        "peak resident, GB": round(peak, 2),
        "largest difference on a slice: steps, recall, energy": gaps,
    }


if __name__ == "__main__":
    main()
