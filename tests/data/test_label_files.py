import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intraformer_fast.data import read_labels, write_labels
from intraformer_fast.errors import DataError


def read_bytes(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    return read_labels(tmp_path / name)


@given(st.lists(st.integers(-(10**17), 10**17), min_size=1), st.sampled_from([".npy", ".meta"]))
def test_what_is_written_is_read_back(tmp_path_factory, labels, suffix):
    path = tmp_path_factory.mktemp("round") / f"labels{suffix}"
    write_labels(path, np.array(labels))
    again = read_labels(path)
    assert again.dtype == np.int64
    assert again.tolist() == labels


def test_meta_is_one_integer_a_line(tmp_path):
    write_labels(tmp_path / "labels.meta", np.array([3, -1, 70000], np.int32))
    assert (tmp_path / "labels.meta").read_bytes() == b"3\n-1\n70000\n"
    for content in (b"3\n-1\n70000\n", b"3\n-1\n70000", b"3\r\n-1\r\n70000\r\n", b" 3\n-1 \n+70000\n"):
        assert read_bytes(tmp_path, "labels.meta", content).tolist() == [3, -1, 70000]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"1\n2\nthree\n", r"line 3: 'three' is not an integer"),
        (b"1\n\n2\n", r"line 2: '' is not an integer"),
        (b"1\n2\n\n", r"line 3: ''"),
        (b"1.0\n", r"line 1: '1.0'"),
        (b"1 2\n", r"line 1: '1 2'"),
        (b"1\n1_0\n", r"line 2: '1_0'"),
        (b"\xff\xfe1\n", r"line 1: '.*1' is not"),
        (b"1\n" + b"9" * 30 + b"\n", r"line 2: '9{30}' is not an integer of at most 18 digits"),
        (b"7" * 10**6, r"line 1: '7{40}' is not"),
    ],
)
def test_a_line_that_is_no_integer_is_named(tmp_path, content, line):
    with pytest.raises(DataError, match=rf"labels\.meta, {line}"):
        read_bytes(tmp_path, "labels.meta", content)


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int32, ">i8", np.uint64])
def test_every_integer_type_becomes_int64(tmp_path, dtype):
    np.save(tmp_path / "labels.npy", np.array([0, 5, 100], dtype))
    labels = read_labels(tmp_path / "labels.npy")
    assert labels.dtype == np.dtype(np.int64)
    assert labels.tolist() == [0, 5, 100]


@pytest.mark.parametrize("labels", [np.ones(3), np.array([True]), np.ones((2, 1), int), np.array([], int)])
def test_other_arrays_are_refused_both_ways(tmp_path, labels):
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(DataError, match="expected one integer for each sample"):
        read_labels(tmp_path / "labels.npy")
    for name in ("new.npy", "new.meta"):
        with pytest.raises(DataError, match="expected one integer for each sample"):
            write_labels(tmp_path / name, labels)
        assert not (tmp_path / name).exists()


def test_labels_beyond_int64_are_refused_not_wrapped(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([1, 2**63], np.uint64))
    with pytest.raises(DataError, match="holds the label 9223372036854775808, which does not fit"):
        read_labels(tmp_path / "labels.npy")


def test_pickles_are_never_opened(tmp_path):
    np.save(tmp_path / "labels.npy", np.array([1, 2], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="holds Python objects"):
        read_labels(tmp_path / "labels.npy")


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "labels.npy"
    write_labels(path, np.arange(5))
    whole = path.read_bytes()
    for length in range(len(whole)):
        with pytest.raises(DataError, match=r"labels.npy (is empty|is not a whole|claims an array)"):
            read_bytes(tmp_path, "labels.npy", whole[:length])


@pytest.mark.parametrize("name", ["labels.npy", "labels.meta"])
def test_missing_and_empty_files(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_labels(tmp_path / name)
    with pytest.raises(DataError, match="is empty"):
        read_bytes(tmp_path, name, b"")


def test_other_suffixes_list_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match=r"labels are read and written as .npy or .meta, not .txt"):
        read_labels(tmp_path / "labels.txt")
    with pytest.raises(ValueError, match=r"not without a suffix"):
        write_labels(tmp_path / "labels", np.array([1]))
