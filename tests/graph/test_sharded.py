"""knn_shards: what knn_graph finds, resumed, within a budget, and refusals."""

import errno

import numpy as np
import pytest

from intraformer_fast import native
from intraformer_fast.data import synthetic
from intraformer_fast.errors import DataError
from intraformer_fast.graph import engines, knn_graph, knn_shards
from intraformer_fast.graph.engines import Plan
from intraformer_fast.graph.sharded import INDEX, LISTING_BYTES, LISTS, WORKING_BYTES, plan_storage
from intraformer_fast.shards import open_shards

SAMPLES, K = 3000, 10


@pytest.fixture(scope="module")
def features():
    return synthetic(SAMPLES, dim=16).features


def make(features, folder, **options):
    return knn_shards(features, K, folder, **{"shard_rows": 1024, "progress": False, **options})


def whole(graph):
    parts = [graph.shards.read(i) for i in range(len(graph.shards))]
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


@pytest.mark.parametrize("memory", [None, 1])
def test_exact_shards_are_knn_graph_to_the_bit_with_or_without_an_index(features, tmp_path, memory):
    graph = make(features, tmp_path, memory=memory)
    assert graph.search["engine"] == ("torch" if memory else "faiss-cpu")
    for found, expected in zip(whole(graph), knn_graph(features, K), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(graph.features, features, atol=1e-6)


def test_fewer_samples_than_neighbors(tmp_path):
    few = synthetic(4, dim=3).features
    for found, expected in zip(whole(make(few, tmp_path)), knn_graph(few, K), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("index", ["ivf", "hnsw", "nndescent"])
def test_recall_is_what_was_found_and_ivf_searches_until_it_is_enough(features, tmp_path, index):
    expected = knn_graph(features, K)[0]
    graph = make(features, tmp_path / "half", index=index, recall=0.3)
    enough = make(features, tmp_path / "enough", index=index, recall=0.99)
    for made in (graph, enough):
        found = whole(made)[0]
        true = np.mean([np.isin(a[1:], b[1:]).mean() for a, b in zip(expected, found, strict=True)])
        assert made.search["recall"] == pytest.approx(true, abs=0.03)
    assert enough.search["recall"] >= 0.99
    if index == "ivf":
        assert graph.search["probes"] < enough.search["probes"]


def test_float16_in_the_index_and_float32_in_the_similarities(features, tmp_path, monkeypatch):
    plan = Plan("ivf", "faiss-cpu", "")
    monkeypatch.setattr("intraformer_fast.graph.sharded.WORKING_BYTES", 0)
    monkeypatch.setitem(native.NOT_LOADED, "cpu", ["taken away"])
    graph = make(features, tmp_path, index="ivf", recall=0.99, memory=2 * SAMPLES * (2 * 16 + 8))
    assert graph.search["storage"] == "float16"
    found, expected = whole(graph), knn_graph(features, K)
    same = found[0] == expected[0]
    assert same.mean() > 0.95
    np.testing.assert_array_equal(found[1][same], expected[1][same])
    assert plan_storage(plan, 1000, 64, None) == (plan, "float32")


def test_storage_follows_the_budget():
    ivf, exact, hnsw = (Plan(name, "faiss-cpu", "") for name in ("ivf", "exact", "hnsw"))
    full = WORKING_BYTES + 2 * 10**6 * (4 * 64 + 8)
    assert plan_storage(ivf, 10**6, 64, full) == (ivf, "float32")
    assert plan_storage(ivf, 10**6, 64, full - 1) == (ivf, "float16")
    assert plan_storage(exact, 10**6, 64, full - 1)[0].engine == "torch"
    lists = Plan("ivf", "native", "")
    assert plan_storage(lists, 10**6, 64, WORKING_BYTES + 10**6 * LISTING_BYTES) == (lists, "float32")
    with pytest.raises(ValueError, match="to be built"):
        plan_storage(lists, 10**6, 64, WORKING_BYTES)
    for plan, memory in ((hnsw, full - 1), (ivf, WORKING_BYTES)):
        with pytest.raises(ValueError, match=r"needs \d+ to be built; give more"):
            plan_storage(plan, 10**6, 64, memory)


def test_a_run_goes_on_and_makes_only_what_is_missing_or_cut_short(features, tmp_path):
    graph = make(features, tmp_path, index="ivf")
    before = whole(graph)
    untouched = graph.shards.path("neighbors", 0)
    stamp = untouched.stat().st_mtime_ns
    graph.shards.path("similarity", 1).unlink()
    cut = graph.shards.path("neighbors", 2)
    cut.write_bytes(cut.read_bytes()[:-1])
    assert graph.shards.missing() == [1, 2]
    with pytest.raises(DataError, match=r"similarity-00001\.npy is missing"):
        graph.shards.read(1)
    with pytest.raises(DataError, match=r"neighbors-00002\.npy claims .*cut short"):
        graph.shards.read(2)
    again = make(features, tmp_path, index="ivf")
    assert again.shards.missing() == []
    for found, expected in zip(whole(again), before, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert untouched.stat().st_mtime_ns == stamp


def test_another_run_is_refused_by_name(features, tmp_path):
    make(features, tmp_path)
    with pytest.raises(ValueError, match=r"belongs to another run \(it differs in k\)"):
        knn_shards(features, K + 1, tmp_path, shard_rows=1024)
    with pytest.raises(ValueError, match=r"differs in features\)"):
        make(-features, tmp_path)
    with pytest.raises(ValueError, match=r"differs in arrays, features, index, k"):
        open_shards(tmp_path, SAMPLES, 1024, ("a",), {"what": "k-NN graph", "recall": 0.95, "storage": "float32"})


def test_damage_is_told(features, tmp_path):
    graph = make(features, tmp_path / "faiss", index="hnsw")
    graph.shards.path("neighbors", 0).unlink()
    (tmp_path / "faiss" / INDEX).write_bytes(b"")
    with pytest.raises(DataError, match=r"index\.faiss is missing or damaged"):
        make(features, tmp_path / "faiss", index="hnsw")
    graph = make(features, tmp_path, index="ivf")
    graph.shards.path("neighbors", 0).unlink()
    (tmp_path / LISTS[-1]).unlink()
    with pytest.raises(DataError, match=r"lists-rows\.npy.* index is lost"):
        make(features, tmp_path, index="ivf")
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        make(features, tmp_path, index="ivf")


def test_a_full_disk_stops_it_and_the_same_call_goes_on(features, tmp_path, monkeypatch):
    genuine, written = np.save, []

    def save(path, array, **options):
        written.append(path)
        if len(written) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        genuine(path, array, **options)

    monkeypatch.setattr(np, "save", save)
    with pytest.raises(OSError, match="No space left"):
        make(features, tmp_path)
    monkeypatch.undo()
    graph = make(features, tmp_path)
    np.testing.assert_array_equal(whole(graph)[0], knn_graph(features, K)[0])


def test_bad_options_are_refused(features, tmp_path):
    for wrong in ({"recall": 0}, {"index": "tree"}, {"device": "tpu"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            make(features, tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()
    assert engines.ivf_lists(1) == 1
