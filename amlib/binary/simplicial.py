"""The Hopfield network of setwise connections."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32

from amlib import _checks as checks
from amlib._types import Scalar
from amlib.binary.base import BinaryAM
from amlib.binary.patterns import wide


class SimplicialHopfield(BinaryAM):
    r"""A Hopfield network whose Hebbian couplings join sets of units: pairs, triples, and more.

    $$E(x) = -\sum_{\sigma} w_\sigma \prod_{i \in \sigma} x_i, \qquad
    w_\sigma = \sum_\mu \prod_{i \in \sigma} \xi_{\mu i}$$

    over the given sets $\sigma$, each as often as it is given. No prefactor. With all pairs it is
    `ClassicalHopfield` but for a constant; with triples as well it stores more patterns, and with
    sets of odd size no inverse $-\xi$. A flip costs the sets that hold its bit, so few sets of many
    units are fast: see `explain`.

    ```python
    pairs = np.asarray(list(itertools.combinations(range(D), 2)))
    triples = rng.choice(np.asarray(list(itertools.combinations(range(D), 3))), 1000, replace=False)
    memory = am.SimplicialHopfield(Xi, [pairs, triples])
    ```

    **Arguments:**

    - `Xi`: stored patterns, see `BinaryAM`.
    - `simplices`: the sets, an array of integers `(S, m)` for each size m, indices into the
      flattened state. They are a part of the program: others compile anew.

    **Raises:** `ValueError` for no sets, indices out of range and a unit that is twice in a set;
    `TypeError` for indices that are no integers.

    **Reference:** Burns and Fukai 2023, ICLR (arXiv 2305.05179), whose couplings have the prefactor
    1/D, over a simplicial complex. Here the sets need not be one.
    """

    simplices: tuple[Int32[Array, "S m"], ...] = eqx.field(converter=lambda s: _sets(s))

    def __check_init__(self):
        D = math.prod(self.Xi.shape[1:])
        for k, sets in enumerate(self.simplices):
            if not checks.is_concrete(sets):
                continue
            known = np.sort(np.asarray(sets), axis=1)
            if known.min() < 0 or known.max() >= D:
                raise ValueError(
                    f"simplices[{k}]: units must lie in [0, {D}); {known.min()} to {known.max()} "
                    "came."
                )
            if (known[:, 1:] == known[:, :-1]).any():
                raise ValueError(
                    f"simplices[{k}]: units of a set must differ; one came twice in a set. Drop "
                    "such sets: x * x is 1."
                )

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`."""
        dtype = wide(x.dtype)
        flat, rows = x.reshape(-1).astype(dtype), self.Xi.reshape(len(self.Xi), -1).astype(dtype)
        total = jnp.zeros((), dtype)
        for sets in self.simplices:
            weights = jnp.sum(jnp.prod(rows[:, sets], axis=-1), axis=0)
            total = total - jnp.sum(weights * jnp.prod(flat[sets], axis=-1))
        return total


def _sets(simplices: Sequence[Any]) -> tuple[Array, ...]:
    """Sets as arrays of int32, one for each size."""
    made = []
    for k, given in enumerate(simplices):
        sets = given if checks.is_traced(given) else np.asarray(given)
        if not jnp.issubdtype(sets.dtype, jnp.integer):
            raise TypeError(f"simplices[{k}]: must hold integers, indices; {sets.dtype} came.")
        if sets.ndim != 2 or sets.size == 0:
            raise ValueError(
                f"simplices[{k}]: must have shape (S, m), sets of m units; {sets.shape} came. Give "
                "an array for each size."
            )
        made.append(jnp.asarray(sets, jnp.int32))
    if not made:
        raise ValueError("simplices: must hold sets of at least one size; none came.")
    return tuple(made)
