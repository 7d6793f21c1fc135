"""Learning: storage rules, losses, and one loop that trains any model."""

from amlib.learning.fit import OUTCOMES as OUTCOMES, FitResult as FitResult, fit as fit
