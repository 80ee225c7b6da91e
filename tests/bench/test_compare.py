"""What counts as slower than another commit."""

import csv
import io
import shutil
import subprocess
from pathlib import Path

import pytest

from intraformer_fast.bench import compare, results
from intraformer_fast.bench.results import Row


def row(candidate, median, spread=0.01, case="a", role=None):
    role = role or ("ours" if candidate == "ours" else "baseline")
    low, high = median * (1 - spread), median * (1 + spread)
    return Row("op", case, candidate, role, 1, 1, "passed", median=median, p25=low, p75=high, min=low, rounds=5)


def lines(rows):
    """As another run's results.csv has them."""
    stamp = results.Stamp("", "cpu", "", 1, 1, "", "", False, "", "", "", "", 0)
    return list(csv.DictReader(io.StringIO(results.to_csv(stamp, rows))))


@pytest.mark.parametrize(
    ("ours", "eager", "spread", "ratio", "regression"),
    [
        (1.0, 2.0, 0.01, 1.0, False),
        (1.04, 2.0, 0.01, 1.04, False),  # within what is allowed
        (1.2, 2.0, 0.01, 1.2, True),
        (1.2, 2.0, 0.3, 1.2, False),  # within the spread
        (1.2, 2.4, 0.01, 1.0, False),  # the machine is slower, not the code
        (1.0, 1.6, 0.01, 1.25, True),  # the machine is faster, the code is not
        (0.5, 2.0, 0.01, 0.5, False),
    ],
)
def test_times_are_compared_over_those_of_eager(ours, eager, spread, ratio, regression):
    before = lines([row("ours", 1.0, spread), row("eager", 2.0), row("compiled", 9.0)])
    (change,) = compare.changes(before, [row("ours", ours, spread), row("eager", eager), row("compiled", 1.0)])
    assert change.ratio == pytest.approx(ratio)
    assert change.regression == regression
    assert ("REGRESSION" in compare.text("v1", [change])) == regression


def test_cases_of_one_commit_alone_are_left_out():
    untimed = Row("op", "a", "ours", "ours", 1, 1, "FAILED")
    before = lines([untimed, row("eager", 2.0), row("ours", 1.0, case="old")])
    assert compare.changes(before, [row("ours", 1.0), row("eager", 2.0), row("ours", 1.0, case="new")]) == []
    assert compare.text("v1", []) == "no case was timed both here and at v1"


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """What stands for the clone: the tests may be those of an installed wheel."""
    (tmp_path / "setup.py").touch()
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    return tmp_path


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_a_commit_that_is_not_there_is_refused_before_anything_runs(clone):
    subprocess.run(["git", "init", "--quiet", clone], check=True)
    with pytest.raises(ValueError, match=r"compare = 'no-such-commit': expected a commit of the clone .* has none"):
        compare.run_revision("no-such-commit", [], say=pytest.fail)


def test_a_folder_that_is_no_clone_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "ROOT", tmp_path)
    with pytest.raises(ValueError, match="is no such clone"):
        compare.run_revision("HEAD", [], say=pytest.fail)


def test_that_git_is_not_installed_is_said(clone, monkeypatch):
    """In a sentence of our own."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="needs git, which is not on PATH"):
        compare.run_revision("HEAD", [], say=pytest.fail)


@pytest.mark.parametrize("exit_code", [0, 1])  # 1: a baseline computed wrongly, and what was timed is there
def test_the_other_commit_is_built_and_run_apart(clone, exit_code, monkeypatch):
    ran = []

    def run(command, **options):
        ran.append((command, options))
        if "bench" in command:
            folder = Path(command[command.index("--output") + 1])
            folder.mkdir()
            (folder / "results.csv").write_text("benchmark,case,candidate,median\nop,a,ours,1.0\n")
            return subprocess.CompletedProcess(command, exit_code)
        if "pip" in command:
            Path(command[-2]).mkdir()
        return subprocess.CompletedProcess(command, 0, stdout="0123abc\n")

    monkeypatch.setattr(compare.subprocess, "run", run)
    found = compare.run_revision("v1", ["purity_fmi", "--quick"], say=lambda line: None)
    assert found == [{"benchmark": "op", "case": "a", "candidate": "ours", "median": "1.0"}]
    (install, _), (bench, options) = [entry for entry in ran if entry[0][0] != "git"]
    assert install[-1] == f"git+file://{clone}@0123abc"
    assert options["env"]["PYTHONPATH"].split(":")[0] == install[-2]
    assert bench[-4:-2] == ["purity_fmi", "--quick"]


def test_a_commit_that_cannot_be_built_is_said(clone, monkeypatch):
    monkeypatch.setattr(
        compare.subprocess,
        "run",
        lambda command, **_: subprocess.CompletedProcess(command, int("pip" in command), stdout="0123abc"),
    )
    with pytest.raises(RuntimeError, match="building v1 failed with exit code 1"):
        compare.run_revision("v1", [], say=lambda line: None)
