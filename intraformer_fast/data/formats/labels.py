"""Labels and groups: one integer a sample."""

import re

import numpy as np
import numpy.typing as npt

from intraformer_fast.errors import DataError
from intraformer_fast.files import atomic_path, write_text

from .headers import AnyPath, read_header, size_of, suffix_of

_INTEGER = re.compile(rb"\s*[+-]?[0-9]{1,18}\s*")


def read_labels(path: AnyPath) -> npt.NDArray[np.int64]:
    """Read labels or groups: `.npy` of any integer type, or `.meta` with one integer a line.

    Returns:
        int64 [N].

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: another suffix.
        DataError: empty, damaged, not integers (for `.meta` the line is named), not one-dimensional.
    """
    suffix = suffix_of(path, (".npy", ".meta"), "labels")
    with open(path, "rb") as file:
        size = size_of(file, path)
        if suffix == ".meta":
            return _parse(file.read().splitlines(), path)
        header = read_header(file, size, path)
        if len(header.shape) != 1 or not np.issubdtype(header.dtype, np.integer) or header.shape[0] == 0:
            raise DataError(
                f"{path} holds {header.dtype} of shape {header.shape}; expected one integer for each sample"
            )
        labels = np.fromfile(file, header.dtype)
    if labels.max() > np.iinfo(np.int64).max:
        raise DataError(
            f"{path} holds the label {labels.max()}, which does not fit a signed 64-bit integer; renumber them"
        )
    return labels.astype(np.int64)


def _parse(lines: list[bytes], path: AnyPath) -> npt.NDArray[np.int64]:
    bad = next((i for i, line in enumerate(lines) if _INTEGER.fullmatch(line) is None), None)
    if bad is not None:
        shown = lines[bad][:40].decode("utf-8", "replace")
        raise DataError(
            f"{path}, line {bad + 1}: {shown!r} is not an integer of at most 18 digits; expected one a line"
        )
    return np.array(lines, dtype=np.int64)


def write_labels(path: AnyPath, labels: npt.NDArray[np.integer]) -> None:
    """Write labels or groups [N]: `.npy` as int64, or `.meta` with one integer a line.

    Raises:
        ValueError: another suffix.
        DataError: not one-dimensional or not integers.
        OSError: the file cannot be written; nothing is left behind.
    """
    suffix = suffix_of(path, (".npy", ".meta"), "labels")
    labels = np.asarray(labels)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or labels.size == 0:
        raise DataError(f"labels are {labels.dtype} of shape {labels.shape}; expected one integer for each sample")
    if suffix == ".meta":
        write_text(path, "\n".join(map(str, labels.tolist())) + "\n")
        return
    with atomic_path(path) as temporary:
        np.save(temporary, labels.astype(np.int64))
