"""Neighbor graphs: building them, and linking them into clusters."""

from intraformer_fast.graph.knn import knn_graph
from intraformer_fast.graph.linking import LINK_RULES, link
from intraformer_fast.graph.sharded import KnnShards, knn_shards

__all__ = ["LINK_RULES", "KnnShards", "knn_graph", "knn_shards", "link"]
