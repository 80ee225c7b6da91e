"""Splits that never cut an identity in two."""

import numpy as np
import numpy.typing as npt

from intraformer_fast.errors import DataError

from .checks import check_same_length


def split_identities(
    labels: npt.NDArray[np.integer],
    fraction: float,
    *,
    seed: int,
    groups: npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.bool_]:
    """Draw identities to hold out, all samples of each.

    The identities are shuffled, laid out group by group, and taken at even steps from a random start: so every group
    gives its share to within one identity, every identity is drawn with the same probability, and the total is
    round(fraction * identities), at least one on either side.

    Args:
        labels: integers [N].
        fraction: share of the identities to hold out, in (0, 1).
        seed: the same seed, labels and groups give the same draw.
        groups: integers [N]; an identity counts to the group of its first sample. None: all are one group.

    Returns:
        bool [N], True where the sample's identity is held out.

    Raises:
        ValueError: `fraction` is not in (0, 1).
        DataError: fewer than two identities, or `groups` of another length.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}; expected a share between 0 and 1, both excluded")
    check_same_length(labels=labels, groups=groups)
    identities, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    count = len(identities)
    if count < 2:
        raise DataError(f"the labels hold {count} identities; at least two are needed, one for either side of a split")
    random = np.random.default_rng(seed)
    order = random.permutation(count)
    if groups is not None:
        order = order[np.argsort(np.asarray(groups)[first[order]], kind="stable")]
    held = min(max(round(fraction * count), 1), count - 1)
    drawn = np.zeros(count, dtype=np.bool_)
    drawn[order[(np.arange(held) * count + random.integers(count)) // held]] = True
    return drawn[inverse]
