"""What the figures of theory over simulation share: their options, their numbers, their page.

Each `theory_*.py` measures with the library, and writes into `results/` its numbers (`.json`), its
picture (`.png`) and a page that says what is seen (`.md`). `--redraw` makes picture and page anew
from the numbers, `--quick` tries everything out on tiny systems, `--out` writes elsewhere.
"""

import argparse
import itertools
import json
import math
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from captions import save
from jaxtyping import Array
from machine import describe, peak_memory
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatterMathtext, NullLocator

import amlib as am
from amlib.plots.pictures import BLUE, GREEN, ORANGE, PURPLE

RESULTS = Path(__file__).parent / "results"
COLORS = (PURPLE, GREEN, ORANGE, BLUE)


def main(
    name: str,
    run: Callable[[bool], dict[str, Any]],
    draw: Callable[[dict[str, Any]], Figure],
    page: Callable[[dict[str, Any]], str],
    script: str | None = None,
) -> None:
    """Measure, or read what was measured; then draw, and write the page.

    **Arguments:**

    - `name`: of the files.
    - `run`: from "is it a trial?" to the numbers, as JSON holds them.
    - `draw`: from the numbers to the picture.
    - `page`: from the numbers to the page's text, its first line the title.
    - `script`: the name of the script, where it is not that of the files.
    """
    parser = argparse.ArgumentParser(description=page.__doc__)
    parser.add_argument("--redraw", action="store_true", help="from the numbers that are there")
    parser.add_argument("--quick", action="store_true", help="tiny systems; not into results/")
    parser.add_argument("--out", type=Path, help="the folder to write to")
    args = parser.parse_args()
    out = args.out or (Path(tempfile.mkdtemp()) if args.quick else RESULTS)
    numbers = out / f"{name}.json"
    if args.redraw:
        data = json.loads(numbers.read_text())
    else:
        start, machine = time.perf_counter(), describe().strip().splitlines()
        data = run(args.quick)
        data["seconds"] = round(time.perf_counter() - start)
        data["peak_GB"] = round(peak_memory(), 2)
        data["machine"] = machine
        data = json.loads(json.dumps(data, default=float))
        numbers.write_text(json.dumps(data) + "\n")
    save(draw(data), out / f"{name}.png")
    title, text = page(data).split("\n", 1)
    machine = "\n".join(data["machine"])
    (out / f"{name}.md").write_text(
        f"# {title}\n\n{machine}\n- {data['seconds']} seconds, at most {data['peak_GB']} GB; "
        f"`python benchmarks/{script or name}.py`\n\n![{title}]({name}.png)\n\n{text.strip()}\n"
    )
    print(f"{out / name}.md: {data['seconds']} s")


def spins(key: Array, K: int, N: int, bias: float = 0.0) -> Array:
    """Random patterns of -1/+1 with this mean."""
    return jnp.where(jr.uniform(key, (K, N)) < (1 + bias) / 2, 1.0, -1.0)


def recalled(memory: Any, x0: Array, key: Array, method: Any, max_steps: int) -> Array:
    """Where a batch of recalls ends."""
    one = lambda x, k: memory.recall(x, method=method, key=k, max_steps=max_steps).x
    return jax.vmap(one)(x0, jr.split(key, len(x0)))


@eqx.filter_jit
def unstable(memory: am.BinaryAM, x: Array, batch: int = 16) -> Array:
    """Which flips lower the energy of each of these states."""
    falls = lambda x: memory.flip_energies(x) < memory.energy(x)
    return jax.lax.map(falls, x, batch_size=batch)


def powers(axis: Any) -> None:
    """Powers of ten on a logarithmic axis that `style` made quiet."""
    axis.set_major_formatter(LogFormatterMathtext())
    axis.set_minor_locator(NullLocator())


def mean_and_error(values: Any) -> tuple[float, float]:
    """The mean over independent draws (the first axis), and its standard error."""
    values = np.asarray(values, float)
    if len(values) < 2:
        return (float(values[0]) if len(values) else math.nan), math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float:
    """Where a falling curve first passes a level, between points; NaN where it does not."""
    for (a, fa), (b, fb) in itertools.pairwise(zip(x, y, strict=True)):
        if fa >= level > fb:
            return a + (fa - level) / (fa - fb) * (b - a)
    return math.nan


def line(x: Sequence[float], y: Sequence[float], errors: Sequence[float]) -> np.ndarray:
    """Slope and offset of a straight line through points with errors: values, standard errors."""
    x, y, errors = (np.asarray(a, float) for a in (x, y, errors))
    known = np.isfinite(y) & (errors > 0)
    if known.sum() < 2:
        return np.full((2, 2), math.nan)
    fit, cov = np.polyfit(x[known], y[known], 1, w=1 / errors[known], cov="unscaled")
    return np.asarray([fit, np.sqrt(np.diag(cov))])


def exponent(x: Sequence[float], y: Sequence[float], errors: Sequence[float]) -> np.ndarray:
    """The exponent of a power law through points with errors, and its standard error."""
    return line(np.log(x), np.log(y), np.asarray(errors) / np.asarray(y))[:, 0]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def plus_minus(value: float, error: float, digits: int) -> str:
    """A value and its standard error."""
    return f"{value:.{digits}f} ± {error:.{digits}f}"
