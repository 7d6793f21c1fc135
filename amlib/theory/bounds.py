"""Published bounds on modern Hopfield networks."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Shaped
from scipy import special

from amlib import _checks as checks, _show as show
from amlib._types import ScalarLike
from amlib.analysis.measures import separation
from amlib.descent.streaming import flat_rows


def retrieval_bound(
    Xi: Shaped[ArrayLike, "K *shape"], beta: ScalarLike, distance: ArrayLike = 0.0
) -> Float[Array, " K"]:
    r"""The published bound on the error of one retrieval step of a modern Hopfield network.

    $$\|f(x) - \xi_\mu\| \le 2 (K - 1)\, e^{-\beta (\Delta_\mu - 2 d M)} M$$

    **Arguments:**

    - `Xi`: stored patterns.
    - `beta`: inverse temperature.
    - `distance`: $d$, the larger of the distances of $x$ and of the fixed point near
      $\xi_\mu$ from $\xi_\mu$; one number, or one per pattern.

    **Returns:** one bound per pattern. It may exceed $2M$, and then says nothing.

    **Reference:** Ramsauer et al. 2021, Theorem 5, with their $N$ as $K$ and $M$ the largest norm.
    """
    gaps = separation(Xi)  # raises for what are no patterns
    rows = flat_rows(checks.as_float(Xi, "Xi"))
    M = jnp.max(jnp.linalg.norm(rows, axis=1))
    beta = checks.as_float(beta, "retrieval_bound: beta").astype(rows.dtype)
    distance = checks.as_float(distance, "retrieval_bound: distance").astype(rows.dtype)
    gap = gaps - 2 * M * distance
    return 2 * (rows.shape[0] - 1) * jnp.exp(-beta * gap) * M


class CapacityConstants(NamedTuple):
    """What `capacity_constants` returns: the constants `a`, `b`, `c` and `patterns`."""

    a: float
    b: float
    c: float
    patterns: float

    __repr__ = show.text


def capacity_constants(
    K: float | int, d: int, beta: float | int = 1.0, p: float = 1e-3
) -> CapacityConstants:
    r"""The constants of the exponential capacity of modern Hopfield networks.

    $$N \ge \sqrt{p}\, c^{(d-1)/4}, \quad c = \frac{b}{W_0(e^{a + \ln b})}, \quad
    a = \frac{2}{d-1}\left(1 + \ln(2 \beta K^2 p (d-1))\right), \quad b = \frac{2 K^2 \beta}{5}$$

    patterns on a sphere of radius $K \sqrt{d-1}$ are stored with probability $1 - p$.

    **Arguments:**

    - `K`: the radius of the sphere, over $\sqrt{d-1}$.
    - `d`: dimension, at least 2.
    - `beta`: inverse temperature.
    - `p`: probability of failure, in (0, 1).

    **Returns:** `a`, `b`, `c`, and the number of patterns (infinite beyond what floats hold).

    **Reference:** Ramsauer et al. 2021, Theorem 3 (their $K$ is not a number of patterns).
    """
    checks.at_least(d, 2, "capacity_constants: d")
    if not (K > 0 and beta > 0 and 0 < p < 1):
        raise ValueError(
            f"capacity_constants: K and beta must be above 0 and p in (0, 1); {(K, beta, p)} came."
        )
    a = 2 / (d - 1) * (1 + math.log(2 * beta * K**2 * p * (d - 1)))
    b = 2 * K**2 * beta / 5
    w = float(special.wrightomega(a + math.log(b)))  # W0 of its exponential, which may overflow
    c = b / w
    log_count = 0.5 * math.log(p) + (d - 1) / 4 * math.log(c)
    return CapacityConstants(a, b, c, math.exp(log_count) if log_count < 700 else math.inf)
