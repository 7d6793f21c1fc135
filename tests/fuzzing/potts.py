"""Random energies of units of q values: what users write of whole numbers, then the common tables.

`OPENINGS` are first values made from the state; what follows is drawn from `sites`, `sums` and
`heads` as for spins. To teach the fuzzer another way to read a state, add a line here.
"""

import random
import re
from typing import Any

import numpy as np
from hypothesis import strategies as st

from tests.fuzzing.energies import Case, Value, Writer, evaluate, limits, promotion, scaled
from tests.fuzzing.heads import HEADS
from tests.fuzzing.sites import MOVES, site, size
from tests.fuzzing.sums import BENT, LINEAR

METHODS = ("sweep", "greedy", "synchronous")
"""Methods that say whether they converged."""


def _flat(v: Value) -> str:
    return v.name if len(v.shape) == 1 else f"{v.name}.reshape(-1)"


def _values(w: Writer, *shape: int) -> str:
    """A constant of values that a unit may have, as patterns are."""
    dtype = w.rng.choice(["int32", "int8", "int8", "int16"])
    sizes = "".join(f"{n}, " for n in shape)
    return w.constant(f'integers({w.rng.randrange(1000)}, 0, {w.q}, {sizes}dtype="{dtype}")')


def _reals(w: Writer, *shape: int) -> str:
    sizes = "".join(f"{n}, " for n in shape)
    return w.constant(f'reals({w.rng.randrange(1000)}, {sizes}dtype="{w.float}")')


def _matches(w, v):
    """Overlaps with patterns, in the ways that people count them."""
    K, D, x, q = w.rng.choice([1, 3, 7]), size(v), _flat(v), w.q
    Xi = _values(w, K, D)
    J = _reals(w, D)
    return w.rng.choice(
        [f"jnp.sum({x} == {Xi}, axis=1)", f"({q}*jnp.sum({x}[None] == {Xi}, 1) - {D})",
         f"jnp.sum(({x} == {Xi}) * {J}, axis=1)", f"jnp.mean({x} == {Xi}, axis=-1)",
         f"({x} == {Xi}).astype(jnp.{w.float}) @ {J}", f"jnp.sum(jnp.abs({x} - {Xi}), axis=1)",
         f"jax.vmap(lambda r: jnp.sum(r == {x}))({Xi})", f"jnp.sum(({x} - {Xi})**2, 1)",
         f"jnp.sum(jnp.where({x} == {Xi}, {q - 1}.0, -1.0), axis=1)",
         f"jnp.sum(jnp.cos(2*jnp.pi/{q}*({x} - {Xi})), axis=1)",
         f"jnp.count_nonzero({x} != {Xi}, axis=1)",
         f'jnp.einsum("kiq,iq->k", jax.nn.one_hot({Xi}, {q}), jax.nn.one_hot({x}, {q}))']
    )  # fmt: skip


def _one_hot(w, v):
    D, x, q = size(v), _flat(v), w.q
    h, J = _reals(w, D, q), _reals(w, 3, D * q)
    hot = w.rng.choice(
        [f"jax.nn.one_hot({x}, {q}, dtype=jnp.{w.float})",
         f"({x}[:, None] == jnp.arange({q})).astype(jnp.{w.float})",
         f"jnp.eye({q}, dtype=jnp.{w.float})[{x}]",
         f"jnp.where({x}[:, None] == jnp.arange({q}), 1.0, -1.0)"]
    )  # fmt: skip
    return w.rng.choice(
        [hot, f"{hot}*{h}", f"{J} @ {hot}.reshape(-1)", f'jnp.einsum("iq,iq->i", {hot}, {h})',
         f"jnp.sum({hot}, axis=0)", f"{hot}[1:] * {hot}[:-1]", f"{hot} @ {hot}.T",
         f"jnp.sum({hot}*{h}, axis=1) + 0.3"]
    )  # fmt: skip


def _look_up(w, v):
    D, x, q = size(v), _flat(v), w.q
    t, h, J = _reals(w, q), _reals(w, D, q), _reals(w, q, q)
    g = _reals(w, D, q, q)
    return w.rng.choice(
        [f"jnp.asarray({t})[{x}]", f"jnp.take(jnp.asarray({t}), {x})",
         f"jnp.asarray({h})[jnp.arange({D}), {x}]", f"jnp.asarray({J})[{x}]",
         f"jnp.take_along_axis(jnp.asarray({h}), {x}[:, None], axis=1)[:, 0]",
         f"jnp.asarray({J})[{x}, jnp.roll({x}, 1)]", f"jnp.asarray({J})[{x}[1:], {x}[:-1]]",
         f"jnp.asarray({J})[{x}[:, None], {x}[None]]", f"jnp.log(jnp.abs(jnp.asarray({t})))[{x}]",
         f"jnp.asarray({g})[jnp.arange({D}), {x}, jnp.roll({x}, 1)]",
         f"jnp.asarray({t}).at[{x}].get(mode='fill', fill_value=0)",
         f"jnp.where(jnp.asarray({t}) > 1.0, jnp.inf, jnp.asarray({t}))[{x}]",
         f"jnp.asarray({t})[{x} - 1]", f"jnp.asarray({t})[jnp.minimum({x} + 1, {q - 1})]",
         f"jnp.asarray({t})[({x} + jnp.roll({x}, 1)) % {q}]",
         f"jnp.asarray({t})[jnp.sum({x}) % {q}]",
         f"jnp.searchsorted(jnp.sort(jnp.asarray({t})), {x}.astype(jnp.{w.float}))"]
    )  # fmt: skip


def _pair_terms(w, v):
    """Terms of two or three units of a lattice or a graph."""
    D, x, q = size(v), _flat(v), w.q
    n = w.rng.choice([D, D, 2 * D])
    sides = [f"{x}[np.random.default_rng({w.rng.randrange(1000)}).integers(0, {D}, {n})]"
             for _ in range(3)]  # fmt: skip
    if n == D and w.rng.random() < 0.5:
        sides = [x, f"jnp.roll({x}, 1)", f"jnp.roll({x}, 2)"]
    a, b, c = sides
    J = _reals(w, n)
    return w.rng.choice(
        [f"({a} == {b})", f"{J}*({a} == {b})", f"jnp.where({a} == {b}, {J}, 0.2*{J}**2)",
         f"jnp.cos(2*jnp.pi/{q}*({a} - {b}) + {J})", f"jnp.abs({a} - {b})*{J}",
         f"({a} - {b}) % {q}", f"({a} == {b}) & ({b} == {c})", f"{a}*{b}*{J}", f"{a}*{b}*{c}",
         f"jnp.minimum(jnp.abs({a} - {b}), 2)", f"jnp.where({a} > {b}, {J}, -{J})*({c} == 1)",
         f"jnp.sqrt({a} + {J}**2)*({b} != 0)", f"(({a} + {b} + {c}) % {q} == 0)",
         f"jnp.where(({a} == 0) & ({b} == 0), 1e9, {J}*{c})", f"jnp.exp(-0.3*{a}*{b}) + {J}*{a}",
         f"({a} ^ {b}) & 1", f"{a} // ({b} + 1)", f"jnp.maximum({a}, {b})*{J}"]
    )  # fmt: skip


def _single(w, v):
    """Functions of one unit."""
    x, q, h = _flat(v), w.q, _reals(w, size(v))
    return w.rng.choice(
        [f"{x}.astype(jnp.{w.float})*{h}", f"{x}**2 - 1.5*{x}", f"jnp.cos(2*jnp.pi*{x}/{q} + {h})",
         f"({x} == {w.rng.randrange(q)})", f"({x} > 0) * {h}", f"jnp.log({x} + 0.0)",
         f"1.0/({x} + 1)", f"({x} - {q - 1}/2)*{h}", f"jnp.sqrt({x}.astype(jnp.{w.float}))",
         f"jnp.where({x} == 0, jnp.inf, {h}*{x})", f"jnp.tanh({x} - {h})",
         f"jnp.select([{x} == 0, {x} == 1], [{h}, -{h}], 0.3)", f"{x} % 2",
         f"jnp.int8(90)*{x}.astype(jnp.int8)",
         f"jnp.exp2({x})", f"jnp.exp(1j*2*jnp.pi*{x}/{q}).real", f"-{x}"]
    )  # fmt: skip


def _whole(w, v):
    """Of all units: counts, orders, extremes, branches."""
    D, x, q = size(v), _flat(v), w.q
    J = _reals(w, D)
    return w.rng.choice(
        [f"jnp.bincount({x}, length={q})", f"jnp.zeros({q}, jnp.{w.float}).at[{x}].add({J})",
         f"jax.ops.segment_sum(jnp.asarray({J}), {x}, num_segments={q})", f"jnp.sort({x})",
         f"jnp.stack([jnp.sum({x} == k) for k in range({q})])", f"jnp.max({x}) - jnp.min({x})",
         f"jnp.sum({x})", f"(jnp.sum({x}) % {q})", f"jnp.cumsum({x})", f"jnp.argmax({x})",
         f"jnp.any({x} == {q - 1})", f"jnp.all({x} > 0)", f"jnp.prod({x} + 1)",
         f"jnp.where({x}[0] == 0, {J}*{x}, {J}[::-1])", f"jnp.argsort({x})",
         f"jnp.where({x}[0] == {x}[-1], jnp.sum({J}*{x}), 1.0)", f"jnp.diff({x})",
         f"lax.switch({x}[0], [lambda s=k: s*jnp.sum({J}*({x} == 0)) for k in range({q})])",
         f"jnp.sum({x}[:, None] == {x}[None])", f"({x}[:, None] == {x}[None]) * {J}",
         f"lax.scan(lambda c, t: ((2*c + t) % 97, c), 0, {x})[1]"]
    )  # fmt: skip


OPENINGS = {
    "matches": _matches,
    "one-hot": _one_hot,
    "look-up": _look_up,
    "pair terms": _pair_terms,
    "single": _single,
    "whole": _whole,
}
"""First values made from a state."""


def _term(w: Writer) -> str:
    """State -> an opening -> sites, moves, sums, anything -> a head."""
    rng, v = w.rng, w.values[0]
    bits = {"site": site, **MOVES, "site again": site}
    if rng.random() < 0.85:
        v = w.step(OPENINGS, v)
        again = rng.random()
        if again < 0.15 and (other := w.attempt("one", _single, w.values[0])):
            joined = lambda w, v: w.rng.choice(["{a}*{b}", "{a} + {b}"]).format(
                a=v.name, b=other.name
            )
            v = w.attempt("joined", joined, v) or v
    for _ in range(rng.choice([0, 0, 1, 1, 2])):
        v = w.step(bits, v)
    for _ in range(rng.choice([0, 0, 1, 1])):
        v = w.step(LINEAR, v)
    for _ in range(rng.choice([0, 0, 0, 1, 2])):
        v = w.step(rng.choice([bits, LINEAR, BENT, BENT]), v)
    return w.head(v)


def _memory(w: Writer) -> str:
    """Patterns, overlaps, a log-sum-exp or a power: the memories of this library, by hand."""
    rng, x, q = w.rng, w.values[0], w.q
    K, D = rng.choice([3, 5, 9, 17, 40]), size(x)
    Xi = _values(w, K, D)
    w.near = tuple(np.asarray(evaluate(dict(w.constants)[Xi]))[0].tolist())
    text = rng.choice(
        ["({q}*jnp.sum({x} == {Xi}, axis=1) - {D}).astype(jnp.{f})",
         "jnp.sum({x} == {Xi}, axis=1, dtype=jnp.{f})",
         "({q}*jnp.sum({x} == {Xi}, axis=1, dtype=jnp.int32).astype(jnp.{f}) - {D})/{D}",
         "-jnp.sum({x} != {Xi}, axis=1).astype(jnp.{f})"]
    )  # fmt: skip
    h = w.attempt("overlaps", lambda w, v: text.format(q=q, x=_flat(v), Xi=Xi, D=D, f=w.float), x)
    assert h is not None
    kinds = [k for k in HEADS if k.startswith("lse") or "total" in k or k in ("relu", "cube")]
    return w.head(h, rng.choice(kinds), ("2.0", "6.0", "15.0", "20.0", "50.0"))


def _forbidden(w: Writer) -> str | None:
    """A part of the states is forbidden."""
    D, q = size(w.values[0]), w.q
    assert q is not None
    k = w.rng.randrange(D)
    texts = [
        f"jnp.where({{x}}[{k}] == {q - 1}, jnp.inf, 0.0)",
        f"jnp.sum(jnp.where({{x}} == {w.rng.randrange(q)}, 1e9 + jnp.arange({D}), 0.0))",
        f"jnp.where(jnp.sum({{x}}) < {D // 2}, jnp.inf, 0.0)",
        "jnp.sum(jnp.where({x} == jnp.roll({x}, 1), jnp.inf, 0.0))",
        "jnp.where(({x}[0] == 0) & (jnp.sum({x} == 1) < 2), jnp.inf, 0.0)",
        f"jnp.sum(jnp.log(jnp.where({{x}} == {q - 1}, 0.0, 1.0)))",
    ]
    write = lambda w, v: f"{w.rng.choice(texts).format(x=_flat(v))}.astype(jnp.{w.float})"
    new = w.attempt("forbidden", write, w.values[0])
    return new and new.name


def _written(rng: random.Random, shape: tuple[int, ...], dtype: str, q: int) -> tuple[Any, str]:
    """The writer, and the line that ends the energy."""
    w = Writer(rng, shape, dtype, wide=False, q=q)
    if rng.random() < 0.15:
        terms = [_memory(w)]
        terms += [_term(w)] * (rng.random() < 0.2)
    else:
        terms = [_term(w) for _ in range(rng.choice([1, 1, 1, 2, 2]))]
    if rng.random() < 0.12 and (wall := _forbidden(w)):
        terms.append(wall)
    return w, f"e = ({scaled(rng, terms)}).astype(jnp.{dtype})"


def draw(rng: random.Random) -> Case:
    """One case of units of several values; equal generators give equal cases."""
    q, dtype = rng.choice([2, 3, 3, 4, 5, 6]), rng.choice(["float32"] * 3 + ["float64"])
    D = rng.choice([1, 2, 3, 4, 5, 6, 8, 8, 12, 20])
    shape: tuple[int, ...] = (D,)
    if D % 2 == 0 and rng.random() < 0.25:
        shape = rng.choice([(D // 2, 2), (2, D // 2), (2, 1, D // 2)])
    with promotion(x64=dtype == "float64"):
        w, line = _written(rng, shape, dtype, q)
    text = "\n".join((*w.lines, line))
    wrong = rng.choice([0.0, 0.1, 0.5]) if w.near else 1.0
    near = w.near or (0,) * D
    any_value = lambda s: rng.randrange(q) if rng.random() < wrong else s
    held = tuple(i for i in range(D) if rng.random() < 0.3) if rng.random() < 0.25 else ()
    return Case(
        shape,
        dtype,
        tuple(c for c in w.constants if re.search(rf"\b{c[0]}\b", text)),
        (*w.lines, line),
        tuple(tuple(any_value(s) for s in near) for _ in range(2)),
        (),
        rng.choice(("incremental",) * 5 + ("auto",)),
        rng.choice(["eager", "jit", "jit", "arguments", "vmap", "grad"]),
        rng.choice(("none", *METHODS)),
        limits(rng),
        tuple(w.used),
        q,
        held if len(held) < D else (),
    )


CASES = st.builds(draw, st.randoms(use_true_random=False))
"""The strategy of Hypothesis."""
