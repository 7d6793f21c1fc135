"""Binary associative memories: write `energy`, get recall."""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int8, Shaped

from amlib import _checks as checks, _shards as shards
from amlib._compiled import compiled, compiled_lanes
from amlib._numbers import Numbers, known_numbers
from amlib._types import Key, Scalar, ScalarLike
from amlib.binary.patterns import state_dtype, stored_patterns
from amlib.descent import flips
from amlib.descent.flip_problem import FlipProblem
from amlib.descent.frames import Frames
from amlib.descent.methods import AbstractMethod
from amlib.descent.orders import ORDERS
from amlib.descent.plan import scalar_output
from amlib.descent.samplers import Glauber
from amlib.descent.sweeps import Greedy, Sweeps, Synchronous
from amlib.descent.visits import Free
from amlib.memory import AbstractMemory, Asked
from amlib.sharding import collectives
from amlib.spaces import AbstractTwoValued, Spins

# Keywords of the other families, and what is said here.
_VISITS = "A sweep visits all D bits: max_steps=. async_recall(x, nsteps) counts visits."
_ELSEWHERE = {
    "steps": _VISITS,
    "nsteps": _VISITS,
    "dt": "Spins have no step size: recall ends where no flip lowers the energy.",
    "project": "Spins stay -1/+1.",
}
_ASYNC_ELSEWHERE = {
    **dict.fromkeys(("steps", "max_steps", "max_sweeps"), "The number of visits is nsteps=."),
    **dict.fromkeys(("order", "beta", "record", "method"), "recall(x, ...) takes it."),
}
_ALL_AT_ONCE = {"greedy": Greedy, "synchronous": Synchronous}
_SWEEPS = Sweeps()


class AbstractBinaryAM(AbstractMemory):
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

    space: ClassVar[AbstractTwoValued] = Spins()  # pyright: ignore[reportIncompatibleVariableOverride]
    _half_is_storage: ClassVar[bool] = False  # recall follows the energy as it is written

    @abc.abstractmethod
    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of a state: the only method to write.

        **Arguments:**

        - `x`: a state of -1/+1 floats.

        **Returns:** a real scalar. Recall lowers it.
        """

    def default_method(self) -> AbstractMethod:
        """`Sweeps()`: descent in a fresh random order per sweep."""
        return _SWEEPS

    def async_update(
        self, x: Shaped[ArrayLike, "*shape"], idx: ScalarLike
    ) -> tuple[Float[Array, "*shape"], Scalar]:
        """Flip one bit if that lowers the energy strictly.

        **Arguments:**

        - `x`: a state of -1/+1.
        - `idx`: the bit, an index into the flattened state, in [0, D).

        **Returns:** the new state and its energy.

        **Raises:** `ValueError` for a wrong shape, other values than -1/+1, or an index out of
        range. (Values are checked where they are known, that is, outside `jit`.)
        """
        x = type(self)._state(self, x, "async_update", check=checks.is_concrete(x))
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
        x0 = type(self)._state(self, x0, "async_recall")
        if key is not None:
            checks.key(key, "async_recall: key")
        key = jax.random.PRNGKey(0) if key is None else key
        return _async_recall(_Known(self), x0, key, nsteps)

    _words: ClassVar[tuple[str, ...]] = ("order", "beta", "max_sweeps", "record")
    _elsewhere: ClassVar[dict[str, str]] = _ELSEWHERE

    def _in_the_verb(self, words: dict[str, Any], asked: Asked) -> Asked:
        """`order`, `beta` and `record` make a method; `max_sweeps` is the step limit."""
        words = dict(words)
        if "max_sweeps" in words:
            if asked.max_steps is not None:
                raise TypeError("recall: max_sweeps= and max_steps= are the same; both came.")
            sweeps = checks.integer(words.pop("max_sweeps"), 1, "recall: max_sweeps")
            asked = dataclasses.replace(asked, max_steps=sweeps)
        if not words:
            return asked
        if asked.method is not None:
            raise TypeError(
                f"recall: {next(iter(words))}= is a field of a method, such as Sweeps(order=...), "
                "Glauber(beta) or Sweeps(record=16); both came. Put it there."
            )
        order, beta = words.pop("order", "permutation"), words.pop("beta", None)
        record = {} if beta is not None else words
        checks.choice(order, (*ORDERS, *_ALL_AT_ONCE), "recall: order")
        if beta is not None:
            if order not in ORDERS:
                raise ValueError(
                    f"recall: with beta, order must be one of {', '.join(ORDERS)}; {order!r} came. "
                    "It would not sample the Boltzmann law."
                )
            method = Glauber(beta, order)
        elif order in _ALL_AT_ONCE:
            method = _ALL_AT_ONCE[order](**record)
        else:
            method = Sweeps(order, **record)
        return dataclasses.replace(asked, method=method)

    def flip_energies(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, " D"]:
        """The energy after each single flip of `x`, all computed together.

        **Arguments:**

        - `x`: a state of -1/+1.

        **Returns:** one energy per bit of the flattened state.
        """
        return _flip_energies(_Known(self), type(self)._state(self, x, "flip_energies"))

    def is_fixed_point(
        self,
        x: Shaped[ArrayLike, "*shape"],
        clamp: Shaped[ArrayLike, "*shape"] | None = None,
    ) -> Bool[Array, ""]:
        """Whether no single flip, of bits that `clamp` does not hold, lowers the energy of `x`."""
        x, free = type(self)._state(self, x, "is_fixed_point"), None
        if clamp is not None:
            free = type(self)._held(self, x, clamp, self.space, "is_fixed_point: clamp")
        return _is_fixed_point(_Known(self), x, free)

    def explain(self, x0: Shaped[ArrayLike, "*shape"] | None = None) -> None:
        """Print how a flip of this energy is evaluated, what is carried, and what it costs.

        Of a memory that devices share, also what a flip sends between them: its program is
        compiled, and not run.

        **Arguments:**

        - `x0`: any state; only its shape counts. Not needed where the model has a `state_struct`.
        """
        if x0 is None:
            struct = self.state_struct
            if struct is None:
                raise ValueError("explain: this model does not know its state; pass a state x0.")
            x0 = jnp.full(struct.shape, self.space.high, struct.dtype)
        known, x0 = _Known(self), type(self)._state(self, x0, "explain")
        print(known.problem().plan(x0).describe())
        count = shards.devices(self)
        if count > 1:
            print(f"devices   {count}\n{_describe_sent(known, x0)}")


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
      become floats of the same value; but int8 stays int8, a quarter of the memory of float32.

    With int8 patterns `self.Xi @ x` gives the numbers that it gives with floats, since `x` is one,
    and recall makes no float copy of all patterns. They have no gradient: train floats. Two int8
    arrays make int8, which wraps around: recall refuses an energy that adds up such products.

    **Warns:** of patterns that hold only 0 and 1; spins are meant.

    **Raises:** `TypeError` if `energy` is missing; `ValueError` if `Xi` has no pattern, has
    fewer than two axes, or holds NaN or infinity.
    """

    Xi: Float[Array, "K *shape"] | Int8[Array, "K *shape"] = eqx.field(converter=stored_patterns)

    def __check_init__(self):
        checks.pattern_matrix(self.Xi)
        if isinstance(self.space, Spins):
            checks.warn_of_bits(self.Xi, "Xi")

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: those of a pattern, but a float where that is int8."""
        return jax.ShapeDtypeStruct(self.Xi.shape[1:], state_dtype(self.Xi))


# -- compiled entry points: compiled once per shape and kind of model --------------------------


@compiled
def _async_update(model: AbstractBinaryAM, x: Array, idx: Array) -> tuple[Array, Array]:
    scalar_output(model.energy, x)  # the other functions leave this to the plan of their flips
    flat = x.reshape(-1)
    flipped = flat.at[idx].set(model.space.other(flat)[idx]).reshape(x.shape)
    e, e_new = model.energy(x), model.energy(flipped)
    return jnp.where(e_new < e, flipped, x), jnp.where(e_new < e, e_new, e)


class _Known(eqx.Module):
    """A model as the compiled functions take it, with what is known of its numbers before."""

    model: AbstractBinaryAM
    bounded: tuple[Numbers, ...] = eqx.field(static=True)

    def __init__(self, model: AbstractBinaryAM):
        self.model, self.bounded = model, known_numbers(model)

    def problem(self, free: Free | None = None) -> FlipProblem:
        """Its flips."""
        problem = self.model._flips(self.model.space, free, self.bounded)
        assert isinstance(problem, FlipProblem)
        return problem


@compiled_lanes
def _async_recall(
    known: _Known, x0: Array, key: Array, nsteps: int
) -> tuple[Array, tuple[Frames, Array]]:
    bits = jax.random.choice(key, x0.size, shape=(nsteps,))  # as from np.arange(D), without a table
    x, trajectory = flips.visit(known.problem(), x0, bits)
    return x, (trajectory.frames, trajectory.energy)


@compiled_lanes
def _flip_energies(known: _Known, x: Array) -> Array:
    return flips.flip_energies(known.problem(), x)


@compiled_lanes
def _is_fixed_point(known: _Known, x: Array, free: Free | None) -> Array:
    return flips.is_fixed_point(known.problem(free), x)


@compiled
def _try_all(known: _Known, x: Array, near: bool) -> tuple[Array, Array] | None:
    return flips.try_all(known.problem(), x, near=near)


def _describe_sent(known: _Known, x: Array) -> str:
    """What a flip sends between devices, in each form that it may have."""
    lines = []
    for near in (False, True):
        sent = collectives(lambda known, x, near=near: _try_all(known, x, near), known, x)
        each = [op for op in sent if x.size in op.loops]
        once = sum(op.bytes for op in sent if x.size not in op.loops)
        if near and not sent:
            continue
        size = f"{sum(op.bytes for op in each):,} bytes in {len(each)} operations"
        flip = size if each else "nothing"
        where = "near a memory" if near else "sent"
        lines.append(f"{where:<9} {flip} a flip; {once:,} bytes to begin with")
    return "\n".join(lines)
