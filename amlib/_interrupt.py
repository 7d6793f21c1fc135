"""Ctrl-C ends `python -m amlib` with one word, at any moment.

The package is imported before its `__main__`, which takes seconds. So `amlib/__init__.py` imports
this module first. Whoever imports amlib in any other way keeps the `KeyboardInterrupt` of Python.
"""

import contextlib
import os
import signal
import sys

STOPPED = 130  # the exit code after Ctrl-C, by custom of shells


def end_quietly() -> None:
    """Let Ctrl-C say `Stopped.` and end the process, unless it is ignored or has a handler.

    No exception is raised: one may be raised anywhere, and Python or a library may then print it,
    or swallow it and go on. And XLA, which may still compute, now and then crashes when the
    interpreter is taken down meanwhile.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def ignore() -> None:
    """Let Ctrl-C do nothing, when the work is done and the interpreter is taken down."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _stop(*_: object) -> None:
    ignore()
    with contextlib.suppress(Exception):  # nobody reads, or a writing is interrupted right now
        sys.stdout.flush()
    try:
        os.write(2, b"\nStopped.\n")
    finally:
        os._exit(STOPPED)


def _is_the_program() -> bool:
    """Whether Python is importing the package on behalf of `python -m amlib`."""
    # `argv` is "-m" and the arguments while the module is looked for, `orig_argv` ends with
    # the module's name, maybe glued to its -m, and the arguments.
    if not sys.argv or sys.argv[0] != "-m" or len(sys.orig_argv) < len(sys.argv):
        return False
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m") in ("amlib", "amlib.__main__")


if _is_the_program():
    end_quietly()
