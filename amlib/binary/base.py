"""Binary associative memories: write `energy`, get recall."""

import abc
import functools
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks
from amlib._types import EnergyFn, Key, Scalar
from amlib.descent import flips
from amlib.descent.plan import FlipPlan, scalar_output
from amlib.descent.trajectory import Frames, Recall


class AbstractBinaryAM(eqx.Module):
    """A memory over spins in {-1,+1}: everything but the energy, and no fields.

    Subclass it for an energy with no pattern matrix, and define `energy`; with stored patterns,
    subclass `BinaryAM`. States may have any shape that the energy takes. One state per call:
    batches go through `jax.vmap`.
    """

    @abc.abstractmethod
    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of a state: the only method to write.

        **Arguments:**

        - `x`: a state of -1/+1 floats.

        **Returns:** a real scalar. Recall lowers it.
        """

    def async_update(
        self, x: Shaped[ArrayLike, "*shape"], idx: Any
    ) -> tuple[Float[Array, "*shape"], Scalar]:
        """Flip one bit if that lowers the energy strictly.

        **Arguments:**

        - `x`: a state of -1/+1.
        - `idx`: the bit, an index into the flattened state, in [0, D).

        **Returns:** the new state and its energy.

        **Raises:** `ValueError` for a wrong shape, other values than -1/+1, or an index out of
        range. (Values are checked where they are known, that is, outside `jit`.)
        """
        x = _state(self, x, "async_update", traced=False)
        if not jnp.issubdtype(getattr(idx, "dtype", type(idx)), jnp.integer) or jnp.ndim(idx):
            raise TypeError(f"async_update: idx must be one integer; {idx!r} came.")
        idx = jnp.asarray(idx)
        if checks.is_concrete(idx) and not 0 <= int(idx) < x.size:
            raise ValueError(f"async_update: idx must lie in [0, {x.size}); {int(idx)} came.")
        return _async_update(self, x, idx)

    def async_recall(
        self, x0: Shaped[ArrayLike, "*shape"], nsteps: int = 20000, key: Key | None = None
    ) -> tuple[Float[Array, "*shape"], tuple[Frames, Float[Array, " nsteps"]]]:
        """Visit `nsteps` random bits, with replacement; keep each flip that lowers the energy.

        The bits visited are `jax.random.choice(key, np.arange(D), shape=(nsteps,))`.

        **Arguments:**

        - `x0`: the starting state, -1/+1.
        - `nsteps`: how many bits to visit, at least 0. About `D log D` visits see every bit.
        - `key`: chooses the bits; `jax.random.PRNGKey(0)` if not given.

        **Returns:** the final state, and a pair: the states after each visit as a lazy array
        (see `Frames`), and the energies after each visit.

        **Raises:** `ValueError` for a wrong shape, other values than -1/+1, or `nsteps < 0`.

        **Reference:** Krotov and Hopfield 2016, eq. 4.
        """
        nsteps = _count(nsteps, 0, "async_recall: nsteps")
        x0 = _state(self, x0, "async_recall")
        return _async_recall(_Known(self), x0, _key(key), nsteps)

    def recall(
        self,
        x0: Shaped[ArrayLike, "*shape"],
        *,
        key: Key | None = None,
        order: str = "permutation",
        max_sweeps: int = 100,
        beta: Any = None,
        record: int = 16,
    ) -> Recall:
        r"""Sweep over all bits until no single flip lowers the energy.

        With `beta`, flips are drawn instead (Glauber dynamics): a visited bit flips with
        probability $1 / (1 + \exp(\beta \Delta E))$, for exactly `max_sweeps` sweeps.

        **Arguments:**

        - `x0`: the starting state, -1/+1.
        - `key`: for the orders and the draws; `jax.random.PRNGKey(0)` if not given. Glauber
          dynamics needs one.
        - `order`: `"permutation"` visits every bit once per sweep, in a fresh random order;
          `"sequential"` in index order; `"random"` draws bits with replacement; `"greedy"` flips
          the bit that lowers the energy most (a sweep is D flips); `"synchronous"` flips at once
          all bits whose own flip lowers the energy, and can end on a 2-cycle.
        - `max_sweeps`: the step limit, at least 1.
        - `beta`: inverse temperature > 0 in units of 1/energy, or `None` for descent.
        - `record`: how many sweeps of a descent the trajectory records, at 7 bytes a visit; few
          descents take more than 4. Glauber dynamics records all its sweeps.

        **Returns:** a `Recall` with `x`, `energy`, `sweeps` (how many ran), `result` and
        `trajectory`. "Converged" means that no single flip lowers the energy; it is checked
        after each sweep by comparing all flips at once.

        **Raises:** `ValueError` for a wrong shape, other values than -1/+1, an unknown `order`,
        `max_sweeps < 1`, `record < 0`, `beta <= 0`, and `beta` without a key or with an order
        that does not keep the Boltzmann law.
        """
        checks.choice(order, flips.ORDERS, "recall: order")
        max_sweeps = _count(max_sweeps, 1, "recall: max_sweeps")
        record = _count(record, 0, "recall: record")
        x0 = _state(self, x0, "recall")
        if beta is None:
            return _descend(_Known(self), x0, _key(key), order, max_sweeps, record)
        if order not in flips.VISIT_ORDERS:
            raise ValueError(
                f"recall: with beta, order must be one of {', '.join(flips.VISIT_ORDERS)}; "
                f"{order!r} came. It would not sample the Boltzmann law."
            )
        if key is None:
            raise ValueError("recall: beta draws at random and needs key=jax.random.key(...).")
        beta = checks.positive(checks.as_float(beta, "recall: beta"), "recall: beta")
        if beta.ndim:
            raise ValueError(
                f"recall: beta must be a scalar; shape {beta.shape} came. "
                "Several temperatures go through jax.vmap."
            )
        return _sample(_Known(self), x0, key, beta, order, max_sweeps)

    def flip_energies(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, " D"]:
        """The energy after each single flip of `x`, all computed together.

        **Arguments:**

        - `x`: a state of -1/+1.

        **Returns:** one energy per bit of the flattened state.
        """
        return _flip_energies(_Known(self), _state(self, x, "flip_energies"))

    def is_fixed_point(self, x: Shaped[ArrayLike, "*shape"]) -> Bool[Array, ""]:
        """Whether no single flip lowers the energy of `x` strictly."""
        return _is_fixed_point(_Known(self), _state(self, x, "is_fixed_point"))

    def explain(self, x0: Shaped[ArrayLike, "*shape"] | None = None) -> None:
        """Print how a flip of this energy is evaluated, what is carried, and what it costs.

        **Arguments:**

        - `x0`: any state; only its shape counts. Not needed where the model knows the shape.
        """
        if x0 is None:
            shape = _known_shape(self)
            if shape is None:
                raise ValueError("explain: this model does not know its state; pass a state x0.")
            x0 = jnp.ones(shape, _known_dtype(self))
        print(FlipPlan(self.energy, _state(self, x0, "explain")).describe())


class BinaryAM(AbstractBinaryAM):
    """A binary memory with stored patterns. Subclass it and define `energy`.

    ```python
    class CHN(am.BinaryAM):
        def energy(self, x):
            return -0.5 * jnp.sum((self.Xi @ x) ** 2)
    ```

    **Arguments:**

    - `Xi`: stored patterns, one per row, usually -1/+1 and of shape `(K, D)`; image-shaped
      patterns `(K, H, W)` make image-shaped states. Bools become spins (`False` is -1), integers
      become floats of the same value.

    **Raises:** `TypeError` if `energy` is missing; `ValueError` if `Xi` has no pattern, has
    fewer than two axes, or holds NaN or infinity.
    """

    Xi: Float[Array, "K *shape"] = eqx.field(converter=checks.patterns)

    def __check_init__(self):
        checks.pattern_matrix(self.Xi)


# -- compiled entry points: compiled once per shape and kind of model --------------------------


@eqx.filter_jit
def _async_update(model: AbstractBinaryAM, x: Array, idx: Array) -> tuple[Array, Array]:
    flat = x.reshape(-1)
    flipped = flat.at[idx].multiply(-1).reshape(x.shape)
    energy = _energy(model, x)
    e, e_new = energy(x), energy(flipped)
    return jnp.where(e_new < e, flipped, x), jnp.where(e_new < e, e_new, e)


class _Known(eqx.Module):
    """A model as the compiled functions take it, with what is known of its numbers before."""

    model: AbstractBinaryAM
    bounded: bool = eqx.field(static=True)

    def __init__(self, model: AbstractBinaryAM):
        self.model, self.bounded = model, checks.bounded(model)

    def energy(self, x: Array) -> EnergyFn:
        """The energy function; raise unless it returns one real scalar."""
        return _energy(self.model, x)

    def arrays(self) -> list[Array]:
        """The arrays whose numbers are known to be finite and not huge."""
        return jax.tree.leaves(self.model) if self.bounded else []


@eqx.filter_jit
def _async_recall(known: _Known, x0: Array, key: Array, nsteps: int) -> Any:
    bits = jax.random.choice(key, x0.size, shape=(nsteps,))  # as from np.arange(D), without a table
    x, trajectory = flips.visit(known.energy(x0), x0, bits, bounded=known.arrays())
    return x, (trajectory.frames, trajectory.energy)


@eqx.filter_jit
def _descend(
    known: _Known, x0: Array, key: Array, order: str, max_sweeps: int, record: int
) -> Recall:
    energy, visits = known.energy(x0), cast(flips.VisitOrder, order)
    descend = {
        "greedy": flips.greedy,
        "synchronous": flips.synchronous,
    }.get(order, functools.partial(flips.sweep, key=key, order=visits))
    return descend(energy, x0, max_sweeps=max_sweeps, record=record, bounded=known.arrays())


@eqx.filter_jit
def _sample(known: _Known, x0: Array, key: Array, beta: Array, order: str, sweeps: int) -> Recall:
    energy, visits = known.energy(x0), cast(flips.VisitOrder, order)
    return flips.glauber(energy, x0, key, beta, order=visits, sweeps=sweeps, bounded=known.arrays())


@eqx.filter_jit
def _flip_energies(known: _Known, x: Array) -> Array:
    return flips.flip_energies(known.energy(x), x, bounded=known.arrays())


@eqx.filter_jit
def _is_fixed_point(known: _Known, x: Array) -> Array:
    return flips.is_fixed_point(known.energy(x), x, bounded=known.arrays())


# -- the boundary ------------------------------------------------------------------------------


def _energy(model: AbstractBinaryAM, x: Array) -> EnergyFn:
    """The energy function; raise unless it returns one real scalar."""
    scalar_output(model.energy, x)
    return model.energy


def _count(value: Any, low: int, where: str) -> int:
    """A Python integer of at least `low`."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise TypeError(f"{where}: must be an integer; {value!r} came.")
    value = int(value)
    checks.at_least(value, low, where)
    return value


def _key(key: Key | None) -> Key:
    return jax.random.PRNGKey(0) if key is None else key


def _known_shape(model: AbstractBinaryAM) -> tuple[int, ...] | None:
    """The shape of a state, where the fields of the model tell it."""
    if isinstance(model, BinaryAM):
        return model.Xi.shape[1:]
    couplings = getattr(model, "J", None)
    return None if couplings is None else couplings.shape[:1]


def _known_dtype(model: AbstractBinaryAM) -> Any:
    field = getattr(model, "Xi", getattr(model, "J", None))
    return jnp.result_type(float) if field is None else field.dtype


def _state(model: AbstractBinaryAM, x: Any, where: str, *, traced: bool = True) -> Array:
    """A state as the model's floats; raise unless it has the right shape and is -1/+1."""
    x = checks.as_float(x, f"{where}: x")
    shape = _known_shape(model)
    if shape is not None:
        checks.state_shape(x, shape, where)
        x = x.astype(_known_dtype(model))
    elif x.size == 0:
        raise ValueError(f"{where}: the state must have at least one unit; {x.shape} came.")
    if traced or checks.is_concrete(x):
        x = checks.spins(x, where)
    return x
