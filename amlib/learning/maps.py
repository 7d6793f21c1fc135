"""How the state of a reconstructor moves: its map repeated, or any method of `descent`.

Three problems are made of one reconstructor. Its hard map is one of states of two values (`Relax`),
its soft map one of real states (`Flow`, `FixedPoint`, `GradientDescent(1.0)`, ...), and its energy,
where it has one, is lowered by flips (`Sweeps` and so on).
"""

import dataclasses
from typing import ClassVar, Protocol, runtime_checkable

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, PyTree

from amlib import _checks as checks
from amlib._types import Key
from amlib.descent.flip_problem import FlipProblem
from amlib.descent.methods import AbstractMethod, AbstractRealMethod, power_of_ten
from amlib.descent.problems import AbstractProblem, Point, Problem
from amlib.descent.trajectory import RESULTS, Recall
from amlib.descent.visits import free_bits
from amlib.spaces import AbstractSpace, AbstractTwoValued

UPDATES = ("synchronous", "asynchronous")


@runtime_checkable
class Map(Protocol):
    """What a relaxation asks of a reconstructor."""

    @property
    def space(self) -> AbstractTwoValued: ...
    def field(self, x: Array) -> Array: ...
    def soft(self, x: Array) -> Array: ...
    def sweep(self, x: Array, order: Array, may: Array | None = None) -> Array: ...


def cut(h: Array, x: Array | float, space: AbstractTwoValued) -> Array:
    """The sign of the field as a state; where the field is 0, `x`."""
    return jnp.where(h > 0, space.high, jnp.where(h < 0, space.low, x)).astype(h.dtype)


def hard_problem(model: Map, held: tuple[Array, Array] | None) -> Problem:
    """What the hard map changes: zero at its fixed points. There is no energy to it."""

    def field(x: Array) -> tuple[Array, Array]:
        h, smooth = model.field(x), model.soft(x)
        hard = lax.stop_gradient(cut(h, x, model.space)) + (smooth - lax.stop_gradient(smooth))
        move = jnp.where(jnp.isfinite(h).all(), x - hard, jnp.nan)
        return jnp.zeros((), x.dtype), move

    return Problem(lambda x: jnp.zeros((), x.dtype), field=field, held=held)


def soft_problem(model: Map, held: tuple[Array, Array] | None) -> Problem:
    """What the soft map changes."""

    def field(x: Array) -> tuple[Array, Array]:
        return jnp.zeros((), x.dtype), x - model.soft(x)

    return Problem(lambda x: jnp.zeros((), x.dtype), field=field, held=held)


class Relax(AbstractMethod):
    r"""Repeat the hard map of a reconstructor until the state rests.

    $$x \leftarrow \operatorname{sgn} h(x)$$

    with $h$ the field of the reconstructor; a unit whose field is 0 keeps its value. All units
    may step at once (`"synchronous"`; a step that would lead back ends on `RESULTS.cycle`), or
    one at a time, every unit once per sweep in a fresh random order (`"asynchronous"`; units not
    being visited keep their values). Both end on the same states: the fixed points of the map.
    Where there is an energy, no visit raises it. `steps` counts those that changed the state: 0
    where the start was a fixed point.

    The synchronous relaxation can be differentiated, straight through its hard steps; the
    asynchronous one has no derivative.

    **Arguments:**

    - `update`: `"synchronous"` or `"asynchronous"`.

    **Raises:** `ValueError` for another update.

    **Reference:** MacKay 2003, chapter 42; Goles-Chacc et al. 1985 for the 2-cycles.
    """

    update: str = eqx.field(static=True, default="synchronous")

    space: ClassVar[type[AbstractSpace]] = AbstractTwoValued
    limit: ClassVar[int] = 100

    def __check_init__(self):
        checks.choice(self.update, UPDATES, "Relax: update")

    def _room(self, max_steps: int, save_every: int | None) -> int:
        """As for the library's loop."""
        return max_steps if save_every is not None else power_of_ten(max_steps)

    def run(
        self,
        problem: FlipProblem,
        x0: Array,
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """See `AbstractMethod`."""
        model = problem.memory
        if not isinstance(model, Map):
            raise TypeError(
                "recall: Relax repeats the map of a reconstructor; this memory has none. Choose "
                "Sweeps(...), Greedy(), Synchronous(), Glauber(...), Metropolis(...), "
                "GibbsWithGradients(...) or DMALA(...)."
            )
        key = jr.PRNGKey(0) if key is None else key
        free, held = free_bits(x0.size), None
        if problem.free is not None:
            free = problem.free
            held = ~free.mask(x0.size).reshape(x0.shape), x0
        together = self.update == "synchronous"
        method = _Together() if together else _InTurn(model, free.bits, free.open)
        hard = dataclasses.replace(
            hard_problem(model, held), limit=problem.limit, meter=problem.meter
        )
        return method.run(hard, x0, key, max_steps, save_every)


class _Together(AbstractRealMethod):
    """All units at once; the state before tells a cycle of two states."""

    def init(self, problem: AbstractProblem, at: Point) -> Array:
        return at.x

    def step(
        self, problem: AbstractProblem, at: Point, state: Array, key: Key | None
    ) -> tuple[Point, Array]:
        return problem.at(problem.move(at.x, at.grad)), at.x

    def terminate(self, problem: AbstractProblem, at: Point, state: Array) -> RESULTS:
        back = (problem.move(at.x, at.grad) == state).all()
        result = problem.judge(at)
        goes_on = result == RESULTS.step_limit
        return RESULTS.where(goes_on & back, RESULTS.cycle, result)


class _InTurn(AbstractRealMethod):
    """One unit after the other, in a fresh order per sweep."""

    model: Map
    bits: Array
    open: Array | None

    def step(
        self, problem: AbstractProblem, at: Point, state: PyTree, key: Key | None
    ) -> tuple[Point, PyTree]:
        assert key is not None
        model, start = lax.stop_gradient((eqx.filter(self.model, eqx.is_array), at.x))
        model = eqx.combine(model, self.model)
        order = jr.permutation(key, self.bits.shape[0])
        may = None if self.open is None else self.open[order]
        return problem.at(problem.put(model.sweep(start, self.bits[order], may))), state
