"""What goes wrong is told in one sentence, with the right exit code, and leaves nothing half-written."""

import numpy as np
import pytest

from intraformer_fast.training import CollapseWarning

ENVIRONMENT, USAGE = 3, 2


@pytest.fixture
def saved(tmp_path):
    def save(name, array):
        path = tmp_path / f"{name}.npy"
        np.save(path, array)
        return path

    return save


@pytest.fixture
def train(run, tmp_path):
    return lambda features, labels: run(
        "train", features, labels, "--output", tmp_path / "run", "--neighbors", 8, "--epochs", 1, "--quiet"
    )


def spoil(features, value):
    features = features.copy()
    features[7] = value
    return features


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x, y: (spoil(x, np.nan), y), "row 7"),
        (lambda x, y: (spoil(x, np.inf), y), "row 7"),
        (lambda x, y: (spoil(x, 0), y), "row 7"),
        (lambda x, y: (x, y[:-1]), "59"),
        (lambda x, y: (x, np.zeros_like(y)), "identit"),
        (lambda x, y: (x[:1], y[:1]), "identit"),
        (lambda x, y: (x[:0], y[:0]), ""),
        (lambda x, y: (x[:, :, None], y), ""),
        (lambda x, y: (x.astype(np.int64), y), "float"),
        (lambda x, y: (x, y.astype(float)), "int"),
    ],
    ids=[
        "nan",
        "inf",
        "zero vector",
        "labels short",
        "one class",
        "one sample",
        "empty",
        "3-d",
        "integers",
        "float labels",
    ],
)
def test_data_that_cannot_be_trained_on(change, sentence, saved, tmp_path, blobs, train):
    features, labels = change(*blobs(6, 10))
    done = train(saved("x", features), saved("y", labels))
    assert done.returncode == ENVIRONMENT
    assert sentence in done.stderr
    assert done.stderr.startswith("intraformer-fast: ")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_all_duplicates_train_and_cluster(saved, tmp_path, train, run):
    """Nothing can be told apart, which training says, but nothing breaks either."""
    features, labels = np.ones((60, 4), np.float32) / 2, np.arange(60) % 6
    x = saved("x", features)
    with pytest.warns(CollapseWarning, match="the training has collapsed: the model predicts nearly the same number"):
        assert train(x, saved("y", labels)).returncode == 0
    run("cluster", tmp_path / "run" / "model.safetensors", x, "--output", tmp_path / "c.npy", "--quiet", check=0)
    assert np.load(tmp_path / "c.npy").shape == (60,)


def test_more_neighbors_than_samples(saved, tmp_path, run, blobs):
    features, labels = blobs(6, 10)
    x, y = saved("x", features), saved("y", labels)
    run("train", x, y, "--output", tmp_path / "run", "--neighbors", 200, "--epochs", 1, "--quiet", check=0)
    run("cluster", tmp_path / "run" / "model.safetensors", x, "--output", tmp_path / "c.npy", "--quiet", check=0)
    assert np.load(tmp_path / "c.npy").shape == (60,)


def test_features_of_another_width_than_the_model(files, saved, tmp_path, run, blobs):
    done = run(
        "cluster", files.model, saved("x", blobs(3, 5, width=9)[0]), "--output", tmp_path / "c.npy", check=ENVIRONMENT
    )
    assert "9" in done.stderr
    assert "16" in done.stderr
    assert not (tmp_path / "c.npy").exists()


def test_one_sample_is_one_cluster(files, saved, tmp_path, run, blobs):
    run("cluster", files.model, saved("x", blobs(1, 1)[0]), "--output", tmp_path / "c.npy", "--quiet", check=0)
    assert np.load(tmp_path / "c.npy").tolist() == [0]


def test_a_damaged_model_is_refused(files, tmp_path, run):
    whole = files.model.read_bytes()
    for name, content in (("cut", whole[: len(whole) // 2]), ("empty", b""), ("other", b"\x00" * 400)):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        done = run("cluster", path, files.test_features, "--output", tmp_path / "c.npy", check=ENVIRONMENT)
        assert str(path) in done.stderr


@pytest.mark.parametrize("kept", [0, 10, 500])
def test_a_truncated_graph_is_refused(kept, files, tmp_path, run):
    graph = tmp_path / "knn.npz"
    run("knn", files.test_features, "--k", 16, "--output", graph, check=0)
    graph.write_bytes(graph.read_bytes()[:kept])
    done = run(
        "cluster", files.model, files.test_features, "--knn", graph, "--output", tmp_path / "c.npy", check=ENVIRONMENT
    )
    assert str(graph) in done.stderr


def test_a_graph_of_other_samples_is_refused(files, tmp_path, run):
    graph = tmp_path / "knn.npz"
    run("knn", files.train_features, "--k", 16, "--output", graph, check=0)
    done = run(
        "cluster", files.model, files.test_features, "--knn", graph, "--output", tmp_path / "c.npy", check=ENVIRONMENT
    )
    assert "360" in done.stderr
    assert "240" in done.stderr


def test_missing_files_are_named(tmp_path, run):
    done = run("evaluate", tmp_path / "nothing.npy", tmp_path / "nothing.npy", check=ENVIRONMENT)
    assert str(tmp_path / "nothing.npy") in done.stderr


def test_output_that_cannot_be_written(files, tmp_path, run):
    blocked = tmp_path / "file"
    blocked.write_text("")
    for arguments in (
        ("knn", files.test_features, "--output", blocked / "knn.npz"),
        ("cluster", files.model, files.test_features, "--output", blocked / "c.npy", "--quiet"),
        ("train", files.train_features, files.train_labels, "--output", blocked / "run", "--neighbors", 8, "--quiet"),
    ):
        done = run(*arguments, check=ENVIRONMENT)
        assert str(blocked) in done.stderr


def test_labels_of_another_length(files, run):
    done = run("evaluate", files.train_labels, files.test_labels, check=ENVIRONMENT)
    assert "360" in done.stderr
    assert "240" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "x.npy", "y.npy", "--output", "run", "--preset", "huge"),
        ("train", "x.npy", "y.npy", "--output", "run", "--epochs", "0"),
        ("train", "x.npy", "y.npy", "--output", "run", "--precision", "fp8"),
    ],
)
def test_settings_that_do_not_exist(arguments, tmp_path, run):
    done = run(*arguments, cwd=tmp_path, check=ENVIRONMENT)
    assert "expected" in done.stderr


@pytest.mark.parametrize(
    "arguments", [("evaluate", "one.npy"), ("knn", "x.npy"), ("fly",), ("knn", "x.npy", "--k", "ten")]
)
def test_wrong_usage(arguments, run):
    assert run(*arguments).returncode == USAGE
