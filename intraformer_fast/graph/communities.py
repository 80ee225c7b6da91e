"""Linking by communities of a weighted graph, found by optional packages."""

from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.graph.table import BLOCK_ELEMENTS, Edges

SYMMETRIZATIONS = ("min", "mean", "agreement")

AGREEMENT_FLOOR = 0.1
"""Mean probabilities up to this add nothing to an agreement but work."""


def communities(
    table: Edges,
    threshold: float,
    *,
    method: str = "louvain",
    resolution: float | None = None,
    symmetrize: str = "min",
    seed: int = 0,
) -> NDArray[Any]:
    """Communities of the undirected graph of edge weights above the threshold.

    Results repeat for equal input and seed.

    Args:
        method: "louvain" (default) or "leiden": modularity, by scikit-network; "infomap": two-level map equation, by
            the package infomap (AGPL).
        resolution: of the modularity, positive; more gives smaller clusters. Default 1, which merges small classes of a
            large set (good values on 600 classes of some 36 were 60 to 100): choose it on validation data, and let it grow
            with the number of samples. Infomap has none.
        symmetrize: how the probabilities of an edge become its weight, see `edge_weights`; "min" by default.
        seed: not negative; default 0.

    Raises:
        ValueError: an option outside the above.
        MissingDependencyError: the package of the method is not installed.
    """
    if symmetrize not in SYMMETRIZATIONS:
        raise ValueError(f"symmetrize must be one of {', '.join(map(repr, SYMMETRIZATIONS))}, got {symmetrize!r}")
    # Where both ends have to exceed the threshold, edges below it are needed no more.
    floor = threshold if symmetrize == "min" else 0.0
    return partition(edge_weights(table, symmetrize, floor), threshold, method=method, resolution=resolution, seed=seed)


def edge_weights(table: Edges, symmetrize: str, floor: float = 0.0) -> scipy.sparse.csr_array:
    """The symmetric weights of the edges of probability > floor, [N, N].

    An edge that only one end lists has probability 0 from the other. With p_ij the mean of the two directions and p_ii = 1,

        "min":        min of the two directions
        "mean":       p_ij
        "agreement":  sum_l p_il p_jl / (|p_i| |p_j|), the cosine of the two predicted clusters, on the edges of the mean

    The agreement is a soft form of the intimacy: two samples belong together as far as their predicted clusters do.
    """
    listed = table.edges_above(floor)
    if symmetrize == "min":
        return listed.minimum(listed.T).tocsr()
    mean = ((listed + listed.T) / 2).tocsr()
    if symmetrize == "mean":
        return mean
    mean = _above(mean, AGREEMENT_FLOOR)
    predicted = (mean + scipy.sparse.eye_array(len(table), dtype=mean.dtype)).tocsr()
    norm = np.sqrt(predicted.power(2).sum(axis=1))
    predicted.data /= np.repeat(norm, np.diff(predicted.indptr))
    by_neighbor = predicted.T.tocsr()
    edges = mean.astype(bool)
    # Products of a row: the neighbors of its neighbors, so that a sample that many list makes their rows costly. As many rows go
    # together as BLOCK_ELEMENTS allows, one at least.
    degree = np.diff(predicted.indptr).astype(np.int64)
    products = np.cumsum(np.add.reduceat(degree[predicted.indices], predicted.indptr[:-1]))
    blocks, start = [], 0
    while start < len(table):
        done = products[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(products, done + BLOCK_ELEMENTS, side="right")))
        blocks.append((predicted[start:stop] @ by_neighbor).multiply(edges[start:stop]))
        start = stop
    return scipy.sparse.vstack(blocks, format="csr")


def partition(
    weights: scipy.sparse.csr_array,
    threshold: float,
    *,
    method: str = "louvain",
    resolution: float | None = None,
    seed: int = 0,
) -> NDArray[Any]:
    """Communities of the edges whose weight is greater than the threshold; options and errors as `communities`."""
    if method not in ("louvain", "leiden", "infomap"):
        raise ValueError(f"method must be 'louvain', 'leiden' or 'infomap', got {method!r}")
    if resolution is not None and method == "infomap":
        raise ValueError("method='infomap' has no resolution: leave it out, or choose 'louvain' or 'leiden'")
    if resolution is not None and not 0 < resolution < np.inf:
        raise ValueError(f"resolution must be positive and finite, got {resolution}")
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    graph = _above(weights, threshold)
    if method == "infomap":
        return _infomap(graph, seed)
    return _modularity(graph, method, 1.0 if resolution is None else resolution, seed)


def _above(weights: scipy.sparse.csr_array, threshold: float) -> scipy.sparse.csr_array:
    kept = weights.copy()
    kept.data[kept.data <= threshold] = 0
    kept.eliminate_zeros()
    return kept


def _modularity(graph: scipy.sparse.csr_array, method: str, resolution: float, seed: int) -> NDArray[Any]:
    try:
        from sknetwork.clustering import Leiden, Louvain
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "scikit-network", "communities", f"link(rule='communities', method={method!r})"
        ) from error
    if graph.nnz == 0:  # which scikit-network refuses
        return np.arange(graph.shape[0])
    algorithm = Louvain if method == "louvain" else Leiden
    # csr_matrix because scikit-network knows no sparse arrays.
    return algorithm(resolution=resolution, random_state=seed).fit_predict(scipy.sparse.csr_matrix(graph))


def _infomap(graph: scipy.sparse.csr_array, seed: int) -> NDArray[Any]:
    try:
        from infomap import Infomap
    except ModuleNotFoundError as error:
        raise MissingDependencyError("infomap", "infomap", "link(rule='communities', method='infomap')") from error
    labels = np.arange(graph.shape[0])
    if graph.nnz == 0:
        return labels
    edges = scipy.sparse.triu(graph, k=1).tocoo()
    found = Infomap(silent=True, two_level=True, seed=seed + 1)  # its seeds start at 1
    found.add_links(zip(edges.row.tolist(), edges.col.tolist(), edges.data.tolist(), strict=True))
    result = found.run()
    modules = found.get_modules() if result is None else result.modules()  # None before infomap 2.14
    # Infomap sees only samples with an edge. Its modules count from 1: negated they cannot meet a singleton's id.
    labels[list(modules)] = [-module for module in modules.values()]
    return labels
