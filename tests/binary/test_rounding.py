"""By how much rounding can let an energy rise: the number that README and docstrings state.

Flips are compared as floats. Between two evaluations the carried values drift by rounding, so a
recorded energy may rise where they are evaluated afresh, and a true one where two numbers tie.
"""

from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from tests.zoo import UserHopfield, reals, spins

ROUNDING = 100  # times eps, times the largest sum of absolute summands
D, K, VISITS = 300, 40, 3000

J = reals(1, D, D)
J = (J + J.T) / 2
# A model from patterns, and its summands at the overlaps `h` (or `J x x`), in extended precision.
CASES = {
    "user-hopfield": (UserHopfield, lambda h: -0.5 * h**2),
    "classical": (am.ClassicalHopfield, lambda h: -0.5 * h**2),
    "rectified-3": (lambda Xi: am.PolynomialDenseAM(Xi, 3), lambda h: -(np.maximum(h, 0) ** 3)),
    "power-3": (lambda Xi: am.PolynomialDenseAM(Xi, 3, rectified=False), lambda h: -(h**3)),
    "power-4": (lambda Xi: am.PolynomialDenseAM(Xi, 4, rectified=False), lambda h: -(h**4)),
    "exponential": (lambda Xi: am.ExponentialDenseAM(Xi, 0.3), None),
    "ising": (None, None),
}


def energies(name, Xi, x):
    """The true energy of each state, and the sum of the absolute values of its summands."""
    wide = np.longdouble
    if name == "ising":
        pairs = -0.5 * (x.astype(wide) @ np.asarray(Xi, wide) * x).sum(-1)
        return pairs, np.full(len(x), 0.5 * np.abs(Xi).sum())
    h = x.astype(wide) @ np.asarray(Xi, wide).T
    if name == "exponential":
        top = h.max(-1, keepdims=True)
        logs = np.log(np.exp(wide(0.3) * (h - top)).sum(-1)) / wide(0.3)
        return -(top[:, 0] + logs), np.abs(top[:, 0]) + logs
    summands = CASES[name][1](h)
    return summands.sum(-1), np.abs(summands).sum(-1)


def rises(name, kind, seed):
    """How far recorded and true energies rise, and records err, in units of eps and summands."""
    patterns = (spins if kind == "spins" else reals)(seed, K, D)
    dtype = jnp.result_type(float)
    patterns = np.asarray(J if name == "ising" else patterns, dtype)
    model = am.BipolarIsing(patterns) if name == "ising" else CASES[name][0](patterns)
    x0 = jnp.asarray(spins(seed + 1, D), dtype)
    _, (frames, recorded) = model.async_recall(x0, nsteps=VISITS, key=jr.key(seed))
    kept = np.asarray(frames.accepted)
    assert kept.sum() > 50
    way = np.concatenate([np.asarray(x0)[None], np.asarray(frames)[kept]])
    true, size = energies(name, patterns, way)
    unit = float(jnp.finfo(recorded.dtype).eps) * size.max()
    recorded = np.asarray(recorded).astype(np.longdouble)
    error = np.abs(recorded[kept] - true[1:]).max()
    return float(np.diff(recorded).max() / unit), float(np.diff(true).max() / unit), error / unit


@pytest.mark.parametrize("kind", ["spins", "reals"])
@pytest.mark.parametrize("name", CASES)
def test_energies_rise_by_rounding_only(name, kind):
    for seed in range(2):
        assert max(rises(name, kind, seed)) < ROUNDING


def test_energies_rise_by_rounding_only_in_double_precision(x64):
    assert max(rises("power-4", "reals", 0)) < ROUNDING
    assert max(rises("classical", "reals", 0)) < ROUNDING


def test_the_bound_is_of_the_right_size():
    """Recorded energies do rise, by units of eps: a bound of none would be wrong."""
    assert max(rises(name, "reals", 0)[0] for name in ("power-4", "power-3", "classical")) > 0


def test_the_number_is_the_one_that_is_stated():
    stated = f"{ROUNDING} * eps * S"
    assert stated in (am.AbstractBinaryAM.__doc__ or "")
    readme = Path(__file__).parents[2] / "README.md"
    assert f"{ROUNDING * float(np.finfo(np.float32).eps):.0e}" == "1e-05"
    assert "1e-5" in readme.read_text()
