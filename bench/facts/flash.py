"""What FlashAttention-2, which `scaled_dot_product_attention` calls for fp16 and bf16, moves and multiplies, by its algorithm.

Dao, "FlashAttention-2" (2023), and the launch templates of its CUDA source (`flash_fwd_launch_template.h`,
`flash_bwd_launch_template.h`), which choose the tiles by the width of a head. Each array is counted once for each kernel that reads or
writes it, as if the caches held it for as long as that kernel lasts; nothing here is measured.
"""

from typing import NamedTuple

FORWARD_TILES = {32: (128, 128), 64: (128, 128), 96: (128, 64), 128: (128, 64), 192: (128, 64)}
"""Queries and keys of a tile, by head width; without dropout and causal mask, on A100 and H100."""

BACKWARD_TILES = {32: (128, 128), 64: (128, 128), 96: (64, 128), 128: (64, 128)}

ELEMENT, FLOAT = 2, 4  # bytes


class Cost(NamedTuple):
    """Attributes:
    bytes: read and written.
    useful_flops: of the products without what pads the tiles.
    issued_flops: of the whole tiles.
    """

    bytes: int
    useful_flops: int
    issued_flops: int


def forward(sequences: int, length: int, width: int) -> Cost:
    """Full attention inside each of the sequences: q k^T and p v.

    Reads Q, K and V, writes O and the log-sum-exp of each row.

    Args:
        sequences: batch x heads, or also x blocks where each block is given as a sequence of its own.
        length: tokens of a sequence.
        width: of a head.

    Raises:
        ValueError: the width has no tile of its own.
    """
    rows = sequences * length
    return _cost(2, sequences, length, width, FORWARD_TILES, 4 * ELEMENT * rows * width + FLOAT * rows)


def backward(sequences: int, length: int, width: int) -> Cost:
    """Five products (the scores again, dP, dV, dK, dQ) in the second of three kernels.

    The first reads O and dO, writes their row sums and clears dQ in float32. The second reads Q, K, V, dO, the log-sum-exp and the row
    sums, writes dK and dV, and adds to dQ. The third reads dQ and writes it rounded.

    Args, raises: as `forward`.
    """
    rows = sequences * length
    an_element = (2 * ELEMENT + FLOAT) + (4 * ELEMENT + 2 * ELEMENT + 2 * FLOAT) + (FLOAT + ELEMENT)
    return _cost(5, sequences, length, width, BACKWARD_TILES, an_element * rows * width + 3 * FLOAT * rows)


def _cost(
    products: int, sequences: int, length: int, width: int, tiles: dict[int, tuple[int, int]], traffic: int
) -> Cost:
    if width not in tiles:
        raise ValueError(f"width = {width}: expected one of {', '.join(map(str, tiles))}")
    queries, keys = (-(-length // tile) * tile for tile in tiles[width])
    a_cell = 2 * products * sequences * width
    return Cost(traffic, a_cell * length * length, a_cell * queries * keys)
