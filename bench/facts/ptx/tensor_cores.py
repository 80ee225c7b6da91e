"""ldmatrix and mma: which lane holds which element. PTX ISA 9.0, sections 9.7.14.5 (mma) and 9.7.14.5.15 (ldmatrix)."""

import functools
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
    warps = len(first[0]) // WARP
    a_order, b_order, c_order = orders(of)
    a = elements(first, of, warps)[:, a_order].reshape(warps, ROWS, of.depth)
    b = elements(second, of, warps)[:, b_order].reshape(warps, of.depth, COLUMNS)
    product = (a @ b).reshape(warps, ROWS * COLUMNS)[:, c_order].reshape(warps, 4, WARP)
    return [(c + product[:, register].reshape(-1)).astype(np.float32) for register, c in enumerate(third)]


def elements(registers: Sequence[Array], of: Shape, warps: int) -> Array:
    """[warps, registers x 32 lanes x elements in a register] as float64."""
    bits = np.stack(registers)
    values = (bits & np.uint32(0xFFFFE000)).view(np.float32) if of.kind == "tf32" else decode(bits, f"{of.kind}x2")
    by_warp = values.reshape(len(registers), warps, -1).swapaxes(0, 1)
    return by_warp.reshape(warps, -1).astype(np.float64)


@functools.cache
def orders(of: Shape) -> tuple[Array, Array, Array]:
    """Where in `elements` the entries of A and of B are, row by row; and where in the result those of the four registers."""
    group, place, packed = LANES[:, None] // 4, LANES[:, None] % 4, of.packed
    within = np.arange(packed)
    a, b = np.empty((ROWS, of.depth), np.int64), np.empty((of.depth, COLUMNS), np.int64)
    size = WARP * packed
    for register in range(ROWS * of.depth // size):
        at = register * size + np.arange(size).reshape(WARP, packed)
        a[group + 8 * (register % 2), place * packed + within + 4 * packed * (register // 2)] = at
    for register in range(of.depth * COLUMNS // size):
        at = register * size + np.arange(size).reshape(WARP, packed)
        b[place * packed + within + 4 * packed * register, group] = at
    c = [(LANES // 4 + 8 * (register // 2)) * COLUMNS + LANES % 4 * 2 + register % 2 for register in range(4)]
    return a.reshape(-1), b.reshape(-1), np.concatenate(c)


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
