"""GCN-V (Yang et al., CVPR 2020): a graph convolution estimates how well each sample sits among its neighbours; peaks attract."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast.pipeline import NeighborGraph

from .aggregation import with_mean
from .optimization import batches, minimize, optimizer
from .peaks import join_peaks
from .protocol import Fitted, choose

Confidence = Callable[[NeighborGraph], npt.NDArray[np.float32]]


def confidence(graph: NeighborGraph) -> npt.NDArray[np.float32]:
    """What GCN-V learns to estimate, float32 [N]: over the neighbours of a sample, itself apart, the mean of a signed cosine.

    c_i = (sum_j a_ij [y_j = y_i] - sum_j a_ij [y_j != y_i]) / degree_i
    """
    edge = (graph.neighbors >= 0) & (graph.neighbors != np.arange(len(graph.labels))[:, None])
    sign = np.where(graph.labels[graph.neighbors] == graph.labels[:, None], 1, -1)
    total = np.where(edge, sign * graph.similarity, 0).sum(axis=1)
    return (total / np.maximum(edge.sum(axis=1), 1)).astype(np.float32)


@dataclass(frozen=True)
class GcnV:
    """Hyper-parameters.

    Attributes:
        hidden: width of the layer.
        epochs: passes over the graph.
        batch: samples a step; None takes the whole graph.
        learning_rate, momentum, weight_decay: of SGD, or of AdamW where the momentum is None.
        thresholds: cosines that validation chooses from; the paper has 0.65 for its features.
    """

    hidden: int = 512
    epochs: int = 1000
    batch: int | None = None
    learning_rate: float = 0.1
    momentum: float | None = 0.9
    weight_decay: float = 1e-5
    thresholds: tuple[float, ...] = tuple(np.arange(0.4, 0.9, 0.025).round(3).tolist())

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        estimate = self.train(train, seed)
        known = estimate(validation)
        threshold = choose(self.thresholds, lambda t: join_peaks(validation, known, t), validation)
        right = np.corrcoef(known, confidence(validation))[0, 1]
        return Fitted(
            lambda graph: join_peaks(graph, estimate(graph), threshold),
            f"cosine above {threshold}",
            {"confidence": f"correlation {right:.3f} with the true one on validation"},
        )

    def train(self, graph: NeighborGraph, seed: int) -> Confidence:
        """The trained estimator of `confidence`."""
        x, target = with_mean(graph), torch.from_numpy(confidence(graph))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = nn.Sequential(
                nn.Linear(x.shape[1], self.hidden),
                nn.ReLU(),
                nn.Linear(self.hidden, self.hidden),
                nn.PReLU(),
                nn.Linear(self.hidden, 1),
            )

        def losses() -> Iterator[Tensor]:
            for rows in batches(len(x), self.batch or len(x), order):
                yield F.mse_loss(model(x[rows]).squeeze(1), target[rows])

        order = torch.Generator().manual_seed(seed)
        steps = optimizer(model, self.learning_rate, self.momentum, self.weight_decay)
        minimize(model, steps, self.epochs, losses)

        @torch.no_grad()
        def estimate(on: NeighborGraph) -> npt.NDArray[np.float32]:
            return model(with_mean(on)).squeeze(1).numpy()

        return estimate
