"""Laws that every binary memory obeys, checked over the zoo against enumeration of all states."""

import functools
import itertools
import types
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from jax.flatten_util import ravel_pytree

import amlib as am
from amlib.descent.plan import FlipPlan
from tests import engine as flips
from tests.zoo import BINARY, parameters, spins, unregistered

every_model = pytest.mark.parametrize("name", BINARY)
by_overlaps = pytest.mark.parametrize("name", [k for k, c in BINARY.items() if c.by_overlaps])
DESCENTS = ("permutation", "sequential", "random", "greedy")
converged, cycle, step_limit = am.RESULTS.converged, am.RESULTS.cycle, am.RESULTS.step_limit


class World(NamedTuple):
    """All states of a model: `E[c]` and `E_flip[c, i]`, where bit i of the code c says x_i > 0."""

    model: Any
    X: np.ndarray
    D: int
    E: np.ndarray
    E_flip: np.ndarray
    mask: np.ndarray  # code of a state with bit i alone
    tol: float  # what rounding may do to an energy
    dtype: Any  # of the energy

    def codes(self, X: Any) -> np.ndarray:
        """The codes of states `(..., *shape)`."""
        flat = np.asarray(X, np.float64).reshape(*X.shape[: -(self.X.ndim - 1)], self.D)
        assert (np.abs(flat) == 1).all()
        return ((flat > 0) * self.mask).sum(-1)

    def path(self, start: np.ndarray, trajectory: am.Trajectory) -> np.ndarray:
        """The code after each visit, from the record, without `Frames`."""
        moves = np.where(trajectory.accepted, self.mask[np.asarray(trajectory.visited)], 0)
        return start[:, None] ^ np.bitwise_xor.accumulate(moves, axis=-1)

    def fixed(self, codes: np.ndarray) -> np.ndarray:
        """Whether no single flip lowers the energy."""
        return np.all(self.E_flip[codes] >= self.E[codes][..., None] - self.tol, axis=-1)


@jax.jit
def energies(model, X):
    return jax.vmap(model.energy)(X)


def enumerate_states(model: Any, shape: tuple[int, ...], dtype: Any) -> World:
    D = int(np.prod(shape))
    X = np.array(list(itertools.product([-1, 1], repeat=D)), jnp.dtype(dtype)).reshape(-1, *shape)
    energy = np.asarray(energies(model, X))
    E, mask = energy.astype(np.float64), 2 ** np.arange(D)[::-1]
    tol = 16 * float(jnp.finfo(energy.dtype).eps) * np.abs(E).max()
    return World(model, X, D, E, E[np.arange(2**D)[:, None] ^ mask], mask, tol, energy.dtype)


@functools.cache
def world(name: str) -> World:
    case = BINARY[name]
    return enumerate_states(case(), case.shape, jnp.float32)


@functools.partial(jax.jit, static_argnames=("orders", "max_sweeps"))
def recall_all(model, X, seed, orders, max_sweeps):
    """Recalls from all `X` by several orders, compiled together."""
    keys = jr.split(jr.key(seed), len(X))

    def by(order):
        recall = functools.partial(model.recall, order=order, max_sweeps=max_sweeps)
        return jax.vmap(lambda x, key: recall(x, key=key))(X, keys)

    return {order: by(order) for order in orders}


def assert_same(a: Any, b: Any, rtol: float = 0.0) -> None:
    """Equal trees: integers and spins exactly, energies to `rtol` of the largest."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for u, v in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        u, v = np.asarray(u), np.asarray(v)
        assert u.dtype == v.dtype
        assert u.shape == v.shape
        atol = rtol * np.abs(u).max(initial=0) if np.issubdtype(u.dtype, np.floating) else 0
        np.testing.assert_allclose(u, v, rtol=0, atol=atol)


def lane(tree: Any, k: int) -> Any:
    """One example of a batch."""
    return jax.tree.map(lambda a: np.asarray(a)[k], tree)


def while_it_ran(end: am.Recall) -> dict[str, Any]:
    """A recall without the visits recorded after it ended, while other lanes went on."""
    end = jax.tree.map(np.asarray, end)
    t = end.trajectory
    ran = int(end.steps) * t.x0.size
    assert not t.accepted[ran:].any()
    np.testing.assert_allclose(t.energy[ran:] - end.energy, 0, atol=float(1e-5 * abs(end.energy)))
    record = {k: getattr(t, k)[:ran] for k in ("visited", "accepted", "energy")}
    result = jax.tree.leaves(end.result)
    return {"x": end.x, "E": end.energy, "steps": end.steps, "result": result, **record}


# -- the zoo ----------------------------------------------------------------------------------


def test_every_public_model_is_in_the_zoo():
    assert not unregistered(am.binary, am.AbstractBinaryAM, BINARY)


def test_a_model_that_is_not_in_the_zoo_is_found():
    class Forgotten(am.BinaryAM):
        def energy(self, x):
            return -jnp.sum(self.Xi @ x)

    exports = types.SimpleNamespace(**vars(am.binary), Forgotten=Forgotten)
    assert unregistered(exports, am.AbstractBinaryAM, BINARY) == {"Forgotten"}


def test_the_zoo_holds_every_form_of_the_polynomial():
    models = [case() for case in BINARY.values()]
    forms = {
        (m.log_form, m.rectified, m.n % 2) for m in models if isinstance(m, am.PolynomialDenseAM)
    }
    for log_form in (False, True):
        assert {(log_form, False, 0), (log_form, False, 1), (log_form, True, 1)} <= forms


# -- descent ----------------------------------------------------------------------------------


@every_model
def test_descent_falls_to_a_fixed_point(name):
    """From every state and in every order: each kept flip lowers the energy, no refused flip
    would have, the recorded energies are those of the states, and the end is a fixed point."""
    w = world(name)
    for end in recall_all(w.model, w.X, 1, DESCENTS, 12).values():
        codes = w.path(np.arange(len(w.X)), end.trajectory)
        before = np.concatenate([np.arange(len(w.X))[:, None], codes[:, :-1]], 1)
        visited, accepted = np.asarray(end.trajectory.visited), np.asarray(end.trajectory.accepted)
        change = w.E_flip[before, visited] - w.E[before]
        assert (change[accepted] < w.tol).all()
        assert (change[~accepted] > -w.tol).all()
        np.testing.assert_allclose(end.trajectory.energy, w.E[codes], rtol=0, atol=w.tol)
        assert (np.diff(end.trajectory.energy, axis=-1) <= w.tol).all()
        assert np.asarray(end.converged).all()
        np.testing.assert_array_equal(w.codes(end.x), codes[:, -1])
        np.testing.assert_allclose(end.energy, w.E[codes[:, -1]], rtol=0, atol=w.tol)
        assert w.fixed(codes[:, -1]).all()


@pytest.mark.parametrize("name", ["rectified", "ising"])
def test_converged_if_and_only_if_no_flip_lowers_the_energy(name):
    """Also where the step limit falls on the very sweep that reaches the fixed point."""
    w = world(name)
    ends = recall_all(w.model, w.X, 2, DESCENTS, 1)
    for order, end in ends.items():
        fixed = w.fixed(w.codes(end.x))
        np.testing.assert_array_equal(end.result == converged, fixed, err_msg=order)
        np.testing.assert_array_equal(end.result == step_limit, ~fixed, err_msg=order)
    assert not w.fixed(w.codes(ends["random"].x)).all()


@pytest.mark.parametrize("order", DESCENTS)
def test_the_last_sweep_can_converge(order):
    end = am.BipolarIsing(jnp.zeros((1, 1)), jnp.ones(1)).recall(
        -jnp.ones(1), order=order, max_sweeps=1
    )
    assert (end.x[0], end.sweeps, end.result) == (1, 1, converged)


def test_the_record_is_as_long_as_asked_for():
    """And shortening it changes nothing else."""
    w = world("exponential")
    whole = w.model.recall(w.X[0], max_sweeps=9)
    sweeps = int(whole.sweeps)
    assert np.asarray(whole.trajectory.accepted).any()
    assert whole.trajectory.visited.shape == (9 * w.D,)
    for record in (0, 1):
        end = w.model.recall(w.X[0], max_sweeps=9, record=record)
        visits = record * w.D
        assert end.trajectory.visited.shape == end.trajectory.energy.shape == (visits,)
        assert end.trajectory.frames.shape == (visits, w.D)
        expected = whole.trajectory.accepted[:visits]
        np.testing.assert_array_equal(end.trajectory.accepted, expected)
        np.testing.assert_array_equal(end.x, whole.x)
        assert (end.energy, end.sweeps, end.result) == (whole.energy, sweeps, converged)


@pytest.mark.parametrize("name", ["classical", "exponential", "user-convolution"])
def test_synchronous_descent_says_how_it_ended(name):
    """Against a plain loop over the table of energies."""
    w = world(name)
    end = recall_all(w.model, w.X, 3, ("synchronous",), 20)["synchronous"]
    lowers = w.E_flip < w.E[:, None] - w.tol
    following = np.arange(len(w.X)) ^ (lowers * w.mask).sum(-1)
    codes = np.arange(len(w.X))
    for _ in range(30):
        codes = following[codes]
    on_cycle = (following[codes] != codes) & (following[following[codes]] == codes)
    np.testing.assert_array_equal(end.result == cycle, on_cycle)
    np.testing.assert_array_equal(end.result == converged, following[codes] == codes)
    ends = w.codes(end.x)
    assert ((ends == codes) | (on_cycle & (ends == following[codes]))).all()


@every_model
def test_both_paths_visit_the_same_states(name):
    """State for state, over more visits than the incremental path carries values for."""
    w = world(name)
    X, idx = w.X[::9], jr.randint(jr.key(4), (301,), 1, w.D)  # bit 0, which pads, stays open

    @jax.jit
    def run(X):
        paths = ("generic", "incremental", "auto")
        visit = functools.partial(flips.visit, w.model.energy, idx=idx)
        return [jax.vmap(functools.partial(visit, path=path))(X) for path in paths]

    generic, incremental, auto = run(X)
    evaluator = FlipPlan(w.model.energy, w.X[0], "incremental")
    assert evaluator.path == "incremental"  # else this test compares a path with itself
    assert_same(generic, incremental, rtol=1e-5)
    assert_same(generic, auto, rtol=1e-5)
    assert np.asarray(generic[1].accepted).any()


@every_model
def test_flip_energies_and_fixed_points_agree_with_enumeration(name):
    w = world(name)

    @jax.jit
    def both(X):
        return jax.vmap(w.model.flip_energies)(X), jax.vmap(w.model.is_fixed_point)(X)

    E_flip, fixed = both(w.X)
    assert E_flip.shape == (len(w.X), w.D)
    np.testing.assert_allclose(E_flip, w.E_flip, rtol=0, atol=w.tol)
    np.testing.assert_array_equal(fixed, w.fixed(np.arange(len(w.X))))
    assert 0 < np.mean(fixed) < 1


# -- asynchronous recall ----------------------------------------------------------------------


def reference(energy, x, bits):
    """The whole of asynchronous recall, with the full energy twice per step."""
    states, energies = [], []
    for i in np.asarray(bits):
        flipped = np.array(x)
        flipped.reshape(-1)[i] *= -1
        e, e_flipped = energy(x), energy(flipped)
        if e_flipped < e:
            x, e = flipped, e_flipped
        states.append(x)
        energies.append(e)
    return x, np.stack(states), np.stack(energies)


@every_model
def test_async_recall_is_the_reference_loop(name):
    w = world(name)
    key = jr.PRNGKey(5)
    x0 = w.X[11]
    bits = jax.random.choice(key, np.arange(w.D), shape=(50,))
    x, states, E = reference(eqx.filter_jit(w.model.energy), np.asarray(x0), bits)
    end, (frames, recorded) = w.model.async_recall(x0, nsteps=50, key=key)
    np.testing.assert_array_equal(frames.visited, bits)
    np.testing.assert_array_equal(np.asarray(frames), states)
    np.testing.assert_array_equal(end, x)
    assert (states[0] != states[-1]).any()
    assert recorded.dtype == E.dtype
    if BINARY[name].integer:
        np.testing.assert_array_equal(recorded, E)
    np.testing.assert_allclose(recorded, E, rtol=0, atol=w.tol)


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(1, 20), st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_async_recall_is_the_reference_loop_at_any_size(K, D, nsteps, seed):
    model = am.ClassicalHopfield(jnp.asarray(spins(seed, K, D), jnp.float32))
    x0 = spins(seed + 1, D).astype(np.float32)
    key = jr.key(seed)
    bits = jax.random.choice(key, np.arange(D), shape=(nsteps,))

    def energy(x):
        return -0.5 * np.sum((np.asarray(model.Xi) @ x) ** 2)

    x, states, E = reference(energy, x0, bits)
    end, (frames, recorded) = model.async_recall(x0, nsteps=nsteps, key=key)
    np.testing.assert_array_equal(np.asarray(frames), states)
    np.testing.assert_array_equal(end, x)
    np.testing.assert_array_equal(recorded, E)


@pytest.mark.parametrize("name", ["classical", "rectified"])
def test_async_recall_of_no_steps(name):
    w = world(name)
    x, (frames, E) = w.model.async_recall(w.X[3], nsteps=0)
    np.testing.assert_array_equal(x, w.X[3])
    assert E.shape == (0,)
    assert frames.shape == np.asarray(frames).shape == (0, *w.X[3].shape)
    assert len(frames) == len(list(frames)) == 0
    with pytest.raises(IndexError, match="out of bounds"):
        frames[0]


@pytest.mark.parametrize("name", ["rectified", "ising"])
def test_async_update_keeps_a_flip_that_lowers_the_energy(name):
    w = world(name)
    bits = np.arange(w.D)
    update = jax.vmap(jax.vmap(w.model.async_update, (None, 0)), (0, None))
    x, e = update(w.X, bits)
    lower = w.E_flip < w.E[:, None]
    codes = np.arange(len(w.X))[:, None]
    np.testing.assert_array_equal(w.codes(x), np.where(lower, codes ^ w.mask, codes))
    np.testing.assert_allclose(e, np.minimum(w.E_flip, w.E[:, None]), rtol=0, atol=w.tol)


# -- invariances ------------------------------------------------------------------------------


@by_overlaps
@settings(max_examples=3, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1))
def test_flipping_a_coordinate_of_patterns_and_state_leaves_the_energy(name, seed):
    w = world(name)
    sign = jnp.asarray(spins(seed, *w.X.shape[1:]), w.X.dtype)
    turned = eqx.tree_at(lambda m: m.Xi, w.model, w.model.Xi * sign[None])
    np.testing.assert_allclose(energies(turned, w.X * sign[None]), w.E, rtol=0, atol=w.tol)


def test_flipping_a_unit_of_the_ising_model_leaves_the_energy():
    w = world("ising")
    sign = jnp.asarray(spins(0, w.D), w.X.dtype)
    J, h = w.model.J * jnp.outer(sign, sign), w.model.h * sign
    turned = am.BipolarIsing(J, h)
    np.testing.assert_allclose(energies(turned, w.X * sign[None]), w.E, rtol=0, atol=w.tol)


@pytest.mark.parametrize("name", [k for k, c in BINARY.items() if c.by_overlaps and c.symmetric])
def test_permuting_the_patterns_leaves_the_energy(name):
    w = world(name)
    for order in itertools.permutations(range(3)):
        permuted = eqx.tree_at(lambda m: m.Xi, w.model, w.model.Xi[jnp.array(order)])
        np.testing.assert_allclose(energies(permuted, w.X), w.E, rtol=0, atol=w.tol)


# -- transformations --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rectified", "log-odd", "exponential", "user-convolution"])
def test_vmap_over_queries_is_a_loop_and_jit_is_eager(name):
    w = world(name)
    keys = jr.split(jr.key(1), len(w.X))
    together = recall_all(w.model, w.X, 1, DESCENTS, 12)["permutation"]
    for k in (0, 9, 50):
        alone = w.model.recall(w.X[k], key=keys[k], max_sweeps=12)
        assert_same(while_it_ran(alone), while_it_ran(lane(together, k)), rtol=1e-5)
        eager = w.model.energy(jnp.asarray(w.X[k]))
        np.testing.assert_allclose(eager, w.E[k], rtol=0, atol=w.tol)


def test_vmap_over_keys_is_a_loop():
    w = world("exponential")
    keys = jr.split(jr.key(7), 4)
    recall = functools.partial(w.model.recall, w.X[9], beta=0.4, max_sweeps=3)
    together = jax.vmap(lambda key: recall(key=key))(keys)
    assert len({tuple(v) for v in together.trajectory.visited.tolist()}) == 4
    for k, key in enumerate(keys):
        assert_same(recall(key=key), lane(together, k), rtol=1e-5)


@pytest.mark.parametrize("name", ["exponential", "ising"])
def test_vmap_over_models_is_a_loop(name):
    w = world(name)
    params, rest = parameters(w.model)
    models = [eqx.combine(jax.tree.map(lambda a, s=s: s * a, params), rest) for s in (1, 0.5, 2)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *models)

    def one(model, x):
        return model.energy(x), model.recall(x, key=jr.key(8), max_sweeps=9)

    @jax.jit
    def together(models, x):
        return eqx.filter_vmap(one, in_axes=(eqx.if_array(0), None))(models, x)

    E, ends = together(stacked, w.X[9])
    x0 = jnp.asarray(w.X[9])
    for k, model in enumerate(models):
        np.testing.assert_allclose(E[k], model.energy(x0), rtol=1e-5)
        alone = model.recall(w.X[9], key=jr.key(8), max_sweeps=9)
        assert_same(while_it_ran(alone), while_it_ran(lane(ends, k)), rtol=1e-5)


@every_model
@pytest.mark.usefixtures("x64")
def test_gradients_are_finite_differences(name):
    """In every element of every float parameter, away from the corners of the energy."""
    case = BINARY[name]
    params, rest = parameters(case(jnp.float64))
    theta, unravel = ravel_pytree(params)
    theta = theta + jnp.asarray(np.random.default_rng(1).uniform(-0.2, 0.2, theta.shape))
    x = jnp.asarray(world(name).X[world(name).E.argmin()], jnp.float64)

    @jax.jit
    def both(theta):
        def energy(theta):
            return eqx.combine(unravel(theta), rest).energy(x)

        step = 1e-5 * jnp.eye(theta.size)
        ahead, behind = jax.vmap(energy)(theta[None] + step), jax.vmap(energy)(theta[None] - step)
        return jax.grad(energy)(theta), (ahead - behind) / 2e-5

    exact, differences = both(theta)
    assert exact.dtype == jnp.float64
    np.testing.assert_allclose(exact, differences, rtol=0, atol=2e-6 * np.abs(differences).max())
    for leaf in jax.tree.leaves(unravel(exact)):
        assert jnp.abs(leaf).max() > 1e-3  # the parameter counts


@pytest.mark.parametrize("name", ["rectified", "exponential", "user-network"])
@pytest.mark.usefixtures("x64")
def test_the_energies_of_a_recall_have_the_gradient_of_the_energy_there(name):
    case = BINARY[name]
    params, rest = parameters(case(jnp.float64))
    x0 = jnp.asarray(spins(3, *case.shape))

    @jax.jit
    def gradients(params):
        def model(params):
            return eqx.combine(params, rest)

        def of_recall(params):
            end = model(params).recall(x0, max_sweeps=9)
            return end.energy, end.x

        def of_async(params):
            x, (_, E) = model(params).async_recall(x0, nsteps=40)
            return E[-1], x

        pairs = []
        for fn in (of_recall, of_async):
            gradient, x = jax.grad(fn, has_aux=True)(params)
            pairs.append((gradient, jax.grad(lambda p, x=x: model(p).energy(x))(params)))
        signs = 1 - 2 * jnp.eye(x0.size).reshape(-1, *x0.shape)
        gradient = jax.grad(lambda p: model(p).flip_energies(x0).sum())(params)
        apart = jax.grad(lambda p: jax.vmap(model(p).energy)(signs * x0[None]).sum())(params)
        return [*pairs, (gradient, apart)]

    for gradient, expected in gradients(params):
        assert_same(gradient, expected, rtol=1e-12)
        assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


# -- sizes and dtypes -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "name"),
    [("float64", name) for name in BINARY]
    + [("bfloat16", name) for name in BINARY if "even" not in name and "odd" not in name]
    + [("float16", name) for name in ("classical", "rectified", "exponential", "user-hopfield")],
)
def test_every_float_dtype_recalls(dtype, name):
    with jax.enable_x64(dtype == "float64"):
        case = BINARY[name]
        w = enumerate_states(case(dtype), case.shape, dtype)
        X = w.X[::5]
        end = recall_all(w.model, X, 9, ("sequential",), 12)["sequential"]
        assert end.x.dtype == end.trajectory.frames.dtype == dtype
        assert end.energy.dtype == end.trajectory.energy.dtype == w.dtype
        if dtype == "float64":
            assert end.energy.dtype == jnp.float64
        elif not name.startswith("user"):
            assert end.energy.dtype == jnp.float32  # half precision adds up in float32
        assert np.asarray(end.converged).all()
        assert w.fixed(w.codes(end.x)).all()
        np.testing.assert_allclose(
            np.asarray(end.energy, np.float64), w.E[w.codes(end.x)], rtol=0, atol=w.tol
        )


@pytest.mark.parametrize("name", [k for k, c in BINARY.items() if c.least == 1])
def test_one_unit_and_one_pattern(name):
    case = BINARY[name]
    shape = (1,) * len(case.shape)
    w = enumerate_states(case(K=1, shape=shape), shape, jnp.float32)
    end = recall_all(w.model, w.X, 0, ("sequential",), 2)["sequential"]
    falls = w.E_flip[:, 0] < w.E
    np.testing.assert_array_equal(w.codes(end.x), np.where(falls, [1, 0], [0, 1]))
    np.testing.assert_array_equal(end.result == converged, [True, True])
