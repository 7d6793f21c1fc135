"""What this accelerator makes of flips, samples, retrievals and hierarchies, beside its limits.

For whatever device JAX has; on a CPU it prints the same rows, so that two machines can be compared.
Each row names what bounds it: exponentials, bytes from memory, multiplications or random numbers,
as measured on this device in the same process. A row far above its limit waits for launches.

    python benchmarks/bench_gpu.py                # print the table
    python benchmarks/bench_gpu.py --save FILE    # and write it, with machine and versions
    python benchmarks/bench_gpu.py --small        # a quick run
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import machine
from bench_flips import SIDE, LogSumExp, Rectified, damaged, patterns
from bench_local import JOBS, ours

import amlib as am
from amlib.hierarchical import models


def limits() -> dict[str, float]:
    """What the device can do at most in a second."""
    n = 2**12
    big, square = jnp.ones((2**26,)), jnp.ones((n, n))
    total, product = jax.jit(jnp.sum), jax.jit(lambda a: a @ a)
    exps = jax.jit(lambda a: jnp.exp(a).sum())
    draw = jax.jit(lambda k: jr.uniform(k, (2**24,)).sum())
    key = jr.key(0)
    jax.block_until_ready((total(big), product(square), exps(big), draw(key)))
    return {
        "bytes": big.nbytes / machine.seconds(lambda: total(big), 5),
        "multiplications": n**3 / machine.seconds(lambda: product(square), 3),
        "exponentials": big.size / machine.seconds(lambda: exps(big), 5),
        "random numbers": 2**24 / machine.seconds(lambda: draw(key), 5),
    }


Row = tuple[str, Callable[[], Any], float, str, float]
"""What is done; how; how often (flips, queries); what bounds it, and how much of that one needs."""


def flips(small: bool) -> Iterator[Row]:
    """Visits of bits: one query, and a batch."""
    steps = 1_000 if small else SIDE**2
    for name, kind, k, d in (
        ("K=100, rectified n=6", Rectified, 100, SIDE**2),
        ("K=1,024, log-sum-exp", LogSumExp, 1024, SIDE**2),
        ("K=10,000, log-sum-exp", LogSumExp, 10_000, 1024),
    ):
        model = kind(patterns(k, d))
        x0 = damaged(model.Xi[0], jr.key(1))
        one = lambda model=model, x0=x0: model.async_recall(x0, steps, jr.PRNGKey(5))
        yield f"a flip, {name}", one, steps, "bytes", k
        x0s = jax.vmap(damaged)(model.Xi[:100], jr.split(jr.key(1), 100))
        keys = jr.split(jr.PRNGKey(5), 100)
        many = eqx.filter_jit(
            lambda m, xs, keys: jax.vmap(lambda x, key: m.async_recall(x, steps, key))(xs, keys)
        )
        batch = lambda many=many, model=model, xs=x0s, keys=keys: many(model, xs, keys)
        yield f"a flip of 100 queries, {name}", batch, 100 * steps, "exponentials", k


def samples(small: bool) -> Iterator[Row]:
    """Glauber dynamics of local energies, by colours."""
    for name, (shape, _, model) in JOBS.items():
        size = jnp.ones(shape).size
        for chains, sweeps in ((1, 100 if small else 1000), (256, 10 if small else 40)):
            what = f"a flip, {name}, {chains} chains"
            run = ours(model, shape, sweeps, chains)
            yield what, run, sweeps * chains * size, "random numbers", 1


def retrievals(small: bool) -> Iterator[Row]:
    """Continuous memories."""
    K, D, queries = (10_000, 64, 64) if small else (1_000_000, 64, 256)
    Xi = jr.normal(jr.key(0), (K, D)) / D**0.5
    model = am.ModernHopfield(Xi, jnp.asarray(8.0))
    step = jax.jit(lambda m, q: jax.vmap(m.retrieve)(q))
    run = lambda: step(model, Xi[:queries])
    yield f"a retrieval among {K:,}", run, queries, "multiplications", 2 * K * D


def hierarchies(small: bool) -> Iterator[Row]:
    """A hierarchical memory: the two-layer classifier of the tutorial."""
    network = models.hopfield_classifier(jr.key(0))
    images = jr.uniform(jr.key(1), (100 if small else 1000, 784))
    many = eqx.filter_jit(lambda net, x: jax.vmap(net)(x))
    run = lambda: many(network, images)
    yield "a picture, two-layer classifier", run, len(images), "multiplications", 4 * 2 * 784 * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="amlib on this accelerator.")
    parser.add_argument("--save", type=Path, help="write the table to this file, as Markdown")
    parser.add_argument("--small", action="store_true", help="a quick run")
    args = parser.parse_args()
    most = limits()
    header = ["job", "each", "the limit alone", "times the limit", "bound by", "first call, s"]
    rows = [header, ["---"] * len(header)]
    for part in (flips, samples, retrievals, hierarchies):
        for name, run, count, bound, need in part(args.small):
            first, _ = machine.first_call(run)
            each = machine.seconds(run, 3) / count
            least = need / most[bound]
            cells = f"{each * 1e9:,.1f} ns", f"{least * 1e9:,.2f} ns", f"{each / least:.1f}x"
            rows.append([name, *cells, bound, f"{first:.2f}"])
            print("| " + " | ".join(rows[-1]) + " |", flush=True)
    text = "# Flips, samples, retrievals and hierarchies\n\n" + machine.describe()
    text += "".join(f"- {value / 1e9:,.2f} G {name} a second\n" for name, value in most.items())
    text += "\n" + "\n".join("| " + " | ".join(r) + " |" for r in rows) + "\n"
    print("\n" + text)
    if args.save:
        args.save.write_text(text)


if __name__ == "__main__":
    main()
