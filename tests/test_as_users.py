"""Laws of each kind of model once more, in programs that XLA compiled as users have them.

All other tests run in programs that it compiled in a hurry: see `tests/conftest.py`.
"""

import os
import subprocess
import sys

import pytest

import amlib as am

LAWS = {
    "tests/binary/test_laws.py": "rectified and not log or user-network",
    "tests/continuous/test_continuous_laws.py": "modern",
    "tests/hierarchical/test_ham_laws.py": "random_hierarchies",
    "tests/learning/test_reconstructors.py": "modern and bits",
}
"""The file, and which of its tests: names of models as the files have them."""


@pytest.mark.skipif(
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "0", reason="here all tests run as users do"
)
def test_laws_hold_in_programs_as_users_have_them():
    root = os.path.dirname(os.path.dirname(am.__file__))
    names = " or ".join(f"{os.path.basename(file)} and ({which})" for file, which in LAWS.items())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-rp", *LAWS, "-k", names],
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}
        | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for file in LAWS:  # a name that no test has any longer would deselect them all
        assert f"PASSED {file}::" in done.stdout, file
