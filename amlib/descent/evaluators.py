"""Energies at single-bit flips, in three forms that visit the same states.

- `Generic` evaluates the energy in full at each flip. It is right for every energy: the oracle.
- `Incremental` carries the values that are affine in the bits, and adds one row per flip.
- `Compact` keeps rows of small integers as int8, and carries the centres of log-sum-exps instead of
  computing their maxima (see `stabilizers`).

A loop over flips knows only `AbstractFlips`: `start` at a state, then `flip` after `flip`. That is
the seam for another form. `plan` decides which form an energy can take.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, PyTree

from amlib._types import EnergyFn, hook
from amlib.descent.jaxprs import Equation, Program
from amlib.descent.stabilizers import Factor, Stabilizer, monotone_head

_LARGEST_PRODUCT_STEP = 3.0  # cosh and sinh of more lose too many digits to each other
_MARGIN = 1e-3  # relative: a hundred times the rounding of the product form

BitRows: TypeAlias = tuple[tuple[Array, Array], ...]
"""Per carried value `(raw, scale)`; rows of all bits have a leading axis of `D` or 1."""


class Carry(NamedTuple):
    """What a recall carries from visit to visit: affine values, and centres of exponentials."""

    values: tuple[Array, ...]
    centres: tuple[Array, ...]


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
    def flip(self, x: Array, carry: Carry, row: BitRows, s: Array) -> tuple[Array, Carry]:
        """The energy and the carried values after the bit of `row` goes from `s` to `-s`.

        `x` is the state after the flip; it is read only if `uses_state`.
        """

    def row(self, i: Array) -> BitRows:
        """The rows of bit `i`: contiguous reads."""

        def pick(a: Array) -> Array:
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

    def flip(self, x: Array, carry: Carry, row: BitRows, s: Array) -> tuple[Array, Carry]:
        del row, s
        return self._as_out(self._energy(x)), carry

    def proves_fixed(self, x: Array, bits: Array) -> None:
        del x, bits


class AbstractCarried(AbstractFlips):
    """One row per flip is added to what is carried, and the head gives the energy.

    **Arguments:**

    - `program`, `carried`, `head`: the energy, cut where affine values feed the rest.
    - `rows`: the rows of the carried values.
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
    ):
        super().__init__(D, out, uses_state)
        self.rows = rows
        self._program, self._carried, self._head = program, tuple(carried), list(head)

    def _moved(self, carry: Carry, row: BitRows, s: Array) -> tuple[Array, ...]:
        return tuple(
            add_row(value, raw.astype(value.dtype), scale.astype(value.dtype), s)
            for value, (raw, scale) in zip(carry.values, row, strict=True)
        )


def add_row(value: Array, raw: Array, scale: Array, s: Array) -> Array:
    """`value - s * scale * raw`, in integers modulo 2^n: an unsigned `s` could not be -1."""
    if jnp.issubdtype(value.dtype, jnp.integer):
        return jnp.where(s > 0, value - scale * raw, value + scale * raw)
    return value - s.astype(value.dtype) * scale * raw


class Incremental(AbstractCarried):
    """Rows as they are; the head is evaluated as it is written."""

    def start(self, x: Array) -> tuple[Array, Carry]:
        program = self._program
        wanted = [program.out, *self._carried]
        e, *values = program.evaluate(program.equations, {program.x: x}, wanted)
        return self._as_out(e), Carry(tuple(values), ())

    def flip(self, x: Array, carry: Carry, row: BitRows, s: Array) -> tuple[Array, Carry]:
        program, values = self._program, self._moved(carry, row, s)
        known = {program.x: x} | dict(zip(self._carried, values, strict=True))
        (e,) = program.evaluate(self._head, known, [program.out])
        return self._as_out(e), Carry(values, ())

    def proves_fixed(self, x: Array, bits: Array) -> None:
        del x, bits


class Compact(AbstractCarried):
    """Rows are int8, and each exponential sum is centred on its own last log-sum-exp."""

    exact = False

    def __init__(self, *args: Any, stabilizers: Mapping[Stabilizer, Factor]):
        super().__init__(*args)
        self._stabilizers = dict(stabilizers)
        maxima = {t.c for t in self._stabilizers}
        self._after_centres = [e for e in self._head if e.outs[0] not in maxima]

    def start(self, x: Array) -> tuple[Array, Carry]:
        program, ts = self._program, tuple(self._stabilizers)
        wanted = [program.out, *self._carried, *(t.total for t in ts), *(t.c for t in ts)]
        e, *rest = program.evaluate(program.equations, {program.x: x}, wanted)
        n, m = len(self._carried), len(ts)
        totals, maxima = rest[n : n + m], rest[n + m :]
        return self._as_out(e), Carry(tuple(rest[:n]), _next_centres(maxima, totals))

    def flip(self, x: Array, carry: Carry, row: BitRows, s: Array) -> tuple[Array, Carry]:
        program, values = self._program, self._moved(carry, row, s)
        known = {program.x: x} | dict(zip(self._carried, values, strict=True))
        known |= {t.c: c for t, c in zip(self._stabilizers, carry.centres, strict=True)}
        wanted = [program.out, *(t.total for t in self._stabilizers)]
        e, *totals = program.evaluate(self._after_centres, known, wanted)
        return self._as_out(e), Carry(values, _next_centres(carry.centres, totals))

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
        program, (raw, scale) = self._program, self.rows[0]
        head = monotone_head(program, self._head, t)
        if head is None or raw.ndim != 2:
            return None
        e, carry = self.start(x)
        (centre,) = carry.centres
        values = dict(zip(self._carried, carry.values, strict=True))
        (v,) = program.evaluate(self._head, values, [t.v])
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


def _next_centres(centres: Sequence[Array], totals: Sequence[Array]) -> tuple[Array, ...]:
    """Centre each exponential sum on its own log-sum-exp; keep the old centre if that fails."""
    moved = (c + jnp.log(total) for c, total in zip(centres, totals, strict=True))
    return tuple(
        jnp.where(jnp.isfinite(new), new, old) for new, old in zip(moved, centres, strict=True)
    )


Loop: TypeAlias = Callable[[AbstractFlips], tuple[Any, Array]]
"""A loop over flips: its result, and whether every energy that it met was finite."""
