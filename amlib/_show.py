"""How things print: one line as it would be typed, or a block with a row for each field.

`text` is the `__repr__` of memories, methods, layers and results. Nothing is run for it: no energy
is traced, nothing is compiled, and of arrays single numbers are read. It never raises, whatever a
module holds: tracers, shapes alone, holes of `equinox.partition`, or what a user put there. How the
flips of an energy are evaluated is therefore left to `explain`, which traces the energy.
"""

import dataclasses
import functools
import html as markup
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import equinox as eqx
import jax
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import PyTree

from amlib._checks import is_concrete, is_traced

WIDTH, LINES = 88, 60
"""The longest line of a thing that is shown in one, and the most lines of a block."""

_ITEMS, _ROWS, _DEPTH, _LONGEST = 4, 12, 5, 60  # of a container, things in things, a text
_GAP = "   "  # between columns

_Made = TypeVar("_Made")


class Page(NamedTuple):
    """What is said of a thing: a title, tables with a heading each, and a picture as SVG."""

    title: str
    tables: Mapping[str, Sequence[tuple[str, ...]]]
    picture: Callable[[], str] = lambda: ""


def text(self: object) -> str:
    """A thing in one line where it fits, else as a block: the `__repr__` of what is no memory."""
    said = line(self)
    return said if len(said) <= WIDTH else block(self)


def line(value: object, depth: int = _DEPTH) -> str:
    """A value in one line as it would be typed: numbers, names, shapes, and no defaults."""
    said = attempt(lambda: _line(value, depth))
    return f"<{type(value).__name__}>" if said is None else said


def _line(value: object, depth: int) -> str:
    if _is_array(value):
        return _array(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return _listed(
            "{}", [f"{k!r}: {line(v, depth - 1)}" for k, v in _first(value.items())], value
        )
    if (fields := _fields(value)) is not None:
        name = type(value).__name__
        if depth <= 0 and fields:
            return f"{name}(...)"
        return f"{name}({', '.join(f'{k}={line(v, depth - 1)}' for k, v in fields)})"
    if isinstance(value, tuple | list | set | frozenset):
        ends = "[]" if isinstance(value, list) else "()" if isinstance(value, tuple) else "{}"
        return _listed(
            ends, [line(v, depth - 1) if depth > 0 else "..." for v in _first(value)], value
        )
    if isinstance(value, functools.partial):
        given = [line(a, depth - 1) for a in (value.func, *value.args)]
        given += [f"{k}={line(v, depth - 1)}" for k, v in value.keywords.items()]
        return f"partial({', '.join(given)})"
    name = getattr(value, "__name__", None)
    if callable(value) and isinstance(name, str):
        return name
    return _cut(_said(value))


def block(self: object) -> str:
    """A thing as a block, however short: the `__repr__` of memories."""
    return plain(_page_of(self))


def notebook(self: object) -> str:
    """The same for notebooks: the `_repr_html_` of memories."""
    return html(_page_of(self))


def _page_of(value: Any) -> Page:
    """What a thing says of itself by a method `_page`, if it has one and it does not fail."""
    own = getattr(type(value), "_page", page)
    return attempt(lambda: own(value)) or page(value)


def page(value: object, facts: Sequence[str] = (), more: Mapping[str, str] | None = None) -> Page:
    """A row for each field that is no default.

    **Arguments:**

    - `facts`: for the title, before the size.
    - `more`: further rows.
    """
    rows = [(name, _entry(v)) for name, v in attempt(lambda: _fields(value)) or []]
    rows += (more or {}).items()
    facts = [*facts, *(attempt(lambda: size(value)) or [])]
    return Page(type(value).__name__ + (f": {', '.join(facts)}" if facts else ""), {"": rows})


def plain(page: Page) -> str:
    """A page as text: aligned columns, and what takes several lines indented below its row."""
    lines = [page.title]
    for heading, rows in page.tables.items():
        lines += [heading] if heading else []
        lines += _table(rows) if rows or not heading else ["  none"]
    if len(lines) > LINES:
        lines[LINES - 1 :] = [f"... {len(lines) - LINES + 1:,} more lines"]
    return "\n".join(lines)


def html(page: Page) -> str:
    """A page for notebooks, in the colours of whatever surrounds it, light or dark."""
    columns = max((len(row) for rows in page.tables.values() for row in rows), default=1)
    lines = []
    for heading, rows in page.tables.items():
        if heading and rows:
            lines.append(_cell("th", heading, columns))
        for row in rows:
            wide = [1] * (len(row) - 1) + [columns - len(row) + 1]
            cells = zip(row, wide, strict=True)
            lines.append("".join(_cell("td", part, span) for part, span in cells))
    table = "".join(f"<tr>{cells}</tr>" for cells in lines)
    title, picture = markup.escape(page.title), attempt(page.picture) or ""
    return (
        f'<div class="amlib" style="overflow-x: auto"><p><strong>{title}</strong></p>{picture}'
        f"<table>{table}</table></div>"
    )


def _cell(tag: str, said: str, columns: int) -> str:
    span = f' colspan="{columns}"' if columns > 1 else ""
    style = "text-align: left; padding-right: 1.5em"
    style += "; white-space: pre" if "\n" in said else ""
    return f'<{tag}{span} style="{style}">{markup.escape(said)}</{tag}>'


def attempt(make: Callable[[], _Made]) -> _Made | None:
    """What a user's code makes, or `None` where it raises: to print a thing must not fail.

    What it computes becomes no part of a program that is being traced.
    """
    try:
        with jax.ensure_compile_time_eval():
            return make()
    except Exception:
        return None


def unaddressed(said: str) -> str:
    """A text without the addresses of objects, which are others in each process."""
    return re.sub(r" at 0x[0-9a-fA-F]+", "", said)


def shortened(said: str, length: int) -> str:
    """A text, cut where it is longer."""
    return said if len(said) <= length else f"{said[: length - 1]}…"


def counted(n: int, noun: str) -> str:
    """A number and its noun: `1 layer`, `2 layers`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def dimensions(shape: Sequence[int]) -> str:
    """A shape: `48 x 48`."""
    return " x ".join(map(str, shape)) or "scalar"


def size(tree: PyTree) -> list[str]:
    """How much memory all arrays of a tree take together; nothing where there are none."""
    leaves = {id(leaf): leaf for leaf in jax.tree.leaves(tree) if _is_array(leaf)}.values()
    count = sum(int(np.prod(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return [f"{count / least:.3g} {unit}"]
    return [f"{count} B"] if count else []


# -- values ----------------------------------------------------------------------------------------


def _is_array(value: object) -> bool:
    return isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)


def _array(value: Any) -> str:
    number = _number(value)
    if number is not None:
        return f"{number:.6g}" if isinstance(number, float) else str(number)
    laid = ""
    if isinstance(value, jax.Array) and not is_traced(value):
        sharding = value.sharding
        if isinstance(sharding, NamedSharding) and len(sharding.device_set) > 1:
            laid = f" over {len(sharding.device_set)} devices by {tuple(sharding.spec)}"
    return f"{value.dtype}{list(value.shape)}{laid}"


def _number(value: Any) -> Any:
    """A number, also one in an array that can be read here and now; else `None`."""
    if isinstance(value, bool | int | float | complex):
        return value
    if not isinstance(value, jax.Array | np.ndarray | np.generic) or value.shape:
        return None
    if not is_concrete(value) or (isinstance(value, jax.Array) and value.is_deleted()):
        return None
    if not jax.dtypes.issubdtype(value.dtype, np.number) and value.dtype != bool:
        return None  # a random key
    return np.asarray(value).item()


def _fields(value: object) -> list[tuple[str, Any]] | None:
    """The fields of a module, a dataclass or a named tuple that are no defaults.

    `None` of anything else, and of what has a `__repr__` of its own.
    """
    cls: Any = type(value)
    if isinstance(value, tuple):
        if not hasattr(cls, "_fields"):
            return None
        given = [(name, cls._field_defaults.get(name, _NOTHING), None) for name in cls._fields]
    elif dataclasses.is_dataclass(cls) and _is_general(cls):
        given = list(_given(cls))
    else:
        return None
    found = [(name, getattr(value, name, _NOTHING), *more) for name, *more in given]
    return [
        (k, v) for k, v, *default in found if v is not _NOTHING and not _is_default(v, *default)
    ]


def _is_general(cls: Any) -> bool:
    """Whether a class of fields prints as all do, and not in a way of its own."""
    return cls.__dataclass_params__.repr or cls.__repr__ in (eqx.Module.__repr__, text, block)


_NOTHING: Any = dataclasses.MISSING


def _given(cls: Any) -> Iterator[tuple[str, Any, Any]]:
    """Names of fields, their defaults (those of `__init__` where it is written), converters."""
    signature = attempt(lambda: inspect.signature(cls).parameters) or {}
    for field in dataclasses.fields(cls):
        if not field.repr:
            continue
        default, factory = field.default, field.default_factory
        if default is _NOTHING and callable(factory):
            default = attempt(factory)
        if default is _NOTHING and field.name in signature:
            default = signature[field.name].default
            default = _NOTHING if default is inspect.Parameter.empty else default
        yield field.name, default, field.metadata.get("converter")


def _is_default(value: object, default: object, convert: Callable[[Any], object] | None) -> bool:
    if default is _NOTHING:
        return False
    if _same(value, default):
        return True
    if convert is None or _number(default) is not None:
        return False
    return _same(value, attempt(lambda: convert(default)))


def _same(a: object, b: object) -> bool:
    """Whether two values print alike because they are equal: numbers also of other precision."""
    if a is b:
        return True
    numbers = _number(a), _number(b)
    if None not in numbers:
        return np.allclose(*numbers, rtol=1e-6, atol=0.0)
    if type(a) is not type(b) or _is_array(a):
        return False
    fields, others = _fields(a), _fields(b)
    if fields is not None and others is not None:
        pairs = zip(fields, others, strict=False)
        return len(fields) == len(others) and all(
            m == n and _same(x, y) for (m, x), (n, y) in pairs
        )
    return attempt(lambda: bool(a == b)) is True


def _said(value: object) -> str:
    """What a value says of itself, without the address of an object."""
    return unaddressed(repr(value))


def _cut(said: str, length: int = _LONGEST) -> str:
    return shortened(" ".join(said.split()), length)


def _first(values: Iterable[_Made], count: int = _ITEMS) -> list[_Made]:
    """The first few; sets in an order that is the same in every process."""
    if isinstance(values, set | frozenset):
        values = sorted(values, key=repr)
    return [v for v, _ in zip(values, range(count), strict=False)]


def _listed(ends: str, said: list[str], whole: Any) -> str:
    if len(whole) > len(said):
        said = [*said, f"... {len(whole) - len(said):,} more"]
    one = "," if ends == "()" and len(said) == 1 else ""
    return f"{ends[0]}{', '.join(said)}{one}{ends[1]}"


# -- tables ----------------------------------------------------------------------------------------


def _entry(value: object) -> str:
    """The value of a row: in one line, or in several."""
    said = line(value)
    if type(value).__repr__ is not block and len(said) <= WIDTH:
        return said
    if _has_fields(value):
        return block(value)
    if isinstance(value, dict | list | tuple):
        items = _first(value.items() if isinstance(value, dict) else enumerate(value), _ROWS)
        if any(_has_fields(v) for _, v in items):
            rows = [(str(name), _entry(v)) for name, v in items]
            if len(value) > len(rows):
                rows.append(("...", f"{len(value) - len(rows):,} more"))
            return "\n".join([type(value).__name__, *_table(rows)])
    return _cut(said, WIDTH)


def _has_fields(value: object) -> bool:
    return attempt(lambda: _fields(value)) is not None


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Lines with aligned columns; of several lines in a last cell, all but the first below it."""
    heads = [row[:-1] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = []
    for head, row in zip(heads, rows, strict=True):
        first, *rest = row[-1].splitlines() or [""]
        cells = [f"{part:{width}}" for part, width in zip(head, widths, strict=True)]
        lines.append(f"  {_GAP.join([*cells, first])}".rstrip())
        lines += [f"    {part}" for part in rest]
    return lines
