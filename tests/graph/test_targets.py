import numpy as np
import pytest
import torch

from intraformer_fast.graph import candidate_targets

NEIGHBORS = np.array([[3, 0, 2, 1], [1, 2, -1, -1], [-1, -1, -1, -1]])
LABELS = np.array([7, 5, 5, 7])
EXPECTED = [[True, True, False, False], [True, True, False, False], [False] * 4]


def test_targets_compare_with_the_centroid():
    targets = candidate_targets(NEIGHBORS, LABELS)
    assert targets.dtype == bool
    assert targets.tolist() == EXPECTED


def test_padding_is_no_target_when_the_last_sample_shares_the_label():
    assert candidate_targets(np.array([[0, -1]]), np.array([4, 4])).tolist() == [[True, False]]


@pytest.mark.parametrize("labels", [LABELS, torch.from_numpy(LABELS), LABELS.tolist()])
def test_torch_in_torch_out(labels):
    targets = candidate_targets(torch.from_numpy(NEIGHBORS).int(), labels)
    assert targets.dtype == torch.bool
    assert targets.tolist() == EXPECTED


def test_no_rows_give_no_targets():
    assert candidate_targets(np.empty((0, 5), dtype=np.int64), LABELS).shape == (0, 5)


@pytest.mark.parametrize(
    ("neighbors", "labels", "error", "said"),
    [
        ([[0, 4]], LABELS, ValueError, "ids below 4, got 0 to 4"),
        ([[0, -2]], LABELS, ValueError, "got -2 to 0"),
        ([0, 1], LABELS, ValueError, r"\(2,\)"),
        ([[0, 1]], LABELS[:, None], ValueError, r"\(4, 1\)"),
        ([[0.0, 1.0]], LABELS, TypeError, "float64"),
    ],
)
def test_bad_arguments_are_told(neighbors, labels, error, said):
    with pytest.raises(error, match=said):
        candidate_targets(neighbors, labels)
