r"""Methods are objects: what they share, and the one function that runs them.

A method says how a descent begins, how it steps, when it ends, and what is made of the end; the
loop is the library's. The four are called as Optimistix calls them:

| | of real states (`AbstractRealMethod`) | of units that flip (`AbstractFlipMethod`) |
|---|---|---|
| `init(problem, at)` | what the method carries from step to step | the same |
| `step(problem, at, state, key)` | the next `Point`, and what is carried | the next `Sweep`, too |
| `terminate(problem, at, state)` | one of `RESULTS`; `step_limit` goes on | the same |
| `postprocess(problem, at, state, result)` | the last `Point`, and how it ended | the same |

Nothing here knows a model.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, PyTree, Shaped

from amlib import _checks as checks, _progress as bars, _show as show
from amlib._compiled import in_full
from amlib._types import EnergyFn, Key, ScalarLike, hook
from amlib.descent.flip_problem import AbstractFlipProblem, FlipProblem
from amlib.descent.loop import Carry, iterate
from amlib.descent.plan import scalar_output
from amlib.descent.problems import AbstractProblem, Field, Point, Problem
from amlib.descent.sites import SiteProblem
from amlib.descent.trajectory import RESULTS, Recall
from amlib.spaces import (
    AbstractFinite,
    AbstractReals,
    AbstractSpace,
    AbstractTwoValued,
    Spins,
    Values,
    as_reals,
)

Problems: TypeAlias = AbstractProblem | AbstractFlipProblem


class AbstractMethod(eqx.Module):
    """A way to lower an energy.

    Subclass `AbstractRealMethod` or `AbstractFlipMethod` to add one; this class only says what
    `recall` asks of every method.
    """

    space: ClassVar[type[AbstractSpace]]
    """The kind of space that the method works on."""

    limit: ClassVar[int] = 1000
    """How many steps are taken at most where the caller does not say."""

    draws: ClassVar[bool] = False
    """Whether steps are drawn at random: then a key must be given."""

    trees: ClassVar[bool] = False
    """Whether states of several arrays stay apart; they are one vector otherwise."""

    __repr__ = show.text

    @abc.abstractmethod
    def run(
        self,
        problem: Any,  # of the kind that belongs to `space`
        x0: PyTree[Array],
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """Run the method from `x0`.

        **Arguments:**

        - `problem`: what is lowered, of a kind that belongs to `space`.
        - `x0`: the start.
        - `key`: for what is drawn at random, or `None`.
        - `max_steps`: the step limit. The library's own loops are made for more, and take the
          limit from `problem.limit`.
        - `save_every`: steps between two states kept, or `None`.

        **Returns:** a `Recall`.
        """

    @hook
    def _room(self, max_steps: int, save_every: int | None) -> int:
        """How many steps shapes are made for, where `run` takes its limit from the problem.

        Programs are compiled once for each room, and not for each limit. By default the room is
        the limit, which `run` may then rely on.

        **Arguments:**

        - `max_steps`: the step limit.
        - `save_every`: steps between two states kept, or `None`.
        """
        del save_every
        return max_steps

    @hook
    def check(self, max_steps: int | None) -> int:
        """The step limit; raise `ValueError` where the method cannot take so many.

        **Arguments:**

        - `max_steps`: as the caller gave it, `None` for the default.
        """
        return checks.integer(self.limit if max_steps is None else max_steps, 1, _LIMIT)


_LIMIT = "recall: max_steps"


class AbstractRealMethod(AbstractMethod):
    """A method for real states. Subclass it and define `step`.

    ```python
    class HeavyBall(am.AbstractRealMethod):
        step_size: float = 0.1
        mass: float = 0.9

        def init(self, problem, at):
            return jnp.zeros_like(at.x)

        def step(self, problem, at, state, key):
            state = self.mass * state - self.step_size * at.grad
            return problem.at(problem.put(at.x + state)), state
    ```
    """

    space: ClassVar[type[AbstractSpace]] = AbstractReals

    @hook
    def init(self, problem: AbstractProblem, at: Point) -> PyTree:
        """What the method carries from step to step, at the start; nothing by default."""
        del problem, at

    @abc.abstractmethod
    def step(
        self, problem: AbstractProblem, at: Point, state: PyTree, key: Key | None
    ) -> tuple[Point, PyTree]:
        """Take a step.

        **Arguments:**

        - `problem`: what is lowered. `problem.at(x)` is the point at a state, `problem.move(x, g)`
          the projected step against `g`, and `problem.put(x)` moves a state into its space.
        - `at`: where the descent is.
        - `state`: what `init` and the steps before returned.
        - `key`: one for this step, where the method `draws`; otherwise `None`.

        **Returns:** the next point, and what is carried on: arrays of the same shapes.
        """

    @hook
    def terminate(self, problem: AbstractProblem, at: Point, state: PyTree) -> RESULTS:
        """How the descent ends here; `RESULTS.step_limit` where it goes on.

        By default it ends at rest, that is, where the projected unit step moves no unit by more
        than the tolerance, and where something is not finite.
        """
        del state
        return problem.judge(at)

    @hook
    def postprocess(
        self, problem: AbstractProblem, at: Point, state: PyTree, result: RESULTS
    ) -> tuple[Point, RESULTS]:
        """What is made of the last point, and of how it ended; both as they are by default."""
        del problem, state
        return at, result

    @hook
    def _room(self, max_steps: int, save_every: int | None) -> int:
        """The next power of ten, which only derivatives go by; with a record the limit itself.

        Where a subclass has another `run`, it is the limit too.
        """
        own = type(self).run is not AbstractRealMethod.run
        return max_steps if own or save_every is not None else power_of_ten(max_steps)

    @hook
    def run(
        self,
        problem: AbstractProblem,
        x0: Array,
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """The library's loop around `step`, see `AbstractMethod`."""
        at = problem.at(problem.put(x0))
        state = self.init(problem, at)

        def step(c: Carry) -> Carry:
            at, state = self.step(problem, c.at, c.state, _fold(key, c.at.steps))
            at = at._replace(steps=c.at.steps + 1)
            return Carry(at, state, self.terminate(problem, at, state))

        start = Carry(at, state, self.terminate(problem, at, state))
        end, kept = iterate(step, start, max_steps, save_every, problem.limit, problem.meter)
        at, result = self.postprocess(problem, end.at, end.state, end.result)
        return Recall(at.x, at.energy, at.steps, result, kept)


def power_of_ten(n: int) -> int:
    """The least power of ten that is not below `n`."""
    return 10 ** len(str(n - 1)) if n > 1 else 1


def _fold(key: Key | None, steps: Array) -> Key | None:
    return None if key is None else jr.fold_in(key, steps)


@in_full
def descend(
    energy: EnergyFn,
    x0: Shaped[Array, "*shape"],
    method: AbstractMethod,
    *,
    space: AbstractSpace | Callable[[Array], Array] | None = None,
    key: Key | None = None,
    max_steps: int | None = None,
    tol: ScalarLike | None = None,
    save_every: int | None = None,
    field: Field | None = None,
    progress: bool = False,
) -> Recall:
    r"""Lower a scalar function from `x0`: the engine under `recall`.

    $$\max_i |P(x - \nabla E(x)) - x|_i \le \text{tol}$$

    **Arguments:**

    - `energy`: from a state to a scalar; of real states differentiable.
    - `x0`: the start; of real states in single precision at least.
    - `method`: `Sweeps(...)`, `GradientDescent(...)`, `CCCP()`, and so on.
    - `space`: what a unit may be: `Bits()` or another space of two values for methods that flip,
      or `Values(q)`, where `None` means `Spins()`; the set that a real state stays in, `Box()`,
      `Sphere()`, or a function from a state to the nearest allowed one, where `None` leaves the
      state free.
    - `key`: for methods that draw at random.
    - `max_steps`: the step limit, at least 1; `None` takes the method's.
    - `tol`: of real states, see above, in units of the state; `None` means the square root of the
      precision, 3.5e-4 in float32 and 1.5e-8 in float64.
    - `save_every`: keep the state and the energy every so many steps, later ones more sparsely
      where that would be over 1 MiB of states; `None` keeps nothing.
    - `field`: from a state to its energy and the direction to move against, where that is not
      the gradient (it must vanish in the same states, and going against it must lower the
      energy); it takes the gradient's place everywhere. `GradientDescent` with backtracking then
      asks only that the energy does not rise.
    - `progress`: whether to show a bar, see `AbstractMemory.recall`.

    **Returns:** a `Recall`. Where `save_every` was given its `trajectory` is a
    `StateTrajectory` that begins with the start.

    **Raises:** `TypeError` if `method` is none, `ValueError` for a limit below 1 and an energy
    that is no scalar.
    """
    if isinstance(method, AbstractMethod) and issubclass(method.space, AbstractTwoValued):
        units = Spins() if space is None else space
        if not isinstance(units, AbstractFinite):
            raise TypeError(f"descend: space must be one of two values, Spins(); {space!r} came.")
        problem = flip_problem(energy, units)
    else:
        scalar_output(energy, x0)
        problem = Problem(energy, as_reals(space), field)
    if not bars.wanted(progress, "descend"):
        return solve(problem, x0, method, key, max_steps, tol, save_every)
    check_method(method, problem.space, key)
    return bars.behind(
        lambda meter: solve(problem, x0, method, key, max_steps, tol, save_every, meter=meter),
        method.check(max_steps),
        x0,
        lambda end: end.energy,
    )


def flip_problem(energy: EnergyFn, space: AbstractFinite, **more: Any) -> AbstractFlipProblem:
    """The problem of units of two or of several values, with `more` of its fields."""
    if isinstance(space, Values):
        return SiteProblem(energy, space, **more)
    assert isinstance(space, AbstractTwoValued)
    return FlipProblem(energy, space, **more)


def check_schedule(beta: Array, max_steps: int | None, check: Callable[[int | None], int]) -> int:
    """The number of steps of a schedule; raise `ValueError` where it and `max_steps` differ."""
    if max_steps is None and beta.ndim == 1:
        max_steps = beta.shape[0]
    max_steps = check(max_steps)
    if beta.shape not in ((), (max_steps,)):
        raise ValueError(
            f"recall: beta must be a scalar, or a schedule of max_steps={max_steps} values, one "
            f"for each; shape {beta.shape} came. Several temperatures go through jax.vmap."
        )
    return max_steps


def check_method(method: object, space: AbstractSpace, key: object) -> None:
    """Raise unless this is a method, one for such a space, and has a key if it needs one."""
    if not isinstance(method, AbstractMethod):
        raise TypeError(
            "recall: method must be an object such as GradientDescent(0.1) or Sweeps(); "
            f"{method!r} came. Look in amlib.descent; a method of your own subclasses "
            "AbstractRealMethod or AbstractFlipMethod."
        )
    several = isinstance(space, Values) and getattr(method, "several", False)
    if not (isinstance(space, method.space) or several):
        real = isinstance(space, AbstractReals)
        others = (
            "GradientDescent(...), CCCP(), Euler(...), Flow(...), FixedPoint(...), Langevin(...) "
            "or MALA(...)"
            if real
            else "Sweeps(...), Greedy(), Synchronous(), Glauber(...), Metropolis(...), "
            "GibbsWithGradients(...) or DMALA(...)"
        )
        raise TypeError(
            f"recall: method must be one for {space.kind}; {type(method).__name__} came, which is "
            f"not. Choose {others}."
        )
    if method.draws and key is None:
        raise ValueError(
            f"recall: {type(method).__name__} draws at random and needs key=jax.random.key(...)."
        )


def solve(
    problem: Problems,
    x0: PyTree[Array],
    method: AbstractMethod,
    key: Key | None = None,
    max_steps: int | None = None,
    tol: ScalarLike | None = None,
    save_every: int | None = None,
    limit: Array | None = None,
    meter: bars.Meter | None = None,
) -> Recall:
    """Run a method on a problem, see `descend`: what `recall` calls, of every family.

    Where a `limit` is given, `max_steps` is the method's `_room`. Where a `meter` is, it tells a
    bar of the steps.
    """
    check_method(method, problem.space, key)
    if limit is None:
        max_steps = method.check(max_steps)
        limit = jnp.asarray(max_steps, jnp.int32)
    assert max_steps is not None
    if isinstance(problem, AbstractFlipProblem):
        problem = problem.replace(limit=limit, meter=meter)
    else:
        problem = dataclasses.replace(problem, limit=limit, meter=meter)
    if save_every is not None:
        save_every = min(checks.integer(save_every, 1, "recall: save_every"), max_steps)
    if not isinstance(problem, AbstractProblem):
        return method.run(problem, x0, key, max_steps, save_every)
    rest = tolerance(tol, jnp.result_type(*jax.tree.leaves(x0)))
    problem = dataclasses.replace(problem, tol=rest)
    if method.trees:
        return method.run(problem, x0, key, max_steps, save_every)
    problem, flat, apart = problem.raveled(x0)
    end = method.run(problem, flat, key, max_steps, save_every)
    record = end.trajectory
    if record is not None:
        record = eqx.tree_at(lambda t: t.x, record, jax.vmap(apart)(record.x))
    return dataclasses.replace(end, x=apart(end.x), trajectory=record)


def tolerance(tol: ScalarLike | None, dtype: jnp.dtype) -> Array:
    """What counts as rest in states of a dtype: the square root of its precision by default."""
    given = float(jnp.finfo(dtype).eps) ** 0.5 if tol is None else tol
    return checks.as_float(given, "recall: tol").astype(dtype)
