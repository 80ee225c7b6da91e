"""The choice of a linking on validation identities."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from intraformer_fast import graph, metrics
from intraformer_fast.errors import DataError
from intraformer_fast.pipeline import prepare
from intraformer_fast.selection import CANDIDATES, Linking, choose_linking


def blobs(identities=20, samples=15, width=24, noise=0.22, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(identities), samples))
    features = rng.normal(size=(identities, width))[labels] + noise * width**0.5 * rng.normal(size=(len(labels), width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.fixture(scope="module")
def known():
    features, labels = blobs()
    neighbors, similarity = graph.knn_graph(features, 20)
    arrays = (neighbors, similarity, np.clip(similarity, 0, 1))
    return SimpleNamespace(arrays=arrays, labels=labels, tried=choose_linking(*arrays, labels))


def test_the_best_candidate_comes_first_with_the_scores_it_has(known):
    assert len(known.tried) == len(CANDIDATES)
    for scored in known.tried:
        labels = scored.linking.link(*known.arrays)
        assert scored.pairwise_f == pytest.approx(metrics.pairwise_f(known.labels, labels))
        assert scored.bcubed_f == pytest.approx(metrics.bcubed_f(known.labels, labels))
        assert scored.score == pytest.approx((scored.pairwise_f + scored.bcubed_f) / 2)
    assert [s.score for s in known.tried] == sorted((s.score for s in known.tried), reverse=True)
    assert known.tried[0].score > known.tried[-1].score


def test_a_linking_survives_json():
    for linking in CANDIDATES:
        assert Linking(**json.loads(json.dumps(linking.to_dict()))) == linking


def test_resolution_grows_with_the_set(known):
    """Two copies of a graph, not joined, are cut as one is."""
    linking = Linking("communities", 0.3, {"symmetrize": "agreement"}, resolution_per_thousand=10.0)
    neighbors, *others = known.arrays
    single = linking.link(neighbors, *others)
    double = linking.link(np.concatenate([neighbors, neighbors + 300]), *(np.tile(a, (2, 1)) for a in others))
    assert metrics.pairwise_f(double[:300], single) > 0.99
    assert not set(double[:300]) & set(double[300:])


def test_without_the_optional_package_the_other_rules_are_tried(known, monkeypatch):
    monkeypatch.setitem(sys.modules, "sknetwork.clustering", None)
    rules = {scored.linking.rule for scored in choose_linking(*known.arrays, known.labels)}
    assert rules == {"intimacy", "mutual", "density"}
    with pytest.raises(ValueError, match="no candidate can be tried"):
        choose_linking(*known.arrays, known.labels, [c for c in CANDIDATES if c.rule == "communities"])


def test_validation_identities_are_kept_out_of_the_training_graph():
    features, labels = blobs()
    data = prepare(features, labels, 20, validation=0.25, seed=3)
    assert not set(data.fit.labels) & set(data.validation.labels)
    assert len(set(data.validation.labels)) == 5
    assert len(data.fit.labels) + len(data.validation.labels) == 300
    for part in (data.fit, data.validation):
        assert part.neighbors.max() == len(part.labels) - 1
    again, other = (prepare(features, labels, 20, validation=0.25, seed=seed) for seed in (3, 4))
    assert set(again.validation.labels) == set(data.validation.labels) != set(other.validation.labels)


def test_one_identity_cannot_be_split():
    features, labels = blobs()
    with pytest.raises(DataError, match="identit"):
        prepare(features, np.zeros_like(labels), 20)
