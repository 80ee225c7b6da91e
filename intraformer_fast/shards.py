"""Tables too large to make in one go: a folder of shards of rows, each written when it is finished, and a manifest.

    manifest.json            whose shards these are
    NAME-00000.npy ...       array NAME of the rows [0, shard_rows), and so on

A run that was stopped at any moment makes the shards that are missing and no others. Shards of another run are refused, never
mixed in, and a shard that was cut short is made again.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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
    """

    folder: Path
    rows: int
    shard_rows: int
    arrays: tuple[str, ...]

    def __len__(self) -> int:
        return -(-self.rows // self.shard_rows)

    def rows_of(self, shard: int) -> slice:
        """The rows of a shard."""
        return slice(shard * self.shard_rows, min(self.rows, (shard + 1) * self.shard_rows))

    def path(self, name: str, shard: int) -> Path:
        """The file of an array of a shard."""
        return self.folder / f"{name}-{shard:05d}.npy"

    def missing(self) -> list[int]:
        """The shards that are not there whole."""
        return [shard for shard in range(len(self)) if not self._is_whole(shard)]

    def _is_whole(self, shard: int) -> bool:
        try:
            for name in self.arrays:
                check_npy(self.path(name, shard))
        except (FileNotFoundError, DataError):
            return False
        return True

    def write(self, shard: int, **arrays: npt.NDArray[Any]) -> None:
        """Write a shard.

        Raises:
            OSError: the disk is full, or the folder cannot be written; the other shards stay.
        """
        assert tuple(arrays) == self.arrays
        for name, array in arrays.items():
            save_npy(self.path(name, shard), array)

    def read(self, shard: int) -> list[npt.NDArray[Any]]:
        """The arrays of a shard, memory-mapped, in the order of `arrays`.

        Raises:
            DataError: a file is missing or was cut short.
        """
        found = []
        for name in self.arrays:
            path = self.path(name, shard)
            try:
                check_npy(path)
            except FileNotFoundError as error:
                raise DataError(f"{path} is missing; run the same command again, which makes it") from error
            found.append(np.load(path, mmap_mode="r", allow_pickle=False))
        return found


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
    return Shards(folder, rows, shard_rows, arrays)


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
