"""One tiny instance of every public binary model, and of what users write themselves.

`BINARY` maps a name to a `Case`; the laws in `tests/binary/test_laws.py` run over all of them.
A new public model must be entered here: a test there fails if it is not.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import amlib as am


class UserHopfield(am.BinaryAM):
    """What the README shows: a subclass with an energy and nothing else."""

    def energy(self, x):
        return -0.5 * jnp.sum((self.Xi @ x) ** 2)


class OverlapNetwork(am.BinaryAM):
    """A small network on the overlaps."""

    W: jax.Array
    v: jax.Array

    def energy(self, x):
        return -jnp.dot(self.v, jnp.tanh(self.W @ (self.Xi @ x)))


class ConvolutionalEnergy(am.AbstractBinaryAM):
    """Filters over an image, and no stored pattern."""

    kernels: jax.Array

    def energy(self, x):
        h = jax.lax.conv_general_dilated(x[None, None], self.kernels, (1, 1), "SAME")
        return -jnp.sum(jax.nn.relu(h) ** 3)


class Case(NamedTuple):
    """How to build one zoo model.

    - `make(dtype, K, shape)`: a model over states of `shape`, always the same one.
    - `shape`: the shape of a state in the tests, at most 10 bits.
    - `by_overlaps`: the energy is a function of `Xi @ x` and of nothing else.
    - `symmetric`: the order of the patterns does not count.
    - `integer`: at spin patterns the energy is a sum of integers, exact in float32.
    - `least`: how many units a state must have.
    """

    make: Callable[[Any, int, tuple[int, ...]], am.AbstractBinaryAM]
    shape: tuple[int, ...] = (7,)
    by_overlaps: bool = True
    symmetric: bool = True
    integer: bool = False
    least: int = 1

    def __call__(self, dtype: Any = jnp.float32, K: int = 3, shape: tuple[int, ...] | None = None):
        return self.make(jnp.dtype(dtype), K, self.shape if shape is None else shape)


def spins(seed: int, *shape: int) -> np.ndarray:
    """Random -1/+1 values."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape)


def reals(seed: int, *shape: int) -> np.ndarray:
    """Random real values."""
    return np.random.default_rng(seed).normal(size=shape)


def same_parity(Xi: np.ndarray) -> np.ndarray:
    """Patterns of an odd number of bits made such that no state has two opposite overlaps.

    The odd powers of opposite overlaps cancel, and what the others leave is then lost in rounding.
    """
    Xi = Xi.copy()
    Xi[:, 0] *= Xi.prod(1)
    return Xi


def _patterns(seed: int, dtype: Any, K: int, shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(spins(seed, K, *shape), dtype)


def _polynomial(n: int, rectified: bool, seed: int, dtype, K, shape) -> am.PolynomialDenseAM:
    return am.PolynomialDenseAM(_patterns(seed, dtype, K, shape), n, rectified)


def _in_logs(n: int, rectified: bool, seed: int, dtype, K, shape) -> am.PolynomialDenseAM:
    """A power that floats of this dtype cannot hold, of the parity of `n`."""
    Xi = jnp.asarray(same_parity(spins(seed, K, *shape)), dtype)
    return am.PolynomialDenseAM(Xi, n + (400 if dtype == jnp.float64 else 60), rectified)


def _pairs(model, seed: int, dtype, K, shape, *more) -> Any:
    """Patterns in two parts, of which the first is the larger."""
    Xi, first = _patterns(seed, dtype, K, shape), (shape[0] + 1) // 2
    return model(Xi[:, :first], Xi[:, first:], *more)


def _simplicial(dtype, K, shape) -> am.SimplicialHopfield:
    """Pairs around a ring, and some triples."""
    i = np.arange(shape[0])
    pairs, triples = np.stack([i, (i + 1) % shape[0]], 1), np.stack([i[:-2], i[1:-1], i[2:]], 1)
    return am.SimplicialHopfield(_patterns(18, dtype, K, shape), [pairs, triples])


def _ising(dtype, K, shape) -> am.BipolarIsing:
    del K
    (D,) = shape
    J = reals(8, D, D)
    return am.BipolarIsing(jnp.asarray(J + J.T, dtype), jnp.asarray(reals(9, D), dtype))


def _network(dtype, K, shape) -> OverlapNetwork:
    W, v = jnp.asarray(reals(11, 4, K) / 3, dtype), jnp.asarray(reals(12, 4), dtype)
    return OverlapNetwork(_patterns(10, dtype, K, shape), W, v)


def _user(dtype, K, shape) -> UserHopfield:
    """Real-valued patterns: no two energies tie."""
    return UserHopfield(jnp.asarray(reals(13, K, *shape), dtype))


BINARY: dict[str, Case] = {
    "classical": Case(
        lambda dtype, K, shape: am.ClassicalHopfield(_patterns(0, dtype, K, shape)), integer=True
    ),
    "power-even": Case(functools.partial(_polynomial, 4, False, 1), integer=True),
    "power-odd": Case(functools.partial(_polynomial, 3, False, 2), integer=True),
    "rectified": Case(functools.partial(_polynomial, 3, True, 3), (2, 3), integer=True),
    "log-even": Case(functools.partial(_in_logs, 0, False, 4)),
    "log-odd": Case(functools.partial(_in_logs, 1, False, 5)),
    "log-rectified": Case(functools.partial(_in_logs, 1, True, 6)),
    "exponential": Case(
        lambda dtype, K, shape: am.ExponentialDenseAM(_patterns(7, dtype, K, shape), 0.7)
    ),
    "simplicial": Case(
        _simplicial, by_overlaps=False, integer=True, least=3,
    ),
    "pairs": Case(
        lambda *given: _pairs(am.BidirectionalMemory, 15, *given),
        by_overlaps=False, integer=True, least=2,
    ),
    "pairs-power": Case(
        lambda *given: _pairs(am.PolynomialBidirectional, 16, *given, 3),
        by_overlaps=False, integer=True, least=2,
    ),
    "pairs-exponential": Case(
        lambda *given: _pairs(am.ExponentialBidirectional, 17, *given, 0.7),
        by_overlaps=False, least=2,
    ),
    "ising": Case(_ising, by_overlaps=False),
    "user-network": Case(_network, symmetric=False),
    "user-convolution": Case(
        lambda dtype, K, shape: ConvolutionalEnergy(jnp.asarray(reals(14, 2, 1, 3, 3), dtype)),
        (3, 3),
        by_overlaps=False,
    ),
    "user-hopfield": Case(_user),
}  # fmt: skip


def public_models(module: Any, base: type) -> set[type]:
    """The concrete subclasses of `base` that `module` exports."""
    exported = {v for k, v in vars(module).items() if not k.startswith("_")}
    classes = {v for v in exported if isinstance(v, type) and issubclass(v, base)}
    return {c for c in classes if not getattr(c, "__abstractmethods__", None)}


def unregistered(module: Any, base: type, zoo: Mapping[str, Callable[[], Any]]) -> set[str]:
    """The names of the public models of `module` that the zoo does not hold."""
    return {
        c.__name__ for c in public_models(module, base) - {type(case()) for case in zoo.values()}
    }


def parameters(model: eqx.Module) -> tuple[Any, Any]:
    """The float parameters of a model, and the rest."""
    return eqx.partition(model, eqx.is_inexact_array)
