"""What must hold of the notebooks. Each rule returns complaints; links are left to Sphinx."""

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import api

LARGEST = 1_000_000
"""Characters of a notebook; GitHub shows no larger ones."""


def sources(nbs: Path) -> list[str]:
    """Complaints about notebooks: form, saved outputs, undocumented names."""
    bad = []
    found = {}
    for path in sorted(nbs.rglob("*.ipynb")):
        name = path.relative_to(nbs).as_posix()
        if not any(part.startswith(("_", ".")) for part in Path(name).parts):
            found[name] = json.loads(path.read_text())
            bad += [f"nbs/{name}: {complaint}" for complaint in notebook(found[name], name)]
    return bad + undocumented(found)


def notebook(nb: dict[str, Any], name: str) -> Iterator[str]:
    """Complaints about one notebook."""
    cells = nb["cells"]
    if not cells or not re.match(r"# .+\n\n> .+", "".join(cells[0]["source"])):
        yield "must begin with a cell '# Title', a blank line and '> one sentence'"
    if len(json.dumps(nb)) > LARGEST:
        yield "is larger than 1 MB; `make nbs-save` makes its pictures smaller"
    titles = [c for c in cells if c["cell_type"] == "markdown" and _has_title("".join(c["source"]))]
    if len(titles) != 1:
        yield f"must have one heading of level 1; {len(titles)} cells have one"
    for k, cell in enumerate(cells):
        source = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        if any(out["output_type"] == "error" for out in cell["outputs"]):
            yield f"cell {k} has saved an error; run `make nbs`"
        text = json.dumps(cell["outputs"])
        if "Traceback (most recent call last)" in text:
            yield f"cell {k} has saved a traceback"
        if "Warning:" in text and not name.startswith("api/"):
            yield f"cell {k} has saved a warning"
        skipped = re.search(r"#\|\s*(eval:\s*false|hide)", source) or not source.strip()
        if not skipped and not name.startswith("api/") and _shows(source) and not cell["outputs"]:
            yield f"cell {k} has no saved output; run `make nbs`"


def _has_title(source: str) -> bool:
    text = re.sub(r"```.*?```", "", source, flags=re.DOTALL)
    return bool(re.search(r"^# .+$", text, flags=re.MULTILINE))


def _shows(source: str) -> bool:
    """Whether a cell ends with an expression, whose value a notebook shows."""
    source = "\n".join(line for line in source.splitlines() if not line.lstrip().startswith("%"))
    try:
        body = ast.parse(source).body
    except SyntaxError:
        return False
    silent = source.rstrip().endswith(";")
    return bool(body) and isinstance(body[-1], ast.Expr) and not silent


def undocumented(notebooks: dict[str, dict[str, Any]]) -> list[str]:
    """Public names that no page of `api/` shows."""
    shown = set()
    for name, nb in notebooks.items():
        if name.startswith("api/"):
            shown |= set(api.shown("\n".join("".join(c["source"]) for c in nb["cells"])))
    every = {symbol for page in api.pages() for symbol in page.symbols}
    missing = [
        f"{name}: is public, and on no page of nbs/api/. Run `make api`." for name in every - shown
    ]
    gone = [f"{name}: is shown on a page of nbs/api/, and not public" for name in shown - every]
    return sorted(missing + gone)


def sidebar(path: Path) -> dict[str, list[str]]:
    """The pages of each section of the side bar, in reading order; the first page is in none."""
    import yaml  # comes with the extra `docs`; all other rules need the standard library alone

    parts = yaml.safe_load(path.read_text())["website"]["sidebar"]["contents"]
    return {part["section"]: part["contents"] for part in parts if isinstance(part, dict)}
