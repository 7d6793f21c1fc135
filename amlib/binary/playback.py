"""What a played sequence is: states as bits, which pattern was heard when, and how well."""

from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer, UInt8

from amlib import _show as show
from amlib._checks import is_concrete
from amlib._types import Shape
from amlib.descent.trajectory import examples


class Playback(eqx.Module):
    """What `SequenceMemory.play` returns; under `jax.vmap` every array gains the batch axes.

    States are kept as bits, N/8 bytes a step, and unpacked where they are asked for: by
    `states(at)`, or all by `frames`. Time begins at the start: entry 0 is that of `x0`.
    `played[3]`, slices, masks and iteration take examples out of a batch.

    **Arguments:**

    - `x`: the final state.
    - `bits`: the states, the start among them, eight units a byte.
    - `pattern`: which pattern each state overlaps most with.
    - `overlap`: that overlap, in [-1, 1]; 1 is the pattern itself.
    - `K`, `tau`, `cyclic`: of the memory: the number of patterns, the steps that one is held, and
      whether the first follows the last.
    """

    x: Float[Array, "*batch_state"]
    bits: UInt8[Array, "*batch T B"]
    pattern: Integer[Array, "*batch T"]
    overlap: Float[Array, "*batch T"]
    K: int = eqx.field(static=True)
    tau: int = eqx.field(static=True)
    cyclic: bool = eqx.field(static=True)

    @property
    def steps(self) -> int:
        """How many steps were played."""
        return self.pattern.shape[-1] - 1

    @property
    def frames(self) -> Float[Array, "..."]:
        """All states, by the name that they have in every trajectory; see `states`."""
        return self.states()

    def states(self, at: Any = slice(None)) -> Float[Array, "..."]:
        """The states at some times.

        **Arguments:**

        - `at`: a step, a slice or an array of steps; all by default.

        **Returns:** spins; with the axes of `at` where those of time are, as NumPy has it.
        """
        batch = self.pattern.ndim - 1
        if all(map(is_concrete, jax.tree.leaves(at))):
            np.empty(self.steps + 1, bool)[at]  # raises out of range; JAX would clamp
        taken = self.bits[(slice(None),) * batch + (at,)]
        shape = self.x.shape[batch:]
        spins = jnp.unpackbits(taken, axis=-1, count=_size(shape)).astype(self.x.dtype) * 2 - 1
        return spins.reshape(*taken.shape[:-1], *shape)

    # -- how well ----------------------------------------------------------------------------------

    @property
    def expected(self) -> Integer[Array, "*batch T"]:
        """Which pattern is due at each time: from that nearest to the start, `tau` steps each."""
        along = jnp.arange(self.steps + 1, dtype=self.pattern.dtype) // self.tau
        due = self.pattern[..., :1] + jnp.broadcast_to(along, self.pattern.shape)
        return due % self.K if self.cyclic else jnp.minimum(due, self.K - 1)

    @property
    def correct(self) -> Bool[Array, "*batch T"]:
        """Whether each state is exactly the pattern that is due: order, timing, and every unit."""
        return (self.pattern == self.expected) & (self.overlap == 1)

    @property
    def accuracy(self) -> Float[Array, "*batch"]:
        """The share of steps after which the state was correct."""
        right = self.correct[..., 1:]
        # Neither a mean of ones nor, on a GPU, a number over itself need be 1.
        return jnp.where(right.all(-1), 1.0, right.sum(-1) / self.steps)

    @property
    def first_error(self) -> Integer[Array, "*batch"]:
        """The first step after which the state was not correct; `steps + 1` where all were."""
        wrong = ~self.correct[..., 1:]
        return jnp.where(wrong.any(-1), jnp.argmax(wrong, axis=-1) + 1, self.steps + 1)

    @property
    def transition_accuracy(self) -> Float[Array, "*batch"]:
        """Of the changes of the nearest pattern the share that leads to the one that follows.

        What counts is their order, and neither when they come nor each unit. 0 where the nearest
        pattern never changes.
        """
        before, after = self.pattern[..., :-1], self.pattern[..., 1:]
        follows = (before + 1) % self.K if self.cyclic else before + 1
        changes = (after != before).sum(-1)
        right = ((after != before) & (after == follows)).sum(-1)
        return right / jnp.maximum(changes, 1)

    @property
    def period(self) -> Integer[Array, "*batch"]:
        """The period of the cycle that the end lies on: 1 at a fixed point; 0 where none shows.

        The next state is known by the last `tau` ones, so that once these come again all does. (Of
        an asynchronous play, which is random, the period is that of the record.)
        """
        T, tau = self.bits.shape[-2], self.tau
        if tau >= T:
            return jnp.zeros(self.pattern.shape[:-1], jnp.int32)
        again = jnp.ones((*self.pattern.shape[:-1], T - tau), bool)
        for j in range(tau):
            earlier = self.bits[..., tau - 1 - j : T - 1 - j, :]
            again &= (earlier == self.bits[..., T - 1 - j : T - j, :]).all(-1)
        nearest = jnp.argmax(again[..., ::-1], axis=-1)
        return jnp.where(again.any(-1), nearest + 1, 0)

    # -- batches -----------------------------------------------------------------------------------

    def __getitem__(self, index: Any) -> "Playback":
        """Some examples of a batch: an index or a tuple of them, over the batch axes."""
        return examples(self, self.pattern.shape[:-1], index, "its states are states(at)")

    def __iter__(self) -> Iterator["Playback"]:
        return (self[i] for i in range(self[:].pattern.shape[0]))

    def __repr__(self) -> str:
        """One line, for any number of plays: how far they went right, and what is in them."""
        return show.attempt(self._said) or show.block(self)

    def _said(self) -> str:
        batch = self.pattern.shape[:-1]
        of = f"of {' x '.join(map(str, batch))} sequences, " if batch else ""
        x = f"x: {self.x.dtype}{list(self.x.shape[len(batch) :])}"
        return f"Playback({of}{self.steps:,} steps, {self._outcome()}{x})"

    def _outcome(self) -> str:
        if not all(eqx.is_array(a) and is_concrete(a) and a.size for a in jax.tree.leaves(self)):
            return ""  # traced, shapes alone, or no play at all
        first, period = (np.asarray(a).reshape(-1) for a in (self.first_error, self.period))
        right = int((first > self.steps).sum())
        if right == first.size:
            said = "all correct"
        else:
            said = f"{right} all correct, " if first.size > 1 else ""
            said += f"first error at {_span(first[first <= self.steps])}"
        cycle = _span(period[period > 0]) if (period > 0).any() else "none"
        share = _span(np.asarray(self.transition_accuracy), "{:.3g}")
        return f"{said}, transitions right {share}, period {cycle}, "


def _span(values: np.ndarray, form: str = "{:,}") -> str:
    low, high = form.format(values.min()), form.format(values.max())
    return low if low == high else f"{low} to {high}"


def _size(shape: Shape) -> int:
    return int(np.prod(shape))
