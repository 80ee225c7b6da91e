"""HDBSCAN on the k-NN graph; noise is -1, each such sample a cluster of its own to the metrics."""

from dataclasses import dataclass
from itertools import product

from intraformer_fast.bench import baselines
from intraformer_fast.pipeline import NeighborGraph

from .protocol import Fitted, Labels, choose


@dataclass(frozen=True)
class Hdbscan:
    """Hyper-parameters: the smallest cluster, and neighbours of a dense sample, that validation chooses from."""

    smallest: tuple[int, ...] = (3, 4, 6)
    dense: tuple[int, ...] = (1, 2, 4)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        def cluster(graph: NeighborGraph, smallest: int, dense: int) -> Labels:
            options = {"min_cluster_size": smallest, "min_samples": dense}
            return baselines.hdbscan(graph.neighbors, graph.similarity, **options)

        smallest, dense = choose(product(self.smallest, self.dense), lambda s: cluster(validation, *s), validation)
        return Fitted(
            lambda graph: cluster(graph, smallest, dense), f"clusters of {smallest} and more, {dense} samples dense"
        )
