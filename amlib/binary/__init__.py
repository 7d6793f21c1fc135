"""Memories over spins: classical, polynomial, exponential, of pairs, of sets, and yours."""

from amlib.binary.base import AbstractBinaryAM as AbstractBinaryAM, BinaryAM as BinaryAM
from amlib.binary.bidirectional import (
    AbstractBidirectional as AbstractBidirectional,
    BidirectionalMemory as BidirectionalMemory,
    ExponentialBidirectional as ExponentialBidirectional,
    PolynomialBidirectional as PolynomialBidirectional,
)
from amlib.binary.models import (
    BipolarIsing as BipolarIsing,
    ClassicalHopfield as ClassicalHopfield,
    ExponentialDenseAM as ExponentialDenseAM,
    PolynomialDenseAM as PolynomialDenseAM,
)
from amlib.binary.simplicial import SimplicialHopfield as SimplicialHopfield
