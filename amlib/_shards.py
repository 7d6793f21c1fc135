"""Programs that know of no mesh: within `jax.shard_map`, and on arrays that devices share.

The type of an array tells the mesh that it lies on, which of its axes are `Explicit` and so a part
of the types, and within `jax.shard_map` over which of them the value varies. What a loop carries
must keep its type: a counter begins the same on all devices, a state does not, and the loops of
other libraries do not know; under an `Explicit` mesh, products and updates must say how their
results are to lie. None of that concerns an energy. So for as long as a function of this library
is traced, the mesh is left out of the types: within `jax.shard_map` a recall runs as on one device,
for it sends nothing, and elsewhere XLA's partitioner decides what each device does, as it does
under `Auto` axes.
"""

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import NamedTuple, ParamSpec, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jax.core import ShapedArray, Tracer
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

_NO_MESH = AbstractMesh((), ())

_Given = ParamSpec("_Given")
_Made = TypeVar("_Made")


class _Within(threading.local):
    """On how many devices what is being traced will run, where the types do not tell."""

    devices = 1


_within = _Within()


def axes(*trees: PyTree) -> tuple[Hashable, ...]:
    """The mesh axes over which an array of `trees` varies; none outside `jax.shard_map`."""
    found = set()
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, Tracer):
            found |= jax.typeof(leaf).manual_axis_type.varying
    return tuple(sorted(found, key=str))


def mesh_of(*trees: PyTree) -> AbstractMesh:
    """The mesh in the types of the arrays of `trees`, or around them; often empty."""
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, Tracer | jax.Array):
            mesh = getattr(jax.typeof(leaf).sharding, "mesh", _NO_MESH)
            if not mesh.empty:
                return mesh
    return jax.sharding.get_abstract_mesh()


def devices(*trees: PyTree) -> int:
    """Among how many devices the partitioner divides work on arrays of `trees`, at the most.

    Within `jax.shard_map` those along the axes that it leaves to the partitioner.
    """
    return max(_within.devices, _free_devices(mesh_of(trees)))


def _free_devices(mesh: AbstractMesh) -> int:
    sizes = zip(mesh.axis_sizes, mesh.axis_types, strict=True)
    return math.prod(size for size, kind in sizes if kind != AxisType.Manual)


def lanes(
    flat: Sequence[object], batched: Sequence[bool]
) -> tuple[Mesh | AbstractMesh | None, tuple[str, ...]]:
    """The mesh and its axes that the first axis of batched arrays is divided over, if known."""
    for a, b in zip(flat, batched, strict=True):
        if b and isinstance(a, jax.Array):
            sharding = jax.typeof(a).sharding if isinstance(a, Tracer) else a.sharding
            if isinstance(sharding, NamedSharding) and sharding.spec[:1] not in ((), (None,)):
                names = sharding.spec[0]
                return sharding.mesh, (names,) if isinstance(names, str) else tuple(names)
    return None, ()


def local(fn: Callable[_Given, _Made]) -> Callable[_Given, _Made]:
    """The same function, traced without a mesh in the types of its arrays.

    All that `fn` depends on must be in its arguments, which may be pytrees with anything in them.
    Derivatives go through: within `jax.shard_map`, that of an argument that all devices share is
    the sum over devices. Under an `Explicit` mesh the results of one call are whole on each device,
    and those of a batch lie as the batch does.
    """

    @functools.wraps(fn)
    def run(*args: _Given.args, **kwargs: _Given.kwargs) -> _Made:
        given = args, kwargs
        mesh = mesh_of(given)
        if mesh.empty:
            return fn(*args, **kwargs)
        over: tuple[Hashable, ...] = ()
        like: _Placed | None = None
        hidden = _NO_MESH
        if mesh.manual_axes:
            over = axes(given)
            like = _placed(jax.typeof(lax.pcast(jnp.zeros(()), over, to="varying")))
        elif mesh.explicit_axes:
            # Not without a mesh: a `vmap` along one of its axes looks for that axis.
            hidden = AbstractMesh(
                mesh.axis_sizes, mesh.axis_names, (AxisType.Auto,) * len(mesh.axis_names)
            )
            own = ShapedArray((), jnp.float32)
            like = _Placed(NamedSharding(mesh, PartitionSpec()), own.manual_axis_type)
        hide = functools.partial(_hidden, over=over, mesh=hidden)
        args, kwargs = jax.tree.map(lambda a: hide(a) if eqx.is_array(a) else a, given)
        with jax.sharding.use_abstract_mesh(hidden), _on(_free_devices(mesh)):
            out = fn(*args, **kwargs)
        if like is None:
            return out
        return jax.tree.map(lambda a: _shown(a, over, like) if eqx.is_array(a) else a, out)

    return run


@contextlib.contextmanager
def _on(count: int) -> Iterator[None]:
    before, _within.devices = _within.devices, count
    try:
        yield
    finally:
        _within.devices = before


def _hidden(a: Array, over: tuple[Hashable, ...], mesh: AbstractMesh) -> Array:
    if not isinstance(a, Tracer):
        return a
    if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
        data = _hidden(jax.random.key_data(a), over, mesh)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(a))
    missing = tuple(axis for axis in over if axis not in axes(a))
    a = lax.pcast(a, missing, to="varying") if missing else a
    if mesh.empty:
        return _typed.bind(a, like=None)
    plain = ShapedArray(a.shape, a.dtype)
    sharding = NamedSharding(mesh, PartitionSpec(*[None] * a.ndim))
    return _typed.bind(a, like=_Placed(sharding, plain.manual_axis_type))


def _shown(a: Array, over: tuple[Hashable, ...], like: "_Placed") -> Array:
    if isinstance(a, Tracer):
        return _typed.bind(a, like=like.lying([None] * a.ndim))
    return lax.pcast(a, over, to="varying") if over else a  # known, and so the same on all devices


# -- what the partitioner would gather whole arrays for --------------------------------------------


def entry(v: Array, i: Array) -> Array:
    """The element `i` of a flattened array; where devices share it, one number is sent."""
    flat = v.reshape(-1)
    if devices(v) == 1:
        return lax.dynamic_index_in_dim(flat, i, keepdims=False)
    return jnp.sum(jnp.where(jnp.arange(flat.size) == i, flat, 0), dtype=flat.dtype)


def largest(v: Array, n: int) -> tuple[Array, Array]:
    """The `n` largest of `(K,)` numbers in order, and where they are; first those that come first.

    Where devices share them, each sends its own `n` largest at the most.
    """
    count = devices(v)
    if count == 1:
        top, at = lax.top_k(v, n)
        return top, at
    parts = math.gcd(v.shape[0], count)
    sort = functools.partial(lax.sort, dimension=-1, is_stable=True, num_keys=1)
    own = v.shape[0] // parts
    at = jnp.arange(v.shape[0]).reshape(parts, own)
    minus, at = (a[:, : min(n, own)].reshape(-1) for a in sort((-v.reshape(parts, own), at)))
    minus, at = (a[:n] for a in sort((minus, at)))
    return -minus, at


# -- the identity, from a type with a mesh to one without and back ---------------------------------
# Unlike that of `lax.pcast`, its transpose is no sum over devices.


class _Placed(NamedTuple):
    """What a type says of devices."""

    sharding: NamedSharding
    varying: Hashable

    def lying(self, spec: Sequence[object]) -> "_Placed":
        """The same of an array that lies so."""
        return self._replace(sharding=self.sharding.update(spec=PartitionSpec(*spec)))


def _placed(a: ShapedArray) -> _Placed | None:
    return None if a.sharding.mesh.empty else _Placed(a.sharding, a.manual_axis_type)


def _type(a: ShapedArray, *, like: _Placed | None) -> ShapedArray:
    if like is None:
        return ShapedArray(a.shape, a.dtype, weak_type=a.weak_type)
    return a.update(sharding=like.sharding, manual_axis_type=like.varying)


def _transpose(ct: Array | ad.Zero, a: ad.UndefinedPrimal, *, like: _Placed | None) -> list[Array]:
    del like
    return [_typed.bind(ct, like=_placed(a.aval))]


@runtime_checkable
class _Mapped(Protocol):
    """The axis of a `vmap`, and the mesh axes that it lies along."""

    @property
    def explicit_mesh_axis(self) -> tuple[Hashable, ...] | None: ...


def _batch(
    axis_data: _Mapped,
    args: tuple[object, ...],
    dims: tuple[int | None, ...],
    *,
    like: _Placed | None,
) -> tuple[object, int | None]:
    (a,), (d,) = args, dims
    if like is not None and d is not None:
        spec = list(like.sharding.spec)
        spec.insert(d, axis_data.explicit_mesh_axis)
        like = like.lying(spec)
    return _typed.bind(a, like=like), d


_typed = Primitive("typed")
_typed.def_impl(lambda a, *, like: a)
_typed.def_abstract_eval(_type)
ad.deflinear2(_typed, _transpose)
batching.fancy_primitive_batchers[_typed] = _batch
mlir.register_lowering(_typed, lambda ctx, a, *, like: [a])
