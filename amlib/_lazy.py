"""Rooms that are imported when they are first asked for: `am.plots` brings matplotlib with it, the
others the larger part of SciPy."""

import importlib
import sys
from types import ModuleType

ROOMS = frozenset({"analysis", "plots", "sampling", "theory"})


def __getattr__(name: str) -> ModuleType:
    """What `amlib` does not have yet: one of these rooms."""
    if name in ROOMS:
        return importlib.import_module(f"amlib.{name}")
    raise AttributeError(f"module 'amlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    """The names of `amlib`, with those rooms."""
    return sorted({*vars(sys.modules["amlib"]), *ROOMS})
