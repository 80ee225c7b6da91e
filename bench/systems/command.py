"""What `intraformer-fast bench systems` does, apart from reading its options."""

import contextlib
import csv
import io
import shlex
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from intraformer_fast.bench import results
from intraformer_fast.bench.command import with_threads
from intraformer_fast.files import atomic_path

from . import ablation, page, published, split
from .catalog import select
from .outcomes import Outcome
from .page import COMPARISON, Content
from .run import run
from .summary import summarize


@dataclass(frozen=True)
class SystemsReport:
    """A finished comparison."""

    content: Content
    outcomes: Sequence[Outcome]

    @property
    def exit_code(self) -> int:
        """3 where a system did not run, else 0."""
        return 3 if any(one.failure for one in self.outcomes) else 0

    def text(self) -> str:
        """For a terminal."""
        return page.text(self.content)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stamp": asdict(self.content.stamp),
            "data": self.content.data,
            "command": self.content.command,
            "outcomes": [asdict(one) for one in self.outcomes],
        }

    def write(self, folder: Path) -> None:
        """Write `systems.html`, `systems.md`, `systems.csv`, `published.csv` and the pictures into `folder`, all or none of them.

        An ablation's are called so.

        Raises:
            OSError: the folder cannot be written. MissingDependencyError: matplotlib is not installed.
        """
        name = self.content.subject.name
        contents = {
            f"{name}.html": page.html(self.content).encode(),
            f"{name}.md": page.markdown(self.content).encode(),
            f"{name}.csv": self.to_csv().encode(),
            "published.csv": published.FILE.read_bytes(),
            **{name: data for name, (_, data) in page.pictures(self.content).items()},
        }
        with contextlib.ExitStack() as files:
            for name, data in contents.items():
                files.enter_context(atomic_path(folder / name)).write_bytes(data)

    def to_csv(self) -> str:
        """A row a score: system, seed, metric and group, with the times, the command and the stamp; a failure is one row."""
        out = io.StringIO()
        stamp = self.content.stamp
        made = {"command": self.content.command, "machine": stamp.machine, "commit": stamp.commit, "torch": stamp.torch}
        facts = ["clusters", "train_seconds", "cluster_seconds", "cpu_seconds", "threads", "chosen"]
        names = ["system", "seed", "metric", "group", "value", *facts, "failure", *made]
        writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
        writer.writeheader()
        for one in self.outcomes:
            of = {"system": one.name, "seed": one.seed, "failure": one.failure, **made}
            if one.failure:
                writer.writerow(of)
            else:
                of |= {name: getattr(one, name) for name in facts}
            for metric, scores in one.scores.items():
                writer.writerows(
                    {**of, "metric": metric, "group": group, "value": value} for group, value in scores.items()
                )
        return out.getvalue()


def run_systems(
    names: Sequence[str],
    *,
    data: str,
    root: Path | None,
    classes: int | None,
    size: str,
    seeds: int,
    threads: int | None,
    output: Path | None,
    say: Callable[[str], None],
    of_parts: bool = False,
) -> SystemsReport:
    """Fit, cluster and score systems; an outcome goes to `output/runs/` as it is there, and is not computed again.

    Args:
        names: of the catalogue; all where none is given.
        data, root, classes: see `split.load`.
        size: "small", "published" or "quick", see the catalogue.
        seeds: 0, 1, ... of which each is a run.
        threads: of torch; its own choice by default.
        output: folder of the outcomes. None keeps them in memory.
        say: is told what happens.
        of_parts: whether it is the ablation of the Intraformer instead, whose rows the names then are.

    Raises:
        ValueError: a name or an option is none. DataError: the data are not what they should be.
    """
    entries = ablation.select_rows(names, size) if of_parts else select(names, size)
    found = split.load(data, root, classes)
    given = {"--root": root, "--classes": classes, "--threads": threads, "--output": output}
    command = ["intraformer-fast", "bench", "systems", *names, *(["--ablation"] if of_parts else [])]
    command += ["--data", data, "--size", size, "--seeds", str(seeds)]
    command += [part for option, value in given.items() if value is not None for part in (option, str(value))]
    with with_threads(threads):
        stamp = results.stamp(torch.device("cpu"), 0)
        outcomes = list(run(entries, found, seeds, output, say))
    words = (
        f"{found.target.name}: {len(found.target):,} samples of {len(np.unique(found.target.labels)):,} identities in "
        f"{len(np.unique(found.groups))} groups to cluster; {len(found.known):,} samples of "
        f"{len(np.unique(found.known.labels)):,} other identities to train and to choose on; {seeds} seed{'s' if seeds > 1 else ''}."
    )
    subject = ablation.subject() if of_parts else COMPARISON
    return SystemsReport(Content(stamp, summarize(entries, outcomes), words, shlex.join(command), subject), outcomes)
