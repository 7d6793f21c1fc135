"""Annealing: a schedule of temperatures, then draws at the last of them."""

import equinox as eqx
from jaxtyping import Array, Float, PyTree

from amlib.descent.methods import AbstractMethod, check_method
from amlib.sampling.samplers import (
    AbstractSampler,
    Draws,
    Target,
    at_temperature,
    betas_of,
    default_method,
    drawing,
    stroll,
    walk,
)


class Annealed(AbstractSampler):
    r"""Take the first steps along a schedule of temperatures, and all others at its last one.

    A step of the schedule is a step of the method: a sweep of `Glauber`, counted from the start of
    the chain, the warm-up included. With `warmup=len(betas)` all draws are at `betas[-1]`; with
    `warmup=0` the observables follow the annealing itself.

    **Arguments:**

    - `betas`: inverse temperatures, >= 0, one for each step, at least two; in any order, for a
      schedule may go up and down.
    - `method`: a method that draws, whose `beta` is replaced; `None` means `Glauber` for bits.

    **Raises:** `ValueError` for a negative beta, one beta alone, and real states without a method;
    `TypeError` for a method that draws nothing.

    **Reference:** Kirkpatrick, Gelatt and Vecchi 1983, Science 220, 671.
    """

    betas: Float[Array, " steps"] = eqx.field(
        converter=lambda betas: betas_of(betas, "Annealed: betas")
    )
    method: AbstractMethod | None = None

    @property
    def temperatures(self) -> None:
        """One at a time."""
        return None

    def _method(self, target: Target) -> AbstractMethod:
        method = drawing(default_method(target.space, self.method, _METHOD), _METHOD)
        return at_temperature(method, self.betas)

    def check(self, target: Target, warmup: int, thin: int) -> None:
        """See `AbstractSampler`."""
        del warmup, thin
        check_method(self._method(target), target.space, True)

    def start(self, target: Target, x0: PyTree[Array], keys: Array) -> PyTree[Array]:
        """See `AbstractSampler`."""
        del target, keys
        return x0

    def warm(
        self, target: Target, carry: PyTree[Array], keys: Array, taken: Array, steps: int
    ) -> PyTree[Array]:
        """See `AbstractSampler`."""
        return walk(target, self._method(target), carry, keys, taken, steps)

    def draw(
        self,
        target: Target,
        carry: PyTree[Array],
        keys: Array,
        taken: Array,
        draws: int,
        thin: int,
    ) -> Draws:
        """See `AbstractSampler`."""
        return stroll(target, self._method(target), carry, keys, taken, draws, thin)


_METHOD = "Annealed: method"
