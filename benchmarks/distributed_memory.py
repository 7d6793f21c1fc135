"""Distributed memory: the published figures at the size of bundled data, and what T costs.

python benchmarks/distributed_memory.py                  # the figures: minutes
python benchmarks/distributed_memory.py --large 100000   # so many patterns, in a process alone
"""

import json
import math
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from machine import describe, peak_memory
from theory_figures import (
    COLORS,
    RESULTS,
    exponent,
    main,
    mean_and_error,
    plus_minus,
    powers,
    table,
)

import amlib as am
from amlib.plots.pictures import FAINT, new_figure, place, style

LARGE = RESULTS / "distributed_memory_large.json"


def pictures(K, seed=0):
    """Digits of norm below 1: their pixels are in [0, 1/sqrt(D)], as published."""
    digits = am.data.mnist().test.images
    chosen = jr.choice(jr.key(seed), len(digits), (K,), replace=False)
    return digits[chosen].reshape(K, -1) / 28


def bits(key, K, D):
    """Random bits in {0, 1/sqrt(D)}, as published."""
    return jr.bernoulli(key, 0.5, (K, D)) / math.sqrt(D)


def large(K, D=784, Y=200_000):
    """So many patterns into one vector: seconds, and the most memory of the whole process."""
    start = time.perf_counter()
    Xi = np.random.default_rng(0).random((K, D), np.float32) / np.float32(math.sqrt(D))
    memory = am.DistributedMemory.store(Xi, 60.0, Y=Y, key=jr.key(0))
    jax.block_until_ready(memory.T)
    stored, peak = time.perf_counter() - start, peak_memory()
    found = {
        "K": K, "D": D, "Y": Y, "seconds": stored, "peak_GB": peak,
        "rate": 2 * K * D * Y / stored / 1e9, "T_MB": memory.T.nbytes / 1e6,
        "patterns_MB": Xi.nbytes / 1e6,
    }  # fmt: skip
    for Q in (1, 100):
        update = jax.jit(jax.vmap(memory.update))
        jax.block_until_ready(update(Xi[:Q]))
        start = time.perf_counter()
        jax.block_until_ready(update(Xi[:Q]))
        found[f"gradient_of_{Q}"] = time.perf_counter() - start
    found["peak_recall_GB"] = peak_memory()
    found["machine"] = describe().strip().splitlines()
    LARGE.write_text(json.dumps(found) + "\n")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--large"]:
        large(int(sys.argv[2]))
