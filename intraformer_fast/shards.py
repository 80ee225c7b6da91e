"""Tables too large to make in one go: a folder of shards of rows, each written when it is finished, and a manifest.

    manifest.json            whose shards these are
    NAME-00000.npy ...       array NAME of the rows [0, shard_rows), and so on
    shard-00000.json ...     what its arrays are: the run, shapes, dtypes, CRC-32; written last

A run that was stopped at any moment makes the shards that are missing and no others. Shards of another run are refused, never
mixed in; one that was cut short or altered is made again by a run, and an error to a reader. No name of a file is ever taken
from one of these files.
"""

import contextlib
import hashlib
import json
import mmap
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from intraformer_fast.data.formats.headers import read_header, size_of
from intraformer_fast.errors import DataError
from intraformer_fast.files import atomic_path, read_json, write_json

MANIFEST = "manifest.json"

FINGERPRINT_ROWS = 1024
"""Rows of a table that its fingerprint looks at."""


@dataclass(frozen=True)
class Shards:
    """Arrays of `rows` rows, cut into runs of `shard_rows`.

    Attributes:
        folder: where they are.
        rows: of the whole table.
        shard_rows: of every shard but the last.
        arrays: names of what every shard holds.
        run: what tells this run's shards from those of others.
        checked: the shards whose contents this process has seen to be what was written.
    """

    folder: Path
    rows: int
    shard_rows: int
    arrays: tuple[str, ...]
    run: str
    checked: set[int] = field(default_factory=set, compare=False)

    def __len__(self) -> int:
        return -(-self.rows // self.shard_rows)

    def rows_of(self, shard: int) -> slice:
        """The rows of a shard."""
        return slice(shard * self.shard_rows, min(self.rows, (shard + 1) * self.shard_rows))

    def path(self, name: str, shard: int) -> Path:
        """The file of an array of a shard."""
        return self.folder / f"{name}-{shard:05d}.npy"

    def seal(self, shard: int) -> Path:
        """The file that says what the arrays of a shard are."""
        return self.folder / f"shard-{shard:05d}.json"

    def missing(self) -> list[int]:
        """The shards that are not there whole, every byte of those that are having been looked at."""
        return [shard for shard in range(len(self)) if not self._is_whole(shard)]

    def _is_whole(self, shard: int) -> bool:
        try:
            self.read(shard)
        except DataError:
            return False
        return True

    def write(self, shard: int, **arrays: npt.NDArray[Any]) -> None:
        """Write a shard.

        Raises:
            OSError: the disk is full, or the folder cannot be written; the other shards stay.
        """
        assert tuple(arrays) == self.arrays
        # The old seal must not stand beside new arrays.
        self.seal(shard).unlink(missing_ok=True)
        for name, array in arrays.items():
            save_npy(self.path(name, shard), array)
        write_json(self.seal(shard), self._sealed(list(arrays.values())))
        self.checked.add(shard)

    def read(self, shard: int) -> list[npt.NDArray[Any]]:
        """The arrays of a shard, memory-mapped, in the order of `arrays`. Their bytes are compared with what was written, once.

        Raises:
            DataError: a file is missing, was cut short or altered, or is of another run.
        """
        found = []
        try:
            for name in self.arrays:
                check_npy(self.path(name, shard))
                found.append(np.load(self.path(name, shard), mmap_mode="r", allow_pickle=False))
            if shard not in self.checked:
                if read_json(self.seal(shard)) != self._sealed(found):
                    raise DataError(
                        f"shard {shard} of {self.folder} is damaged, or of another run: its arrays are not those that "
                        f"{self.seal(shard).name} was written for; run the same command again, which makes it anew"
                    )
                self.checked.add(shard)
        except FileNotFoundError as error:
            raise DataError(f"{error.filename} is missing; run the same command again, which makes it") from error
        return found

    def _sealed(self, arrays: list[npt.NDArray[Any]]) -> dict[str, Any]:
        contents = {
            name: {
                "shape": list(array.shape),
                "dtype": array.dtype.str,
                "crc32": zlib.crc32(np.ascontiguousarray(array).data),
            }
            for name, array in zip(self.arrays, arrays, strict=True)
        }
        return {"run": self.run, **contents}


def open_shards(
    folder: str | os.PathLike[str], rows: int, shard_rows: int, arrays: tuple[str, ...], identity: Mapping[str, Any]
) -> Shards:
    """The shards of a folder, which is made if need be.

    Args:
        identity: all that the contents depend on; JSON-able.

    Raises:
        ValueError: the folder holds shards of another run; what differs is named.
        DataError: the manifest is damaged.
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    expected = {"rows": rows, "shard_rows": shard_rows, "arrays": list(arrays), **identity}
    expected = json.loads(json.dumps(expected))
    found = None
    with contextlib.suppress(FileNotFoundError):
        found = read_json(folder / MANIFEST)
    if found is None:
        write_json(folder / MANIFEST, expected)
    elif found != expected:
        keys = expected.keys() | (found.keys() if isinstance(found, dict) else set())
        differing = sorted(key for key in keys if not isinstance(found, dict) or found.get(key) != expected.get(key))
        raise ValueError(
            f"{folder} belongs to another run (it differs in {', '.join(differing)}): give another folder, or remove it"
        )
    run = hashlib.blake2b(json.dumps(expected, sort_keys=True).encode(), digest_size=8).hexdigest()
    return Shards(folder, rows, shard_rows, arrays, run)


def fingerprint(table: npt.NDArray[Any] | Tensor) -> str:
    """What tells tables apart: shape, dtype, and a hash of some rows spread over them."""
    digest = hashlib.blake2b(f"{tuple(table.shape)} {table.dtype}".encode(), digest_size=8)
    for row in range(0, len(table), -(-len(table) // FINGERPRINT_ROWS)):
        digest.update(np.asarray(table[row]).tobytes())
    return digest.hexdigest()


def save_npy(path: Path, array: npt.NDArray[Any]) -> None:
    """Write an array in one piece, never through a memory map: on a full disk a map kills the process, a write raises."""
    with atomic_path(path) as temporary:
        np.save(temporary, array, allow_pickle=False)


def scratch_array(folder: Path, length: int, dtype: str) -> npt.NDArray[Any]:
    """An array in a nameless file of a folder, mapped and writable, which is gone with the process.

    Raises:
        OSError: the disk has no room for it, which is asked for at once: a mapped page that finds none kills the process.
    """
    size = max(1, length) * np.dtype(dtype).itemsize
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, size)
        return np.frombuffer(mmap.mmap(file.fileno(), size), dtype)[:length]


@contextlib.contextmanager
def write_npy(path: Path, shape: tuple[int, ...], dtype: str) -> Iterator[IO[bytes]]:
    """A file whose rows are written front to back by the block; it appears under its name when all are there."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})
        yield file


def check_npy(path: Path) -> None:
    """Check that a file is there and as long as it says it is.

    Raises:
        FileNotFoundError, DataError: it is not.
    """
    with open(path, "rb") as file:
        read_header(file, size_of(file, path), path)
