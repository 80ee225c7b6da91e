"""Scores of a clustering against the true classes: pairwise F (F_P), BCubed F (F_B), NMI and FMI, all in [0, 1].

Every function takes `y_true` and `y_pred` as `contingency` does (a prediction of -1 is noise: a cluster of its own)
and raises as it does. Each builds the contingency table anew; `scores` gives all of them from one.
"""

from dataclasses import dataclass
from typing import Any

from .contingency import AverageMethod, Labels, PrecisionRecallF, contingency


@dataclass(frozen=True)
class ClusteringScores:
    """All scores of one clustering.

    Attributes:
        pairwise: precision, recall and F over pairs of samples; its `f` is F_P.
        bcubed: BCubed precision, recall and F; its `f` is F_B.
        nmi: normalized mutual information, arithmetic mean of the entropies.
        fmi: Fowlkes-Mallows index.
        num_samples: samples scored.
        num_classes: true classes among them.
        num_clusters: predicted clusters among them, each noise sample one of its own.
    """

    pairwise: PrecisionRecallF
    bcubed: PrecisionRecallF
    nmi: float
    fmi: float
    num_samples: int
    num_classes: int
    num_clusters: int

    @property
    def pairwise_f(self) -> float:
        return self.pairwise.f

    @property
    def bcubed_f(self) -> float:
        return self.bcubed.f

    def to_dict(self) -> dict[str, Any]:
        """Plain floats, ints and dicts, ready for JSON."""
        return {**vars(self), "pairwise": self.pairwise._asdict(), "bcubed": self.bcubed._asdict()}


def scores(y_true: Labels, y_pred: Labels) -> ClusteringScores:
    """All scores from one contingency table."""
    table = contingency(y_true, y_pred)
    return ClusteringScores(
        pairwise=table.pairwise(),
        bcubed=table.bcubed(),
        nmi=table.nmi(),
        fmi=table.fmi(),
        num_samples=table.num_samples,
        num_classes=table.num_classes,
        num_clusters=table.num_clusters,
    )


def pairwise_scores(y_true: Labels, y_pred: Labels) -> PrecisionRecallF:
    """Precision, recall and F over pairs of samples; edge cases as `Contingency.pairwise` says."""
    return contingency(y_true, y_pred).pairwise()


def pairwise_f(y_true: Labels, y_pred: Labels) -> float:
    """F_P: harmonic mean of precision and recall over pairs of samples."""
    return pairwise_scores(y_true, y_pred).f


def bcubed_scores(y_true: Labels, y_pred: Labels) -> PrecisionRecallF:
    """BCubed precision, recall and F: the first two averaged over samples, singletons included."""
    return contingency(y_true, y_pred).bcubed()


def bcubed_f(y_true: Labels, y_pred: Labels) -> float:
    """F_B: harmonic mean of BCubed precision and recall."""
    return bcubed_scores(y_true, y_pred).f


def nmi(y_true: Labels, y_pred: Labels, *, average_method: AverageMethod = "arithmetic") -> float:
    """Normalized mutual information, equal to scikit-learn's; options and edge cases as `Contingency.nmi` says."""
    return contingency(y_true, y_pred).nmi(average_method)


def fmi(y_true: Labels, y_pred: Labels) -> float:
    """Fowlkes-Mallows index, sqrt(pairwise precision * recall).

    Equal to scikit-learn's but where neither labeling has a pair of samples: that agreement is 1 here and 0 there.
    """
    return contingency(y_true, y_pred).fmi()
