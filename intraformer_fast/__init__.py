"""intraformer-fast: transformer-based visual clustering over k-NN graphs, with custom kernels."""

from intraformer_fast import data, functional, graph, metrics, nn, reference
from intraformer_fast.info import __version__, info

__all__ = ["__version__", "data", "functional", "graph", "info", "metrics", "nn", "reference"]
