"""Where ours loses: every case and baseline that is faster, or takes less memory. Nothing is left out."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..page import grouped
from ..results import Row

RESOLUTION = 2**18
"""Bytes within which memory is known; see `memory.py`."""


@dataclass(frozen=True)
class Loss:
    """One baseline that beats ours in one case.

    Attributes:
        benchmark, case, baseline: names.
        of: "time" or "memory".
        ours, theirs: seconds (medians) or bytes.
        ratio: how many times as much ours takes, above 1.
        sure: whether the quartiles of the times do not overlap; memory is measured once, and sure.
    """

    benchmark: str
    case: str
    baseline: str
    of: str
    ours: float
    theirs: float
    ratio: float
    sure: bool


def losses(rows: Sequence[Row]) -> list[Loss]:
    """Of all benchmarks, the worst first within each, time before memory."""
    found: list[Loss] = []
    for _, of_benchmark in grouped(rows, "benchmark"):
        lost = [loss for _, of_case in grouped(of_benchmark, "case") for loss in _of_case(of_case)]
        found += sorted(lost, key=lambda loss: (loss.of == "memory", -loss.ratio))
    return found


def _of_case(rows: Sequence[Row]) -> Iterator[Loss]:
    ours = next(row for row in rows if row.role == "ours")
    for row in rows:
        if row.role != "baseline" or ours.median is None or row.median is None or row.ours_faster is None:
            continue
        names = (row.benchmark, row.case, row.candidate)
        if row.ours_faster < 1:
            sure = ours.p25 is not None and row.p75 is not None and ours.p25 > row.p75
            yield Loss(*names, "time", ours.median, row.median, 1 / row.ours_faster, sure)
        held, theirs = ours.extra_bytes, row.extra_bytes
        if held is not None and theirs is not None and held > theirs + RESOLUTION:
            yield Loss(*names, "memory", held, theirs, held / max(theirs, RESOLUTION), True)
