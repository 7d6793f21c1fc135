"""Progress bars: of loops on the host, and of loops within a compiled program.

All are of tqdm, text on stderr that is erased when they close, so that nothing of them stays in a
saved notebook. `TQDM_DISABLE=1` silences them.

A loop within a program tells its bar by a callback how far it is: after each of the first 32 turns,
and then 16 times while their number doubles, so that the wait is at most a sixteenth of the time
so far, and a million turns make 270 calls. Where no bar was asked for there is no `Meter`, and
nothing in the program.
"""

import os
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeAlias, TypeVar

import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, PyTree
from tqdm import tqdm

from amlib import _shards as shards
from amlib._checks import is_concrete

OFTEN = 4
"""Of turns that are reported, so many binary digits may follow the first."""

PIECES = 64
"""Into so many loops at the most is one cut whose length is a part of the program."""

SILENT = 10.0
"""After so many seconds without a report, another bar may close one whose program has failed."""

Bar: TypeAlias = tqdm
"""A bar, for annotations."""

_Carry = TypeVar("_Carry")
_Made = TypeVar("_Made")


def bar(total: int, shown: bool | None = True, *, leave: bool = False, **words: object) -> Bar:
    """A progress bar, as every part of the library shows it.

    **Arguments:**

    - `total`: where it ends.
    - `shown`: whether to show it; `None` means on a terminal alone.
    - `leave`: whether it stays when it is closed.
    - `words`: others of `tqdm`, such as `desc` and `unit`.
    """
    if shown is None:
        shown = sys.stderr.isatty()
    # An explicit `disable=False` would have the last word over the variable.
    quiet = not shown or os.environ.get("TQDM_DISABLE", "0") not in ("", "0")
    return tqdm(total=total, leave=leave, disable=quiet, **words)  # pyright: ignore


def wanted(progress: object, where: str) -> bool:
    """Whether a bar was asked for; raise `TypeError` for anything but yes or no."""
    if not isinstance(progress, bool | np.bool_):
        raise TypeError(
            f"{where}: progress must be True or False; {progress!r} came. How often the bar is "
            "told goes by the steps so far."
        )
    return bool(progress)


class Meter(NamedTuple):
    """What a program tells its bar.

    - `number`: of the bar; 0 is that of none.
    - `total`: how many steps there are at the most.
    - `desc`: what the whole is called.
    - `per`: how many turns of the loop make a step.
    """

    number: Array | np.ndarray
    total: Array | np.ndarray
    desc: str
    per: int = 1


def report(meter: Meter | None, turns: Array, since: Array | None = None) -> None:
    """Tell the bar, from within a program, that so many turns of a loop are done.

    Of the lanes of a `vmap` the bar shows those of the slowest.

    **Arguments:**

    - `since`: how many were done when this was called before: the bar is then told where one of the
      few numbers lies between, see above. Without, it is told.
    """
    if meter is None:
        return
    turns = eqxi.unvmap_max(turns)
    move = lambda numbers: _bars.move(numbers, meter.desc, meter.per)
    # One array: each that a callback is given takes it a tenth of a millisecond.
    numbers = jnp.stack([meter.number, turns, meter.total])
    tell = lambda: jax.debug.callback(move, numbers)
    if since is None:
        return tell()
    return lax.cond(turns >= _next(eqxi.unvmap_max(since)), tell, lambda: None)


def repeat(
    meter: Meter | None,
    more: Callable[[_Carry], Array],
    body: Callable[[_Carry], _Carry],
    start: _Carry,
    turns: Callable[[_Carry], Array],
) -> _Carry:
    """`lax.while_loop(more, body, start)`, that tells the bar how many turns are done.

    It is cut where the bar is told, so that a turn costs what it costs without. In a `vmap`, lanes
    that go on have taken the same number of turns.
    """
    if meter is None:
        return lax.while_loop(more, body, start)

    def piece(carry: _Carry) -> _Carry:
        done = eqxi.unvmap_max(turns(carry))
        stop = _next(done)
        carry = lax.while_loop(lambda c: more(c) & (turns(c) < stop), body, carry)
        report(meter, turns(carry), done)
        return carry

    return lax.while_loop(more, piece, start)


def _next(turns: Array) -> Array:
    """After how many turns the bar is told again: the next number of which the binary digits that
    follow the first `OFTEN + 1` are zero."""
    apart = 1 << jnp.maximum(31 - OFTEN - lax.clz(turns), 0)
    return turns - turns % apart + apart


def scan(
    meter: Meter | None,
    body: Callable[[_Carry, PyTree], tuple[_Carry, PyTree]],
    start: _Carry,
    given: PyTree,
    length: int,
    turns: int = 1,
) -> tuple[_Carry, PyTree]:
    """`lax.scan(body, start, given, length)`, that tells the bar how many turns are done.

    It is cut into up to `PIECES` loops of one length: a turn is the same program as without, so
    that it rounds the same. A turn of the scan counts as so many `turns`.
    """
    if meter is None:
        return lax.scan(body, start, given, length=length)
    width = max(2, -(-length // PIECES))
    pieces = length // width
    cut = pieces * width
    first = jax.tree.map(lambda a: a[:cut].reshape(pieces, width, *a.shape[1:]), given)
    rest = jax.tree.map(lambda a: a[cut:], given)

    def piece(carry: _Carry, numbered: tuple[Array, PyTree]) -> tuple[_Carry, PyTree]:
        # What is done before the piece, for nothing keeps XLA from telling that beforehand.
        report(meter, numbered[0] * (width * turns))
        return lax.scan(body, carry, numbered[1], length=width)

    carry, made = lax.scan(piece, start, (jnp.arange(pieces, dtype=jnp.int32), first))
    carry, last = lax.scan(body, carry, rest, length=length - cut)
    join = lambda a, b: jnp.concatenate([a.reshape(cut, *a.shape[2:]), b])
    return carry, jax.tree.map(join, made, last)


def behind(
    run: Callable[[Meter], _Made],
    total: int,
    x0: PyTree[ArrayLike],
    last: Callable[[_Made], Array],
    desc: str = "recall",
) -> _Made:
    """What `run(meter)` returns; the bar goes when it ends or raises.

    A program that is run here is waited for. One that is only traced opens and closes a bar
    whenever it runs.

    **Arguments:**

    - `run`: the function, that gives its loops the meter.
    - `total`, `desc`: see `Meter`.
    - `x0`: what the program is run on: within `jax.shard_map`, one of the devices reports.
    - `last`: numbers of the result that are not known before its loop has ended.
    """
    limit = np.asarray(total, np.int32)
    if is_concrete(jnp.zeros(())):  # not within `jit`; also within a `vmap` or `grad` outside of it
        number = _bars.number()
        try:
            made = run(Meter(number, limit, desc))
            jax.block_until_ready(_ended(last(made)))
        finally:
            _bars.close(number)
        return made
    number = jax.pure_callback(_bars.number, jax.ShapeDtypeStruct((), np.int32))
    if over := shards.axes(x0):
        number = jnp.where(lax.axis_index(over) == 0, number, 0)
    made = run(Meter(number, limit, desc))
    _closed(number, _ended(last(made)))
    return made


@jax.jit
def _ended(last: Array) -> Array:
    """A number that is known when these are; in a `vmap`, those of all lanes."""
    return eqxi.unvmap_any(jnp.isnan(lax.stop_gradient(last)).any())


@jax.jit  # as in a `shard_map` that is run as it is traced JAX has no callbacks everywhere
def _closed(number: Array, ended: Array) -> None:
    jax.debug.callback(lambda n, _: _bars.close(n), number, ended)


class _Bars:
    """The bars of programs that run, by their numbers.

    A bar is opened by the first report, also one after it was closed: so a number may be a constant
    of a loop, each turn of which runs a program.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._count = 0
        self._open: dict[int, tuple[Bar, float]] = {}

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """No result depends on which bars are open: to `amlib.cache` they are all one."""
        return _Bars, ()

    def number(self) -> np.ndarray:
        """A number that no other bar has."""
        with self._lock:
            self._count += 1
            return np.asarray(self._count, np.int32)

    def move(self, numbers: Array, desc: str, per: int) -> None:
        """Move a bar on; never back, for devices that each run their own lanes share it."""
        key, turns, total = np.asarray(numbers).tolist()
        now = time.monotonic()
        if key == 0:
            return
        with self._lock:
            done = turns / per if per > 1 else turns
            if key not in self._open:
                self._close_silent(now)
                shown = bar(total, desc=desc, unit=" step", initial=done)
            else:
                shown = self._open[key][0]
            self._open[key] = shown, now
            if done > shown.n:
                shown.update(done - shown.n)

    def _close_silent(self, now: float) -> None:
        """Close what programs that failed have left; of others the next report opens it again."""
        for key, (shown, when) in list(self._open.items()):
            if now - when > SILENT:
                del self._open[key]
                shown.close()

    def close(self, number: Array | np.ndarray) -> None:
        """Close a bar, if it is open."""
        with self._lock:
            if int(number) in self._open:
                self._open.pop(int(number))[0].close()


_bars = _Bars()
