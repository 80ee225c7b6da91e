"""The results as people read them: a table for the terminal and Markdown, and a web page with bars."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, TypeVar

from intraformer_fast.page import Markup, document, element, join

from .results import Row, Stamp
from .run import DID_NOT_RUN, FAILED, PASSED

AnyRow = TypeVar("AnyRow")

COLUMNS = ("parity", "median", "quartiles", "minimum", "ours is", "GB/s", "of limit", "extra memory")

UNSOUND = (FAILED, DID_NOT_RUN)

LEGEND = (
    "Parity: the largest error against float64, over that of eager PyTorch in the same dtype; every output and gradient "
    "must stay within 2. “% off”: what computes in a coarser precision than eager is held to a Euclidean distance of its own. "
    "What fails has no speed.",
    "All candidates of a case are timed in turns in one process, each round in another order; median, quartiles and minimum are "
    "over the rounds. “Ours is”: the median over the rounds of that candidate's time over ours.",
    "GB/s: the bytes that any implementation has to read and write, over the median. “Of limit”: the time the last rows of a "
    "case (they only move memory, or only multiply) would take for the same work, over the candidate's. Inputs stay in the caches "
    "from one run to the next, for all alike.",
    "Extra memory: the most that a step holds beyond its inputs, results included.",
)

STYLE = """
.bars { display: grid; grid-template-columns: minmax(6.5rem, 1fr) 2fr 6.5rem; gap: .3rem .6rem; align-items: center;
  padding: 0 .9rem .9rem; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.track + span { text-align: right; }
.track { position: relative; height: 1rem; background: var(--page); }
.bar { position: absolute; height: 100%; background: var(--accent); }
.slower { background: var(--out); }
.even { position: absolute; top: -.15rem; bottom: -.15rem; border-left: 2px solid var(--ink); }
tr.case th { position: static; background: var(--page); }
tr.case span { display: inline-block; position: sticky; left: .7rem; max-width: calc(100vw - 4rem); }
thead th { white-space: normal; }
tr.limit td, tr.limit th { color: var(--muted); }
td.failed { color: var(--out); font-weight: 600; }
"""


def text(stamp: Stamp, rows: Sequence[Row], description: Mapping[str, str]) -> str:
    """The tables of all benchmarks with what they were run on; Markdown that is aligned for a terminal too.

    Args:
        stamp: of the run.
        rows: of the run.
        description: of each benchmark, by name.
    """
    parts = ["; ".join(facts_of(stamp).values())]
    for name, of_name in grouped(rows, "benchmark"):
        parts += [
            f"## {name}",
            description[name],
            markdown_groups("case", timings(of_name)),
            *(f"- {problem}" for problem in problems(of_name)),
        ]
    return "\n\n".join(parts)


def markdown(stamp: Stamp, rows: Sequence[Row], description: Mapping[str, str]) -> str:
    """A page of `text` and what its columns mean."""
    return "\n\n".join(["# Benchmarks of intraformer-fast", text(stamp, rows, description), *LEGEND]) + "\n"


def html(stamp: Stamp, rows: Sequence[Row], description: Mapping[str, str]) -> Markup:
    """A web page that needs nothing from elsewhere: for each benchmark bars of its ratios, and its table."""
    title = "Benchmarks of intraformer-fast"
    facts = [part for key, value in facts_of(stamp).items() for part in (element("dt", key), element("dd", value))]
    sections = [
        element(
            "section",
            element("h2", name),
            element("p", description[name]),
            *(element("p", problem, class_="warning") for problem in problems(of_name)),
            bars(of_name),
            html_groups(f"All times of {name}", timings(of_name)),
        )
        for name, of_name in grouped(rows, "benchmark")
    ]
    return document(
        title,
        element("header", element("h1", title), element("dl", *facts)),
        element("main", *sections, element("section", *(element("p", line, class_="note") for line in LEGEND))),
        element("footer"),
        style=STYLE,
    )


def problems(rows: Iterable[Row]) -> list[str]:
    """A sentence for each candidate that failed or did not run."""
    return [
        f"{row.case}: {row.candidate} {row.parity}{' parity' if row.parity == FAILED else ''} ({row.detail})"
        for row in rows
        if row.role != "limit" and row.parity != PASSED
    ]


def facts_of(stamp: Stamp) -> dict[str, str]:
    """Of a stamp what people want to know, by what it is of."""
    versions = {"Python": stamp.python, "PyTorch": stamp.torch, "Triton": stamp.triton}
    threads = f"{stamp.threads} thread{'s' if stamp.threads > 1 else ''}"
    commit = f"commit {stamp.commit[:12]}{' with changes' if stamp.dirty else ''}"
    return {
        "machine": f"{stamp.machine} ({stamp.device}, {stamp.cores} cores), {threads}",
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
        "build": ", ".join(filter(None, [f"intraformer-fast {stamp.intraformer_fast}", commit, stamp.instruction_set])),
        "run": f"{stamp.date}, seed {stamp.seed}",
    }


def grouped(rows: Iterable[AnyRow], by: str) -> Iterator[tuple[str, list[AnyRow]]]:
    """(value, rows) for each run of rows that have the same value of the field `by`."""
    return ((key, list(found)) for key, found in groupby(rows, lambda row: getattr(row, by)))


def cells(row: Row) -> tuple[str, ...]:
    """One text for each of COLUMNS."""
    parity = "" if row.role == "limit" else row.parity
    if row.error_ratio is not None:
        parity += f" ({row.error_ratio:.2g})"
    elif row.relative_l2 is not None:
        parity += f" ({100 * row.relative_l2:.2g} % off)"
    if row.median is None or row.p25 is None or row.p75 is None or row.min is None:
        return (parity, *("" for _ in COLUMNS[1:]))
    return (
        parity,
        seconds(row.median),
        f"{seconds(row.p25)} – {seconds(row.p75)}",
        seconds(row.min),
        "" if row.ours_faster is None or row.role == "ours" else factor(row.ours_faster),
        f"{row.gb_per_s:.3g}",
        percent(row.of_limit),
        mebibytes(row.extra_bytes),
    )


def percent(share: float | None) -> str:
    """With two digits; empty where nothing is known."""
    return "" if share is None else f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def mebibytes(count: int | None) -> str:
    """Empty where nothing is known."""
    return "" if count is None else f"{count / 2**20:.1f} MiB"


def seconds(value: float) -> str:
    """With three digits, in the unit that suits."""
    factor, unit = next((f, u) for f, u in ((1, "s"), (1e3, "ms"), (1e6, "µs")) if value * f >= 0.9995 or u == "µs")
    return f"{value * factor:#.3g}".rstrip(".") + f" {unit}"


def factor(ratio: float) -> str:
    """Of `Row.ours_faster`, in words."""
    return f"{ratio:.2f}x faster" if ratio >= 1 else f"{1 / ratio:.2f}x slower"


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """The first line is the heading."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], rule, *lines[1:])
    )


class Line(NamedTuple):
    """A line of a table: its cells, and its class on the web page."""

    cells: Sequence[str]
    kind: str = ""


class Grouped(NamedTuple):
    """A table whose lines belong to groups: the heads of its columns, and each group's name with its lines."""

    columns: Sequence[str]
    groups: Sequence[tuple[str, Sequence[Line]]]


def timings(rows: Sequence[Row]) -> Grouped:
    """The table of a benchmark's rows, a group a case."""
    groups = []
    for label, of_case in grouped(rows, "case"):
        groups.append((label, [Line((row.candidate, *cells(row)), row.role) for row in of_case]))
    return Grouped(("candidate", *COLUMNS), groups)


def markdown_groups(heading: str, table: Grouped) -> str:
    """One table; the name of a group, in a first column of this heading, stands in its first line alone. No heading, no such column."""
    lines = [(heading, *table.columns)]
    for name, of_group in table.groups:
        lines += [("" if i else name, *line.cells) for i, line in enumerate(of_group)]
    return markdown_table(lines if heading else [line[1:] for line in lines])


def html_groups(label: str, table: Grouped) -> Markup:
    """One table that scrolls where it is too wide; the name of a group, if any, has a line of its own. Its style is STYLE.

    Args:
        label: of the table, for those who do not see it.
        table: what stands in it.
    """
    lines = []
    for name, of_group in table.groups:
        if name:
            heading = element("th", element("span", name), scope="rowgroup", colspan=len(table.columns))
            lines.append(element("tr", heading, class_="case"))
        for line in of_group:
            first, *rest = line.cells
            cells = [element("td", cell, **({"class_": "failed"} if cell.startswith(UNSOUND) else {})) for cell in rest]
            lines.append(element("tr", element("th", first, scope="row"), *cells, class_=line.kind))
    head = element("tr", *(element("th", column, scope="col") for column in table.columns))
    whole = element("table", element("thead", head), element("tbody", *lines))
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=label)


def bars(rows: Sequence[Row]) -> Markup:
    """For each case a figure with a bar for each baseline, from even to the ratio; all on one logarithmic scale."""
    compared = [(row, row.ours_faster) for row in rows if row.role == "baseline" and row.ours_faster is not None]
    if not compared:
        return Markup()
    ends = [math.log(ratio) for _, ratio in compared]
    low, high = min(0.0, *ends), max(math.log(2), *ends)

    def place(position: float) -> float:
        return 100 * (position - low) / (high - low)

    figures = []
    for label, of_case in groupby(compared, lambda found: found[0].case):
        lines = []
        for row, ratio in of_case:
            left, right = sorted((place(0.0), place(math.log(ratio))))
            extent = f"left: {left:.2f}%; width: {right - left:.2f}%"
            bar = element("div", class_="bar" if ratio >= 1 else "bar slower", style=extent)
            even = element("div", class_="even", style=f"left: {place(0.0):.2f}%")
            lines += [
                element("span", row.candidate),
                element("div", bar, even, class_="track", role="presentation"),
                element("span", factor(ratio)),
            ]
        caption = element("figcaption", element("b", label))
        figures.append(element("figure", caption, element("div", *lines, class_="bars")))
    key = (
        "How many times faster ours is than each baseline, on a logarithmic scale; at the line both take the same time."
    )
    return join([element("p", key, class_="note"), element("div", *figures, class_="grid")])
