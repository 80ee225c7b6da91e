"""Features scaled to unit length, as the model takes them."""

import numpy as np
import numpy.typing as npt

from intraformer_fast.data.checks import block_rows, check_features

# Rows this near to length 1 count as normalized: what storing them as float16 does to a length is below it.
UNIT_TOLERANCE = 1e-3


def unit_rows(features: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """The features with every row of length 1.

    Args:
        features: floating [N, d]; may be memory-mapped, it is read in blocks.

    Returns:
        `features` itself where all rows have length 1 within UNIT_TOLERANCE, so that a memory map stays one; otherwise a
        float32 copy [N, d].

    Raises:
        DataError: as `check_features`.
    """
    check_features(features)
    rows = block_rows(features.shape[1])
    blocks = [slice(start, start + rows) for start in range(0, len(features), rows)]
    if all(np.all(np.abs(_lengths(features[block]) - 1) <= UNIT_TOLERANCE) for block in blocks):
        return features
    scaled = np.empty(features.shape, dtype=np.float32)
    for block in blocks:
        scaled[block] = features[block] / _lengths(features[block])[:, None]
    return scaled


def _lengths(block: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    values = np.asarray(block, dtype=np.float64)
    return np.sqrt(np.einsum("ij,ij->i", values, values))
