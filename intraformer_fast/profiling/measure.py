"""Seconds, memory and ops of a piece of work."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from intraformer_fast.bench.memory import CLEAR_REFS, RESET_HIGH_WATER, STATUS
from intraformer_fast.profiling.report import Op

MOST_OPS = 12


class Clock:
    """Seconds and peak memory of the blocks that it was entered for, summed and maximal."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.laps: list[float] = []
        self.peak_bytes: int | None = None

    @property
    def seconds(self) -> float:
        return sum(self.laps)

    @contextlib.contextmanager
    def lap(self) -> Iterator[None]:
        """Time a block, all that it started on a GPU included."""
        before = _start_high_water(self.device)
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.laps.append(time.perf_counter() - start)
        if before is not None:
            self.peak_bytes = max(self.peak_bytes or 0, _high_water(self.device) - before)


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _start_high_water(device: torch.device) -> int | None:
    """What is held now, from where the high water is counted anew; None where the system cannot tell."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not os.access(CLEAR_REFS, os.W_OK):
        return None
    CLEAR_REFS.write_text(RESET_HIGH_WATER)
    return _high_water(device)


def _high_water(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM"))
    return 1024 * int(line.split()[1])


def by_op(work: Callable[[], Any], device: torch.device) -> tuple[Op, ...]:
    """The ops of some work by torch.profiler, the longest first; what is short is "other"."""
    with torch.profiler.profile(activities=_activities(device), acc_events=True) as profiler:
        work()
        synchronize(device)
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    found = [(event.key, event.count, getattr(event, own) / 1e6) for event in profiler.key_averages()]
    found = sorted((row for row in found if row[2] > 0), key=lambda row: -row[2])
    total = sum(seconds for _, _, seconds in found)
    rest = found[MOST_OPS:]
    shown = found[:MOST_OPS]
    if rest:
        shown.append(("other", sum(calls for _, calls, _ in rest), sum(seconds for _, _, seconds in rest)))
    return tuple(Op(name, calls, seconds, seconds / total) for name, calls, seconds in shown)


@contextlib.contextmanager
def tracing(path: Path, device: torch.device) -> Iterator[None]:
    """Write a Chrome trace of the block, for chrome://tracing or ui.perfetto.dev."""
    with torch.profiler.profile(activities=_activities(device), record_shapes=True, acc_events=True) as profiler:
        yield
        synchronize(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    profiler.export_chrome_trace(str(path))


def _activities(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
