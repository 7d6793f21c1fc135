"""Laws that every Potts memory obeys, checked over the zoo against enumeration of all states."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.descent.methods import flip_problem, solve
from tests.potts.zoo import POTTS, N, all_states, codes
from tests.zoo import unregistered

every_model = pytest.mark.parametrize("name", POTTS)
Q = 3
METHODS = {
    "permutation": am.Sweeps(),
    "sequential": am.Sweeps("sequential"),
    "random": am.Sweeps("random"),
    "greedy": am.Greedy(),
    "synchronous": am.Synchronous(),
    "glauber": am.Glauber(0.4),
    "metropolis": am.Metropolis(0.4, "sequential"),
    "gibbs": am.GibbsWithGradients(0.4),
    "dmala": am.DMALA(0.4, 0.6),
}
DESCENTS = ("permutation", "greedy")
FEW = ("permutation", "greedy", "synchronous", "glauber")
FALLS = am.RESULTS.converged


class World(NamedTuple):
    """All states of a model, their energies, and those after each change: `(states, N, q)`."""

    model: Any
    X: np.ndarray
    E: np.ndarray
    changed: np.ndarray
    tol: float

    def fixed(self, at: np.ndarray) -> np.ndarray:
        """Whether no change lowers the energy."""
        return np.all(self.changed[at] >= self.E[at][..., None, None] - self.tol, axis=(-1, -2))


@functools.cache
def world(name: str, q: int = Q) -> World:
    model, X = POTTS[name](q), all_states(q)
    E = np.asarray(jax.jit(jax.vmap(model.energy))(X), np.float64)
    changed = np.empty((len(X), N, q))
    for i in range(N):
        for k in range(q):
            Y = X.copy()
            Y[:, i] = k
            changed[:, i, k] = E[codes(Y, q)]
    finite = np.abs(E[np.isfinite(E)])
    return World(model, X, E, changed, float(16 * np.finfo(np.float32).eps * finite.max()))


def close(a, b, tol):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    np.testing.assert_allclose(np.where(same, 0, a), np.where(same, 0, b), rtol=0, atol=tol)


@functools.partial(jax.jit, static_argnames=("max_steps",))
def recalled(model, X, max_steps):
    """Recalls from all states by every method, compiled together."""
    keys = jr.split(jr.key(3), len(X))

    def by(method):
        run = lambda x, k: model.recall(x, method=method, key=k, max_steps=max_steps)
        return jax.vmap(run)(X, keys)

    return {name: by(METHODS[name]) for name in FEW}


def test_every_public_model_is_in_the_zoo():
    zoo = {name: functools.partial(make, 3) for name, make in POTTS.items()}
    assert not unregistered(am.potts, am.AbstractPottsAM, zoo)
    assert unregistered(am.potts, am.AbstractPottsAM, {"a": zoo["hopfield"]})


@every_model
def test_descent_falls_to_a_fixed_point(name):
    """From every state by every method: each visit is what the table of energies says, the record
    rebuilds every state, and the end is where no change lowers the energy."""
    w = world(name)
    start = np.flatnonzero(np.isfinite(w.E))
    ends = recalled(w.model, w.X[start], 8)
    for method, end in ends.items():
        t = jax.tree.map(np.asarray, end.trajectory)
        frames = np.asarray(end.trajectory.frames)
        np.testing.assert_array_equal(frames[:, -1], end.x)
        after = codes(frames, Q)
        before = np.concatenate([start[:, None], after[:, :-1]], 1)
        close(end.energy, w.E[codes(end.x, Q)], w.tol)
        made = w.changed[before, t.visited, t.values]
        if method != "synchronous":  # which records the energy at its end
            close(t.energy, w.E[after], w.tol)
            close(made[t.accepted], w.E[after][t.accepted], w.tol)
        np.testing.assert_array_equal(after[~t.accepted], before[~t.accepted])
        if method not in DESCENTS:
            continue
        best = w.changed[before, t.visited].min(-1)
        e = w.E[before]
        assert (made[t.accepted] < e[t.accepted] + w.tol).all()
        close(made[t.accepted], best[t.accepted], w.tol)
        if method != "greedy":
            assert (best[~t.accepted] > e[~t.accepted] - w.tol).all()
        assert (end.result == FALLS).all()
        assert w.fixed(codes(end.x, Q)).all()
    assert 0 < w.fixed(start).mean() < 1  # else this says nothing


@pytest.mark.parametrize(
    ("name", "q", "methods"),
    [
        *((name, Q, FEW[1:]) for name in POTTS),
        ("exponential", 4, METHODS),
        ("user-ring", 2, METHODS),
    ],
)
def test_both_paths_visit_the_same_states(name, q, methods):
    w = world(name, q)
    X = w.X[np.isfinite(w.E)][:: max(1, q**N // 30)]

    @jax.jit
    def run(X, w=w, q=q):
        keys = jr.split(jr.key(1), len(X))

        def by(method, path):
            problem = flip_problem(w.model.energy, am.Values(q), path=path, memory=w.model)
            one = lambda x, k: solve(problem, x, method, k, 6)
            return jax.vmap(one)(X, keys)

        return [{m: by(METHODS[m], p) for m in methods} for p in ("generic", "incremental")]

    whole, fast = run(X)
    plan = w.model.energy, am.Values(q)
    plan = flip_problem(*plan, path="incremental").plan(am.Values(q).to_spins(jnp.asarray(X[0])))
    assert plan.path == "incremental", plan.reason  # else a path is compared with itself
    for method in methods:
        a, b = whole[method], fast[method]
        np.testing.assert_array_equal(a.x, b.x, err_msg=method)
        np.testing.assert_array_equal(a.steps, b.steps)
        np.testing.assert_array_equal(a.trajectory.accepted, b.trajectory.accepted)
        close(a.trajectory.energy, b.trajectory.energy, w.tol)
    assert np.asarray(whole["greedy"].trajectory.accepted).any()


@every_model
def test_change_energies_and_fixed_points_agree_with_enumeration(name):
    w = world(name)
    at = np.flatnonzero(np.isfinite(w.E))

    @jax.jit
    def both(X):
        return jax.vmap(w.model.change_energies)(X), jax.vmap(w.model.is_fixed_point)(X)

    changed, fixed = both(w.X[at])
    close(changed, w.changed[at], w.tol)
    np.testing.assert_array_equal(fixed, w.fixed(at))


@pytest.mark.parametrize("name", ["hopfield", "user-clock"])
def test_synchronous_descent_says_how_it_ended(name):
    """Against a plain loop over the table of energies; of equal changes the next value is made."""
    w = world(name)
    end = recalled(w.model, w.X, 8)["synchronous"]
    others = (w.X[..., None] + 1 + np.arange(Q - 1)) % Q
    after = np.take_along_axis(w.changed, others, -1)
    lowest = np.take_along_axis(others, after.argmin(-1)[..., None], -1)[..., 0]
    following = codes(np.where(after.min(-1) < w.E[:, None] - w.tol, lowest, w.X), Q)
    at = np.arange(len(w.X))
    for _ in range(60):
        at = following[at]
    rests = following[at] == at
    cycles = ~rests & (following[following[at]] == at)
    ended = np.asarray(end.result != am.RESULTS.step_limit)
    assert ended.mean() > 0.8
    np.testing.assert_array_equal((end.result == am.RESULTS.converged)[ended], rests[ended])
    np.testing.assert_array_equal((end.result == am.RESULTS.cycle)[ended], cycles[ended])
    np.testing.assert_array_equal(codes(end.x, Q)[rests & ended], at[rests & ended])


@pytest.mark.parametrize("name", ["hopfield", "polynomial", "rectified", "in logs", "exponential"])
def test_permuting_patterns_or_values_leaves_the_energy(name):
    """The values of a unit are names: other names for all, another order of patterns, are alike."""
    model, X = world(name).model, world(name).X
    E = world(name).E
    rng = np.random.default_rng(0)
    names = np.stack([rng.permutation(Q) for _ in range(N)])
    at = np.arange(N)
    Xi = np.asarray(model.Xi)
    more = {k: getattr(model, k) for k in ("n", "rectified", "beta") if hasattr(model, k)}
    renamed = type(model)(names[at, Xi][::-1].copy(), Q, **more)
    close(jax.vmap(renamed.energy)(names[at, X]), E, world(name).tol)


PAIRS = {
    "hopfield": (am.PottsHopfield, am.ClassicalHopfield, {}),
    "power": (am.PolynomialPottsAM, am.PolynomialDenseAM, {"n": 3, "rectified": False}),
    "in logs": (am.PolynomialPottsAM, am.PolynomialDenseAM, {"n": 40}),
    "exponential": (am.ExponentialPottsAM, am.ExponentialDenseAM, {"beta": 0.3}),
}


@pytest.mark.parametrize("name", PAIRS)
def test_of_two_values_it_is_the_binary_memory(name):
    """The same energies, and by the same random numbers the same states on the way."""
    several, two, more = PAIRS[name]
    rng = np.random.default_rng(4)
    Xi, X = rng.integers(0, 2, (5, 9)), rng.integers(0, 2, (12, 9)).astype(np.int32)
    a = several(Xi, 2, **more)
    b = two(jnp.asarray(2.0 * Xi - 1, jnp.float32), **more)
    spins = jnp.asarray(2.0 * X - 1, jnp.float32)
    E = jax.vmap(b.energy)(spins)
    np.testing.assert_allclose(jax.vmap(a.energy)(X), E, rtol=1e-6)
    keys = jr.split(jr.key(0), len(X))
    for method in (
        am.Sweeps(),
        am.Greedy(),
        am.Synchronous(),
        am.Glauber(0.05),
        am.Metropolis(0.05),
        am.GibbsWithGradients(0.05),
        am.DMALA(0.05, 0.5),
    ):
        run = lambda m, x, k, method=method: m.recall(x, method=method, key=k, max_steps=9)
        p, q = (
            jax.jit(jax.vmap(functools.partial(run, m)))(x, keys) for m, x in ((a, X), (b, spins))
        )
        np.testing.assert_array_equal(2 * np.asarray(p.x) - 1, q.x)
        np.testing.assert_array_equal(p.trajectory.accepted, q.trajectory.accepted)
        np.testing.assert_array_equal(p.steps, q.steps)
        np.testing.assert_array_equal(jax.tree.leaves(p.result), jax.tree.leaves(q.result))
