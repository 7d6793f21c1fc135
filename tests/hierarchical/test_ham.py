"""HAM: both published interfaces, the graph's errors, energies, dynamics and batches."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from matplotlib.patches import PathPatch

import amlib as am
import amlib as hmx
from amlib.hierarchical import models

KEY = jr.key(0)


class Product(eqx.Module):
    """A user's own synapse: any callable module."""

    W: jax.Array

    def __call__(self, a, b):
        return -jnp.sum(a @ self.W * b)


def small():
    neurons = {"input": am.NeuronLayer(am.lagr_tanh, 6), "hidden": am.ReluLayer(4)}
    W = jr.normal(KEY, (6, 4)) / 3
    return am.HAM(neurons, {"dense1": Product(W)}, [(("input", "hidden"), "dense1")])


def some_states(ham, seed=1, scale=1.0):
    xs = ham.init_states(key=jr.key(seed))
    return jax.tree.map(lambda x: scale * x, xs)


# -- the published interfaces ---------------------------------------------------------------------


def test_the_first_published_interface_runs_as_written():
    layers = [
        hmx.TanhLayer((32, 32, 3)),
        hmx.SigmoidLayer((11, 11, 1000)),
        hmx.SoftmaxLayer((10,)),
        hmx.ReluLayer((1000,)),
    ]
    synapses = [hmx.ConvSynapse((3, 3), strides=3), hmx.DenseSynapse(), hmx.DenseSynapse()]
    connections = [([0, 1], 0), ([1, 3], 1), ([2, 3], 2)]
    ham = hmx.HAM(layers, synapses, connections)
    example = hmx.ConvSynapse((3, 3), strides=3).example_output(jnp.ones((32, 32, 3)))
    assert example.shape == (11, 11, 1)
    # The weights of the second synapse alone are 484 MB: make them as shapes only.
    states, made = jax.eval_shape(lambda k: ham.init_states_and_params(k), jax.random.PRNGKey(0))
    assert [s.shape for s in states] == [(32, 32, 3), (11, 11, 1000), (10,), (1000,)]
    assert made.synapses[1].W.shape[-1] == 1000
    assert np.prod(made.synapses[1].W.shape) == 11 * 11 * 1000 * 1000


def test_the_first_interface_moves_batches_of_lists():
    layers = [hmx.TanhLayer((5,)), hmx.SigmoidLayer((2, 3)), hmx.SoftmaxLayer((4,))]
    ham = hmx.HAM(layers, [hmx.DenseSynapse(), hmx.DenseSynapse()], [([0, 1], 0), ([1, 2], 1)])
    states, ham = ham.init_states_and_params(jax.random.PRNGKey(0), bs=3, state_key=KEY)
    assert isinstance(states, list)
    masks = jax.tree.map(lambda x: jnp.ones_like(x, dtype=jnp.int8), states)
    masks[0] = jnp.zeros_like(masks[0])
    moved = ham.step(states, ham.vupdates(states), dt=0.3, masks=masks)
    assert (moved[0] == states[0]).all()
    assert not (moved[1] == states[1]).all()
    assert (ham.venergy(moved) < ham.venergy(states)).all()
    assert ham.vactivations(moved)[-1].shape == (3, 4)
    np.testing.assert_allclose(ham.vdEdg(states)[1], -ham.vupdates(states)[1])
    np.testing.assert_allclose(
        ham.venergy(states)[0], ham.energy(jax.tree.map(lambda x: x[0], states)), rtol=1e-5
    )


def test_the_later_interface_runs_as_written():
    ham = small()
    xs = ham.init_states()
    assert xs["input"].shape == (6,)
    xs = some_states(ham)
    xhats = ham.activations(xs)
    tree = ham.energy_tree(xhats, xs)
    assert set(tree) == {"neurons", "connections"}
    energy, grads = ham.dEdact(xhats, xs, return_energy=True)
    np.testing.assert_allclose(energy, sum(jax.tree.leaves(tree)), rtol=1e-6)
    np.testing.assert_allclose(ham.energy(xhats, xs), energy, rtol=1e-6)
    np.testing.assert_allclose(grads["hidden"], ham.dEdact(xhats, xs)["hidden"])
    assert len(ham.connection_energies(xhats)) == ham.n_connections == 1
    assert set(ham.neuron_energies(xhats, xs)) == {"input", "hidden"}
    vham = ham.vectorize()
    bxs = vham.init_states(7)
    assert bxs["hidden"].shape == (7, 4)
    assert vham.energy(vham.activations(bxs), bxs).shape == (7,)
    assert vham.unvectorize() is ham
    assert vham.vectorize() is vham
    assert ham.unvectorize() is ham


# -- the graph ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("connection", "message"),
    [
        ((("input", "hiden"), "dense1"), r"no layer 'hiden'.*Did you mean 'hidden'\?"),
        ((("input", "hidden"), "dens1"), r"no synapse 'dens1'.*Did you mean 'dense1'\?"),
        ((("input",), "dense1"), r"synapse 'dense1' must take .*'input' \(6,\); it raised TypeErr"),
        ((("hidden", "input"), "dense1"), r"'hidden' \(4,\), 'input' \(6,\); it raised"),
        ((("input", "hidden"), "dense1", 3), r"must be a pair of layers and a synapse"),
        ("dense1", r"must be a pair of layers and a synapse"),
        (((), "dense1"), r"at least one layer"),
        (((1.5,), "dense1"), r"must be names"),
    ],
)
def test_a_wrong_connection_is_an_error_at_construction(connection, message):
    ham = small()
    with pytest.raises((ValueError, TypeError), match=message):
        am.HAM(ham.neurons, ham.hypersynapses, [connection])


def test_an_energy_part_that_is_no_scalar_is_an_error():
    layers = {"a": am.IdentityLayer(3)}
    with pytest.raises(ValueError, match=r"must be a real scalar; \(\(3,\), 'float32'\) came"):
        am.HAM(layers, {"s": lambda a: -a}, [("a", "s")])
    with pytest.raises(ValueError, match="must be a real scalar"):
        am.HAM(layers, {"s": lambda a: 1}, [("a", "s")])


def test_wrong_kinds_are_errors():
    ham = small()
    with pytest.raises(TypeError, match="layer 'a' must be a NeuronLayer; function came"):
        am.HAM({"a": am.lagr_tanh}, {}, [])
    with pytest.raises(TypeError, match="synapse 's' must be callable"):
        am.HAM(ham.neurons, {"s": 3}, [])
    with pytest.raises(TypeError, match="must be a list or a dict; NeuronLayer came"):
        am.HAM(am.IdentityLayer(3), {}, [])
    with pytest.raises(TypeError, match="names in a dict must be strings"):
        am.HAM({0: am.IdentityLayer(3)}, {}, [])
    with pytest.raises(ValueError, match="no_feedback must name layers of the connection"):
        am.Connection(("a", "b"), "s", no_feedback="c")


def test_lists_know_places_and_say_which():
    with pytest.raises(ValueError, match="there is no layer 2; the layers are 0, 1"):
        am.HAM([am.IdentityLayer(2), am.IdentityLayer(2)], [am.DenseSynapse()], [((0, 2), 0)])


def test_connections_compare_copy_and_show():
    import copy

    one = am.Connection(["a", "b"], "s", no_feedback="a")
    assert one == copy.deepcopy(one)
    assert one != (("a", "b"), "s")
    assert am.Connection(("a", "b"), "s") == (("a", "b"), "s")
    assert hash(am.Connection(("a", "b"), "s")) == hash((("a", "b"), "s"))
    assert repr(one) == "Connection(('a', 'b'), 's', no_feedback=('a',))"
    layers, synapse = one
    assert (layers, synapse) == (one.layers, one.synapse)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda xs: {"input": xs["input"]}, "an entry for every layer; 'hidden' is missing"),
        (lambda xs: xs | {"label": 0.0}, "no layer 'label'"),
        (lambda xs: list(xs.values()), "must be a dict, as the layers are; list came"),
        (lambda xs: xs | {"input": jnp.ones((5, 6))}, r"\(5, 6\) came. A batch goes through ham.v"),
        (lambda xs: xs | {"input": jnp.ones(7)}, r"must have shape \(6,\); \(7,\) came"),
        (lambda xs: xs | {"input": jnp.ones(6, complex)}, "must hold real numbers; dtype complex"),
        (lambda xs: xs | {"input": jnp.full(6, jnp.nan)}, "layer 'input': every value must be fin"),
    ],
)
def test_wrong_states_are_errors(change, message):
    ham = small()
    with pytest.raises((ValueError, TypeError), match=message):
        ham.recall(change(ham.init_states()), 3)


def test_wrong_options_of_recall_are_errors():
    ham = small()
    xs = ham.init_states()
    with pytest.raises(ValueError, match=r"no layer 'imput'.*Did you mean 'input'"):
        ham.recall(xs, 3, clamp="imput")
    with pytest.raises(ValueError, match="every layer is clamped"):
        ham.recall(xs, 3, clamp=("input", "hidden"))
    with pytest.raises(ValueError, match="steps: must be at least 1; 0 came"):
        ham.recall(xs, 0)
    with pytest.raises(ValueError, match="dt: must be finite and greater than 0"):
        ham.recall(xs, 3, dt=-0.1)
    with pytest.raises(TypeError, match=r"Expected type: .*AbstractMethod"):
        ham.recall(xs, 3, method="euler")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="needs a batch size"):
        ham.vectorize().init_states()
    with pytest.raises(ValueError, match="every state must have the same leading axis"):
        ham.vectorize().activations({"input": jnp.ones((3, 6)), "hidden": jnp.ones((2, 4))})
    with pytest.raises(ValueError, match="updates must have an entry for every layer; 'hidden'"):
        ham.step(xs, {"input": jnp.ones(6)})


# -- what is special in the graph ----------------------------------------------------------------


def test_one_synapse_may_serve_several_connections_and_a_layer_itself():
    layers = [am.TanhLayer(4), am.TanhLayer(4)]
    ham = am.HAM(layers, [am.DenseSynapse()], [((0, 1), 0), ((0, 0), 0)])
    xs, ham = ham.init_states_and_params(KEY, state_key=KEY)
    xhats = ham.activations(xs)
    W = np.asarray(ham.synapses[0].W)
    a, b = map(np.asarray, xhats)
    np.testing.assert_allclose(
        ham.connection_energies(xhats), [-a @ W @ b, -a @ W @ a], rtol=2e-5, atol=1e-6
    )
    gradient = ham.dEdact(xhats, xs)
    np.testing.assert_allclose(gradient[0], xs[0] - W @ b - (W + W.T) @ a, rtol=2e-5, atol=1e-5)


def test_no_feedback_directs_the_signal_but_not_the_training():
    layers = {"a": am.TanhLayer(3), "b": am.TanhLayer(2)}
    W = jr.normal(KEY, (3, 2))
    both = am.HAM(layers, {"s": Product(W)}, [(("a", "b"), "s")])
    one = am.HAM(layers, {"s": Product(W)}, [am.Connection(("a", "b"), "s", no_feedback="a")])
    xs = some_states(both)
    xhats = both.activations(xs)
    np.testing.assert_allclose(one.dEdact(xhats, xs)["a"], xs["a"])
    np.testing.assert_allclose(one.dEdact(xhats, xs)["b"], both.dEdact(xhats, xs)["b"])
    np.testing.assert_allclose(one.energy(xhats, xs), both.energy(xhats, xs))

    def end_of_b(start_of_a):
        return one.recall(xs | {"a": start_of_a}, 3, 0.5).x["b"].sum()

    assert float(jnp.abs(jax.grad(end_of_b)(xs["a"])).sum()) > 0.01


def test_a_memory_without_connections_forgets():
    ham = am.HAM([am.IdentityLayer(3)], [], [])
    end = ham.recall([jnp.ones(3)], 200, 0.2)
    np.testing.assert_allclose(end.x[0], 0.0, atol=1e-6)
    assert end.result == am.RESULTS.converged


def test_sizes_of_one_work():
    ham = am.HAM([am.TanhLayer(1), am.SoftmaxLayer(1)], [am.DenseSynapse()], [((0, 1), 0)])
    _, ham = ham.init_states_and_params(KEY)
    end = ham.recall([np.array([1]), np.array([0])], 5)
    assert end.x[0].shape == (1,)
    assert np.isfinite(end.energy)


# -- dynamics ------------------------------------------------------------------------------------


def by_hand(ham, xs, steps, dt, clamp=()):
    """The published loop: gradients of everything, masks, and one step after the other."""
    for _ in range(steps):
        xhats = {k: jax.grad(ham.neurons[k].lagrangian)(x) for k, x in xs.items()}
        energy = lambda g: sum(ham.connection_energies(g))
        signals = jax.grad(energy)(xhats)
        xs = {
            k: x if k in clamp else x - dt / ham.neurons[k].tau * (x + signals[k])
            for k, x in xs.items()
        }
    return xs


@pytest.mark.parametrize("steps", [3, 21])
@pytest.mark.parametrize("clamp", [(), ("input",)])
def test_euler_is_the_published_loop(steps, clamp):
    ham = small()
    ham = eqx.tree_at(lambda h: h.neurons["hidden"].tau, ham, jnp.asarray(2.5))
    xs = some_states(ham)
    end = ham.recall(xs, steps, 0.2, clamp=clamp, save_every=2)
    expected = by_hand(ham, xs, steps, 0.2, clamp)
    for name in xs:
        np.testing.assert_allclose(end.x[name], expected[name], rtol=2e-4, atol=1e-5)
    if clamp:
        assert (end.x["input"] == xs["input"]).all()
    assert end.steps == steps
    record = end.trajectory
    assert record.x["hidden"].shape == (1 + steps // 2, 4)
    np.testing.assert_allclose(record.time, 0.4 * np.arange(1 + steps // 2), rtol=1e-5)
    np.testing.assert_allclose(record.x["input"][0], xs["input"])
    np.testing.assert_allclose(
        record.energy, sum(jax.tree.leaves(record.parts)), rtol=1e-5, atol=1e-6
    )
    some = jax.tree.map(lambda x: x[1], record.x)
    np.testing.assert_allclose(record.energy[1], ham.energy(some), rtol=1e-4, atol=1e-5)


def test_every_step_has_its_energies_and_states_only_on_request():
    ham = small()
    end = ham.recall(some_states(ham), 6, 0.1)
    assert end.trajectory.x is None
    assert end.trajectory.energy.shape == (7,)
    assert end.trajectory.parts["connections"][0].shape == (7,)
    np.testing.assert_allclose(end.trajectory.energy[-1], end.energy, rtol=1e-6)


METHODS = {
    "descent": am.GradientDescent(0.1),
    "backtracking": am.GradientDescent(0.5, backtracking=True),
    "flow": am.Flow(),
    "fixed point": am.FixedPoint(step_size=0.3),
}


@pytest.mark.parametrize("name", METHODS)
def test_every_method_comes_to_the_same_rest(name):
    ham = small()
    xs = some_states(ham)
    expected = ham.recall(xs, 400, 0.1, clamp="input")
    assert expected.result == am.RESULTS.converged
    end = ham.recall(xs, 2000, clamp="input", method=METHODS[name], save_every=50)
    assert end.result == am.RESULTS.converged, str(end.result)
    np.testing.assert_allclose(end.x["hidden"], expected.x["hidden"], atol=2e-3)
    assert (end.x["input"] == xs["input"]).all()
    assert end.trajectory.energy[-1] <= end.trajectory.energy[0]
    assert end.trajectory.x["hidden"].shape[0] == end.trajectory.energy.shape[0]


def test_flow_follows_each_layers_time_constant(x64):
    """The path of the flow is that of Euler's method with small steps, taus and all."""
    ham = small()
    ham = eqx.tree_at(lambda h: h.neurons["hidden"].tau, ham, jnp.asarray(3.0))
    xs = some_states(ham)
    end = ham.recall(xs, 500, method=am.Flow(), save_every=5)
    time = float(end.trajectory.time[2])
    at = jax.tree.map(lambda x: x[2], end.trajectory.x)
    steps = 4000
    slow = ham.recall(xs, steps, time / steps)
    for name in xs:
        np.testing.assert_allclose(slow.x[name], at[name], atol=2e-3)


def test_the_result_says_how_it_ended():
    ham = small()
    xs = some_states(ham)
    assert ham.recall(xs, 2, 0.01).result == am.RESULTS.step_limit
    blown = ham.recall(jax.tree.map(lambda x: 1e30 * x, xs), 60, 1e6)
    assert blown.result == am.RESULTS.nonfinite


def test_euler_steps_that_raise_the_energy_say_so():
    ham = small()
    xs = some_states(ham)
    end = ham.recall(xs, 30, 2.2)
    assert end.energy > end.trajectory.energy[0]
    assert end.result == am.RESULTS.ascent
    assert "smaller step_size or dt" in str(am.RESULTS[end.result])
    assert ham.recall(xs, 5, 2.2, save_every=1).result == am.RESULTS.ascent  # few: not in a loop
    # At rest but for rounding, and not converged: no ascent.
    assert ham.recall(xs, 1000, 0.1, tol=0.0).result == am.RESULTS.step_limit
    end = ham.recall(xs, 30, method=am.GradientDescent(2.2))
    assert end.result == am.RESULTS.ascent


def test_a_connection_without_feedback_may_raise_the_energy():
    way = am.Connection(("input", "hidden"), "dense", "input")
    layers = {"input": am.IdentityLayer(2), "hidden": am.IdentityLayer(2)}
    ham = am.HAM(layers, {"dense": am.DenseSynapse(-jnp.eye(2))}, [way])
    end = ham.recall({"input": jnp.array([1.0, 0]), "hidden": jnp.array([1.0, 0])}, 12, 0.01)
    assert end.trajectory.energy[-1] > end.trajectory.energy[0] - 1
    assert end.result == am.RESULTS.step_limit


def test_energies_take_no_room_for_states():
    ham = am.HAM([am.TanhLayer(5000)], [], [])

    def peak(steps):
        energies = jax.jit(lambda x: ham.recall([x], steps).trajectory.energy)
        plan = energies.lower(jnp.ones(5000)).compile().memory_analysis()
        assert plan is not None
        return plan.temp_size_in_bytes

    assert peak(1000) < peak(10) + 100 * 1000  # and not 20 kB a step


def test_half_precision_and_integer_states_work():
    ham = small()
    end = ham.recall({"input": np.arange(6), "hidden": jnp.ones(4, jnp.float16)}, 3)
    assert end.x["input"].dtype == jnp.float32
    assert end.x["hidden"].dtype == jnp.float16


def test_a_batch_equals_a_loop_and_grad_goes_through_vmap_and_jit():
    ham = small()
    vham = ham.vectorize()
    xs = vham.init_states(3, key=KEY)
    ends = vham.recall(xs, 5, 0.2, clamp="input")
    for i in range(3):
        one = ham.recall(jax.tree.map(lambda x, i=i: x[i], xs), 5, 0.2, clamp="input")
        np.testing.assert_allclose(ends.x["hidden"][i], one.x["hidden"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(ends.energy[i], one.energy, rtol=1e-5, atol=1e-6)

    @jax.jit
    def total(start):
        end = lambda x: ham.recall({"input": x, "hidden": jnp.zeros(4)}, 5, 0.2, clamp="input")
        return jax.vmap(end)(start).x["hidden"].sum()

    assert jnp.isfinite(jax.grad(total)(xs["input"])).all()


# -- text ----------------------------------------------------------------------------------------


def test_describe_prints_the_hypergraph(capsys):
    layers = {"image": am.TanhLayer((4, 4, 1)), "label": am.SoftmaxLayer(3, beta=2.0)}
    ham = am.HAM(
        layers, {"dense": am.DenseSynapse()}, [am.Connection(("image", "label"), "dense", "image")]
    )
    ham.describe()
    text = capsys.readouterr().out
    assert "2 layers, 1 synapse, 1 connection, 4 parameters" in text
    assert "no weights yet" in text
    assert "image (no feedback) -- label" in text
    _, made = ham.init_states_and_params(KEY)
    made.describe()
    text = capsys.readouterr().out
    assert "48 parameters" in text
    assert "4 x 4 x 1" in text


# -- the picture ---------------------------------------------------------------------------------


def labels(ax):
    return [text.get_text() for text in ax.texts]


def test_the_picture_names_every_part_and_dashes_what_gets_no_signal():
    layers = {"a": am.TanhLayer(3), "b": am.IdentityLayer((2, 2)), "c": am.SoftmaxLayer(4)}
    synapses = {
        "ab": am.DenseSynapse(),
        "bias": am.BiasSynapse(jnp.ones(3)),
        "abc": am.DenseSynapse(),
    }
    ham = am.HAM(
        layers,
        synapses,
        [(("a", "b"), "ab"), ("a", "bias"), am.Connection(("a", "b", "c"), "abc", "c")],
    )
    ax = am.plots.ham(ham)
    shown = labels(ax)
    for text in ("a", "b", "c", "ab", "abc", "bias", "tanh(beta=1)\n3", "identity\n2 x 2"):
        assert text in shown, text
    assert "BiasSynapse\n3 weights" in shown
    assert "DenseSynapse\nno weights yet" in shown
    styles = [p.get_linestyle() for p in ax.patches if isinstance(p, PathPatch)]
    assert len(styles) == 6  # a line for each end of each connection
    assert styles.count("--") == 1
    assert am.plots.ham(ham.vectorize(), ax=ax) is ax


@pytest.mark.usefixtures("unchecked")
def test_the_picture_refuses_what_is_no_hierarchy():
    with pytest.raises(TypeError, match="ham: must be a HAM; dict came"):
        am.plots.ham({})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="at least one layer"):
        am.plots.ham(am.HAM([], [], []))


# -- reference hierarchies -----------------------------------------------------------------------


SIZES = {
    "relu": (lambda k: models.hopfield_classifier(k, "relu"), 794_000),
    "repu": (lambda k: models.hopfield_classifier(k, "repu"), 794_000),
    "softmax": (lambda k: models.hopfield_classifier(k, "softmax"), 794_000),
    "conv": (models.conv_ham, 596_752 + 64 + 128),
    "attention": (models.attention_ham, 85_248 + 7 * 7 * 128),
    "denoiser": (models.mnist_denoiser, 705_600),
}


@pytest.mark.parametrize("name", SIZES)
def test_reference_hierarchies_have_the_published_number_of_weights(name):
    make, expected = SIZES[name]
    net = make(jr.key(0))
    weights = eqx.filter(net, models.synapse_weights(net))
    betas = [s.beta for s in net.ham.hypersynapses.values() if hasattr(s, "beta")]
    assert sum(a.size for a in jax.tree.leaves(weights)) - len(betas) == expected


def test_a_network_reads_what_a_recall_leaves():
    net = models.hopfield_classifier(KEY, "relu", image=(2, 3), classes=4, n_hidden=5)
    x = jr.normal(KEY, (2, 3))
    p = net(x)
    xs = net.ham.init_states() | {"image": x}
    end = net.ham.recall(xs, 4, 0.4, clamp="image")
    np.testing.assert_allclose(p, jax.nn.softmax(end.x["label"]), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(net)(jnp.stack([x, -x]))[0], p, rtol=1e-4)
    with pytest.raises(ValueError, match=r"layer 'image' must have shape \(2, 3\)"):
        net(jnp.ones(6))
    with pytest.raises(ValueError, match="no layer 'lable'"):
        models.HAMNetwork(net.ham, "image", "lable")
    with pytest.raises(ValueError, match="hidden: must be one of"):
        models.hopfield_classifier(KEY, "tanh")


def test_the_label_of_a_softmax_memory_can_be_sure():
    """Memories of unit norm that vote as clearly as they can; the image picks one of them."""
    blocks = jnp.repeat(jnp.eye(10), 20, axis=1)
    sure = {}
    for beta in (None, 1.0):
        net = models.hopfield_classifier(KEY, "softmax", image=200, n_hidden=10, label_beta=beta)
        W = (blocks, jnp.eye(10) - 0.1)
        net = eqx.tree_at(lambda n: n.ham.hypersynapses["memory"].W, net, W)
        sure[beta] = net(6.0 * blocks[3] - 3.0)[3]
    assert sure[None] > 0.95
    assert sure[1.0] < 0.22


def test_training_leaves_every_temperature_alone():
    softmax = am.Lagrangian(am.lagr_softmax, {"beta": 2.0})
    synapses = {"m": am.DenseMatrixSynapse(4, softmax), "t": am.DenseTensorSynapse(4, softmax)}
    layers = {"a": am.TanhLayer(3), "b": am.TanhLayer(2)}
    ham = am.HAM(layers, synapses, [(("a", "b"), "m"), (("a", "b"), "t")])
    net = models.HAMNetwork(ham.init_states_and_params(KEY)[1], "a", "b")
    kept = eqx.filter(net, models.synapse_weights(net))
    assert {a.shape for a in jax.tree.leaves(kept)} == {(4, 3), (4, 2), (4, 3, 2)}


def test_one_step_of_the_denoiser_is_the_published_readout():
    net = models.mnist_denoiser(KEY, image=6, n_hidden=5)
    x = jr.normal(KEY, (6,))
    W = np.asarray(net.ham.hypersynapses["memory"].W[0], float)
    W = W / np.linalg.norm(W, axis=1, keepdims=True)
    unit = np.asarray(x) / np.linalg.norm(x)
    p = np.exp(10 * W @ unit)
    made = (p / p.sum()) @ W
    np.testing.assert_allclose(net(x), made / np.linalg.norm(made), rtol=1e-4)
