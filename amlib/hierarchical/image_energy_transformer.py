r"""The Energy Transformer for pictures, sequences and graphs: what stands before and behind it.

Patches become tokens by a linear map, hidden ones become the token MASK, the token CLS comes
first, and every token gets its position. The block relaxes them, and a linear map of the
normalised tokens gives patches back.
"""

import math
import zipfile
from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Shaped

from amlib import _checks as checks, _show as show
from amlib._types import IntLike, Key, PathLike, RealLike, ScalarLike, Shape, ShapeLike
from amlib.descent.methods import AbstractMethod
from amlib.hierarchical import patches
from amlib.hierarchical.attention import MaskLike
from amlib.hierarchical.energy_transformer import STD, EnergyTransformer

_HERE = "ImageEnergyTransformer"
BLOCK = ("Wk", "Wq", "Xi", "LNORM_gamma", "LNORM_bias")
AROUND = ("Wenc", "Benc", "Wdec", "Bdec", "CLS_token", "MASK_token", "POS_embed")
PUBLISHED = BLOCK + AROUND
"""The names of the published parameters: those of the block, and those around it."""


class ImageEnergyTransformer(eqx.Module):
    r"""Complete pictures of which patches are hidden, or classify them: an `EnergyTransformer` with
    patches for tokens.

    $$x_0 = \text{CLS} + p_0, \qquad x_t = p_t + \begin{cases} \text{MASK} & t \text{ hidden} \\
    \text{patch}_t W_{\text{enc}} + b_{\text{enc}} & \text{else} \end{cases}$$

    $$\text{picture}_t = \mathrm{LN}(x_t^{\text{end}}) W_{\text{dec}} + b_{\text{dec}}$$

    One example per call: batches go through `jax.vmap`.

    ```python
    model = am.ImageEnergyTransformer((28, 28), 4, 64, 4, 16, 256, key=key)
    loss = am.learning.MaskedPatches(4)
    model = am.fit(model, images, loss, optimizer, epochs, 100, key).model
    picture = model.complete(image, hidden)            # hidden: booleans of shape model.grid
    ```

    A sequence is a picture of one axis; a graph a sequence of nodes, `patch=(1,)`, whose edges are
    the attention mask:

    ```python
    series = am.ImageEnergyTransformer(96, 8, 64, 4, 16, 256, key=key)
    graph = am.ImageEnergyTransformer((nodes, features), (1,), 64, 4, 16, 256, mask=edges, key=key)
    ```

    **Arguments:**

    - `image_shape`: the shape of a picture, with channels last if there are any.
    - `patch`: the size of a patch: one number for all of the first two axes (or the only one), or
      one for each axis; the axes behind those are channels. Each must divide its axis.
    - `features`, `heads`, `head_width`, `memories`, `alpha`, `steps`, `mask_self`, `beta`,
      `remat`: of the block, see `EnergyTransformer`.
    - `mask`: `True` where a patch (row) may see another (column), `(patches, patches)`. CLS sees
      all, and all see CLS.
    - `classes`: how many classes `classify` tells apart, from the token CLS; `None` for no such
      head.
    - `std`: spread of the initial attention, tokens and positions; 0.002 as published, for long
      trainings. A short one begins better at 0.1 or so, where positions are heard.
    - `key`: for the weights.

    The parameters have the published names: those of the block, `Wenc`, `Benc`, `Wdec`, `Bdec`,
    `CLS_token`, `MASK_token` and `POS_embed` `(1 + patches, features)`; `published` lists them, and
    `load_energy_transformer` reads them. Patches are flattened channels first, as there.

    **Raises:** `ValueError` for a patch that does not divide the picture, and other sizes that do
    not fit; `TypeError` for wrong kinds.

    **Reference:** Hoover et al. 2023 (arXiv 2302.07253). One of its two published codes normalises
    twice before it decodes; this one, as the other, once. The head for classes is ours: linear in
    the normalised CLS.
    """

    block: EnergyTransformer
    Wenc: Float[Array, "size features"]
    Benc: Float[Array, " features"]
    Wdec: Float[Array, "features size"]
    Bdec: Float[Array, " size"]
    CLS_token: Float[Array, " features"]
    MASK_token: Float[Array, " features"]
    POS_embed: Float[Array, "tokens features"]
    Wclass: Float[Array, "features classes"] | None
    Bclass: Float[Array, " classes"] | None
    image_shape: Shape = eqx.field(static=True)
    patch: Shape = eqx.field(static=True)

    __repr__ = show.text

    def __init__(
        self,
        image_shape: ShapeLike,
        patch: ShapeLike,
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
        classes: IntLike | None = None,
        key: Key,
    ):
        self.image_shape = checks.shape(image_shape, f"{_HERE}: image_shape")
        self.patch = patches.size_of(patch, self.image_shape, _HERE)
        checks.key(key, f"{_HERE}: key")
        b, c, m, p, e, d, h = jr.split(key, 7)
        tokens = 1 + math.prod(self.grid)
        self.block = EnergyTransformer(
            tokens, features, heads, head_width, memories, alpha, steps, mask_self, beta=beta,
            mask=None if mask is None else self._with_cls(mask), remat=remat, std=std, key=b,
        )  # fmt: skip
        D, size = self.block.features, math.prod(self.image_shape) // (tokens - 1)
        self.Wenc, self.Benc = size**-0.5 * jr.normal(e, (size, D)), jnp.zeros(D)
        self.Wdec, self.Bdec = D**-0.5 * jr.normal(d, (D, size)), jnp.zeros(size)
        self.CLS_token = std * jr.normal(c, (D,))
        self.MASK_token = std * jr.normal(m, (D,))
        self.POS_embed = std * jr.normal(p, (tokens, D))
        self.Wclass, self.Bclass = (None, None) if classes is None else _head(D, classes, h)

    @property
    def grid(self) -> Shape:
        """How many patches there are along each axis."""
        return patches.grid_of(self.image_shape, self.patch)

    def _with_cls(self, mask: MaskLike) -> Array:
        """An attention mask of patches as one of tokens."""
        known = jnp.asarray(mask)
        n = math.prod(self.grid)
        if known.dtype != bool or known.shape != (n, n):
            raise ValueError(
                f"{_HERE}: mask must be boolean of shape (patches, patches) = ({n}, {n}), True "
                f"where a patch may see another; {known.dtype}{list(known.shape)} came. CLS sees "
                "all, and all see it."
            )
        return jnp.pad(known, ((1, 0), (1, 0)), constant_values=True)

    def masked(self, mask: MaskLike | None) -> "ImageEnergyTransformer":
        """The same model with another attention mask, as for one graph of many of a size.

        **Arguments:**

        - `mask`: over patches, see the class; `None` lets every patch see every other.

        **Raises:** `ValueError` for a mask of another shape.
        """
        tokens = None if mask is None else self._with_cls(mask)
        return eqx.tree_at(lambda m: m.block, self, self.block.masked(tokens))

    # -- pictures and tokens ---------------------------------------------------------------------

    def embed(
        self,
        image: Shaped[ArrayLike, "..."],
        hidden: Shaped[ArrayLike, "..."] | None = None,
    ) -> Float[Array, "tokens features"]:
        """The tokens of a picture: where a recall of the `block` begins.

        **Arguments:**

        - `image`: one picture, of floats.
        - `hidden`: which patches are not shown, booleans of shape `grid` or flat; `None` for none.

        **Returns:** a state of the block: CLS, then the patches in rows.

        **Raises:** `ValueError` for other shapes; `TypeError` for a picture of integers and a mask
        that is not boolean.
        """
        x = patches.rows_of(self._picture(image), self.patch) @ self.Wenc + self.Benc[None]
        if hidden is not None:
            x = jnp.where(self._hidden(hidden)[:, None], self.MASK_token[None], x)
        return jnp.concatenate([self.CLS_token[None], x]) + self.POS_embed

    def decode(self, x: Shaped[ArrayLike, "tokens features"]) -> Float[Array, "..."]:
        """The picture that tokens stand for; CLS stands for none.

        **Arguments:**

        - `x`: a state of the block.

        **Returns:** a picture of shape `image_shape`.

        **Raises:** `ValueError` for a wrong shape.
        """
        rows = self.block.activations(x)[1:] @ self.Wdec + self.Bdec[None]
        return patches.picture_of(rows, self.image_shape, self.patch)

    def __call__(
        self,
        image: Shaped[ArrayLike, "..."],
        hidden: Shaped[ArrayLike, "..."] | None = None,
        *,
        steps: int | None = None,
        method: AbstractMethod | None = None,
    ) -> Float[Array, "..."]:
        """What the model makes of a picture, the patches that were shown included.

        **Arguments:**

        - `image`, `hidden`: see `embed`.
        - `steps`: how many steps; `None` takes the block's own.
        - `method`: another way for the tokens to relax, see `EnergyTransformer`.

        **Returns:** a picture of shape `image_shape`.

        **Raises:** as `embed`, and `ValueError` for a number of steps below 1.
        """
        x = self.embed(image, hidden)
        return self.decode(self.block.recall(x, method=method, max_steps=steps).x)

    def complete(
        self,
        image: Shaped[ArrayLike, "..."],
        hidden: Shaped[ArrayLike, "..."],
        *,
        steps: int | None = None,
        method: AbstractMethod | None = None,
    ) -> Float[Array, "..."]:
        """The picture with its hidden patches filled in; the others as they came.

        **Arguments:** as for a call; so are what is returned and raised.
        """
        made = self(image, hidden, steps=steps, method=method)
        return jnp.where(self.pixels(hidden), made, self._picture(image).astype(made.dtype))

    def pixels(self, hidden: Shaped[ArrayLike, "..."]) -> Bool[Array, "..."]:
        """Which pixels the hidden patches are (see `embed`): a mask of shape `image_shape`."""
        return patches.pixels_of(self._hidden(hidden), self.image_shape, self.patch)

    def classify(
        self, image: Shaped[ArrayLike, "..."], *, steps: int | None = None
    ) -> Float[Array, " classes"]:
        """What the normalised CLS says of the classes, after the steps.

        **Arguments:**

        - `image`: one picture, of floats.
        - `steps`: how many steps; `None` takes the block's own.

        **Returns:** logits.

        **Raises:** as `embed`, and `ValueError` where the model was made without `classes`.
        """
        if self.Wclass is None or self.Bclass is None:
            raise ValueError(
                f"{_HERE}.classify: needs a head for classes; the model has none. Make it with "
                "classes=10, or add one: model.with_classes(10, key=key)."
            )
        g = self.block.activations(self.block(self.embed(image), steps))
        return g[0] @ self.Wclass + self.Bclass

    def with_classes(self, classes: IntLike, *, key: Key) -> "ImageEnergyTransformer":
        """The same model with a new head for classes: after a training without labels.

        **Arguments:**

        - `classes`: how many, at least 2.
        - `key`: for its weights.

        **Raises:** `ValueError` for fewer than 2.
        """
        checks.key(key, f"{_HERE}.with_classes: key")
        head = _head(self.block.features, classes, key)
        where = lambda m: (m.Wclass, m.Bclass)
        return eqx.tree_at(where, self, head, is_leaf=lambda a: a is None)

    def _picture(self, image: Shaped[ArrayLike, "..."]) -> Array:
        """One picture as floats."""
        dtype = getattr(image, "dtype", None) or np.asarray(image).dtype
        if not jnp.issubdtype(dtype, jnp.inexact):
            raise TypeError(
                f"{_HERE}: a picture must be of floats, scaled as those of the training; {dtype} "
                "came. Bytes become numbers from 0 to 1 by image / 255."
            )
        x = checks.as_float(image, f"{_HERE}: image")
        checks.state_shape(x, self.image_shape, f"{_HERE}: image")
        return x.astype(self.Wenc.dtype)

    def _hidden(self, hidden: Shaped[ArrayLike, "..."]) -> Array:
        """Which patches are hidden, flat."""
        hidden = jnp.asarray(hidden)
        if hidden.dtype != bool:
            raise TypeError(
                f"{_HERE}: hidden must be boolean, True where a patch is not shown; "
                f"{hidden.dtype} came. Compare first: numbers == 1."
            )
        flat = (math.prod(self.grid),)
        if hidden.shape not in (self.grid, flat):
            hint = "A batch goes through jax.vmap."
            if hidden.shape == self.image_shape:
                hint = "A mask of pixels came; whole patches are hidden."
            raise ValueError(
                f"{_HERE}: hidden must have one entry for each patch, shape {self.grid} or {flat}; "
                f"{hidden.shape} came. {hint}"
            )
        return hidden.reshape(-1)

    # -- the published parameters ----------------------------------------------------------------

    def published(self) -> dict[str, Array]:
        """The parameters by their published names: `np.savez(path, **model.published())`."""
        parts = {name: getattr(self.block, name) for name in BLOCK}
        return parts | {name: getattr(self, name) for name in AROUND}

    def with_published(self, values: Mapping[str, Shaped[ArrayLike, "..."]]) -> (
        "ImageEnergyTransformer"
    ):  # fmt: skip
        """The same model with other parameters.

        **Arguments:**

        - `values`: an array by each published name, see `published`; other names do not count.

        **Raises:** `ValueError` for a name that is missing, and arrays of other shapes.
        """
        made = []
        for name, old in self.published().items():
            if name not in values:
                raise ValueError(
                    f"{_HERE}: there must be an array for every published parameter; {name!r} is "
                    f"missing. There are {', '.join(map(str, values))}."
                )
            new = checks.as_float(values[name], f"{_HERE}: {name}").astype(old.dtype)
            if new.shape != old.shape:
                raise ValueError(
                    f"{_HERE}: {name} must have shape {old.shape}; {new.shape} came. Is the model "
                    "of the size of the one that was saved?"
                )
            made.append(new)
        where = lambda m: [getattr(m.block, n) for n in BLOCK] + [getattr(m, n) for n in AROUND]
        return eqx.tree_at(where, self, made)


def _head(features: int, classes: IntLike, key: Key) -> tuple[Array, Array]:
    """Weights and biases of a linear map to classes."""
    C = checks.integer(classes, 2, f"{_HERE}: classes")
    return features**-0.5 * jr.normal(key, (features, C)), jnp.zeros(C)


def load_energy_transformer(
    path: PathLike,
    image_shape: ShapeLike = (224, 224, 3),
    patch: ShapeLike = 16,
    *,
    alpha: ScalarLike = 0.1,
    steps: IntLike = 12,
) -> ImageEnergyTransformer:
    """Read published weights, a `.npz` of arrays by name; the sizes are read off them.

    Its attention was trained with every token seeing itself, so `mask_self` is `False`.

    **Arguments:**

    - `path`: the file.
    - `image_shape`, `patch`: of the pictures, which the arrays do not tell.
    - `alpha`, `steps`: see `EnergyTransformer`.

    **Returns:** a model.

    **Raises:** `ValueError` for a file of another kind, names that are missing, and arrays that do
    not fit each other or the pictures; `FileNotFoundError` where there is none.

    **Reference:** `load_checkpoint` of the published code, whose names these are.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
    except (ValueError, AttributeError, TypeError, EOFError, zipfile.BadZipFile) as err:
        raise ValueError(
            f"load_energy_transformer: {path} must be an .npz of plain arrays; NumPy cannot read "
            f"it as one: {err}"
        ) from err
    sizes = {name: np.shape(values.get(name, ())) for name in ("Wk", "Xi")}
    if [len(s) for s in sizes.values()] != [3, 2]:
        raise ValueError(
            f"load_energy_transformer: {path} must hold Wk of shape (heads, head_width, features) "
            f"and Xi of shape (features, memories); shapes {sizes} came, and the names "
            f"{sorted(values)}."
        )
    (H, Y, D), (_, M) = sizes["Wk"], sizes["Xi"]
    model = ImageEnergyTransformer(
        image_shape, patch, D, H, Y, M, alpha, steps, mask_self=False, key=jax.random.key(0)
    )
    return model.with_published(values)
