"""The choice of a linking on validation identities."""

import json

import numpy as np
import pytest

from intraformer_fast import graph, metrics
from intraformer_fast.errors import DataError
from intraformer_fast.pipeline import prepare
from intraformer_fast.selection import CANDIDATES, Linking, View, choose_linking


def blobs(identities=20, samples=15, width=24, noise=0.22, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(identities), samples))
    features = rng.normal(size=(identities, width))[labels] + noise * width**0.5 * rng.normal(size=(len(labels), width))
    return (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32), labels


def view(seed=0, **changes):
    features, labels = blobs(seed=seed)
    neighbors, similarity = graph.knn_graph(features, 20)
    probability = np.clip(similarity, 0, 1)
    everyone = np.ones(len(labels), dtype=bool)
    return View(**{**dict(zip(("neighbors", "similarity", "probability", "labels", "scored"),
                              (neighbors, similarity, probability, labels, everyone), strict=True)), **changes})  # fmt: skip


def test_the_best_candidate_comes_first_with_the_scores_it_has():
    one = view()
    tried = choose_linking([one])
    assert len(tried) == len(CANDIDATES)
    for scored in tried:
        labels = scored.linking.link(one.neighbors, one.similarity, one.probability)
        assert scored.pairwise_f == pytest.approx(metrics.pairwise_f(one.labels, labels))
        assert scored.bcubed_f == pytest.approx(metrics.bcubed_f(one.labels, labels))
    assert [s.score for s in tried] == sorted((s.score for s in tried), reverse=True)
    assert tried[0].score > tried[-1].score


def test_views_count_alike_and_only_scored_samples_count():
    one, other = view(0), view(1, scored=np.arange(300) < 90)
    both, first, second = ({str(s.linking): s.score for s in choose_linking(v)} for v in ([one, other], [one], [other]))
    assert both == pytest.approx({name: (first[name] + second[name]) / 2 for name in both})
    candidate = CANDIDATES[0]
    labels = candidate.link(other.neighbors, other.similarity, other.probability)
    expected = metrics.scores(other.labels[:90], labels[:90])
    assert second[str(candidate)] == pytest.approx((expected.pairwise_f + expected.bcubed_f) / 2)


def test_a_linking_survives_json():
    for linking in CANDIDATES:
        assert Linking(**json.loads(json.dumps(linking.to_dict()))) == linking


def test_resolution_grows_with_the_set():
    """Two copies of a graph, not joined, are cut as one is."""
    one = view()
    linking = Linking("communities", 0.3, {"symmetrize": "agreement"}, resolution_per_thousand=10.0)
    single = linking.link(one.neighbors, one.similarity, one.probability)
    arrays = (
        np.concatenate([one.neighbors, one.neighbors + 300]),
        *(np.tile(a, (2, 1)) for a in (one.similarity, one.probability)),
    )
    double = linking.link(*arrays)
    assert metrics.pairwise_f(double[:300], single) > 0.99
    assert not set(double[:300]) & set(double[300:])


def test_without_the_optional_package_the_other_rules_are_tried(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sknetwork.clustering", None)
    rules = {scored.linking.rule for scored in choose_linking([view()])}
    assert rules == {"intimacy", "mutual", "density"}


def test_nothing_to_choose_on_is_refused():
    with pytest.raises(ValueError, match="at least one view"):
        choose_linking([])
    with pytest.raises(ValueError, match="at least one scored sample"):
        choose_linking([view(scored=np.zeros(300, dtype=bool))])


def test_validation_identities_are_kept_out_of_the_training_graph():
    features, labels = blobs()
    data = prepare(features, labels, 20, validation=0.25, seed=3)
    assert not set(data.fit.labels) & set(data.alone.labels)
    assert len(set(data.alone.labels)) == 5
    assert len(data.fit.labels) + len(data.alone.labels) == len(data.among.labels) == 300
    assert set(data.among.labels[data.held_out]) == set(data.alone.labels)
    assert data.fit.neighbors.max() < len(data.fit.labels)
    again = prepare(features, labels, 20, validation=0.25, seed=3)
    assert (again.held_out == data.held_out).all()
    assert (prepare(features, labels, 20, validation=0.25, seed=4).held_out != data.held_out).any()


def test_one_identity_cannot_be_split():
    features, labels = blobs()
    with pytest.raises(DataError, match="identit"):
        prepare(features, np.zeros_like(labels), 20)
