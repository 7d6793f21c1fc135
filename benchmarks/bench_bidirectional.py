"""Bidirectional memories measured: how many pairs are recalled from one part, against their number.

```
python benchmarks/bench_bidirectional.py
```

Random pairs of N and M units; the first part is known and held, the second begins at random; a pair
counts if the second part comes back without an error. Pairs that are not stored are rows of zeros,
so that each memory is one program. Writes `results/bidirectional.md`.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from machine import describe

import amlib as am

OUT = Path(__file__).parent / "results"
SIZES, SEEDS, QUERIES = ((100, 100), (100, 30)), 3, 8
COUNTS = (8, 12, 16, 24, 32, 64, 128, 256, 512)
MEMORIES = {
    "Kosko": am.BidirectionalMemory,
    "polynomial, n = 3": functools.partial(am.PolynomialBidirectional, n=3),
    "exponential, beta = 1": am.ExponentialBidirectional,
}


@functools.partial(jax.jit, static_argnames="name")
def recalled(Xi, Eta, counts, starts, name):
    """Whether each query is recalled, for each number of stored pairs."""
    N = Xi.shape[1]

    def one(count, k):
        stored = (jnp.arange(len(Xi)) < count)[:, None]
        memory = MEMORIES[name](Xi * stored, Eta * stored)
        s = jnp.concatenate([Xi[k], starts[k]])
        held = np.arange(s.size) < N
        end = memory.recall(s, method=am.Sweeps("sequential", record=0), clamp=held, max_steps=50)
        return (memory.parts(end.x)[1] == Eta[k]).all()

    each = jax.vmap(one, (None, 0))
    return jax.vmap(each, (0, None))(counts, jnp.arange(len(starts)))


def main():
    lines = ["# Bidirectional memories", "", describe()]
    for N, M in SIZES:
        lines += [
            f"## {N} units known, {M} recalled: share of pairs without an error ({SEEDS} seeds of "
            f"{QUERIES} pairs), by the number of pairs",
            "",
            "| memory | " + " | ".join(map(str, COUNTS)) + " |",
            "|---|" + "---|" * len(COUNTS),
        ]
        for name in MEMORIES:
            found = []
            for seed in range(SEEDS):
                rng = np.random.default_rng([seed, N, M])
                draw = lambda *shape, r=rng: jnp.asarray(r.choice([-1.0, 1.0], shape), jnp.float32)
                Xi, Eta, starts = draw(max(COUNTS), N), draw(max(COUNTS), M), draw(QUERIES, M)
                found.append(recalled(Xi, Eta, jnp.asarray(COUNTS), starts, name).mean(1))
            cells = " | ".join(f"{share:.2f}" for share in np.mean(found, 0))
            lines.append(f"| {name} | {cells} |")
            print(lines[-1], flush=True)
        lines.append("")
    (OUT / "bidirectional.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
