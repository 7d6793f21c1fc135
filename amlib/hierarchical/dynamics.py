"""How the states of a hierarchical memory move: Euler's method, and the methods of `descent`."""

from typing import Any

import equinox as eqx
import jax
import jax.flatten_util
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks
from amlib.descent.flows import descend
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
            known = dict(graph.items(tree)) if hasattr(tree, "__len__") else {}
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
    checks.at_least(steps, 1, "HAM.recall: steps")
    if save_every is not None:
        checks.at_least(save_every, 1, "HAM.recall: save_every")
        save_every = min(int(save_every), int(steps))
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
    return _recall(ham, xs, dt, free, method, tol, (int(steps), save_every))


@eqx.filter_jit
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
        tol = float(jnp.finfo(way.start.dtype).eps) ** 0.5
    tol = checks.as_float(tol, "HAM.recall: tol").astype(way.start.dtype)
    if method is None:
        end = _euler(way, dt.astype(way.start.dtype), tol, *limits)
    else:
        end = _descend(way, method, tol, *limits)
    values = [x.astype(dtypes[n]) for n, x in graph.items(end.x)]
    return eqx.tree_at(lambda r: r.x, end, graph.rebuild(ham.neurons, values))


class _Way:
    """The free states as one vector, and what moves it."""

    def __init__(self, ham: Any, xs: Any, free: tuple[Name, ...]):
        self.ham, self.xs, self.free = ham, dict(graph.items(xs)), free
        dtype = max((x.dtype for x in self.xs.values()), key=lambda d: jnp.finfo(d).bits)
        self.xs = {name: x.astype(dtype) for name, x in self.xs.items()}
        layers = dict(graph.items(ham.neurons))
        self.clamped = {n: layers[n].activations(x) for n, x in self.xs.items() if n not in free}
        moving = {name: self.xs[name] for name in free}
        self.start, self.unravel = jax.flatten_util.ravel_pytree(moving)
        rates = {
            n: jnp.broadcast_to((1 / layers[n].tau).astype(dtype), moving[n].shape) for n in free
        }
        self.rate = jax.flatten_util.ravel_pytree(rates)[0]

    def states(self, v: Array) -> Any:
        """The state of every layer, clamped ones too, in the user's container."""
        xs = self.xs | self.unravel(v)
        return graph.rebuild(self.ham.neurons, [xs[n] for n, _ in graph.items(self.ham.neurons)])

    def at(self, v: Array) -> tuple[Any, Any]:
        """Activations and states of every layer."""
        xs = self.states(v)
        layers = graph.items(self.ham.neurons)
        made = [self.clamped[n] if n in self.clamped else la.activations(xs[n]) for n, la in layers]
        return graph.rebuild(self.ham.neurons, made), xs

    def energy(self, v: Array) -> Array:
        """The energy."""
        return energies.energy(self.ham, *self.at(v))

    def parts(self, v: Array) -> Any:
        """The energy in parts."""
        return energies.energy_tree(self.ham, *self.at(v))

    def direction(self, v: Array) -> Array:
        """What the free states move against: the forces over the time constants."""
        pull = energies.forces(self.ham, *self.at(v), self.free)
        return self.rate * jax.flatten_util.ravel_pytree(pull)[0]


def _euler(way: _Way, dt: Array, tol: Array, steps: int, save_every: int | None) -> Recall:
    every = save_every or 1

    def step(v: Array, _: None) -> tuple[Array, None]:
        return v - dt * way.direction(v), None

    def segment(v: Array, _: None) -> tuple[Array, Array]:
        v, _ = lax.scan(step, v, None, length=every, unroll=every <= 8)
        return v, v

    short = steps <= 8  # the depth of a trained network: no loop, no copies of the carry
    v, frames = lax.scan(segment, way.start, None, length=steps // every, unroll=short)
    frames = jnp.concatenate([way.start[None], frames])
    v, _ = lax.scan(step, v, None, length=steps % every)
    times = dt * every * jnp.arange(frames.shape[0], dtype=dt.dtype)
    pull = way.direction(v)
    finite = jnp.isfinite(v).all() & jnp.isfinite(pull).all()
    result = RESULTS.where(jnp.max(jnp.abs(pull)) <= tol, RESULTS.converged, RESULTS.step_limit)
    result = RESULTS.where(finite, result, RESULTS.nonfinite)
    return Recall(
        way.states(v),
        way.energy(v),
        jnp.asarray(steps, jnp.int32),
        result,
        _record(way, frames, times, save_every),
    )


def _descend(way: _Way, method: Any, tol: Array, steps: int, save_every: int | None) -> Recall:
    def field(v: Array) -> tuple[Array, Array]:
        return way.energy(v), way.direction(v)

    end = descend(
        way.energy, way.start, method, max_steps=steps, tol=tol, save_every=save_every, field=field
    )
    if save_every is None:
        frames, times = (
            jnp.stack([way.start, end.x]),
            jnp.stack([jnp.zeros_like(end.energy), end.steps.astype(end.energy.dtype)]),
        )
    else:
        frames, times = end.trajectory.x, end.trajectory.time
    record = _record(way, frames, times, save_every)
    return Recall(way.states(end.x), end.energy, end.steps, end.result, record)


def _record(way: _Way, frames: Array, times: Array, save_every: int | None) -> HAMTrajectory:
    parts = lax.map(way.parts, frames)
    energy = sum(jax.tree.leaves(parts), jnp.zeros_like(times))
    x = None if save_every is None else jax.vmap(way.states)(frames)
    return HAMTrajectory(energy, parts, times, x)
