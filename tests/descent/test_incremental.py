"""The incremental path: taken where it must be, and always equal to the generic one."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import lax
from numpy.testing import assert_allclose

from amlib.descent.jaxprs import Program
from amlib.descent.plan import MAX_ROW_BYTES, FlipPlan, Path
from amlib.descent.stabilizers import find_stabilizers
from amlib.descent.visits import all_flips
from tests import engine as flips

K, D = 12, 40


def spins(seed, *shape, dtype=jnp.float32):
    return jr.rademacher(jr.key(seed), shape, dtype=dtype)


Xi = spins(0, K, D)
FIELD = jr.normal(jr.key(2), (D,))
IMAGES = spins(4, K, 8, 5)
KERNEL = jr.normal(jr.key(5), (3, 1, 3, 3))


def convolution(x):
    image = x[None, None]
    maps = jax.lax.conv_general_dilated(image, KERNEL, (1, 1), "SAME")
    return -jnp.sum(jax.nn.relu(maps) ** 3)


def energies(K, D):
    """Every way of writing an energy that must take the incremental path."""
    Xi = spins(0, K, D)
    real = jr.normal(jr.key(1), (K, D)) / 3
    J = real.T @ real
    field = jr.normal(jr.key(2), (D,))
    second = jr.normal(jr.key(6), (K, K))
    network = eqx.nn.MLP(K, "scalar", 16, 1, activation=jax.nn.tanh, key=jr.key(3))
    even = jnp.arange(0, D, 2)

    @jax.jit
    def quadratic_jit(x):
        return -0.5 * jnp.sum((Xi @ x) ** 2)

    def hand_made_logsumexp(x):
        v = 0.7 * (Xi @ x)
        top = jnp.max(v)
        return -(top + jnp.log(jnp.sum(jnp.exp(v - top))))

    return {
        "quadratic": lambda x: -0.5 * jnp.sum((Xi @ x) ** 2),
        "quadratic, real patterns": lambda x: -0.5 * jnp.sum((real @ x) ** 2),
        "rectified": lambda x: -jnp.sum(jax.nn.relu(Xi @ x) ** 4),
        "polynomial": lambda x: -jnp.sum((Xi @ x) ** 3),
        "logsumexp": lambda x: -jax.nn.logsumexp(0.7 * (Xi @ x)),
        "logsumexp by hand": hand_made_logsumexp,
        "couplings": lambda x: -0.5 * x @ J @ x + field @ x,
        "einsum": lambda x: -jnp.sum(jnp.einsum("kd,d->k", Xi, x) ** 2),
        "einsum quadratic form": lambda x: -0.5 * jnp.einsum("i,ij,j->", x, J, x),
        "vmap over patterns": lambda x: -jnp.sum(jax.vmap(lambda xi: jnp.exp(xi @ x / D))(Xi)),
        "lax.map over patterns": lambda x: (
            -jnp.sum(jax.lax.map(lambda xi: jnp.exp(xi @ x / D), Xi))
        ),
        "jitted part": lambda x: quadratic_jit(x) + field @ x,
        "checkpointed part": lambda x: jax.checkpoint(lambda y: -jnp.sum((Xi @ y) ** 2))(x),
        "network on overlaps": lambda x: network(Xi @ x / D),
        "normalised overlaps": lambda x: -jnp.sum((Xi @ x / jnp.linalg.norm(x)) ** 4),
        "cosine": lambda x: (
            -jnp.sum((Xi @ x / (jnp.linalg.norm(Xi, axis=1) * jnp.linalg.norm(x))) ** 3)
        ),
        "sum of terms": lambda x: (
            -jax.nn.logsumexp(Xi @ x) - 0.1 * jnp.sum((real @ x) ** 2) + field @ x
        ),
        "distances": lambda x: -jax.nn.logsumexp(-0.5 * jnp.sum((real - x[None]) ** 2, axis=1)),
        "hamming": lambda x: -jnp.sum(jnp.exp(-jnp.sum(Xi != x[None], axis=1).astype(jnp.float32))),
        "where": lambda x: jnp.sum((Xi @ jnp.where(x > 0, 0.3, -0.7)) ** 2),
        "tanh and length": lambda x: -(x @ x) * jax.nn.logsumexp(Xi @ jnp.tanh(x)),
        "zero-one recoding": lambda x: -jnp.sum((Xi @ ((x + 1) / 2)) ** 2),
        "second layer": lambda x: -jnp.sum(jax.nn.relu(second @ (Xi @ x)) ** 2),
        "shifted product": lambda x: -jnp.sum(jnp.cumsum(x * field) ** 2),
        "permuted": lambda x: -jnp.sum((Xi @ x[::-1]) ** 2),
        "indexed": lambda x: -jnp.sum((Xi[:, even] @ x[even]) ** 2),
        "fourier": lambda x: -jnp.sum(jnp.abs(jnp.fft.rfft(x)) ** 3),
    }


ENERGIES = energies(K, D)
IMAGE_ENERGIES = {
    "convolution": convolution,
    "image overlaps": lambda x: -jax.nn.logsumexp(jnp.tensordot(IMAGES, x, 2)),
    "flattened": lambda x: -0.5 * jnp.sum((Xi @ x.reshape(-1)) ** 2),
    "row and column sums": lambda x: -jnp.sum(x.sum(0) ** 2) - jnp.sum(x.sum(1) ** 4),
}


def same_trajectory(energy, x0, idx, path: Path = "incremental"):
    """Run both paths; they must visit the same states at the same energies."""
    x, fast = jax.jit(lambda x, i: flips.visit(energy, x, i, path=path))(x0, idx)
    y, slow = jax.jit(lambda x, i: flips.visit(energy, x, i, path="generic"))(x0, idx)
    np.testing.assert_array_equal(np.asarray(fast.accepted), np.asarray(slow.accepted))
    np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
    scale = float(jnp.abs(slow.energy).max()) + 1.0
    np.testing.assert_allclose(fast.energy, slow.energy, rtol=0, atol=3e-6 * scale)
    return fast


@pytest.mark.parametrize("name", ENERGIES)
def test_takes_the_incremental_path_and_the_same_trajectory(name):
    x0, idx = spins(7, D), jr.randint(jr.key(8), (3 * D,), 0, D)
    plan = FlipPlan(ENERGIES[name], x0, "incremental")
    assert plan.path == "incremental", plan.reason
    assert same_trajectory(ENERGIES[name], x0, idx).accepted.any()


def test_all_that_gain_take_it_unasked_at_the_size_of_real_use():
    x = jax.ShapeDtypeStruct((600,), jnp.float32)
    plans = {name: FlipPlan(e, x) for name, e in energies(150, 600).items()}
    generic = {name for name, e in plans.items() if e.path == "generic"}
    # A running sum and a Fourier transform cost no more in full than an update of all they carry.
    assert generic == {"shifted product", "fourier"}
    assert all("too little to gain" in plans[name].reason for name in generic)


@pytest.mark.parametrize("name", IMAGE_ENERGIES)
def test_states_may_be_images(name):
    x0, idx = spins(9, 8, 5), jr.randint(jr.key(10), (100,), 0, 40)
    assert FlipPlan(IMAGE_ENERGIES[name], x0, "incremental").path == "incremental"
    assert same_trajectory(IMAGE_ENERGIES[name], x0, idx).accepted.any()


PAIRS = jr.normal(jr.key(1), (D, D))
HOPELESS = {
    "sort": lambda x: jnp.sum(jnp.sort(x) * jnp.cumsum(x) * FIELD) + x[0] * x[1],
    "loop with carry": lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.tanh(y * FIELD), x).sum(),
    "pairs": lambda x: -jnp.max(x[:, None] * x[None, :] * PAIRS, axis=1).sum(),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_hopeless_energies_fall_back_and_stay_right(name):
    x0, idx = spins(11, D), jr.randint(jr.key(12), (60,), 0, D)
    plan = FlipPlan(HOPELESS[name], x0)
    assert plan.path == "generic"
    assert "generic" in plan.describe()
    assert plan.reason in plan.describe()
    same_trajectory(HOPELESS[name], x0, idx, path="auto")


def test_side_effects_fall_back():
    def chatty(x):
        jax.debug.callback(lambda: None)
        return -jnp.sum((Xi @ x) ** 2)

    assert "side effects" in FlipPlan(chatty, spins(0, D)).reason


def test_rows_over_the_byte_limit_fall_back():
    wide = MAX_ROW_BYTES // (4 * D) + 1
    steps = jax.lax.iota(jnp.float32, wide)
    narrow = lambda x: jnp.sum(jnp.tanh(steps * jnp.sum(x * FIELD)))
    assert FlipPlan(narrow, x_of(D), "incremental").path == "incremental"  # carries a scalar
    broad = lambda x: jnp.sum(jnp.tanh(jnp.cumsum(steps[:, None] * x[None], axis=1)))
    plan = FlipPlan(broad, x_of(D), "incremental")
    assert plan.path == "generic"
    assert "GiB, more than the limit" in plan.reason


def x_of(n):
    return jax.ShapeDtypeStruct((n,), jnp.float32)


def test_a_head_as_costly_as_the_energy_falls_back():
    wide = jr.normal(jr.key(0), (500, 4))
    plan = FlipPlan(lambda x: jnp.sum(jnp.tanh(wide @ jnp.tanh(Xi[:4, :12] @ x))), x_of(12))
    assert plan.path == "generic"
    assert "too little to gain" in plan.reason


def test_cost_per_flip_does_not_contain_D():
    costs = []
    for d in (100, 1000):
        patterns = jnp.ones((K, d))
        plan = FlipPlan(lambda x, p=patterns: -jax.nn.logsumexp(p @ x), x_of(d))
        costs.append(plan.flip_cost)
    assert costs[0] == costs[1]


# -- int8 rows and carried centres -----------------------------------------------------------

WIDE = 300  # patterns: enough for the compact form to be considered


def prepared(energy, x):
    """Which form the values of the rows allow, as `run` decides it."""
    cut = FlipPlan(energy, x).cut
    assert cut is not None
    assert cut.may_compact()
    allowed, stabilizers = cut.allows_compact(cut.tables())
    return bool(allowed), len(stabilizers)


@pytest.mark.parametrize(
    ("patterns", "beta", "expected"),
    [
        (spins(0, WIDE, D), 0.5, (True, 1)),
        (spins(0, WIDE, D), 50.0, (True, 1)),  # one flip moves an exponent by 100
        (jr.normal(jr.key(0), (WIDE, D)), 0.5, (False, 1)),
        (200 * spins(0, WIDE, D), 1e-3, (False, 1)),  # does not fit int8
        (jnp.where(spins(0, WIDE, D) > 0, 1.0, 0.0), 0.5, (True, 1)),
        (spins(0, WIDE, D).at[3, 4].set(jnp.nan), 0.5, (False, 1)),
    ],
)
def test_compact_form_is_taken_only_where_the_values_allow(patterns, beta, expected):
    energy = lambda x: -jax.nn.logsumexp(beta * (patterns @ x))
    assert prepared(energy, spins(1, D)) == expected


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0, 19.0, 50.0])
@pytest.mark.parametrize("kind", ["spins", "zero-one", "real"])
def test_compact_and_exact_forms_visit_the_same_states(beta, kind):
    patterns = {
        "spins": spins(0, WIDE, D),
        "zero-one": jnp.where(spins(0, WIDE, D) > 0, 1.0, 0.0),
        "real": jr.normal(jr.key(0), (WIDE, D)),
    }[kind]
    x0, idx = spins(5, D), jr.randint(jr.key(6), (300,), 0, D)
    record = same_trajectory(lambda x: -jax.nn.logsumexp(beta * (patterns @ x)), x0, idx)
    assert record.accepted.any()


@pytest.mark.parametrize("beta", [0.05, 1.0, 50.0, 300.0])
def test_a_leader_that_is_overtaken_is_replaced(beta):
    """Flips as they come: among 300 patterns of 12 bits the nearest one changes all the time."""
    patterns, x0 = spins(0, WIDE, 12), spins(5, 12)
    energy = lambda x: -jax.nn.logsumexp(beta * (patterns @ x))
    cut = FlipPlan(energy, x0).cut
    assert cut is not None
    tables = cut.tables()
    form = cut.form(tables, cut.allows_compact(tables)[1])

    def step(loop, i):
        x, carry = loop
        s = x[i]
        x = x.at[i].set(-s)
        row = form.row(i)
        e, carry = form.flip(x, carry, row, s, form.reads(row))
        return (x, carry), (x, e, carry.leaders[0])

    walk = jr.randint(jr.key(6), (400,), 0, 12)
    start = (x0, form.start(x0)[1])
    _, (xs, found, leaders) = jax.jit(lambda: lax.scan(step, start, walk))()
    # In double precision: no outcome of one way to round is taken for right.
    v = beta * (np.asarray(xs, np.float64) @ np.asarray(patterns, np.float64).T)
    most = v.max(1)
    exact = -(most + np.log(np.exp(v - most[:, None]).sum(1)))
    assert_allclose(found, exact, rtol=2e-6, atol=1e-5)
    behind = most - v[np.arange(400), np.asarray(leaders)]
    assert (behind <= math.log(WIDE) + 10 + 1e-3).all()
    if beta > 1:
        assert len(set(leaders.tolist())) > 50
    # Flips that are compared at once, from one leader.
    plan = FlipPlan(energy, x0)
    _, all_of_them = plan.run(lambda flips: (all_flips(flips, x0), jnp.ones((), bool)), x0)
    expected = [energy(x0.at[i].multiply(-1)) for i in range(12)]
    assert_allclose(all_of_them, jnp.stack(expected), rtol=2e-6, atol=1e-5)


def test_the_centre_follows_a_long_descent():
    """From an overlap of 0 to one of D the exponents move by 1,000: far beyond float32."""
    patterns = spins(0, WIDE, 500)
    x0 = patterns[0] * jnp.where(jnp.arange(500) % 2 == 0, 1.0, -1.0)
    idx = jr.permutation(jr.key(1), 500)
    energy = lambda x: -jax.nn.logsumexp(2.0 * (patterns @ x))
    record = same_trajectory(energy, x0, idx)
    assert float(record.energy[-1]) < -900


@pytest.mark.parametrize(
    "energy",
    [
        lambda h: -jax.nn.logsumexp(h),
        lambda h: -jnp.log(jnp.sum(jnp.exp(h - jnp.max(h)))) - jnp.max(h),
        lambda h: -(jax.nn.logsumexp(h) ** 2),
        lambda h: -jnp.dot(jax.nn.softmax(h), h),
    ],
)
def test_maxima_that_cancel_are_proved_to(energy):
    program, head = head_of(energy)
    assert len(find_stabilizers(program, head)) >= 1


@pytest.mark.parametrize(
    "energy",
    [
        lambda h: -jnp.max(h),
        lambda h: -jnp.log(jnp.sum(jnp.exp(h - jnp.max(h)))),  # forgot to add it back
        lambda h: -jnp.log(1.0 + jnp.sum(jnp.exp(h - jnp.max(h)))) - jnp.max(h),
        lambda h: -2.0 * jnp.max(h) - jnp.log(jnp.sum(jnp.exp(h - jnp.max(h)))),
        lambda h: -jnp.sum(jnp.tanh(h - jnp.max(h))),
        lambda h: -jnp.sum(jnp.where(h > jnp.max(h) - 1.0, h, 0.0)),
    ],
)
def test_maxima_that_matter_are_never_replaced(energy):
    program, head = head_of(energy)
    assert find_stabilizers(program, head) == []


def head_of(energy):
    program = Program(jax.make_jaxpr(lambda x: energy(Xi @ x))(x_of(D)))
    return program, program.equations


# -- derivatives, drift, transformations -----------------------------------------------------


@pytest.mark.parametrize("patterns", [Xi, spins(0, WIDE, D)])
def test_recorded_energies_have_the_derivative_of_the_energy(patterns):
    x0, idx = spins(7, D), jr.randint(jr.key(8), (80,), 0, D)

    def energy_of(beta, p):
        return lambda x: -jax.nn.logsumexp(beta * (p @ x)) / beta

    def final(beta, p):
        return flips.visit(energy_of(beta, p), x0, idx)[1].energy[-1]

    x, _ = flips.visit(energy_of(0.3, patterns), x0, idx)
    expected = jax.grad(lambda b, p: energy_of(b, p)(x), argnums=(0, 1))(0.3, patterns)
    got = jax.jit(jax.grad(final, argnums=(0, 1)))(0.3, patterns)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-4)
    np.testing.assert_allclose(got[1], expected[1], atol=1e-5)
    assert float(jnp.abs(got[1]).max()) > 0.1


def test_flip_energies_have_the_derivative_of_the_energies():
    patterns, x = spins(0, WIDE, D), spins(1, D)
    energy = lambda p: lambda x: -jax.nn.logsumexp(0.2 * (p @ x))
    got = jax.grad(lambda p: flips.flip_energies(energy(p), x)[3])(patterns)
    expected = jax.grad(lambda p: energy(p)(x.at[3].multiply(-1)))(patterns)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_custom_derivative_rules_survive():
    @jax.custom_jvp
    def cube(h):
        return h**3

    cube.defjvp(lambda primals, tangents: (cube(primals[0]), 100.0 * tangents[0]))
    x0, idx = spins(7, D), jnp.arange(5)

    def final(p):
        return flips.visit(lambda x: -cube(p @ x), x0, idx)[1].energy[-1]

    x, _ = flips.visit(lambda x: -cube(Xi[0] @ x), x0, idx)
    np.testing.assert_allclose(jax.grad(final)(Xi[0]), -100.0 * x, rtol=1e-6)


def test_drift_stays_within_the_stated_bound():
    """Real patterns: at most `m * eps * max|h|` after m accepted flips, refreshed every sweep."""
    n, k = 400, 20
    patterns = jr.normal(jr.key(0), (k, n))
    x0, idx = spins(1, n), jr.randint(jr.key(2), (5 * n,), 0, n)
    energy = lambda x: -jnp.sum(jax.nn.relu(patterns @ x) ** 2)
    _, fast = flips.visit(energy, x0, idx, path="incremental")
    states = np.asarray(fast.frames, np.float64)
    h = states @ np.asarray(patterns, np.float64).T
    exact = -np.sum(np.maximum(h, 0) ** 2, axis=1)
    flips_per_sweep = n
    eps = np.finfo(np.float32).eps
    bound = flips_per_sweep * eps * np.abs(h).max()  # of each carried value
    # dE = -2 sum relu(h) dh, plus the rounding of the sum itself
    allowed = 2 * np.maximum(h, 0).sum(1) * bound + k * eps * np.abs(exact)
    assert (np.abs(np.asarray(fast.energy) - exact) <= allowed).all()
    assert fast.accepted.sum() > 50


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_overlaps_are_carried_exactly(dtype):
    patterns = spins(0, 8, 3000, dtype=dtype)
    x0, idx = spins(1, 3000, dtype=dtype), jr.randint(jr.key(2), (600,), 0, 3000)
    energy = lambda x: -jnp.sum(((patterns @ x).astype(jnp.float32) / 3000.0) ** 2)
    plan = FlipPlan(energy, x0)
    assert plan.path == "incremental"
    assert plan.cut is not None
    form = plan.cut.form(plan.cut.tables())
    assert all(v.dtype == jnp.float32 for v in form.start(x0)[1].values)
    same_trajectory(energy, x0, idx)


def test_x64(x64):
    patterns = jnp.asarray(jr.normal(jr.key(1), (K, D)), jnp.float64)
    x0, idx = spins(1, D, dtype=jnp.float64), jr.randint(jr.key(2), (100,), 0, D)
    energy = lambda x: -jnp.sum((patterns @ x) ** 4)
    record = same_trajectory(energy, x0, idx)
    assert record.energy.dtype == jnp.float64


@pytest.mark.parametrize(("k", "n"), [(1, 1), (1, 5), (5, 1), (300, 1)])
def test_smallest_sizes(k, n):
    patterns = spins(0, k, n)
    x0, idx = spins(3, n), jr.randint(jr.key(2), (7,), 0, n)
    same_trajectory(lambda x: -jax.nn.logsumexp(0.5 * (patterns @ x)), x0, idx)
    same_trajectory(lambda x: -jnp.sum((patterns @ x) ** 3), x0, idx, path="auto")


def test_grad_of_vmap_of_jit():
    x0s, idx = spins(3, 4, D), jr.randint(jr.key(2), (30,), 0, D)

    def loss(p):
        run = jax.jit(lambda x: flips.visit(lambda y: -jax.nn.logsumexp(p @ y), x, idx))
        return jax.vmap(run)(x0s)[1].energy[:, -1].sum()

    got = jax.grad(loss)(Xi)
    finals = [flips.visit(lambda y: -jax.nn.logsumexp(Xi @ y), x, idx)[0] for x in x0s]
    expected = sum(jax.grad(lambda p, x=x: -jax.nn.logsumexp(p @ x))(Xi) for x in finals)
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("energy", "came"),
    [
        (lambda x: x, r"float32\[40\] came"),
        (lambda x: (jnp.sum(x), jnp.sum(x)), r"float32\[\], float32\[\] came"),
        (lambda x: jnp.sum(x > 0), r"int32\[\] came"),
        (lambda x: None, "nothing came"),
    ],
)
def test_an_energy_must_be_one_real_scalar(energy, came):
    with pytest.raises(ValueError, match=rf"energy: must return one real .*{came}"):
        FlipPlan(energy, x_of(D))


def test_describe_says_what_is_carried():
    text = FlipPlan(ENERGIES["logsumexp"], x_of(D)).describe()
    assert "incremental" in text
    assert "float32[12]" in text
    assert "rows" in text
