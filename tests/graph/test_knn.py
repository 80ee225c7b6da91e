import contextlib
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from intraformer_fast.errors import DataError
from intraformer_fast.graph import cosine, engines, knn, knn_graph
from intraformer_fast.graph.cosine import unit_table


def brute_force(features, k):
    """The documented order by whole sorts of whole rows, the inner products in integers."""
    rows = np.asarray(features, dtype=np.float64)
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    grid = np.rint(rows / np.linalg.norm(rows, axis=1, keepdims=True) * 2**24).astype(np.int64)
    inverse = 1 / np.sqrt((grid * grid).sum(axis=1) / 2.0**48)
    cosines = (grid @ grid.T / 2.0**48 * (inverse[:, None] * inverse)).astype(np.float32)
    total = len(rows)
    neighbors = np.full((total, k), -1)
    similarity = np.zeros((total, k), dtype=np.float32)
    for i in range(total):
        others = [j for j in range(total) if j != i]
        order = [i, *sorted(others, key=lambda j: (-cosines[i, j], j))][:k]
        neighbors[i, : len(order)] = order
        similarity[i, : len(order)] = cosines[i, order]
    return neighbors, similarity


def clustered(samples, width=32, size=20, noise=0.6, seed=0):
    random = np.random.default_rng(seed)
    centers = random.normal(size=(samples // size, width))
    noisy = centers[random.integers(0, len(centers), samples)] + noise * random.normal(size=(samples, width))
    return noisy.astype(np.float32)


def subsets_of_three(copies):
    """Rows with three equal entries out of eight: similarities 0, 1/3, 2/3 and 1, every one of them tied many times."""
    rows = [[float(i in (a, b, c)) for i in range(8)] for a in range(8) for b in range(a) for c in range(b)]
    return np.random.default_rng(0).permutation(np.repeat(rows, copies, axis=0)).astype(np.float32)


def nearly_equal(samples=300):
    """Neighbors whose similarities differ by less than a float32 product resolves."""
    random = np.random.default_rng(3)
    return (random.normal(size=96) + 3e-4 * random.normal(size=(samples, 96))).astype(np.float32)


DATA = {
    "random": np.random.default_rng(1).normal(size=(300, 24)).astype(np.float32),
    "clustered": clustered(400),
    "some duplicates": np.repeat(clustered(60), np.arange(60) % 9 + 1, axis=0),
    "all duplicates": np.tile(np.array([[0.3, -1.7, 0.2]], dtype=np.float32), (150, 1)),
    "one-hot": np.tile(np.eye(40, dtype=np.float32), (5, 1)),
    "one-hot of both signs": np.tile(np.concatenate([np.eye(20), -np.eye(20)]), (4, 1)),  # some zero products are -0.0
    "ties at the cut": subsets_of_three(4),
    "nearly equal": nearly_equal(),
    "opposite": np.random.default_rng(2).choice([-1.0, 1.0], size=(120, 1)) * np.ones((120, 5)),
    "one column": np.random.default_rng(4).normal(size=(50, 1)),
    "any length": clustered(200).astype(np.float64)
    * 10.0 ** np.random.default_rng(5).integers(-200, 200, size=(200, 1)),
    "two samples": np.array([[1.0, 0.0], [1.0, 1.0]]),
    "one sample": np.array([[0.0, 2.0]]),
}


@pytest.fixture(params=["faiss", "torch"])
def engine(request):
    if request.param == "torch":
        request.getfixturevalue("no_faiss")
    else:
        pytest.importorskip("faiss")
    return request.param


@pytest.mark.parametrize("k", [1, 2, 13, 40])
@pytest.mark.parametrize("name", DATA)
def test_exact_equals_brute_force_to_the_bit(name, k, engine):
    neighbors, similarity = knn_graph(DATA[name], k, index="exact", device="cpu")
    expected_neighbors, expected_similarity = brute_force(DATA[name], k)
    assert neighbors.dtype == np.int64
    assert similarity.dtype == np.float32
    np.testing.assert_array_equal(neighbors, expected_neighbors)
    np.testing.assert_array_equal(similarity, expected_similarity)


@pytest.mark.parametrize("name", DATA)
def test_exact_misses_nothing_by_plain_float64_cosines(name, engine):
    k = 20
    neighbors, similarity = knn_graph(DATA[name], k, device="cpu")
    rows = DATA[name].astype(np.float64)
    rows = rows / np.abs(rows).max(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = rows @ rows.T
    count = min(k, len(rows))
    best = -np.sort(-cosines, axis=1)[:, :count]
    np.testing.assert_allclose(similarity[:, :count], best, atol=2e-7)
    np.testing.assert_allclose(np.take_along_axis(cosines, neighbors[:, :count], axis=1), best, atol=2e-7)


@settings(max_examples=60)
@given(
    rows=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 40), st.just(3)), elements=st.sampled_from([-1.0, 0.0, 1.0, 2.0])
    ),
    k=st.integers(1, 45),
)
def test_exact_equals_brute_force_on_small_integers(rows, k):
    rows[~rows.any(axis=1)] = 1
    neighbors, similarity = knn_graph(rows, k, device="cpu")
    expected_neighbors, expected_similarity = brute_force(rows, k)
    np.testing.assert_array_equal(neighbors, expected_neighbors)
    np.testing.assert_array_equal(similarity, expected_similarity)


@pytest.mark.parametrize("index", ["exact", "ivf", "hnsw", "nndescent"])
@pytest.mark.parametrize("k", [1, 5, 30])
def test_sample_itself_is_first_when_duplicates_tie(index, k):
    pytest.importorskip("faiss")
    features = np.repeat(clustered(20, seed=7), 50, axis=0)
    neighbors, similarity = knn_graph(features, k, index=index, device="cpu")
    np.testing.assert_array_equal(neighbors[:, 0], np.arange(1000))
    np.testing.assert_array_equal(similarity, np.ones((1000, k)))
    assert (neighbors // 50 == np.arange(1000)[:, None] // 50).all()


def test_all_duplicates_list_the_lowest_ids(engine):
    neighbors, similarity = knn_graph(np.ones((200, 4), dtype=np.float32), 6, device="cpu")
    expected = [[i, *[j for j in range(7) if j != i][:5]] for i in range(200)]
    np.testing.assert_array_equal(neighbors, expected)
    np.testing.assert_array_equal(similarity, np.ones((200, 6)))


def test_similarity_is_symmetric_to_the_bit(engine):
    features = clustered(150)
    neighbors, similarity = knn_graph(features, 150, device="cpu")
    dense = np.empty((150, 150), dtype=np.float32)
    np.put_along_axis(dense, neighbors, similarity, axis=1)
    np.testing.assert_array_equal(dense, dense.T)


def test_result_does_not_depend_on_block_sizes(monkeypatch, engine):
    features = np.concatenate([clustered(300), subsets_of_three(3).repeat(4, axis=1)])
    expected = knn_graph(features, 25, device="cpu")
    monkeypatch.setattr(knn, "QUERIES", 37)
    monkeypatch.setattr(cosine, "BLOCK_ELEMENTS", 3000)
    monkeypatch.setattr(engines, "SCORES_BYTES", 10_000)
    for got, want in zip(knn_graph(features, 25, device="cpu"), expected, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("index", ["exact", "hnsw"])
def test_result_does_not_depend_on_the_number_of_threads(index, monkeypatch):
    faiss = pytest.importorskip("faiss")
    # An HNSW graph poor enough to miss much: a different one misses something else.
    monkeypatch.setattr(engines, "HNSW_LINKS", 4)
    monkeypatch.setattr(engines, "HNSW_BEAM", 4)
    features = clustered(3000, noise=2)
    threads = torch.get_num_threads(), faiss.omp_get_max_threads()
    results = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            faiss.omp_set_num_threads(number)
            results.append(knn_graph(features, 20, index=index, device="cpu"))
            assert faiss.omp_get_max_threads() == number
    finally:
        torch.set_num_threads(threads[0])
        faiss.omp_set_num_threads(threads[1])
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_reduced_precision_settings_of_the_caller_change_nothing(no_faiss):
    features = np.concatenate([clustered(2000, width=96, size=200, noise=0.1), nearly_equal(48)])
    expected = knn_graph(features, 20, device="cpu")
    chosen = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = knn_graph(features, 20, device="cpu")
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = chosen
    np.testing.assert_array_equal(got[0], expected[0])
    np.testing.assert_array_equal(got[1], expected[1])


def test_search_computes_in_float32_and_restores_the_setting():
    rows = torch.randn(4, 8)
    settings = torch.backends.mkldnn.matmul
    chosen = settings.fp32_precision
    settings.fp32_precision = "bf16"
    try:
        with (
            torch.autocast("cpu", dtype=torch.bfloat16),
            contextlib.suppress(KeyboardInterrupt),
            engines._ieee_float32(rows.device),
        ):
            assert settings.fp32_precision == "ieee"
            assert (rows @ rows.T).dtype == torch.float32
            raise KeyboardInterrupt
        assert settings.fp32_precision == "bf16"
    finally:
        settings.fp32_precision = chosen


def test_keys_order_by_similarity_then_id():
    similarity = torch.tensor([0.5, -0.0, 0.0, 1.0, -0.25, -1.0, 0.5, -1e-7])
    ids = torch.tensor([9, 4, 3, 2**32 - 1, 0, 7, 8, 1])
    order = torch.argsort(cosine.rank_keys(similarity, ids), descending=True)
    assert ids[order].tolist() == [2**32 - 1, 8, 9, 3, 4, 1, 0, 7]
    read_ids, read_similarity = cosine.read_keys(cosine.rank_keys(similarity, ids))
    assert torch.equal(read_ids, ids)
    assert torch.equal(read_similarity, similarity)
    assert not torch.signbit(read_similarity[1])


def test_rows_that_float32_cannot_settle_are_searched_again(monkeypatch):
    searched = []
    brute = cosine.UnitTable.nearest
    monkeypatch.setattr(
        cosine.UnitTable,
        "nearest",
        lambda self, rows, count: searched.extend(rows.tolist()) or brute(self, rows, count),
    )
    knn_graph(clustered(400), 10, device="cpu")
    assert searched == []
    knn_graph(np.concatenate([clustered(400, width=3), np.ones((60, 3), dtype=np.float32)]), 10, device="cpu")
    assert set(range(400, 460)) <= set(searched)


@pytest.mark.parametrize("index", ["ivf", "hnsw", "nndescent"])
def test_approximate_indexes_find_nearly_all(index, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(knn, "RECALL", 0.98)
    features = clustered(4000, width=64)
    _, exact = knn_graph(features, 30, index="exact", device="cpu")
    neighbors, similarity = knn_graph(features, 30, index=index, device="cpu")
    assert (similarity >= exact[:, -1:]).mean() > 0.97
    np.testing.assert_array_equal(neighbors[:, 0], np.arange(4000))
    falls = np.diff(similarity, axis=1) < 0
    tied_by_id = (np.diff(similarity, axis=1) == 0) & (np.diff(neighbors, axis=1) > 0)
    assert (falls | tied_by_id)[:, 1:].all()
    again = knn_graph(features, 30, index=index, device="cpu")
    np.testing.assert_array_equal(again[0], neighbors)
    np.testing.assert_array_equal(again[1], similarity)


def test_rows_an_approximate_index_leaves_short_are_completed(monkeypatch):
    monkeypatch.setattr(knn, "FEWEST_PROBES", 1)
    monkeypatch.setattr(knn, "RECALL", 0.0)
    features = clustered(1000)  # 126 lists, of which 1 is searched: never 300 samples
    neighbors, similarity = knn_graph(features, 300, index="ivf", device="cpu")
    assert (neighbors >= 0).all()
    _, exact = knn_graph(features, 300, index="exact", device="cpu")
    np.testing.assert_array_equal(similarity, exact)


@pytest.mark.parametrize("index", ["ivf", "hnsw"])
def test_approximate_indexes_serve_tiny_sets(index):
    pytest.importorskip("faiss")
    neighbors, similarity = knn_graph(np.eye(3), 4, index=index, device="cpu")
    np.testing.assert_array_equal(neighbors, [[0, 1, 2, -1], [1, 0, 2, -1], [2, 0, 1, -1]])
    np.testing.assert_array_equal(similarity, [[1, 0, 0, 0]] * 3)


def test_sets_that_are_too_small_for_a_descent_are_refused():
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match="takes more than 100 samples, not 3: use index='exact'"):
        knn_graph(np.eye(3), 2, index="nndescent", device="cpu")


def test_numpy_in_numpy_out_torch_in_torch_out():
    features = clustered(80)
    neighbors, similarity = knn_graph(features, 5)
    assert isinstance(neighbors, np.ndarray)
    assert isinstance(similarity, np.ndarray)
    got = knn_graph(torch.from_numpy(features).requires_grad_(), 5)
    assert got[0].dtype == torch.int64
    assert got[1].dtype == torch.float32
    assert not got[1].requires_grad
    np.testing.assert_array_equal(got[0].numpy(), neighbors)
    np.testing.assert_array_equal(got[1].numpy(), similarity)


@pytest.mark.parametrize(
    "convert", [np.float16, np.float64, ">f4", "fortran", "strided", "list", torch.bfloat16, torch.half]
)
def test_every_floating_layout_is_read_alike(convert):
    features = np.random.default_rng(0).integers(-8, 9, size=(90, 6)).astype(np.float32) + 0.5  # exact in every dtype
    if convert == "fortran":
        given = np.asfortranarray(features)
    elif convert == "strided":
        given = np.repeat(features, 2, axis=0)[::2]
    elif convert == "list":
        given = features.tolist()
    elif isinstance(convert, torch.dtype):
        given = torch.from_numpy(features).to(convert)
    else:
        given = features.astype(convert)
    for got, want in zip(knn_graph(given, 9), knn_graph(features, 9), strict=True):
        np.testing.assert_array_equal(np.asarray(got), want)


def test_memory_mapped_file_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "features.npy"
    np.save(path, clustered(20_000, width=64).astype(np.float64))
    mapped = np.load(path, mmap_mode="r")
    monkeypatch.setattr(cosine, "BLOCK_ELEMENTS", 2**14)
    tracemalloc.start()
    table = unit_table(mapped)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    result = table.rows.numel() * 4 + table.inverse_norm.numel() * 8
    assert result < peak < result + 2**20 < mapped.nbytes
    neighbors, _ = knn_graph(mapped[:500], 4)
    np.testing.assert_array_equal(neighbors, knn_graph(np.array(mapped[:500]), 4)[0])


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "holds NaN or infinity"), (-np.inf, "holds NaN or infinity"), (0, "holds only zeros")]
)
@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy])
def test_first_bad_row_is_named(value, said, kind, monkeypatch):
    monkeypatch.setattr(cosine, "BLOCK_ELEMENTS", 10 * 32)
    features = clustered(100)
    features[[57, 83]] = value
    with pytest.raises(DataError, match=rf"features\[57\] {said}"):
        knn_graph(kind(features), 3)


def test_one_nan_in_a_row_is_enough():
    features = clustered(100)
    features[31, 7] = np.nan
    with pytest.raises(DataError, match=r"features\[31\] holds NaN"):
        knn_graph(features, 3)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((np.ones(4), 2), ValueError, r"\[N, d\].*got shape \(4,\)"),
        ((np.ones((2, 3, 4)), 2), ValueError, r"got shape \(2, 3, 4\)"),
        ((np.ones((0, 4)), 2), ValueError, r"at least one row.*\(0, 4\)"),
        ((np.ones((4, 0)), 2), ValueError, r"one column, got shape \(4, 0\)"),
        ((np.ones((4, 2), dtype=np.int64), 2), TypeError, "int64"),
        ((np.ones((4, 2), dtype=np.complex64), 2), TypeError, "complex64"),
        ((torch.ones(4, 2, dtype=torch.uint8), 2), TypeError, "uint8"),
        ((np.ones((4, 2)), 0), ValueError, "k must be at least 1.*got 0"),
        ((np.ones((4, 2)), -3), ValueError, "got -3"),
        ((np.ones((4, 2)), 2.5), TypeError, "float"),
    ],
)
def test_bad_arguments_are_told(arguments, error, said):
    with pytest.raises(error, match=said):
        knn_graph(*arguments)


def test_unknown_index_and_device_are_told_before_the_features_are_read():
    for option, said in (
        ({"index": "lsh"}, "'hnsw' or 'nndescent', got 'lsh'"),
        ({"device": "tpu"}, "'cuda', got 'tpu'"),
    ):
        with pytest.raises(ValueError, match=said):
            knn_graph(None, 3, **option)


@pytest.mark.gpu
@pytest.mark.parametrize("name", DATA)
def test_gpu_gives_the_bits_of_the_cpu(name):
    for got, want in zip(
        knn_graph(DATA[name], 13, device="cuda"), knn_graph(DATA[name], 13, device="cpu"), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    on_gpu = knn_graph(torch.from_numpy(DATA[name]).cuda(), 13)
    assert on_gpu[0].is_cuda
    assert on_gpu[1].is_cuda


@pytest.mark.gpu
def test_lists_searched_on_the_cpu_and_scored_on_the_gpu_find_what_the_cpu_finds():
    if "faiss-gpu" in knn.plan_with(engines.import_faiss(), 4000, 30, "ivf", "auto").engine:
        pytest.skip("faiss sees the GPU and searches the lists there")
    features = clustered(4000, width=64)
    for got, want in zip(
        knn_graph(features, 15, index="ivf"), knn_graph(features, 15, index="ivf", device="cpu"), strict=True
    ):
        np.testing.assert_array_equal(got, want)
