"""A page as sections of paragraphs, tables and pictures, written as Markdown and as one web page."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from intraformer_fast.page import Markup, document, element

from ..page import Grouped, html_groups, markdown_groups

STYLE = """
.grid { grid-template-columns: repeat(auto-fit, minmax(min(100%, 27rem), 1fr)); }
"""


@dataclass(frozen=True)
class Table:
    """A table; `first` heads the column of its groups in Markdown, `label` tells what it is. A dense one has small type."""

    label: str
    first: str
    content: Grouped
    dense: bool = False


@dataclass(frozen=True)
class Picture:
    """A PNG, the name of its file, and what it shows."""

    name: str
    data: bytes
    shows: str


@dataclass(frozen=True)
class Pre:
    """Text as it stands."""

    text: str


Block: TypeAlias = str | Table | Picture | Pre


@dataclass(frozen=True)
class Section:
    """A heading, its level (2 or 3), and what is below it."""

    heading: str
    blocks: Sequence[Block]
    level: int = 2


def markdown(title: str, facts: Mapping[str, str], sections: Sequence[Section]) -> str:
    """A page whose pictures lie beside it; `facts` stand under its title. Tables stand in elements that the site scrolls."""

    def scrolled(block: Block) -> str:
        shown = markdown_block(block)
        return f'<div class="wide" markdown>\n\n{shown}\n\n</div>' if isinstance(block, Table) else shown

    head = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    body = [part for s in sections for part in (f"{'#' * s.level} {s.heading}", *map(scrolled, s.blocks))]
    return "\n\n".join([f"# {title}", head, *body]) + "\n"


def markdown_block(block: Block) -> str:
    """A picture is named, and lies beside the page."""
    if isinstance(block, Table):
        return markdown_groups(block.first, block.content)
    if isinstance(block, Picture):
        return f"![{block.shows}]({block.name})\n\n{block.shows}"
    return f"```text\n{block.text}\n```" if isinstance(block, Pre) else block


def html(title: str, facts: Mapping[str, str], sections: Sequence[Section], style: str) -> Markup:
    """The same in one file that needs nothing from elsewhere; `style` is that of its tables."""
    pairs = [part for key, value in facts.items() for part in (element("dt", key), element("dd", value))]
    body = [
        element("section", element(f"h{section.level}", section.heading), *_html_blocks(section.blocks))
        for section in sections
    ]
    return document(
        title,
        element("header", element("h1", title), element("dl", *pairs)),
        element("main", *body),
        element("footer"),
        style=style + STYLE,
    )


def _html_blocks(blocks: Sequence[Block]) -> Iterator[Markup]:
    """Pictures that follow each other stand side by side where there is room."""
    for are_pictures, of_kind in groupby(blocks, lambda block: isinstance(block, Picture)):
        found = [_html_block(block) for block in of_kind]
        yield from [element("div", *found, class_="grid")] if are_pictures else found


def _html_block(block: Block) -> Markup:
    if isinstance(block, Table):
        table = html_groups(block.label, block.content)
        return element("div", table, class_="facts") if block.dense else table
    if isinstance(block, Picture):
        source = "data:image/png;base64," + base64.b64encode(block.data).decode()
        return element("figure", element("img", src=source, alt=block.shows), element("figcaption", block.shows))
    return element("pre", block.text) if isinstance(block, Pre) else element("p", block)
