"""Hopfield-Fenchel-Young networks: one energy, an exchangeable regulariser, what follows it."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree, Shaped

from amlib import _checks as checks
from amlib._compiled import compiled
from amlib._numbers import Numbers
from amlib._types import Scalar
from amlib.continuous.base import ContinuousAM
from amlib.continuous.posts import AbstractPost, Identity
from amlib.continuous.regularizers import AbstractRegularizer, Entmax, entmax_alpha
from amlib.descent.methods import AbstractMethod, Problems
from amlib.descent.problems import Problem
from amlib.descent.streaming import flat_rows, row_norms
from amlib.spaces import AbstractReals, AbstractSpace


class AbstractFenchelYoung(ContinuousAM):
    """What Hopfield-Fenchel-Young networks share: the energy, its weights and its unit step.

    Subclass it with the field `beta`, and say of what it consists.
    """

    unit_step: ClassVar[bool] = True

    beta: eqx.AbstractVar[Scalar]

    @abc.abstractmethod
    def _parts(self) -> tuple[AbstractRegularizer, AbstractPost]:
        """The regulariser, and the post-transformation."""

    def _space_for(self, method: AbstractMethod) -> AbstractReals:
        """The domain of the post-transformation."""
        del method
        return self._parts()[1].space()

    def energy(self, x: Float[Array, "*shape"]) -> Scalar:
        """The energy of `x`, constants included; infinite outside the domain of `post`."""
        return self._whole(x, self._pull(x))

    def weights(self, x: Shaped[ArrayLike, "*shape"]) -> Float[Array, " K"]:
        """The weights of the patterns at `x`: many may be exactly 0.

        **Arguments:**

        - `x`: a state.

        **Returns:** one weight per pattern.
        """
        x = type(self)._state(self, x, "weights", check=False)
        return self._parts()[0].argmax(self._scores(x))

    def _scores(self, x: Array) -> Array:
        return self.beta.astype(x.dtype) * (flat_rows(self.Xi) @ x.reshape(-1))

    def _pull(self, x: Array) -> Array:
        """The concave part of the energy; minus its gradient is what the patterns sum to."""
        scores, (regularizer, _) = self._scores(x), self._parts()
        gap = regularizer.conjugate_at_zero(scores) - regularizer.conjugate(scores)
        return gap / self.beta.astype(x.dtype)

    def _whole(self, x: Array, pull: Array) -> Array:
        largest = jnp.max(row_norms(flat_rows(self.Xi)))
        return pull + (self._parts()[1].convex(x) + 0.5 * largest.astype(x.dtype))

    # -- the unit step where the convex part is another than half a square -----------------------

    def _step(self, x: Array) -> Array:
        return super()._step(x) if isinstance(self._parts()[1], Identity) else _posted(self, x)

    def _field(self, x: Array) -> tuple[Array, Array]:
        """The energy, and the direction against which a whole step is the unit step.

        Every part of that step lowers the energy, since the whole lowers a convex bound of it.
        """
        pull, gradient = jax.value_and_grad(self._pull)(x)
        return self._whole(x, pull), x - self._parts()[1](-gradient)

    def _problem(
        self, x: PyTree[Array], held: PyTree, space: AbstractSpace, bounded: Sequence[Numbers]
    ) -> tuple[Problems, PyTree[Array]]:
        problem, start = super()._problem(x, held, space, bounded)
        _, post = self._parts()
        if isinstance(post, Identity):
            return problem, start
        if type(space) is not type(post.space()):
            raise ValueError(
                f"recall: with post={type(post).__name__}(...) states live in its domain; "
                f"project={type(space).__name__}(...) came. Drop project=, or take post=Identity()."
            )
        assert isinstance(problem, Problem)
        return dataclasses.replace(problem, field=self._field), start


@compiled
def _posted(model: AbstractFenchelYoung, x: Array) -> Array:
    wide, state = checks.widen((model, x))
    _, post = wide._parts()
    return post(-jax.grad(wide._pull)(state)).astype(x.dtype)


class HopfieldFenchelYoung(AbstractFenchelYoung):
    r"""The Hopfield-Fenchel-Young network: any regularised choice of patterns, any normalisation.

    $$E(x) = -\frac1\beta \Omega^*(\beta\, \Xi x) + \Psi(x) + \frac1\beta \Omega^*(0)
    + \frac12 M^2, \qquad M = \max_\mu \|\xi_\mu\|$$

    The unit step, which never raises the energy, is

    $$x \leftarrow \mathrm{post}\big(\Xi^\top \nabla \Omega^*(\beta\, \Xi x)\big), \qquad
    \mathrm{post} = \nabla \Psi^*$$

    | regulariser $\Omega$ | weights $\nabla \Omega^*$ | margin |
    |---|---|---|
    | `Softmax()` | softmax: `ModernHopfield` | none |
    | `Entmax(alpha)` | $\alpha$-entmax: `SparseHopfield` | $1/(\alpha - 1)$ |
    | `Sparsemax()` | the nearest distribution | 1 |
    | `Normmax(alpha)` | few, of nearly equal weights | 1 |
    | `KSubsets(k)` | of about `k` patterns, which sum to `k` | 1 |
    | `SequentialKSubsets(k, transition)` | of about `k`, neighbours in `Xi` rather | 1 |

    | post-transformation | $\Psi$ | states |
    |---|---|---|
    | `Identity()` | $\frac12 \lVert x\rVert^2$ | all reals |
    | `UnitSphere()` | 0 | the ball of radius 1 |
    | `LayerNorm(gamma, delta)` | nearly 0 | a ball of mean 0 around `delta` |
    | `Tanh(beta)` | minus the entropy of the units | the box [-1, 1] |

    Where scores $\beta\, \Xi x$ have a gap of the margin after the best pattern (the best `k`), the
    unit step is exactly that pattern (their sum), and what `post` makes of it. All are in
    `amlib.continuous`; one of your own is one subclass of `AbstractRegularizer` or `AbstractPost`.

    A start outside the domain of `post` is moved into it. Other methods than `CCCP` move towards
    the unit step as others move along a gradient; `update` is the gradient all the same.

    **Arguments:**

    - `Xi`: stored patterns, see `ContinuousAM`.
    - `beta`: inverse temperature, > 0; trainable.
    - `regularizer`: what chooses, an `AbstractRegularizer`.
    - `post`: what follows, an `AbstractPost`.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar, or `regularizer` does not
    fit the number of patterns; `TypeError` for a regulariser or a post-transformation of another
    kind.

    **Reference:** Santos et al. 2024 (arXiv 2402.13725 and 2411.08590), with their $N$ as $K$.
    """

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)
    regularizer: AbstractRegularizer = eqx.field(default_factory=lambda: Entmax(1.5))
    post: AbstractPost = eqx.field(default_factory=Identity)

    def __check_init__(self):
        for name, kind in (("regularizer", AbstractRegularizer), ("post", AbstractPost)):
            value = getattr(self, name)
            if not isinstance(value, kind):
                example = "Entmax(1.5)" if name == "regularizer" else "UnitSphere()"
                raise TypeError(
                    f"HopfieldFenchelYoung: {name} must be an {kind.__name__}, such as "
                    f"am.continuous.{example}; {value!r} came."
                )
        self.regularizer.check(self.Xi.shape[0])

    def _parts(self) -> tuple[AbstractRegularizer, AbstractPost]:
        return self.regularizer, self.post


class SparseHopfield(AbstractFenchelYoung):
    r"""The Hopfield network of $\alpha$-entmax: exact retrieval by sparse weights.

    $$E(x) = -\frac{1}{\beta} \Omega_\alpha^*(\beta\, \Xi x) + \frac12 \|x\|^2
    + \frac{1}{\beta} \Omega_\alpha^*(0) + \frac12 M^2$$

    $\Omega^*_\alpha$ is the conjugate of the negative Tsallis entropy
    $\Omega_\alpha(p) = \frac{1}{\alpha(\alpha-1)} (\sum_\mu p_\mu^\alpha - 1)$ on the simplex. The
    unit step is $x \leftarrow \Xi^\top \alpha\text{-entmax}(\beta\, \Xi x)$: softmax for
    $\alpha = 1$ (then this is `ModernHopfield`, constants included), sparsemax for $\alpha = 2$.
    $0 \le E \le 2 M^2$ for $\|x\| \le M$. For $\alpha > 1$ a pattern whose separation exceeds
    $1/(\beta(\alpha-1))$ is retrieved exactly, not only exponentially close. Use it for exact
    recall, or to retrieve a small set of patterns together. It is `HopfieldFenchelYoung` with
    `Entmax(alpha)`, under the name and the arguments of the first papers.

    **Arguments:**

    - `Xi`: stored patterns, see `ContinuousAM`.
    - `beta`: inverse temperature, > 0; trainable.
    - `alpha`: sparsity, 1 to 2; trainable. To hold it fixed while training the rest, partition it
      out with `eqx.partition`.

    **Raises:** `ValueError` if `beta` is not a finite positive scalar or `alpha` is out of range.

    **Reference:** Hu et al. 2023 (sparsemax); Santos et al. 2024 (arXiv 2402.13725), with the
    constants chosen as in Ramsauer et al. 2021.
    """

    beta: Scalar = eqx.field(converter=checks.positive_field("beta"), default=1.0)
    alpha: Scalar = eqx.field(converter=entmax_alpha, default=1.5)

    def _parts(self) -> tuple[AbstractRegularizer, AbstractPost]:
        return Entmax(self.alpha), Identity()
