"""What a recall returns: how it ended, and a record from which every frame can be rebuilt."""

import functools
import math
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, PyTree

from amlib._checks import is_concrete


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


class Frames(eqx.Module):
    """The states of an asynchronous recall after each visit, rebuilt on demand.

    Behaves as a read-only array of shape `(*batch, T, *state)`: it has `shape`, `dtype`, `len`
    and iteration; `frames[::100]`, `frames[-1]` and `frames[3, 500]` rebuild only what they ask
    for; `np.asarray(frames)` rebuilds everything. Five bytes per visit are kept instead of a
    state.

    **Arguments:**

    - `x0`: the starting state(s), spins of -1/+1.
    - `visited`: the bit attempted at each visit, an index into the flattened state.
    - `accepted`: whether the flip was kept.
    """

    x0: Float[Array, "*batch_state"]
    visited: Integer[Array, "*batch T"]
    accepted: Bool[Array, "*batch T"]

    @property
    def _batch_ndim(self) -> int:
        return self.visited.ndim - 1

    @property
    def shape(self) -> tuple[int, ...]:
        """`(*batch, T, *state)`."""
        return (*self.visited.shape, *self.x0.shape[self._batch_ndim :])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of spins in all frames."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> Any:
        """Dtype of the spins."""
        return self.x0.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Array:
        index = _expand(index, self.ndim)
        lead = self._batch_ndim
        batch, time, state = index[:lead], index[lead], index[lead + 1 :]
        x0, visited, accepted = self.x0, self.visited, self.accepted
        kept = 0  # axes that remain in front of time
        for part in batch:
            at = (slice(None),) * kept + (part,)
            before = visited.ndim
            x0, visited, accepted = x0[at], visited[at], accepted[at]
            kept += 1 + visited.ndim - before
        whole = np.arange(self.visited.shape[-1])
        times = whole[time] if is_concrete(time) else jnp.asarray(whole)[time]
        rebuild = _rebuild
        for _ in range(kept):
            rebuild = jax.vmap(rebuild, in_axes=(0, 0, 0, None))
        frames = rebuild(x0, visited, accepted, jnp.asarray(times).reshape(-1))
        frames = frames.reshape(*frames.shape[:kept], *times.shape, *frames.shape[kept + 1 :])
        frames = frames[(slice(None),) * (kept + times.ndim) + state] if state else frames
        _like_numpy(self.shape, index, frames.shape)
        return frames

    def __iter__(self) -> Iterator[Array]:
        block = max(1, 2**22 // max(1, math.prod(self.shape[1:])))
        for start in range(0, len(self), block):
            yield from self[start : start + block]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Frames: are rebuilt, so they can't be shared without a copy.")
        return np.asarray(self[...], dtype=dtype)

    def __jax_array__(self) -> Array:
        return self[...]


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


@functools.partial(jax.jit, inline=False)
def _rebuild(x0: Array, visited: Array, accepted: Array, times: Array) -> Array:
    """The states after visits `times`: one scatter and one running sum over the frames."""
    order = jnp.argsort(times)
    frame = jnp.searchsorted(times[order], jnp.arange(visited.shape[0]))
    # Only the parity of the flips counts, and it survives the wrap-around of int8.
    flips = jnp.zeros((times.shape[0] + 1, x0.size), jnp.int8)
    flips = flips.at[frame, visited].add(accepted.astype(jnp.int8))
    odd = jnp.cumsum(flips[:-1], axis=0, dtype=jnp.int8) & 1
    sign = (1 - 2 * odd).astype(x0.dtype).reshape(times.shape[0], *x0.shape)
    return jnp.zeros_like(sign).at[order].set(sign) * x0[None]


def _expand(index: Any, ndim: int) -> tuple[Any, ...]:
    """An index with one entry per axis."""
    index = index if isinstance(index, tuple) else (index,)
    if any(i is None for i in index):
        raise IndexError("Frames: new axes are not supported; index first, then reshape.")
    index = tuple(np.asarray(i, None if i else int) if isinstance(i, list) else i for i in index)
    where = [k for k, i in enumerate(index) if i is Ellipsis]
    if len(where) > 1 or len(index) - len(where) > ndim:
        raise IndexError(f"Frames: too many indices for {ndim} axes.")
    k = where[0] if where else len(index)
    fill = (slice(None),) * (ndim - len(index) + len(where))
    return index[:k] + fill + index[k + 1 :]


def _like_numpy(shape: tuple[int, ...], index: tuple[Any, ...], came: tuple[int, ...]) -> None:
    """Raise where NumPy would: JAX clamps what is out of bounds. Pairs of arrays are refused."""
    if not all(is_concrete(i) for i in index):
        return
    plain = tuple(i if isinstance(i, slice) else np.asarray(i) for i in index)
    if np.broadcast_to(np.int8(0), shape)[plain].shape != came:
        raise IndexError(
            "Frames: arrays in more than one axis are not supported; index one after the other."
        )
