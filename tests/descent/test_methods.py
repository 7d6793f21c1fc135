"""Methods as objects: what they draw, what they keep, and methods of a user's own."""

import functools
import itertools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.descent import Exchange, FlipProblem, descend
from amlib.descent.methods import solve
from tests import users
from tests.zoo import reals, spins

D = 10
Xi = jnp.asarray(spins(0, 4, D), jnp.float32)
J = reals(1, D, D)
S0 = jnp.asarray(spins(2, D), jnp.float32)
X0 = jnp.asarray(reals(3, D), jnp.float32)

# -- Langevin: which density it draws from ---------------------------------------------------------


def samples(energy, beta, dt, steps, n=40_000):
    """Units that do not see one another are as many chains, started at -1 and at 1."""
    start = jnp.where(jnp.arange(n) % 2 == 0, 1.0, -1.0)
    total = lambda x: jnp.sum(energy(x))

    @jax.jit
    def draw(beta, dt):
        return descend(total, start, am.Langevin(beta, dt), key=jr.key(0), max_steps=steps)

    end = draw(beta, dt)
    assert end.result == am.RESULTS.sampled
    assert end.steps == steps
    return np.asarray(end.x, np.float64)


def test_langevin_draws_a_gaussian_with_the_known_error_of_its_step():
    """Of E = x^2 / 2 the chain is linear: its variance is 1 / (beta (1 - dt / 2)), exactly."""
    for beta, dt in ((2.0, 0.5), (0.5, 0.1)):
        x = samples(lambda x: 0.5 * x**2, beta, dt, 80)
        variance = 1 / (beta * (1 - dt / 2))
        assert abs(x.mean()) < 5 * np.sqrt(variance / x.size)
        assert abs(x.var() / variance - 1) < 5 * np.sqrt(2 / x.size)
        assert abs(x.var() * beta - 1) > 5 * np.sqrt(2 / x.size)  # the error of the step is seen


def double_well(x):
    return (x**2 - 1) ** 2


def moments_of_the_chain(beta, dt):
    """The mean of x^2 and x^4 of its stationary law, by its transitions on a grid."""
    x = np.linspace(-3.2, 3.2, 801)
    mean = x - dt * 4 * x * (x**2 - 1)
    step = np.exp(-beta * (x[None] - mean[:, None]) ** 2 / (4 * dt))
    step /= step.sum(1, keepdims=True)
    law = np.ones(x.size) / x.size
    for _ in range(12):  # 2^12 transitions
        step = step @ step
    law = law @ step
    return np.array([law @ x**2, law @ x**4])


def test_langevin_draws_a_double_well_and_its_error_falls_with_the_step():
    beta, x = 1.5, np.linspace(-3.2, 3.2, 801)
    weights = np.exp(-beta * double_well(x))
    exact = np.array([weights @ x**2, weights @ x**4]) / weights.sum()
    errors = [np.abs(moments_of_the_chain(beta, dt) - exact) for dt in (0.04, 0.02)]
    assert 1.8 < errors[0][0] / errors[1][0] < 2.4  # of first order, in the mean of x^2
    assert errors[0][0] > 0.02
    drawn = samples(double_well, beta, 0.04, 250)
    powers = np.stack([drawn**2, drawn**4])
    tolerance = 5 * powers.std(1) / np.sqrt(drawn.size)
    assert (np.abs(powers.mean(1) - moments_of_the_chain(beta, 0.04)) < tolerance).all()
    assert (np.abs(powers.mean(1) - exact) < tolerance + errors[0]).all()
    assert abs(drawn.mean()) < 5 * drawn.std() / np.sqrt(drawn.size)


def test_langevin_stays_in_its_space_and_holds_what_is_clamped():
    memory, held = am.ModernHopfield(Xi, 0.5), np.arange(D) < 3
    end = memory.recall(
        X0, method=am.Langevin(0.3, 0.1), key=jr.key(1), max_steps=30, save_every=1, clamp=held,
        project=am.Box(-0.5, 2.0),
    )  # fmt: skip
    states = np.asarray(end.trajectory.frames)
    assert_array_equal(states[:, held], np.broadcast_to(X0[held], (31, 3)))
    assert states[:, ~held].min() == -0.5  # the wall was met
    assert states[:, ~held].max() <= 2.0
    same = memory.recall(X0, method=am.Langevin(0.3, 0.1), key=jr.key(1), max_steps=30)
    again = memory.recall(X0, method=am.Langevin(0.3, 0.1), key=jr.key(2), max_steps=30)
    assert jnp.abs(same.x - again.x).max() > 0.1


DRAWN = {
    "glauber": am.Glauber,
    "metropolis": am.Metropolis,
    "informed": am.GibbsWithGradients,
    "dmala": am.DMALA,
    "langevin": lambda b: am.Langevin(b, 0.02),
    "mala": lambda b: am.MALA(b, 0.02),
}


@pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
def test_another_schedule_compiles_nothing_anew(make):
    traced = []

    def energy(self, x):
        traced.append(x)
        return -0.02 * jnp.sum((self.Xi @ x) ** 2) + jnp.sum(x**2)

    flipping = make(1.0).space is am.spaces.AbstractTwoValued
    Counting = type("Counting", (am.BinaryAM if flipping else am.ContinuousAM,), {"energy": energy})
    memory, x0 = Counting(Xi), S0
    first = memory.recall(x0, method=make(np.linspace(0.1, 1, 7)), key=jr.key(0))
    assert first.steps == 7
    before = len(traced)
    other = memory.recall(x0, method=make(np.linspace(0.2, 9, 7)), key=jr.key(0))
    assert len(traced) == before
    assert (first.x != other.x).any()
    constant = memory.recall(x0, method=make(0.4), key=jr.key(0), max_steps=7)
    spread = memory.recall(x0, method=make(np.full(7, 0.4)), key=jr.key(0))
    assert_allclose(constant.x, spread.x, rtol=1e-6)
    with pytest.raises(ValueError, match=r"schedule of max_steps=9 values, .*\(7,\) came"):
        memory.recall(x0, method=make(np.full(7, 0.4)), key=jr.key(0), max_steps=9)


# -- Euler -----------------------------------------------------------------------------------------


def test_euler_is_the_loop_by_hand_and_so_is_its_derivative(x64):
    patterns, x0 = jnp.asarray(reals(4, 5, D)), jnp.asarray(reals(5, D))
    memory = am.ModernHopfield(patterns, 0.8)

    def by_hand(memory, x, steps):
        states = [x]
        for _ in range(steps):
            states.append(states[-1] + 0.3 * memory.update(states[-1]))
        return jnp.stack(states)

    recall = lambda memory, x: memory.recall(x, method=am.Euler(0.3), max_steps=12, save_every=3)
    end, states = recall(memory, x0), by_hand(memory, x0, 12)
    assert end.steps == 12
    assert_allclose(end.x, states[-1], rtol=1e-12)
    assert_allclose(end.trajectory.frames, states[::3], rtol=1e-12)
    assert_allclose(end.trajectory.energy, jax.vmap(memory.energy)(states[::3]), rtol=1e-12)
    assert_allclose(end.trajectory.time, 0.3 * np.arange(0, 13, 3))
    loss = lambda run: lambda memory, x: jnp.sum(jnp.sin(run(memory, x)))
    ours = eqx.filter_grad(loss(lambda m, x: recall(m, x).x))(memory, x0)
    theirs = eqx.filter_grad(loss(lambda m, x: by_hand(m, x, 12)[-1]))(memory, x0)
    assert_allclose(ours.Xi, theirs.Xi, rtol=1e-10)


# -- moves of several bits -------------------------------------------------------------------------

ENERGIES = {
    "ising": lambda x: -0.5 * jnp.dot(x, jnp.asarray(J + J.T, x.dtype) @ x),
    "log-sum-exp": lambda x: -jax.nn.logsumexp(0.9 * (Xi @ x)),
    "polynomial": lambda x: -jnp.sum(jax.nn.relu(Xi @ x) ** 3) / 50,
}


class Several(am.AbstractOrder):
    """Moves of `m` bits, drawn with replacement: many name a bit twice or three times."""

    m: int = eqx.field(static=True)

    def moves(self, key, bits):
        return bits[jr.randint(key, (20, self.m), 0, bits.shape[0])]


@pytest.mark.parametrize("path", ["incremental", "generic"])
@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("m", [2, 3])
def test_energies_of_moves_are_those_of_the_frames(m, name, path):
    problem = FlipProblem(ENERGIES[name], path=path)
    draw = jax.jit(lambda k: solve(problem, S0, am.Glauber(0.2, Several(m)), k, 6))
    end = draw(jr.key(m))
    record = end.trajectory
    moves, kept = np.asarray(record.visited), np.asarray(record.accepted)
    frames = np.asarray(record.frames)
    assert moves.shape == (120, m)
    assert 0.1 < kept.mean() < 0.95
    assert frames.shape == (120, D)
    x = np.asarray(S0).copy()
    for move, made, frame in zip(moves, kept, frames, strict=True):
        for bit in move:
            x[bit] *= -1 if made else 1
        assert_array_equal(frame, x)
    assert_array_equal(end.x, x)
    exact = jax.vmap(ENERGIES[name])(jnp.asarray(frames))
    assert_allclose(record.energy, exact, rtol=2e-5, atol=2e-5)
    twice = [len(set(move)) < m for move in moves.tolist()]
    assert kept[twice].any()  # a bit that is named twice was among them
    assert_array_equal(record.frames[57], frames[57])


def test_moves_of_several_bits_keep_what_is_clamped():
    memory, held = am.BipolarIsing(jnp.asarray(J + J.T, jnp.float32)), np.arange(D) % 4 == 1
    method = am.Glauber(0.1, Several(3))
    one = memory.recall(S0, method=method, key=jr.key(0), max_steps=9, clamp=held)
    assert_array_equal(one.x[held], S0[held])
    assert not np.isin(np.asarray(one.trajectory.visited), np.flatnonzero(held)).any()
    assert (one.x != S0).any()
    run = jax.jit(lambda m: memory.recall(S0, method=method, key=jr.key(0), max_steps=9, clamp=m))
    traced = run(jnp.asarray(held))
    assert_array_equal(traced.x[held], S0[held])
    assert (traced.x != S0).any()


@functools.cache
def exchanged():
    """Of six spins, three up, where they are after many draws; the model; all such states."""
    n, beta = 6, 0.7
    A = 0.3 * reals(6, n, n)  # so weak that all is forgotten after 100 sweeps
    memory = am.BipolarIsing(
        jnp.asarray(A + A.T, jnp.float32), jnp.asarray(reals(7, n), jnp.float32)
    )
    start = jnp.asarray([1.0, -1, 1, -1, 1, -1])
    method = am.Glauber(beta, Exchange(), record=0)
    draw = lambda k: memory.recall(start, method=method, key=k, max_steps=100)
    ends = jax.jit(jax.vmap(lambda k: draw(k).x))(jr.split(jr.key(8), 6000))
    states = np.array([s for s in itertools.product([-1, 1], repeat=n) if sum(s) == 0], float)
    return memory, beta, np.asarray(ends), states


def test_exchanges_keep_the_sum_and_the_law_restricted_to_it():
    memory, beta, ends, states = exchanged()
    assert (ends.sum(1) == 0).all()
    energies = np.array([float(memory.energy(jnp.asarray(s, jnp.float32))) for s in states])
    law = np.exp(-beta * (energies - energies.min()))
    law /= law.sum()
    counts = (ends[:, None] == states[None]).all(-1).sum(0)
    assert counts.sum() == len(ends)
    chi2 = ((counts - len(ends) * law) ** 2 / (len(ends) * law)).sum()
    degrees = len(states) - 1
    assert degrees == 19
    assert chi2 < degrees + 4 * np.sqrt(2 * degrees)  # 19 on average
    flat = ((counts - len(ends) / 20) ** 2 / (len(ends) / 20)).sum()
    assert flat > 10 * chi2  # the law is not that of beta = 0


def test_a_descent_by_exchanges_never_rises_and_keeps_the_sum():
    memory = am.BipolarIsing(jnp.asarray(J + J.T, jnp.float32))
    end = memory.recall(S0, method=am.Sweeps(Exchange(), record=None), key=jr.key(0))
    assert end.result == am.RESULTS.step_limit  # pairs are drawn: quiet sweeps prove nothing
    assert (np.diff(end.trajectory.energy) <= 1e-5).all()
    assert (np.asarray(end.trajectory.frames).sum(1) == float(S0.sum())).all()
    assert end.energy < memory.energy(S0)


# -- what is kept on the way -----------------------------------------------------------------------

FLIPS = {
    "permutation": lambda **r: am.Sweeps(**r),
    "random": lambda **r: am.Sweeps("random", **r),
    "greedy": lambda **r: am.Greedy(**r),
    "synchronous": lambda **r: am.Synchronous(**r),
    "glauber": lambda **r: am.Glauber(0.3, **r),
    "metropolis": lambda **r: am.Metropolis(0.3, **r),
    "informed": lambda **r: am.GibbsWithGradients(0.3, **r),
    "dmala": lambda **r: am.DMALA(0.3, **r),
    "user": lambda **r: Reluctant(**r),
}


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("name", FLIPS)
def test_states_kept_are_those_at_the_ends_of_sweeps(name, every):
    n = 60
    glass = am.BipolarIsing(jnp.asarray(reals(8, n, n) + reals(8, n, n).T, jnp.float32))
    x0 = jnp.asarray(spins(9, n), jnp.float32)
    run = lambda method, **options: glass.recall(
        x0, method=method, key=jr.key(0), max_steps=8, **options
    )
    visits, kept = run(FLIPS[name](record=None)), run(FLIPS[name](), save_every=every)
    assert_array_equal(kept.x, visits.x)
    assert kept.steps == visits.steps
    assert kept.result == visits.result
    frames, energies = np.asarray(visits.trajectory.frames), np.asarray(visits.trajectory.energy)
    wanted = [0, *range(every, 8, every), 8]
    states = [x0 if t == 0 else frames[t * n - 1] for t in wanted]
    assert_array_equal(kept.trajectory.frames, states)
    assert_allclose(kept.trajectory.energy[0], glass.energy(x0), rtol=1e-6)
    assert_allclose(kept.trajectory.energy[1:], energies[np.array(wanted[1:]) * n - 1], rtol=1e-5)
    taken = float(kept.trajectory.time[-1])
    assert_allclose(kept.trajectory.time, np.minimum(wanted, taken))
    if name == "greedy":  # flips, of which n make a sweep
        assert round(taken * n) == int(np.sum(visits.trajectory.accepted))
        assert int(kept.steps) == np.ceil(taken)
    else:
        assert taken == int(kept.steps)


def test_a_long_record_of_flips_keeps_ever_fewer_states():
    n = 2**16
    x0 = jnp.ones(n)
    field = am.descent.FlipProblem(lambda x: jnp.sum(x * 0.5), bounded=())
    end = jax.jit(lambda k: solve(field, x0, am.Glauber(1.0, Every(97)), k, 500, save_every=1))(
        jr.key(0)
    )
    times = np.asarray(end.trajectory.time)
    assert len(times) == 33  # 32 states of 256 kB are more than 1 MiB
    assert times[-1] == 500
    assert (np.diff(times) > 0).all()
    assert_array_equal(end.trajectory.frames[-1], end.x)


class Every(am.AbstractOrder):
    """Every so many bits, in their order."""

    stride: int = eqx.field(static=True)

    def moves(self, key, bits):
        return bits[:: self.stride * 50]


# -- solvers of Optimistix -------------------------------------------------------------------------

TOL = 1e-9
SOLVERS = {
    "iteration": optx.FixedPointIteration(TOL, TOL),
    "damped": optx.FixedPointIteration(TOL, TOL, damp=0.2),
    "newton": optx.Newton(TOL, TOL),
    "chord": optx.Chord(TOL, TOL),
    "best iteration": optx.BestSoFarFixedPoint(optx.FixedPointIteration(TOL, TOL)),
    "best newton": optx.BestSoFarRootFinder(optx.Newton(TOL, TOL)),
}


def lse(patterns, x):
    return 0.5 * jnp.sum(x * x) - jax.nn.logsumexp(0.6 * (patterns @ x)) / 0.6


@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_of_optimistix_find_the_state_its_batches_and_its_derivative(name, x64):
    patterns = jnp.asarray(reals(10, 4, 6))
    memory = am.ModernHopfield(patterns, 0.6)
    rest = memory.recall(patterns[0], tol=1e-10).x
    starts = rest[None] + 0.1 * jnp.asarray(
        reals(12, 3, 6)
    )  # near: chords go on for ever elsewhere
    method = am.FixedPoint(SOLVERS[name])
    run = jax.jit(
        lambda p, x: eqx.tree_at(lambda m: m.Xi, memory, p).recall(
            x, method=method, max_steps=200, save_every=1
        )
    )
    batch = jax.vmap(run, (None, 0))(patterns, starts)
    assert batch.converged.all()
    for k, x0 in enumerate(starts):
        one = run(patterns, x0)
        assert_allclose(one.x, rest, atol=1e-7)
        assert_allclose(batch.x[k], one.x, atol=1e-8)
        assert int(batch.steps[k]) == int(one.steps)
        assert_array_equal(one.trajectory.frames[0], x0)
        assert_allclose(one.trajectory.frames[-1], one.x, atol=1e-8)
    end = lambda p: jnp.sum(jnp.sin(jax.vmap(run, (None, 0))(p, starts).x))
    slope = jax.grad(end)(patterns)
    move, h = jnp.asarray(reals(11, 4, 6)), 1e-5
    numeric = (end(patterns + h * move) - end(patterns - h * move)) / (2 * h)
    assert_allclose(jnp.sum(slope * move), numeric, rtol=1e-5)
    assert abs(numeric) > 1e-3


# -- methods of a user's own -----------------------------------------------------------------------


class HeavyBall(am.AbstractRealMethod):
    """Gradient descent with momentum."""

    step_size: float = 0.1
    momentum: float = 0.8

    def init(self, problem, at):
        return jnp.zeros_like(at.x)

    def step(self, problem, at, state, key):
        velocity = self.momentum * state - self.step_size * at.grad
        return problem.at(problem.put(at.x + velocity)), velocity


class Reluctant(am.AbstractFlipMethod):
    """Flips only where that lowers the energy by a margin, which shrinks from sweep to sweep."""

    def init(self, problem, at):
        return jnp.asarray(8.0, at.energy.dtype)

    def step(self, problem, at, state, key):
        moves = problem.bits[jr.permutation(key, problem.bits.shape[0])]
        falls = lambda before, after, _: after < before - state
        return problem.try_moves(at, moves, falls), state / 2

    def terminate(self, problem, at, state):
        done = problem.fixed(at)
        return am.RESULTS.where(state < 1e-3, done, am.RESULTS.step_limit)


def test_a_method_of_a_users_for_reals_is_one_of_the_librarys():
    memory, method = am.ModernHopfield(Xi, 1.0), HeavyBall()
    starts = jnp.asarray(reals(12, 4, D), jnp.float32)
    run = lambda x: memory.recall(x, method=method, max_steps=300, save_every=5)
    batch, compiled = jax.vmap(run)(starts), jax.jit(run)
    for k, x0 in enumerate(starts):
        one, by_hand, v = run(x0), x0, jnp.zeros(D)
        assert_allclose(compiled(x0).x, one.x, rtol=1e-6)
        assert_allclose(batch[k].x, one.x, atol=1e-5)
        for _ in range(5):
            v = 0.8 * v + 0.1 * memory.update(by_hand)
            by_hand = by_hand + v
        assert_allclose(one.trajectory.frames[1], by_hand, rtol=1e-4, atol=1e-5)
        assert one.converged
        assert jnp.abs(memory.update(one.x)).max() < 1e-3
    assert len(set(batch.steps.tolist())) > 1
    held = np.arange(D) < 4
    clamped = memory.recall(X0, method=method, max_steps=500, clamp=held)
    assert_array_equal(clamped.x[held], X0[held])
    assert clamped.converged
    boxed = memory.recall(X0, method=method, max_steps=500, project=am.Box(-0.2, 0.2))
    assert jnp.abs(boxed.x).max() <= 0.2


def test_the_derivative_goes_through_a_method_of_a_users(x64):
    patterns, x0 = jnp.asarray(reals(4, 5, D)), jnp.asarray(reals(5, D))
    method = HeavyBall(0.1, 0.5)

    def end(patterns, x0):
        memory = am.ModernHopfield(patterns, 0.8)
        return jnp.sum(jnp.sin(memory.recall(x0, method=method, max_steps=20).x))

    slopes, h = jax.grad(end, (0, 1))(patterns, x0), 1e-6
    for k, shape in enumerate((patterns.shape, x0.shape)):
        move = jnp.asarray(reals(13, *shape))
        ends = [
            end(*(a + s * h * move if j == k else a for j, a in enumerate((patterns, x0))))
            for s in (1, -1)
        ]
        assert_allclose(jnp.sum(slopes[k] * move), (ends[0] - ends[1]) / (2 * h), rtol=1e-6)


def test_a_method_of_a_users_for_flips_is_one_of_the_librarys():
    memory = am.BipolarIsing(jnp.asarray(J + J.T, jnp.float32))
    starts, keys = jnp.asarray(spins(14, 5, D), jnp.float32), jr.split(jr.key(3), 5)
    run = lambda x, k: memory.recall(x, method=Reluctant(record=20), key=k)
    batch, compiled = jax.vmap(run)(starts, keys), jax.jit(run)
    for k, (x0, key) in enumerate(zip(starts, keys, strict=True)):
        one = run(x0, key)
        assert_array_equal(one.x, compiled(x0, key).x)
        assert_array_equal(one.x, batch[k].x)
        assert_array_equal(one.steps, batch[k].steps)
        frames = np.asarray(one.trajectory.frames)
        assert_array_equal(np.asarray(batch[k].trajectory.frames), frames)
        energies = jax.vmap(memory.energy)(jnp.asarray(frames))
        assert_allclose(one.trajectory.energy, energies, rtol=1e-5, atol=1e-5)
        assert one.converged
        assert memory.is_fixed_point(one.x)
        first = np.diff(np.r_[float(memory.energy(x0)), one.trajectory.energy[:D]])
        assert (first[np.asarray(one.trajectory.accepted[:D])] < -8 + 1e-4).all()
    held = np.arange(D) < 4
    clamped = memory.recall(starts[0], method=Reluctant(), key=keys[0], clamp=held)
    assert_array_equal(clamped.x[held], starts[0][held])
    assert memory.is_fixed_point(clamped.x, clamp=held)


# -- what a user may get wrong ---------------------------------------------------------------------


class Given(users.am.AbstractOrder):
    """An order that returns what its function makes of the bits."""

    function: Callable[[jax.Array], jax.Array] = eqx.field(static=True)

    def moves(self, key, bits):
        return self.function(bits)


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda b: b.astype(jnp.float32), TypeError, "be integers, .*; float32 came"),
        (lambda b: b[:0], ValueError, r"T and m at least 1; \(0,\) came"),
        (lambda b: b.reshape(-1, 1, 2), ValueError, r"or \(T, m\), .*; \(5, 1, 2\) came"),
    ],
)
def test_moves_that_are_none(function, error, message):
    with pytest.raises(error, match=f"^order: moves must .*{message}"):
        users.am.BipolarIsing(jnp.eye(D)).recall(S0, method=users.am.Sweeps(Given(function)))


def test_a_step_that_does_not_say_what_it_tried():
    class Silent(users.am.AbstractFlipMethod):
        def step(self, problem, at, state, key):
            return at._replace(x=-at.x), state

    with pytest.raises(TypeError, match=r"Silent.step: must say what it tried; .*problem.try_move"):
        users.am.BipolarIsing(jnp.eye(D)).recall(S0, method=Silent())


def test_an_order_that_tries_every_move_proves_rest():
    """All pairs in turn: a sweep that makes none ends it, and then no pair lowers the energy."""
    pairs = np.stack(np.triu_indices(D, 1), axis=1)

    class EveryPair(am.AbstractOrder):
        complete = True

        def moves(self, key, bits):
            return jnp.asarray(pairs)

    memory = am.BipolarIsing(jnp.asarray(J + J.T, jnp.float32))
    end = memory.recall(S0, method=am.Sweeps(EveryPair()))
    assert end.converged
    flipped = jnp.asarray(end.x)[None].repeat(len(pairs), 0)
    flipped = flipped * (1 - 2 * jax.nn.one_hot(pairs, D).sum(1))
    assert (jax.vmap(memory.energy)(flipped) >= end.energy - 1e-5).all()


def test_held_bits_are_held_under_an_order_that_ignores_them():
    class Everything(am.AbstractOrder):
        def moves(self, key, bits):
            return jr.permutation(key, D)

    memory = am.BipolarIsing(jnp.asarray(J + J.T, jnp.float32))
    held = jnp.arange(D) % 2 == 0
    for method in (am.Sweeps(Everything()), am.Glauber(0.0, Everything())):
        run = lambda mask, m=method: memory.recall(S0, method=m, key=jr.key(0), clamp=mask)
        for end in (run(held), jax.jit(run)(held)):
            np.testing.assert_array_equal(end.x[held], S0[held])
            assert (end.x != S0).any()
