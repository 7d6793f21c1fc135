"""The curvature of an energy: eigenvalues of its Hessian."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Integer, Shaped

from amlib import _checks as checks, _show as show
from amlib._compiled import compiled
from amlib._types import EnergyFn, Scalar
from amlib.analysis import _runs as runs
from amlib.descent.plan import scalar_output
from amlib.memory import AbstractMemory


class HessianSpectrum(NamedTuple):
    """The curvature of an energy at a state.

    The `eigenvalues` of the Hessian, rising; its `eigenvectors`, one per row, in the shape of the
    state; the `index`, how many eigenvalues are negative (0 at a minimum, 1 at a saddle between
    two); and the largest entry of the `gradient` in size, 0 at a fixed point.
    """

    eigenvalues: Float[Array, " D"]
    eigenvectors: Float[Array, "D *shape"]
    index: Integer[Array, ""]  # pyright: ignore[reportIncompatibleMethodOverride]
    gradient: Scalar

    __repr__ = show.text


def hessian_spectrum(memory: AbstractMemory, x: Shaped[ArrayLike, "*shape"]) -> HessianSpectrum:
    r"""The eigenvalues and eigenvectors of the Hessian of an energy at a state.

    $$\nabla^2 E(x) \, v_k = \lambda_k v_k$$

    ```python
    spectrum = am.analysis.hessian_spectrum(memory, memory.recall(x).x)
    spectrum.index == 0
    ```

    The matrix is formed: its size is that of the state squared.

    **Arguments:**

    - `memory`: a memory of real states.
    - `x`: one state; batches go through `jax.vmap`.

    **Returns:** a `HessianSpectrum`. Eigenvalues within rounding of 0, that is, the square root of
    the precision times the largest, do not count as negative.

    **Raises:** `TypeError` for a memory of bits, or one whose states are no arrays; `ValueError`
    for a state of another shape.
    """
    memory = runs.check_reals(memory, "hessian_spectrum")
    return _spectrum(memory, runs.state_of(memory, x, "hessian_spectrum"))


def hessian(energy: EnergyFn, x: Array) -> Array:
    """The Hessian of a function of a state as a matrix, symmetric to the last bit."""
    flat = lambda y: energy(y.reshape(x.shape))
    H = jax.jacfwd(jax.grad(flat))(x.reshape(-1))
    return 0.5 * (H + H.T)


def negative(eigenvalues: Array) -> Array:
    """How many eigenvalues are negative beyond rounding."""
    size = jnp.max(jnp.abs(eigenvalues))
    return jnp.sum(eigenvalues < -(float(jnp.finfo(size.dtype).eps) ** 0.5) * size)


@compiled
def _spectrum(memory: AbstractMemory, x: Array) -> HessianSpectrum:
    wide, x = checks.widen((memory, x))
    scalar_output(wide.energy, x)
    values, vectors = jnp.linalg.eigh(hessian(wide.energy, x))
    gradient = jnp.max(jnp.abs(jax.grad(wide.energy)(x)))
    return HessianSpectrum(values, vectors.T.reshape(-1, *x.shape), negative(values), gradient)


@compiled
def _index(memory: AbstractMemory, x: Array) -> Array:
    wide, x = checks.widen((memory, x))
    return negative(jnp.linalg.eigvalsh(hessian(wide.energy, x)))


def index_of(memory: AbstractMemory, xs: np.ndarray) -> np.ndarray:
    """The index of each of several states."""
    return np.asarray([int(_index(memory, jnp.asarray(x))) for x in xs])
