r"""Maxima that only keep exponentials in range, and how to do without computing them.

`logsumexp(v)` subtracts `max(v)` before `exp` and adds it after `log`. Any number near the
maximum serves as well, and on a CPU the maximum costs more than the exponentials. Here it is
*proved* from the equations that the energy does not depend on the number `c` that is subtracted;
then the recall remembers where the maximum was, at the *leader* $\lambda$, and subtracts
$c = v_\lambda$, which is most often still the maximum, however far a flip has moved it.

The proof follows `c` through the head. Every value is one of: *free* of `c`; the *centre* itself;
*shift* k, a number of the form `k c + free`; *scale* k, of the form `exp(k c) * free`. The energy
must come out free.

That is a proof about real numbers. **That floats hold them**: the leader's own term is $e^0$, so
the sum is at least 1 (but for the rounding of a product that a compiler fuses with the difference).
No term is smaller than with the maximum, so nothing underflows that does not underflow there. And
the sum tells how far another element has overtaken the leader, since

$$\max_\mu v_\mu - v_\lambda \le \log \sum_\mu e^{v_\mu - v_\lambda}$$

Where that is more than `most_above`, or no number, the maximum is computed after all, and there is
a new leader. Where powers of a sum are taken is for `plan` to check, from `Stabilizer.power`.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from amlib._checks import is_concrete
from amlib.descent.jaxprs import HALF, Equation, Program

_SAME = frozenset(
    "broadcast_in_dim reshape squeeze expand_dims transpose stop_gradient copy copy_p".split()
)


# Functions of one real number that never turn, and those of two that do not in either.
_MONOTONE = frozenset(
    """neg log log1p exp exp2 expm1 sqrt rsqrt cbrt tanh logistic sinh asinh atan erf floor ceil
    round add add_any sub mul max min""".split()
)


class _Kind(NamedTuple):
    name: str  # "free", "centre", "shift", "scale" or "true"
    k: int = 0

    @property
    def shifts(self) -> bool:
        return self.name in ("centre", "shift")


_FREE, _TRUE, _CENTRE = _Kind("free"), _Kind("true"), _Kind("centre", 1)


class Stabilizer(NamedTuple):
    """A maximum over `v` that may be any number `c`, and the sum of `exp(v - c)`.

    The head raises the sum to no power beyond `power`, so a centre that is off by `d` costs it a
    factor of `exp(power * d)`.
    """

    v: int
    c: int
    total: int
    power: int


_OVERTAKEN = 10.0  # by so much an exponent may exceed that of the leader


def most_above(program: Program, t: Stabilizer) -> float:
    """How far the log-sum-exp may be above the leader.

    It is above the maximum by the logarithm of the number of terms at most.
    """
    return math.log(max(1, program.size(t.v))) + _OVERTAKEN


def find_stabilizers(program: Program, head: list[Equation]) -> list[Stabilizer]:
    """The maxima in `head` that its result provably does not depend on."""
    found = []
    for e in head:
        v, c = e.ins[0], e.outs[0]
        single = program.aval[c].shape == () and program.aval[c].dtype not in HALF
        if e.name == "reduce_max" and single:
            kinds = _follow(program, head, c)
            if kinds is not None:
                power = max((abs(k.k) for k in kinds.values() if k.name == "scale"), default=1)
                totals = _totals(program, head, kinds, v)
                found.extend(Stabilizer(v, c, total, power) for total in totals[:1])
    return found


def _totals(program: Program, head: list[Equation], kinds: dict[int, _Kind], v: int) -> list[int]:
    """Sums over all of `exp(v - c)`."""
    differences = {
        e.outs[0]
        for e in head
        if e.name == "sub" and e.ins[0] == v and kinds[e.outs[0]] == _Kind("shift", -1)
    }
    powers = {e.outs[0] for e in head if e.name == "exp" and e.ins[0] in differences}
    return [
        e.outs[0]
        for e in head
        if e.name == "reduce_sum" and e.ins[0] in powers and program.aval[e.outs[0]].shape == ()
    ]


def _follow(program: Program, head: list[Equation], c: int) -> dict[int, _Kind] | None:
    """The kind of every value of the head, or `None` where the energy may depend on `c`."""
    kinds: dict[int, _Kind] = {}
    for e in head:
        if e.outs[0] == c:
            kinds[c] = _CENTRE
            continue
        ins = [kinds.get(i, _FREE) for i in e.ins]
        if all(k == _FREE for k in ins):
            kinds.update(dict.fromkeys(e.outs, _FREE))
            continue
        kind = _kind(program, e, ins) if len(e.outs) == 1 else None
        if kind is None:
            return None
        kinds[e.outs[0]] = kind
    return kinds if kinds.get(program.out, _FREE) == _FREE else None


def _kind(program: Program, e: Equation, ins: list[_Kind]) -> _Kind | None:
    """The kind of the output of one equation, or `None` for anything not proved."""
    name, first = e.name, ins[0]
    shifts = [k.shifts for k in ins]
    scales = [k.name == "scale" for k in ins]
    all_shift = all(s or k == _FREE for s, k in zip(shifts, ins, strict=True))
    all_scale = all(s or k == _FREE for s, k in zip(scales, ins, strict=True))
    if name in _SAME or (name == "convert_element_type" and _widens(program, e)):
        return first
    if name == "is_finite" and first == _CENTRE:
        return _TRUE  # `c` is finite by choice; `v - c` need not be, where an entry is masked
    if name == "select_n" and first == _TRUE and len(ins) == 3:
        return ins[2]
    if name == "max" and any(shifts) and any(_is_minus_infinity(program, i) for i in e.ins):
        return next(k for k in ins if k.shifts)
    if name in ("add", "add_any", "sub") and all_shift:
        total = first.k + (-1 if name == "sub" else 1) * ins[1].k
        return _Kind("shift", total) if total else _FREE
    if name in ("add", "add_any", "sub") and all(scales) and first == ins[1]:
        return first
    if name == "neg" and (shifts[0] or scales[0]):
        return _Kind("shift", -first.k) if shifts[0] else first
    if name in ("mul", "div", "dot_general") and all_scale:
        total = first.k + (-1 if name == "div" else 1) * ins[1].k
        return _Kind("scale", total) if total else _FREE
    if name == "exp" and shifts[0]:
        return _Kind("scale", first.k)
    if name == "log" and scales[0]:
        return _Kind("shift", first.k)
    if name in ("abs", "reduce_sum", "reduce_max") and scales[0]:
        return first
    if name == "sign" and scales[0]:
        return _FREE
    return None


def _to_float(e: Equation) -> bool:
    return bool(jnp.issubdtype(e.params["new_dtype"], jnp.floating))


def _widens(program: Program, e: Equation) -> bool:
    """Whether a conversion rounds nothing: a rounded centre would no longer cancel."""
    old, new = program.aval[e.ins[0]].dtype, e.params["new_dtype"]
    return _to_float(e) and bool(jnp.promote_types(old, new) == new)


def _is_minus_infinity(program: Program, i: int) -> bool:
    value = program.const.get(i)
    return value is not None and is_concrete(value) and bool((np.asarray(value) == -np.inf).all())


class Factor(NamedTuple):
    """How a value follows from one carried value: `v = factor * carried + constant`."""

    carried: int
    signed: Array  # of the first element
    uniform: Array  # whether all elements have the same factor


def find_factor(
    program: Program, head: list[Equation], v: int, carried: list[int]
) -> Factor | None:
    """The factor between `v` and the carried value it is made from.

    **Returns:** `None` if `v` is not one carried value times, over, plus or minus constants.
    """
    producer = {o: e for e in head for o in e.outs}
    signed = jnp.ones((), jnp.float32)
    uniform = jnp.asarray(True)
    while v not in carried:
        e = producer.get(v)
        if e is None or e.name not in _SAME | {"mul", "div", "neg", "add", "sub", "add_any"}:
            return None
        deps = program.depends(e)
        if len(deps) != 1 or (e.name == "div" and e.ins[0] != deps[0]):
            return None
        for i in e.ins if e.name in ("mul", "div") else ():
            if i in program.const:
                value = jnp.asarray(program.const[i]).astype(jnp.float32)
                value = value if e.name == "mul" else 1.0 / value
                signed = signed * value.reshape(-1)[0]
                uniform &= (value == value.reshape(-1)[0]).all()
        if e.name == "neg" or (e.name == "sub" and e.ins[1] == deps[0]):
            signed = -signed
        v = deps[0]
    return Factor(v, signed, uniform)


def path_to(program: Program, head: list[Equation], factor: Factor, v: int) -> list[Equation]:
    """The equations by which `v` follows from the carried value, see `find_factor`."""
    producer, path = {o: e for e in head for o in e.outs}, []
    while v != factor.carried:
        path.append(producer[v])
        (v,) = program.depends(producer[v])
    return path[::-1]


def head_of_sum(program: Program, head: list[Equation], t: Stabilizer) -> list[Equation] | None:
    """The equations from the sum of exponentials and its centre to the energy.

    **Returns:** `None` if the energy needs another value of the head.
    """
    known = {t.total, t.c}
    used = program.leading_to(head, [program.out], known)
    needed = {program.out}.union(*map(program.depends, used))
    made = {o for e in head for o in e.outs}
    if not needed <= known | {o for e in used for o in e.outs} or not known <= made:
        return None
    return used


def monotone_head(program: Program, head: list[Equation], t: Stabilizer) -> list[Equation] | None:
    """The same where the energy is provably a monotone function of the sum, else `None`."""
    used = head_of_sum(program, head, t)
    if used is None:
        return None
    moving, positive = {t.total}, {t.total}  # what changes with the sum; what is the sum
    for e in used:
        changing = [i for i in e.ins if i in moving]
        if not changing:
            continue
        same = e.name in _SAME or (e.name == "convert_element_type" and _to_float(e))
        identity = same or (e.name == "abs" and changing[0] in positive)
        divided = e.name == "div" and e.ins[0] in moving
        odd = e.name == "integer_pow" and e.params["y"] > 0 and e.params["y"] % 2 == 1
        if len(changing) > 1 or not (identity or divided or odd or e.name in _MONOTONE):
            return None
        moving |= set(e.outs)
        if identity and changing[0] in positive:
            positive |= set(e.outs)
    return used if program.out in moving else None
