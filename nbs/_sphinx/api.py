"""Write the pages of `nbs/api/` anew from the public names: `python nbs/_sphinx/api.py`.

One page for each room of the library, with a `show_doc` cell for every public name, and for every
public method and property that a class defines.
"""

import ast
import inspect
import itertools
import json
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import amlib
from amlib import _lazy

NBS = Path(__file__).parents[1]

# Pages: titles and sentences.
ROOMS = {
    "memory": ("All memories", "What every family shares: `recall`, and what it says of itself."),
    "binary": ("Binary memories", "Memories over spins: write `energy`, get recall."),
    "potts": ("Potts memories", "Memories over units of several values."),
    "continuous": ("Continuous memories", "Memories over real-valued states."),
    "hierarchical": ("Hierarchical memories", "Layers, synapses, and the energy of both."),
    "learning": ("Learning", "Storage rules, losses, the training loop, trainable models."),
    "nn": ("Layers", "Layers for any network, whose core is a memory."),
    "descent": ("Descent", "Methods as objects and the engines under them, for any scalar."),
    "spaces": ("Spaces", "What a unit of a state may be."),
    "sharding": ("Sharding", "Memories and batches over many devices."),
    "data": ("Data", "Pictures to store, your own pictures, and ways to corrupt them."),
    "analysis": ("Analysis", "Measurements on memories and on recalls."),
    "sampling": ("Sampling", "Chains of states at a temperature, and what is observed of them."),
    "theory": ("Theory", "What theory says of loads, temperatures and sizes."),
    "plots": ("Plots", "Pictures of patterns, recalls and energies, and films."),
    "cache": ("Cache", "Results kept on disk."),
}


class Page(NamedTuple):
    name: str
    title: str
    sentence: str
    symbols: list[str]  # as users write them, without `am.`


def pages() -> Iterator[Page]:
    """The pages, each public name on the first page that has it."""
    seen: set[int] = set()
    for room, (title, sentence) in ROOMS.items():
        symbols = []
        for name in _names(room):
            value = resolve(name)
            if id(value) in seen or not callable(value):
                continue
            seen.add(id(value))
            symbols += [name, *(f"{name}.{member}" for member in _members(value))]
        if symbols:
            yield Page(room, title, sentence, symbols)


def _names(room: str) -> Iterator[str]:
    """The names of a room: those that `amlib` itself exports, then those of its modules."""
    for name in _exports(amlib):
        value = getattr(amlib, name)
        home = getattr(value, "__module__", "") or ""
        if not isinstance(value, ModuleType) and home.startswith(f"amlib.{room}"):
            yield name
    module = getattr(amlib, room, None)
    if isinstance(module, ModuleType) and room in [*_exports(amlib), *_lazy.ROOMS]:
        for name in _exports(module):
            value = getattr(module, name)
            if isinstance(value, ModuleType):
                yield from (f"{room}.{name}.{inner}" for inner in _exports(value))
            else:
                yield f"{room}.{name}"


def _exports(module: ModuleType) -> list[str]:
    """The public names of a package, or those that a module defines itself, in reading order."""
    if hasattr(module, "__path__"):
        nodes = ast.parse(inspect.getsource(module)).body
        names = [a.asname for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names]
    else:
        names = [
            name
            for name, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", None) == module.__name__
        ]
    return [name for name in names if name and not name.startswith("_")]


def _members(value: Any) -> list[str]:
    """The public methods and properties that a class defines itself."""
    if not inspect.isclass(value):
        return []
    kinds = property | classmethod | staticmethod
    return [
        name
        for name, member in vars(value).items()
        if not name.startswith("_")
        and (inspect.isfunction(getattr(value, name, None)) or isinstance(member, kinds))
        and inspect.getdoc(getattr(value, name))
        and getattr(member, "__module__", "amlib") in (None, "amlib", value.__module__)
    ]


def resolve(name: str) -> Any:
    """What a name stands for."""
    return operator.attrgetter(name)(amlib)


def shown(source: str) -> list[str]:
    """The names that `show_doc` cells show."""
    return re.findall(r"^show_doc\(am\.([\w.]+)", source, flags=re.MULTILINE)


def anchors() -> dict[str, str]:
    """From each name that prose may use, as `am.data.icons`, to its page and anchor."""
    table: dict[str, str] = {}
    for page in pages():
        for symbol in page.symbols:
            address = f"api/{page.name}.ipynb#{heading(symbol).lower()}"
            for start, end in itertools.product(("", "am.", "amlib."), ("", "()")):
                table.setdefault(f"{start}{symbol}{end}", address)
    return table


def heading(symbol: str) -> str:
    """A name as it stands over its documentation: without the module, methods with their class."""
    parts = symbol.split(".")
    start = next((k for k, part in enumerate(parts) if part[0].isupper()), len(parts) - 1)
    return ".".join(parts[start:])


def level(symbol: str) -> int:
    """The level of a heading: methods stand below their class."""
    return 2 + heading(symbol).count(".")


def notebook(page: Page, outputs: bool = False) -> dict[str, Any]:
    """A page as a notebook.

    `outputs` are what the cells show, so that the page can be read where nothing runs it. They
    leave out the lines of the source, which move with every change.
    """
    import showdoc  # which imports this module

    cells = [_cell("markdown", f"# {page.title}\n\n> {page.sentence}", 0)]
    cells.append(
        _cell("code", "#| hide\nfrom nbdev.showdoc import show_doc\n\nimport amlib as am", 1)
    )
    for symbol in page.symbols:
        value = resolve(symbol)
        same = callable(value) and value.__name__ == heading(symbol)
        name = "" if same else f", name={heading(symbol)!r}"
        source = f"show_doc(am.{symbol}{name}, title_level={level(symbol)})".replace("'", '"')
        cells.append(_cell("code", source, len(cells)))
        if outputs:
            text = showdoc.Renderer(value, heading(symbol), level(symbol))._repr_markdown_()
            data = {"text/markdown": text.splitlines(keepends=True)}
            cells[-1]["outputs"] = [{"output_type": "display_data", "data": data, "metadata": {}}]
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, source: str, k: int) -> dict[str, Any]:
    lines = source.splitlines(keepends=True)
    cell: dict[str, Any] = {
        "cell_type": kind,
        "id": f"cell-{k:03}",
        "metadata": {},
        "source": lines,
    }
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def main() -> None:
    for page in pages():
        path = NBS / "api" / f"{page.name}.ipynb"
        nb = notebook(page, outputs=True)
        # As `nbdev-clean` writes it.
        path.write_text(json.dumps(nb, sort_keys=True, indent=1, ensure_ascii=False) + "\n")
        print(f"nbs/api/{path.name}: {len(page.symbols)} names")


if __name__ == "__main__":
    main()
