"""Basins of attraction: how much damage a recall repairs."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Shaped

from amlib import _checks as checks, _progress as bars, _show as show
from amlib._compiled import compiled
from amlib._intervals import bootstrap, wilson
from amlib._types import IntLike, Key
from amlib.analysis import _runs as runs
from amlib.data import corrupt
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractFinite, AbstractSpace, AbstractTwoValued, Values


class Basin(NamedTuple):
    """A tidy table: one row per `level` of damage, as arrays of one length; and the basin's size.

    The share of `success`, with its 95 % interval `low` to `high` (Wilson's, binomial: seeds are
    independent); and the share `converged`. The `radius` of each seed is the highest level up to
    which all of its recalls succeeded, NaN where none did. The `size` is the mean radius (of NaN as
    0), with the 95 % interval `size_low` to `size_high` (bootstrap over seeds). And the end `x` of
    the recall from the pattern itself, and whether it `rests`: of one that does not there is no
    basin, and nothing is a success.
    """

    level: np.ndarray
    success: np.ndarray
    low: np.ndarray
    high: np.ndarray
    converged: np.ndarray
    radius: np.ndarray
    size: float
    size_low: float
    size_high: float
    x: np.ndarray
    rests: bool

    __repr__ = show.text


def basin(
    memory: AbstractMemory,
    pattern: Shaped[ArrayLike, "*shape"] | IntLike,
    key: Key,
    *,
    levels: Sequence[float | int] | np.ndarray | Array | None = None,
    corruption: Callable[[Any, Any, Any], Any] | None = None,
    seeds: int = 100,
    recall: Callable[[Any, Any, Any], Any] | None = None,
    success: Callable[[Any, Any], Any] | None = None,
    progress: bool = True,
) -> Basin:
    r"""Measure the basin of attraction of a pattern: recall it from growing damage.

    ```python
    found = am.analysis.basin(memory, 0, jax.random.key(0))
    found.size, found.size_low, found.size_high
    am.plots.basin(found)
    ```

    Each seed damages the pattern in its own way, and ever more: the same key at every level, so
    that what `amlib.data.corrupt` flips at one level is flipped at the next one, too, and Gaussian
    noise grows along one direction.

    **Arguments:**

    - `memory`: a memory whose states are arrays.
    - `pattern`: a state; or the number of a pattern of the memory's `Xi`.
    - `key`: for the damage, and for recalls that need randomness.
    - `levels`: of damage, rising, in the unit of `corruption`; `None` means 0, 0.05, 0.1, ..., 0.5
      of bits, 0 to $1 - 1/q$ of units of q values (at which nothing is left of the pattern), and 0,
      0.1, 0.2, ..., 1.5 of reals.
    - `corruption`: `corruption(key, x, level)`; `None` flips the share `level` of all bits exactly,
      gives another value to that share of units of q values,
      and moves a real state by `level` times its norm in a random direction (of zero: by `level`
      for each unit).
    - `seeds`: how many recalls there are for each level.
    - `recall`: `recall(memory, x, key)`; `None` calls `memory.recall(x, key=key)`.
    - `success`: `success(x, target)`, whether the end `x` is that of the pattern itself, `target`;
      `None` means equal bits and values, and reals that differ by 1 % of the target's largest unit
      at most.
    - `progress`: whether to show a progress bar.

    **Returns:** a `Basin`. A recall that does not converge is no success. A seed that recalls at
    every level has the highest one as its radius: where there are many such, the size is a lower
    bound, and higher levels are wanted.

    **Raises:** `TypeError` for a memory whose states are no arrays, and a number where it has no
    patterns; `ValueError` for a pattern that is no state, levels that do not rise, and `seeds < 1`.
    """
    where = "basin"
    memory = runs.check_memory(memory, where)
    checks.key(key, f"{where}: key")
    seeds = checks.integer(seeds, 1, f"{where}: seeds")
    xi = _pattern(memory, pattern)
    values = _levels(memory.space, levels)
    damage, draws = jr.split(key)
    # As many as there are seeds, for which there is a program.
    clean = jnp.broadcast_to(xi, (seeds, *xi.shape))
    (target, *_), (rests, *_) = runs.recall_all(where, memory, clean, draws, recall)
    same = success or (_equal if runs.is_finite(memory) else _close)
    spoil = corruption or _Damage(memory.space)
    hits, rest = np.zeros((2, len(values), seeds), bool)
    with bars.bar(hits.size, progress) as bar:
        for i, level in enumerate(values):
            number = jnp.asarray(level.item())
            starts = _damaged(spoil, xi, number, jr.split(damage, seeds))
            ends, rest[i] = runs.recall_all(
                where, memory, starts, jr.fold_in(draws, i), recall, bar
            )
            hits[i] = np.asarray(_same(same, jnp.asarray(ends), jnp.asarray(target))) & rest[i]
    hits &= bool(rests)
    return Basin(**_table(values, hits, rest), x=target, rests=bool(rests))


def _table(values: np.ndarray, hits: np.ndarray, rest: np.ndarray) -> dict[str, Any]:
    """The columns and the size, of what was found for each level and seed."""
    share = hits.mean(1)
    low, high = wilson(share, hits.shape[1])
    unbroken = np.cumprod(hits, axis=0).sum(0)
    radius = np.where(unbroken > 0, values[unbroken - 1].astype(float), np.nan)
    sizes = np.nan_to_num(radius)
    least, most = bootstrap(sizes)
    columns = {"level": values, "success": share, "low": low, "high": high}
    columns |= {"converged": rest.mean(1), "radius": radius}
    return columns | {"size": float(sizes.mean()), "size_low": least, "size_high": most}


def _pattern(memory: AbstractMemory, pattern: ArrayLike | IntLike) -> Array:
    if not isinstance(pattern, int | np.integer):
        return runs.state_of(memory, pattern, "basin")
    Xi = getattr(memory, "Xi", None)
    if Xi is None:
        raise TypeError(
            f"basin: pattern must be a state; the number {pattern} came, and "
            f"{type(memory).__name__} has no patterns Xi."
        )
    if not 0 <= pattern < len(Xi):
        raise ValueError(f"basin: pattern must lie in [0, {len(Xi)}); {pattern} came.")
    return runs.state_of(memory, Xi[pattern], "basin")


def _levels(space: AbstractSpace, levels: Any) -> np.ndarray:
    if levels is None:
        if not isinstance(space, AbstractFinite):
            return np.linspace(0, 1.5, 16)
        return np.linspace(0, 1 - 1 / (space.q if isinstance(space, Values) else 2), 11)
    values = runs.levels_of(levels, "basin")
    if not (np.diff(values.astype(float)) > 0).all():
        raise ValueError(f"basin: levels must rise; {levels!r} came. Sort them.")
    return values


class _Damage(NamedTuple):
    """The damage that is done where no other is asked for."""

    space: Any

    def __call__(self, key: Key, x: Array, level: Array) -> Array:
        if isinstance(self.space, AbstractTwoValued):
            flips = jnp.floor(level * x.size + 0.5).astype(jnp.int32)
            return corrupt.flip_exactly(key, x, flips, space=self.space)
        if isinstance(self.space, Values):
            which, other = jr.split(key)
            changes = jnp.floor(level * x.size + 0.5).astype(jnp.int32)
            spoilt = corrupt.flip_exactly(which, jnp.zeros_like(x), changes, space=Values(2))
            return (
                x + spoilt * jr.randint(other, x.shape, 1, self.space.q, x.dtype)
            ) % self.space.q
        away = jr.normal(key, x.shape, x.dtype)
        size = jnp.sqrt(jnp.sum(x * x))
        size = jnp.where(size > 0, size, x.size**0.5) * level.astype(x.dtype)
        return x + size / jnp.sqrt(jnp.sum(away * away)) * away


@compiled
def _damaged(spoil: Callable[..., Any], xi: Array, level: Array, keys: Array) -> Array:
    with checks.traceable("basin: corruption"):
        return jax.vmap(lambda key: runs.spoiled("basin", spoil, key, xi, level))(keys)


@compiled
def _same(success: Callable[..., Any], ends: Array, target: Array) -> Array:
    with checks.traceable("basin: success"):
        return jax.vmap(lambda x: runs.judged("basin", success, x, target))(ends)


def _equal(x: Array, target: Array) -> Array:
    return (x == target).all()


def _close(x: Array, target: Array) -> Array:
    return jnp.max(jnp.abs(x - target)) <= 0.01 * jnp.max(jnp.abs(target))
