import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from intraformer_fast.data import Dataset
from intraformer_fast.data.dataset import pack_pictures, unpack_pictures
from intraformer_fast.errors import DataError


def toy(samples=6):
    random = np.random.default_rng(0)
    return Dataset(
        name="toy",
        features=random.normal(size=(samples, 3)).astype(np.float32),
        labels=np.arange(samples) // 2,
        groups=np.arange(samples) % 2,
        group_names=("even", "odd"),
        class_names=("a", "b", "c"),
        packed_pictures=random.integers(0, 256, (samples, 28, 7), dtype=np.uint8),
    )


def test_four_pixels_share_a_byte_leftmost_highest():
    picture = np.zeros((1, 32, 32), np.uint8)
    picture[0, 2, 2:6] = [255, 170, 85, 0]
    picture[0, 29, 29] = 255
    packed = pack_pictures(picture)
    assert packed.shape == (1, 28, 7)
    assert packed[0, 0, 0] == 0b11_10_01_00
    assert packed[0, 27, 6] == 0b00_00_00_11
    assert packed.astype(int).sum() == 0b11100100 + 0b11


@given(arrays.arrays(np.uint8, st.tuples(st.integers(0, 3), st.just(28), st.just(28))))
def test_packing_keeps_the_nearest_of_four_grays(inner):
    pictures = np.pad(inner, ((0, 0), (2, 2), (2, 2)))
    shown = unpack_pictures(pack_pictures(pictures))
    assert shown.dtype == np.uint8
    assert shown.shape == pictures.shape
    nearest = np.abs(pictures[..., None].astype(int) - [0, 85, 170, 255]).min(-1)
    np.testing.assert_array_equal(np.abs(shown.astype(int) - pictures), nearest)


def test_pictures_are_those_of_the_ids_asked_for():
    data = toy()
    every = data.pictures()
    assert every.shape == (6, 32, 32)
    np.testing.assert_array_equal(data.pictures([4, 0, 4]), every[[4, 0, 4]])
    np.testing.assert_array_equal(data.picture(5), every[5])
    assert data.pictures([]).shape == (0, 32, 32)
    with pytest.raises(IndexError):
        data.picture(6)


def test_a_set_without_pictures_says_so():
    data = dataclasses.replace(toy(), packed_pictures=None)
    with pytest.raises(DataError, match="the data set toy has no pictures"):
        data.picture(0)


@pytest.mark.parametrize("index", [np.array([3, 1]), np.array([False, True, False, True, False, False])])
def test_a_subset_takes_the_same_samples_of_every_array(index):
    data = toy()
    part = data.subset(index)
    assert len(part) == 2
    for name in ("features", "labels", "groups", "packed_pictures"):
        np.testing.assert_array_equal(getattr(part, name), getattr(data, name)[index])
    assert (part.name, part.group_names, part.class_names) == (data.name, data.group_names, data.class_names)


def test_a_subset_of_a_bare_set_stays_bare():
    data = dataclasses.replace(toy(), groups=None, packed_pictures=None)
    part = data.subset(np.array([0]))
    assert part.groups is None
    assert part.packed_pictures is None


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(DataError, match="labels has 5 entries and features has 6"):
        dataclasses.replace(toy(), labels=np.arange(5))


def test_a_data_set_cannot_be_changed_by_accident():
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy().name = "other"
