"""Patterns stored as int8 stay so, and give the numbers that floats give."""

import subprocess
import sys

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import amlib as am
from amlib.descent import jaxprs, products
from tests.users import am as unchecked

K, D = 40, 24
XI = jr.rademacher(jr.key(0), (K, D), jnp.int8)

MODELS = {
    "classical": am.ClassicalHopfield,
    "polynomial": lambda Xi: am.PolynomialDenseAM(Xi, 4),
    "logarithmic": lambda Xi: am.PolynomialDenseAM(Xi, 40),
    "odd": lambda Xi: am.PolynomialDenseAM(Xi, 3, rectified=False),
    "exponential": lambda Xi: am.ExponentialDenseAM(Xi, beta=2.0),
}


@pytest.fixture
def tight(monkeypatch):
    """What is meant for large sizes runs on small ones."""
    monkeypatch.setattr(jaxprs, "NARROW_FROM", 1)
    monkeypatch.setattr(products, "_BLOCK", 7 * D)  # blocks that do not divide the patterns
    monkeypatch.setattr("amlib.binary.patterns._WHOLE", 10 * D)
    monkeypatch.setattr("amlib.descent.flip_problem._COPIED", 0)
    jax.clear_caches()
    yield
    jax.clear_caches()


@pytest.mark.parametrize("shape", [(D,), (6, 4)])
@pytest.mark.parametrize("name", MODELS)
def test_every_model_recalls_the_same(name, shape, tight):
    Xi = XI.reshape(K, *shape)
    stored, floats = MODELS[name](Xi), MODELS[name](Xi.astype(jnp.float32))
    assert stored.Xi.dtype == jnp.int8
    assert stored.state_struct == floats.state_struct
    x0 = am.data.corrupt.flip_exactly(jr.key(1), floats.Xi[3], 4)
    one, other = stored.recall(x0), floats.recall(x0)
    np.testing.assert_array_equal(one.x, other.x)
    np.testing.assert_array_equal(one.trajectory.accepted, other.trajectory.accepted)
    np.testing.assert_allclose(one.energy, other.energy, rtol=1e-6)
    assert one.x.dtype == jnp.float32
    np.testing.assert_allclose(stored.energy(x0), floats.energy(x0), rtol=1e-6)
    np.testing.assert_allclose(stored.flip_energies(x0), floats.flip_energies(x0), rtol=1e-6)
    a, b = (m.async_recall(x0, 200, jr.PRNGKey(1))[1] for m in (stored, floats))
    np.testing.assert_array_equal(a[0], b[0])
    np.testing.assert_allclose(a[1], b[1], rtol=1e-6)


@pytest.mark.parametrize(
    "energy",
    [
        lambda self, x: -jax.nn.logsumexp(self.Xi @ x),
        lambda self, x: -jnp.sum(jax.nn.relu(x @ self.Xi.T) ** 3),
        lambda self, x: -0.5 * jnp.sum((jnp.einsum("kd,d->k", self.Xi, x) / x.size) ** 2),
        lambda self, x: jnp.sum(jnp.exp(-jnp.sum(self.Xi * x, axis=1) / 4)),
        lambda self, x: -jnp.max(jnp.sum(x != self.Xi, axis=1)).astype(float),
    ],
)
def test_energies_of_users_give_the_numbers_of_floats(energy, tight):
    Memory = type("Memory", (unchecked.BinaryAM,), {"energy": energy})
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        stored, floats = Memory(XI), Memory(XI.astype(jnp.float32))
        x0 = am.data.corrupt.flip_exactly(jr.key(1), floats.Xi[3], 4)
        one, other = stored.recall(x0), floats.recall(x0)
        np.testing.assert_array_equal(one.trajectory.accepted, other.trajectory.accepted)
        np.testing.assert_allclose(one.energy, other.energy, rtol=1e-6)
        np.testing.assert_allclose(one.energy, stored.energy(one.x), rtol=1e-6)


def test_only_int8_stays():
    for dtype in (np.int16, np.int32, np.uint8, bool, jnp.bfloat16, jnp.float32):
        Xi = (np.asarray(XI) > 0).astype(dtype) if dtype in (bool, np.uint8) else XI.astype(dtype)
        with pytest.warns(UserWarning, match="0 and 1 alone") if dtype == np.uint8 else _quiet():
            kept = am.ClassicalHopfield(Xi).Xi.dtype
        assert kept == (dtype if dtype == jnp.bfloat16 else jnp.float32)


def _quiet():
    import warnings

    return warnings.catch_warnings(action="error")


def test_numpy_patterns_are_copied_so_that_they_may_change_later():
    given = np.array(XI)
    memory = am.ClassicalHopfield(given)
    given[:] = 1
    np.testing.assert_array_equal(memory.Xi, XI)


def test_the_temperature_has_its_derivative(tight):
    """The last energy is not evaluated in full, but its derivative is."""
    x0 = am.data.corrupt.flip_exactly(jr.key(1), XI[3].astype(jnp.float32), 4)

    def last(beta, Xi):
        return am.ExponentialDenseAM(Xi, beta=beta).recall(x0).energy

    got = jax.grad(last)(0.3, XI)
    expected = jax.grad(last)(0.3, XI.astype(jnp.float32))
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert abs(float(expected)) > 0.1


def test_sums_that_would_wrap_are_refused():
    class Couplings(am.BinaryAM):
        def energy(self, x):
            J = jax.jit(lambda Xi: Xi.T @ Xi)(self.Xi)
            return -0.5 * x @ J.astype(x.dtype) @ x

    x = XI[0].astype(jnp.float32)
    floats = Couplings(XI.astype(jnp.float32))
    assert float(floats.recall(x).energy) < -D
    for call in ("recall", "async_recall", "flip_energies", "is_fixed_point"):
        with pytest.raises(TypeError, match=r"at 127; dot_general -> i(nt)?8\[24,24\]"):
            getattr(Couplings(XI), call)(x)


def test_it_is_saved_as_int8(tmp_path):
    memory = am.ExponentialDenseAM(XI, beta=2.0)
    am.save(tmp_path / "memory.eqx", memory)
    again = am.load(tmp_path / "memory.eqx", memory)
    assert again.Xi.dtype == jnp.int8
    assert eqx.tree_equal(again, memory)


PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp, numpy as np
import amlib as am

class User(am.BinaryAM):
    def energy(self, x):
        return -jax.nn.logsumexp(self.Xi @ x)

K, D = 2**18, 1024
make = {"user": User, "library": am.ExponentialDenseAM}[sys.argv[1]]
bits = np.random.default_rng(0).integers(0, 2, (K, D), np.int8)
memory = make(2 * bits - 1)
x0 = am.data.corrupt.flip_exactly(jax.random.key(1), memory.Xi[3].astype(jnp.float32), D // 4)
small = make(memory.Xi[:2000])
small.recall(x0)  # what compiling takes
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
end = memory.recall(x0)
assert bool(end.converged) and bool((end.x == memory.Xi[3]).all())
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / memory.Xi.nbytes)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no resource module")
@pytest.mark.parametrize("kind", ["user", "library"])
def test_recall_makes_no_float_copy(kind):
    """A copy of 256 MiB of patterns in float32 would add four times as much to the peak."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 1.5
