"""What `intraformer-fast bench --facts` does, apart from reading its options."""

import contextlib
import csv
import io
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from intraformer_fast.files import atomic_path

from .. import registry, results
from ..results import Stamp
from ..run import FAILED
from . import page
from .cases import select_facts
from .rows import CompiledRow, ExecutedRow, Row, facts


@dataclass(frozen=True)
class Report:
    """Facts that were gathered.

    Attributes:
        stamp: from what.
        rows: the facts.
    """

    stamp: Stamp
    rows: Sequence[Row]

    @property
    def exit_code(self) -> int:
        """1 where a kernel, executed, does something wrong, else 0."""
        return int(any(isinstance(row, ExecutedRow) and row.parity == FAILED for row in self.rows))

    def text(self) -> str:
        """For a terminal."""
        return page.text(self.stamp, self.rows)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stamp": asdict(self.stamp),
            "compiled": [_finite(asdict(row)) for row in self.rows if isinstance(row, CompiledRow)],
            "executed": [_finite(asdict(row)) for row in self.rows if isinstance(row, ExecutedRow)],
        }

    def write(self, folder: Path) -> None:
        """Write `facts.md`, `facts.html`, `compiled.csv` and `executed.csv` into `folder`, all or none of them.

        Raises:
            OSError: the folder cannot be written.
        """
        contents = {
            "facts.md": page.markdown(self.stamp, self.rows),
            "facts.html": page.html(self.stamp, self.rows),
            "compiled.csv": _csv(self.stamp, [row for row in self.rows if isinstance(row, CompiledRow)], CompiledRow),
            "executed.csv": _csv(self.stamp, [row for row in self.rows if isinstance(row, ExecutedRow)], ExecutedRow),
        }
        with contextlib.ExitStack() as files:
            for name, content in contents.items():
                files.enter_context(atomic_path(folder / name)).write_text(content, encoding="utf-8")


def run_facts(names: Sequence[str], *, seed: int | None, quick: bool, say: Callable[[str], None]) -> Report:
    """Gather the facts of these names, or of all; the options are those of the command.

    Raises:
        ValueError: there are no facts of such a name.
        MissingDependencyError: Triton or pytest-benchmark is not installed.
    """
    registry.load()
    chosen = select_facts(names)
    seed = secrets.randbits(32) if seed is None else seed
    stamp = results.stamp(torch.device("cpu"), seed)
    return Report(stamp, facts(chosen, seed, not quick, say))


def _csv(stamp: Stamp, rows: Sequence[Row], kind: type[CompiledRow] | type[ExecutedRow]) -> str:
    """A header and the rows, each with the stamp in front."""
    out = io.StringIO()
    names = [field.name for part in (Stamp, kind) for field in fields(part)]
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(stamp) | asdict(row) for row in rows)
    return out.getvalue()


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN or infinity, so an error that is one is None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in row.items()
    }
