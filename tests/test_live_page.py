"""The live page: its recalls are the library's, bit for bit, and people can use it as they are."""

import base64
import io
import re

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from PIL import Image

import amlib as am
from tests.browser import SITE, Visit

pytestmark = pytest.mark.filterwarnings("ignore")

PAGE = "demo/index.html"
KINDS = {
    "classical": (None, lambda Xi: am.ClassicalHopfield(Xi)),
    "polynomial 3": (3, lambda Xi: am.PolynomialDenseAM(Xi, n=3)),
    "polynomial 8": (8, lambda Xi: am.PolynomialDenseAM(Xi, n=8)),
    "exponential 0.1": (0.1, lambda Xi: am.ExponentialDenseAM(Xi, beta=0.1)),
    "exponential 1": (1.0, lambda Xi: am.ExponentialDenseAM(Xi, beta=1.0)),
}
REPLAY = """async ({kind, parameter, rows, x0, order}) => {
    const { Patterns, energies, visit } = await import('./memory.js');
    const { load } = await import('./icons.js');
    const icons = window.icons ??= await load();
    const patterns = Patterns.of(rows.map(icons.row));
    const made = visit(patterns, energies[kind](parameter), x0, order);
    return {x: [...made.x], accepted: [...made.accepted], energies: [...made.energies]};
}"""
READY = "!document.getElementById('recall').disabled"
ENDED = "document.getElementById('status').textContent.includes('sweeps')"


@pytest.fixture
def visit(request, browser, address):
    """The page, ready; what went wrong on it must be nothing."""
    if not (SITE / PAGE).is_file():
        pytest.fail("the site has no live page: run `make docs`")
    options = getattr(request, "param", {})
    visit = Visit(browser, address, **options)
    visit.open(PAGE).wait_for_function(READY)
    yield visit
    visit.page.close()
    assert not visit.errors


def slide(page, id, value):
    """Move a slider, as a person does."""
    page.eval_on_selector(
        f"#{id}", "(e, v) => { e.value = v; e.dispatchEvent(new Event('input')); }", value
    )


def recalled(page):
    """What the page says after a recall."""
    page.click("#recall")
    page.wait_for_function(ENDED)
    return page.inner_text("#status")


def pixels(page):
    """The colours of the 48x48 pixels, from the middle of each."""
    url = page.eval_on_selector("#state", "e => e.toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))))[5::10, 5::10]


@pytest.mark.parametrize("name", KINDS)
def test_visits_end_as_in_the_library(visit, x64, name):
    """Ten recalls of each energy, the visits in one order: flips, energies and end are the same."""
    parameter, make = KINDS[name]
    images = np.asarray(am.data.icons().images, np.float64).reshape(4134, -1)
    rng = np.random.default_rng(5)
    flipped = 0
    for K, times in {2: 3, 100: 4, 4134: 3}.items():
        for seed in range(times):
            rows = rng.choice(4134, K, replace=False)
            memory = make(jnp.asarray(images[rows]))
            x0 = images[rows[0]] * np.where(rng.random(2304) < 0.3, -1, 1)
            x, (frames, energies) = memory.async_recall(x0, nsteps=6000, key=jr.key(seed))
            case = {"kind": name.split()[0], "parameter": parameter, "rows": rows.tolist()}
            case |= {"x0": x0.astype(int).tolist(), "order": frames.visited.ravel().tolist()}
            page = visit.page.evaluate(REPLAY, case)
            np.testing.assert_array_equal(page["accepted"], np.asarray(frames.accepted).ravel())
            np.testing.assert_array_equal(page["x"], x)
            np.testing.assert_allclose(page["energies"], energies, rtol=1e-12)
            flipped += sum(page["accepted"])
    assert flipped > 3000


def test_a_landscape_is_that_of_the_library(visit, x64):
    """Energies, gradients and minima, also where two points share one."""
    rng = np.random.default_rng(2)
    for points, beta in [(rng.normal(size=(4, 2)), 3.0), (rng.normal(size=(6, 2)), 40.0)]:
        memory = am.GaussianMemory(jnp.asarray(points), beta=beta)
        x = jnp.asarray(rng.normal(size=(20, 2)))
        page = visit.page.evaluate(
            """async ([points, beta, x]) => {
                const { energy, gradient, minima } = await import('./landscape.js');
                return [x.map(x => energy(points, beta, x)), x.map(x => gradient(points, beta, x)),
                        minima(points, beta)];
            }""",
            [points.tolist(), beta, x.tolist()],
        )
        np.testing.assert_allclose(page[0], jax.vmap(memory.energy)(x), atol=1e-9)
        np.testing.assert_allclose(page[1], jax.vmap(jax.grad(memory.energy))(x), atol=1e-9)
        census = am.analysis.fixed_points(memory, jnp.asarray(points), key=jr.key(0))
        ends = census.x[census.index == 0]
        assert len(page[2]) == len(ends)
        apart = np.linalg.norm(np.array(page[2])[:, None] - ends[None], axis=-1)
        assert apart.min(0).max() < 1e-4


def test_a_stranger_repairs_a_picture(visit):
    """One button, from what is there at first: 4,134 pictures, 30 % of the bits flipped."""
    assert "This is dragon-head, to the last pixel" in recalled(visit.page)
    assert visit.page.inner_text("#nearestName") == "dragon-head"
    visit.page.click("#back")
    visit.page.click("#recall")
    visit.page.click("#end")
    visit.page.wait_for_function(ENDED)
    assert "dragon-head" in visit.page.inner_text("#status")


def test_a_classical_network_is_overloaded_where_a_dense_one_is_not(visit):
    slide(visit.page, "count", 7)  # 500 pictures
    visit.page.select_option("#energy", "classical")
    assert re.search(r"The nearest is [\w-]+, \d+ pixels apart", recalled(visit.page))
    visit.page.click("#back")
    visit.page.select_option("#energy", "polynomial")
    slide(visit.page, "power", 10)
    assert "to the last pixel" in recalled(visit.page)


def test_what_is_known_stays(visit):
    page = visit.page
    page.fill("#icon", "Acorn")
    page.press("#icon", "Tab")
    page.click("#hide")
    page.click("#flip")
    before = pixels(page)
    assert "This is acorn, to the last pixel" in recalled(page)
    np.testing.assert_array_equal(pixels(page)[:24], before[:24])
    assert (pixels(page) != before).any()


def test_a_drawing_can_be_stored(visit):
    page = visit.page
    page.click("#blank")
    box = page.locator("#state").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 300, box["y"] + 300, steps=20)
    page.mouse.up()
    page.check("#own")
    assert "This is your drawing, to the last pixel" in recalled(page)


def test_keys_draw(visit):
    page = visit.page
    page.click("#blank")
    page.focus("#state")
    off = pixels(page)[24, 25].tolist()
    page.keyboard.press("ArrowRight")
    page.keyboard.press(" ")
    assert pixels(page)[24, 25].tolist() != off
    page.keyboard.press(" ")
    assert pixels(page)[24, 25].tolist() == off


PHONE = {"width": 390, "height": 844, "has_touch": True}


@pytest.mark.parametrize("visit", [PHONE], indirect=True)
def test_a_finger_draws_on_a_phone(visit):
    page = visit.page
    page.click("#blank")
    off = pixels(page)[10, 30].tolist()
    page.locator("#state").scroll_into_view_if_needed()
    box = page.locator("#state").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] * 30.5 / 48, box["y"] + box["height"] * 10.5 / 48)
    assert pixels(page)[10, 30].tolist() != off
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_points_are_dragged_and_minima_merge(visit):
    page = visit.page
    says = "document.getElementById('valleyStatus').textContent"
    page.wait_for_function(f"{says} === '4 points, 4 minima.'")
    slide(page, "sharp", 0)  # beta = 1
    page.wait_for_function(f"{says}.startsWith('4 points, 1 minimum')")
    page.click("#reset")
    page.wait_for_function(f"{says} === '4 points, 4 minima.'")
    page.locator("#valley").scroll_into_view_if_needed()
    box = page.locator("#valley").bounding_box()
    spot = lambda x, y: (
        box["x"] + box["width"] * (x + 1.6) / 3.2,
        box["y"] + box["height"] * (1.6 - y) / 3.2,
    )
    page.mouse.move(*spot(-0.75, 0.6))
    page.mouse.down()
    page.mouse.move(*spot(0.7, 0.7), steps=8)
    page.mouse.up()
    page.wait_for_function(f"{says}.startsWith('4 points, 3 minima')")
    page.mouse.click(*spot(0.1, -0.2))
    page.wait_for_function(f"{says}.startsWith('The ball rolled')")
    page.focus("#valley")
    page.keyboard.press("n")
    page.keyboard.press("ArrowUp")
    page.wait_for_function(f"{says}.startsWith('4 points')")
    page.keyboard.press("b")
    page.wait_for_function(f"{says}.startsWith('The ball rolled')")


@pytest.mark.parametrize("visit", [{"color_scheme": "dark"}], indirect=True)
def test_dark_rooms_get_a_dark_page(visit):
    colour = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert sum(map(int, re.findall(r"\d+", colour))) < 150


def test_the_index_leads_here_and_back(browser, address):
    visit = Visit(browser, address)
    page = visit.open("index.html")
    page.click("text=Repair a picture in your browser")
    page.wait_for_url(f"**/{PAGE}")
    page.wait_for_function(READY)
    page.click("h1 a")
    page.wait_for_url("**/index.html")
    page.close()
    assert not visit.errors


def test_the_page_is_small(visit):
    files = [path for path in (SITE / "demo").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 2_000_000
    assert {path.suffix for path in files} == {".html", ".css", ".js", ".bin"}
