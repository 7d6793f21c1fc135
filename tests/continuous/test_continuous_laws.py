"""Laws that every continuous memory keeps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.test_util import check_grads

import amlib as am
from tests.continuous.zoo import (
    CENTRED,
    DISTRIBUTED,
    FEW,
    ORDERED,
    UNIT_STEP,
    ZOO,
    D,
    K,
    make,
    patterns,
    query,
)

every = pytest.mark.parametrize("name", ZOO)
few = pytest.mark.parametrize("name", FEW)


@eqx.filter_jit
def measure(model, x):
    """The energy, compiled once for each kind of model and not for each test."""
    return model.energy(x)


@eqx.filter_jit
def measure_all(model, xs):
    return jax.vmap(model.energy)(xs)


@eqx.filter_jit
def recall_all(model, xs):
    return jax.vmap(lambda x: model.recall(x, save_every=50))(xs)


def close(a, b, scale=1.0, tol=2e-5):
    np.testing.assert_allclose(a, b, rtol=tol, atol=tol * scale)


def test_zoo_holds_every_public_model():
    public = {
        value
        for value in vars(am).values()
        if isinstance(value, type) and issubclass(value, am.AbstractContinuousAM)
    }
    shown = {type(make(name)) for name in ZOO}
    assert public - shown == {am.AbstractContinuousAM, am.ContinuousAM}


@every
def test_symmetries_leave_the_energy_unchanged(name):
    model, x = make(name), query()
    energy = measure(model, x)
    order = jr.permutation(jr.key(2), K)
    flip = jnp.where(jnp.arange(D) % 2, 1.0, -1.0)
    units = jr.permutation(jr.key(3), D)
    if name not in ORDERED:
        close(measure(ZOO[name](patterns()[order]), x), energy, 10)
    if name in DISTRIBUTED:  # whose random directions are no others for other units
        return
    if name not in CENTRED:
        close(measure(ZOO[name](patterns() * flip[None]), x * flip), energy, 10)
    close(measure(ZOO[name](patterns()[:, units]), x[units]), energy, 10)


@every
def test_energy_never_rises_and_recall_ends_where_it_says(name):
    model = make(name)
    bounded = not name.startswith("dot-") or name.split("-")[1] in ("softmax", "max")
    project = None if bounded else am.Box(-2.0, 2.0)
    end = model.recall(query(), project=project, save_every=1, max_steps=400)
    energies = np.asarray(end.trajectory.energy)
    slack = 100 * np.finfo(np.float32).eps * (1 + np.abs(energies[:-1]))
    assert (energies[1:] <= energies[:-1] + slack).all()
    if not model.unit_step:  # backtracking: not even by rounding
        assert (energies[1:] <= energies[:-1]).all()
    assert energies[-1] == end.energy
    np.testing.assert_array_equal(end.trajectory.x[-1], end.x)
    space = model._space_for(model.default_method())
    assert isinstance(space, am.spaces.AbstractReals)
    start = end.trajectory.frames[0]
    close(start, space.project(query()), tol=0.0 if space.free else 1e-6)
    assert int(end.steps) == float(end.trajectory.time[-1])
    assert bool(end.converged), end.result
    if not space.free:  # the gradient is not 0 at the border of the domain
        close(model.retrieve(end.x), end.x, tol=5e-3)
    elif bounded:
        assert jnp.abs(model.update(end.x)).max() < 5e-3


@few
def test_exact_energies_rise_by_less_than_rounding(name):
    """As computed they never do, see above; this is what the docstrings say of the exact ones."""
    model = make(name)
    end = model.recall(query(), save_every=1, max_steps=400, tol=0.0)
    with jax.enable_x64(True):
        double = lambda a: a.astype(float) if eqx.is_inexact_array(a) else a
        model = jax.tree.map(double, model)
        x = end.trajectory.x.astype(float)
        exact = np.asarray(measure_all(model, x))
        size = np.abs(exact[1:]) + np.abs(exact[:-1]) + 0.5 * np.sum(np.asarray(x[1:]) ** 2, 1) + D
    rise = np.diff(exact)
    assert (rise <= 100 * np.finfo(np.float32).eps * size).all()
    assert rise.min() < 0


@every
def test_gradients_equal_finite_differences(name, x64):
    model, x = make(name, jnp.float64), query(jnp.float64)
    leaves, rest = eqx.partition(model, eqx.is_inexact_array)

    def energy(leaves, x):
        return measure(eqx.combine(leaves, rest), x)

    order = 2 if name in FEW else 1
    check_grads(energy, (leaves, x), order, modes=["rev"], eps=1e-5, rtol=2e-5, atol=2e-5)


@every
def test_batch_and_jit_equal_the_single_call(name):
    model = make(name)
    xs = query()[None] + 0.1 * jr.normal(jr.key(5), (3, D))
    singles = jnp.stack([model.update(x) for x in xs])
    close(jax.vmap(model.update)(xs), singles, 10)
    close(measure_all(model, xs), [measure(model, x) for x in xs], 10)
    close(model.energy(xs[0]), measure(model, xs[0]), 10)


@few
def test_batched_recall_equals_single_recalls(name):
    model = make(name)
    xs = query()[None] + 0.1 * jr.normal(jr.key(5), (3, D))
    batch = recall_all(model, xs)
    assert batch.x.shape == (3, D)
    assert batch.trajectory.x.shape == (3, 21, D)
    for i, x in enumerate(xs):
        single = model.recall(x)
        close(batch.x[i], single.x, tol=2e-3)
        close(batch.energy[i], single.energy, 10)
        assert single.result == am.RESULTS.converged
        assert batch.converged[i]


@pytest.mark.parametrize("name", [name for name in FEW if name != "user"])
def test_image_shaped_patterns_are_the_flat_memory(name):
    flat, Xi = make(name), patterns()
    images = ZOO[name](Xi.reshape(K, 2, 3))
    x = query()
    close(measure(images, x.reshape(2, 3)), measure(flat, x), 10)
    end = images.recall(x.reshape(2, 3))
    assert end.x.shape == (2, 3)
    close(end.x.reshape(-1), flat.recall(x).x, tol=1e-3)


HALF = [(name, jnp.bfloat16) for name in FEW] + [("modern", jnp.float16), ("user", jnp.float16)]


@pytest.mark.parametrize(("name", "dtype"), HALF)
def test_half_precision_is_a_storage_format(name, dtype):
    end = make(name, dtype).recall(query(dtype))
    assert end.x.dtype == dtype
    assert end.energy.dtype == jnp.float32
    assert end.result == am.RESULTS.converged
    wide = ZOO[name](patterns(dtype).astype(jnp.float32))
    full = wide.recall(query(dtype).astype(jnp.float32))
    np.testing.assert_allclose(end.x.astype(jnp.float32), full.x, atol=0.02)
    assert make(name, dtype).update(query(dtype)).dtype == dtype


@pytest.mark.parametrize("name", UNIT_STEP)
def test_unit_step_models_fall_by_unit_steps_from_any_start(name):
    model = make(name, K=12, key=7)
    x = 3 * jr.normal(jr.key(8), (64, D))
    step = jax.vmap(model.retrieve)(x)
    before, after = measure_all(model, x), measure_all(model, step)
    gain = 0.5 * jnp.sum((step - x) ** 2, axis=1)  # the convex part alone falls by this
    assert (after <= before - gain + 1e-5 * (1 + jnp.abs(before))).all()


@pytest.mark.parametrize("name", FEW)
def test_single_pattern_and_zero_pattern(name):
    Xi = patterns(K=1)
    end = ZOO[name](Xi).recall(Xi[0] * 0.9)
    assert end.result == am.RESULTS.converged
    zero = ZOO[name](jnp.zeros((K, D))).recall(query() * 0.1)
    assert jnp.isfinite(zero.x).all()
    assert zero.result == am.RESULTS.converged
