"""Average linkage under cosine distance, cut at one height."""

from dataclasses import dataclass

import numpy as np

from intraformer_fast.bench import baselines
from intraformer_fast.pipeline import NeighborGraph

from .protocol import Fitted, choose


@dataclass(frozen=True)
class AverageLinkage:
    """Hyper-parameters: the heights that validation chooses from."""

    cuts: tuple[float, ...] = tuple(np.arange(0.3, 0.9, 0.025).round(3).tolist())

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        known = baselines.average_linkage_tree(validation.features)
        cut = choose(self.cuts, lambda c: baselines.cut_tree(known, c), validation)
        return Fitted(
            lambda graph: baselines.cut_tree(baselines.average_linkage_tree(graph.features), cut),
            f"cut at cosine distance {cut}",
        )
