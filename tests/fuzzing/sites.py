"""Random energies, one operation at a time: functions of single elements, and moves.

Each table maps a name to a production `(writer, value) -> expression`, where `value` has a `name`,
a `shape` and a `dtype`. A production that does not fit raises `Unfit`, and so does one whose
expression JAX refuses: `energies.Writer` then draws another. To teach the fuzzer an operation, add
one line here, or to `sums` or `heads`.
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

FLOAT_SITES = {
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
INTEGER_SITES = {
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
BOOL_SITES = {
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


def look_up(w, v):
    """A table that is read at the bit, or a bit as a unit vector."""
    fits(v.shape)
    table = w.spins_or_reals((2,), w.float)
    return w.rng.choice(
        [f"jnp.asarray({table})[({v.name} > 0).astype(jnp.int32)]",
         f"jax.nn.one_hot(({v.name} > 0).astype(jnp.int32), 2, dtype=jnp.{w.float})"]
    )  # fmt: skip


def inside(w, v):
    """With a constant that the energy makes itself."""
    fits(is_float(v) and v.shape)
    made = w.rng.choice(
        [f"jax.random.normal(jax.random.key(3), {v.shape}, jnp.{v.dtype})",
         f"jnp.arange({size(v)}, dtype=jnp.{v.dtype}).reshape({v.shape})",
         f"lax.broadcasted_iota(jnp.{v.dtype}, {v.shape}, 0)"]
    )  # fmt: skip
    return f"{v.name}*{made}"


def pack(w, v):
    fits(v.shape)
    if v.dtype == "uint8" and w.rng.random() < 0.5:
        return f"jnp.unpackbits({v.name}, axis=-1)"
    return f"jnp.packbits({v.name} > 0, axis=-1)"


def site(w, v):
    """Any function of single elements."""
    table = {"bool": BOOL_SITES}.get(v.dtype, FLOAT_SITES if is_float(v) else INTEGER_SITES)
    kinds = (
        [text_site(table)] * 5
        + [pattern_site, cast, cast, look_up, inside]
        + ([pack] if not is_float(v) else [])
    )
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
         f"jnp.concatenate([{v.name}, {v.name}[::-1]])",
         f"jnp.stack([{v.name}, {v.name}], axis=-1)"]
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
