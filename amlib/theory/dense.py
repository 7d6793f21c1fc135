"""Dense memories of random patterns: errors and capacities."""

import math
from collections.abc import Callable

import numpy as np
from scipy import special

from amlib import _checks as checks
from amlib.theory._solve import positive, root


def _odd_factorial(n: int) -> float:
    checks.at_least(n, 2, "n")
    return float(special.factorial2(2 * n - 3))


def error_probability(K: float | int, N: int, n: int, bias: float | int = 0.0) -> float:
    r"""The probability that a bit of a stored pattern is unstable under a polynomial energy.

    $$P = Q\left(\sqrt{\frac{N^{n-1}}{(2n-3)!!\, K}}\right), \qquad
    Q(z) = \int_z^\infty \frac{dt}{\sqrt{2\pi}} e^{-t^2/2}$$

    Biased patterns, of mean $b$, are stored by their deviations,
    $$-\sum_\mu ((\xi_\mu - b) \cdot (x - b))^n$. What the others add then has a mean besides its
    width, against the bits of the commoner sign (`biased_exponent`), and patterns with fewer bits
    of the rarer sign hold less.

    **Arguments:**

    - `K`: random patterns, above 0.
    - `N`: units.
    - `n`: the power, at least 2.
    - `bias`: $b$, the mean of a bit, in (-1, 1).

    **Reference:** Krotov and Hopfield 2016, eq. 5 before its expansion, with their prefactor; with
    a bias the same argument, whose leading moments were derived for this library.
    """
    positive(K, "error_probability: K")
    if not -1 < bias < 1:
        raise ValueError(f"error_probability: bias must lie in (-1, 1); {bias} came.")
    # Patterns differ in how many bits are -1: within six standard deviations of the mean number.
    share = (1 - bias) / 2
    spread = 6 * math.sqrt(N * share * (1 - share))
    low, high = max(N * share - spread, 0), min(N * share + spread, N)
    minus = np.unique(np.linspace(low, high, 400).round())
    weight = _log_binomial(N, minus, share)
    weight = np.exp(weight - weight.max())
    error = 0.0
    signal, drift, width = _moments(N, minus, n, bias)
    for x, count in ((1, N - minus), (-1, minus)):
        margin = (signal * (1 - bias * x) - K * drift * x) / (math.sqrt(K) * width)
        error = error + count / N * special.ndtr(-margin)
    return float(error @ weight / weight.sum())


def _log_binomial(N: int, k: np.ndarray, share: float) -> np.ndarray:
    choices = special.gammaln(N + 1) - special.gammaln(k + 1) - special.gammaln(N - k + 1)
    return choices + special.xlogy(k, share) + special.xlogy(N - k, 1 - share)


def _moments(
    N: int, minus: np.ndarray, n: int, b: float | int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a flip's energy: the pattern's own part, and the others' mean and width for one each.

    The own part is signal (1 - b x) for a bit x of a pattern with so many bits at -1, and each
    other pattern adds - drift x, and noise.
    """
    v, third = 1 - b**2, -2 * b * (1 - b**2)  # variance and third moment of eta = xi - b
    squares = minus * (1 + b) ** 2 + (N - minus) * (1 - b) ** 2
    cubes = -minus * (1 + b) ** 3 + (N - minus) * (1 - b) ** 3
    signal = 2 * n * squares ** (n - 1)
    width = 2 * n * np.sqrt(_odd_factorial(n) * (v * squares) ** (n - 1) * v)
    # The flipped summand goes from (R + eta (x - b))^n to (R - eta (x + b))^n, with R the same
    # summed over the other bits: of variance v squares, and third moment third cubes.
    R = lambda k: third * cubes if k == 3 else _gaussian(k) * (v * squares) ** (k / 2)
    drift = math.comb(n, 2) * R(n - 2) * v * 4 * b
    if n > 2:
        drift = drift - math.comb(n, 3) * R(n - 3) * third * (2 + 6 * b**2)
    return signal, drift, width


def _gaussian(k: int) -> float:
    """The k-th moment of a standard normal number."""
    return 0.0 if k % 2 else float(math.prod(range(k - 1, 0, -2)))


def polynomial_capacity(
    N: int, n: int, error: float | None = None, bias: float | int = 0.0
) -> float:
    r"""How many random patterns a polynomial energy stores.

    $$K = \frac{N^{n-1}}{(2n-3)!!\, z^2}, \quad Q(z) = \text{error}; \qquad
    K = \frac{N^{n-1}}{2 (2n-3)!! \ln N} \text{ without errors}$$

    **Arguments:**

    - `N`: units, at least 2.
    - `n`: the power, at least 2.
    - `error`: share of unstable bits, in (0, 1/2): 0.005 in the paper; `None` for none.
    - `bias`: the mean of a bit, in (-1, 1), see `error_probability`; takes an `error`.

    **Reference:** Krotov and Hopfield 2016, eq. 6 and the text before it.
    """
    checks.at_least(N, 2, "polynomial_capacity: N")
    if error is None:
        if bias:
            raise ValueError("polynomial_capacity: a bias must come with an error; None came.")
        return N ** (n - 1) / (2 * _odd_factorial(n) * math.log(N))
    if not 0 < error < 0.5:
        raise ValueError(f"polynomial_capacity: error must lie in (0, 1/2); {error} came.")
    if not bias:
        return N ** (n - 1) / (_odd_factorial(n) * float(special.ndtri(error)) ** 2)
    most = 2 * math.log(N ** (n - 1)) + 10
    gap = lambda log_K: error_probability(math.exp(log_K), N, n, bias) - error
    return math.exp(root(gap, -30.0, most))


def biased_exponent(n: int) -> float:
    r"""The power of $N$ that the capacity of a polynomial energy falls to for biased patterns.

    Unbiased patterns: $n - 1$. Biased ones, stored by their deviations as `error_probability` has
    it: $n / 2$ for even $n \ge 4$, $(n + 1) / 2$ for odd $n \ge 5$; $n = 3$ keeps 2. The energy
    $-\sum_\mu (\xi_\mu \cdot x)^n$ as it stands holds no more than about $|b|^{1 - 2n}$ biased
    patterns, however large $N$ is.
    """
    _odd_factorial(n)
    if n <= 3:
        return float(n - 1)
    return n / 2 if n % 2 == 0 else (n + 1) / 2


def _spherical(s: float) -> float:
    t = (math.sqrt(1 + 4 * s**2) - 1) / (2 * s)
    return s - s * t - 0.5 * math.log1p(-(t**2))


_KINDS: dict[str, Callable[[float], float]] = {
    "gaussian": lambda s: s - 0.5 * s**2 if s < 1 else 0.5,
    "binary": lambda s: s - (abs(s) + math.log1p(math.exp(-2 * abs(s))) - math.log(2)),
    "spherical": _spherical,
}


def exponential_threshold(scale: float | int, patterns: str = "binary") -> float:
    r"""Up to which rate an exponential memory retrieves a typical pattern.

    Of $K = e^{\alpha N}$ random patterns under $-\sum_\mu e^{\lambda\, \xi_\mu \cdot x}$, the sum
    over the others stays below the term of the pattern itself for

    $$\alpha < \lambda - \lambda^2 / 2 \;(\lambda < 1;\ 1/2 \text{ beyond}), \qquad
    \alpha < \lambda - \ln \cosh \lambda, \qquad
    \alpha < \lambda - \lambda t - \tfrac12 \ln(1 - t^2)$$

    for Gaussian, binary and spherical patterns, $t = (\sqrt{1 + 4\lambda^2} - 1) / (2\lambda)$. The
    binary one tends to $\ln 2$.

    **Arguments:**

    - `scale`: $\lambda$, above 0: `beta` of `ExponentialDenseAM`.
    - `patterns`: "gaussian", "binary" or "spherical", of squared length $N$.

    **Returns:** $\alpha$, in natural units: $K$ may grow as $e^{\alpha N}$.

    **Reference:** the random-energy argument of Lucibello and Mezard 2024, PRL 132, 077301.
    """
    positive(scale, "exponential_threshold: scale")
    checks.choice(patterns, _KINDS, "exponential_threshold: patterns")
    return _KINDS[patterns](float(scale))


def _rate(m: float | int) -> float:
    """How fast the probability of an overlap of m N falls: I(m), in nats a unit."""
    return 0.5 * float(special.xlog1py(1 + m, m) + special.xlog1py(1 - m, -m))


def exponential_stability(
    scale: float | int, damage: float | int = 0.0, *, every: bool = False
) -> float:
    r"""Up to which rate an exponential memory of spins keeps a pattern, or mends a damaged one.

    Of $K = e^{\alpha N}$ random patterns under $-\sum_\mu e^{\lambda\, \xi_\mu \cdot x}$, with a
    share $p$ of the bits of $x$ wrong. The others' sum hardly changes with a flip: what counts is
    its width, and the bits of a typical pattern hold for

    $$\alpha < 2 \lambda (1 - 2p) - \ln \cosh 2 \lambda, \quad \text{or} \quad \alpha < I(1 - 2p)$$

    where that is less than $I(\tanh 2\lambda)$ and the nearest pattern is the noise;
    $I(m) = \frac12 [(1 + m) \ln(1 + m) + (1 - m) \ln(1 - m)]$. So a pattern may be a fixed point at
    rates where the sum outweighs it (`exponential_threshold`).

    **Arguments:**

    - `scale`: $\lambda$, above 0: `beta` of `ExponentialDenseAM`.
    - `damage`: $p$, in [0, 1/2).
    - `every`: whether every pattern is to hold, or a typical one: $\alpha < I(1 - 2p) / 2$
        besides, which is $K < 2^{N/2}$ without damage.

    **Returns:** $\alpha$, in natural units.

    **Reference:** Demircigil et al. 2017, theorem 3, for every pattern and $\lambda = 1$; the
    typical one by the random-energy argument of Lucibello and Mezard 2024, worked out here.
    """
    positive(scale, "exponential_stability: scale")
    if not 0 <= damage < 0.5:
        raise ValueError(f"exponential_stability: damage must lie in [0, 1/2); {damage} came.")
    near = _rate(1 - 2 * damage)
    log_cosh = 2 * scale + math.log1p(math.exp(-4 * scale)) - math.log(2)
    typical = 2 * scale * (1 - 2 * damage) - log_cosh
    # Patterns of overlap tanh(2 scale) carry the variance, if there are any.
    typical = typical if typical >= _rate(math.tanh(2 * scale)) else near
    return min(typical, near / 2) if every else typical
