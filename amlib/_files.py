"""Files that are whole or absent: atomic writing, and trees of arrays with a check of structure.

A file holds one line of format, version and SHA-256 of the rest; one line of JSON (what kind of
content, its structure, notes); then the arrays as Equinox serialises them. Nothing is pickled.
"""

import dataclasses
import functools
import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

MAGIC, VERSION = "amlib-file", 1
_SHOWN = 8  # differences named in an error


def save(path: Any, model: Any) -> None:
    """Write a model, or any tree of arrays, to a file that is whole or not there.

    The file is written beside its place and then renamed, so that an interrupted `save` leaves
    the old file as it was. Arrays, numbers and random keys are stored; functions and static
    fields are not, but `load` checks that they are the same.

    **Arguments:**

    - `path`: file name; its folder is made if need be. No ending is added.
    - `model`: an Equinox module or another tree.

    **Raises:** `TypeError` if `path` is no path; `IsADirectoryError` if it is a folder.
    """
    path = checked_path(path, "save: path")
    write(path, model, "model", {})


def load(path: Any, like: Any) -> Any:
    """Read what `save` wrote.

    ```python
    am.save("memory.am", model)
    model = am.load("memory.am", am.ModernHopfield(jnp.zeros((50, 64))))
    ```

    **Arguments:**

    - `path`: file name.
    - `like`: a model of the same structure; its arrays' values do not count. For one that is never
      filled, use `equinox.filter_eval_shape(make_model)`.

    **Returns:** the model, with the arrays of the file and the functions of `like`.

    **Raises:** `ValueError` for a file that is damaged, that `save` did not write, that a newer
    version wrote, or whose structure differs from that of `like`: it says where they differ.
    `FileNotFoundError` where there is no file.
    """
    path = checked_path(path, "load: path")
    return restore(path, read(path, "model"), like)


def checked_path(path: Any, where: str) -> Path:
    """Return a path to a file, or raise unless `path` can be one."""
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{where} must be a file name; {type(path).__name__} came.")
    path = Path(path).expanduser()
    if path.is_dir():
        raise IsADirectoryError(f"{where} must be a file; the folder {path} came. Add a file name.")
    return path


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
    now = path.stat().st_mtime
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
    notes: dict[str, Any]
    body: bytes


def write(path: Path, tree: Any, kind: str, notes: dict[str, Any]) -> None:
    """Write a tree with notes (anything JSON can hold), atomically."""
    header = {"kind": kind, "structure": describe(tree), "notes": notes}
    buffer = io.BytesIO()
    buffer.write(json.dumps(header).encode() + b"\n")
    eqx.tree_serialise_leaves(buffer, _without_keys(tree))
    rest = buffer.getbuffer()
    line = f"{MAGIC} {VERSION} {hashlib.sha256(rest).hexdigest()}\n".encode()
    write_atomic(path, lambda file: (file.write(line), file.write(rest)))


def read(path: Path, kind: str) -> Content:
    """Read a file's header and bytes; raise unless it is whole and of this kind."""
    first, _, rest = path.read_bytes().partition(b"\n")
    words = first.decode("ascii", "replace").split(" ")
    if len(words) != 3 or words[0] != MAGIC or not words[1].isdigit():
        raise ValueError(
            f"{path}: must be a file that amlib saved; its first line says otherwise. "
            "It is another file, or its beginning is damaged."
        )
    if int(words[1]) > VERSION:
        raise ValueError(
            f"{path}: its format must be version {VERSION} at most; version {words[1]} came. "
            "A newer amlib saved it: update amlib."
        )
    if hashlib.sha256(rest).hexdigest() != words[2]:
        raise ValueError(
            f"{path}: the file is damaged (truncated or altered): its checksum does not fit its "
            "content. Use a copy, or save it again."
        )
    line, _, body = rest.partition(b"\n")
    header = json.loads(line)
    if header["kind"] != kind:
        raise ValueError(
            f"{path}: must hold a {kind}; it holds a {header['kind']}. "
            "am.load reads what am.save wrote; am.fit(..., checkpoint=path) reads checkpoints."
        )
    return Content(header["structure"], header["notes"], body)


def restore(path: Path, content: Content, like: Any) -> Any:
    """Return a tree like `like` with the arrays of a file; raise where the structures differ."""
    different = differences(content.structure, describe(like))
    if different:
        shown = "\n".join(f"  {line}" for line in different[:_SHOWN])
        more = f"\n  and {len(different) - _SHOWN} more" if len(different) > _SHOWN else ""
        raise ValueError(
            f"{path}: the structure must be that of `like`; they differ:\n{shown}{more}\n"
            "Make `like` with the sizes and options of the model that was saved."
        )
    tree = eqx.tree_deserialise_leaves(io.BytesIO(content.body), _without_keys(like))
    return jax.tree.map(_with_key, tree, like)


def describe(tree: Any) -> dict[str, str]:
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


def _leaf(leaf: Any) -> str:
    if hasattr(leaf, "shape") and hasattr(leaf, "dtype"):
        return f"{leaf.dtype}{list(leaf.shape)}"
    return type(leaf).__name__ if isinstance(leaf, bool | int | float | complex) else _text(leaf)


def _statics(node: Any, path: str) -> Iterator[tuple[str, str]]:
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


def _text(value: Any) -> str:
    """A value as text that is the same in every process."""
    if isinstance(value, functools.partial):
        return f"partial({_text(value.func)}, {_text(value.args)}, {_text(value.keywords)})"
    if callable(value) and hasattr(value, "__qualname__"):
        return str(value.__qualname__)
    return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(value))


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _without_keys(tree: Any) -> Any:
    """The same tree with random keys as the integers that they are made of."""

    def plain(leaf: Any) -> Any:
        if not _is_key(leaf):
            return leaf
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.eval_shape(jax.random.key_data, leaf)
        return jax.random.key_data(leaf)

    return jax.tree.map(plain, tree)


def _with_key(leaf: Any, like: Any) -> Any:
    if not _is_key(like):
        return leaf
    impl = re.sub(r"key<(.*)>", r"\1", str(like.dtype))
    names = {"fry": "threefry2x32", "urbg": "unsafe_rbg"}
    return jax.random.wrap_key_data(jnp.asarray(leaf), impl=names.get(impl, impl))
