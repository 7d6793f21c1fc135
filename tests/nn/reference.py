"""The published forward pass, in plain array code of NumPy, or of JAX for its derivatives.

Ramsauer et al. 2021 and `hflayers.functional.hopfield_core_forward`: scores of scaled queries, a
softmax, and where there are updates the average of the keys as the next query.
"""

from typing import Any

import jax
import numpy as np


def association(
    layer: Any,
    stored: Any,
    state: Any,
    projection: Any,
    *,
    steps: int,
    padding: Any = None,
    forbidden: Any = None,
    xp: Any = np,
) -> Any:
    """What a `Hopfield` layer gives for these, and its association matrix."""

    def apart(norm, linear, x):
        if norm is not None:
            mean = xp.mean(x, axis=1, keepdims=True)
            spread = xp.sqrt(xp.mean((x - mean) ** 2, axis=1, keepdims=True) + 1e-5)
            x = (x - mean) / spread * norm.weight[None] + norm.bias[None]
        x = x @ linear.weight.T + linear.bias[None]
        return xp.transpose(xp.reshape(x, (len(x), layer.num_heads, -1)), (1, 0, 2))

    K = apart(layer.norm_stored_pattern, layer.project_stored_pattern, stored)
    q = apart(layer.norm_state_pattern, layer.project_state_pattern, state)
    V = apart(layer.norm_pattern_projection, layer.project_pattern, projection)
    hidden = np.zeros((len(state), len(stored)), bool)
    if padding is not None:
        hidden = hidden | np.asarray(padding)[None]
    if forbidden is not None:
        hidden = hidden | np.asarray(forbidden)
    if layer.add_zero_association:
        K, V = (xp.concatenate([a, xp.zeros_like(a[:, :1])], axis=1) for a in (K, V))
        hidden = np.pad(hidden, ((0, 0), (0, 1)))
    beta, weights = layer.beta[:, None, None], K
    for step in range(steps + 1):
        scores = (q * beta) @ xp.swapaxes(K, 1, 2)
        scores = xp.where(hidden[None], -np.inf, scores)
        weights = xp.exp(scores - xp.max(scores, axis=2, keepdims=True))
        weights = weights / xp.sum(weights, axis=2, keepdims=True)
        if step < steps:
            q = weights @ K
    out = xp.reshape(xp.transpose(weights @ V, (1, 0, 2)), (len(state), -1))
    out = out @ layer.project_output.weight.T + layer.project_output.bias[None]
    return out, weights[:, :, : len(stored)]


def as_numpy(tree: Any) -> Any:
    """A module whose arrays are NumPy's, in float64."""
    return jax.tree.map(lambda a: np.asarray(a, np.float64) if hasattr(a, "shape") else a, tree)
