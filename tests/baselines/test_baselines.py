"""The classical methods against data with known clusters, and against scikit-learn and scipy on all pairs."""

import numpy as np
import pytest
from scipy.cluster.hierarchy import linkage
from scipy.spatial.distance import pdist
from sklearn.cluster import HDBSCAN
from sklearn.metrics import adjusted_rand_score

from intraformer_fast.bench import baselines
from intraformer_fast.graph import knn_graph

NUM_CLASSES, CLASS_SIZE, WIDTH = 9, 12, 16


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def toy():
    """Tight classes round orthogonal directions: features, true labels."""
    rng = np.random.default_rng(5)
    labels = rng.permutation(np.repeat(np.arange(NUM_CLASSES), CLASS_SIZE))
    return unit(np.eye(WIDTH)[labels] + 0.05 * rng.standard_normal((len(labels), WIDTH))), labels


@pytest.fixture(scope="module")
def hard():
    """Overlapping classes of uneven width, so that merge heights and noise carry information."""
    rng = np.random.default_rng(11)
    labels = np.repeat(np.arange(12), 20)
    spread = rng.uniform(0.1, 0.5, 12)[labels, None]
    return unit(rng.standard_normal((12, WIDTH))[labels] / 3 + spread * rng.standard_normal((240, WIDTH)))


METHODS = {
    "connected components": lambda x, n, s: baselines.connected_components(n, s, 0.6),
    "k-means": lambda x, n, s: baselines.kmeans(x, NUM_CLASSES),
    "average linkage": lambda x, n, s: baselines.cut_tree(baselines.average_linkage_tree(x), 0.5),
    "hdbscan, every neighbor": lambda x, n, s: baselines.hdbscan(*knn_graph(x, len(x))),
    "hdbscan, graph in parts": lambda x, n, s: baselines.hdbscan(n, s),
}


@pytest.mark.parametrize("method", METHODS)
def test_obvious_clusters_are_found_and_found_again(method, toy):
    features, truth = toy
    graph = knn_graph(features, CLASS_SIZE)
    labels = METHODS[method](features, *graph)
    assert labels.dtype == np.int64
    assert labels.shape == truth.shape
    assert adjusted_rand_score(truth, labels) == 1
    np.testing.assert_array_equal(labels, METHODS[method](features, *graph))


def test_components_join_across_one_directed_edge_and_skip_padding():
    # 0 lists 1 but 1 does not list 0; the edge of 2 and 3 is exactly at the threshold; 4 has padding only.
    neighbors = np.array([[0, 1], [1, 2], [2, 3], [3, 2], [4, -1]])
    similarity = np.array([[1, 0.9], [1, 0.1], [1, 0.5], [1, 0.5], [1, 0.0]], dtype=np.float32)
    labels = baselines.connected_components(neighbors, similarity, 0.5)
    assert labels[0] == labels[1]
    assert len(np.unique(labels)) == 4
    # A negative cosine is an edge at no threshold.
    assert len(np.unique(baselines.connected_components(neighbors, -similarity, 0.0))) == 5


def test_rank_cutoff_marks_the_first_neighbors_and_no_padding():
    neighbors = np.array([[0, 1, 2, 3], [1, 0, -1, -1]])
    probability = baselines.rank_cutoff_probability(neighbors, 3)
    assert probability.dtype == np.float32
    np.testing.assert_array_equal(probability, [[1, 1, 1, 0], [1, 1, 0, 0]])


def test_kmeans_depends_on_the_seed_alone(hard):
    labels = baselines.kmeans(hard, 30, seed=3)
    assert len(np.unique(labels)) == 30
    np.testing.assert_array_equal(labels, baselines.kmeans(hard, 30, seed=3))
    assert (labels != baselines.kmeans(hard, 30, seed=4)).any()


def test_average_linkage_equals_scipy_on_all_pairs(hard):
    tree = baselines.average_linkage_tree(hard)
    expected = linkage(pdist(hard.astype(np.float64), "cosine"), "average")
    np.testing.assert_array_equal(tree[:, [0, 1, 3]], expected[:, [0, 1, 3]])
    np.testing.assert_allclose(tree[:, 2], expected[:, 2], atol=1e-6)


def test_average_linkage_in_several_blocks_equals_pdist():
    features = unit(np.random.default_rng(0).standard_normal((1100, 8)))
    expected = pdist(features.astype(np.float64), "cosine")
    np.testing.assert_allclose(baselines._cosine_distances(features), expected, atol=1e-6)


def test_a_cut_holds_no_cluster_of_a_larger_mean_distance():
    # Angles 0, 10 and 40 degrees: merges at 1 - cos(10) and at the mean of 1 - cos(40) and 1 - cos(30).
    angles = np.deg2rad([0, 10, 40])
    tree = baselines.average_linkage_tree(unit(np.stack([np.cos(angles), np.sin(angles)], axis=1)))
    last = 1 - (np.cos(np.deg2rad(40)) + np.cos(np.deg2rad(30))) / 2
    assert tree[:, 2] == pytest.approx([1 - np.cos(np.deg2rad(10)), last], abs=1e-6)
    assert len(np.unique(baselines.cut_tree(tree, last - 1e-4))) == 2
    assert baselines.cut_tree(tree, last + 1e-4).tolist() == [0, 0, 0]
    assert len(np.unique(baselines.cut_tree(tree, 0.0))) == 3


@pytest.mark.parametrize(("min_samples", "agreement"), [(1, 1.0), (3, 0.99)])
def test_hdbscan_on_every_neighbor_equals_scikit_learn_on_all_pairs(min_samples, agreement, hard):
    # Several samples make mutual reachability distances equal, and equal ones can be merged in another order.
    options = {"min_cluster_size": 5, "min_samples": min_samples}
    labels = baselines.hdbscan(*knn_graph(hard, len(hard)), **options)
    expected = HDBSCAN(algorithm="brute", copy=True, **options).fit_predict(hard)
    np.testing.assert_array_equal(labels == -1, expected == -1)
    assert 0 < (expected == -1).sum() < len(hard)
    assert adjusted_rand_score(expected, labels) >= agreement


def test_hdbscan_calls_stray_samples_noise():
    # The classes lie nearer to each other (cosine 0.5) than any stray to anything, so strays fall out before classes part.
    rng = np.random.default_rng(8)
    truth = np.repeat(np.arange(NUM_CLASSES), CLASS_SIZE)
    axes = np.eye(WIDTH)
    classes = axes[truth] + axes[-1] + 0.05 * rng.standard_normal((len(truth), WIDTH))
    stray = 2 * axes[NUM_CLASSES : NUM_CLASSES + 3] - axes[-1]
    labels = baselines.hdbscan(*knn_graph(unit(np.concatenate([classes, stray])), 2 * CLASS_SIZE))
    np.testing.assert_array_equal(labels[-3:], [-1, -1, -1])
    assert adjusted_rand_score(truth, labels[:-3]) == 1


def test_hdbscan_keeps_duplicates_together(toy):
    features, truth = toy
    doubled = np.concatenate([features, features])
    labels = baselines.hdbscan(*knn_graph(doubled, 2 * CLASS_SIZE))
    np.testing.assert_array_equal(labels[: len(features)], labels[len(features) :])
    assert adjusted_rand_score(np.concatenate([truth, truth]), labels) == 1


@pytest.mark.parametrize("count", [1, 3])
def test_hdbscan_of_fewer_samples_than_a_cluster_is_all_noise(count):
    labels = baselines.hdbscan(*knn_graph(np.eye(4, dtype=np.float32)[:count], 4))
    np.testing.assert_array_equal(labels, [-1] * count)


GRAPH = (np.array([[0, 1], [1, 0]]), np.ones((2, 2), dtype=np.float32))
ROWS = np.eye(3, dtype=np.float32)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: baselines.connected_components(GRAPH[0], np.ones((2, 3), np.float32), 0.5), r"\(2, 2\).*\(2, 3\)"),
        (lambda: baselines.rank_cutoff_probability(GRAPH[0], 0), "r is 0;.* 2 neighbors"),
        (lambda: baselines.rank_cutoff_probability(GRAPH[0], 3), "r is 3;"),
        (lambda: baselines.kmeans(ROWS, 0), "num_clusters is 0;"),
        (lambda: baselines.kmeans(ROWS, 4), "num_clusters is 4;.* 3 samples"),
        (lambda: baselines.average_linkage_tree(ROWS[:1]), "hold 1 samples"),
        (lambda: baselines.hdbscan(*GRAPH, min_cluster_size=1), "min_cluster_size is 1;"),
        (lambda: baselines.hdbscan(*GRAPH, min_samples=0), "min_samples is 0;"),
        (lambda: baselines.hdbscan(*GRAPH, min_samples=3), "min_samples is 3;.* 2 neighbors"),
        (lambda: baselines.hdbscan(GRAPH[0], GRAPH[1][:1]), r"\(1, 2\)"),
    ],
)
def test_bad_arguments_are_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_average_linkage_refuses_too_many_samples_before_it_allocates():
    # A broadcast row claims a size whose pairs no machine could hold.
    many = np.broadcast_to(np.ones((1, 2), dtype=np.float32), (10**9, 2))
    with pytest.raises(ValueError, match=f"1000000000 samples.*{baselines.MAX_LINKAGE_SAMPLES}"):
        baselines.average_linkage_tree(many)
