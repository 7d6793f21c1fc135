"""Energy-based associative memories in JAX: write the energy, get the memory."""

from amlib import data as data, descent as descent, plots as plots
from amlib.binary import (
    AbstractBinaryAM as AbstractBinaryAM,
    BinaryAM as BinaryAM,
    BipolarIsing as BipolarIsing,
    ClassicalHopfield as ClassicalHopfield,
    ExponentialDenseAM as ExponentialDenseAM,
    PolynomialDenseAM as PolynomialDenseAM,
)
from amlib.descent import (
    RESULTS as RESULTS,
    Frames as Frames,
    Recall as Recall,
    Trajectory as Trajectory,
)

__version__ = "0.1.0"
