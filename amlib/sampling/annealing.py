"""Annealing: a schedule of temperatures, then draws at the last of them."""

import equinox as eqx
from jaxtyping import Array, Float

from amlib.descent.methods import AbstractMethod, check_method
from amlib.sampling.samplers import (
    AbstractRecalls,
    Target,
    at_temperature,
    betas_of,
    inner_method,
)


class Annealed(AbstractRecalls):
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

    def method_for(self, target: Target) -> AbstractMethod:
        """The method, along the schedule."""
        return at_temperature(inner_method(target.space, self.method, _METHOD), self.betas)

    def check(self, target: Target, warmup: int, thin: int) -> None:
        """See `AbstractChainSampler`."""
        del warmup, thin
        check_method(self.method_for(target), target.space, True)


_METHOD = "Annealed: method"
