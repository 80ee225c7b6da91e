"""Ours beside ours of another commit: what has become slower."""

import csv
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import environ, pathsep
from pathlib import Path

from .page import markdown_table, seconds
from .registry import EAGER
from .results import Row

ALLOWED = 1.05
"""Times the earlier time; what is slower than that is a regression."""

COMMAND = "from intraformer_fast.cli import main; main()"
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Change:
    """Ours of one case at two commits. The machine may be faster today: what is compared is the time over that of eager PyTorch,
    taken in turns in the same process.

    Attributes:
        benchmark, case: names.
        before, after: seconds, medians.
        ratio: of (after over eager then) to (before over eager then): above 1 is slower.
        apart: whether the quartiles of the two do not overlap either.
    """

    benchmark: str
    case: str
    before: float
    after: float
    ratio: float
    apart: bool

    @property
    def regression(self) -> bool:
        """Slower by more than is allowed, and not by chance."""
        return self.ratio > ALLOWED and self.apart


def changes(before: Sequence[Mapping[str, str]], after: Sequence[Row]) -> list[Change]:
    """Of each case that was timed at both commits, in the order of `after`.

    Args:
        before: lines of a results.csv.
        after: rows of this commit's run.
    """
    then = {(line["benchmark"], line["case"], line["candidate"]): line for line in before if line["median"]}
    now = {(row.benchmark, row.case, row.candidate): row for row in after if row.median}
    found = []
    for (benchmark, case, candidate), row in now.items():
        old, old_eager = then.get((benchmark, case, candidate)), then.get((benchmark, case, EAGER))
        eager = now.get((benchmark, case, EAGER))
        if row.role != "ours" or old is None or old_eager is None or eager is None:
            continue
        unit, old_unit = _timed(eager.median), float(old_eager["median"])
        low, high = _timed(row.p25) / unit, _timed(row.p75) / unit
        apart = low > float(old["p75"]) / old_unit or high < float(old["p25"]) / old_unit
        median = _timed(row.median)
        ratio = median / unit / (float(old["median"]) / old_unit)
        found.append(Change(benchmark, case, float(old["median"]), median, ratio, apart))
    return found


def _timed(value: float | None) -> float:
    assert value is not None  # a row with a median has all of its times
    return value


def text(revision: str, found: Sequence[Change]) -> str:
    """A table for a terminal, regressions marked."""
    if not found:
        return f"no case was timed both here and at {revision}"
    lines = [("benchmark", "case", f"at {revision}", "here", "against eager", "")]
    for change in found:
        words = f"{100 * abs(change.ratio - 1):.1f} % {'slower' if change.ratio > 1 else 'faster'}"
        verdict = "REGRESSION" if change.regression else "" if change.apart else "within the spread"
        lines.append((change.benchmark, change.case, seconds(change.before), seconds(change.after), words, verdict))
    return markdown_table(lines)


def run_revision(revision: str, arguments: Sequence[str], say: Callable[[str], None]) -> list[dict[str, str]]:
    """The results of `intraformer-fast bench` with these arguments at another commit of this clone, built in a temporary folder.

    Raises:
        ValueError: this package does not lie in a clone, or that has no such commit.
        FileNotFoundError: git is not installed.
        RuntimeError: that commit cannot be built, or its run failed.
    """
    known = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"]
    wanted = f"compare = {revision!r}: expected a commit of the clone that this package was installed from in place"
    if not (ROOT / "setup.py").exists():
        raise ValueError(f"{wanted}; {ROOT} is no such clone")
    try:
        commit = subprocess.run(known, capture_output=True, text=True)
    except FileNotFoundError:
        raise FileNotFoundError(f"compare = {revision!r} needs git, which is not on PATH: install it") from None
    if commit.returncode:
        raise ValueError(f"{wanted}; {ROOT} has none of that name")
    with tempfile.TemporaryDirectory(prefix="intraformer-compare-") as folder:
        say(f"building {revision}")
        source = f"git+file://{ROOT}@{commit.stdout.strip()}"
        site, output = Path(folder) / "site", Path(folder) / "results"
        pip = ["-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps", "--target", str(site), source]
        _run([sys.executable, *pip], {}, f"building {revision}", site)
        paths = pathsep.join(filter(None, [str(site), environ.get("PYTHONPATH")]))
        say(f"running {revision}")
        command = [sys.executable, "-c", COMMAND, "bench", *arguments, "--output", str(output)]
        _run(command, {"PYTHONPATH": paths}, f"the run of {revision}", output / "results.csv", cwd=folder)
        with open(output / "results.csv", newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


def _run(command: Sequence[str], variables: Mapping[str, str], what: str, made: Path, cwd: str | None = None) -> None:
    """A run whose candidates do not all compute rightly ends with an exit code of its own, and has results all the same."""
    done = subprocess.run(command, env={**environ, **variables}, cwd=cwd, stdout=subprocess.PIPE, text=True)
    if not made.exists():
        raise RuntimeError(f"{what} failed with exit code {done.returncode}; its own words are above")
