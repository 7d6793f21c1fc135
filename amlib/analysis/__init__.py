"""Measurements on memories: retrieval curves, minima, basins, barriers, spectra, bifurcations.

Everything here takes plain arrays, finished recalls, memories, or a function that makes a memory,
and serves binary and continuous memories alike. Results are tidy tables: named tuples of arrays.
"""

from amlib.analysis.barriers import (
    Barrier as Barrier,
    Passes as Passes,
    barrier as barrier,
    passes as passes,
)
from amlib.analysis.basins import Basin as Basin, basin as basin
from amlib.analysis.branches import (
    Bifurcations as Bifurcations,
    Branches as Branches,
    bifurcations as bifurcations,
)
from amlib.analysis.census import FixedPoints as FixedPoints, fixed_points as fixed_points
from amlib.analysis.curves import (
    RetrievalCurve as RetrievalCurve,
    retrieval_curve as retrieval_curve,
)
from amlib.analysis.measures import (
    cosine as cosine,
    metastable_size as metastable_size,
    separation as separation,
)
from amlib.analysis.spectrum import (
    HessianSpectrum as HessianSpectrum,
    hessian_spectrum as hessian_spectrum,
)
