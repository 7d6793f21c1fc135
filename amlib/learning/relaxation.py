"""Relaxation to a fixed point of a learned map, in discrete and in continuous time; its training.

```python
model = am.DenseReconstructor(784)
model = am.fit(model, patterns, ReconstructionLoss(), optax.adam(1e-3), 100, 100, key).model
end = jax.vmap(lambda x: model.recall(x, max_steps=100))(noisy)
end.x, end.steps, end.converged
```

`DiscreteTimeHopfield` and `ContinuousTimeHopfield` are the same as objects: a reconstructor
together with a method and its limits.
"""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, PyTree, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import Key, Scalar
from amlib.descent.gradients import GradientDescent
from amlib.descent.steady import Flow
from amlib.descent.trajectory import Recall
from amlib.learning.base import AbstractLoss
from amlib.learning.maps import UPDATES, Relax
from amlib.learning.reconstructors import SPACES, AbstractReconstructor, as_state, check_states


class DiscreteTimeHopfield(eqx.Module):
    r"""Repeat a learned map until the state rests: a reconstructor with its method.

    $$x \leftarrow \operatorname{sgn} h(x)$$

    See `Relax` for the two ways to update; with `hard=False` the soft map is repeated on real
    states, by `GradientDescent(1.0)` along $x - f(x)$.

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

    __repr__ = show.text

    def __check_init__(self):
        _check(self, "DiscreteTimeHopfield")
        checks.choice(self.update, UPDATES, "DiscreteTimeHopfield: update")
        if not self.hard and self.update == "asynchronous":
            raise ValueError(
                "DiscreteTimeHopfield: soft states step at once; update='asynchronous' came with "
                "hard=False. Drop one of the two."
            )

    def __call__(self, x: Shaped[ArrayLike, "*shape"], key: Key | None = None) -> Recall:
        """Relax one state.

        **Arguments:**

        - `x`: a binary state, or any finite one with `hard=False`.
        - `key`: orders the asynchronous visits; `jax.random.PRNGKey(0)` if not given.

        **Returns:** a `Recall`.

        **Raises:** `ValueError` for a wrong shape or other values than the states of the model.
        """
        if self.hard:
            method, tol = Relax(self.update), None
        else:
            method, tol = GradientDescent(1.0), self.tol
        return self.reconstructor.recall(
            x, method=method, key=key, max_steps=self.max_steps, tol=tol
        )


class ContinuousTimeHopfield(eqx.Module):
    r"""Follow the flow of a learned map to its steady state: a reconstructor with `Flow`.

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
    solver: diffrax.AbstractSolver | None = eqx.field(metadata={"trained": False}, default=None)

    __repr__ = show.text

    def __check_init__(self):
        _check(self, "ContinuousTimeHopfield")
        if self.tol == 0:
            raise ValueError("ContinuousTimeHopfield: tol must be greater than 0; 0 came.")
        if self.solver is not None and not isinstance(self.solver, diffrax.AbstractSolver):
            raise TypeError(
                f"ContinuousTimeHopfield: solver must be such as diffrax.Tsit5(); "
                f"{self.solver!r} came."
            )

    def __call__(self, x: Shaped[ArrayLike, "*shape"]) -> Recall:
        """Relax one state.

        **Arguments:**

        - `x`: any finite state.

        **Returns:** a `Recall`, with its time. `reconstructor(result.x)` is the binary state
        next to it.

        **Raises:** `ValueError` for a wrong shape, NaN and infinity.
        """
        method = Flow(solver=self.solver)
        return self.reconstructor.recall(x, method=method, max_steps=self.max_steps, tol=self.tol)


def _check(model: DiscreteTimeHopfield | ContinuousTimeHopfield, where: str) -> None:
    """Raise unless the parts that both relaxations share are what they must be."""
    if not isinstance(model.reconstructor, AbstractReconstructor):
        raise TypeError(
            f"{where}: reconstructor must be such as DenseReconstructor(784); "
            f"{type(model.reconstructor).__name__} came."
        )
    checks.integer(model.max_steps, 1, f"{where}: max_steps")
    checks.at_least(model.tol, 0, f"{where}: tol")


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

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise where data are known to be bits and the model's states spins, or the reverse."""
        if isinstance(model, AbstractReconstructor):
            check_states(data, model.states, "ReconstructionLoss: data")


def flip(key: Key, x: Array, p: float, states: str) -> Array:
    """The states with each unit flipped with probability `p`."""
    if p == 0:
        return x
    return jnp.where(jr.uniform(key, x.shape, jnp.float32) < p, SPACES[states].other(x), x)


def batch_of(model: AbstractReconstructor, batch: ArrayLike, where: str) -> Array:
    """A batch of states in the dtype of the model; raise unless it has that shape."""
    batch = jnp.asarray(batch)
    if batch.ndim != len(model.shape) + 1 or batch.shape[1:] != model.shape or not batch.size:
        raise ValueError(
            f"{where}: a batch must have shape (B, {', '.join(map(str, model.shape))}); "
            f"{batch.shape} came. A single state is x[None], flat pictures are reshaped."
        )
    return jax.vmap(lambda x: as_state(model, x, where))(batch)


def check_noise(p: float, where: str) -> None:
    """Raise unless `p` is a probability."""
    checks.at_least(p, 0, where)
    if p > 1:
        raise ValueError(f"{where}: must be at most 1; {p} came. A percentage is divided by 100.")
