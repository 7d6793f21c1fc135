"""How the work divides over devices: flops, bytes and what is sent, of compiled programs.

Programs are compiled for 1, 2, 4 and 8 virtual devices of a CPU and not run: what each device
computes, reads and sends is in the program, and times of virtual devices mean nothing. From there
on it is a calculation, up to 1,024 hosts, with numbers of one accelerator and one network that the
table names.

    python benchmarks/bench_scaling.py
    python benchmarks/bench_scaling.py --save benchmarks/results/scaling.md   # and .json, .png
    python benchmarks/bench_scaling.py --draw benchmarks/results/scaling.json # the figure again
"""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax

jax.config.update("jax_num_cpu_devices", 8)

import jax.numpy as jnp  # noqa: E402
import jax.random as jr  # noqa: E402
import machine  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from captions import captioned, save  # noqa: E402

import amlib as am  # noqa: E402
from amlib.descent import streaming  # noqa: E402
from amlib.sharding import collectives  # noqa: E402

K, D, QUERIES = 2**16, 64, 64
COUNTS = (1, 2, 4, 8)

# NVIDIA H100 SXM, from its data sheet: bfloat16 products, and reads of its memory; NVLink 4 within
# a host of 8, one direction; InfiniBand NDR (400 Gbit/s) for each of them; a hop's latency is a
# round figure.
FLOPS, READS = 989e12, 3.35e12
WITHIN, BETWEEN, HOP = 450e9, 50e9, 5e-6
PER_HOST = 8


class Row(NamedTuple):
    """What one device has to do."""

    devices: int
    patterns: int
    flops: float
    read: float
    room: float
    operations: int
    sent: int


def retrieve(memory: Any, x: jax.Array) -> jax.Array:
    """One step of retrieval of all queries."""
    return jax.vmap(memory.retrieve)(x)


def row(count: int, patterns: int) -> Row:
    """The step, compiled for `count` devices that share the patterns."""
    mesh = jax.make_mesh((count,), ("k",), devices=jax.devices()[:count])
    memory = am.ModernHopfield(jr.normal(jr.key(0), (patterns, D)), beta=0.5)
    memory, x = am.shard(memory, mesh, "k"), am.shard(jnp.zeros((QUERIES, D)), mesh, None)
    compiled = jax.jit(retrieve).lower(memory, x).compile()
    cost: Any = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    room: Any = compiled.memory_analysis()
    sent = collectives(retrieve, memory, x)
    return Row(
        count,
        patterns,
        cost["flops"],
        cost["bytes accessed"],
        room.argument_size_in_bytes + room.temp_size_in_bytes,
        len(sent),
        sum(op.bytes for op in sent),
    )


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| devices | patterns | Mflop a device | MB read | MB of room | operations | bytes sent |",
        "|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        lines.append(
            f"| {r.devices} | {r.patterns:,} | {r.flops / 1e6:,.1f} | {r.read / 1e6:,.1f} | "
            f"{r.room / 1e6:,.1f} | {r.operations} | {r.sent:,} |"
        )
    return "\n".join(lines)


def step_seconds(hosts: np.ndarray, patterns: np.ndarray, queries: int) -> tuple[np.ndarray, ...]:
    """Computing and sending of one step, by formula: D = 64, bfloat16, patterns divided.

    A device multiplies its K/n patterns with the queries and their weights with the patterns,
    4 K D Q / n flops, and reads its patterns twice; all of them add up queries x (D + 2) floats,
    as a ring within the hosts and as one between them.
    """
    n = hosts * PER_HOST
    computing = np.maximum(4 * patterns * D * queries / n / FLOPS, 2 * 2 * patterns * D / n / READS)
    size = 4 * queries * (D + 2)
    ring = lambda m, rate: np.where(m > 1, 2 * (m - 1) / m * size / rate + 2 * np.log2(m) * HOP, 0)
    return computing, ring(np.full_like(n, PER_HOST), WITHIN) + ring(hosts, BETWEEN)


def paper() -> tuple[str, dict[str, np.ndarray]]:
    """The calculated table, and the share of computing in each case."""
    hosts = 2.0 ** np.arange(11)
    cases = {
        "strong: 2^30 patterns, 1,024 queries": (np.full_like(hosts, 2.0**30), 1024),
        "weak: 2^24 patterns a device, 1,024 queries": (2.0**24 * PER_HOST * hosts, 1024),
        "weak: 2^24 patterns a device, 1 query": (2.0**24 * PER_HOST * hosts, 1),
    }
    lines = ["| case | hosts | patterns | computing, ms | sending, ms | share |", "|" + "---|" * 6]
    shares = {}
    for name, (patterns, queries) in cases.items():
        computing, sending = step_seconds(hosts, patterns, queries)
        shares[name] = computing / (computing + sending)
        for i in (0, 3, 6, 8, 10):
            lines.append(
                f"| {name} | {hosts[i]:,.0f} | {patterns[i]:.3g} | {1e3 * computing[i]:.3g} | "
                f"{1e3 * sending[i]:.3g} | {shares[name][i]:.0%} |"
            )
    return "\n".join(lines), {"hosts": hosts} | shares


def draw(path: Path, strong: list[Row], curves: dict[str, np.ndarray]) -> None:
    """Measured shares of the work, and the calculation."""
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    counts = [r.devices for r in strong]
    left.plot(counts, [1 / c for c in counts], "k:", label="1 / devices")
    for name, label, mark, size in (
        ("room", "room in memory", "s", 12),
        ("read", "bytes read", "o", 8),
        ("flops", "flops", "x", 6),
    ):  # they lie on one another
        values = [getattr(r, name) / getattr(strong[0], name) for r in strong]
        left.plot(counts, values, mark, ms=size, label=label)
    left.set(
        xscale="log", yscale="log", xlabel="devices", ylabel="on one device, share of all",
        title=f"compiled: {K:,} patterns of {D}, {QUERIES} queries",
        xticks=counts, xticklabels=counts,
        yticks=[1 / c for c in counts], yticklabels=[f"1/{c}" for c in counts],
    )  # fmt: skip
    left.minorticks_off()
    left.legend()
    hosts = curves["hosts"]
    for name, share in curves.items():
        if name != "hosts":
            right.plot(hosts, share, "o-", label=name)
    right.set(
        xscale="log", xlabel="hosts of 8 devices", ylabel="share of the time that computes",
        title="calculated: H100, NVLink, InfiniBand NDR", ylim=(0, 1.05),
    )  # fmt: skip
    right.legend(fontsize="small")
    captioned(
        fig,
        f"Left: counted in compiled programs, D = {D}; right: calculated by data sheets, D = 64. "
        "Nothing is drawn at random or timed, so there are no seeds and intervals.",
    )
    save(fig, path, dpi=120)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--save", type=Path, help="write them to this file, and a plot beside it")
    parser.add_argument("--draw", type=Path, help="only the plot, beside this file of numbers")
    args = parser.parse_args()
    if args.draw:
        rows = [Row(**values) for values in json.loads(args.draw.read_text())]
        draw(args.draw.with_suffix(".png"), rows, paper()[1])
        return
    streaming.STREAM_ABOVE = 2**30  # XLA counts the body of a loop once: without one it counts all
    strong = [row(n, K) for n in COUNTS]
    weak = [row(n, K // 8 * n) for n in COUNTS]
    calculated, curves = paper()
    text = (
        f"# One step of retrieval over many devices\n\n{machine.describe()}\n"
        f"`ModernHopfield`, D = {D}, {QUERIES} queries; flops, bytes read and room as XLA counts "
        "them for one device.\nCompiled for virtual devices; no time was measured.\n\n"
        f"## The same patterns on more devices\n\n{table(strong)}\n\n"
        f"## As many patterns a device\n\n{table(weak)}\n\n"
        "## On paper\n\nNVIDIA H100 SXM by data sheet: 989 Tflop/s in bfloat16, 3.35 TB/s; hosts "
        "of 8 with NVLink 4 (450 GB/s), InfiniBand NDR between them (50 GB/s each), 5 us a hop; "
        "each step adds up Q (D + 2) floats over all devices, as two rings.\nNothing of this was "
        f"run.\n\n{calculated}\n"
    )
    print(text)
    if args.save:
        args.save.write_text(text)
        numbers = json.dumps([row._asdict() for row in strong], indent=1)
        args.save.with_suffix(".json").write_text(numbers + "\n")
        draw(args.save.with_suffix(".png"), strong, curves)


if __name__ == "__main__":
    main()
