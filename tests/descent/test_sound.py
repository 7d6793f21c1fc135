"""Energies that once led the flip analysis to a wrong answer, a crash or silent slowness."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax

from amlib.descent.plan import FlipPlan, Path
from amlib.descent.trajectory import RESULTS
from tests import engine as flips

K, D = 6, 16


def spins(seed, *shape, dtype=jnp.float32):
    return jr.rademacher(jr.key(seed), shape, dtype=dtype)


Xi = spins(0, K, D)
W = jr.normal(jr.key(1), (4, K))
MANY = spins(2, 300, 10)  # enough for the compact form


def unsigned_distances(x):
    d = jnp.sum((x[None] != Xi).astype(jnp.uint8), axis=1)
    h = W @ d.astype(jnp.float32)
    return jnp.sum(jnp.tanh(h) ** 2) - 0.1 * jnp.sum(h)


def unsigned_wrap(dtype):
    def energy(x):
        different = (x[None] != Xi).astype(dtype) * np.asarray(40, dtype)
        d = jnp.sum(different, axis=1, dtype=dtype)
        return -jnp.sum(jnp.tanh(d.astype(jnp.float32) / 100.0))

    return energy


def wide_dot(factor, narrow, wide):
    """A product of narrow numbers whose differences do not fit their type."""

    def energy(x):
        h = lax.dot(
            Xi.astype(narrow), (factor * x).astype(narrow), preferred_element_type=wide
        ).astype(jnp.float32)
        return -jnp.sum(h**2)

    return energy


def unsigned_dot(x):
    bits = jnp.where(x > 0, 200, 0).astype(jnp.uint8)
    weights = (Xi > 0).astype(jnp.uint8)
    h = lax.dot(weights, bits, preferred_element_type=jnp.uint32)
    return -jnp.sum(h.astype(jnp.float32) ** 2)


def half_dot(x):
    h = lax.dot(
        jnp.full((3, D), 0.5, jnp.float16),
        (60_000 * x).astype(jnp.float16),
        preferred_element_type=jnp.float32,
    )
    return -jnp.sum(jnp.abs(h))


def filled(x):
    at = jnp.array([0, 2, 99])
    return -jnp.sum(jnp.take(Xi @ x, at, mode="fill", fill_value=5.0) ** 2)


def wall(x):
    closed = (jnp.arange(D) < 1) & (x < 0)
    return jnp.sum(jnp.where(closed, jnp.inf, 0.0)) - 0.5 * jnp.sum((Xi @ x) ** 2)


def popcount(x):
    words = jnp.packbits(x > 0)
    ones = lax.population_count(words).astype(jnp.float32)
    return -jnp.sum(jnp.abs(ones - 3.0) ** 3) - jnp.sum((Xi @ x) ** 2) / D


def xor_distance(x):
    stored = jnp.packbits(Xi > 0, axis=1)
    d = lax.population_count(stored ^ jnp.packbits(x > 0)[None])
    return -jax.nn.logsumexp(-jnp.sum(d, axis=1, dtype=jnp.uint8).astype(jnp.float32))


def bool_product(x):
    both = jnp.dot(x > 0, Xi[0] > 0).astype(jnp.float32)
    return both - jnp.sum((Xi @ x) ** 2)


def free_part(x):
    full = jnp.zeros(2 * D).at[jnp.arange(0, 2 * D, 2)].set(x)
    return -jnp.sum((jnp.tile(Xi, 2) @ full) ** 2)


def added_part(x):
    full = jnp.ones(D).at[jnp.arange(D) // 3].add(x)
    return -jnp.sum((Xi @ full) ** 2)


def stacked(x):
    h = Xi @ x
    both = jnp.stack([jnp.tile(x, 2), jnp.ones(2 * D)])
    return -jnp.sum((both @ jnp.tile(Xi[0], 2)) ** 2) - jnp.sum(jnp.stack([h, h[::-1]]) ** 3)


def scaled_places(x):
    scaled = (Xi @ x).at[jnp.array([0, 3, 3])].multiply(jnp.array([2.0, -1.0, 0.5]))
    bits = x.at[jnp.array([1, 1, 4])].multiply(jnp.array([2.0, 3.0, 0.5]))
    return -jnp.sum(scaled**2) - jnp.sum(bits) ** 2


def nothing_left(x):
    """Sums over no element at all."""
    none = x[:0]
    return jnp.sum(none) + jnp.sum((Xi[:, :0] @ none) ** 2) - jnp.sum((Xi @ x) ** 2)


def repeated_scatter(x):
    full = jnp.zeros(4).at[jnp.arange(D) % 3].set(x)
    return -jnp.sum(full * jnp.arange(4.0)) - jnp.sum((Xi @ x) ** 2)


def updated_slice(x):
    full = lax.dynamic_update_slice(jnp.ones(D + 4), x, (2,))
    return -jnp.sum((jnp.pad(Xi, ((0, 0), (1, 3))) @ full) ** 2)


def steps_without_input(x):
    """A scan with neither a carry nor anything to map over."""
    ys = lax.scan(lambda c, _: (c, Xi @ x), None, None, length=3)[1]
    return -jnp.sum(ys**2)


def mapped(x):
    return -jnp.sum(lax.map(lambda xi: jnp.exp(xi @ x / D), Xi))


RIGHT = {
    "unsigned distances": unsigned_distances,
    "unsigned sum": lambda x: -jnp.sum((x > 0).astype(jnp.uint8)).astype(jnp.float32),
    **{f"{t} wraps": unsigned_wrap(t) for t in ("uint8", "uint16", "uint32", "int8")},
    "int8 dot": wide_dot(100, jnp.int8, jnp.int32),
    "int16 dot": wide_dot(20_000, jnp.int16, jnp.int32),
    "uint8 dot": unsigned_dot,
    "float16 dot": half_dot,
    "fill": filled,
    "wall": wall,
    "population count": popcount,
    "xor": xor_distance,
    "bool product": bool_product,
    "scatter": free_part,
    "scatter-add": added_part,
    "repeated scatter": repeated_scatter,
    "updated slice": updated_slice,
    "stack and tile": stacked,
    "scatter-mul": scaled_places,
    "empty": nothing_left,
    "scan without input": steps_without_input,
    "lax.map": mapped,
}


def assert_follows(energy, x0, idx, path: Path = "incremental"):
    """Each recorded energy is that of its state, and each decision is right where it is no tie."""
    x, record = jax.jit(lambda x, i: flips.visit(energy, x, i, path=path))(x0, idx)
    states = np.asarray(record.frames)
    before = np.concatenate([np.asarray(x0)[None], states[:-1]])
    candidate = before.copy()
    flat = candidate.reshape(len(idx), -1)
    flat[np.arange(len(idx)), np.asarray(idx)] *= -1
    exact = jax.jit(jax.vmap(energy))
    e, old, new = (np.asarray(exact(jnp.asarray(s))) for s in (states, before, candidate))
    finite = e[np.isfinite(e)]
    scale = 1e-6 * (1 + np.abs(finite).max(initial=0))
    np.testing.assert_allclose(record.energy, e, rtol=0, atol=10 * scale)
    with np.errstate(invalid="ignore"):
        clear = ~(np.abs(new - old) <= 20 * scale)
    np.testing.assert_array_equal(np.asarray(record.accepted)[clear], (new < old)[clear])
    np.testing.assert_array_equal(np.asarray(x), states[-1])
    return record


@pytest.mark.parametrize("name", RIGHT)
def test_every_flip_has_the_energy_of_its_state(name):
    energy, x0 = RIGHT[name], spins(3, D).at[0].set(-1.0)
    plan = FlipPlan(energy, x0, "incremental")
    assert plan.path == "incremental", plan.reason
    record = assert_follows(energy, x0, jr.randint(jr.key(4), (80,), 0, D))
    assert record.accepted.any()
    flipped = jnp.where(jnp.eye(D, dtype=bool), -x0, x0)
    expected = jax.vmap(energy)(flipped)
    got = flips.flip_energies(energy, x0, path="incremental")
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_a_wall_is_left_and_never_entered():
    x0 = spins(3, D).at[0].set(-1.0)
    assert not flips.is_fixed_point(wall, x0)
    end = flips.sweep(wall, x0, jr.key(0))
    assert end.result == RESULTS.converged
    assert end.x[0] == 1
    assert jnp.isfinite(end.energy)


def test_a_wall_that_cannot_be_left_is_not_finite():
    """Two bits are wrong: no single flip makes the energy finite."""
    closed = lambda x: jnp.sum(jnp.where((jnp.arange(D) < 2) & (x < 0), jnp.inf, 0.0)) - jnp.sum(x)
    end = flips.sweep(closed, -jnp.ones(D), jr.key(0))
    assert end.result == RESULTS.nonfinite


@pytest.mark.parametrize("form", ["sum", "product", "rows"])
def test_a_penalty_leaves_no_rounding_behind(form):
    """A carried float would keep the noise of 1e9 after the last penalty is gone."""
    penalty = jr.uniform(jr.key(5), (D,), minval=1e9, maxval=2e9)

    def energy(x):
        if form == "product":
            walls = penalty @ jnp.where(x < 0, 1.0, 1e-9)
        elif form == "rows":
            walls = jnp.sum(jnp.where(x < 0, penalty, 0.0).reshape(4, -1), axis=1).sum()
        else:
            walls = jnp.sum(jnp.where(x < 0, penalty, 0.3))
        return walls - jnp.sum((Xi @ x) ** 2)

    assert FlipPlan(energy, jnp.ones(D), "incremental").path == "incremental"
    record = assert_follows(energy, -jnp.ones(D), jnp.tile(jnp.arange(D), 2))
    last = jax.jit(energy)(record.frames[-1])
    np.testing.assert_allclose(record.energy[-1], last, rtol=1e-5)
    broken = jnp.ones(D).at[0].set(-1.0)
    got = flips.flip_energies(energy, broken, path="incremental")[0]
    np.testing.assert_allclose(got, jax.jit(energy)(jnp.ones(D)), rtol=1e-5)


@pytest.mark.parametrize("form", ["sum", "product"])
def test_infinite_weights_that_are_only_known_at_run_time(form):
    weights = jnp.zeros(D).at[0].set(jnp.inf)

    def energy(w):
        if form == "sum":
            return lambda x: jnp.sum(jnp.where(x < 0, w, 0.0)) - 0.5 * jnp.sum((Xi @ x) ** 2)
        return lambda x: jnp.tanh(-(w + 1.0) @ x) - 0.5 * jnp.sum((Xi @ x) ** 2)

    x0, idx = spins(3, D).at[0].set(-1.0), jnp.arange(D)
    run = jax.jit(lambda w, path: flips.visit(energy(w), x0, idx, path=path), static_argnums=1)
    x, fast = run(weights, "incremental")
    y, slow = run(weights, "generic")
    np.testing.assert_array_equal(x, y)
    np.testing.assert_allclose(fast.energy, slow.energy, rtol=1e-6)
    assert x[0] == 1
    batch = jax.jit(jax.vmap(lambda w: flips.visit(energy(w), x0, idx)[0]))
    np.testing.assert_array_equal(batch(jnp.stack([weights, 0 * weights]))[0], y)


def test_rows_near_overflow_take_the_full_energy():
    big = lambda x: jnp.tanh(jnp.sum(2e38 * x) / 1e38) - jnp.sum((Xi @ x) ** 2)
    assert_follows(big, -jnp.ones(D), jnp.arange(D))
    assert "near overflow" in FlipPlan(big, jnp.ones(D)).describe()


@pytest.mark.parametrize(
    "head",
    [
        lambda v: jnp.sin(5000 * jax.nn.logsumexp(0.5 * v)),
        lambda v: jnp.abs(jax.nn.logsumexp(0.5 * v) - 5.3),
        lambda v: -((jax.nn.logsumexp(0.5 * v) - 5.3) ** 2),
    ],
)
def test_a_head_that_is_not_monotone_proves_no_fixed_point(head):
    energy = lambda x: head(MANY @ x)
    codes = (np.arange(1024)[:, None] >> np.arange(10)) & 1
    states = jnp.asarray(2.0 * codes - 1)
    keys = jr.split(jr.key(0), 1024)
    ends = jax.jit(jax.vmap(lambda x, k: flips.sweep(energy, x, k, max_sweeps=30)))(states, keys)
    fixed = jax.jit(jax.vmap(lambda x: flips.is_fixed_point(energy, x)))(ends.x)
    assert np.asarray(fixed)[np.asarray(ends.converged)].all()
    assert np.asarray(ends.converged).any()


def products_of_sums(x):
    v = 20 * (MANY @ x)
    c = v.max()
    t = jnp.exp(v - c).sum()
    return -(jnp.log(t * t * t) + c + c + c)


def masked(x):
    v = jnp.where(jnp.arange(300) < 100, MANY @ x, -jnp.inf)
    c = v.max()
    return -(jnp.log(jnp.sum(jnp.exp(v - c))) + c)


def masked_differences(x):
    v = jnp.where(jnp.arange(300) < 100, MANY @ x, -jnp.inf)
    d = v - v.max()
    return -jax.nn.logsumexp(MANY @ x) - jnp.sum(jnp.where(jnp.isfinite(d), jnp.exp(d), 0.5))


def large_readout(x):
    """Weights so large that a centre that lags behind overflows where the maximum does not."""
    v = 10 * (MANY @ x)
    p = jnp.exp(v - v.max())
    return -jnp.dot(p, jnp.linspace(1e30, 3e30, 300)) / p.sum() / 1e30 - 1e-3 * v[0]


@pytest.mark.parametrize("energy", [products_of_sums, masked, masked_differences, large_readout])
def test_carried_centres_never_cost_a_finite_energy(energy):
    codes = (np.arange(1024)[:, None] >> np.arange(10)) & 1
    states = jnp.asarray(2.0 * codes - 1)
    keys = jr.split(jr.key(0), 1024)
    ends = jax.jit(jax.vmap(lambda x, k: flips.sweep(energy, x, k, max_sweeps=30)))(states, keys)
    exact = np.asarray(jax.jit(jax.vmap(energy))(ends.x))
    assert np.isfinite(exact).all()
    assert np.asarray(ends.converged).all()
    table = np.asarray(jax.jit(jax.vmap(energy))(states))
    lowest = table[np.arange(1024)[:, None] ^ (1 << np.arange(10))].min(1)
    codes = ((np.asarray(ends.x) > 0) << np.arange(10)).sum(1)
    assert (lowest[codes] >= table[codes] - 1e-5 * np.abs(table).max()).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_convolutions_do_not_drift(dtype):
    n = 2000
    kernel = jr.normal(jr.key(1), (1, 1, 5), jnp.float32).astype(dtype)

    def energy(x):
        h = lax.conv_general_dilated(x[None, None], kernel, (1,), "SAME")
        return -jnp.sum(jax.nn.relu(h.astype(jnp.float32)) ** 2)

    x0, idx = spins(5, n, dtype=dtype), jr.randint(jr.key(6), (2 * n,), 0, n)
    assert FlipPlan(energy, x0, "incremental").path == "incremental"
    record = jax.jit(lambda: flips.visit(energy, x0, idx, path="incremental"))()[1]
    # The energy as it is written: a compiler may skip the rounding to half precision.
    states = np.asarray(record.frames[::100], np.float32)
    padded = np.pad(states, ((0, 0), (2, 2)))
    weights = np.asarray(kernel, np.float32)[0, 0]
    h = sum(w * padded[:, k : k + n] for k, w in enumerate(weights))
    h = np.asarray(jnp.asarray(h).astype(dtype), np.float64)
    expected = -(np.maximum(h, 0) ** 2).sum(1)
    np.testing.assert_allclose(record.energy[::100], expected, rtol=1e-6)
    assert record.accepted.sum() > n // 4


# -- decided in the plan -----------------------------------------------------------------------


def test_rows_that_cannot_be_made_are_found_by_the_plan():
    kernel = jr.normal(jr.key(0), (1, 1, 5, 5))

    def energy(x):
        h = lax.conv_general_dilated(x[None, None], kernel, (1, 1), "SAME")[0, 0] + 0.5 * x
        return -jnp.sum(jax.nn.relu(h) ** 3)

    plan = FlipPlan(energy, jax.ShapeDtypeStruct((120, 120), jnp.float32))
    assert plan.path == "generic"
    assert "used bit by bit and as a sum" in plan.describe()


def test_other_exceptions_of_the_analysis_are_not_hidden(monkeypatch):
    def broken(*_):
        raise AssertionError("a bug in the analysis")

    monkeypatch.setattr("amlib.descent.cut.cut_energy", broken)
    with pytest.raises(AssertionError, match="a bug in the analysis"):
        FlipPlan(lambda x: -jnp.sum((Xi @ x) ** 2), spins(0, D))


def test_a_map_that_saves_memory_stays_one():
    side = 600
    patterns = spins(0, 40, side)
    outer = lambda x: (
        -jnp.sum(
            lax.map(lambda xi: jnp.sum(jnp.tanh(xi[:, None] * x[None, :] * 0.1) ** 2), patterns)
        )
    )
    plan = FlipPlan(outer, jax.ShapeDtypeStruct((side,), jnp.float32))
    assert plan.path == "generic"  # 40 * 600 * 600 values at once would be 58 MB
    assert "scan" in plan.reason
    small = lambda x: -jnp.sum(lax.map(lambda xi: jnp.sum(jnp.tanh(xi * x) ** 2), patterns))
    assert (
        FlipPlan(small, jax.ShapeDtypeStruct((side,), jnp.float32), "incremental").path != plan.path
    )


def test_the_reason_names_infinite_sums_and_nothing_else():
    walls = lambda x: jnp.where(x < 0, jnp.inf, 0.0)
    assert "adds up infinite" in FlipPlan(lambda x: jnp.sum(walls(x)), spins(0, D)).describe()
    largest = FlipPlan(lambda x: jnp.max(walls(x)), spins(0, D)).describe()
    assert "reduce_max -> float32[] is not affine in the bits" in largest


ALL = jnp.asarray(np.random.default_rng(0).normal(size=(24, 24)), jnp.float32)


@pytest.mark.parametrize(
    "energy",
    [
        lambda x: -jnp.sum(jnp.abs(x[:, None] * x[None, :] @ ALL)),
        lambda x: -jnp.max(jnp.abs((x * jnp.roll(x, 1)) @ ALL)),
    ],
)
def test_the_reason_names_products_of_two_bits(energy):
    assert "products of two bits (mul" in FlipPlan(energy, spins(0, 24)).describe()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("scale", [1.0, 5.0, 15.0, 100.0])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.usefixtures("x64")
def test_sums_whose_terms_are_lost_in_others(dtype, scale, known):
    """Of few bits, each exponential is a term, and one may be e^400 times the sum of the rest."""
    small = spins(7, 17, 5, dtype=dtype)

    def energies(patterns):
        def energy(x):
            v = (x.astype(dtype) + 1) / 2 @ patterns.T
            top = 0.0 if dtype == "float64" and scale < 100 else 5.0  # of the sum or a part of it
            return -jnp.log(jnp.sum(jnp.exp(jnp.asarray(scale, dtype) * (v - top))))

        flip = lambda x: flips.flip_energies(energy, x)
        states = 1 - 2 * ((jnp.arange(32)[:, None] >> jnp.arange(5)[None]) & 1).astype(dtype)
        flipped = states[:, None] * (1 - 2 * jnp.eye(5, dtype=dtype))[None]
        return jax.vmap(flip)(states), jax.vmap(jax.vmap(energy))(flipped)

    found, exact = energies(small) if known else jax.jit(energies)(small)
    eps = 16 * np.finfo(dtype).eps * np.max(np.abs(exact), where=np.isfinite(exact), initial=1)
    np.testing.assert_allclose(found, exact, rtol=0, atol=eps)
