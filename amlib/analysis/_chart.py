"""Branches of fixed points: Newton's method along a parameter, and where branches leave others."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import optimistix as optx
from jaxtyping import Array, ArrayLike

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib.analysis.spectrum import hessian
from amlib.descent.plan import scalar_output
from amlib.memory import AbstractMemory

_HALVINGS = 8  # of a step that Newton's method does not follow
_TOGETHER = 48  # starts of Newton's method in one program
_COMBINATIONS = 6  # random directions where several eigenvalues cross together


class Family(eqx.Module):
    """Memories by the value of a parameter."""

    model: Any
    parameter: str = eqx.field(static=True)

    def __call__(self, value: Array) -> AbstractMemory:
        if not isinstance(self.model, AbstractMemory):
            return self.model(value)
        field = lambda memory: getattr(memory, self.parameter)
        return eqx.tree_at(field, self.model, value.astype(jnp.result_type(field(self.model))))


# -- compiled: at one value of the parameter ----------------------------------------------------


def _energy(family: Family, value: Array, shape: tuple[int, ...]) -> Callable[[Array], Array]:
    with checks.traceable("bifurcations: model"):
        wide = checks.widen(family(value))
    return lambda x: wide.energy(x.reshape(shape))


@compiled
def _newton(
    family: Family, starts: Array, value: Array, scale: Array, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Newton's ends from several starts, and the largest entry of the gradient at each.

    A start whose gradient is rounding, of eigenvalues of the size `scale`, is an end: where all
    eigenvalues vanish together, Newton's method would follow the rounding.

    Where the Hessian is nearly singular the step is the shortest one, so that a fixed point does
    not slide along the eigenvector whose eigenvalue vanishes.
    """
    energy = _energy(family, value, shape)
    scalar_output(energy, starts[0])
    grad = jax.grad(energy)
    eps = float(jnp.finfo(starts.dtype).eps)
    solver = optx.Newton(eps ** (2 / 3), eps ** (2 / 3), linear_solver=lx.SVD(rcond=eps**0.5))

    def one(x: Array) -> tuple[Array, Array]:
        end = optx.root_find(lambda x, _: grad(x), solver, x, max_steps=40, throw=False).value
        rounding = 4 * eps * scale * jnp.maximum(1, jnp.max(jnp.abs(x)))
        end = jnp.where(jnp.max(jnp.abs(grad(x))) <= rounding, x, end)
        return end, jnp.max(jnp.abs(grad(end)))

    return jax.vmap(one)(starts)


@compiled
def _motion(
    family: Family, x: Array, value: Array, scale: Array, shape: tuple[int, ...]
) -> tuple[Array, Array, Array, Array]:
    """The energy, the Hessian's eigenvalues and eigenvectors, and how fast a fixed point moves."""
    energy = _energy(family, value, shape)
    values, vectors = jnp.linalg.eigh(hessian(energy, x))
    push = jax.jvp(
        lambda value: jax.grad(_energy(family, value, shape))(x), (value,), (jnp.ones_like(value),)
    )[1]
    size = jnp.maximum(jnp.max(jnp.abs(values)), scale)
    kept = jnp.abs(values) > float(jnp.finfo(x.dtype).eps) ** 0.5 * size
    weights = jnp.where(kept, (push @ vectors) / jnp.where(kept, values, 1), 0)
    return energy(x), values, vectors, -vectors @ weights


class Point(NamedTuple):
    """A fixed point at a value of the parameter."""

    x: np.ndarray
    value: float
    energy: float
    eigenvalues: np.ndarray
    eigenvectors: np.ndarray
    speed: np.ndarray


def _zero(height: Callable[[Point], float], points: list[Point]) -> float:
    """At which value the height is zero, by the inverse polynomial through some points."""
    h = np.asarray([height(p) for p in points])
    others = [np.delete(h, k) for k in range(len(h))]
    weights = [np.prod(o / (o - own)) for o, own in zip(others, h, strict=True)]
    return float(np.dot(weights, [p.value for p in points]))


class Chart:
    """The branches and bifurcations that were found so far."""

    def __init__(self, family: Family, shape: tuple[int, ...], dtype: Any, grid: np.ndarray):
        self.family, self.shape, self.dtype, self.grid = family, shape, dtype, grid
        self.small = float(np.finfo(dtype).eps) ** 0.5
        self.slack = 0.04 * self.small**0.5
        self.rows: list[tuple[int, Point, int]] = []
        self.found: list[tuple[Point, int, int, str]] = []
        self.count = 0
        self.scale = 0.0  # the largest eigenvalue so far: here all may vanish together

    # -- fixed points --------------------------------------------------------------------------

    def newton(self, starts: np.ndarray, value: float) -> tuple[np.ndarray, np.ndarray]:
        """Newton's ends, and whether each is a fixed point."""
        v = jnp.asarray(value, self.dtype)
        parts = [starts[k : k + _TOGETHER] for k in range(0, len(starts), _TOGETHER)]
        scale = jnp.asarray(self.scale, self.dtype)
        starts_of = lambda p: jnp.asarray(p, self.dtype)
        found = [_newton(self.family, starts_of(p), v, scale, self.shape) for p in parts]
        x, g = (np.concatenate([np.asarray(part[k]) for part in found]) for k in range(2))
        return x, g <= self.small * np.maximum(1, np.abs(x).max(1))

    def point(self, x: np.ndarray, value: float) -> Point:
        """What is known of a fixed point."""
        v, scale = (jnp.asarray(a, self.dtype) for a in (value, self.scale))
        found = _motion(self.family, jnp.asarray(x), v, scale, self.shape)
        energy, values, vectors, speed = (np.asarray(a, float) for a in found)
        if np.isfinite(values).all():
            self.scale = max(self.scale, float(np.abs(values).max()))
        return Point(x, value, float(energy), values, vectors.T, speed)

    def solve(self, x: ArrayLike, value: float) -> Point | None:
        """The fixed point that Newton's method finds."""
        (end,), (good,) = self.newton(np.asarray(x)[None], value)
        return self.point(end, value) if good else None

    def reach(self, at: Point, value: float, halvings: int = _HALVINGS) -> Point | None:
        """The same fixed point at another value, or `None` where it is lost."""
        step = value - at.value
        guess = at.x + step * at.speed
        end = self.solve(guess, value)
        if end is not None and np.isfinite(end.energy):
            # There and back as the speeds say: another branch is not met by accident.
            strayed = [end.x - guess, end.x - step * end.speed - at.x]
            moved = np.linalg.norm(guess - at.x) + self.slack * (1 + np.linalg.norm(at.x))
            if max(map(np.linalg.norm, strayed)) <= 0.25 * float(moved):
                return end
        if not halvings:
            return None
        middle = self.reach(at, 0.5 * (at.value + value), halvings - 1)
        return None if middle is None else self.reach(middle, value, halvings - 1)

    # -- branches ------------------------------------------------------------------------------

    def follow(self, at: Point, values: np.ndarray, origin: int, generations: int) -> None:
        """Follow a branch over values; report what happens on it, and follow what leaves it."""
        number, left = self.count, []
        self.count += 1
        self.rows.append((number, at, origin))
        for value in values:
            # In two halves: one long step may meet another branch by accident.
            half = self.reach(at, 0.5 * (at.value + float(value)))
            end = None if half is None else self.reach(half, float(value))
            last = self.lost(at, float(value)) if end is None else end
            events = [] if end is None else list(self.crossings(at, end))
            if end is None and last is not None:
                self.rows.append((number, last, origin))
                events = [(last, int(np.abs(last.eigenvalues).argmin()), "end")]
            groups = self.record(events, number)
            left += [(group, abs(float(value) - at.value)) for group in groups]
            if end is None:
                break
            between = [point for point, _, _ in events]
            between.sort(key=lambda p: abs(p.value - at.value))
            self.rows += [(number, point, origin) for point in [*between, end]]
            at = end
        if generations:
            for group, step in left:
                self.leave(group, step, generations - 1)

    def crossings(self, a: Point, b: Point) -> Iterator[tuple[Point, int, str]]:
        """Where, between two points of a branch, which eigenvalues cross zero."""
        for k in np.flatnonzero((a.eigenvalues < 0) != (b.eigenvalues < 0)):
            yield self.crossing(a, b, int(k)), int(k), "crossing"

    def crossing(self, a: Point, b: Point, k: int) -> Point:
        """Where one eigenvalue crosses zero.

        By false position, between two points that draw together to a 25th of their distance and no
        closer: near the crossing Newton's method may slide to another branch. Then by a parabola.
        """
        height = lambda p: float(p.eigenvalues[k])
        seen = [a, b]
        for _ in range(2):
            root, wide = _zero(height, [a, b]), b.value - a.value
            for value in (root - 0.1 * wide, root + 0.1 * wide):
                if min(a.value, b.value) < value < max(a.value, b.value):
                    near = min(a, b, key=lambda p: abs(p.value - value))
                    end = self.reach(near, value)
                    if end is not None:
                        a, b = (end, b) if (height(end) < 0) == (height(a) < 0) else (a, end)
                        seen.append(end)
        root = _zero(height, sorted(seen, key=lambda p: abs(height(p)))[:3])
        if not min(a.value, b.value) < root < max(a.value, b.value):
            root = _zero(height, [a, b])
        share = (root - a.value) / (b.value - a.value)
        return self.point((a.x + share * (b.x - a.x)).astype(a.x.dtype), root)

    def lost(self, at: Point, value: float) -> Point | None:
        """The last point of a branch that is lost before a value."""
        good, bad = at, value
        for _ in range(20):
            middle = 0.5 * (good.value + bad)
            end = self.reach(good, middle, _HALVINGS // 2)
            good, bad = (good, middle) if end is None else (end, bad)
        return good if good is not at else None

    def record(self, events: list[tuple[Point, int, str]], branch: int) -> Iterator[list[int]]:
        """Enter bifurcations; of those that are one and the same the numbers together."""
        groups: list[list[int]] = []
        wide = np.abs(np.diff(self.grid)).max()
        for point, k, kind in sorted(events, key=lambda event: event[0].value):
            near = groups and abs(self.found[groups[-1][-1]][0].value - point.value) < 1e-3 * wide
            groups = groups if near else [*groups, []]
            groups[-1].append(len(self.found))
            self.found.append((point, branch, k, kind))
        return iter(groups)

    def leave(self, group: list[int], step: float, generations: int) -> None:
        """Follow the branches that leave a bifurcation, on both of its sides."""
        at = self.found[group[0]][0]
        vectors = np.stack([at.eigenvectors[self.found[k][2]] for k in group])
        if len(group) > 1:
            mixed = np.random.default_rng(0).normal(size=(_COMBINATIONS, len(group))) @ vectors
            vectors = np.concatenate([vectors, mixed / np.linalg.norm(mixed, axis=1)[:, None]])
        parents = [p for n, p, _ in self.rows if n == self.found[group[0]][1]]
        # Where a branch ends, its last point is not quite there.
        ended = self.found[group[0]][3] == "end"
        parents = [p for p in parents if abs(p.value - at.value) > 0.4 * step]
        slack = 0.3 * float(np.linalg.norm(parents[-1].x - at.x)) if ended and parents else 0.0
        for side in (-1, 1):
            value = at.value + side * 0.5 * step
            beyond = np.sort(self.grid[self.grid * side > value * side])[::side]
            own = [p for p in parents if (p.value - at.value) * side > 0]
            near = min(own, key=lambda p: abs(p.value - value), default=None)
            parent = None if near is None else self.reach(near, value)
            for end in self.beside(at, parent, vectors, value, slack) if len(beyond) else ():
                self.follow(end, beyond, group[0], generations)
                # The branch begins where it leaves.
                first = next(i for i, row in enumerate(self.rows) if row[1] is end)
                start = [(self.rows[first][0], p, group[0]) for p in self.stem(at, end)]
                self.rows[first:first] = start

    def stem(self, at: Point, end: Point) -> list[Point]:
        """What lies between a bifurcation and the first point of a branch, ever nearer to it."""
        found = [end]
        for share in (0.4, 0.15, 0.05):
            near = self.reach(found[0], at.value + share * (end.value - at.value))
            if near is None:
                break
            found.insert(0, near)
        return [at, *found[:-1]]

    def beside(
        self,
        at: Point,
        parent: Point | None,
        vectors: np.ndarray,
        value: float,
        slack: float,
    ) -> list[Point]:
        """Other fixed points near a bifurcation, in the directions of its eigenvectors."""
        base = at.x if parent is None else parent.x
        unit = 1 + np.linalg.norm(at.x)
        sizes = np.geomspace(1e-3, 3, _TOGETHER // 2) * unit
        ways = np.concatenate([vectors, -vectors])
        starts = base + sizes[:, None, None] * ways[None]
        ends, good = self.newton(starts.reshape(-1, base.size), value)
        away = ends - base
        far = np.linalg.norm(away, axis=1)
        good &= np.linalg.norm(away @ vectors.T, axis=1) >= 0.5 * far
        if parent is not None:
            good &= far > 2e-3 * unit
        slack = max(slack, 2e-3 * float(unit))
        found: list[np.ndarray] = []
        for k in np.flatnonzero(good)[np.argsort(far[good])]:
            apart = [np.linalg.norm(ends[k] - x) for x in found]
            if min(apart, default=np.inf) > 2e-3 * unit and self.leads_to(
                at, ends[k], value, slack
            ):
                found.append(ends[k])
        return [self.point(x, value) for x in found]

    def leads_to(self, at: Point, x: np.ndarray, value: float, slack: float) -> bool:
        """Whether a fixed point draws near a bifurcation as the parameter does."""
        back = self.reach(self.point(x, value), at.value + 0.04 * (value - at.value))
        if back is None:
            return False
        before, after = (float(np.linalg.norm(y - at.x)) for y in (x, back.x))
        return after <= max(0.5 * before, slack)
