"""How long is an epoch of the classifier, in units of its three bare matrix products?

```
taskset -c 0 python benchmarks/bench_classifier.py            # n=3, K=2000, batches of 1000
taskset -c 0 python benchmarks/bench_classifier.py 20 500     # another power and K
```

The three products are the overlaps of a batch, V W^T, and the two of its reverse, G^T V and G W.
(Training does not need G W, the gradient in the pixels, and does not compute it.) Steps of `fit`'s
own epoch and products run in turn in one process; the ratio is the median of the ratios.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from machine import describe

import amlib as am
from amlib.learning import DenseAMClassifier, PowerLoss, _epochs, krotov_hopfield
from amlib.learning._examples import Examples


def measure(n: int, K: int, batch: int, steps: int, repeats: int, optimizer) -> dict:
    """Seconds of CPU of both, per batch, and the ratio."""
    images, labels = am.data.mnist("train", subset="bundled")
    rows = np.random.default_rng(0).integers(0, len(labels), steps * batch)
    V, y = images.reshape(-1, 784)[rows], labels[rows]
    model = DenseAMClassifier(K, n=n, key=jr.key(0))
    params, rest = _epochs.partition(model, None)
    state = optimizer.init(params)

    def epoch():
        carried, data = (params, state, None), Examples((V, y))
        return _epochs.train(carried, rest, data, jr.key(1), PowerLoss(2), optimizer, batch)

    @jax.jit
    def products(V, W):
        """The same data, batch by batch, each product used."""

        def step(W, v):
            G = v @ W.T
            # Tiny multiples: every product is needed, and the numbers stay finite.
            return W + 1e-9 * (G.T @ v) + 1e-30 * jnp.sum(G @ W), None

        return jax.lax.scan(step, W, V.reshape(steps, batch, 784))[0]

    W = model.Xi[:, :784]
    pairs = []
    for turn in range(repeats + 1):
        pair = []
        for f in (epoch, lambda: products(V, W)):
            start = time.process_time()
            jax.block_until_ready(f())
            pair.append((time.process_time() - start) / steps)
        if turn:  # the first turn compiles
            pairs.append(pair)
    ours, bare = (statistics.median(t) for t in zip(*pairs, strict=True))
    return {
        "n": n, "K": K, "batch": batch,
        "a step of fit, ms": round(1e3 * ours, 1),
        "three bare products, ms": round(1e3 * bare, 1),
        "ratio": round(statistics.median(a / b for a, b in pairs), 2),
    }  # fmt: skip


if __name__ == "__main__":
    n, K = (int(a) for a in sys.argv[1:3]) if len(sys.argv) > 2 else (3, 2000)
    optimizer = krotov_hopfield(0.02, 0.8)
    rows = [measure(n, K, 1000, 5, 5, optimizer)]
    if len(sys.argv) == 1:
        rows.append(measure(3, 2000, 250, 20, 3, optimizer))
        rows.append(measure(3, 2000, 1000, 5, 3, optax.adam(1e-3)) | {"optimiser": "Adam"})
        for power in (2, 20, 30):
            rows.append(measure(power, 2000, 1000, 5, 3, optimizer))
    for row in rows:
        print(row)
    if len(sys.argv) == 1:
        out = Path(__file__).parent / "results" / "bench_classifier.json"
        note = "CPU seconds (the machine was shared); one core where pinned by taskset"
        out.write_text(json.dumps({"machine": describe(), "note": note, "rows": rows}, indent=1))
