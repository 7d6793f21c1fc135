"""The symbol glossary: what each name and shape letter means everywhere in amlib.

| symbol | meaning |
|---|---|
| `Xi` | stored patterns, one per row: `Float[Array, "K *shape"]` |
| `x` | state of the visible units; spins are -1/+1 floats: `Float[Array, "*shape"]` |
| `K`, `D` | number of stored patterns (memories); number of visible units (`x.size`) |
| `h` | overlaps `Xi @ x`, and in `descent` any carried value affine in `x` |
| `beta` | inverse temperature, > 0 |
| `n` | power of a polynomial energy |
| `J`, `b` | symmetric couplings `(D, D)`; field (bias) on each unit `(D,)` |
| `energy` | what recall lowers; a scalar, no unit |
| overlap `m` | `mean(x * xi)`, in [-1, 1]; 1 is perfect recall |
| visit | one attempt to flip one bit |
| sweep | `D` visits |
| `T` | number of visits that a trajectory records |
| trajectory | the states that a recall goes through, and their energies |
| force | minus the gradient of the energy; what an energy adds to the motion of a state |
| corrupt | change a pattern at random; what comes of it is the noisy or corrupted one |
| `CrossEntropy` | the loss of predicted classes: cross-entropy with the labels |
| `ReconstructionLoss` | the loss of a reconstructor; of any other map to a target, `Regression` |
"""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

from jaxtyping import Array, Float, PRNGKeyArray, Shaped

Scalar: TypeAlias = Float[Array, ""]
EnergyFn: TypeAlias = Callable[[Array], Array]
Key: TypeAlias = PRNGKeyArray | Shaped[Array, "2"]
"""A new-style key `jax.random.key(0)` or an old-style one `jax.random.PRNGKey(0)`."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


def hook(method: _Method) -> _Method:
    """Mark a method with a default that a subclass may override; no other concrete one may be."""
    method.__hook__ = True  # pyright: ignore[reportFunctionMemberAccess]
    return method
