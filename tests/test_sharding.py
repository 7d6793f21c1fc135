"""Memories over 8 devices: the same answers, and what is sent."""

import contextlib
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import jaxtyping
import numpy as np
import pytest
from jax import P
from jax.sharding import AxisType, NamedSharding
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.descent import streaming
from amlib.sharding import collectives

K, D, Q = 64, 24, 8
SPINS = jr.rademacher(jr.key(0), (K, D), jnp.float32)
REALS = jr.normal(jr.key(1), (K, D))
EDGES = jnp.asarray(np.random.default_rng(0).integers(0, D, (2, 60)), jnp.int32)
NOISY = SPINS[:Q] * jnp.where(jr.uniform(jr.key(2), (Q, D)) < 0.2, -1.0, 1.0)
NEAR = REALS[:Q] + 0.3 * jr.normal(jr.key(3), (Q, D))
KEYS = jr.split(jr.key(4), Q)


class Classical(am.BinaryAM):
    def energy(self, x):
        return -0.5 * jnp.sum((self.Xi @ x) ** 2)


class MHN(am.ContinuousAM):
    beta: float = 2.0

    def energy(self, x):
        return 0.5 * jnp.sum(x**2) - jax.nn.logsumexp(self.beta * (self.Xi @ x)) / self.beta


class Graph(am.AbstractBinaryAM):
    edges: jax.Array

    def energy(self, x):
        return -jnp.sum(x[self.edges[0]] * x[self.edges[1]])


BINARY: dict[str, Any] = {
    "a user's": Classical(SPINS),
    "classical": am.ClassicalHopfield(SPINS),
    "polynomial": am.PolynomialDenseAM(SPINS, 4),
    "log form": am.PolynomialDenseAM(SPINS, 40),
    "exponential": am.ExponentialDenseAM(SPINS, beta=0.5),
    "int8": am.ExponentialDenseAM(SPINS.astype(jnp.int8)),
    "many": am.ExponentialDenseAM(jr.rademacher(jr.key(9), (1600, D), jnp.float32)),
}
REAL: dict[str, Any] = {
    "a user's": MHN(REALS),
    "modern": am.ModernHopfield(REALS, beta=2.0),
    "with values": am.ModernHopfield(REALS, beta=2.0, values=SPINS),
    "gaussian": am.GaussianMemory(REALS, beta=3.0),
    "sparse": am.SparseHopfield(REALS),
    "kernel": am.KernelMemory(REALS, "dot"),
}
MESHES = {
    "k": ((8,), ("k",), None),
    "batch": ((8,), ("batch",), None),
    "both": ((2, 4), ("batch", "k"), None),
    "explicit k": ((8,), ("k",), AxisType.Explicit),
    "explicit both": ((2, 4), ("batch", "k"), AxisType.Explicit),
}


def placed(name: str, memory: Any, *batches: Any) -> tuple[Any, ...]:
    """A memory and batches, over a mesh: by `am.shard`, or on a mesh of the user's own."""
    sizes, names, kind = MESHES[name]
    if kind is None:
        mesh = jax.make_mesh(sizes, names)  # `Explicit` by default
        own = am.shard(memory, mesh, "k" if "k" in names else None)
        rest = (am.shard(b, mesh, "batch" if "batch" in names else None) for b in batches)
        return own, *rest
    mesh = jax.make_mesh(sizes, names, axis_types=(kind,) * len(sizes))
    n = memory.Xi.shape[0]
    divided = lambda a: P("k") if a.shape[:1] == (n,) else P()
    lay = lambda a: jax.device_put(a, NamedSharding(mesh, divided(a))) if eqx.is_array(a) else a
    batch = NamedSharding(mesh, P("batch") if "batch" in names else P())
    return jax.tree.map(lay, memory), *(jax.device_put(b, batch) for b in batches)


def same(got: Any, expected: Any, exact: bool) -> None:
    arrays = lambda tree: [np.asarray(a) for a in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    if got["energy"] is None:
        expected["energy"] = None
    for a, b in zip(arrays(got), arrays(expected), strict=True):
        if exact and a.dtype.kind == "f" and set(np.unique(a)) <= {-1.0, 1.0}:
            assert_array_equal(a, b)
        else:
            assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def energies(memory: Any, x: Any) -> dict[str, Any]:
    # Under `Explicit` axes, functions outside of the library must say themselves how sums lie.
    if jax.typeof(memory.Xi).sharding.mesh.explicit_axes:
        return {"energy": None}
    return {"energy": jax.vmap(memory.energy)(x)}


def bits(memory: Any, x: Any, keys: Any) -> dict[str, Any]:
    recall = jax.vmap(lambda x, k: memory.recall(x, key=k))(x, keys)
    found = {
        "recall": (recall.x, recall.energy, recall.steps),
        "one": memory.recall(NOISY[0], key=jr.key(4), max_steps=20).x,
    } | energies(memory, x)
    if not isinstance(memory, Classical | am.ExponentialDenseAM) or memory.Xi.shape[0] > K:
        return found  # the rest is compiled from the same parts
    return found | {
        "greedy": jax.vmap(lambda x: memory.recall(x, method=am.Greedy()).x)(x),
        "glauber": jax.vmap(lambda x, k: memory.recall(x, beta=0.1, key=k, max_steps=3).x)(x, keys),
        "async": jax.vmap(lambda x, k: memory.async_recall(x, 40, k)[0])(x, keys),
        "flips": jax.vmap(memory.flip_energies)(x),
        "fixed": jax.vmap(memory.is_fixed_point)(recall.x),
    }


def reals(memory: Any, x: Any) -> dict[str, Any]:
    end = jax.vmap(memory.recall)(x)
    found = {
        "recall": (end.x, end.energy, end.steps),
        "one": memory.recall(NEAR[0], max_steps=5).x,
        "kept": jax.vmap(lambda x: memory.recall(x, save_every=1, max_steps=3))(x).trajectory.x,
        "implicit": jax.vmap(lambda x: memory.recall(x, method=am.FixedPoint()).x)(x),
        "update": jax.vmap(memory.update)(x),
    } | energies(memory, x)
    if memory.unit_step:
        found["retrieve"] = jax.vmap(memory.retrieve)(x)
    if hasattr(memory, "readout"):
        found["readout"] = jax.vmap(memory.readout)(x)
    return found


def recall_of(memory, x):
    return jax.vmap(lambda x: memory.recall(x, max_steps=3).x)(x)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", BINARY)
def test_bits_end_as_on_one_device(name, mesh):
    memory = BINARY[name]
    rarely = {"many": ("k", "both"), "exponential": ("k", "both", "explicit both")}
    if name != "a user's" and mesh not in rarely.get(name, ("both",)):
        pytest.skip("once is enough")
    same(bits(*placed(mesh, memory, NOISY, KEYS)), bits(memory, NOISY, KEYS), exact=True)


@pytest.mark.parametrize("mesh", MESHES)
@pytest.mark.parametrize("name", REAL)
def test_reals_end_as_on_one_device(name, mesh):
    if name not in ("a user's", "modern") and mesh != "both":
        pytest.skip("once is enough")
    if name == "a user's" and mesh.startswith("explicit"):
        pytest.skip("there the user's own products must say how they lie, outside of recall")
    same(reals(*placed(mesh, REAL[name], NEAR)), reals(REAL[name], NEAR), exact=False)


@pytest.mark.parametrize("mesh", ["explicit k", "explicit both"])
def test_an_energy_that_says_nothing_of_explicit_axes_is_recalled(mesh):
    memory, x = placed(mesh, REAL["a user's"], NEAR)
    for around in (jax.vmap, lambda f: jax.jit(jax.vmap(f))):
        got = around(lambda x: memory.recall(x).x)(x)
        assert_allclose(got, jax.vmap(REAL["a user's"].recall)(NEAR).x, atol=2e-5)
    assert_allclose(memory.recall(NEAR[0]).x, np.asarray(got)[0], atol=2e-5)


def test_under_a_mesh_that_is_set():
    mesh = jax.make_mesh((8,), ("k",))
    expected = REAL["a user's"].recall(NEAR[0]).x
    with jax.set_mesh(mesh):
        memory = am.shard(REAL["a user's"], mesh, "k")
        assert memory.Xi.sharding.mesh.axis_types == (AxisType.Explicit,)
        assert_allclose(memory.recall(NEAR[0]).x, expected, atol=2e-5)
        assert_array_equal(
            am.shard(BINARY["classical"], mesh, "k").recall(NOISY[0]).x,
            BINARY["classical"].recall(NOISY[0]).x,
        )


def test_edges_stay_known():
    memory, keys = Graph(EDGES), KEYS
    mesh = jax.make_mesh((8,), ("batch",))
    run = lambda x: jax.vmap(lambda x, k: memory.recall(x, method=am.Sweeps("colours"), key=k))(
        x, keys
    )
    x = am.shard(NOISY, mesh, "batch")
    assert_array_equal(run(x).x, run(NOISY).x)
    copied = am.shard(memory, mesh, None)
    assert_array_equal(copied.recall(NOISY[0]).x, memory.recall(NOISY[0]).x)


@pytest.mark.parametrize("mesh", ["k", "both", "explicit k"])
@pytest.mark.parametrize("block", [None, 2])
def test_gradients_in_patterns_and_queries(mesh, block, monkeypatch):
    if block is not None:
        monkeypatch.setattr(streaming, "STREAM_ABOVE", 3)
        monkeypatch.setattr(streaming, "BLOCK", block)
    jax.clear_caches()
    loss = lambda both: jnp.sum(jnp.sin(recall_of(*both)))
    both = placed(mesh, REAL["modern"], NEAR)
    explicit = mesh.startswith("explicit")
    # The sum over all states is the test's own, and what it is of lies on the mesh.
    with jax.set_mesh(both[0].Xi.sharding.mesh) if explicit else contextlib.nullcontext():
        got = eqx.filter_grad(loss)(both)
    expected = eqx.filter_grad(loss)((REAL["modern"], NEAR))
    assert got[0].Xi.sharding.spec[0] == "k"
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-4)
    jax.clear_caches()


# -- what is sent --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a user's", "modern", "gaussian"])
def test_no_device_gathers_the_patterns(name, monkeypatch):
    # A set of queries is sent at the most, whole sums of them: never an array with K in it.
    monkeypatch.setattr(streaming, "STREAM_ABOVE", 4)
    monkeypatch.setattr(streaming, "BLOCK", 2)
    memory, x = placed("k", REAL[name], NEAR)
    fns = {
        "recall": recall_of,
        "update": lambda memory, x: jax.vmap(memory.update)(x),
        "energy": lambda memory, x: jax.vmap(memory.energy)(x),
        "gradient": lambda memory, x: eqx.filter_grad(
            lambda memory: jnp.sum(jnp.sin(recall_of(memory, x)))
        )(memory),
    }
    for fn in fns.values():
        sent = collectives(fn, memory, x)
        assert {op.kind for op in sent} == {"all-reduce"}
        assert max(op.bytes for op in sent) <= Q * D * 4


def test_streaming_takes_a_share_of_the_memory():
    many, x = am.ModernHopfield(jr.normal(jr.key(0), (2**17, 16)), beta=0.5), NEAR[:, :16]
    bytes_of = {}
    for n in (1, 2, 4, 8):
        mesh = jax.make_mesh((n,), ("k",), devices=jax.devices()[:n])
        memory = am.shard(many, mesh, "k")
        compiled = jax.jit(lambda m, x: jax.vmap(m.retrieve)(x)).lower(memory, x).compile()
        found: Any = compiled.memory_analysis()
        bytes_of[n] = found.argument_size_in_bytes + found.temp_size_in_bytes
    patterns = many.Xi.nbytes
    for n, size in bytes_of.items():
        assert size < patterns / n + 2e6
    assert bytes_of[8] < bytes_of[1] / 4


@pytest.mark.parametrize("name", ["classical", "many"])
def test_lanes_of_queries_send_nothing(name):
    memory, x = placed("explicit both", BINARY[name], NOISY)
    memory = jax.device_put(BINARY[name], NamedSharding(x.sharding.mesh, P()))
    ends = collectives(recall_of, memory, x)
    # Under `jit`, whether a state holds spins is asked of all devices, once and before the loops.
    assert all(op.loops == () and op.bytes <= 4 * D for op in ends)
    got = recall_of(*placed("batch", BINARY[name], NOISY))
    assert got.sharding.spec[0] == "batch"


def test_flips_send_a_few_sums_and_near_a_memory_none(capsys):
    memory, _ = placed("k", BINARY["many"], NOISY)
    memory.explain()
    lines = {line[:9].strip(): line[10:] for line in capsys.readouterr().out.splitlines()}
    lines = {name: line.strip() for name, line in lines.items()}
    assert lines["devices"] == "8"
    sent = lines["sent"].split()
    assert int(sent[0]) <= 40
    text = "\n".join(lines.values())
    assert "nothing a flip" in text
    BINARY["many"].explain()
    assert "devices" not in capsys.readouterr().out


def test_largest_and_entry_are_those_of_one_device():
    from amlib import _shards as shards

    v = jnp.asarray(np.random.default_rng(1).integers(0, 9, 64), jnp.float32)
    mesh = jax.make_mesh((8,), ("k",))
    for n in (1, 5, 8, 13, 64):
        got = jax.jit(lambda v, n=n: shards.largest(v, n))(am.shard(v, mesh, "k"))
        assert_array_equal(got[0], jax.lax.top_k(v, n)[0])
        assert_array_equal(got[1], jax.lax.top_k(v, n)[1])
    infinite = v.at[3].set(jnp.inf)
    for i in (0, 3, 63):
        one = jax.jit(shards.entry)(am.shard(infinite, mesh, "k"), jnp.asarray(i))
        assert one == infinite[i]


# -- shard ---------------------------------------------------------------------------------------


def test_what_is_divided_and_what_is_copied():
    mesh = jax.make_mesh((2, 4), ("a", "b"))
    memory: Any = am.shard(am.ModernHopfield(REALS, values=SPINS), mesh, ("a", "b"))
    assert memory.Xi.sharding.spec == P(("a", "b"))
    assert memory.values.sharding.spec == P(("a", "b"))
    assert memory.beta.sharding.is_fully_replicated
    assert memory.Xi.sharding.mesh.axis_types == (AxisType.Auto,) * 2
    user: Any = am.shard(MHN(REALS, 3.0), mesh, "b")
    assert user.beta == 3.0
    assert user.Xi.addressable_shards[0].data.shape == (K // 4, D)
    tree: Any = am.shard({"x": np.zeros((8, 3)), "y": jnp.zeros(8)}, mesh, "b")
    assert all(a.sharding.spec == P("b") for a in tree.values())
    J = jnp.zeros((8, 8))
    ising = am.shard(am.BipolarIsing(J), mesh, lambda path, a: P("a", "b"))
    assert ising.J.addressable_shards[0].data.shape == (4, 2)
    assert not math.isnan(float(ising.energy(jnp.ones(8))))


@pytest.mark.parametrize(
    ("tree", "over", "message"),
    [
        (am.ClassicalHopfield(SPINS), "q", "one of 'k'"),
        (am.ClassicalHopfield(SPINS[:12]), "k", "multiple of the 8 devices"),
        (am.BipolarIsing(jnp.zeros((8, 8))), "k", "has none"),
        (jnp.zeros(12), "k", "multiple of the 8 devices"),
        (jnp.zeros(()), "k", "an axis for each"),
    ],
)
def test_what_cannot_be_divided(tree, over, message):
    with pytest.raises(ValueError, match=message):
        am.shard(tree, jax.make_mesh((8,), ("k",)), over)


def test_a_mesh_must_come():
    with pytest.raises((TypeError, jaxtyping.TypeCheckError), match="mesh"):
        am.shard(jnp.zeros(8), jax.devices(), "k")  # pyright: ignore[reportArgumentType]
