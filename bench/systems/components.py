"""Connected components of the k-NN graph above one cosine."""

from dataclasses import dataclass

import numpy as np

from intraformer_fast.bench import baselines
from intraformer_fast.pipeline import NeighborGraph

from .protocol import Fitted, Labels, choose


@dataclass(frozen=True)
class Components:
    """Hyper-parameters: neighbours of a sample, itself included, and the cosines that validation chooses from."""

    width: int = 10
    thresholds: tuple[float, ...] = tuple(np.arange(0.5, 0.96, 0.025).round(3).tolist())

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        def cluster(graph: NeighborGraph, threshold: float) -> Labels:
            near = (graph.neighbors[:, : self.width], graph.similarity[:, : self.width])
            return baselines.connected_components(*near, threshold)

        threshold = choose(self.thresholds, lambda t: cluster(validation, t), validation)
        return Fitted(lambda graph: cluster(graph, threshold), f"{self.width} neighbours, cosine above {threshold}")
