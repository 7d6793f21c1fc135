"""The built site in a real browser: what its tests share.

They need what `make docs` makes, Debian's `chromium` (or Chrome), and Playwright.
"""

import functools
import http.server
import shutil
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SITE = ROOT / "_docs"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="module")
def address():
    """The address of the built site, served from this process."""
    if not (SITE / "index.html").is_file():
        pytest.skip("the site is not built: run `make docs`")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *_):
            pass

    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(address):
    """Chromium without a network, or a reason to skip."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra amlib[docs]")
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip("no chromium here: on Debian and Ubuntu, install the package chromium")
    with sync_api.sync_playwright() as play:
        options = {"executable_path": program, "args": ["--no-sandbox"]}
        chromium = play.chromium.launch(**options)
        yield chromium
        chromium.close()


class Visit:
    """A page of the site, and what went wrong on it."""

    def __init__(self, browser, address, width=1280, height=900, **options):
        self.errors = []
        self.address = address
        self.page = browser.new_page(viewport={"width": width, "height": height}, **options)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda err: self.errors.append(str(err)))
        self.page.on("response", self._answered)
        self.page.route(lambda url: not url.startswith(address), self._away)

    def _said(self, message):
        if message.type in ("error", "warning"):
            self.errors.append(f"{message.type}: {message.text}")

    def _answered(self, response):
        if response.status >= 400:
            self.errors.append(f"{response.status}: {response.url}")

    def _away(self, route):
        self.errors.append(f"asks the network for {route.request.url}")
        route.abort()

    def open(self, path):
        self.page.goto(f"{self.address}/{path}", wait_until="load")
        self.page.evaluate("() => window.MathJax?.startup?.promise")
        return self.page
