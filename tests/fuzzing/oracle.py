"""Whether the library is right about a drawn energy: against the energy itself, at every state.

The recorded energies must be those of the energy evaluated in full, within rounding, and so must
every decision that is not a tie. Most are equal to a few units in the last place. Where one is not,
`rounding` measures how far the energy moves when each of its operations rounds differently (Monte
Carlo arithmetic, Parker 1997): a difference within that is rounding, all else is wrong. States at
which the energy is nothing but rounding are counted as undecided, never as right.
"""

import contextlib
import importlib
import math
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from amlib.descent.plan import FlipPlan, Path
from amlib.descent.trajectory import RESULTS
from tests import engine as flips
from tests.fuzzing import changes
from tests.fuzzing.energies import Case, promotion
from tests.fuzzing.rounding import perturbed_energy

SAMPLES = 12
STARTS = 24
_SAFETY = 3.0  # a difference may be this many times the largest that was sampled
_ILL = 1e-2  # relative rounding from which a state decides nothing


class Report(NamedTuple):
    """What came of one case."""

    path: str
    reason: str
    checked: int  # energies and decisions
    undecided: int
    failures: tuple[str, ...]


@contextlib.contextmanager
def setting(case: Case) -> Iterator[None]:
    """The precision, promotion rules and limits under which a case runs."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(promotion(case.x64))
        stack.enter_context(warnings.catch_warnings())
        for name, value in case.limits:
            module, attribute = _limit(name)
            stack.callback(setattr, module, attribute, getattr(module, attribute))
            setattr(module, attribute, value)
        yield


def _limit(name: str) -> tuple[Any, str]:
    module, attribute = name.split(".")
    return importlib.import_module(f"amlib.descent.{module}"), attribute


def limits_of(names: Iterable[str]) -> dict[str, int]:
    """The present values of constants of the library."""
    return {name: getattr(*_limit(name)) for name in names}


def check(case: Case) -> Report:
    """Run the library on a case, and the energy itself on every state it saw."""
    with setting(case):
        make, constants = case.make(), case.values()
        batches = _lanes(case, constants)
        warnings.simplefilter("error")  # a library that warns has met a value it did not expect
        try:
            truth = [Truth(make(*c), case) for c, _ in batches]
            for t, (_, x0) in zip(truth, batches, strict=True):
                jax.make_jaxpr(t.energy)(x0)
        except Warning:  # the energy itself warns
            warnings.simplefilter("ignore")
            truth = [Truth(make(*c), case) for c, _ in batches]
        path, reason, records, failures = "crashed", "", [], []
        try:
            plan = _plan(case, make(*constants))
            path, reason = plan.path, plan.reason
            records = _run(case, make, constants)
        except Exception as err:
            if case.call == "grad" and _generic_fails_too(case, make, constants):
                return Report("refused", "no derivative", 0, 0, ())
            message = (str(err).strip() or "no message").splitlines()[0][:300]
            failures.append(f"crash: {type(err).__name__}: {message}")
        checked = undecided = 0
        for record, t, (_, x0) in zip(records, truth, batches, strict=bool(records)):
            found = _compare(case, record, t, np.asarray(x0))
            checked, undecided = checked + found[0], undecided + found[1]
            failures += found[2]
    return Report(path, reason, checked, undecided, tuple(failures))


def _lanes(case: Case, constants: list[Any]) -> list[tuple[list[Any], jax.Array]]:
    """The constants and start of each lane of a `vmap`; one lane for all other calls."""
    if case.call != "vmap":
        return [(constants, case.start())]
    other = [_varied(c) for c in constants]
    return [(constants, case.start(0)), (other, case.start(1))]


def _plan(case: Case, energy: Any) -> FlipPlan:
    x0 = case.start()
    if case.q is None:
        return FlipPlan(energy, x0, case.path)
    problem = changes.problem_of(case, energy)
    return problem.plan(problem.space.to_spins(x0))


def _varied(c: Any) -> Any:
    """Another constant of the same kind; indices and NumPy constants stay."""
    if isinstance(c, jax.Array) and jnp.issubdtype(c.dtype, jnp.floating):
        return c * jnp.asarray(-0.5, c.dtype)
    return c


def _run(case: Case, make: Any, constants: list[Any], path: Path | None = None) -> list[Any]:
    """Call the library as the case says; one record per lane."""
    path = path or case.path
    record = _record if case.q is None else changes.record
    arrays = [i for i, c in enumerate(constants) if isinstance(c, jax.Array)]

    def run(chosen, x0):
        c = list(constants)
        for i, value in zip(arrays, chosen, strict=True):
            c[i] = value
        return record(case, make(*c), x0, path)

    def scalar(chosen, x0):
        out = run(chosen, x0)
        return sum(
            jnp.sum(out[name]) for name in ("energy", "flips", "changes") if name in out
        ), out

    chosen = [constants[i] for i in arrays]
    if case.call == "eager":
        return [run(chosen, case.start())]
    if case.call == "jit":
        return [jax.jit(lambda x0: run(chosen, x0))(case.start())]
    if case.call == "arguments":
        return [jax.jit(run)(chosen, case.start())]
    if case.call == "vmap":
        stacked = [jnp.stack([c, _varied(c)]) for c in chosen]
        both = jax.jit(jax.vmap(run))(stacked, jnp.stack([case.start(0), case.start(1)]))
        return [jax.tree.map(lambda a, k=k: a[k], both) for k in range(2)]
    real = [i for i, c in enumerate(chosen) if jnp.issubdtype(c.dtype, jnp.floating)]
    if not real:
        return [jax.jit(run)(chosen, case.start())]

    def of_real(values, x0):
        c = list(chosen)
        for i, value in zip(real, values, strict=True):
            c[i] = value
        return scalar(c, x0)

    of = jax.jit(jax.grad(of_real, has_aux=True))
    return [of([chosen[i] for i in real], case.start())[1]]


def _record(case: Case, energy: Any, x0: jax.Array, path: Path) -> dict[str, Any]:
    """What the library says of an energy of spins."""
    x, t = flips.visit(energy, x0, jnp.asarray(case.visits, jnp.int32), path=path)
    out = {"x": x, "accepted": t.accepted, "energy": t.energy}
    out["flips"] = flips.flip_energies(energy, x0, path=path)
    if case.method != "none":
        out["fixed"] = flips.is_fixed_point(energy, x, path=path)
        method = {"sweep": _sweep, "greedy": flips.greedy, "colours": _colours}[case.method]

        def end(x):
            end = method(energy, x, max_sweeps=4, record=1, path=path)
            ways = (RESULTS.converged, RESULTS.nonfinite)
            return (end.x, end.energy, *(end.result == r for r in ways))

        out["end"] = lax.map(end, _more_starts(case, x0))
    return out


def _more_starts(case: Case, x0: Any) -> jax.Array:
    """Some starts around the given one: a false proof is rare, and needs many to show."""
    signs = np.random.default_rng(len(case.visits)).choice([-1, 1], (STARTS, *case.shape))
    signs[0] = 1
    return jnp.asarray(signs, case.dtype) * x0


def _sweep(energy, x0, **options):
    return flips.sweep(energy, x0, jax.random.key(0), **options)


def _colours(energy, x0, **options):
    return _sweep(energy, x0, order="colours", **options)


def _generic_fails_too(case: Case, make: Any, constants: list[Any]) -> bool:
    try:
        _run(case, make, constants, path="generic")
    except Exception:
        return True
    return False


# -- the truth --------------------------------------------------------------------------------


class Truth:
    """The energy in full, and its rounding, at any states; each evaluated once."""

    def __init__(self, energy: Any, case: Case):
        self.energy, self.case = energy, case
        self._known: dict[bytes, float] = {}
        self._rounding: dict[float, dict[bytes, float]] = {}
        self._compiled = jax.jit(lambda states: lax.map(energy, states))
        self._perturbed: dict[float, Any] = {}

    def at(self, states: np.ndarray) -> np.ndarray:
        new = self._missing(states, self._known)
        if len(new):
            values = np.asarray(self._compiled(self._padded(new)), np.float64)
            self._known.update(zip(map(_key, new), values[: len(new)].tolist(), strict=True))
        return np.array([self._known[_key(s)] for s in states])

    def rounding(self, states: np.ndarray, least: float = 0.0) -> np.ndarray:
        """How far the energy may move by rounding; infinite where it may cease to be finite.

        For `least` see `perturbed_energy`.
        """
        known = self._rounding.setdefault(least, {})
        new = self._missing(states, known)
        if len(new):
            if least not in self._perturbed:
                perturbed = lambda k, x: perturbed_energy(self.energy, x, k, least)
                self._perturbed[least] = jax.jit(
                    lambda states, ks: lax.map(
                        lambda k: lax.map(lambda x: perturbed(k, x), states), ks
                    )
                )
            ks = jnp.arange(SAMPLES, dtype=jnp.int32)
            samples = np.asarray(self._perturbed[least](self._padded(new), ks), np.float64)
            samples, base = samples[:, : len(new)], self.at(new)
            with np.errstate(invalid="ignore"):
                same = (samples == base) | (np.isnan(samples) & np.isnan(base))
                spread = np.where(same, 0.0, np.abs(samples - base)).max(0)
            spread = np.where(np.isnan(spread), np.inf, spread)
            known.update(zip(map(_key, new), spread.tolist(), strict=True))
        return np.array([known[_key(s)] for s in states])

    def _missing(self, states: np.ndarray, known: dict[bytes, float]) -> np.ndarray:
        fresh = {_key(s): s for s in states if _key(s) not in known}
        return np.array(list(fresh.values()))

    def _padded(self, states: np.ndarray) -> jax.Array:
        """A power of four states, so that few programs are compiled."""
        n = 4 ** math.ceil(math.log(len(states), 4)) if len(states) > 1 else 1
        full = np.concatenate([states, np.repeat(states[:1], n - len(states), 0)])
        return jnp.asarray(full, self.case.kind)


def _key(state: np.ndarray) -> bytes:
    return np.asarray(state, np.int8).tobytes()


# -- comparison -------------------------------------------------------------------------------


def _compare(case: Case, record: Any, truth: Truth, x0: np.ndarray) -> tuple[int, int, list[str]]:
    judge = Judge(truth)
    if case.q is not None:
        changes.compare(case, record, judge, x0)
        return judge.checked, judge.undecided, judge.failures
    accepted = np.asarray(record["accepted"])
    before, after, tried = _trajectory(x0, case.visits, accepted)
    neighbours = _neighbours(x0)
    truth.at(np.concatenate([before, after, tried, neighbours]))
    judge.energies("energy of a visit", after, record["energy"], np.stack([x0] * len(after)))
    judge.decisions("visit", before, tried, accepted)
    judge.energies("flip_energies", neighbours, record["flips"], np.stack([x0] * len(neighbours)))
    last = after[-1]
    if not np.array_equal(np.asarray(record["x"], np.int8), last.astype(np.int8)):
        judge.failures.append("the final state is not the last frame")
    if case.method != "none":
        judge.fixed("is_fixed_point", last, bool(record["fixed"]), strict=True)
        _ends(case, record["end"], np.asarray(_more_starts(case, x0)), judge)
    return judge.checked, judge.undecided, judge.failures


def _ends(case: Case, end: Any, starts: np.ndarray, judge: "Judge") -> None:
    """Where sweeps ended from many starts: at the energy they say, at a fixed point if they say."""
    x, e, converged, nonfinite = map(np.asarray, end)
    x, starts = x.astype(np.float32), starts.astype(np.float32)
    judge.truth.at(np.concatenate([x, *map(_neighbours, x)]))
    judge.energies(f"energy of {case.method}", x, e, starts)
    for k in np.flatnonzero(converged):
        judge.fixed(f"converged {case.method}", x[k], True, strict=False)
    for k in np.flatnonzero(nonfinite):
        both = np.stack([x[k], starts[k]])
        if np.isfinite(judge.truth.at(both)).all() and judge.clear(both).all():
            judge.failures.append(f"{case.method} says nonfinite, the energy is finite")


def _trajectory(x0: np.ndarray, visits: Any, accepted: np.ndarray) -> tuple[np.ndarray, ...]:
    """The states before and after each visit, and the one it tried."""
    before, after, tried = [], [], []
    x = np.array(x0, np.float32)
    for i, kept in zip(visits, accepted, strict=True):
        other = x.copy()
        other.reshape(-1)[i] *= -1
        before.append(x)
        tried.append(other)
        x = other if kept else x
        after.append(x)
    return np.stack(before), np.stack(after), np.stack(tried)


def _neighbours(x: np.ndarray) -> np.ndarray:
    """All states one flip away."""
    out = np.repeat(np.array(x, np.float32)[None], x.size, 0)
    out.reshape(x.size, -1)[np.arange(x.size), np.arange(x.size)] *= -1
    return out


class Judge:
    """Compares, counts, and measures rounding only where something differs."""

    def __init__(self, truth: Truth):
        self.truth, self.failures = truth, []
        self.checked = self.undecided = 0
        info = jnp.finfo(jax.eval_shape(truth.energy, truth.case.start()).dtype)
        self._ulps = float(info.eps) * (1 if info.bits == 16 else 8)

    def clear(self, states: np.ndarray) -> np.ndarray:
        """Where the energy is more than rounding."""
        exact = np.abs(self.truth.at(states))
        size = np.where(np.isfinite(exact), exact, 0.0)
        rounding = self.truth.rounding(states)
        return np.isfinite(rounding) & (rounding <= _ILL * (size + 1e-30) + 1e-30)

    def energies(self, what: str, states: np.ndarray, got: Any, since: np.ndarray) -> None:
        """Compare energies, carried `since` a state each: they keep the rounding that it had."""
        got, exact = np.asarray(got, np.float64), self.truth.at(states)
        with np.errstate(invalid="ignore"):
            size = np.where(np.isfinite(exact), np.abs(exact), 0.0)
            same = (got == exact) | (np.isnan(got) & np.isnan(exact))
            same |= np.abs(got - exact) <= self._ulps * size
        self.checked += len(got)
        doubt = np.flatnonzero(~same)
        if not len(doubt):
            return
        rounding = self.truth.rounding(states[doubt]) + self.truth.rounding(since[doubt])
        edge = np.flatnonzero(np.isfinite(rounding) & ~np.isfinite(exact[doubt]))
        if len(edge):  # a logarithm of what cancels: what was carried there is not exactly zero
            rounding[edge] = self.truth.rounding(states[doubt][edge], least=1.0)
        allowed = _SAFETY * rounding + self._ulps * size[doubt]
        with np.errstate(invalid="ignore"):
            off = np.abs(got[doubt] - exact[doubt])
        bad = ~(off <= allowed) & np.isfinite(allowed)
        self.undecided += int((~np.isfinite(allowed)).sum())
        if bad.any():
            k = doubt[bad][0]
            self.failures.append(
                f"{what}: {got[k]:.9g} where {exact[k]:.9g} is true (rounding "
                f"{allowed[bad][0]:.2g}; {bad.sum()} of {len(got)})"
            )

    def decisions(
        self, what: str, before: np.ndarray, tried: np.ndarray, accepted: np.ndarray
    ) -> None:
        old, new = self.truth.at(before), self.truth.at(tried)
        self.checked += len(accepted)
        doubt = np.flatnonzero((new < old) != accepted)
        if not len(doubt):
            return
        clear = self.clearly(before[doubt], tried[doubt])
        self.undecided += int((~clear).sum())
        if clear.any():
            k = doubt[clear][0]
            self.failures.append(
                f"{what}: {'kept' if accepted[k] else 'refused'} a flip from {old[k]:.9g} to "
                f"{new[k]:.9g} ({clear.sum()} of {len(accepted)})"
            )

    def clearly(self, before: np.ndarray, tried: np.ndarray) -> np.ndarray:
        """Where the difference of two energies is more than rounding."""
        old, new = self.truth.at(before), self.truth.at(tried)
        noise = _SAFETY * (self.truth.rounding(before) + self.truth.rounding(tried))
        edge = np.flatnonzero(np.isfinite(noise) & ~(np.isfinite(old) & np.isfinite(new)))
        for states in (before, tried) if len(edge) else ():
            noise[edge] += self.truth.rounding(states[edge], least=1.0)
        with np.errstate(invalid="ignore"):
            size = np.maximum(np.abs(old), np.abs(new))
            gap = np.abs(old - new)
            finite = np.isfinite(old) & np.isfinite(new)
            clear = np.where(finite, gap > noise + self._ulps * size, np.isfinite(noise))
        return clear

    def fixed(self, what: str, x: np.ndarray, said: bool, strict: bool) -> None:
        """`said` to be a fixed point; where not `strict`, only a false yes is wrong."""
        around = _neighbours(x)
        here = np.repeat(x[None], len(around), 0)
        old, new = self.truth.at(here), self.truth.at(around)
        self.checked += 1
        lower = new < old
        if said == (not lower.any()) or not (said or strict):
            return
        clear = self.clearly(here, around)
        if said and (lower & clear).any():
            k = np.flatnonzero(lower & clear)[0]
            self.failures.append(f"{what}: yes, but bit {k} goes from {old[k]:.9g} to {new[k]:.9g}")
        elif not said and clear.all():
            self.failures.append(f"{what}: no, but no flip lowers {old[0]:.9g}")
        else:
            self.undecided += 1
