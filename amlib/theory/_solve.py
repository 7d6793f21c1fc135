"""What the equations of theory need: roots, and a check."""

import math
from collections.abc import Callable
from typing import Any

from scipy import optimize


def root(fn: Callable[[float], float], low: float, high: float, tol: float = 1e-13) -> float:
    """Where a function that changes its sign is zero (Brent's method)."""
    found: Any = optimize.brentq(fn, low, high, xtol=tol)
    return float(found)


def positive(value: float | int, where: str) -> None:
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{where} must be finite and above 0; {value} came.")
