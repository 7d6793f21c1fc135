"""Optax transformations: the optimiser of Krotov and Hopfield, and averages over a training."""

from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, PyTree

from amlib import _checks as checks
from amlib._types import Scalar


class KrotovHopfieldState(NamedTuple):
    """What the optimiser carries: the number of steps taken, and the momentum."""

    steps: Int[Array, ""]
    momentum: PyTree[Array]


def krotov_hopfield(
    learning_rate: float | int | optax.Schedule,
    momentum: float | int = 0.6,
    *,
    temperature: optax.Schedule | None = None,
    bound: float | int | None = 1.0,
) -> optax.GradientTransformation:
    r"""Momentum with a step of fixed size for each memory, and weights kept in a box.

    $$V \leftarrow p V - \nabla C, \qquad \xi_{\mu I} \leftarrow \operatorname{clip}\Big(
    \xi_{\mu I} + \varepsilon \frac{V_{\mu I}}{\max_J |V_{\mu J}|}, -1, 1\Big)$$

    The largest weight of every memory moves by $\varepsilon$ in every step, however small its
    gradient is: memories that hardly take part in the answer learn as fast as the others. Adam
    gives that to each weight alone, and so moves the pixels that carry only noise as far as those
    that matter.

    Arrays with two axes or more are memories, one per row (`DenseAMClassifier.Xi`). A scalar is a
    temperature: it is set from the schedule, and not trained; without a schedule it stays.

    ```python
    steps = 60_000 // 1000                                    # in an epoch
    optimizer = am.learning.krotov_hopfield(
        optax.exponential_decay(0.02, steps, 0.998, staircase=True),
        momentum=0.8,
        temperature=optax.linear_schedule(300.0, 60.0, 200 * steps),
    )
    ```

    **Arguments:**

    - `learning_rate`: the step $\varepsilon$, in units of the weights; or an Optax schedule.
      Published: 0.01 to 0.04, times 0.998 each epoch.
    - `momentum`: p, at least 0 and below 1. Published: 0.6 to 0.95.
    - `temperature`: a schedule over steps, for all scalars. Its value at step 0 should be the
      model's initial temperature.
    - `bound`: weights stay in [-bound, bound]; `None` for no bound.

    **Returns:** an Optax transformation; its `update` needs the parameters.

    **Raises:** `ValueError` for a rate, momentum or bound out of range, for parameters that are
    not given, and for vectors among them.

    **Reference:** Krotov and Hopfield 2016, eq. 12 and 13 and appendix A.
    """
    _check(learning_rate, momentum, temperature, bound)

    def init(params: PyTree[Array]) -> KrotovHopfieldState:
        for leaf in jax.tree.leaves(params):
            if np.ndim(leaf) == 1:
                raise ValueError(
                    f"krotov_hopfield: parameters must be matrices, one memory per row, or "
                    f"scalar temperatures; shape {np.shape(leaf)} came. Another optimiser fits "
                    "such a model (optax.adam), or freeze the vector."
                )
        return KrotovHopfieldState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params))

    def update(
        updates: PyTree[Array], state: optax.OptState, params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], KrotovHopfieldState]:
        state = cast(KrotovHopfieldState, state)
        if params is None:
            raise ValueError(
                "krotov_hopfield: update needs the parameters, to keep them in their box; none "
                "came. Call update(gradients, state, params)."
            )
        rate = learning_rate(state.steps) if callable(learning_rate) else learning_rate

        def velocity(grad: Array, old: Array) -> Array:
            return jnp.asarray(float(momentum), old.dtype) * old - grad

        def step(param: Array, V: Array) -> Array:
            if V.ndim:
                return _step(param, V, jnp.asarray(rate, V.dtype), bound)
            if temperature is None:
                return jnp.zeros_like(param)
            return jnp.asarray(temperature(state.steps + 1), param.dtype) - param

        V = jax.tree.map(velocity, updates, state.momentum)
        return jax.tree.map(step, params, V), KrotovHopfieldState(state.steps + 1, V)

    return optax.GradientTransformation(init, update)


class MovingAverageState(NamedTuple):
    """What `moving_average` carries: the parameters, averaged."""

    average: PyTree[Array]


def moving_average(decay: float) -> optax.GradientTransformation:
    r"""Keep an exponential moving average of the parameters, and change nothing.

    $$\bar\theta \leftarrow d\, \bar\theta + (1 - d)\, \theta$$

    The last one of a chain: it averages what the others lead to. Noisy losses, such as those of
    diffusions, end in a jitter that the average is free of.

    ```python
    optimizer = optax.chain(optax.adam(1e-4), am.learning.moving_average(0.9999))
    result = am.fit(network, Xi, loss, optimizer, epochs, batch_size, key)
    network = am.learning.averaged(result)
    ```

    **Arguments:**

    - `decay`: d, in [0, 1). The average is over the last $1 / (1 - d)$ steps or so; it begins at
      the initial parameters, of which a share $d^n$ is left after n steps.

    **Returns:** an Optax transformation; its `update` needs the parameters.

    **Raises:** `ValueError` for a decay out of range, or parameters that are not given.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"moving_average: decay must lie in [0, 1); {decay} came.")

    def init(params: PyTree[Array]) -> MovingAverageState:
        return MovingAverageState(params)

    def update(
        updates: PyTree[Array], state: optax.OptState, params: PyTree[Array] | None = None
    ) -> tuple[PyTree[Array], MovingAverageState]:
        if params is None:
            raise ValueError(
                "moving_average: update needs the parameters, which it averages; none came. Call "
                "update(gradients, state, params)."
            )

        def move(old: Array, param: Array, step: Array) -> Array:
            return old + jnp.asarray(1 - decay, old.dtype) * (param + step - old)

        average = jax.tree.map(move, cast(MovingAverageState, state).average, params, updates)
        return updates, MovingAverageState(average)

    return optax.GradientTransformation(init, update)


def _step(param: Array, V: Array, rate: Scalar, bound: float | int | None) -> Array:
    """How far memories move: the largest weight of each by the rate, but for the bound."""
    largest = jnp.max(jnp.abs(V), axis=tuple(range(1, V.ndim)), keepdims=True)
    # A memory without any gradient rests.
    unit = V / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    new = param + rate * unit
    if bound is not None:
        edge = jnp.asarray(bound, V.dtype)
        new = jnp.clip(new, -edge, edge)
    return new - param


def _check(
    learning_rate: float | int | optax.Schedule,
    momentum: float | int,
    temperature: optax.Schedule | None,
    bound: float | int | None,
) -> None:
    """Raise unless the arguments are what `krotov_hopfield` says."""
    if not callable(learning_rate):
        _not_negative(learning_rate, "learning_rate")
    _not_negative(momentum, "momentum")
    if not momentum < 1:
        raise ValueError(f"krotov_hopfield: momentum: must be below 1; {momentum} came.")
    if bound is not None:
        _not_negative(bound, "bound")
        if bound == 0:
            raise ValueError("krotov_hopfield: bound: must be above 0; 0 came. None is none.")
    if temperature is not None and not callable(temperature):
        raise TypeError(
            "krotov_hopfield: temperature: must be a schedule, a function of the step; "
            f"{type(temperature).__name__} came. A constant one is the model's own temperature."
        )


def _not_negative(value: object, name: str) -> None:
    number = isinstance(value, int | float | np.integer | np.floating)
    if not number or isinstance(value, bool):
        raise TypeError(f"krotov_hopfield: {name}: must be a number; {value!r} came.")
    checks.at_least(value, 0, f"krotov_hopfield: {name}")
