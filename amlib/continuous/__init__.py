"""Memories over real-valued states: softmax, Gaussian, compact, sparse, kernel, and yours."""

from amlib.continuous.base import (
    AbstractContinuousAM as AbstractContinuousAM,
    ContinuousAM as ContinuousAM,
)
from amlib.continuous.diffusion import (
    AbstractDiffusion as AbstractDiffusion,
    AtTime as AtTime,
    DiffusionMemory as DiffusionMemory,
)
from amlib.continuous.kernel import KernelMemory as KernelMemory
from amlib.continuous.models import (
    EpanechnikovMemory as EpanechnikovMemory,
    GaussianMemory as GaussianMemory,
    ModernHopfield as ModernHopfield,
    PolynomialMemory as PolynomialMemory,
    attention as attention,
)
from amlib.continuous.on_disk import OnDisk as OnDisk
from amlib.continuous.sparse import SparseHopfield as SparseHopfield, entmax as entmax
