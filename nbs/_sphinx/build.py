"""Build the documentation site in `_docs/`: `python nbs/_sphinx/build.py`.

nbdev processes the notebooks of `nbs/` (directives, `show_doc`, links). Where the program `quarto`
is installed, `nbdev-docs` renders them; elsewhere Sphinx does, to the same page addresses. Any
warning, broken link, missing picture, undocumented name or saved error fails the build.
"""

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WORK = ROOT / "cache" / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the documentation site in _docs/.")
    parser.add_argument("--workers", type=int, default=2, help="processes for the notebooks")
    parser.add_argument("--sphinx", action="store_true", help="even where quarto is installed")
    options = parser.parse_args()
    os.chdir(ROOT)
    # nbdev imports the hooks by name, in processes of its own too.
    sys.path.insert(0, str(HERE))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    os.environ.setdefault("TQDM_DISABLE", "1")
    import check

    fail(check.sources(ROOT / "nbs"), "in the notebooks")
    if shutil.which("quarto") and not options.sphinx:
        shutil.rmtree(ROOT / "_proc", ignore_errors=True)
        subprocess.run(["nbdev-docs", "--n_workers", str(options.workers)], check=True)
    else:
        sphinx(options.workers)
    fail(check.site(ROOT / "_docs"), "on the site")
    print("_docs/index.html: built with no warning and no broken link")


def sphinx(workers: int) -> None:
    """Render what nbdev processed, with every warning an error."""
    from nbdev.serve import proc_nbs

    shutil.rmtree(WORK, ignore_errors=True)
    processed = proc_nbs(n_workers=workers, force=True)
    shutil.copytree(ROOT / "assets", processed / "assets", dirs_exist_ok=True)
    math = WORK / "static" / "mathjax"
    math.mkdir(parents=True)
    shutil.copy(mathjax(), math)
    html = WORK / "html"
    command = ["-W", "--keep-going", "-q", "-b", "html", "-c", str(HERE), "-d", str(WORK / "trees")]
    done = subprocess.run([sys.executable, "-m", "sphinx", *command, str(processed), str(html)])
    fail(["Sphinx warned."] * bool(done.returncode), "in the pages")
    shutil.rmtree(ROOT / "_docs", ignore_errors=True)
    shutil.copytree(html, ROOT / "_docs", ignore=shutil.ignore_patterns(".buildinfo"))


def mathjax() -> Path:
    """MathJax as one file, so that pages need no network: it comes with a package of PyPI."""
    spec = importlib.util.find_spec("sphinx-mathjax-offline")
    if spec is None or spec.origin is None:
        raise SystemExit("build: sphinx-mathjax-offline is not installed. pip install '.[docs]'")
    return Path(spec.origin).parent / "static" / "mathjax" / "tex-svg-full.js"


def fail(complaints: list[str], where: str) -> None:
    """Exit with the complaints, where there are any."""
    if complaints:
        raise SystemExit("\n".join([*complaints, f"build: {len(complaints)} errors {where}"]))


if __name__ == "__main__":
    main()
