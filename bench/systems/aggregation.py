"""The mean aggregation of the graph convolutions: [x, A x] with A a row-normalised affinity."""

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from intraformer_fast.pipeline import NeighborGraph


def edge_matrix(graph: NeighborGraph, *, width: int | None = None) -> scipy.sparse.csr_array:
    """The cosines of the directed edges i -> neighbors[i, j], [N, N]; negative ones, padding and the sample itself are none.

    Args:
        graph: of N samples.
        width: columns of the graph that count, the sample itself included. None: all.
    """
    neighbors, similarity = graph.neighbors[:, :width], graph.similarity[:, :width]
    rows, columns = np.nonzero((neighbors >= 0) & (neighbors != np.arange(len(neighbors))[:, None]) & (similarity > 0))
    entries = (similarity[rows, columns], (rows, neighbors[rows, columns]))
    return scipy.sparse.csr_array(entries, shape=(len(neighbors), len(neighbors)))


def affinity(graph: NeighborGraph) -> scipy.sparse.csr_array:
    """A [N, N]: the larger of the two directions' cosines, 1 on the diagonal, rows of sum 1."""
    edges = edge_matrix(graph)
    weights = (edges.maximum(edges.T) + scipy.sparse.eye_array(len(graph.labels), dtype=np.float32)).tocsr()
    return scipy.sparse.csr_array(weights.multiply(1 / weights.sum(axis=1)[:, None]), dtype=np.float32)


def with_mean(graph: NeighborGraph) -> Tensor:
    """[x, A x], float32 [N, 2d]: all that a first layer reads of the graph, made once."""
    x = np.asarray(graph.features, dtype=np.float32)
    return torch.from_numpy(np.concatenate([x, affinity(graph) @ x], axis=1))
