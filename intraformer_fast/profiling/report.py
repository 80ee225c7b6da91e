"""What a profile found, as plain values and as text."""

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from intraformer_fast.files import write_json, write_text

TRACE = "trace.json"

BUSY = 0.7
"""Load of a machine that is told of."""


@dataclass(frozen=True)
class Stage:
    """A stage of a clustering.

    Attributes:
        seconds: measured, on `samples` samples.
        estimate: seconds for the whole set, an estimate by `rule`; equal to `seconds` where all of it was measured.
        peak_bytes: the most it held beyond what was there when it began; None where the system cannot tell.
    """

    name: str
    seconds: float
    samples: int
    estimate: float
    rule: str
    peak_bytes: int | None


@dataclass(frozen=True)
class Op:
    """An op of the model by torch.profiler: its own time, without that of the ops it calls."""

    name: str
    calls: int
    seconds: float
    share: float


@dataclass(frozen=True)
class Suggestion:
    """What to do about one setting, and why: `measured` are the numbers behind it, empty where a rule is."""

    subject: str
    text: str
    change: bool
    measured: dict[str, float]


@dataclass(frozen=True)
class Profile:
    """A profile of one set; `str()` of it is the report.

    Attributes:
        subject: what was profiled: samples, width, neighbors, model, precision, device and threads, where each came from, and the
            load of the machine before.
        measured: samples of the part that was measured, and clusters that the model was measured on.
        stages: in the order of the work.
        ops: of the model, the longest first.
        model: samples a second with their quartiles over batches, floating-point operations a second, and the most that
            the device is predicted to do in that precision (None where that is not known).
        suggestions: one a setting.
    """

    subject: dict[str, Any]
    measured: dict[str, int]
    stages: tuple[Stage, ...]
    ops: tuple[Op, ...]
    model: dict[str, Any]
    suggestions: tuple[Suggestion, ...]

    @property
    def estimate(self) -> float:
        """Seconds for the whole set: the sum of the stages' estimates."""
        return sum(stage.estimate for stage in self.stages)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        total = {"seconds": self.estimate, "samples_per_second": self.subject["samples"] / self.estimate}
        return {**asdict(self), "estimate": {**total, "is": "an estimate from the measured part"}}

    def write(self, folder: str | os.PathLike[str]) -> None:
        """profile.txt and profile.json in a folder.

        Raises:
            OSError: it cannot be written.
        """
        write_text(Path(folder) / "profile.txt", f"{self}\n")
        write_json(Path(folder) / "profile.json", self.to_dict())

    def __str__(self) -> str:
        s = self.subject
        samples, clusters = self.measured["samples"], self.measured["clusters"]
        part = f"measured: {samples:,} samples, the model on {clusters:,} clusters; the rest is estimated"
        busy = f"the machine was busy before it began (load {s['load']:.1f}): what is timed is slower for that"
        lines = [
            f"{s['samples']:,} samples of width {s['dim']} ({s['features']}), {s['neighbors']} neighbours ({s['graph']})",
            f"model: {s['model']}; {s['precision']} on {s['device']}, {counted(s['threads'], 'thread')}",
            "measured in full" if samples == clusters == s["samples"] else part,
            *([busy] if s["load"] > BUSY else []),
            "",
            *_stage_lines(self),
            "",
            *_model_lines(self),
            "",
            "suggestions",
            *(f"  {'*' if one.change else '-'} {one.subject}: {one.text}" for one in self.suggestions),
        ]
        return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.3g} us"
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 7200 else f"{seconds / 3600:.3g} h"


def counted(number: int, name: str) -> str:
    """A number of things, in the singular where there is one."""
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _stage_lines(profile: Profile) -> list[str]:
    total = profile.estimate
    rows = [("stage", "measured", "of samples", "whole set (estimate)", "share", "memory")]
    for stage in profile.stages:
        memory = "" if stage.peak_bytes is None else f"{stage.peak_bytes / 2**20:,.0f} MiB"
        share = f"{100 * stage.estimate / total:.0f} %"
        rows.append(
            (stage.name, duration(stage.seconds), f"{stage.samples:,}", duration(stage.estimate), share, memory)
        )
    rate = profile.subject["samples"] / total
    rows.append(("all", "", "", duration(total), "", f"{rate:,.0f} samples a second"))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 5)), row[5]]) for row in rows
    ]
    rules = [f"  {stage.name}: {stage.rule}" for stage in profile.stages if stage.rule]
    return [*(line.rstrip() for line in table), *(["how the whole set was estimated", *rules] if rules else [])]


def _model_lines(profile: Profile) -> list[str]:
    m = profile.model
    low, middle, high = m["samples_per_second"]
    line = f"model: {middle:,.1f} samples a second (quartiles over batches {low:,.1f} and {high:,.1f}), {m['flops'] / 1e9:,.1f} GFLOP/s"
    if m["peak"]:
        share = f"{100 * m['flops'] / m['peak']:.0f} %"
        line += f", {share} of {m['peak'] / 1e9:,.0f} (predicted of {m['device']})"
    width = max((len(op.name) for op in profile.ops), default=0)
    return [
        line,
        *(
            f"  {op.name.ljust(width)}  {100 * op.share:5.1f} %  {op.calls:6} calls  {duration(op.seconds)}"
            for op in profile.ops
        ),
    ]
