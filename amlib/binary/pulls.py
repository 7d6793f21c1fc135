"""What pulls at the units of a memory for sequences; its states are flat here, and no halves."""

import equinox as eqx
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from amlib.binary.interactions import AbstractInteraction
from amlib.binary.patterns import overlaps

Scaled = tuple[Array, Array]
"""Numbers over a factor, and the logarithm of that."""


class Pulls(eqx.Module):
    """Patterns that hear the state, and pull it towards others: see `SequenceMemory`.

    **Arguments:**

    - `f`, `hold`: the interaction functions, of what follows and (or `None`) of what is present.
    - `lam`: the weight of what follows, beside what is present.
    - `Xi`, `following`: the patterns, and the one that follows each.
    - `dual`: the patterns that hear in place of `Xi`, or `None`.
    """

    f: AbstractInteraction
    hold: AbstractInteraction | None
    lam: Array
    Xi: Array
    following: Array
    dual: Array | None

    @property
    def N(self) -> int:
        """How many units there are."""
        return self.Xi.shape[1]

    def together(self, x: Array, trace: Array | None = None) -> Array:
        """The state after a step of all units together.

        **Arguments:**

        - `x`: the state.
        - `trace`: the mean of the last states; `None` where that is the state itself.
        """
        return _sign(self.field(x, trace), x)

    def field(self, x: Array, trace: Array | None = None) -> Array:
        """What each unit receives, over a positive number."""
        h = self._heard(x)
        onward = self._onward(x, h, trace)
        if self.hold is None:
            return onward[0]
        return self._sum(self._pull(self.hold, self.Xi, x, h), onward)

    def in_turn(self, x: Array, trace: Array | None, moves: Array) -> Array:
        """The state after units moved one after the other; the trace stays as it is."""
        h, f, targets, onward = self._heard(x), self.f, self.following, None
        if self.hold is not None:
            onward = self._onward(x, h, trace)
            f, targets = self.hold, self.Xi
        hear = self.Xi if self.dual is None else (self.N - 1) * self.dual
        rows = hear.T, targets.T  # of one unit after another

        def visit(carry: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
            x, h = carry
            xi, target = (a[i].astype(x.dtype) for a in rows)
            v, scale = f.scaled(h - xi * x[i] if self.dual is None else h, self.N)
            field = v @ target
            if onward is not None:
                field = self._sum((field, scale), (onward[0][i], onward[1]))
            new = _sign(field, x[i])
            return (x.at[i].set(new), h + xi * (new - x[i])), None

        return lax.scan(visit, (x, h), moves)[0][0]

    def _heard(self, x: Array) -> Array:
        """What patterns agree with a state in: N m with the unit itself, or (N - 1) O^+ m."""
        return overlaps(self.Xi, x) if self.dual is None else (self.N - 1) * (self.dual @ x)

    def _pull(self, f: AbstractInteraction, targets: Array, x: Array, h: Array) -> Scaled:
        """What all units receive from the targets of the patterns that heard the state."""
        targets = targets.astype(x.dtype)
        if self.dual is not None:
            v, scale = f.scaled(h, self.N)
            return v @ targets, scale
        # Without the unit itself an overlap is less by one, or more: f takes two values a pattern.
        # (Mean and difference of both would take two products fewer, and lose the smaller.)
        most = self.N - 1
        less, more = jnp.maximum(h - 1, -most), jnp.minimum(h + 1, most)
        v, scale = f.scaled(jnp.stack([less, more]), self.N)
        up, down = v @ jnp.where(self.Xi > 0, targets, 0), v @ jnp.where(self.Xi > 0, 0, targets)
        return jnp.where(x > 0, up[0] + down[1], down[0] + up[1]), scale

    def _onward(self, x: Array, h: Array, trace: Array | None) -> Scaled:
        """The pull of the patterns that follow, by the state or by a trace."""
        if trace is None:
            return self._pull(self.f, self.following, x, h)
        h = self._heard(trace)
        if self.dual is not None:
            return self._pull(self.f, self.following, trace, h)
        Xi, targets = (a.astype(x.dtype) for a in (self.Xi, self.following))
        v, scale = self.f.scaled(h[:, None] - Xi * trace[None], self.N)
        return jnp.sum(v * targets, axis=0), scale

    def _sum(self, hold: Scaled, onward: Scaled) -> Array:
        """Both pulls together, over the larger of their scales."""
        top = jnp.maximum(hold[1], onward[1])
        lam = self.lam.astype(top.dtype)
        return hold[0] * jnp.exp(hold[1] - top) + lam * onward[0] * jnp.exp(onward[1] - top)


def _sign(field: Array, x: Array) -> Array:
    return jnp.where(field == 0, x, jnp.sign(field))
