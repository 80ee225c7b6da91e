"""How many pictures an identity has, and of which of its drawings."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

MIN_DRAWINGS = 5  # an identity with fewer is dropped
MIN_PICTURES, MAX_PICTURES = 8, 60
SIZE_EXPONENT = 1.2  # above 1: small identities are the more frequent
DRAWING_EXPONENT = 1.5  # the drawing of rank r is taken in proportion to r^-DRAWING_EXPONENT


def draw_pictures(counts: Sequence[int], seed: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Identity and drawing of each picture.

    An identity's drawings are ranked at random and taken by Zipf's law, as of a person there are many pictures from few days.

    Args:
        counts: how many drawings each identity has.
        seed: of the draws.

    Returns:
        int64 [N] and [N], the identity (ascending) and the position of the drawing among those of the identity.
    """
    random = np.random.RandomState(seed)
    identities, drawings = [], []
    for identity, count in enumerate(counts):
        size = round(MIN_PICTURES + (MAX_PICTURES - MIN_PICTURES) * random.random_sample() ** SIZE_EXPONENT)
        weights = (1.0 + random.permutation(count)) ** -DRAWING_EXPONENT
        drawings.append(random.choice(count, size, p=weights / weights.sum()))
        identities.append(np.full(size, identity))
    return np.concatenate(identities), np.concatenate(drawings)
