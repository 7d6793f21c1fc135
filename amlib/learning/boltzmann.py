"""Restricted Boltzmann machines as reconstructors: learned by gradients, or by local rules."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, Int, PyTree

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.learning.base import AbstractGradientLoss
from amlib.learning.maps import cut
from amlib.learning.reconstructors import (
    SPACES,
    AbstractOverlapReconstructor,
    check_states,
    squash,
)
from amlib.learning.relaxation import batch_of, check_noise, flip


def hidden(u: Array, states: str, width: float) -> Array:
    r"""Hard hidden units with the derivative of $w \tanh(u / w)$: wide, so that few are stuck."""
    scale = width if states == "spins" else 0.5 * width
    smooth = scale * jnp.tanh(u / width)
    hard = lax.stop_gradient(cut(u, 1.0, SPACES[states]))
    return hard + (smooth - lax.stop_gradient(smooth))


class AbstractRBM(AbstractOverlapReconstructor):
    """The map and the energy that all restricted Boltzmann machines here share."""

    W: eqx.AbstractVar[Float[Array, "L D"]]
    hidden_bias: eqx.AbstractVar[Float[Array, " L"]]
    bias: eqx.AbstractVar[Float[Array, " D"]]
    width: eqx.AbstractVar[float]

    def field(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        """The field that the hidden units, set by their own fields, send back."""
        z = hidden(self.W @ x + self.hidden_bias, self.states, self.width)
        return z @ self.W + self.bias

    def read(self, overlaps: Float[Array, " L"], i: Int[Array, ""] | int) -> Scalar:
        """The field of one unit."""
        z = hidden(overlaps + self.hidden_bias, self.states, self.width)
        return jnp.dot(z, self.W[:, i]) + self.bias[i]

    def soft(self, x: Float[Array, " D"]) -> Float[Array, " D"]:
        r"""$\tanh h(x)$ for spins, $\frac12(1 + \tanh h(x))$ for bits."""
        return squash(self.field(x), self.states)

    def energy(self, x: Float[Array, " D"]) -> Scalar:
        """The energy of `x` with its best hidden state."""
        u = self.W @ x + self.hidden_bias
        best = jnp.abs(u) if self.states == "spins" else jax.nn.relu(u)
        return -jnp.dot(self.bias, x) - jnp.sum(best)


class RBMReconstructor(AbstractRBM):
    r"""A restricted Boltzmann machine at zero temperature: hard hidden units, tied weights.

    $$z = \mathrm{sgn}(W x + c), \quad h(x) = W^\top z + b$$

    $$E(x) = \min_z (-z^\top W x - c \cdot z - b \cdot x) = -b \cdot x - \sum_j |W_j x + c_j|$$

    for spins; for bits the sign is a step and $|\cdot|$ a rectifier. Given the hidden units the
    energy is linear in each visible unit, so that any set of them may be set by the sign of
    their fields at once without raising it. Only the bottleneck keeps the map from the identity:
    take fewer hidden units than visible ones.

    **Arguments:**

    - `size`, `hidden`: number of visible and of hidden units.
    - `states`: `"spins"` (-1/+1) or `"bits"` (0/1), visible and hidden alike.
    - `width`: > 0, over what range of its field a hidden unit lets a gradient through. It should
      not be far below the typical field: at 1 most units are stuck from the start, and learning
      fails (measured in `benchmarks/bench_reconstructors.py`).
    - `key`: draws the weights.

    **Raises:** `ValueError` for a size below 1, unknown states, and a width not above 0.

    **Reference:** Smolensky 1986; Bengio, Leonard and Courville 2013 (arXiv 1308.3432) for hard
    units with the gradient of soft ones.
    """

    W: Float[Array, "L D"]
    hidden_bias: Float[Array, " L"]
    bias: Float[Array, " D"]
    shape: tuple[int, ...] = eqx.field(static=True)
    states: str = eqx.field(static=True)
    width: float = eqx.field(static=True)

    def __init__(
        self, size: int, hidden: int, *, states: str = "spins", width: float | int = 5.0, key: Key
    ):
        where = "RBMReconstructor"
        self.W, self.hidden_bias, self.bias = _weights(size, hidden, states, width, key, where)
        self.shape, self.states, self.width = self.bias.shape, states, float(width)

    def weights(self) -> Float[Array, "L D"]:
        """What each hidden unit looks for."""
        return self.W


class HebbianRBMReconstructor(AbstractRBM):
    r"""The same machine as `RBMReconstructor`, learned by local rules: see `HebbianLoss`.

    $$\Delta W \propto \langle z\, x^\top \rangle_\text{data} -
    \langle z\, x^\top \rangle_\text{reconstructed}$$

    A weight sees the two units that it joins, once with the pattern and once with what the
    machine made of it; no gradient is computed. The map and its energy are those of
    `RBMReconstructor`, with its arguments.

    **Arguments:**

    - `size`, `hidden`, `states`, `key`: as for `RBMReconstructor`.
    - `width`: > 0, temperature of the hidden units while learning: their means are
      $\tanh(u / w)$.

    **Raises:** `ValueError` as `RBMReconstructor`.

    **Reference:** Hinton 2002, Neural Comput. 14, 1771, with means in place of samples.
    """

    W: Float[Array, "L D"]
    hidden_bias: Float[Array, " L"]
    bias: Float[Array, " D"]
    shape: tuple[int, ...] = eqx.field(static=True)
    states: str = eqx.field(static=True)
    width: float = eqx.field(static=True)

    def __init__(
        self, size: int, hidden: int, *, states: str = "spins", width: float | int = 5.0, key: Key
    ):
        where = "HebbianRBMReconstructor"
        self.W, self.hidden_bias, self.bias = _weights(size, hidden, states, width, key, where)
        self.shape, self.states, self.width = self.bias.shape, states, float(width)

    def weights(self) -> Float[Array, "L D"]:
        """What each hidden unit looks for."""
        return self.W


def _weights(
    size: int, hidden: int, states: str, width: float | int, key: Key, where: str
) -> tuple[Array, Array, Array]:
    """Small random weights, and biases of 0."""
    D, L = checks.integer(size, 1, f"{where}: size"), checks.integer(hidden, 1, f"{where}: hidden")
    checks.choice(states, SPACES, f"{where}: states")
    checks.at_least(width, 0, f"{where}: width")
    if width == 0:
        raise ValueError(f"{where}: width must be greater than 0; {width} came.")
    dtype, scale = jnp.result_type(float), math.sqrt(6 / (D + L))
    W = jr.uniform(key, (L, D), dtype, -scale, scale)
    return W, jnp.zeros((L,), dtype), jnp.zeros((D,), dtype)


class HebbianLoss(AbstractGradientLoss):
    r"""Contrastive Hebbian learning for `am.fit`: an update without gradients.

    With $x$ a pattern, $\tilde x$ the same with noise, and $m(x) = \tanh((W x + c) / w)$ the means
    of the hidden units,

    $$x' = \tanh(W^\top m(\tilde x) + b), \qquad
    \Delta W = \langle m(x) x^\top - m(x') x'^\top \rangle$$

    and likewise for the biases: what the machine makes of a noisy pattern is unlearned, the
    pattern itself is learned, until the two agree. As a loss it is the mean $|x - x'|$;
    `value_and_grad` returns that and minus the update, which an optimiser takes for a gradient.

    **Arguments:**

    - `noise`: probability that a unit is flipped in $\tilde x$, 0 to 1. At 0 it is contrastive
      divergence with means, which rebuilds patterns but repairs less.

    **Raises:** `ValueError` for `noise` outside [0, 1].

    **Reference:** Hinton 2002, Neural Comput. 14, 1771 (contrastive divergence); Movellan 1991
    (contrastive Hebbian learning). Both have the reconstruction begin at the pattern; here it
    begins at the noisy one.
    """

    noise: float = eqx.field(static=True, default=0.3)

    def __check_init__(self):
        check_noise(self.noise, "HebbianLoss: noise")

    def __call__(self, model: HebbianRBMReconstructor, batch: Array, key: Key) -> Scalar:
        """The mean error of a reconstruction from noise.

        **Arguments:**

        - `model`: the machine.
        - `batch`: binary states, one per row.
        - `key`: for the noise.

        **Returns:** a number in [0, 2], or in [0, 1] for bits.
        """
        return self.value_and_grad(model, batch, key)[0]

    def value_and_grad(
        self, model: HebbianRBMReconstructor, batch: Array, key: Key
    ) -> tuple[Scalar, HebbianRBMReconstructor]:
        """The error, and minus the Hebbian update in place of its gradient.

        **Arguments:**

        - `model`, `batch`, `key`: as above.

        **Returns:** the error, and a model that holds the update.
        """
        if not isinstance(model, HebbianRBMReconstructor):
            raise TypeError(
                f"HebbianLoss: the model must be a HebbianRBMReconstructor; "
                f"{type(model).__name__} came. Others learn by ReconstructionLoss."
            )
        x = batch_of(model, batch, "HebbianLoss")

        def means(x: Array) -> Array:
            return squash((x @ model.W.T + model.hidden_bias[None]) / model.width, model.states)

        rebuilt = means(flip(key, x, self.noise, model.states)) @ model.W + model.bias[None]
        rebuilt = squash(rebuilt, model.states)
        z, z_rebuilt = means(x), means(rebuilt)
        grads = eqx.tree_at(
            lambda m: (m.W, m.hidden_bias, m.bias),
            model,
            (
                (z_rebuilt.T @ rebuilt - z.T @ x) / x.shape[0],
                jnp.mean(z_rebuilt - z, axis=0),
                jnp.mean(rebuilt - x, axis=0),
            ),
        )
        return jnp.mean(jnp.abs(x - rebuilt)), grads

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise where data are known to be bits and the model's states spins, or the reverse."""
        if isinstance(model, AbstractRBM):
            check_states(data, model.states, "HebbianLoss: data")
