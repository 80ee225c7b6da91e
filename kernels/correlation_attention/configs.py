"""Which kernel and which tiles serve a call: the numbers in tables, chosen by pure functions."""

from typing import NamedTuple

HALF, TF32, IEEE = "half", "tf32", "ieee"
"""How products are made: of 16-bit numbers, of float32 rounded to TF32, of float32 as it is (without tensor cores)."""
MODES = (HALF, TF32, IEEE)

MOST_WIDTH = 1024
MOST_CONTEXT = 256


class Whole(NamedTuple):
    """Tiles of `backward.whole`, which holds the context of a run on chip."""

    queries: int
    num_warps: int
    num_stages: int


class Forward(NamedTuple):
    """Tiles of `forward.chunked`: queries of a program, columns of a step of the scores and of the answer."""

    queries: int
    step: int
    columns: int
    num_warps: int
    num_stages: int


class Backward(NamedTuple):
    """Tiles of `backward.sliced`: queries of a step, columns of a step of the scores, of the slice, of a step of G."""

    queries: int
    step: int
    slice: int
    columns: int
    num_warps: int
    num_stages: int


class Projection(NamedTuple):
    """Tiles of the kernels of projection.py."""

    rows: int
    columns: int
    step: int
    num_warps: int
    num_stages: int


# Compute capability: elements of a context, [context, width] as tiles, that `backward.whole` may hold. 64 x 512 are 64 KB of shared
# memory and, as the float32 gradient, half the registers. Matrix instructions of 8.0 take their operands from registers: a
# context does not fit there.
BACKWARD_WHOLE = {90: 64 * 512, 100: 64 * 512}

# Rows of the context's tile: the other tiles, of any GPU. README.md has the facts and the measurements behind the numbers.
FORWARD: dict[str, dict[int, Forward]] = {
    HALF: {64: Forward(64, 64, 128, 8, 3), 128: Forward(64, 64, 128, 8, 3), 256: Forward(64, 32, 64, 8, 2)},
    TF32: {64: Forward(32, 32, 64, 4, 2), 128: Forward(32, 32, 64, 8, 2), 256: Forward(32, 32, 32, 8, 2)},
    IEEE: {64: Forward(32, 16, 32, 8, 1), 128: Forward(32, 16, 16, 8, 1), 256: Forward(32, 16, 16, 8, 1)},
}
BACKWARD: dict[str, dict[int, Backward]] = {
    HALF: {
        64: Backward(32, 64, 256, 128, 8, 2),
        128: Backward(32, 32, 128, 64, 8, 2),
        256: Backward(8, 32, 64, 32, 8, 2),
    },
    TF32: {64: Backward(16, 32, 64, 32, 8, 2), 128: Backward(16, 32, 64, 32, 8, 2), 256: Backward(8, 16, 32, 32, 8, 2)},
    IEEE: {64: Backward(8, 16, 64, 16, 8, 1), 128: Backward(8, 16, 32, 16, 8, 1), 256: Backward(8, 32, 16, 16, 16, 1)},
}
# Compute capability: what is faster there, and would spill registers elsewhere.
FORWARD_AT: dict[int, dict[str, dict[int, Forward]]] = {
    90: {
        HALF: {64: Forward(64, 128, 128, 8, 3), 128: Forward(64, 64, 64, 8, 3), 256: Forward(128, 64, 64, 8, 3)},
        TF32: {64: Forward(64, 32, 32, 4, 3), 128: Forward(64, 64, 64, 8, 2), 256: Forward(64, 64, 64, 8, 2)},
    },
    100: {HALF: {64: Forward(64, 128, 128, 8, 3), 128: Forward(64, 64, 64, 8, 3), 256: Forward(64, 64, 64, 8, 3)}},
}
BACKWARD_AT: dict[int, dict[str, dict[int, Backward]]] = {
    90: {
        HALF: {
            64: Backward(32, 64, 256, 128, 8, 3),
            128: Backward(32, 64, 128, 64, 8, 3),
            256: Backward(16, 64, 64, 32, 8, 3),
        },
        TF32: {
            64: Backward(32, 32, 128, 64, 8, 3),
            128: Backward(32, 32, 128, 64, 8, 3),
            256: Backward(16, 32, 32, 16, 8, 2),
        },
    },
    100: {
        HALF: {
            64: Backward(32, 64, 256, 128, 8, 3),
            128: Backward(32, 64, 256, 128, 8, 3),
            256: Backward(16, 64, 64, 32, 8, 3),
        }
    },
}

PROJECT = Projection(128, 128, 64, 8, 3)
WEIGHT_GRADIENT = Projection(128, 128, 64, 8, 3)
WEIGHT_GRADIENT_AT = {90: Projection(128, 256, 64, 8, 3)}
# Programs that the gradient of the weights is spread over: about two for each multiprocessor of the largest chips.
WEIGHT_GRADIENT_PROGRAMS = 256


def next_power_of_2(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


def width_block(width: int) -> int:
    """Columns of a tile that holds whole tokens: a power of 2, and 16 at least, which a matrix instruction needs."""
    return max(16, next_power_of_2(width))


def context_block(context: int) -> int:
    """Rows of a tile that holds the context of a run: 64 at least, the rows of Hopper's matrix instruction."""
    return max(64, next_power_of_2(context))


def missing_columns(width: int) -> int:
    """Columns of zeros that tokens need for their rows to begin at multiples of 16 elements, and to be two steps of a loop wide."""
    return max(32, -(-width // 16) * 16) - width


def is_whole(mode: str, width: int, context: int, capability: int) -> bool:
    """Whether `backward.whole` serves runs with a context of that many tokens. Numbers of 32 bits do not fit where it matters."""
    return mode == HALF and width_block(width) * context_block(context) <= BACKWARD_WHOLE.get(capability, 0)


def backward_whole(width: int, context: int) -> Whole:
    """Warps enough for the float32 gradient of the context, and the scores of a tile, to take half of their registers."""
    elements = width_block(width) * context_block(context)
    many = elements > 64 * 256 or context_block(context) > 128
    return Whole(16 if elements > 64 * 128 else 32, 8 if many else 4, 3)


def forward_tiles(mode: str, context: int, width: int, capability: int, *, gathered: bool) -> Forward:
    """The scores are made in two steps at least, in four where the width allows, so that some are loaded while one is multiplied.
    Rows of tables (`gathered`) take registers, which fewer queries leave where the context is long."""
    block = context_block(context)
    tiles = FORWARD_AT.get(capability, {}).get(mode, {}).get(block, FORWARD[mode][block])
    queries = tiles.queries // 2 if gathered and block > 128 else tiles.queries
    block = width_block(width)
    return tiles._replace(queries=queries, step=min(tiles.step, max(16, block // 4)), columns=min(tiles.columns, block))


def backward_sliced(mode: str, context: int, width: int, capability: int, *, gathered: bool) -> Backward:
    """Two steps of the scores at least where they are pipelined, and two of G: in one, more of it is held at a time. The slice is no
    wider than the tokens. Shorter steps leave registers for rows of tables."""
    block = context_block(context)
    tiles = BACKWARD_AT.get(capability, {}).get(mode, {}).get(block)
    if tiles is None:
        tiles = BACKWARD[mode][block]
        tiles = tiles._replace(step=tiles.step // 2) if gathered else tiles
    block = width_block(width)
    half = max(16, block // 2)
    step = max(16, min(tiles.step, half if tiles.num_stages > 1 else block))
    return tiles._replace(step=step, slice=min(tiles.slice, block), columns=min(tiles.columns, half))


def weight_gradient_tiles(capability: int) -> Projection:
    return WEIGHT_GRADIENT_AT.get(capability, WEIGHT_GRADIENT)


def weight_gradient_parts(rows: int, width: int, num_streams: int, tiles: Projection) -> int:
    """How many programs share the rows of a stream; each must have enough of them to be worth a float32 result of its own."""
    programs = num_streams * (-(-width // tiles.rows)) * (-(-width // tiles.columns))
    return max(1, min(-(-WEIGHT_GRADIENT_PROGRAMS // programs), rows // (8 * tiles.step)))


def mode_of(dtype: object) -> str:
    """How products of this dtype are made; TF32 only where torch was told so (torch.backends.cuda.matmul.fp32_precision)."""
    import torch

    if dtype != torch.float32:
        return HALF
    return TF32 if torch.backends.cuda.matmul.fp32_precision == "tf32" else IEEE


def capability_of(device: object) -> int:
    """10 * major + minor of a CUDA device; that of an H100 for any other, where launches are only simulated or compiled."""
    import torch

    if device.type != "cuda" or not torch.cuda.is_available():
        return 90
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
