"""What a run found: one row a candidate, each with all one needs to know where it comes from."""

import csv
import io
import math
import os
import platform
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from intraformer_fast.errors import MissingDependencyError
from intraformer_fast.installation import info


@dataclass(frozen=True)
class Stamp:
    """Where and from what a run was made.

    Attributes:
        date: UTC, ISO 8601.
        machine: model of the CPU, or name of the GPU.
        cores: that the process may use.
        instruction_set: of the native CPU ops; empty where they are not installed.
        commit: of the source tree; "unknown" for an installed package.
        dirty: whether tracked files differ from that commit.
        threads: of torch.
        seed: of the inputs.
    """

    date: str
    device: str
    machine: str
    cores: int
    threads: int
    instruction_set: str
    commit: str
    dirty: bool
    python: str
    torch: str
    triton: str
    intraformer_fast: str
    seed: int


@dataclass(frozen=True)
class Row:
    """One candidate, or one limit, of one case. Times are seconds of one run; None where nothing was measured.

    Attributes:
        benchmark, case, candidate: names.
        role: "ours", "baseline" or "limit".
        parity: "passed", "FAILED" or "did not run"; "none" of a limit, which computes nothing.
        detail: of the parity, in words.
        error_ratio, relative_l2: see `parity.Verdict`.
        median, p25, p75, min: over the rounds.
        ours_faster: median over the rounds of this time over ours.
        gb_per_s: its least bytes over the median.
        of_limit: the time that the least bytes and operations take at the limits' rates, over this time.
        extra_bytes: peak memory beyond the inputs.
        least_bytes, least_flops: see `registry.Work`.
    """

    benchmark: str
    case: str
    candidate: str
    role: str
    least_bytes: int
    least_flops: int
    parity: str
    detail: str = ""
    error_ratio: float | None = None
    relative_l2: float | None = None
    median: float | None = None
    p25: float | None = None
    p75: float | None = None
    min: float | None = None
    rounds: int = 0
    ours_faster: float | None = None
    gb_per_s: float | None = None
    of_limit: float | None = None
    extra_bytes: int | None = None


def stamp(device: torch.device, seed: int) -> Stamp:
    """Of a run that begins now, with torch's threads as they are.

    Raises:
        MissingDependencyError: pytest-benchmark, which knows the machine, is not installed.
    """
    try:
        from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info
    except ImportError as error:
        raise MissingDependencyError("pytest-benchmark", "bench", "A benchmark") from error
    here = info()
    cpu = pytest_benchmark_generate_machine_info()["cpu"].get("brand_raw", platform.machine())
    commit, dirty = source_commit(Path(__file__).with_name("__init__.py"))
    return Stamp(
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        device=str(device),
        machine=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        instruction_set=here["native"]["cpu_instruction_set"] or "",
        commit=commit,
        dirty=dirty,
        python=here["python"],
        torch=here["torch"],
        triton=here["packages"]["triton"] or "",
        intraformer_fast=here["version"],
        seed=seed,
    )


def source_commit(file: Path) -> tuple[str, bool]:
    """The commit `file` is tracked in, and whether the tree differs from it; ("unknown", False) where it is in none.

    pytest-benchmark's own asks for the commit of the working directory, which may be any other project's.
    """

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(file.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return "unknown", False


def to_csv(stamp: Stamp, rows: Sequence[Row]) -> str:
    """A header and the rows, each with the stamp in front."""
    names = [field.name for kind in (Stamp, Row) for field in fields(kind)]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow(asdict(stamp) | asdict(row))
    return out.getvalue()


def to_json(stamp: Stamp, rows: Sequence[Row]) -> dict[str, Any]:
    """The same as plain values; JSON has no NaN or infinity, so an error that is one is None."""
    return {"stamp": asdict(stamp), "rows": [{k: _finite(v) for k, v in asdict(row).items()} for row in rows]}


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
