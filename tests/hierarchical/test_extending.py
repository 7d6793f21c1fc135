"""A Lagrangian, a layer and a synapse of a reader's own, written as they would write them.

The classes stand in the guide "Extend amlib". None of the three models is in the library.
"""

import inspect
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jaxtyping import Array, Float
from numpy.testing import assert_allclose, assert_array_less

import amlib as am

# -- a Lagrangian: a convex function of a state ----------------------------------------------------


def lagr_huber(x: Array, delta: Array) -> Array:
    r"""The pseudo-Huber function: an activation that is linear near 0 and saturates at `delta`.

    $$L(x) = \delta \sum_i \sqrt{\delta^2 + x_i^2}, \qquad
    \nabla L = \frac{\delta x}{\sqrt{\delta^2 + x^2}}$$
    """
    return delta * jnp.sum(jnp.sqrt(delta**2 + x**2))


def HuberLayer(shape: int | tuple[int, ...], delta: float = 1.0) -> am.NeuronLayer:
    """A layer of such units; `delta` is trained with the rest."""
    return am.NeuronLayer(am.Lagrangian(lagr_huber, {"delta": delta}), shape)


# -- a layer: a Lagrangian with parameters for every unit -----------------------------------------


class Shrink(eqx.Module):
    r"""The soft threshold of sparse coding, with a threshold for every unit.

    $$L(x) = \frac12 \sum_i \max(0, |x_i| - \lambda_i)^2, \qquad
    \nabla L = \mathrm{sign}(x) \max(0, |x| - \lambda)$$

    The energy of the layer is that of the LASSO, $\frac12 \|\hat x\|^2 + \sum_i \lambda_i
    |\hat x_i|$ (Rozell et al. 2008).
    """

    threshold: Float[Array, "..."]

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, ""]:
        return 0.5 * jnp.sum(jax.nn.relu(jnp.abs(x) - self.threshold) ** 2)


def ShrinkLayer(shape: int, threshold: float = 0.1, tau: float = 1.0) -> am.NeuronLayer:
    return am.NeuronLayer(Shrink(jnp.full(shape, threshold)), shape, tau)


class Dictionary(eqx.Module):
    r"""Explain an input by few atoms: $\frac12 \|s - \Phi^\top a\|^2 - \frac12 \|a\|^2$."""

    atoms: Float[Array, "codes inputs"]

    def __call__(self, s: Float[Array, " inputs"], a: Float[Array, " codes"]) -> Float[Array, ""]:
        return 0.5 * jnp.sum((s - a @ self.atoms) ** 2) - 0.5 * jnp.sum(a**2)


# -- a synapse: an energy of activations, with weights that wait for the shapes of the layers ------


class GatedSynapse(am.AbstractSynapse):
    r"""Let each of several layers gate how the others are connected, through a few factors.

    $$E = -\sum_f \prod_l (W^l \hat x^l)_f$$

    For three layers it is a third-order tensor of rank `n_factors` (Memisevic and Hinton 2010).
    """

    lazy: ClassVar[tuple[str, ...]] = ("W",)

    n_factors: int = eqx.field(static=True)
    W: tuple[Float[Array, "factors size"], ...] | None = None

    def init(self, key, *shapes) -> "GatedSynapse":
        sizes = [np.empty(shape).size for shape in shapes]
        keys = jr.split(key, len(sizes))
        W = [jr.normal(k, (self.n_factors, n)) / n**0.5 for k, n in zip(keys, sizes, strict=True)]
        return GatedSynapse(self.n_factors, tuple(W))

    def __call__(self, *xhats) -> Float[Array, ""]:
        seen = [W @ jnp.ravel(g) for W, g in zip(self.W or (), xhats, strict=True)]
        return -jnp.sum(jnp.prod(jnp.stack(seen), axis=0))


# -- they are used ---------------------------------------------------------------------------------


def huber_memory(key):
    """Two layers of different shapes, joined by a matrix."""
    layers = {"a": HuberLayer((2, 3), delta=0.7), "b": HuberLayer(4, delta=1.5)}
    return am.HAM(layers, {"see": am.DenseSynapse(std=1.0)}, [(("a", "b"), "see")])


def sparse_coder(key):
    """The locally competitive algorithm: an input, held, and a code for it."""
    atoms = jr.normal(key, (12, 6))
    atoms = atoms / jnp.linalg.norm(atoms, axis=1, keepdims=True)
    layers = {"input": am.IdentityLayer(6), "code": ShrinkLayer(12, 0.2, tau=2.0)}
    return am.HAM(layers, {"see": Dictionary(atoms)}, [(("input", "code"), "see")])


def gated_memory(key):
    """Three layers, each of which gates the other two."""
    layers = {"a": am.TanhLayer((2, 3)), "b": am.TanhLayer(4), "c": am.SoftmaxLayer(5)}
    return am.HAM(layers, {"gate": GatedSynapse(7)}, [(("a", "b", "c"), "gate")])


MODELS = {"Lagrangian": huber_memory, "layer": sparse_coder, "synapse": gated_memory}


def made(name, seed=0):
    """A memory with weights, and a state."""
    weights, state = jr.split(jr.key(seed))
    xs, ham = MODELS[name](weights).init_states_and_params(weights, state_key=state)
    return ham, xs


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("seed", range(3))
def test_the_energy_falls_along_recall_to_a_rest(name, seed, x64):
    ham, xs = made(name, seed)
    clamp = ("input",) if name == "layer" else ()
    end = ham.recall(xs, steps=4000, dt=0.05, clamp=clamp, tol=1e-8)
    energy = np.asarray(end.trajectory.energy)
    assert end.converged
    assert energy[-1] < energy[0] - 0.1
    assert np.diff(energy).max() <= 1e-12 * np.abs(energy).max()


@pytest.mark.parametrize("name", MODELS)
def test_the_forces_are_the_gradient_of_the_energy_by_finite_differences(name, x64):
    ham, xs = made(name)
    xhats = ham.activations(xs)
    forces = ham.dEdact(xhats, xs)
    step = 1e-6
    for layer, x in xhats.items():
        direction = jr.normal(jr.key(7), x.shape)
        ends = [ham.energy(xhats | {layer: x + s * step * direction}, xs) for s in (1, -1)]
        slope = jnp.sum(forces[layer] * direction)
        assert_allclose((ends[0] - ends[1]) / (2 * step), slope, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize(
    "layer", [HuberLayer(6, 0.7), ShrinkLayer(6, 0.3)], ids=["huber", "shrink"]
)
def test_the_activation_is_the_gradient_of_the_lagrangian(layer, x64):
    layer = jax.tree.map(lambda a: a.astype(float), layer)
    x = jnp.array([-2.0, -0.5, -0.1, 0.2, 0.4, 3.0])
    step = 1e-6
    ends = [
        jax.vmap(lambda e, s=s: layer.lagrangian(x + s * step * e))(jnp.eye(6)) for s in (1, -1)
    ]
    assert_allclose(layer.activations(x), (ends[0] - ends[1]) / (2 * step), atol=1e-8)


def test_the_activations_are_those_of_the_formulas():
    x = np.linspace(-4, 4, 50, dtype=np.float32)
    huber, shrink = HuberLayer(50, 0.7).activations(x), ShrinkLayer(50, 0.3).activations(x)
    assert_allclose(huber, 0.7 * x / np.sqrt(0.7**2 + x**2), rtol=1e-5)
    assert_array_less(np.abs(huber), 0.7)
    assert_allclose(shrink, np.sign(x) * np.maximum(np.abs(x) - 0.3, 0), atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_is_as_many_recalls(name):
    ham, _ = made(name)
    xs = ham.init_states(5, jr.key(3))
    batch = ham.vectorize().recall(xs, steps=20, dt=0.1)
    for k in range(5):
        one = ham.recall(jax.tree.map(lambda x, k=k: x[k], xs), steps=20, dt=0.1)
        assert_allclose(batch.energy[k], one.energy, rtol=1e-5)
        for layer, x in one.x.items():
            assert_allclose(batch.x[layer][k], x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_training_reaches_every_parameter(name, x64):
    """The derivative of what recall ends with, in a random direction of all parameters."""
    ham, xs = made(name)
    ham = jax.tree.map(lambda a: a.astype(float), ham)
    arrays, rest = eqx.partition(ham, eqx.is_inexact_array)

    def loss(arrays):
        end = eqx.combine(arrays, rest).recall(xs, steps=6, dt=0.2)
        return sum(jnp.sum(jnp.sin(x)) for x in end.x.values())

    leaves, tree = jax.tree.flatten(arrays)
    keys = jr.split(jr.key(1), len(leaves))
    moves = [jr.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    slopes = jax.tree.leaves(jax.grad(loss)(arrays))
    step = 1e-6
    for k, move in enumerate(moves):
        shift = lambda s, k=k, move=move: jax.tree.unflatten(
            tree, [a + s * step * move if j == k else a for j, a in enumerate(leaves)]
        )
        numeric = (loss(shift(1)) - loss(shift(-1))) / (2 * step)
        assert abs(numeric) > 1e-6
        assert_allclose(jnp.sum(slopes[k] * move), numeric, rtol=1e-5)


def test_the_code_solves_the_lasso(x64):
    """At rest no atom explains more of the residual than its threshold; those in use, as much."""
    ham, xs = made("layer")
    end = ham.recall(xs, steps=4000, dt=0.1, clamp="input", tol=1e-10)
    code = np.asarray(ham.activations(end.x)["code"])
    atoms = np.asarray(ham.synapses["see"].atoms)
    explained = atoms @ (np.asarray(xs["input"]) - code @ atoms)
    used = code != 0
    assert 0 < used.sum() <= 6
    assert_allclose(explained[used], 0.2 * np.sign(code[used]), atol=1e-7)
    assert_array_less(np.abs(explained[~used]), 0.2)


def test_the_gated_synapse_is_a_tensor_of_low_rank(x64):
    ham, xs = made("synapse")
    U, V, W = ham.synapses["gate"].W
    full = am.DenseSynapse(jnp.einsum("fi,fj,fk->ijk", U, V, W))
    xhats = list(ham.activations(xs).values())
    assert_allclose(ham.connection_energies(ham.activations(xs))[0], full(*xhats), rtol=1e-12)


def test_each_is_under_forty_lines():
    for parts in [(lagr_huber, HuberLayer), (Shrink, ShrinkLayer, Dictionary), (GatedSynapse,)]:
        assert sum(len(inspect.getsource(part).splitlines()) for part in parts) < 40
