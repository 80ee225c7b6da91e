"""What can be an identity: Unicode's emoji without skin tones, and by which names the sets of drawings call them."""

import json
import re
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GROUPS = ("smileys", "people", "animals", "food", "travel", "activities", "objects", "symbols", "flags")
# Emojibase's numbers for Unicode's groups; 2 are components (skin tones, hair), which are no pictures of something.
GROUP_NUMBERS = (0, 1, 3, 4, 5, 6, 7, 8, 9)


@dataclass(frozen=True)
class Concept:
    """An emoji: its code points in hexadecimal ("1F468-200D-1F33E"), its English label, its position in GROUPS."""

    code_points: str
    label: str
    group: int


def code_points(text: str) -> str:
    """A sequence in hexadecimal, in upper case and without the variation selector, which some sets write and some do not."""
    return "-".join(part for part in text.upper().split("-") if part != "FE0F")


def compact(name: str) -> str:
    """A name as all sets write it: lower case letters and digits alone."""
    return re.sub("[^a-z0-9]", "", name.lower())


def read_json(archive: Path, member: str) -> Any:
    """A file of an npm package, or {} where the package has none of this name."""
    with tarfile.open(archive) as opened:
        if member not in opened.getnames():
            return {}
        file = opened.extractfile(member)
        assert file is not None
        return json.load(file)


def read_concepts(emojibase: Path) -> list[Concept]:
    """All emoji of Emojibase's package, in the order of their code points."""
    found = [
        Concept(code_points(entry["hexcode"]), entry["label"], GROUP_NUMBERS.index(entry["group"]))
        for entry in read_json(emojibase, "package/en/data.json")
        if entry.get("group") in GROUP_NUMBERS
    ]
    return sorted(found, key=lambda concept: concept.code_points)


def name_table(
    concepts: Sequence[Concept], tables: Iterable[Mapping[str, str]], unicode_names: Mapping[str, str]
) -> dict[str, str]:
    """Code points by compact name: labels first, then the names in sets that give both, then Unicode's names.

    Args:
        concepts: all there are.
        tables: names of a set by code points.
        unicode_names: Unicode's names by code points.
    """
    known = {concept.code_points for concept in concepts}
    names = {compact(concept.label): concept.code_points for concept in concepts}
    for table in (*tables, unicode_names):
        for points, name in table.items():
            if code_points(points) in known:
                names.setdefault(compact(name), code_points(points))
    return names


def find(names: Mapping[str, str], spellings: Iterable[str]) -> str | None:
    """The code points of the first known name of an icon; "flag-for" may stand for "flag", or be missing, and a number may follow."""
    for name in spellings:
        for variant in (name, name.replace("flag-for-", "flag-"), re.sub(r"-\d$", "", name), f"flag-{name}"):
            if points := names.get(compact(variant)):
                return points
    return None
