"""Clusformer (Nguyen et al., CVPR 2021): a Transformer with encoder and decoder says which neighbours are of a sample's identity."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from intraformer_fast.pipeline import NeighborGraph
from intraformer_fast.selection import Linking

from .clusters_model import linked, train_on_clusters
from .optimization import optimizer
from .protocol import Fitted


class ClusformerNet(nn.Module):
    """Tokens are a neighbour's feature and its cosines to all neighbours of the row."""

    def __init__(self, dim: int, neighbors: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        options: dict[str, Any] = {
            "d_model": width,
            "nhead": heads,
            "dim_feedforward": 4 * width,
            "dropout": 0.0,
            "batch_first": True,
        }
        self.embed = nn.Linear(dim + neighbors, width)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(**options), layers)
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**options), layers)
        self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, n] of features [B, n, d], the sample itself first."""
        tokens = self.embed(torch.cat([x, x @ x.mT], dim=2))
        return self.head(self.decoder(tokens, self.encoder(tokens))).squeeze(2)


@dataclass(frozen=True)
class Clusformer:
    """Hyper-parameters.

    Attributes:
        width: of the tokens inside; 6 heads divide it.
        layers: of the encoder, and as many of the decoder.
        heads: of each.
        epochs, batch, learning_rate: of AdamW.
        clusters: of an epoch; None takes all.
        thresholds: of the probability, that validation chooses from, with the linking; the paper has 0.9.
        intimacies: likewise; the paper has 0.65.
    """

    width: int = 336
    layers: int = 6
    heads: int = 6
    epochs: int = 20
    batch: int = 64
    learning_rate: float = 1e-4
    clusters: int | None = None
    thresholds: tuple[float, ...] = (0.5, 0.7, 0.8, 0.9, 0.95)
    intimacies: tuple[float, ...] = (0.5, 0.65, 0.8)

    def trained(self, train: NeighborGraph, seed: int) -> ClusformerNet:
        """The network of a fit."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = ClusformerNet(
                train.features.shape[1], train.neighbors.shape[1], self.width, self.layers, self.heads
            )
        steps = optimizer(model, self.learning_rate, None, 0.01)
        train_on_clusters(model, steps, train, epochs=self.epochs, batch=self.batch, clusters=self.clusters, seed=seed)
        return model

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        candidates = [
            *(Linking("density", t) for t in self.thresholds),
            *(Linking("intimacy", t, {"intimacy_threshold": r}) for t, r in product(self.thresholds, self.intimacies)),
        ]
        return linked(self.trained(train, seed), validation, candidates)
