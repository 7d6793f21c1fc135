"""The continuous memories of the literature. Each is an energy; recall comes with the base."""

import math
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Shaped

from amlib import _checks as checks
from amlib._compiled import compiled, in_full
from amlib._types import RealLike, Scalar
from amlib.continuous.base import ContinuousAM
from amlib.descent.streaming import flat_rows, logsumexp, row_norms


def values_field(values: ArrayLike | None) -> Array | None:
    """The converter of the optional values of a heteroassociative memory."""
    return None if values is None else checks.as_float(values, "values")


def bias_field(bias: ArrayLike | None) -> Array | None:
    """The converter of the optional bias of each pattern."""
    return None if bias is None else checks.as_float(bias, "bias")


def check_values(values: Array | None, K: int) -> None:
    """Raise unless there is one value per stored pattern."""
    if values is not None and (values.ndim < 2 or values.shape[0] != K or values.size == 0):
        raise ValueError(
            f"values: must have shape (K, V) with one row for each of the {K} patterns in Xi; "
            f"{values.shape} came."
        )


def finite_or_hidden(bias: Array, where: str) -> None:
    """Raise if a bias is known to hold NaN or +infinity."""
    known = checks.known(bias)
    if known is not None and (np.isnan(known) | (known == np.inf)).any():
        raise ValueError(
            f"{where}: must hold finite numbers or -inf, which hides; NaN or +inf came."
        )


def check_bias(bias: Array | None, K: int) -> None:
    """Raise unless there is one bias per stored pattern, and a pattern that is not hidden."""
    if bias is None:
        return
    if bias.shape != (K,):
        raise ValueError(
            f"bias: must have shape (K,) with one number for each of the {K} patterns in Xi; "
            f"{bias.shape} came."
        )
    finite_or_hidden(bias, "bias")
    known = checks.known(bias)
    if known is not None and (known == -np.inf).all(axis=-1).any():
        raise ValueError("bias: must leave a pattern visible; -inf came for all of them.")


def dot_scores(
    rows: tuple[Array, Array | None, Array | None], theta: tuple[Array, Array, Array | None]
) -> Array:
    r"""$\beta\, \xi_\mu \cdot x + b_\mu + v_\mu \cdot u$, with the terms that there are."""
    (Xi, values, bias), (x, beta, u) = rows, theta
    s = (beta * x) @ Xi.T  # scaled before the product, which is smaller than after
    s = s if bias is None else s + bias
    return s if u is None or values is None else s + values @ u


@in_full
def gaussian_scores(Xi: Array, theta: tuple[Array, Array]) -> Array:
    r"""$\beta(\xi_\mu \cdot x - \frac12 \|\xi_\mu\|^2)$, whose softmax weighs by distance."""
    x, beta = theta
    return (beta * x) @ Xi.T - 0.5 * beta * row_norms(Xi)


class ModernHopfield(ContinuousAM):
    r"""The modern Hopfield network, whose update is the attention of transformers.

    $$E(x) = -\frac{1}{\beta} \log \sum_\mu e^{\beta\, \xi_\mu \cdot x} + \frac12 \|x\|^2
    + \frac{1}{\beta} \log K + \frac12 M^2, \qquad M = \max_\mu \|\xi_\mu\|$$

    All constants are included, so that $0 \le E \le 2M^2$ for $\|x\| \le M$. The unit step is
    $x \leftarrow \Xi^\top \mathrm{softmax}(\beta\, \Xi x)$. It stores a number of patterns
    exponential in $D$, most of them retrieved in one step. Use it for dense real patterns of
    similar norm; large `beta` recalls single patterns, small `beta` their averages.

    A `bias` $b_\mu$ is added to the scores, so that a pattern counts $e^{b_\mu}$ times: $-\infty$
    hides it. Then $\log K$ above is $\log \sum_\mu e^{b_\mu}$, and $M$ that of visible patterns.

    More than `amlib.descent.streaming.STREAM_ABOVE` patterns are summed in blocks.

    **Arguments:**

    - `Xi`: stored patterns (the keys), see `ContinuousAM`.
    - `beta`: inverse temperature, > 0, in units of one over a dot product; trainable.
    - `values`: what `readout` returns for each pattern (heteroassociation), one row per pattern;
      `None` means the patterns themselves.
    - `bias`: the logarithm of how often each pattern counts, $-\infty$ to hide it; `None` means
      once.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar, or `values` or `bias` does
    not have one row for each pattern, or `bias` hides all of them.

    **Reference:** Ramsauer et al. 2021, eq. 2 and 3, Theorems 1 and 2, with their $N$ as $K$, and
    no bias.
    """

    unit_step: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)
    values: Float[Array, "K *value"] | None = eqx.field(converter=values_field, default=None)
    bias: Float[Array, " K"] | None = eqx.field(converter=bias_field, default=None)

    def __check_init__(self):
        check_values(self.values, self.Xi.shape[0])
        check_bias(self.bias, self.Xi.shape[0])

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`, constants included."""
        norms = row_norms(flat_rows(self.Xi))
        if self.bias is not None:
            norms = jnp.where(self.bias > -jnp.inf, norms, 0.0)
        return self._free_energy(x) + self._constant(self.Xi.shape[0], jnp.max(norms))

    def _free_energy(self, x: Array) -> Array:
        beta, rows = self.beta.astype(x.dtype), (flat_rows(self.Xi), None, self._bias(x.dtype))
        total = logsumexp(dot_scores, rows, (x.reshape(-1), beta, None))
        return 0.5 * jnp.sum(x * x) - total / beta

    def _constant(self, K: int, largest: Array) -> Array:
        bias = self._bias(largest.dtype)
        count = math.log(K) if bias is None else jax.nn.logsumexp(bias)
        return count / self.beta.astype(largest.dtype) + 0.5 * largest

    def _bias(self, dtype: jnp.dtype) -> Array | None:
        return None if self.bias is None else self.bias.astype(dtype)

    def readout(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*value"]:
        r"""What the memory associates with `x`: one update, read in the values.

        $$\sum_\mu \mathrm{softmax}(\beta\, \Xi x)_\mu v_\mu$$

        It is the gradient, at $u = 0$, of the log-sum-exp with a source term
        $v_\mu \cdot u$ added to the scores, and so it streams as the energy does.

        **Arguments:**

        - `x`: a state in the space of the patterns: a query, or the end of a recall.

        **Returns:** the weighted average of the values.

        **Raises:** `ValueError` for a wrong shape.
        """
        return _readout(self, type(self)._state(self, x, "readout", check=False))


@compiled
def _readout(model: ModernHopfield, x: Array) -> Array:
    values = model.Xi if model.values is None else model.values
    wide, state, rows = checks.widen((model, x, flat_rows(values)))

    def sourced(u: Array) -> Array:
        theta = (state.reshape(-1), wide.beta.astype(state.dtype), u)
        bias = wide._bias(state.dtype)
        return logsumexp(dot_scores, (flat_rows(wide.Xi), rows.astype(state.dtype), bias), theta)

    out = jax.grad(sourced)(jnp.zeros(rows.shape[1:], state.dtype))
    return out.reshape(values.shape[1:]).astype(values.dtype)


class GaussianMemory(ContinuousAM):
    r"""Log-sum-exp of squared distances: minus the log density of a Gaussian mixture.

    $$E(x) = -\frac{1}{\beta} \log \sum_\mu e^{-\frac{\beta}{2} \|x - \xi_\mu\|^2}$$

    No constants. The unit step is the mean shift
    $x \leftarrow \Xi^\top \mathrm{softmax}(-\frac{\beta}{2} \|x - \xi_\mu\|^2)$. Use it where the
    patterns have different norms: in `ModernHopfield` the longest ones win. It is the energy of
    diffusion models that have learned their data by heart.

    **Arguments:**

    - `Xi`: stored patterns, see `ContinuousAM`.
    - `beta`: inverse variance of the mixture, > 0, in units of one over a squared distance;
      trainable.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar.

    **Reference:** Saha et al. 2023 and Hoover et al. 2024 (arXiv 2410.24153), whose energy this is.
    Distances are computed as $\|x\|^2 - 2 \xi \cdot x + \|\xi\|^2$, so that
    batches are matrix products.
    """

    unit_step: ClassVar[bool] = True

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`; at least $-\\log(K)/\\beta$."""
        beta = self.beta.astype(x.dtype)
        total = logsumexp(gaussian_scores, flat_rows(self.Xi), (x.reshape(-1), beta))
        return 0.5 * jnp.sum(x * x) - total / beta


class EpanechnikovMemory(ContinuousAM):
    r"""Log-sum-ReLU of squared distances: exact one-step retrieval, and memories that emerge.

    $$E(x) = -\frac{1}{\beta} \log\left(\epsilon + \sum_\mu
    \max\left(0,\, 1 - \frac{\beta}{2} \|x - \xi_\mu\|^2\right)\right)$$

    Each pattern acts within the radius $\sqrt{2/\beta}$ only, so a state near one pattern alone
    returns to it exactly: see `for_radius` and `step_size`. Where supports overlap, their
    centroids become further minima, which store no pattern (emergent memories). Outside all
    supports the energy is flat, and infinite for `eps = 0`: a recall from there ends at once as
    not finite. Use it for exact recall, or to generate new patterns from stored ones.

    **Arguments:**

    - `Xi`: stored patterns, see `ContinuousAM`.
    - `beta`: two over the squared radius of the supports, > 0; trainable.
    - `eps`: floor of the sum, >= 0. A positive one makes the energy finite everywhere. It is not
      trained: a negative one is no energy.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar, or `eps` is negative.

    **Reference:** Hoover et al. 2025 (arXiv 2506.10801), Theorem 1 and Proposition 2.
    """

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)
    eps: Scalar = eqx.field(
        converter=lambda e: checks.as_float(e, "eps"), metadata={"trained": False}, default=0.0
    )

    def __check_init__(self):
        if checks.is_concrete(self.eps) and self.eps.ndim == 0:
            checks.at_least(float(self.eps), 0.0, "eps")

    @staticmethod
    def for_radius(Xi: Shaped[ArrayLike, "K *shape"], radius: RealLike) -> "EpanechnikovMemory":
        r"""The memory that retrieves exactly from within `radius` of any pattern.

        $$\beta = \frac{2}{(r - \Delta)^2}, \qquad r = \min_{\mu \ne \nu} \|\xi_\mu - \xi_\nu\|$$

        **Arguments:**

        - `Xi`: stored patterns, at least two.
        - `radius`: $\Delta$, in (0, $r / 2$): beyond half the least distance the patterns'
          own supports would no longer reach.

        **Returns:** an `EpanechnikovMemory`.

        **Raises:** `ValueError` for a radius out of range.

        **Reference:** Hoover et al. 2025, Theorem 1.
        """
        rows = flat_rows(checks.as_float(Xi, "Xi"))
        products = in_full(jnp.matmul)(rows, rows.T)
        squares = row_norms(rows)[:, None] + row_norms(rows)[None] - 2 * products
        squares = squares + jnp.diag(jnp.full(rows.shape[0], jnp.inf, rows.dtype))
        least = float(jnp.sqrt(jnp.maximum(jnp.min(squares), 0.0)))
        if not 0 < radius < least / 2:
            raise ValueError(
                f"for_radius: radius must lie in (0, {least / 2:.4g}), half the least distance "
                f"of two patterns; {radius} came."
            )
        return EpanechnikovMemory(Xi, 2.0 / (least - radius) ** 2)

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`; infinite outside all supports where `eps` is 0."""
        total, _ = self._supports(x)
        total = self.eps.astype(x.dtype) + total
        inside = total > 0
        log = jnp.where(inside, jnp.log(jnp.where(inside, total, 1.0)), -jnp.inf)
        return -log / self.beta.astype(x.dtype)

    def step_size(self, x: Float[Array, "*shape"]) -> Scalar:
        r"""The step along `update` that ends on the centroid of the patterns in reach.

        $$\eta = \frac{\epsilon + \sum_\mu \max(0, 1 - \frac{\beta}{2}\|x - \xi_\mu\|^2)}
        {\#\{\mu : \frac{\beta}{2}\|x - \xi_\mu\|^2 < 1\}}$$

        With one pattern in reach, `x + step_size(x) * update(x)` is that pattern.

        **Arguments:**

        - `x`: a state.

        **Returns:** $\eta$; 0 where no pattern is in reach.
        """
        total, reached = self._supports(x)
        total = self.eps.astype(x.dtype) + total
        return jnp.where(reached > 0, total / jnp.maximum(reached, 1.0), 0.0)

    @in_full
    def _supports(self, x: Array) -> tuple[Array, Array]:
        """The sum of the supports at `x`, and how many are positive."""
        rows, flat = flat_rows(self.Xi), x.reshape(-1)
        squares = jnp.sum(x * x) - 2 * (rows @ flat) + row_norms(rows)
        supports = jax.nn.relu(1 - 0.5 * self.beta.astype(x.dtype) * squares)
        return jnp.sum(supports), jnp.sum((supports > 0).astype(x.dtype))


class PolynomialMemory(ContinuousAM):
    r"""The dense associative memory with continuous units.

    $$E(x) = \sum_i (x_i g_i - \log\cosh x_i) - \frac{\beta D}{n} \sum_\mu \max(0, m_\mu)^n,
    \qquad g = \tanh x, \quad m_\mu = \frac{\xi_\mu \cdot g}{D}$$

    The state $x$ is the input of the units and $g$ their activation, in (-1, 1). Recall rests
    where $x = \beta \sum_\mu m_\mu^{n-1} \xi_\mu$. For -1/+1 patterns, up to about $D^{n-1}$ of
    them. Use it as the smooth counterpart of `PolynomialDenseAM`: its activations tend to spins
    for large `beta`.

    **Arguments:**

    - `Xi`: stored patterns, -1/+1, see `ContinuousAM`.
    - `n`: the power, an integer of at least 2.
    - `beta`: gain, > 0; trainable. Patterns are stable above about 1.72 for $n = 3$; the
      default of 3 stores them with activations of 0.99 up to $n$ of about 7.
    - `rectified`: whether negative overlaps count nothing; otherwise $m_\mu^n$ counts.

    **Raises:** `ValueError` for `n < 2` or `beta` not above 0, `TypeError` if `n` is no integer.

    **Reference:** Krotov and Hopfield 2021 (arXiv 2008.06996), eq. 1 to 4 and their model A, with
    the Lagrangian $\log\cosh$ of the visible units and a power of the hidden ones; overlaps are
    divided by $D$, so that `beta` does not depend on the size.
    """

    n: int = eqx.field(static=True, default=3)
    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=3.0)
    rectified: bool = eqx.field(static=True, default=True)

    def __check_init__(self):
        if isinstance(self.n, bool) or not isinstance(self.n, int):
            raise TypeError(f"PolynomialMemory: n must be an integer; {self.n!r} came.")
        checks.at_least(self.n, 2, "PolynomialMemory: n")

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`; bounded below for patterns in [-1, 1]."""
        g = self.activation(x)
        m = flat_rows(self.Xi) @ g.reshape(-1) / x.size
        m = jnp.maximum(m, 0.0) if self.rectified else m
        # log cosh without overflow
        logcosh = jnp.logaddexp(x, -x) - jnp.log(2.0).astype(x.dtype)
        pull = self.beta.astype(x.dtype) * (x.size / self.n) * jnp.sum(m**self.n)
        return jnp.sum(x * g - logcosh) - pull

    def activation(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """What the units send: the hyperbolic tangent of the state."""
        return jnp.tanh(x)
