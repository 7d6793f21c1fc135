"""What a recall returns: how it ended, and a record from which every frame can be rebuilt."""

from collections.abc import Iterator
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, PyTree, Shaped

from amlib import _show as show
from amlib._checks import is_concrete
from amlib.descent.frames import Frames
from amlib.spaces import AbstractFinite, Spins


class RESULTS(eqx.Enumeration):
    """How a recall ended. `str(result)` is the message; compare with `==`."""

    converged = "Converged: the state is a fixed point."
    cycle = "Stopped on a 2-cycle: the last two states follow each other for ever."
    step_limit = "Stopped at the step limit before a fixed point was reached."
    nonfinite = "Stopped because the energy is not finite (it overflowed, or it is NaN)."
    ascent = (
        "Ended short of a fixed point, after a step that raised the energy: too long a step, or "
        "unit steps (CCCP) where the energy's convex part is not 0.5*||x||^2. Use "
        "GradientDescent(backtracking=True), or a smaller step_size or dt."
    )
    gave_up = "Stopped because the solver gave up: its steps grow. Use another solver or start."
    sampled = "Drew the requested number of sweeps or steps; there is no fixed point to reach."


class Trajectory(eqx.Module):
    """The visits of a descent by flips: nine bytes or less per visit, and no states.

    **Arguments:**

    - `x0`: the starting state.
    - `visited`: the bit attempted at each visit, an index into the flattened state; of a move that
      flips several together, all of them.
    - `accepted`: whether the flip was kept.
    - `energy`: the energy after each visit.
    - `space`: what the values of a unit are.
    - `values`: of units of several values, what the visited one was to become.
    """

    x0: Shaped[Array, "*batch_state"]
    visited: Integer[Array, "..."]
    accepted: Bool[Array, "*batch T"]
    energy: Float[Array, "*batch T"]
    space: AbstractFinite = eqx.field(static=True, default=Spins())
    values: Integer[Array, "*batch T"] | None = None

    __repr__ = show.text

    @property
    def frames(self) -> Frames:
        """The state after each visit, as a lazy array."""
        return Frames(self.x0, self.visited, self.accepted, self.space, self.values)

    @property
    def time(self) -> Float[Array, "*batch T"]:
        """When each visit was, in visits: 1, 2, and so on."""
        T = self.accepted.shape[-1]
        return jnp.broadcast_to(jnp.arange(1, T + 1, dtype=self.energy.dtype), self.energy.shape)


class StateTrajectory(eqx.Module):
    """States and energies on the way, as they were asked for by `save_every`.

    Its size is fixed before a recall begins, by the step limit. It holds at most 1 MiB of states
    (or 32, if that is more), and the start. A record of more keeps the first half of them every
    `save_every` steps, and the others ever more sparsely up to the step limit (a flow's record:
    all of them more sparsely); `time` says when. Entries after the end of the recall repeat its
    last state. (The steps of `Euler` are all kept: their number is what was asked for.)

    **Arguments:**

    - `x`: the states, beginning with the start; of a hierarchical memory a list or a dict with the
      states of each layer, or `None` where they were not asked for.
    - `energy`: their energies.
    - `time`: when: the number of steps taken (sweeps, where units flip; of `Euler` times `dt`), or
      for a flow the time, in the unit of `tau`.
    - `parts`: of a hierarchical memory the parts of the energies, as `HAM.energy_tree` gives them.
    """

    x: PyTree[Shaped[Array, "..."]] | None
    energy: Float[Array, "*batch T"]
    time: Float[Array, "*batch T"]
    parts: dict[str, PyTree[Float[Array, "*batch T"]]] | None = None

    __repr__ = show.text

    @property
    def frames(self) -> PyTree[Shaped[Array, "..."]] | None:
        """The states, by the name that they have in every trajectory."""
        return self.x


class Recall(eqx.Module):
    """What `recall` returns; under `jax.vmap` every field gains the batch axes.

    `recall[3]`, slices, masks and iteration take examples out of a batch, trajectories included.

    **Arguments:**

    - `x`: the final state; of a hierarchical memory a list or a dict, with a state per layer.
    - `energy`: its energy.
    - `steps`: how many steps were taken; for a binary memory a step is a sweep.
    - `result`: how it ended, one of `RESULTS`.
    - `trajectory`: the visits of a descent by flips (`Trajectory`), the states that were kept
      (`StateTrajectory`), or `None` if nothing was. Both have `frames`, `energy` and `time`.
    - `time`: of a flow, when it ended, in the unit of `tau`; `None` for steps.
    """

    x: PyTree[Shaped[Array, "..."]]
    energy: Float[Array, "*batch"]
    steps: Integer[Array, "*batch"]
    result: RESULTS
    trajectory: Any = None  # one of the above; a type checker can't know which was asked for
    time: Float[Array, "*batch"] | None = None

    @property
    def sweeps(self) -> Integer[Array, "*batch"]:
        """How many sweeps a binary recall took: `steps` by its name in that field."""
        return self.steps

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether the recall reached a fixed point."""
        return self.result == RESULTS.converged

    def __getitem__(self, index: Any) -> "Recall":
        """Some examples of a batch: an index or a tuple of them, over the batch axes."""
        parts = "its parts are x, energy, steps and trajectory"
        return examples(self, jnp.shape(self.energy), index, parts)

    def __iter__(self) -> Iterator["Recall"]:
        return (self[i] for i in range(jnp.shape(self[:].energy)[0]))

    def __repr__(self) -> str:
        """One line, for any number of recalls: how they ended, and what is in them."""
        return show.attempt(self._said) or show.block(self)

    def _said(self) -> str:
        batch = jnp.shape(self.energy)
        states = [f"{a.dtype}{list(a.shape[len(batch) :])}" for a in jax.tree.leaves(self.x)]
        record = "" if self.trajectory is None else f", {type(self.trajectory).__name__}"
        of = f"of {' x '.join(map(str, batch))} states, " if batch else ""
        return f"Recall({of}{_outcome(self)}x: {', '.join(states)}{record})"


_Result = TypeVar("_Result", bound=eqx.Module)


def examples(result: _Result, batch: tuple[int, ...], index: Any, parts: str) -> _Result:
    """Some examples of a batch of results, by an index over the batch axes; JAX would clamp it.

    **Arguments:**

    - `parts`: what the result of one state has instead, in the words of an error.
    """
    name = type(result).__name__
    if not batch:
        raise TypeError(
            f"{name}: only a batch, as jax.vmap makes it, has examples to take; this is the "
            f"result of one state, and {parts}."
        )
    several = index if isinstance(index, tuple) else (index,)
    if any(part is Ellipsis or part is None for part in several):
        raise IndexError(f"{name}: an index is over the batch axes alone; leave out ... and None.")
    if all(map(is_concrete, jax.tree.leaves(several))):
        np.empty(batch, bool)[index]  # raises where an index does not fit
    return jax.tree.map(lambda a: a[index], result)


def _outcome(recall: Recall) -> str:
    """How many recalls ended in which way, after how many steps, at which energies."""
    numbers = jax.tree.leaves((recall.result, recall.steps, recall.energy))
    if not all(eqx.is_array(a) and is_concrete(a) and a.size for a in numbers):
        return ""  # traced, shapes alone, or no recall at all
    single = not jnp.shape(recall.energy)
    ended = []
    for name, member in RESULTS._name_to_item.items():  # pyright: ignore[reportAttributeAccessIssue]
        count = int(np.sum(np.asarray(recall.result == member)))
        if count and name:
            ended.append(name if single else f"{count} {name}")

    def span(name: str, values: Any, form: str) -> str:
        values = np.asarray(values)
        low, high = (format(v, form) for v in (values.min(), values.max()))
        return f"{name} {low}, " if low == high else f"{name} {low} to {high}, "

    steps = span("steps", recall.steps, ",")
    energy = span("energy", np.asarray(recall.energy, np.float64), ".6g")
    return f"{', '.join(ended)}, {steps}{energy}"
