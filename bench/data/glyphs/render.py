"""A character in a font -> a 32 x 32 gray picture that fills its frame."""

from collections import Counter
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFont

from .fonts import Font

Picture = npt.NDArray[np.uint8]

SIZE = 32
MARGIN = 2
FONT_SIZE = 56
LARGEST = 400  # pixels: a glyph beyond it is an ornament, not a letter
INK = 40  # gray level above which a pixel counts as ink


def square(mask: Picture) -> Picture | None:
    """Cut `mask` [height, width] to its ink, center it in a square and scale that to SIZE x SIZE with a margin.

    Returns None where the ink is less than three pixels high or wide.
    """
    rows, columns = np.flatnonzero(mask.max(1) > INK), np.flatnonzero(mask.max(0) > INK)
    if len(rows) < 3 or len(columns) < 3:
        return None
    ink = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = ink.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    frame = np.pad(ink, ((top, side - height - top), (left, side - width - left)))
    inner = SIZE - 2 * MARGIN
    scaled = Image.fromarray(frame).resize(
        (inner, inner), Image.Resampling.BOX if side >= SIZE else Image.Resampling.BILINEAR
    )
    return np.pad(np.asarray(scaled), MARGIN)


def draw(face: ImageFont.FreeTypeFont, code_point: int) -> Picture | None:
    """The picture of one character, or None where the font draws nothing of a letter's size."""
    mask = face.getmask(chr(code_point), mode="L")
    width, height = mask.size
    if not (3 <= width <= LARGEST and 3 <= height <= LARGEST):
        return None
    return square(np.frombuffer(bytes(mask), np.uint8).reshape(height, width))


def draw_all(font: Font, code_points: Iterable[int]) -> dict[int, Picture]:
    """The pictures of the characters that `font` draws; those it draws alike are left out.

    The same picture under two names is a placeholder, or a font without lower case.
    """
    face = ImageFont.truetype(font.path, FONT_SIZE, index=font.index, layout_engine=ImageFont.Layout.BASIC)
    drawn = {point: picture for point in code_points if (picture := draw(face, point)) is not None}
    uses = Counter(picture.tobytes() for picture in drawn.values())
    return {point: picture for point, picture in drawn.items() if uses[picture.tobytes()] == 1}
