"""Diffusion models that are trained: a network for the energy at every time, and its loss."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from amlib import _checks as checks
from amlib._types import Key, Scalar, ScalarLike, ShapeLike
from amlib.continuous.diffusion import AbstractDiffusion
from amlib.learning.base import AbstractLoss


class DiffusionNetwork(AbstractDiffusion):
    r"""A trainable diffusion: a network in the place of the sum over stored patterns.

    $$E(x, t) = \frac{\tau}{2 (v + \tau)} \|x - m\|^2 + \sqrt{v \tau}\;
    \psi\Big(\frac{x - m}{\sqrt{v + \tau}}, \log \tau\Big), \qquad \tau = \sigma^2 t$$

    Without $\psi$ it is the energy of a Gaussian of mean $m$ and variance $v$; the factors let
    $\psi$ and its gradient be of order one at every noise. $\psi$ is a perceptron that sees the
    noise through Fourier features, and the state by weights of its own: as two more inputs beside
    128 features, a point of the plane is hardly heard, and a training waits at the Gaussian for
    tens of thousands of steps. It generates as a `DiffusionMemory` does, and `at(t)` is a
    memory to recall from. Train it with `DenoisingScoreMatching`.

    ```python
    network = am.learning.DiffusionNetwork(key, Xi.shape[1:], mean=Xi.mean(0), spread=Xi.std())
    loss = am.learning.DenoisingScoreMatching()
    trained = am.fit(network, Xi, loss, optax.adam(1e-4), 100, 64, key).model
    ```

    **Arguments:**

    - `key`: for the weights.
    - `shape`: of a state.
    - `sigma`: the diffusion $\sigma$, > 0, see `DiffusionMemory`. Not trained.
    - `mean`, `spread`: mean and standard deviation of the data, $m$ and $\sqrt v$: what generation
      begins with is a Gaussian of these, and the noise. Not trained.
    - `width`: units of a layer.
    - `depth`: layers, >= 2.
    - `features`: Fourier features of the noise, an even number.

    **Raises:** `ValueError` for sizes below those, and unless `sigma` and `spread` are finite
    positive scalars.

    **Reference:** Pham et al. 2025 (arXiv 2505.21777), whose network for the circle this is (4
    layers of 128, SiLU, a layer norm before the last), but that theirs gives the score itself, a
    vector field that need not be a gradient, sees $t$ and not its logarithm, and has state and
    features side by side; Salimans and Ho 2021, for networks of the energy.
    """

    embed: list[eqx.nn.Linear]
    enter: eqx.nn.Linear
    layers: list[eqx.nn.Linear]
    norm: eqx.nn.LayerNorm
    last: eqx.nn.Linear
    frequencies: Float[Array, " F"] = eqx.field(metadata={"trained": False})
    mean: Float[Array, "*shape"] = eqx.field(metadata={"trained": False})
    spread: Scalar = eqx.field(metadata={"trained": False})
    sigma: Scalar = eqx.field(metadata={"trained": False})

    def __init__(
        self,
        key: Key,
        shape: ShapeLike,
        sigma: ScalarLike = 1.0,
        *,
        mean: Shaped[ArrayLike, "..."] = 0.0,
        spread: ScalarLike = 1.0,
        width: int = 128,
        depth: int = 4,
        features: int = 128,
    ):
        where = "DiffusionNetwork"
        checks.key(key, f"{where}: key")
        shape = checks.shape(shape, f"{where}: shape")
        if not shape:
            raise ValueError(f"{where}: shape must have at least one unit; () came.")
        width = checks.integer(width, 1, f"{where}: width")
        depth = checks.integer(depth, 2, f"{where}: depth")
        features = checks.integer(features, 2, f"{where}: features")
        if features % 2:
            raise ValueError(f"{where}: features must be an even number; {features} came.")
        keys = jr.split(key, depth + 5)
        self.sigma = checks.positive_field(f"{where}: sigma")(sigma)
        self.spread = checks.positive_field(f"{where}: spread")(spread)
        mean = checks.finite(checks.as_float(mean, f"{where}: mean"), f"{where}: mean")
        if mean.shape not in ((), shape):
            raise ValueError(
                f"{where}: mean: must have shape {shape}, or be one number; {mean.shape} came."
            )
        self.mean = jnp.broadcast_to(mean, shape)
        self.frequencies = jr.normal(keys[0], (features // 2,))
        linear = eqx.nn.Linear
        self.embed = [linear(features, features, key=k) for k in keys[1:3]]
        self.enter = linear(math.prod(shape), width, key=keys[3])
        sizes = [features, *[width] * depth]
        pairs = zip(sizes[:-1], sizes[1:], keys[4:-1], strict=True)
        self.layers = [linear(n, m, key=k) for n, m, k in pairs]
        self.norm = eqx.nn.LayerNorm(width)
        self.last = linear(width, "scalar", key=keys[-1])

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a state: those of the mean."""
        return jax.ShapeDtypeStruct(self.mean.shape, self.mean.dtype)

    def energy(self, x: Float[Array, "*shape"], t: ScalarLike) -> Scalar:
        """The energy of `x` at `t`."""
        t = jnp.asarray(t, x.dtype)
        noise, v = self.sigma.astype(x.dtype) ** 2 * t, self.spread.astype(x.dtype) ** 2
        away = x - self.mean.astype(x.dtype)
        inside = (away / jnp.sqrt(v + noise)).reshape(-1)
        gaussian = noise / (v + noise) * (0.5 * jnp.sum(away * away))
        return gaussian + jnp.sqrt(v * noise) * self._psi(inside, jnp.log(noise))

    def _psi(self, x: Array, log_noise: Array) -> Array:
        angles = log_noise * self.frequencies.astype(x.dtype)
        h = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])
        for layer in self.embed:
            h = jax.nn.silu(layer(h))
        h = jax.nn.silu(self.enter(x) + self.layers[0](h))
        for layer in self.layers[1:-1]:
            h = jax.nn.silu(layer(h))
        return self.last(jax.nn.silu(self.norm(self.layers[-1](h))))

    def noise(self, key: Key, t: ScalarLike) -> Float[Array, "*shape"]:
        """Draw from a Gaussian with mean and spread of the data, and the noise of `t`."""
        spread = jnp.sqrt(self._variance(t)).astype(self.mean.dtype)
        return self.mean + spread * jr.normal(key, self.mean.shape, self.mean.dtype)

    def noise_density(self, x: Float[Array, "*shape"], t: ScalarLike) -> Scalar:
        """The logarithm of that density."""
        variance = self._variance(t).astype(x.dtype)
        square = jnp.sum((x - self.mean.astype(x.dtype)) ** 2) / variance
        return -0.5 * (square + x.size * jnp.log(2 * math.pi * variance))

    def _variance(self, t: ScalarLike) -> Array:
        t = jnp.asarray(t, self.spread.dtype)
        return self.spread**2 + self.sigma.astype(t.dtype) ** 2 * t


class DenoisingScoreMatching(AbstractLoss):
    r"""How badly a diffusion tells the noise in a noisy example.

    $$\frac1D\, E_{x,\, t,\, z}\, \big\| \sigma \sqrt t\, \nabla \log p_t(x + \sigma \sqrt t\, z)
    + z \big\|^2, \qquad z \sim \mathcal N(0, 1), \quad t \sim U(t_0, t_1)$$

    It is least for the score of the data's own distribution: `DiffusionMemory(data)` has the least
    loss over `data` that there is, and it is not zero where noise makes patterns overlap. Batches
    are arrays of clean examples; the model is an `AbstractDiffusion`.

    **Arguments:**

    - `earliest`, `latest`: times $t_0$ and $t_1$, `0 < earliest < latest`.
    - `draws`: times and noises drawn for each example in a batch.

    **Raises:** `ValueError` for times or draws out of range; by `check`, `TypeError` for another
    kind of model and `ValueError` for data of another shape.

    **Reference:** Vincent 2011, Neural Comput. 23, 1661; weighed by $\sigma^2 t$ as in Song et al.
    2021 (arXiv 2011.13456), section 3.3, and arXiv 2505.21777.
    """

    earliest: float = eqx.field(static=True, default=1e-5)
    latest: float = eqx.field(static=True, default=1.0)
    draws: int = eqx.field(static=True, default=1)

    def __check_init__(self):
        if not 0 < self.earliest < self.latest < math.inf:
            raise ValueError(
                "DenoisingScoreMatching: times must hold 0 < earliest < latest; "
                f"{self.earliest} and {self.latest} came."
            )
        checks.integer(self.draws, 1, "DenoisingScoreMatching: draws")

    def __call__(
        self, model: AbstractDiffusion, batch: Float[Array, "B *shape"], key: Key
    ) -> Scalar:
        """The mean over the batch, its draws, and units."""
        times, noisy = jr.split(key)
        many = (self.draws, batch.shape[0])
        t = jr.uniform(times, many, batch.dtype, self.earliest, self.latest)
        z = jr.normal(noisy, (*many, *batch.shape[1:]), batch.dtype)

        def wrong(x: Array, t: Array, z: Array) -> Array:
            std = model.sigma.astype(x.dtype) * jnp.sqrt(t)
            return z - jax.grad(model.energy)(x + std * z, t) / std

        several = jax.vmap(jax.vmap(wrong), in_axes=(None, 0, 0))
        return jnp.mean(several(batch, t, z) ** 2)

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise unless the model is a diffusion over such data."""
        if not isinstance(model, AbstractDiffusion):
            raise TypeError(
                "DenoisingScoreMatching: the model must be an AbstractDiffusion, such as a "
                f"DiffusionNetwork; {type(model).__name__} came."
            )
        shape = model.state_struct.shape
        if not eqx.is_array(data) or data.shape[1:] != shape:
            came = f"shape {data.shape}" if eqx.is_array(data) else type(data).__name__
            raise ValueError(
                f"DenoisingScoreMatching: data must be one array of examples of shape {shape}; "
                f"{came} came."
            )
