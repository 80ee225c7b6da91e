"""Which of its three disjoint sets of classes each class falls into."""

import numpy as np
import numpy.typing as npt

EMBEDDING, TRAIN, TEST = 0, 1, 2
SHARES = (0.4, 0.3, 0.3)  # of each group's classes


def split_classes(groups: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.int64]:
    """Draw EMBEDDING, TRAIN or TEST for every class, in the same SHARES inside each of the `groups` [C] of the classes."""
    # RandomState, since its stream is frozen for good: the file must come out the same under every numpy.
    random = np.random.RandomState(seed)
    split = np.empty(len(groups), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        position = (np.arange(len(members)) + 0.5) / len(members)
        split[members[random.permutation(len(members))]] = np.searchsorted(
            np.cumsum(SHARES[:2]), position, side="right"
        )
    return split
