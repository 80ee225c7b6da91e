"""ldmatrix and mma: which lane holds which element. PTX ISA 9.0, sections 9.7.14.5 (mma) and 9.7.14.5.15 (ldmatrix)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .program import WARP, Fault
from .values import Array, decode

LANES = np.arange(WARP)
ROWS, COLUMNS = 16, 8  # of the result


@dataclass(frozen=True)
class Shape:
    """Of mma.sync.aligned.m16n8k{depth}.row.col.f32.{kind}.{kind}.f32."""

    kind: str
    depth: int

    @property
    def flops(self) -> int:
        return 2 * ROWS * COLUMNS * self.depth

    @property
    def packed(self) -> int:
        """Elements in a register."""
        return 1 if self.kind == "tf32" else 2


COVERED = {("bf16", 16), ("bf16", 8), ("f16", 16), ("f16", 8), ("tf32", 8), ("tf32", 4)}


def shape(modifiers: Sequence[str]) -> Shape:
    """Of the modifiers of an mma.

    Raises:
        Fault: it is not covered.
    """
    found = re.fullmatch(r"sync\.aligned\.m16n8k(\d+)\.row\.col\.f32\.(\w+)\.(\w+)\.f32", ".".join(modifiers))
    if found is None or found[2] != found[3] or (found[2], int(found[1])) not in COVERED:
        raise Fault("not covered")
    return Shape(found[2], int(found[1]))


def multiply(of: Shape, first: Sequence[Array], second: Sequence[Array], third: Sequence[Array]) -> list[Array]:
    """The registers (float32) of a product and a sum, each [warps * 32] in the order of the threads.

    Products and sums are exact in float64 to the last rounding; a GPU's are close to that, not equal. The bits of a float32 that a
    tf32 lacks are ignored.

    Args:
        of: shape and types.
        first, second: bits of the registers that hold A [16, depth] and B [depth, 8].
        third: registers that hold C, as float32.
    """
    group, place, packed = LANES // 4, LANES % 4, of.packed
    a = np.zeros((len(first[0]) // WARP, ROWS, of.depth))
    b = np.zeros((len(first[0]) // WARP, of.depth, COLUMNS))
    for register, bits in enumerate(first):
        values = elements(bits, of)
        for j in range(packed):
            column = place * packed + j + 4 * packed * (register // 2)
            a[:, group + 8 * (register % 2), column] = values[..., j]
    for register, bits in enumerate(second):
        values = elements(bits, of)
        for j in range(packed):
            b[:, place * packed + j + 4 * packed * register, group] = values[..., j]
    product = a @ b
    return [
        (c + product[:, group + 8 * (register // 2), place * 2 + register % 2].reshape(-1)).astype(np.float32)
        for register, c in enumerate(third)
    ]


def elements(bits: Array, of: Shape) -> Array:
    """[warps, 32, elements in a register] as float64."""
    if of.kind == "tf32":
        values = (bits & np.uint32(0xFFFFE000)).view(np.float32)[:, None]
    else:
        values = decode(bits, f"{of.kind}x2")
    return values.astype(np.float64).reshape(-1, WARP, of.packed)


def row_lanes(matrices: int) -> Array:
    """The lanes whose addresses ldmatrix takes: eight rows a matrix."""
    return LANES[: 8 * matrices]


def fragments(rows: Array, matrices: int, transposed: bool) -> list[Array]:
    """The registers that ldmatrix gives each lane, [warps * 32] each.

    Args:
        rows: [warps, 8 * matrices, 16 bytes].
        matrices: 1, 2 or 4.
        transposed: with .trans.
    """
    halves = np.ascontiguousarray(rows).view(np.uint16).reshape(-1, matrices, 8, 8)
    if transposed:
        halves = halves.swapaxes(2, 3)
    pairs = np.ascontiguousarray(halves).view(np.uint32)  # [warps, matrices, row, 4]
    return [np.ascontiguousarray(pairs[:, m, LANES // 4, LANES % 4]).reshape(-1) for m in range(matrices)]
