"""One verb: every memory recalls by the same call, and returns the same result.

```python
end = memory.recall(
    x0, method=..., key=..., clamp=..., max_steps=..., tol=..., save_every=..., progress=...
)
end.x, end.energy, end.steps, end.result, end.trajectory
```

| family | states | method by default | a step is |
|---|---|---|---|
| `BinaryAM` | spins or bits | `Sweeps()` | a sweep over all bits |
| `PottsAM` | values 0 to q - 1 | `Sweeps()` | a sweep over all units |
| `ContinuousAM` | real | `CCCP()`, or `GradientDescent(1.0, backtracking=True)` | a step |
| `HAM` | a real state per layer | `Euler(0.1)` | a step |
| `EnergyTransformer` | real tokens | `CoreEuler(alpha, steps)` | a step |
| reconstructors | spins or bits | `Relax()` | a step of all units |

What the families had as words of their own before (`order=`, `beta=`, `max_sweeps=`, `record=`;
`project=`; `steps`, `dt`) still works: each is translated into the verb.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree, Shaped

from amlib import _checks as checks, _progress as bars, _show as show
from amlib._compiled import compiled, compiled_lanes
from amlib._numbers import Numbers, known_numbers
from amlib._types import Key, Scalar, ScalarLike, hook
from amlib.descent.flip_problem import AbstractFlipProblem
from amlib.descent.methods import AbstractMethod, Problems, check_method, flip_problem, solve
from amlib.descent.plan import scalar_output
from amlib.descent.problems import Problem
from amlib.descent.trajectory import Recall
from amlib.descent.visits import Free, free_bits
from amlib.spaces import AbstractFinite, AbstractSpace, as_reals

VERB = ("method", "key", "clamp", "max_steps", "tol", "save_every", "progress")


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a recall is asked to do, in the words of the verb."""

    method: AbstractMethod | None
    key: Key | None
    clamp: PyTree
    max_steps: int | None
    tol: ScalarLike | None
    save_every: int | None
    progress: bool = False
    space: AbstractSpace | None = None


class AbstractMemory(eqx.Module):
    """What all memories share: an energy, the space of its states, a default method, and recall.

    Subclass `BinaryAM`, `ContinuousAM` or `HAM` instead; this class is for another family.
    """

    space: ClassVar[AbstractSpace]
    """The space that states live in: a class attribute, or a property."""

    state_struct: ClassVar[jax.ShapeDtypeStruct | None] = None
    """Shape and dtype of a state, where a model takes one kind only."""

    _where: ClassVar[str] = "recall"
    """How errors of recall begin."""

    _half_is_storage: ClassVar[bool] = True
    """Whether half precision is how numbers are stored, and not how they are computed with."""

    @abc.abstractmethod
    def energy(self, x: Shaped[Array, "*shape"], /) -> Scalar:
        """The energy of a state.

        **Arguments:**

        - `x`: a state, in the shape and dtype of the model.

        **Returns:** a real scalar. Recall lowers it.
        """

    @abc.abstractmethod
    def default_method(self) -> AbstractMethod:
        """The method of a recall that names none."""

    def logdensity(self, beta: ScalarLike = 1.0) -> Callable[[PyTree], Scalar]:
        r"""The logarithm of the Boltzmann density, without its constant.

        $$\log p(x) = -\beta E(x) + \text{const}$$

        A function of a state, as samplers of other libraries take it:
        `blackjax.nuts(memory.logdensity(2.0), ...)`. Those of this one are in `amlib.sampling`.

        **Arguments:**

        - `beta`: inverse temperature, >= 0, in units of 1/energy.

        **Raises:** `ValueError` for `beta < 0`, and for more than one.
        """
        beta = checks.not_negative(checks.as_float(beta, "logdensity: beta"), "logdensity: beta")
        if beta.ndim:
            raise ValueError(f"logdensity: beta must be one number; shape {beta.shape} came.")

        def density(x: PyTree) -> Scalar:
            energy = self.energy(x)
            return -beta.astype(energy.dtype) * energy

        return density

    @final
    def recall(
        self,
        x0: PyTree,
        *words: Any,
        method: AbstractMethod | None = None,
        key: Key | None = None,
        clamp: PyTree = None,
        max_steps: int | None = None,
        tol: ScalarLike | None = None,
        save_every: int | None = None,
        progress: bool = False,
        **more: Any,
    ) -> Recall:
        r"""Lower the energy from `x0` until the state rests.

        One state per call: batches go through `jax.vmap`, of a `HAM` also by `vectorize`.

        **Arguments:**

        - `x0`: the starting state; of a hierarchical memory a state per layer.
        - `method`: how the state moves. For units of two values `Sweeps(order)`, `Greedy()`,
          `Synchronous()`, and at a temperature `Glauber(beta, order)`, `Metropolis(beta, order)`,
          `GibbsWithGradients(beta)`, `DMALA(beta, step_size)`, all of them for units of several
          values, too; for real ones
          `GradientDescent(...)`, `CCCP()`, `Euler(dt)`, `Flow(...)`, `FixedPoint(...)`, and at a
          temperature `Langevin(beta, dt)`, `MALA(beta, dt)`; for hierarchies also
          `CoreEuler(dt)`; or a method of your own. `None` takes the memory's `default_method()`.
        - `key`: for what is drawn at random: needed by the methods at a temperature, optional for
          the orders of other methods (`jax.random.PRNGKey(0)` if not given).
        - `clamp`: what is known and never moves: a mask over the state, `True` where a unit is
          held; of a hierarchical memory the names of layers, or masks by the names of layers.
          Bits that are held are not visited, so that a picture of which half is known takes half
          the time. (Inside `jit` or `vmap` over masks, where how many are held is not known, they
          are visited and refused.) "Converged" means that nothing that is free would move.
        - `max_steps`: the step limit, 1 to 2^31 - 1; `None` takes the method's: 100 sweeps of
          flips, 100 steps of `Euler`, 1,000 of all others, or the length of a schedule.
        - `tol`: at rest once no unit of a real state would move by more in a unit step,
          $\max_i |P(x - \nabla E(x)) - x|_i \le \text{tol}$; `None` means the square root of the
          precision, 3.5e-4 in float32 and 1.5e-8 in float64.
        - `save_every`: keep the state and the energy every so many steps, as a `StateTrajectory`.
          Room is made for `max_steps`, and for 1 MiB of states at most: where they are more, the
          later ones are kept ever more sparsely. `None` keeps no states; what flips then records
          its first sweeps visit by visit (`Trajectory`).
        - `progress`: whether to show a bar on stderr: the sweeps or steps so far, of `max_steps`;
          of a batch those of its slowest state. The results are the same (of `Flow`, whose loop is
          Diffrax's, to within its tolerance), and the call waits for them. The bar is told after
          each of the first 32 steps, then 16 times while their number doubles; of a derivative
          through steps, and of a method with a loop of its own, it shows less.
        - `words`, `more`: the keywords that the families had before. Binary memories: `order` and
          `beta` (a method by its name), `max_sweeps` (`max_steps`), `record` (of the method).
          Continuous memories: `project` (another space for this recall). `HAM`: `steps`
          (`max_steps`) and `dt` (of `Euler`), in this order or by name.

        **Returns:** a `Recall` with `x`, `energy`, `steps`, `result` and `trajectory`. A recall
        that does not converge says so in `result`.

        **Raises:** `ValueError` for a wrong shape, values that are not of the memory's space, a
        mask of another shape, unknown layers, limits below 1, and a method that draws without a
        key; `TypeError` for a method of another kind or for another kind of state, a key that is
        none, a mask that is not boolean, and unknown keywords, with what they are called here.
        """
        asked = Asked(method, key, clamp, max_steps, tol, save_every, progress)
        # Through the class: of every method that is taken from a module, Equinox makes another
        # module, and a handful of those would double the time of a short recall.
        family = type(self)
        if words or more:
            asked = family._translate(self, words, more, asked)
        chosen = family.default_method(self) if asked.method is None else asked.method
        space = family._space_for(self, chosen) if asked.space is None else asked.space
        check_method(chosen, space, asked.key)
        if asked.key is not None:
            checks.key(asked.key, f"{family._where}: key")
        x0 = family._start(self, x0, family._where, space)
        held, where = None, f"{family._where}: clamp"
        if asked.clamp is not None:
            held = family._held(self, x0, asked.clamp, space, where)
        steps, bounded = type(chosen).check(chosen, asked.max_steps), ()
        if isinstance(space, AbstractFinite):
            if asked.tol is not None:
                raise TypeError(
                    f"{family._where}: tol= is of real states; bits rest where no flip lowers the "
                    "energy. Drop it."
                )
            checks.at_most(steps, checks.COUNTABLE // x0.size, f"{family._where}: max_steps")
            bounded = known_numbers(self)
        save_every = asked.save_every
        if save_every is not None:
            save_every = checks.integer(save_every, 1, "recall: save_every")
        limit = np.asarray(steps, np.int32)
        sizes = type(chosen)._room(chosen, steps, save_every), save_every
        run = _recall_flips if isinstance(space, AbstractFinite) else _recall
        given = self, x0, held, space, chosen, asked.key, limit, asked.tol, sizes, bounded
        if not bars.wanted(asked.progress, family._where):
            return run(*given, None)
        return bars.behind(lambda m: run(*given, m), steps, x0, lambda end: end.energy)

    # -- how it prints ---------------------------------------------------------------------------

    __repr__ = show.block
    _repr_html_ = show.notebook

    @hook
    def _page(self) -> show.Page:
        """Sizes, fields and the default method. (How a flip is evaluated, `explain` says.)"""
        more = {"space": lambda: self.space, "method": self.default_method}
        said = {name: show.attempt(make) for name, make in more.items()}
        rows = {name: show.line(value) for name, value in said.items() if value is not None}
        return show.page(self, show.attempt(lambda: _sizes(self)) or (), rows)

    # -- what a family says differently ----------------------------------------------------------

    _words: ClassVar[tuple[str, ...]] = ()
    _positional: ClassVar[tuple[str, ...]] = ()
    _elsewhere: ClassVar[dict[str, str]] = {}

    def _translate(self, words: tuple[Any, ...], more: dict[str, Any], asked: Asked) -> Asked:
        """The same in the words of the verb; raise `TypeError` for unknown ones."""
        positional = dict(zip(self._positional, words, strict=False))
        if len(words) > len(self._positional) or positional.keys() & more.keys():
            raise TypeError(
                f"{self._where}: takes one state, and what follows by keyword; {len(words)} more "
                "came. A batch goes through jax.vmap."
            )
        more = positional | more
        for name in more:
            if name not in self._words:
                checks.unknown_keyword(self._where, name, (*VERB, *self._words), self._elsewhere)
        return type(self)._in_the_verb(self, more, asked)

    @hook
    def _in_the_verb(self, words: dict[str, Any], asked: Asked) -> Asked:
        """The family's own words as those of the verb."""
        del words
        return asked

    @hook
    def _space_for(self, method: AbstractMethod) -> AbstractSpace:
        """The space in which a method moves the state."""
        del method
        return self.space

    @hook
    def _start(self, x0: PyTree, where: str, space: AbstractSpace) -> PyTree[Array]:
        """The start as the model's floats; raise unless it is a state of the space."""
        return type(self)._state(self, x0, where, space)

    def _state(
        self, x: ArrayLike, where: str, space: AbstractSpace | None = None, *, check: bool = True
    ) -> Array:
        """A state as the model's floats; raise for another shape, and for values out of space."""
        space = self.space if space is None else space
        kind = type(space)  # through the class, see `recall`
        x = kind.asarray(space, x, f"{where}: x")
        struct = self.state_struct
        if struct is not None:
            checks.state_shape(x, struct.shape, where)
            x = x.astype(struct.dtype)
        elif x.size == 0:
            raise ValueError(f"{where}: the state must have at least one unit; {x.shape} came.")
        return kind.check(space, x, where) if check else x

    @hook
    def _held(self, x: PyTree[Array], clamp: PyTree, space: AbstractSpace, where: str) -> PyTree:
        """What does not move: free bits of flips, a mask of reals."""
        mask = checks.mask(clamp, x.shape, where)
        if isinstance(space, AbstractFinite):
            return free_bits(x.size, mask.reshape(-1))
        return jnp.asarray(mask)

    def _flips(
        self, space: AbstractFinite, free: Free | None, bounded: Sequence[Numbers]
    ) -> AbstractFlipProblem:
        """Its flips; arrays whose numbers are known to be finite and not huge need less care."""
        leaves = zip(jax.tree.leaves(self), bounded, strict=False)
        arrays = [(leaf, numbers) for leaf, numbers in leaves if eqx.is_array(leaf)]
        return flip_problem(self.energy, space, free=free, bounded=arrays, memory=self)

    @hook
    def _problem(
        self,
        x: PyTree[Array],
        held: PyTree,
        space: AbstractSpace,
        bounded: Sequence[Numbers],
    ) -> tuple[Problems, PyTree[Array]]:
        """What the method works on, and the start."""
        if isinstance(space, AbstractFinite):
            return self._flips(space, held, bounded), x
        scalar_output(self.energy, x)
        reals = as_reals(space)
        return Problem(self.energy, reals, held=None if held is None else (held, x)), x

    @hook
    def _end(self, end: Recall, problem: Problems, x0: PyTree[Array], saved: bool) -> Recall:
        """The result, in the dtypes of the start; `saved` says whether states were asked for."""
        del problem, saved
        cast = jax.tree.map(lambda a, b: a.astype(b.dtype), end.x, x0)
        return eqx.tree_at(lambda r: r.x, end, cast)


def _sizes(memory: AbstractMemory) -> list[str]:
    """How many patterns, where they are rows `Xi` of the shape of a state, and how many units."""
    struct, Xi = memory.state_struct, getattr(memory, "Xi", None)
    if struct is None:
        return []
    shape = f" ({show.dimensions(struct.shape)})" if len(struct.shape) > 1 else ""
    units = f"D = {math.prod(struct.shape):,}{shape}"
    if Xi is None or Xi.shape[1:] != struct.shape:
        return [units]
    return [f"K = {Xi.shape[0]:,}", units]


def _run(
    memory: AbstractMemory,
    x0: PyTree[Array],
    held: Free | PyTree | None,
    space: AbstractSpace,
    method: AbstractMethod,
    key: Key | None,
    limit: Array | np.ndarray,
    tol: ScalarLike | None,
    sizes: tuple[int, int | None],
    bounded: tuple[Numbers, ...],
    meter: bars.Meter | None,
) -> Recall:
    """Compiled once per shape and kind of memory and method, whatever its numbers are."""
    wide, x = memory, x0
    if memory._half_is_storage:
        wide, x, space = checks.widen((memory, x0, space))
    problem, start = wide._problem(x, held, space, bounded)
    room, save_every = sizes
    end = solve(problem, start, method, key, room, tol, save_every, jnp.asarray(limit), meter)
    return wide._end(end, problem, x0, save_every is not None)


_recall = compiled(_run)
_recall_flips = compiled_lanes(_run)
