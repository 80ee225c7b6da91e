"""The outcomes of all seeds of a system as one line of the tables."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from intraformer_fast.metrics import group_statistics

from .catalog import Entry
from .outcomes import ALL, METRICS, Outcome

MEAN, STD = "mean", "STD"


class Value(NamedTuple):
    """The mean over seeds and the sample standard deviation over them, None where there is but one."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{100 * self.mean:.1f}" + ("" if self.spread is None else f" ±{100 * self.spread:.1f}")


@dataclass(frozen=True)
class Line:
    """A system over its seeds.

    Attributes:
        name, entry: of the catalogue.
        outcomes: of all seeds, failures too.
        cells: by metric and column: the groups, MEAN and STD over them, and ALL. Empty where every seed failed.
        figures: see `Fitted`.
    """

    name: str
    entry: Entry
    outcomes: Sequence[Outcome]
    cells: Mapping[str, Mapping[str, Value]]
    figures: Mapping[str, Value]

    @property
    def failures(self) -> list[str]:
        return [f"seed {one.seed}: {one.failure}" for one in self.outcomes if one.failure]

    @property
    def seconds(self) -> tuple[float, float, float] | None:
        """Means of the time to fit, of that to cluster, and of the processor's for both."""
        done = [one for one in self.outcomes if not one.failure]
        if not done:
            return None
        times = zip(*((o.train_seconds, o.cluster_seconds, o.cpu_seconds) for o in done), strict=True)
        fit, cluster, processor = map(statistics.mean, times)
        return fit, cluster, processor


def summarize(entries: Mapping[str, Entry], outcomes: Iterable[Outcome]) -> list[Line]:
    """A line a system, by falling mean of F_P over the groups; those that failed last."""
    outcomes = list(outcomes)
    lines = []
    for name, entry in entries.items():
        of = [one for one in outcomes if one.name == name]
        done = [one for one in of if not one.failure]
        lines.append(Line(name, entry, of, _cells(done), _figures(done)))
    return sorted(lines, key=lambda line: -line.cells["F_P"][MEAN].mean if line.cells else 1)


def columns(lines: Sequence[Line]) -> list[str]:
    """The groups, then MEAN, STD and ALL; empty where nothing succeeded."""
    return next((list(line.cells["F_P"]) for line in lines if line.cells), [])


def _cells(done: Sequence[Outcome]) -> dict[str, dict[str, Value]]:
    if not done:
        return {}
    cells = {}
    for metric in METRICS.values():
        rows = []
        for one in done:
            groups = {name: value for name, value in one.scores[metric].items() if name != ALL}
            over = group_statistics(list(groups.values()))
            rows.append({**groups, MEAN: over.mean, STD: over.std, ALL: one.scores[metric][ALL]})
        cells[metric] = {column: _value([row[column] for row in rows]) for column in rows[0]}
    return cells


def _figures(done: Sequence[Outcome]) -> dict[str, Value]:
    names = done[0].figures if done else ()
    return {name: _value([one.figures[name] for one in done]) for name in names}


def _value(values: Sequence[float]) -> Value:
    return Value(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)
