"""The backend of a CPU op by measurement, where the table of `routing.py` knows no better: once a kind of call, then from a file.

The table was made on processors with AVX-512. On others (AVX2 alone, ARM, whatever compiles the plain loops) eager PyTorch may be
faster, so there the first call of a kind times both, and the table's choice stands unless another takes less than 0.95 of its time.
INTRAFORMER_AUTOTUNE=1 measures everywhere, INTRAFORMER_AUTOTUNE=0 nowhere. Everywhere by default it would be a surprise: two machines
alike, or one before and after its file was lost, could round differently, for nothing.

Measured choices are kept in `backends.json` in the folder INTRAFORMER_CACHE (`~/.cache/intraformer-fast`), by processor, version of
this library and of torch, threads, op, dtype, gradients and sizes up to the next power of two. Never measured: what is being compiled
or exported, what runs on fake tensors or another device, and where torch has to be deterministic.
"""

import functools
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from intraformer_fast import __version__, native
from intraformer_fast.files import write_json

# Sets whose times made the table.
TIMED = ("avx512", "avx512_vnni", "avx512_bf16")
# The table's choice stands unless another takes less than this share of its time.
MARGIN = 0.95
ROUNDS = 5

Candidates = Callable[[], Mapping[str, Callable[[], object]]]

logger = logging.getLogger("intraformer_fast")
_lock = threading.RLock()


def wanted(arguments: Sequence[Any]) -> bool:
    """Whether the backend of this call is to be measured.

    Raises:
        ValueError: INTRAFORMER_AUTOTUNE is neither 0 nor 1.
    """
    asked = os.environ.get("INTRAFORMER_AUTOTUNE", "")
    if asked not in ("", "0", "1"):
        raise ValueError(f"INTRAFORMER_AUTOTUNE = {asked!r}: expected 0 or 1")
    if asked == "0" or native.NOT_LOADED["cpu"] or torch.are_deterministic_algorithms_enabled():
        return False
    if asked == "" and _instruction_set() in TIMED:
        return False
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    return all(type(t) in (Tensor, torch.nn.Parameter) and t.device.type == "cpu" and t.numel() for t in tensors)


def fastest(op: str, arguments: Sequence[Any], table: str, candidates: Candidates) -> str:
    """The name of the fastest candidate for calls of this kind; `table` is the one to beat.

    Args:
        op, arguments: of the call; what its kind is.
        table: the name that the table chose.
        candidates: makes what is timed, by name. Called only where the file does not know the kind.
    """
    with _lock:
        key, known = _kind(op, arguments), _known()
        if key not in known:
            seconds = {name: _seconds(run) for name, run in candidates().items()}
            best = min(seconds, key=lambda name: seconds[name])
            known[key] = best if seconds[best] < MARGIN * seconds[table] else table
            logger.info("%s: measured %s, using %r", key, seconds, known[key])
            try:
                # What another process wrote in the meantime stays.
                write_json(_file(), {**_read(), key: known[key]})
            except OSError as error:
                logger.warning(
                    "measured choices are forgotten with this process: %s cannot be written (%s)", _file(), error
                )
        return known[key]


def _kind(op: str, arguments: Sequence[Any]) -> str:
    tensors = [a for a in arguments if isinstance(a, Tensor)]
    shapes = [[1 << max(0, size - 1).bit_length() for size in t.shape] for t in tensors]
    plain = [a for a in arguments if isinstance(a, (int, str, tuple)) and not isinstance(a, Tensor)]
    grad = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
    half = str(torch.get_autocast_dtype("cpu")) if torch.is_autocast_enabled("cpu") else ""
    about = f"{_machine()}, {torch.get_num_threads()} threads: {op} {tensors[0].dtype} {half}"
    return f"{about} {'with' if grad else 'without'} gradients, {shapes} {plain}"


@functools.cache
def _instruction_set() -> str:
    return str(torch.ops.intraformer_fast.cpu_instruction_set())


@functools.cache
def _machine() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(names, platform.processor() or platform.machine())
    return f"{processor} ({_instruction_set()}), intraformer-fast {__version__}, torch {torch.__version__}"


def _file() -> Path:
    folder = Path(os.environ.get("INTRAFORMER_CACHE") or Path.home() / ".cache" / "intraformer-fast")
    return folder / "backends.json"


def _read() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}  # none yet, or damaged: measured anew
    return found if isinstance(found, dict) else {}


@functools.cache
def _known() -> dict[str, str]:
    return _read()


def _seconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times[1:])
