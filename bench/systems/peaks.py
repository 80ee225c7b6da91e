"""Clusters as trees: every sample joins one other, or is the root of its own."""

import numpy as np
import numpy.typing as npt

from intraformer_fast.graph import link
from intraformer_fast.pipeline import NeighborGraph

from .protocol import Labels


def nearest_higher(
    neighbors: npt.NDArray[np.int64], closeness: npt.NDArray[np.floating], height: npt.NDArray[np.floating]
) -> npt.NDArray[np.int64]:
    """The column of each sample's closest neighbour of strictly greater height, the first of equals: int64 [N]; -1 where none is.

    Args:
        neighbors: int64 [N, n]; -1 is padding.
        closeness: [N, n], more is closer.
        height: [N].
    """
    higher = (neighbors >= 0) & (height[neighbors] > height[:, None])
    best = np.where(higher, closeness, -np.inf).argmax(axis=1)
    return np.where(higher.any(axis=1), best, -1)


def join(parent: npt.NDArray[np.int64]) -> Labels:
    """Labels of the trees in which sample i hangs on `parent[i]`; -1 hangs on nothing."""
    neighbors = np.stack([np.arange(len(parent)), parent], axis=1)
    ones = np.ones(neighbors.shape, dtype=np.float32)
    return link(neighbors, ones, ones, rule="components")


def join_peaks(graph: NeighborGraph, height: npt.NDArray[np.floating], threshold: float) -> Labels:
    """Each sample joins its most similar neighbour of greater height, where their cosine exceeds the threshold."""
    return join(parents(graph, height, threshold))


def parents(graph: NeighborGraph, height: npt.NDArray[np.floating], threshold: float) -> npt.NDArray[np.int64]:
    """What `join_peaks` joins: for each sample an id, or -1."""
    column = nearest_higher(graph.neighbors, graph.similarity, height)
    rows = np.arange(len(column))
    joins = (column >= 0) & (graph.similarity[rows, column] > threshold)
    return np.where(joins, graph.neighbors[rows, column], -1)
