"""One tiny instance of every public continuous memory, and of a user's own."""

from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import jax.random as jr

import amlib as am
from amlib import continuous as cont
from amlib.continuous.kernel import SEPARATIONS, SIMILARITIES

K, D = 4, 6


class UserHopfield(am.ContinuousAM):
    """What a user writes: the energy alone."""

    def energy(self, x):
        return 0.5 * jnp.sum(x**2) - jnp.log(jnp.sum(jnp.exp(self.Xi @ x)))


class UserCCCP(UserHopfield):
    """The same, saying that unit steps apply."""

    unit_step: ClassVar[bool] = True


def patterns(dtype=None, key: int = 0, K: int = K, D: int = D):
    """Random patterns of norms around one."""
    return (jr.normal(jr.key(key), (K, D)) / D**0.5).astype(dtype or jnp.result_type(float))


def query(dtype=None, key: int = 1, D: int = D):
    """A random state near the first pattern."""
    noise = 0.1 * jr.normal(jr.key(key), (D,))
    return patterns(dtype, D=D)[0] + noise.astype(dtype or jnp.result_type(float))


def _named(kind: type, *args, **options) -> Callable[..., am.AbstractContinuousAM]:
    def make(Xi):
        # Parameters in the dtype of the patterns, as a user of x64 or bfloat16 would have them.
        floats = {k: jnp.asarray(v, Xi.dtype) for k, v in options.items() if type(v) is float}
        return kind(Xi, *args, **(options | floats))

    return make


def _distributed(features) -> Callable[..., am.AbstractContinuousAM]:
    def make(Xi):
        return am.DistributedMemory.store(
            Xi, 4.0, Y=600, key=jr.key(0), features=features, block=256
        )

    return make


def _family(regularizer: Callable, post: Callable = cont.Identity) -> Callable:
    """A Hopfield-Fenchel-Young network, its parts made anew in the dtype of the patterns."""

    def make(Xi):
        cast = lambda leaf: leaf.astype(Xi.dtype)
        parts = jax.tree.map(cast, (regularizer(), post()))
        return am.HopfieldFenchelYoung(Xi, jnp.asarray(4.0, Xi.dtype), *parts)

    return make


ZOO: dict[str, Callable[..., am.AbstractContinuousAM]] = {
    "modern": _named(am.ModernHopfield, beta=4.0),
    "gaussian": _named(am.GaussianMemory, beta=4.0),
    "epanechnikov": _named(am.EpanechnikovMemory, beta=0.9, eps=0.1),
    "softmax": _named(am.SparseHopfield, beta=4.0, alpha=1.0),
    "entmax": _named(am.SparseHopfield, beta=4.0, alpha=1.5),
    "sparsemax": _named(am.SparseHopfield, beta=4.0, alpha=2.0),
    "normmax-sphere": _family(lambda: cont.Normmax(1.5), cont.UnitSphere),
    "subsets-layernorm": _family(lambda: cont.KSubsets(2), cont.LayerNorm),
    "sequential": _family(lambda: cont.SequentialKSubsets(2, 0.7)),
    "entmax-tanh": _family(cont.Entmax, lambda: cont.Tanh(2.0)),
    "polynomial": _named(am.PolynomialMemory, n=3, beta=4.0),
    "signed": _named(am.PolynomialMemory, n=4, beta=4.0, rectified=False),
    "threshold": am.ThresholdMemory,
    "thresholds": _named(am.ThresholdMemory, theta=0.3),
    "distributed": _distributed(am.continuous.SinCos()),
    "cosines": _distributed(am.continuous.Cos()),
    "exponentials": _distributed(am.continuous.ExpExp()),
    "user": UserHopfield,
    "user-cccp": UserCCCP,
} | {
    f"{similarity}-{separation}": _named(am.KernelMemory, similarity, separation, beta=10.0, n=3)
    for similarity in SIMILARITIES
    for separation in SEPARATIONS
    if similarity == "euclidean" or separation == "softmax"
}

UNIT_STEP = (
    "modern", "gaussian", "softmax", "entmax", "sparsemax", "sequential",
    "threshold", "thresholds", "user-cccp",
)  # fmt: skip
"""Those whose energy has the convex part 0.5*||x||^2."""

DISTRIBUTED = ("distributed", "cosines", "exponentials")
"""Those without a pattern matrix, along random directions."""

ORDERED = ("sequential",)
"""Those of which the order of the patterns matters."""

CENTRED = ("subsets-layernorm",)
"""Those that take the mean of a state away, so that single signs matter."""

FEW = (
    "modern",
    "epanechnikov",
    "entmax",
    "entmax-tanh",
    "polynomial",
    "distributed",
    "user",
    "euclidean-softmax",
)
"""One of each kind, for what is expensive."""


def make(name: str, dtype=None, **options) -> am.AbstractContinuousAM:
    """A fresh instance."""
    return ZOO[name](patterns(dtype, **options))
