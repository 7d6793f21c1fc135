"""A Hopfield network as a layer of any other network: what is shared is in `Hopfield`."""

from typing import ClassVar, TypedDict

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import IntLike, Key, RealLike
from amlib.continuous import AbstractContinuousAM, ModernHopfield
from amlib.nn.cores import Core, ask, memory_of, words_of
from amlib.nn.retrieval import beta_for, hidden, no_values, rows, steps_field, values_for

HEADS, WIDEST, STD = 8, 32, 0.02
"""By default: how many heads there are, how wide each is at most, the spread of their weights."""


class Options(TypedDict, total=False):
    """The arguments that `HopfieldPooling` and `HopfieldLayer` hand on to `Hopfield`."""

    hidden_size: IntLike | None
    output_size: IntLike | None
    pattern_size: IntLike | None
    num_heads: IntLike
    beta: Shaped[ArrayLike, "..."] | None
    update_steps_max: int | None
    core: Core
    normalize: bool
    add_zero_association: bool
    std: RealLike | None
    pattern_projection_size: IntLike | None


class Hopfield(eqx.Module):
    r"""Associate states with stored patterns: a continuous Hopfield network as a layer.

    $$K = \mathrm{LN}(R) W_K, \quad Q = \mathrm{LN}(S) W_Q, \quad V = \mathrm{LN}(P) W_V$$

    $$Q \leftarrow \mathrm{softmax}(\beta\, Q K^\top) K, \qquad
    \mathrm{out} = \mathrm{softmax}(\beta\, Q K^\top)\, V\, W_O$$

    in each head, with `update_steps_max` updates of $Q$. Every head is a memory, an energy over the
    stored patterns $K$, which the updates lower: see `memories`. One example per call; a batch goes
    through `jax.vmap(layer)`.

    ```python
    layer = am.nn.Hopfield(64, key=key)
    out = layer(tokens)                                  # associates tokens with each other
    out = layer(stored, state)                           # states with stored patterns
    ```

    **Defaults that work.** They differ from the published ones, with which the bit-pattern task
    stays at 0.52 to 0.58 of its validation bags:

    - `add_zero_association`: a softmax must always recall something, so a bag without anything to
      be found gives an average at random, which no linear map tells from a find. A stored pattern
      at the origin, with nothing to read out, lets a head answer "none of these": its score is 0,
      and a match must beat it. It makes an average a detector.
    - `num_heads`: one head looks for one thing. There are 8.
    - The bias of the states begins with numbers of variance 1, and not with zeros. With weights as
      small as they are (`std`), every head then begins by asking something of its own, whoever
      asks: as a pooling does. From zeros all scores are equal, heads differ in nothing but noise,
      and what is learned first is which state asked, by heart.

    **Arguments:**

    - `input_size`: the width of states, and of stored patterns and projections if nothing else is
      said.
    - `hidden_size`: the width of each head, in which states meet patterns; `None` means
      `input_size`, at most 32. Heads have widths of their own: nothing need divide.
    - `output_size`: the width of the output; `None` means `input_size`.
    - `pattern_size`: how much each head reads out; `None` means `hidden_size`. A core without
      `values` gives the states it ends in, and has none.
    - `num_heads`: the number of heads.
    - `beta`: inverse temperature (`scaling` there), > 0, one or one for each head; not trained, for
      the weights scale the scores. `None` means $1/\sqrt{\text{hidden\_size}}$, or the core's own.
    - `update_steps_max`: updates of a state before it is read out. 0 is attention; `None` goes on
      to rest, with the derivative of the implicit function theorem, by which states learn nothing:
      to which pattern they come does not change in small steps.
    - `stored_pattern_size`, `pattern_projection_size`: other widths.
    - `core`: the energy of a head, from `Xi` to a `ContinuousAM`: `am.SparseHopfield`,
      `functools.partial(am.SparseHopfield, alpha=2.0)`, a class of your own. See `amlib.nn.cores`.
    - `normalize`: whether patterns, states and projections pass a layer normalisation first.
    - `add_zero_association`: whether there is a stored pattern of zeros, see above.
    - `std`: spread of the initial weights, as published; `None` means one over the root of the
      width that they act on.
    - `key`: for the weights.

    Not kept: `dropout` (`equinox.nn.Dropout` after the layer), `*_as_static` and
    `disable_out_projection` (`am.nn.retrieve`), `concat_bias_pattern` (trained tokens among the
    stored patterns), `update_steps_eps` (states, and not weights, come to rest), and switches for
    biases.

    **Raises:** `ValueError` for sizes that are not positive, `beta` not above 0, and options that
    the core does not have; `TypeError` for wrong kinds.

    **Reference:** Ramsauer et al. 2021, eq. 10 and section 3, and its package; the zero association
    is an option there.
    """

    norm_stored_pattern: eqx.nn.LayerNorm | None
    norm_state_pattern: eqx.nn.LayerNorm | None
    norm_pattern_projection: eqx.nn.LayerNorm | None
    project_stored_pattern: eqx.nn.Linear
    project_state_pattern: eqx.nn.Linear
    project_pattern: eqx.nn.Linear | None
    project_output: eqx.nn.Linear
    beta: Float[Array, " heads"] | None = eqx.field(metadata={"trained": False})
    input_size: int = eqx.field(static=True)
    output_size: int = eqx.field(static=True)
    num_heads: int = eqx.field(static=True)
    update_steps_max: int | None = eqx.field(static=True)
    add_zero_association: bool = eqx.field(static=True)
    core: Core = eqx.field(static=True)

    _where: ClassVar[str] = "Hopfield"

    __repr__ = show.text

    def __init__(
        self,
        input_size: IntLike,
        hidden_size: IntLike | None = None,
        output_size: IntLike | None = None,
        pattern_size: IntLike | None = None,
        num_heads: IntLike = HEADS,
        beta: Shaped[ArrayLike, "..."] | None = None,
        update_steps_max: int | None = 0,
        *,
        stored_pattern_size: IntLike | None = None,
        pattern_projection_size: IntLike | None = None,
        core: Core = ModernHopfield,
        normalize: bool = True,
        add_zero_association: bool = True,
        std: RealLike | None = STD,
        key: Key,
    ):
        where = self._where

        def size(name: str, value: IntLike | None, default: int = 0) -> int:
            value = default if value is None else value
            return checks.integer(value, 1, f"{where}: {name}")

        D = size("input_size", input_size)
        stored = size("stored_pattern_size", stored_pattern_size, D)
        source = size("pattern_projection_size", pattern_projection_size, stored)
        width = size("hidden_size", hidden_size, min(D, WIDEST))
        read = size("pattern_size", pattern_size, width)
        self.input_size, self.num_heads = D, size("num_heads", num_heads)
        self.output_size = size("output_size", output_size, D)
        self.update_steps_max = steps_field(update_steps_max, where)
        self.add_zero_association, self.core = bool(add_zero_association), core
        words = words_of(core, where)
        self.beta = _betas(beta, width, self.num_heads, words, where)
        if "values" not in words and (pattern_size or pattern_projection_size):
            raise ValueError(
                f"{where}: pattern_size and pattern_projection_size: must be left out for a core "
                "without values=, which gives back its states; one came."
            )
        checks.key(key, f"{where}: key")
        if std is not None:
            checks.at_least(std, 0, f"{where}: std")
        norm = lambda n: eqx.nn.LayerNorm(n) if normalize else None
        self.norm_stored_pattern, self.norm_state_pattern = norm(stored), norm(D)
        self.norm_pattern_projection = norm(source) if "values" in words else None
        H, (*keys, asked) = self.num_heads, jr.split(key, 5)
        self.project_stored_pattern = _linear(stored, H * width, std, keys[0])
        asks = jr.normal(asked, (H * width,))
        self.project_state_pattern = _linear(D, H * width, std, keys[1], asks)
        self.project_pattern = None
        if "values" in words:
            self.project_pattern = _linear(source, H * read, std, keys[2])
        self.project_output = _linear(H * read, self.output_size, std, keys[3])

    def __call__(
        self,
        stored: Shaped[ArrayLike, "..."],
        state: Shaped[ArrayLike, "..."] | None = None,
        projection: Shaped[ArrayLike, "..."] | None = None,
        *,
        stored_pattern_padding_mask: Bool[ArrayLike, "..."] | None = None,
        association_mask: Bool[ArrayLike, "..."] | None = None,
    ) -> Float[Array, "S out"]:
        """Associate the states of one example with its stored patterns.

        **Arguments:**

        - `stored`: stored patterns, `(K, stored_pattern_size)`.
        - `state`: states, `(S, input_size)`; `None` means the stored patterns.
        - `projection`: what is read out of each pattern, `(K, pattern_projection_size)`; `None`
          means the stored patterns.
        - `stored_pattern_padding_mask`: `True` where a pattern is padding, which counts nothing,
          `(K,)`.
        - `association_mask`: `True` where a state may not see a pattern, `(S, K)`.

        **Returns:** one row for each state, `(S, output_size)`.

        **Raises:** `ValueError` for shapes that do not fit, NaN or infinity, and masks that hide
        everything; `TypeError` for masks that are not boolean.
        """
        R, S = self._given(stored, state)
        bias = hidden(stored_pattern_padding_mask, association_mask, len(S), R, self._where)
        out = self._ask(self._keys(R), self.queries(S), self._read(projection, R), bias)
        return jax.vmap(self.project_output)(out.transpose(1, 0, 2).reshape(len(S), -1))

    def association_matrix(
        self,
        stored: Shaped[ArrayLike, "..."],
        state: Shaped[ArrayLike, "..."] | None = None,
        *,
        stored_pattern_padding_mask: Bool[ArrayLike, "..."] | None = None,
        association_mask: Bool[ArrayLike, "..."] | None = None,
    ) -> Float[Array, "heads S K"]:
        """How much each head reads of each pattern, for each state.

        **Arguments:** those of a call.

        **Returns:** `(num_heads, S, K)`. Rows sum to 1; where there is a zero association, to what
        it leaves.

        **Raises:** as a call; `ValueError` for a core that takes no `values`.
        """
        if self.project_pattern is None:
            raise ValueError(
                f"{self._where}.association_matrix: needs a core that takes values= and has a "
                "readout, such as am.ModernHopfield; this one gives back its states."
            )
        R, S = self._given(stored, state)
        bias = hidden(stored_pattern_padding_mask, association_mask, len(S), R, self._where)
        keys = self._keys(R)
        each = jnp.broadcast_to(jnp.eye(len(R), dtype=keys.dtype), (len(keys), len(R), len(R)))
        return self._ask(keys, self.queries(S), each, bias)

    def memories(self, stored: Shaped[ArrayLike, "..."]) -> list[AbstractContinuousAM]:
        """The memory that each head is: the energy of its states, see `queries`.

        **Arguments:**

        - `stored`: stored patterns, see a call.

        **Returns:** one memory for each head.

        **Raises:** `ValueError` for a wrong shape, NaN or infinity.
        """
        width = self.project_stored_pattern.in_features
        K = self._with_zeros(self._keys(rows(stored, int(width), self._where, "stored")))
        betas = [None] * len(K) if self.beta is None else self.beta
        make = lambda Xi, beta: memory_of(self.core, Xi, beta, None, None, self._where)
        return [make(Xi, beta) for Xi, beta in zip(K, betas, strict=True)]

    def queries(self, state: Shaped[ArrayLike, "..."]) -> Float[Array, "heads S hidden"]:
        """States as the heads see them: where their recalls start.

        **Arguments:**

        - `state`: states, see a call.

        **Raises:** `ValueError` for a wrong shape, NaN or infinity.
        """
        S = rows(state, self.input_size, self._where, "state")
        return self._apart(self.norm_state_pattern, self.project_state_pattern, S)

    # -- parts of a call ---------------------------------------------------------------------------

    def _given(self, stored: ArrayLike, state: ArrayLike | None) -> tuple[Array, Array]:
        """Stored patterns and states, of the widths that they must have."""
        width = int(self.project_stored_pattern.in_features)
        R = rows(stored, width, self._where, "stored")
        return R, rows(stored if state is None else state, self.input_size, self._where, "state")

    def _read(self, projection: ArrayLike | None, R: Array) -> Array | None:
        """What each head reads out of each pattern; `None` for a core without values."""
        if self.project_pattern is None:
            if projection is not None:
                raise ValueError(no_values(self._where))
            return None
        width = int(self.project_pattern.in_features)
        P = values_for(R if projection is None else projection, width, R, self._where)
        return self._apart(self.norm_pattern_projection, self.project_pattern, P)

    def _apart(
        self, norm: eqx.nn.LayerNorm | None, linear: eqx.nn.Linear, x: Array
    ) -> Float[Array, "heads N width"]:
        """Rows as each head sees them."""
        x = x if norm is None else jax.vmap(norm)(x)
        return jax.vmap(linear)(x).reshape(len(x), self.num_heads, -1).transpose(1, 0, 2)

    def _keys(self, R: Array) -> Array:
        return self._apart(self.norm_stored_pattern, self.project_stored_pattern, R)

    def _with_zeros(self, a: Array) -> Array:
        """With a row of zeros for each head, where there is a zero association."""
        return jnp.pad(a, ((0, 0), (0, 1), (0, 0))) if self.add_zero_association else a

    def _ask(self, K: Array, Q: Array, V: Array | None, bias: Array | None) -> Array:
        """What every head reads out for every state."""
        if bias is not None and self.add_zero_association:
            bias = jnp.pad(bias, [*[(0, 0)] * (bias.ndim - 1), (0, 1)])
        K, V = self._with_zeros(K), None if V is None else self._with_zeros(V)

        def head(K: Array, Q: Array, V: Array | None, beta: Array | None) -> Array:
            return ask(self.core, K, Q, beta, V, bias, self.update_steps_max, self._where)

        return jax.vmap(head)(K, Q, V, self.beta)


def _linear(
    inputs: int, outputs: int, std: RealLike | None, key: Key, bias: Array | None = None
) -> eqx.nn.Linear:
    """A linear map with normal weights, and a bias of zeros if no other is given."""
    linear = eqx.nn.Linear(inputs, outputs, key=key)
    weight = (inputs**-0.5 if std is None else std) * jr.normal(key, (outputs, inputs))
    bias = jnp.zeros(outputs) if bias is None else bias
    return eqx.tree_at(lambda m: (m.weight, m.bias), linear, (weight, bias))


def _betas(
    beta: Shaped[ArrayLike, "..."] | None, width: int, heads: int, words: frozenset[str], where: str
) -> Array | None:
    """One inverse temperature for each head; `None` for a core that takes none."""
    if "beta" not in words:
        beta_for(beta, words, where)
        return None
    betas = checks.as_float(width**-0.5 if beta is None else beta, f"{where}: beta")
    if betas.shape not in ((), (heads,)):
        raise ValueError(
            f"{where}: beta: must be one number, or one for each of the {heads} heads; shape "
            f"{betas.shape} came."
        )
    betas = checks.positive(betas, f"{where}: beta") if checks.is_concrete(betas) else betas
    return jnp.broadcast_to(betas, (heads,)).astype(betas.dtype)
