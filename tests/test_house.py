"""The house: floors, names with docstrings, abstract or final, no stray files.

Each rule is a function from a source tree `{path: text}` or from live classes to a list of
complaints, and each is shown a small bad example first.
"""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import equinox as eqx
import jax
import pytest
from packaging.requirements import Requirement

import amlib
from amlib._types import hook

ROOT = Path(amlib.__file__).parents[1]
README, CHANGELOG = ROOT / "README.md", ROOT / "CHANGELOG.md"

GROUND = """data sharding spaces _checks _compiled _files _heads _hosts _interrupt _intervals
    _lazy _numbers _progress _shards _show _types"""
FLOORS = (
    set(GROUND.split()),
    {"descent"},
    {"memory"},
    {"binary", "continuous", "hierarchical", "potts"},
    {"learning", "nn"},
    {"plots", "analysis", "cache"},
    {"sampling", "theory"},
    {"__main__"},
)
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
MAX_LINES, MAX_BODY = 400, 60

TYPED = """data/ plots/ _progress.py _shards.py _types.py continuous/on_disk.py continuous/parts.py
    descent/affine.py descent/batches.py descent/frames.py descent/integers.py
    descent/jaxprs.py descent/rows.py descent/stabilizers.py
    descent/streaming.py hierarchical/attention.py hierarchical/describe.py
    hierarchical/drawing.py hierarchical/energies.py hierarchical/hidden.py
    hierarchical/lagrangians.py hierarchical/layers.py hierarchical/models.py
    hierarchical/spatial.py hierarchical/synapses.py nn/""".split()
"""Where no signature says `Any`."""

Tree = dict[str, str]


def house() -> Tree:
    """The library's source, by path: `amlib/binary/base.py`."""
    package = Path(amlib.__file__).parent
    return {str(p.relative_to(package.parent)): p.read_text() for p in package.rglob("*.py")}


def renderer() -> Tree:
    """The source of the site's renderer, by path: `nbs/_sphinx/api.py`."""
    return {str(p.relative_to(ROOT)): p.read_text() for p in (ROOT / "nbs/_sphinx").rglob("*.py")}


def imports(path: str, text: str) -> Iterator[tuple[str, int]]:
    """Every dotted name that a file imports, wherever in the file, with its line.

    `from a.b import c` gives `a.b.c`; relative imports are made absolute.
    """
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            yield from ((f"{source}.{alias.name}", node.lineno) for alias in node.names)


def room_of(path: str) -> str:
    """`amlib/binary/base.py` is in the room `binary`, `amlib/plots.py` in `plots`."""
    return path.split("/")[1].removesuffix(".py")


# -- the rules --------------------------------------------------------------------------------


def upward_imports(tree: Tree) -> list[str]:
    """Imports that do not go down a floor. A room may import itself, `data` its two neighbours."""
    bad = []
    for path, text in tree.items():
        room = room_of(path)
        if room == "__init__":
            continue
        if room not in FLOOR:
            bad.append(f"{path}: {room} has no floor in DESIGN.md")
            continue
        for name, line in imports(path, text):
            parts = name.split(".")
            if parts[0] != "amlib" or (room == "__main__" and name == "amlib"):
                continue
            other = parts[1] if len(parts) > 1 else ""
            ground = FLOOR.get(other) == FLOOR[room] == 0 and other != "data"
            if other == room or ground or FLOOR.get(other, len(FLOORS)) < FLOOR[room]:
                continue
            bad.append(f"{path}:{line}: {room} imports {name}")
    return bad


def matplotlib_imports(tree: Tree) -> list[str]:
    """Imports of matplotlib outside the room `plots`."""
    return [
        f"{path}:{line}: {name}"
        for path, text in tree.items()
        for name, line in imports(path, text)
        if name.split(".")[0] in ("matplotlib", "mpl_toolkits") and room_of(path) != "plots"
    ]


def logic(text: str) -> list[str]:
    """What an `__init__.py` holds beyond a docstring, `X as X` imports and the version; what is
    imported only to know types is imported too."""
    bad = []
    body = []
    for node in ast.parse(text).body:
        for_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        body += node.body if for_types and not node.orelse else [node]  # type: ignore[union-attr]
    for k, node in enumerate(body):
        docstring = k == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        version = (
            isinstance(node, ast.Assign)
            and [getattr(t, "id", None) for t in node.targets] == ["__version__"]
            and isinstance(node.value, ast.Constant)
        )
        exports = isinstance(node, ast.ImportFrom) and (
            all(a.name == a.asname for a in node.names)
            or ast.unparse(node) == "from typing import TYPE_CHECKING"
        )
        if not (docstring or version or exports):
            bad.append(f"line {node.lineno}: {ast.unparse(node).splitlines()[0]}")
    return bad


def future_annotations(tree: Tree) -> list[str]:
    """Modules with Equinox classes where annotations would turn into strings."""
    return [
        path
        for path, text in tree.items()
        if any(name == "__future__.annotations" for name, _ in imports(path, text))
        and any(name.split(".")[0] == "equinox" for name, _ in imports(path, text))
        and any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(text)))
    ]


def too_long(tree: Tree) -> list[str]:
    return [path for path, text in tree.items() if len(text.splitlines()) > MAX_LINES]


def long_functions(tree: Tree) -> list[str]:
    """Functions of too many lines, their docstrings not counted."""
    bad = []
    for path, text in tree.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                docstring = len((ast.get_docstring(node, clean=False) or "").splitlines())
                if node.end_lineno - node.lineno + 1 - docstring > MAX_BODY:
                    bad.append(f"{path}:{node.lineno}: {node.name}")
    return bad


def untyped(tree: Tree) -> list[str]:
    """Parameters, results and fields that are said to be `Any`; not those of `__getattr__`."""
    bad = []
    for path, text in tree.items():
        for node in ast.walk(ast.parse(text)):
            found: list[tuple[str, ast.expr | None]] = []
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
                a = node.args
                every = [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
                where = f"{node.lineno}: {node.name}"
                found = [(f"{where}: {arg.arg}", arg.annotation) for arg in every if arg]
                found.append((f"{where}: its result", node.returns))
            elif isinstance(node, ast.ClassDef):
                fields = [n for n in node.body if isinstance(n, ast.AnnAssign)]
                where = f"{node.lineno}: {node.name}"
                found = [(f"{where}.{ast.unparse(n.target)}", n.annotation) for n in fields]
            anything = [what for what, said in found if said and ast.unparse(said) == "Any"]
            bad += [f"{path}:{what}" for what in anything]
    return bad


def undocumented(root: ModuleType) -> list[str]:
    """Public names without a docstring: what packages export, their methods and properties."""
    bad: list[str] = []
    seen: set[int] = set()

    def visit(name: str, value: object) -> None:
        if id(value) in seen:
            return
        seen.add(id(value))
        if isinstance(value, ModuleType):
            visit_module(name, value)
        elif inspect.isclass(value):
            visit_class(name, value)
        elif callable(value) and not _documented(value):
            bad.append(name)

    def visit_module(name: str, module: ModuleType) -> None:
        if not module.__doc__:
            bad.append(name)
        for key in _exports(module):
            visit(f"{name}.{key}", vars(module)[key])

    def visit_class(name: str, cls: type) -> None:
        # A dataclass that says nothing gets its own signature for a docstring.
        if not cls.__doc__ or cls.__doc__.startswith(f"{cls.__name__}("):
            bad.append(name)
        for base in cls.__mro__:
            if base.__module__.split(".")[0] != root.__name__.split(".")[0]:
                continue
            for key, member in vars(base).items():
                method = callable(member) or isinstance(
                    member, property | classmethod | staticmethod
                )
                if not key.startswith("_") and method and not _documented(getattr(cls, key)):
                    bad.append(f"{name}.{key}")

    visit(root.__name__, root)
    return sorted(set(bad))


def _documented(value: object) -> bool:
    return bool(inspect.getdoc(value))


def _exports(module: ModuleType) -> list[str]:
    """The public names of a package, or those that a module defines itself."""
    if hasattr(module, "__path__"):
        nodes = ast.parse(inspect.getsource(module)).body
        names = [a.asname for n in nodes if isinstance(n, ast.ImportFrom) for a in n.names]
    else:
        names = [k for k, v in vars(module).items() if _home(v) == module.__name__]
    return [name for name in names if name and not name.startswith("_")]


def _home(value: object) -> str | None:
    return getattr(value, "__module__", None) if callable(value) else None


def neither_abstract_nor_final(classes: Iterable[type]) -> list[str]:
    """Concrete classes that are subclassed, and concrete methods that are overridden.

    A method that its class marks as a hook has a default that may be overridden.
    """
    classes = list(classes)
    bad = []
    for cls in classes:
        for parent in (c for c in cls.__mro__[1:] if c in classes):
            if not inspect.isabstract(parent):
                bad.append(f"{cls.__name__} subclasses {parent.__name__}, which is concrete")
            for name in vars(parent).keys() & vars(cls).keys() - _OWN:
                member = inspect.getattr_static(parent, name)
                open_ = any(getattr(member, m, False) for m in ("__isabstractmethod__", "__hook__"))
                if not open_ and (callable(member) or isinstance(member, property)):
                    bad.append(f"{cls.__name__}.{name} overrides {parent.__name__}.{name}")
    return bad


# Every class has these of its own; Equinox runs `__check_init__` of all parents.
_OWN = set(vars(type("", (), {}))) | {"__check_init__", "__init__"}
_OWN |= {k for k in vars(type("", (eqx.Module,), {})) if k.startswith("_")}


def modules() -> list[ModuleType]:
    """Every module of the library but the demonstration."""
    names = [m.name for m in pkgutil.walk_packages(amlib.__path__, "amlib.")]
    return [amlib, *(importlib.import_module(n) for n in names if n != "amlib.__main__")]


def classes_of(modules: Iterable[ModuleType]) -> list[type]:
    """The classes that these modules define."""
    found = {v for m in modules for v in vars(m).values() if inspect.isclass(v)}
    return sorted((c for c in found if c.__module__.startswith("amlib")), key=lambda c: c.__name__)


def python_blocks(markdown: str) -> list[tuple[int, str]]:
    """The Python code of a page, with line numbers; not what follows `<!-- no-test -->`."""
    pattern = r"^(<!-- no-test -->\s*\n)?```python\n(.*?)^```"
    found = re.finditer(pattern, markdown, re.MULTILINE | re.DOTALL)
    return [(markdown[: m.start(2)].count("\n"), m[2]) for m in found if not m[1]]


def run_blocks(markdown: str, name: str) -> None:
    """Run the code of a page from top to bottom in one namespace, as a reader would."""
    namespace = {"__name__": name}
    for line, code in python_blocks(markdown):
        exec(compile("\n" * line + code, name, "exec"), namespace)


# -- the rules can fail -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("amlib/descent/flips.py", "from amlib.binary import BinaryAM", "descent imports"),
        ("amlib/descent/flips.py", "def f():\n    import amlib.binary.base", "flips.py:2"),
        ("amlib/binary/base.py", "from amlib.continuous.base import X", "binary imports"),
        ("amlib/binary/base.py", "from ..continuous import base", "binary imports"),
        ("amlib/binary/base.py", "from amlib import BinaryAM", "imports amlib.BinaryAM"),
        ("amlib/binary/base.py", "import amlib", "imports amlib"),
        ("amlib/plots.py", "from amlib import analysis", "plots imports"),
        ("amlib/learning/fit.py", "from amlib.plots import show", "learning imports"),
        ("amlib/_types.py", "from amlib.data import icons", "_types imports"),
        ("amlib/_checks.py", "from amlib import data as data", "_checks imports"),
        ("amlib/cellar.py", "", "no floor"),
    ],
)
def test_the_floor_rule_can_fail(path, text, complaint):
    (found,) = upward_imports({path: text})
    assert complaint in found


def test_the_floor_rule_lets_the_rest_pass():
    allowed = {
        "amlib/binary/base.py": "from amlib import _checks as c\nfrom amlib.descent import flips",
        "amlib/binary/models.py": "import amlib.binary.base\nfrom .base import BinaryAM",
        "amlib/data/icons.py": "from amlib import _checks\nfrom amlib._types import Key",
        "amlib/__main__.py": "import amlib\nfrom amlib import plots\nimport argparse",
        "amlib/__init__.py": "from amlib.binary import BinaryAM as BinaryAM",
        "amlib/plots.py": "import matplotlib",
    }
    assert not upward_imports(allowed)


def test_the_matplotlib_rule_can_fail():
    text = "def f():\n    from matplotlib import pyplot as plt"
    assert matplotlib_imports({"amlib/analysis.py": text})
    assert matplotlib_imports({"amlib/analysis.py": "import matplotlib.pyplot as plt"})
    assert not matplotlib_imports({"amlib/plots.py": text})


def test_the_no_logic_rule_can_fail():
    good = '"""Doc."""\nfrom amlib import data as data\nfrom a.b import C as C, D as D\n'
    assert not logic(good + '__version__ = "1"\n')
    for line in ("import jax", "from a import b", "from a import b as c", "x = 1", "def f(): ..."):
        assert len(logic(good + line)) == 1


def test_the_annotations_rule_can_fail():
    bad = "from __future__ import annotations\nimport equinox as eqx\nclass A(eqx.Module): ..."
    assert future_annotations({"a.py": bad}) == ["a.py"]
    assert not future_annotations({"a.py": "\n".join(bad.splitlines()[1:])})


def test_the_length_rule_can_fail():
    assert too_long({"a.py": "x\n" * (MAX_LINES + 1), "b.py": "x\n" * MAX_LINES}) == ["a.py"]


def test_the_rule_of_functions_can_fail():
    text = 'def f():\n    """\n    Doc.\n    """\n' + "    pass\n" * MAX_BODY
    assert long_functions({"a.py": "x = 1\n" + text}) == ["a.py:2: f"]
    assert not long_functions({"a.py": text.replace("    pass\n", "", 1)})


def test_the_types_rule_can_fail():
    good = "def f(x: int, *a: object, **k: dict[str, Any]) -> None: ...\n"
    good += "class A:\n    x: int\n    def __getattr__(self, name: str) -> Any: ...\n"
    assert not untyped({"a.py": good})
    bad = "def f(x: Any, *, y: Any = 1, **k: Any) -> Any: ...\nclass A:\n    x: Any = None\n"
    names = ["1: f: x", "1: f: y", "1: f: k", "1: f: its result", "2: A.x"]
    assert untyped({"a.py": bad}) == [f"a.py:{name}" for name in names]


def test_the_docstring_rule_can_fail():
    class Silent(eqx.Module):
        x: int

        def documented(self):
            """Say something."""

        def method(self): ...

        @property
        def value(self): ...

    class Loud(Silent):
        """A class that speaks, over methods that do not."""

    def function(): ...

    module = ModuleType("tests")
    for value in (Silent, Loud, function):
        value.__module__ = "tests"
        setattr(module, value.__name__, value)
    missing = ["Loud.method", "Loud.value", "Silent", "Silent.method", "Silent.value", "function"]
    assert undocumented(module) == ["tests", *(f"tests.{name}" for name in missing)]


def test_the_abstract_or_final_rule_can_fail():
    class Base(eqx.Module):
        def __check_init__(self): ...

        def act(self) -> int:
            return 1

        @hook
        def may(self) -> int:
            return 1

    class Child(Base):
        x: int

        def __check_init__(self): ...

        def may(self):
            return 2

    class Loud(Base):
        def act(self):
            return 2

    assert neither_abstract_nor_final([Base, Child]) == ["Child subclasses Base, which is concrete"]
    assert "Loud.act overrides Base.act" in neither_abstract_nor_final([Base, Loud])


def test_the_readme_rule_can_fail():
    page = (
        "Text\n```python\nx = 1\n```\n<!-- no-test -->\n```python\n1 / 0\n```\n```bash\nls\n```\n"
    )
    page += "```python\nassert x == 1\n```\n"
    assert [code for _, code in python_blocks(page)] == ["x = 1\n", "assert x == 1\n"]
    run_blocks(page, "page.md")
    with pytest.raises(ZeroDivisionError, match="division") as error:
        run_blocks(page.replace("<!-- no-test -->\n", ""), "page.md")
    assert error.traceback[-1].lineno + 1 == 6  # the reader finds the line of the page


# -- the rules hold ---------------------------------------------------------------------------


def test_imports_only_go_down_a_floor():
    assert not upward_imports(house())


def test_matplotlib_is_imported_with_the_first_picture():
    """It takes a fifth of the time that `import amlib` would."""
    code = (
        "import sys, amlib as am; assert 'matplotlib' not in sys.modules; "
        "assert 'plots' in dir(am); am.plots.grid; assert 'matplotlib' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="module 'amlib' has no attribute 'plotz'"):
        amlib.plotz  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]


def test_other_rooms_and_scipy_wait_too():
    code = (
        "import sys, amlib as am\n"
        "for room in am._lazy.ROOMS:\n"
        "    assert f'amlib.{room}' not in sys.modules and room in dir(am), room\n"
        "assert not {'scipy.special', 'scipy.optimize', 'scipy.interpolate'} & set(sys.modules)\n"
        "am.analysis.fixed_points, am.sampling.sample, am.theory.transition_capacity\n"
        "from amlib import analysis, plots, sampling, theory\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_only_plots_imports_matplotlib():
    assert not matplotlib_imports(house())


def test_the_package_itself_has_no_logic():
    for path, text in house().items():
        if path.endswith("__init__.py"):
            assert not logic(text), path


def test_annotations_stay_objects():
    assert not future_annotations(house())


def test_files_are_short():
    assert not too_long(house() | renderer())


def test_files_of_tests_have_names_of_their_own():
    """pytest imports them by these names alone, and collects only the first of two."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert not [name for name, times in names.items() if times > 1]


def test_functions_are_short():
    assert not long_functions(house() | renderer())


@pytest.mark.parametrize("place", TYPED)
def test_signatures_say_what_they_take_and_give(place):
    files = {path: text for path, text in house().items() if path.startswith(f"amlib/{place}")}
    assert files
    assert not untyped(files)


def test_every_public_name_has_a_docstring():
    modules()  # so that nothing hides in a module that was not imported
    assert not undocumented(amlib)


def test_every_class_is_abstract_or_final():
    classes = classes_of(modules())
    assert amlib.BinaryAM in classes
    assert not neither_abstract_nor_final(classes)


def test_the_papers_of_the_house_exist():
    for page in (README, CHANGELOG):
        assert page.is_file(), page
        assert len(page.read_text()) > 200, page


def broken_links(page: Path) -> list[str]:
    """Links of a page to files that are not there; what is in backticks is no link."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text(), flags=re.DOTALL)
    found = re.findall(r"\]\((?![a-z]+:)([^)#\s]+)(?:#[^)]*)?\)", text)
    return [link for link in found if not (page.parent / link).exists()]


def test_links_between_pages_and_files_hold(tmp_path):
    pages = [page for part in ("*.md", "[abct]*/**/*.md") for page in ROOT.glob(part)]
    assert len(pages) > 20
    assert not {str(page): links for page in pages if (links := broken_links(page))}
    wrong = tmp_path / "page.md"
    wrong.write_text(
        "[a](page.md) [b](page.md#b) [c](https://x.org) `[d](d.md)` ![e](e.png) [f](f.md#f)"
    )
    assert broken_links(wrong) == ["e.png", "f.md"]


def test_one_version_is_told_everywhere():
    version = amlib.__version__
    cited = dict(
        line.split(": ", 1) for line in (ROOT / "CITATION.cff").read_text().splitlines()
        if line.startswith(("version", "date"))
    )  # fmt: skip
    first = re.search(r"^## \[(?!Unreleased)(.+)\] - (.+)$", CHANGELOG.read_text(), re.MULTILINE)
    assert first is not None
    assert first.groups() == (version, cited["date-released"].strip('"'))
    assert cited["version"] == version
    assert f"amlib {version}" in README.read_text(), "beside other libraries"


def test_the_release_of_jax_whose_loops_copy_whole_arrays_is_not_installed():
    """JAX 0.11.1: 200,000 visits of 20,000 bits took 3.4 s there and 0.009 s on its neighbours."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (jax_of,) = (r for r in map(Requirement, project["dependencies"]) if r.name == "jax")
    assert not jax_of.specifier.contains("0.11.1")
    for version in ("0.10.0", "0.11.0", "0.11.2", jax.__version__):
        assert jax_of.specifier.contains(version), version


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    """With JAX's own settings, as a reader has them, and in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    text = README.read_text()
    assert python_blocks(text)
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        stack.enter_context(jax.numpy_rank_promotion("allow"))
        run_blocks(text, "README.md")
