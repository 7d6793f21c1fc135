"""Hamiltonian Monte Carlo of real memories, by BlackJAX."""

import abc
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jax import lax
from jaxtyping import Array, Float, PyTree

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._types import Key
from amlib.sampling.samplers import AbstractChainSampler, Chains, Draws, Target
from amlib.spaces import Reals


def _step_size(value: Any) -> Array | None:
    return None if value is None else checks.positive_field("step_size")(value)


class AbstractHamiltonian(AbstractChainSampler):
    """Proposals by the dynamics of a ball with the memory's energy. Subclass it and say which."""

    beta: eqx.AbstractVar[Float[Array, ""]]
    step_size: eqx.AbstractVar[Float[Array, ""] | None]

    at_once: ClassVar[bool] = True  # the warm-up finds step sizes

    @property
    @abc.abstractmethod
    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        """BlackJAX's algorithm, and its parameters beside the step size and the masses."""

    @property
    def temperatures(self) -> None:
        """One."""
        return None

    def check(self, target: Target, warmup: int, thin: int) -> None:
        """See `AbstractChainSampler`."""
        del thin
        name = type(self).__name__
        if not isinstance(target.space, Reals):
            raise TypeError(
                f"sample: method {name} moves real units without bounds; units of "
                f"{type(target.space).__name__}() came. Use Glauber(beta) for bits, MALA(beta, dt) "
                "or Langevin(beta, dt) for reals within bounds."
            )
        if target.clamp.tree is not None:
            raise ValueError(f"sample: clamp is not for {name}. Use MALA(beta, dt).")
        if self.step_size is None and warmup < 1:
            raise ValueError(
                f"sample: {name} finds its step size in the warm-up; warmup=0 came. Give warmup, "
                "at least some hundred steps, or step_size."
            )
        _blackjax()

    def start(self, target: Target, x0: PyTree[Array], keys: Array) -> PyTree[Array]:
        """The states, a step size for each chain, and a mass for each of its units."""
        del target
        chains, size = keys.shape[0], jax.tree.leaves(x0)[0][0].size
        dtype = jnp.promote_types(jax.tree.leaves(x0)[0].dtype, jnp.float32)
        given = jnp.asarray(1.0) if self.step_size is None else self.step_size
        return x0, jnp.full(chains, given.astype(dtype)), jnp.ones((chains, size), dtype)

    def warm(self, target: Target, chains: Chains, steps: int) -> PyTree[Array]:
        """Find step sizes and masses by BlackJAX's `window_adaptation`, unless given."""
        return _warmed(target, self, chains, steps)

    def draw(self, target: Target, chains: Chains, draws: int, thin: int) -> Draws:
        """See `AbstractChainSampler`."""
        return _drawn(target, self, chains, (draws, thin))


class HMC(AbstractHamiltonian):
    r"""Hamiltonian Monte Carlo: `leapfrogs` steps of the dynamics, then accept or stay.

    It draws from $p(x) \propto \exp(-\beta E(x))$ exactly. A step of `sample` is one proposal.
    Needs BlackJAX: `pip install 'amlib[sampling]'`.

    **Arguments:**

    - `beta`: inverse temperature, > 0, in units of 1/energy.
    - `step_size`: of the leapfrog, > 0; `None` finds one in the warm-up, and a mass for each unit.
    - `leapfrogs`: how many of them make a proposal, >= 1.

    **Reference:** Duane et al. 1987, Phys. Lett. B 195, 216; Neal 2011 (arXiv 1206.1901).
    """

    beta: Float[Array, ""] = eqx.field(converter=checks.positive_field("beta"))
    step_size: Float[Array, ""] | None = eqx.field(converter=_step_size, default=None)
    leapfrogs: int = eqx.field(
        converter=lambda n: checks.integer(n, 1, "HMC: leapfrogs"), static=True, default=10
    )

    @property
    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        """BlackJAX's `hmc`."""
        return _blackjax().hmc, {"num_integration_steps": self.leapfrogs}


class NUTS(AbstractHamiltonian):
    r"""The no-U-turn sampler: Hamiltonian Monte Carlo that chooses the length of its paths.

    It draws from $p(x) \propto \exp(-\beta E(x))$ exactly. A step of `sample` is one proposal.
    Needs BlackJAX: `pip install 'amlib[sampling]'`.

    **Arguments:**

    - `beta`, `step_size`: see `HMC`.

    **Reference:** Hoffman and Gelman 2014, J. Mach. Learn. Res. 15, 1593.
    """

    beta: Float[Array, ""] = eqx.field(converter=checks.positive_field("beta"))
    step_size: Float[Array, ""] | None = eqx.field(converter=_step_size, default=None)

    @property
    def algorithm(self) -> tuple[Any, dict[str, Any]]:
        """BlackJAX's `nuts`."""
        return _blackjax().nuts, {}


def _blackjax() -> Any:
    try:
        import blackjax
    except ImportError as err:
        raise ImportError(
            "sample: HMC and NUTS are BlackJAX's, which is not installed. "
            "pip install 'amlib[sampling]'"
        ) from err
    return blackjax


def _theirs() -> AbstractContextManager[None]:
    """BlackJAX adds bools to integers, which strict users of JAX are told of."""
    return jax.numpy_dtype_promotion("standard")


@compiled
def _warmed(
    target: Target,
    method: AbstractHamiltonian,
    chains: Chains,
    steps: int,
) -> PyTree[Array]:
    algorithm, more = method.algorithm
    density = checks.widen(target.memory).logdensity(method.beta)

    def chain(carry: PyTree[Array], key: Key) -> PyTree[Array]:
        x, size, mass = carry
        key = jr.fold_in(key, chains.taken)
        if method.step_size is None:
            adapt = _blackjax().window_adaptation(algorithm, density, **more)
            with _theirs():
                (state, found), _ = adapt.run(key, checks.widen(x), num_steps=steps)
            size = found["step_size"].astype(size.dtype)
            return state.position.astype(x.dtype), size, found["inverse_mass_matrix"]
        kernel = algorithm(density, step_size=size, inverse_mass_matrix=mass, **more)
        state = _proposed(
            kernel, kernel.init(checks.widen(x)), key, jnp.zeros((), jnp.int32), steps
        )
        return state.position.astype(x.dtype), size, mass

    return jax.vmap(chain)(chains.carry, chains.keys)


@compiled
def _drawn(
    target: Target,
    method: AbstractHamiltonian,
    chains: Chains,
    sizes: tuple[int, int],
) -> Draws:
    draws, thin = sizes
    algorithm, more = method.algorithm
    density = checks.widen(target.memory).logdensity(method.beta)

    def chain(carry: PyTree[Array], key: Key) -> Draws:
        x, size, mass = carry
        kernel = algorithm(density, step_size=size, inverse_mass_matrix=mass, **more)

        def draw(state: Any, n: Array) -> tuple[Any, tuple[Array, Array]]:
            state = _proposed(kernel, state, key, chains.taken + n * thin, thin)
            return state, (state.position, -state.logdensity / method.beta)

        start = kernel.init(checks.widen(x))
        _, (states, energy) = lax.scan(draw, start, jnp.arange(draws, dtype=jnp.int32))
        states = states.astype(x.dtype)
        several = lambda a: jnp.broadcast_to(a, (draws, *a.shape))
        lost = ~jnp.isfinite(start.logdensity)
        return Draws(states, energy, lost, (states, several(size), several(mass)))

    return jax.vmap(chain)(chains.carry, chains.keys)


def _proposed(kernel: Any, state: Any, key: Key, first: Array, steps: int) -> Any:
    """The state of a kernel so many steps later; step `t` draws from `fold_in(key, t)`."""

    def step(state: Any, n: Array) -> tuple[Any, None]:
        with _theirs():
            return kernel.step(jr.fold_in(key, first + n), state)[0], None

    return lax.scan(step, state, jnp.arange(steps, dtype=jnp.int32))[0]
