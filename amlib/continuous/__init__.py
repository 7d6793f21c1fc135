"""Memories over reals: softmax, Gaussian, compact, sparse, kernel, distributed, and yours."""

from amlib.continuous.base import (
    AbstractContinuousAM as AbstractContinuousAM,
    ContinuousAM as ContinuousAM,
)
from amlib.continuous.distributed import DistributedMemory as DistributedMemory
from amlib.continuous.features import (
    AbstractFeatures as AbstractFeatures,
    Cos as Cos,
    Exp as Exp,
    ExpExp as ExpExp,
    SinCos as SinCos,
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
