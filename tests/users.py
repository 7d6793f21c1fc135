"""The library a second time, without the type checker that the other tests run under.

`am` raises the errors that users meet.
"""

import importlib
import sys


def _as_users_have_it():
    checked = {k: m for k, m in sys.modules.items() if k.split(".")[0] == "amlib"}
    for name in checked:
        del sys.modules[name]
    try:
        library = importlib.import_module("amlib")
        for room in ("analysis", "sampling", "theory"):  # which are imported when asked for
            importlib.import_module(f"amlib.{room}")
        return library
    finally:
        for name in [k for k in sys.modules if k.split(".")[0] == "amlib"]:
            del sys.modules[name]
        sys.modules.update(checked)


am = _as_users_have_it()
