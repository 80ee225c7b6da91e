"""A drawing -> small pictures of it as a camera might take them: turned, shifted, on some paper, in some light, out of focus."""

import numpy as np
import numpy.typing as npt
from PIL import Image

SIZE = 48
INK = 24  # opacity above which a pixel belongs to the drawing
BLOCK = 1000  # pictures worked on at once

# Each is drawn evenly between its limits; where there is one number, between it and its negative.
TURN = 10.0  # degrees
FILL = (0.85, 1.05)  # side of the drawing over the picture's
STRETCH = 0.06  # logarithm of height over width, halved
SHIFT = 0.03  # of the picture's side
PAPER = (0.6, 1.0)  # gray level
TINT = 0.1  # added to each colour of the paper
LIGHT = (0.7, 1.1)
CAST = 0.1
SLOPE = 0.25  # how much lighter one side is than the other
BLUR = (0.0, 0.4)  # share of a pixel that its neighbors get
NOISE = (0.0, 0.03)  # standard deviation


def ink_box(drawing: npt.NDArray[np.uint8]) -> tuple[float, float, float]:
    """Centre row, centre column and side of the square round what is drawn, in pixels from the upper left corner."""
    rows, columns = (np.flatnonzero((drawing[..., 3] > INK).any(axis)) for axis in (1, 0))
    side = max(np.ptp(rows), np.ptp(columns)) + 1
    return (rows[0] + rows[-1] + 1) / 2, (columns[0] + columns[-1] + 1) / 2, float(side)


def _posed(drawing: npt.NDArray[np.uint8], random: np.random.RandomState) -> npt.NDArray[np.uint8]:
    """Turn, scale and shift what is drawn: uint8 [SIZE, SIZE, 4]."""
    row, column, side = ink_box(drawing)
    turn, fill, stretch = (
        np.radians(random.uniform(-TURN, TURN)),
        random.uniform(*FILL),
        np.exp(random.uniform(-STRETCH, STRETCH)),
    )
    down, right = random.uniform(-SHIFT, SHIFT, 2) * SIZE - SIZE / 2
    # Column and row of the drawing for each column and row of the picture.
    scale = side / (fill * SIZE)
    a, b = np.array([np.cos(turn), np.sin(turn)]) * scale * stretch
    d, e = np.array([-np.sin(turn), np.cos(turn)]) * scale / stretch
    matrix = (a, b, column + a * right + b * down, d, e, row + d * right + e * down)
    image = Image.fromarray(drawing).transform((SIZE, SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(image)


def _blurred(pictures: npt.NDArray[np.float64], share: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give a share of every pixel to its neighbors, along each axis."""
    for axis in (1, 2):
        edge = [(1, 1) if i == axis else (0, 0) for i in range(4)]
        padded = np.pad(pictures, edge, mode="edge")
        before, after = (padded.take(range(start, start + SIZE), axis) for start in (0, 2))
        pictures = (1 - share) * pictures + share * (before + after) / 2
    return pictures


def _lit(posed: npt.NDArray[np.uint8], random: np.random.RandomState) -> npt.NDArray[np.uint8]:
    """Lay pictures [B, SIZE, SIZE, 4] on paper and light them: uint8 [B, SIZE, SIZE, 3]."""

    def draw(low: float, high: float, *shape: int) -> npt.NDArray[np.float64]:
        return random.uniform(low, high, (len(posed), *shape))

    opacity = posed[..., 3:] / 255
    paper = draw(*PAPER, 1, 1, 1) + draw(-TINT, TINT, 1, 1, 3)
    pictures = posed[..., :3] / 255 * opacity + paper * (1 - opacity)
    across = (np.arange(SIZE) + 0.5) / SIZE - 0.5
    slope = draw(-SLOPE, SLOPE, 1, 1) * across[:, None] + draw(-SLOPE, SLOPE, 1, 1) * across
    pictures *= draw(*LIGHT, 1, 1, 1) * (1 + draw(-CAST, CAST, 1, 1, 3)) * (1 + slope[..., None])
    pictures = _blurred(pictures, draw(*BLUR, 1, 1, 1))
    pictures += draw(*NOISE, 1, 1, 1) * random.standard_normal(pictures.shape)
    return np.rint(pictures.clip(0, 1) * 255).astype(np.uint8)


def views(drawings: npt.NDArray[np.uint8], which: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint8]:
    """A picture of each drawing in `which`, no two alike.

    Args:
        drawings: uint8 [D, H, W, 4].
        which: int64 [N], positions in `drawings`.
        seed: of the draws.

    Returns:
        uint8 [N, SIZE, SIZE, 3]: red, green and blue.
    """
    random = np.random.RandomState(seed)
    blocks = [which[start : start + BLOCK] for start in range(0, len(which), BLOCK)]
    return np.concatenate([_lit(np.stack([_posed(drawings[i], random) for i in block]), random) for block in blocks])
