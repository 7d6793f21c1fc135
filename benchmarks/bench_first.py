"""The first call of each recall, and a capacity curve: tracing and compiling included.

```
python benchmarks/bench_first.py              # the table, each call in a process of its own
python benchmarks/bench_first.py NAME         # one of them, in this process
```

Each process has imported amlib and run one trivial operation of JAX before. "CPU" is the time of
all threads together: where the machine is busy, it says more than the clock. `load` is how many
processes wanted a core, on average over the last minute, before the benchmark began.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from machine import describe

import amlib as am

KEY = jr.key(0)
COUNTS = [8, 32, 64, 128, 256, 512]
FACTORIES = {
    "classical": am.ClassicalHopfield,
    "polynomial": lambda Xi: am.PolynomialDenseAM(Xi, n=3),
    "exponential": am.ExponentialDenseAM,
}


def spins(K: int, D: int) -> tuple[jax.Array, jax.Array]:
    """Random patterns, and the first of them with a tenth of its bits flipped."""
    rng = np.random.default_rng(0)
    Xi = np.where(rng.random((K, D)) < 0.5, -1.0, 1.0).astype(np.float32)
    return jnp.asarray(Xi), jnp.asarray(Xi[0] * np.where(np.arange(D) < D // 10, -1, 1))


def flipped(factory: Callable[..., Any], K: int, **words: Any) -> Callable[[], Any]:
    """A recall of spins, of 2,304 bits."""
    Xi, x = spins(K, 2304)
    memory = factory(Xi)
    return lambda: memory.recall(x, **words)


def visited(factory: Callable[..., Any], K: int) -> Callable[[], Any]:
    """The same visit by visit."""
    Xi, x = spins(K, 2304)
    memory = factory(Xi)
    return lambda: memory.async_recall(x, 10_000, KEY)


def moved(method: Any = None) -> Callable[[], Any]:
    """A recall of reals."""
    Xi = jr.normal(jr.key(1), (100, 64))
    memory = am.ModernHopfield(Xi)
    return lambda: memory.recall(Xi[0] + 0.1, method=method, key=KEY)


def layered() -> Callable[[], Any]:
    """A recall of two layers."""
    layers = {"image": am.TanhLayer(64), "stored": am.SoftmaxLayer(20)}
    synapse = {"see": am.DenseSynapse(jr.normal(jr.key(1), (64, 20)))}
    ham = am.HAM(layers, synapse, [(("image", "stored"), "see")])
    return lambda: ham.recall({"image": jnp.ones(64), "stored": jnp.zeros(20)})


def relaxed() -> Callable[[], Any]:
    """A relaxation of a reconstructor."""
    memory = am.learning.DenseReconstructor(784, key=KEY)
    return lambda: memory.recall(jnp.ones(784))


def curves() -> Callable[[], Any]:
    """How many icons three memories recall, at six sizes each."""
    Xi = am.data.icons(n=512).images.reshape(512, -1)
    words = {"counts": COUNTS, "queries": 32, "progress": False}

    def run() -> list[np.ndarray]:
        curve = am.analysis.retrieval_curve
        flip = am.data.corrupt.flip
        return [curve(f, Xi, flip, [0.1], KEY, **words).cosine for f in FACTORIES.values()]

    return run


GLAUBER: dict[str, Any] = {"method": am.Glauber(1.0), "key": KEY, "max_steps": 20}
CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    "Sweeps, classical, K=100": lambda: flipped(am.ClassicalHopfield, 100),
    "Sweeps, polynomial, K=1,024": lambda: flipped(FACTORIES["polynomial"], 1024),
    "Sweeps, log-sum-exp, K=100": lambda: flipped(am.ExponentialDenseAM, 100),
    "Sweeps, log-sum-exp, K=1,024": lambda: flipped(am.ExponentialDenseAM, 1024),
    "Glauber, log-sum-exp, K=100": lambda: flipped(am.ExponentialDenseAM, 100, **GLAUBER),
    "Greedy, log-sum-exp, K=100": lambda: flipped(am.ExponentialDenseAM, 100, method=am.Greedy()),
    "async_recall, classical, K=100": lambda: visited(am.ClassicalHopfield, 100),
    "async_recall, log-sum-exp, K=100": lambda: visited(am.ExponentialDenseAM, 100),
    "CCCP": moved,
    "GradientDescent": lambda: moved(am.GradientDescent(0.5)),
    "GradientDescent, backtracking": lambda: moved(am.GradientDescent(1.0, backtracking=True)),
    "Euler": lambda: moved(am.Euler(0.1)),
    "FixedPoint": lambda: moved(am.FixedPoint()),
    "Flow": lambda: moved(am.Flow()),
    "Langevin": lambda: moved(am.Langevin(1.0, 0.1)),
    "HAM, Euler": layered,
    "reconstructor, Relax": relaxed,
    "3 capacity curves of 6 sizes": curves,
}


def measure(name: str) -> str:
    """Seconds of the first call, of all its threads, and of the second."""
    jax.block_until_ready(jnp.ones(3) + 1)
    call = CASES[name]()
    row = []
    for _ in range(2):
        clock, cpu = time.perf_counter(), time.process_time()
        jax.block_until_ready(eqx.filter(call(), eqx.is_array))
        row += [time.perf_counter() - clock, time.process_time() - cpu]
    return f"| {name} | {row[0]:.2f} s | {row[1]:.2f} s | {1e3 * row[2]:.1f} ms |"


def main() -> None:
    """Print the table."""
    if sys.argv[1:]:
        print(measure(sys.argv[1]))
        return
    print(describe() + f"- load {os.getloadavg()[0]:.1f}\n")
    print("| call | first | its CPU | second |\n|---|---|---|---|", flush=True)
    for name in CASES:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
