"""Engines that lower any scalar function. They know no model."""

from amlib.descent.backward import (
    AbstractBackward as AbstractBackward,
    ProbabilityFlow as ProbabilityFlow,
    ReverseSDE as ReverseSDE,
)
from amlib.descent.evaluators import AbstractFlips as AbstractFlips
from amlib.descent.flip_problem import (
    AbstractFlipProblem as AbstractFlipProblem,
    FlipProblem as FlipProblem,
    OfChange as OfChange,
    Sweep as Sweep,
    Visits as Visits,
)
from amlib.descent.flips import AbstractFlipMethod as AbstractFlipMethod
from amlib.descent.frames import Frames as Frames
from amlib.descent.gradients import (
    CCCP as CCCP,
    MALA as MALA,
    AbstractRealSampler as AbstractRealSampler,
    Euler as Euler,
    GradientDescent as GradientDescent,
    Langevin as Langevin,
)
from amlib.descent.informed import (
    DMALA as DMALA,
    AbstractInformedSampler as AbstractInformedSampler,
    GibbsWithGradients as GibbsWithGradients,
)
from amlib.descent.methods import (
    AbstractMethod as AbstractMethod,
    AbstractRealMethod as AbstractRealMethod,
    descend as descend,
)
from amlib.descent.orders import (
    AbstractOrder as AbstractOrder,
    Colours as Colours,
    Exchange as Exchange,
    Permutation as Permutation,
    Random as Random,
    Sequential as Sequential,
)
from amlib.descent.plan import FlipPlan as FlipPlan
from amlib.descent.problems import Point as Point, Problem as Problem
from amlib.descent.samplers import (
    AbstractFlipSampler as AbstractFlipSampler,
    AbstractSampler as AbstractSampler,
    Glauber as Glauber,
    Metropolis as Metropolis,
)
from amlib.descent.sites import SiteProblem as SiteProblem
from amlib.descent.steady import FixedPoint as FixedPoint, Flow as Flow
from amlib.descent.sweeps import (
    Greedy as Greedy,
    Sweeps as Sweeps,
    Synchronous as Synchronous,
)
from amlib.descent.trajectory import (
    RESULTS as RESULTS,
    Recall as Recall,
    StateTrajectory as StateTrajectory,
    Trajectory as Trajectory,
)
