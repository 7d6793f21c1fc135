"""The distributed memory: what random features cost, and what the one vector holds."""

import dataclasses
import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax import P
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib._intervals import student
from amlib.continuous import AbstractFeatures, Cos, Exp, ExpExp, SinCos
from amlib.continuous.distributed import _features
from amlib.continuous.features import _threefry, cos_sin, directions
from tests.continuous.zoo import D, K, patterns, query

BETA = 4.0
SEED = jnp.asarray([3, 5], jnp.uint32)


def stored(Y=500, Xi=None, key=0, **options):
    """A small memory, of the zoo's patterns if not said otherwise."""
    Xi = patterns() if Xi is None else Xi
    return am.DistributedMemory.store(Xi, BETA, Y=Y, key=jr.key(key), **options)


@eqx.filter_jit
def energies(memory, xs):
    return jax.vmap(memory.energy)(xs)


class RationalQuadratic(AbstractFeatures):
    """A user's own features, as the docstring of `AbstractFeatures` has them."""

    width: ClassVar[int] = 2
    positive: ClassVar[bool] = False

    def __call__(self, h, phase):
        length = jnp.sqrt(-2 * jnp.log(1 - phase / (2 * jnp.pi)))
        return jnp.cos(length * h / math.sqrt(2)), jnp.sin(length * h / math.sqrt(2))


# -- random directions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seed", "counter", "bits"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (0x1CB996FC, 0xBB002BE7)),
        ((0x13198A2E, 0x03707344), (0x243F6A88, 0x85A308D3), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_bits_are_those_that_salmon_et_al_publish(seed, counter, bits):
    made = _threefry(jnp.asarray(seed, jnp.uint32), *jnp.asarray(counter, jnp.uint32))
    assert tuple(map(int, made)) == bits


def test_cosine_and_sine_are_those_of_numpy():
    h = np.concatenate([np.linspace(-8000, 8000, 200_001), np.linspace(-4, 4, 20_001)])
    h = h.astype(np.float32)
    for mine, exact in zip(cos_sin(jnp.asarray(h)), (np.cos, np.sin), strict=True):
        assert np.abs(np.asarray(mine, float) - exact(h.astype(float))).max() < 1.5e-7
    (cos, sin), (dcos, dsin) = jax.jvp(cos_sin, (jnp.asarray(h),), (jnp.ones(len(h)),))
    assert_array_equal(dcos, -sin)
    assert_array_equal(dsin, cos)


def test_directions_are_normal_and_functions_of_their_number():
    w, phase = directions(SEED, jnp.arange(20_001, dtype=jnp.uint32), 5)
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3)):  # within 5 standard errors
        spread = math.sqrt({1: 1, 2: 2, 3: 15, 4: 96}[power] / w.size)
        assert abs(float((w**power).mean()) - moment) < 5 * spread
    off = np.corrcoef(np.asarray(w).T) - np.eye(5)
    assert np.abs(off).max() < 5 / math.sqrt(len(w))
    assert abs(float(phase.mean()) - math.pi) < 5 * 2 * math.pi / math.sqrt(12 * len(w))
    assert float(phase.min()) > 0
    assert float(phase.max()) < 2 * math.pi
    part = directions(SEED, jnp.asarray([20_000, 7], jnp.uint32), 5)
    assert_array_equal(part[0], w[jnp.asarray([20_000, 7])])
    assert_array_equal(part[1], phase[jnp.asarray([20_000, 7])])


# -- the kernel ------------------------------------------------------------------------------------


def kernel_spread(features, kappa2, longest):
    """The published or derived standard deviation of the kernel of one direction."""
    return {
        SinCos: (1 - kappa2) / math.sqrt(2),
        Cos: math.sqrt(1 + kappa2**2 / 2 - kappa2),
        Exp: math.sqrt(kappa2 * (math.exp(longest) - 1)),
        ExpExp: math.sqrt(kappa2 / 2 * math.exp(longest)) * (1 - math.exp(-longest)),
    }[type(features)]


@pytest.mark.parametrize("features", [SinCos(), Cos(), Exp(), ExpExp()])
def test_kernel_has_the_mean_and_the_standard_deviation_that_docstrings_say(features):
    a, b = jnp.asarray([0.3, -0.2, 0.1]), jnp.asarray([-0.2, 0.3, 0.2])
    kappa2 = math.exp(-float(jnp.sum((a - b) ** 2)))
    Y, draws = 100, 4000
    w, phase = directions(SEED, jnp.arange(Y * draws, dtype=jnp.uint32), 3)
    common = [features.log_factor(jnp.sum(x * x)) for x in (a, b)]
    pairs = zip(features(w @ a, phase), features(w @ b, phase), strict=True)
    each = sum(f * g for f, g in pairs) * jnp.exp(common[0] + common[1])
    kernels = each.reshape(draws, Y).mean(1)
    spread = kernel_spread(features, kappa2, float(jnp.sum((a + b) ** 2))) / math.sqrt(Y)
    assert abs(float(kernels.mean()) - math.sqrt(kappa2)) < 5 * spread / math.sqrt(draws)
    assert abs(float(kernels.std()) / spread - 1) < 0.08


def test_energy_is_that_of_the_formula_in_plain_numpy():
    memory, x = stored(60, floor=0.5), np.asarray(query(), float)
    w = np.asarray(directions(memory.seed, jnp.arange(60, dtype=jnp.uint32), D)[0], float)
    h, H = 2 * w @ x, 2 * np.asarray(patterns(), float) @ w.T  # sqrt(beta) is 2
    T = np.stack([np.cos(H).sum(0), np.sin(H).sum(0)], axis=1)
    S = (np.cos(h) @ T[:, 0] + np.sin(h) @ T[:, 1]) / 60
    eps = 0.5 * np.sqrt((T**2).sum()) / (60 * np.sqrt(2))
    expected = -np.log((S + np.sqrt(S**2 + 4 * eps**2)) / 2) / BETA
    assert_allclose(memory.T, T, atol=1e-5)
    assert_allclose(memory.energy(query()), expected, rtol=1e-5)
    assert int(memory.count) == K


@pytest.mark.parametrize("features", [SinCos(), ExpExp()])
def test_energy_is_that_of_the_exact_memory_within_the_standard_error(features):
    """Of 200 memories the error over the standard error that each states is of order 1."""
    Xi = patterns() / 3 if features.positive else patterns()
    xs = jnp.stack([Xi[0], (Xi[0] + Xi[1]) / 2])
    exact = energies(am.GaussianMemory(Xi, BETA), xs)

    @jax.vmap
    def measured(key):
        memory = am.DistributedMemory.store(Xi, BETA, Y=1000, key=key, features=features)
        found = jax.vmap(lambda x: (memory.energy(x), memory.standard_error(x)))
        return found(xs)

    energy, error = measured(jr.split(jr.key(1), 200))
    z = (energy - exact[None]) / error
    assert jnp.abs(z.mean(0)).max() < 5 / 200**0.5
    assert jnp.abs(z.std(0) - 1).max() < 0.2


def slope(keys, Ys, error):
    """The exponent of the root mean square error in Y, and its interval over groups of keys."""
    logs = np.asarray([[np.log(error(Y, group)) for Y in Ys] for group in keys])
    slopes = np.polyfit(np.log(Ys), logs.T, 1)[0]
    return float(slopes.mean()), *map(float, student(slopes))


def test_errors_of_energy_and_of_recall_fall_as_one_over_the_root_of_directions():
    Xi = 2 * patterns(K=8, D=16, key=3)  # far from each other
    x0 = Xi[0] + 0.1 * jr.normal(jr.key(4), (16,))
    exact = am.GaussianMemory(Xi, BETA)
    end, energy = exact.recall(x0).x, exact.energy(x0)
    run = {}

    def errors(Y, keys):
        @jax.vmap
        def measured(key):
            memory = am.DistributedMemory.store(Xi, BETA, Y=Y, key=key)
            found = memory.recall(x0, tol=1e-3)
            return memory.energy(x0) - energy, found.x - end, found.converged

        run[Y] = run.get(Y) or jax.jit(measured)
        de, dx, converged = run[Y](keys)
        assert converged.all()
        return jnp.sqrt((de**2).mean()), jnp.sqrt((dx**2).mean())

    Ys = (1000, 4000, 16000)
    keys = jr.split(jr.key(5), (5, 12))
    table = {(Y, g): errors(Y, group) for Y in Ys for g, group in enumerate(keys)}
    for which in (0, 1):
        mean, low, high = slope(range(5), Ys, lambda Y, g, which=which: table[Y, g][which])
        assert low < -0.5 < high, (which, mean, low, high)
        assert -0.6 < mean < -0.4
    # What the docstring says of a recalled unit, of the other patterns.
    rms = np.mean([table[4000, g][1] for g in range(5)])
    assert_allclose(rms, math.sqrt(7 / (2 * (4000 - 16) * BETA)), rtol=0.15)


def test_error_of_the_energy_grows_with_beta():
    Xi, x = patterns(), query() + 0.3
    found = []
    for beta in (1.0, 4.0, 9.0):
        exact = am.GaussianMemory(Xi, beta).energy(x)

        @jax.vmap
        def error(key, beta=beta, exact=exact):
            memory = am.DistributedMemory.store(Xi, beta, Y=1000, key=key)
            return beta * (memory.energy(x) - exact)  # of log S

        found.append(float(jnp.sqrt((error(jr.split(jr.key(0), 64)) ** 2).mean())))
    assert 1.5 * found[0] < found[1]
    assert 1.5 * found[1] < found[2]


# -- what the vector holds -----------------------------------------------------------------------


@pytest.mark.parametrize("features", [SinCos(), Exp(), RationalQuadratic()])
def test_patterns_are_added_and_removed_in_any_order(features):
    Xi = patterns(K=9)
    empty = am.DistributedMemory.empty(D, BETA, Y=301, key=jr.key(0), features=features)
    whole = empty.add(Xi)
    close = lambda a, b: assert_allclose(a, b, atol=1e-5 * float(jnp.abs(whole.T).max()))
    assert whole.T.shape == (301, features.width)
    close(empty.add(Xi[:4]).add(Xi[4:]).T, whole.T)
    close(empty.add(Xi[::-1]).T, whole.T)
    close(whole.remove(Xi[:4]).T, empty.add(Xi[4:]).T)
    close(whole.add(Xi[:2]).remove(Xi[:2]).T, whole.T)
    close(stored(301, Xi, features=features).T, whole.T)
    assert [int(m.count) for m in (empty, whole, whole.remove(Xi[:4]))] == [0, 9, 5]
    nothing = whole.remove(Xi)
    assert_array_equal(nothing.T, jnp.zeros_like(whole.T))
    assert_array_equal(empty.T, jnp.zeros_like(whole.T))  # memories are not changed
    if not features.positive:
        assert jnp.isfinite(empty.energy(query()))
        assert_array_equal(empty.update(query()), jnp.zeros(D))


def test_removed_patterns_are_forgotten_and_others_kept():
    Xi = 2 * patterns(K=6, D=16, key=3)
    memory = stored(6000, Xi)
    less = memory.remove(Xi[:1])
    gone = memory.recall(Xi[0]), less.recall(Xi[0])
    assert jnp.abs(gone[0].x - Xi[0]).max() < 0.1
    assert jnp.linalg.norm(gone[1].x - Xi[0]) > 1
    assert jnp.abs(less.recall(Xi[1]).x - Xi[1]).max() < 0.1


def test_blocks_change_nothing_but_rounding():
    x, T = query(), lambda m: m.T
    of_T = jax.jit(jax.grad(lambda T, m, x: eqx.tree_at(lambda m: m.T, m, T).update(x).sum()))
    hessian = jax.jit(jax.hessian(lambda x, m: m.energy(x)))
    whole = stored(601, block=601)
    for block in (None, 200):  # 200: three blocks, and one that is left
        other = stored(601, block=block)
        assert_allclose(other.T, whole.T, atol=2e-5)
        assert_allclose(other.energy(x), whole.energy(x), rtol=1e-4)
        assert_allclose(other.update(x), whole.update(x), atol=1e-5)
        assert_allclose(other.standard_error(x), whole.standard_error(x), rtol=1e-3)
        assert_allclose(hessian(x, other), hessian(x, whole), atol=1e-4)
        assert_allclose(of_T(T(other), other, x), of_T(T(whole), whole, x), atol=1e-6)


def test_other_precisions_have_the_same_directions(x64):
    single, double = (stored(601, patterns(dtype)) for dtype in (jnp.float32, jnp.float64))
    assert (single.T.dtype, double.T.dtype) == (jnp.float32, jnp.float64)
    assert_allclose(single.T, double.T, atol=2e-5)


def test_fewer_directions_are_the_first_ones():
    some, more = stored(100), stored(300)
    assert_allclose(some.T, more.T[:100], atol=1e-6)


def test_gradient_through_the_store():
    """A pattern may be a parameter: the energy at a state has a derivative in it."""

    def energy(Xi):
        return am.DistributedMemory.store(Xi, BETA, Y=301, key=jr.key(0), block=64).energy(query())

    Xi, step = patterns(), jr.normal(jr.key(8), (K, D))
    slope = (energy(Xi + 1e-2 * step) - energy(Xi - 1e-2 * step)) / 2e-2
    assert_allclose(jnp.sum(jax.grad(energy)(Xi) * step), slope, rtol=0.01)


def test_room_is_that_of_blocks_whatever_the_directions():
    """The random matrix of Y = 64,000 would take 65 MB here."""
    wide = 256
    made = am.DistributedMemory.empty(wide, BETA, Y=64_000, key=jr.key(0), block=512)
    x, Xi = jnp.zeros(wide), jnp.zeros((4000, wide))
    with_sums = lambda m, T: eqx.tree_at(lambda m: m.T, m, T)
    calls = {
        "energy": (lambda m, x: m.energy(x), x),
        "gradient": (lambda m, x: m.update(x), x),
        "in T": (lambda m, x: jax.grad(lambda T: with_sums(m, T).energy(x))(m.T), x),
        "second": (lambda m, x: jax.grad(lambda x: m.update(x).sum())(x), x),
        "error": (lambda m, x: m.standard_error(x), x),
        "add": (lambda m, Xi: m.add(Xi).T, Xi),
    }  # fmt: skip
    for name, (call, given) in calls.items():
        plan = jax.jit(call).lower(made, given).compile().memory_analysis()
        assert plan is None or plan.temp_size_in_bytes < 20e6, (name, plan.temp_size_in_bytes)


def test_shared_directions_give_the_same_and_send_no_matrix():
    mesh = jax.make_mesh((8,), ("y",))
    memory = stored(1600, block=100)
    rows = lambda path, a: P("y") if a.shape[:1] == (1600,) else None
    apart = am.shard(memory, mesh, rows)
    x = query()
    assert_allclose(apart.energy(x), memory.energy(x), atol=1e-6)
    assert_allclose(apart.update(x), memory.update(x), atol=1e-5)
    end = apart.recall(x)
    assert end.converged
    assert_allclose(end.x, memory.recall(x).x, atol=1e-3)
    sent = am.sharding.collectives(lambda m, x: m.update(x), apart, x)
    assert sent
    assert max(op.bytes for op in sent) <= 4 * 2 * 1600, sent
    more = am.shard(jnp.tile(patterns(), (8, 1)), mesh, "y")
    assert_allclose(memory.add(more).T, 9 * memory.T, rtol=1e-4, atol=1e-3)


# -- far from all patterns -----------------------------------------------------------------------


def test_floor_is_smooth_positive_and_rising_and_moves_no_minimum():
    memory = stored()
    eps = float(memory._floor())
    S = jnp.linspace(-20 * eps, 200 * eps, 4001)
    log, rise = jax.vmap(jax.value_and_grad(memory._log_floored))(S)
    assert jnp.isfinite(log).all()
    assert (jnp.diff(log) > 0).all()
    assert_allclose(rise, 1 / jnp.sqrt(S**2 + 4 * eps**2), rtol=1e-4)
    assert (rise > 0).all()
    assert float(rise.max()) <= 1.0001 / (2 * eps)
    above = eps < S
    excess = log[above] - jnp.log(S[above])
    assert (excess > -1e-5).all()
    assert (excess <= (eps / S[above]) ** 2 + 1e-5).all()
    # The state at rest is one of S itself: the gradient of S vanishes there.
    end = memory.recall(query(), tol=1e-5)
    slope = jax.grad(lambda a: memory._sum(_features, a))(2 * end.x)
    assert end.converged
    assert jnp.abs(slope).max() / 500 < 1e-4


def test_far_states_move_where_the_published_clip_holds_them():
    memory = stored(2000)
    far = 5 * jr.normal(jr.key(2), (64, D))

    def clipped(x):
        S = memory._sum(_features, 2 * x) / 2000
        return -jnp.log(jnp.maximum(S, 1e-5)) / BETA

    stuck = ~jax.vmap(jax.grad(clipped))(far).any(1)
    assert 16 < int(stuck.sum()) < 48  # S is noise: half of the states are below
    pushed = jnp.linalg.norm(jax.vmap(memory.update)(far), axis=1)
    assert pushed.min() > 1e-3
    ends = jax.vmap(lambda x: memory.recall(x, max_steps=20))(far[stuck])
    assert (ends.energy < energies(memory, far[stuck]) - 0.01).all()


def test_standard_error_tells_where_the_energy_is_noise():
    memory = stored(2000)
    near, far = (float(memory.standard_error(x)) for x in (query(), 5 * query(key=9) + 5))
    assert near < 0.05 / BETA
    assert far > 0.3 / BETA


# -- with the rest of the library ------------------------------------------------------------------


@pytest.mark.parametrize(
    "method",
    [am.GradientDescent(0.5), am.Flow(), am.FixedPoint(), am.Euler(0.2)],
    ids=lambda m: type(m).__name__,
)
def test_every_method_ends_where_the_exact_memory_does(method):
    Xi = 2 * patterns()
    end = stored(4000, Xi).recall(Xi[0] + 0.1, method=method)
    assert end.converged, end.result
    assert_allclose(end.x, am.GaussianMemory(Xi, BETA).recall(Xi[0] + 0.1).x, atol=0.1)


@pytest.mark.parametrize("method", [am.Langevin(60.0, 0.02), am.MALA(60.0, 0.1)])
def test_samplers_draw_from_it(method):
    Xi = 2 * patterns()
    memory = stored(1000, Xi)
    end = jax.vmap(lambda key: memory.recall(Xi[0], method=method, key=key, max_steps=300))
    x = end(jr.split(jr.key(0), 32)).x
    # Around one pattern the energy is half the squared distance: variance 1 / beta in each unit.
    assert_allclose(((x - Xi[:1]) ** 2).mean(), 1 / 60, rtol=0.35)


def test_recall_with_known_units_held():
    Xi = 2 * patterns()
    known = jnp.arange(D) < 4
    end = stored(4000, Xi).recall(jnp.where(known, Xi[0], 0.0), clamp=known)
    assert_array_equal(end.x[:4], Xi[0][:4])
    assert jnp.abs(end.x - Xi[0]).max() < 0.2


def test_saved_and_loaded_it_has_the_same_directions(tmp_path):
    memory = stored()
    am.save(tmp_path / "memory", memory)
    again = am.load(tmp_path / "memory", stored(key=7))
    assert_array_equal(again.energy(query()), memory.energy(query()))
    assert_allclose(again.add(patterns()).T, memory.add(patterns()).T)


def test_a_users_features_are_another_kernel():
    Xi, x = jnp.zeros((1, D)), jnp.linspace(0, 1, D)
    memory = stored(40_000, Xi, features=RationalQuadratic())
    distance2 = BETA * float(jnp.sum(x * x))
    kernel = float(jnp.exp(-BETA * memory.energy(x)))
    assert_allclose(kernel, 1 / (1 + distance2 / 2), atol=0.02)


# -- what is refused -------------------------------------------------------------------------------

STORE = {"Y": 100, "key": jr.key(0)}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"Y": 0}, ValueError, "Y: must be at least 1; 0 came"),
        ({"Y": 2**24 + 1}, ValueError, "Y: must be at most 16777216"),
        ({"Y": 10.0}, TypeError, "Y: must be an integer; 10.0 came"),
        ({"key": 3}, TypeError, "key: must be one random key.*jax.random.key"),
        ({"features": "SinCos"}, TypeError, "features must be AbstractFeatures.*SinCos"),
        ({"features": SinCos}, TypeError, "features must be AbstractFeatures.*SinCos"),
        ({"floor": 0.0}, ValueError, "floor: must be finite and greater than 0"),
        ({"beta": -1.0}, ValueError, "beta: must be finite and greater than 0"),
        ({"beta": jnp.ones(2)}, ValueError, "beta: must be a scalar"),
        ({"block": 0}, ValueError, "block: must be at least 1"),
        ({"Xi": jnp.ones((2, 3)).at[0, 0].set(jnp.nan)}, ValueError, "Xi: every value must be"),
        ({"Xi": jnp.ones(3)}, ValueError, r"Xi: must have shape \(K, D\).*Xi\[None\]"),
        ({"Xi": np.ones((2, 3), complex)}, TypeError, "must hold real numbers"),
        ({"Xi": 30 * jnp.ones((2, 3)), "features": Exp()}, ValueError, "add: sums of Exp.*vanish"),
    ],
)
def test_bad_input_of_store(options, kind, message):
    given = {"Xi": patterns(), "beta": BETA} | STORE | options
    with pytest.raises(kind, match=message):
        am.DistributedMemory.store(given.pop("Xi"), given.pop("beta"), **given)


def test_bad_input_of_add_and_remove():
    memory = stored(101, patterns().reshape(K, 2, 3))  # an odd Y is as good as any
    with pytest.raises(ValueError, match=r"add: Xi must have shape \(K, 2, 3\).*Xi\[None\]"):
        memory.add(jnp.ones((2, 3)))
    with pytest.raises(
        ValueError, match=r"add: Xi must hold.*of the shape \(2, 3\).*\(4, 6\) came"
    ):
        memory.add(patterns())
    with pytest.raises(ValueError, match="at least one pattern"):
        memory.add(jnp.ones((0, 2, 3)))
    with pytest.raises(ValueError, match="add: Xi: every value must be finite"):
        memory.add(jnp.full((1, 2, 3), jnp.inf))
    with pytest.raises(
        ValueError, match="remove: Xi must hold no more patterns than the memory, 4; 5"
    ):
        memory.remove(jnp.ones((5, 2, 3)))
    with pytest.raises(ValueError, match=r"the state must have shape \(2, 3\)"):
        memory.recall(query())
    with pytest.raises(ValueError, match="retrieve: the energy must have the convex part"):
        memory.retrieve(query().reshape(2, 3))
    integers = memory.add(np.ones((3, 2, 3), np.int8))  # as everywhere: floats of the same value
    assert int(integers.count) == 7
    assert integers.T.dtype == memory.T.dtype


def test_beta_is_a_part_of_what_is_stored():
    memory = stored(10)
    assert_allclose(memory.beta, BETA)
    with pytest.raises(AttributeError):
        memory.beta = 2.0  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(TypeError, match="beta"):
        dataclasses.replace(memory, beta=2.0)
    with pytest.raises(AttributeError, match="beta"):
        eqx.tree_at(lambda m: m.beta, memory, jnp.asarray(2.0))
