"""Modules: the Intraformer and its losses, and parts for other models."""

from intraformer_fast.nn.attention import BlockSelfAttention, CorrelationAttention
from intraformer_fast.nn.encoder_layer import FusedEncoderLayer
from intraformer_fast.nn.intraformer import Intraformer
from intraformer_fast.nn.losses import IntraformerLoss, LossTerms

__all__ = [
    "BlockSelfAttention",
    "CorrelationAttention",
    "FusedEncoderLayer",
    "Intraformer",
    "IntraformerLoss",
    "LossTerms",
]
