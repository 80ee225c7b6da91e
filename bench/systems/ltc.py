"""LTC (Yang et al., CVPR 2019): proposals, a network that scores them (GCN-D), one that drops outliers (GCN-S), no overlap."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from intraformer_fast.pipeline import NeighborGraph

from .optimization import batches, minimize, optimizer
from .proposals import Members, de_overlap, propose, quality
from .protocol import Fitted, Labels, choose

Seen: TypeAlias = tuple[list[Members], npt.NDArray[np.float32], npt.NDArray[np.float32]]
"""Proposals, the score of each, and the probability of each of their samples, one after the other."""


@dataclass(frozen=True)
class Batch:
    """Some proposals as one graph without edges between them.

    Attributes:
        samples: int64 [M], those of the first proposal, then those of the next.
        lengths: int64 [P], samples of each proposal.
        mean: sparse [M, M], the rows of the mean aggregation inside each proposal.
    """

    samples: Tensor
    lengths: Tensor
    mean: Tensor


def batch_of(graph: NeighborGraph, proposals: Sequence[Members]) -> Batch:
    """The batch of these proposals: edges of the k-NN graph in either direction, weighed by their cosine, and self loops."""
    lengths = np.array([len(one) for one in proposals])
    samples = np.concatenate(proposals)
    owner = np.repeat(np.arange(len(proposals)), lengths)
    count, size = len(graph.labels), len(samples)
    keys = owner * count + samples  # rising: proposals one after the other, the samples of each rising
    ids = graph.neighbors[samples]
    wanted = owner[:, None] * count + ids
    position = np.minimum(np.searchsorted(keys, wanted), size - 1)
    inside = (ids >= 0) & (keys[position] == wanted)
    rows, columns = np.nonzero(inside)
    targets = position[rows, columns]
    weights = np.where(targets == rows, 1, np.maximum(graph.similarity[samples][rows, columns], 0))
    # Listed by either end counts: both directions, each pair once.
    pairs = np.unique(
        np.stack([np.concatenate([rows, targets]), np.concatenate([targets, rows])]), axis=1, return_index=True
    )
    (rows, targets), weights = pairs[0], np.concatenate([weights, weights])[pairs[1]]
    weights = weights / np.bincount(rows, weights, minlength=size)[rows]
    places, entries = torch.from_numpy(np.stack([rows, targets])), torch.from_numpy(weights.astype(np.float32))
    mean = torch.sparse_coo_tensor(places, entries, (size, size), is_coalesced=True, check_invariants=False)
    return Batch(torch.from_numpy(samples), torch.from_numpy(lengths), mean)


class ProposalNet(nn.Module):
    """Two graph convolutions over the samples of a proposal, and the largest of each of their features over it."""

    def __init__(self, dim: int, widths: tuple[int, int]) -> None:
        super().__init__()
        self.first = nn.Linear(2 * dim, widths[0])
        # A (h W) is (A h) W, and narrower.
        self.own, self.mean = nn.Linear(widths[0], widths[1]), nn.Linear(widths[0], widths[1], bias=False)
        self.score = nn.Linear(widths[1], 1)
        self.inlier = nn.Linear(2 * widths[1], 1)

    def forward(self, features: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """The score of each proposal [P] and the logit [M] of each sample that it is of the proposal's main identity."""
        x = features[batch.samples]
        h = self.first(torch.cat([x, batch.mean @ x], dim=1)).relu()
        h = (self.own(h) + batch.mean @ self.mean(h)).relu()
        largest = torch.segment_reduce(h, "max", lengths=batch.lengths)
        context = largest.repeat_interleave(batch.lengths, dim=0)
        return self.score(largest).squeeze(1), self.inlier(torch.cat([h, context], dim=1)).squeeze(1)


@dataclass(frozen=True)
class Ltc:
    """Hyper-parameters.

    Attributes:
        proposal_thresholds: cosines of the partitions; `step` by which they rise, `smallest` and `largest` proposals.
        widths: of the two layers.
        epochs, learning_rate, momentum, weight_decay: of each network, see `optimizer`.
        samples: of a step, about.
        least_scores: below which a proposal is none, that validation chooses from.
        outliers: probability below which a sample is dropped from a proposal, likewise; 0 leaves GCN-S out.
    """

    proposal_thresholds: tuple[float, ...] = (0.6, 0.7, 0.75)
    step: float = 0.05
    smallest: int = 3
    largest: int = 300
    widths: tuple[int, int] = (512, 64)
    epochs: int = 100
    learning_rate: float = 0.01
    momentum: float | None = 0.9
    weight_decay: float = 1e-4
    samples: int = 4096
    least_scores: tuple[float, ...] = (-1.0, 0.2, 0.3, 0.4)
    outliers: tuple[float, ...] = (0.0, 0.2, 0.4, 0.5, 0.6)

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        detector, segmenter = self._train(train, seed)

        def look(graph: NeighborGraph) -> Seen:
            found = self._propose(graph)
            x = torch.from_numpy(np.asarray(graph.features))
            scores, inliers = [], []
            with torch.no_grad():
                for part in self._parts(found):
                    batch = batch_of(graph, [found[i] for i in part])
                    scores.append(detector(x, batch)[0])
                    inliers.append(segmenter(x, batch)[1].sigmoid())
            return found, torch.cat(scores).numpy(), torch.cat(inliers).numpy()

        def cluster(graph: NeighborGraph, seen: Seen, least: float, outlier: float) -> Labels:
            found, score, inlier = seen
            kept = inlier >= outlier
            ends = np.cumsum([len(one) for one in found])
            inside = [one[keep] for one, keep in zip(found, np.split(kept, ends[:-1]), strict=True)]
            return de_overlap(inside, score, len(graph.labels), least)

        seen = look(validation)
        settings = product(self.least_scores, self.outliers)
        least, outlier = choose(settings, lambda s: cluster(validation, seen, *s), validation)
        return Fitted(
            lambda graph: cluster(graph, look(graph), least, outlier),
            f"scores from {least}; outliers below {outlier}",
            {"proposals": f"{len(seen[0])} on validation"},
        )

    def _propose(self, graph: NeighborGraph) -> list[Members]:
        sizes = {"smallest": self.smallest, "largest": self.largest}
        return propose(graph, self.proposal_thresholds, step=self.step, **sizes)

    def _parts(self, proposals: Sequence[Members]) -> list[npt.NDArray[np.int64]]:
        """Runs of proposals with about as many samples as a step takes."""
        steps = np.cumsum([len(one) for one in proposals]) // self.samples
        return np.split(np.arange(len(proposals)), np.flatnonzero(np.diff(steps)) + 1)

    def _train(self, graph: NeighborGraph, seed: int) -> tuple[ProposalNet, ProposalNet]:
        found = self._propose(graph)
        random = np.random.default_rng(seed)
        found = [found[i] for i in random.permutation(len(found))]
        sizes = np.bincount(graph.labels)
        x = torch.from_numpy(np.asarray(graph.features))
        known = []
        for part in self._parts(found):
            of = [quality(found[i], graph.labels, sizes) for i in part]
            main = np.repeat([one.identity for one in of], [len(found[i]) for i in part])
            batch = batch_of(graph, [found[i] for i in part])
            inlier = torch.from_numpy((graph.labels[batch.samples.numpy()] == main).astype(np.float32))
            known.append((batch, torch.tensor([one.iou for one in of]), inlier))
        order = torch.Generator().manual_seed(seed)

        def scores() -> Iterator[Tensor]:
            for i in batches(len(known), 1, order):
                batch, iou, _ = known[int(i)]
                yield F.mse_loss(models[0](x, batch)[0], iou)

        def inliers() -> Iterator[Tensor]:
            for i in batches(len(known), 1, order):
                batch, _, inlier = known[int(i)]
                yield F.binary_cross_entropy_with_logits(models[1](x, batch)[1], inlier)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            models = [ProposalNet(x.shape[1], self.widths) for _ in range(2)]
        for model, losses in zip(models, (scores, inliers), strict=True):
            minimize(model, optimizer(model, self.learning_rate, self.momentum, self.weight_decay), self.epochs, losses)
        return models[0], models[1]
