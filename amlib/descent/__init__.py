"""Engines that lower any scalar function. They know no model."""

from amlib.descent.incremental import FlipEvaluator as FlipEvaluator
from amlib.descent.trajectory import (
    RESULTS as RESULTS,
    Frames as Frames,
    Recall as Recall,
    Trajectory as Trajectory,
)
