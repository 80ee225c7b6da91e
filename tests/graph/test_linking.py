import sys
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score

from intraformer_fast.errors import DataError, MissingDependencyError
from intraformer_fast.graph import LINK_RULES, link, rules
from intraformer_fast.graph import table as table_module
from intraformer_fast.graph.communities import SYMMETRIZATIONS, edge_weights
from intraformer_fast.graph.table import neighbor_table

LEVELS = np.array([0, 0.15, 0.5, 0.75, 1], dtype=np.float32)


# The rules again, by dictionaries and sets: {i: {j: (similarity, probability)}} without padding and self.


def as_dictionary(neighbors, similarity, probability):
    return {
        i: {
            int(j): (float(s), float(p))
            for j, s, p in zip(neighbors[i], similarity[i], probability[i], strict=True)
            if j not in (-1, i)
        }
        for i in range(len(neighbors))
    }


def clusters_of(total, pairs):
    """Labels in order of first appearance."""
    of = {i: {i} for i in range(total)}
    for i, j in pairs:
        if of[i] is not of[j]:
            of[i] |= of[j]
            for member in of[j]:
                of[member] = of[i]
    names = {}
    return [names.setdefault(id(of[i]), len(names)) for i in range(total)]


def kept_pairs(table, threshold):
    return {(i, j) for i, row in table.items() for j, (_, p) in row.items() if p > threshold}


def components_twin(table, threshold):
    return clusters_of(len(table), kept_pairs(table, threshold))


def mutual_twin(table, threshold):
    kept = kept_pairs(table, threshold)
    return clusters_of(len(table), {(i, j) for i, j in kept if (j, i) in kept})


def intimacy_twin(table, threshold, intimacy_threshold):
    kept = kept_pairs(table, threshold)
    near = {i: {i} | {j for source, j in kept if source == i} for i in table}
    weight = {
        (i, j): max(len(near[i] & near[j]) / len(near[i]), len(near[i] & near[j]) / len(near[j])) for i, j in kept
    }
    return clusters_of(len(table), {pair for pair in kept if weight[pair] > intimacy_threshold})


def density_twin(table, threshold):
    confidence = {i: sum((s if p > threshold else -s for s, p in row.values()), 0.0) for i, row in table.items()}
    joins = set()
    for i, row in table.items():
        higher = [(-s, j) for j, (s, _) in row.items() if confidence[j] > confidence[i]]
        if higher:
            nearest = min(higher)[1]
            if row[nearest][1] > threshold:
                joins.add((i, nearest))
    return clusters_of(len(table), joins)


def weights_twin(table, symmetrize):
    """A dense matrix."""
    listed = np.zeros((len(table), len(table)))
    for i, row in table.items():
        for j, (_, p) in row.items():
            listed[i, j] = p
    if symmetrize == "min":
        return np.minimum(listed, listed.T)
    mean = (listed + listed.T) / 2
    if symmetrize == "mean":
        return mean
    mean[mean <= 0.1] = 0
    predicted = mean + np.eye(len(table))
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    return np.where(mean > 0, predicted @ predicted.T, 0)


@st.composite
def tables(draw):
    """Small tables with ties everywhere and edges that only one end lists, their columns in any order."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    total, width = draw(st.integers(1, 14)), draw(st.integers(1, 9))
    neighbors = np.full((total, width), -1)
    similarity = np.zeros((total, width), dtype=np.float32)
    probability = np.zeros((total, width), dtype=np.float32)
    for i in range(total):
        count = random.integers(1, min(total, width) + 1)
        place = random.permutation(width)[:count]
        neighbors[i, place] = [i, *random.permutation(np.delete(np.arange(total), i))[: count - 1]]
        similarity[i, place] = [1, *random.choice(LEVELS, count - 1)]
        probability[i, place] = random.choice(LEVELS, count, p=[0.1, 0.1, 0.1, 0.3, 0.4])
    return neighbors, similarity, probability


thresholds = st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75, 1.0])
CASES = [
    ("components", {}),
    ("mutual", {}),
    ("intimacy", {}),
    ("intimacy", {"intimacy_threshold": 0.5}),
    ("density", {}),
]
ALL_CASES = [
    *CASES,
    ("communities", {}),
    ("communities", {"symmetrize": "mean", "resolution": 0.5}),
    ("communities", {"symmetrize": "agreement"}),
    ("communities", {"method": "leiden"}),
]


@pytest.mark.parametrize(
    ("rule", "twin"), [("components", components_twin), ("mutual", mutual_twin), ("density", density_twin)]
)
@settings(max_examples=150)
@given(table=tables(), threshold=thresholds)
def test_rule_equals_its_twin(rule, twin, table, threshold):
    labels = link(*table, rule=rule, threshold=threshold)
    assert labels.dtype == np.int64
    assert labels.tolist() == twin(as_dictionary(*table), threshold)


@settings(max_examples=300)
@given(
    table=tables(), threshold=thresholds, intimacy_threshold=st.sampled_from([0.0, 1 / 3, 0.5, 0.6, 2 / 3, 0.75, 1.0])
)
def test_intimacy_equals_its_twin(table, threshold, intimacy_threshold):
    labels = link(*table, rule="intimacy", threshold=threshold, intimacy_threshold=intimacy_threshold)
    assert labels.tolist() == intimacy_twin(as_dictionary(*table), threshold, intimacy_threshold)


@pytest.mark.parametrize("symmetrize", SYMMETRIZATIONS)
@settings(max_examples=150)
@given(table=tables())
def test_edge_weights_equal_their_twin(symmetrize, table):
    weights = edge_weights(neighbor_table(*table), symmetrize)
    np.testing.assert_allclose(weights.toarray(), weights_twin(as_dictionary(*table), symmetrize), atol=1e-6)


@pytest.mark.parametrize("symmetrize", SYMMETRIZATIONS)
@pytest.mark.parametrize("method", ["louvain", "leiden"])
@settings(max_examples=40)
@given(table=tables(), threshold=thresholds)
def test_communities_stay_within_the_edges_above_the_threshold(method, symmetrize, table, threshold):
    pytest.importorskip("sknetwork")
    labels = link(*table, rule="communities", threshold=threshold, method=method, symmetrize=symmetrize)
    weights = weights_twin(as_dictionary(*table), symmetrize)
    # A little less than the threshold: a weight equal to it may be rounded to either side.
    connected = clusters_of(len(labels), zip(*np.nonzero(weights > threshold - 1e-6), strict=True))
    outer = {label: connected[i] for i, label in enumerate(labels)}
    assert [outer[label] for label in labels] == connected


@pytest.mark.parametrize(("rule", "options"), CASES)
@settings(max_examples=60)
@given(table=tables(), threshold=thresholds, seed=st.integers(0, 1000))
def test_what_stands_at_padding_does_not_count(rule, options, table, threshold, seed):
    neighbors = table[0]
    total, width = neighbors.shape
    padded = [
        np.full((total, width + 12), fill, array.dtype) for array, fill in zip(table, (-1, np.nan, np.nan), strict=True)
    ]
    places = np.sort(np.random.default_rng(seed).permutation(width + 12)[:width])
    for wide, array in zip(padded, table, strict=True):
        wide[:, places] = np.where(neighbors >= 0, array, wide[:, places])
    expected = link(*table, rule=rule, threshold=threshold, **options)
    np.testing.assert_array_equal(link(*padded, rule=rule, threshold=threshold, **options), expected)


@pytest.mark.parametrize(("rule", "options"), CASES[:-1])
@settings(max_examples=60)
@given(table=tables(), threshold=thresholds, seed=st.integers(0, 1000))
def test_renaming_samples_renames_clusters(rule, options, table, threshold, seed):
    neighbors, similarity, probability = table
    order = np.random.default_rng(seed).permutation(len(neighbors))
    name = np.append(np.argsort(order), -1)  # the last entry is where -1 points
    renamed = link(
        name[neighbors[order]], similarity[order], probability[order], rule=rule, threshold=threshold, **options
    )
    labels = link(*table, rule=rule, threshold=threshold, **options)[order]
    np.testing.assert_array_equal(labels[:, None] == labels, renamed[:, None] == renamed)


@pytest.mark.parametrize(("rule", "options"), ALL_CASES)
@settings(max_examples=30)
@given(table=tables(), threshold=thresholds)
def test_labels_are_numbered_by_first_appearance_and_repeat(rule, options, table, threshold):
    labels = link(*table, rule=rule, threshold=threshold, **options)
    _, first = np.unique(labels, return_index=True)
    assert labels[np.sort(first)].tolist() == list(range(len(first)))
    np.testing.assert_array_equal(link(*table, rule=rule, threshold=threshold, **options), labels)


@settings(max_examples=60)
@given(table=tables(), threshold=thresholds)
def test_intimacy_threshold_of_zero_is_components(table, threshold):
    intimate = link(*table, rule="intimacy", threshold=threshold, intimacy_threshold=0)
    np.testing.assert_array_equal(intimate, link(*table, rule="components", threshold=threshold))


def complete(total, probability):
    """Everyone lists everyone, itself first."""
    neighbors = np.array([[i, *np.delete(np.arange(total), i)] for i in range(total)])
    return (
        neighbors,
        np.full(neighbors.shape, 0.5, np.float32),
        np.asarray(probability)[np.arange(total)[:, None], neighbors],
    )


# The threshold of "agreement" is one of agreements: its test is that of the weights.
@pytest.mark.parametrize(("rule", "options"), [case for case in ALL_CASES if "agreement" not in case[1].values()])
def test_threshold_is_exceeded_not_reached(rule, options):
    table = complete(4, np.full((4, 4), 0.5, np.float32))
    assert link(*table, rule=rule, threshold=0.5, **options).tolist() == [0, 1, 2, 3]
    if rule != "density":  # where equal confidences never join
        assert link(*table, rule=rule, threshold=0.4999, **options).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(("rule", "options"), ALL_CASES)
def test_one_sample_is_one_cluster(rule, options):
    assert link(np.array([[0, -1]]), np.array([[1.0, 0]]), np.array([[1.0, 0]]), rule=rule, **options).tolist() == [0]


def test_intimacy_links_two_samples_that_keep_only_each_other():
    labels = link(np.array([[0, 1], [1, 0], [2, 0]]), np.ones((3, 2)), np.array([[1, 0.9], [1, 0.9], [1, 0.1]]))
    assert labels.tolist() == [0, 0, 1]


def test_intimacy_cuts_the_bridge_between_two_cliques():
    same = np.kron(np.eye(2), np.ones((4, 4)))
    same[3, 4] = same[4, 3] = 0.9
    table = complete(8, same)
    assert link(*table, rule="components").tolist() == [0] * 8
    assert link(*table, rule="intimacy").tolist() == [0] * 4 + [1] * 4


def test_density_joins_the_nearest_even_if_a_farther_edge_is_kept():
    # 0 lists 1 (nearest, not kept) and 2 (kept); both have higher confidence than 0, so 0 stays a peak.
    neighbors = np.array([[0, 1, 2], [1, 2, 3], [2, 1, 3], [3, 1, 2]])
    similarity = np.array([[1, 0.9, 0.8], [1, 0.7, 0.6], [1, 0.7, 0.5], [1, 0.6, 0.5]])
    probability = np.array([[1, 0.2, 0.9], [1, 0.9, 0.9], [1, 0.9, 0.9], [1, 0.9, 0.9]])
    assert link(neighbors, similarity, probability, rule="density").tolist() == [0, 1, 1, 1]


def planted(clusters=12, size=15, width=10, seed=0):
    """Mostly edges within clusters with probability .9, some between with .6."""
    random = np.random.default_rng(seed)
    truth = random.permutation(np.repeat(np.arange(clusters), size))
    neighbors = np.empty((len(truth), width), dtype=np.int64)
    for i, label in enumerate(truth):
        friends = random.permutation(np.setdiff1d(np.flatnonzero(truth == label), [i]))[: width - 2]
        neighbors[i] = [i, *friends, random.choice(np.flatnonzero(truth != label))]
    probability = np.where(truth[neighbors] == truth[:, None], 0.9, 0.6)
    return truth, (neighbors, probability + random.uniform(-0.1, 0.1, probability.shape), probability)


@pytest.mark.parametrize("symmetrize", SYMMETRIZATIONS)
@pytest.mark.parametrize("method", ["louvain", "leiden", "infomap"])
def test_communities_find_planted_clusters(method, symmetrize):
    pytest.importorskip("infomap" if method == "infomap" else "sknetwork")
    truth, table = planted()
    labels = link(*table, rule="communities", method=method, symmetrize=symmetrize, threshold=0.2)
    assert normalized_mutual_info_score(truth, labels) > 0.99
    assert len(set(link(*table, rule="components", threshold=0.2))) == 1
    # Sample 5 becomes one that nothing links.
    neighbors = np.insert(table[0] + (table[0] >= 5), 5, -1, axis=0)
    probability = np.insert(table[2], 5, 0, axis=0)
    labels = link(
        neighbors, probability, probability, rule="communities", method=method, symmetrize=symmetrize, threshold=0.2
    )
    assert np.flatnonzero(labels == labels[5]).tolist() == [5]


def test_higher_resolution_gives_more_communities():
    pytest.importorskip("sknetwork")
    _, table = planted()
    found = [link(*table, rule="communities", threshold=0.2, resolution=r).max() for r in (0.05, 1, 20)]
    assert found[0] < found[1] < found[2]


@pytest.mark.parametrize(
    ("method", "module", "said"),
    [
        ("louvain", "sknetwork.clustering", r"scikit-network.*\[communities\]"),
        ("leiden", "sknetwork.clustering", r"scikit-network.*\[communities\]"),
        ("infomap", "infomap", r"infomap.*\[infomap\]"),
    ],
)
def test_missing_community_package_is_named(monkeypatch, method, module, said):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=said):
        link(*planted()[1], rule="communities", method=method)


@pytest.mark.parametrize("rule", LINK_RULES)
def test_torch_in_torch_out(rule):
    _, table = planted()
    expected = link(*table, rule=rule)
    labels = link(*(torch.from_numpy(array) for array in table), rule=rule)
    assert labels.dtype == torch.int64
    np.testing.assert_array_equal(labels.numpy(), expected)


@pytest.mark.parametrize("kind", [np.float16, np.float64, torch.bfloat16, torch.half])
@pytest.mark.parametrize(("rule", "options"), ALL_CASES)
def test_every_floating_dtype_is_read_alike(rule, options, kind):
    _, (neighbors, _, probability) = planted()
    probability = np.where(probability > 0.7, 0.875, 0.625).astype(np.float32)  # exact in every dtype
    expected = link(neighbors, probability, probability, rule=rule, **options)
    given = torch.from_numpy(probability).to(kind) if isinstance(kind, torch.dtype) else probability.astype(kind)
    np.testing.assert_array_equal(link(neighbors.astype(np.int32), given, given, rule=rule, **options), expected)


def test_result_does_not_depend_on_block_sizes(monkeypatch):
    _, planted_table = planted()
    expected = {rule: link(*planted_table, rule=rule) for rule in LINK_RULES}
    monkeypatch.setattr(table_module, "BLOCK_ELEMENTS", 70)
    monkeypatch.setattr(rules, "BLOCK_ELEMENTS", 70)
    for rule in LINK_RULES:
        np.testing.assert_array_equal(link(*planted_table, rule=rule), expected[rule])


@pytest.mark.parametrize(("rule", "options"), ALL_CASES)
def test_memory_grows_with_edges_not_with_samples_squared(rule, options):
    total = 200_000
    neighbors = (np.arange(total)[:, None] + [0, 1, -1, 2]) % total
    similarity = np.tile(np.array([1, 0.9, 0.9, 0.8], np.float32), (total, 1))
    tracemalloc.start()
    labels = link(neighbors, similarity, similarity, rule=rule, **options)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(labels) == total
    assert peak < 150 * 2**20


def test_intimacy_survives_a_sample_that_everyone_keeps():
    # near @ near.T would hold every pair here: 3.6 billion counts.
    total = 60_000
    neighbors = np.column_stack([np.arange(total), np.zeros(total, dtype=np.int64)])
    neighbors[0, 1] = 1
    tracemalloc.start()
    labels = link(neighbors, np.ones(neighbors.shape), np.ones(neighbors.shape), intimacy_threshold=0.4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (labels == 0).all()
    assert peak < 40 * 2**20


GOOD = (np.array([[0, 1], [1, 0], [2, -1]]), np.full((3, 2), 0.5), np.full((3, 2), 0.5))


def changed(which, row, column, value):
    arrays = [array.copy() for array in GOOD]
    arrays[which][row, column] = value
    return arrays


@pytest.mark.parametrize(
    ("arrays", "error", "said"),
    [
        (changed(0, 1, 1, 3), DataError, "an id below 3, but row 1 holds 3"),
        (changed(0, 2, 1, -2), DataError, "but row 2 holds -2"),
        (changed(0, 1, 1, 1), DataError, "twice in a row, but row 1 holds 1"),
        (changed(1, 1, 1, np.nan), DataError, "similarity must be finite, but row 1 holds nan"),
        (changed(1, 0, 1, -np.inf), DataError, "similarity must be finite, but row 0 holds -inf"),
        (changed(2, 1, 1, np.nan), DataError, r"probability must lie in \[0, 1\], but row 1 holds nan"),
        (changed(2, 1, 1, 1.5), DataError, "but row 1 holds 1.5"),
        (changed(2, 0, 1, -0.1), DataError, "but row 0 holds -0.1"),
        ((GOOD[0][0], *GOOD[1:]), ValueError, r"\[N, n\].*shape \(2,\)"),
        ((GOOD[0][:0], *GOOD[1:]), ValueError, r"at least one row.*\(0, 2\)"),
        ((GOOD[0].astype(float), *GOOD[1:]), TypeError, "neighbors must be integers, got dtype float64"),
        (
            (GOOD[0], GOOD[1][:2], GOOD[2]),
            ValueError,
            r"similarity must have the shape of neighbors, \(3, 2\), got \(2, 2\)",
        ),
        ((GOOD[0], GOOD[1], GOOD[2][:, :1]), ValueError, r"probability must have .* got \(3, 1\)"),
        ((GOOD[0], GOOD[1], GOOD[2] > 0), TypeError, "probability must be floating numbers, got dtype bool"),
    ],
)
@pytest.mark.parametrize("rule", LINK_RULES)
def test_bad_arrays_are_told(rule, arrays, error, said):
    with pytest.raises(error, match=said):
        link(*arrays, rule=rule)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rule": "magic"}, "one of intimacy, density, mutual, communities, components, got 'magic'"),
        ({"threshold": 1.5}, r"threshold must lie in \[0, 1\], got 1.5"),
        ({"threshold": float("nan")}, "got nan"),
        ({"intimacy_threshold": -1}, r"intimacy_threshold must lie in \[0, 1\], got -1"),
        ({"rule": "density", "resolution": 2}, "'density' has no option resolution: it takes no options but threshold"),
        ({"rule": "intimacy", "seed": 2}, "'intimacy' has no option seed: it takes intimacy_threshold"),
        ({"rule": "communities", "intimacy_threshold": 0.5}, "takes method, resolution, symmetrize, seed"),
        ({"rule": "communities", "method": "walktrap"}, "'louvain', 'leiden' or 'infomap', got 'walktrap'"),
        ({"rule": "communities", "symmetrize": "max"}, "'min', 'mean', 'agreement', got 'max'"),
        ({"rule": "communities", "resolution": 0}, "resolution must be positive and finite, got 0"),
        ({"rule": "communities", "method": "infomap", "resolution": 1.0}, "'infomap' has no resolution"),
        ({"rule": "communities", "seed": -1}, "seed must not be negative, got -1"),
    ],
)
def test_bad_options_are_told(options, said):
    with pytest.raises(ValueError, match=said):
        link(*GOOD, **options)
