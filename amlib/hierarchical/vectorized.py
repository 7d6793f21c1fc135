"""A hierarchical memory over batches."""

from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks, _show as show
from amlib._types import Key, ScalarLike, States, StatesLike
from amlib.descent.trajectory import Recall
from amlib.hierarchical import describe, drawing, graph
from amlib.hierarchical.graph import Connection

if TYPE_CHECKING:
    from amlib.hierarchical.ham import HAM


class VectorizedHAM(eqx.Module):
    """A `HAM` whose methods take and return batches: every state has a leading axis.

    Made by `HAM.vectorize`; `unvectorize` gives the memory back.
    """

    _ham: "HAM"

    __repr__ = show.block
    _repr_html_ = show.notebook

    def _page(self) -> show.Page:
        return describe.page(self, drawing.svg)

    @property
    def neurons(self) -> Any:
        """The layers."""
        return self._ham.neurons

    @property
    def hypersynapses(self) -> Any:
        """The synapses."""
        return self._ham.hypersynapses

    @property
    def connections(self) -> tuple[Connection, ...]:
        """The connections."""
        return self._ham.connections

    @property
    def n_neurons(self) -> int:
        """Number of layers."""
        return self._ham.n_neurons

    @property
    def n_hypersynapses(self) -> int:
        """Number of synapses."""
        return self._ham.n_hypersynapses

    @property
    def n_connections(self) -> int:
        """Number of connections."""
        return self._ham.n_connections

    def init_states(self, bs: int | None = None, key: Key | None = None) -> States:
        """Make a batch of states for every layer, see `HAM.init_states`.

        **Raises:** `ValueError` without a batch size.
        """
        if bs is None:
            raise ValueError(
                "VectorizedHAM.init_states: needs a batch size; none came. Give init_states(bs)."
            )
        return self._ham.init_states(bs, key)

    def activations(self, xs: StatesLike) -> States:
        """See `HAM.activations`."""
        return jax.vmap(self._ham.activations)(self._batch(xs, "activations"))

    def neuron_energies(self, xhats: StatesLike, xs: StatesLike) -> PyTree[Float[Array, " batch"]]:
        """See `HAM.neuron_energies`."""
        return jax.vmap(self._ham.neuron_energies)(xhats, self._batch(xs, "neuron_energies"))

    def connection_energies(self, xhats: StatesLike) -> list[Float[Array, " batch"]]:
        """See `HAM.connection_energies`."""
        return jax.vmap(self._ham.connection_energies)(self._batch(xhats, "connection_energies"))

    def energy_tree(
        self, xhats: StatesLike, xs: StatesLike
    ) -> dict[str, PyTree[Float[Array, " batch"]]]:
        """See `HAM.energy_tree`."""
        return jax.vmap(self._ham.energy_tree)(xhats, self._batch(xs, "energy_tree"))

    def energy(self, xhats: StatesLike, xs: StatesLike | None = None) -> Float[Array, " batch"]:
        """See `HAM.energy`."""
        xhats = self._batch(xhats, "energy")
        if xs is None:
            return jax.vmap(lambda x: self._ham.energy(x))(xhats)
        return jax.vmap(self._ham.energy)(xhats, xs)

    def dEdact(self, xhats: StatesLike, xs: StatesLike, return_energy: bool = False) -> Any:
        """See `HAM.dEdact`."""
        gradient = lambda g, x: self._ham.dEdact(g, x, return_energy)
        return jax.vmap(gradient)(xhats, self._batch(xs, "dEdact"))

    def updates(self, xs: StatesLike) -> States:
        """See `HAM.updates`."""
        return jax.vmap(self._ham.updates)(self._batch(xs, "updates"))

    def step(
        self, xs: StatesLike, updates: States, dt: ScalarLike = 0.1, masks: PyTree | None = None
    ) -> States:
        """See `HAM.step`."""
        return self._ham.step(xs, updates, dt, masks)

    def recall(
        self, xs: StatesLike, *words: Any, key: Key | None = None, **keywords: Any
    ) -> Recall:
        """See `HAM.recall`; every field of the `Recall` has the batch axis.

        What is drawn at random with `key` is drawn for each example anew.
        """
        xs = self._batch(xs, "recall")
        if key is None:
            return jax.vmap(lambda x: self._ham.recall(x, *words, **keywords))(xs)
        checks.key(key, "HAM.recall: key")
        keys = jax.random.split(key, jax.tree.leaves(xs)[0].shape[0])
        recall = lambda x, k: self._ham.recall(x, *words, key=k, **keywords)
        return jax.vmap(recall)(xs, keys)

    def vectorize(self) -> "VectorizedHAM":
        """This memory: it takes batches."""
        return self

    def unvectorize(self) -> "HAM":
        """The same memory for one example."""
        return self._ham

    def _batch(self, xs: StatesLike, where: str) -> StatesLike:
        """The states; raise unless all have a leading axis of one length."""
        sizes = {}
        for name, x in graph.items(xs) if hasattr(xs, "__len__") else ():
            shape = getattr(x, "shape", ())
            sizes[name] = shape[0] if shape else None
        if None in sizes.values() or len(set(sizes.values())) > 1:
            raise ValueError(
                f"VectorizedHAM.{where}: every state must have the same leading axis; "
                f"sizes {sizes} came. One example goes through ham.unvectorize()."
            )
        return xs
