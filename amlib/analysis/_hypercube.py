"""Passes between states of units of finitely many values: exact over all states, or by a search.

The height of a path is its highest energy; a pass is the lowest path of all. Paths change one unit
at a time. States are digits here: a unit of two values is 0 at the lower and 1 at the higher one.
"""

import math
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
from amlib.descent.sites import changes_of
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractTwoValued, Values

ENUMERATED, LARGEST = 2**16, 2**20
"""How many states are enumerated without being asked to, and how many at most."""

WIDTH = 16
"""How many partial paths the search keeps."""


# -- digits -----------------------------------------------------------------------------------


def values_of(memory: AbstractMemory) -> int:
    """How many values a unit has."""
    return memory.space.q if isinstance(memory.space, Values) else 2


def as_digits(memory: AbstractMemory, x: np.ndarray) -> np.ndarray:
    """States as digits, one row each or a single one."""
    space = memory.space
    return (x == space.high).astype(int) if isinstance(space, AbstractTwoValued) else x.astype(int)


def as_states(memory: AbstractMemory, digits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of digits as the memory's states."""
    space, struct = memory.space, memory.state_struct
    digits = digits.reshape(-1, *shape)
    if not isinstance(space, AbstractTwoValued):
        return digits.astype(np.int32)
    dtype = jnp.result_type(float) if struct is None else struct.dtype
    return np.where(digits > 0, space.high, space.low).astype(dtype)


def code_of(digits: np.ndarray, q: int) -> int:
    """The number that the digits write, the first one counting least."""
    return int(digits.reshape(-1) @ q ** np.arange(digits.size))


def digits_of_codes(codes: np.ndarray, size: int, q: int) -> np.ndarray:
    """The digits of these numbers."""
    return codes[:, None] // q ** np.arange(size) % q


# -- all states -------------------------------------------------------------------------------


def all_energies(memory: AbstractMemory, shape: tuple[int, ...]) -> np.ndarray:
    """The energy of every state, one axis for each unit; infinite where it is not finite."""
    size, q = math.prod(shape), values_of(memory)
    digits = digits_of_codes(np.arange(q**size), size, q)
    energy = runs.energies(memory, as_states(memory, digits, shape))
    return np.where(np.isfinite(energy), energy, np.inf).reshape((q,) * size)


def heights_from(energy: np.ndarray, start: int) -> np.ndarray:
    """The height of the pass from one state to every other, by their numbers.

    The least solution of $h(s) = \\max(E(s), \\min_{t \\sim s} h(t))$, unit by unit until nothing
    changes.
    """
    height = np.full(energy.size, np.inf)
    height[start] = energy.reshape(-1)[start]
    height = height.reshape(energy.shape)
    while True:
        before = height.copy()
        for axis in range(energy.ndim):
            lowest = height.min(axis, keepdims=True)
            np.minimum(height, np.maximum(energy, lowest), out=height)
        if (height == before).all():
            return height.reshape(-1)


def shortest(energy: np.ndarray, a: int, b: int, height: float) -> np.ndarray:
    """The numbers of the states on a shortest path that stays at or below a height."""
    q, flat = energy.shape[0], energy.reshape(-1)
    powers = q ** np.arange(energy.ndim)
    parent = np.full(flat.size, -1)
    parent[a], front = a, np.asarray([a])
    while parent[b] < 0:
        bare = front[:, None] - front[:, None] // powers % q * powers  # without one digit
        near = (bare[..., None] + powers[:, None] * np.arange(q)).reshape(-1)
        new = (parent[near] < 0) & (flat[near] <= height)
        parent[near[new]] = np.repeat(front, q * len(powers))[new]
        front = np.unique(near[new])
    path = [b]
    while path[-1] != a:
        path.append(int(parent[path[-1]]))
    return np.asarray(path[::-1])


# -- a search ---------------------------------------------------------------------------------


@compiled
def _changed(memory: AbstractMemory, known: tuple[Numbers, ...], xs: Array) -> Array:
    """The energies after each change of each unit, `(states, units, q)`; of bits each flip."""
    space: Any = memory.space
    problem: Any = memory._flips(space, None, known)
    after = changes_of if isinstance(space, Values) else flips.flip_energies
    return jax.vmap(lambda x: after(problem, x).reshape(x.size, -1))(xs)


class Search:
    """A search for a low pass between two states: an upper bound of the lowest.

    A beam search over direct paths, which change only what differs, each unit once; from both ends.
    Then detours: a state beside a highest one, or one that descent from there leads to, becomes
    a waypoint, between which and the ends direct paths are searched again.
    """

    def __init__(self, memory: AbstractMemory, shape: tuple[int, ...], seed: int):
        self.memory, self.shape = memory, shape
        self.known, self.q = known_numbers(memory), values_of(memory)
        self.random = np.random.default_rng(seed)
        self.marks = self.random.integers(0, 2**63, (math.prod(shape), self.q), np.int64)

    def changed(self, digits: np.ndarray) -> np.ndarray:
        """The energies after each change of each of at most `WIDTH` states, `(states, units, q)`.

        Infinite where nothing would change.
        """
        count, size = digits.shape
        rows = np.arange(WIDTH) % count
        xs = jnp.asarray(as_states(self.memory, digits[rows], self.shape))
        found = np.asarray(_changed(self.memory, self.known, xs), float)[:count]
        found = np.broadcast_to(found, (count, size, self.q))  # a bit has but one change
        other = np.arange(self.q) != digits[..., None]
        return np.where(np.isfinite(found) & other, found, np.inf)

    def energies(self, digits: np.ndarray) -> np.ndarray:
        """The energies of states."""
        found = runs.energies(self.memory, as_states(self.memory, digits, self.shape))
        return np.where(np.isfinite(found), found, np.inf)

    def run(self, a: np.ndarray, b: np.ndarray, tries: int, bar: Any) -> np.ndarray:
        """The states of the lowest path that was found."""
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
        """A state some changes beside one of the highest of a path, after some descent."""
        top = np.argsort(-self.energies(path), kind="stable")
        state = path[self.random.choice(top[: max(1, min(3, len(top) - 2))])].copy()
        changes = state.size * (self.q - 1)
        for _ in range(self.random.integers(1, 4 + turn // 8)):
            around = self.changed(state[None])[0].ravel()
            lowest = np.argsort(around, kind="stable")[: min(8, changes)]
            unit, value = divmod(self.random.choice(lowest), self.q)
            state[unit] = value
        energy = self.energies(state[None])[0]
        for _ in range(self.random.integers(0, max(2, state.size // 2))):
            around = self.changed(state[None])[0].ravel()
            unit, value = divmod(int(around.argmin()), self.q)
            if around.min() >= energy:
                break
            state[unit], energy = value, around.min()
        return state

    def direct(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """A low one of the paths that change only what differs: beam search."""
        units = np.flatnonzero(a != b)
        was, becomes = (self.marks[units, x[units]] for x in (a, b))
        states, height = a[None], np.zeros(1) - np.inf
        layers: list[tuple[np.ndarray, np.ndarray]] = []
        for _ in units:
            energy = self.changed(states)[:, units, b[units]]
            left = states[:, units] != b[units]
            highest = np.where(left, np.maximum(height[:, None], energy), np.inf)
            own = np.take_along_axis(self.marks[None], states[..., None], 2).sum((1, 2))
            mark = own[:, None] - was + becomes
            order = np.lexsort((energy.ravel(), highest.ravel(), ~left.ravel()))
            order = order[: int(left.sum())]
            first = np.unique(mark.ravel()[order], return_index=True)[1]
            chosen = order[np.sort(first)[:WIDTH]]
            parent, change = np.divmod(chosen, len(units))
            states, unit = states[parent], units[change]
            states[np.arange(len(chosen)), unit] = b[unit]
            height = highest.ravel()[chosen]
            layers.append((parent, unit))
        path, at = [b], 0
        for parent, unit in reversed(layers):
            before = path[-1].copy()
            before[unit[at]] = a[unit[at]]
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
    first, last = (as_digits(memory, x).reshape(-1) for x in (a, b))
    with bars.bar(tries, progress) as bar:
        path = search.run(first, last, tries, bar)
    return as_states(memory, path, a.shape)


def exact_pass(
    memory: AbstractMemory, a: np.ndarray, b: np.ndarray, energy: np.ndarray
) -> np.ndarray | None:
    """The states of a shortest one of the lowest paths; `None` if no path is finite."""
    q = values_of(memory)
    first, last = (code_of(as_digits(memory, x), q) for x in (a, b))
    height = float(heights_from(energy, first)[last])
    if not np.isfinite(height):
        return None
    codes = shortest(energy, first, last, height)
    return as_states(memory, digits_of_codes(codes, a.size, q), a.shape)
