"""Find the values of a flat energy that are sums of functions of few bits: local energies.

A lattice, a graph or a sum of clauses is affine in nothing, but each of its terms reads few bits. A
value is *local* here if its elements are sums of such terms (`terms`). That is closed under every
elementwise operation on few bits, under moves with known indices, sums, products with constants
and, where the products stay few, products with each other. A flip changes a local value by the
terms that read the bit, and by nothing else.

What an element reads is followed through the operations by moving numbers that stand for elements,
and not by the values of `x`; so indices must be known when the energy is traced.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jcore
from jaxtyping import Array

from amlib._checks import is_concrete
from amlib.descent.affine import (
    DATA,
    ELEMENTWISE,
    KEEP_BALANCE,
    MOVES,
    SUMS,
    Affine,
    Bitwise,
    adds_up,
    lands_once,
)
from amlib.descent.jaxprs import Equation, Params, Program, fold
from amlib.descent.neighbours import is_uneven
from amlib.descent.terms import (
    MAX_SUMMANDS,
    NONE,
    Block,
    Terms,
    TooLarge,
    constant_terms,
    is_known,
    is_product,
    places_of,
    pooled,
    products,
    summed,
    together,
)

_MAX_TERMS = 2**22
"""Most terms of one value; more than a lattice of a million bits has."""

_MAX_REDUCED = 16  # elements that one product, maximum or minimum may take together

_SAME = frozenset({"stop_gradient", "copy", "copy_p", "real"})
_FOLDS: dict[str, Callable[..., Array]] = {
    "reduce_prod": lax.mul,
    "reduce_max": lax.max,
    "reduce_min": lax.min,
    "reduce_and": lax.bitwise_and,
    "reduce_or": lax.bitwise_or,
    "reduce_xor": lax.bitwise_xor,
}
_KEEP_PRODUCT = _SAME | {"neg"}


class Locals:
    """The local values of a program, by number, in `known`."""

    def __init__(self, program: Program, analysis: Affine):
        self._program, self._analysis = program, analysis
        self._limit = max(_MAX_TERMS // 16, 64 * analysis.D)
        self.known: dict[int, Terms] = {}
        for e in program.equations:
            if len(e.outs) == 1 and e.outs[0] not in analysis.bitwise:
                try:
                    value = self._follow(e)
                except TooLarge:
                    continue
                if value is not None and value.count <= min(self._limit, _MAX_TERMS):
                    self.known[e.outs[0]] = value

    def carryable(self) -> dict[int, Terms]:
        """The values that a recall can carry, for sums of floats or integers."""
        program = self._program
        return {
            v: value
            for v, value in self.known.items()
            if v not in self._analysis.bitwise
            and adds_up(program.aval[v].dtype)
            and (value.size == 1 or not is_uneven(value))
            and not value.is_infinite()
        }

    # -- operands -------------------------------------------------------------------------------

    def _operand(self, v: int) -> Terms | None:
        program = self._program
        if v not in self.known and v in self._analysis.bitwise:
            self.known[v] = _of_bits(self._analysis.bitwise[v], program.aval[v].dtype)
        if v in program.const:
            value = program.const[v]
            if program.size(v) > self._limit:
                return None
            value = np.asarray(value) if is_concrete(value) else value
            return constant_terms(value, program.aval[v].dtype)
        return self.known.get(v)

    def _follow(self, e: Equation) -> Terms | None:
        """The local value that an equation makes, or `None` if it makes none."""
        operands = [self._operand(i) for i in e.ins]
        found = [o for o in operands if o is not None]
        if len(found) < len(operands) or not found:
            return None
        aval = self._program.aval[e.outs[0]]
        if e.name in ELEMENTWISE:
            return self._elementwise(e, found, aval.shape, aval.dtype)
        if e.name in MOVES:
            return self._move(e, found)
        if e.name in _FOLDS:
            return _reduced(_FOLDS[e.name], found[0], _axes(e), aval.shape)
        if not adds_up(aval.dtype):
            return None
        if e.name == "reduce_sum":
            return summed(found[0], _axes(e), aval.shape)
        if e.name == "dot_general":
            return self._contracted(e, found, aval.shape, aval.dtype)
        if e.name == "conv_general_dilated":
            return self._convolved(e, found, aval.shape, aval.dtype)
        if e.name in ("scatter-add", "scatter_add"):
            return self._scattered(e, found)
        return None

    # -- elementwise ----------------------------------------------------------------------------

    def _elementwise(
        self, e: Equation, operands: list[Terms], shape: tuple[int, ...], dtype: np.dtype
    ) -> Terms | None:
        operands = [o.spread(shape) for o in operands]
        linear = self._linear(e, operands, shape, dtype)
        if linear is not None:
            return linear
        blocks = [o.joined() for o in operands]
        return Terms(shape, dtype, (_apply(e.primitive, e.params, blocks),), True)

    def _linear(
        self, e: Equation, operands: list[Terms], shape: tuple[int, ...], dtype: np.dtype
    ) -> Terms | None:
        """Sums and products by term, where that keeps terms smaller than one table would."""
        constant = [i in self._program.const for i in e.ins]
        if not adds_up(dtype) or not all(adds_up(o.dtype) for o in operands):
            return None
        if e.name in SUMS:
            if all(o.single for o in operands) and _read_the_same(operands):
                return None
            second = operands[1].blocks
            if e.name == "sub":
                second = tuple(b.mapped(lambda t: -t) for b in second)
            merged = Terms(shape, dtype, (), False)
            return merged.with_blocks([*operands[0].blocks, *second])
        if all(o.single for o in operands):
            return None
        by_term = e.name in _SAME | {"neg"} or (e.name == "div" and constant == [False, True])
        widened = e.name == "convert_element_type" and self._analysis.widens(e.ins[0], dtype)
        if by_term or widened:
            own = next(o for o in operands if not o.single or o is operands[0])
            made = []
            for b in own.blocks:
                others = [
                    b if o is own else o.blocks[0].rows(b.element, b.element) for o in operands
                ]
                made.append(_apply(e.primitive, e.params, others)._replace(element=b.element))
            return Terms(shape, dtype, (), False).with_blocks(made)
        if e.name == "mul":
            times = lambda a, b: _apply(e.primitive, e.params, [a, b])._replace(element=a.element)
            made = products(operands[0], operands[1], times)
            return Terms(shape, dtype, (), False).with_blocks(made)
        if e.name == "select_n" and constant[0] and is_known(operands[0].blocks[0].table):
            which = operands[0].blocks[0].table[:, 0].astype(int)
            made = [
                b.rows(at := np.flatnonzero(which[b.element] == k), b.element[at])
                for k, o in enumerate(operands[1:])
                for b in o.blocks
            ]
            return Terms(shape, dtype, (), False).with_blocks(made)
        return None

    # -- moves ----------------------------------------------------------------------------------

    def _known_operands(self, e: Equation) -> list[np.ndarray | None] | None:
        """The operands that say where to, by place; `None` if one of them is not known."""
        at: list[np.ndarray | None] = [None] * len(e.ins)
        for k in range(len(e.ins)):
            if k not in DATA.get(e.name, range(len(e.ins))):
                value = self._program.const.get(e.ins[k])
                if value is None or not is_concrete(value):
                    return None
                at[k] = np.asarray(value)
        return at

    def _move(self, e: Equation, operands: list[Terms]) -> Terms | None:
        known = self._known_operands(e)
        if known is None or any(a.size > 2**31 - 1 for a in operands):
            return None
        data = [o for o, k in zip(operands, known, strict=True) if k is None]
        start, values = 0, []
        for o, k in zip(operands, known, strict=True):
            if k is not None:
                values.append(k)
                continue
            values.append(np.arange(start, start + o.size, dtype=np.int32).reshape(o.shape))
            start += o.size
        params = e.params | {"fill_value": -1} if e.name == "gather" else e.params
        if e.name == "scatter":
            sources = [Bitwise(v, v, v) for v in values]
            if not lands_once(e, sources, values[1]):
                return None
        (out,) = fold(e.primitive, params, values)
        src = np.asarray(out)
        if (src < 0).any():
            return None  # a gather that fills in
        pool = data[0] if len(data) == 1 else pooled(data)
        return Terms((pool.size,), pool.dtype, pool.blocks, pool.single).taken(src)

    def _scattered(self, e: Equation, operands: list[Terms]) -> Terms | None:
        """Where each update is added: what the transposed operation reads there."""
        known = self._known_operands(e)
        base, _, updates = operands
        if known is None or base.size >= 2**24:
            return None
        none = np.zeros(base.shape, np.float32)
        places = np.arange(1, base.size + 1, dtype=np.float32).reshape(base.shape)
        with jax.ensure_compile_time_eval():
            names = ("dimension_numbers", "indices_are_sorted", "unique_indices", "mode")
            options = {name: e.params[name] for name in names}
            at = jnp.asarray(known[1])
            add = lambda u: lax.scatter_add(jnp.asarray(none), at, u, **options)
            _, pull = jax.vjp(add, np.zeros(updates.shape, np.float32))
            where = np.asarray(pull(jnp.asarray(places))[0]).reshape(-1).astype(np.int64) - 1
        moved = []
        for b in updates.blocks:
            kept = np.flatnonzero(where[b.element] >= 0)  # others fall outside
            moved.append(b.rows(kept, where[b.element[kept]]))
        return base.with_blocks([*base.blocks, *moved])

    # -- sums of products -----------------------------------------------------------------------

    def _contracted(
        self, e: Equation, operands: list[Terms], shape: tuple[int, ...], dtype: np.dtype
    ) -> Terms | None:
        """A dot product: the elements that meet, multiplied and summed."""
        (cl, cr), (bl, br) = e.params["dimension_numbers"]
        left, right = (
            places_of(o.shape, c, b) for o, c, b in zip(operands, (cl, cr), (bl, br), strict=True)
        )
        B, M, C = left.shape
        N = right.shape[1]
        grid, outputs = (B, M, N, C), B * M * N
        if outputs * C > self._limit or (C > MAX_SUMMANDS and outputs > 1):
            raise TooLarge  # the latter is a dense layer: sums of many bits, and many of them
        pairs = [
            _converted(o, dtype, self._analysis, i) for o, i in zip(operands, e.ins, strict=True)
        ]
        if any(p is None for p in pairs):
            return None
        a, b = (p for p in pairs if p is not None)
        a = a.taken(np.broadcast_to(left[:, :, None, :], grid).reshape(-1))
        b = b.taken(np.broadcast_to(right[:, None, :, :], grid).reshape(-1))
        return _summed_products(a, b, C, shape, dtype)

    def _convolved(
        self, e: Equation, operands: list[Terms], shape: tuple[int, ...], dtype: np.dtype
    ) -> Terms | None:
        """A convolution of a local value with a constant kernel, as a sum over its windows."""
        if e.ins[1] not in self._program.const or e.params["batch_group_count"] != 1:
            return None
        image, kernel = operands
        numbers = e.params["dimension_numbers"]
        # Outputs first, then the taps of one output: inputs of its group, and space.
        order = (numbers.rhs_spec[0], numbers.rhs_spec[1], *numbers.rhs_spec[2:])
        outs, *taps = (kernel.shape[d] for d in order)
        count = math.prod(taps)
        if count * math.prod(shape) > self._limit or image.size >= 2**24:
            raise TooLarge
        weights = np.arange(kernel.size).reshape(kernel.shape).transpose(order).reshape(outs, count)
        axis = numbers.out_spec[1]
        feature = np.arange(outs).reshape([-1 if d == axis else 1 for d in range(len(shape))])
        feature = np.broadcast_to(feature, shape).reshape(-1)
        params = e.params | {"preferred_element_type": np.dtype("float32")}
        params |= {"precision": lax.Precision.HIGHEST}
        # A kernel of one tap makes a picture of the elements that outputs see through this tap.
        places = np.arange(1, image.size + 1, dtype=np.float32).reshape(image.shape)
        seen = np.zeros((math.prod(shape), count), np.int64)
        for k in range(count):
            tap = np.zeros((outs, count), np.float32)
            tap[:, k] = 1
            tap = tap.reshape(outs, *taps).transpose(np.argsort(order))
            seen[:, k] = np.asarray(fold(e.primitive, params, [places, tap])[0]).reshape(-1)
        element, k = np.nonzero(seen)
        a = _converted(image, dtype, self._analysis, e.ins[0])
        b = _converted(kernel, dtype, self._analysis, e.ins[1])
        if a is None or b is None:
            return None
        a, b = a.taken(seen[element, k] - 1), b.taken(weights[feature[element], k])
        terms = _summed_products(a, b, 1, (len(element),), dtype)
        moved = [t._replace(element=element[t.element]) for t in terms.blocks]
        return terms.with_blocks(moved, tuple(shape))


# -- values ----------------------------------------------------------------------------------------


def _of_bits(b: Bitwise, dtype: np.dtype) -> Terms:
    source = b.source.reshape(-1, 1)
    bits = np.where(source < 0, NONE, source).astype(np.int32)
    known = is_known(b.minus) and is_known(b.plus)
    xp = np if known else jnp
    table = xp.stack([xp.reshape(b.minus, -1), xp.reshape(b.plus, -1)], -1)
    odd = (b.odd and bool((source >= 0).all())) or is_product(bits, table)
    element = np.arange(len(bits))
    return Terms(b.source.shape, dtype, (Block(element, bits, table, odd, b.balanced),), True)


def _converted(o: Terms, dtype: np.dtype, analysis: Affine, v: int) -> Terms | None:
    """An operand of a product in the type of its result."""
    if o.dtype == dtype:
        return o
    if not o.single and not analysis.widens(v, dtype):
        return None
    blocks = tuple(b.mapped(lambda t: t.astype(dtype)) for b in o.blocks)
    return Terms(o.shape, dtype, blocks, o.single)


def _read_the_same(operands: Sequence[Terms]) -> bool:
    """Whether all terms read the bits that the largest of them reads, or none."""
    widest = max((o.blocks[0] for o in operands), key=lambda b: b.m)
    return all(
        b.m == 0 or (b.m == widest.m and np.array_equal(b.bits, widest.bits))
        for b in (o.blocks[0] for o in operands)
    )


def _apply(primitive: jcore.Primitive, params: Params, blocks: Sequence[Block]) -> Block:
    """An elementwise operation on terms, row by row."""
    bits, tables = together(blocks)
    shape = (len(bits), 2 ** bits.shape[1])
    spread = [
        np.broadcast_to(t, shape) if is_known(t) else jnp.broadcast_to(t, shape) for t in tables
    ]
    (out,) = fold(primitive, params, spread)
    table = np.asarray(out) if is_concrete(out) else out
    name = primitive.name
    apart = sum(b.m for b in blocks) == bits.shape[1]
    kept = all(b.product for b in blocks) and bool((bits != NONE).all())
    kept &= (name == "mul" and apart) or name in _KEEP_PRODUCT
    kept |= name == "div" and blocks[0].product and blocks[1].m == 0 and bool((bits != NONE).all())
    product = kept or is_product(bits, table)
    balanced = product or (name in KEEP_BALANCE and all(b.balanced for b in blocks))
    if is_known(table) and table.dtype != bool:
        balanced |= bool((np.abs(table) == np.abs(table[:, :1])).all())
    return Block(np.arange(len(bits)), bits, table, product, balanced)


def _axes(e: Equation) -> tuple[int, ...]:
    return tuple(map(int, e.params["axes"]))


def _primitive(fn: Callable[..., Array], dtype: np.dtype) -> tuple[jcore.Primitive, Params]:
    """The primitive of a function of two numbers, with the parameters that this JAX gives it."""
    number = jax.ShapeDtypeStruct((), dtype)
    (e,) = jax.make_jaxpr(fn)(number, number).eqns
    return e.primitive, e.params


def _reduced(
    fold_in: Callable[..., Array], o: Terms, axes: Sequence[int], shape: tuple[int, ...]
) -> Terms:
    """A product, maximum or the like over few elements."""
    places = places_of(o.shape, axes, ())[0]
    if not 0 < places.shape[1] <= _MAX_REDUCED:
        raise TooLarge
    total, operation = o.taken(places[:, 0]).joined(), _primitive(fold_in, o.dtype)
    for k in range(1, places.shape[1]):
        total = _apply(*operation, [total, o.taken(places[:, k]).joined()])
    return Terms(tuple(shape), o.dtype, (total,), True)


def _summed_products(
    a: Terms, b: Terms, count: int, shape: tuple[int, ...], dtype: np.dtype
) -> Terms:
    """The products of two flat values, every `count` of them summed."""
    multiply = _primitive(lax.mul, dtype)
    times = lambda x, y: _apply(*multiply, [x, y])._replace(element=x.element)
    made = products(a, b, times)
    moved = [t._replace(element=t.element // count) for t in made]
    return Terms(tuple(shape), dtype, (), False).with_blocks(moved)
