"""The sparse contingency table of two labelings, and every score that follows from it.

All scores are functions of the counts of samples in true class i and predicted cluster j. The table keeps only the
counts above zero, at most one for each sample, so its size never depends on classes times clusters.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch

Labels: TypeAlias = npt.ArrayLike | torch.Tensor
AverageMethod: TypeAlias = Literal["arithmetic", "geometric", "min", "max"]
NOISE = -1

# The square of the number of samples bounds every sum of squared counts and every cell key: it must fit in int64.
_MAX_SAMPLES = math.isqrt(2**63 - 1)


class PrecisionRecallF(NamedTuple):
    """Precision, recall and their harmonic mean F = 2 P R / (P + R) (0 where both are 0), each in [0, 1]."""

    precision: float
    recall: float
    f: float


@dataclass(frozen=True, eq=False)
class Contingency:
    """Counts of samples in each pair of true class and predicted cluster that occurs.

    Attributes:
        counts: int64 [cells], samples in each occupied cell, all positive.
        classes: int64 [cells], the row (true class, numbered from 0 by label value) of each cell.
        clusters: int64 [cells], the column (predicted cluster, numbered from 0) of each cell.
        class_sizes: int64 [C], samples in each true class.
        cluster_sizes: int64 [K], samples in each predicted cluster; a noise sample is a cluster of its own.
    """

    counts: npt.NDArray[np.int64]
    classes: npt.NDArray[np.int64]
    clusters: npt.NDArray[np.int64]
    class_sizes: npt.NDArray[np.int64]
    cluster_sizes: npt.NDArray[np.int64]

    @property
    def num_samples(self) -> int:
        return int(self.class_sizes.sum())

    @property
    def num_classes(self) -> int:
        return len(self.class_sizes)

    @property
    def num_clusters(self) -> int:
        return len(self.cluster_sizes)

    def pairwise(self) -> PrecisionRecallF:
        """Scores over unordered pairs of samples, from exact integer counts.

        Precision is the share of the predicted pairs (two samples of one cluster) that are true pairs (two samples of
        one class), recall the share of the true pairs that are predicted. With no pair to divide by, the value is 1
        when neither labeling has a pair, else 0.
        """
        both, true, predicted = (_num_pairs(sizes) for sizes in (self.counts, self.class_sizes, self.cluster_sizes))
        no_pairs = float(true == predicted == 0)
        return _with_f(both / predicted if predicted else no_pairs, both / true if true else no_pairs)

    def bcubed(self) -> PrecisionRecallF:
        """Scores over samples (Bagga and Baldwin, 1998), averaged over all of them; singletons count.

        The precision of a sample is the share of its cluster that is of its class, its recall the share of its class
        that is in its cluster, the sample itself counted in each.
        """
        precision, recall = (
            # Dividing first keeps each term at most its count, so that the mean can never pass 1 by rounding.
            float((self.counts * (self.counts / sizes)).sum()) / self.num_samples
            for sizes in (self.cluster_sizes[self.clusters], self.class_sizes[self.classes])
        )
        return _with_f(precision, recall)

    def nmi(self, average_method: AverageMethod = "arithmetic") -> float:
        """Mutual information over the mean entropy of the two labelings, in [0, 1].

        Args:
            average_method: the mean of the two entropies, named as in scikit-learn: "arithmetic" (default, as there),
                "geometric", "min" or "max".

        Returns:
            1.0 when both labelings have a single group; 0.0 when only one of them has.

        Raises:
            ValueError: unknown `average_method`.
        """
        if average_method not in get_args(AverageMethod):
            raise ValueError(
                f"average_method is {average_method!r}; it must be one of {', '.join(get_args(AverageMethod))}."
            )
        if len(self.counts) == self.num_classes == self.num_clusters:
            return 1.0
        entropies = np.array([_entropy(self.class_sizes), _entropy(self.cluster_sizes)])
        if entropies.min() == 0:
            return 0.0
        total = self.num_samples
        expected = self.class_sizes[self.classes] * self.cluster_sizes[self.clusters]
        information = float((self.counts * np.log(self.counts * total / expected)).sum()) / total
        mean = {
            "arithmetic": entropies.mean(),
            "geometric": math.sqrt(entropies.prod()),
            "min": entropies.min(),
            "max": entropies.max(),
        }[average_method]
        return min(max(information / float(mean), 0.0), 1.0)

    def fmi(self) -> float:
        """Fowlkes-Mallows index, sqrt(precision * recall) over pairs; 1 where neither labeling has a pair."""
        precision, recall, _ = self.pairwise()
        return math.sqrt(precision * recall)


def contingency(y_true: Labels, y_pred: Labels) -> Contingency:
    """Count the samples of every pair of true class and predicted cluster that occurs.

    Args:
        y_true: integers [N] (numpy array, torch tensor on any device, or list), the true class of each sample; any
            values but -1.
        y_pred: integers [N], the predicted cluster of each sample; any values. -1 is noise: each such sample is a
            cluster of its own.

    Returns:
        The table; time O(N log N), memory O(N) whatever the numbers of classes and clusters.

    Raises:
        TypeError: labels that are not integers.
        ValueError: empty input, another shape than [N], lengths that differ, -1 in `y_true`, or more than 3.03e9
            samples.
    """
    true, predicted = as_labels(y_true, "y_true"), as_labels(y_pred, "y_pred")
    require_same_length(y_true=true, y_pred=predicted)
    if (true == NOISE).any():
        raise ValueError(
            "y_true holds -1, which marks noise in a prediction and names no true class; "
            "drop these samples or give them their class."
        )
    rows, num_classes = compact(true)
    columns, num_clusters = compact(predicted)
    # The first noise sample keeps the cluster that compact() gave to -1.
    other_noise = np.flatnonzero(predicted == NOISE)[1:]
    columns[other_noise] = num_clusters + np.arange(len(other_noise))
    num_clusters += len(other_noise)
    cells, counts = np.unique(rows * num_clusters + columns, return_counts=True)
    return Contingency(
        counts=counts.astype(np.int64, copy=False),
        classes=cells // num_clusters,
        clusters=cells % num_clusters,
        class_sizes=np.bincount(rows, minlength=num_classes),
        cluster_sizes=np.bincount(columns, minlength=num_clusters),
    )


def as_labels(values: Labels, name: str) -> npt.NDArray[np.integer]:
    """`values` as a numpy array of integers [N], N >= 1; `name` is what messages call it.

    Raises:
        TypeError: values that are not integers.
        ValueError: empty, not one-dimensional, or too long for int64 pair counts.
    """
    labels = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if labels.ndim != 1:
        raise ValueError(f"{name} has shape {labels.shape}; it must have one dimension, a label for each sample.")
    if labels.size == 0:
        raise ValueError(f"{name} is empty; at least one sample is needed.")
    if labels.dtype.kind not in "iub":
        raise TypeError(f"{name} has dtype {labels.dtype}; labels must be integers: convert them first.")
    if labels.size > _MAX_SAMPLES:
        raise ValueError(f"{name} has {labels.size} labels; at most {_MAX_SAMPLES} can be counted in 64-bit integers.")
    return labels


def require_same_length(**labels: npt.NDArray[np.integer]) -> None:
    """Raise ValueError unless all arrays, named by their keywords, have one length."""
    if len({len(array) for array in labels.values()}) > 1:
        lengths = ", ".join(f"{name} has {len(array)}" for name, array in labels.items())
        raise ValueError(f"Labels differ in length: {lengths}; each must give one label for each sample.")


def compact(labels: npt.NDArray[np.integer]) -> tuple[npt.NDArray[np.int64], int]:
    """Number the distinct values of `labels` [N] from 0 upwards: (int64 [N], how many there are)."""
    # uint64 above the int64 range wraps round, which keeps distinct values distinct.
    labels = labels.astype(np.int64, copy=False)
    low, high = int(labels.min()), int(labels.max())
    if high - low < 4 * len(labels):
        # Ids that count up without big holes are the usual case, and a lookup table is far faster than a sort.
        offsets = labels - low
        present = np.zeros(high - low + 1, dtype=bool)
        present[offsets] = True
        return (np.cumsum(present) - 1)[offsets], int(present.sum())
    values, inverse = np.unique(labels, return_inverse=True)
    return inverse, len(values)


def _num_pairs(sizes: npt.NDArray[np.int64]) -> int:
    return int((sizes * (sizes - 1) // 2).sum())


def _with_f(precision: float, recall: float) -> PrecisionRecallF:
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return PrecisionRecallF(precision, recall, f)


def _entropy(sizes: npt.NDArray[np.int64]) -> float:
    part = sizes / sizes.sum()
    return float(-(part * np.log(part)).sum())
