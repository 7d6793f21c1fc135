"""Every test runs strict: no silent dtype or rank promotion, and all annotations checked."""

import jax
import matplotlib
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_num_cpu_devices", 2)  # for test_transforms.py
matplotlib.use("agg")

with install_import_hook("amlib", "beartype.beartype"):
    import amlib  # noqa: F401


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
