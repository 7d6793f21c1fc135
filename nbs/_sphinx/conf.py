"""Sphinx, for the notebooks of `nbs/`: `make docs`."""

import importlib.util
import sys
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

project = html_title = "amlib"
author = copyright = PROJECT["authors"][0]["name"]
html_baseurl = PROJECT["urls"]["Documentation"]
extensions = ["myst_nb", "sphinx_copybutton", "sphinx.ext.mathjax", "notebooks", "live"]
root_doc = "index"
exclude_patterns = ["_*", "**/.*"]
language = "en"

nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/html", 0)]
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_inline", "colon_fence", "strikethrough"]
myst_heading_anchors = 3
myst_heading_slug_func = "notebooks.slug"
myst_dmath_double_inline = True
myst_links_external_new_tab = True
# The kernel of a notebook is named python3 everywhere; Pygments calls it ipython3.
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": PROJECT["urls"]["Repository"],
    "repository_branch": "main",
    "path_to_docs": "nbs",
    "use_repository_button": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "logo": {"text": "amlib"},
    "navbar_persistent": [],  # the search is in the side bar
}
html_context = {"default_mode": "auto"}
# MathJax as one file, so that pages need no network.
MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static/mathjax"
html_static_path = [str(HERE / "static"), str(MATHJAX / "tex-svg-full.js")]
html_css_files = ["styles.css"]
html_favicon = str(HERE / "static" / "favicon.svg")
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
mathjax_path = "tex-svg-full.js"
mathjax3_config = {"svg": {"fontCache": "global"}, "options": {"enableMenu": False}}
copybutton_selector = "div.cell_input pre, div.highlight-bash pre, div.highlight-python pre"
