"""The edges that another system predicts, linked by the rules of the Intraformer: what of the lead over it the linking explains."""

from dataclasses import dataclass
from typing import Protocol

from torch import nn

from intraformer_fast.pipeline import NeighborGraph

from .clusters_model import linked
from .protocol import Fitted


class PredictsEdges(Protocol):
    """A system whose network gives every neighbour of a sample a logit."""

    def trained(self, train: NeighborGraph, seed: int) -> nn.Module:
        """The network, features [B, n, d] to logits [B, n], the sample itself first."""


@dataclass(frozen=True)
class OurLinking:
    """Hyper-parameters: those of the system whose network it is; validation chooses from the linkings of `selection`."""

    system: PredictsEdges

    def fit(self, train: NeighborGraph, validation: NeighborGraph, seed: int) -> Fitted:
        return linked(self.system.trained(train, seed), validation)
