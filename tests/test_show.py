"""How memories, methods, layers and results print: laws over all registries, and the exact form."""

import functools
import html.parser
import re
from collections.abc import Callable, Mapping
from typing import Any
from xml.etree import ElementTree

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib import _show
from tests.continuous import zoo as reals
from tests.hierarchical import registry as parts
from tests.potts import zoo as potts
from tests.sampling import registry as samplers
from tests.zoo import BINARY

KEY = jr.key(0)


def ham() -> am.HAM:
    layers = {"image": am.TanhLayer((4, 4)), "label": am.SoftmaxLayer(3), "<b>": am.ReluLayer(2)}
    links = [
        (("image", "label"), "see"),
        am.Connection(("label", "<b>"), "say", "<b>"),
        (("image", "image"), "self"),
    ]
    synapses = {"see": am.DenseSynapse(), "say": am.DenseSynapse(), "self": lambda a, b: -a.sum()}
    return am.HAM(layers, synapses, links).init_states_and_params(KEY)[1]


METHODS: dict[str, Callable[[], Any]] = {
    "Sweeps": lambda: am.Sweeps("random"), "Greedy": am.Greedy, "Synchronous": am.Synchronous,
    "GradientDescent": lambda: am.GradientDescent(0.5), "CCCP": am.CCCP, "Euler": am.Euler,
    "Flow": am.Flow, "FixedPoint": am.FixedPoint, "Relax": am.Relax, "CoreEuler": am.CoreEuler,
    "ReverseSDE": am.ReverseSDE, "ProbabilityFlow": am.ProbabilityFlow,
}  # fmt: skip
SPACES: dict[str, Callable[[], Any]] = {
    "Spins": am.Spins, "Bits": am.Bits, "Reals": am.Reals, "Values": lambda: am.Values(3),
    "Box": lambda: am.Box(-2.0, 2.0), "Sphere": lambda: am.Sphere(3.0),
}  # fmt: skip
LARGE: dict[str, Callable[[], Any]] = {
    "HAM": ham,
    "VectorizedHAM": lambda: ham().vectorize(),
    "network": lambda: am.hierarchical.models.HAMNetwork(ham(), "image", "label"),
    "transformer": lambda: am.EnergyTransformer(5, 8, 2, 4, 6, key=KEY),
    "pictures": lambda: am.ImageEnergyTransformer((8, 8), 4, 8, 2, 4, 6, key=KEY),
    "layer": lambda: am.nn.Hopfield(16, key=KEY),
    "lookup": lambda: am.nn.HopfieldLayer(16, quantity=3, key=KEY),
    "pooling": lambda: am.nn.HopfieldPooling(16, key=KEY),
    "reconstructor": lambda: am.RBMReconstructor((6,), 4, key=KEY),
    "relaxation": lambda: am.DiscreteTimeHopfield(am.RBMReconstructor((6,), 4, key=KEY)),
    "sequences": lambda: am.SequenceMemory(reals.patterns()),
    "diffusion": lambda: am.DiffusionMemory(reals.patterns()),
}
REGISTRIES: dict[str, Mapping[str, Callable[[], Any]]] = {
    "binary": BINARY,
    "potts": {name: functools.partial(make, 3) for name, make in potts.POTTS.items()},
    "continuous": {name: functools.partial(reals.make, name) for name in reals.ZOO},
    "layers": {name: functools.partial(make, 3) for name, make in parts.LAGRANGIANS.items()},
    "synapses": {name: functools.partial(parts.synapse, name) for name in parts.SYNAPSES},
    "samplers": {
        name: functools.partial(make, 1.0)
        for name, make in (samplers.BITS | samplers.REALS).items()
    },
    "methods": METHODS,
    "spaces": SPACES,
    "large": LARGE,
}


def check(text: str, name: str) -> None:
    lines = text.splitlines()
    assert text.startswith(name), text
    assert len(lines) <= 30, text
    assert max(map(len, lines)) <= 120, text
    assert not re.search(r" at 0x|f32\[|<function", text), text


class Tags(html.parser.HTMLParser):
    """Tags that are open, and a complaint where another is closed."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None: ...

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def parses(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert not tags.open
    ElementTree.fromstring(page)  # strict: all that is there is escaped


@pytest.mark.parametrize("room", REGISTRIES)
def test_everything_prints_as_a_short_block_wherever_it_is_printed(room):
    """The same twice and made anew; traced, stacked, with shapes alone and with holes."""
    for make in REGISTRIES[room].values():
        model, seen = make(), []
        name = type(model).__name__
        text = repr(model)
        check(text, name)
        assert text == repr(model) == repr(make())
        arrays, rest = eqx.partition(model, eqx.is_array)
        traced = jax.make_jaxpr(lambda a: seen.append(repr(eqx.combine(a, rest))))(arrays)  # noqa: B023
        assert not traced.eqns  # to print it computes nothing
        stack = jax.tree.map(lambda a: jnp.stack([a, a]), arrays)
        jax.eval_shape(jax.vmap(lambda a: seen.append(repr(eqx.combine(a, rest)))), stack)  # noqa: B023
        structs = jax.eval_shape(lambda a: a, arrays)
        for odd in (stack, structs):
            seen.append(repr(eqx.combine(odd, rest)))
        seen += [repr(arrays), repr(rest)]
        for text in seen:
            check(text, name)
        if hasattr(model, "_repr_html_"):
            for odd in (model, rest, eqx.combine(structs, rest)):
                parses(odd._repr_html_())


def test_a_memory_says_its_sizes_fields_and_method():
    Xi = jnp.asarray(np.random.default_rng(0).choice([-1.0, 1.0], (20, 48, 48)), jnp.float32)
    assert repr(am.PolynomialDenseAM(Xi, 4, rectified=False)).splitlines() == [
        "PolynomialDenseAM: K = 20, D = 2,304 (48 x 48), 184 kB",
        "  Xi          float32[20, 48, 48]",
        "  n           4",
        "  rectified   False",
        "  space       Spins()",
        "  method      Sweeps()",
    ]
