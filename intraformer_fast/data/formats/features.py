"""Feature tables: `.npy` and `.bin` as memory maps, `.parquet` through pyarrow."""

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import numpy.typing as npt

from intraformer_fast.data.checks import block_rows
from intraformer_fast.errors import DataError, MissingDependencyError
from intraformer_fast.files import atomic_path

from .headers import AnyPath, read_header, size_of, suffix_of

SUFFIXES = (".npy", ".bin", ".parquet")
COLUMN = "features"
# Wider floats would double every table for digits no embedding has, and narrowing them is the user's decision.
TYPES = (np.dtype(np.float32), np.dtype(np.float16))

Features = npt.NDArray[np.floating]  # float32 or float16


def read_features(path: AnyPath, *, dim: int | None = None, column: str = COLUMN) -> Features:
    """Read a feature table. The values are not looked at: `check_features` does that.

    Args:
        path: `.npy` (float32 or float16), `.bin` (raw float32) or `.parquet` (lists of float32 or float16).
        dim: the width. `.bin` does not know its own, so there it is needed; elsewhere it is checked when given.
        column: the column of a `.parquet` file.

    Returns:
        [N, dim], N and dim at least 1; a read-only memory map for `.npy` and `.bin`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix, or `.bin` without a positive `dim`.
        DataError: empty, damaged, another type, another width, or rows of differing width.
        MissingDependencyError: `.parquet` without pyarrow.
    """
    suffix = suffix_of(path, SUFFIXES, "features")
    if suffix == ".bin" and (dim is None or dim < 1):
        raise ValueError(f"{path}: a .bin file does not know its width; give a positive dim, not {dim}")
    with open(path, "rb") as file:
        size = size_of(file, path)
        if suffix == ".bin":
            assert dim is not None
            return _map_bin(path, size, dim)
        features = _map_npy(file, size, path) if suffix == ".npy" else _read_parquet(file, path, column)
    if dim is not None and features.shape[1] != dim:
        raise DataError(f"{path} holds features {features.shape[1]} wide; expected {dim}")
    return features


def _map_bin(path: AnyPath, size: int, dim: int) -> Features:
    if size % (4 * dim):
        raise DataError(
            f"{path} has {size} bytes, which is not a multiple of {4 * dim} (one row of {dim} float32 values);"
            " give the right dim, or write the file again"
        )
    return np.memmap(path, np.dtype("<f4"), "r", shape=(size // (4 * dim), dim))


def _map_npy(file: IO[bytes], size: int, path: AnyPath) -> Features:
    header = read_header(file, size, path)
    if header.dtype not in TYPES:
        raise DataError(f"{path} holds {header.dtype}; expected float32 or float16, so save features.astype('float32')")
    if len(header.shape) != 2 or 0 in header.shape:
        raise DataError(
            f"{path} holds an array of shape {header.shape}; expected [samples, width], one of each at least"
        )
    order: Literal["F", "C"] = "F" if header.fortran_order else "C"
    return np.memmap(path, header.dtype, "r", offset=header.length, shape=header.shape, order=order)


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingDependencyError("pyarrow", "parquet", "reading and writing .parquet files") from error
    return pyarrow, pyarrow.parquet


def _read_parquet(file: IO[bytes], path: AnyPath, column: str) -> Features:
    arrow, parquet = _pyarrow()
    try:
        table = parquet.ParquetFile(file)
        names = table.schema_arrow.names
        if column not in names:
            listed = " ".join(", ".join(names).split())
            raise DataError(f"{path} has the columns {listed}; expected one named {column}")
        blocks = [_rows(batch.column(0), path) for batch in table.iter_batches(columns=[column])]
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())  # pyarrow's are of several lines
        raise DataError(f"{path} is not a whole Parquet file ({words}); write it again") from error
    widths = {block.shape[1] for block in blocks}
    if not blocks or len(widths) > 1 or 0 in widths:
        found = f"rows {' and '.join(map(str, sorted(widths)))} wide" if blocks else "no rows"
        raise DataError(f"{path} holds {found}; expected samples of one width, at least 1")
    return np.concatenate(blocks)


def _rows(lists: Any, path: AnyPath) -> Features:
    arrow, _ = _pyarrow()
    import pyarrow.compute

    if lists.null_count or not isinstance(lists, arrow.ListArray | arrow.LargeListArray | arrow.FixedSizeListArray):
        raise DataError(
            f"{path} holds {lists.type} with {lists.null_count} missing rows; expected a list of floats in every row"
        )
    values = lists.flatten()
    if values.null_count or values.type not in (arrow.float32(), arrow.float16()):
        raise DataError(
            f"{path} holds lists of {values.type} with {values.null_count} missing values;"
            " expected float32 or float16 in full"
        )
    widths = np.unique(pyarrow.compute.list_value_length(lists).to_numpy(zero_copy_only=False))
    if len(widths) > 1:
        raise DataError(f"{path} holds rows {widths[0]} to {widths[-1]} wide; expected samples of one width")
    return values.to_numpy(zero_copy_only=False).reshape(len(lists), -1)


def write_features(path: AnyPath, features: Features) -> None:
    """Write a feature table [N, d], in blocks, so that a memory map is never brought in whole.

    `.npy` and `.parquet` keep the type; `.bin` is float32, so float16 is widened, which is exact.

    Raises:
        ValueError: another suffix.
        DataError: not two-dimensional, empty, or neither float32 nor float16.
        OSError: the file cannot be written; nothing is left behind.
        MissingDependencyError: `.parquet` without pyarrow.
    """
    suffix = suffix_of(path, SUFFIXES, "features")
    if features.ndim != 2 or 0 in features.shape or features.dtype not in TYPES:
        raise DataError(
            f"features are {features.dtype} of shape {features.shape}; expected float32 or float16, [samples, width]"
        )
    with atomic_path(path) as temporary:
        if suffix == ".parquet":
            _write_parquet(temporary, features)
            return
        with open(temporary, "wb") as file:
            if suffix == ".npy":
                descr = np.lib.format.dtype_to_descr(features.dtype)
                np.lib.format.write_array_header_1_0(
                    file, {"descr": descr, "fortran_order": False, "shape": features.shape}
                )
            for block in _blocks(features):
                file.write((block.astype("<f4", copy=False) if suffix == ".bin" else block).data)


def _blocks(features: Features) -> Iterator[Features]:
    rows = block_rows(features.shape[1])
    for start in range(0, len(features), rows):
        yield np.ascontiguousarray(features[start : start + rows])


def _write_parquet(path: Path, features: Features) -> None:
    arrow, parquet = _pyarrow()
    width = features.shape[1]
    schema = arrow.schema([(COLUMN, arrow.list_(arrow.from_numpy_dtype(features.dtype), width))])
    with parquet.ParquetWriter(path, schema) as writer:
        for block in _blocks(features):
            lists = arrow.FixedSizeListArray.from_arrays(arrow.array(block.ravel()), width)
            writer.write_table(arrow.table([lists], schema=schema))
