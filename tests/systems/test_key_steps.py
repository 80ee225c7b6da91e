"""The step that makes each system what it is, against values worked out by hand."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from torch import nn

from intraformer_fast.bench.systems import (
    ada_nets,
    aggregation,
    chinese_whispers,
    fc_es,
    gcn_v,
    gcn_ve,
    omhc,
    peaks,
    star_fc,
)
from intraformer_fast.bench.systems.common_neighbors import common_sums
from intraformer_fast.graph import link
from intraformer_fast.pipeline import NeighborGraph

# Three samples, the last with a neighbour too few.
NEIGHBORS = np.array([[0, 1, 2], [1, 0, 2], [2, 1, -1]])
SIMILARITY = np.array([[1, 0.8, 0.5], [1, 0.8, 0.6], [1, 0.6, 0]], np.float32)
GRAPH = NeighborGraph(np.eye(3, dtype=np.float32), np.array([0, 0, 1]), NEIGHBORS, SIMILARITY)

TRIANGLES = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5)]
BRIDGE = (2, 3)


def weights(edges):
    """The symmetric matrix of edges (i, j, weight) among six samples."""
    i, j, w = zip(*edges, strict=True)
    half = scipy.sparse.csr_array((np.array(w, np.float32), (i, j)), shape=(6, 6))
    return (half + half.T).tocsr()


def test_mean_aggregation_takes_the_larger_direction_and_a_self_loop():
    # 0 and 2 are joined because 0 lists 2, though 2 does not list 0.
    expected = np.array([[1, 0.8, 0.5], [0.8, 1, 0.6], [0.5, 0.6, 1]])
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(aggregation.affinity(GRAPH).toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(aggregation.with_mean(GRAPH)[:, 3:], expected, rtol=1e-6)
    np.testing.assert_array_equal(aggregation.with_mean(GRAPH)[:, :3], np.eye(3))


def test_gcn_v_confidence_is_the_mean_signed_cosine():
    np.testing.assert_allclose(gcn_v.confidence(GRAPH), [(0.8 - 0.5) / 2, (0.8 - 0.6) / 2, -0.6], rtol=1e-6)


def test_gcn_v_joins_the_nearest_of_higher_confidence():
    height = np.array([0.15, 0.1, -0.6])
    assert peaks.parents(GRAPH, height, 0.7).tolist() == [-1, 0, -1]
    assert peaks.join_peaks(GRAPH, height, 0.7).tolist() == [0, 0, 1]
    assert peaks.join_peaks(GRAPH, height, 0.55).tolist() == [0, 0, 0]
    # Equal heights never join.
    assert peaks.join_peaks(GRAPH, np.zeros(3), 0.0).tolist() == [0, 1, 2]


def test_gcn_e_candidates_are_the_more_confident_neighbours_of_the_most_confident():
    neighbors = np.array([[0, 1, 2, 3], [1, 0, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0]])
    found = gcn_ve.candidates(neighbors, np.array([0.9, 0.5, 0.7, 0.1]), 0.75, 2)
    # 0 has nobody above it, and 3 is not among the best three.
    assert found.samples.tolist() == [1, 2]
    assert found.ids.tolist() == [[0, 2], [0, -1]]


def test_gcn_e_ignores_padding():
    torch.manual_seed(0)
    x = nn.functional.normalize(torch.randn(5, 4), dim=1)
    model = gcn_ve.ConnectivityNet(4, (6, 5))
    samples = torch.tensor([0])
    alone = model(x, torch.zeros(5), samples, torch.tensor([[1, 2]]))
    padded = model(x, torch.zeros(5), samples, torch.tensor([[1, 2, -1]]))
    torch.testing.assert_close(padded[:, :2], alone)
    assert padded[0, 2] == -math.inf


def test_star_fc_intimacy_cuts_a_bridge_between_two_cliques():
    edges = [*TRIANGLES, BRIDGE]
    lists = [[i, *(b if a == i else a for a, b in edges if i in (a, b))] for i in range(6)]
    neighbors = np.array([one + [-1] * (4 - len(one)) for one in lists])
    probability = np.full(neighbors.shape, 0.8, np.float32)
    # The ends of the bridge share two of their four neighbours, themselves counted: 0.5. All others share 3 of 3.
    assert (
        link(neighbors, probability, probability, threshold=0.7, intimacy_threshold=0.72).tolist() == [0] * 3 + [1] * 3
    )
    assert link(neighbors, probability, probability, threshold=0.7, intimacy_threshold=0.4).tolist() == [0] * 6


def test_star_fc_head_is_a_perceptron_on_the_pair():
    torch.manual_seed(0)
    model = star_fc.PairNet(3, 5)
    x = torch.randn(4, 6)
    h = model.convolution(x).relu()
    whole = nn.Linear(10, 5)
    whole.weight.data = torch.cat([model.first.weight, model.second.weight], dim=1)
    whole.bias.data = model.first.bias.data
    i, j = torch.tensor([0, 3]), torch.tensor([1, 0])
    torch.testing.assert_close(model(model.halves(x), i, j), model.rest(whole(torch.cat([h[i], h[j]], dim=1))))


def test_star_fc_subgraph_is_of_the_nearest_classes():
    angles = np.deg2rad([0, 2, 10, 12, 90, 92])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    labels = np.array([7, 7, 3, 3, 5, 5])
    near = star_fc.near_classes(features, labels)
    assert near.tolist() == [[3, 7, 5], [5, 3, 7], [7, 3, 5]]
    graph = NeighborGraph(features, labels, np.zeros((6, 2), np.int64), np.zeros((6, 2), np.float32))
    for seed in range(5):
        part = star_fc.StarFc(near=2, drawn=2, images=1.0).subgraph(graph, near, np.random.default_rng(seed))
        assert sorted(set(part.labels.tolist())) in ([3, 7], [3, 5])
        assert part.neighbors.shape == (4, 2)


def test_common_sums_against_matrices():
    random = np.random.default_rng(0)
    neighbors = np.stack([random.permutation(20)[:6] for _ in range(20)])
    neighbors[random.random(neighbors.shape) < 0.1] = -1
    left, right = random.random((2, 20, 6))
    dense = np.zeros((2, 20, 20))
    for i, j in np.argwhere(neighbors >= 0):
        dense[:, i, neighbors[i, j]] = left[i, j], right[i, j]
    expected = np.where(neighbors >= 0, (dense[0] @ dense[1].T)[np.arange(20)[:, None], neighbors], 0)
    np.testing.assert_allclose(common_sums(neighbors, left, right), expected, rtol=1e-5)


def test_fc_es_edge_probability_counts_the_common_neighbours_of_both_ends():
    p = np.array([[0.6, 0.4], [0.7, 0.3], [0.5, 0.5]], np.float32)
    neighbors = np.array([[0, 1], [1, 2], [2, 1]])
    # 0 and 1 share sample 1 alone; 1 and 2 list the same two.
    expected = [[1, (0.4 + 0.7) / 2], [1, (0.7 + 0.5 + 0.3 + 0.5) / 2], [1, 1]]
    np.testing.assert_allclose(fc_es.neighbor_edge_probability(neighbors, p), expected, rtol=1e-6)


def test_fc_es_transition_and_early_stop():
    p = fc_es.transition(GRAPH, 0.5)
    e = np.exp([0, -0.8, 0])
    np.testing.assert_allclose(p[2], [e[0] / (1 + math.exp(-1.6)), math.exp(-1.6) / (1 + math.exp(-1.6)), 0], rtol=1e-6)
    kept = fc_es.until_first_below(np.array([[1, 0.3, 0.1, 0.5], [1, 0.2, 0.2, 0.1]]), 0.2)
    assert kept.tolist() == [[True, True, False, False], [True, True, True, False]]


def test_ada_nets_jaccard_of_reciprocal_neighbours():
    neighbors = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 3], [3, 0, 1]])
    # 3 lists 0 and 1, but neither lists 3; 2 lists 3, but 3 does not list 2.
    assert ada_nets.reciprocal(neighbors, 3).tolist() == [
        [True, True, False],
        [True, True, True],
        [True, True, False],
        [True, False, False],
    ]
    # R_0 = {0, 1}, R_1 = {0, 1, 2}, R_2 = {1, 2}, R_3 = {3}.
    expected = [[1, 2 / 3, 1 / 3], [1, 2 / 3, 2 / 3], [1, 2 / 3, 0], [1, 0, 0]]
    np.testing.assert_allclose(ada_nets.jaccard(neighbors, 3), expected, rtol=1e-6)
    assert ada_nets.reciprocal(neighbors, 2)[1].tolist() == [True, True, False]


def test_omhc_density_diffuses_to_the_nearest():
    neighbors = np.array([[0, 1, 2], [1, 0, 2], [2, 1, -1]])
    distance = np.array([[0, 1, 3], [0, 0.5, 3], [0, 2, np.inf]])
    a, b, c = math.exp(-2), math.exp(-1), math.exp(-4)
    rho = omhc.density(neighbors, distance, 2, 0.5)
    expected = [1 / (1 + a) + b / (1 + b), a / (1 + a) + 1 / (1 + b) + c / (1 + c), 1 / (1 + c)]
    np.testing.assert_allclose(rho, expected, rtol=1e-6)


def test_omhc_distance_compares_transitions():
    # 0 and 1 go to the same two with the shares (3/4, 1/4) and (1/4, 3/4); 2 and 3 likewise with equal shares; 2 lists 0 too.
    neighbors = np.array([[0, 1], [1, 0], [2, 3], [3, 2]])
    near = math.log(3) * 0.05
    distance = np.array([[0, near], [0, near], [0, 0], [0, 0]])
    found = omhc.transition_distance(neighbors, distance, 0.05)
    np.testing.assert_allclose(found[:, 0], 0, atol=1e-6)
    np.testing.assert_allclose(found[0, 1], 1 - 2 * math.sqrt(3 / 16), rtol=1e-5)
    np.testing.assert_allclose(found[2, 1], 0, atol=1e-6)


def test_omhc_positions_are_sinusoids():
    table = omhc.sinusoids(3, 4)
    np.testing.assert_allclose(table[2], [math.sin(2), math.cos(2), math.sin(0.02), math.cos(0.02)], rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_chinese_whispers_keeps_cliques_apart(seed):
    graph = weights([(a, b, 1.0) for a, b in TRIANGLES] + [(*BRIDGE, 0.1)])
    labels = chinese_whispers.whisper(graph, 20, seed)
    assert len(set(labels[:3])) == len(set(labels[3:])) == 1
    assert labels[0] != labels[3]


def test_chinese_whispers_follows_the_heaviest_label_and_leaves_the_lonely_alone():
    # 1 hears 0 with 0.6, and 2 with 0.5; 3, 4 and 5 hear nobody.
    labels = chinese_whispers.whisper(weights([(0, 1, 0.6), (1, 2, 0.5)]), 20, 0)
    assert labels[0] == labels[1] == labels[2]
    assert labels[3:].tolist() == [3, 4, 5]
