"""The energy of a hierarchical memory in parts, and the forces that move its states.

These functions take states and activations that are already checked; `HAM` has the public ones.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from amlib._types import Key, Scalar, Shape, States
from amlib.hierarchical import graph
from amlib.hierarchical.graph import Hypergraph, Name, Synapse
from amlib.hierarchical.synapses import AbstractSynapse


def initialised(ham: Hypergraph, key: Key | None) -> dict[str, Synapse] | list[Synapse]:
    """The synapses with weights; without a key nothing is made, only checked by tracing.

    Raise where a synapse does not fit the layers of one of its connections.
    """
    shapes = {name: layer.shape for name, layer in graph.items(ham.neurons)}
    synapses = graph.items(ham.hypersynapses)
    number = len(synapses)
    keys = [None] * number if key is None else list(jax.random.split(key, max(1, number)))
    made = []
    for (name, synapse), key in zip(synapses, keys, strict=False):
        uses = [c for c in ham.connections if c.synapse == name]
        late = synapse if isinstance(synapse, AbstractSynapse) and not synapse.is_init else None
        first = [shapes[n] for n in uses[0].layers] if uses else []
        if key is None:
            for connection in uses:
                call = synapse if late is None else _late(late, first)
                graph.check_synapse(call, connection, [shapes[n] for n in connection.layers])
        elif late is not None and uses:
            synapse = late.init(key, *first)
        made.append(synapse)
    return graph.rebuild(ham.hypersynapses, made)


def _late(synapse: AbstractSynapse, shapes: list[Shape]) -> Synapse:
    """The synapse as it will be once it has weights for these shapes."""
    return lambda *xhats: synapse.init(jax.random.key(0), *shapes)(*xhats)


def activations(ham: Hypergraph, xs: States) -> States:
    """The activation of every layer."""
    return graph.rebuild(ham.neurons, [la.activations(xs[n]) for n, la in graph.items(ham.neurons)])


def neuron_energies(ham: Hypergraph, xhats: States, xs: States) -> PyTree[Scalar]:
    """The energy of every layer."""
    layers = graph.items(ham.neurons)
    return graph.rebuild(ham.neurons, [la.energy(xhats[n], xs[n]) for n, la in layers])


def connection_energies(ham: Hypergraph, xhats: States) -> list[Scalar]:
    """The energy of every connection."""
    synapses = dict(graph.items(ham.hypersynapses))
    return [synapses[c.synapse](*(xhats[n] for n in c.layers)) for c in ham.connections]


def energy_tree(ham: Hypergraph, xhats: States, xs: States) -> dict[str, PyTree[Scalar]]:
    """The energies of the layers and of the connections."""
    return {
        "neurons": neuron_energies(ham, xhats, xs),
        "connections": connection_energies(ham, xhats),
    }


def energy(ham: Hypergraph, xhats: States, xs: States) -> Scalar:
    """The sum of all parts."""
    parts = jax.tree.leaves(energy_tree(ham, xhats, xs))
    return jnp.sum(jnp.stack(parts)) if parts else jnp.zeros(())


def signals(ham: Hypergraph, xhats: States, free: tuple[Name, ...]) -> dict[Name, Array]:
    """The gradient of the connections' energy in the activations of the layers `free`.

    Clamped layers, and layers that a connection sends no signal to, are constants of this
    derivative (but not of another one that goes through it), so no work is done for them.
    """
    constant: dict[Name, Array] = dict(graph.items(xhats))
    synapses = dict(graph.items(ham.hypersynapses))

    def connected(moving: dict[Name, Array]) -> Array:
        total = jnp.zeros((), dtype=jnp.result_type(*constant.values()))
        for c in ham.connections:
            parts = [
                moving[n] if n in moving and n not in c.no_feedback else constant[n]
                for n in c.layers
            ]
            total = total + synapses[c.synapse](*parts).astype(total.dtype)
        return total

    return jax.grad(connected)({name: constant[name] for name in free})


def forces(ham: Hypergraph, xhats: States, xs: States, free: tuple[Name, ...]) -> dict[Name, Array]:
    """The gradient of the energy in the activations of the layers `free`: state and signals."""
    received = signals(ham, xhats, free)
    return {name: xs[name] + received[name] for name in free}
