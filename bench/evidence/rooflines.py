"""Rooflines: of the processor here, measured, and of GPUs, by published rates and static bounds."""

from collections.abc import Iterator, Sequence

from intraformer_fast import charts
from intraformer_fast.gpus import GPUS

from ..facts.rows import CompiledRow
from ..page import Grouped, Line, cells, grouped
from ..registry import EAGER
from ..results import Row
from .blocks import Block, Picture, Table
from .parts import Stored

WORDS = (
    "Each mark is a case: the operations that it needs over the bytes that any implementation has to move, and how many of them a "
    "second it reaches. The rates of this processor are measured, those of the GPUs published by NVIDIA. What computes in a coarser "
    "precision has another peak and is left out; so is what does no floating-point operations to speak of (purity_fmi)."
)


NOT_RUN = "static bound, never run"


def blocks(found: Stored) -> list[Block]:
    """The processor with what was measured on it, then the GPUs with static bounds; empty where neither is known."""
    pictures = [*_processor(found), *_gpus(found)]
    rates: list[Block] = []
    if found.machine:
        table = Grouped(("limit", "rate", "median", "quartiles"), [("", _rates(found.machine.rows))])
        rates = [Table("What this processor does at most", "", table)]
    return [WORDS, *pictures, *rates] if pictures else rates


def _processor(found: Stored) -> Iterator[Picture]:
    if not found.machine or not found.benchmarks:
        return
    rates = {row.candidate: _a_second(row) for row in found.machine.rows if row.median}
    multiplying = {row.candidate for row in found.machine.rows if row.least_flops}
    points = [
        charts.Point(row.benchmark, row.least_flops / row.least_bytes, _a_second(row), row.role == "ours")
        for report in found.benchmarks
        for of_case in _cases_in_full_precision(report.rows)
        for row in of_case
        if row.median and row.least_flops and (row.role == "ours" or row.candidate == EAGER)
    ]
    picture = charts.roofline(
        f"{found.machine.stamp.machine}, {found.machine.stamp.threads} threads: measured",
        {name: rate for name, rate in rates.items() if name in multiplying},
        {name: rate for name, rate in rates.items() if name not in multiplying},
        points,
        "eager PyTorch",
    )
    shows = "Roofline of this processor, measured, with every case of ours (filled) and of eager PyTorch (hollow)."
    yield Picture("roofline-cpu.png", picture, shows)


def _gpus(found: Stored) -> Iterator[Picture]:
    compiled = [row for facts in found.facts for row in facts.rows if isinstance(row, CompiledRow)]
    for gpu in GPUS:
        points = [
            charts.Point(row.benchmark, row.useful_flops / row.least_bytes, row.useful_flops / row.bound)
            for row in compiled
            if row.gpu == gpu.name and row.launch == 0 and row.bound
        ]
        if points:
            name = gpu.name.partition("-")[0]
            peaks = {f"{precision}, published": peak for precision, peak in gpu.peaks.items()}
            picture = charts.roofline(f"{gpu.name}: {NOT_RUN}", peaks, {"memory, published": gpu.bandwidth}, points, "")
            shows = f"{name}: published rates, and the static bounds of our kernels. Nothing was run for it."
            yield Picture(f"roofline-{name.lower()}.png", picture, shows)


def _rates(rows: Sequence[Row]) -> list[Line]:
    return [Line((row.candidate, _rate(row), *cells(row)[1:3])) for row in rows]


def _rate(row: Row) -> str:
    return f"{_a_second(row) / 1e9:.4g} {'GFLOP/s' if row.least_flops else 'GB/s'}"


def _a_second(row: Row) -> float:
    """Operations of a row that was timed, or bytes where it has none."""
    assert row.median is not None
    return (row.least_flops or row.least_bytes) / row.median


def _cases_in_full_precision(rows: Sequence[Row]) -> list[list[Row]]:
    """Those of a benchmark where ours is held to eager's error; see `Case.coarse`."""
    return [
        of_case
        for _, of_case in grouped(rows, "case")
        if any(r.role == "ours" and r.error_ratio is not None for r in of_case)
    ]
