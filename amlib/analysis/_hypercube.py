"""Passes between states of units of two values: exact over all states, or by a search.

The height of a path is its highest energy; a pass is the lowest path of all. Paths flip one unit
at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from amlib import _progress as bars
from amlib._compiled import compiled
from amlib._numbers import Numbers, known_numbers
from amlib.analysis import _runs as runs
from amlib.descent import flips
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractTwoValued

ENUMERATED, LARGEST = 16, 20
"""How many units are enumerated without being asked to, and how many at most."""

WIDTH = 16
"""How many partial paths the search keeps."""


# -- all states -------------------------------------------------------------------------------


def code_of(x: np.ndarray) -> int:
    """The number of a state: bit `i` is set where unit `i` has the higher of its two values."""
    return int(x.reshape(-1) @ (1 << np.arange(x.size)))


def states_of_codes(codes: np.ndarray, size: int) -> np.ndarray:
    """The states of these numbers, as truth values."""
    return (codes[:, None] >> np.arange(size) & 1).astype(bool)


def all_energies(memory: AbstractMemory, shape: tuple[int, ...]) -> np.ndarray:
    """The energy of every state, by its number; infinite where it is not finite."""
    size = int(np.prod(shape))
    up = states_of_codes(np.arange(1 << size), size)
    energy = runs.energies(memory, as_states(memory, up).reshape(-1, *shape))
    return np.where(np.isfinite(energy), energy, np.inf)


def as_states(memory: AbstractMemory, up: np.ndarray) -> np.ndarray:
    """Truth values as the memory's floats."""
    space, struct = memory.space, memory.state_struct
    assert isinstance(space, AbstractTwoValued)
    dtype = jnp.result_type(float) if struct is None else struct.dtype
    return np.where(up, space.high, space.low).astype(dtype)


def heights_from(energy: np.ndarray, start: int) -> np.ndarray:
    """The height of the pass from one state to every other.

    The least solution of $h(s) = \\max(E(s), \\min_{t \\sim s} h(t))$, unit by unit until nothing
    changes.
    """
    size = energy.size.bit_length() - 1
    E = energy.reshape((2,) * size)
    height = np.full_like(energy, np.inf)
    height[start] = energy[start]
    height = height.reshape(E.shape)
    while True:
        before = height.copy()
        for axis in range(size):
            np.minimum(height, np.maximum(E, np.flip(height, axis)), out=height)
        if (height == before).all():
            return height.reshape(-1)


def shortest(energy: np.ndarray, a: int, b: int, height: float) -> np.ndarray:
    """The numbers of the states on a shortest path that stays at or below a height."""
    bits = 1 << np.arange(energy.size.bit_length() - 1)
    parent = np.full(energy.size, -1)
    parent[a], front = a, np.asarray([a])
    while parent[b] < 0:
        near = (front[:, None] ^ bits).reshape(-1)
        new = (parent[near] < 0) & (energy[near] <= height)
        parent[near[new]] = np.repeat(front, len(bits))[new]
        front = np.unique(near[new])
    path = [b]
    while path[-1] != a:
        path.append(int(parent[path[-1]]))
    return np.asarray(path[::-1])


# -- a search ---------------------------------------------------------------------------------


@compiled
def _flip_energies(memory: AbstractMemory, known: tuple[Numbers, ...], xs: Array) -> Array:
    space: Any = memory.space
    problem: Any = memory._flips(space, None, known)
    return jax.vmap(lambda x: flips.flip_energies(problem, x))(xs)


class Search:
    """A search for a low pass between two states: an upper bound of the lowest.

    A beam search over direct paths, which flip only what differs, each unit once; from both ends.
    Then detours: a state beside a highest one, or one that descent from there leads to, becomes
    a waypoint, between which and the ends direct paths are searched again.
    """

    def __init__(self, memory: AbstractMemory, shape: tuple[int, ...], seed: int):
        self.memory, self.shape = memory, shape
        self.known = known_numbers(memory)
        self.random = np.random.default_rng(seed)
        self.marks = self.random.integers(0, 2**63, int(np.prod(shape)), np.int64)

    def flipped(self, up: np.ndarray) -> np.ndarray:
        """The energies after each flip of each of at most `WIDTH` states."""
        rows = np.arange(WIDTH) % len(up)
        xs = as_states(self.memory, up[rows]).reshape(-1, *self.shape)
        found = np.asarray(_flip_energies(self.memory, self.known, jnp.asarray(xs)), float)
        return np.where(np.isfinite(found), found, np.inf)[: len(up)]

    def energies(self, up: np.ndarray) -> np.ndarray:
        """The energies of states."""
        found = runs.energies(self.memory, as_states(self.memory, up).reshape(-1, *self.shape))
        return np.where(np.isfinite(found), found, np.inf)

    def run(self, a: np.ndarray, b: np.ndarray, tries: int, bar: Any) -> np.ndarray:
        """The states of the lowest path that was found, as truth values."""
        path = self.better(self.direct(a, b), self.direct(b, a)[::-1])
        for turn in range(tries):
            way = self.waypoint(path, turn)
            if not ((way == a).all() or (way == b).all()):
                there, back = self.direct(a, way), self.direct(way, b)
                path = self.better(path, np.concatenate([there, back[1:]]))
            bar.update()
        return path

    def better(self, path: np.ndarray, other: np.ndarray) -> np.ndarray:
        """The lower of two paths; of equal ones the shorter."""
        pair = [_without_loops(p) for p in (path, other)]
        return min(pair, key=lambda p: (self.energies(p).max(), len(p)))

    def waypoint(self, path: np.ndarray, turn: int) -> np.ndarray:
        """A state some flips beside one of the highest of a path, after some descent."""
        top = np.argsort(-self.energies(path), kind="stable")
        state = path[self.random.choice(top[: max(1, min(3, len(top) - 2))])].copy()
        for _ in range(self.random.integers(1, 4 + turn // 8)):
            lowest = np.argsort(self.flipped(state[None])[0], kind="stable")[:8]
            state[self.random.choice(lowest)] ^= True
        energy = self.energies(state[None])[0]
        for _ in range(self.random.integers(0, max(2, state.size // 2))):
            around = self.flipped(state[None])[0]
            bit = int(around.argmin())
            if around[bit] >= energy:
                break
            state[bit], energy = ~state[bit], around[bit]
        return state

    def direct(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A low one of the paths that flip only what differs: beam search."""
        bits = np.flatnonzero(a != b)
        states, height = a[None], np.zeros(1) - np.inf
        layers: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in bits:
            energy = self.flipped(states)[:, bits]
            left = states[:, bits] != b[bits]
            highest = np.where(left, np.maximum(height[:, None], energy), np.inf)
            mark = (states @ self.marks)[:, None] + np.where(b[bits], 1, -1) * self.marks[bits]
            order = np.lexsort((energy.ravel(), highest.ravel(), ~left.ravel()))
            order = order[: int(left.sum())]
            first = np.unique(mark.ravel()[order], return_index=True)[1]
            chosen = order[np.sort(first)[:WIDTH]]
            parent, flip = np.divmod(chosen, len(bits))
            states = states[parent]
            states[np.arange(len(chosen)), bits[flip]] ^= True
            height = highest.ravel()[chosen]
            layers.append((parent, bits[flip]))
        path, at = [b], 0
        for parent, flip in reversed(layers):
            before = path[-1].copy()
            before[flip[at]] ^= True
            path.append(before)
            at = parent[at]
        return np.asarray(path[::-1])


def _without_loops(path: np.ndarray) -> np.ndarray:
    """The same path without what lies between two visits of one state."""
    last = {state.tobytes(): k for k, state in enumerate(path)}
    kept, k = [], 0
    while k < len(path):
        k = last[path[k].tobytes()]
        kept.append(k)
        k += 1
    return path[kept]


def found_pass(
    memory: AbstractMemory, a: np.ndarray, b: np.ndarray, tries: int, seed: int, progress: bool
) -> np.ndarray:
    """The states of a low path, by `Search`."""
    search = Search(memory, a.shape, seed)
    space: Any = memory.space
    ends = [(x == space.high).reshape(-1) for x in (a, b)]
    with bars.bar(tries, progress) as bar:
        up = search.run(ends[0], ends[1], tries, bar)
    return as_states(memory, up).reshape(-1, *a.shape)


def exact_pass(
    memory: AbstractMemory, a: np.ndarray, b: np.ndarray, energy: np.ndarray
) -> np.ndarray | None:
    """The states of a shortest one of the lowest paths; `None` if no path is finite."""
    space: Any = memory.space
    first, last = (code_of(x == space.high) for x in (a, b))
    height = float(heights_from(energy, first)[last])
    if not np.isfinite(height):
        return None
    codes = shortest(energy, first, last, height)
    return as_states(memory, states_of_codes(codes, a.size)).reshape(-1, *a.shape)
