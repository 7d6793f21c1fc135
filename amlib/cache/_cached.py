"""The decorator that keeps results, and the files it keeps them in: those of `amlib._files`."""

import dataclasses
import functools
import io
import os
import stat
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from amlib import _files
from amlib.cache._key import key_of, plain

VARIABLE = "AMLIB_CACHE"
"""The environment variable that turns the cache off: `AMLIB_CACHE=0`."""
_KIND = "cached result"


def cached(folder: str | Path, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Keep what a function returns in a file, and read it from there the next time.

    ```python
    curve = cached("cache", "curve")(am.analysis.retrieval_curve)(am.ModernHopfield, Xi, ...)

    @cached("cache", "recalls")
    def recalls(model, queries):
        return jax.vmap(model.recall)(queries)
    ```

    The key of a result is a hash of the function (its code, its defaults, what it closes over, and
    likewise every function, class and global of yours that it uses), of its arguments, of amlib's
    code, of the versions of all libraries involved, and of JAX's backend and precision. What a
    function reads from elsewhere (a file, the time, a generator of random numbers of its own) is
    not in the key: pass it as an argument.

    Results are arrays of JAX or NumPy, numbers, strings, `None`, and any tuples, lists, dicts,
    named tuples and Equinox modules of them, such as a `Recall`. They come back equal, of the same
    types and dtypes. A file is written under another name and then renamed, so two processes may
    share a folder. A damaged file is computed again, with a warning. Under a transformation of JAX,
    and with the environment variable `AMLIB_CACHE` set to 0, the function is simply called.

    **Arguments:**

    - `folder`: where the files go; made if it is not there. Everything in it may be deleted.
    - `name`: what the file names begin with; letters, digits, `-`, `_` and `.`.

    **Returns:** a decorator.

    **Raises:** `ValueError` for a name that is no file name. What it returns raises `TypeError`
    when the function uses something of which no hash can be taken, as an open file or a lock.
    """
    if not name or not all(c.isalnum() or c in "-_." for c in name):
        raise ValueError(
            f"cached: name must be letters, digits, '-', '_' and '.'; {name!r} came. "
            "Folders go into the first argument."
        )
    folder = Path(folder).expanduser()

    def decorate(fn: Any) -> Callable[..., Any]:
        if not callable(fn):
            raise TypeError(
                f"cached: a function must follow; {type(fn).__name__} came. "
                "Write cached(folder, name)(fn)(*args)."
            )

        @functools.wraps(fn)
        def answer(*args: Any, **kwargs: Any) -> Any:
            off = os.environ.get(VARIABLE, "1").strip().lower() in ("0", "false", "no", "off")
            key = None if off else key_of(fn, args, kwargs)
            if key is None:
                return fn(*args, **kwargs)
            path = folder / f"{name}-{key[:16]}.am"
            kept = read(path, key)
            return write(path, key, fn(*args, **kwargs)) if kept is None else kept[0]

        return answer

    return decorate


def read(path: Path, key: str) -> tuple[Any] | None:
    """The result in a file, in a tuple of one; `None`, with a warning if damaged, where none is."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # asked once: another process may remove it
            raise OSError("it is no ordinary file")
        content = _files.read(path, _KIND)
        if content.notes["key"] != key:
            raise ValueError("it holds the result of another call")
        arrays = functools.partial(_files.read_array, io.BytesIO(content.body))
        return (_decode(content.notes["result"], arrays),)
    except FileNotFoundError:
        return None
    # There is no end to how parsers fail at a file that is forged.
    except Exception as err:
        what = "cannot be read" if isinstance(err, OSError) else "is damaged"
        why = f"{path} {what} ({str(err) or type(err).__name__})"
        return warnings.warn(f"cached: {why}, so it is computed again.", stacklevel=3)


def write(path: Path, key: str, result: Any) -> Any:
    """Keep a result; return it as it will be read."""
    arrays: list[np.ndarray] = []
    try:
        said = _encode(result, arrays)
        as_read = _decode(said, iter(arrays).__next__)
        _files.write(path, arrays, _KIND, {"key": key, "result": said})
        return as_read
    except (TypeError, ValueError, RecursionError, OSError) as err:
        warnings.warn(
            f"cached: {path} cannot be written ({err}), so the result is not kept.", stacklevel=3
        )
        return result


def _encode(value: Any, arrays: list[np.ndarray]) -> Any:
    """What JSON can say about a result; its arrays are added to `arrays`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        said, array = plain(value)
        if array.dtype.hasobject:
            raise TypeError("a result must hold no NumPy array of Python objects")
        arrays.append(array)
        # What files of NumPy do not know: bfloat16 and its like.
        return said | ({"dtype": array.dtype.name} if array.dtype.isbuiltin == 2 else {})
    if isinstance(value, type) and issubclass(value, eqx.Enumeration):
        return {"class": _name_of(value)}
    if isinstance(value, eqx.Module):
        parts = [getattr(value, field.name) for field in dataclasses.fields(value)]
    elif type(value) is dict:
        parts = [part for item in value.items() for part in item]
    elif type(value) is list or isinstance(value, tuple):
        parts = list(value)
    else:
        raise TypeError(
            "a result must be made of arrays, numbers, strings, tuples, lists, dicts and Equinox "
            f"modules; {type(value).__module__}.{type(value).__qualname__} came. Return the arrays "
            "that it is made from"
        )
    return {"class": _name_of(type(value)), "parts": [_encode(part, arrays) for part in parts]}


def _decode(said: Any, next_array: Callable[[], np.ndarray]) -> Any:
    """The inverse of `_encode`. No code from a file runs, not even the `__init__` of a class."""
    if not isinstance(said, dict):
        return said
    if "array" in said:
        array = next_array()
        array = array.view(said["dtype"]) if "dtype" in said else array
        make = {"jax": jnp.asarray, "numpy": np.array, "number": lambda array: array[()]}
        make["key"] = lambda array: jax.random.wrap_key_data(jnp.asarray(array), impl=said["impl"])
        return make[said["array"]](array)
    cls = _find(said["class"])
    if "parts" not in said and issubclass(cls, eqx.Enumeration):
        return cls
    parts = [_decode(part, next_array) for part in said["parts"]]
    if cls is dict:
        return dict(zip(parts[::2], parts[1::2], strict=True))
    if cls is list:
        return parts
    if issubclass(cls, tuple):
        return tuple.__new__(cls, parts)
    if not issubclass(cls, eqx.Module):
        raise ValueError(f"{cls.__qualname__} is no kind of result")
    module = object.__new__(cls)
    for field, part in zip(dataclasses.fields(cls), parts, strict=True):
        object.__setattr__(module, field.name, part)
    return module


def _name_of(cls: type) -> str:
    name = f"{cls.__module__}:{cls.__qualname__}"
    if _find(name) is not cls:
        raise TypeError(
            "a result must be of classes that can be found by their names; "
            f"{cls.__qualname__} cannot. Define it at the top of a module or a notebook"
        )
    return name


def _find(name: str) -> Any:
    """The class of this name, which must be loaded already; nothing is imported."""
    module, _, path = name.partition(":")
    return functools.reduce(
        lambda part, key: getattr(part, key, None), path.split("."), sys.modules.get(module)
    )
