"""Random energies: operations that sum elements, and those that mix them in other ways.

`LINEAR` operations are linear in what they take, `BENT` ones are not; see `sites` for the form.
"""

from tests.fuzzing.sites import axis, fits, is_float, size

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


def _batched_product(w, v):
    """Contractions over two axes, or over one with the other as a batch."""
    fits(len(v.shape) == 2)
    a, b = v.shape
    W = w.matrix((_rows(w), a, b), v.dtype)
    left, right = w.matrix((2, a), v.dtype), w.matrix((b, 3), v.dtype)
    return w.rng.choice(
        [f"jnp.tensordot({W}, {v.name}, 2)", f'jnp.einsum("ab,kab->ak", {v.name}, {W})',
         f'jnp.einsum("kab,ab->bk", {W}, {v.name})', f"{left} @ {v.name}", f"{v.name} @ {right}",
         f"{left} @ {v.name} @ {right}", f'jnp.einsum("ab,ab->", {v.name}, {W}[0])',
         f"jax.vmap(jnp.dot)({v.name}, {W}[0])"]
    )  # fmt: skip


def _wide_product(w, v):
    """Into a wider type, by `preferred_element_type`."""
    fits(len(v.shape) == 1)
    narrow = w.rng.choice(["int8", "uint8", "float16", "bfloat16", "int16"])
    scale = w.rng.choice(["", "", "100*", "60*"]) if v.dtype != "bool" else ""
    wide = "float32" if "float" in narrow else w.rng.choice(["int32", "int32", "float32"])
    W = w.matrix((_rows(w), v.shape[0]), narrow)
    return (
        f"lax.dot({W}, ({scale}{v.name}).astype(jnp.{narrow}), preferred_element_type=jnp.{wide})"
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
         f"jnp.sum(lax.population_count({P}.astype(jnp.uint8) ^ {v.name}.astype(jnp.uint8)), 1)",
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
    # A start that changes nothing: with another, two programs of XLA give one energy two values.
    low, high = (f"jnp.iinfo(jnp.{v.dtype}).{end}" for end in ("min", "max"))
    if is_float(v):
        low, high = "-jnp.inf", "jnp.inf"
    op, start = w.rng.choice([("add", "0"), ("add", "0"), ("max", low), ("min", high)])
    init = f"jnp.asarray({start}, {v.name}.dtype)"
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
    if w.rng.random() < 0.2:  # the state is the kernel
        still = w.matrix((1, 1, *[n + 2 for n in v.shape]), v.dtype)
        return f"lax.conv_general_dilated({still}, {v.name}[None, None], {strides}, {pad})[0]"
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
         f"jax.vmap(lambda r: lax.map(lambda t: t*r, {v.name}))(jnp.ones({k}, {v.name}.dtype))"]
    )  # fmt: skip


LINEAR = {
    "product": _product,
    "product again": _product,
    "mapped": _mapped,
    "mapped again": _mapped,
    "batched product": _batched_product,
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
        [f"{v.name}*jnp.roll({v.name}, 1)", f"{v.name}[1:]*{v.name}[:-1]",
         f"{v.name}*({J} @ {v.name})",
         f"jnp.dot({v.name}, {v.name})", f"{v.name} @ {J} @ {v.name}",
         f"{v.name}[:, None] == {v.name}[None]", f"jnp.sort({v.name})",
         f"jnp.outer({v.name}, {v.name})", f"jnp.vdot({v.name}, {v.name}[::-1])"]
    )  # fmt: skip


def _running(w, v):
    fits(v.shape and size(v))
    how = w.rng.choice(["cumprod", "cummax", "cummin", "cumlogsumexp"])
    fits(how != "cumlogsumexp" or is_float(v))  # JAX has none of integers, but says so late
    return f"lax.{how}({v.name}, axis={axis(w, v)})"


def _loop(w, v):
    fits(v.shape)
    c = w.rng.choice(["0.5", "-0.3"]) if is_float(v) else "1"
    return w.rng.choice(
        [f"lax.scan(lambda c, t: (({c}*c + t).astype(c.dtype), c), {v.name}[0], {v.name})[1]",
         f"lax.fori_loop(0, 3, lambda i, t: (t*{c}).astype(t.dtype), {v.name})",
         f"lax.fori_loop(0, {v.shape[0]}, lambda i, t: t + {v.name}[i], 0*{v.name}[0])",
         f"lax.while_loop(lambda t: jnp.sum(jnp.abs(t)) > 1, lambda t: t*0.5, jnp.tanh({v.name}))",
         f"lax.associative_scan(jnp.add, {v.name})"]
    )  # fmt: skip


def _branch(w, v):
    fits(v.shape)
    c = w.rng.choice(["0.0", "1.0"])
    return w.rng.choice(
        [f"lax.cond(jnp.sum({v.name}) > {c}, lambda t: t + t, lambda t: -t, {v.name})",
         f"lax.cond({v.name}.reshape(-1)[0] > {c}, lambda t: t, jnp.zeros_like, {v.name})",
         f"lax.switch(jnp.int32({v.name}.sum() > 0), [lambda t: t, lambda t: t*t], {v.name})",
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
        [f"jax.nn.softmax({v.name})", f"jax.nn.log_softmax({v.name})",
         f"{v.name} - jnp.max({v.name})",
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
         f"jnp.where({v.name} > 0, {o}, {v.name})",
         f"jnp.concatenate([jnp.ravel({v.name}), jnp.ravel({o})])"]
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


# -- terms of few bits ------------------------------------------------------------------------

FEW = (
    "{a}*{b}", "{J}*{a}*{b}", "{a}*{b}*{c}", "{J}*{a}*{b} + {a}", "jnp.tanh({a} + 0.5*{b})*{J}",
    "jnp.where(({a} > 0) & ({b} < 0), {big}, 0.1*{c})", "jnp.where({a} == {b}, {J}, {big})",
    "jnp.exp(0.7*{a}*{b})", "({a} != {b})", "jnp.abs({a} - {b})*{J}", "({a} + {b} + {c})**2",
    "jnp.maximum({a}, {b})*{c}", "jax.nn.logsumexp(jnp.stack([{a}, 2*{b}]), axis=0)",
    "jnp.prod(jnp.stack([{a}, {b}, {c}]), 0)", "({a} > 0).astype(jnp.int32)*({b} > 0)",
    "{a}*({b} + {J}*{c})", "jax.nn.relu({a} + {b})*{big}", "{J}/(1.5 + {a}*{b})",
    "{a}.astype(jnp.int8)*{b}.astype(jnp.int8)", "{big}*({a} - {b})**2 + {J}*{c}",
)  # fmt: skip
"""Terms of three arrays of bits and weights `J`."""

SUMS_OF_FEW = (
    "jnp.sum({v})", "jnp.sum({v})", "0.3*jnp.sum({v})", "-jnp.sum({v}) + 0.7*jnp.sum({v}*{v})",
    "jnp.sum({v}[::2]) - 2*jnp.sum({v}[1::2])", "jnp.mean({v})", "jnp.ones({n}, {v}.dtype) @ {v}",
    "jnp.sum(jax.ops.segment_sum({v}, np.arange({n}) % {groups}, {groups})**2)",
    "jnp.log(1 + jnp.sum({v})**2)", "jnp.max({v})", "jax.nn.logsumexp({v})",
)  # fmt: skip
"""From the terms to a number."""
