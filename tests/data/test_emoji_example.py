"""What the packaged example `emoji` promises in its description, `emoji.md`."""

from importlib import resources

import numpy as np
import pytest

from intraformer_fast.bench.systems.split import load
from intraformer_fast.data import load_example
from intraformer_fast.errors import DataError

GROUPS = ("smileys", "people", "animals", "food", "travel", "activities", "objects", "symbols", "flags")


@pytest.fixture(scope="module")
def everything():
    return load_example("emoji", "all")


@pytest.fixture(scope="module")
def arrays():
    with np.load(resources.files("intraformer_fast.data") / "emoji.npz", allow_pickle=False) as opened:
        return dict(opened)


@pytest.mark.parametrize(
    ("split", "samples", "classes", "group_samples", "group_classes"),
    [
        (
            "train",
            18010,
            554,
            [1526, 4099, 1492, 1397, 1907, 840, 2403, 2174, 2172],
            [52, 113, 48, 40, 65, 25, 80, 67, 64],
        ),
        (
            "test",
            18201,
            555,
            [1577, 3901, 1607, 1101, 2260, 903, 2523, 2278, 2051],
            [51, 113, 48, 39, 66, 26, 80, 67, 65],
        ),
    ],
)
def test_sizes_of_the_splits_and_their_groups(split, samples, classes, group_samples, group_classes):
    data = load_example("emoji", split)
    assert len(data) == samples
    assert len(np.unique(data.labels)) == classes
    assert np.bincount(data.groups).tolist() == group_samples
    assert [len(np.unique(data.labels[data.groups == group])) for group in range(9)] == group_classes


def test_the_class_sizes(everything):
    sizes = np.bincount(everything.labels)
    assert len(sizes) == 1109
    assert (sizes.min(), sizes.max()) == (8, 60)
    assert np.quantile(sizes, [0.1, 0.5, 0.9]) == pytest.approx([11, 32, 55], abs=1)
    assert everything.group_names == GROUPS


def test_no_class_is_in_both_splits(everything):
    train, test = load_example("emoji", "train"), load_example("emoji", "test")
    assert not np.intersect1d(train.labels, test.labels).size
    assert len(train) + len(test) == len(everything) == 36211


def test_every_class_is_one_emoji_of_one_group(everything, arrays):
    assert len(set(everything.class_names)) == len(set(arrays["code_points"].tolist())) == 1109
    groups = np.full(1109, -1)
    groups[everything.labels] = everything.groups
    np.testing.assert_array_equal(groups[everything.labels], everything.groups)
    flags = np.array([name.startswith("flag: ") for name in everything.class_names])
    assert (groups[flags] == GROUPS.index("flags")).all()
    assert flags.sum() > 100
    faces = np.array([points.startswith("1F60") for points in arrays["code_points"].tolist()])
    assert (groups[faces] == GROUPS.index("smileys")).all()
    assert faces.sum() > 5


def test_the_styles_of_a_class_are_several_and_uneven(everything, arrays):
    counts = np.zeros((1109, len(arrays["set_names"])), int)
    np.add.at(counts, (everything.labels, arrays["sets"]), 1)
    assert counts.sum(0).min() > 500
    assert np.median((counts > 0).sum(1)) >= 5
    assert 0.3 < np.median(counts.max(1) / counts.sum(1)) < 0.7


def test_purity_of_ten_neighbors_on_test():
    data = load_example("emoji", "test")
    queries = np.arange(0, len(data), 8)
    cosine = data.features[queries] @ data.features.T
    cosine[np.arange(len(queries)), queries] = -2
    neighbors = np.argpartition(-cosine, 10, axis=1)[:, :10]
    same = (data.labels[neighbors] == data.labels[queries, None]).mean(1)
    assert same.mean() == pytest.approx(0.823, abs=0.01)
    by_group = [same[data.groups[queries] == group].mean() for group in range(9)]
    assert by_group == pytest.approx([0.787, 0.781, 0.804, 0.801, 0.829, 0.854, 0.836, 0.869, 0.872], abs=0.06)


def test_the_file_is_small_and_holds_plain_arrays_only(arrays):
    assert (resources.files("intraformer_fast.data") / "emoji.npz").stat().st_size < 4_000_000
    assert not any(array.dtype.hasobject for array in arrays.values())
    assert sorted(np.unique(arrays["sets"])) == list(range(len(arrays["set_names"])))


def test_there_are_no_pictures(everything):
    with pytest.raises(DataError, match="emoji has no pictures"):
        everything.picture(0)


def test_every_package_has_a_license():
    folder = resources.files("intraformer_fast.bench.data.emoji")
    licensed = [line.split("\t")[0] for line in (folder / "licenses.txt").read_text().splitlines()]
    pinned = [line.rsplit("@", 1)[0] for line in (folder / "packages.txt").read_text().splitlines()]
    assert licensed == pinned


def test_the_comparison_of_systems_takes_it():
    split = load("emoji", classes=20)
    assert (split.known.name, split.target.name) == ("emoji", "emoji")
    assert len(np.unique(split.target.labels)) == len(np.unique(split.known.labels)) == 20
    assert not np.intersect1d(split.known.labels, split.target.labels).size
