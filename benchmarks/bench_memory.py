"""Recall from a million memories: does it converge, and in how much memory?

Run alone, in a fresh process: peak resident memory is that of the whole process.
"""

import json
import resource
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np

import amlib as am


def main(K: int = 1_000_000, D: int = 64, queries: int = 256) -> dict:
    """One batched recall of a modern Hopfield network."""

    # NumPy draws in place; jax.random would take several times the memory of Xi to make it.
    Xi = jnp.asarray(np.random.default_rng(0).standard_normal((K, D), np.float32))
    x0 = jax.block_until_ready(Xi[:queries] + 0.3 * jr.normal(jr.key(1), (queries, D)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = am.ModernHopfield(Xi, 1.0)
    start = time.perf_counter()
    end = jax.block_until_ready(jax.vmap(model.recall)(x0))
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = jnp.mean((jnp.max(jnp.abs(end.x - Xi[:queries]), axis=1) < 0.01).astype(float))
    return {
        "K": K,
        "D": D,
        "queries": queries,
        "converged": float(jnp.mean(end.converged.astype(float))),
        "recalled": float(found),
        "steps": int(end.steps.max()),
        "seconds with compilation": round(seconds, 1),
        "Xi MB": round(Xi.nbytes / 1e6),
        "peak resident MB": round(peak * 1024 / 1e6),
        "peak before recall MB": round(before * 1024 / 1e6),
        "beyond Xi MB": round((peak * 1024 - Xi.nbytes) / 1e6),
    }


if __name__ == "__main__":
    print(json.dumps(main(*map(int, sys.argv[1:])), indent=1))
