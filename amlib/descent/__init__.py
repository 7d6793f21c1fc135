"""Engines that lower any scalar function. They know no model."""

from amlib.descent.evaluators import AbstractFlips as AbstractFlips
from amlib.descent.flows import (
    CCCP as CCCP,
    AbstractMethod as AbstractMethod,
    Box as Box,
    FixedPoint as FixedPoint,
    Flow as Flow,
    GradientDescent as GradientDescent,
    Sphere as Sphere,
    descend as descend,
)
from amlib.descent.plan import FlipPlan as FlipPlan
from amlib.descent.trajectory import (
    RESULTS as RESULTS,
    ContinuousTrajectory as ContinuousTrajectory,
    Frames as Frames,
    Recall as Recall,
    Trajectory as Trajectory,
)
