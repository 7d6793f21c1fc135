"""Losses that compare two states of an energy: contrastive divergence, equilibrium propagation.

Their gradients are not derivatives of their values; `fit` takes them from `value_and_grad`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, PyTree

from amlib import _checks as checks
from amlib._types import Key, Scalar
from amlib.binary import AbstractBinaryAM
from amlib.descent import AbstractMethod, Glauber, descend
from amlib.descent.orders import ORDERS
from amlib.hierarchical import HAM
from amlib.learning._examples import length
from amlib.learning.base import AbstractGradientLoss, AbstractLoss, AbstractStatefulLoss

Spins = Float[Array, "B *shape"]
Chains = Float[Array, "chains *shape"]
Layer = str | int


def _beta(value: ArrayLike) -> Array:
    return checks.as_float(value, "ContrastiveDivergence: beta")


class ContrastiveDivergence(AbstractLoss):
    r"""Contrastive divergence: data against what a few Glauber sweeps make of them.

    $$\beta \left( \langle E(x) \rangle_\text{data} - \langle E(x) \rangle_{k} \right)$$

    Its gradient with the samples held fixed is that of the negative log-likelihood under
    $p(x) \propto \exp(-\beta E(x))$ where the chains have reached that law, and biased towards the
    data where they have not. Batches are arrays of spins; the energy may be any binary memory's,
    of visible units only (a machine with hidden units has a free energy).

    The value is no likelihood: it is 0 where the chains do not move the mean energy.

    **Arguments:**

    - `sweeps`: Glauber sweeps per step, at least 1.
    - `beta`: inverse temperature > 0, in units of 1/energy.
    - `order`: in which order bits are visited, see `BinaryAM.recall`.

    **Reference:** Hinton 2002, Neural Computation 14, 1771, eq. 5; with Glauber dynamics in place
    of block Gibbs sampling (for spins, visiting one bit is Gibbs sampling it).
    """

    sweeps: int = eqx.field(static=True, default=1)
    beta: Scalar = eqx.field(converter=_beta, default=1.0)
    order: str = eqx.field(static=True, default="permutation")

    def __check_init__(self):
        _check_chain(self.sweeps, self.beta, self.order, "ContrastiveDivergence")

    def __call__(self, model: AbstractBinaryAM, batch: Spins, key: Key) -> Scalar:
        """The value above for one batch, its samples drawn with `key`."""
        samples = _chains(model, batch, key, self.beta, self.sweeps, self.order)
        return _contrast(model, batch, samples, self.beta)

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise unless the model is a binary memory and the data are spins."""
        _check_spins(model, data, "ContrastiveDivergence")


class PersistentContrastiveDivergence(AbstractStatefulLoss):
    r"""Contrastive divergence with chains that go on from batch to batch.

    The chains are not started at the data, so their law follows the model's while it learns, and
    the gradient comes near that of the likelihood for small learning rates.

    **Arguments:**

    - `chains`: how many, at least 1; they start at random spins.
    - `sweeps`, `beta`, `order`: see `ContrastiveDivergence`.

    **Reference:** Tieleman 2008, ICML, 1064.
    """

    chains: int = eqx.field(static=True, default=100)
    sweeps: int = eqx.field(static=True, default=1)
    beta: Scalar = eqx.field(converter=_beta, default=1.0)
    order: str = eqx.field(static=True, default="permutation")

    def __check_init__(self):
        checks.integer(self.chains, 1, "PersistentContrastiveDivergence: chains")
        _check_chain(self.sweeps, self.beta, self.order, "PersistentContrastiveDivergence")

    def initial_state(self, model: AbstractBinaryAM, data: Spins, key: Key) -> Chains:
        """Random spins, one state per chain, in the shape of an example."""
        shape = (self.chains, *data.shape[1:])
        return jr.rademacher(key, shape, jnp.result_type(float)).astype(data.dtype)

    def value_and_grad(
        self, model: AbstractBinaryAM, batch: Spins, key: Key, state: Chains
    ) -> tuple[tuple[Scalar, AbstractBinaryAM], Chains]:
        """The contrast and its gradient, the chains having gone on; and the chains."""
        samples = _chains(model, state, key, self.beta, self.sweeps, self.order)
        contrast = eqx.filter_value_and_grad(
            lambda model: _contrast(model, batch, samples, self.beta)
        )
        return contrast(model), samples

    def __call__(self, model: AbstractBinaryAM, batch: Spins, key: Key) -> Scalar:
        """For validation: the contrast with chains that start at the data."""
        samples = _chains(model, batch, key, self.beta, self.sweeps, self.order)
        return _contrast(model, batch, samples, self.beta)

    def check(self, model: PyTree, data: PyTree[Array]) -> None:
        """Raise unless the model is a binary memory and the data are spins."""
        _check_spins(model, data, "PersistentContrastiveDivergence")


def _chains(
    model: AbstractBinaryAM, x: Chains, key: Key, beta: Scalar, sweeps: int, order: str
) -> Chains:
    """Each state after some Glauber sweeps; nothing is differentiated."""
    model = jax.tree.map(lambda a: jax.lax.stop_gradient(a) if eqx.is_array(a) else a, model)

    # Checked already, where it was known: no check of it in every step of the training.
    method = eqx.tree_at(lambda g: g.beta, Glauber(1.0, order, record=0), beta)

    def chain(key: Key, x: Array) -> Array:
        return descend(model.energy, x, method, space=model.space, key=key, max_steps=sweeps).x

    return jax.vmap(chain)(jr.split(key, length(x)), x)


def _contrast(model: AbstractBinaryAM, data: Spins, samples: Chains, beta: Scalar) -> Scalar:
    means = [jax.vmap(model.energy)(x).mean() for x in (data, samples)]
    return beta.astype(means[0].dtype) * (means[0] - means[1])


def _check_chain(sweeps: int, beta: Array, order: str, where: str) -> None:
    checks.integer(sweeps, 1, f"{where}: sweeps")
    checks.choice(order, ORDERS, f"{where}: order")
    if beta.shape != ():
        raise ValueError(f"{where}: beta must be a scalar; shape {beta.shape} came.")
    if checks.is_concrete(beta):
        checks.positive(beta, f"{where}: beta")


def _check_spins(model: PyTree, data: PyTree[Array], where: str) -> None:
    if not isinstance(model, AbstractBinaryAM):
        raise TypeError(
            f"{where}: the model must be a binary memory; {type(model).__name__} came. "
            "Subclass am.AbstractBinaryAM and define energy."
        )
    if not eqx.is_inexact_array(data):
        raise TypeError(f"{where}: data must be one array of -1/+1 floats; another kind came.")
    checks.spins(data, f"{where}: data")


def half_squared(output: Array, target: Array) -> Array:
    r"""Half the squared distance, $\frac12 \|y - t\|^2$."""
    return 0.5 * jnp.sum((output - target) ** 2)


class _Nudge(eqx.Module):
    """A synapse whose force drives an output towards a target."""

    cost: Callable[[Array, Array], Array] = eqx.field(static=True)
    strength: Array
    target: Array

    def __call__(self, output: Float[Array, "..."]) -> Array:
        return self.strength.astype(output.dtype) * self.cost(output, self.target)


class EquilibriumPropagation(AbstractGradientLoss):
    r"""Equilibrium propagation for hierarchical memories: the gradient from two states at rest.

    With the inputs clamped, the memory comes to rest at $s^0$, where the cost is taken. Then the
    output is nudged towards its target: to the energy is added $\epsilon\, C$, and the memory
    comes to rest again at $s^{\epsilon}$. As $\epsilon \to 0$,

    $$\frac{1}{2 \epsilon} \left( \frac{\partial E}{\partial \theta}(s^{\epsilon})
    - \frac{\partial E}{\partial \theta}(s^{-\epsilon}) \right) \to \frac{d C(s^0)}{d \theta}$$

    without a derivative through the dynamics. Batches are pairs `(x, target)`; x is an array for
    the one clamped layer, or a dict of arrays by layer.

    **Arguments:**

    - `inputs`: the clamped layer, or several: names, or places in a list of layers.
    - `output`: the layer whose activation the cost sees.
    - `cost`: from an activation and a target to a scalar; `None` is half the squared distance.
    - `nudge`: $\epsilon$, not 0. The error of the gradient falls as $\epsilon^2$ if symmetric, as
      $\epsilon$ if not; float32 makes values below about 0.01 noisy.
    - `symmetric`: nudge to both sides, as above; otherwise compare with $s^0$, over $\epsilon$.
    - `steps`, `dt`, `method`, `tol`: how a phase comes to rest, see `HAM.recall`. The nudged ones
      start from $s^0$. The gradient is only as good as the rest.

    **Reference:** Scellier and Bengio 2017, Front. Comput. Neurosci. 11, 24, eq. 9 (their $\beta$
    is $\epsilon$ here); symmetric nudging: Laborieux et al. 2021, Front. Neurosci. 15, 633674.
    """

    inputs: Layer | Sequence[Layer] = eqx.field(static=True)
    output: Layer = eqx.field(static=True)
    cost: Callable[[Array, Array], Array] | None = eqx.field(static=True, default=None)
    nudge: float | int = eqx.field(static=True, default=0.1)
    symmetric: bool = eqx.field(static=True, default=True)
    steps: int = eqx.field(static=True, default=100)
    dt: float | int = eqx.field(static=True, default=0.1)
    method: AbstractMethod | None = None
    tol: float | Scalar | None = None

    def __check_init__(self):
        checks.integer(self.steps, 1, "EquilibriumPropagation: steps")
        if isinstance(self.nudge, bool) or not abs(self.nudge) > 0:
            raise ValueError(f"EquilibriumPropagation: nudge must not be 0; {self.nudge} came.")

    def __call__(self, model: HAM, batch: tuple[PyTree[Array], Array], key: Key) -> Scalar:
        """The mean cost at rest."""
        x, target = batch
        return jax.vmap(lambda x, t: self._free(model, x, t)[1])(x, target).mean()

    def value_and_grad(
        self, model: HAM, batch: tuple[PyTree[Array], Array], key: Key
    ) -> tuple[Scalar, HAM]:
        """The mean cost at rest, and the gradient that two nudged states give."""
        x, target = batch

        def phases(x: PyTree[Array], target: Array) -> PyTree[Array]:
            xs, cost = self._free(model, x, target)
            up = self._rest(self._nudged(model, self.nudge, target), xs)
            down = xs
            if self.symmetric:
                down = self._rest(self._nudged(model, -self.nudge, target), xs)
            return cost, [(model.activations(s), s) for s in (up, down)]

        def energy(model: HAM, xhats: PyTree[Array], xs: PyTree[Array]) -> Scalar:
            # What a clamped state activates hangs on the parameters; at rest nothing else does.
            for name in self._clamped():
                xhats[name] = model.activations(xs)[name]
            return model.energy(xhats, xs)

        costs, (up, down) = jax.lax.stop_gradient(jax.vmap(phases)(x, target))
        span = 2 * self.nudge if self.symmetric else self.nudge

        @eqx.filter_grad
        def contrast(model: HAM) -> Scalar:
            means = [jax.vmap(lambda *s: energy(model, *s))(*s).mean() for s in (up, down)]
            return (means[0] - means[1]) / span

        return costs.mean(), contrast(model)

    def _free(self, model: HAM, x: PyTree[Array], target: Array) -> tuple[PyTree[Array], Scalar]:
        """The state at rest with clamped inputs, and its cost."""
        given = x if isinstance(x, dict) else {self._clamped()[0]: x}
        xs = model.init_states()
        for name in self._clamped():
            if name not in given:
                raise ValueError(f"EquilibriumPropagation: x must hold the clamped layer {name!r}.")
            xs[name] = given[name]
        xs = self._rest(model, xs)
        cost = half_squared if self.cost is None else self.cost
        return xs, cost(model.activations(xs)[self.output], target)

    def _rest(self, model: HAM, xs: PyTree[Array]) -> PyTree[Array]:
        return model.recall(
            xs, self.steps, self.dt, clamp=self._clamped(), method=self.method, tol=self.tol
        ).x

    def _nudged(self, model: HAM, strength: float | int, target: Array) -> HAM:
        """The same memory with a synapse more: its energy is E + strength * C."""
        cost = half_squared if self.cost is None else self.cost
        synapse = _Nudge(cost, jnp.asarray(float(strength)), target)
        synapses = model.hypersynapses
        if isinstance(synapses, dict):
            name, synapses = "(nudge)", {**synapses, "(nudge)": synapse}
        else:
            name, synapses = len(synapses), [*synapses, synapse]
        connections = (*model.connections, ((self.output,), name))
        return dataclasses.replace(model, hypersynapses=synapses, connections=connections)

    def _clamped(self) -> tuple[Layer, ...]:
        return (self.inputs,) if isinstance(self.inputs, str | int) else tuple(self.inputs)
