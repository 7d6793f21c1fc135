"""How fast is a retrieval? Ratios of two programs in one process, alternating, by medians.

```
python benchmarks/bench_retrieval.py            # all; PyTorch only where it is installed
python benchmarks/bench_retrieval.py 4096 512   # smaller K and D
```
"""

import json
import os
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from machine import describe

import amlib as am


class UserHopfield(am.ContinuousAM):
    """The energy alone, as a user writes it."""

    def energy(self, x):
        return 0.5 * jnp.sum(x**2) - jax.nn.logsumexp(self.Xi @ x)


def ratio(ours, theirs, repeats: int) -> dict:
    """Median seconds of both, run in turn, and the median of the ratios theirs / ours."""
    times = []
    for run in range(repeats + 1):
        pair = []
        for f in (ours, theirs):
            start = time.perf_counter()
            f()
            pair.append(time.perf_counter() - start)
        if run:  # the first run compiles
            times.append(pair)
    speed = statistics.median(b / a for a, b in times)
    a, b = (statistics.median(t) for t in zip(*times, strict=True))
    return {
        "ours s": round(a, 4),
        "theirs s": round(b, 4),
        "speed relative to theirs": round(speed, 3),
    }


def wait(f):
    return lambda: jax.block_until_ready(f())


def one_step(K: int, D: int, queries: int, repeats: int) -> dict:
    """One retrieval step against bare softmax attention, in JAX and in PyTorch."""
    Xi = jnp.asarray(np.random.default_rng(0).standard_normal((K, D), np.float32)) / D**0.5
    Q = Xi[:queries] + 0.1 * jr.normal(jr.key(1), (queries, D)) / D**0.5
    beta = jnp.asarray(8.0)
    model = am.ModernHopfield(Xi, beta)
    ours = jax.jit(lambda m, q: jax.vmap(m.retrieve)(q))
    bare = jax.jit(lambda X, q, b: jax.nn.softmax(b * q @ X.T) @ X)
    gap = jnp.max(jnp.abs(ours(model, Q) - bare(Xi, Q, beta)))
    rows = {"largest difference": float(gap)}
    rows["against softmax(beta*Q@X.T)@X in JAX"] = ratio(
        wait(lambda: ours(model, Q)), wait(lambda: bare(Xi, Q, beta)), repeats
    )
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed: its row is left out.", file=sys.stderr)
        return rows
    X, q = torch.from_numpy(np.array(Xi)), torch.from_numpy(np.array(Q))
    with torch.inference_mode():
        rows[f"against PyTorch {torch.__version__}"] = ratio(
            wait(lambda: ours(model, Q)),
            lambda: torch.softmax(8.0 * q @ X.T, -1) @ X,
            repeats,
        )
    return rows


def to_convergence(K: int, D: int, queries: int, repeats: int) -> dict:
    """Recall to convergence against closed-form steps, as many as it takes.

    Unrolled: one jitted program of that many steps, which knows their number beforehand and tests
    nothing. Stepwise: a jitted step in a Python loop, with the same stop rule as recall.
    """
    Xi = jnp.asarray(np.random.default_rng(0).standard_normal((K, D), np.float32)) / D**0.5
    Q = Xi[:queries] + 0.3 * jr.normal(jr.key(1), (queries, D)) / D**0.5
    model = am.ModernHopfield(Xi, 12.0)
    ours = jax.jit(lambda m, q: jax.vmap(m.recall)(q))
    end = ours(model, Q)
    steps = int(end.steps.max())

    def closed(X, q):
        return jax.nn.softmax(12.0 * q @ X.T) @ X

    @jax.jit
    def unrolled(X, q):
        for _ in range(steps):
            q = closed(X, q)
        return q

    step = jax.jit(closed)

    def stepwise():
        q = Q
        while True:
            new = step(Xi, q)
            if float(jnp.max(jnp.abs(new - q))) <= 3.5e-4:
                return q
            q = new

    return {
        "steps": steps,
        "largest difference": float(jnp.max(jnp.abs(end.x - unrolled(Xi, Q)))),
        "against an unrolled, jitted loop of as many steps": ratio(
            wait(lambda: ours(model, Q)), wait(lambda: unrolled(Xi, Q)), repeats
        ),
        "against a Python loop of jitted steps, same stop rule": ratio(
            wait(lambda: ours(model, Q)), wait(stepwise), repeats
        ),
    }


def energy_only(K: int, D: int, queries: int, repeats: int) -> dict:
    """A user's energy, differentiated by JAX, against the closed-form update."""
    Xi = jnp.asarray(np.random.default_rng(0).standard_normal((K, D), np.float32)) / D**0.5
    Q = Xi[:queries]
    model = UserHopfield(Xi)
    ours = jax.jit(lambda m, q: q + jax.vmap(m.update)(q))
    closed = jax.jit(lambda X, q: jax.nn.softmax(q @ X.T) @ X)
    return ratio(wait(lambda: ours(model, Q)), wait(lambda: closed(Xi, Q)), repeats)


if __name__ == "__main__":
    K, D = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (65_536, 512)
    report = {
        "machine": describe().replace("- ", "").splitlines(),
        "load, before and after": [round(os.getloadavg()[0], 1)],
    }
    report |= {
        f"one step, 1024 queries, K={K}, D={D}": one_step(K, D, 1024, 5),
        "to convergence, 64 queries, K=4096, D=256": to_convergence(4096, 256, 64, 15),
        "energy-only subclass, 256 queries, K=8192, D=256": energy_only(8192, 256, 256, 15),
    }
    report["load, before and after"].append(round(os.getloadavg()[0], 1))
    print(json.dumps(report, indent=1))
