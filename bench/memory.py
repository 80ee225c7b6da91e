"""Peak extra memory of each candidate of a case: what one step holds at most beyond its inputs, its results included.

Measured in a process of its own. On the CPU that is the high water of the resident set, which Linux can reset; the heap of that
process gives back at once what is freed, so that a step cannot hide in memory another has left. On CUDA it is the allocator's count.
"""

import contextlib
import ctypes
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import torch

from . import registry
from .registry import Benchmark, Case, Step

CLEAR_REFS, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
RESET_HIGH_WATER = "5"

# Blocks above 64 KiB are mapped on their own, and unmapped when freed; glibc would raise that threshold as it goes.
GIVE_BACK_AT_ONCE = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}


def measure(benchmark: Benchmark, case: Case, device: torch.device) -> dict[str, int]:
    """Bytes for each candidate that runs, by name; empty where the system cannot tell (it is not Linux)."""
    if device.type == "cpu" and not os.access(CLEAR_REFS, os.W_OK):
        return {}
    threads = str(torch.get_num_threads())
    what = [benchmark.make_cases.__module__, benchmark.name, case.label, str(device), threads]
    command = [sys.executable, "-m", __name__, *what]
    done = subprocess.run(command, env=os.environ | GIVE_BACK_AT_ONCE, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"the measurement of memory failed for {benchmark.name}, {case.label}:\n{done.stderr}")
    found: dict[str, int] = json.loads(done.stdout)
    return found


def extra_bytes(step: Step, device: torch.device) -> int:
    """What one more run of a step that is warm holds at most beyond what is there already."""
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR_REFS.write_text(RESET_HIGH_WATER)
    before = _high_water()
    step()
    return _high_water() - before


def _high_water() -> int:
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", STATUS.read_text())
    return 1024 * int(kilobytes)


def main(module: str, name: str, label: str, device_name: str, threads: str) -> None:
    """In the process of its own: print the bytes of each candidate, as JSON."""
    importlib.import_module(module)
    torch.set_num_threads(int(threads))
    device = torch.device(device_name)
    (case,) = (case for case in registry.BENCHMARKS[name].cases if case.label == label)
    inputs = {name: tensor.to(device) for name, tensor in case.inputs(torch.Generator()).items()}
    found = {}
    for candidate, make in case.candidates.items():
        # The table says already why a candidate does not run.
        with contextlib.suppress(Exception):
            found[candidate] = extra_bytes(make(inputs), device)
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
