"""What a numpy file claims to hold, checked against what is there before any memory is taken."""

import contextlib
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import IO, Any
from zipfile import BadZipFile

import numpy as np

from intraformer_fast.errors import DataError

AnyPath = str | os.PathLike[str]

# Deflate cannot shrink data further than this (zlib's technical notes); a directory that claims more is lying.
_DEFLATE_LIMIT = 1032
# What numpy's header parser and the zip reader raise on damaged files.
_UNPARSABLE = (ValueError, TypeError, KeyError, EOFError, SyntaxError, TokenError, RecursionError, MemoryError)
_UNREADABLE = (BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, struct.error, zlib.error, ValueError)


@dataclass(frozen=True)
class Header:
    """The header of an array: its shape, its type, whether columns come first, and its own length in bytes."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran_order: bool
    length: int


def suffix_of(path: AnyPath, known: tuple[str, ...], kind: str) -> str:
    """The suffix of `path`, lower case.

    Raises:
        ValueError: it is none of `known`.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in known:
        raise ValueError(
            f"{path}: {kind} are read and written as {' or '.join(known)}, not {suffix or 'without a suffix'}"
        )
    return suffix


def size_of(file: IO[bytes], path: AnyPath) -> int:
    """The size of an open file in bytes.

    Raises:
        DataError: it is empty.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise DataError(f"{path} is empty; it was not written to the end, or is the wrong file")
    return size


def read_header(file: IO[bytes], size: int, path: AnyPath) -> Header:
    """Read the header of an array stored in numpy's format; `file` is left at its first value.

    Args:
        file: a stream at the start of the array.
        size: the bytes that there are from there on, header included.
        path: the name for messages.

    Raises:
        DataError: not numpy's format, Python objects, or another size than the header claims.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, fortran_order, dtype = read(file)
    except _UNPARSABLE as error:
        raise DataError(f"{path} is not a whole numpy array file; write it again with numpy.save") from error
    if dtype.hasobject:
        raise DataError(f"{path} holds Python objects, which are never loaded as they can run code; save plain numbers")
    length = file.tell()
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or expected != size - length:
        raise DataError(
            f"{path} claims an array of shape {shape} and type {dtype}, {expected} bytes, and holds {size - length};"
            " it was cut short or damaged, so write it again"
        )
    return Header(shape, dtype, fortran_order, length)


@contextlib.contextmanager
def open_member(path: AnyPath, key: str) -> Iterator[tuple[IO[bytes], Header]]:
    """Open the array `key` of the `.npz` file `path`, as a stream at its first value, and its header.

    Damage that shows only while the block reads the stream (cut short, wrong checksum) is raised as DataError too.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: not a whole npz file, no array `key` in it, or sizes that do not agree.
    """
    with open(path, "rb") as file:
        size_of(file, path)
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
                if key not in names:
                    held = ", ".join(map(repr, names)) or "nothing"  # a damaged name may have line breaks
                    raise DataError(f"{path} holds {held}; expected an array named {key!r}")
                member = archive.infolist()[names.index(key)]
                _check_member(member, path)
                with archive.open(member) as stream:
                    yield stream, read_header(stream, member.file_size, path)
        except DataError:
            raise
        except _UNREADABLE as error:
            raise DataError(
                f"{path} is not a whole npz file ({error}); it was cut short or damaged, so write it again"
            ) from error


def _check_member(member: zipfile.ZipInfo, path: AnyPath) -> None:
    limit = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: _DEFLATE_LIMIT}.get(member.compress_type)
    if limit is None:
        raise DataError(
            f"{path} is compressed in a way numpy does not write; write it again with numpy.savez_compressed"
        )
    if member.file_size > limit * min(member.compress_size, os.path.getsize(path)):
        raise DataError(
            f"{path} claims {member.file_size} bytes out of {member.compress_size} compressed ones,"
            " which is impossible; it is damaged, so write it again"
        )
