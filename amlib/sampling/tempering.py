"""Parallel tempering: replicas at several temperatures that change places."""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, Float, PyTree
from scipy.interpolate import PchipInterpolator

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._types import Key
from amlib.descent.methods import AbstractMethod, check_method
from amlib.descent.trajectory import RESULTS
from amlib.sampling.samplers import (
    AbstractChainSampler,
    Chains,
    Draws,
    Target,
    at_temperature,
    betas_of,
    continued,
    inner_method,
    one_temperature,
)


class Tempering(AbstractChainSampler):
    r"""Draw at several temperatures side by side, and let neighbours swap their states.

    Between `every` steps of the method at each temperature, the pairs $(0, 1), (2, 3), \dots$ and
    then $(1, 2), (3, 4), \dots$ by turns swap with probability

    $$P = \min\big(1, e^{(\beta_i - \beta_j) (E_i - E_j)}\big)$$

    which keeps $\prod_i e^{-\beta_i E(x_i)}$. Where one temperature alone stays for ever in a
    valley, states leave it by way of the hotter ones. Fixed turns carry a replica from end to end
    in fewer rounds than pairs drawn at random.

    **Arguments:**

    - `betas`: inverse temperatures, >= 0, at least two, strictly rising or strictly falling.
    - `method`: a method that draws, whose `beta` is replaced; `None` means `Glauber` for bits.
    - `every`: how many steps lie between two rounds of swaps, >= 1.

    **Raises:** `ValueError` for betas that are negative, unsorted or alone, for `every < 1`, and
    for real states without a method; `TypeError` for a method that draws nothing.

    **Reference:** Hukushima and Nemoto 1996, J. Phys. Soc. Jpn. 65, 1604; Syed et al. 2022,
    J. R. Stat. Soc. B 84, 321 (the turns).
    """

    betas: Float[Array, " temperatures"] = eqx.field(
        converter=lambda betas: _sorted(betas_of(betas, "Tempering: betas"))
    )
    method: AbstractMethod | None = None
    every: int = eqx.field(
        converter=lambda n: checks.integer(n, 1, "Tempering: every"), static=True, default=1
    )

    @property
    def temperatures(self) -> Array:
        """The inverse temperatures."""
        return self.betas

    @property
    def multiple(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The steps of a round."""
        return self.every

    def _method(self, target: Target) -> AbstractMethod:
        return inner_method(target.space, self.method, _METHOD)

    def check(self, target: Target, warmup: int, thin: int) -> None:
        """See `AbstractChainSampler`; steps must be whole numbers of rounds."""
        method = self._method(target)
        check_method(method, target.space, True)
        one_temperature(getattr(method, "beta", 0.0), _METHOD)
        for name, steps in (("warmup", warmup), ("thin", thin)):
            if steps % self.every:
                raise ValueError(
                    f"sample: {name} must be a multiple of the {self.every} steps between swaps "
                    f"(Tempering: every); {steps} came."
                )

    def start(self, target: Target, x0: PyTree[Array], keys: Array) -> PyTree[Array]:
        """A replica of each chain at each temperature."""
        del target, keys
        R = self.betas.shape[0]
        return jax.tree.map(lambda a: jnp.repeat(a[:, None], R, axis=1), x0)

    def warm(self, target: Target, chains: Chains, steps: int) -> PyTree[Array]:
        """See `AbstractChainSampler`."""
        made = self.draw(target, chains, 1, steps)
        return jax.tree.map(lambda a: a[:, -1], made.carries)

    def draw(self, target: Target, chains: Chains, draws: int, thin: int) -> Draws:
        """See `AbstractChainSampler`."""
        rounds = jnp.asarray(thin // self.every, jnp.int32)
        sizes = draws, self.every
        return _tempered(target, self._method(target), self.betas, chains, rounds, sizes)


_METHOD = "Tempering: method"


def _sorted(betas: Array) -> Array:
    steps = jnp.diff(betas)
    return checks.require(
        betas,
        ~((steps > 0).all() | (steps < 0).all()),
        "Tempering: betas must be strictly rising or strictly falling, for neighbours swap; they "
        "are not. Sort them, and drop doubles.",
    )


class _Round(NamedTuple):
    """The replicas of a chain after a round, and what its swaps came to."""

    x: PyTree[Array]
    energy: Array
    lost: Array
    made: Array
    tried: Array


@compiled
def _tempered(
    target: Target,
    method: AbstractMethod,
    betas: Array,
    chains: Chains,
    rounds: Array,
    sizes: tuple[int, int],
) -> Draws:
    draws, every = sizes
    R = betas.shape[0]
    pairs = jnp.arange(R - 1, dtype=jnp.int32)

    def replica(x: PyTree[Array], beta: Array, key: Key, taken: Array) -> PyTree[Array]:
        at = continued(at_temperature(method, beta), key, taken)
        end = target.recall(x, at, key, max_steps=every)
        return end.x, end.energy, end.result == RESULTS.nonfinite

    def chain(x: PyTree[Array], key: Key) -> Draws:
        own = jax.vmap(lambda r: jr.fold_in(key, r))(jnp.arange(R))

        def one(n: Array, at: _Round) -> _Round:
            behind = chains.taken + n * every
            x, energy, lost = jax.vmap(replica, (0, 0, 0, None))(at.x, betas, own, behind)
            count = behind // every
            turn = pairs % 2 == count % 2
            draw = jr.uniform(jr.fold_in(jr.fold_in(key, R), count), (R - 1,), energy.dtype)
            swap = turn & (draw < _chance(betas.astype(energy.dtype), energy))
            places = jnp.arange(R, dtype=jnp.int32)
            places = jnp.where(jnp.pad(swap, (0, 1)), places + 1, places)
            places = jnp.where(jnp.pad(swap, (1, 0)), places - 1, places)
            x, energy = jax.tree.map(lambda a: a[places], (x, energy))
            turn, swapped = (a.astype(jnp.int32) for a in (turn, swap))
            lost = at.lost | lost.any()
            return _Round(x, energy, lost, at.made + swapped, at.tried + turn)

        def draw(at: _Round, first: Array) -> tuple[_Round, _Round]:
            none = jnp.zeros(R - 1, jnp.int32)
            at = at._replace(made=none, tried=none)
            at = lax.fori_loop(first, first + rounds, one, at)
            return at, at

        none, no = jnp.zeros(R - 1, jnp.int32), jnp.zeros((), bool)
        blank = jax.eval_shape(lambda x: replica(x, betas[0], key, chains.taken)[1], _first(x))
        start = _Round(x, jnp.zeros((R,), blank.dtype), no, none, none)
        end, kept = lax.scan(draw, start, jnp.arange(draws, dtype=jnp.int32) * rounds)
        swaps = kept.made, kept.tried
        return Draws(kept.x, kept.energy, end.lost, kept.x, swaps)

    return jax.vmap(chain)(chains.carry, chains.keys)


def _first(x: PyTree[Array]) -> PyTree[Array]:
    return jax.tree.map(lambda a: a[0], x)


def _chance(betas: Array, energy: Array) -> Array:
    """The probability of each swap of neighbours; none where it is not a number."""
    rise = jnp.diff(betas) * jnp.diff(energy)
    return jnp.where(jnp.isnan(rise), 0, jnp.exp(jnp.minimum(rise, 0)))


def even_swaps(
    betas: Sequence[float | int] | np.ndarray | Array,
    rates: Sequence[float | int] | np.ndarray | Array,
    count: int | None = None,
) -> np.ndarray:
    r"""Space inverse temperatures so that all neighbours swap at the same rate.

    The rates $r_i$ at which the pairs of a first run rejected their swaps add up to the
    communication barrier $\Lambda(\beta) = \sum r_i$, which is nearly the same for every spacing.
    Temperatures that divide it evenly reject evenly; and with $n$ of them, about
    $\Lambda / (n - 1)$ each, so $n \approx 2 \Lambda + 1$ swap half of the time.

    ```python
    first = am.sampling.sample(memory, am.sampling.Tempering(betas), x0, key, steps=200)
    betas = am.sampling.even_swaps(betas, first.swap_rates)
    ```

    **Arguments:**

    - `betas`: those of the first run.
    - `rates`: the share of swaps made between neighbours, in [0, 1]: `Samples.swap_rates`.
    - `count`: how many to return, at least 2; `None` means as many as there were.

    **Returns:** inverse temperatures with the same ends, in the same order.

    **Raises:** `ValueError` for rates outside of [0, 1], or not one for each pair.

    **Reference:** Syed et al. 2022, J. R. Stat. Soc. B 84, 321, algorithm 3.
    """
    given = np.asarray(_sorted(betas_of(betas, "even_swaps: betas")), np.float64)
    made = np.asarray(rates, np.float64)
    if made.shape != (len(given) - 1,) or not ((made >= 0) & (made <= 1)).all():
        raise ValueError(
            f"even_swaps: rates must be {len(given) - 1} numbers in [0, 1], one for each pair of "
            f"neighbours; {made!r} came."
        )
    count = len(given) if count is None else checks.integer(count, 2, "even_swaps: count")
    # A pair that rejected nothing still has some way to go: keeps the barrier strictly rising.
    rejected = np.maximum(1 - made, 1e-3)
    barrier = np.concatenate([[0.0], np.cumsum(rejected)])
    rising = PchipInterpolator(barrier, given)
    spaced = rising(np.linspace(0, barrier[-1], count))
    spaced[[0, -1]] = given[[0, -1]]
    return spaced
