"""The proposals of LTC, their quality, their graph and how their overlap is resolved, by hand."""

import numpy as np
import scipy.sparse
import torch

from intraformer_fast.bench.systems import ltc, proposals
from intraformer_fast.pipeline import NeighborGraph, neighbor_graph


def edges(listed, count):
    i, j, cosine = zip(*listed, strict=True)
    return scipy.sparse.csr_array((np.array(cosine, np.float32), (i, j)), shape=(count, count))


def test_what_is_too_large_is_split_above_a_higher_threshold_and_the_rest_is_left():
    listed = [(0, 1, 0.9), (1, 2, 0.65), (3, 4, 0.62), (5, 0, 0.5)]
    labels = proposals.split(edges(listed, 6), 0.6, 0.1, 2)
    # {0, 1, 2} has three: at 0.7 it loses 2. {3, 4} stays, though at 0.7 it would break.
    assert [group.tolist() for group in proposals.groups(labels)] == [[3, 4], [5], [0, 1], [2]]
    assert len(proposals.groups(proposals.split(edges(listed, 6), 0.6, 0.1, 3))) == 3


def test_second_iteration_proposes_unions_of_parts():
    # Two tight pairs near each other, and a third far off.
    angles = np.deg2rad([0, 1, 40, 41, 180, 181])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    graph = neighbor_graph(features, np.arange(6), 4)
    found = proposals.propose(graph, (0.9, 0.7), smallest=2, largest=4)
    as_lists = sorted(one.tolist() for one in found)
    assert as_lists == [[0, 1], [0, 1, 2, 3], [2, 3], [4, 5]]


def test_quality_is_measured_against_the_main_identity():
    labels = np.array([0, 0, 1, 0])
    found = proposals.quality(np.array([0, 1, 2]), labels, np.bincount(labels))
    assert (found.iou, found.iop, found.identity) == (2 / 4, 2 / 3, 0)


def test_overlap_goes_to_the_better_proposal():
    listed = [np.array([0, 1, 2]), np.array([2, 3]), np.array([4, 5])]
    labels = proposals.de_overlap(listed, np.array([0.8, 0.9, 0.1]), 7, 0.2)
    assert labels[2] == labels[3]  # the second is better, and takes 2 first
    assert labels[0] == labels[1] != labels[2]
    assert len(set(labels[4:])) == 3  # too bad a proposal, and one that nobody proposed


def test_a_batch_has_edges_inside_its_proposals_alone():
    neighbors = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 3], [3, 2, 1]])
    similarity = np.array([[1, 0.8, 0.5], [1, 0.8, 0.6], [1, 0.6, 0.4], [1, 0.4, 0.3]], np.float32)
    graph = NeighborGraph(np.eye(4, dtype=np.float32), np.zeros(4, np.int64), neighbors, similarity)
    batch = ltc.batch_of(graph, [np.array([0, 2]), np.array([1, 2, 3])])
    assert batch.samples.tolist() == [0, 2, 1, 2, 3]
    assert batch.lengths.tolist() == [2, 3]
    # 0 and 2: 0 lists 2 with 0.5. Then 1, 2, 3, where all list each other in one direction at least.
    expected = np.zeros((5, 5))
    expected[:2, :2] = [[1, 0.5], [0.5, 1]]
    expected[2:, 2:] = [[1, 0.6, 0.3], [0.6, 1, 0.4], [0.3, 0.4, 1]]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(batch.mean.to_dense(), expected, rtol=1e-6)


def test_scores_do_not_depend_on_what_else_is_in_a_batch():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    features = random.standard_normal((30, 8)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    graph = neighbor_graph(features, np.arange(30), 8)
    listed = [np.sort(random.permutation(30)[:size]) for size in (3, 7, 5)]
    model, x = ltc.ProposalNet(8, (6, 5)), torch.from_numpy(features)
    together = model(x, ltc.batch_of(graph, listed))
    alone = [model(x, ltc.batch_of(graph, [one])) for one in listed]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        torch.testing.assert_close(whole, torch.cat(parts), atol=1e-6, rtol=1e-5)
