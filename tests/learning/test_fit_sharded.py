"""Training on several devices: the numbers of one device, the work of each a part of it."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P

import amlib as am
from amlib import _hosts
from amlib.hierarchical.models import hopfield_classifier
from amlib.learning import OUTCOMES, AbstractStatefulLoss, _epochs, _examples
from amlib.learning._computation import fingerprint
from amlib.learning.base import as_loss

KEY = jr.key(3)
N, D = 96, 12
X = jr.normal(jr.key(1), (N, D))
PAIRS = (X, X + 0.1 * jr.normal(jr.key(2), (N, D)))
SPINS = jr.rademacher(jr.key(4), (N, D), jnp.float32)


def mesh(kind=AxisType.Auto, devices=8):
    return Mesh(
        np.array(jax.devices()[:devices]).reshape(-1, 2), ("batch", "k"), axis_types=(kind, kind)
    )


def on(mesh, tree, *spec):
    """The arrays of a tree, the first axes split so; the axes that they lack are left out."""
    place = lambda a: jax.device_put(a, NamedSharding(mesh, P(*spec[: a.ndim])))
    return jax.tree.map(lambda a: place(a) if eqx.is_array(a) else a, tree)


def denoising(model, batch, key):
    del key
    clean, noisy = batch
    return jnp.mean((jax.vmap(model.retrieve)(noisy) - clean) ** 2)


def noisy(model, batch, key):
    clean, _ = batch
    return denoising(model, (clean, clean + 0.1 * jr.normal(key, clean.shape)), key)


LOSS = as_loss(denoising)


def largest(model, batch):
    return jnp.max(jax.vmap(model.energy)(batch[0]))


def modern():
    return am.ModernHopfield(jr.normal(jr.key(0), (16, D)), 1.0)


def dense():
    return am.ExponentialDenseAM(jr.normal(jr.key(0), (16, D)), 0.5)


def ham():
    layers = {"x": am.IdentityLayer(D), "h": am.SoftmaxLayer(6)}
    parts = am.HAM(layers, {"W": am.DenseSynapse()}, [(("x", "h"), "W")])
    return parts.init_states_and_params(jr.key(0))[1]


def of_all(model, batch, key):
    """A loss of a hierarchical memory that takes the batch as a whole."""
    del key
    xs = {"x": batch[1], "h": jnp.zeros((len(batch[1]), 6))}
    end = model.vectorize().recall(xs, 5, 0.1)
    return jnp.mean((end.x["x"] - batch[0]) ** 2)


def fit(model, data, loss, epochs=3, batch_size=16, **options):
    return am.fit(
        model, data, loss, optax.adam(1e-2), epochs, batch_size, KEY, progress=False, **options
    )


def arrays(tree):
    return [np.asarray(a) for a in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]


def same(here, there, rtol=2e-5):
    """Losses and weights of two trainings agree but for rounding."""
    assert here.result == there.result
    assert here.history.keys() == there.history.keys()
    for name in here.history.keys() - {"seconds"}:
        np.testing.assert_allclose(here.history[name], there.history[name], rtol=rtol)
    for a, b in zip(arrays(here.model), arrays(there.model), strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


# -- the same numbers ------------------------------------------------------------------------------


class Anchored(AbstractStatefulLoss):
    """A loss whose state begins with the mean of the training data, and follows the batches."""

    def initial_state(self, model, data, key):
        return data[0].mean(0)

    def value_and_grad(self, model, batch, key, state):
        value, grads = eqx.filter_value_and_grad(denoising)(model, batch, key)
        return (value + jnp.sum(state**2), grads), 0.5 * (state + batch[0].mean(0))

    def __call__(self, model, batch, key):
        return denoising(model, batch, key)


CASES = {
    "real": (modern, PAIRS, denoising),
    "noise that is drawn": (modern, PAIRS, noisy),
    "a state": (modern, PAIRS, Anchored()),
    "hierarchical, as a batch": (ham, PAIRS, of_all),
    "chains": (dense, SPINS, am.learning.PersistentContrastiveDivergence(8)),
    "contrast": (dense, SPINS, am.learning.ContrastiveDivergence()),
    "labels": (
        lambda: hopfield_classifier(jr.key(0), image=D, classes=3, n_hidden=8, steps=2),
        (jnp.tanh(X), jnp.arange(N) % 3),
        am.learning.CrossEntropy(),
    ),
}


KINDS = [(case, AxisType.Auto) for case in CASES]
KINDS += [(case, AxisType.Explicit) for case in ("noise that is drawn", "chains")]


@pytest.mark.parametrize(("case", "kind"), KINDS, ids=lambda a: getattr(a, "name", a))
def test_data_that_are_split_train_as_on_one_device(case, kind):
    """Validation by a fraction leaves 86 and 10 examples: neither is a multiple of 4 devices."""
    make, data, loss = CASES[case]
    one = fit(make(), data, loss, validation=0.1)
    loss = on(mesh(kind), loss) if kind is AxisType.Explicit else loss
    split = fit(on(mesh(kind), make()), on(mesh(kind), data, "batch"), loss, validation=0.1)
    same(split, one)
    for leaf in jax.tree.leaves(eqx.filter(split.model, eqx.is_array)):
        assert leaf.sharding.is_fully_replicated
        assert len(leaf.sharding.device_set) == 8


@pytest.mark.parametrize("validation", [None, 0.3, "arrays"])
@pytest.mark.parametrize("batch_size", [10, 3, 96])
def test_no_size_need_be_a_multiple_of_the_devices(batch_size, validation):
    held = (X[:10] + 1, X[:10])
    options = {"batch_size": batch_size, "metrics": {"largest": largest}}
    options = options if validation else {"batch_size": batch_size}
    if validation == "arrays":
        one = fit(modern(), PAIRS, noisy, validation=held, **options)
        held = on(mesh(), held, "k")
        split = fit(modern(), on(mesh(), PAIRS, ("batch", "k")), noisy, validation=held, **options)
    else:
        if validation and batch_size == 96:
            batch_size = options["batch_size"] = 60
        one = fit(modern(), PAIRS, noisy, validation=validation, **options)
        split = fit(
            modern(), on(mesh(), PAIRS, ("batch", "k")), noisy, validation=validation, **options
        )
    same(split, one)


@pytest.mark.parametrize("data", ["split", "whole"])
@pytest.mark.parametrize("spec", [("k",), (None, "k"), (("batch", "k"),)], ids=str)
def test_patterns_that_are_split_stay_split(spec, data):
    """So do the two moments of Adam: neither is ever whole on a device between the steps."""
    given = on(mesh(), PAIRS, "batch") if data == "split" else PAIRS
    model = eqx.tree_at(lambda m: m.Xi, on(mesh(), modern()), on(mesh(), modern().Xi, *spec))
    split = fit(model, given, denoising, validation=0.1)
    same(split, fit(modern(), PAIRS, denoising, validation=0.1))
    assert split.model.Xi.sharding == NamedSharding(mesh(), P(*spec))
    params, rest = _epochs.partition(model, None)
    moments = _hosts.together(optax.adam(1e-2).init(params), mesh(), "test")
    carried, examples = (params, moments, None), _examples.Examples(on(mesh(), PAIRS, "batch"))
    how = _examples.shardings(carried)
    moved, *_ = _epochs.train(carried, rest, examples, KEY, LOSS, optax.adam(1e-2), 16, how)
    assert _examples.shardings(moved) == how
    assert optax.tree.get(moved[1], "mu").Xi.sharding.spec == P(*spec)


def test_a_part_is_trained_and_a_training_stops_early():
    nothing = jax.tree.map(lambda leaf: False, modern())
    only = eqx.tree_at(lambda m: m.Xi, nothing, True)
    options = {"trainable": only, "patience": 2, "validation": (X[:10] + 5, -X[:10])}
    one = fit(modern(), PAIRS, denoising, 20, **options)
    assert one.result == OUTCOMES.early_stopped
    split = fit(modern(), on(mesh(), PAIRS, "batch"), denoising, 20, **options)
    same(split, one)
    assert (split.epoch, split.best_epoch) == (one.epoch, one.best_epoch)
    assert split.model.beta == 1


def test_labels_that_are_split_are_checked():
    make, (x, labels), loss = CASES["labels"]
    data = on(mesh(), (x, labels.at[N - 1].set(3)), "batch")
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\); 0 to 3 came"):
        fit(make(), data, loss)
    bits = on(mesh(), (SPINS + 1) / 2, "batch")
    with pytest.raises(ValueError, match=r"a state must hold only -1 and \+1"):
        fit(dense(), bits, am.learning.ContrastiveDivergence())
    with pytest.raises(ValueError, match="every value must be finite"):
        fit(modern(), on(mesh(), (X, X.at[0].set(jnp.nan)), "batch"), denoising)


def test_devices_of_two_meshes_are_refused():
    with pytest.raises(ValueError, match="all arrays must be on the devices of one mesh"):
        fit(on(mesh(devices=4), modern()), on(mesh(), PAIRS, "batch"), denoising)


def test_under_an_explicit_mesh_too():
    """`jax.set_mesh` puts all that is made on it: keys, data and the model."""
    explicit = mesh(AxisType.Explicit)
    one = fit(modern(), PAIRS, noisy, validation=0.1)
    with jax.set_mesh(explicit):
        model, data = am.shard(modern(), explicit, "k"), am.shard(PAIRS, explicit, "batch")
        assert jax.typeof(data[0]).sharding.mesh.explicit_axes
        split = am.fit(
            model, data, noisy, optax.adam(1e-2), 3, 16, jr.key(3), validation=0.1, progress=False
        )
    same(split, one)


def test_a_rule_places_the_parts_of_a_hierarchy():
    rule = lambda path, a: P(None, "k") if a.shape == (D, 6) else None
    model = am.shard(ham(), mesh(), rule)
    data = am.shard(PAIRS, mesh(), "batch")
    split = fit(model, data, of_all)
    same(split, fit(ham(), PAIRS, of_all))
    placed = {a.sharding.spec for a in jax.tree.leaves(eqx.filter(split.model, eqx.is_array))}
    assert placed == {P(), P(None, "k")}


# -- the work of one device ------------------------------------------------------------------------


def test_each_device_does_its_part_and_sends_gradients(as_users):
    """Of the compiled epoch: operations per device, and what is sent.

    Of data that are split, a batch is put together from the rows that each device has; all of the
    data are nowhere.
    """
    del as_users
    K, D, B = 256, 64, 128
    model = am.ModernHopfield(jr.normal(jr.key(0), (K, D)), 1.0)
    data = (jr.normal(jr.key(1), (1024, D)),) * 2
    line = lambda n: Mesh(np.array(jax.devices()[:n]), ("batch",), axis_types=(AxisType.Auto,))

    def program(n, *spec):
        examples = _examples.Examples(on(line(n), data, *spec))
        params, rest = _epochs.partition(on(line(n), model), None)
        carried = (params, optax.sgd(0.1).init(params), None)
        how = _examples.shardings(carried)
        lower = _epochs.train.lower  # pyright: ignore[reportFunctionMemberAccess]
        return lower(carried, rest, examples, KEY, LOSS, optax.sgd(0.1), B, how).compile()

    def flops(compiled):
        cost = compiled.compiled.cost_analysis()
        return (cost[0] if isinstance(cost, list) else cost)["flops"]

    def sent(compiled):
        """The sizes of all that collectives give, by kind."""
        found: dict[str, list[int]] = {}
        kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
        lines = re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", compiled.compiled.as_text())
        for shapes, kind in lines:
            for dims in re.findall(r"\w\[([\d,]*)\]", shapes):
                size = int(np.prod([int(d) for d in dims.split(",") if d]))
                found.setdefault(kind, []).append(size)
        return found

    one = flops(program(1, "batch"))
    for n in (2, 4, 8):
        assert flops(program(n, "batch")) < 1.15 * one / n
    split = sent(program(8, "batch"))
    assert K * D in split["all-reduce"]  # the gradient of the patterns
    assert max(map(max, split.values())) <= max(K * D, B * D)
    # What is not split is computed by all of them, and nothing is sent.
    assert flops(program(8)) > 0.9 * one
    assert not sent(program(8))


# -- files -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [("one", "split"), ("split", "one"), ("split", "other")], ids=str)
@pytest.mark.parametrize("case", ["a state", "chains"])
def test_a_checkpoint_goes_on_on_other_devices(tmp_path, case, kinds):
    make, data, loss = CASES[case]

    def run(kind, epochs, checkpoint=None):
        model, given, own = make(), data, loss
        if kind == "split":
            model, given = on(mesh(), make(), "k"), on(mesh(), data, "batch")
        elif kind == "other":
            other = mesh(AxisType.Explicit, 4)
            model, given, own = on(other, (make(), data, loss))
            given = on(other, data, ("batch", "k"))
        return fit(model, given, own, epochs, validation=0.1, checkpoint=checkpoint)

    path, (first, second) = tmp_path / "run", kinds
    run(first, 2, path)
    resumed, whole = run(second, 5, path), run("one", 5)
    same(resumed, whole)
    assert len(resumed.history["loss"]) == 5
    placed = run(second, 1).model.Xi.sharding
    assert resumed.model.Xi.sharding == placed
    assert [file.name for file in tmp_path.iterdir()] == ["run"]
    changed = jax.tree.map(lambda a: -a, data)
    with pytest.raises(ValueError, match="it differs in the data's values"):
        fit(make(), on(mesh(), changed, "batch"), loss, 5, validation=0.1, checkpoint=path)


def test_a_fingerprint_is_of_values_and_of_no_devices():
    """Equal constants that are one array, or two, or on 8 devices: it is the same program."""
    a, b = jnp.arange(4.0), jnp.arange(4.0)
    split = on(mesh(), a, "k")

    def print_of(first, second):
        def fn(x):
            return jax.lax.with_sharding_constraint(x * first, NamedSharding(mesh(), P())) + second

        return fingerprint(fn, jnp.zeros(4))[0]

    assert len({print_of(a, a), print_of(a, b), print_of(split, b), print_of(b, split)}) == 1
    assert print_of(a, b + 1) != print_of(a, b) != print_of(a + 1, b)


def test_a_file_knows_no_devices(tmp_path):
    split = on(mesh(), modern(), "k")
    am.save(tmp_path / "split", split)
    am.save(tmp_path / "one", modern())
    assert (tmp_path / "split").read_bytes() == (tmp_path / "one").read_bytes()
    for name in ("split", "one"):
        for like in (split, modern(), on(mesh(AxisType.Explicit), modern(), ("batch", "k"))):
            loaded = am.load(tmp_path / name, like)
            assert loaded.Xi.sharding == like.Xi.sharding
            assert (np.asarray(loaded.Xi) == np.asarray(modern().Xi)).all()
    struct = lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding)
    loaded = am.load(tmp_path / "one", jax.tree.map(struct, split))
    assert loaded.Xi.sharding == split.Xi.sharding
    keys = on(mesh(), jr.split(jr.key(0), 8), "batch")
    am.save(tmp_path / "keys", keys)
    loaded = am.load(tmp_path / "keys", keys)
    assert loaded.sharding == keys.sharding
    assert (jr.key_data(loaded) == jr.key_data(keys)).all()


def test_a_failure_says_that_another_process_may_be_gone(tmp_path, monkeypatch):
    train, left = _epochs.train, [1]

    def failing(*args):
        if left.pop() == 0:
            raise jax.errors.JaxRuntimeError("Connection reset by peer")
        left.append(0)
        return train(*args)

    monkeypatch.setattr(_epochs, "train", failing)
    monkeypatch.setattr(_hosts, "spread", lambda tree: True)
    with pytest.raises(jax.errors.JaxRuntimeError, match="reset by peer") as caught:
        fit(modern(), PAIRS, denoising, checkpoint=tmp_path / "run")
    (note,) = caught.value.__notes__
    assert "epoch 2 must end in all 1 processes" in note
    assert f"{tmp_path / 'run'} holds the last one that did: the same call goes on from it" in note
    monkeypatch.undo()
    assert fit(modern(), PAIRS, denoising, 1, checkpoint=tmp_path / "run").epoch == 1
