"""Methods over batches whose energies are known only together, such as those of patterns on disk.

A method steps one state and asks for its energy in between, wherever it likes. `jax.vmap` of its
step, not compiled, asks for those of a batch at once: there Python may read files, and an error or
Ctrl-C ends it like any other loop.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import batching
from jaxtyping import Array

from amlib._types import EnergyFn, Key
from amlib.descent.loop import Carry
from amlib.descent.methods import AbstractMethod, AbstractRealMethod
from amlib.descent.problems import Problem
from amlib.descent.trajectory import RESULTS, Recall

FEWEST = 8
"""So many states are stepped together at least. Beyond, a quarter at a time drops out: each number
of states is compiled for."""


def check_steps(method: AbstractMethod) -> AbstractRealMethod:
    """Return a method; raise unless its loop is the library's."""
    if not isinstance(method, AbstractRealMethod) or type(method).run is not AbstractRealMethod.run:
        raise TypeError(
            f"recall: on disk a method must say how it steps; {type(method).__name__} came, "
            "which has a loop of its own. Choose CCCP(), GradientDescent(...), Langevin(...), "
            "MALA(...), or an AbstractRealMethod of your own."
        )
    return method


def together(whole: Callable[[Array], tuple[Array, Array]]) -> EnergyFn:
    """The energy of one state which, under `jax.vmap`, asks for those of the batch together.

    **Arguments:**

    - `whole`: from a batch of states to their energies and gradients. It is called as Python, with
      arrays that are known.
    """

    @jax.custom_jvp
    def energy(x: Array) -> Array:
        return _whole.bind(x, whole=whole)[0]

    @energy.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        value, grad = _whole.bind(*primals, whole=whole)
        return value, jnp.sum(grad * tangents[0])

    return energy


def _compiled_into(*_: object, **__: object) -> None:
    raise TypeError(
        "recall: on disk the step of a method must call problem.at as it is, and not in what JAX "
        "compiles (jit, cond, loops). Call it outside of these."
    )


_whole = Primitive("whole_batch")
_whole.multiple_results = True
_whole.def_impl(lambda x, *, whole: [a[0] for a in whole(x[None])])
_whole.def_abstract_eval(_compiled_into)
batching.primitive_batchers[_whole] = lambda args, dims, *, whole: (
    list(whole(jnp.moveaxis(args[0], dims[0], 0))),
    (0, 0),
)


def descend_batch(
    method: AbstractRealMethod,
    problem: Problem,
    x0: Array,
    held: Array | None,
    keys: Array | None,
    limit: int,
) -> Recall:
    """The loop of `AbstractRealMethod.run` over a batch, with the states that still move.

    **Arguments:**

    - `method`: how a state moves.
    - `problem`: what is lowered, with an energy of `together`.
    - `x0`: the starts.
    - `held`: masks of the units that do not move, or `None`.
    - `keys`: a key for each state, or `None`.
    - `limit`: the step limit.

    **Returns:** what `jax.vmap` of the method would, without a trajectory.
    """

    def of(x: Array, held: Array | None) -> Problem:
        return problem if held is None else dataclasses.replace(problem, held=(held, x))

    def start(x: Array, held: Array | None) -> Carry:
        own = of(x, held)
        at = own.at(own.put(x))
        state = method.init(own, at)
        return Carry(at, state, method.terminate(own, at, state))

    def step(c: Carry, x: Array, held: Array | None, key: Key | None) -> Carry:
        own = of(x, held)
        key = None if key is None else jr.fold_in(key, c.at.steps)
        at, state = method.step(own, c.at, c.state, key)
        at = at._replace(steps=c.at.steps + 1)
        return Carry(at, state, method.terminate(own, at, state))

    def end(c: Carry, x: Array, held: Array | None) -> Recall:
        at, result = method.postprocess(of(x, held), c.at, c.state, c.result)
        return Recall(at.x, at.energy, at.steps, result)

    carry = jax.tree.map(np.array, jax.vmap(start)(x0, held))
    width, structure = len(x0), jax.tree.structure((carry, x0, held, keys))
    for _ in range(limit):
        running = np.flatnonzero(carry.result == RESULTS.step_limit)
        if not running.size:
            break
        while width > FEWEST and running.size <= width // 4:
            width //= 4
        lanes = np.resize(running, width)  # some twice
        given = [leaf[lanes] for leaf in jax.tree.leaves((carry, x0, held, keys))]
        new = jax.vmap(step)(*jax.tree.unflatten(structure, given))
        for old, leaf in zip(jax.tree.leaves(carry), jax.tree.leaves(new), strict=True):
            old[lanes] = leaf
    return jax.vmap(end)(jax.tree.map(jnp.asarray, carry), x0, held)
