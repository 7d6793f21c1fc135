"""Memories of sequences: how long a sequence of random patterns plays without an error."""

import math

from scipy import special

from amlib import _checks as checks

_BASE = math.exp(2) / math.cosh(2)
"""1.964: by so much a unit multiplies the capacity of the exponential network."""


def transition_capacity(N: int, d: int | str) -> float:
    r"""How many random patterns a sequence may have for one transition to go without an error.

    $$P_T = \frac{N^d}{2 (2d - 1)!! \ln N}, \qquad
    P_T = \frac{b^{N - 1}}{2 \ln N}, \quad b = \frac{e^2}{\cosh 2} = 1.964$$

    for $f(m) = m^d$ and for the exponential. A unit is wrong with probability
    $Q(1 / \sigma)$ at a crosstalk of variance $\sigma^2 = (2d - 1)!!\, P / N^d$, which for
    polynomials is `error_probability(P, N, d + 1)`: a transition is a step of a dense memory whose
    energy has the power $d + 1$.

    **Arguments:**

    - `N`: units, at least 2.
    - `d`: the degree, at least 1: 1 is SeqNet; or `"exponential"`.

    **Raises:** `ValueError` for other sizes, degrees and names.

    **Reference:** Chaudhry et al. 2023 (arXiv 2306.04532), for large $N$.
    """
    log_N, degree = _arguments("transition_capacity", N, d)
    if degree is None:
        return _exp((N - 1) * math.log(_BASE)) / (2 * log_N)
    return N**degree / (2 * _odd_factorial(degree) * log_N)


def sequence_capacity(N: int, d: int | str) -> float:
    r"""How many random patterns a sequence may have to play through without an error.

    $$P_S = \frac{N^d}{2 (d + 1) (2d - 1)!! \ln N}, \qquad
    P_S = \frac{b^N}{2 N \ln b}, \quad b = \frac{e^2}{\cosh 2} = 1.964$$

    for $f(m) = m^d$ and for the exponential: all $N P$ units of all transitions are right.

    The exponential form is that of Gaussian crosstalk, which does not know of pairs: two patterns
    that differ in one unit alone are the same to that unit, whatever the function, and random
    patterns have such pairs from about $2^{N/2}$ on. So whole random sequences end there, far
    below $P_S$ (measured: `benchmarks/results/sequences.md`).

    **Arguments:**

    - `N`, `d`: as for `transition_capacity`.

    **Raises:** `ValueError` for other sizes, degrees and names.

    **Reference:** Chaudhry et al. 2023 (arXiv 2306.04532), for large $N$.
    """
    log_N, degree = _arguments("sequence_capacity", N, d)
    if degree is None:
        return _exp(N * math.log(_BASE)) / (2 * N * math.log(_BASE))
    return N**degree / (2 * (degree + 1) * _odd_factorial(degree) * log_N)


def _arguments(where: str, N: int, d: int | str) -> tuple[float, int | None]:
    """The logarithm of `N`, and the degree; `None` for the exponential."""
    N = checks.integer(N, 2, f"{where}: N")
    if isinstance(d, str):
        checks.choice(d, ("exponential",), f"{where}: d")
        return math.log(N), None
    return math.log(N), checks.integer(d, 1, f"{where}: d")


def _odd_factorial(d: int) -> float:
    return float(special.factorial2(2 * d - 1))


def _exp(log: float) -> float:
    return math.exp(log) if log < 700 else math.inf
