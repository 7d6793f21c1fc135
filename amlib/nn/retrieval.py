"""Plain retrieval, without weights; and what all layers check of their input."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks
from amlib._types import ScalarLike
from amlib.continuous import ModernHopfield
from amlib.nn.cores import Core, ask, words_of


def retrieve(
    stored: Shaped[ArrayLike, "..."],
    state: Shaped[ArrayLike, "..."],
    projection: Shaped[ArrayLike, "..."] | None = None,
    *,
    beta: ScalarLike | None = None,
    update_steps_max: int | None = 0,
    core: Core = ModernHopfield,
    stored_pattern_padding_mask: Bool[ArrayLike, "..."] | None = None,
    association_mask: Bool[ArrayLike, "..."] | None = None,
) -> Float[Array, "..."]:
    r"""Retrieve from stored patterns as they are: no projection, no normalisation, no weights.

    $$x \leftarrow \Xi^\top \mathrm{softmax}(\beta\, \Xi x) \;\; [\text{update\_steps\_max times}],
    \qquad \mathrm{out} = V^\top \mathrm{softmax}(\beta\, \Xi x)$$

    What users of the published package got by switching off projections, normalisations and output
    one by one. For use inside a network; `am.ModernHopfield(stored).recall(state)` says more of a
    single recall.

    **Arguments:**

    - `stored`: stored patterns, `(K, D)`.
    - `state`: one state `(D,)`, or several `(S, D)`.
    - `projection`: $V$, what is read out of each pattern, `(K, V)`; `None` means the patterns.
    - `beta`: inverse temperature, > 0 (`scaling` there); `None` means the core's own, 1 for
      `am.ModernHopfield`.
    - `update_steps_max`: updates of the state before it is read out; `None` for as many as bring it
      to rest, with the implicit derivative, which is zero in `state`.
    - `core`: the energy, from `Xi` to a `ContinuousAM`: see `amlib.nn.cores`.
    - `stored_pattern_padding_mask`: `True` where a pattern is padding and counts nothing, `(K,)`.
    - `association_mask`: `True` where a state may not see a pattern, `(S, K)`. A state that sees
      none retrieves zeros.

    **Returns:** `(V,)` or `(S, V)`.

    **Raises:** `ValueError` for shapes that do not fit, NaN or infinity, `beta` not above 0, masks
    that hide everything, and what the core can't take; `TypeError` for wrong kinds.

    **Reference:** Ramsauer et al. 2021, eq. 10 without weights.
    """
    where = "retrieve"
    Xi = rows(stored, None, where, "stored")
    x = checks.as_float(state, f"{where}: state")
    single = x.ndim == 1
    x = rows(x[None] if single else x, Xi.shape[1], where, "state").astype(Xi.dtype)
    V = None if projection is None else values_for(projection, None, Xi, where)
    steps = steps_field(update_steps_max, where)
    words = words_of(core, where)
    if V is not None and "values" not in words:
        raise ValueError(no_values(where))
    V = Xi if V is None and "values" in words else V
    bias = hidden(stored_pattern_padding_mask, association_mask, len(x), Xi, where)
    if single and bias is not None and bias.ndim > 1:
        bias = bias[0]
    out = ask(core, Xi, x, beta_for(beta, words, where), V, bias, steps, where)
    return out[0] if single else out


# -- what may come ----------------------------------------------------------------------------


def rows(x: ArrayLike, width: int | None, where: str, name: str) -> Array:
    """Patterns or states as floats, one in each row; raise for other shapes and for NaN."""
    x = checks.as_float(x, f"{where}: {name}")
    if x.ndim == 3:
        raise ValueError(
            f"{where}: {name}: must be one example of shape (N, {width or 'D'}); {x.shape} came. "
            "A batch goes through jax.vmap(layer), one example per call."
        )
    if x.ndim != 2 or x.size == 0 or width not in (None, x.shape[1]):
        raise ValueError(
            f"{where}: {name}: must have shape (N, {width or 'D'}), one pattern in each row; "
            f"{x.shape} came."
        )
    known = checks.known(x)
    if known is not None and jnp.issubdtype(x.dtype, jnp.inexact):
        checks.finite(jnp.asarray(known), f"{where}: {name}")
    return x


def values_for(projection: ArrayLike, width: int | None, Xi: Array, where: str) -> Array:
    """What is read out of each pattern; raise unless there is one row for each."""
    V = rows(projection, width, where, "projection").astype(Xi.dtype)
    if len(V) != len(Xi):
        raise ValueError(
            f"{where}: projection: must have one row for each of the {len(Xi)} stored patterns; "
            f"{V.shape} came."
        )
    return V


def no_values(where: str) -> str:
    """What is said where another projection meets a core that can't read it out."""
    return (
        f"{where}: projection: needs a core that takes values= and has a readout, such as "
        "am.ModernHopfield; this one gives back its states. Leave out the projection."
    )


def steps_field(steps: int | None, where: str) -> int | None:
    """A number of updates; raise unless it is none, or an integer of at least 0."""
    return None if steps is None else checks.integer(steps, 0, f"{where}: update_steps_max")


def beta_for(beta: ScalarLike | None, words: frozenset[str], where: str) -> Array | None:
    """The inverse temperature as an array; raise if it is not positive, or the core has none."""
    if beta is None:
        return None
    if "beta" not in words:
        raise ValueError(
            f"{where}: beta: must be left out for a core that takes none; {beta} came. Fix it in "
            "the core: core=lambda Xi: MyMemory(Xi, 3.0)."
        )
    return checks.positive_field(f"{where}: beta")(beta)


def hidden(
    padding: ArrayLike | None, association: ArrayLike | None, S: int, Xi: Array, where: str
) -> Array | None:
    """The masks as a bias: minus infinity where they hide a pattern, from all states or from one.

    `None` where there is none. What the masks are said to be is published: `True` hides.
    """
    K = len(Xi)
    masks = []
    for mask, shape, name in (
        (padding, (K,), "stored_pattern_padding_mask"),
        (association, (S, K), "association_mask"),
    ):
        if mask is None:
            continue
        mask = jnp.asarray(mask)
        if mask.dtype != bool:
            raise TypeError(
                f"{where}: {name}: must be boolean, True where a pattern is hidden; {mask.dtype} "
                "came. Compare first (mask == 1)."
            )
        if mask.shape != shape:
            raise ValueError(
                f"{where}: {name}: must have shape {shape}; {mask.shape} came. True hides; a batch "
                "of masks goes through jax.vmap with the examples."
            )
        known = checks.known(mask)
        if known is not None and np.all(known, axis=tuple(range(-len(shape), 0))).any():
            raise ValueError(
                f"{where}: {name}: must leave a pattern visible; all are hidden. In the published "
                "masks True hides: perhaps ~mask is meant."
            )
        masks.append(mask)
    if not masks:
        return None
    both = masks[0] if len(masks) == 1 else masks[0][None] | masks[1]
    return jnp.where(both, -jnp.inf, 0.0).astype(Xi.dtype)
