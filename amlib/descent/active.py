r"""Flips of a log-sum-exp that evaluate the few exponentials that count.

Near a memory nearly all of $S = \sum_\mu e^{v_\mu}$ is a few patterns: all others together are
less than the rounding of the sum. This form finds those few at one state $\hat x$, the *active*
ones, and flips on their overlaps alone; the others it bounds. A flip moves each exponent by at most
$\ell$, so at a state $n$ bits away from $\hat x$ what was left out is at most

$$\sum_{\mu \notin A} e^{v_\mu(x)} \le e^{n \ell} \sum_{\mu \notin A} e^{v_\mu(\hat x)}$$

and the sum is at least its largest exponential, which is known. As long as the first is below half
a unit in the last place of the second, the energy is what another order of summation would give:
its own, but for rounding. The bound is checked at every flip, in a few operations. On the way to a
memory both sides grow alike, one step a flip, so one selection serves a whole recall, and a proof
of its end: neither time nor memory of a flip depends on the number of patterns.

Where the bound fails, or too many patterns count, the energy is NaN: the loops then go to another
form, see `AbstractFlips.exact`. Overlaps are integers here, and so exact however long they are
carried.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from amlib import _shards as shards
from amlib.descent.affine import Affine
from amlib.descent.carried import Dense
from amlib.descent.evaluators import AbstractFlips, BitRows, Carry, Seen
from amlib.descent.jaxprs import Equation, Program, Value
from amlib.descent.lanes import any_lane
from amlib.descent.products import matrix_of
from amlib.descent.rows import Rows
from amlib.descent.stabilizers import (
    Stabilizer,
    find_factor,
    find_stabilizers,
    head_of_sum,
    path_to,
)

# Patterns that a flip evaluates: a 64th of all, but at least a few memory lines of them, and at
# most so many that a flip takes a microsecond.
_SHARE, _FEWEST, _MOST = 64, 64, 1024
_ACTIVE_FROM = 1000  # patterns from which leaving most of them out pays for a second program


def capacity(K: int) -> int:
    """How many patterns of `K` a flip evaluates."""
    return min(K, max(_FEWEST, min(_MOST, K // _SHARE)))


class Overlaps(NamedTuple):
    """`h = weights @ value`: a carried value that is one product with bits in order.

    - `carried`: its number, and `operand` that of the value of the bits.
    - `weights`: (K, D), in the dtype that they are stored in.
    """

    carried: int
    operand: int
    weights: Array


class Structure(NamedTuple):
    """An energy that is a function of one sum of exponentials of scaled overlaps.

    - `exponents`: the equations from the overlaps to the exponents, element by element.
    - `after`: those from the sum and its centre to the energy.
    """

    program: Program
    overlaps: Overlaps
    exponents: list[Equation]
    stabilizer: Stabilizer
    after: list[Equation]


class Known(NamedTuple):
    """What is known of the neighbourhood of a state: the active patterns, and the others' bound.

    - `x`: the state, flat.
    - `table`: the active patterns, a row per bit.
    - `h`: their overlaps at `x`; `constants`: their elements of the constants of the exponents.
    - `real`: which of them are patterns, and not room left.
    - `ceiling`: the active exponents must have one as large for the others not to count at `x`.
    - `slack`: how far above that their largest one was at `x`; below zero the set is of no use.
    """

    x: Array
    table: Array
    h: Array
    constants: tuple[Array, ...]
    real: Array
    ceiling: Array
    slack: Array


def find_structure(
    analysis: Affine, carried: Sequence[int], head: list[Equation]
) -> Structure | None:
    """The structure that this form is for, decided by equations and shapes; `None` without it."""
    program = analysis.program
    if len(carried) != 1 or program.size(carried[0]) < _ACTIVE_FROM:
        return None
    found = find_stabilizers(program, head)
    if len(found) != 1:
        return None
    (t,) = found
    factor = find_factor(program, head, t.v, list(carried))
    after = head_of_sum(program, head, t)
    overlaps = _overlaps(analysis, carried[0])
    if factor is None or after is None or overlaps is None:
        return None
    exponents = path_to(program, head, factor, t.v)
    if not all(_is_elementwise(program, e) for e in exponents):
        return None
    return Structure(program, overlaps, exponents, t, after)


def _overlaps(analysis: Affine, carried: int) -> Overlaps | None:
    """One product of a constant with the bits, all of them, each once and in order."""
    program, e = analysis.program, analysis.producer[carried]
    deps = program.depends(e)
    if e.name != "dot_general" or len(deps) != 1 or deps[0] not in analysis.bitwise:
        return None
    side = 0 if e.ins[0] == deps[0] else 1
    (contract, batch), bits = e.params["dimension_numbers"], analysis.bitwise[deps[0]]
    if len(contract[side]) != bits.source.ndim or batch[0]:
        return None
    source = bits.source.transpose([int(a) for a in contract[side]]).reshape(-1)
    if source.size != analysis.D or (source != np.arange(analysis.D)).any():
        return None
    weights = jnp.asarray(program.stored(e.ins[1 - side]))
    return Overlaps(carried, deps[0], matrix_of(weights, tuple(map(int, contract[1 - side]))))


def _is_elementwise(program: Program, e: Equation) -> bool:
    """Whether elements stay where they are, in the order in which they lie in memory."""
    (dep,), out = program.depends(e), e.outs[0]
    still = e.name != "transpose" or len(program.aval[dep].shape) <= 1
    return still and program.size(dep) == program.size(out)


class Active(AbstractFlips):
    """Evaluates the patterns that count near a state; see above.

    **Arguments:**

    - `structure`: see `find_structure`.
    - `rows`: the rows of the overlaps, of which the scale is used: they need not be made.
    - `size`: the largest absolute value of a pattern's element.
    - `x0`: where the descent begins.

    `allowed` says whether this form may be used: for all values small integers, and enough
    patterns that do not count at `x0`.
    """

    exact = False

    def __init__(self, structure: Structure, rows: Rows, size: Array, x0: Array, D: int, out: Any):
        super().__init__(D, out, uses_state=False)
        self._s = structure
        self._K = structure.overlaps.weights.shape[0]
        self._dtype = structure.program.aval[structure.overlaps.carried].dtype
        self._scale = rows.scale.astype(self._dtype)
        size, moved = size.astype(self._dtype), jnp.max(jnp.abs(self._scale))
        self.step = _largest_factor(structure, self._dtype) * size * moved * (1 + 1e-5)
        # Every overlap, and every partial sum of one, is an integer that the dtype holds.
        (value,) = structure.program.evaluate_to(
            {structure.program.x: x0}, [self._s.overlaps.operand]
        )
        value = value.astype(self._dtype)
        most = D * size * (jnp.max(jnp.abs(value)) + moved)
        digits = int(jnp.finfo(self._dtype).nmant)
        whole = (self._scale == jnp.round(self._scale)).all() & (value == jnp.round(value)).all()
        # Rounding of a sum is half a unit in the last place; what is left out is half of that.
        self._below = (digits + 2) * math.log(2.0)
        self._first = self._select(x0)
        self.allowed = whole & (most <= 2.0**digits) & (self._first.slack >= 2 * self.step)

    def learn(self, x: Array, known: Known | None = None) -> Known:
        """The active patterns at `x`: those that were, unless half of their slack is used up."""
        if known is None:
            return self._first
        near = self._near(known)
        h, n = near.overlaps(x)
        left = jnp.max(near.exponents(h)) - known.ceiling - self.step * n
        fresh = lambda: self._select(x)
        return lax.cond(any_lane(~(left >= 0.5 * known.slack)), fresh, lambda: known)

    def using(self, known: Known) -> AbstractFlips:
        return self._near(known)

    def _near(self, known: Known) -> "_Near":
        return _Near(self._s, known, self._scale, self.step, self.D, self.out)

    def start(self, x: Array) -> tuple[Array, Carry]:
        return self._near(self._first).start(x)

    def flip(
        self, x: Array, carry: Carry, row: BitRows, s: Array, seen: Seen
    ) -> tuple[Array, Carry]:
        raise NotImplementedError("flips are tried by what `using` returns")

    def proves_fixed(self, x: Array, bits: Array) -> None:
        del x, bits

    # -- the selection -------------------------------------------------------------------------

    def _select(self, x: Array) -> Known:
        """What is active at `x`."""
        s = self._s
        (h,) = s.program.evaluate_to({s.program.x: x}, [s.overlaps.carried])
        h = h.reshape(-1)
        constants = self._constants()
        spread = tuple(jnp.broadcast_to(c, (self._K,)) if c.ndim else c for c in constants)
        v = _exponents(s, h, spread)
        at, real, ceiling, slack = _choose_active(v, self._below)
        rows = s.overlaps.weights[at].astype(jnp.int8)
        own = tuple(c[at] if c.ndim else c for c in spread)
        return Known(x.reshape(-1), rows.T, h[at], own, real, ceiling, slack)

    def _constants(self) -> tuple[Array, ...]:
        """The constants of the exponents, flat; one for all patterns stays one."""
        program, out = self._s.program, list[Array]()
        for e in self._s.exponents:
            for i in e.ins:
                if i in program.const:
                    value = jnp.asarray(program.const[i])
                    if value.ndim:
                        value = jnp.broadcast_to(value, program.aval[e.outs[0]].shape).reshape(-1)
                    out.append(value)
        return tuple(out)


def _choose_active(v: Array, below: float) -> tuple[Array, Array, Array, Array]:
    """The largest exponents.

    **Returns:** their indices, which of these are active, and `ceiling` and `slack` of `Known`.
    """
    largest, at = shards.largest(v, capacity(v.shape[0]))
    last = jnp.min(largest)  # is not active itself: others of the same size are not among these
    others = last + jnp.log(jnp.where(v <= last, jnp.exp(v - last), 0).sum())
    # Exponents are rounded like products of their own size, and a long sum by less than a tenth.
    rounding = 16 * float(jnp.finfo(v.dtype).eps) * jnp.max(jnp.abs(v)) + 0.1
    ceiling = others + below + rounding
    return at, largest > last, ceiling, jnp.max(largest) - ceiling


def _largest_factor(s: Structure, dtype: np.dtype) -> Array:
    """The most that an exponent moves where its overlap moves by one."""
    factor = jnp.ones((), dtype)
    for e in s.exponents:
        for i in e.ins if e.name in ("mul", "div") else ():
            if i in s.program.const:
                size = jnp.abs(jnp.asarray(s.program.const[i]).astype(dtype))
                factor = factor * jnp.max(size if e.name == "mul" else 1 / size)
    return factor


def _exponents(s: Structure, h: Array, constants: Sequence[Array]) -> Array:
    """The exponents of some patterns, by the very operations of the energy."""
    given = iter(constants)
    value, number = h, s.overlaps.carried
    for e in s.exponents:
        operands = [value if i == number else next(given) for i in e.ins]
        number = e.outs[0]
        if len(operands) > 1 or e.name == "neg":
            shape = jnp.broadcast_shapes(*[o.shape for o in operands])
            (value,) = e.bind(*[jnp.broadcast_to(o, shape) for o in operands])
    return jnp.asarray(value)


class _Near(AbstractFlips):
    """Flips near the state that `known` is about."""

    exact = False

    def __init__(
        self, structure: Structure, known: Known, scale: Array, step: Array, D: int, out: Any
    ):
        super().__init__(D, out, uses_state=False)
        self._s, self._known, self._step = structure, known, step
        self._table, self._scale = known.table, scale
        one = jnp.ones((1,), known.x.dtype)
        self.rows = (Dense(known.table, scale), Dense(known.x[:, None], one))

    def overlaps(self, x: Array) -> tuple[Array, Array]:
        """Overlaps at `x`, and how many bits it is away: by the bits that differ, in integers."""
        known, table, scale = self._known, self._table, self._scale
        turned = (0.5 * (x.reshape(-1) - known.x)).astype(known.h.dtype)
        moved = jnp.dot(
            turned * scale, table.astype(known.h.dtype), precision=lax.Precision.HIGHEST
        )
        return known.h + moved, jnp.abs(turned).sum()

    def exponents(self, h: Array) -> Array:
        v = _exponents(self._s, h, self._known.constants)
        return jnp.where(self._known.real, v, -jnp.inf)

    def _energy(self, h: Array, n: Array) -> Array:
        s = self._s
        v = self.exponents(h)
        c = jnp.max(v)
        known: dict[int, Value] = {s.stabilizer.c: c, s.stabilizer.total: jnp.exp(v - c).sum()}
        (e,) = s.program.evaluate(s.after, known, [s.program.out])
        return jnp.where(c >= self._known.ceiling + self._step * n, self._as_out(e), jnp.nan)

    def start(self, x: Array) -> tuple[Array, Carry]:
        h, n = self.overlaps(x)
        return self._energy(h, n), Carry((h, n), ())

    def flip(
        self, x: Array, carry: Carry, row: BitRows, s: Array, seen: Seen
    ) -> tuple[Array, Carry]:
        del x
        (overlaps, reference), (h, n) = row, carry.values
        assert isinstance(reference, Dense)
        h = overlaps.flipped(h, seen[0], s)
        n = n + jnp.where(s == reference.raw[0], 1.0, -1.0).astype(n.dtype)
        return self._energy(h, n), Carry((h, n), ())

    def proves_fixed(self, x: Array, bits: Array) -> None:
        """All flips of so few patterns are compared as soon as that."""
        del x, bits
