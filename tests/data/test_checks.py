import numpy as np
import pytest

from intraformer_fast.data import check_features, check_same_length, checks
from intraformer_fast.errors import DataError


def table(rows=50, width=4, dtype=np.float32):
    return np.random.default_rng(0).normal(size=(rows, width)).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_good_features_pass(dtype):
    check_features(table(dtype=dtype))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_row_that_is_not_finite_is_named(value):
    features = table()
    features[[17, 31], 2] = value
    with pytest.raises(DataError, match=r"^row 17 of the features holds NaN or infinity; drop"):
        check_features(features)


def test_the_first_zero_row_is_named():
    features = table()
    features[[9, 12]] = 0
    features[40, 0] = np.nan
    with pytest.raises(DataError, match=r"^row 9 of the features is all zeros"):
        check_features(features)


@pytest.mark.parametrize(("value", "flaw"), [(1e30, "too large"), (1e-30, "too small")])
def test_a_length_that_float32_cannot_hold_is_refused(value, flaw):
    features = table()
    features[5] = value
    with pytest.raises(DataError, match=f"row 5 of the features is {flaw} to be normalized in float32"):
        check_features(features)
    check_features(features.astype(np.float64))


def test_float16_values_whose_squares_overflow_float16_pass():
    check_features(np.full((3, 4), 60000, np.float16))


@pytest.mark.parametrize(
    ("features", "reason"),
    [
        (np.ones(5, np.float32), "expected two dimensions"),
        (np.ones((5, 2, 2), np.float32), "expected two dimensions"),
        (np.ones((5, 2), np.int64), "are int64; expected floats"),
        (np.ones((0, 2), np.float32), "at least one sample"),
        (np.ones((5, 0), np.float32), "at least one sample and one column"),
    ],
)
def test_other_shapes_and_types_are_refused(features, reason):
    with pytest.raises(DataError, match=reason):
        check_features(features)


def test_rows_are_counted_over_blocks_of_a_memory_map(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_VALUES", 24)
    features = table(rows=101)
    features[100, 3] = np.nan
    np.save(tmp_path / "features.npy", features)
    with pytest.raises(DataError, match="row 100 "):
        check_features(np.load(tmp_path / "features.npy", mmap_mode="r"))


def test_arrays_of_another_length_are_named():
    check_same_length(features=np.ones((3, 2)), labels=[1, 2, 3], groups=None)
    with pytest.raises(DataError, match="groups has 2 entries and features has 3; give one for each sample"):
        check_same_length(features=np.ones((3, 2)), labels=[1, 2, 3], groups=[0, 0])
