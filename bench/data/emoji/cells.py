"""What the embedding of coloured pictures starts from: gradients of the gray picture, and colours of its parts."""

import numpy as np
import numpy.typing as npt

from ..embed import BLOCK, gradient_cells

LUMA = (0.299, 0.587, 0.114)
CELL = 6  # pixels of a cell of gradients
PARTS = 4  # the picture's colours are averaged over PARTS x PARTS squares


def _colors(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    scaled = pictures.astype(np.float32) / 255
    luma = scaled @ np.array(LUMA, np.float32)
    opponent = np.stack([scaled[..., 0] - luma, scaled[..., 2] - luma, luma], axis=-1)
    side = pictures.shape[1] // PARTS
    return opponent.reshape(-1, PARTS, side, PARTS, side, 3).mean((2, 4)).reshape(len(pictures), -1)


def cells(pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Gradient cells of the gray picture, then red and blue less luma, and luma, of PARTS x PARTS squares.

    Args:
        pictures: uint8 [N, S, S, 3], S a multiple of CELL and of PARTS.

    Returns:
        float32 [N, (S / CELL - 1)^2 * 8 + 3 PARTS^2].
    """
    blocks = [pictures[start : start + BLOCK] for start in range(0, len(pictures), BLOCK)]
    gray = np.concatenate([np.rint(block @ np.array(LUMA)).astype(np.uint8) for block in blocks])
    return np.concatenate([gradient_cells(gray, CELL), np.concatenate([_colors(block) for block in blocks])], axis=1)
