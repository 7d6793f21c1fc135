r"""Diffusion as memory: a diffusion process run backward recalls the patterns that it began at.

Patterns diffuse by $dx = \sigma\, dW_t$; at time $t$ they are a mixture of Gaussians of variance
$\sigma^2 t$, whose energy is that of a `GaussianMemory` with $\beta = 1 / (\sigma^2 t)$. To run
time backward is to recall while the memory cools.
"""

import abc
import math
from typing import final

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks, _show as show
from amlib._compiled import compiled
from amlib._types import Key, Scalar, ScalarLike, hook
from amlib.continuous.base import AbstractContinuousAM
from amlib.continuous.models import GaussianMemory
from amlib.descent.backward import AbstractBackward, ProbabilityFlow, ReverseSDE, log_density
from amlib.descent.plan import scalar_output
from amlib.descent.trajectory import Recall


class AbstractDiffusion(eqx.Module):
    r"""An energy for every time of a diffusion process $dx = \sigma\, dW_t$, and what follows.

    $$p_t(x) \propto e^{-E(x, t) / (\sigma^2 t)}, \qquad
    \nabla \log p_t(x) = -\frac{\nabla E(x, t)}{\sigma^2 t}$$

    Subclass it and define the energy, and the noise that generation begins with: see
    `DiffusionMemory` for the exact one of stored patterns, and `learning.DiffusionNetwork` for one
    that is trained. `at(t)` is the memory of one time, for all that memories do: recall, sampling,
    analysis, plots.
    """

    sigma: eqx.AbstractVar[Scalar]

    __repr__ = show.text

    @property
    @abc.abstractmethod
    def state_struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a state."""

    @abc.abstractmethod
    def energy(self, x: Float[Array, "*shape"], t: ScalarLike) -> Scalar:
        r"""The energy of a state at a time.

        **Arguments:**

        - `x`: a state.
        - `t`: a time, > 0.

        **Returns:** $-\sigma^2 t \log p_t(x)$, up to a function of time alone.
        """

    @abc.abstractmethod
    def noise(self, key: Key, t: ScalarLike) -> Float[Array, "*shape"]:
        """Draw a state of a late time, at which nothing is known of patterns.

        **Arguments:**

        - `key`: for the draw.
        - `t`: a time, > 0.
        """

    @abc.abstractmethod
    def noise_density(self, x: Float[Array, "*shape"], t: ScalarLike) -> Scalar:
        """The logarithm of the density of `noise`, constants included."""

    @hook
    def at(self, t: ScalarLike) -> AbstractContinuousAM:
        """The memory of one time, which recalls, is sampled and is analysed as all memories.

        **Arguments:**

        - `t`: a time, > 0.

        **Raises:** `ValueError` unless `t` is a finite positive scalar.
        """
        return AtTime(self, _time(t, "at: t"))

    @final
    def score(self, x: Shaped[ArrayLike, "*shape"], t: ScalarLike) -> Float[Array, "*shape"]:
        r"""The gradient of the log density at a time.

        $$\nabla \log p_t(x) = -\frac{\nabla E(x, t)}{\sigma^2 t}$$

        **Arguments:**

        - `x`: a state.
        - `t`: a time, > 0.

        **Returns:** the score, in the shape of `x`.

        **Raises:** `ValueError` for a wrong shape, and unless `t` is a finite positive scalar.
        """
        return _score(self, _state(self, x, "score"), _time(t, "score: t"))

    @final
    def denoise(self, x: Shaped[ArrayLike, "*shape"], t: ScalarLike) -> Float[Array, "*shape"]:
        r"""The mean of the patterns that a state may have come from: the unit step.

        $$E[x_0 \mid x_t = x] = x + \sigma^2 t\, \nabla \log p_t(x) = x - \nabla E(x, t)$$

        **Arguments:**

        - `x`: a state.
        - `t`: a time, > 0.

        **Returns:** the mean, in the shape of `x`.

        **Raises:** `ValueError` for a wrong shape, and unless `t` is a finite positive scalar.

        **Reference:** Robbins 1956 (Tweedie's formula).
        """
        x = _state(self, x, "denoise")
        return x - _gradient(self, x, _time(t, "denoise: t"))

    @final
    def generate(
        self,
        key: Key | None = None,
        *,
        x: Shaped[ArrayLike, "*shape"] | None = None,
        start: ScalarLike = 1.0,
        stop: ScalarLike = 1e-4,
        method: AbstractBackward | None = None,
        save_every: int | None = None,
    ) -> Recall:
        """Run the diffusion backward, from noise or from a state, to an earlier time.

        ```python
        ends = jax.vmap(lambda key: memory.generate(key, start=100.0))(jax.random.split(key, 64))
        more = memory.generate(key, x=end.x, start=end.time, stop=1e-6)  # goes on
        ```

        **Arguments:**

        - `key`: for the noise and for what the method draws; not needed by `ProbabilityFlow` from
          a given state.
        - `x`: the state to begin at, such as a corrupted pattern; `None` draws `noise`.
        - `start`, `stop`: times, `start > stop > 0`. What is left of the noise at the end has a
          standard deviation of `sigma * sqrt(stop)`; `denoise(end.x, stop)` takes it off.
        - `method`: `ReverseSDE()` (by default) or `ProbabilityFlow()`, or one of your own.
        - `save_every`: keep the state and the energy every so many steps, as a `StateTrajectory`
          whose times are those of the diffusion. Room is made as for recalls.

        **Returns:** a `Recall` with `x`, `energy` (that of the last time), `steps`, `result`
        (`RESULTS.sampled`, if nothing went wrong), `trajectory` and `time`. Batches go through
        `jax.vmap`, over keys, states or times.

        **Raises:** `ValueError` for a wrong shape, times that are not positive or do not fall, and
        a missing key; `TypeError` for another kind of method or key.
        """
        method = ReverseSDE() if method is None else method
        if not isinstance(method, AbstractBackward):
            raise TypeError(
                "generate: method must be ReverseSDE(...), ProbabilityFlow(...) or an "
                f"AbstractBackward of your own; {type(method).__name__} came. Methods of recall "
                "are for the memory of one time: memory.at(t).recall(x, method=...)."
            )
        if key is not None:
            checks.key(key, "generate: key")
        elif x is None or method.draws:
            raise ValueError(
                f"generate: needs a key, to draw {'the noise' if x is None else 'at random'}; "
                "none came. Write generate(jax.random.key(0))."
            )
        times = _falling(_time(start, "generate: start"), _time(stop, "generate: stop"))
        if save_every is not None:
            save_every = checks.integer(save_every, 1, "generate: save_every")
        state = None if x is None else _state(self, x, "generate")
        return _generate(self, state, times, method, key, save_every)

    @final
    def log_likelihood(
        self,
        x: Shaped[ArrayLike, "*shape"],
        t: ScalarLike,
        *,
        end: ScalarLike = 1.0,
        method: ProbabilityFlow | None = None,
    ) -> Scalar:
        r"""The logarithm of the density at a time, constants included, by the probability flow.

        It follows the flow from `t` up to `end`, where the density is that of the `noise`, and
        adds up how volumes change. Minus it is an energy, too; of a trained network it is the
        published one.

        **Arguments:**

        - `x`: a state.
        - `t`, `end`: times, `0 < t < end`.
        - `method`: how the flow is solved.

        **Returns:** $\log p_t(x)$, in nats. It takes D derivatives along every step, so this is
        for states of some hundred units at most.

        **Raises:** `ValueError` for a wrong shape, and for times that are not positive or do not
        rise; `TypeError` for another kind of method.

        **Reference:** Song et al. 2021 (arXiv 2011.13456), section 4.3, with an exact Laplacian.
        """
        method = ProbabilityFlow() if method is None else method
        if not isinstance(method, ProbabilityFlow):
            raise TypeError(
                "log_likelihood: method must be a ProbabilityFlow(...); "
                f"{type(method).__name__} came."
            )
        late, early = _falling(_time(end, "log_likelihood: end"), _time(t, "log_likelihood: t"))
        return _log_likelihood(self, _state(self, x, "log_likelihood"), (early, late), method)


class AtTime(AbstractContinuousAM):
    r"""A diffusion at one time, as a memory: what `at(t)` returns.

    $$E(x) = E(x, t)$$

    Its Boltzmann law at $\beta = 1 / (\sigma^2 t)$ is the diffusion's density at `t` > 0.
    """

    diffusion: AbstractDiffusion
    t: Scalar = eqx.field(converter=checks.positive_field("t"))

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: those of the diffusion."""
        return self.diffusion.state_struct

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x` at this time."""
        return self.diffusion.energy(x, self.t)


class DiffusionMemory(AbstractDiffusion):
    r"""Stored patterns, diffusing: the exact energy and score of their distribution at every time.

    $$E(x, t) = -\sigma^2 t \log \sum_\mu e^{-\|x - \xi_\mu\|^2 / (2 \sigma^2 t)}, \qquad
    p_t = \frac1K \sum_\mu \mathcal N(\xi_\mu, \sigma^2 t)$$

    What a diffusion model would learn that fits its training data perfectly: run backward, it
    recalls one of them. `at(t)` is a `GaussianMemory` with $\beta = 1/(\sigma^2 t)$. Late, it has
    one minimum, the mean of all; early, one for each pattern. In between it begins to tell
    classes apart (`theory.speciation_variance`), then patterns (`theory.collapse_variance`).
    Use it to know what a trained network ought to do, and where it does otherwise.

    More than `amlib.descent.streaming.STREAM_ABOVE` patterns are summed in blocks.

    **Arguments:**

    - `Xi`: stored patterns, one per row, see `ContinuousAM`; one is enough.
    - `sigma`: the diffusion $\sigma$, > 0, in units of the state over the root of time.

    **Raises:** `ValueError` if `sigma` is not a finite positive scalar, or `Xi` has no pattern,
    fewer than two axes, or holds NaN or infinity.

    **Reference:** Pham et al. 2025 (arXiv 2505.21777), whose energy is twice this one; Ambrogioni
    2024 (arXiv 2309.17290); Biroli et al. 2024 (arXiv 2402.18491), with a drift in addition.
    """

    Xi: Float[Array, "K *shape"]
    sigma: Scalar = eqx.field(metadata={"trained": False})

    def __init__(self, Xi: Shaped[ArrayLike, "K *shape"], sigma: ScalarLike = 1.0):
        self.Xi = checks.patterns(Xi)
        self.sigma = checks.positive_field("sigma")(sigma)

    def __check_init__(self):
        checks.pattern_matrix(self.Xi)

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a state: those of a pattern."""
        return jax.ShapeDtypeStruct(self.Xi.shape[1:], self.Xi.dtype)

    def variance(self, t: ScalarLike) -> Scalar:
        r"""The variance of the noise at a time, $\sigma^2 t = 1/\beta$."""
        t = _time(t, "variance: t")
        return self.sigma.astype(t.dtype) ** 2 * t

    def at(self, t: ScalarLike) -> GaussianMemory:
        """The memory of one time: a `GaussianMemory`, see `AbstractDiffusion.at`."""
        return GaussianMemory(self.Xi, 1 / self.variance(_time(t, "at: t")))

    def energy(self, x: Float[Array, "*shape"], t: ScalarLike) -> Scalar:
        """The energy of `x` at `t`; at least $-\\sigma^2 t \\log K$."""
        return self.at(t).energy(x)

    def log_density(self, x: Shaped[ArrayLike, "*shape"], t: ScalarLike) -> Scalar:
        r"""The logarithm of the density at a time, constants included.

        $$\log p_t(x) = -\frac{E(x, t)}{\sigma^2 t} - \log K - \frac{D}{2} \log(2 \pi \sigma^2 t)$$

        **Arguments:**

        - `x`: a state.
        - `t`: a time, > 0.

        **Returns:** $\log p_t(x)$, in nats.

        **Raises:** `ValueError` for a wrong shape, and unless `t` is a finite positive scalar.
        """
        x, t = _state(self, x, "log_density"), _time(t, "log_density: t")
        return self.noise_density(x, t)

    def noise(self, key: Key, t: ScalarLike) -> Float[Array, "*shape"]:
        """Draw from the density at `t`, exactly: a pattern and noise."""
        which, noisy = jr.split(key)
        pattern = self.Xi[jr.randint(which, (), 0, self.Xi.shape[0])]
        spread = jnp.sqrt(self.variance(t)).astype(pattern.dtype)
        return pattern + spread * jr.normal(noisy, pattern.shape, pattern.dtype)

    def noise_density(self, x: Float[Array, "*shape"], t: ScalarLike) -> Scalar:
        """See `log_density`."""
        variance = self.variance(t).astype(x.dtype)
        constant = math.log(self.Xi.shape[0]) + x.size / 2 * jnp.log(2 * math.pi * variance)
        return -self.energy(x, t) / variance - constant


# -- checks at the boundary, and compiled entry points ---------------------------------------------


def _time(t: ScalarLike, where: str) -> Scalar:
    return checks.positive_field(where)(t)


def _falling(start: Scalar, stop: Scalar) -> tuple[Scalar, Scalar]:
    """Both times; raise where they are known not to fall."""
    message = f"the start must be later than the stop; {start} and {stop} came. Swap the two."
    if checks.is_concrete(start) and checks.is_concrete(stop) and not start > stop:
        raise ValueError(f"times: {message}")
    return start, stop


def _state(diffusion: AbstractDiffusion, x: ArrayLike, where: str) -> Array:
    """A state as the model's floats; raise for another shape, NaN and infinity."""
    struct = diffusion.state_struct
    x = checks.as_float(x, f"{where}: x")
    checks.state_shape(x, struct.shape, where)
    return checks.finite(x.astype(struct.dtype), f"{where}: x")


def _widened(
    diffusion: AbstractDiffusion, x: Array, *times: Scalar
) -> tuple[AbstractDiffusion, Array, tuple[Array, ...]]:
    """All in the precision that is computed with."""
    wide, x = checks.widen((diffusion, x))
    return wide, x, tuple(t.astype(x.dtype) for t in times)


@compiled
def _gradient(diffusion: AbstractDiffusion, x: Array, t: Array) -> Array:
    wide, y, (t,) = _widened(diffusion, x, t)
    scalar_output(lambda y: wide.energy(y, t), y)
    return jax.grad(wide.energy)(y, t).astype(x.dtype)


@compiled
def _score(diffusion: AbstractDiffusion, x: Array, t: Array) -> Array:
    wide, y, (t,) = _widened(diffusion, x, t)
    variance = wide.sigma.astype(y.dtype) ** 2 * t
    return (-jax.grad(wide.energy)(y, t) / variance).astype(x.dtype)


@compiled
def _generate(
    diffusion: AbstractDiffusion,
    x: Array | None,
    times: tuple[Array, Array],
    method: AbstractBackward,
    key: Key | None,
    save_every: int | None,
) -> Recall:
    dtype, moving = diffusion.state_struct.dtype, key
    if x is None:
        assert key is not None
        first, moving = jr.split(key)
        wide: AbstractDiffusion = checks.widen(diffusion)
        x = wide.noise(first, times[0])
    wide, y, (start, stop) = _widened(diffusion, x, *times)
    sigma = wide.sigma.astype(y.dtype)
    end = method.run(wide.energy, sigma, y, (start, stop), moving, save_every)
    return eqx.tree_at(lambda r: r.x, end, end.x.astype(dtype))


@compiled
def _log_likelihood(
    diffusion: AbstractDiffusion,
    x: Array,
    times: tuple[Array, Array],
    method: ProbabilityFlow,
) -> Array:
    wide, y, (early, late) = _widened(diffusion, x, *times)
    prior = lambda y: wide.noise_density(y, late)
    return log_density(wide.energy, y, (early, late), prior, method)
