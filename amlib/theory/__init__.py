"""What theory says of memories: functions of loads, temperatures and sizes, each with its source.

Numbers for large systems of random patterns, to be drawn over simulations, as the pages of
`benchmarks/results/theory.md` do.
"""

from amlib.theory.bounds import (
    CapacityConstants as CapacityConstants,
    capacity_constants as capacity_constants,
    retrieval_bound as retrieval_bound,
)
from amlib.theory.classical import (
    Retrieval as Retrieval,
    bit_error as bit_error,
    critical_load as critical_load,
    error_free_capacity as error_free_capacity,
    gardner_capacity as gardner_capacity,
    replica_temperature as replica_temperature,
    retrieval as retrieval,
    retrieval_temperature as retrieval_temperature,
    spin_glass_temperature as spin_glass_temperature,
    stability_temperature as stability_temperature,
)
from amlib.theory.dense import (
    biased_exponent as biased_exponent,
    error_probability as error_probability,
    exponential_stability as exponential_stability,
    exponential_threshold as exponential_threshold,
    polynomial_capacity as polynomial_capacity,
)
from amlib.theory.diffusion import (
    collapse_variance as collapse_variance,
    excess_entropy as excess_entropy,
    speciation_variance as speciation_variance,
)
from amlib.theory.landscapes import (
    merging_beta as merging_beta,
    ring_radius as ring_radius,
)
from amlib.theory.sequences import (
    sequence_capacity as sequence_capacity,
    transition_capacity as transition_capacity,
)
