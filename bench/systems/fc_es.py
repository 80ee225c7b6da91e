"""FC-ES, the unsupervised part of FC-ESER: edges by how much of two samples' neighbourhoods is common, then Infomap."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse

from intraformer_fast.pipeline import NeighborGraph

from .common_neighbors import common_sums
from .knn_infomap import infomap
from .protocol import Fitted, Labels, choose


def transition(graph: NeighborGraph, temperature: float) -> npt.NDArray[np.float32]:
    """p_ij = exp(-(2 - 2 cos_ij) / temperature) over the neighbours of i, itself included, rows of sum 1: float32 [N, n]."""
    p = np.where(graph.neighbors >= 0, np.exp((2 * graph.similarity - 2) / temperature), 0)
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def neighbor_edge_probability(neighbors: npt.NDArray[np.int64], p: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """NEP_ij = 1/2 sum over the common neighbours l of i and j of (p_il + p_jl), of all edges i -> j: float32 [N, n]."""
    ones = np.ones_like(p)
    return np.float32(0.5) * (common_sums(neighbors, p, ones) + common_sums(neighbors, ones, p))


def until_first_below(values: npt.NDArray[np.floating], threshold: float) -> npt.NDArray[np.bool_]:
    """Of each row [N, n] the entries before its first below the threshold."""
    return np.logical_and.accumulate(values >= threshold, axis=1)


@dataclass(frozen=True)
class FcEs:
    """Hyper-parameters.

    Attributes:
        temperature: of the transition probabilities.
        thresholds: of the edge probability, that validation chooses from; the paper has 0.22.
    """

    temperature: float = 0.5
    thresholds: tuple[float, ...] = (0.1, 0.15, 0.22, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        def probability(graph: NeighborGraph) -> npt.NDArray[np.float32]:
            return neighbor_edge_probability(graph.neighbors, transition(graph, self.temperature))

        def cluster(graph: NeighborGraph, nep: npt.NDArray[np.float32], threshold: float) -> Labels:
            own = graph.neighbors == np.arange(len(graph.neighbors))[:, None]
            kept = until_first_below(np.where(own, 1, nep), threshold) & (graph.neighbors >= 0) & ~own
            rows, columns = np.nonzero(kept)
            entries = (nep[rows, columns], (rows, graph.neighbors[rows, columns]))
            edges = scipy.sparse.csr_array(entries, shape=(len(nep), len(nep)))
            return infomap(edges.maximum(edges.T).tocsr())

        known = probability(validation)
        threshold = choose(self.thresholds, lambda t: cluster(validation, known, t), validation)
        return Fitted(
            lambda graph: cluster(graph, probability(graph), threshold), f"edge probability at least {threshold}"
        )
