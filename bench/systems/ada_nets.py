"""The structure space of Ada-NETS (Wang et al., ICLR 2022): cosines mixed with how much two samples' reciprocal neighbours agree.

The space alone: its learned part (a number of neighbours for each sample, and graph convolutions) is left out, and the samples whose
similarity in the space exceeds a threshold are joined.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from intraformer_fast.graph import link
from intraformer_fast.pipeline import NeighborGraph

from .common_neighbors import common_sums
from .protocol import Fitted, Labels, choose


def reciprocal(neighbors: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.bool_]:
    """Whether neighbors[i, j] is among the first `width` of i, and i among its first `width`: bool [N, n]."""
    count, n = neighbors.shape
    near = (neighbors >= 0) & (np.arange(n) < width)
    rows, columns = np.nonzero(near)
    ids = neighbors[rows, columns]
    listed = np.sort(rows * count + ids)
    wanted = ids * count + rows
    position = np.minimum(np.searchsorted(listed, wanted), len(listed) - 1)
    result = np.zeros_like(near)
    result[rows, columns] = listed[position] == wanted
    return result


def jaccard(neighbors: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float32]:
    """|R_i and R_j| / |R_i or R_j| of the reciprocal sets of the ends of every edge i -> j: float32 [N, n]."""
    mutual = reciprocal(neighbors, width).astype(np.float32)
    common = common_sums(neighbors, mutual, mutual)
    size = mutual.sum(axis=1)
    return common / np.maximum(size[:, None] + size[neighbors] - common, 1)


@dataclass(frozen=True)
class AdaNetsSpace:
    """Hyper-parameters.

    Attributes:
        width: neighbours that count as near, the sample itself included.
        structure: weight of the Jaccard index; that of the cosine is the rest.
        thresholds: of the similarity in the space, that validation chooses from.
    """

    width: int = 80
    structure: float = 0.7
    thresholds: tuple[float, ...] = tuple(np.arange(0.3, 0.9, 0.025).round(3).tolist())

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        def similarity(graph: NeighborGraph) -> npt.NDArray[np.float32]:
            agree = jaccard(graph.neighbors, self.width)
            return self.structure * agree + (1 - self.structure) * graph.similarity

        def cluster(graph: NeighborGraph, space: npt.NDArray[np.float32], threshold: float) -> Labels:
            return link(graph.neighbors, space, space.clip(0, 1), rule="components", threshold=threshold)

        known = similarity(validation)
        threshold = choose(self.thresholds, lambda t: cluster(validation, known, t), validation)
        return Fitted(lambda graph: cluster(graph, similarity(graph), threshold), f"similarity above {threshold}")
