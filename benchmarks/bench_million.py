"""A million patterns of 1,024 bits: recall to a proven fixed point, in seconds and gigabytes.

Queries are stored patterns with a quarter of their bits flipped. Every recall must end where no
flip lowers the energy, as `recall` proves, and on the pattern that it began from. Patterns are
int8, one byte a bit, and stay so. Run alone, in a fresh process: peak resident memory is that of
the whole process.

    python benchmarks/bench_million.py                          # a million, 100 queries
    python benchmarks/bench_million.py --patterns 50000         # fewer
    python benchmarks/bench_million.py --icons                  # views of icons, not random bits
"""

import argparse
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import machine
import numpy as np

import amlib as am
from amlib.data._views import views

SIDE = 32
D = SIDE**2
FLIPPED = D // 4


def random_bits(K: int) -> np.ndarray:
    """Random patterns, drawn in place: JAX would take several times their memory."""
    rng, Xi = np.random.default_rng(0), np.empty((K, D), np.int8)
    for part in np.array_split(Xi, -(-K // 10_000)):
        part[:] = np.unpackbits(rng.integers(0, 256, (len(part), D // 8), np.uint8), axis=1)
        part *= 2
        part -= 1
    return Xi


def main() -> None:
    parser = argparse.ArgumentParser(description="Recall from a million patterns.")
    parser.add_argument("--patterns", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--icons", action="store_true", help="views of icons, not random bits")
    parser.add_argument("--save", type=Path, help="write the result to this file, as JSON")
    args = parser.parse_args()
    K, Q = args.patterns, args.queries
    made = views(am.data.icons().images, K, SIDE)[0] if args.icons else random_bits(K)
    model = am.ExponentialDenseAM(made, beta=args.beta)
    del made
    before = machine.peak_memory()
    truth = model.Xi[np.linspace(0, K - 1, Q).astype(int)].astype(jnp.float32)
    damage = jax.vmap(lambda key, x: am.data.corrupt.flip_exactly(key, x, FLIPPED))
    x0 = jax.block_until_ready(damage(jr.split(jr.key(1), Q), truth))
    recall = lambda: jax.vmap(lambda x, key: model.recall(x, key=key))(x0, jr.split(jr.key(2), Q))
    first, end = machine.first_call(recall)
    spent = time.process_time()
    seconds = machine.seconds(recall, 3)
    spent = (time.process_time() - spent) / 3
    if not bool(end.converged.all()):
        raise SystemExit(f"only {int(end.converged.sum())} of {Q} ended at a proven fixed point")
    result = {
        "patterns": ("views of icons, " if args.icons else "random, ") + f"{K:,} x {D:,} bits",
        "queries": Q,
        "bits flipped in each": FLIPPED,
        "proven fixed points": int(end.converged.sum()),
        "exact": int((end.x == truth).all(1).sum()),
        "sweeps, mean": round(float(end.sweeps.mean()), 2),
        "seconds, first call": round(first, 1),
        "seconds": round(seconds, 1),
        "of the processors": round(spent, 1),
        "patterns, GB": round(model.Xi.nbytes / 1e9, 2),
        "peak resident, GB": round(machine.peak_memory(), 2),
        "of that before recall, GB": round(before, 2),
    }
    text = json.dumps(result, indent=1)
    print(machine.describe() + text)
    if args.save:
        args.save.write_text(text + "\n")


if __name__ == "__main__":
    main()
