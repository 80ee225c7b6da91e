"""Times of several steps, taken in turns, so that whatever slows the machine for a while slows all of them."""

import contextlib
import gc
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, Any, TypeAlias

import torch

from intraformer_fast.errors import MissingDependencyError

if TYPE_CHECKING:
    from pytest_benchmark.stats import Stats

Seconds: TypeAlias = float
Clock: TypeAlias = Callable[[Callable[[], Any], int], Seconds]
"""Runs a step so many times, one after the other, and says how long that took."""


def clock(device: torch.device) -> Clock:
    """Of a device: the CPU's, or between two events of the CUDA stream."""
    return _cuda_clock if device.type == "cuda" else _cpu_clock


def _cpu_clock(step: Callable[[], Any], times: int) -> Seconds:
    start = time.perf_counter()
    for _ in range(times):
        step()
    return time.perf_counter() - start


def _cuda_clock(step: Callable[[], Any], times: int) -> Seconds:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(times):
        step()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1e3


def interleaved(
    steps: Mapping[str, Callable[[], Any]], rounds: int, sample: Seconds, clock: Clock
) -> dict[str, list[Seconds]]:
    """Seconds of one run of each step, in each round.

    Every round times every step once, in an order of its own. What is timed is a row of runs that lasts at least `sample`
    seconds, after one run that is not: by then caches and thread pools are the step's own.
    """
    # The first calibration is the warm-up too, and may be misled by it.
    times = {name: max(_calibrate(step, sample, clock) for _ in range(2)) for name, step in steps.items()}
    taken: dict[str, list[Seconds]] = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            steps[name]()
            with _no_garbage_collection():
                taken[name].append(clock(steps[name], times[name]) / times[name])
    return taken


def _calibrate(step: Callable[[], Any], sample: Seconds, clock: Clock) -> int:
    """How many runs last `sample` seconds."""
    times = 1
    while clock(step, times) < sample:
        times *= 2
    return times


def summary(taken: Sequence[Seconds]) -> "Stats":
    """Median, quartiles and minimum, by pytest-benchmark.

    Raises:
        MissingDependencyError: pytest-benchmark is not installed.
    """
    try:
        from pytest_benchmark.stats import Stats
    except ImportError as error:
        raise MissingDependencyError("pytest-benchmark", "bench", "A benchmark") from error
    stats = Stats()
    for seconds in taken:
        stats.update(seconds)
    return stats


def ratio(slower: Sequence[Seconds], faster: Sequence[Seconds]) -> float:
    """Median over the rounds of one time over the other: neighbours in time, so a slow spell weighs on both."""
    return median(s / f for s, f in zip(slower, faster, strict=True))


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
