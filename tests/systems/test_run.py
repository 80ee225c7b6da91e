"""The runner: what fails is told and the others go on, what is done is not done again, true labels stay hidden."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
from torch import nn

from intraformer_fast import metrics
from intraformer_fast.bench.systems import catalog, run
from intraformer_fast.bench.systems.our_linking import OurLinking
from intraformer_fast.bench.systems.protocol import Fitted, choose
from intraformer_fast.errors import DataError
from intraformer_fast.pipeline import NeighborGraph
from intraformer_fast.selection import CANDIDATES


def test_a_failure_says_why_and_the_others_go_on(split, constant, entry, tmp_path):
    entries = {"bad": entry(constant("no luck")), "good": entry(constant())}
    told = []
    bad, good = run.run(entries, split, 1, tmp_path, told.append)
    assert bad.failure == "RuntimeError: no luck"
    assert "no luck" in told[1]
    report = metrics.fairness_report(split.target.labels, np.zeros(len(split.target), np.int64), split.groups)
    assert good.scores["F_P"]["all"] == report.overall.pairwise_f
    assert good.scores["NMI"]["odd"] == report.groups["1"].nmi
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["good-0.json"]


def test_what_is_done_is_not_done_again_unless_it_would_differ(split, constant, entry, tmp_path, monkeypatch):
    entries = {"good": entry(constant())}
    first = list(run.run(entries, split, 2, tmp_path, str))
    assert [one.notes for one in first] == [{"seed": "0"}, {"seed": "1"}]

    def broken(self, *arguments):
        raise AssertionError("it is computed again")

    monkeypatch.setattr(constant, "fit", broken)
    assert list(run.run(entries, split, 2, tmp_path, str)) == first
    # Other settings, and other data.
    assert next(run.run({"good": entry(constant("x"))}, split, 1, tmp_path, str)).failure
    other = dataclasses.replace(split, target=split.target.subset(split.target.labels < 8))
    assert next(run.run(entries, other, 1, tmp_path, str)).failure


def test_true_labels_are_hidden_but_for_how_many_there_are(split, constant, entry, monkeypatch):
    seen = []

    def fit(self, train, validation, seed):
        assert not np.isin(train.labels, validation.labels).any()
        return Fitted(lambda graph: seen.append(graph.labels) or graph.labels)

    monkeypatch.setattr(constant, "fit", fit)
    (found,) = run.run({"spy": entry(constant())}, split, 1, None, str)
    assert found.failure == ""
    assert np.bincount(seen[0]).tolist() == np.bincount(split.target.labels).tolist()
    assert metrics.nmi(split.target.labels, seen[0]) < 0.4


def test_too_little_data_are_refused(split, constant, entry):
    few = dataclasses.replace(split, known=split.known.subset(split.known.labels < 6))
    with pytest.raises(DataError, match="45 samples to train on: expected at least 80"):
        next(run.run({"good": entry(constant())}, few, 1, None, str))


def test_infomap_that_is_not_installed_is_a_row(split, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "infomap", None)
    (found,) = run.run(catalog.select(["infomap"], "small"), split, 1, None, str)
    assert "needs the package infomap" in found.failure
    assert "intraformer-fast[infomap]" in found.failure


def test_the_setting_with_the_best_scores_is_chosen():
    graph = NeighborGraph(np.eye(4), np.array([0, 0, 1, 1]), np.zeros((4, 1), np.int64), np.ones((4, 1), np.float32))
    labels = {"split": [0, 1, 2, 3], "right": [0, 0, 1, 1], "also": [1, 1, 0, 0]}
    assert choose(labels, lambda name: np.array(labels[name]), graph) == "right"


def test_unknown_names_are_told_what_there_is():
    with pytest.raises(ValueError, match=r"no system 'gcn'.*expected some of intraformer"):
        catalog.select(["gcn"], "small")
    with pytest.raises(ValueError, match=r"size = 'huge'.*published, small, quick"):
        catalog.select([], "huge")


def test_every_size_changes_settings_that_there_are():
    for size in catalog.SIZES:
        assert list(catalog.select([], size)) == list(catalog.PUBLISHED)
    assert [*catalog.select(["gcn-v", "omhc"], "small")] == ["omhc", "gcn-v"]


@pytest.mark.parametrize("size", catalog.SIZES)
@pytest.mark.parametrize("name", ["omhc", "clusformer"])
def test_systems_that_are_linked_otherwise_train_alike(name, size):
    alone, relinked = (catalog.select([of], size)[of].system for of in (name, f"{name}-our-linking"))
    assert relinked.system == alone


class Cosines(nn.Module):
    """Logits of the cosine to the first."""

    def forward(self, x):
        return 20 * ((x * x[:, :1]).sum(dim=2) - 0.75)


@dataclass(frozen=True)
class Untrained:
    """Its network is what it is."""

    def trained(self, train, seed):
        return Cosines()


def test_our_linking_is_of_the_probabilities_of_the_others_network(split, entry):
    (found,) = run.run({"relinked": entry(OurLinking(Untrained()))}, split, 1, None, str)
    assert found.failure == ""
    assert found.scores["F_P"]["all"] == 1
    assert found.chosen == str(CANDIDATES[0])
