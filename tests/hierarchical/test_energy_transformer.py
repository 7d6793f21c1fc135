"""The Energy Transformer: published steps in NumPy, energies, derivatives through it."""

import functools
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.learning._epochs import partition

N, D, H, Y, M = 7, 12, 3, 5, 20
EDGES = np.random.default_rng(5).random((N, N)) < 0.4


def block(seed=0, strong=True, **words):
    """A block; `strong` gives it weights of trained sizes, and a shift."""
    made = am.EnergyTransformer(N, D, H, Y, M, key=jr.key(seed), **words)
    if not strong:
        return made
    rng = np.random.default_rng(seed)
    where = lambda b: (b.Wk, b.Wq, b.Xi, b.LNORM_gamma, b.LNORM_bias)
    new = [
        jnp.asarray(scale * rng.normal(size=a.shape) + shift, a.dtype)
        for a, scale, shift in zip(
            where(made), (0.5, 0.5, 0.3, 0.0, 0.3), (0, 0, 0, 1.3, 0), strict=True
        )
    ]
    return eqx.tree_at(where, made, new)


def tokens(seed=1, *batch):
    return jr.normal(jr.key(seed), (*batch, N, D))


# -- the published formulas, written again in NumPy ------------------------------------------------


def numpy_of(b):
    """The parameters in double precision."""
    names = ("Wk", "Wq", "Xi", "LNORM_gamma", "LNORM_bias")
    return {name: np.asarray(getattr(b, name), np.float64) for name in names}


def layer_norm(p, x):
    """Scalar gamma, vector delta, eps 1e-5; every token on its own."""
    centred = x - x.mean(-1, keepdims=True)
    root = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return p["LNORM_gamma"] * centred / root + p["LNORM_bias"]


def lagrangian(p, x):
    spread = np.sqrt(x.var(-1) + 1e-5)
    return x.shape[-1] * p["LNORM_gamma"] * spread.sum() + (p["LNORM_bias"] * x).sum()


def core(p, g, visible):
    """The two energies, and the gradient of their sum in g: derived by hand."""
    beta = p["Wk"].shape[1] ** -0.5
    attention, pull = 0.0, np.zeros_like(g)
    for Wk, Wq in zip(p["Wk"], p["Wq"], strict=True):
        K, Q = g @ Wk.T, g @ Wq.T
        weights = np.exp(beta * Q @ K.T) * visible
        total = weights.sum(1, keepdims=True)
        seen = total[:, 0] > 0
        attention -= np.log(total[seen]).sum() / beta
        share = np.divide(weights, total, out=np.zeros_like(weights), where=total > 0)
        pull -= share @ K @ Wq + share.T @ Q @ Wk
    h = np.maximum(g @ p["Xi"], 0)
    return attention, -0.5 * (h**2).sum(), pull - h @ p["Xi"].T


def published(p, x, steps, visible, alpha=0.1):
    """x <- x - alpha dE_core/dg."""
    for _ in range(steps):
        x = x - alpha * core(p, layer_norm(p, x), visible)[2]
    return x


VISIBLE = {
    "itself too": ({}, np.ones((N, N))),
    "others": ({"mask_self": True}, 1 - np.eye(N)),
    "a graph": ({"mask": EDGES}, EDGES),
    "a graph of others": ({"mask": EDGES, "mask_self": True}, EDGES * (1 - np.eye(N))),
}


@pytest.mark.parametrize("who", VISIBLE)
def test_the_published_step(who):
    """12 steps within 1e-5 of NumPy, and the energies of every one of them."""
    words, visible = VISIBLE[who]
    b, x = block(**words), tokens()
    p, start = numpy_of(b), np.asarray(x, np.float64)
    end = b.recall(x, save_every=1)
    scale = np.abs(published(p, start, 12, visible)).max()
    for n in (1, 5, 12):
        expected = published(p, start, n, visible)
        assert_allclose(end.trajectory.x[n], expected, rtol=0, atol=1e-5 * scale)
        attention, memory, _ = core(p, layer_norm(p, expected), visible)
        assert_allclose(end.trajectory.energy[n], attention + memory, rtol=1e-5)
        parts = b.energies(jnp.asarray(expected, jnp.float32))
        assert_allclose(parts["attention"], attention, rtol=1e-5)
        assert_allclose(parts["memory"], memory, rtol=1e-5)
    assert_array_equal(end.x, b(x))
    assert int(end.steps) == 12
    assert_allclose(b(x, steps=3), end.trajectory.x[3], atol=1e-5)
    assert_allclose(b.activations(x), layer_norm(p, start), atol=1e-5)


def test_the_published_step_in_double_precision(x64):
    b, x = block(), tokens()
    expected = published(numpy_of(b), np.asarray(x), 12, np.ones((N, N)))
    assert_allclose(b(x), expected, rtol=1e-11, atol=1e-11)


def test_euler_ends_elsewhere():
    """With the decay of a hierarchy: published steps do not have it."""
    b, x = block(), tokens()
    p, y = numpy_of(b), np.asarray(tokens(), np.float64)
    for _ in range(12):
        y = y - 0.1 * (y + core(p, layer_norm(p, y), np.ones((N, N)))[2])
    euler = b.recall(x, method=am.Euler(0.1), max_steps=12)
    assert_allclose(euler.x, y, atol=1e-5 * np.abs(y).max())
    assert np.linalg.norm(euler.x - b(x)) > 1


# -- it is a hierarchical memory -------------------------------------------------------------------


def test_it_is_a_hierarchy_of_the_librarys_parts():
    b, x = block(mask=EDGES), tokens()
    ham, xs = b.ham, {"tokens": x}
    assert isinstance(ham, am.HAM)
    kinds = [type(s) for s in ham.hypersynapses.values()]
    assert kinds == [am.AttentionSynapse, am.DenseMatrixSynapse]
    assert_allclose(b.energy(x), ham.energy(xs), rtol=1e-6)
    tree = ham.energy_tree(ham.activations(xs), xs)
    parts = b.energies(x)
    together = [parts["layer"], parts["attention"], parts["memory"]]
    assert_allclose(together, [tree["neurons"]["tokens"], *tree["connections"]], atol=1e-4)
    for method in (am.Euler(0.1), am.CoreEuler(0.2), am.FixedPoint(step_size=0.3)):
        one = b.recall(x, method=method, max_steps=20)
        other = ham.recall(xs, method=method, max_steps=20)
        assert_allclose(one.x, other.x["tokens"], atol=1e-5)
        assert_allclose(one.energy, other.energy, rtol=1e-6)
        assert int(one.steps) == int(other.steps)


def test_the_layers_own_energy_is_that_of_every_token(x64):
    """The published Lagrangian puts all tokens under one root, which is another energy."""
    b = block()
    x = 0.05 * tokens() * jnp.arange(1.0, N + 1)[:, None]
    p, y = numpy_of(b), np.asarray(x)
    expected = -1.3 * D * 1e-5 * (1 / np.sqrt(y.var(-1) + 1e-5)).sum()
    assert_allclose(b.energies(x)["layer"], expected, rtol=1e-9)
    legendre = (y * layer_norm(p, y)).sum() - lagrangian(p, y)
    assert_allclose(b.energies(x)["layer"], legendre, rtol=1e-9)
    centred = y - y.mean(-1, keepdims=True)
    slip = D * 1.3 * np.sqrt((centred**2).sum() / D + 1e-5) + (p["LNORM_bias"] * y).sum()
    assert abs(slip - lagrangian(p, y)) > 1


@pytest.mark.parametrize("who", VISIBLE)
def test_which_energy_falls(who, x64):
    """The core energy along published steps, the whole along those of the hierarchy."""
    words, _ = VISIBLE[who]
    for seed in range(3):
        b, x = block(seed, **words), tokens(seed + 10)
        end = b.recall(x, method=am.CoreEuler(0.02), max_steps=200, save_every=1)
        core = np.asarray(jax.vmap(b.core_energy)(end.trajectory.x))
        assert_allclose(end.trajectory.energy, core, rtol=1e-10)
        assert_allclose(end.energy, core[-1], rtol=1e-10)
        assert (np.diff(core) <= 0).all()
        assert core[-1] < core[0] - 1
        parts = end.trajectory.parts
        assert_allclose(sum(parts["connections"]), core, rtol=1e-10)
        end = b.recall(x, method=am.Euler(0.02), max_steps=200, save_every=1)
        whole = np.asarray(jax.vmap(b.energy)(end.trajectory.x))
        assert_allclose(end.trajectory.energy, whole, rtol=1e-10)
        assert (np.diff(whole) <= 0).all()


def test_the_core_energy_never_rises_at_the_published_step():
    """As in the paper: 12 steps of 0.1, weights as they begin, in single precision."""
    end = jax.vmap(lambda x: block(strong=False).recall(x, save_every=1))(tokens(3, 20))
    energy = np.asarray(end.trajectory.energy)
    assert (np.diff(energy, axis=1) <= 1e-6 * np.abs(energy[:, 1:])).all()
    assert not (end.result == am.RESULTS.ascent).any()


def test_steps_too_long_are_said_to_go_up():
    ham = am.HAM([am.TanhLayer(2)], [am.DenseSynapse(-jnp.eye(2))], [((0, 0), 0)])  # E = g.g
    x = [jnp.array([1.0, -0.5])]
    assert ham.recall(x, method=am.CoreEuler(0.1)).result == am.RESULTS.step_limit
    assert ham.recall(x, method=am.CoreEuler(5.0)).result == am.RESULTS.ascent


def test_core_steps_of_any_hierarchy():
    """Time constants, several layers, what is held; and the energies in parts."""
    layers = {"a": am.TanhLayer(4), "b": am.SoftmaxLayer(3, tau=2.0)}
    ham = am.HAM(layers, {"s": am.DenseSynapse()}, [(("a", "b"), "s")])
    xs, ham = ham.init_states_and_params(jr.key(0), state_key=jr.key(1))
    W = np.asarray(ham.hypersynapses["s"].W)
    a, b = (np.asarray(xs[n], np.float64) for n in "ab")
    for _ in range(5):
        ga, gb = np.tanh(a), np.exp(b) / np.exp(b).sum()
        a, b = a + 0.3 * W @ gb, b + 0.3 / 2 * W.T @ ga
    end = ham.recall(xs, method=am.CoreEuler(0.3, steps=5))
    assert_allclose(end.x["a"], a, atol=1e-6)
    assert_allclose(end.x["b"], b, atol=1e-6)
    assert_allclose(end.energy, -np.tanh(a) @ W @ (np.exp(b) / np.exp(b).sum()), rtol=1e-5)
    assert set(end.trajectory.parts) == {"neurons", "connections"}
    held = ham.recall(xs, method=am.CoreEuler(0.3), clamp="a")
    assert_array_equal(held.x["a"], xs["a"])
    assert np.abs(held.x["b"] - xs["b"]).max() > 0.01
    way = am.Connection(("a", "b"), "s", no_feedback="a")
    directed = am.HAM(layers, ham.hypersynapses, [way]).recall(xs, method=am.CoreEuler(0.3))
    assert_array_equal(directed.x["a"], xs["a"])
    empty = am.HAM([am.IdentityLayer(3)], [], [])
    assert empty.recall([jnp.ones(3)], method=am.CoreEuler()).energy == 0
    with pytest.raises(TypeError, match=r"CoreEuler: must move a hierarchical memory"):
        am.ModernHopfield(jnp.ones((2, 3)), 1.0).recall(jnp.ones(3), method=am.CoreEuler())
    for wrong in (0, -3):
        with pytest.raises(ValueError, match=r"CoreEuler: steps: must be at least 1"):
            am.CoreEuler(0.1, wrong)
    with pytest.raises(ValueError, match=r"dt: must be finite and greater than 0"):
        am.CoreEuler(-0.1)


def test_what_is_held_stays():
    b, x = block(), tokens()
    held = np.zeros((N, D), bool)
    held[:3] = True
    for method in (None, am.Euler(0.1), am.FixedPoint(step_size=0.3)):
        end = b.recall(x, method=method, clamp=held)
        assert_array_equal(end.x[:3], x[:3])
        assert np.abs(end.x[3:] - x[3:]).max() > 0.1
    with pytest.raises(ValueError, match=r"clamp: must have the shape \(7, 12\)"):
        b.recall(x, clamp=held[:, 0])


# -- what a token hears ----------------------------------------------------------------------------


def test_a_token_hears_those_it_sees_and_those_that_see_it(x64):
    """The energy is one for both ends of an edge, so signals go both ways, and nowhere else."""
    edges = np.eye(N, dtype=bool)
    edges[1, 4] = edges[2, 0] = True
    b = block().masked(edges)
    heard = jax.jacobian(lambda x: b(x, steps=1))(tokens())
    reached = np.abs(heard).max(axis=(1, 3)) > 0
    assert_array_equal(reached, edges | edges.T)


def test_a_graph_for_each_example():
    b, x = block(), tokens(1, 3)
    edges = jr.bernoulli(jr.key(3), 0.5, (3, N, N))
    together = jax.vmap(lambda x, e: b.masked(e)(x))(x, edges)
    for k in range(3):
        alone = block(mask=np.asarray(edges[k]))(x[k])
        assert_allclose(together[k], alone, atol=1e-4)
    assert_allclose(b.masked(edges[0]).masked(None)(x[0]), b(x[0]), atol=1e-5)


# -- derivatives -----------------------------------------------------------------------------------


def loss(parts, rest, x, target, **words):
    """One number that depends on all that is trained."""
    b = eqx.combine(parts, rest)
    return jnp.sum((b.activations(b.recall(x, **words).x) - target) ** 2)


@pytest.mark.parametrize("remat", [True, False])
def test_derivatives_in_every_parameter(remat, x64):
    """`jit` of `vmap` of `grad`, by finite differences."""
    parts, rest = eqx.partition(block(remat=remat, mask_self=True), eqx.is_inexact_array)
    x, target = tokens(1, 2), tokens(2, 2)
    total = lambda parts, x: jnp.mean(jax.vmap(lambda x, t: loss(parts, rest, x, t))(x, target))
    slope = jax.jit(jax.grad(total, argnums=(0, 1)))(parts, x)
    each = jax.jit(jax.vmap(jax.grad(loss), (None, None, 0, 0)))(parts, rest, x, target)
    for a, b in zip(jax.tree.leaves(each), jax.tree.leaves(slope[0]), strict=True):
        assert_allclose(a.mean(0), b, rtol=1e-9, atol=1e-11)
    leaves, structure = jax.tree.flatten((parts, x))
    value = jax.jit(total)
    for k, (leaf, grad) in enumerate(zip(leaves, jax.tree.leaves(slope), strict=True)):
        move = jnp.asarray(np.random.default_rng(k).normal(size=leaf.shape))
        at = lambda h, k=k, move=move: jax.tree.unflatten(
            structure, [a + h * move if i == k else a for i, a in enumerate(leaves)]
        )
        numeric = (value(*at(1e-5)) - value(*at(-1e-5))) / 2e-5
        assert_allclose(jnp.sum(grad * move), numeric, rtol=1e-5, atol=1e-7)
        assert abs(float(numeric)) > 1e-6


def test_the_derivative_at_rest_is_that_of_many_steps(x64):
    """Implicit and unrolled, through what is held, which is all that rest remembers."""
    b, x, target = block(), tokens(), tokens(2)
    held = np.zeros((N, D), bool)
    held[:4] = True
    parts, rest = partition(b, None)
    run = functools.partial(loss, rest=rest, target=target, clamp=held)
    rested = jax.jit(
        jax.grad(lambda p, x: run(p, x=x, method=am.FixedPoint(step_size=0.2), tol=1e-11,
                                  max_steps=5000), argnums=(0, 1))
    )(parts, x)  # fmt: skip
    walked = jax.jit(
        jax.grad(lambda p, x: run(p, x=x, method=am.Euler(0.2, remat=True), max_steps=800),
                 argnums=(0, 1))
    )(parts, x)  # fmt: skip
    for a, c in zip(jax.tree.leaves(rested), jax.tree.leaves(walked), strict=True):
        assert_allclose(a, c, rtol=1e-5, atol=1e-6)
    assert_allclose(rested[1][4:], 0, atol=1e-9)
    assert np.abs(rested[1][:4]).max() > 1e-3


def test_what_keeps_states_alone_takes_less_memory():
    """And gives the same derivative."""
    found = {}
    for remat in (True, False):
        b = am.EnergyTransformer(N, D, H, Y, 200, steps=40, remat=remat, key=jr.key(0))
        parts, rest = eqx.partition(b, eqx.is_inexact_array)
        grad = jax.jit(jax.grad(lambda p, x, rest=rest: loss(p, rest, x, x)))
        program = grad.lower(parts, tokens()).compile()
        memory: Any = program.memory_analysis()
        found[remat] = memory.temp_size_in_bytes, program(parts, tokens())
    assert found[True][0] < 0.5 * found[False][0]
    for a, b in zip(*(jax.tree.leaves(found[r][1]) for r in (True, False)), strict=True):
        assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_training_moves_the_published_parameters_and_no_others():
    b = block()
    parts, _ = partition(b, None)
    names = {p[0].name for p, _ in jax.tree_util.tree_leaves_with_path(parts)}
    assert names == {"Wk", "Wq", "Xi", "LNORM_gamma", "LNORM_bias"}


# -- sizes, dtypes and what is wrong ---------------------------------------------------------------


def test_one_token():
    b = am.EnergyTransformer(1, D, H, Y, M, key=jr.key(0))
    end = b.recall(jnp.arange(1.0, D + 1)[None], save_every=1)
    assert (jnp.diff(end.trajectory.energy) <= 1e-4).all()
    with pytest.raises(ValueError, match=r"mask_self=True there must be at least 2 tokens; 1 came"):
        am.EnergyTransformer(1, D, H, Y, M, mask_self=True, key=jr.key(0))


def test_a_token_that_sees_nothing_adds_nothing():
    b, x = block(mask=np.zeros((N, N), bool)), tokens()
    assert b.energies(x)["attention"] == 0
    assert np.isfinite(b(x)).all()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_how_numbers_are_stored(dtype):
    half = jax.tree.map(lambda a: a.astype(dtype), block())
    x = tokens().astype(dtype)
    end = half.recall(x)
    assert end.x.dtype == half(x).dtype == half.activations(x).dtype == dtype
    assert end.energy.dtype == half.energy(x).dtype == jnp.float32
    wide = jax.tree.map(lambda a: a.astype(jnp.float32), half)
    assert_array_equal(end.x, wide(x.astype(jnp.float32)).astype(dtype))
    assert block()(x.astype(jnp.float16)).dtype == jnp.float32  # a state is in the model's dtype


@pytest.mark.parametrize(
    ("sizes", "words", "message"),
    [
        ((0, 4, 1, 1, 1), {}, "tokens: must be at least 1; 0 came"),
        ((3, 1, 1, 1, 1), {}, "features: must be at least 2; 1 came"),
        ((3, 4, 0, 1, 1), {}, "heads: must be at least 1"),
        ((3, 4, 1, 0, 1), {}, "head_width: must be at least 1"),
        ((3, 4, 1, 1, 0), {}, "memories: must be at least 1"),
        ((3, 4, 1, 1, 1), {"alpha": 0.0}, "alpha: must be finite and greater than 0"),
        ((3, 4, 1, 1, 1), {"beta": -1.0}, "beta: must be finite and greater than 0"),
        ((3, 4, 1, 1, 1), {"steps": 0}, "steps: must be at least 1; 0 came"),
        ((3, 4, 1, 1, 1), {"mask": np.ones((4, 4), bool)}, r"mask must have shape .* = \(3, 3\)"),
        ((3, 4, 1, 1, 1), {"mask": np.ones((3, 3))}, "mask: must be a boolean array"),
    ],
)
def test_sizes_that_do_not_fit(sizes, words, message, unchecked):
    with pytest.raises(ValueError, match=message):
        am.EnergyTransformer(*sizes, key=jr.key(0), **words)


def test_states_and_kinds_that_do_not_fit(unchecked):
    b, make = block(), cast(Any, am.EnergyTransformer)
    for call in (b, b.recall, b.energy, b.energies, b.core_energy, b.activations):
        with pytest.raises(ValueError, match=r"must have shape \(7, 12\); \(3, 7, 12\) came"):
            call(tokens(1, 3))
        with pytest.raises(ValueError, match=r"must have shape \(7, 12\); \(8, 12\) came"):
            call(jnp.ones((8, D)))
    with pytest.raises(ValueError, match=r"mask must have shape"):
        b.masked(np.ones((3, 3), bool))
    with pytest.raises(TypeError, match=r"mask_self: must be True or False; 'no' came"):
        make(3, 4, 1, 1, 1, mask_self="no", key=jr.key(0))
    with pytest.raises(TypeError, match=r"steps= came\. The number of steps is max_steps="):
        b.recall(tokens(), steps=3)
    with pytest.raises(TypeError, match=r"must be one for real units; Sweeps came"):
        b.recall(tokens(), method=am.Sweeps())
    with pytest.raises(TypeError, match=r"key: must be one random key"):
        make(3, 4, 1, 1, 1, key=0)
    assert_array_equal(b(np.ones((N, D), int)), b(jnp.ones((N, D))))  # integers are numbers


def test_a_block_is_saved_and_read(tmp_path):
    b = block(3, mask=EDGES)
    am.save(tmp_path / "b.am", b)
    again = am.load(tmp_path / "b.am", block(4, mask=~EDGES))
    assert_array_equal(again(tokens()), b(tokens()))
