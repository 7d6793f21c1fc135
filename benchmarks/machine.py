"""What every committed benchmark result names: machine, versions, commit."""

import datetime
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np


def describe() -> str:
    """Machine, versions and commit, as Markdown lines. A copy without git's folder is told the
    commit by the variable `COMMIT`."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    devices = ", ".join(sorted({d.device_kind for d in jax.devices()}))
    commit = _git("describe", "--always").stdout.strip() or os.environ.get("COMMIT", "unknown")
    # Other results may have come since; what was measured is the rest.
    changed = _git("diff", "--quiet", "HEAD", "--", ":/", ":(top,exclude)benchmarks/results")
    commit += "-dirty" if changed.returncode == 1 else ""
    return (
        f"- date {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, commit {commit}\n"
        f"- {model}, {os.cpu_count()} cores; JAX devices: {devices}"
        f"{'' if jax.default_backend() == 'gpu' else ' (not measured on GPU)'}\n"
        f"- Python {platform.python_version()}, JAX {jax.__version__}, "
        f"jaxlib {jaxlib.__version__}, NumPy {np.__version__}, {sys.platform}\n"
    )


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )


def seconds(fn: Callable[[], Any], repeats: int = 5) -> float:
    """The median time of `fn()`, its results waited for. Call it once before, to compile."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(fn())
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def first_call(fn: Callable[[], Any]) -> tuple[float, Any]:
    """Time and result of the first call: tracing, compiling and running."""
    start = time.perf_counter()
    out = jax.block_until_ready(fn())
    return time.perf_counter() - start, out


def peak_memory() -> float:
    """The largest resident size of this process so far, in GB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
