"""The symbol glossary: what each name and shape letter means everywhere in amlib.

| symbol | meaning |
|---|---|
| `Xi` | stored patterns (memories), one per row: `Float[Array, "K *shape"]` |
| `x` | state of the visible units; spins are -1/+1 floats: `Float[Array, "*shape"]` |
| `xhat` | activation of a layer, the gradient of its Lagrangian in its state |
| `K`, `D` | number of stored patterns; number of visible units (`x.size`) |
| `n_hidden` | number of hidden units: of memories, where each has one row of the weights |
| `h` | what each memory or hidden unit receives: overlaps `Xi @ x`, in a hierarchy `W @ xhat` |
| `q` | how many values a unit of a Potts memory has |
| `beta` | inverse temperature, > 0; one over a `temperature`, where a paper's formula has that |
| `n` | power of a polynomial energy |
| `d` | degree of an interaction function, which powers an overlap |
| `lam` | weight of the pattern that follows, beside that which is present |
| `J`, `b` | symmetric couplings `(D, D)`; field (bias) on each unit `(D,)` |
| `energy` | what recall lowers; a scalar, no unit |
| overlap `m` | `mean(x * xi)`, in [-1, 1]; 1 is perfect recall |
| force | what moves a state: minus the derivative of the energy |
| visit | one attempt to flip one bit |
| sweep | `D` visits |
| trajectory | the visits, steps or states of a recall, in order |
| `T` | length of a trajectory, and of every axis of time; no temperature |
| corrupt | flip, hide or disturb part of a pattern, so that recall has something to do |
| `CrossEntropy` | the loss of predicted classes: cross-entropy with the labels |
| `ReconstructionLoss` | the loss of a reconstructor; of any other map to a target, `Regression` |
"""

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray, PyTree, Shaped

Shape: TypeAlias = tuple[int, ...]
IntLike: TypeAlias = int | np.integer
RealLike: TypeAlias = int | float | np.integer | np.floating
"""A number known in Python: a count, a size, a spread. One that may be traced is a `ScalarLike`."""
ShapeLike: TypeAlias = IntLike | Sequence[IntLike]
"""A shape as users write it; an int is one axis."""
AxisLike: TypeAlias = int | Sequence[int] | None
"""An axis or several, from the end if negative; `None` for all."""
Nested: TypeAlias = ArrayLike | npt.ArrayLike | Sequence[ArrayLike] | Sequence[Sequence[ArrayLike]]
"""Numbers, arrays, nested lists of them, and what turns itself into an array of NumPy."""
PathLike: TypeAlias = str | os.PathLike[str]

Scalar: TypeAlias = Float[Array, ""]
ScalarLike: TypeAlias = Shaped[ArrayLike, ""]
"""What becomes a `Scalar`: a number, or an array of no axes, traced or not."""
States: TypeAlias = PyTree[Float[Array, "..."]]
"""A state (or an activation) for each layer, in a list or a dict as the layers are."""
StatesLike: TypeAlias = PyTree[Shaped[ArrayLike, "..."]]
"""States as users have them: floats, integers or bools."""
LagrangianFn: TypeAlias = Callable[[Array], Array]
EnergyFn: TypeAlias = Callable[[Array], Array]
Key: TypeAlias = PRNGKeyArray | Shaped[Array, "2"]
"""A new-style key `jax.random.key(0)` or an old-style one `jax.random.PRNGKey(0)`."""

_Method = TypeVar("_Method", bound=Callable[..., Any])


def hook(method: _Method) -> _Method:
    """Mark a method with a default that a subclass may override; no other concrete one may be."""
    method.__hook__ = True  # pyright: ignore[reportFunctionMemberAccess]
    return method
