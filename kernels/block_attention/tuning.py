"""Tiles by measurement, on request alone: with INTRAFORMER_AUTOTUNE=1 in the environment, and never where torch has to be
deterministic, since another tile rounds differently.

What was measured is kept in `block_attention.json` in the folder INTRAFORMER_CACHE (`~/.cache/intraformer-fast`), by GPU, version of
Triton, kind of product, width of a head and length of a run.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from intraformer_fast.files import write_json

from . import configs

Seconds = Callable[[configs.Plan, str], float]
"""Of the forward pass ("forward"), the backward pass of one tile ("tile"), or one of its two kernels ("queries", "keys")."""

ROUNDS = 10


def wanted(device: torch.device) -> bool:
    """Whether tiles for this device are to be measured."""
    asked = os.environ.get("INTRAFORMER_AUTOTUNE", "0")
    if asked not in ("0", "1"):
        raise ValueError(f"INTRAFORMER_AUTOTUNE = {asked!r}: expected 0 or 1")
    return asked == "1" and device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()


def plan(mode: str, width: int, longest: int, capability: int, gpu: str, seconds: Seconds) -> configs.Plan:
    """The fastest tiles, from the cache or else by `seconds`, which raises where a tile does not fit."""
    folder = Path(os.environ.get("INTRAFORMER_CACHE") or Path.home() / ".cache" / "intraformer-fast")
    file, key = folder / "block_attention.json", f"{gpu}, {mode}, width {width}, runs of {longest}"
    known = json.loads(file.read_text()) if file.exists() else {}
    if key not in known:
        start = configs.plan(mode, width, longest, capability)
        known[key] = _fastest(start, list(candidates(mode, longest, capability)), seconds)
        write_json(file, known)
    return configs.Plan(*(None if tile is None else configs.Tile(*tile) for tile in known[key]))


def candidates(mode: str, longest: int, capability: int) -> Iterator[configs.Tile]:
    """Every tile that stands in a table of the family, and square ones that hold a run with other numbers of warps."""
    rows = max(16, configs.next_power_of_2(longest))
    if rows <= 128:
        yield from (configs.Tile(rows, 0, warps, 1) for warps in (2, 4, 8))
    found = {tile for row in configs.TABLES[configs.family(capability), mode].values() for tile in row[2:]}
    yield from sorted(found)  # type: ignore[type-var]


def _fastest(start: configs.Plan, tiles: list[configs.Tile], seconds: Seconds) -> configs.Plan:
    square, loops = [t for t in tiles if not t.keys], [t for t in tiles if t.keys]

    def best(kind: str, plans: list[configs.Plan]) -> tuple[float, configs.Plan]:
        timed = []
        for one in plans:
            try:
                timed.append((seconds(one, kind), one))
            except RuntimeError:  # does not compile, or not into the memory of this GPU
                continue
        return min(timed, key=lambda found: found[0], default=(float("inf"), start))

    forward_loop = best("forward", [start._replace(forward_tile=None, loop=tile) for tile in loops])
    forward_tile = best("forward", [start._replace(forward_tile=tile) for tile in square])
    tile = best("tile", [start._replace(backward_tile=tile) for tile in square])
    queries = best("queries", [start._replace(backward_tile=None, queries=tile) for tile in loops])
    keys = best("keys", [start._replace(backward_tile=None, keys=tile) for tile in loops])
    return configs.Plan(
        forward_tile[1].forward_tile if forward_tile[0] <= forward_loop[0] else None,
        tile[1].backward_tile if tile[0] <= queries[0] + keys[0] else None,
        forward_loop[1].loop,
        queries[1].queries,
        keys[1].keys,
    )


def measured(run: Callable[[], None]) -> float:
    """Median of the seconds that a launch takes on the current device."""
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(ROUNDS)]
    run()
    for start, end in events:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in events)[ROUNDS // 2] / 1e3


def gpu_name(tensor: Tensor) -> str:
    """The GPU and the version of Triton that a measurement holds for."""
    import triton

    return f"{torch.cuda.get_device_name(tensor.device)}, Triton {triton.__version__}"
