"""Which kernel and which tile serve a run: numbers in tables, chosen by a pure function.

Those for compute capability 9.0 are the fastest of a sweep on an H100 (README.md has it); the others are the nearest to them that
compile without a spilled register into the shared memory that the smallest GPU of their family has.
"""

from collections.abc import Iterator
from typing import NamedTuple

HALF, TF32, IEEE = MODES = "half", "tf32", "ieee"
"""How products are made: of 16-bit numbers; of float32 rounded to TF32; of float32 as it is, without tensor cores."""

INPUT_PRECISION = {HALF: "ieee", TF32: "tf32", IEEE: "ieee"}
"""Triton's names of them."""

FAMILIES = (80, 90, 100)
"""Compute capabilities, times ten, that have a table. A GPU takes that of `family`."""


class Tile(NamedTuple):
    """A configuration of one kernel.

    Attributes:
        rows: of a tile, a power of 2: queries; in `backward.keys` those of one step.
        keys: of a tile; 0 in the kernels `tile`, whose tiles are square.
        num_warps: of a program.
        num_stages: of the loop's pipeline; 1 without one.
    """

    rows: int
    keys: int
    num_warps: int
    num_stages: int


class Row(NamedTuple):
    """Of a table: what serves heads of one width.

    Attributes:
        forward: most rows that the kernel `tile` takes in the forward pass, and the warps of its larger tiles.
        backward: the same in the backward pass.
        loop, queries, keys: the kernels for longer runs.
    """

    forward: tuple[int, int]
    backward: tuple[int, int]
    loop: Tile
    queries: Tile
    keys: Tile


class Plan(NamedTuple):
    """What serves runs of one length: `tile` alone where one is given, else the kernels that loop."""

    forward_tile: Tile | None
    backward_tile: Tile | None
    loop: Tile
    queries: Tile
    keys: Tile


# By family and mode; then by the columns of a tile, the first that is enough. Of float32, wider heads leave `queries` too few
# registers.
TABLES: dict[tuple[int, str], dict[int, Row]] = {
    (80, HALF): {
        32: Row((64, 4), (64, 4), Tile(32, 32, 2, 2), Tile(64, 64, 4, 1), Tile(16, 64, 4, 2)),
        64: Row((64, 4), (64, 4), Tile(64, 64, 4, 2), Tile(64, 32, 4, 1), Tile(32, 64, 4, 1)),
        128: Row((64, 4), (64, 8), Tile(64, 32, 4, 2), Tile(64, 32, 4, 1), Tile(64, 64, 8, 1)),
        256: Row((64, 8), (32, 4), Tile(64, 32, 8, 2), Tile(16, 16, 4, 1), Tile(16, 16, 4, 1)),
    },
    (90, HALF): {
        32: Row((64, 4), (128, 8), Tile(32, 32, 2, 2), Tile(64, 64, 4, 2), Tile(16, 64, 4, 2)),
        64: Row((64, 4), (64, 4), Tile(64, 64, 4, 3), Tile(64, 32, 4, 3), Tile(32, 64, 4, 3)),
        128: Row((64, 4), (128, 8), Tile(64, 32, 4, 3), Tile(64, 64, 4, 2), Tile(32, 64, 4, 2)),
        256: Row((64, 8), (64, 8), Tile(64, 16, 4, 3), Tile(32, 16, 4, 1), Tile(16, 32, 4, 1)),
    },
    (80, TF32): {
        32: Row((32, 4), (32, 4), Tile(64, 64, 4, 1), Tile(64, 64, 4, 1), Tile(64, 64, 4, 1)),
        64: Row((32, 4), (32, 4), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 1)),
        128: Row((32, 4), (32, 4), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 1)),
    },
    (90, TF32): {
        32: Row((64, 4), (128, 8), Tile(64, 64, 4, 1), Tile(64, 64, 4, 1), Tile(64, 64, 4, 1)),
        64: Row((64, 4), (64, 4), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 1)),
        128: Row((64, 4), (64, 8), Tile(32, 32, 4, 2), Tile(32, 32, 4, 2), Tile(32, 32, 4, 1)),
    },
    (80, IEEE): {
        128: Row((16, 4), (16, 4), Tile(32, 32, 4, 1), Tile(16, 16, 8, 1), Tile(32, 32, 4, 1)),
    },
    (90, IEEE): {
        128: Row((16, 4), (16, 4), Tile(16, 16, 8, 1), Tile(16, 16, 8, 1), Tile(16, 16, 4, 1)),
    },
}
TABLES |= {(100, mode): TABLES[90, mode] for mode in MODES}
# On 10.0 the steps of 64 spill.
TABLES[100, TF32] = {**TABLES[90, TF32], 32: TABLES[90, TF32][32]._replace(keys=Tile(32, 32, 4, 1))}

# Ids take registers of their own: what replaces a row's entries where rows are gathered.
GATHERED: dict[tuple[int, str, int], dict[str, tuple[int, int] | Tile]] = {
    (80, HALF, 128): {"backward": (64, 8), "loop": Tile(64, 32, 8, 2), "queries": Tile(32, 32, 4, 1)},
    (80, HALF, 256): {"loop": Tile(16, 32, 4, 2)},
    (90, HALF, 128): {"backward": (64, 8), "keys": Tile(32, 32, 4, 2)},
    (100, HALF, 64): {"loop": Tile(64, 64, 4, 2)},
    (100, HALF, 128): {"backward": (64, 8), "queries": Tile(64, 32, 4, 2)},
    (90, TF32, 128): {"queries": Tile(32, 32, 4, 1)},
    (100, TF32, 128): {"forward": (32, 4), "queries": Tile(32, 32, 4, 1)},
    (80, TF32, 32): {"queries": Tile(32, 32, 4, 1)},
    (80, TF32, 64): {"keys": Tile(32, 32, 8, 1)},
    (80, TF32, 128): {"backward": (16, 4), "queries": Tile(32, 32, 4, 1)},
}

# A matrix instruction of 16-bit numbers has 16 rows: a tile of so many gives no more warps something to do.
MOST_WARPS = {(HALF, 16): 2, (HALF, 32): 4}


def family(capability: int) -> int:
    """Whose table a GPU of this compute capability, times ten, takes: consumer GPUs that of the A100, whatever their year."""
    if 90 <= capability < 100:
        return 90
    return 100 if 100 <= capability < 120 else 80


def plan(mode: str, width: int, longest: int, capability: int, *, gather: bool = False) -> Plan:
    """What serves runs of at most `longest` tokens with heads of `width`; `gather`, where their rows are those of tables.

    Raises:
        ValueError: no tile is as wide.
    """
    table = TABLES[family(capability), mode]
    most = next((most for most in table if width <= most), None)
    if most is None:
        raise ValueError(f"a head is {width} wide: expected at most {max(table)}")
    row = table[most]
    if gather:
        row = row._replace(**GATHERED.get((family(capability), mode, most), {}))  # type: ignore[arg-type]
    rows = max(16, next_power_of_2(longest))

    def tile(most: int, warps: int) -> Tile | None:
        fewer = MOST_WARPS.get((mode, rows), warps) if rows == 16 or not gather else warps
        return Tile(rows, 0, min(warps, fewer), 1) if rows <= most else None

    return Plan(tile(*row.forward), tile(*row.backward), row.loop, row.queries, row.keys)


def all_cases() -> Iterator[tuple[int, str, int, int]]:
    """(family, mode, widest head, length of a run) of every plan there is."""
    for (family, mode), table in TABLES.items():
        for width in table:
            for longest in (16, 32, 64, 128, 256):
                yield family, mode, width, longest


def next_power_of_2(number: int) -> int:
    """The smallest that is not below it."""
    return 1 << max(0, number - 1).bit_length()


def block_width(width: int) -> int:
    """Columns of a tile: a power of 2, and 16 at least, which a matrix instruction needs."""
    return max(16, next_power_of_2(width))
