"""The loop of the methods, in three forms that keep the same records.

- `iterate` ends early and has derivatives of every order: methods for real states.
- `march` takes a fixed number of steps, and is differentiated through them: Euler's method.
- `iterate_together` ends when the last lane of a `vmap` does, and has no derivative: flips.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Integer, PyTree

from amlib import _progress as bars
from amlib.descent.lanes import any_lane
from amlib.descent.problems import Point
from amlib.descent.trajectory import RESULTS, StateTrajectory

RECORD_BYTES = 2**20
"""What the states of one record may take; beyond, they are kept ever more sparsely."""

FEWEST = 32
"""So many states are kept however large one is."""

X = TypeVar("X")
Y = TypeVar("Y")


class Carry(NamedTuple):
    """What a loop carries: the point (with `x`, `energy` and `steps`), the method's own state, and
    how it ended, which is `RESULTS.step_limit` for as long as it runs."""

    at: Point
    state: PyTree
    result: RESULTS


def iterate(
    step: Callable[[Carry], Carry],
    start: Carry,
    max_steps: int,
    save_every: int | None,
    limit: Array | None = None,
    meter: bars.Meter | None = None,
) -> tuple[Carry, StateTrajectory | None]:
    """Repeat `step` until its result is final; keep every `save_every`-th state if asked.

    Derivatives of every order, forward and backward, go through the steps. Backward they keep
    about ten states for each factor of ten in `max_steps`, and compute what lies between anew.

    **Arguments:**

    - `step`, `start`: see `Carry`.
    - `max_steps`: the limit; the most that `limit` may be where that is given.
    - `limit`: the limit, not a part of the program; only where nothing is kept.
    - `save_every`: steps between two states kept, or `None` to keep nothing. See `kept_steps`.
    - `meter`: the bar that is told the steps taken.

    **Returns:** the last carry, and the record.
    """
    bars.report(meter, start.at.steps)
    # What the step closes over becomes an argument of it, so that it gets its derivative.
    step = eqx.filter_closure_convert(step, start)
    if save_every is None:
        stop = jnp.asarray(max_steps if limit is None else limit, jnp.int32)
        return _advance(step, start, stop, max_steps, meter), None
    stops = kept_steps(max_steps, save_every, start.at.x.nbytes)
    longest = int(np.max(np.diff(stops, prepend=0)))

    def segment(carry: Carry, stop: Array) -> tuple[Carry, tuple[Array, Array, Array]]:
        carry = _advance(step, carry, stop, longest, meter)
        return carry, (carry.at.x, carry.at.energy, carry.at.steps)

    # One loop per state that is kept: a buffer carried through a loop is copied in every step
    # of a batch. A loop that has nothing left to do costs nothing.
    end, kept = lax.scan(segment, start, jnp.asarray(stops, jnp.int32))
    first = (start.at.x, start.at.energy, start.at.steps)
    x, energy, steps = (jnp.concatenate([a[None], b]) for a, b in zip(first, kept, strict=True))
    return end, StateTrajectory(x, energy, steps.astype(energy.dtype))


UNROLLED = 8
"""So many steps, the depth of a trained network, are taken without a loop."""


def march(
    step: Callable[[X], X],
    x: X,
    steps: int,
    every: int,
    measure: Callable[[X], Y],
    meter: bars.Meter | None = None,
) -> tuple[X, Y]:
    """Take exactly `steps` steps, and measure the start and every `every`-th state.

    A short march is unrolled: it has no copies of a carry, and the compiler drops what nothing
    reads. A longer one tells a bar of its steps, where there is a `meter`.

    **Returns:** the last state, and the measures, stacked.
    """

    def several(x: X, count: int) -> X:
        if count <= UNROLLED:
            for _ in range(count):
                x = step(x)
            return x
        return lax.scan(lambda x, _: (step(x), None), x, None, length=count)[0]

    def segment(x: X, _: None) -> tuple[X, Y]:
        x = several(x, every)
        return x, measure(x)

    if steps <= UNROLLED:
        bars.report(meter, jnp.zeros((), jnp.int32))
        kept = [x] + [x := several(x, every) for _ in range(steps // every)]
        measures = lax.map(measure, jax.tree.map(lambda *a: jnp.stack(a), *kept))
    else:
        first = measure(x)
        x, rest = bars.scan(meter, segment, x, None, steps // every, every)
        measures = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
    return several(x, steps % every), measures


def iterate_together(
    step: Callable[[X, Array], tuple[X, Y]],
    start: X,
    runs: Callable[[X], Bool[Array, ""]],
    max_steps: Integer[Array, ""] | int,
    stops: np.ndarray,
    row: Y,
    whole: bool = False,
    meter: bars.Meter | None = None,
) -> tuple[X, Array, Y]:
    """Repeat `step(carry, k)` until no lane of a surrounding `vmap` runs, or `max_steps` times.

    The count `k` is that of all lanes together, so that what depends on it alone (the bits to
    visit) is worked out once for a batch, and no record is copied through a select. In exchange
    `step` sees to it that a lane that no longer runs does not change.

    **Arguments:**

    - `step`, `start`, `max_steps`: the loop; a step returns a row for the record too.
    - `runs`: whether a lane is not done.
    - `stops`: increasing numbers of steps, the rows of which are kept.
    - `row`: shapes and dtypes of a row.
    - `whole`: whether the rows of all steps are kept.
    - `meter`: the bar that is told the steps taken.

    **Returns:** the last carry, how many steps were taken, and the rows, zero where not reached.
    """
    S, whens = len(stops), jnp.asarray(stops, jnp.int32)
    every = S and stops[0] == 1 and stops[-1] == S  # then a row's place is its number

    def place(k: Array) -> Array:
        """Where the row of step `k` goes; behind the last those that are not kept."""
        if whole or every:
            return k - 1 if whole else jnp.minimum(k - 1, S)
        at = jnp.minimum(jnp.searchsorted(whens, k), S - 1)
        return jnp.where(whens[at] == k, at, S)

    def body(loop: tuple[X, Array, Y]) -> tuple[X, Array, Y]:
        carry, k, kept = loop
        carry, made = step(carry, k)
        k = k + 1
        if S:
            at = place(k)
            kept = jax.tree.map(
                lambda a, new: lax.dynamic_update_index_in_dim(a, new.astype(a.dtype), at, 0),
                kept,
                made,
            )
        return carry, k, kept

    rows = S + (S > 0 and not whole)
    blank = jax.tree.map(lambda a: jnp.zeros((rows, *a.shape), a.dtype), row)
    more = lambda loop: any_lane(runs(loop[0])) & (loop[1] < max_steps)
    first = (start, jnp.zeros((), jnp.int32), blank)
    bars.report(meter, first[1])
    end, taken, kept = bars.repeat(meter, more, body, first, lambda loop: loop[1])
    return end, taken, jax.tree.map(lambda a: a[:S], kept)


def states_kept(nbytes: int) -> int:
    """How many states of this size a record may hold, beyond the start."""
    return max(FEWEST, RECORD_BYTES // nbytes)


def kept_steps(max_steps: int, save_every: int, nbytes: int) -> np.ndarray:
    """After which steps a record keeps the state.

    After every `save_every`-th and the last, if `states_kept` allows. Shapes are fixed before it
    is known how many steps a recall takes. So where it does not, the first half of the states
    are kept as asked, and from there on ever more sparsely, each a constant factor later than
    the one before, up to the last.

    **Arguments:**

    - `max_steps`, `save_every`: see `iterate`.
    - `nbytes`: the size of a state.

    **Returns:** increasing numbers of steps.
    """
    asked, room = -(-max_steps // save_every), states_kept(nbytes)
    if asked <= room:
        chosen = list(range(1, asked + 1))
    else:
        chosen = list(range(1, room // 2 + 1))
        for left in range(room - len(chosen), 0, -1):
            at = chosen[-1]
            chosen.append(max(at + 1, round(at * (asked / at) ** (1 / left))))
    return np.minimum(np.asarray(chosen) * save_every, max_steps)


def _runs(carry: Carry, stop: Array) -> Bool[Array, ""]:
    return (carry.result == RESULTS.step_limit) & (carry.at.steps < stop)


@eqx.filter_custom_jvp
def _advance(
    step: Callable[[Carry], Carry],
    carry: Carry,
    stop: Integer[Array, ""],
    longest: int,
    meter: bars.Meter | None,
) -> Carry:
    """Repeat `step` until its result is final or `stop` steps are taken: `longest` at most."""
    del longest
    more = lambda c: _runs(c, stop)
    return bars.repeat(meter, more, lambda c: step(c), carry, lambda c: c.at.steps)


@_advance.def_jvp
def _(primals: PyTree, tangents: PyTree) -> PyTree:
    step, carry, stop, longest, meter = primals
    run = lambda step, carry: _in_segments(step, carry, stop, longest, meter)
    return eqx.filter_jvp(run, (step, carry), tuple(tangents[:2]))


def _in_segments(
    step: Callable[[Carry], Carry],
    carry: Carry,
    stop: Array,
    longest: int,
    meter: bars.Meter | None,
) -> Carry:
    """The same as loops in loops of known length, which can be transposed.

    Each skips what is not needed. Skipped turns still cost a pass over what `step` depends on, so
    there are few of them: the depth grows with `longest`, and not the width. A bar is told between
    the turns of the outermost, which alone are not run again on the way back.
    """

    def unless_done(
        many: Callable[[Carry], Carry], meter: bars.Meter | None
    ) -> Callable[[Carry, None], tuple[Carry, None]]:
        # Asked of all lanes of a `vmap` together: a condition of each would compute both sides.
        @jax.checkpoint
        def body(carry: Carry) -> Carry:
            some = eqxi.unvmap_any(_runs(carry, stop))
            return lax.cond(some, many, lambda c: c, carry)

        def turn(carry: Carry, _: None) -> tuple[Carry, None]:
            moved = body(carry)
            bars.report(meter, moved.at.steps, carry.at.steps)
            return moved, None

        return turn

    def one(carry: Carry) -> Carry:
        runs = _runs(carry, stop)
        return jax.tree.map(lambda new, old: jnp.where(runs, new, old), step(carry), carry)

    depth = max(1, round(math.log(longest, 8)))
    width = math.ceil(longest ** (1 / depth) - 1e-9)
    run = one
    for level in range(depth):
        outermost = level == depth - 1
        run = functools.partial(_repeat, unless_done(run, meter if outermost else None), width)
    return run(carry)


def _repeat(body: Callable[[Carry, None], tuple[Carry, None]], times: int, carry: Carry) -> Carry:
    return lax.scan(body, carry, None, length=times)[0]
