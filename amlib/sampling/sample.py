"""The verb of sampling: chains of states of any memory, and what is observed of them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from amlib import _checks as checks, _progress as bars
from amlib._compiled import compiled
from amlib._types import Key
from amlib.analysis import cosine
from amlib.descent.loop import states_kept
from amlib.descent.methods import AbstractMethod
from amlib.descent.trajectory import RESULTS
from amlib.memory import AbstractMemory
from amlib.sampling.samplers import AbstractChainSampler, Chains, Draws, Target, as_sampler
from amlib.sampling.samples import Samples
from amlib.spaces import AbstractSpace, Values

Observable = Callable[[Any], Any]

AT_ONCE = 2**26
"""Bytes of states that are held at once while observables are worked out."""

REPORTS = 20
"""A run is divided into so many pieces at least, for its progress bar."""


def sample(
    memory: AbstractMemory,
    method: AbstractMethod | AbstractChainSampler,
    x0: PyTree | Samples,
    key: Key | None = None,
    *,
    steps: int,
    warmup: int = 0,
    thin: int = 1,
    observables: Mapping[str, Observable] | Sequence[str] = (),
    clamp: PyTree = None,
    keep_states: bool = False,
    progress: bool = True,
) -> Samples:
    r"""Draw chains of states from $p(x) \propto \exp(-\beta E(x))$, and observe them.

    ```python
    x0 = jnp.stack([x] * 4)  # four chains
    m = lambda x: Xi @ x / x.size
    samples = am.sampling.sample(
        memory, am.Glauber(beta=2.0), x0, key, steps=1000, warmup=100, observables={"overlap": m}
    )
    samples["overlap"].mean((0, 1)), samples.summary()
    more = am.sampling.sample(memory, am.Glauber(2.0), samples, steps=1000)  # goes on
    ```

    Which law a method keeps, it says itself. A run that is divided, by going on from `Samples`,
    draws the states that one run would. States are not stored unless asked for. Not to be called
    within `jax.jit`: it compiles by itself.

    **Arguments:**

    - `memory`: the memory, of bits or reals, or a `HAM`.
    - `method`: a method of recall that draws (`Glauber`, `Metropolis`, `Langevin`, ...), or a
      sampler: `Annealed(betas)`, `Tempering(betas)`, `HMC(beta)`, `NUTS(beta)`.
    - `x0`: the starts, one for each chain on the first axis (`x[None]` for a single chain); or the
      `Samples` to go on from, with their keys.
    - `key`: for all that is drawn at random.
    - `steps`: how many states of each chain to draw, >= 1.
    - `warmup`: how many steps to take before, >= 0, of which nothing is observed.
    - `thin`: a state is drawn every so many steps, >= 1. A step is that of the method: a sweep.
    - `observables`: functions of one state by their names, each to a number or an array. Or names
      of `"magnetisation"` (the mean unit) and `"overlaps"` (the cosine with each stored pattern;
      of values see `PottsAM.overlaps`).
      `"energy"` is always observed.
    - `clamp`: what never moves, as in `recall`.
    - `keep_states`: whether the states are kept, too.
    - `progress`: whether to show a progress bar.

    **Returns:** `Samples`.

    **Raises:** `ValueError` for no chains, steps below 1, a method that draws without a key,
    unknown observables, and what the method raises; `TypeError` for a method that lowers the
    energy or is for another space, observables that are no numbers, and a key that is none.
    """
    sampler, target = as_sampler(method), Target(memory, clamp)
    steps = checks.integer(steps, 1, "sample: steps")
    warmup = checks.integer(warmup, 0, "sample: warmup")
    thin = checks.integer(thin, 1, "sample: thin")
    taken = x0.steps if isinstance(x0, Samples) else 0
    sampler.check(target, taken + warmup, thin)
    run = _continued(x0, key) if isinstance(x0, Samples) else _begun(target, sampler, x0, key)
    end = run.x if sampler.temperatures is None else jax.tree.map(lambda a: a[:, 0], run.x)
    watched = _Watched(_functions(observables, memory, jax.tree.map(lambda a: a[0], end)))
    checks.at_most(taken + warmup + steps * thin, checks.COUNTABLE, "sample: steps * thin + warmup")
    with bars.bar(warmup + steps * thin, progress) as bar:
        size = _pieces(run.x, steps)
        run = _warmed(target, sampler, run, warmup, bar)
        rows: list[_Row] = []
        while steps > 0:
            made = sampler.draw(target, run.chains, size, thin)
            count = min(steps, size)  # the last piece is as long as the others, and cut
            row, run = _observed(watched, made, count, thin, run, keep_states)
            rows.append(row)
            bar.update(count * thin)
            steps -= count
    return _collected(rows, run, sampler)


class _Run(NamedTuple):
    """Where the chains are: what they carry, their keys, and how many steps are behind them."""

    carry: PyTree[Array]
    keys: Array
    taken: int
    x: PyTree[Array]
    lost: np.ndarray

    @property
    def chains(self) -> Chains:
        return Chains(self.carry, self.keys, jnp.asarray(self.taken, jnp.int32))


class _Row(NamedTuple):
    """What one piece of a run came to."""

    observables: dict[str, np.ndarray]
    states: PyTree[np.ndarray] | None
    swaps: tuple[np.ndarray, np.ndarray] | None


def _begun(target: Target, sampler: AbstractChainSampler, x0: PyTree, key: Key | None) -> _Run:
    if key is None:
        raise ValueError("sample: draws at random and needs key=jax.random.key(...).")
    checks.key(key, "sample: key")
    x0 = _chains(target.memory, x0)
    keys = jr.split(key, jax.tree.leaves(x0)[0].shape[0])
    carry = sampler.start(target, x0, keys)
    several = sampler.temperatures is not None
    return _Run(carry, keys, 0, carry if several else x0, np.zeros(keys.shape[0], bool))


def _continued(before: Samples, key: Key | None) -> _Run:
    if key is not None:
        raise ValueError("sample: Samples go on with their own keys; key came, too. Leave it out.")
    lost = np.asarray(before.result == RESULTS.nonfinite)
    return _Run(before.carry, before.keys, before.steps, before.x, lost)


def _chains(memory: AbstractMemory, x0: PyTree) -> PyTree[Array]:
    """The starts as the memory's floats; raise unless there is an axis of chains."""
    family, space = type(memory), memory.space
    leaves = jax.tree.leaves(x0)
    counts = {jnp.shape(a)[0] if jnp.ndim(a) else 0 for a in leaves}
    struct = memory.state_struct
    alone = struct is not None and len(leaves) == 1 and jnp.shape(leaves[0]) == struct.shape
    if len(counts) != 1 or 0 in counts or alone:
        shapes = ", ".join(str(jnp.shape(a)) for a in leaves)
        raise ValueError(
            f"sample: x0 must have at least one chain on its first axis; shape {shapes} came. "
            "One state x is one chain as x[None]."
        )
    start = lambda x: family._start(memory, x, "sample", space)
    start(jax.tree.map(lambda a: a[0], x0))  # what is wrong with one is said outside of a trace
    x0 = jax.tree.map(lambda a: a if isinstance(a, jax.Array) else np.asarray(a), x0)
    return jax.vmap(start)(x0)


def _pieces(x: PyTree[Array], steps: int) -> int:
    """How many draws are made at once: what fits, and not all for the bar."""
    leaves = jax.tree.leaves(x)
    chains = leaves[0].shape[0]
    nbytes = max(1, sum(a.nbytes for a in leaves))
    each = max(1, -(-nbytes // chains))
    room = min(states_kept(each), max(1, AT_ONCE // nbytes))
    pieces = max(-(-steps // room), min(steps, REPORTS))
    return -(-steps // pieces)


def _warmed(
    target: Target, sampler: AbstractChainSampler, run: _Run, warmup: int, bar: bars.Bar
) -> _Run:
    left, unit = warmup, sampler.multiple
    piece = warmup if sampler.at_once else unit * -(-warmup // (REPORTS * unit))
    while left > 0:
        count = min(left, piece)
        carry = sampler.warm(target, run.chains, count)
        run = run._replace(carry=carry, taken=run.taken + count)
        bar.update(count)
        left -= count
    return run


# -- what is observed ------------------------------------------------------------------------------


def _magnetisation(memory: AbstractMemory) -> Observable:
    if isinstance(memory.space, Values):
        raise TypeError(
            f"sample: observables: 'magnetisation' is the mean of units; those of {memory.space.q} "
            "values have none. Count one: {'zeros': lambda x: (x == 0).mean()}."
        )
    return lambda x: jnp.mean(jnp.concatenate([a.reshape(-1) for a in jax.tree.leaves(x)]))


class _Overlaps(eqx.Module):
    """The cosine with each stored pattern; of units of several values that of their one-hot rows,
    centred, see `PottsAM.overlaps`."""

    Xi: Array
    space: AbstractSpace

    def __call__(self, x: Array) -> Array:
        Xi = self.Xi.astype(x.dtype)
        if isinstance(self.space, Values):
            same = (Xi == x[None]).reshape(len(Xi), -1).mean(1)
            return (self.space.q * same - 1) / (self.space.q - 1)
        return jax.vmap(lambda xi: cosine(x, xi))(Xi)


def _overlaps(memory: AbstractMemory) -> Observable:
    Xi: Any = getattr(memory, "Xi", None)
    if not eqx.is_array(Xi):
        raise ValueError(
            f"sample: observables: 'overlaps' are those with memory.Xi, which "
            f"{type(memory).__name__} has not. Give a function: "
            "{'overlap': lambda x: Xi @ x / x.size}."
        )
    return _Overlaps(Xi, memory.space)


NAMED: dict[str, Callable[[AbstractMemory], Observable]] = {
    "magnetisation": _magnetisation,
    "overlaps": _overlaps,
}


def _functions(
    asked: Mapping[str, Observable] | Sequence[str], memory: AbstractMemory, x: PyTree[Array]
) -> dict[str, Observable]:
    """The observables by their names; raise unless each makes numbers of a state."""
    if isinstance(asked, str) or not isinstance(asked, Mapping | Sequence):
        raise TypeError(
            "sample: observables must be names, ('magnetisation', 'overlaps'), or functions by "
            f"their names; {asked!r} came."
        )
    functions: dict[str, Observable] = {}
    for name in asked:
        fn = asked[name] if isinstance(asked, Mapping) else name
        if isinstance(fn, str):
            if fn == "energy":
                continue
            checks.choice(fn, (*NAMED, "energy"), "sample: observables")
            fn = NAMED[fn](memory)
        if name == "energy" or not callable(fn):
            raise TypeError(
                f"sample: observables: {name!r} must be a function of a state; {fn!r} came. "
                "(The energy is always observed, by that name.)"
            )
        functions[name] = fn
        with checks.traceable(f"sample: observable {name!r}"):
            made = eqx.filter_eval_shape(fn, x)
        if not isinstance(made, jax.ShapeDtypeStruct):
            try:
                made = jnp.asarray(made)
            except (TypeError, ValueError) as err:
                raise TypeError(
                    f"sample: observable {name!r} must return a number or an array of numbers; "
                    f"{made!r} came."
                ) from err
    return functions


class _Watched(eqx.Module):
    functions: dict[str, Observable]


@compiled
def _watch(watched: _Watched, states: PyTree[Array], lead: int) -> dict[str, Array]:
    """The observables of states with so many axes in front."""
    out = {}
    for name, fn in watched.functions.items():
        with checks.traceable(f"sample: observable {name!r}"):
            each = lambda x, fn=fn: jnp.asarray(fn(x))
            for _ in range(lead):
                each = jax.vmap(each)
            out[name] = each(states)
    return out


def _observed(
    watched: _Watched,
    made: Draws,
    count: int,
    thin: int,
    run: _Run,
    keep: bool,
) -> tuple[_Row, _Run]:
    """The observables of the first `count` draws of a piece, and the run after them."""
    cut = lambda a: np.asarray(a)[:, :count]
    out = {"energy": made.energy}
    if watched.functions:
        out |= _watch(watched, made.states, made.energy.ndim)
    kept = jax.tree.map(cut, made.states) if keep else None
    swaps = None if made.swaps is None else (cut(made.swaps[0]), cut(made.swaps[1]))
    last = lambda a: a[:, count - 1]
    run = _Run(
        jax.tree.map(last, made.carries),
        run.keys,
        run.taken + count * thin,
        jax.tree.map(last, made.states),
        run.lost | np.asarray(made.lost),
    )
    return _Row({name: cut(a) for name, a in out.items()}, kept, swaps), run


def _collected(rows: list[_Row], run: _Run, sampler: AbstractChainSampler) -> Samples:
    join = lambda *a: np.concatenate(a, axis=1)
    rates = None
    if rows[0].swaps is not None:
        made, tried = (sum(r.swaps[k].sum((0, 1)) for r in rows if r.swaps) for k in (0, 1))
        rates = np.asarray(made) / np.maximum(np.asarray(tried), 1)
    betas = sampler.temperatures
    ended = jnp.asarray(run.lost)
    return Samples(
        {name: join(*[r.observables[name] for r in rows]) for name in rows[0].observables},
        run.x,
        jax.vmap(lambda lost: RESULTS.where(lost, RESULTS.nonfinite, RESULTS.sampled))(ended),
        run.taken,
        jax.tree.map(join, *[r.states for r in rows]),
        None if betas is None else np.asarray(betas),
        rates,
        run.carry,
        run.keys,
    )
