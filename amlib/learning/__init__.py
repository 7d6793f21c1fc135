"""Learning: storage rules, losses, and one loop that trains any model."""

from amlib.learning.classifier import DenseAMClassifier as DenseAMClassifier
from amlib.learning.fit import OUTCOMES as OUTCOMES, FitResult as FitResult, fit as fit
from amlib.learning.label_losses import (
    LabelCrossEntropy as LabelCrossEntropy,
    PowerLoss as PowerLoss,
)
from amlib.learning.optimizers import krotov_hopfield as krotov_hopfield
