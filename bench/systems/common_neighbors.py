"""Sums over the common neighbours of two samples, which several systems weigh their edges by."""

import numpy as np
import numpy.typing as npt


def common_sums(
    neighbors: npt.NDArray[np.int64], left: npt.NDArray[np.floating], right: npt.NDArray[np.floating]
) -> npt.NDArray[np.float32]:
    """For every edge i -> j = neighbors[i, column]: sum of left_il right_jl over the samples l that i and j both list.

    Time grows with N n^2, memory with N n.

    Args:
        neighbors: int64 [N, n]; -1 is padding.
        left, right: [N, n], a value for each entry of `neighbors`.

    Returns:
        float32 [N, n]; 0 at padding.
    """
    there = neighbors >= 0
    ids = np.where(there, neighbors, 0)
    left, right = (np.where(there, values, 0).astype(np.float32) for values in (left, right))
    result = np.zeros(neighbors.shape, np.float32)
    looked_up = np.zeros(len(neighbors), np.float32)
    for i in range(len(neighbors)):
        mine, own = ids[i], there[i]
        looked_up[mine[own]] = left[i, own]
        result[i] = (looked_up[ids[mine]] * right[mine]).sum(axis=1) * own
        looked_up[mine[own]] = 0
    return result
