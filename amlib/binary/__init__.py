"""Memories over spins: classical, polynomial, exponential, of pairs, sets, sequences, and yours."""

from amlib.binary.base import AbstractBinaryAM as AbstractBinaryAM, BinaryAM as BinaryAM
from amlib.binary.bidirectional import (
    AbstractBidirectional as AbstractBidirectional,
    BidirectionalMemory as BidirectionalMemory,
    ExponentialBidirectional as ExponentialBidirectional,
    PolynomialBidirectional as PolynomialBidirectional,
)
from amlib.binary.interactions import (
    AbstractInteraction as AbstractInteraction,
    ExponentialInteraction as ExponentialInteraction,
    PolynomialInteraction as PolynomialInteraction,
)
from amlib.binary.models import (
    BipolarIsing as BipolarIsing,
    ClassicalHopfield as ClassicalHopfield,
    ExponentialDenseAM as ExponentialDenseAM,
    PolynomialDenseAM as PolynomialDenseAM,
)
from amlib.binary.playback import Playback as Playback
from amlib.binary.sequences import SequenceMemory as SequenceMemory
from amlib.binary.simplicial import SimplicialHopfield as SimplicialHopfield
