r"""Hierarchical associative memories: layers, synapses, and one energy.

$$E = \sum_{\text{layers}} \left( x \cdot \hat x - L(x) \right)
+ \sum_{\text{connections}} E_{\text{syn}}(\hat x, \dots), \qquad \hat x = \nabla L(x),$$

$$\tau \frac{dx}{dt} = -\frac{\partial E}{\partial \hat x}
= -x - \frac{\partial E_{\text{syn}}}{\partial \hat x}$$

The gradient of a layer's own term in its activation is its state (Legendre), so the dynamics
needs no derivative of an activation. The energy falls along the flow where the Lagrangians are
convex and every connection sends its signal to all of its layers.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks, _show as show
from amlib._compiled import compiled
from amlib._numbers import Numbers
from amlib._types import Key, Scalar, ScalarLike, States, StatesLike
from amlib.descent.gradients import Euler
from amlib.descent.methods import AbstractMethod
from amlib.descent.problems import AbstractProblem
from amlib.descent.trajectory import Recall
from amlib.hierarchical import describe, drawing, dynamics, energies, graph
from amlib.hierarchical.graph import Connection
from amlib.hierarchical.layers import NeuronLayer
from amlib.hierarchical.vectorized import VectorizedHAM
from amlib.memory import AbstractMemory, Asked
from amlib.spaces import AbstractSpace, Reals

# Keywords of the other families of memories, and what is said here.
_ELSEWHERE = {
    **dict.fromkeys(("max_sweeps", "nsteps"), "The number of steps is max_steps=."),
    "order": "All layers move at once: choose a method=.",
    "record": "What the trajectory keeps is save_every=.",
    "beta": "Inverse temperatures are fields of the layers and synapses.",
    "project": "States are free; a layer's Lagrangian bounds its activations.",
}


class HAM(AbstractMemory):
    r"""A hierarchical associative memory: a hypergraph of layers and synapses with one energy.

    ```python
    ham = am.HAM(
        {"image": am.TanhLayer(784), "label": am.SoftmaxLayer(10), "hidden": am.ReluLayer(500)},
        {"see": am.DenseSynapse(), "name": am.DenseSynapse()},
        [(("image", "hidden"), "see"), (("label", "hidden"), "name")],
    )
    xs, ham = ham.init_states_and_params(jax.random.key(0))
    xs["image"] = image
    end = ham.recall(xs, steps=20, dt=0.2, clamp="image")
    ```

    States and activations come and go in a container like that of the layers: a list or a dict.

    **Arguments:**

    - `neurons`: the layers, `NeuronLayer`s in a list or in a dict by name.
    - `hypersynapses`: the synapses, in a list or a dict: any callable from activations to a
      scalar energy. Those of this library may come without weights (`DenseSynapse()`);
      `init_states_and_params` then makes them to the shapes of the layers.
    - `connections`: pairs of layers and a synapse, or `Connection`s. A synapse may serve several
      connections and a layer may be connected to itself.

    **Raises:** `ValueError` for an unknown name (with the nearest one), a synapse that does not
    take the shapes of its layers, and an energy that is no scalar; `TypeError` for other kinds.

    **Reference:** Krotov 2021 (arXiv 2107.06446); Hoover et al. 2022, "A universal abstraction
    for hierarchical Hopfield networks"; the energy is eq. 2 of Krotov and Hopfield 2021 (arXiv
    2008.06996).
    """

    # A list or a dict, as it came: a type checker cannot know by what it is indexed.
    neurons: Any
    hypersynapses: Any
    connections: tuple[Connection, ...] = eqx.field(converter=graph.as_connections, static=True)

    space: ClassVar[AbstractSpace] = Reals()

    def __check_init__(self):
        graph.check_container(self.neurons, "HAM: neurons")
        graph.check_container(self.hypersynapses, "HAM: hypersynapses")
        for name, layer in graph.items(self.neurons):
            if not isinstance(layer, NeuronLayer):
                raise TypeError(
                    f"HAM: layer {name!r} must be a NeuronLayer; {type(layer).__name__} came. "
                    "Wrap its Lagrangian: NeuronLayer(lagrangian, shape)."
                )
        for name, synapse in graph.items(self.hypersynapses):
            if not callable(synapse):
                raise TypeError(
                    f"HAM: synapse {name!r} must be callable, from activations to a scalar; "
                    f"{type(synapse).__name__} came."
                )
        for connection in self.connections:
            where = f"HAM: connection {connection!r}"
            graph.check_name(connection.synapse, self.hypersynapses, where, "synapse")
            for name in connection.layers:
                graph.check_name(name, self.neurons, where, "layer")
        energies.initialised(self, None)  # the shapes fit together

    # -- the hypergraph --------------------------------------------------------------------------

    @property
    def layers(self) -> Any:
        """The layers: `neurons` by its other name."""
        return self.neurons

    @property
    def synapses(self) -> Any:
        """The synapses: `hypersynapses` by its other name."""
        return self.hypersynapses

    @property
    def n_neurons(self) -> int:
        """Number of layers."""
        return len(self.neurons)

    @property
    def n_hypersynapses(self) -> int:
        """Number of synapses."""
        return len(self.hypersynapses)

    @property
    def n_connections(self) -> int:
        """Number of connections."""
        return len(self.connections)

    def describe(self) -> None:
        """Print the hypergraph: layers, synapses and connections, with shapes and parameters."""
        print(show.plain(describe.page(self, drawing.svg)))

    def _page(self) -> show.Page:
        """The hypergraph with its picture, and the method of a recall."""
        page = describe.page(self, drawing.svg)
        method = [(show.line(self.default_method()),)]
        title = ", ".join([page.title, *show.size(self)])
        return page._replace(title=title, tables={**page.tables, "method": method})

    # -- states ----------------------------------------------------------------------------------

    def init_states(self, bs: int | None = None, key: Key | None = None) -> States:
        """Make a state for every layer.

        **Arguments:**

        - `bs`: how many examples, for `vectorize()`; `None` makes one, without a batch axis.
        - `key`: draws states from a standard normal distribution; without it they are zero.

        **Returns:** a list or dict as the layers are.
        """
        xs = [layer.init(bs) for _, layer in graph.items(self.neurons)]
        if key is not None:
            checks.key(key, "HAM.init_states: key")
            keys = jax.random.split(key, len(xs))
            xs = [jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, xs, strict=True)]
        return graph.rebuild(self.neurons, xs)

    def init_states_and_params(
        self, param_key: Key, bs: int | None = None, state_key: Key | None = None
    ) -> tuple[States, "HAM"]:
        """Make the weights of every synapse that has none, and a state for every layer.

        **Arguments:**

        - `param_key`: for the weights.
        - `bs`, `state_key`: see `init_states`.

        **Returns:** the states, and a new HAM with weights.
        """
        checks.key(param_key, "HAM.init_states_and_params: param_key")
        synapses = energies.initialised(self, param_key)
        ham = eqx.tree_at(lambda h: h.hypersynapses, self, synapses)
        return ham.init_states(bs, state_key), ham

    def activations(self, xs: StatesLike) -> States:
        """The activation of every layer: the gradient of its Lagrangian in its state.

        **Arguments:**

        - `xs`: a state per layer.

        **Returns:** an activation per layer, of the same shapes.

        **Raises:** `ValueError` for a missing or unknown layer, and a state of another shape.
        """
        xs = _checked(self, xs, "HAM.activations: xs")
        return _activations(self, xs)

    # -- the energy ------------------------------------------------------------------------------

    def neuron_energies(self, xhats: StatesLike, xs: StatesLike) -> PyTree[Scalar]:
        r"""The energy of every layer, $x \cdot \hat x - L(x)$, in a container like the layers."""
        xhats, xs = _both(self, xhats, xs, "HAM.neuron_energies")
        return _energy_tree(self, xhats, xs)["neurons"]

    def connection_energies(self, xhats: StatesLike) -> list[Scalar]:
        """The energy of every connection, in their order."""
        xhats = _checked(self, xhats, "HAM.connection_energies: xhats")
        return _connection_energies(self, xhats)

    def energy_tree(self, xhats: StatesLike, xs: StatesLike) -> dict[str, PyTree[Scalar]]:
        """The energy in parts.

        **Arguments:**

        - `xhats`: an activation per layer.
        - `xs`: a state per layer.

        **Returns:** `{"neurons": as the layers, "connections": a list}`, scalars; `energy` is
        their sum.

        **Raises:** `ValueError` for a missing or unknown layer, and other shapes.
        """
        xhats, xs = _both(self, xhats, xs, "HAM.energy_tree")
        return _energy_tree(self, xhats, xs)

    def energy(self, xhats: StatesLike, xs: StatesLike | None = None) -> Scalar:
        """The energy of the whole memory: the sum of `energy_tree`.

        **Arguments:**

        - `xhats`: an activation per layer.
        - `xs`: a state per layer. With one argument only, it is the states, and the activations
          follow from them (the first published interface).

        **Returns:** a scalar.

        **Raises:** `ValueError` for a missing or unknown layer, and other shapes.
        """
        if xs is None:
            xs = xhats
            xhats = self.activations(xs)
        xhats, xs = _both(self, xhats, xs, "HAM.energy")
        return _energy(self, xhats, xs)

    def dEdact(self, xhats: StatesLike, xs: StatesLike, return_energy: bool = False) -> Any:
        r"""The gradient of the energy in every activation.

        $$\frac{\partial E}{\partial \hat x} = x + \frac{\partial E_{\text{syn}}}{\partial \hat x}$$

        No activation is differentiated: the layers' part of it is the state.

        **Arguments:**

        - `xhats`: an activation per layer.
        - `xs`: a state per layer.
        - `return_energy`: whether to return the energy too.

        **Returns:** a gradient per layer; with `return_energy` the pair of energy and gradients.

        **Raises:** `ValueError` for a missing or unknown layer, and other shapes.
        """
        xhats, xs = _both(self, xhats, xs, "HAM.dEdact")
        gradient = _forces(self, xhats, xs)
        return (_energy(self, xhats, xs), gradient) if return_energy else gradient

    def dEdg(self, xs: StatesLike) -> States:
        """The gradient of the energy in every activation, at given states; see `dEdact`."""
        return self.dEdact(self.activations(xs), xs)

    def updates(self, xs: StatesLike) -> States:
        """The direction in which every state moves: minus `dEdg`."""
        return jax.tree.map(lambda g: -g, self.dEdg(xs))

    # -- dynamics --------------------------------------------------------------------------------

    def step(
        self, xs: StatesLike, updates: StatesLike, dt: ScalarLike = 0.1, masks: PyTree | None = None
    ) -> States:
        r"""One step of Euler's method.

        $$x \leftarrow x + \frac{\Delta t}{\tau} \, m \, u$$

        **Arguments:**

        - `xs`: a state per layer, with or without batch axes.
        - `updates`: the direction $u$ per layer, see `updates`.
        - `dt`: the step size, in units of `tau`.
        - `masks`: $m$ per layer, 1 where the state may move and 0 where it is clamped; `None`
          lets everything move.

        **Returns:** the next states.
        """
        return dynamics.euler_step(self, xs, updates, dt, masks)

    _where: ClassVar[str] = "HAM.recall"
    _words: ClassVar[tuple[str, ...]] = ("steps", "dt")
    _positional: ClassVar[tuple[str, ...]] = ("steps", "dt")
    _elsewhere: ClassVar[dict[str, str]] = _ELSEWHERE

    def default_method(self) -> AbstractMethod:
        r"""`Euler(0.1)`: exactly `max_steps` steps along

        $$\tau \frac{dx}{dt} = -\frac{\partial E}{\partial \hat x}$$
        """
        return Euler(0.1)

    def _in_the_verb(self, words: dict[str, Any], asked: Asked) -> Asked:
        """`steps` is the step limit, and `dt` the step of Euler's method."""
        if "steps" in words:
            if asked.max_steps is not None:
                raise TypeError("HAM.recall: steps= and max_steps= are the same; both came.")
            asked = dataclasses.replace(asked, max_steps=words["steps"])
        if "dt" in words and asked.method is None:  # a method has a step size of its own
            asked = dataclasses.replace(asked, method=Euler(words["dt"]))
        return asked

    def _start(self, x0: StatesLike, where: str, space: AbstractSpace) -> States:
        """A state per layer."""
        xs = _checked(self, x0, f"{where}: xs")
        for name, x in graph.items(xs):
            if not checks.is_traced(x):  # while tracing, the result says it: no check in training
                checks.finite(x, f"{where}: layer {name!r}")
        return xs

    def _held(self, x: States, clamp: PyTree, space: AbstractSpace, where: str) -> dynamics.Held:
        """Names of layers, or masks by names."""
        del space
        return dynamics.held(self, x, clamp, where)

    def _problem(
        self,
        x: States,
        held: dynamics.Held | None,
        space: AbstractSpace,
        bounded: Sequence[Numbers],
    ) -> tuple[AbstractProblem, States]:
        """The layers that are free."""
        del space, bounded
        return dynamics.HAMProblem.of(self, x, held)

    def _end(self, end: Recall, problem: Any, x0: States, saved: bool) -> Recall:
        """A state for every layer."""
        return super()._end(problem.finish(end, saved), problem, x0, saved)

    # -- batches ---------------------------------------------------------------------------------

    def vectorize(self) -> "VectorizedHAM":
        """The same memory over batches: every state gains a leading axis."""
        return VectorizedHAM(self)

    def unvectorize(self) -> "HAM":
        """This memory: it takes one example."""
        return self

    def vactivations(self, xs: StatesLike) -> States:
        """`activations` of a batch (the first published interface)."""
        return self.vectorize().activations(xs)

    def venergy(self, xs: StatesLike) -> Float[Array, " batch"]:
        """`energy` of a batch of states (the first published interface)."""
        return jax.vmap(lambda x: self.energy(x))(xs)

    def vdEdg(self, xs: StatesLike) -> States:
        """`dEdg` of a batch (the first published interface)."""
        return jax.vmap(self.dEdg)(xs)

    def vupdates(self, xs: StatesLike) -> States:
        """`updates` of a batch (the first published interface)."""
        return jax.vmap(self.updates)(xs)


def _checked(ham: HAM, values: StatesLike, where: str) -> States:
    """An array per layer, of its shape."""
    shapes = [layer.shape for _, layer in graph.items(ham.neurons)]
    return graph.check_states(ham.neurons, values, shapes, where)


def _both(ham: HAM, xhats: StatesLike, xs: StatesLike, where: str) -> tuple[States, States]:
    """Activations and states, both checked."""
    return _checked(ham, xhats, f"{where}: xhats"), _checked(ham, xs, f"{where}: xs")


# -- compiled once per shape and kind of memory ---------------------------------------------------

_activations = compiled(energies.activations)
_connection_energies = compiled(energies.connection_energies)
_energy_tree = compiled(energies.energy_tree)
_energy = compiled(energies.energy)


@compiled
def _forces(ham: HAM, xhats: States, xs: States) -> States:
    """The gradient in every activation."""
    names = tuple(name for name, _ in graph.items(ham.neurons))
    made = energies.forces(ham, xhats, xs, names)
    return graph.rebuild(ham.neurons, [made[name] for name in names])
