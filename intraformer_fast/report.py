"""The report of a run: one web page and its pictures, in one folder, from plain data."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from . import charts
from .files import atomic_path
from .metrics import FairnessReport
from .metrics.fairness import Metric
from .page import Markup, document, element, join

METRICS: dict[Metric, tuple[str, str]] = {
    "pairwise_f": ("F_P", "pairwise F-score: precision and recall over pairs of samples"),
    "bcubed_f": ("F_B", "BCubed F-score: precision and recall of each sample's cluster, averaged over samples"),
    "nmi": ("NMI", "normalized mutual information, arithmetic mean"),
}

PROTOCOLS = {
    "joint": "all groups were clustered together; a group's scores look at its own samples",
    "separate": "each group was clustered alone",
}

Kind: TypeAlias = Literal["ours", "baseline"]
Picture: TypeAlias = tuple[str, bytes]


@dataclass(frozen=True)
class Row:
    """One method of the tables.

    Attributes:
        name: of the method.
        report: its scores; all rows of a page have the same groups and the same protocol.
        seconds: time it took, or None.
        settings: what was chosen for it, in words.
        kind: "ours" is highlighted.
    """

    name: str
    report: FairnessReport
    seconds: float | None = None
    settings: str = ""
    kind: Kind = "baseline"


@dataclass(frozen=True, eq=False)
class EdgeHistogram:
    """What tells neighbor pairs of one identity from pairs of two.

    Attributes:
        title: of the picture, such as the name of a model.
        quantity: what the values are: "cosine similarity", "predicted probability of the same".
        same: floating [S], its value for each pair of one identity.
        different: floating [T], the same for each pair of two.
    """

    title: str
    quantity: str
    same: npt.NDArray[np.floating[Any]]
    different: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class ContactSheet:
    """The pictures of a cluster.

    Attributes:
        title: short: "A good cluster".
        caption: what there is to see.
        pictures: uint8 [m, h, w], 255 = ink; at least one.
        labels: the text below each picture [m]; any script.
        majority: bool [m], whether the picture is of the identity most of the cluster belongs to: frames it.
    """

    title: str
    caption: str
    pictures: npt.NDArray[np.uint8]
    labels: Sequence[str]
    majority: npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class ReportContent:
    """All that a report shows; a part that is empty is left out.

    Attributes:
        title: of the page.
        summary: paragraphs below it.
        rows: of the tables, in their order.
        notes: paragraphs below the tables: what the groups are, what they are not.
        histograms: of neighbor pairs.
        sheets: of clusters.
        histories: for each model its training, a dict an epoch (see `charts.curves`); a text under "collapse" is shown.
        environment: facts on the machine and the versions, as `intraformer_fast.info()` gives them.
        command: what made the report.
    """

    title: str
    summary: Sequence[str] = ()
    rows: Sequence[Row] = ()
    notes: Sequence[str] = ()
    histograms: Sequence[EdgeHistogram] = ()
    sheets: Sequence[ContactSheet] = ()
    histories: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    environment: Mapping[str, Any] = field(default_factory=dict)
    command: str = ""


def write_report(folder: str | os.PathLike[str], content: ReportContent) -> Path:
    """Write `index.html` and the PNG pictures it shows into `folder`, which is made if need be.

    Everything is drawn before the first file is written, and the files take their places together, the page last: a disk that
    is full or a folder that cannot be written leaves an older report as it was.

    Returns:
        The path of the page.

    Raises:
        ValueError: methods that differ in groups or protocol or share a name, arrays of a sheet that differ in length,
            an empty sheet, or values of a histogram that are not finite.
        MissingDependencyError: matplotlib or Pillow is not installed.
        OSError: `folder` cannot be written.
    """
    _check(content)
    pictures: list[Picture] = []
    sections = [
        _scores(content, pictures),
        _histograms(content, pictures),
        _sheets(content, pictures),
        _training(content, pictures),
        _provenance(content),
    ]
    heading = element("header", element("h1", content.title), *_paragraphs(content.summary))
    page = document(content.title, heading, element("main", *sections))
    folder = Path(folder)
    try:
        with contextlib.ExitStack() as files:
            # An exit stack closes the last first, so the page is renamed after all pictures.
            for name, data in [("index.html", page.encode()), *pictures]:
                files.enter_context(atomic_path(folder / name)).write_bytes(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(
            error.errno, f"the report cannot be written ({reason}); choose another folder", str(folder)
        ) from error
    return folder / "index.html"


def _check(content: ReportContent) -> None:
    names = [method.name for method in content.rows]
    if len(set(names)) < len(names):
        raise ValueError(f"rows hold a name twice: {', '.join(names)}; each method needs a name of its own.")
    for method in content.rows[1:]:
        first = content.rows[0]
        for what, one, other in (
            ("groups", list(first.report.groups), list(method.report.groups)),
            ("protocol", first.report.protocol, method.report.protocol),
        ):
            if one != other:
                raise ValueError(
                    f"{first.name} has the {what} {one} and {method.name} {other}; a table compares methods of the same {what}."
                )
    for sheet in content.sheets:
        if (
            sheet.pictures.dtype != np.uint8
            or sheet.pictures.ndim != 3
            or not len(sheet.pictures) == len(sheet.labels) == len(sheet.majority) > 0
        ):
            raise ValueError(
                f"sheet {sheet.title!r} has pictures {sheet.pictures.dtype} {sheet.pictures.shape}, {len(sheet.labels)} labels and "
                f"{len(sheet.majority)} majority flags; it needs pictures uint8 [m, h, w] with m at least 1, and m of each."
            )
    for histogram in content.histograms:
        if not (np.isfinite(histogram.same).all() and np.isfinite(histogram.different).all()):
            raise ValueError(f"histogram {histogram.title!r} holds NaN or infinity; all its values must be finite.")


def _scores(content: ReportContent, pictures: list[Picture]) -> Markup:
    if not content.rows:
        return Markup()
    first = content.rows[0].report
    definitions = [f"{heading} is the {meaning}." for heading, meaning in METRICS.values()]
    return _section(
        "Results",
        _summary_table(content.rows),
        *_paragraphs(content.notes),
        element(
            "p",
            f"Protocol: {first.protocol} ({PROTOCOLS[first.protocol]}). STD is the sample standard deviation over the "
            f"{len(first.groups)} groups (ddof = 1): the lower, the more evenly the groups are served. ",
            " ".join(definitions),
            class_="note",
        ),
        element("h2", "Every group"),
        element("div", *(_group_chart(content.rows, metric, pictures) for metric in METRICS), class_="grid"),
        *(_group_table(content.rows, metric) for metric in METRICS),
    )


def _summary_table(methods: Sequence[Row]) -> Markup:
    columns = [[getattr(method.report.overall, metric) for method in methods] for metric in METRICS]
    spreads = [[method.report.statistics(metric).std for method in methods] for metric in METRICS]
    cells = [
        *(_percents(column, max, split=i == 0) for i, column in enumerate(columns)),
        *(_percents(column, min, split=i == 0) for i, column in enumerate(spreads)),
        [element("td", f"{method.report.overall.num_clusters:,}", class_="split") for method in methods],
        [element("td", _seconds(method.seconds)) for method in methods],
    ]
    headings = [heading for heading, _ in METRICS.values()]
    head = [
        *(_heading(heading, split=i == 0) for i, heading in enumerate(headings)),
        *(_heading(f"STD {heading}", split=i == 0) for i, heading in enumerate(headings)),
        _heading("clusters", split=True),
        _heading("time"),
    ]
    caption = (
        "Scores over all samples and their STD over the groups, in percent; the best of a column is bold. "
        f"True classes: {methods[0].report.overall.num_classes:,}, samples: {methods[0].report.overall.num_samples:,}."
    )
    return _table(caption, methods, head, cells, settings=True)


def _group_table(methods: Sequence[Row], metric: Metric) -> Markup:
    heading, meaning = METRICS[metric]
    names = list(methods[0].report.groups)
    statistics = [method.report.statistics(metric) for method in methods]
    cells = [
        *(_percents([getattr(method.report.groups[name], metric) for method in methods], max) for name in names),
        _percents([of.mean for of in statistics], max, split=True),
        _percents([of.std for of in statistics], min),
        _percents([of.gap for of in statistics], min),
    ]
    head = [*map(_heading, names), _heading("mean", split=True), _heading("STD"), _heading("max - min")]
    caption = f"{heading} of each group, in percent ({meaning}); the best of a column is bold."
    return _table(caption, methods, head, cells)


def _group_chart(methods: Sequence[Row], metric: Metric, pictures: list[Picture]) -> Markup:
    heading, _ = METRICS[metric]
    groups = list(methods[0].report.groups)
    bars = []
    for method in methods:
        values = [getattr(group, metric) for group in method.report.groups.values()]
        mean, std = method.report.statistics(metric)[:2]
        bars.append(charts.MethodBars(method.name, values, mean, std, method.kind == "ours"))
    spoken = "; ".join(f"{bar.name}: mean {100 * bar.mean:.1f}, STD {100 * bar.std:.1f}" for bar in bars)
    return _figure(
        pictures,
        f"groups-{metric.replace('_', '-')}.png",
        charts.group_bars(f"{heading}, percent", groups, bars),
        alt=f"Bars of {heading} for {len(groups)} groups by method. {spoken}.",
        title=heading,
        caption="A bar for each group. The diamond is the mean over the groups, its whiskers one STD to either side.",
    )


def _histograms(content: ReportContent, pictures: list[Picture]) -> Markup:
    figures = [
        _figure(
            pictures,
            f"pairs-{i}.png",
            charts.edge_histogram(histogram.same, histogram.different, histogram.quantity),
            alt=f"Histogram of the {histogram.quantity} of {histogram.same.size:,} neighbor pairs of one identity and "
            f"{histogram.different.size:,} of two: {histogram.title}.",
            title=histogram.title,
            caption=f"How the {histogram.quantity} is spread over neighbor pairs of the same and of different identity; the less "
            "the two overlap, the better it tells them apart.",
        )
        for i, histogram in enumerate(content.histograms, start=1)
    ]
    return _section("Which neighbors belong together", element("div", *figures, class_="grid")) if figures else Markup()


def _sheets(content: ReportContent, pictures: list[Picture]) -> Markup:
    figures = []
    for i, sheet in enumerate(content.sheets, start=1):
        data, corners = charts.sprite(sheet.pictures)
        name = f"cluster-{i}.png"
        pictures.append((name, data))
        tiles = []
        for label, inside, (x, y) in zip(sheet.labels, sheet.majority, corners, strict=True):
            position = f"object-position: -{x}px -{y}px"
            said = f"{label}, {'majority' if inside else 'another'} identity"
            image = element("img", src=name, alt=said, style=position, width=charts.TILE, height=charts.TILE)
            tiles.append(element("li", image, label, class_="in" if inside else "out"))
        key = " Solid frame: the identity most of the cluster belongs to" + (
            "." if all(sheet.majority) else "; dashed: another."
        )
        tiles_and_caption = element("ul", *tiles, class_="tiles"), _caption(sheet.title, f" {sheet.caption}{key}")
        figures.append(element("figure", *tiles_and_caption))
    return _section("Clusters", *figures) if figures else Markup()


def _training(content: ReportContent, pictures: list[Picture]) -> Markup:
    figures = []
    for i, (name, history) in enumerate(content.histories.items(), start=1):
        data = charts.loss_curves(history)
        if data is not None:
            losses, scores = charts.curves(history)
            warnings = [epoch["collapse"] for epoch in history if epoch.get("collapse")]
            figures.append(
                _figure(
                    pictures,
                    f"training-{i}.png",
                    data,
                    alt=f"Curves over {len(history)} epochs of {', '.join([*losses, *scores])}: {name}.",
                    title=name,
                    caption="Training losses and the scores of its edges after each epoch.",
                    warning=f" Warned in training: {warnings[-1]}" if warnings else "",
                )
            )
    return _section("Training", element("div", *figures, class_="grid")) if figures else Markup()


def _provenance(content: ReportContent) -> Markup:
    parts = []
    if content.command:
        parts += [element("p", "Made by:"), element("pre", element("code", content.command))]
    if content.environment:
        facts = [[element("dt", str(key)), element("dd", _fact(fact))] for key, fact in content.environment.items()]
        parts.append(element("dl", *(part for pair in facts for part in pair)))
    return _section("How this was made", *parts) if parts else Markup()


def _section(title: str, *parts: Markup) -> Markup:
    return element("section", element("h2", title), *parts)


def _paragraphs(texts: Sequence[str]) -> list[Markup]:
    return [element("p", text) for text in texts]


def _table(
    caption: str,
    methods: Sequence[Row],
    head: list[Markup],
    cells: list[list[Markup]],
    *,
    settings: bool = False,
) -> Markup:
    """A table of `methods` by columns: `head` and, for each column, a cell for each method."""
    rows = []
    for i, method in enumerate(methods):
        tag = ["\N{NO-BREAK SPACE}", element("span", "ours", class_="tag")] if method.kind == "ours" else []
        small = [element("small", method.settings)] if settings and method.settings else []
        name = element("th", method.name, *tag, *small, scope="row")
        rows.append(element("tr", name, *(column[i] for column in cells), class_=method.kind))
    table = element(
        "table",
        element("caption", element("span", caption)),
        element("thead", element("tr", element("th", "method", scope="col"), *head)),
        "\n",
        element("tbody", join(rows, "\n")),
    )
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _heading(text: str, *, split: bool = False) -> Markup:
    return element("th", text, scope="col", **({"class_": "split"} if split else {}))


def _percents(values: Sequence[float], best: Any, *, split: bool = False) -> list[Markup]:
    """A column of cells in percent; those that show the same figure as the best are bold."""
    shown = [f"{100 * value:.1f}" for value in values]
    top = f"{100 * best(values):.1f}"
    cells = [element("strong", text) if text == top and len(shown) > 1 else text for text in shown]
    return [element("td", cell, **({"class_": "split"} if split else {})) for cell in cells]


def _figure(
    pictures: list[Picture], name: str, data: bytes, *, alt: str, title: str, caption: str, warning: str = ""
) -> Markup:
    pictures.append((name, data))
    return element("figure", element("img", src=name, alt=alt), _caption(title, f" {caption}", warning))


def _caption(title: str, text: str, warning: str = "") -> Markup:
    return element(
        "figcaption",
        element("b", f"{title}."),
        text,
        *([element("span", warning, class_="warning")] if warning else []),
    )


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 100:
        return f"{seconds:.1f} s"
    return f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _fact(value: Any) -> str:
    """A fact in words: what is None or empty says so, a mapping lists its members."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact(member)}" for key, member in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_fact, value)) or "none"
    return "none" if value is None else str(value)
