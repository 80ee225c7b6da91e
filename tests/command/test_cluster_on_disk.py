"""`cluster --work`: the labels of `cluster`, gone on with, and refusals."""

import numpy as np
import pytest

from intraformer_fast.cli_options import size_in_bytes
from intraformer_fast.data import read_neighbors


def test_with_a_folder_the_labels_are_the_same_and_a_second_run_makes_nothing(files, tmp_path, answer):
    rule = ("--rule", "intimacy", "--threshold", 0.5, "--quiet")
    answer("cluster", files.model, files.test_features, "--output", tmp_path / "a.npy", *rule)
    work = ("--work", tmp_path / "run", "--memory", "2GiB")
    answer("cluster", files.model, files.test_features, "--output", tmp_path / "b.npy", *rule, *work)
    np.testing.assert_array_equal(np.load(tmp_path / "b.npy"), np.load(tmp_path / "a.npy"))
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.npy")}
    assert len(made) > 5
    answer("cluster", files.model, files.test_features, "--output", tmp_path / "c.npy", *rule, *work)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*.npy")}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--memory", "1GiB"), "belong to --work"),
        (("--work", "run", "--knn", "a.npz"), "exclude each other"),
        (("--work", "run", "--memory", "much"), "memory = 'much'"),
        (("--work", "run", "--rule", "density"), "density"),
        (("--work", "run", "--cascade", "2"), "cascade = 2.0"),
        (("--work", "run", "--memory", "1KiB", "--rule", "intimacy"), "linking"),
        (("--work", "run", "--memory", "1GiB", "--rule", "communities"), "all edges in memory"),
    ],
)
def test_what_does_not_go_together_is_refused(files, tmp_path, run, options, words):
    done = run("cluster", files.model, files.test_features, "--output", "c.npy", "--quiet", *options, cwd=tmp_path)
    assert done.returncode == 3
    assert words in done.stderr
    assert not (tmp_path / "c.npy").exists()
    assert not (tmp_path / "run").exists()


def test_sizes():
    assert [size_in_bytes(text) for text in ("7", "8GiB", "500 mb", "2kB")] == [7, 8 * 2**30, 5 * 10**8, 2000]


def test_a_graph_in_shards_is_the_graph_and_cluster_goes_on_from_it(files, tmp_path, answer):
    answer("knn", files.test_features, "--k", 16, "--output", tmp_path / "a.npz")
    work = ("--work", tmp_path / "run", "--memory", "2GiB", "--quiet")
    said = answer("knn", files.test_features, "--k", 16, *work)
    assert (said["index"], said["recall"], said["output"]) == ("exact", 1.0, None)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "graph").rglob("*.npy")}
    assert len(made) > 3
    answer("knn", files.test_features, "--k", 16, "--output", tmp_path / "b.npz", *work)
    for found, expected in zip(*(read_neighbors(tmp_path / name) for name in ("b.npz", "a.npz")), strict=True):
        np.testing.assert_array_equal(found, expected)
    linked = ("--rule", "intimacy", "--output", tmp_path / "labels.npy")
    answer("cluster", files.model, files.test_features, *linked, *work)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "graph").rglob("*.npy")}


def test_a_graph_needs_somewhere_to_go(files, tmp_path, run):
    belongs = ("--output", "a.npz", "--memory", "1GiB")
    for options, code, words in (((), 2, "nowhere to write to"), (belongs, 3, "belongs to --work")):
        done = run("knn", files.test_features, *options, cwd=tmp_path)
        assert done.returncode == code
        assert words in done.stderr
