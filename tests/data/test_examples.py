"""What the packaged example `glyphs` promises in its description, `glyphs.md`, and what goes for all examples."""

import unicodedata
from importlib import resources

import numpy as np
import pytest

from intraformer_fast.data import load_example

GROUPS = ("latin", "greek-cyrillic", "semitic", "indic-sea", "kana", "hangul", "han")
# The start of the Unicode names of each group's characters.
NAMES = {
    "latin": ("LATIN", "DIGIT", "AMPERSAND", "QUESTION", "COMMERCIAL", "PERCENT", "SECTION"),
    "greek-cyrillic": ("GREEK", "CYRILLIC", "ARMENIAN", "GEORGIAN"),
    "semitic": ("ARABIC", "HEBREW", "ETHIOPIC"),
    "indic-sea": (
        *("DEVANAGARI", "BENGALI", "GURMUKHI", "GUJARATI", "TAMIL", "TELUGU", "MALAYALAM", "SINHALA"),
        *("THAI", "LAO", "TIBETAN", "MYANMAR", "KHMER"),
    ),
    "kana": ("HIRAGANA", "KATAKANA"),
    "hangul": ("HANGUL SYLLABLE",),
    "han": ("CJK UNIFIED IDEOGRAPH",),
}


@pytest.fixture(scope="module")
def everything():
    return load_example("glyphs", "all")


@pytest.mark.parametrize(
    ("split", "samples", "classes", "group_samples", "group_classes"),
    [
        ("train", 22017, 601, [2580, 1973, 2999, 4244, 2012, 3783, 4426], [43, 36, 83, 187, 42, 90, 120]),
        ("test", 21792, 600, [2520, 1922, 2882, 4163, 2040, 3793, 4472], [42, 35, 83, 187, 43, 90, 120]),
    ],
)
def test_sizes_of_the_splits_and_their_groups(split, samples, classes, group_samples, group_classes):
    data = load_example("glyphs", split)
    assert len(data) == samples
    assert len(np.unique(data.labels)) == classes
    assert np.bincount(data.groups).tolist() == group_samples
    assert [len(np.unique(data.labels[data.groups == group])) for group in range(7)] == group_classes


def test_the_class_sizes(everything):
    sizes = np.bincount(everything.labels)
    assert len(sizes) == 1201
    assert sizes.min() == 8
    assert sizes.max() == 60
    assert everything.group_names == GROUPS


def test_no_class_is_in_both_splits(everything):
    train, test = load_example("glyphs", "train"), load_example("glyphs", "test")
    assert not np.intersect1d(train.labels, test.labels).size
    assert len(train) + len(test) == len(everything) == 43809


def test_train_is_the_default():
    np.testing.assert_array_equal(load_example("glyphs").labels, load_example("glyphs", "train").labels)


def test_types_and_lengths(everything):
    assert everything.features.dtype == np.float32
    assert everything.features.shape == (43809, 128)
    assert everything.labels.dtype == everything.groups.dtype == np.int64
    np.testing.assert_allclose(np.linalg.norm(everything.features, axis=1), 1, atol=1e-6)


def test_every_class_is_one_character_of_one_group(everything):
    assert len(set(everything.class_names)) == len(everything.class_names) == 1201
    groups = np.full(1201, -1)
    groups[everything.labels] = everything.groups
    np.testing.assert_array_equal(groups[everything.labels], everything.groups)
    for character, group in zip(everything.class_names, groups, strict=True):
        assert len(character) == 1
        assert unicodedata.name(character).startswith(NAMES[GROUPS[group]])


def test_every_picture_has_ink_and_paper_and_fills_its_frame(everything):
    pictures = everything.pictures()
    ink = (pictures > 0).sum((1, 2))
    assert ink.min() > 20
    assert ink.max() < 28 * 28
    # Faint edges may round to paper, no more.
    height, width = (32 - side.argmax(1) - side[:, ::-1].argmax(1) for side in (pictures.any(2), pictures.any(1)))
    assert np.mean(np.maximum(height, width) >= 27) > 0.98


def test_pictures_agree_with_features(everything):
    """A picture's nearest sample by feature looks more like it than a random one of the same group does."""
    random = np.random.default_rng(0)
    ids = random.choice(len(everything), 300, replace=False)
    cosine = everything.features[ids] @ everything.features.T
    cosine[np.arange(300), ids] = -1
    nearest = cosine.argmax(1)
    other = np.array([random.choice(np.flatnonzero(everything.groups == everything.groups[i])) for i in ids])

    def likeness(a, b):
        a, b = (everything.pictures(i).reshape(300, -1).astype(np.float32) for i in (a, b))
        return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)

    assert np.mean(likeness(ids, nearest) > likeness(ids, other)) > 0.9


def test_purity_of_ten_neighbors_on_test():
    data = load_example("glyphs", "test")
    queries = np.arange(0, len(data), 8)
    cosine = data.features[queries] @ data.features.T
    cosine[np.arange(len(queries)), queries] = -2
    neighbors = np.argpartition(-cosine, 10, axis=1)[:, :10]
    same = (data.labels[neighbors] == data.labels[queries, None]).mean(1)
    assert same.mean() == pytest.approx(0.889, abs=0.01)
    by_group = [same[data.groups[queries] == group].mean() for group in range(7)]
    assert by_group == pytest.approx([0.855, 0.962, 0.772, 0.842, 0.960, 0.881, 0.969], abs=0.04)


def test_the_file_is_small_and_holds_plain_arrays_only():
    path = resources.files("intraformer_fast.data") / "glyphs.npz"
    assert path.stat().st_size < 12_000_000
    with np.load(path, allow_pickle=False) as arrays:
        assert not any(arrays[name].dtype.hasobject for name in arrays.files)
        assert arrays["packages"].max() == len(arrays["package_names"]) - 1
        assert len(arrays["packages"]) == len(arrays["labels"])


def test_every_package_in_the_file_has_a_license(everything):
    folder = resources.files("intraformer_fast.bench.data.glyphs")
    lists = {
        "licenses": [line.split("\t")[0] for line in (folder / "licenses.txt").read_text().splitlines()],
        "versions": [line.split("=")[0] for line in (folder / "packages.txt").read_text().splitlines()],
        "checksums": [line.split()[1].split("_")[0] for line in (folder / "packages.sha256").read_text().splitlines()],
    }
    with np.load(resources.files("intraformer_fast.data") / "glyphs.npz", allow_pickle=False) as arrays:
        names = arrays["package_names"].tolist()
    for listed in lists.values():
        assert sorted(listed) == names


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="there is no example 'faces'; there is: glyphs, emoji"):
        load_example("faces")
    with pytest.raises(ValueError, match="there is no split 'validation'; there is: train, test, all"):
        load_example("glyphs", "validation")
