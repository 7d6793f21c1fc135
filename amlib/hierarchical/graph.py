"""The hypergraph of a hierarchical memory: names, connections, and the checks of both."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Shaped

from amlib import _checks as checks
from amlib._types import Shape, States
from amlib.hierarchical.layers import NeuronLayer

Name: TypeAlias = str | int
"""The name of a layer or synapse in a dict, or its place in a list."""
Names: TypeAlias = Name | Iterable[Name]
Synapse: TypeAlias = Callable[..., Array]
"""From the activations of the layers that it connects to a scalar."""

_Value = TypeVar("_Value")
Container: TypeAlias = Mapping[str, _Value] | Sequence[_Value]
"""Values by name, or by place."""


@runtime_checkable
class Hypergraph(Protocol):
    """What a hierarchical memory is made of: the fields of `HAM`.

    `connections` are `Connection`s; pyright takes a field that has a converter for a descriptor.
    """

    @property
    def neurons(self) -> Container[NeuronLayer]: ...

    @property
    def hypersynapses(self) -> Container[Synapse]: ...

    @property
    def connections(self) -> Any: ...


class Connection(tuple[tuple[Name, ...], Name]):
    r"""Connect layers by a synapse: a pair of the layers' names and the synapse's name.

    `(("image", "hidden"), "dense")` says the same where every signal goes both ways. A synapse
    is called with the activations of the layers in this order.

    **Arguments:**

    - `layers`: names (dict) or places (list) of layers; one may come more than once.
    - `synapse`: name or place of the synapse.
    - `no_feedback`: layers that this connection sends no signal to: the derivative of its energy
      in their activations counts as zero. The signal is then directed, and the energy need not
      fall along the dynamics.

    **Raises:** `ValueError` if a layer of `no_feedback` is not among `layers`; `TypeError` for
    names that are neither strings nor integers.
    """

    no_feedback: tuple[Name, ...]

    def __new__(
        cls,
        layers: Names,
        synapse: Name,
        no_feedback: Names = (),
    ):
        names = as_names(layers, "Connection: layers")
        blocked = as_names(no_feedback, "Connection: no_feedback")
        if not names:
            raise ValueError("Connection: layers must name at least one layer; none came.")
        as_names(synapse, "Connection: synapse")
        for name in blocked:
            if name not in names:
                raise ValueError(
                    f"Connection: no_feedback must name layers of the connection {names}; "
                    f"{name!r} came."
                )
        self = super().__new__(cls, (names, synapse))
        self.no_feedback = blocked
        return self

    @property
    def layers(self) -> tuple[Name, ...]:
        """The layers' names, in the order of the synapse's arguments."""
        return self[0]

    @property
    def synapse(self) -> Name:
        """The synapse's name."""
        return self[1]

    def __getnewargs__(self) -> tuple[tuple[Name, ...], Name, tuple[Name, ...]]:
        return (self.layers, self.synapse, self.no_feedback)

    def __eq__(self, other: object) -> bool:
        blocked = getattr(other, "no_feedback", ())
        return tuple.__eq__(self, other) is True and blocked == self.no_feedback

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        blocked = f", no_feedback={self.no_feedback!r}" if self.no_feedback else ""
        return f"Connection({self[0]!r}, {self[1]!r}{blocked})"


def as_names(names: Names, where: str) -> tuple[Name, ...]:
    """One name or several, as a tuple."""
    if isinstance(names, str | int):
        names = (names,)
    names = tuple(names) if isinstance(names, Iterable) else (names,)
    for name in names:
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise TypeError(
                f"{where}: must be names (of a dict) or places (in a list); {name!r} came."
            )
    return names


def as_connections(connections: Iterable[tuple[Names, Name]]) -> tuple[Connection, ...]:
    """Pairs as `Connection`s; raise for anything else."""
    made = []
    for pair in connections:
        if isinstance(pair, Connection):
            made.append(pair)
            continue
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise ValueError(
                "HAM: connections: each must be a pair of layers and a synapse, such as "
                f"(('image', 'hidden'), 'dense'); {pair!r} came."
            )
        made.append(Connection(*pair))
    return tuple(made)


def items(container: Container[_Value]) -> list[tuple[Name, _Value]]:
    """Names and values of a dict, places and values of a list."""
    return [*(container.items() if isinstance(container, Mapping) else enumerate(container))]


def rebuild(
    container: Container[object], values: Iterable[_Value]
) -> dict[str, _Value] | list[_Value]:
    """A container of the same kind and names with other values."""
    values = list(values)
    if isinstance(container, Mapping):
        return dict(zip(container, values, strict=True))
    return values


def check_container(container: object, where: str) -> None:
    """Raise unless this is a list, or a dict with strings as names."""
    if not isinstance(container, dict | list | tuple):
        raise TypeError(f"{where}: must be a list or a dict; {type(container).__name__} came.")
    if isinstance(container, dict):
        for name in container:
            if not isinstance(name, str):
                raise TypeError(f"{where}: names in a dict must be strings; {name!r} came.")


def check_name(name: Name, container: Container[object], where: str, kind: str) -> None:
    """Raise unless the container has this name, with the nearest one as a hint."""
    known = [n for n, _ in items(container)]
    if name in known:
        return
    near = difflib.get_close_matches(str(name), [str(n) for n in known], n=1)
    hint = f" Did you mean {near[0]!r}?" if near and isinstance(container, dict) else ""
    names = ", ".join(map(repr, known)) or "none"
    raise ValueError(f"{where}: there is no {kind} {name!r}; the {kind}s are {names}.{hint}")


def check_states(
    container: Container[object],
    values: Container[Shaped[ArrayLike, "..."]],
    shapes: Iterable[Shape],
    where: str,
) -> States:
    """The values as float arrays, one per layer; raise for missing names and other shapes."""
    layers = dict(items(container))
    if isinstance(values, dict) != isinstance(container, dict) or not hasattr(values, "__len__"):
        kind = "dict" if isinstance(container, dict) else "list"
        raise ValueError(
            f"{where}: must be a {kind}, as the layers are; {type(values).__name__} came. "
            "Begin with ham.init_states()."
        )
    for name, _ in items(values):
        check_name(name, container, where, "layer")
    missing = [name for name in layers if name not in dict(items(values))]
    if missing:
        raise ValueError(
            f"{where}: there must be an entry for every layer; {missing[0]!r} is missing. "
            "Begin with ham.init_states()."
        )
    came = dict(items(values))
    made = []
    for name, shape in zip(layers, shapes, strict=True):
        value = checks.as_float(came[name], f"{where}: layer {name!r}")
        if value.shape != shape:
            hint = f"Reshape it to {shape}."
            if value.ndim == len(shape) + 1 and value.shape[1:] == shape:
                hint = "A batch goes through ham.vectorize(), or jax.vmap."
            raise ValueError(
                f"{where}: layer {name!r} must have shape {shape}; {value.shape} came. {hint}"
            )
        made.append(value)
    return rebuild(container, made)


def check_synapse(call: Synapse, connection: Connection, shapes: Sequence[Shape]) -> None:
    """Raise unless the synapse takes activations of these shapes and gives a scalar.

    It is traced, not run.
    """
    dtype = jnp.result_type(float)
    structs = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    arguments = ", ".join(f"{n!r} {s}" for n, s in zip(connection.layers, shapes, strict=True))
    where = f"HAM: connection {connection!r}"
    try:
        with checks.traceable(f"{where}: the synapse {connection.synapse!r}"):
            out = jax.eval_shape(call, *structs)
    except Exception as err:
        if isinstance(err.__cause__, checks.UNTRACEABLE):
            raise
        raise ValueError(
            f"{where}: the synapse {connection.synapse!r} must take the activations of its "
            f"layers, {arguments}; it raised {type(err).__name__}: {err}"
        ) from err
    if not isinstance(out, jax.ShapeDtypeStruct) or out.shape or not _is_float(out):
        came = jax.tree.map(lambda s: (s.shape, str(s.dtype)), out)
        raise ValueError(
            f"{where}: the energy of the synapse {connection.synapse!r} must be a real scalar; "
            f"{came} came. Sum it over all axes."
        )


def _is_float(out: jax.ShapeDtypeStruct) -> bool:
    """Whether an output is of real numbers."""
    return bool(jnp.issubdtype(out.dtype, jnp.floating))
