"""AUC, best F1 and the watch for collapse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from intraformer_fast.clusters import LabeledClusters
from intraformer_fast.errors import DataError
from intraformer_fast.training.monitoring import EdgeMonitor, EdgeScores, collapse_reason, edge_curve

# Few distinct values, so that ties are common.
EDGES = st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=1, max_size=40)


@given(EDGES)
def test_curve_is_scikit_learns_and_the_best_of_all_thresholds(edges):
    score = np.array([s for s, _ in edges], dtype=np.float32)
    target = np.array([t for _, t in edges])
    curve = edge_curve(score, target)
    if 0 < target.sum() < len(target):
        assert curve.auc == pytest.approx(roc_auc_score(target, score))
    else:
        assert curve.auc is None
    tried = [f1_score(target, score > t, zero_division=0) for t in np.arange(-3.5, 4.5)]
    assert curve.f1 == pytest.approx(max(tried))
    assert f1_score(target, score > curve.threshold, zero_division=0) == pytest.approx(curve.f1)


def test_monitor_equals_a_loop_over_edges(samples, new_model):
    neighbors = samples.neighbors.copy()
    neighbors[::3, 10:] = -1
    model = new_model(position="none")
    clusters = LabeledClusters(model, samples.features, samples.labels, neighbors, name="the set")
    rows = torch.arange(5, 60, 2)
    scores = EdgeMonitor(clusters, rows, batch_size=7, precision="fp32").scores(model)
    model.eval()
    logits, cosine, target, positives, true_counts = [], [], [], [], []
    for i in rows.tolist():
        ids = [j for j in neighbors[i] if j >= 0]
        with torch.no_grad():
            answer = model(torch.from_numpy(samples.features[ids])[None])[0]
        # Padding at the end of a row moves the border between the sub-clusters, so that short rows are given whole.
        if len(ids) < neighbors.shape[1]:
            padded = torch.zeros(1, neighbors.shape[1], 7)
            padded[0, : len(ids)] = torch.from_numpy(samples.features[ids])
            with torch.no_grad():
                answer = model(padded, torch.from_numpy(neighbors[i] >= 0)[None])[0, : len(ids)]
        same = [samples.labels[j] == samples.labels[i] for j in ids[1:]]
        logits += answer[1:].tolist()
        cosine += [float(samples.features[j] @ samples.features[i]) for j in ids[1:]]
        target += same
        positives.append(int((answer[1:] > 0).sum()))
        true_counts.append(sum(same))
    assert scores.auc == pytest.approx(roc_auc_score(target, logits))
    assert scores.cosine_auc == pytest.approx(roc_auc_score(target, cosine), abs=1e-4)
    probability = 1 / (1 + np.exp(-np.array(logits)))
    assert f1_score(target, probability > scores.threshold) == pytest.approx(scores.f1)
    assert scores.positives_mean == pytest.approx(np.mean(positives))
    assert scores.positives_std == pytest.approx(np.std(positives))
    assert scores.target_std == pytest.approx(np.std(true_counts))


def test_clusters_of_the_centroid_alone_cannot_be_scored(samples, new_model):
    model = new_model()
    clusters = LabeledClusters(model, samples.features, samples.labels, samples.neighbors[:, :1], name="the set")
    with pytest.raises(DataError, match=r"no.* neighbour beside its own centroid"):
        EdgeMonitor(clusters, torch.arange(4), batch_size=2, precision="fp32")


HEALTHY = {
    "auc": 0.9,
    "cosine_auc": 0.8,
    "f1": 0.8,
    "threshold": 0.5,
    "positives_mean": 20.0,
    "positives_std": 12.0,
    "target_std": 13.0,
}


@pytest.mark.parametrize(
    ("changed", "progress", "expected"),
    [
        ({}, 1.0, None),
        ({"positives_std": 1.5}, 0.5, "same number of neighbours"),
        # Nothing is learnt yet.
        ({"positives_std": 1.5}, 0.2, None),
        # Identities of one size: the same number is right.
        ({"positives_std": 1.5, "target_std": 0.0}, 1.0, None),
        # Unsure, not collapsed: it keeps nothing at 0.5 and still ranks well.
        ({"positives_std": 0.0, "positives_mean": 0.0}, 1.0, None),
        ({"auc": 0.8}, 1.0, "no better than the plain cosine"),
        ({"auc": 0.7}, 0.9, None),
        # Nothing to beat, and nothing to compare.
        ({"auc": 1.0, "cosine_auc": 1.0}, 1.0, None),
        ({"auc": None, "cosine_auc": None}, 1.0, None),
    ],
)
def test_collapse_is_told_from_what_looks_like_it(changed, progress, expected):
    reason = collapse_reason(
        EdgeScores(**{**HEALTHY, **changed}), num_neighbors=80, progress=progress, bce_warmup="none"
    )
    if expected is None:
        assert reason is None
    else:
        assert expected in reason
        assert "bce_warmup='ramp'" in reason


def test_the_ramp_is_not_advised_to_who_uses_it():
    scores = EdgeScores(**{**HEALTHY, "positives_std": 0.0})
    reason = collapse_reason(scores, num_neighbors=80, progress=1.0, bce_warmup="ramp")
    assert reason is not None
    assert "bce_warmup" not in reason
