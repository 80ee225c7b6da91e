"""The pictures of a contact sheet in one file."""

import io
import math

import numpy as np
import numpy.typing as npt

from intraformer_fast.errors import MissingDependencyError

TILE = 64
"""Side of a picture in a sprite, in pixels: twice that of the pictures of a data set."""


def sprite(pictures: npt.NDArray[np.uint8]) -> tuple[bytes, list[tuple[int, int]]]:
    """All pictures of a contact sheet in one, dark on white.

    Args:
        pictures: uint8 [m, h, w], 255 = ink, m at least 1.

    Returns:
        The PNG, and the left upper corner (x, y) of each picture in it; a picture is TILE pixels wide and high.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError("pillow", "plots", "A report with pictures") from error
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    corners = [(TILE * (i % columns), TILE * (i // columns)) for i in range(len(pictures))]
    sheet = Image.new("L", (TILE * columns, TILE * rows), 255)
    for picture, corner in zip(255 - pictures, corners, strict=True):
        sheet.paste(Image.fromarray(picture).resize((TILE, TILE), Image.Resampling.BICUBIC), corner)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue(), corners
