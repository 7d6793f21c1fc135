r"""The Energy Transformer: a hierarchical memory of one layer, an attention and a dense memory.

A transformer's block computes; this one relaxes. Its tokens are the state of a layer whose
activation is layer normalisation, attention and memory are two energies of the activations, and
the block is the descent on their sum: one set of weights, applied a dozen times.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, PyTree, Shaped

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._numbers import Numbers
from amlib._types import IntLike, Key, RealLike, Scalar, ScalarLike
from amlib.descent.methods import AbstractMethod
from amlib.descent.problems import AbstractProblem
from amlib.descent.trajectory import Recall
from amlib.hierarchical import dynamics, energies
from amlib.hierarchical.attention import AttentionSynapse, MaskLike, mask_field
from amlib.hierarchical.dynamics import CoreEuler, HAMProblem, Held
from amlib.hierarchical.ham import HAM
from amlib.hierarchical.hidden import DenseMatrixSynapse
from amlib.hierarchical.lagrangians import lagr_relu
from amlib.hierarchical.layers import Lagrangian, LayerNormLayer
from amlib.memory import AbstractMemory
from amlib.spaces import AbstractSpace, Reals

_HERE = "EnergyTransformer"
_LAYER = "tokens"
STD, MEMORY_STD = 0.002, 0.02
"""Published spreads of the initial weights: of attention and tokens, and of memories at 768
features. Memories of other sizes get the same overlaps: 0.02 times the root of 768/features."""


class EnergyTransformer(AbstractMemory):
    r"""A block of tokens that relaxes: layer normalisation, attention and memory in one energy.

    $$g = \mathrm{LN}(x) = \gamma \frac{x - \bar x}{\sqrt{\mathrm{var}(x) + \epsilon}} + \delta$$

    $$E_{\text{core}}(g) = -\frac1\beta \sum_{h, q} \log \sum_{k} e^{\beta\, Q_{hq} \cdot K_{hk}}
    - \frac12 \sum_{t, \mu} \max(0, \xi_\mu \cdot g_t)^2$$

    It is a `HAM` of a `LayerNormLayer`, an `AttentionSynapse` and a `DenseMatrixSynapse` of
    rectifiers: the property `ham` is that memory. A state is an array `(tokens, features)`; batches
    go through `jax.vmap`.

    **Which energy falls.** `recall` takes the published steps by default,
    $x \leftarrow x - \alpha\, \partial E_{\text{core}} / \partial g$ (`CoreEuler`): the core energy
    falls, and the energies of the result are core energies. All other methods lower `energy`, which
    has the layer's own $x \cdot g - L(x)$ too, and states decay: `Euler(0.1)` ends elsewhere,
    `FixedPoint()` and `Flow()` at rest, with the implicit derivative. The layer's own energy is
    $-\gamma D \epsilon \sum_t 1 / \sqrt{\mathrm{var}(x_t) + \epsilon}$ and thus nearly nothing, but
    its gradient in $g$ is $x$ itself.

    ```python
    block = am.EnergyTransformer(50, 64, heads=4, head_width=16, memories=256, key=key)
    end = block.recall(x, save_every=1)                  # 12 published steps
    rest = block.recall(x, method=am.FixedPoint(step_size=0.5))
    ```

    **Arguments:**

    - `tokens`, `features`: the shape of a state; at least 1 token of 2 features.
    - `heads`, `head_width`: of the attention, each at least 1.
    - `memories`: how many rows the dense memory has, at least 1.
    - `alpha`: the size of the published step, > 0; not trained.
    - `steps`: how many of them, at least 1; the depth of the block.
    - `mask_self`: whether a token is hidden from itself, as the paper's equation has it. The
      published codes, weights and the default here let it see itself.
    - `mask`: `True` where a token (row) may see another (column), `(tokens, tokens)`: the edges of
      a graph, or the past of a sequence. A token that is seen is pulled by those that see it, so
      signals cross every edge both ways, and no mask alone hides the future. See also `masked`.
    - `beta`: inverse temperature of the attention, > 0; not trained. `None` takes
      $1/\sqrt{\text{head\_width}}$.
    - `remat`: whether a derivative backward through the steps keeps the states alone and computes
      what is inside a step anew, see `Euler`; `False` keeps everything.
    - `std`: spread of the initial weights of the attention; by default as published, for long
      trainings. At 0.1 or so attention sets in sooner. The memory begins with 0.02, as published,
      for 768 features.
    - `key`: for the weights.

    The parameters are those published, by their names: `Wk` and `Wq` `(heads, head_width,
    features)`, `Xi` `(features, memories)` with a memory in each column, `LNORM_gamma`, a scalar,
    and `LNORM_bias`.

    **Raises:** `ValueError` for sizes, a step size or a mask that do not fit, and for one token
    that is hidden from itself; `TypeError` for wrong kinds.

    **Reference:** Hoover et al. 2023 (arXiv 2302.07253), eq. 1 to 7. The Lagrangian of its code
    puts all tokens under one root; here, as in its layer normalisation, each has its own.
    """

    Wk: Float[Array, "heads width features"]
    Wq: Float[Array, "heads width features"]
    Xi: Float[Array, "features memories"]
    LNORM_gamma: Scalar
    LNORM_bias: Float[Array, " features"]
    alpha: Scalar = eqx.field(metadata={"trained": False})
    beta: Scalar = eqx.field(metadata={"trained": False})
    mask: Bool[Array, "tokens tokens"] | None
    tokens: int = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    mask_self: bool = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    space: ClassVar[AbstractSpace] = Reals()
    _elsewhere: ClassVar[dict[str, str]] = {
        **dict.fromkeys(("steps", "max_sweeps", "nsteps"), "The number of steps is max_steps=."),
        "dt": "A step size is one of method=CoreEuler(dt), or Euler(dt).",
        "order": "All tokens move at once: choose a method=.",
        "record": "What the trajectory keeps is save_every=.",
        "beta": "The inverse temperature is a field of the model; method=Langevin(beta) draws.",
        "project": "States are free; layer normalisation bounds the activations.",
    }

    def __init__(
        self,
        tokens: IntLike,
        features: IntLike,
        heads: IntLike,
        head_width: IntLike,
        memories: IntLike,
        alpha: ScalarLike = 0.1,
        steps: IntLike = 12,
        mask_self: bool = False,
        *,
        mask: MaskLike | None = None,
        beta: ScalarLike | None = None,
        remat: bool = True,
        std: RealLike = STD,
        key: Key,
    ):
        self.tokens = checks.integer(tokens, 1, f"{_HERE}: tokens")
        D = checks.integer(features, 2, f"{_HERE}: features")
        H = checks.integer(heads, 1, f"{_HERE}: heads")
        Y = checks.integer(head_width, 1, f"{_HERE}: head_width")
        M = checks.integer(memories, 1, f"{_HERE}: memories")
        checks.key(key, f"{_HERE}: key")
        checks.at_least(std, 0, f"{_HERE}: std")
        k, q, m = jr.split(key, 3)
        self.Wk = std * jr.normal(k, (H, Y, D))
        self.Wq = std * jr.normal(q, (H, Y, D))
        self.Xi = MEMORY_STD * (768 / D) ** 0.5 * jr.normal(m, (D, M))
        self.LNORM_gamma, self.LNORM_bias = jnp.ones(()), jnp.zeros(D)
        self.alpha = _fixed(alpha, "alpha")
        self.beta = _fixed(Y**-0.5 if beta is None else beta, "beta")
        self.steps = checks.integer(steps, 1, f"{_HERE}: steps")
        self.mask_self, self.remat = _flag(mask_self, "mask_self"), _flag(remat, "remat")
        self.mask = mask_field(mask)

    def __check_init__(self):
        if self.mask_self and self.tokens == 1:
            raise ValueError(
                f"{_HERE}: with mask_self=True there must be at least 2 tokens; 1 came, which "
                "would attend to nothing. Let it see itself: mask_self=False."
            )
        if self.mask is not None and self.mask.shape != (self.tokens, self.tokens):
            raise ValueError(
                f"{_HERE}: mask must have shape (tokens, tokens) = ({self.tokens}, {self.tokens}); "
                f"{self.mask.shape} came. Rows are the tokens that look."
            )

    @property
    def features(self) -> int:
        """The number of features of a token."""
        return self.Xi.shape[0]

    @property
    def ham(self) -> HAM:
        """The block as what it is: a hierarchical memory, with the layer `"tokens"`."""
        layer = LayerNormLayer((self.tokens, self.features), self.LNORM_gamma, self.LNORM_bias)
        attention = AttentionSynapse(
            Wq=self.Wq, Wk=self.Wk, beta=self.beta, mask=self.mask, attend_self=not self.mask_self
        )
        memory = DenseMatrixSynapse(None, Lagrangian(lagr_relu), self.Xi.T, axes="last")
        synapses = {"attention": attention, "memory": memory}
        return HAM({_LAYER: layer}, synapses, [(_LAYER, name) for name in synapses])

    @property
    def state_struct(self) -> jax.ShapeDtypeStruct:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Shape and dtype of a state."""
        return jax.ShapeDtypeStruct((self.tokens, self.features), self.Xi.dtype)

    def masked(self, mask: MaskLike | None) -> "EnergyTransformer":
        """The same block with another attention mask: graphs of one size, one mask for each.

        ```python
        jax.vmap(lambda x, edges: block.masked(edges)(x))(nodes, adjacency)
        ```

        **Arguments:**

        - `mask`: see the class; `None` lets every token see every other.

        **Raises:** `ValueError` for a mask of another shape.
        """
        other = eqx.tree_at(lambda b: b.mask, self, mask_field(mask), is_leaf=lambda a: a is None)
        other.__check_init__()
        return other

    # -- energies --------------------------------------------------------------------------------

    def activations(self, x: Shaped[ArrayLike, "tokens features"]) -> Float[Array, "..."]:
        r"""Layer normalisation of every token, $g$: what attention, memory and decoders see.

        **Arguments:**

        - `x`: a state.

        **Raises:** `ValueError` for a wrong shape.
        """
        x = self._state(x, f"{_HERE}.activations", check=False)
        return _activations(self, x).astype(x.dtype)

    def energies(self, x: Shaped[ArrayLike, "tokens features"]) -> dict[str, Scalar]:
        """The energy in parts.

        **Arguments:**

        - `x`: a state.

        **Returns:** `{"layer": ..., "attention": ..., "memory": ...}`, scalars. `energy` is the sum
        of all, `core_energy` that of the last two.

        **Raises:** `ValueError` for a wrong shape.
        """
        return _energies(self, self._state(x, f"{_HERE}.energies", check=False))

    def energy(self, x: Shaped[ArrayLike, "tokens features"]) -> Scalar:
        """The whole energy, with the layer's own: what all methods but `CoreEuler` lower.

        **Arguments:**

        - `x`: a state.

        **Returns:** a scalar: the sum of `energies`.

        **Raises:** `ValueError` for a wrong shape.
        """
        parts = self.energies(x)
        return parts["layer"] + parts["attention"] + parts["memory"]

    def core_energy(self, x: Shaped[ArrayLike, "tokens features"]) -> Scalar:
        """The energy of attention and memory: what the published steps lower.

        **Arguments:**

        - `x`: a state.

        **Returns:** a scalar, see `energies`.

        **Raises:** `ValueError` for a wrong shape.
        """
        parts = self.energies(x)
        return parts["attention"] + parts["memory"]

    # -- recall ----------------------------------------------------------------------------------

    def default_method(self) -> AbstractMethod:
        """The published steps: `CoreEuler(alpha, steps)`."""
        return CoreEuler(self.alpha, self.steps, remat=self.remat)

    def __call__(
        self, x: Shaped[ArrayLike, "tokens features"], steps: int | None = None
    ) -> Float[Array, "tokens features"]:
        """The block as a function, for use in a network: the state after the published steps.

        **Arguments:**

        - `x`: a state.
        - `steps`: how many; `None` takes the block's own.

        **Returns:** the state, of the same shape.

        **Raises:** `ValueError` for a wrong shape, or a number of steps below 1.
        """
        return self.recall(x, max_steps=steps).x

    def _held(self, x: Array, clamp: PyTree, space: AbstractSpace, where: str) -> Held:
        mask = checks.mask(clamp, x.shape, where)
        return dynamics.held(self.ham, {_LAYER: x}, {_LAYER: mask}, where)

    def _problem(
        self, x: Array, held: Held | None, space: AbstractSpace, bounded: Sequence[Numbers]
    ) -> tuple[AbstractProblem, PyTree[Array]]:
        del space, bounded
        return HAMProblem.of(self.ham, {_LAYER: x}, held)

    def _end(self, end: Recall, problem: Any, x0: Array, saved: bool) -> Recall:
        """The state and the states on the way as arrays."""
        end = problem.finish(end, saved)
        end = eqx.tree_at(lambda r: r.x, end, end.x[_LAYER])
        if saved:
            end = eqx.tree_at(lambda r: r.trajectory.x, end, end.trajectory.x[_LAYER])
        return super()._end(end, problem, x0, saved)


def _fixed(value: ScalarLike, name: str) -> Array:
    """A positive scalar with a dtype of its own, which a Python number would not give it."""
    value = checks.positive_field(f"{_HERE}: {name}")(value)
    return value.astype(value.dtype)


def _flag(value: object, name: str) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{_HERE}: {name}: must be True or False; {value!r} came.")
    return value


# -- compiled once per shape ----------------------------------------------------------------------


@compiled
def _activations(block: EnergyTransformer, x: Array) -> Array:
    block, x = checks.widen((block, x))
    return energies.activations(block.ham, {_LAYER: x})[_LAYER]


@compiled
def _energies(block: EnergyTransformer, x: Array) -> dict[str, Array]:
    block, x = checks.widen((block, x))
    ham, xs = block.ham, {_LAYER: x}
    parts = energies.energy_tree(ham, energies.activations(ham, xs), xs)
    attention, memory = parts["connections"]
    return {"layer": parts["neurons"][_LAYER], "attention": attention, "memory": memory}
