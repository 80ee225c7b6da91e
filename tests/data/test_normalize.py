"""Features scaled to unit length."""

import numpy as np
import pytest

from intraformer_fast.data import checks, unit_rows
from intraformer_fast.errors import DataError


def normal(rows=50, width=8):
    return np.random.default_rng(0).normal(size=(rows, width)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 3e4])
def test_rows_keep_their_direction_and_get_length_one(scale, monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_VALUES", 56)
    features = normal() * np.float32(scale)
    expected = features.astype(np.float64) / np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    scaled = unit_rows(features)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled, expected, rtol=1e-6, atol=1e-7)


def test_one_row_of_another_length_is_seen(monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_VALUES", 56)
    features = unit_rows(normal())
    features[37] *= 2
    np.testing.assert_allclose(np.linalg.norm(unit_rows(features), axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_normalized_features_come_back_as_they_are(dtype, tmp_path):
    path = tmp_path / "unit.npy"
    np.save(path, unit_rows(normal()).astype(dtype))
    mapped = np.load(path, mmap_mode="r")
    assert unit_rows(mapped) is mapped


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_rows_without_a_direction_are_named(value):
    features = normal()
    features[7] = value
    with pytest.raises(DataError, match="row 7"):
        unit_rows(features)
