"""The committed figures: those of theory run on tiny systems; all are drawn anew from numbers."""

import importlib
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
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


DRAWN = {
    "bench_potts": ["potts"],
    "capacity_rules": ["capacity_rules"],
    "compare_memories": ["compare_memories", "compare_counts"],
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_is_drawn_from_what_is_stored(name, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module(name)
    for file in [*BENCHMARKS.glob("results/*.json"), *BENCHMARKS.glob("results/*.csv")]:
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(script, "OUT", tmp_path)
    monkeypatch.setattr(sys, "argv", [name, "--draw"])
    script.main()
    for figure in DRAWN[name]:
        with (
            Image.open(tmp_path / f"{figure}.png") as new,
            Image.open(BENCHMARKS / f"results/{figure}.png") as committed,
        ):
            assert abs(new.height - committed.height) < 0.1 * committed.height  # fonts differ


def test_make_figures_draws_every_committed_figure():
    recipe = (BENCHMARKS.parent / "Makefile").read_text().split("\nREDRAWN =")[1].split("\n\n")[0]
    text = "".join(
        (BENCHMARKS / f"{name}.py").read_text()
        for name in re.findall(r"\b((?:theory|bench|diffusion|distributed|capacity|compare|report"
                               r"|train)_\w+)", recipe)
    )  # fmt: skip
    for picture in BENCHMARKS.glob("results/*.png"):
        assert re.sub("_(mnist|icons)$", "_{name}", picture.stem) in text, picture


def test_a_caption_has_room_below_the_figure(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    captions = importlib.import_module("captions")
    heights = []
    for text in ("short", "a longer text, " * 20):
        figure = Figure(figsize=(4, 2), dpi=100)
        figure.add_axes((0, 0, 1, 1)).axis("off")
        captions.save(captions.captioned(figure, text), tmp_path / "figure.png")
        with Image.open(tmp_path / "figure.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert np.flatnonzero(pixels.min(axis=1) < 128).max() < len(pixels) - 5
        heights.append(len(pixels))
    assert heights[1] > heights[0] + 50
