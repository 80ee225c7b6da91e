"""Data of a comparison from the example, from a folder and from learn-to-cluster's files."""

import numpy as np
import pytest

from intraformer_fast.bench.systems import split
from intraformer_fast.data import write_features, write_labels, write_neighbors
from intraformer_fast.errors import DataError
from intraformer_fast.graph import knn_graph


@pytest.fixture
def root(tmp_path):
    """Files of 5 and 4 samples, 3 wide, with groups of those to cluster."""
    random = np.random.default_rng(0)
    for name, count in (("part0_train", 5), ("part1_test", 4)):
        write_features(tmp_path / "features" / f"{name}.bin", random.standard_normal((count, 3)).astype(np.float32))
        write_labels(tmp_path / "labels" / f"{name}.meta", np.arange(count) // 2)
    write_labels(tmp_path / "groups" / "part1_test.meta", np.array([0, 0, 1, 1]))
    return tmp_path


def test_learn_to_cluster_files(root):
    found = split.load("learn-to-cluster", root)
    assert found.known.features.shape == (5, 3)
    np.testing.assert_allclose(np.linalg.norm(found.target.features, axis=1), 1, rtol=1e-6)
    assert found.groups.tolist() == [0, 0, 1, 1]
    assert found.target.group_names == ("0", "1")
    assert found.target_graph(3).neighbors[:, 0].tolist() == [0, 1, 2, 3]
    (root / "groups" / "names.txt").write_text("north\nsouth\n")
    assert split.load("learn-to-cluster", root).target.group_names == ("north", "south")


def test_a_graph_that_comes_with_the_data_is_used_or_refused(root):
    built = split.load("learn-to-cluster", root).target_graph(3)
    file = root / "knns" / "part1_test" / "faiss_k_3.npz"
    neighbors, similarity = knn_graph(split.load("learn-to-cluster", root).target.features, 3)
    write_neighbors(file, neighbors, similarity)
    found = split.load("learn-to-cluster", root).target_graph(2)
    np.testing.assert_array_equal(found.neighbors, built.neighbors[:, :2])
    np.testing.assert_allclose(found.similarity, built.similarity[:, :2], rtol=1e-6)
    with pytest.raises(DataError, match="has 3 neighbours a sample, and expected were 4"):
        split.load("learn-to-cluster", root).target_graph(4)
    write_neighbors(file, neighbors[:, ::-1], similarity[:, ::-1])
    with pytest.raises(DataError, match="every sample first among its own: remove the file"):
        split.load("learn-to-cluster", root).target_graph(2)


def test_without_groups_all_are_one(root):
    (root / "groups" / "part1_test.meta").unlink()
    assert split.load("learn-to-cluster", root).target.group_names == ("all",)


def test_what_is_wrong_with_the_files_is_said(root):
    (root / "labels" / "other_test.meta").write_text("1\n")
    with pytest.raises(
        DataError, match=r"other_test.meta, part1_test.meta with 'test' in the name: expected exactly one"
    ):
        split.load("learn-to-cluster", root)
    (root / "labels" / "other_test.meta").unlink()
    write_labels(root / "labels" / "part1_test.meta", np.arange(7))
    with pytest.raises(DataError, match="no table of float32 with the 7 rows"):
        split.load("learn-to-cluster", root)


def test_a_folder(tmp_path):
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        write_features(tmp_path / f"{part}_features.npy", random.standard_normal((6, 3)).astype(np.float32))
        write_labels(tmp_path / f"{part}_labels.npy", np.arange(6) // 2)
    write_labels(tmp_path / "test_groups.npy", np.array([1, 1, 0, 0, 1, 1]))
    found = split.load(str(tmp_path))
    assert (len(found.known), len(found.target)) == (6, 6)
    assert found.groups.tolist() == [1, 1, 0, 0, 1, 1]
    assert len(np.unique(split.load(str(tmp_path), classes=2).target.labels)) == 2


def test_root_and_data_belong_together(tmp_path):
    for data, root in (("glyphs", tmp_path), ("learn-to-cluster", None)):
        with pytest.raises(ValueError, match="belong together"):
            split.load(data, root)
    with pytest.raises(ValueError, match="data = 'nowhere': expected glyphs, emoji, learn-to-cluster or a folder"):
        split.load("nowhere")
