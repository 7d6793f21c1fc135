"""Methods with an implicit derivative: gradient flow (Diffrax), fixed points (Optimistix)."""

from typing import Any, NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import optimistix as optx
from jax import lax
from jaxtyping import Array, Float

from amlib.descent.loop import iterate, states_kept
from amlib.descent.stationary import AbstractMethod, Problem, implicit, positive_field
from amlib.descent.trajectory import RESULTS, ContinuousTrajectory, Recall


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

    tau: Float[Array, ""] = eqx.field(converter=positive_field("tau"), default=1.0)
    solver: Any = None
    controller: Any = None
    linear_solver: Any = None

    def __check_init__(self):
        _kind(self.solver, diffrax.AbstractSolver, "Flow: solver", "diffrax.Tsit5()")
        pid = "diffrax.PIDController(rtol=1e-6, atol=1e-6)"
        _kind(self.controller, diffrax.AbstractStepSizeController, "Flow: controller", pid)
        _kind(self.linear_solver, lx.AbstractLinearSolver, "Flow: linear_solver", "lineax.LU()")

    def run(
        self, problem: Problem, x0: Array, max_steps: int, tol: Array, save_every: int | None
    ) -> Recall:
        """Descend from `x0`, see `AbstractMethod`."""

        def field(t: Array, x: Array, args: None) -> Array:
            y = problem.put(x)
            grad = problem.grad(y)
            return -grad if problem.project is None else problem.move(y, grad) - x

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
                adjoint=diffrax.ForwardMode(),
                throw=False,
            )
            (_, times), (x, states) = solution.ts, solution.ys  # pyright: ignore
            x = problem.put(x[0])
            settled = solution.result == diffrax.RESULTS.event_occurred
            return x, (settled, solution.stats["num_accepted_steps"], times, states)

        x, (settled, steps, times, states) = implicit(problem, x0, solve, self.linear_solver)
        energy = problem.energy(x)
        result = RESULTS.where(settled, RESULTS.converged, RESULTS.step_limit)
        result = _if_finite(problem, x, energy, result)
        kept = None
        if save_every is not None:
            kept = self._record(problem, x0, x, times, states)
        return Recall(x, energy, steps.astype(jnp.int32), result, kept)

    def _record(
        self, problem: Problem, x0: Array, x: Array, times: Array, states: Array
    ) -> ContinuousTrajectory:
        """The states kept, from the start; those never reached repeat the end."""
        reached = jnp.isfinite(times)
        last = jnp.max(jnp.where(reached, times, 0.0))
        times = jnp.where(reached, times, last)
        states = jnp.where(reached.reshape(-1, *[1] * x.ndim), states, x)
        states = lax.map(problem.put, jnp.concatenate([x0[None], states]))
        times = jnp.concatenate([jnp.zeros_like(times[:1]), times]) * self.tau.astype(times.dtype)
        return ContinuousTrajectory(states, lax.map(problem.energy, states), times)


class _Solve(NamedTuple):
    x: Array
    energy: Array
    state: Any
    steps: Array
    result: RESULTS


class FixedPoint(AbstractMethod):
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

    solver: Any = None
    step_size: Float[Array, ""] = eqx.field(converter=positive_field("step_size"), default=1.0)
    linear_solver: Any = None

    def __check_init__(self):
        kinds = (optx.AbstractFixedPointSolver, optx.AbstractRootFinder)
        _kind(self.solver, kinds, "FixedPoint: solver", "optimistix.Newton(rtol=1e-5, atol=1e-5)")
        where = "FixedPoint: linear_solver"
        _kind(self.linear_solver, lx.AbstractLinearSolver, where, "lineax.LU()")

    def run(
        self, problem: Problem, x0: Array, max_steps: int, tol: Array, save_every: int | None
    ) -> Recall:
        """Descend from `x0`, see `AbstractMethod`."""
        size = lax.stop_gradient(self.step_size.astype(x0.dtype))
        solver = self.solver
        if solver is None:
            solver = optx.FixedPointIteration(rtol=0.0, atol=tol)  # pyright: ignore
        roots = isinstance(solver, optx.AbstractRootFinder)

        def fn(x: Array, args: None) -> tuple[Array, None]:
            moved = problem.move(x, problem.grad(x), size)
            return (moved - x if roots else moved), None

        def solve(x0: Array) -> tuple[Array, Any]:
            # As `optimistix.iterative_solve` does it, which keeps no states on the way.
            struct, tags = jax.eval_shape(lambda: x0), frozenset()
            first = solver.init(fn, x0, None, {}, struct, None, tags)
            arrays, rest = eqx.partition(first, eqx.is_array)

            def judge(x: Array, state: Any) -> RESULTS:
                ended, outcome = solver.terminate(fn, x, None, {}, state, tags)
                result = RESULTS.where(ended, RESULTS.converged, RESULTS.step_limit)
                fine = outcome == optx.RESULTS.successful
                return RESULTS.where(fine, result, RESULTS.gave_up)

            def step(s: _Solve) -> _Solve:
                x, state, _ = solver.step(fn, s.x, None, {}, eqx.combine(s.state, rest), tags)
                result = RESULTS.where(jnp.isfinite(x).all(), judge(s.x, state), RESULTS.nonfinite)
                state = jax.tree.map(
                    lambda new, old: new.astype(old.dtype), eqx.filter(state, eqx.is_array), s.state
                )
                energy = s.energy if save_every is None else problem.energy(x)
                return _Solve(x, energy, state, s.steps + 1, result)

            zero = jnp.zeros((), jnp.int32)
            start = _Solve(x0, problem.energy(x0), arrays, zero, judge(x0, first))
            end, kept = iterate(step, start, max_steps, save_every)
            state, outcome = eqx.combine(end.state, rest), _outcome(end.result)
            x, _, _ = solver.postprocess(fn, end.x, None, None, {}, state, tags, outcome)
            return problem.put(x), (end.result, end.steps, kept)

        x, (result, steps, kept) = implicit(problem, x0, solve, self.linear_solver)
        energy = problem.energy(x)
        return Recall(x, energy, steps, _if_finite(problem, x, energy, result), kept)


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


def _if_finite(problem: Problem, x: Array, energy: Array, result: RESULTS) -> RESULTS:
    finite = jnp.isfinite(energy) & jnp.isfinite(problem.residual(x)).all()
    return RESULTS.where(finite, result, RESULTS.nonfinite)


def _kind(value: Any, kinds: Any, where: str, example: str) -> None:
    if value is not None and not isinstance(value, kinds):
        raise TypeError(f"{where}: must be such as {example}; {value!r} came.")
