"""Energy-based associative memories in JAX: write the energy, get the memory."""

from amlib import (
    analysis as analysis,
    cache as cache,
    data as data,
    descent as descent,
    plots as plots,
)
from amlib.binary import (
    AbstractBinaryAM as AbstractBinaryAM,
    BinaryAM as BinaryAM,
    BipolarIsing as BipolarIsing,
    ClassicalHopfield as ClassicalHopfield,
    ExponentialDenseAM as ExponentialDenseAM,
    PolynomialDenseAM as PolynomialDenseAM,
)
from amlib.continuous import (
    AbstractContinuousAM as AbstractContinuousAM,
    ContinuousAM as ContinuousAM,
    EpanechnikovMemory as EpanechnikovMemory,
    GaussianMemory as GaussianMemory,
    KernelMemory as KernelMemory,
    ModernHopfield as ModernHopfield,
    PolynomialMemory as PolynomialMemory,
    SparseHopfield as SparseHopfield,
    attention as attention,
)
from amlib.descent import (
    CCCP as CCCP,
    RESULTS as RESULTS,
    Box as Box,
    ContinuousTrajectory as ContinuousTrajectory,
    FixedPoint as FixedPoint,
    Flow as Flow,
    Frames as Frames,
    GradientDescent as GradientDescent,
    Recall as Recall,
    Sphere as Sphere,
    Trajectory as Trajectory,
)

__version__ = "0.1.0"
