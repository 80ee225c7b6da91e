"""GCN-V/E (Yang et al., CVPR 2020): GCN-V, and for the most confident samples a second network that picks whom to join."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise, product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast.pipeline import NeighborGraph

from .gcn_v import GcnV
from .optimization import batches, minimize, optimizer
from .peaks import join, parents
from .protocol import Fitted, Labels, choose


@dataclass(frozen=True)
class Candidates:
    """Whom the confident samples may join: their neighbours of higher confidence, nearest first.

    Attributes:
        samples: int64 [M], the confident samples that have a candidate.
        ids: int64 [M, m]; -1 is padding, at the end of a row.
    """

    samples: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]


Seen: TypeAlias = tuple[npt.NDArray[np.float32], Candidates, npt.NDArray[np.int64], npt.NDArray[np.float32]]
"""Confidences, the candidates of the most confident, the best of each and its probability."""


def candidates(
    neighbors: npt.NDArray[np.int64], confidence: npt.NDArray[np.floating], share: float, most: int
) -> Candidates:
    """Those of the `share` of all samples with the highest confidence, at most `most` for each."""
    count = max(1, round(share * len(confidence)))
    samples = np.sort(np.argsort(-confidence, kind="stable")[:count])
    ids = neighbors[samples]
    higher = (ids >= 0) & (confidence[ids] > confidence[samples, None])
    first = np.argsort(~higher, axis=1, kind="stable")[:, :most]
    ids = np.where(np.take_along_axis(higher, first, 1), np.take_along_axis(ids, first, 1), -1)
    some = ids[:, 0] >= 0
    return Candidates(samples[some], ids[some])


class ConnectivityNet(nn.Module):
    """Four graph convolutions over the candidates of a sample, and a logit for each that it is of the sample's identity."""

    def __init__(self, dim: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        sizes = [dim, *widths]
        self.layers = nn.ModuleList(nn.Linear(2 * a, b) for a, b in pairwise(sizes))
        self.head = nn.Sequential(nn.Linear(sizes[-1], sizes[-1]), nn.PReLU(), nn.Linear(sizes[-1], 1))

    def forward(self, features: Tensor, radius: Tensor, samples: Tensor, ids: Tensor) -> Tensor:
        """Logits [B, m] of candidates `ids` [B, m], -1 where there is none; `radius` [N] is the cosine of a sample's last neighbour."""
        there = ids >= 0
        x, r = features[ids.clamp(min=0)], radius[ids.clamp(min=0)]
        # Two candidates are neighbours where either lists the other; a sample is its own, so that no row is empty.
        cosine = (x @ x.mT).clamp(min=0)
        listed = (cosine >= torch.minimum(r[:, :, None], r[:, None, :])) & there[:, None, :]
        near = cosine * (listed | torch.eye(x.shape[1], dtype=torch.bool))
        mean = near / near.sum(2, keepdim=True).clamp(min=1e-6)
        h = x - features[samples][:, None]
        for layer in self.layers:
            h = layer(torch.cat([h, mean @ h], dim=2)).relu()
        return self.head(h).squeeze(2).masked_fill(~there, -torch.inf)


@dataclass(frozen=True)
class GcnVE:
    """Hyper-parameters.

    Attributes:
        vertex: those of GCN-V.
        widths: of the layers.
        share, train_share: of the samples, the most confident, whose link the second network picks; in training more.
        most: candidates of a sample.
        epochs, batch, learning_rate, momentum, weight_decay: of the second training, see `optimizer`.
        thresholds: probabilities of a link that validation chooses from; the paper has 0.8.
    """

    vertex: GcnV = field(default_factory=GcnV)
    widths: tuple[int, ...] = (512, 512, 256, 256)
    share: float = 0.2
    train_share: float = 0.3
    most: int = 159
    epochs: int = 40
    batch: int = 64
    learning_rate: float = 0.1
    momentum: float | None = 0.9
    weight_decay: float = 1e-5
    thresholds: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        estimate = self.vertex.train(train, seed)
        model = self._train(train, estimate(train), seed)

        def look(graph: NeighborGraph) -> Seen:
            known = estimate(graph)
            found = candidates(graph.neighbors, known, self.share, self.most)
            return known, found, *self._pick(model, graph, found)

        def cluster(graph: NeighborGraph, seen: Seen, cosine: float, probability: float) -> Labels:
            known, found, best, sure = seen
            parent = parents(graph, known, cosine)
            parent[found.samples] = np.where(sure > probability, best, -1)
            return join(parent)

        seen = look(validation)
        settings = product(self.vertex.thresholds, self.thresholds)
        cosine, probability = choose(settings, lambda s: cluster(validation, seen, *s), validation)
        return Fitted(
            lambda graph: cluster(graph, look(graph), cosine, probability),
            f"cosine above {cosine}; probability above {probability} for the most confident {100 * self.share:.0f} %",
        )

    def _train(self, graph: NeighborGraph, known: npt.NDArray[np.float32], seed: int) -> ConnectivityNet:
        found = candidates(graph.neighbors, known, self.train_share, self.most)
        x, radius, samples, ids, labels = map(
            torch.from_numpy,
            (np.asarray(graph.features), graph.similarity[:, -1].copy(), found.samples, found.ids, graph.labels),
        )
        target = (labels[ids.clamp(min=0)] == labels[samples][:, None]).float()
        # Samples with as many candidates go together, so that little of a batch is padding.
        runs = list((ids >= 0).sum(1).argsort(stable=True).split(self.batch))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ConnectivityNet(x.shape[1], self.widths)
        order = torch.Generator().manual_seed(seed)

        def losses() -> Iterator[Tensor]:
            for run in batches(len(runs), 1, order):
                rows = runs[int(run)]
                wide = int((ids[rows] >= 0).sum(1).max())
                logits = model(x, radius, samples[rows], ids[rows, :wide])
                there = ids[rows, :wide] >= 0
                yield F.binary_cross_entropy_with_logits(logits[there], target[rows, :wide][there])

        steps = optimizer(model, self.learning_rate, self.momentum, self.weight_decay)
        minimize(model, steps, self.epochs, losses)
        return model

    @torch.no_grad()
    def _pick(
        self, model: ConnectivityNet, graph: NeighborGraph, found: Candidates
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """The most probable candidate of each confident sample, and its probability."""
        x, radius = torch.from_numpy(np.asarray(graph.features)), torch.from_numpy(graph.similarity[:, -1].copy())
        samples, ids = torch.from_numpy(found.samples), torch.from_numpy(found.ids)
        best = np.empty(len(samples), np.int64)
        sure = np.empty(len(samples), np.float32)
        for rows in (ids >= 0).sum(1).argsort(stable=True).split(4 * self.batch):
            wide = int((ids[rows] >= 0).sum(1).max())
            value, column = model(x, radius, samples[rows], ids[rows, :wide]).max(1)
            best[rows], sure[rows] = ids[rows, column].numpy(), value.sigmoid().numpy()
        return best, sure
