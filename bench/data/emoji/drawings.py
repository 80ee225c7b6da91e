"""The drawings of each concept: SVG from icon sets and from OpenMoji, glyphs from Noto Emoji."""

import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .concepts import code_points, find, read_json

Drawing = npt.NDArray[np.uint8]  # [SIDE, SIDE, 4], red, green, blue and opacity

SIDE = 64
ICON_SETS = (
    *(
        "emojione",
        "emojione-monotone",
        "emojione-v1",
        "fluent-emoji",
        "fluent-emoji-flat",
        "fluent-emoji-high-contrast",
    ),
    *("fxemoji", "noto", "noto-v1", "streamline-emojis", "twemoji"),
)
OPENMOJI_STYLES = ("black", "color")
NOTO_WEIGHTS = (300, 700)
SVG = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{box}">{body}</svg>'


def icons(data: Mapping[str, Any], chars: Mapping[str, str], names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Code points and SVG of the icons of an Iconify set that draw a concept.

    Args:
        data: its `icons.json`.
        chars: its `chars.json`, names by code points; empty where it has none.
        names: see `concepts.name_table`.
    """
    aliases = defaultdict(list)
    for alias, of in data.get("aliases", {}).items():
        if set(of) == {"parent"}:  # anything more turns or mirrors it
            aliases[of["parent"]].append(alias)
    own = {name: code_points(points) for points, name in chars.items()}
    for name, icon in data["icons"].items():
        points = own.get(name) or find(names, [name, *aliases[name]])
        if points:
            box = [icon.get(key, data.get(key, 0)) for key in ("left", "top", "width", "height")]
            yield points, SVG.format(box=" ".join(map(str, box)), body=icon["body"])


def render(svg: str) -> Drawing:
    """Render by resvg, without any font of the machine."""
    import resvg_py
    from PIL import Image

    png = resvg_py.svg_to_bytes(svg_string=svg, width=SIDE, height=SIDE, skip_system_fonts=True)
    drawn = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))
    drawing = np.zeros((SIDE, SIDE, 4), np.uint8)  # resvg keeps the proportions, so one side may be shorter
    drawing[: drawn.shape[0], : drawn.shape[1]] = drawn
    return drawing


def glyphs(package: Path, weight: int) -> Iterator[tuple[str, Drawing]]:
    """Code points and drawing of the single characters in Noto Emoji's font of a weight."""
    from fontTools.ttLib import TTFont
    from PIL import Image, ImageFont

    with tarfile.open(package) as opened:
        file = opened.extractfile(f"package/files/noto-emoji-emoji-{weight}-normal.woff")
        assert file is not None
        data = file.read()
    font = ImageFont.truetype(io.BytesIO(data), SIDE, layout_engine=ImageFont.Layout.BASIC)
    for point in sorted(TTFont(io.BytesIO(data)).getBestCmap()):
        mask = font.getmask(chr(point), mode="L")
        if min(mask.size) < 3:
            continue
        opacity = Image.frombytes("L", mask.size, bytes(mask))
        opacity.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        drawing = np.zeros((SIDE, SIDE, 4), np.uint8)
        drawing[: opacity.height, : opacity.width, 3] = np.asarray(opacity)
        yield f"{point:X}", drawing


def openmoji(package: Path, style: str) -> Iterator[tuple[str, str]]:
    """Code points and SVG of OpenMoji's files of a style, in the order of their names."""
    with tarfile.open(package) as opened:
        members = {member.name: member for member in opened if member.name.startswith(f"package/{style}/svg/")}
        for name in sorted(members):
            file = opened.extractfile(members[name])
            assert file is not None
            yield code_points(Path(name).stem), file.read().decode()


def all_sets(
    packages: Mapping[str, Path], names: Mapping[str, str]
) -> Iterator[tuple[str, Iterator[tuple[str, Drawing]]]]:
    """The name of each set with its drawings and their code points, some of which are no concept's.

    Args:
        packages: files by npm's name of the package.
        names: see `concepts.name_table`.
    """
    for name in ICON_SETS:
        archive = packages[f"@iconify-json/{name}"]
        data, chars = (read_json(archive, f"package/{file}.json") for file in ("icons", "chars"))
        yield name, ((points, render(svg)) for points, svg in icons(data, chars, names))
    for weight in NOTO_WEIGHTS:
        yield f"noto-emoji-{weight}", glyphs(packages["@fontsource/noto-emoji"], weight)
    for style in OPENMOJI_STYLES:
        found = openmoji(packages["openmoji"], style)
        yield f"openmoji-{style}", ((points, render(svg)) for points, svg in found if re.match("[0-9A-F-]+$", points))


def keep_unlike(drawings: list[tuple[str, Drawing]]) -> list[tuple[str, Drawing]]:
    """Without those that a set draws alike for two concepts, and without empty ones."""
    seen = defaultdict(set)
    for points, drawing in drawings:
        seen[drawing.tobytes()].add(points)
    return [
        (points, drawing) for points, drawing in drawings if drawing[..., 3].any() and len(seen[drawing.tobytes()]) == 1
    ]
