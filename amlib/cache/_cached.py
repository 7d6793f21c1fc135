"""The decorator that keeps results."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amlib.cache import _file as file
from amlib.cache._key import key_of

VARIABLE = "AMLIB_CACHE"
"""The environment variable that turns the cache off: `AMLIB_CACHE=0`."""


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
            key = None if _is_off() else key_of(fn, args, kwargs)
            if key is None:
                return fn(*args, **kwargs)
            path = folder / f"{name}-{key[:16]}.npz"
            kept = file.read(path, key)
            if kept is not None:
                return kept[0]
            return file.write(path, key, fn(*args, **kwargs))

        return answer

    return decorate


def _is_off() -> bool:
    return os.environ.get(VARIABLE, "1").strip().lower() in ("0", "false", "no", "off")
