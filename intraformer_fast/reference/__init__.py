"""Plain PyTorch twins of every op and of the module: the specification. Float64-able, never optimised; imports torch alone."""

from intraformer_fast.reference.attention import (
    block_attention,
    correlation_attention,
    gather_block_attention,
    gather_correlation_attention,
)
from intraformer_fast.reference.decomposition import subcluster_bounds
from intraformer_fast.reference.intraformer import Intraformer
from intraformer_fast.reference.losses import purity_fmi, purity_fmi_means
from intraformer_fast.reference.quantization import quantized_linear

__all__ = [
    "Intraformer",
    "block_attention",
    "correlation_attention",
    "gather_block_attention",
    "gather_correlation_attention",
    "purity_fmi",
    "purity_fmi_means",
    "quantized_linear",
    "subcluster_bounds",
]
