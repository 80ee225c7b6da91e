"""STAR-FC (Shen et al., CVPR 2021): a graph convolution and a head on pairs, trained on subgraphs of classes that are near."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast.pipeline import NeighborGraph, neighbor_graph
from intraformer_fast.selection import Linking, choose_linking

from .aggregation import with_mean
from .optimization import minimize, optimizer
from .protocol import Fitted

EDGES = 2**16
"""Edges that the head looks at together."""


class PairNet(nn.Module):
    """h = relu(W [x, A x]), then for a pair of samples a perceptron over [h_i, h_j]."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.convolution = nn.Linear(2 * dim, hidden)
        # The first layer on [h_i, h_j] is a sum of two layers, each done once a sample rather than once an edge.
        self.first, self.second = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden, bias=False)
        self.rest = nn.Sequential(nn.PReLU(), nn.Linear(hidden, 2))

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the head reads of each sample as the first and as the second of a pair: [N, hidden] twice."""
        h = self.convolution(x).relu()
        return self.first(h), self.second(h)

    def forward(self, halves: tuple[Tensor, Tensor], first: Tensor, second: Tensor) -> Tensor:
        """Logits [E, 2] of the pairs first[e], second[e]; the column 1 is that both are of one identity."""
        return self.rest(halves[0][first] + halves[1][second])


def near_classes(features: npt.NDArray[np.floating], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """All classes in order of the cosine of their means to that of each class, itself first: int64 [C, C], values of `labels`."""
    classes, index = np.unique(labels, return_inverse=True)
    means = np.zeros((len(classes), features.shape[1]))
    np.add.at(means, index, features)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return classes[(-(means @ means.T)).argsort(axis=1, kind="stable")]


@dataclass(frozen=True)
class StarFc:
    """Hyper-parameters.

    Attributes:
        hidden: width of the layer and the head.
        near, drawn: a subgraph takes `drawn` of the `near` classes nearest to a random one.
        images: share of their samples.
        subgraphs: of the training.
        edges: of a step, at most, drawn at random; None takes all.
        repeats: steps on a subgraph, each with edges of its own.
        learning_rate, momentum, weight_decay: of SGD, or of AdamW where the momentum is None.
        thresholds: of the probability, that validation chooses from; the paper has 0.7.
        intimacies: likewise; the paper has 0.72.
    """

    hidden: int = 512
    near: int = 1500
    drawn: int = 1300
    images: float = 0.9
    subgraphs: int = 30_000
    edges: int | None = None
    repeats: int = 1
    learning_rate: float = 0.01
    momentum: float | None = 0.9
    weight_decay: float = 1e-5
    thresholds: tuple[float, ...] = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
    intimacies: tuple[float, ...] = (0.5, 0.6, 0.72, 0.8, 0.9)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        model = self._train(train, seed)
        candidates = [
            Linking("intimacy", t, {"intimacy_threshold": r}) for t, r in product(self.thresholds, self.intimacies)
        ]
        known = probabilities(model, validation)
        linking = choose_linking(validation.neighbors, validation.similarity, known, validation.labels, candidates)[
            0
        ].linking
        return Fitted(
            lambda graph: linking.link(graph.neighbors, graph.similarity, probabilities(model, graph)), str(linking)
        )

    def _train(self, graph: NeighborGraph, seed: int) -> PairNet:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = PairNet(graph.features.shape[1], self.hidden)
        near, random = near_classes(graph.features, graph.labels), np.random.default_rng(seed)

        def losses() -> Iterator[Tensor]:
            part = self.subgraph(graph, near, random)
            rows, columns = np.nonzero(part.neighbors[:, 1:] >= 0)
            x = with_mean(part)
            for _ in range(self.repeats):
                some = random.permutation(len(rows))[: self.edges]
                first, second = rows[some], part.neighbors[rows[some], columns[some] + 1]
                same = torch.from_numpy((part.labels[first] == part.labels[second]).astype(np.int64))
                logits = model(model.halves(x), torch.from_numpy(first), torch.from_numpy(second))
                yield F.cross_entropy(logits, same)

        steps = optimizer(model, self.learning_rate, self.momentum, self.weight_decay)
        minimize(model, steps, self.subgraphs, losses)
        return model

    def subgraph(self, graph: NeighborGraph, near: npt.NDArray[np.int64], random: np.random.Generator) -> NeighborGraph:
        """Random classes round a random one, most of their samples, and the k-NN graph of these alone."""
        around = near[random.integers(len(near)), : self.near]
        classes = random.choice(around, min(self.drawn, len(around)), replace=False)
        rows = np.flatnonzero(np.isin(graph.labels, classes))
        rows = np.sort(random.choice(rows, max(2, round(self.images * len(rows))), replace=False))
        return neighbor_graph(graph.features[rows], graph.labels[rows], graph.neighbors.shape[1])


@torch.inference_mode()
def probabilities(model: PairNet, graph: NeighborGraph) -> npt.NDArray[np.float32]:
    """Probability that a sample and its neighbour are of one identity: float32 [N, n]."""
    halves = model.halves(with_mean(graph))
    ids = torch.from_numpy(graph.neighbors)
    first = torch.arange(len(ids))[:, None].expand_as(ids).reshape(-1)
    second = ids.clamp(min=0).reshape(-1)
    found = [model(halves, a, b).softmax(1)[:, 1] for a, b in zip(first.split(EDGES), second.split(EDGES), strict=True)]
    return torch.cat(found).reshape(ids.shape).numpy()
