"""What `show_doc` shows of a public name: the call, the docstring, links. nbdev loads it."""

import ast
import functools
import inspect
import re
import textwrap
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import api

_CODE = re.compile(
    r"(```.*?```|~~~.*?~~~|\[[^\]]*\]\([^)]*\))|(?<![`\w])`([^`\n]+)`(?!`)", re.DOTALL
)


class Renderer:
    """Markdown of a function, a class or a property, for `renderer` in `[tool.nbdev]`."""

    def __init__(self, sym: Any, name: str | None = None, title_level: int = 3) -> None:
        self.value, self.name, self.level = sym, name or sym.__qualname__, title_level

    def _repr_markdown_(self, *links: str) -> str:
        name = self.name.replace("_", r"\_")
        text = link(inspect.getdoc(self.value) or "", "../", self.name)
        call = f"```python\n{self.call()}\n```"
        return "\n\n".join([f"{'#' * self.level} {name}", *links, call, text])

    def call(self) -> str:
        """The call as its author wrote it, with one argument per line where it is long."""
        if isinstance(self.value, property):
            return self.name
        said: dict[str, str] = {}
        for name, text in _annotations(self.value):
            said |= {name: text} if text != "Any" or name not in said else {}
        rows = []
        parameters = inspect.signature(self.value).parameters.values()
        for p in (p for p in parameters if p.name not in ("self", "cls")):
            if p.kind is p.KEYWORD_ONLY and not any(row.startswith("*") for row in rows):
                rows.append("*")
            row = str(p.replace(annotation=p.empty, default=p.empty))
            row += f": {said[p.name]}" if p.name in said else ""
            if p.default is not p.empty:
                named = inspect.isroutine(p.default) or inspect.isclass(p.default)
                default = p.default.__name__ if named else repr(p.default)
                row += f" = {default}" if p.name in said else f"={default}"
            rows.append(row)
        out = f" -> {said['return']}" if "return" in said else ""
        line = f"{self.name}({', '.join(rows)}){out}"
        if len(line) <= 80 or not rows:
            return line
        return "\n".join([f"{self.name}(", *(f"    {row}," for row in rows), f"){out}"])


def _annotations(value: Any) -> Iterator[tuple[str, str]]:
    """Annotations by name as they stand in the source; for a class those of what makes one."""
    parts = reversed(value.__mro__) if inspect.isclass(value) else [inspect.unwrap(value)]
    for part in (part for part in parts if part.__module__.startswith("amlib")):
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(part))).body
        for node in tree.body if isinstance(tree, ast.ClassDef) else [tree]:
            if isinstance(node, ast.AnnAssign):
                yield ast.unparse(node.target), ast.unparse(node.annotation)
            elif isinstance(node, ast.FunctionDef) and (node is tree or node.name == "__init__"):
                said = [arg for arg in ast.walk(node.args) if isinstance(arg, ast.arg)]
                yield from ((a.arg, ast.unparse(a.annotation)) for a in said if a.annotation)
                if node.returns and node is tree:
                    yield "return", ast.unparse(node.returns)


def source(value: Any) -> str:
    """A link to the lines that define a name, which move with every change."""
    root = Path(__file__).parents[2]
    value = inspect.unwrap(value.fget if isinstance(value, property) else value)
    file = Path(inspect.getsourcefile(value) or "").relative_to(root).as_posix()
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    line = inspect.getsourcelines(value)[1]
    return f"[source]({project['urls']['Repository']}/blob/main/{file}#L{line})"


@functools.cache
def _anchors() -> dict[str, str]:
    return api.anchors()


def link(text: str, up: str, itself: str = "") -> str:
    """Text whose names in backticks lead to their documentation."""

    def one(found: re.Match[str]) -> str:
        if found[1]:
            return found[1]
        address = _anchors().get(found[2].strip())
        if address is None or api.heading(found[2].removesuffix("()")) == itself:
            return found[0]
        return f"[{found[0]}]({up}{address})"

    return _CODE.sub(one, text)
