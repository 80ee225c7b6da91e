"""Chinese Whispers (Biemann, 2006): every sample in turn takes the label that weighs most among its neighbours."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from intraformer_fast.pipeline import NeighborGraph

from .aggregation import edge_matrix
from .protocol import Fitted, Labels, choose


def whisper(weights: scipy.sparse.csr_array, rounds: int, seed: int) -> Labels:
    """Labels int64 [N] of an undirected graph of weights [N, N].

    A round visits all samples in random order, and each takes the label with the greatest sum of weights to it, the lowest of
    equals; it ends early when none changes.
    """
    random = np.random.default_rng(seed)
    labels = np.arange(weights.shape[0])
    starts, targets, values = weights.indptr, weights.indices, weights.data
    for _ in range(rounds):
        changed = False
        for i in random.permutation(len(labels)):
            near = slice(starts[i], starts[i + 1])
            if starts[i] == starts[i + 1]:
                continue
            heard, index = np.unique(labels[targets[near]], return_inverse=True)
            loudest = heard[np.bincount(index, values[near]).argmax()]
            changed |= bool(loudest != labels[i])
            labels[i] = loudest
        if not changed:
            break
    return labels


@dataclass(frozen=True)
class ChineseWhispers:
    """Hyper-parameters: the most rounds, and the cosines that validation chooses from; 0.6 is customary."""

    rounds: int = 20
    thresholds: tuple[float, ...] = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        def cluster(graph: NeighborGraph, threshold: float) -> Labels:
            edges = edge_matrix(graph)
            edges.data[edges.data <= threshold] = 0
            edges.eliminate_zeros()
            return whisper(edges.maximum(edges.T).tocsr(), self.rounds, seed)

        threshold = choose(self.thresholds, lambda t: cluster(validation, t), validation)
        return Fitted(lambda graph: cluster(graph, threshold), f"cosine above {threshold}, {self.rounds} rounds")
