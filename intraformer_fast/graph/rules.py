"""The rules that turn edge probabilities into clusters. Each returns an integer per sample, equal within a cluster.

An edge i -> j is kept when its probability exceeds the threshold. Rows are directed: j may list i or not, with another
probability. How a rule treats the direction is said at each.
"""

from typing import Any

import numpy as np
import scipy.sparse
import scipy.sparse.csgraph
import torch
from numpy.typing import NDArray

from intraformer_fast import native
from intraformer_fast.graph.table import BLOCK_ELEMENTS, Edges, NeighborTable


def components(table: Edges, threshold: float) -> NDArray[Any]:
    """Connected components of the edges kept in either direction."""
    kept = table.edges_above(threshold)
    return _connected(kept) if native.NOT_LOADED["cpu"] else _in_library("edge_components", kept, False)


def mutual(table: Edges, threshold: float) -> NDArray[Any]:
    """Connected components of the edges kept in both directions."""
    kept = table.edges_above(threshold)
    if native.NOT_LOADED["cpu"]:
        return _connected(kept.minimum(kept.T))
    return _in_library("edge_components", kept, True)


def intimacy(table: Edges, threshold: float, *, intimacy_threshold: float = 0.65) -> NDArray[Any]:
    """Connected components of the kept edges whose ends share most of their kept neighbors.

    The neighborhood of i is i itself and every j with a kept edge i -> j. An edge kept in either direction weighs
    max(c / deg_i, c / deg_j), with c the number of samples common to both neighborhoods and deg their sizes; it links
    when that exceeds `intimacy_threshold`. Because a sample belongs to its own neighborhood, two samples that keep only
    each other weigh 1, as every clique does, and `intimacy_threshold=0` gives `components`.

    Args:
        intimacy_threshold: in [0, 1]; default 0.65, Clusformer's (STAR-FC uses 0.72).
    """
    if not 0 <= intimacy_threshold <= 1:
        raise ValueError(f"intimacy_threshold must lie in [0, 1], got {intimacy_threshold}")
    kept = table.edges_above(threshold)
    if native.NOT_LOADED["cpu"]:
        return _intimate(kept, intimacy_threshold)
    return _in_library("intimacy_components", kept, float(intimacy_threshold))


def _in_library(name: str, kept: scipy.sparse.csr_array, option: float | bool) -> NDArray[Any]:
    """One int32 a node and, for the intimacy, a bit a node and thread; the edges are read where they lie, in memory or in a file."""
    starts, targets = kept.indptr.astype(np.int64, copy=False), kept.indices.astype(np.int32, copy=False)
    op = getattr(torch.ops.intraformer_fast, name).default
    return op(torch.from_numpy(starts), torch.from_numpy(targets), option).numpy()


def _intimate(kept: scipy.sparse.csr_array, threshold: float) -> NDArray[Any]:
    """The same without the native library."""
    kept = scipy.sparse.csr_array((np.ones(kept.nnz, dtype=np.float32), kept.indices, kept.indptr), shape=kept.shape)
    total = kept.shape[0]
    near = kept + scipy.sparse.eye_array(total, dtype=np.float32, format="csr")
    degree = np.diff(near.indptr)
    # The weight is symmetric, so each pair is counted once.
    first, second = scipy.sparse.triu(kept + kept.T, k=1).nonzero()
    common = np.empty(len(first), dtype=np.int64)
    # Pair by pair rather than by near @ near.T, which counts for all samples with a common neighbor: far more pairs.
    step = max(1, BLOCK_ELEMENTS // int(degree.max()))
    for start in range(0, len(first), step):
        block = slice(start, start + step)
        common[block] = near[first[block]].multiply(near[second[block]]).sum(axis=1)
    linked = common / np.minimum(degree[first], degree[second]) > threshold
    return _connected(_graph(first[linked], second[linked], total))


def density(table: NeighborTable, threshold: float) -> NDArray[Any]:
    """Each sample joins its nearest neighbor of higher confidence, if it keeps that edge; connected components.

    The confidence of i is the sum of similarity over the edges i -> j kept, minus the sum over those not kept. The
    nearest neighbor is that of the highest similarity, the lowest id among equals, out of those whose confidence is
    strictly higher. A sample without one, or whose edge to it is not kept, is the peak of a cluster. Equal confidences
    never join: exact duplicates whose neighborhoods are equal too stay apart unless both join a third.
    """
    confidence = np.empty(len(table), dtype=np.float64)
    for rows, edge in table.blocks():
        sign = np.where(table.probability[rows] > threshold, 1.0, -1.0)
        # Exact for float32 similarities: the order of the columns does not decide between equals.
        confidence[rows] = np.where(edge, sign * table.similarity[rows], 0.0).sum(axis=1)
    sources, targets = [], []
    for rows, edge in table.blocks():
        ids = table.neighbors[rows]
        higher = edge & (confidence[ids] > confidence[rows, None])
        similarity = np.where(higher, table.similarity[rows], -np.inf)
        nearest = higher & (similarity == similarity.max(axis=1, keepdims=True))
        column = np.where(nearest, ids, len(table)).argmin(axis=1)
        row = np.arange(len(ids))
        joins = nearest[row, column] & (table.probability[rows][row, column] > threshold)
        sources.append(rows.start + row[joins])
        targets.append(ids[row, column][joins])
    return _connected(_graph(np.concatenate(sources), np.concatenate(targets), len(table)))


def _graph(sources: NDArray[Any], targets: NDArray[Any], total: int) -> scipy.sparse.coo_array:
    return scipy.sparse.coo_array((np.ones(len(sources), dtype=np.float32), (sources, targets)), shape=(total, total))


def _connected(graph: scipy.sparse.sparray) -> NDArray[Any]:
    return scipy.sparse.csgraph.connected_components(graph, directed=False)[1]
