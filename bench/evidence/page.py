"""What stands on the page of `bench --all`. It depends on what is stored alone."""

from collections.abc import Iterator, Sequence

from intraformer_fast import charts

from .. import page as benchmark_page
from ..facts import page as facts_page
from ..facts.rows import Row as FactsRow
from ..page import (
    Grouped,
    Line,
    factor,
    facts_of,
    grouped,
    mebibytes,
    percent,
    problems,
    seconds,
    timings,
)
from ..registry import EAGER
from ..results import Row, Stamp
from ..run import PASSED
from ..scale.command import STAGES
from . import quoted, rooflines
from .blocks import Block, Picture, Pre, Section, Table, html, markdown, markdown_block
from .losses import Loss, losses
from .parts import Stored

TITLE = "Benchmarks of intraformer-fast"
COMMAND = "intraformer-fast bench --all --output FOLDER"

HOW = (
    f"Made by `{COMMAND}`, which stores what it finds in results.json beside this page; with --redraw the page is drawn from that "
    "again, and nothing is run. Every ratio is of times taken in turns in one process, and what fails parity has no speed."
)
GPU = (
    "Nothing of this run was executed on a GPU. These are what Triton and ptxas compile the kernels to, what the busiest part of a GPU "
    "needs for that at published rates if everything overlaps (the static bound), and what an emulator counts on the CPU. Where "
    "kernels were once measured on a GPU their READMEs say so, and on what; that is quoted at the end of this section."
)


def text(found: Stored) -> str:
    """How every case of ours does, where it loses, and how a clustering grows."""
    parts = []
    for section in (in_short(found), lost(found)) if found.benchmarks else ():
        parts += [f"## {section.heading}", *map(markdown_block, section.blocks)]
    if found.scale:
        parts.append(found.scale.text())
    return "\n\n".join([*parts, *failures(found)])


def files(found: Stored) -> dict[str, bytes]:
    """The files to write, by name."""
    sections = list(content(found))
    stamp = _stamp(found)
    facts = facts_of(stamp) if stamp else {}
    pages = {
        "benchmarks.md": markdown(TITLE, facts, sections),
        "benchmarks.html": html(TITLE, facts, sections, facts_page.STYLE),
    }
    pictures = {b.name: b.data for section in sections for b in section.blocks if isinstance(b, Picture)}
    return {**{name: page.encode() for name, page in pages.items()}, **pictures}


def content(found: Stored) -> Iterator[Section]:
    """All sections, in order."""
    if found.failures:
        yield Section("What failed", failures(found))
    if found.benchmarks:
        yield in_short(found)
        yield lost(found)
    if rates := rooflines.blocks(found):
        yield Section("Rooflines", rates)
    for report in found.benchmarks:
        (name,) = report.descriptions
        yield Section(name, [report.descriptions[name], _run_of(report.stamp), *of_benchmark(name, report.rows)])
    if found.facts:
        yield Section("Kernels for GPUs", [GPU])
        for facts in found.facts:
            for name, rows in grouped(facts.rows, "benchmark"):
                yield Section(f"{name}, compiled and executed", [*facts_page.problems(rows), *of_facts(rows)], level=3)
        for op, heading, quote in quoted.sections():
            yield Section(f"{op}: {heading[0].lower()}{heading[1:]}", list(_quoted(op, quote)), level=3)
    if found.scale:
        picture = charts.growth(found.scale.rows, STAGES, found.scale.extrapolated())
        shows = "Seconds by stage and memory over the number of samples; what was not run is hollow."
        blocks: list[Block] = [
            _run_of(found.scale.stamp),
            Picture("scale.png", picture, shows),
            Pre(found.scale.text()),
        ]
        yield Section("How a whole clustering grows", blocks)
    yield Section("How to read this", [*benchmark_page.LEGEND, *facts_page.LEGEND, HOW])


def all_rows(found: Stored) -> list[Row]:
    """Of all benchmarks."""
    return [row for report in found.benchmarks for row in report.rows]


def in_short(found: Stored) -> Section:
    """A line a case of ours."""
    groups, cases, wins, unsound = [], 0, 0, 0
    for name, of_benchmark in grouped(all_rows(found), "benchmark"):
        lines = []
        for case, of_case in grouped(of_benchmark, "case"):
            ours = next(row for row in of_case if row.role == "ours")
            beaten = [row for row in of_case if row.role == "baseline" and row.ours_faster is not None]
            cases += 1
            unsound += ours.parity != PASSED
            wins += bool(beaten) and min(row.ours_faster or 0 for row in beaten) >= 1
            lines.append(Line((case, *_in_short(ours, beaten)), "ours" if ours.parity == PASSED else ""))
        groups.append((name, lines))
    parity = f"{unsound} of ours do not pass parity" if unsound else "All of ours pass parity"
    words = f"{cases} cases. {parity}; in {wins} ours is faster than every baseline, and the next table says where it is not."
    columns = (
        "case",
        "parity",
        "median",
        "quartiles",
        "of peak",
        "extra memory",
        "eager's",
        "against eager",
        "nearest baseline",
        "against it",
    )
    return Section("In short", [words, Table("Every case of ours", "benchmark", Grouped(columns, groups), dense=True)])


def _in_short(ours: Row, beaten: Sequence[Row]) -> tuple[str, ...]:
    """One text for each column but the first."""
    parity, median, quartiles, *_ = benchmark_page.cells(ours)
    eager = next((row for row in beaten if row.candidate == EAGER), None)
    nearest = min(beaten, key=lambda row: row.ours_faster or 0, default=None)
    return (
        parity,
        median,
        quartiles,
        percent(ours.of_limit),
        mebibytes(ours.extra_bytes),
        mebibytes(eager.extra_bytes) if eager else "",
        factor(eager.ours_faster) if eager and eager.ours_faster else "",
        nearest.candidate if nearest else "",
        factor(nearest.ours_faster) if nearest and nearest.ours_faster else "",
    )


def lost(found: Stored) -> Section:
    """A line for every baseline that beats ours in a case."""
    lines = losses(all_rows(found))
    if not lines:
        return Section("Where ours loses", ["In no case, to no baseline."])
    groups = [(name, [_lost(loss) for loss in of_name]) for name, of_name in grouped(lines, "benchmark")]
    columns = ("case", "baseline", "in", "ours", "theirs", "ours takes", "note")
    words = "Every case and baseline where ours is slower or holds more memory than the baseline, the worst first; nothing is left out."
    return Section(
        "Where ours loses", [words, Table("Where ours loses", "benchmark", Grouped(columns, groups), dense=True)]
    )


def _lost(loss: Loss) -> Line:
    shown = seconds if loss.of == "time" else lambda count: mebibytes(int(count))
    sure = "" if loss.sure else "within the spread"
    return Line((loss.case, loss.baseline, loss.of, shown(loss.ours), shown(loss.theirs), f"{loss.ratio:.2f}x", sure))


def of_benchmark(name: str, rows: Sequence[Row]) -> Iterator[Block]:
    """What went wrong, the ratios as bars, and all times."""
    yield from problems(rows)
    compared = [
        (case, [(row.candidate, row.ours_faster) for row in of_case if row.role == "baseline" and row.ours_faster])
        for case, of_case in grouped(rows, "case")
    ]
    if compared := [(case, bars) for case, bars in compared if bars]:
        shows = (
            f"How many times faster ours is than each baseline of {name}, case by case; left of the line it is slower."
        )
        yield Picture(f"{name}.png", charts.speedups(compared), shows)
    yield Table(f"All times of {name}", "case", timings(rows))


def of_facts(rows: Sequence[FactsRow]) -> Iterator[Block]:
    """Their tables."""
    for heading, table in facts_page.tables(rows):
        yield f"{heading}."
        yield Table(heading, "case", table, dense=True)


def _quoted(op: str, quote: str) -> Iterator[Block]:
    yield f"Quoted from kernels/{op}/README.md; not of this run."
    for block in quoted.blocks(quote):
        yield block if isinstance(block, str) else Table(f"{op} on a GPU", "", block)


def failures(found: Stored) -> list[str]:
    """A sentence for each part that failed."""
    return [f"{key} failed: {reason}" for key, reason in found.failures.items()]


def _run_of(stamp: Stamp) -> str:
    of = facts_of(stamp)
    return f"{of['machine']}; {of['build']}; {of['run']}."


def _stamp(found: Stored) -> Stamp | None:
    reports = (found.machine, *found.benchmarks, *found.facts, found.scale)
    return next((report.stamp for report in reports if report), None)
