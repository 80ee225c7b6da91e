"""Neighbor graphs: building them, their training targets, and linking them into clusters."""

from intraformer_fast.graph.knn import knn_graph
from intraformer_fast.graph.linking import LINK_RULES, link
from intraformer_fast.graph.targets import candidate_targets

__all__ = ["LINK_RULES", "candidate_targets", "knn_graph", "link"]
