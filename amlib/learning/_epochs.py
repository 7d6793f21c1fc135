"""The compiled parts of `fit`, and what they need of models. Knows no loop over epochs."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, PyTree

from amlib._types import Key, Scalar
from amlib.learning._examples import Examples, Shardings, placed
from amlib.learning.base import AbstractGradientLoss, AbstractLoss, AbstractStatefulLoss, scalar

Tree = TypeVar("Tree")
Flag = Bool[Array, ""]


class Keys(NamedTuple):
    """What each of them is for."""

    epochs: Key
    split: Key
    validation: Key
    state: Key


class Run(NamedTuple):
    """What stays the same from epoch to epoch."""

    loss: AbstractLoss
    optimizer: optax.GradientTransformation
    metrics: dict[str, Callable[[PyTree, PyTree], ArrayLike]]
    data: Examples
    validation: Examples | None
    batch_size: int
    keys: Keys


Carried = tuple[PyTree, optax.OptState, PyTree]  # parameters, optimiser state, loss state


@eqx.filter_jit
def train(
    carried: Carried,
    rest: PyTree,
    data: Examples,
    key: Key,
    loss: AbstractLoss,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    how: Shardings = (),
) -> tuple[Carried, Scalar, Flag, Flag]:
    """One epoch over shuffled data.

    **Arguments:**

    - `carried`: parameters, optimiser state and loss state.
    - `rest`: the part of the model that is not trained.
    - `how`: the `shardings` of what is carried, which it keeps.

    **Returns:** what is carried, after the epoch; the mean loss; whether loss and parameters are
    finite; whether they stayed as they do without a gradient.
    """
    N = len(data)
    steps = N // batch_size
    shuffling, drawing = jr.split(key)
    order = jr.permutation(shuffling, N)[: steps * batch_size].reshape(steps, batch_size)
    # Whatever is no array (numbers, functions) goes around the scan.
    arrays, others = eqx.partition(carried, eqx.is_array)

    def step(arrays: Carried, now: tuple[Array, Array]) -> tuple[Carried, Scalar]:
        rows, k = now
        params, state, loss_state = eqx.combine(arrays, others)
        batch = data.take(rows)
        value, grads, loss_state = value_and_grad(
            loss, params, rest, batch, jr.fold_in(drawing, k), loss_state
        )
        params, state = update(optimizer, params, state, value, grads)
        new, _ = eqx.partition((params, state, loss_state), eqx.is_array)
        return placed(new, how), value

    before = carried[0]
    arrays, values = lax.scan(step, arrays, (order, jnp.arange(steps)))
    carried = eqx.combine(arrays, others)
    finite = jnp.isfinite(values).all()
    for leaf in jax.tree.leaves(carried[0]):
        finite &= jnp.isfinite(leaf).all()
    return carried, values.mean(), finite, _rested(before, carried[0], steps)


def _rested(old: PyTree, new: PyTree, steps: int) -> Flag:
    """Whether each array is what it was, or shrank as a whole, as by weight decay.

    Only then may all gradients have been zero. To look at each would slow small models by 40 %.
    """
    rested = jnp.asarray(True)
    for a, b in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
        tolerance = (16 + steps) * float(jnp.finfo(a.dtype).eps)
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        size = (a * a).sum()
        scale = jnp.where(size > 0, (a * b).sum() / size, 0.0)
        rested &= (jnp.abs(b - scale * a) <= tolerance * jnp.abs(b)).all()
    return rested


@eqx.filter_jit
def has_no_gradient(
    params: PyTree,
    rest: PyTree,
    data: Examples,
    key: Key,
    loss: AbstractLoss,
    state: PyTree,
    batch_size: int,
) -> Flag:
    """Whether the gradient over one batch is exactly zero, in every number."""
    batch = data.slice(0, batch_size)
    _, grads, _ = value_and_grad(loss, params, rest, batch, key, state)
    return ~jnp.stack([(grad != 0).any() for grad in jax.tree.leaves(grads)]).any()


def update(
    optimizer: optax.GradientTransformation,
    params: PyTree,
    state: optax.OptState,
    value: Scalar,
    grads: PyTree,
) -> tuple[PyTree, optax.OptState]:
    """One step of an Optax optimiser. Optax itself does not hold to strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step = optax.with_extra_args_support(optimizer).update
        updates, state = step(grads, state, params, value=value, grad=grads)
        return optax.apply_updates(params, updates), state


def value_and_grad(
    loss: AbstractLoss,
    params: PyTree,
    rest: PyTree,
    batch: PyTree[Array],
    key: Key,
    state: PyTree,
) -> tuple[Scalar, PyTree, PyTree]:
    """The loss, its gradient in the parameters, or what stands for it, and the loss state."""
    if isinstance(loss, AbstractStatefulLoss):
        (value, grads), state = loss.value_and_grad(eqx.combine(params, rest), batch, key, state)
    elif isinstance(loss, AbstractGradientLoss):
        value, grads = loss.value_and_grad(eqx.combine(params, rest), batch, key)
    else:

        def of_params(params: PyTree) -> Scalar:
            return scalar(loss(eqx.combine(params, rest), batch, key), "fit: loss")

        value, grads = eqx.filter_value_and_grad(of_params)(params)
        return value, grads, state
    return scalar(value, "fit: loss"), _of_params(grads, params), state


def _of_params(grads: PyTree, params: PyTree) -> PyTree:
    """The part of a gradient that is of the parameters; raise unless it fits them."""

    def pick(param: Array | None, grad: Array | None) -> Array | None:
        if param is None:
            return None
        came = None if grad is None else jnp.shape(grad)
        if came != param.shape:
            raise ValueError(
                f"fit: loss.value_and_grad must return an array of shape {param.shape} for each "
                f"parameter; {came} came. "
                "Return the structure of eqx.filter(model, eqx.is_inexact_array)."
            )
        return grad

    return jax.tree.map(pick, params, grads, is_leaf=lambda leaf: leaf is None)


@eqx.filter_jit
def evaluate(
    params: PyTree,
    rest: PyTree,
    data: Examples,
    key: Key,
    functions: dict[str, Callable[..., ArrayLike]],
    batch_size: int,
) -> dict[str, Scalar]:
    """Means of functions over all data, in batches; the last one counts by its size.

    The function called `"validation_loss"` gets a key, the others do not.
    """
    model = eqx.combine(params, rest)
    N = len(data)
    batch_size = min(batch_size, N)
    full, left = divmod(N, batch_size)

    def values(batch: PyTree[Array], k: Array | int) -> dict[str, Scalar]:
        out = {}
        for name, function in functions.items():
            extra = (jr.fold_in(key, k),) if name == "validation_loss" else ()
            out[name] = scalar(function(model, batch, *extra), f"fit: {name}")
        return out

    def step(_: None, k: Array) -> tuple[None, dict[str, Scalar]]:
        return None, values(data.slice(k * batch_size, batch_size), k)

    _, rows = lax.scan(step, None, jnp.arange(full))
    means = jax.tree.map(lambda row: row.mean(), rows)
    if left == 0:
        return means
    weight = left / N
    last = values(data.slice(N - left, left), full)
    return jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, means, last)


def partition(model: PyTree, trainable: PyTree | None) -> tuple[PyTree, PyTree]:
    """The parameters to train, and the rest of the model.

    What is not trained must not reach an optimiser: one with weight decay moves it all the same.
    """
    params, rest = eqx.partition(model, parameters(model))
    if trainable is not None:
        params, others = _chosen(params, trainable)
        rest = eqx.combine(rest, others)
    if not jax.tree.leaves(params):
        raise ValueError(
            "fit: the model must have something to train, a floating-point array; "
            f"{'there is none' if trainable is None else '`trainable` chooses none'}."
        )
    return strong(params), rest


_CURE = (
    "A part of a model is chosen by "
    "eqx.tree_at(lambda m: m.Xi, jax.tree.map(lambda leaf: False, model), True)."
)


def _chosen(params: PyTree, trainable: PyTree) -> tuple[PyTree, PyTree]:
    """The parameters that an Equinox filter chooses, and the others."""
    try:
        jax.tree.map(lambda _, below: None, trainable, params)
    except ValueError as err:
        raise ValueError(
            "fit: trainable must have the structure of the model, or of its upper part; another "
            f"came. {_CURE}"
        ) from err
    return eqx.partition(params, jax.tree.map(_strict, trainable))


def _strict(chosen: object) -> bool | Callable[[Array], bool]:
    """A leaf of a filter; raise unless it is a bool, or a function whose answer is one."""
    if isinstance(chosen, bool | np.bool_):
        return bool(chosen)
    if not callable(chosen):
        raise TypeError(
            "fit: trainable must hold bools, or functions from a leaf to a bool; "
            f"{type(chosen).__name__} came. {_CURE}"
        )

    def ask(leaf: Array) -> bool:
        try:
            answer = chosen(leaf)
        except AttributeError as err:
            raise TypeError(
                "fit: trainable, a function, must take one leaf of the model, an array; it asks "
                f"for something else: {err}. {_CURE}"
            ) from err
        if not isinstance(answer, bool | np.bool_):
            raise TypeError(
                "fit: trainable, a function, must return a bool for each leaf of the model; "
                f"{type(answer).__name__} came. {_CURE}"
            )
        return bool(answer)

    return ask


def parameters(model: PyTree) -> PyTree[bool]:
    """Which leaves of a model can be trained, as a tree of bools.

    Those are the floating-point arrays, but for the fields that say `metadata={"trained": False}`
    and all that is in them.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(model)
    may = [eqx.is_inexact_array(leaf) and _is_trained(model, path) for path, leaf in leaves]
    return jax.tree.unflatten(structure, may)


def _is_trained(node: PyTree, path: jax.tree_util.KeyPath) -> bool:
    """Whether no field on the path to a leaf says that it is not trained."""
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            fields = dataclasses.fields(node) if dataclasses.is_dataclass(node) else ()
            if not all(f.metadata.get("trained", True) for f in fields if f.name == key.name):
                return False
            node = getattr(node, key.name)
        elif isinstance(key, jax.tree_util.SequenceKey):
            node = node[key.idx]
        elif isinstance(key, jax.tree_util.DictKey):
            node = node[key.key]
        else:  # a node that does not say what it holds
            return True
    return True


def strong(tree: Tree) -> Tree:
    """The same arrays without weak types: files lose them, and a resumed run must not differ."""
    return jax.tree.map(lambda a: jnp.asarray(a, a.dtype) if eqx.is_array(a) else a, tree)
