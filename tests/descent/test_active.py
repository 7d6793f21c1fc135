"""The few patterns that count: taken where it may be, never wrong, and left where it fails."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from amlib.descent.active import Active, find_structure
from amlib.descent.flip_problem import FlipProblem
from amlib.descent.flips import AbstractFlipMethod
from amlib.descent.methods import solve
from amlib.descent.plan import FlipPlan
from amlib.descent.samplers import Glauber
from amlib.descent.sweeps import Greedy, Sweeps, Synchronous
from amlib.descent.trajectory import RESULTS
from tests import engine as flips

K, D = 1000, 60  # enough patterns for this form to be considered


def spins(seed, *shape, dtype=jnp.float32):
    return jr.rademacher(jr.key(seed), shape, dtype=dtype)


Xi = spins(0, K, D)
BIAS = jr.normal(jr.key(1), (K,))


def near(pattern, wrong, seed=3):
    """A pattern with some bits flipped."""
    at = jr.choice(jr.key(seed), pattern.size, (wrong,), replace=False)
    return pattern.reshape(-1).at[at].multiply(-1).reshape(pattern.shape)


def by_hand(v):
    c = jnp.max(v)
    return -(c + jnp.log(jnp.sum(jnp.exp(v - c))))


ENERGIES = {
    "log-sum-exp": lambda x: -jax.nn.logsumexp(Xi @ x),
    "over beta": lambda x: -jax.nn.logsumexp(3.0 * (Xi @ x)) / 3.0,
    "beta 50": lambda x: -jax.nn.logsumexp(50.0 * (Xi @ x)),
    "by hand": lambda x: by_hand(1.5 * (Xi @ x)),
    "with a bias": lambda x: -jax.nn.logsumexp(2.0 * (Xi @ x) - BIAS),
    "scaled each": lambda x: -jax.nn.logsumexp((2.0 + 0.1 * jnp.abs(BIAS)) * (Xi @ x)),
    "divided": lambda x: -jax.nn.logsumexp((Xi @ x) / 0.7),
    "bits": lambda x: -jax.nn.logsumexp(4.0 * (Xi @ ((x + 1) / 2))),
    "from the right": lambda x: -jax.nn.logsumexp(2.0 * (x @ Xi.T)),
    "squared": lambda x: -(jax.nn.logsumexp(2.0 * (Xi @ x)) ** 2),
    "int8": lambda x: -jax.nn.logsumexp(2.0 * (Xi.astype(jnp.int8).astype(x.dtype) @ x)),
}


def takes_it(energy, x):
    """Whether the loop is given this form at `x`, as `run` decides it."""

    def loop(form):
        return jnp.asarray(isinstance(form, Active)), jnp.asarray(True)

    return bool(FlipPlan(energy, x).run(loop, x))


@pytest.mark.parametrize("name", ENERGIES)
def test_it_is_taken_and_visits_the_states_of_the_full_energy(name):
    energy, x0 = ENERGIES[name], near(Xi[7], 9)
    assert takes_it(energy, x0)
    idx = jr.randint(jr.key(5), (4 * D,), 0, D)
    x, record = flips.visit(energy, x0, idx)
    expected, oracle = flips.visit(energy, x0, idx, path="generic")
    np.testing.assert_array_equal(record.accepted, oracle.accepted)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_allclose(record.energy, oracle.energy, rtol=1e-6)
    np.testing.assert_array_equal(x, Xi[7])
    every = flips.flip_energies(energy, x0)
    np.testing.assert_allclose(every, flips.flip_energies(energy, x0, path="generic"), rtol=1e-5)
    assert bool(flips.is_fixed_point(energy, x))
    assert not bool(flips.is_fixed_point(energy, x0))


@pytest.mark.parametrize("method", [Sweeps(), Greedy(), Synchronous()])
def test_every_method_ends_as_with_the_full_energy(method):
    energy, x0 = ENERGIES["log-sum-exp"], near(Xi[7], 9)
    end = flips.descend(energy, x0, method)
    oracle = flips.descend(energy, x0, method, path="generic")
    assert end.result == RESULTS.converged
    np.testing.assert_array_equal(end.x, oracle.x)
    np.testing.assert_array_equal(end.trajectory.accepted, oracle.trajectory.accepted)
    assert int(end.steps) == int(oracle.steps)


REAL = jr.normal(jr.key(4), (K, D))


@pytest.mark.parametrize(
    ("energy", "x0"),
    [
        (lambda x: -jax.nn.logsumexp(0.02 * (Xi @ x)), Xi[0]),  # all patterns count
        (lambda x: -jax.nn.logsumexp(Xi @ x), spins(9, D)),  # far from each
        (lambda x: -jax.nn.logsumexp(3.0 * (REAL @ x)), jnp.sign(REAL[0])),
        (lambda x: -jax.nn.logsumexp(300.0 * (Xi @ (x / 300))), Xi[0]),  # overlaps no integers
        (lambda x: -jax.nn.logsumexp(2.0 * (200 * Xi @ x)), Xi[0]),  # do not fit int8
        (lambda x: -jax.nn.logsumexp(3 * (Xi @ x)) - jnp.sum(x[:3] * x[1:4]), Xi[0]),
        (lambda x: -jnp.dot(jax.nn.softmax(3 * (Xi @ x)), Xi @ x), Xi[0]),
        (lambda x: -jnp.sum(jnp.exp(Xi @ x - D)), Xi[0]),  # no centre is carried
    ],
)
def test_it_is_left_where_the_values_or_the_energy_do_not_allow_it(energy, x0):
    assert not takes_it(energy, x0)
    idx = jr.randint(jr.key(5), (2 * D,), 0, D)
    record = flips.visit(energy, x0, idx)[1]
    oracle = flips.visit(energy, x0, idx, path="generic")[1]
    np.testing.assert_array_equal(record.accepted, oracle.accepted)


class EveryFlip(AbstractFlipMethod):
    """Makes every move, whatever the energy says."""

    def step(self, problem, at, state, key):
        del key
        return problem.try_moves(at, problem.bits, lambda e, new, _: jnp.isfinite(new)), state


def test_away_from_all_memories_the_bound_fails_and_another_form_takes_over():
    """From a memory to its opposite the others come to count; so they must be counted."""
    energy, x0 = ENERGIES["log-sum-exp"], Xi[7]
    assert takes_it(energy, x0)
    end = solve(FlipProblem(energy), x0, EveryFlip(), None, 1)
    np.testing.assert_array_equal(end.x, -x0)
    frames = jnp.stack([x0 * jnp.where(jnp.arange(D) <= i, -1, 1) for i in range(D)])
    np.testing.assert_allclose(end.trajectory.energy, jax.vmap(energy)(frames), rtol=1e-5)


def test_what_is_left_out_is_less_than_rounding():
    """Every energy that this form gives is that in double precision, to the last digits."""
    plan = FlipPlan(ENERGIES["log-sum-exp"], Xi[7])
    kept = []

    def loop(form):
        moved = form.using(form.learn(Xi[7]))
        for i in range(25):
            x = Xi[7].at[:i].multiply(-1)
            kept.append((x, moved.start(x)[0]))
        return jnp.asarray(0), jnp.asarray(True)

    plan.run(loop, Xi[7])
    found = [(np.asarray(x, np.float64), float(e)) for x, e in kept]
    finite = [(x, e) for x, e in found if np.isfinite(e)]
    assert 5 < len(finite) < len(found)  # it says where it is of no use
    for x, e in finite:
        h = np.asarray(Xi, np.float64) @ x
        exact = -(h.max() + np.log(np.exp(h - h.max()).sum()))
        assert abs(e - exact) <= 4 * np.finfo(np.float32).eps * abs(exact)


def test_glauber_dynamics_meets_the_same_states():
    """Thousands of flips back and forth: the distance to where the patterns were chosen counts."""
    energy = lambda x: -jax.nn.logsumexp(2.0 * (Xi @ x)) / 2.0
    run = lambda path: flips.descend(
        energy, Xi[3], Glauber(0.8), jr.key(0), max_sweeps=40, path=path
    )
    assert takes_it(energy, Xi[3])
    one, other = run("auto").trajectory, run("generic").trajectory
    assert one.accepted.sum() > 100
    np.testing.assert_array_equal(one.accepted, other.accepted)
    np.testing.assert_allclose(one.energy, other.energy, rtol=1e-5)


@pytest.mark.parametrize("lost", [False, True])
def test_lanes_decide_together(lost):
    """A lane that is far from every memory takes the others to the other form, and only there."""
    energy = ENERGIES["log-sum-exp"]
    starts = jnp.stack([near(Xi[k], 9, k) for k in range(5)] + [spins(9, D)] * lost)
    keys = jr.split(jr.key(1), len(starts))
    run = lambda path: jax.jit(
        jax.vmap(lambda x, k: flips.sweep(energy, x, k, path=path)),
    )(starts, keys)
    one, other = run("auto"), run("generic")
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.trajectory.accepted, other.trajectory.accepted)
    assert bool((one.x[:5] == Xi[:5]).all())


def test_its_work_does_not_depend_on_the_number_of_patterns():
    """A sweep and the proof after it touch no array of all patterns."""

    def largest(K):
        patterns = spins(0, K, D)
        plan = FlipPlan(lambda x: -jax.nn.logsumexp(patterns @ x), x_of())
        cut = plan.cut
        assert cut is not None
        structure = find_structure(cut.analysis, cut.carried, cut.head)
        assert structure is not None
        (rows,) = cut.tables().values()
        form = Active(structure, rows, jnp.ones(()), Xi[0], D, plan.out.dtype)
        known = form.learn(Xi[0])
        jaxpr = jax.make_jaxpr(lambda x, known: _sweep(form.using(known), x))(Xi[0], known)
        return max(_sizes(jaxpr.jaxpr))

    assert largest(1000) == largest(2000)


def _sweep(form, x):
    from amlib.descent.visits import all_flips, try_moves

    accept = lambda e, new, *_: new < e
    return try_moves(form, x, jnp.arange(D), accept), all_flips(form, x)


def _sizes(jaxpr):
    for e in jaxpr.eqns:
        yield from (v.aval.size for v in [*e.outvars, *e.invars] if hasattr(v.aval, "size"))
        for inner in jax.tree.leaves(
            tuple(e.params.values()), is_leaf=lambda a: hasattr(a, "jaxpr")
        ):
            if hasattr(inner, "jaxpr"):
                yield from _sizes(inner.jaxpr)


def x_of():
    return jax.ShapeDtypeStruct((D,), jnp.float32)


def test_it_is_explained():
    patterns = spins(0, 8000, D)
    text = FlipPlan(lambda x: -jax.nn.logsumexp(patterns @ x), x_of()).describe()
    assert "near      a memory, 125 of 8,000 patterns" in text
    assert "near" not in FlipPlan(lambda x: -jnp.sum((patterns @ x) ** 2), x_of()).describe()
