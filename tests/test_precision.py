"""Matrix products are in full, whatever accelerators do by default, where energies are compared."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest

import amlib as am
from amlib.descent import descend
from tests.continuous.zoo import ZOO
from tests.engine import equations
from tests.potts.zoo import POTTS, N
from tests.zoo import BINARY

PRODUCTS = ("dot_general", "conv_general_dilated")
REALS = jr.normal(jr.key(0), (3, 7))
SITES = jnp.zeros(N, jnp.int32)
LAYERS, ham = am.HAM(
    {"a": am.TanhLayer(4), "b": am.SoftmaxLayer(3)},
    {"s": am.DenseSynapse()},
    [(("a", "b"), "s")],
).init_states_and_params(jr.key(0))
BITS = {name: case() for name, case in BINARY.items()}
CALLS = {
    **{f"bits, {name}": (m.recall, jnp.ones(BINARY[name].shape)) for name, m in BITS.items()},
    **{f"values, {name}": (make(3).recall, SITES) for name, make in POTTS.items()},
    **{f"reals, {name}": (make(REALS).recall, REALS[0]) for name, make in ZOO.items()},
    "layers": (ham.recall, LAYERS),
    "flip energies": (BITS["ising"].flip_energies, jnp.ones(7)),
    "fixed point": (BITS["ising"].is_fixed_point, jnp.ones(7)),
    "visits": (lambda x: BITS["ising"].async_recall(x, 3, jr.key(0))[0], jnp.ones(7)),
    "ising": (BITS["ising"].energy, jnp.ones(7)),
    "overlaps": (am.ClassicalHopfield(REALS).energy, jnp.ones(7)),
    "distances": (am.EpanechnikovMemory(REALS, 0.1).energy, REALS[0]),
    "scores": (am.GaussianMemory(REALS, 0.1).energy, REALS[0]),
    "descent": (lambda x: descend(lambda y: y @ y, x, am.GradientDescent(0.1)).x, REALS[0]),
}


def precisions(fn, x) -> list[str]:
    """Of each product of floats in a program, the precision that is asked for."""
    made = [e for e in equations(fn, x) if e.primitive.name in PRODUCTS]
    floats = [e for e in made if jnp.issubdtype(e.outvars[0].aval.dtype, jnp.floating)]
    return [str(e.params["precision"]) for e in floats]


@pytest.mark.parametrize("name", CALLS)
def test_products_are_in_full(name):
    fn, x = CALLS[name]
    assert all("HIGHEST" in p for p in precisions(fn, x))


def test_most_of_these_have_products():
    without = {name for name, (fn, x) in CALLS.items() if not precisions(fn, x)}
    assert len(without) < len(CALLS) / 4, without


def test_a_precision_that_is_asked_for_is_used():
    memory = am.ModernHopfield(REALS)
    with jax.default_matmul_precision("tensorfloat32"):
        asked = precisions(memory.recall, REALS[0])
    assert len(asked) >= 4
    assert all("HIGH" in p and "HIGHEST" not in p for p in asked)
    assert precisions(memory.energy, REALS[0]) == ["None"]  # JAX's own: nothing is compared here


@pytest.mark.parametrize("steps", [0, 2, None])
def test_layers_are_as_the_network_around_them(steps):
    """Whose other products are as JAX is set, and as fast as that is."""
    layer = am.nn.Hopfield(6, 3, update_steps_max=steps, key=jr.key(0))
    x = jr.normal(jr.key(1), (5, 6))
    for call in (layer, lambda x: am.attention(x, x, x), lambda x: am.nn.retrieve(x, x)):
        asked = precisions(call, x)
        assert len(asked) > 1
        assert not [p for p in asked if "HIGH" in p]
    with jax.default_matmul_precision("highest"):
        assert all("HIGHEST" in p for p in precisions(layer, x))
