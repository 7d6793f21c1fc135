"""Energies at single-bit flips, in three forms that visit the same states.

- `Generic` evaluates the energy in full at each flip. It is right for every energy: the oracle.
- `Incremental` carries the values that are affine in the bits, and adds one row per flip.
- `Compact` keeps rows of small integers as int8, and in each log-sum-exp follows a leader instead
  of computing the maximum (see `stabilizers`).

A loop over flips knows only `AbstractFlips`: `start` at a state, then `flip` after `flip`. That is
the seam for another form. `plan` decides which form an energy can take.
"""

import abc
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, PyTree

from amlib import _shards as shards
from amlib._types import EnergyFn, hook
from amlib.descent.carried import AbstractRows, Carried, Dense
from amlib.descent.jaxprs import Equation, Program, Value
from amlib.descent.lanes import any_lane
from amlib.descent.neighbours import Summands
from amlib.descent.stabilizers import Factor, Stabilizer, monotone_head, most_above

_LARGEST_PRODUCT_STEP = 3.0  # cosh and sinh of more lose too many digits to each other
_MARGIN = 1e-3  # relative: a hundred times the rounding of the product form

BitRows: TypeAlias = tuple[AbstractRows, ...]
"""For each carried value the rows of all bits, or the row of one."""

Seen: TypeAlias = tuple[tuple[Value, ...], ...]
"""For each carried value the bits that its row reads: their indices, or what they are."""


class Carry(NamedTuple):
    """What a recall carries from visit to visit: values, and the leaders of exponentials."""

    values: tuple[Carried, ...]
    leaders: tuple[Array, ...]


class AbstractFlips(abc.ABC):
    """Evaluates an energy at single-bit flips of a state in {-1,+1}^D.

    **Arguments:**

    - `D`: the number of bits.
    - `out`: the dtype of the energy.
    - `uses_state`: whether `flip` reads the state; a loop need not make it otherwise.
    """

    exact: ClassVar[bool] = True
    """Whether a value that is not finite is the energy's own. A form of which this is not true may
    overflow where the energy does not: the loop then marks its result, and another form runs."""

    rows: BitRows = ()

    def __init__(self, D: int, out: Any, uses_state: bool):
        self.D, self.out, self.uses_state = D, out, uses_state

    @abc.abstractmethod
    def start(self, x: Array) -> tuple[Array, Carry]:
        """The energy at `x`, and the carried values, evaluated afresh."""

    @abc.abstractmethod
    def flip(
        self, x: Array, carry: Carry, row: BitRows, s: Array, seen: Seen
    ) -> tuple[Array, Carry]:
        """The energy and the carried values after the bit of `row` goes from `s` to `-s`.

        `x` is the state after the flip; it is read only if `uses_state`. `seen` are the values of
        the bits that the row `reads`, before it.
        """

    def reads(self, row: BitRows) -> Seen:
        """The indices of the bits that a row reads."""
        return tuple(r.reads() for r in row)

    @hook
    def idle(self) -> Bool[Array, " D"]:
        """The bits that are known to change nothing that the energy is made of: none by default."""
        return jnp.zeros(self.D, bool)

    @hook
    def change(self, row: BitRows, seen: Seen, s: Array) -> Array | None:
        """What a flip adds to the energy, where that is known better than as a difference of two.

        **Returns:** `None` in forms that know the energies alone.
        """
        del row, seen, s

    @hook
    def colours(self) -> Sequence[np.ndarray] | None:
        """All bits in groups that share no term; `None` where there is little to try at once."""
        return None

    @hook
    def try_groups(
        self,
        x: Array,
        groups: Sequence[np.ndarray],
        accept: Callable[[Array, Array, Any], Array],
        extra: PyTree[Array],
    ) -> tuple[Array, tuple[Array, Array], Array]:
        """Try the bits of each group at once, group after group, where there are `colours`.

        **Arguments:**

        - `x`: the state.
        - `groups`: bits in groups that share no term.
        - `accept`: whether moves are made, from zeros, the changes, and their entries of `extra`.
        - `extra`: arrays with an entry for each bit, group after group.

        **Returns:** the state; for each bit whether it turned, and the energy then; and the energy
        at the end, which costs less than those of all bits.
        """
        del x, groups, accept, extra
        raise NotImplementedError(f"{type(self).__name__} has no colours")

    def row(self, i: Array) -> BitRows:
        """The rows of bit `i`: contiguous reads."""

        def pick(a: Value) -> Array:
            a = jnp.asarray(a)
            return lax.dynamic_index_in_dim(a, i, keepdims=False) if a.shape[0] > 1 else a[0]

        return jax.tree.map(pick, self.rows)

    @hook
    def learn(self, x: Array, known: PyTree = None) -> PyTree:
        """What to know of the neighbourhood of `x` before flips are tried there.

        **Arguments:**

        - `x`: the state; in the first call of a loop the one that it starts from.
        - `known`: what was known before, if anything was.

        **Returns:** arrays for `using`; by default there is nothing to know.
        """
        del x, known

    @hook
    def using(self, known: PyTree) -> "AbstractFlips":
        """The form that tries flips with what `learn` returned: by default this one."""
        del known
        return self

    @abc.abstractmethod
    def proves_fixed(self, x: Array, bits: Array) -> Array | None:
        """Whether it is certain, without an energy per flip, that no flip of `bits` lowers it.

        **Returns:** `None` where this form has no such proof.
        """

    def _as_out(self, e: Array) -> Array:
        return lax.convert_element_type(e, self.out)


class Generic(AbstractFlips):
    """The full energy at each flip."""

    def __init__(self, energy: EnergyFn, D: int, out: Any):
        super().__init__(D, out, uses_state=True)
        self._energy = energy

    def start(self, x: Array) -> tuple[Array, Carry]:
        return self._as_out(self._energy(x)), Carry((), ())

    def flip(
        self, x: Array, carry: Carry, row: BitRows, s: Array, seen: Seen
    ) -> tuple[Array, Carry]:
        del row, s, seen
        return self._as_out(self._energy(x)), carry

    def proves_fixed(self, x: Array, bits: Array) -> None:
        del x, bits


class AbstractCarried(AbstractFlips):
    """One row per flip is added to what is carried, and the head gives the energy.

    **Arguments:**

    - `program`, `carried`, `head`: the energy, cut where affine values feed the rest.
    - `rows`: the rows of the carried values.
    - `summands`: the terms of those that are carried in twice the precision.
    """

    def __init__(
        self,
        program: Program,
        carried: Sequence[int],
        head: Sequence[Equation],
        rows: BitRows,
        D: int,
        out: Any,
        uses_state: bool,
        summands: Mapping[int, Summands],
    ):
        super().__init__(D, out, uses_state)
        self._summands = summands
        self.rows = rows
        self._program, self._carried, self._head = program, tuple(carried), list(head)

    def _begun(self, values: Sequence[Array], x: Array) -> tuple[Carried, ...]:
        """What is carried from a state on."""
        sums = self._summands
        return tuple(
            sums[v].total(x) if v in sums else value
            for v, value in zip(self._carried, values, strict=True)
        )

    def _flipped(
        self, carry: Carry, row: BitRows, s: Array, seen: Seen
    ) -> tuple[tuple[Carried, ...], dict[int, Array]]:
        """What is carried after a flip, and the values by number."""
        moved = tuple(
            r.flipped(value, other, s)
            for r, value, other in zip(row, carry.values, seen, strict=True)
        )
        shapes = (self._program.aval[v].shape for v in self._carried)
        values = (r.value(m).reshape(n) for r, m, n in zip(row, moved, shapes, strict=True))
        return moved, dict(zip(self._carried, values, strict=True))

    def idle(self) -> Bool[Array, " D"]:
        none = jnp.zeros(self.D, bool)
        if self.uses_state or not self.rows:
            return none
        masks = (rows.idle() for rows in self.rows)
        return functools.reduce(jnp.logical_and, masks, ~none)

    @hook
    def start(self, x: Array) -> tuple[Array, Carry]:
        program = self._program
        wanted = [program.out, *self._carried]
        e, *values = program.evaluate(program.equations, {program.x: x}, wanted)
        begun = self._begun(values, x)
        if self._summands:  # as after a flip: sums as they are written have noise of their own
            pairs = zip(self.rows, begun, values, strict=True)
            own = [r.value(c).reshape(v.shape) for r, c, v in pairs]
            known = dict(zip(self._carried, own, strict=True))
            (e,) = program.evaluate(self._head, {program.x: x} | known, [program.out])
        return self._as_out(e), Carry(begun, ())

    @hook
    def flip(
        self, x: Array, carry: Carry, row: BitRows, s: Array, seen: Seen
    ) -> tuple[Array, Carry]:
        program = self._program
        moved, values = self._flipped(carry, row, s, seen)
        (e,) = program.evaluate(self._head, {program.x: x} | values, [program.out])
        return self._as_out(e), Carry(moved, ())


class Incremental(AbstractCarried):
    """Rows as they are; the head is evaluated as it is written."""

    def proves_fixed(self, x: Array, bits: Array) -> None:
        del x, bits


class Compact(AbstractCarried):
    """Rows are int8, and each sum of exponentials is centred on one of them, the leader."""

    exact = False

    def __init__(self, *args: Any, stabilizers: Mapping[Stabilizer, Factor]):
        super().__init__(*args)
        self._stabilizers, program = dict(stabilizers), self._program
        known = {program.x, *self._carried}
        self._to_exponents = program.leading_to(self._head, [t.v for t in stabilizers], known)
        maxima = {t.c for t in stabilizers}
        self._after_centres = [e for e in self._head if e.outs[0] not in maxima]
        self._most = [math.exp(most_above(program, t)) for t in stabilizers]

    def start(self, x: Array) -> tuple[Array, Carry]:
        (e, leaders), values = self._with_maxima(self._program.equations, {self._program.x: x})
        return e, Carry(self._begun(values, x), leaders)

    def flip(
        self, x: Array, carry: Carry, row: BitRows, s: Array, seen: Seen
    ) -> tuple[Array, Carry]:
        program = self._program
        moved, values = self._flipped(carry, row, s, seen)
        known = {program.x: x} | values
        exponents = program.evaluate(
            self._to_exponents, self._apart(known), [t.v for t in self._stabilizers]
        )
        centres = map(shards.entry, exponents, carry.leaders)
        centred = known | {t.c: c for t, c in zip(self._stabilizers, centres, strict=True)}
        wanted = [program.out, *(t.total for t in self._stabilizers)]
        e, *totals = program.evaluate(self._after_centres, centred, wanted)
        near = jnp.ones((), bool)
        for total, most in zip(totals, self._most, strict=True):
            near &= (total > 0.5) & (total <= most)  # not if it is no number
        as_is = self._as_out(e), carry.leaders

        def anew() -> tuple[Array, tuple[Array, ...]]:
            found, _ = self._with_maxima(self._head, known)
            return jax.tree.map(lambda a, b: jnp.where(near, a, b), as_is, found)

        if self._stabilizers:
            as_is = lax.cond(any_lane(~near), anew, lambda: as_is)
        e, leaders = as_is
        return e, Carry(moved, leaders)

    def _apart(self, known: Mapping[int, Array]) -> Mapping[int, Value]:
        """What exponents follow from, but for the compiler other values than it.

        It writes out to memory what is used twice: here all exponents, for the sake of one.
        """
        used = {i for e in self._to_exponents for i in e.ins} | {t.v for t in self._stabilizers}
        const = self._program.const
        given = {i: known[i] if i in known else const[i] for i in used if i in known or i in const}
        return lax.optimization_barrier(given)

    def _with_maxima(
        self, equations: Sequence[Equation], known: Mapping[int, Array]
    ) -> tuple[tuple[Array, tuple[Array, ...]], tuple[Array, ...]]:
        """The energy as it is written and where each maximum is, and the carried values."""
        ts, n = self._stabilizers, len(self._carried)
        wanted = [self._program.out, *self._carried, *(t.v for t in ts), *(t.c for t in ts)]
        e, *rest = self._program.evaluate(equations, known, wanted)
        values, exponents, maxima = rest[:n], rest[n : n + len(ts)], rest[n + len(ts) :]
        return (self._as_out(e), tuple(map(_place, exponents, maxima))), tuple(values)

    def proves_fixed(self, x: Array, bits: Array) -> Array | None:
        r"""Whether it is certain, without an exponential per flip, that no flip lowers the energy.

        Where the energy depends on the patterns only through $S = \sum_\mu e^{v_\mu - c}$, and
        bit $i$ moves every exponent by $\pm\ell$, its flip gives

        $$S_i = \cosh(\ell)\, S - s_i \sinh(\ell) \sum_\mu e^{v_\mu - c} \xi_{\mu i}$$

        so one matrix product serves all flips. Rounding is covered by a margin around $S_i$; since
        the energy is a monotone function of $S$, its least value there is at one of the two ends.

        **Returns:** `None` where the energy has no such form.
        """
        if len(self._stabilizers) != 1 or len(self._carried) != 1 or self.uses_state:
            return None
        ((t, factor),) = self._stabilizers.items()
        program, dense = self._program, self.rows[0]
        head = monotone_head(program, self._head, t)
        if head is None or not isinstance(dense, Dense) or dense.raw.ndim != 2:
            return None
        raw, scale = dense.raw, dense.scale
        e, carry = self.start(x)
        values = dict(zip(self._carried, carry.values, strict=True))
        (v,) = program.evaluate(self._to_exponents, values, [t.v])
        centre = shards.entry(v, carry.leaders[0])
        weights = jnp.exp(v - centre).astype(jnp.float32)
        total = weights.sum()
        size = jnp.abs(raw[0, 0]).astype(jnp.float32)
        step = factor.signed * scale.astype(jnp.float32) * size
        # In full precision: fast matrix units would round the weights by more than the margin.
        lean = jnp.dot(raw.astype(jnp.float32), weights, precision=lax.Precision.HIGHEST) / size
        flipped = jnp.cosh(step) * total - x.reshape(-1).astype(jnp.float32) * jnp.sinh(step) * lean

        def energy(s: Array) -> Array:
            known = {t.total: s.astype(v.dtype), t.c: centre}
            return program.evaluate(head, known, [program.out])[0]

        at_least = jnp.minimum(
            jax.vmap(energy)(flipped * (1 - _MARGIN)), jax.vmap(energy)(flipped * (1 + _MARGIN))
        )
        exact = factor.uniform & (jnp.abs(raw) == jnp.abs(raw[0, 0])).all()
        return exact & (jnp.abs(step) <= _LARGEST_PRODUCT_STEP).all() & (at_least > e)[bits].all()


def _place(v: Array, c: Array) -> Array:
    """Where `c` is in `v`: the first place. A minimum of integers costs less than an `argmax`."""
    at = jnp.arange(v.size, dtype=jnp.int32)
    return jnp.min(jnp.where(v.reshape(-1) == c, at, v.size - 1))


Loop: TypeAlias = Callable[[AbstractFlips], tuple[Any, Array]]
"""A loop over flips: its result, and whether every energy that it met was finite."""
