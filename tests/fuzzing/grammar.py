"""The grammar of random energies: what may be done to a value, as source text.

Each table maps a name to a production `(writer, value) -> expression`, where `value` is the name of
an array with `shape` and `dtype`. A production that does not fit raises `Unfit`, and so does one
whose expression JAX refuses: `energies.Writer` then draws another. To teach the fuzzer an operation,
add one line here.

The state has one bit per element. `SITES` act on single elements, `MOVES` carry elements to other
places, `LINEAR` sums them; `BENT` are functions of several elements that are not linear. `HEADS` end
in one scalar.
"""

import math

FLOATS = ("float16", "bfloat16", "float32", "float64")
SIGNED = ("int8", "int16", "int32")
UNSIGNED = ("uint8", "uint16", "uint32")
INTEGERS = SIGNED + UNSIGNED


class Unfit(Exception):
    """A production that does not apply to this value."""


def fits(condition):
    if not condition:
        raise Unfit


def is_float(v):
    return v.dtype in FLOATS


def is_integer(v):
    return "int" in v.dtype


def axis(w, v):
    fits(v.shape)
    return w.rng.randrange(len(v.shape))


def size(v):
    return math.prod(v.shape)


# -- one element at a time --------------------------------------------------------------------

_FLOAT_SITES = {
    "tanh": "jnp.tanh({v})",
    "square plus": "({v})**2 + 0.5*{v}",
    "where": "jnp.where({v} > 0, {a}, {b})",
    "recode": "({v} + 1)/2",
    "affine": "{a}*{v} + {b}",
    "sign": "jnp.sign({v} - {a})",
    "round": "jnp.round({c}*{v})",
    "floor": "jnp.floor({c}*{v} + {a})",
    "clip": "jnp.clip({v}, {a} - 1.0, {a})",
    "abs": "jnp.abs({v} - {a})",
    "cube": "lax.integer_pow({v}, 3)",
    "power": "jnp.power(jnp.abs({v}), {c})",
    "mod": "jnp.mod({v}, {c})",
    "rem": "lax.rem({v}, jnp.asarray({c}, {v}.dtype))",
    "exp": "jnp.exp({a}*{v})",
    "log1p": "jnp.log1p(jnp.abs({v}))",
    "log": "jnp.log({v} + {c})",
    "sqrt": "jnp.sqrt({v} + {c})",
    "reciprocal": "1.0/({v} + {c})",
    "logistic": "jax.nn.sigmoid({c}*{v})",
    "erf": "jax.scipy.special.erf({v})",
    "sin": "jnp.sin({c}*{v})",
    "atan2": "jnp.arctan2({v}, jnp.asarray({c}, {v}.dtype))",
    "reduce precision": "lax.reduce_precision({v}*{c}, 8, 5)",
    "relu": "jax.nn.relu({v} - {a})",
    "gelu": "jax.nn.gelu({v})",
    "large": "{v}*{big}",
    "nextafter": "jnp.nextafter({v}, jnp.full_like({v}, 9.0))",
    "custom jvp": "cubed({v})",
    "custom vjp": "halved({v})",
    "jit": "jax.jit(lambda t: jnp.tanh(t)*{c})({v})",
    "checkpoint": "jax.checkpoint(lambda t: jnp.sin(t)*{c})({v})",
    "stop gradient": "lax.stop_gradient({v})",
    "isfinite": "jnp.isfinite({v}/({v} - 1.0))",
    "greater": "{v} > {a}",
}  # fmt: skip
_INTEGER_SITES = {
    "and": "{v} & 5",
    "or": "{v} | 2",
    "xor": "{v} ^ 3",
    "not": "~{v}",
    "left": "{v} << 1",
    "right": "{v} >> 1",
    "logical right": "lax.shift_right_logical({v}, jnp.asarray(1, {v}.dtype))",
    "population count": "lax.population_count({v})",
    "leading zeros": "lax.clz({v})",
    "add wraps": "{v} + jnp.asarray(100, {v}.dtype)",
    "times wraps": "{v} * jnp.asarray(77, {v}.dtype)",
    "minus": "jnp.asarray(1, {v}.dtype) - {v}",
    "floor divide": "{v} // 2",
    "modulo": "{v} % 3",
    "integer abs": "jnp.abs({v})",
    "integer sign": "jnp.sign({v})",
    "integer clip": "jnp.clip({v}, 0, 3)",
    "equals": "{v} == 1",
}
_BOOL_SITES = {
    "logical not": "~{v}",
    "bool xor": "{v} ^ True",
    "select": "jnp.where({v}, {a}, {b})",
    "choose integer": "jnp.where({v}, jnp.int8(3), jnp.int8(-7))",
}


def numbers(w):
    """Constants that the texts above may name."""
    return {
        "a": w.rng.choice(["0.3", "-0.7", "1.0", "-1.0", "0.0", "2.5"]),
        "b": w.rng.choice(["0.5", "-0.25", "1.5", "0.0"]),
        "c": w.rng.choice(["0.7", "1.5", "1.0", "3.0", "0.25"]),
        "big": w.rng.choice(["30.0", "100.0", "1e4", "1e-4"]),
    }


def text_site(table):
    def production(w, v):
        return table[w.rng.choice(list(table))].format(v=v.name, **numbers(w))

    return production


def pattern_site(w, v):
    """With a constant of the same shape: products, comparisons, choices."""
    c = w.spins_or_reals(v.shape, v.dtype)
    return w.rng.choice(
        [f"{v.name}*{c}", f"{v.name} + {c}", f"{v.name} != {c}", f"jnp.maximum({v.name}, {c})",
         f"jnp.where({c} > 0, {v.name}, 0)", f"{v.name} == {c}", f"{c} - {v.name}"]
    )  # fmt: skip


def cast(w, v):
    to = w.rng.choice([*INTEGERS, *INTEGERS, "bool", "float16", "bfloat16", w.float, w.float])
    scale = w.rng.choice(["", "", "100*", "2*"]) if v.dtype != "bool" else ""
    return f"({scale}{v.name}).astype(jnp.{to if to != 'bool' else 'bool_'})"


def pack(w, v):
    fits(v.shape)
    if v.dtype == "uint8" and w.rng.random() < 0.5:
        return f"jnp.unpackbits({v.name}, axis=-1)"
    return f"jnp.packbits({v.name} > 0, axis=-1)"


def site(w, v):
    """Any function of single elements."""
    table = {"bool": _BOOL_SITES}.get(v.dtype, _FLOAT_SITES if is_float(v) else _INTEGER_SITES)
    kinds = [text_site(table)] * 5 + [pattern_site, cast, cast] + ([pack] if not is_float(v) else [])
    return w.rng.choice(kinds)(w, v)


# -- moves ------------------------------------------------------------------------------------


def _indices(w, v, outside=True):
    """Indices along the first axis: in order, repeated, negative, out of bounds."""
    fits(v.shape and v.shape[0])
    n = v.shape[0]
    reach = 2 if outside and w.rng.random() < 0.5 else 0
    k = w.rng.randint(1, n + 2)
    idx = [w.rng.randint(-n - reach, n - 1 + reach) for _ in range(k)]
    if w.rng.random() < 0.4:
        idx = sorted({i % n for i in idx})
    return w.integers_of(idx), len(idx)


def _fill(w, v):
    return {"bool": "True"}.get(v.dtype, w.rng.choice(["5", "0", "1"]))


def _get(w, v):
    idx, _ = _indices(w, v)
    how = w.rng.choice(
        [f'mode="fill", fill_value={_fill(w, v)}', 'mode="fill"', 'mode="clip"', 'mode="wrap"', ""]
    )
    if w.rng.random() < 0.5:
        return f"jnp.take({v.name}, {idx}, axis=0{', ' + how if how else ''})"
    how = how.replace('"wrap"', '"promise_in_bounds"') if "wrap" in how else how
    idx = idx if "promise" not in how else _indices(w, v, outside=False)[0]
    return f"{v.name}.at[{idx}].get({how})"


def _scatter(w, v):
    idx, k = _indices(w, v)
    rest = v.shape[1:]
    if w.rng.random() < 0.5:  # a constant into the value
        what = w.rng.choice(["set", "add", "multiply", "max", "min"])
        new = w.rng.choice([_fill(w, v), w.spins_or_reals((k, *rest), v.dtype)])
        mode = w.rng.choice(["", ', mode="drop"', ', mode="clip"'])
        return f"{v.name}.at[{idx}].{what}({new}{mode})"
    n = v.shape[0] + w.rng.randint(0, 3)  # the value into a constant
    where = list(range(n))
    w.rng.shuffle(where)
    if w.rng.random() < 0.3:
        where = [w.rng.randint(-n, n) for _ in where]
    full = w.spins_or_reals((n, *rest), v.dtype)
    what = w.rng.choice(["set", "set", "add", "multiply", "max"])
    return f"jnp.asarray({full}).at[{w.integers_of(where[: v.shape[0]])}].{what}({v.name})"


def _pad(w, v):
    fits(v.shape)
    low, high, inner = w.rng.randint(-1, 2), w.rng.randint(-1, 2), w.rng.randint(0, 1)
    fill = w.rng.choice(["0", "1", "3"])
    config = [(low, high, inner)] + [(0, 0, 0)] * (len(v.shape) - 1)
    return f"lax.pad({v.name}, jnp.asarray({fill}, {v.name}.dtype), {config})"


def _dynamic(w, v):
    fits(v.shape)
    n = v.shape[0]
    start = w.rng.randint(-1, n)
    if w.rng.random() < 0.5:
        return f"lax.dynamic_slice_in_dim({v.name}, {start}, {w.rng.randint(1, n)})"
    part = w.spins_or_reals((w.rng.randint(1, n), *v.shape[1:]), v.dtype)
    return f"lax.dynamic_update_slice_in_dim({v.name}, {part}, {start}, 0)"


def _join(w, v):
    fits(v.shape)
    other = w.spins_or_reals(v.shape, v.dtype)
    return w.rng.choice(
        [f"jnp.concatenate([{v.name}, {other}])", f"jnp.stack([{v.name}, {other}])",
         f"jnp.concatenate([{v.name}, {v.name}[::-1]])", f"jnp.stack([{v.name}, {v.name}], axis=-1)"]
    )  # fmt: skip


def _plain_move(w, v):
    a = axis(w, v)
    k = w.rng.randint(1, 3)
    return w.rng.choice(
        [f"jnp.roll({v.name}, {k}, {a})", f"jnp.flip({v.name}, {a})", f"{v.name}[{k - 1}:]",
         f"{v.name}[::{k}]", f"{v.name}[::-{k}]", f"{v.name}.reshape(-1)", f"{v.name}.T",
         f"{v.name}[None]", f"jnp.tile({v.name}, {k})", f"jnp.repeat({v.name}, {k}, axis={a})",
         f"jnp.broadcast_to({v.name}, {(k, *v.shape)})", f"jnp.diag({v.name})",
         f"jnp.triu({v.name})", f"jnp.squeeze({v.name})", f"{v.name}[..., {k - 1}]",
         f"lax.rev({v.name}, [{a}])", f"jnp.moveaxis({v.name}, 0, -1)"]
    )  # fmt: skip


MOVES = {
    "plain move": _plain_move,
    "gather": _get,
    "scatter": _scatter,
    "pad": _pad,
    "dynamic slice": _dynamic,
    "join": _join,
}


# -- sums -------------------------------------------------------------------------------------


def _rows(w):
    return w.rng.choice([1, 2, 5, 9]) if not w.wide else w.rng.choice([257, 300])


def _product(w, v):
    fits(len(v.shape) == 1)
    W = w.matrix((_rows(w), v.shape[0]), v.dtype)
    return w.rng.choice(
        [f"{W} @ {v.name}", f'jnp.einsum("kd,d->k", {W}, {v.name})', f"{v.name} @ {W}.T",
         f"jax.vmap(lambda r: jnp.dot(r, {v.name}))({W})",
         f"lax.map(lambda r: jnp.sum(r*{v.name}), {W})",
         f"lax.scan(lambda _, r: (None, r @ {v.name}), None, {W})[1]",
         f"jnp.tensordot({W}, {v.name}, 1)", f"(lambda t: jax.jit(jnp.dot)({W}, t))({v.name})"]
    )  # fmt: skip


def _wide_product(w, v):
    """Into a wider type, by `preferred_element_type`."""
    fits(len(v.shape) == 1)
    narrow = w.rng.choice(["int8", "uint8", "float16", "bfloat16", "int16"])
    scale = w.rng.choice(["", "", "100*", "60*"]) if v.dtype != "bool" else ""
    wide = "float32" if "float" in narrow else w.rng.choice(["int32", "int32", "float32"])
    W = w.matrix((_rows(w), v.shape[0]), narrow)
    return (
        f"lax.dot({W}, ({scale}{v.name}).astype(jnp.{narrow}), "
        f"preferred_element_type=jnp.{wide})"
    )


def _bool_product(w, v):
    fits(len(v.shape) == 1)
    flag = v.name if v.dtype == "bool" else f"({v.name} > 0)"
    return f"jnp.dot({flag}, {w.matrix((v.shape[0],), 'float32')} > 0)"


def _distance(w, v):
    fits(len(v.shape) == 1)
    P = w.matrix((_rows(w), v.shape[0]), v.dtype)
    kind = w.rng.choice(["uint8", "int8", "int32", "uint16", w.float])
    return w.rng.choice(
        [f"-jnp.sum(({P} - {v.name}[None])**2, axis=1)", f"jnp.sum({P} != {v.name}[None], axis=1)",
         f"jnp.sum(({v.name}[None] != {P}).astype(jnp.{kind}), axis=1, dtype=jnp.{kind})",
         f"jnp.sum(lax.population_count({P}.astype(jnp.uint8) ^ {v.name}.astype(jnp.uint8)), axis=1)",
         f"jnp.abs({P} - {v.name}).sum(1)"]
    )  # fmt: skip


def _total(w, v):
    a = axis(w, v)
    kind = w.rng.choice([w.float, w.float, "int32", "uint32", "uint8"])
    return w.rng.choice(
        [f"jnp.sum({v.name}, axis={a})", f"jnp.mean({v.name}, axis={a})",
         f"jnp.sum({v.name}, axis={a}, dtype=jnp.{kind})", f"jnp.sum({v.name})",
         f"jnp.cumsum({v.name}, axis={a})", f"lax.cumsum({v.name}, axis={a}, reverse=True)",
         f"jnp.diff({v.name}, axis={a})", f"jnp.trace(jnp.atleast_2d({v.name}))"]
    )  # fmt: skip


def _segments(w, v):
    fits(v.shape and v.shape[0])
    ids = w.integers_of([w.rng.randint(0, 3) for _ in range(v.shape[0])])
    return f"jax.ops.segment_sum({v.name}, {ids}, num_segments={w.rng.choice([3, 4])})"


def _window(w, v):
    fits(v.shape)
    k = w.rng.randint(1, 3)
    window = (k,) + (1,) * (len(v.shape) - 1)
    strides = (w.rng.randint(1, 2),) + (1,) * (len(v.shape) - 1)
    pad = w.rng.choice(['"SAME"', '"VALID"'])
    op, zero = w.rng.choice([("add", "0"), ("add", "0"), ("max", "-9"), ("min", "9"), ("add", "1")])
    init = f"jnp.asarray({zero}, {v.name}.dtype)"
    return f"lax.reduce_window({v.name}, {init}, lax.{op}, {window}, {strides}, {pad})"


def _convolution(w, v):
    fits(is_float(v) and 1 <= len(v.shape) <= 2)
    d = len(v.shape)
    groups = w.rng.choice([1, 1, 2])
    out = 2 * w.rng.randint(1, 2)
    kernel = w.matrix((out, 1, *[w.rng.randint(1, 3)] * d), v.dtype)
    strides = tuple(w.rng.randint(1, 2) for _ in range(d))
    pad = w.rng.choice(['"SAME"', '"VALID"', str([(1, 2)] * d)])
    more = w.rng.choice(["", ", lhs_dilation=" + str((2,) * d), ", rhs_dilation=" + str((2,) * d)])
    image = f"jnp.stack([{v.name}]*{groups})[None]"
    return (
        f"lax.conv_general_dilated({image}, {kernel}, {strides}, {pad}{more}, "
        f"feature_group_count={groups})[0]"
    )


def _convolve(w, v):
    fits(len(v.shape) == 1 and is_float(v))
    kernel = w.matrix((w.rng.randint(1, 3),), v.dtype)
    return w.rng.choice(
        [f'jnp.convolve({v.name}, {kernel}, "same")', f'jnp.correlate({v.name}, {kernel}, "full")']
    )


def _fourier(w, v):
    fits(v.shape and v.dtype in ("float32", "float64"))
    return w.rng.choice(
        [f"jnp.fft.rfft({v.name}).real", f"jnp.fft.fft({v.name}).imag",
         f"jnp.abs(jnp.fft.rfft({v.name}))**2"]
    )  # fmt: skip


def _mapped(w, v):
    """Maps, and scans that carry nothing."""
    fits(v.shape)
    c = w.rng.choice(["0.5", "-0.3"]) if is_float(v) else "1"
    k = w.rng.randint(1, 3)
    W = w.matrix((_rows(w), v.shape[0]), v.dtype)
    return w.rng.choice(
        [f"lax.scan(lambda _, __: (None, {v.name}*{c}), None, None, length={k})[1]",
         f"lax.map(lambda t: t*{c}, {v.name})", f"lax.map(lambda t: jnp.sum(t)*{c}, {v.name})",
         f"lax.map(lambda t: t + {c}, {v.name}, batch_size=2)",
         f"lax.scan(lambda _, i: (None, {v.name}[i]*{c}), None, jnp.arange({v.shape[0]}))[1]",
         f"lax.scan(lambda _, __: (None, jnp.sum({v.name})), None, None, length={k})[1]",
         f"lax.map(lambda r: jnp.tensordot(r, {v.name}, 1), {W}, batch_size={k})",
         f"lax.scan(lambda _, r: (None, (jnp.tensordot(r, {v.name}, 1), r[0])), None, {W})[1][0]",
         f"jax.vmap(lambda r: lax.map(lambda t: t*r, {v.name}))(jnp.arange({k}).astype({v.name}.dtype))"]
    )  # fmt: skip


LINEAR = {
    "product": _product,
    "product again": _product,
    "mapped": _mapped,
    "mapped again": _mapped,
    "wide product": _wide_product,
    "bool product": _bool_product,
    "distance": _distance,
    "total": _total,
    "segments": _segments,
    "window": _window,
    "convolution": _convolution,
    "convolve": _convolve,
    "fourier": _fourier,
}


# -- neither ----------------------------------------------------------------------------------


def _pairs(w, v):
    fits(len(v.shape) == 1)
    J = w.matrix((v.shape[0], v.shape[0]), v.dtype)
    return w.rng.choice(
        [f"{v.name}*jnp.roll({v.name}, 1)", f"{v.name}[1:]*{v.name}[:-1]", f"{v.name}*({J} @ {v.name})",
         f"jnp.dot({v.name}, {v.name})", f"{v.name} @ {J} @ {v.name}",
         f"{v.name}[:, None] == {v.name}[None]", f"jnp.sort({v.name})",
         f"jnp.outer({v.name}, {v.name})", f"jnp.vdot({v.name}, {v.name}[::-1])"]
    )  # fmt: skip


def _running(w, v):
    fits(v.shape and size(v))
    how = w.rng.choice(["cumprod", "cummax", "cummin", "cumlogsumexp"])
    return f"lax.{how}({v.name}, axis={axis(w, v)})"


def _loop(w, v):
    fits(v.shape)
    c = w.rng.choice(["0.5", "-0.3"]) if is_float(v) else "1"
    return w.rng.choice(
        [f"lax.scan(lambda c, t: (({c}*c + t).astype(c.dtype), c), {v.name}[0], {v.name})[1]",
         f"lax.fori_loop(0, 3, lambda i, t: (t*{c}).astype(t.dtype), {v.name})",
         f"lax.fori_loop(0, {v.name}.shape[0], lambda i, t: t + {v.name}[i], jnp.zeros_like({v.name}[0]))",
         f"lax.while_loop(lambda t: jnp.sum(jnp.abs(t)) > 1.0, lambda t: t*0.5, jnp.tanh({v.name}))",
         f"lax.associative_scan(jnp.add, {v.name})"]
    )  # fmt: skip


def _branch(w, v):
    fits(v.shape)
    c = w.rng.choice(["0.0", "1.0"])
    return w.rng.choice(
        [f"lax.cond(jnp.sum({v.name}) > {c}, lambda t: t + t, lambda t: -t, {v.name})",
         f"lax.cond({v.name}.reshape(-1)[0] > {c}, lambda t: t, jnp.zeros_like, {v.name})",
         f"lax.switch(jnp.sum({v.name} > 0, dtype=jnp.int32), [lambda t: t, lambda t: t*t], {v.name})",
         f"jnp.where(jnp.sum({v.name}) > {c}, {v.name}, {v.name}[::-1])",
         f"{v.name}[jnp.clip(jnp.sum({v.name} > 0, dtype=jnp.int32), 0, {v.shape[0] - 1})]"]
    )  # fmt: skip


def _layer(w, v):
    fits(len(v.shape) == 1 and is_float(v))
    W = w.matrix((w.rng.choice([1, 3, 4]), v.shape[0]), v.dtype)
    act = w.rng.choice(["jnp.tanh", "jax.nn.relu", "jnp.square", "jax.nn.softplus", "jnp.cos"])
    return f"{act}({W} @ {v.name})"


def _several(w, v):
    return w.rng.choice(
        [f"jax.nn.softmax({v.name})", f"jax.nn.log_softmax({v.name})", f"{v.name} - jnp.max({v.name})",
         f"{v.name}/jnp.linalg.norm({v.name})", f"({v.name} - jnp.mean({v.name}))",
         f"jnp.maximum({v.name}, jnp.mean({v.name}))", f"jax.nn.logsumexp({v.name}, axis=0)"]
    )  # fmt: skip


def _two(w, v):
    """With an earlier value of the same shape."""
    others = [o for o in w.values if o.shape == v.shape and o.dtype == v.dtype and o != v]
    fits(others)
    o = w.rng.choice(others).name
    return w.rng.choice(
        [f"{v.name} + {o}", f"{v.name}*{o}", f"{v.name} - {o}", f"jnp.maximum({v.name}, {o})",
         f"jnp.where({v.name} > 0, {o}, {v.name})", f"jnp.concatenate([jnp.ravel({v.name}), jnp.ravel({o})])"]
    )  # fmt: skip


BENT = {
    "pairs": _pairs,
    "running": _running,
    "loop": _loop,
    "branch": _branch,
    "layer": _layer,
    "several": _several,
    "two": _two,
}


# -- heads: `h` is a float array, `b` a number ------------------------------------------------

HEADS = {
    "lse": "-jax.nn.logsumexp({b}*{h})",
    "lse over b": "-jax.nn.logsumexp({b}*{h})/{b}",
    "lse by hand": "(lambda t, c: -(c + jnp.log(jnp.sum(jnp.exp(t - c)))))({b}*{h}, jnp.max({b}*{h}))",
    "lse forgets": "(lambda t, c: -jnp.log(jnp.sum(jnp.exp(t - c))))({b}*{h}, jnp.max({b}*{h}))",
    "lse unshifted": "-jnp.log(jnp.sum(jnp.exp({b}*{h})))",
    "lse masked": "-jax.nn.logsumexp({b}*{h}, where={mask})",
    "lse weighted": "-jax.nn.logsumexp({b}*{h}, b={weights})",
    "lse minus infinity": "-jax.nn.logsumexp(jnp.where({mask}, {b}*{h}, -jnp.inf))",
    "lse squared": "-(jax.nn.logsumexp({b}*{h})**2)",
    "lse sine": "jnp.sin({steep}*jax.nn.logsumexp({b}*{h}))",
    "lse bump": "-jnp.exp(-(jax.nn.logsumexp({b}*{h}) - {b})**2)",
    "total powers": "(lambda t, c: (lambda s: -(jnp.log({power}) + c + c + c))(jnp.sum(jnp.exp(t - c))))"
    "({b}*{h}, jnp.max({b}*{h}))",
    "total ratio": "(lambda t: -jnp.sum(t*t)/jnp.sum(t)**2)(jnp.exp({b}*{h} - jnp.max({b}*{h})))",
    "softmax": "-jnp.dot(jax.nn.softmax({b}*{h}), {h})",
    "entropy": "(lambda p: jnp.sum(p*jnp.log(p + 1e-6)))(jax.nn.softmax({b}*{h}))",
    "two totals": "-jax.nn.logsumexp({b}*{h}) + 0.5*jax.nn.logsumexp(-{b}*{h})",
    "pairs of lse": "-jax.nn.logsumexp({b}*{h})*jax.nn.logsumexp(-{h})",
    "max": "-jnp.max({h})",
    "top two": "-jnp.sum(lax.top_k({h}, min(2, {h}.shape[0]))[0])",
    "norm": "-jnp.sqrt(1.0 + jnp.sum(({b}*{h})**2))",
    "relu": "-jnp.sum(jax.nn.relu({b}*{h})**3)",
    "square": "-0.5*jnp.sum({h}**2)",
    "cube": "-jnp.sum({h}**3)",
    "tanh squared": "jnp.sum(jnp.tanh({b}*{h})**2) - 0.1*jnp.sum({h})",
    "sum": "jnp.sum({h})",
    "mean": "jnp.mean({h}*{h})",
    "steps": "jnp.sum(jnp.floor({b}*{h}))",
    "count": "jnp.sum({h} > {b}).astype({h}.dtype)",
    "threshold": "-jnp.sum(jnp.where({h} > {b}, {h}, 0))",
    "product": "jnp.prod(jnp.tanh({b}*{h}))",
    "log": "-jnp.log(jnp.sum({h}))",
    "cosine": "jnp.sum(jnp.cos({steep}*{h}))",
    "exp": "jnp.sum(jnp.exp(-{b}*{h}))",
    "wall": "jnp.sum(jnp.where({h} > {b}, jnp.inf, 0.0).astype({h}.dtype)) - jnp.sum({h})",
    "infinite well": "jnp.sum(jnp.where({h} == {b}, -jnp.inf, {h}))",
    "median": "jnp.sort({h})[{h}.shape[0]//2]",
}
