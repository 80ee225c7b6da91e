"""The facts as people read them: two tables for the terminal, Markdown and a web page."""

from collections.abc import Iterable, Sequence
from itertools import groupby

from intraformer_fast.page import Markup, document, element

from .. import page as benchmark_page
from ..page import Grouped, Line, grouped, html_groups, markdown_groups, seconds
from ..results import Stamp
from ..run import FAILED
from .rows import CompiledRow, ExecutedRow, Row

TITLE = "Facts of the kernels of intraformer-fast"
COMPILED = "Compiled, with a static bound; never run on a GPU"
EXECUTED = "Executed on the CPU, from the PTX for sm_80; never run on a GPU"

COMPILED_COLUMNS = (
    "kernel", "for", "registers", "spilled", "shared memory", "programs an SM", "tensor-core instructions",
    "busiest on chip", "issued / useful FLOP", "static bound", "of roofline", "bound by", "chip busy",
)  # fmt: skip
EXECUTED_COLUMNS = (
    "kernel", "programs", "parity", "sectors", "sectors / least", "issued / useful FLOP", "bank conflicts / wavefronts",
)  # fmt: skip

# Fourteen columns fit a page of 1,280 pixels where the words in them may break.
STYLE = (
    benchmark_page.STYLE
    + """
.facts td, .facts th { white-space: normal; font-size: .85rem; padding: .35rem .45rem; }
.facts th:first-child { min-width: 5rem; }
"""
)

LEGEND = (
    "Compiled: what Triton and ptxas make of the launch, read from the machine code. Spilled: bytes that a thread stores to and loads "
    "from local memory. Tensor-core instructions: as they stand in the code; HMMA is a warp's, HGMMA four warps', UTCHMMA a program's.",
    "Static bound: the time that the busiest part of the GPU needs for the compiled instructions, or its memory for the least bytes, "
    "at published rates, if everything overlapped perfectly. No speed was ever achieved, measured or calibrated. Of roofline: the time "
    "of the least work at the peaks, over the bound. Chip busy: the share of the bound that the busiest parts of the "
    "multiprocessors take. Bound, FLOP and share are of all kernels of a case together. For sm_100 a kernel with loops has none: how "
    "often they run there is not known, since Triton takes turns out of them.",
    "Executed on the CPU: every access checked to be within its tensor, shared memory to be free of races, the results against "
    "float64 (at most twice the error of eager PyTorch). Sectors: of 32 bytes, that warps ask for, before any cache; the least is what "
    "any kernel reads and writes. Bank conflicts: passes of shared memory that a better layout would not need.",
)


def text(stamp: Stamp, rows: Sequence[Row]) -> str:
    """The tables of all names; Markdown that is aligned for a terminal too."""
    parts = ["; ".join(facts_of(stamp).values())]
    for name, of_name in grouped(rows, "benchmark"):
        parts.append(f"## {name}")
        for heading, table in tables(of_name):
            parts += [f"### {heading}", markdown_groups("case", table)]
        parts += [f"- {problem}" for problem in problems(of_name)]
    return "\n\n".join(parts)


def markdown(stamp: Stamp, rows: Sequence[Row]) -> str:
    """A page of `text` and what its columns mean."""
    return "\n\n".join([f"# {TITLE}", text(stamp, rows), *LEGEND]) + "\n"


def html(stamp: Stamp, rows: Sequence[Row]) -> Markup:
    """A web page that needs nothing from elsewhere."""
    facts = [part for key, value in facts_of(stamp).items() for part in (element("dt", key), element("dd", value))]
    sections = [
        element(
            "section",
            element("h2", name),
            *(element("p", problem, class_="warning") for problem in problems(of_name)),
            *html_tables(of_name),
        )
        for name, of_name in grouped(rows, "benchmark")
    ]
    return document(
        TITLE,
        element("header", element("h1", TITLE), element("dl", *facts)),
        element("main", *sections, element("section", *(element("p", line, class_="note") for line in LEGEND))),
        element("footer"),
        style=STYLE,
    )


def facts_of(stamp: Stamp) -> dict[str, str]:
    """Of a stamp what decides these facts: not the machine, which none of them depends on."""
    commit = f"commit {stamp.commit[:12]}{' with changes' if stamp.dirty else ''}"
    return {
        "compiler": f"Triton {stamp.triton}",
        "build": f"intraformer-fast {stamp.intraformer_fast}, {commit}",
        "run": f"{stamp.date}, seed {stamp.seed}, no GPU",
    }


def problems(rows: Iterable[Row]) -> list[str]:
    """A sentence for what was computed wrongly, what spills, and what does not fit."""
    found = []
    for row in rows:
        if isinstance(row, ExecutedRow):
            if row.parity == FAILED:
                found.append(f"{row.case}: {row.kernel} {row.parity} when it was executed ({row.detail})")
            continue
        if row.shared_bytes > row.shared_limit:
            limit = f"{_kib(row.shared_bytes)} of shared memory, {_kib(row.shared_limit)} are there"
            found.append(f"{row.case}: {row.kernel} cannot be launched on sm_{row.capability}: it needs {limit}")
        if row.spill_store_bytes or row.spill_load_bytes:
            found.append(f"{row.case}: {row.kernel} spills on sm_{row.capability}")
    return found


def tables(rows: Sequence[Row]) -> list[tuple[str, Grouped]]:
    """The headings and tables of one name's facts, a group a case."""
    compiled = [(row.case, _compiled_cells(row)) for row in rows if isinstance(row, CompiledRow)]
    executed = [(row.case, _executed_cells(row)) for row in rows if isinstance(row, ExecutedRow)]
    return [(COMPILED, _by_case(COMPILED_COLUMNS, compiled)), (EXECUTED, _by_case(EXECUTED_COLUMNS, executed))]


def _by_case(columns: Sequence[str], lines: Sequence[tuple[str, Sequence[str]]]) -> Grouped:
    by_case = groupby(lines, lambda line: line[0])
    return Grouped(columns, [(case, [Line(cells) for _, cells in of_case]) for case, of_case in by_case])


def html_tables(rows: Sequence[Row]) -> list[Markup]:
    """Of one name, with their headings; their style is STYLE."""
    return [
        element("div", element("h3", heading), html_groups(heading, table), class_="facts")
        for heading, table in tables(rows)
    ]


def _compiled_cells(row: CompiledRow) -> Sequence[str]:
    """What is of the whole case stands in the line of its first launch."""
    of_case = ("", "", "", "", "")
    if row.launch == 0:
        share = f"{row.on_chip_share:.0%}" if row.on_chip_share is not None else ""
        roofline = f"{row.of_roofline:.0%}" if row.of_roofline is not None else ""
        time = seconds(row.bound) if row.bound is not None else ""
        of_case = (_ratio(row.issued_flops, row.useful_flops), time, roofline, row.binding, share)
    return (
        row.kernel,
        f"sm_{row.capability}" + (f" ({row.gpu.partition('-')[0]})" if row.gpu else ""),
        str(row.registers),
        f"{row.spill_store_bytes} + {row.spill_load_bytes} B" if row.stack_bytes else "0",
        _kib(row.shared_bytes),
        f"{row.programs_per_multiprocessor} ({row.limiter})" if row.programs_per_multiprocessor else "",
        row.tensor_core.replace(" ", "\u00a0").replace(",\u00a0", ", ") or "none",  # a count stays with its instruction
        row.on_chip,
        *of_case,
    )


def _executed_cells(row: ExecutedRow) -> Sequence[str]:
    parity = row.parity if row.error_ratio is None else f"{row.parity} ({row.error_ratio:.2g})"
    if row.load_sectors is None or row.store_sectors is None or row.bank_conflicts is None:
        return (row.kernel, str(row.programs), parity, "", "", "", "")
    sectors = row.load_sectors + row.store_sectors
    return (
        row.kernel,
        str(row.programs),
        parity,
        f"{row.load_sectors:,} + {row.store_sectors:,}",
        _ratio(sectors, row.least_sectors),
        _ratio(row.issued_flops, row.useful_flops),
        f"{row.bank_conflicts:,} / {row.wavefronts:,}",
    )


def _ratio(part: int | None, whole: int | None) -> str:
    return f"{part / whole:.2f}" if part is not None and whole else ""


def _kib(count: int) -> str:
    return f"{count / 1024:.4g} KiB"
