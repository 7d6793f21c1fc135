"""Results as files: arrays, and their structure in JSON. Nothing is unpickled, and no code runs."""

import dataclasses
import functools
import io
import json
import math
import os
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from amlib._files import read_array


def read(path: Path, key: str) -> tuple[Any] | None:
    """The result in a file, in a tuple of one; `None`, with a warning if damaged, where none is."""
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no ordinary file")
        file = path.open("rb")
    except FileNotFoundError:
        return None
    except OSError as err:
        return _warn(f"cached: {path} cannot be read ({err}), so it is computed again.")
    try:
        with file:
            arrays = _members(file)
        header = json.loads(arrays.pop("header").tobytes())
        if header["key"] != key:
            raise ValueError("it holds the result of another call")
        return (_decode(header["result"], arrays),)
    # There is no end to how parsers fail at a file that is damaged, or not ours.
    except Exception as err:
        why = str(err) or type(err).__name__
        return _warn(f"cached: {path} is damaged ({why}), so it is computed again.")


def _members(file: BinaryIO) -> dict[str, np.ndarray]:
    """The arrays of an .npz, each with its checksum verified.

    They take no more memory than the file is long, whatever it claims.
    """
    length = file.seek(0, os.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        if any(info.compress_type != zipfile.ZIP_STORED for info in members):
            raise ValueError("it is compressed")
        if sum(info.file_size for info in members) > length:
            raise ValueError("it claims to hold more than it is long")
        return {
            info.filename.removesuffix(".npy"): read_array(io.BytesIO(archive.read(info)))
            for info in members
        }


def write(path: Path, key: str, result: Any) -> Any:
    """Keep a result; return it as it will be read."""
    arrays: dict[str, np.ndarray] = {}
    try:
        tree = _encode(result, arrays)
        header = json.dumps({"key": key, "result": tree}).encode()
        as_read = _decode(tree, dict(arrays))
    except TypeError as err:
        _warn(f"{err} It was not kept.")
        return result
    except RecursionError:
        _warn("cached: a result must not be nested so deep. It was not kept.")
        return result
    arrays["header"] = np.frombuffer(header, np.uint8)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, allow_pickle=False, **arrays)
        temporary.replace(path)
    except OSError as err:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        _warn(f"cached: {path} cannot be written ({err}), so the result is not kept.")
    return as_read


def _warn(message: str) -> None:
    warnings.warn(message, stacklevel=4)


# -- results as arrays and JSON --------------------------------------------------------------------


def _encode(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    """What JSON can say about a result; its arrays are added to `arrays`."""
    if value is None or isinstance(value, bool | str) or type(value) is int:
        return value
    if isinstance(value, float) and not isinstance(value, np.generic):
        return {"float": value.hex() if math.isfinite(value) else str(value)}
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _encode_array(value, arrays)
    if isinstance(value, type) and issubclass(value, eqx.Enumeration):
        return {"class": _name_of(value)}
    if isinstance(value, eqx.Module):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        parts = {name: _encode(field, arrays) for name, field in fields.items()}
        return {"module": _name_of(type(value)), "fields": parts}
    if isinstance(value, tuple) and type(value) is not tuple:
        return {"named": _name_of(type(value)), "parts": _encode(list(value), arrays)["list"]}
    if type(value) is list or type(value) is tuple:
        return {type(value).__name__: [_encode(v, arrays) for v in value]}
    if type(value) is dict:
        return {"dict": [[_encode(part, arrays) for part in item] for item in value.items()]}
    raise TypeError(
        "cached: a result must be made of arrays, numbers, strings, tuples, lists, dicts and "
        f"Equinox modules; {type(value).__module__}.{type(value).__qualname__} came. Return the "
        "arrays that it is made from."
    )


def _encode_array(value: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    said: dict[str, Any] = {"array": f"a{len(arrays)}", "kind": "numpy"}
    if isinstance(value, jax.Array):
        said["kind"] = "jax"
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            said["impl"] = str(jax.random.key_impl(value))
            value = jax.random.key_data(value)
    elif isinstance(value, np.generic):
        said["kind"] = "scalar"
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise TypeError("cached: a result must hold no NumPy array of Python objects.")
    if array.dtype.isbuiltin == 2:  # bfloat16 and its like, which files of NumPy do not know
        said |= {"dtype": array.dtype.name, "shape": array.shape}
        array = np.frombuffer(array.tobytes(), np.uint8)
    arrays[said["array"]] = array
    return said


def _decode(said: Any, arrays: Any) -> Any:
    """The inverse of `_encode`. No code from a file runs, not even the `__init__` of a class."""
    if not isinstance(said, dict):
        return said
    if "float" in said:
        text = said["float"]
        return float.fromhex(text) if "0x" in text else float(text)
    if "array" in said:
        return _decode_array(said, arrays)
    if "class" in said:
        return _class_of(said["class"], eqx.Enumeration)
    if "module" in said:
        cls = _class_of(said["module"], eqx.Module)
        module = object.__new__(cls)
        if {f.name for f in dataclasses.fields(cls)} != said["fields"].keys():
            raise ValueError(f"{cls.__qualname__} has other fields")
        for name, field in said["fields"].items():
            object.__setattr__(module, name, _decode(field, arrays))
        return module
    if "named" in said:
        return tuple.__new__(
            _class_of(said["named"], tuple), [_decode(v, arrays) for v in said["parts"]]
        )
    if "list" in said:
        return [_decode(v, arrays) for v in said["list"]]
    if "tuple" in said:
        return tuple(_decode(v, arrays) for v in said["tuple"])
    return {_decode(k, arrays): _decode(v, arrays) for k, v in said["dict"]}


def _decode_array(said: dict[str, Any], arrays: Any) -> Any:
    array = arrays.pop(said["array"])  # each is said once, or a short file could be a large result
    if "dtype" in said:
        array = np.frombuffer(array.tobytes(), jnp.dtype(said["dtype"])).reshape(said["shape"])
    if "impl" in said:
        return jax.random.wrap_key_data(jnp.asarray(array), impl=said["impl"])
    return {"jax": jnp.asarray, "numpy": np.array, "scalar": lambda a: a[()]}[said["kind"]](array)


def _name_of(cls: type) -> str:
    """A name by which a class that is loaded can be found."""
    name = f"{cls.__module__}:{cls.__qualname__}"
    if "<locals>" in name or _find(name) is not cls:
        raise TypeError(
            f"cached: a result must be of classes that can be found by their names; "
            f"{cls.__qualname__} cannot. Define it at the top of a module or a notebook."
        )
    return name


def _class_of(name: str, base: type) -> Any:
    """The class of this name, which must be loaded already; nothing is imported."""
    cls = _find(name)
    if not (isinstance(cls, type) and issubclass(cls, base)):
        raise ValueError(f"{name} is no {base.__name__}")
    return cls


def _find(name: str) -> Any:
    module, _, path = name.partition(":")
    return functools.reduce(
        lambda part, key: getattr(part, key, None), path.split("."), sys.modules.get(module)
    )
