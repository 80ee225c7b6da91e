"""OMHC (Chen et al., ECCV 2022): a small Transformer re-ranks the neighbours; density by diffusion; distances of transitions."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from intraformer_fast.pipeline import NeighborGraph

from .clusters_model import accelerated, probabilities, train_on_clusters
from .common_neighbors import common_sums
from .optimization import optimizer
from .peaks import join
from .protocol import Fitted, Labels, choose


class OmhcNet(nn.Module):
    """One encoder layer over a sample and its neighbours, and a perceptron that compares each with the first."""

    position: Tensor

    def __init__(self, dim: int, neighbors: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.register_buffer("position", sinusoids(neighbors, dim))
        layer = nn.TransformerEncoderLayer(dim, heads, ffn, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1)
        sizes = [2 * dim, dim, dim // 2]
        hidden = [part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
        self.pair = nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, n] of features [B, n, d], the sample itself first."""
        h = self.encoder(x + self.position)
        return self.pair(torch.cat([h[:, :1].expand_as(h), h], dim=2)).squeeze(2)


def sinusoids(count: int, width: int) -> Tensor:
    """Positions [count, width]: sin(p w) in even and cos(p w) in odd columns, w = 10000^(-2 i / width)."""
    angle = torch.arange(count)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(10000) / width))
    return torch.stack([angle.sin(), angle.cos()], dim=2).reshape(count, -1)[:, :width]


def transition(distance: npt.NDArray[np.floating], temperature: float) -> npt.NDArray[np.float32]:
    """exp(-d / temperature), rows of sum 1: float32 [N, n]; a distance of infinity is no neighbour."""
    p = np.exp(-distance / temperature)
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def density(
    neighbors: npt.NDArray[np.int64], distance: npt.NDArray[np.floating], width: int, temperature: float
) -> npt.NDArray[np.float64]:
    """What all samples give to those near them: float64 [N].

    Each hands out one unit, to its `width` nearest by `distance` (columns rise with it) in the shares of `transition`.
    """
    ids, shares = neighbors[:, :width], transition(distance[:, :width], temperature)
    return np.bincount(ids[ids >= 0], shares[ids >= 0], minlength=len(neighbors)).astype(np.float64, copy=False)


def transition_distance(
    neighbors: npt.NDArray[np.int64], distance: npt.NDArray[np.floating], temperature: float
) -> npt.NDArray[np.float32]:
    """d_ij = 1 - sum_l sqrt(P_il P_jl) of every edge i -> j, P the `transition`: float32 [N, n]."""
    root = np.sqrt(transition(distance, temperature))
    return 1 - common_sums(neighbors, root, root)


@dataclass(frozen=True)
class Omhc:
    """Hyper-parameters.

    Attributes:
        heads, ffn: of the encoder layer, as wide as the features.
        epochs, batch, learning_rate, weight_decay: of AdamW.
        clusters: of an epoch; None takes all.
        density_width, density_temperature: see `density`.
        temperature: of the transitions that distances compare.
        cuts: the largest distance that joins, that validation chooses from; the paper has 0.7.
    """

    heads: int = 8
    ffn: int = 2048
    epochs: int = 10
    batch: int = 512
    learning_rate: float = 1e-4
    weight_decay: float = 5e-4
    clusters: int | None = None
    density_width: int = 20
    density_temperature: float = 0.5
    temperature: float = 0.05
    cuts: tuple[float, ...] = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def trained(self, train: NeighborGraph, seed: int) -> OmhcNet:
        """The network of a fit."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = OmhcNet(train.features.shape[1], train.neighbors.shape[1], self.heads, self.ffn)
        steps = optimizer(model, self.learning_rate, None, self.weight_decay)
        train_on_clusters(model, steps, train, epochs=self.epochs, batch=self.batch, clusters=self.clusters, seed=seed)
        return model

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        model = self.trained(train, seed)
        faster = accelerated(model, validation)
        known = self._nearest_denser(probabilities(model, validation), validation.neighbors)
        cut = choose(self.cuts, lambda c: self._cut(known, c), validation)

        def cluster(graph: NeighborGraph) -> Labels:
            return self._cut(self._nearest_denser(probabilities(model, graph), graph.neighbors), cut)

        return Fitted(cluster, f"distance up to {cut}", {"inference": faster})

    def _nearest_denser(
        self, probability: npt.NDArray[np.float32], neighbors: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
        """For each sample the nearest of those at least as dense, and its distance; -1 and infinity where there is none."""
        distance = np.where(neighbors >= 0, 1 - probability, np.inf).astype(np.float32)
        distance[:, 0] = 0  # the sample itself
        order = distance.argsort(axis=1, kind="stable")
        distance, neighbors = np.take_along_axis(distance, order, 1), np.take_along_axis(neighbors, order, 1)
        rho = density(neighbors, distance, self.density_width, self.density_temperature)
        far = transition_distance(neighbors, distance, self.temperature)
        own = neighbors == np.arange(len(neighbors))[:, None]
        allowed = (neighbors >= 0) & ~own & (rho[neighbors] >= rho[:, None])
        far = np.where(allowed, far, np.inf)
        best = far.argmin(axis=1)
        rows = np.arange(len(best))
        return np.where(allowed[rows, best], neighbors[rows, best], -1), far[rows, best]

    def _cut(self, nearest: tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]], cut: float) -> Labels:
        parent, distance = nearest
        return join(np.where(distance <= cut, parent, -1))
