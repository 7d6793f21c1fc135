"""What was learnt on one family of memories and is said otherwise in another: one clear error."""

import inspect
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from tests import users
from tests.zoo import spins

Xi = jnp.asarray(spins(0, 3, 6), jnp.float32)
binary, continuous = am.ClassicalHopfield(Xi), am.ModernHopfield(Xi, 1.0)


def hierarchical(am=am):
    layers = {"a": am.TanhLayer(4), "b": am.SoftmaxLayer(3)}
    ham = am.HAM(layers, {"s": am.DenseSynapse()}, [(("a", "b"), "s")])
    return ham.init_states_and_params(jr.key(0))


STATES, ham = hierarchical()
BATCH = jax.tree.map(lambda a: a[None], STATES)
RECALLS = {
    "binary": (lambda **k: binary.recall(Xi[0], **k), am.BinaryAM.recall),
    "continuous": (lambda **k: continuous.recall(Xi[0], **k), am.ContinuousAM.recall),
    "hierarchical": (lambda **k: ham.recall(STATES, **k), am.HAM.recall),
    "vectorized": (lambda **k: ham.vectorize().recall(BATCH, **k), am.HAM.recall),
}
VALUES = {
    "method": am.CCCP(), "order": "greedy", "beta": 1.0, "key": jr.key(0), "steps": 3,
    "max_steps": 3, "max_sweeps": 3, "nsteps": 3, "dt": 0.1, "tol": 1e-3, "record": 1,
    "save_every": 1, "clamp": "a", "project": am.Box(0, 1),
}  # fmt: skip


def takes(family: str) -> list[str]:
    return list(inspect.signature(RECALLS[family][1]).parameters)[2:]


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in RECALLS for name in VALUES if name not in takes(family)],
)
def test_a_keyword_of_another_family(family, name):
    """It says which keywords there are, and names the right one or why there is none."""
    names = ", ".join(takes(family))
    message = rf"^(HAM\.)?recall: takes (x0|xs), {names}; {name}= came\. [A-Z].+\.(\n|$)"
    with pytest.raises(TypeError, match=message):
        RECALLS[family][0](**{name: VALUES[name]})


@pytest.mark.parametrize(
    ("family", "name", "instead"),
    [
        ("binary", "method", "order"),
        ("binary", "steps", "max_sweeps"),
        ("binary", "save_every", "record"),
        ("continuous", "steps", "max_steps"),
        ("continuous", "dt", "step_size"),
        ("continuous", "order", "method"),
        ("continuous", "clamp", "project"),
        ("hierarchical", "max_steps", "steps"),
        ("hierarchical", "record", "save_every"),
    ],
)
def test_the_keyword_that_is_named_exists(family, name, instead):
    with pytest.raises(TypeError, match=rf" came\. .*{instead}\b"):
        RECALLS[family][0](**{name: VALUES[name]})
    assert instead in takes(family) or instead in inspect.signature(am.GradientDescent).parameters


@pytest.mark.parametrize(
    ("family", "typo", "name"),
    [("binary", "max_sweep", "max_sweeps"), ("continuous", "toll", "tol"),
     ("hierarchical", "clamps", "clamp")],
)  # fmt: skip
def test_a_misspelt_keyword(family, typo, name):
    with pytest.raises(TypeError, match=rf"{typo}= came\. Did you mean {name}=\?$"):
        RECALLS[family][0](**{typo: 1})
    with pytest.raises(TypeError, match=r"zzz= came\.$"):
        RECALLS[family][0](zzz=1)


def test_visits_have_their_own_keywords():
    for name, message in (
        ("steps", "number of visits is nsteps="),
        ("order", r"recall\(x, \.\.\.\)"),
    ):
        with pytest.raises(
            TypeError, match=rf"^async_recall: takes x0, nsteps, key; {name}= .*{message}"
        ):
            binary.async_recall(Xi[0], **{name: 3})  # pyright: ignore[reportArgumentType]


def test_the_cures_for_held_units_work():
    held, values = jnp.array([0, 3]), jnp.array([1.0, -1.0])

    class Held(am.BinaryAM):
        def energy(self, x):
            return -0.5 * jnp.sum((self.Xi @ x) ** 2) - 100 * jnp.sum(x[held] * values)

    np.testing.assert_array_equal(Held(Xi).recall(-Xi[0]).x[held], values)
    end = continuous.recall(Xi[1], project=lambda x: x.at[held].set(values))
    np.testing.assert_array_equal(end.x[held], values)


def test_a_continuous_energy_that_jax_cannot_trace():
    class Bad(am.ContinuousAM):
        def energy(self, x):
            return jnp.asarray(np.dot(x, x))

    message = re.escape("energy: must be a function that JAX can trace; NumPy asked for the values")
    for call in (Bad(Xi).recall, Bad(Xi).update):
        with pytest.raises(TypeError, match=f"^{message}"):
            call(Xi[0])


def test_hierarchical_parts_that_jax_cannot_trace():
    with pytest.raises(
        TypeError, match=r"synapse 's': must be a function that JAX can trace; NumPy"
    ):
        am.HAM({"a": am.TanhLayer(4)}, {"s": lambda a: np.dot(a, a)}, [(("a",), "s")])
    with pytest.raises(TypeError, match=r"the Lagrangian: must be .* that JAX can trace; NumPy"):
        am.NeuronLayer(lambda x: np.dot(x, x), 4)


@pytest.mark.parametrize("key", [0, "a", np.zeros(3, np.uint32)], ids=["integer", "text", "three"])
def test_keys_of_a_hierarchical_memory(key):
    _, ham = hierarchical(users.am)
    message = r"^HAM\.{}: {}: must be one random key; .* came\. "
    with pytest.raises(TypeError, match=message.format("init_states_and_params", "param_key")):
        ham.init_states_and_params(key)
    for made in (ham, ham.vectorize()):
        with pytest.raises(TypeError, match=message.format("init_states", "key")):
            made.init_states(2, key)
