"""Methods with an implicit derivative: gradient flow (Diffrax), fixed points (Optimistix)."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jax import lax
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks
from amlib._progress import Meter, report
from amlib._types import Key
from amlib.descent.implicit import implicit
from amlib.descent.loop import states_kept
from amlib.descent.methods import AbstractMethod, AbstractRealMethod, power_of_ten
from amlib.descent.problems import AbstractProblem, Point
from amlib.descent.trajectory import RESULTS, Recall, StateTrajectory
from amlib.spaces import AbstractReals, AbstractSpace

Solver: TypeAlias = optx.AbstractFixedPointSolver | optx.AbstractRootFinder


class Flow(AbstractMethod):
    r"""Follow the gradient flow in continuous time to a steady state.

    $$\tau \frac{dx}{dt} = -\nabla E(x), \qquad \text{constrained:} \quad
    \tau \frac{dx}{dt} = P(P(x) - \nabla E(P(x))) - x$$

    An adaptive solver of Diffrax takes the steps; the flow ends once the right-hand side is
    below `tol` everywhere. The derivative is that of the steady state, by the implicit function
    theorem: it needs no memory of the path, and is zero in the start.

    **Arguments:**

    - `tau`: time constant, > 0; scales the times of the trajectory and nothing else.
    - `solver`: any Diffrax ODE solver; `None` means `diffrax.Tsit5()`. Stiff energies (large
      `beta`, large norms) may want `diffrax.Kvaerno5()`.
    - `controller`: a Diffrax step size controller; `None` means
      `diffrax.PIDController(rtol=tol / 30, atol=tol / 30)`: with the errors of an explicit
      solver as large as `tol`, the end would never be below it.
    - `linear_solver`: a Lineax solver for the derivative; `None` chooses by size.

    **Raises:** `ValueError` unless `tau` is a finite positive scalar; `TypeError` for a solver
    that is not of Diffrax.

    **Reference:** Krotov and Hopfield 2021, eq. 1 (with one population of units); for the
    constrained flow Xia and Wang 2000, IEEE Trans. Circuits Syst. I 47, 1.
    """

    tau: Float[Array, ""] = eqx.field(converter=checks.positive_field("tau"), default=1.0)
    solver: diffrax.AbstractSolver | None = None
    controller: diffrax.AbstractStepSizeController | None = None
    linear_solver: lx.AbstractLinearSolver | None = None

    space: ClassVar[type[AbstractSpace]] = AbstractReals

    def __check_init__(self):
        _kind(self.solver, diffrax.AbstractSolver, "Flow: solver", "diffrax.Tsit5()")
        pid = "diffrax.PIDController(rtol=1e-6, atol=1e-6)"
        _kind(self.controller, diffrax.AbstractStepSizeController, "Flow: controller", pid)
        _kind(self.linear_solver, lx.AbstractLinearSolver, "Flow: linear_solver", "lineax.LU()")

    def run(
        self,
        problem: AbstractProblem,
        x0: Array,
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """See `AbstractMethod`; the loop is Diffrax's."""
        del key
        x0, tol = problem.put(x0), problem.tol

        @functools.partial(jax.jit, inline=True)  # traced once, and not for every stage of a step
        def slope(x: Array) -> Array:
            y = problem.put(x)
            grad = problem.grad(y)
            return problem.move(y, grad) - x if problem.bounded else -grad

        field = lambda t, x, args: slope(x)

        end = diffrax.SubSaveAt(t1=True)
        saves = [end, end]
        if save_every is not None:
            every = max(save_every, -(-max_steps // states_kept(x0.nbytes)))
            saves = [end, diffrax.SubSaveAt(steps=every)]

        def solve(x0: Array) -> tuple[Array, Any]:
            fine = tol / 30
            event = diffrax.steady_state_event(rtol=0.0, atol=tol, norm=optx.max_norm)  # pyright: ignore[reportArgumentType]
            solution = diffrax.diffeqsolve(
                diffrax.ODETerm(field),  # pyright: ignore[reportArgumentType]
                self.solver or diffrax.Tsit5(),
                t0=jnp.zeros((), x0.dtype),  # times in the precision of the state, also under x64
                t1=jnp.asarray(jnp.inf, x0.dtype),
                dt0=None,
                y0=x0,
                stepsize_controller=self.controller or diffrax.PIDController(fine, fine),
                event=diffrax.Event(event),
                saveat=diffrax.SaveAt(subs=saves),
                max_steps=max_steps,
                # Diffrax's ImplicitAdjoint keeps no states on the way (it asks for t1 alone), and
                # has no forward mode; `implicit` has both, and serves fixed points too.
                adjoint=diffrax.ForwardMode(),
                progress_meter=_Steps(problem.meter),
                throw=False,
            )
            (end, times), (x, states) = solution.ts, solution.ys  # pyright: ignore
            x = problem.put(x[0])
            settled = solution.result == diffrax.RESULTS.event_occurred
            return x, (settled, solution.stats["num_accepted_steps"], end[0], times, states)

        x, rest = implicit(problem, x0, solve, self.linear_solver)
        settled, steps, end, times, states = rest
        energy = problem.energy(x)
        result = RESULTS.where(settled, RESULTS.converged, RESULTS.step_limit)
        result = _if_finite(problem, x, energy, result)
        kept = None
        if save_every is not None:
            kept = self._record(problem, x0, x, times, states)
        time = end * self.tau.astype(end.dtype)
        return Recall(x, energy, steps.astype(jnp.int32), result, kept, time)

    def _record(
        self, problem: AbstractProblem, x0: Array, x: Array, times: Array, states: Array
    ) -> StateTrajectory:
        """The states kept, from the start; those never reached repeat the end."""
        reached = jnp.isfinite(times)
        last = jnp.max(jnp.where(reached, times, 0.0))
        times = jnp.where(reached, times, last)
        states = jnp.where(reached.reshape(-1, *[1] * x.ndim), states, x)
        states = lax.map(problem.put, jnp.concatenate([x0[None], states]))
        times = jnp.concatenate([jnp.zeros_like(times[:1]), times]) * self.tau.astype(times.dtype)
        return StateTrajectory(states, lax.map(problem.energy, states), times)


class _Steps(diffrax.AbstractProgressMeter):
    """What counts the steps of Diffrax. (How much of the time is behind is not known: it ends at
    rest.)"""

    meter: Meter | None

    def init(self) -> Array | None:
        if self.meter is None:
            return None
        none = jnp.zeros((), jnp.int32)
        report(self.meter, none)
        return none

    def step(self, state: Array | None, progress: object) -> Array | None:
        del progress
        if state is not None:
            state, before = state + 1, state
            report(self.meter, state, before)
        return state

    def close(self, state: Array | None) -> None:
        del state


class FixedPoint(AbstractRealMethod):
    r"""Solve for a state that a projected gradient step leaves alone.

    $$x = P(x - \eta \nabla E(x))$$

    The derivative is that of the solution, by the implicit function theorem: its memory does not
    depend on the number of steps, and it is zero in the start. A root finder such as
    `optimistix.Newton` takes few steps, but may end on a saddle or a maximum. The trajectory holds
    the solver's iterates, and the end is what the solver makes of the last
    (`optimistix.BestSoFarFixedPoint` returns another one).

    **Arguments:**

    - `solver`: a fixed-point solver or a root finder of Optimistix, with its own tolerances
      (then `tol` does not count); `None` means plain iteration,
      `optimistix.FixedPointIteration(rtol=0, atol=tol)`.
    - `step_size`: $\eta$, > 0. The unit step suits energies with the convex part
      $\frac12\|x\|^2$; strongly curved energies need a smaller one.
    - `linear_solver`: a Lineax solver for the derivative; `None` chooses by size.

    **Raises:** `ValueError` unless `step_size` is a finite positive scalar; `TypeError` for a
    solver of another kind.

    **Reference:** Bai, Kolter and Koltun 2019 (arXiv 1909.01377), for the derivative.
    """

    solver: Solver | None = None
    step_size: Float[Array, ""] = eqx.field(
        converter=checks.positive_field("step_size"), default=1.0
    )
    linear_solver: lx.AbstractLinearSolver | None = None

    def __check_init__(self):
        kinds = (optx.AbstractFixedPointSolver, optx.AbstractRootFinder)
        _kind(self.solver, kinds, "FixedPoint: solver", "optimistix.Newton(rtol=1e-5, atol=1e-5)")
        where = "FixedPoint: linear_solver"
        _kind(self.linear_solver, lx.AbstractLinearSolver, where, "lineax.LU()")

    # -- the protocol of Optimistix, whose solvers are stepped by the library's loop ---------------
    #
    # `optimistix.fixed_point` and `root_find` keep no states on the way, and their ImplicitAdjoint
    # differentiates what they solve alone. In this loop the solver's iterates are recorded as
    # those of every method are, and `implicit` gives the derivative, of every order.

    def _solver(self, problem: AbstractProblem) -> Solver:
        default = optx.FixedPointIteration(rtol=0.0, atol=problem.tol)  # pyright: ignore[reportArgumentType]
        return default if self.solver is None else self.solver

    def _function(self, problem: AbstractProblem) -> Callable[[Array, None], tuple[Array, None]]:
        """What is solved: a fixed point of the step, or a root of what it changes."""
        roots = isinstance(self.solver, optx.AbstractRootFinder)

        def fn(x: Array, args: None) -> tuple[Array, None]:
            size = lax.stop_gradient(self.step_size.astype(x.dtype))
            moved = problem.move(x, problem.grad(x), size)
            return (moved - x if roots else moved), None

        return fn

    def init(self, problem: AbstractProblem, at: Point) -> "_State":
        """The state of the solver."""
        struct = jax.eval_shape(lambda: at.x)
        fn = self._function(problem)
        first = self._solver(problem).init(fn, at.x, None, {}, struct, None, frozenset())
        arrays, rest = eqx.partition(first, eqx.is_array)
        return _State(arrays, _Rest(rest))

    def step(
        self, problem: AbstractProblem, at: Point, state: "_State", key: Key | None
    ) -> tuple[Point, "_State"]:
        """See `AbstractRealMethod`."""
        del key
        fn, solver = self._function(problem), self._solver(problem)
        x, new, _ = solver.step(fn, at.x, None, {}, state.whole(), frozenset())
        arrays = eqx.filter(new, eqx.is_array)
        arrays = jax.tree.map(lambda a, old: a.astype(old.dtype), arrays, state.arrays)
        return at._replace(x=x), state._replace(arrays=arrays)

    def terminate(self, problem: AbstractProblem, at: Point, state: "_State") -> RESULTS:
        """As the solver says."""
        fn, solver = self._function(problem), self._solver(problem)
        ended, outcome = solver.terminate(fn, at.x, None, {}, state.whole(), frozenset())
        result = RESULTS.where(ended, RESULTS.converged, RESULTS.step_limit)
        result = RESULTS.where(outcome == optx.RESULTS.successful, result, RESULTS.gave_up)
        return RESULTS.where(jnp.isfinite(at.x).all(), result, RESULTS.nonfinite)

    def postprocess(
        self, problem: AbstractProblem, at: Point, state: "_State", result: RESULTS
    ) -> tuple[Point, RESULTS]:
        """What the solver makes of its last iterate."""
        fn, solver, outcome = self._function(problem), self._solver(problem), _outcome(result)
        whole, tags = state.whole(), frozenset()
        x, _, _ = solver.postprocess(fn, at.x, None, None, {}, whole, tags, outcome)
        return at._replace(x=problem.put(x)), result

    def _room(self, max_steps: int, save_every: int | None) -> int:
        """As for the library's loop."""
        return max_steps if save_every is not None else power_of_ten(max_steps)

    def run(
        self,
        problem: AbstractProblem,
        x0: Array,
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """The library's loop, with the implicit derivative around it."""

        def solve(x0: Array) -> tuple[Array, Any]:
            end = AbstractRealMethod.run(self, problem, x0, key, max_steps, save_every)
            states = None if end.trajectory is None else (end.trajectory.x, end.trajectory.time)
            return end.x, (end.result, end.steps, states)

        x0 = problem.put(x0)
        x, (result, steps, states) = implicit(problem, x0, solve, self.linear_solver)
        energy, kept = problem.energy(x), None
        if states is not None:
            kept = StateTrajectory(states[0], lax.map(problem.energy, states[0]), states[1])
        return Recall(x, energy, steps, _if_finite(problem, x, energy, result), kept)


@jax.tree_util.register_static
class _Rest:
    """What of a solver's state is no array. It stays the same all along."""

    def __init__(self, value: PyTree):
        self.value = value


class _State(NamedTuple):
    """The state of a solver, in two."""

    arrays: PyTree[Array]
    rest: _Rest

    def whole(self) -> PyTree:
        return eqx.combine(self.arrays, self.rest.value)


def _outcome(result: RESULTS) -> optx.RESULTS:
    """How a loop ended, in the words of Optimistix."""
    words = optx.RESULTS.nonlinear_divergence
    for ours, theirs in (
        (RESULTS.converged, optx.RESULTS.successful),
        (RESULTS.step_limit, optx.RESULTS.nonlinear_max_steps_reached),
        (RESULTS.nonfinite, optx.RESULTS.nonfinite),
    ):
        words = optx.RESULTS.where(result == ours, theirs, words)
    return words


def _if_finite(problem: AbstractProblem, x: Array, energy: Array, result: RESULTS) -> RESULTS:
    finite = jnp.isfinite(energy) & jnp.isfinite(problem.residual(x)).all()
    return RESULTS.where(finite, result, RESULTS.nonfinite)


def _kind(value: object, kinds: type | tuple[type, ...], where: str, example: str) -> None:
    if value is not None and not isinstance(value, kinds):
        raise TypeError(f"{where}: must be such as {example}; {value!r} came.")
