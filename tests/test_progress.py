"""Progress bars of recalls: nothing where none is asked for, and no other result where one is."""

import functools
import io
import threading
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from numpy.testing import assert_allclose

import amlib as am
from amlib import _progress as bars
from amlib.descent import descend
from tests.test_verb import FAMILIES, FITS, same, stacked
from tests.zoo import spins

D = 8
PATTERNS = jnp.asarray(spins(0, 3, D), jnp.float32)
STARTS = jnp.asarray(spins(1, 8, D), jnp.float32)
KEY = jr.key(0)


class Drawn:
    """A bar that remembers what it was told."""

    def __init__(self, total, shown=True, *, initial=0, **words):
        self.total, self.n, self.words = total, initial, words
        self.seen, self.closed = [], 0
        assert shown

    def update(self, steps):
        self.n += steps
        self.seen.append(self.n)

    def close(self):
        self.closed += 1


@pytest.fixture
def drawn(monkeypatch):
    """All bars of a test. At its end each is closed, once."""
    made = []
    monkeypatch.setattr(bars, "bar", lambda *a, **k: made.append(Drawn(*a, **k)) or made[-1])
    yield made
    assert all(bar.closed == 1 for bar in made)
    assert not bars._bars._open


class Pulled(am.ContinuousAM):
    """Slow steps, so that there are many."""

    unit_step = False

    def energy(self, x):
        return 0.5 * jnp.sum((x - self.Xi[0]) ** 2)


class Walled(am.BinaryAM):
    """An energy that raises where it is low."""

    def energy(self, x):
        e = -0.5 * jnp.sum((self.Xi @ x) ** 2)
        return eqx.error_if(e, e <= -0.5 * D**2, "too low")


# -- no other results ------------------------------------------------------------------------------

SAME = [
    *(("spins", name) for name in ("greedy", "glauber")),
    *(("reals", name) for name in ("descent", "euler", "flow", "fixed point")),
    ("layers", "euler"), ("reconstructor", "relax"), ("map", "relax in turn"),
]  # fmt: skip


@pytest.mark.parametrize(("family", "name"), SAME, ids=[f"{f}-{n}" for f, n in SAME])
def test_the_results_are_the_same(family, name, drawn):
    """State for state. (`test_the_verb` shows a bar for every family and method.)"""
    make, state, _, _ = FAMILIES[family]
    run = lambda progress: make(jnp.float32).recall(
        state(1, jnp.float32), method=FITS[family][name], key=KEY, max_steps=24, progress=progress
    )
    silent = run(False)
    assert not drawn
    shown = run(True)
    if name == "flow":  # adaptive, in a loop that is not ours: what rounds otherwise ends elsewhere
        assert_allclose(silent.x, shown.x, atol=1e-3)
    else:
        same(silent, shown)
    (bar,) = drawn
    assert bar.total == 24
    steps = int(shown.steps)
    assert bar.n <= 24
    assert steps - 3 < bar.n or name == "flow"


def test_so_are_those_of_units_of_several_values(drawn):
    Xi = jnp.asarray(np.random.default_rng(0).integers(0, 3, (2, 6)), jnp.int32)
    memory = am.PottsHopfield(Xi, 3)
    x = memory.Xi[0].at[:2].set(2)
    same(memory.recall(x), memory.recall(x, progress=True))
    assert len(drawn) == 1


def test_and_those_of_sequences_that_are_played(drawn):
    memory = am.SequenceMemory(PATTERNS)
    same(memory.play(STARTS[0], 40), memory.play(STARTS[0], 40, progress=True))
    (bar,) = drawn
    assert bar.total == 40
    assert bar.words["desc"] == "play"
    assert bar.seen == list(range(2, 40, 2))


def test_and_the_derivatives_through_steps(drawn):
    memory = Pulled(PATTERNS)
    record = {"max_steps": 20, "save_every": 4}
    for method, words in (
        (am.GradientDescent(0.01), {"max_steps": 64}), (am.GradientDescent(0.01), record),
        (am.Euler(0.01), {"max_steps": 20}),
        (am.FixedPoint(step_size=0.1), {}),
    ):  # fmt: skip

        def loss(Xi, x, progress, method=method, words=words):
            moved = eqx.tree_at(lambda m: m.Xi, memory, Xi)
            return jnp.sum(moved.recall(x, method=method, progress=progress, **words).x ** 2)

        slope = lambda progress: jax.jit(jax.grad(functools.partial(loss, progress=progress)))
        drawn.clear()
        assert_allclose(*(slope(p)(PATTERNS, STARTS[0]) for p in (True, False)), rtol=1e-6)
        jax.effects_barrier()
        assert len(drawn) == 1  # nothing on the way back opens another
        assert all(bar.closed for bar in drawn)


# -- nothing where none is asked for ---------------------------------------------------------------


@pytest.mark.parametrize("family", ["spins", "reals", "layers", "reconstructor"])
def test_a_program_without_a_bar_has_no_callback(family):
    make, state, _, _ = FAMILIES[family]
    memory, x0 = make(jnp.float32), state(1, jnp.float32)
    program = lambda progress: jax.make_jaxpr(
        lambda key: memory.recall(x0, key=key, progress=progress).x
    )(KEY)
    off, on = program(False), program(True)
    assert "callback" not in str(off.jaxpr)
    assert not off.effects
    assert "debug_callback" in str(on.jaxpr)


def test_other_numbers_and_limits_compile_nothing_anew(drawn):
    traces = []

    class Counted(am.ContinuousAM):
        def energy(self, x):
            traces.append(x)
            return 0.5 * jnp.sum((x - self.Xi[0]) ** 2)

    method = am.GradientDescent(0.1)
    for first, limit in ((0, 50), (1, 60), (2, 70)):
        Counted(PATTERNS[first:]).recall(STARTS[first], method=method, max_steps=limit)
    before = len(traces)
    run = lambda limit: Counted(PATTERNS).recall(
        STARTS[0], method=method, max_steps=limit, progress=True
    )
    run(50)
    once = len(traces)
    assert once > before
    run(60)
    run(90)
    assert len(traces) - once <= 2 * 3  # the shape of an energy is asked for, and no loop is traced
    assert [bar.total for bar in drawn] == [50, 60, 90]


# -- when the bar is told --------------------------------------------------------------------------


def told(turns):
    """When a loop of so many turns is told, by the definition."""
    short = lambda n: len(f"{n:b}".rstrip("0")) <= bars.OFTEN + 1
    return [n for n in range(1, turns + 1) if short(n)]


def test_a_long_loop_is_told_few_times(drawn):
    """All of the first 32, and then 16 while their number doubles."""
    memory = Pulled(PATTERNS)
    memory.recall(STARTS[0], method=am.GradientDescent(1e-4), max_steps=5000, progress=True)
    (bar,) = drawn
    assert bar.seen == told(5000)
    assert len(bar.seen) < 32 + 16 * np.log2(5000 / 32) + 1


def test_a_record_changes_nothing_of_that(drawn):
    memory, method = Pulled(PATTERNS), am.GradientDescent(1e-3)
    memory.recall(STARTS[0], method=method, max_steps=300, save_every=7, progress=True)
    assert drawn[0].seen == told(300)


def test_greedy_flips_are_parts_of_a_sweep(drawn):
    end = am.ClassicalHopfield(PATTERNS).recall(STARTS[0], method=am.Greedy(), progress=True)
    (bar,) = drawn
    assert bar.total == 100
    assert 0 < bar.n <= int(end.steps)
    assert bar.seen[0] == 1 / D


# -- under transformations -------------------------------------------------------------------------


def test_a_batch_has_one_bar_of_its_slowest(drawn):
    memory = am.ClassicalHopfield(jnp.asarray(spins(0, 6, 16), jnp.float32))
    starts = jnp.asarray(spins(1, 8, 16), jnp.float32)
    for transform in (lambda f: f, jax.jit):
        drawn.clear()
        end = transform(jax.vmap(lambda x: memory.recall(x, progress=True)))(starts)
        jax.block_until_ready(end)
        jax.effects_barrier()
        (bar,) = drawn
        assert len(set(end.steps.tolist())) > 1
        assert bar.n == int(end.steps.max())


def test_each_recall_of_a_scan_has_its_own(drawn):
    memory = am.ModernHopfield(PATTERNS)

    @jax.jit
    def several(x):
        move = lambda x, _: (memory.recall(x, max_steps=5, progress=True).x, None)
        return jax.lax.scan(move, x, length=3)[0]

    several(STARTS[0]).block_until_ready()
    jax.effects_barrier()
    assert len(drawn) == 3


@pytest.mark.parametrize(("name", "kind"), [("spins", AxisType.Explicit), ("reals", AxisType.Auto)])
def test_devices_share_a_bar(kind, name, drawn):
    """Of states that are divided among them, and within `jax.shard_map`, where one reports."""
    memory = FAMILIES[name].make(jnp.float32)
    mesh = jax.make_mesh((4,), ("d",), axis_types=(kind,))
    xs = jax.device_put(STARTS, NamedSharding(mesh, P("d")))
    run = jax.vmap(lambda x, p=True: memory.recall(x, max_steps=20, progress=p).x)
    inside = jax.jit(jax.shard_map(run, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    whole = jax.vmap(lambda x: memory.recall(x, max_steps=20).x)(STARTS)
    with jax.set_mesh(mesh):
        for fn in (run,) if name == "spins" else (run, jax.jit(run), inside):
            drawn.clear()
            out = fn(xs).block_until_ready()
            jax.effects_barrier()
            assert len(drawn) == 1
            assert drawn[0].closed
            assert_allclose(out, whole, atol=1e-3)


def test_the_engine_has_it_too(drawn):
    energy = lambda x: -0.5 * jnp.sum((PATTERNS @ x) ** 2)
    end = descend(energy, STARTS[0], am.Sweeps(), progress=True)
    assert drawn[0].n == int(end.steps)
    batch = FAMILIES["layers"].make(jnp.float32).vectorize()
    states = [FAMILIES["layers"].state(seed, jnp.float32) for seed in range(2)]
    batch.recall(stacked(states), max_steps=5, progress=True)
    assert drawn[1].total == 5


# -- how it ends -----------------------------------------------------------------------------------


def test_a_recall_that_raises_closes_its_bar(drawn):
    """The fixture asks for it."""
    with pytest.raises(Exception, match="too low"):
        Walled(PATTERNS[:1]).recall(STARTS[0], progress=True)
    assert len(drawn) == 1


def test_what_a_program_leaves_when_it_fails_is_closed_by_another(drawn, monkeypatch):
    """And the bar of one that was merely slow comes back, where it was."""
    own, now = bars._Bars(), [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    move = lambda n, turns: own.move(jnp.asarray([n, turns, 100]), "recall", 1)
    move(1, 10)
    now[0] = bars.SILENT - 1
    move(2, 0)
    assert not drawn[0].closed
    now[0] = bars.SILENT + 1
    move(3, 0)
    assert [bar.closed for bar in drawn] == [1, 0, 0]
    move(1, 20)
    assert drawn[3].n == 20
    assert drawn[3].seen == []  # its rate is not that of twenty steps at once
    for number in (1, 2, 3):
        own.close(jnp.asarray(number))
    assert not own._open


def test_two_recalls_at_once_have_a_bar_each(drawn):
    memory, ends = Pulled(PATTERNS), {}

    def work(limit):
        method = am.GradientDescent(1e-3)
        ends[limit] = memory.recall(STARTS[0], method=method, max_steps=limit, progress=True)

    threads = [threading.Thread(target=work, args=(limit,)) for limit in (400, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {bar.total: bar.seen for bar in drawn} == {n: told(n) for n in (400, 500)}
    for limit, end in ends.items():
        assert int(end.steps) == limit


def test_the_text_is_erased(capsys):
    am.ClassicalHopfield(PATTERNS).recall(STARTS[0], progress=True)
    shown = capsys.readouterr().err
    assert "recall:   0%" in shown
    assert "/100" in shown
    assert not shown.endswith("\n")
    assert shown.split("\r")[-2].strip() == shown.split("\r")[-1] == ""


def test_one_variable_silences_all_bars(capsys, monkeypatch):
    samples = lambda: am.sampling.sample(
        am.ClassicalHopfield(PATTERNS), am.Glauber(1.0), STARTS[:2], KEY, steps=3
    )
    samples()
    assert "/3 [" in capsys.readouterr().err
    monkeypatch.setenv("TQDM_DISABLE", "1")
    samples()
    am.ClassicalHopfield(PATTERNS).recall(STARTS[0], progress=True)
    assert capsys.readouterr().err == ""


def test_by_default_a_film_shows_one_on_a_terminal_alone(monkeypatch):
    for terminal in (True, False):
        stream = io.StringIO()
        stream.isatty = lambda terminal=terminal: terminal
        monkeypatch.setattr("sys.stderr", stream)
        with bars.bar(3, None):
            pass
        assert bool(stream.getvalue()) == terminal


def test_it_is_yes_or_no(unchecked):
    wrong: list[Any] = [100, "yes", None]
    for progress in wrong:
        for recall in (
            lambda p=progress: am.ModernHopfield(PATTERNS).recall(STARTS[0], progress=p),
            lambda p=progress: am.SequenceMemory(PATTERNS).play(STARTS[0], 3, progress=p),
            lambda p=progress: descend(lambda x: jnp.sum(x), STARTS[0], am.Sweeps(), progress=p),
        ):
            with pytest.raises(TypeError, match="progress must be True or False"):
                recall()
    with pytest.raises(TypeError, match="progress"):
        am.ModernHopfield(PATTERNS).recall(STARTS[0], progres=True)
