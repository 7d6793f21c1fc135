r"""Methods for real states that step along a gradient: descent, CCCP, Euler, Langevin, MALA.

Which method?

| method | when | derivative through it |
|---|---|---|
| `GradientDescent(..., backtracking=True)` | any energy; never raises it | of the steps |
| `CCCP()` | the energy's convex part is $\frac12\|x\|^2$: few steps, no step size | of the steps |
| `Euler(dt)` | a fixed number of steps, as networks have them | of the steps |
| `Flow()` | the path itself matters (continuous time) | implicit: of the end state |
| `FixedPoint()` | the end state matters, and its derivative in parameters | implicit |
| `Langevin(beta, dt)` | samples at a temperature, not a minimum | of the steps |
| `MALA(beta, dt)` | the same, from exactly the law of the temperature | of the steps, as accepted |

Derivatives are of every order, forward (`jax.jvp`, `jax.jacfwd`) and backward (`jax.grad`).

Energies are compared as computed. Where these never rise the exact ones may, by what rounding
hides: for the memories here by less than
$100\, \epsilon\, (|E| + |E'| + \tfrac12 \|x\|^2 + D)$, with $100\,\epsilon$ = 1.2e-5 in float32.
"""

from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PyTree

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.descent.loop import march
from amlib.descent.methods import AbstractMethod, AbstractRealMethod, check_schedule
from amlib.descent.problems import AbstractProblem, Point, half_square, rises
from amlib.descent.trajectory import RESULTS, Recall
from amlib.spaces import AbstractReals, AbstractSpace


class _Search(NamedTuple):
    step_size: Array
    rose: Array
    stuck: Array


class GradientDescent(AbstractRealMethod):
    r"""Follow the negative gradient.

    $$x \leftarrow P(x - \eta \nabla E(x))$$

    With `backtracking` the energy, as computed, never rises: a step is taken only where
    $E(x') \le E(x) - 10^{-4} \|x' - x\|^2 / \eta$; otherwise $\eta$ is halved, which counts as a
    step, and after a step it doubles again up to `step_size`. It ends as converged also where no
    step that floats can represent lowers the energy. Without, a step may raise it: a recall that
    did so beyond rounding (see `CCCP`), and has not converged, ends as `RESULTS.ascent`.

    **Arguments:**

    - `step_size`: $\eta$, > 0, in units of the state over its gradient; trainable. With
      `backtracking` the largest step tried.
    - `backtracking`: whether to search the step size.

    **Raises:** `ValueError` unless `step_size` is a finite positive scalar.

    **Reference:** Armijo 1966, Pacific J. Math. 16, 1, with the projected step of Bertsekas 1976.
    """

    step_size: Float[Array, ""] = eqx.field(
        converter=checks.positive_field("step_size"), default=0.1
    )
    backtracking: bool = eqx.field(static=True, default=False)

    def init(self, problem: AbstractProblem, at: Point) -> _Search:
        """See `AbstractRealMethod`."""
        no = jnp.zeros((), bool)
        return _Search(self.step_size.astype(at.x.dtype), no, no)

    def step(
        self, problem: AbstractProblem, at: Point, state: _Search, key: Key | None
    ) -> tuple[Point, _Search]:
        """See `AbstractRealMethod`."""
        new = problem.at(problem.move(at.x, at.grad, state.step_size))
        if not self.backtracking:
            # Summands of any energy: say one a unit, such as the log 2 of log cosh.
            rose = rises(at.energy, new.energy, half_square(new.x) + new.x.size)
            return new, state._replace(rose=state.rose | rose)
        kept = _fell(problem, at, new, state.step_size)
        stuck = (new.x == at.x).all()
        largest = self.step_size.astype(at.x.dtype)
        doubled = jnp.minimum(2 * state.step_size, largest)
        size = jnp.where(kept, doubled, state.step_size / 2)
        new = jax.tree.map(lambda a, b: jnp.where(kept, a, b), new, at)
        return new, _Search(size, state.rose, stuck)

    def terminate(self, problem: AbstractProblem, at: Point, state: _Search) -> RESULTS:
        """At rest, and where no step that floats can represent lowers the energy."""
        result = problem.judge(at)
        return RESULTS.where(state.stuck, RESULTS.converged, result)

    def postprocess(
        self, problem: AbstractProblem, at: Point, state: _Search, result: RESULTS
    ) -> tuple[Point, RESULTS]:
        """A descent that went up, and has not converged, says so."""
        failed = state.rose & (result == RESULTS.step_limit)
        return at, RESULTS.where(failed, RESULTS.ascent, result)


def _fell(problem: AbstractProblem, at: Point, new: Point, step_size: Array) -> Array:
    """Whether a step is kept by the search for a step size."""
    fall = 1e-4 * jnp.sum((new.x - at.x) ** 2) / step_size
    if problem.field is not None:  # its slope is not known: any fall will do
        fall = jnp.zeros_like(fall)
    kept = new.energy <= at.energy - fall.astype(new.energy.dtype)
    # A fall within rounding proves nothing: then the step must not pass the minimum.
    rounding = 4 * jnp.finfo(new.energy.dtype).eps * jnp.abs(at.energy)
    short = jnp.sum(new.grad * (new.x - at.x)) <= 0
    return kept & ((at.energy - new.energy > rounding) | short)


class CCCP(AbstractRealMethod):
    r"""Take unit steps: the concave-convex procedure for the convex part $\frac12\|x\|^2$.

    $$x \leftarrow P(x - \nabla E(x))$$

    It applies to energies $E(x) = \frac12\|x\|^2 + \text{concave}$: each step then minimises an
    upper bound that touches $E$ at $x$, so the energy falls for any start, without a step size,
    and on any closed constraint set, but for rounding. The energy is watched: a step with

    $$E' - E > 100\, \epsilon\, (|E| + |E'| + \tfrac12 \|x\|^2)$$

    is undone, and ends the recall with `RESULTS.ascent`.

    **Reference:** Yuille and Rangarajan 2003, Neural Comput. 15, 915; for this form Ramsauer et
    al. 2021, Theorem 1.
    """

    def init(self, problem: AbstractProblem, at: Point) -> Array:
        """Whether the last step raised the energy."""
        del problem, at
        return jnp.zeros((), bool)

    def step(
        self, problem: AbstractProblem, at: Point, state: Array, key: Key | None
    ) -> tuple[Point, Array]:
        """See `AbstractRealMethod`."""
        new = problem.at(problem.move(at.x, at.grad))
        rose = rises(at.energy, new.energy, half_square(new.x))
        return jax.tree.map(lambda a, b: jnp.where(rose, b, a), new, at), rose

    def terminate(self, problem: AbstractProblem, at: Point, state: Array) -> RESULTS:
        """At rest, and after a step that was undone."""
        return RESULTS.where(state, RESULTS.ascent, problem.judge(at))


class AbstractRealSampler(AbstractRealMethod):
    """A method that draws real states at inverse temperature `beta`, for exactly its steps.

    Subclass it with the field, and define `step`.
    """

    beta: eqx.AbstractVar[Float[Array, "*steps"]]

    draws: ClassVar[bool] = True

    def check(self, max_steps: int | None) -> int:
        """The number of steps: that of a schedule where `max_steps` is not given."""
        return check_schedule(self.beta, max_steps, super().check)

    def beta_at(self, at: Point) -> Scalar:
        """The inverse temperature of a step from here."""
        return self.beta[at.steps] if self.beta.ndim else self.beta

    def terminate(self, problem: AbstractProblem, at: Point, state: PyTree) -> RESULTS:
        """It goes on to the last step, unless something is not finite."""
        finite = jnp.isfinite(at.energy) & jnp.isfinite(at.x).all()
        return RESULTS.where(finite, RESULTS.step_limit, RESULTS.nonfinite)

    def postprocess(
        self, problem: AbstractProblem, at: Point, state: PyTree, result: RESULTS
    ) -> tuple[Point, RESULTS]:
        """What was to be drawn is drawn."""
        return at, RESULTS.where(result == RESULTS.step_limit, RESULTS.sampled, result)


def _temperature(beta: ArrayLike) -> Array:
    return checks.positive(checks.as_float(beta, "beta"), "beta")


class Langevin(AbstractRealSampler):
    r"""Draw states at a temperature: the unadjusted Langevin algorithm, for exactly its steps.

    $$x \leftarrow P\big(x - \Delta t\, \nabla E(x) + \sqrt{2 \Delta t / \beta}\; \eta\big), \qquad
    \eta \sim \mathcal{N}(0, 1)$$

    Over long times states come with a density near $\exp(-\beta E)$; its error falls with
    $\Delta t$, and `MALA` has none. Where a state moves against another direction than the gradient
    (a hierarchical memory's), the noise is added all the same, and no such density is claimed.

    **Arguments:**

    - `beta`: inverse temperature, > 0, in units of 1/energy: one for all steps, or a schedule
      with one for each (annealing).
    - `dt`: $\Delta t$, > 0.

    **Raises:** `ValueError` unless `beta` is positive and `dt` a finite positive scalar.

    **Reference:** Roberts and Tweedie 1996, Bernoulli 2, 341.
    """

    beta: Float[Array, "*steps"] = eqx.field(converter=_temperature)
    dt: Float[Array, ""] = eqx.field(converter=checks.positive_field("dt"), default=0.01)

    def step(
        self, problem: AbstractProblem, at: Point, state: PyTree, key: Key | None
    ) -> tuple[Point, PyTree]:
        """See `AbstractRealMethod`."""
        assert key is not None
        noise = jr.normal(key, at.x.shape, at.x.dtype)
        spread = jnp.sqrt(2 * self.dt / self.beta_at(at)).astype(at.x.dtype)
        moved = at.x - self.dt.astype(at.x.dtype) * at.grad + spread * noise
        return problem.at(problem.put(moved)), state


class MALA(AbstractRealSampler):
    r"""Draw states at a temperature, exactly: the Metropolis-adjusted Langevin algorithm.

    The step of `Langevin` is a proposal, made by the rule of Metropolis and Hastings, which keeps
    the density $\exp(-\beta E)$, in detailed balance, for every $\Delta t$:

    $$x' = x - \Delta t\, \nabla E(x) + \sqrt{2 \Delta t / \beta}\; \eta, \qquad
    P = \min\Big(1, e^{-\beta (E(x') - E(x))} \frac{q(x \mid x')}{q(x' \mid x)}\Big)$$

    $$q(y \mid x) \propto e^{-\beta \|y - x + \Delta t \nabla E(x)\|^2 / (4 \Delta t)}$$

    A proposal that is rejected repeats the state: of a record by `save_every=1` the share of
    energies that differ from the one before is how many were made. It should be near 0.57
    (Roberts and Rosenthal 1998): of a `dt` too large nearly none is.

    In a `Box`, and in any set with an interior, proposals outside are rejected, and the density is
    that on the set. A `Sphere` has none. Where a state moves against another direction than the
    gradient (a hierarchical memory's), that is what proposals follow; the density, of the states
    of the layers, is $\exp(-\beta E)$ all the same, where it has an integral.

    **Arguments:**

    - `beta`, `dt`: see `Langevin`.

    **Raises:** `ValueError` unless `beta` is positive and `dt` a finite positive scalar;
    `TypeError` on a sphere.

    **Reference:** Roberts and Tweedie 1996, Bernoulli 2, 341, section 1.4.2; Roberts and Rosenthal
    1998, J. R. Stat. Soc. B 60, 255.
    """

    beta: Float[Array, "*steps"] = eqx.field(converter=_temperature)
    dt: Float[Array, ""] = eqx.field(converter=checks.positive_field("dt"), default=0.01)

    def init(self, problem: AbstractProblem, at: Point) -> None:
        """Nothing is carried; raise `TypeError` where no proposal would stay in the space."""
        if not problem.space.solid:
            raise TypeError(
                f"recall: MALA needs a space with an interior, in which a step can stay; "
                f"{type(problem.space).__name__} came, which a step leaves with certainty. Choose "
                "Langevin(beta, dt), which projects its steps."
            )

    def step(
        self, problem: AbstractProblem, at: Point, state: PyTree, key: Key | None
    ) -> tuple[Point, PyTree]:
        """See `AbstractRealMethod`."""
        assert key is not None
        noisy, draw = jr.split(key)
        dtype = at.x.dtype
        beta, dt = self.beta_at(at).astype(dtype), self.dt.astype(dtype)
        noise = problem.released(jr.normal(noisy, at.x.shape, dtype))
        moved = at.x - dt * at.grad + jnp.sqrt(2 * dt / beta) * noise
        new = problem.at(problem.put(moved))
        inside = (new.x == moved).all()
        # The two squares in q are as large as the state: their difference is written without them.
        half_way = new.x - at.x - dt / 2 * (new.grad - at.grad)
        work = 0.5 * jnp.sum((at.grad + new.grad) * half_way)
        rise = beta * (new.energy.astype(dtype) - at.energy.astype(dtype) - work)
        made = inside & (jr.uniform(draw, (), dtype) < jnp.exp(-rise))
        return jax.tree.map(lambda a, b: jnp.where(made, a, b), new, at), state


class Euler(AbstractMethod):
    r"""Take exactly so many steps of Euler's method, and differentiate through them.

    $$x \leftarrow P(x - \Delta t \, \nabla E(x))$$

    A hierarchical memory moves by its forces over its time constants. A step may raise the energy:
    if one did so by more than rounding (1.2e-5 of its summands in float32), and the steps end
    short of rest, the result is `RESULTS.ascent`. A record holds the start and every
    `save_every`-th state, by their times: the number of steps times `dt`.

    **Arguments:**

    - `dt`: $\Delta t$, > 0; of a hierarchical memory in units of its `tau`.
    - `remat`: whether a derivative backward keeps the states alone, and computes what is inside
      a step anew. It takes less memory, and on a CPU often less time, too.

    **Raises:** `ValueError` unless `dt` is a finite positive scalar.
    """

    dt: Float[Array, ""] = eqx.field(converter=checks.positive_field("dt"), default=0.1)
    remat: bool = eqx.field(static=True, default=False, kw_only=True)

    space: ClassVar[type[AbstractSpace]] = AbstractReals
    limit: ClassVar[int] = 100
    trees: ClassVar[bool] = True

    def run(
        self,
        problem: AbstractProblem,
        x0: PyTree[Array],
        key: Key | None,
        max_steps: int,
        save_every: int | None,
    ) -> Recall:
        """See `AbstractMethod`. States of several arrays stay apart, so that the compiler drops
        what the states that are read do not need: in the last steps of a deep network, the forces
        on its lower layers."""
        del key
        every = save_every or 1
        dt = self.dt.astype(jnp.result_type(*jax.tree.leaves(x0)))

        def step(x: PyTree[Array]) -> PyTree[Array]:
            return problem.put(jax.tree.map(lambda a, g: a - dt * g, x, problem.grad(x)))

        if self.remat:
            step = jax.checkpoint(step)

        def measure(x: PyTree[Array]) -> PyTree[Array]:
            return problem.measure(x), None if save_every is None else x

        x, ((parts, sizes), states) = march(
            step, problem.put(x0), max_steps, every, measure, problem.meter
        )
        energy = problem.total(parts)
        times = dt * every * jnp.arange(1 + max_steps // every, dtype=dt.dtype)
        grad = jax.tree.leaves(problem.grad(x))
        finite = [jnp.isfinite(a).all() for a in [*jax.tree.leaves(x), *grad]]
        rest = [problem.residual(x)] if problem.bounded else grad
        still = [jnp.max(jnp.abs(a), initial=0) <= problem.tol for a in rest]
        result = RESULTS.step_limit
        if problem.falls:
            rose = rises(energy[:-1], energy[1:], sizes[1:]).any()
            result = RESULTS.where(rose, RESULTS.ascent, result)
        result = RESULTS.where(jnp.stack(still).all(), RESULTS.converged, result)
        result = RESULTS.where(jnp.stack(finite).all(), result, RESULTS.nonfinite)
        record = problem.record(states, energy, times, parts)
        steps = jnp.asarray(max_steps, jnp.int32)
        return Recall(x, problem.energy(x), steps, result, record)
