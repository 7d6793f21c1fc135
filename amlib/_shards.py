"""Recall within `jax.shard_map`: each device descends on its own, as if it were the only one.

Within `jax.shard_map` the type of a value tells the mesh, and by default (`check_vma=True`) over
which of its axes the value varies. What a loop carries must keep its type: a counter begins the
same on all devices, a state does not, and the loops of other libraries do not know. A recall sends
nothing between devices. So its inputs are made to vary over the same axes, and for as long as it
runs the mesh is left out of the types.
"""

import functools
from collections.abc import Callable, Hashable
from typing import ParamSpec, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray, Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, PyTree

_NO_MESH = AbstractMesh((), ())

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


def axes(*trees: PyTree) -> tuple[Hashable, ...]:
    """The mesh axes over which an array of `trees` varies; none outside `jax.shard_map`."""
    found = set()
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, Tracer):
            found |= jax.typeof(leaf).manual_axis_type.varying
    return tuple(sorted(found, key=str))


def local(fn: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """The same function, which within `jax.shard_map` runs as on one device.

    All that `fn` depends on must be in its arguments, which may be pytrees with anything in them.
    Derivatives go through: that of an argument that all devices share is the sum over devices.
    """

    @functools.wraps(fn)
    def run(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        if not jax.sharding.get_abstract_mesh().manual_axes:
            return fn(*args, **kwargs)
        given = args, kwargs
        over = axes(given)
        like = jax.typeof(lax.pcast(jnp.zeros(()), over, to="varying"))
        args, kwargs = jax.tree.map(lambda a: _hidden(a, over) if eqx.is_array(a) else a, given)
        with jax.sharding.use_abstract_mesh(_NO_MESH):
            out = fn(*args, **kwargs)
        return jax.tree.map(lambda a: _shown(a, over, like) if eqx.is_array(a) else a, out)

    return run


def _hidden(a: Array, over: tuple[Hashable, ...]) -> Array:
    if not isinstance(a, Tracer):
        return a
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = _hidden(jax.random.key_data(a), over)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
    missing = tuple(axis for axis in over if axis not in axes(a))
    return _typed.bind(lax.pcast(a, missing, to="varying"), like=None)


def _shown(a: Array, over: tuple[Hashable, ...], like: ShapedArray) -> Array:
    if isinstance(a, Tracer):
        return _typed.bind(a, like=like)
    return lax.pcast(a, over, to="varying")  # known, and so the same on all devices


# -- the identity, from a type with a mesh to one without and back ---------------------------------
# Unlike that of `lax.pcast`, its transpose is no sum over devices.


def _type(a: ShapedArray, *, like: ShapedArray | None) -> ShapedArray:
    if like is None:
        return ShapedArray(a.shape, a.dtype, weak_type=a.weak_type)
    sharding = like.sharding.update(spec=PartitionSpec(*[None] * a.ndim))
    return a.update(sharding=sharding, manual_axis_type=like.manual_axis_type)


def _transpose(
    ct: Array | ad.Zero, a: ad.UndefinedPrimal, *, like: ShapedArray | None
) -> list[Array]:
    del like
    return [_typed.bind(ct, like=None if a.aval.sharding.mesh.empty else a.aval)]


_typed = Primitive("typed")
_typed.def_impl(lambda a, *, like: a)
_typed.def_abstract_eval(_type)
ad.deflinear2(_typed, _transpose)
batching.primitive_batchers[_typed] = lambda args, dims, *, like: (
    _typed.bind(*args, like=like),
    *dims,
)
mlir.register_lowering(_typed, lambda ctx, a, *, like: [a])
