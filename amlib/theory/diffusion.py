r"""When a diffusion that runs backward makes up its mind: for a class, then for a pattern.

Times are given as the variance of the noise, $\sigma^2 t = 1 / \beta$, in units of the squared
state: the larger, the earlier on the way back. Published times are of a process with a drift,
$dx = -x\, dt + \sqrt 2\, dW$, in which $x_t e^t$ diffuses as here with $\sigma^2 t = e^{2t} - 1$.
"""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Shaped

from amlib import _checks as checks
from amlib._types import Nested
from amlib.descent.streaming import flat_rows
from amlib.theory._solve import positive, root


def speciation_variance(Xi: Shaped[ArrayLike, "K *shape"]) -> float:
    r"""At which noise the mean of all patterns loses its stability: the largest variance.

    $$\sigma^2 t_S = \lambda_{max}(C), \qquad C = \frac1K \sum_\mu (\xi_\mu - \bar \xi)
    (\xi_\mu - \bar \xi)^\top$$

    The Hessian of the energy at noise $\tau$ is $1 - C_x / \tau$, with the covariance $C_x$ of the
    patterns as they are weighed at $x$; at the mean, while $\tau$ is large, that is $C$. Below,
    states leave for one class or another, if classes lie along the first axis of the patterns. It
    is exact for two patterns, and for a Gaussian cloud; of other patterns the weights at the mean
    are not even, and the order of magnitude is meant.

    **Arguments:**

    - `Xi`: the patterns, at least two.

    **Returns:** the variance of the noise.

    **Raises:** `ValueError` for fewer than two patterns.

    **Reference:** Biroli et al. 2024 (arXiv 2402.18491), the speciation time: there it is
    $t_S = \frac12 \log \Lambda$, for a large $\Lambda = \lambda_{max}$.
    """
    Xi = checks.as_float(Xi, "speciation_variance: Xi")
    if Xi.ndim < 2 or Xi.shape[0] < 2:
        raise ValueError(
            f"speciation_variance: Xi must be two patterns or more, one per row; shape {Xi.shape} "
            "came."
        )
    rows = flat_rows(checks.finite(Xi, "speciation_variance: Xi"))
    rows = rows - jnp.mean(rows, axis=0, keepdims=True)
    K, D = rows.shape
    products = rows @ rows.T if K < D else rows.T @ rows  # both have the same largest eigenvalue
    return float(jnp.linalg.eigvalsh(products)[-1]) / K


def excess_entropy(variances: Nested, noise: float | int) -> float:
    r"""What a noisy state of Gaussian data tells of the state that it came from, in nats.

    $$I = \frac12 \sum_i \log\left(1 + \frac{\lambda_i}{\sigma^2 t}\right)$$

    **Arguments:**

    - `variances`: the eigenvalues $\lambda_i$ of the data's covariance, at least 0.
    - `noise`: the variance of the noise, $\sigma^2 t$, above 0.

    **Returns:** the entropy of noisy data, less that of the noise.

    **Reference:** Biroli et al. 2024 (arXiv 2402.18491), the excess entropy, of Gaussian data.
    """
    positive(noise, "excess_entropy: noise")
    return 0.5 * float(np.log1p(_variances(variances, "excess_entropy") / noise).sum())


def collapse_variance(variances: Nested, K: float | int) -> float:
    r"""Below which noise the pattern that a state will end at is decided, of `K` Gaussian ones.

    $$\log K = \frac12 \sum_i \log\left(1 + \frac{\lambda_i}{\sigma^2 t_C}\right), \qquad
    \lambda_i = \lambda: \quad \sigma^2 t_C = \frac{\lambda}{K^{2/D} - 1}$$

    Above, a state is as close to many patterns as to the one that it came from, and the density is
    that of the data; below, the sum over patterns is one pattern's, a condensation as in the
    random-energy model. To keep it off, the number of patterns must grow exponentially with the
    dimension.

    **Arguments:**

    - `variances`: the eigenvalues $\lambda_i$ of the data's covariance, at least 0, one above.
    - `K`: how many patterns, above 1.

    **Returns:** the variance of the noise.

    **Raises:** `ValueError` for values out of range.

    **Reference:** Biroli et al. 2024 (arXiv 2402.18491), the collapse time: there
    $t_C = \frac12 \log(1 + \lambda / (K^{2/D} - 1))$.
    """
    values = _variances(variances, "collapse_variance")
    if not (math.isfinite(K) and K > 1):
        raise ValueError(f"collapse_variance: K must be finite and above 1; {K} came.")
    if not values.max() > 0:
        raise ValueError("collapse_variance: one of the variances must be above 0; none is.")
    logs = np.log(values[values > 0])
    # The sum lies between that of the largest alone and that of as many as large ones.
    scale, target = float(logs.max()), math.log(K)
    low, high = scale - 2 * target - 1, scale + math.log(logs.size) - math.log(target) + 1
    gap = lambda u: 0.5 * float(np.logaddexp(0, logs - u).sum()) - target
    return math.exp(root(gap, low, high))


def _variances(variances: Nested, where: str) -> np.ndarray:
    values = np.asarray(variances, float).reshape(-1)
    if not values.size or not np.isfinite(values).all() or (values < 0).any():
        raise ValueError(
            f"{where}: variances must be one or more finite numbers of at least 0; others came. Of "
            "eigenvalues that rounding made negative take np.maximum(variances, 0)."
        )
    return values
