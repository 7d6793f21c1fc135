"""A hierarchical memory as text."""

import equinox as eqx
import jax
from jaxtyping import PyTree

from amlib._checks import is_concrete
from amlib.hierarchical import graph
from amlib.hierarchical.graph import Hypergraph, Synapse


def n_params(tree: PyTree) -> int:
    """The number of entries in all float arrays of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf))


def counted(n: int, noun: str) -> str:
    """A number and its noun: `1 layer`, `2 layers`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def describe(ham: Hypergraph) -> str:
    """The hypergraph as text, see `HAM.describe`."""
    synapses = graph.items(ham.hypersynapses)
    sizes = (
        counted(len(ham.neurons), "layer"),
        counted(len(synapses), "synapse"),
        counted(len(ham.connections), "connection"),
        counted(n_params(ham), "parameter"),
    )
    lines = [f"HAM: {', '.join(sizes)}"]
    rows = []
    for name, layer in graph.items(ham.neurons):
        tau = f"{float(layer.tau):.4g}" if is_concrete(layer.tau) else "?"
        shape = " x ".join(map(str, layer.shape)) or "scalar"
        rows.append((f"  {name}", layer.name, shape, f"tau {tau}"))
    lines += ["layers", *_table(rows)]
    rows = []
    for name, synapse in synapses:
        made = getattr(synapse, "is_init", True)
        size = counted(n_params(synapse), "parameter") if made else "no weights yet"
        rows.append((f"  {name}", kind(synapse), size))
    lines += ["synapses", *_table(rows)]
    rows = []
    for c in ham.connections:
        ends = " -- ".join(f"{n}{' (no feedback)' if n in c.no_feedback else ''}" for n in c.layers)
        rows.append((f"  {ends}", f"by {c.synapse}"))
    lines += ["connections", *_table(rows)]
    return "\n".join(lines)


def kind(synapse: Synapse) -> str:
    """What a synapse is, in a word."""
    name = getattr(synapse, "__name__", type(synapse).__name__)
    return "function" if name == "<lambda>" else name


def _table(rows: list[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns."""
    if not rows:
        return ["  none"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "   ".join(f"{c:{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
