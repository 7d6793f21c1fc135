"""The compiled parts of `fit`, and what they need of data and models. Knows no loop over epochs."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax import lax
from jaxtyping import Array

from amlib import _checks as checks
from amlib._types import Key


@eqx.filter_jit
def train(
    carried: tuple[Any, Any, Any],
    rest: Any,
    data: Any,
    key: Key,
    loss: Any,
    optimizer: optax.GradientTransformation,
    batch_size: int,
) -> tuple[tuple[Any, Any, Any], Array, Array, Array]:
    """One epoch over shuffled data.

    **Arguments:**

    - `carried`: parameters, optimiser state and loss state.
    - `rest`: the part of the model that is not trained.

    **Returns:** what is carried, after the epoch; the mean loss; whether loss and parameters are
    finite; whether they stayed as they do without a gradient.
    """
    N = length(data)
    steps = N // batch_size
    shuffling, drawing = jr.split(key)
    order = jr.permutation(shuffling, N)[: steps * batch_size].reshape(steps, batch_size)
    # Whatever is no array (numbers, functions) goes around the scan.
    arrays, others = eqx.partition(carried, eqx.is_array)

    def step(arrays: Any, now: tuple[Array, Array]) -> tuple[Any, Array]:
        rows, k = now
        params, state, loss_state = eqx.combine(arrays, others)
        batch = jax.tree.map(lambda a: a[rows], data)
        value, grads, loss_state = value_and_grad(
            loss, params, rest, batch, jr.fold_in(drawing, k), loss_state
        )
        params, state = update(optimizer, params, state, value, grads)
        new, _ = eqx.partition((params, state, loss_state), eqx.is_array)
        return new, value

    before = carried[0]
    arrays, values = lax.scan(step, arrays, (order, jnp.arange(steps)))
    carried = eqx.combine(arrays, others)
    finite = jnp.isfinite(values).all()
    for leaf in jax.tree.leaves(carried[0]):
        finite &= jnp.isfinite(leaf).all()
    return carried, values.mean(), finite, _rested(before, carried[0], steps)


def _rested(old: Any, new: Any, steps: int) -> Array:
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
    params: Any, rest: Any, data: Any, key: Key, loss: Any, state: Any, batch_size: int
) -> Array:
    """Whether the gradient over one batch is exactly zero, in every number."""
    batch = jax.tree.map(lambda a: a[:batch_size], data)
    _, grads, _ = value_and_grad(loss, params, rest, batch, key, state)
    return ~jnp.stack([(grad != 0).any() for grad in jax.tree.leaves(grads)]).any()


def update(optimizer: Any, params: Any, state: Any, value: Array, grads: Any) -> tuple[Any, Any]:
    """One step of an Optax optimiser. Optax itself does not hold to strict promotion."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        step = optax.with_extra_args_support(optimizer).update
        updates, state = step(grads, state, params, value=value, grad=grads)
        return optax.apply_updates(params, updates), state


def value_and_grad(
    loss: Any, params: Any, rest: Any, batch: Any, key: Key, state: Any
) -> tuple[Array, Any, Any]:
    """The loss, its gradient in the parameters, or what stands for it, and the loss state."""
    if not hasattr(loss, "value_and_grad"):

        def of_params(params: Any) -> Array:
            return scalar(loss(eqx.combine(params, rest), batch, key), "fit: loss")

        value, grads = eqx.filter_value_and_grad(of_params)(params)
        return value, grads, state
    model = eqx.combine(params, rest)
    if hasattr(loss, "initial_state"):
        (value, grads), state = loss.value_and_grad(model, batch, key, state)
    else:
        value, grads = loss.value_and_grad(model, batch, key)

    def pick(param: Any, grad: Any) -> Any:
        if param is not None and getattr(grad, "shape", None) != param.shape:
            raise ValueError(
                f"fit: loss.value_and_grad must return an array of shape {param.shape} for each "
                f"parameter; {grad if grad is None else getattr(grad, 'shape', grad)} came. "
                "Return the structure of eqx.filter(model, eqx.is_inexact_array)."
            )
        return None if param is None else grad

    grads = jax.tree.map(pick, params, grads, is_leaf=lambda leaf: leaf is None)
    return scalar(value, "fit: loss"), grads, state


@eqx.filter_jit
def evaluate(
    params: Any,
    rest: Any,
    data: Any,
    key: Key,
    functions: dict[str, Callable[..., Any]],
    batch_size: int,
) -> dict[str, Array]:
    """Means of functions over all data, in batches; the last one counts by its size.

    The function called `"validation_loss"` gets a key, the others do not.
    """
    model = eqx.combine(params, rest)
    N = length(data)
    batch_size = min(batch_size, N)
    full, left = divmod(N, batch_size)

    def values(batch: Any, k: Any) -> dict[str, Array]:
        out = {}
        for name, function in functions.items():
            extra = (jr.fold_in(key, k),) if name == "validation_loss" else ()
            out[name] = scalar(function(model, batch, *extra), f"fit: {name}")
        return out

    def step(_: None, k: Array) -> tuple[None, dict[str, Array]]:
        batch = jax.tree.map(
            lambda a: lax.dynamic_slice_in_dim(a, k * batch_size, batch_size), data
        )
        return None, values(batch, k)

    _, rows = lax.scan(step, None, jnp.arange(full))
    means = jax.tree.map(lambda row: row.mean(), rows)
    if left == 0:
        return means
    rest_of_data = jax.tree.map(lambda a: a[N - left :], data)
    weight = left / N
    last = values(rest_of_data, full)
    return jax.tree.map(lambda a, b: (1 - weight) * a + weight * b, means, last)


def scalar(value: Any, where: str) -> Array:
    """Return the value of a loss or a metric as a float; raise unless it is one real number."""
    value = jnp.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"{where} must be one number per batch; shape {value.shape} came. "
            "Take the mean over the batch: jnp.mean(...)."
        )
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise TypeError(f"{where} must be real; {value.dtype} came.")
    if not jnp.issubdtype(value.dtype, jnp.floating):
        value = value.astype(jnp.result_type(float))
    return value


def arrays(data: Any, where: str) -> Any:
    """Data as arrays on the device; raise unless they are finite and of one length above 0."""

    def convert(path: Any, leaf: Any) -> Array:
        name = where + jax.tree_util.keystr(path)
        try:
            leaf = jnp.asarray(leaf)
        except (TypeError, ValueError) as err:
            raise TypeError(
                f"{name}: must be an array of numbers; {type(leaf).__name__} came."
            ) from err
        if leaf.ndim == 0:
            raise ValueError(
                f"{name}: must have one row per example; a single number came. "
                "A list of numbers is a tree of numbers: pass jnp.array(list)."
            )
        if eqx.is_inexact_array(leaf):
            checks.require(
                leaf,
                ~np.asarray(jnp.isfinite(leaf).all()),
                f"{name}: every value must be finite; NaN or infinity came. "
                "Clean it with jnp.nan_to_num, or leave such examples out.",
            )
        return leaf

    data = jax.tree_util.tree_map_with_path(convert, data)
    lengths = {a.shape[0] for a in jax.tree.leaves(data)}
    if not lengths or lengths == {0}:
        raise ValueError(f"{where}: must hold at least one example; it is empty.")
    if len(lengths) > 1:
        raise ValueError(
            f"{where}: all arrays must have the same length of the first axis; "
            f"{', '.join(map(str, sorted(lengths)))} came."
        )
    return data


def length(data: Any) -> int:
    """How many examples there are."""
    return jax.tree.leaves(data)[0].shape[0]


def split(data: Any, validation: Any, key: Key) -> tuple[Any, Any]:
    """Training and validation data, from validation data or a fraction to set aside."""
    if validation is None:
        return data, None
    if isinstance(validation, bool | int | float | np.floating | np.integer):
        N = length(data)
        count = max(1, round(float(validation) * N))
        if isinstance(validation, bool) or not 0 < validation < 1 or count >= N:
            raise ValueError(
                f"fit: validation must be data, or a fraction in (0, 1) of the {N} examples that "
                f"leaves some for training; {validation} came."
            )
        order = jr.permutation(key, N)
        parts = order[count:], order[:count]
        training, validation = (jax.tree.map(lambda a, r=rows: a[r], data) for rows in parts)
        return training, validation
    validation = arrays(validation, "fit: validation")
    kinds = [
        jax.tree.map(lambda a: f"{a.dtype}{list(a.shape[1:])}", part) for part in (data, validation)
    ]
    if jax.tree.structure(kinds[0]) != jax.tree.structure(kinds[1]) or kinds[0] != kinds[1]:
        raise ValueError(
            f"fit: validation must be like the training data, {kinds[0]} per example; "
            f"{kinds[1]} came."
        )
    return data, validation


def partition(model: Any, trainable: Any) -> tuple[Any, Any]:
    """The parameters to train, and the rest of the model.

    What is not trained must not reach an optimiser: one with weight decay moves it all the same.
    """
    spec = True if trainable is None else _spec(model, trainable)
    params, rest = eqx.partition(model, spec)
    params, others = eqx.partition(params, parameters(model))
    rest = eqx.combine(rest, others)
    if not jax.tree.leaves(params):
        raise ValueError(
            "fit: the model must have something to train, a floating-point array; "
            f"{'there is none' if trainable is None else '`trainable` chooses none'}."
        )
    return strong(params), rest


def parameters(model: Any) -> Any:
    """Which leaves of a model can be trained, as a tree of bools.

    Those are the floating-point arrays, but for the fields that say `metadata={"trained": False}`
    and all that is in them.
    """
    leaves, structure = jax.tree_util.tree_flatten_with_path(model)
    may = [eqx.is_inexact_array(leaf) and _is_trained(model, path) for path, leaf in leaves]
    return jax.tree.unflatten(structure, may)


def _is_trained(node: Any, path: Any) -> bool:
    """Whether no field on the path to a leaf says that it is not trained."""
    for key in path:
        if isinstance(key, jax.tree_util.GetAttrKey):
            fields = getattr(type(node), "__dataclass_fields__", {})
            if key.name in fields and not fields[key.name].metadata.get("trained", True):
                return False
            node = getattr(node, key.name)
        elif isinstance(key, jax.tree_util.SequenceKey):
            node = node[key.idx]
        elif isinstance(key, jax.tree_util.DictKey):
            node = node[key.key]
        else:  # a node that does not say what it holds
            return True
    return True


def strong(tree: Any) -> Any:
    """The same arrays without weak types: files lose them, and a resumed run must not differ."""
    return jax.tree.map(lambda a: jnp.asarray(a, a.dtype) if eqx.is_array(a) else a, tree)


def _spec(model: Any, trainable: Any) -> Any:
    """An Equinox filter from what users give as `trainable`."""
    if not callable(trainable) or isinstance(trainable, eqx.Module):  # a model may be callable
        return trainable
    try:
        chosen = trainable(model)
    except (AttributeError, TypeError):
        chosen = True  # a question that only leaves can answer: a filter
    if isinstance(chosen, bool | np.bool_):
        return lambda leaf: eqx.is_inexact_array(leaf) and bool(trainable(leaf))
    none = jax.tree.map(lambda _: False, model)
    return eqx.tree_at(trainable, none, replace_fn=lambda n: jax.tree.map(lambda _: True, n))


def describe(data: Any) -> list[str]:
    """Names, dtypes and shapes of all arrays of the data."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(data)
    return [f"{jax.tree_util.keystr(p)}: {a.dtype}{list(a.shape)}" for p, a in leaves]
