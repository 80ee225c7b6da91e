"""What `intraformer-fast bench` does, apart from reading its options."""

import contextlib
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from intraformer_fast.files import atomic_path

from . import compare, page, registry, results
from .results import Row, Stamp
from .run import DID_NOT_RUN, FAILED, FULL, QUICK, run


@dataclass(frozen=True)
class Report:
    """A finished run.

    Attributes:
        stamp: where it was made.
        rows: what it found.
        descriptions: of the benchmarks, by name.
    """

    stamp: Stamp
    rows: Sequence[Row]
    descriptions: dict[str, str]

    @property
    def exit_code(self) -> int:
        """1 where a candidate computes wrongly, else 3 where ours cannot run here, else 0."""
        if any(row.parity == FAILED for row in self.rows):
            return 1
        return 3 if any(row.role == "ours" and row.parity == DID_NOT_RUN for row in self.rows) else 0

    def text(self) -> str:
        """For a terminal."""
        return page.text(self.stamp, self.rows, self.descriptions)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return results.to_json(self.stamp, self.rows) | {"descriptions": self.descriptions}

    def write(self, folder: Path) -> None:
        """Write `results.csv`, `benchmarks.md` and `benchmarks.html` into `folder`, all or none of them.

        Raises:
            OSError: the folder cannot be written.
        """
        contents = {
            "results.csv": results.to_csv(self.stamp, self.rows),
            "benchmarks.md": page.markdown(self.stamp, self.rows, self.descriptions),
            "benchmarks.html": page.html(self.stamp, self.rows, self.descriptions),
        }
        with contextlib.ExitStack() as files:
            for name, content in contents.items():
                files.enter_context(atomic_path(folder / name)).write_text(content, encoding="utf-8")


def listing(names: Sequence[str]) -> dict[str, Any]:
    """The benchmarks of these names (all where none is given) with their devices and cases.

    Raises:
        ValueError: there is no benchmark of such a name.
    """
    registry.load()
    return {
        b.name: {
            "description": b.description,
            "devices": list(b.devices),
            "cases": {case.label: list(case.candidates) for case in b.cases},
        }
        for b in registry.select(names)
    }


class Options(NamedTuple):
    """Of a run that times; what is None is chosen by the run.

    Attributes:
        device: "cpu" or "cuda".
        threads: of torch.
        rounds: of each case.
        seed: of the inputs.
        quick: the first case of each benchmark, few rounds, no memory.
    """

    device: str = "cpu"
    threads: int | None = None
    rounds: int | None = None
    seed: int | None = None
    quick: bool = False

    def chosen_seed(self) -> int:
        """The one given, or a random one."""
        return secrets.randbits(32) if self.seed is None else self.seed

    def words(self) -> list[str]:
        """As they stand on the command line."""
        given = {name: value for name, value in self._asdict().items() if name != "quick" and value is not None}
        return [f"--{name}={value}" for name, value in given.items()] + ["--quick"] * self.quick


def run_benchmarks(names: Sequence[str], options: Options, say: Callable[[str], None]) -> Report:
    """Run benchmarks and gather what they found.

    Raises:
        ValueError: there is no benchmark of such a name, or it does not run on that device; the device is not there.
        MissingDependencyError: pytest-benchmark is not installed.
    """
    chosen = chosen_benchmarks(names, options.device)
    device = torch.device(options.device)
    effort = QUICK if options.quick else FULL
    if options.rounds is not None:
        effort = effort._replace(rounds=options.rounds)
    seed = options.chosen_seed()
    with with_threads(options.threads):
        stamp = results.stamp(device, seed)  # before the long part: it needs what may not be installed
        rows = run(chosen, device, effort, seed, say)
    return Report(stamp, rows, {b.name: b.description for b in chosen})


def chosen_benchmarks(names: Sequence[str], device: str) -> list[registry.Benchmark]:
    """The benchmarks of these names, or all that run on the device where none is given.

    Raises:
        ValueError: as `run_benchmarks`.
    """
    registry.load()
    kind = _device(device).type
    chosen = registry.select(names)
    if elsewhere := [b.name for b in chosen if kind not in b.devices] if names else []:
        raise ValueError(f"{', '.join(elsewhere)} does not run on {kind}: expected device {_devices(elsewhere)}")
    return [b for b in chosen if kind in b.devices]


@dataclass(frozen=True)
class ComparedReport(Report):
    """A run, with what has changed in it since another commit.

    Attributes:
        revision: that commit, as it was named.
        changes: of the cases that both have.
    """

    revision: str
    changes: Sequence[compare.Change]

    @property
    def exit_code(self) -> int:
        """As `Report`, and 1 where something has become slower."""
        return 1 if any(change.regression for change in self.changes) else super().exit_code

    def text(self) -> str:
        """The changes below the run."""
        return f"{super().text()}\n\n{compare.text(self.revision, self.changes)}"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return super().to_dict() | {"compared_to": self.revision, "changes": [vars(c) for c in self.changes]}


def run_compared(revision: str, names: Sequence[str], options: Options, say: Callable[[str], None]) -> ComparedReport:
    """As `run_benchmarks`, at another commit of this clone first, on the same inputs.

    Raises:
        As `run_benchmarks` and `compare.run_revision`.
    """
    options = options._replace(seed=options.chosen_seed())
    before = compare.run_revision(revision, [*names, *options.words()], say)
    here = run_benchmarks(names, options, say)
    return ComparedReport(here.stamp, here.rows, here.descriptions, revision, compare.changes(before, here.rows))


def _device(name: str) -> torch.device:
    if name not in registry.DEVICES:
        raise ValueError(f"device = {name!r}: expected {' or '.join(registry.DEVICES)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device = 'cuda': torch {torch.__version__} sees no CUDA device here; expected cpu")
    return torch.device(name)


def _devices(names: Sequence[str]) -> str:
    return " or ".join(sorted({device for name in names for device in registry.BENCHMARKS[name].devices}))


@contextlib.contextmanager
def with_threads(count: int | None) -> Iterator[None]:
    """So many threads of torch inside the block; its own choice where None."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
