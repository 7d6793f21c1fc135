"""SparseMAP of a sequence: `k` patterns at once, where neighbours in the store go together."""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float

from amlib import _checks as checks
from amlib._types import Scalar
from amlib.continuous.regularizers import (
    AbstractRegularizer,
    check_count,
    count_field,
    subset_at_zero,
)


def _transition_field(value: ArrayLike) -> Array:
    value = checks.as_float(value, "transition")
    if value.ndim > 1:
        raise ValueError(
            "transition: must be one score, or one for each pair of neighbours in Xi, K - 1 in "
            f"all; shape {value.shape} came."
        )
    return checks.finite(value, "transition") if checks.is_concrete(value) else value


class SequentialKSubsets(AbstractRegularizer):
    r"""Half the square on all ways to take `k` patterns, with a bonus for neighbours in `Xi`.

    $$\Omega^*(z) = \max_{\mu}\; \sum_i z_i \mu_i + \sum_i t_i \mu_{i,i+1}
    - \frac12 (\|\mu\|^2 - k)$$

    over the convex hull of all $y \in \{0, 1\}^K$ with $\sum_i y_i = k$, together with the products
    $\mu_{i,i+1} = y_i y_{i+1}$ of neighbours. With patterns in the order in which they were met, a
    cue for one recalls what came with it. Weights are exactly those of the best choice where its
    score is, for every pattern that another choice exchanges, 1 or more above that one's. The state
    that a memory retrieves is the sum of `k` patterns.

    The solution is exact: an active set of choices, each found by a Viterbi recursion over
    (position, how many are taken, whether this one is), grows and shrinks until no choice
    improves on it by more than 100 times the precision of floats, in units of the largest score
    (in practice after some more steps than patterns that have a fraction of a weight; it gives up
    after $10 K + 50$). A step takes $O(K k)$ operations in sequence, and a linear system of
    $K + 2$ unknowns: meant for up to some hundreds of patterns. Derivatives, in scores and in
    transitions, are those of the last linear system, on its choices.

    **Arguments:**

    - `k`: how many patterns.
    - `transition`: the bonus $t$, in units of scores ($\beta$ times a dot product), of any sign:
      one for all pairs of neighbours, or one for each, $K - 1$ in all; trainable. One far above
      the scores hides them in its rounding: a few times their spread will do.

    **Raises:** `TypeError` if `k` is no integer, `ValueError` if it is below 1 and for a
    `transition` of other shapes; by the memory where they do not fit its patterns.

    **Reference:** Niculae et al. 2018 (SparseMAP) for the active set; Santos et al. 2024 (arXiv
    2402.13725), section 4, for the sequential subsets.
    """

    k: int = eqx.field(converter=count_field, static=True, default=2)
    transition: Float[Array, "..."] = eqx.field(converter=_transition_field, default=1.0)

    def conjugate(self, z: Float[Array, " K"]) -> Scalar:
        """See `AbstractRegularizer`; it has a derivative in `transition`, too."""
        alpha, choices, scores, level = self._solved(z)
        mu = alpha @ choices
        # Less the level that all scores share at the optimum: where weights round to a sum
        # that is not 1, it must not multiply the error.
        value = level + alpha @ (scores - level) - 0.5 * jnp.sum(mu * mu) + 0.5 * self.k
        return value.astype(z.dtype)

    def argmax(self, z: Float[Array, " K"]) -> Float[Array, " K"]:
        """The weights, 0 to 1: they sum to `k`."""
        alpha, choices, *_ = self._solved(z)
        return (alpha @ choices).astype(z.dtype)

    def conjugate_at_zero(self, z: Float[Array, " K"]) -> Scalar:
        """Without transitions, in closed form."""
        return subset_at_zero(z, self.k)

    def margin(self) -> Scalar:
        """A gap of 1, in units of one over beta."""
        return jnp.ones((), self.transition.dtype)

    def check(self, K: int) -> None:
        """Raise `ValueError` where there are fewer than `k` patterns, or other neighbours."""
        check_count(self.k, K)
        if self.transition.ndim and self.transition.shape != (K - 1,):
            raise ValueError(
                f"transition: must be one score, or {K - 1}, one for each pair of neighbours of "
                f"the {K} patterns in Xi; shape {self.transition.shape} came."
            )

    def _solved(self, z: Array) -> tuple[Array, Array, Array, Array]:
        """How much of which choices, with derivatives; their scores, and what these share."""
        wide, transition = checks.widen((z, self.transition))
        t = jnp.broadcast_to(transition.astype(wide.dtype), (z.size - 1,))
        found = lax.stop_gradient(_search(*lax.stop_gradient((wide, t)), self.k))
        scores = _scores(found.choices, wide, t)
        alpha, level = _weigh(found.choices, found.active, scores)
        return alpha, found.choices, jnp.where(found.active, scores, level), level


class _Set(NamedTuple):
    """An active set of choices: rows of 0 and 1, and how much of each."""

    choices: Float[Array, "S K"]
    active: Bool[Array, " S"]
    alpha: Float[Array, " S"]
    steps: Array
    done: Array


def _scores(choices: Array, z: Array, t: Array) -> Array:
    """What each choice scores: its patterns, and neighbours that it takes both."""
    return choices @ z + (choices[:, 1:] * choices[:, :-1]) @ t


def _system(choices: Array, active: Array) -> Array:
    """The conditions for the best weights of the active choices, without bounds; 1 elsewhere."""
    on = active.astype(choices.dtype)
    rows = choices * on[:, None]
    gram = rows @ rows.T + jnp.diag(1 - on)
    return jnp.block([[gram, on[:, None]], [on[None], jnp.zeros((1, 1), on.dtype)]])


def _weigh(choices: Array, active: Array, scores: Array) -> tuple[Array, Array]:
    """The best weights of the active choices, and what they all score less their overlap."""
    # From the best one on: weights do not depend on it, and rounding does.
    best = lax.stop_gradient(jnp.max(jnp.where(active, scores, -jnp.inf)))
    right = jnp.append(jnp.where(active, scores - best, 0.0), jnp.ones((), scores.dtype))
    solution = jnp.linalg.solve(_system(choices, active), right)
    alone = jnp.sum(active) == 1
    alpha = jnp.where(alone, active.astype(scores.dtype), solution[:-1])
    return jnp.where(active, alpha, 0.0), lax.stop_gradient(best + solution[-1])


def _search(z: Array, t: Array, k: int) -> _Set:
    """The active set of the optimum."""
    K = z.size
    first = _viterbi(z, t, k)
    row = jnp.arange(K + 1) == 0
    start = _Set(
        jnp.where(row[:, None], first, 0.0),
        row,
        row.astype(z.dtype),
        jnp.zeros((), jnp.int32),
        jnp.zeros((), bool),
    )
    scale = k * (jnp.max(jnp.abs(z)) + jnp.max(jnp.abs(t), initial=0.0)) + k
    tol = 100 * jnp.finfo(z.dtype).eps * scale

    def step(at: _Set) -> _Set:
        best, level = _weigh(at.choices, at.active, _scores(at.choices, z, t))
        shrunk = _shrunk(at, best)
        grown = _grown(at._replace(alpha=best), z, t, level, k, tol)
        outside = (best < 0).any()
        new = jax.tree.map(lambda a, b: jnp.where(outside, a, b), shrunk, grown)
        return new._replace(steps=at.steps + 1)

    # What ends the search also where rounding makes it go round in circles.
    limit = 10 * K + 50
    return lax.while_loop(lambda at: ~at.done & (at.steps < limit), step, start)


def _shrunk(at: _Set, best: Array) -> _Set:
    """As far towards weights that are partly negative as all are positive, less the first at 0."""
    falls = at.active & (best < 0)
    share = jnp.where(falls, at.alpha / jnp.where(falls, at.alpha - best, 1.0), jnp.inf)
    leaves = jnp.arange(len(best)) == jnp.argmin(share)
    alpha = at.alpha + jnp.min(share) * (best - at.alpha)
    active = at.active & ~leaves
    return at._replace(active=active, alpha=jnp.where(active, jnp.maximum(alpha, 0.0), 0.0))


def _grown(at: _Set, z: Array, t: Array, level: Array, k: int, tol: Array) -> _Set:
    """With the choice that improves most, unless none does; at the best weights without it."""
    mu = at.alpha @ at.choices
    new = _viterbi(z - mu, t, k)
    gain = _scores(new[None], z - mu, t)[0] - level
    # A choice that is a mixture of active ones, but scores better, takes the place of one.
    right = jnp.append(jnp.where(at.active, at.choices @ new, 0.0), jnp.ones((), z.dtype))
    mixture = jnp.where(
        at.active, jnp.linalg.solve(_system(at.choices, at.active), right)[:-1], 0.0
    )
    rest = new - mixture @ at.choices
    depends = jnp.sum(rest * rest) < 1e-3
    positive = mixture > 1e-4
    share = jnp.where(positive, at.alpha / jnp.where(positive, mixture, 1.0), jnp.inf)
    slot = jnp.where(depends, jnp.argmin(share), jnp.argmin(at.active))
    moved = jnp.where(depends, jnp.min(share), 0.0)
    here = jnp.arange(len(at.active)) == slot
    alpha = jnp.where(here, moved, jnp.maximum(at.alpha - moved * mixture, 0.0))
    choices = jnp.where(here[:, None], new, at.choices)
    done = (gain <= tol) | (~depends & at.active.all())
    grown = _Set(choices, at.active | here, alpha, at.steps, done)
    return jax.tree.map(lambda a, b: jnp.where(done, a, b), at._replace(done=done), grown)


def _viterbi(z: Array, t: Array, k: int) -> Array:
    """The best choice of exactly `k`: ones where it takes a pattern."""
    low = jnp.full((k + 1,), -jnp.inf, z.dtype)

    def forward(carry: tuple[Array, Array], here: tuple[Array, Array]) -> tuple:
        out, taken = carry  # the best so far, by how many are taken, by whether the last one is
        score, bonus = here
        with_it = jnp.maximum(out, taken + bonus)
        both = taken + bonus > out
        new = jnp.append(low[:1], with_it[:-1] + score)
        return (jnp.maximum(out, taken), new), (taken > out, both)

    start = low.at[0].set(0.0), low
    bonuses = jnp.append(jnp.zeros((1,), z.dtype), t)
    (out, taken), (from_taken, both) = lax.scan(forward, start, (z, bonuses))

    def backward(carry: tuple[Array, Array], here: tuple[Array, Array]) -> tuple:
        count, takes = carry
        stay, came = here
        before = jnp.where(takes, count - 1, count)
        return (before, jnp.where(takes, came[before], stay[before])), takes

    last = jnp.asarray(k, jnp.int32), taken[k] > out[k]
    _, choice = lax.scan(backward, last, (from_taken, both), reverse=True)
    return choice.astype(z.dtype)
