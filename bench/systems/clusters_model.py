"""Networks that look at one sample's neighbours as a sequence: how they are trained and asked, and what `accelerate` gives them."""

import copy
import time
from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import intraformer_fast as ifast
from intraformer_fast.pipeline import NeighborGraph
from intraformer_fast.selection import CANDIDATES, Linking, choose_linking

from .optimization import batches, minimize
from .protocol import Fitted

ROUNDS = 5


def train_on_clusters(
    model: nn.Module,
    steps: torch.optim.Optimizer,
    graph: NeighborGraph,
    *,
    epochs: int,
    batch: int,
    clusters: int | None,
    seed: int,
) -> None:
    """Train a model, features [B, n, d] to logits [B, n], to tell whether a neighbour has the identity of the first of its row.

    Args:
        clusters: drawn anew for each epoch; None takes all.
    """
    x, neighbors, labels = map(torch.from_numpy, (np.asarray(graph.features), graph.neighbors, graph.labels))
    order = torch.Generator().manual_seed(seed)

    def losses() -> Iterator[Tensor]:
        left = clusters or len(labels)
        for rows in batches(len(labels), batch, order):
            ids = neighbors[rows]
            yield F.binary_cross_entropy_with_logits(model(x[ids]), (labels[ids] == labels[rows][:, None]).float())
            left -= len(rows)
            if left <= 0:
                return

    minimize(model, steps, epochs, losses)


@torch.inference_mode()
def probabilities(model: nn.Module, graph: NeighborGraph, batch: int = 256) -> npt.NDArray[np.float32]:
    """What the model says of every neighbour: float32 [N, n]."""
    x, neighbors = torch.from_numpy(np.asarray(graph.features)), torch.from_numpy(graph.neighbors)
    return torch.cat([model(x[ids]).sigmoid() for ids in neighbors.split(batch)]).numpy()


@torch.inference_mode()
def accelerated(model: nn.Module, graph: NeighborGraph, batch: int = 256) -> str:
    """Swap the model's layers for this library's, in place, and say how much faster inference became.

    Both are timed in turns on one batch; PyTorch's own fast path for encoders is what ours is compared with.
    """
    plain = copy.deepcopy(model)
    report = ifast.accelerate(model)
    x = torch.from_numpy(np.asarray(graph.features))[torch.from_numpy(graph.neighbors[:batch])]
    apart = (model(x).sigmoid() - plain(x).sigmoid()).abs().max().item()
    seconds: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(ROUNDS):
        for name, one in (("plain", plain), ("ours", model)):
            since = time.perf_counter()
            one(x)
            seconds[name].append(time.perf_counter() - since)
    before, after = median(seconds["plain"]), median(seconds["ours"])
    return (
        f"{before / after:.2f} times as fast with accelerate() ({len(report.swapped)} layers swapped): {1e3 * before:.0f} ms to "
        f"{1e3 * after:.0f} ms for {len(x)} clusters, median of {ROUNDS}; probabilities differ by at most {apart:.0e}"
    )


def linked(model: nn.Module, validation: NeighborGraph, candidates: Sequence[Linking] = CANDIDATES) -> Fitted:
    """The trained model, accelerated, with the linking of what it predicts that is best on the validation identities."""
    faster = accelerated(model, validation)
    known = probabilities(model, validation)
    scored = choose_linking(validation.neighbors, validation.similarity, known, validation.labels, candidates)
    linking = scored[0].linking
    return Fitted(
        lambda graph: linking.link(graph.neighbors, graph.similarity, probabilities(model, graph)),
        str(linking),
        {"inference": faster},
    )
