"""Infomap on the raw k-NN graph: no training, and stronger than most of the learned systems."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from intraformer_fast.graph.communities import partition
from intraformer_fast.pipeline import NeighborGraph

from .aggregation import edge_matrix
from .protocol import Fitted, Labels, choose


def infomap(weights: scipy.sparse.csr_array, threshold: float = 0.0) -> Labels:
    """The two-level modules of the undirected graph of weights [N, N] above the threshold; a sample without an edge is its own.

    Raises:
        MissingDependencyError: infomap is not installed. It is AGPL-3.0 (or commercial), so nothing pulls it in.
    """
    return np.asarray(partition(weights, threshold, method="infomap"), dtype=np.int64)


@dataclass(frozen=True)
class KnnInfomap:
    """Hyper-parameters.

    Attributes:
        width: neighbours of a sample, itself included.
        thresholds: cosines that validation chooses from; 0.58 suits the features of the papers.
    """

    width: int = 50
    thresholds: tuple[float, ...] = (0.4, 0.5, 0.58, 0.65, 0.7, 0.75, 0.8)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        def cluster(graph: NeighborGraph, threshold: float) -> Labels:
            edges = edge_matrix(graph, width=self.width)
            return infomap(edges.maximum(edges.T).tocsr(), threshold)

        threshold = choose(self.thresholds, lambda t: cluster(validation, t), validation)
        return Fitted(lambda graph: cluster(graph, threshold), f"cosine above {threshold}")
