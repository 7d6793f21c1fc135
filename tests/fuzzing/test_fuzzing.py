"""Random energies, a short draw: `make fuzz MINUTES=30` is the long one. And the fuzzer itself."""

import dataclasses
import random
import re

import jax
import numpy as np
import pytest
from hypothesis import Phase, assume, given, settings, strategies as st

from amlib.descent.plan import FlipPlan
from tests.fuzzing import changes, energies, oracle, potts, sites, sums
from tests.fuzzing.energies import CASES, METHODS, Case, Value, Writer, draw, promotion
from tests.fuzzing.heads import HEADS


# No shrinking: the case prints itself as a program, and each check compiles for seconds.
@settings(max_examples=6, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
@given(CASES)
def test_the_library_is_right_about_random_energies(case):
    assert oracle.check(case).failures == ()


@settings(max_examples=2, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
@given(potts.CASES)
def test_the_library_is_right_about_random_energies_of_several_values(case):
    assert oracle.check(case).failures == ()


# -- and fast where it must be ----------------------------------------------------------------

FINITE = {n: t for n, t in sites.FLOAT_SITES.items() if n not in ("log", "sqrt", "reciprocal")}
MUST = ("product", "mapped", "distance", "total", "segments", "convolution", "convolve")


def site(w, v):
    return sites.text_site(FINITE)(w, v) if sites.is_float(v) else sites.site(w, v)


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate], database=None)
@given(st.randoms(use_true_random=False))
def test_sums_of_functions_of_single_bits_take_the_incremental_path(rng):
    with promotion(x64=False):
        n = rng.choice([2, 5, 12])
        w = Writer(rng, (n,), "float32", wide=False)
        moves = {n: p for n, p in sites.MOVES.items() if n != "scatter"}
        v = w.values[0]
        for _ in range(rng.randint(0, 3)):
            v = w.step({"site": site, **moves}, v)
        # Out of bounds, a gather without a number to fill in gives NaN: no sum is rid of that.
        assume(not any(re.search(r'(mode="fill"|take\(\w+, \w+, axis=0)\)', t) for t in w.lines))
        v = w.attempt("cast", lambda w, v: f"{v.name}.astype(jnp.float32)", v)
        assert v is not None
        fits = [name for name in MUST if w.attempt(name, sums.LINEAR[name], v) is not None]
        e = w.head(w.values[-1]) if fits else w.head(v, "sum")
        case = HOPFIELD._replace(
            shape=(n,), constants=tuple(w.constants), lines=(*w.lines, f"e = {e}.astype(x.dtype)")
        )
        plan = FlipPlan(
            case.make()(*case.values()), jax.ShapeDtypeStruct((n,), "float32"), "incremental"
        )
        from_state = "sums penalties" in plan.reason  # costs as much as reading the state
        assert plan.path == "incremental" or from_state, f"{plan.reason}\n{case.energy_text()}"


# -- the fuzzer sees what is wrong ------------------------------------------------------------

HOPFIELD = Case(
    shape=(6,),
    dtype="float32",
    constants=(("Xi", "spins(0, 5, 6)"), ("b", "reals(1, 6)")),
    lines=("e = -jnp.sum((Xi @ x)**4) + b @ x",),
    starts=((1, -1, 1, -1, 1, 1), (-1, -1, 1, -1, 1, 1)),
    visits=(0, 1, 2, 3, 4, 5, 0, 1, 2),
    path="incremental",
    call="jit",
    method="greedy",
    limits=(),
    used=(),
)


def test_a_right_library_passes():
    report = oracle.check(HOPFIELD)
    assert report.failures == ()
    assert report.path == "incremental"
    assert report.checked > 2 * len(HOPFIELD.visits)
    assert report.undecided == 0


def _too_high(visited):
    if not isinstance(visited, tuple):
        return dataclasses.replace(visited, trajectory=_too_high((0, visited.trajectory))[1])
    x, t = visited
    return x, dataclasses.replace(t, energy=t.energy * (1 + 1e-4))


def _not_a_number(visited):
    x, t = visited
    return x, dataclasses.replace(t, energy=t.energy.at[3].set(np.nan))


def _keeps_all(visited):
    x, t = visited
    return x, dataclasses.replace(t, accepted=t.accepted | True)


LIES = {
    "energies off by 1e-4": ("visit", _too_high, "energy of a visit"),
    "an energy that is not a number": ("visit", _not_a_number, "nan where"),
    "every flip kept": ("visit", _keeps_all, "kept a flip"),
    "a wrong flip": ("flip_energies", lambda e: e.at[2].add(1.0), "flip_energies"),
    "a false fixed point": ("is_fixed_point", lambda yes: ~yes, "is_fixed_point"),
    "a false end": (
        "greedy",
        lambda r: dataclasses.replace(r, x=-r.x.at[0].multiply(-1)),
        "greedy: ",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_library_that_errs_is_found_out(monkeypatch, lie):
    name, distort, message = LIES[lie]
    truth = getattr(oracle.flips, name)
    monkeypatch.setattr(oracle.flips, name, lambda *a, **k: distort(truth(*a, **k)))
    method = name if name in METHODS else "none" if name != "is_fixed_point" else "sweep"
    failures = oracle.check(HOPFIELD._replace(method=method)).failures
    assert any(message in f for f in failures), failures


SITES = HOPFIELD._replace(
    constants=(("Xi", "integers(0, 0, 3, 4, 5, dtype='int32')"), ("b", "reals(1, 5)")),
    lines=("e = -jnp.sum(jnp.sum(x == Xi, 1)**3.0) + b @ x",),
    shape=(5,),
    starts=((0, 1, 2, 2, 1), (2, 2, 0, 1, 0)),
    visits=(),
    method="sweep",
    q=3,
    held=(4,),
)


def _elsewhere(end):
    return dataclasses.replace(end, x=(end.x + 1) % 3)


LIES_OF_VALUES = {
    "a wrong change": ("changes_of", lambda e: e.at[2, 1].add(1.0), "change_energies"),
    "energies off by 1e-4": ("solve", _too_high, "energy of a visit"),
    "a false end": ("solve", _elsewhere, "a held unit moved"),
}


@pytest.mark.parametrize("lie", LIES_OF_VALUES)
def test_a_library_that_errs_about_values_is_found_out(monkeypatch, lie):
    name, distort, message = LIES_OF_VALUES[lie]
    truth = getattr(changes, name)
    monkeypatch.setattr(changes, name, lambda *a, **k: distort(truth(*a, **k)))
    failures = oracle.check(SITES).failures
    assert any(message in f for f in failures), failures


def test_a_right_library_of_values_passes():
    report = oracle.check(SITES)
    assert report.failures == ()
    assert report.path == "incremental"
    assert report.checked > 100


def test_a_library_that_raises_is_found_out(monkeypatch):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("in the analysis")

    monkeypatch.setattr(oracle.flips, "visit", broken)
    assert oracle.check(HOPFIELD).failures == ("crash: ZeroDivisionError: in the analysis",)


def test_rounding_is_measured_where_it_is_large():
    """A difference of two numbers of a million: the last digits are nobody's fault."""
    lines = ("h = 1e6 + b @ x", "e = jnp.sin(h) - 1e6 + jnp.sum(x)")
    noisy = HOPFIELD._replace(lines=lines, method="none")
    with oracle.setting(noisy):
        truth = oracle.Truth(noisy.make()(*noisy.values()), noisy)
        state = np.asarray(noisy.start(), np.float32)[None]
        assert 0.01 < truth.rounding(state)[0] < 10
        exact = oracle.Truth(HOPFIELD.make()(*HOPFIELD.values()), HOPFIELD)
        assert 0 < exact.rounding(state)[0] < 1e-5 * abs(exact.at(state)[0])


# -- the fuzzer draws what it says ------------------------------------------------------------

VALUES = [
    Value("x", (6,), "float32"), Value("x", (3, 2), "float32"), Value("x", (6,), "int8"),
    Value("x", (8,), "uint8"), Value("x", (8,), "bool"),
]  # fmt: skip
TABLES = {**sites.MOVES, **sums.LINEAR, **sums.BENT}


def _fits(production, name):
    for seed in range(40):
        v = VALUES[seed % len(VALUES)]
        w = Writer(random.Random(seed), v.shape, v.dtype, wide=False)
        w.float = "float32"
        w.values = [Value("y", v.shape, v.dtype), v]
        if w.attempt(name, production, v) is not None:
            return True
    return False


def test_every_production_fits_some_value():
    with promotion(x64=False):
        assert [n for n, p in TABLES.items() if not _fits(p, n)] == []
        texts = {**sites.FLOAT_SITES, **sites.INTEGER_SITES, **sites.BOOL_SITES}
        singles = {
            n: lambda w, v, t=t: t.format(v=v.name, **sites.numbers(w)) for n, t in texts.items()
        }
        assert [n for n, p in singles.items() if not _fits(p, n)] == []


def test_every_way_to_read_units_of_several_values_fits():
    with promotion(x64=False):
        for name, production in potts.OPENINGS.items():
            written = set()
            for seed in range(12):
                w = Writer(random.Random(seed), (6,), "float32", wide=False, q=4)
                if w.attempt(name, production, w.values[0]) is not None:
                    written.update(w.lines)
            assert len(written) > 5, name


def test_every_head_ends_in_a_scalar():
    with promotion(x64=False):
        for name in HEADS:
            w = Writer(random.Random(0), (6,), "float32", wide=False)
            new = w.head(w.values[0], name)
            assert new is not None, name
            assert w.values[-1].shape == (), name
            assert w.used[-1] == name


def test_a_seed_names_a_case():
    first, again, other = (draw(random.Random(s)) for s in (5, 5, 6))
    assert first == again
    assert first != other


def test_a_case_prints_itself_as_a_program(capsys):
    exec(compile(HOPFIELD.source(), "case", "exec"), {})
    printed = capsys.readouterr().out
    assert "path      local" in printed
    assert printed.count("exact") == 2


def test_limits_exist_and_come_back():
    limits = dict(energies.LIMITS)
    case = HOPFIELD._replace(limits=tuple(limits.items()))
    before = oracle.limits_of(limits)
    with oracle.setting(case):
        assert oracle.limits_of(limits) == limits
    assert oracle.limits_of(limits) == before
