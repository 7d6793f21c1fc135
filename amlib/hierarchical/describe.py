"""What is said of a hierarchical memory."""

from collections.abc import Callable

import equinox as eqx
import jax
from jaxtyping import PyTree

from amlib import _show as show
from amlib.hierarchical import graph
from amlib.hierarchical.graph import Hypergraph, Synapse


def n_params(tree: PyTree) -> int:
    """The number of entries in all float arrays of a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf))


def kind(synapse: Synapse) -> str:
    """What a synapse is, in a word."""
    name = getattr(synapse, "__name__", type(synapse).__name__)
    return "function" if name == "<lambda>" else name


def weights(synapse: Synapse, noun: str) -> str:
    """How many numbers a synapse has."""
    made = getattr(synapse, "is_init", True)
    return show.counted(n_params(synapse), noun) if made else "no weights yet"


def page(ham: Hypergraph, picture: Callable[[Hypergraph], str]) -> show.Page:
    """The hypergraph: its layers, synapses and connections, and their picture."""
    synapses = graph.items(ham.hypersynapses)
    sizes = (
        show.counted(len(ham.neurons), "layer"),
        show.counted(len(synapses), "synapse"),
        show.counted(len(ham.connections), "connection"),
        show.counted(n_params(ham), "parameter"),
    )
    layers = [
        (str(name), layer.name, show.dimensions(layer.shape), f"tau {show.line(layer.tau)}")
        for name, layer in graph.items(ham.neurons)
    ]
    connections = [
        (" -- ".join(f"{n}{' (no feedback)' if n in c.no_feedback else ''}" for n in c.layers),
         f"by {c.synapse}")
        for c in ham.connections
    ]  # fmt: skip
    tables = {
        "layers": layers,
        "synapses": [(str(name), kind(s), weights(s, "parameter")) for name, s in synapses],
        "connections": connections,
    }
    title = f"{type(ham).__name__}: {', '.join(sizes)}"
    return show.Page(title, tables, lambda: picture(ham))
