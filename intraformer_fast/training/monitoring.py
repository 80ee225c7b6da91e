"""How good a model is while it trains: scores of its edges, and the watch for collapse."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy.special import expit
from torch import Tensor

from intraformer_fast import nn
from intraformer_fast.clusters import LabeledClusters
from intraformer_fast.distributed import ALONE, Ranks
from intraformer_fast.errors import DataError
from intraformer_fast.precision import evaluating

# Measured on the glyph example: 0.0 neighbours after a collapse, 12.5 of 80 (16 %) without one.
COLLAPSED_SPREAD = 0.02
# Before this fraction of the training a network may still look collapsed because it has learnt nothing yet.
WATCH_FROM = 1 / 3


class CollapseWarning(UserWarning):
    """A training seems to have found one answer for every cluster, which more training rarely leaves."""


@dataclass(frozen=True)
class EdgeCurve:
    """What a ranking of edges is worth: `auc` under the ROC curve, the best F1 over all thresholds, and where it is.

    `auc` is None where all edges are of one kind; `threshold` keeps score > threshold.
    """

    auc: float | None
    f1: float
    threshold: float


def edge_curve(score: npt.NDArray[np.floating[Any]], target: npt.NDArray[np.bool_]) -> EdgeCurve:
    """Rank edges by `score` (float [E]) against `target` (bool [E], True where both ends share an identity).

    AUC counts ties half. F1 = 2 TP / (2 TP + FP + FN); the best one's threshold lies halfway to the next lower
    score, and is -infinity where keeping every edge is best. Without a true edge F1 is 0.
    """
    order = np.argsort(score)[::-1]
    ranked = score[order].astype(np.float64)
    last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    true_positive = np.cumsum(target[order], dtype=np.int64)[last]
    false_positive = last + 1 - true_positive
    positives, negatives = int(true_positive[-1]), int(false_positive[-1])
    f1 = 2 * true_positive / (last + 1 + positives)
    best = int(np.argmax(f1))
    at = last[best]
    threshold = (ranked[at] + ranked[at + 1]) / 2 if at + 1 < len(ranked) else -np.inf
    auc = None
    if positives and negatives:
        # Trapezia below the curve of true against false positives, tie groups being its segments.
        heights = true_positive + np.append(0, true_positive[:-1])
        auc = float((np.diff(false_positive, prepend=0) * heights).sum() / (2 * positives * negatives))
    return EdgeCurve(auc, float(f1[best]), float(threshold))


@dataclass(frozen=True)
class EdgeScores:
    """A model on the edges of some clusters; the centroid's own column and padding count nowhere.

    Attributes:
        auc: area under the ROC curve of the logits; None where all edges are of one kind.
        cosine_auc: the same of the plain cosine to the centroid.
        f1: best F1 over all thresholds on q.
        threshold: the probability at which it is reached; an edge is kept when q > threshold.
        positives_mean: mean over clusters of the number of neighbours with q > 0.5.
        positives_std: its standard deviation over clusters.
        target_std: the same of the number that truly share the centroid's identity.
    """

    auc: float | None
    cosine_auc: float | None
    f1: float
    threshold: float
    positives_mean: float
    positives_std: float
    target_std: float


class EdgeMonitor:
    """Scores a model on the edges of fixed clusters, again and again.

    Args:
        clusters: the tables and labels.
        rows: int64 [R], the clusters scored.
        batch_size: clusters at once.
        precision: "fp32" or "bf16".
        ranks: the processes that share the clusters; each makes the same calls.

    Raises:
        DataError: none of the clusters has a neighbour beside its centroid.
    """

    def __init__(
        self, clusters: LabeledClusters, rows: Tensor, *, batch_size: int, precision: str, ranks: Ranks = ALONE
    ) -> None:
        self.clusters = clusters
        self.ranks = ranks
        self.batches = rows.split(batch_size)
        self.precision = precision
        edges, targets, cosines = [], [], []
        for batch in self.batches:
            ids, x, _ = clusters.gather(batch)
            edge = ids.cpu() >= 0
            edge[:, 0] = False
            edges.append(edge)
            targets.append(clusters.targets(ids) & edge)
            cosines.append(F.cosine_similarity(x, x[:, :1], dim=-1).float().cpu())
        self.edge = torch.cat(edges).numpy()
        self.target = torch.cat(targets).numpy()
        if not self.edge.any():
            raise DataError(
                "none of the clusters has a neighbour beside its own centroid: give a wider neighbour table"
            )
        self.cosine_auc = self._curve(torch.cat(cosines)).auc

    def scores(self, model: nn.Intraformer) -> EdgeScores:
        """The scores of the model as it is now, the same on all processes, each of which answers its share of the clusters."""
        rows = torch.cat(self.batches)
        with evaluating(model):
            mine = self.ranks.share(rows).split(len(self.batches[0]))
            logits = torch.cat([self.clusters.logits(model, batch, self.precision)[0].cpu() for batch in mine])
        logits = self.ranks.whole(logits, len(rows))
        curve = self._curve(logits)
        positives = ((logits.numpy() > 0) & self.edge).sum(1)
        return EdgeScores(
            auc=curve.auc,
            cosine_auc=self.cosine_auc,
            f1=curve.f1,
            threshold=float(expit(curve.threshold)),
            positives_mean=float(positives.mean()),
            positives_std=float(positives.std()),
            target_std=float(self.target.sum(1).std()),
        )

    def _curve(self, score: Tensor) -> EdgeCurve:
        return edge_curve(score.numpy()[self.edge], self.target[self.edge])


def collapse_reason(scores: EdgeScores, *, num_neighbors: int, progress: float, bce_warmup: str) -> str | None:
    """What looks like a collapse, in words, with what to do about it; None where nothing does.

    The same answer for every cluster is looked for from a third of the training on, a ranking no better than the cosine's
    at its end: on its way up every model passes below the cosine.

    Args:
        scores: of the model now.
        num_neighbors: n, columns of the neighbour table.
        progress: fraction of the training that is done.
        bce_warmup: the training's option of that name.
    """
    if progress < WATCH_FROM:
        return None
    advice = (
        "train with bce_warmup='ramp'"
        if bce_warmup != "ramp"
        else "train longer, on more clusters, or with another learning rate"
    )
    smallest = COLLAPSED_SPREAD * num_neighbors
    # A model that keeps nothing at 0.5 has not collapsed: it may be unsure, and still rank well.
    constant = scores.positives_std < smallest <= scores.target_std
    if constant and scores.positives_mean > 0.5:
        return (
            "the training has collapsed: the model predicts nearly the same number of neighbours for every cluster "
            f"({scores.positives_mean:.1f} with a standard deviation of {scores.positives_std:.2f}, where the true numbers have "
            f"{scores.target_std:.2f}); {advice}"
        )
    if scores.auc is None or scores.cosine_auc is None or progress < 1:
        return None
    if scores.auc <= scores.cosine_auc < 1:
        return (
            f"the model ranks edges no better than the plain cosine does (AUC {scores.auc:.4f} against "
            f"{scores.cosine_auc:.4f}), as after a collapse; {advice}"
        )
    return None
