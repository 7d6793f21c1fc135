"""The guide "Extend amlib": each example is a file of a reader's own, and they run strict."""

import ast
import json
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[1] / "nbs/guides/extend.ipynb"
EXAMPLES = {
    "a method for reals": "HeavyBall",
    "a visiting order": "Checkerboard",
    "a proposal of several bits": "Dominoes",
    "a Lagrangian": "lagr_huber",
    "a layer": "ShrinkLayer",
    "a synapse": "GatedSynapse",
    "a learning rule": "perceptron",
    "a loss": "Margin",
    "a space of reals": "Simplex",
    "a space of two values": "Occupied",
}


def code():
    """The code cells of the guide."""
    cells = json.loads(GUIDE.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def defined(source):
    """The names of the functions and classes of a cell."""
    kinds = ast.FunctionDef | ast.ClassDef
    return [node.name for node in ast.parse(source).body if isinstance(node, kinds)]


@pytest.mark.parametrize("example", EXAMPLES)
def test_an_example_is_a_file_of_under_forty_lines(example):
    """It brings its own imports, and nothing else of the page."""
    (source,) = [text for text in code() if EXAMPLES[example] in defined(text)]
    assert len(source.splitlines()) < 40
    assert source.startswith(("import ", "from "))
    space = {"__name__": "a_file_of_a_readers"}
    exec(compile(source, example, "exec"), space)
    assert EXAMPLES[example] in space


def test_the_checks_of_the_examples_hold_without_promotion():
    """The page runs as it stands where dtypes and ranks must not mix."""
    page = {"__name__": "a_page"}
    for source in code():
        exec(compile(source, "extend.ipynb", "exec"), page)
    checks = sum(text.count("\nassert ") for text in code())
    assert checks > 15
