"""The methods of continuous descent, on plain functions: no model is involved."""

import functools

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import lineax as lx
import numpy as np
import optimistix as optx
import pytest
from numpy.testing import assert_allclose

import amlib as am
from amlib.descent import descend
from tests import users

METHODS = {
    "gradient": am.GradientDescent(0.3),
    "backtracking": am.GradientDescent(1.0, backtracking=True),
    "cccp": am.CCCP(),
    "flow": am.Flow(),
    "fixed point": am.FixedPoint(),
}
every = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
IMPLICIT = {"flow": am.Flow(), "fixed point": am.FixedPoint()}
implicit = pytest.mark.parametrize("method", IMPLICIT.values(), ids=IMPLICIT)
R = am.RESULTS


def lse_energy(Xi, beta, x):
    return 0.5 * jnp.sum(x * x) - jax.nn.logsumexp(beta * (Xi @ x)) / beta


def problem(dtype=jnp.float32, K=5, D=8):
    Xi = jr.normal(jr.key(0), (K, D)).astype(dtype)
    return Xi, jnp.asarray(0.7, dtype), Xi[0] + 0.3 * jr.normal(jr.key(1), (D,)).astype(dtype)


@eqx.filter_jit
def run(energy, x0, method, **options):
    """`descend` as one compiled program: far cheaper than one operation at a time."""
    return descend(energy, x0, method, **options)


@eqx.filter_jit
def solve(Xi, beta, x0, method, **options):
    """The same for `lse_energy`, compiled once for each kind of method and options."""
    return descend(lambda x: lse_energy(Xi, beta, x), x0, method, **options)


def quartic(x):
    """Stationary at the corners -1/+1 of a cube; not of CCCP form."""
    return jnp.sum((x * x - 1) ** 2)


# -- every method --------------------------------------------------------------------------------


@every
def test_reaches_a_minimum_and_keeps_the_way(method):
    Xi, beta, x0 = problem()
    energy = lambda x: lse_energy(Xi, beta, x)
    end = solve(Xi, beta, x0, method, max_steps=99, save_every=4)
    assert end.result == R.converged
    assert_allclose(end.x, jax.nn.softmax(beta * Xi @ end.x) @ Xi, atol=5e-4)
    assert_allclose(end.energy, energy(end.x), rtol=1e-6)
    assert 0 < end.steps < 99
    kept = end.trajectory
    assert kept.x.shape == (1 + (24 if isinstance(method, am.Flow) else 25), 8)
    np.testing.assert_array_equal(kept.x[0], x0)
    assert_allclose(kept.x[-1], end.x, atol=1e-6)
    assert_allclose(kept.energy, jax.vmap(energy)(kept.x), rtol=1e-5)
    assert (jnp.diff(kept.time) >= 0).all()
    assert kept.time[0] == 0


@every
@pytest.mark.parametrize("project", [am.Box(-0.4, 0.5), am.Sphere(1.5)], ids=["box", "sphere"])
def test_ends_on_the_constraint_set_where_no_move_helps(method, project):
    Xi, beta, x0 = problem()
    energy = lambda x: lse_energy(Xi, beta, x)
    end = solve(Xi, beta, x0, method, space=project, save_every=1, max_steps=200)
    assert end.result == R.converged
    assert_allclose(jax.vmap(project)(end.trajectory.x), end.trajectory.x, atol=1e-6)
    assert_allclose(end.x, project(end.x - jax.grad(energy)(end.x)), atol=5e-4)
    near = jax.vmap(project)(end.x[None] + 0.05 * jr.normal(jr.key(2), (200, 8)))
    assert (jax.vmap(energy)(near) >= end.energy - 1e-5).all()  # no neighbour is lower


@every
def test_double_precision_and_single_precision_under_x64(method, x64):
    Xi, beta, x0 = problem(jnp.float64)
    end = solve(Xi, beta, x0, method)
    assert end.x.dtype == jnp.float64
    assert_allclose(end.x, jax.nn.softmax(beta * Xi @ end.x) @ Xi, atol=2e-8)
    assert end.trajectory is None
    Xi, beta, x0 = problem(jnp.float32)
    end = solve(Xi, beta, x0, method, save_every=2)
    assert end.x.dtype == end.energy.dtype == jnp.float32
    assert end.result == R.converged


@every
def test_reports_energies_that_are_not_finite_or_have_no_floor(method):
    nan = run(lambda x: jnp.sum(jnp.sqrt(x)), -jnp.ones(3), method, max_steps=20)
    assert nan.result == R.nonfinite
    assert "not finite" in str(R[nan.result])
    deep = run(lambda x: -jnp.sum(x**4), 0.8 * jnp.ones(3), method, max_steps=60)
    assert deep.result != R.converged
    slow = run(lambda x: -0.01 * jnp.sum(x), jnp.ones(3), method, max_steps=7)
    assert slow.result == R.step_limit


@every
def test_batch_equals_single_runs(method):
    Xi, beta, x0 = problem()
    starts = x0[None] + 0.5 * jr.normal(jr.key(5), (4, 8))
    one = jax.jit(lambda x: descend(lambda y: lse_energy(Xi, beta, y), x, method))
    batch = jax.jit(jax.vmap(one))(starts)
    for i, x in enumerate(starts):
        single = one(x)
        assert_allclose(batch.x[i], single.x, atol=1e-3)
        assert_allclose(batch.energy[i], single.energy, atol=1e-5)
    assert batch.converged.all()


# -- derivatives ---------------------------------------------------------------------------------


def unrolled(Xi, beta, x0, project):
    """The reference: a long descent, differentiated step by step."""

    def step(x, _):
        x = x - jax.grad(lambda y: lse_energy(Xi, beta, y))(x)
        return (x if project is None else project(x)), None

    return jax.lax.scan(step, x0 if project is None else project(x0), length=100)[0]


CONSTRAINTS = {"free": None, "box": am.Box(-0.4, 0.5), "sphere": am.Sphere(1.5)}


def gradient(solve):
    """Derivatives in patterns, beta and query, in double precision."""
    Xi, beta, x0 = problem(jnp.float64, K=6)
    target = jr.normal(jr.key(3), x0.shape)
    return jax.jit(jax.grad(lambda *args: solve(*args) @ target, (0, 1, 2)))(Xi, beta, x0)


def constraint(name):
    return jax.tree.map(lambda a: a.astype(float), CONSTRAINTS[name])


@functools.cache  # one reference for all methods
def reference_gradient(name):
    return gradient(lambda Xi, beta, x0: unrolled(Xi, beta, x0, constraint(name)))


# The explicit methods share their loop: with constraints one of them is enough by default.
EXTRA = ("gradient", "backtracking")
PAIRS = [
    pytest.param(
        method,
        constraint,
        id=f"{constraint}-{name}",
        marks=[pytest.mark.slow] if constraint != "free" and name in EXTRA else [],
    )
    for name, method in METHODS.items()
    for constraint in CONSTRAINTS
]


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_gradients_equal_those_of_an_unrolled_long_descent(method, name, x64):
    project = constraint(name)

    def recall(Xi, beta, x0):
        energy = lambda x: lse_energy(Xi, beta, x)
        return descend(energy, x0, method, tol=1e-11, space=project).x

    reference = reference_gradient(name)
    for a, b in zip(gradient(recall), reference, strict=True):
        assert_allclose(a, b, rtol=2e-5, atol=2e-7)
    assert abs(reference[1]) > 1e-3  # there is something to compare


@implicit
def test_implicit_gradient_in_the_projection_and_by_gmres(method, x64):
    Xi, beta, x0 = problem(jnp.float64)

    def first_unit(radius, linear_solver=None):
        solver = type(method)(linear_solver=linear_solver)
        energy = lambda x: lse_energy(Xi, beta, x)
        return descend(energy, x0, solver, tol=1e-11, space=am.Sphere(radius)).x[0]

    dense = jax.jit(jax.grad(first_unit))(jnp.asarray(1.5))
    sides = [jax.jit(first_unit)(jnp.asarray(1.5 + h)) for h in (1e-5, -1e-5)]
    assert_allclose(dense, (sides[0] - sides[1]) / 2e-5, rtol=1e-5)
    gmres = lx.GMRES(rtol=1e-12, atol=1e-12)
    other = jax.jit(jax.grad(lambda r: first_unit(r, gmres)))(jnp.asarray(1.5))
    assert_allclose(other, dense, rtol=1e-8)


@implicit
def test_implicit_gradients_go_under_vmap_and_matrix_free_solves(method):
    Xi, beta, _ = problem(K=6, D=300)  # beyond 256 units: GMRES
    starts = Xi[:3] + 0.1

    def loss(beta, solve):
        return jnp.sum(jax.vmap(solve, (None, 0))(beta, starts)[:, :5])

    def recall(beta, x0):
        return descend(lambda x: lse_energy(Xi, beta, x), x0, method).x

    beta = jnp.asarray(0.01)
    ours = jax.jit(jax.grad(lambda b: loss(b, recall)))(beta)
    reference = jax.jit(jax.grad(lambda b: loss(b, lambda b, x: unrolled(Xi, b, x, None))))(beta)
    assert_allclose(ours, reference, rtol=2e-2)


def backward_bytes(method, steps):
    """Scratch memory of the compiled backward pass, as XLA plans it."""
    Xi, _, x0 = problem(K=64, D=128)

    def loss(Xi, beta):
        energy = lambda x: lse_energy(Xi, beta, x)
        return jnp.sum(descend(energy, x0, method, tol=0.0, max_steps=steps).x)

    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(Xi, jnp.asarray(0.01)).compile()
    plan = compiled.memory_analysis()
    assert plan is not None
    return plan.temp_size_in_bytes


@implicit
def test_backward_memory_does_not_grow_with_the_number_of_steps(method):
    assert backward_bytes(method, 1000) == backward_bytes(method, 10)


def test_backward_memory_of_unrolled_steps_does_grow():
    # The measure sees what it should see.
    step = am.GradientDescent(0.1)
    assert backward_bytes(step, 1000) > 1.2 * backward_bytes(step, 10)


# -- one by one ----------------------------------------------------------------------------------


def test_backtracking_never_raises_the_energy_whatever_the_step():
    x0 = jnp.array([0.3, -2.0, 5.0, 1e-3])
    for step in (0.1, 1e4):
        method = am.GradientDescent(step, backtracking=True)
        end = run(quartic, x0, method, save_every=1)
        assert (jnp.diff(end.trajectory.energy) <= 0).all()
        assert end.result == R.converged
        assert_allclose(jnp.abs(end.x), jnp.ones(4), atol=1e-3)
    plain = run(quartic, jnp.array([5.0]), am.GradientDescent(1.0), max_steps=50)
    assert plain.result == R.nonfinite


def test_backtracking_survives_an_infinite_wall():
    wall = lambda x: jnp.sum(x - jnp.log(x))  # infinite at 0, undefined below
    end = run(wall, jnp.array([0.1, 3.0]), METHODS["backtracking"])
    assert end.result == R.converged
    assert_allclose(end.x, jnp.ones(2), atol=1e-3)


def test_cccp_stops_where_it_does_not_apply():
    end = descend(quartic, jnp.array([0.5, 2.0]), am.CCCP())
    assert end.result == R.ascent
    assert "convex part" in str(R[end.result])
    assert_allclose(end.x, [0.5, 2.0])  # the step that raised the energy was undone
    assert descend(lambda x: 0.5 * jnp.sum(x**2), jnp.ones(3), am.CCCP()).steps == 1


def test_plain_steps_that_raise_the_energy_say_so():
    steep = lambda x: 5 * jnp.sum((x - 1) ** 2)
    end = run(steep, jnp.zeros(2), am.GradientDescent(0.22), max_steps=9)
    assert end.energy > steep(jnp.zeros(2))
    assert end.result == R.ascent
    assert "a smaller step_size" in str(R[end.result])
    assert run(steep, jnp.zeros(2), am.GradientDescent(0.01), max_steps=9).result == R.step_limit


def test_rounding_is_no_ascent():
    # At rest but for rounding, of summands that cancel: half of the steps raise the energy.
    Xi, beta, x0 = problem()
    for name in ("gradient", "cccp"):
        end = solve(Xi, beta, x0, METHODS[name], tol=0.0, max_steps=300, save_every=1)
        assert end.result in (R.step_limit, R.converged)


def test_cccp_needs_fewer_steps():
    Xi, beta, x0 = problem()
    steps = [int(solve(Xi, beta, x0, METHODS[m]).steps) for m in ("cccp", "gradient")]
    assert steps[0] < steps[1]


def test_flow_follows_the_differential_equation():
    # E = x^2 / 2: x(t) = x0 exp(-t / tau).
    end = run(lambda x: 0.5 * jnp.sum(x**2), jnp.ones(2), am.Flow(tau=3.0), save_every=1)
    time = end.trajectory.time
    inside = (time > 0.1) & (time < 12)
    assert inside.sum() >= 3
    assert_allclose(end.trajectory.x[inside, 0], jnp.exp(-time / 3.0)[inside], atol=1e-4)


@pytest.mark.parametrize("solver", [diffrax.Heun(), diffrax.Kvaerno3()], ids=["heun", "kvaerno"])
def test_flow_takes_other_solvers(solver):
    stiff = lambda x: 0.5 * (x[0] ** 2 + 500 * x[1] ** 2)
    method = am.Flow(solver=solver, controller=diffrax.PIDController(rtol=1e-5, atol=1e-6))
    end = run(stiff, jnp.array([1.0, 1.0]), method, max_steps=4000, tol=1e-2)
    assert end.result == R.converged
    assert (end.steps < 500) == isinstance(solver, diffrax.Kvaerno3)


@pytest.mark.parametrize(
    "solver",
    [optx.Newton(rtol=1e-6, atol=1e-6), optx.FixedPointIteration(1e-6, 1e-6, damp=0.3)],
    ids=["newton", "damped"],
)
def test_fixed_point_takes_other_solvers(solver):
    Xi, beta, x0 = problem()
    end = solve(Xi, beta, x0, am.FixedPoint(solver), save_every=1)
    assert end.result == R.converged
    assert_allclose(end.x, solve(Xi, beta, x0, am.CCCP(), tol=1e-6).x, atol=1e-4)


def test_fixed_point_returns_what_the_solver_makes_of_its_last_iterate():
    # x - grad E = -2x: the iterates are 1, -2, 4, -8, 16, -32, and the first was the best.
    solver = optx.BestSoFarFixedPoint(optx.FixedPointIteration(1e-5, 1e-5))
    x0, energy = jnp.ones(1), lambda x: 1.5 * jnp.sum(x**2)
    end = run(energy, x0, am.FixedPoint(solver), max_steps=5, save_every=1)
    theirs = optx.fixed_point(lambda x, _: -2 * x, solver, x0, max_steps=5, throw=False)
    assert_allclose(end.x, theirs.value)
    assert_allclose(end.x, [1.0])
    assert_allclose(end.energy, 1.5)
    assert end.result == R.step_limit
    assert_allclose(end.trajectory.x[:, 0], [1, -2, 4, -8, 16, -32])
    roots = optx.BestSoFarRootFinder(optx.Newton(1e-6, 1e-6))
    found = run(quartic, jnp.array([0.8]), am.FixedPoint(roots), max_steps=30)
    assert found.result == R.converged
    assert_allclose(found.x, [1.0], atol=1e-5)


def test_fixed_point_ends_where_its_solver_gives_up():
    # Newton's steps towards the root that exp(-x) does not have are all as long as the first.
    flat = lambda x: -jnp.sum(jnp.exp(-x))
    solver = optx.Newton(1e-6, 1e-6, cauchy_termination=False)
    theirs = optx.root_find(lambda x, _: -jax.grad(flat)(x), solver, jnp.ones(2), throw=False)
    end = run(flat, jnp.ones(2), am.FixedPoint(solver))
    assert theirs.result != optx.RESULTS.successful
    assert end.steps == theirs.stats["num_steps"]
    assert end.result == R.gave_up
    assert "gave up" in str(R[end.result])


def test_fixed_point_step_size_tames_strong_curvature():
    steep = lambda x: 5 * jnp.sum((x - 1) ** 2)
    assert descend(steep, jnp.zeros(2), am.FixedPoint(), max_steps=100).result != R.converged
    end = descend(steep, jnp.zeros(2), am.FixedPoint(step_size=0.1))
    assert_allclose(end.x, jnp.ones(2), atol=1e-3)


def test_a_start_at_rest_takes_no_step():
    for method in ("gradient", "backtracking", "cccp"):
        end = descend(lambda x: jnp.sum(x**2), jnp.zeros(3), METHODS[method])
        assert end.result == R.converged
        assert end.steps == 0


def test_users_can_add_a_method():
    class Jump(am.AbstractRealMethod):
        def step(self, problem, at, state, key):
            return problem.at(jnp.ones_like(at.x)), state

    end = descend(quartic, jnp.full(2, 0.1), Jump())
    assert_allclose(end.energy, 0.0)
    assert end.result == R.converged
    assert end.steps == 1


def test_bad_arguments(unchecked):
    x0 = jnp.zeros(3)
    with pytest.raises(TypeError, match=r"method must be an object such as .*'cccp' came"):
        users.am.ModernHopfield(jnp.eye(3)).recall(x0, method="cccp")
    with pytest.raises(TypeError, match=r"must be one for real units; Sweeps came.*Choose Gradi"):
        am.ModernHopfield(jnp.eye(3)).recall(x0, method=am.Sweeps())
    with pytest.raises(TypeError, match=r"units of two values, -1 and 1; CCCP came.*Choose Sweep"):
        am.ClassicalHopfield(jnp.ones((2, 3))).recall(jnp.ones(3), method=am.CCCP())
    with pytest.raises(ValueError, match=r"recall: Langevin draws at random and needs key="):
        am.ModernHopfield(jnp.eye(3)).recall(x0, method=am.Langevin(1.0))
    with pytest.raises(ValueError, match="max_steps: must be at least 1; 0 came"):
        descend(quartic, x0, am.CCCP(), max_steps=0)
    with pytest.raises(ValueError, match=r"max_steps: must be at most 2147483647; 10+ came"):
        descend(quartic, x0, am.CCCP(), max_steps=10**12)
    with pytest.raises(ValueError, match="save_every: must be at least 1; 0 came"):
        descend(quartic, x0, am.CCCP(), save_every=0)
    with pytest.raises(ValueError, match="step_size: must be finite and greater than 0"):
        am.GradientDescent(0.0)
    with pytest.raises(ValueError, match="tau: must be finite and greater than 0"):
        am.Flow(-1.0)
    with pytest.raises(TypeError, match=r"Flow: solver: must be such as diffrax.Tsit5\(\)"):
        am.Flow(solver=optx.Newton(1e-3, 1e-3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"FixedPoint: solver: must be such as optimistix.Newton"):
        am.FixedPoint(optx.BFGS(1e-3, 1e-3))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="Box: low must be below high"):
        am.Box(1.0, -1.0)
    with pytest.raises(ValueError, match="Sphere: radius: must be finite and greater than 0"):
        am.Sphere(0.0)
    with pytest.raises(ValueError, match=r"project: must keep the shape \(3,\); \(1,\) came"):
        descend(quartic, x0, am.CCCP(), space=lambda x: x[:1])
    with pytest.raises(ValueError, match="energy: must return one real floating-point scalar"):
        descend(lambda x: x, x0, am.CCCP())
