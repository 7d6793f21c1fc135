"""What was learnt on one family of memories and is said otherwise in another: one clear error."""

import inspect
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.memory import VERB
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
reconstructor = am.DenseReconstructor(6)
block = am.EnergyTransformer(3, 4, 1, 2, 5, key=jr.key(0))
RECALLS = {
    "binary": (binary, lambda **k: binary.recall(Xi[0], **k)),
    "continuous": (continuous, lambda **k: continuous.recall(Xi[0], **k)),
    "hierarchical": (ham, lambda **k: ham.recall(STATES, **k)),
    "vectorized": (ham, lambda **k: ham.vectorize().recall(BATCH, **k)),
    "tokens": (block, lambda **k: block.recall(jnp.ones((3, 4)), **k)),
    "reconstructor": (reconstructor, lambda **k: reconstructor.recall(Xi[0], **k)),
}
VALUES = {
    "order": "greedy", "beta": 1.0, "steps": 3, "max_sweeps": 3, "nsteps": 3, "dt": 0.1,
    "record": 1, "project": am.Box(0, 1), "update": "asynchronous",
}  # fmt: skip


def takes(family: str) -> tuple[str, ...]:
    return (*VERB, *RECALLS[family][0]._words)


def test_the_verb_is_one_function_that_no_family_overrides():
    assert all(model.recall.__func__ is am.AbstractMemory.recall for model, _ in RECALLS.values())
    words = list(inspect.signature(am.AbstractMemory.recall).parameters)
    assert words == ["self", "x0", "words", *VERB, "more"]


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family in RECALLS for name in VALUES if name not in takes(family)],
)
def test_a_keyword_of_another_family(family, name):
    """It says which keywords there are, and names the right one or why there is none."""
    names = ", ".join(takes(family))
    cure = r"[A-Z].+\." if name in RECALLS[family][0]._elsewhere else ""
    message = rf"^(HAM\.)?recall: takes {names}; {name}= came\. ?{cure}(\n|$)"
    with pytest.raises(TypeError, match=message):
        RECALLS[family][1](**{name: VALUES[name]})


@pytest.mark.parametrize(
    ("family", "name", "instead"),
    [
        ("binary", "steps", "max_steps"),
        ("continuous", "steps", "max_steps"),
        ("continuous", "dt", "step_size"),
        ("continuous", "order", "method"),
        ("continuous", "record", "save_every"),
        ("hierarchical", "max_sweeps", "max_steps"),
        ("hierarchical", "record", "save_every"),
        ("reconstructor", "update", "method"),
        ("reconstructor", "steps", "max_steps"),
    ],
)
def test_the_keyword_that_is_named_exists(family, name, instead):
    with pytest.raises(TypeError, match=rf" came\. .*{instead}\b"):
        RECALLS[family][1](**{name: VALUES[name]})
    assert instead in takes(family) or instead in inspect.signature(am.GradientDescent).parameters


def test_older_words_are_the_verb():
    """What each family had as words of its own gives bit for bit what the verb gives."""
    key = jr.key(3)
    pairs = [
        (binary.recall(-Xi[1], order="random", key=key, max_sweeps=3, record=2),
         binary.recall(-Xi[1], method=am.Sweeps("random", record=2), key=key, max_steps=3)),
        (binary.recall(-Xi[1], order="greedy"), binary.recall(-Xi[1], method=am.Greedy())),
        (binary.recall(-Xi[1], order="synchronous"),
         binary.recall(-Xi[1], method=am.Synchronous())),
        (binary.recall(-Xi[1], beta=0.5, key=key, max_sweeps=4, order="sequential"),
         binary.recall(-Xi[1], method=am.Glauber(0.5, "sequential"), key=key, max_steps=4)),
        (ham.recall(STATES, 7, 0.3), ham.recall(STATES, method=am.Euler(0.3), max_steps=7)),
        (ham.recall(STATES, steps=7, dt=0.3), ham.recall(STATES, 7, 0.3)),
        (ham.recall(STATES), ham.recall(STATES, 100, 0.1)),
    ]  # fmt: skip
    for old, new in pairs:
        for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            np.testing.assert_array_equal(a, b)


def test_words_that_say_a_thing_twice():
    for call, message in (
        (lambda: binary.recall(Xi[0], max_sweeps=3, max_steps=3), "are the same; both came"),
        (lambda: ham.recall(STATES, 3, max_steps=3), "are the same; both came"),
        (lambda: binary.recall(Xi[0], order="random", method=am.Sweeps()), "is a field of a meth"),
        (lambda: ham.recall(STATES, 3, steps=4), "takes one state"),
        (lambda: binary.recall(Xi[0], Xi[1]), "takes one state"),
        (lambda: binary.recall(Xi[0], tol=1e-3), "tol= is of real states"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


@pytest.mark.parametrize(
    ("family", "typo", "name"),
    [("binary", "max_sweep", "max_sweeps"), ("continuous", "toll", "tol"),
     ("hierarchical", "clamps", "clamp")],
)  # fmt: skip
def test_a_misspelt_keyword(family, typo, name):
    with pytest.raises(TypeError, match=rf"{typo}= came\. Did you mean {name}=\?$"):
        RECALLS[family][1](**{typo: 1})
    with pytest.raises(TypeError, match=r"zzz= came\.$"):
        RECALLS[family][1](zzz=1)


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
