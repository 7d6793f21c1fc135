"""An energy in which every operation rounds in another way: Monte Carlo arithmetic.

**Reference:** Parker 1997, *Monte Carlo arithmetic: exploiting randomness in floating-point
arithmetic*; here on the jaxpr of an energy.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jcore

from tests.fuzzing.energies import MAX_SIZE

_NOISE = np.random.default_rng(0).uniform(-1, 1, 20_011).astype(np.float32)

_CALLS = {
    **dict.fromkeys(("jit", "pjit", "checkpoint", "remat2"), "jaxpr"),
    **dict.fromkeys(("closed_call", "custom_jvp_call", "custom_vjp_call"), "call_jaxpr"),
}
_EXACT = frozenset(
    """reshape transpose broadcast_in_dim squeeze expand_dims slice rev concatenate pad copy gather
    dynamic_slice dynamic_update_slice select_n neg abs sign floor ceil round max min clamp
    reduce_max reduce_min argmax argmin stop_gradient copy_p iota sort scatter cummax cummin
    optimization_barrier top_k split is_finite""".split()
)
_SUMS = frozenset(
    """dot_general conv_general_dilated reduce_sum cumsum reduce_window_sum scatter-add scatter_add
    fft scan while cond cumlogsumexp cumprod reduce_prod""".split()
)
_WIDENED = frozenset("dot_general conv_general_dilated reduce_sum cumsum reduce_window_sum".split())
_RATIONAL = _SUMS | frozenset("add sub add_any mul integer_pow square convert_element_type".split())


def perturbed_energy(energy: Any, x: jax.Array, k: Any, least: float = 0.0) -> jax.Array:
    """The energy with every operation that rounds rounded in another way, the `k`-th.

    **Arguments:**

    - `least`: sums err as sums of this size do, where they are smaller: what was carried there
      from other states has the rounding of those, and is not exactly zero where they cancel.
    """
    closed = jax.make_jaxpr(energy)(x)
    count = [0]
    (e,) = _perturbed(closed.jaxpr, closed.consts, [x], k, count, least)
    return e


def _perturbed(
    jaxpr: Any, consts: Any, args: Any, k: jax.Array, count: list[int], least: float
) -> list[Any]:
    env = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(
        zip(jaxpr.invars, args, strict=True)
    )

    def read(atom):
        return atom.val if isinstance(atom, jcore.Literal) else env[atom]

    for e in jaxpr.eqns:
        values = [read(a) for a in e.invars]
        name = e.primitive.name
        if name in _CALLS:
            sub = e.params[_CALLS[name]]
            inner, c = (sub.jaxpr, sub.consts) if hasattr(sub, "consts") else (sub, [])
            outs = _perturbed(inner, c, values, k, count, least)
        else:
            rounds = 0.0 if name in _EXACT else 1.0 - _is_exact(name, values)
            if name in _SUMS:
                values = [v if _is_half(v) else _noisy(v, k, count, rounds) for v in values]
            wide = name in _WIDENED and e.outvars[0].aval.dtype in (jnp.bfloat16, jnp.float16)
            params = dict(e.params)
            if wide and "preferred_element_type" in params:
                # Some devices add halves in float32 and round once, others on the way.
                params["preferred_element_type"] = np.dtype("float32")
            elif wide:
                values = [v.astype("float32") for v in values]
            outs = e.primitive.bind(*values, **params)
            outs = list(outs) if e.primitive.multiple_results else [outs]
            if wide:
                half = e.outvars[0].aval.dtype
                narrow = e.primitive.bind(*[read(a) for a in e.invars], **e.params)
                once = _noisy(outs[0], k, count, rounds).astype(half)
                # A compiler may also keep the sum in float32 and never round it: half a unit.
                outs = [jnp.where(k % 2 == 0, once, _noisy(narrow, k, count, rounds))]
            elif name not in _EXACT:
                absolute = (
                    16.0 if name in _SUMS else 40.0 if name in ("log", "cumlogsumexp") else 0.0
                )
                if least and name in _SUMS:
                    rounds = 1.0
                top = (1.0, 1.0) if name == "log" else (least, jnp.inf)
                outs = [_noisy(o, k, count, rounds, absolute, top) for o in outs]
        env.update(zip(e.outvars, outs, strict=True))
    return [read(a) for a in jaxpr.outvars]


def _is_exact(name: str, values: list[Any]) -> Any:
    """1 where all operands are small dyadic numbers, on which sums and products are exact."""
    if name not in _RATIONAL:
        return 0.0
    exact = jnp.asarray(True)
    for v in values:
        v = jnp.asarray(v)
        if jnp.issubdtype(v.dtype, jnp.complexfloating):
            return 0.0
        if not jnp.issubdtype(v.dtype, jnp.floating):
            continue
        steps, largest = {2: (1, 16), 4: (64, 64), 8: (2**20, 2**16)}[v.dtype.itemsize]
        scaled = v.astype("float32") * steps
        exact &= ((scaled == jnp.round(scaled)) & (jnp.abs(scaled) <= largest * steps)).all()
    return exact.astype(jnp.float32)


def _is_half(v: Any) -> bool:
    return jnp.asarray(v).dtype in (jnp.bfloat16, jnp.float16)


def _noisy(
    v: Any,
    k: Any,
    count: list[int],
    rounds: Any,
    absolute: float = 0.0,
    top: tuple[Any, Any] = (0.0, jnp.inf),
) -> Any:
    v = jnp.asarray(v)
    if not jnp.issubdtype(v.dtype, jnp.inexact):
        return v
    count[0] += 1
    start = (k * 7919 + count[0] * 104729) % (_NOISE.size - MAX_SIZE)
    table = jnp.asarray(_NOISE)
    if v.size <= MAX_SIZE:
        drawn = lax.dynamic_slice(table, (start,), (v.size,))
    else:  # larger than what is drawn: a value inside of an operation
        drawn = table[(start + jnp.arange(v.size)) % _NOISE.size]
    u = drawn.reshape(v.shape) * rounds
    half = v.dtype.itemsize == 2
    eps = float(jnp.finfo(v.dtype).eps)
    relative = (u * (eps / 2 if half else 4 * eps)).astype(v.real.dtype)
    moved = v + v * relative
    if absolute and not half:
        largest = jnp.max(jnp.where(jnp.isfinite(v), jnp.abs(v), 0), initial=0)
        size = jnp.clip(largest, *top).astype(v.real.dtype)
        moved = moved + jnp.where(
            jnp.isfinite(v), (u * absolute * eps).astype(v.real.dtype) * size, 0
        )
    return jnp.where(jnp.isfinite(v), moved, v).astype(v.dtype)
