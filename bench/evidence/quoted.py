"""What was measured on GPUs, quoted from the READMEs of `kernels/`, which say on what and how. Nothing here runs on one."""

import re
from collections.abc import Iterator
from pathlib import Path

from intraformer_fast import kernels

from ..page import Grouped, Line

SECTION = re.compile(r"^## (Measured on .+?)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
ROOT = Path(kernels.__file__).parent


def sections() -> Iterator[tuple[str, str, str]]:
    """The op, the heading and the text, Markdown, of each section "Measured on ..."."""
    for readme in sorted(ROOT.glob("*/README.md")):
        for heading, text in SECTION.findall(readme.read_text(encoding="utf-8")):
            yield readme.parent.name, heading, text.strip()


def blocks(text: str) -> Iterator[str | Grouped]:
    """Paragraphs, items of lists and tables, without marks of emphasis."""
    for part in re.split(r"\n\s*\n|\n(?=- )", re.sub(r"\*\*|`", "", text)):
        if not part.startswith("|"):
            yield " ".join(part.split())
            continue
        head, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines())
        yield Grouped(head, [("", [Line(line) for line in lines])])
