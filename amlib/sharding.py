"""Memories and batches over many devices: one line says where arrays lie, and JAX does the rest.

```python
mesh = jax.make_mesh((2, 4), ("batch", "k"))
memory = am.shard(memory, mesh, "k")      # the patterns, over four devices
x0 = am.shard(x0, mesh, "batch")          # the queries, over two
end = jax.vmap(memory.recall)(x0)
```
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from amlib import _checks as checks, _hosts as hosts

_Tree = TypeVar("_Tree")

Rule: TypeAlias = Callable[[tuple[object, ...], Any], PartitionSpec | None]
"""From the path to an array (keys of `jax.tree_util`) and the array to how it lies; `None` is a
copy on each device."""


def shard(tree: _Tree, mesh: Mesh, over: str | tuple[str, ...] | Rule | None) -> _Tree:
    """Lay the arrays of a memory, of a batch, or of any tree over the devices of a mesh.

    All that is done with them afterwards goes on as before: `recall`, `retrieve`, `energy`,
    `jax.grad`, `fit`, of the library's memories and of your own. States of bits are those of one
    device, bit for bit; real ones agree within rounding.

    XLA's partitioner decides what each device computes and what is sent. So the arrays lie on a
    twin of the mesh, of the same devices, with all axes `Auto`; only where `jax.set_mesh` says that
    the mesh around is an `Explicit` one do they stay on that. See the guide "Run on many".

    **Arguments:**

    - `tree`: a memory, an array, or a tree of arrays. Python numbers stay.
    - `mesh`: of `jax.make_mesh`, with axes of any kind.
    - `over`: the name of an axis of the mesh, or several. Of a memory with patterns `Xi` the
      patterns are divided along it, with every array that has one row for each of them, and all
      other arrays are copied to each device. Of other arrays the first axis is divided. `None`
      copies everything to each device. A function `rule(path, array)` says it for each array, by a
      `jax.P` or `None`: that is for the parameters of hierarchical memories.

    **Returns:** the same tree, with arrays on many devices.

    **Raises:** `TypeError` if `mesh` is none; `ValueError` for an axis that it does not have, a
    first axis that the devices cannot share evenly, and a module without `Xi` where a name came.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"shard: mesh must be one of jax.make_mesh; {type(mesh).__name__} came. Write "
            'jax.make_mesh((jax.device_count(),), ("k",)).'
        )
    rule = over if callable(over) else _rule(tree, mesh, over)
    around = jax.sharding.get_abstract_mesh()
    if around.empty or not around.explicit_axes:
        mesh = hosts.automatic(mesh)

    def place(path: tuple[object, ...], leaf: object) -> object:
        if not isinstance(leaf, jax.Array | np.ndarray):
            return leaf
        spec = rule(path, leaf)
        spec = PartitionSpec() if spec is None else spec
        _check(spec, leaf, mesh, path)
        return jax.device_put(leaf, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(place, tree)


class Collective(NamedTuple):
    """One collective operation of a compiled program.

    - `kind`: `all-reduce` and so on.
    - `dtype`, `shape`: of its result on one device.
    - `loops`: how many turns each loop around it takes, the outermost first; `None` where that is
      only known when it runs.
    """

    kind: str
    dtype: str
    shape: tuple[int, ...]
    loops: tuple[int | None, ...]

    @property
    def bytes(self) -> int:
        """The size of the result of one turn."""
        digits = re.search(r"\d+", self.dtype)
        size = _SIZES.get(self.dtype) or int(digits[0]) // 8 if digits else 1
        return math.prod(self.shape) * size


def collectives(fn: Callable[..., object], *args: object) -> list[Collective]:
    """What a function sends between devices: every collective operation of its compiled program.

    ```python
    recall = lambda memory, x0: jax.vmap(memory.recall)(x0)
    for op in am.sharding.collectives(recall, memory, x0):
        print(op.kind, op.dtype, op.shape, op.loops)
    ```

    Nothing runs. A recall has several forms (see `explain`), of which only one runs in the end:
    the operations of all are there.

    **Arguments:**

    - `fn`: any function of trees of arrays. How they lie is known of arguments alone, so the memory
      is one of them.
    - `args`: what it is called with.

    **Returns:** the operations, each with its kind, the dtype and shape of its result on one
    device, its `bytes`, and how often the loops around it turn.
    """
    given, fixed = eqx.partition(args, eqx.is_array)
    run = lambda arrays: eqx.filter(fn(*eqx.combine(arrays, fixed)), eqx.is_array)
    return _read(jax.jit(run).lower(given).compile().as_text() or "")


def _rule(tree: object, mesh: Mesh, over: str | tuple[str, ...] | None) -> Rule:
    """How a name, or several, are meant for a tree."""
    if over is None:
        return lambda path, leaf: None
    for name in (over,) if isinstance(over, str) else over:
        checks.choice(name, mesh.axis_names, "shard: over")
    if not isinstance(tree, eqx.Module):
        return lambda path, leaf: PartitionSpec(over)
    patterns = getattr(tree, "Xi", None)
    if patterns is None:
        raise ValueError(
            f"shard: a memory must have patterns Xi to be divided over {over!r}; "
            f"{type(tree).__name__} has none. Say it for each array: "
            f"am.shard(memory, mesh, lambda path, array: jax.P({over!r})), or copy all by None."
        )
    K = patterns.shape[0]
    return lambda path, leaf: PartitionSpec(over) if leaf.shape[:1] == (K,) else None


def _check(
    spec: PartitionSpec, leaf: Array | np.ndarray, mesh: Mesh, path: tuple[object, ...]
) -> None:
    """Raise unless the devices can share an array evenly so."""
    where = f"shard{jax.tree_util.keystr(path)}"
    if len(spec) > leaf.ndim:
        raise ValueError(f"{where}: must have an axis for each of {spec}; shape {leaf.shape} came.")
    for axis, names in enumerate(spec):
        names = () if names is None else (names,) if isinstance(names, str) else names
        parts = math.prod(mesh.shape[name] for name in names)
        size = leaf.shape[axis]
        if size % parts:
            raise ValueError(
                f"{where}: the length of axis {axis} must be a multiple of the {parts} devices "
                f"along {', '.join(map(repr, names))}; {size} came. Leave {size % parts} out, or "
                f"take a mesh whose axis divides {size}."
            )


# -- the text of a compiled program ----------------------------------------------------------------

_SIZES = {"pred": 1, "bf16": 2, "f16": 2}
_KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"


def _read(text: str) -> list[Collective]:
    """The collective operations in the text of a compiled program."""
    bodies: dict[str, list[str]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if line.endswith("{") and (head := re.match(r"(ENTRY )?%?([\w.\-]+) \(", line)):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif line.startswith("}"):
            name = ""
        elif name:
            bodies[name].append(line)
    found: list[Collective] = []
    _walk(bodies, entry, (), found)
    return found


def _walk(
    bodies: dict[str, list[str]], name: str, loops: tuple[int | None, ...], found: list[Collective]
) -> None:
    for line in bodies.get(name, ()):
        if made := re.search(rf"= (.*?) ({_KINDS})(?:-start)?\(", line):
            shapes = re.findall(r"(\w+)\[([\d,]*)\]", made[1])
            for dtype, sizes in shapes:
                shape = tuple(int(n) for n in sizes.split(",") if n)
                found.append(Collective(made[2], dtype, shape, loops))
        if " while(" in line:
            count = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
            inner = (*loops, int(count[1]) if count else None)
            for part in re.findall(r"(?:body|condition)=%?([\w.\-]+)", line):
                _walk(bodies, part, inner, found)
            continue
        called = re.findall(
            r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)", line
        )
        for group in re.findall(r"branch_computations=\{([^}]*)\}", line):
            called += [part.strip().lstrip("%") for part in group.split(",")]
        for part in called:
            _walk(bodies, part, loops, found)
