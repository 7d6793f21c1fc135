"""Forces of a hierarchical memory: the Legendre identity against plain `jax.grad`.

    python benchmarks/bench_ham.py

Prints ratios of times in one process, and that both give the same numbers. Of the energy as a
function of the activations, `jax.grad` knows nothing of the identity, and differentiates the
layers' part too; of the energy as a function of the states it must differentiate every activation,
and gives another vector (the forces times the activation's Jacobian).
"""

import json
from pathlib import Path

import equinox as eqx
import jax
import jax.random as jr
import numpy as np
from machine import describe, seconds

import amlib as am
from amlib.hierarchical import energies, models

RESULTS = Path(__file__).parent / "results"
CASES = {
    "two-layer classifier (relu, 1000)": (models.hopfield_classifier, 200),
    "convolutional classifier": (models.conv_ham, 10),
    "attention classifier": (models.attention_ham, 20),
}


def forces(ham, xs):
    """The library's."""
    xhats = energies.activations(ham, xs)
    return energies.forces(ham, xhats, xs, tuple(xs))


def plain(ham, xs):
    """`jax.grad` of the energy in the activations."""
    xhats = energies.activations(ham, xs)
    return jax.grad(lambda g: energies.energy(ham, g, xs))(xhats)


def in_states(ham, xs):
    """`jax.grad` of the energy in the states, through the activations."""
    return jax.grad(lambda x: energies.energy(ham, energies.activations(ham, x), x))(xs)


def clamped(ham, xs):
    """The library's, with the image clamped."""
    xhats = energies.activations(ham, xs)
    return energies.forces(ham, xhats, xs, tuple(name for name in xs if name != "image"))


def main() -> None:
    rows = {}
    for name, (make, batch) in CASES.items():
        ham = make(jr.key(0)).ham
        xs = ham.init_states(batch, key=jr.key(1))
        weights, rest = eqx.partition(ham, eqx.is_array)

        def timed(fn, weights=weights, rest=rest, xs=xs):
            run = jax.jit(lambda w, x: jax.vmap(lambda x: fn(eqx.combine(w, rest), x))(x))
            out = jax.block_until_ready(run(weights, xs))
            return seconds(lambda: run(weights, xs)), out

        ours, expected = timed(forces)
        theirs, same = timed(plain)
        for layer in xs:
            np.testing.assert_allclose(expected[layer], same[layer], rtol=1e-3, atol=1e-4)
        through, _ = timed(in_states)
        held, _ = timed(clamped)

        def recall(ham, x):
            return ham.recall(x, 4, 0.4, clamp="image").x["label"]

        def loop(ham, x):
            for _ in range(4):
                pull = plain(ham, x)
                x = {k: v if k == "image" else v - 0.4 * pull[k] for k, v in x.items()}
            return x["label"]

        mine, end = timed(recall)
        hand, other = timed(loop)
        np.testing.assert_allclose(end, other, rtol=1e-3, atol=1e-4)
        row = {
            "batch": batch,
            "forces_ms": 1e3 * ours,
            "grad in activations / forces": theirs / ours,
            "grad in states / forces": through / ours,
            "forces / forces with the image clamped": ours / held,
            "recall_ms (4 steps, image clamped)": 1e3 * mine,
            "loop of jax.grad with masks / recall": hand / mine,
        }
        rows[name] = {k: round(v, 3) for k, v in row.items()}
        print(name, json.dumps(rows[name], indent=1), flush=True)
    text = {"machine": describe(), "amlib": am.__version__, "cases": rows}
    (RESULTS / "bench_ham.json").write_text(json.dumps(text, indent=1) + "\n")


if __name__ == "__main__":
    main()
