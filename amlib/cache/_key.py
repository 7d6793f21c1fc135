"""The key of a call: one hash of all that its result may come from."""

import dataclasses
import dis
import functools
import hashlib
import importlib.metadata
import struct
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, no_type_check

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


class _Traced(Exception):
    """A value that is being traced has no hash."""


def key_of(fn: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str | None:
    """The key of a call as hexadecimal digits; `None` where a tracer takes part in it."""
    config = {
        option: str(getattr(jax.config, option, None))
        for option in (
            "jax_enable_x64",
            "jax_default_matmul_precision",
            "jax_default_prng_impl",
            "jax_threefry_partitionable",
        )
    }
    versions = [sys.version, *map(_version, ("jax", "jaxlib", "equinox", "numpy"))]
    walk = _Walk()
    try:
        call = [walk(part) for part in (fn, args, kwargs)]
    except _Traced:
        return None
    amlib = [walk(module) for name, module in sorted(sys.modules.items()) if _room(name) == "amlib"]
    system = [walk(part) for part in (config, versions, jax.default_backend())]
    return _join("call", *call, *amlib, *system).hex()


def _join(tag: str, *parts: bytes) -> bytes:
    """The hash of a tag and some parts, none of which can be taken for another."""
    digest = hashlib.sha256()
    for part in (tag.encode(), *parts):
        digest.update(struct.pack("<Q", len(part)) + part)
    return digest.digest()


@functools.cache
def _version(room: str) -> str:
    """The version of an installed library by the name it is imported by."""
    if room in sys.stdlib_module_names:
        return ""  # told by that of Python
    said = getattr(sys.modules.get(room), "__version__", None)
    if said is None:
        names = _distributions().get(room, [])
        said = " ".join(importlib.metadata.version(name) for name in sorted(names))
    return f"{room} {said}"


@functools.cache
def _distributions() -> Mapping[str, list[str]]:
    return importlib.metadata.packages_distributions()


def _room(module: str | None) -> str:
    return (module or "").partition(".")[0]


@functools.cache
def _installed(room: str) -> bool:
    """Whether a top-level module belongs to Python or to an installed library, not to the user."""
    if room == "__main__":  # a script, a notebook, or whatever runs the user's code
        return False
    if room in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(room), "__file__", None)
    if file is None:
        return room in sys.builtin_module_names
    places = {sysconfig.get_path(kind) for kind in ("purelib", "platlib")}
    inside = any(Path(file).is_relative_to(place) for place in places)
    return inside or not {"site-packages", "dist-packages"}.isdisjoint(Path(file).parts)


def _foreign(module: str | None) -> bool:
    """Whether the code of a module is told by a version. That of amlib is read instead."""
    return module is not None and _room(module) != "amlib" and _installed(_room(module))


# Names in a class or a module that say nothing about what it does.
_SILENT = frozenset(
    "__doc__ __dict__ __weakref__ __module__ __builtins__ __file__ __cached__ __loader__ __spec__ "
    "__path__ __annotations__ __annotations_cache__ __annotate__ __annotate_func__ _abc_impl "
    "__static_attributes__ __firstlineno__ __conditional_annotations__ __slotnames__".split()
)


_SAID_BY_REPR = (
    jax.tree_util.PyTreeDef,
    types.MemberDescriptorType,
    types.GetSetDescriptorType,
    types.UnionType,
    types.GenericAlias,
)


@no_type_check  # thousands of calls, each of which a check at run time makes ten times as dear
class _Walk:
    """Hashes of values of any kind, each object visited once."""

    def __init__(self) -> None:
        self.known: dict[int, bytes] = {}
        self.alive: list[Any] = []  # an id stays taken as long as its object lives

    def __call__(self, value: Any) -> bytes:
        if value is None or isinstance(value, bool | int | float | complex | str | bytes):
            # repr tells 1 from 1.0, True and "1", and every float from every other.
            return _join(
                f"{type(value).__module__}.{type(value).__qualname__}", repr(value).encode()
            )
        if id(value) in self.known:
            return self.known[id(value)]
        self.known[id(value)] = _join("visited", struct.pack("<Q", len(self.known)))
        self.alive.append(value)
        self.known[id(value)] = _join(type(value).__qualname__, *self.parts(value))
        return self.known[id(value)]

    def parts(self, value: Any) -> Iterator[bytes]:
        if isinstance(value, Tracer):
            raise _Traced
        if isinstance(value, jax.Array | np.ndarray | np.generic):
            yield from self.array(value)
        elif isinstance(value, types.ModuleType):
            yield from self.module(value)
        elif isinstance(value, type):
            yield from self.cls(value)
        elif isinstance(value, types.FunctionType):
            yield from self.function(value)
        elif isinstance(value, types.CodeType):
            yield from self.code(value)
        elif isinstance(value, Mapping):
            yield from (self(part) for item in value.items() for part in item)
        elif isinstance(value, set | frozenset):
            yield from sorted(self(part) for part in value)
        elif isinstance(value, tuple | list):
            yield from (self(part) for part in (type(value), *value))
        else:
            yield from self.other(value)

    def array(self, value: Any) -> Iterator[bytes]:
        kind = f"{isinstance(value, jax.Array)} {getattr(value, 'weak_type', False)}"
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            kind += str(jax.random.key_impl(value))
            value = jax.random.key_data(value)
        value = np.asarray(value)
        yield f"{kind} {value.dtype} {value.shape}".encode()
        if value.dtype.hasobject:
            yield from (self(part) for part in value.ravel().tolist())
        else:
            yield np.ascontiguousarray(value).tobytes()

    def module(self, value: types.ModuleType) -> Iterator[bytes]:
        name = value.__name__
        yield name.encode()
        if _foreign(name):
            yield _version(_room(name)).encode()
            return
        yield from self.members(vars(value))

    def members(self, namespace: Mapping[str, Any]) -> Iterator[bytes]:
        """What a class or a module of the user, or of amlib, defines."""
        for key in sorted(namespace.keys() - _SILENT):
            yield key.encode()
            yield self(namespace[key])

    def cls(self, value: type) -> Iterator[bytes]:
        yield f"{value.__module__}.{value.__qualname__}".encode()
        if _foreign(value.__module__):
            yield _version(_room(value.__module__)).encode()
            return
        yield from (self(base) for base in value.__bases__)
        yield from self.members(vars(value))

    def function(self, value: types.FunctionType) -> Iterator[bytes]:
        home = value.__globals__.get("__name__")  # a decorated function keeps its `__module__`
        yield f"{home}.{value.__qualname__}".encode()
        checked = getattr(value, "__wrapped__", None)
        if _room(home) in ("beartype", "jaxtyping") and checked is not None:
            yield self(checked)  # a check of types computes nothing
            return
        # What a function that a library made closes over may still be the user's.
        yield from self.cells(value)
        if _foreign(home):
            yield _version(_room(home)).encode()
            return
        yield self(value.__code__)
        yield self((value.__defaults__, value.__kwdefaults__))
        for name in _globals_of(value.__code__):
            if name in value.__globals__:
                yield name.encode()
                yield self(value.__globals__[name])

    def cells(self, value: types.FunctionType) -> Iterator[bytes]:
        for cell in value.__closure__ or ():
            try:
                yield self(cell.cell_contents)
            except ValueError:  # an empty cell
                yield b"empty"

    def code(self, value: types.CodeType) -> Iterator[bytes]:
        yield value.co_code
        constants = value.co_consts
        for part in (value.co_names, value.co_varnames, value.co_freevars, value.co_cellvars):
            yield " ".join(part).encode()
        yield f"{value.co_flags} {value.co_argcount} {value.co_kwonlyargcount}".encode()
        yield getattr(value, "co_exceptiontable", b"")
        yield from (self(constant) for constant in constants)

    def other(self, value: Any) -> Iterator[bytes]:
        """An object: what it wraps, or its class and its state."""
        wrapped = getattr(value, "__wrapped__", getattr(value, "__func__", None))
        if wrapped is not None:
            yield self(wrapped)
            yield self(getattr(value, "__self__", None))
            return
        if isinstance(value, weakref.ReferenceType):
            yield self(value())
            return
        if isinstance(value, property):
            yield self((value.fget, value.fset, value.fdel))
            return
        if isinstance(value, dataclasses.Field):
            yield self((value.name, value.default, value.default_factory, value.metadata))
            return
        if isinstance(value, _SAID_BY_REPR) or type(value).__module__ == "typing":
            yield str(value).encode()
            return
        yield self(type(value))
        try:
            reduced = value.__reduce_ex__(2)
        except TypeError as err:
            raise TypeError(
                f"cached: every value that the function uses must have a hash; "
                f"{type(value).__module__}.{type(value).__qualname__} has none ({err}). "
                "Make it inside the function, or pass what it is made from."
            ) from None
        if isinstance(reduced, str):  # a name in its module
            yield f"{getattr(value, '__module__', None)}.{reduced}".encode()
            return
        for part in reduced[:3]:
            yield self(part)
        for items in reduced[3:5]:
            yield self(None if items is None else list(items))


@functools.cache
def _globals_of(code: types.CodeType) -> tuple[str, ...]:
    """The names that a function, and those defined inside it, look up outside."""
    names = {
        i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = (c for c in code.co_consts if isinstance(c, types.CodeType))
    return tuple(sorted(names.union(*(_globals_of(c) for c in inner))))
