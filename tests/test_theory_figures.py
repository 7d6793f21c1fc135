"""The figures of theory over simulation run, on tiny systems, and are drawn anew from numbers."""

import importlib
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIGURES = sorted(p.stem for p in BENCHMARKS.glob("theory_*.py") if p.stem != "theory_figures")


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_measured_and_drawn(name, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script, shared = importlib.import_module(name), importlib.import_module("theory_figures")
    call = lambda *words: (
        monkeypatch.setattr(sys, "argv", [name, "--out", str(tmp_path), *words]),
        shared.main(name, script.run, script.draw, script.page),
    )
    call("--quick")
    page, picture = tmp_path / f"{name}.md", tmp_path / f"{name}.png"
    text = page.read_text()
    assert text.startswith("# ")
    assert f"]({name}.png)" in text
    assert "commit " in text
    assert "| --- |" in text
    data = json.loads((tmp_path / f"{name}.json").read_text())
    assert len(data["rows"]) >= 2
    with Image.open(picture) as image:
        assert min(image.size) > 300
    # The same from the numbers, without a simulation.
    picture.unlink()
    page.unlink()
    monkeypatch.setattr(script, "run", None)
    call("--redraw")
    assert page.read_text() == text
    assert picture.exists()
    capsys.readouterr()


@pytest.mark.parametrize("name", FIGURES)
def test_committed_results_are_complete(name):
    for ending in ("json", "md", "png"):
        assert (BENCHMARKS / "results" / f"{name}.{ending}").exists()
    assert (BENCHMARKS / "results" / f"{name}.png").stat().st_size < 150_000
