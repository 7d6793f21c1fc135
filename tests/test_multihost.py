"""Several processes on this machine: two of two CPU devices each, started as on two hosts."""

import argparse
import contextlib
import importlib.util
import io
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import amlib as am

ROOT = pathlib.Path(am.__file__).parents[1]
EXAMPLE = ROOT / "examples" / "multihost.py"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="gloo, SIGKILL")

JOINED = """
import sys

import jax

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_cpu_collectives_implementation", "gloo")
port, count, index, folder = sys.argv[1:]
jax.distributed.initialize(f"127.0.0.1:{port}", int(count), int(index))
"""

WORDS = """
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax

import amlib as am
from amlib import _hosts

rng = np.random.default_rng(0)
Xi = rng.standard_normal((32, 16)).astype(np.float32)
X = Xi[:8] + 0.2 * rng.standard_normal((8, 16)).astype(np.float32)
EXAMPLES = 3 * rng.standard_normal((48, 16)).astype(np.float32)
mask = np.arange(16) < 8


def loss(model, batch, key):
    noisy = batch + 0.3 * jr.normal(key, batch.shape)
    return jnp.mean((jax.vmap(model.retrieve)(noisy) - batch) ** 2)


def found(lay, path):
    \"\"\"What the library says of these, however `lay(array, axis)` lays them.\"\"\"
    real = lay(am.ModernHopfield(Xi, 1.0), "k")
    kept = lay(am.ExponentialDenseAM(np.sign(Xi)), None)
    spins = lay(np.sign(X), "k")
    one, sign = lay(jnp.asarray(X[0]), None), lay(np.sign(X[0]), None)
    again = am.ModernHopfield(real.Xi, 2.0)
    trained = am.fit(
        lay(am.ModernHopfield(EXAMPLES[:16], 1.0), None), lay(EXAMPLES, "k"), loss,
        optax.adam(1e-2), 3, 16, jr.key(3), validation=0.1, checkpoint=path, progress=False,
    )
    return {
        "recall of parts": jax.vmap(real.recall)(lay(X, "k")).x,
        "recall of one": real.recall(lay(X[0], "k")).x,
        "retrieve": jax.vmap(again.retrieve)(lay(X, "k")),
        "energy": real.energy(one),
        "binary": jax.vmap(kept.recall)(spins).x,
        "clamped": kept.recall(sign, clamp=lay(mask, "k")).x,
        "after flips": lay(am.ExponentialDenseAM(np.sign(Xi)), "k").flip_energies(sign),
        "losses": jnp.asarray([trained.history[k] for k in ("loss", "validation_loss")]),
        "trained": trained.model.Xi,
    }


def errors(lay):
    \"\"\"Bad input is told in every process, in the words of one.\"\"\"
    made = lay(am.ModernHopfield(Xi, 1.0), "k")
    calls = (
        lambda: am.ModernHopfield(made.Xi.at[31].set(jnp.nan), 1.0),
        lambda: lay(am.ExponentialDenseAM(np.sign(Xi)), None).recall(lay(X[0], "k")),
        lambda: am.fit(made, lay(EXAMPLES / 0, "k"), loss, optax.sgd(1.0), 1, 4, jr.key(0)),
    )
    for call in calls:
        try:
            call()
        except ValueError as err:
            yield str(err)
"""


def start(code: str, count: int, folder, **options) -> list[subprocess.Popen]:
    """Processes of one program, joined at a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = os.environ.get("XLA_FLAGS", "").split()
    flags = " ".join(flag for flag in flags if "device_count" not in flag)
    env = os.environ | {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    if code == "example":
        options = {"timeout": 100, **options}
        words = [w for k, v in options.items() for w in (f"--{k}", str(v))]
        make = lambda i: [str(EXAMPLE), "--try", str(count), str(i), "--port", str(port), *words]
    else:
        make = lambda i: ["-c", code, str(port), str(count), str(i), str(folder)]
    return [subprocess.Popen([sys.executable, *make(i)], **how) for i in range(count)]


def ends(processes: list[subprocess.Popen], seconds: float) -> list[tuple[int, str, str]]:
    """Exit codes, outputs and errors of all; none lives longer than this."""
    limit = time.monotonic() + seconds
    try:
        told = [p.communicate(timeout=max(1, limit - time.monotonic())) for p in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *out) for p, out in zip(processes, told, strict=True)]


def test_two_processes_say_what_one_says(tmp_path):
    code = (
        JOINED
        + WORDS
        + """
mesh = jax.make_mesh((4,), ("k",))
lay = lambda tree, over: am.shard(tree, mesh, over)
assert not lay(Xi, "k").is_fully_addressable
numbers = found(lay, f"{folder}/run")
am.save(f"{folder}/found", numbers)
loaded = am.load(f"{folder}/found", numbers)
for name, a in numbers.items():
    assert loaded[name].sharding == a.sharding, name
    assert (_hosts.whole(loaded[name]) == _hosts.whole(a)).all(), name
for message in errors(lay):
    print(message, flush=True)
try:
    am.load(f"{folder}/nothing", numbers)
except (FileNotFoundError, RuntimeError) as err:
    print(err, flush=True)
print(repr(jax.vmap(lay(am.ModernHopfield(Xi, 1.0), "k").recall)(lay(X, "k"))))
"""
    )
    done = ends(start(code, 2, tmp_path), 240)
    assert [code for code, *_ in done] == [0, 0], done
    words: dict[str, Any] = {"jax": jax}
    exec(WORDS, words)
    alone = words["found"](lambda tree, over: tree, None)
    told = am.load(tmp_path / "found", alone)
    for name, a in alone.items():
        np.testing.assert_allclose(told[name], a, rtol=1e-5, atol=1e-5, err_msg=name)
    assert (told["binary"] == alone["binary"]).all()
    for _, out, _ in done:
        assert "Xi: every value must be finite" in out
        assert "recall: a state must hold only -1 and +1" in out
        assert "fit: data: every value must be finite" in out
        assert "No such file or directory" in out
        assert "Recall(of 8 states, x: float32[16])" in out
    # The training of two processes goes on in one, and knows that it has ended.
    files = {file.name for file in tmp_path.iterdir()}
    assert files == {"run", "found"}
    resumed = words["found"](lambda tree, over: tree, tmp_path / "run")
    np.testing.assert_allclose(resumed["trained"], alone["trained"], rtol=1e-5, atol=1e-6)
    assert (resumed["losses"] == told["losses"]).all()


SMALL = {"patterns": 512, "queries": 8, "examples": 256}


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_others_and_leaves_a_whole_file(tmp_path, victim):
    """With what it was that ended them, within the time given. The next run goes on."""
    path = tmp_path / "run"
    how = SMALL | {"checkpoint": path}
    running = start("example", 2, tmp_path, **how, epochs=100_000, timeout=6)
    limit = time.monotonic() + 200
    while not path.exists():
        assert all(p.poll() is None for p in running), ends(running, 10)
        assert time.monotonic() < limit
        time.sleep(0.05)
    running[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    done = ends(running, 60)
    assert time.monotonic() - killed < 60
    assert done[victim][0] == -signal.SIGKILL
    code, _, err = done[1 - victim]
    assert code != 0
    told = ("another task died", "must end in all 2 processes", "gloo::EnforceNotMet")
    assert any(words in err for words in told), err  # the last: killed amid a collective
    # What is left is whole: one process reads it, and trains on.
    epoch = am._files.read(path, "checkpoint").notes["epoch"]
    parts = {file.name for file in tmp_path.iterdir()} - {"run"}
    assert len(parts) <= (victim == 0)  # what a killed writer had not finished; the next ones do
    assert all(re.fullmatch(r"\.run\.\w+\.part", name) for name in parts)
    assert f"after {epoch + 1} epochs" in here(epochs=epoch + 1, checkpoint=path)[1]


def here(**options) -> tuple[dict[str, jax.Array], str]:
    """What the example gives and says in this process, on its 8 devices."""
    spec = importlib.util.spec_from_file_location("multihost", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    with contextlib.redirect_stdout(io.StringIO()) as out, jax.numpy_dtype_promotion("standard"):
        found = example.main(argparse.Namespace(**{"checkpoint": None, **SMALL, **options}))
    return found, out.getvalue()


def test_the_example_says_on_two_processes_what_it_says_on_one(tmp_path):
    two = ends(start("example", 2, tmp_path, **SMALL, save=tmp_path / "two", epochs=2), 240)
    assert [code for code, *_ in two] == [0, 0], two
    one, out = here(epochs=2)
    lines = lambda out: [line for line in out.splitlines() if "found" in line or "loss" in line]
    assert lines(two[0][1]) == lines(out)
    assert not lines(two[1][1])  # the first one speaks
    assert "8 of 8 found among 512" in out
    assert "8 of 8 binary patterns found again" in out
    both = am.load(tmp_path / "two", jax.tree.map(jnp.zeros_like, one))
    assert (one["binary"] == both["binary"]).all()
    for name in ("real", "trained"):
        np.testing.assert_allclose(one[name], both[name], rtol=1e-4, atol=1e-5)


def test_an_import_starts_no_device():
    """Or `jax.distributed.initialize` would come too late for who imports all at the top."""
    code = (
        "import amlib as am, amlib.__main__\n"
        "am.plots.grid, am.cache.cached, am.analysis\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
