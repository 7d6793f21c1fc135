"""Arrays over several devices and processes: where they lie, how they are read, who writes.

With `jax.distributed`, all processes run one program on arrays of which each holds a part. What
asks for values on the host can then ask only for what is here. The others' parts come by
collectives, in which all processes take part, in one order. What must happen once, such as writing
a file, the first process does; the others wait, and learn how it went.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.core import Tracer
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

_BLOCK = 2**24  # bytes that are read, or sent, at a time
_Tree = TypeVar("_Tree")


# -- where arrays lie ------------------------------------------------------------------------------


def readable(x: object) -> bool:
    """Whether this process has all parts of an array, or a copy of the whole. No tracers."""
    if not isinstance(x, jax.Array):
        return True
    return x.is_fully_addressable or x.is_fully_replicated


def spread(tree: PyTree) -> bool:
    """Whether other processes hold parts, or copies, of an array in `tree`."""
    shardings = (getattr(leaf, "sharding", None) for leaf in jax.tree.leaves(tree))
    return any(s is not None and not s.is_fully_addressable for s in shardings)


def mesh_of(tree: PyTree) -> Mesh | None:
    """The mesh on which arrays of `tree` are placed, the first one; `None` where there is none."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            mesh = getattr(leaf.sharding, "mesh", None)
            if isinstance(mesh, Mesh):
                return mesh
    return None


def automatic(mesh: Mesh) -> Mesh:
    """The mesh of the same devices and names whose axes XLA's partitioner is free to use."""
    axes = mesh.axis_names
    return Mesh(mesh.devices, axes, axis_types=(AxisType.Auto,) * len(axes))


def together(tree: _Tree, mesh: Mesh, where: str) -> _Tree:
    """The same arrays on one set of devices, and their axes `automatic`; what is elsewhere is
    copied to every device.

    **Raises:** `ValueError` for arrays on the mesh of other devices.
    """
    everywhere = NamedSharding(automatic(mesh), PartitionSpec())

    def place(leaf: Any) -> Any:
        if not isinstance(leaf, jax.Array) or isinstance(leaf, Tracer):
            return leaf
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):  # JAX sends no keys to other processes
            data = place(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        other = mesh_of(leaf)
        if other is None:
            return jax.device_put(leaf, everywhere)
        if list(other.devices.flat) != list(mesh.devices.flat):
            raise ValueError(
                f"{where}: all arrays must be on the devices of one mesh; {dict(mesh.shape)} and "
                f"{dict(other.shape)} of other devices came. Place all with one mesh."
            )
        spec = leaf.sharding.spec  # pyright: ignore[reportAttributeAccessIssue]
        own = NamedSharding(automatic(other), spec)
        return leaf if own == leaf.sharding else jax.device_put(leaf, own)

    return jax.tree.map(place, tree)


def around(tree: PyTree) -> contextlib.AbstractContextManager[object]:
    """Within it, what is made is made on the mesh of `tree`, where `jax.set_mesh` names another."""
    mesh = mesh_of(tree)
    if mesh is None or jax.sharding.get_abstract_mesh().empty:
        return contextlib.nullcontext()
    return jax.set_mesh(mesh)


def like(value: np.ndarray, model: Any) -> Array:
    """An array with these values, placed as `model`, an array or a shape with a sharding."""
    sharding = getattr(model, "sharding", None)
    if sharding is None or (isinstance(model, jax.Array) and not model.committed):
        return jnp.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda at: value[at])


# -- reading what other processes hold -------------------------------------------------------------


def blocks(x: object, rows: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """The values of an array or a number in order, in blocks; of the given rows only, if any.

    Where `x` is not `readable`, all processes must ask together, and no device or process ever
    holds more of it than a block.
    """
    if readable(x):
        value = np.asarray(x)
        yield value if rows is None else value[rows]
        return
    assert isinstance(x, jax.Array)
    rows = np.arange(len(x)) if rows is None else rows
    count = max(1, _BLOCK * len(x) // max(x.nbytes, 1))
    mesh = mesh_of(x)
    if mesh is None:
        yield np.asarray(multihost_utils.process_allgather(x, tiled=True))[rows]
        return
    x = together(x, mesh, "blocks")
    everywhere = NamedSharding(automatic(mesh), PartitionSpec())
    for k in range(0, len(rows), count):
        yield np.asarray(_rows(x, rows[k : k + count], everywhere))


@functools.partial(jax.jit, static_argnums=2)
def _rows(x: Array, rows: Array, everywhere: NamedSharding) -> Array:
    return lax.with_sharding_constraint(x[rows], everywhere)


def whole(x: object) -> np.ndarray:
    """The values of an array, or a number as an array; see `blocks`."""
    found = list(blocks(x))
    return found[0] if len(found) == 1 else np.concatenate(found)


# -- what is done once -----------------------------------------------------------------------------


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return jax.process_index() == 0


def once(act: Callable[[], bytes | None]) -> bytes | None:
    """Let the first process act, and give all what it gave; where it raises, all raise.

    All processes must call it together.
    """
    result, error = None, None
    if is_first():
        try:
            result = act()
        except Exception as err:
            error = err
    told = (result or b"") if error is None else f"{type(error).__name__}: {error}".encode()
    size = len(told)
    head = [size >> 31, size & (2**31 - 1), result is not None, error is not None]
    high, low, there, failed = map(int, _from_first(np.array(head, np.int32)))
    size = (high << 31) + low
    parts = []
    for k in range(0, size, _BLOCK):
        part = np.zeros(min(_BLOCK, size - k), np.uint8)
        if is_first():
            part = np.frombuffer(told, np.uint8)[k : k + _BLOCK]
        parts.append(_from_first(part).tobytes())
    if error is not None:
        raise error
    if failed:
        raise RuntimeError(f"the first process failed: {b''.join(parts).decode()}")
    return b"".join(parts) if there else None


def _from_first(value: np.ndarray) -> np.ndarray:
    return np.asarray(multihost_utils.broadcast_one_to_all(value)).astype(value.dtype)
