"""Passes between minima of real states: the string method, then Newton's method to the saddle."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
from jax import lax
from jaxtyping import Array

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._types import EnergyFn, Key
from amlib.analysis.spectrum import hessian, negative
from amlib.descent.plan import scalar_output
from amlib.memory import AbstractMemory

CANDIDATES = 3
"""How many peaks of each string are refined: the highest ones."""

_ROUND = 50  # steps between two looks at the curvature, and at whether the string still moves


class Saddle(NamedTuple):
    """A saddle, the string that led to it and where on that it lies, and how well it is one."""

    x: np.ndarray
    images: np.ndarray
    place: int
    energy: float
    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    gradient: float


def first_strings(
    a: Array, b: Array, patterns: Array | None, images: int, tries: int, key: Key
) -> Array:
    """Strings of flat states: a straight one, hardly disturbed, and others that bend aside.

    Every other one bends towards a pattern, where there are some, the rest in random directions.
    """
    t = jnp.linspace(0, 1, images, dtype=a.dtype)[:, None]
    straight = (1 - t) * a[None] + t * b[None]
    far = jnp.linalg.norm(b - a)
    bend = jnp.sin(jnp.pi * t)

    def one(k: int) -> Array:
        own = jr.fold_in(key, k)
        aside = jr.normal(own, a.shape, a.dtype)
        if k and k % 2 == 0 and patterns is not None:
            chosen = jr.randint(own, (), 0, len(patterns))
            return straight + 0.5 * bend * (patterns[chosen] - 0.5 * (a + b))[None]
        size = 1e-3 if k == 0 else 0.3
        return straight + size * far / jnp.linalg.norm(aside) * bend * aside[None]

    return jnp.stack([one(k) for k in range(tries)])


@compiled
def relaxed_strings(memory: AbstractMemory, strings: Array, shape: tuple[int, ...], limit: Array):
    """Strings `(tries, images, D)` that have come to rest across themselves.

    Each step goes down the gradient, by one over the largest curvature on the string, and spreads
    the images evenly again. It ends when `_ROUND` steps move no image by a thousandth of the
    distance between two.

    **Reference:** E, Ren and Vanden-Eijnden 2007, the simplified string method.
    """
    energy = _flat(memory, shape)
    return lax.map(lambda string: _relaxed(energy, string, limit), strings)


def _flat(memory: AbstractMemory, shape: tuple[int, ...]) -> EnergyFn:
    """The energy of a flat state."""
    wide = checks.widen(memory)
    energy = lambda x: wide.energy(x.reshape(shape))
    scalar_output(energy, jax.ShapeDtypeStruct((int(np.prod(shape)),), jnp.result_type(float)))
    return energy


def _relaxed(energy: EnergyFn, string: Array, limit: Array) -> Array:
    grad = jax.grad(energy)

    def curvature(x: Array) -> Array:
        """The size of the largest eigenvalue of the Hessian, by power iteration."""
        product = lambda v: jax.jvp(grad, (x,), (v,))[1]

        def turn(_: Array | int, v: Array) -> Array:
            w = product(v)
            return w / jnp.maximum(jnp.linalg.norm(w), jnp.finfo(w.dtype).tiny)

        start = jr.normal(jr.key(0), x.shape, x.dtype)
        v = lax.fori_loop(0, 12, turn, start / jnp.linalg.norm(start))
        return jnp.linalg.norm(product(v))

    def step(_: Array | int, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        string, size = carry
        moved = string[1:-1] - size * jax.vmap(grad)(string[1:-1])
        return _even(jnp.concatenate([string[:1], moved, string[-1:]])), size

    def some(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        string, done, _ = carry
        size = 0.9 / jnp.max(jax.vmap(curvature)(string))
        new, _ = lax.fori_loop(0, _ROUND, step, (string, size))
        spacing = _length(new)[-1] / (string.shape[0] - 1)
        still = jnp.max(jnp.linalg.norm(new - string, axis=1)) > 1e-3 * spacing
        return new, done + _ROUND, still  # a comparison with NaN ends it, too

    go_on = lambda carry: carry[2] & (carry[1] < limit)
    start = string, jnp.zeros((), jnp.int32), jnp.asarray(True)
    return lax.while_loop(go_on, some, start)[0]


def _length(string: Array) -> Array:
    """The length of a string up to each image."""
    pieces = jnp.linalg.norm(jnp.diff(string, axis=0), axis=1)
    return jnp.concatenate([jnp.zeros((1,), string.dtype), jnp.cumsum(pieces)])


def _even(string: Array) -> Array:
    """The same string with its images at equal distances along it."""
    along = _length(string)
    at = jnp.linspace(0, 1, string.shape[0], dtype=string.dtype) * along[-1]
    return jax.vmap(lambda column: jnp.interp(at, along, column), 1, 1)(string)


@compiled
def _refined(memory: AbstractMemory, starts: Array, shape: tuple[int, ...]):
    """From states near saddles: Newton's ends, their energies, indices and gradients."""
    energy = _flat(memory, shape)
    grad = jax.grad(energy)
    tol = float(jnp.finfo(starts.dtype).eps) ** (2 / 3)

    def one(x: Array) -> tuple[Array, Array, Array, Array]:
        solver = optx.Newton(rtol=tol, atol=tol)
        end = optx.root_find(lambda x, _: grad(x), solver, x, max_steps=50, throw=False).value
        index = negative(jnp.linalg.eigvalsh(hessian(energy, end)))
        return end, energy(end), index, jnp.max(jnp.abs(grad(end)))

    return lax.map(one, starts)


def peaks(energy: np.ndarray) -> np.ndarray:
    """The numbers of the highest images that are no lower than their neighbours; always as many."""
    inner = np.arange(1, len(energy) - 1)
    tops = inner[(energy[inner] >= energy[inner - 1]) & (energy[inner] >= energy[inner + 1])]
    tops = tops if tops.size else inner
    tops = tops[np.argsort(-energy[tops], kind="stable")][:CANDIDATES]
    return np.resize(tops, CANDIDATES)


def saddle_of(
    memory: AbstractMemory, strings: np.ndarray, energy: np.ndarray, shape: tuple[int, ...]
) -> Saddle:
    """The lowest pass of several strings: of each the highest peak that Newton's method confirms.

    A string whose peak is not confirmed, that is, whose saddle has another index than 1 or lies
    far from the peak, counts only where there is no other; the peak itself then stands.
    """
    places = np.stack([peaks(e) for e in energy])
    starts = np.take_along_axis(strings, places[..., None], 1)
    found = _refined(memory, jnp.asarray(starts.reshape(-1, starts.shape[-1])), shape)
    x, height, index, gradient = (np.asarray(a).reshape(*places.shape, *a.shape[1:]) for a in found)
    tol = float(np.finfo(x.dtype).eps) ** 0.5
    best: list[tuple[bool, float, Saddle]] = []
    for k, string in enumerate(strings):
        spacing = np.linalg.norm(np.diff(string, axis=0), axis=1).max()
        near = np.linalg.norm(x[k] - starts[k], axis=1) <= 2 * spacing
        size = np.abs(string).max()
        good = near & (index[k] == 1) & (gradient[k] <= tol * max(1.0, size))
        # The highest peak decides; a lower one would leave a part of the path above it.
        sure = bool(good[0])
        j = int(np.where(good, height[k], -np.inf).argmax()) if sure else 0
        if not sure:  # what is known of the peak itself
            at = starts[k][:1]
            own = at[0], float(energy[k][places[k, 0]]), *_judged(memory, at, shape)
        else:
            own = x[k, j], float(height[k, j]), int(index[k, j]), float(gradient[k, j])
        saddle = Saddle(own[0], string, int(places[k, j]), own[1], own[2], own[3])
        best.append((not sure, own[1], saddle))
    return min(best, key=lambda entry: entry[:2])[2]


@compiled
def _looked_at(memory: AbstractMemory, x: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    energy = _flat(memory, shape)
    index = negative(jnp.linalg.eigvalsh(hessian(energy, x)))
    return index, jnp.max(jnp.abs(jax.grad(energy)(x)))


def _judged(memory: AbstractMemory, x: np.ndarray, shape: tuple[int, ...]) -> tuple[int, float]:
    index, gradient = _looked_at(memory, jnp.asarray(x[0]), shape)
    return int(index), float(gradient)
