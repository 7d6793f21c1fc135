"""The energy of a hierarchical memory in parts, and the forces that move its states.

These functions take states and activations that are already checked; `HAM` has the public ones.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from amlib.hierarchical import graph
from amlib.hierarchical.graph import Name
from amlib.hierarchical.synapses import AbstractSynapse


def initialised(ham: Any, key: Array | None) -> Any:
    """The synapses with weights; without a key nothing is made, only checked by tracing.

    Raise where a synapse does not fit the layers of one of its connections.
    """
    shapes = {name: layer.shape for name, layer in graph.items(ham.neurons)}
    names = [name for name, _ in graph.items(ham.hypersynapses)]
    keys = [None] * len(names) if key is None else list(jax.random.split(key, max(1, len(names))))
    made = []
    for name, key in zip(names, keys, strict=False):
        synapse = ham.hypersynapses[name]
        uses = [c for c in ham.connections if c.synapse == name]
        lazy = isinstance(synapse, AbstractSynapse) and not synapse.is_init
        first = [shapes[n] for n in uses[0].layers] if uses else []
        if key is None:
            for connection in uses:
                call = _late(synapse, first) if lazy else synapse
                graph.check_synapse(call, connection, [shapes[n] for n in connection.layers])
        elif lazy and uses:
            synapse = synapse.init(key, *first)
        made.append(synapse)
    return graph.rebuild(ham.hypersynapses, made)


def _late(synapse: Any, shapes: list[tuple[int, ...]]) -> Callable[..., Array]:
    """The synapse as it will be once it has weights for these shapes."""
    return lambda *xhats: synapse.init(jax.random.key(0), *shapes)(*xhats)


def activations(ham: Any, xs: Any) -> Any:
    """The activation of every layer."""
    return graph.rebuild(ham.neurons, [la.activations(xs[n]) for n, la in graph.items(ham.neurons)])


def neuron_energies(ham: Any, xhats: Any, xs: Any) -> Any:
    """The energy of every layer."""
    layers = graph.items(ham.neurons)
    return graph.rebuild(ham.neurons, [la.energy(xhats[n], xs[n]) for n, la in layers])


def connection_energies(ham: Any, xhats: Any) -> list[Array]:
    """The energy of every connection."""
    return [ham.hypersynapses[c.synapse](*(xhats[n] for n in c.layers)) for c in ham.connections]


def energy_tree(ham: Any, xhats: Any, xs: Any) -> dict[str, Any]:
    """The energies of the layers and of the connections."""
    return {
        "neurons": neuron_energies(ham, xhats, xs),
        "connections": connection_energies(ham, xhats),
    }


def energy(ham: Any, xhats: Any, xs: Any) -> Array:
    """The sum of all parts."""
    parts = jax.tree.leaves(energy_tree(ham, xhats, xs))
    return jnp.sum(jnp.stack(parts)) if parts else jnp.zeros(())


def forces(ham: Any, xhats: Any, xs: Any, free: tuple[Name, ...]) -> dict[Name, Array]:
    """The gradient of the energy in the activations of the layers `free`.

    Clamped layers, and layers that a connection sends no signal to, are constants of this
    derivative (but not of another one that goes through it), so no work is done for them.
    """
    constant = dict(graph.items(xhats))

    def synapses(moving: dict[Name, Array]) -> Array:
        total = jnp.zeros((), dtype=jnp.result_type(*constant.values()))
        for c in ham.connections:
            parts = [
                moving[n] if n in moving and n not in c.no_feedback else constant[n]
                for n in c.layers
            ]
            total = total + ham.hypersynapses[c.synapse](*parts).astype(total.dtype)
        return total

    signals = jax.grad(synapses)({name: constant[name] for name in free})
    return {name: xs[name] + signals[name] for name in free}
