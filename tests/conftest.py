"""Every test runs strict: no silent dtype or rank promotion, and all annotations checked."""

import jax
import matplotlib
import pytest
from jaxtyping import install_import_hook

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
matplotlib.use("agg")

with install_import_hook("amlib", "beartype.beartype"):
    import amlib  # noqa: F401


@pytest.fixture
def x64():
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield
