import builtins
import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from intraformer_fast.data import checks, read_features, write_features
from intraformer_fast.errors import DataError, MissingDependencyError

tables = st.sampled_from([np.float32, np.float16]).flatmap(
    lambda dtype: arrays.arrays(dtype, st.tuples(st.integers(1, 9), st.integers(1, 5)))
)


def npy(header, content, version=(1, 0)):
    """A numpy file by hand."""
    text = (header + "\n").encode()
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + content


def read_bytes(tmp_path, name, content, **options):
    (tmp_path / name).write_bytes(content)
    return read_features(tmp_path / name, **options)


@given(tables, st.sampled_from([".npy", ".bin", ".parquet"]), st.sampled_from([6, 1 << 22]))
def test_what_is_written_is_read_back(tmp_path_factory, features, suffix, block):
    path = tmp_path_factory.mktemp("round") / f"features{suffix}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "BLOCK_VALUES", block)
        write_features(path, features)
    again = read_features(path, dim=features.shape[1])
    assert again.dtype == (np.float32 if suffix == ".bin" else features.dtype)
    np.testing.assert_array_equal(again, features)


def test_bin_is_raw_float32_row_by_row(tmp_path):
    content = struct.pack("<6f", 1, 2, 3, 4, 5, 6)
    features = read_bytes(tmp_path, "features.bin", content, dim=3)
    assert isinstance(features, np.memmap)
    np.testing.assert_array_equal(features, [[1, 2, 3], [4, 5, 6]])
    write_features(tmp_path / "again.bin", np.array([[1, 2, 3], [4, 5, 6]], np.float32))
    assert (tmp_path / "again.bin").read_bytes() == content


def test_npy_is_numpys_own_format(tmp_path):
    features = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_features(tmp_path / "features.npy", features)
    np.testing.assert_array_equal(np.load(tmp_path / "features.npy", allow_pickle=False), features)
    for order, flag in ((features, "False"), (np.asfortranarray(features), "True")):
        header = f"{{'descr': '<f4', 'fortran_order': {flag}, 'shape': (2, 3)}}"
        for version in ((1, 0), (2, 0)):
            again = read_bytes(tmp_path, "hand.npy", npy(header, order.tobytes("A"), version))
            assert isinstance(again, np.memmap)
            assert not again.flags.writeable
            np.testing.assert_array_equal(again, features)


def test_a_strided_table_is_written_in_order(tmp_path):
    features = np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1]
    for name in ("features.npy", "features.bin", "features.parquet"):
        write_features(tmp_path / name, features)
        np.testing.assert_array_equal(read_features(tmp_path / name, dim=6), features)


@pytest.mark.parametrize("kind", ["list", "large_list", "fixed"])
def test_parquet_lists_of_every_kind(tmp_path, kind):
    import pyarrow as pa
    import pyarrow.parquet as pq

    value = {
        "list": pa.list_(pa.float32()),
        "large_list": pa.large_list(pa.float32()),
        "fixed": pa.list_(pa.float32(), 2),
    }
    column = pa.array([[1, 2], [3, 4], [5, 6]], value[kind])
    pq.write_table(pa.table({"id": [1, 2, 3], "vector": column}), tmp_path / "features.parquet", row_group_size=2)
    features = read_features(tmp_path / "features.parquet", column="vector")
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, [[1, 2], [3, 4], [5, 6]])


@pytest.mark.parametrize(
    ("name", "words"), [(b"featu\xf1\x81s", "is not a whole Parquet file"), (b"featu\nes", "has the columns featu es;")]
)
def test_a_damaged_column_name_of_parquet_is_one_sentence(tmp_path, name, words):
    """Found by fuzzing: pyarrow raised a UnicodeDecodeError that reached the caller."""
    pytest.importorskip("pyarrow")
    path = tmp_path / "features.parquet"
    write_features(path, np.ones((3, 2), np.float32))
    path.write_bytes(path.read_bytes().replace(b"features", name))
    with pytest.raises(DataError, match=words) as caught:
        read_features(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "value", "reason"),
    [
        ([[1.0], [2.0, 3.0]], "float", r"rows 1 to 2 wide; expected samples of one width"),
        ([[1.0], None], "float", r"with 1 missing rows; expected a list of floats in every row"),
        ([[1.0], [None]], "float", r"with 1 missing values; expected float32 or float16"),
        ([[1.0], [2.0]], "double", r"lists of double .*expected float32 or float16"),
        ([[], []], "float", r"rows 0 wide; expected samples of one width, at least 1"),
        ([], "float", r"holds no rows"),
    ],
)
def test_parquet_that_is_no_table_of_floats_is_refused(tmp_path, rows, value, reason):
    import pyarrow as pa
    import pyarrow.parquet as pq

    column = pa.array(rows, pa.list_(pa.type_for_alias(value)))
    pq.write_table(pa.table({"features": column}), tmp_path / "features.parquet")
    with pytest.raises(DataError, match=reason):
        read_features(tmp_path / "features.parquet")


def test_parquet_columns_are_checked(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"id": [1, 2], "name": ["a", "b"]}), tmp_path / "features.parquet")
    with pytest.raises(DataError, match="has the columns id, name; expected one named features"):
        read_features(tmp_path / "features.parquet")
    with pytest.raises(DataError, match="holds int64 with 0 missing rows; expected a list of floats"):
        read_features(tmp_path / "features.parquet", column="id")


def test_parquet_rows_of_two_row_groups_must_agree(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([("features", pa.list_(pa.float32()))])
    with pq.ParquetWriter(tmp_path / "features.parquet", schema) as writer:
        for rows in ([[1, 2]] * 70000, [[1, 2, 3]]):
            writer.write_table(pa.table({"features": rows}, schema=schema))
    with pytest.raises(DataError, match="wide; expected samples of one width"):
        read_features(tmp_path / "features.parquet")


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *arguments, **options)

    (tmp_path / "features.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r"pyarrow, which is not installed: .*intraformer-fast\[parquet\]"):
        read_features(tmp_path / "features.parquet")
    with pytest.raises(MissingDependencyError, match="pyarrow"):
        write_features(tmp_path / "new.parquet", np.ones((2, 2), np.float32))
    assert [path.name for path in tmp_path.iterdir()] == ["features.parquet"]


@pytest.mark.parametrize("suffix", [".npy", ".parquet"])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, suffix):
    path = tmp_path / f"features{suffix}"
    write_features(path, np.arange(12, dtype=np.float32).reshape(4, 3))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"features\{suffix} (is empty|is not a whole|claims an array)"):
            read_features(path)
    path.write_bytes(whole + b"\0")
    if suffix == ".npy":
        with pytest.raises(DataError, match="claims an array"):
            read_features(path)


@pytest.mark.parametrize("header", ["-" * 9000, "(" * 9000, "[" * 150, "{'descr': '<f4'", "", "1", "\0"])
def test_a_header_that_cannot_be_parsed_is_refused(tmp_path, header):
    with pytest.raises(DataError, match="is not a whole numpy array file"):
        read_bytes(tmp_path, "features.npy", npy(header, bytes(48)))


def test_damage_in_a_numpy_header_never_raises_anything_else(tmp_path):
    path = tmp_path / "features.npy"
    write_features(path, np.arange(12, dtype=np.float32).reshape(4, 3))
    whole = path.read_bytes()
    refused = 0
    for position in range(128):
        for value in (0, whole[position] ^ 1, ord("("), 255):
            path.write_bytes(whole[:position] + bytes([value]) + whole[position + 1 :])
            try:
                assert read_features(path).size * read_features(path).itemsize == 48
            except DataError:
                refused += 1
    assert refused > 200


@pytest.mark.parametrize(
    ("size", "dim"),
    [(20, 3), (4, 2), (7, 1)],
)
def test_a_bin_file_of_another_width_is_refused(tmp_path, size, dim):
    with pytest.raises(DataError, match=rf"has {size} bytes, which is not a multiple of {4 * dim} \(one row of {dim} "):
        read_bytes(tmp_path, "features.bin", bytes(size), dim=dim)


@pytest.mark.parametrize("dim", [None, 0, -2])
def test_a_bin_file_needs_its_width(tmp_path, dim):
    with pytest.raises(ValueError, match="does not know its width; give a positive dim"):
        read_bytes(tmp_path, "features.bin", bytes(8), dim=dim)


def test_a_width_given_is_checked(tmp_path):
    for name in ("features.npy", "features.parquet"):
        write_features(tmp_path / name, np.ones((2, 3), np.float32))
        with pytest.raises(DataError, match="holds features 3 wide; expected 4"):
            read_features(tmp_path / name, dim=4)


def test_a_claim_of_a_huge_array_takes_no_memory(tmp_path):
    tracemalloc.start()
    for shape in ("(1000000000000, 512)", "(4611686018427387904, 8)", "(-1, -12)"):
        content = npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}", bytes(48))
        with pytest.raises(DataError, match=r"claims an array of shape .* and holds 48; it was cut short or damaged"):
            read_bytes(tmp_path, "features.npy", content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_pickles_are_never_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return (pytest.fail, ("the pickle was run",))

    np.save(tmp_path / "features.npy", np.array([[Trap()]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="holds Python objects, which are never loaded"):
        read_features(tmp_path / "features.npy")


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.ones((2, 2)), "holds float64; expected float32 or float16"),
        (np.ones((2, 2), int), "holds int64; expected float32 or float16"),
        (np.ones((2, 2), ">f4"), "holds >f4; expected float32 or float16"),
        (np.ones(4, np.float32), r"of shape \(4,\); expected \[samples, width\]"),
        (np.ones((0, 4), np.float32), r"of shape \(0, 4\); expected"),
        (np.zeros((2, 2), [("a", "<f4")]), "expected float32 or float16"),
    ],
)
def test_other_arrays_are_refused_both_ways(tmp_path, array, reason):
    np.save(tmp_path / "features.npy", array)
    with pytest.raises(DataError, match=reason):
        read_features(tmp_path / "features.npy")
    with pytest.raises(DataError, match="expected float32 or float16"):
        write_features(tmp_path / "new.npy", array)
    assert not (tmp_path / "new.npy").exists()


@pytest.mark.parametrize("name", ["features.npy", "features.bin", "features.parquet"])
def test_missing_and_empty_files(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        read_features(tmp_path / name, dim=2)
    with pytest.raises(DataError, match="is empty"):
        read_bytes(tmp_path, name, b"", dim=2)


@pytest.mark.parametrize("name", ["features.csv", "features"])
def test_other_suffixes_list_the_known_ones(tmp_path, name):
    with pytest.raises(ValueError, match=r"features are read and written as .npy or .bin or .parquet, not"):
        read_features(tmp_path / name)
    with pytest.raises(ValueError, match=r"features are read and written as"):
        write_features(tmp_path / name, np.ones((2, 2), np.float32))
