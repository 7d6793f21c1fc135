"""What a recall returns: how it ended, and a record from which every frame can be rebuilt."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float, Integer, PyTree

from amlib.descent.frames import Frames


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
    sampled = "Drew the requested number of Glauber sweeps; there is no fixed point to reach."


class Trajectory(eqx.Module):
    """The record of a binary recall: nine bytes or less per visit, and no states.

    **Arguments:**

    - `x0`: the starting state.
    - `visited`: the bit attempted at each visit, an index into the flattened state.
    - `accepted`: whether the flip was kept.
    - `energy`: the energy after each visit.
    """

    x0: Float[Array, "*batch_state"]
    visited: Integer[Array, "*batch T"]
    accepted: Bool[Array, "*batch T"]
    energy: Float[Array, "*batch T"]

    @property
    def frames(self) -> Frames:
        """The state after each visit, as a lazy array."""
        return Frames(self.x0, self.visited, self.accepted)


class ContinuousTrajectory(eqx.Module):
    """The record of a continuous recall: the states and energies that were asked for.

    Its size is fixed before a recall begins, by the step limit. It holds at most 1 MiB of states
    (or 32, if that is more), and the start. A record of more keeps the first half of them every
    `save_every` steps, and the others ever more sparsely up to the step limit (a flow's record:
    all of them more sparsely); `time` says when. Entries after the end of the recall repeat its
    last state.

    **Arguments:**

    - `x`: the states, beginning with the start.
    - `energy`: their energies.
    - `time`: when: the number of steps taken, or for a flow the time, in the unit of `tau`.
    """

    x: Float[Array, "*batch_T_state"]
    energy: Float[Array, "*batch T"]
    time: Float[Array, "*batch T"]

    @property
    def frames(self) -> Float[Array, "*batch_T_state"]:
        """The states, by the name that they have in a binary trajectory."""
        return self.x


class Recall(eqx.Module):
    """What `recall` returns; under `jax.vmap` every field gains the batch axes.

    **Arguments:**

    - `x`: the final state; of a hierarchical memory a list or a dict, with a state per layer.
    - `energy`: its energy.
    - `steps`: how many steps were taken; for a binary memory a step is a sweep.
    - `result`: how it ended, one of `RESULTS`.
    - `trajectory`: the record of the way, or `None` if it was not asked for.
    """

    x: PyTree[Float[Array, "..."]]
    energy: Float[Array, "*batch"]
    steps: Integer[Array, "*batch"]
    result: RESULTS
    trajectory: Any = None

    @property
    def sweeps(self) -> Integer[Array, "*batch"]:
        """How many sweeps a binary recall took: `steps` by its name in that field."""
        return self.steps

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether the recall reached a fixed point."""
        return self.result == RESULTS.converged
