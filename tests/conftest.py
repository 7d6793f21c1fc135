"""Every test runs strict: no silent dtype or rank promotion, and all annotations checked.

Nearly all of the time would go into compiling programs that then run for milliseconds, and the
laws hold for whatever code XLA makes: here that which it makes soonest. `tests/test_as_users.py`
runs a part of the tests in programs as users have them, and
`JAX_DISABLE_MOST_OPTIMIZATIONS=0 make test` runs all of them so.

`AMLIB_TEST_EVERY=n` runs every test, but of a test of many cases the first and one in `n` of the
others, always the same ones: what CI does on its second Python.
"""

import gc
import importlib.metadata
import os
import zlib

QUICK = os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1") == "1"
if QUICK and importlib.metadata.version("jaxlib") in ("0.10.0", "0.10.1", "0.10.2", "0.11.0"):
    # The older of the two ways to make code takes a third of the time. Later there is but one.
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )

import jax  # noqa: E402
import jaxtyping  # noqa: E402
import matplotlib  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

from tests.browser import address, browser  # noqa: E402, F401 (fixtures)

jax.config.update("jax_disable_most_optimizations", QUICK)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 8)  # for what is shared between devices
matplotlib.use("agg")

with install_import_hook("amlib", "beartype.beartype"):
    import amlib  # noqa: F401
    from amlib import analysis, sampling, theory  # noqa: F401 (imported when asked for)

# Tracing makes many objects that die at once: a collection need not look through all of JAX.
gc.freeze()
gc.set_threshold(20_000, 20, 20)


def pytest_collection_modifyitems(config, items):
    """Begin with the test that takes longest, so that no worker waits for it at the end."""
    items.sort(key=lambda item: item.path.name != "test_as_users.py")
    every = int(os.environ.get("AMLIB_TEST_EVERY", "1"))
    seen, left = set(), []
    for item in items:
        test = item.nodeid.partition("[")[0]
        drawn = zlib.crc32(item.nodeid.encode()) % every == 0
        left += [] if drawn or test not in seen else [item]
        seen.add(test)
    if left:
        config.hook.pytest_deselected(items=left)
        out = set(left)
        items[:] = [item for item in items if item not in out]


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs():
    """Keep one process able to run all the tests.

    On a CPU, every program that XLA compiled maps some memory of its own. All the tests together
    map more often than Linux lets a process (`vm.max_map_count`, 65,530 by default), and the next
    compilation then ends in a segmentation fault.
    """
    yield
    jax.clear_caches()


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def unchecked():
    """No annotations checked in one test: what is of a wrong kind then meets amlib's own error."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def as_users():
    """Programs as users have them for one test (but see `XLA_FLAGS` above)."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", QUICK)
