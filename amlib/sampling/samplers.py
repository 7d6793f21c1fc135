"""What draws the states of `sample`: a method of recall, or a sampler made of several.

A chain is a function of its start, its key and the number of each step: the random numbers of step
`t` are those of `fold_in(key, t)`, whatever runs of `sample` it is divided into.
"""

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, PyTree

from amlib import _checks as checks, _show as show
from amlib._numbers import Numbers, knowing, known_numbers
from amlib._types import Key
from amlib.descent.flip_problem import AbstractFlipProblem, Sweep
from amlib.descent.flips import AbstractFlipMethod
from amlib.descent.methods import AbstractMethod, AbstractRealMethod, check_method
from amlib.descent.problems import AbstractProblem, Point
from amlib.descent.samplers import Glauber
from amlib.descent.trajectory import RESULTS
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractReals, AbstractSpace


class Draws(NamedTuple):
    """What a sampler made: of each chain the states kept and their energies, in a row of draws.

    - `states`, `energy`: with axes `(chains, draws)` first, or `(chains, draws, temperatures)`.
    - `lost`: of each chain whether it came where the energy is not finite.
    - `carries`: of each draw what the chain is continued from, with axes `(chains, draws)` first.
    - `swaps`: of each draw how many swaps were made between neighbouring temperatures, and how
      many were tried; `None` without.
    """

    states: PyTree[Array]
    energy: Array
    lost: Array
    carries: PyTree[Array]
    swaps: tuple[Array, Array] | None = None


class Chains(NamedTuple):
    """Where chains are: what they carry, a key of each, and how many steps are behind them."""

    carry: PyTree[Array]
    keys: Array
    taken: Array


class AbstractChainSampler(eqx.Module):
    """What `sample` runs. Subclass it to add one that is no method of recall.

    All states come with an axis of chains first.
    """

    at_once: ClassVar[bool] = False
    """Whether the warm-up must be run in one piece."""

    multiple: ClassVar[int] = 1
    """Steps come in whole multiples of this; a property where it depends on the sampler."""

    __repr__ = show.text

    @property
    @abc.abstractmethod
    def temperatures(self) -> Array | None:
        """The inverse temperatures that are drawn side by side; `None` where there is one."""

    @abc.abstractmethod
    def check(self, target: "Target", warmup: int, thin: int) -> None:
        """Raise unless the sampler can draw from the memory, in such steps."""

    @abc.abstractmethod
    def start(self, target: "Target", x0: PyTree[Array], keys: Array) -> PyTree[Array]:
        """What chains carry, at their starts."""

    @abc.abstractmethod
    def warm(self, target: "Target", chains: Chains, steps: int) -> PyTree[Array]:
        """What chains carry `steps` steps later."""

    @abc.abstractmethod
    def draw(self, target: "Target", chains: Chains, draws: int, thin: int) -> Draws:
        """Draw so many states, each `thin` steps after the one before."""


class Known:
    """A tree of arrays that is known while a program is traced: a part of the program."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, structure = jax.tree.flatten(tree)
        arrays = [np.asarray(a) for a in leaves]
        self._key = structure, tuple((a.shape, a.dtype.str, a.tobytes()) for a in arrays)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Known) and self._key == other._key


class Target(eqx.Module):
    """The memory that is drawn from, with what is held.

    **Arguments:**

    - `memory`: the memory.
    - `clamp`: what never moves, see `recall`.
    """

    memory: AbstractMemory
    clamp: Known = eqx.field(static=True)
    known: tuple[Numbers, ...] = eqx.field(static=True)

    def __init__(self, memory: AbstractMemory, clamp: PyTree = None):
        self.memory, self.clamp, self.known = memory, Known(clamp), known_numbers(memory)

    @property
    def space(self) -> AbstractSpace:
        """The space of the states."""
        return self.memory.space

    def recall(self, x: PyTree[Array], method: AbstractMethod, key: Key, **words: Any) -> Any:
        """A recall, also in a trace: what is known of the memory's numbers is known there."""
        with knowing(self.memory, self.known):
            held = self.clamp.tree
            return self.memory.recall(x, method=method, key=key, clamp=held, **words)


def as_sampler(method: object) -> AbstractChainSampler:
    """A sampler; raise `TypeError` for what draws nothing."""
    if isinstance(method, AbstractChainSampler):
        return method
    return Recalls(drawing(method, "sample: method"))


def drawing(method: object, where: str) -> AbstractMethod:
    """A method that draws and can be continued, or `TypeError`."""
    if not isinstance(method, AbstractMethod):
        raise TypeError(
            f"{where} must be an object such as Glauber(beta), Langevin(beta, dt) or "
            f"Tempering(betas); {method!r} came."
        )
    if not method.draws:
        raise TypeError(
            f"{where} must draw states at a temperature; {type(method).__name__} came, which "
            "lowers the energy. Use Glauber(beta), or Langevin(beta, dt) for real states."
        )
    for base in (AbstractFlipMethod, AbstractRealMethod):
        if isinstance(method, base) and type(method).run is base.run:
            return method
    raise TypeError(
        f"{where} must take its steps in the library's loop, by AbstractFlipMethod.step or "
        f"AbstractRealMethod.step; {type(method).__name__} has a run of its own."
    )


def one_temperature(beta: Any, where: str) -> None:
    """Raise `ValueError` for a schedule."""
    if jnp.ndim(beta):
        raise ValueError(
            f"{where} must have one beta; a schedule of shape {jnp.shape(beta)} came. Use "
            "sampling.Annealed(betas, method), or several side by side, sampling.Tempering(betas)."
        )


class AbstractRecalls(AbstractChainSampler):
    """Chains of one state each, by a method of recall. Subclass it and say which."""

    @abc.abstractmethod
    def method_for(self, target: Target) -> AbstractMethod:
        """The method that takes the steps, of a temperature or along a schedule of them."""

    @property
    def temperatures(self) -> None:
        """One at a time."""
        return None

    def start(self, target: Target, x0: PyTree[Array], keys: Array) -> PyTree[Array]:
        """See `AbstractChainSampler`."""
        del target, keys
        return x0

    def warm(self, target: Target, chains: Chains, steps: int) -> PyTree[Array]:
        """See `AbstractChainSampler`."""
        method = self.method_for(target)

        def one(x: PyTree[Array], key: Key) -> PyTree[Array]:
            along = continued(method, key, chains.taken)
            return target.recall(x, along, key, max_steps=steps).x

        return jax.vmap(one)(chains.carry, chains.keys)

    def draw(self, target: Target, chains: Chains, draws: int, thin: int) -> Draws:
        """The states after each `thin` steps, in one recall a chain."""
        method = self.method_for(target)

        def one(x: PyTree[Array], key: Key) -> Draws:
            along = continued(method, key, chains.taken)
            end = target.recall(x, along, key, max_steps=draws * thin, save_every=thin)
            states = jax.tree.map(lambda a, b: a[1:].astype(b.dtype), end.trajectory.x, x)
            lost = end.result == RESULTS.nonfinite
            return Draws(states, end.trajectory.energy[1:], lost, states)

        return jax.vmap(one)(chains.carry, chains.keys)


class Recalls(AbstractRecalls):
    """Chains by a method of recall: what `sample` makes of `Glauber(beta)` and its like.

    **Arguments:**

    - `method`: a method that draws.
    """

    method: AbstractMethod

    def method_for(self, target: Target) -> AbstractMethod:
        """The method."""
        del target
        return self.method

    def check(self, target: Target, warmup: int, thin: int) -> None:
        """See `AbstractChainSampler`."""
        del warmup, thin
        check_method(self.method, target.space, True)
        one_temperature(getattr(self.method, "beta", 0.0), "sample: method")


# -- a method that goes on from step `taken` -------------------------------------------------------


def continued(method: AbstractMethod, key: Key, taken: Array) -> AbstractMethod:
    """The same method, as if `taken` steps of a chain with this key were behind it."""
    if isinstance(method, AbstractFlipMethod):
        return _Flips(method, key, taken, record=0)
    assert isinstance(method, AbstractRealMethod)
    return _Moves(method, key, taken)


def _step_of_schedule(method: AbstractMethod, step: Array, per: int) -> Array:
    """The step as the method is to see it: beyond the end of a schedule its last value holds."""
    beta: Any = getattr(method, "beta", 0.0)
    return jnp.minimum(step, beta.shape[0] * per - 1) if jnp.ndim(beta) else step


class _Flips(AbstractFlipMethod):
    method: AbstractFlipMethod
    key: Key
    taken: Array

    draws: ClassVar[bool] = True
    several: ClassVar[bool] = True

    def _asks(self, problem: AbstractFlipProblem) -> AbstractFlipProblem:
        return self.method._asks(problem)

    def per_sweep(self, problem: AbstractFlipProblem) -> int:
        return self.method.per_sweep(problem)

    def init(self, problem: AbstractFlipProblem, at: Sweep) -> PyTree:
        return self.method.init(problem, at)

    def step(
        self, problem: AbstractFlipProblem, at: Sweep, state: PyTree, key: Key
    ) -> tuple[Sweep, PyTree]:
        del key
        per = self.per_sweep(problem)
        step = self.taken * per + at.steps
        seen = at._replace(steps=_step_of_schedule(self.method, step, per))
        return self.method.step(problem, seen, state, jr.fold_in(self.key, step))

    def terminate(self, problem: AbstractFlipProblem, at: Sweep, state: PyTree) -> RESULTS:
        return self.method.terminate(problem, at, state)

    def postprocess(
        self, problem: AbstractFlipProblem, at: Sweep, state: PyTree, result: RESULTS
    ) -> tuple[Sweep, RESULTS]:
        return self.method.postprocess(problem, at, state, result)


class _Moves(AbstractRealMethod):
    method: AbstractRealMethod
    key: Key
    taken: Array

    draws: ClassVar[bool] = True

    def init(self, problem: AbstractProblem, at: Point) -> PyTree:
        return self.method.init(problem, at)

    def step(
        self, problem: AbstractProblem, at: Point, state: PyTree, key: Key | None
    ) -> tuple[Point, PyTree]:
        del key
        step = self.taken + at.steps
        seen = at._replace(steps=_step_of_schedule(self.method, step, 1))
        return self.method.step(problem, seen, state, jr.fold_in(self.key, step))

    def terminate(self, problem: AbstractProblem, at: Point, state: PyTree) -> RESULTS:
        return self.method.terminate(problem, at, state)

    def postprocess(
        self, problem: AbstractProblem, at: Point, state: PyTree, result: RESULTS
    ) -> tuple[Point, RESULTS]:
        return self.method.postprocess(problem, at, state, result)


def at_temperature(method: AbstractMethod, beta: Array) -> AbstractMethod:
    """The same method at another inverse temperature, or along a schedule."""
    return eqx.tree_at(lambda m: m.beta, method, beta)


def betas_of(value: Any, where: str) -> Array:
    """Inverse temperatures of a sampler: one axis, at least two, none negative."""
    numbers = np.asarray(value) if isinstance(value, Sequence) else value
    beta = checks.not_negative(checks.as_float(numbers, where), where)
    if beta.ndim != 1 or beta.shape[0] < 2:
        raise ValueError(
            f"{where} must be a sequence of at least two inverse temperatures; shape "
            f"{beta.shape} came. One temperature is Glauber(beta), or another method by itself."
        )
    return beta


def inner_method(space: AbstractSpace, method: object, where: str) -> AbstractMethod:
    """The method that a sampler was given, or that which the space has by default."""
    if method is None and isinstance(space, AbstractReals):
        raise ValueError(
            f"{where} must be given for real states, with its step size: MALA(1.0, dt=0.1)."
        )
    return drawing(Glauber(1.0) if method is None else method, where)
