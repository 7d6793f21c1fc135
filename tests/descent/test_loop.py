"""The loop of the continuous methods: its derivatives, and what its record keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.descent import descend, loop

XI = np.random.default_rng(0).normal(size=(5, 4))
BACKTRACKING = am.GradientDescent(1.0, backtracking=True)
MODES = {
    "forward": jax.jacfwd,
    "backward over backward": lambda f: jax.grad(jax.grad(f)),
    "forward over backward": lambda f: jax.jacfwd(jax.grad(f)),
    "forward over forward": lambda f: jax.jacfwd(jax.jacfwd(f)),
}


def lse_energy(beta, x):
    return 0.5 * jnp.sum(x * x) - jax.nn.logsumexp(beta * (jnp.asarray(XI, x.dtype) @ x)) / beta


def end(beta, x0, method, **options):
    return descend(lambda x: lse_energy(beta, x), x0, method, **options).x[0]


def unrolled(beta, x0):
    """The reference: far more unit steps than it takes, one after the other."""
    step = lambda x, _: (x - jax.grad(lambda y: lse_energy(beta, y))(x), None)
    return jax.lax.scan(step, x0, length=150)[0][0]


def start():
    return jnp.asarray(XI[0] + 0.3)


# All explicit methods share the loop.
CASES = [(am.CCCP(), mode) for mode in MODES]
CASES += [(BACKTRACKING, mode) for mode in ("forward", "backward over backward")]
IDS = [f"{type(method).__name__}-{mode}" for method, mode in CASES]


@pytest.mark.parametrize(("method", "mode"), CASES, ids=IDS)
def test_derivatives_of_both_modes_and_orders_go_through_the_steps(method, mode, x64):
    beta, x0 = jnp.asarray(0.7), start()
    ours = lambda b: end(b, x0, method, tol=1e-10, max_steps=400)
    expected = jax.jit(MODES[mode](lambda b: unrolled(b, x0)))(beta)
    assert_allclose(jax.jit(MODES[mode](ours))(beta), expected, rtol=2e-5)
    assert abs(expected) > 1e-2


def test_derivatives_of_a_batch_whose_lanes_end_apart(x64):
    starts, beta = start()[None] * jnp.array([0.01, 1.0, 30.0])[:, None], jnp.asarray(0.7)
    options = {"max_steps": 60, "save_every": 25, "tol": 1e-8}
    for mode in (jax.jacfwd, jax.grad):
        one = jax.jit(lambda x, mode=mode: mode(lambda b: end(b, x, BACKTRACKING, **options))(beta))
        many = jax.jit(jax.vmap(one))(starts)
        assert_allclose(many, [one(x) for x in starts], rtol=1e-5)
        assert (jnp.abs(many) > 1e-3).any()


# -- the record ------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 2**31 - 1), st.integers(1, 10**6), st.integers(1, 2**24))
def test_kept_steps_rise_to_the_last_and_fit(max_steps, save_every, nbytes):
    save_every = min(save_every, max_steps)
    steps, room = loop.kept_steps(max_steps, save_every, nbytes), loop.states_kept(nbytes)
    asked = -(-max_steps // save_every)
    if asked > 2**16:  # large enough to take long, and no other case
        return
    assert (np.diff(steps, prepend=0) > 0).all()
    assert steps[-1] == max_steps
    assert steps.size == min(asked, room)
    assert room * nbytes <= max(loop.RECORD_BYTES, loop.FEWEST * nbytes)
    early = room // 2 if asked > room else asked - 1
    assert_array_equal(steps[:early], save_every * np.arange(1, early + 1))
    gaps = np.diff(steps[:-1])
    assert (np.diff(gaps) >= -save_every).all()  # ever more sparsely, but for rounding


@pytest.mark.parametrize("method", [am.CCCP(), BACKTRACKING, am.FixedPoint(), am.Flow()])
def test_no_room_is_kept_for_a_record_of_more_than_a_mebibyte(method):
    memory = am.ModernHopfield(jnp.ones((2, 2304)))
    record = jax.eval_shape(
        lambda x: memory.recall(x, method=method, save_every=1).trajectory, jnp.ones(2304)
    )
    assert record.x.size * 4 <= 2**20 + 2 * 2304 * 4
    small = am.ModernHopfield(jnp.ones((2, 200)))
    record = jax.eval_shape(
        lambda x: small.recall(x, method=method, save_every=1).trajectory, jnp.ones(200)
    )
    assert record.x.shape == (1001, 200)


def test_a_record_that_is_bounded_is_a_part_of_the_whole(monkeypatch):
    beta, x0, method = jnp.asarray(0.7), start(), am.GradientDescent(0.01)
    energy = lambda x: lse_energy(beta, x)
    run = lambda: jax.jit(lambda: descend(energy, x0, method, max_steps=400, save_every=1))()
    whole = run()
    monkeypatch.setattr(loop, "RECORD_BYTES", 50 * x0.nbytes)
    part = run()
    assert part.trajectory.x.shape == (51, 4)
    at = np.asarray(part.trajectory.time, int)
    assert_array_equal(at[:26], np.arange(26))
    assert (np.diff(at) > 0).all()
    assert at[-1] == 400
    assert_allclose(part.trajectory.x, whole.trajectory.x[at], rtol=1e-6)
    assert_allclose(part.trajectory.energy, whole.trajectory.energy[at], rtol=1e-6)
    assert_array_equal(part.x, part.trajectory.x[-1])
