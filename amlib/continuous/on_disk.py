"""Memories larger than memory: the patterns stay on disk, and are read once for all queries."""

import contextlib
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from amlib import _checks as checks, _progress as bars
from amlib._types import Key, ScalarLike
from amlib.continuous.base import ContinuousAM, check_unit_step
from amlib.continuous.parts import (
    Wanted,
    check_free_energy,
    finish,
    fold,
    own_part,
    readout_of,
    zero_sums,
)
from amlib.data._stored import Stored, StoredRows, blocks
from amlib.descent.batches import check_steps, descend_batch, together
from amlib.descent.methods import AbstractMethod, check_method, tolerance
from amlib.descent.problems import Problem
from amlib.descent.trajectory import Recall

BLOCK_BYTES = 2**25
"""What is read at a time; three blocks are held."""


class OnDisk:
    r"""A log-sum-exp memory whose patterns stay on disk, for batches of queries.

    ```python
    Xi = np.load("patterns.npy", mmap_mode="r")
    memory = am.OnDisk(am.ModernHopfield, Xi, beta=8.0)
    end = memory.recall(queries)
    ```

    It computes what `jax.vmap(am.ModernHopfield(Xi, beta=8.0).recall)(queries)` does, in the
    memory of a few blocks: a thread reads the next ones while the last is computed with. All
    queries of a call share its passes over the disk, so its methods take a batch, and not one
    state per call. Each is a call of its own: it can't be traced (`jax.jit`, `jax.grad`).

    Of this kind are `ModernHopfield`, `GaussianMemory`, softmax memories in general, and a
    memory of your own whose energy is a log-sum-exp over patterns,
    $-\frac{1}{\beta} \log \sum_\mu e^{-\beta\, e(\xi_\mu, x)}$: it need not say so. Leave out
    constants of the patterns, such as $\log K$; no recall depends on them.

    **Arguments:**

    - `kind`: the class of the memory, or what else makes a `ContinuousAM` of patterns.
    - `patterns`: `Xi`, as an array that is read by slices of its first axis: an `.npy` file by
      `np.load(path, mmap_mode="r")`, a Zarr array, an HDF5 dataset, or an array in memory. Half
      precision, integers and bools are read as they are, and converted as in a `ContinuousAM`.
    - `values`: what `readout` returns for each pattern, of the same kind, where `kind` has them.
    - `block`: patterns read at a time; `None` means 32 MB of them, in whole chunks of a Zarr array.
    - `inverse_temperature`: $\beta$ above; `None` means the `beta` of the memory, 1 without one.
    - `fields`: the other fields of the memory, by keyword.

    **Raises:** `TypeError` for patterns that are no array of real numbers, and a `kind` that makes
    no `ContinuousAM`; `ValueError` for shapes that do not fit, values that are not finite, and an
    energy of another kind; `OSError` for a file that can't be read. When they are called, methods
    raise `OSError` for a file that shrank or a disk that errors, and `ValueError` for NaN or
    infinity in a block, and say where.
    """

    def __init__(
        self,
        kind: Callable[..., ContinuousAM],
        patterns: StoredRows,
        values: StoredRows | None = None,
        *,
        block: int | None = None,
        inverse_temperature: ScalarLike | None = None,
        **fields: object,
    ):
        stored = [Stored(patterns, "OnDisk: patterns")]
        if values is not None:
            stored.append(Stored(values, "OnDisk: values"))
        self._stored, self._K = stored, stored[0].shape[0]
        if stored[-1].shape[0] != self._K:
            raise ValueError(
                f"OnDisk: values must have one row for each of the {self._K:,} patterns; shape "
                f"{stored[-1].shape} came."
            )
        self._block = _rows_per_block(stored) if block is None else block
        checks.integer(self._block, 1, "OnDisk: block")
        first, *more = (s.one_time(0, 1) for s in stored)
        given = fields if values is None else fields | {"values": more[0]}
        self._memory = memory = kind(first, **given)
        if not isinstance(memory, ContinuousAM):
            raise TypeError(
                "OnDisk: kind must make a ContinuousAM of patterns; it made "
                f"{type(memory).__name__}. Write am.OnDisk(am.ModernHopfield, Xi, beta=8.0)."
            )
        beta = getattr(memory, "beta", 1.0) if inverse_temperature is None else inverse_temperature
        self._beta = checks.positive_field("OnDisk: inverse_temperature")(beta)
        check_free_energy(memory, self._beta)

    def __repr__(self) -> str:
        size = sum(s.nbytes for s in self._stored) / 1e9
        shape = "x".join(map(str, self._stored[0].shape[1:]))
        return (
            f"OnDisk({type(self._memory).__name__}, {self._K:,} patterns of {shape}, {size:.3g} GB)"
        )

    def energy(
        self, x: Shaped[ArrayLike, "Q *shape"], *, progress: bool = True
    ) -> Float[Array, " Q"]:
        """The energy of each state, in one pass over the disk.

        **Arguments:**

        - `x`: a batch of states.
        - `progress`: whether to show a progress bar.

        **Returns:** the energies, constants included.

        **Raises:** `ValueError` for a wrong shape, and see `OnDisk`.
        """
        states = checks.widen(self._states(x, "energy", check=False))
        return self._pass(states, "energy", "energy", progress)[0]

    def retrieve(
        self, x: Shaped[ArrayLike, "Q *shape"], *, progress: bool = True
    ) -> Float[Array, "Q *shape"]:
        """The unit step of each state, in one pass over the disk, see `ContinuousAM.retrieve`.

        **Arguments:**

        - `x`: a batch of states.
        - `progress`: whether to show a progress bar.

        **Returns:** the states after the step.

        **Raises:** `ValueError` for a wrong shape and for a memory without such an update, and
        see `OnDisk`.
        """
        check_unit_step(self._memory)
        states = self._states(x, "retrieve", check=False)
        wide = checks.widen(states)
        return (wide - self._pass(wide, "gradient", "retrieve", progress)[1]).astype(states.dtype)

    def readout(
        self, x: Shaped[ArrayLike, "Q *shape"], *, progress: bool = True
    ) -> Float[Array, "Q *value"]:
        """What the memory associates with each state, in one pass: see `ModernHopfield.readout`.

        **Arguments:**

        - `x`: a batch of states.
        - `progress`: whether to show a progress bar.

        **Returns:** the weighted averages of the values.

        **Raises:** `ValueError` for a wrong shape and for a memory without a readout, and see
        `OnDisk`.
        """
        readout_of(self._memory)
        states = checks.widen(self._states(x, "readout", check=False))
        out = self._pass(states, "readout", "readout", progress)[1]
        return out.astype(own_part(self._memory)[-1].dtype)

    def recall(
        self,
        x0: Shaped[ArrayLike, "Q *shape"],
        *,
        method: AbstractMethod | None = None,
        key: Key | None = None,
        clamp: Shaped[ArrayLike, "..."] | None = None,
        max_steps: int | None = None,
        tol: ScalarLike | None = None,
        progress: bool = True,
    ) -> Recall:
        r"""Lower the energy from each state until it rests: a pass over the disk for each step.

        It is `jax.vmap(memory.recall)`, and ends as that does. The start takes a pass, too. States
        that rest are not computed with any more.

        **Arguments:**

        - `x0`: a batch of states.
        - `method`: how a state moves: `CCCP()`, `GradientDescent(...)`, `Langevin(beta, dt)`,
          `MALA(beta, dt)`, or an `AbstractRealMethod` of your own. `None` takes the memory's
          `default_method()`.
        - `key`: for what is drawn at random; each query has one of its own, `jr.split(key, Q)`.
        - `clamp`: what never moves: a mask over a state, for all queries, or one for each.
        - `max_steps`, `tol`: see `ContinuousAM.recall`.
        - `progress`: whether to show a progress bar.

        **Returns:** a `Recall` with the batch axis `Q`, without trajectory.

        **Raises:** what `ContinuousAM.recall` does; `TypeError` for a method with a loop of its
        own (`Euler`, `Flow`, `FixedPoint`); and see `OnDisk`.
        """
        memory = self._memory
        chosen = memory.default_method() if method is None else method
        check_method(chosen, memory.space, key)
        steps = check_steps(chosen)
        x0 = self._states(x0, "recall", check=True)
        held = None
        if clamp is not None:
            shape = x0.shape if np.ndim(clamp) == x0.ndim else x0.shape[1:]
            mask = checks.mask(clamp, shape, "recall: clamp")
            held = jnp.broadcast_to(jnp.asarray(mask), x0.shape)
        keys = None
        if key is not None:
            checks.key(key, "recall: key")
            keys = jr.split(key, x0.shape[0])
        limit, passes = chosen.check(max_steps), 0
        wide, space = checks.widen((x0, memory.space))

        def energies(x: Array) -> tuple[Array, Array]:
            nonlocal passes
            label = f"step {passes}" if passes else "start"
            passes += 1
            return self._pass(x, "gradient", f"recall: {label}", progress)

        problem = Problem(together(energies), space, tol=tolerance(tol, wide.dtype))
        end = descend_batch(steps, problem, wide, held, keys, limit)
        return dataclasses.replace(end, x=end.x.astype(x0.dtype))

    # -- one pass over the disk --------------------------------------------------------------------

    def _states(self, x: ArrayLike, where: str, *, check: bool) -> Array:
        """A batch of states as the model's floats; raise for another shape."""
        memory = self._memory
        struct, space = memory.state_struct, memory.space
        x = space.asarray(x, f"{where}: x")
        if not checks.is_concrete(x):
            raise TypeError(
                f"{where}: on disk the states must be known, since Python reads the files; a "
                "traced array came. Call it outside of jax.jit and jax.grad, with a batch and "
                "without jax.vmap."
            )
        if x.shape[1:] != struct.shape or x.ndim != len(struct.shape) + 1 or not x.shape[0]:
            shape = ", ".join(map(str, ("Q", *struct.shape)))
            cure = "Of a single state make x[None]." if x.shape == struct.shape else ""
            raise ValueError(
                f"{where}: on disk a batch of states must have shape ({shape}); {x.shape} came. "
                f"{cure}".rstrip()
            )
        x = x.astype(struct.dtype)
        return space.check(x, where) if check else x

    def _pass(self, x: Array, wanted: Wanted, label: str, progress: bool) -> tuple[Array, PyTree]:
        """The energies, and what else is wanted of each state."""
        sums = zero_sums(self._memory, x, wanted)
        bar = bars.bar(self._K, progress, desc=label, unit="pattern", unit_scale=True)
        with contextlib.closing(blocks(self._stored, self._block)) as parts, bar:
            for start, part in parts:
                sums, finite = fold(self._memory, self._beta, sums, jax.device_put(part), x, wanted)
                if not finite:  # which also waits until the block may be overwritten
                    self._refuse(start, part)
                bar.update(len(part[0]))
        return finish(self._memory, self._beta, sums, self._K)

    def _refuse(self, start: int, part: tuple[np.ndarray, ...]) -> None:
        for stored, rows in zip(self._stored, part, strict=True):
            good = np.isfinite(rows).reshape(len(rows), -1).all(1)
            if not good.all():
                raise ValueError(
                    f"{stored.name}: every value must be finite; NaN or infinity came in row "
                    f"{start + int(np.argmin(good)):,}. Clean it with np.nan_to_num."
                )


def _rows_per_block(stored: list[Stored]) -> int:
    """As many rows as `BLOCK_BYTES` hold, in whole chunks of all arrays where these are smaller."""
    rows = max(1, BLOCK_BYTES // sum(s.row_bytes for s in stored))
    chunk = max(s.chunk for s in stored)
    return rows - rows % chunk if chunk <= rows else chunk
