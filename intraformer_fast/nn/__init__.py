"""Modules: the Intraformer and its losses."""

from intraformer_fast.nn.intraformer import Intraformer
from intraformer_fast.nn.losses import IntraformerLoss, LossTerms

__all__ = ["Intraformer", "IntraformerLoss", "LossTerms"]
