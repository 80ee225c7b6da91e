"""Classical clusterings of the same features, for the tables beside the Intraformer.

Nothing here looks at a label: thresholds, cut-offs and numbers of clusters come from the caller. The methods on the
neighbor graph take `neighbors` int64 [N, n] and `similarity` float32 [N, n] as `graph.knn_graph` returns them; those on
features take `features` float32 [N, d], L2-normalized. Labels are int64 [N]; -1 is noise.
"""

import numpy as np
import numpy.typing as npt
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array, csgraph

from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.graph import link

MAX_LINKAGE_SAMPLES = 30_000
"""Samples up to which average linkage is tried: all pairs in float64, twice, are then 7.2 GB."""

FARTHEST = 2.0
"""Euclidean distance of two opposite unit vectors: no pair of samples is farther apart."""

NEAREST = 1e-6
"""Distance given to duplicates: a sparse matrix drops a distance of 0, as if the two were not neighbors."""


def connected_components(
    neighbors: npt.NDArray[np.int64], similarity: npt.NDArray[np.float32], threshold: float
) -> npt.NDArray[np.int64]:
    """Connected components of the neighbor graph over its edges with a cosine above `threshold`, in [0, 1].

    Raises as `graph.link` does, whose rule "components" this is.
    """
    return link(neighbors, similarity, np.clip(similarity, 0, 1), rule="components", threshold=threshold)


def rank_cutoff_probability(neighbors: npt.NDArray[np.int64], r: int) -> npt.NDArray[np.float32]:
    """Probability 1 for the first `r` neighbors of every sample (itself counted) and 0 for the rest: float32 [N, n].

    What a network collapsed to one constant answer predicts; it is linked by the same rule as the model beside it.

    Raises:
        ValueError: `r` is below 1 or above n.
    """
    width = neighbors.shape[1]
    if not 1 <= r <= width:
        raise ValueError(f"r is {r}; the rank cut-off must lie between 1 and the {width} neighbors of a sample.")
    return ((np.arange(width) < r) & (neighbors >= 0)).astype(np.float32)


def kmeans(features: npt.NDArray[np.float32], num_clusters: int, seed: int = 0) -> npt.NDArray[np.int64]:
    """k-means with the number of clusters given, by scikit-learn: one greedy k-means++ start.

    A random start is quicker but loses five points of F_P on the glyph test split (600 clusters).

    Raises:
        ValueError: `num_clusters` is below 1 or above N.
        MissingDependencyError: scikit-learn is not installed.
    """
    if not 1 <= num_clusters <= len(features):
        raise ValueError(f"num_clusters is {num_clusters}; it must lie between 1 and the {len(features)} samples.")
    try:
        from sklearn.cluster import KMeans
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # scikit-learn brings it
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "demo", "The k-means baseline") from error
    # The start is many products too small to share: on busy cores two threads are six times slower than one.
    with threadpool_limits(1):
        return KMeans(num_clusters, n_init=1, random_state=seed).fit_predict(features).astype(np.int64)


def average_linkage_tree(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """The merges of average linkage under cosine distance, as scipy's linkage matrix float64 [N - 1, 4].

    Time and memory grow with the square of N.

    Raises:
        ValueError: fewer than two samples, or more than MAX_LINKAGE_SAMPLES.
    """
    count = len(features)
    if not 2 <= count <= MAX_LINKAGE_SAMPLES:
        raise ValueError(
            f"features hold {count} samples; average linkage compares all pairs and takes 2 to {MAX_LINKAGE_SAMPLES} "
            "samples: cluster a subset, or use another method."
        )
    return linkage(_cosine_distances(features), method="average")


def cut_tree(tree: npt.NDArray[np.float64], distance: float) -> npt.NDArray[np.int64]:
    """Clusters of `average_linkage_tree` whose merges all lie at or below a mean cosine distance of `distance`."""
    return fcluster(tree, distance, criterion="distance").astype(np.int64) - 1


def hdbscan(
    neighbors: npt.NDArray[np.int64],
    similarity: npt.NDArray[np.float32],
    *,
    min_cluster_size: int = 4,
    min_samples: int = 2,
) -> npt.NDArray[np.int64]:
    """HDBSCAN over the Euclidean distances of unit vectors, by scikit-learn, on the edges of the neighbor graph.

    HDBSCAN needs only the minimum spanning tree of the mutual reachability distances. With some tens of neighbors that
    tree lies within the neighbor graph but for a few edges between far clusters: on the glyph test split (80 neighbors)
    the scores equal those of all pairs to a tenth of a percent, in 1 second instead of 26. Parts of the graph
    that no edge joins are taken to be as far apart as unit vectors can be.

    Args:
        neighbors: int64 [N, n], with n above the size of the largest cluster expected: where whole clusters list only
            their own samples, a stray joins the cluster it lists instead of being noise.
        similarity: float32 [N, n].
        min_cluster_size: samples a cluster has at least (default 4: the smallest classes have 8 or 9 samples).
        min_samples: neighbors that make a sample dense, itself counted (default 2: the nearest other sample).

    Returns:
        int64 [N]; -1 is noise.

    Raises:
        ValueError: `neighbors` and `similarity` differ in shape, `min_cluster_size` is below 2, or `min_samples` is
            below 1 or above n.
        MissingDependencyError: scikit-learn is not installed.
    """
    count, width = neighbors.shape
    if neighbors.shape != similarity.shape:
        raise ValueError(
            f"neighbors have shape {neighbors.shape} and similarity {similarity.shape}; they must be the same."
        )
    if min_cluster_size < 2:
        raise ValueError(f"min_cluster_size is {min_cluster_size}; a cluster has at least 2 samples.")
    if not 1 <= min_samples <= width:
        raise ValueError(f"min_samples is {min_samples}; it must lie between 1 and the {width} neighbors of a sample.")
    try:
        from sklearn.cluster import HDBSCAN
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "demo", "The HDBSCAN baseline") from error
    if count < max(min_cluster_size, min_samples):
        return np.full(count, -1, dtype=np.int64)
    listed = neighbors >= 0
    distance = np.sqrt(np.maximum(2 - 2 * similarity[listed].astype(np.float64), NEAREST**2))
    graph = coo_array((distance, (np.nonzero(listed)[0], neighbors[listed])), shape=(count, count)).tocsr()
    graph = graph.maximum(graph.T)
    _, firsts = np.unique(csgraph.connected_components(graph, directed=False)[1], return_index=True)
    bridges = coo_array((np.full(len(firsts) - 1, FARTHEST), (firsts[:-1], firsts[1:])), shape=graph.shape)
    model = HDBSCAN(
        min_cluster_size=min_cluster_size,
        min_samples=min_samples,
        metric="precomputed",
        metric_params={"max_distance": FARTHEST},
        copy=True,
    )
    return model.fit_predict((graph + bridges + bridges.T).tocsr()).astype(np.int64)


def _cosine_distances(features: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """1 - cosine of all pairs i < j in the order of scipy's `pdist`, by matrix products: twice as fast."""
    count = len(features)
    distances = np.empty(count * (count - 1) // 2, dtype=np.float64)
    step = 512
    done = 0
    for start in range(0, count, step):
        block = 1 - features[start : start + step] @ features[start:].T
        upper = block[np.arange(len(block))[:, None] < np.arange(count - start)]
        # Rounding can leave a duplicate a little below 0, which is no distance.
        np.maximum(upper, 0, out=distances[done : done + len(upper)])
        done += len(upper)
    return distances
