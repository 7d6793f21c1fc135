"""A Sphinx extension: the notebooks of `nbs/` as myst-nb reads them, and the rules they keep."""

import json
import re
from pathlib import Path
from typing import Any

import api
import check
import showdoc
import yaml
from sphinx.util import logging

_OPTION = re.compile(r"^#\|\s*([\w-]+)(?:\s*:\s*(.*?))?\s*$\n?", re.MULTILINE)
_CALLOUT = re.compile(
    r"^> \*\*(Note|Tip|Important|Warning|Caution):\*\* *(.*(?:\n>.*)*)", re.MULTILINE
)


def setup(app: Any) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", _check)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def slug(heading: str) -> str:
    """The id of a heading, as in links to it: `AbstractBinaryAM.recall` is not one word."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s.\-]", "", heading.strip().lower()))


def _check(app: Any) -> None:
    for complaint in check.sources(Path(app.srcdir)):
        logging.getLogger(__name__).warning(complaint)


def _read(app: Any, name: str, content: list[str]) -> None:
    nb = json.loads(content[0])
    cells = [made for cell in nb["cells"] if (made := _cell(cell, "../" * name.count("/")))]
    cells[0]["source"] = cells[0]["source"].replace("\n\n> ", "\n\n", 1)
    if name == app.config.root_doc:
        for section, pages in check.sidebar(Path(app.srcdir, "sidebar.yml")).items():
            lines = ["```{toctree}", ":hidden:", f":caption: {section}", "", *pages, "```"]
            cells.append(_markdown("\n".join(lines), section.lower()))
    content[0] = json.dumps(nb | {"cells": cells})


def _markdown(source: str, id: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "id": id, "metadata": {}, "source": source}


def _cell(cell: dict[str, Any], up: str) -> dict[str, Any] | None:
    """A cell with links and callouts, and with its lines `#| name: value` as myst-nb has them."""
    source = "".join(cell["source"])
    for symbol in api.shown(source):  # its heading must be one of the page
        made = showdoc.Renderer(api.resolve(symbol), api.heading(symbol), api.level(symbol))
        return _markdown(made._repr_markdown_(showdoc.source(made.value)), cell["id"])
    if cell["cell_type"] == "markdown":
        return cell | {"source": showdoc.link(_CALLOUT.sub(_callout, source), up)}
    options = {name: yaml.safe_load(value) for name, value in _OPTION.findall(source)}
    meta = cell["metadata"] | {"tags": ["hide-input"] if options.get("code-fold") else []}
    if "fig-cap" in options:
        caption = str(options["fig-cap"])
        meta["mystnb"] = {"figure": {"caption": caption}, "image": {"alt": caption}}
    made = cell | {"metadata": meta, "source": _OPTION.sub("", source)}
    return None if "hide" in options else made


def _callout(found: re.Match[str]) -> str:
    body = re.sub(r"^> ?", "", found[2], flags=re.MULTILINE).strip()
    return f":::{{{found[1].lower()}}}\n{body}\n:::"
