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
from amlib import _files as files, _show
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
    "reconstructor": lambda: am.RBMReconstructor(6, 4, key=KEY),
    "relaxation": lambda: am.DiscreteTimeHopfield(am.RBMReconstructor(6, 4, key=KEY)),
    "sequences": lambda: am.SequenceMemory(jnp.eye(5) * 2 - 1),
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
        say = lambda a, rest=rest, seen=seen: seen.append(repr(eqx.combine(a, rest)))
        traced = jax.make_jaxpr(say)(arrays)
        assert not traced.eqns  # to print it computes nothing
        stack = jax.tree.map(lambda a: jnp.asarray(np.stack([a, a])), arrays)
        jax.eval_shape(jax.vmap(say, axis_size=2), stack)
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


def test_numbers_names_and_what_differs_from_the_defaults_are_said():
    assert repr(am.Glauber(0.1)) == "Glauber(beta=0.1)"
    assert repr(am.Glauber(2.0, "colours")) == "Glauber(beta=2, order=Colours())"
    assert repr(am.Sweeps("permutation")) == "Sweeps()"
    assert repr(am.Euler(0.1)) == "Euler()"
    assert repr(am.Lagrangian(am.lagr_tanh, {"beta": 1.0})) == (
        "Lagrangian(function=lagr_tanh, parameters={'beta': 1})"
    )
    assert repr(am.DenseMatrixSynapse(7)) == "DenseMatrixSynapse(hidden=(7,))"
    assert repr(am.sampling.Tempering([0.5, 1.0], am.Langevin(1.0, 0.02))) == (
        "Tempering(betas=float32[2], method=Langevin(beta=1, dt=0.02))"
    )


def test_arrays_over_devices_say_how_they_lie():
    model = am.shard(am.ModernHopfield(jnp.ones((16, 4)), 1.0), jax.make_mesh((8,), ("k",)), "k")
    assert "  Xi       float32[16, 4] over 8 devices by ('k',)\n" in repr(model)


class Odd:
    """What users keep in fields."""

    def __repr__(self) -> str:
        raise RuntimeError


class Slow(am.AbstractBinaryAM):
    """A memory of a user's own, of which nothing but the fields can be had."""

    odd: Any
    many: dict[str, int]
    key: jax.Array
    sub: eqx.nn.MLP

    @property
    def state_struct(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        raise AttributeError

    def default_method(self) -> Any:
        raise ZeroDivisionError

    def energy(self, x):
        pytest.fail("to print a memory, its energy was traced")


def test_a_memory_of_ones_own_prints_whatever_it_holds():
    many = {f"name{k}": k for k in range(1000)}
    sub = eqx.nn.MLP(2, 2, 8, 3, key=KEY)
    text = repr(Slow(Odd(), many, KEY, sub))
    check(text, "Slow: ")
    assert "  odd     <Odd>\n" in text
    assert "'name3': 3, ... 996 more}\n" in text
    assert "  key     key<fry>[]\n" in text
    assert "layers       tuple\n" in text
    assert "space   Spins()" in text
    assert "method" not in text
    loop: list[Any] = []
    loop.append(loop)
    assert _show.line(loop) == "[[[[[[...]]]]]]"
    deleted = jnp.ones(())
    deleted.delete()
    assert "float32[]" in repr(Slow(deleted, {}, KEY, sub))


def test_a_module_prints_before_all_of_its_fields_are_there():
    check(repr(object.__new__(am.ClassicalHopfield)), "ClassicalHopfield")


def test_a_large_hierarchy_is_cut():
    layers = [am.TanhLayer(1) for _ in range(90)]
    text = repr(am.HAM(layers, [], []))
    assert len(text.splitlines()) == _show.LINES
    assert text.endswith("more lines")


def test_results_print_also_without_their_numbers():
    model = am.ClassicalHopfield(jnp.ones((1, 5)))
    end = model.recall(jnp.ones(5))
    assert repr(end).startswith("Recall(converged, steps 1, energy -12.5,")
    assert repr(end.trajectory).startswith("Trajectory(x0=float32[5], ")
    assert repr(end.trajectory.frames).startswith("Frames(x0=float32[5], ")
    play = am.SequenceMemory(jnp.eye(5) * 2 - 1).play(jnp.ones(5), 2)
    for result in (end, play):
        name = type(result).__name__
        assert repr(eqx.filter(result, lambda _: False)) == name
        structs = jax.eval_shape(lambda a: a, result)
        assert repr(structs).startswith(name)


def test_tables_of_measurements_do_not_print_their_numbers():
    x = np.arange(1000.0)
    said = repr(am.data.mnist("test", "bundled"))
    assert said == "Mnist(images=float32[500, 28, 28], labels=int32[500])"
    made = am.analysis.Branches(*[x] * len(am.analysis.Branches._fields))
    assert "float64[1000]" in repr(made)
    check(repr(made), "Branches")


def test_what_is_printed_short_is_compared_whole():
    """A model in a file is told from another by what is not cut."""

    class Powers(eqx.Module):
        values: tuple[int, ...]

        __repr__ = _show.text

        def __call__(self, x):
            return x

    class Holds(eqx.Module):
        inner: Powers = eqx.field(static=True)

    first, second = (Holds(Powers((1, 2, 3, 4, 5, last))) for last in (6, 7))
    assert repr(first.inner) == repr(second.inner)
    assert files.describe(first) != files.describe(second)


def test_the_picture_shows_what_the_tables_say():
    page = ham()._repr_html_()
    parses(page)
    (svg,) = re.findall(r"<svg.*</svg>", page)
    words = [node.text for node in ElementTree.fromstring(svg).iter() if node.tag.endswith("text")]
    assert {"image", "label", "<b>", "see", "say", "self", "4 x 4", "48 weights"} <= set(words)
    assert svg.count("<path") == 6
    assert svg.count("stroke-dasharray") == 1
    assert "&lt;b&gt; (no feedback)" in page
    assert "Euler()" in page
    other = am.HAM([am.TanhLayer(2)], [lambda a: -a.sum()], [(0, 0)])._repr_html_()
    name = re.compile(r'id="(holes-\w+)"')
    assert name.findall(page) != name.findall(other)
    assert "<svg" not in am.HAM([], [], [])._repr_html_()


def test_a_picture_that_fails_leaves_the_tables():
    broken = _show.Page("A", {"": [("b", "c")]}, lambda: 1 / 0)  # pyright: ignore[reportArgumentType]
    assert _show.html(broken).count("<td") == 2
