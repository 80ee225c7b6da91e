"""DBSCAN over the cosine distances of the k-NN graph; noise is -1, each such sample a cluster of its own to the metrics."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.pipeline import NeighborGraph

from .aggregation import edge_matrix
from .protocol import Fitted, Labels, choose


@dataclass(frozen=True)
class Dbscan:
    """Hyper-parameters: radii, as cosine distances, and neighbours of a core sample, that validation chooses from."""

    radii: tuple[float, ...] = (0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4)
    core: tuple[int, ...] = (2, 4, 8, 16)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        try:
            from sklearn.cluster import DBSCAN
        except ImportError as error:
            raise MissingDependencyError("scikit-learn", "sklearn", "DBSCAN") from error

        def cluster(graph: NeighborGraph, radius: float, core: int) -> Labels:
            edges = edge_matrix(graph)
            distance = edges.maximum(edges.T).tocsr()
            # A sparse matrix drops a distance of 0, as if duplicates were not neighbours.
            distance.data = np.maximum(1 - distance.data, 1e-6)
            return DBSCAN(eps=radius, min_samples=core, metric="precomputed").fit_predict(distance).astype(np.int64)

        radius, core = choose(product(self.radii, self.core), lambda s: cluster(validation, *s), validation)
        return Fitted(lambda graph: cluster(graph, radius, core), f"radius {radius}, {core} samples round a core")
