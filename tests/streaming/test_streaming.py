"""predict_edges and the whole path on disk: the labels of the path in memory, resumed, in bounded memory."""

import mmap
import os
import subprocess
import sys

import numpy as np
import pytest

from intraformer_fast import nn, pipeline
from intraformer_fast.distributed import Ranks
from intraformer_fast.errors import DataError
from intraformer_fast.graph import knn_shards
from intraformer_fast.inference import predict_probability
from intraformer_fast.selection import Linking
from intraformer_fast.streaming import BATCH, largest_batch, local_order, predict_edges, read_edges


@pytest.fixture(scope="module")
def graph(data, tmp_path_factory):
    return knn_shards(data.features, 12, tmp_path_factory.mktemp("graph"), shard_rows=1024, progress=False)


def edges_of(model, graph, folder, **options):
    return predict_edges(model, graph, folder, **{"progress": False, "precision": "fp32", **options})


def test_edges_are_those_of_the_whole_table(model, graph, tmp_path):
    neighbors = np.concatenate([graph.shards.read(i)[0] for i in range(3)])
    probability = predict_probability(model, graph.features, neighbors, precision="fp32", progress=False)
    edge = neighbors != np.arange(3000)[:, None]
    assert 0.05 < (probability[edge] > 0.6).mean() < 0.95
    for floor in (0.0, 0.6):
        shards = edges_of(model, graph, tmp_path / str(floor), floor=floor)
        found = read_edges(shards, floor).probability.tocoo()
        rows, columns = np.nonzero(edge & (probability > floor))
        order = np.lexsort((neighbors[rows, columns], rows))
        assert len(found.data) == len(rows)
        np.testing.assert_array_equal(found.coords[0], rows[order])
        np.testing.assert_array_equal(found.coords[1], neighbors[rows, columns][order])
        np.testing.assert_allclose(found.data, probability[rows, columns][order], atol=2e-6)


def test_edges_are_mapped_and_never_copied_to_memory(model, graph, tmp_path):
    found = read_edges(edges_of(model, graph, tmp_path, floor=0.0), 0.0).edges_above(0.0)
    for array in (found.data, found.indices):
        while isinstance(array.base, np.ndarray):
            array = array.base
        assert isinstance(array.base.obj, mmap.mmap)


def test_similar_samples_stand_together(data):
    order = local_order(data.features)
    assert sorted(order) == list(range(3000))
    near = [(data.features[ids[1:]] * data.features[ids[:-1]]).sum(1).mean() for ids in (order, np.arange(3000))]
    assert near[0] > near[1] + 0.2


def test_labels_are_those_of_the_path_in_memory(model, data, linking, tmp_path):
    expected = pipeline.cluster(model, linking, data.features, precision="fp32", progress=False)
    found = pipeline.cluster_on_disk(model, linking, data.features, tmp_path, precision="fp32", progress=False)
    np.testing.assert_array_equal(found, expected)
    assert 300 < found.max() < 2900


def test_every_rank_makes_its_own_shards_and_no_others(model, graph, tmp_path):
    alone = edges_of(model, graph, tmp_path / "alone")
    for rank in (1, 0):
        # In turns, which `wait` would not allow; the shared parts are made first.
        if rank == 1:
            edges_of(model, graph, tmp_path / "shared", ranks=_NoWait(0, 2))
        shards = edges_of(model, graph, tmp_path / "shared", ranks=_NoWait(rank, 2))
    for i in range(3):
        for a, b in zip(alone.read(i), shards.read(i), strict=True):
            np.testing.assert_array_equal(a, b)


class _NoWait(Ranks):
    def wait(self):
        pass


def test_a_lost_or_truncated_shard_is_an_error_to_readers_and_made_again_by_a_run(model, graph, tmp_path):
    shards = edges_of(model, graph, tmp_path)
    before = read_edges(shards, 0.5).probability
    shards.path("targets", 1).unlink()
    with pytest.raises(DataError, match=r"targets-00001\.npy is missing"):
        read_edges(shards, 0.5)
    edges_of(model, graph, tmp_path)
    path = shards.path("probability", 2)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=r"probability-00002\.npy claims"):
        read_edges(shards, 0.5)
    assert (read_edges(edges_of(model, graph, tmp_path), 0.5).probability != before).nnz == 0
    # A whole file of the wrong length, as two runs at once could leave it.
    np.save(path, np.load(path)[:-1])
    with pytest.raises(DataError, match=r"shard 2 of .* is damaged"):
        read_edges(shards, 0.5)


def test_another_models_edges_are_refused(model, graph, tmp_path):
    edges_of(model, graph, tmp_path)
    for options, name in (({"floor": 0.6}, "floor"), ({"cascade": 0.1}, "cascade"), ({"batch_size": 9}, "batch_size")):
        with pytest.raises(ValueError, match=rf"belongs to another run \(it differs in {name}\)"):
            edges_of(model, graph, tmp_path, **options)
    for wrong in ({"floor": -1}, {"batch_size": 0}, {"cascade": 1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} = "):
            edges_of(model, graph, tmp_path / "new", **wrong)


def test_density_is_refused_before_any_work(model, data, tmp_path):
    with pytest.raises(ValueError, match="density"):
        pipeline.cluster_on_disk(model, Linking("density"), data.features, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_killed_at_random_moments_and_split_over_two_processes_the_labels_are_the_same(features_file, tmp_path):
    script = os.path.join(os.path.dirname(__file__), "killed_clustering.py")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, script, features_file, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["killed", "killed", "killed", "same", "killed-rank", "failed", "resumed", "same"]


MEASURED = """
import sys, torch
from intraformer_fast import nn
from intraformer_fast.bench.scale.child import Watch, kibibytes
torch.set_num_threads(1)
k, backend, clusters = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
model = nn.Intraformer(128, 96, k, 1, 4, input_dim=32, backend=backend).eval()
x = torch.nn.functional.normalize(torch.randn(clusters, 96, 32), dim=-1)
with torch.inference_mode():
    model(x[:1])
    before = kibibytes("RssAnon")
    watch = Watch()
    model(x)
    print(watch.most - 1024 * before)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="the system does not tell a process's memory")
@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize("k", [1, 4])
def test_a_batch_stays_within_its_memory(k, backend):
    memory = 2**27
    clusters = largest_batch(nn.Intraformer(128, 96, k, 1, 4, input_dim=32), memory)
    assert clusters < BATCH
    command = [sys.executable, "-c", MEASURED, str(k), backend, str(clusters)]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert taken <= memory
    assert backend == "auto" or taken > memory / 3


def test_a_batch_of_not_one_cluster_is_refused(model):
    assert largest_batch(model, None) == largest_batch(model, 2**40) == BATCH
    with pytest.raises(ValueError, match="one cluster of it takes"):
        largest_batch(model, 1000)
