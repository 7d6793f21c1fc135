"""One small instance of every Lagrangian (as a layer) and of every synapse."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import jax.random as jr

import amlib as am

LAGRANGIANS: dict[str, Callable[..., am.NeuronLayer]] = {
    "identity": am.IdentityLayer,
    "relu": am.ReluLayer,
    "repu": lambda shape, **k: am.RepuLayer(shape, n=3, **k),
    "exp": lambda shape, **k: am.ExpLayer(shape, beta=0.5, **k),
    "rexp": lambda shape, **k: am.RexpLayer(shape, beta=0.5, **k),
    "tanh": lambda shape, **k: am.TanhLayer(shape, beta=1.5, **k),
    "sigmoid": lambda shape, **k: am.SigmoidLayer(shape, beta=1.5, **k),
    "softmax": lambda shape, **k: am.SoftmaxLayer(shape, beta=1.5, **k),
    "layernorm": lambda shape, **k: am.LayerNormLayer(shape, gamma=1.5, delta=0.1, **k),
    "spherical": lambda shape, **k: am.SphericalNormLayer(shape, gamma=1.5, delta=0.1, **k),
    "ghostmax": lambda shape, **k: am.GhostmaxLayer(shape, beta=1.5, **k),
}
"""Name -> a layer of the shape that is asked for; `tau` is passed on."""

MASK = ((True, False, True), (False, False, False), (True, True, True))
POOLED = ((8, 8, 2), (3, 3, 3))


def _made(lazy: Any, *shapes: Any) -> tuple[Callable[[Any], Any], tuple[tuple[int, ...], ...]]:
    return (lambda key: lazy.init(key, *shapes)), shapes


SYNAPSES: dict[str, tuple[Callable[[Any], Any], tuple[tuple[int, ...], ...]]] = {
    "dense": _made(am.DenseSynapse(), (2, 3), (4,)),
    "dense-bias": ((lambda key: am.LinearSynapseWithBias.rand_init(key, 5, 4)), ((5,), (4,))),
    "dense-three": _made(am.DenseSynapse(bias=True), (2, 3), (4,), (3,)),
    "matrix": _made(am.DenseMatrixSynapse(7), (2, 3), (4,)),
    "matrix-softmax": _made(
        am.DenseMatrixSynapse(
            (2, 4), am.Lagrangian(am.lagr_softmax, {"beta": 2.0}), normalize=True
        ),
        (5,),
    ),
    "matrix-patches": _made(
        am.DenseMatrixSynapse(7, am.lagr_repu, axes="last"), (2, 3, 4), (2, 3, 2)
    ),
    "tensor": _made(am.DenseTensorSynapse(6), (2, 3), (4,)),
    "tensor-patches": _made(
        am.DenseTensorSynapse(6, am.lagr_tanh, axes="last", normalize=True), (3, 4), (3, 2)
    ),
    "mixer": _made(am.MixerSynapse(5, 6), (3, 4)),
    "conv": _made(am.ConvSynapse((3, 3), strides=2, bias=True), (5, 5, 2), (3, 3, 3)),
    "conv-avg": _made(am.ConvPoolSynapse(3, padding="VALID", pool="avg"), *POOLED),
    "conv-max": _made(am.ConvPoolSynapse(3, padding="VALID", pool="max"), *POOLED),
    "self-attention": _made(am.AttentionSynapse(2, 5, attend_self=False), (4, 3)),
    "cross-attention": _made(am.AttentionSynapse(2, 5), (4, 3), (2, 2, 4)),
    "masked-attention": _made(am.AttentionSynapse(2, 5, mask=MASK), (3, 4)),
    "bias": _made(am.BiasSynapse(std=1.0), (2, 3)),
}
"""Name -> a builder `key -> synapse`, and the shapes of the layers that it connects."""


def synapse(name: str, seed: int = 0) -> Any:
    """A fresh instance."""
    return SYNAPSES[name][0](jr.key(seed))


def activations(name: str, batch: int | None = None, seed: int = 1, dtype: Any = None) -> list:
    """Random activations for a synapse."""
    shapes = SYNAPSES[name][1]
    lead = () if batch is None else (batch,)
    keys = jr.split(jr.key(seed), len(shapes))
    dtype = dtype or jnp.result_type(float)
    return [jr.normal(k, lead + s).astype(dtype) for k, s in zip(keys, shapes, strict=True)]
