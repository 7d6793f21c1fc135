"""Relaxation to a fixed point of a learned map, in discrete and in continuous time; its training.

```python
model = am.DenseReconstructor(784)
model = am.fit(model, patterns, ReconstructionLoss(), optax.adam(1e-3), 100, 100, key).model
end = jax.vmap(am.DiscreteTimeHopfield(model))(noisy)
end.x, end.final_step, end.converged
```
"""

from typing import Any

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix as optx
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Integer, Shaped

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.descent.stationary import Problem, implicit
from amlib.descent.trajectory import RESULTS
from amlib.learning.base import AbstractLoss
from amlib.learning.reconstructors import (
    AbstractOverlapReconstructor,
    AbstractReconstructor,
    as_state,
    check_states,
    cut,
)

UPDATES = ("synchronous", "asynchronous")


class Relaxation(eqx.Module):
    """How a relaxation ended; under `jax.vmap` every field gains the batch axes.

    **Arguments:**

    - `x`: the final state.
    - `final_step`: how many steps changed the state; 0 where the input was a fixed point. An
      asynchronous step is a sweep over all units; in continuous time it is a step of the solver.
    - `result`: how it ended, one of `RESULTS`.
    - `time`: in continuous time, when it ended, in units of the time constant.
    """

    x: Float[Array, "*state"]
    final_step: Integer[Array, "*batch"]
    result: RESULTS
    time: Float[Array, "*batch"] | None = None

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether the relaxation reached a fixed point."""
        return self.result == RESULTS.converged


class DiscreteTimeHopfield(eqx.Module):
    r"""Repeat a learned map until the state rests.

    $$x \leftarrow \operatorname{sgn} h(x)$$

    with $h$ the field of the reconstructor; a unit whose field is 0 keeps its value. All units
    may step at once (`"synchronous"`; a step that would lead back ends on `RESULTS.cycle`), or
    one at a time, every unit once per sweep in a fresh random order (`"asynchronous"`; units not
    being visited keep their values). Both end on the same states: the fixed points of the map.
    Where there is an energy, no visit raises it.

    The synchronous relaxation can be differentiated, straight through its hard steps; the
    asynchronous one has no derivative.

    **Arguments:**

    - `reconstructor`: the map.
    - `max_steps`: the limit, at least 1.
    - `tol`: converged once no unit moves by more, at least 0; it matters for soft states.
    - `update`: `"synchronous"` or `"asynchronous"`.
    - `hard`: whether states are binary. If not, the soft map is repeated, synchronously, on real
      states.

    **Raises:** `ValueError` for a limit below 1, a negative tolerance, an unknown update, and
    soft states with asynchronous updates; `TypeError` for a reconstructor that is none.

    **Reference:** MacKay 2003, chapter 42; Goles-Chacc et al. 1985 for the 2-cycles.
    """

    reconstructor: AbstractReconstructor
    max_steps: int = eqx.field(static=True, default=100)
    tol: float = eqx.field(static=True, default=1e-3)
    update: str = eqx.field(static=True, default="synchronous")
    hard: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        _check(self, "DiscreteTimeHopfield")
        checks.choice(self.update, UPDATES, "DiscreteTimeHopfield: update")
        if not self.hard and self.update == "asynchronous":
            raise ValueError(
                "DiscreteTimeHopfield: soft states step at once; update='asynchronous' came with "
                "hard=False. Drop one of the two."
            )

    def __call__(self, x: Shaped[ArrayLike, "*shape"], key: Key | None = None) -> Relaxation:
        """Relax one state.

        **Arguments:**

        - `x`: a binary state, or any finite one with `hard=False`.
        - `key`: orders the asynchronous visits; `jax.random.PRNGKey(0)` if not given.

        **Returns:** a `Relaxation`.

        **Raises:** `ValueError` for a wrong shape or other values than the states of the model.
        """
        x = as_state(self.reconstructor, x, "relax")
        x = _binary(x, self.reconstructor.states) if self.hard else checks.finite(x, "relax: x")
        if self.update == "synchronous":
            return _synchronous(self, x)
        return _asynchronous(self, x, jr.PRNGKey(0) if key is None else key)


class ContinuousTimeHopfield(eqx.Module):
    r"""Follow the flow of a learned map to its steady state.

    $$\frac{dx}{dt} = f(x) - x$$

    with $f$ the soft reconstruction. Where the field is minus the gradient of an energy $E$, the
    flow of spins lowers $E(x) + \sum_i \int_0^{x_i} f^{-1}$. The derivative is that of the steady
    state, by the implicit function theorem, and zero in the start.

    **Arguments:**

    - `reconstructor`: the map. One with hard units inside (a restricted Boltzmann machine) has a
      flow that jumps; the solver then takes small steps at the jumps.
    - `max_steps`: the limit on steps of the solver, at least 1.
    - `tol`: it rests once no unit moves faster, > 0.
    - `solver`: any Diffrax ODE solver; `None` means `diffrax.Tsit5()`.

    **Raises:** `ValueError` for a limit below 1 and a tolerance not above 0; `TypeError` for a
    reconstructor that is none.

    **Reference:** Hopfield 1984, eq. 5, in the outputs of the units.
    """

    reconstructor: AbstractReconstructor
    max_steps: int = eqx.field(static=True, default=1000)
    tol: float = eqx.field(static=True, default=1e-3)
    solver: Any = eqx.field(metadata={"trained": False}, default=None)

    def __check_init__(self):
        _check(self, "ContinuousTimeHopfield")
        if self.tol == 0:
            raise ValueError("ContinuousTimeHopfield: tol must be greater than 0; 0 came.")
        if self.solver is not None and not isinstance(self.solver, diffrax.AbstractSolver):
            raise TypeError(
                f"ContinuousTimeHopfield: solver must be such as diffrax.Tsit5(); "
                f"{self.solver!r} came."
            )

    def __call__(self, x: Shaped[ArrayLike, "*shape"]) -> Relaxation:
        """Relax one state.

        **Arguments:**

        - `x`: any finite state.

        **Returns:** a `Relaxation`, with its time. `reconstructor(result.x)` is the binary state
        next to it.

        **Raises:** `ValueError` for a wrong shape, NaN and infinity.
        """
        x = as_state(self.reconstructor, x, "relax")
        return _flow(self, checks.finite(x, "relax: x"))


def _check(model: Any, where: str) -> None:
    """Raise unless the parts that both relaxations share are what they must be."""
    if not isinstance(model.reconstructor, AbstractReconstructor):
        raise TypeError(
            f"{where}: reconstructor must be such as DenseReconstructor(784); "
            f"{type(model.reconstructor).__name__} came."
        )
    checks.integer(model.max_steps, 1, f"{where}: max_steps")
    checks.at_least(model.tol, 0, f"{where}: tol")


def _binary(x: Array, states: str) -> Array:
    """Return `x`; raise unless it holds only the two values of a unit."""
    if states == "spins":
        return checks.spins(x, "relax: x")
    return checks.require(
        x,
        ~((x == 0) | (x == 1)).all(),
        "relax: x: a state of bits must hold only 0 and 1; other values came. "
        "Spins become bits by (x + 1) / 2.",
    )


@eqx.filter_jit
def _synchronous(model: DiscreteTimeHopfield, x0: Array) -> Relaxation:
    wide, start = checks.widen((model.reconstructor, x0))
    states = wide.states

    def move(x: Array) -> tuple[Array, Array]:
        h, smooth = wide.field(x), wide.soft(x)
        if not model.hard:
            return smooth, jnp.isfinite(smooth).all()
        hard = lax.stop_gradient(cut(h, x, states)) + (smooth - lax.stop_gradient(smooth))
        return hard, jnp.isfinite(h).all()

    def body(carry: Any) -> Any:
        x, before, steps, _, _ = carry
        new, finite = move(x)
        fixed = jnp.max(jnp.abs(new - x)) <= model.tol
        limit = steps >= model.max_steps
        back = (new == before).all() & model.hard & (steps > 0)
        result = RESULTS.where(back, RESULTS.cycle, RESULTS.step_limit)
        result = RESULTS.where(fixed, RESULTS.converged, result)
        result = RESULTS.where(finite, result, RESULTS.nonfinite)
        done = fixed | limit | back | ~finite
        return jnp.where(done, x, new), x, steps + (~done).astype(jnp.int32), result, done

    zero = jnp.zeros((), jnp.int32)
    # One evaluation more than steps: the last may find that there is nothing left to do.
    x, _, steps, result, _ = eqxi.while_loop(
        lambda carry: ~carry[-1],
        body,
        (start, start, zero, RESULTS.step_limit, jnp.zeros((), bool)),
        max_steps=model.max_steps + 1,
        kind="checkpointed",
    )
    return Relaxation(x.astype(x0.dtype), steps, result)


@eqx.filter_jit
def _asynchronous(model: DiscreteTimeHopfield, x0: Array, key: Key) -> Relaxation:
    wide, start = lax.stop_gradient(checks.widen((model.reconstructor, x0)))
    sweep = _sweep_by_overlaps if isinstance(wide, AbstractOverlapReconstructor) else _sweep

    def body(carry: Any) -> Any:
        x, steps, _, _ = carry
        new = sweep(wide, x, jr.permutation(jr.fold_in(key, steps), x.size))
        # A sweep that changes nothing proves a fixed point; so does the field of all units.
        h = wide.field(new)
        fixed = (cut(h, new, wide.states) == new).all()
        finite = jnp.isfinite(h).all()
        steps = steps + (new != x).any().astype(jnp.int32)
        result = RESULTS.where(fixed, RESULTS.converged, RESULTS.step_limit)
        result = RESULTS.where(finite, result, RESULTS.nonfinite)
        return new, steps, result, fixed | ~finite | (steps >= model.max_steps)

    carry = (start, jnp.zeros((), jnp.int32), RESULTS.step_limit, jnp.zeros((), bool))
    x, steps, result, _ = lax.while_loop(lambda carry: ~carry[-1], body, carry)
    return Relaxation(x.astype(x0.dtype), steps, result)


def _sweep(model: AbstractReconstructor, x: Array, order: Array) -> Array:
    """Visit the units in this order; each follows its field."""

    def visit(x: Array, i: Array) -> tuple[Array, None]:
        new = cut(model.field(x), x, model.states).reshape(-1)[i]
        return x.reshape(-1).at[i].set(new).reshape(x.shape), None

    return lax.scan(visit, x, order)[0]


def _sweep_by_overlaps(model: AbstractOverlapReconstructor, x: Array, order: Array) -> Array:
    """The same, with the overlaps carried along: a visit costs one row."""
    rows = model.weights().T

    def visit(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        x, overlaps = carry
        new = cut(model.read(overlaps, i), x[i], model.states)
        return (x.at[i].set(new), overlaps + (new - x[i]) * rows[i]), None

    return lax.scan(visit, (x, x @ rows), order)[0][0]


@eqx.filter_jit
def _flow(model: ContinuousTimeHopfield, x0: Array) -> Relaxation:
    wide, start = checks.widen((model.reconstructor, x0))
    fine = model.tol / 30  # with errors as large as `tol` the end would never be below it
    steady = diffrax.steady_state_event(rtol=0.0, atol=model.tol, norm=optx.max_norm)  # pyright: ignore[reportArgumentType]

    def solve(x: Array) -> tuple[Array, Any]:
        solution = diffrax.diffeqsolve(
            diffrax.ODETerm(lambda t, x, args: wide.soft(x) - x),  # pyright: ignore[reportArgumentType]
            model.solver or diffrax.Tsit5(),
            t0=jnp.zeros((), start.dtype),
            t1=jnp.asarray(jnp.inf, start.dtype),
            dt0=None,
            y0=x,
            stepsize_controller=diffrax.PIDController(rtol=fine, atol=fine),
            event=diffrax.Event(steady),
            max_steps=model.max_steps,
            adjoint=diffrax.ForwardMode(),
            throw=False,
        )
        settled = solution.result == diffrax.RESULTS.event_occurred
        steps = solution.stats["num_accepted_steps"]
        return solution.ys[0], (settled, steps, solution.ts[0])  # pyright: ignore[reportOptionalSubscript]

    # Of no energy and the map as the projection, the residual is f(x) - x.
    rest = Problem(lambda x: jnp.zeros((), x.dtype), wide.soft)
    x, (settled, steps, time) = implicit(rest, start, solve, None)
    result = RESULTS.where(settled, RESULTS.converged, RESULTS.step_limit)
    result = RESULTS.where(jnp.isfinite(x).all(), result, RESULTS.nonfinite)
    return Relaxation(x.astype(x0.dtype), steps.astype(jnp.int32), result, time)


# -- training ----------------------------------------------------------------------------------


class ReconstructionLoss(AbstractLoss):
    r"""The L1 distance of patterns and their soft reconstruction, for `am.fit`.

    $$\langle |x - f(\tilde x)| \rangle$$

    with $\tilde x$ the pattern (`noise=0`, as published), or the pattern with flipped units. The
    map cannot be the identity, so that even the clean loss teaches each unit from the others.

    With `steps` above 1 the loss is that of a relaxation, unrolled: `steps - 1` hard
    reconstructions, whose derivative is that of the soft ones, and then the soft one.

    **Arguments:**

    - `noise`: probability that a unit is flipped, 0 to 1.
    - `steps`: number of reconstructions, at least 1.

    **Raises:** `ValueError` for `noise` outside [0, 1] and `steps` below 1.

    **Reference:** the reconstruction loss of github.com/shuiruge/hopfield, on the soft
    reconstruction. (On a hard one the loss vanishes as soon as all signs are right, and with it
    the margin that repairs noise.)
    """

    noise: float = eqx.field(static=True, default=0.0)
    steps: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        check_noise(self.noise, "ReconstructionLoss: noise")
        checks.integer(self.steps, 1, "ReconstructionLoss: steps")

    def __call__(self, model: AbstractReconstructor, batch: Array, key: Key) -> Scalar:
        """The mean error over a batch.

        **Arguments:**

        - `model`: a reconstructor.
        - `batch`: binary states, one per row.
        - `key`: for the noise.

        **Returns:** a number in [0, 2] for spins.
        """
        if not isinstance(model, AbstractReconstructor):
            raise TypeError(
                f"ReconstructionLoss: the model must be a reconstructor; {type(model).__name__} "
                "came. Of a DiscreteTimeHopfield, train its reconstructor."
            )
        x = batch_of(model, batch, "ReconstructionLoss")
        y = flip(key, x, self.noise, model.states)
        for _ in range(self.steps - 1):
            y = jax.vmap(model)(y)
        return jnp.mean(jnp.abs(x - jax.vmap(model.soft)(y)))

    def check(self, model: Any, data: Any) -> None:
        """Raise where data are known to be bits and the model's states spins, or the reverse."""
        if isinstance(model, AbstractReconstructor):
            check_states(data, model.states, "ReconstructionLoss: data")


def flip(key: Key, x: Array, p: float, states: str) -> Array:
    """The states with each unit flipped with probability `p`."""
    if p == 0:
        return x
    other = -x if states == "spins" else 1 - x
    return jnp.where(jr.uniform(key, x.shape, jnp.float32) < p, other, x)


def batch_of(model: AbstractReconstructor, batch: Any, where: str) -> Array:
    """A batch of states in the dtype of the model; raise unless it has that shape."""
    batch = jnp.asarray(batch)
    if batch.ndim != len(model.shape) + 1 or batch.shape[1:] != model.shape or not batch.size:
        raise ValueError(
            f"{where}: a batch must have shape (B, {', '.join(map(str, model.shape))}); "
            f"{batch.shape} came. A single state is x[None], flat pictures are reshaped."
        )
    return jax.vmap(lambda x: as_state(model, x, where))(batch)


def check_noise(p: Any, where: str) -> None:
    """Raise unless `p` is a probability."""
    checks.at_least(p, 0, where)
    if p > 1:
        raise ValueError(f"{where}: must be at most 1; {p} came. A percentage is divided by 100.")
