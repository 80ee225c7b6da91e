"""The comparison as people read it: text for a terminal, Markdown, and a web page with pictures."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from intraformer_fast import charts
from intraformer_fast.bench.page import markdown_table
from intraformer_fast.bench.results import Stamp
from intraformer_fast.page import Markup, document, element

from . import published
from .intraformer import COLLAPSE
from .outcomes import METRICS
from .summary import MEAN, STD, Line, columns

TITLE = "Systems of visual clustering, compared"

LEGEND = (
    "Every system sees the same k-NN graph (80 neighbours, the sample itself first), trains on one half of the known identities "
    "and chooses its settings on the other half, by the mean of F_P and F_B there; the identities to be clustered take no part in "
    "either. All are clustered together, and a group's scores look at its own samples. STD is the sample standard deviation over the "
    "groups (ddof = 1). After ± stands the standard deviation over seeds; each seed cuts the known identities elsewhere.",
    "The systems were written anew from their papers; where sizes and epochs differ from those printed there (in brackets), the "
    "table of settings says so. A system that is further from its published form than ours is from ours is at a disadvantage here.",
    "Times are of the wall clock: to fit, the choice of settings included, and to cluster, from the k-NN graph on. CPU: those of "
    "the processor for both, which a busy machine does not change.",
)

OTHER_DATA = (
    "Published on other data: faces that are not public any more. They show the order to expect there, and cannot be compared with the "
    "figures above. BUPT: mean and STD over four ethnicities, table I of the Intraformer's paper. MS-Celeb-1M: the systems' own papers "
    "and repositories."
)
OTHER_COLUMNS = (
    "BUPT 485K: F_P",
    "STD",
    "BUPT 3.4M: F_P",
    "STD",
    "MS-Celeb-1M 584K: F_P",
    "F_B",
)


@dataclass(frozen=True)
class Section:
    """Systems that answer one question: heading, what there is to know, and their names in order."""

    heading: str
    note: str
    names: Sequence[str]


@dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
        name: of the files.
        title: of the page.
        legend: what to know of it.
        sections: questions, of which each gets a table. None gives one table, best first.
        axis: what `sweep` varies.
        sweep: a number of some of the systems, by name, to draw the scores over.
    """

    name: str
    title: str
    legend: Sequence[str]
    sections: Sequence[Section] = ()
    axis: str = ""
    sweep: Mapping[str, float] = field(default_factory=dict)


COMPARISON = Subject("systems", TITLE, LEGEND)


@dataclass(frozen=True)
class Content:
    """All that the pages show.

    Attributes:
        stamp: where it was made.
        lines: of the tables, best first.
        data: in words.
        command: that makes it.
        subject: what is compared.
    """

    stamp: Stamp
    lines: Sequence[Line]
    data: str
    command: str
    subject: Subject = COMPARISON


@dataclass(frozen=True)
class Table:
    """A heading, what stands below it, the heads of the columns, and the rows; `ours` says which to highlight."""

    heading: str
    note: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    ours: Sequence[bool]


def tables(content: Content) -> list[Table]:
    """The summary, or a table a question, a table a metric, what failed, the published figures, the settings, every run."""
    done = [line for line in content.lines if line.cells]
    ours = [line.entry.kind == "ours" for line in done]
    by_name = {line.name: line for line in done}
    found = [] if content.subject.sections else [_overall("Over the groups", "In percent.", done, ours)]
    for section in content.subject.sections:
        lines = [by_name[name] for name in section.names if name in by_name]
        if len(lines) > 1 or len(lines) == len(done):  # one line of several compares nothing
            found.append(_overall(section.heading, section.note, lines, [False] * len(lines), of_parts=True))
    for metric in METRICS.values():
        rows = [[line.entry.title, *map(str, line.cells[metric].values())] for line in done]
        note = "In percent; mean and STD are over the groups, “all” is the score over all samples."
        found.append(Table(metric, note, ["system", *columns(content.lines)], rows, ours))
    rows = [[line.entry.title, reason] for line in content.lines for reason in line.failures]
    if rows:
        found.append(Table("What failed", "", ["system", "why"], rows, [False] * len(rows)))
    printed = published.read()
    rows = [[line.entry.title, *published.beside(line.name, printed)] for line in content.lines]
    rows = [row for row in rows if any(row[1:])]
    found.append(
        Table("Published figures, on other data", OTHER_DATA, ["system", *OTHER_COLUMNS], rows, [False] * len(rows))
    )
    rows = [
        [
            line.entry.title,
            line.entry.kind,
            line.entry.apart or "nothing",
            first.chosen,
            "; ".join([*first.notes.values(), *(f"{name} {value:.3f}" for name, value in first.figures.items())]),
        ]
        for line in done
        for first in [next(one for one in line.outcomes if not one.failure)]
    ]
    note = "What differs from the published form (that in brackets); of the first seed, what validation chose and what else to say."
    found.append(Table("Settings", note, ["system", "kind", "differs in", "chosen", "notes"], rows, ours))
    rows = [
        [
            line.entry.title,
            str(one.seed),
            *(f"{100 * one.scores[metric]['all']:.2f}" for metric in METRICS.values()),
            f"{one.clusters:,}",
            f"{one.train_seconds:.1f} s",
            f"{one.cluster_seconds:.1f} s",
            f"{one.cpu_seconds:.1f} s",
            str(one.threads),
        ]
        for line in done
        for one in line.outcomes
        if not one.failure
    ]
    head = ["system", "seed", *METRICS.values(), "clusters", "fit", "cluster", "CPU", "threads"]
    found.append(Table("Every run", "Over all samples.", head, rows, [False] * len(rows)))
    return found


def _overall(heading: str, note: str, lines: Sequence[Line], ours: Sequence[bool], of_parts: bool = False) -> Table:
    """Mean and STD over the groups, and the times; of parts also the figures, and those NOTES that a line has, up to a semicolon."""
    said = [next(one for one in line.outcomes if not one.failure).notes for line in lines]
    notes = [name for name in NOTES if any(name in of for of in said)] if of_parts else []
    figures = list(lines[0].figures) if of_parts else []
    rows = [
        [
            line.entry.title,
            *(str(line.cells[metric][column]) for metric in METRICS.values() for column in (MEAN, STD)),
            *(str(line.figures[name]) for name in figures),
            *(f"{seconds:.0f} s" for seconds in line.seconds or ()),
            *(of.get(name, "").partition(";")[0] for name in notes),
        ]
        for line, of in zip(lines, said, strict=True)
    ]
    scores = (f"{column} {metric}" for metric in METRICS.values() for column in (MEAN, STD))
    return Table(heading, note, ["system", *scores, *figures, "fit", "cluster", "CPU", *notes], rows, ours)


def text(content: Content) -> str:
    """The tables of the scores, and what failed."""
    headings = [
        "Over the groups",
        *(section.heading for section in content.subject.sections),
        *METRICS.values(),
        "What failed",
    ]
    shown = [table for table in tables(content) if table.heading in headings]
    parts = [f"## {table.heading}\n\n{markdown_table([table.head, *table.rows])}" for table in shown]
    return "\n\n".join([*parts, content.data, _made(content)])


def markdown(content: Content) -> str:
    """All tables."""
    subject = content.subject
    parts = [f"# {subject.title}", content.data, _made(content), f"    {content.command}", *subject.legend]
    for table in tables(content):
        parts += [f"## {table.heading}", *filter(None, [table.note]), markdown_table([table.head, *table.rows])]
    return "\n\n".join(parts) + "\n"


def html(content: Content) -> Markup:
    """One page that needs nothing from elsewhere: pictures and all tables."""
    sections = [
        element("section", element("h2", table.heading), element("p", table.note), _html_table(table))
        for table in tables(content)
    ]
    shown = pictures(content)
    figures = [
        element(
            "figure",
            element("img", src="data:image/png;base64," + base64.b64encode(data).decode(), alt=alt),
            element("figcaption", alt),
        )
        for alt, data in shown.values()
    ]
    subject = content.subject
    return document(
        subject.title,
        element("header", element("h1", subject.title), element("p", content.data), element("pre", content.command)),
        element(
            "main",
            *(element("p", line, class_="note") for line in subject.legend),
            sections[0],
            element("div", *figures, class_="grid"),
            *sections[1:],
        ),
        element("footer", element("p", _made(content))),
        style=STYLE,
    )


STYLE = """
td.words { white-space: normal; text-align: left; min-width: 14rem; }
"""

NOTES = (COLLAPSE,)
"""Notes of an outcome with a column of their own where there are questions."""

WORDS = ("differs in", "chosen", "notes", "why", *NOTES)


def pictures(content: Content) -> dict[str, tuple[str, bytes]]:
    """By file name: what is to be seen, and the PNG. None where nothing succeeded."""
    done = [line for line in content.lines if line.cells]
    if not done:
        return {}
    if content.subject.sweep:
        return _sweep(content.subject, done)
    groups = [column for column in columns(done) if column not in (MEAN, STD, "all")]
    spreads = [
        charts.Spread(
            line.entry.title,
            [line.cells[metric][MEAN].mean for metric in METRICS.values()],
            [line.cells[metric][STD].mean for metric in METRICS.values()],
            line.entry.kind == "ours",
        )
        for line in done
    ]
    trained = [spread for spread, line in zip(spreads, done, strict=True) if line.entry.kind != "untrained"]
    bars = [
        charts.MethodBars(
            line.entry.title,
            [line.cells["F_P"][group].mean for group in groups],
            line.cells["F_P"][MEAN].mean,
            line.cells["F_P"][STD].mean,
            line.entry.kind == "ours",
        )
        for line in done
    ]
    found = {
        "mean-and-std.png": (
            "Mean of F_P over the groups (diamonds) and its STD (bars), in percent: diamonds far right and short bars are good.",
            charts.std_and_mean("F_P", spreads),
        ),
        "groups.png": ("F_P of every group, in percent.", charts.group_bars("F_P, percent", groups, bars)),
    }
    if trained:
        found["spread.png"] = (
            "STD over the groups of each metric, of the trained systems: the smaller the shape, the more evenly the groups are served.",
            charts.std_radar(list(METRICS.values()), trained),
        )
    return found


def _sweep(subject: Subject, done: Sequence[Line]) -> dict[str, tuple[str, bytes]]:
    lines = {line.name: line.cells["F_P"] for line in done}
    points = sorted((x, lines[name][MEAN], lines[name][STD]) for name, x in subject.sweep.items() if name in lines)
    if not points:
        return {}
    said = f"Mean of F_P over the groups and its STD over {subject.axis}, in percent; lines up and down: standard deviation over seeds."
    picture = charts.sweep(
        subject.axis,
        [x for x, *_ in points],
        {
            f"{column} F_P": [(value.mean, value.spread or 0.0) for value in of]
            for column, of in zip((MEAN, STD), list(zip(*points, strict=True))[1:], strict=True)
        },
    )
    return {f"{subject.name}.png": (said, picture)}


def _html_table(table: Table) -> Markup:
    head = element("tr", *(element("th", column, scope="col") for column in table.head))
    kinds = [{"class_": "words"} if column in WORDS else {} for column in table.head[1:]]
    body = [
        element(
            "tr",
            element("th", first, scope="row"),
            *(element("td", cell, **kind) for cell, kind in zip(rest, kinds, strict=True)),
            **({"class_": "ours"} if ours else {}),
        )
        for (first, *rest), ours in zip(table.rows, table.ours, strict=True)
    ]
    inner = element("table", element("thead", head), element("tbody", *body))
    return element("div", inner, class_="scroll", tabindex=0, role="region", aria_label=table.heading)


def _made(content: Content) -> str:
    stamp = content.stamp
    commit = f"commit {stamp.commit[:12]}{' with changes' if stamp.dirty else ''}"
    machine = f"{stamp.machine}, {stamp.cores} cores, {stamp.threads} threads"
    return f"{machine}, Python {stamp.python}, torch {stamp.torch}; {commit}; {stamp.date}"
