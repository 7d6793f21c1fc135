"""The engine of flips as plain functions of an energy, for tests that need no model."""

import jax

from amlib.descent import flips, methods
from amlib.descent.flip_problem import FlipProblem
from amlib.descent.plan import Path
from amlib.descent.samplers import Glauber
from amlib.descent.sweeps import Greedy, Sweeps, Synchronous
from amlib.descent.visits import Free

__all__ = ["Free"]


def visit(energy, x0, idx, *, path: Path = "auto", bounded=()):
    """Try the bits `idx` in turn."""
    return flips.visit(FlipProblem(energy, path=path, bounded=bounded), x0, idx)


def flip_energies(energy, x, *, path: Path = "auto", bounded=()):
    """The energy after each single flip."""
    return flips.flip_energies(FlipProblem(energy, path=path, bounded=bounded), x)


def is_fixed_point(energy, x, *, free=None, path: Path = "auto", bounded=()):
    """Whether no flip of the free bits lowers the energy."""
    return flips.is_fixed_point(FlipProblem(energy, free=free, path=path, bounded=bounded), x)


def descend(
    energy, x0, method, key=None, *, max_sweeps=100, free=None, path: Path = "auto", bounded=()
):
    """Run a method of flips."""
    problem = FlipProblem(energy, free=free, path=path, bounded=bounded)
    return methods.solve(problem, x0, method, key, max_sweeps)


def sweep(energy, x0, key, *, order="permutation", record=16, **options):
    """Descent by sweeps."""
    return descend(energy, x0, Sweeps(order, record=record), key, **options)


def greedy(energy, x0, *, record=16, **options):
    """The steepest flip each time."""
    return descend(energy, x0, Greedy(record=record), **options)


def synchronous(energy, x0, *, record=16, **options):
    """All flips that lower the energy at once."""
    return descend(energy, x0, Synchronous(record=record), **options)


def glauber(energy, x0, key, beta, *, order="permutation", sweeps=100, **options):
    """Glauber dynamics."""
    return descend(energy, x0, Glauber(beta, order), key, max_sweeps=sweeps, **options)


def equations(fn, *args):
    """The equations of the program of a function of these arguments, and of all programs in it."""

    def walk(jaxpr):
        for e in jaxpr.eqns:
            yield e
            for inner in jax.tree.leaves(e.params, is_leaf=lambda p: hasattr(p, "eqns")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    yield from walk(getattr(inner, "jaxpr", inner))

    return walk(jax.make_jaxpr(fn)(*args).jaxpr)
