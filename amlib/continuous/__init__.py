"""Memories over real-valued states: softmax, Gaussian, compact, sparse, kernel, and yours."""

from amlib.continuous.attend import attention as attention
from amlib.continuous.base import (
    AbstractContinuousAM as AbstractContinuousAM,
    ContinuousAM as ContinuousAM,
)
from amlib.continuous.kernel import KernelMemory as KernelMemory
from amlib.continuous.models import (
    EpanechnikovMemory as EpanechnikovMemory,
    GaussianMemory as GaussianMemory,
    ModernHopfield as ModernHopfield,
    PolynomialMemory as PolynomialMemory,
)
from amlib.continuous.on_disk import OnDisk as OnDisk
from amlib.continuous.sparse import SparseHopfield as SparseHopfield, entmax as entmax
