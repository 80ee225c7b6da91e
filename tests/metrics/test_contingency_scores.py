"""Clustering scores against golden values, brute force over pairs and samples, and scikit-learn."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import fowlkes_mallows_score, normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

from intraformer_fast import metrics

AVERAGE_METHODS = ("arithmetic", "geometric", "min", "max")
INT64 = np.iinfo(np.int64)


@st.composite
def labelings(draw, min_true=0, min_pred=0):
    """Two lists of one length, from few values (large clusters) to many (singletons)."""
    size = draw(st.integers(1, 40))
    return tuple(
        draw(st.lists(st.integers(low, draw(st.sampled_from([0, 1, 4, 40]))), min_size=size, max_size=size))
        for low in (min_true, min_pred)
    )


def brute_pairwise(y_true, y_pred):
    both = true = predicted = 0
    for i, j in itertools.combinations(range(len(y_true)), 2):
        same_class, same_cluster = y_true[i] == y_true[j], y_pred[i] == y_pred[j] != -1
        both += same_class and same_cluster
        true += same_class
        predicted += same_cluster
    if not true and not predicted:
        return 1.0, 1.0
    return (both / predicted if predicted else 0.0), (both / true if true else 0.0)


def brute_bcubed(y_true, y_pred):
    precisions, recalls = [], []
    for i in range(len(y_true)):
        cluster = {j for j in range(len(y_true)) if j == i or y_pred[j] == y_pred[i] != -1}
        of_class = {j for j in range(len(y_true)) if y_true[j] == y_true[i]}
        precisions.append(len(cluster & of_class) / len(cluster))
        recalls.append(len(cluster & of_class) / len(of_class))
    return sum(precisions) / len(y_true), sum(recalls) / len(y_true)


def f_measure(precision, recall):
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_published_example():
    y_true, y_pred = [1, 1, 2, 2, 3, 4, 5], [1, 2, 2, 2, 3, 4, 5]
    precision, recall, f = metrics.bcubed_scores(y_true, y_pred)
    assert (precision, recall) == pytest.approx((17 / 21, 6 / 7), rel=1e-15)
    assert f == metrics.bcubed_f(y_true, y_pred) == pytest.approx(204 / 245, rel=1e-15)
    precision, recall, f = metrics.pairwise_scores(y_true, y_pred)
    assert (precision, recall) == (1 / 3, 1 / 2)
    assert f == metrics.pairwise_f(y_true, y_pred) == pytest.approx(0.4, rel=1e-15)
    assert metrics.fmi(y_true, y_pred) == pytest.approx(math.sqrt(1 / 6), rel=1e-15)
    assert type(metrics.pairwise_f(y_true, y_pred)) is type(metrics.bcubed_f(y_true, y_pred)) is float


@given(labelings(min_pred=-1))
def test_pairwise_and_bcubed_equal_brute_force(labels):
    pairwise, bcubed = metrics.pairwise_scores(*labels), metrics.bcubed_scores(*labels)
    assert pairwise[:2] == brute_pairwise(*labels)
    assert bcubed[:2] == pytest.approx(brute_bcubed(*labels), rel=1e-13)
    assert pairwise.f == pytest.approx(f_measure(*brute_pairwise(*labels)), rel=1e-13)
    assert bcubed.f == pytest.approx(f_measure(*brute_bcubed(*labels)), rel=1e-13)


@given(labelings())
def test_equal_to_sklearn(labels):
    for method in AVERAGE_METHODS:
        expected = normalized_mutual_info_score(*labels, average_method=method)
        assert metrics.nmi(*labels, average_method=method) == pytest.approx(expected, abs=1e-12)
    (_, wrong), (missed, both) = pair_confusion_matrix(*labels)
    precision, recall, _ = metrics.pairwise_scores(*labels)
    if both + wrong:
        assert precision == both / (both + wrong)
    if both + missed:
        assert recall == both / (both + missed)
    if wrong + missed + both:
        assert metrics.fmi(*labels) == pytest.approx(fowlkes_mallows_score(*labels), rel=1e-13)


def test_equal_to_sklearn_on_many_samples():
    rng = np.random.default_rng(7)
    y_true = rng.integers(0, 700, 20_000)
    y_pred = np.where(rng.random(20_000) < 0.3, rng.integers(0, 2_000, 20_000), y_true)
    for method in AVERAGE_METHODS:
        expected = normalized_mutual_info_score(y_true, y_pred, average_method=method)
        assert metrics.nmi(y_true, y_pred, average_method=method) == pytest.approx(expected, rel=1e-12)
    assert metrics.fmi(y_true, y_pred) == pytest.approx(fowlkes_mallows_score(y_true, y_pred), rel=1e-12)


@given(labelings(min_pred=-1))
def test_scores_are_those_of_the_single_functions_and_within_0_and_1(labels):
    result = metrics.scores(*labels)
    assert result.pairwise == metrics.pairwise_scores(*labels)
    assert result.bcubed == metrics.bcubed_scores(*labels)
    assert result.nmi == metrics.nmi(*labels)
    assert result.fmi == metrics.fmi(*labels)
    assert all(0 <= value <= 1 for value in (*result.pairwise, *result.bcubed, result.nmi, result.fmi))
    assert result.num_samples == len(labels[0])
    assert result.num_classes == len(set(labels[0]))
    assert result.num_clusters == len(set(labels[1]) - {-1}) + labels[1].count(-1)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "pairwise", "bcubed", "nmi"),
    [
        pytest.param([0], [0], (1, 1), (1, 1), 1, id="one sample"),
        pytest.param([0], [-1], (1, 1), (1, 1), 1, id="one noise sample"),
        pytest.param([0, 1, 2], [4, 5, 6], (1, 1), (1, 1), 1, id="no pair on either side"),
        pytest.param([0, 0, 0], [4, 5, 6], (0, 0), (1, 1 / 3), 0, id="no predicted pair"),
        pytest.param([0, 1, 2], [4, 4, 4], (0, 0), (1 / 3, 1), 0, id="no true pair"),
        pytest.param([0, 0, 1, 1], [9, 9, 9, 9], (1 / 3, 1), (1 / 2, 1), 0, id="one cluster"),
        pytest.param([0, 0, 1, 1], [0, 1, 0, 1], (0, 0), (1 / 2, 1 / 2), 0, id="independent"),
        pytest.param([0, 0, 0, 0], [7, 7, 7, 7], (1, 1), (1, 1), 1, id="one class in one cluster"),
        pytest.param([3, 1, 3, 1, 8], [0, 5, 0, 5, 2], (1, 1), (1, 1), 1, id="perfect under other names"),
    ],
)
def test_edge_cases_have_defined_values(y_true, y_pred, pairwise, bcubed, nmi):
    assert metrics.pairwise_scores(y_true, y_pred) == (*pairwise, f_measure(*pairwise))
    assert metrics.bcubed_scores(y_true, y_pred) == pytest.approx((*bcubed, f_measure(*bcubed)), rel=1e-15)
    assert metrics.fmi(y_true, y_pred) == pytest.approx(math.sqrt(pairwise[0] * pairwise[1]), rel=1e-15)
    for method in AVERAGE_METHODS:
        assert metrics.nmi(y_true, y_pred, average_method=method) == pytest.approx(nmi, abs=1e-15)


def test_noise_samples_are_clusters_of_their_own():
    y_true = [0, 0, 0, 1, 1, 2]
    table = metrics.contingency(y_true, [-1, -1, 4, 4, -1, 0])
    assert sorted(table.cluster_sizes) == [1, 1, 1, 1, 2]
    assert metrics.scores(y_true, [-1, -1, 4, 4, -1, 0]) == metrics.scores(y_true, [10, 11, 4, 4, 12, 0])
    assert metrics.scores(y_true, [-1] * 6) == metrics.scores(y_true, range(6))
    # Any other negative label is a cluster like the rest.
    assert metrics.scores(y_true, [-2, -2, 4, 4, -3, 0]) == metrics.scores(y_true, [1, 1, 4, 4, 3, 0])


@given(labelings(min_pred=-1), st.randoms(use_true_random=False))
def test_order_of_samples_and_names_of_labels_do_not_matter(labels, random):
    y_true, y_pred = labels
    names = random.sample(range(1000), 60)
    order = random.sample(range(len(y_true)), len(y_true))
    shuffled = metrics.scores(
        [names[y_true[i]] for i in order], [-1 if y_pred[i] == -1 else names[y_pred[i]] for i in order]
    )
    expected = metrics.scores(y_true, y_pred)
    assert shuffled.pairwise == expected.pairwise
    assert shuffled.bcubed == pytest.approx(expected.bcubed, rel=1e-13)
    assert shuffled.nmi == pytest.approx(expected.nmi, abs=1e-13)


@given(labelings())
def test_huge_negative_and_sparse_values_are_only_names(labels):
    expected = metrics.scores(*labels)
    true, pred = (np.array(values) for values in labels)
    spread = (INT64.max // 20) * (true % 41 - 20)
    assert metrics.scores(spread, INT64.min + pred) == expected
    assert metrics.scores(true, pred * 10**15 - 5 * 10**17) == expected
    top = np.iinfo(np.uint64).max - true.astype(np.uint64) * np.uint64(10**17)
    assert metrics.scores(top, pred).pairwise == expected.pairwise


def test_the_largest_uint64_is_not_noise():
    top = np.full(4, np.iinfo(np.uint64).max, dtype=np.uint64)
    assert metrics.contingency(top, top).counts.tolist() == [4]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.uint64])
def test_every_integer_dtype_counts_alike(dtype):
    rng = np.random.default_rng(3)
    y_true, y_pred = rng.integers(0, 100, (2, 500))
    assert metrics.scores(y_true.astype(dtype), y_pred.astype(dtype)) == metrics.scores(y_true, y_pred)


def test_int8_labels_across_their_range_do_not_wrap():
    # 255 values, not 256: an offset that wrapped would then land on another value's place.
    y_pred = np.arange(-128, 127, dtype=np.int8)
    assert metrics.contingency(np.arange(255), y_pred).num_clusters == 255


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_torch_tensors_are_read_as_numpy_arrays_are(dtype):
    generator = torch.Generator().manual_seed(0)
    y_true, y_pred = torch.randint(0, 9, (2, 200), generator=generator).to(dtype)
    expected = metrics.scores(y_true.numpy(), y_pred.numpy())
    assert metrics.scores(y_true, y_pred) == metrics.scores(y_true.tolist(), y_pred) == expected


def test_pair_counts_pass_the_int32_range():
    size = 100_000
    y_true = np.zeros(size, dtype=np.int32)
    y_pred = np.zeros(size, dtype=np.int32)
    y_pred[: size // 4] = 1
    pairs = size * (size - 1) // 2
    predicted = sum(part * (part - 1) // 2 for part in (size // 4, size - size // 4))
    assert predicted > np.iinfo(np.int32).max
    assert metrics.pairwise_scores(y_true, y_pred)[:2] == (1.0, predicted / pairs)
    assert metrics.pairwise_scores(y_pred, y_true)[:2] == (predicted / pairs, 1.0)
    assert metrics.bcubed_scores(y_pred, y_true)[:2] == pytest.approx((1 / 16 + 9 / 16, 1.0), rel=1e-14)


def test_cell_keys_pass_the_int32_range():
    y_true = np.arange(200_000) // 2
    y_pred = np.arange(200_000)
    assert metrics.pairwise_scores(y_true, y_pred) == (0.0, 0.0, 0.0)
    assert metrics.scores(y_true, y_true[::-1].copy()).pairwise == (1.0, 1.0, 1.0)
    table = metrics.contingency(y_true, y_pred)
    np.testing.assert_array_equal(table.classes, y_true)
    np.testing.assert_array_equal(table.clusters, y_pred)


def test_table_of_many_classes_is_sparse():
    rng = np.random.default_rng(1)
    size, num_classes = 500_000, 50_000
    y_true = rng.integers(0, num_classes, size)
    y_pred = np.where(rng.random(size) < 0.2, rng.integers(0, 200_000, size), y_true)
    tracemalloc.start()
    table = metrics.contingency(y_true, y_pred)
    scores = metrics.scores(y_true, y_pred)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # A dense table would hold num_classes * num_clusters > 4e9 cells; a few arrays of one int64 a sample are allowed.
    assert peak < 20 * 8 * size
    assert len(table.counts) <= size
    assert table.counts.min() > 0
    assert table.counts.sum() == size == scores.num_samples
    np.testing.assert_array_equal(np.bincount(table.classes, table.counts), table.class_sizes)
    np.testing.assert_array_equal(np.bincount(table.clusters, table.counts), table.cluster_sizes)
    assert scores.nmi == pytest.approx(normalized_mutual_info_score(y_true, y_pred), rel=1e-12)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "error", "message"),
    [
        pytest.param([], [], ValueError, "y_true is empty", id="empty"),
        pytest.param([1, 2], [], ValueError, "y_pred is empty", id="empty prediction"),
        pytest.param([1, 2, 3], [1, 2], ValueError, "y_true has 3, y_pred has 2", id="lengths"),
        pytest.param([1, -1], [1, 2], ValueError, "y_true holds -1", id="noise as a class"),
        pytest.param([[1, 2]], [[1, 2]], ValueError, r"shape \(1, 2\)", id="two dimensions"),
        pytest.param(3, 3, ValueError, r"shape \(\)", id="a number"),
        pytest.param([1, 2], [1.5, 2.0], TypeError, "y_pred has dtype float64", id="fractions"),
        pytest.param([1.0, np.nan], [1, 2], TypeError, "y_true has dtype float64", id="nan"),
        pytest.param(["a", "b"], [1, 2], TypeError, "y_true has dtype", id="words"),
        pytest.param([1, None], [1, 2], TypeError, "y_true has dtype object", id="objects"),
        pytest.param(torch.zeros(2), torch.zeros(2), TypeError, "y_true has dtype float32", id="float tensor"),
    ],
)
@pytest.mark.parametrize("function", [metrics.pairwise_f, metrics.bcubed_f, metrics.nmi, metrics.fmi, metrics.scores])
def test_bad_labels_are_refused_in_words(function, y_true, y_pred, error, message):
    with pytest.raises(error, match=message):
        function(y_true, y_pred)


def test_more_samples_than_int64_can_count_are_refused_before_any_allocation():
    endless = np.broadcast_to(np.zeros(1, dtype=np.int8), (4_000_000_000,))
    tracemalloc.start()
    with pytest.raises(ValueError, match="at most 3037000499"):
        metrics.scores(endless, endless)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def test_unknown_average_method_is_refused():
    with pytest.raises(ValueError, match="arithmetic, geometric, min, max"):
        metrics.nmi([0, 1], [0, 1], average_method="harmonic")
