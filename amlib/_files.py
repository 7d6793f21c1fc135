"""Files that are whole or absent: atomic writing, and trees of arrays with a check of structure.

A file holds one line of format, version and SHA-256 of the rest; one line of JSON (what kind of
content, its structure, notes); then the arrays, each as NumPy saves it. Nothing is pickled.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from amlib import _hosts as hosts, _show as show
from amlib._types import PathLike

MAGIC, VERSION = "amlib-file", 1
_SHOWN = 8  # differences named in an error
_KINDS = {"b": "b", "i": "iu", "u": "iu", "f": "f", "c": "c"}  # 2**63 is saved as unsigned

Notes: TypeAlias = dict[str, Any]
"""Anything that JSON can hold."""
_Tree = TypeVar("_Tree")


def save(path: PathLike, model: PyTree) -> None:
    """Write a model, or any tree of arrays, to a file that is whole or not there.

    The file is written beside its place and then renamed, so that an interrupted `save` leaves
    the old file as it was. Arrays, numbers and random keys are stored; functions and static
    fields are not, but `load` checks that they are the same. A file does not know on how many
    devices the arrays were.

    Where other processes hold parts of `model`, all call `save` together, with one path: the first
    writes the whole, and the others return once it is there.

    **Arguments:**

    - `path`: file name; its folder is made if need be. No ending is added. A symbolic link is
      followed: it stays, and what it leads to is written.
    - `model`: an Equinox module or another tree.

    **Raises:** `TypeError` if `path` is no path, or an array of `model` holds Python objects;
    `IsADirectoryError` if `path` is a folder; `ValueError` if it is a device, a named pipe or a
    socket, which a file would replace.
    """
    write(checked_path(path, "save: path"), model, "model", {})


def load(path: PathLike, like: _Tree) -> _Tree:
    """Read what `save` wrote.

    ```python
    am.save("memory.am", model)
    model = am.load("memory.am", am.ModernHopfield(jnp.zeros((50, 64))))
    ```

    **Arguments:**

    - `path`: file name.
    - `like`: a model of the same structure; its arrays' values do not count. For one that is never
      filled, use `equinox.filter_eval_shape(make_model)`.

    **Returns:** the model, with the arrays of the file and the functions of `like`. Each array is
    placed as that of `like`, on however many devices. Where other processes hold parts of `like`,
    all call `load` together; only the first needs the file.

    **Raises:** `ValueError` for a file that is damaged or forged, that `save` did not write, that
    a newer version wrote, or whose structure differs from that of `like`: it says where they
    differ. `FileNotFoundError` where there is no file.
    """
    file = checked_path(path, "load: path")
    return restore(file, read(file, "model", together=hosts.spread(like)), like)


def checked_path(path: PathLike, where: str) -> Path:
    """Return the path of a file that is there or may be made, links followed, or raise."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{where} must be a file name; {type(path).__name__} came.")
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{where} must be a file; the folder {path} came. Add a file name.")
    # Asked of the path as it came: what /dev/stdout leads to has no name of its own.
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(
            f"{where} must be an ordinary file; {path} is a device, a named pipe or a socket. "
            "Name a file."
        )
    real = Path(os.path.realpath(path))
    if real.is_symlink():
        raise ValueError(f"{where} must be a file; the link {path} leads back to itself.")
    return real


def write_atomic(path: Path, writer: Callable[[BinaryIO], object]) -> None:
    """Let `writer` fill a file that appears at `path` whole, or not at all.

    It is written under another name in the same folder, flushed to the disk, and renamed. A
    process killed in between leaves `path` as it was, and a file `.NAME.*.part` beside it, which
    the next successful writing removes once it is an hour old.

    **Arguments:**

    - `path`: where the file shall be; its folder is made if need be.
    - `writer`: called with the open binary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            writer(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    _sweep(path)


def _sync_folder(folder: Path) -> None:
    """Flush a rename to the disk, where the system can (Windows cannot open folders)."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sweep(path: Path) -> None:
    """Remove what killed writers of `path` left, but not what another may be writing now."""
    try:
        now = path.stat().st_mtime
    except FileNotFoundError:  # another removed the file that was just written
        return
    for part in path.parent.iterdir():
        if part.name.startswith(f".{path.name}.") and part.name.endswith(".part"):
            try:
                if part.stat().st_mtime < now - 3600:
                    part.unlink()
            except OSError:  # it is another's, or gone already
                continue


# -- trees of arrays ---------------------------------------------------------------------------


class Content(NamedTuple):
    """What a file holds, its checksum verified: structure, notes and serialised arrays."""

    structure: dict[str, str]
    notes: Notes
    body: bytes


def write(path: Path, tree: PyTree, kind: str, notes: Notes) -> None:
    """Write a tree with notes (anything JSON can hold), atomically.

    Of a tree that several processes hold, the first one writes, and all return when it has.
    """
    together = hosts.spread(tree)
    mine = hosts.is_first() or not together
    header = {"kind": kind, "structure": describe(tree), "notes": notes}
    buffer = io.BytesIO()
    buffer.write(json.dumps(header).encode() + b"\n")
    for leaf in map(_plain, jax.tree.leaves(tree)):
        if eqx.is_array_like(leaf):
            array = hosts.whole(leaf)
            if array.dtype.hasobject:
                raise TypeError(
                    f"{path}: arrays and numbers must be of at most 64 bits a number; "
                    f"{leaf!r} came, a Python object. Make it a float, or a static field."
                )
            if mine:
                np.save(buffer, array, allow_pickle=False)

    def finish() -> None:
        rest = buffer.getbuffer()
        line = f"{MAGIC} {VERSION} {hashlib.sha256(rest).hexdigest()}\n".encode()
        write_atomic(path, lambda file: (file.write(line), file.write(rest)))

    if together:
        hosts.once(finish)
    else:
        finish()


def read(path: Path, kind: str, *, together: bool = False) -> Content:
    """Read a file's header and bytes; raise `ValueError` unless it is whole and of this kind.

    Of all processes `together`, the first one reads, and sends the others what it read.
    """
    with io.BytesIO(hosts.once(path.read_bytes) or b"") if together else path.open("rb") as file:
        words = file.readline(200).decode("ascii", "replace").removesuffix("\n").split(" ")
        if len(words) != 3 or words[0] != MAGIC or not re.fullmatch("[1-9][0-9]*", words[1]):
            raise ValueError(
                f"{path}: must be a file that amlib saved; its first line says otherwise. "
                "It is another file, or its beginning is damaged."
            )
        if int(words[1]) > VERSION:
            raise ValueError(
                f"{path}: its format must be version {VERSION} at most; version {words[1]} came. "
                "A newer amlib saved it: update amlib."
            )
        with whatever_it_holds(path):
            rest = file.read()
    if hashlib.sha256(rest).hexdigest() != words[2]:
        raise ValueError(
            f"{path}: the file is damaged (truncated or altered): its checksum does not fit its "
            "content. Use a copy, or save it again."
        )
    line, _, body = rest.partition(b"\n")
    with whatever_it_holds(path):
        header = json.loads(line)
        found, structure, notes = (header[name] for name in ("kind", "structure", "notes"))
        if not all(map(isinstance, (found, structure, notes), (str, dict, dict))):
            raise TypeError("its header is of another form")
    if found != kind:
        raise ValueError(
            f"{path}: must hold a {kind}; it holds a {found}. "
            "am.load reads what am.save wrote; am.fit(..., checkpoint=path) reads checkpoints."
        )
    return Content(structure, notes, body)


def restore(path: Path, content: Content, like: _Tree) -> _Tree:
    """Return a tree like `like` with the arrays of a file; raise where the structures differ."""
    different = differences(content.structure, describe(like))
    if different:
        shown = "\n".join(f"  {line}" for line in different[:_SHOWN])
        more = f"\n  and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise ValueError(
            f"{path}: the structure must be that of `like`; they differ:\n{shown}{more}\n"
            "Make `like` with the sizes and options of the model that was saved."
        )
    file = io.BytesIO(content.body)
    with whatever_it_holds(path):
        tree = jax.tree.map(lambda leaf: _read_leaf(file, leaf), like)
        if file.read(1):
            raise ValueError("it holds more arrays than it says")
    return tree


@contextlib.contextmanager
def whatever_it_holds(path: Path) -> Iterator[None]:
    """Raise `ValueError` for any failure: parsers fail in any way at bytes that are forged."""
    try:
        yield
    except Exception as err:
        raise ValueError(
            f"{path}: the file is damaged or forged: {err or type(err).__name__}. "
            "Use a copy, or save it again."
        ) from err


def read_array(file: io.BytesIO) -> np.ndarray:
    """Read what `numpy.save` wrote, into no more memory than the bytes take that are there.

    (`numpy.load` reserves what the header claims, before it looks for it.) The array cannot be
    written to. Bytes that are damaged or forged raise exceptions of any kind.
    """
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"arrays of version {version} are unknown")
    header = np.lib.format.read_array_header_1_0, np.lib.format.read_array_header_2_0
    shape, in_columns, dtype = header[version[0] - 1](file)
    if dtype.hasobject or any(n < 0 for n in shape):
        raise ValueError(f"no array has shape {shape} and dtype {dtype}")
    data = file.read(math.prod(shape) * dtype.itemsize)
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape} is cut short")
    return np.ndarray(shape, dtype, data, order="F" if in_columns else "C")


def _read_leaf(file: io.BytesIO, like: Any) -> Any:
    """The next array as a leaf like this one; the leaf itself where it is no array or number."""
    plain = _plain(like)
    stored = isinstance(plain, jax.ShapeDtypeStruct) or eqx.is_array_like(plain)
    if not stored:
        return like
    array = read_array(file)
    if isinstance(plain, bool | int | float | complex) and not isinstance(plain, np.generic):
        same = array.dtype.kind in _KINDS[np.asarray(plain).dtype.kind]
    else:
        if array.dtype.kind == "V" and array.dtype.itemsize == plain.dtype.itemsize:
            array = array.view(plain.dtype)  # bfloat16 and its like, which NumPy does not name
        same = array.dtype == plain.dtype
    if not same or array.shape != np.shape(plain):
        raise ValueError(f"{array.dtype}{list(array.shape)} came where it says {_leaf(like)}")
    if isinstance(plain, jax.ShapeDtypeStruct | jax.Array):
        return _with_key(hosts.like(array, plain), like)
    return array.copy() if isinstance(plain, np.ndarray) else type(plain)(array.item())


def describe(tree: PyTree) -> dict[str, str]:
    """Name every leaf of a tree, every class in it and every static field, by its path."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    described = {jax.tree_util.keystr(path): _leaf(leaf) for path, leaf in leaves}
    return described | dict(_statics(tree, ""))


def differences(saved: dict[str, str], like: dict[str, str]) -> list[str]:
    """Say in one line each where two descriptions differ."""
    lines = []
    for path in [*saved, *(path for path in like if path not in saved)]:
        if saved.get(path) != like.get(path):
            here = f"{saved[path]} in the file" if path in saved else "not in the file"
            there = f"{like[path]} in `like`" if path in like else "not in `like`"
            lines.append(f"{path or 'the whole'}: {here}, {there}")
    return lines


def _leaf(leaf: object) -> str:
    dtype, shape = getattr(leaf, "dtype", None), getattr(leaf, "shape", None)
    if dtype is not None and shape is not None:
        return f"{dtype}{list(shape)}"
    return type(leaf).__name__ if isinstance(leaf, bool | int | float | complex) else _text(leaf)


def _statics(node: object, path: str) -> Iterator[tuple[str, str]]:
    """The classes and static fields below a node, by path."""
    if isinstance(node, eqx.Module):
        yield f"{path} (class)".strip(), type(node).__name__
        for field in dataclasses.fields(node):
            value = getattr(node, field.name, None)
            if field.metadata.get("static", False):
                yield f"{path}.{field.name}", _text(value)
            else:
                yield from _statics(value, f"{path}.{field.name}")
    elif isinstance(node, tuple) and (names := getattr(node, "_fields", None)) is not None:
        yield f"{path} (class)".strip(), type(node).__name__
        for name, value in zip(names, node, strict=True):
            yield from _statics(value, f"{path}.{name}")
    elif isinstance(node, dict | list | tuple):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _statics(value, f"{path}[{key!r}]")


def _text(value: object) -> str:
    """A value as text that is the same in every process."""
    if isinstance(value, functools.partial):
        return f"partial({_text(value.func)}, {_text(value.args)}, {_text(value.keywords)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    # What is printed for people is cut short, and rounded.
    said = eqx.tree_pformat(value) if isinstance(value, eqx.Module) else repr(value)
    return show.unaddressed(said)


def _is_key(leaf: object) -> bool:
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and bool(jnp.issubdtype(dtype, jax.dtypes.prng_key))


def _plain(leaf: Any) -> Any:
    """A random key as the integers that it is made of; anything else as it is."""
    if not _is_key(leaf):
        return leaf
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.eval_shape(jax.random.key_data, leaf)
    return jax.random.key_data(leaf)


def _with_key(leaf: Array, like: Any) -> Array:
    if not _is_key(like):
        return leaf
    impl = re.sub(r"key<(.*)>", r"\1", str(like.dtype))
    names = {"fry": "threefry2x32", "urbg": "unsafe_rbg"}
    return jax.random.wrap_key_data(leaf, impl=names.get(impl, impl))
