"""Compiled entry points, for which a Python float is a number like any other.

`equinox.filter_jit` compiles once for each value that is no array: a memory with a field
`beta: float` would compile anew for each `beta`. Here such numbers become arguments of the program,
weakly typed as Python's are, so that `self.beta * x` has the dtype of `x`. Their matrix products
are in full (`in_full`).

Arrays of integers in a module, such as the edges of a graph, are the other way round: they say
which units a term of the energy reads, so they are known while it is traced, and others are another
program.
"""

import functools
import threading
from collections.abc import Callable, Hashable
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jcore

from amlib import _shards as shards
from amlib._checks import is_concrete
from amlib.spaces import AbstractSpace

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def _products(precision: str) -> Callable[[Callable[_Given, _Made]], Callable[_Given, _Made]]:
    """A decorator: matrix products in this precision unless another was asked for."""

    def decorate(fn: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
        @functools.wraps(fn)
        def run(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
            if jax.config.jax_default_matmul_precision is not None:  # pyright: ignore
                return fn(*args, **kwargs)
            with jax.default_matmul_precision(precision):
                return fn(*args, **kwargs)

        return run

    return decorate


in_full = _products("highest")
"""The same function, with matrix products in full unless another precision was asked for.

GPUs and TPUs round the factors of a float32 product to 8 or 10 bits by default. Two energies that
differ by less are then in any order: a recall may end where a flip still lowers the energy, and
distances to patterns are lost in their norms.
"""

in_networks = _products("default")
"""The same function, with matrix products as those around it in a network: as JAX is set."""


class compiled(Generic[_Given, _Made]):
    """The same function, compiled once for each kind of arguments, whatever their floats are.

    A function that asks for the value of such a number while it is traced (`if self.beta > 1:`,
    `math.sqrt(self.beta)`) could not take it as an argument, and powers would be slow
    (`h ** self.n` is a product only where `n` is known). The first call finds out; from then on,
    for arguments of that structure, a float is a part of the program, as it is written.
    """

    def __init__(self, fn: Callable[_Given, _Made]):
        functools.update_wrapper(self, fn)
        self._program: Any = eqx.filter_jit(_with_indices(shards.local(in_full(fn))))
        self._as_written: set[Hashable] = set()

    def __call__(self, *args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        assert not kwargs
        return self._with(self._program, args)

    def prepare(self, *args: _Given.args, **kwargs: _Given.kwargs) -> Callable[[], object]:
        """Trace the function for a call to come, and return what compiles it, in any thread."""
        assert not kwargs
        return self._with(self._program.lower, args).compile

    def _with(self, use: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        plain, indices = jax.tree.leaves(args), _NO_INDICES
        if any(map(_is_index, plain)):
            args, indices = _without_indices(args)
        use = functools.partial(use, indices)
        if float not in map(type, plain):
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


class _Indices:
    """The integer arrays of some arguments: for each argument those of its leaves, or `None`."""

    def __init__(self, arrays: tuple[tuple[np.ndarray | None, ...] | None, ...]):
        self.arrays = arrays
        self._key = tuple(
            None
            if own is None
            else tuple(None if a is None else (a.shape, a.dtype.str, a.tobytes()) for a in own)
            for own in arrays
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Indices) and self._key == other._key


_NO_INDICES = _Indices(())


def _is_index(a: object) -> bool:
    """Whether a leaf is an array of integers as wide as indices are, known now."""
    if not isinstance(a, jax.Array | np.ndarray) or not a.ndim or not is_concrete(a):
        return False
    dtype = a.dtype
    return isinstance(dtype, np.dtype) and dtype.kind == "i" and dtype.itemsize >= 4


def _leaves(tree: Any) -> tuple[list[Any], Any]:
    return jax.tree.flatten(tree, is_leaf=lambda a: a is None)


def _without_indices(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], _Indices]:
    """The arguments without the indices of those that are modules, and these."""
    rest, found = [], []
    for arg in args:
        own: tuple[np.ndarray | None, ...] | None = None
        if isinstance(arg, eqx.Module):
            leaves, structure = _leaves(arg)
            own = tuple(np.asarray(a) if _is_index(a) else None for a in leaves)
            left = [a if k is None else None for a, k in zip(leaves, own, strict=True)]
            arg = jax.tree.unflatten(structure, left)
        rest.append(arg)
        found.append(own)
    return tuple(rest), _Indices(tuple(found))


def _with_known(args: tuple[Any, ...], indices: _Indices) -> tuple[Any, ...]:
    """The arguments with their indices again, which are known while the program is traced."""
    if not indices.arrays:
        return args
    given = []
    for arg, own in zip(args, indices.arrays, strict=True):
        if own is not None:
            leaves, structure = _leaves(arg)
            with jax.ensure_compile_time_eval():
                pairs = zip(leaves, own, strict=True)
                known = [a if k is None else jnp.asarray(k) for a, k in pairs]
            arg = jax.tree.unflatten(structure, known)
        given.append(arg)
    return tuple(given)


def _with_indices(fn: Callable[..., _Made]) -> Callable[..., _Made]:
    """The same function of indices first, and arguments without them."""

    @functools.wraps(fn)
    def whole(indices: _Indices, *args: Any) -> _Made:
        return fn(*_with_known(args, indices))

    del whole.__wrapped__  # its signature is not that of `fn`
    return whole


class compiled_lanes(Generic[_Given, _Made]):
    """As `compiled`, for functions without a derivative in reverse that loop, each lane by itself.

    Under a `jax.vmap` whose lanes are divided among devices, where that is known (of arrays that
    are there, and under `Explicit` axes), each device runs its own lanes within `jax.shard_map`:
    nothing is sent, and a loop ends where the device's own lanes do.
    """

    def __init__(self, fn: Callable[_Given, _Made]):
        functools.update_wrapper(self, fn)
        self._together = compiled(fn)
        self._divided: Any = eqx.filter_jit(_divided)

    def __call__(self, *args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        mesh = None
        if not all(map(is_concrete, jax.tree.leaves(args))):
            mesh = shards.mesh_of(args)
        if mesh is None or mesh.empty or mesh.manual_axes:
            return self._together(*args, **kwargs)
        return self._by_lanes(args)

    def _by_lanes(self, args: tuple[Any, ...]) -> _Made:
        args, indices = _without_indices(args)
        arrays, others = eqx.partition(args, eqx.is_array)
        flat, tree = jax.tree.flatten(arrays)
        lane = _Lane(self._together, tree, others, indices)
        whole: list[Any] = []  # the result but for its arrays, known once it was traced

        def outs(out: _Made) -> list[Any]:
            whole[:] = [out]
            return jax.tree.leaves(eqx.filter(out, eqx.is_array))

        run = jax.custom_batching.custom_vmap(lambda *flat: outs(lane(*flat)))

        @run.def_vmap
        def _(axis_size: int, in_batched: list[bool], *flat: Any) -> tuple[list[Any], list[bool]]:
            del axis_size
            mesh, names = shards.lanes(flat, in_batched)
            if mesh is None:
                axes = [0 if b else None for b in in_batched]
                made = jax.vmap(lambda *flat: outs(lane(*flat)), axes)(*flat)
            else:
                made = outs(self._divided(lane, mesh, names, tuple(in_batched), flat))
            return made, [True] * len(made)

        made = run(*flat)
        dynamic, static = eqx.partition(whole[0], eqx.is_array)
        return eqx.combine(jax.tree.unflatten(jax.tree.structure(dynamic), made), static)


class _Lane(NamedTuple):
    """A function of the arrays in some arguments."""

    program: compiled[..., Any]
    tree: Any
    others: Any
    indices: "_Indices"

    def __call__(self, *flat: Any) -> Any:
        args = eqx.combine(jax.tree.unflatten(self.tree, flat), self.others)
        return self.program(*_with_known(args, self.indices))


def _divided(
    lane: _Lane, mesh: Any, names: tuple[str, ...], batched: tuple[bool, ...], flat: tuple[Any, ...]
) -> Any:
    """The results of all lanes, each by the device that the lane lies on."""
    static: list[Any] = []

    def one(*flat: Any) -> Any:
        dynamic, rest = eqx.partition(lane(*flat), eqx.is_array)
        static[:] = [rest]
        return dynamic

    together = jax.vmap(one, [0 if b else None for b in batched])
    own = jax.P(names)
    specs = tuple(own if b else jax.P() for b in batched)
    run = jax.shard_map(together, mesh=mesh, in_specs=specs, out_specs=own, axis_names=set(names))
    return eqx.combine(run(*flat), static[0])


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
