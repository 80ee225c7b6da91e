"""Scores of clusterings (pairwise F, BCubed F, NMI, FMI) and of their fairness to groups."""

from .clustering import ClusteringScores, bcubed_f, bcubed_scores, fmi, nmi, pairwise_f, pairwise_scores, scores
from .contingency import Contingency, PrecisionRecallF, contingency
from .fairness import FairnessReport, GroupStatistics, fairness_report, group_statistics

__all__ = [
    "ClusteringScores",
    "Contingency",
    "FairnessReport",
    "GroupStatistics",
    "PrecisionRecallF",
    "bcubed_f",
    "bcubed_scores",
    "contingency",
    "fairness_report",
    "fmi",
    "group_statistics",
    "nmi",
    "pairwise_f",
    "pairwise_scores",
    "scores",
]
