"""Neighbor graphs: building them, and linking them into clusters."""

from intraformer_fast.graph.knn import knn_graph
from intraformer_fast.graph.linking import LINK_RULES, edge_floor, link, link_edges
from intraformer_fast.graph.sharded import KnnShards, knn_shards
from intraformer_fast.graph.table import SparseEdges

__all__ = ["LINK_RULES", "KnnShards", "SparseEdges", "edge_floor", "knn_graph", "knn_shards", "link", "link_edges"]
