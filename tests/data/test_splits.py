import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intraformer_fast.data import split_identities
from intraformer_fast.errors import DataError

sizes = st.lists(st.integers(1, 5), min_size=2, max_size=60)
fractions = st.floats(0.001, 0.999)


def labels_of(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)) * 7 - 3, sizes)
    return np.random.default_rng(seed).permutation(labels)


@given(sizes, fractions, st.integers(0, 2**32))
def test_identities_stay_whole_and_the_share_is_met(sizes, fraction, seed):
    labels = labels_of(sizes)
    held = split_identities(labels, fraction, seed=seed)
    assert held.shape == labels.shape
    assert held.dtype == np.bool_
    assert not set(labels[held]) & set(labels[~held])
    expected = min(max(round(fraction * len(sizes)), 1), len(sizes) - 1)
    assert len(set(labels[held])) == expected


@given(sizes, fractions, st.integers(0, 100), st.integers(1, 6))
def test_every_group_gives_its_share(sizes, fraction, seed, count):
    labels = labels_of(sizes)
    groups = (labels + 3) // 7 % count
    held = split_identities(labels, fraction, seed=seed, groups=groups)
    share = len(set(labels[held])) / len(sizes)
    for group in np.unique(groups):
        identities = len(set(labels[groups == group]))
        assert abs(len(set(labels[held & (groups == group)])) - share * identities) < 1 + 1e-9


def test_the_draw_depends_on_the_seed_alone():
    labels = labels_of([3] * 100)
    first = split_identities(labels, 0.3, seed=1)
    np.testing.assert_array_equal(first, split_identities(labels, 0.3, seed=1))
    assert (first != split_identities(labels, 0.3, seed=2)).any()
    order = np.random.default_rng(5).permutation(len(labels))
    np.testing.assert_array_equal(first[order], split_identities(labels[order], 0.3, seed=1))


def test_over_many_seeds_every_identity_is_drawn_alike():
    labels = np.arange(10)
    groups = np.repeat([0, 1, 2], [1, 2, 7])
    times = sum(split_identities(labels, 0.3, seed=seed, groups=groups).astype(int) for seed in range(2000))
    assert times.sum() == 6000
    assert np.abs(times - 600).max() < 105  # five standard deviations of a binomial draw


@pytest.mark.parametrize("labels", [[4, 4, 4], [0], []])
def test_one_identity_cannot_be_split(labels):
    with pytest.raises(DataError, match=r"the labels hold [01] identities; at least two are needed"):
        split_identities(np.array(labels, dtype=np.int64), 0.5, seed=0)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan")])
def test_a_share_outside_0_to_1_is_refused(fraction):
    with pytest.raises(ValueError, match="expected a share between 0 and 1"):
        split_identities(np.array([0, 1]), fraction, seed=0)


def test_groups_of_another_length_are_refused():
    with pytest.raises(DataError, match="groups has 1 entries and labels has 2"):
        split_identities(np.array([0, 1]), 0.5, seed=0, groups=np.array([0]))
