"""What `intraformer-fast bench --all` does, apart from reading its options."""

import contextlib
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from intraformer_fast.files import atomic_path, read_json, write_json

from .. import results
from ..command import Options
from . import page
from .parts import Part, all_parts, chosen, stored

FILE = "results.json"
ROUNDS = 15
"""Of each case, where the options name none: the whole then takes some 25 minutes on two cores."""

SAME = ("machine", "commit", "torch", "intraformer_fast")
"""Of the stamp of a stored part: where all are as now, it is not run again."""


@dataclass(frozen=True)
class EvidenceReport:
    """All that is stored.

    Attributes:
        content: of `results.json`: by the key of each part its "options", its "seconds", and its "report" or its "failure".
    """

    content: Mapping[str, Mapping[str, Any]]

    @property
    def exit_code(self) -> int:
        """1 where a candidate or a kernel computes wrongly, or a part failed, else 3 where ours cannot run here, else 0."""
        found = stored(self.content)
        codes = {report.exit_code for report in found.benchmarks} | {report.exit_code for report in found.facts}
        return 1 if found.failures or 1 in codes else max(codes, default=0)

    def text(self) -> str:
        """What matters most, for a terminal."""
        return page.text(stored(self.content))

    def to_dict(self) -> dict[str, Any]:
        """For JSON: what is in the file."""
        return dict(self.content)

    def write(self, folder: Path) -> None:
        """Write `benchmarks.md`, `benchmarks.html` and the pictures into `folder`, all or none of them: the same for the same results.

        Raises:
            OSError: the folder cannot be written. MissingDependencyError: matplotlib is not installed.
        """
        with contextlib.ExitStack() as files:
            for name, data in page.files(stored(self.content)).items():
                files.enter_context(atomic_path(folder / name)).write_bytes(data)


def run_all(
    names: Sequence[str],
    options: Options,
    *,
    samples: int | None,
    output: Path | None,
    redraw: bool,
    say: Callable[[str], None],
) -> EvidenceReport:
    """Run the parts of these names, or all, and store each in `output` as soon as it is there.

    What is stored from the same commit on the same machine with the same options is not run again. A part that fails says why, and
    the others run.

    Args:
        names: of benchmarks, of files of them, of facts, or "scale".
        options: of what is timed; 15 rounds by default.
        samples: of the largest set of `scale`; 100,000 by default.
        output: the folder; it must be given.
        redraw: run nothing.
        say: is told what comes next.

    Raises:
        ValueError: no folder, nothing of such a name, or nothing to draw.
        MissingDependencyError: pytest-benchmark is not installed.
    """
    if output is None:
        raise ValueError("`bench --all` keeps what it finds: expected a folder for it, such as --output benchmarks")
    file = output / FILE
    content: dict[str, Any] = read_json(file) if file.exists() else {}
    if redraw:
        if not content:
            raise ValueError(f"there is no {file} to draw: expected the folder of an earlier `bench --all`")
        return EvidenceReport(content)
    if options.rounds is None and not options.quick:
        options = options._replace(rounds=ROUNDS)
    found = all_parts(options, samples, say)
    wanted = chosen(found, names)
    now = vars(results.stamp(torch.device("cpu"), 0))
    for number, part in enumerate(wanted, 1):
        if _is_stored(content.get(part.key), part, now):
            say(f"[{number}/{len(wanted)}] {part.key}: stored already")
            continue
        say(f"[{number}/{len(wanted)}] {part.key}")
        content[part.key] = _run(part, say)
        content = {p.key: content[p.key] for p in found if p.key in content} | content
        write_json(file, content)
    return EvidenceReport(content)


def _is_stored(before: Mapping[str, Any] | None, part: Part, now: Mapping[str, Any]) -> bool:
    if before is None or "report" not in before or before["options"] != part.options:
        return False
    return all(before["report"]["stamp"][name] == now[name] for name in SAME)


def _run(part: Part, say: Callable[[str], None]) -> dict[str, Any]:
    """What is stored of a part that has run. An interrupt is not its failure."""
    started = time.perf_counter()
    try:
        outcome = {"report": part.run().to_dict()}
    except Exception as error:
        say(traceback.format_exc())
        outcome = {"failure": f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"}
    return {"options": dict(part.options), "seconds": round(time.perf_counter() - started, 1), **outcome}
