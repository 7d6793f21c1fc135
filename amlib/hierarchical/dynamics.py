"""How the states of a hierarchical memory move: what the methods of `descent` work on."""

import copy
import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks
from amlib._types import Key, ScalarLike, States, StatesLike
from amlib.descent.gradients import Euler
from amlib.descent.methods import AbstractMethod
from amlib.descent.problems import AbstractProblem
from amlib.descent.trajectory import Recall, StateTrajectory
from amlib.hierarchical import energies, graph
from amlib.hierarchical.graph import Name
from amlib.spaces import AbstractReals, AbstractSpace

if TYPE_CHECKING:
    from amlib.hierarchical.ham import HAM


def euler_step(
    ham: "HAM", xs: StatesLike, updates: StatesLike, dt: ScalarLike, masks: PyTree | None
) -> States:
    """One step of Euler's method, see `HAM.step`."""
    names = [name for name, _ in graph.items(ham.neurons)]
    for tree, where in ((xs, "xs"), (updates, "updates"), (masks, "masks")):
        for name in names if tree is not None else ():
            known = dict(graph.items(tree)) if tree is not None and hasattr(tree, "__len__") else {}
            if name not in known:
                raise ValueError(
                    f"HAM.step: {where} must have an entry for every layer; {name!r} is missing."
                )
    made = []
    for name, layer in graph.items(ham.neurons):
        x = checks.as_float(xs[name], f"HAM.step: layer {name!r}")
        move = checks.as_float(updates[name], f"HAM.step: update {name!r}").astype(x.dtype)
        if masks is not None:
            move = move * jnp.asarray(masks[name]).astype(x.dtype)
        made.append(x + (jnp.asarray(dt) / layer.tau).astype(x.dtype) * move)
    return graph.rebuild(ham.neurons, made)


Moving: TypeAlias = dict[Name, Array]
"""The states of the free layers."""

Parts: TypeAlias = dict[str, PyTree[Array]]
"""An energy in parts, as `HAM.energy_tree` gives it."""

Masks: TypeAlias = dict[Name, Array]
"""Of layers that move in part, which units are held."""


class Held(NamedTuple):
    """What of a hierarchical memory does not move: whole layers, and units of others."""

    layers: tuple[Name, ...]
    masks: Masks


def held(ham: "HAM", xs: States, clamp: PyTree, where: str) -> Held:
    """What is clamped: names of layers, or masks by the names of layers; raise for others."""
    masks: Masks = {}
    if isinstance(clamp, Mapping):
        whole = []
        for name, mask in clamp.items():
            graph.check_name(name, ham.neurons, where, "layer")
            mask = checks.mask(mask, xs[name].shape, f"{where}: layer {name!r}")
            known = checks.is_concrete(mask)
            if known and mask.all():
                whole.append(name)
            elif not (known and not mask.any()):
                masks[name] = jnp.asarray(mask)
        layers = tuple(whole)
    else:
        layers = graph.as_names(clamp, where)
        for name in layers:
            graph.check_name(name, ham.neurons, where, "layer")
    if len(set(layers)) == len(ham.neurons):
        raise ValueError(f"{where} must leave a layer free to move; every layer is clamped.")
    return Held(layers, masks)


class _Way:
    """The free states, and what moves them: the whole energy, or its `core`, the connections."""

    def __init__(self, ham: "HAM", xs: States, held: Held):
        self.ham, self.held, self.core = ham, held, False
        xs = dict(graph.items(xs))
        self.free = tuple(name for name in xs if name not in held.layers)
        self.dtype = max((x.dtype for x in xs.values()), key=lambda d: jnp.finfo(d).bits)
        self.xs = {name: x.astype(self.dtype) for name, x in xs.items()}
        layers = dict(graph.items(ham.neurons))
        self.clamped = {n: layers[n].activations(self.xs[n]) for n in xs if n in held.layers}
        self.start = {name: self.xs[name] for name in self.free}
        self.rate = {n: (1 / layers[n].tau).astype(self.dtype) for n in self.free}

    def states(self, v: Moving) -> States:
        """The state of every layer, clamped ones too, in the user's container."""
        xs = self.xs | v
        return graph.rebuild(self.ham.neurons, [xs[n] for n, _ in graph.items(self.ham.neurons)])

    def at(self, v: Moving) -> tuple[States, States]:
        """Activations and states of every layer."""
        xs = self.states(v)
        layers = graph.items(self.ham.neurons)
        made = [self.clamped[n] if n in self.clamped else la.activations(xs[n]) for n, la in layers]
        return graph.rebuild(self.ham.neurons, made), xs

    def energy(self, v: Moving) -> Array:
        """The energy."""
        xhats, xs = self.at(v)
        if not self.core:
            return energies.energy(self.ham, xhats, xs)
        return sum(energies.connection_energies(self.ham, xhats), jnp.zeros((), self.dtype))

    def measure(self, v: Moving) -> tuple[Parts, Array]:
        """The energy in parts, and the size of what they sum, which its rounding goes by."""
        xhats, xs = self.at(v)
        parts = energies.energy_tree(self.ham, xhats, xs)
        # Of a layer: its products, and of its Lagrangian say one a unit (the log 2 of log cosh).
        products = [
            jnp.sum(jnp.abs(xs[n] * xhats[n]) + 1) for n, _ in graph.items(self.ham.neurons)
        ]
        summands = parts["connections"] if self.core else parts
        sizes = [jnp.abs(part) for part in jax.tree.leaves(summands)]
        return parts, sum(sizes if self.core else sizes + products, jnp.zeros((), self.dtype))

    def direction(self, v: Moving) -> Moving:
        """What the free states move against: the forces over the time constants."""
        xhats, xs = self.at(v)
        if self.core:
            pull = energies.signals(self.ham, xhats, self.free)
        else:
            pull = energies.forces(self.ham, xhats, xs, self.free)
        return {name: self.rate[name] * pull[name] for name in self.free}

    def field(self, v: Moving) -> tuple[Array, Moving]:
        """The energy, and the direction."""
        return self.energy(v), self.direction(v)


class HAMProblem(AbstractProblem):
    """A hierarchical memory with some of its layers held: its state is that of the others."""

    way: _Way = eqx.field(kw_only=True)

    @classmethod
    def of(cls, ham: "HAM", xs: States, held: Held | None) -> tuple["HAMProblem", Moving]:
        """The problem, and the start."""
        way = _Way(ham, xs, Held((), {}) if held is None else held)
        falls = not any(c.no_feedback for c in ham.connections)  # with feedback, it should fall
        mask = None
        if way.held.masks:
            whole = {
                n: way.held.masks.get(n, jnp.zeros(x.shape, bool)) for n, x in way.start.items()
            }
            mask = whole, way.start
        return cls(way.energy, field=way.field, held=mask, falls=falls, way=way), way.start

    def core(self) -> "HAMProblem":
        """The same without the layers' own energy, and so without the decay of their states."""
        way = copy.copy(self.way)
        way.core = True
        return dataclasses.replace(self, energy=way.energy, field=way.field, way=way)

    def grad(self, x: Moving) -> Moving:
        """What the free states move against."""
        return self.released(self.way.direction(x))

    def measure(self, x: Moving) -> tuple[Parts, Array]:
        """See `Problem`."""
        return self.way.measure(x)

    def total(self, parts: Parts) -> Array:
        """See `Problem`."""
        leaves = jax.tree.leaves(parts)
        summed = jax.tree.leaves(parts["connections"]) if self.way.core else leaves
        return sum(summed, jnp.zeros_like(leaves[0]))

    def record(
        self, states: Moving | None, energy: Array, time: Array, parts: Parts
    ) -> StateTrajectory:
        """Energies in parts, and where they were asked for the states of every layer."""
        states = None if states is None else jax.vmap(self.way.states)(states)
        return StateTrajectory(states, energy, time, parts)

    def finish(self, end: Recall, saved: bool) -> Recall:
        """The result with a state for every layer, and with energies in parts."""
        record = end.trajectory
        if record is None or record.parts is None:
            if record is None:
                frames = jax.tree.map(lambda a, b: jnp.stack([a, b]), self.way.start, end.x)
                at = end.steps.astype(end.energy.dtype) if end.time is None else end.time
                times = jnp.stack([jnp.zeros_like(at), at])
            else:
                frames, times = record.frames, record.time
            parts, _ = lax.map(self.way.measure, frames)
            record = self.record(frames if saved else None, self.total(parts), times, parts)
        return dataclasses.replace(end, x=self.way.states(end.x), trajectory=record)


class CoreEuler(AbstractMethod):
    r"""Take exactly so many steps along the connections' energy, without the decay of the states.

    $$x \leftarrow x - \frac{\Delta t}{\tau} \frac{\partial E_{\text{core}}}{\partial \hat x},
    \qquad E_{\text{core}} = \sum_{\text{connections}} E_{\text{syn}}(\hat x, \dots)$$

    It is the step of the published Energy Transformer, and for hierarchical memories alone. The
    whole energy has the layers' own $x \cdot \hat x - L(x)$ besides, whose gradient in an
    activation is the state; the steps of `Euler` move against both, so that states decay. Which
    energy falls:

    | method | a state moves against | what falls, but for long steps |
    |---|---|---|
    | `CoreEuler(dt)` | $\partial E_{\text{core}} / \partial \hat x$ | the core energy |
    | `Euler(dt)`, and all others | $x + \partial E_{\text{core}} / \partial \hat x$ | the whole |

    Both fall since $\partial \hat x / \partial x$, the Hessian of a convex Lagrangian, is positive
    semidefinite. The energies of this method's `Recall` are core energies, and `trajectory.parts`
    has all parts. A state whose activation has come to rest may go on growing, as under layer
    normalisation, so it takes a number of steps and does not wait for rest.

    **Arguments:**

    - `dt`: $\Delta t$, > 0, in units of `tau`; in the paper $\alpha$.
    - `steps`: how many steps where `max_steps` is not given, at least 1.
    - `remat`: see `Euler`.

    **Raises:** `ValueError` for values out of range; `TypeError` where the memory is no hierarchy.

    **Reference:** Hoover et al. 2023 (arXiv 2302.07253), eq. 7, and its code: 12 steps of 0.1.
    """

    dt: Float[Array, ""] = eqx.field(converter=checks.positive_field("dt"), default=0.1)
    steps: int = eqx.field(
        static=True, converter=lambda n: checks.integer(n, 1, "CoreEuler: steps"), default=12
    )
    remat: bool = eqx.field(static=True, default=True, kw_only=True)

    space: ClassVar[type[AbstractSpace]] = AbstractReals
    trees: ClassVar[bool] = True

    def check(self, max_steps: int | None) -> int:
        """The number of steps: the method's own where `max_steps` is not given."""
        return super().check(self.steps if max_steps is None else max_steps)

    def run(
        self,
        problem: AbstractProblem,
        x0: PyTree[Array],
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """See `AbstractMethod`: Euler's method on the core energy."""
        if not isinstance(problem, HAMProblem):
            raise TypeError(
                "CoreEuler: must move a hierarchical memory, a HAM or an EnergyTransformer, whose "
                "energy is of layers and connections; another came. Its steps along the whole "
                "energy are those of Euler(dt)."
            )
        steps = Euler(self.dt, remat=self.remat)
        return steps.run(problem.core(), x0, key, max_steps, save_every)
