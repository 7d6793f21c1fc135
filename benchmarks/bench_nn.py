"""Layers of `am.nn` against `jax.nn.dot_product_attention` between the same projections.

    python benchmarks/bench_nn.py

Prints ratios of times in one process, theirs over ours (above 1 the layer is faster), of one step
forward and of its gradient; that both give the same numbers is checked. The two are timed in turn.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from machine import describe

import amlib as am

FILE = Path(__file__).parent / "results" / "bench_nn.json"
CASES = {
    # tokens, width, heads, width of a head, batch
    "64 tokens of 256, 8 heads of 32, batch 16": (64, 256, 8, 32, 16),
    "256 tokens of 128, 4 heads of 32, batch 4": (256, 128, 4, 32, 4),
    "16 tokens of 8, 8 heads of 8, batch 32": (16, 8, 8, 8, 32),
}


def by_hand(layer: am.nn.Hopfield, x: jax.Array, mask: jax.Array) -> jax.Array:
    """The same layer with JAX's attention in the place of the memories."""

    def apart(norm: Any, linear: Any) -> jax.Array:
        return jax.vmap(lambda row: linear(norm(row)))(x).reshape(len(x), layer.num_heads, -1)

    q = apart(layer.norm_state_pattern, layer.project_state_pattern)
    k = apart(layer.norm_stored_pattern, layer.project_stored_pattern)
    v = apart(layer.norm_pattern_projection, layer.project_pattern)
    q = q * layer.beta[None, :, None]
    out = jax.nn.dot_product_attention(q, k, v, mask=~mask[None, None], scale=1.0)
    return jax.vmap(layer.project_output)(out.reshape(len(x), -1))


def in_turn(fns: list[Callable[[], Any]], repeats: int = 31) -> list[float]:
    """The least times of functions that are called in turn."""
    times: list[list[float]] = [[] for _ in fns]
    for _ in range(repeats):
        for fn, kept in zip(fns, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(fn())
            kept.append(time.perf_counter() - start)
    return [min(kept) for kept in times]


def gradient(fn: Callable[..., Any]) -> Callable[..., Any]:
    """The gradient of the sum of squares, in the first argument."""
    return eqx.filter_grad(lambda *args: jnp.sum(fn(*args) ** 2))


def compare(ours: Callable[..., Any], theirs: Callable[..., Any], args: Any) -> dict[str, float]:
    """Times of both, forward and with the gradient, after a look that they agree."""
    found = {}
    for name, make in (("forward", lambda fn: fn), ("gradient", gradient)):
        programs = [eqx.filter_jit(make(fn)) for fn in (ours, theirs)]
        a, b = (jax.tree.leaves(p(*args)) for p in programs)
        scale = max(float(jnp.max(jnp.abs(other))) for other in b)  # some are 0 but for rounding
        for one, other in zip(a, b, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * scale)
        mine, other = in_turn([lambda p=p: p(*args) for p in programs])
        found |= {f"{name}_ms": round(1e3 * mine, 3), f"{name}, theirs / ours": other / mine}
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    rows = {}
    for name, (tokens, width, heads, head, batch) in CASES.items():
        layer = am.nn.Hopfield(
            width, head, num_heads=heads, add_zero_association=False, std=0.1, key=jr.key(0)
        )
        x = jr.normal(jr.key(1), (batch, tokens, width))
        mask = jnp.broadcast_to(jnp.arange(tokens) > tokens * 3 // 4, (batch, tokens))
        call = lambda layer, x, m: jax.vmap(lambda x, m: layer(x, stored_pattern_padding_mask=m))(
            x, m
        )
        hand = lambda layer, x, m: jax.vmap(lambda x, m: by_hand(layer, x, m))(x, m)
        rows[f"layer: {name}"] = compare(call, hand, (layer, x, mask))
        print(name, json.dumps(rows[f"layer: {name}"]), flush=True)
    q, k, v = (jr.normal(jr.key(n), (1024, 64)) for n in range(3))
    bias, mask = jr.normal(jr.key(3), (1024, 1024)), jnp.tril(jnp.ones((1024, 1024), bool))
    ours = lambda q, k, v, mask, bias: am.attention(q, k, v, mask=mask, bias=bias)
    theirs = lambda q, k, v, mask, bias: jax.nn.dot_product_attention(
        q[:, None], k[:, None], v[:, None], mask=mask[None], bias=bias[None]
    )[:, 0]
    name = "attention: 1,024 queries and keys of 64, mask and bias"
    rows[name] = compare(ours, theirs, (q, k, v, mask, bias))
    print(name, json.dumps(rows[name]), flush=True)
    FILE.write_text(json.dumps({"machine": describe(), "cases": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
