"""A retrieval step over a million patterns against the nearest pattern by FAISS, in one process.

FAISS finds for each query the pattern of the largest inner product (`IndexFlatIP`, exact, top-1).
A step computes as many products, the softmax over all of them and the average of all patterns by
it. On the same threads, in turn; `pip install amlib[peers]`. FAISS runs as it is installed, and
with its products by BLAS in larger blocks, which is the fastest of what was tried. The OpenBLAS of
its wheel does not know every processor (it then takes code of 2004, "Prescott"): say which it is.

    python benchmarks/bench_faiss.py                     # a million patterns, 1,024 queries
    python benchmarks/bench_faiss.py --patterns 100000   # fewer
    OPENBLAS_CORETYPE=SkylakeX python benchmarks/bench_faiss.py   # of a processor with AVX-512
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import jax
import jax.numpy as jnp
import machine
import numpy as np

import amlib as am

D, BETA = 64, 32.0
BY_BLAS = {"distance_compute_blas_threshold": 20, "distance_compute_blas_database_bs": 2**14}


def in_turn(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, one after the other, so that all share what else the machine does."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for k in range(repeats + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            if k:  # the first compiles
                times[name].append(time.perf_counter() - start)
            time.sleep(0.3)  # threads of one that still spin would slow the next
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description="A retrieval step against FAISS.")
    parser.add_argument("--patterns", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--save", type=Path, help="write the result to this file, as JSON")
    args = parser.parse_args()
    K, Q, threads = args.patterns, args.queries, os.cpu_count() or 1
    load = [round(os.getloadavg()[0], 1)]
    rng = np.random.default_rng(0)
    Xi = rng.standard_normal((K, D), np.float32)
    Xi /= np.linalg.norm(Xi, axis=1, keepdims=True)  # the nearest is that of the largest product
    q = Xi[:Q] + 0.05 * rng.standard_normal((Q, D)).astype(np.float32)
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(D)
    index.add(Xi)
    model, x = am.ModernHopfield(Xi, BETA), jnp.asarray(q)
    step = jax.jit(lambda m, x: jax.vmap(m.retrieve)(x))

    def by_blas() -> None:
        before = [getattr(faiss.cvar, name) for name in BY_BLAS]
        for name, value in BY_BLAS.items():
            setattr(faiss.cvar, name, value)
        index.search(q, 1)
        for name, value in zip(BY_BLAS, before, strict=True):
            setattr(faiss.cvar, name, value)

    runs = {
        "FAISS top-1": lambda: index.search(q, 1),
        "FAISS top-1, by BLAS in larger blocks": by_blas,
        "a retrieval step": lambda: step(model, x).block_until_ready(),
    }
    times = in_turn(runs, args.repeats)
    _, found = index.search(q, 1)
    nearest = np.asarray(jnp.argmax(step(model, x) @ model.Xi[:Q].T, axis=1))
    load.append(round(os.getloadavg()[0], 1))
    own = times["a retrieval step"]
    result: dict[str, object] = {
        "machine": machine.describe().replace("- ", "").splitlines(),
        "load, before and after": load,
        "faiss": f"{faiss.__version__}, IndexFlatIP, {faiss.omp_get_max_threads()} threads, "
        f"OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', '')}",
        "patterns": f"{K:,} x {D}, float32",
        "queries": Q,
        "GFLOP of one product with all patterns": round(2e-9 * K * D * Q, 1),
    }
    for name, theirs in times.items():
        result[f"{name}, s"] = round(statistics.median(theirs), 3)
        if theirs is not own:
            ratios = [b / a for a, b in zip(theirs, own, strict=True)]
            result[f"a step / {name}"] = round(statistics.median(ratios), 2)
    result["queries whose pattern FAISS finds"] = int((found[:, 0] == np.arange(Q)).sum())
    result["queries that step towards it"] = int((nearest == np.arange(Q)).sum())
    text = json.dumps(result, indent=1)
    print(text)
    if args.save:
        args.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
