"""Decomposition of a candidate cluster into sub-clusters (Eq. 13)."""

import itertools


def subcluster_bounds(num_tokens: int, num_subclusters: int) -> list[tuple[int, int]]:
    """Bounds `(start, stop)` of each of `num_subclusters` near-equal consecutive runs of `num_tokens` tokens.

    The tokens stand in falling similarity to the centroid, so consecutive runs satisfy Eq. 13. Where the division leaves a
    remainder r the first r runs are one token longer (the rule of `numpy.array_split`); with fewer tokens than
    sub-clusters the last runs are empty.

    Raises:
        ValueError: `num_tokens` is negative or `num_subclusters` is not positive.
    """
    if num_tokens < 0 or num_subclusters < 1:
        raise ValueError(
            f"num_tokens = {num_tokens} and num_subclusters = {num_subclusters}: expected at least 0 tokens and 1 sub-cluster"
        )
    # Not by divmod: a compiled graph of any length has n as a symbol, which that does not take.
    size, longer = num_tokens // num_subclusters, num_tokens % num_subclusters
    starts = [m * size + min(m, longer) for m in range(num_subclusters + 1)]
    return list(itertools.pairwise(starts))
