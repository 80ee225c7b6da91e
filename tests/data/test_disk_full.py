"""A write that the disk refuses leaves the old file as it was, and nothing else."""

import contextlib
import errno
import resource

import numpy as np
import pytest
from cases import disks

from intraformer_fast.data import read_features, write_features, write_labels, write_neighbors

ROOM = 64 * 1024  # bytes


@contextlib.contextmanager
def file_size_limit():
    """No file may grow beyond ROOM: the kernel fails the write, as it does on a full disk, and needs no privilege."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(params=["file size limit", "full disk"])
def small_disk(request, tmp_path):
    """A folder, the context in which it has little room, and the error the kernel then gives."""
    if request.param == "file size limit":
        yield tmp_path, file_size_limit, errno.EFBIG
        return
    with disks.small_disk(tmp_path, ROOM):
        yield tmp_path, contextlib.nullcontext, errno.ENOSPC


def noise(*shape):
    return np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)


BIG = {
    "features.npy": lambda path: write_features(path, noise(3000, 64)),
    "features.bin": lambda path: write_features(path, noise(3000, 64)),
    "features.parquet": lambda path: write_features(path, noise(3000, 64)),
    "labels.npy": lambda path: write_labels(path, np.arange(30000)),
    "labels.meta": lambda path: write_labels(path, np.arange(30000)),
    "knns.npz": lambda path: write_neighbors(path, np.arange(30000)[:, None], noise(30000, 1)),
}


@pytest.mark.parametrize("name", BIG)
def test_nothing_is_left_behind(small_disk, name):
    folder, limit, _ = small_disk
    with limit(), pytest.raises(OSError):  # noqa: PT011 - numpy and Arrow word and number it in their own ways
        BIG[name](folder / name)
    assert list(folder.iterdir()) == []


def test_the_old_file_stays(small_disk):
    folder, limit, number = small_disk
    old = noise(10, 4)
    write_features(folder / "features.npy", old)
    with limit(), pytest.raises(OSError) as caught:  # noqa: PT011 - the number is checked below
        write_features(folder / "features.npy", noise(3000, 64))
    assert caught.value.errno == number
    assert [path.name for path in folder.iterdir()] == ["features.npy"]
    np.testing.assert_array_equal(read_features(folder / "features.npy"), old)


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError):
        write_labels(tmp_path / "file" / "labels.npy", np.array([1]))
