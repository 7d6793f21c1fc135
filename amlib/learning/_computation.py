"""What a function computes, as a checksum: of its jaxpr, with all constants.

Two functions of one name may close over different numbers, or call different functions. What JAX
traces of them holds everything that counts, and nothing else: not the names of variables, comments
or lines. It depends on the versions of JAX and of the libraries that are traced.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jax.extend import core as jcore
from jaxtyping import PyTree

from amlib import _hosts as hosts, _show as show


def versions() -> dict[str, str]:
    """What else a fingerprint depends on, its own form among it."""
    return {room.__name__: str(room.__version__) for room in (jax, eqx, optax)} | {"form": "3"}


def fingerprint(fn: Callable[..., PyTree], *args: PyTree) -> tuple[str, PyTree]:
    """Return a checksum of what `fn` computes for arguments like these, and its outputs' shapes.

    Values of arrays among the arguments do not count, nor where they lie; all else that `fn` uses
    does.
    """
    args, fn = jax.tree.map(_shape, args), jax.tree.map(_here, fn)
    closed, shapes, _ = eqx.filter_make_jaxpr(fn)(*args)
    digest = _Digest()
    digest.add(closed)
    return digest.hexdigest(), shapes


def _shape(leaf: PyTree) -> PyTree:
    if not isinstance(leaf, jax.Array):
        return leaf
    weak = getattr(leaf, "weak_type", False)  # random keys have no such thing
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=weak)


_PLACES = ("reshard", "sharding_constraint", "typed")
"""Operations that say where a value lies, and leave it as it is."""


def _here(leaf: PyTree) -> PyTree:
    """A field of a function, on one device: programs for several are others."""
    if not isinstance(leaf, jax.Array) or hosts.mesh_of(leaf) is None:
        return leaf
    value = hosts.whole(leaf)
    return jnp.asarray(value.item() if leaf.weak_type and not leaf.ndim else value)


class _Digest:
    """A checksum of nested programs and their constants, the same in every process."""

    def __init__(self):
        self._sha = hashlib.sha256()
        self.hexdigest = self._sha.hexdigest

    def add(self, value: object) -> None:
        if isinstance(value, jcore.ClosedJaxpr):
            self._program(value.jaxpr, value.consts)
        elif isinstance(value, jcore.Jaxpr):
            self._program(value, ())
        elif isinstance(value, jax.Array | np.ndarray | np.generic):
            self._array(value)
        elif isinstance(value, Mapping):
            self.add(sorted(value.items(), key=lambda item: str(item[0])))
        elif isinstance(value, tuple | list):
            self._text(f"{type(value).__name__} of {len(value)}")
            for part in value:
                self.add(part)
        elif isinstance(value, set | frozenset):
            self.add(sorted(map(_plain, value)))
        else:
            self._text(_plain(None if isinstance(value, jax.sharding.Sharding) else value))

    def _text(self, text: str) -> None:
        self._sha.update(f"{len(text)} {text}".encode())

    def _array(self, value: jax.Array | np.ndarray | np.generic) -> None:
        self._text(f"{value.dtype} {value.shape}")
        if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jr.key_data(value)
        for block in hosts.blocks(value):
            self._sha.update(np.ascontiguousarray(block).tobytes())

    def _program(
        self, jaxpr: jcore.Jaxpr, consts: Sequence[object], given: Sequence[str | None] = ()
    ) -> None:
        # By value, also within loops and calls: whether two equal constants are one, and how many
        # a loop is handed, depends on what JAX has in its caches.
        held = dict(zip(jaxpr.constvars, map(_checksum, consts), strict=False))
        held |= {v: text for v, text in zip(jaxpr.invars, given, strict=False) if text is not None}
        numbers: dict[jcore.Var, int] = {}
        moved: dict[jcore.Var, jcore.Var | jcore.Literal] = {}

        def origin(atom: jcore.Var | jcore.Literal) -> jcore.Var | jcore.Literal:
            while not isinstance(atom, jcore.Literal) and atom in moved:
                atom = moved[atom]
            return atom

        def name(atom: jcore.Var | jcore.Literal) -> None:
            atom = origin(atom)
            if isinstance(atom, jcore.Literal):
                self.add(np.asarray(atom.val, atom.aval.dtype))  # pyright: ignore
            elif atom in held:
                self._text(held[atom])
            else:
                self._text(f"{numbers.setdefault(atom, len(numbers))} {atom.aval}")

        for atom in (*jaxpr.constvars, *jaxpr.invars):
            if atom not in held:
                name(atom)
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in _PLACES:
                moved[eqn.outvars[0]] = eqn.invars[0]
                continue
            atoms = [origin(atom) for atom in eqn.invars]
            known = [None if isinstance(a, jcore.Literal) else held.get(a) for a in atoms]
            self._text(eqn.primitive.name)
            inner = _inner(eqn, known)
            for program, own in inner:
                plain = getattr(program, "jaxpr", program)
                self._program(plain, getattr(program, "consts", ()), own)
            shown = {k: v for k, v in eqn.params.items() if not inner or k not in _OF_OPERANDS}
            self.add(shown)
            count = _shared(eqn) if inner else 0
            for i, (atom, text) in enumerate(zip(eqn.invars, known, strict=True)):
                if i >= count or text is None:
                    name(atom)
            for atom in eqn.outvars:
                name(atom)
        for atom in jaxpr.outvars:
            name(atom)


_OF_OPERANDS = frozenset(
    """jaxpr branches cond_jaxpr body_jaxpr num_consts cond_nconsts body_nconsts linear ft_in
    in_shardings in_layouts donated_invars""".split()
)
"""Parameters that hold the programs, or say something of each operand."""


def _inner(
    eqn: jcore.JaxprEqn, known: Sequence[str | None]
) -> list[tuple[Any, Sequence[str | None]]]:
    """The programs of a loop or a call, and which of their inputs are constants."""
    params, count = eqn.params, _shared(eqn)
    if eqn.primitive.name in ("jit", "pjit", "scan"):
        return [(params["jaxpr"], known[:count])]
    if eqn.primitive.name == "cond":
        return [(branch, known[1:]) for branch in params["branches"]]
    if eqn.primitive.name == "while":
        of_cond = params["cond_nconsts"]
        return [
            (params["cond_jaxpr"], known[:of_cond]),
            (params["body_jaxpr"], known[of_cond:count]),
        ]
    return []


def _shared(eqn: jcore.JaxprEqn) -> int:
    """How many operands, the first ones, are the same in each turn of a loop, or in a call."""
    if eqn.primitive.name == "while":
        return eqn.params["cond_nconsts"] + eqn.params["body_nconsts"]
    if eqn.primitive.name != "scan":
        return len(eqn.invars)
    # What is carried keeps its shape; slices of the rest lose an axis.
    inner = getattr(eqn.params["jaxpr"], "jaxpr", eqn.params["jaxpr"])
    same = lambda a, b: jnp.ndim(a.aval) == jnp.ndim(b.aval)
    carried = sum(map(same, eqn.outvars, inner.outvars))
    return sum(map(same, eqn.invars, inner.invars)) - carried


def _checksum(value: object) -> str:
    digest = _Digest()
    digest.add(value)
    return digest.hexdigest()


def _plain(value: object) -> str:
    """A parameter of an operation as text, without addresses; of a function, its name."""
    if callable(value):
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    return show.unaddressed(repr(value))
