"""95 % intervals: of shares (Wilson), of means (Student's t), of anything (the bootstrap)."""

from collections.abc import Callable

import numpy as np
from scipy import special

from amlib._types import Nested

LEVEL = 0.95


def wilson(share: Nested, n: Nested) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a share of `n` trials.

    **Reference:** Wilson 1927.
    """
    z, share, n = 1.96, np.asarray(share, float), np.asarray(n, float)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.asarray(np.clip(middle - half, 0, 1)), np.asarray(np.clip(middle + half, 0, 1))


def student(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The interval of the mean over the first axis; without limits where there is one value."""
    n = len(values)
    middle = np.asarray(values.mean(0))
    if n < 2:
        return np.full_like(middle, -np.inf), np.full_like(middle, np.inf)
    half = special.stdtrit(n - 1, (1 + LEVEL) / 2) * values.std(0, ddof=1) / np.sqrt(n)
    return np.asarray(middle - half), np.asarray(middle + half)


def bootstrap(
    values: np.ndarray,
    statistic: Callable[..., np.ndarray] = np.mean,
    resamples: int = 2000,
) -> tuple[float, float]:
    """The percentile interval of a statistic of independent values: always the same draws.

    `statistic` takes an `axis`.

    **Reference:** Efron 1979.
    """
    draws = np.random.default_rng(0).integers(0, len(values), (resamples, len(values)))
    found = statistic(values[draws], axis=1)
    low, high = np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
