"""Laws of every hierarchy: falling energy, true gradients, rest, and training through recall."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from registry import LAGRANGIANS, SYNAPSES, synapse

import amlib as am
from amlib.hierarchical import energies

# -- every Lagrangian with every synapse -----------------------------------------------------------


@functools.cache
def pair(lagrangian, name):
    """All layers of one synapse, each with this Lagrangian."""
    shapes = SYNAPSES[name][1]
    layers = [LAGRANGIANS[lagrangian](shape) for shape in shapes]
    layers[0] = LAGRANGIANS[lagrangian](shapes[0], tau=2.0)
    return layers, (tuple(range(len(layers))), 0)


def speeds(ham, xs):
    """How fast the energy changes along the flow, and how far the forces are off autograd's."""
    xhats = energies.activations(ham, xs)
    names = tuple(range(len(xs)))
    forces = energies.forces(ham, xhats, xs, names)
    plain = jax.grad(lambda g: energies.energy(ham, g, xs))(xhats)
    off = jnp.stack([jnp.max(jnp.abs(forces[k] - plain[k])) for k in names])
    flow = [-forces[k] / ham.neurons[k].tau for k in names]
    total = lambda x: energies.energy(ham, energies.activations(ham, x), x)
    energy, speed = jax.jvp(total, (xs,), (flow,))
    parts = jax.tree.leaves(energies.energy_tree(ham, xhats, xs))
    size = sum(jnp.sum(f * f) for f in flow)
    return speed, jnp.max(off), energy - sum(parts), size, jnp.sum(jnp.abs(jnp.stack(parts)))


def laws_of_pairs(name, lagrangians):
    """The law for a synapse and some Lagrangians, compiled as one program."""
    hams = {}
    for lagrangian in lagrangians:
        layers, connection = pair(lagrangian, name)
        hams[lagrangian] = am.HAM(layers, [synapse(name)], [connection])
    shapes = SYNAPSES[name][1]
    scale = np.linspace(0.1, 3.0, 6)
    xs = [
        scale.reshape(-1, *[1] * len(s)) * np.random.default_rng(k).normal(size=(6, *s))
        for k, s in enumerate(shapes)
    ]
    measure = lambda xs: {k: jax.vmap(lambda x, h=h: speeds(h, x))(xs) for k, h in hams.items()}
    for lagrangian, values in jax.jit(measure)(xs).items():
        speed, off, gap, size, magnitude = map(np.asarray, values)
        where = f"{lagrangian} x {name}"
        assert (speed <= 1e-10 * (size + magnitude)).all(), where
        assert (speed < 0).any(), where
        assert (off <= 1e-10 * (1 + magnitude)).all(), where
        np.testing.assert_allclose(gap, 0.0, atol=1e-10 * magnitude.max(), err_msg=where)


@pytest.mark.parametrize("name", SYNAPSES)
def test_the_energy_falls_along_the_flow_with_every_synapse(name, x64):
    laws_of_pairs(name, ["tanh"])


def test_the_energy_falls_along_the_flow_with_every_lagrangian(x64):
    laws_of_pairs("matrix", LAGRANGIANS)


@pytest.mark.slow
@pytest.mark.parametrize("name", SYNAPSES)
def test_the_energy_falls_along_the_flow_of_every_pair(name, x64):
    laws_of_pairs(name, LAGRANGIANS)


# -- random hierarchies ----------------------------------------------------------------------------

SIZES = {"a": 3, "b": 2, "c": 4}


KINDS = ["identity", "tanh", "sigmoid", "softmax", "layernorm", "spherical"]


@st.composite
def hierarchies(draw):
    """Kinds and time constants of up to three layers, and what is joined by dense memories."""
    names = draw(st.sampled_from([("a", "b"), ("a", "b", "c")]))
    layers = {n: (draw(st.sampled_from(KINDS)), draw(st.sampled_from([1.0, 3.0]))) for n in names}
    ends = st.lists(st.sampled_from(names), min_size=1, max_size=2, unique=True)
    return layers, draw(st.lists(ends, min_size=1, max_size=3))


def build(layers, joined):
    """The hierarchy of a draw."""
    made = {n: LAGRANGIANS[kind](SIZES[n], tau=tau) for n, (kind, tau) in layers.items()}
    synapses = {f"s{k}": am.DenseMatrixSynapse(3, am.lagr_relu) for k in range(len(joined))}
    return am.HAM(made, synapses, [(ends, f"s{k}") for k, ends in enumerate(joined)])


@settings(max_examples=3, deadline=None, derandomize=True)
@given(hierarchies(), st.integers(0, 2**31 - 1))
def test_random_hierarchies_obey_the_laws(parts, seed):
    with jax.enable_x64(True):
        xs, ham = build(*parts).init_states_and_params(jr.key(seed), 4, jr.key(seed + 1))
        xhats = ham.vactivations(xs)
        total, gradient = ham.vectorize().dEdact(xhats, xs, return_energy=True)
        tree = ham.vectorize().energy_tree(xhats, xs)
        np.testing.assert_allclose(total, sum(jax.tree.leaves(tree)), rtol=1e-9, atol=1e-9)
        plain = jax.vmap(jax.grad(ham.energy), axis_size=4)(xhats, xs)
        for name in xs:
            np.testing.assert_allclose(gradient[name], plain[name], rtol=1e-9, atol=1e-9)
        end = ham.vectorize().recall(xs, 60, 0.02)
        energy = np.asarray(end.trajectory.energy)
        assert (np.diff(energy, axis=1) <= 1e-9 * (1 + np.abs(energy).max())).all()
        for i in range(2):
            one = ham.recall(jax.tree.map(lambda x, i=i: x[i], xs), 60, 0.02)
            for name in xs:
                np.testing.assert_allclose(end.x[name][i], one.x[name], rtol=1e-9, atol=1e-9)


# -- rest, and training through recall -------------------------------------------------------------


def trained():
    """A hierarchy whose rest depends smoothly on its weights."""
    layers = {"x": am.TanhLayer(4), "h": am.SoftmaxLayer(3), "y": am.SigmoidLayer(2)}
    synapses = {"up": am.DenseSynapse(), "out": am.DenseSynapse()}
    ham = am.HAM(layers, synapses, [(("x", "h"), "up"), (("h", "y"), "out")])
    return ham.init_states_and_params(jr.key(3), state_key=jr.key(4))


def test_at_rest_the_gradient_is_zero(x64):
    xs, ham = trained()
    end = ham.recall(xs, 5000, clamp="x", method=am.FixedPoint(step_size=0.3))
    assert end.result == am.RESULTS.converged
    gradient = ham.dEdact(ham.activations(end.x), end.x)
    for name in ("h", "y"):
        np.testing.assert_allclose(gradient[name], 0.0, atol=1e-7)


def test_unrolled_and_implicit_training_have_the_same_gradient(x64):
    xs, ham = trained()
    weights, rest = eqx.partition(ham, eqx.is_inexact_array)

    def loss(weights, method, steps):
        ham = eqx.combine(weights, rest)
        end = ham.recall(xs, steps, 0.3, clamp="x", method=method)
        return jnp.sum(end.x["y"] ** 2) + jnp.sum(ham.activations(end.x)["h"][0])

    unrolled = jax.grad(loss)(weights, None, 200)
    fixed = jax.grad(loss)(weights, am.FixedPoint(step_size=0.3), 2000)
    flow = jax.grad(loss)(weights, am.Flow(), 2000)
    size = 0.0
    for a, b, c in zip(*map(jax.tree.leaves, (unrolled, fixed, flow)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_allclose(a, c, atol=1e-6)
        size += float(np.abs(a).sum())
    assert size > 0.1


# -- the published package -------------------------------------------------------------------------


PUBLISHED = (
    "identity", "relu", "repu", "exp", "rexp", "tanh", "sigmoid", "softmax", "layernorm",
    "spherical_norm", "ghostmax",
)  # fmt: skip


def published(module, seed):
    """A random hierarchy, in the classes and functions of a module."""
    rng = np.random.default_rng(seed)
    kinds = rng.choice(PUBLISHED, rng.integers(2, 5), replace=False)
    sizes = dict(zip(kinds, map(int, rng.integers(2, 7, len(kinds))), strict=True))
    neurons, synapses, connections = {}, {}, []
    for kind, size in sizes.items():
        lagrangian = getattr(module, f"lagr_{kind}")
        if kind == "repu":
            lagrangian = functools.partial(lagrangian, n=3.0)
        neurons[kind] = module.NeuronLayer(lagrangian, (size,))
    for k in range(rng.integers(1, 5)):
        ends = tuple(str(end) for end in rng.choice(kinds, 2))
        W = jnp.asarray(rng.normal(size=[sizes[end] for end in ends]), jnp.float32)
        b = jnp.asarray(rng.normal(size=W.shape[1]), jnp.float32)
        synapses[f"s{k}"], ends = [
            (module.LinearSynapse(W=W), ends),
            (module.LinearSynapseWithBias(W=W, b=b), ends),
            (module.BiasSynapse(b=b), ends[1:]),
        ][rng.integers(3)]
        connections.append((ends, f"s{k}"))
    return module.HAM(neurons, synapses, connections)


@pytest.mark.parametrize("seed", range(5))
def test_energies_and_gradients_are_those_of_the_published_package(seed, capsys):
    pytest.importorskip("fastcore")
    hamux = pytest.importorskip("hamux", reason="needs the test extra")
    ours, theirs = published(am, seed), published(hamux, seed)
    xs = ours.init_states(key=jr.key(seed))
    xhats, expected = ours.activations(xs), theirs.activations(xs)
    energy, gradient = ours.dEdact(xhats, xs, return_energy=True)
    their_energy, their_gradient = theirs.dEdact(xhats, xs, return_energy=True)
    scale = 1e-5 * sum(float(jnp.abs(x).max()) for x in [*xhats.values(), *xs.values()])
    np.testing.assert_allclose(energy, their_energy, rtol=1e-5, atol=scale)
    for name in xs:
        np.testing.assert_allclose(xhats[name], expected[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(gradient[name], their_gradient[name], rtol=1e-4, atol=scale)
    parts, their_parts = ours.energy_tree(xhats, xs), theirs.energy_tree(xhats, xs)
    for name in xs:
        np.testing.assert_allclose(
            parts["neurons"][name], their_parts["neurons"][name], rtol=1e-5, atol=scale
        )
    np.testing.assert_allclose(
        parts["connections"], their_parts["connections"], rtol=1e-5, atol=scale
    )
