r"""Methods that run a diffusion backward: the reverse SDE and the probability flow (Diffrax).

A pattern diffuses by $dx = \sigma\, dW_t$, and where it is at time $t$ has a density
$p_t \propto e^{-E(x, t) / (\sigma^2 t)}$. In the time $s = -\log t$, which rises as $t$ falls, what
runs backward is

$$dx = -\nabla E(x, t)\, ds + \sigma \sqrt t\, dW_s \qquad \text{or} \qquad
\frac{dx}{ds} = -\frac12 \nabla E(x, t)$$

with the same densities at all times: gradient flows of an energy that sharpens on the way, with
noise or without. (`Langevin` at the temperature $\sigma^2 t$ has a noise of twice that variance.)
"""

import abc
from collections.abc import Callable
from typing import ClassVar, NamedTuple, TypeAlias

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float

from amlib import _checks as checks, _show as show
from amlib._types import Key, Scalar
from amlib.descent.loop import states_kept
from amlib.descent.trajectory import RESULTS, Recall, StateTrajectory

EnergyInTime: TypeAlias = Callable[[Array, Array], Array]
"""From a state and a time to an energy."""


class Plan(NamedTuple):
    """What Diffrax is asked to solve: terms, solver, first step, controller, the step limit."""

    terms: diffrax.AbstractTerm
    solver: diffrax.AbstractSolver
    dt0: Array | None
    controller: diffrax.AbstractStepSizeController
    max_steps: int


class AbstractBackward(eqx.Module):
    """How a diffusion is run backward. Subclass it and define `plan`."""

    draws: ClassVar[bool] = False
    """Whether it draws at random, and needs a key."""

    __repr__ = show.text

    @abc.abstractmethod
    def plan(
        self, grad: EnergyInTime, sigma: Scalar, x: Array, s: tuple[Array, Array], key: Key | None
    ) -> Plan:
        r"""What is to be solved, in the time $s = -\log t$.

        **Arguments:**

        - `grad`: from a state and a time $t$ to the gradient of the energy.
        - `sigma`: $\sigma$.
        - `x`: the start, a vector.
        - `s`: where it begins and ends.
        - `key`: for what is drawn at random, or `None`.
        """

    def run(
        self,
        energy: EnergyInTime,
        sigma: Scalar,
        x: Array,
        times: tuple[Array, Array],
        key: Key | None,
        save_every: int | None,
    ) -> Recall:
        """Run from the first of two times to the second, which is smaller.

        **Arguments:**

        - `energy`: from a state and a time to an energy.
        - `sigma`: the diffusion.
        - `x`: the start.
        - `times`: where it begins and ends.
        - `key`: for what is drawn at random, or `None`.
        - `save_every`: steps between two states kept, or `None`.

        **Returns:** a `Recall`, whose times are those of the diffusion.
        """
        shape, s = x.shape, (-jnp.log(times[0]), -jnp.log(times[1]))
        flat = lambda x, t: energy(x.reshape(shape), t)
        plan = self.plan(jax.grad(flat), sigma, x.reshape(-1), s, key)
        end = diffrax.SubSaveAt(t1=True)
        saves = [end, end]
        if save_every is not None:
            every = max(save_every, -(-plan.max_steps // states_kept(x.nbytes)))
            saves = [end, diffrax.SubSaveAt(steps=every)]
        solution = diffrax.diffeqsolve(
            plan.terms,
            plan.solver,
            *s,
            plan.dt0,
            x.reshape(-1),
            stepsize_controller=plan.controller,
            saveat=diffrax.SaveAt(subs=saves),
            max_steps=plan.max_steps,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        (last, at), (y, states) = solution.ts, solution.ys  # pyright: ignore
        y, stop = y[0].reshape(shape), jnp.exp(-last[0])
        value = energy(y, stop)
        result = RESULTS.where(
            solution.result == diffrax.RESULTS.successful, RESULTS.sampled, RESULTS.step_limit
        )
        finite = jnp.isfinite(value) & jnp.isfinite(y).all()
        result = RESULTS.where(finite, result, RESULTS.nonfinite)
        kept = None
        if save_every is not None:
            kept = _record(energy, (x, times[0]), (y, stop), states, at)
        steps = solution.stats["num_accepted_steps"].astype(jnp.int32)
        return Recall(y, value, steps, result, kept, stop)


def _record(
    energy: EnergyInTime,
    start: tuple[Array, Array],
    end: tuple[Array, Array],
    states: Array,
    s: Array,
) -> StateTrajectory:
    """The states kept, from the start to the end; rows that were never reached repeat the end."""
    x, stop = end
    reached = jnp.isfinite(s)
    times = jnp.where(reached, jnp.exp(-s), stop)
    states = jnp.where(reached.reshape(-1, *[1] * x.ndim), states.reshape(-1, *x.shape), x)
    times = jnp.concatenate([start[1][None], times, stop[None]])
    states = jnp.concatenate([start[0][None], states, x[None]])
    energies = jax.lax.map(lambda xt: energy(*xt), (states, times))
    return StateTrajectory(states, energies, times)


class ReverseSDE(AbstractBackward):
    r"""Run a diffusion backward with noise: the reverse SDE, by Euler's and Maruyama's method.

    $$x \leftarrow x - h\, \nabla E(x, t) + \sigma \sqrt{h\, t}\; \eta, \qquad
    t \leftarrow t\, e^{-h}$$

    Steps are even in $\log t$: each takes the state by the same share of the way to its denoised
    value, at every noise. Variances come out too large by a share of about $h / 2$.

    **Arguments:**

    - `steps`: how many, >= 1. $h$ is the logarithm of the ratio of the times, over them; it should
      be well below 1.
    - `solver`: a Diffrax solver of Ito SDEs; `None` means `diffrax.Euler()`.

    **Raises:** `ValueError` for `steps < 1`; `TypeError` for a solver that is not of Diffrax.

    **Reference:** Anderson 1982, Stoch. Process. Appl. 12, 313; Song et al. 2021 (arXiv
    2011.13456), eq. 6, with $f = 0$ and $g = \sigma$. There, and in arXiv 2505.21777, steps are
    even in $t$.
    """

    steps: int = eqx.field(
        static=True, converter=lambda n: checks.integer(n, 1, "ReverseSDE: steps"), default=1000
    )
    solver: diffrax.AbstractSolver | None = None

    draws: ClassVar[bool] = True

    def __check_init__(self):
        _solver(self.solver, "ReverseSDE", "diffrax.Euler()")

    def plan(
        self, grad: EnergyInTime, sigma: Scalar, x: Array, s: tuple[Array, Array], key: Key | None
    ) -> Plan:
        """See `AbstractBackward`."""
        assert key is not None
        # The steps are fixed, so that increments may be drawn one by one.
        path = diffrax.UnsafeBrownianPath(jax.ShapeDtypeStruct(x.shape, x.dtype), key)

        def noise(s: Array, x: Array, _: None) -> lx.DiagonalLinearOperator:
            return lx.DiagonalLinearOperator(jnp.full_like(x, sigma * jnp.exp(-s / 2)))

        drift = diffrax.ODETerm(lambda s, x, _: -grad(x, jnp.exp(-s)))  # pyright: ignore
        terms = diffrax.MultiTerm(drift, diffrax.ControlTerm(noise, path))  # pyright: ignore
        grid = jnp.linspace(*s, self.steps + 1, dtype=x.dtype)
        grid = grid.at[0].set(s[0]).at[-1].set(s[1])
        return Plan(
            terms, self.solver or diffrax.Euler(), None, diffrax.StepTo(grid), self.steps + 1
        )


class ProbabilityFlow(AbstractBackward):
    r"""Run a diffusion backward without noise: the probability-flow ODE.

    $$\frac{dx}{d \log t} = \frac12 \nabla E(x, t)$$

    Where it ends is a function of where it begins, and yet the densities are those of the
    reverse SDE. An adaptive solver takes the steps.

    **Arguments:**

    - `solver`: a Diffrax ODE solver; `None` means `diffrax.Tsit5()`.
    - `controller`: a Diffrax step size controller; `None` means
      `diffrax.PIDController(rtol=1e-4, atol=1e-5)`.
    - `max_steps`: the step limit, >= 1.

    **Raises:** `ValueError` for `max_steps < 1`; `TypeError` for a solver that is not of Diffrax.

    **Reference:** Song et al. 2021 (arXiv 2011.13456), eq. 13.
    """

    solver: diffrax.AbstractSolver | None = None
    controller: diffrax.AbstractStepSizeController | None = None
    max_steps: int = eqx.field(
        static=True,
        converter=lambda n: checks.integer(n, 1, "ProbabilityFlow: max_steps"),
        default=1000,
    )

    def __check_init__(self):
        _solver(self.solver, "ProbabilityFlow", "diffrax.Tsit5()")

    def plan(
        self, grad: EnergyInTime, sigma: Scalar, x: Array, s: tuple[Array, Array], key: Key | None
    ) -> Plan:
        """See `AbstractBackward`."""
        del sigma, key, s
        half = jnp.asarray(0.5, x.dtype)
        terms = diffrax.ODETerm(lambda s, x, _: -half * grad(x, jnp.exp(-s)))  # pyright: ignore
        return Plan(terms, self.solver or diffrax.Tsit5(), None, self.control(), self.max_steps)

    def control(self) -> diffrax.AbstractStepSizeController:
        """The controller of the step size."""
        return self.controller or diffrax.PIDController(rtol=1e-4, atol=1e-5)


def log_density(
    energy: EnergyInTime,
    x: Array,
    times: tuple[Array, Array],
    prior: Callable[[Array], Array],
    method: ProbabilityFlow,
) -> Float[Array, ""]:
    r"""The logarithm of a density by the change of variables along the probability flow.

    $$\log p_t(x_t) = \log p_T(x_T) + \int_{\log t}^{\log T} \frac12 \Delta E(x_u, e^u)\, du$$

    **Arguments:**

    - `energy`: from a state and a time to an energy.
    - `x`: a state at the smaller time.
    - `times`: $t$ and $T$.
    - `prior`: $\log p_T$.
    - `method`: how the flow is solved.

    **Returns:** $\log p_t(x)$; NaN where the step limit was reached.

    **Reference:** Chen et al. 2018 (arXiv 1806.07366), eq. 8; the Laplacian is exact.
    """
    shape, half = x.shape, jnp.asarray(0.5, x.dtype)
    grad = jax.grad(lambda x, t: energy(x.reshape(shape), t))

    def slope(u: Array, at: tuple[Array, Array], _: None) -> tuple[Array, Array]:
        t = jnp.exp(u)
        force, push = jax.linearize(lambda x: grad(x, t), at[0])
        laplacian = jnp.trace(jax.vmap(push)(jnp.eye(x.size, dtype=x.dtype)))
        return half * force, half * laplacian

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),  # pyright: ignore[reportArgumentType]
        method.solver or diffrax.Tsit5(),
        jnp.log(times[0]),
        jnp.log(times[1]),
        None,
        (x.reshape(-1), jnp.zeros((), x.dtype)),
        stepsize_controller=method.control(),
        max_steps=method.max_steps,
        adjoint=diffrax.ForwardMode(),
        throw=False,
    )
    end, gained = solution.ys  # pyright: ignore
    reached = solution.result == diffrax.RESULTS.successful
    total = prior(end[0].reshape(shape)) + gained[0]
    return jnp.where(reached, total, jnp.nan)


def _solver(value: object, name: str, example: str) -> None:
    if value is not None and not isinstance(value, diffrax.AbstractSolver):
        raise TypeError(f"{name}: solver must be such as {example}; {value!r} came.")
