"""Descent by flipping bits, of any scalar function of a state in {-1,+1}^D.

One scan serves all the orders that visit one bit at a time: try it, keep the flip by the
acceptance rule. States are spins of any shape; a bit is an index into the flattened state.
Nothing here knows a model.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from amlib._types import EnergyFn, Key
from amlib.descent.derivatives import flipped_state, freeze, visited_state, with_derivative
from amlib.descent.incremental import FlipEvaluator, Path
from amlib.descent.trajectory import RESULTS, Recall, Trajectory

VisitOrder: TypeAlias = Literal["permutation", "sequential", "random"]
VISIT_ORDERS: tuple[str, ...] = get_args(VisitOrder)
"""Orders that visit one bit at a time: Glauber dynamics keeps the Boltzmann law under each."""

ORDERS: tuple[str, ...] = (*VISIT_ORDERS, "greedy", "synchronous")

_BLOCK = 2**18  # elements evaluated at once where all flips are compared


def visit(
    energy: EnergyFn, x0: Array, idx: Integer[Array, " T"], *, path: Path = "auto"
) -> tuple[Array, Trajectory]:
    """Try the bits `idx` one after the other; keep a flip only if the energy falls strictly.

    **Arguments:**

    - `energy`: a function from a state to a scalar.
    - `x0`: the starting state, -1/+1.
    - `idx`: the bits to visit, each in [0, D).
    - `path`: see `FlipEvaluator`.

    **Returns:** the final state, and a `Trajectory` of `T` visits.
    """
    evaluator = FlipEvaluator(freeze(energy, x0), x0, path)
    T = idx.shape[0]
    if T == 0:
        none = jnp.zeros((0,), evaluator.out.dtype)
        return x0, Trajectory(x0, _compact(idx, evaluator.D), jnp.zeros((0,), bool), none)
    # Carried values are evaluated afresh once per chunk of about D visits, which bounds drift.
    chunks = math.ceil(T / max(evaluator.D, 256)) if evaluator.path == "incremental" else 1
    length = math.ceil(T / chunks)
    # The barrier keeps XLA from drawing the bits again inside the loop.
    bits = lax.optimization_barrier(jnp.pad(idx, (0, chunks * length - T)))
    bits = bits.reshape(chunks, length)
    valid = (np.arange(chunks * length) < T).reshape(chunks, length)
    padded = not valid.all()

    def loop(ready):
        def chunk(x, bits_and_valid):
            bits, valid = bits_and_valid
            fell = (lambda e, new, ok: (new < e) & ok) if padded else (lambda e, new, _: new < e)
            return _try_bits(ready, x, bits, fell, valid)

        return lax.scan(chunk, lax.stop_gradient(x0), (bits, jnp.asarray(valid)))

    x, record = evaluator.run(loop)
    accepted, energies = (a.reshape(-1)[:T] for a in record)
    energies = with_derivative(energy, energies, x0, (idx, accepted), visited_state)
    return x, Trajectory(x0, _compact(idx, evaluator.D), accepted, energies)


def sweep(
    energy: EnergyFn,
    x0: Array,
    key: Key,
    *,
    order: VisitOrder = "permutation",
    max_sweeps: int = 100,
    record: int = 16,
    path: Path = "auto",
) -> Recall:
    """Sweep over the bits until no single flip lowers the energy.

    After each sweep all flips are compared at once: cheaper than a sweep that changes nothing,
    and a proof in every order.

    **Arguments:**

    - `energy`, `x0`, `path`: as for `visit`.
    - `key`: a fresh order of visits for each sweep comes from it.
    - `order`: `"permutation"`, `"sequential"` or `"random"`.
    - `max_sweeps`: the step limit, at least 1.
    - `record`: how many sweeps the trajectory records, at most `max_sweeps`.

    **Returns:** a `Recall` whose trajectory has `min(record, max_sweeps) * D` visits; those that
    were not needed are recorded as not accepted, at the final energy.
    """
    evaluator = FlipEvaluator(freeze(energy, x0), x0, path)

    def step(ready, x, k, done):
        bits = visiting_order(jax.random.fold_in(key, k), evaluator.D, order)
        x, (accepted, energies) = _try_bits(ready, x, bits, lambda e, new, _: (new < e) & ~done)
        fixed = _is_fixed(ready, x, done)
        result = RESULTS.where(fixed, RESULTS.converged, RESULTS.step_limit)
        return x, (bits, accepted, energies), result

    return _iterate(evaluator, energy, x0, step, evaluator.D, max_sweeps, record)


def synchronous(
    energy: EnergyFn, x0: Array, *, max_sweeps: int = 100, record: int = 16, path: Path = "auto"
) -> Recall:
    """Flip at once every bit whose own flip would lower the energy, until nothing changes.

    The energy may rise, and the dynamics may end on a 2-cycle (Goles-Chacc et al. 1985), which
    is detected and reported. The energies recorded within a sweep are those before it; the last
    entry of each sweep holds the energy after it, and its frame the state after it.
    """
    evaluator = FlipEvaluator(freeze(energy, x0), x0, path)
    bits = jnp.arange(evaluator.D)

    def lowers(ready, x):
        e, energies = all_flips(ready, x)
        return e, energies < e

    def step(ready, x, _, done):
        e, flip = lowers(ready, x)
        flip &= ~done
        new = jnp.where(flip.reshape(x.shape), -x, x)
        e_new, back = lowers(ready, new)
        # The next sweep would undo this one exactly: a cycle of two states.
        undo = flip.any() & (back == flip).all()
        result = RESULTS.where(flip.any(), RESULTS.step_limit, RESULTS.converged)
        result = RESULTS.where(undo, RESULTS.cycle, result)
        energies = jnp.broadcast_to(e, flip.shape).at[-1].set(e_new)
        return new, (bits, flip, energies), result

    return _iterate(evaluator, energy, x0, step, evaluator.D, max_sweeps, record)


def greedy(
    energy: EnergyFn, x0: Array, *, max_sweeps: int = 100, record: int = 16, path: Path = "auto"
) -> Recall:
    """Flip the bit that lowers the energy most, until no flip lowers it.

    Each flip compares all `D` candidates. A sweep is `D` flips.
    """
    evaluator = FlipEvaluator(freeze(energy, x0), x0, path)
    D = evaluator.D

    limit = max_sweeps * D

    def step(ready, x, k, done):
        e, energies = all_flips(ready, x)
        bit = jnp.argmin(jnp.where(jnp.isnan(energies), jnp.inf, energies))
        lower = energies[bit] < e
        fell = lower & ~done & (k < limit)
        flat = x.reshape(-1)
        new = flat.at[bit].set(jnp.where(fell, -flat[bit], flat[bit])).reshape(x.shape)
        record = (bit[None], fell[None], jnp.where(fell, energies[bit], e)[None])
        return new, record, RESULTS.where(lower, RESULTS.step_limit, RESULTS.converged)

    # One step more than flips are allowed: the last may find that there is none to make.
    end = _iterate(evaluator, energy, x0, step, 1, limit + 1, record * D)
    sweeps = jnp.maximum((end.steps + D - 2) // D, jnp.minimum(end.steps, 1))
    return Recall(end.x, end.energy, sweeps, end.result, end.trajectory)


def glauber(
    energy: EnergyFn,
    x0: Array,
    key: Key,
    beta: Float[Array, ""],
    *,
    order: VisitOrder = "permutation",
    sweeps: int = 100,
    path: Path = "auto",
) -> Recall:
    r"""Draw a fixed number of Glauber sweeps at inverse temperature `beta`.

    A visited bit is flipped with probability

    $$P = \frac{1}{1 + \exp(\beta (E_\text{flipped} - E))}$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$ for every visiting order here.

    **Arguments:**

    - `energy`, `x0`, `path`: as for `visit`.
    - `key`: for the orders and the acceptances.
    - `beta`: inverse temperature, in units of 1/energy.
    - `order`, `sweeps`: how bits are visited, and for how many sweeps of `D` visits.

    **Returns:** a `Recall` that ends with `RESULTS.sampled`.

    **Reference:** Glauber 1963, J. Math. Phys. 4, 294.
    """
    evaluator = FlipEvaluator(freeze(energy, x0), x0, path)
    dtype = evaluator.out.dtype

    def accept(e, new, u):
        return u < jax.nn.sigmoid(beta.astype(dtype) * (e - new))

    def step(ready, x, k):
        visits, draws = jax.random.split(jax.random.fold_in(key, k))
        bits = visiting_order(visits, evaluator.D, order)
        u = jax.random.uniform(draws, (evaluator.D,), dtype)
        x, (accepted, energies) = _try_bits(ready, x, bits, accept, u)
        return x, (_compact(bits, evaluator.D), accepted, energies)

    def loop(ready):
        return lax.scan(lambda x, k: step(ready, x, k), lax.stop_gradient(x0), jnp.arange(sweeps))

    x, record = evaluator.run(loop)
    e = energy(x)
    result = RESULTS.where(jnp.isfinite(e), RESULTS.sampled, RESULTS.nonfinite)
    trajectory = Trajectory(x0, *(a.reshape(-1) for a in record))
    return Recall(x, e, jnp.asarray(sweeps), result, trajectory)


def flip_energies(energy: EnergyFn, x: Array, *, path: Path = "auto") -> Float[Array, " D"]:
    """The energy after each single flip of `x`, all computed together."""
    evaluator = FlipEvaluator(freeze(energy, x), x, path)
    energies = evaluator.run(lambda ready: all_flips(ready, x)[1])
    return with_derivative(energy, energies, x, jnp.arange(evaluator.D), flipped_state)


def is_fixed_point(energy: EnergyFn, x: Array, *, path: Path = "auto") -> Bool[Array, ""]:
    """Whether no single flip of `x` lowers the energy strictly."""
    evaluator = FlipEvaluator(freeze(energy, x), x, path)
    e, energies = evaluator.run(lambda ready: all_flips(ready, x))
    return ~(energies < e).any()


def visiting_order(key: Key, D: int, order: VisitOrder) -> Integer[Array, " D"]:
    """The bits that one sweep visits."""
    if order == "sequential":
        return jnp.arange(D)
    if order == "random":
        return jax.random.randint(key, (D,), 0, D)
    return jax.random.permutation(key, D)


# -- the loops --------------------------------------------------------------------------------


def _try_bits(
    evaluator: FlipEvaluator,
    x: Array,
    bits: Array,
    accept: Callable[[Array, Array, Any], Array],
    extra: Array | None = None,
) -> tuple[Array, tuple[Array, Array]]:
    """Visit `bits` in order, from carried values evaluated afresh.

    **Returns:** the state, and per visit whether the flip was kept and the energy.
    """
    e, carry = evaluator.start(x)
    flat = x.reshape(-1)

    def step(loop, visit):
        # `s = flat[i]` was fetched by the step before: if the state were read and updated in one
        # step, XLA would copy all of it in every step.
        flat, carry, e, s = loop
        i, following, extra = visit
        flipped = x
        if evaluator.uses_state:
            flipped = lax.dynamic_update_index_in_dim(flat, -s, i, 0).reshape(x.shape)
        e_new, moved = evaluator.flip(flipped, carry, evaluator.row(i), s)
        kept = accept(e, e_new, extra)
        flat = lax.dynamic_update_index_in_dim(flat, jnp.where(kept, -s, s), i, 0)
        carry = jax.tree.map(lambda new, old: jnp.where(kept, new, old), moved, carry)
        e = jnp.where(kept, e_new, e)
        s = lax.dynamic_index_in_dim(flat, following, keepdims=False)
        return (flat, carry, e, s), (kept, e)

    start = (flat, carry, e, flat[bits[0]])
    (flat, *_), record = lax.scan(step, start, (bits, jnp.roll(bits, -1), extra))
    return flat.reshape(x.shape), record


def _is_fixed(evaluator: FlipEvaluator, x: Array, done: Array) -> Array:
    """Whether no flip lowers the energy: by proof if possible, else by comparing all flips."""

    def compare() -> Array:
        e, energies = all_flips(evaluator, x)
        return ~(energies < e).any()

    proved = evaluator.proves_fixed(x)
    if proved is None:
        return compare()
    open_lanes = _any_lane(~(proved | done))
    return lax.cond(open_lanes, lambda: proved | compare(), lambda: proved)


def all_flips(evaluator: FlipEvaluator, x: Array) -> tuple[Array, Float[Array, " D"]]:
    """The energy of `x`, and that after each single flip, in blocks of flips."""
    flat = x.reshape(-1)
    e, carry = evaluator.start(x)
    shared = jax.tree.map(lambda a: a[0] if a.shape[0] == 1 else None, evaluator.rows)
    own = jax.tree.map(lambda a: None if a.shape[0] == 1 else a, evaluator.rows)

    def one(i_and_row: tuple[Array, Any]) -> Array:
        i, row = i_and_row
        row = jax.tree.map(lambda a, b: b if a is None else a, row, shared, is_leaf=_is_none)
        s = flat[i]
        flipped = flat.at[i].set(-s).reshape(x.shape) if evaluator.uses_state else x
        return evaluator.flip(flipped, carry, row, s)[0]

    per_flip = max(evaluator.D if evaluator.uses_state else 1, *(a.size for a in carry.values), 1)
    block = max(1, min(evaluator.D, _BLOCK // per_flip))
    return e, lax.map(one, (jnp.arange(evaluator.D), own), batch_size=block)


class _Loop(NamedTuple):
    x: Array
    k: Array  # counts for all lanes of a vmap together
    steps: Array
    result: RESULTS
    done: Array
    record: tuple[Array, ...]


def _iterate(
    evaluator: FlipEvaluator,
    energy: EnergyFn,
    x0: Array,
    step: Callable[..., tuple[Array, tuple[Array, Array, Array], RESULTS]],
    width: int,
    max_steps: int,
    record: int,
) -> Recall:
    """Repeat `step(evaluator, x, k, done)` until its result is final; record `width` visits each.

    Under `vmap` the lanes stop together, when the last one is done. A lane that is done must not
    change: `step` sees to it. In exchange no lane's record is copied through a select.
    """
    rows_kept = min(record, max_steps)

    def loop(ready: FlipEvaluator) -> _Loop:
        def body(c: _Loop) -> _Loop:
            x, rows, result = step(ready, c.x, c.k, c.done)
            result = RESULTS.where(jnp.isfinite(rows[2][-1]), result, RESULTS.nonfinite)
            result = RESULTS.where(c.done, c.result, result)
            record = c.record
            if rows_kept:
                at = jnp.minimum(c.k, rows_kept - 1)
                keep = c.k < rows_kept
                record = tuple(
                    lax.dynamic_update_index_in_dim(
                        a, jnp.where(keep, row.astype(a.dtype), a[at]), at, 0
                    )
                    for a, row in zip(c.record, rows, strict=True)
                )
            steps = c.steps + (~c.done).astype(c.steps.dtype)
            return _Loop(x, c.k + 1, steps, result, result != RESULTS.step_limit, record)

        finite = jnp.isfinite(ready.start(x0)[0])
        result = RESULTS.where(finite, RESULTS.step_limit, RESULTS.nonfinite)
        zero = jnp.zeros((), jnp.int32)
        blank = tuple(
            jnp.zeros((rows_kept, width), dtype)
            for dtype in (_compact_dtype(evaluator.D), bool, evaluator.out.dtype)
        )
        start = _Loop(lax.stop_gradient(x0), zero, zero, result, ~finite, blank)
        return lax.while_loop(lambda c: _any_lane(~c.done) & (c.k < max_steps), body, start)

    end = evaluator.run(loop)
    e = energy(end.x)  # not frozen: the final energy has its derivative in the parameters
    visited, accepted, energies = end.record
    ran = jnp.arange(rows_kept, dtype=end.k.dtype)[:, None] < end.k
    energies = jnp.where(ran, energies, lax.stop_gradient(e).astype(energies.dtype))
    flat = (a.reshape(-1) for a in (visited, accepted, energies))
    return Recall(end.x, e, end.steps, end.result, Trajectory(x0, *flat))


@jax.custom_batching.custom_vmap
def _any_lane(p: Array) -> Array:
    """Whether `p` holds in any lane of a surrounding `vmap`; the answer has no batch axis."""
    return p


@_any_lane.def_vmap
def _(axis_size, in_batched, p):
    del axis_size
    return _any_lane(p.any(0) if in_batched[0] else p), False


def _compact_dtype(D: int) -> Any:
    return jnp.uint16 if D <= 2**16 else jnp.int32


def _compact(bits: Array, D: int) -> Array:
    return bits.astype(_compact_dtype(D))


def _is_none(a: Any) -> bool:
    return a is None
