r"""The core of a layer: any energy that is built from stored patterns.

A core is a class, or what else is called with patterns `Xi`, `(K, D)`, and gives a `ContinuousAM`.
Of the keywords `beta`, `values` and `bias` it gets those that it takes: `am.ModernHopfield` takes
all, `am.SparseHopfield` has a `beta`, and a memory of your own with `Xi` alone will do.

| keyword | what it is | a core without it |
|---|---|---|
| `beta` | the inverse temperature of the layer | must not be given one |
| `values` | what `readout` returns of each pattern | gives the state it ends in |
| `bias` | 0, or $-\infty$ for what a mask hides | can't take masks |
"""

import functools
import inspect
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from amlib import _checks as checks
from amlib._compiled import in_networks
from amlib.continuous.attend import with_some
from amlib.continuous.base import AbstractContinuousAM
from amlib.descent.gradients import Euler
from amlib.descent.implicit import implicit
from amlib.descent.methods import descend
from amlib.descent.problems import Problem
from amlib.spaces import as_reals

Core: TypeAlias = Callable[..., AbstractContinuousAM]

WORDS = frozenset(("beta", "values", "bias"))


def words_of(core: Core, where: str) -> frozenset[str]:
    """Which of the keywords a core takes; those that a `functools.partial` fixes stay fixed."""
    if not callable(core) or isinstance(core, AbstractContinuousAM):
        raise TypeError(
            f"{where}: core: must make a ContinuousAM of patterns; {type(core).__name__} came. "
            "Pass the class, core=am.ModernHopfield, or core=lambda Xi: MyMemory(Xi, 3.0)."
        )
    parameters = inspect.signature(core).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        found = set(WORDS)
    else:
        by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        found = WORDS & {p.name for p in parameters if p.kind in by_name}
    fixed = core.keywords if isinstance(core, functools.partial) else {}
    return frozenset(found - fixed.keys())


def memory_of(
    core: Core,
    Xi: Float[Array, "K D"],
    beta: Array | None,
    values: Array | None,
    bias: Array | None,
    where: str,
) -> AbstractContinuousAM:
    """The memory over these patterns; raise for a core that can't do what is asked of it."""
    given = {"beta": beta, "values": values, "bias": bias}
    given = {name: value for name, value in given.items() if value is not None}
    if "bias" in given and "bias" not in words_of(core, where):
        raise ValueError(
            f"{where}: core: must take bias= where a mask hides patterns; {_name(core)} does not. "
            "Add bias to its scores (-inf hides), or leave out the mask."
        )
    memory = core(Xi, **given)
    if not isinstance(memory, AbstractContinuousAM):
        raise TypeError(
            f"{where}: core: must make a ContinuousAM of patterns; it made a "
            f"{type(memory).__name__}. Pass the class of a memory, core=am.ModernHopfield."
        )
    return memory


def _name(core: Core) -> str:
    if isinstance(core, functools.partial):
        return _name(core.func)
    return getattr(core, "__name__", type(core).__name__)


@in_networks
def ask(
    core: Core,
    Xi: Float[Array, "K D"],
    states: Float[Array, "S D"],
    beta: Array | None,
    values: Float[Array, "K V"] | None,
    bias: Float[Array, "*S K"] | None,
    steps: int | None,
    where: str,
) -> Float[Array, "S out"]:
    """Update states, and read them out in the values; without values, by a last update.

    **Arguments:**

    - `steps`: updates before the last; `None` for rest.
    - `bias`: for all states, or of each.
    """
    some = None
    if bias is not None:
        bias, some = with_some(bias)

    def one(x: Array, bias: Array | None) -> Array:
        make = lambda values: memory_of(core, Xi, beta, values, bias, where)
        if values is None:
            return update(make(None), x, None if steps is None else steps + 1)
        return make(values).readout(update(make(None), x, steps))  # pyright: ignore[reportAttributeAccessIssue]

    each = bias is not None and bias.ndim > 1
    out = jax.vmap(one, in_axes=(0, 0 if each else None))(states, bias)
    if some is None:
        return out
    return jnp.where(some[..., None], out, 0.0)


def update(memory: AbstractContinuousAM, x: Float[Array, " D"], steps: int | None) -> Array:
    r"""The state after so many steps, or at rest.

    Unit steps $x - \nabla E(x)$ where the memory says that they are an update; else steps of its
    own method. At rest the derivative is that of the implicit function theorem.
    """
    if steps == 0:
        return x
    wide, start = checks.widen((memory, x))
    method = wide.default_method()
    if steps is not None:
        method = Euler(1.0) if wide.unit_step else method
        end = descend(wide.energy, start, method, space=wide.space, max_steps=steps).x
        return end.astype(x.dtype)
    problem = Problem(wide.energy, as_reals(wide.space))
    rest = lambda x0: (descend(wide.energy, x0, method, space=wide.space).x, ())
    return implicit(problem, start, rest, None)[0].astype(x.dtype)
