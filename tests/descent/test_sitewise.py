"""An energy of units of several values is the same over bits, whatever it is made of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from amlib.descent.sitewise import over_bits
from amlib.spaces import Values
from tests.potts.zoo import N, all_states
from tests.zoo import reals

Q = 3
X = all_states(Q)
V, W, J = (jnp.asarray(reals(k, *s), jnp.float32) for k, s in ((0, (N,)), (1, (5, N)), (2, (Q, Q))))
PLACES, BATCHES = np.array([3, 0, 1, 2]), jnp.asarray(reals(3, 2, 3, 2), jnp.float32)


def real(x):
    return x.astype(jnp.float32)


def scattered(x):
    return jnp.zeros(N + 2).at[PLACES + 1].set(real(x))


ENERGIES = {
    "squares": lambda x: jnp.sum(V * real(x) ** 2),
    "a table by index": lambda x: jnp.sum(J[1][x]),
    "a matrix by two": lambda x: jnp.sum(J[x[:-1], x[1:]]),
    "moved": lambda x: jnp.sum(V * jnp.sqrt(real(x[PLACES]))) - jnp.sum(V[::-1] * jnp.exp(real(x))),
    "side by side": lambda x: jnp.sum(
        jnp.concatenate([V, V**2]) * real(jnp.concatenate([x, 2 * x]))
    ),
    "padded": lambda x: jnp.sum(jnp.arange(N + 2.0) * jnp.cos(real(jnp.pad(x, 1)))),
    "scattered": lambda x: jnp.sum(jnp.arange(N + 2.0) * scattered(x) ** 2),
    "two units": lambda x: jnp.sum(jnp.cos(real(x) - 2 * real(jnp.roll(x, 1))) * V),
    "one unit twice": lambda x: jnp.sum(jnp.where(x == 1, V, real(x) * V)),
    "two of each other": lambda x: jnp.sum((x * x[::-1] + x[::-1] * x).astype(jnp.float32)),
    "three units": lambda x: -jnp.sum(real(x * jnp.roll(x, 1) * jnp.roll(x, 2))),
    "all pairs": lambda x: jnp.sum(jnp.tanh(real(x[:, None] == x[None]) @ V)),
    "by one unit": lambda x: jnp.where(x[0] == 1, jnp.sum(V * real(x)), real(jnp.sum(x))),
    "through a network": lambda x: jnp.sum(jnp.tanh(W @ jnp.log1p(real(x)))),
    "in batches": lambda x: jnp.sum(
        jnp.tanh(jnp.einsum("bij,bj->bi", BATCHES, real(x).reshape(2, 2)))
    ),
    "the other way": lambda x: jnp.sum(jnp.tanh(real(x == 2) @ W.T) ** 2),
    "logic": lambda x: real(jnp.any(x == 2)) + 2 * real(jnp.all(x > 0)),
    "order": lambda x: jnp.sum(V * real(jnp.sort(x))) + real(jnp.argmax(x)),
    "running sums": lambda x: jnp.sum(V * real(jnp.cumsum(x)) ** 2),
    "walls": lambda x: jnp.min(jnp.where(x == 0, jnp.inf, real(x) * 0.5)),
    "nothing": lambda x: (
        jnp.sum(V * real(x))
        + real(jnp.sum(x[None, :0] != jnp.zeros((2, 0), jnp.int32)))
        + real(jnp.sum(x[:0] * x[N:]))
    ),
    "a constant": lambda x: jnp.sum(V) + 0 * real(jnp.sum(x)),
}


@pytest.fixture(scope="module")
def energies():
    """Of all states, as written and over bits, in one program."""

    @jax.jit
    def both(X):
        s = Values(Q).to_spins(X)
        struct = jax.ShapeDtypeStruct((N,), jnp.int32)
        plain = {name: jax.vmap(energy)(X) for name, energy in ENERGIES.items()}
        bits = {name: jax.vmap(over_bits(e, struct, Q))(s) for name, e in ENERGIES.items()}
        return plain, bits

    return both(X)


@pytest.mark.parametrize("name", ENERGIES)
def test_it_is_the_same_over_bits(energies, name):
    plain, bits = energies
    np.testing.assert_allclose(bits[name], plain[name], rtol=1e-5, atol=1e-5)
    if name != "a constant":
        assert len(np.unique(plain[name])) > 1
