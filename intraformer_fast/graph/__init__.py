"""Neighbor graphs: building them, and linking them into clusters."""

from intraformer_fast.graph.knn import knn_graph
from intraformer_fast.graph.linking import LINK_RULES, link

__all__ = ["LINK_RULES", "knn_graph", "link"]
