"""Decisions that all lanes of a `vmap` take together.

A predicate with a batch axis turns a `lax.cond` into a `select`, which computes both branches. One
predicate for all lanes keeps it a branch. Without `vmap` these return what they are given.
"""

import jax
from jaxtyping import Array, Bool


@jax.custom_batching.custom_vmap
def any_lane(p: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether `p` holds in any lane of a surrounding `vmap`; the answer has no batch axis."""
    return p


@any_lane.def_vmap
def _(axis_size, in_batched, p):
    del axis_size
    return any_lane(p.any(0) if in_batched[0] else p), False


def all_lanes(p: Bool[Array, ""]) -> Bool[Array, ""]:
    """Whether `p` holds in every lane of a surrounding `vmap`; the answer has no batch axis."""
    return ~any_lane(~p)
