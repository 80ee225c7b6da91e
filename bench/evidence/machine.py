"""What the processor here can do at most: how fast it multiplies, and how fast it moves bytes. Measured, for the roofline."""

import torch

from .. import results, timing
from ..cases.cpu import limits
from ..command import Options, Report, with_threads
from ..registry import Limit, Work
from ..results import Row
from ..run import FULL, NO_PARITY, QUICK, timed

NAME = "machine"
DESCRIPTION = "What this processor does at most: multiplications in registers alone, and copies."
MEMORY, CACHE = "copy of 256 MiB", "copy of 512 KiB"
SIZES = {MEMORY: 2**28, CACHE: 2**19}
"""Bytes: one that no cache holds, and one that a core's own does."""


def measured(options: Options) -> Report:
    """A row for each limit; all are timed in turns.

    Raises:
        MissingDependencyError: pytest-benchmark is not installed.
    """
    effort = QUICK if options.quick else FULL
    found = limits(torch.float32) | limits(torch.bfloat16) | {name: copy(size) for name, size in SIZES.items()}
    with with_threads(options.threads):
        stamp = results.stamp(torch.device("cpu"), options.chosen_seed())
        steps = {name: limit.make({}) for name, limit in found.items()}
        times = timing.interleaved(
            steps, options.rounds or effort.rounds, effort.sample, timing.clock(torch.device("cpu"))
        )
    rows = [timed(Row(NAME, "limits", name, "limit", *found[name].work, NO_PARITY), times[name]) for name in found]
    return Report(stamp, rows, {NAME: DESCRIPTION})


def copy(size: int) -> Limit:
    """Read and write so many bytes."""
    source = torch.ones(size // 4)
    target = torch.empty_like(source)
    return Limit(lambda inputs: lambda: target.copy_(source), Work(2 * size))
