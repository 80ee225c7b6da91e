"""Training an Intraformer: settings, the loop with its checkpoints, and the watch for collapse."""

from intraformer_fast.training.config import TrainingConfig
from intraformer_fast.training.loop import TrainingResult, ValidationSet, train
from intraformer_fast.training.monitoring import CollapseWarning, EdgeScores

__all__ = ["CollapseWarning", "EdgeScores", "TrainingConfig", "TrainingResult", "ValidationSet", "train"]
