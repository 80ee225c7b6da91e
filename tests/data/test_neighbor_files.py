import io
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from intraformer_fast.data import checks, read_neighbors, write_neighbors
from intraformer_fast.errors import DataError

IDS = np.array([[0, 2], [1, 0], [2, -1]])
SIMILARITY = np.array([[1, 0.75], [1, 0.5], [1, 0]], np.float32)
# The layout by hand: for each sample its ids, then its cosine distances, all float64.
CONTENT = struct.pack("<12d", 0, 2, 0, 0.25, 1, 0, 0, 0.5, 2, -1, 0, 1)


def npy(shape=(3, 2, 2), content=CONTENT, descr="'<f8'", fortran=False):
    header = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def npz(member=None, name="data.npy", compression=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(name, npy() if member is None else member)
    return file.getvalue()


def read_bytes(tmp_path, content):
    (tmp_path / "knns.npz").write_bytes(content)
    return read_neighbors(tmp_path / "knns.npz")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_the_layout_of_learn_to_cluster_is_read(tmp_path, compression):
    neighbors, similarity = read_bytes(tmp_path, npz(compression=compression))
    assert neighbors.dtype == np.int64
    assert similarity.dtype == np.float32
    np.testing.assert_array_equal(neighbors, IDS)
    np.testing.assert_array_equal(similarity, SIMILARITY)


def test_the_layout_of_learn_to_cluster_is_written(tmp_path):
    write_neighbors(tmp_path / "knns.npz", IDS, SIMILARITY)
    with zipfile.ZipFile(tmp_path / "knns.npz") as archive:
        assert archive.namelist() == ["data.npy"]
        assert archive.read("data.npy").endswith(b"\n" + CONTENT)
    # The way its own code opens the file.
    knns = np.load(tmp_path / "knns.npz")["data"]
    assert knns.shape == (3, 2, 2)
    np.testing.assert_array_equal(knns[:, 0, :], IDS)
    np.testing.assert_array_equal(knns[:, 1, :], [[0, 0.25], [0, 0.5], [0, 1]])


def test_a_file_of_numpys_own_is_read(tmp_path):
    data = np.stack([IDS, 1 - SIMILARITY], axis=1)
    for array in (data, data.astype(np.float32), data.astype(np.float16), data.astype(">f8")):
        np.savez_compressed(tmp_path / "knns.npz", data=array, other=np.ones(3))
        neighbors, similarity = read_neighbors(tmp_path / "knns.npz")
        np.testing.assert_array_equal(neighbors, IDS)
        np.testing.assert_array_equal(similarity, SIMILARITY)


def test_the_distance_at_padding_does_not_matter(tmp_path):
    content = struct.pack("<4d", 0, -1, 0, float("nan"))
    neighbors, similarity = read_bytes(tmp_path, npz(npy((1, 2, 2), content)))
    assert neighbors.tolist() == [[0, -1]]
    assert similarity.tolist() == [[1, 0]]


@given(st.data(), st.integers(1, 12), st.integers(1, 5), st.sampled_from([4, 1 << 22]))
def test_what_is_written_is_read_back_bit_for_bit(tmp_path_factory, data, count, k, block):
    neighbors = data.draw(arrays.arrays(np.int64, (count, k), elements=st.integers(-1, count - 1)))
    cosines = st.floats(-1, 1, width=32).filter(lambda value: value == 0 or abs(value) >= 2**-29)
    similarity = data.draw(arrays.arrays(np.float32, (count, k), elements=cosines))
    similarity[neighbors < 0] = 0
    path = tmp_path_factory.mktemp("round") / "knns.npz"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checks, "BLOCK_VALUES", block)
        write_neighbors(path, neighbors, similarity)
        again = read_neighbors(path)
    np.testing.assert_array_equal(again[0], neighbors)
    np.testing.assert_array_equal(again[1], similarity)


def test_tiny_similarities_come_back_to_within_their_rounding(tmp_path):
    tiny = np.float32([[1e-12, -3e-10, 1e-38]])
    write_neighbors(tmp_path / "knns.npz", np.zeros((1, 3), int), tiny)
    assert np.abs(read_neighbors(tmp_path / "knns.npz")[1] - tiny).max() <= 2**-53


def test_equal_tables_give_equal_files(tmp_path):
    for name in ("a.npz", "b.npz"):
        write_neighbors(tmp_path / name, IDS, SIMILARITY)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_file_cut_short_anywhere_is_refused(tmp_path, compression):
    whole = npz(compression=compression)
    for length in range(len(whole)):
        with pytest.raises(DataError, match=r"knns.npz is (empty|not a whole npz file)"):
            read_bytes(tmp_path, whole[:length])


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damage_anywhere_is_refused_or_harmless(tmp_path, compression):
    whole = npz(compression=compression)
    refused = 0
    for position in range(len(whole)):
        for flip in (1, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            try:
                neighbors, similarity = read_bytes(tmp_path, bytes(damaged))
            except DataError:
                refused += 1
            else:
                np.testing.assert_array_equal(neighbors, IDS)
                np.testing.assert_array_equal(similarity, SIMILARITY)
    assert refused > len(whole)


def test_an_array_shorter_than_its_header_claims_is_refused(tmp_path):
    for member in (npy(content=CONTENT[:-1]), npy()[:100], npy()[:5], b""):
        with pytest.raises(DataError, match=r"knns.npz (claims an array of shape|is not a whole)"):
            read_bytes(tmp_path, npz(member))


def test_a_claim_of_a_huge_array_takes_no_memory(tmp_path):
    tracemalloc.start()
    with pytest.raises(DataError, match=r"claims an array of shape \(1000000000, 2, 80\)"):
        read_bytes(tmp_path, npz(npy((10**9, 2, 80))))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_an_archive_that_lies_about_sizes_takes_no_memory(tmp_path, compression):
    """Header and directory agree on gigabytes that so few compressed bytes cannot hold."""
    member = npy((10**7, 2, 2))
    claimed = len(member) - len(CONTENT) + 10**7 * 32
    whole = bytearray(npz(member, compression=compression))
    directory = whole.rindex(b"PK\x01\x02")
    for offset in (directory + 24, 22):
        whole[offset : offset + 4] = struct.pack("<I", claimed)
    tracemalloc.start()
    with pytest.raises(DataError, match=f"claims {claimed} bytes out of .* compressed ones, which is impossible"):
        read_bytes(tmp_path, bytes(whole))
    if compression == zipfile.ZIP_STORED:  # the same, with a compressed size larger than the file
        for offset in (directory + 20, 18):
            whole[offset : offset + 4] = struct.pack("<I", claimed)
        with pytest.raises(DataError, match=r"which is impossible|is not a whole npz file"):
            read_bytes(tmp_path, bytes(whole))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20


def test_other_archives_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds 'knns'; expected an array named 'data'"):
        read_bytes(tmp_path, npz(name="knns.npy"))
    with pytest.raises(DataError, match="compressed in a way numpy does not write"):
        read_bytes(tmp_path, npz(compression=zipfile.ZIP_BZIP2))
    with pytest.raises(DataError, match="is not a whole npz file"):
        read_bytes(tmp_path, npy())
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    with pytest.raises(DataError, match="holds nothing; expected an array named 'data'"):
        read_bytes(tmp_path, empty.getvalue())


def test_pickles_are_never_opened(tmp_path):
    np.savez(tmp_path / "knns.npz", data=np.array([[1], [2, 3]], dtype=object))
    with pytest.raises(DataError, match="holds Python objects"):
        read_neighbors(tmp_path / "knns.npz")


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (npy((3, 4)), r"of shape \(3, 4\); expected numbers of shape \(N, 2, k\)"),
        (npy((2, 3, 2)), r"of shape \(2, 3, 2\)"),
        (npy((0, 2, 2), b""), r"of shape \(0, 2, 2\)"),
        (npy((3, 2, 0), b""), r"of shape \(3, 2, 0\)"),
        (npy(fortran=True), "in C order"),
        (npy((3, 2, 1), descr="'<c16'"), "complex128"),
        (npy((4097, 2, 1), bytes(4097 * 4), "'<f2'"), "float16, which cannot tell 4097 samples apart"),
    ],
)
def test_other_shapes_and_types_are_refused(tmp_path, member, reason):
    with pytest.raises(DataError, match=reason):
        read_bytes(tmp_path, npz(member))


@pytest.mark.parametrize("bad", [3, -2, 0.5, np.nan, np.inf, 1e300])
def test_ids_that_are_no_samples_are_refused(tmp_path, bad, monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_VALUES", 4)
    data = np.stack([IDS, 1 - SIMILARITY], axis=1).astype(np.float64)
    data[2, 0, 1] = bad
    with pytest.raises(DataError, match=r"knns.npz, row 2: the neighbor .* is no sample; expected an id in \[0, 3\)"):
        read_bytes(tmp_path, npz(npy(content=data.tobytes())))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.5, 2.5])
def test_distances_that_are_no_cosine_distances_are_refused(tmp_path, bad, monkeypatch):
    monkeypatch.setattr(checks, "BLOCK_VALUES", 4)
    data = np.stack([IDS, 1 - SIMILARITY], axis=1).astype(np.float64)
    data[1, 1, 1] = bad
    with pytest.raises(
        DataError, match=r"knns.npz, row 1: the distance .* is no cosine distance; expected one in \[0, 2\]"
    ):
        read_bytes(tmp_path, npz(npy(content=data.tobytes())))


@pytest.mark.parametrize(
    ("neighbors", "similarity", "reason"),
    [
        (IDS[0], SIMILARITY[0], r"neighbors are int64 of shape \(2,\)"),
        (IDS.astype(float), SIMILARITY, "neighbors are float64"),
        (IDS[:0], SIMILARITY[:0], r"of shape \(0, 2\)"),
        (IDS, SIMILARITY[:2], r"similarity is float32 of shape \(2, 2\); expected floats of shape \(3, 2\)"),
        (IDS, SIMILARITY.astype(int), "similarity is int64"),
        (IDS + 1, SIMILARITY, "row 0: the neighbor 3 is no sample"),
        (IDS, SIMILARITY + 1, r"row 0: the distance -1.0 is no cosine distance"),
        (IDS, SIMILARITY * np.float32("nan"), "row 0: the distance nan"),
    ],
)
def test_tables_that_could_not_be_read_back_are_not_written(tmp_path, neighbors, similarity, reason):
    with pytest.raises(DataError, match=reason):
        write_neighbors(tmp_path / "knns.npz", neighbors, similarity)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"knns\.npz"):
        read_neighbors(tmp_path / "knns.npz")
    with pytest.raises(DataError, match="is empty"):
        read_bytes(tmp_path, b"")
    with pytest.raises(ValueError, match=r"neighbors are read and written as .npz, not .npy"):
        read_neighbors(tmp_path / "knns.npy")
