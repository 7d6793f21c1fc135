"""How the states of a hierarchical memory move: Euler's method, and the methods of `descent`."""

from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks, _shards as shards
from amlib.descent.flows import descend
from amlib.descent.stationary import rises
from amlib.descent.trajectory import RESULTS, Recall
from amlib.hierarchical import energies, graph
from amlib.hierarchical.graph import Name


class HAMTrajectory(eqx.Module):
    """The record of a recall of a hierarchical memory; all entries begin with the start.

    **Arguments:**

    - `energy`: the energies.
    - `parts`: their parts, as `HAM.energy_tree` gives them, each with a leading axis for time.
    - `time`: when: the number of steps taken times `dt`; for a flow the time.
    - `x`: a state per layer with a leading axis for time, or `None` if not asked for.
    """

    energy: Float[Array, "*batch T"]
    parts: dict[str, PyTree[Float[Array, "*batch T"]]]
    time: Float[Array, "*batch T"]
    x: Any = None

    @property
    def frames(self) -> Any:
        """The states, by the name that they have in other trajectories."""
        return self.x


def euler_step(ham: Any, xs: Any, updates: Any, dt: Any, masks: Any) -> Any:
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


def recall(
    ham: Any,
    xs: Any,
    steps: int,
    dt: Any,
    clamp: tuple[Name, ...],
    method: Any,
    tol: Any,
    save_every: int | None,
) -> Recall:
    """Let the states move, see `HAM.recall`."""
    steps = checks.integer(steps, 1, "HAM.recall: steps")
    if save_every is not None:
        save_every = min(checks.integer(save_every, 1, "HAM.recall: save_every"), steps)
    dt = checks.as_float(dt, "HAM.recall: dt")
    if checks.is_concrete(dt):
        checks.positive(dt, "HAM.recall: dt")
    free = tuple(name for name, _ in graph.items(ham.neurons) if name not in clamp)
    if not free:
        raise ValueError(
            "HAM.recall: clamp must leave a layer free to move; every layer is clamped."
        )
    for name, x in graph.items(xs):
        if checks.is_concrete(x):  # while tracing, the result says it: no check in a trained step
            checks.finite(x, f"HAM.recall: layer {name!r}")
    return _recall(ham, xs, dt, free, method, tol, (steps, save_every))


@eqx.filter_jit
@shards.local
def _recall(
    ham: Any,
    xs: Any,
    dt: Array,
    free: tuple[Name, ...],
    method: Any,
    tol: Any,
    limits: tuple[int, int | None],
) -> Recall:
    dtypes = {name: x.dtype for name, x in graph.items(xs)}
    ham, xs, dt = checks.widen((ham, xs, dt))
    way = _Way(ham, xs, free)
    if tol is None:
        tol = float(jnp.finfo(way.dtype).eps) ** 0.5
    tol = checks.as_float(tol, "HAM.recall: tol").astype(way.dtype)
    if method is None:
        end = _euler(way, dt.astype(way.dtype), tol, *limits)
    else:
        end = _descend(way, method, tol, *limits)
    values = [x.astype(dtypes[n]) for n, x in graph.items(end.x)]
    return eqx.tree_at(lambda r: r.x, end, graph.rebuild(ham.neurons, values))


Moving = dict[Name, Array]
"""The states of the free layers."""


class _Way:
    """The free states, and what moves them."""

    def __init__(self, ham: Any, xs: Any, free: tuple[Name, ...]):
        self.ham, self.xs, self.free = ham, dict(graph.items(xs)), free
        self.dtype = max((x.dtype for x in self.xs.values()), key=lambda d: jnp.finfo(d).bits)
        self.xs = {name: x.astype(self.dtype) for name, x in self.xs.items()}
        layers = dict(graph.items(ham.neurons))
        self.clamped = {n: layers[n].activations(x) for n, x in self.xs.items() if n not in free}
        self.start = {name: self.xs[name] for name in free}
        self.rate = {n: (1 / layers[n].tau).astype(self.dtype) for n in free}

    def states(self, v: Moving) -> Any:
        """The state of every layer, clamped ones too, in the user's container."""
        xs = self.xs | v
        return graph.rebuild(self.ham.neurons, [xs[n] for n, _ in graph.items(self.ham.neurons)])

    def at(self, v: Moving) -> tuple[Any, Any]:
        """Activations and states of every layer."""
        xs = self.states(v)
        layers = graph.items(self.ham.neurons)
        made = [self.clamped[n] if n in self.clamped else la.activations(xs[n]) for n, la in layers]
        return graph.rebuild(self.ham.neurons, made), xs

    def energy(self, v: Moving) -> Array:
        """The energy."""
        return energies.energy(self.ham, *self.at(v))

    def measure(self, v: Moving) -> tuple[Any, Array]:
        """The energy in parts, and the size of what they sum, which its rounding goes by."""
        xhats, xs = self.at(v)
        parts = energies.energy_tree(self.ham, xhats, xs)
        # Of a layer: its products, and of its Lagrangian say one a unit (the log 2 of log cosh).
        products = [
            jnp.sum(jnp.abs(xs[n] * xhats[n]) + 1) for n, _ in graph.items(self.ham.neurons)
        ]
        sizes = [jnp.abs(part) for part in jax.tree.leaves(parts)] + products
        return parts, sum(sizes, jnp.zeros((), self.dtype))

    def direction(self, v: Moving) -> Moving:
        """What the free states move against: the forces over the time constants."""
        pull = energies.forces(self.ham, *self.at(v), self.free)
        return {name: self.rate[name] * pull[name] for name in self.free}


def _euler(way: _Way, dt: Array, tol: Array, steps: int, save_every: int | None) -> Recall:
    # States stay apart, so that the compiler drops what the states that are read do not need: in
    # the last steps of a deep network, the forces on its lower layers.
    every = save_every or 1

    def step(v: Moving) -> Moving:
        pull = way.direction(v)
        return {name: x - dt * pull[name] for name, x in v.items()}

    def several(v: Moving, count: int) -> Moving:
        if count <= 8:  # the depth of a trained network: no loop, no copies of the carry
            for _ in range(count):
                v = step(v)
            return v
        return lax.scan(lambda v, _: (step(v), None), v, None, length=count)[0]

    def segment(v: Moving, _: None) -> tuple[Moving, Any]:
        v = several(v, every)
        return v, (way.measure(v), None if save_every is None else v)

    v = way.start
    if steps <= 8:
        kept = [v := several(v, every) for _ in range(steps // every)]
        frames = jax.tree.map(lambda *x: jnp.stack(x), way.start, *kept)
        measures = lax.map(way.measure, frames)
    else:
        first = (way.measure(v), None if save_every is None else v)
        v, kept = lax.scan(segment, v, None, length=steps // every)
        measures, frames = jax.tree.map(lambda x, xs: jnp.concatenate([x[None], xs]), first, kept)
    v = several(v, steps % every)
    times = dt * every * jnp.arange(1 + steps // every, dtype=dt.dtype)
    record = _record(way, measures, frames if save_every else None, times)
    pull = jax.tree.leaves(way.direction(v))
    finite = jnp.stack([jnp.isfinite(x).all() for x in [*jax.tree.leaves(v), *pull]]).all()
    still = jnp.stack([jnp.max(jnp.abs(x), initial=0) <= tol for x in pull]).all()
    result = RESULTS.step_limit
    if not any(c.no_feedback for c in way.ham.connections):  # with feedback, it should fall
        rose = rises(record.energy[:-1], record.energy[1:], measures[1][1:]).any()
        result = RESULTS.where(rose, RESULTS.ascent, result)
    result = RESULTS.where(still, RESULTS.converged, result)
    result = RESULTS.where(finite, result, RESULTS.nonfinite)
    return Recall(way.states(v), way.energy(v), jnp.asarray(steps, jnp.int32), result, record)


def _descend(way: _Way, method: Any, tol: Array, steps: int, save_every: int | None) -> Recall:
    start, apart = jax.flatten_util.ravel_pytree(way.start)

    def field(v: Array) -> tuple[Array, Array]:
        moving = apart(v)
        return way.energy(moving), jax.flatten_util.ravel_pytree(way.direction(moving))[0]

    end = descend(
        lambda v: way.energy(apart(v)),
        start,
        method,
        max_steps=steps,
        tol=tol,
        save_every=save_every,
        field=field,
    )
    if save_every is None:
        frames, times = (
            jnp.stack([start, end.x]),
            jnp.stack([jnp.zeros_like(end.energy), end.steps.astype(end.energy.dtype)]),
        )
    else:
        frames, times = end.trajectory.x, end.trajectory.time
    frames = jax.vmap(apart)(frames)
    measures = lax.map(way.measure, frames)
    record = _record(way, measures, None if save_every is None else frames, times)
    return Recall(way.states(apart(end.x)), end.energy, end.steps, end.result, record)


def _record(way: _Way, measures: Any, frames: Moving | None, times: Array) -> HAMTrajectory:
    parts, _ = measures
    energy = sum(jax.tree.leaves(parts), jnp.zeros_like(times))
    return HAMTrajectory(
        energy, parts, times, None if frames is None else jax.vmap(way.states)(frames)
    )
