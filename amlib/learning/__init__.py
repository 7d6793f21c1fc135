"""Learning: storage rules, the classifier, reconstructors, losses, and the loop that trains."""

from amlib.learning import rules as rules
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
from amlib.learning.fit import OUTCOMES as OUTCOMES, FitResult as FitResult, fit as fit
from amlib.learning.label_losses import (
    LabelCrossEntropy as LabelCrossEntropy,
    PowerLoss as PowerLoss,
)
from amlib.learning.losses import (
    CrossEntropy as CrossEntropy,
    Denoising as Denoising,
    Reconstruction as Reconstruction,
    accuracy as accuracy,
    cross_entropy as cross_entropy,
)
from amlib.learning.maps import Relax as Relax
from amlib.learning.optimizers import krotov_hopfield as krotov_hopfield
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
)
