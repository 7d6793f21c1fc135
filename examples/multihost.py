"""A memory over several hosts: each loads its part of the patterns, and all recall and train.

On a cluster, the same line on every host. JAX finds the others by itself under Slurm, Open MPI and
Kubernetes, and on Cloud TPU:

    srun python examples/multihost.py --checkpoint /a/folder/that/the/first/host/sees/run

On one machine, two processes of two CPU devices each:

    for i in 0 1; do python examples/multihost.py --try 2 $i & done; wait

All processes run the same program, call for call. Files are written and read by the first. Killed
hosts end the others within `--timeout` seconds; the same line goes on from the checkpoint.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import amlib as am

D = 64  # units of a pattern


def pattern(row: int) -> np.ndarray:
    """A pattern. Yours come from a file: `np.load(name, mmap_mode="r")` reads only what is used."""
    return np.random.default_rng(row).standard_normal(D, np.float32)


def loaded(count: int, mesh: Mesh, axis: str) -> jax.Array:
    """The patterns, of which each device has a part. A host loads only those of its devices."""

    def part(at: tuple[slice, ...] | None) -> np.ndarray:
        assert at is not None
        return np.stack([pattern(row) for row in range(*at[0].indices(count))])

    return jax.make_array_from_callback((count, D), NamedSharding(mesh, P(axis)), part)


def denoising(
    model: am.ModernHopfield, batch: tuple[jax.Array, jax.Array], key: jax.Array
) -> jax.Array:
    """How far one step of retrieval is from the clean pattern."""
    del key
    clean, noisy = batch
    return jnp.mean((jax.vmap(model.retrieve)(noisy) - clean) ** 2)


def main(args: argparse.Namespace) -> dict[str, jax.Array]:
    """Recall over parts of the patterns, recall of parts of the queries, train on parts of data."""
    say = print if jax.process_index() == 0 else lambda *_: None
    devices = jax.device_count()
    mesh = jax.make_mesh((devices,), ("all",), axis_types=(AxisType.Auto,))
    say(f"{jax.process_count()} processes, {devices} devices")

    # Patterns in parts: a device takes its own scores, and one reduction goes over all of them.
    start = time.perf_counter()
    memory = am.ModernHopfield(loaded(args.patterns, mesh, "all"), beta=1.0)
    stored = np.stack([pattern(row) for row in range(args.queries)])
    noise = np.random.default_rng(0).standard_normal(stored.shape, np.float32)
    real = jax.vmap(memory.recall)(am.shard(stored + 0.2 * noise, mesh, None))
    near = (jnp.abs(real.x - stored).max(axis=1) < 0.1).sum()  # of arrays in parts, all must ask
    say(f"{near} of {args.queries} found among {args.patterns}, {real.steps.max()} steps at most")

    # Queries in parts: the devices recall on their own.
    spins = np.where(stored > 0, 1, -1).astype(np.int8)
    flipped = np.where(noise > 1.3, -spins, spins).astype(np.float32)
    dense = am.shard(am.ExponentialDenseAM(spins), mesh, None)
    binary = jax.vmap(dense.recall)(am.shard(flipped, mesh, "all"))
    right = (binary.x == spins).all(axis=1).sum()
    say(f"{right} of {args.queries} binary patterns found again")

    # Data in parts: a device takes the gradient of its part of each batch.
    clean = loaded(args.examples, mesh, "all")
    data = clean, clean + 0.3 * jr.normal(jr.key(1), clean.shape)
    model = am.ModernHopfield(0.1 * jr.normal(jr.key(2), (128, D)), beta=1.0)
    result = am.fit(
        am.shard(model, mesh, None), data, denoising, optax.adam(1e-2), args.epochs, 64, jr.key(3),
        checkpoint=args.checkpoint, validation=0.1,
    )  # fmt: skip
    say(f"loss {result.history['loss'][-1]:.6f} after {result.epoch} epochs")
    say(f"{time.perf_counter() - start:.1f} s")
    return {"real": real.x, "binary": binary.x, "trained": result.model.Xi}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Recall and train over several hosts.")
    parser.add_argument("--try", dest="local", nargs=2, type=int, metavar=("COUNT", "INDEX"))
    parser.add_argument("--port", type=int, default=12321, help="of the first process, for --try")
    parser.add_argument("--patterns", type=int, default=65536, help="a multiple of all devices")
    parser.add_argument("--queries", type=int, default=64, help="the same")
    parser.add_argument("--examples", type=int, default=4096, help="the same")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--checkpoint", help="a file of the training, which goes on from it")
    parser.add_argument("--save", help="a file for what was recalled and trained")
    parser.add_argument(
        "--timeout", type=int, default=100, help="seconds until a host counts as lost"
    )
    args = parser.parse_args()
    start = functools.partial(
        jax.distributed.initialize,
        heartbeat_timeout_seconds=args.timeout,
        shutdown_timeout_seconds=args.timeout,
    )
    if args.local is not None:
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", 2)
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        count, index = args.local
        start(f"127.0.0.1:{args.port}", count, index)
    else:
        start()
    found = main(args)
    if args.save is not None:
        am.save(args.save, found)
