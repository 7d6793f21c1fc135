"""Learning: storage rules, the classifier, reconstructors, losses, and the loop that trains."""

from amlib.learning import rules as rules
from amlib.learning.base import (
    AbstractGradientLoss as AbstractGradientLoss,
    AbstractLoss as AbstractLoss,
    AbstractStatefulLoss as AbstractStatefulLoss,
)
from amlib.learning.boltzmann import (
    HebbianLoss as HebbianLoss,
    HebbianRBMReconstructor as HebbianRBMReconstructor,
    RBMReconstructor as RBMReconstructor,
)
from amlib.learning.cellular import Conv2dReconstructor as Conv2dReconstructor
from amlib.learning.classifier import DenseAMClassifier as DenseAMClassifier
from amlib.learning.contrastive import (
    ContrastiveDivergence as ContrastiveDivergence,
    EquilibriumPropagation as EquilibriumPropagation,
    PersistentContrastiveDivergence as PersistentContrastiveDivergence,
)
from amlib.learning.dense import (
    DenseReconstructor as DenseReconstructor,
    ModernDenseReconstructor as ModernDenseReconstructor,
    count_parameters as count_parameters,
)
from amlib.learning.diffusion import (
    DenoisingScoreMatching as DenoisingScoreMatching,
    DiffusionNetwork as DiffusionNetwork,
)
from amlib.learning.fit import (
    OUTCOMES as OUTCOMES,
    FitResult as FitResult,
    averaged as averaged,
    fit as fit,
)
from amlib.learning.losses import (
    CrossEntropy as CrossEntropy,
    Denoising as Denoising,
    MaskedPatches as MaskedPatches,
    PowerLoss as PowerLoss,
    Regression as Regression,
    accuracy as accuracy,
)
from amlib.learning.maps import Relax as Relax
from amlib.learning.optimizers import (
    krotov_hopfield as krotov_hopfield,
    moving_average as moving_average,
)
from amlib.learning.reconstructors import (
    AbstractEnergyReconstructor as AbstractEnergyReconstructor,
    AbstractOverlapReconstructor as AbstractOverlapReconstructor,
    AbstractReconstructor as AbstractReconstructor,
)
from amlib.learning.relaxation import (
    ContinuousTimeHopfield as ContinuousTimeHopfield,
    DiscreteTimeHopfield as DiscreteTimeHopfield,
    ReconstructionLoss as ReconstructionLoss,
)
