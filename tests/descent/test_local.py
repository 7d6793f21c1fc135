"""Local energies: a flip costs the terms it touches, and bits that share none go at once."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.scipy.signal import convolve2d

import amlib as am
from amlib.descent.flip_problem import FlipProblem, Sweep
from amlib.descent.plan import FlipPlan
from amlib.descent.separable import Separable, colour
from amlib.descent.visits import free_bits, try_moves
from tests import engine

SIDE, D = 6, 36
RNG = np.random.default_rng(0)
E0 = RNG.integers(0, D, 80)
E1 = (E0 + RNG.integers(1, D, 80)) % D
TRIPLES = np.stack([RNG.permutation(D)[:3] for _ in range(50)])
CLAUSES = jnp.asarray(RNG.choice([-1.0, 1.0], (50, 3)), jnp.float32)
J = jnp.asarray(RNG.normal(size=80), jnp.float32)
FIELD = jnp.asarray(RNG.normal(size=(SIDE, SIDE)), jnp.float32)
MASK = RNG.random((SIDE, SIDE)) < 0.5
NEAR = jnp.asarray([[0, 1, 0], [1, 0, 1], [0, 1, 0]], jnp.float32)
KERNELS = jnp.asarray(RNG.normal(size=(3, 1, 2, 2)), jnp.float32)
Xi = jr.rademacher(jr.key(1), (8, D), jnp.float32)


def ising(x):
    return -jnp.sum(x * jnp.roll(x, 1, 0)) - jnp.sum(x * jnp.roll(x, 1, 1))


def windows(x):
    return jax.lax.conv_general_dilated(x.reshape(1, 1, SIDE, SIDE), KERNELS, (1, 1), "SAME")


def penalties(x, size, count=50):
    broken = jnp.all(x[TRIPLES[:count]] == CLAUSES[:count], -1)
    return jnp.sum(jnp.where(broken, size, 0.1 * x[TRIPLES[:count, 0]]))


GRID = {
    "torus": ising,
    "weighted": lambda x: 0.3 * ising(x) - 0.7 * jnp.sum(x * FIELD),
    "open": lambda x: -jnp.sum(x[1:] * x[:-1]) - jnp.sum(x[:, 1:] * x[:, :-1]),
    "where a mask is": lambda x: -jnp.sum(jnp.where(MASK, x * jnp.roll(x, 1, 0), 0.5 * x)),
    "plaquettes": lambda x: -jnp.sum(x[1:, 1:] * x[:-1, 1:] * x[1:, :-1] * x[:-1, :-1]),
    "neighbours by convolution": lambda x: -0.5 * jnp.sum(x * convolve2d(x, NEAR, mode="same")),
    "filters": lambda x: -jnp.sum(jax.nn.relu(windows(x)) ** 3),
    "differences": lambda x: jnp.sum(jnp.diff(x, axis=0) ** 2 + jnp.abs(x[1:] - x[:-1])),
    "squares of sums": lambda x: jnp.sum((jnp.roll(x, 1, 0) + jnp.roll(x, -1, 0) + x) ** 2),
    "pooled": lambda x: -jnp.sum(x.reshape(3, 2, 3, 2).max((1, 3))),
    "integers": lambda x: -jnp.sum((y := x.astype(jnp.int8)) * jnp.roll(y, 1)).astype(x.dtype),
    "of 0 and 1": lambda x: -jnp.sum(((x + 1) / 2) * ((jnp.roll(x, 1, 0) + 1) / 2)),
}  # fmt: skip
GRAPH = {
    "graph": lambda x: -jnp.sum(J * x[E0] * x[E1]),
    "graph of tanh": lambda x: -jnp.sum(jnp.tanh(J * x[E0] + x[E1])),
    "graph of cuts": lambda x: -jnp.sum(x[E0] != x[E1]).astype(x.dtype),
    "degrees": lambda x: -0.5 * x @ jax.ops.segment_sum(J * x[E0], E1, D),
    "three spins": lambda x: -jnp.sum(jnp.prod(x[TRIPLES], -1)),
    "clauses": lambda x: jnp.sum(jnp.where(jnp.all(x[TRIPLES] == CLAUSES, -1), 1.0, 0.0)),
    "penalties": lambda x: penalties(x, 100.0),
    "soft maxima": lambda x: -jnp.sum(jax.nn.logsumexp(2 * x[TRIPLES], axis=-1)),
    "scattered": lambda x: -jnp.sum((y := jnp.ones(50).at[jnp.arange(5, 41)].set(x))[1:] * y[:-1]),
    "chain": lambda x: -x[1:] @ x[:-1],
    "what is overwritten": lambda x: -x[1:] @ x[:-1]
    + jnp.prod(jnp.tanh(jax.lax.dynamic_update_slice_in_dim(x[jnp.array([-2])], J[:1], 0, 0))),
}  # fmt: skip
MIXED = {
    "local and dense": lambda x: -x[1:] @ x[:-1] - jax.nn.logsumexp(0.3 * (Xi @ x)),
    "a function of a sum": lambda x: -jnp.log(2 * D + x[1:] @ x[:-1]),
    "softmaxes in rows": lambda x: jnp.sum(jnp.sin(jax.nn.softmax(x.reshape(6, 6)) + 1.0)[1:] ** 3)
    * jnp.cos(jnp.sum(x[:6]) / 9),
    "softmax of softmaxes": lambda x: jnp.sum(
        jnp.sin(3 * jax.nn.softmax(2 * jax.nn.softmax(x.reshape(6, 6)).reshape(-1)))
    ),
    "sums of groups": lambda x: -jnp.sum(jnp.exp(0.1 * (x * jnp.roll(x, 1)).reshape(3, 12).sum(1))),
}  # fmt: skip
ENERGIES = GRID | GRAPH | MIXED


def state(name, seed=0):
    shape = (SIDE, SIDE) if name in GRID else (D,)
    return jr.rademacher(jr.key(seed), shape, jnp.float32)


@pytest.mark.parametrize("name", ENERGIES)
def test_local_terms_are_found_and_followed(name):
    energy, x0 = ENERGIES[name], state(name)
    plan = FlipPlan(energy, x0, "incremental")
    assert plan.cut is not None, plan.reason
    assert plan.cut.local
    assert plan.cut.separable == (name not in MIXED)
    idx = jr.randint(jr.key(3), (150,), 0, D)
    run = lambda path: jax.jit(lambda x: engine.visit(energy, x, idx, path=path))(x0)
    (x, fast), (y, slow) = run("incremental"), run("generic")
    assert np.array_equal(x, y)
    assert np.array_equal(fast.accepted, slow.accepted)
    np.testing.assert_allclose(fast.energy, slow.energy, rtol=1e-5, atol=1e-4)
    got, true = (engine.flip_energies(energy, x, path=p) for p in ("incremental", "generic"))
    np.testing.assert_allclose(got, true, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("name", [n for n in ENERGIES if n not in MIXED])
def test_colours_at_once_are_the_same_as_one_by_one(name):
    energy, x0, beta = ENERGIES[name], state(name, 4), 0.7

    @jax.jit
    def both(x0):
        plan = FlipPlan(energy, x0, "incremental")
        assert plan.cut is not None
        flips = plan.cut.form(plan.cut.tables())
        assert isinstance(flips, Separable)
        groups = flips.colours()
        assert groups is not None
        bits, u = jnp.asarray(np.concatenate(groups)), jr.uniform(jr.key(5), (D,))
        rule = lambda e, new, u: u < jax.nn.sigmoid(beta * (e - new))
        in_turn = try_moves(flips, x0, bits, lambda *a: rule(*a[:3]), u, by_change=True)
        return flips.try_groups(x0, groups, rule, u), in_turn

    (x, (kept, energies), last), (y, (turned, along)) = both(x0)
    assert np.array_equal(x, y)
    assert np.array_equal(kept, turned)
    assert kept.any()
    np.testing.assert_allclose(energies, along, rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(last, energy(x), rtol=1e-5, atol=1e-4)


def test_whole_numbers_stay_exact_under_weights():
    # Three tenths less three tenths is not nothing in floats; a tie must stay one.
    energy = lambda x: 0.3 * ising(x)
    x0 = state("torus", 2)
    plan = FlipPlan(energy, x0)
    assert plan.cut is not None
    form = plan.cut.form(plan.cut.tables())
    e, carry = form.start(x0)
    assert float(carry.values[0]) == round(float(carry.values[0]))
    i = jnp.asarray(7)
    row = form.row(i)
    seen = jax.tree.map(lambda at: x0.reshape(-1)[at], form.reads(row))
    new, _ = form.flip(x0, carry, row, x0.reshape(-1)[i], seen)
    flipped = x0.reshape(-1).at[i].multiply(-1).reshape(x0.shape)
    assert new == energy(flipped)
    assert e == energy(x0)


def test_penalties_leave_no_noise_behind():
    energy = lambda x: penalties(x, 1e9, 8)
    x0 = state("graph", 11)
    idx = jr.randint(jr.key(0), (400,), 0, D)
    always = lambda e, new, extra, spins: jnp.asarray(True)
    loop = lambda flips: (try_moves(flips, x0, idx, always), jnp.asarray(True))
    _, (_, energies) = FlipPlan(energy, x0).run(loop, x0)
    states = np.asarray(am.descent.Trajectory(x0, idx, jnp.ones(400, bool), energies).frames)
    true = np.asarray(jax.vmap(energy)(jnp.asarray(states)))
    assert (true > 1e8).any()
    low = true < 1e8
    assert low.any()
    np.testing.assert_allclose(np.asarray(energies)[low], true[low], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(energies, true, rtol=1e-5, atol=1e-6)


def test_colours_of_lattices_and_dense_memories(capsys):
    class Lattice(am.AbstractBinaryAM):
        def energy(self, x):
            return ising(x)

    Lattice().explain(jnp.ones((8, 8)))
    text = capsys.readouterr().out
    assert "terms     128; a bit is in 4 at most" in text
    assert "colours   2" in text
    am.ExponentialDenseAM(Xi).explain()
    assert "colours" not in capsys.readouterr().out


def test_colour_separates_pairs():
    pairs = np.stack([E0, E1], 1)
    groups = colour(pairs, D)
    of = np.empty(D, int)
    for k, g in enumerate(groups):
        of[g] = k
    assert sorted(np.concatenate(groups)) == list(range(D))
    assert (of[E0] != of[E1]).all()


class Graph(am.AbstractBinaryAM):
    edges: jax.Array
    J: jax.Array

    def energy(self, x):
        return -jnp.sum(self.J * x[self.edges[:, 0]] * x[self.edges[:, 1]])


def test_edges_in_a_field_are_known(capsys):
    model = Graph(jnp.stack([jnp.asarray(E0), jnp.asarray(E1)], 1), J)
    x0 = state("graph")
    model.explain(x0)
    assert "path      local" in capsys.readouterr().out
    recall = model.recall(x0, method=am.Sweeps("colours"))
    assert recall.converged
    assert model.is_fixed_point(recall.x)
    other = Graph(model.edges[::-1], J)  # other edges are another model
    np.testing.assert_allclose(other.recall(x0).energy, other.energy(other.recall(x0).x), rtol=1e-5)
    grads = eqx.filter_grad(lambda m: m.recall(x0).energy)(model)
    x = model.recall(x0).x
    np.testing.assert_allclose(grads.J, -x[E0] * x[E1])


@pytest.mark.parametrize("order", ["colours", "permutation"])
def test_recall_under_transformations(order):
    class Lattice(am.AbstractBinaryAM):
        J: jax.Array

        def energy(self, x):
            return self.J * ising(x)

    model, xs = Lattice(jnp.asarray(1.0)), jnp.stack([state("torus", k) for k in range(4)])
    method = am.Sweeps(order)
    alone = [model.recall(x, method=method) for x in xs]
    many = jax.vmap(lambda x: model.recall(x, method=method))(xs)
    inside = jax.jit(jax.vmap(lambda x: model.recall(x, method=method)))(xs)
    for k, one in enumerate(alone):
        assert one.converged
        for batch in (many, inside):
            assert np.array_equal(batch.x[k], one.x)
            assert batch.energy[k] == one.energy
    energy = lambda j: jax.vmap(lambda x: Lattice(j).recall(x, method=method).energy)(xs).sum()
    got = jax.grad(jax.jit(energy))(jnp.asarray(1.0))
    np.testing.assert_allclose(got, sum(float(ising(a.x)) for a in alone))


def test_clamped_bits_stay_in_colours():
    class Lattice(am.AbstractBinaryAM):
        def energy(self, x):
            return ising(x)

    x0 = state("torus", 9)
    held = np.zeros((SIDE, SIDE), bool)
    held[:2] = True
    for method in (am.Sweeps("colours"), am.Glauber(0.3, "colours"), am.Metropolis(0.3, "colours")):
        out = Lattice().recall(x0, method=method, clamp=held, key=jr.key(1), max_steps=20)
        assert np.array_equal(out.x[:2], x0[:2])
        assert not np.array_equal(out.x, x0)


def test_a_users_rule_sees_the_energies():
    energy, x0 = ising, state("torus", 3)
    problem = FlipProblem(energy, free=free_bits(D))
    bound = -20.0

    def loop(flips):
        p = FlipProblem(energy, free=free_bits(D), flips=flips)
        zero = jnp.zeros((), jnp.int32)
        at = Sweep(x0, energy(x0), zero, jnp.asarray(False))
        rule = lambda before, after, _: after <= bound  # of energies, not of their difference
        out = p.sweep(at, am.descent.Colours(), jr.key(0), rule)
        return (out.x, out.visits), jnp.asarray(True)

    _, visits = problem.plan(x0).run(loop, x0)
    e = float(energy(x0))
    for kept, after in zip(visits.accepted, visits.energy, strict=True):
        if kept:
            assert after <= bound
        else:
            assert after == e
        e = float(after)


def enumerate_law(energy, n, beta):
    states = np.array(np.meshgrid(*[[-1.0, 1.0]] * n, indexing="ij")).reshape(n, -1).T
    e = np.asarray(jax.vmap(energy)(jnp.asarray(states, jnp.float32).reshape(-1, 4, 4)), np.float64)
    w = np.exp(-beta * (e - e.min()))
    return e, w / w.sum()


@pytest.mark.parametrize("make", [am.Glauber, am.Metropolis])
def test_drawing_by_colours_keeps_the_law_of_the_4x4_lattice(make):
    class Lattice(am.AbstractBinaryAM):
        def energy(self, x):
            return ising(x)

    beta, chains = 0.35, 400
    e, p = enumerate_law(ising, 16, beta)
    mean, spread = (p * e).sum(), np.sqrt((p * e**2).sum() - (p * e).sum() ** 2)
    x0 = jr.rademacher(jr.key(0), (chains, 4, 4), jnp.float32)
    run = lambda x, k: Lattice().recall(
        x, method=make(beta, "colours", record=0), key=k, max_steps=60
    )
    out = jax.vmap(run)(x0, jr.split(jr.key(1), chains))
    got = np.asarray(out.energy)
    assert abs(got.mean() - mean) < 4 * spread / np.sqrt(chains)
    assert abs(got.std() - spread) < 0.25 * spread


DENSE = {
    "dense": lambda x: -jnp.sum(jnp.tanh(Xi @ x)),
    "square of the sum": lambda x: -(jnp.sum(x) ** 2),
    "sort": lambda x: jnp.sort(x) @ x,
    "largest of all": lambda x: -jnp.max(x * jnp.roll(x, 1)),
}


@pytest.mark.parametrize("name", DENSE)
def test_what_is_no_sum_of_terms_has_no_colours(name):
    plan = FlipPlan(DENSE[name], jax.ShapeDtypeStruct((D,), jnp.float32))
    assert plan.cut is None or not plan.cut.separable
    method, x0 = am.Sweeps("colours"), state("graph")
    out = engine.descend(DENSE[name], x0, method)
    same = engine.descend(DENSE[name], x0, am.Sweeps("sequential"))
    assert np.array_equal(out.x, same.x)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_weights_that_make_sums_overflow(scale):
    energy = lambda x: scale * -jnp.sum(jnp.where(x == jnp.roll(x, 1), 1e9, 1.0))
    x0 = jr.rademacher(jr.key(2), (D,), jnp.float32)
    idx = jr.randint(jr.key(3), (150,), 0, D)
    kept = {p: engine.visit(energy, x0, idx, path=p)[1].accepted for p in ("auto", "generic")}
    assert np.array_equal(kept["auto"], kept["generic"])
    assert kept["auto"].any() == (scale < 1)
    for order in ("colours", "sequential"):
        end = engine.sweep(energy, x0, jr.key(0), order=order)
        assert end.result == (am.RESULTS.nonfinite if scale > 1 else am.RESULTS.converged)


def test_known_weights_need_no_second_program():
    energy, found = lambda x: 0.3 * ising(x), []

    @jax.jit
    def look(x):
        cut = FlipPlan(energy, x).cut
        assert cut is not None
        found.append(cut.finite(cut.tables()))
        return x

    look(state("torus"))
    assert found == [True]
