"""Checks that every entry point runs on what it was given, before any work starts."""

from collections.abc import Sized

import numpy as np
import numpy.typing as npt

from intraformer_fast.errors import DataError

# Values looked at once: 16 MiB of float32, so that a memory-mapped table never comes in whole.
BLOCK_VALUES = 1 << 22


def block_rows(width: int) -> int:
    """How many rows of `width` values make a block of about BLOCK_VALUES values; at least one."""
    return max(1, BLOCK_VALUES // max(1, width))


def check_features(features: npt.NDArray[np.floating]) -> None:
    """Check that `features` is a table whose rows can all be scaled to length 1.

    Args:
        features: floating [N, d]; may be memory-mapped, it is read in blocks.

    Raises:
        DataError: not two-dimensional, not floating, no sample or no column; or a row holds NaN or infinity, or has a
            squared length that its type (float32 at least) cannot hold. The first such row is named.
    """
    if features.ndim != 2:
        raise DataError(f"features have the shape {features.shape}; expected two dimensions, one row per sample")
    if not np.issubdtype(features.dtype, np.floating):
        raise DataError(f"features are {features.dtype}; expected floats: convert them with features.astype('float32')")
    count, width = features.shape
    if count == 0 or width == 0:
        raise DataError(f"features have the shape {features.shape}; expected at least one sample and one column")
    rows = block_rows(width)
    for start in range(0, count, rows):
        block = np.asarray(features[start : start + rows])
        block = block.astype(np.result_type(block.dtype, np.float32), copy=False)
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            squared = np.einsum("ij,ij->i", block, block)
        bad = ~((squared > 0) & (squared < np.inf))
        if bad.any():
            first = int(bad.argmax())
            raise DataError(f"row {start + first} of the features {_flaw(block[first])}")


def _flaw(row: npt.NDArray[np.floating]) -> str:
    if not np.isfinite(row).all():
        return "holds NaN or infinity; drop the sample or compute its feature again"
    if not row.any():
        return "is all zeros, so it has no direction to compare; drop the sample or compute its feature again"
    return f"is too {'large' if np.abs(row).max() > 1 else 'small'} to be normalized in {row.dtype}; scale the features"


def check_same_length(**arrays: Sized | None) -> None:
    """Check that all `arrays` have as many entries as the first; a None is passed over.

    Raises:
        DataError: naming the two that differ, e.g. `check_same_length(features=features, labels=labels)`.
    """
    given = [(name, len(array)) for name, array in arrays.items() if array is not None]
    for name, length in given[1:]:
        first, count = given[0]
        if length != count:
            raise DataError(
                f"{name} has {length} entries and {first} has {count}; give one for each sample, in the same order"
            )
