"""What lies between two states: the pass, its height, and the path over it."""

from typing import NamedTuple

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Shaped

from amlib import _checks as checks, _progress as bars, _show as show
from amlib._types import Key
from amlib.analysis import _hypercube as hypercube, _runs as runs, _string as string
from amlib.memory import AbstractMemory

MOST_UNITS = 4096
"""How many real units there may be: the Hessian of so many is a matrix of 64 MiB."""


class Barrier(NamedTuple):
    """A path over the pass between two states.

    The states of the `path`, from one end to the other, and their energies; the height of the pass
    above its start (`forward`) and above its end (`backward`); and the `saddle`, its highest state.

    Of bits, and of units of several values, the path changes one unit at a time, and `exact` says
    whether no path is lower; otherwise the heights are upper bounds. Of reals, `index` counts the
    negative eigenvalues of the Hessian at the saddle, 1 where it is one (-1 of bits), and
    `gradient` the largest entry of the gradient there (NaN of bits); another, lower pass is never
    excluded, so `exact` is `False`.
    """

    path: np.ndarray
    energy: np.ndarray
    forward: float
    backward: float
    saddle: np.ndarray
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    gradient: float
    exact: bool

    __repr__ = show.text


class Passes(NamedTuple):
    """The passes between several states.

    Their energies, `(M,)`; for each pair the `height` of the pass, that is, its energy, `(M, M)`,
    with the states' own energies on the diagonal; and whether the heights are `exact`.
    """

    energy: np.ndarray
    height: np.ndarray
    exact: bool

    __repr__ = show.text


def barrier(
    memory: AbstractMemory,
    a: Shaped[ArrayLike, "*shape"],
    b: Shaped[ArrayLike, "*shape"],
    key: Key | None = None,
    *,
    exact: bool | None = None,
    tries: int | None = None,
    images: int = 33,
    max_steps: int = 2000,
    progress: bool = True,
) -> Barrier:
    r"""Find the pass between two states, and a path over it.

    ```python
    found = am.analysis.barrier(memory, a, b)
    found.forward, found.backward, found.saddle
    am.plots.barrier(found)
    ```

    **Bits, and units of q values.** Up to $2^{16}$ states (16 bits), all $q^D$ are enumerated: the
    pass is exact, and the path a shortest one of those over it. Of more an upper bound is found: a
    beam search over the paths that change only what differs, from both ends, then detours by
    waypoints beside the highest state of the best path.

    **Reals.** Both ends are first recalled to their minima. Strings of `images` states come to rest
    between them (the simplified string method), the straight one and others that bend aside; of
    each the highest peaks are refined by Newton's method, and the eigenvalues of the Hessian are
    looked at. Of those whose saddle has index 1 the lowest pass is taken.

    **Arguments:**

    - `memory`: a memory whose states are arrays: bits, units of several values, or free reals.
    - `a`, `b`: two different states; of reals in or near two different minima.
    - `key`: for what is tried at random; `jax.random.key(0)` if not given.
    - `exact`: of bits and values, whether to enumerate all states; `None` does up to $2^{16}$ of
      them, and $2^{20}$ are the most.
    - `tries`: of bits and values how many detours are tried, 32 by default; of reals how many strings, 4.
    - `images`: how many states a string of reals has, at least 5.
    - `max_steps`: how many steps a string takes at most.
    - `progress`: whether to show a progress bar.

    **Returns:** a `Barrier`.

    **Raises:** `TypeError` for a memory whose states are no arrays, or stay in a box or on a
    sphere; `ValueError` for states of another shape, two equal states or two of one minimum, a real
    state whose recall does not converge, energies that are not finite, `exact` for more than
    2^20 states or for reals, and more than 4,096 real units.

    **Reference:** E, Ren and Vanden-Eijnden 2007 (J. Chem. Phys. 126, 164103).
    """  # noqa: E501
    memory, first, last, key = _checked(memory, a, b, key)
    if runs.is_finite(memory):
        tries = checks.integer(32 if tries is None else tries, 0, "barrier: tries")
        exact = _enumerate(memory, first.size, exact)
        return _of_units(memory, first, last, exact, tries, key, progress)
    if exact:
        raise ValueError(
            "barrier: exact must be of bits or values; real states came. Leave it out."
        )
    tries = checks.integer(4 if tries is None else tries, 1, "barrier: tries")
    checks.integer(images, 5, "barrier: images")
    checks.integer(max_steps, 1, "barrier: max_steps")
    return _of_reals(memory, first, last, key, (tries, images, max_steps), progress)


def _checked(
    memory: AbstractMemory, a: ArrayLike, b: ArrayLike, key: Key | None
) -> tuple[AbstractMemory, np.ndarray, np.ndarray, Key]:
    where = "barrier"
    memory = runs.check_memory(memory, where)
    if not runs.is_finite(memory):
        runs.check_reals(memory, where, free=True)
    key = jr.key(0) if key is None else key
    checks.key(key, f"{where}: key")
    first, last = (
        np.asarray(runs.state_of(memory, x, f"{where}: {n}")) for x, n in ((a, "a"), (b, "b"))
    )
    if first.shape != last.shape:
        raise ValueError(
            f"{where}: a and b must have one shape; {first.shape} and {last.shape} came."
        )
    if (first == last).all():
        raise ValueError(f"{where}: a and b must be two states; they are equal.")
    return memory, first, last, key


# -- units of finitely many values -------------------------------------------------------------


def _enumerate(
    memory: AbstractMemory, size: int, exact: bool | None, where: str = "barrier"
) -> bool:
    """Whether all states are enumerated."""
    q = hypercube.values_of(memory)
    if exact and q**size > hypercube.LARGEST:
        raise ValueError(
            f"{where}: exact takes at most {hypercube.LARGEST:,} states, 20 units of two values; "
            f"{size} units of {q} came. Leave it out: an upper bound is found."
        )
    return q**size <= hypercube.ENUMERATED if exact is None else exact


def _of_units(
    memory: AbstractMemory,
    a: np.ndarray,
    b: np.ndarray,
    exact: bool,
    tries: int,
    key: Key,
    progress: bool,
) -> Barrier:
    if exact:
        energies = hypercube.all_energies(memory, a.shape)
        path = hypercube.exact_pass(memory, a, b, energies)
    else:
        seed = int(jr.randint(key, (), 0, 2**31 - 1))
        path = hypercube.found_pass(memory, a, b, tries, seed, progress)
    energy = None if path is None else runs.energies(memory, path)
    if path is None or energy is None or not np.isfinite(energy).all():
        raise ValueError(
            "barrier: the energies on a path must be finite; every path that was looked at passes "
            "NaN or infinity. Look for a division by zero in the energy."
        )
    top = int(energy.argmax())
    up, down = float(energy[top] - energy[0]), float(energy[top] - energy[-1])
    return Barrier(path, energy, up, down, path[top], -1, float("nan"), exact)


# -- reals ------------------------------------------------------------------------------------


def _minima(memory: AbstractMemory, ends: Array, key: Key) -> Array:
    """Where recalls from both ends come to rest."""
    x, rest = runs.recall_all("barrier", memory, ends, key)
    if not rest.all():
        raise ValueError(
            "barrier: a and b must lie at minima; a recall from one of them does not converge. "
            "Recall them with more steps, or another method, before."
        )
    if np.abs(x[0] - x[1]).max() <= 0.01 * np.abs(x).max():
        raise ValueError(
            "barrier: a and b must lie at two minima; recalls from both end in one. "
            "am.analysis.fixed_points finds the minima of a memory."
        )
    return jnp.asarray(x)


def _of_reals(
    memory: AbstractMemory,
    a: np.ndarray,
    b: np.ndarray,
    key: Key,
    sizes: tuple[int, int, int],
    progress: bool,
) -> Barrier:
    (tries, images, limit), shape = sizes, a.shape
    if a.size > MOST_UNITS:
        raise ValueError(
            f"barrier: real states must have at most {MOST_UNITS} units, for the Hessian; "
            f"{a.size} came."
        )
    ends = _minima(memory, jnp.asarray(np.stack([a, b])), key)
    first, last = checks.widen((ends[0].reshape(-1), ends[1].reshape(-1)))
    stored = runs.stored(memory, None, shape, "barrier")
    rows = None if stored is None else stored.reshape(len(stored), -1).astype(first.dtype)
    start = string.first_strings(first, last, rows, images, tries, key)
    steps = jnp.asarray(limit, jnp.int32)
    found = []
    with bars.bar(tries, progress) as bar:
        for one in start:
            found.append(np.asarray(string.relaxed_strings(memory, one[None], shape, steps))[0])
            bar.update()
    strings = np.stack(found)
    energy = runs.energies(memory, strings.reshape(-1, *shape)).reshape(tries, images)
    good = np.isfinite(energy).all(1)
    if not good.any():
        raise ValueError(
            "barrier: the energies on a path must be finite; NaN or infinity came on every one. "
            "Where the energy is flat or infinite between two supports there is no pass."
        )
    saddle = string.saddle_of(memory, strings[good], energy[good], shape)
    path = saddle.images.copy()
    path[saddle.place] = saddle.x
    path = path.reshape(images, *shape)
    energy = runs.energies(memory, path)
    top = float(energy[saddle.place])
    x = path[saddle.place]
    up, down = top - float(energy[0]), top - float(energy[-1])
    return Barrier(path, energy, up, down, x, saddle.index, saddle.gradient, False)


# -- several states ---------------------------------------------------------------------------


def passes(
    memory: AbstractMemory,
    states: Shaped[ArrayLike, "M *shape"],
    key: Key | None = None,
    *,
    exact: bool | None = None,
    tries: int | None = None,
    progress: bool = True,
) -> Passes:
    r"""Find the passes between all pairs of several states: what a disconnectivity tree is made of.

    ```python
    table = am.analysis.fixed_points(memory, 500, key)
    am.plots.disconnectivity(am.analysis.passes(memory, table.x))
    ```

    A pass between two states is never higher than the passes by way of a third:
    $h_{ij} \le \max(h_{ik}, h_{kj})$.

    **Arguments:**

    - `memory`, `key`, `exact`, `tries`, `progress`: see `barrier`, which finds each pass.
    - `states`: two states or more; of reals in different minima.

    **Returns:** a `Passes`.

    **Raises:** what `barrier` raises.

    **Reference:** Becker and Karplus 1997 (J. Chem. Phys. 106, 1495).
    """
    memory = runs.check_memory(memory, "passes")
    xs = runs.states_of(memory, states, "passes: states")
    if len(xs) < 2:
        raise ValueError(f"passes: states must be at least two; {len(xs)} came.")
    energy, M = runs.energies(memory, xs), len(xs)
    height = np.full((M, M), np.inf)
    enumerated = runs.is_finite(memory) and _enumerate(memory, xs[0].size, exact, "passes")
    pairs = [(i, j) for i in range(M) for j in range(i + 1, M)]
    if enumerated:
        height = _exact_heights(memory, np.asarray(xs))
    with bars.bar(0 if enumerated else len(pairs), progress) as bar:
        for i, j in () if enumerated else pairs:
            own = None if key is None else jr.fold_in(key, i * M + j)
            options = {"exact": exact, "tries": tries, "progress": False}
            found = barrier(memory, xs[i], xs[j], own, **options)
            height[i, j] = height[j, i] = found.energy[0] + found.forward
            bar.update()
    for k in range(M):  # a way round by another state
        height = np.minimum(height, np.maximum(height[:, k : k + 1], height[k : k + 1]))
    np.fill_diagonal(height, energy)
    return Passes(energy, height, enumerated)


def _exact_heights(memory: AbstractMemory, xs: np.ndarray) -> np.ndarray:
    energies, q = hypercube.all_energies(memory, xs.shape[1:]), hypercube.values_of(memory)
    codes = [hypercube.code_of(hypercube.as_digits(memory, x), q) for x in xs]
    return np.stack([hypercube.heights_from(energies, code)[codes] for code in codes])
