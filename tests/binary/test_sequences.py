"""Sequences: steps against the formulas in exact integers, published behaviour, diagnostics."""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib import theory
from tests.zoo import spins

K, N = 5, 9
XI = spins(0, K, N)
STATES = spins(1, 40, N)


class Rectified(am.AbstractInteraction):
    """A user's own, which is all that it takes."""

    def __call__(self, m, N):
        return jnp.maximum(m, 0) ** 3


def poly(d):
    return am.PolynomialInteraction(d)


def played(memory, x, steps=12, **more):
    return memory.play(jnp.asarray(x, jnp.float32), steps, **more)


# -- one step --------------------------------------------------------------------------------------

FUNCTIONS = {
    "seqnet": (poly(1), lambda h: h),
    "square": (poly(2), lambda h: h**2),
    "cube": (poly(3), lambda h: h**3),
    "steep": (poly(20), lambda h: h**20),
    "exponential": (am.ExponentialInteraction(), lambda h: math.exp(h - 8)),
    "own": (Rectified(), lambda h: np.maximum(h, 0) ** 3),
}


def pull(Xi, targets, x, f):
    """The formula, a unit at a time, in Python's integers."""
    Xi, targets, x = (np.asarray(a, int).astype(object) for a in (Xi, targets, x))
    return np.array(
        [
            sum(t[i] * f(xi @ x - xi[i] * x[i]) for xi, t in zip(Xi, targets, strict=True))
            for i in range(len(x))
        ]
    )


@pytest.mark.parametrize("name", FUNCTIONS)
def test_fields_are_the_formula(name):
    """And ties of integers are ties."""
    f, exact = FUNCTIONS[name]
    memory = am.SequenceMemory(jnp.float32(XI), f)
    fields = np.asarray(jax.vmap(memory.field)(jnp.float32(STATES)), float)
    ties = 0
    for x, field in zip(STATES, fields, strict=True):
        formula = pull(XI, np.roll(XI, -1, axis=0), x, exact)
        ties += (formula == 0).sum()
        scale = np.abs(formula).max()
        share = np.array([float(v / scale) for v in formula]) if scale else np.zeros(N)
        clear = np.abs(share) > 1e-6 if name in ("steep", "exponential") else np.ones(N, bool)
        np.testing.assert_array_equal(np.sign(field)[clear], np.sign(share)[clear])
        np.testing.assert_allclose(field / max(np.abs(field).max(), 1e-30), share, atol=2e-6)
    assert ties or name not in ("seqnet", "own")
    x = jnp.float32(STATES[0])
    assert (memory.step(x) == jnp.where(memory.field(x) == 0, x, jnp.sign(memory.field(x)))).all()


def test_the_exponential_holds_where_its_values_do_not():
    """In float32 at N = 3,000, 1,000 units away from the nearest pattern."""
    size, f = 3000, am.ExponentialInteraction()
    Xi = jr.rademacher(jr.key(0), (30, size), jnp.float32)
    start = am.data.corrupt.flip_exactly(jr.key(1), Xi[4], 1000)
    heard = Xi @ start / size
    assert not jnp.any(f(heard, size))  # all underflow
    play = am.SequenceMemory(Xi, f).play(start, 60)
    assert play.first_error == 61
    assert play.pattern[-1] == (4 + 60) % 30
    steep = am.SequenceMemory(Xi, poly(300)).play(start, 60)
    assert not jnp.any(heard**300)
    assert steep.first_error == 61


def test_sums_of_two_terms_keep_their_proportion():
    """The symmetric term and the next one are over the same factor, whatever their functions."""
    cube = poly(3), lambda h: (h / 8) ** 3
    steep = poly(40), lambda h: (h / 8) ** 40
    exponential = am.ExponentialInteraction(), lambda h: math.exp(h - 8)
    for (hold, f), (onward, g) in ((cube, exponential), (exponential, cube), (cube, steep)):
        memory = am.SequenceMemory(jnp.float32(XI), onward, symmetric=hold, lam=1.7)
        for x in STATES[:5]:
            formula = pull(XI, XI, x, f) + 1.7 * pull(XI, np.roll(XI, -1, axis=0), x, g)
            field = np.asarray(memory.field(jnp.float32(x)), float)
            share = np.array([float(v / np.abs(formula).max()) for v in formula])
            np.testing.assert_allclose(field / np.abs(field).max(), share, atol=1e-5)


# -- the networks ----------------------------------------------------------------------------------


def test_the_pseudoinverse_plays_all_patterns_that_are_independent():
    """As many as units, and neighbours nearly alike; SeqNet loses its way."""
    Xi = np.where(np.tri(16, 16) > 0, 1.0, -1.0)  # neighbours differ in one unit
    memory = am.SequenceMemory(Xi, pseudoinverse=True)
    play = played(memory, Xi[3], 40)
    assert play.first_error == 41
    assert play.period == 16
    assert not memory.transition_errors().any()
    assert am.SequenceMemory(Xi).transition_errors().max() > 10
    # The formula, at states that are no patterns.
    O = Xi @ Xi.T / 16  # noqa: E741  (the paper's letter)
    x = spins(3, 16)
    formula = np.roll(Xi, -1, axis=0).T @ (np.linalg.pinv(O) @ (Xi @ x / 16))
    field = np.asarray(memory.field(jnp.float32(x)), float)
    assert (field * formula >= 0).all()
    np.testing.assert_allclose(field * abs(formula).max(), formula * abs(field).max(), atol=1e-4)


def mixed(Xi, d, lam, tau, x, steps, past, order=None):
    """MixedNet in NumPy: the states after each step."""
    Xi = np.asarray(Xi, float)
    window, states = [*past, x], []
    for _ in range(steps):
        x, trace = window[-1].copy(), np.sum(window[-tau:], axis=0) / tau
        frozen, size = x.copy(), len(x)
        for i in range(size):
            now = x if order == "sequential" else frozen
            m = (Xi @ now - Xi[:, i] * now[i]) / (size - 1)
            bar = (Xi @ trace - Xi[:, i] * trace[i]) / (size - 1)
            field = (Xi[:, i] * m**d + lam * np.roll(Xi, -1, axis=0)[:, i] * bar**d).sum()
            x[i] = x[i] if abs(field) < 1e-12 else np.sign(field)
        window.append(x)
        states.append(x)
    return np.array(states)


@pytest.mark.parametrize("order", [None, "sequential"])
def test_mixednet_is_its_formula(order):
    Xi, tau = spins(5, 6, 31), 4
    memory = am.SequenceMemory(Xi, poly(2), symmetric=poly(2), lam=2.5, tau=tau)
    starts = spins(6, 3, 31)
    play = jax.vmap(lambda x: memory.play(x, 25, order=order))(jnp.float32(starts))
    for x, own in zip(starts, play, strict=True):
        expected = mixed(Xi, 2, 2.5, tau, x, 25, [], order)
        np.testing.assert_array_equal(own.states(slice(1, None)), expected)
    # With a history, and on from where a play ends.
    past = jnp.float32(np.tile(Xi[-1:], (3, 1)))
    whole = played(memory, Xi[0], 40, order=order, history=past)
    expected = mixed(Xi, 2, 2.5, tau, Xi[0], 40, list(np.asarray(past)), order)
    np.testing.assert_array_equal(whole.frames[1:], expected)
    half = played(memory, Xi[0], 25, order=order, history=past)
    rest = played(memory, half.x, 15, order=order, history=half.states(np.arange(-tau, -1)))
    np.testing.assert_array_equal(rest.frames, whole.states(slice(25, None)))


def test_published_order_and_timing_of_mixednet():
    """N = 100, tau = 5, P = 40: d = 1 has neither, d = 2 order alone, d = 10 both."""
    Xi = jr.rademacher(jr.key(0), (40, 100), jnp.float32)
    past = jnp.tile(Xi[-1:], (4, 1))  # as the authors begin
    plays = {}
    for d in (1, 2, 10):
        memory = am.SequenceMemory(Xi, poly(d), symmetric=poly(d), lam=2.5, tau=5)
        plays[d] = memory.play(Xi[0], 200, history=past)
    assert plays[1].transition_accuracy < 0.5
    assert plays[1].first_error == 1
    assert plays[2].transition_accuracy == 1
    assert plays[2].first_error < 10
    assert plays[2].period == 160  # a pattern lasts 4 steps, not 5
    assert plays[10].first_error == 201
    assert len(np.unique(plays[10].pattern)) == 40
    # One unit after the other: the same, at d = 10.
    turns = memory.play(Xi[0], 200, order="permutation", key=jr.key(1))
    assert turns.first_error == 201


def test_units_in_turn_blur_a_sequence_without_a_symmetric_term():
    memory = am.SequenceMemory(spins(7, 6, 64), poly(3))
    assert played(memory, memory.Xi[0]).first_error == 13
    assert played(memory, memory.Xi[0], order="permutation").first_error == 1


def test_turns_follow_the_formula_of_a_densenet_and_of_the_pseudoinverse():
    """Each unit sees those that moved before it."""
    for more in ({}, {"pseudoinverse": True}):
        memory = am.SequenceMemory(jnp.float32(XI), poly(2), **more)
        for x in STATES[:6]:
            end = played(memory, x, 1, order="sequential").x
            for i in range(N):
                field = memory.field(jnp.float32(x))[i]
                x = x.copy()
                x[i] = x[i] if abs(field) < 1e-5 else np.sign(field)
            np.testing.assert_array_equal(end, x)


def test_a_sequence_that_ends_stays_there():
    memory = am.SequenceMemory(spins(8, 4, 60), am.ExponentialInteraction(), cyclic=False)
    play = played(memory, memory.Xi[1], 6)
    assert play.pattern.tolist() == [1, 2, 3, 3, 3, 3, 3]
    assert play.first_error == 7
    assert play.period == 1


@pytest.mark.parametrize("d", [1, 2, 3])
def test_capacities_are_those_of_theory(d):
    """The share of transitions without an error, at loads below, at and above theory's."""
    size = {1: 100, 2: 40, 3: 24}[d]
    shares = {}
    for load in (0.3, 1.0, 2.5):
        P = max(4, round(load * theory.transition_capacity(size, d)))
        Xi = jr.rademacher(jr.key(d), (8, P, size), jnp.float32)
        errors = jax.vmap(lambda Xi: am.SequenceMemory(Xi, poly(d)).transition_errors())(Xi)
        shares[load] = float((errors == 0).mean())
        bit = theory.error_probability(P, size, d + 1)
        assert shares[load] == pytest.approx(
            (1 - bit) ** size, abs=0.2
        )  # units are not independent
    assert shares[0.3] > 0.95 > 0.4 > shares[2.5]


# -- laws ------------------------------------------------------------------------------------------


def test_laws_of_plays():
    """Compiled, in a batch, with units turned round, with another pattern called the first."""
    memory = am.SequenceMemory(jnp.float32(XI), poly(2))
    starts = jnp.float32(STATES[:7])
    batch = jax.vmap(lambda x: memory.play(x, 10))(starts)
    for x, one in zip(starts, batch, strict=True):
        alone = memory.play(x, 10)
        np.testing.assert_array_equal(one.frames, alone.frames)
        assert one.period == alone.period
    jitted = jax.jit(lambda x: memory.play(x, 10).frames)(starts[0])
    np.testing.assert_array_equal(jitted, batch[0].frames)
    signs = jnp.float32(spins(9, N))
    turned = am.SequenceMemory(memory.Xi * signs[None], poly(2))
    rolled = am.SequenceMemory(jnp.roll(memory.Xi, 2, axis=0), poly(2))
    np.testing.assert_array_equal(
        jax.vmap(lambda x: turned.play(x * signs, 10).x * signs)(starts), batch.x
    )
    np.testing.assert_array_equal(jax.vmap(lambda x: rolled.play(x, 10).x)(starts), batch.x)


@pytest.mark.parametrize("kind", [np.int8, np.int32, bool, np.float16, jnp.bfloat16])
def test_patterns_of_every_kind(kind):
    Xi = XI > 0 if kind is bool else np.asarray(jnp.asarray(XI).astype(kind))
    memory = am.SequenceMemory(Xi, poly(2))
    assert memory.Xi.dtype == {bool: jnp.float32, np.int32: jnp.float32}.get(kind, kind)
    play = memory.play(Xi[0], 10)
    assert play.x.dtype == memory.state_struct.dtype
    plain = played(am.SequenceMemory(jnp.float32(XI), poly(2)), XI[0], 10)
    np.testing.assert_array_equal(play.bits, plain.bits)
    np.testing.assert_array_equal(play.frames.astype(jnp.float32), plain.frames)


def test_pictures_and_double_precision(x64):
    Xi = spins(10, 6, 8, 5)
    memory = am.SequenceMemory(Xi, am.ExponentialInteraction())
    play = memory.play(Xi[2], 8)
    assert play.frames.shape == (9, 8, 5)
    assert play.frames.dtype == memory.field(Xi[0]).dtype == jnp.float64
    np.testing.assert_array_equal(play.frames[1], Xi[3])
    assert memory.field(Xi[0]).shape == memory.step(Xi[0]).shape == (8, 5)


def test_a_memory_is_saved(tmp_path):
    beta = am.ExponentialInteraction(0.5)
    memory = am.SequenceMemory(XI, beta, pseudoinverse=True)
    am.save(tmp_path / "sequence.am", memory)
    like = am.SequenceMemory(-XI, am.ExponentialInteraction(), pseudoinverse=True)
    back = am.load(tmp_path / "sequence.am", like)
    assert eqx.tree_equal(back, memory)


# -- what a play says of itself --------------------------------------------------------------------


def playback(patterns, overlap=None, K=4, tau=1, cyclic=True):
    """A play that heard these patterns; states count as they do."""
    patterns = jnp.asarray(patterns, jnp.int32)
    overlap = jnp.ones(patterns.shape) if overlap is None else jnp.asarray(overlap, jnp.float32)
    bits = patterns[..., None].astype(jnp.uint8)
    return am.Playback(jnp.ones((*patterns.shape[:-1], 3)), bits, patterns, overlap, K, tau, cyclic)


def test_diagnostics_of_hand_made_plays():
    right = playback([2, 3, 0, 1, 2, 3])
    assert (right.first_error, right.accuracy, right.transition_accuracy) == (6, 1, 1)
    assert right.period == 4
    skips = playback([0, 1, 3, 0, 1, 2])
    assert skips.first_error == 2
    assert skips.accuracy == pytest.approx(0.2)
    assert skips.transition_accuracy == pytest.approx(0.8)
    assert skips.period == 0
    faulty = playback([0, 1, 2, 3], [0.9, 1, 0.99, 1])  # the start may be damaged
    assert (faulty.first_error, faulty.transition_accuracy) == (2, 1)
    assert playback(np.arange(122) % 4).accuracy == 1  # 121 times 1 / 121 is less in float32
    stuck = playback([1, 1, 1, 1])
    assert (stuck.first_error, stuck.transition_accuracy, stuck.period) == (1, 0, 1)
    assert playback([0, 1, 2, 3]).period == 0
    held = playback([0, 0, 1, 1, 2, 2, 3, 3, 0, 0], tau=2)
    assert (held.first_error, held.transition_accuracy, held.period) == (10, 1, 8)
    # Two states alone do not prove a cycle where the next step looks at two.
    assert playback([0, 1, 1, 2, 1], tau=2).period == 0
    open_ = playback([2, 3, 3, 0], cyclic=False)
    assert open_.first_error == 3
    assert open_.transition_accuracy == pytest.approx(0.5)


def test_states_on_demand_and_batches():
    memory = am.SequenceMemory(spins(11, 6, 77), poly(3))
    batch = jax.vmap(lambda x: memory.play(x, 30))(memory.Xi)
    assert batch.bits.shape == (6, 31, 10)
    frames = np.asarray(batch.frames)
    assert frames.shape == (6, 31, 77)
    np.testing.assert_array_equal(frames[:, 7], np.roll(memory.Xi, -7, axis=0))
    for at in (-1, slice(3, 20, 5), np.array([[0, 2], [1, -1]])):
        np.testing.assert_array_equal(batch.states(at), frames[:, at])
        np.testing.assert_array_equal(batch[2].states(at), frames[2, at])
    np.testing.assert_array_equal(batch.states(-1), batch.x)
    assert [one.pattern[0].item() for one in batch] == list(range(6))
    assert batch[np.array([True, False] * 3)].x.shape == (3, 77)
    with pytest.raises(IndexError, match="out of bounds"):
        batch.states(31)
    with pytest.raises(IndexError, match="out of bounds"):
        batch[6]
    with pytest.raises(TypeError, match=r"Playback: only a batch, .* its states are states"):
        batch[0][0]


def test_reprs_say_what_happened():
    said = repr(playback([0, 1, 3, 0, 1, 2]))
    assert said == (
        "Playback(5 steps, first error at 2, transitions right 0.8, period none, x: float32[3])"
    )
    said = repr(playback([[2, 3, 0, 1, 2, 3], [0, 0, 0, 0, 0, 0]]))
    assert said == (
        "Playback(of 2 sequences, 5 steps, 1 all correct, first error at 1, "
        "transitions right 0 to 1, period 1 to 4, x: float32[3])"
    )
    assert "5 steps, all correct, transitions right 1," in repr(playback([0, 1, 2, 3, 0, 1]))
    memory = am.SequenceMemory(XI)
    shapes = jax.eval_shape(lambda x: memory.play(x, 4), memory.state_struct)
    assert repr(shapes) == "Playback(4 steps, x: float32[9])"


# -- what is refused -------------------------------------------------------------------------------


def test_there_is_no_energy_and_the_error_says_why():
    memory = am.SequenceMemory(XI)
    for name in ("energy", "recall", "async_recall"):
        assert not hasattr(memory, name)
    with pytest.raises(AttributeError, match=r"SequenceMemory\.energy: a sequence has no energy"):
        memory.energy  # noqa: B018
    with pytest.raises(AttributeError, match=r"does not come to rest; write play\(x0, steps\)"):
        memory.recall(XI[0])
    with pytest.raises(AttributeError, match="there is no such attribute"):
        memory.plays  # noqa: B018


@pytest.mark.parametrize(
    ("Xi", "more", "error", "message"),
    [
        (0.5 * XI, {}, ValueError, "Xi: patterns must hold only -1 and +1"),
        ((XI > 0).astype(int), {}, ValueError, "become spins by 2*Xi - 1"),
        (np.where(np.eye(K, N) > 0, np.nan, XI), {}, ValueError, "NaN or infinity came"),
        (XI[:1], {}, ValueError, "at least 2 patterns of at least 2 units; (1, 9) came"),
        (XI[:, :1], {}, ValueError, "at least 2 patterns of at least 2 units; (5, 1) came"),
        (XI[0], {}, ValueError, "must have shape (K, D)"),
        (XI[:0], {}, ValueError, "must have shape (K, D)"),
        (XI, {"interaction": 2}, TypeError, "interaction: must be an AbstractInteraction; int"),
        (XI, {"symmetric": jnp.exp}, TypeError, "symmetric: must be an AbstractInteraction"),
        (XI, {"symmetric": poly(2), "lam": -1.0}, ValueError, "lam: must be finite and greater"),
        (XI, {"symmetric": poly(2), "lam": 0}, ValueError, "lam: must be finite and greater"),
        (XI, {"symmetric": poly(2), "lam": np.nan}, ValueError, "lam: must be finite"),
        (XI, {"symmetric": poly(2), "lam": np.ones(2)}, ValueError, "lam: must be a scalar"),
        (XI, {"symmetric": poly(2), "tau": 0}, ValueError, "tau: must be at least 1; 0 came"),
        (XI, {"tau": 5}, ValueError, "tau: must be 1 without a symmetric term; 5 came"),
    ],
)  # fmt: skip
def test_bad_sequences(Xi, more, error, message):
    with pytest.raises(error, match=re.escape(message)):
        am.SequenceMemory(Xi, **more)


@pytest.mark.parametrize(
    ("x", "more", "error", "message"),
    [
        (XI[:2], {}, ValueError, "play: the state must have shape (9,); (2, 9) came. A batch goes"),
        (XI[0, :8], {}, ValueError, "play: the state must have shape (9,); (8,) came"),
        (0.3 * XI[0], {}, ValueError, "play: a state must hold only -1 and +1"),
        (np.nan * XI[0], {}, ValueError, "play: a state must hold only -1 and +1"),
        (1j * XI[0], {}, TypeError, "play: x: must hold real numbers"),
        (XI[0], {"steps": 0}, ValueError, "play: steps: must be at least 1; 0 came"),
        (XI[0], {"steps": -3}, ValueError, "play: steps: must be at least 1; -3 came"),
        (XI[0], {"steps": 2**30}, ValueError, "play: steps: must be at most"),
        (XI[0], {"order": "backwards"}, ValueError, "order: must be one of"),
        (XI[0], {"order": am.descent.Exchange()}, ValueError, "Exchange moves several together"),
        (XI[0], {"history": XI[:5]}, ValueError, "history must have shape (n, 9) with n below"),
        (XI[0], {"history": XI[0]}, ValueError, "history must have shape (n, 9)"),
        (XI[0], {"history": 0 * XI[:2]}, ValueError, "play: history: a state must hold only"),
    ],
)  # fmt: skip
def test_bad_plays(x, more, error, message):
    memory = am.SequenceMemory(XI, poly(2), symmetric=poly(2), tau=5)
    with pytest.raises(error, match=re.escape(message)):
        memory.play(x, **({"steps": 5} | more))


def test_bad_interactions():
    with pytest.raises(TypeError, match=r"d: must be an integer; 1\.5 came"):
        am.PolynomialInteraction(1.5)
    with pytest.raises(ValueError, match="d: must be at least 1; 0 came"):
        am.PolynomialInteraction(0)
    with pytest.raises(ValueError, match="beta: must be finite and greater than 0"):
        am.ExponentialInteraction(0.0)
