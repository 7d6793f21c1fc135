"""Learning: storage rules, losses, and one loop that trains any model."""

from amlib.learning import rules as rules
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
