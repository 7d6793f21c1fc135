"""Lookup: the states of an example ask trained patterns."""

from typing import Unpack

import equinox as eqx
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import IntLike, Key
from amlib.nn.hopfield import Hopfield, Options
from amlib.nn.retrieval import no_values


class HopfieldLayer(eqx.Module):
    r"""Look states up: the stored patterns are weights, and the states of an example ask.

    As `Hopfield`, with stored patterns that are learned: a hidden layer whose units are memories.

    ```python
    look = am.nn.HopfieldLayer(64, quantity=256, key=key)
    out = look(tokens)                                   # (N, 64) -> (N, 64)
    ```

    **Arguments:**

    - `input_size`: the width of states.
    - `quantity`: how many patterns are stored.
    - `lookup_weights_as_separated`: whether what is read out of a pattern is a weight of its own,
      `target_weights`, and not the stored pattern.
    - `key`: for the weights.
    - `options`: the arguments of `Hopfield`, by keyword. `std` is `None` by default, and the bias
      of the states begins with zeros: states must differ from the beginning for patterns to learn
      from them. With the published 0.02 the bit-pattern task stays near 0.53.

    **Raises:** as `Hopfield`.

    **Reference:** Ramsauer et al. 2021, section 3, and its package, where a `quantity` of 1 is the
    default. To store given patterns, put them in:
    `equinox.tree_at(lambda m: m.lookup_weights, layer, patterns)`.
    """

    hopfield: Hopfield
    lookup_weights: Float[Array, "quantity input"]
    target_weights: Float[Array, "quantity projection"] | None

    __repr__ = show.text

    def __init__(
        self,
        input_size: IntLike,
        quantity: IntLike,
        *,
        lookup_weights_as_separated: bool = False,
        key: Key,
        **options: Unpack[Options],
    ):
        quantity = checks.integer(quantity, 1, "HopfieldLayer: quantity")
        checks.key(key, "HopfieldLayer: key")
        inner, stored, targets = jr.split(key, 3)
        options.setdefault("std", None)
        hopfield = Hopfield(input_size, **options, key=inner)
        bias = lambda m: m.project_state_pattern.bias
        self.hopfield = eqx.tree_at(bias, hopfield, replace_fn=jnp.zeros_like)
        self.lookup_weights = jr.normal(stored, (quantity, self.hopfield.input_size))
        self.target_weights = None
        if lookup_weights_as_separated:
            if self.hopfield.project_pattern is None:
                raise ValueError(no_values("HopfieldLayer"))
            width = int(self.hopfield.project_pattern.in_features)
            self.target_weights = jr.normal(targets, (quantity, width))

    def __call__(
        self,
        state: Shaped[ArrayLike, "..."],
        *,
        association_mask: Bool[ArrayLike, "..."] | None = None,
    ) -> Float[Array, "S out"]:
        """Look the states of one example up.

        **Arguments:**

        - `state`: states, `(S, input_size)`.
        - `association_mask`: `True` where a state may not see a pattern, `(S, quantity)`.

        **Returns:** one row for each state, `(S, output_size)`.

        **Raises:** as `Hopfield`.
        """
        return self.hopfield(
            self.lookup_weights, state, self.target_weights, association_mask=association_mask
        )

    def association_matrix(
        self, state: Shaped[ArrayLike, "..."]
    ) -> Float[Array, "heads S quantity"]:
        """How much each head reads of each pattern: see `Hopfield.association_matrix`."""
        return self.hopfield.association_matrix(self.lookup_weights, state)
