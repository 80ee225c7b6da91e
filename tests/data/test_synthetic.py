"""synthetic: the same on disk as in memory, sizes, groups, refusals."""

import tracemalloc

import numpy as np
import pytest

from intraformer_fast.data import synthetic
from intraformer_fast.data.synthetic import BLOCK


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_on_disk_it_is_what_it_is_in_memory(tmp_path, dtype):
    made = synthetic(BLOCK + 100, dim=8, seed=3, dtype=dtype)
    stored = synthetic(BLOCK + 100, dim=8, seed=3, dtype=dtype, folder=tmp_path / "new")
    assert isinstance(stored.features, np.memmap)
    assert stored.features.dtype == dtype
    for name in ("features", "labels", "groups"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(made, name))
    other = synthetic(BLOCK + 100, dim=8, seed=4, dtype=dtype)
    assert (other.features != made.features).any(1).all()


def test_identities_have_the_papers_mean_size_and_uneven_groups():
    data = synthetic(50_000)
    sizes = np.bincount(data.labels)
    assert sizes.min() >= 1
    assert sizes.mean() == pytest.approx(69, rel=0.01)
    assert np.std(np.log(sizes)) == pytest.approx(0.6, abs=0.05)
    shares = np.bincount(data.groups) / len(data)
    assert shares[0] > 2 * shares[1] > 2 * shares[3]
    assert len(np.unique(np.stack([data.labels, data.groups]), axis=1).T) == len(sizes)  # one group an identity


def test_samples_are_of_length_1_nearest_to_their_own_and_harder_in_the_smallest_group():
    data = synthetic(4000, seed=1)
    np.testing.assert_allclose(np.linalg.norm(data.features, axis=1), 1, atol=1e-6)
    cosine = data.features @ data.features.T
    same = data.labels[:, None] == data.labels
    assert cosine[same & ~np.eye(4000, dtype=bool)].mean() == pytest.approx(1 / (1 + 0.8**2), abs=0.01)
    of = [data.groups == group for group in (0, 3)]
    within = [cosine[np.ix_(rows, rows)][~same[np.ix_(rows, rows)]].mean() for rows in of]
    assert within[1] > within[0] + 0.1


@pytest.mark.parametrize("samples", [1, 2, 68, 140])
def test_any_number_of_samples(samples):
    data = synthetic(samples, dim=2)
    assert data.features.shape == (samples, 2)
    assert np.isfinite(data.features).all()


def test_features_on_disk_are_never_in_memory_as_a_whole(tmp_path):
    tracemalloc.start()
    synthetic(8 * BLOCK, dim=128, folder=tmp_path)  # 64 MiB of features
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 * 2**20, peak


BAD = [{"samples": 0}, {"dim": 1}, {"mean_size": 0}, {"noise": -1}, {"seed": -1}, {"groups": ()}, {"groups": (1, 0)}]


@pytest.mark.parametrize("wrong", [*BAD, {"dtype": np.float64}])
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        synthetic(**{"samples": 10, **wrong})
