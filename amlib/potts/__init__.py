"""Memories over units of several values: classical, polynomial, exponential, and yours."""

from amlib.potts.base import AbstractPottsAM as AbstractPottsAM, PottsAM as PottsAM
from amlib.potts.models import (
    ExponentialPottsAM as ExponentialPottsAM,
    PolynomialPottsAM as PolynomialPottsAM,
    PottsHopfield as PottsHopfield,
)
