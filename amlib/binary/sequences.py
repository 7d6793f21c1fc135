"""Memories that play sequences: each stored pattern calls the next one."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Float, Int8, Integer, Shaped

from amlib import _checks as checks, _progress as bars, _show as show
from amlib._compiled import compiled, compiled_lanes
from amlib._types import Key, Scalar
from amlib.binary.interactions import AbstractInteraction, PolynomialInteraction
from amlib.binary.patterns import overlaps, state_dtype, stored_patterns, wide
from amlib.binary.playback import Playback
from amlib.binary.pulls import Pulls
from amlib.descent.orders import AbstractOrder, as_order

_NO_ENERGY = (
    "a sequence has no energy: each pattern pulls towards the next and none pulls back, so that a "
    "state comes round to where it was, which no function that only falls allows."
)
_ABSENT = {
    "energy": f"{_NO_ENERGY} Look at field(x), and at what play(x0, steps) returns.",
    "recall": f"{_NO_ENERGY} It does not come to rest; write play(x0, steps).",
    "async_recall": f"{_NO_ENERGY} Write play(x0, steps, order='permutation').",
}


class SequenceMemory(eqx.Module):
    r"""A memory of a sequence of patterns, which it plays in their order.

    $$x_i \leftarrow \operatorname{sign} \sum_\mu \xi_i^{\mu+1} f(m_i^\mu), \qquad
    m_i^\mu = \frac{1}{N-1} \sum_{j \ne i} \xi_j^\mu x_j$$

    | network | |
    |---|---|
    | SeqNet | `SequenceMemory(Xi)`, $f(m) = m$: about $N / (2 \ln N)$ patterns |
    | polynomial DenseNet | `SequenceMemory(Xi, PolynomialInteraction(d))`: about $N^d$ |
    | exponential DenseNet | `SequenceMemory(Xi, ExponentialInteraction())`: exponentially many |
    | generalised pseudo-inverse | `pseudoinverse=True` with any of them: patterns that are alike |
    | MixedNet | `symmetric=...`, `lam`, `tau`: each pattern is held for `tau` steps |

    The pseudo-inverse takes $f((O^+ m)^\mu)$, where $O$ are the overlaps of the patterns among each
    other: at a stored pattern it is 1 for that one and 0 for all others, so that any linearly
    independent patterns play without an error. (Its $m$ has all units; without the unit itself, as
    the authors' code has it, that would not be exact.)

    MixedNet adds a symmetric term that holds the present pattern, and lets the next one act through
    $\bar m$, the overlaps with the mean of the last `tau` states,

    $$x_i \leftarrow \operatorname{sign} \sum_\mu \left[ \xi_i^\mu f_S(m_i^\mu)
    + \lambda\, \xi_i^{\mu+1} f(\bar m_i^\mu) \right]$$

    There is no energy, on purpose: nothing falls along a cycle. `play` takes the place of `recall`.
    A unit whose field is exactly 0 stays as it is.

    **Arguments:**

    - `Xi`: the sequence, one pattern a row, of -1/+1; two at least. Conversions are those of
      `BinaryAM`; int8 stays int8.
    - `interaction`: $f$, an `AbstractInteraction`.
    - `symmetric`: $f_S$ of MixedNet, `None` for no such term.
    - `lam`: $\lambda$ of MixedNet, > 0; at most 1 the first pattern stays for ever.
    - `tau`: how many states the mean of MixedNet takes, at least 1.
    - `pseudoinverse`: whether overlaps are corrected by those of the patterns among each other.
    - `cyclic`: whether the first pattern follows the last; otherwise the last follows itself.

    **Raises:** `ValueError` for fewer than two patterns or fewer than two units, values other than
    -1/+1, `lam` that is not positive, `tau < 1`, and `tau > 1` without `symmetric`; `TypeError` for
    what is no interaction.

    **Reference:** Chaudhry, Zavatone-Veth, Krotov and Pehlevan 2023, Long sequence Hopfield memory
    (arXiv 2306.04532): DenseNet, generalised pseudo-inverse rule and MixedNet. The trace of
    MixedNet begins empty here, in their code full of the last pattern (`history` of `play`).
    """

    Xi: Float[Array, "K *shape"] | Int8[Array, "K *shape"]
    interaction: AbstractInteraction
    symmetric: AbstractInteraction | None
    lam: Scalar
    dual: Float[Array, "K N"] | None
    tau: int = eqx.field(static=True)
    cyclic: bool = eqx.field(static=True)

    __repr__ = show.text

    def __init__(
        self,
        Xi: Any,
        interaction: Any = PolynomialInteraction(1),  # noqa: B008  (it is immutable)
        *,
        symmetric: Any = None,
        lam: Any = 2.5,
        tau: int = 1,
        pseudoinverse: bool = False,
        cyclic: bool = True,
    ):
        self.Xi = stored_patterns(Xi)
        self.interaction, self.symmetric = interaction, symmetric
        self.lam = checks.positive_field("lam")(lam)
        self.tau = checks.integer(tau, 1, "tau")
        self.cyclic = bool(cyclic)
        _check_sequence(self.Xi)
        self.dual = _dual(self.Xi) if pseudoinverse else None

    def __check_init__(self):
        for name, f in (("interaction", self.interaction), ("symmetric", self.symmetric)):
            if not isinstance(f, AbstractInteraction) and not (name == "symmetric" and f is None):
                raise TypeError(
                    f"{name}: must be an AbstractInteraction; {type(f).__name__} came. "
                    "Write am.PolynomialInteraction(d) or am.ExponentialInteraction()."
                )
        if self.tau > 1 and self.symmetric is None:
            raise ValueError(
                f"tau: must be 1 without a symmetric term; {self.tau} came. A pattern is held by "
                "symmetric=, such as symmetric=am.PolynomialInteraction(10)."
            )

    def __getattr__(self, name: str) -> Any:
        why = _ABSENT.get(name, "there is no such attribute.")
        raise AttributeError(f"{type(self).__name__}.{name}: {why}")

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a state: those of a pattern, but a float where that is int8."""
        return jax.ShapeDtypeStruct(self.Xi.shape[1:], state_dtype(self.Xi))

    def play(
        self,
        x0: Shaped[ArrayLike, "*shape"],
        steps: int,
        *,
        order: AbstractOrder | str | None = None,
        key: Key | None = None,
        history: Shaped[ArrayLike, "..."] | None = None,
        progress: bool = False,
    ) -> Playback:
        r"""Play the sequence from a state.

        One state per call: batches go through `jax.vmap`. Another number of steps is another
        program.

        **Arguments:**

        - `x0`: the starting state, -1/+1: a stored pattern, or one that is damaged.
        - `steps`: how many steps, at least 1.
        - `order`: `None` moves all units at once, as published. An order such as `"permutation"`,
          see `Sweeps`, visits one after the other, and a step is a sweep; the trace of MixedNet
          moves between sweeps. (Without a symmetric term units that moved soon call the pattern
          after the next while others still wait for the next: sequences blur.)
        - `key`: for orders that are random; `jax.random.PRNGKey(0)` if not given.
        - `history`: of MixedNet, the states before `x0`, oldest first and at most `tau - 1`: those
          of a play that goes on, `played.states(np.arange(-tau, -1))`. Missing ones count as 0.
        - `progress`: whether to show a bar with the steps so far, see `AbstractMemory.recall`.

        **Returns:** a `Playback`: states, which pattern was heard when, and how well.

        **Raises:** `ValueError` for a wrong shape, other values than -1/+1, `steps < 1`, and an
        order that moves several units together; `TypeError` for a key that is none.
        """
        steps = checks.integer(steps, 1, "play: steps")
        checks.at_most(steps, checks.COUNTABLE // self.Xi[0].size, "play: steps")
        x0 = self._state(x0, "play")
        order = None if order is None else _single(as_order(order), x0.size)
        if key is not None:
            checks.key(key, "play: key")
        key = jr.PRNGKey(0) if key is None else key
        given = self, x0, steps, order, key, self._history(history)
        if not bars.wanted(progress, "play"):
            return _play(*given, None)
        run = lambda meter: _play(*given, meter)
        return bars.behind(run, steps, x0, lambda made: made.overlap[-1], desc="play")

    def step(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """The state after one step of all units together; that of MixedNet with a full trace.

        **Arguments:**

        - `x`: a state of -1/+1.
        """
        x = self._state(x, "step")
        return _step(self, x)

    def field(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, "*shape"]:
        """What pulls at each unit, over a positive number that is the same for all.

        **Arguments:**

        - `x`: a state of -1/+1; of MixedNet also the mean of the last states.
        """
        x = self._state(x, "field")
        return _field(self, x)

    def transition_errors(self) -> Integer[Array, " K"]:
        """For each pattern, how many units of the one that follows a step gets wrong.

        All zero means that the whole sequence plays without an error, from any of its patterns.
        MixedNet is asked with a full trace.
        """
        return _transition_errors(self)

    # -- states as they are given ------------------------------------------------------------------

    def _state(self, x: ArrayLike, where: str) -> Array:
        x = checks.as_float(x, f"{where}: x")
        checks.state_shape(x, self.Xi.shape[1:], where)
        return checks.spins(x.astype(self.state_struct.dtype), where)

    def _history(self, history: ArrayLike | None) -> Array:
        """The last `tau - 1` states; 0 where they are not known."""
        shape, dtype = self.Xi.shape[1:], self.state_struct.dtype
        if history is None:
            return jnp.zeros((self.tau - 1, *shape), dtype)
        past = checks.as_float(history, "play: history").astype(dtype)
        if past.shape[1:] != shape or past.ndim == 0 or past.shape[0] >= self.tau:
            raise ValueError(
                f"play: history must have shape (n, {', '.join(map(str, shape))}) with n below "
                f"tau = {self.tau}; {past.shape} came. Only the last tau - 1 states count."
            )
        past = checks.spins(past, "play: history")
        unknown = jnp.zeros((self.tau - 1 - past.shape[0], *shape), dtype)
        return jnp.concatenate([unknown, past])


def _check_sequence(Xi: Array) -> None:
    checks.pattern_matrix(Xi)
    if Xi.shape[0] < 2 or math.prod(Xi.shape[1:]) < 2:
        raise ValueError(
            f"Xi: a sequence must have at least 2 patterns of at least 2 units; {Xi.shape} came. "
            "A single pattern is kept by a BinaryAM."
        )
    checks.require(
        Xi,
        ~(abs(Xi if checks.is_traced(Xi) else np.asarray(Xi)) == 1).all(),
        "Xi: patterns must hold only -1 and +1; other values came. Bits 0/1 become spins by "
        "2*Xi - 1, grey images by amlib.data.binarize.",
    )


def _dual(Xi: Array) -> Array:
    r"""The patterns $\hat\xi$ for which $\hat\xi \cdot x = O^+ m$; in double precision if known."""
    dtype = wide(state_dtype(Xi))
    if checks.is_traced(Xi):
        return jnp.linalg.pinv(Xi.reshape(len(Xi), -1).astype(dtype)).T
    flat = np.asarray(Xi).reshape(len(Xi), -1).astype(np.float64)
    return jnp.asarray(np.linalg.pinv(flat).T, dtype)


def _single(order: AbstractOrder, N: int) -> AbstractOrder:
    moves = jax.eval_shape(order.moves, jr.key(0), jax.ShapeDtypeStruct((N,), jnp.int32))
    if moves.ndim != 1:
        raise ValueError(
            f"play: order must visit one unit at a time; {type(order).__name__} moves several "
            "together. Use 'permutation', 'sequential' or 'random'."
        )
    return order


# -- compiled entry points ------------------------------------------------------------------------


@compiled_lanes
def _play(
    memory: SequenceMemory,
    x0: Array,
    steps: int,
    order: AbstractOrder | None,
    key: Array,
    history: Array,
    meter: bars.Meter | None,
) -> Playback:
    pulls, (start, past) = _pulls(memory), checks.widen((x0.reshape(-1), history))
    past = past.reshape(memory.tau - 1, start.size)
    bits = jnp.arange(start.size)

    def record(x: Array) -> tuple[Array, Array, Array]:
        m = overlaps(pulls.Xi, x) / pulls.N
        nearest = jnp.argmax(m).astype(jnp.int32)
        return jnp.packbits(x > 0), nearest, m[nearest]

    def step(carry: tuple[Array, Array], key: Array) -> tuple[tuple[Array, Array], Any]:
        x, past = carry
        window = jnp.concatenate([past, x[None]])
        trace = window.mean(axis=0) if memory.tau > 1 else None
        if order is None:
            x = pulls.together(x, trace)
        else:
            x = pulls.in_turn(x, trace, order.moves(key, bits))
        return (x, window[1:]), record(x)

    (x, _), after = bars.scan(meter, step, (start, past), jr.split(key, steps), steps)
    packed, pattern, overlap = jax.tree.map(
        lambda first, rest: jnp.concatenate([first[None], rest]), record(start), after
    )
    x = x.reshape(x0.shape).astype(x0.dtype)
    return Playback(x, packed, pattern, overlap, len(memory.Xi), memory.tau, memory.cyclic)


@compiled_lanes
def _step(memory: SequenceMemory, x: Array) -> Array:
    return _pulls(memory).together(checks.widen(x.reshape(-1))).reshape(x.shape).astype(x.dtype)


@compiled_lanes
def _field(memory: SequenceMemory, x: Array) -> Array:
    return _pulls(memory).field(checks.widen(x.reshape(-1))).reshape(x.shape)


@compiled
def _transition_errors(memory: SequenceMemory) -> Array:
    pulls, dtype = _pulls(memory), wide(state_dtype(memory.Xi))

    def wrong(pair: tuple[Array, Array]) -> Array:
        x, target = (a.astype(dtype) for a in pair)
        return jnp.sum(pulls.together(x) != target, dtype=jnp.int32)

    return lax.map(wrong, (pulls.Xi, pulls.following), batch_size=256)


def _pulls(memory: SequenceMemory) -> Pulls:
    """The network as it computes: flat patterns, those that follow, and no half precision."""
    flat = memory.Xi.reshape(len(memory.Xi), -1)
    following = jnp.concatenate([flat[1:], flat[:1] if memory.cyclic else flat[-1:]])
    parts = (memory.interaction, memory.symmetric, memory.lam, flat, following, memory.dual)
    return Pulls(*checks.widen(parts))
