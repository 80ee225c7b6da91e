"""Which characters are candidates for a class, and the script group each belongs to.

A picture is scaled to its own bounding box, so letters that differ in size only, or look alike in two scripts, stand
here once.
"""

from dataclasses import dataclass

GROUPS = ("latin", "greek-cyrillic", "semitic", "indic-sea", "kana", "hangul", "han")

# Letters that cannot be told from a sibling once scaled: small kana, shapes shared with another script, bare strokes.
LOOKALIKES = frozenset(
    map(ord, "ոսօհցյլןיဝഠዐىہۂぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮヘベペリ二口力夕工卜八千一三丿")
)


@dataclass(frozen=True)
class Script:
    """A script, the group it counts to, and its candidate characters; `limit` thins out the scripts with thousands."""

    name: str
    group: str
    code_points: tuple[int, ...]
    limit: int | None = None


def script(name: str, group: str, *parts: str | tuple[int, int], limit: int | None = None) -> Script:
    """Build a script from strings of characters and inclusive ranges of code points, without the lookalikes."""
    code_points: list[int] = []
    for part in parts:
        code_points += map(ord, part) if isinstance(part, str) else range(part[0], part[1] + 1)
    return Script(name, group, tuple(point for point in code_points if point not in LOOKALIKES), limit)


LATIN_EXTENDED = "".join(
    chr(point) for point in range(0x100, 0x17F) if chr(point).islower() and chr(point) not in "ĸŉſı"
)

SCRIPTS = (
    script(
        "latin",
        "latin",
        "abcdefghijklmnopqrstuvwxyzABDEFGHLMNQRT",
        (0xE0, 0xF6),
        (0xF8, 0xFF),
        LATIN_EXTENDED,
        "24579&?@%§",
    ),
    script("greek", "greek-cyrillic", "αβγδεζηθλμξπσςφχψωΔΛΞΣΩήώΰ"),
    script("cyrillic", "greek-cyrillic", "бгджзийкпцчшщъыьэюяђѓљњќўџґБ"),
    script("armenian", "greek-cyrillic", (0x561, 0x586)),
    script("georgian", "greek-cyrillic", (0x10D0, 0x10F0)),
    script("arabic", "semitic", (0x621, 0x63A), (0x641, 0x64A), (0x671, 0x6D3)),
    script("hebrew", "semitic", (0x5D0, 0x5EA)),
    script("ethiopic", "semitic", (0x1200, 0x1357), limit=120),
    script("devanagari", "indic-sea", (0x905, 0x939), (0x958, 0x961)),
    script("bengali", "indic-sea", (0x985, 0x9B9)),
    script("gurmukhi", "indic-sea", (0xA05, 0xA39)),
    script("gujarati", "indic-sea", (0xA85, 0xAB9)),
    script("tamil", "indic-sea", (0xB85, 0xBB9)),
    script("telugu", "indic-sea", (0xC05, 0xC39), (0xC60, 0xC61)),
    script("malayalam", "indic-sea", (0xD05, 0xD39)),
    script("sinhala", "indic-sea", (0xD85, 0xDC6)),
    script("thai", "indic-sea", (0xE01, 0xE30), (0xE3F, 0xE46), (0xE51, 0xE5B)),
    script("lao", "indic-sea", (0xE81, 0xEB0)),
    script("tibetan", "indic-sea", (0xF40, 0xF6A)),
    script("myanmar", "indic-sea", (0x1000, 0x102A)),
    script("khmer", "indic-sea", (0x1780, 0x17B3)),
    script("kana", "kana", (0x3042, 0x3093), (0x30A2, 0x30F3)),
    script("hangul", "hangul", (0xAC00, 0xD7A3), limit=300),
    script("han", "han", (0x4E00, 0x9FA5), limit=400),
)
