"""Random energies, drawn as source text from the tables of `sites`, `sums` and `heads`.

`draw(rng)` gives a `Case`: an energy, a start, the bits to visit, and how to call the library. It
takes any `random.Random`, so that a seed names a case for ever (`make fuzz`), and Hypothesis can
draw and shrink one (`CASES`). `Case.source` is a program of its own that shows the failure.
"""

import contextlib
import functools
import random
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from amlib.descent.plan import Path
from tests.fuzzing.heads import HEADS
from tests.fuzzing.sites import MOVES, Unfit, fits, site, size
from tests.fuzzing.sums import BENT, FEW, LINEAR, SUMS_OF_FEW

METHODS = ("sweep", "greedy", "colours")
"""Methods of `flips` that say whether they converged."""

MAX_SIZE = 3_000  # elements of one value
_TRIES = 12

SCALES = ("0.3", "1.0", "0.05", "2.0", "20.0", "50.0", "300.0")
"""What heads multiply by."""

PRELUDE = """
import jax, jax.numpy as jnp, numpy as np
from jax import lax

def spins(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).choice([-1, 1], shape), dtype)

def reals(seed, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)

def integers(seed, low, high, *shape, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).integers(low, high, shape), dtype)

def dead(seed, a):
    return a * np.random.default_rng(seed).integers(0, 3, a.shape[-1:]).clip(0, 1).astype(a.dtype)

@jax.custom_jvp
def cubed(t):
    return t**3 - 0.25*t
cubed.defjvp(lambda p, t: (cubed(p[0]), 7*t[0]))

@jax.custom_vjp
def halved(t):
    return jnp.where(t > 0, t, 0.5*t)
halved.defvjp(lambda t: (halved(t), None), lambda _, g: (g,))
"""


class Value(NamedTuple):
    """A named intermediate result of the energy that is being written."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Case(NamedTuple):
    """An energy and how to run it.

    `constants` are `(name, expression)`; the energy is `lines` and then `return e`. `call` says how
    the library is called: eagerly, under `jit`, with the constants as arguments of a `jit`, mapped
    over, or differentiated. `limits` are module constants of the library made small, so that code
    meant for large sizes runs on small ones.
    """

    shape: tuple[int, ...]
    dtype: str
    constants: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]
    starts: tuple[tuple[int, ...], ...]
    visits: tuple[int, ...]
    path: Path
    call: str
    method: str
    limits: tuple[tuple[str, int], ...]
    used: tuple[str, ...]
    q: int | None = None  # of units of several values; `None` for spins
    held: tuple[int, ...] = ()  # units that a clamp holds, where there are several values

    def __repr__(self) -> str:
        return self.source()

    @property
    def x64(self) -> bool:
        return self.dtype == "float64"

    @property
    def kind(self) -> str:
        """The dtype of a state: real spins, or whole numbers."""
        return self.dtype if self.q is None else "int32"

    def energy_text(self) -> str:
        names = ", ".join(name for name, _ in self.constants)
        body = "\n        ".join((*self.lines, "return e"))
        return f"def make({names}):\n    def energy(x):\n        {body}\n    return energy\n"

    def make(self) -> Any:
        """The function from constants to an energy."""
        scope = dict(_scope())
        exec(self.energy_text(), scope)
        return scope["make"]

    def values(self) -> list[Any]:
        """The constants: JAX arrays may become tracers, NumPy arrays never do."""
        return [evaluate(text) for _, text in self.constants]

    def start(self, k: int = 0) -> jax.Array:
        return jnp.asarray(np.reshape(self.starts[k], self.shape), self.kind)

    def source(self) -> str:
        """A program that compares the library with the energy itself; see `oracle` for the rest."""
        return self._head() + (_OF_SPINS if self.q is None else _OF_VALUES).format(case=self)

    def _head(self) -> str:
        constants = "\n".join(f"{name} = {text}" for name, text in self.constants)
        names = ", ".join(name for name, _ in self.constants)
        small = "\n".join(f"amlib.descent.{name} = {n}" for name, n in self.limits)
        return f"""# call = {self.call!r}; used {", ".join(self.used)}{PRELUDE}
import amlib.descent.jaxprs, amlib.descent.products, amlib.descent.rows, amlib.descent.visits
from amlib.descent import flips, plan
jax.config.update("jax_enable_x64", {self.x64})
{small}
{constants}
{self.energy_text()}
energy = make({names})
x0 = jnp.asarray(np.reshape({list(self.starts[0])}, {self.shape}), "{self.kind}")
"""


_OF_SPINS = """idx = jnp.asarray({case.visits}, "int32")
print(plan.FlipPlan(energy, x0, "{case.path}").describe())
problem = flips.FlipProblem(energy, path="{case.path}")
visit = lambda x0, idx: flips.visit(problem, x0, idx)
x, t = visit(x0, idx) if "{case.call}" == "eager" else jax.jit(visit)(x0, idx)
print("recorded", t.energy)
print("exact   ", lax.map(energy, jnp.asarray(np.asarray(t.frames))))
print("flips   ", flips.flip_energies(problem, x0))
flipped = jnp.stack([x0.reshape(-1).at[i].multiply(-1).reshape(x0.shape) for i in range(x0.size)])
print("exact   ", lax.map(energy, flipped))
"""

_OF_VALUES = """from amlib.descent import methods, sites, sweeps
problem = methods.flip_problem(energy, sites.Values({case.q}), path="{case.path}")
print(problem.plan(problem.space.to_spins(x0)).describe())
visit = lambda x: methods.solve(problem, x, sweeps.Sweeps("random"), jax.random.key(0), 3)
end = visit(x0) if "{case.call}" == "eager" else jax.jit(visit)(x0)
print("recorded", end.trajectory.energy)
print("exact   ", lax.map(energy, jnp.asarray(np.asarray(end.trajectory.frames))))
print("changes ", sites.changes_of(problem, x0))
changed = lambda i, k: x0.reshape(-1).at[i].set(k).reshape(x0.shape)
changed = jnp.stack([changed(i, k) for i in range(x0.size) for k in range({case.q})])
print("exact   ", lax.map(energy, changed).reshape(*x0.shape, {case.q}))
"""


@contextlib.contextmanager
def promotion(x64: bool) -> Iterator[None]:
    """What users have, and the rest of the tests do not: free promotion of dtypes and ranks."""
    with (
        jax.enable_x64(x64),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
    ):
        yield


@functools.cache
def _scope() -> dict[str, Any]:
    scope: dict[str, Any] = {}
    exec(PRELUDE, scope)
    return scope


def evaluate(text: str, known: dict[str, Any] | None = None) -> Any:
    """The value of an expression of a constant, or of other known names."""
    return eval(text, _scope() | (known or {}))


class Writer:
    """Writes one energy line by line; knows the shape and dtype of every value so far."""

    def __init__(
        self,
        rng: random.Random,
        shape: tuple[int, ...],
        dtype: str,
        wide: bool,
        q: int | None = None,
    ):
        self.rng, self.float, self.wide, self.q = rng, dtype, wide, q
        self.values = [Value("x", shape, dtype if q is None else "int32")]
        self.lines: list[str] = []
        self.constants: list[tuple[str, str]] = []
        self.used: list[str] = []
        self.refused: list[str] = []
        self._known: dict[str, Any] = {}
        self.near: tuple[int, ...] | None = None  # a state to start near

    # -- constants, for the productions -----------------------------------------------------------

    def constant(self, text: str) -> str:
        name = f"C{len(self.constants)}"
        if self.rng.random() < 0.25:
            text = f"np.asarray({text})"
        self.constants.append((name, text))
        return name

    def _shaped(self, kind: str, shape: Any, dtype: str) -> str:
        sizes = "".join(f"{n}, " for n in shape)
        return self.constant(f'{kind}, {sizes}dtype="{dtype}")'.replace("(, ", "("))

    def spins_or_reals(self, shape: Any, dtype: str) -> str:
        seed = self.rng.randrange(1000)
        if dtype == "bool":
            return self._shaped(f"integers({seed}, 0, 2", shape, dtype)
        kind = self.rng.choice(["spins", "reals"] if "float" in dtype else ["integers"])
        low = 0 if dtype.startswith("u") else -3
        return self._shaped(
            f"integers({seed}, {low}, 5" if kind == "integers" else f"{kind}({seed}", shape, dtype
        )

    def matrix(self, shape: Any, dtype: str) -> str:
        """Patterns: spins where the dtype has a sign, else small integers, else reals.

        Some have columns of zeros: what is multiplied by these, say a bit, changes nothing.
        """
        seed = self.rng.randrange(1000)
        if "float" in dtype and self.rng.random() < 0.15:
            sizes = "".join(f"{n}, " for n in shape)
            return self.constant(f'dead({seed}, reals({seed}, {sizes}dtype="{dtype}"))')
        if "float" in dtype and self.rng.random() < 0.4:
            return self._shaped(f"reals({seed}", shape, dtype)
        if "u" in dtype or dtype == "bool" or self.rng.random() < 0.3:
            low = 0 if "u" in dtype or dtype == "bool" else -2
            return self._shaped(f"integers({seed}, {low}, {low + 5}", shape, dtype)
        return self._shaped(f"spins({seed}", shape, dtype)

    def integers_of(self, values: list[int]) -> str:
        return self.constant(f'jnp.asarray({values}, "int32")')

    # -- lines --------------------------------------------------------------------------------

    def attempt(self, name: str, production: Any, v: Value) -> Value | None:
        """Write one line, or nothing if the production does not fit."""
        before = len(self.constants)
        try:
            text = production(self, v)
            out = self._shape_of(text)
            fits(int(np.prod(out.shape)) <= MAX_SIZE)
            fits(int(np.prod(out.shape)) > 0 or self.rng.random() < 0.2)
            fits(out.dtype.name not in ("complex64", "complex128"))
        except Unfit:
            del self.constants[before:]
            return None
        except (TypeError, ValueError, IndexError, NotImplementedError, OverflowError):
            self.refused.append(name)
            del self.constants[before:]
            return None
        new = Value(f"v{len(self.values)}", tuple(out.shape), out.dtype.name)
        self.lines.append(f"{new.name} = {text}")
        self.values.append(new)
        self.used.append(name)
        return new

    def _shape_of(self, text: str) -> Any:
        for name, expression in self.constants:
            if name not in self._known or self._known[name][0] != expression:
                self._known[name] = (expression, evaluate(expression))
        constants = {name: self._known[name][1] for name, _ in self.constants}
        names = [v.name for v in self.values]
        structs = [jax.ShapeDtypeStruct(v.shape, v.dtype) for v in self.values]
        return jax.eval_shape(
            lambda *values: evaluate(text, constants | dict(zip(names, values, strict=True))),
            *structs,
        )

    def step(self, table: dict[str, Any], v: Value) -> Value:
        """One production of the table that fits, or the value itself."""
        for _ in range(_TRIES):
            name = self.rng.choice(list(table))
            new = self.attempt(name, table[name], v)
            if new is not None:
                return new
        return v

    def term(self) -> str:
        """State -> sites and moves -> sums -> anything -> a head."""
        rng = self.rng
        v = self.values[0] if rng.random() < 0.7 else rng.choice(self.values)
        bits = {"site": site, **MOVES, "site again": site}
        for _ in range(rng.choice([0, 0, 1, 1, 2, 3])):
            v = self.step(bits, v)
        for _ in range(rng.choice([0, 1, 1, 1, 1, 1, 2])):
            v = self.step(LINEAR, v)
        for _ in range(rng.choice([0, 0, 0, 1, 2])):
            v = self.step(rng.choice([bits, LINEAR, BENT, BENT]), v)
        return self.head(v)

    def memory(self) -> str:
        """Patterns, overlaps, a log-sum-exp: most memories, at which few patterns may count."""
        rng, x = self.rng, self.values[0]
        K, D = rng.choice([3, 5, 9, 17, 40]), size(x)
        dtype = rng.choice([self.float, self.float, "int8"])
        low = rng.choice([-1, -3])
        patterns = f'spins({rng.randrange(1000)}, {K}, {D}, dtype="{dtype}")'
        if rng.random() < 0.2:
            patterns = f'integers({rng.randrange(1000)}, {low}, 2, {K}, {D}, dtype="{dtype}")'
        name = self.constant(patterns)
        self.near = tuple(np.where(np.asarray(evaluate(patterns))[0] > 0, 1, -1).tolist())
        bits = rng.choice(["{x}", "{x}", "{x}", "({x} + 1)/2", "({x} > 0).astype({x}.dtype)"])
        flat = bits.format(x="x.reshape(-1)")
        product = rng.choice([f"{name} @ {flat}", f"{flat} @ {name}.T"])
        h = self.attempt("patterns", lambda w, v: product, x)
        assert h is not None
        if rng.random() < 0.3:
            bias = self._shaped(f"reals({rng.randrange(1000)}", (K,), self.float)
            h = self.attempt("bias", lambda w, v: f"{v.name} + {bias}", h) or h
        kinds = [k for k in HEADS if k.startswith("lse") or "total" in k]
        return self.head(h, rng.choice(kinds), ("2.0", "6.0", "15.0", "20.0", "50.0"))

    def terms_of_few(self) -> str:
        """Terms of a few bits each, of a lattice or a graph, with anything done to each, summed."""
        rng, x = self.rng, self.values[0]
        D = size(x)
        n = rng.choice([1, D, 2 * D, 3 * D])
        seeds = [rng.randrange(1000) for _ in range(3)]
        sides = [f"np.random.default_rng({s}).integers(0, {D}, {n})" for s in seeds]
        if n == D and rng.random() < 0.5:
            text = [f"jnp.roll(x.reshape(-1), {k})" for k in range(3)]
        else:
            # Indices stay NumPy's: which bits a term reads is known when the energy is traced.
            text = [f"x.reshape(-1)[{s}]" for s in sides]
        seen = [self.attempt("few", lambda w, v, t=t: t, x) for t in text]
        assert all(seen)
        a, b, c = (v.name for v in seen if v is not None)
        J = self._shaped(f"reals({rng.randrange(1000)}", (n,), self.float)
        made = rng.choice(FEW).format(
            a=a, b=b, c=c, J=J, big=rng.choice(["1.0", "1e4", "1e9", "-30.0", "0.0"])
        )
        v = self.attempt("term", lambda w, v: f"({made}).astype(jnp.{self.float})", x)
        assert v is not None
        return rng.choice(SUMS_OF_FEW).format(v=v.name, n=n, groups=max(1, n // 3))

    def head(self, v: Value, kind: str | None = None, scales: tuple[str, ...] = SCALES) -> str:
        """One scalar from a value: by the head that is named, or by any."""
        rng = self.rng

        def flatten(w, v):
            cast = "" if v.dtype == self.float else f".astype(jnp.{self.float})"
            return f"{v.name}{cast}.reshape(-1)"

        flat = self.attempt("flat", flatten, v) or self.attempt("flat", flatten, self.values[0])
        assert flat is not None
        n = int(np.prod(flat.shape))
        if kind is None:
            exponentials = [k for k in HEADS if "lse" in k or "total" in k]
            kind = rng.choice(exponentials if rng.random() < 0.4 else list(HEADS))
        text = HEADS[kind]
        fill = {
            "b": rng.choice(scales),
            "steep": rng.choice(["5000", "3", "50"]),
            "power": rng.choice(["s*s*s", "s**3", "s**2"]),
        }
        if "{mask}" in text:
            fill["mask"] = self._shaped(f"integers({rng.randrange(1000)}, 0, 2", (n,), "bool")
        if "{weights}" in text:
            fill["weights"] = self._shaped(
                f"integers({rng.randrange(1000)}, 0, 3", (n,), self.float
            )
        new = self.attempt(kind, lambda w, v: text.format(h=v.name, **fill), flat)
        if new is None:
            new = self.attempt("sum", lambda w, v: f"jnp.sum({v.name})", flat)
        assert new is not None
        return new.name


def _wall(w: Writer) -> str | None:
    """A part of the states is forbidden, wherever the rest of the energy may lead."""
    flat = "x.reshape(-1)"
    n = size(w.values[0])
    k = w.rng.randint(1, n)
    new = w.attempt(
        "forbidden states",
        lambda w, v: w.rng.choice(
            [f"jnp.sum(jnp.where((jnp.arange({n}) < {k}) & ({flat} < 0), jnp.inf, 0.0))"
             f".astype(jnp.{w.float})",
             f"jnp.where(jnp.sum({flat}) > {k}, jnp.inf, 0.0).astype(jnp.{w.float})",
             f"jnp.sum(jnp.where({flat} > 0, 0.0, 3e38).astype(jnp.{w.float}))",
             f"jnp.sum(jnp.where({flat} < 0, 1e9 + 1e8*jnp.arange({n}), 0)).astype(jnp.{w.float})",
             f"jnp.sum(jnp.log({flat}[:{k}] + 1.0))"]
        ),
        w.values[0],
    )  # fmt: skip
    return new and new.name


LIMITS = {
    "cut._COMPACT_FROM": 1,
    "active._ACTIVE_FROM": 1,
    "active._FEWEST": 3,
    "products._BLOCK": 30,
    "jaxprs.NARROW_FROM": 1,
    "rows._DENSE_LIMIT": 60,
    "rows._BLOCK": 16,
    "visits._BLOCK": 30,
    "jaxprs._UNROLL_LIMIT": 20,
}
"""Constants of `amlib.descent` made small: forms for large sizes then run on small ones."""

_COMPACT, *_ACTIVE = list(LIMITS.items())[:5]
_TIGHT = list(LIMITS.items())[5:]
_LIMITS = ((), (), (_COMPACT,), (_COMPACT, *_ACTIVE), (_COMPACT, *_ACTIVE), tuple(_TIGHT))
_LIMITS += ((_COMPACT, *_ACTIVE, *_TIGHT),)

_PATHS: tuple[Path, ...] = ("incremental",) * 5 + ("auto",)
_SCALES = ["{e}"] * 6 + ["1e-4*{e}", "1e4*{e}", "1e-30*{e}", "1e30*{e}", "-{e}", "{e} + 3.0"]


def scaled(rng: random.Random, terms: list[str]) -> str:
    """The sum of terms, each times a number; or the product or the maximum of two."""
    parts = [rng.choice(_SCALES).format(e=t) for t in terms]
    if len(terms) > 1 and rng.random() < 0.1:
        return rng.choice(["{0}*{1}", "jnp.maximum({0}, {1})"]).format(*parts)
    return " + ".join(parts)


def limits(rng: random.Random) -> tuple[tuple[str, int], ...]:
    """Which constants of the library are made small."""
    return rng.choice(_LIMITS)


def draw(rng: random.Random) -> Case:
    """One case; equal generators give equal cases."""
    dtype = rng.choice(["float32"] * 6 + ["float64"] * 3 + ["float16", "bfloat16"])
    wide = rng.random() < 0.12
    D = rng.choice([40, 64]) if wide else rng.choice([1, 2, 3, 5, 6, 8, 10, 12, 14])
    shape: tuple[int, ...] = (D,)
    if D % 2 == 0 and rng.random() < 0.25:
        shape = rng.choice([(D // 2, 2), (2, D // 2), (D // 2, 2), (2, 1, D // 2)])
    if D == 1 and rng.random() < 0.5:
        shape = ()
    with promotion(x64=dtype == "float64"):
        w = Writer(rng, shape, dtype, wide)
        kind = rng.random()
        if kind < 0.12:
            terms = [w.memory()]
        elif kind < 0.35:
            terms = [w.terms_of_few() for _ in range(rng.choice([1, 1, 2]))]
            terms += [w.term()] * (rng.random() < 0.2)
        else:
            terms = [w.term() for _ in range(rng.choice([1, 1, 1, 2, 2, 3]))]
        if rng.random() < 0.12 and (wall := _wall(w)):
            terms.append(wall)
    total = scaled(rng, terms)
    out = rng.choice([dtype, "float32", "float32"]) if dtype in ("float16", "bfloat16") else dtype
    line = f"e = ({total}).astype(jnp.{out})"
    wrong = rng.choice([0.0, 0.1, 0.1, 0.5]) if w.near else 0.5
    near = w.near or (1,) * D
    starts = tuple(tuple(-s if rng.random() < wrong else s for s in near) for _ in range(2))
    T = rng.choice([D, 3 * D, 3 * D]) if not wide else 2 * D
    if dtype in ("float16", "bfloat16"):
        T *= 4  # long enough for drift to show
    text = "\n".join((*w.lines, line))
    return Case(
        shape,
        dtype,
        tuple(c for c in w.constants if re.search(rf"\b{c[0]}\b", text)),
        (*w.lines, line),
        starts,
        tuple(rng.randrange(D) for _ in range(T)),
        rng.choice(_PATHS),
        rng.choice(["eager", "eager", "jit", "jit", "arguments", "vmap", "grad"]),
        rng.choice(("none", "none", *METHODS)),
        limits(rng),
        tuple(w.used),
    )


CASES = st.builds(draw, st.randoms(use_true_random=False))
"""The strategy of Hypothesis."""
