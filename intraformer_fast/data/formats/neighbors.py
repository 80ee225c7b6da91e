"""Neighbor tables in learn-to-cluster's layout: `data` [N, 2, k], row 0 the ids and row 1 the cosine distances.

The file keeps float64, so ids are exact, and a similarity survives the way there and back: 1 - (1 - s) = s for every
float32 s that is 0 or at least 2^-29 in size (a smaller one comes back with an error of at most 2^-53).
"""

import zipfile

import numpy as np
import numpy.typing as npt

from intraformer_fast.data.checks import block_rows
from intraformer_fast.errors import DataError
from intraformer_fast.files import atomic_path

from .headers import AnyPath, open_member, suffix_of

KEY = "data"
# A cosine distance is in [0, 2]; rounding in whatever computed it may leave it a little outside.
_SLACK = 0.01


def read_neighbors(path: AnyPath) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Read a neighbor table; rows are as in the file, which may hold the sample itself anywhere or not at all.

    Returns:
        neighbors int64 [N, k], ids in [0, N) or -1 for padding; similarity float32 [N, k], 1 - distance, 0 at padding.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix.
        DataError: not a whole npz file, no array `data`, another shape or type, ids that are not integers in [-1, N),
            distances that are NaN or outside [0, 2]. The first bad row is named.
    """
    suffix_of(path, (".npz",), "neighbors")
    with open_member(path, KEY) as (stream, header):
        shape, dtype = header.shape, header.dtype
        if len(shape) != 3 or shape[1] != 2 or 0 in shape or header.fortran_order or dtype.kind not in "iuf":
            raise DataError(f"{path} holds {dtype} of shape {shape}; expected numbers of shape (N, 2, k), in C order")
        count, _, k = shape
        if dtype.kind == "f" and count > 2 ** (np.finfo(dtype).nmant + 1):
            raise DataError(
                f"{path} holds ids as {dtype}, which cannot tell {count} samples apart; save them as float64"
            )
        neighbors = np.empty((count, k), np.int64)
        similarity = np.empty((count, k), np.float32)
        rows = block_rows(2 * k)
        for start in range(0, count, rows):
            here = slice(start, min(start + rows, count))
            wanted = (here.stop - start) * 2 * k * dtype.itemsize
            content = stream.read(wanted)
            if len(content) != wanted:
                raise DataError(
                    f"{path} ends in row {start + len(content) // (2 * k * dtype.itemsize)} of {count}; write it again"
                )
            block = np.frombuffer(content, dtype).reshape(-1, 2, k)
            ids, distance = block[:, 0], block[:, 1].astype(np.float64)
            _check(ids, distance, count, start, str(path))
            neighbors[here] = ids
            similarity[here] = np.where(ids < 0, 0, 1 - distance)
    return neighbors, similarity


def write_neighbors(path: AnyPath, neighbors: npt.NDArray[np.integer], similarity: npt.NDArray[np.floating]) -> None:
    """Write a neighbor table [N, k] and its cosine similarities [N, k] as ids and distances; padding keeps its -1.

    Raises:
        ValueError: another suffix.
        DataError: shapes or types other than these, ids outside [-1, N), similarities that are NaN or outside [-1, 1].
        OSError: the file cannot be written; nothing is left behind.
    """
    suffix_of(path, (".npz",), "neighbors")
    if neighbors.ndim != 2 or neighbors.size == 0 or not np.issubdtype(neighbors.dtype, np.integer):
        raise DataError(
            f"neighbors are {neighbors.dtype} of shape {neighbors.shape}; expected integers of shape [N, k]"
        )
    if similarity.shape != neighbors.shape or not np.issubdtype(similarity.dtype, np.floating):
        raise DataError(
            f"similarity is {similarity.dtype} of shape {similarity.shape}; expected floats of shape {neighbors.shape}"
        )
    count, k = neighbors.shape
    header = {"descr": "<f8", "fortran_order": False, "shape": (count, 2, k)}
    rows = block_rows(2 * k)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{KEY}.npy", "w", force_zip64=True) as stream,
    ):
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, count, rows):
            ids = neighbors[start : start + rows]
            distance = np.where(ids < 0, 1, 1 - similarity[start : start + rows].astype(np.float64))
            _check(ids, distance, count, start, "neighbors")
            stream.write(np.stack([ids, distance], axis=1).astype("<f8", copy=False).tobytes())


def _check(ids: npt.NDArray[np.number], distance: npt.NDArray[np.float64], count: int, start: int, where: str) -> None:
    known = (ids >= -1) & (ids < count) & (ids == np.floor(ids))
    if not known.all():
        row, column = np.argwhere(~known)[0]
        raise DataError(
            f"{where}, row {start + row}: the neighbor {ids[row, column]} is no sample;"
            f" expected an id in [0, {count}), or -1 for padding"
        )
    cosine = (ids < 0) | ((distance >= -_SLACK) & (distance <= 2 + _SLACK))
    if not cosine.all():
        row, column = np.argwhere(~cosine)[0]
        raise DataError(
            f"{where}, row {start + row}: the distance {distance[row, column]} is no cosine distance;"
            " expected one in [0, 2] (a similarity in [-1, 1]), from features of length 1"
        )
