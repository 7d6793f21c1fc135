"""A memory of one vector, whatever it holds: patterns as sums of random features."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Float, Int, Shaped, UInt32

from amlib import _checks as checks, _shards as shards
from amlib._compiled import compiled
from amlib._types import IntLike, Key, Scalar, ScalarLike, ShapeLike
from amlib.continuous.base import AbstractContinuousAM
from amlib.continuous.features import AbstractFeatures, SinCos, directions
from amlib.descent.streaming import even, flat_rows, over_blocks
from amlib.descent.sums import streamed_sum

BLOCK_SIZE = 2**20
"""Numbers of the random matrix that are made at a time: 4 MB."""

PATTERNS = 2**11
"""Patterns that are stored at a time: along a block of directions their features take 32 MB."""

SIN_COS = SinCos()

MOST = 2**24
"""Directions of a memory, at the most."""


class DistributedMemory(AbstractContinuousAM):
    r"""Any number of patterns in one vector of fixed size, by random features: DrDAM.

    $$\tilde E(x) = -\frac{1}{\beta} \log g(S(x)), \qquad
    S(x) = \frac{1}{Y} \sum_{y=1}^{Y} f_y(\sqrt\beta x) \cdot T_y$$

    $$T_y = \sum_\mu f_y(\sqrt\beta \xi_\mu), \qquad f_y(a) = f(w_y \cdot a)$$

    $S(x)$ estimates $\sum_\mu e^{-\frac{\beta}{2}\|x - \xi_\mu\|^2}$ without bias, so this is
    `GaussianMemory` of the same `beta` and prefactor, but for an error that falls as $Y^{-1/2}$.

    ```python
    memory = am.DistributedMemory.store(Xi, beta=20.0, Y=10_000, key=jr.key(0))
    memory = memory.add(more).remove(Xi[:10])
    end = memory.recall(x0)
    ```

    **The floor.** $S$ is noisy, and far from all patterns as often negative as not. With
    $\epsilon$ the standard deviation of that noise, taken from $T$ itself,

    $$\log g(S) = \operatorname{arsinh} \frac{S}{2\epsilon} + \log \epsilon, \qquad
    g(S) = \tfrac12 \left(S + \sqrt{S^2 + 4 \epsilon^2}\right)$$

    $$\epsilon = \text{floor} \cdot \frac{\|T\|}{Y \sqrt{\text{width}}}$$

    $g$ is smooth, positive and strictly rising, so the floor makes and moves no minimum: the
    stationary points are those of $S$, of the same kind. The slope
    $d \log g / dS = (S^2 + 4\epsilon^2)^{-1/2}$ is nowhere zero and nowhere above
    $1 / (2\epsilon)$, and $0 \le \log g - \log S \le \epsilon^2 / S^2$ for $S > 0$: less than the
    random error of the energy wherever $S > \epsilon$. (The published $\log \max(S, 10^{-5})$ is
    flat wherever $S$ is below, where a descent never moves.) The gradient so keeps pointing up the
    slope of $S$; how far from patterns that slope is more than noise, `standard_error` tells.
    `Exp` and `ExpExp` have positive $S$, and need no floor. Unlike that of `GaussianMemory` the
    energy stays bounded far away, so that it has no Boltzmann distribution over all of space: draw
    samples within an `am.Box` or on a `Sphere`, or cold enough to stay near patterns.

    **Costs.** The directions $w_y$ are remade from the seed in blocks at each call, and never
    stored. An evaluation of the gradient takes $3 D Y$ multiply-adds, and $D Y$ random numbers
    that all states of a batch share (`jax.vmap`); a pattern takes $D Y$ multiply-adds to add.
    $T$ has `width * Y` numbers (2 for `SinCos`), so it is smaller than $K$ patterns once
    $K > 2 Y / D$. A recalled unit is then off by about $\sqrt{K / (2 (Y - D) \beta)}$ (of patterns
    far from each other), hence by more than $1 / \sqrt{\beta D}$: that is the price of a smaller
    memory. `Y` must exceed `D`: valleys are flat along what no direction sees.

    `beta` is a part of what is stored, so it cannot be changed afterwards: it is no field, but a
    property to read, and an attempt is an error. Store anew for another one.

    **Arguments:** of the constructor, which `store` and `empty` call.

    - `T`: the sums of features, a row for each direction.
    - `scale`: $\sqrt\beta$.
    - `count`: $K$, how many patterns $T$ holds.
    - `seed`: two integers, which the directions are functions of.
    - `shape`: that of a pattern.
    - `features`: the map, see `AbstractFeatures`.
    - `floor`: $\epsilon$ in standard deviations of the noise, > 0.
    - `block`: directions that are computed with at a time; `None` chooses. It changes no result.

    **Raises:** `ValueError` for arrays that do not fit.

    **Reference:** Hoover et al. 2024 (arXiv 2410.24153), eq. 8 to 10, with their $Y$, and another
    floor; their code keeps the random matrix and divides features by $\sqrt Y$.
    """

    T: Float[Array, "Y width"]
    scale: Scalar = eqx.field(metadata={"trained": False})
    count: Int[Array, ""]
    seed: UInt32[Array, "2"]
    shape: tuple[int, ...] = eqx.field(static=True)
    features: AbstractFeatures = eqx.field(default_factory=SinCos)
    floor: Scalar = eqx.field(
        converter=checks.positive_field("floor"), metadata={"trained": False}, default=1.0
    )
    block: int | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        _check_features(self.features)
        width = self.features.width
        if self.T.ndim != 2 or self.T.shape[1] != width or not 1 <= self.T.shape[0] <= MOST:
            raise ValueError(
                f"DistributedMemory: T must have shape (Y, {width}), a row for each of 1 to {MOST} "
                f"directions; {self.T.shape} came. Use DistributedMemory.store(Xi, ...)."
            )
        if self.block is not None:
            checks.integer(self.block, 1, "DistributedMemory: block")

    # -- what it holds ---------------------------------------------------------------------------

    @staticmethod
    def empty(
        shape: ShapeLike,
        beta: ScalarLike,
        *,
        Y: IntLike,
        key: Key,
        features: AbstractFeatures = SIN_COS,
        floor: ScalarLike = 1.0,
        block: int | None = None,
        dtype: Any = None,
    ) -> "DistributedMemory":
        r"""A memory of nothing yet.

        **Arguments:**

        - `shape`: that of a pattern.
        - `beta`: inverse variance of the kernel, > 0, in units of one over a squared distance, as
          in `GaussianMemory`. It is fixed.
        - `Y`: how many random directions, 1 to 2^24; `SinCos` and `ExpExp` keep two numbers each,
          as in the paper. It is fixed.
        - `key`: what the directions are made from. Memories of one key, `beta` and `Y` have the
          same ones: their `T` may be added.
        - `features`: `SinCos()`, `Cos()`, `Exp()`, `ExpExp()` or your own.
        - `floor`, `block`: see the class.
        - `dtype`: of `T`; `None` means JAX's default float.

        **Returns:** a memory to `add` patterns to. Its energy is the same everywhere.

        **Raises:** `ValueError` if `beta` or `floor` is not a finite positive scalar, or `Y` is out
        of range; `TypeError` for a key that is none.
        """
        shape = checks.shape(shape, "DistributedMemory: shape")
        _check_features(features)
        Y = checks.integer(Y, 1, "DistributedMemory: Y")
        checks.at_most(Y, MOST, "DistributedMemory: Y")
        checks.key(key, "DistributedMemory: key")
        dtype = jnp.result_type(float) if dtype is None else dtype
        wide = checks.widen(jnp.zeros((), dtype)).dtype  # a rounded beta would be another one
        beta = checks.positive_field("beta")(beta).astype(wide)
        return DistributedMemory(
            T=jnp.zeros((Y, features.width), dtype),
            scale=jnp.sqrt(beta),
            count=jnp.zeros((), jnp.int32),
            seed=jr.bits(key, (2,), jnp.uint32),
            shape=shape,
            features=features,
            floor=checks.as_float(floor, "floor").astype(wide),
            block=block,
        )

    @staticmethod
    def store(
        Xi: Shaped[ArrayLike, "K *shape"],
        beta: ScalarLike,
        *,
        Y: IntLike,
        key: Key,
        features: AbstractFeatures = SIN_COS,
        floor: ScalarLike = 1.0,
        block: int | None = None,
    ) -> "DistributedMemory":
        """A memory of some patterns.

        **Arguments:**

        - `Xi`: patterns, one per row, as of `ContinuousAM`.
        - `beta`, `Y`, `key`, `features`, `floor`, `block`: see `empty`.

        **Returns:** `empty(...).add(Xi)`, in the dtype of `Xi`.

        **Raises:** as `empty` and `add`.
        """
        Xi = checks.patterns(Xi)
        checks.pattern_matrix(Xi)
        options = {"features": features, "floor": floor, "block": block, "dtype": Xi.dtype}
        return DistributedMemory.empty(Xi.shape[1:], beta, Y=Y, key=key, **options).add(Xi)

    def add(self, Xi: Shaped[ArrayLike, "K *shape"]) -> "DistributedMemory":
        """This memory with some patterns more.

        The order of patterns, and how they are divided among calls, change nothing but rounding.
        Each call makes the random matrix once, so thousands at a time cost least.

        **Arguments:**

        - `Xi`: patterns, one per row, of the shape that the memory has.

        **Returns:** a new memory, of the same size.

        **Raises:** `ValueError` for patterns of another shape, NaN or infinity, and for positive
        features that overflow or vanish.
        """
        return self._changed(Xi, "add", 1)

    def remove(self, Xi: Shaped[ArrayLike, "K *shape"]) -> "DistributedMemory":
        """This memory without some patterns, the inverse of `add` within rounding.

        The memory cannot know which patterns it holds: one that was never added leaves a hill where
        it would have been a valley.

        **Arguments:**

        - `Xi`: patterns that were added before.

        **Returns:** a new memory, of the same size.

        **Raises:** as `add`, and `ValueError` for more patterns than there are.
        """
        return self._changed(Xi, "remove", -1)

    def _changed(self, Xi: ArrayLike, where: str, sign: int) -> "DistributedMemory":
        Xi = checks.as_float(Xi, f"{where}: Xi")
        if Xi.shape == self.shape:
            raise ValueError(
                f"{where}: Xi must have shape (K, {', '.join(map(str, self.shape))}); {Xi.shape} "
                f"came. A single pattern is Xi[None]."
            )
        if Xi.shape[1:] != self.shape or Xi.size == 0:
            raise ValueError(
                f"{where}: Xi must hold at least one pattern, of the shape {self.shape} of those "
                f"stored; {Xi.shape} came. Another shape needs a memory of its own."
            )
        Xi = Xi if checks.is_traced(Xi) else checks.finite(Xi, f"{where}: Xi")
        count = self.count + sign * Xi.shape[0]
        if checks.is_concrete(count) and int(count) < 0:
            raise ValueError(
                f"{where}: Xi must hold no more patterns than the memory, {int(self.count)}; "
                f"{Xi.shape[0]} came. Remove what was added, and once."
            )
        T = _changed_sums(self, Xi, count, sign)
        bad = ~jnp.isfinite(T).all()
        if self.features.positive:
            bad = bad | ((count > 0) & ~(T > 0).any())
        T = checks.require(
            T,
            bad,
            f"{where}: sums of {type(self.features).__name__} features must be finite and not all "
            "0; they overflow or vanish. beta * ||xi||^2 is too large for exponentials: use "
            "SinCos(), a smaller beta, or patterns minus their mean.",
        )
        return eqx.tree_at(lambda m: (m.T, m.count), self, (T, count))

    # -- the energy ------------------------------------------------------------------------------

    @property
    def beta(self) -> Scalar:
        """The inverse variance that patterns were stored with; it cannot be changed."""
        if not eqx.is_array(self.scale):
            raise AttributeError(
                "DistributedMemory: beta must stay what patterns were stored with; another one was "
                "to be set. Store the patterns anew: DistributedMemory.store(Xi, beta, ...)."
            )
        return self.scale * self.scale

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state: those of a pattern."""
        return jax.ShapeDtypeStruct(self.shape, self.T.dtype)

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`: finite everywhere."""
        scale = self.scale.astype(x.dtype)
        a = scale * x.reshape(-1)
        S = self._sum(_features, a) / self.T.shape[0]
        common = self.features.log_factor(jnp.sum(a * a))
        log = jnp.log(S) if self.features.positive else self._log_floored(S)
        return -(log + common) / (scale * scale)

    def standard_error(self, x: Shaped[ArrayLike, "*shape"]) -> Scalar:
        r"""The standard error of the energy at `x`, from the memory alone.

        $S$ is a mean over directions, so their spread tells how far it may be off; of the energy
        that is $\sigma / (\beta \sqrt Y \sqrt{S^2 + 4 \epsilon^2})$, with $\sigma$ the standard
        deviation of $f_y \cdot T_y$. Where no pattern is near, it is about $1 / (2\beta)$ by the
        floor of 1: the energy is noise there, and nearly constant.

        **Arguments:**

        - `x`: a state.

        **Returns:** a number in units of energy, >= 0, to first order in the error.

        **Raises:** `ValueError` for a wrong shape.
        """
        return _standard_error(self, type(self)._state(self, x, "standard_error", check=False))

    def _sum(self, term: Any, a: Array) -> Array:
        """The sum of a term over all directions, streamed."""
        Y, D = self.T.shape[0], a.size
        block = self.block or max(128, BLOCK_SIZE // D)
        rows = self.T.astype(a.dtype), jnp.arange(Y, dtype=jnp.uint32)
        return streamed_sum(term, rows, (a, self.features, self.seed), block=block)

    def _floor(self) -> Array:
        r"""$\epsilon$; of an empty memory the least number there is."""
        square = jnp.mean(self.T * self.T)
        tiny = jnp.finfo(square.dtype).tiny
        noise = jnp.sqrt(jnp.maximum(square, tiny)) / math.sqrt(self.T.shape[0])
        return self.floor.astype(square.dtype) * noise

    def _log_floored(self, S: Array) -> Array:
        floor = self._floor().astype(S.dtype)
        return jnp.arcsinh(S / (2 * floor)) + jnp.log(floor)


def _check_features(features: object) -> None:
    if not isinstance(features, AbstractFeatures):
        raise TypeError(
            f"DistributedMemory: features must be AbstractFeatures; {features!r} came. Write "
            "features=am.continuous.SinCos()."
        )


def _each(rows: tuple[Array, Array], theta: tuple[Array, AbstractFeatures, Array]) -> Array:
    """What some directions give to the sum at a state."""
    (T, y), (a, features, seed) = rows, theta
    w, phase = directions(seed, y, a.size)
    seen = features(w.astype(a.dtype) @ a, phase.astype(a.dtype))
    return sum((f * T[:, k] for k, f in enumerate(seen)), jnp.zeros_like(T[:, 0]))


def _features(rows: tuple[Array, Array], theta: tuple[Array, AbstractFeatures, Array]) -> Array:
    return jnp.sum(_each(rows, theta))


def _squares(rows: tuple[Array, Array], theta: tuple[Array, AbstractFeatures, Array]) -> Array:
    return jnp.sum(_each(rows, theta) ** 2)


@compiled
def _standard_error(memory: DistributedMemory, x: Array) -> Array:
    wide, x = checks.widen((memory, x))
    beta, Y = wide.beta.astype(x.dtype), wide.T.shape[0]
    a = wide.scale.astype(x.dtype) * x.reshape(-1)
    S = wide._sum(_features, a) / Y
    spread = jnp.maximum(wide._sum(_squares, a) / Y - S * S, 0.0) / Y
    floor = 0.0 if wide.features.positive else wide._floor().astype(x.dtype)
    return jnp.sqrt(spread) / (beta * jnp.sqrt(S * S + 4 * floor * floor))


@compiled
def _changed_sums(memory: DistributedMemory, Xi: Array, count: Array, sign: int) -> Array:
    """`T` with patterns added or removed; that of no pattern is 0, without what rounding left."""
    wide, rows = checks.widen((memory, flat_rows(Xi)))
    T = wide.T + sign * _sums(wide, rows.astype(wide.T.dtype)).astype(wide.T.dtype)
    return jnp.where(count == 0, jnp.zeros_like(T), T).astype(memory.T.dtype)


def _sums(memory: DistributedMemory, rows: Array) -> Array:
    """The sums of features over patterns: a block of directions, and of it a block of patterns."""
    K, D = rows.shape
    Y, width = memory.T.shape
    scale = memory.scale.astype(rows.dtype)
    # Each device sums its own patterns.
    parts = math.gcd(K, shards.devices(rows))
    apart = rows.reshape(parts, K // parts, D)

    @jax.checkpoint
    def of_block(y: Array) -> Array:
        w, phase = directions(memory.seed, y, D)
        w, phase = w.astype(rows.dtype), phase.astype(rows.dtype)

        def add(total: Array, part: Array) -> Array:
            a = scale * part
            seen = jax.vmap(memory.features, (0, None))(a @ w.T, phase)
            common = jnp.exp(jax.vmap(memory.features.log_factor)(jnp.sum(a * a, axis=1)))
            return total + jnp.stack([common @ f for f in seen], axis=1)

        zero = jnp.zeros((len(y), width), rows.dtype)
        one = lambda part: over_blocks(add, zero, part, even(len(part), min(PATTERNS, len(part))))
        return one(apart[0]) if parts == 1 else jnp.sum(jax.vmap(one)(apart), axis=0)

    block = min(Y, memory.block or min(4096, max(128, 2 * BLOCK_SIZE // D)))
    block = even(Y, block)
    y = jnp.arange(Y, dtype=jnp.uint32)
    whole = Y - Y % block
    T = jax.lax.map(of_block, y[:whole].reshape(-1, block)).reshape(whole, width)
    return T if whole == Y else jnp.concatenate([T, of_block(y[whole:])])
