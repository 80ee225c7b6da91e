"""The pages of the docs, and the code blocks in them."""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
ROOMS = sorted(
    path for folder in ("kernels", "csrc", "bench", "examples") for path in (ROOT / folder).rglob("README.md")
)
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Block(NamedTuple):
    """A fenced block: its language, its text, and the line of the page that the text begins in."""

    language: str
    text: str
    line: int


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(path: Path) -> list[Block]:
    page = path.read_text(encoding="utf-8")
    return [Block(found[1], found[2], page.count("\n", 0, found.start(2)) + 1) for found in BLOCK.finditer(page)]
