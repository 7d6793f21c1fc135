"""Memories over reals: softmax, Gaussian, compact, sparse, kernel, of parts, and yours."""

from amlib.continuous.attend import attention as attention
from amlib.continuous.base import (
    AbstractContinuousAM as AbstractContinuousAM,
    ContinuousAM as ContinuousAM,
)
from amlib.continuous.diffusion import (
    AbstractDiffusion as AbstractDiffusion,
    AtTime as AtTime,
    DiffusionMemory as DiffusionMemory,
)
from amlib.continuous.distributed import DistributedMemory as DistributedMemory
from amlib.continuous.features import (
    AbstractFeatures as AbstractFeatures,
    Cos as Cos,
    Exp as Exp,
    ExpExp as ExpExp,
    SinCos as SinCos,
)
from amlib.continuous.fenchel_young import (
    HopfieldFenchelYoung as HopfieldFenchelYoung,
    SparseHopfield as SparseHopfield,
)
from amlib.continuous.kernel import KernelMemory as KernelMemory
from amlib.continuous.models import (
    EpanechnikovMemory as EpanechnikovMemory,
    GaussianMemory as GaussianMemory,
    ModernHopfield as ModernHopfield,
    PolynomialMemory as PolynomialMemory,
)
from amlib.continuous.on_disk import OnDisk as OnDisk
from amlib.continuous.posts import (
    AbstractPost as AbstractPost,
    Identity as Identity,
    LayerNorm as LayerNorm,
    Tanh as Tanh,
    UnitSphere as UnitSphere,
)
from amlib.continuous.regularizers import (
    AbstractRegularizer as AbstractRegularizer,
    Entmax as Entmax,
    KSubsets as KSubsets,
    Normmax as Normmax,
    Softmax as Softmax,
    Sparsemax as Sparsemax,
)
from amlib.continuous.sequences import SequentialKSubsets as SequentialKSubsets
from amlib.continuous.simplex import entmax as entmax, normmax as normmax
from amlib.continuous.threshold import ThresholdMemory as ThresholdMemory
