"""Proposals of LTC: groups of samples, of which a network says how good clusters they are."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.sparse
from scipy.sparse import csgraph

from intraformer_fast.graph import knn_graph
from intraformer_fast.pipeline import NeighborGraph

from .aggregation import edge_matrix

Members = npt.NDArray[np.int64]
"""The samples of a proposal, rising."""


def split(edges: scipy.sparse.csr_array, threshold: float, step: float, largest: int) -> npt.NDArray[np.int64]:
    """A partition int64 [N]: the connected components of the edges above the threshold; what has more than `largest` samples is
    split again, above a threshold higher by `step`."""
    labels = np.zeros(edges.shape[0], np.int64)
    edges = edges.tocoo()
    rows, columns, values = edges.row, edges.col, edges.data
    too_large = np.ones(len(labels), np.bool_)
    while too_large.any():
        kept = (values > threshold) & too_large[rows] & (labels[rows] == labels[columns])
        rows, columns, values = rows[kept], columns[kept], values[kept]
        linked = scipy.sparse.coo_array((values, (rows, columns)), shape=edges.shape)
        # What is small enough stays as it is: its samples have no edge here, so it has to keep its old label.
        parts = csgraph.connected_components(linked, directed=False)[1]
        labels = np.unique(np.where(too_large, parts + len(labels), labels), return_inverse=True)[1]
        too_large = np.bincount(labels)[labels] > largest
        threshold += step
    return labels


def groups(labels: npt.NDArray[np.int64]) -> list[Members]:
    """The samples of every part of a partition."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def propose(
    graph: NeighborGraph, thresholds: Iterable[float], *, step: float = 0.05, smallest: int = 3, largest: int = 300
) -> list[Members]:
    """Partitions at several thresholds, and for each the partitions of its parts, each part a sample again: its mean feature.

    Returns:
        Every group of `smallest` to `largest` samples once.
    """
    thresholds, edges, found = tuple(thresholds), edge_matrix(graph), {}

    def keep(proposal: Members) -> None:
        if smallest <= len(proposal) <= largest:
            found[proposal.tobytes()] = proposal

    for threshold in thresholds:
        parts = groups(split(edges, threshold, step, largest))
        for part in parts:
            keep(part)
        if len(parts) < 2:
            continue
        means = np.stack([graph.features[part].mean(axis=0) for part in parts])
        neighbors, similarity = knn_graph(means, min(graph.neighbors.shape[1], len(parts)))
        vertices = edge_matrix(NeighborGraph(means, np.arange(len(parts)), neighbors, similarity))
        for second in thresholds:
            for several in groups(split(vertices, second, step, largest)):
                if len(several) > 1:
                    keep(np.sort(np.concatenate([parts[i] for i in several])))
    return list(found.values())


@dataclass(frozen=True)
class Quality:
    """How good a cluster a proposal is, against the identity that most of it is of.

    Attributes:
        iou: samples in both, over those in either.
        iop: samples in both, over those of the proposal.
        identity: that identity.
    """

    iou: float
    iop: float
    identity: int


def quality(members: Members, labels: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64]) -> Quality:
    """Of a proposal; `sizes` [C] counts the samples of every identity."""
    identities, counts = np.unique(labels[members], return_counts=True)
    most = int(counts.argmax())
    both, identity = int(counts[most]), int(identities[most])
    return Quality(both / (len(members) + int(sizes[identity]) - both), both / len(members), identity)


def de_overlap(
    proposals: list[Members], score: npt.NDArray[np.floating], total: int, least: float
) -> npt.NDArray[np.int64]:
    """Labels int64 [total]: the best proposal takes its samples, the next what is left of its own, and so on down to score `least`.

    A sample that none takes is a cluster of its own.
    """
    labels = np.full(total, -1, np.int64)
    for i in np.argsort(-score, kind="stable"):
        if score[i] < least:
            break
        labels[proposals[i][labels[proposals[i]] < 0]] = i
    alone = np.flatnonzero(labels < 0)
    labels[alone] = len(proposals) + np.arange(len(alone))
    return labels
