"""The one loop of the continuous methods: it ends early, has derivatives, and keeps a record.

What it carries has `x`, `energy`, `steps` and `result`, which is `RESULTS.step_limit` for as long
as the loop runs.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Integer

from amlib.descent.trajectory import RESULTS, ContinuousTrajectory

RECORD_BYTES = 2**20
"""What the states of one record may take; beyond, they are kept ever more sparsely."""

FEWEST = 32
"""So many states are kept however large one is."""


def iterate(
    step: Callable[[Any], Any], start: Any, max_steps: int, save_every: int | None
) -> tuple[Any, ContinuousTrajectory | None]:
    """Repeat `step` until its result is final; keep every `save_every`-th state if asked.

    Derivatives of every order, forward and backward, go through the steps. Backward they keep
    about ten states for each factor of ten in `max_steps`, and compute what lies between anew.

    **Arguments:**

    - `step`, `start`: the loop, see this module.
    - `max_steps`: the limit.
    - `save_every`: steps between two states kept, or `None` to keep nothing. See `kept_steps`.

    **Returns:** the last carry, and the record.
    """
    # What the step closes over becomes an argument of it, so that it gets its derivative.
    step = eqx.filter_closure_convert(step, start)
    if save_every is None:
        return _advance(step, start, jnp.asarray(max_steps, jnp.int32), max_steps), None
    stops = kept_steps(max_steps, save_every, start.x.nbytes)
    longest = int(np.max(np.diff(stops, prepend=0)))

    def segment(carry: Any, stop: Array) -> tuple[Any, tuple[Array, Array, Array]]:
        carry = _advance(step, carry, stop, longest)
        return carry, (carry.x, carry.energy, carry.steps)

    # One loop per state that is kept: a buffer carried through a loop is copied in every step
    # of a batch. A loop that has nothing left to do costs nothing.
    end, kept = lax.scan(segment, start, jnp.asarray(stops, jnp.int32))
    first = (start.x, start.energy, start.steps)
    x, energy, steps = (jnp.concatenate([a[None], b]) for a, b in zip(first, kept, strict=True))
    return end, ContinuousTrajectory(x, energy, steps.astype(energy.dtype))


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


def _runs(carry: Any, stop: Array) -> Bool[Array, ""]:
    return (carry.result == RESULTS.step_limit) & (carry.steps < stop)


@eqx.filter_custom_jvp
def _advance(step: Any, carry: Any, stop: Integer[Array, ""], longest: int) -> Any:
    """Repeat `step` until its result is final or `stop` steps are taken: `longest` at most."""
    del longest
    return lax.while_loop(lambda c: _runs(c, stop), lambda c: step(c), carry)


@_advance.def_jvp
def _(primals: Any, tangents: Any) -> Any:
    step, carry, stop, longest = primals
    run = lambda step, carry: _in_segments(step, carry, stop, longest)
    return eqx.filter_jvp(run, (step, carry), tuple(tangents[:2]))


def _in_segments(step: Any, carry: Any, stop: Array, longest: int) -> Any:
    """The same as loops in loops of known length, which can be transposed.

    Each skips what is not needed. Skipped turns still cost a pass over what `step` depends on, so
    there are few of them: the depth grows with `longest`, and not the width.
    """

    def unless_done(many: Callable[[Any], Any]) -> Callable[[Any, None], tuple[Any, None]]:
        # Asked of all lanes of a `vmap` together: a condition of each would compute both sides.
        @jax.checkpoint
        def body(carry: Any) -> Any:
            some = eqxi.unvmap_any(_runs(carry, stop))
            return lax.cond(some, many, lambda c: c, carry)

        return lambda carry, _: (body(carry), None)

    def one(carry: Any) -> Any:
        runs = _runs(carry, stop)
        return jax.tree.map(lambda new, old: jnp.where(runs, new, old), step(carry), carry)

    depth = max(1, round(math.log(longest, 8)))
    width = math.ceil(longest ** (1 / depth) - 1e-9)
    run = one
    for _ in range(depth):
        run = functools.partial(_repeat, unless_done(run), width)
    return run(carry)


def _repeat(body: Callable[[Any, None], Any], times: int, carry: Any) -> Any:
    return lax.scan(body, carry, None, length=times)[0]
