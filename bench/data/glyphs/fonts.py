"""Font files out of Debian packages, and the characters each font draws with a glyph of its own."""

import logging
import os
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .scripts import SCRIPTS

SUFFIXES = (".ttf", ".otf", ".ttc")


@dataclass(frozen=True)
class Font:
    """One face: its package, its file, its number in the file, and the candidate characters it draws."""

    package: str
    path: Path
    index: int
    code_points: frozenset[int]


def unpack(packages: Path, folder: Path) -> None:
    """Unpack every `.deb` file of `packages` into a folder of its own name under `folder`; nothing is installed.

    Raises:
        FileNotFoundError: `packages` holds no `.deb` file, or `dpkg-deb` is missing.
        subprocess.CalledProcessError: a package cannot be unpacked.
    """
    files = sorted(packages.glob("*.deb"))
    if not files:
        raise FileNotFoundError(f"{packages} holds no .deb file; the README tells how to fetch them")
    for file in files:
        subprocess.run(["dpkg-deb", "--extract", file, folder / file.name.split("_")[0]], check=True)


def own_code_points(cmap: Mapping[int, str]) -> frozenset[int]:
    """The candidates whose glyph no other candidate of their script shares: a shared glyph is a stand-in."""
    own: set[int] = set()
    for script in SCRIPTS:
        present = [point for point in script.code_points if cmap.get(point, ".notdef") != ".notdef"]
        uses = Counter(cmap[point] for point in present)
        own.update(point for point in present if uses[cmap[point]] == 1)
    return frozenset(own)


def faces(package: Path) -> Iterator[Font]:
    """Every face with a character map in the fonts of an unpacked package, in the order of the sorted file tree."""
    from fontTools.ttLib import TTCollection, TTFont

    logging.getLogger("fontTools").setLevel(logging.ERROR)  # slips in name tables are of no interest here
    for root, folders, files in os.walk(package / "usr/share/fonts"):
        folders.sort()
        for path in (Path(root, name) for name in sorted(files)):
            if path.suffix.lower() not in SUFFIXES or path.is_symlink():
                continue
            count = len(TTCollection(path, lazy=True).fonts) if path.suffix.lower() == ".ttc" else 1
            for index in range(count):
                cmap = TTFont(path, fontNumber=index, lazy=True).getBestCmap()
                if cmap:
                    yield Font(package.name, path, index, own_code_points(cmap))


def list_fonts(folder: Path, seed: int) -> list[Font]:
    """All faces under `folder`: one of each package first, then a second of each, and so on, drawn in random order.

    Later steps take the first fonts that draw a character, so no family with a hundred weights crowds out the others.
    """
    # RandomState, since its stream is frozen for good: the file must come out the same under every numpy.
    random = np.random.RandomState(seed)
    rounds: defaultdict[int, list[Font]] = defaultdict(list)
    for package in sorted(folder.iterdir(), key=lambda path: path.name):
        fonts = list(faces(package))
        for turn, position in enumerate(random.permutation(len(fonts))):
            rounds[turn].append(fonts[position])
    return [font for turn in sorted(rounds) for font in rounds[turn]]
