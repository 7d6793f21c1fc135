"""Binary associative memories: write `energy`, get recall."""

import abc
import functools
from typing import Any, ClassVar, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks, _shards as shards
from amlib._types import Key, Scalar
from amlib.descent import flips
from amlib.descent.frames import Frames
from amlib.descent.plan import FlipPlan, scalar_output
from amlib.descent.trajectory import Recall
from amlib.descent.visits import Free, free_bits

# Keywords of the other families, and what is said here.
_VISITS = "A sweep visits all D bits: max_sweeps=. async_recall(x, nsteps) counts visits."
_NO_SIZE = "Spins have no step size and no tolerance: recall ends where no flip lowers the energy."
_ELSEWHERE = {
    "method": "How bits are visited is order=; beta= draws them instead.",
    "steps": _VISITS,
    "max_steps": _VISITS,
    "nsteps": _VISITS,
    "dt": _NO_SIZE,
    "tol": _NO_SIZE,
    "project": "Spins stay -1/+1.",
    "save_every": "How many sweeps the trajectory keeps is record=.",
}
_ASYNC_ELSEWHERE = {
    **dict.fromkeys(("steps", "max_steps", "max_sweeps"), "The number of visits is nsteps=."),
    **dict.fromkeys(("order", "beta", "record"), "recall(x, ...) takes it."),
}


class AbstractBinaryAM(eqx.Module):
    """A memory over spins in {-1,+1}: everything but the energy, and no fields.

    Subclass it for an energy with no pattern matrix, and define `energy`; with stored patterns,
    subclass `BinaryAM`. States may have any shape that the energy takes. One state per call:
    batches go through `jax.vmap`.

    A model that takes states of one shape only says so by `state_struct`: a
    `jax.ShapeDtypeStruct`, as a class attribute or as a property. States of another shape are
    then refused, those of another dtype converted, and `explain` needs no state.

    Recall keeps a flip only where the number that `energy` returns falls, so energies never rise
    but by rounding: recorded and true ones by less than `100 * eps * S` each visit for the
    memories of this library. `eps` is that of the returned dtype (`100 * eps` is 1e-5 in float32),
    and `S` the largest sum of the absolute values of the summands on the way; where all have one
    sign, as in `ClassicalHopfield`, that is `abs(E)`.
    """

    state_struct: ClassVar[jax.ShapeDtypeStruct | None] = None

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

    @checks.keywords("async_recall", _ASYNC_ELSEWHERE)
    def async_recall(
        self, x0: Shaped[ArrayLike, "*shape"], nsteps: int = 20000, key: Key | None = None
    ) -> tuple[Float[Array, "*shape"], tuple[Frames, Float[Array, " nsteps"]]]:
        """Visit `nsteps` random bits, with replacement; keep each flip that lowers the energy.

        The bits visited are `jax.random.choice(key, np.arange(D), shape=(nsteps,))`.

        **Arguments:**

        - `x0`: the starting state, -1/+1.
        - `nsteps`: how many bits to visit, 0 to 2^31 - 1. About `D log D` visits see every bit.
        - `key`: chooses the bits; `jax.random.PRNGKey(0)` if not given.

        **Returns:** the final state, and a pair: the states after each visit as a lazy array
        (see `Frames`), and the energies after each visit.

        **Raises:** `ValueError` for a wrong shape, other values than -1/+1, or `nsteps < 0`;
        `TypeError` for a key that is none.

        **Reference:** Krotov and Hopfield 2016, eq. 4.
        """
        nsteps = checks.integer(nsteps, 0, "async_recall: nsteps")
        x0 = _state(self, x0, "async_recall")
        return _async_recall(_Known(self), x0, _key(key, "async_recall: key"), nsteps)

    @checks.keywords("recall", _ELSEWHERE)
    def recall(
        self,
        x0: Shaped[ArrayLike, "*shape"],
        *,
        key: Key | None = None,
        order: str = "permutation",
        max_sweeps: int = 100,
        beta: Any = None,
        record: int = 16,
        clamp: Shaped[ArrayLike, "*shape"] | None = None,
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
        - `beta`: inverse temperature >= 0 in units of 1/energy; or a schedule, one for each of the
          `max_sweeps` sweeps (annealing); or `None` for descent. Other values, and other schedules
          of that length, compile nothing anew.
        - `record`: how many sweeps of a descent the trajectory records, at 7 bytes a visit; few
          descents take more than 4. Glauber dynamics records all its sweeps.
        - `clamp`: a mask over the state, `True` where a bit is known and never moves; `None` holds
          none. Bits that are held are not visited, so a picture of which half is known takes half
          the time. (Inside `jit` or `vmap` over masks, where how many are held is not known, they
          are visited and refused.)

        **Returns:** a `Recall` with `x`, `energy`, `sweeps` (how many ran), `result` and
        `trajectory`. "Converged" means that no single free flip lowers the energy; it is checked
        after each sweep by comparing all flips at once.

        **Raises:** `ValueError` for a wrong shape, other values than -1/+1, an unknown `order`,
        `max_sweeps < 1`, `record < 0`, `beta < 0`, `beta` without a key or with an order that does
        not keep the Boltzmann law, and a mask of another shape; `TypeError` for a key that is none,
        a mask that is not boolean, and the keywords of other families of memories.
        """
        checks.choice(order, flips.ORDERS, "recall: order")
        max_sweeps = checks.integer(max_sweeps, 1, "recall: max_sweeps")
        record = checks.integer(record, 0, "recall: record")
        x0 = _state(self, x0, "recall")
        checks.at_most(max_sweeps, checks.COUNTABLE // x0.size, "recall: max_sweeps")
        free = _free(x0, clamp, "recall: clamp")
        if beta is None:
            key = _key(key, "recall: key")
            return _descend(_Known(self), x0, key, order, max_sweeps, record, free)
        if order not in flips.VISIT_ORDERS:
            raise ValueError(
                f"recall: with beta, order must be one of {', '.join(flips.VISIT_ORDERS)}; "
                f"{order!r} came. It would not sample the Boltzmann law."
            )
        if key is None:
            raise ValueError("recall: beta draws at random and needs key=jax.random.key(...).")
        key = _key(key, "recall: key")
        beta = checks.not_negative(checks.as_float(beta, "recall: beta"), "recall: beta")
        if beta.shape not in ((), (max_sweeps,)):
            raise ValueError(
                f"recall: beta must be a scalar, or a schedule of max_sweeps={max_sweeps} values; "
                f"shape {beta.shape} came. Several temperatures go through jax.vmap."
            )
        return _sample(_Known(self), x0, key, beta, order, max_sweeps, free)

    def flip_energies(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, " D"]:
        """The energy after each single flip of `x`, all computed together.

        **Arguments:**

        - `x`: a state of -1/+1.

        **Returns:** one energy per bit of the flattened state.
        """
        return _flip_energies(_Known(self), _state(self, x, "flip_energies"))

    def is_fixed_point(
        self,
        x: Shaped[ArrayLike, "*shape"],
        clamp: Shaped[ArrayLike, "*shape"] | None = None,
    ) -> Bool[Array, ""]:
        """Whether no single flip, of bits that `clamp` does not hold, lowers the energy of `x`."""
        x = _state(self, x, "is_fixed_point")
        return _is_fixed_point(_Known(self), x, _free(x, clamp, "is_fixed_point: clamp"))

    def explain(self, x0: Shaped[ArrayLike, "*shape"] | None = None) -> None:
        """Print how a flip of this energy is evaluated, what is carried, and what it costs.

        **Arguments:**

        - `x0`: any state; only its shape counts. Not needed where the model has a `state_struct`.
        """
        if x0 is None:
            struct = self.state_struct
            if struct is None:
                raise ValueError("explain: this model does not know its state; pass a state x0.")
            x0 = jnp.ones(struct.shape, struct.dtype)
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

    **Warns:** of patterns that hold only 0 and 1; spins are meant.

    **Raises:** `TypeError` if `energy` is missing; `ValueError` if `Xi` has no pattern, has
    fewer than two axes, or holds NaN or infinity.
    """

    Xi: Float[Array, "K *shape"] = eqx.field(converter=checks.patterns)

    def __check_init__(self):
        checks.pattern_matrix(self.Xi)
        checks.warn_of_bits(self.Xi, "Xi")

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: those of a pattern."""
        return jax.ShapeDtypeStruct(self.Xi.shape[1:], self.Xi.dtype)


# -- compiled entry points: compiled once per shape and kind of model --------------------------


@eqx.filter_jit
@shards.local
def _async_update(model: AbstractBinaryAM, x: Array, idx: Array) -> tuple[Array, Array]:
    scalar_output(model.energy, x)  # the other functions leave this to the plan of their flips
    flat = x.reshape(-1)
    flipped = flat.at[idx].multiply(-1).reshape(x.shape)
    e, e_new = model.energy(x), model.energy(flipped)
    return jnp.where(e_new < e, flipped, x), jnp.where(e_new < e, e_new, e)


class _Known(eqx.Module):
    """A model as the compiled functions take it, with what is known of its numbers before."""

    model: AbstractBinaryAM
    bounded: bool = eqx.field(static=True)

    def __init__(self, model: AbstractBinaryAM):
        self.model, self.bounded = model, checks.bounded(model)

    def arrays(self) -> list[Array]:
        """The arrays whose numbers are known to be finite and not huge."""
        return jax.tree.leaves(self.model) if self.bounded else []


@eqx.filter_jit
@shards.local
def _async_recall(known: _Known, x0: Array, key: Array, nsteps: int) -> Any:
    bits = jax.random.choice(key, x0.size, shape=(nsteps,))  # as from np.arange(D), without a table
    x, trajectory = flips.visit(known.model.energy, x0, bits, bounded=known.arrays())
    return x, (trajectory.frames, trajectory.energy)


@eqx.filter_jit
@shards.local
def _descend(
    known: _Known,
    x0: Array,
    key: Array,
    order: str,
    max_sweeps: int,
    record: int,
    free: Free | None,
) -> Recall:
    energy, visits = known.model.energy, cast(flips.VisitOrder, order)
    descend = {
        "greedy": flips.greedy,
        "synchronous": flips.synchronous,
    }.get(order, functools.partial(flips.sweep, key=key, order=visits))
    return descend(
        energy, x0, max_sweeps=max_sweeps, record=record, free=free, bounded=known.arrays()
    )


@eqx.filter_jit
@shards.local
def _sample(
    known: _Known,
    x0: Array,
    key: Array,
    beta: Array,
    order: str,
    sweeps: int,
    free: Free | None,
) -> Recall:
    energy, visits = known.model.energy, cast(flips.VisitOrder, order)
    return flips.glauber(
        energy, x0, key, beta, order=visits, sweeps=sweeps, free=free, bounded=known.arrays()
    )


@eqx.filter_jit
@shards.local
def _flip_energies(known: _Known, x: Array) -> Array:
    return flips.flip_energies(known.model.energy, x, bounded=known.arrays())


@eqx.filter_jit
@shards.local
def _is_fixed_point(known: _Known, x: Array, free: Free | None) -> Array:
    return flips.is_fixed_point(known.model.energy, x, free=free, bounded=known.arrays())


# -- the boundary ------------------------------------------------------------------------------


def _free(x: Array, clamp: Any, where: str) -> Free | None:
    """The bits that may move; `None` for all of them."""
    if clamp is None:
        return None
    return free_bits(x.size, checks.mask(clamp, x.shape, where).reshape(-1))


def _key(key: Key | None, where: str) -> Key:
    if key is None:
        return jax.random.PRNGKey(0)
    checks.key(key, where)
    return key


def _state(model: AbstractBinaryAM, x: Any, where: str, *, traced: bool = True) -> Array:
    """A state as the model's floats; raise unless it has the right shape and is -1/+1."""
    x = checks.as_float(x, f"{where}: x")
    struct = model.state_struct
    if struct is not None:
        checks.state_shape(x, struct.shape, where)
        x = x.astype(struct.dtype)
    elif x.size == 0:
        raise ValueError(f"{where}: the state must have at least one unit; {x.shape} came.")
    if traced or checks.is_concrete(x):
        x = checks.spins(x, where)
    return x
