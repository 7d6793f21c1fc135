"""What the oracle asks of energies of units of q values: every change, every visit, every end.

Against the energy itself: the energies after all changes of one unit, those along a descent and
along a random walk, each decision of the descent among all values of the unit, that held units
stay, and that where a method says it converged, no change of a free unit lowers the energy.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amlib.descent.methods import flip_problem, solve
from amlib.descent.plan import Path
from amlib.descent.samplers import Glauber
from amlib.descent.sites import changes_of
from amlib.descent.sweeps import Greedy, Sweeps, Synchronous
from amlib.descent.trajectory import RESULTS
from amlib.descent.visits import free_bits
from amlib.spaces import Values
from tests.fuzzing.energies import Case

STARTS = 16
SWEEPS = 3  # of a descent, and of a walk
_METHODS = {"sweep": Sweeps(), "greedy": Greedy(), "synchronous": Synchronous()}


def problem_of(case: Case, energy: Any, path: Path | None = None) -> Any:
    """The problem of a case, with the units that it holds."""
    assert case.q is not None
    held = np.isin(np.arange(len(case.starts[0])), case.held)
    free = free_bits(held.size, held)
    return flip_problem(energy, Values(case.q), path=path or case.path, free=free)


def record(case: Case, energy: Any, x0: jax.Array, path: Path) -> dict[str, Any]:
    """What the library says."""
    problem, key = problem_of(case, energy, path), jax.random.key(len(case.used))
    down, walk = Sweeps("random", record=SWEEPS), Glauber(0.0, "random", record=SWEEPS)
    steps = walk if case.method == "none" else down
    run = solve(problem, x0, steps, key, SWEEPS)
    out: dict[str, Any] = {"x": run.x, "run": run.trajectory, "energy": run.trajectory.energy}
    out["visits"] = run.steps * problem.bits.size  # the rest of the record is not filled
    out["changes"] = changes_of(problem, x0)
    if case.method != "none":

        def end(x):
            end = solve(problem, x, _METHODS[case.method], key, 5)
            ways = (RESULTS.converged, RESULTS.nonfinite)
            return (end.x, end.energy, *(end.result == r for r in ways))

        out["end"] = lax.map(end, more_starts(case, x0))
    return out


def more_starts(case: Case, x0: Any) -> jax.Array:
    """Random states with the held units of the start, and the start."""
    rng, q = np.random.default_rng(len(case.lines)), case.q
    states = rng.integers(0, q, (STARTS, *case.shape)).astype(np.int32)
    held = np.isin(np.arange(len(case.starts[0])), case.held).reshape(case.shape)
    return jnp.where(held, x0, jnp.asarray(states).at[0].set(x0))


def around(case: Case, x: np.ndarray) -> np.ndarray:
    """All states that differ in one unit at most, by unit and value: `(units, q, *shape)`."""
    assert case.q is not None
    D, q = x.size, case.q
    out = np.broadcast_to(x, (D, q, *x.shape)).copy()
    unit, value = np.arange(D)[:, None], np.arange(q)[None]
    out.reshape(D, q, -1)[unit, value, unit] = value
    return out


def compare(case: Case, found: Any, judge: Any, x0: np.ndarray) -> None:
    """Enter in the judge what is wrong."""
    near = around(case, x0).reshape(-1, *case.shape)
    here = np.broadcast_to(x0, near.shape)
    judge.energies("change_energies", near, np.asarray(found["changes"]).reshape(-1), here)
    before, after = _trajectory(case, x0, found["run"])
    here = np.broadcast_to(x0, after.shape)
    judge.energies("energy of a visit", after, found["energy"], here)
    if not np.array_equal(np.asarray(found["x"]), after[-1]):
        judge.failures.append("the final state is not the last frame")
    _stays(case, "a visit", after, x0, judge)
    if case.method != "none":
        _descends(case, found["run"], before, after, int(found["visits"]), judge)
        _ends(case, found["end"], np.asarray(more_starts(case, x0)), judge)


def _stays(case: Case, where: str, states: np.ndarray, starts: np.ndarray, judge: Any) -> None:
    held = list(case.held)
    a, b = (x.reshape(-1, len(case.starts[0]))[:, held] for x in (states, starts))
    if (a != b).any():
        judge.failures.append(f"{where}: a held unit moved")


def _trajectory(case: Case, x0: np.ndarray, t: Any) -> tuple[np.ndarray, np.ndarray]:
    """The states before and after each visit."""
    before, after, x = [], [], np.array(x0)
    visits = zip(*map(np.asarray, (t.visited, t.values, t.accepted)), strict=True)
    for unit, value, accepted in visits:
        before.append(x)
        x = x.copy()
        if accepted:
            x.reshape(-1)[unit] = value
        after.append(x)
    return np.stack(before), np.stack(after)


def _descends(
    case: Case, t: Any, before: np.ndarray, after: np.ndarray, visits: int, judge: Any
) -> None:
    """Each visit takes the lowest value of its unit, and moves only if that is lower."""
    if not visits:  # the start rests, or has no energy
        return
    chosen, others = [], []
    for unit, x, y in zip(np.asarray(t.visited)[:visits], before, after, strict=False):
        others.append(around(case, x)[unit])
        chosen.append(np.broadcast_to(y, others[-1].shape))
    shape = (-1, *case.shape)
    chosen, others = np.stack(chosen).reshape(shape), np.stack(others).reshape(shape)
    _lower("a visit took the value of", chosen, others, judge)
    moved = np.asarray(t.accepted)
    old, new = before[moved], after[moved]
    if moved.any():
        worse = ~(judge.truth.at(new) < judge.truth.at(old))
        if worse.any() and (clear := judge.clearly(old[worse], new[worse])).any():
            e = [judge.truth.at(s[worse][clear][:1])[0] for s in (old, new)]
            judge.failures.append(f"visit: kept a change from {e[0]:.9g} to {e[1]:.9g}")


def _lower(what: str, chosen: np.ndarray, others: np.ndarray, judge: Any) -> None:
    """A failure for each state that is clearly lower than the one that was chosen."""
    lower = judge.truth.at(others) < judge.truth.at(chosen)
    judge.checked += len(chosen)
    if not lower.any():
        return
    chosen, others = chosen[lower], others[lower]
    clear = judge.clearly(chosen, others)
    judge.undecided += int((~clear).sum())
    if clear.any():
        e, best = (judge.truth.at(s[clear][:1])[0] for s in (chosen, others))
        judge.failures.append(f"{what} {e:.9g} where {best:.9g} is near ({clear.sum()} times)")


def _ends(case: Case, end: Any, starts: np.ndarray, judge: Any) -> None:
    x, e, converged, nonfinite = map(np.asarray, end)
    _stays(case, case.method, x, starts, judge)
    judge.energies(f"energy of {case.method}", x, e, starts)
    free = [i for i in range(len(case.starts[0])) if i not in case.held]
    if converged.any() and free:
        near = np.concatenate(
            [around(case, s)[free].reshape(-1, *case.shape) for s in x[converged]]
        )
        here = np.repeat(x[converged], len(near) // converged.sum(), 0)
        _lower(f"{case.method} converged at", here, near, judge)
    for k in np.flatnonzero(nonfinite):
        both = np.concatenate([np.stack([x[k], starts[k]]), around(case, x[k])[0]])
        if np.isfinite(judge.truth.at(both)).all() and judge.clear(both).all():
            judge.failures.append(f"{case.method} says nonfinite, the energy is finite")
