"""The form of energies that are a sum of terms of few bits: a flip costs the terms it touches.

Bits that share no term do not see one another's flips. They are sorted into *colours*: all bits of
a colour can be tried at once, with the same result as one after the other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import networkx as nx
import numpy as np
from jax import lax
from jaxtyping import Array, PyTree

from amlib._checks import is_concrete
from amlib._numbers import BOUND
from amlib.descent.carried import AbstractRows, Carried
from amlib.descent.evaluators import AbstractCarried, BitRows, Seen
from amlib.descent.jaxprs import Equation, Program, Value
from amlib.descent.neighbours import Neighbours
from amlib.descent.pairs import add_exactly, sum_exactly
from amlib.descent.terms import Terms

_LINEAR = frozenset(
    """neg mul div add add_any sub convert_element_type reshape squeeze broadcast_in_dim
    stop_gradient copy copy_p""".split()
)

MOST_COLOURS = 256
"""Beyond as many colours there is little to try at once."""


def is_linear(program: Program, head: Sequence[Equation], carried: Sequence[int]) -> bool:
    """Whether the energy is a weighted sum of carried values of one float each."""
    avals = [program.aval[v] for v in carried]
    if not all(a.size == 1 and jnp.issubdtype(a.dtype, jnp.floating) for a in avals):
        return False
    return all(is_linear_step(program, e) for e in head)


def is_linear_step(program: Program, e: Equation) -> bool:
    """Whether an equation is linear in numbers, one each, that depend on the state."""
    if e.name not in _LINEAR or any(program.size(v) != 1 for v in (*e.ins, *e.outs)):
        return False
    deps = program.depends(e)
    if not all(jnp.issubdtype(program.aval[v].dtype, jnp.floating) for v in (*deps, *e.outs)):
        return False
    if e.name == "mul":
        return len(deps) == 1 and e.ins.count(deps[0]) == 1
    return e.name != "div" or deps == [e.ins[0]]


def largest_of_head(
    program: Program, head: Sequence[Equation], largest: Mapping[int, Any]
) -> dict[int, Any]:
    """How large what a linear head makes may become, from how large what is carried may be."""
    found = dict(largest)
    for e in head:
        dtype = program.aval[e.outs[0]].dtype
        sizes = [_size(found[i], dtype) for i in e.ins if i in found]
        fixed = {i: _size(program.const[i], dtype) for i in e.ins if i in program.const}
        if e.name == "div" and sizes:
            with np.errstate(all="ignore"):
                found[e.outs[0]] = sizes[0] / fixed[e.ins[1]]
            continue
        bounds = [_size(BOUND, dtype) if i in program.given else s for i, s in fixed.items()]
        with np.errstate(all="ignore"):
            product = e.name == "mul" and sizes
            found[e.outs[0]] = sizes[0] * bounds[0] if product else sum([*sizes, *bounds])
    return {v: size for v, size in found.items() if v not in largest}


def _size(value: Any, dtype: Any) -> Any:
    """The absolute value of one element; known now if that is: then no program asks for it."""
    with np.errstate(all="ignore"):
        if is_concrete(value):
            return np.abs(np.reshape(np.asarray(value), ()).astype(dtype))
    return jnp.abs(jnp.reshape(value, ()).astype(dtype))


def find_scaled(program: Program, terms: Mapping[int, Terms]) -> set[int]:
    """Single sums that are weighted by numbers: what is weighted can be carried more exactly.

    A sum of spins is a whole number, and two such are equal or not; of tenths that is not so.
    """
    scaled: set[int] = set()
    for e in program.equations:
        if is_linear_step(program, e) and all(v in terms for v in program.depends(e)):
            weighted = e.name in ("mul", "div") or scaled.intersection(e.ins)
            scaled.update(e.outs if weighted else ())
    return scaled


class Separable(AbstractCarried):
    """The energy is a weighted sum of what is carried, so that its change is known by itself.

    **Arguments:**

    - `pairs`: `(P, 2)`, bits that share a term.
    """

    def __init__(self, *args: Any, pairs: np.ndarray):
        super().__init__(*args)
        self._pairs = pairs
        self._colours: list[np.ndarray] | None = None

    def proves_fixed(self, x: Array, bits: Array) -> None:
        """All flips are compared as soon as that."""
        del x, bits

    def change(self, row: BitRows, seen: Seen, s: Array) -> Array:
        """What a flip adds to the energy."""
        changes = [r.change(other, s) for r, other in zip(row, seen, strict=True)]
        program, known = self._program, dict(zip(self._carried, changes, strict=True))
        none = jnp.zeros((), self.out)
        for e in self._head:
            fixed = [jnp.reshape(program.const[i], ()) for i in e.ins if i in program.const]
            ins = [known.get(i, none) for i in e.ins]
            if e.name in ("mul", "div"):
                (dep,) = (known[i] for i in e.ins if i in known)
                new = dep * fixed[0] if e.name == "mul" else dep / fixed[0]
            elif e.name in ("add", "add_any"):
                new = ins[0] + ins[1]
            elif e.name == "sub":
                new = ins[0] - ins[1]
            else:
                new = -ins[0] if e.name == "neg" else ins[0]
            known[e.outs[0]] = new.astype(program.aval[e.outs[0]].dtype)
        return known[program.out]

    # -- colours --------------------------------------------------------------------------------

    def colours(self) -> Sequence[np.ndarray] | None:
        """See `AbstractFlips`."""
        if self._colours is None:
            self._colours = colour(self._pairs, self.D)
        return self._colours if len(self._colours) <= MOST_COLOURS else None

    def try_groups(
        self,
        x: Array,
        groups: Sequence[np.ndarray],
        accept: Callable[[Array, Array, Any], Array],
        extra: PyTree[Array],
    ) -> tuple[Array, tuple[Array, Array], Array]:
        """See `AbstractFlips`."""
        program, flat = self._program, x.reshape(-1)
        values = program.evaluate(program.equations, {program.x: x}, self._carried)
        totals = [_Running(v) for v in self._begun(values, x)]
        # Bits in the order of their groups: a group is then one piece of the state.
        first = np.concatenate(groups)
        order = np.concatenate([first, np.setdiff1d(np.arange(self.D), first)])
        place = np.empty(self.D, np.int32)
        place[order] = np.arange(self.D, dtype=np.int32)
        flat, start, kept = flat[order], 0, []
        for g in groups:
            rows = tuple(_of_group(r, g, place) for r in self.rows)
            end = start + len(g)
            s = flat[start:end]
            seen = jax.tree.map(lambda at, flat=flat: _read(flat, at), self.reads(rows))
            change = self.change(rows, seen, s)
            own = jax.tree.map(lambda a, i=start, j=end: a[i:j], extra)
            made = accept(jnp.zeros_like(change), change, own)
            flat = flat.at[start:end].set(jnp.where(made, -s, s))
            kept.append(made)
            for total, r, other in zip(totals, rows, seen, strict=True):
                total.add(r, other, s, made)
            start = end

        def energy(totals: Sequence[Array]) -> Array:
            known = dict(zip(self._carried, totals, strict=True))
            known = {v: t.reshape(program.aval[v].shape) for v, t in known.items()}
            return program.evaluate(self._head, known, [program.out])[0].reshape(())

        energies = jax.vmap(energy)([t.along() for t in totals])
        last = energy([t.end() for t in totals])
        record = jnp.concatenate(kept), self._as_out(energies)
        return flat[place].reshape(x.shape), record, self._as_out(last)


def _read(flat: Array, at: Value) -> Array:
    """Some bits of a state; those of lanes of a `vmap` in turn: CPUs read batches slowly."""
    from_one = lambda flat: flat.at[at].get(mode="promise_in_bounds")
    read = jax.custom_batching.custom_vmap(from_one)

    @read.def_vmap
    def _(axis_size: int, in_batched: list[bool], flats: Array) -> tuple[Array, bool]:
        del axis_size, in_batched
        in_turn = lambda flats: lax.map(from_one, flats)
        return lax.platform_dependent(flats, cpu=in_turn, default=jax.vmap(from_one)), True

    return read(flat)


class _Running:
    """The sum of what is carried for one value and of the changes that were made, in order."""

    def __init__(self, start: Carried):
        self._precise = isinstance(start, tuple)
        self._start = jax.tree.map(lambda a: a.reshape(()), start)
        self._added: list[Carried] = []

    def add(self, row: AbstractRows, seen: tuple[Value, ...], s: Array, made: Array) -> None:
        """The changes of a group of bits, where they were made."""
        change: Carried = row.change(seen, s)
        if self._precise and isinstance(row, Neighbours):
            change = row.exact_change(seen, s)
        self._added.append(jax.tree.map(lambda a: jnp.where(made, a, 0), change))

    def _changes(self) -> Carried:
        return jax.tree.map(lambda *a: jnp.concatenate(a), *self._added)

    def along(self) -> Array:
        """The value after each bit."""
        if not self._precise:
            return self._start + jnp.cumsum(self._changes())
        return add_exactly(self._start, lax.associative_scan(add_exactly, self._changes()))[0]

    def end(self) -> Array:
        """The value after the last."""
        if not self._precise:
            return self._start + jnp.sum(self._changes())
        high, low = self._changes()
        pairs = add_exactly(sum_exactly(high), sum_exactly(low))
        return add_exactly(self._start, pairs)[0]


def _of_group(rows: AbstractRows, group: np.ndarray, place: np.ndarray) -> AbstractRows:
    """The rows of a group of bits, that read others where these are now."""
    own = jax.tree.map(lambda a: a[group] if a.shape[0] > 1 else a, rows)
    return own.moved(place)


def colour(pairs: np.ndarray, D: int) -> list[np.ndarray]:
    """Sort bits into few groups such that no pair is in one group.

    Greedily along a breadth-first search, which finds two colours wherever two are enough.
    """
    graph = nx.Graph()
    graph.add_nodes_from(range(D))
    graph.add_edges_from(pairs.tolist())
    found = nx.greedy_color(graph, strategy="connected_sequential_bfs")
    of = np.empty(D, np.int64)
    of[list(found)] = list(found.values())
    return [np.flatnonzero(of == c) for c in range(int(of.max(initial=0)) + 1)]
