"""The published circle: networks that learn its points, beside the exact energy of the points.

python benchmarks/diffusion_circle.py

Trainings go on from the folder `cache/` where they were interrupted.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import jax.random as jr
import optax

import amlib as am

SIZES = (2, 4, 9, 20, 50, 1000)
PUBLISHED = (2, 9, 1000)
STEPS, BATCH, EPOCH = 50_000, 128, 1000
CACHE = Path(__file__).parents[1] / "cache"


def circle(K):
    """K points, uniform on the unit circle."""
    angles = jr.uniform(jr.key(9), (max(SIZES),), maxval=2 * jnp.pi)[:K]
    return jnp.stack([jnp.cos(angles), jnp.sin(angles)], 1)


def train(K, quick=False, progress=False):
    """The network that learned K points, averaged, and the history of its loss."""
    Xi = circle(K)
    steps, epoch = (20, 10) if quick else (STEPS, EPOCH)
    rows = BATCH * epoch
    data = jnp.tile(Xi, (-(-rows // K), 1))[:rows]
    network = am.learning.DiffusionNetwork(jr.key(K), (2,), spread=0.5**0.5)
    optimizer = optax.chain(optax.adam(1e-4), am.learning.moving_average(0.9999))
    loss = am.learning.DenoisingScoreMatching()
    CACHE.mkdir(exist_ok=True)
    checkpoint = None if quick else CACHE / f"diffusion_circle_{K}"
    result = am.fit(
        network, data, loss, optimizer, steps // epoch, BATCH, jr.key(K),
        checkpoint=checkpoint, progress=progress,
    )  # fmt: skip
    return am.learning.averaged(result), result.history


if __name__ == "__main__":
    jax.config.update("jax_num_cpu_devices", 1)
    for K in sorted(SIZES, key=lambda K: K not in PUBLISHED):
        history = train(K)[1]
        print(K, history["loss"][-5:], history["seconds"].sum(), flush=True)
