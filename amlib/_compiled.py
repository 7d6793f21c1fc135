"""Compiled entry points, for which a Python float is a number like any other.

`equinox.filter_jit` compiles once for each value that is no array: a memory with a field
`beta: float` would compile anew for each `beta`. Here such numbers become arguments of the program,
weakly typed as Python's are, so that `self.beta * x` has the dtype of `x`.
"""

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core as jcore

from amlib.spaces import AbstractSpace

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class compiled(Generic[_Given, _Made]):  # noqa: N801: a decorator
    """The same function, compiled once for each kind of arguments, whatever their floats are.

    A function that asks for the value of such a number while it is traced (`if self.beta > 1:`,
    `math.sqrt(self.beta)`) could not take it as an argument, and powers would be slow
    (`h ** self.n` is a product only where `n` is known). The first call finds out; from then on,
    for arguments of that structure, a float is a part of the program, as it is written.
    """

    def __init__(self, fn: Callable[_Given, _Made]):
        functools.update_wrapper(self, fn)
        self._program: Any = eqx.filter_jit(fn)
        self._as_written: set[Hashable] = set()

    def __call__(self, *args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        assert not kwargs
        return self._with(self._program, args)

    def prepare(self, *args: _Given.args, **kwargs: _Given.kwargs) -> Callable[[], object]:
        """Trace the function for a call to come, and return what compiles it, in any thread."""
        assert not kwargs
        return self._with(self._program.lower, args).compile

    def _with(self, use: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if float not in map(type, jax.tree.leaves(args)):
            return use(*args)
        # The two values of a unit stay as they are: results of a batch hold the space, too.
        leaves, structure = jax.tree.flatten(args, is_leaf=_is_space)
        if structure in self._as_written:
            return use(*args)
        given = [jnp.asarray(leaf) if type(leaf) is float else leaf for leaf in leaves]
        before, _trying.now = _trying.now, True
        try:
            return use(*jax.tree.unflatten(structure, given))
        except (TypeError, ValueError, IndexError):  # as JAX's own about values not yet known
            pass
        finally:
            _trying.now = before
        out = use(*args)  # raises what is wrong whatever the floats are, if that was it
        self._as_written.add(structure)
        return out


class _Trying(threading.local):
    """Whether a program is being traced that takes floats as arguments."""

    now = False


_trying = _Trying()


def check_powers(energy: jcore.ClosedJaxpr) -> None:
    """Raise `TypeError` for an exponent that is an argument and was a float: see `compiled`."""
    if _trying.now:
        scalars = {v for v in energy.jaxpr.constvars if v.aval.weak_type and not v.aval.shape}
        if scalars and _has_exponent(energy.jaxpr, scalars):
            raise TypeError("the exponent of a power must be known")


def _has_exponent(jaxpr: Any, scalars: set[Any]) -> bool:
    """Whether one of these, or what is made of them alone, is the exponent of a power."""
    made = lambda v: not isinstance(v, jcore.Literal) and v in scalars
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "pow" and made(eqn.invars[1]):
            return True
        for inner in eqn.params.values():
            if isinstance(inner, jcore.ClosedJaxpr) and len(inner.in_avals) == len(eqn.invars):
                pairs = zip(inner.jaxpr.invars, eqn.invars, strict=True)
                if _has_exponent(inner.jaxpr, {v for v, outer in pairs if made(outer)}):
                    return True
        if eqn.invars and all(isinstance(v, jcore.Literal) or made(v) for v in eqn.invars):
            scalars = scalars.union(eqn.outvars)
    return False


def _is_space(a: object) -> bool:
    return isinstance(a, AbstractSpace)
