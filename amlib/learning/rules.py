r"""Storage rules: patterns in, couplings out, with no gradient.

| rule | stores (random patterns) | one at a time | needs |
|---|---|---|---|
| `hebb` | $0.138 D$, with about 1.6 % of the bits wrong | yes | nothing |
| `storkey` | more than `hebb`: $D / \sqrt{2 \ln D}$ without errors | yes, order counts | nothing |
| `pseudo_inverse` | up to $D$, correlated ones too | yes | overlaps of all patterns |
| `covariance` | sparse 0/1 ones, $D / (2 a \lvert\ln a\rvert)$ as $a \to 0$ | yes | activity $a$ |
| `unlearning` | `hebb`, with fewer spurious states | it is a treatment | recalls |

All couplings are symmetric, float arrays `(D, D)` for `BipolarIsing`. The diagonal is zero unless
`self_coupling=True`. It has no influence on recall by `BipolarIsing`, which compares energies, but
it has on rules that iterate $x \leftarrow \mathrm{sign}(J x)$.

```python
J = am.learning.rules.pseudo_inverse(Xi)
end = am.BipolarIsing(J).recall(noisy)
```

Where a rule takes `J`, it adds to couplings that are there; patterns may then come one by one.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float

from amlib import _checks as checks
from amlib._compiled import in_full
from amlib._types import Key
from amlib.binary import BipolarIsing
from amlib.descent import Sweeps, descend

Couplings = Float[Array, "D D"]


def hebb(Xi: ArrayLike, J: ArrayLike | None = None, *, self_coupling: bool = False) -> Couplings:
    r"""Add up the outer products of the patterns.

    $$J_{ij} = \frac{1}{D} \sum_\mu \xi^\mu_i \xi^\mu_j$$

    **Arguments:**

    - `Xi`: patterns of -1/+1, `(K, D)`; pictures are flattened, and a single pattern `(D,)` may
      come alone.
    - `J`: couplings of patterns stored before; they are added to.
    - `self_coupling`: keep the diagonal ($K/D$) and not set it to 0.

    **Returns:** the couplings.

    **Raises:** `ValueError` for patterns that are not spins, or a `J` of another shape.

    **Reference:** Hopfield 1982, eq. 2, over D; capacity: Amit, Gutfreund and Sompolinsky 1985.
    """
    Xi, J = _patterns(Xi, J, "hebb")
    return _diagonal(J + Xi.T @ Xi / Xi.shape[1], self_coupling)


@in_full
def storkey(Xi: ArrayLike, J: ArrayLike | None = None) -> Couplings:
    r"""Add patterns one after the other, each less what the couplings already say of it.

    $$J_{ij} \leftarrow J_{ij}
    + \frac{1}{D} \left( \xi_i \xi_j - \xi_i h_{ji} - h_{ij} \xi_j \right), \qquad
    h_{ij} = \sum_{k \ne i, j} J_{ik} \xi_k$$

    The order of the patterns counts. Self-couplings are zero throughout.

    **Arguments:**

    - `Xi`, `J`: as in `hebb`; a diagonal of `J` is dropped.

    **Returns:** the couplings.

    **Raises:** as `hebb`.

    **Reference:** Storkey 1997, ICANN, 451 (the second-order rule; with the diagonal set to zero);
    capacity: Storkey and Valabregue 1999, Neural Networks 12, 869.
    """
    Xi, J = _patterns(Xi, J, "storkey")
    return _storkey(Xi, _diagonal(J, False))


@jax.jit
def _storkey(Xi: Array, J: Array) -> Array:
    D = Xi.shape[1]

    def add(J: Array, xi: Array) -> tuple[Array, None]:
        # h_ij leaves out k = j; k = i is left out by the zero diagonal of J.
        h = (J @ xi)[:, None] - J * xi[None, :]
        outer = xi[:, None] * xi[None, :]
        J = J + (outer - xi[:, None] * h.T - h * xi[None, :]) / D
        return _diagonal(J, False), None

    return lax.scan(add, J, Xi)[0]


@in_full
def pseudo_inverse(
    Xi: ArrayLike, J: ArrayLike | None = None, *, self_coupling: bool = False
) -> Couplings:
    r"""Project onto the space that the patterns span.

    $$J = \Xi^\top (\Xi \Xi^\top)^{-1} \Xi = \Xi^+ \Xi$$

    With its diagonal, $J \xi = \xi$ for every stored pattern, exactly, however correlated they
    are, as long as they are linearly independent: up to D of them. Patterns that depend on others
    change nothing.

    One at a time, a pattern adds what it has outside the space so far (Greville's theorem):

    $$J \leftarrow J + \frac{r r^\top}{r^\top r}, \qquad r = \xi - J \xi$$

    **Arguments:**

    - `Xi`: as in `hebb`.
    - `J`: a projection, with its diagonal (`self_coupling=True`), onto patterns stored before.
    - `self_coupling`: keep the diagonal and not set it to 0.

    **Returns:** the couplings.

    **Raises:** as `hebb`; and for a `J` without its diagonal, which is no projection.

    **Reference:** Personnaz, Guyon and Dreyfus 1985, J. Phys. Lett. 46, L359; Kanter and
    Sompolinsky 1987, Phys. Rev. A 35, 380 (without the diagonal).
    """
    alone = J is None
    Xi, J = _patterns(Xi, J, "pseudo_inverse")
    D = Xi.shape[1]
    tolerance = 10 * D * float(jnp.finfo(Xi.dtype).eps)
    if alone:
        _, s, rows = jnp.linalg.svd(Xi, full_matrices=False)
        kept = (s > tolerance * s[0]).astype(Xi.dtype)
        return _diagonal((rows.T * kept[None, :]) @ rows, self_coupling)
    if checks.is_concrete(J):
        checks.require(
            J,
            jnp.abs(J @ J - J).max() > 1e-3,
            "pseudo_inverse: J must be a projection, J @ J = J; it is not. Make it by "
            "pseudo_inverse(Xi, self_coupling=True): without its diagonal it cannot go on.",
        )

    def add(J: Array, xi: Array) -> tuple[Array, None]:
        r = xi - J @ xi
        r = r - J @ r  # again: what rounding left inside the space
        size = jnp.dot(r, r)
        new = size > tolerance**2 * D
        step = jnp.where(new, 1 / jnp.where(new, size, 1.0), 0.0)
        return J + step * r[:, None] * r[None, :], None

    return _diagonal(lax.scan(add, J, Xi)[0], self_coupling)


@in_full
def covariance(
    Xi: ArrayLike,
    J: ArrayLike | None = None,
    *,
    activity: ArrayLike | None = None,
    self_coupling: bool = False,
) -> tuple[Couplings, Float[Array, " D"]]:
    r"""Store sparse patterns of 0 and 1 by their deviations from the mean activity.

    $$J_{ij} = \frac{1}{a (1 - a) D} \sum_\mu (\eta^\mu_i - a)(\eta^\mu_j - a)$$

    Sparse patterns are correlated, and `hebb` stores few of them; their deviations are not. With
    spins $x = 2 \eta - 1$ as units of `BipolarIsing`, the field that acts on a unit shall be that
    of the units at 1, $\sum_j J_{ij} (\eta_j - a)$, against a threshold half-way between what ones
    and zeros of a stored pattern get, $\theta = \frac{1}{2} - a$. As $\eta_j - a =
    \frac{1}{2} (x_j + 1 - 2 a)$, that is the energy with

    $$J' = \frac{J}{2}, \qquad h_i = \left(\frac{1}{2} - a\right) \sum_j J_{ij} - \theta$$

    **Arguments:**

    - `Xi`: patterns of 0/1 (or False/True), as in `hebb`.
    - `J`: couplings $J'$ from before, with the same activity; they are added to.
    - `activity`: $a$, the share of ones, in (0, 1); `None` takes that of `Xi`. Needed with `J`.
    - `self_coupling`: keep the diagonal and not set it to 0.

    **Returns:** the couplings $J'$ and the fields $h$: `BipolarIsing(*covariance(eta))` recalls
    states `2 * eta - 1`.

    **Raises:** `ValueError` for patterns that are not 0/1, an activity outside (0, 1), and a `J` of
    another shape.

    **Reference:** Tsodyks and Feigel'man 1988, Europhys. Lett. 6, 101 (there with a
    free threshold); Amari 1989, Neural Networks 2, 451.
    """
    eta = checks.as_float(Xi, "covariance: Xi")
    if jnp.asarray(Xi).dtype == bool:  # spins by now
        eta = (eta + 1) / 2
    J_came = J is not None
    eta, J = _shaped(eta, J, "covariance")
    if checks.is_concrete(eta):
        checks.require(
            eta,
            ((eta != 0) & (eta != 1)).any(),
            "covariance: Xi must hold only 0 and 1; other values came. "
            "Spins -1/+1 become bits by (Xi + 1) / 2.",
        )
    if J_came and activity is None:
        raise ValueError(
            "covariance: couplings that are added to need the activity that they were made with; "
            "none came. Pass activity=0.1, or whatever it was."
        )
    a = eta.mean() if activity is None else checks.as_float(activity, "covariance: activity")
    if a.shape != ():
        raise ValueError(f"covariance: activity must be a scalar; shape {a.shape} came.")
    a = a.astype(eta.dtype)
    if checks.is_concrete(a):
        checks.require(
            a,
            ~((a > 0) & (a < 1)),
            f"covariance: the activity must lie in (0, 1); {a} came. "
            "Patterns that are all 0 or all 1 hold nothing to store.",
        )
    deviation = eta - a
    J = J + 0.5 * deviation.T @ deviation / (a * (1 - a) * eta.shape[1])
    J = _diagonal(J, self_coupling)
    # The fields are those of the whole J: all couplings are J' = J / 2.
    return J, (0.5 - a) * 2 * J.sum(1) - (0.5 - a)


def unlearning(
    J: ArrayLike, key: Key, *, rate: ArrayLike = 0.01, rounds: int = 100, max_sweeps: int = 100
) -> Couplings:
    r"""Weaken what recall from random states finds: mostly mixtures that nobody stored.

    $$J_{ij} \leftarrow J_{ij} - \frac{\epsilon}{D} s_i s_j, \qquad
    s = \text{recall}(\text{random state})$$

    Too many rounds destroy the memory: choose them by measuring what is still recalled.

    **Arguments:**

    - `J`: symmetric couplings, for instance by `hebb`. The diagonal is set to 0.
    - `key`: for the random states and the order of visits.
    - `rate`: $\epsilon$ > 0, relative to the weight of a pattern under `hebb`, which is 1.
    - `rounds`: how many states are unlearned, one after the other, at least 1.
    - `max_sweeps`: step limit of each recall, at least 1.

    **Returns:** the couplings.

    **Raises:** `ValueError` for couplings that `BipolarIsing` refuses, and arguments out of range.

    **Reference:** Hopfield, Feinstein and Palmer 1983, Nature 304, 158 (there $\epsilon = 0.01$).
    """
    rounds = checks.integer(rounds, 1, "unlearning: rounds")
    max_sweeps = checks.integer(max_sweeps, 1, "unlearning: max_sweeps")
    rate = checks.positive(checks.as_float(rate, "unlearning: rate"), "unlearning: rate")
    J = BipolarIsing(J).J
    return _unlearn(_diagonal(J, False), key, rate.astype(J.dtype), rounds, max_sweeps)


@eqx.filter_jit
def _unlearn(J: Array, key: Key, rate: Array, rounds: int, max_sweeps: int) -> Array:
    D = J.shape[0]

    def forget(J: Array, k: Array) -> tuple[Array, None]:
        starting, visiting = jax.random.split(jax.random.fold_in(key, k))
        x0 = jax.random.rademacher(starting, (D,), J.dtype)
        energy = lambda x: -0.5 * jnp.dot(x, J @ x)
        end = descend(energy, x0, Sweeps(record=0), key=visiting, max_steps=max_sweeps).x
        return _diagonal(J - rate / D * end[:, None] * end[None, :], False), None

    return lax.scan(forget, J, jnp.arange(rounds))[0]


# -- the boundary ------------------------------------------------------------------------------


def _patterns(Xi: ArrayLike, J: ArrayLike | None, where: str) -> tuple[Array, Array]:
    """Spin patterns `(K, D)` and couplings `(D, D)`."""
    Xi = checks.spins(checks.as_float(Xi, f"{where}: Xi"), f"{where}: Xi")
    return _shaped(Xi, J, where)


def _shaped(Xi: Array, J: ArrayLike | None, where: str) -> tuple[Array, Array]:
    """Flat patterns in float32 at least, and couplings that fit them, zero if none came."""
    if Xi.ndim == 0 or Xi.size == 0:
        raise ValueError(
            f"{where}: Xi must hold patterns, (K, D) with K and D at least 1; {Xi.shape} came."
        )
    Xi = Xi.reshape(1 if Xi.ndim == 1 else Xi.shape[0], -1)
    if jnp.finfo(Xi.dtype).bits < 32:
        Xi = Xi.astype(jnp.float32)
    D = Xi.shape[1]
    if J is None:
        return Xi, jnp.zeros((D, D), Xi.dtype)
    J = checks.as_float(J, f"{where}: J")
    if J.shape != (D, D):
        raise ValueError(
            f"{where}: J must have shape {(D, D)} to fit patterns of {D} units; {J.shape} came."
        )
    if checks.is_concrete(J):
        checks.finite(J, f"{where}: J")
    return Xi, J.astype(Xi.dtype)


def _diagonal(J: Array, keep: bool) -> Array:
    return J if keep else J * (1 - jnp.eye(J.shape[0], dtype=J.dtype))
