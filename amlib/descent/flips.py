"""Descent by flipping bits, of any scalar function of a state in {-1,+1}^D.

One scan serves all the orders that visit one bit at a time: try it, keep the flip by the
acceptance rule. States are spins of any shape; a bit is an index into the flattened state.
Nothing here knows a model.
"""

import math
from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Integer

from amlib._types import EnergyFn, Key
from amlib.descent.derivatives import flipped_state, visited_state, with_derivative
from amlib.descent.plan import FlipPlan, Path
from amlib.descent.trajectory import RESULTS, Recall, Trajectory
from amlib.descent.visits import (
    Free,
    all_flips,
    compact_dtype,
    fixed_or_not,
    free_bits,
    iterate,
    try_bits,
)

VisitOrder: TypeAlias = Literal["permutation", "sequential", "random"]
VISIT_ORDERS: tuple[str, ...] = get_args(VisitOrder)
"""Orders that visit one bit at a time: Glauber dynamics keeps the Boltzmann law under each."""

ORDERS: tuple[str, ...] = (*VISIT_ORDERS, "greedy", "synchronous")


def visit(
    energy: EnergyFn,
    x0: Array,
    idx: Integer[Array, " T"],
    *,
    path: Path = "auto",
    bounded: Sequence[Array] = (),
) -> tuple[Array, Trajectory]:
    """Try the bits `idx` one after the other; keep a flip only if the energy falls strictly.

    **Arguments:**

    - `energy`: a function from a state to a scalar.
    - `x0`: the starting state, -1/+1.
    - `idx`: the bits to visit, each in [0, D).
    - `path`, `bounded`: see `FlipPlan`.

    **Returns:** the final state, and a `Trajectory` of `T` visits.
    """
    plan = FlipPlan(energy, x0, path, bounded)
    T = idx.shape[0]
    if T == 0:
        none = jnp.zeros((0,), plan.out.dtype)
        return x0, Trajectory(x0, idx.astype(compact_dtype(plan.D)), jnp.zeros((0,), bool), none)
    # Carried values are evaluated afresh once per chunk of about D visits, which bounds drift.
    chunks = math.ceil(T / max(plan.D, 256)) if plan.path == "incremental" else 1
    length = math.ceil(T / chunks)
    # The barrier keeps XLA from drawing the bits again inside the loop.
    bits = lax.optimization_barrier(jnp.pad(idx, (0, chunks * length - T)))
    bits = bits.reshape(chunks, length)
    valid = (np.arange(chunks * length) < T).reshape(chunks, length)
    may = None if valid.all() else jnp.asarray(valid)

    def loop(flips):
        chunk = lambda x, bits_and_may: try_bits(flips, x, bits_and_may[0], _falls, bits_and_may[1])
        x, record = lax.scan(chunk, lax.stop_gradient(x0), (bits, may))
        return (x, record), jnp.isfinite(record[1]).all()

    x, record = plan.run(loop)
    accepted, energies = (a.reshape(-1)[:T] for a in record)
    energies = with_derivative(energy, energies, x0, (idx, accepted), visited_state)
    return x, Trajectory(x0, idx.astype(compact_dtype(plan.D)), accepted, energies)


def _falls(e: Array, new: Array, may: Array | None) -> Array:
    """Whether a flip is kept that must lower the energy strictly, and may be made at all."""
    return new < e if may is None else (new < e) & may


def sweep(
    energy: EnergyFn,
    x0: Array,
    key: Key,
    *,
    order: VisitOrder = "permutation",
    max_sweeps: int = 100,
    record: int = 16,
    free: Free | None = None,
    path: Path = "auto",
    bounded: Sequence[Array] = (),
) -> Recall:
    """Sweep over the free bits until no single flip of these lowers the energy.

    After each sweep all their flips are compared at once: cheaper than a sweep that changes
    nothing, and a proof in every order.

    **Arguments:**

    - `energy`, `x0`, `path`, `bounded`: as for `visit`.
    - `key`: a fresh order of visits for each sweep comes from it.
    - `order`: `"permutation"`, `"sequential"` or `"random"`.
    - `max_sweeps`: the step limit, at least 1.
    - `record`: how many sweeps the trajectory records, at most `max_sweeps`.
    - `free`: the bits that may move, as `visits.free_bits` makes them; `None` for all `D`.

    **Returns:** a `Recall` whose trajectory has `min(record, max_sweeps)` visits of each free bit;
    those that were not needed are recorded as not accepted, at the final energy.
    """
    plan = FlipPlan(energy, x0, path, bounded)
    free = free_bits(plan.D) if free is None else free
    F = free.bits.shape[0]

    def step(flips, x, k, done):
        at = visiting_order(jax.random.fold_in(key, k), F, order)
        bits, may = free.bits[at], None if free.open is None else free.open[at]
        accept = lambda e, new, may: _falls(e, new, may) & ~done
        x, (accepted, energies) = try_bits(flips, x, bits, accept, may)
        return x, (bits, accepted, energies), fixed_or_not(flips, x, done, free)

    return iterate(plan, energy, x0, step, F, max_sweeps, record)


def synchronous(
    energy: EnergyFn,
    x0: Array,
    *,
    max_sweeps: int = 100,
    record: int = 16,
    free: Free | None = None,
    path: Path = "auto",
    bounded: Sequence[Array] = (),
) -> Recall:
    """Flip at once every bit whose own flip would lower the energy, until nothing changes.

    The energy may rise, and the dynamics may end on a 2-cycle (Goles-Chacc et al. 1985), which
    is detected and reported. The energies recorded within a sweep are those before it; the last
    entry of each sweep holds the energy after it, and its frame the state after it.
    """
    plan = FlipPlan(energy, x0, path, bounded)
    free = free_bits(plan.D) if free is None else free
    bits = free.bits

    def lowers(flips, x):
        e, energies = all_flips(flips, x, free)
        return e, energies < e

    def step(flips, x, _, done):
        e, flip = lowers(flips, x)
        flip &= ~done
        flat = x.reshape(-1)
        new = flat.at[bits].set(jnp.where(flip, -flat[bits], flat[bits])).reshape(x.shape)
        e_new, back = lowers(flips, new)
        # The next sweep would undo this one exactly: a cycle of two states.
        undo = flip.any() & (back == flip).all()
        result = RESULTS.where(flip.any(), RESULTS.step_limit, RESULTS.converged)
        result = RESULTS.where(undo, RESULTS.cycle, result)
        energies = jnp.broadcast_to(e, flip.shape).at[-1].set(e_new)
        return new, (bits, flip, energies), result

    return iterate(plan, energy, x0, step, bits.shape[0], max_sweeps, record)


def greedy(
    energy: EnergyFn,
    x0: Array,
    *,
    max_sweeps: int = 100,
    record: int = 16,
    free: Free | None = None,
    path: Path = "auto",
    bounded: Sequence[Array] = (),
) -> Recall:
    """Flip the bit that lowers the energy most, until no flip lowers it.

    Each flip compares all `F` free bits. A sweep is `F` flips.
    """
    plan = FlipPlan(energy, x0, path, bounded)
    free = free_bits(plan.D) if free is None else free
    F = free.bits.shape[0]

    limit = max_sweeps * F

    def step(flips, x, k, done):
        e, energies = all_flips(flips, x, free)
        lowest = jnp.argmin(jnp.where(jnp.isnan(energies), jnp.inf, energies))
        bit = free.bits[lowest]
        lower = energies[lowest] < e
        fell = lower & ~done & (k < limit)
        flat = x.reshape(-1)
        new = flat.at[bit].set(jnp.where(fell, -flat[bit], flat[bit])).reshape(x.shape)
        record = (bit[None], fell[None], jnp.where(fell, energies[lowest], e)[None])
        return new, record, RESULTS.where(lower, RESULTS.step_limit, RESULTS.converged)

    # One step more than flips are allowed: the last may find that there is none to make.
    end = iterate(plan, energy, x0, step, 1, limit + 1, record * F)
    sweeps = jnp.maximum((end.steps + F - 2) // F, jnp.minimum(end.steps, 1))
    return Recall(end.x, end.energy, sweeps, end.result, end.trajectory)


def glauber(
    energy: EnergyFn,
    x0: Array,
    key: Key,
    beta: Float[Array, "*sweeps"],
    *,
    order: VisitOrder = "permutation",
    sweeps: int = 100,
    free: Free | None = None,
    path: Path = "auto",
    bounded: Sequence[Array] = (),
) -> Recall:
    r"""Draw a fixed number of Glauber sweeps at inverse temperature `beta`, or along a schedule.

    A visited bit is flipped with probability

    $$P = \frac{1}{1 + \exp(\beta (E_\text{flipped} - E))}$$

    which keeps the Boltzmann law $p(x) \propto \exp(-\beta E(x))$ for every visiting order here.

    **Arguments:**

    - `energy`, `x0`, `path`, `bounded`: as for `visit`.
    - `key`: for the orders and the acceptances.
    - `beta`: inverse temperature, >= 0, in units of 1/energy: one for all sweeps, or one for each.
    - `order`, `sweeps`: how bits are visited, and for how many sweeps of `D` visits.

    **Returns:** a `Recall` that ends with `RESULTS.sampled`.

    **Reference:** Glauber 1963, J. Math. Phys. 4, 294.
    """
    plan = FlipPlan(energy, x0, path, bounded)
    free = free_bits(plan.D) if free is None else free
    F, dtype = free.bits.shape[0], plan.out.dtype

    betas = jnp.broadcast_to(beta.astype(dtype), (sweeps,))

    def step(flips, x, k, beta):
        visits, draws = jax.random.split(jax.random.fold_in(key, k))
        at = visiting_order(visits, F, order)
        bits, u = free.bits[at], jax.random.uniform(draws, (F,), dtype)
        if free.open is not None:
            u = jnp.where(free.open[at], u, 1.0)  # a probability is never above one
        accept = lambda e, new, u: u < jax.nn.sigmoid(beta * (e - new))
        x, (accepted, energies) = try_bits(flips, x, bits, accept, u)
        return x, (bits.astype(compact_dtype(plan.D)), accepted, energies)

    def loop(flips):
        start, steps = lax.stop_gradient(x0), (jnp.arange(sweeps), betas)
        x, record = lax.scan(lambda x, kb: step(flips, x, *kb), start, steps)
        return (x, record), jnp.isfinite(record[2]).all()

    x, record = plan.run(loop)
    e = energy(x)
    result = RESULTS.where(jnp.isfinite(e), RESULTS.sampled, RESULTS.nonfinite)
    trajectory = Trajectory(x0, *(a.reshape(-1) for a in record))
    return Recall(x, e, jnp.asarray(sweeps), result, trajectory)


def flip_energies(
    energy: EnergyFn, x: Array, *, path: Path = "auto", bounded: Sequence[Array] = ()
) -> Float[Array, " D"]:
    """The energy after each single flip of `x`, all computed together."""
    plan = FlipPlan(energy, x, path, bounded)
    _, energies = _compare(plan, x)
    return with_derivative(energy, energies, x, jnp.arange(plan.D), flipped_state)


def is_fixed_point(
    energy: EnergyFn,
    x: Array,
    *,
    free: Free | None = None,
    path: Path = "auto",
    bounded: Sequence[Array] = (),
) -> Bool[Array, ""]:
    """Whether no single flip of `x`, of those that are free, lowers the energy strictly."""
    plan = FlipPlan(energy, x, path, bounded)
    e, energies = _compare(plan, x, free)
    return ~(energies < e).any()


def _compare(plan: FlipPlan, x: Array, free: Free | None = None) -> tuple[Array, Array]:
    """The energy of `x`, and that after each single flip."""

    def loop(flips):
        e, energies = all_flips(flips, x, free)
        return (e, energies), jnp.isfinite(e)

    return plan.run(loop)


def visiting_order(key: Key, D: int, order: VisitOrder) -> Integer[Array, " D"]:
    """The bits that one sweep visits."""
    if order == "sequential":
        return jnp.arange(D)
    if order == "random":
        return jax.random.randint(key, (D,), 0, D)
    return jax.random.permutation(key, D)
