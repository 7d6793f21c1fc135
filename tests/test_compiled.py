"""What compiles anew, and what does not: numbers are arguments, shapes and kinds are programs."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array

import amlib as am
from amlib import _numbers
from amlib._numbers import Numbers, known_numbers
from amlib.analysis import _runs

K, D = 5, 24
XI = jnp.asarray(np.where(np.random.default_rng(0).random((K, D)) < 0.5, -1.0, 1.0), jnp.float32)
X = XI[0].at[:5].multiply(-1)

_counts = [0]


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    del duration_secs
    _counts[0] += event.endswith("backend_compile_duration")


jax.monitoring.register_event_duration_secs_listener(_count)


def compiled_by(fn: Callable[[], object]) -> int:
    """How many programs a call has XLA compile."""
    before = _counts[0]
    jax.block_until_ready(eqx.filter(fn(), eqx.is_array))
    return _counts[0] - before


class Exponential(am.BinaryAM):
    """A memory whose `beta` is a Python float, as users write it."""

    beta: float = 1.0

    def energy(self, x):
        return -jax.nn.logsumexp(self.beta * (self.Xi @ x)) / self.beta


class Modern(am.ContinuousAM):
    """The same for real states."""

    beta: float = 1.0

    def energy(self, x):
        return 0.5 * jnp.sum(x * x) - jax.nn.logsumexp(self.beta * (self.Xi @ x)) / self.beta


class Branching(am.ContinuousAM):
    """A memory that asks for the value of its `beta` while it is traced."""

    beta: float = 1.0

    def energy(self, x):
        size = math.sqrt(self.beta) if self.beta > 1 else self.beta
        return 0.5 * jnp.sum(x * x) - jax.nn.logsumexp(size * (self.Xi @ x)) / size


class HeavyBall(am.AbstractRealMethod):
    """A method of a user's, with Python floats."""

    step_size: float = 0.1
    mass: float = 0.5

    def init(self, problem, at):
        return jnp.zeros_like(at.x)

    def step(self, problem, at, state, key):
        state = self.mass * state - self.step_size * at.grad
        return problem.at(problem.put(at.x + state)), state


CALLS: dict[str, Callable[[float], object]] = {
    "recall of spins": lambda v: Exponential(XI, v).recall(X),
    "async_recall": lambda v: Exponential(XI, v).async_recall(X, 30, jr.key(0)),
    "async_update": lambda v: Exponential(XI, v).async_update(X, 3),
    "flip_energies": lambda v: Exponential(XI, v).flip_energies(X),
    "is_fixed_point": lambda v: Exponential(XI, v).is_fixed_point(X),
    "glauber": lambda v: SPINS.recall(X, method=am.Glauber(v), key=jr.key(0), max_steps=3),
    "metropolis": lambda v: SPINS.recall(X, method=am.Metropolis(v), key=jr.key(0), max_steps=3),
    "informed": lambda v: SPINS.recall(
        X, method=am.GibbsWithGradients(v), key=jr.key(0), max_steps=2
    ),
    "dmala": lambda v: SPINS.recall(X, method=am.DMALA(v, 0.4 * v), key=jr.key(0), max_steps=3),
    "mala": lambda v: Modern(XI).recall(X, method=am.MALA(v, 0.1 * v), key=jr.key(0), max_steps=3),
    "recall of reals": lambda v: Modern(XI, v).recall(X, method=am.CCCP()),
    "update": lambda v: Modern(XI, v).update(X),
    "gradient": lambda v: Modern(XI).recall(X, method=am.GradientDescent(v)),
    "fixed point": lambda v: Modern(XI, v).recall(X, method=am.FixedPoint()),
    "flow": lambda v: Modern(XI, v).recall(X, method=am.Flow()),
    "method of a user": lambda v: Modern(XI).recall(X, method=HeavyBall(v, 0.5 * v)),
    "tol": lambda v: Modern(XI).recall(X, method=am.CCCP(), tol=0.01 * v),
    "sweeps": lambda v: SPINS.recall(X, method=am.Sweeps(record=2), max_steps=int(40 * v)),
    "greedy": lambda v: SPINS.recall(X, method=am.Greedy(record=0), max_steps=int(40 * v)),
    "steps": lambda v: Modern(XI).recall(X, method=am.CCCP(), max_steps=int(40 * v)),
    "steps of relaxation": lambda v: RELAXED.recall(X, max_steps=int(40 * v)),
    "curve": lambda v: am.analysis.retrieval_curve(
        lambda Xi: Exponential(Xi, v), XI, am.data.corrupt.flip, [0.1 * v], jr.key(0),
        queries=4, progress=False,
    ),
}  # fmt: skip
SPINS = Exponential(XI)
RELAXED = am.learning.DenseReconstructor(D, key=jr.key(0))


@pytest.mark.parametrize("name", CALLS)
def test_another_number_compiles_nothing(name):
    CALLS[name](0.5)
    assert compiled_by(lambda: CALLS[name](0.75)) == 0


@pytest.mark.parametrize("steps", [1, 2, 7, 40])
@pytest.mark.parametrize("kind", ["spins", "reals"])
def test_the_step_limit_is_kept_all_the_same(kind, steps):
    """Programs are made for more steps than are asked for."""
    if kind == "spins":
        method = am.Glauber(0.3, record=2)
        end = Exponential(XI).recall(X, method=method, key=jr.key(1), max_steps=steps)
        assert end.trajectory.accepted.shape == (min(2, steps) * D,)
    else:
        end = Modern(XI).recall(X, method=am.GradientDescent(1e-6), tol=0.0, max_steps=steps)
    assert end.steps == steps
    assert not end.converged


def test_a_float_that_decides_in_python_is_a_part_of_the_program():
    for beta in (0.5, 4.0):
        size = math.sqrt(beta) if beta > 1 else beta
        for _ in range(2):
            end = Branching(XI, beta).recall(X, method=am.CCCP())
            assert (end.x == Modern(XI, size).recall(X, method=am.CCCP()).x).all()
    again = lambda: Branching(XI, 4.0).recall(X, method=am.CCCP())
    assert compiled_by(again) == 0


def test_the_exponent_of_a_power_is_a_part_of_the_program():
    """As an argument it would cost a logarithm and an exponential for each factor."""

    class Power(am.BinaryAM):
        n: float = 3.0

        def energy(self, x):
            return -jnp.sum(jax.nn.relu(self.Xi @ x) ** (self.n / 2 + 1))

    for n in (2.0, 4.0, 2.0):
        end = Power(XI, n).recall(X)
        assert end.energy == -jnp.sum(jax.nn.relu(XI @ end.x) ** (n / 2 + 1))
    assert compiled_by(lambda: Power(XI, 4.0).recall(X)) == 0
    assert compiled_by(lambda: Power(XI, 5.0).recall(X)) > 0


def test_what_is_wrong_with_an_energy_is_said_as_ever():
    class Wrong(am.BinaryAM):
        beta: float = 1.0

        def energy(self, x):
            return self.beta * x

    with pytest.raises(ValueError, match=r"^energy: must return one real floating-point scalar; "):
        Wrong(XI).recall(X)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_float_has_no_dtype_of_its_own(dtype, x64):
    """In any precision the energies are those of a program in which the number is written."""
    Xi, x = XI.astype(dtype), X.astype(dtype)
    energies = Exponential(Xi, 0.5).flip_energies(x)
    written = jax.jit(lambda s: Exponential(Xi, 0.5).energy(s))
    for i in range(D):
        e = written(x.at[i].multiply(-1))
        assert e.dtype == energies.dtype == dtype
        assert abs(float(e - energies[i])) <= 4 * float(jnp.finfo(dtype).eps) * abs(float(e))
    end = Exponential(Xi, 0.5).recall(x)
    assert end.energy.dtype == end.x.dtype == dtype


def test_a_batch_knows_the_values_of_its_units():
    """The two values of a space stay numbers where results are stacked."""

    class Occupied(am.spaces.AbstractTwoValued):
        low: float = 0.0  # pyright: ignore[reportIncompatibleMethodOverride]
        high: float = 2.0  # pyright: ignore[reportIncompatibleMethodOverride]

    class Gas(am.AbstractBinaryAM):
        beta: float = 1.0
        space = Occupied()

        def energy(self, x):
            return -self.beta * jnp.sum(x[1:] * x[:-1])

    end = jax.vmap(Gas(0.5).recall)(jnp.stack([XI[0] + 1, XI[1] + 1]))
    assert end.trajectory.space.high == 2.0
    assert isinstance(end.trajectory.space.high, float)


def forms(fn: Callable[..., object], *args: Array) -> int:
    """How many decisions a program makes about forms of evaluation: each has two programs."""
    text = str(jax.make_jaxpr(fn)(*args))
    return text.count(" cond[") - text.count(" platform_index[")  # nor which kernel a platform has


LARGE = jnp.asarray(np.random.default_rng(1).normal(size=(300, D)), jnp.float32)


@pytest.mark.parametrize("kind", ["spins", "reals"])
def test_no_form_is_compiled_that_is_known_not_to_be_needed(kind):
    """Patterns of spins are kept as int8, others as they are; neither is for the program to ask."""
    Xi = jnp.sign(LARGE) if kind == "spins" else LARGE
    memory = am.ClassicalHopfield(Xi)
    assert forms(lambda: memory.recall(X)) == 0
    assert forms(lambda: memory.async_recall(X, 10)) == 0
    assert forms(lambda Xi: am.ClassicalHopfield(Xi).recall(X), Xi) > 0  # nothing is known
    end = memory.recall(X)
    same = jax.jit(lambda Xi, x: am.ClassicalHopfield(Xi).recall(x))(Xi, X)
    assert (end.x == same.x).all()
    assert (end.trajectory.energy == same.trajectory.energy).all()


def test_a_curve_knows_the_numbers_of_its_memories():
    memory = am.ClassicalHopfield(jnp.sign(LARGE))
    keys = jr.split(jr.key(0), 2)
    measure = lambda known: forms(
        lambda x: _runs.recalled("test", _runs.default_recall, memory, known, x, keys),
        memory.Xi[:2],
    )
    assert measure(known_numbers(memory)) < measure(())


def test_numbers_are_looked_at_once_and_forgotten_with_their_array():
    Xi = jnp.sign(LARGE)
    assert known_numbers(Xi) == (Numbers(whole=True),)
    assert known_numbers(LARGE) == (Numbers(whole=False),)
    assert known_numbers(128 * Xi) == (Numbers(whole=False),)
    assert known_numbers((Xi, 1e16 * Xi)) == known_numbers((Xi, jnp.inf)) == ()
    before = len(_numbers._within.seen)
    del Xi
    assert len(_numbers._within.seen) < before


def test_numbers_that_another_device_holds_are_known_within_a_trace():
    mesh = jax.make_mesh((2,), ("p",), axis_types=(jax.sharding.AxisType.Auto,))
    divided = jax.device_put(jnp.sign(LARGE), jax.NamedSharding(mesh, jax.P(None, "p")))
    known = []
    jax.jit(lambda: known.append(known_numbers(divided)))()
    assert known == [(Numbers(whole=True),)]
    memory = am.ClassicalHopfield(jnp.sign(LARGE))
    apart = am.ClassicalHopfield(divided)
    same = jax.jit(lambda x: (memory.recall(x).x, apart.recall(x).x))(memory.Xi[0])
    assert (same[0] == same[1]).all()
