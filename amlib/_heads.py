"""What memories make of the overlaps of a state with their patterns, in forms that floats hold."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from amlib import _checks as checks
from amlib._types import Scalar


def power(n: Any, where: str) -> int:
    """The power of a polynomial energy; raise unless it is an integer of at least 1."""
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"{where}: n must be an integer; {n!r} came.")
    checks.at_least(int(n), 1, f"{where}: n")
    return int(n)


def needs_logs(K: int, largest: float | int, n: int, dtype: Any) -> bool:
    """Whether floats cannot hold `K` powers `n` of the largest overlap."""
    most = float(jnp.finfo(dtype).max)
    return math.log(K) + n * math.log(largest) > 0.98 * math.log(most)


def polynomial(h: Float[Array, " K"], n: int, *, rectified: bool, in_logs: bool) -> Scalar:
    r"""The energy $-\sum_\mu F_n(h_\mu)$, or $-\operatorname{sign}(S) \log(1 + |S|)$ of that sum.

    $$F_n(h) = h^n \text{ or } \max(h, 0)^n$$
    """
    if not in_logs:
        return -jnp.sum((jnp.maximum(h, 0.0) if rectified else h) ** n)
    counts = h > 0 if rectified else h != 0
    size = jnp.where(counts, jnp.abs(h), 1.0)  # log(1) where nothing counts: safe to derive
    log_size = jnp.where(counts, n * jnp.log(size), -jnp.inf)
    if rectified or n % 2 == 0:
        return -jax.nn.softplus(jax.nn.logsumexp(log_size))
    log_sum, sign = jax.nn.logsumexp(log_size, b=jnp.sign(h), return_sign=True)
    return -sign * jax.nn.softplus(log_sum)


def exponential(h: Float[Array, " K"], beta: Scalar) -> Scalar:
    r"""The energy $-\frac{1}{\beta} \log \sum_\mu \exp(\beta h_\mu)$."""
    beta = beta.astype(h.dtype)
    return -jax.nn.logsumexp(beta * h) / beta


def check_beta(beta: Array) -> None:
    """Raise unless the inverse temperature of an exponential energy is a positive scalar."""
    if beta.shape != ():
        raise ValueError(f"beta: must be a scalar; shape {beta.shape} came.")
    if checks.is_concrete(beta):
        checks.positive(beta, "beta")
