"""Energy-based associative memories in JAX: write the energy, get the memory."""

from amlib import _interrupt as _interrupt  # first: the other imports take seconds

# isort: split
from typing import TYPE_CHECKING

from amlib import (
    cache as cache,
    continuous as continuous,
    data as data,
    descent as descent,
    hierarchical as hierarchical,
    learning as learning,
    nn as nn,
    potts as potts,
    spaces as spaces,
)
from amlib._files import load as load, save as save
from amlib._lazy import __dir__ as __dir__, __getattr__ as __getattr__
from amlib.binary import (
    AbstractBidirectional as AbstractBidirectional,
    AbstractBinaryAM as AbstractBinaryAM,
    AbstractInteraction as AbstractInteraction,
    BidirectionalMemory as BidirectionalMemory,
    BinaryAM as BinaryAM,
    BipolarIsing as BipolarIsing,
    ClassicalHopfield as ClassicalHopfield,
    ExponentialBidirectional as ExponentialBidirectional,
    ExponentialDenseAM as ExponentialDenseAM,
    ExponentialInteraction as ExponentialInteraction,
    Playback as Playback,
    PolynomialBidirectional as PolynomialBidirectional,
    PolynomialDenseAM as PolynomialDenseAM,
    PolynomialInteraction as PolynomialInteraction,
    SequenceMemory as SequenceMemory,
    SimplicialHopfield as SimplicialHopfield,
)
from amlib.continuous import (
    AbstractContinuousAM as AbstractContinuousAM,
    AbstractDiffusion as AbstractDiffusion,
    ContinuousAM as ContinuousAM,
    DiffusionMemory as DiffusionMemory,
    DistributedMemory as DistributedMemory,
    EpanechnikovMemory as EpanechnikovMemory,
    GaussianMemory as GaussianMemory,
    HopfieldFenchelYoung as HopfieldFenchelYoung,
    KernelMemory as KernelMemory,
    ModernHopfield as ModernHopfield,
    OnDisk as OnDisk,
    PolynomialMemory as PolynomialMemory,
    SparseHopfield as SparseHopfield,
    ThresholdMemory as ThresholdMemory,
    attention as attention,
)
from amlib.descent import (
    CCCP as CCCP,
    DMALA as DMALA,
    MALA as MALA,
    RESULTS as RESULTS,
    AbstractFlipMethod as AbstractFlipMethod,
    AbstractOrder as AbstractOrder,
    AbstractRealMethod as AbstractRealMethod,
    Euler as Euler,
    FixedPoint as FixedPoint,
    Flow as Flow,
    Frames as Frames,
    GibbsWithGradients as GibbsWithGradients,
    Glauber as Glauber,
    GradientDescent as GradientDescent,
    Greedy as Greedy,
    Langevin as Langevin,
    Metropolis as Metropolis,
    ProbabilityFlow as ProbabilityFlow,
    Recall as Recall,
    ReverseSDE as ReverseSDE,
    StateTrajectory as StateTrajectory,
    Sweeps as Sweeps,
    Synchronous as Synchronous,
    Trajectory as Trajectory,
)
from amlib.hierarchical import (
    HAM as HAM,
    AbstractSynapse as AbstractSynapse,
    AttentionSynapse as AttentionSynapse,
    BiasSynapse as BiasSynapse,
    Connection as Connection,
    ConvPoolSynapse as ConvPoolSynapse,
    ConvSynapse as ConvSynapse,
    CoreEuler as CoreEuler,
    DenseMatrixSynapse as DenseMatrixSynapse,
    DenseSynapse as DenseSynapse,
    DenseTensorSynapse as DenseTensorSynapse,
    EnergyTransformer as EnergyTransformer,
    ExpLayer as ExpLayer,
    GhostmaxLayer as GhostmaxLayer,
    IdentityLayer as IdentityLayer,
    ImageEnergyTransformer as ImageEnergyTransformer,
    Lagrangian as Lagrangian,
    LayerNormLayer as LayerNormLayer,
    LinearSynapse as LinearSynapse,
    LinearSynapseWithBias as LinearSynapseWithBias,
    MixerSynapse as MixerSynapse,
    NeuronLayer as NeuronLayer,
    ReluLayer as ReluLayer,
    RepuLayer as RepuLayer,
    RexpLayer as RexpLayer,
    SigmoidLayer as SigmoidLayer,
    SoftmaxLayer as SoftmaxLayer,
    SphericalNormLayer as SphericalNormLayer,
    TanhLayer as TanhLayer,
    VectorizedHAM as VectorizedHAM,
    lagr_exp as lagr_exp,
    lagr_ghostmax as lagr_ghostmax,
    lagr_identity as lagr_identity,
    lagr_layernorm as lagr_layernorm,
    lagr_relu as lagr_relu,
    lagr_repu as lagr_repu,
    lagr_rexp as lagr_rexp,
    lagr_sigmoid as lagr_sigmoid,
    lagr_softmax as lagr_softmax,
    lagr_spherical_norm as lagr_spherical_norm,
    lagr_tanh as lagr_tanh,
)
from amlib.learning import (
    ContinuousTimeHopfield as ContinuousTimeHopfield,
    Conv2dReconstructor as Conv2dReconstructor,
    DenseReconstructor as DenseReconstructor,
    DiscreteTimeHopfield as DiscreteTimeHopfield,
    HebbianRBMReconstructor as HebbianRBMReconstructor,
    ModernDenseReconstructor as ModernDenseReconstructor,
    RBMReconstructor as RBMReconstructor,
    Relax as Relax,
    fit as fit,
)
from amlib.memory import AbstractMemory as AbstractMemory
from amlib.potts import (
    AbstractPottsAM as AbstractPottsAM,
    ExponentialPottsAM as ExponentialPottsAM,
    PolynomialPottsAM as PolynomialPottsAM,
    PottsAM as PottsAM,
    PottsHopfield as PottsHopfield,
)
from amlib.sharding import shard as shard
from amlib.spaces import (
    Bits as Bits,
    Box as Box,
    Reals as Reals,
    Sphere as Sphere,
    Spins as Spins,
    Values as Values,
)

if TYPE_CHECKING:  # rooms of `amlib._lazy`
    from amlib import (
        analysis as analysis,
        plots as plots,
        sampling as sampling,
        theory as theory,
    )

__version__ = "0.2.0"
