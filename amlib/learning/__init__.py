"""Learning: storage rules, reconstructors, losses, and one loop that trains any model."""

from amlib.learning import rules as rules
from amlib.learning.boltzmann import (
    HebbianLoss as HebbianLoss,
    HebbianRBMReconstructor as HebbianRBMReconstructor,
    RBMReconstructor as RBMReconstructor,
)
from amlib.learning.cellular import Conv2dReconstructor as Conv2dReconstructor
from amlib.learning.contrastive import (
    ContrastiveDivergence as ContrastiveDivergence,
    EquilibriumPropagation as EquilibriumPropagation,
    PersistentContrastiveDivergence as PersistentContrastiveDivergence,
)
from amlib.learning.fit import OUTCOMES as OUTCOMES, FitResult as FitResult, fit as fit
from amlib.learning.losses import (
    CrossEntropy as CrossEntropy,
    Denoising as Denoising,
    Reconstruction as Reconstruction,
    accuracy as accuracy,
    cross_entropy as cross_entropy,
)
from amlib.learning.reconstructors import (
    AbstractEnergyReconstructor as AbstractEnergyReconstructor,
    AbstractOverlapReconstructor as AbstractOverlapReconstructor,
    AbstractReconstructor as AbstractReconstructor,
    DenseReconstructor as DenseReconstructor,
    ModernDenseReconstructor as ModernDenseReconstructor,
    count_parameters as count_parameters,
)
from amlib.learning.relaxation import (
    ContinuousTimeHopfield as ContinuousTimeHopfield,
    DiscreteTimeHopfield as DiscreteTimeHopfield,
    ReconstructionLoss as ReconstructionLoss,
    Relaxation as Relaxation,
)
