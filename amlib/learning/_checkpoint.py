"""Where a training stands, in a file that a killed process cannot corrupt.

A file belongs to one run: the same model, data, key, and the same computation. Two losses of one
name may close over different constants; what JAX traces of them tells all.
"""

import hashlib
import math
import os
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import PyTree

from amlib import _files as files, _hosts as hosts
from amlib._types import Key, Scalar
from amlib.learning import _epochs as epochs_
from amlib.learning._computation import fingerprint, versions
from amlib.learning._epochs import Run
from amlib.learning._examples import Examples


class State(NamedTuple):
    """Where a training stands after an epoch."""

    params: PyTree
    best: PyTree
    optimizer: optax.OptState
    loss: PyTree
    epoch: int
    best_epoch: int
    best_loss: float
    history: dict[str, list[float]]


class Checkpoint:
    """A file to write states of one run to, and to resume from."""

    def __init__(
        self, path: str | os.PathLike[str], run: Run, state: State, rest: PyTree, key: Key
    ):
        self.path = files.checked_path(path, "fit: checkpoint")
        self.model = files.describe(eqx.combine(state.params, rest))
        self.run = {
            "trained parts": files.describe(state.params),
            "initial weights": _digest(state.params),
            "weights not trained": _digest(rest),
            "data": run.data.describe(),
            "the data's values": _digest(run.data),
            "validation": None if run.validation is None else run.validation.describe(),
            "the validation's values": _digest(run.validation),
            "batch_size": run.batch_size,
            "metrics": sorted(run.metrics),
            "loss": files.describe(run.loss),
            "the loss's values": _digest(run.loss),
            "key": _digest(key),
            "optimizer": files.describe(state.optimizer),
            "the optimizer's initial values": _digest(state.optimizer),
        }
        self._all = run, state, rest, key
        self._together = hosts.spread(state.params)
        self._found: dict[str, str] | None = None
        self.steps = _probe(run.optimizer, state)

    def computation(self) -> dict[str, str]:
        """What the functions of the run compute; asked once all else fits."""
        if self._found is None:
            self._found = _computation(*self._all)
            del self._all  # the first weights need not stay in memory
        return self._found

    def write(self, state: State) -> None:
        """Write a state, atomically."""
        notes = {
            "epoch": state.epoch,
            "best_epoch": state.best_epoch,
            "best_loss": state.best_loss,
            "history": state.history,
            "run": self.run,
            "model": self.model,
            "computation": self.computation(),
            "versions": versions(),
            "steps": self.steps,
        }
        files.write(self.path, _tree(state), "checkpoint", notes)

    def resume(self, state: State) -> State:
        """The state in the file, or the one given where there is no file."""
        there = lambda: b"" if self.path.exists() else None
        if (hosts.once(there) if self._together else there()) is None:
            return state
        content = files.read(self.path, "checkpoint", together=self._together)
        notes = content.notes
        with files.whatever_it_holds(self.path):
            _check_notes(notes)
        self._refuse_unless_same(notes)
        tree = files.restore(self.path, content, _tree(state))
        return State(
            **tree,
            epoch=notes["epoch"],
            best_epoch=notes["best_epoch"],
            best_loss=notes["best_loss"],
            history=notes["history"],
        )

    def _refuse_unless_same(self, notes: dict[str, Any]) -> None:
        """Raise unless the file belongs to a run with the same arguments."""
        self._refuse_if("model", files.differences(notes["model"], self.model))
        for name, now in self.run.items():
            was = notes["run"].get(name)
            if isinstance(now, dict) and isinstance(was, dict):
                self._refuse_if(name, files.differences(was, now))
            elif was != now:
                hashed = isinstance(now, str)
                self._refuse_if(name, ["other values" if hashed else f"{was} then, {now} now"])
        if notes["versions"] == versions():
            for name, now in self.computation().items():
                if notes["computation"].get(name) != now:
                    self._refuse_if(name, ["it computes something else: other code or constants"])
            return
        # Another JAX may trace the same functions otherwise; what an optimiser does stays.
        close = [
            math.isclose(was, now, rel_tol=1e-3) or (was != was and now != now)
            for was, now in zip(notes["steps"], self.steps, strict=True)
        ]
        if not all(close):
            line = f"its first steps on a probe had lengths {notes['steps']} then, {self.steps} now"
            self._refuse_if("optimizer", [line])

    def _refuse_if(self, name: str, lines: list[str]) -> None:
        if lines:
            more = [] if len(lines) <= 8 else [f"and {len(lines) - 8} more"]
            text = "\n  ".join(line.replace("`like`", "this run") for line in lines[:8] + more)
            raise ValueError(
                f"fit: checkpoint {self.path} must be of this run; it differs in {name}:\n"
                f"  {text}\n"
                "The file is kept as it is: name another file, or remove it to start afresh."
            )


def _tree(state: State) -> dict[str, PyTree]:
    """What is stored as arrays."""
    return {name: getattr(state, name) for name in ("params", "best", "optimizer", "loss")}


def _check_notes(notes: dict[str, Any]) -> None:
    """Raise, anything, unless the notes of a checkpoint are of the form that `write` gives them."""
    kinds = {
        "epoch": int, "best_epoch": int, "best_loss": float, "history": dict, "run": dict,
        "model": dict, "computation": dict, "versions": dict, "steps": list,
    }  # fmt: skip
    for name, kind in kinds.items():
        if not isinstance(notes[name], kind):
            raise TypeError(f"its {name} is no {kind.__name__}")
    if len(notes["steps"]) != _PROBED or not all(isinstance(a, float) for a in notes["steps"]):
        raise ValueError("its steps are of another form")
    for column in notes["history"].values():
        if len(column) != notes["epoch"] or not all(isinstance(a, float) for a in column):
            raise ValueError("its history is of another length")


def _computation(run: Run, state: State, rest: PyTree, key: Key) -> dict[str, str]:
    """What the functions of a run compute, as checksums."""

    def rows(data: Examples) -> PyTree[jax.ShapeDtypeStruct]:
        return data.struct(min(run.batch_size, len(data)))

    loss, (value, grads, _) = fingerprint(
        epochs_.value_and_grad, run.loss, state.params, rest, rows(run.data), key, state.loss
    )
    optimizer, _ = fingerprint(
        epochs_.update, run.optimizer, state.params, state.optimizer, value, grads
    )
    found = {"loss": loss, "optimizer": optimizer}
    if run.validation is not None:
        model, batch = eqx.combine(state.params, rest), rows(run.validation)
        found["validation loss"], _ = fingerprint(run.loss, model, batch, key)
        for name, metric in run.metrics.items():
            found[f"metric {name!r}"], _ = fingerprint(metric, model, batch)
    return found


def _digest(tree: PyTree) -> str:
    """A checksum of the values of all arrays and numbers, on however many devices they are."""
    rows = None
    if isinstance(tree, Examples):
        rows, tree = (None if tree.rows is None else np.asarray(tree.rows)), tree.data
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jr.key_data(leaf)
        if eqx.is_array_like(leaf):
            for block in hosts.blocks(leaf, rows):
                digest.update(np.ascontiguousarray(block).tobytes())
    return digest.hexdigest()


_PROBED = 2  # steps


@eqx.filter_jit
def _step_lengths(
    optimizer: optax.GradientTransformation, params: PyTree, state: optax.OptState
) -> list[Scalar]:
    lengths = []
    for k in range(_PROBED):
        # Gradients that differ: to equal ones, averages of any length answer the same.
        grads = jax.tree.map(lambda p, k=k: jnp.full_like(p, 1e-2 * (-0.3) ** k), params)
        new, state = epochs_.update(optimizer, params, state, jnp.asarray(1.0), grads)
        moves = jax.tree.map(lambda a, b: jnp.abs((a - b).astype(jnp.float32)), new, params)
        lengths.append(sum(move.sum() for move in jax.tree.leaves(moves)))
        params = new
    return lengths


def _probe(optimizer: optax.GradientTransformation, state: State) -> list[float]:
    """How far steps with given gradients go: it tells rates, momenta and the like apart."""
    return [float(a) for a in _step_lengths(optimizer, state.params, state.optimizer)]
