"""Memories whose patterns stay on disk: the answers of those in memory, and errors that say where.

Sizes leave remainders of blocks and of pieces.
"""

import functools
import io
import os
import signal
import subprocess
import sys
import threading
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
import zarr
from numpy.testing import assert_allclose, assert_array_equal

import amlib as am
from amlib.continuous import parts
from amlib.data import _stored
from amlib.data._stored import Stored, blocks
from tests import users

K, D, Q, BLOCK = 5003, 6, 20, 512


@pytest.fixture(autouse=True)
def _pieces(monkeypatch):
    """Several pieces in a block, and a rest of them."""
    monkeypatch.setattr(parts, "PIECE", 200)


class UserHopfield(am.ContinuousAM):
    """The energy alone, as a user writes it."""

    def energy(self, x):
        return 0.5 * jnp.sum(x**2) - jax.nn.logsumexp(self.Xi @ x)


class Tilted(am.ContinuousAM):
    """Scores that are no products, a parameter, and a bounded space."""

    gain: float
    beta: float
    unit_step: ClassVar[bool] = True
    space: ClassVar[am.spaces.AbstractReals] = am.Box(-0.6, 0.6)

    def energy(self, x):
        scores = self.beta * jnp.sum(jnp.tanh(self.gain * self.Xi * x[None]), axis=1)
        return 0.5 * jnp.sum(x**2) - jax.nn.logsumexp(scores) / self.beta


CASES = {
    "modern": (am.ModernHopfield, {"beta": 3.0}),
    "gaussian": (am.GaussianMemory, {"beta": 2.0}),
    "user": (UserHopfield, {}),
    "tilted": (Tilted, {"gain": 0.3, "beta": 2.0}),
}


def numbers(K=K, D=D, seed=0):
    """Of JAX's default precision: in double, answers are told apart from rounding."""
    return np.random.default_rng(seed).standard_normal((K, D)).astype(jnp.result_type(float))


def queries(Xi, shape=(Q, D)):
    noise = np.random.default_rng(9).standard_normal(shape)
    return jnp.asarray(
        np.asarray(Xi[: shape[0]], noise.dtype) + 0.3 * noise, jnp.result_type(float)
    )


def mapped(path, Xi):
    np.save(path / "Xi.npy", Xi)
    return np.load(path / "Xi.npy", mmap_mode="r")


def in_zarr(path, Xi, chunk=300):
    kept = zarr.create_array(
        store=str(path / "Xi.zarr"), shape=Xi.shape, dtype=Xi.dtype, chunks=(chunk, *Xi.shape[1:])
    )
    kept[:] = Xi
    return zarr.open_array(str(path / "Xi.zarr"), mode="r")


FORMS = {"memmap": mapped, "zarr": in_zarr, "ndarray": lambda path, Xi: Xi}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", CASES)
def test_answers_are_those_of_the_memory_in_memory(case, form, tmp_path, x64):
    Xi, (kind, fields) = numbers(), CASES[case]
    disk = am.OnDisk(kind, FORMS[form](tmp_path, Xi), block=BLOCK, **fields)
    memory, x = kind(jnp.asarray(Xi), **fields), queries(Xi)
    assert_allclose(
        disk.energy(x, progress=False), jax.vmap(memory.energy)(x), rtol=1e-10, atol=1e-10
    )
    if memory.unit_step:
        step = jax.vmap(memory.retrieve)(x)
        assert_allclose(disk.retrieve(x, progress=False), step, rtol=1e-10, atol=1e-10)
    method = None if memory.unit_step else am.CCCP()
    end = disk.recall(x, method=method, progress=False)
    expected = jax.vmap(lambda x: memory.recall(x, method=method))(x)
    assert isinstance(end, am.Recall)
    assert_allclose(end.x, expected.x, rtol=1e-10, atol=1e-10)
    assert_allclose(end.energy, expected.energy, rtol=1e-10, atol=1e-10)
    assert bool((end.result == expected.result).all())
    assert_array_equal(end.steps, expected.steps)
    assert len(set(map(int, end.steps))) > 1 or case == "tilted"  # some rest while others move


def test_states_that_rest_are_not_computed_with(monkeypatch, x64):
    Xi, widths = numbers(), []
    disk = am.OnDisk(am.GaussianMemory, Xi, beta=2.0)
    own = disk._pass
    monkeypatch.setattr(disk, "_pass", lambda x, *rest: widths.append(len(x)) or own(x, *rest))
    end = disk.recall(queries(Xi), progress=False)
    steps = np.sort(end.steps)
    assert widths[0] == Q
    assert widths[-1] == Q // 4
    assert widths.count(Q // 4) == int(steps[-1] - steps[-6]) > 0  # the last five moved alone
    assert len(widths) == int(steps[-1]) + 1


def test_a_step_limit_and_a_tolerance_are_those_of_recall(x64):
    Xi = numbers()
    disk, memory, x = am.OnDisk(am.ModernHopfield, Xi), am.ModernHopfield(Xi), queries(Xi)
    for steps, tol in ((2, None), (None, 0.05)):
        end = disk.recall(x, max_steps=steps, tol=tol, progress=False)
        one = functools.partial(memory.recall, max_steps=steps, tol=tol)
        expected = jax.vmap(one)(x)
        assert_allclose(end.x, expected.x, rtol=1e-10, atol=1e-10)
        assert_array_equal(end.steps, expected.steps)
        assert bool((end.result == expected.result).all())
    assert int(end.steps.max()) < int(disk.recall(x, progress=False).steps.max())


def test_what_is_clamped_stays(x64):
    Xi, mask = numbers(), np.arange(D) < 2
    disk, memory, x = am.OnDisk(am.GaussianMemory, Xi), am.GaussianMemory(Xi), queries(Xi)
    for clamp, axis in ((mask, None), (np.arange(Q * D).reshape(Q, D) % 3 == 0, 0)):
        end = disk.recall(x, clamp=clamp, progress=False)
        one = lambda x, held: memory.recall(x, clamp=held)
        expected = jax.vmap(one, (0, axis))(x, jnp.asarray(clamp))
        assert_allclose(end.x, expected.x, rtol=1e-10, atol=1e-10)
        assert_array_equal(
            end.x[jnp.broadcast_to(clamp, x.shape)], x[jnp.broadcast_to(clamp, x.shape)]
        )
        assert float(jnp.abs(end.x - x).max()) > 0.1


class HeavyBall(am.AbstractRealMethod):
    """A method that carries a state, as a user writes it."""

    def init(self, problem, at):
        return jnp.zeros_like(at.x)

    def step(self, problem, at, state, key):
        state = 0.5 * state - 0.5 * at.grad
        return problem.at(problem.put(at.x + state)), state


@pytest.mark.parametrize(
    "method", [am.GradientDescent(0.5), am.GradientDescent(1.0, True), HeavyBall()], ids=str
)
def test_methods_step_as_they_do_in_memory(method, x64):
    Xi = numbers()
    disk, memory, x = am.OnDisk(UserHopfield, Xi), UserHopfield(jnp.asarray(Xi)), queries(Xi)
    end = disk.recall(x, method=method, max_steps=4, progress=False)
    expected = jax.vmap(lambda x: memory.recall(x, method=method, max_steps=4))(x)
    assert_allclose(end.x, expected.x, rtol=1e-10, atol=1e-10)
    assert bool((end.result == expected.result).all())


@pytest.mark.parametrize("method", [am.Langevin(5.0, 0.1), am.MALA(5.0, 0.1)], ids=str)
def test_draws_are_those_of_a_key_for_each_query(method, x64):
    Xi, key = numbers(), jr.key(3)
    disk, memory, x = am.OnDisk(am.ModernHopfield, Xi), am.ModernHopfield(Xi), queries(Xi)
    end = disk.recall(x, method=method, key=key, max_steps=5, progress=False)
    one = lambda x, key: memory.recall(x, method=method, key=key, max_steps=5)
    expected = jax.vmap(one)(x, jr.split(key, Q))
    assert_allclose(end.x, expected.x, rtol=1e-10, atol=1e-10)
    assert bool((end.result == am.RESULTS.sampled).all())


@pytest.mark.parametrize("form", FORMS)
def test_values_are_read_out(form, tmp_path, x64):
    Xi, values = numbers(), numbers(D=12, seed=1).reshape(K, 3, 4)
    (tmp_path / "v").mkdir()
    stored = FORMS[form](tmp_path, Xi), FORMS[form](tmp_path / "v", values)
    disk = am.OnDisk(am.ModernHopfield, *stored, beta=2.0, block=BLOCK)
    memory, x = am.ModernHopfield(Xi, 2.0, values), queries(Xi)
    assert_allclose(
        disk.readout(x, progress=False), jax.vmap(memory.readout)(x), rtol=1e-10, atol=1e-10
    )
    alone = am.OnDisk(am.ModernHopfield, stored[0], beta=2.0)
    assert_allclose(alone.readout(x), alone.retrieve(x), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "int8", "bool", "uint8", ">f4", "float64", "int64"]
)
def test_numbers_are_stored_in_many_ways_and_computed_with_in_one(dtype, tmp_path):
    dtype = jnp.dtype(dtype) if dtype == "bfloat16" else np.dtype(dtype)
    Xi = np.clip(np.round(2 * numbers()), 0, 1 if dtype.kind == "b" else 5).astype(dtype)
    np.save(tmp_path / "Xi.npy", Xi)
    stored = np.load(tmp_path / "Xi.npy", mmap_mode="r").view(dtype)
    disk = am.OnDisk(am.GaussianMemory, stored, block=BLOCK, beta=2.0)
    memory = am.GaussianMemory(Xi.astype(dtype.newbyteorder("=")), 2.0)
    x = queries(Xi)
    end, expected = (
        disk.recall(x, max_steps=3),
        jax.vmap(lambda x: memory.recall(x, max_steps=3))(x),
    )
    assert end.x.dtype == expected.x.dtype
    assert_allclose(end.x.astype(float), expected.x.astype(float), atol=1e-3)
    assert_allclose(end.energy, expected.energy, rtol=1e-4, atol=1e-4)


def test_pictures_and_parts_of_files(tmp_path, x64):
    """A view of a mapping is read from where it lies in the file."""
    Xi = numbers()
    stored = mapped(tmp_path, Xi)
    x = queries(Xi[100:]).reshape(Q, 2, 3)
    view = np.asarray(stored[100:3100].reshape(-1, 2, 3))  # no longer called a mapping
    disk = am.OnDisk(am.GaussianMemory, view, block=BLOCK)
    assert disk._stored[0]._place is not None
    memory = am.GaussianMemory(Xi[100:3100].reshape(-1, 2, 3))
    assert_allclose(disk.retrieve(x), jax.vmap(memory.retrieve)(x), atol=1e-10)
    changed = np.load(tmp_path / "Xi.npy", mmap_mode="c")
    changed[0] = 7.0  # is in no file
    assert_array_equal(Stored(changed, "Xi").one_time(0, 1)[0], 7.0)
    with pytest.raises(ValueError, match="a file must hold row after row; a view with strides"):
        am.OnDisk(am.GaussianMemory, stored[::2])


def test_a_softmax_memory_of_another_temperature(x64):
    Xi = numbers()
    fields = {"similarity": "euclidean", "separation": "softmax", "beta": 30.0}
    disk = am.OnDisk(am.KernelMemory, Xi, inverse_temperature=30.0 / (D / 2), **fields)
    memory, x = am.KernelMemory(Xi, **fields), queries(Xi)
    assert_allclose(disk.energy(x), jax.vmap(memory.energy)(x), rtol=1e-10)
    assert_allclose(disk.readout(x), jax.vmap(memory.readout)(x), atol=1e-10)
    with pytest.raises(ValueError, match="that of KernelMemory does not, at beta = 30"):
        am.OnDisk(am.KernelMemory, Xi, **fields)


def test_chunks_are_read_whole(tmp_path):
    kept = in_zarr(tmp_path, numbers(), chunk=300)
    assert am.OnDisk(am.ModernHopfield, kept)._block % 300 == 0
    assert "OnDisk(ModernHopfield, 5,003 patterns of 6, 0.00012 GB)" in repr(
        am.OnDisk(am.ModernHopfield, kept)
    )


# -- what is refused ---------------------------------------------------------------------------


class LogOfMean(am.ContinuousAM):
    def energy(self, x):
        return jnp.log(len(self.Xi)) - jax.nn.logsumexp(self.Xi @ x)


class Longest(am.ContinuousAM):
    def energy(self, x):
        largest = jnp.max(jnp.sum(self.Xi**2, axis=1))
        return 0.5 * (jnp.sum(x**2) + largest) - jax.nn.logsumexp(self.Xi @ x)


@pytest.mark.parametrize(
    "kind",
    [LogOfMean, Longest, am.PolynomialMemory, am.SparseHopfield, am.KernelMemory],
)
def test_an_energy_of_another_kind_is_refused(kind):
    with pytest.raises(ValueError, match=r"must add up over patterns; .* log-sum-exp"):
        am.OnDisk(kind, numbers())


@pytest.mark.parametrize(
    ("patterns", "fields", "error", "message"),
    [
        ("Xi.npy", {}, TypeError, "must be an array that is read row by row; str came"),
        (numbers()[0], {}, ValueError, r"patterns: must have shape \(K, D\).*\(6,\) came"),
        (numbers()[:0], {}, ValueError, r"\(0, 6\) came"),
        (numbers().astype(complex), {}, TypeError, "real numbers; dtype complex128 came"),
        (numbers().astype(str), {}, TypeError, "real numbers; dtype <U"),
        (numbers().astype(jnp.bfloat16).view("V2"), {}, TypeError, "np.save keeps no bfloat16"),
        (numbers(), {"beta": -1.0}, ValueError, "beta: must be finite and greater than 0"),
        (numbers(), {"block": 0}, ValueError, "OnDisk: block: must be at least 1; 0 came"),
        (numbers(), {"gamma": 1.0}, TypeError, "gamma"),
        (numbers(), {"values": numbers()[1:]}, ValueError, "one row for each of the 5,003"),
    ],
)
def test_bad_input_is_refused(patterns, fields, error, message, unchecked):
    with pytest.raises(error, match=message):
        users.am.OnDisk(users.am.ModernHopfield, patterns, **fields)


def test_bad_calls_are_refused(unchecked):
    am, Xi = users.am, numbers()
    with pytest.raises(TypeError, match="kind must make a ContinuousAM of patterns; it made tuple"):
        am.OnDisk(lambda Xi: (Xi,), Xi)
    disk = am.OnDisk(am.GaussianMemory, Xi)
    with pytest.raises(ValueError, match=r"must have shape \(Q, 6\); \(6,\) came. .*x\[None\]"):
        disk.retrieve(Xi[0])
    with pytest.raises(ValueError, match=r"must have shape \(Q, 6\); \(0, 6\) came"):
        disk.energy(Xi[:0])
    with pytest.raises(TypeError, match=r"the states must be known.*with a batch and without"):
        jax.vmap(disk.recall)(Xi[:2])
    with pytest.raises(ValueError, match="must have a readout; GaussianMemory has none"):
        disk.readout(Xi[:2])
    with pytest.raises(ValueError, match="recall: x: every value must be finite"):
        disk.recall(np.full((2, D), np.nan, np.float32))
    with pytest.raises(TypeError, match=r"must say how it steps; Euler came"):
        disk.recall(Xi[:2], method=am.Euler())
    with pytest.raises(TypeError, match=r"must be one for real units; Sweeps came"):
        disk.recall(Xi[:2], method=am.Sweeps())
    with pytest.raises(ValueError, match="Langevin draws at random and needs key="):
        disk.recall(Xi[:2], method=am.Langevin(1.0))
    with pytest.raises(TypeError, match="clamp: must be a boolean mask"):
        disk.recall(Xi[:2], clamp=np.ones(D))

    class Plain(am.ContinuousAM):
        def energy(self, x):
            return -jax.nn.logsumexp(self.Xi @ x)

    with pytest.raises(ValueError, match=r"retrieve: the energy must have the convex part"):
        am.OnDisk(Plain, Xi).retrieve(Xi[:2])

    class Compiled(am.AbstractRealMethod):
        def step(self, problem, at, state, key):
            return jax.jit(lambda x: problem.at(x))(at.x), state

    with pytest.raises(TypeError, match=r"must call problem.at as it is"):
        disk.recall(Xi[:2], method=Compiled())


# -- what a disk does --------------------------------------------------------------------------


def readers():
    return [t for t in threading.enumerate() if t.name.startswith("amlib-reader")]


def test_a_file_that_shrank_is_named(tmp_path):
    """Through the mapping, the process would be killed (SIGBUS)."""
    disk = am.OnDisk(am.ModernHopfield, mapped(tmp_path, numbers()), block=BLOCK)
    x = queries(numbers())
    disk.retrieve(x)
    os.truncate(tmp_path / "Xi.npy", 60_000)
    with pytest.raises(OSError, match=r"Xi.npy must hold 120,200 bytes.*60,000 came. It shrank"):
        disk.retrieve(x)
    os.unlink(tmp_path / "Xi.npy")
    with pytest.raises(OSError, match=r"Xi.npy must be there; it can't be opened"):
        disk.retrieve(x)
    assert not readers()


def test_a_file_that_shrinks_meanwhile_is_named(tmp_path, monkeypatch):
    stored = Stored(mapped(tmp_path, numbers()), "Xi")
    monkeypatch.setattr(_stored, "AHEAD", 0)
    with pytest.raises(OSError, match=r"120,200 bytes.*60,000 came. It shrank"):  # noqa: PT012
        for start, _ in blocks([stored], BLOCK):
            if start == BLOCK:
                os.truncate(tmp_path / "Xi.npy", 60_000)
    assert not readers()


class Failing:
    """An array whose store fails at a row, in one of several ways."""

    def __init__(self, at, fails):
        self.rows, self.at, self.fails = numbers(), at, fails
        self.shape, self.dtype = self.rows.shape, self.rows.dtype

    def __getitem__(self, rows):
        got = self.rows[rows]
        return self.fails(got) if rows.start <= self.at < rows.stop else got


def _broken(_):
    raise OSError(5, "Input/output error")


def _corrupt(_):
    raise RuntimeError("error during blosc decompression")


@pytest.mark.parametrize(
    ("fails", "error", "message"),
    [
        (
            _broken,
            OSError,
            r"patterns: rows 1,536 to 2,048 must be readable; OSError.*Input/output",
        ),
        (
            _corrupt,
            OSError,
            r"rows 1,536 to 2,048 must be readable; RuntimeError came: error during",
        ),
        (
            lambda a: a[:9],
            OSError,
            r"rows 1,536 to 2,048 must have shape \(512, 6\); \(9, 6\) came",
        ),
        (lambda a: np.where(np.arange(512) == 3, np.nan, a.T).T, ValueError, "came in row 1,539"),
    ],
)
def test_a_disk_that_errs_ends_a_recall_with_one_error(fails, error, message):
    disk = am.OnDisk(am.ModernHopfield, Failing(1600, fails), block=BLOCK)
    with pytest.raises(error, match=message):
        disk.recall(queries(numbers()), progress=False)
    assert not readers()


def test_an_error_of_the_file_names_the_byte(tmp_path):
    class Bad(io.FileIO):
        def readinto(self, room):
            _broken(room)

    stored = Stored(mapped(tmp_path, numbers()), "Xi")
    message = r"rows 512 to 1,024 of .*Xi.npy, at byte 12,416 must be readable; .*Errno 5"
    with Bad(tmp_path / "Xi.npy") as file, pytest.raises(OSError, match=message):
        stored._from_file(file, 512, 1024, stored.room(512))


def test_ctrl_c_ends_the_reading():
    disk = am.OnDisk(am.ModernHopfield, Failing(1600, _stop), block=BLOCK)
    # A process that a shell started in the background ignores interrupts.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            disk.retrieve(queries(numbers()), progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not readers()


def _stop(rows):
    """As a terminal does: it interrupts the main thread, whatever that is at."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)
    return rows


def test_blocks_are_read_ahead_and_are_those_of_the_array(tmp_path):
    Xi = numbers()
    seen = []
    for start, (rows,) in blocks([Stored(mapped(tmp_path, Xi), "Xi")], BLOCK):
        assert readers()
        seen.append(rows.copy())  # the room is used again
        assert_array_equal(rows, Xi[start : start + BLOCK])
    assert_array_equal(np.concatenate(seen), Xi)
    assert not readers()


def test_progress_is_shown_if_asked_for(capsys):
    disk, x = am.OnDisk(am.ModernHopfield, numbers()), queries(numbers())
    disk.recall(x, max_steps=2)
    shown = capsys.readouterr().err
    assert "recall: start" in shown
    assert "recall: step 2" in shown
    assert "/5.00k" in shown
    disk.recall(x, max_steps=2, progress=False)
    assert not capsys.readouterr().err


PEAK = """
import resource, sys
import jax, numpy as np
import amlib as am

def peak():
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

def disk(K):
    Xi = np.load(sys.argv[1], mmap_mode="r")[:K]
    return am.OnDisk(am.ModernHopfield, Xi, block=2**14)

x = np.load(sys.argv[1], mmap_mode="r")[:16].copy()
disk(3 * 2**14 + 5).recall(x, max_steps=1, progress=False)  # compiles
before = peak()
end = disk(None).recall(x, max_steps=2, progress=False)
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="resource is of Unix")
def test_the_memory_is_that_of_a_few_blocks(tmp_path):
    """192 MB are read three times; three blocks of 4 MB are held, and what was there before."""
    path, rows = tmp_path / "Xi.npy", 3 * 2**18 + 5
    Xi = np.lib.format.open_memmap(path, "w+", np.float32, (rows, 64))
    for start in range(0, rows, 2**16):
        Xi[start : start + 2**16] = numbers(min(2**16, rows - start), 64, seed=start)
    del Xi
    done = subprocess.run(
        [sys.executable, "-c", PEAK, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 40e6, done.stdout
