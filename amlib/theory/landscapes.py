"""Landscapes of log-sum-exps: where minima lie, and where they merge."""

from scipy import special

from amlib.theory._solve import positive, root


def ring_radius(beta: float | int) -> float:
    r"""Where the minima of a `GaussianMemory` lie that stores a whole circle of radius 1.

    $$R = \frac{I_1(\beta R)}{I_0(\beta R)}$$

    from $E(R) = \frac12 (R^2 + 1) - \frac{1}{\beta} \ln I_0(\beta R)$: the centre up to
    $\beta = 2$, a ring beyond. (Without the halves, as it is published, `beta` is half as large.)

    **Arguments:**

    - `beta`: inverse variance, above 0, in units of one over the squared radius.

    **Returns:** the radius, in [0, 1).
    """
    positive(beta, "ring_radius: beta")
    if beta <= 2:
        return 0.0
    return root(lambda R: float(special.i1e(beta * R) / special.i0e(beta * R)) - R, 1e-9, 1.0)


def merging_beta(distance: float | int) -> float:
    r"""Up to which `beta` two patterns of a `GaussianMemory` have one minimum: $4 / d^2$.

    Of a diffusion process of variance $\sigma^2 t = 1/\beta$: they merge at $\sigma^2 t = d^2/4$.

    **Arguments:**

    - `distance`: $d$, that of the two patterns, above 0.
    """
    positive(float(distance), "merging_beta: distance")
    return 4 / float(distance) ** 2
