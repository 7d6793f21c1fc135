"""Where a training stands, in a file that a killed process cannot spoil."""

import hashlib
import math
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

from amlib import _files as files
from amlib._types import Key
from amlib.learning import _epochs as epochs_


class State(NamedTuple):
    """Where a training stands after an epoch."""

    params: Any
    best: Any
    optimizer: Any
    loss: Any
    epoch: int
    best_epoch: int
    best_loss: float
    history: dict[str, list[float]]


class Checkpoint:
    """A file to write states of one run to, and to resume from."""

    def __init__(self, path: Any, run: Any, state: State, rest: Any, key: Key):
        self.path = files.checked_path(path, "fit: checkpoint")
        self.model = files.describe(eqx.combine(state.params, rest))
        self.run = {
            "trained parts": files.describe(state.params),
            "initial weights": _digest(state.params),
            "weights not trained": _digest(rest),
            "data": epochs_.describe(run.data),
            "the data's values": _digest(run.data),
            "validation": None if run.validation is None else epochs_.describe(run.validation),
            "the validation's values": _digest(run.validation),
            "batch_size": run.batch_size,
            "metrics": sorted(run.metrics),
            "loss": files.describe(run.loss),
            "the loss's values": _digest(run.loss),
            "key": _digest(key),
            "optimizer": files.describe(state.optimizer),
        }
        self.steps = _probe(run.optimizer, state)

    def write(self, state: State) -> None:
        """Write a state, atomically."""
        notes = {
            "epoch": state.epoch,
            "best_epoch": state.best_epoch,
            "best_loss": state.best_loss,
            "history": state.history,
            "run": self.run,
            "model": self.model,
            "steps": self.steps,
        }
        files.write(self.path, _tree(state), "checkpoint", notes)

    def resume(self, state: State) -> State:
        """The state in the file, or the one given where there is no file."""
        if not self.path.exists():
            return state
        content = files.read(self.path, "checkpoint")
        notes = content.notes
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
            was = notes["run"][name]
            if isinstance(now, dict) and isinstance(was, dict):
                self._refuse_if(name, files.differences(was, now))
            elif was != now:
                hashed = isinstance(now, str)
                self._refuse_if(name, ["other values" if hashed else f"{was} then, {now} now"])
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


def _tree(state: State) -> dict[str, Any]:
    """What is stored as arrays."""
    return {name: getattr(state, name) for name in ("params", "best", "optimizer", "loss")}


def _digest(tree: Any) -> str:
    """A checksum of the values of all arrays and numbers."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jr.key_data(leaf)
        if eqx.is_array_like(leaf):
            digest.update(np.ascontiguousarray(np.asarray(leaf)).tobytes())
    return digest.hexdigest()


@eqx.filter_jit
def _step_lengths(optimizer: optax.GradientTransformation, params: Any, state: Any) -> list[Any]:
    grads = jax.tree.map(lambda p: jnp.full_like(p, 1e-2), params)
    lengths = []
    for _ in range(2):
        new, state = epochs_.update(optimizer, params, state, jnp.asarray(1.0), grads)
        moves = jax.tree.map(lambda a, b: jnp.abs((a - b).astype(jnp.float32)), new, params)
        lengths.append(sum(move.sum() for move in jax.tree.leaves(moves)))
        params = new
    return lengths


def _probe(optimizer: optax.GradientTransformation, state: State) -> list[float]:
    """How far two steps with given gradients go: it tells learning rates and the like apart."""
    return [float(a) for a in _step_lengths(optimizer, state.params, state.optimizer)]
