"""One training loop for every model: a jitted epoch, checkpoints, early stopping.

```python
def loss(model, batch, key):
    clean, noisy = batch
    return jnp.mean((jax.vmap(model.retrieve)(noisy) - clean) ** 2)

result = am.fit(model, (clean, noisy), loss, optax.adam(1e-3), 10, 100, jax.random.key(0))
result.model, result.history["loss"]
```

**Frozen parts.** `trainable` is what `equinox.partition` takes: a tree of bools like the model, or
a function from a leaf to a bool. This trains the patterns of a model and leaves the rest alone:

```python
nothing = jax.tree.map(lambda leaf: False, model)
trainable = eqx.tree_at(lambda m: m.Xi, nothing, True)
```

A field that is never to be trained says so where it is defined,
`T: Array = eqx.field(metadata={"trained": False})`: no optimiser sees it.

**Constraints by parametrisation.** What must hold for a parameter is best computed from a free
one, in the model: positive numbers as `jax.nn.softplus(self.raw_beta)`, symmetric couplings without
self-coupling as `J = A + A.T; J - jnp.diag(jnp.diag(J))`, patterns in [-1, 1] as
`jnp.tanh(self.raw_Xi)`. Then every step of every optimiser keeps the constraint, and no projection
fights its momentum.

**Losses of your own** are functions as above, or subclasses of `AbstractLoss`: see
`amlib.learning.base`, also for losses that bring a gradient of their own.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, ArrayLike, PyTree

from amlib import _checks as checks, _hosts as hosts, _progress as bars, _show as show
from amlib._types import Key
from amlib.learning import _epochs as epochs_, _examples as examples_
from amlib.learning._checkpoint import Checkpoint, State
from amlib.learning._epochs import Keys, Run
from amlib.learning._examples import Examples
from amlib.learning.base import AbstractLoss, AbstractStatefulLoss, as_loss
from amlib.learning.optimizers import MovingAverageState

Metric = Callable[[PyTree, PyTree[Array]], ArrayLike]

_ASKS = 3  # times to look for a gradient: a learning rate that begins at zero moves nothing either


class OUTCOMES(eqx.Enumeration):
    """How a training ended. `str(outcome)` is the message; compare with `==`."""

    completed = "Completed: all epochs ran."
    early_stopped = "Stopped early: the validation loss did not improve for `patience` epochs."
    nonfinite = (
        "Stopped because the loss, the validation loss or a parameter is not finite; the model is "
        "the last good one. Lower the learning rate, or clip gradients "
        "(optax.clip_by_global_norm)."
    )


class FitResult(NamedTuple):
    """What `fit` returns.

    **Arguments:**

    - `model`: the best model by validation loss where validation data were given, else the last.
    - `history`: per epoch, one-dimensional NumPy arrays of one length: `"loss"`, the mean over the
      batches during the epoch; `"validation_loss"` where there are validation data; one entry per
      metric; `"seconds"`.
    - `last`: the model after the last epoch in which everything was finite.
    - `result`: how it ended, one of `OUTCOMES`.
    - `epoch`: the last epoch that ran, counted from 1. If `result` is `nonfinite`, the one in
      which that showed.
    - `best_epoch`: the epoch after which `model` was taken; 0 is the model as it was given.
    - `optimizer`: the state of the optimiser that belongs to `last`, such as the averages that
      `averaged` takes out.
    """

    model: PyTree
    history: dict[str, np.ndarray]
    last: PyTree
    result: OUTCOMES
    epoch: int
    best_epoch: int
    optimizer: optax.OptState = None  # pyright: ignore[reportAssignmentType]

    __repr__ = show.text


def averaged(result: FitResult) -> PyTree:
    """The model with its parameters averaged over the training.

    **Arguments:**

    - `result`: of a `fit` whose optimiser ended with `moving_average`.

    **Raises:** `ValueError` where the optimiser kept no average.
    """
    is_average = lambda node: isinstance(node, MovingAverageState)
    nodes = jax.tree.leaves(result.optimizer, is_leaf=is_average)
    averages = [node.average for node in nodes if is_average(node)]
    if len(averages) != 1:
        raise ValueError(
            f"averaged: the optimiser must have kept one average; {len(averages)} came. Train with "
            "optax.chain(optax.adam(1e-4), am.learning.moving_average(0.9999))."
        )
    return eqx.combine(averages[0], result.last)


def fit(
    model: PyTree,
    data: PyTree[ArrayLike],
    loss: AbstractLoss | Callable[[PyTree, PyTree[Array], Key], ArrayLike],
    optimizer: optax.GradientTransformation,
    epochs: int,
    batch_size: int,
    key: Key,
    *,
    validation: PyTree[ArrayLike] | float | None = None,
    metrics: Mapping[str, Metric] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool = True,
    trainable: PyTree[bool | Callable[[Array], bool]] | None = None,
    patience: int | None = None,
) -> FitResult:
    """Train a model by gradient steps on batches of data.

    An epoch is one compiled program: it shuffles the data and scans over the batches on the
    device. The `N % batch_size` examples left over at the end of an epoch are dropped; they are
    others in the next one. The same arguments give the same weights, bit for bit, on one machine,
    whether or not the training was interrupted.

    **Arguments:**

    - `model`: any Equinox module.
    - `data`: arrays, or a tree of arrays, with the same length N of the first axis. Where they are
      split over the devices of a mesh, `am.shard(data, mesh, "batch")`, so is each batch: a device
      takes the gradient of its part, and JAX adds them up. Losses are those of one device within
      rounding, for batches of any size. What is trained stays as `model` has it: copies,
      `am.shard(model, mesh, None)`, or split, by any rule.
    - `loss`: `loss(model, batch, key) -> scalar`, a mean over the batch; a batch is like `data`,
      with `batch_size` in place of N. Or an `AbstractLoss`, such as `am.learning.CrossEntropy()`.
    - `optimizer`: any Optax optimiser. Schedules count steps, `N // batch_size` in an epoch.
    - `epochs`: how many, at least 1.
    - `batch_size`: examples per step, 1 to N.
    - `key`: for the shuffling, the loss and the validation.
    - `validation`: data like `data`, or a fraction in (0, 1) of them to set aside at random. The
      loss over them is exact, the last batch counted by its size, and with the same key each epoch.
    - `metrics`: further means over the validation data by name, each `metric(model, batch) ->
      scalar`.
    - `checkpoint`: a file written after every epoch, atomically. If it is there, training goes on
      from it, so that the same call runs to the end whenever it was killed. A larger `epochs` goes
      on with a finished run. A checkpoint of other arguments (model, data, loss, optimiser, batch
      size, key) is refused.
    - `progress`: whether to show a bar with the loss.
    - `trainable`: which floating-point arrays to train, as an Equinox filter: a tree of bools, or a
      function from a leaf to a bool. `None` means all. Fields that say that they are not trained
      never are. One part of a model:
      `eqx.tree_at(lambda m: m.Xi, jax.tree.map(lambda leaf: False, model), True)`.
    - `patience`: stop when the validation loss has not improved for so many epochs.

    **Returns:** a `FitResult`.

    **Warns:** where an epoch moved nothing because the gradient is exactly zero; at most once.

    **Raises:** `ValueError` for data that are empty, not finite or of different lengths, a batch
    size out of range, `epochs < 1`, a loss that is no scalar, nothing to train, or a checkpoint
    that is damaged or of another run (which is kept); `TypeError` for an optimiser or loss of
    another kind.
    """
    loss = as_loss(loss)
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"fit: optimizer must be an Optax optimiser; {type(optimizer).__name__} came. "
            "Write optax.adam(1e-3)."
        )
    epochs = checks.integer(epochs, 1, "fit: epochs")
    checks.key(key, "fit: key")
    if patience is not None:
        patience = checks.integer(patience, 1, "fit: patience")
    data = examples_.arrays(data, "fit: data")
    validation = examples_.like(validation, data)
    loss, (model, data, validation, key) = _together(loss, (model, data, validation, key))
    with hosts.around(data):
        keys = Keys(*jr.split(key, 4))
        training, held_out = examples_.split(data, validation, keys.split)
        metrics = _checked_metrics(metrics, held_out, patience)
        batch_size = checks.integer(batch_size, 1, "fit: batch_size")
        if batch_size > len(training):
            raise ValueError(
                f"fit: batch_size must be at most the number of training examples, "
                f"{len(training)}; {batch_size} came. Every batch is full."
            )
        for part in (training, held_out):
            if part is not None:
                loss.check(model, part.data)  # where both are rows of the same data, all of these
        run = Run(loss, optimizer, metrics, training, held_out, batch_size, keys)
        state, rest = _start(run, model, trainable)
        store = None if checkpoint is None else Checkpoint(checkpoint, run, state, rest, key)
        if store is not None:
            state = store.resume(state)
        return _loop(run, state, rest, epochs, patience, store, progress)


def _together(loss: AbstractLoss, given: tuple[PyTree, ...]) -> tuple[AbstractLoss, tuple]:
    """All on the mesh of one of these; the loss only if it is on one."""
    if (mesh := hosts.mesh_of(given)) is None:
        return loss, given
    where = "fit: model and data"
    if hosts.mesh_of(loss) is not None:
        loss = hosts.together(loss, mesh, where)
    return loss, hosts.together(given, mesh, where)


def _start(run: Run, model: PyTree, trainable: PyTree | None) -> tuple[State, PyTree]:
    """The state before the first epoch, and the part of the model that is not trained."""
    params, rest = epochs_.partition(model, trainable)
    loss_state = None
    if isinstance(run.loss, AbstractStatefulLoss):
        loss_state = epochs_.strong(run.loss.initial_state(model, run.data.all(), run.keys.state))
    optimizer = _optimizer_state(run.optimizer, params)
    if (mesh := hosts.mesh_of(params)) is not None:
        optimizer, loss_state = hosts.together((optimizer, loss_state), mesh, "fit: optimizer")
    state = State(
        params=params,
        best=params,
        optimizer=optimizer,
        loss=loss_state,
        epoch=0,
        best_epoch=0,
        best_loss=float("inf"),
        history={},
    )
    return state, rest


def _optimizer_state(optimizer: optax.GradientTransformation, params: PyTree) -> optax.OptState:
    # Optax itself does not hold to strict promotion.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        return epochs_.strong(optimizer.init(params))


def _loop(
    run: Run,
    state: State,
    rest: PyTree,
    epochs: int,
    patience: int | None,
    store: Checkpoint | None,
    progress: bool,
) -> FitResult:
    """Run epochs until one of the outcomes."""
    outcome, bad_row, asks = OUTCOMES.completed, None, _ASKS
    done = min(state.epoch, epochs)
    shown = progress and (hosts.is_first() or not hosts.spread(state.params))
    with bars.bar(epochs, shown, leave=True, initial=done, desc="fit") as bar:
        while state.epoch < epochs:
            if patience is not None and state.epoch - state.best_epoch >= patience:
                outcome = OUTCOMES.early_stopped
                break
            with _telling_of_others(state, store):
                new, row, rested = _epoch(run, state, rest)
            if rested and asks:
                asks = 0 if _warned_of_no_gradient(run, state, rest) else asks - 1
            bar.set_postfix({name: f"{row[name]:.4g}" for name in row if name != "seconds"})
            if new is None:
                outcome, bad_row = OUTCOMES.nonfinite, row
                break
            state = new
            if store is not None:
                store.write(state)
            bar.update()
    rows = {name: list(column) for name, column in state.history.items()}
    for name, value in (bad_row or {}).items():
        rows.setdefault(name, []).append(value)
    last = eqx.combine(state.params, rest)
    best = last if run.validation is None else eqx.combine(state.best, rest)
    return FitResult(
        model=best,
        history={name: np.asarray(column, np.float64) for name, column in rows.items()},
        last=last,
        result=outcome,
        epoch=state.epoch + (bad_row is not None),
        best_epoch=state.epoch if run.validation is None else state.best_epoch,
        optimizer=state.optimizer,
    )


def _epoch(run: Run, state: State, rest: PyTree) -> tuple[State | None, dict[str, float], bool]:
    """One epoch: the state after it, or `None` if that is not finite; a row of history; and
    whether the parameters stayed as they do without a gradient."""
    start = time.perf_counter()
    key = jr.fold_in(run.keys.epochs, state.epoch)
    carried = (state.params, state.optimizer, state.loss)
    trained, losses, finite, rested = epochs_.train(
        carried, rest, run.data, key, run.loss, run.optimizer, run.batch_size,
        examples_.shardings(carried),
    )  # fmt: skip
    values = {"loss": losses}
    if run.validation is not None:
        functions = {"validation_loss": run.loss, **run.metrics}
        values |= epochs_.evaluate(
            trained[0], rest, run.validation, run.keys.validation, functions, run.batch_size
        )
    values, finite, rested = jax.device_get((values, finite, rested))  # waits for the end
    row = {name: float(value) for name, value in values.items()}
    finite = bool(finite) and all(
        np.isfinite(row[name]) for name in ("loss", "validation_loss") if name in row
    )
    row["seconds"] = time.perf_counter() - start
    if not finite:
        return None, row, bool(rested)
    better = run.validation is not None and row["validation_loss"] < state.best_loss
    epoch = state.epoch + 1
    new = State(
        params=trained[0],
        best=trained[0] if better else state.best,
        optimizer=trained[1],
        loss=trained[2],
        epoch=epoch,
        best_epoch=epoch if better else state.best_epoch,
        best_loss=row["validation_loss"] if better else state.best_loss,
        history={name: [*state.history.get(name, []), value] for name, value in row.items()},
    )
    return new, row, bool(rested)


@contextlib.contextmanager
def _telling_of_others(state: State, store: Checkpoint | None) -> Iterator[None]:
    """Add to an error of JAX that another process may have ended, and how to go on."""
    try:
        yield
    except jax.errors.JaxRuntimeError as err:
        if hosts.spread(state.params):
            goes_on = "checkpoint= would keep the epochs that ended."
            if store is not None:
                goes_on = (
                    f"{store.path} holds the last one that did: the same call goes on from it."
                )
            err.add_note(
                f"fit: epoch {state.epoch + 1} must end in all {jax.process_count()} processes; it "
                "failed in this one. If another process is gone, what it printed says why. Start "
                f"all of them again; {goes_on}"
            )
        raise


def _warned_of_no_gradient(run: Run, state: State, rest: PyTree) -> bool:
    """Warn if the gradient is exactly zero; say whether it is."""
    key = jr.fold_in(run.keys.epochs, state.epoch)
    if not epochs_.has_no_gradient(
        state.params, rest, run.data, key, run.loss, state.loss, run.batch_size
    ):
        return False
    checks.warn(
        f"fit: in epoch {state.epoch + 1}, the gradient is exactly zero in every parameter: "
        "nothing is learned from the loss. Either it does not depend on what is trained; or a step "
        "without slope lies between (jnp.sign, a comparison, argmax, rounding, stop_gradient, the "
        "recall of spins); or units are saturated (weights or beta too large, a dead relu); or all "
        "is learned. jax.grad of the parts of the loss shows where it ends."
    )
    return True


def _checked_metrics(
    metrics: Mapping[str, Metric] | None, validation: Examples | None, patience: int | None
) -> dict[str, Metric]:
    """The metrics as a dict; raise for what needs validation data and has none."""
    if validation is None and (metrics or patience is not None):
        name = "metrics" if metrics else "patience"
        raise ValueError(
            f"fit: {name} needs validation data; none came. Pass validation=data like the training "
            "data, or validation=0.1 to set a tenth of them aside."
        )
    metrics = dict(metrics or {})
    for name, metric in metrics.items():
        if name in ("loss", "validation_loss", "seconds"):
            raise ValueError(f"fit: metrics: the name {name!r} is taken. Use another.")
        if not callable(metric):
            raise TypeError(
                f"fit: metrics: {name!r} must be a function metric(model, batch); "
                f"{type(metric).__name__} came."
            )
    return metrics
