"""Compiled entry points, for which a Python float is a number like any other.

`equinox.filter_jit` compiles once for each value that is no array: a memory with a field
`beta: float` would compile anew for each `beta`. Here such numbers become arguments of the program,
weakly typed as Python's are, so that `self.beta * x` has the dtype of `x`.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend import core as jcore

from amlib.spaces import AbstractSpace

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def compiled(fn: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """The same function, compiled once for each kind of arguments, whatever their floats are.

    A function that asks for the value of such a number while it is traced (`if self.beta > 1:`,
    `math.sqrt(self.beta)`) could not take it as an argument, and powers would be slow
    (`h ** self.n` is a product only where `n` is known). The first call finds out; from then on,
    for arguments of that structure, a float is a part of the program, as it is written.
    """
    program = eqx.filter_jit(fn)
    as_written: set[Hashable] = set()

    @functools.wraps(fn)
    def call(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        assert not kwargs
        # The two values of a unit stay as they are: results of a batch hold the space, too.
        leaves, structure = jax.tree.flatten(args, is_leaf=_is_space)
        if float not in map(type, leaves) or (as_written and structure in as_written):
            return program(*args, **kwargs)
        given = [jnp.asarray(leaf) if type(leaf) is float else leaf for leaf in leaves]
        _trying.append(True)
        try:
            return program(*jax.tree.unflatten(structure, given))
        except (TypeError, ValueError, IndexError):  # as JAX's own about values not yet known
            pass
        finally:
            _trying.pop()
        out = program(*args, **kwargs)  # raises what is wrong whatever the floats are, if that was
        as_written.add(structure)
        return out

    return call


_trying: list[bool] = []
"""Not empty while a program is traced that takes floats as arguments."""


def check_powers(energy: jcore.ClosedJaxpr) -> None:
    """Raise `TypeError` for an exponent that is an argument and was a float: see `compiled`."""
    if _trying:
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
