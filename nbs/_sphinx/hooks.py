"""What nbdev loads by name (see `[tool.nbdev]`): how `show_doc` looks, callouts, and links."""

import ast
import functools
import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import api
from nbdev.config import get_config
from nbdev.process import Processor
from nbdev.showdoc import BasicMarkdownRenderer

# The modules that types come from say nothing to a reader.
_HOME = re.compile(
    r"\b(?:jaxtyping|collections\.abc|typing|numpy|pathlib|amlib(?:\.\w+)*|jax(?:lib)?(?:\.\w+)*)\."
    r"(?=\w)"
)


class Renderer(BasicMarkdownRenderer):
    """`show_doc` with a link to the source, short types, and a heading that any Markdown takes."""

    def _repr_markdown_(self) -> str:
        return self.text(self._source())

    def text(self, source: str = "") -> str:
        """The heading, `source`, the signature and the docstring."""
        name = self.nm.replace("_", r"\_")
        parts = [
            f"{'#' * self.title_level} {name}",
            source,
            f"```python\n{self._form()}\n```",
        ]
        parts.append(link(inspect.cleandoc(self.docs or ""), "../", self.nm))
        return "\n\n".join(part for part in parts if part)

    def _source(self) -> str:
        config = get_config()
        try:
            value = inspect.unwrap(self.sym.fget if isinstance(self.sym, property) else self.sym)
            path = inspect.getmodule(value).__name__.replace(".", "/")
            file = inspect.getsourcefile(value)
            path = f"{path}/__init__.py" if file.endswith("__init__.py") else f"{path}.py"
            line = inspect.getsourcelines(value)[1]
        except (OSError, TypeError, AttributeError):
            return ""
        return f"[source]({config.git_url}/blob/{config.branch}/{path}#L{line})"

    def _form(self) -> str:
        """The signature as its author wrote it, one argument per line where it is long."""
        if _is_property(self.sym):
            return self.nm
        try:
            signature = inspect.signature(self.sym)
        except (TypeError, ValueError):
            return self.nm
        said = _annotations(self.sym)
        kept = [
            p.replace(
                annotation=_Said(said[p.name]) if p.name in said else p.empty,
                default=_Said(p.default.__name__) if inspect.isroutine(p.default) else p.default,
            )
            for p in signature.parameters.values()
            if p.name not in ("self", "cls")
        ]
        text = str(inspect.Signature(kept))
        out = f" -> {said['return']}" if "return" in said else ""
        line = f"{self.nm}{text}{out}"
        if len(line) <= 80 or not kept:
            return line
        rows = [f"    {row}," for row in _split(text[1:-1])]
        return "\n".join([f"{self.nm}(", *rows, f"){out}"])


class _Said:
    """An annotation that is printed as it is."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _is_property(value: Any) -> bool:
    """Whether this is a property, or the function in one, which is what nbdev passes on."""
    if isinstance(value, property):
        return True
    owner: Any = inspect.getmodule(value)
    *path, name = getattr(value, "__qualname__", "").split(".")
    for part in path:
        owner = getattr(owner, part, None)
    return isinstance(inspect.getattr_static(owner, name, None), property)


def _annotations(value: Any) -> dict[str, str]:
    """Annotations by name, as they stand in the source; those of the fields for a class."""
    if inspect.isclass(value):
        parents = [base for base in reversed(value.__mro__) if base.__module__.startswith("amlib")]
        found = {k: v for base in parents for k, v in inspect.get_annotations(base).items()}
        return {k: _HOME.sub("", inspect.formatannotation(v)) for k, v in found.items()}
    try:
        source = inspect.getsource(inspect.unwrap(value))
        (node,) = ast.parse(textwrap.dedent(source)).body
    except (OSError, TypeError, SyntaxError, ValueError):
        return {}
    if not isinstance(node, ast.FunctionDef):
        return {}
    every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    said = {arg.arg: ast.unparse(arg.annotation) for arg in every if arg.annotation}
    return said | ({"return": ast.unparse(node.returns)} if node.returns else {})


def _split(text: str) -> list[str]:
    """Split at the commas that no bracket or quote encloses."""
    parts, depth, quote, start = [], 0, "", 0
    for k, c in enumerate(text):
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        else:
            depth += (c in "([{") - (c in ")]}")
            if c == "," and not depth:
                parts.append(text[start:k].strip())
                start = k + 1
    return [*parts, text[start:].strip()]


# -- prose ------------------------------------------------------------------------------------

_CALLOUT = re.compile(
    r"^> \*\*(Note|Tip|Important|Warning|Caution):\*\* *(.*(?:\n>.*)*)", re.MULTILINE
)
_CODE = re.compile(
    r"(```.*?```|~~~.*?~~~|\[[^\]]*\]\([^)]*\))|(?<![`\w])`([^`\n]+)`(?!`)", re.DOTALL
)


def callouts(cell: Any) -> None:
    """Turn a quote that begins with `**Note:**` and its like into a callout."""
    if cell.cell_type == "markdown" and cell.source:

        def box(found: re.Match[str]) -> str:
            body = re.sub(r"^> ?", "", found[2], flags=re.MULTILINE).strip()
            return f"::: {{.callout-{found[1].lower()}}}\n{body}\n:::"

        cell.source = _CALLOUT.sub(box, cell.source)


class Links(Processor):
    """Link names of the library in prose to their documentation."""

    def begin(self) -> None:
        page = Path(self.nb.path_).resolve().relative_to(get_config().nbs_path.resolve())
        self.up = "../" * (len(page.parts) - 1)

    def cell(self, cell: Any) -> None:
        if cell.cell_type == "markdown" and cell.source:
            cell.source = link(cell.source, self.up)


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
