"""Pooling: trained states ask the patterns of an example."""

from typing import Unpack

import equinox as eqx
import jax.random as jr
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import IntLike, Key
from amlib.nn.hopfield import Hopfield, Options


class HopfieldPooling(eqx.Module):
    r"""Pool a set of patterns: trained states ask, and the patterns of an example answer.

    As `Hopfield`, with states that are weights: a bag of any size and order becomes one vector.
    Padding of bags to one size is hidden by `stored_pattern_padding_mask`.

    ```python
    pool = am.nn.HopfieldPooling(64, key=key)
    vector = pool(bag)                                   # (N, 64) -> (64,)
    ```

    **Arguments:**

    - `input_size`: the width of patterns.
    - `quantity`: how many states ask; the output has `output_size` numbers for each.
    - `key`: for the weights.
    - `options`: the arguments of `Hopfield`, by keyword. Here `std` is `None` by default: what asks
      is a weight itself, and cannot be learned by heart; with the published small weights a head
      of a pooling may find nothing (bit patterns: .77 to .99 by the seed; so, .99 to 1.00).

    **Raises:** as `Hopfield`.

    **Reference:** Ramsauer et al. 2021, section 3, and its package. To hold the states fixed
    (`trainable` there), partition `pooling_weights` out.
    """

    hopfield: Hopfield
    pooling_weights: Float[Array, "quantity input"]

    __repr__ = show.text

    def __init__(
        self, input_size: IntLike, *, quantity: IntLike = 1, key: Key, **options: Unpack[Options]
    ):
        quantity = checks.integer(quantity, 1, "HopfieldPooling: quantity")
        checks.key(key, "HopfieldPooling: key")
        inner, own = jr.split(key)
        options.setdefault("std", None)
        self.hopfield = Hopfield(input_size, **options, key=inner)
        self.pooling_weights = jr.normal(own, (quantity, self.hopfield.input_size))

    def __call__(
        self,
        stored: Shaped[ArrayLike, "..."],
        projection: Shaped[ArrayLike, "..."] | None = None,
        *,
        stored_pattern_padding_mask: Bool[ArrayLike, "..."] | None = None,
    ) -> Float[Array, " out"]:
        """Pool the patterns of one example.

        **Arguments:** see `Hopfield`.

        **Returns:** `quantity` times `output_size` numbers.

        **Raises:** as `Hopfield`.
        """
        out = self.hopfield(
            stored,
            self.pooling_weights,
            projection,
            stored_pattern_padding_mask=stored_pattern_padding_mask,
        )
        return out.reshape(-1)

    def association_matrix(
        self,
        stored: Shaped[ArrayLike, "..."],
        *,
        stored_pattern_padding_mask: Bool[ArrayLike, "..."] | None = None,
    ) -> Float[Array, "heads quantity K"]:
        """How much each head reads of each pattern: see `Hopfield.association_matrix`."""
        return self.hopfield.association_matrix(
            stored, self.pooling_weights, stored_pattern_padding_mask=stored_pattern_padding_mask
        )
