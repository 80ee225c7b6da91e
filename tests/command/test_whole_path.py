"""knn, train, cluster and evaluate on files, as a person goes through them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import fowlkes_mallows_score, normalized_mutual_info_score

from intraformer_fast import __version__


def test_training_says_what_it_chose_and_learns(files):
    trained = files.trained
    assert files.model.exists()
    assert [epoch["epoch"] for epoch in trained["history"]] == [1, 2, 3, 4, 5, 6]
    assert trained["history"][-1]["loss"] < trained["history"][0]["loss"]
    assert 0.5 < trained["validation"]["pairwise_f"] <= 1


def test_knn_then_cluster_then_evaluate(files, tmp_path, answer):
    graph, clusters = tmp_path / "knn.npz", tmp_path / "clusters.npy"
    assert answer("knn", files.test_features, "--k", 16, "--output", graph)["samples"] == 240
    made = answer("cluster", files.model, files.test_features, "--knn", graph, "--output", clusters, "--quiet")
    predicted, truth = np.load(clusters), np.load(files.test_labels)
    assert made["clusters"] == len(np.unique(predicted))
    assert made["linking"] == files.trained["linking"]
    # Without the graph it is built, and the clusters are the same.
    again = tmp_path / "again.meta"
    answer("cluster", files.model, files.test_features, "--output", again, "--quiet")
    assert np.loadtxt(again, dtype=int).tolist() == predicted.tolist()
    scores = answer("evaluate", files.test_labels, clusters)
    assert scores["nmi"] == pytest.approx(normalized_mutual_info_score(truth, predicted))
    assert scores["fmi"] == pytest.approx(fowlkes_mallows_score(truth, predicted))
    assert scores["pairwise"]["f"] > 0.6


@pytest.mark.parametrize("options", [("--backend", "reference"), ("--precision", "int8")])
def test_other_arithmetic_finds_nearly_the_same_clusters(options, files, tmp_path, answer):
    found = [tmp_path / "auto.npy", tmp_path / "other.npy"]
    for output, more in zip(found, ((), options), strict=True):
        answer("cluster", files.model, files.test_features, "--output", output, "--quiet", *more)
    assert answer("evaluate", *found)["pairwise"]["f"] > 0.98


def test_int8_elsewhere_is_refused(files, tmp_path, run):
    arguments = ("cluster", files.model, files.test_features, "--output", tmp_path / "c.npy", "--quiet")
    told = run(*arguments, "--precision", "int8", "--backend", "reference", check=3).stderr
    assert "compute='int8' cannot be served: the model was made with backend='reference'" in told


def test_another_rule_may_be_asked_for(files, tmp_path, answer):
    made = answer(
        "cluster", files.model, files.test_features, "--output", tmp_path / "c.npy", "--quiet",
        "--rule", "mutual", "--threshold", 0.25,
    )  # fmt: skip
    assert (made["linking"]["rule"], made["linking"]["threshold"]) == ("mutual", 0.25)


def test_evaluate_by_group(files, run, answer):
    report = answer("evaluate", files.test_labels, files.test_labels, "--groups", files.test_groups)
    assert report["protocol"] == "joint"
    text = run("evaluate", files.test_labels, files.test_labels, "--groups", files.test_groups, check=0).stdout
    assert "100.0" in text
    assert "STD" in text


def test_text_output_of_evaluate(files, run):
    text = run("evaluate", files.test_labels, files.test_labels, check=0).stdout
    assert text.split() == ["F_P", "100.00", "F_B", "100.00", "NMI", "100.00", "FMI", "100.00"]


def test_info_names_the_version(run, answer):
    assert answer("info")["version"] == __version__
    assert __version__ in run("info", check=0).stdout


@pytest.mark.parametrize("command", ["demo", "knn", "train", "cluster", "evaluate", "info"])
def test_every_command_helps_with_an_example(command, run):
    text = run(command, "--help", check=0).stdout
    assert f"Example: intraformer-fast {command}" in " ".join(text.split()) or command == "info"


def test_a_finished_training_is_not_done_again(files, answer):
    arguments = (
        "train", files.train_features, files.train_labels, "--output", files.folder / "run", "--neighbors", 16,
        "--epochs", 6, "--batch-size", 16, "--learning-rate", 0.002, "--quiet",
    )  # fmt: skip
    before = files.model.read_bytes()
    assert json.dumps(answer(*arguments)) == json.dumps(files.trained)
    assert files.model.read_bytes() == before


def test_the_installed_command_runs():
    command = Path(sys.executable).with_name("intraformer-fast")
    done = subprocess.run([command, "info", "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["version"] == __version__


def test_features_that_are_not_of_unit_length_are_not_fed_to_the_model_as_they_are(files, answer, tmp_path):
    """The graph is that of the cosine, whatever the lengths; the model saw them all the same."""
    scaled = tmp_path / "scaled.npy"
    np.save(scaled, np.load(files.test_features) * np.float32(64))
    for features, output in ((files.test_features, "unit.npy"), (scaled, "scaled_clusters.npy")):
        answer("cluster", files.model, features, "--output", tmp_path / output, "--quiet")
    assert np.load(tmp_path / "unit.npy").tolist() == np.load(tmp_path / "scaled_clusters.npy").tolist()
    longer = tmp_path / "longer.npy"
    np.save(longer, np.load(files.train_features) * np.float32(64))
    losses = []
    for features, output in ((files.train_features, "unit"), (longer, "longer")):
        trained = answer(
            "train", features, files.train_labels, "--output", tmp_path / output, "--neighbors", 16,
            "--epochs", 1, "--batch-size", 16, "--quiet",
        )  # fmt: skip
        losses.append(trained["history"][0]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
