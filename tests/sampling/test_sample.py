"""The verb of sampling: chains, observables, going on, and what users get wrong."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.sampling import Annealed, Samples, Tempering, even_swaps, sample
from tests.sampling.registry import BITS, REALS, SMALL, N
from tests.zoo import reals, spins

Xi = jnp.asarray(spins(0, 3, 16), jnp.float32)
memory = am.ClassicalHopfield(Xi)
x0 = jnp.asarray(spins(1, 4, 16), jnp.float32)
KEY = jr.key(2)


def quiet(*args, **words) -> Samples:
    return sample(*args, progress=False, **words)


@pytest.mark.parametrize("name", [*BITS, *REALS])
def test_a_run_in_two_parts_is_one_run(name):
    """State for state, wherever it is cut."""
    if name in BITS:
        sampler, target, start = BITS[name](0.03), memory, x0
    else:
        target = am.ModernHopfield(jnp.asarray(reals(0, 2, 3), jnp.float32), beta=1.0)
        sampler, start = REALS[name](1.0), jnp.zeros((2, 3))
    words = {"thin": 2, "observables": {"x": lambda x: x}, "keep_states": True}
    whole = quiet(target, sampler, start, KEY, steps=23, warmup=30, **words)
    parts = quiet(target, sampler, start, KEY, steps=9, warmup=30, **words)
    parts = parts.append(quiet(target, sampler, parts, steps=14, **words))
    assert parts.steps == whole.steps == 30 + 46
    np.testing.assert_array_equal(parts["x"], whole["x"])
    np.testing.assert_array_equal(parts.states, whole.states)
    np.testing.assert_array_equal(parts.x, whole.x)
    np.testing.assert_array_equal(parts.energy, whole.energy)
    if whole.swap_rates is not None:
        np.testing.assert_allclose(parts.swap_rates, whole.swap_rates, rtol=1e-6)


def test_a_chain_is_a_recall_of_the_method():
    """The same random numbers: chain `k` draws from the `k`-th key."""
    end = quiet(memory, am.Glauber(0.02), x0, KEY, steps=5, thin=3, keep_states=True)
    key = jr.split(KEY, 4)[2]
    one = memory.recall(x0[2], method=am.Glauber(0.02), key=key, max_steps=15, save_every=3)
    np.testing.assert_array_equal(end.states[2], one.trajectory.x[1:])
    np.testing.assert_array_equal(end.x[2], one.x)


def test_observables_are_those_of_the_states():
    end = quiet(
        memory,
        am.Metropolis(0.02),
        x0,
        KEY,
        steps=12,
        warmup=3,
        observables={"first": lambda x: x[0] > 0, "pair": lambda x: x[:2], "overlaps": "overlaps"},
        keep_states=True,
    )
    x = end.states
    assert x.shape == (4, 12, 16)
    assert end["first"].dtype == bool
    np.testing.assert_array_equal(end["first"], x[..., 0] > 0)
    np.testing.assert_array_equal(end["pair"], x[..., :2])
    np.testing.assert_allclose(end["overlaps"], x @ np.asarray(Xi).T / 16, atol=1e-6)
    full = jax.vmap(jax.vmap(memory.energy))(jnp.asarray(x))
    np.testing.assert_allclose(end.energy, full, rtol=1e-5)
    np.testing.assert_array_equal(end.x, x[:, -1])
    means = quiet(memory, am.Metropolis(0.02), x0, KEY, steps=2, observables=("magnetisation",))
    assert means["magnetisation"].shape == (4, 2)
    assert means.states is None


def test_what_is_held_does_not_move():
    held = jnp.arange(16) < 6
    for sampler in (am.Glauber(0.01), Tempering([0.001, 0.01])):
        end = quiet(memory, sampler, x0, KEY, steps=20, clamp=held, keep_states=True)
        states = end.states if end.betas is None else end.states[:, :, 0]
        assert (states[..., :6] == np.asarray(x0)[:, None, :6]).all()
        assert (states[..., 6:].std(1) > 0).all()


def test_a_hierarchical_memory_is_sampled_layer_by_layer():
    layers = {"a": am.IdentityLayer(3), "b": am.TanhLayer(2)}
    synapse = am.LinearSynapse.rand_init(jr.key(0), 3, 2)
    ham = am.HAM(layers, {"s": synapse}, [(("a", "b"), "s")])
    start = {"a": jnp.zeros((2, 3)), "b": jnp.zeros((2, 2))}
    end = quiet(ham, am.Langevin(2.0, 0.05), start, KEY, steps=30, observables=("magnetisation",))
    assert end.energy.shape == end["magnetisation"].shape == (2, 30)
    assert {k: a.shape for k, a in end.x.items()} == {"a": (2, 3), "b": (2, 2)}
    assert (end.energy.std(1) > 0).all()


# -- several temperatures --------------------------------


def test_replicas_swap_as_often_as_their_laws_say():
    """The rate is the mean of min(1, exp(...)) over both laws."""
    small, betas = SMALL["local"], (0.2, 0.5, 0.9)
    start = jnp.asarray(np.resize(small.states, (300, N)))
    end = quiet(small.memory, Tempering(betas), start, KEY, steps=40, warmup=20)
    e = np.asarray(jax.vmap(small.memory.energy)(jnp.asarray(small.states)), np.float64)
    for i, rate in enumerate(end.swap_rates):
        rise = (betas[i + 1] - betas[i]) * (e[None, :] - e[:, None])
        exact = small.law(betas[i]) @ np.minimum(1, np.exp(rise)) @ small.law(betas[i + 1])
        assert abs(rate - exact) < 0.02


def test_tempering_leaves_a_valley_that_one_temperature_does_not():
    """Two opposite patterns with a hill between them that Glauber does not climb."""
    deep = am.ClassicalHopfield(jnp.ones((1, 32)))
    start, beta = jnp.ones((4, 32)), 0.08
    words = {"steps": 300, "warmup": 50, "observables": {"m": jnp.mean}}
    alone = quiet(deep, am.Glauber(beta), start, KEY, **words)["m"]
    betas = np.linspace(0.01, beta, 8)
    cold = quiet(deep, Tempering(betas), start, KEY, **words)["m"][:, :, -1]
    assert alone.min() > 0.3
    assert (cold < -0.3).mean() > 0.2
    assert (cold > 0.3).mean() > 0.2


def test_even_swaps_evens_them():
    glass = am.BipolarIsing(jnp.asarray(reals(0, 24, 24) + reals(0, 24, 24).T, jnp.float32))
    start, betas = jnp.ones((20, 24)), [0.01, 0.02, 0.03, 0.35]
    words = {"steps": 150, "warmup": 50}
    first = quiet(glass, Tempering(betas), start, KEY, **words).swap_rates
    spaced = even_swaps(betas, first)
    second = quiet(glass, Tempering(spaced), start, KEY, **words).swap_rates
    spaced = even_swaps(spaced, second)
    third = quiet(glass, Tempering(spaced), start, KEY, **words).swap_rates
    assert np.ptp(first) > 0.6
    assert np.ptp(third) < 0.25
    np.testing.assert_allclose(spaced[[0, -1]], (0.01, 0.35), rtol=1e-6)
    assert len(even_swaps(betas, first, count=9)) == 9
    falling = even_swaps(betas[::-1], first[::-1])
    assert (np.diff(falling) < 0).all()


def test_annealing_goes_along_its_schedule():
    """Observed from the first step on, energies fall; the end is at the last temperature."""
    betas = np.linspace(0, 0.2, 40)
    end = quiet(memory, Annealed(betas), jnp.tile(x0, (8, 1)), KEY, steps=60)
    assert end.energy[:, :5].mean() > end.energy[:, 40:].mean() + 20
    up = quiet(memory, Annealed(betas, am.Metropolis(1.0)), x0, KEY, steps=2, warmup=40)
    assert up.steps == 42


# -- the draws judged --------------------------------


def test_a_summary_has_no_holes_where_nothing_moves():
    held = jnp.arange(16) < 15
    end = quiet(
        memory, am.Glauber(0.0), x0, KEY, steps=40, clamp=held, observables={"x": lambda x: x}
    )
    table = end.summary()
    assert list(table["name"][:2]) == ["energy", "x[0]"]
    still = [f"x[{k}]" for k in range(15) if len(set(np.asarray(x0)[:, k])) == 1]
    rows = np.isin(table["name"], still)
    assert rows.sum() == len(still) > 0
    assert (table["r_hat"][rows] == 1).all()
    assert (table["mcse"][rows] == 0).all()
    apart = np.isin(table["name"], [f"x[{k}]" for k in range(15)]) & ~rows
    assert np.isinf(table["r_hat"][apart]).all()
    free = table["name"] == "x[15]"
    assert abs(table["mean"][free]) < 0.4
    assert 20 < table["ess"][free] < 500
    assert not np.isnan([table[k] for k in ("mean", "sd", "mcse", "ess", "r_hat")]).any()


def test_arviz_judges_each_temperature_by_itself():
    words = {"steps": 60, "warmup": 10, "observables": ("overlaps",)}
    end = quiet(memory, Tempering([0.001, 0.005, 0.01]), x0, KEY, **words)
    data = end.to_arviz()["posterior"]
    assert dict(data.sizes) == {"chain": 4, "draw": 60, "beta": 3, "overlaps_dim_0": 3}
    np.testing.assert_allclose(data.coords["beta"], [0.001, 0.005, 0.01])
    np.testing.assert_array_equal(data["energy"], end.energy)
    table = end.summary()
    cold = (table["name"] == "overlaps[1]") & (table["beta"] == np.float32(0.01))
    np.testing.assert_allclose(table["mean"][cold], end["overlaps"][:, :, 2, 1].mean(), rtol=1e-6)
    energies = table["name"] == "energy"
    assert (np.diff(table["mean"][energies]) < 0).all()
    plain = quiet(memory, am.Glauber(0.01), x0, KEY, steps=10).to_arviz()["posterior"]
    assert dict(plain.sizes) == {"chain": 4, "draw": 10}


def test_effective_draws_of_chains_that_do_not_move_together():
    """At infinite temperature in random order every sweep is nearly a fresh state."""
    end = quiet(memory, am.Glauber(0.0), x0, KEY, steps=250, observables={"m": jnp.mean})
    table = end.summary()
    m = table["name"] == "m"
    assert 600 < table["ess"][m] < 1600
    assert abs(table["r_hat"][m] - 1) < 0.02


# -- numbers that users have --------------------------------


def test_integers_bools_and_halves_are_states():
    ends = [
        quiet(memory, am.Glauber(0.02), start, KEY, steps=3).x
        for start in (x0, np.asarray(x0, int), np.asarray(x0) > 0)
    ]
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[0], ends[2])
    half = am.ModernHopfield(jnp.asarray(reals(0, 3, 4), jnp.float16), beta=2.0)
    end = quiet(half, am.Langevin(2.0, 0.1), jnp.zeros((2, 4), jnp.float16), KEY, steps=5)
    assert end.x.dtype == jnp.float16


def test_double_precision(x64):
    wide = am.ClassicalHopfield(np.asarray(Xi, np.float64))
    for sampler in (am.Glauber(0.02), Tempering([0.01, 0.02])):
        end = quiet(wide, sampler, np.asarray(x0, np.float64), KEY, steps=4)
        assert end.energy.dtype == np.float64
        assert end.x.dtype == np.float64


def test_one_unit_one_chain_one_draw():
    one = am.ClassicalHopfield(jnp.ones((1, 1)))
    end = quiet(one, am.Glauber(0.1), jnp.ones((1, 1)), KEY, steps=1)
    assert (end.chains, end.draws) == (1, 1)
    assert np.isnan(end.summary()["ess"]) or end.summary()["r_hat"] == 1


def test_an_energy_that_is_not_finite_is_reported():
    class Cliff(am.ContinuousAM):
        def energy(self, x):
            return jnp.sum(jnp.where(x > 0.5, jnp.nan, 0.5 * x * x))

    cliff = Cliff(jnp.zeros((1, 1)))
    start = jnp.asarray([[0.0], [2.0]])
    end = quiet(cliff, am.Langevin(1.0, 1e-4), start, KEY, steps=5)
    assert list(np.asarray(end.result == am.RESULTS.nonfinite)) == [False, True]
    assert "1 chains nonfinite" in repr(end)
    more = quiet(cliff, am.Langevin(1.0, 1e-4), end, steps=5)
    assert bool((more.result == am.RESULTS.nonfinite)[1])


def test_chains_may_start_in_a_wall():
    small = SMALL["walls"]
    start = jnp.ones((3, N)).at[:, 0].set(-1)  # a flip away from states that are allowed
    assert np.isinf(small.memory.energy(start[0]))
    end = quiet(small.memory, am.Glauber(0.5), start, KEY, steps=30)
    assert np.isfinite(end.energy[:, -1]).all()
    assert (end.result == am.RESULTS.sampled).all()


def test_other_temperatures_compile_nothing_anew():
    traced = []

    class Counting(am.BinaryAM):
        def energy(self, x):
            traced.append(x)
            return -0.5 * jnp.sum((self.Xi @ x) ** 2)

    counting = Counting(Xi)
    observe = {"m": jnp.mean}
    for make in (am.Glauber, lambda b: Tempering([b / 2, b])):
        quiet(counting, make(0.02), x0, KEY, steps=4, warmup=2, observables=observe)
        before = len(traced)
        quiet(counting, make(0.03), x0, jr.key(5), steps=4, warmup=2, observables=observe)
        assert len(traced) == before


# -- what is wrong --------------------------------

REAL = am.ModernHopfield(jnp.asarray(reals(0, 2, 3), jnp.float32), beta=1.0)
BAD = {
    "no chains": (lambda: quiet(memory, am.Glauber(1.0), x0[:0], KEY, steps=1), "at least one"),
    "a state": (lambda: quiet(memory, am.Glauber(1.0), x0[0], KEY, steps=1), r"x\[None\]"),
    "shape": (lambda: quiet(memory, am.Glauber(1.0), x0[:, :9], KEY, steps=1), r"\(16,\)"),
    "values": (lambda: quiet(memory, am.Glauber(1.0), 2 * x0, KEY, steps=1), "-1 and \\+1"),
    "no key": (lambda: quiet(memory, am.Glauber(1.0), x0, steps=1), "needs key"),
    "steps": (lambda: quiet(memory, am.Glauber(1.0), x0, KEY, steps=0), "steps"),
    "warmup": (lambda: quiet(memory, am.Glauber(1.0), x0, KEY, steps=1, warmup=-1), "warmup"),
    "thin": (lambda: quiet(memory, am.Glauber(1.0), x0, KEY, steps=1, thin=0), "thin"),
    "schedule": (
        lambda: quiet(memory, am.Glauber(np.array([0.1, 1.0])), x0, KEY, steps=1),
        "Annealed",
    ),
    "one beta": (lambda: Tempering([1.0]), "at least two"),
    "unsorted": (lambda: Tempering([1.0, 3.0, 2.0]), "strictly rising"),
    "doubles": (lambda: Tempering([1.0, 1.0, 2.0]), "strictly rising"),
    "negative": (lambda: Tempering([-1.0, 1.0]), "at least 0"),
    "nan": (lambda: Annealed([0.1, np.nan]), "finite"),
    "every": (lambda: quiet(memory, Tempering([0.1, 0.2], every=3), x0, KEY, steps=1), "multiple"),
    "rates": (lambda: even_swaps([0.1, 0.2, 0.3], [0.5]), "2 numbers"),
    "rates above one": (lambda: even_swaps([0.1, 0.2], [1.5]), r"\[0, 1\]"),
    "no step size": (
        lambda: quiet(REAL, Tempering([1.0, 2.0]), jnp.zeros((1, 3)), KEY, steps=1),
        "step size",
    ),
    "no warm-up": (
        lambda: quiet(REAL, am.sampling.NUTS(1.0), jnp.zeros((1, 3)), KEY, steps=1),
        "warm-up",
    ),
    "hmc with a clamp": (
        lambda: quiet(
            REAL,
            am.sampling.HMC(1.0, 0.1),
            jnp.zeros((1, 3)),
            KEY,
            steps=1,
            clamp=np.array([True, False, False]),
        ),
        "clamp",
    ),
    "no patterns": (
        lambda: quiet(
            SMALL["local"].memory,
            am.Glauber(1.0),
            jnp.ones((1, N)),
            KEY,
            steps=1,
            observables=("overlaps",),
        ),
        "memory.Xi",
    ),
    "unknown observable": (
        lambda: quiet(memory, am.Glauber(1.0), x0, KEY, steps=1, observables=("overlap",)),
        "overlaps",
    ),
    "negative density": (lambda: memory.logdensity(-1.0), "at least 0"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused(case):
    call, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        call()


WRONG = {
    "descent": (lambda: quiet(memory, am.Sweeps(), x0, KEY, steps=1), "lowers the energy"),
    "reals on bits": (
        lambda: quiet(memory, am.Langevin(1.0, 0.1), x0, KEY, steps=1),
        "units of two values",
    ),
    "bits on reals": (
        lambda: quiet(REAL, am.Glauber(1.0), jnp.zeros((1, 3)), KEY, steps=1),
        "real units",
    ),
    "hmc on bits": (lambda: quiet(memory, am.sampling.HMC(1.0), x0, KEY, steps=1), "bits"),
    "within": (
        lambda: quiet(memory, Annealed([0.1, 0.2], am.Greedy()), x0, KEY, steps=1),
        "Annealed: method must draw",
    ),
    "strings": (
        lambda: quiet(memory, am.Glauber(1.0), x0, KEY, steps=1, observables={"a": lambda x: "s"}),
        "numbers; 's' came",
    ),
    "two": (
        lambda: quiet(
            memory, am.Glauber(1.0), x0, KEY, steps=1, observables={"a": lambda x: (x, x)}
        ),
        "array of numbers",
    ),
    "floats": (
        lambda: quiet(
            memory, am.Glauber(1.0), x0, KEY, steps=1, observables={"a": lambda x: float(x[0])}
        ),
        "JAX can trace",
    ),
    "energy": (
        lambda: quiet(memory, am.Glauber(1.0), x0, KEY, steps=1, observables={"energy": jnp.mean}),
        "always observed",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_wrong_kind_is_refused(case, unchecked):
    call, words = WRONG[case]
    with pytest.raises(TypeError, match=words):
        call()


def test_draws_of_other_chains_are_not_appended():
    a = quiet(memory, am.Glauber(0.1), x0, KEY, steps=2)
    b = quiet(memory, am.Glauber(0.1), x0[:2], KEY, steps=2)
    with pytest.raises(ValueError, match="chains and observables"):
        a.append(b)
    with pytest.raises(ValueError, match="own keys"):
        quiet(memory, am.Glauber(0.1), a, KEY, steps=2)


def test_the_library_does_without_the_extras():
    """ArviZ and BlackJAX are asked for by name, where they are needed."""
    code = """
import sys
sys.modules["arviz"] = sys.modules["blackjax"] = None
import amlib as am, jax, jax.numpy as jnp
m = am.ModernHopfield(jnp.zeros((1, 2)))
go = lambda method: am.sampling.sample(
    m, method, jnp.zeros((1, 2)), jax.random.key(0), steps=3, warmup=3, progress=False)
draws = go(am.Langevin(1.0, 0.1))
for call in (draws.summary, draws.to_arviz, lambda: go(am.sampling.NUTS(1.0))):
    try:
        call()
    except ImportError as err:
        print("amlib[sampling]" in str(err))
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stdout.split() == ["True"] * 3, ran.stderr
