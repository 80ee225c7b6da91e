"""How evenly a clustering serves the groups of its samples: scores of each group, their mean, spread and disparity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from .clustering import ClusteringScores, scores
from .contingency import NOISE, Labels, as_labels, compact, require_same_length

Protocol: TypeAlias = Literal["joint", "separate"]
Metric: TypeAlias = Literal["pairwise_f", "bcubed_f", "nmi"]

_HEADINGS: dict[Metric, str] = {"pairwise_f": "F_P", "bcubed_f": "F_B", "nmi": "NMI"}


class GroupStatistics(NamedTuple):
    """Spread of one metric over groups, in the unit of the values given.

    Attributes:
        mean: plain mean over the groups, whatever their sizes.
        std: sample standard deviation (ddof = 1), as in the paper's tables; 0.0 for a single group.
        worst: position of the lowest value, the first of equals.
        gap: highest value minus lowest.
        delta_dp: fairness discrepancy (Eq. 3), 1/2 sum_i sum_j |mu_i - mu_j|: a sum over pairs of groups, so it grows
            with their number.
    """

    mean: float
    std: float
    worst: int
    gap: float
    delta_dp: float


def group_statistics(values: npt.ArrayLike) -> GroupStatistics:
    """Mean, standard deviation, worst, gap and discrepancy of one metric's values [p], one for each group.

    Raises:
        ValueError: no values, another shape than [p], or a value that is not finite.
    """
    mu = np.asarray(values, dtype=np.float64)
    if mu.ndim != 1 or mu.size == 0 or not np.isfinite(mu).all():
        raise ValueError(
            f"Group values have shape {mu.shape}; a finite number for each of one or more groups is needed."
        )
    return GroupStatistics(
        mean=float(mu.mean()),
        std=float(mu.std(ddof=1)) if mu.size > 1 else 0.0,
        worst=int(mu.argmin()),
        gap=float(mu.max() - mu.min()),
        delta_dp=float(np.abs(mu[:, None] - mu).sum()) / 2,
    )


@dataclass(frozen=True)
class FairnessReport:
    """Scores of every group and of all samples together, in [0, 1]. `str()` of it is the table in percent.

    Attributes:
        protocol: "joint" or "separate", see `fairness_report`.
        groups: the scores of each group by its name, by rising group value.
        overall: the scores over all samples.
    """

    protocol: Protocol
    groups: dict[str, ClusteringScores]
    overall: ClusteringScores

    def statistics(self, metric: Metric) -> GroupStatistics:
        """Statistics over the groups of "pairwise_f", "bcubed_f" or "nmi"; `worst` is a position in `groups`."""
        return group_statistics([getattr(group, metric) for group in self.groups.values()])

    def worst_group(self, metric: Metric) -> str:
        """Name of the group with the lowest value of `metric`."""
        return list(self.groups)[self.statistics(metric).worst]

    def to_dict(self) -> dict[str, Any]:
        """Plain floats, ints, strings and dicts, ready for JSON; `worst` is the name of the group."""
        return {
            "protocol": self.protocol,
            "overall": self.overall.to_dict(),
            "groups": {name: group.to_dict() for name, group in self.groups.items()},
            "statistics": {
                metric: {**self.statistics(metric)._asdict(), "worst": self.worst_group(metric)} for metric in _HEADINGS
            },
        }

    def to_table(self) -> str:
        """Aligned plain text, in percent: a row for each metric, a column for each group and each statistic."""
        rows = [["", *self.groups, "mean", "STD", "gap", "delta_dp", "worst", "overall"]]
        for metric, heading in _HEADINGS.items():
            statistics = self.statistics(metric)
            shown = [getattr(group, metric) for group in self.groups.values()]
            shown += [statistics.mean, statistics.std, statistics.gap, statistics.delta_dp]
            percent = [f"{100 * value:.2f}" for value in (*shown, getattr(self.overall, metric))]
            rows.append([heading, *percent[:-1], self.worst_group(metric), percent[-1]])
        for heading, count in (("samples", "num_samples"), ("classes", "num_classes")):
            counts = [str(getattr(group, count)) for group in (*self.groups.values(), self.overall)]
            rows.append([heading, *counts[:-1], "", "", "", "", "", counts[-1]])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = (
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
            for row in rows
        )
        return "\n".join([f"protocol: {self.protocol}; percent", *("  ".join(line) for line in lines)])

    def __str__(self) -> str:
        return self.to_table()


def fairness_report(
    y_true: Labels,
    y_pred: Labels,
    groups: Labels,
    protocol: Protocol = "joint",
    *,
    group_names: Sequence[str] | None = None,
) -> FairnessReport:
    """Score every group of samples and all of them together.

    A group's scores look at its own samples alone: `y_true` and `y_pred` are cut to them, so a cluster that spans
    groups counts in each with its part there, and what it mixes across groups shows in `overall` only. A class that
    spans groups is likewise a class of each. The protocol says how `y_pred` was made, and decides `overall`:

    - "joint": everything was clustered together, and one label value is one cluster everywhere.
    - "separate": each group was clustered alone, so a label value that two groups share means two clusters; `overall`
      keeps them apart. A value of `y_true` is one class everywhere under both protocols.

    Args:
        y_true: integers [N], the true class of each sample, never -1.
        y_pred: integers [N], the predicted cluster; -1 is noise, a cluster of its own.
        groups: integers [N], the true group (script, ethnicity, ...) of each sample; any values.
        protocol: "joint" (default) or "separate".
        group_names: the name of group g at position g (default: the group values as text). Groups without a sample are
            left out.

    Returns:
        The report.

    Raises:
        TypeError: labels or groups that are not integers.
        ValueError: empty input, lengths that differ, -1 in `y_true`, an unknown protocol, a group without a name, or a
            name used twice.
    """
    if protocol not in get_args(Protocol):
        raise ValueError(f"protocol is {protocol!r}; it must be 'joint' or 'separate'.")
    true, predicted, group = as_labels(y_true, "y_true"), as_labels(y_pred, "y_pred"), as_labels(groups, "groups")
    require_same_length(y_true=true, y_pred=predicted, groups=group)
    index, num_groups = compact(group)
    order = np.argsort(index, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(index, minlength=num_groups))[:-1])
    names = _names([int(group[rows[0]]) for rows in members], group_names)
    if protocol == "joint":
        distinct: npt.NDArray[np.integer] = predicted
    else:
        clusters, num_clusters = compact(predicted)
        distinct = np.where(predicted == NOISE, NOISE, index * num_clusters + clusters)
    return FairnessReport(
        protocol=protocol,
        groups={name: scores(true[rows], predicted[rows]) for name, rows in zip(names, members, strict=True)},
        overall=scores(true, distinct),
    )


def _names(values: Sequence[int], group_names: Sequence[str] | None) -> list[str]:
    if group_names is None:
        return [str(value) for value in values]
    if len(set(group_names)) < len(group_names):
        raise ValueError(
            f"group_names holds a name twice: {', '.join(group_names)}; each group needs a name of its own."
        )
    for value in values:
        if not 0 <= value < len(group_names):
            raise ValueError(
                f"groups holds {value}, but group_names names groups 0 to {len(group_names) - 1} only; "
                "give the name of group g at position g."
            )
    return [group_names[value] for value in values]
