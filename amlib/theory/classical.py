r"""The classical network under load: the mean-field theory of random patterns.

Loads are $\alpha = K / N$, of $K$ patterns over $N$ units; temperatures are those of spins under
$E = -\frac{1}{2N} \sum_\mu (\xi_\mu \cdot x)^2$, which is `ClassicalHopfield` at
$\beta = 1 / (N T)$.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy import optimize, special

from amlib import _checks as checks, _show as show
from amlib.theory._solve import positive, root


class Retrieval(NamedTuple):
    """A retrieval state of the classical network, see `retrieval`.

    - `overlap`: $m$, that of the state with its pattern, in [0, 1]; 0 where no such state exists.
    - `order`: $q$, the squared length of the mean of a unit; 1 at zero temperature.
    - `noise`: $\\sqrt{\\alpha r}$, the width of the field of all other patterns.
    """

    overlap: float
    order: float
    noise: float

    __repr__ = show.text


_NONE = Retrieval(0.0, 0.0, 0.0)
_Z = np.linspace(-10.0, 10.0, 401)
_U, _U_WEIGHTS = np.polynomial.legendre.leggauss(240)
_U, _U_WEIGHTS = 10 * (_U + 1), 10 * _U_WEIGHTS  # (0, 20)


def _density(z: Any) -> Any:
    """Of a standard normal number."""
    return np.exp(-0.5 * np.square(z)) / math.sqrt(2 * math.pi)


_WEIGHTS = _density(_Z) * (_Z[1] - _Z[0])


def _mean(of: Callable[[np.ndarray], np.ndarray], m: float, noise: float, T: float | int) -> float:
    """The mean of a function of the field's size over T, which falls off within 20.

    The field is normal, of mean `m` and width `noise`. Where it is wider than the temperature, the
    function is narrow, and the integral runs over its argument.
    """
    if noise <= T:
        return float(of(np.abs(noise * _Z + m) / T) @ _WEIGHTS)
    pair = _density((T * _U - m) / noise) + _density((T * _U + m) / noise)
    return float(of(_U) @ (pair * _U_WEIGHTS)) * T / noise


def _sech(power: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda u: np.cosh(np.minimum(u, 300.0)) ** -power


def _response(m: float, noise: float, T: float | int) -> float:
    """$(1 - q) / T$: what a small field adds to the mean of a unit."""
    return _mean(_sech(2), m, noise, T) / T


def _magnetisation(m: float, noise: float, T: float | int) -> float:
    """The mean of a unit in the field."""
    if noise <= T:
        return float(np.tanh((noise * _Z + m) / T) @ _WEIGHTS)
    pair = _density((T * _U - m) / noise) - _density((T * _U + m) / noise)
    soft = float((np.tanh(_U) - 1) @ (pair * _U_WEIGHTS)) * T / noise
    return math.erf(m / (math.sqrt(2) * noise)) + soft


def _overlap_under(noise: float, T: float | int) -> float:
    """The largest root of the equation for the overlap, under a field of a given width."""
    # From above the iteration falls onto the largest root; Newton's steps make it a few.
    m = 1.0
    for _ in range(200):
        new, slope = _magnetisation(m, noise, T), _response(m, noise, T)
        down = m - (m - new) / max(1 - slope, 0.05)
        down = min(m, max(down, 0.0))
        if abs(down - m) < 1e-13:
            return down
        m = down
    return m


def _load_of_noise(noise: float, T: float | int) -> tuple[float, Retrieval]:
    """The load at which the field of the other patterns has this width, and the state there."""
    m = _overlap_under(noise, T)
    response = _response(m, noise, T)
    q = 1 - T * response
    return _load(noise, q, response), Retrieval(m, q, noise)


def _load(noise: float, q: float, response: float) -> float:
    return noise**2 * (1 - response) ** 2 / q if q > 0 and response < 1 else 0.0


def _load_of_argument(y: float) -> tuple[float, Retrieval]:
    """The same at zero temperature, by $y = m / \\sqrt{2 \\alpha r}$."""
    m = math.erf(y)
    noise = m / (math.sqrt(2) * y)
    response = math.sqrt(2 / math.pi) / noise * math.exp(-(y**2))
    return _load(noise, 1.0, response), Retrieval(m, 1.0, noise)


@functools.lru_cache(maxsize=512)
def _branch(T: float | int) -> tuple[Callable[[float], tuple[float, Retrieval]], float, float]:
    """The load along the retrieval states, from where it is none to where it is largest."""
    if T == 0:
        of, low, high = (lambda s: _load_of_argument(1 / s)), 0.05, 1.5
    else:
        of, low, high = (lambda s: _load_of_noise(s, T)), 1e-4, 1.0
    grid = np.linspace(low, high, 30)
    loads = [of(s)[0] if of(s)[1].overlap > 1e-3 else 0.0 for s in grid]
    k = int(np.argmax(loads))
    left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]

    def minus(s: float) -> float:
        load, state = of(s)
        return -load if state.overlap > 1e-3 else 0.0

    options = {"xatol": 1e-10}
    best: Any = optimize.minimize_scalar(
        minus, None, (left, right), method="bounded", options=options
    )
    return of, low, float(best.x)


def critical_load(T: float | int = 0.0) -> float:
    r"""The largest load at which the classical network has retrieval states.

    $$\alpha_c(0) = 0.1379$$

    **Arguments:**

    - `T`: temperature, at least 0; above 1 there are none.

    **Returns:** $\alpha_c(T)$, replica symmetric; 0 for $T \ge 1$.

    **Raises:** `ValueError` for a negative temperature.

    **Reference:** Amit, Gutfreund and Sompolinsky 1987, Ann. Phys. 173, 30.
    """
    checks.at_least(T, 0, "critical_load: T")
    if T >= 1:
        return 0.0
    of, _, top = _branch(float(T))
    return of(top)[0]


def retrieval(alpha: float | int, T: float | int = 0.0) -> Retrieval:
    r"""The retrieval state of the classical network, from its mean-field equations.

    $$m = \int Dz \tanh \tfrac{\sqrt{\alpha r} z + m}{T}, \quad
    q = \int Dz \tanh^2 \tfrac{\sqrt{\alpha r} z + m}{T}, \quad
    r = \frac{q}{(1 - (1 - q) / T)^2}$$

    At $T = 0$ the means are error functions.

    **Arguments:**

    - `alpha`: load, above 0.
    - `T`: temperature, at least 0.

    **Returns:** a `Retrieval`; its overlap is 0 beyond `critical_load(T)`.

    **Raises:** `ValueError` for a load not above 0, or a negative temperature.

    **Reference:** Amit, Gutfreund and Sompolinsky 1985, Phys. Rev. Lett. 55, 1530, eq. 4 to 6 with
    one condensed pattern; replica symmetric.
    """
    positive(alpha, "retrieval: alpha")
    checks.at_least(T, 0, "retrieval: T")
    if alpha >= critical_load(float(T)):
        return _NONE
    of, low, top = _branch(float(T))
    if of(low)[0] >= alpha:
        return of(low)[1]
    return of(root(lambda s: of(s)[0] - alpha, low, top))[1]


def bit_error(alpha: float | int, T: float | int = 0.0) -> float:
    """The share of wrong bits of a retrieval state, $(1 - m) / 2$; one half where there is none."""
    return (1 - retrieval(alpha, T).overlap) / 2


def spin_glass_temperature(alpha: float | int) -> float:
    r"""Where the classical network freezes into states of no pattern: $T_g = 1 + \sqrt{\alpha}$.

    **Reference:** Amit, Gutfreund and Sompolinsky 1987, section 4.
    """
    checks.at_least(alpha, 0, "spin_glass_temperature: alpha")
    return 1 + math.sqrt(alpha)


def retrieval_temperature(alpha: float | int) -> float:
    r"""Up to which temperature the classical network has retrieval states, $T_M(\alpha)$.

    **Arguments:**

    - `alpha`: load, above 0.

    **Returns:** $T_M$, replica symmetric; 0 beyond `critical_load()`.

    **Reference:** Amit, Gutfreund and Sompolinsky 1987, figure 2.
    """
    positive(alpha, "retrieval_temperature: alpha")
    if alpha >= critical_load(_COLD):
        return 0.0
    return root(lambda T: critical_load(T) - alpha, _COLD, 1.0, 1e-6)


_COLD = 1e-5  # beyond it the equations are those of zero temperature, for a plot


def stability_temperature(alpha: float | int) -> float:
    r"""Up to which temperature retrieval states are the lowest in free energy, $T_c(\alpha)$.

    Between it and `retrieval_temperature` they are metastable.

    **Arguments:**

    - `alpha`: load, above 0.

    **Returns:** $T_c$, replica symmetric; 0 beyond a load of about 0.052, where spin-glass states
    are lower at every temperature. (The paper has 0.051.)

    **Reference:** Amit, Gutfreund and Sompolinsky 1987, figure 2.
    """
    top = retrieval_temperature(alpha)
    if top <= _COLD:
        return 0.0

    def gap(T: float | int) -> float:
        state = retrieval(alpha, T)
        return _free_energy(alpha, T, state) - _free_energy(alpha, T, _spin_glass(alpha, T))

    # Near the end of the line the gap changes its sign twice; the upper one is asked for.
    temperatures = np.linspace(top * (1 - 1e-4), _COLD, 8)
    for high, low in itertools.pairwise(temperatures):
        if gap(float(low)) < 0:
            return root(gap, float(low), float(high), 1e-6) if gap(float(high)) > 0 else top
    return 0.0


def replica_temperature(alpha: float | int) -> float:
    r"""Below which temperature the retrieval state breaks up into many: $T_R(\alpha)$.

    The line of de Almeida and Thouless, where

    $$\frac{\alpha}{T^2} \int Dz \cosh^{-4} \tfrac{\sqrt{\alpha r} z + m}{T}
    = \left(1 - \frac{1 - q}{T}\right)^2$$

    Above it the equations of `retrieval` hold; below it they are an approximation, whose error is
    small, as the line lies low.

    **Arguments:**

    - `alpha`: load, in (0, `critical_load()`).

    **Returns:** $T_R$; 0 where it is below 1e-5, or where there are no retrieval states.

    **Reference:** Amit, Gutfreund and Sompolinsky 1987, section 5.
    """
    top = retrieval_temperature(alpha)
    if top <= _COLD:
        return 0.0

    def gap(T: float | int) -> float:
        m, q, noise = retrieval(alpha, T)
        return alpha / T**2 * _mean(_sech(4), m, noise, T) - (1 - (1 - q) / T) ** 2

    high = top * (1 - 1e-6)
    if gap(_COLD) <= 0 or gap(high) >= 0:
        return 0.0 if gap(_COLD) <= 0 else top
    return root(gap, _COLD, high, 1e-6)


def _spin_glass(alpha: float | int, T: float | int) -> Retrieval:
    """The state without an overlap."""

    def of(noise: float) -> tuple[float, Retrieval]:
        response = _response(0.0, noise, T)
        q = 1 - T * response
        return _load(noise, q, response), Retrieval(0.0, q, noise)

    if spin_glass_temperature(alpha) <= T:
        return _NONE
    # The load is none as long as the response is above 1, and grows with the noise from there.
    low, high = 1e-3, 1.0
    while of(high)[0] < alpha:
        low, high = high, 2 * high
    return of(root(lambda s: of(s)[0] - alpha, low, high))[1]


def _free_energy(alpha: float | int, T: float | int, state: Retrieval) -> float:
    """The free energy of a unit in units of the coupling; eq. 3.12 of the 1987 paper."""
    m, q, noise = state
    left = 1 - (1 - q) / T
    if noise <= T:
        u = (noise * _Z + m) / T
        softened = T * float(np.logaddexp(u, -u) @ _WEIGHTS)
    else:  # a kink of its own width: the size of the field, and what is rounded off
        softened = m * math.erf(m / (math.sqrt(2) * noise)) + 2 * noise * float(_density(m / noise))
        softened += T * _mean(lambda u: np.log1p(np.exp(-2 * u)), m, noise, T)
    r = noise**2 / alpha
    return (
        0.5 * m**2
        + 0.5 * alpha
        + 0.5 * alpha * r * (1 - q) / T
        + 0.5 * alpha * T * (math.log(left) - q / T / left)
        - softened
    )


def error_free_capacity(N: int, *, every: bool = False) -> float:
    r"""How many patterns the classical network stores without an error.

    $$\frac{N}{2 \ln N} \text{ (almost all of them)}, \qquad \frac{N}{4 \ln N} \text{ (every one)}$$

    **Arguments:**

    - `N`: units, at least 2.
    - `every`: whether every pattern is to be a fixed point, or almost all.

    **Reference:** McEliece, Posner, Rodemich and Venkatesh 1987, IEEE Trans. Inf. Theory 33, 461.
    """
    checks.at_least(N, 2, "error_free_capacity: N")
    return N / ((4 if every else 2) * math.log(N))


def gardner_capacity(kappa: float | int = 0.0) -> float:
    r"""The largest load of a network of any couplings, for a stability of `kappa`.

    $$\alpha_c(\kappa)^{-1} = \int_{-\kappa}^\infty Dt\, (t + \kappa)^2$$

    2 at $\kappa = 0$: twice as many random patterns as units.

    **Reference:** Gardner 1988, J. Phys. A 21, 257.
    """
    density = math.exp(-0.5 * kappa**2) / math.sqrt(2 * math.pi)
    return 1 / ((1 + kappa**2) * float(special.ndtr(kappa)) + kappa * density)
