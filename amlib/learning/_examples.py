"""The data of `fit`: which rows there are, and how batches of them lie on several devices.

Data that are split over the devices of a mesh are never gathered: a batch is taken by the numbers
of its rows, and split as the data are. All that is computed of it is then split, too, and the
gradient is added up over the devices, by XLA's partitioner.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax import lax
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, PyTree

from amlib import _checks as checks
from amlib._types import Key

Shardings = tuple[NamedSharding | None, ...]


class Examples(eqx.Module):
    """Data, or some rows of them."""

    data: PyTree[Array]
    rows: Int[Array, " N"] | None
    _shardings: Shardings = eqx.field(static=True)

    def __init__(self, data: PyTree[Array], rows: Int[Array, " N"] | None = None):
        self.data, self.rows, self._shardings = data, rows, shardings(data)

    def __len__(self) -> int:
        return length(self.data) if self.rows is None else len(self.rows)

    def take(self, which: Int[Array, " B"]) -> PyTree[Array]:
        """A batch: the examples of these numbers, split over devices as the data are."""
        rows = which if self.rows is None else self.rows[which]
        return placed(jax.tree.map(lambda a: a[rows], self.data), self._shardings)

    def slice(self, start: Int[Array, ""] | int, size: int) -> PyTree[Array]:
        """The same of `size` examples in a row."""
        if self.rows is None and not any(self._shardings):
            return jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, start, size), self.data)
        return self.take(start + jnp.arange(size))

    def all(self) -> PyTree[Array]:
        """All examples."""
        return self.data if self.rows is None else jax.tree.map(lambda a: a[self.rows], self.data)

    def struct(self, size: int | None = None) -> PyTree[jax.ShapeDtypeStruct]:
        """Shapes and dtypes of all examples, or of a batch."""
        size = len(self) if size is None else size
        return jax.tree.map(
            lambda a: jax.ShapeDtypeStruct((size, *a.shape[1:]), a.dtype), self.data
        )

    def describe(self) -> list[str]:
        """Names, dtypes and shapes of all arrays."""
        leaves, _ = jax.tree_util.tree_flatten_with_path(self.struct())
        return [f"{jax.tree_util.keystr(p)}: {a.dtype}{list(a.shape)}" for p, a in leaves]


def shardings(tree: PyTree) -> Shardings:
    """For each array of a tree how it is split over devices; `None` where it is not."""
    found = [getattr(a, "sharding", None) for a in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    return tuple(
        s if isinstance(s, NamedSharding) and len(s.device_set) > 1 else None for s in found
    )


def placed(tree: PyTree, how: Shardings) -> PyTree:
    """The same within a program, its arrays split as those were of which `how` are `shardings`."""
    if not any(how):
        return tree
    arrays, rest = eqx.partition(tree, eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    leaves = [
        a if s is None else lax.with_sharding_constraint(a, s)
        for a, s in zip(leaves, how, strict=True)
    ]
    return eqx.combine(jax.tree.unflatten(structure, leaves), rest)


def arrays(data: PyTree, where: str) -> PyTree[Array]:
    """Data as arrays on the device; raise unless they are finite and of one length above 0."""

    def convert(path: jax.tree_util.KeyPath, leaf: object) -> Array:
        name = where + jax.tree_util.keystr(path)
        try:
            array = jnp.asarray(leaf)
        except (TypeError, ValueError) as err:
            raise TypeError(
                f"{name}: must be an array of numbers; {type(leaf).__name__} came."
            ) from err
        if array.ndim == 0:
            raise ValueError(
                f"{name}: must have one row per example; a single number came. "
                "A list of numbers is a tree of numbers: pass jnp.array(list)."
            )
        if eqx.is_inexact_array(array):
            checks.require(
                array,
                ~np.asarray(jnp.isfinite(array).all()),
                f"{name}: every value must be finite; NaN or infinity came. "
                "Clean it with jnp.nan_to_num, or leave such examples out.",
            )
        return array

    data = jax.tree_util.tree_map_with_path(convert, data)
    lengths = {a.shape[0] for a in jax.tree.leaves(data)}
    if not lengths or lengths == {0}:
        raise ValueError(f"{where}: must hold at least one example; it is empty.")
    if len(lengths) > 1:
        raise ValueError(
            f"{where}: all arrays must have the same length of the first axis; "
            f"{', '.join(map(str, sorted(lengths)))} came."
        )
    return data


def length(data: PyTree[Array]) -> int:
    """How many examples there are."""
    return jax.tree.leaves(data)[0].shape[0]


def like(validation: PyTree | float | None, data: PyTree[Array]) -> PyTree[Array] | float | None:
    """Validation data as arrays; a fraction, or none, as it is; raise for another kind of data."""
    if validation is None or isinstance(validation, bool | int | float | np.number):
        return validation
    validation = arrays(validation, "fit: validation")
    kinds = [
        jax.tree.map(lambda a: f"{a.dtype}{list(a.shape[1:])}", part) for part in (data, validation)
    ]
    if jax.tree.structure(kinds[0]) != jax.tree.structure(kinds[1]) or kinds[0] != kinds[1]:
        raise ValueError(
            f"fit: validation must be like the training data, {kinds[0]} per example; "
            f"{kinds[1]} came."
        )
    return validation


def split(
    data: PyTree[Array], validation: PyTree[Array] | float | None, key: Key
) -> tuple[Examples, Examples | None]:
    """Training and validation data (or `None`), from these or from a fraction to set aside."""
    if validation is None:
        return Examples(data), None
    if not isinstance(validation, bool | int | float | np.number):
        return Examples(data), Examples(validation)
    N = length(data)
    count = max(1, round(float(validation) * N))
    if isinstance(validation, bool) or not 0 < validation < 1 or count >= N:
        raise ValueError(
            f"fit: validation must be data, or a fraction in (0, 1) of the {N} examples that "
            f"leaves some for training; {validation} came."
        )
    order = jr.permutation(key, N)
    parts = Examples(data, order[count:]), Examples(data, order[:count])
    if any(shardings(data)):  # two parts need not be of lengths that the devices can share
        return parts
    training, held_out = (Examples(part.all()) for part in parts)
    return training, held_out
