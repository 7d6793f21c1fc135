r"""Energy attention: the synapse whose gradient is the attention of transformers."""

import math
from collections.abc import Sequence
from typing import ClassVar, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks
from amlib._types import IntLike, Key, RealLike, Scalar, ScalarLike, ShapeLike
from amlib.hierarchical.synapses import (
    AbstractSynapse,
    activations_of,
    count,
    normal,
    shapes_of,
    std_field,
    weights,
    weights_field,
)

MaskLike: TypeAlias = Bool[ArrayLike, "queries keys"] | Sequence[Sequence[bool]]


def mask_field(mask: MaskLike | None) -> Array | None:
    """The converter of an optional mask."""
    if mask is None:
        return None
    mask = jnp.asarray(mask)
    if mask.dtype != bool or mask.ndim != 2:
        raise ValueError(
            f"mask: must be a boolean array of shape (queries, keys), True where a query may see "
            f"a key; {mask.dtype}{list(mask.shape)} came."
        )
    return mask


class AttentionSynapse(AbstractSynapse):
    r"""Align queries with keys: energy attention.

    $$E = -\frac1\beta \sum_{h, q} \log \sum_k e^{\beta\, Q_{hq} \cdot K_{hk}}, \qquad
    Q_{hq} = W^Q_h \hat x^1_q, \quad K_{hk} = W^K_h \hat x^2_k$$

    With one layer it attends to itself; with two, the first asks and the second is asked. Minus
    the gradient in the queries is the readout of attention,
    $\sum_h W_h^{Q\top} \sum_k \mathrm{softmax}(\beta QK^\top)_{hqk} K_{hk}$, with the keys as
    values; the keys receive what the queries that look at them ask for. Layers are
    `(*tokens, features)`; one axis is a single token.

    **Arguments:**

    - `heads`: the number of heads, at least 1.
    - `zdim`: the width of queries and keys in each head, at least 1.
    - `beta`: inverse temperature, > 0; trainable. `None` takes $1/\sqrt{\text{zdim}}$.
    - `Wq`, `Wk`: weights, `(heads, zdim, features)` of each layer; `None` waits for `init`. They
      overrule `heads` and `zdim`.
    - `mask`: `True` where a query may see a key, `(queries, keys)`. A query that sees no key adds
      nothing to the energy, and receives nothing.
    - `attend_self`: whether token $q$ of the queries sees token $q$ of the keys.
    - `std`: spread of the initial weights; `None` takes one over the root of the features, which
      gives queries and keys of unit variance.

    **Raises:** `ValueError` for sizes and shapes that do not fit.

    **Reference:** Hoover et al. 2023 (arXiv 2302.07253), eq. 4, which leaves the token itself out
    (`attend_self=False`); its code, and the default here, include it.
    """

    lazy: ClassVar[tuple[str, ...]] = ("Wq", "Wk")

    heads: int = eqx.field(static=True)
    zdim: int = eqx.field(static=True)
    beta: Scalar
    Wq: Float[Array, "..."] | None
    Wk: Float[Array, "..."] | None
    mask: Bool[Array, "queries keys"] | None
    attend_self: bool = eqx.field(static=True)
    std: float | None = eqx.field(static=True)

    def __init__(
        self,
        heads: IntLike = 1,
        zdim: IntLike = 64,
        beta: ScalarLike | None = None,
        Wq: Shaped[ArrayLike, "..."] | None = None,
        Wk: Shaped[ArrayLike, "..."] | None = None,
        *,
        mask: MaskLike | None = None,
        attend_self: bool = True,
        std: RealLike | None = None,
    ):
        self.Wq, self.Wk = weights_field("Wq")(Wq), weights_field("Wk")(Wk)
        if (self.Wq is None) != (self.Wk is None):
            raise ValueError("AttentionSynapse: needs both Wq and Wk, or none; one came.")
        if self.Wq is not None and self.Wk is not None:
            if self.Wq.ndim != 3 or self.Wk.ndim != 3 or self.Wq.shape[:2] != self.Wk.shape[:2]:
                raise ValueError(
                    f"AttentionSynapse: Wq and Wk must have shapes (heads, zdim, features) with "
                    f"the same heads and zdim; {self.Wq.shape} and {self.Wk.shape} came."
                )
            heads, zdim = self.Wq.shape[:2]
        self.heads = checks.integer(heads, 1, "AttentionSynapse: heads")
        self.zdim = checks.integer(zdim, 1, "AttentionSynapse: zdim")
        beta = checks.positive_field("beta")(self.zdim**-0.5 if beta is None else beta)
        self.beta = beta.astype(beta.dtype)  # a dtype of its own, unlike a Python number's
        self.mask = mask_field(mask)
        self.attend_self = bool(attend_self)
        self.std = std_field(std)

    def init(self, key: Key, *shapes: ShapeLike) -> "AttentionSynapse":
        """Draw the weights: see `AbstractSynapse.init`. One layer, or queries and keys."""
        known = shapes_of(shapes, "AttentionSynapse", 1, 2)
        _visible(self, math.prod(known[0][:-1]), math.prod(known[-1][:-1]))
        keys = jr.split(key)
        Wq, Wk = (
            normal(k, (self.heads, self.zdim, D), D**-0.5 if self.std is None else self.std)
            for k, D in zip(keys, (known[0][-1], known[-1][-1]), strict=True)
        )
        return eqx.tree_at(lambda s: (s.Wq, s.Wk), self, (Wq, Wk), is_leaf=lambda x: x is None)

    def __call__(self, *xhats: Shaped[ArrayLike, "..."]) -> Scalar:
        """The energy of the activations of the queries, and of the keys if they are others."""
        gs = activations_of(self, xhats)
        count(gs, "AttentionSynapse", 1, 2)
        Q, K = _project(gs[0], self.Wq, "Wq"), _project(gs[-1], self.Wk, "Wk")
        beta = self.beta.astype(Q.dtype)
        scores = beta * (Q @ K.transpose(0, 2, 1))
        visible = _visible(self, Q.shape[1], K.shape[1])
        if visible is None:
            return -jnp.sum(jax.nn.logsumexp(scores, axis=-1)) / beta
        some = jnp.any(visible, axis=-1)  # a row without keys has no log-sum-exp, and no gradient
        shown = jnp.where((visible | ~some[:, None])[None], scores, -jnp.inf)
        return -jnp.sum(jnp.where(some[None], jax.nn.logsumexp(shown, axis=-1), 0.0)) / beta


def _project(g: Array, W: Array | None, name: str) -> Array:
    """Queries or keys: `(heads, tokens, zdim)`."""
    W = weights(W).astype(g.dtype)
    if g.ndim == 0 or g.shape[-1] != W.shape[-1]:
        raise ValueError(
            f"AttentionSynapse: {name} of shape {W.shape} takes tokens of {W.shape[-1]} features; "
            f"activations of shape {g.shape} came."
        )
    heads, zdim, size = W.shape
    # One matrix product over all heads: XLA's CPU backend is slow at the second derivatives of
    # the einsum "td,hzd->htz".
    z = g.reshape(-1, size) @ W.reshape(heads * zdim, size).T
    return z.reshape(-1, heads, zdim).transpose(1, 0, 2)


def _visible(synapse: AttentionSynapse, queries: int, keys: int) -> Array | None:
    """Which keys each query may see; `None` for all of them."""
    mask = synapse.mask
    if mask is not None and mask.shape != (queries, keys):
        raise ValueError(
            f"AttentionSynapse: the mask must have shape (queries, keys) = ({queries}, {keys}); "
            f"{mask.shape} came."
        )
    if synapse.attend_self:
        return mask
    if queries != keys:
        raise ValueError(
            f"AttentionSynapse: attend_self=False needs as many keys as queries; {keys} and "
            f"{queries} came. Between two layers of different sizes no token is itself."
        )
    others = ~jnp.eye(queries, dtype=bool)
    return others if mask is None else mask & others
