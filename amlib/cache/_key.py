"""The key of a call: one hash of all that its result may come from.

A value is told by its parts, these by theirs, down to bytes, text and numbers. Code of Python and
of installed libraries is told by a version; that of amlib and of the user is read.
"""

import copyreg
import dis
import functools
import importlib
import importlib.metadata
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, no_type_check

import jax
import numpy as np
from jax.core import Tracer

from amlib import _lazy
from amlib._compiled import compiled

_OPTIONS = (
    "jax_enable_x64 jax_default_matmul_precision jax_default_prng_impl jax_threefry_partitionable"
).split()
# Names in a class or a module that say nothing about what it does.
_SILENT = (
    "__doc__ __dict__ __weakref__ __module__ __builtins__ __file__ __cached__ __loader__ __spec__ "
    "__path__ __annotations__ __annotations_cache__ __annotate__ __annotate_func__ _abc_impl "
    "__static_attributes__ __firstlineno__ __conditional_annotations__ __slotnames__"
).split()
# All there is to code, but the lines it stands on.
_CODE = (
    "co_code co_consts co_names co_varnames co_freevars co_cellvars co_flags co_argcount "
    "co_posonlyargcount co_kwonlyargcount co_exceptiontable"
).split()
_WRAPPERS = (staticmethod, classmethod, type(functools.cache(len)), type(jax.jit(len)), compiled)
# The parts of objects that pickle cannot take apart, or takes for their names.
_OPAQUE: dict[Any, Callable[[Any], Iterable[Any]]] = {
    types.CodeType: lambda value: [getattr(value, name) for name in _CODE],
    # No other cell is equal to an empty one.
    types.CellType: lambda value: [] if value == types.CellType() else [value.cell_contents],
    Mapping: lambda value: [part for item in value.items() for part in item],
    tuple | list: lambda value: [type(value), *value],
    set | frozenset: lambda value: value,
    property: lambda value: [value.fget, value.fset, value.fdel],
    functools.cached_property: lambda value: [value.func],  # beside a lock
    _WRAPPERS: lambda value: [value.__wrapped__],
    threading.local: lambda value: [],
    weakref.ReferenceType: lambda value: [value()],
    types.GetSetDescriptorType | jax.tree_util.PyTreeDef: lambda value: [str(value)],
}


class _Traced(Exception):
    """A value that is being traced has no hash."""


def key_of(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The key of a call as hexadecimal digits; `None` where a tracer takes part in it."""
    for room in sorted(_lazy.ROOMS):  # so that a key does not depend on which have been asked for
        importlib.import_module(f"amlib.{room}")
    amlib = [sys.modules[name] for name in sorted(sys.modules) if (name + ".").startswith("amlib.")]
    config = [str(getattr(jax.config, option, None)) for option in _OPTIONS]
    versions = [_version(library) for library in ("sys", "jax", "jaxlib", "equinox", "numpy")]
    try:
        told = [fn, args, kwargs, amlib, config, versions, jax.default_backend()]
        return sha256(_hash(told, {})).hexdigest()
    except _Traced:
        return None


@no_type_check  # thousands of calls, each of which a check at run time makes ten times as dear
def _hash(value: Any, known: dict[int, tuple[bytes, Any]]) -> bytes:
    """Bytes that tell a value from all others; `known` has those of objects that were seen."""
    kind = f"{type(value).__module__}.{type(value).__qualname__} "
    if isinstance(value, bytes):
        return kind.encode() + sha256(value).digest()
    if value is None or isinstance(value, bool | int | float | complex | str):
        return f"{kind}{value!r}".encode()  # which tells 0.0 from -0.0
    if id(value) not in known:
        # An id stays taken as long as its object is held, here beside its hash.
        known[id(value)] = b"seen %d" % len(known), value
        parts = [_hash(part, known) for part in _parts(value)]
        parts = sorted(parts) if isinstance(value, set | frozenset) else parts
        told = b"".join(b"%d:%b" % (len(part), part) for part in (kind.encode(), *parts))
        known[id(value)] = sha256(told).digest(), value
    return known[id(value)][0]


@no_type_check
def _parts(value: Any) -> Iterable[Any]:
    """The values that tell a value from all others of its type."""
    if isinstance(value, Tracer):
        raise _Traced
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        said, array = plain(value)
        content = array.ravel().tolist() if array.dtype.hasobject else array.tobytes()
        about = [getattr(value, "weak_type", 0), str(array.dtype), array.shape]
        return [*said.items(), *about, content]
    if isinstance(value, types.ModuleType | type | types.FunctionType):
        return _definition(value)
    for kind, parts in _OPAQUE.items():
        if isinstance(value, kind):
            return parts(value)
    try:
        reduced = copyreg.dispatch_table.get(type(value), lambda v: v.__reduce_ex__(2))(value)
    except TypeError as err:
        raise TypeError(
            f"cached: every value that the function uses must have a hash; "
            f"{type(value).__module__}.{type(value).__qualname__} has none ({err}). "
            "Make it inside the function, or pass what it is made from."
        ) from None
    if isinstance(reduced, str):  # a name in its module
        return [getattr(value, "__module__", None), reduced]
    return [type(value), *reduced[:3], *(part and list(part) for part in reduced[3:5])]


def plain(value: Any) -> tuple[dict[str, str], np.ndarray]:
    """An array of NumPy from any array, random key or NumPy number, and what it was."""
    if not isinstance(value, jax.Array):
        return {"array": "numpy" if isinstance(value, np.ndarray) else "number"}, np.asarray(value)
    if not jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
        return {"array": "jax"}, np.asarray(value)
    impl = str(jax.random.key_impl(value))
    return {"array": "key", "impl": impl}, np.asarray(jax.random.key_data(value))


def _definition(value: Any) -> list[Any]:
    """A module, a class or a function: its name, and its version or all that is in it."""
    if not isinstance(value, types.FunctionType):
        is_module = isinstance(value, types.ModuleType)
        home = value.__name__ if is_module else value.__module__
        told = [home] if is_module else [home, value.__qualname__, value.__bases__]
        inside = (item for item in sorted(vars(value).items()) if item[0] not in _SILENT)
        return [*told, *(inside if _version(home) is None else [_version(home)])]
    home = str(value.__globals__.get("__name__"))  # a decorated function keeps its `__module__`
    if home.startswith(("beartype.", "jaxtyping.")) and "__wrapped__" in vars(value):
        return [vars(value)["__wrapped__"]]  # a check of types computes nothing
    # What a function that a library made closes over may still be the user's.
    told = [home, value.__qualname__, value.__closure__]
    if _version(home) is not None:
        return [*told, _version(home)]
    used = {name: value.__globals__.get(name) for name in _globals_of(value.__code__)}
    return [*told, value.__code__, value.__defaults__, value.__kwdefaults__, used]


@functools.cache
def _globals_of(code: types.CodeType) -> list[str]:
    """The names that a function, and those defined inside it, look up outside."""
    lookups = (i for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
    inner = (_globals_of(c) for c in code.co_consts if isinstance(c, types.CodeType))
    return sorted({i.argval for i in lookups}.union(*inner))


_distributions = functools.cache(importlib.metadata.packages_distributions)


@functools.cache
def _version(module: str) -> str | None:
    """The version of the library a module belongs to; `None` for amlib and the user's modules."""
    room = module.partition(".")[0]
    if room in sys.stdlib_module_names:
        return sys.version
    file = Path(getattr(sys.modules.get(room), "__file__", None) or "")
    # `__main__` is whatever runs: a script, a notebook.
    if room in ("amlib", "__main__") or {"site-packages", "dist-packages"}.isdisjoint(file.parts):
        return None
    return " ".join(map(importlib.metadata.version, sorted(_distributions().get(room, []))))
