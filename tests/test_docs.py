"""The notebooks' form, the reference's completeness, and the built site in a real browser.

The browser's tests need what `make docs` makes, Debian's `chromium` (or Chrome), and Playwright.
"""

import io
import json
import os
import re
import subprocess
import sys
import tomllib

import api
import check
import numpy as np
import palettes
import pytest
from PIL import Image

from tests.browser import ROOT, SITE, Visit

NBS = ROOT / "nbs"

# -- the rules can fail -----------------------------------------------------------------------


def nb(*cells):
    """A notebook of Markdown (text) and code (text, outputs) cells."""
    made = [
        {"cell_type": "markdown", "source": c}
        if isinstance(c, str)
        else {"cell_type": "code", "source": c[0], "outputs": c[1]}
        for c in cells
    ]
    return {"cells": made}


TOP = "# Title\n\n> One sentence."
PRINTED = {"output_type": "stream", "text": "1"}


@pytest.mark.parametrize(
    ("cells", "complaint"),
    [
        (["# Title"], "must begin with a cell"),
        ([TOP, "# Another"], "one heading of level 1; 2 cells"),
        ([TOP, ("1 / 0", [{"output_type": "error"}])], "cell 1 has saved an error"),
        (
            [TOP, ("f()", [PRINTED | {"text": "Traceback (most recent call last)"}])],
            "has saved a traceback",
        ),
        ([TOP, ("f()", [PRINTED | {"text": "UserWarning: no"}])], "has saved a warning"),
        ([TOP, ("x = 1\nx", [])], "cell 1 has no saved output"),
        ([TOP, ("f()", [PRINTED | {"text": "1" * 10**6}])], "is larger than 1 MB"),
    ],
)
def test_the_rule_of_notebooks_can_fail(cells, complaint):
    (found,) = check.notebook(nb(*cells), "guides/x.ipynb")
    assert complaint in found


def test_the_rule_of_notebooks_lets_the_rest_pass():
    cells = [
        TOP,
        ("x = 1", []),
        ("x", [PRINTED]),
        ("#| eval: false\n%pip install x", []),
        ("f(x);", []),
        "```\n# no heading\n```",
    ]
    assert not list(check.notebook(nb(*cells), "guides/x.ipynb"))


def test_the_rule_of_the_reference_can_fail():
    pages = {f"api/{p.name}.ipynb": api.notebook(p) for p in api.pages()}
    assert not check.undocumented(pages)
    sources = [cell["source"] for cell in pages["api/binary.ipynb"]["cells"]]
    source = next(lines for lines in sources if "am.AbstractBinaryAM," in lines[0])
    source[0] = source[0].replace("AbstractBinaryAM", "Nothing")
    found = check.undocumented(pages)
    assert [line.split(":")[0] for line in found] == ["AbstractBinaryAM", "Nothing"]


def test_what_sphinx_checks_can_fail(tmp_path):
    """Broken links, anchors, pictures, side bars and rules are errors of the build."""
    v4 = pytest.importorskip("nbformat", reason="needs the extra amlib[docs]").v4
    links = "[1](a.ipynb#here) [2](a.ipynb#there) [3](c.ipynb) [4](https://example.org/x)"
    failed = v4.new_code_cell("1 / 0", outputs=[v4.new_output("error")])
    pages = {
        "index": [TOP, f"{links} ![5](no.png)\n\n`am.data.mnist` and `no_name`"],
        "a": [TOP, "## Here\n\n[6](index.ipynb)"],
        "forgotten": [TOP, failed],
        "api/data": [TOP, v4.new_code_cell("show_doc(am.data.mnist, title_level=2)")],
    }
    for name, cells in pages.items():
        made = [v4.new_markdown_cell(cell) if isinstance(cell, str) else cell for cell in cells]
        path = tmp_path / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"language_info": {"name": "python"}}
        path.write_text(json.dumps(v4.new_notebook(cells=made, metadata=metadata)))
    (tmp_path / "nbs" / "sidebar.yml").write_text(
        "website: {sidebar: {contents: [index.ipynb, {section: All, contents: "
        "[a.ipynb, api/data.ipynb, b.ipynb]}]}}"
    )
    command = [sys.executable, "-m", "sphinx", "-qW", "--keep-going", "-c", NBS / "_sphinx"]
    done = subprocess.run(
        [*command, tmp_path / "nbs", tmp_path / "html"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    said = [line for line in done.stderr.splitlines() if "on no page of nbs/api" not in line]
    expected = [
        "nbs/forgotten.ipynb: cell 1 has saved an error",
        "nonexisting document 'b'",
        "image file not readable: no.png",
        "forgotten.ipynb: WARNING: document isn't included in any toctree",
        "local id not found in doc 'a': 'there'",
        "cross-reference target not found: 'c.ipynb'",
    ]
    assert done.returncode == 1
    assert len(said) == len(expected), said
    assert all(text in line for text, line in zip(expected, said, strict=True)), said
    assert 'href="api/data.html#mnist"' in (tmp_path / "html" / "index.html").read_text()


# -- the rules hold ---------------------------------------------------------------------------


def notebooks():
    return {
        path.relative_to(NBS).as_posix(): json.loads(path.read_text())
        for path in sorted(NBS.rglob("*.ipynb"))
        if not path.name.startswith(("_", "."))
    }


def test_every_public_name_is_in_the_reference():
    found = check.undocumented(notebooks())
    assert not found, f"run `make api`: {found}"


def test_pages_of_the_reference_are_those_that_are_made():
    """They show the names in the order of the code; nothing is written by hand."""
    for page in api.pages():
        path = NBS / "api" / f"{page.name}.ipynb"
        assert path.is_file(), f"{path.name} is missing; run `make api`"
        kept = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"]]
        made = ["".join(cell["source"]) for cell in api.notebook(page)["cells"]]
        assert kept == made, f"{path.name} is old; run `make api`"


def test_pages_of_the_reference_can_be_read_where_nothing_runs_them():
    for page in api.pages():
        path = NBS / "api" / f"{page.name}.ipynb"
        kept = json.loads(path.read_text())
        assert kept == api.notebook(page, outputs=True), f"{path.name} is old; run `make api`"
        shows = [c for c in kept["cells"] if "show_doc(am" in "".join(c["source"])]
        assert shows
        for cell in shows:
            (out,) = cell["outputs"]
            text = "".join(out["data"]["text/markdown"])
            assert re.match(r"##+ \S+\n\n```python\n", text), text[:80]
            assert len(text.split("```")[2].strip()) > 10, text  # a docstring follows


def test_notebooks_have_their_form_and_their_outputs():
    bad = [f"{k}: {c}" for k, page in notebooks().items() for c in check.notebook(page, k)]
    assert not bad


def png(pixels, **how):
    """An image's file."""
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "png", **how)
    return file.getvalue()


def test_saved_pictures_get_a_palette_that_nobody_sees():
    at = np.hypot(*np.mgrid[-150:150, -150:150])
    colours = 0.8 * at, 255 - 0.8 * at, abs(0.8 * at - 99) + at % 7, np.full_like(at, 255)
    smooth = np.stack(colours, axis=-1).astype(np.uint8)
    assert len(np.unique(smooth.reshape(-1, 4), axis=0)) > 256
    whole = png(smooth, dpi=(200, 200))
    few = palettes.with_palette(whole)
    assert len(few) < 0.8 * len(whole)
    with Image.open(io.BytesIO(few)) as image:
        assert image.mode == "P"
        assert round(image.info["dpi"][0]) == 200
        off = np.abs(np.asarray(image.convert("RGB"), int) - smooth[..., :3])
    assert off.max(-1).mean() < palettes.ERROR


@pytest.mark.parametrize("kind", ["many colours", "transparent", "film", "palette"])
def test_other_pictures_stay_as_they_are(kind):
    noise = np.random.default_rng(0).integers(0, 256, (90, 90, 4))
    noise[..., 3] = 0 if kind == "transparent" else 255
    frames = [Image.fromarray(np.full((9, 9, 3), v, np.uint8)) for v in (0, 200)]
    file = {
        "film": lambda: png(np.zeros((9, 9, 3)), save_all=True, append_images=frames[1:]),
        "palette": lambda: palettes.with_palette(png(np.zeros((90, 90, 3)))),
    }.get(kind, lambda: png(noise))()
    assert palettes.with_palette(file) is file


def test_notebooks_open_in_colab():
    """Tutorials link to themselves in the project's own repository, and install from it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    slug = project["urls"]["Repository"].removeprefix("https://github.com/")
    for name, page in notebooks().items():
        text = "".join(line for cell in page["cells"] for line in cell["source"])
        if name.startswith("tutorials/"):
            assert f"colab.research.google.com/github/{slug}/blob/main/nbs/{name}" in text, name
            assert f"%pip install -q git+https://github.com/{slug}" in text, name


@pytest.mark.parametrize(
    "name",
    [
        "guides/choose",
        "tutorials/dense_storage",
        "tutorials/hierarchical",
        "tutorials/reconstructors",
    ],
)
def test_long_computations_are_kept(name):
    """These take more than ten seconds; the text says what is kept before the code does it."""
    cells = [(c["cell_type"], "".join(c["source"])) for c in notebooks()[f"{name}.ipynb"]["cells"]]
    used = [kind for kind, text in cells if "am.cache.cached" in text]
    assert used == ["markdown", "code"]


# -- the site in a browser --------------------------------------------------------------------

LOOK = """() => ({
    wide: document.documentElement.scrollWidth - window.innerWidth,
    raw: [...document.querySelectorAll('.math')].filter(
        e => !e.querySelector('mjx-container')).map(e => e.textContent),
    wrong: [...document.querySelectorAll('mjx-merror, [data-mml-node=merror]')].map(
        e => e.textContent),
    blank: [...document.querySelectorAll('.bd-article img')].filter(
        e => e.complete && !e.naturalWidth).map(e => e.src),
    math: document.querySelectorAll('mjx-container').length,
    images: document.querySelectorAll('.bd-article img').length,
    title: document.title,
})"""


@pytest.mark.filterwarnings("ignore")
def test_every_page_loads_without_a_network(browser, address):
    """On a phone: no error, all math typeset, all pictures there, no scrolling sideways."""
    visit = Visit(browser, address, 390, 844)
    bad, seen = {}, {}
    for path in sorted(SITE.rglob("*.html")):
        name = path.relative_to(SITE).as_posix()
        if name.startswith("_static"):  # templates of the theme
            continue
        visit.errors.clear()
        seen[name] = look = visit.open(name).evaluate(LOOK)
        found = [*visit.errors, *look["raw"], *look["wrong"], *look["blank"]]
        if look["wide"] > 0:
            found.append(f"{look['wide']} pixels too wide")
        if found:
            bad[name] = found
    visit.page.close()
    assert not bad
    assert len(seen) > 10
    assert seen["tutorials/modern_hopfield.html"]["math"] > 5
    assert seen["tutorials/dense_storage.html"]["images"] > 4
    assert seen["index.html"]["images"] >= 2


BEYOND = """() => [...document.querySelectorAll('mjx-container[display] svg')].filter(e =>
    e.getBoundingClientRect().right > e.closest('.math').getBoundingClientRect().right + 2
).map(e => e.closest('section').id)"""


@pytest.mark.filterwarnings("ignore")
def test_formulas_fit_beside_the_contents(browser, address):
    """On a laptop; on a phone wide ones scroll."""
    visit = Visit(browser, address, 1150, 900)
    pages = sorted(SITE.glob("[agt]*/*.html"))  # reference, guides, tutorials
    beyond = {p.stem: visit.open(p.relative_to(SITE).as_posix()).evaluate(BEYOND) for p in pages}
    visit.page.close()
    assert len(beyond) > 30
    assert not {page: sections for page, sections in beyond.items() if sections}


@pytest.mark.filterwarnings("ignore")
def test_pages_lead_on(browser, address):
    """From page to page by "next", through the whole side bar and back by "previous"."""
    sections = check.sidebar(NBS / "sidebar.yml").values()
    written = ["index", *(p.removesuffix(".ipynb") for pages in sections for p in pages)]
    visit = Visit(browser, address)
    page = visit.open("index.html")
    for name in written[1:]:
        page.goto(page.eval_on_selector("a.right-next", "e => e.href"), wait_until="commit")
        page.wait_for_load_state("domcontentloaded")
        assert page.url == f"{address}/{name}.html"
    page.goto(page.eval_on_selector("a.left-prev", "e => e.href"))
    assert page.url == f"{address}/{written[-2]}.html"
    page.close()


@pytest.mark.filterwarnings("ignore")
def test_search_finds_a_class(browser, address):
    visit = Visit(browser, address)
    page = visit.open("search.html?q=ModernHopfield")
    page.wait_for_selector("#search-results li a")
    found = page.eval_on_selector_all("#search-results li a", "all => all.map(e => e.href)")
    assert any("api/continuous.html" in link for link in found)
    assert not visit.errors
    page.close()


@pytest.mark.filterwarnings("ignore")
def test_dark_mode_toggles(browser, address):
    visit = Visit(browser, address)
    page = visit.open("index.html")
    sum_of = (
        "() => getComputedStyle(document.body).backgroundColor"
        ".match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)"
    )
    brightness = {}
    for mode in ("dark", "light"):
        for _ in range(3):  # a menu, or in older themes a button that goes round all modes
            page.click("button.theme-switch-button:visible")
            item = page.query_selector(f"button.theme-change-button[data-mode={mode}]")
            if item is not None:
                item.click()
            if page.evaluate("() => document.documentElement.dataset.theme") == mode:
                break
        page.wait_for_timeout(400)  # colours fade
        brightness[mode] = page.evaluate(sum_of)
    assert brightness["light"] > 600
    assert brightness["dark"] < 200
    assert not visit.errors
    page.close()


@pytest.mark.filterwarnings("ignore")
def test_names_lead_to_their_documentation(browser, address):
    """A name in backticks in a tutorial is a link, and its anchor is the heading of the class."""
    visit = Visit(browser, address)
    page = visit.open("tutorials/modern_hopfield.html")
    link = page.query_selector("a:has-text('EpanechnikovMemory')")
    page.goto(link.evaluate("e => e.href"))
    assert page.url.endswith("api/continuous.html#epanechnikovmemory")
    assert "EpanechnikovMemory" in page.inner_text("#epanechnikovmemory h2")
    page.close()
